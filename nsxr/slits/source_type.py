"""Decide whether the source in a slit, or in an exposure, is a point or extended."""

import math
from typing import Literal, TypeVar, get_args

import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.declarations import step
from nsxr.model.history import record
from nsxr.model.keywords import about, read
from nsxr.model.texts import in_capitals, is_true
from nsxr.model.types import Attributes, Entries
from nsxr.optics.fixed_slits import primary_slit
from nsxr.slits.collection import map_slits

__all__ = ["SourceType", "set_source_type"]

SourceType = Literal["POINT", "EXTENDED"]
Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_POINT, _EXTENDED = get_args(SourceType)
_ONE_TARGET = ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_IFU")
"""Exposures whose type of source the proposer gave."""
_SHUTTERS = "NRS_MSASPEC"
_POINT_ABOVE = 0.75
"""Stellarity above which a source counts as a point."""


@step("srctype")
def set_source_type(slits: Slits, *, source_type: SourceType | None = None) -> Slits:
    """Decide whether the source of each slit is a point or extended.

    Corrections of the wavelength zero point, the path loss, the flux and the extraction differ for the two types.

    Parameters
    ----------
    slits : Dataset or DataTree
        An exposure of the IFU, one slit, or many slits. Only attributes are read.
    source_type : str, optional
        ``POINT`` or ``EXTENDED``, for every slit that may hold the target. Default: what the headers say.

    Returns
    -------
    Dataset or DataTree
        The same data with SRCTYPE. Pixels, variances and flags do not change. If the target of a fixed slit is
        extended, its position (SRCXPOS, SRCYPOS) becomes 0.

    Raises
    ------
    ParameterError
        If ``source_type`` is another word.
    ModelError
        If EXP_TYPE is missing, or is not one of a spectrum of the sky.

    Notes
    -----
    The first of these rules that applies decides, for fixed slits, time series and the IFU: the argument; a background
    target (BKGDTARG) is extended; a time series is a point; what the proposer said (SRCTYAPT, else SRCTYPE); nods
    (PATTTYPE) are of a point; by default the IFU has an extended source, and slits have a point. Fixed slits that
    the target was not placed in are always extended.

    For shutters, a source is a point if its stellarity is above 0.75, or not known (negative or missing).

    These are the rules of the observatory's pipeline, with two exceptions for shutters: there the argument is ignored,
    and a source whose stellarity is NaN is extended.

    Examples
    --------
    >>> slits = set_source_type(slits)  # doctest: +SKIP
    """
    result = map_slits(lambda slit: _set_type(slit, source_type), slits)
    if isinstance(result, xr.DataTree) and not result.has_data:
        attrs = {key: value for key, value in result.attrs.items() if key != "SRCTYPE"}
        kind = _exposure_type(attrs) if "EXP_TYPE" in attrs else _SHUTTERS
        # slits of shutters differ from each other, so the whole exposure has no type
        result.attrs = attrs | ({} if kind == _SHUTTERS else {"SRCTYPE": _of_target(result.attrs, kind, source_type)})
    return result


def _set_type(slit: xr.Dataset, wanted: SourceType | None) -> xr.Dataset:
    attrs = slit.attrs
    kind = _exposure_type(attrs)
    changes: Entries = {}
    if kind == _SHUTTERS:
        found = wanted or _of_shutters(attrs)
    elif kind == "NRS_FIXEDSLIT" and not _holds_target(attrs):
        found = _EXTENDED
    else:
        found = _of_target(attrs, kind, wanted)
        if kind == "NRS_FIXEDSLIT" and found == _EXTENDED:
            changes = {key: 0.0 for key in ("SRCXPOS", "SRCYPOS") if key in attrs}
    parameters = {} if wanted is None else {"source_type": wanted}
    return record(slit, "srctype", parameters=parameters, attrs={"SRCTYPE": found, **changes})


def _exposure_type(attrs: Attributes) -> str:
    kind = in_capitals(attrs, "EXP_TYPE")
    if kind not in (*_ONE_TARGET, _SHUTTERS):
        raise ModelError(
            about(
                attrs, f"EXP_TYPE is {kind!r}, expected {', '.join(_ONE_TARGET)} or {_SHUTTERS}: others have no source"
            )
        )
    return kind


def _of_shutters(attrs: Attributes) -> SourceType:
    stellarity = read(attrs, "STLARITY", matters=False)
    if stellarity is None or math.isnan(stellarity) or stellarity < 0:
        return "POINT"
    return "POINT" if stellarity > _POINT_ABOVE else "EXTENDED"


def _of_target(attrs: Attributes, kind: str, wanted: SourceType | None) -> SourceType:
    """Return the type of the target of an exposure."""
    if wanted is not None:
        return wanted
    if is_true(attrs, "BKGDTARG"):
        return "EXTENDED"
    is_series = is_true(attrs, "TSOVISIT") or kind == "NRS_BRIGHTOBJ"
    if is_series and read(attrs, "NINTS", matters=False) != 1:
        return "POINT"
    planned = in_capitals(attrs, "SRCTYAPT" if attrs.get("SRCTYAPT") is not None else "SRCTYPE")
    if planned in (_POINT, _EXTENDED):
        return "POINT" if planned == _POINT else "EXTENDED"
    pattern = in_capitals(attrs, "PATTTYPE")
    if "NOD" in pattern or "POINT-SOURCE" in pattern:
        return "POINT"
    return "EXTENDED" if kind == "NRS_IFU" else "POINT"


def _holds_target(attrs: Attributes) -> bool:
    """Return whether the target was placed in a fixed slit. Data without the name of a slit count as the target's."""
    name, target = (
        in_capitals(attrs, "SLTNAME"),
        primary_slit(in_capitals(attrs, "SUBARRAY"), in_capitals(attrs, "FXD_SLIT")),
    )
    if not name or target is None:
        return not name or read(attrs, "SOURCEID", matters=False) == 1
    return name == target
