"""Open shutters around the sources of a sky, and write them as the observatory's list of shutters (MSA metafile)."""

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.time import Time

from nsxr.errors import OutputExistsError, ParameterError
from nsxr.optics.instrument import Optics
from nsxr.optics.parts import SHUTTERS_ALONG_DISPERSION as ALONG
from nsxr.optics.parts import SHUTTERS_ALONG_SLIT as ACROSS
from nsxr.optics.parts import shutter_id
from nsxr.optics.slit import Slit
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.headers import START
from nsxr.simulate.sky import Sky
from nsxr.storage.whole import replacing

__all__ = [
    "FAILED_OPEN",
    "Place",
    "PlannedSlitlet",
    "check_failed",
    "place_of",
    "plan_shutters",
    "shutter_slit",
    "write_metafile",
]

FAILED_OPEN = ((1, 120, 60), (2, 300, 100), (3, 40, 150), (4, 200, 20))
"""Shutters that are always open: quadrant, number along the dispersion, number along the slit."""

_CLEAR = 2  # closed shutters between slitlets whose spectra lie in the same rows
_APART = 0.02  # distance along the dispersion from which spectra of a prism do not overlap [m]
_IMAGE_ORIGIN = {1: (0, 171), 2: (365, 171), 3: (365, 0), 4: (0, 0)}


class Place(NamedTuple):
    """A place in the MSA: quadrant, shutter (from 1) along dispersion and slit, distance from its centre [pitch]."""

    quadrant: int
    i: int
    j: int
    x: float
    y: float


@dataclass(frozen=True)
class PlannedSlitlet:
    """Shutters of a slitlet, and the sources in it.

    Attributes
    ----------
    slitlet_id : int
        Number of the slitlet.
    quadrant, i : int
        Quadrant, and number of the shutters along the dispersion (``shutter_row`` of metafiles).
    first, last : int
        Numbers of the lowest and of the highest shutter along the slit (``shutter_column``).
    sources : tuple of str
        Names of the sources, the primary one first. Empty for a background slitlet.
    """

    slitlet_id: int
    quadrant: int
    i: int
    first: int
    last: int
    sources: tuple[str, ...]


def check_failed(failed_open: Sequence[tuple[int, int, int]]) -> None:
    """Raise ParameterError unless there are such shutters: quadrant, number along the dispersion and along the slit."""
    for place in failed_open:
        if len(place) != 3 or not 1 <= place[0] <= 4:
            raise ParameterError(
                f"failed_open has {place}, expected quadrant (1 to 4), number along the dispersion, number along the "
                "slit"
            )
        shutter_id(*place[1:])


def shutter_slit(optics: Optics, quadrant: int, i: int, j: int) -> Slit:
    """Return a single open shutter as a slit.

    Parameters
    ----------
    optics : Optics
        The optics of the exposure.
    quadrant, i, j : int
        Quadrant, and shutter (from 1) along the dispersion and along the slit.
    """
    return replace(optics.shutter(quadrant, shutter_id(i, j)), name=f"{quadrant}_{i}_{j}")


def place_of(optics: Optics, ra: float, dec: float, wavelength: float) -> Place | None:
    """Return the shutter that sky coordinates [degree] fall on, or None if it is outside of the quadrants."""
    plane = np.array([float(np.asarray(part)) for part in optics.sky_to_msa(ra, dec, wavelength)])
    for number in (1, 2, 3, 4):
        table = optics.quadrant(number)
        x, y = np.linalg.solve(table.affine[:, :2], plane - table.affine[:, 2])
        across = (x - table.x[0]) / (table.x[ALONG - 1] - table.x[0]) * (ALONG - 1) + 1
        along = (y - table.y[0]) / (table.y[-1] - table.y[0]) * (ACROSS - 1) + 1
        i, j = round(across), round(along)
        if 1 <= i <= ALONG and 1 <= j <= ACROSS:
            return Place(number, i, j, across - i, along - j)
    return None


def plan_shutters(
    optics: Optics, sky: Sky, pointing: tuple[float, float], failed_open: Sequence[tuple[int, int, int]] = ()
) -> tuple[PlannedSlitlet, ...]:
    """Open a slitlet of three shutters around each source that spectra of others leave room for.

    Sources come in the order of the sky: one that is in a slitlet already joins it, one whose spectrum would fall on
    that of an earlier slitlet, or on that of a shutter which is always open, gets none.

    Parameters
    ----------
    optics : Optics
        The optics of the first dither position.
    sky : Sky
        The sources.
    pointing : (float, float)
        Sky coordinates that offsets count from [degree].
    failed_open : sequence of (int, int, int)
        Shutters that are always open: quadrant, number along the dispersion, number along the slit.
    """
    planned: list[PlannedSlitlet] = []
    # x in the plane [m], half of the MSA, first and last shutter
    taken = [(float(_plane(optics, q, i, j)[0]), q % 2, j, j) for q, i, j in failed_open]
    wavelength = 0.5 * sum(optics.wavelength_range)
    apart = _APART if optics.grating == "PRISM" else np.inf  # spectra of gratings are longer than the detectors
    for source in sky.sources:
        place = place_of(optics, *source.position(*pointing), wavelength)
        if place is None or not 2 <= place.j <= ACROSS - 1:
            continue
        same = [
            n
            for n, one in enumerate(planned)
            if (one.quadrant, one.i) == (place.quadrant, place.i) and one.first <= place.j <= one.last
        ]
        if same:
            one = planned[same[0]]
            planned[same[0]] = replace(one, sources=(*one.sources, source.name))
            continue
        x = float(_plane(optics, place.quadrant, place.i, place.j)[0])
        half, first, last = place.quadrant % 2, place.j - 1, place.j + 1
        blocked = any(
            abs(x - other) < apart and half == side and first <= high + _CLEAR and last >= low - _CLEAR
            for other, side, low, high in taken
        )
        if not blocked:
            taken.append((x, half, first, last))
            planned.append(PlannedSlitlet(len(planned) + 1, place.quadrant, place.i, first, last, (source.name,)))
    return tuple(planned)


def _plane(optics: Optics, quadrant: int, i: int, j: int) -> np.ndarray:
    """Return the centre of a shutter in the plane of the MSA [m]."""
    table, place = optics.quadrant(quadrant), shutter_id(i, j) - 1
    return np.asarray(table.affine[:, :2] @ [table.x[place], table.y[place]] + table.affine[:, 2])


def write_metafile(
    folder: Path,
    configuration: Configuration,
    slitlets: Sequence[PlannedSlitlet],
    sky: Sky,
    pointing: tuple[float, float],
    dithered: Mapping[int, Optics],
    overwrite: bool = True,
) -> Path:
    """Write the MSA metafile of an observation, and return its path. It serves all dither positions and detectors.

    Parameters
    ----------
    folder : Path
        Where the file goes.
    configuration : Configuration
        Names of the exposure.
    slitlets : sequence of PlannedSlitlet
        The slitlets.
    sky : Sky
        The sources; they are numbered from 1 in their order.
    pointing : (float, float)
        Sky coordinates that offsets count from [degree].
    dithered : mapping of int to Optics
        The optics of each dither position.
    overwrite : bool
        Whether to replace a file with other content.

    Raises
    ------
    OutputExistsError
        If a file with other content exists and ``overwrite`` is False.
    """
    numbers = {source.name: n for n, source in enumerate(sky.sources, start=1)}
    positions = {source.name: source.position(*pointing) for source in sky.sources}
    image = np.zeros((2 * ALONG, 2 * ACROSS), dtype=np.int16)
    rows: list[tuple[object, ...]] = []
    for one in slitlets:
        y, x = _IMAGE_ORIGIN[one.quadrant]
        image[y + one.i - 1, x + one.first - 1 : x + one.last] = one.slitlet_id
        for dither, optics in dithered.items():
            wavelength = 0.5 * sum(optics.wavelength_range)
            held = {name: place_of(optics, *positions[name], wavelength) for name in one.sources}
            rows += _shutter_rows(one, dither, held, numbers)
    program = configuration.programme
    sources = [
        (
            program,
            numbers[source.name],
            f"{program}_{numbers[source.name]}",
            source.name[:31],
            *positions[source.name],
            "None",
            0.0 if source.shape.is_extended else 1.0,
        )
        for source in sky.sources
    ]
    header = fits.Header([("ORIGIN", "nsxr"), ("TELESCOP", "JWST"), ("INSTRUME", "NIRSPEC")])
    header["DATE"], header["FILENAME"] = Time(START, format="mjd", precision=0).isot, configuration.metafile
    visit = configuration.root[2:13]
    header["PROGRAM"], header["OBSERVTN"], header["VISIT"], header["VISIT_ID"] = visit[:5], visit[5:8], visit[8:], visit
    header["MSACFG10"], header["MSACFG36"] = 1, "01"
    path = folder / configuration.metafile
    with replacing(path) as partial:
        hdus = [fits.PrimaryHDU(header=header), fits.ImageHDU(image, name="SHUTTER_IMAGE")]
        hdus += [_table(_SHUTTER, rows, "SHUTTER_INFO"), _table(_SOURCE, sources, "SOURCE_INFO")]
        fits.HDUList(hdus).writeto(partial)
        if not overwrite and path.exists() and not filecmp.cmp(partial, path, shallow=False):
            raise OutputExistsError(
                f"{path} already there, with other content; nods share it, so they need the same sky, seed, grating "
                "and number of dithers (noise differs between exposures of one seed); for another sky ask for another "
                "observation or directory, or for overwriting"
            )
    return path


def _shutter_rows(
    slitlet: PlannedSlitlet, dither: int, held: Mapping[str, Place | None], numbers: Mapping[str, int]
) -> list[tuple[object, ...]]:
    """Return the rows of a slitlet at one dither position: one for each shutter, or for each source in a shutter."""
    rows: list[tuple[object, ...]] = []
    start = (slitlet.slitlet_id, 1, slitlet.quadrant, slitlet.i)
    for j in range(slitlet.first, slitlet.last + 1):
        here = {name: place for name, place in held.items() if place is not None and place.j == j}
        for name, place in here.items():
            is_primary = "Y" if name == slitlet.sources[0] else "N"
            # positions count from the lower corner of the shutter
            rows.append(
                (*start, j, numbers[name], "N", "OPEN", place.x + 0.5, place.y + 0.5, dither, is_primary, "NONE")
            )
        if not here:
            rows.append((*start, j, 0, "Y", "OPEN", np.nan, np.nan, dither, "N", "NONE"))
    return rows


_SHUTTER = {
    "slitlet_id": "I",
    "msa_metadata_id": "I",
    "shutter_quadrant": "I",
    "shutter_row": "I",
    "shutter_column": "I",
    "source_id": "J",
    "background": "1A",
    "shutter_state": "6A",
    "estimated_source_in_shutter_x": "E",
    "estimated_source_in_shutter_y": "E",
    "dither_point_index": "I",
    "primary_source": "1A",
    "fixed_slit": "7A",
}
_SOURCE = {
    "program": "J",
    "source_id": "J",
    "source_name": "20A",
    "alias": "31A",
    "ra": "D",
    "dec": "D",
    "preimage_id": "30A",
    "stellarity": "D",
}


def _table(formats: Mapping[str, str], rows: Sequence[tuple[object, ...]], name: str) -> fits.BinTableHDU:
    columns = zip(*rows, strict=True) if rows else ([] for _ in formats)
    made = [
        fits.Column(key, form, array=list(values)) for (key, form), values in zip(formats.items(), columns, strict=True)
    ]
    return fits.BinTableHDU.from_columns(made, name=name)
