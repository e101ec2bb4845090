"""Compare samples, and the frames averaged into them, with the limits of the A/D converter and of the pixel."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["box_minimum", "compare_with_limits", "find_saturated_frames"]

_BENT = 0.97
"""Slope of a steady signal near saturation, relative to its mean slope up to there. Responses bend by some 4 %. With 1,
cosmic rays that saturate the last frames are missed if they add little to the mean, and shift rates by up to 15 times
the uncertainty. With 0.96, twice as many groups without a cosmic ray are flagged as with 0.97
(``ci/saturation.py``)."""


@kernel
def compare_with_limits(
    sci: np.ndarray, threshold: np.ndarray, saturated: np.uint8, floor: np.uint8
) -> np.ndarray:  # pragma: no cover
    """Flag samples at or above the threshold, and samples at or below zero.

    ``sci`` (integration, group, row, column) float32; ``threshold`` (row, column) float32 is infinite where only the
    floor is tested, NaN where nothing is tested. Returns uint8 of the shape of ``sci``.
    """
    out = np.empty(sci.shape, dtype=np.uint8)
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    for i in range(n_integrations):
        for g in range(n_groups):
            for r in range(n_rows):
                for c in range(n_columns):
                    value, limit = sci[i, g, r, c], threshold[r, c]
                    high = saturated if value >= limit else np.uint8(0)
                    low = floor if (value <= 0) & (limit == limit) else np.uint8(0)
                    out[i, g, r, c] = high | low
    return out


@kernel
def find_saturated_frames(
    sci: np.ndarray,
    previous: np.ndarray,
    threshold: np.ndarray,
    bias: np.ndarray,
    mean_frame: np.ndarray,
    groups: int,
    n_frames: int,
    frames_per_group: int,
    partial: np.uint8,
) -> np.ndarray:  # pragma: no cover
    """Flag averaged groups in which a frame may have saturated, provided that the next group, if any, is saturated.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    previous : (integration, group, row, column) float32 [DN]
        The group before, NaN before the first one.
    threshold, bias : (row, column) float32 [DN]
        Signal at which saturation begins, and level without charge.
    mean_frame : (group,) float64
        Mean number of the frames of each group, counted from 1.
    groups : int
        Number of groups of an integration; a block may have only some of them.
    n_frames, frames_per_group : int
        Number of frames averaged into a group, and number of frames from one group to the next.
    partial : uint8
        The flag to set.

    Returns
    -------
    (integration, group, row, column) uint8

    Notes
    -----
    All signals are relative to the bias. A steady signal whose last frame just saturates has the mean ``X m / l``, with
    X the threshold, m the mean frame number and l the last frame number. If the signal is stronger and more frames
    saturate, the mean is not smaller. A cosmic ray that saturates at least the last frame adds ``(X - last) / n`` or
    more to the mean that is predicted from the group before. With p the signal of the group before, n the frames of a
    group and N the frames from one group to the next, the rate is b = p / (m - N) per frame. Because the response
    bends, the predicted mean is ``s = p + 0.97 b N``. The predicted last frame is ``s + b (n - 1) / 2``. The first
    group cannot be predicted. A cosmic ray that saturates one frame makes its mean ``X / n`` or more. It can be
    distinguished from a bright pixel if a steady signal of that size would not saturate the next group. In the last
    group cosmic rays are left to the jump step, because there is no later group that shows whether they saturate.
    """
    out = np.zeros(sci.shape, dtype=np.uint8)
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    half = (n_frames - 1) / 2
    for i in range(n_integrations):
        for g in range(n_groups):
            mean = mean_frame[g]
            is_first, is_last = mean < frames_per_group, mean > (groups - 1) * frames_per_group
            for r in range(n_rows):
                for c in range(n_columns):
                    level = bias[r, c]
                    value, limit = sci[i, g, r, c] - level, threshold[r, c] - level
                    if is_first:
                        is_jump = (n_frames * value >= limit) & (value * (mean + frames_per_group) < limit * mean)
                    else:
                        before = previous[i, g, r, c] - level
                        rate = before / (mean - frames_per_group)
                        expected = before + _BENT * rate * frames_per_group
                        is_jump = n_frames * (value - expected) >= limit - expected - rate * half
                    is_steady = value * (mean + half) >= limit * mean
                    out[i, g, r, c] = partial if is_steady | (is_jump & (not is_last)) else np.uint8(0)
    return out


@kernel
def box_minimum(values: np.ndarray, reach: int) -> np.ndarray:  # pragma: no cover
    """Take the minimum over the square of ``2 reach + 1`` pixels around each pixel; (image, row, column), any dtype."""
    n_images, n_rows, n_columns = values.shape
    out = np.empty_like(values)
    lowest = np.empty(n_columns, values.dtype)
    for image in range(n_images):
        for row in range(n_rows):
            for c in range(n_columns):
                lowest[c] = values[image, row, c]
            for other in range(max(row - reach, 0), min(row + reach + 1, n_rows)):
                for c in range(n_columns):
                    lowest[c] = min(lowest[c], values[image, other, c])
            for c in range(n_columns):
                out[image, row, c] = lowest[c]
            for step in range(1, reach + 1):
                for c in range(n_columns - step):
                    out[image, row, c] = min(out[image, row, c], lowest[c + step])
                for c in range(step, n_columns):
                    out[image, row, c] = min(out[image, row, c], lowest[c - step])
    return out
