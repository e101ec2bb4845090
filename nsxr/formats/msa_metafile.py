"""Read an MSA metafile, ``..._msa.fits``."""

import os
from typing import Any

import numpy as np

from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import FitsFile, keywords, scan
from nsxr.model.msa_metafile import CataloguedSource, MsaMetafile, ShutterRow

__all__ = ["read_metafile"]

_ID = 2**31 - 1
_WHOLE = {
    "msa_metadata_id": (-_ID, _ID),
    "dither_point_index": (-_ID, _ID),
    "source_id": (-_ID, _ID),
    "slitlet_id": (1, _ID),
    "shutter_quadrant": (1, 4),
    "shutter_row": (1, 365),
    "shutter_column": (1, 171),
}
"""Whole numbers of SHUTTER_INFO with their limits. Rows of fixed slits may have any number in the last four."""
_OF_SHUTTERS = ("slitlet_id", "shutter_quadrant", "shutter_row", "shutter_column")
_POSITIONS = ("estimated_source_in_shutter_x", "estimated_source_in_shutter_y")
_NUMBERS = dict.fromkeys(_POSITIONS, (-100, 100)) | {"ra": (-360, 360), "dec": (-90, 90), "stellarity": (-1e6, 1e6)}
"""Numbers that may be NaN, with their limits."""
_WORDS = ("background", "primary_source")


def read_metafile(path: str | os.PathLike[str]) -> MsaMetafile:
    """Read an MSA metafile.

    Parameters
    ----------
    path : path
        The file, gzipped or not. Headers of exposures name it in MSAMETFL.

    Returns
    -------
    MsaMetafile

    Raises
    ------
    InputFileError
        If the file does not exist or is damaged, if a table or a column is missing, or if a value cannot be right, such
        as the number of a shutter that does not exist.
    """
    file = scan(path, ("SHUTTER_INFO", "SOURCE_INFO"))
    table = _Table(file, "SHUTTER_INFO", (*_WHOLE, *_WORDS, *_POSITIONS))
    fixed_slits = ["" if word in ("NONE", "N/A") else word for word in table.words("fixed_slit", upper=True)]
    is_fixed = np.array(fixed_slits, dtype=bool)
    whole = {
        name: table.numbers(name, *limits, is_whole=True, unless=is_fixed if name in _OF_SHUTTERS else None)
        for name, limits in _WHOLE.items()
    }
    rows = zip(
        *(whole[name] for name in ("slitlet_id", "msa_metadata_id", "dither_point_index")),
        *(whole[name] for name in ("shutter_quadrant", "shutter_row", "shutter_column", "source_id")),
        [word == "Y" for word in table.words("background", upper=True)],
        *(table.numbers(name, *_NUMBERS[name]) for name in _POSITIONS),
        [word == "Y" for word in table.words("primary_source", upper=True)],
        fixed_slits,
        strict=True,
    )
    program = str(keywords(file.primary).get("PROGRAM", "")).strip().lstrip("0")
    return MsaMetafile(file.path, tuple(map(ShutterRow._make, rows)), _sources(file), program)


def _sources(file: FitsFile) -> dict[int, CataloguedSource]:
    table = _Table(file, "SOURCE_INFO", ("source_id", "source_name", "ra", "dec"))
    columns = (
        table.numbers("source_id", *_WHOLE["source_id"], is_whole=True),
        table.words("source_name"),
        table.words("alias"),
        *(table.numbers(name, *_NUMBERS[name]) for name in ("ra", "dec", "stellarity")),
    )
    found: dict[int, CataloguedSource] = {}
    for number, *values in zip(*columns, strict=True):
        found.setdefault(number, CataloguedSource._make(values))
    return found


class _Table:
    """A table of a metafile, whose columns are checked when they are read."""

    def __init__(self, file: FitsFile, name: str, columns: tuple[str, ...]) -> None:
        rows = file.require(name).table
        if rows is None:
            raise InputFileError(f"{file.path}: extension {name} is no table, expected the table of an MSA metafile")
        missing = [column for column in columns if column not in (rows.dtype.names or ())]
        if missing:
            raise InputFileError(f"{file.path}: table {name} lacks {', '.join(missing)}; is it an MSA metafile?")
        self.called, self.rows = f"{file.path}: table {name}", rows

    def numbers(
        self, name: str, least: float, most: float, *, is_whole: bool = False, unless: np.ndarray | None = None
    ) -> list[Any]:
        """Return a column of numbers. NaN is allowed where numbers are not whole; columns without limits stay NaN."""
        if name not in (self.rows.dtype.names or ()):
            return [np.nan] * len(self.rows)
        column = self.rows[name]
        if column.ndim != 1 or column.dtype.kind not in "iuf":
            raise InputFileError(f"{self.called}: {name} has no single number in each row, but {self.rows.dtype[name]}")
        values = column.astype(np.float64)
        is_right = (values >= least) & (values <= most)
        is_right = is_right & (values == np.floor(values)) if is_whole else is_right | np.isnan(values)
        if unless is not None:
            is_right |= unless & (np.abs(values) <= _ID)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            raise InputFileError(
                f"{self.called}: {name} is {values[wrong]:.10g} in row {wrong + 1}, expected "
                f"{'a whole number' if is_whole else 'a number'} from {least:.10g} to {most:.10g}"
            )
        return list((column.astype(np.int64) if is_whole else values).tolist())

    def words(self, name: str, *, upper: bool = False) -> list[str]:
        """Return a column of texts, of empty texts if the table does not have it: older files lack some columns."""
        if name not in (self.rows.dtype.names or ()):
            return [""] * len(self.rows)
        column = self.rows[name]
        if column.ndim != 1 or column.dtype.kind not in "SU":
            raise InputFileError(f"{self.called}: {name} has no text in each row, but {self.rows.dtype[name]}")
        if column.dtype.kind == "S":
            column = np.char.decode(column, "ascii", "replace")
        column = np.char.strip(column)
        return list(map(str, np.char.upper(column) if upper else column))
