"""Open regular files, create new files, and flush files to the disk."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from nsxr.errors import InputFileError

__all__ = ["make_exclusively", "open_regular", "sync"]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, without a buffer. Links are followed.

    Raises
    ------
    InputFileError
        If it is a pipe, a device or a socket, which may never end, and cannot be read twice. If no file can have this
        name.
    OSError
        If it cannot be opened.
    """
    # without O_NONBLOCK, opening a pipe that has no writer would wait forever
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise InputFileError(f"{os.fspath(path)!r}: {error}, expected the name of a file") from error
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind in _KINDS:
            raise InputFileError(f"{os.fspath(path)}: this is {_KINDS[kind]}, expected a file")
        return cast(BinaryIO, open(descriptor, "rb", buffering=0))
    except BaseException:
        os.close(descriptor)
        raise


def make_exclusively(path: str | os.PathLike[str]) -> BinaryIO:
    """Create a file and open it for writing. An existing file or link of this name is an error.

    Raises
    ------
    OSError
        If the name exists, or the file cannot be created.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    return cast(BinaryIO, open(descriptor, "wb"))


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk. A full disk raises an error here at the latest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
