"""Files of this machine: opened only if they are files, made only if they are new, brought to the disk."""

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
    """Open a file for reading, without a buffer; links are followed.

    Raises
    ------
    InputFileError
        If it is a pipe, a device or a socket, which may never end and cannot be read twice.
    OSError
        If it cannot be opened.
    """
    # a pipe without a writer would not even let itself be opened
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind in _KINDS:
            raise InputFileError(f"{os.fspath(path)}: this is {_KINDS[kind]}, expected a file")
        return cast(BinaryIO, open(descriptor, "rb", buffering=0))
    except BaseException:
        os.close(descriptor)
        raise


def make_exclusively(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a new file for writing; what is there already, be it a link to nothing, is an error.

    Raises
    ------
    OSError
        If there is something of that name, or the file cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    return cast(BinaryIO, open(descriptor, "wb"))


def sync(path: Path) -> None:
    """Bring the bytes of a file, or the names in a directory, to the disk, where full disks show at the latest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
