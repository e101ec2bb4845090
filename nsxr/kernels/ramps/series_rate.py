"""The count rate that the integrations of a time series share, from which photon noise follows.

Each integration gets a slope from its own ordinary differences. The mean of the slopes is robust: an integration that
differs from the others, for example by persistence, hardly counts. An integration of few differences has little weight.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.tiles import Columns, Ramps
from nsxr.kernels.sorting import Thresholds, median_of, search_interval, sort_columns
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, UNUSABLE_OR_JUMP

__all__ = [
    "Slopes",
    "Steps",
    "TwoPointSearch",
    "find_series_rates",
    "fit_first_groups",
    "fit_integration",
    "robust_rates",
]

_TILE_COLUMNS = 128
_ROUNDS = 2
_LIMIT = 5.0
"""Deviation [standard deviations] beyond which an integration does not count: Tukey's weights are 0 there. With this
limit the mean of normal values has 95 % of the information of a plain mean."""


class TwoPointSearch(NamedTuple):
    """Which differences of successive groups are ordinary.

    Attributes
    ----------
    n_frames : int
        Frames averaged into a group.
    thresholds : Thresholds
        Deviation from the median beyond which a difference is not ordinary.
    min_differences : int
        With this many usable differences in an integration, all are compared once with the median of all. With fewer,
        the most deviant difference is taken out repeatedly.
    min_clip_groups : int
        Least number of integrations (or of groups in all) for sigma clipping.
    only_integrations : bool
        Whether each difference is clipped among integrations only. Otherwise all differences of a pixel are clipped
        together.
    first_group : float
        Exposure time of the first group as a part of the group time.
    """

    n_frames: int
    thresholds: Thresholds
    min_differences: int
    min_clip_groups: int
    only_integrations: bool
    first_group: float


class Slopes(NamedTuple):
    """Slopes of the integrations of each column of a tile.

    Attributes
    ----------
    slope : (integration, column) float64
        In electrons per group.
    photons, reads : (integration, column) float64
        The variance of a slope is ``photons * rate + reads``.
    number : (integration, column) int64
        Number of differences from which the slope was fitted; 0 if there is no slope.
    """

    slope: np.ndarray
    photons: np.ndarray
    reads: np.ndarray
    number: np.ndarray


class Steps(NamedTuple):
    """The differences of one integration in a tile.

    Attributes
    ----------
    differences : (difference, column) float32 [electron]
        Infinite if a difference cannot be used.
    usable : (column,) int64
        Number of differences that can be used.
    variance : (column,) float64 [electron2]
        Variance of a difference by read noise.
    ordered : (difference or more, column) float32
        Scratch.
    total : (column,) float64
        Scratch.
    """

    differences: np.ndarray
    usable: np.ndarray
    variance: np.ndarray
    ordered: np.ndarray
    total: np.ndarray


@kernel
def robust_rates(
    slopes: Slopes, columns: int, ordered: np.ndarray, rate: np.ndarray, error: np.ndarray
) -> None:  # pragma: no cover
    """Combine the slopes of integrations into one rate for each column.

    Parameters
    ----------
    slopes : Slopes
        Slopes of the integrations.
    columns : int
        Number of columns to combine.
    ordered : (integration or more, column) float32
        Scratch.
    rate, error : (column,) float64
        Results; NaN if there is no slope.

    Notes
    -----
    The start is the median of the integrations that have at least half as many differences as the integration with
    most. Of an even number of integrations it is the lower of the two in the middle, because most disturbances add
    charge. Then follows a mean with the weights ``(1 - z**2 / 25)**2 / variance``, where z is the deviation in standard
    deviations. The weight is 0 beyond z = 5.
    """
    slope, photons, reads, count = slopes
    integrations = slope.shape[0]
    for c in range(columns):
        most = 0
        for i in range(integrations):
            most = max(most, count[i, c])
        for i in range(integrations):
            is_known = (count[i, c] > 0) & (2 * count[i, c] >= most)
            ordered[i, c] = slope[i, c] if is_known else np.float32(np.inf)
    sort_columns(ordered, integrations, columns)
    for c in range(columns):
        known = 0
        while known < integrations and ordered[known, c] < np.float32(np.inf):
            known += 1
        rate[c] = error[c] = np.nan
        if known == 0:
            continue
        centre = 1.0 * ordered[(known - 1) // 2, c]
        for _ in range(_ROUNDS):
            signal = max(centre, 0.0)
            total = norm = 0.0
            for i in range(integrations):
                variance = signal * photons[i, c] + reads[i, c]
                if count[i, c] == 0 or not variance > 0.0:
                    continue
                part = 1.0 - (slope[i, c] - centre) ** 2 / variance / _LIMIT**2
                if part > 0.0:
                    weight = part * part / variance
                    total += weight * slope[i, c]
                    norm += weight
            if norm > 0.0:
                centre = total / norm
                error[c] = 1.0 / np.sqrt(norm)
        rate[c] = centre


@kernel
def _fit_segments(
    differences: np.ndarray, low: float, high: float, steps: int, column: int
) -> tuple[int, float, float, float]:  # pragma: no cover
    """Fit straight lines to the runs of ordinary differences of a column, with the best weights for read noise.

    The line through n + 1 groups has the slope ``6 sum_k(k (n + 1 - k) d_k) / (n (n + 1) (n + 2))``. Returns the number
    of differences, and sums over segments: of the numerators, of the denominators, and of the terms of photon noise.
    """
    count = 0
    numerator = cubes = squares = 0.0
    n = first = second = 0.0
    for k in range(steps + 1):
        value = np.float64(differences[min(k, steps - 1), column])
        if k < steps and value >= low and value <= high:
            count += 1
            n += 1.0
            first += n * value
            second += n * n * value
        elif n > 0.0:
            cube = n * (n + 1.0) * (n + 2.0)
            numerator += 6.0 * ((n + 1.0) * first - second)
            cubes += cube
            squares += cube * ((n + 1.0) * (n + 1.0) + 1.0)
            n = first = second = 0.0
    return count, numerator, cubes, squares


@kernel
def fit_integration(
    integration: int, tile: Steps, steps: int, columns: int, search: TwoPointSearch, slopes: Slopes
) -> None:  # pragma: no cover
    """Fit the ordinary differences of one integration.

    Which differences are ordinary is decided from this integration alone. The result goes to the row ``integration`` of
    ``slopes``.
    """
    differences, usable, variance, ordered, total = tile
    slope, photons, reads, count = slopes
    threshold, min_differences = search.thresholds.four, search.min_differences
    for k in range(steps):
        for c in range(columns):
            ordered[k, c] = differences[k, c]
    sort_columns(ordered, steps, columns)
    whole = steps * (steps + 1.0) * (steps + 2.0)
    total[:] = 0.0
    for k in range(steps):
        weight = 6.0 * (k + 1) * (steps - k) / whole
        for c in range(columns):
            total[c] += weight * differences[k, c]
    for c in range(columns):
        count[integration, c] = 0
        if usable[c] == 0:
            continue
        if usable[c] >= min_differences:
            centre = median_of(ordered, c, 0, usable[c])
            width = threshold * np.sqrt(abs(centre) + variance[c])
            low, high = centre - width, centre + width
        else:
            low, high = search_interval(ordered, c, usable[c], variance[c], search.thresholds)
        if usable[c] == steps and ordered[0, c] >= low and ordered[steps - 1, c] <= high:
            count[integration, c] = steps
            slope[integration, c] = total[c]
            photons[integration, c] = 1.2 * ((steps + 1.0) * (steps + 1.0) + 1.0) / whole
            reads[integration, c] = 6.0 * variance[c] / whole
            continue
        count[integration, c], numerator, cubes, squares = _fit_segments(differences, low, high, steps, c)
        if cubes > 0.0:
            slope[integration, c] = numerator / cubes
            photons[integration, c] = 1.2 * squares / (cubes * cubes)
            reads[integration, c] = 6.0 * variance[c] / cubes


@kernel
def fit_first_groups(
    ramps: Ramps, at: Columns, first_group: float, variance: np.ndarray, slopes: Slopes
) -> None:  # pragma: no cover
    """Take the slopes from the first groups, in place, for columns in which no integration has a difference."""
    sci, groupdq, gain = ramps
    row, start, columns = at
    slope, photons, reads, count = slopes
    integrations = sci.shape[0]
    for c in range(columns):
        known = 0
        for i in range(integrations):
            known += count[i, c]
        if known > 0:
            continue
        for i in range(integrations):
            value = np.float64(sci[i, 0, row, start + c]) * gain[row, start + c]
            is_good = (groupdq[i, 0, row, start + c] & UNUSABLE_GROUP) == 0 and abs(value) < np.inf
            count[i, c] = 1 if is_good else 0
            slope[i, c] = value / first_group
            photons[i, c] = 1.0 / first_group
            reads[i, c] = variance[c] / (first_group * first_group)


@kernel
def _take_steps(ramps: Ramps, integration: int, at: Columns, tile: Steps, lost: np.ndarray) -> None:  # pragma: no cover
    """Fill a tile with the differences of an integration."""
    sci, groupdq, gain = ramps
    row, start, columns = at
    differences, usable = tile.differences, tile.usable
    steps = sci.shape[1] - 1
    unused = np.float32(np.inf)
    flags = np.uint8(0)
    lost[:] = 0
    for group in range(steps + 1):
        for c in range(columns):
            flags |= groupdq[integration, group, row, start + c]
    for k in range(steps):
        for c in range(columns):
            value = (sci[integration, k + 1, row, start + c] - sci[integration, k, row, start + c]) * gain[
                row, start + c
            ]
            differences[k, c] = value
            lost[c] += value - value  # NaN as soon as one value is not finite
    usable[:] = steps
    is_lost = False
    for c in range(columns):
        is_lost |= lost[c] != 0
    if flags & UNUSABLE_OR_JUMP == 0 and not is_lost:
        return
    for k in range(steps):
        for c in range(columns):
            before, after = groupdq[integration, k, row, start + c], groupdq[integration, k + 1, row, start + c]
            if (before | after) & UNUSABLE_GROUP or after & JUMP or not abs(differences[k, c]) < unused:
                differences[k, c] = unused
                usable[c] -= 1


@kernel
def find_series_rates(
    sci: np.ndarray, groupdq: np.ndarray, gain: np.ndarray, readnoise: np.ndarray, search: TwoPointSearch
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Find the rate that the integrations of each pixel share, and its uncertainty.

    Which differences are ordinary is decided within each integration, so other integrations do not matter.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group, or lead to JUMP_DET, are not used.
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    search : TwoPointSearch
        Which differences are ordinary. Differences are not clipped among integrations.

    Returns
    -------
    error, rate : (row, column) float32 [DN per group]
        Uncertainty and rate. They come from the first groups if no integration has a difference, and are NaN if there
        is no usable first group either.
    """
    integrations, groups, rows, all_columns = sci.shape
    steps = groups - 1
    tile = min(all_columns, _TILE_COLUMNS)
    ramps = Ramps(sci, groupdq, gain)
    variance = np.empty(tile)
    ordered = np.empty((max(integrations, steps), tile), np.float32)
    differences = np.empty((max(steps, 1), tile), np.float32)
    of_steps = Steps(differences, np.empty(tile, np.int64), variance, ordered, np.empty(tile))
    lost = np.empty(tile, np.float32)
    slope, photons, reads = np.zeros((3, integrations, tile))
    slopes = Slopes(slope, photons, reads, np.zeros((integrations, tile), np.int64))
    found, scatter = np.empty(tile), np.empty(tile)
    rate = np.full((rows, all_columns), np.float32(np.nan))
    error = np.full((rows, all_columns), np.float32(np.nan))
    for row in range(rows):
        for start in range(0, all_columns, tile):
            columns = min(tile, all_columns - start)
            at = Columns(row, start, columns)
            for c in range(columns):
                noise = np.float64(readnoise[row, start + c]) * gain[row, start + c]
                variance[c] = noise * noise / search.n_frames
            for i in range(integrations):
                _take_steps(ramps, i, at, of_steps, lost)
                fit_integration(i, of_steps, steps, columns, search, slopes)
            fit_first_groups(ramps, at, search.first_group, variance, slopes)
            robust_rates(slopes, columns, ordered, found, scatter)
            for c in range(columns):
                if gain[row, start + c] > 0:
                    rate[row, start + c] = found[c] / gain[row, start + c]
                    error[row, start + c] = scatter[c] / gain[row, start + c]
    return error, rate
