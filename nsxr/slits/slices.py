"""Tell which slice of the IFU, which wavelength and which place on the sky each pixel sees."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.errors import ModelError, ParameterError
from nsxr.model.types import Entries
from nsxr.model.variables import variable_attributes
from nsxr.optics.boxes import Box, find_box
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.slits.cut_outs import COORDINATES, describe, places_seen, with_wcs
from nsxr.slits.selection import require_matching, window_of

__all__ = ["locate_slices"]

_BLOCK_ROWS = 128
"""Rows of a block. A block of full rows has four results of 2 MB and is computed in about a tenth of a second."""


class _Slice(NamedTuple):
    """A slice on the detector."""

    number: int
    rays: SlitOptics
    box: Box


def locate_slices(
    exposure: xr.Dataset, optics: Optics, *, coordinates: Collection[str] = ("wavelength", "slit_y", "ra", "dec")
) -> xr.Dataset:
    """Tell which slice of the IFU each pixel sees, at which wavelength, and where on the sky.

    Parameters
    ----------
    exposure : Dataset
        An exposure of the IFU from :func:`nsxr.open_exposure`. Its header and its labels are used, no pixel is read.
    optics : Optics
        From :func:`nsxr.open_optics`.
    coordinates : collection of str
        What to compute for each pixel: ``wavelength`` float32 [um], ``slit_y`` float32 [open heights], ``ra`` and
        ``dec`` float64 [degree].

    Returns
    -------
    Dataset
        ``slice`` (row, column) uint8: 1 to 30, 0 between the slices, as in the extension REGIONS of the observatory's
        products; and the coordinates (row, column), NaN between the slices. All are lazy, in blocks of rows, with the
        labels of the exposure. Like the box of a slit, a slice goes on for 11 columns beyond the nominal wavelengths.
        M gratings on NRS2 have slices wherever their light falls.

    Raises
    ------
    ModelError
        If the exposure is not of the IFU, if the optics are of another exposure, or if no slice falls on its pixels.
    ParameterError
        If a coordinate is not known.
    """
    unknown = sorted(set(coordinates) - set(COORDINATES))
    if unknown:
        raise ParameterError(f"coordinates {', '.join(unknown)} are not known, expected {', '.join(COORDINATES)}")
    require_matching(exposure, optics)
    if not optics.is_ifu:
        raise ModelError(f"EXP_TYPE is {exposure.attrs.get('EXP_TYPE')!r}, expected NRS_IFU; use nsxr.cut_slits")
    wanted = tuple(name for name in COORDINATES if name in coordinates)
    window, slices = window_of(exposure), []
    for number, name in enumerate(optics.slits, start=1):
        rays = optics.for_slit(name)
        box = find_box(rays, window)
        if box is not None:
            slices.append(_Slice(number, rays, box))
    if not slices:
        raise ModelError(
            f"no slice falls on {optics.detector} with {optics.filter} and {optics.grating}: there is no spectrum in "
            "this exposure"
        )
    rows = xr.DataArray(np.arange(window.first_row, window.end_row), dims="row").chunk(row=_BLOCK_ROWS)
    outputs: dict[str, Output] = {"slice": (("row", "column"), np.uint8)}
    outputs |= {name: (("row", "column"), COORDINATES[name][0]) for name in wanted}
    found = map_blocks(
        _locate,
        rows,
        core=(),
        outputs=outputs,
        sizes={"column": window.shape[1]},
        first_column=window.first_column,
        n_columns=window.shape[1],
        slices=tuple(slices),
        wanted=wanted,
    )
    attrs: dict[str, Entries] = {name: describe(name) for name in wanted}
    attrs["slice"] = variable_attributes("slice")
    variables = {name: array.variable for name, array in found.items()}
    for name, variable in variables.items():
        variable.attrs = attrs[name]
    labels = {dim: exposure[dim] for dim in ("row", "column")}
    return xr.Dataset(variables, coords=labels, attrs=with_wcs(exposure, optics).attrs)


def _locate(
    rows: np.ndarray, *, first_column: int, n_columns: int, slices: tuple[_Slice, ...], wanted: tuple[str, ...]
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Ask the optics of each slice for the pixels of its box. The others stay 0 and NaN."""
    shape = (rows.size, n_columns)
    number = np.zeros(shape, np.uint8)
    found = {name: np.full(shape, np.nan, COORDINATES[name][0]) for name in wanted}
    for one in slices:
        low, high = np.searchsorted(rows, (one.box.first_row, one.box.end_row))
        if low == high:
            continue
        place = (slice(low, high), slice(one.box.first_column - first_column, one.box.end_column - first_column))
        columns = (one.box.first_column, one.box.end_column)
        seen = places_seen(one.rays, rows[low:high], columns, {"wavelength", *wanted})
        is_inside = np.isfinite(seen["wavelength"])
        number[place][is_inside] = one.number
        for name in wanted:
            found[name][place][is_inside] = seen[name][is_inside]
    results = (number, *found.values())
    return results if len(results) > 1 else number
