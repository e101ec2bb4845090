"""Read the tables of FITS references of flux, and describe the file in attributes."""

import os

import numpy as np

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.fits_headers import FitsFile, keywords, scan
from nsxr.model.types import Entries

__all__ = ["columns_of", "describe_reference", "scan_tables"]


def scan_tables(path: str | os.PathLike[str], kind: str, *names: str) -> FitsFile:
    """Read the headers of a reference, and those of its tables that are named.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, or is a reference of another type or another instrument.
    """
    try:
        file = scan(path, names)
    except InputFileError as error:
        raise ReferenceFileError(f"{kind} reference {error}") from error
    header = keywords(file.primary)
    for keyword, wanted in {"REFTYPE": kind.upper(), "INSTRUME": "NIRSPEC"}.items():
        found = str(header.get(keyword, wanted if keyword == "INSTRUME" else "")).strip().upper()
        if found != wanted:
            raise ReferenceFileError(f"{file.path}: {keyword} is {found!r}, expected {wanted!r}")
    return file


def columns_of(file: FitsFile, name: str, *required: str) -> dict[str, np.ndarray]:
    """Return the columns of a table by name, in lower case. Texts are stripped and in capitals, numbers are float64.

    Raises
    ------
    ReferenceFileError
        If the table is missing, has no rows, or lacks a required column.
    """
    try:
        table = file.require(name).table
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    if table is None or not table.size:
        raise ReferenceFileError(f"{file.path}: extension {name} is no table, or has no rows")
    found = {str(column).lower(): table[column] for column in table.dtype.names or ()}
    missing = [column for column in required if column not in found]
    if missing:
        raise ReferenceFileError(
            f"{file.path}: table {name} lacks columns {', '.join(missing)}; it has {', '.join(found)}"
        )
    return {column: _plain(values) for column, values in found.items()}


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "ascii", "replace")
    if values.dtype.kind == "U":
        return np.asarray(np.char.upper(np.char.strip(values)))
    return values.astype(np.float64)


def describe_reference(file: FitsFile, kind: str) -> Entries:
    """Return the attributes by which a reference is recorded: its type, name, size and fingerprint."""
    described = describe_file(file.location, file.stamp)
    attributes: Entries = {"reference_type": kind, "filename": os.path.basename(file.path)}
    return attributes | {key: value for key, value in described.items() if key != "file"}
