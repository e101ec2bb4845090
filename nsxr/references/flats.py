"""Open the flats of the telescope, the spectrograph and the detector (types FFLAT, SFLAT, DFLAT)."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.fits_headers import Extension, FitsFile, keywords, scan
from nsxr.formats.pixels import FitsArray, PixelSource
from nsxr.model.dq import recode
from nsxr.model.types import Entries
from nsxr.references.files import flag_definitions, region

__all__ = ["ALL_SLITS", "open_flat"]

ALL_SLITS = "ANY"
"""Name of a fast variation that holds for all slits."""

_KINDS = ("fflat", "sflat", "dflat")
_SHUTTERS = (171, 365)
_QUADRANTS = (1, 2, 3, 4)
_IMAGE = ("row", "column")
_IN_METRES = 1e-4
"""Wavelengths that are all below this are in metres."""


def open_flat(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open one of the three flats of which the flat field is the product: F, S or D.

    F is the transmission of telescope, filters and shutters, S that of the spectrograph, D the response of the
    detector. Each has a part that changes quickly with wavelength, in a table. S and D also have an image, or a cube of
    images at several wavelengths. F of shutters has a cube for each quadrant, with a value for each shutter.

    Parameters
    ----------
    path : path
        FITS file of type FFLAT, SFLAT or DFLAT, in the observatory's format.

    Returns
    -------
    Dataset
        The tables are in memory, float64: ``fast_NAME`` and ``fast_error_NAME`` along ``fast_wavelength_NAME`` [um].
        NAME is a fixed slit, ``ANY``, or for F of shutters the number of a quadrant. Images are read when they are
        used. S and D: ``sci`` and ``err`` float32, ``dq`` uint32 with the standard flags, (row, column) or
        (wavelength, row, column); ``err`` and ``dq`` of a cube may be one image. F of shutters: ``sci_N``, ``err_N``,
        ``dq_N`` of quadrant N, (wavelength_N, ycen, xcen). ``ycen`` and ``xcen`` are the numbers of shutters, from 1.

    Raises
    ------
    ReferenceFileError
        If the file is none of the three flats, if a table or an image is missing, if shapes differ, or if wavelengths
        do not increase or are not in um.
    """
    try:
        file = scan(path, ("DQ_DEF", "FAST_VARIATION", "WAVELENGTH"))
        header = keywords(file.primary)
        kind = str(header.get("REFTYPE", "")).strip().lower()
        instrument = str(header.get("INSTRUME", "NIRSPEC")).strip().upper()
        if kind not in _KINDS or instrument != "NIRSPEC":
            raise ReferenceFileError(
                f"{file.path}: REFTYPE is {header.get('REFTYPE')!r} and INSTRUME {instrument!r}, expected "
                f"{', '.join(map(str.upper, _KINDS))} of NIRSPEC"
            )
        variables = _fore_flat(file) if kind == "fflat" else _tables(file, None) | _images(file, kind)
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    attributes: Entries = {"reference_type": kind, "filename": os.path.basename(file.path)}
    attributes |= {
        name: str(header.get(key, "")).strip() for name, key in (("pedigree", "PEDIGREE"), ("useafter", "USEAFTER"))
    }
    attributes |= {
        name: str(header.get(key, "")).strip().upper()
        for name, key in (("detector", "DETECTOR"), ("filter", "FILTER"), ("grating", "GRATING"))
    }
    kinds = str(header.get("P_EXP_TY") or header.get("EXP_TYPE", "")).upper().replace("|", " ").split()
    both = {"NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"}  # share their flats
    attributes["exposure_types"] = " ".join(sorted({*kinds, *both} if both & set(kinds) else kinds))
    attributes |= {key: value for key, value in describe_file(file.location, file.stamp).items() if key != "file"}
    return xr.Dataset(variables, _labels(file, kind, variables), attributes)


Variables = dict[str, xr.Variable]


def _fore_flat(file: FitsFile) -> Variables:
    """Return the variables of F: tables, and for shutters a cube for each quadrant."""
    image = file.versions.get(("SCI", 1))
    if image is None or image.shape[-2:] != _SHUTTERS:
        return _tables(file, None)
    found: Variables = {}
    for quadrant in _QUADRANTS:
        found |= _tables(file, quadrant) | _cube(file, quadrant, f"_{quadrant}", ("ycen", "xcen"))
    return found


def _images(file: FitsFile, kind: str) -> Variables:
    shape = file.require("SCI").shape
    if len(shape) == 3:
        return _cube(file, None, "", _IMAGE)
    if len(shape) != 2 or kind == "dflat":
        expected = "3" if kind == "dflat" else "2 or 3"
        raise ReferenceFileError(f"{file.path}: extension SCI has {len(shape)} dimensions, expected {expected}")
    return _lazy(file, None, "", _IMAGE)


def _cube(file: FitsFile, version: int | None, suffix: str, image: tuple[str, str]) -> Variables:
    """Return a cube with the wavelengths of its planes. Planes without a wavelength are left out at the end."""
    name = f"wavelength{suffix}"
    found = _lazy(file, version, suffix, (name, *image))
    planes = _column(_table(file, "WAVELENGTH", version), "wavelength", file).ravel()
    is_known = np.isfinite(planes) & (planes > 0)
    count = int(is_known.sum())
    available = found[f"sci{suffix}"].sizes[name]
    if not is_known[:count].all() or not 0 < count <= available:
        raise ReferenceFileError(
            f"{file.path}: table WAVELENGTH has {count} wavelengths for {available} planes of SCI, expected one for "
            "each plane"
        )
    _require_wavelengths(file, planes[:count], "WAVELENGTH")
    cut = {key: array.isel({name: slice(count)}) if name in array.dims else array for key, array in found.items()}
    return cut | {name: xr.Variable(name, planes[:count], {"units": "um"})}


def _lazy(file: FitsFile, version: int | None, suffix: str, dims: tuple[str, ...]) -> Variables:
    """Return SCI, ERR and DQ as arrays that are read when they are used."""
    sources = {}
    for name, dtype in (("SCI", "float32"), ("ERR", "float32"), ("DQ", "uint32")):
        if version is not None and (name, version) not in file.versions:
            raise ReferenceFileError(f"{file.path}: extension {name} {version} is missing")
        sources[name] = file.image(name, dtype, version)
    shape = sources["SCI"].shape
    if len(shape) != len(dims) or any(one.shape not in (shape, shape[-2:]) for one in sources.values()):
        listed = ", ".join(f"{name} {one.shape}" for name, one in sources.items())
        raise ReferenceFileError(f"{file.path}: shapes do not match: {listed}")
    definitions = tuple((str(row["NAME"]), row["VALUE"]) for row in flag_definitions(file))
    arrays = {"sci": FitsArray(sources["SCI"]), "err": FitsArray(sources["ERR"])}
    arrays["dq"] = _FlagArray(sources["DQ"], definitions)
    return {
        f"{name}{suffix}": xr.Variable(dims[-len(array.shape) :], indexing.LazilyIndexedArray(array))
        for name, array in arrays.items()
    }


class _FlagArray(FitsArray):
    """Flags of a reference that get the standard bits when they are read."""

    def __init__(self, source: PixelSource, definitions: tuple[tuple[str, int], ...]) -> None:
        super().__init__(source)
        self.definitions = definitions

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        found = super().__getitem__(key)
        if not self.definitions or not found.any():  # most flags of a cube are 0
            return found
        return recode(found, [{"NAME": name, "VALUE": value} for name, value in self.definitions])[0]

    def __dask_tokenize__(self) -> Any:
        return self.source, self.definitions


def _tables(file: FitsFile, version: int | None) -> Variables:
    """Return the fast variations of a table, by slit. ``version`` is the quadrant, or None if there is one table."""
    table = _table(file, "FAST_VARIATION", version)
    found: Variables = {}
    for name, wavelength, data, error in _rows(file, table):
        is_good = np.isfinite(wavelength) & np.isfinite(data) & (wavelength > 0) & (data != 0)
        wavelength, data, error = wavelength[is_good], data[is_good], error[is_good]
        slit = str(version or name)
        _require_wavelengths(file, wavelength, f"FAST_VARIATION, {slit}")
        if f"fast_{slit}" in found:
            continue  # the first row of a name counts
        dim = f"fast_wavelength_{slit}"
        found[dim] = xr.Variable(dim, wavelength, {"units": "um"})
        found[f"fast_{slit}"] = xr.Variable(dim, data)
        found[f"fast_error_{slit}"] = xr.Variable(dim, np.nan_to_num(error))
    return found


def _rows(file: FitsFile, table: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the name, wavelengths, values and errors of each slit.

    Rows have arrays, of which the first ``nelem`` elements count. A table of single values is one fast variation.
    """
    columns = [_column(table, name, file) for name in ("wavelength", "data", "error")]
    if columns[0].ndim == 1:
        columns = [column[np.newaxis] for column in columns]
    names = {name.lower(): name for name in table.dtype.names or ()}
    for number in range(len(columns[0])):
        name = ALL_SLITS
        if "slit_name" in names and len(columns[0]) == len(table):
            text = table[names["slit_name"]][number]
            name = (text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)).strip().upper()
        count = int(np.atleast_1d(table[names["nelem"]])[number]) if "nelem" in names else columns[0].shape[1]
        wavelength, data, error = (column[number, :count] for column in columns)
        yield name or ALL_SLITS, wavelength, data, error


def _table(file: FitsFile, name: str, version: int | None) -> np.ndarray:
    extension: Extension | None = file.require(name) if version is None else file.versions.get((name, version))
    if extension is None or extension.table is None or not extension.table.size:
        which = name if version is None else f"{name} {version}"
        raise ReferenceFileError(f"{file.path}: table {which} is missing or empty")
    return extension.table


def _column(table: np.ndarray, name: str, file: FitsFile) -> np.ndarray:
    found = next((one for one in table.dtype.names or () if one.lower() == name), None)
    if found is None or table[found].dtype.kind not in "iuf":
        raise ReferenceFileError(f"{file.path}: a table lacks the column {name}, or it has no numbers")
    return table[found].astype(np.float64)


def _require_wavelengths(file: FitsFile, wavelength: np.ndarray, table: str) -> None:
    if not wavelength.size:
        raise ReferenceFileError(f"{file.path}: table {table} has no value")
    if wavelength[-1] < _IN_METRES:
        raise ReferenceFileError(
            f"{file.path}: table {table}: wavelengths up to {wavelength[-1]:g}, expected um; these seem to be metres"
        )
    if not (np.diff(wavelength) > 0).all():
        raise ReferenceFileError(f"{file.path}: table {table}: wavelengths do not increase")


def _labels(file: FitsFile, kind: str, variables: Variables) -> dict[str, Any]:
    """Return the coordinates of dims: pixels of the detector, or numbers of shutters."""
    wavelengths = {name: array for name, array in variables.items() if array.dims == (name,)}
    for name in wavelengths:
        del variables[name]
    labels: dict[str, Any] = dict(wavelengths)
    if kind == "fflat":
        if any(name.startswith("sci") for name in variables):
            labels |= {dim: np.arange(1, n + 1) for dim, n in zip(("ycen", "xcen"), _SHUTTERS, strict=True)}
        return labels
    place = region(file)
    assert place is not None  # there is an image, which has just been opened
    return labels | {"row": place[0] + np.arange(place[1]), "column": place[2] + np.arange(place[3])}
