"""Variances of sums of pixels whose noise is correlated along the order of reading."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["PlacesInTime", "SharedNoise", "shared_in_columns", "shared_in_image"]

_LEAST = 0.1
"""Least variance of a sum, over that of the same sum of independent pixels. Negative covariances are never exact."""


_FARTHEST = 1000  # largest lag that a table may have


class PlacesInTime(NamedTuple):
    """Tell when the pixels of an image are read.

    Attributes
    ----------
    amplifier, slot : (row,) int64
        The amplifier that reads a row, and the slot of its line in which it does so.
    line : (column,) int64
        Line of each column; its order is that of the columns.
    is_reversed : bool
        Whether the last line is read first.
    """

    amplifier: np.ndarray
    slot: np.ndarray
    line: np.ndarray
    is_reversed: bool


class SharedNoise(NamedTuple):
    """Hold what pixels of an image share.

    Attributes
    ----------
    used : (row, column) uint8
        ``noise_used`` of a product.
    table : (lag, kind) float32
        ``noise_correlation`` of a product.
    places : PlacesInTime
        When the pixels are read.
    """

    used: np.ndarray
    table: np.ndarray
    places: PlacesInTime


def shared_in_columns(weights: np.ndarray, variance: np.ndarray, shared: SharedNoise) -> np.ndarray:
    """Return what covariances add to the variance of the weighted sum of each column, (column,) float64.

    Parameters
    ----------
    weights, variance : ndarray
        (row, column) float64, weights of pixels and their variances by read noise.
    shared : SharedNoise
        What the pixels share.
    """
    found = _pairs(weights, variance, shared, 1)[0]
    alone = _alone(weights, variance).sum(0)
    return np.asarray(np.maximum(found, (_LEAST - 1) * alone))


def shared_in_image(weights: np.ndarray, variance: np.ndarray, shared: SharedNoise) -> float:
    """Return what covariances add to the variance of a weighted sum of all pixels, see :func:`shared_in_columns`."""
    found = float(_pairs(weights, variance, shared).sum())
    return max(found, (_LEAST - 1) * float(_alone(weights, variance).sum()))


def _alone(weights: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(weights != 0, weights**2 * variance, 0.0))


def _pairs(weights: np.ndarray, variance: np.ndarray, shared: SharedNoise, most_lines: int | None = None) -> np.ndarray:
    """Return twice the sums of the covariances of pairs of pixels, by lag in lines and by column of the first pixel."""
    table, places = _by_lag(shared.table), shared.places
    table = table[:, :most_lines]
    table = table[..., ::-1] if places.is_reversed else table
    amplitude = np.where(weights != 0, weights * np.sqrt(np.maximum(variance, 0.0)), 0.0)
    out = np.zeros((table.shape[1], weights.shape[1]))
    _add_pairs(
        np.ascontiguousarray(amplitude.T),
        np.ascontiguousarray(shared.used.T != 0),
        places.amplifier,
        places.slot,
        places.line,
        np.ascontiguousarray(table),
        out,
    )
    return out


def _by_lag(table: np.ndarray) -> np.ndarray:
    """Return correlations by kind (not used, mixed, used), lines, and slots from the most negative to the largest."""
    table = table[(table[:, 0] >= 0) & (table[:, 0] <= _FARTHEST) & (np.abs(table[:, 1]) <= _FARTHEST)]
    lines, slots = (table[:, k].astype(np.int64) for k in (0, 1))
    most = int(np.abs(slots).max(initial=0))
    found = np.zeros((3, int(lines.max(initial=0)) + 1, 2 * most + 1))
    found[:, lines, most + slots] = table[:, [3, 4, 2]].T
    found[:, 0, :most] = found[:, 0, :most:-1]
    return found


@kernel
def _add_pairs(
    amplitude: np.ndarray,
    used: np.ndarray,
    amplifier: np.ndarray,
    slot: np.ndarray,
    line: np.ndarray,
    table: np.ndarray,
    out: np.ndarray,
) -> None:  # pragma: no cover
    n_columns, n_rows = amplitude.shape
    lines, most = table.shape[1], table.shape[2] // 2
    for x in range(n_columns):
        for other in range(x, n_columns):
            lag = line[other] - line[x]
            if lag >= lines:
                break
            total = 0.0
            for y in range(n_rows):
                if amplitude[x, y] == 0.0:
                    continue
                own = 1 if used[x, y] else 0
                first = y + 1 if other == x else max(0, y - most)
                found = 0.0
                for z in range(first, min(n_rows, y + most + 1)):
                    apart = slot[z] - slot[y]
                    if amplifier[z] == amplifier[y] and -most <= apart <= most:
                        kind = own + 1 if used[other, z] else own
                        found += amplitude[other, z] * table[kind, lag, most + apart]
                total += amplitude[x, y] * found
            out[lag, x] += 2.0 * total
