"""Read the headers and small tables of a FITS file, but no pixels."""

import gzip
import logging
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from nsxr.errors import InputFileError, NsxrError
from nsxr.formats.fits_blocks import BLOCK, Hdu, find_hdus
from nsxr.formats.pixels import PixelSource, file_length, file_stamp, open_binary
from nsxr.formats.zarr_metadata import first_line
from nsxr.model.keywords import KEYWORDS, tidy
from nsxr.model.types import Entries
from nsxr.storage.options import NO_OPTIONS, StorageOptions
from nsxr.storage.remote_errors import remote_errors, retried
from nsxr.storage.urls import is_remote, shown

__all__ = ["Extension", "FitsFile", "clean_header", "keywords", "refuse_compressed", "scan"]

logger = logging.getLogger(__name__)

_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

_STRUCTURE = re.compile("SIMPLE|BITPIX|NAXIS[0-9]*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|END")
"""Keywords that describe the file, not the exposure."""

_KEYWORD = re.compile("[A-Z0-9_-]{0,8}")

_LARGEST_TABLE = 2**32  # largest table that is read, bytes


@dataclass(frozen=True)
class Extension:
    """One HDU: its place in the file, its header, and the rows of a table, if they were read.

    The header is parsed when it is needed.
    """

    hdu: Hdu
    table: np.ndarray | None = None

    @property
    def name(self) -> str:
        """EXTNAME in capitals."""
        return self.hdu.name

    @property
    def offset(self) -> int:
        """Number of bytes before the data."""
        return self.hdu.offset

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, in NumPy order."""
        return self.hdu.shape

    @cached_property
    def header(self) -> fits.Header:
        """The header without cards that cannot be parsed."""
        return clean_header(self.hdu.text)


@dataclass(frozen=True)
class FitsFile:
    """The headers of a file. ``path`` is for messages. ``location`` is also valid in other processes.

    ``extensions`` has the last extension of each name. ``versions`` has all extensions, by name and EXTVER.
    ``repeated`` has pairs of name and EXTVER that occur more than once. ``hdus`` has the places of all HDUs, with the
    primary HDU first.
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
            Dtype of the result: ``float32`` for signal, ``uint8`` or ``uint32`` for flags.
        version : int, optional
            EXTVER. By default there must be one extension of that name.

        Raises
        ------
        InputFileError
            If there is no such extension, there are several, or it is not an image.
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
        """Raise InputFileError if an extension with one of these names occurs twice. Default: any name."""
        for name in names or self.extensions:
            count = sum(key == name for key, _ in self.versions) + sum(key == name for key, _ in self.repeated)
            if count > 1 and name:
                raise InputFileError(f"{self.path}: extension {name} comes {count} times, expected once")

    def require(self, name: str) -> Extension:
        """Return an extension. If it is missing, the error names the extensions that the file has."""
        if name not in self.extensions:
            _refuse_compressed(self.path, self.extensions.get("COMPRESSED_IMAGE"))
            found = ", ".join(self.extensions) or "none"
            raise InputFileError(f"{self.path}: extension {name} is missing (found {found})")
        _refuse_compressed(self.path, self.extensions[name])
        self.require_single(name)
        return self.extensions[name]

    def tables(self, *names: str) -> list[fits.BinTableHDU]:
        """Read the tables with these names into memory, in the order of the file."""
        chosen = [extension.hdu for extension in self.versions.values() if extension.name in names]
        with remote_errors(self.location), open_binary(self.location, self.options) as file:
            return [_table(file, self.path, hdu) for hdu in sorted(chosen, key=lambda hdu: hdu.offset)]


def refuse_compressed(file: FitsFile) -> None:
    """Raise an error if an image of the file is stored as a table of compressed tiles.

    Raises
    ------
    InputFileError
        If an image is compressed. The message says how to decompress the file.
    """
    for extension in file.extensions.values():
        _refuse_compressed(file.path, extension)


def _refuse_compressed(path: str, extension: Extension | None) -> None:
    """Raise an error if an image is stored as a table of compressed tiles."""
    if extension is not None and extension.header.get("ZIMAGE"):
        how = str(extension.header.get("ZCMPTYPE", "tile")).strip()
        raise InputFileError(
            f"{path}: extension {extension.name} is a compressed image ({how}), which nsxr does not read; "
            "decompress the file first: funpack FILE, or from Python with astropy.io.fits"
        )


def scan(
    path: str | os.PathLike[str],
    tables: tuple[str, ...] = (),
    storage_options: Mapping[str, object] | StorageOptions | None = None,
) -> FitsFile:
    """Read all headers of a FITS file, and the tables of the given names.

    Parameters
    ----------
    path : str or path
        Local file, gzipped or not, or URL.
    tables : tuple of str
        EXTNAMEs of tables to read.
    storage_options : mapping, optional
        Options for access to a URL, see :class:`nsxr.storage.options.StorageOptions`.

    Raises
    ------
    InputFileError
        If the file does not exist, is not a FITS file, or is shorter than its headers say.
    RemoteAccessError
        If a URL cannot be reached.
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
    # an absolute path is valid in processes with another working directory
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
    """Return a header of parsed cards. Cards that cannot be parsed are left out, so that they do not fail later.

    Parameters
    ----------
    text : str
        Cards of 80 characters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about readable cards that do not follow the standard
        header = fits.Header.fromstring(text)
        good = [card for card in header.cards if _is_readable(card)]
        return header if len(good) == len(header) else fits.Header(good)


def _is_readable(card: fits.Card) -> bool:
    try:
        key, value, comment, image = card.keyword, card.value, card.comment, card.image
    except Exception as error:  # a damaged card may raise any error of astropy's parser
        logger.info("keyword left out: %s", first_line(error))
        return False
    is_named = bool(_KEYWORD.fullmatch(key)) or image.startswith("HIERARCH ")
    return is_named and isinstance(comment, str) and not isinstance(value, complex)


def _table(file: BinaryIO, path: str, hdu: Hdu) -> fits.BinTableHDU:
    """Read a whole table."""
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
                found.data[name]  # decodes the column, so that errors are raised here
    except Exception as error:  # a damaged header may raise any error of astropy or NumPy
        raise InputFileError(f"{path}: table {hdu.name} cannot be read ({first_line(error)})") from error
    return found


def _rows(hdu: fits.BinTableHDU) -> np.ndarray:
    """Return a table as a structured array in native byte order. Offsets of unsigned columns are applied."""
    columns = {name: np.asarray(hdu.data[name]) for name in hdu.columns.names}
    columns = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in columns.items()}
    rows = np.empty(len(hdu.data), dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def keywords(header: fits.Header) -> Entries:
    """Return the keywords of a header as str, int and float. T and F become 1 and 0, because netCDF has no booleans.

    Comments, keywords without a value, and keywords that describe the file (BITPIX, NAXIS, ...) are left out. If a
    keyword occurs twice, its first value is used. Numbers written as text become numbers if
    :data:`nsxr.model.keywords.KEYWORDS` declares them as numbers.
    """
    found: Entries = {}
    for card in header.cards:
        try:
            key, value = card.keyword, card.value
        except fits.VerifyError as error:
            logger.info("keyword left out: %s", error)
            continue
        if key in ("COMMENT", "HISTORY", "") or _STRUCTURE.fullmatch(key) or isinstance(value, fits.card.Undefined):
            continue
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool) and key not in KEYWORDS:  # KEYWORDS lists those that should not be boolean
            value = int(value)
        found.setdefault(key, tidy(key, value) if isinstance(value, str | int | float) else str(value))
    return found
