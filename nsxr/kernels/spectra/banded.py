"""Solve least-squares problems whose normal matrix is zero far from its diagonal, and choose their prior.

A symmetric matrix A has ``bands`` (row, band) with ``bands[p, k] = A[p, p + k]``. Compiled loops over bands are faster
than LAPACK for a few hundred rows, and do not start threads of their own beside those of dask.
"""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["bands_of", "most_likely"]


def bands_of(matrix: np.ndarray, count: int) -> np.ndarray:
    """Return the diagonal and the bands above it of a symmetric matrix, ``count`` in all."""
    found = np.zeros((matrix.shape[0], count))
    for k in range(count):
        found[: matrix.shape[0] - k, k] = np.diagonal(matrix, k)
    return found


@kernel
def most_likely(
    bands: np.ndarray, right: np.ndarray, priors: np.ndarray, log_priors: np.ndarray, amplitudes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the solution, and its covariance, for the prior with the highest marginal likelihood.

    Parameters
    ----------
    bands : (row, band) float64
        Normal matrix.
    right : (row,) float64
        Right side.
    priors : (prior, row, band) float64
        Inverse covariances of the solution before the data, for an amplitude of 1.
    log_priors : (prior,) float64
        Logarithms of the determinants of ``priors``.
    amplitudes : (amplitude,) float64
        Amplitudes to try with each prior.
    """
    size = bands.shape[0]
    factor, best = np.empty_like(bands), np.empty_like(bands)
    solution, chosen = np.empty((size, 1)), np.zeros(size)
    highest = -np.inf
    for number in range(priors.shape[0]):
        for amplitude in amplitudes:
            factor[:] = bands + priors[number] / amplitude**2
            _factorize(factor)
            solution[:, 0] = right
            _solve(factor, solution)
            evidence = log_priors[number] - 2.0 * size * np.log(amplitude)
            for p in range(size):
                evidence += right[p] * solution[p, 0] - 2.0 * np.log(factor[p, 0])
            if evidence > highest:
                highest = evidence
                chosen[:] = solution[:, 0]
                best[:] = factor
    covariance = np.eye(size)
    _solve(best, covariance)
    return chosen, covariance


@kernel
def _factorize(bands: np.ndarray) -> None:
    """Replace the bands of a positive matrix by those of its Cholesky factor."""
    size, count = bands.shape
    for p in range(size):
        bands[p, 0] = np.sqrt(bands[p, 0])
        for k in range(1, count):
            bands[p, k] /= bands[p, 0]
        for j in range(1, min(count, size - p)):
            amount = bands[p, j]
            for k in range(j, count):
                bands[p + j, k - j] -= amount * bands[p, k]


@kernel
def _solve(factor: np.ndarray, values: np.ndarray) -> None:
    """Replace ``values`` (row, right side) by the solutions."""
    size, count = factor.shape
    for p in range(size):
        for c in range(values.shape[1]):
            values[p, c] /= factor[p, 0]
        for k in range(1, min(count, size - p)):
            for c in range(values.shape[1]):
                values[p + k, c] -= factor[p, k] * values[p, c]
    for p in range(size - 1, -1, -1):
        for k in range(1, min(count, size - p)):
            for c in range(values.shape[1]):
                values[p, c] -= factor[p, k] * values[p + k, c]
        for c in range(values.shape[1]):
            values[p, c] /= factor[p, 0]
