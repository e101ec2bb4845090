"""Find all pixels that light of a slit can fall on: wavelengths beyond the nominal ones, and the zeroth order, too."""

import numpy as np

from nsxr.optics.boxes import DETECTOR_LIMIT
from nsxr.optics.slit_optics import SlitOptics

__all__ = ["lit_by"]

_SAMPLES = 400
_CLEAR = 0.5
"""Shortest wavelength that the telescope reflects well [um]; the prism is used without filter."""
_CUT_ON = 0.95
"""Where the blocking filters of gratings begin to let light pass, relative to the nominal wavelengths."""
_ZEROTH = 3
"""Half of the width of an image of the zeroth order [pixel]: the image of a slit, and what the optics add."""


def lit_by(rays: SlitOptics, rows: np.ndarray, columns: np.ndarray, margin: int) -> np.ndarray:
    """Return which pixels the light of a slit can fall on.

    Parameters
    ----------
    rays : SlitOptics
        The optics of the slit.
    rows, columns : ndarray
        Zero-based pixels of the detector: neighbours, in order.
    margin : int
        Pixels to add on each side across the dispersion, for the image of the edges of the slit.

    Returns
    -------
    ndarray
        (row, column) bool. Wavelengths are those that the filter lets pass and the detectors see, so that light of
        higher orders, and light beyond the nominal range, is in it. The zeroth order of gratings is in it too.
    """
    lit = np.zeros((rows.size, columns.size), bool)
    _fill(lit, rays, _wavelengths(rays), rows, columns, margin)
    if not rays.path.disperser.is_prism:
        _fill(lit, rays, np.zeros(1), rows, columns, margin + _ZEROTH)
    return lit


def _wavelengths(rays: SlitOptics) -> np.ndarray:
    low, high = rays.path.wavelength_range
    shortest = min(_CLEAR, low) if rays.path.disperser.is_prism else _CUT_ON * low
    return np.linspace(shortest, max(high, DETECTOR_LIMIT), _SAMPLES)


def _fill(
    lit: np.ndarray, rays: SlitOptics, wavelength: np.ndarray, rows: np.ndarray, columns: np.ndarray, margin: int
) -> None:
    """Mark the pixels between the lower and the upper edge of a slit, at the columns of these wavelengths."""
    ends = np.array([[rays.slit.slit_y_low], [rays.slit.slit_y_high]])
    column, row = rays.inverse(ends, wavelength)
    edges = []
    for x, y in zip(column, row, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return
        order = np.argsort(x[known])
        edges.append(np.interp(columns, x[known][order], y[known][order]))
    first, last = np.nanmin(column) - margin, np.nanmax(column) + margin
    inside = np.flatnonzero((columns >= first) & (columns <= last))
    if not inside.size:
        return
    low, high = np.minimum(*edges)[inside], np.maximum(*edges)[inside]
    # a pixel is lit if any part of it lies between the edges
    start = np.clip(np.ceil(low - 0.5 - margin).astype(int) - rows[0], 0, rows.size)
    stop = np.clip(np.floor(high + 0.5 + margin).astype(int) + 1 - rows[0], 0, rows.size)
    top, bottom = int(stop.max(initial=0)), int(start.min(initial=rows.size))
    if top > bottom:
        place = np.arange(bottom, top)[:, np.newaxis]
        lit[bottom:top, inside] |= (place >= start) & (place < stop)
