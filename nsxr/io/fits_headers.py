"""Scan the headers of a FITS file without reading pixels."""

import gzip
import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from nsxr.errors import InputFileError
from nsxr.io.pixels import PixelSource, file_stamp, is_remote, open_binary

__all__ = ["Extension", "FitsFile", "keywords", "scan"]

logger = logging.getLogger(__name__)

_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Extension:
    """Header and place of one HDU; tables also their rows, if asked for."""

    name: str
    header: fits.Header
    offset: int
    table: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, NumPy order."""
        return tuple(int(self.header[f"NAXIS{axis}"]) for axis in range(self.header["NAXIS"], 0, -1))


@dataclass(frozen=True)
class FitsFile:
    """A scanned file."""

    path: str
    primary: fits.Header
    extensions: dict[str, Extension]

    def image(self, name: str, dtype: str) -> PixelSource:
        """Return where the pixels of an image extension are.

        Parameters
        ----------
        name : str
            EXTNAME.
        dtype : str
            Dtype wanted: ``float32`` for signal, ``uint8`` or ``uint32`` for flags.

        Raises
        ------
        InputFileError
            If there is no such extension, or it is no image.
        """
        extension = self.require(name)
        header = extension.header
        if header.get("XTENSION", "IMAGE").strip() != "IMAGE" or header["NAXIS"] == 0:
            raise InputFileError(f"{self.path}: extension {name} is no image")
        if header.get("BSCALE", 1) != 1:
            raise InputFileError(f"{self.path}: extension {name} has BSCALE {header['BSCALE']}, expected 1")
        zero = int(header.get("BZERO", 0))
        stored = _STORED[header["BITPIX"]]
        return PixelSource(self.path, extension.offset, extension.shape, stored, dtype, zero, file_stamp(self.path))

    def require(self, name: str) -> Extension:
        """Return an extension, or say what there is instead."""
        if name not in self.extensions:
            found = ", ".join(self.extensions) or "none"
            raise InputFileError(f"{self.path}: extension {name} is missing (found {found})")
        return self.extensions[name]


def scan(path: str | os.PathLike[str], tables: tuple[str, ...] = ()) -> FitsFile:
    """Read all headers, and the tables named, of a FITS file.

    Parameters
    ----------
    path : str or path
        Local file, gzipped or not, or URL.
    tables : tuple of str
        EXTNAMEs of tables to read.

    Raises
    ------
    InputFileError
        If the file does not exist, is no FITS file, or is shorter than its headers say.
    """
    name = os.fspath(path)
    try:
        with open_binary(name) as file, warnings.catch_warnings():
            # a cut file is told from its size below, with a better message
            warnings.simplefilter("ignore", AstropyUserWarning)
            with fits.open(file, memmap=False, lazy_load_hdus=True) as hdus:
                primary = hdus[0].header
                found = dict(_extensions(hdus, tables))
                end = _end_of_data(hdus)
    except FileNotFoundError as error:
        raise InputFileError(f"{name}: no such file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputFileError(f"{name}: not a whole gzip file ({error})") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputFileError(f"{name}: not a FITS file, or cut off within a header ({error})") from error
    if not is_remote(name) and not name.endswith(".gz"):
        size = os.path.getsize(name)
        if size < end:
            raise InputFileError(f"{name}: the file is cut off, it has {size} bytes, its headers ask for {end}")
    logger.debug("%s: extensions %s", name, ", ".join(found))
    return FitsFile(name, primary, found)


def _extensions(hdus: fits.HDUList, tables: tuple[str, ...]) -> Iterator[tuple[str, Extension]]:
    for hdu in hdus:
        if hdu.name == "PRIMARY":
            continue
        rows = _rows(hdu) if hdu.name in tables and isinstance(hdu, fits.BinTableHDU) else None
        yield hdu.name, Extension(hdu.name, hdu.header, hdu.fileinfo()["datLoc"], rows)


def _rows(hdu: fits.BinTableHDU) -> np.ndarray:
    """Return a table as a structured array in native byte order, offsets of unsigned columns applied."""
    columns = {name: np.asarray(hdu.data[name]) for name in hdu.columns.names}
    columns = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in columns.items()}
    rows = np.empty(len(hdu.data), dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def _end_of_data(hdus: fits.HDUList) -> int:
    info = hdus[-1].fileinfo()
    return int(info["datLoc"] + info["datSpan"])


def keywords(header: fits.Header) -> dict[str, Any]:
    """Return the keywords of a header as plain values, without commentary cards."""
    found: dict[str, Any] = {}
    for card in header.cards:
        if card.keyword in ("COMMENT", "HISTORY", "") or isinstance(card.value, fits.card.Undefined):
            continue
        value = card.value
        found[card.keyword] = value.item() if isinstance(value, np.generic) else value
    return found
