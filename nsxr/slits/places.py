"""Tell where sources were planned to be along their slits, and where subtracted nods left their negative traces."""

import json
import os
from collections.abc import Mapping, Sequence

from nsxr.errors import InputFileError
from nsxr.formats.msa_metafile import read_metafile
from nsxr.model.keywords import whole_number
from nsxr.model.msa_metafile import MsaMetafile
from nsxr.model.optics_header import OpticsHeader
from nsxr.model.texts import is_true
from nsxr.model.types import Attributes, Entries
from nsxr.optics.fixed_slits import planned_position
from nsxr.optics.instrument import Optics
from nsxr.optics.shutters import slitlets_of
from nsxr.optics.slit import Slitlet

__all__ = ["dither_of", "nod_shifts", "planned_places"]

_DITHER = ("PATT_NUM", "MSAMETID", "XOFFSET", "YOFFSET")
_TARGET = ("TARGNAME", "TARGPROP")


def dither_of(attrs: Attributes) -> Entries | None:
    """Return what the header of an exposure says of its dither; None for an exposure of a background target."""
    if is_true(attrs, "BKGDTARG"):
        return None
    return {key: attrs[key] for key in (*_DITHER, *_TARGET) if attrs.get(key) is not None}


def planned_places(slit: Slitlet) -> list[float]:
    """Return the planned places of all sources along a slit [open heights], the primary one first."""
    if slit.source is None:
        return []
    return [slit.position_of(source)[1] for source in (slit.source, *(s for s in slit.sources if s != slit.source))]


def nod_shifts(
    attrs: Attributes, optics: Optics, shutters: str | os.PathLike[str] | None, slits: Sequence[Slitlet]
) -> Mapping[str, list[float | None]]:
    """Return how far sources were shifted along their slits in each exposure that was subtracted [open heights].

    Parameters
    ----------
    attrs : mapping
        Attributes of the exposure. ``background_dithers`` says what was subtracted.
    optics : Optics
        Optics of the exposure.
    shutters : path or None
        The MSA metafile of an exposure of shutters.
    slits : sequence of Slitlet
        Slits of the exposure.

    Returns
    -------
    mapping
        By name of the slit. None for a background exposure, which has no source. Slits whose shifts are not known are
        absent: exposures of another target or configuration of the MSA, and dithers that the metafile does not have.
    """
    if "background_dithers" not in attrs:
        return {}
    dithers: list[Entries | None] = json.loads(str(attrs["background_dithers"]))
    header = OpticsHeader.from_attributes(attrs)
    same = ("MSAMETID", *_TARGET)
    if any(one is not None and any(one.get(key) != attrs.get(key) for key in same) for one in dithers):
        return {}
    found: dict[str, list[float | None]] = {slit.name: [] for slit in slits if slit.source is not None}
    has_shutters = header.exposure_type == "NRS_MSASPEC"
    is_needed = has_shutters and any(one is not None for one in dithers)
    metafile = None if shutters is None or not is_needed else read_metafile(shutters)
    for one in dithers:
        there: Mapping[str, float] = {}
        if one is not None and has_shutters:
            there = _by_shutters(header, one, optics, metafile, slits)
        elif one is not None:
            there = _by_offsets(attrs, one, optics, slits)
        for name, shifts in found.items():
            shifts.append(there.get(name, float("nan")) if one is not None else None)
    return {name: shifts for name, shifts in found.items() if all(s is None or s == s for s in shifts)}


def _by_shutters(
    header: OpticsHeader,
    dither: Entries,
    optics: Optics,
    metafile: MsaMetafile | None,
    slits: Sequence[Slitlet],
) -> dict[str, float]:
    """Return the shifts of sources in shutters, from the shutters that hold them at both dithers."""
    number = whole_number(dither.get("PATT_NUM"))
    if metafile is None or number is None or header.metadata_id is None:
        return {}
    try:
        others = slitlets_of(optics, metafile, header.metadata_id, number, header.program)
    except InputFileError:
        return {}
    moved = {slit.name: slit for slit in others}
    found = {}
    for slit in slits:
        other = moved.get(slit.name)
        if slit.source is None or other is None or other.source is None or other.source.id != slit.source.id:
            continue
        pitches = other.ycen + other.source.y - slit.ycen - slit.source.y
        found[slit.name] = pitches * slit.slit_yscale
    return found


def _by_offsets(attrs: Attributes, dither: Entries, optics: Optics, slits: Sequence[Slitlet]) -> dict[str, float]:
    """Return the shifts of sources in fixed slits, from the offsets of both dithers."""
    offsets = {key: dither.get(key, 0.0) for key in ("XOFFSET", "YOFFSET")}
    headers = [OpticsHeader.from_attributes(header) for header in ({**attrs, **offsets}, attrs)]
    found = {}
    for slit in slits:
        there, here = (planned_position(header, optics.for_slit(slit))[1] for header in headers)
        found[slit.name] = there - here
    return found
