"""Write files and folders completely or not at all: under a temporary name first, which is then renamed in one step.

A reader never sees an incomplete file. Files that a killed process leaves behind have the names
``.NAME.12345678.partial`` and ``.NAME.12345678.old``, and :func:`sweep` removes them.
"""

import errno
import fcntl
import glob
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from nsxr.errors import NsxrError, OutputExistsError
from nsxr.storage.local import make_exclusively, sync

__all__ = [
    "all_or_nothing",
    "disk_errors",
    "locked",
    "make_file",
    "put_file",
    "refuse_existing",
    "replacing",
    "sweep",
]

logger = logging.getLogger(__name__)

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors that only writing can raise."""


def put_file(path: Path, content: bytes) -> None:
    """Write a small file; an older one is replaced. The directory is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, make_exclusively(partial) as file:
        file.write(content)


def make_file(path: Path, content: bytes) -> bool:
    """Write a small file if there is none of this name; return whether it was written.

    If several processes try at the same time, one of them succeeds. The directory is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as partial:
        with make_exclusively(partial) as file:
            file.write(content)
        sync(partial)
        try:
            os.link(partial, path)  # unlike a rename, this does not replace an existing file
        except FileExistsError:
            return False
    sync(path.parent)
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same directory. The file that the block writes there is then renamed to ``path``.

    An older file is replaced in the same step. If the block fails, the older file stays.
    """
    with _aside(path) as partial:
        yield partial
        sync(partial)
        os.replace(partial, path)
    sync(path.parent)


@contextmanager
def all_or_nothing(
    paths: Sequence[Path], overwrite: bool = False, finish: Callable[[Path], None] | None = None
) -> Iterator[list[Path]]:
    """Yield temporary names for several files or folders; all of them get their final names if the block succeeds.

    If anything fails, none of them appears, and older files and folders are restored.

    Parameters
    ----------
    paths : sequence of Path
        The final names, all in existing directories.
    overwrite : bool
        Whether older files and folders may be replaced.
    finish : callable, optional
        Called with each temporary name after the block, before anything gets its final name.

    Raises
    ------
    OutputExistsError
        If one of them exists after the block, and ``overwrite`` is false.
    """
    outputs = [_Output(path, _free_name(path)) for path in paths]
    try:
        yield [output.partial for output in outputs]
        for output in outputs:
            if finish is not None:
                finish(output.partial)
            output.flush()
        if not overwrite:
            refuse_existing(paths)
        try:
            for output in outputs:
                output.publish()
        except BaseException:
            for output in outputs:
                output.take_back()
            raise
    finally:
        for output in outputs:
            output.discard()


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise OutputExistsError if one of the paths exists."""
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise OutputExistsError(f"{', '.join(existing)} already there; ask for overwriting or choose another directory")


@contextmanager
def locked(directory: Path, name: str) -> Iterator[bool]:
    """Keep other processes from writing the files of one name. The lock always ends when the process ends.

    Yields
    ------
    bool
        False if the file system has no locks.

    Raises
    ------
    OutputExistsError
        If another process has the lock.
    """
    path = directory / f".{name}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link may lead anywhere
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputExistsError(
                f"another run is writing {name} to {directory} now; wait for it, or choose another directory"
            ) from error
        except OSError as error:
            logger.debug("%s: no locks here (%s)", path, error)
            path.unlink(missing_ok=True)
            os.close(descriptor)
            yield False
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                break
        os.close(descriptor)  # another process has just ended and removed the locked file
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(paths: Sequence[Path]) -> None:
    """Remove partial files and folders of killed processes, and restore older ones that they had set aside.

    The caller has to hold the lock; otherwise another process may be writing them.
    """
    for path in paths:
        pattern = f".{glob.escape(_short(path))}.????????"
        for older in path.parent.glob(f"{pattern}.old"):
            if not path.exists():
                os.replace(older, path)
                logger.warning("%s: put back, a run that was to replace it was killed", path)
        for left in (*path.parent.glob(f"{pattern}.partial"), *path.parent.glob(f"{pattern}.old")):
            _remove(left)
            logger.warning("%s: removed, left by a run that was killed", left)


@contextmanager
def disk_errors(directory: Path, only_writing: bool = False) -> Iterator[None]:
    """Add the name of the directory to errors of the disk.

    Parameters
    ----------
    directory : Path
        Where files are written.
    only_writing : bool
        Whether errors that reading can raise too are left unchanged.
    """
    numbers: Collection[int] | None = _WRITING if only_writing else None
    try:
        yield
    except NsxrError:
        raise
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"products cannot be written to {directory}: {reason}") from error


def _short(path: Path) -> str:
    """Return the part of a name that temporary names repeat; with a long name they would be too long otherwise."""
    return path.name[:200]


def _free_name(path: Path) -> Path:
    """Return a random name in the same directory, which no other process can predict."""
    # absolute, because workers of a cluster may have been started in another directory
    return path.absolute().with_name(f".{_short(path)}.{uuid4().hex[:8]}.partial")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a free name in the same directory. A file or folder of this name is removed after the block."""
    partial = _free_name(path)
    try:
        yield partial
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    """Remove a file or directory, if it exists."""
    if path.is_dir():
        for _ in range(3):  # other threads may still write blocks and add files
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Output:
    """Hold a file or folder with its final and its temporary name."""

    final: Path
    partial: Path

    def flush(self) -> None:
        """Flush all bytes to the disk. A full disk raises an error here at the latest."""
        for folder, _, _ in os.walk(self.partial):
            sync(Path(folder))
        sync(self.partial)

    @property
    def older(self) -> Path:
        """Path of an older output until all new outputs have their final names."""
        return self.partial.with_suffix(".old")

    def publish(self) -> None:
        """Give the output its final name. An older file is set aside, and is replaced in one step."""
        if self.final.exists():
            try:
                if self.final.is_dir() or self.partial.is_dir():
                    raise OSError(errno.EPERM, "directories have no second names")
                os.link(self.final, self.older)
            except OSError:  # some file systems have no second names for files either
                os.replace(self.final, self.older)
        os.replace(self.partial, self.final)
        sync(self.final.parent)

    def take_back(self) -> None:
        """Undo :meth:`publish`, also if it was interrupted."""
        if not self.partial.exists():
            os.replace(self.final, self.partial)
        if self.older.exists():
            os.replace(self.older, self.final)

    def discard(self) -> None:
        """Remove the output with the temporary name, and an older output that has been replaced."""
        _remove(self.partial)
        if self.final.exists():
            _remove(self.older)
