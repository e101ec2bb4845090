"""Medians, and the scatter that belongs to them."""

import numpy as np

__all__ = ["median_and_scatter", "median_of_finite"]

_NORMAL = 1.4826  # standard deviation of normal noise over its median absolute deviation


def median_of_finite(values: np.ndarray) -> np.ndarray:
    """Return the median of the finite values along the first axis, NaN where there are none."""
    ordered = np.sort(values, axis=0)  # NaN goes last
    count = np.isfinite(values).sum(0)
    ranks = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[0] - 1)
    low, high = (np.take_along_axis(ordered, rank[None], axis=0)[0] for rank in ranks)
    return np.asarray(np.where(count > 0, (low + high) / 2, np.nan))


def median_and_scatter(values: np.ndarray) -> tuple[float, float]:
    """Return the median of values and their standard deviation, from the median absolute deviation; NaN for none."""
    if not values.size:
        return np.nan, np.nan
    middle = np.median(values)
    return float(middle), _NORMAL * float(np.median(np.abs(values - middle)))
