"""Write all products of an exposure in one compute. Either all products appear, or none."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from nsxr.compute.blocks import store
from nsxr.compute.cluster import worker_errors
from nsxr.compute.progress import compute
from nsxr.errors import ModelError, ParameterError
from nsxr.formats.fits_write import create_fits
from nsxr.formats.keywords import as_product
from nsxr.formats.zarr import consolidate, create_zarr, trim_tables
from nsxr.formats.zarr_metadata import METADATA
from nsxr.products.checksums import add_manifest
from nsxr.storage.folder import Folder
from nsxr.storage.local import make_exclusively, sync
from nsxr.storage.urls import local_path
from nsxr.storage.whole import all_or_nothing, disk_errors, locked, refuse_existing, sweep

__all__ = ["planned_products", "product_paths", "write_products", "write_whole"]

logger = logging.getLogger(__name__)

FORMATS = ("fits", "zarr")

Create = Callable[[Sequence[Path]], Sequence[tuple[xr.DataArray, Any]]]
"""A function that creates files without pixels, and returns arrays with their targets."""


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
        Directory of the products.
    root : str
        File name without its kind and ending, as in ``<root>_uncal.fits``.
    formats : sequence of str
        ``"fits"``, ``"zarr"`` or both.
    steps : sequence of str
        Steps whose results are saved. These are always FITS.

    Returns
    -------
    dict
        Paths. Keys are the names and steps, and ``"zarr"`` for the store.
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
    *,
    overwrite: bool = False,
    progress: bool | Literal["force"] = True,
    steps: Mapping[str, xr.Dataset] | None = None,
    texts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the products of one exposure in a single compute.

    Raw pixels are read once for all products. Each block is written as soon as it is computed, so memory does not grow
    with the size of the products. Files are written under temporary names in the same directory, and renamed when all
    of them are complete. If anything fails, no product appears, older files stay, and temporary files are removed.
    Temporary files of a process that was killed are removed by the next process that writes the same products. No two
    processes can write products of the same root at the same time.

    Parameters
    ----------
    tree : DataTree
        Nodes ``rate`` and ``rateints``: ``sci`` float32 [DN/s], ``dq`` uint32, ``var_poisson`` and
        ``var_rnoise`` float32 [(DN/s)2], (row, column) or (integration, row, column).
    directory : path
        Directory of the products. It is made if it does not exist.
    root : str
        Products are ``<root>_rate.fits``, ``<root>_rateints.fits`` and ``<root>.zarr``.
    formats : sequence of str, default ("fits",)
        ``"fits"``, ``"zarr"`` or both.
    overwrite : bool, default False
        Whether existing products may be replaced.
    progress : bool or "force", default True
        Show a bar in a notebook, or if standard error is a terminal. "force" always shows it.
    steps : mapping of str to Dataset, optional
        Intermediate results to save as ``<root>_<step>.fits``: ramps with ``sci`` (integration, group, row, column)
        float32 [DN] and, if they were made, ``pixeldq`` and ``groupdq``.
    texts : mapping of str to str, optional
        Texts to write as ``<root>_<name>`` together with the products, such as a recipe under ``"recipe.toml"``.

    Returns
    -------
    list of Path
        The products that were written, then the texts.

    Raises
    ------
    OutputExistsError
        If a product already exists, or another process is writing it. This is checked before anything is computed.
    ParameterError
        If a format is unknown.
    ModelError
        If a Dataset cannot be written as a product.
    OSError
        If the disk is full or cannot be written.
    ClusterError
        If workers of a cluster die repeatedly while they compute the same block, or if the cluster is lost.

    Notes
    -----
    FITS and Zarr hold the same pixels, bit for bit. Only FITS has ERR, ``sqrt(var_poisson + var_rnoise)``.
    """
    finals, create = planned_products(tree, directory, root, formats, steps or {}, texts or {})
    write_whole(finals, create, local_path(directory), root, overwrite, progress)
    return finals


def planned_products(
    tree: xr.DataTree,
    directory: str | os.PathLike[str],
    root: str,
    formats: Sequence[str],
    saved: Mapping[str, xr.Dataset],
    texts: Mapping[str, str],
) -> tuple[list[Path], Create]:
    """Return the paths of what :func:`write_products` writes, and the function that creates these files.

    Both are arguments of :func:`write_whole`.
    """
    nodes = {name: node.to_dataset() for name, node in tree.children.items()}
    if not nodes and not saved:
        raise ModelError("the tree has no nodes and there are no steps to save: nothing to write")
    paths = product_paths(list(nodes), directory, root, formats, list(saved))
    beside = {local_path(directory) / f"{root}_{name}": text for name, text in texts.items()}
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

    return finals, create


def write_whole(
    finals: Sequence[Path],
    create: Create,
    folder: Path,
    root: str,
    overwrite: bool,
    progress: bool | Literal["force"],
    also: Sequence[xr.Dataset] = (),
) -> list[xr.Dataset]:
    """Write files in a single compute, all of them or none, see :func:`write_products`.

    Parameters
    ----------
    finals : sequence of Path
        Paths of the outputs, all in ``folder``.
    create : callable
        Function that is called with temporary names, one for each of ``finals``. It creates these files without pixels,
        and returns arrays with their targets.
    folder : Path
        Directory of the outputs. It is made if it does not exist.
    root : str
        Name of the lock: no other process can write files of this name to ``folder`` at the same time.
    overwrite : bool
        Whether existing outputs may be replaced.
    progress : bool or "force"
        Whether to show a progress bar.
    also : sequence of Dataset
        Datasets to compute in the same pass. What they share with the files is computed once. They are returned with
        their results, which stay in memory.
    """
    with ExitStack() as stack:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(locked(folder, root)):
                sweep(finals)
        if not overwrite:
            refuse_existing(finals)
        stack.enter_context(disk_errors(folder, only_writing=True))
        pairs = create(stack.enter_context(all_or_nothing(finals, overwrite, _finish)))
        lazy = [(array, target) for array, target in pairs if array.chunks is not None]
        for array, target in pairs:
            if array.chunks is None:
                target[...] = array.values
        computed: list[xr.Dataset] = []
        if lazy or also:
            stored = store([array for array, _ in lazy], [target for _, target in lazy])
            with worker_errors():
                results = compute(*stored, *also, progress=progress, label=f"writing {root}")
                computed = list(results[len(stored) :])
                trim_tables(lazy)
    logger.debug("wrote %s", ", ".join(map(str, finals)))
    return computed


def _finish(partial: Path) -> None:
    """Complete a Zarr store after its pixels are written: add checksums of its objects, consolidate its metadata."""
    if partial.is_dir():
        add_manifest(Folder.at(partial))
        consolidate(partial)
        sync(partial / METADATA)
