"""Compare the HDUs of a FITS file with the checksums in their headers."""

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from nsxr.formats.fits_blocks import BLOCK, Hdu
from nsxr.formats.fits_headers import scan
from nsxr.formats.pixels import open_binary
from nsxr.storage.options import StorageOptions
from nsxr.storage.remote_errors import remote_errors

__all__ = ["sum_of", "wrong_checksums"]

_AT_ONCE = 2**23 // BLOCK * BLOCK  # bytes


def sum_of(content: bytes, before: int = 0) -> int:
    """Return the checksum of FITS: the sum of big-endian 32-bit words with end-around carry.

    ``before`` is the sum of the bytes before.
    """
    words = np.frombuffer(content + bytes(-len(content) % 4), dtype=">u4")
    total = before + int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def wrong_checksums(path: str, options: StorageOptions) -> Iterator[str]:
    """Read all of a FITS file, and yield a line for each HDU that does not agree with its DATASUM or CHECKSUM.

    Parameters
    ----------
    path : path or URL
        The file, gzipped or not.
    options : StorageOptions
        Options for access to a URL.

    Raises
    ------
    InputFileError
        If the file is not a FITS file, or its blocks do not agree with its headers.
    """
    found = scan(path, storage_options=options)
    with remote_errors(path), open_binary(path, options) as file:
        for number, hdu in enumerate(found.hdus):
            expected = {key: match[1].strip() for key in ("DATASUM", "CHECKSUM") if (match := _said(hdu.text, key))}
            if not expected:
                continue
            name = f"{hdu.name or 'extension'} {hdu.version}" if number else "PRIMARY"
            header, data = _sums(file, found.hdus[number - 1].end if number else 0, hdu)
            if expected.get("DATASUM", "").isdigit() and int(expected["DATASUM"]) != data:
                yield f"{name}: data changed, their sum is {data}, DATASUM says {expected['DATASUM']}"
            elif "CHECKSUM" in expected and sum_of(b"", header + data) not in (0, 0xFFFFFFFF):
                yield f"{name}: header or data changed, CHECKSUM does not fit them"


def _said(text: str, key: str) -> re.Match[str] | None:
    cards = (text[start : start + 80] for start in range(0, len(text), 80))
    return next((m for card in cards if (m := re.match(f"{key:<8}= '([^']*)'", card))), None)


def _sums(file: BinaryIO, start: int, hdu: Hdu) -> tuple[int, int]:
    """Return the sums of the header and of the data of an HDU."""
    file.seek(start)
    sums = []
    for length in (hdu.offset - start, hdu.end - hdu.offset):
        total = 0
        while length:
            content = b""
            while len(content) < min(_AT_ONCE, length) and (more := file.read(min(_AT_ONCE, length) - len(content))):
                content += more
            total = sum_of(content, total)
            length -= min(_AT_ONCE, length)
        sums.append(total)
    return sums[0], sums[1]
