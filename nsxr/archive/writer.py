"""Calibrate exposures into an archive, and resume interrupted ones."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nsxr.archive.journal import Claim, Plan, claim, claims, is_at_work, plans
from nsxr.archive.layout import (
    PLAN,
    as_raw,
    consolidate,
    exposure_document,
    is_complete,
    make_archive,
    make_parents,
    require_archive,
)
from nsxr.archive.nodes import node_path, plan_key
from nsxr.compute.blocks import store
from nsxr.compute.cluster import worker_errors
from nsxr.compute.progress import compute
from nsxr.errors import ArchivedOtherwiseError, NsxrError, OutputExistsError, ParameterError
from nsxr.formats.keywords import as_product
from nsxr.formats.zarr import create_zarr, trim_tables
from nsxr.formats.zarr_metadata import METADATA
from nsxr.model.history import steps
from nsxr.model.provenance import KEY, differences, provenance_of
from nsxr.model.types import Entries
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.older_spellings import without_older_spellings
from nsxr.pipelines.recipe import Recipe
from nsxr.products.checksums import make_manifest
from nsxr.products.exposure import open_exposure
from nsxr.storage.folder import Folder, parsed_json
from nsxr.storage.urls import is_remote, receivers, shown

__all__ = [
    "Job",
    "Resumed",
    "add_exposure",
    "carry_out",
    "plan_exposure",
    "require_trusted",
    "resume_archive",
    "resuming",
    "taking_in",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Hold an exposure that this process has claimed and planned, but not calibrated yet."""

    folder: Folder
    plan: Plan
    recipe: Recipe
    claim: Claim


@dataclass
class Resumed:
    """Hold the result of :func:`resume_archive`."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)


def add_exposure(
    archive: str | os.PathLike[str],
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    references: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    raw: bool = False,
    overwrite: bool = False,
    skip: Sequence[str] = (),
    progress: bool | Literal["force"] = True,
    storage_options: Mapping[str, object] | None = None,
    **parameters: Mapping[str, object],
) -> str:
    """Calibrate one exposure into an archive.

    The active dask scheduler writes each block as soon as it is computed. When all blocks are written and have been
    read back, the exposure appears in one step. :func:`resume_archive` finishes exposures that were interrupted.

    Parameters
    ----------
    archive : path or URL
        Zarr hierarchy; created if it does not exist.
    paths : path, URL, or sequence of them
        Raw file, or the segments of one exposure.
    references : path, URL, mapping of str to path, or "crds"
        As for :func:`nsxr.open_references`.
    raw : bool, default False
        Whether the raw ramps are stored too, without loss.
    overwrite : bool, default False
        Whether an existing exposure is replaced. It disappears when writing of the new one begins.
    skip : sequence of str
        Steps to leave out.
    progress : bool or "force", default True
        Show a progress bar on standard error if this is a terminal, or in a notebook.
    storage_options : mapping, optional
        Options of the stores behind URLs, see :func:`nsxr.open_exposure`. They are not stored.
    **parameters : mapping
        Parameters of each step, under the name of the step.

    Returns
    -------
    str
        Path of the exposure in the archive: programme/observation/exposure/detector.

    Raises
    ------
    OutputExistsError
        If the exposure exists and ``overwrite`` is false.
    ArchiveInUseError
        If another process is writing this exposure.
    InputFileError
        If ``archive`` is not an archive, or a file is not a raw exposure.
    OSError
        If the disk is full or cannot be written to. Incomplete data are removed.
    """
    folder = Folder.at(archive, storage_options)
    source, named = (None, references) if isinstance(references, Mapping) else (os.fspath(references), {})
    given = {kind: os.fspath(path) for kind, path in named.items()}
    recipe = Recipe(source, given, parameters, tuple(skip), storage_options or {})
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    with taking_in(folder) as jobs:
        jobs.append(plan_exposure(folder, names, recipe, raw=raw, overwrite=overwrite))
        carry_out(jobs[0], progress)
        return jobs[0].plan.node


def plan_exposure(
    folder: Folder,
    paths: Sequence[str | os.PathLike[str]],
    recipe: Recipe,
    *,
    raw: bool = False,
    overwrite: bool = False,
) -> Job:
    """Claim an exposure and write its plan. Only headers are read.

    Errors are those of :func:`add_exposure`. Errors that follow from headers are raised before anything is written.
    """
    names = [_absolute(path) for path in paths]
    node = node_path(open_exposure(names, storage_options=recipe.storage_options).attrs)
    chosen, made = _with_paths(recipe, names)
    if not overwrite:
        _refuse_complete(folder, node, made, raw)
    make_archive(folder)
    taken = claim(folder, node)
    try:
        if not overwrite:
            _refuse_complete(folder, node, made, raw)  # another process may have finished this exposure meanwhile
        plan = Plan(node, tuple(names), chosen.as_json(), raw)
        folder.put_json(plan_key(node), plan.as_dict())
    except BaseException:
        taken.release()
        raise
    return Job(folder, plan, chosen, taken)


def _refuse_complete(folder: Folder, node: str, made: Mapping[str, object], raw: bool) -> None:
    """Raise OutputExistsError if an exposure exists. The message says how it differs from the one that is requested.

    ``made`` is the provenance of the requested exposure.
    """
    document = folder.read_json(f"{node}/{METADATA}")
    if not is_complete(document):
        return
    kept = document["attributes"]
    known = provenance_of(kept)
    before = without_older_spellings(known, DETECTOR1.steps)
    differing = differences(before, made) if known else ["it does not say how it was made"]
    if raw and not (parsed_json(kept.get(PLAN)) or {}).get("raw"):
        differing.append("raw: not kept -> kept")
    if differing:
        raise ArchivedOtherwiseError(
            f"{folder}: {node} is there already, but was made differently ({'; '.join(differing)}); "
            "ask for overwriting to replace it"
        )
    raise OutputExistsError(f"{folder}: {node} is there already; ask for overwriting to replace it")


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if is_remote(name) else os.path.abspath(name)


def _with_paths(recipe: Recipe, names: Sequence[str]) -> tuple[Recipe, Entries]:
    """Return the recipe with the paths of references that this exposure uses, and the provenance of its products.

    References that CRDS chooses have no path.
    """
    used: dict[str, str] = {}
    _, _, products, completed = recipe.calibrate(names)
    for node in products.children.values():
        for record in steps(node.to_dataset()):
            used |= record["references"]
    named = {}
    for kind, file in used.items():
        if kind in recipe.named:
            named[kind] = _absolute(recipe.named[kind])
        elif recipe.references not in (None, "crds"):
            named[kind] = f"{_absolute(recipe.references).rstrip('/')}/{file}"
    earlier = tuple(
        {
            "paths": [_absolute(path) for path in entry["paths"]],
            "references": entry["references"]
            if entry["references"] in (None, "crds")
            else _absolute(entry["references"]),
            "named": {kind: _absolute(path) for kind, path in entry["named"].items()},
        }
        for entry in recipe.earlier
    )
    source = "crds" if len(named) < len(used) else None
    made = provenance_of(products["rate"].attrs)
    optics, shutters = completed.optics, completed.shutters
    chosen = replace(recipe, references=source, named=named, earlier=earlier, optics=optics, shutters=shutters)
    return chosen, made


def carry_out(job: Job, progress: bool | Literal["force"] = True) -> None:
    """Calibrate a planned exposure and make it visible. Remove incomplete data before this, and after a failure."""
    try:
        _carry_out(job.folder, job.plan, job.recipe, progress)
    finally:
        job.claim.release()


def _carry_out(folder: Folder, plan: Plan, recipe: Recipe, progress: bool | Literal["force"]) -> None:
    found = folder.read_json(f"{plan.node}/{METADATA}")
    if not (is_complete(found) and plan.is_same(parsed_json(found["attributes"].get(PLAN)))):
        if found is not None:
            folder.remove(f"{plan.node}/{METADATA}")
            consolidate(folder)  # hide the older exposure before its pixels are removed
        folder.remove(plan.node)
        try:
            _write(folder, plan, recipe, progress)
        except BaseException:
            folder.remove(plan.node)
            raise
    folder.remove(plan_key(plan.node))


def _write(folder: Folder, plan: Plan, recipe: Recipe, progress: bool | Literal["force"]) -> None:
    exposure, _, tree, _ = recipe.calibrate(plan.sources)
    nodes = {
        name: as_product(node.to_dataset(), f"{plan.node}/{name}", dated=False)  # the plan has the date
        for name, node in tree.children.items()
    }
    if plan.raw:
        nodes["raw"] = as_raw(exposure)
    pairs = []
    groups: dict[str, bytes] = {}
    for name, dataset in nodes.items():
        pairs += create_zarr(folder.place(f"{plan.node}/{name}"), {"/": dataset}, folder.options)
        key = f"{plan.node}/{name}/{METADATA}"
        groups[key] = folder.read(key) or b""
        folder.remove(key)  # readers do not find the group before its metadata are written
    stored = store([array for array, _ in pairs], [target for _, target in pairs])
    with worker_errors():
        compute(*stored, progress=progress, label=plan.node)
        trim_tables(pairs)
        for key, content in groups.items():
            folder.put(key, content)
        manifest = make_manifest(folder, plan.node)
    make_parents(folder, plan.node)
    header = {**exposure.attrs, KEY: nodes["rate"].attrs[KEY]}
    document = exposure_document(header, _without_secrets(plan), manifest)
    folder.put_json(f"{plan.node}/{METADATA}", document)
    logger.debug("%s: %s complete", folder, plan.node)


def _without_secrets(plan: Plan) -> Entries:
    """Return a plan that everybody may read, without passwords and signatures in its URLs."""

    def public(value: object) -> Any:
        if isinstance(value, Mapping):
            return {key: public(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [public(item) for item in value]
        return shown(value) if isinstance(value, str) else value

    found: Entries = public(plan.as_dict())
    return found


@contextmanager
def taking_in(folder: Folder) -> Iterator[list[Job]]:
    """Yield a list for jobs. Afterwards, release their claims and write the metadata of the whole archive."""
    jobs: list[Job] = []
    try:
        yield jobs
    finally:
        for job in jobs:
            job.claim.release()
        if jobs:
            consolidate(folder)


def resume_archive(
    archive: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: bool | Literal["force"] = True,
    storage_options: Mapping[str, object] | None = None,
    hosts: Sequence[str] = (),
) -> Resumed:
    """Finish exposures of an archive that were planned and interrupted. Complete exposures are not changed.

    Parameters
    ----------
    archive : path or URL
        The archive.
    force : bool, default False
        Whether to take over exposures that processes on other hosts have claimed. It is not known whether these
        processes are still running.
    progress, storage_options
        See :func:`add_exposure`.
    hosts : sequence of str
        Hosts, besides that of the archive, to which the storage options may be sent: ``https://data.example.org``.
        Plans contain URLs, and anybody who can write to the archive may have written them.

    Returns
    -------
    Resumed
        ``finished`` has the paths of finished exposures. ``failed`` has errors, by path or by file of the journal.

    Raises
    ------
    InputFileError
        If ``archive`` is not an archive.
    """
    result = Resumed()
    with resuming(Folder.at(archive, storage_options), force, hosts) as planned:
        for name, job in planned.items():
            try:
                if isinstance(job, Exception):
                    raise job
                carry_out(job, progress)
                result.finished.append(name)
            except (NsxrError, OSError) as error:
                result.failed[name] = error
    return result


def require_trusted(folder: Folder, paths: Sequence[str], hosts: Sequence[str]) -> None:
    """Raise ParameterError if the storage options would be sent to a host that the user has not named."""
    trusted = receivers(folder.root).union(*map(receivers, hosts))
    for path in paths:
        strangers = sorted(receivers(path) - trusted) if folder.options.names_any_for(path) else []
        if strangers:
            raise ParameterError(
                f"the plan reads from {strangers[0]}, to which the storage options would be sent; "
                f"resume with --host {strangers[0]} if you trust it, or without the options"
            )


@contextmanager
def resuming(folder: Folder, force: bool = False, hosts: Sequence[str] = ()) -> Iterator[dict[str, Job | Exception]]:
    """Claim the exposures that were planned and not finished. Yield their jobs, or errors, by path.

    Afterwards the journal is cleaned up. Parameters and errors are those of :func:`resume_archive`.
    """
    require_archive(folder)
    planned: dict[str, Job | Exception] = {}
    with taking_in(folder) as jobs:
        for key in plans(folder):
            name = key
            try:
                plan = Plan.read(folder, key)
                name = plan.node
                recipe = Recipe.from_json(plan.recipe, folder.storage_options)
                require_trusted(folder, [*plan.sources, *recipe.paths], hosts)
                jobs.append(job := Job(folder, plan, recipe, claim(folder, name, force)))
                if folder.read(key) is not None:  # otherwise another process has finished the exposure meanwhile
                    planned[name] = job
            except (NsxrError, OSError) as error:
                planned[name] = error
        yield planned
    for key, content in claims(folder).items():  # left by processes that died before planning, or after finishing
        if not is_at_work(content):
            folder.remove(key)
    consolidate(folder, anew=True)
