"""Flag the pixels that see the light of shutters which never close."""

from typing import TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.errors import ModelError
from nsxr.model.declarations import Needs, step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.variables import check
from nsxr.optics.boxes import Box, find_box
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.optics.shutters import shutter_id
from nsxr.optics.slit import Slit
from nsxr.slits.collection import map_slits
from nsxr.slits.selection import require_matching, window_of

__all__ = ["flag_stuck_shutters"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_FLAG = np.uint32(PixelFlag.MSA_FAILED_OPEN)
_HALF_HEIGHT = 0.5
"""Half of the height of a shutter [open heights]: only the open area itself lets light pass."""


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
        From :func:`nsxr.open_operability`.
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
        If ``dq`` is missing, if the optics are of another exposure, or if they do not have the quadrants of the MSA.

    Examples
    --------
    >>> rates = flag_stuck_shutters(rates, nsxr.open_operability("msaoper.json"), optics=optics)  # doctest: +SKIP
    """
    stuck = _stuck_optics(msaoper, optics)
    return map_slits(lambda data: _flag(data, msaoper, optics, stuck), exposure)


def _stuck_optics(msaoper: xr.Dataset, optics: Optics) -> list[SlitOptics]:
    known = {quadrant.number for quadrant in optics.quadrants}
    columns = [msaoper[name].to_numpy().tolist() for name in ("quadrant", "xcen", "ycen")]
    missing = sorted(set(columns[0]) - known)
    if missing:
        raise ModelError(
            f"the optics lack quadrants {', '.join(map(str, missing))} of the MSA; open them with an msa reference"
        )
    found = []
    for quadrant, xcen, ycen in zip(*columns, strict=True):
        table, number = optics.quadrant(quadrant), shutter_id(xcen, ycen)
        if number > table.x.size:
            raise ModelError(f"shutter ({xcen}, {ycen}) of quadrant {quadrant} is not in the msa reference")
        x, y, width, height = (float(axis[number - 1]) for axis in (table.x, table.y, table.width, table.height))
        place = (f"{quadrant}-{xcen}-{ycen}", quadrant, x, y, width, height)
        slit = Slit(*place, -_HALF_HEIGHT, _HALF_HEIGHT, optics.wavelength_range, optics.order)
        found.append(optics.for_slit(slit))
    return found


def _flag(data: xr.Dataset, msaoper: xr.Dataset, optics: Optics, stuck: list[SlitOptics]) -> xr.Dataset:
    check(data, "dq")
    require_matching(data, optics)
    window = window_of(data)
    seen = [(rays, box) for rays in stuck if (box := find_box(rays, window)) is not None]
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
        is_lit = (np.abs(places.slit_y) <= _HALF_HEIGHT) & (places.wavelength >= shortest)
        is_lit &= places.wavelength <= longest
        flags[low:high, left:right] |= np.where(is_lit, _FLAG, np.uint32(0))
    return flags
