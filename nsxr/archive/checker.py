"""Check an archive: every chunk, every stored object, provenance and metadata."""

import json
import os
from collections.abc import Collection, Iterator

from nsxr.archive.journal import Plan, claims, is_at_work, is_readable, plans
from nsxr.archive.layout import (
    PLAN,
    all_nodes,
    consolidated,
    is_complete,
    known_metadata,
    require_archive,
)
from nsxr.archive.nodes import JOURNAL, plan_key
from nsxr.errors import InputFileError
from nsxr.formats.manifest import MANIFEST, expected_objects, lost_objects, split_object
from nsxr.formats.zarr_metadata import METADATA
from nsxr.model.types import Named
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.products.checksums import damaged_chunks
from nsxr.storage.folder import Folder, parsed_json

__all__ = ["check_archive"]


def check_archive(path: str | os.PathLike[str], storage_options: Named | None = None) -> Iterator[str]:
    """Read a whole archive and report every problem.

    Every chunk is decoded through the active dask scheduler, one task for each stored object. Exposures that another
    run is writing are left out. Complete exposures are always checked.

    Parameters
    ----------
    path : path or URL
        The archive.
    storage_options : mapping, optional
        Options of the store behind a URL, see :func:`nsxr.open_exposure`.

    Yields
    ------
    str
        One line for each problem. It starts with the path of exposure, array and chunk.

    Raises
    ------
    InputFileError
        If there is no archive.
    RemoteAccessError
        If the store behind a URL cannot be reached.
    """
    folder = Folder.at(path, storage_options)
    root = require_archive(folder)
    held = claims(folder)
    working = {key for key, content in held.items() if is_readable(content) and is_at_work(content)}
    busy = {key.partition(".claim")[0] + ".json" for key in working}
    planned = set(plans(folder))
    for node in all_nodes(folder):
        document = folder.read_json(f"{node}/{METADATA}")
        if is_complete(document):
            found = list(_check_exposure(folder, node, document["attributes"]))
            if plan_key(node) not in busy or folder.read_json(f"{node}/{METADATA}") == document:
                yield from (f"{node}{problem}" for problem in found)  # otherwise the exposure has just been replaced
        elif plan_key(node) not in planned | busy:
            yield f"{node}: half-written and not planned; remove it or add it again"
    for key in sorted(planned - busy):
        try:
            Plan.read(folder, key)
            yield f"{key}: planned, but not done; nsxr archive resume finishes it"
        except InputFileError as error:
            if folder.read(key) is not None:
                yield f"{key}: {str(error).removeprefix(f'{folder}/{key} ')}"
    for key, content in held.items():
        if not is_readable(content):
            yield f"{key}: cannot be read; if no run is writing this exposure, nsxr archive resume --force removes it"
        elif not is_at_work(content):
            yield f"{key}: left behind by a process that is gone; nsxr archive resume removes it"
    yield from _leftovers(folder)
    yield from _check_consolidated(root, consolidated(folder), busy)


def _check_exposure(folder: Folder, node: str, header: Named) -> Iterator[str]:
    manifest, plan = parsed_json(header.get(MANIFEST)), parsed_json(header.get(PLAN))
    try:
        expected = expected_objects(manifest)
        is_kept = plan["raw"]
    except (InputFileError, KeyError, TypeError) as error:
        yield f": {error}; add the exposure again, overwriting"
        return
    stored = {name: size for name, size in folder.files(node).items() if name != METADATA}
    yield from (f"/{problem}" for problem in lost_objects(folder, node, manifest))
    readable = {name: checksum for name, (size, checksum) in expected.items() if stored.get(name) == size}
    for name in sorted(set(stored) - set(expected)):
        yield f"/{' '.join(split_object(name))}: not in the manifest"
    for name, problem in damaged_chunks(folder, node, readable).items():
        array, chunk = split_object(name)
        yield f"/{array} {chunk}: {problem}"
    for product in ("rate", "rateints", *(["raw"] if is_kept else [])):
        if f"{product}/sci/{METADATA}" not in expected:
            yield f"/{product}: no sci"
        elif product != "raw":
            yield from (f"/{product}: {problem}" for problem in _check_provenance(folder, f"{node}/{product}"))


def _check_provenance(folder: Folder, path: str) -> Iterator[str]:
    """Check that every step is recorded: as done with its references, or as skipped with a reason."""
    document = folder.read_json(f"{path}/{METADATA}")
    try:
        attributes = document["attributes"]
        records = json.loads(attributes["nsxr_steps"])
        yield from DETECTOR1.problems(records, attributes)
    except (KeyError, TypeError, ValueError) as error:
        yield f"provenance cannot be read ({error!r})"


def _leftovers(folder: Folder) -> Iterator[str]:
    """Yield files that killed runs have left behind, and files that do not belong to an archive."""
    for name in folder.names(JOURNAL)[1]:
        if name.startswith("."):
            yield f"{JOURNAL}/{name}: left behind by a write that was cut off; remove it"
    above = {""} | {"/".join(node.split("/")[:depth]) for node in all_nodes(folder) for depth in range(1, 4)}
    for key in sorted(above):
        for name in folder.names(key)[1]:
            if name != METADATA:
                yield f"{key}/{name}: does not belong to the archive; remove it".lstrip("/")


def _check_consolidated(root: Named, found: Named, busy: Collection[str]) -> Iterator[str]:
    """Compare the consolidated metadata of the root with those of groups and arrays; yield a line for each exposure."""
    known = known_metadata(root)
    if not known and found:
        yield f"{METADATA}: no consolidated metadata; nsxr archive resume makes them"
        return
    wrong: dict[str, str] = {}
    for path in sorted(set(known) | set(found)):
        if known.get(path) != found.get(path):
            reason = "lack it" if path not in known else "have it" if path not in found else "differ from its own"
            node = "/".join(path.split("/")[:4])
            if plan_key(node) not in busy:
                wrong.setdefault(node, f"{path}: consolidated metadata {reason}; nsxr archive resume renews them")
    yield from wrong.values()
