"""Choose the prior of a linear least-squares problem whose normal matrix is zero far from its diagonal.

Compiled loops over the bands are faster than LAPACK for whole matrices. LAPACK also starts threads for a few hundred
rows, which compete with those of dask: on two cores a factorization then took a hundred times longer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["Prior", "most_likely"]


class Prior(NamedTuple):
    """A normal distribution of the solution, for an amplitude of 1.

    Attributes
    ----------
    inverse : (row, row) ndarray
        Inverse of the covariance.
    log_determinant : float
        Logarithm of the determinant of ``inverse``.
    """

    inverse: np.ndarray
    log_determinant: float


def most_likely(
    normal: np.ndarray,
    right: np.ndarray,
    priors: Sequence[Prior],
    amplitudes: np.ndarray,
    bandwidth: int,
    *,
    with_covariance: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the solution, and its covariance, for the prior and amplitude with the highest marginal likelihood.

    Parameters
    ----------
    normal : (row, row) ndarray
        Normal matrix.
    right : (row,) ndarray
        Right side.
    priors : sequence of Prior
        To choose from.
    amplitudes : (amplitude,) ndarray
        Standard deviations of the solution, to try with each prior.
    bandwidth : int
        Number of diagonals beside the main one that may differ from zero, to each side.
    with_covariance : bool
        Without it, the covariance is zero. It takes as long as the rest.
    """
    bands, best = _bands(normal, bandwidth), -np.inf
    factor, tried, solution = np.empty_like(bands), np.empty_like(bands), np.empty(right.size)
    for prior in priors:
        own = _bands(prior.inverse, bandwidth)
        for amplitude in amplitudes:
            np.multiply(own, amplitude**-2.0, out=tried)
            tried += bands
            evidence, found = _solved(tried, right)
            evidence += prior.log_determinant - 2 * right.size * np.log(amplitude)
            if evidence > best:
                best, solution = evidence, found
                factor, tried = tried, factor
    covariance = np.eye(right.size) if with_covariance else np.zeros((right.size, right.size))
    if with_covariance:
        _substitute(factor, covariance)
    return solution, covariance


@kernel
def _bands(matrix: np.ndarray, bandwidth: int) -> np.ndarray:
    """Return the main diagonal and those above it, (row, band)."""
    size = matrix.shape[0]
    found = np.zeros((size, bandwidth + 1))
    for p in range(size):
        for k in range(min(bandwidth + 1, size - p)):
            found[p, k] = matrix[p, p + k]
    return found


@kernel
def _solved(bands: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray]:
    """Replace bands by those of their Cholesky factor; return their part of the log likelihood, and the solution."""
    size, count = bands.shape
    row = np.zeros(2 * count)  # zeros behind the row: all loops have the same length
    for p in range(size):
        pivot = np.sqrt(bands[p, 0])
        bands[p, 0] = pivot
        for k in range(1, count):
            bands[p, k] /= pivot
            row[k] = bands[p, k]
        for j in range(1, min(count, size - p)):
            amount, target, rest = row[j], bands[p + j], row[j : j + count]
            for k in range(count):
                target[k] -= amount * rest[k]
    values = right.copy().reshape(size, 1)
    _substitute(bands, values)
    evidence = 0.0
    for p in range(size):
        evidence += right[p] * values[p, 0] - 2.0 * np.log(bands[p, 0])
    return evidence, values[:, 0].copy()


@kernel
def _substitute(factor: np.ndarray, values: np.ndarray) -> None:
    """Replace ``values`` (row, right side) by the solutions."""
    size, count = factor.shape
    for p in range(size):
        own = values[p]
        own /= factor[p, 0]
        for k in range(1, min(count, size - p)):
            amount, target = factor[p, k], values[p + k]
            for c in range(own.size):
                target[c] -= amount * own[c]
    for p in range(size - 1, -1, -1):
        own = values[p]
        for k in range(1, min(count, size - p)):
            amount, other = factor[p, k], values[p + k]
            for c in range(own.size):
                own[c] -= amount * other[c]
        own /= factor[p, 0]
