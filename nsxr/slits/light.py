"""Tell what the attributes of a slit say of its light: its source, its place, and the slit that it passes."""

import warnings
from typing import NamedTuple

import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.keywords import about, read, whole_number
from nsxr.model.slit_header import quadrant_of
from nsxr.model.texts import in_capitals
from nsxr.model.types import Attributes
from nsxr.optics.shutters import FIXED_SLIT_IDS

__all__ = [
    "Shutter",
    "exposure_type",
    "fixed_slit",
    "is_point",
    "shutter_of",
    "shutter_states",
    "source_position",
    "wavelength_name",
]

_SERIES_SLIT = "S1600A1"


class Shutter(NamedTuple):
    """Quadrant and numbers of the shutter with the source, from 1."""

    quadrant: int
    xcen: int
    ycen: int


def exposure_type(attrs: Attributes) -> str:
    """Return EXP_TYPE in capitals, empty if it is missing."""
    return in_capitals(attrs, "EXP_TYPE")


def is_point(attrs: Attributes) -> bool:
    """Return whether the source is a point. A source of unknown type counts as uniform light, as in jwst."""
    return in_capitals(attrs, "SRCTYPE") == "POINT"


def fixed_slit(attrs: Attributes) -> str | None:
    """Return the name of the fixed slit, also of one in a shutter exposure. None for slitlets of shutters and slices.

    Data of fixed slits without the name of a slit are from that of the target; the slit of time series is S1600A1.
    """
    name = in_capitals(attrs, "SLTNAME")
    if name in FIXED_SLIT_IDS:
        return name
    kind = exposure_type(attrs)
    if kind not in ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"):
        return None
    return name or in_capitals(attrs, "FXD_SLIT") or (_SERIES_SLIT if kind == "NRS_BRIGHTOBJ" else "")


def wavelength_name(slit: xr.Dataset, light: str) -> str:
    """Return the name of the wavelengths of light in a slit: ``point``, or ``uniform``.

    Uniform light fills the slit, so its wavelengths do not depend on the position of a source.
    """
    return "wavelength_uncorrected" if light == "uniform" and "wavelength_uncorrected" in slit else "wavelength"


def shutter_states(attrs: Attributes) -> tuple[str, int]:
    """Return the states of the shutters of a slitlet, lowest first, and which of them the positions count from.

    States are ``0`` for closed and ``1`` for open. Positions count from the shutter with the source (``x`` in SHUTSTA),
    else from the middle one.

    Raises
    ------
    ModelError
        If SHUTSTA has other characters.
    """
    states = in_capitals(attrs, "SHUTSTA")
    if not states or set(states) - set("01X"):
        raise ModelError(about(attrs, f"the states of the shutters (SHUTSTA) are {states!r}, expected 0, 1 and x"))
    source = states.find("X")
    return states.replace("X", "1"), source if source >= 0 else (len(states) - 1) // 2


def shutter_of(attrs: Attributes) -> Shutter:
    """Return the shutter with the source of a slitlet: MSAQUAD, XCEN and YCEN.

    Raises
    ------
    ModelError
        If a number is missing or there is no such shutter.
    """
    place = quadrant_of(attrs), whole_number(attrs.get("XCEN")), whole_number(attrs.get("YCEN"))
    quadrant, xcen, ycen = (number or 0 for number in place)
    if 1 <= quadrant <= 4 and 1 <= xcen <= 365 and 1 <= ycen <= 171:
        return Shutter(quadrant, xcen, ycen)
    raise ModelError(
        about(
            attrs,
            f"slit {attrs.get('SLTNAME', '')}: the place of its shutter is {place} (MSAQUAD, XCEN, YCEN), expected "
            "numbers up to 4, 365 and 171",
        )
    )


def source_position(slit: xr.Dataset) -> tuple[float, float]:
    """Return the planned position of the source across and along the slit: SRCXPOS, SRCYPOS.

    Warns
    -----
    DegradedResultWarning
        If a position is missing for a point. It is then taken to be in the middle.
    """
    found = [read(slit.attrs, key, matters=False) for key in ("SRCXPOS", "SRCYPOS")]
    if None in found and is_point(slit.attrs):
        name = slit.attrs.get("SLTNAME", "")
        warnings.warn(
            about(slit.attrs, f"slit {name}: the position of the source (SRCXPOS, SRCYPOS) is not known; 0 is used"),
            DegradedResultWarning,
            stacklevel=2,
        )
    x, y = (float(value or 0.0) for value in found)
    return x, y
