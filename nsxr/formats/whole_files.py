"""Read reference files as a whole: their bytes, or the JSON in them."""

import json
import os
from typing import Any

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.storage.local import open_regular

__all__ = ["read_json", "read_start", "read_whole"]

_LONGEST = 2**28
"""Largest JSON file [byte]; references of flight have some MB."""


def read_start(path: str | os.PathLike[str], count: int) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(count)
    except (OSError, InputFileError) as error:
        raise ReferenceFileError(f"{os.fspath(path)}: cannot be read ({error})") from error


def read_whole(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, or has more bytes than ``most``.
    """
    content = read_start(path, most + 1)
    if len(content) > most:
        raise ReferenceFileError(f"{os.fspath(path)}: has more than {most} bytes")
    return content


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, has more than 256 MB, or is no JSON.
    """
    content = read_whole(path, _LONGEST)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReferenceFileError(f"{os.fspath(path)}: no JSON file that can be read ({error})") from error
