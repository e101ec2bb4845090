"""Open cut-outs of slits: cal, calints, s2d and cut-outs of single slits, as FITS or Zarr."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from nsxr.associate.exposures import COMBINED, identity
from nsxr.errors import InputFileError, ModelError, ParameterError
from nsxr.formats.extensions import SLIT_IMAGES
from nsxr.formats.fits_headers import FitsFile, keywords, scan
from nsxr.formats.fits_tables import TIME_COLUMNS, history_of, late_table, origin_of
from nsxr.formats.gwcs_read import wcs_bytes
from nsxr.formats.pixels import FitsArray
from nsxr.formats.spectra_tables import SLIT_TEXTS
from nsxr.formats.wcs import WcsArray, WcsWavelength
from nsxr.formats.zarr_read import open_store
from nsxr.model.dims import IMAGE, RESAMPLED, image_dims
from nsxr.model.dq import OUTSIDE
from nsxr.model.keywords import read, require
from nsxr.model.names import plain_name
from nsxr.model.variables import TABLES, VARIABLES, units_of, variable_attributes
from nsxr.products.fits_read import read_dataset
from nsxr.products.padding import in_order, is_resampled, on_detector
from nsxr.slits.collection import as_slit, as_tree
from nsxr.storage.folder import Folder
from nsxr.storage.options import StorageOptions
from nsxr.storage.urls import shown

__all__ = ["open_slits"]

_OF_ALL = ("DQ", "WAVELENGTH", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "WHT")
"""Extensions that all slits of a file have, or none of them."""


def open_slits(
    path: str | os.PathLike[str],
    *,
    chunks: Mapping[str, int] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Open the slits of a file lazily. No pixel is read.

    Parameters
    ----------
    path : path or URL
        ``_cal``, ``_calints``, ``_s2d`` file (MultiSlitModel, SlitModel, MultiExposureModel), gzipped or not; count
        rates (``_rate``, ``_rateints``) of a subarray with one spectrum, see :func:`nsxr.as_slit`; or Zarr from
        :func:`nsxr.write_slits`, or Zarr with count rates. Of these, ``rateints`` is used if the store has it.
    chunks : mapping of str to int, optional
        Length of chunks along ``integration``. By default a chunk has 64 MB. Slits are never split.
    storage_options : mapping, optional
        Options for access to a URL, see :func:`nsxr.open_exposure`.

    Returns
    -------
    DataTree
        One node for each slit, with ``sci`` float32 [units of BUNIT], ``dq`` uint32, ``var_poisson``, ``var_rnoise``,
        ``var_flat``, ``wavelength`` [um], and ``pathloss_*``, ``barshadow``, ``flatfield_*``, ``photom_*``, ``weight``
        as far as the file has them. Files of nsxr also have ``var_pathloss``, ``var_barshadow``, ``var_photom``,
        ``var_background``, ``wavelength_uncorrected``, and the coordinate ``slit_y``. Each slit has its own history.
        Images are (row, column), labelled with zero-based detector rows and columns. Resampled slits are
        (cross_dispersion, dispersion), labelled from 0. In time series, integration is the first dim of the signal and
        variances. Keywords of the primary header and of the slit are attributes.
        ``attrs["fits_header"]`` and ``attrs["slit_header"]`` are the headers as text. If the file has no DQ, pixels
        whose signal is NaN or whose weight is 0 are flagged DO_NOT_USE and NON_SCIENCE. If the file has no WAVELENGTH,
        wavelengths are computed from its gwcs when they are used.

    Raises
    ------
    InputFileError
        If the file has no slits, has count rates with many spectra, is cut off, or contradicts itself.
    """
    name = os.fspath(path)
    options = StorageOptions(storage_options)
    if name.rstrip("/").endswith(".zarr"):
        return _open_zarr(name, options)
    file = scan(name, ("INT_TIMES", "NOISE_CORR", "NSXR_STEPS", "NSXR_PROVENANCE", "HDRTAB"), options)
    if str(file.primary.get("INSTRUME", "")).strip().upper() != "NIRSPEC":
        raise InputFileError(f"{file.path}: INSTRUME is {file.primary.get('INSTRUME')!r}, expected 'NIRSPEC'")
    versions = sorted(version for extension, version in file.versions if extension == "SCI")
    if not versions:
        found = ", ".join(file.extensions) or "none"
        raise InputFileError(f"{file.path}: has no slits; extensions are {found}, expected SCI")
    _require_partners(file, set(versions))
    if "SLTSTRT1" not in file.versions["SCI", versions[0]].header:
        slits = {"": _whole_exposure(file, name, options)}
    else:
        shared = _shared(file)
        slits = {str(version): _one_slit(file, version, shared) for version in versions}
        slits = _with_wavelengths(slits, file)
    slits = {key: _in_chunks(slit, chunks) for key, slit in slits.items()}
    names = None
    if str(file.primary.get("DATAMODL")) == "MultiExposureModel":
        names = [f"exposure{number}" for number in range(1, len(slits) + 1)]
    primary = keywords(file.primary)
    attrs = {**primary, "filename": os.path.basename(file.path), "fits_header": _text(file.primary)}
    return as_tree(list(slits.values()), attrs, names)


def _require_partners(file: FitsFile, versions: set[int]) -> None:
    """Raise InputFileError if an extension of a slit occurs twice, has no SCI, or is missing for some slits only."""
    for extension in SLIT_IMAGES:
        own = {version for name, version in file.versions if name == extension}
        twice = sorted(version for name, version in file.repeated if name == extension)
        if twice:
            raise InputFileError(f"{file.path}: {extension} {twice[0]} comes more than once")
        if own - versions:
            raise InputFileError(f"{file.path}: {extension} {min(own - versions)} is there without SCI of that number")
        if own and extension in _OF_ALL and own != versions:
            lost = f"{extension} {min(versions - own)}"
            raise InputFileError(f"{file.path}: {lost} is missing, but other slits have it; the file is incomplete")


def _text(header: Any) -> str:
    return str(header.tostring(sep="\n", endcard=False, padding=False))


def _shared(file: FitsFile) -> dict[Any, Any]:
    """Return the attributes that all slits of a file share, without their history."""
    attrs: dict[Any, Any] = {**keywords(file.primary), "filename": os.path.basename(file.path)}
    attrs["fits_header"] = _text(file.primary)
    if "HDRTAB" in file.extensions and (headers := file.extensions["HDRTAB"].table) is not None:
        attrs[COMBINED] = _combined(headers)
    return attrs | origin_of(file)


def _one_slit(file: FitsFile, version: int, shared: Mapping[Any, Any]) -> xr.Dataset:
    header = file.versions["SCI", version].header
    primary, slit = shared, keywords(header)
    shape = file.versions["SCI", version].shape
    if len(shape) not in (2, 3):
        raise InputFileError(f"{file.path}: SCI {version} has {len(shape)} axes, expected 2 or 3 of a slit")
    has_weights = {"weight"} if ("WHT", version) in file.versions else set()
    resampled = is_resampled(has_weights, primary, os.path.basename(file.path))
    if not resampled and ("DQ", version) not in file.versions:
        raise InputFileError(f"{file.path}: extension DQ {version} is missing, which all but resampled slits have")
    image = RESAMPLED if resampled else IMAGE
    dims = image if len(shape) == 2 else ("integration", *image)
    sizes = dict(zip(dims, shape, strict=True))
    coordinates: dict[str, Any] = {}
    for dim, axis in zip(image, ("2", "1"), strict=True):
        start = 0
        if not resampled:
            found = require(slit, f"SLTSTRT{axis}", purpose="they give the place of the slit", source=file.path)
            start = read(primary, f"SUBSTRT{axis}", default=1, source=file.path) + found[f"SLTSTRT{axis}"] - 2
        coordinates[dim] = (dim, start + np.arange(sizes[dim]))
    if "integration" in sizes:
        first = read(primary, "INTSTART", source=file.path)
        coordinates["integration"] = ("integration", first + np.arange(sizes["integration"]))
        coordinates |= _times(file, coordinates["integration"][1])
    records = file.extensions["NSXR_STEPS"].table if "NSXR_STEPS" in file.extensions else None
    texts = {name: slit.pop(keyword) for name, (keyword, _) in SLIT_TEXTS.items() if keyword in slit}
    attrs = {**shared, **slit, **texts, "slit_header": _text(header), **history_of(records, version, file.path)}
    images = _images(file, version, dims)
    coordinates |= {name: images.pop(name) for name in ("slit_y",) if name in images}
    if "NOISE_CORR" in file.extensions and (rows := file.extensions["NOISE_CORR"].table) is not None:
        variable, dim, labels = TABLES["NOISE_CORR"]
        images[variable] = late_table("NOISE_CORR", rows, file.path)
        coordinates[dim] = (dim, list(labels))
    return xr.Dataset(images, coords=coordinates, attrs=attrs)


def _images(file: FitsFile, version: int, dims: tuple[str, ...]) -> dict[str, xr.Variable]:
    """Return the images of a slit by variable, without reading pixels."""
    header, shape = file.versions["SCI", version].header, file.versions["SCI", version].shape
    units = str(header.get("BUNIT", "DN/s")).strip() or "DN/s"
    variables: dict[str, xr.Variable] = {}
    for extension, name in SLIT_IMAGES.items():
        if (extension, version) not in file.versions:
            continue
        source = file.image(extension, np.dtype(VARIABLES[name].dtype).name, version)
        own = dims if len(source.shape) == len(shape) else dims[-2:]
        if source.shape != tuple(shape[dims.index(dim)] for dim in own):
            if not np.prod(source.shape):
                continue
            raise InputFileError(f"{file.path}: {extension} {version} has shape {source.shape}, SCI has {shape}")
        attrs: dict[str, Any] = variable_attributes(name)
        if found := units_of(name, units):
            attrs["units"] = found
        variables[name] = xr.Variable(own, indexing.LazilyIndexedArray(FitsArray(source)), attrs)
    return variables


def _combined(headers: np.ndarray) -> str:
    """Return the names of the exposures that a slit was made from, from the table of their headers."""
    names = headers.dtype.names or ()
    rows = [
        {name: v.decode("ascii", "replace") if isinstance(v, bytes) else v for name, v in zip(names, row, strict=True)}
        for row in headers.tolist()
    ]
    return json.dumps([found for row in rows if (found := identity(row)) is not None])


def _with_wavelengths(slits: dict[str, xr.Dataset], file: FitsFile) -> dict[str, xr.Dataset]:
    """Return slits with wavelengths from the gwcs in the file, if the file has no WAVELENGTH."""
    lacking = [key for key, slit in slits.items() if "wavelength" not in slit]
    if not lacking or (tree := wcs_bytes(file)) is None:
        return slits
    attrs = variable_attributes("wavelength") | {"units": "um"}
    for key in lacking:
        dims = image_dims(slits[key])
        shape = tuple(slits[key].sizes[dim] for dim in dims)
        array = indexing.LazilyIndexedArray(WcsArray(WcsWavelength(tree, int(key), shape)))
        slits = {**slits, key: slits[key].assign(wavelength=xr.Variable(dims, array, attrs))}
    return slits


def _times(file: FitsFile, numbers: np.ndarray) -> dict[str, Any]:
    """Return the columns of INT_TIMES of these integrations."""
    extension = file.extensions.get("INT_TIMES")
    rows = extension.table if extension is not None else None
    if rows is None or not rows.size or "integration_number" not in (rows.dtype.names or ()):
        return {}
    chosen = np.isin(rows["integration_number"], numbers)
    rows = rows[chosen] if chosen.sum() == numbers.size else rows
    if rows.size != numbers.size:
        raise InputFileError(f"{file.path}: INT_TIMES has {rows.size} rows for {numbers.size} integrations")
    return {
        name: ("integration", rows[name].astype(np.float64), {"units": "d"})
        for name in TIME_COLUMNS
        if name in (rows.dtype.names or ())
    }


def _whole_exposure(file: FitsFile, name: str, options: StorageOptions) -> xr.Dataset:
    """Return count rates as one slit."""
    axes = len(file.require("SCI").shape)
    if "REGIONS" in file.extensions:
        raise InputFileError(f"{file.path}: is a frame of the IFU and has no slits; open it with nsxr.open_exposure")
    has_rates = all(key in file.extensions for key in ("DQ", "VAR_POISSON", "VAR_RNOISE"))
    if axes not in (2, 3) or not has_rates or "WMAP" in file.extensions:
        raise InputFileError(
            f"{file.path}: has no slits: SCI has {axes} axes and no keyword SLTSTRT1; expected a cal, calints or s2d "
            "product with cut-outs, or count rates"
        )
    return _as_slit(read_dataset(name, options), file.path)


def _as_slit(rates: xr.Dataset, name: str) -> xr.Dataset:
    try:
        return as_slit(rates)
    except ModelError as error:
        raise InputFileError(f"{name}: {error}") from error


def _in_chunks(slit: xr.Dataset, chunks: Mapping[str, int] | None) -> xr.Dataset:
    """Return a slit as dask arrays. Add flags if the file has none."""
    dims = image_dims(slit)
    lengths: dict[str, int] = dict.fromkeys(dims, -1)
    if "integration" in slit.dims:
        size = slit.sizes[dims[0]] * slit.sizes[dims[1]] * 4
        lengths["integration"] = max(1, min(slit.sizes["integration"], 64 * 2**20 // size))
    unknown = sorted(set(chunks or {}) - {"integration"})
    if unknown:
        raise ParameterError(f"chunks along {', '.join(unknown)}: slits are read whole, give integration alone")
    lengths |= dict(chunks or {})
    slit = slit.chunk({dim: length for dim, length in lengths.items() if dim in slit.dims})
    if "dq" not in slit:
        empty = slit["sci"].isnull()
        if "weight" in slit:
            empty = empty | (slit["weight"] == 0)
        flags = empty.astype(np.uint32) * OUTSIDE
        slit = slit.assign(dq=flags.assign_attrs(variable_attributes("dq")))
    return slit


def _open_zarr(name: str, options: StorageOptions) -> xr.DataTree:
    tree = open_store(Folder.at(name, options))
    rates = [kind for kind in ("rateints", "rate") if kind in tree.children]
    if rates:
        return as_tree([_as_slit(tree[rates[0]].to_dataset(), shown(name))], tree.attrs)
    root = tree.to_dataset()
    if not tree.children and "sci" not in root:
        raise InputFileError(
            f"{shown(name)}: has no slits; variables are {', '.join(map(str, root.data_vars)) or 'none'}"
        )
    if "slice" in root.coords:
        raise InputFileError(f"{shown(name)}: is a frame of the IFU and has no slits; open it with nsxr.open_exposure")
    found: list[tuple[int, str, xr.Dataset]] = []
    for key, node in {"": root, **{key: child.to_dataset() for key, child in tree.children.items()}}.items():
        if "slit" in node.dims:
            found += in_order(node)
        elif key or "sci" in node:
            name_of_slit = key or plain_name(node.attrs.get("SLTNAME", "slit"), "slit")
            found.append((len(found), name_of_slit, on_detector(node)))
    found.sort(key=lambda one: one[0])
    return as_tree([slit for _, _, slit in found], tree.attrs, [slit for _, slit, _ in found])
