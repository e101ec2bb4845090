"""Fit sources and the background of a slit together, also sources that overlap."""

from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from nsxr.kernels.spectra.column_fit import solve_parts
from nsxr.kernels.spectra.companions import Others
from nsxr.kernels.spectra.trace_fit import MOST_SKIRT, SCALES, SLOPES
from nsxr.kernels.spectra.trace_profile import USUAL_SKIRT, WIDTHS, Profile

__all__ = ["fit_overlapping", "levels_of", "parts_of"]

_FLAW = 0.03  # error of the image of a point, as a part of its light
_FARTHEST = 0.5  # pixels, largest distance of the sources from the offset that was found first
_STEPS = 40


def fit_overlapping(
    images: np.ndarray,
    weights: np.ndarray,
    profile: Profile,
    others: Others,
    sky: np.ndarray,
    order: int,
    prior: float,
) -> Profile:
    """Fit the common offset of sources at known distances, and the width of their Gaussian profile.

    The light of each source in each column, and the background, are fitted at each step. The trace follows the plan:
    if its tilt and its curvature were free, the light of one source could take the place of the other.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal and inverse variances.
    profile : Profile
        Initial profile.
    others : Others
        The other sources.
    sky, order
        Shape and number of terms of the background.
    prior : float
        Standard deviation of the true offset from the planned one [pixel].
    """
    n = profile.n_exposures
    free = [*range(n), *range(n + 2, n + 6)]
    trusted = weights / (1 + weights * (_FLAW * images) ** 2)
    root, start = np.sqrt(trusted), profile.shape[free]
    start[-1] = np.clip(start[-1], 0.01, 0.39)
    usual = np.concatenate([np.zeros(n), [start[n], 0.0, 0.0, USUAL_SKIRT]])
    scales = np.concatenate([np.full(n, prior), SCALES[2:]])  # the trace is not tilted or curved

    def at(values: np.ndarray) -> Profile:
        shape = np.zeros_like(profile.shape)
        shape[free] = values
        return replace(profile, shape=shape)

    def residual(values: np.ndarray) -> np.ndarray:
        trial = at(values)
        flux, _, beside, level, _ = parts_of(images, trusted, trial, others, sky, order)
        left = images - flux[:, None, :] * trial.response(images.shape[1])[0] - beside - level
        return np.concatenate([(root * left).ravel(), (values - usual) / scales])

    low = np.concatenate([start[:n] - _FARTHEST, [np.log(WIDTHS[0])], -SLOPES, [0.0]])
    high = np.concatenate([start[:n] + _FARTHEST, [np.log(profile.widest)], SLOPES, [MOST_SKIRT]])
    inside = np.clip(start, low + 1e-3, high - 1e-3)
    found = least_squares(residual, inside, bounds=(low, high), diff_step=1e-3, max_nfev=_STEPS, x_scale=scales)
    covariance = np.zeros_like(profile.covariance)
    covariance[np.ix_(free, free)] = np.linalg.pinv(found.jac.T @ found.jac)
    return replace(at(found.x), covariance=covariance)


def parts_of(
    images: np.ndarray, precision: np.ndarray, profile: Profile, others: Others, sky: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit the source, the others and the background together.

    Returns
    -------
    flux (exposure, x), amplitudes of the others (other, exposure, x), their light, the background (exposure, y, x),
    deviations of the amplitudes.
    """
    n_rows = images.shape[1]
    count = others.strengths.shape[1] if others else 0
    shapes = [profile.response(n_rows)[0], *(others.shapes(profile, n_rows) if count else ())]
    shapes += levels_of(sky, order)
    parts = np.stack(shapes)
    found, deviations = solve_parts(images, precision, parts)
    light = found[:, :, None, :] * parts
    amplitudes = found[1 : 1 + count]
    return found[0], amplitudes, light[1 : 1 + count].sum(0), light[1 + count :].sum(0), deviations[1 : 1 + count]


def levels_of(sky: np.ndarray, order: int) -> list[np.ndarray]:
    """Return the shapes of the background (exposure, y, x): the sky behind open shutters, and the same with a slope."""
    slope = 2.0 * np.arange(sky.shape[1])[:, None] / max(sky.shape[1] - 1, 1) - 1.0
    return [sky, sky * slope][:order]
