"""Kernels that find the interval of ordinary differences of a pixel.

The work is done on tiles: the differences of a short run of columns of one row, transposed to ``(difference, column)``
and sorted, see :mod:`nsxr.kernels.sorting`.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.series_rate import (
    Slopes,
    Steps,
    TwoPointSearch,
    fit_first_groups,
    fit_integration,
    robust_rates,
)
from nsxr.kernels.ramps.tiles import Columns, Ramps
from nsxr.kernels.sorting import Thresholds, median_of, search_interval, sort_columns
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, GroupFlag

__all__ = ["find_limits"]

_DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
_TILE_COLUMNS = 128
_TILE_BYTES = 2**20  # longer time series use half the columns, so that a tile stays in the second-level cache
_CLIP_ITERATIONS = 5
_MAD = 1.482602218505602  # standard deviation over the median absolute deviation, of normal noise
_VARYING = 20
"""Least number of integrations of two groups for wider limits of pixels that vary more than their noise. A transit or a
drift of the pointing is not a jump."""


class _Tile(NamedTuple):
    """The differences of all integrations in a tile, and the results found from them.

    Attributes
    ----------
    differences, ordered : (integration and difference, column) float32 [electron]
        ``differences`` are in the order of time, NaN if a difference cannot be used. ``ordered`` are sorted, infinite
        if a difference cannot be used.
    number : (column,) int64
        Number of differences that can be used.
    variances : (column,) float64
        Variance of a difference by read noise.
    lower, upper : (difference, column) float64
        Limits of ordinary differences.
    same_step, same_count : (integration, column) float32, (column,) int64
        Scratch: one difference of all integrations.
    previous, sums : (column,) float32, (3, column) float64
        Scratch.
    """

    differences: np.ndarray
    ordered: np.ndarray
    number: np.ndarray
    variances: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    same_step: np.ndarray
    same_count: np.ndarray
    previous: np.ndarray
    sums: np.ndarray


@kernel
def _new_tile(integrations: int, steps: int, columns: int) -> _Tile:  # pragma: no cover
    samples = integrations * steps
    return _Tile(
        np.empty((samples, columns), np.float32),
        np.empty((samples, columns), np.float32),
        np.empty(columns, np.int64),
        np.empty(columns, np.float64),
        np.empty((steps, columns), np.float64),
        np.empty((steps, columns), np.float64),
        np.empty((max(integrations, steps), columns), np.float32),
        np.empty(columns, np.int64),
        np.empty(columns, np.float32),
        np.empty((3, columns), np.float64),
    )


@kernel
def _usable_groups(groupdq: np.ndarray, row: int) -> tuple[int, int]:  # pragma: no cover
    """Count groups of a row without those that are DO_NOT_USE in all columns: least of an integration, and total."""
    integrations, groups, _, columns = groupdq.shape
    least = groups
    total = 0
    for integration in range(integrations):
        usable = 0
        for group in range(groups):
            for column in range(columns):
                if not groupdq[integration, group, row, column] & _DO_NOT_USE:
                    usable += 1
                    break
        total += usable
        least = min(least, usable)
    return least, total


@kernel
def _take_differences(ramps: Ramps, at: Columns, tile: _Tile) -> None:  # pragma: no cover
    """Fill a tile with the differences in electrons."""
    sci, groupdq, gain = ramps
    row, start, columns = at
    differences, ordered, count, previous = tile.differences, tile.ordered, tile.number, tile.previous
    integrations, groups = sci.shape[:2]
    count[:] = 0
    k = 0
    for integration in range(integrations):
        for c in range(columns):
            is_usable = (groupdq[integration, 0, row, start + c] & UNUSABLE_GROUP) == 0
            value = sci[integration, 0, row, start + c] * gain[row, start + c]
            previous[c] = value if is_usable else np.float32(np.nan)
        for group in range(1, groups):
            for c in range(columns):
                is_usable = (groupdq[integration, group, row, start + c] & UNUSABLE_GROUP) == 0
                value = sci[integration, group, row, start + c] * gain[row, start + c]
                value = value if is_usable else np.float32(np.nan)
                step = value - previous[c]
                previous[c] = value
                is_usable = abs(step) < np.float32(np.inf)
                differences[k, c] = step if is_usable else np.float32(np.nan)
                ordered[k, c] = step if is_usable else np.float32(np.inf)
                count[c] += is_usable
            k += 1


@kernel
def _clip(
    ordered: np.ndarray,
    count: np.ndarray,
    columns: int,
    threshold: float,
    sums: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> None:  # pragma: no cover
    """Find the intervals left by sigma clipping of sorted columns about their medians."""
    origin, total, square = sums
    total[:] = 0.0
    square[:] = 0.0
    most = 0
    for c in range(columns):
        most = max(most, count[c])
        origin[c] = median_of(ordered, c, 0, count[c])
    for k in range(most):
        for c in range(columns):
            value = ordered[k, c] - origin[c] if k < count[c] else 0.0
            total[c] += value
            square[c] += value * value
    for c in range(columns):
        low, high = 0, count[c]
        lower[c] = upper[c] = np.nan
        for _ in range(_CLIP_ITERATIONS):
            if high <= low:
                break
            centre = median_of(ordered, c, low, high)
            mean = total[c] / (high - low)
            width = threshold * np.sqrt(max(square[c] / (high - low) - mean * mean, 0.0))
            lower[c], upper[c] = centre - width, centre + width
            before = high - low
            while low < high and ordered[low, c] < lower[c]:
                value = ordered[low, c] - origin[c]
                total[c] -= value
                square[c] -= value * value
                low += 1
            while low < high and ordered[high - 1, c] > upper[c]:
                high -= 1
                value = ordered[high, c] - origin[c]
                total[c] -= value
                square[c] -= value * value
            if high - low == before:
                break


@kernel
def _scatter_of(ordered: np.ndarray, column: int, count: int, centre: float) -> float:  # pragma: no cover
    """Return the standard deviation of sorted values of a column, from their median distance from the centre."""
    low, high = 0, count - 1
    largest = 0.0
    for _ in range(count - count // 2):  # the most distant values are at the ends: pass over half of them
        below, above = centre - ordered[low, column], ordered[high, column] - centre
        largest = max(below, above)
        if below > above:
            low += 1
        else:
            high -= 1
    return _MAD * largest


@kernel
def _search_alike(
    ordered: np.ndarray, column: int, count: int, variance: float, thresholds: Thresholds
) -> tuple[float, float]:  # pragma: no cover
    """Return the interval that is left after the value farthest from the median of the others is taken out repeatedly.

    This is for integrations of two groups, where all values are the same difference. There are few values, so the noise
    of their median counts. Cosmic rays add charge, so the threshold of low values is larger than the threshold of high
    values.
    """
    low, high = 0, count
    scatter = 0.0
    if count >= _VARYING:
        centre = median_of(ordered, column, 0, count)
        seen, expected = _scatter_of(ordered, column, count, centre), np.sqrt(max(centre, 0.0) + variance)
        if seen > expected * (1.0 + 2.7 / np.sqrt(count)):  # 1 % of steady sources exceed this by chance
            scatter = seen
    while high - low >= 2:
        others = high - low - 1
        noise = np.sqrt(1.0 + 0.5 * np.pi / (others + (0.5 if others % 2 else 1.2)))  # of value and median
        limit = thresholds.four * noise if others > 1 else thresholds.two
        from_below = median_of(ordered, column, low, high - 1)
        from_above = median_of(ordered, column, low + 1, high)
        above = (ordered[high - 1, column] - from_below) / max(np.sqrt(max(from_below, 0.0) + variance), scatter)
        below = (from_above - ordered[low, column]) / max(np.sqrt(max(from_above, 0.0) + variance), scatter)
        if above > limit:
            high -= 1
        elif below > max(limit, thresholds.two):
            low += 1
        else:
            break
    if high <= low:
        return np.nan, np.nan
    return np.float64(ordered[low, column]), np.float64(ordered[high - 1, column])


@kernel
def _describe(
    readnoise: np.ndarray,
    gain: np.ndarray,
    at: Columns,
    n_frames: int,
    tile: _Tile,
    median: np.ndarray,
    sigma: np.ndarray,
) -> None:  # pragma: no cover
    """Find the median of the differences of each column, and their expected scatter."""
    row, start, columns = at
    ordered, count, variances = tile.ordered, tile.number, tile.variances
    for c in range(columns):
        noise = readnoise[row, start + c] * gain[row, start + c]
        variance = np.float64(noise * noise) / n_frames
        variances[c] = variance
        centre = median_of(ordered, c, 0, count[c])
        deviation = np.sqrt(abs(centre) + variance)
        median[row, start + c] = centre
        sigma[row, start + c] = deviation if deviation > 0 else np.nan


@kernel
def _compare(
    at: Columns, search: TwoPointSearch, is_single_pass: bool, tile: _Tile, median: np.ndarray, sigma: np.ndarray
) -> None:  # pragma: no cover
    """Set the limits of each column of a tile by comparing its differences with their median."""
    row, start, columns = at
    ordered, count, variances, lower, upper = tile.ordered, tile.number, tile.variances, tile.lower, tile.upper
    is_alike = lower.shape[0] == 1 and tile.differences.shape[0] > 1  # several integrations of two groups
    thresholds = search.thresholds
    for c in range(columns):
        if is_alike:
            low, high = _search_alike(ordered, c, count[c], variances[c], thresholds)
        elif is_single_pass:
            width = thresholds.four * sigma[row, start + c]
            low, high = median[row, start + c] - width, median[row, start + c] + width
        else:
            low, high = search_interval(ordered, c, count[c], variances[c], thresholds)
        lower[:, c] = low
        upper[:, c] = high


@kernel
def _clip_tile(
    integrations: int, steps: int, columns: int, search: TwoPointSearch, tile: _Tile
) -> None:  # pragma: no cover
    """Set the limits of each column of a tile by sigma clipping."""
    differences, same_step, same_count, sums = tile.differences, tile.same_step, tile.same_count, tile.sums
    lower, upper, threshold = tile.lower, tile.upper, search.thresholds.four
    if not search.only_integrations:
        _clip(tile.ordered, tile.number, columns, threshold, sums, lower[0], upper[0])
        lower[1:] = lower[0]
        upper[1:] = upper[0]
        return
    for step in range(steps):
        same_count[:] = 0
        for integration in range(integrations):
            for c in range(columns):
                value = differences[integration * steps + step, c]
                is_usable = value == value
                same_step[integration, c] = value if is_usable else np.float32(np.inf)
                same_count[c] += is_usable
        sort_columns(same_step, integrations, columns)
        _clip(same_step, same_count, columns, threshold, sums, lower[step], upper[step])


@kernel
def _share_rates(
    ramps: Ramps, at: Columns, search: TwoPointSearch, tile: _Tile, own: Steps, slopes: Slopes, rate: np.ndarray
) -> None:  # pragma: no cover
    """Find the rate that the integrations of each column of a tile share."""
    integrations, steps = ramps.sci.shape[0], ramps.sci.shape[1] - 1
    groupdq, gain = ramps.groupdq, ramps.gain
    row, start, columns = at
    differences, own_steps, usable, sums = tile.differences, own.differences, own.usable, tile.sums
    for integration in range(integrations):
        usable[:] = 0
        for step in range(steps):
            for c in range(columns):
                value = differences[integration * steps + step, c]
                is_usable = (value == value) & (groupdq[integration, step + 1, row, start + c] & JUMP == 0)
                own_steps[step, c] = value if is_usable else np.float32(np.inf)
                usable[c] += is_usable
        fit_integration(integration, own, steps, columns, search, slopes)
    fit_first_groups(ramps, at, search.first_group, tile.variances, slopes)
    robust_rates(slopes, columns, tile.same_step, sums[0], sums[1])
    for c in range(columns):
        if gain[row, start + c] > 0:
            rate[row, start + c] = sums[0, c] / gain[row, start + c]


@kernel
def find_limits(
    sci: np.ndarray, groupdq: np.ndarray, gain: np.ndarray, readnoise: np.ndarray, search: TwoPointSearch
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Find for each pixel the interval of ordinary differences of successive groups; a difference outside is a jump.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group are not used.
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    search : TwoPointSearch
        Which differences are ordinary. If integrations have a single difference, the threshold ``four`` is for three or
        more integrations, and ``two`` is for two integrations, and for differences below the others.

    Returns
    -------
    lower, upper : (difference, row, column) float64 [electron]
        NaN if no limit is known; then no difference is a jump. The length along ``difference`` is 1, with the same
        limits for all differences, unless each difference is clipped among integrations.
    median, sigma : (row, column) float64 [electron]
        Median of all differences of a pixel and their expected scatter.
    rate : (row, column) float32 [DN per group]
        Rate that several integrations share, see :func:`nsxr.kernels.ramps.series_rate.find_series_rates`; NaN for a
        single integration.
    """
    integrations, groups, rows, all_columns = sci.shape
    steps = groups - 1
    samples = integrations * steps
    least_clipped, only_integrations = search.min_clip_groups, search.only_integrations
    width = min(all_columns, max(_TILE_COLUMNS // 2, min(_TILE_COLUMNS, _TILE_BYTES // (4 * samples))))
    ramps, tile = Ramps(sci, groupdq, gain), _new_tile(integrations, steps, width)
    own_steps, usable = np.empty((steps, width), np.float32), np.empty(width, np.int64)
    own = Steps(own_steps, usable, tile.variances, tile.same_step, tile.sums[0])
    slope, photons, reads = np.zeros((3, integrations if integrations > 1 else 0, width))
    slopes = Slopes(slope, photons, reads, np.zeros((integrations if integrations > 1 else 0, width), np.int64))
    kept = steps if only_integrations and integrations >= least_clipped and steps > 1 else 1
    lower = np.empty((kept, rows, all_columns), np.float64)
    upper = np.empty((kept, rows, all_columns), np.float64)
    median = np.empty((rows, all_columns), np.float64)
    sigma = np.empty((rows, all_columns), np.float64)
    rate = np.full((rows, all_columns), np.float32(np.nan))
    for row in range(rows):
        least, total = _usable_groups(groupdq, row)
        is_clipped = (integrations if only_integrations else total) >= least_clipped and steps > 1
        is_single_pass = least - 1 >= search.min_differences
        for start in range(0, all_columns, width):
            at = Columns(row, start, min(width, all_columns - start))
            _take_differences(ramps, at, tile)
            sort_columns(tile.ordered, samples, at.size)
            _describe(readnoise, gain, at, search.n_frames, tile, median, sigma)
            if is_clipped:
                _clip_tile(integrations, steps, at.size, search, tile)
            else:
                _compare(at, search, is_single_pass, tile, median, sigma)
            for step in range(kept):
                for c in range(at.size):
                    lower[step, row, start + c] = tile.lower[step, c]
                    upper[step, row, start + c] = tile.upper[step, c]
            if integrations > 1:
                _share_rates(ramps, at, search, tile, own, slopes, rate)
    return lower, upper, median, sigma, rate
