"""Kernels of the likelihood fit of ramps. See :mod:`nsxr.kernels.ramps.covariance` for the matrices."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.covariance import (
    Differences,
    Factors,
    covariance_of,
    factor,
    new_differences,
    new_factors,
    split_variance,
)
from nsxr.kernels.ramps.ramp_tile import (
    BAD,
    CONSIDERED,
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
from nsxr.kernels.ramps.tiles import Columns
from nsxr.kernels.sorting import median_of, sort_columns
from nsxr.model.dq import JUMP

__all__ = ["WEIGHTED_SUMS", "combine_weighted", "finish_weighted", "fit_by_likelihood"]

_TILE_COLUMNS = 32

WEIGHTED_SUMS = 7
"""Quantities that are summed over integrations: weight times rate, its rounding error, weight, weight squared times the
variances by photons and by reads, chi square, and weight times the square of the rate."""


class _Pixels(NamedTuple):
    """Properties of the pixels of a tile, and parts of the result.

    Attributes
    ----------
    base : (column,) uint32
        Flags.
    gains : (column,) float64 [electron/DN]
    current : (column,) float64 [electron]
        Dark current in a group time.
    number : (column,) int64
        Number of differences that are used.
    later, by_photons, by_reads : (column,) float64
        ``later`` is scratch; the others are parts of the variance of the slope.
    """

    base: np.ndarray
    gains: np.ndarray
    current: np.ndarray
    number: np.ndarray
    later: np.ndarray
    by_photons: np.ndarray
    by_reads: np.ndarray


class _Rates(NamedTuple):
    """The results of the fit, see :func:`fit_by_likelihood`."""

    slopes: np.ndarray
    poisson: np.ndarray
    reads: np.ndarray
    dq: np.ndarray
    chi_square: np.ndarray
    sums: np.ndarray


@kernel
def _new_pixels(columns: int) -> _Pixels:  # pragma: no cover
    base, number = np.empty(columns, np.uint32), np.empty(columns, np.int64)
    gains, current, later = np.empty(columns), np.empty(columns), np.empty(columns)
    return _Pixels(base, gains, current, number, later, np.empty(columns), np.empty(columns))


@kernel
def _take_pixels(
    images: PixelImages, selected: SelectedGroups, at: Columns, pixels: _Pixels, noise: np.ndarray
) -> None:  # pragma: no cover
    """Fill a tile with the flags, gains, read noise and dark current of its pixels."""
    row, start, columns = at
    base, gains, current = pixels.base, pixels.gains, pixels.current
    pixeldq, gain, readnoise, dark = images.pixeldq, images.gain, images.readnoise, images.dark
    for c in range(columns):
        at_column = start + c
        base[c], gains[c], noise[c] = pixel_state(
            pixeldq[row, at_column], gain[row, at_column], readnoise[row, at_column], selected.n_frames
        )
        electrons = np.float64(dark[row, at_column]) * selected.group_time
        current[c] = electrons if (electrons > 0.0) & (electrons < np.inf) else 0.0


@kernel
def _take_differences(
    ramps: RampTile, pixels: _Pixels, has_first: bool, columns: int, tile: Differences, ordered: np.ndarray
) -> None:  # pragma: no cover
    """Fill a tile with the differences of one integration, in electrons; ``ordered`` gets them in DN, to be sorted."""
    values, flags = ramps.values, ramps.flags
    differences, used = tile.values, tile.used
    gains, count = pixels.gains, pixels.number
    first_row = 1 if has_first else 0
    count[:] = 0
    for k in range(values.shape[0] - 1):
        for c in range(columns):
            stop = ((flags[k, c] | flags[k + 1, c]) & ~JUMP & CONSIDERED) | (flags[k + 1, c] & JUMP)
            difference = values[k + 1, c] - values[k, c]
            differences[k + first_row, c] = 0.0 if stop else np.float64(difference) * gains[c]
            ordered[k, c] = np.float32(np.inf) if stop else difference
            used[k + first_row, c] = 0.0 if stop else 1.0
            count[c] += stop == 0
    if has_first:
        for c in range(columns):
            used[0, c] = 0.0 if flags[0, c] & CONSIDERED else 1.0
            differences[0, c] = used[0, c] * np.float64(values[0, c]) * gains[c]


@kernel
def _expect_rates(
    ramps: RampTile,
    pixels: _Pixels,
    selected: SelectedGroups,
    at: Columns,
    given_rate: np.ndarray,
    ordered: np.ndarray,
    rate: np.ndarray,
    is_known: np.ndarray,
) -> bool:  # pragma: no cover
    """Set the first guess of each rate: the given rate, the median difference, or the rate of the first group.

    Return whether all rates are given.
    """
    row, start, columns = at
    values, gains, count, current = ramps.values, pixels.gains, pixels.number, pixels.current
    exposed = selected.one_group_time / selected.group_time
    are_known = True
    for c in range(columns):
        is_known[c] = given_rate.size > 0 and not np.isnan(given_rate[row, start + c])
        are_known &= is_known[c]
    if not are_known:
        sort_columns(ordered, values.shape[0] - 1, columns)
    for c in range(columns):
        if is_known[c]:
            expected = np.float64(given_rate[row, start + c]) * gains[c] * selected.group_time
        elif count[c] > 0:
            expected = median_of(ordered, c, 0, count[c]) * gains[c]
        else:
            expected = np.float64(values[0, c]) * gains[c] / exposed
        rate[c] = (expected if expected > 0.0 else 0.0) + current[c]
    return are_known


@kernel
def _keep_fit(
    ramps: RampTile,
    pixels: _Pixels,
    selected: SelectedGroups,
    at: Columns,
    integration: int,
    has_first: bool,
    tile: Differences,
    factors: Factors,
    rates: _Rates,
) -> None:  # pragma: no cover
    """Copy the fit of one integration to the results."""
    row, start, columns = at
    values, flags, _, union = ramps
    base, gains, _, count, _, by_photons, by_reads = pixels
    rate, noise, used = tile.rate, tile.noise, tile.used
    weight, slope, square = factors.weight, factors.slope, factors.chi_square
    slopes, poisson, reads, dq, chi_square, sums = rates
    exposed = selected.one_group_time / selected.group_time  # exposure of a single group, as a part of the group time
    i = integration
    for c in range(columns):
        at_column = start + c
        inherited = np.uint32(union[c] & INHERITED)
        dq[i, row, at_column] = base[c] | inherited | BAD
        if base[c] & INVALID:
            continue
        if count[c] == 0 and not (has_first and used[0, c] > 0.0):
            if selected.suppress or flags[0, c]:
                continue
            # a first group alone; its pedestal was subtracted, and the noise of the pedestal is in the variance
            slope[c] = np.float64(values[0, c]) * gains[c] / exposed
            by_photons[c] = rate[c] / exposed
            by_reads[c] = 2.0 * noise[c] / (exposed * exposed)
            weight[c] = 1.0 / (by_photons[c] + by_reads[c])
            square[c] = 0.0
        scale = selected.group_time * gains[c]
        dq[i, row, at_column] = base[c] | inherited
        slopes[i, row, at_column] = slope[c] / scale
        poisson[i, row, at_column] = by_photons[c] / (scale * scale)
        reads[i, row, at_column] = by_reads[c] / (scale * scale)
        chi_square[i, row, at_column] = square[c]
        add_exactly(sums, row, at_column, weight[c] * slope[c] / scale, 0.0)
        sums[0, 2, row, at_column] += weight[c]
        sums[0, 3, row, at_column] += weight[c] * weight[c] * by_photons[c] / (scale * scale)
        sums[0, 4, row, at_column] += weight[c] * weight[c] * by_reads[c] / (scale * scale)
        sums[0, 5, row, at_column] += square[c]
        sums[0, 6, row, at_column] += weight[c] * slope[c] * slope[c]


@kernel
def _new_rates(integrations: int, rows: int, columns: int) -> _Rates:  # pragma: no cover
    shape = (integrations, rows, columns)
    return _Rates(
        np.full(shape, np.float32(np.nan)),
        np.full(shape, np.float32(np.nan)),
        np.full(shape, np.float32(np.nan)),
        np.empty(shape, np.uint32),
        np.full(shape, np.float32(np.nan)),
        np.zeros((1, WEIGHTED_SUMS, rows, columns), np.float64),
    )


@kernel
def fit_by_likelihood(
    sci: np.ndarray,
    groupdq: np.ndarray,
    images: PixelImages,
    selected: SelectedGroups,
    shared: float,
    reset_noise: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Fit the ramps of each integration, and take the sums from which all integrations are combined.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    images : PixelImages
        Properties of each pixel. Where no rate is given, or NaN, the rate of the fit is used, found in two steps from
        the median difference.
    selected : SelectedGroups
        Groups that are fitted.
    shared : float
        From :func:`nsxr.kernels.ramps.covariance.shared_part`.
    reset_noise : float [electron]
        Scatter of the level after a reset about 0. If it is 0 or more, the first group is a measurement too; if it is
        below 0, it is not.

    Returns
    -------
    slopes, var_poisson, var_rnoise : (integration, row, column) float32 [DN/s, (DN/s)2]
    dq : (integration, row, column) uint32
    chi_square : (integration, row, column) float32
        Chi square of the fit, with one degree of freedom less than there are differences. The first group counts as a
        difference if it is a measurement.
    sums : (1, WEIGHTED_SUMS, row, column) float64
        For :func:`combine_weighted` and :func:`finish_weighted`.
    """
    integrations, groups, rows, all_columns = sci.shape
    has_first = reset_noise >= 0.0
    steps = groups if has_first else groups - 1
    width = min(all_columns, _TILE_COLUMNS)
    ramps, pixels = new_tile(groups, width), _new_pixels(width)
    tile, factors = new_differences(groups, width), new_factors(groups, width)
    rate, slope, current = tile.rate, factors.slope, pixels.current
    ordered, is_known = np.empty((groups, width), np.float32), np.empty(width, np.bool_)
    rates = _new_rates(integrations, rows, all_columns)
    covariance = covariance_of(shared, selected.one_group_time / selected.group_time, reset_noise)
    for row in range(rows):
        for start in range(0, all_columns, width):
            columns = min(width, all_columns - start)
            at = Columns(row, start, columns)
            _take_pixels(images, selected, at, pixels, tile.noise)
            for i in range(integrations):
                take_ramps(sci, groupdq, i, at, selected, ramps)
                _take_differences(ramps, pixels, has_first, columns, tile, ordered)
                are_known = _expect_rates(ramps, pixels, selected, at, images.given_rate, ordered, rate, is_known)
                for repeat in range(1 if are_known else 3):
                    if repeat > 0:
                        for c in range(columns):
                            if is_known[c]:
                                continue
                            better = (slope[c] if slope[c] > 0.0 else 0.0) + current[c]
                            rate[c] = better if slope[c] == slope[c] else rate[c]
                    factor(tile, covariance, steps, columns, factors)
                split_variance(
                    tile, covariance, steps, columns, factors, pixels.later, pixels.by_photons, pixels.by_reads
                )
                _keep_fit(ramps, pixels, selected, at, i, has_first, tile, factors, rates)
    slopes, poisson, reads, dq, chi_square, sums = rates
    return slopes, poisson, reads, dq, chi_square, sums


@kernel
def combine_weighted(sums: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Combine the sums of several blocks of integrations, (block, WEIGHTED_SUMS, row, column) float64, into one."""
    blocks, _, rows, columns = sums.shape
    out = np.zeros((1, WEIGHTED_SUMS, rows, columns), np.float64)
    for block in range(blocks):
        for row in range(rows):
            for c in range(columns):
                add_exactly(out, row, c, sums[block, 0, row, c], sums[block, 1, row, c])
        for number in range(2, WEIGHTED_SUMS):
            for row in range(rows):
                for c in range(columns):
                    out[0, number, row, c] += sums[block, number, row, c]
    return out


@kernel
def finish_weighted(
    sums: np.ndarray, dq: np.ndarray, gain: np.ndarray, group_time: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Turn sums over all integrations into the combined slope.

    Parameters
    ----------
    sums : (1, WEIGHTED_SUMS, row, column) float64
    dq : (row, column) uint32
        Flags of all integrations together. DO_NOT_USE is included only if all integrations have it.
    gain : (row, column) float32 [electron/DN]
    group_time : float [s]

    Returns
    -------
    slope, var_poisson, var_rnoise : (row, column) float32 [DN/s, (DN/s)2]
    dq : (row, column) uint32
    chi_square : (row, column) float32
        Chi square of one slope for all integrations.
    """
    rows, columns = dq.shape
    slope = np.full((rows, columns), np.float32(np.nan))
    poisson = np.full((rows, columns), np.float32(np.nan))
    reads = np.full((rows, columns), np.float32(np.nan))
    chi_square = np.full((rows, columns), np.float32(np.nan))
    flags = dq.copy()
    for row in range(rows):
        for c in range(columns):
            weight = sums[0, 2, row, c]
            if weight == 0.0:
                flags[row, c] |= BAD
                continue
            mean = (sums[0, 0, row, c] + sums[0, 1, row, c]) / weight
            slope[row, c] = mean
            poisson[row, c] = sums[0, 3, row, c] / (weight * weight)
            reads[row, c] = sums[0, 4, row, c] / (weight * weight)
            electrons = mean * group_time * gain[row, c]
            spread = sums[0, 6, row, c] - weight * electrons * electrons
            chi_square[row, c] = sums[0, 5, row, c] + max(spread, 0.0)
    return slope, poisson, reads, flags, chi_square
