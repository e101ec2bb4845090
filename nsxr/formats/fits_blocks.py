"""Find where each HDU of a FITS file begins and ends, from the keywords of its header.

Headers may be wrong. Their sizes are compared with the file before anything is read or allocated, and every byte of the
file has to belong to an HDU. If a block of 2880 bytes is missing or repeated, all later bytes are shifted, and the next
header is not at the expected place.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from nsxr.errors import InputFileError

__all__ = ["BLOCK", "Hdu", "find_hdus"]

BLOCK = 2880
"""Headers and data are padded to multiples of this many bytes."""

_LONGEST_HEADER = 2**24  # bytes; headers of the observatory have 50 000
_MOST_HDUS = 10**5
_CARD = 80
_STRUCTURE = re.compile("SIMPLE|XTENSION|BITPIX|NAXIS[0-9]{0,3}|PCOUNT|GCOUNT|GROUPS|TFIELDS|EXTNAME|EXTVER")
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_BITPIX = (8, 16, 32, 64, -32, -64)


@dataclass(frozen=True)
class Hdu:
    """One HDU of a file.

    ``kind`` is XTENSION, or PRIMARY. ``name`` is EXTNAME in capitals. ``version`` is EXTVER. ``text`` is the header in
    cards of 80 characters, with ``?`` for unprintable characters. ``offset`` and ``size`` are those of the data
    [bytes], without padding. ``shape`` is the shape of an image, in NumPy order.
    """

    kind: str
    name: str
    version: int
    text: str
    offset: int
    size: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first byte after the padding of the data."""
        return self.offset + self.size + -self.size % BLOCK


def find_hdus(file: BinaryIO, path: str, length: int | None = None) -> list[Hdu]:
    """Find all HDUs of a file.

    Parameters
    ----------
    file : binary file
        Seekable file. A compressed file is read once from start to end.
    path : str
        Path of the file, for messages.
    length : int, optional
        Length of the file [bytes], if it is known without reading it.

    Raises
    ------
    InputFileError
        If headers have no end or are invalid, or describe more or fewer bytes than the file has.
    """
    found: list[Hdu] = []
    position = 0
    while True:
        text = _header(file, path, position, found)
        if text is None:
            return found
        found.append(hdu := _parsed(text, path, position, is_first=not found))
        if length is not None:
            is_whole = hdu.end <= length
        else:
            file.seek(hdu.end - 1)
            is_whole = hdu.size == 0 or bool(file.read(1))
        if not is_whole:
            size = length if length is not None else file.seek(0, os.SEEK_END)
            found_here = f"it has {size} bytes, its headers ask for {hdu.end}"
            raise InputFileError(f"{path}: the file is cut off in extension {hdu.name}, {found_here}")
        if len(found) > _MOST_HDUS:
            raise InputFileError(f"{path}: more than {_MOST_HDUS} extensions")
        position = hdu.end


def _header(file: BinaryIO, path: str, position: int, before: list[Hdu]) -> str | None:
    """Return the header at a position. None if the file ends there."""
    after = f" after extension {before[-1].name}" if before else ""
    file.seek(position)
    first = _read(file, BLOCK)
    if not first:
        if before:
            return None
        raise InputFileError(f"{path}: the file is empty, expected a FITS file")
    start = b"XTENSION=" if before else b"SIMPLE  ="
    if not first.startswith(start[: len(first)]):
        if not before:
            raise InputFileError(f"{path}: not a FITS file, it starts with {first[:9]!r}, expected 'SIMPLE  ='")
        raise InputFileError(
            f"{path}: bytes{after} are no HDU, they start with {first[:9]!r} at byte {position}, expected 'XTENSION='; "
            "blocks are missing or repeated, download the file again"
        )
    blocks = [first]
    while (end := _end(blocks[-1])) is None:
        if len(blocks[-1]) < BLOCK or len(blocks) * BLOCK > _LONGEST_HEADER:
            if before and len(blocks[-1]) < BLOCK:
                raise InputFileError(f"{path}: the file is cut off within the header{after}")
            raise InputFileError(f"{path}: not a FITS file, or damaged (the header{after} has no end)")
        blocks.append(_read(file, BLOCK))
        if not blocks[-1].strip(b"\0") and blocks[-1]:
            raise InputFileError(f"{path}: not a FITS file, or damaged (the header{after} has a block of zeros)")
    if len(blocks[-1]) < BLOCK:
        raise InputFileError(f"{path}: the file is cut off within the header{after}")
    content = b"".join(blocks[:-1]) + blocks[-1][:end]
    return content.translate(_PRINTABLE).decode("ascii")


_PRINTABLE = bytes(n if 32 <= n < 127 else ord("?") for n in range(256))


def _read(file: BinaryIO, count: int) -> bytes:
    """Read ``count`` bytes, or fewer at the end of the file. A single call of ``file.read`` may return too few."""
    content = b""
    while len(content) < count and (more := file.read(count - len(content))):
        content += more
    return content


def _end(block: bytes) -> int | None:
    """Return where the card END begins in a block. None if the block has no such card."""
    for start in range(0, len(block) - _CARD + 1, _CARD):
        if block[start : start + 8].rstrip() == b"END" and not block[start + 8 : start + _CARD].strip(b" \0"):
            return start
    return None


def _parsed(text: str, path: str, position: int, is_first: bool) -> Hdu:
    """Return the HDU that a header describes."""
    values: dict[str, str] = {}
    for start in range(0, len(text), _CARD):
        key = text[start : start + 8].rstrip()
        if start and key in ("SIMPLE", "XTENSION"):
            raise InputFileError(
                f"{path}: headers run into each other, {key} is inside of one; blocks are missing or damaged"
            )
        if text[start + 8 : start + 10] == "= " and _STRUCTURE.fullmatch(key):
            value = _value(text[start + 10 : start + _CARD])
            if values.setdefault(key, value) != value and not key.startswith("EXT"):
                raise InputFileError(f"{path}: a header says {key} {values[key]} and {value}")
    name = "PRIMARY" if is_first else _unquoted(values.get("EXTNAME", "")).upper()
    where = f"{path}: header of extension {name or 'without a name'}"

    def number(key: str, least: int, most: int, default: int | None = None) -> int:
        word = values.get(key, "missing" if default is None else str(default))
        if not _INTEGER.fullmatch(word) or not least <= int(word) <= most:
            raise InputFileError(f"{where}: {key} is {word[:40]}, expected a whole number from {least} to {most}")
        return int(word)

    kind = "PRIMARY" if is_first else _unquoted(values.get("XTENSION", "")).upper()
    bitpix = number("BITPIX", -64, 64)
    if bitpix not in _BITPIX:
        raise InputFileError(f"{where}: BITPIX is {bitpix}, expected one of {', '.join(map(str, _BITPIX))}")
    n_axes = number("NAXIS", 0, 999)
    lengths = [number(f"NAXIS{axis}", 0, 2**62) for axis in range(n_axes, 0, -1)]
    extra, groups = number("PCOUNT", 0, 2**62, 0), number("GCOUNT", 1, 2**62, 1)
    if kind in ("BINTABLE", "TABLE"):
        number("TFIELDS", 0, 999)
        if (bitpix, n_axes) != (8, 2):
            raise InputFileError(f"{where}: a table of BITPIX {bitpix} with {n_axes} axes, expected 8 and 2")
    elif kind in ("IMAGE", "PRIMARY") and (extra or groups != 1) and values.get("GROUPS", "F") != "T":
        raise InputFileError(f"{where}: an image with PCOUNT {extra} and GCOUNT {groups}, expected 0 and 1")
    is_grouped = values.get("GROUPS", "F") == "T" and n_axes and not lengths[-1]
    pixels = math.prod(lengths[:-1] if is_grouped else lengths) if n_axes else 0
    size = abs(bitpix) // 8 * groups * (extra + pixels) if n_axes else 0
    offset = position + len(text) + _CARD
    offset += -offset % BLOCK
    return Hdu(kind, name, number("EXTVER", -(2**31), 2**31, 1), text, offset, size, tuple(lengths))


def _value(text: str) -> str:
    """Return the value of a card: a text with its quotes, or the word before the comment."""
    text = text.strip()
    if text.startswith("'"):
        quoted = re.match("'(?:[^']|'')*'", text)
        return quoted[0] if quoted else text + "'"
    return text.partition("/")[0].strip()


def _unquoted(text: str) -> str:
    return text[1:-1].replace("''", "'").rstrip() if text.startswith("'") else text
