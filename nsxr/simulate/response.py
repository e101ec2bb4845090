"""Flats of the simulated instrument: smooth functions that multiply simulated light and that references sample.

The flat of a pixel is a product of three parts, as in the observatory's calibration. F is the telescope, the filters
and the shutters. S is the spectrograph. D is the detector. Each part has an image that changes slowly with wavelength,
and a fast variation with wavelength. Images are linear in wavelength, so two planes describe them exactly.
"""

import math

import numpy as np

from nsxr.optics.slit import Slit

__all__ = [
    "ANY",
    "PLANES",
    "detector_fast",
    "detector_plane",
    "fore_fast",
    "fore_shutters",
    "smooth_flat",
    "spectrograph_fast",
    "spectrograph_image",
    "uniform_loss",
]

PLANES = (0.5, 5.6)
"""Wavelengths of the planes of images in references [um]."""
ANY = "ANY"
"""Name of the row in tables of fast variations that holds for all slits."""

_MIDDLE = 3.0
_MSA = 0.04
_DETECTOR = 2048
_FIXED = {"S200A1": 0.0, "S200A2": 0.7, "S400A1": 1.4, "S1600A1": 2.1, "S200B1": 2.8}


def fore_fast(name: str, wavelength: np.ndarray) -> np.ndarray:
    """Return the fast variation of F at wavelengths [um], for a fixed slit, or ``ANY`` for shutters and slices."""
    phase = _FIXED.get(name, 3.5)
    return np.asarray(0.97 + 0.02 * np.sin(2 * math.pi * wavelength / 1.3 + phase))


def fore_shutters(quadrant: int, x: np.ndarray, y: np.ndarray, wavelength: np.ndarray | float) -> np.ndarray:
    """Return F of shutters, without its fast variation.

    Parameters
    ----------
    quadrant : int
        1 to 4.
    x, y : ndarray
        Place in the frame of the quadrant [m].
    wavelength : ndarray or float
        Wavelengths [um].
    """
    across, along = x / _MSA - 0.5, y / _MSA - 0.5
    still = 1 + 0.01 * (quadrant - 2.5) + 0.04 * across - 0.03 * along * along
    return np.asarray(still + 0.004 * (wavelength - _MIDDLE) * along)


def spectrograph_fast(name: str, wavelength: np.ndarray) -> np.ndarray:
    """Return the fast variation of S at wavelengths [um], for a fixed slit, or ``ANY`` for shutters and slices."""
    phase = _FIXED.get(name, 0.3)
    return np.asarray(1.01 + 0.015 * np.cos(2 * math.pi * wavelength / 0.9 + phase))


def spectrograph_image(rows: np.ndarray, columns: np.ndarray, wavelength: np.ndarray | float | None) -> np.ndarray:
    """Return S of pixels, without its fast variation, (row, column).

    Parameters
    ----------
    rows, columns : ndarray
        Zero-based detector pixels.
    wavelength : ndarray, float or None
        Wavelengths [um]. None: light of fixed slits and slices, for which S is one image.
    """
    y, x = np.meshgrid(rows / _DETECTOR - 0.5, columns / _DETECTOR - 0.5, indexing="ij")
    image = 1 + 0.03 * x - 0.02 * y + 0.04 * x * y
    return image if wavelength is None else image + 0.005 * (wavelength - _MIDDLE) * (x + y)


def detector_plane(wavelength: np.ndarray | float) -> np.ndarray:
    """Return D at wavelengths [um] without the structure of pixels and without its fast variation."""
    return np.asarray(1 - 0.008 * (wavelength - _MIDDLE))


def detector_fast(wavelength: np.ndarray) -> np.ndarray:
    """Return the fast variation of D at wavelengths [um]."""
    return np.asarray(1 + 0.01 * np.sin(2 * math.pi * wavelength / 2.1))


def uniform_loss(wavelength: np.ndarray) -> np.ndarray:
    """Return the part of the light of a uniform source that passes the spectrograph, at wavelengths [um]."""
    return np.asarray(0.98 - 0.01 * wavelength)


def smooth_flat(slit: Slit, wavelength: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the product of F, S and D of the pixels of a slit, without the structure of single pixels.

    Parameters
    ----------
    slit : Slit
        A fixed slit, a shutter or slitlet, or a slice (its name is a number, in quadrant 5).
    wavelength : ndarray
        (row, column) wavelengths [um].
    rows, columns : ndarray
        Zero-based detector pixels.
    """
    is_shutter = slit.quadrant < 5
    name = slit.name if slit.name in _FIXED and not is_shutter else ANY
    fore = fore_fast(name, wavelength)
    if is_shutter:
        fore = fore * fore_shutters(slit.quadrant, np.array(slit.x), np.array(slit.y), wavelength)
    image = spectrograph_image(rows, columns, wavelength if is_shutter else None)
    detector = detector_plane(wavelength) * detector_fast(wavelength)
    return np.asarray(fore * image * spectrograph_fast(name, wavelength) * detector)
