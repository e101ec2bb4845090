"""Loops of the likelihood fit of ramps.

The differences of successive groups of a ramp, in electrons, have the covariance matrix ::

    C = rate * tridiagonal(q, 1 - 2 q, q) + noise * tridiagonal(-1, 2, -1)

with the rate per group time, the variance of the read noise of one group, and q the part of the photon noise that
two differences share because each group is a mean over frames. A difference that is not used takes its row and
column with it, so that those on its two sides are independent. With ``d`` the differences and ``1`` a vector of ones ::

    rate = 1' C^-1 d / (1' C^-1 1),    variance = 1 / (1' C^-1 1)

The first row of C, its ``head``, may instead be the first group itself, less the level after the reset: it expects the
part e of the rate, with the variance ``rate (e - q) + noise + reset``, and has the same covariance with what follows.
``1`` then begins with e.

The work is done on tiles ``(difference, column)`` that stay in the first-level cache: the matrices are factored
from the first difference to the last, for all columns side by side on vector registers, and solved on the way back.
"""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.jump import JUMP
from nsxr.kernels.ramps.ramp_fit import BAD, CONSIDERED, INHERITED, INVALID, add_exactly, pixel_state, take_ramps
from nsxr.kernels.sorting import median_of, sort_columns

__all__ = [
    "WEIGHTED_SUMS",
    "combine_weighted",
    "factor",
    "finish_weighted",
    "fit_by_likelihood",
    "head_of",
    "shared_part",
]

_TILE_COLUMNS = 32

WEIGHTED_SUMS = 7
"""What is summed over integrations: weight times rate with its rounding error, weight, weight squared times the
variances by photons and by reads, chi square, and weight times the square of the rate."""


Head = tuple[float, float, float, float]
"""What the first row is: the part of the rate that it expects, the parts of rate and noise in its variance, and a
variance of its own [electron2]."""


def shared_part(n_frames: int, frame_time: float, group_time: float) -> float:
    """Return q: the part of the photon noise of a group time that neighbouring differences share.

    Brandt 2024, PASP 136, 045004: mean time less tau, for frames in succession.
    """
    return frame_time / group_time * (n_frames**2 - 1) / (6 * n_frames)


@kernel
def head_of(shared: float, exposed: float, reset_noise: float) -> Head:  # pragma: no cover
    """Return the head of the matrix: the first difference, or with a reset noise not below 0 the first group.

    ``exposed`` is the mean exposure of the first group as a part of the group time.
    """
    if reset_noise >= 0.0:
        return exposed, exposed - shared, 1.0, reset_noise * reset_noise
    return 1.0, 1.0 - 2.0 * shared, 2.0, 0.0


@kernel
def factor(
    differences: np.ndarray,
    used: np.ndarray,
    rate: np.ndarray,
    noise: np.ndarray,
    shared: float,
    head: Head,
    steps: int,
    columns: int,
    inverse: np.ndarray,
    reduced: np.ndarray,
    ones: np.ndarray,
    weight: np.ndarray,
    slope: np.ndarray,
    chi_square: np.ndarray,
) -> None:  # pragma: no cover
    """Factor the covariance of each column: inverse pivots, both right-hand sides on the way, and the fit.

    ``used`` is 1 or 0; unused differences are 0. Without any used one the slope is NaN.
    """
    expected, by_photons, by_reads, by_reset = head
    for c in range(columns):
        pivot = 1.0 / (rate[c] * by_photons + by_reads * noise[c] + by_reset)
        left = differences[0, c]
        one = used[0, c] * expected
        inverse[0, c] = pivot
        reduced[0, c] = left
        ones[0, c] = one
        weight[c] = one * one * pivot
        slope[c] = one * left * pivot
        chi_square[c] = left * left * pivot
    for k in range(1, steps):
        for c in range(columns):
            diagonal = rate[c] * (1.0 - 2.0 * shared) + 2.0 * noise[c]
            off = (rate[c] * shared - noise[c]) * used[k, c] * used[k - 1, c]
            factor = off * inverse[k - 1, c]
            pivot = 1.0 / (diagonal - off * factor)
            left = differences[k, c] - factor * reduced[k - 1, c]
            one = used[k, c] - factor * ones[k - 1, c]
            inverse[k, c] = pivot
            reduced[k, c] = left
            ones[k, c] = one
            weight[c] += one * one * pivot
            slope[c] += one * left * pivot
            chi_square[c] += left * left * pivot
    for c in range(columns):
        chi_square[c] -= slope[c] * slope[c] / weight[c]
        slope[c] /= weight[c]


@kernel
def _weights(
    used: np.ndarray,
    rate: np.ndarray,
    noise: np.ndarray,
    shared: float,
    head: Head,
    steps: int,
    columns: int,
    inverse: np.ndarray,
    ones: np.ndarray,
    weight: np.ndarray,
    later: np.ndarray,
    by_photons: np.ndarray,
    by_reads: np.ndarray,
) -> None:  # pragma: no cover
    """Split the variance of each fitted slope into that by photons and that by reads."""
    for c in range(columns):
        later[c] = 0.0
        by_photons[c] = 0.0
        by_reads[c] = 0.0
    for step in range(steps):
        k = steps - 1 - step
        after = min(k + 1, steps - 1)
        photons_here = head[1] if k == 0 else 1.0 - 2.0 * shared
        reads_here = head[2] if k == 0 else 2.0
        for c in range(columns):
            joined = used[k, c] * used[after, c] if step > 0 else 0.0
            off = (rate[c] * shared - noise[c]) * joined
            own = (ones[k, c] - off * later[c]) * inverse[k, c]
            square, product = own * own, own * later[c] * joined
            by_photons[c] += photons_here * square + 2.0 * shared * product
            by_reads[c] += reads_here * square - 2.0 * product
            later[c] = own
    for c in range(columns):
        norm = weight[c] * weight[c]
        by_photons[c] *= rate[c] / norm
        by_reads[c] = by_reads[c] * (noise[c] / norm) + head[3] * later[c] * later[c] / norm


@kernel
def fit_by_likelihood(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    dark: np.ndarray,
    given_rate: np.ndarray,
    shared: float,
    group_time: float,
    one_group_time: float,
    n_frames: int,
    first: int,
    last: int,
    suppress: bool,
    reset_noise: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
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
        Mean rate for the photon noise; if empty, that of the fit, found in two steps from the median difference.
    shared : float
        From :func:`shared_part`.
    group_time : float [s]
    one_group_time : float [s]
        Exposure of the first group.
    n_frames : int
        Frames averaged into a group.
    first, last : int
        Groups to use, inclusive.
    suppress : bool
        Whether ramps with a single good group are given up.
    reset_noise : float [electron]
        Scatter of the level after a reset, about 0: the first group is then a measurement too. Below 0: it is not.

    Returns
    -------
    slopes, var_poisson, var_rnoise : (integration, row, column) float32 [DN/s, (DN/s)2]
    dq : (integration, row, column) uint32
    chi_square : (integration, row, column) float32
        Of the fit, with one degree of freedom less than there are differences, the first group counted where it is one.
    sums : (1, WEIGHTED_SUMS, row, column) float64
        For :func:`combine_weighted` and :func:`finish_weighted`.
    """
    integrations, groups, rows, all_columns = sci.shape
    head_rows = 1 if reset_noise >= 0.0 else 0
    steps = groups - 1 + head_rows
    is_given = given_rate.size > 0
    tile = min(all_columns, _TILE_COLUMNS)
    values = np.empty((groups, tile), np.float32)
    flags = np.empty((groups, tile), np.uint8)
    ordered = np.empty((groups, tile), np.float32)
    flagged = np.empty(tile, np.uint8)
    union = np.empty(tile, np.uint8)
    differences, used = np.zeros((groups, tile)), np.zeros((groups, tile))
    inverse, reduced, ones = np.empty((groups, tile)), np.empty((groups, tile)), np.empty((groups, tile))
    count = np.empty(tile, np.int64)
    base = np.empty(tile, np.uint32)
    gains, noise, current, rate = np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile)
    weight, slope, square = np.empty(tile), np.empty(tile), np.empty(tile)
    later, by_photons, by_reads = np.empty(tile), np.empty(tile), np.empty(tile)
    shape = (integrations, rows, all_columns)
    slopes = np.full(shape, np.float32(np.nan))
    poisson = np.full(shape, np.float32(np.nan))
    reads = np.full(shape, np.float32(np.nan))
    chi_square = np.full(shape, np.float32(np.nan))
    dq = np.empty(shape, np.uint32)
    sums = np.zeros((1, WEIGHTED_SUMS, rows, all_columns), np.float64)
    exposed = one_group_time / group_time  # of a single group, as a part of the group time
    head = head_of(shared, exposed, reset_noise)
    for row in range(rows):
        for start in range(0, all_columns, tile):
            columns = min(tile, all_columns - start)
            for c in range(columns):
                at = start + c
                base[c], gains[c], noise[c] = pixel_state(pixeldq[row, at], gain[row, at], readnoise[row, at], n_frames)
                electrons = np.float64(dark[row, at]) * group_time
                current[c] = electrons if (electrons > 0.0) & (electrons < np.inf) else 0.0
            for i in range(integrations):
                take_ramps(sci, groupdq, i, row, start, columns, first, last, suppress, values, flags, flagged, union)
                count[:] = 0
                for k in range(groups - 1):
                    for c in range(columns):
                        stop = ((flags[k, c] | flags[k + 1, c]) & ~JUMP & CONSIDERED) | (flags[k + 1, c] & JUMP)
                        difference = values[k + 1, c] - values[k, c]
                        differences[k + head_rows, c] = 0.0 if stop else np.float64(difference) * gains[c]
                        ordered[k, c] = np.float32(np.inf) if stop else difference
                        used[k + head_rows, c] = 0.0 if stop else 1.0
                        count[c] += stop == 0
                if not is_given:
                    sort_columns(ordered, groups - 1, columns)
                for c in range(columns):
                    if head_rows:
                        used[0, c] = 0.0 if flags[0, c] & CONSIDERED else 1.0
                        differences[0, c] = used[0, c] * np.float64(values[0, c]) * gains[c]
                    given = np.float64(given_rate[row, start + c]) if is_given else np.nan
                    if given == given:
                        expected = given * gains[c] * group_time
                    elif count[c] > 0 and not is_given:
                        expected = median_of(ordered, c, 0, count[c]) * gains[c]
                    else:
                        expected = np.float64(values[0, c]) * gains[c] / exposed
                    rate[c] = (expected if expected > 0.0 else 0.0) + current[c]
                for repeat in range(1 if is_given else 3):
                    if repeat > 0:
                        for c in range(columns):
                            better = (slope[c] if slope[c] > 0.0 else 0.0) + current[c]
                            rate[c] = better if slope[c] == slope[c] else rate[c]
                    factor(
                        differences,
                        used,
                        rate,
                        noise,
                        shared,
                        head,
                        steps,
                        columns,
                        inverse,
                        reduced,
                        ones,
                        weight,
                        slope,
                        square,
                    )
                _weights(
                    used,
                    rate,
                    noise,
                    shared,
                    head,
                    steps,
                    columns,
                    inverse,
                    ones,
                    weight,
                    later,
                    by_photons,
                    by_reads,
                )
                for c in range(columns):
                    at = start + c
                    inherited = np.uint32(union[c] & INHERITED)
                    dq[i, row, at] = base[c] | inherited | BAD
                    if base[c] & INVALID:
                        continue
                    if count[c] == 0 and not (head_rows and used[0, c] > 0.0):
                        if suppress or flags[0, c]:
                            continue
                        # a first group alone, whose pedestal was taken away exactly but for its own noise
                        slope[c] = np.float64(values[0, c]) * gains[c] / exposed
                        by_photons[c] = rate[c] / exposed
                        by_reads[c] = 2.0 * noise[c] / (exposed * exposed)
                        weight[c] = 1.0 / (by_photons[c] + by_reads[c])
                        square[c] = 0.0
                    scale = group_time * gains[c]
                    dq[i, row, at] = base[c] | inherited
                    slopes[i, row, at] = slope[c] / scale
                    poisson[i, row, at] = by_photons[c] / (scale * scale)
                    reads[i, row, at] = by_reads[c] / (scale * scale)
                    chi_square[i, row, at] = square[c]
                    add_exactly(sums, row, at, weight[c] * slope[c] / scale, 0.0)
                    sums[0, 2, row, at] += weight[c]
                    sums[0, 3, row, at] += weight[c] * weight[c] * by_photons[c] / (scale * scale)
                    sums[0, 4, row, at] += weight[c] * weight[c] * by_reads[c] / (scale * scale)
                    sums[0, 5, row, at] += square[c]
                    sums[0, 6, row, at] += weight[c] * slope[c] * slope[c]
    return slopes, poisson, reads, dq, chi_square, sums


@kernel
def combine_weighted(sums: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Combine the sums of several blocks of integrations, (block, WEIGHTED_SUMS, row, column) float64, to one."""
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
        Flags of all integrations together, DO_NOT_USE left out that not all have.
    gain : (row, column) float32 [electron/DN]
    group_time : float [s]

    Returns
    -------
    slope, var_poisson, var_rnoise : (row, column) float32 [DN/s, (DN/s)2]
    dq : (row, column) uint32
    chi_square : (row, column) float32
        Of one slope for all integrations.
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
