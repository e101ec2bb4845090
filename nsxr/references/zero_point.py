"""Open references of the wavelength zero point (type WAVECORR), which are ASDF files."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from nsxr.errors import DegradedResultWarning, ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfFile, read_asdf
from nsxr.formats.asdf_transforms import Tabular, read_transform
from nsxr.formats.fingerprint import describe_file

__all__ = ["SHUTTERS", "open_zero_point"]

SHUTTERS = "MOS"
"""Name of the aperture of all shutters."""

_MOST = 20.0  # largest possible offset [pixel]; the widest slit has 13 pixels
_EMPIRICAL = ("wavelength", "x_offset", "S")


def open_zero_point(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of the wavelength zero point: offsets of the spectra of points beside the middle of their slit.

    Parameters
    ----------
    path : path
        ASDF file in one of two formats. The observatory's: ``apertures``, each with a table ``zero_point_offset`` of
        wavelength [m] and position. An empirical table for shutters: ``wavelength`` [um], ``x_offset`` and ``S``
        (x_offset, wavelength), which may have gaps.

    Returns
    -------
    Dataset
        In memory, float64: for each aperture, ``offset_NAME`` [pixel] along ``wavelength_NAME`` [um] and ``x_NAME``
        (position of the source across the slit: widths of a fixed slit, pitch of shutters), both increasing. NAME is a
        fixed slit, or MOS. The attribute ``beyond`` says what holds outside of the table: ``line`` (the last two values
        are extended) or ``hold`` (the last value).

    Raises
    ------
    ReferenceFileError
        If the file does not exist, is damaged, or has no such tables.

    Warns
    -----
    DegradedResultWarning
        If the offsets of a table change with wavelength more than with position: its axes are probably exchanged.

    References
    ----------
    Scholtz et al. 2025, JADES DR4 Paper II, arXiv:2510.01034, for the empirical table.
    """
    file = read_asdf(path)
    if all(name in file.tree for name in _EMPIRICAL):
        tables, beyond = {SHUTTERS: _empirical(file)}, "hold"
    else:
        tables, beyond = _by_aperture(file), "line"
    variables = {}
    for name, (wavelength, x, offset) in tables.items():
        _require_sound(file, name, wavelength, x, offset)
        dims = (f"wavelength_{name}", f"x_{name}")
        coords = {dims[0]: (dims[0], wavelength, {"units": "um"}), dims[1]: (dims[1], x)}
        variables[f"offset_{name}"] = xr.DataArray(offset, coords, dims, attrs={"units": "pixel"})
    attributes: dict[str, object] = {"reference_type": "wavecorr", "filename": Path(path).name, "beyond": beyond}
    attributes |= {key: value for key, value in describe_file(os.fspath(path)).items() if key != "file"}
    return xr.Dataset(variables, attrs=attributes)


_Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Wavelengths [um], positions, and offsets [pixel] (wavelength, position)."""


def _by_aperture(file: AsdfFile) -> dict[str, _Table]:
    apertures = file.tree.get("apertures")
    if not isinstance(apertures, Sequence) or isinstance(apertures, str) or not apertures:
        listed = ", ".join(map(str, file.tree)) or "nothing"
        raise ReferenceFileError(
            f"{file.name}: no table of the wavelength zero point; the file has {listed}, expected apertures, or "
            f"{', '.join(_EMPIRICAL)}"
        )
    tables = {}
    for number, aperture in enumerate(apertures):
        node = aperture.get("zero_point_offset") if isinstance(aperture, Mapping) else None
        table = read_transform(node, file.arrays) if node is not None else None
        if not isinstance(table, Tabular) or len(table.points) != 2:
            raise ReferenceFileError(f"{file.name}: aperture {number} has no table zero_point_offset of two inputs")
        tables[str(aperture.get("aperture_name")).strip().upper()] = (
            table.points[0] * 1e6,
            table.points[1],
            table.values,
        )
    return tables


def _empirical(file: AsdfFile) -> _Table:
    wavelength, x, offset = (np.asarray(file.arrays.read(file.tree[name]), np.float64) for name in _EMPIRICAL)
    if offset.shape != (x.size, wavelength.size):
        raise ReferenceFileError(
            f"{file.name}: S has shape {offset.shape}, expected ({x.size}, {wavelength.size}): x_offset, wavelength"
        )
    order, along = np.argsort(x), np.argsort(wavelength)
    x, wavelength, offset = x[order], wavelength[along], offset[order][:, along]
    filled = []
    for column in offset.T:
        known = np.isfinite(column)
        if not known.any():
            raise ReferenceFileError(f"{file.name}: S has no value at some wavelength")
        filled.append(np.interp(x, x[known], column[known]))  # gaps are filled from neighbouring positions
    return wavelength, x, np.array(filled)


def _require_sound(file: AsdfFile, name: str, wavelength: np.ndarray, x: np.ndarray, offset: np.ndarray) -> None:
    what = f"{file.name}: table of {name}"
    for axis, label in ((wavelength, "wavelengths"), (x, "positions")):
        if axis.size < 2 or not (np.diff(axis) > 0).all():
            raise ReferenceFileError(f"{what}: its {label} do not increase, expected at least two increasing numbers")
    if not 0.01 < wavelength[0] < wavelength[-1] < 100:
        raise ReferenceFileError(
            f"{what}: wavelengths from {wavelength[0]:g} to {wavelength[-1]:g} um, expected 0.6 to 5.3"
        )
    strange = int((~(np.abs(offset) <= _MOST)).sum())
    if strange:
        raise ReferenceFileError(f"{what}: {strange} offsets are not finite or above {_MOST:g} pixels")
    if np.ptp(offset.mean(axis=1)) > np.ptp(offset.mean(axis=0)):
        warnings.warn(
            f"{what}: its offsets change with wavelength more than with the position of the source; its axes may be "
            "exchanged, and corrected wavelengths are then wrong by up to half a pixel",
            DegradedResultWarning,
            stacklevel=3,
        )
