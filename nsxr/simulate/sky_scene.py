"""Render a sky through the optics: the rate of electrons in every pixel, and which source made it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from nsxr.optics.slit import Slit
from nsxr.simulate.profiles import PointSpread, Profile, aperture_of, extended_profile, point_profile
from nsxr.simulate.sky import Shape, Sky
from nsxr.simulate.slit_grid import Geometry, SlitGrid, slit_grid

__all__ = ["LINE_SPREAD", "Illuminated", "Instrument", "Light", "SourceInSlit", "render_sky"]

LINE_SPREAD = 0.7
"""Standard deviation of the Gaussian line-spread function, before the pixels [pixel].

With the width of a pixel, an unresolved line has a full width at half maximum of 1.8 pixels."""

_NODES = 41  # wavelengths at which profiles are computed; linear in between, 11 would lose 5e-4 of the light
_REACH = 1.0  # distance from an opening at which a point still sends light into it [arcsec]
_STRIPS = np.linspace(-2.0, 2.0, 41)  # places across the slit at which extended sources are sampled [open widths]
_PER_MEGA = 1e-6


class Instrument(PointSpread, Protocol):
    """Response of the telescope and the instrument to light."""

    def sensitivity(self, slit: Slit, wavelength: np.ndarray) -> np.ndarray:
        """Return the electrons per second in one column for 1 Jy, if all light of a source passes the slit."""

    def flat(self, slit: Slit, wavelength: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the product of the flats F, S and D, (row, column)."""

    def wavelengths(self, slit: Slit) -> tuple[float, float]:
        """Return the wavelengths that reach the detector [um]."""

    def uniform(self, slit: Slit, wavelength: np.ndarray) -> np.ndarray:
        """Return the factor on light that fills a slit, relative to light of a point that all passes the slit."""

    def pixel_area(self, slit: Slit) -> float:
        """Return the solid angle of a pixel [sr]."""


class SourceInSlit(NamedTuple):
    """Where a source was in a slit: its name, the name of the slit, place in the frame of the slit [open units].

    ``fraction`` is the part of its light that passes the slit, in the middle of the wavelengths; NaN if extended.
    """

    source: str
    slit: str
    x: float
    y: float
    fraction: float


@dataclass(frozen=True)
class Illuminated:
    """A slit on the detector.

    Attributes
    ----------
    grid : SlitGrid
        Pixels, wavelengths and places along the slit.
    rate : ndarray
        (row, column) [electron/s] light through this slit.
    sources : tuple of SourceInSlit
        The sources that send light into it.
    """

    grid: SlitGrid
    rate: np.ndarray
    sources: tuple[SourceInSlit, ...]


@dataclass(frozen=True)
class Light:
    """The rate image (row, column) float32 [electron/s], and the slits that made it."""

    rate: np.ndarray
    slits: tuple[Illuminated, ...]


def render_sky(
    sky: Sky,
    optics: Geometry,
    slits: Iterable[Slit],
    instrument: Instrument,
    pointing: tuple[float, float],
    rows: np.ndarray,
    columns: np.ndarray,
) -> Light:
    """Return the light of a sky on the detector.

    A pixel gets the mean flux density between the wavelengths of its two edges, times the part of the profile between
    its lower and upper edge, times the response of the instrument to that light. Both integrals are exact, so no light
    is lost or gained where a line or a trace is narrow. The flats of an instrument stand for changes of the area of
    pixels on the sky: a column of the calibrated image is the flux density of the source, whatever the slope of the
    trace. The wavelengths of a point beside the middle of its slit shift, and the response is that at the shifted ones.

    Parameters
    ----------
    sky : Sky
        Sources and background.
    optics : Optics
        The optics of the exposure, with the sky.
    slits : iterable of Slit
        All openings: fixed slits, slitlets, shutters that failed open, or slices.
    instrument : Instrument
        Response to light.
    pointing : (float, float)
        Sky coordinates that offsets of sources count from [degree].
    rows, columns : ndarray
        Zero-based detector pixels.
    """
    image = np.zeros((rows.size, columns.size))
    positions = [source.position(*pointing) for source in sky.sources]
    illuminated = []
    for slit in slits:
        opening = _Opening(optics, slit, instrument)
        grid = slit_grid(optics, slit, opening.ends, rows, columns, opening.aperture.margin)
        if grid is None:
            continue
        one = _illuminate(sky, positions, opening, grid)
        image[np.ix_(np.searchsorted(rows, grid.rows), np.searchsorted(columns, grid.columns))] += one.rate
        illuminated.append(one)
    return Light(image.astype(np.float32), tuple(illuminated))


class _Opening:
    """A slit with the optics and the instrument around it."""

    def __init__(self, optics: Geometry, slit: Slit, instrument: Instrument) -> None:
        self.optics, self.slit, self.instrument = optics, slit, instrument
        self.ends = instrument.wavelengths(slit)
        self.nodes = np.linspace(*self.ends, _NODES)
        self.middle = float(self.nodes[_NODES // 2])
        x, y = np.array([0.0, 0.5, 0.0, -0.5, 0.0]), np.array([0.0, 0.0, 0.5, 0.0, -0.5])
        ra, dec = optics.slit_to_sky(x, y, self.middle, slit)
        east, north = _tangent(ra, dec, (float(ra[0]), float(dec[0])))
        half = np.hypot(east, north)
        self.aperture = aperture_of(slit, float(half[1] + half[3]), float(half[2] + half[4]))
        middle = 0.5 * (slit.slit_y_low + slit.slit_y_high)
        self.centre = tuple(float(part) for part in optics.slit_to_sky(0.0, middle, self.middle, slit))
        self.half_length = 0.5 * (slit.slit_y_high - slit.slit_y_low) * self.aperture.height + self.aperture.width

    def is_far(self, ra: float, dec: float, shape: Shape) -> bool:
        """Whether a source is too far away to send light into the slit."""
        east, north = _tangent(np.array(ra), np.array(dec), (self.centre[0], self.centre[1]))
        return bool(np.hypot(east, north) > self.half_length + _REACH + 8 * shape.radius)

    def point(self, ra: float, dec: float) -> Profile | None:
        """Return the profile of a point, or None if it is too far from the slit to send light into it."""
        aperture = self.aperture
        x, y = (np.asarray(part) for part in self.optics.sky_to_slit(ra, dec, self.nodes, self.slit))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        across = (np.abs(x) - 0.5) * aperture.width
        along = np.maximum(aperture.low - y, y - aperture.high) * aperture.height
        if np.maximum(across, along).min() > _REACH:
            return None
        return point_profile(aperture, self.instrument, self.nodes, x, y)

    def extended(self, ra: float, dec: float, shape: Shape) -> Profile | None:
        """Return the profile of an extended source, or None if it sends nearly no light into the slit."""
        aperture, edges = self.aperture, self.aperture.edges
        y = 0.5 * (edges[1:] + edges[:-1])
        east, north = _tangent(*self.optics.slit_to_sky(_STRIPS[:, None], y, self.middle, self.slit), (ra, dec))
        if not np.isfinite(east).all() or np.hypot(east, north).min() > 8 * shape.radius + _REACH:
            return None
        at = np.array(self.middle)
        sides = (np.array([-0.5, 0.5]) - _STRIPS[:, None]) * aperture.width
        passes = np.diff(self.instrument.cumulative(sides, at), axis=1)
        across = (shape.brightness(east, north) * passes).sum(axis=0) / passes.sum()
        spread = np.diff(self.instrument.cumulative((edges - y[:, None]) * aperture.height, at), axis=1)
        return extended_profile(aperture, self.instrument, self.nodes, across @ spread)

    def shift(self, profile: Profile, grid: SlitGrid) -> np.ndarray:
        """Return how far the wavelengths of pixels shift, because light passes beside the middle of the slit [um]."""
        if not profile.shift.any():
            return np.zeros_like(grid.left)
        middle = 0.5 * (self.slit.slit_y_low + self.slit.slit_y_high)
        moved, _ = self.optics.inverse(middle, profile.wavelength, self.slit, slit_x=profile.shift)
        central, _ = self.optics.inverse(middle, profile.wavelength, self.slit)
        distance = np.nan_to_num(np.asarray(moved) - np.asarray(central))
        pixels = np.interp(grid.wavelength, profile.wavelength, distance)
        return np.asarray(pixels * (grid.right - grid.left))


def _illuminate(sky: Sky, positions: Sequence[tuple[float, float]], opening: _Opening, grid: SlitGrid) -> Illuminated:
    slit, instrument, wavelength = opening.slit, opening.instrument, grid.wavelength

    def response(at: np.ndarray) -> np.ndarray:
        return np.asarray(instrument.sensitivity(slit, at) * instrument.flat(slit, at, grid.rows, grid.columns))

    # all pixels see the same solid angle, as the calibration assumes: the profile of an extended source, divided by the
    # height of pixels, is its brightness
    height = np.abs(np.diff(grid.slit_y, axis=0))
    uniform = instrument.uniform(slit, wavelength) * instrument.pixel_area(slit) / _PER_MEGA / height
    rate = np.zeros(wavelength.shape)
    if sky.background is not None:
        everywhere = extended_profile(opening.aperture, instrument, opening.nodes, 1.0)
        flux = sky.background.mean_between(grid.left, grid.right, _blur(grid), _PER_MEGA)
        rate += flux * uniform * everywhere.in_pixels(grid.wavelength, grid.slit_y)
    rate *= response(wavelength)
    found = []
    for source, (ra, dec) in zip(sky.sources, positions, strict=True):
        if opening.is_far(ra, dec, source.shape):
            continue
        is_extended = source.shape.is_extended
        profile = opening.extended(ra, dec, source.shape) if is_extended else opening.point(ra, dec)
        if profile is None:
            continue
        shift = opening.shift(profile, grid)
        unit = _PER_MEGA if is_extended else 1.0
        flux = source.spectrum.mean_between(grid.left - shift, grid.right - shift, _blur(grid), unit)
        # the instrument responds to the wavelengths that the light has, which shift with the source
        light = profile.in_pixels(wavelength - shift, grid.slit_y) * response(wavelength - shift)
        rate += flux * (uniform if is_extended else 1.0) * light
        x, y = opening.optics.sky_to_slit(ra, dec, opening.middle, slit)
        fraction = math.nan if is_extended else float(profile.below[_NODES // 2, -1])
        found.append(SourceInSlit(source.name, slit.name, float(x), float(y), fraction))
    return Illuminated(grid, np.nan_to_num(rate), tuple(found))


def _blur(grid: SlitGrid) -> Callable[[float], float]:
    return lambda wavelength: LINE_SPREAD * grid.dispersion(wavelength)


def _tangent(ra: np.ndarray, dec: np.ndarray, at: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return small distances from a position to the east and to the north [arcsec]."""
    delta_ra = (np.asarray(ra) - at[0] + 180) % 360 - 180
    return delta_ra * np.cos(np.deg2rad(dec)) * 3600, (np.asarray(dec) - at[1]) * 3600
