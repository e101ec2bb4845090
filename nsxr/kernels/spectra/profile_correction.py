"""Fit the correction of a trace profile: splines whose size is determined by the data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from nsxr.kernels.spectra.gaussians import skirted
from nsxr.kernels.spectra.splines import SplinePixels, normal_equations
from nsxr.kernels.spectra.trace_fit import orthonormal
from nsxr.kernels.spectra.trace_profile import Profile

__all__ = ["refine_profile"]

_AMPLITUDES = 10.0 ** np.arange(-5.0, -0.4, 0.5)  # that are tried, relative to the light of a column
_STIFFNESSES = (1.0, 30.0, 1000.0)  # that are tried: a stiffer correction changes less along the trace
_LEAST = 0.03  # amplitude of corrections far from the source, relative to that at the source


def refine_profile(
    images: np.ndarray,
    weights: np.ndarray,
    fluxes: np.ndarray,
    profile: Profile,
    levels: Sequence[np.ndarray] = (),
) -> Profile:
    """Return the profile with a new fit of its correction, for given fluxes.

    The prior of the coefficients is a normal distribution with one amplitude, and a stiffness that correlates
    coefficients along the trace. The amplitude and stiffness with the highest likelihood of the data are used. The
    amplitude falls with the light across the trace, so that the correction does not absorb light of a background, of a
    neighbour, or of subtracted nods far from the trace.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Background-free signal and inverse variances.
    fluxes : (exposure, x) ndarray
        Flux of each column.
    profile : Profile
        A Gaussian profile, with or without an earlier correction; the earlier correction is replaced.
    levels : sequence of ndarray
        Shapes (exposure, y, x), such as that of a neighbour, whose brightness in each column is fitted with the
        correction.
    """
    distance = profile.distance(images.shape[1])
    bare = replace(profile, correction=np.zeros_like(profile.correction))
    shape, _ = bare.response(images.shape[1])
    n_u, n_x = profile.correction.shape
    size = n_u * n_x
    residual = images - fluxes[:, None, :] * shape
    passed = np.ones_like(images) if profile.passed is None else profile.passed
    one, none = np.ones((images.shape[0], 1)), np.zeros((images.shape[0], 1))
    strengths, distances = np.hstack([one, -profile.strengths]), np.hstack([none, profile.distances])
    # use all pixels that the splines reach: splines outside the aperture would be arbitrary without these pixels
    pixels = SplinePixels(distance, residual, weights, passed, fluxes)
    shapes = np.stack([*orthonormal(levels, weights), np.zeros_like(images)])
    normal, right = normal_equations(pixels, strengths, distances, shapes, profile.grid)
    scale = _decline(profile, n_u)
    normal = normal + np.triu(normal, 1).T
    difference = np.diff(np.eye(n_x), axis=0)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for stiffness in _STIFFNESSES:
        along = np.eye(n_x) + stiffness * difference.T @ difference
        prior = np.kron(np.diag(scale**-2.0), along)
        log_prior = n_u * np.linalg.slogdet(along)[1] - 2 * n_x * np.log(scale).sum()
        for amplitude in _AMPLITUDES:
            factor = cho_factor(normal + prior / amplitude**2, lower=True)
            solution = cho_solve(factor, right)
            log_determinant = 2 * np.log(np.diag(factor[0])).sum()
            evidence = right @ solution + log_prior - size * 2 * np.log(amplitude) - log_determinant
            if best is None or evidence > best[0]:
                best = (evidence, solution, cho_solve(factor, np.eye(size)))
    assert best is not None
    return replace(profile, correction=best[1].reshape(n_u, n_x), correction_covariance=best[2])


def _decline(profile: Profile, n_u: int) -> np.ndarray:
    """Return the expected amplitude of splines across the trace (n_u,), relative to the middle."""
    places = (np.arange(n_u) - 1.0) * 2 * (profile.reach + 1.0) / (n_u - 3) - (profile.reach + 1.0)
    width = float(np.exp(profile.shape[profile.n_exposures + 2]))
    light = skirted(places, np.array(width), float(profile.shape[-1]))[0]
    return np.asarray(np.maximum(light / light.max(), _LEAST))
