"""Calibrate exposures of an archive again with their stored recipes, and compare the results."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr

from nsxr.archive.journal import Plan
from nsxr.archive.layout import PLAN, all_nodes, is_complete, own_attributes, require_archive
from nsxr.archive.reader import open_archive
from nsxr.archive.writer import require_trusted
from nsxr.compute.blocks import unlabelled
from nsxr.compute.cluster import worker_errors
from nsxr.compute.layouts import chunk_like
from nsxr.compute.progress import compute
from nsxr.errors import InputFileError, NsxrError, ParameterError
from nsxr.formats.zarr_metadata import METADATA
from nsxr.model.history import steps
from nsxr.model.provenance import differences, other_versions, provenance_of
from nsxr.model.types import Entries
from nsxr.model.variables import TABLES, VARIABLES
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.older_spellings import without_older_spellings
from nsxr.pipelines.recipe import Recipe
from nsxr.storage.folder import Folder

__all__ = ["Replay", "replay_archive"]

_LATE = {variable: VARIABLES[variable].dims[0][0] for variable, _, _ in TABLES.values()}
"""Tables that an archive stores with their actual number of rows, and the dimension along the rows."""


@dataclass(frozen=True)
class Replay:
    """Hold the result of calibrating an exposure of an archive again.

    Attributes
    ----------
    path : str
        Path of the exposure in the archive.
    differing : tuple of str
        Differences of the new result; empty if it is identical.
    versions : tuple of str
        Software whose version has changed, ``numpy 2.1.0 -> 2.2.1``.
    refused : str
        Why the exposure could not be calibrated again; empty if it could.
    """

    path: str
    differing: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    refused: str = ""

    @property
    def is_identical(self) -> bool:
        """Whether all values are identical."""
        return not (self.differing or self.refused)

    def __str__(self) -> str:
        versions = f" (made by other versions: {', '.join(self.versions)})" if self.versions else ""
        if self.refused:
            return f"{self.path}: not replayed: {self.refused}{versions}"
        return f"{self.path}: {'; '.join(self.differing) or 'identical'}{versions}"


def replay_archive(
    path: str | os.PathLike[str],
    exposures: Sequence[str] = (),
    *,
    progress: bool | Literal["force"] = True,
    storage_options: Mapping[str, object] | None = None,
    hosts: Sequence[str] = (),
) -> Iterator[Replay]:
    """Calibrate exposures of an archive again with their stored recipes, inputs and references, and compare.

    Nothing is written. Values are compared while they are computed with the active dask scheduler. The parameters are
    those that were used when the exposure was added, including the defaults of that time.

    Parameters
    ----------
    path : path or URL
        The archive.
    exposures : sequence of str
        Paths in the archive, of exposures or of programmes and observations, ``01234/001``. By default all exposures.
    progress, storage_options, hosts
        See :func:`nsxr.resume_archive`.

    Yields
    ------
    Replay
        One for each complete exposure. An exposure whose inputs or references are missing or have changed is not
        compared; the others are. Changed versions of software are reported, but do not count as a difference.

    Raises
    ------
    InputFileError
        If there is no archive.
    ParameterError
        If there is no such exposure.
    """
    folder = Folder.at(path, storage_options)
    require_archive(folder)
    nodes = list(all_nodes(folder))
    wanted = [name.strip("/") for name in exposures]
    unknown = [name for name in wanted if not any(f"{node}/".startswith(f"{name}/") for node in nodes)]
    if unknown:
        raise ParameterError(f"{folder} has no exposure {', '.join(unknown)}; nsxr archive ls lists them")
    for node in nodes:
        document = folder.read_json(f"{node}/{METADATA}")
        is_wanted = not wanted or any(f"{node}/".startswith(f"{name}/") for name in wanted)
        if not is_wanted or not is_complete(document):
            continue
        attributes = own_attributes(document)
        known = provenance_of(attributes)
        versions = tuple(other_versions(known)) if known else ()
        try:
            differing = _replayed(folder, node, attributes, progress, hosts)
            yield Replay(node, tuple(differing), versions)
        except (NsxrError, OSError, ValueError) as error:  # the last three are errors of damaged chunks
            yield Replay(node, (), versions, str(error))


def _replayed(
    folder: Folder, node: str, attributes: Mapping[str, object], progress: bool | Literal["force"], hosts: Sequence[str]
) -> list[str]:
    """Return how the new result of an exposure differs from the one in the archive."""
    plan = Plan.kept(attributes.get(PLAN), node)
    known = without_older_spellings(provenance_of(attributes), DETECTOR1.steps)
    if "recipe" not in known:
        raise InputFileError("the archive has no provenance of this exposure; add it again")
    recipe = Recipe.from_json(plan.recipe, folder.storage_options)
    require_trusted(folder, [*plan.sources, *recipe.paths], hosts)
    used = known["recipe"]
    recipe = replace(recipe, parameters=used["parameters"], skip=tuple(used["skip"]), run=tuple(used.get("run", ())))
    tree = recipe.calibrate(plan.sources).products
    changed = differences(known, provenance_of(tree["rate"].attrs))
    if changed:
        raise InputFileError(f"inputs or references have changed since it was made ({'; '.join(changed)})")
    lines: list[str] = []
    counts: dict[str, xr.DataArray] = {}
    with open_archive(folder.root, folder.storage_options) as archive:
        for name, child in tree.children.items():
            kept, made = _content(archive, f"{node}/{name}"), child.to_dataset()
            if unlike := _unlike_steps(steps(kept), steps(made)):
                lines.append(f"{name}: steps or their parameters differ: {', '.join(unlike)}")
            for variable in sorted({*map(str, kept.data_vars), *map(str, made.data_vars)}):
                if variable not in kept or variable not in made:
                    lines.append(f"{name}/{variable}: {'new' if variable in made else 'gone'}")
                else:
                    counts |= _compared(f"{name}/{variable}", kept[variable], made[variable])
        with worker_errors():
            found = compute(*(count.data for count in counts.values()), progress=progress, label=node)
            numbers = {name: float(one.compute()) for name, one in zip(counts, found, strict=True)}
    for name, number in numbers.items():
        if not name.endswith(_BY) and number:
            size = f", by up to {numbers[name + _BY]:.3g}" if name + _BY in numbers else ""
            lines.append(f"{name}: {number:.0f} values differ{size}")
    return lines


def _unlike_steps(kept: Sequence[Entries], made: Sequence[Entries]) -> list[str]:
    """Return the names of steps that two histories do not share.

    A step that is left out now, and that did not exist when the archive was written, is no difference.
    """
    names = {entry["step"] for entry in kept}
    of_now = [entry for entry in made if entry["step"] in names or entry["status"] != "SKIPPED"]
    if list(kept) == of_now:
        return []
    unlike = [entry["step"] for entry in [*kept, *of_now] if entry not in kept or entry not in of_now]
    return list(dict.fromkeys(unlike)) or ["their order"]


_BY = " by"


def _content(archive: xr.DataTree, path: str) -> xr.Dataset:
    """Return the Dataset at a path of an archive."""
    try:
        node = archive[path]
    except KeyError:
        node = None
    if not isinstance(node, xr.DataTree):
        raise InputFileError(f"{path} is missing; nsxr archive check says what is wrong")
    return node.to_dataset(inherit=False)


def _compared(name: str, kept: xr.DataArray, made: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the number of values that differ, and the largest difference; both are lazy."""
    if kept.name in _LATE and (dim := _LATE[str(kept.name)]) in kept.dims:
        rows = np.full((max(made.sizes[dim], kept.sizes[dim]), *kept.shape[1:]), np.nan, kept.dtype)
        rows[: kept.sizes[dim]] = kept.to_numpy()  # a table, small
        kept = xr.DataArray(rows, dims=kept.dims)
    kept, made = unlabelled(kept), unlabelled(made)
    if kept.dims != made.dims or kept.shape != made.shape or kept.dtype != made.dtype:
        return {name: xr.DataArray(max(kept.size, made.size)).chunk()}
    kept = chunk_like(kept, made)
    if made.dtype.kind != "f":
        return {name: (kept != made).sum()}
    differs = (kept != made) & ~(kept.isnull() & made.isnull())
    return {name: differs.sum(), name + _BY: abs(kept.astype(np.float64) - made).where(differs, 0.0).max()}
