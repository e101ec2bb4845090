"""Loops that fit slopes to ramps.

Blocks are C-ordered ``(integration, group, row, column)``. A short run of columns of one row is copied to
a tile ``(group, column)`` that stays in the first-level cache. Whatever every ramp needs, the median of
the differences and the fit of a ramp without flags, runs over the columns of the tile on vector
registers; only ramps with flags are then cut into segments one by one.
"""

from typing import Any

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.series_rate import robust_rates
from nsxr.kernels.sorting import sort_columns
from nsxr.model.dq import GroupFlag, PixelFlag

__all__ = [
    "BAD",
    "CONSIDERED",
    "INHERITED",
    "INVALID",
    "POWERS",
    "SIGNAL_TO_NOISE",
    "SUMS",
    "add_exactly",
    "combine_sums",
    "finish_slopes",
    "fit_slopes",
    "pixel_state",
    "take_ramps",
    "weight_tables",
]

SIGNAL_TO_NOISE = (5.0, 10.0, 20.0, 50.0, 100.0)
"""Signal-to-noise ratios of a segment at which the next power begins."""

POWERS = (0.0, 0.4, 1.0, 3.0, 6.0, 10.0)
"""Powers of the distance from the middle of a segment that weight its groups."""

DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
SATURATED = np.uint8(GroupFlag.SATURATED.value)
JUMP = np.uint8(GroupFlag.JUMP_DET.value)
UNUSABLE = np.uint8(DO_NOT_USE | SATURATED)
CONSIDERED = np.uint8(0xFF & ~GroupFlag.PERSISTENCE.value)  # persistence does not stop a group from being used
INHERITED = np.uint8(JUMP | SATURATED | GroupFlag.PERSISTENCE.value)  # bits that a rate takes from its groups
INVALID = np.uint32(PixelFlag.DO_NOT_USE.value | PixelFlag.SATURATED.value)
NO_GAIN = np.uint32(PixelFlag.DO_NOT_USE.value | PixelFlag.NO_GAIN_VALUE.value)
BAD = np.uint32(PixelFlag.DO_NOT_USE.value)

_TILE_COLUMNS = 64

SUMS = 6
"""What is summed over integrations: ``(n**3 - n) * slope`` with its rounding error, ``n**3 - n``, ``n - 1``;
and the numerators of both variances."""


def weight_tables(groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the weighted slope of a segment is made of.

    The weights are symmetric about the middle of a segment, so groups count in pairs, and the slope per
    group is ``sum(c[j] * (y[later] - y[earlier])) / sum(c[j] * j)`` over pairs that are j groups apart,
    with ``c[j] = j**(power + 1)``. Read noise and half length of the segment, which scale all weights
    alike, drop out.

    Parameters
    ----------
    groups : int
        Groups per integration.

    Returns
    -------
    coefficients : (power, groups) float64
        c by distance j.
    norms : (power, groups + 1) float64
        Sum of c[j] j over the pairs of a segment, by its length.
    """
    distance = np.arange(groups, dtype=np.float64)
    coefficients = distance ** (np.array(POWERS)[:, np.newaxis] + 1)
    products = coefficients * distance
    norms = np.zeros((len(POWERS), groups + 1))
    for length in range(2, groups + 1):
        norms[:, length] = norms[:, length - 2] + products[:, length - 1]
    return coefficients, norms


@kernel
def _power(rise: float, noise: float) -> int:  # pragma: no cover
    """Return the index into POWERS for a rise [electron] over a segment, given the variance of one group."""
    if not rise > 0.0:
        return 0
    ratio = rise / np.sqrt(noise + rise)
    index = 0
    for limit in SIGNAL_TO_NOISE:
        if ratio >= limit:
            index += 1
    return index


@kernel
def take_ramps(
    sci: np.ndarray,
    groupdq: np.ndarray,
    integration: int,
    row: int,
    start: int,
    columns: int,
    first: int,
    last: int,
    suppress: bool,
    values: np.ndarray,
    flags: np.ndarray,
    flagged: np.ndarray,
    union: np.ndarray,
) -> bool:  # pragma: no cover
    """Copy one integration to the tile; return whether any of its ramps has flags.

    Groups before ``first`` or after ``last`` and samples that are not finite become DO_NOT_USE, and so
    does a whole ramp that is saturated from the start or, with ``suppress``, has a single good group.
    ``union`` collects the flags as given.
    """
    groups = sci.shape[1]
    flagged[:] = 0
    union[:] = 0
    for group in range(groups):
        outside = DO_NOT_USE if (group < first) | (group > last) else np.uint8(0)
        for c in range(columns):
            value = sci[integration, group, row, start + c]
            given = groupdq[integration, group, row, start + c]
            is_finite = abs(value) < np.float32(np.inf)
            flag = (given & CONSIDERED) | outside | (np.uint8(0) if is_finite else DO_NOT_USE)
            values[group, c] = value if is_finite else np.float32(0)
            flags[group, c] = flag
            flagged[c] |= flag
            union[c] |= given
    found = False
    for c in range(columns):
        if not flagged[c]:
            continue
        found = True
        good = 0
        for group in range(groups):
            good += flags[group, c] == 0
        if (suppress and good == 1) or flags[0, c] & SATURATED:
            for group in range(groups):
                flags[group, c] |= DO_NOT_USE
    return found


@kernel
def _median_steps(
    values: np.ndarray,
    flags: np.ndarray,
    has_flags: bool,
    groups: int,
    columns: int,
    steps: np.ndarray,
    median: np.ndarray,
) -> None:  # pragma: no cover
    """Take the median of the usable differences of each ramp, NaN if there are none."""
    unused = np.float32(np.inf)
    for k in range(groups - 1):
        for c in range(columns):
            steps[k, c] = values[k + 1, c] - values[k, c]
        if has_flags:
            for c in range(columns):
                stop = ((flags[k, c] | flags[k + 1, c]) & UNUSABLE) | (flags[k + 1, c] & JUMP)
                steps[k, c] = unused if stop else steps[k, c]
    sort_columns(steps, groups - 1, columns)
    for c in range(columns):
        count = groups - 1
        while count > 0 and steps[count - 1, c] == unused:
            count -= 1
        median[c] = np.nan
        if count > 0:
            median[c] = 0.5 * (np.float64(steps[(count - 1) // 2, c]) + np.float64(steps[count // 2, c]))


@kernel
def _fit_whole(
    values: np.ndarray,
    groups: int,
    columns: int,
    gain: np.ndarray,
    noise: np.ndarray,
    coefficients: np.ndarray,
    norms: np.ndarray,
    powers: np.ndarray,
    slope: np.ndarray,
) -> None:  # pragma: no cover
    """Fit each ramp of the tile as one segment [DN per group]."""
    for c in range(columns):
        rise = (np.float64(values[groups - 1, c]) - np.float64(values[0, c])) * gain[c]
        powers[c] = _power(rise, noise[c])
        slope[c] = 0.0
    for early in range(groups // 2):
        late = groups - 1 - early
        for c in range(columns):
            rise = np.float64(values[late, c]) - np.float64(values[early, c])
            slope[c] += coefficients[powers[c], late - early] * rise
    for c in range(columns):
        slope[c] /= norms[powers[c], groups]


@kernel
def _fit_segments(
    values: np.ndarray,
    flags: np.ndarray,
    groups: int,
    c: int,
    gain: float,
    noise: float,
    coefficients: np.ndarray,
    norms: np.ndarray,
) -> tuple[float, float, float]:  # pragma: no cover
    """Fit the segments of one ramp.

    Returns the sums over segments of n groups of ``(n**3 - n) * slope``, ``n**3 - n`` and ``n - 1``.
    """
    weighted = 0.0
    cubes = 0.0
    steps = 0.0
    begin = -1
    for group in range(groups + 1):
        if group < groups and flags[group, c] == 0:
            if begin < 0:  # the first group after a jump has the jump in it and opens a segment
                begin = group - 1 if group > 0 and flags[group - 1, c] == JUMP else group
        elif begin >= 0:
            length = group - begin
            if length > 1:
                rise = np.float64(values[group - 1, c]) - np.float64(values[begin, c])
                power = _power(rise * gain, noise)
                slope = 0.0
                for pair in range(length // 2):
                    rise = np.float64(values[group - 1 - pair, c]) - np.float64(values[begin + pair, c])
                    slope += coefficients[power, length - 1 - 2 * pair] * rise
                weight = np.float64(length) * length * length - length
                weighted += weight * slope / norms[power, length]
                cubes += weight
                steps += length - 1
            begin = -1
    return weighted, cubes, steps


@kernel
def fit_slopes(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    dark: np.ndarray,
    given_rate: np.ndarray,
    coefficients: np.ndarray,
    norms: np.ndarray,
    group_time: float,
    one_group_time: float,
    n_frames: int,
    first: int,
    last: int,
    suppress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Fit ramps, per integration, and take the sums of which all integrations together are made.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    pixeldq : (row, column) uint32
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    dark : (row, column) float32 [electron/s]
    given_rate : (row, column) or (0, 0) float32 [DN/s]
        Mean rate for the photon noise; if empty, it is a robust mean of the slopes of these integrations, see
        :func:`nsxr.kernels.ramps.series_rate.robust_rates`, or of a single one the median difference.
    coefficients, norms : float64
        From :func:`weight_tables`.
    group_time : float [s]
    one_group_time : float [s]
        Exposure of the first group.
    n_frames : int
        Frames averaged into a group.
    first, last : int
        Groups to use, inclusive.
    suppress : bool
        Whether ramps with a single good group are given up.

    Returns
    -------
    slopes, var_poisson, var_rnoise : (integration, row, column) float32 [DN/s, (DN/s)2]
    dq : (integration, row, column) uint32
    sums : (1, SUMS, row, column) float64
        For :func:`combine_sums` and :func:`finish_slopes`.
    """
    integrations, groups, rows, all_columns = sci.shape
    is_given = given_rate.size > 0
    tile = min(all_columns, _TILE_COLUMNS)
    values = np.empty((groups, tile), np.float32)
    flags = np.empty((groups, tile), np.uint8)
    steps = np.empty((groups, tile), np.float32)
    flagged = np.empty(tile, np.uint8)
    union = np.empty(tile, np.uint8)
    powers = np.empty(tile, np.int64)
    gains = np.empty(tile, np.float64)
    noise = np.empty(tile, np.float64)
    median = np.empty(tile, np.float64)
    fitted = np.empty(tile, np.float64)
    base = np.empty(tile, np.uint32)
    is_shared = integrations > 1 and not is_given
    of_series = integrations if is_shared else 0
    each, photons, reads = np.zeros((3, of_series, tile))
    known = np.zeros((of_series, tile), np.int64)
    ordered = np.empty((of_series, tile), np.float32)
    common, scatter = np.empty(tile), np.empty(tile)
    shape = (integrations, rows, all_columns)
    slopes = np.full(shape, np.float32(np.nan))
    slopes_poisson = np.full(shape, np.float32(np.nan))
    slopes_noise = np.full(shape, np.float32(np.nan))
    slopes_dq = np.empty(shape, np.uint32)
    sums = np.zeros((1, SUMS, rows, all_columns), np.float64)
    exposed = one_group_time / group_time  # of a single group, as a part of the group time
    for row in range(rows):
        for start in range(0, all_columns, tile):
            columns = min(tile, all_columns - start)
            for c in range(columns):
                base[c], gains[c], noise[c] = pixel_state(
                    pixeldq[row, start + c], gain[row, start + c], readnoise[row, start + c], n_frames
                )
            known[:] = 0
            common[:] = np.nan
            for i in range(integrations):
                has_flags = take_ramps(
                    sci, groupdq, i, row, start, columns, first, last, suppress, values, flags, flagged, union
                )
                median[:] = np.nan
                if not is_given and not is_shared:
                    _median_steps(values, flags, has_flags, groups, columns, steps, median)
                if groups > 1:
                    _fit_whole(values, groups, columns, gains, noise, coefficients, norms, powers, fitted)
                for c in range(columns):
                    at = start + c
                    inherited = np.uint32(union[c] & INHERITED)
                    slopes_dq[i, row, at] = base[c] | inherited | BAD
                    if groups > 1 and not flagged[c]:
                        cubes = np.float64(groups) * groups * groups - groups
                        length = groups - 1.0
                        weighted = cubes * fitted[c]
                    else:
                        weighted, cubes, length = _fit_segments(
                            values, flags, groups, c, gains[c], noise[c], coefficients, norms
                        )
                        if length == 0.0 and not suppress and not flags[0, c]:
                            # a first group alone counts as two groups that are its exposure apart
                            cubes = 6.0 * exposed * exposed
                            length = exposed
                            weighted = cubes * values[0, c] / exposed
                            if np.isnan(median[c]):
                                median[c] = values[0, c] / exposed
                    if length == 0.0 or base[c] & INVALID:
                        continue
                    if is_shared:
                        each[i, c] = weighted / cubes
                        photons[i, c] = 1.0 / (gains[c] * length)
                        reads[i, c] = 12.0 * noise[c] / (gains[c] * gains[c] * cubes)
                        known[i, c] = max(1, int(length))
                    else:
                        common[c] = median[c]
                    slopes_dq[i, row, at] = base[c] | inherited
                    slopes[i, row, at] = weighted / cubes / group_time
                    slopes_noise[i, row, at] = cubes  # turned into variances below
                    slopes_poisson[i, row, at] = length
                    add_exactly(sums, row, at, weighted, 0.0)
                    sums[0, 2, row, at] += cubes
                    sums[0, 3, row, at] += length
            if is_shared:
                robust_rates(each, photons, reads, known, columns, ordered, common, scatter)
            for c in range(columns):
                at = start + c
                if sums[0, 3, row, at] == 0.0:
                    continue
                rate = np.float64(given_rate[row, at]) if is_given else common[c] / group_time
                rate = rate if rate > 0.0 else 0.0
                current = np.float64(dark[row, at]) / gains[c]
                rate += current if (current > 0.0) & (current < np.inf) else 0.0
                poisson = rate / (group_time * gains[c])
                read = 12.0 * noise[c] / (group_time * gains[c]) ** 2
                for i in range(integrations):
                    slopes_poisson[i, row, at] = poisson / slopes_poisson[i, row, at]
                    slopes_noise[i, row, at] = read / slopes_noise[i, row, at]
                sums[0, 4, row, at] = poisson
                sums[0, 5, row, at] = read
    return slopes, slopes_poisson, slopes_noise, slopes_dq, sums


@kernel
def pixel_state(
    pixeldq: int, gain: float, readnoise: float, n_frames: int
) -> tuple[Any, float, Any]:  # pragma: no cover
    """Return the flags of a pixel, its gain, and the variance of one group [electron2]."""
    dq = np.uint32(pixeldq)
    electrons = np.float64(gain)
    # rounded as the observatory's pipeline does, so that no ramp changes its power
    single = np.float32(readnoise * (electrons / np.sqrt(2.0 * n_frames)))
    if not (electrons > 0) & (electrons < np.inf):
        dq |= NO_GAIN
    elif not (single > 0) & (single < np.inf):
        dq |= BAD
    return dq | BAD if dq & INVALID else dq, electrons, np.float64(single) ** 2


@kernel
def add_exactly(sums: np.ndarray, row: int, column: int, value: float, rest: float) -> None:  # pragma: no cover
    """Add to the first sum and to its rounding error, the second: the total does not depend on the order."""
    total = sums[0, 0, row, column]
    added = total + value
    part = added - total
    error = (total - (added - part)) + (value - part)
    sums[0, 0, row, column] = added
    sums[0, 1, row, column] += error + rest


@kernel
def combine_sums(sums: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Combine the sums of several blocks of integrations, (block, SUMS, row, column) float64, to one."""
    blocks, _, rows, columns = sums.shape
    out = np.zeros((1, SUMS, rows, columns), np.float64)
    for block in range(blocks):
        for row in range(rows):
            for c in range(columns):
                add_exactly(out, row, c, sums[block, 0, row, c], sums[block, 1, row, c])
                out[0, 2, row, c] += sums[block, 2, row, c]
                out[0, 3, row, c] += sums[block, 3, row, c]
                # the same in all blocks that have a slope
                out[0, 4, row, c] = max(out[0, 4, row, c], sums[block, 4, row, c])
                out[0, 5, row, c] = max(out[0, 5, row, c], sums[block, 5, row, c])
    return out


@kernel
def finish_slopes(
    sums: np.ndarray, dq: np.ndarray, group_time: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Turn sums over all integrations into the combined slope.

    Parameters
    ----------
    sums : (1, SUMS, row, column) float64
    dq : (row, column) uint32
        Flags of all integrations together, DO_NOT_USE left out that not all have.
    group_time : float [s]

    Returns
    -------
    slope, var_poisson, var_rnoise : (row, column) float32 [DN/s, (DN/s)2]
    dq : (row, column) uint32
    """
    rows, columns = dq.shape
    slope = np.full((rows, columns), np.float32(np.nan))
    poisson = np.full((rows, columns), np.float32(np.nan))
    noise = np.full((rows, columns), np.float32(np.nan))
    flags = dq.copy()
    for row in range(rows):
        for c in range(columns):
            if sums[0, 3, row, c] == 0.0:
                flags[row, c] |= BAD
                continue
            slope[row, c] = (sums[0, 0, row, c] + sums[0, 1, row, c]) / sums[0, 2, row, c] / group_time
            poisson[row, c] = sums[0, 4, row, c] / sums[0, 3, row, c]
            noise[row, c] = sums[0, 5, row, c] / sums[0, 2, row, c]
    return slope, poisson, noise, flags
