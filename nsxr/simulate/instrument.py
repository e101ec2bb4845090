"""The response of the simulated instrument: point-spread function, sensitivity, flats, area of pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.simulate.response import smooth_flat, uniform_loss

__all__ = ["SimulatedInstrument"]

_ARCSEC = math.degrees(1) * 3600
_DIAMETER = 6.5  # m
_AREA = 25.4  # m2
_CORE, _WING = 0.42 * 1e-6 / _DIAMETER * _ARCSEC, 3.5  # arcsec a um; wings are that much wider
_JITTER = 0.012  # arcsec
_IN_WINGS = 0.15
_PLANCK = 6.62607015e-34
_ENDS: Mapping[str, tuple[float, float]] = {
    "PRISM": (0.58, 5.35),
    "G140M": (0.96, 1.90),
    "G140H": (0.96, 1.90),
    "G235M": (1.65, 3.20),
    "G235H": (1.65, 3.20),
    "G395M": (2.85, 5.30),
    "G395H": (2.85, 5.30),
}
"""Wavelengths of each grating with its usual filter [um]."""
_PIXEL_AREA = 4.8e-13  # sr
_DIMMEST = 0.05  # throughput at the ends of the wavelengths, relative to that inside


@dataclass(frozen=True)
class SimulatedInstrument:
    """A smooth telescope and instrument, of about the throughput of NIRSpec.

    Attributes
    ----------
    grating : str
        Name of the grating, or PRISM.
    nodes, dispersion : tuple of float
        Wavelengths, and ranges of wavelengths of a pixel there [um].
    areas : tuple of (str, float)
        Solid angle of a pixel [sr] in each slit or slice.
    """

    grating: str
    nodes: tuple[float, ...]
    dispersion: tuple[float, ...]
    areas: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, optics: Optics) -> "SimulatedInstrument":
        """Return the instrument with the dispersion of the first slit or slice of its optics.

        Pixels of other slits have other ranges of wavelengths, by up to some percent. Flats stand for that.
        """
        nodes = np.linspace(*_ENDS[optics.grating], 200)
        column, _ = optics.inverse(0.0, nodes, next(iter(optics.slits.values())))
        dispersion = np.abs(1 / np.gradient(np.asarray(column), nodes))
        areas = tuple((name, _pixel_area(optics, slit)) for name, slit in optics.slits.items())
        return cls(optics.grating, tuple(nodes.tolist()), tuple(dispersion.tolist()), areas)

    def cumulative(self, distance: np.ndarray, wavelength: np.ndarray, blur: float | np.ndarray = 0.0) -> np.ndarray:
        """Return the part of the light of a point on one side of a line at a distance [arcsec].

        ``blur`` is the standard deviation by which the image is widened further [arcsec].
        """
        sigma = np.hypot(_CORE * wavelength, _JITTER)
        core, wings = np.hypot(sigma, blur), np.hypot(_WING * sigma, blur)
        return np.asarray((1 - _IN_WINGS) * ndtr(distance / core) + _IN_WINGS * ndtr(distance / wings))

    def smear(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the standard deviation by which the spectrograph widens images of edges [arcsec]."""
        return np.asarray(0.03 + 0.004 * wavelength)

    def wavelengths(self, slit: Slit) -> tuple[float, float]:
        """Return the wavelengths that reach the detector [um]."""
        return _ENDS[self.grating]

    def sensitivity(self, slit: Slit, wavelength: np.ndarray) -> np.ndarray:
        """Return the electrons per second in one column for 1 Jy, if all light of a source passes the slit.

        Its inverse is linear between the nodes, as the calibration assumes that reads it from a table.
        """
        return np.asarray(1 / np.interp(wavelength, self.nodes, self.conversion()))

    def conversion(self) -> np.ndarray:
        """Return the flux density of one electron per second in a column at the nodes [Jy]."""
        wavelength, pixel = np.array(self.nodes), np.array(self.dispersion)
        low, high = _ENDS[self.grating]
        edge = np.clip(np.minimum(wavelength - low, high - wavelength) / (0.03 * (high - low)), 0, 1)
        smooth = 0.4 * (1 - 0.3 * ((wavelength - low) / (high - low) - 0.4) ** 2)
        throughput = smooth * np.maximum(np.sin(0.5 * np.pi * edge) ** 2, _DIMMEST)
        return np.asarray(_PLANCK * wavelength / (1e-26 * _AREA * throughput * pixel))

    def peak_rate(self) -> float:
        """Return the electrons per second in the brightest pixel of a blue star of 1 Jy at 2 um."""
        wavelength = np.linspace(*_ENDS[self.grating], 200)
        slit = Slit("", 5, 0.0, 0.0, 1.0, 1.0, -0.5, 0.5, _ENDS[self.grating], -1)
        along = 2 * self.cumulative(np.full(200, 0.05), wavelength) - 1  # a pixel is 0.1 arcsec
        return float((self.sensitivity(slit, wavelength) * along * (wavelength / 2.0) ** -1.5).max())

    def flat(self, slit: Slit, wavelength: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the product of the flats F, S and D, (row, column). Single pixels are in the detector's response."""
        return smooth_flat(slit, wavelength, rows, columns)

    def uniform(self, slit: Slit, wavelength: np.ndarray) -> np.ndarray:
        """Return the factor on light that fills a slit, relative to light of a point that all passes the slit."""
        return uniform_loss(wavelength)

    def pixel_area(self, slit: Slit) -> float:
        """Return the solid angle of a pixel [sr]. All shutters have the same one."""
        return dict(self.areas).get(slit.name, _PIXEL_AREA) if slit.quadrant == 5 else _PIXEL_AREA


def _pixel_area(optics: Optics, slit: Slit) -> float:
    """Return the width of a slit on the sky times the height of a pixel, in the middle of the slit [sr]."""
    path, wavelength = optics.for_slit(slit), 0.5 * sum(optics.wavelength_range)
    left, right, low, high = (
        np.array(path.slit_to_v2v3(x, y, wavelength)) for x, y in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
    )
    _, rows = path.inverse(np.array([-0.5, 0.5]), wavelength)
    width, height = np.hypot(*(right - left)), np.hypot(*(high - low)) / np.abs(rows[1] - rows[0])
    return float(width * height / _ARCSEC**2)
