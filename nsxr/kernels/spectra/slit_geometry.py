"""Find the planned place of a source in a cut-out from the edges of the slit, or from the light."""

from itertools import pairwise

import numpy as np
from scipy.special import erf

from nsxr.kernels.compilation import kernel

__all__ = ["nod_distances", "open_part", "planned_trace", "slit_aperture", "slit_range", "trace_of_light"]

SHUTTER_PITCH = 1.15
"""Distance of shutters in units of their open height; positions in slits have the same unit."""
ROWS_A_SHUTTER = 4.4
"""Approximate number of detector rows of the open height of a shutter; decides which margin applies."""
_MARGINS = (1.05, 0.55)  # from outer shutters to the ends of the wavelengths, in newer and older pipelines
_ROUNDS = 100  # number of projections that smooth the steps of an edge
_BLUR = 0.5  # pixels, standard deviation of the image of an edge, as seen in flight products


def slit_range(shutters: str, rows: float) -> tuple[float, float]:
    """Return the ends of the part of a slit that has wavelengths, in the units of positions in slits.

    Parameters
    ----------
    shutters : str
        State of the shutters of a slitlet, lowest first, ``x`` with the source (SHUTSTA); empty for fixed slits.
    rows : float
        Detector rows that the slit covers.
    """
    if not shutters.strip("-_ "):
        return -0.55, 0.55
    at = shutters.index("x") if "x" in shutters else (len(shutters) - 1) // 2
    ranges = [(-margin - at * SHUTTER_PITCH, margin + (len(shutters) - 1 - at) * SHUTTER_PITCH) for margin in _MARGINS]
    return min(ranges, key=lambda ends: abs(rows / (ends[1] - ends[0]) - ROWS_A_SHUTTER))


def planned_trace(wavelength: np.ndarray, shutters: str, position: float) -> np.ndarray | None:
    """Return the planned position of the trace (x,), in rows of the cut-out; None if the edges are not in the cut-out.

    Wavelengths are finite inside a slit. Its lower and upper edges follow whole pixels, in steps. A polynomial along
    the dispersion smooths these steps. It agrees to 0.02 pixels with the coordinates in flight products.

    Parameters
    ----------
    wavelength : (y, x) ndarray
        NaN outside the slit.
    shutters : str
        See :func:`slit_range`.
    position : float
        Planned position of the source in the slit (SRCYPOS); it increases towards lower rows.
    """
    edges = _edges(wavelength)
    if edges is None:
        return None
    middle, rows = edges
    low, high = slit_range(shutters, rows)
    return np.asarray(middle - (position - (low + high) / 2) * rows / (high - low))


def _edges(wavelength: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return the middle between the edges of the slit (x,) and its height, in rows of the cut-out."""
    n_rows, n_columns = wavelength.shape
    inside = np.isfinite(wavelength)
    lower = inside.argmax(0)
    upper = n_rows - 1 - inside[::-1].argmax(0)
    whole = inside.any(0) & (lower > 0) & (upper < n_rows - 1)
    if whole.sum() < max(8, 0.2 * n_columns):
        return None
    length = upper - lower + 1
    whole &= np.abs(length - np.median(length[whole])) <= 1
    x = np.linspace(-1.0, 1.0, n_columns)
    along = np.polynomial.legendre.legvander(x, 3 if n_columns > 1000 else 2)
    solve = np.linalg.pinv(along[whole])
    low, high = (lower - 0.5)[whole], (upper + 0.5)[whole]
    fit, rows = _smoothed(np.ascontiguousarray(along[whole].T), np.ascontiguousarray(solve), low, high)
    return np.asarray(along @ fit), rows


@kernel
def _smoothed(along: np.ndarray, solve: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the polynomial through the middle of a slit, and its height, from edges that are known to a row.

    An edge is within half a row of the middle of its pixel; only steps say more, and untilted slits have few.

    Parameters
    ----------
    along : (term, x) float64
        Terms of the polynomial.
    solve : (term, x) float64
        Its fit by least squares.
    low, high : (x,) float64
        Middles of the pixels at the edges.
    """
    fit, middle = np.zeros(along.shape[0]), 0.5 * (low + high)
    rows = (high - low).mean()
    for number in range(_ROUNDS + 1):
        fit[:] = 0.0
        for k in range(fit.size):
            for x in range(low.size):
                fit[k] += solve[k, x] * middle[x]
        length = 0.0
        for x in range(low.size):
            centre = 0.0
            for k in range(fit.size):
                centre += along[k, x] * fit[k]
            start = min(max(centre - 0.5 * rows, low[x] - 0.4), low[x] + 0.4)
            stop = min(max(centre + 0.5 * rows, high[x] - 0.4), high[x] + 0.4)
            middle[x] = 0.5 * (start + stop)
            length += stop - start
        if number < _ROUNDS:  # the last round only fits
            rows = length / low.size
    return fit, rows


def _open_ranges(shutters: str) -> list[tuple[float, float]]:
    """Return the ends of the open shutters, in the units of positions in slits; adjacent shutters are joined."""
    states = shutters.strip()
    if not states.strip("-_ "):
        return [(-0.5, 0.5)]
    at = states.index("x") if "x" in states else (len(states) - 1) // 2
    places = [(i - at) * SHUTTER_PITCH for i, state in enumerate(states) if state != "0"]
    ranges: list[tuple[float, float]] = []
    for place in places:
        if ranges and place - 0.5 - ranges[-1][1] < 0.5:
            ranges[-1] = (ranges[-1][0], place + 0.5)
        else:
            ranges.append((place - 0.5, place + 0.5))
    return ranges


def open_part(wavelength: np.ndarray, shutters: str) -> np.ndarray | None:
    """Return the part of the light of a uniform sky that reaches each pixel (y, x), 0 to 1.

    At both ends wavelengths extend half a shutter beyond the open shutters. No sky reaches these pixels, or pixels
    behind a closed shutter. Edges are blurred by half a pixel. Bars between open shutters are ignored.

    Parameters
    ----------
    wavelength : (y, x) ndarray
        NaN outside the slit.
    shutters : str
        See :func:`slit_range`; ``0`` is a closed shutter.

    Returns
    -------
    ndarray or None
        None if the edges are not in the cut-out, or if its height disagrees with the number of shutters.
    """
    edges = _edges(wavelength)
    if edges is None:
        return None
    middle, rows = edges
    low, high = slit_range(shutters, rows)
    scale = rows / (high - low)
    if shutters.strip("-_ ") and abs(scale / ROWS_A_SHUTTER - 1) > 0.15:
        return None
    place = (low + high) / 2 - (np.arange(wavelength.shape[0])[:, None] - middle) / scale
    found = np.zeros(wavelength.shape)
    spread = np.sqrt(2 * (_BLUR**2 + 1 / 12)) / scale
    for start, stop in _open_ranges(shutters):
        found += 0.5 * (erf((place - start) / spread) - erf((place - stop) / spread))
    return found


def slit_aperture(wavelength: np.ndarray) -> np.ndarray | None:
    """Return the part of each pixel in a tilted slit (y, x); None if the edges are not in the cut-out.

    Half a row is left out at both edges, so that pixels without a wavelength are outside.
    """
    edges = _edges(wavelength)
    if edges is None:
        return None
    middle, rows = edges
    distance = np.abs(np.arange(wavelength.shape[0])[:, None] - middle)
    return np.where(np.isfinite(wavelength), np.clip(0.5 * rows - distance, 0.0, 1.0), 0.0)


def nod_distances(wavelength: np.ndarray, shutters: str) -> np.ndarray | None:
    """Return distances of the other shutters from the source [row]; None if the edges are not in the cut-out."""
    edges = _edges(wavelength)
    states = shutters.strip()
    if edges is None or "x" not in states:
        return None
    low, high = slit_range(shutters, edges[1])
    at = states.index("x")
    steps = np.array([at - i for i in range(len(states)) if i != at], dtype=float)
    return np.asarray(steps * SHUTTER_PITCH * edges[1] / (high - low))


def trace_of_light(images: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the position of the brightest trace (x,), in rows of the cut-out.

    Parameters
    ----------
    images, precision : (y, x) ndarray
        Signal, and inverse variances of zero where a pixel cannot be used.

    Notes
    -----
    Rows are averaged over 32 columns. The centroid is computed around the three rows with the largest sum. A parabola
    is fitted to the centroids, weighted by their significance, without those that deviate by more than two rows.
    """
    n_rows, n_columns = images.shape
    edges = np.arange(0, n_columns + 1, 32) if n_columns >= 64 else np.array([0, n_columns])
    centre, position, weight = [], [], []
    for start, stop in pairwise(edges):
        w = precision[:, start:stop].sum(1)
        level = (precision[:, start:stop] * images[:, start:stop]).sum(1) / np.where(w > 0, w, np.inf)
        if (w > 0).sum() < 3:
            continue
        level = np.where(w > 0, level - np.median(level[w > 0]), 0.0)
        padded = np.pad(level, 1)
        threes = padded[:-2] + padded[1:-1] + padded[2:]
        row = int(np.argmax(threes))
        near = np.clip(np.arange(row - 2, row + 3), 0, n_rows - 1)
        light = np.maximum(level[near], 0.0)
        if light.sum() > 0:
            centre.append((start + stop - 1) / 2)
            position.append(float((light * near).sum() / light.sum()))
            weight.append(float(light.sum() * np.sqrt(np.median(w[w > 0]))))
    if not position:
        return np.full(n_columns, (n_rows - 1) / 2)
    x, y, strength = (np.asarray(values) for values in (centre, position, weight))
    kept = np.ones(x.size, dtype=bool)
    fit = np.polynomial.Polynomial([float(np.average(y, weights=strength**2))])
    for degree in (1, 2, 2):
        if kept.sum() > degree + 3:
            fit = np.polynomial.Polynomial.fit(x[kept], y[kept], degree, w=np.minimum(strength, 100.0)[kept])
            kept = np.abs(y - fit(x)) < 2.0
    return np.asarray(np.clip(fit(np.arange(n_columns)), 0, n_rows - 1))
