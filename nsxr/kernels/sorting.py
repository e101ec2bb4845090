"""Sort the columns of tiles, take their medians, and search them for outliers.

The columns of a tile ``(value, column)`` are sorted side by side by a network of compare-exchanges. The network has no
branches, so the inner loop over columns runs on vector registers. Medians, clipping and the iterative search are cheap
on sorted values, because an outlier is always at one of the two ends.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["Thresholds", "median_of", "search_interval", "sort_columns"]


class Thresholds(NamedTuple):
    """How far a difference may deviate [standard deviations], by the number of differences in the comparison.

    Attributes
    ----------
    four : float
        For four or more differences.
    three, two : float
        For three and for two differences.
    """

    four: float
    three: float
    two: float


@kernel
def sort_columns(tile: np.ndarray, count: int, columns: int) -> None:  # pragma: no cover
    """Sort the first ``count`` rows of the first ``columns`` columns of a tile, in place.

    This is Batcher's odd-even merge sort [1]_ for any length. The comparisons do not depend on the values.

    Parameters
    ----------
    tile : (rows, columns) float32, C-ordered
        Values without NaN.
    count, columns : int
        How much of the tile to sort.

    References
    ----------
    .. [1] Batcher 1968, AFIPS Spring Joint Computer Conference 32, 307;
       Knuth, The Art of Computer Programming 3, algorithm 5.2.2M.
    """
    power = 1
    while power < count:
        distance = power
        while distance >= 1:
            for start in range(distance % power, count - distance, 2 * distance):
                for first in range(start, min(start + distance, count - distance)):
                    second = first + distance
                    if first // (2 * power) != second // (2 * power):
                        continue
                    # indexing the tile, and not views of its rows, makes this loop six times faster
                    for column in range(columns):
                        low = tile[first, column]
                        high = tile[second, column]
                        tile[first, column] = low if low < high else high
                        tile[second, column] = high if low < high else low
            distance //= 2
        power *= 2


@kernel
def median_of(ordered: np.ndarray, column: int, low: int, high: int) -> float:  # pragma: no cover
    """Return the median of the sorted values ``low`` to ``high`` (exclusive) of a column, NaN if there are none."""
    if high <= low:
        return np.nan
    middle = low + (high - low - 1) // 2
    other = low + (high - low) // 2
    return 0.5 * (np.float64(ordered[middle, column]) + np.float64(ordered[other, column]))


@kernel
def search_interval(
    ordered: np.ndarray,
    column: int,
    count: int,
    variance: float,
    thresholds: Thresholds,
) -> tuple[float, float]:  # pragma: no cover
    """Return the interval that is left after the most deviant difference is taken out repeatedly."""
    low, high = 0, count
    while high - low >= 2:
        smallest, largest = ordered[low, column], ordered[high - 1, column]
        if high - low >= 4:
            limit = thresholds.four
            is_downward = abs(smallest) >= abs(largest)
            first, last = (low + 1, high) if is_downward else (low, high - 1)
            location = median_of(ordered, column, first, last)
        elif high - low == 3:
            limit = thresholds.three
            location = np.float64(ordered[low + 1, column])
        else:
            limit = thresholds.two
            location = np.float64(smallest if abs(smallest) < abs(largest) else largest)
        sigma = np.sqrt(abs(location) + variance)
        if not sigma > 0:
            break
        below = (location - smallest) / sigma
        above = (largest - location) / sigma
        if not max(below, above) > limit:
            break
        if above >= below:
            while ordered[high - 1, column] == largest:
                high -= 1
        else:
            while ordered[low, column] == smallest:
                low += 1
    if high <= low:
        return np.nan, np.nan
    return np.float64(ordered[low, column]), np.float64(ordered[high - 1, column])
