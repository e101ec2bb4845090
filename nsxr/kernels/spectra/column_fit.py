"""Fit a few shapes to each column of an image by least squares."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["box_weights", "column_weights", "solve_parts"]


@kernel
def _weights(
    profile: np.ndarray, aperture: np.ndarray, precision: np.ndarray, order: int, sky: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve the least-squares fit of each column for flux and background; see :func:`column_weights`."""
    n, n_rows, n_columns = profile.shape
    n_terms = 1 + order
    flux_weights, background_weights = np.zeros(profile.shape), np.zeros(profile.shape)
    leverage = np.zeros(profile.shape)
    weights, terms = np.empty(n_rows), np.empty((n_rows, n_terms))
    normal, inverse = np.empty((n_terms, n_terms)), np.empty((n_terms, n_terms))
    for e in range(n):
        for x in range(n_columns):
            normal[:] = 0.0
            scale = 0.0
            for y in range(n_rows):
                weight = precision[e, y, x]
                if weight <= 0.0 or (order == 0 and aperture[e, y, x] <= 0.0):
                    weights[y] = 0.0
                    continue
                weights[y] = weight
                _terms(profile[e, y, x], sky[e, y, x], y, n_rows, terms[y])
                for i in range(n_terms):
                    for j in range(n_terms):
                        normal[i, j] += weight * terms[y, i] * terms[y, j]
                scale = max(scale, weight)
            if scale == 0.0 or not _invert(normal, inverse):
                continue
            centre, total = 0.0, 0.0
            for y in range(n_rows):
                centre += aperture[e, y, x] * y
                total += aperture[e, y, x]
            centre /= max(total, 1e-9)
            at_centre = 2.0 * centre / max(n_rows - 1, 1) - 1.0
            for y in range(n_rows):
                weight = weights[y]
                if weight == 0.0:
                    continue
                for i in range(n_terms):
                    flux_weights[e, y, x] += inverse[0, i] * terms[y, i] * weight
                    for j in range(n_terms):
                        leverage[e, y, x] += terms[y, i] * inverse[i, j] * terms[y, j] * weight
                    if order >= 1:
                        background_weights[e, y, x] += inverse[1, i] * terms[y, i] * weight
                    if order >= 2:
                        background_weights[e, y, x] += at_centre * inverse[2, i] * terms[y, i] * weight
    return flux_weights, background_weights, leverage


@kernel
def _terms(profile: float, sky: float, y: int, n_rows: int, out: np.ndarray) -> None:
    out[0] = profile
    for i in range(1, out.size):
        out[i] = sky if i == 1 else sky * (2.0 * y / max(n_rows - 1, 1) - 1.0)


@kernel
def _invert(matrix: np.ndarray, inverse: np.ndarray) -> bool:
    """Invert a small positive matrix; return False if it is singular, as in a column with too few usable pixels."""
    n = matrix.shape[0]
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if total <= 1e-9 * matrix[i, i] or matrix[i, i] <= 0.0:
                    return False
                lower[i, i] = np.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    column = np.empty(n)
    for c in range(n):
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(i):
                total -= lower[i, k] * column[k]
            column[i] = total / lower[i, i]
        for i in range(n - 1, -1, -1):
            total = column[i]
            for k in range(i + 1, n):
                total -= lower[k, i] * inverse[k, c]
            inverse[i, c] = total / lower[i, i]
    return True


def column_weights(
    profile: np.ndarray,
    aperture: np.ndarray,
    precision: np.ndarray,
    order: int = 0,
    sky: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights of pixels in the flux and in the background of their column.

    Parameters
    ----------
    profile, aperture : (exposure, y, x) ndarray
        Part of the flux in each pixel; part of each pixel within the aperture.
    precision : (exposure, y, x) ndarray
        Inverse variances; 0 where a pixel cannot be used.
    order : int, default 0
        Number of terms of a background that is fitted together with the flux: none, a constant, or a line. Without
        background only pixels in the aperture are used.
    sky : (exposure, y, x) ndarray, optional
        Part of a uniform background that reaches a pixel; by default 1 everywhere.

    Returns
    -------
    flux_weights, background_weights : (exposure, y, x) ndarray
        ``sum(weights * image)`` is the flux, or the background of a pixel in the middle of the aperture. All weights
        are zero in columns with too few usable pixels.
    leverage : (exposure, y, x) ndarray
        Weight of the value of a pixel in its own fitted value.
    """
    return _weights(profile, aperture, precision, order, np.ones_like(profile) if sky is None else sky)


def box_weights(
    weights: np.ndarray,
    level_weights: np.ndarray,
    profile: np.ndarray,
    response: np.ndarray,
    aperture: np.ndarray,
    precision: np.ndarray,
    sky: np.ndarray,
    order: int,
    off_profile: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of pixels in sums over the aperture, and in the background.

    The part of the sum that is missing, or that was removed by subtracted nods, comes from the fit. The fitted
    background is subtracted. Where the light is distributed differently from the profile, the background comes from
    pixels outside the aperture.

    Parameters
    ----------
    weights, level_weights, aperture, precision, sky, order
        See :func:`column_weights`.
    profile, response : (exposure, y, x) ndarray
        Part of the flux in a pixel, without and with subtracted nods.
    off_profile : (exposure, x) ndarray of bool
        Columns whose light is distributed differently from the profile.
    """
    is_left = 2 * (profile - response) <= np.maximum(profile, 0.0)
    inside = np.where((precision > 0) & is_left, aperture, 0.0)
    if order:
        beside = np.where(aperture > 0, 0.0, precision * sky)
        total = (beside * sky).sum(1, keepdims=True)
        mean = np.where(total > 0, beside / np.where(total > 0, total, 1.0), 0.0)
        level_weights = np.where(off_profile[:, None, :], mean, level_weights)
    summed, level_in_it = (inside * response).sum(1, keepdims=True), (inside * sky).sum(1, keepdims=True)
    found = inside - (level_in_it * level_weights if order else 0.0) + (1 - summed) * weights
    return np.where(weights.any(1, keepdims=True), found, 0.0), level_weights


@kernel
def _solve(
    images: np.ndarray, precision: np.ndarray, parts: np.ndarray, out: np.ndarray, deviation: np.ndarray
) -> None:
    """Fit all parts to each column at once; parts that the pixels do not determine are zero."""
    n_parts, n, n_rows, n_columns = parts.shape
    normal, inverse, right = np.empty((n_parts, n_parts)), np.empty((n_parts, n_parts)), np.empty(n_parts)
    for e in range(n):
        for x in range(n_columns):
            normal[:] = 0.0
            right[:] = 0.0
            for y in range(n_rows):
                weight = precision[e, y, x]
                if weight <= 0.0:
                    continue
                for i in range(n_parts):
                    right[i] += weight * parts[i, e, y, x] * images[e, y, x]
                    for j in range(n_parts):
                        normal[i, j] += weight * parts[i, e, y, x] * parts[j, e, y, x]
            largest = 0.0
            for i in range(n_parts):
                largest = max(largest, normal[i, i])
            for i in range(n_parts):
                if normal[i, i] <= 1e-4 * largest or largest == 0.0:  # such as a source outside the cut-out
                    normal[i, :] = 0.0
                    normal[:, i] = 0.0
                    normal[i, i] = 1.0
                    right[i] = 0.0
                else:
                    normal[i, i] *= 1.0 + 1e-6  # two sources at the same place share their light
            for i in range(n_parts):
                out[i, e, x] = 0.0
                deviation[i, e, x] = np.inf
            if not _invert(normal, inverse):
                continue
            for i in range(n_parts):
                for j in range(n_parts):
                    out[i, e, x] += inverse[i, j] * right[j]
                deviation[i, e, x] = np.sqrt(inverse[i, i])


def solve_parts(images: np.ndarray, precision: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitudes of all parts in each column (part, exposure, x), fitted together, and their deviations.

    Parameters
    ----------
    images, precision : (exposure, y, x) ndarray
        Signal, and inverse variances of zero where a pixel cannot be used.
    parts : (part, exposure, y, x) ndarray
        Shapes of the source, of other sources, and of the background. A part is zero in columns where it is absent.
    """
    shape = (parts.shape[0], parts.shape[1], parts.shape[3])
    found, deviation = np.empty(shape), np.empty(shape)
    _solve(images, precision, np.ascontiguousarray(parts), found, deviation)
    return found, deviation
