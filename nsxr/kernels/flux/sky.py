"""Fit one spectrum of the sky to the pixels of many slits, and evaluate a spectrum of the sky at pixels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.interpolate import BSpline, CubicSpline
from scipy.linalg import solveh_banded

from nsxr.errors import ModelError
from nsxr.kernels.medians import median_and_scatter

__all__ = ["Samples", "evaluate_sky", "fit_sky", "widths_of_pixels"]

_DEGREE = 3
_SPACING = 0.5
"""Least distance of knots [pixel]. Lines are narrower than two pixels, and slits see them at many phases."""
_LEAST = 8
"""Least number of pixels between two knots."""
_GAP = 4.0
"""Distance of neighbours beyond which nothing is known in between [pixel]."""
_FEWEST = 100
"""Number of pixels below which no spectrum is fitted."""
_CELL = 64.0
"""Length of the part of a row in which light that is not from the sky is looked for [pixel]."""
_CELL_LIMIT, _CELL_FLOOR = 3.0, 0.01
_PIXEL_LIMIT, _PIXEL_FLOOR = 4.0, 0.02
"""Limits of clipping: standard deviations, and the part of the sky that is added to them."""
_FIRST_FLOOR = 0.3
"""The same part before anything was fitted."""
_ITERATIONS = 8
_DISTANCES = np.array([2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 9.0, 11.0, 14.0, 18.0, 25.0])
"""Distances from a source at which its wings are fitted [pixel]."""
_WINGS, _STEEPNESS = 0.03, 2.0
"""Brightness of wings at the first of these distances over that around the source, as expected, and their slope."""
_N_WAVELENGTHS = 4
"""Number of wavelengths at which wings are fitted."""
_STIFFNESS = 1e-7
"""Weight of second differences, relative to that of pixels. It bridges intervals whose pixels were all clipped."""
_WINDOW, _MARGIN = 64, 24
"""Coefficients whose covariance is computed at once, and those around them that matter for it."""


class Samples(NamedTuple):
    """Pixels of slits that see the sky, and nothing else as far as is planned. All arrays are (pixel,) float64.

    Attributes
    ----------
    wavelength, width : ndarray
        Middle and width of the pixel [um].
    brightness : ndarray
        Surface brightness of uniform light [MJy/sr].
    var_poisson, var_rnoise : ndarray
        Its variances [(MJy/sr)2].
    response : ndarray
        Count rate for 1 MJy/sr.
    row : ndarray
        Number of the slit and of the place along it: pixels with the same number see the same place on the sky.
    distance : ndarray
        Distance from the planned source of the slit, along the slit [pixel].
    source : ndarray
        Mean brightness around this source in the same column, sky included [MJy/sr]; NaN in slits without a source.
    """

    wavelength: np.ndarray
    width: np.ndarray
    brightness: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    response: np.ndarray
    row: np.ndarray
    distance: np.ndarray
    source: np.ndarray

    def part(self, chosen: np.ndarray | slice) -> "Samples":
        """Return some of the pixels."""
        return Samples(*(array[chosen] for array in self))


def widths_of_pixels(wavelength: np.ndarray) -> np.ndarray:
    """Return the range of wavelengths of each pixel [um], NaN where neither neighbour in the row is known."""
    step = np.full((wavelength.shape[0], 1), np.nan)
    step = np.concatenate([step, np.abs(np.diff(wavelength.astype(np.float64), axis=1)), step], axis=1)
    before, after = step[:, :-1], step[:, 1:]
    return np.where(np.isnan(before), after, np.where(np.isnan(after), before, 0.5 * (before + after)))


def fit_sky(slits: np.ndarray, *, length: int) -> tuple[np.ndarray, ...]:
    """Fit a cubic spline in wavelength to the pixels of all slits, and the wings of their sources, by least squares.

    Parameters
    ----------
    slits : (slit,) ndarray of object
        The :class:`Samples` of each slit; numbers of rows may repeat from slit to slit.
    length : int
        Length of the results. Knots are farther apart if there would be more.

    Returns
    -------
    wavelength, brightness, var_poisson, var_rnoise : (length,) ndarray
        The spline at its knots and in the middle between them: another cubic spline through these points is the same.
        NaN beyond the last point.
    n_pixels : (length,) ndarray
        Pixels between the neighbours of each point that were used.
    dropped : () ndarray
        Part of the pixels that were clipped.

    Raises
    ------
    ModelError
        If too few pixels see the sky.
    """
    joined = Samples(*(np.concatenate(each) for each in zip(*slits, strict=True)))
    lowest, highest = (int(end) for end in (joined.row.min(initial=0), joined.row.max(initial=0)))
    number = np.repeat(np.arange(len(slits)), [one.row.size for one in slits])
    joined = joined._replace(row=number * (highest - lowest + 1) + joined.row.astype(np.int64) - lowest)
    samples = joined.part(np.argsort(joined.wavelength, kind="stable"))
    pieces = [samples.part(chosen) for chosen in _runs(samples)]
    pieces = [piece for piece in pieces if piece.wavelength.size >= _FEWEST]
    total = sum(piece.wavelength.size for piece in pieces)
    if not pieces:
        raise ModelError(
            f"the sky cannot be fitted: {samples.wavelength.size} pixels see nothing but the sky, expected {_FEWEST} "
            "at least; give a spectrum of the sky, or subtract backgrounds"
        )
    parts, kept = [], 0
    for piece in pieces:
        found, n_kept = _fit_piece(piece, int(length * piece.wavelength.size / total) // 2 - 4)
        parts.append(found)
        kept += n_kept
    results = np.concatenate(parts, axis=1)
    padded = np.full((len(results), length), np.nan)
    padded[:, : results.shape[1]] = results
    return (*padded, np.asarray(1 - kept / total))


def evaluate_sky(
    wavelength: np.ndarray,
    nodes: np.ndarray,
    brightness: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the brightness of a spectrum of the sky at pixels, and its two variances; all NaN where it is not known.

    The brightness is a cubic spline through the points of the spectrum that are finite. Variances are linear between
    them. Gaps of more than 4 pixels are not bridged. At its ends, a spectrum holds for one more pixel.

    Parameters
    ----------
    wavelength : (row, column) ndarray
        Wavelengths of the pixels of a slit [um].
    nodes, brightness, var_poisson, var_rnoise : (point,) ndarray
        The spectrum.
    """
    found: tuple[np.ndarray, np.ndarray, np.ndarray]
    found = np.full(wavelength.shape, np.nan), np.full(wavelength.shape, np.nan), np.full(wavelength.shape, np.nan)
    good = np.isfinite(nodes) & np.isfinite(brightness)
    order = np.argsort(nodes[good], kind="stable")
    at, *values = (array[good][order] for array in (nodes, brightness, var_poisson, var_rnoise))
    known = np.isfinite(wavelength)
    if at.size < 2 or known.sum() < 2:
        return found
    lam = wavelength.astype(np.float64)
    width = widths_of_pixels(wavelength)
    by_wavelength = np.argsort(lam[known])
    usual = np.interp(
        at, lam[known][by_wavelength], np.nan_to_num(width[known][by_wavelength], nan=np.nanmedian(width))
    )
    ends = np.flatnonzero(np.diff(at) > _GAP * np.minimum(usual[1:], usual[:-1])) + 1
    for first, last in zip([0, *ends], [*ends, at.size], strict=True):
        if last - first < 2:
            continue
        part = slice(first, last)
        inside = known & (lam > at[first] - usual[first]) & (lam < at[last - 1] + usual[last - 1])
        place = np.clip(lam[inside], at[first], at[last - 1])
        few = last - first < _DEGREE + 1
        found[0][inside] = (
            np.interp(place, at[part], values[0][part]) if few else CubicSpline(at[part], values[0][part])(place)
        )
        for image, variance in zip(found[1:], values[1:], strict=True):
            image[inside] = np.interp(place, at[part], np.nan_to_num(variance[part]))
    return found


def _runs(samples: Samples) -> Iterator[slice]:
    """Yield the parts of sorted samples between gaps."""
    gaps = np.flatnonzero(np.diff(samples.wavelength) > _GAP * samples.width[1:]) + 1
    for first, last in zip([0, *gaps], [*gaps, samples.wavelength.size], strict=True):
        yield slice(int(first), int(last))


class _Fit(NamedTuple):
    """Result of a fit: a spline, and the wings of sources over their light.

    Attributes
    ----------
    normal : sparse array
        (coefficient, coefficient) Normal matrix of the spline.
    sky : ndarray
        (coefficient,) The spline.
    wings : ndarray
        (wing,) Brightness of wings over that around the source, at distances and wavelengths.
    lift : ndarray
        (coefficient, wing) Change of the spline with the wings.
    covariance : ndarray
        (wing, wing) Covariance of the wings.
    """

    normal: Any
    sky: np.ndarray
    wings: np.ndarray
    lift: np.ndarray
    covariance: np.ndarray


def _fit_piece(samples: Samples, most: int) -> tuple[np.ndarray, int]:
    """Return the spline of sorted pixels without gaps, at most so many knots, and the number of pixels used."""
    place = np.concatenate([[0.0], np.cumsum(np.diff(samples.wavelength) / samples.width[1:])])
    knots = np.interp(_knots(place, most), place, samples.wavelength)
    grid = np.sort(np.concatenate([knots, 0.5 * (knots[1:] + knots[:-1])]))
    padded = np.concatenate([[knots[0]] * _DEGREE, knots, [knots[-1]] * _DEGREE])
    design = BSpline.design_matrix(samples.wavelength, padded, _DEGREE)
    of_grid = BSpline.design_matrix(grid, padded, _DEGREE).tocsr()
    interval = np.clip(np.searchsorted(knots, samples.wavelength, side="right") - 1, 0, knots.size - 2)
    variance = _expected_variance(samples, interval)
    sky = _medians(samples.brightness, np.floor(place).astype(int))
    kept = _is_sky(samples, sky, 1 / variance, place, _FIRST_FLOOR)
    for number in range(_ITERATIONS):
        if kept.sum() < _FEWEST:
            break
        wings, before = _wings(samples, sky), kept
        fit = _solve(design, wings, np.where(kept, 1 / variance, 0.0), samples.brightness)
        sky = design @ fit.sky
        rest = samples.brightness - wings @ fit.wings
        kept = _is_sky(samples._replace(brightness=rest), sky, 1 / variance, place, _CELL_FLOOR)
        if number:
            kept &= np.abs(rest - sky) <= _PIXEL_LIMIT * np.sqrt(variance) + _PIXEL_FLOOR * np.abs(sky)
        if (kept == before).all():
            break
    if kept.sum() < _FEWEST:
        raise ModelError(
            f"the sky cannot be fitted: {kept.sum()} of {kept.size} pixels agree on a spectrum, expected {_FEWEST} at "
            "least; give a spectrum of the sky, or subtract backgrounds"
        )
    pull = ((rest - sky) / np.sqrt(variance))[kept]
    scale = max(1.0, median_and_scatter(pull)[1]) ** 2
    lift = of_grid @ fit.lift
    total = scale * (_variances(fit.normal, of_grid) + np.einsum("pi,ij,pj->p", lift, fit.covariance, lift))
    photons, noise = (
        np.bincount(interval, kept * one, knots.size - 1) for one in (samples.var_poisson, samples.var_rnoise)
    )
    share = photons / np.maximum(photons + noise, np.finfo(float).tiny)
    of_point = np.minimum(np.arange(grid.size) // 2, knots.size - 2)
    count = np.bincount(interval, kept, knots.size - 1)[of_point]
    parts = total * share[of_point], total * (1 - share[of_point])
    return np.stack([grid, of_grid @ fit.sky, *parts, count]), int(kept.sum())


def _wings(samples: Samples, sky: np.ndarray) -> Any:
    """Return the light in each pixel for wings of one, (pixel, wing), linear between distances and wavelengths."""
    n = samples.wavelength.size
    light = np.nan_to_num(samples.source - sky)
    distance = np.interp(np.nan_to_num(samples.distance), _DISTANCES, np.arange(_DISTANCES.size))
    ends = samples.wavelength[[0, -1]]
    place = np.interp(samples.wavelength, ends, [0, _N_WAVELENGTHS - 1])
    first, left = (
        np.minimum(one.astype(np.int64), size - 2)
        for one, size in ((distance, _DISTANCES.size), (place, _N_WAVELENGTHS))
    )
    u, v = distance - first, place - left
    values = [light * p * q for p in (1 - u, u) for q in (1 - v, v)]
    columns = [(first + i) * _N_WAVELENGTHS + left + j for i in (0, 1) for j in (0, 1)]
    at = np.tile(np.arange(n), 4), np.concatenate(columns)
    return sparse.csr_array((np.concatenate(values), at), shape=(n, _DISTANCES.size * _N_WAVELENGTHS))


def _knots(place: np.ndarray, most: int) -> np.ndarray:
    """Return places of knots [pixel], at least half a pixel and 8 samples apart."""
    spacing = max(_SPACING, place[-1] / most)
    knots, since = [0.0], 0
    for edge, count in enumerate(np.bincount((place / spacing).astype(int)), start=1):
        since += count
        if since >= _LEAST:
            knots.append(edge * spacing)
            since = 0
    if len(knots) == 1:
        return np.array([0.0, place[-1]])
    knots[-1] = place[-1]  # what is left over joins the last interval
    return np.array(knots)


def _expected_variance(samples: Samples, interval: np.ndarray) -> np.ndarray:
    """Return the variance of the sky in each pixel, with photon noise averaged over the pixels around.

    Weights from the variances of the pixels themselves would prefer low values.
    """
    photons = np.bincount(interval, samples.var_poisson * samples.response) / np.maximum(np.bincount(interval), 1)
    return np.asarray(photons[interval] / samples.response + samples.var_rnoise)


def _medians(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return for each value the median of its group. Groups are sorted."""
    order = np.lexsort((values, group))
    first = np.searchsorted(group, group, side="left")
    last = np.searchsorted(group, group, side="right") - 1
    ranked = values[order]
    return np.asarray(0.5 * (ranked[(first + last) // 2] + ranked[(first + last + 1) // 2]))


def _is_sky(samples: Samples, sky: np.ndarray, weight: np.ndarray, place: np.ndarray, floor: float) -> np.ndarray:
    """Return which pixels lie in rows whose light agrees with the sky, as far as most rows agree.

    The light of each row in parts of 64 pixels is compared with the sky there. Neighbours that nobody planned stand
    out, if they are in fewer than half of the rows.
    """
    part = (place / _CELL).astype(np.int64)
    _, cell = np.unique(part * (int(samples.row.max()) + 1) + samples.row, return_inverse=True)
    known = np.maximum(np.bincount(cell, weight * sky * sky), np.finfo(float).tiny)
    excess = np.bincount(cell, weight * sky * (samples.brightness - sky)) / known
    uncertain = 1 / known
    of_part = np.zeros(excess.size, np.int64)
    of_part[cell] = part
    order = np.argsort(of_part, kind="stable")
    centre = np.empty(excess.size)
    centre[order] = _medians(excess[order], of_part[order])
    spread = np.empty(excess.size)
    spread[order] = _medians(np.abs(excess - centre)[order], of_part[order])
    own = np.maximum((1.4826 * spread) ** 2 - np.median(uncertain), 0.0)
    agrees = np.abs(excess - centre) <= _CELL_LIMIT * np.sqrt(uncertain + own) + floor
    return np.asarray(agrees[cell])


def _solve(design: Any, wings: Any, weight: np.ndarray, values: np.ndarray) -> _Fit:
    """Return the weighted fit of a spline and of wings. Wings are expected to be faint, and fainter farther out."""
    n = design.shape[1]
    weighted = sparse.diags(weight) @ design
    normal = (design.T @ weighted).tocsc()
    bend = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
    normal = normal + _STIFFNESS * float(normal.diagonal().mean()) * (bend.T @ bend)
    banded = np.zeros((_DEGREE + 1, n))
    for k in range(_DEGREE + 1):
        banded[_DEGREE - k, k:] = normal.diagonal(k)
    crossed = (weighted.T @ wings).toarray()
    solved = solveh_banded(banded, np.column_stack([design.T @ (weight * values), crossed]))
    sky, lift = solved[:, 0], -solved[:, 1:]
    expected = np.repeat(_WINGS * (_DISTANCES[0] / _DISTANCES) ** _STEEPNESS, _N_WAVELENGTHS)
    inner = (wings.T @ (sparse.diags(weight) @ wings)).toarray() + np.diag(expected**-2) + crossed.T @ lift
    covariance = np.linalg.inv(inner)
    found = covariance @ (wings.T @ (weight * values) - crossed.T @ sky)
    return _Fit(normal.tocsr(), sky + lift @ found, found, lift, covariance)


def _variances(normal: Any, of_grid: Any) -> np.ndarray:
    """Return the variances of the points of a spline. Far coefficients do not matter: covariance falls off quickly."""
    n, points = normal.shape[0], of_grid.shape[0]
    found = np.empty(points)
    for first in range(0, points, 2 * _WINDOW):
        rows = slice(first, min(first + 2 * _WINDOW, points))
        block = of_grid[rows]
        low, high = max(int(block.indices.min()) - _MARGIN, 0), min(int(block.indices.max()) + 1 + _MARGIN, n)
        covariance = np.linalg.inv(normal[low:high, low:high].toarray())
        dense = block[:, low:high].toarray()
        found[rows] = np.einsum("pi,ij,pj->p", dense, covariance, dense, optimize=True)
    return found
