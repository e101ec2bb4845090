"""The mean of a few images of the same scene, of which one may be bad."""

import numpy as np
from scipy import ndimage

from nsxr.kernels.ramps.dark_pixels import dark_level

__all__ = ["noise_of_pixels", "robust_mean"]

_FAR = 5.0
"""Values that differ from the middle one by more are left out [standard deviations of the noise of a pixel]."""

_WINDOW = (5, 9)
"""Rows and columns whose mean must not differ by more either, which shows faint light of one image."""

_NOISY = 2.0
"""Images with this many times the noise of the middle one are left out; if two do not agree, the noisier one."""


def noise_of_pixels(image: np.ndarray) -> float:
    """Return the standard deviation of the noise of pixels, 0 where all values are the same or none is known.

    It is measured from the median difference of neighbours along the dispersion, in which light hardly matters.
    """
    steps = np.abs(np.diff(image, axis=1))
    steps = steps[np.isfinite(steps)]
    return 1.05 * float(np.median(steps)) if steps.size else 0.0


def robust_mean(images: np.ndarray) -> np.ndarray:
    """Return the mean of images, weighted by the inverse variance of their noise, without values that are far off.

    Images lose their dark levels first, and the mean gets the middle one of these levels. In each pixel, values far
    from the middle one are left out, and so are values around which the mean of a window is far from it. Where none is
    left, the middle value is taken. Of an even number of values, the middle one is that of the two in the middle that
    is closer to the dark level. So of two values that do not agree, the darker one is kept.

    Parameters
    ----------
    images : ndarray
        (image, row, column) float32, NaN where a pixel cannot be used.

    Returns
    -------
    ndarray
        (row, column) float32, NaN where no image has a value. A single image is returned as it is.
    """
    if len(images) == 1:
        found: np.ndarray = images[0]
        return found
    levels = np.array([dark_level(image)[0] for image in images])
    noise = np.array([noise_of_pixels(image) for image in images])
    seen = np.isfinite(levels) & (noise > 0)
    if not seen.any():
        return np.full(images.shape[1:], np.nan, np.float32)
    usual = np.sort(noise[seen])[(seen.sum() - 1) // 2]
    seen &= noise <= _NOISY * usual
    flat = images[seen] - levels[seen].astype(np.float32)[:, None, None]
    noise, limit = noise[seen], np.float32(_FAR * usual)
    middle = _middle(flat)
    total, count = (np.zeros(images.shape[1:], np.float32) for _ in range(2))
    for image, weight in zip(flat, (noise.min() / noise) ** 2, strict=True):
        apart = image - middle
        near = np.abs(apart) <= limit  # False where there is no value
        smooth = ndimage.uniform_filter(np.where(near, apart, np.float32(0)), _WINDOW, mode="nearest")
        near &= np.abs(smooth) <= limit / np.float32(np.prod(_WINDOW) ** 0.5)
        total += np.where(near, np.float32(weight) * image, np.float32(0))
        count += np.float32(weight) * near
    mean = np.where(count > 0, total / np.where(count > 0, count, np.float32(1)), middle)
    return mean + np.float32(_middle(levels[seen]))


def _middle(values: np.ndarray) -> np.ndarray:
    """Return the middle of the known values along the first axis; of two, the one closer to zero. NaN without any."""
    ordered = np.sort(values, axis=0)
    number = np.isfinite(ordered).sum(0, keepdims=True)
    lower, upper = (
        np.take_along_axis(ordered, np.maximum(place, 0), axis=0)[0] for place in ((number - 1) // 2, number // 2)
    )
    found: np.ndarray = np.where(np.abs(lower) <= np.abs(upper), lower, upper)
    return found
