"""Differences of groups in units of their noise, and their distribution in rings around a position."""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, UNUSABLE_GROUP

__all__ = ["STEPS_PER_SIGMA", "fill_disc", "ring_histograms", "scaled_differences"]

STEPS_PER_SIGMA = 16
"""Steps of a scaled difference per sigma: one byte for each difference, up to 7.9 sigma."""

_NONE = np.int8(-128)


@kernel
def scaled_differences(
    sci: np.ndarray, groupdq: np.ndarray, gain: np.ndarray, readnoise: np.ndarray, n_frames: int
) -> np.ndarray:  # pragma: no cover
    """Return by how many standard deviations each difference of groups is above the other differences of the pixel.

    Each value is the mean of a pair of columns. This halves the memory that is held until the whole frame is there.

    Parameters
    ----------
    sci : (integration, group, row, column) float32
        [DN].
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group are left out. Differences that lead to JUMP_DET do not
        count as ordinary.
    gain, readnoise : (row, column) float32
        [electron/DN]; noise of a difference of two single frames [DN].
    n_frames : int
        Frames per group.

    Returns
    -------
    (integration, group, row, pair) int8
        Differences in units of sigma / ``STEPS_PER_SIGMA``, clipped, at the later of the two groups; -128 if there is
        none. If the number of columns is odd, the last column is a pair by itself.
    """
    integrations, groups, rows, columns = sci.shape
    pairs = (columns + 1) // 2
    out = np.empty((integrations, groups, rows, pairs), np.int8)
    line = np.empty(2 * pairs, np.float32)
    line[-1] = np.nan
    total, count = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for i in range(integrations):
        for r in range(rows):
            total[:] = 0
            count[:] = 0
            for g in range(1, groups):
                for c in range(columns):
                    is_ordinary = ((groupdq[i, g, r, c] | groupdq[i, g - 1, r, c]) & UNUSABLE_GROUP) == 0
                    is_ordinary &= (groupdq[i, g, r, c] & JUMP) == 0
                    step = sci[i, g, r, c] - sci[i, g - 1, r, c]
                    total[c] += step if is_ordinary else np.float32(0)
                    count[c] += np.float32(1) if is_ordinary else np.float32(0)
            for p in range(pairs):
                out[i, 0, r, p] = _NONE
            for g in range(1, groups):
                for c in range(columns):
                    is_usable = ((groupdq[i, g, r, c] | groupdq[i, g - 1, r, c]) & UNUSABLE_GROUP) == 0
                    is_counted = is_usable & ((groupdq[i, g, r, c] & JUMP) == 0)
                    step = sci[i, g, r, c] - sci[i, g - 1, r, c]
                    n = count[c] - (np.float32(1) if is_counted else np.float32(0))
                    others = (total[c] - (step if is_counted else np.float32(0))) / n
                    noise = np.sqrt(readnoise[r, c] ** 2 / n_frames + max(others, np.float32(0)) / gain[r, c])
                    scaled = np.float32(STEPS_PER_SIGMA) * (step - others) / noise
                    line[c] = min(max(scaled, np.float32(-127)), np.float32(127)) if is_usable else np.float32(np.nan)
                for p in range(pairs):
                    first, second = line[2 * p], line[2 * p + 1]
                    mean = (first + second) / 2
                    mean = mean if mean == mean else (first if first == first else second)
                    out[i, g, r, p] = np.int8(np.rint(mean)) if mean == mean else _NONE
    return out


@kernel
def ring_histograms(
    plane: np.ndarray, flags: np.ndarray, row: float, column: float, rings: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Count scaled differences in rings of one pixel width around a position, which may be outside the image.

    Parameters
    ----------
    plane : (row, pair) int8
        From :func:`scaled_differences`.
    flags : (row, column) uint8
        ``groupdq`` of the same group.
    row, column : float
        Position, in pixels.
    rings : int
        Number of rings.

    Returns
    -------
    histogram : (ring, 256) int32
        Number of pairs by difference, the lowest, -128, first. Pairs with a pixel that is DO_NOT_USE or SATURATED do
        not count.
    pixels, jumps : (ring,) int32
        Number of pixels that count, and of those that have JUMP_DET.
    """
    histogram = np.zeros((rings, 256), np.int32)
    pixels, jumps = np.zeros(rings, np.int32), np.zeros(rings, np.int32)
    rows, columns = flags.shape
    for r in range(max(int(row) - rings, 0), min(int(row) + rings + 2, rows)):
        for p in range(max(int(column) - rings, 0) // 2, min(int(column) + rings + 4, columns + 1) // 2):
            last = min(2 * p + 1, columns - 1)
            is_usable = True
            for c in range(2 * p, last + 1):
                ring = int(np.sqrt((r - row) ** 2 + (c - column) ** 2))
                if (flags[r, c] & UNUSABLE_GROUP) != 0:
                    is_usable = False
                elif ring < rings:
                    pixels[ring] += 1
                    jumps[ring] += (flags[r, c] & JUMP) != 0
            ring = int(np.sqrt((r - row) ** 2 + ((2 * p + last) / 2 - column) ** 2))
            if ring < rings and is_usable and plane[r, p] != _NONE:
                histogram[ring, int(plane[r, p]) + 128] += 1
    return histogram, pixels, jumps


@kernel
def fill_disc(
    plane: np.ndarray, flag: np.uint8, blocked: np.uint8, row: float, column: float, radius: float
) -> int:  # pragma: no cover
    """Set a flag within ``radius`` of a position, in place, where there is no ``blocked`` bit; return how often."""
    rows, columns = plane.shape
    n = 0
    for r in range(max(int(row - radius), 0), min(int(row + radius) + 2, rows)):
        for c in range(max(int(column - radius), 0), min(int(column + radius) + 2, columns)):
            if (r - row) ** 2 + (c - column) ** 2 < radius**2 and (plane[r, c] & blocked) == 0:
                plane[r, c] |= flag
                n += 1
    return n
