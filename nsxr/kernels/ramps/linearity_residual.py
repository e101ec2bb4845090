"""Slopes of the early and the late half of ramps, and their sums by signal."""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, UNUSABLE_GROUP

__all__ = ["KINDS", "SUMS", "compare_with_neighbours", "half_slopes", "sums_by_signal"]

KINDS = ("all", "brighter", "fainter")
"""Kinds of pixels: all pixels, and pixels that are brighter or fainter than their neighbours."""

SUMS = 4
"""Sums: the number of pixels; late slope less early slope; its square; and the mean of both slopes."""

_LEAST = 2  # least number of differences in each half


@kernel
def half_slopes(sci: np.ndarray, groupdq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Return the mean difference of the early and of the late half of the usable differences.

    ``sci`` (integration, group, row, column) float32 and ``groupdq`` uint8. Differences that touch a DO_NOT_USE or
    SATURATED group or lead to JUMP_DET are not usable. Returns (integration, row, column) float32 twice, NaN with fewer
    than two differences in a half. If the number of differences is odd, the middle one is in neither half.
    """
    integrations, groups, rows, columns = sci.shape
    early = np.full((integrations, rows, columns), np.nan, np.float32)
    late = np.full((integrations, rows, columns), np.nan, np.float32)
    steps = np.empty(groups)
    for i in range(integrations):
        for r in range(rows):
            for c in range(columns):
                n = 0
                for g in range(1, groups):
                    step = sci[i, g, r, c] - sci[i, g - 1, r, c]
                    is_touched = ((groupdq[i, g, r, c] | groupdq[i, g - 1, r, c]) & UNUSABLE_GROUP) != 0
                    if not is_touched and (groupdq[i, g, r, c] & JUMP) == 0 and step == step:
                        steps[n] = step
                        n += 1
                half = n // 2
                if half >= _LEAST:
                    early[i, r, c] = steps[:half].mean()
                    late[i, r, c] = steps[n - half : n].mean()
    return early, late


def compare_with_neighbours(mean: np.ndarray) -> np.ndarray:
    """Return the ratio of pixels to the mean of their four neighbours, NaN at edges; (integration, row, column)."""
    padded = np.pad(mean, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = (4 * mean / around).astype(np.float32)
    return ratio


def sums_by_signal(
    early: np.ndarray,
    late: np.ndarray,
    contrast: np.ndarray,
    *,
    output: np.ndarray,
    n_outputs: int,
    edges: np.ndarray,
    differences: int,
    least_contrast: float,
) -> np.ndarray:
    """Sum slopes by amplifier, kind of pixel and signal at the end of the ramp.

    Parameters
    ----------
    early, late, contrast : (integration, row, column) float32
        From the functions above.
    output : (row,) int
        Zero-based amplifier of each row.
    n_outputs : int
    edges : (bin + 1,) float64
        Edges of the bins of signal [DN].
    differences : int
        Number of differences, by which slopes are multiplied to get the signal.
    least_contrast : float
        By which part a pixel has to be brighter or fainter than its neighbours to count as the second kind.

    Returns
    -------
    (1, output, kind, bin, SUMS) float64
    """
    mean = (early.astype(np.float64) + late) / 2
    signal = mean * differences
    number = np.digitize(signal, edges) - 1
    bins = len(edges) - 1
    is_counted = np.isfinite(mean) & (number >= 0) & (number < bins)
    kinds = is_counted, is_counted & (contrast > 1 + least_contrast), is_counted & (contrast < 1 - least_contrast)
    difference = late.astype(np.float64) - early
    place = output[None, :, None] * bins + number
    out = np.zeros((1, n_outputs, len(KINDS), bins, SUMS))
    for kind, chosen in enumerate(kinds):
        where = place[chosen]
        for column, values in enumerate((None, difference[chosen], difference[chosen] ** 2, mean[chosen])):
            out[0, :, kind, :, column] = np.bincount(where, values, n_outputs * bins).reshape(n_outputs, bins)
    return out
