"""Flag the pixels that see the light of shutters which never close."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.errors import ModelError, ParameterError
from nsxr.model.declarations import Needs, step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.variables import check
from nsxr.optics.boxes import Box, find_box
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.optics.shutters import shutter_id
from nsxr.slits.collection import map_slits
from nsxr.slits.selection import require_matching, window_of

__all__ = ["flag_stuck_shutters", "stuck_optics"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_FLAG = np.uint32(PixelFlag.MSA_FAILED_OPEN)
_COLUMNS = ("quadrant", "xcen", "ycen")


@step("msa_flagging", references=[Needs("msaoper")], given=["optics"])
def flag_stuck_shutters(exposure: Slits, msaoper: xr.Dataset, *, optics: Optics) -> Slits:
    """Flag the pixels that see the light of shutters which never close.

    The spectrum of a stuck shutter lies on top of other spectra: those of slitlets, and those of the IFU, whose
    exposures need no open shutter at all.

    Parameters
    ----------
    exposure : Dataset or DataTree
        Count rates, one slit, or many slits: ``dq`` (row, column) uint32, with or without integration in front, with
        labels of the whole detector.
    msaoper : Dataset
        From :func:`nsxr.open_operability`, in memory.
    optics : Optics
        From :func:`nsxr.open_optics`. They must have the quadrants of the MSA.

    Returns
    -------
    Dataset or DataTree
        The same data; ``dq`` has MSA_FAILED_OPEN in addition to earlier flags where the open area of a stuck shutter
        sends light of the range of the filter and the grating. ``sci`` and variances do not change. It is lazy if
        ``dq`` is: nothing is computed, and the flags are computed once for all integrations.

    Raises
    ------
    ModelError
        If ``dq`` is missing, if the optics are of another exposure, or if they do not have the shutters of the
        reference.

    Examples
    --------
    >>> rates = flag_stuck_shutters(rates, nsxr.open_operability("msaoper.json"), optics=optics)  # doctest: +SKIP
    """
    stuck = stuck_optics(msaoper, optics)
    return map_slits(lambda data: _flag(data, msaoper, optics, stuck), exposure)


def stuck_optics(msaoper: xr.Dataset, optics: Optics) -> list[SlitOptics]:
    """Return the optics of shutters that never close. Raise ModelError like :func:`flag_stuck_shutters`."""
    wrong = [name for name in _COLUMNS if name not in msaoper or msaoper[name].dtype.kind not in "iu"]
    if wrong or len({msaoper[name].dims for name in _COLUMNS}) != 1 or msaoper[_COLUMNS[0]].ndim != 1:
        raise ModelError(
            f"msaoper has no whole numbers {', '.join(_COLUMNS)} along one dim; open it with nsxr.open_operability"
        )
    columns = [msaoper[name].to_numpy().tolist() for name in _COLUMNS]
    try:
        shutters = [optics.shutter(q, shutter_id(x, y)) for q, x, y in zip(*columns, strict=True)]
    except ParameterError as error:
        raise ModelError(f"a stuck shutter is not in these optics, open them with an msa reference: {error}") from error
    return [optics.for_slit(shutter) for shutter in shutters]


def _flag(data: xr.Dataset, msaoper: xr.Dataset, optics: Optics, stuck: list[SlitOptics]) -> xr.Dataset:
    check(data, "dq")
    require_matching(data, optics)
    window = window_of(data, may_have_gaps=True)
    # a box has two columns at least, so that of a single column of pixels is found with its neighbours
    wider = replace(window, first_column=window.first_column - 1, end_column=window.end_column + 1)
    seen = [(rays, box) for rays in stuck if (box := find_box(rays, wider)) is not None]
    dq = data["dq"]
    if seen:
        rows = xr.DataArray(data.indexes["row"].to_numpy(), dims="row")
        lengths = dict(zip(dq.dims, dq.chunks, strict=True))["row"] if dq.chunks is not None else None
        flags = map_blocks(
            _flags,
            rows if lengths is None else rows.chunk(row=lengths),
            core=(),
            outputs={"flags": (("row", "column"), np.uint32)},
            sizes={"column": data.sizes["column"]},
            columns=data.indexes["column"].to_numpy(),
            seen=tuple(seen),
        )["flags"]
        dq = (dq | flags).transpose(*dq.dims)
    return record(data, "msa_flagging", [msaoper], dq=dq)


def _flags(rows: np.ndarray, *, columns: np.ndarray, seen: tuple[tuple[SlitOptics, Box], ...]) -> np.ndarray:
    """Return the flag for the pixels of a block of rows that see a stuck shutter, 0 for others."""
    flags = np.zeros((rows.size, columns.size), np.uint32)
    for rays, box in seen:
        low, high = np.searchsorted(rows, (box.first_row, box.end_row))
        left, right = np.searchsorted(columns, (box.first_column, box.end_column))
        if low == high or left == right:
            continue
        places = rays.forward(
            columns[np.newaxis, left:right].astype(np.float64), rows[low:high, np.newaxis].astype(np.float64), sky=False
        )
        shortest, longest = rays.slit.wavelength_range
        is_lit = (places.slit_y >= rays.slit.slit_y_low) & (places.slit_y <= rays.slit.slit_y_high)
        is_lit &= places.wavelength >= shortest  # only the open area itself lets light pass
        is_lit &= places.wavelength <= longest
        flags[low:high, left:right] |= np.where(is_lit, _FLAG, np.uint32(0))
    return flags
