"""How well frames can be used: their noise, their level, and the pixels that they have."""

import numpy as np

from nsxr.kernels.ramps.robust_mean import noise_of_pixels
from nsxr.kernels.ramps.slope_weights import slope_weights, variance_of_mean

__all__ = ["frame_quality", "numbers_of_means"]

_COLUMNS = 4  # columns between those in which the level of a frame is measured
_LOST = 0.1  # frames with less than this share of the pixels that others have are lost
_FAR = 7.5  # levels that deviate by more median deviations of levels are far off
_TURNED = 0.1  # the tilt of such a frame differs by less than this part of its level, else part of the frame is higher
_QUARTILE, _TENTH = 0.6745, 1.2816  # standard deviations from the lowest quarter and tenth of a normal distribution


def frame_quality(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers of frames, (integration, group) float32: precision, level, tilt, and share of pixels with values.

    The precision is the inverse variance of the noise of pixels. A frame without noise, whose values are all the same,
    gets almost none. The level is that of the dark, from the lower quartile, in which light hardly matters; 0 without
    values. The tilt is the median less the lowest tenth. If all pixels of a frame are higher, the tilt does not change.
    """
    precision, level, tilt, covered = (np.full(values.shape[:2], start, np.float32) for start in (1e-6, 0, 0, 0))
    for index in np.ndindex(values.shape[:2]):
        frame = values[index]
        scatter = noise_of_pixels(frame)
        if scatter > 0:
            precision[index] = 1 / scatter**2
        some = frame[:, ::_COLUMNS]
        known = some[np.isfinite(some)]
        covered[index] = known.size / some.size
        if known.size:
            places = known.size // 10, known.size // 4, known.size // 2
            tenth, quartile, median = np.partition(known, places)[list(places)]
            level[index] = quartile + _QUARTILE * scatter
            tilt[index] = median - (tenth + _TENTH * scatter)
    return precision, level, tilt, covered


def numbers_of_means(
    covered: np.ndarray, level: np.ndarray, tilt: np.ndarray, precision: np.ndarray, *, is_series: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers of the means of frames, from numbers (integration, group) of the frames.

    They are the variance of the noise of the mean of each integration, or of all integrations of a time series, over
    that of a frame, (mean,) float64; the number of usable integrations, () float64; by how much the level of a frame is
    far from that of the others, else 0, (integration, group) float32; and the mean level of the frames that are not far
    off, (group,) float32 and, over all groups, () float32.
    """
    usable = covered > _LOST * covered.max()
    number = np.maximum(usable.sum(0), 1)
    distance, turn = _from_middle(level, usable), _from_middle(tilt, usable)
    is_far = (distance > _FAR * np.nanmedian(distance, axis=0)) & (turn < _TURNED * distance)  # False where NaN
    weights = np.where(usable & ~is_far, precision, 0).astype(np.float64)
    along = slope_weights(level.shape[1])
    total = np.maximum(weights.sum(0), 1e-30)
    usual = (weights * level).sum(0) / total
    of_all = (along * weights * level).sum() / max((along * weights).sum(), 1e-30)
    apart = np.where(is_far, level - usual, 0).astype(np.float32)
    shared = variance_of_mean(usable, is_series)
    return shared, np.asarray(number.mean()), apart, usual.astype(np.float32), np.asarray(np.float32(of_all))


def _from_middle(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the distances of usable values from the middle one of all integrations, (integration, group), else NaN."""
    known = np.where(usable | ~usable.any(0), values, np.nan)  # groups that no integration has are 0 everywhere
    found: np.ndarray = np.abs(known - np.nanmedian(known, axis=0))
    return found
