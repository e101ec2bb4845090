"""The covariance of the differences of a ramp, and the fit of a slope with it.

The differences of successive groups of a ramp, in electrons, have the covariance matrix ::

    C = rate * tridiagonal(q, 1 - 2 q, q) + noise * tridiagonal(-1, 2, -1)

Here ``rate`` is the rate per group time, ``noise`` the variance of the read noise of one group, and q the part of the
photon noise that two differences share because each group is a mean over frames. If a difference is not used, its row
and its column are left out, so that the differences on its two sides are independent. With the differences ``d`` and a
vector ``1`` of ones ::

    rate = 1' C^-1 d / (1' C^-1 1),    variance = 1 / (1' C^-1 1)

The first row of C may also stand for the first group itself, less the level after the reset. The expected value of this
group is e times the rate. Its variance is ``rate (e - q) + noise + reset``, and its covariance with the next difference
is the same as between two differences. ``1`` then begins with e.

The work is done on tiles ``(difference, column)`` that stay in the first-level cache. The matrices are factored
from the first difference to the last, for all columns side by side on vector registers, and solved on the way back.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = [
    "Covariance",
    "Differences",
    "Factors",
    "covariance_of",
    "factor",
    "new_differences",
    "new_factors",
    "shared_part",
    "split_variance",
]


class Covariance(NamedTuple):
    """The numbers from which the matrix is made.

    Attributes
    ----------
    shared : float
        From :func:`shared_part`.
    expected : float
        Expected value of the first row, as a part of the rate.
    by_photons, by_reads : float
        Factors on rate and noise in the variance of the first row.
    by_reset : float [electron2]
        Further variance of the first row.
    """

    shared: float
    expected: float
    by_photons: float
    by_reads: float
    by_reset: float


class Differences(NamedTuple):
    """The differences of a tile.

    Attributes
    ----------
    values : (difference, column) float64 [electron]
        0 if a difference is not used.
    used : (difference, column) float64
        1 or 0.
    rate : (column,) float64 [electron]
        Rate expected in a group time, for the photon noise.
    noise : (column,) float64 [electron2]
        Variance of the read noise of one group.
    """

    values: np.ndarray
    used: np.ndarray
    rate: np.ndarray
    noise: np.ndarray


class Factors(NamedTuple):
    """The factored matrix of each column, and the fit.

    Attributes
    ----------
    inverse : (difference, column) float64
        Inverse pivots.
    reduced, ones : (difference, column) float64
        The two right-hand sides (the differences, and the vector of ones) after the forward pass.
    weight, slope, chi_square : (column,) float64
        Inverse variance of the slope, the slope [electron per group time], and chi square.
    """

    inverse: np.ndarray
    reduced: np.ndarray
    ones: np.ndarray
    weight: np.ndarray
    slope: np.ndarray
    chi_square: np.ndarray


def shared_part(n_frames: int, frame_time: float, group_time: float) -> float:
    """Return q: the part of the photon noise of a group time that neighbouring differences share.

    Brandt 2024, PASP 136, 045004: mean time less tau, for frames in succession.
    """
    return frame_time / group_time * (n_frames**2 - 1) / (6 * n_frames)


@kernel
def covariance_of(shared: float, exposed: float, reset_noise: float) -> Covariance:  # pragma: no cover
    """Return the numbers of the matrix; with a reset noise below 0, its first row is the first difference.

    With a reset noise of 0 or more, the first row is the first group. ``exposed`` is the mean exposure time of the
    first group as a part of the group time.
    """
    if reset_noise >= 0.0:
        return Covariance(shared, exposed, exposed - shared, 1.0, reset_noise * reset_noise)
    return Covariance(shared, 1.0, 1.0 - 2.0 * shared, 2.0, 0.0)


@kernel
def new_differences(steps: int, columns: int) -> Differences:  # pragma: no cover
    """Return an empty tile."""
    shape = (steps, columns)
    return Differences(np.zeros(shape), np.zeros(shape), np.empty(columns), np.empty(columns))


@kernel
def new_factors(steps: int, columns: int) -> Factors:  # pragma: no cover
    """Return empty arrays for the factored matrices of a tile."""
    shape = (steps, columns)
    inverse, reduced, ones = np.empty(shape), np.empty(shape), np.empty(shape)
    return Factors(inverse, reduced, ones, np.empty(columns), np.empty(columns), np.empty(columns))


@kernel
def factor(
    tile: Differences, covariance: Covariance, steps: int, columns: int, factors: Factors
) -> None:  # pragma: no cover
    """Factor the covariance of each column of a tile, and fit its slope; NaN if no difference is used."""
    differences, used, rate, noise = tile
    inverse, reduced, ones, weight, slope, chi_square = factors
    shared, expected, by_photons, by_reads, by_reset = covariance
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
def split_variance(
    tile: Differences,
    covariance: Covariance,
    steps: int,
    columns: int,
    factors: Factors,
    later: np.ndarray,
    by_photons: np.ndarray,
    by_reads: np.ndarray,
) -> None:  # pragma: no cover
    """Split the variance of each fitted slope into photon noise and read noise; ``later`` is scratch."""
    _, used, rate, noise = tile
    inverse, ones, weight, shared = factors.inverse, factors.ones, factors.weight, covariance.shared
    for c in range(columns):
        later[c] = 0.0
        by_photons[c] = 0.0
        by_reads[c] = 0.0
    for step in range(steps):
        k = steps - 1 - step
        after = min(k + 1, steps - 1)
        photons_here = covariance.by_photons if k == 0 else 1.0 - 2.0 * shared
        reads_here = covariance.by_reads if k == 0 else 2.0
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
        by_reads[c] = by_reads[c] * (noise[c] / norm) + covariance.by_reset * later[c] * later[c] / norm
