"""Fit the trace of a spectrum: its position, the width of the profile, and the echoes of subtracted nods."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.spectra.gaussians import skirted
from nsxr.kernels.spectra.trace_profile import (
    REACH,
    USUAL_SKIRT,
    WIDTHS,
    Profile,
    echoed,
    flux_of,
    polynomials,
    uncorrected,
)

__all__ = ["MOST_SKIRT", "SCALES", "SLOPES", "fit_echoes", "fit_trace", "orthonormal", "without"]

SCALES = np.array([0.3, 0.2, 0.5, 0.4, 0.2, 0.1])
"""Priors of the shape: deviations of tilt, curvature, three terms of the logarithm of the width, and skirt."""
SLOPES = np.array([0.5, 0.3])
"""Bounds of the change of the logarithm of the width along x."""
MOST_SKIRT = 0.4
"""Largest part of the light in the skirt."""
_FURTHEST = 1.5  # pixels, bound of the changes of offsets, and of tilt and curvature

_KINDS = (0, 0, 0, 1, 1, 1, 2)
"""What each parameter of the shape changes in a column: 0 the position (offset, tilt, curvature), 1 the width, 2 the
skirt."""

_Equations = tuple[float, np.ndarray, np.ndarray]
"""Chi square, the normal matrix, and the gradient."""


@kernel
def _add_columns(
    images: np.ndarray,
    weights: np.ndarray,
    shapes: np.ndarray,
    parts: np.ndarray,
    along: np.ndarray,
    normal: np.ndarray,
    gradient: np.ndarray,
) -> float:
    """Add all columns to the equations, with their fluxes eliminated, and return chi square.

    ``parts`` (4, exposure, y, x) are the profile and its derivatives by position, width and skirt, ``along`` (3, x)
    polynomials. Backgrounds of given shapes are eliminated too.
    """
    n_shapes, n, n_rows, n_columns = shapes.shape
    own, products, rests = np.empty((4, n_rows)), np.zeros((3, 3)), np.zeros(3)
    by_values, places = np.ones(len(_KINDS)), np.arange(n - 1, n + 6)
    chi_square = 0.0
    for e in range(n):
        places[0] = e
        for x in range(n_columns):
            for y in range(n_rows):
                for p in range(4):
                    own[p, y] = parts[p, e, y, x]
            for k in range(n_shapes):
                for p in range(4):
                    amount = 0.0
                    for y in range(n_rows):
                        amount += weights[e, y, x] * shapes[k, e, y, x] * own[p, y]
                    for y in range(n_rows):
                        own[p, y] -= shapes[k, e, y, x] * amount
            precision, flux = 0.0, 0.0
            for y in range(n_rows):
                precision += weights[e, y, x] * own[0, y] * own[0, y]
                flux += weights[e, y, x] * own[0, y] * images[e, y, x]
            safe = precision if precision > 0 else 1.0
            flux /= safe
            for p in range(1, 4):
                amount = 0.0
                for y in range(n_rows):
                    own[p, y] *= flux
                    amount += weights[e, y, x] * own[0, y] * own[p, y]
                for y in range(n_rows):
                    own[p, y] -= own[0, y] * amount / safe
            products[:] = 0.0
            rests[:] = 0.0
            for y in range(n_rows):
                weight, rest = weights[e, y, x], images[e, y, x] - flux * own[0, y]
                chi_square += weight * rest * rest
                for p in range(3):
                    rests[p] += weight * own[p + 1, y] * rest
                    for q in range(p + 1):
                        products[p, q] += weight * own[p + 1, y] * own[q + 1, y]
            by_values[1:3] = along[1:, x]
            by_values[3:6] = along[:, x]
            for i, p in enumerate(_KINDS):
                gradient[places[i]] += by_values[i] * rests[p]
                for j in range(i + 1):
                    normal[places[i], places[j]] += by_values[i] * by_values[j] * products[p, _KINDS[j]]
    return chi_square


@dataclass(frozen=True)
class _Problem:
    """Hold the least-squares problem of a trace.

    Attributes
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal and inverse variances.
    start : Profile
        Initial profile.
    shapes : (shape, exposure, y, x) ndarray
        Orthonormal shapes of the background.
    centre, deviations : ndarray
        Mean and standard deviations of the prior of the shape.
    """

    images: np.ndarray
    weights: np.ndarray
    start: Profile
    shapes: np.ndarray
    centre: np.ndarray
    deviations: np.ndarray

    def equations(self, values: np.ndarray) -> _Equations:
        """Return the normal equations for given values of the shape, with fluxes eliminated."""
        images, weights, start = self.images, self.weights, self.start
        centre, deviations = self.centre, self.deviations
        n, n_rows, n_columns = images.shape
        along, rows = polynomials(n_columns), np.arange(n_rows)[:, None]
        trace = start.plan + values[:n, None] + values[n : n + 2] @ along[1:]
        width = np.exp(values[n + 2 : -1] @ along)
        parts = echoed(rows - trace[:, None, :], width, values[-1], start)
        parts[1] *= -1.0  # by the position of the trace
        normal, gradient = np.diag(1 / deviations**2), (centre - values) / deviations**2
        parts = np.ascontiguousarray(parts)
        chi_square = _add_columns(images, weights, self.shapes, parts, along, normal, gradient)
        chi_square += float((((values - centre) / deviations) ** 2).sum())
        normal += np.tril(normal, -1).T  # only one half was added
        return chi_square, normal, gradient


def _minimized(
    problem: _Problem, shape: np.ndarray, lowest: np.ndarray, highest: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best shape within bounds, and its normal matrix, by damped steps (Levenberg and Marquardt)."""
    shape = np.clip(shape, lowest, highest)
    chi_square, normal, gradient = problem.equations(shape)
    damping = 1e-3
    for _ in range(iterations):
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-9))
        tried = np.clip(shape + step, lowest, highest)
        trial = problem.equations(tried)
        if trial[0] <= chi_square:
            done = chi_square - trial[0] < 1e-3
            shape, (chi_square, normal, gradient), damping = tried, trial, damping / 10
            if done:
                break
        else:
            damping = max(damping * 10, 1e-2)
    return shape, normal


def fit_trace(
    images: np.ndarray,
    weights: np.ndarray,
    start: Profile,
    prior: float,
    iterations: int = 8,
    levels: Sequence[np.ndarray] = (),
) -> Profile:
    """Fit the Gaussian profile: offsets of the exposures, shape of the trace, width.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal of the source alone and inverse variances.
    start : Profile
        Initial profile. Offsets stay within 1.5 pixels of it. The width is between that of the image of a point source
        and ``widest``. The trace stays within a few pixels of the planned position.
    prior : float
        Standard deviation of the true offset from the planned one [pixel].
    iterations : int, default 8
        Number of Gauss-Newton steps; fluxes are eliminated in each (variable projection; Golub and Pereyra 2003).
    levels : sequence of ndarray
        Shapes (exposure, y, x) of a background. Its brightness in each column is eliminated too.
    """
    n, shape = images.shape[0], start.shape
    levels = orthonormal(levels, weights)
    width = np.exp(shape[n + 2])
    deviations = np.concatenate([np.full(n, prior), SCALES])
    centre = np.concatenate([np.zeros(n + 2), [np.log(width), 0.0, 0.0, USUAL_SKIRT]])
    furthest = np.concatenate([np.full(n + 2, _FURTHEST), [0.0], SLOPES, [0.0]])
    middle = np.concatenate([shape[:n], np.zeros(6)])
    lowest, highest = middle - furthest, middle + furthest
    lowest[n + 2], highest[n + 2] = np.log(WIDTHS[0]), np.log(start.widest)
    lowest[-1], highest[-1] = 0.0, MOST_SKIRT

    shapes = np.stack(levels) if levels else np.zeros((0, *images.shape))
    problem = _Problem(without(images, weights, levels), weights, start, shapes, centre, deviations)
    shape, normal = _minimized(problem, shape, lowest, highest, iterations)
    found = replace(start, shape=shape, covariance=np.linalg.inv(normal))
    reach = start.half_width + REACH
    if start.slit is not None:  # only as far as an extended source reaches, not over the whole slit
        height = float(np.median(start.slit.sum(1)))
        reach = float(np.clip(3.0 * np.exp(shape[n + 2]), 3.0, max(min(start.half_width, 0.5 * height), 3.0)))
    return uncorrected(found, reach)


def orthonormal(shapes: Sequence[np.ndarray], weights: np.ndarray) -> list[np.ndarray]:
    """Return combinations of shapes (exposure, y, x) that are orthonormal in each column for the given weights."""
    found: list[np.ndarray] = []
    for shape in shapes:
        rest = without(shape, weights, found)
        power, usual = ((weights * each**2).sum(1, keepdims=True) for each in (rest, shape))
        found.append(np.where(power > 1e-6 * usual, rest / np.sqrt(np.where(power > 0, power, 1.0)), 0.0))
    return found


def without(values: np.ndarray, weights: np.ndarray, levels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the residuals of images (exposure, y, x) after a fit of orthonormal shapes to each column."""
    for level in levels:
        values = values - level * (weights * level * values).sum(1, keepdims=True)
    return values


def fit_echoes(
    images: np.ndarray, weights: np.ndarray, profile: Profile, planned: np.ndarray, astray: float, unlike: np.ndarray
) -> Profile:
    """Fit distances and strengths of the echoes of an uncorrected profile.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal of the source with its echoes, and inverse variances.
    profile : Profile
        Without correction.
    planned : (2, exposure, echo) ndarray
        Planned distances [pixel], and usual strengths.
    astray : float
        Standard deviation of distances from the planned ones [pixel].
    unlike : (exposure,) ndarray
        Standard deviation of strengths from the usual ones.
    """
    n = profile.n_exposures
    distance, width, part = profile.distance(images.shape[1]), profile.width(), profile.shape[-1]
    passed = np.ones_like(images) if profile.passed is None else profile.passed
    distances, strengths = profile.distances.copy(), profile.strengths.copy()
    for _ in range(2):
        signal = echoed(distance, width, part, replace(profile, distances=distances, strengths=strengths))[0]
        flux, precision = flux_of(images, weights, signal)
        residual = images - flux[:, None, :] * signal
        for e in range(n):
            there = np.flatnonzero(strengths[e])
            if not there.size:
                continue
            derivatives = []
            for k in there:
                echo, by_distance, _, _ = skirted(distance[e] - distances[e, k], width, part)
                derivatives += [-echo * passed[e], strengths[e, k] * by_distance * passed[e]]
            safe = np.where(precision[e] > 0, precision[e], 1.0)
            changes = [
                flux[e] * d - signal[e] * ((weights[e] * signal[e] * flux[e] * d).sum(0) / safe) for d in derivatives
            ]
            normal = np.array([[(weights[e] * a * b).sum() for b in changes] for a in changes])
            right = np.array([(weights[e] * a * residual[e]).sum() for a in changes])
            odd = np.arange(1, 2 * there.size, 2)
            normal[odd, odd] += 1 / astray**2
            right[odd] += (planned[0, e, there] - distances[e, there]) / astray**2
            normal[odd - 1, odd - 1] += 1 / unlike[e] ** 2
            right[odd - 1] += (planned[1, e, there] - strengths[e, there]) / unlike[e] ** 2
            step = np.linalg.solve(normal, right)
            usual, nearest = planned[1, e, there], planned[0, e, there]
            strengths[e, there] = np.clip(strengths[e, there] + step[::2], 0.5 * usual, 1.5 * usual)
            distances[e, there] = np.clip(distances[e, there] + step[1::2], nearest - 2 * astray, nearest + 2 * astray)
    return replace(profile, distances=distances, strengths=strengths)
