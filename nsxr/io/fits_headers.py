"""Scan the headers of a FITS file without reading pixels."""

import gzip
import logging
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from nsxr.errors import InputFileError, NsxrError
from nsxr.io.pixels import PixelSource, file_stamp, open_binary
from nsxr.io.stores import NO_OPTIONS, StorageOptions, is_remote, remote_errors, retried, shown
from nsxr.model.keywords import KEYWORDS, tidy

__all__ = ["Extension", "FitsFile", "keywords", "refuse_compressed", "scan"]

logger = logging.getLogger(__name__)

_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

_STRUCTURE = re.compile("SIMPLE|BITPIX|NAXIS[0-9]*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|END")
"""Keywords that describe the file rather than the exposure."""

_BLOCK = 2880


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
    """A scanned file: ``path`` is for messages, ``location`` holds in other processes, wherever they were started.

    ``extensions`` holds the last extension of each name, ``versions`` all of them, by name and EXTVER.
    """

    path: str
    primary: fits.Header
    extensions: dict[str, Extension]
    location: str
    stamp: tuple[int | str, ...] = ()
    options: StorageOptions = NO_OPTIONS
    versions: dict[tuple[str, int], Extension] = field(default_factory=dict)

    def image(self, name: str, dtype: str, version: int | None = None) -> PixelSource:
        """Return where the pixels of an image extension are.

        Parameters
        ----------
        name : str
            EXTNAME.
        dtype : str
            Dtype wanted: ``float32`` for signal, ``uint8`` or ``uint32`` for flags.
        version : int, optional
            EXTVER; by default the last extension of that name.

        Raises
        ------
        InputFileError
            If there is no such extension, or it is no image.
        """
        extension = self.require(name) if version is None else self.versions[name, version]
        _refuse_compressed(self.path, extension)
        header = extension.header
        if header.get("XTENSION", "IMAGE").strip() != "IMAGE" or header["NAXIS"] == 0:
            raise InputFileError(f"{self.path}: extension {name} is no image")
        if header["BITPIX"] not in _STORED:
            known = ", ".join(map(str, _STORED))
            raise InputFileError(
                f"{self.path}: extension {name} has BITPIX {header['BITPIX']}, expected one of {known}"
            )
        if header.get("BSCALE", 1) != 1:
            raise InputFileError(f"{self.path}: extension {name} has BSCALE {header['BSCALE']}, expected 1")
        zero = int(header.get("BZERO", 0))
        stored = _STORED[header["BITPIX"]]
        return PixelSource(
            self.location, extension.offset, extension.shape, stored, dtype, zero, self.stamp, self.options
        )

    def require(self, name: str) -> Extension:
        """Return an extension, or say what there is instead."""
        if name not in self.extensions:
            _refuse_compressed(self.path, self.extensions.get("COMPRESSED_IMAGE"))
            found = ", ".join(self.extensions) or "none"
            raise InputFileError(f"{self.path}: extension {name} is missing (found {found})")
        _refuse_compressed(self.path, self.extensions[name])
        return self.extensions[name]


def refuse_compressed(file: FitsFile) -> None:
    """Refuse a file with an image that is stored as a table of compressed tiles.

    Raises
    ------
    InputFileError
        That says how to decompress it.
    """
    for extension in file.extensions.values():
        _refuse_compressed(file.path, extension)


def _refuse_compressed(path: str, extension: Extension | None) -> None:
    """Refuse an image that is stored as a table of compressed tiles."""
    if extension is not None and extension.header.get("ZIMAGE"):
        how = str(extension.header.get("ZCMPTYPE", "tile")).strip()
        raise InputFileError(
            f"{path}: extension {extension.name} is a compressed image ({how}), which nsxr does not read; "
            "decompress the file first: funpack FILE, or from Python with astropy.io.fits"
        )


def scan(
    path: str | os.PathLike[str],
    tables: tuple[str, ...] = (),
    storage_options: Mapping[str, Any] | StorageOptions | None = None,
) -> FitsFile:
    """Read all headers, and the tables named, of a FITS file.

    Parameters
    ----------
    path : str or path
        Local file, gzipped or not, or URL.
    tables : tuple of str
        EXTNAMEs of tables to read.
    storage_options : mapping, optional
        How the store behind a URL is reached, see :class:`nsxr.io.stores.StorageOptions`.

    Raises
    ------
    InputFileError
        If the file does not exist, is no FITS file, or is shorter than its headers say.
    RemoteAccessError
        If the store behind a URL cannot be reached.
    """
    location, options = os.fspath(path), StorageOptions(storage_options)
    name = shown(location)
    try:
        with remote_errors(location):
            file = retried(lambda: _scan(name, location, tables, options), location)
    except NsxrError:
        raise
    except FileNotFoundError as error:
        raise InputFileError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InputFileError(f"{name}: this is a directory, expected a FITS file") from error
    except PermissionError as error:
        raise InputFileError(f"{name}: the file may not be read ({error.strerror})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputFileError(f"{name}: not a whole gzip file ({error})") from error
    except (OSError, KeyError, ValueError, TypeError, fits.VerifyError) as error:
        raise InputFileError(f"{name}: not a FITS file, or damaged ({error})") from error
    logger.debug("%s: extensions %s", name, ", ".join(file.extensions))
    return file


def _scan(name: str, location: str, tables: tuple[str, ...], options: StorageOptions) -> FitsFile:
    with open_binary(location, options) as file, warnings.catch_warnings():
        # a cut file is told from its size, with a better message
        warnings.simplefilter("ignore", AstropyUserWarning)
        stamp = file_stamp(location, options)
        _require_fits(name, file)
        # compressed images stay tables: their pixels are not where and how a header of an image says
        with fits.open(file, memmap=False, lazy_load_hdus=True, disable_image_compression=True) as hdus:
            hdus.readall()
            _require_whole(name, file, hdus)
            primary = hdus[0].header
            found = list(_extensions(hdus, tables))
    # a path that holds in other processes too, wherever they were started
    place = location if is_remote(location) else os.path.abspath(location)
    versions = {(key, int(extension.header.get("EXTVER", 1))): extension for key, extension in found}
    return FitsFile(name, primary, dict(found), place, stamp, options, versions)


def _require_fits(name: str, file: BinaryIO) -> None:
    start = file.read(30)
    if not start:
        raise InputFileError(f"{name}: the file is empty, expected a FITS file")
    if not start.startswith(b"SIMPLE  ="):
        raise InputFileError(f"{name}: not a FITS file, it starts with {start[:9]!r}, expected 'SIMPLE  ='")
    file.seek(0)


def _require_whole(name: str, file: BinaryIO, hdus: fits.HDUList) -> None:
    """Compare the size of the file with its headers; a gzip file is decompressed to its end for that, once."""
    last = hdus[-1]
    info = last.fileinfo()
    end = int(info["datLoc"] + info["datSpan"])
    file.seek(end - 1)
    rest = file.read(1 + _BLOCK)
    if not rest:
        size = file.seek(0, os.SEEK_END)
        raise InputFileError(
            f"{name}: the file is cut off in extension {last.name}, it has {size} bytes, its headers ask for {end}"
        )
    if rest[1:].startswith(b"XTENSION"):
        # astropy leaves out an extension whose header has no end
        raise InputFileError(f"{name}: the file is cut off within the header after extension {last.name}")


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


def keywords(header: fits.Header) -> dict[str, Any]:
    """Return the keywords of a header as plain str, int and float, T and F as 1 and 0: netCDF has no booleans.

    Commentary, keywords without a value, and those that describe the file (BITPIX, NAXIS, ...) are
    left out. Of a keyword that is there twice, the first counts. Numbers written as text become numbers where
    :data:`nsxr.model.keywords.KEYWORDS` asks for numbers.
    """
    found: dict[str, Any] = {}
    for card in header.cards:
        try:
            key, value = card.keyword, card.value
        except fits.VerifyError as error:
            logger.info("keyword left out: %s", error)
            continue
        if key in ("COMMENT", "HISTORY", "") or _STRUCTURE.fullmatch(key) or isinstance(value, fits.card.Undefined):
            continue
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool) and key not in KEYWORDS:  # of those, which have other values, the table tells
            value = int(value)
        found.setdefault(key, tidy(key, value) if isinstance(value, str | int | float) else str(value))
    return found
