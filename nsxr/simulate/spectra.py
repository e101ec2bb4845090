"""Spectra of simulated sources: a continuum and emission lines, averaged over pixels without sampling errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nsxr.errors import ParameterError
from nsxr.model.arguments import check_fields

__all__ = ["Line", "PowerLaw", "Spectrum", "Table"]

_LIGHT = 299792.458  # speed of light [km/s]
_FWHM = 2 * math.sqrt(2 * math.log(2))
_JY_UM = 1e26 / (_LIGHT * 1e9)  # Jy um of a line of 1 W/m2, divided by the square of its wavelength [um]
_REACH = 7.0  # standard deviations at which a line ends


@dataclass(frozen=True)
class PowerLaw:
    """A continuum flux * (wavelength / reference)**slope.

    Attributes
    ----------
    flux : float
        Flux density at the reference wavelength [Jy for points, MJy/sr for extended sources].
    reference : float
        Reference wavelength [um].
    slope : float
        Exponent; 0 is constant per frequency.
    """

    flux: float
    reference: float = 2.0
    slope: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.flux >= 0 and self.reference > 0):
            raise ParameterError(f"{self}: flux must be 0 or more and the reference wavelength above 0")

    def at(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the flux density at wavelengths [um]."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.flux * (wavelength / self.reference) ** self.slope)


@dataclass(frozen=True)
class Table:
    """A continuum that is linear between given wavelengths, and 0 outside them.

    Attributes
    ----------
    wavelength : tuple of float
        Increasing wavelengths above 0 [um].
    flux : tuple of float
        Flux densities of 0 or more [Jy for points, MJy/sr for extended sources].
    """

    wavelength: tuple[float, ...]
    flux: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.wavelength) != len(self.flux) or len(self.flux) < 2:
            raise ParameterError(
                f"a table has {len(self.wavelength)} wavelengths and {len(self.flux)} flux densities; expected two or "
                "more of each, as many of one as of the other"
            )
        if self.wavelength[0] <= 0 or (np.diff(self.wavelength) <= 0).any() or min(self.flux) < 0:
            raise ParameterError("wavelengths of a table must increase from above 0, and its fluxes must be 0 or more")

    def at(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the flux density at wavelengths [um]."""
        return np.asarray(np.interp(wavelength, self.wavelength, self.flux, left=0, right=0))


@dataclass(frozen=True)
class Line:
    """An emission line.

    Attributes
    ----------
    wavelength : float
        Wavelength [um].
    flux : float
        Flux [W/m2 for points, W/m2/sr for extended sources]. Negative for absorption.
    fwhm : float
        Full width at half maximum [km/s]; 0 if the line is not resolved.
    """

    wavelength: float
    flux: float
    fwhm: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.wavelength > 0 and self.fwhm >= 0):
            raise ParameterError(f"{self}: the wavelength must be above 0 and the width 0 or more")

    @property
    def sigma(self) -> float:
        """Standard deviation of the line before the instrument [um]."""
        return self.fwhm / _FWHM / _LIGHT * self.wavelength


@dataclass(frozen=True)
class Spectrum:
    """A continuum and emission lines.

    Attributes
    ----------
    continuum : PowerLaw or Table, optional
        None if there are only lines.
    lines : tuple of Line
        Emission lines, added to the continuum.
    """

    continuum: PowerLaw | Table | None = None
    lines: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def mean_between(
        self, low: np.ndarray, high: np.ndarray, blur: Callable[[float], float], unit: float = 1.0
    ) -> np.ndarray:
        """Return the mean flux density between two wavelengths, as a pixel sees it.

        Lines are Gaussians. Their integrals over a pixel are exact, so the sum over pixels times their widths is the
        flux of the line. The continuum is averaged by Simpson's rule. The spread of the instrument is not applied to
        it, because it is smooth.

        Parameters
        ----------
        low, high : ndarray
            Wavelengths at the two edges of each pixel, of one shape [um]. NaN outside the slit.
        blur : callable
            Takes a wavelength [um], and returns the standard deviation of the line-spread function there [um].
        unit : float
            1 for a spectrum in Jy, 1e-6 for one in MJy/sr: factor from Jy to the unit of the continuum.

        Returns
        -------
        ndarray
            Mean flux density [Jy, or MJy/sr]. NaN where a wavelength is NaN.
        """
        low, high = np.minimum(low, high), np.maximum(low, high)
        if self.continuum is None:
            mean = np.where(np.isfinite(low + high), 0.0, np.nan)
        else:
            middle = 0.5 * (low + high)
            mean = (self.continuum.at(low) + 4 * self.continuum.at(middle) + self.continuum.at(high)) / 6
        for line in self.lines:
            sigma = math.hypot(blur(line.wavelength), line.sigma)
            near = (high > line.wavelength - _REACH * sigma) & (low < line.wavelength + _REACH * sigma)
            a, b = low[near], high[near]
            share = ndtr((b - line.wavelength) / sigma) - ndtr((a - line.wavelength) / sigma)
            mean[near] += unit * self.line_integral(line) * share / (b - a)
        return mean

    @staticmethod
    def line_integral(line: Line) -> float:
        """Return the integral of the flux density of a line over wavelength [Jy um, or Jy/sr um]."""
        return line.flux * line.wavelength**2 * _JY_UM
