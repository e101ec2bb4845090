"""Find the slitlets of a shutter exposure: neighbouring open shutters, and the sources that were planned in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from nsxr.errors import InputFileError, ParameterError
from nsxr.model.msa_metafile import MsaMetafile, ShutterRow
from nsxr.optics.instrument import Optics
from nsxr.optics.parts import shutter_id
from nsxr.optics.slit import Slit, Slitlet, Source

__all__ = [
    "FIXED_SLIT_IDS",
    "HALF_HEIGHT",
    "ends_of_slitlet",
    "find_slitlets",
    "fixed_slitlet",
    "shutter_id",
    "slitlets_of",
]

FIXED_SLIT_IDS: Mapping[str, int] = {"S200A1": -101, "S200A2": -102, "S400A1": -103, "S1600A1": -104, "S200B1": -105}
"""SLITID of the fixed slits, in the order of the table of quadrant 5."""

HALF_HEIGHT = 0.55
"""Half of the height that one opening is given [open heights]. It is a little more than the open area itself."""

_PITCH_IN_OPEN_HEIGHTS = 1.15
"""Distance of neighbouring shutters along the slit, as the observatory's pipeline has it for the ends of slitlets."""

_MARGIN = 0.5
"""Margin of slitlets beyond :data:`HALF_HEIGHT` at both ends [open heights]. It holds bars and their blurred edges."""

Place = Callable[[int, int], Slit]
"""Gives the slit of one shutter from its quadrant and its number in the table of the quadrant, from 1."""


def slitlets_of(
    optics: Optics, metafile: MsaMetafile, metadata_id: int, dither: int | None, program: str
) -> list[Slitlet]:
    """Return the slitlets of one exposure, with the shutters of its optics. Parameters as for :func:`find_slitlets`."""

    def place(quadrant: int, number: int) -> Slit:
        optics.quadrant(quadrant)  # if the references lack it, the metafile is not at fault
        try:
            return optics.shutter(quadrant, number)
        except ParameterError as error:
            raise InputFileError(f"{metafile.path}: {error}") from error

    return find_slitlets(
        metafile,
        metadata_id,
        dither,
        place=place,
        fixed_slits=optics.slits,
        scales={quadrant.number: quadrant.pitch for quadrant in optics.quadrants},
        program=program,
    )


def ends_of_slitlet(below: int, above: int) -> tuple[float, float]:
    """Return the ends of a slitlet [open heights] with these numbers of shutters below and above the central one."""
    half = HALF_HEIGHT + _MARGIN
    return -half - below * _PITCH_IN_OPEN_HEIGHTS, half + above * _PITCH_IN_OPEN_HEIGHTS


def find_slitlets(
    metafile: MsaMetafile,
    metadata_id: int,
    dither: int | None,
    *,
    place: Place,
    fixed_slits: Mapping[str, Slit],
    scales: Mapping[int, tuple[float, float]],
    program: str,
) -> list[Slitlet]:
    """Return the slitlets of one exposure, in the order of the metafile.

    Parameters
    ----------
    metafile : MsaMetafile
        From :func:`nsxr.formats.msa_metafile.read_metafile`.
    metadata_id, dither : int
        Configuration of the MSA (MSAMETID) and number of the dither (PATT_NUM) of the exposure. Without a number, the
        metafile must have one dither only.
    place : callable
        ``place(quadrant, shutter_id)`` gives centre and open size of a shutter.
    fixed_slits : mapping
        The fixed slits by name. A metafile may have sources in them.
    scales : mapping
        Pitch in open widths and open heights, by quadrant.
    program : str
        Number of the program, for the names of sources that the catalogue does not have.

    Returns
    -------
    list of Slitlet
        Centre, state and number of the source are those of the shutter with the primary source. Sources that the
        catalogue does not have are named ``<program>_VRT<slitlet>``. Background slitlets have no source.

    Raises
    ------
    InputFileError
        If the metafile does not have this configuration or this dither, if it has several dithers and the one of the
        exposure is not known, if a slitlet has several primary sources, or mixes quadrants or lines of shutters.

    Notes
    -----
    The observatory's pipeline takes the first row of a slitlet that is not background as its centre. Where a slitlet
    has several sources, that row may belong to another source than the primary one. Here the primary row is the centre.
    """
    of_configuration = [row for row in metafile.shutters if row.metadata_id == metadata_id]
    if not of_configuration:
        found = sorted({row.metadata_id for row in metafile.shutters})
        raise InputFileError(
            f"{metafile.path}: no shutters for MSAMETID {metadata_id}, it has {_listed(found)}; is it the metafile of "
            "another exposure?"
        )
    found = sorted({row.dither for row in of_configuration})
    if dither is None and len(found) > 1:
        raise InputFileError(
            f"{metafile.path}: has dithers {_listed(found)} of MSAMETID {metadata_id}, but the exposure does not say "
            "which is its own: PATT_NUM is missing"
        )
    rows = [row for row in of_configuration if row.dither == (found[0] if dither is None else dither)]
    if not rows:
        raise InputFileError(
            f"{metafile.path}: no shutters for dither {dither} (PATT_NUM) of MSAMETID {metadata_id}, it has dithers "
            f"{_listed(found)}"
        )
    groups: dict[int | str, list[ShutterRow]] = {}
    for row in rows:
        groups.setdefault(row.fixed_slit or row.slitlet_id, []).append(row)
    slitlets = []
    for key, members in groups.items():
        if isinstance(key, str):
            slitlets.append(_fixed_slit(metafile, key, members, fixed_slits, program))
        else:
            slitlets.append(_slitlet(metafile, key, members, place, scales, program))
    return slitlets


def _slitlet(
    metafile: MsaMetafile,
    number: int,
    rows: Sequence[ShutterRow],
    place: Place,
    scales: Mapping[int, tuple[float, float]],
    program: str,
) -> Slitlet:
    primary = _primary(metafile, f"slitlet {number}", rows)
    if len({(row.quadrant, row.xcen) for row in rows}) != 1:
        raise InputFileError(
            f"{metafile.path}: the shutters of slitlet {number} are not in one line: quadrant and shutter_row are "
            f"{sorted({(row.quadrant, row.xcen) for row in rows})}, expected one pair"
        )
    quadrant, xcen = rows[0].quadrant, rows[0].xcen
    columns = {row.ycen for row in rows}
    low, high = min(columns), max(columns)
    ycen = primary.ycen if primary else low + (high - low) // 2
    sources = _sources(metafile, f"{number}", rows, program)
    state = "".join("0" if column not in columns else "x" if column == ycen else "1" for column in range(low, high + 1))
    centre = place(quadrant, shutter_id(xcen, ycen))
    ends = ends_of_slitlet(ycen - low, high - ycen)
    xscale, yscale = scales[quadrant]
    return Slitlet(
        name=str(number),
        quadrant=quadrant,
        x=centre.x,
        y=centre.y,
        width=centre.width,
        height=centre.height,
        slit_y_low=ends[0],
        slit_y_high=ends[1],
        wavelength_range=centre.wavelength_range,
        order=centre.order,
        slitlet_id=number,
        shutter_id=shutter_id(xcen, ycen),
        xcen=xcen,
        ycen=ycen,
        state=state,
        sources=sources,
        source=sources[0] if primary else None,
        is_background=primary is None,
        slit_xscale=xscale,
        slit_yscale=yscale,
    )


def _fixed_slit(
    metafile: MsaMetafile, name: str, rows: Sequence[ShutterRow], fixed_slits: Mapping[str, Slit], program: str
) -> Slitlet:
    """Return a fixed slit of a shutter exposure. A row that is not primary gives a slit without a source."""
    if name not in fixed_slits:
        raise InputFileError(f"{metafile.path}: fixed slit {name} is not known, expected {_listed(FIXED_SLIT_IDS)}")
    primary = _primary(metafile, f"fixed slit {name}", rows)
    sources = _sources(metafile, name, rows, program)
    return fixed_slitlet(fixed_slits[name], "x", sources, has_source=primary is not None)


def fixed_slitlet(slit: Slit, state: str, sources: tuple[Source, ...], *, has_source: bool = True) -> Slitlet:
    """Return a fixed slit with its sources, as a slitlet with the numbers of the observatory's products.

    Parameters
    ----------
    slit : Slit
        The fixed slit.
    state : str
        Its state in the MSA metafile, empty without one.
    sources : tuple of Source
        The sources in it.
    has_source : bool
        Whether the first of the sources is the primary one.
    """
    return Slitlet(
        **{field: getattr(slit, field) for field in Slit.__dataclass_fields__},
        slitlet_id=FIXED_SLIT_IDS[slit.name],
        shutter_id=list(FIXED_SLIT_IDS).index(slit.name),
        xcen=0,
        ycen=0,
        state=state,
        sources=sources,
        source=sources[0] if has_source else None,
        is_background=not has_source,
        slit_xscale=1.0,
        slit_yscale=1.0,
    )


def _primary(metafile: MsaMetafile, what: str, rows: Sequence[ShutterRow]) -> ShutterRow | None:
    found = [row for row in rows if row.is_primary]
    if len({(row.source_id, row.ycen) for row in found}) > 1:
        raise InputFileError(
            f"{metafile.path}: {what} has {len(found)} primary sources "
            f"({_listed(row.source_id for row in found)}), expected one"
        )
    return found[0] if found else None


def _sources(metafile: MsaMetafile, number: str, rows: Sequence[ShutterRow], program: str) -> tuple[Source, ...]:
    """Return the sources with a planned position, the primary one first."""
    planned = [row for row in rows if row.is_primary or (row.source_id != 0 and not row.is_background)]
    planned.sort(key=lambda row: not row.is_primary)
    found: dict[int, Source] = {}
    for row in planned:
        if row.source_id in found:
            continue
        known = metafile.sources.get(row.source_id)
        shutter = (0, 0) if row.fixed_slit else (row.xcen, row.ycen)
        x, y = (0.0 if np.isnan(value) else value - 0.5 for value in (row.source_x, row.source_y))
        if known is None:
            name, alias = f"{program}_VRT{number}", f"VRT{number}"
            found[row.source_id] = Source(row.source_id, name, alias, x, y, np.nan, np.nan, 0.0, shutter)
        else:
            found[row.source_id] = Source(
                row.source_id, known.name, known.alias, x, y, known.ra, known.dec, known.stellarity, shutter
            )
    return tuple(found.values())


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
