"""Read an MSA metafile, ``..._msa.fits``."""

import os
from typing import Any

import numpy as np

from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import FitsFile, scan
from nsxr.model.msa_metafile import CataloguedSource, MsaMetafile, ShutterRow

__all__ = ["read_metafile"]

_WHOLE = ("slitlet_id", "msa_metadata_id", "dither_point_index", "shutter_quadrant", "shutter_row", "shutter_column")
_SHUTTERS = (*_WHOLE, "source_id", "background", "primary_source")
_POSITIONS = ("estimated_source_in_shutter_x", "estimated_source_in_shutter_y")


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
        If the file does not exist or is damaged, or if a table or a column is missing.
    """
    file = scan(path, ("SHUTTER_INFO", "SOURCE_INFO"))
    shutters = _table(file, "SHUTTER_INFO", (*_SHUTTERS, *_POSITIONS))
    sources = _table(file, "SOURCE_INFO", ("source_id", "source_name", "ra", "dec"))
    texts = {name: _words(shutters, name) for name in ("background", "primary_source", "fixed_slit")}
    rows = []
    for number, row in enumerate(shutters):
        slit = texts["fixed_slit"][number].upper()
        rows.append(
            ShutterRow(
                slitlet_id=int(row["slitlet_id"]),
                metadata_id=int(row["msa_metadata_id"]),
                dither=int(row["dither_point_index"]),
                quadrant=int(row["shutter_quadrant"]),
                xcen=int(row["shutter_row"]),
                ycen=int(row["shutter_column"]),
                source_id=int(row["source_id"]),
                is_background=texts["background"][number].upper() == "Y",
                source_x=float(row["estimated_source_in_shutter_x"]),
                source_y=float(row["estimated_source_in_shutter_y"]),
                is_primary=texts["primary_source"][number].upper() == "Y",
                fixed_slit="" if slit in ("NONE", "N/A") else slit,
            )
        )
    return MsaMetafile(file.path, tuple(rows), _sources(sources))


def _table(file: FitsFile, name: str, columns: tuple[str, ...]) -> np.ndarray:
    rows = file.require(name).table
    if rows is None:
        raise InputFileError(f"{file.path}: extension {name} is no table, expected the table of an MSA metafile")
    missing = [column for column in columns if column not in (rows.dtype.names or ())]
    if missing:
        raise InputFileError(f"{file.path}: table {name} lacks {', '.join(missing)}; is it an MSA metafile?")
    return rows


def _words(rows: np.ndarray, name: str) -> list[str]:
    """Return a column of texts. Older files do not have all columns."""
    if name not in (rows.dtype.names or ()):
        return [""] * len(rows)
    return [_text(value) for value in rows[name]]


def _text(value: Any) -> str:
    return value.decode("ascii", "replace").strip() if isinstance(value, bytes) else str(value).strip()


def _sources(rows: np.ndarray) -> dict[int, CataloguedSource]:
    names, aliases = _words(rows, "source_name"), _words(rows, "alias")
    has_stellarity = "stellarity" in (rows.dtype.names or ())
    found: dict[int, CataloguedSource] = {}
    for row, name, alias in zip(rows, names, aliases, strict=True):
        stellarity = float(row["stellarity"]) if has_stellarity else np.nan
        found.setdefault(
            int(row["source_id"]), CataloguedSource(name, alias, float(row["ra"]), float(row["dec"]), stellarity)
        )
    return found
