"""Loops that find jumps in ramps and spread them to neighbours and to later groups.

Blocks are C-ordered ``(integration, group, row, column)``. The work is done on tiles: the differences
of a short run of columns of one row, transposed to ``(difference, column)`` and sorted, see
:mod:`nsxr.kernels.sorting`.
"""

from typing import Any

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.series_rate import fit_first_groups, fit_integration, robust_rates
from nsxr.kernels.sorting import median_of, search_interval, sort_columns
from nsxr.model.dq import GroupFlag

__all__ = [
    "JUMP",
    "KEPT",
    "LARGE",
    "SPREAD",
    "UNUSABLE",
    "VERY_LARGE",
    "difference_at",
    "find_limits",
    "flag_outside",
    "spread_jumps",
]

DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
SATURATED = np.uint8(GroupFlag.SATURATED.value)
JUMP = np.uint8(GroupFlag.JUMP_DET.value)
UNUSABLE = np.uint8(DO_NOT_USE | SATURATED)
KEPT = np.uint8(UNUSABLE | JUMP)

SPREAD = np.uint8(1 << 3)
"""Private bit of the detection code: the jump is passed on to the four neighbours."""

LARGE = np.uint8(1 << 4)
"""Private bit: the step is at least the first after-jump threshold."""

VERY_LARGE = np.uint8(1 << 5)
"""Private bit: the step is at least the second after-jump threshold."""

_TILE_COLUMNS = 128
_TILE_BYTES = 2**20  # longer series use half the columns, so that a tile stays in the second-level cache
_CLIP_ITERATIONS = 5
_MAD = 1.482602218505602  # standard deviation over the median absolute deviation, of normal noise
_VARYING = 20
"""Integrations from which on a pixel of two groups that varies more than its noise has wider limits: a transit and a
drift of the pointing are no jumps."""


@kernel
def _usable_groups(groupdq: np.ndarray, row: int) -> tuple[int, int]:  # pragma: no cover
    """Count the groups of a row that are not DO_NOT_USE in all its columns: least per integration, and all."""
    integrations, groups, _, columns = groupdq.shape
    least = groups
    total = 0
    for integration in range(integrations):
        usable = 0
        for group in range(groups):
            for column in range(columns):
                if not groupdq[integration, group, row, column] & DO_NOT_USE:
                    usable += 1
                    break
        total += usable
        least = min(least, usable)
    return least, total


@kernel
def _take_differences(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    row: int,
    start: int,
    columns: int,
    previous: np.ndarray,
    differences: np.ndarray,
    ordered: np.ndarray,
    count: np.ndarray,
) -> None:  # pragma: no cover
    """Fill tiles with the differences in electrons: NaN, and infinity in ``ordered``, where unusable."""
    integrations, groups = sci.shape[:2]
    count[:] = 0
    k = 0
    for integration in range(integrations):
        for c in range(columns):
            is_usable = (groupdq[integration, 0, row, start + c] & UNUSABLE) == 0
            value = sci[integration, 0, row, start + c] * gain[row, start + c]
            previous[c] = value if is_usable else np.float32(np.nan)
        for group in range(1, groups):
            for c in range(columns):
                is_usable = (groupdq[integration, group, row, start + c] & UNUSABLE) == 0
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
def difference_at(
    sci: np.ndarray, gain: np.ndarray, integration: int, step: int, row: int, column: int
) -> Any:  # pragma: no cover
    """Return the difference of two successive groups [electron]: of two products, each rounded, as in the limits."""
    last = sci[integration, step, row, column] * gain[row, column]
    return sci[integration, step + 1, row, column] * gain[row, column] - last


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
    """Return the standard deviation of sorted values of a column that their median distance from the centre gives."""
    low, high = 0, count - 1
    largest = 0.0
    for _ in range(count - count // 2):  # the most distant are at the two ends: half of them are passed over
        below, above = centre - ordered[low, column], ordered[high, column] - centre
        largest = max(below, above)
        if below > above:
            low += 1
        else:
            high -= 1
    return _MAD * largest


@kernel
def _search_alike(
    ordered: np.ndarray, column: int, count: int, variance: float, threshold: float, threshold_two: float
) -> tuple[float, float]:  # pragma: no cover
    """Return the interval left after taking out, again and again, the value apart from the median of the others.

    Of two-group integrations, all values are the same difference, and few: so their median has a noise that counts. As
    cosmic rays add charge, a value has to be further down than up to be taken out.
    """
    low, high = 0, count
    scatter = 0.0
    if count >= _VARYING:
        centre = median_of(ordered, column, 0, count)
        seen, expected = _scatter_of(ordered, column, count, centre), np.sqrt(max(centre, 0.0) + variance)
        if seen > expected * (1.0 + 2.7 / np.sqrt(count)):  # which of steady sources 1 % exceed by chance
            scatter = seen
    while high - low >= 2:
        others = high - low - 1
        noise = np.sqrt(1.0 + 0.5 * np.pi / (others + (0.5 if others % 2 else 1.2)))  # of value and median
        limit = threshold * noise if others > 1 else threshold_two
        from_below = median_of(ordered, column, low, high - 1)
        from_above = median_of(ordered, column, low + 1, high)
        above = (ordered[high - 1, column] - from_below) / max(np.sqrt(max(from_below, 0.0) + variance), scatter)
        below = (from_above - ordered[low, column]) / max(np.sqrt(max(from_above, 0.0) + variance), scatter)
        if above > limit:
            high -= 1
        elif below > max(limit, threshold_two):
            low += 1
        else:
            break
    if high <= low:
        return np.nan, np.nan
    return np.float64(ordered[low, column]), np.float64(ordered[high - 1, column])


@kernel
def find_limits(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    n_frames: int,
    threshold: float,
    threshold_three: float,
    threshold_two: float,
    min_differences: int,
    min_clip_groups: int,
    only_integrations: bool,
    first_group: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Find for each pixel the interval of ordinary differences of successive groups; what lies outside is a jump.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group are not used.
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    n_frames : int
        Frames averaged into a group.
    threshold, threshold_three, threshold_two : float
        Thresholds in sigma for at least four, for three and for two valid differences. Of integrations with a single
        difference, the first is for three or more of them, and the last for two, and for differences below the others.
    min_differences : int
        Least number of usable differences per integration for the single pass.
    min_clip_groups : int
        Least number of integrations (or of groups in all) for sigma clipping.
    only_integrations : bool
        Clip each difference among integrations only, else all differences of a pixel together.
    first_group : float
        Exposure of the first group as a part of the group time.

    Returns
    -------
    lower, upper : (difference, row, column) float64 [electron]
        NaN where nothing is known: no difference is then a jump. Of length 1 along ``difference``, for all of them,
        unless each difference is clipped among integrations.
    median, sigma : (row, column) float64 [electron]
        Median of all differences of a pixel and their expected scatter.
    rate : (row, column) float32 [DN per group]
        That several integrations share, see :func:`nsxr.kernels.ramps.series_rate.find_series_rates`; else NaN.
    """
    integrations, groups, rows, all_columns = sci.shape
    steps = groups - 1
    samples = integrations * steps
    tile = min(all_columns, max(_TILE_COLUMNS // 2, min(_TILE_COLUMNS, _TILE_BYTES // (4 * samples))))
    previous = np.empty(tile, np.float32)
    differences = np.empty((samples, tile), np.float32)
    ordered = np.empty((samples, tile), np.float32)
    same_step = np.empty((max(integrations, steps), tile), np.float32)
    count = np.empty(tile, np.int64)
    same_count = np.empty(tile, np.int64)
    sums = np.empty((3, tile), np.float64)
    variances = np.empty(tile, np.float64)
    own_steps = np.empty((steps, tile), np.float32)
    usable = np.empty(tile, np.int64)
    slope, photons, reads = np.zeros((3, integrations if integrations > 1 else 0, tile))
    known = np.zeros((integrations if integrations > 1 else 0, tile), np.int64)
    tile_lower = np.empty((steps, tile), np.float64)
    tile_upper = np.empty((steps, tile), np.float64)
    kept = steps if only_integrations and integrations >= min_clip_groups and steps > 1 else 1
    lower = np.empty((kept, rows, all_columns), np.float64)
    upper = np.empty((kept, rows, all_columns), np.float64)
    median = np.empty((rows, all_columns), np.float64)
    sigma = np.empty((rows, all_columns), np.float64)
    rate = np.full((rows, all_columns), np.float32(np.nan))
    for row in range(rows):
        least, total = _usable_groups(groupdq, row)
        is_clipped = (integrations if only_integrations else total) >= min_clip_groups and steps > 1
        is_single_pass = least - 1 >= min_differences
        for start in range(0, all_columns, tile):
            columns = min(tile, all_columns - start)
            _take_differences(sci, groupdq, gain, row, start, columns, previous, differences, ordered, count)
            sort_columns(ordered, samples, columns)
            for c in range(columns):
                noise = readnoise[row, start + c] * gain[row, start + c]
                variance = np.float64(noise * noise) / n_frames
                variances[c] = variance
                centre = median_of(ordered, c, 0, count[c])
                deviation = np.sqrt(abs(centre) + variance)
                deviation = deviation if deviation > 0 else np.nan
                median[row, start + c] = centre
                sigma[row, start + c] = deviation
                if is_clipped:
                    continue
                if steps == 1 and integrations > 1:
                    low, high = _search_alike(ordered, c, count[c], variance, threshold, threshold_two)
                elif is_single_pass:
                    low, high = centre - threshold * deviation, centre + threshold * deviation
                else:
                    low, high = search_interval(
                        ordered, c, count[c], variance, threshold, threshold_three, threshold_two
                    )
                tile_lower[:, c] = low
                tile_upper[:, c] = high
            if is_clipped and only_integrations:
                for step in range(steps):
                    same_count[:] = 0
                    for integration in range(integrations):
                        for c in range(columns):
                            value = differences[integration * steps + step, c]
                            is_usable = value == value
                            same_step[integration, c] = value if is_usable else np.float32(np.inf)
                            same_count[c] += is_usable
                    sort_columns(same_step, integrations, columns)
                    _clip(same_step, same_count, columns, threshold, sums, tile_lower[step], tile_upper[step])
            elif is_clipped:
                _clip(ordered, count, columns, threshold, sums, tile_lower[0], tile_upper[0])
                tile_lower[1:] = tile_lower[0]
                tile_upper[1:] = tile_upper[0]
            for step in range(kept):
                for c in range(columns):
                    lower[step, row, start + c] = tile_lower[step, c]
                    upper[step, row, start + c] = tile_upper[step, c]
            if integrations == 1:
                continue
            for integration in range(integrations):
                usable[:] = 0
                for step in range(steps):
                    for c in range(columns):
                        value = differences[integration * steps + step, c]
                        is_usable = (value == value) & (groupdq[integration, step + 1, row, start + c] & JUMP == 0)
                        own_steps[step, c] = value if is_usable else np.float32(np.inf)
                        usable[c] += is_usable
                fit_integration(
                    integration,
                    own_steps,
                    usable,
                    steps,
                    columns,
                    variances,
                    threshold,
                    threshold_three,
                    threshold_two,
                    min_differences,
                    same_step,
                    sums[0],
                    slope,
                    photons,
                    reads,
                    known,
                )
            fit_first_groups(
                sci, groupdq, gain, row, start, columns, first_group, variances, slope, photons, reads, known
            )
            robust_rates(slope, photons, reads, known, columns, same_step, sums[0], sums[1])
            for c in range(columns):
                if gain[row, start + c] > 0:
                    rate[row, start + c] = sums[0, c] / gain[row, start + c]
    return lower, upper, median, sigma, rate


@kernel
def flag_outside(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    median: np.ndarray,
    sigma: np.ndarray,
    large: float,
    very_large: float,
    min_spread: float,
    max_spread: float,
) -> np.ndarray:  # pragma: no cover
    """Flag the differences outside the limits of :func:`find_limits`.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    gain : (row, column) float32 [electron/DN]
    lower, upper : (difference or 1, row, column) float64 [electron]
    median, sigma : (row, column) float64 [electron]
    large, very_large : float [electron]
        Thresholds of the after-jump flags.
    min_spread, max_spread : float
        Jumps between these [sigma] are spread.

    Returns
    -------
    (integration, group, row, column) uint8
        DO_NOT_USE, SATURATED and JUMP_DET of ``groupdq``, JUMP_DET where a jump is found, and the
        private bits SPREAD, LARGE, VERY_LARGE.
    """
    integrations, groups, rows, columns = sci.shape
    code = np.empty(sci.shape, np.uint8)
    for integration in range(integrations):
        for row in range(rows):
            for c in range(columns):
                code[integration, 0, row, c] = groupdq[integration, 0, row, c] & KEPT
        for step in range(groups - 1):
            at = step if lower.shape[0] > 1 else 0
            for row in range(rows):
                for c in range(columns):
                    before, after = groupdq[integration, step, row, c], groupdq[integration, step + 1, row, c]
                    value = difference_at(sci, gain, integration, step, row, c)
                    is_usable = ((before | after) & UNUSABLE == 0) & (abs(value) < np.float32(np.inf))
                    excess = value - median[row, c]
                    ratio = abs(excess) / sigma[row, c]
                    is_outside = (value < lower[at, row, c]) | (value > upper[at, row, c])
                    found = (after & KEPT) | (JUMP if is_outside & is_usable else np.uint8(0))
                    is_spread = ((found & JUMP) != 0) & is_usable & (ratio > min_spread) & (ratio < max_spread)
                    found |= SPREAD if is_spread else np.uint8(0)
                    found |= LARGE if is_usable & (excess >= large) else np.uint8(0)
                    found |= VERY_LARGE if is_usable & (excess >= very_large) else np.uint8(0)
                    code[integration, step + 1, row, c] = found
    return code


@kernel
def spread_jumps(code: np.ndarray, after_large: int, after_very_large: int) -> np.ndarray:  # pragma: no cover
    """Pass jumps on to neighbours and to later groups.

    Parameters
    ----------
    code : (integration, group, row, column) uint8
        As from :func:`flag_outside`, with one more row at each end (the halo, of which only the SPREAD
        bit counts).
    after_large, after_very_large : int
        Groups to flag after a jump with the LARGE, VERY_LARGE bit.

    Returns
    -------
    (integration, group, row, column) uint8
        JUMP_DET of usable groups, 0 elsewhere. The halo rows are 0.
    """
    integrations, groups, rows, columns = code.shape
    jumps = np.zeros(code.shape, np.uint8)
    for integration in range(integrations):
        for group in range(groups):
            for row in range(1, rows - 1):
                for c in range(columns):
                    here = code[integration, group, row, c]
                    near = code[integration, group, row - 1, c] | code[integration, group, row + 1, c]
                    if c > 0:
                        near |= code[integration, group, row, c - 1]
                    if c < columns - 1:
                        near |= code[integration, group, row, c + 1]
                    is_jump = ((here & JUMP) != 0) | ((near & SPREAD) != 0)
                    jumps[integration, group, row, c] = JUMP if is_jump & ((here & UNUSABLE) == 0) else np.uint8(0)
    if after_large > 0 or after_very_large > 0:
        for integration in range(integrations):
            for row in range(1, rows - 1):
                for c in range(columns):
                    until = 0
                    for group in range(groups):
                        found = code[integration, group, row, c]
                        if jumps[integration, group, row, c]:
                            if found & LARGE:
                                until = max(until, group + after_large)
                            if found & VERY_LARGE:
                                until = max(until, group + after_very_large)
                        # a group flagged only here does not start another wait: ``found`` is that
                        # of its own step, tested before the flag is set
                        if 0 < group <= until and not found & UNUSABLE:
                            jumps[integration, group, row, c] = JUMP
    return jumps
