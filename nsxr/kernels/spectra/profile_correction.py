"""Fit the correction of a trace profile: splines whose size is determined by the data."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.spectra.banded import Prior, most_likely
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
    *,
    with_covariance: bool = True,
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
    with_covariance : bool, default True
        Without it, the covariance of the correction is zero. It takes as long as the fit.
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
    normal, scale = normal + np.triu(normal, 1).T, _decline(profile, n_u)
    # splines that are more than three apart have no pixel in common, but other light connects all splines of a column
    is_near = not levels and not profile.strengths.any()
    order = np.arange(size) if is_near else np.arange(size).reshape(n_u, n_x).T.ravel()
    bandwidth = min(3 * n_x + 3 if is_near else 4 * n_u - 1, size - 1)
    priors = [
        Prior(_blocks(scale**-2.0, each)[np.ix_(order, order)], n_u * determinant - 2 * n_x * np.log(scale).sum())
        for each, determinant in _along(n_x)
    ]
    found, covariance = most_likely(
        normal[np.ix_(order, order)], right[order], priors, _AMPLITUDES, bandwidth, with_covariance=with_covariance
    )
    back = np.argsort(order)
    covariance = np.ascontiguousarray(covariance[np.ix_(back, back)])
    return replace(profile, correction=found[back].reshape(n_u, n_x), correction_covariance=covariance)


@cache
def _along(n_x: int) -> list[tuple[np.ndarray, float]]:
    """Return the inverse covariance of coefficients along the trace, and its log determinant, by stiffness."""
    difference = np.diff(np.eye(n_x), axis=0)
    along = [np.eye(n_x) + stiffness * difference.T @ difference for stiffness in _STIFFNESSES]
    return [(each, np.linalg.slogdet(each)[1]) for each in along]


@kernel
def _blocks(factors: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return a matrix with a multiple of a block for each factor on its diagonal."""
    n = block.shape[0]
    found = np.zeros((factors.size * n, factors.size * n))
    for k, factor in enumerate(factors):
        found[k * n : (k + 1) * n, k * n : (k + 1) * n] = factor * block
    return found


def _decline(profile: Profile, n_u: int) -> np.ndarray:
    """Return the expected amplitude of splines across the trace (n_u,), relative to the middle."""
    places = (np.arange(n_u) - 1.0) * 2 * (profile.reach + 1.0) / (n_u - 3) - (profile.reach + 1.0)
    width = float(np.exp(profile.shape[profile.n_exposures + 2]))
    light = skirted(places, np.array(width), float(profile.shape[-1]))[0]
    return np.asarray(np.maximum(light / light.max(), _LEAST))
