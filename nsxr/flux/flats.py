"""The flats of telescope, spectrograph and detector, cut to one slit.

Tables of fast variations are small and are in memory. Images may be cubes of a gigabyte: a task reads the planes, rows
and columns that its slit covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import about
from nsxr.model.slit_header import quadrant_of
from nsxr.model.types import Attributes
from nsxr.references.files import ANY
from nsxr.references.flats import ALL_SLITS
from nsxr.slits.light import Shutter, exposure_type, fixed_slit, shutter_of

__all__ = ["LOST", "Flat", "Planes"]

LOST = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.NO_FLAT_FIELD)
"""Flags of pixels that one of the flats has no value for."""

_FIXED, _SHUTTERS = "NRS_FIXEDSLIT", "NRS_MSASPEC"
_SELECTED_BY = {"fflat": ("FILTER",), "sflat": ("DETECTOR", "FILTER", "GRATING"), "dflat": ("DETECTOR",)}
"""Keywords by which the observatory selects flats, by type."""


class Planes(NamedTuple):
    """Pixels of a flat in memory: wavelengths [um], values, errors and flags, (plane, row, column)."""

    wavelength: np.ndarray
    sci: np.ndarray
    err: np.ndarray
    dq: np.ndarray


@dataclass(frozen=True)
class Flat:
    """One of the three flats. It goes to the tasks of all slits, which read what they need.

    Attributes
    ----------
    reference : Dataset
        From :func:`nsxr.open_flat`.
    """

    reference: xr.Dataset

    @property
    def kind(self) -> str:
        """Type of the reference."""
        return str(self.reference.attrs["reference_type"])

    @property
    def name(self) -> str:
        """Type and file name, for messages."""
        return f"{self.kind} {self.reference.attrs.get('filename', 'in memory')}"

    @property
    def has_shutters(self) -> bool:
        """Whether the flat has a value for each shutter."""
        return "sci_1" in self.reference

    @property
    def has_images(self) -> bool:
        """Whether the flat has images of the detector."""
        return "sci" in self.reference

    def require_fit(self, slit: xr.Dataset) -> None:
        """Raise ReferenceFileError if the flat is of another detector, filter, grating or mode, or misses pixels."""
        problems = []
        for key in _SELECTED_BY[self.kind]:
            own = str(self.reference.attrs.get(key.lower(), "")).strip().upper()
            wanted = str(slit.attrs.get(key, "")).strip().upper()
            if own not in ANY and wanted and own != wanted:
                problems.append(f"{key} is {own}, that of the slit is {wanted}")
        modes = set(str(self.reference.attrs.get("exposure_types", "")).split()) - set(ANY)
        wanted = _mode(slit.attrs)
        if self.kind != "dflat" and modes and wanted and wanted not in modes:
            problems.append(f"it is for {', '.join(sorted(modes))}, the slit is of {wanted}")
        for dim in ("row", "column") if self.has_images else ():
            own_labels, labels = self.reference.indexes[dim], slit.indexes[dim]
            if labels[0] < own_labels[0] or labels[-1] > own_labels[-1]:
                have, need = f"{own_labels[0]} to {own_labels[-1]}", f"{labels[0]} to {labels[-1]}"
                problems.append(f"it covers {dim}s {have}, the slit needs {need}")
        if problems:
            raise ReferenceFileError(about(slit.attrs, f"{self.name} does not fit: {'; '.join(problems)}"))

    def table_of(self, slit: xr.Dataset) -> str:
        """Return the name of the fast variation of a slit.

        Raises
        ------
        ReferenceFileError
            If the flat has none for this fixed slit.
        """
        if self.has_shutters:
            return str(shutter_of(slit.attrs).quadrant)
        names = [name.removeprefix("fast_") for name in map(str, self.reference.data_vars) if _is_fast(name)]
        wanted = fixed_slit(slit.attrs)
        if wanted is None:
            return ALL_SLITS if ALL_SLITS in names else names[0]
        for name in (wanted, ALL_SLITS):
            if name in names:
                return name
        raise ReferenceFileError(
            about(slit.attrs, f"{self.name} has no table for slit {wanted}; it has {', '.join(names)}")
        )

    @cached_property
    def _tables(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Wavelengths, values and errors of the tables that were used."""
        return {}

    def table(self, name: str) -> tuple[np.ndarray, ...]:
        """Return wavelengths [um], values and errors of a fast variation. Called in tasks."""
        if name not in self._tables:
            columns = (f"fast_wavelength_{name}", f"fast_{name}", f"fast_error_{name}")
            arrays = (self.reference.variables[column].to_numpy() for column in columns)
            self._tables[name] = tuple(np.array(array, np.float64) for array in arrays)
        return self._tables[name]

    def table_of_shutter(self, shutter: Shutter) -> tuple[np.ndarray, ...]:
        """Return the fast variation of a quadrant, multiplied by the values of one shutter. Called in tasks.

        As in the observatory's pipeline, the value is 1 and has no error outside of the wavelengths of the planes. It
        is NaN near planes with DO_NOT_USE or NO_FLAT_FIELD.
        """
        nodes, data, err = self.table(str(shutter.quadrant))
        planes = self.reference.variables[f"wavelength_{shutter.quadrant}"].to_numpy()
        place = {"ycen": shutter.ycen - 1, "xcen": shutter.xcen - 1}
        sci, own_err, dq = (
            self.reference.variables[f"{name}_{shutter.quadrant}"].isel(place).to_numpy()
            for name in ("sci", "err", "dq")
        )
        known = np.where(dq & LOST, np.nan, sci.astype(np.float64))
        with np.errstate(all="ignore"):
            values = data * np.interp(nodes, planes, known, 1.0, 1.0)
            relative = np.interp(nodes, planes, np.nan_to_num(own_err / known), 0.0, 0.0)
            return nodes, values, values * np.hypot(err / data, relative)

    def images(self, wavelengths: Sequence[np.ndarray], rows: np.ndarray, columns: tuple[int, int]) -> Planes:
        """Read the images of a block of rows, at the planes that are around any of its wavelengths. Called in tasks.

        Parameters
        ----------
        wavelengths : sequence of (row, column) ndarray
            Wavelengths [um].
        rows : (row,) ndarray
            Rows of the detector.
        columns : (int, int)
            First column of the detector, and the one after the last.
        """
        variables = self.reference.variables
        first = {dim: int(self.reference.indexes[dim][0]) for dim in ("row", "column")}
        part: dict[str, slice] = {
            "row": slice(int(rows[0]) - first["row"], int(rows[-1]) + 1 - first["row"]),
            "column": slice(columns[0] - first["column"], columns[1] - first["column"]),
        }
        nodes = variables["wavelength"].to_numpy().astype(np.float64) if "wavelength" in variables else np.zeros(1)
        if nodes.size > 1:
            known = [one[one > 0] for one in wavelengths]
            low = min(float(one.min(initial=np.inf)) for one in known)
            high = max(float(one.max(initial=-np.inf)) for one in known)
            start = min(max(int(np.searchsorted(nodes, low, "right")) - 1, 0), nodes.size - 2)
            part["wavelength"] = slice(start, max(int(np.searchsorted(nodes, high, "left")) + 1, start + 2))
            nodes = nodes[part["wavelength"]]
        found = []
        for name in ("sci", "err", "dq"):
            values = variables[name].isel(part, missing_dims="ignore").to_numpy()
            found.append(np.ascontiguousarray(values if values.ndim == 3 else values[np.newaxis]))
        return Planes(nodes, *found)


def _is_fast(name: str) -> bool:
    return name.startswith("fast_") and not name.startswith("fast_error_")


def _mode(attrs: Attributes) -> str:
    """Return the type of the exposures that have the flats of a slit: fixed slits may be in an exposure of shutters."""
    kind = exposure_type(attrs)
    return _FIXED if kind == _SHUTTERS and quadrant_of(attrs) == 5 else kind
