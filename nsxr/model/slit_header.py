"""Read the header of a slit once, and give its values names."""

import json
from dataclasses import dataclass
from typing import Any

import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.keywords import read, whole_number
from nsxr.model.texts import text_of
from nsxr.model.types import Attributes

__all__ = ["SlitHeader", "quadrant_of"]

_COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class SlitHeader:
    """A slit, its source and its subtracted background, from the attributes of a slit or of its spectrum.

    Texts are stripped. If the header does not have a value, a text is empty and a number is None.

    Attributes
    ----------
    name : str
        Name of the slit (SLTNAME): ``S200A1``, or the number of a slitlet.
    place : tuple of str
        Number, first column and first row of the slit (SLITID, SLTSTRT1, SLTSTRT2). They identify slits without names.
    shutters : str
        State of the shutters of a slitlet, lowest first (SHUTSTA): ``11x11``. Empty for fixed slits.
    fixed_slit : str or None
        The fixed slit that the target was placed in (FXD_SLIT). None if the header does not have the keyword.
    source_id : int or None
        Number of the source (SOURCEID). It is negative for virtual sources.
    source_name, target : str
        Name of the source (SRCNAME), and name of the target of the observation (TARGNAME, else TARGPROP).
    source_type : str
        ``POINT``, ``EXTENDED``, or any other word of the header in upper case (SRCTYPE).
    source_y : float or None
        Planned position of the source along the slit, in slit heights (SRCYPOS).
    places : tuple of float
        Planned places of all sources along the slit [open heights], the primary one first (``source_places``, else
        SRCYPOS times SLTYSCL). Empty if they are not known.
    nods : tuple of (float or None), or None
        Shifts of the source along the slit in each exposure that was subtracted [open heights], None in those that do
        not show it (``nod_shifts``). None if they are not known.
    order : int
        Spectral order without its sign (SPORDER).
    program, observation, detector, filter, grating, exposure_type : str
        Keywords of the exposure.
    exposure_time : float
        Effective exposure time in s (EFFEXPTM), 0 if the header does not have it.
    pixel_area : float or None
        Area of a pixel in sr (PIXAR_SR).
    exposure : str
        Name of the file that the slit is from.
    has_nods_subtracted : bool
        Whether other exposures were subtracted: nods or dedicated backgrounds (S_BKDSUB).
    is_sky_subtracted : bool
        Whether any background was subtracted: from other exposures, or from background slitlets (S_MSBSUB).
    is_spectrum_subtracted : bool
        Whether a spectrum of the sky was subtracted (S_MSBSUB), so that all rows share its noise.
    background_members : tuple of str or None
        Names of the exposures whose mean was subtracted, if the variance of that mean is known. None if the names were
        not recorded.
    """

    name: str
    place: tuple[str, str, str]
    shutters: str
    fixed_slit: str | None
    source_id: int | None
    source_name: str
    target: str
    source_type: str
    source_y: float | None
    places: tuple[float, ...]
    nods: tuple[float | None, ...] | None
    order: int
    program: str
    observation: str
    detector: str
    filter: str
    grating: str
    exposure_type: str
    exposure_time: float
    pixel_area: float | None
    exposure: str
    has_nods_subtracted: bool
    is_sky_subtracted: bool
    is_spectrum_subtracted: bool
    background_members: tuple[str, ...] | None

    @classmethod
    def of(cls, slit: xr.Dataset) -> "SlitHeader":
        """Return the SlitHeader of a slit or of its spectrum."""
        return cls.from_attributes(slit.attrs)

    @classmethod
    def from_attributes(cls, attrs: Attributes) -> "SlitHeader":
        """Return the SlitHeader that attributes describe.

        Raises
        ------
        ModelError
            If ``background_members`` is not a list of names.
        """
        members = _names(attrs["background_members"]) if "background_members" in attrs else None
        subtracted, of_spectrum = (attrs.get(key) == _COMPLETE for key in ("S_BKDSUB", "S_MSBSUB"))
        return cls(
            name=text_of(attrs, "SLTNAME"),
            place=(text_of(attrs, "SLITID"), text_of(attrs, "SLTSTRT1"), text_of(attrs, "SLTSTRT2")),
            shutters=text_of(attrs, "SHUTSTA"),
            fixed_slit=text_of(attrs, "FXD_SLIT") if "FXD_SLIT" in attrs else None,
            source_id=read(attrs, "SOURCEID", matters=False),
            source_name=text_of(attrs, "SRCNAME"),
            target=text_of(attrs, "TARGNAME") or text_of(attrs, "TARGPROP"),
            source_type=text_of(attrs, "SRCTYPE").upper(),
            source_y=read(attrs, "SRCYPOS", matters=False),
            places=_places(attrs),
            nods=_nods(attrs),
            order=abs(read(attrs, "SPORDER", matters=False)),
            program=text_of(attrs, "PROGRAM"),
            observation=text_of(attrs, "OBSERVTN"),
            detector=text_of(attrs, "DETECTOR"),
            filter=text_of(attrs, "FILTER"),
            grating=text_of(attrs, "GRATING"),
            exposure_type=text_of(attrs, "EXP_TYPE"),
            exposure_time=read(attrs, "EFFEXPTM", matters=False),
            pixel_area=read(attrs, "PIXAR_SR", matters=False),
            exposure=text_of(attrs, "filename") or text_of(attrs, "FILENAME"),
            has_nods_subtracted=subtracted,
            is_sky_subtracted=subtracted or of_spectrum or members is not None,
            is_spectrum_subtracted=of_spectrum,
            background_members=members,
        )

    @property
    def is_extended(self) -> bool:
        """Whether the header says that the source is extended. All other sources are treated as point sources."""
        return self.source_type == "EXTENDED"

    @property
    def has_planned_source(self) -> bool:
        """Whether a source is planned in this slit. False for background slits, and fixed slits without the target."""
        if not self.shutters and (self.fixed_slit or "").upper() not in ("", "NONE", "N/A", self.name.upper()):
            return False
        return "BKG" not in self.source_name.upper() and (self.source_id or 0) >= 0

    def called(self, otherwise: str) -> str:
        """Return the name of the exposure for messages, or ``otherwise`` if the header has none."""
        return self.exposure or otherwise


def quadrant_of(attrs: Attributes) -> int | None:
    """Return the quadrant of the shutters of a slit, 5 for fixed slits and slices. None if the header has none."""
    found = whole_number(attrs.get("MSAQUAD"))
    return found if found is not None and 1 <= found <= 5 else None


def _places(attrs: Attributes) -> tuple[float, ...]:
    if "source_places" in attrs:
        return tuple(number for number in _numbers(attrs, "source_places") if number is not None)
    place = read(attrs, "SRCYPOS", matters=False)
    return () if place is None else (float(place) * float(read(attrs, "SLTYSCL", default=1.0, matters=False)),)


def _nods(attrs: Attributes) -> tuple[float | None, ...] | None:
    return tuple(_numbers(attrs, "nod_shifts")) if "nod_shifts" in attrs else None


def _numbers(attrs: Attributes, key: str) -> list[float | None]:
    try:
        found = json.loads(str(attrs[key]))
        return [None if one is None else float(one) for one in found]
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"attribute {key} is {attrs[key]!r:.60}, expected a JSON list of numbers") from error


def _names(text: Any) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ModelError(f"attribute background_members is {text!r:.60}, expected a JSON list of names of exposures")
    return tuple(map(str, found))
