"""Integrate Gaussians over pixels, with their derivatives: the core and the skirt of a trace.

The normal distribution comes from its Taylor series around the nearest of 64 nodes per standard deviation. Five terms
leave errors below 1e-12, and take a tenth of the time of ``erf`` and ``exp``.
"""

import numpy as np
from scipy.special import erf

from nsxr.kernels.compilation import kernel

__all__ = ["SKIRT", "gaussian", "skirted"]

SKIRT = 2.2
"""Width of the skirt, in widths of the core."""

_NODES = 64  # in a standard deviation
_FARTHEST = 8.5  # standard deviations; beyond this the density is below the rounding of 1
_PLACES = np.arange(0.0, _FARTHEST + 2 / _NODES, 1 / _NODES)
_CUMULATIVE = 0.5 * erf(_PLACES / np.sqrt(2))
_DENSITY = np.exp(-(_PLACES**2) / 2) / np.sqrt(2 * np.pi)


@kernel
def _normal(z: float) -> tuple[float, float]:
    """Return the integral of the normal distribution from 0 to z, and its density at z."""
    s = abs(z)
    if not s < _FARTHEST:
        return 0.5 * np.sign(z), 0.0 * z
    k = int(s * _NODES + 0.5)
    c = _PLACES[k]
    d = s - c
    h2, h3, h4 = c * c - 1.0, c * (c * c - 3.0), c * c * (c * c - 6.0) + 3.0  # Hermite polynomials
    integral = _CUMULATIVE[k] + _DENSITY[k] * d * (1.0 - d * (c / 2 - d * (h2 / 6 - d * (h3 / 24 - d * h4 / 120))))
    density = _DENSITY[k] * (1.0 - d * (c - d * (h2 / 2 - d * (h3 / 6 - d * h4 / 24))))
    return (integral if z > 0 else -integral), density


@kernel
def _gaussians(distance: np.ndarray, width: np.ndarray, out: np.ndarray) -> None:
    """Write a Gaussian and its derivatives by distance and log width to ``out`` (3, y, x), for widths (x,)."""
    n_rows, n_columns = distance.shape
    edges = np.empty((3, n_columns))  # upper edge of the pixels of the row before
    for x in range(n_columns):
        edges[0, x] = np.nan
    for y in range(n_rows):
        for x in range(n_columns):
            inverse = 1.0 / width[x]
            low, high = distance[y, x] - 0.5, distance[y, x] + 0.5
            if abs(low - edges[0, x]) < 1e-12:
                below, there = edges[1, x], edges[2, x]
            else:
                below, there = _normal(low * inverse)
            above, here = _normal(high * inverse)
            out[0, y, x] = above - below
            out[1, y, x] = (here - there) * inverse
            out[2, y, x] = (low * there - high * here) * inverse
            edges[0, x], edges[1, x], edges[2, x] = high, above, here


@kernel
def _with_skirt(distance: np.ndarray, width: np.ndarray, part: float, out: np.ndarray) -> None:
    """Write a Gaussian with a skirt, and its derivatives, to ``out`` (4, y, x)."""
    core, skirt = np.empty((3, *distance.shape)), np.empty((3, *distance.shape))
    _gaussians(distance, width, core)
    _gaussians(distance, SKIRT * width, skirt)
    for y in range(distance.shape[0]):
        for x in range(distance.shape[1]):
            for k in range(3):
                out[k, y, x] = (1 - part) * core[k, y, x] + part * skirt[k, y, x]
            out[3, y, x] = skirt[0, y, x] - core[0, y, x]


def gaussian(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Return a Gaussian integrated over pixels, and its derivatives by distance and by the logarithm of the width.

    Parameters
    ----------
    distance : (..., x) ndarray
        Distance of pixels from the middle [pixel].
    width : float, or (x,) ndarray
        Standard deviation [pixel].

    Returns
    -------
    (3, ..., x) ndarray
        The integral and its derivatives.
    """
    rows, widths = _flat(distance, width)
    out = np.empty((3, *rows.shape))
    _gaussians(rows, widths, out)
    return out.reshape(3, *distance.shape)


def skirted(distance: np.ndarray, width: np.ndarray | float, part: float) -> np.ndarray:
    """Return a Gaussian with a skirt, its derivatives by distance, by the log of the width, by the skirt's part.

    Parameters
    ----------
    distance : (..., x) ndarray
        Distance of pixels from the middle [pixel].
    width : float, or (x,) ndarray
        Standard deviation of the core [pixel].
    part : float
        Part of the light in the skirt.

    Returns
    -------
    (4, ..., x) ndarray
        The integral and its derivatives.
    """
    rows, widths = _flat(distance, width)
    out = np.empty((4, *rows.shape))
    _with_skirt(rows, widths, float(part), out)
    return out.reshape(4, *distance.shape)


def _flat(distance: np.ndarray, width: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return distances as (y, x) and widths as (x,), contiguous."""
    rows = np.ascontiguousarray(distance, dtype=np.float64).reshape(-1, distance.shape[-1])
    widths = np.empty(rows.shape[1])
    widths[:] = width
    return rows, widths
