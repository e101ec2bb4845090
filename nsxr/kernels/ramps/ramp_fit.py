"""Kernels that fit slopes to ramps by least squares.

Blocks are C-ordered ``(integration, group, row, column)``. A short run of columns of one row is copied to
a tile ``(group, column)`` that stays in the first-level cache. Two things are computed for all ramps, over the columns
of the tile on vector registers: the median of the differences, and the fit of a ramp without flags. Only ramps with
flags are then cut into segments one by one.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.ramp_tile import (
    BAD,
    INHERITED,
    INVALID,
    PixelImages,
    RampTile,
    SelectedGroups,
    add_exactly,
    new_tile,
    pixel_state,
    take_ramps,
)
from nsxr.kernels.ramps.ramp_weights import WeightTables, power_of
from nsxr.kernels.ramps.series_rate import Slopes, robust_rates
from nsxr.kernels.ramps.tiles import Columns
from nsxr.kernels.sorting import sort_columns
from nsxr.model.dq import JUMP, UNUSABLE_GROUP

__all__ = ["SUMS", "combine_sums", "finish_slopes", "fit_slopes"]

_TILE_COLUMNS = 64

SUMS = 6
"""Quantities that are summed over integrations: ``(n**3 - n) * slope``, its rounding error, ``n**3 - n``, ``n - 1``;
and the numerators of both variances."""


class _Pixels(NamedTuple):
    """Properties of the pixels of a tile.

    Attributes
    ----------
    base : (column,) uint32
        Flags.
    gains : (column,) float64 [electron/DN]
    noise : (column,) float64 [electron2]
        Variance of the read noise of one group.
    """

    base: np.ndarray
    gains: np.ndarray
    noise: np.ndarray


class _Fit(NamedTuple):
    """Results from the ramps of a tile in one integration.

    Attributes
    ----------
    median, slope : (column,) float64 [DN per group]
        Median difference; slope of a ramp that is a single segment.
    common : (column,) float64 [DN per group]
        The rate that all integrations share, for the photon noise.
    powers : (column,) int64
        Scratch.
    steps : (group, column) float32
        Scratch.
    """

    median: np.ndarray
    slope: np.ndarray
    common: np.ndarray
    powers: np.ndarray
    steps: np.ndarray


class _Rates(NamedTuple):
    """The results of the fit, see :func:`fit_slopes`."""

    slopes: np.ndarray
    poisson: np.ndarray
    noise: np.ndarray
    dq: np.ndarray
    sums: np.ndarray


@kernel
def _median_steps(ramps: RampTile, has_flags: bool, columns: int, fit: _Fit) -> None:  # pragma: no cover
    """Find the median of the usable differences of each ramp, NaN if there are none."""
    values, flags, steps, median = ramps.values, ramps.flags, fit.steps, fit.median
    groups = values.shape[0]
    unused = np.float32(np.inf)
    for k in range(groups - 1):
        for c in range(columns):
            steps[k, c] = values[k + 1, c] - values[k, c]
        if has_flags:
            for c in range(columns):
                stop = ((flags[k, c] | flags[k + 1, c]) & UNUSABLE_GROUP) | (flags[k + 1, c] & JUMP)
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
    ramps: RampTile, columns: int, pixels: _Pixels, tables: WeightTables, fit: _Fit
) -> None:  # pragma: no cover
    """Fit each ramp of the tile as one segment."""
    values, gain, noise = ramps.values, pixels.gains, pixels.noise
    powers, slope = fit.powers, fit.slope
    coefficients, norms = tables
    groups = values.shape[0]
    for c in range(columns):
        rise = (np.float64(values[groups - 1, c]) - np.float64(values[0, c])) * gain[c]
        powers[c] = power_of(rise, noise[c])
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
    ramps: RampTile, c: int, gain: float, noise: float, tables: WeightTables
) -> tuple[float, float, float]:  # pragma: no cover
    """Fit the segments of one ramp.

    Returns the sums over segments of n groups of ``(n**3 - n) * slope``, ``n**3 - n`` and ``n - 1``.
    """
    values, flags = ramps.values, ramps.flags
    coefficients, norms = tables
    groups = values.shape[0]
    weighted = 0.0
    cubes = 0.0
    steps = 0.0
    begin = -1
    for group in range(groups + 1):
        if group < groups and flags[group, c] == 0:
            if begin < 0:  # the JUMP_DET group already has the charge of the jump and begins a segment
                begin = group - 1 if group > 0 and flags[group - 1, c] == JUMP else group
        elif begin >= 0:
            length = group - begin
            if length > 1:
                rise = np.float64(values[group - 1, c]) - np.float64(values[begin, c])
                power = power_of(rise * gain, noise)
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
def _keep_slopes(
    ramps: RampTile,
    pixels: _Pixels,
    selected: SelectedGroups,
    at: Columns,
    integration: int,
    tables: WeightTables,
    fit: _Fit,
    shared: Slopes,
    rates: _Rates,
) -> None:  # pragma: no cover
    """Copy the slopes of one integration to the results, with the sums from which variances are made.

    If the integrations share a rate, their slopes are also copied to ``shared``.
    """
    row, start, columns = at
    values, flags, flagged, union = ramps
    base, gains, noise = pixels
    median, fitted, common = fit.median, fit.slope, fit.common
    each, photons, reads, known = shared
    slopes, slopes_poisson, slopes_noise, slopes_dq, sums = rates
    groups, i = values.shape[0], integration
    is_shared = known.shape[0] > 0
    exposed = selected.one_group_time / selected.group_time  # exposure of a single group, as a part of the group time
    for c in range(columns):
        at_column = start + c
        inherited = np.uint32(union[c] & INHERITED)
        slopes_dq[i, row, at_column] = base[c] | inherited | BAD
        if groups > 1 and not flagged[c]:
            cubes = np.float64(groups) * groups * groups - groups
            length = groups - 1.0
            weighted = cubes * fitted[c]
        else:
            weighted, cubes, length = _fit_segments(ramps, c, gains[c], noise[c], tables)
            if length == 0.0 and not selected.suppress and not flags[0, c]:
                # a first group alone counts as two groups, with its exposure time between them
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
        slopes_dq[i, row, at_column] = base[c] | inherited
        slopes[i, row, at_column] = weighted / cubes / selected.group_time
        slopes_noise[i, row, at_column] = cubes  # turned into variances later
        slopes_poisson[i, row, at_column] = length
        add_exactly(sums, row, at_column, weighted, 0.0)
        sums[0, 2, row, at_column] += cubes
        sums[0, 3, row, at_column] += length


@kernel
def _finish_variances(
    images: PixelImages, pixels: _Pixels, group_time: float, at: Columns, common: np.ndarray, rates: _Rates
) -> None:  # pragma: no cover
    """Turn the sums of each slope into variances, in place."""
    row, start, columns = at
    gains, noise = pixels.gains, pixels.noise
    given_rate, dark = images.given_rate, images.dark
    slopes_poisson, slopes_noise, sums = rates.poisson, rates.noise, rates.sums
    is_given = given_rate.size > 0
    for c in range(columns):
        at_column = start + c
        if sums[0, 3, row, at_column] == 0.0:
            continue
        rate = np.float64(given_rate[row, at_column]) if is_given else common[c] / group_time
        rate = rate if rate > 0.0 else 0.0
        current = np.float64(dark[row, at_column]) / gains[c]
        rate += current if (current > 0.0) & (current < np.inf) else 0.0
        poisson = rate / (group_time * gains[c])
        read = 12.0 * noise[c] / (group_time * gains[c]) ** 2
        for i in range(slopes_poisson.shape[0]):
            slopes_poisson[i, row, at_column] = poisson / slopes_poisson[i, row, at_column]
            slopes_noise[i, row, at_column] = read / slopes_noise[i, row, at_column]
        sums[0, 4, row, at_column] = poisson
        sums[0, 5, row, at_column] = read


@kernel
def _new_rates(integrations: int, rows: int, columns: int) -> _Rates:  # pragma: no cover
    shape = (integrations, rows, columns)
    return _Rates(
        np.full(shape, np.float32(np.nan)),
        np.full(shape, np.float32(np.nan)),
        np.full(shape, np.float32(np.nan)),
        np.empty(shape, np.uint32),
        np.zeros((1, SUMS, rows, columns), np.float64),
    )


@kernel
def fit_slopes(
    sci: np.ndarray, groupdq: np.ndarray, images: PixelImages, selected: SelectedGroups, tables: WeightTables
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Fit the ramps of each integration, and take the sums from which all integrations are combined.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    images : PixelImages
        Properties of each pixel. Without a given rate, the rate is a robust mean of the slopes of these integrations,
        see :func:`nsxr.kernels.ramps.series_rate.robust_rates`; for a single integration it is the median difference.
    selected : SelectedGroups
        Groups that are fitted.
    tables : WeightTables
        From :func:`nsxr.kernels.ramps.ramp_weights.weight_tables`.

    Returns
    -------
    slopes, var_poisson, var_rnoise : (integration, row, column) float32 [DN/s, (DN/s)2]
    dq : (integration, row, column) uint32
    sums : (1, SUMS, row, column) float64
        For :func:`combine_sums` and :func:`finish_slopes`.
    """
    integrations, groups, rows, all_columns = sci.shape
    is_given = images.given_rate.size > 0
    is_shared = integrations > 1 and not is_given
    width = min(all_columns, _TILE_COLUMNS)
    ramps = new_tile(groups, width)
    pixels = _Pixels(np.empty(width, np.uint32), np.empty(width), np.empty(width))
    median, common, steps = np.empty(width), np.empty(width), np.empty((groups, width), np.float32)
    fit = _Fit(median, np.empty(width), common, np.empty(width, np.int64), steps)
    of_series = integrations if is_shared else 0
    each, photons, reads = np.zeros((3, of_series, width))
    known = np.zeros((of_series, width), np.int64)
    shared = Slopes(each, photons, reads, known)
    ordered, scatter = np.empty((of_series, width), np.float32), np.empty(width)
    rates = _new_rates(integrations, rows, all_columns)
    for row in range(rows):
        for start in range(0, all_columns, width):
            columns = min(width, all_columns - start)
            at = Columns(row, start, columns)
            for c in range(columns):
                pixels.base[c], pixels.gains[c], pixels.noise[c] = pixel_state(
                    images.pixeldq[row, start + c],
                    images.gain[row, start + c],
                    images.readnoise[row, start + c],
                    selected.n_frames,
                )
            known[:] = 0
            common[:] = np.nan
            for i in range(integrations):
                has_flags = take_ramps(sci, groupdq, i, at, selected, ramps)
                median[:] = np.nan
                if not is_given and not is_shared:
                    _median_steps(ramps, has_flags, columns, fit)
                if groups > 1:
                    _fit_whole(ramps, columns, pixels, tables, fit)
                _keep_slopes(ramps, pixels, selected, at, i, tables, fit, shared, rates)
            if is_shared:
                robust_rates(shared, columns, ordered, common, scatter)
            _finish_variances(images, pixels, selected.group_time, at, common, rates)
    slopes, poisson, noise, dq, sums = rates
    return slopes, poisson, noise, dq, sums


@kernel
def combine_sums(sums: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Combine the sums of several blocks of integrations, (block, SUMS, row, column) float64, into one."""
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
        Flags of all integrations together. DO_NOT_USE is included only if all integrations have it.
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
