"""Sources of known spectra in shutters that are chosen for them: the kinds of sources of ``spec_skies.py``.

Names of sources are their kind, `` / ``, and a number. Names of other sources in the same slitlet end with a letter.
Sources that no list of shutters has end with ``unseen``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.shutters import place_of, plan_shutters, shutter_slit, write_metafile
from nsxr.simulate.sky import Shape, Sky, SkySource, zodiacal_light
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum

__all__ = [
    "GRADIENT",
    "KINDS",
    "in_shutters",
    "on_sky",
    "open_shutters",
    "shutters_on_detector",
    "spectrum",
    "stuck_shutters",
]

N_LINES, LINE_PIXELS = 5, 12.0  # lines have the light of that many columns of the continuum
PITCH = 1.15
_LEAST_SHARE = 0.4  # of a spectrum on the detector
_STUCK = 40  # shutters along the dispersion from a slitlet to the star that shines on it
_OPEN = {"in 1 shutter": 1, "in 5 shutters": 5}  # three for others
_FIXED = "in a fixed slit"
GRADIENT = SkySource("gradient unseen", zodiacal_light(), offset=(60.0, 0.0), shape=Shape("gaussian", 60.0))
"""Light that makes the sky brighter by 1 % from one shutter to the next."""


def spectrum(
    optics: Optics, flux: float, per_area: float = 1.0, shift: float = 0.0, continuum: float = 1.0
) -> Spectrum:
    """Return a continuum with unresolved lines.

    Parameters
    ----------
    optics : Optics
        They say how wide pixels are.
    flux : float
        Flux density at 2 um [Jy, or MJy/sr].
    per_area : float
        1 for points; 1e6 for MJy/sr.
    shift : float
        Shift of all lines [pixel].
    continuum : float
        Factor on the continuum alone.
    """
    level = PowerLaw(flux, 2.0, -0.5)
    instrument = SimulatedInstrument.of(optics)
    low, high = optics.wavelength_range
    lines = []
    for place in np.linspace(low, high, N_LINES + 2)[1:-1]:
        pixel = float(np.interp(place, instrument.nodes, instrument.dispersion))
        at = float(place + shift * pixel)
        light = LINE_PIXELS * pixel * float(level.at(np.array(at))) * per_area
        lines.append(Line(at, light / Spectrum.line_integral(Line(at, 1.0))))
    return Spectrum(replace(level, flux=continuum * flux), tuple(lines))


def in_shutters(
    optics: Optics, kinds: Sequence[str], number: int, where: str, flux: float, random: np.random.Generator
) -> Iterator[SkySource]:
    """Yield sources in shutters of their own, a number of each kind; fewer if spectra leave no room.

    ``where`` is ``anywhere``, ``corners`` of the quadrants, or ``cut`` by the edge of the detector.
    """
    wanted = [(kind, n) for n in range(number) for kind in kinds]
    for place, (kind, n) in zip(shutters_on_detector(optics, where), wanted, strict=False):
        slit = optics.slits["S200A1"] if kind == _FIXED else shutter_slit(optics, *place)
        for suffix, light, shape, (x, y, shutters) in KINDS[kind](optics, flux, random):
            opening = slit if shutters == 0 else shutter_slit(optics, *_beside(place, shutters))
            yield SkySource(f"{kind} / {n} {suffix}".strip(), light, *on_sky(optics, opening, x, y), shape=shape)


def on_sky(optics: Optics, slit: Slit, x: float, y: float) -> tuple[float, float]:
    """Return the sky coordinates [degree] of a place in a slit [open widths and heights]."""
    ra, dec = optics.slit_to_sky(x, y, 0.5 * sum(optics.wavelength_range), slit)
    return float(ra), float(dec)


def _beside(place: tuple[int, int, int], shutters: int) -> tuple[int, int, int]:
    return (place[0], place[1] + (shutters if place[1] + shutters <= 365 else -shutters), place[2])


def stuck_shutters(optics: Optics, sky: Sky, pointing: tuple[float, float]) -> list[tuple[int, int, int]]:
    """Return the shutters of stars that no list of shutters has: they never close."""
    wavelength = 0.5 * sum(optics.wavelength_range)
    stars = [source for source in sky.sources if source.name.endswith("star unseen")]
    places = [place_of(optics, *source.position(*pointing), wavelength) for source in stars]
    return [(one.quadrant, one.i, one.j) for one in places if one is not None]


def open_shutters(
    folder: Path, configuration: Configuration, sky: Sky, pointing: tuple[float, float], dithered: Mapping[int, Optics]
) -> Path:
    """Open shutters around the sources of a sky, write their list, and return its path."""
    seen = Sky(tuple(one for one in sky.sources if not one.name.endswith("unseen") and _FIXED not in one.name))
    planned = plan_shutters(dithered[1], seen, pointing)
    more = [(_OPEN.get(one.sources[0].partition(" / ")[0], 3) - 3) // 2 for one in planned]
    planned = tuple(replace(one, first=one.first - n, last=one.last + n) for one, n in zip(planned, more, strict=True))
    path = write_metafile(folder, configuration, planned, sky, pointing, dithered)
    number = [n for n, one in enumerate(sky.sources, 1) if _FIXED in one.name]
    if number:
        with fits.open(path) as file:
            table = Table(file["SHUTTER_INFO"].data)
            table["fixed_slit"] = table["fixed_slit"].astype("U7")
            table.add_row(table[0])
            row = {"fixed_slit": "S200A1", "source_id": number[0], "primary_source": "Y", "background": "N"}
            row |= {f"estimated_source_in_shutter_{axis}": 0.5 for axis in "xy"}
            for key, value in row.items():
                table[-1][key] = value
            hdus = [*(hdu.copy() for hdu in file if hdu.name != "SHUTTER_INFO")]
        hdus.insert(2, fits.BinTableHDU(table, name="SHUTTER_INFO"))
        fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def shutters_on_detector(optics: Optics, where: str = "anywhere") -> list[tuple[int, int, int]]:
    """Return shutters whose spectra reach the detector, far enough from each other.

    ``where`` is as for :func:`in_shutters`.
    """
    wavelength = np.linspace(*optics.wavelength_range, 60)

    def share(quadrant: int, i: int, j: int) -> float:
        column, _ = optics.inverse(0.0, wavelength, shutter_slit(optics, quadrant, i, j))
        return float(np.mean((column > 8) & (column < 2039)))

    found = []
    if where == "corners":
        for quadrant in (1, 2, 3, 4):
            for j in (6, 166):
                there = [i for i in range(10, 360, 10) if share(quadrant, i, j) > _LEAST_SHARE]
                found += [(quadrant, i, j) for i in dict.fromkeys((there[0], there[-1]))] if there else []
        return found
    for j in range(6, 166, 7):
        for quadrant in ((1, 2), (3, 4))[j % 2]:
            shares = {i: share(quadrant, i, j) for i in range(20 + j % 11, 350, 30 if where != "cut" else 10)}
            if where == "cut":
                shares = {i: 1 - abs(part - 0.5) for i, part in shares.items()}
            best = max(shares, key=lambda i: shares[i])
            if shares[best] > (_LEAST_SHARE if where != "cut" else 0.7):
                found.append((quadrant, best, j))
    order = np.random.default_rng(3).permutation(len(found))
    return [found[n] for n in order]


Made = Sequence[tuple[str, Spectrum, Shape, tuple[float, float, int]]]
"""End of the name, spectrum and shape of sources, and place [open widths, open heights, shutters from the slitlet]."""
Maker = Callable[[Optics, float, np.random.Generator], Made]
_STAR = Shape()


def _point(x: float | None, y: float | None, *others: tuple[str, float, tuple[float, float, int]]) -> Maker:
    """Return a point [pitch], and others: end of the name, brightness relative to the point, and place."""

    def make(optics: Optics, flux: float, random: np.random.Generator) -> Made:
        sign = float(random.choice([-1.0, 1.0]))
        dx, dy = random.uniform(-0.4, 0.4, 2)
        place = (dx if x is None else sign * x) * PITCH, (dy if y is None else sign * y) * PITCH, 0
        first = ("", spectrum(optics, flux, shift=float(random.uniform())), _STAR, place)
        return [first, *((name, spectrum(optics, k * flux, shift=6.0), _STAR, there) for name, k, there in others)]

    return make


def _extended(*parts: tuple[Shape, float, float]) -> Maker:
    """Return shapes, with their brightness and place along the slit [pitch]; all have the spectrum of the first one."""

    def make(optics: Optics, flux: float, random: np.random.Generator) -> Made:
        shift = float(random.uniform())
        return [
            (f"clump {n} unseen" if n else "", spectrum(optics, 1e6 * k * flux, 1e6, shift), shape, (0.0, y * PITCH, 0))
            for n, (shape, k, y) in enumerate(parts)
        ]

    return make


def _two(low: float, high: float) -> Maker:
    """Return two points of equal brightness at places along a slit [open heights]."""

    def make(optics: Optics, flux: float, random: np.random.Generator) -> Made:
        first, second = spectrum(optics, flux), spectrum(optics, flux, shift=6.0)
        return [("", first, _STAR, (0.0, low, 0)), ("b", second, _STAR, (0.1, high, 0))]

    return make


KINDS: Mapping[str, Maker] = {
    "centred": _point(0.0, 0.0),
    "at an edge": _point(0.35, 0.1),
    "between shutters": _point(0.05, 0.5),
    "anywhere": _point(None, None),
    "in 1 shutter": _point(0.0, 0.0),
    "in 5 shutters": _point(None, None),
    _FIXED: _point(0.0, 0.0),
    "beside a planned source": _point(0.0, 0.0, ("b", 0.3, (0.0, PITCH, 0))),
    "beside an unknown source": _point(0.0, 0.0, ("b unseen", 0.3, (0.0, PITCH, 0))),
    "under a star": _point(0.0, 0.0, ("star unseen", 3.0, (0.0, 0.0, _STUCK))),
    "beside a star": _point(0.0, 0.0, ("star unseen", 3.0, (0.0, 0.45, _STUCK))),
    "fills the slitlet": _extended((Shape("uniform", 5.0), 1.0, 0.0)),
    "extended, clumpy": _extended(
        (Shape("uniform", 5.0), 1.0, 0.0), (Shape("gaussian", 0.3), 0.5, -0.6), (Shape("gaussian", 0.3), 0.3, 0.9)
    ),
    "small": _extended((Shape("gaussian", 0.08), 3.0, 0.0)),
    "two, 3 rows apart": _two(0.1, 0.8),
    "two, 2 rows apart": _two(-0.3, 0.16),
}
"""Sources in shutters, by kind."""
