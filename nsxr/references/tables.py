"""Read the columns of tables in FITS references."""

import numpy as np

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.fits_headers import FitsFile

__all__ = ["columns_of"]


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
