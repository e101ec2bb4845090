"""How the light of a source is spread along a slit: point-spread function, bars between shutters, slit losses."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nsxr.optics.slit import Slit, Slitlet

__all__ = ["Aperture", "PointSpread", "Profile", "aperture_of", "extended_profile", "point_profile"]

_CELL = 0.008  # length of a cell in which light is counted [arcsec]
MARGIN = 0.35
"""Length beyond each end of a slit into which the instrument spreads light [arcsec]."""


class PointSpread(Protocol):
    """Image of a point on the MSA: light is the product of one function across and one along the slit."""

    def cumulative(self, distance: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
        """Return the part of the light on one side of a line at a distance [arcsec] from the point."""

    def smear(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the standard deviation by which the spectrograph widens images of edges [arcsec]."""


@dataclass(frozen=True)
class Aperture:
    """What is open in a slit, and its scale on the sky.

    Attributes
    ----------
    open_y : tuple of (float, float)
        Lower and upper ends of the open parts along the slit [open heights].
    low, high : float
        Ends of the slit [open heights].
    width, height : float
        Open width and open height on the sky [arcsec].
    """

    open_y: tuple[tuple[float, float], ...]
    low: float
    high: float
    width: float
    height: float

    @property
    def edges(self) -> np.ndarray:
        """Edges of the cells in which light is counted, with a margin at both ends [open heights]."""
        low, high = self.low - self.margin, self.high + self.margin
        return np.linspace(low, high, math.ceil((high - low) * self.height / _CELL) + 1)

    @property
    def margin(self) -> float:
        """Length beyond each end of the slit that may get light [open heights]."""
        return MARGIN / self.height

    def open_part(self) -> np.ndarray:
        """Return the part of each cell that is open, (cell,) float64."""
        edges = self.edges
        below = sum(np.clip(edges, low, high) for low, high in self.open_y)
        return np.asarray(np.diff(below) / np.diff(edges))


@dataclass(frozen=True)
class Profile:
    """Light of a source along a slit, as a running sum.

    Attributes
    ----------
    edges : ndarray
        (edge,) places along the slit [open heights].
    wavelength : ndarray
        (node,) wavelengths [um].
    below : ndarray
        (node, edge) Light below an edge. For a point: part of all its light. For an extended source: brightness
        relative to that of its spectrum, times open heights.
    shift : ndarray
        (node,) Distance from the middle of the slit of the light that passes, across the slit [open widths].
    """

    edges: np.ndarray
    wavelength: np.ndarray
    below: np.ndarray
    shift: np.ndarray

    def in_pixels(self, wavelength: np.ndarray, slit_y: np.ndarray) -> np.ndarray:
        """Return the light between the lower and upper edge of each pixel, (row, column) float64.

        ``wavelength`` (row, column) is that of the light in the middle of a pixel, ``slit_y`` (row + 1, column) the
        place of the edges, see :class:`~nsxr.simulate.slit_grid.SlitGrid`.
        """
        node = np.interp(np.nan_to_num(wavelength), self.wavelength, np.arange(self.wavelength.size))
        edge = np.interp(np.nan_to_num(slit_y, nan=self.edges[0]), self.edges, np.arange(self.edges.size))
        # both edges of a pixel at the wavelength of its middle: wavelengths vary along a column
        return np.asarray(np.abs(self._at(node, edge[1:]) - self._at(node, edge[:-1])))

    def _at(self, node: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Return the running sum at fractional nodes and edges, linear in both."""
        i, j = (
            np.minimum(part.astype(np.int64), n - 2) for part, n in zip((node, edge), self.below.shape, strict=True)
        )
        u, v = node - i, edge - j
        first = (1 - v) * self.below[i, j] + v * self.below[i, j + 1]
        second = (1 - v) * self.below[i + 1, j] + v * self.below[i + 1, j + 1]
        return np.asarray((1 - u) * first + u * second)


def aperture_of(slit: Slit, width: float, height: float) -> Aperture:
    """Return what is open in a slit.

    Parameters
    ----------
    slit : Slit or Slitlet
        A slitlet is open behind its open shutters, with bars in between. Fixed slits and slices are open from -0.5 to
        0.5.
    width, height : float
        Open width and open height on the sky [arcsec].
    """
    if not isinstance(slit, Slitlet) or slit.quadrant == 5:
        return Aperture(((-0.5, 0.5),), slit.slit_y_low, slit.slit_y_high, width, height)
    is_open = [state != "0" for state in slit.state] or [True]
    # the ends have a margin; the middle of a slitlet is that of its shutters
    middle = 0.5 * (slit.slit_y_low + slit.slit_y_high) / slit.slit_yscale
    lowest = round(middle - 0.5 * (len(is_open) - 1))
    centres = [(lowest + k) * slit.slit_yscale for k, there in enumerate(is_open) if there]
    return Aperture(tuple((y - 0.5, y + 0.5) for y in centres), slit.slit_y_low, slit.slit_y_high, width, height)


def point_profile(
    aperture: Aperture, spread: PointSpread, wavelength: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Profile:
    """Return the profile of a point.

    Parameters
    ----------
    aperture : Aperture
        What is open.
    spread : PointSpread
        Point-spread function.
    wavelength : ndarray
        (node,) wavelengths [um].
    x, y : ndarray
        (node,) place of the point in the frame of the slit [open units]. It depends on wavelength by the lateral colour
        of the foreoptics.
    """
    across = spread.cumulative((np.linspace(-0.5, 0.5, 21) - x[:, None]) * aperture.width, wavelength[:, None])
    passed = across[:, -1] - across[:, 0]
    strips = np.linspace(-0.475, 0.475, 20)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(passed > 0, (np.diff(across) * strips).sum(axis=1) / passed, 0.0)
    light = np.zeros((wavelength.size, aperture.edges.size - 1))
    for ends in aperture.open_y:  # cells end at bars: the light of a point behind one changes much within a cell
        places = (np.clip(aperture.edges, *ends) - y[:, None]) * aperture.height
        light += np.diff(spread.cumulative(places, wavelength[:, None])) * passed[:, None]
    return Profile(aperture.edges, wavelength, _summed(light, aperture, spread, wavelength), shift)


def extended_profile(
    aperture: Aperture, spread: PointSpread, wavelength: np.ndarray, brightness: np.ndarray | float
) -> Profile:
    """Return the profile of an extended source.

    Parameters
    ----------
    aperture, spread, wavelength
        As in :func:`point_profile`.
    brightness : ndarray or float
        (cell,) brightness in each cell of the aperture relative to that of the spectrum, averaged over the width of the
        slit. It contains the point-spread function.
    """
    cells = brightness * aperture.open_part() * np.diff(aperture.edges)
    light = np.broadcast_to(cells, (wavelength.size, cells.size))
    return Profile(aperture.edges, wavelength, _summed(light, aperture, spread, wavelength), np.zeros(wavelength.size))


def _summed(light: np.ndarray, aperture: Aperture, spread: PointSpread, wavelength: np.ndarray) -> np.ndarray:
    """Return the running sum of the light in cells, after the spectrograph has smeared it."""
    n = light.shape[1]
    step = (aperture.high - aperture.low + 2 * aperture.margin) * aperture.height / n
    frequency = np.fft.rfftfreq(2 * n, step)
    sigma = spread.smear(wavelength)[:, None]
    kernel = np.exp(-2 * (np.pi * frequency * sigma) ** 2)
    smeared = np.fft.irfft(np.fft.rfft(light, 2 * n) * kernel, 2 * n)
    smeared[:, 0] += smeared[:, n:].sum(axis=1)  # light beyond the ends, so that none is lost
    return np.concatenate([np.zeros((light.shape[0], 1)), np.cumsum(smeared[:, :n], axis=1)], axis=1)
