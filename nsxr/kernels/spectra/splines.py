"""Evaluate cubic splines across and along a trace, and set up the equations for their coefficients."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["SplineGrid", "SplinePixels", "add_splines", "normal_equations", "spline_variance"]


class SplineGrid(NamedTuple):
    """Hold the knots of the splines.

    Attributes
    ----------
    n_u, n_x : int
        Number of splines across and along the trace.
    reach : float
        Distance from the trace up to which there are splines [pixel].
    """

    n_u: int
    n_x: int
    reach: float


class SplinePixels(NamedTuple):
    """Hold the pixels to which splines are fitted.

    Attributes
    ----------
    distance, residual, weights, passed : (exposure, y, x) float64
        Distance from the trace [pixel], signal to fit, inverse variances, and the part of the light that open shutters
        let through.
    fluxes : (exposure, x) float64
        Flux of each column.
    """

    distance: np.ndarray
    residual: np.ndarray
    weights: np.ndarray
    passed: np.ndarray
    fluxes: np.ndarray


@kernel
def _cubic(position: float, values: np.ndarray) -> int:
    """Write the four nonzero cubic B-splines to ``values``; return the index of the first."""
    first = int(np.floor(position))
    t = position - first
    s = 1.0 - t
    values[0] = s * s * s / 6.0
    values[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    values[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    values[3] = t * t * t / 6.0
    return first


@kernel
def add_splines(distance: np.ndarray, coefficients: np.ndarray, reach: float, out: np.ndarray) -> None:
    """Add the splines to ``out`` (exposure, y, x)."""
    n_u, n_x = coefficients.shape
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            for y in range(distance.shape[1]):
                position = (distance[e, y, x] + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                if not 0.0 <= position < n_u - 3:  # also true for NaN
                    continue
                j = _cubic(position, across)
                total = 0.0
                for a in range(4):
                    for b in range(4):
                        total += across[a] * along[b] * coefficients[j + a, i + b]
                out[e, y, x] += total


@kernel
def normal_equations(
    pixels: SplinePixels, strengths: np.ndarray, distances: np.ndarray, levels: np.ndarray, grid: SplineGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper triangle of the normal matrix, and the right side, of the spline coefficients.

    Parameters
    ----------
    pixels : SplinePixels
        Pixels of all exposures.
    strengths, distances : (exposure, part) float64
        Strengths and distances of the source and of its echoes.
    levels : (level, exposure, y, x) float64
        Orthonormal shapes that are eliminated; the last one is not used.
    grid : SplineGrid
        The knots.
    """
    distance, residual, weights, passed, fluxes = pixels
    n_u, n_x, reach = grid
    n_levels = levels.shape[0] - 1
    shared, known = np.zeros((n_levels, n_u * 4)), np.zeros(n_levels)
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    n_parts = strengths.shape[1]
    values, places = np.empty(16 * n_parts), np.empty(16 * n_parts, np.int64)
    normal, right = np.zeros((n_u * n_x, n_u * n_x)), np.zeros(n_u * n_x)
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            shared[:] = 0.0
            known[:] = 0.0
            for y in range(distance.shape[1]):
                weight = weights[e, y, x]
                if weight <= 0.0:
                    continue
                for k in range(n_levels):
                    known[k] += weight * levels[k, e, y, x] * residual[e, y, x]
                count = 0
                for part in range(n_parts):
                    u = distance[e, y, x] - distances[e, part]
                    position = (u + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                    if strengths[e, part] == 0.0 or not 0.0 <= position < n_u - 3:
                        continue
                    flux = fluxes[e, x] * strengths[e, part] * passed[e, y, x]
                    j = _cubic(position, across)
                    for a in range(4):
                        for b in range(4):
                            values[count] = flux * across[a] * along[b]
                            places[count] = (j + a) * n_x + i + b
                            count += 1
                for p in range(count):
                    for k in range(n_levels):
                        j, b = places[p] // n_x, places[p] % n_x - i
                        shared[k, 4 * j + b] += weight * values[p] * levels[k, e, y, x]
                    right[places[p]] += weight * values[p] * residual[e, y, x]
                    for q in range(p if n_parts == 1 else 0, count):
                        if places[p] <= places[q]:
                            normal[places[p], places[q]] += weight * values[p] * values[q]
            for k in range(n_levels):
                for j in range(n_u):
                    for b in range(4):
                        right[j * n_x + i + b] -= shared[k, 4 * j + b] * known[k]
                        for m in range(j, n_u):
                            for c in range(b if m == j else 0, 4):
                                product = shared[k, 4 * j + b] * shared[k, 4 * m + c]
                                normal[j * n_x + i + b, m * n_x + i + c] -= product
    return normal, right


@kernel
def spline_variance(
    distance: np.ndarray, weights: np.ndarray, grid: SplineGrid, covariance: np.ndarray, out: np.ndarray
) -> None:
    """Write the variance of sum(weights * splines) over each column to ``out`` (exposure, x)."""
    n_u, n_x, reach = grid
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    gradient = np.zeros(4 * n_u)
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            low, high = n_u, 0  # splines that the column has
            for y in range(distance.shape[1]):
                position = (distance[e, y, x] + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                if weights[e, y, x] == 0.0 or not 0.0 <= position < n_u - 3:
                    continue
                j = _cubic(position, across)
                low, high = min(low, j), max(high, j + 4)
                for a in range(4):
                    for b in range(4):
                        gradient[4 * (j + a) + b] += weights[e, y, x] * across[a] * along[b]
            total = 0.0
            for k in range(low, high):
                for b in range(4):
                    row, known = (k * n_x + i + b), gradient[4 * k + b]
                    for m in range(low, high):
                        for c in range(4):
                            total += known * covariance[row, m * n_x + i + c] * gradient[4 * m + c]
            gradient[4 * low : 4 * high] = 0.0
            out[e, x] = total
