"""Define the xarray engine "nirspec". It opens raw exposures, ramps and rates in FITS files as lazy Datasets."""

import os
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core import indexing

from nsxr.compute.layouts import raw_chunks
from nsxr.errors import DegradedResultWarning, InputFileError
from nsxr.formats.extensions import FRAME_IMAGES
from nsxr.formats.fits_headers import FitsFile, keywords, scan
from nsxr.formats.fits_tables import GROUP_COLUMNS, TIME_COLUMNS, late_table, origin_of, steps_from_table
from nsxr.formats.fits_write import OF_SCI
from nsxr.formats.pixels import FitsArray, PixelSource
from nsxr.model.keywords import read
from nsxr.model.readout import IRS2_ROWS, Readout
from nsxr.model.types import Entries
from nsxr.model.variables import TABLES, VARIABLES, units_of, variable_attributes
from nsxr.storage.options import StorageOptions

__all__ = ["NirspecBackend", "read_dataset"]

RAMP = ("integration", "group", "row", "column")
RATES = ("integration", "row", "column")
IMAGE = ("row", "column")

_TABLES = ("INT_TIMES", "GROUP", *TABLES, "NSXR_STEPS", "NSXR_PROVENANCE")
_OF_RATES = {"VAR_POISSON": "var_poisson", "VAR_RNOISE": "var_rnoise", "CHI_SQUARE": "chi_square"}
_OPTIONAL = ("CHI_SQUARE",)


class NirspecBackend(BackendEntrypoint):
    """Backend of :func:`xarray.open_dataset` with ``engine="nirspec"``."""

    description = "NIRSpec exposures and count rates in FITS files"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "storage_options")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, object] | None = None,
    ) -> xr.Dataset:
        """Open one file, see :func:`read_dataset`."""
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or [])
        return read_dataset(filename_or_obj, storage_options).drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Return whether a file has a name like that of a raw exposure."""
        return isinstance(filename_or_obj, str | os.PathLike) and os.fspath(filename_or_obj).endswith(
            ("_uncal.fits", "_uncal.fits.gz")
        )


def read_dataset(
    path: str | os.PathLike[str], storage_options: Mapping[str, object] | StorageOptions | None = None
) -> xr.Dataset:
    """Read headers and tables of a file. Its pixels are read only when they are used.

    Parameters
    ----------
    path : str or path
        ``_uncal``, ``_rate`` or ``_rateints`` file, or ``_ramp`` or another intermediate file. It may be gzipped, or a
        URL.
    storage_options : mapping, optional
        Options for access to a URL, see :class:`nsxr.storage.options.StorageOptions`.

    Returns
    -------
    Dataset
        Raw exposures: ``sci`` (integration, group, row, column) float32 [DN]. Ramps: also ``pixeldq`` and ``groupdq``.
        Rates: ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise``, with or without ``integration``. Header keywords
        are in ``attrs``. The whole headers are texts in ``attrs["fits_header"]`` and ``attrs["sci_header"]``. Only the
        Dataset has these texts, because arithmetic copies attributes of variables. Columns of INT_TIMES and GROUP are
        coordinates.

    Raises
    ------
    InputFileError
        If the file is of another kind, is cut off, or contradicts its own header.
    RemoteAccessError
        If a URL cannot be reached.
    """
    file = scan(path, _TABLES, storage_options)
    file.require_single()
    _require_nirspec(file)
    sci = file.require("SCI")
    shape = sci.shape
    dims = {4: RAMP, 3: RATES, 2: IMAGE}.get(len(shape))
    header = keywords(file.primary)
    readout = Readout.from_header(header, ramps=dims in (RAMP, None), source=file.path)
    if dims is None:
        raise InputFileError(f"{file.path}: SCI has {len(shape)} axes, expected 2 to 4")
    sizes = dict(zip(dims, shape, strict=True))
    first = _first_integration(file.path, header, readout, sizes)
    _check_shape(file, readout, sizes)
    images: dict[str, PixelSource] = {"sci": file.image("SCI", "float32")}
    if dims == RAMP:
        _check_coding(file, images["sci"])
        optional = {"PIXELDQ": ("pixeldq", "uint32"), "GROUPDQ": ("groupdq", "uint8")}
        images |= {v: file.image(name, dtype) for name, (v, dtype) in optional.items() if name in file.extensions}
    else:
        images["dq"] = file.image("DQ", "uint32")
        images |= {
            variable: file.image(name, "float32")
            for name, variable in _OF_RATES.items()
            if name not in _OPTIONAL or name in file.extensions
        }
        images |= {
            variable: file.image(name, np.dtype(VARIABLES[variable].dtype).name)
            for name, variable in FRAME_IMAGES.items()
            if name in file.extensions and (dims == IMAGE or variable == "noise_used")
        }
    default_units = "DN" if dims == RAMP else "DN/s"
    units = str(sci.header.get("BUNIT", default_units)).strip() or default_units
    variables = {}
    for name, source in images.items():
        own = IMAGE if name in ("pixeldq", "noise_used") else dims
        if source.shape != tuple(shape[dims.index(d)] for d in own):
            raise InputFileError(f"{file.path}: {name} has shape {source.shape}, SCI has {shape}")
        attrs: Entries = variable_attributes(name)
        if found := units_of(name, units):
            attrs["units"] = found
        variables[name] = xr.Variable(own, indexing.LazilyIndexedArray(FitsArray(source)), attrs)
        chunks = _preferred(dict(zip(own, source.shape, strict=True)))
        variables[name].encoding = {"preferred_chunks": chunks}
    attrs = header | {key: value for key, value in keywords(sci.header).items() if key in OF_SCI}
    attrs["filename"] = os.path.basename(file.path)
    for key, header in (("fits_header", file.primary), ("sci_header", sci.header)):
        attrs[key] = header.tostring(sep="\n", endcard=False, padding=False)
    if "NSXR_STEPS" in file.extensions and (table := file.extensions["NSXR_STEPS"].table) is not None:
        attrs["nsxr_steps"] = steps_from_table(table, file.path)
    attrs |= origin_of(file)
    coordinates = _coordinates(file, readout, sizes, first)
    for name, (variable, dim, labels) in TABLES.items():
        if (rows := _rows(file, name)) is not None:
            variables[variable] = late_table(name, rows, file.path)
            coordinates[dim] = (dim, list(labels))
    coordinates |= {name: variables.pop(name) for name in ("slice", "slit_y") if name in variables}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def _preferred(sizes: dict[str, int]) -> dict[str, int]:
    """Return the chunks of the raw layout, also for arrays with fewer dims."""
    lengths = raw_chunks({"integration": 1, "group": 1, **sizes})
    return {dim: lengths[dim] for dim in sizes}


def _require_nirspec(file: FitsFile) -> None:
    header = keywords(file.primary)
    instrument = header.get("INSTRUME")
    if instrument is None:
        raise InputFileError(f"{file.path}: keyword INSTRUME is missing; this is no JWST exposure")
    if str(instrument).strip().upper() != "NIRSPEC":
        raise InputFileError(f"{file.path}: INSTRUME is {instrument!r}, expected 'NIRSPEC'")
    name = str(header.get("SUBARRAY", ""))
    if read(header, "SSTR_NST", matters=False) > 0 or (name.endswith("_PRISM") and name.startswith("SUB")):
        raise InputFileError(f"{file.path}: superstripe readout {name} is not supported")


def _first_integration(path: str, header: Mapping[str, object], readout: Readout, sizes: Mapping[str, int]) -> int:
    """Return the number of the first integration, and compare INTSTART, INTEND and NINTS with the data."""
    if "integration" not in sizes:
        return 1
    n, total = sizes["integration"], read(header, "NINTS", matters=False)
    is_whole = n == total  # INTSTART and INTEND do not matter in this case
    first = read(header, "INTSTART", matters=not is_whole, source=path)
    last = read(header, "INTEND", default=first + n - 1 if is_whole else total, matters=not is_whole, source=path)
    if last is not None and last - first + 1 != n:
        raise InputFileError(
            f"{path}: SCI does not agree with the header: {n} integrations where INTSTART and INTEND, or NINTS, say "
            f"{last - first + 1} ({first} to {last})"
        )
    if total is not None and last is not None and last > total:
        raise InputFileError(f"{path}: keyword INTEND is {last}, but NINTS says {total} integrations in all")
    is_segment = read(header, "EXSEGTOT", matters=False) > 1
    if "group" in sizes and not is_segment and total is not None and not is_whole:
        warnings.warn(
            f"{path}: holds integrations {first} to {first + n - 1} of {total} (NINTS); the others are missing",
            DegradedResultWarning,
            stacklevel=2,
        )
    return int(first)


def _check_shape(file: FitsFile, readout: Readout, sizes: dict[str, int]) -> None:
    """Compare the shape of SCI with the header, and raise an error that names all differences."""
    problems = []
    rows = {readout.n_rows}
    if "group" in sizes and readout.is_irs2:
        rows.add(IRS2_ROWS)
    expected = {"group": readout.n_groups, "column": readout.n_columns}
    sources = {"group": "NGROUPS", "column": "SUBSIZE1"}
    for dim, length in expected.items():
        if dim in sizes and sizes[dim] != length:
            problems.append(f"{sizes[dim]} {dim}s where {sources[dim]} say {length}")
    if sizes["row"] not in rows:
        wanted = " or ".join(map(str, sorted(rows)))
        problems.append(f"{sizes['row']} rows where SUBSIZE2 and READPATT {readout.read_pattern} say {wanted}")
    is_raw = file.require("SCI").header["BITPIX"] == 16
    if is_raw and readout.is_irs2 and sizes["row"] == readout.n_rows:
        problems.append(f"{sizes['row']} rows in a raw {readout.read_pattern} exposure, expected {IRS2_ROWS}")
    if problems:
        raise InputFileError(f"{file.path}: SCI does not agree with the header: {'; '.join(problems)}")


def _check_coding(file: FitsFile, source: PixelSource) -> None:
    raw = source.stored == ">i2" and source.zero == 32768
    if not raw and source.stored != ">f4":
        raise InputFileError(
            f"{file.path}: SCI has BITPIX {file.require('SCI').header['BITPIX']} and BZERO {source.zero}, expected "
            "16 and 32768 (raw) or -32 (corrected ramps)"
        )


def _coordinates(file: FitsFile, readout: Readout, sizes: dict[str, int], first: int) -> Entries:
    found: Entries = dict(readout.row_coordinates(sizes["row"]))
    found["column"] = ("column", readout.column_start + np.arange(sizes["column"]))
    if "integration" not in sizes:
        return found
    n = sizes["integration"]
    found["integration"] = ("integration", first + np.arange(n))
    times = _rows(file, "INT_TIMES")
    if times is not None and times.size and "integration_number" in (times.dtype.names or ()):
        chosen = np.isin(times["integration_number"], found["integration"][1])
        times = times[chosen] if chosen.sum() == n else times
        if times.size != n:
            raise InputFileError(f"{file.path}: INT_TIMES has {times.size} rows for {n} integrations")
        found |= {
            name: ("integration", times[name].astype(np.float64), {"units": "d"})
            for name in TIME_COLUMNS
            if name in (times.dtype.names or ())
        }
    if "group" in sizes:
        groups = sizes["group"]
        found["group"] = ("group", 1 + np.arange(groups))
        rows = _rows(file, "GROUP")
        if rows is not None and rows.size == n * groups:
            skipped = ("integration_number", "group_number", "number_of_columns", "number_of_rows")
            for name in GROUP_COLUMNS:
                if name in (rows.dtype.names or ()) and name not in skipped:
                    found[name] = (("integration", "group"), rows[name].reshape(n, groups))
    return found


def _rows(file: FitsFile, name: str) -> np.ndarray | None:
    return file.extensions[name].table if name in file.extensions else None
