"""Name the products of an exposure and write them all in one compute, each appearing only when whole."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import xarray as xr

from nsxr.errors import ModelError, OutputExistsError, ParameterError
from nsxr.io.fits_write import create_fits
from nsxr.io.progress import compute
from nsxr.io.zarr import consolidate, create_zarr
from nsxr.lazy import store

__all__ = ["product_paths", "write_products"]

logger = logging.getLogger(__name__)

FORMATS = ("fits", "zarr")


@dataclass(frozen=True)
class _Output:
    """A file or Zarr directory under its final and its temporary name."""

    final: Path
    partial: Path

    @classmethod
    def beside(cls, final: Path) -> "_Output":
        return cls(final, final.with_name(f".{final.name}.{uuid4().hex[:8]}.partial"))

    def flush(self) -> None:
        """Bring all bytes to the disk, where full disks show at the latest."""
        if self.partial.is_dir():
            consolidate(self.partial)
            for folder, _, files in os.walk(self.partial):
                for name in files:
                    _sync(Path(folder, name))
                _sync(Path(folder))
        else:
            _sync(self.partial)

    def publish(self) -> None:
        """Give the output its final name; an older one is replaced only then."""
        if not self.final.is_dir():
            if self.partial.is_dir() and self.final.exists():
                self.final.unlink()
            os.replace(self.partial, self.final)
        else:
            # a directory cannot be replaced in one go: set the old one aside, and back if that fails
            aside = self.partial.with_suffix(".old")
            os.replace(self.final, aside)
            try:
                os.replace(self.partial, self.final)
            except OSError:
                os.replace(aside, self.final)
                raise
            shutil.rmtree(aside)
        _sync(self.final.parent)

    def discard(self) -> None:
        """Remove the temporary file or directory, if it is there."""
        if self.partial.is_dir():
            for _ in range(3):  # blocks in flight in other threads may add files meanwhile
                shutil.rmtree(self.partial, ignore_errors=True)
                if not self.partial.exists():
                    break
        else:
            self.partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _whole_or_nothing(finals: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """Yield temporary paths that become the final ones if the block succeeds and vanish if not."""
    outputs = [_Output.beside(final) for final in finals]
    try:
        yield [output.partial for output in outputs]
        for output in outputs:
            output.flush()
        if not overwrite:
            _refuse_existing(finals)
        for output in outputs:
            output.publish()
    except BaseException:
        for output in outputs:
            output.discard()
        raise


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
    folder = Path(directory)
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
) -> list[Path]:
    """Write the products of one exposure in a single compute.

    Raw pixels are read once however many products there are, and blocks go to their places as they
    come, so memory does not grow with the size of the products. Files are written under temporary
    names in the same directory and renamed when all of them are whole; if anything fails before
    that, none of them appears, older ones stay, and nothing is left behind.

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
        Show a bar on standard error if that is a terminal; "force" shows it anyway.
    steps : mapping of str to Dataset, optional
        Intermediate results to save as ``<root>_<step>.fits``: ramps with ``sci`` (integration, group,
        row, column) float32 [DN] and, if made already, ``pixeldq`` and ``groupdq``.

    Returns
    -------
    list of Path
        The products written.

    Raises
    ------
    OutputExistsError
        If a product is there already, before anything is computed.
    ParameterError
        If a format is unknown.
    ModelError
        If a Dataset cannot be written as such a product.
    OSError
        If the disk is full or cannot be written.

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
    if not overwrite:
        _refuse_existing(list(paths.values()))
    Path(directory).mkdir(parents=True, exist_ok=True)
    with _whole_or_nothing(list(paths.values()), overwrite) as partials:
        pairs: list[tuple[xr.DataArray, Any]] = []
        for (name, final), partial in zip(paths.items(), partials, strict=True):
            if name == "zarr":
                pairs += create_zarr(partial, {"/": tree.to_dataset(), **nodes})
            else:
                pairs += create_fits(partial, saved[name] if name in saved else nodes[name], final.name)
        lazy = [(array, target) for array, target in pairs if array.chunks is not None]
        for array, target in pairs:
            if array.chunks is None:
                target[...] = array.values
        if lazy:
            stored = store([array for array, _ in lazy], [target for _, target in lazy])
            compute(*stored, progress=progress, label=f"writing {root}")
    logger.debug("wrote %s", ", ".join(map(str, paths.values())))
    return list(paths.values())
