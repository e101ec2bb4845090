"""Read the columns of tables in FITS references."""

import numpy as np

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.fits_headers import FitsFile

__all__ = ["columns_of"]

_TEXTS = ("filter", "grating", "slit", "slit_id")


def columns_of(file: FitsFile, name: str, *required: str) -> dict[str, np.ndarray]:
    """Return the columns of a table by name, in lower case. Texts are stripped and in capitals, numbers are float64.

    Raises
    ------
    ReferenceFileError
        If the table is missing, has no rows, or lacks a required column; or if such a column has texts in place of
        numbers, or numbers in place of texts.
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
    plain = {column: _plain(values) for column, values in found.items()}
    for column in required:
        is_text = plain[column].dtype.kind == "U"
        if is_text != (column in _TEXTS):
            expected = "text" if column in _TEXTS else "numbers"
            raise ReferenceFileError(f"{file.path}: column {column} of table {name} does not have {expected}")
    return plain


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "ascii", "replace")
    if values.dtype.kind == "U":
        return np.asarray(np.char.upper(np.char.strip(values)))
    return values.astype(np.float64) if values.dtype.kind in "biuf" else values
