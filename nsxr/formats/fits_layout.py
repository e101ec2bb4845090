"""Create a FITS file of its full size before its pixels are known, and write them block by block.

:func:`lay_out` writes all headers and finished tables, and reserves the space of every image. For each image it returns
a target. Blocks are assigned to the target in any order, from any thread or process that sees the file.
"""

import errno
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import ModelError
from nsxr.formats.fits_blocks import BLOCK
from nsxr.formats.keywords import carried_header

__all__ = ["BlockFile", "CardFile", "Part", "Place", "Target", "image_header", "lay_out", "plain_header"]

_SIGNS = {"uint16": np.uint16(0x8000), "uint32": np.uint32(0x80000000)}
_BITPIX = {"float32": -32, "float64": -64, "uint8": 8, "uint32": 32, "int32": 32, "int16": 16}


Index = slice | tuple[slice, ...] | EllipsisType


class Target(Protocol):
    """Object to which the blocks of a computed array are assigned."""

    def __setitem__(self, index: Index, block: object) -> None: ...


@dataclass(frozen=True)
class Place:
    """Place of an HDU in a file. ``start`` is the first byte of its header, and ``header`` is the header's text."""

    path: str
    start: int
    header: str

    @property
    def offset(self) -> int:
        """First byte of the data."""
        return self.start + len(self.header)

    def cards(self) -> dict[str, int]:
        """Return where the card of each keyword begins in the header. The first card of a repeated keyword counts."""
        return {self.header[i : i + 8].rstrip(): i for i in reversed(range(0, len(self.header), 80))}


def _image_target(place: Place, array: xr.DataArray) -> Target:
    return BlockFile(place.path, place.offset, array.shape, array.dtype.name)


@dataclass(frozen=True)
class Part:
    """One HDU to write.

    Attributes
    ----------
    header : Header or str
        Header of the HDU, or its text. Only the values of the keywords in ``late`` are missing.
    data : bytes or DataArray
        Finished bytes, or an array that is stored later.
    target : callable
        ``target(place, data)`` returns the target of the array. Default: an image.
    late : mapping of str to DataArray
        Values of keywords of the header that are also stored later, by keyword.
    """

    header: fits.Header | str
    data: xr.DataArray | bytes = b""
    target: Callable[[Place, xr.DataArray], Target] = _image_target
    late: Mapping[str, xr.DataArray] = field(default_factory=dict)


def lay_out(path: Path, parts: Iterable[Part]) -> list[tuple[xr.DataArray, Target]]:
    """Create a FITS file of its final size.

    Parameters
    ----------
    path : Path
        File to create. It must not exist.
    parts : iterable of Part
        The HDUs in order. The first one is the primary HDU.

    Returns
    -------
    list of (DataArray, Target)
        Each array and its target.

    Raises
    ------
    OSError
        If the file cannot be created, or the disk is full.
    """
    targets: list[tuple[xr.DataArray, Target]] = []
    with open(path, "xb") as file:
        for part in parts:
            header = part.header if isinstance(part.header, str) else part.header.tostring()
            place = Place(str(path), file.tell(), header)
            file.write(header.encode("ascii"))
            if isinstance(part.data, bytes):
                file.write(part.data)
                length = len(part.data)
            else:
                targets.append((part.data, part.target(place, part.data)))
                length = part.data.nbytes
            for keyword, array in part.late.items():
                card = place.cards()[keyword]
                comment = fits.Card.fromstring(header[card : card + 80]).comment
                targets.append((array, CardFile(place.path, place.start + card, keyword, comment)))
            file.seek(place.offset + length + -length % BLOCK)
        end = file.tell()
        file.flush()
        _allocate(file.fileno(), 0, end)
    return targets


def plain_header(name: str, array: xr.DataArray, version: int) -> str:
    """Return the text of the header of an image extension that has no keywords of its own.

    Products of many slits have more than a thousand of them, so the text is made without astropy.

    Parameters
    ----------
    name : str
        EXTNAME.
    array : DataArray
        Array of which only the shape, dtype and, for ERR, the units are used.
    version : int
        EXTVER.
    """
    kind = _kind(name, array)
    axes = {f"NAXIS{axis + 1}": (length, "") for axis, length in enumerate(reversed(array.shape))}
    cards: dict[str, tuple[int | str, str]] = {
        "XTENSION": ("IMAGE", "Image extension"),
        "BITPIX": (_BITPIX[kind], "array data type"),
        "NAXIS": (array.ndim, "number of array dimensions"),
        **axes,
        "PCOUNT": (0, "number of parameters"),
        "GCOUNT": (1, "number of groups"),
        **({"BSCALE": (1, ""), "BZERO": (2147483648, "")} if kind == "uint32" else {}),
        "EXTNAME": (name, "extension name"),
        "EXTVER": (version, "extension value"),
    }
    if name == "ERR" and "units" in array.attrs:
        cards["BUNIT"] = (str(array.attrs["units"]), "physical units of the array values")
    text = "".join(_card(key, value, comment) for key, (value, comment) in cards.items()) + "END".ljust(80)
    return text + " " * (-len(text) % BLOCK)


def _card(key: str, value: int | str, comment: str) -> str:
    shown = f"{value:>20}" if isinstance(value, int) else f"'{value:<8}'".ljust(20)
    return f"{key:<8}= {shown}{f' / {comment}' if comment else ''}".ljust(80)


def _kind(name: str, array: xr.DataArray) -> str:
    kind = array.dtype.name
    if kind not in _BITPIX:
        raise ModelError(f"{name} has dtype {array.dtype}; FITS products hold {', '.join(_BITPIX)}")
    return kind


def image_header(name: str, array: xr.DataArray, own: fits.Header | None = None) -> fits.Header:
    """Return the header of an image extension.

    Parameters
    ----------
    name : str
        EXTNAME.
    array : DataArray
        Array of which only the shape, dtype and attributes are used.
    own : Header, optional
        Header of SCI. Default: ``attrs["fits_header"]`` of the array.
    """
    kind = _kind(name, array)
    header = fits.Header(
        [
            ("XTENSION", "IMAGE", "Image extension"),
            ("BITPIX", _BITPIX[kind], "array data type"),
            ("NAXIS", array.ndim, "number of array dimensions"),
            *((f"NAXIS{axis + 1}", length) for axis, length in enumerate(reversed(array.shape))),
            ("PCOUNT", 0, "number of parameters"),
            ("GCOUNT", 1, "number of groups"),
            *([("BSCALE", 1), ("BZERO", 2147483648)] if kind == "uint32" else []),
        ]
    )
    header["EXTNAME"] = (name, "extension name")
    if name == "SCI":
        cards = carried_header(array.attrs).cards if own is None else own.cards
        header.extend(cards, update=False, unique=False, end=True)
    if name in ("SCI", "ERR") and "units" in array.attrs:
        header["BUNIT"] = (array.attrs["units"], "physical units of the array values")
    return header


@dataclass(frozen=True)
class BlockFile:
    """One FITS image inside an existing file. Assignment writes a block in place.

    Every assignment opens the file again and writes each contiguous run of bytes at its offset. The object can
    therefore be pickled, and threads and processes may write different blocks at once. The file is never created here:
    a late block cannot create the file again after a failure has removed it.

    Attributes
    ----------
    path : str
        Path of the file.
    offset : int
        Bytes before the first pixel.
    shape : tuple of int
        Shape of the whole image, in NumPy order.
    dtype : str
        NumPy name of the dtype in memory. Unsigned pixels of 16 and 32 bits are stored with BZERO.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def _encode(self, run: np.ndarray) -> bytes:
        if self.dtype in _SIGNS:  # BZERO is 2**15 or 2**31: flipping the sign bit subtracts it
            run = run ^ _SIGNS[self.dtype]
        return run.astype(run.dtype.newbyteorder(">"), copy=False).tobytes()

    def __setitem__(self, index: Index, block: object) -> None:
        values = np.asarray(block)
        if values.dtype != np.dtype(self.dtype):
            raise ModelError(f"a block of dtype {values.dtype} reached an image of {self.dtype} in {self.path}")
        index = (index if isinstance(index, tuple) else (index,)) if index is not Ellipsis else ()
        index = index + (slice(None),) * (len(self.shape) - len(index))
        bounds = [part.indices(length) for part, length in zip(index, self.shape, strict=True)]
        if tuple(stop - start for start, stop, _ in bounds) != values.shape or any(s[2] != 1 for s in bounds):
            raise ModelError(f"a block of shape {values.shape} does not fit {index} of {self.shape} in {self.path}")
        # axes from `outer` to the last one are not cut, so their bytes are contiguous
        outer = len(self.shape)
        while outer > 0 and (outer == len(self.shape) or values.shape[outer] == self.shape[outer]):
            outer -= 1
        strides = np.cumprod((1, *self.shape[:0:-1]))[::-1] * values.dtype.itemsize
        first = self.offset + sum(
            int(start) * int(stride) for (start, _, _), stride in zip(bounds, strides, strict=True)
        )
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            for lead in np.ndindex(values.shape[:outer]):
                at = first + sum(i * int(stride) for i, stride in zip(lead, strides[:outer], strict=True))
                rest = memoryview(self._encode(values[lead]))
                while rest:
                    written = os.pwrite(descriptor, rest, at)
                    rest, at = rest[written:], at + written
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class CardFile:
    """One keyword in the primary header of an existing file. Assignment writes its value.

    This is for numbers that are known only after the pixels are computed, such as the rate of cosmic rays. NaN becomes
    a keyword without value, because FITS cannot hold it.
    """

    path: str
    offset: int
    keyword: str
    comment: str

    def __setitem__(self, index: object, value: Any) -> None:
        number = float(value)
        card = fits.Card(self.keyword, number if math.isfinite(number) else None, self.comment[:45])
        with open(self.path, "r+b") as file:
            file.seek(self.offset)
            file.write(card.image.encode("ascii"))


def _allocate(descriptor: int, offset: int, length: int) -> None:
    """Reserve space, so that a full disk raises an error before anything is computed."""
    try:
        os.posix_fallocate(descriptor, offset, length)
    except (AttributeError, OSError) as error:  # the system or the file system may not support this
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, offset + length)
