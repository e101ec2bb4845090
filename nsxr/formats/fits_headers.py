"""Scan the headers of a FITS file without reading pixels."""

import gzip
import logging
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from nsxr.errors import InputFileError, NsxrError
from nsxr.formats.fits_blocks import BLOCK, Hdu, find_hdus
from nsxr.formats.pixels import PixelSource, file_length, file_stamp, open_binary
from nsxr.formats.zarr_metadata import first_line
from nsxr.model.keywords import KEYWORDS, tidy
from nsxr.storage.stores import NO_OPTIONS, StorageOptions, is_remote, remote_errors, retried, shown

__all__ = ["Extension", "FitsFile", "clean_header", "keywords", "refuse_compressed", "scan"]

logger = logging.getLogger(__name__)

_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

_STRUCTURE = re.compile("SIMPLE|BITPIX|NAXIS[0-9]*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|END")
"""Keywords that describe the file rather than the exposure."""

_KEYWORD = re.compile("[A-Z0-9_-]{0,8}")

_LARGEST_TABLE = 2**32  # bytes; tables are read whole


@dataclass(frozen=True)
class Extension:
    """Place of one HDU, and its header, which is parsed when it is asked for; tables also their rows, if asked for."""

    hdu: Hdu
    table: np.ndarray | None = None

    @property
    def name(self) -> str:
        """EXTNAME in capitals."""
        return self.hdu.name

    @property
    def offset(self) -> int:
        """Bytes before the data."""
        return self.hdu.offset

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, NumPy order."""
        return self.hdu.shape

    @cached_property
    def header(self) -> fits.Header:
        """Header without the cards that cannot be parsed."""
        return clean_header(self.hdu.text)


@dataclass(frozen=True)
class FitsFile:
    """A scanned file: ``path`` is for messages, ``location`` holds in other processes, wherever they were started.

    ``extensions`` holds the last extension of each name, ``versions`` all of them, by name and EXTVER. ``repeated``
    are the names and EXTVERs that come more than once; ``hdus`` are the places of all, the primary one first.
    """

    path: str
    primary: fits.Header
    extensions: dict[str, Extension]
    location: str
    stamp: tuple[int | str, ...] = ()
    options: StorageOptions = NO_OPTIONS
    versions: dict[tuple[str, int], Extension] = field(default_factory=dict)
    repeated: frozenset[tuple[str, int]] = frozenset()
    hdus: tuple[Hdu, ...] = ()

    def image(self, name: str, dtype: str, version: int | None = None) -> PixelSource:
        """Return where the pixels of an image extension are.

        Parameters
        ----------
        name : str
            EXTNAME.
        dtype : str
            Dtype wanted: ``float32`` for signal, ``uint8`` or ``uint32`` for flags.
        version : int, optional
            EXTVER; by default there must be one extension of that name.

        Raises
        ------
        InputFileError
            If there is no such extension, there are several, or it is no image.
        """
        extension = self.require(name) if version is None else self.versions[name, version]
        _refuse_compressed(self.path, extension)
        if version is not None and (name, version) in self.repeated:
            raise InputFileError(f"{self.path}: extension {name} {version} comes more than once")
        header = extension.header
        if header.get("ZIMAGE") is True:
            raise InputFileError(f"{self.path}: extension {name} is a compressed image; decompress it, as by funpack")
        if extension.hdu.kind != "IMAGE" or not extension.shape:
            raise InputFileError(f"{self.path}: extension {name} is no image")
        if header.get("BSCALE", 1) != 1:
            raise InputFileError(f"{self.path}: extension {name} has BSCALE {header['BSCALE']}, expected 1")
        zero = header.get("BZERO", 0)
        if not isinstance(zero, int | float) or not abs(zero) <= 2**63 or zero != int(zero):
            raise InputFileError(f"{self.path}: extension {name} has BZERO {zero}, expected a whole number")
        stored = _STORED[header["BITPIX"]]
        return PixelSource(
            self.location, extension.offset, extension.shape, stored, dtype, int(zero), self.stamp, self.options
        )

    def require_single(self, *names: str) -> None:
        """Raise InputFileError if an extension that there can be one of, any unless named, is there twice."""
        for name in names or self.extensions:
            count = sum(key == name for key, _ in self.versions) + sum(key == name for key, _ in self.repeated)
            if count > 1 and name:
                raise InputFileError(f"{self.path}: extension {name} comes {count} times, expected once")

    def require(self, name: str) -> Extension:
        """Return an extension, or say what there is instead."""
        if name not in self.extensions:
            _refuse_compressed(self.path, self.extensions.get("COMPRESSED_IMAGE"))
            found = ", ".join(self.extensions) or "none"
            raise InputFileError(f"{self.path}: extension {name} is missing (found {found})")
        _refuse_compressed(self.path, self.extensions[name])
        self.require_single(name)
        return self.extensions[name]

    def tables(self, *names: str) -> list[fits.BinTableHDU]:
        """Read the tables of these names into memory, in the order of the file."""
        chosen = [extension.hdu for extension in self.versions.values() if extension.name in names]
        with remote_errors(self.location), open_binary(self.location, self.options) as file:
            return [_table(file, self.path, hdu) for hdu in sorted(chosen, key=lambda hdu: hdu.offset)]


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
        How the store behind a URL is reached, see :class:`nsxr.storage.stores.StorageOptions`.

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
        raise InputFileError(f"{name}: not a FITS file, or damaged ({first_line(error)})") from error
    logger.debug("%s: extensions %s", name, ", ".join(file.extensions))
    return file


def _scan(name: str, location: str, tables: tuple[str, ...], options: StorageOptions) -> FitsFile:
    with open_binary(location, options) as file:
        stamp = file_stamp(location, options)
        primary, *hdus = find_hdus(file, name, file_length(file, location))
        found = [
            Extension(hdu, _rows(_table(file, name, hdu)) if hdu.name in tables and hdu.kind == "BINTABLE" else None)
            for hdu in hdus
        ]
    # a path that holds in other processes too, wherever they were started
    place = location if is_remote(location) else os.path.abspath(location)
    versions, repeated = {}, set()
    for extension in found:
        key = (extension.name, extension.hdu.version)
        if key in versions:
            repeated.add(key)
        versions[key] = extension
    by_name = {extension.name: extension for extension in found}
    header = clean_header(primary.text)
    return FitsFile(name, header, by_name, place, stamp, options, versions, frozenset(repeated), (primary, *hdus))


def clean_header(text: str) -> fits.Header:
    """Return a header whose cards are parsed; those that cannot be are left out, so that none fails later.

    Parameters
    ----------
    text : str
        Cards of 80 characters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cards that are not quite by the standard, which are read all the same
        header = fits.Header.fromstring(text)
        good = [card for card in header.cards if _is_readable(card)]
        return header if len(good) == len(header) else fits.Header(good)


def _is_readable(card: fits.Card) -> bool:
    try:
        key, value, comment, image = card.keyword, card.value, card.comment, card.image
    except Exception as error:  # of astropy's parser, whatever a damaged card makes of it
        logger.info("keyword left out: %s", first_line(error))
        return False
    is_named = bool(_KEYWORD.fullmatch(key)) or image.startswith("HIERARCH ")
    return is_named and isinstance(comment, str) and not isinstance(value, complex)


def _table(file: BinaryIO, path: str, hdu: Hdu) -> fits.BinTableHDU:
    """Read a table whole."""
    if hdu.size > _LARGEST_TABLE:
        raise InputFileError(f"{path}: table {hdu.name} has {hdu.size} bytes, more than {_LARGEST_TABLE}")
    file.seek(hdu.offset)
    content = bytearray()
    while len(content) < hdu.size and (more := file.read(hdu.size - len(content))):
        content += more
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = clean_header(hdu.text)
            padding = bytes(-hdu.size % BLOCK)
            found = fits.BinTableHDU.fromstring(header.tostring().encode("ascii") + bytes(content) + padding)
            if found.columns.dtype.itemsize != hdu.shape[1]:
                raise ValueError(f"columns of {found.columns.dtype.itemsize} bytes in rows of {hdu.shape[1]}")
            for name in found.columns.names:
                found.data[name]  # decodes it, so that it does not fail later
    except Exception as error:  # of astropy and NumPy, whatever a damaged header makes of them
        raise InputFileError(f"{path}: table {hdu.name} cannot be read ({first_line(error)})") from error
    return found


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
