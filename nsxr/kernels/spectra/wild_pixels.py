"""Find bad pixels from their neighbours before anything is fitted: real light covers several adjacent pixels.

Images are (exposure, y, x) float64.
"""

import numpy as np

__all__ = ["columns_with_lines", "wild_pixels", "wild_variances"]

_BIN = 32
"""Number of columns around a pixel for the median level of its row; number of columns with one common scatter."""
_CONTRAST = 32.0
"""Largest ratio of a pixel to its fourth brightest neighbour; light has 25 for a FWHM of 1.2 pixels, 5 for 1.8."""
_THRESHOLD = 10.0  # additional limit, in deviations of the scatter in the row
_BRIGHTER = 2.5  # excess of the pixels of a patch over their rows, in deviations
_RATIO = 100.0  # largest ratio of a variance to the variances around
_PASSES = 3
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def wild_pixels(images: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return which pixels differ from the level of their row while no pixel around them does (exposure, y, x), bool.

    Variances are not used, because the variance of a pixel with a cosmic ray includes the photon noise of the cosmic
    ray. Emission lines, other sources and steep flanks cover several pixels in both directions. Streaks and cosmic rays
    of up to two by two pixels do not.

    Parameters
    ----------
    images : (exposure, y, x) ndarray
        Signal; any value where a pixel is not used.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    """
    level, scatter = _rows(images, is_used)
    deviation = np.abs(np.where(is_used, images, 0.0) - level)
    good = is_used
    for _ in range(_PASSES):
        around = _fourth_of_neighbours(np.where(good, deviation, -1.0))
        alone = good & (deviation > _CONTRAST * around + _THRESHOLD * scatter)
        if not alone.any():
            break
        good = good & ~alone
    return np.asarray(is_used & ~good)


def wild_variances(var_poisson: np.ndarray, var_rnoise: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return which pixels have a hundred times the variance around, or no read noise (exposure, y, x), bool.

    Pixels with such a variance have almost no weight. A pixel without read noise would have too much.

    Parameters
    ----------
    var_poisson, var_rnoise : (exposure, y, x) ndarray
        Variances.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used.
    """
    total, read = (np.where(is_used, array, 0.0) for array in (var_poisson + var_rnoise, var_rnoise))
    around = _fourth_of_neighbours(np.where(is_used, total, -1.0))
    typical = float(np.median(read[is_used])) if is_used.any() else 0.0
    return np.asarray(is_used & ((total > _RATIO * around) & (around > 0) | (read < typical / 1e6)))


def columns_with_lines(images: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return the columns with patches of pixels that are brighter than their rows around (exposure, x), bool.

    Patches are pixels with at least four bright neighbours. Emission lines make patches, cosmic rays do not. The two
    columns to each side of a patch belong to it.

    Parameters
    ----------
    images : (exposure, y, x) ndarray
        Signal; any value where a pixel is not used.
    is_used : (exposure, y, x) ndarray of bool
        Pixels that can be used, of the source.
    """
    level, scatter = _rows(images, is_used)
    pull = np.where(is_used & (scatter > 0), (images - level) / np.where(scatter > 0, scatter, 1.0), 0.0)
    pull = np.where(is_used, np.maximum(pull, 0.0), -1.0)
    found = np.pad((np.minimum(_fourth_of_neighbours(pull), pull) > _BRIGHTER).any(1), ((0, 0), (2, 2)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(found, 5, axis=1).any(2))


def _rows(images: np.ndarray, is_used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the row around each pixel, and the scatter between columns in its bin."""
    n, n_rows, n_columns = images.shape
    values = np.where(is_used, images, np.nan)
    half, n_bins = _BIN // 2, -(-n_columns // _BIN)
    nothing = [(0, 0), (0, 0)]
    padded = np.pad(values, [*nothing, (half, half)], constant_values=np.nan)
    level = _median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=2))
    padded = np.pad(values, [*nothing, (0, n_bins * _BIN - n_columns)], constant_values=np.nan)
    scatter = _median(np.abs(np.diff(padded.reshape(n, n_rows, n_bins, _BIN), axis=3))) / (0.6745 * np.sqrt(2))
    return level, np.repeat(scatter, _BIN, axis=2)[:, :, :n_columns]


def _median(values: np.ndarray) -> np.ndarray:
    """Return the lower median of the finite values along the last axis, 0 where there are none."""
    ordered = np.sort(values, axis=-1)  # sorting puts NaN last
    count = np.isfinite(ordered).sum(-1)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[..., None] // 2, axis=-1)[..., 0]
    return np.asarray(np.where(count > 0, middle, 0.0))


def _fourth_of_neighbours(deviation: np.ndarray) -> np.ndarray:
    """Return the fourth largest of the eight pixels around; an earlier one if some are missing, which are negative."""
    n_rows, n_columns = deviation.shape[1:]
    padded = np.pad(deviation, ((0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    around = np.stack([padded[:, 1 + dy : 1 + dy + n_rows, 1 + dx : 1 + dx + n_columns] for dy, dx in _NEIGHBOURS])
    falling = -np.sort(-around, axis=0)
    rank = np.minimum((around >= 0).sum(0) // 2, 3)
    return np.asarray(np.maximum(np.take_along_axis(falling, rank[None], axis=0)[0], 0.0))
