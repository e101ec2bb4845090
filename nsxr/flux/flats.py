"""The flats of telescope, spectrograph and detector, cut to one slit.

Tables of fast variations are small and are in memory. Images may be cubes of a gigabyte: a task reads the planes, rows
and columns that its slit covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from nsxr.compute.blocks import unlabelled
from nsxr.errors import ModelError, ReferenceFileError
from nsxr.kernels.flux.flats import multiply_images
from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import about, whole_number
from nsxr.model.types import Attributes
from nsxr.references.files import ANY
from nsxr.references.flats import ALL_SLITS

__all__ = ["LOST", "Flat", "FlatImages"]

LOST = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.NO_FLAT_FIELD)
"""Flags of pixels that one of the flats has no value for."""

_FIXED = ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ")
_SHUTTERS = "NRS_MSASPEC"
_SERIES_SLIT = "S1600A1"
_SELECTED_BY = {"fflat": ("FILTER",), "sflat": ("DETECTOR", "FILTER", "GRATING"), "dflat": ("DETECTOR",)}
"""Keywords by which the observatory selects flats, by type."""


@dataclass(frozen=True)
class FlatImages:
    """Images of a flat for the columns of a slit. They are read in the task that uses them.

    Attributes
    ----------
    planes : (plane,) ndarray
        Wavelengths [um]. One for an image that holds for all.
    sci, err, dq : Variable
        (plane, row, column), or (row, column).
    first_row : int
        Row of the detector in which they begin. None if they hold a single shutter, (plane, 1, 1).
    """

    planes: np.ndarray
    sci: xr.Variable
    err: xr.Variable
    dq: xr.Variable
    first_row: int | None

    def chunked(self, slit: xr.Dataset, kind: str) -> list[xr.DataArray]:
        """Return the pixels of a slit as lazy arrays, if the flat is in chunks. They reach the task as blocks."""
        if self.sci.chunks is None:
            return []
        found = [xr.DataArray(array) for array in (self.sci, self.err, self.dq)]
        if self.first_row is not None:
            start = int(slit.indexes["row"][0]) - self.first_row
            found = [array.isel(row=slice(start, start + slit.sizes["row"])) for array in found]
        return [array.rename({array.dims[0]: f"plane_{kind}"}) if array.ndim == 3 else array for array in found]

    def given(self, blocks: Sequence[np.ndarray], rows: np.ndarray) -> "FlatImages":
        """Return the same images with blocks of :meth:`chunked`."""
        sci, err, dq = (
            xr.Variable(array.dims, block) for array, block in zip((self.sci, self.err, self.dq), blocks, strict=True)
        )
        first_row = None if self.first_row is None else int(rows[0])
        return FlatImages(self.planes, sci, err, dq, first_row)

    def fold(self, table: np.ndarray) -> np.ndarray:
        """Return wavelengths, values and errors of a table, multiplied by the values of a shutter.

        As in the observatory's pipeline, the value is 1 and has no error outside of the wavelengths of the planes. It
        is NaN near planes with DO_NOT_USE or NO_FLAT_FIELD.
        """
        if self.first_row is not None:
            return table
        nodes, data, err = table
        sci, own_err, dq = (array.values.reshape(-1) for array in (self.sci, self.err, self.dq))
        known = np.where(dq & LOST, np.nan, sci.astype(np.float64))
        with np.errstate(all="ignore"):
            shutter = np.interp(nodes, self.planes, known, 1.0, 1.0)
            relative = np.interp(nodes, self.planes, np.nan_to_num(own_err / known), 0.0, 0.0)
            values = data * shutter
            return np.stack([nodes, values, values * np.hypot(err / data, relative)])

    def multiply(
        self,
        wavelength: np.ndarray,
        rows: np.ndarray,
        value: np.ndarray,
        relative_variance: np.ndarray,
        flags: np.ndarray,
    ) -> None:
        """Multiply the flat of a block of rows, and change its relative variance and its flags, in place."""
        if self.first_row is None:
            return
        known = wavelength[wavelength > 0]
        planes = slice(0, 1)
        if known.size and self.planes.size > 1:
            first = int(np.searchsorted(self.planes, known.min(), "right")) - 1
            last = int(np.searchsorted(self.planes, known.max(), "left")) + 1
            first = min(max(first, 0), self.planes.size - 2)
            planes = slice(first, max(last, first + 2))
        sci, err, dq = (self._read(array, planes, rows) for array in (self.sci, self.err, self.dq))
        nodes = self.planes[planes]
        multiply_images(wavelength, nodes, sci, err, dq, LOST, value, relative_variance, flags)

    def _read(self, array: xr.Variable, planes: slice, rows: np.ndarray) -> np.ndarray:
        if self.first_row is not None:
            array = array.isel(row=slice(int(rows[0]) - self.first_row, int(rows[-1]) + 1 - self.first_row))
        if array.ndim == 3 and array.shape[0] == self.planes.size:
            array = array[planes]
        values = np.ascontiguousarray(array.values)
        return values if values.ndim == 3 else values[np.newaxis]


@dataclass(frozen=True)
class Flat:
    """One of the three flats."""

    reference: xr.Dataset

    @cached_property
    def tables(self) -> dict[str, xr.DataArray]:
        """Wavelengths, values and errors (part, node) of the fast variation, by name."""
        found: dict[str, xr.DataArray] = {}
        for name in (str(name) for name in self.reference.data_vars):
            if name.startswith("fast_") and not name.startswith("fast_error_"):
                slit = name.removeprefix("fast_")
                dim = f"fast_wavelength_{slit}"
                columns = [unlabelled(self.reference[column]) for column in (dim, name, f"fast_error_{slit}")]
                found[slit] = xr.concat(columns, "part").rename({dim: f"node_{self.kind}"}).astype(np.float64)
        return found

    @cached_property
    def lazy_tables(self) -> dict[str, xr.DataArray]:
        """The tables as lazy arrays. All slits then share them in a graph."""
        return {name: table.chunk(-1) for name, table in self.tables.items()}

    @property
    def kind(self) -> str:
        """Type of the reference."""
        return str(self.reference.attrs["reference_type"])

    def table(self, slit: xr.Dataset) -> xr.DataArray:
        """Return the fast variation of a slit."""
        tables = self.lazy_tables if slit["wavelength"].chunks is not None else self.tables
        if self.has_shutters:
            return tables[str(_shutter(slit.attrs)[0])]
        name = _fixed_slit(slit.attrs)
        found = next((one for one in (name, ALL_SLITS) if one in tables), None) if name else next(iter(tables), None)
        if found is None:
            raise ReferenceFileError(
                about(slit.attrs, f"{self.name} has no table for slit {name}; it has {', '.join(tables)}")
            )
        return tables[found]

    def images(self, slit: xr.Dataset) -> FlatImages | None:
        """Return the images for a slit, None if the flat has none."""
        reference, suffix = self.reference, ""
        cut: dict[str, int | slice] = {}
        if self.has_shutters:
            quadrant, xcen, ycen = _shutter(slit.attrs)
            suffix, cut = f"_{quadrant}", {"ycen": slice(ycen - 1, ycen), "xcen": slice(xcen - 1, xcen)}
        elif "sci" not in reference:
            return None
        else:
            cut = {"column": self._part(slit, "column")}
            self._part(slit, "row")
        sci, err, dq = (reference.variables[f"{name}{suffix}"].isel(cut) for name in ("sci", "err", "dq"))
        planes = reference.variables[str(sci.dims[0])].to_numpy().astype(np.float64) if sci.ndim == 3 else np.zeros(1)
        first_row = None if self.has_shutters else int(reference.indexes["row"][0])
        return FlatImages(planes, sci, err, dq, first_row)

    def _part(self, slit: xr.Dataset, dim: str) -> slice:
        """Return the positions of the pixels of a slit along one dim of the images."""
        first, count = int(self.reference.indexes[dim][0]), self.reference.sizes[dim]
        wanted = slit.indexes[dim]
        start, stop = int(wanted[0]) - first, int(wanted[-1]) + 1 - first
        if start < 0 or stop > count:
            raise ReferenceFileError(
                about(
                    slit.attrs,
                    f"{self.name} covers {dim}s {first} to {first + count - 1}, the slit needs {wanted[0]} to "
                    f"{wanted[-1]}",
                )
            )
        return slice(start, stop)

    @property
    def has_shutters(self) -> bool:
        """Whether the flat has a value for each shutter."""
        return "sci_1" in self.reference

    @property
    def name(self) -> str:
        """Type and file name, for messages."""
        return f"{self.kind} {self.reference.attrs.get('filename', 'in memory')}"

    def require_fit(self, slit: xr.Dataset) -> None:
        """Raise ReferenceFileError if the flat is of another detector, filter, grating or mode."""
        problems = []
        for key in {"fflat": ("FILTER",), "sflat": ("DETECTOR", "FILTER", "GRATING"), "dflat": ("DETECTOR",)}[
            self.kind
        ]:
            own, wanted = str(self.reference.attrs.get(key.lower(), "")), _word(slit.attrs, key)
            if own not in ANY and wanted and own != wanted:
                problems.append(f"{key} is {own}, that of the slit is {wanted}")
        modes = set(str(self.reference.attrs.get("exposure_types", "")).split()) - set(ANY)
        wanted = _mode(slit.attrs)
        if self.kind != "dflat" and modes and wanted and wanted not in modes:
            problems.append(f"it is for {', '.join(sorted(modes))}, the slit is of {wanted}")
        if problems:
            raise ReferenceFileError(about(slit.attrs, f"{self.name} does not fit: {'; '.join(problems)}"))


def _fixed_slit(attrs: Attributes) -> str:
    """Return the name of a fixed slit, also of one in an exposure of shutters. Empty for shutters and slices."""
    kind = _word(attrs, "EXP_TYPE")
    if kind not in _FIXED and _quadrant(attrs) != 5:
        return ""
    return _word(attrs, "SLTNAME") or _word(attrs, "FXD_SLIT") or _SERIES_SLIT


def _mode(attrs: Attributes) -> str:
    """Return the type of the exposures that have the flats of a slit: fixed slits may be in an exposure of shutters."""
    kind = _word(attrs, "EXP_TYPE")
    return "NRS_FIXEDSLIT" if kind == _SHUTTERS and _quadrant(attrs) == 5 else kind


def _shutter(attrs: Attributes) -> tuple[int, int, int]:
    """Return quadrant, XCEN and YCEN of a slitlet."""
    place = _quadrant(attrs), whole_number(attrs.get("XCEN")), whole_number(attrs.get("YCEN"))
    for number, most in zip(place, (4, 365, 171), strict=True):
        if number is None or not 1 <= number <= most:
            raise ModelError(
                about(
                    attrs,
                    f"slit {attrs.get('SLTNAME', '')}: the place of its shutter is {place} (quadrant, XCEN, YCEN), "
                    "expected numbers up to 4, 365 and 171",
                )
            )
    return place  # type: ignore[return-value]


def _quadrant(attrs: Attributes) -> int | None:
    return whole_number(attrs.get("MSAQUAD"))


def _word(attrs: Attributes, key: str) -> str:
    value = attrs.get(key)
    return "" if value is None else str(value).strip().upper()
