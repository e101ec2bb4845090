"""Where a source should be on the detector, from what a cut-out says: edges of the slit, or the light itself."""

from itertools import pairwise

import numpy as np

__all__ = ["planned_trace", "slit_range", "trace_of_light"]

SHUTTER_PITCH = 1.15
"""Distance of shutters in units of their open height, in which positions in slits are given."""
ROWS_A_SHUTTER = 4.4
"""Detector rows for the open height of a shutter, about; tells which margin the wavelengths were made with."""
_MARGINS = (1.05, 0.55)  # beyond the centres of the outer shutters, by newer and older versions of the pipeline


def slit_range(shutters: str, rows: float) -> tuple[float, float]:
    """Return the ends of a slit for which wavelengths are given, in the units of positions in slits.

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
    """Return the planned position of the trace (x,), in rows of the cut-out; None where the cut-out does not tell.

    Wavelengths are finite inside a slit. Its lower and upper edges are a staircase, whose steps a polynomial along the
    dispersion evens out: to 0.02 pixels on flight products, as compared with their coordinates.

    Parameters
    ----------
    wavelength : (y, x) ndarray
        NaN outside the slit.
    shutters : str
        See :func:`slit_range`.
    position : float
        Planned position of the source in the slit (SRCYPOS); rows count the other way.
    """
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
    fit = np.polynomial.Polynomial.fit(x[whole], 0.5 * (lower + upper)[whole], 3 if n_columns > 1000 else 2, [-1, 1])
    rows = float(length[whole].mean())
    low, high = slit_range(shutters, rows)
    return np.asarray(fit(x) - (position - (low + high) / 2) * rows / (high - low))


def trace_of_light(images: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the position of the brightest line along the dispersion (x,), in rows of the cut-out.

    Parameters
    ----------
    images, precision : (y, x) ndarray
        Signal, and inverse variances of zero where a pixel cannot be used.

    Notes
    -----
    Rows are averaged over 32 columns, the largest sum of three rows is taken, and a parabola goes through the
    centroids, weighted by their significance; those that are more than two rows off are left out.
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
