"""Make and read the tables of FITS products: INT_TIMES, GROUP, provenance, and tables whose rows are computed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import InputFileError, ModelError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.fits_headers import FitsFile
from nsxr.formats.keywords import printable, step_keywords
from nsxr.model.history import joint_steps, parsed_steps, shared_steps, steps
from nsxr.model.provenance import KEY, noted, provenance_of
from nsxr.model.steps import STATUS
from nsxr.model.types import Attributes
from nsxr.model.variables import TABLES, VARIABLES, variable_attributes

__all__ = [
    "GROUP_COLUMNS",
    "TIME_COLUMNS",
    "LateTable",
    "asdf_marker",
    "asdf_table",
    "groups",
    "history_of",
    "integration_times",
    "kept_origin",
    "late_header",
    "late_table",
    "origin",
    "origin_of",
    "provenance",
    "steps_from_table",
    "table",
]

TIME_COLUMNS = (
    "int_start_MJD_UTC",
    "int_mid_MJD_UTC",
    "int_end_MJD_UTC",
    "int_start_BJD_TDB",
    "int_mid_BJD_TDB",
    "int_end_BJD_TDB",
)
"""Columns of INT_TIMES. Coordinates of a Dataset have the same names, float64 [d]."""

GROUP_COLUMNS: Mapping[str, str] = {
    "integration_number": "i4",
    "group_number": "i2",
    "end_day": "i2",
    "end_milliseconds": "i4",
    "end_submilliseconds": "i2",
    "group_end_time": "S26",
    "number_of_columns": "i2",
    "number_of_rows": "i2",
    "number_of_gaps": "i2",
    "completion_code_number": "i2",
    "completion_code_text": "S36",
    "bary_end_time": "f8",
    "helio_end_time": "f8",
}
"""Columns of GROUP. They are coordinates (integration, group) of ramps, if a file has them."""

_WHOLE = ("integration", "group", "pixels")
_UNITS = {"core_radius": "pixel", "masked_radius": "pixel", "frequency": "Hz"} | dict.fromkeys(
    ("own", "common", "white"), "DN**2/Hz"
)


def _row_type(name: str) -> np.dtype:
    """Return the type of a row of a table in :data:`nsxr.model.variables.TABLES`."""
    return np.dtype([(label, ">i4" if label in _WHOLE else ">f4") for label in TABLES[name][2]])


def table(name: str, rows: np.ndarray) -> tuple[fits.Header, bytes]:
    """Return header and bytes of a binary table given as a structured array."""
    header = fits.BinTableHDU(rows, name=name).header
    return header, rows.astype(rows.dtype.newbyteorder(">")).tobytes()


def integration_times(dataset: xr.Dataset) -> np.ndarray | None:
    """Return INT_TIMES, or None if the Dataset lacks one of its columns."""
    if not all(name in dataset.coords for name in TIME_COLUMNS):
        return None
    columns = {"integration_number": dataset["integration"].to_numpy().astype("i4")}
    columns |= {name: dataset[name].to_numpy().astype("f8") for name in TIME_COLUMNS}
    rows = np.empty(dataset.sizes["integration"], dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def groups(dataset: xr.Dataset) -> np.ndarray | None:
    """Return GROUP, with a row for each group and integration, or None if the Dataset has none of its columns."""
    present = [name for name in GROUP_COLUMNS if name in dataset.coords]
    if not present:
        return None
    model = xr.DataArray(
        np.zeros((dataset.sizes["integration"], dataset.sizes["group"])), dims=("integration", "group")
    )
    known: dict[str, xr.DataArray] = {
        "integration_number": dataset["integration"],
        "group_number": dataset["group"],
        "number_of_columns": xr.DataArray(dataset.sizes["column"]),
        "number_of_rows": xr.DataArray(dataset.sizes["row"]),
    }
    known |= {name: dataset[name] for name in present}
    rows = np.zeros(model.size, dtype=list(GROUP_COLUMNS.items()))
    for name, values in known.items():
        rows[name] = values.broadcast_like(model).transpose("integration", "group").to_numpy().ravel()
    return rows


def provenance(*datasets: xr.Dataset) -> np.ndarray | None:
    """Return NSXR_STEPS, with a row for each recorded step, or None if no step is recorded.

    Parameters
    ----------
    *datasets : Dataset
        One exposure; or the slits or spectra of a file, in the order of their EXTVER. If their histories differ, the
        table has a column SLIT: the EXTVER of the slit that had the step, or 0 for the first steps, which all had.
    """
    each = [steps(dataset) for dataset in datasets]
    count = shared_steps(each)
    rows = [(0, entry) for entry in each[0][:count]]
    rows += [(version, entry) for version, entries in enumerate(each, start=1) for entry in entries[count:]]
    if not rows:
        return None
    texts = [json.dumps(entry) for _, entry in rows]
    dtype = [("STEP", "S32"), ("STATUS", "S16"), ("RECORD", f"S{max(map(len, texts))}"), ("SLIT", "i4")]
    cells = [(printable(e["step"]), printable(e["status"]), t, n) for (n, e), t in zip(rows, texts, strict=True)]
    table = np.array(cells, dtype=dtype)
    return table if len({json.dumps(entries) for entries in each}) > 1 else _without_slits(table)


def _without_slits(rows: np.ndarray) -> np.ndarray:
    kept = np.empty(rows.size, [(name, rows.dtype[name]) for name in ("STEP", "STATUS", "RECORD")])
    for name in kept.dtype.names or ():
        kept[name] = rows[name]
    return kept


def origin(attrs: Attributes) -> np.ndarray | None:
    """Return NSXR_PROVENANCE, with a row for each key of :mod:`nsxr.model.provenance`, or None if there is no key."""
    found = provenance_of(attrs)
    if not found:
        return None
    texts = {key: json.dumps(value) for key, value in found.items()}
    width = max(map(len, texts.values()))
    return np.array(list(texts.items()), dtype=[("KEY", "S32"), ("VALUE", f"S{width}")])


def origin_of(file: FitsFile) -> dict[Any, Any]:
    """Return the provenance attribute of data read from a file: the file's own, with the file added as an input."""
    return noted(kept_origin(file), inputs=[describe_file(file.location, file.stamp)])


def kept_origin(file: FitsFile) -> dict[str, str]:
    """Return the provenance attribute with which a file was written. Empty if nsxr did not write the file."""
    extension = file.extensions.get("NSXR_PROVENANCE")
    rows = extension.table if extension is not None else None
    known = {}
    if rows is not None:
        try:
            pairs = zip(_words(rows["KEY"]), _words(rows["VALUE"]), strict=True)
            known = {KEY: json.dumps({key: json.loads(text) for key, text in pairs})}
        except ValueError as error:  # a missing column, or a text that is not ASCII or not JSON
            raise InputFileError(f"{file.path}: table NSXR_PROVENANCE cannot be read ({error})") from error
    return known


def _words(column: np.ndarray) -> list[str]:
    """Return the texts of a column without their padding."""
    words = [text.decode("ascii") if isinstance(text, bytes) else str(text) for text in column]
    return [text.rstrip("\0 ") for text in words]


def asdf_marker() -> np.ndarray:
    """Return the ASDF extension, which the observatory's pipeline looks for before it reads the headers.

    The extension only says which software wrote the file. Readers take metadata and arrays from the FITS part if the
    ASDF part has none. The file therefore has one copy of each.
    """
    text = (
        "#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
        f"asdf_library: !core/software-1.0.0 {{name: nsxr, version: {json.dumps(version('nsxr'))}}}\n...\n"
    )
    return asdf_table(text.encode("ascii"))


def asdf_table(content: bytes) -> np.ndarray:
    """Return the bytes of an ASDF file as the table that FITS files hold it in."""
    data = np.frombuffer(content, dtype="u1")
    return np.array([(data,)], dtype=[("ASDF_METADATA", "u1", (len(data),))])


def steps_from_table(rows: np.ndarray, path: str = "this file", slit: int | None = None) -> str:
    """Return ``attrs["nsxr_steps"]`` from the table of a product's NSXR_STEPS extension.

    Parameters
    ----------
    rows : structured ndarray
        Rows with column ``RECORD``, the JSON text of each provenance record.
    path : str
        Path of the file, for the message.
    slit : int, optional
        EXTVER of the slit whose history is wanted. Default: the history of all slits, as
        :func:`nsxr.model.history.joint_steps` returns it.

    Raises
    ------
    InputFileError
        If the records do not have the format of nsxr.
    """
    try:
        records = _words(rows["RECORD"])
        if "SLIT" in (rows.dtype.names or ()):
            numbers = rows["SLIT"].tolist()
            versions = sorted({*numbers} - {0}) if slit is None else [slit]
            each = [[r for r, n in zip(records, numbers, strict=True) if n in (0, one)] for one in versions]
            if slit is None:
                return json.dumps(joint_steps([parsed_steps(f"[{', '.join(own)}]") for own in each]))
            records = each[0]
        text = "[" + ", ".join(records) + "]"
        parsed_steps(text)
    except (KeyError, ValueError) as error:
        raise InputFileError(
            f"{path}: table NSXR_STEPS is not a list of the steps that were applied ({error})"
        ) from error
    return text


def history_of(rows: np.ndarray | None, slit: int, path: str = "this file") -> dict[str, str]:
    """Return attributes with the history of a slit or spectrum, from NSXR_STEPS. Empty if it has none.

    If the histories of the slits differ, the status keywords of their own steps are among the attributes. The primary
    header has the status of the whole file.

    Parameters
    ----------
    rows : structured ndarray or None
        Rows of the table, if there is one.
    slit : int
        EXTVER of the slit.
    path : str
        Path of the file, for the message.
    """
    if rows is None:
        return {}
    history = steps_from_table(rows, path, slit)
    found = {"nsxr_steps": history} if history != "[]" else {}
    if "SLIT" in (rows.dtype.names or ()):
        own = parsed_steps(steps_from_table(rows[rows["SLIT"] == slit], path, slit))
        found |= {key: value for key, (value, _) in step_keywords(own).items() if key in STATUS}
    return found


@dataclass(frozen=True)
class LateTable:
    """A table in an existing file whose number of rows is known only after computing. Assignment writes all rows.

    The space of unused rows becomes the gap before the heap, in the words of the FITS standard.
    """

    path: str
    name: str
    header: str
    offset: int

    def __setitem__(self, index: object, block: object) -> None:
        values, labels, kind = np.asarray(block), TABLES[self.name][2], _row_type(self.name)
        if values.ndim != 2 or values.shape[1] != len(labels):
            raise ModelError(f"a block of shape {values.shape} reached the table {self.name} in {self.path}")
        values = values[~np.isnan(values[:, 0])]
        rows = np.empty(len(values), kind)
        for label, column in zip(labels, values.T, strict=True):
            rows[label] = column
        header = fits.Header.fromstring(self.header)
        header["PCOUNT"] += (header["NAXIS2"] - rows.size) * kind.itemsize
        header["NAXIS2"] = rows.size
        with open(self.path, "r+b") as file:
            file.seek(self.offset - len(self.header))
            file.write(header.tostring().encode("ascii") + rows.tobytes())


def late_header(name: str, most: int) -> fits.Header:
    """Return the header of a table in :data:`nsxr.model.variables.TABLES` with space for ``most`` rows."""
    header, _ = table(name, np.zeros(most, _row_type(name)))
    for number, label in enumerate(TABLES[name][2], start=1):
        if label in _UNITS:
            header.set(f"TUNIT{number}", _UNITS[label], after=f"TFORM{number}")
    return header


def late_table(name: str, rows: np.ndarray, path: str = "this file") -> xr.Variable:
    """Return a variable from the table of an extension, float32. ``path`` is for messages."""
    variable, dim, labels = TABLES[name]
    names = rows.dtype.names or ()
    missing = [label for label in labels if label not in names or rows[label].dtype.kind not in "iuf"]
    if missing:
        raise InputFileError(f"{path}: table {name} lacks the columns {', '.join(missing)}, or they are no numbers")
    values = np.empty((rows.size, len(labels)), np.float32)
    for number, label in enumerate(labels):
        values[:, number] = rows[label]
    first = VARIABLES[variable].dims[0][0]
    return xr.Variable((first, dim), values, variable_attributes(variable))
