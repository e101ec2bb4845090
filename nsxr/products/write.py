"""Name the products of an exposure and write them all in one compute, each appearing only when whole."""

import errno
import fcntl
import glob
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import xarray as xr

from nsxr.compute.blocks import store
from nsxr.compute.cluster import worker_errors
from nsxr.compute.progress import compute
from nsxr.errors import ModelError, NsxrError, OutputExistsError, ParameterError
from nsxr.formats.fits_write import create_fits
from nsxr.formats.keywords import as_product
from nsxr.formats.zarr import consolidate, create_zarr, trim_tables
from nsxr.formats.zarr_metadata import METADATA
from nsxr.products.checksums import add_manifest
from nsxr.storage.folder import Folder
from nsxr.storage.local import make_exclusively, sync
from nsxr.storage.stores import local_path

__all__ = ["product_paths", "write_products", "write_whole"]

logger = logging.getLogger(__name__)

FORMATS = ("fits", "zarr")

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what only writing fails with


@dataclass(frozen=True)
class _Output:
    """A file or Zarr directory under its final and its temporary name."""

    final: Path
    partial: Path

    @classmethod
    def beside(cls, final: Path) -> "_Output":
        # absolute, since workers of a cluster may have been started elsewhere
        return cls(final, final.absolute().with_name(f".{final.name}.{uuid4().hex[:8]}.partial"))

    def flush(self) -> None:
        """Bring all bytes to the disk, where full disks show at the latest."""
        if self.partial.is_dir():
            add_manifest(Folder.at(self.partial))
            consolidate(self.partial)
            sync(self.partial / METADATA)
            for folder, _, _ in os.walk(self.partial):
                sync(Path(folder))
        else:
            sync(self.partial)

    @property
    def aside(self) -> Path:
        """Where an older output is kept until all new ones are in place."""
        return self.partial.with_suffix(".old")

    def publish(self) -> None:
        """Give the output its final name; an older one is kept aside, and replaced in one go if it is a file."""
        if self.final.exists():
            try:
                if self.final.is_dir() or self.partial.is_dir():
                    raise OSError(errno.EPERM, "directories have no second names")
                os.link(self.final, self.aside)
            except OSError:  # nor have files on some file systems
                os.replace(self.final, self.aside)
        os.replace(self.partial, self.final)
        sync(self.final.parent)

    def take_back(self) -> None:
        """Undo :meth:`publish`, however far it came."""
        if not self.partial.exists():
            os.replace(self.final, self.partial)
        if self.aside.exists():
            os.replace(self.aside, self.final)

    def discard(self) -> None:
        """Remove what has a temporary name, and an older output that has been replaced."""
        _remove(self.partial)
        if self.final.exists():
            _remove(self.aside)


def _remove(path: Path) -> None:
    """Remove a file or directory, if it is there."""
    if path.is_dir():
        for _ in range(3):  # blocks in flight in other threads may add files meanwhile
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(directory: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """Say of errors of the disk which directory they are about; all, or those of some numbers."""
    try:
        yield
    except NsxrError:
        raise
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"products cannot be written to {directory}: {reason}") from error


@contextmanager
def _alone(directory: Path, root: str) -> Iterator[bool]:
    """Keep other runs from the products of an exposure; the lock ends with the process, however that ends.

    Yields
    ------
    bool
        False if the file system has no locks.
    """
    path = directory / f".{root}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link may lead anywhere
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputExistsError(
                f"another run is writing {root} to {directory} now; wait for it, or choose another directory"
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
        os.close(descriptor)  # of a run that ended just now and took the file with it
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _sweep(finals: Sequence[Path]) -> None:
    """Remove what runs that were killed have left of these outputs, and put back what they had set aside."""
    for final in finals:
        pattern = f".{glob.escape(final.name)}.????????"
        for older in final.parent.glob(f"{pattern}.old"):
            if not final.exists():
                os.replace(older, final)
                logger.warning("%s: put back, a run that was to replace it was killed", final)
        for left in (*final.parent.glob(f"{pattern}.partial"), *final.parent.glob(f"{pattern}.old")):
            _remove(left)
            logger.warning("%s: removed, left by a run that was killed", left)


@contextmanager
def _whole_or_nothing(finals: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """Yield temporary paths that become the final ones, all or none, if the block succeeds and vanish if not."""
    outputs = [_Output.beside(final) for final in finals]
    try:
        yield [output.partial for output in outputs]
        for output in outputs:
            output.flush()
        if not overwrite:
            _refuse_existing(finals)
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


def _refuse_existing(paths: Sequence[Path]) -> None:
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise OutputExistsError(f"{', '.join(existing)} already there; ask for overwriting or choose another directory")


def product_paths(
    names: Sequence[str],
    directory: str | os.PathLike[str],
    root: str,
    formats: Sequence[str],
    steps: Sequence[str] = (),
) -> dict[str, Path]:
    """Return the path of each product: ``<root>_<name>.fits``, ``<root>.zarr``, ``<root>_<step>.fits``.

    Parameters
    ----------
    names : sequence of str
        Nodes of the result (``rate``, ``rateints``).
    directory : path
        Where products go.
    root : str
        File name without kind and ending, as in ``<root>_uncal.fits``.
    formats : sequence of str
        ``"fits"``, ``"zarr"`` or both.
    steps : sequence of str
        Intermediate products, always FITS.

    Returns
    -------
    dict
        Keys are the names and steps, and ``"zarr"`` for the store.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ParameterError(f"formats are {list(formats)}, expected one or both of {list(FORMATS)}")
    clashes = sorted(set(steps) & set(names))
    if clashes:
        raise ParameterError(f"{clashes} are products already, not steps to save")
    if not root or root in (".", "..") or len(root) > 200 or any(sign in root for sign in "/\0"):
        raise ParameterError(f"products would be named {root[:40]!r}, expected a file name without folders")
    folder = local_path(directory)
    paths = {name: folder / f"{root}_{name}.fits" for name in (*(names if "fits" in formats else ()), *steps)}
    if "zarr" in formats:
        paths["zarr"] = folder / f"{root}.zarr"
    return paths


def write_products(
    tree: xr.DataTree,
    directory: str | os.PathLike[str],
    root: str,
    formats: Sequence[str] = ("fits",),
    overwrite: bool = False,
    progress: bool | Literal["force"] = True,
    steps: Mapping[str, xr.Dataset] | None = None,
    texts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the products of one exposure in a single compute.

    Raw pixels are read once however many products there are, and blocks go to their places as they
    come, so memory does not grow with the size of the products. Files are written under temporary
    names in the same directory and renamed when all of them are whole; if anything fails, none of
    them appears, older ones stay, and nothing is left behind. What a killed process leaves is removed by
    the next one that writes the same products. Meanwhile no other process can write those of this root.

    Parameters
    ----------
    tree : DataTree
        Nodes ``rate`` and ``rateints``: ``sci`` float32 [DN/s], ``dq`` uint32, ``var_poisson`` and
        ``var_rnoise`` float32 [(DN/s)2], (row, column) or (integration, row, column).
    directory : path
        Made if it does not exist.
    root : str
        Products are ``<root>_rate.fits``, ``<root>_rateints.fits`` and ``<root>.zarr``.
    formats : sequence of str, default ("fits",)
        ``"fits"``, ``"zarr"`` or both.
    overwrite : bool, default False
        Whether existing products may be replaced.
    progress : bool or "force", default True
        Show a bar on standard error if that is a terminal, or in a notebook; "force" shows it anyway.
    steps : mapping of str to Dataset, optional
        Intermediate results to save as ``<root>_<step>.fits``: ramps with ``sci`` (integration, group,
        row, column) float32 [DN] and, if made already, ``pixeldq`` and ``groupdq``.
    texts : mapping of str to str, optional
        Texts that appear together with the products, as ``<root>_<name>``: a recipe under ``"recipe.toml"``.

    Returns
    -------
    list of Path
        The products written, and the texts after them.

    Raises
    ------
    OutputExistsError
        If a product is there already, or another process is writing it; before anything is computed.
    ParameterError
        If a format is unknown.
    ModelError
        If a Dataset cannot be written as such a product.
    OSError
        If the disk is full or cannot be written.
    ClusterError
        If workers of a cluster die over the same block again and again, or the cluster is lost.

    Notes
    -----
    FITS and Zarr hold the same pixels bit for bit; only FITS has ERR, as
    ``sqrt(var_poisson + var_rnoise)``.
    """
    saved = dict(steps or {})
    nodes = {name: node.to_dataset() for name, node in tree.children.items()}
    if not nodes and not saved:
        raise ModelError("the tree has no nodes and there are no steps to save: nothing to write")
    paths = product_paths(list(nodes), directory, root, formats, list(saved))
    beside = {local_path(directory) / f"{root}_{name}": text for name, text in (texts or {}).items()}
    finals = [*paths.values(), *beside]

    def create(partials: Sequence[Path]) -> list[tuple[xr.DataArray, Any]]:
        pairs: list[tuple[xr.DataArray, Any]] = []
        for text, partial in zip(beside.values(), partials[len(paths) :], strict=True):
            with make_exclusively(partial) as file:
                file.write(text.encode())
        for (name, final), partial in zip(paths.items(), partials[: len(paths)], strict=True):
            if name == "zarr":
                described = {key: as_product(node, final.name) for key, node in nodes.items()}
                pairs += create_zarr(partial, {"/": tree.to_dataset(), **described})
            else:
                pairs += create_fits(partial, saved[name] if name in saved else nodes[name], final.name)
        return pairs

    write_whole(finals, create, local_path(directory), root, overwrite, progress)
    return finals


def write_whole(
    finals: Sequence[Path],
    create: Callable[[Sequence[Path]], Sequence[tuple[xr.DataArray, Any]]],
    folder: Path,
    root: str,
    overwrite: bool,
    progress: bool | Literal["force"],
) -> None:
    """Write outputs in a single compute, all or none, as :func:`write_products` says.

    Parameters
    ----------
    finals : sequence of Path
        The outputs, all in ``folder``.
    create : callable
        Makes outputs without pixels under the temporary names that it is given, one for each of ``finals``, and returns
        arrays with the targets that they are to be stored in.
    folder : Path
        Made if it does not exist.
    root : str
        What no other process may write to ``folder`` meanwhile.
    overwrite : bool
        Whether existing outputs may be replaced.
    progress : bool or "force"
        Whether a bar is shown.
    """
    with ExitStack() as stack:
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(_alone(folder, root)):
                _sweep(finals)
        if not overwrite:
            _refuse_existing(finals)
        stack.enter_context(_disk_errors(folder, _WRITING))
        pairs = create(stack.enter_context(_whole_or_nothing(finals, overwrite)))
        lazy = [(array, target) for array, target in pairs if array.chunks is not None]
        for array, target in pairs:
            if array.chunks is None:
                target[...] = array.values
        if lazy:
            stored = store([array for array, _ in lazy], [target for _, target in lazy])
            with worker_errors():
                compute(*stored, progress=progress, label=f"writing {root}")
                trim_tables(lazy)
    logger.debug("wrote %s", ", ".join(map(str, finals)))
