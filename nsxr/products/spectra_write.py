"""Write spectra as FITS tables (x1d, x1dints, c1d) or Zarr. A file appears only when it is complete."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.formats.fits_layout import BlockFile, Part, Place, Target, lay_out
from nsxr.formats.fits_tables import TIME_COLUMNS, asdf_marker, integration_times, origin, provenance, table
from nsxr.formats.keywords import as_product, is_of_product, primary_header, printable, set_keyword
from nsxr.formats.spectra_tables import (
    POSITIONS,
    SLIT_KEYWORDS,
    TIMES,
    LateRows,
    combined_columns,
    cutout_start,
    is_of_spectrum,
    row_type,
    series_columns,
    spectrum_columns,
    spectrum_rows,
    table_header,
)
from nsxr.formats.zarr import create_zarr
from nsxr.model.history import joint_history
from nsxr.model.provenance import gathered
from nsxr.model.variables import RELATIVE_ERRORS, check
from nsxr.products.padding import padded_groups
from nsxr.products.write import write_whole
from nsxr.slits.collection import iterate_slits
from nsxr.storage.urls import local_path

__all__ = ["write_spectra"]

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")


def _spectra_of(spectra: xr.Dataset | xr.DataTree) -> list[xr.Dataset]:
    """Return a list of spectra. Each has the keywords that all of them share."""
    each = [spectrum for _, spectrum in iterate_slits(spectra)]
    return [_with_labels(one.assign_attrs({**spectra.attrs, **one.attrs})) for one in each]


def _with_labels(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with its times in memory. ``Dataset.chunk`` may have made them lazy."""
    late = [name for name in TIME_COLUMNS if name in dataset.coords and dataset[name].chunks is not None]
    return dataset.assign_coords({name: dataset[name].compute() for name in late}) if late else dataset


def _kind(spectra: Sequence[xr.Dataset]) -> tuple[str, str]:
    """Return the names of the extension and of the data model. Raise ModelError if no product can hold the spectra."""
    if not spectra:
        raise ModelError("there are no spectra to write")
    kinds = set()
    for spectrum in spectra:
        check(spectrum, "flux", "dq")
        if "wavelength" not in spectrum.coords:
            raise ModelError("coordinate 'wavelength' is missing; a spectrum cannot be written without it")
        units = spectrum["flux"].attrs.get("units")
        if units not in ("Jy", "DN/s"):
            raise ModelError(f"flux has units {units!r}, expected 'Jy' or 'DN/s'")
        series, combined = "integration" in spectrum["flux"].dims, "n_input" in spectrum
        kinds.add((combined, series))
    if len(kinds) > 1 or (True, True) in kinds:
        raise ModelError("single, time-series and combined spectra cannot be in one product; write them separately")
    combined, series = kinds.pop()
    if combined:
        return "COMBINE1D", "MultiCombinedSpecModel"
    return "EXTRACT1D", "TSOMultiSpecModel" if series else "MultiSpecModel"


def _primary(attrs: Mapping[Any, Any], filename: str, model: str) -> fits.Header:
    """Return the primary header, without the keywords from the header of a slit."""
    known = _primary_keywords(attrs)
    kept = {k: v for k, v in attrs.items() if not _belongs_to_slit(str(k), known)}
    header = primary_header(xr.Dataset(attrs=kept), filename)
    set_keyword(header, "DATAMODL", model)
    return header


def _primary_keywords(attrs: Mapping[Any, Any]) -> Collection[str] | None:
    """Return the keywords of the primary header of the input, None if the header was not kept."""
    carried = attrs.get("fits_header")
    return None if carried is None else _keywords_of(str(carried))


@lru_cache(maxsize=8)
def _keywords_of(header: str) -> Collection[str]:
    return frozenset(fits.Header.fromstring(header, sep="\n"))


def _belongs_to_slit(key: str, primary: Collection[str] | None) -> bool:
    if primary is None or is_of_product(key):
        return key in SLIT_KEYWORDS
    return bool(_KEYWORD.fullmatch(key)) and key not in primary


def _header(spectrum: xr.Dataset, header: fits.Header) -> dict[str, xr.DataArray]:
    """Put the keywords of a spectrum into the header of its table. Return the keywords with lazy values."""
    attrs = spectrum.attrs
    known = _primary_keywords(attrs)
    for key, value in {"DISPAXIS": 1, **attrs}.items():
        if key in SLIT_KEYWORDS or (_belongs_to_slit(str(key), known) and is_of_spectrum(key) and key not in header):
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, float) and not np.isfinite(value):
                value = None
            set_keyword(header, key, printable(value) if isinstance(value, str) else value, SLIT_KEYWORDS.get(key, ""))
    if "DETECTOR" in attrs:  # the observatory's pipeline names white light curves by it
        header["DETECTOR"] = (attrs["DETECTOR"], "Name of detector used to acquire the data")
    first = int(spectrum["dispersion"][0]) if "dispersion" in spectrum.coords else 0
    header["EXTRXSTR"] = (first - cutout_start(attrs, 1) + 1, "X axis start of extraction region")
    header["EXTRXSTP"] = (header["EXTRXSTR"] + spectrum.sizes["dispersion"] - 1, "X axis end of extraction region")
    late = {}
    for name, keyword, comment in (
        ("extraction_start", "EXTRYSTR", "Y axis start of extraction region"),
        ("extraction_stop", "EXTRYSTP", "Y axis end of extraction region"),
    ):
        if name in spectrum.variables and not spectrum[name].ndim:
            header[keyword] = (None, comment)
            late[keyword] = unlabelled(spectrum[name]) - cutout_start(attrs, 2) + 1
    for name, (keyword, comment) in POSITIONS.items():
        if name in spectrum.variables and not spectrum[name].ndim:
            header[keyword] = (None, comment)
            late[keyword] = spectrum[name]
    return late


def _rows(spectrum: xr.Dataset, extension: str) -> tuple[xr.DataArray, list[Any]]:
    """Return the bytes of the rows of a table, and its columns. The bytes are lazy if the spectrum is lazy."""
    flux = spectrum["flux"]
    calibrated = flux.attrs["units"] == "Jy"
    arrays = {"FLUX": flux, "WAVELENGTH": spectrum["wavelength"].astype(np.float64)}
    arrays |= {str(name).upper(): array for name, array in spectrum.data_vars.items() if array.ndim}
    own = [name.upper() for name in ("coverage", *RELATIVE_ERRORS) if name in spectrum]
    if extension == "COMBINE1D":
        columns = combined_columns(calibrated, "flux_var_poisson" in spectrum, own)
        arrays |= {"WEIGHT": spectrum["combination_weight"]} if "combination_weight" in spectrum else {}
    else:
        kind = series_columns if "integration" in flux.dims else spectrum_columns
        columns = kind(calibrated, own)
    labels = (
        spectrum["dispersion"].to_numpy() if "dispersion" in spectrum.coords else np.arange(flux.sizes["dispersion"])
    )
    arrays["COLUMN"] = xr.DataArray(labels.astype(np.int32), dims="dispersion")
    if "integration" in flux.dims:
        number = spectrum.sizes["integration"]
        numbers = spectrum["integration"].to_numpy() if "integration" in spectrum.coords else np.arange(number) + 1
        single = {
            "INT_NUM": numbers.astype(np.int32),
            "SEGMENT": np.full(number, spectrum.attrs.get("EXSEGNUM", 1), "i4"),
        }
        source = str(spectrum.attrs.get("SRCTYPE", "POINT")).encode()
        single["SOURCE_TYPE"] = np.full(number, source if source in (b"POINT", b"EXTENDED") else b"POINT")
        for name, column in zip(TIME_COLUMNS, TIMES, strict=True):
            single[column] = spectrum[name].to_numpy() if name in spectrum.coords else np.full(number, np.nan)
        arrays |= {name: xr.DataArray(values, dims="integration") for name, values in single.items()}
    wanted = {c.name for c in columns} | {name for name in arrays if re.match("(FLUX|SB|BKGD)_VAR", name)}
    arrays = {name: one_chunk(unlabelled(a), "dispersion") for name, a in arrays.items() if name in wanted}
    arrays = {name: a.transpose(*(d for d in flux.dims if d in a.dims)) for name, a in arrays.items()}
    first = "integration" if "integration" in flux.dims else "dispersion"
    size = row_type(columns, flux.sizes["dispersion"]).itemsize
    rows = map_blocks(
        spectrum_rows,
        *arrays.values(),
        core=("dispersion",),
        outputs={"rows": ((first, "byte"), np.uint8)},
        sizes={"byte": size},
        names=list(arrays),
        columns=columns,
    )["rows"]
    return rows, columns


def _create(
    path: Path, spectra: Sequence[xr.Dataset], root: Mapping[Any, Any], filename: str, kind: tuple[str, str]
) -> list[tuple[xr.DataArray, Target]]:
    """Create a FITS product of full size, and return its arrays with their targets. ``kind`` is from :func:`_kind`."""
    extension, model = kind
    attrs = {**spectra[0].attrs, **root, **joint_history(spectra), **gathered([one.attrs for one in spectra])}
    parts = [Part(_primary(attrs, filename, model))]
    for version, spectrum in enumerate(spectra, start=1):
        rows, columns = _rows(spectrum, extension)
        header = table_header(extension, version, columns, rows.shape[0], spectrum.sizes["dispersion"])
        late = _header(spectrum, header)
        parts.append(Part(header, rows, _target, late))
    times = integration_times(spectra[0]) if model == "TSOMultiSpecModel" else None
    tables = [("INT_TIMES", 1, times)] if times is not None else []
    own = {"NSXR_STEPS": provenance(*spectra), "NSXR_PROVENANCE": origin(attrs)}
    tables += [(name, 1, rows) for name, rows in own.items() if rows is not None]
    for name, version, content in (*tables, ("ASDF", 1, asdf_marker())):
        header, data = table(name, content)
        header["EXTVER"] = version
        parts.append(Part(header, data))
    return lay_out(path, parts)


def _target(place: Place, rows: xr.DataArray) -> Target:
    """Return the target of the rows of a spectrum. For a single spectrum, only rows with a wavelength are kept."""
    if "integration" in rows.dims:
        return BlockFile(place.path, place.offset, rows.shape, "uint8")
    cards = place.cards()
    return LateRows(place.path, place.start, {key: cards[key] for key in ("NAXIS2", "PCOUNT")}, place.offset)


def _by_wavelength(dataset: xr.Dataset) -> xr.Dataset:
    """Return a time series with its computed ``wavelength`` as index.

    Columns without wavelength are dropped, unless no column has one.
    """
    dataset = _with_labels(dataset)
    if "integration" not in dataset.dims or dataset["wavelength"].dims != ("dispersion",):
        return dataset
    wavelength = dataset["wavelength"].compute()
    if not np.isfinite(wavelength).any():  # count rates: keep the columns as index
        return dataset.assign_coords(wavelength=wavelength)
    finite = np.flatnonzero(np.isfinite(wavelength.to_numpy()))
    if "dispersion" not in dataset.coords:
        dataset = dataset.assign_coords(dispersion=np.arange(dataset.sizes["dispersion"]))
    dataset = dataset.assign_coords(wavelength=wavelength).isel(dispersion=finite)
    return dataset.swap_dims(dispersion="wavelength")


def _nodes(spectra: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    if isinstance(spectra, xr.Dataset):
        return {"/": _by_wavelength(spectra)}
    each = dict(iterate_slits(spectra))
    if len(each) > 1 and all(_can_be_padded(one) for one in each.values()):
        return padded_groups(spectra, "spectra")
    return {
        node.path if node is spectra else node.path.strip("/"): _by_wavelength(node.to_dataset())
        for node in spectra.subtree
    }


def _can_be_padded(spectrum: xr.Dataset) -> bool:
    """Return whether the first label of each dim tells all of its labels, as padded spectra need it."""
    dims = set(map(str, spectrum.dims))
    labels = [spectrum.indexes[dim].to_numpy() for dim in dims if dim in spectrum.indexes]
    is_whole = all(one.size and one.dtype.kind in "iu" and (np.diff(one) == 1).all() for one in labels)
    return "dispersion" in dims <= {"dispersion", "row"} and len(labels) == len(dims) and is_whole


def write_spectra(
    spectra: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool | Literal["force"] = True,
) -> Path:
    """Write spectra as a FITS product, or as Zarr if the name ends in ``.zarr``.

    Single spectra become an ``x1d``, time series an ``x1dints``, and combined spectra a ``c1d``. Each has the columns
    of the observatory's products in their order and units. After them come COVERAGE, the fraction of the profile on
    pixels that were used, RELATIVE_ERROR_*, errors of references that all wavelengths share, over the flux, and COLUMN,
    the detector column from 0. FLUX_ERROR, SB_ERROR and BKGD_ERROR are the square roots of the sums of the variances;
    in time series without that of the flat field, which all integrations share. Columns without a finite wavelength are
    left out, if others have one.

    Parameters
    ----------
    spectra : Dataset or DataTree
        One spectrum: ``flux`` (dispersion) float64 [Jy or DN/s] with its variances, ``dq`` uint32, coordinate
        ``wavelength`` float64 [um] and other variables of a spectrum. Or a time series with ``integration`` as first
        dim; a DataTree of spectra; or a result of :func:`nsxr.combine_spectra`.
    path : path
        File to write. Its directory is made if it does not exist.
    overwrite : bool, default False
        Whether an existing file may be replaced.
    progress : bool or "force", default True
        Show a bar in a notebook, or if standard error is a terminal. "force" always shows it.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ModelError
        If a variable is missing, or has dims, a dtype or units that such a product cannot hold.
    OutputExistsError
        If the file already exists, or another process is writing it.
    OSError
        If the disk is full or cannot be written.

    Notes
    -----
    Everything is computed in one pass and written under a temporary name. The file appears when it is complete.
    Variances that the spectra lack are written as 0, other quantities as NaN. A time series in Zarr has dims
    (integration, wavelength). Its wavelengths are therefore computed first if they are lazy. Two or more other
    spectra are padded to one group for all that have the same variables, see :mod:`nsxr.products.padding`; a single one
    keeps its dims.
    """
    final = local_path(path)
    each = _spectra_of(spectra)
    kind = _kind(each)

    def create(partials: Sequence[Path]) -> list[tuple[xr.DataArray, Any]]:
        if final.suffix == ".zarr":
            nodes = {name: as_product(node, final.name, kind[1]) for name, node in _nodes(spectra).items()}
            return list(create_zarr(partials[0], nodes))
        return _create(partials[0], each, spectra.attrs, final.name, kind)

    write_whole([final], create, final.parent, final.name, overwrite, progress)
    return final
