"""Read spectra: x1d, x1dints and c1d of the observatory's pipeline or of nsxr, and Zarr."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.fits_tables import TIME_COLUMNS, history_of, origin_of
from nsxr.formats.spectra_tables import POSITIONS, TIMES, cutout_start, is_of_spectrum
from nsxr.formats.zarr_read import open_store
from nsxr.model.keywords import read
from nsxr.model.names import plain_name
from nsxr.model.variables import RELATIVE_ERRORS, VARIABLES, variable_attributes
from nsxr.products.padding import in_order
from nsxr.slits.collection import as_tree
from nsxr.storage.folder import Folder

__all__ = ["open_spectra"]

_ERRORS = ("ERROR", "FLUX_ERROR", "SB_ERROR", "BKGD_ERROR")
_NUMBERS = ("INT_NUM", "N_ALONGDISP", "SEGMENT", "SOURCE_TYPE", *TIMES)
_COMBINED: Mapping[str, tuple[str, str]] = {
    "WEIGHT": ("combination_weight", "sum of the weights of what was combined"),
    "N_INPUT": ("n_input", "spectra that were combined"),
    "FLUX_VAR_SHARED": ("flux_var_shared", "covariance of what spectra share, such as backgrounds"),
    "SB_VAR_SHARED": ("sb_var_shared", "covariance of what spectra share, such as backgrounds"),
    "FLUX_COVARIANCE": ("flux_covariance", "covariance of flux with the next wavelength"),
    "FLUX_VAR": ("flux_var", "variance of flux"),
    "SB_VAR": ("sb_var", "variance of surf_bright"),
}
"""Variables of combined spectra that :mod:`nsxr.model.variables` does not declare, and their meanings."""


def open_spectra(path: str | os.PathLike[str]) -> xr.DataTree:
    """Open a product of spectra.

    Parameters
    ----------
    path : str or path
        FITS: ``x1d``, ``x1dints`` or ``c1d``, gzipped or not. An ``x1dints`` may have a row for each integration, or a
        table for each integration, as before version 1.18 of the observatory's pipeline. Or a directory that ends in
        ``.zarr``, written by :func:`nsxr.products.spectra_write.write_spectra`.

    Returns
    -------
    DataTree
        A node for each spectrum, named like its slit (SLTNAME). Spectra have ``flux`` and other quantities (dispersion)
        or (integration, dispersion) float64 [Jy or DN/s], variances, ``dq`` uint32, and the coordinate ``wavelength``
        float64 [um]. Errors are left out, because they are square roots of sums of variances. A combined spectrum that
        has only errors gets ``flux_var`` and ``sb_var``. FITS tables are read into memory. Zarr is lazy.

    Raises
    ------
    InputFileError
        If the file does not exist, is damaged, or has no spectra.
    """
    location = os.fspath(path)
    if location.rstrip("/").endswith(".zarr"):
        return _open_zarr(Path(location))
    file = scan(location, tables=("INT_TIMES", "NSXR_PROVENANCE"))
    name = next((name for name in ("EXTRACT1D", "COMBINE1D") if name in file.extensions), None)
    if name is None:
        found = ", ".join(file.extensions) or "none"
        raise InputFileError(
            f"{file.path}: no spectra in it (extensions {found}); expected EXTRACT1D (x1d, x1dints) or COMBINE1D (c1d)"
        )
    primary = keywords(file.primary) | {"fits_header": file.primary.tostring(sep="\n", endcard=False, padding=False)}
    primary |= origin_of(file)
    tables = {hdu.ver: hdu.data for hdu in file.tables("NSXR_STEPS")}  # older files have one for each spectrum
    spectra = [
        _spectrum(hdu, primary, history_of(tables.get(hdu.ver, tables.get(1)), hdu.ver, file.path), file.path)
        for hdu in file.tables(name)
    ]
    times = file.extensions["INT_TIMES"].table if "INT_TIMES" in file.extensions else None
    return _tree(_with_times(_joined(spectra, file.path), times), primary)


def _spectrum(hdu: fits.BinTableHDU, primary: Mapping[str, Any], history: Mapping[str, str], path: str) -> xr.Dataset:
    """Return one table as a spectrum, or as a time series if its rows hold vectors."""
    header, data, present = keywords(hdu.header), hdu.data, hdu.columns.names
    number = partial(read, header, matters=False, source=f"{path}: {hdu.name} {hdu.ver}")
    missing = {"WAVELENGTH", "FLUX", "DQ"} - set(present)
    if missing:
        raise InputFileError(f"{path}: {hdu.name} {hdu.ver} lacks the columns {', '.join(sorted(missing))}")
    values = {name: np.asarray(data[name]) for name in present}
    values = {name: v.astype(v.dtype.newbyteorder("=")) for name, v in values.items() if name not in ("SOURCE_TYPE",)}
    units = {name: _units(hdu.columns[name].unit) for name in present}
    is_series = values["WAVELENGTH"].ndim == 2
    wavelength = values.pop("WAVELENGTH").astype(np.float64)
    if is_series:
        wavelength, values = _cut(wavelength, values, f"{path}: {hdu.name} {hdu.ver}")
    slit = {k: v for k, v in header.items() if is_of_spectrum(k) and k not in ("INT_NUM", *TIMES)}
    attrs = {**primary, **slit, **history}
    start, length = cutout_start(attrs, 1), wavelength.size
    if "COLUMN" in values:
        column = values["COLUMN"] if values["COLUMN"].ndim == 1 else values["COLUMN"][0]
    elif (first := number("EXTRXSTR")) is not None and (number("EXTRXSTP") or 0) - first + 1 == length:
        column = start + first - 1 + np.arange(length)
    else:
        column = np.arange(length)
    coords: dict[str, Any] = {"dispersion": column.astype(np.int64)}
    coords["wavelength"] = ("dispersion", wavelength, {"units": "um"} | variable_attributes("wavelength"))
    if is_series:
        coords["integration"] = values["INT_NUM"].astype(np.int64) if "INT_NUM" in values else np.arange(len(data)) + 1
    named = zip((*TIMES, "INT_NUM"), (*TIME_COLUMNS, "integration"), strict=True)
    for keyword, coordinate in named:
        if is_series and keyword in TIMES and keyword in values:
            coords[coordinate] = ("integration", values[keyword])
        elif not is_series and (value := number(keyword)) is not None:
            coords[coordinate] = value
    for keyword, coordinate in (("EXTRYSTR", "extraction_start"), ("EXTRYSTP", "extraction_stop")):
        if (value := number(keyword)) is not None:
            coords[coordinate] = value + cutout_start(attrs, 2) - 1
    for coordinate, (keyword, _) in POSITIONS.items():
        if (value := number(keyword)) is not None:
            coords[coordinate] = value
    if hdu.name == "COMBINE1D" and "FLUX_VAR_POISSON" not in values:
        values |= {f"{kind}_VAR": values[f"{e}"] ** 2 for kind, e in {"FLUX": "ERROR", "SB": "SB_ERROR"}.items()}
        units |= {"FLUX_VAR": _squared(units["FLUX"]), "SB_VAR": _squared(units["SURF_BRIGHT"])}
    dims = ("integration", "dispersion") if is_series else ("dispersion",)
    variables = {}
    for name, array in values.items():
        if name in (*_ERRORS, *_NUMBERS, "COLUMN"):
            continue
        variable = name.lower()
        if name in _COMBINED and hdu.name == "COMBINE1D":
            variable, meaning = _COMBINED[name]
            attributes: dict[str, Any] = {"long_name": meaning}
        elif variable in VARIABLES:
            array = array.astype(VARIABLES[variable].dtype, copy=False)
            attributes = variable_attributes(variable)
        else:
            continue
        unit = units.get(name)
        is_shared = is_series and variable in RELATIVE_ERRORS  # by all rows
        attributes |= {"units": unit} if unit else {}
        variables[variable] = (dims[-1:], array[0], attributes) if is_shared else (dims, array, attributes)
    return xr.Dataset(variables, coords, attrs)


def _units(text: str | None) -> str | None:
    """Return units in the spelling of nsxr, with squares as ``(MJy/sr)2``."""
    squares = {"Jy^2": "(Jy)2", "MJy^2 / sr^2": "(MJy/sr)2", "(MJy/sr)^2": "(MJy/sr)2", "DN^2 / s^2": "(DN/s)2"}
    return squares.get(text, text) if text else None


def _squared(units: str | None) -> str | None:
    return f"({units})2" if units else None


def _cut(wavelength: np.ndarray, values: dict[str, np.ndarray], what: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the wavelengths that all rows of a time series share, and its vectors without padding."""
    lengths = np.unique(values["N_ALONGDISP"]) if "N_ALONGDISP" in values else np.array([wavelength.shape[1]])
    if lengths.size != 1:
        raise InputFileError(f"{what}: N_ALONGDISP differs between integrations ({lengths.min()} to {lengths.max()})")
    length = int(lengths[0])
    if not np.array_equal(wavelength, np.broadcast_to(wavelength[:1], wavelength.shape), equal_nan=True):
        raise InputFileError(f"{what}: wavelengths differ between integrations, expected the same in all of them")
    cut = {name: v[:, :length] if v.ndim == 2 else v for name, v in values.items()}
    return wavelength[0, :length], cut


def _joined(spectra: Sequence[xr.Dataset], path: str) -> list[xr.Dataset]:
    """Join spectra to time series if a file has a table for each integration."""
    if not all("integration" in s.coords and not s["integration"].ndim for s in spectra):
        return list(spectra)
    groups: dict[tuple[Any, Any], list[xr.Dataset]] = {}
    for spectrum in spectra:
        groups.setdefault((spectrum.attrs.get("SLTNAME"), spectrum.attrs.get("SPORDER")), []).append(spectrum)
    for (name, _), parts in groups.items():
        first = parts[0]["wavelength"].values
        if not all(np.array_equal(part["wavelength"].values, first, equal_nan=True) for part in parts):
            raise InputFileError(f"{path}: integrations of slit {name} differ in their wavelengths")
    return [
        xr.concat(
            parts, "integration", coords=["integration", *(set(TIME_COLUMNS) & set(parts[0].coords))], compat="override"
        )
        for parts in groups.values()
    ]


def _with_times(spectra: Sequence[xr.Dataset], times: np.ndarray | None) -> list[xr.Dataset]:
    """Add the times of INT_TIMES to time series that have no times."""
    if times is None:
        return list(spectra)
    places = {int(number): place for place, number in enumerate(times["integration_number"])}
    names = [name for name in TIME_COLUMNS if name in (times.dtype.names or ())]
    found = []
    for spectrum in spectra:
        if "integration" in spectrum.dims and TIME_COLUMNS[0] not in spectrum.coords:
            numbers = spectrum["integration"].to_numpy()
            if all(int(number) in places for number in numbers):
                chosen = [places[int(number)] for number in numbers]
                spectrum = spectrum.assign_coords({name: ("integration", times[name][chosen]) for name in names})
        found.append(spectrum)
    return found


def _tree(spectra: Sequence[xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    """Return a tree with a node for each spectrum. Repeated names get a number from 2."""
    names: list[str] = []
    for spectrum in spectra:
        name = plain_name(spectrum.attrs.get("SLTNAME", ""), "spectrum")
        choices = [name, *(f"{name}_{number}" for number in range(2, len(spectra) + 2))]
        names.append(next(choice for choice in choices if choice not in names))
    return as_tree(spectra, attrs, names)


def _open_zarr(path: Path) -> xr.DataTree:
    if not path.is_dir():
        raise InputFileError(f"{path}: no such Zarr directory")
    tree = open_store(Folder.at(path))
    nodes = [node for node in tree.subtree if "flux" in node.data_vars]
    if not nodes:
        raise InputFileError(f"{path}: no spectra in it; expected a variable 'flux'")
    found: list[tuple[int, xr.Dataset]] = []
    for node in nodes:
        spectrum = _by_column(node.to_dataset())
        padded = [(number, one) for number, _, one in in_order(spectrum)] if "slit" in spectrum.dims else []
        found += padded or [(len(found), spectrum)]
    spectra = [spectrum for _, spectrum in sorted(found, key=lambda one: one[0])]
    return _tree(spectra, {str(key): value for key, value in tree.attrs.items()})


def _by_column(dataset: xr.Dataset) -> xr.Dataset:
    """Return a time series with dim ``dispersion``. In Zarr, this dim is ``wavelength``."""
    return dataset.swap_dims(wavelength="dispersion") if "wavelength" in dataset.dims else dataset
