"""Estimate missing pixels from their neighbours; NumPy on blocks of images."""

import numpy as np

__all__ = ["fit_profile", "smallest_gradient"]

_LOWEST_SNR = 5.0


def smallest_gradient(sci: np.ndarray, missing: np.ndarray, *variances: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return for each pixel the mean of its left and right, or upper and lower, neighbours: the pair that differs less.

    Parameters
    ----------
    sci : (..., row, column) float32
        Images.
    missing : (..., row, column) bool
        Pixels that are not used as neighbours.
    *variances : (..., row, column) float32
        Any number of variances. The square roots of variances are averaged.

    Returns
    -------
    estimate, variances : (..., row, column) float32
        NaN in the two first and the last rows and columns, and where a pixel is missing in both pairs.
    """
    values = np.where(missing, np.nan, sci)
    results = tuple(np.full(sci.shape, np.nan, dtype=sci.dtype) for _ in range(1 + len(variances)))
    if min(sci.shape[-2:]) < 4:
        return results
    left, right, down, up = _neighbours(values)
    along, across = np.abs(left - right), np.abs(down - up)
    is_along = ~(across < along) & np.isfinite(along)
    with np.errstate(invalid="ignore", over="ignore"):
        for number, array in enumerate((values, *variances)):
            left, right, down, up = _neighbours(np.sqrt(array) if number else array)
            mean = np.where(is_along, left + right, down + up) / 2
            known = is_along | np.isfinite(across)
            results[number][..., 2:-1, 2:-1] = np.where(known, mean**2 if number else mean, np.nan)
    return results


def _neighbours(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the left, right, lower and upper neighbours of all pixels except those at the edges."""
    return image[..., 2:-1, 1:-2], image[..., 2:-1, 3:], image[..., 1:-2, 2:-1], image[..., 3:, 2:-1]


def fit_profile(
    sci: np.ndarray, missing: np.ndarray, *variances: np.ndarray, n_adjacent_cols: int
) -> tuple[np.ndarray, ...]:
    """Return for each pixel the median profile of the adjacent columns, scaled to the column of the pixel.

    Columns are first divided by their largest absolute value, if a pixel of any adjacent column has a signal-to-noise
    ratio of 5. The scale minimises the mean square difference of absolute values. The scale is 1 if columns were not
    divided.

    Parameters
    ----------
    sci, missing, *variances
        As in :func:`smallest_gradient`.
    n_adjacent_cols : int
        Columns on each side.

    Returns
    -------
    estimate, variances : (..., row, column) float32
        NaN where the adjacent columns have no good pixel in the row, or the column itself has no good pixel.
    """
    results = tuple(np.full(sci.shape, np.nan, dtype=sci.dtype) for _ in range(1 + len(variances)))
    for image in np.ndindex(sci.shape[:-2]):
        gone = missing[image]
        columns = np.flatnonzero(gone.any(axis=0) & ~gone.all(axis=0))
        values = np.where(gone, np.nan, sci[image]).astype(np.float64)
        around = columns[:, None] + np.r_[-n_adjacent_cols:0, 1 : n_adjacent_cols + 1]  # (column, neighbour)
        inside = (around >= 0) & (around < sci.shape[-1])
        around = np.where(inside, around, 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            errors = [np.where(gone, np.nan, np.sqrt(variance[image], dtype=np.float64)) for variance in variances]
            snr = np.abs(values) / np.sqrt(sum((error**2 for error in errors), np.zeros(values.shape)))
            is_signal = np.where(inside, _largest(snr)[around], 0).max(axis=1) >= _LOWEST_SNR
            unit = np.where(is_signal[:, None], _largest(np.abs(values))[around], 1.0)
            scale = np.where(inside, unit, np.nan)
            profile = _median(values[:, around] / scale)
            here = values[:, columns]
            peak = np.where(np.isnan(here), -np.inf, here).max(axis=0)
            both = ~np.isnan(here) & ~np.isnan(profile)
            numerator = np.where(both, np.abs(here / peak * profile), 0).sum(axis=0)
            denominator = np.where(both, profile**2, 0).sum(axis=0)
            size = np.where(is_signal, peak * numerator / denominator, 1.0)
            results[0][image][:, columns] = profile * size
            for result, error in zip(results[1:], errors, strict=True):
                result[image][:, columns] = (_median(error[:, around] / scale) * size) ** 2
    return results


def _largest(image: np.ndarray) -> np.ndarray:
    """Return the largest value of each column, 0 where there is none."""
    largest: np.ndarray = np.where(np.isnan(image), 0, image).max(axis=0)
    return largest


def _median(values: np.ndarray) -> np.ndarray:
    """Return the median along the last axis without NaN; NaN where there are no values."""
    ordered = np.sort(values, axis=-1)  # sorting puts NaN last; nanmedian would warn
    number = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    low, high = np.maximum(number - 1, 0) // 2, number // 2
    high = np.minimum(high, ordered.shape[-1] - 1)
    pair = np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)
    median: np.ndarray = pair[..., 0] / 2
    return median
