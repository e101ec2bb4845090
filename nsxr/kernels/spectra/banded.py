"""Choose the prior of a linear least-squares problem whose normal matrix is zero far from its diagonal.

LAPACK's routines for bands are a few times faster than those for whole matrices. They also call no BLAS that is large
enough to start threads, which would compete with those of dask.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

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
    size, bands = right.size, _bands(normal, bandwidth)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for prior in priors:
        own = _bands(prior.inverse, bandwidth)
        for amplitude in amplitudes:
            factor, _ = lapack.dpbtrf(bands + own / amplitude**2, lower=1)
            solution, _ = lapack.dpbtrs(factor, right, lower=1)
            spread = 2 * np.log(factor[0]).sum() + 2 * size * np.log(amplitude)
            evidence = float(right @ solution + prior.log_determinant - spread)
            if best is None or evidence > best[0]:
                best = (evidence, solution, factor)
    assert best is not None
    _, solution, factor = best
    return solution, lapack.dpbtrs(factor, np.eye(size), lower=1)[0] if with_covariance else np.zeros((size, size))


def _bands(matrix: np.ndarray, bandwidth: int) -> np.ndarray:
    """Return the main diagonal and those below it (band, column), as LAPACK takes them."""
    found = np.zeros((bandwidth + 1, matrix.shape[0]), order="F")
    for k in range(bandwidth + 1):
        found[k, : matrix.shape[0] - k] = np.diagonal(matrix, -k)
    return found
