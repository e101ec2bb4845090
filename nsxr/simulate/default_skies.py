"""Skies that show what each mode can do: galaxies in shutters, a star in a slit, a galaxy in the IFU, a transit."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nsxr.optics.parts import SHUTTERS_ALONG_DISPERSION as ALONG
from nsxr.optics.parts import SHUTTERS_ALONG_SLIT as ACROSS
from nsxr.simulate.shutters import shutter_slit
from nsxr.simulate.sky import Shape, Sky, SkySource, Transit, zodiacal_light
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum

__all__ = ["default_sky"]

_REST_LINES = (
    (0.3728, 0.5),
    (0.4862, 0.35),
    (0.4960, 0.6),
    (0.5008, 1.8),
    (0.6564, 1.0),
    (0.6585, 0.15),
    (1.8756, 0.3),
)
"""Wavelength [um] and relative flux of lines of galaxies: [O II], H beta, [O III], H alpha, [N II], Pa alpha."""

_SPACING = 5  # shutters along the slit from one slitlet to the next
_APART = 195  # shutters along the dispersion between two slitlets of the same rows


def default_sky(mode: str, optics: Any, seed: int, brightest: float) -> Sky:
    """Return a sky for a mode. It does not depend on the detector.

    - ``MOS``: about 136 galaxies and stars at redshifts 0.5 to 6, each in a shutter of its own so that spectra of a
      prism do not overlap, of 0.05 to 20 uJy, every sixth extended. A few shutters hold a second source. One star
      is ``brightest``.
    - ``FS``: a star in the middle of the primary slit, a fainter one along the slit, and galaxies in the other slits.
    - ``IFU``: an inclined galaxy with emission lines, a knot of lines and a star.
    - ``BOTS``: a star of ``brightest`` with a transit of 2 % in the middle.

    Parameters
    ----------
    mode : str
        ``MOS``, ``FS``, ``IFU`` or ``BOTS``.
    optics : Optics
        The optics of the first dither position.
    seed : int
        Seed of positions and spectra.
    brightest : float
        Flux density of the brightest source at 2 um [Jy].
    """
    random = np.random.default_rng([seed, 202])
    sources, transit = _MAKERS[mode](optics, random, brightest)
    return Sky(sources, zodiacal_light(), transit)


_Made = tuple[tuple[SkySource, ...], Transit | None]


def _galaxy(random: np.random.Generator, flux: float) -> Spectrum:
    """Return a continuum of a flux density at 2 um, with lines at a random redshift."""
    redshift = float(random.uniform(0.5, 6.0))
    strength = flux * 10 ** float(random.uniform(-0.5, 1.0)) * 3e-15  # W/m2 of H alpha: 1e-20 for 3 uJy
    fwhm = float(random.choice([0.0, 250.0, 600.0]))
    lines = tuple(Line(rest * (1 + redshift), strength * share, fwhm) for rest, share in _REST_LINES)
    return Spectrum(PowerLaw(flux, 2.0, float(random.uniform(-0.8, 0.8))), lines)


def _at(optics: Any, slit: Any, x: float, y: float) -> tuple[float, float]:
    """Return sky coordinates of a place in a slit [open units]."""
    ra, dec = optics.slit_to_sky(x, y, 0.5 * sum(optics.wavelength_range), slit)
    return float(ra), float(dec)


def _shutters(optics: Any, random: np.random.Generator, brightest: float) -> _Made:
    sources: list[SkySource] = []
    scale = optics.quadrant(1).pitch
    for pair in ((1, 3), (2, 4)):
        for j in range(4, ACROSS - 2, _SPACING):
            first = int(random.integers(5, ALONG - 5))
            # the quadrants of a pair lie side by side, 365 shutters and a gap apart
            second = int(random.integers(max(5, first + _APART - ALONG), ALONG - 5))
            for quadrant, i in zip(pair, (first, second), strict=True):
                number = len(sources) + 1
                slit = shutter_slit(optics, quadrant, i, j)
                x, y = random.uniform(-0.3, 0.3, 2) * scale
                flux = 1e-6 * 10 ** float(random.uniform(-1.3, 1.3))
                spectrum = _galaxy(random, flux)
                if number == 21:
                    spectrum = Spectrum(PowerLaw(brightest, 2.0, -1.5))
                shape = Shape()
                if number % 6 == 0:  # 1 uJy in 0.02 square arcsec is 2 MJy/sr
                    shape = Shape("sersic", float(random.uniform(0.1, 0.4)), float(random.uniform(0.3, 1)), 40.0, 1.0)
                    spectrum = _times(spectrum, 2e6)
                sources.append(SkySource(f"source {number}", spectrum, *_at(optics, slit, x, y), shape=shape))
                if number % 20 == 0:
                    place = _at(optics, slit, -x, y + scale[1])
                    sources.append(SkySource(f"source {number} b", _galaxy(random, flux), *place))
    return tuple(sources), None


def _times(spectrum: Spectrum, factor: float) -> Spectrum:
    """Return a spectrum per solid angle: flux densities in MJy/sr for a factor 1e6 on Jy, lines in W/m2/sr."""
    continuum = spectrum.continuum
    assert isinstance(continuum, PowerLaw)
    lines = tuple(Line(line.wavelength, line.flux * factor * 1e6, line.fwhm) for line in spectrum.lines)
    return Spectrum(PowerLaw(continuum.flux * factor, continuum.reference, continuum.slope), lines)


def _slits(optics: Any, random: np.random.Generator, brightest: float) -> _Made:
    star = SkySource("star", Spectrum(PowerLaw(3e-4, 2.0, -1.5), _nebula(1e-18)), offset=(0.0, 0.0))
    sources = [star]
    primary = _nearest(optics, star)
    for name, slit in optics.slits.items():
        x = float(random.uniform(-0.2, 0.2))
        if name == primary:
            sources.append(SkySource("companion", Spectrum(PowerLaw(6e-5)), *_at(optics, slit, x, 0.3)))
        else:
            spectrum = _times(_galaxy(random, 2e-5), 1e5)
            shape = Shape("sersic", 0.5, 0.5, float(random.uniform(0, 180)), 1.0)
            sources.append(SkySource(f"galaxy in {name}", spectrum, *_at(optics, slit, x, -0.1), shape=shape))
    return tuple(sources), None


def _nearest(optics: Any, source: SkySource) -> str:
    """Return the fixed slit that is nearest to the pointing: the one that the target is placed in."""
    pointing = optics.path.pointing
    wavelength = 0.5 * sum(optics.wavelength_range)
    away = {}
    for name, slit in optics.slits.items():
        x, y = optics.sky_to_slit(pointing.ra, pointing.dec, wavelength, slit)
        away[name] = float(np.hypot(x * slit.width, y * slit.height))
    return str(min(away, key=lambda name: away[name]))


def _nebula(flux: float) -> tuple[Line, ...]:
    """Return lines over all gratings, not resolved."""
    places = (0.907, 1.083, 1.282, 1.644, 1.876, 2.166, 2.626, 3.039, 3.297, 4.052, 4.654)
    return tuple(Line(place, flux * (1 + k % 3)) for k, place in enumerate(places))


def _slices(optics: Any, random: np.random.Generator, brightest: float) -> _Made:
    disc = Shape("sersic", 0.7, 0.5, 35.0, 1.0)
    lines = tuple(Line(line.wavelength, line.flux, 200.0) for line in _nebula(4e-7))
    return (
        SkySource("galaxy", Spectrum(PowerLaw(20.0, 2.0, 0.5), lines), offset=(0.0, 0.0), shape=disc),
        SkySource("knot", Spectrum(None, _nebula(2e-18)), offset=(0.5, -0.4)),
        SkySource("star", Spectrum(PowerLaw(5e-5, 2.0, -1.5)), offset=(-0.8, 0.6)),
    ), None


def _transit(optics: Any, random: np.random.Generator, brightest: float) -> _Made:
    star = SkySource("star", Spectrum(PowerLaw(brightest, 2.0, -1.5)), offset=(0.0, 0.0))
    return (star,), Transit()


_MAKERS: Mapping[str, Callable[[Any, np.random.Generator, float], _Made]] = {
    "MOS": _shutters,
    "FS": _slits,
    "IFU": _slices,
    "BOTS": _transit,
}
