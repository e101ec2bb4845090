"""Write files and folders whole or not at all: under another name first, then in one go under their own.

A reader never sees half a file. What a process that was killed leaves behind has names ``.NAME.12345678.partial`` and
``.NAME.12345678.old``, and :func:`sweep` removes it.
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
    """Write a small file; an older one is replaced. The directory is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, make_exclusively(partial) as file:
        file.write(content)


def make_file(path: Path, content: bytes) -> bool:
    """Write a small file unless there is one of this name; tell whether it was written.

    Of several processes that try at the same time, one succeeds. The directory is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as partial:
        with make_exclusively(partial) as file:
            file.write(content)
        sync(partial)
        try:
            os.link(partial, path)  # unlike a rename, this replaces nothing
        except FileExistsError:
            return False
    sync(path.parent)
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another name in the same directory; the file that the block writes there then gets the name ``path``.

    An older file is replaced in the same moment. If the block fails, the older file stays.
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
    """Yield other names for several files or folders; all of them get their own names if the block succeeds.

    If anything fails, none of them appears, and older ones are back in their places.

    Parameters
    ----------
    paths : sequence of Path
        The final names, all in existing directories.
    overwrite : bool
        Whether older files and folders may be replaced.
    finish : callable, optional
        Called with each of the other names after the block, before anything gets its own name.

    Raises
    ------
    OutputExistsError
        If one of them is there after the block, and ``overwrite`` is false.
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
    """Raise OutputExistsError if one of the paths is there."""
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise OutputExistsError(f"{', '.join(existing)} already there; ask for overwriting or choose another directory")


@contextmanager
def locked(directory: Path, name: str) -> Iterator[bool]:
    """Keep other processes from writing the files of one name. The lock ends with the process, however that ends.

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
        os.close(descriptor)  # another process has just ended and removed the file that it had locked
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(paths: Sequence[Path]) -> None:
    """Remove what killed processes have left of these files and folders, and put back what they had set aside.

    The caller holds the lock: otherwise another process may be writing them.
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
    """Name the directory in errors of the disk.

    Parameters
    ----------
    directory : Path
        Where files are written.
    only_writing : bool
        Whether errors that reading can raise too are left as they are.
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
    """Return the part of a name that temporary names repeat: with all of a long name they would be too long."""
    return path.name[:200]


def _free_name(path: Path) -> Path:
    """Return a name in the same directory that nobody can have prepared."""
    # absolute, since workers of a cluster may have been started in another directory
    return path.absolute().with_name(f".{_short(path)}.{uuid4().hex[:8]}.partial")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a free name in the same directory; what has this name after the block is removed."""
    partial = _free_name(path)
    try:
        yield partial
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    """Remove a file or directory, if it is there."""
    if path.is_dir():
        for _ in range(3):  # blocks in flight in other threads may add files meanwhile
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Output:
    """A file or folder under its final and its temporary name."""

    final: Path
    partial: Path

    def flush(self) -> None:
        """Bring all bytes to the disk: a full disk shows then at the latest."""
        for folder, _, _ in os.walk(self.partial):
            sync(Path(folder))
        sync(self.partial)

    @property
    def older(self) -> Path:
        """Where an older output is kept until all new ones are in place."""
        return self.partial.with_suffix(".old")

    def publish(self) -> None:
        """Give the output its final name; an older file is kept aside, and replaced in one go."""
        if self.final.exists():
            try:
                if self.final.is_dir() or self.partial.is_dir():
                    raise OSError(errno.EPERM, "directories have no second names")
                os.link(self.final, self.older)
            except OSError:  # on some file systems, files have no second names either
                os.replace(self.final, self.older)
        os.replace(self.partial, self.final)
        sync(self.final.parent)

    def take_back(self) -> None:
        """Undo :meth:`publish`, however far it came."""
        if not self.partial.exists():
            os.replace(self.final, self.partial)
        if self.older.exists():
            os.replace(self.older, self.final)

    def discard(self) -> None:
        """Remove what has a temporary name, and an older output that has been replaced."""
        _remove(self.partial)
        if self.final.exists():
            _remove(self.older)
