"""Differences of successive groups, their sums over integrations and groups, and ramps without their noise."""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, UNUSABLE_PIXEL

__all__ = ["differences", "sums_of_squares", "template_amount", "weighted_sums", "without_noise"]

_OF_LATER = UNUSABLE_GROUP | JUMP  # a jump lies between the group that is flagged and the one before


def differences(sci: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray) -> np.ndarray:
    """Return groups less the groups before them, (..., difference, row, column) float32.

    Differences are NaN where one of the two groups cannot be used or is infinite.

    Parameters
    ----------
    sci, groupdq, pixeldq : ndarray
        (..., group, row, column) float32 and uint8, and (row, column) uint32.
    """
    found = np.empty((*sci.shape[:-3], sci.shape[-3] - 1, *sci.shape[-2:]), np.float32)
    for place in np.ndindex(sci.shape[:-3]):
        _subtract(sci[place], groupdq[place], pixeldq, _OF_LATER, UNUSABLE_GROUP, UNUSABLE_PIXEL, found[place])
    return found


@kernel
def _subtract(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    of_later: np.uint8,
    of_earlier: np.uint8,
    of_pixel: np.uint32,
    out: np.ndarray,
) -> None:  # pragma: no cover
    for g in range(out.shape[0]):
        for r in range(out.shape[1]):
            for c in range(out.shape[2]):
                lost = (groupdq[g + 1, r, c] & of_later) | (groupdq[g, r, c] & of_earlier)
                if lost != 0 or (pixeldq[r, c] & of_pixel) != 0:
                    out[g, r, c] = np.nan
                else:
                    step = sci[g + 1, r, c] - sci[g, r, c]
                    out[g, r, c] = step if np.isfinite(step) else np.nan


def weighted_sums(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    weight: np.ndarray,
    level: np.ndarray,
    over_integrations: bool,
    over_groups: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of usable differences of groups less their levels, and the sum of their weights, float64.

    Parameters
    ----------
    sci, groupdq, pixeldq : ndarray
        (integration, group, row, column) float32 and uint8, and (row, column) uint32.
    weight, level : ndarray
        (integration, difference) float32.
    over_integrations, over_groups : bool
        Whether integrations and groups are summed.

    Returns
    -------
    tuple of ndarray
        (integration, difference, row, column), with one integration or difference if these are summed.
    """
    integrations, groups = 1 if over_integrations else sci.shape[0], 1 if over_groups else sci.shape[1] - 1
    total, count = (np.zeros((integrations, groups, *sci.shape[2:])) for _ in range(2))
    for i, (of_integration, flags, share, low) in enumerate(zip(sci, groupdq, weight, level, strict=True)):
        place = min(i, integrations - 1)
        _sum(differences(of_integration, flags, pixeldq), share, low, total[place], count[place])
    return total, count


@kernel
def _sum(
    values: np.ndarray, weight: np.ndarray, level: np.ndarray, total: np.ndarray, count: np.ndarray
) -> None:  # pragma: no cover
    for g in range(values.shape[0]):
        place, share, low = min(g + 1, total.shape[0]) - 1, weight[g], level[g]
        for r in range(values.shape[1]):
            for c in range(values.shape[2]):
                if values[g, r, c] == values[g, r, c]:
                    total[place, r, c] += share * (values[g, r, c] - low)
                    count[place, r, c] += share


def sums_of_squares(
    sci: np.ndarray, groupdq: np.ndarray, pixeldq: np.ndarray, static: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of squares of usable differences less a static image, and of their weights, float64.

    Parameters
    ----------
    sci, groupdq, pixeldq : ndarray
        (integration, group, row, column) float32 and uint8, and (row, column) uint32.
    static, weight : ndarray
        (difference, row, column) and (integration, difference) float32.

    Returns
    -------
    tuple of ndarray
        (1, row, column).
    """
    square, count = (np.zeros((1, *sci.shape[2:])) for _ in range(2))
    for of_integration, flags, share in zip(sci, groupdq, weight, strict=True):
        _sum_squares(differences(of_integration, flags, pixeldq), static, share, square[0], count[0])
    return square, count


@kernel
def _sum_squares(
    values: np.ndarray, static: np.ndarray, weight: np.ndarray, square: np.ndarray, count: np.ndarray
) -> None:  # pragma: no cover
    for g in range(values.shape[0]):
        share = np.float64(weight[g])
        for r in range(values.shape[1]):
            for c in range(values.shape[2]):
                rest = np.float64(values[g, r, c] - static[g, r, c])
                if rest == rest:
                    square[r, c] += share * rest * rest
                    count[r, c] += share


@kernel
def template_amount(
    frame: np.ndarray, noise: np.ndarray, weight: np.ndarray, template: np.ndarray, response: np.ndarray
) -> float:  # pragma: no cover
    """Return the amount of a template in a frame, by generalized least squares.

    All images are (row, column) float32. ``noise`` is what is taken for noise in the frame, and ``response`` what is
    taken for noise in the template.
    """
    amount = norm = 0.0
    for r in range(frame.shape[0]):
        for c in range(frame.shape[1]):
            if frame[r, c] == frame[r, c] and weight[r, c] > 0:
                share = weight[r, c] * template[r, c]
                amount += share * (frame[r, c] - noise[r, c])
                norm += share * (template[r, c] - response[r, c])
    return amount / norm if norm > 0 else 0.0


def without_noise(sci: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return ramps without the noise of their differences, (integration, group, row, column) float32.

    Parameters
    ----------
    sci, noise : ndarray
        (integration, group, row, column) and (integration, difference, row, column) float32.
    """
    found = np.empty_like(sci)
    _subtract_sums(sci, noise, found)
    return found


@kernel
def _subtract_sums(sci: np.ndarray, noise: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    n = sci.shape[3]
    total = np.empty(n, np.float32)
    for i in range(sci.shape[0]):
        for r in range(sci.shape[2]):
            total[:] = 0
            for g in range(sci.shape[1]):
                if g > 0:
                    for c in range(n):
                        total[c] += noise[i, g - 1, r, c]
                for c in range(n):
                    out[i, g, r, c] = sci[i, g, r, c] - total[c]
