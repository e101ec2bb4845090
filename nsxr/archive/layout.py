"""Define the layout of an archive: its groups, their metadata, and raw ramps as 16-bit integers.

An archive is a Zarr hierarchy in format 3: programme / observation / exposure / detector, and below each detector
``rate``, ``rateints`` and, on request, ``raw``. The metadata of a detector's group are written last, in one step.
Readers do not find the exposure before this step.
"""

import json
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from nsxr.archive.nodes import JOURNAL
from nsxr.compute.blocks import map_blocks
from nsxr.errors import InputFileError, ModelError
from nsxr.formats.manifest import MANIFEST
from nsxr.formats.zarr import attributes
from nsxr.formats.zarr_metadata import METADATA
from nsxr.model.types import Entries
from nsxr.storage.folder import Folder

__all__ = [
    "FORMAT",
    "PLAN",
    "STATE",
    "all_nodes",
    "as_raw",
    "consolidate",
    "consolidated",
    "exposure_document",
    "from_raw",
    "is_archive",
    "is_complete",
    "known_metadata",
    "make_archive",
    "make_parents",
    "own_attributes",
    "require_archive",
]

FORMAT, STATE, PLAN = "nsxr_archive", "nsxr_state", "nsxr_plan"
"""Attributes: version of the layout (root), "complete" (detector), and the plan as JSON (detector)."""

_VERSION = 1
_KEPT_ELSEWHERE = ("fits_header", "sci_header", "nsxr_steps")  # in rate, rateints and raw


def as_raw(exposure: xr.Dataset) -> xr.Dataset:
    """Return a raw exposure with ``sci`` (integration, group, row, column) as uint16 [DN], as it was digitized."""
    sci = exposure["sci"]
    if "group" not in sci.dims or sci.dtype != np.float32:
        raise ModelError(f"sci has dims {sci.dims} and dtype {sci.dtype}, expected a raw exposure, float32")
    outputs = {"sci": ([str(dim) for dim in sci.dims], np.uint16)}
    counts = map_blocks(_as_counts, sci, core=(), outputs=outputs)["sci"]
    return exposure.assign(sci=counts.assign_attrs(sci.attrs))


def _as_counts(block: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        counts = block.astype(np.uint16)
    if not np.array_equal(counts, block):
        raise InputFileError(
            "sci has other values than whole numbers from 0 to 65535: it is not a raw exposure, and is not kept as one"
        )
    return counts


def from_raw(raw: xr.Dataset) -> xr.Dataset:
    """Return the raw exposure from an archive, equal to the result of :func:`nsxr.open_exposure`.

    Parameters
    ----------
    raw : Dataset
        Content of the node ``raw``: ``sci`` (integration, group, row, column) uint16 [DN].

    Returns
    -------
    Dataset
        ``sci`` float32, lazy if the input is; coordinates in memory.
    """
    if "sci" not in raw or raw["sci"].dtype != np.uint16:
        raise ModelError("this is not a raw exposure of an archive: it has no sci of dtype uint16")
    coordinates = {}
    for name, array in raw.coords.items():
        # strings in Zarr have no fixed length; strings in FITS tables, and in Datasets made from them, have one
        values = array.to_numpy()
        texts = np.array(values.tolist(), dtype=str) if values.dtype.kind in "OT" else values
        coordinates[name] = (array.dims, texts, array.attrs)
    sci = raw["sci"].drop_vars(list(raw["sci"].coords)).astype(np.float32).assign_attrs(raw["sci"].attrs)
    return xr.Dataset({"sci": sci}, coords=coordinates, attrs=raw.attrs).drop_encoding()


def group_document(given: Mapping[str, object] | None = None) -> Entries:
    """Return the Zarr metadata of a group with these attributes."""
    return {"attributes": dict(given or {}), "zarr_format": 3, "node_type": "group"}


def exposure_document(
    header: Mapping[str, object], plan: Mapping[str, object], manifest: Mapping[str, object]
) -> Entries:
    """Return the metadata of the group of a complete exposure, with its header keywords as attributes."""
    kept = {key: value for key, value in attributes(header).items() if key not in _KEPT_ELSEWHERE}
    own = {STATE: "complete", PLAN: json.dumps(plan), MANIFEST: json.dumps(manifest, separators=(",", ":"))}
    return group_document({**kept, **own})


def own_attributes(document: object) -> Entries:
    """Return the attributes from the metadata of a group; empty if the metadata are damaged."""
    found = document.get("attributes") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def is_complete(document: object) -> bool:
    """Return whether these are the metadata of a complete exposure."""
    return own_attributes(document).get(STATE) == "complete"


def is_archive(folder: Folder) -> bool:
    """Return whether a folder is an archive of any version of nsxr."""
    return FORMAT in own_attributes(folder.read_json(METADATA))


def known_metadata(root: Mapping[str, object]) -> Entries:
    """Return the consolidated metadata of the root, by path; empty if there are none, or they are damaged."""
    outer = root.get("consolidated_metadata")
    inner = outer.get("metadata") if isinstance(outer, dict) else None
    return inner if isinstance(inner, dict) else {}


def make_archive(folder: Folder) -> None:
    """Create an empty archive, if there is none.

    Raises
    ------
    InputFileError
        If there are other files in this folder.
    """
    if folder.read(METADATA) is None:
        # hidden names are the journal, and files that another process is writing
        others = [name for names in folder.names("") for name in names if not name.startswith(".")]
        # files without metadata are foreign, unless another process made the archive after the first look
        if others and folder.read(METADATA) is None:
            raise InputFileError(f"{folder} is no archive: it has {others[0]}, but no {METADATA}; choose another name")
        folder.make(METADATA, _encoded(_root({})))
    require_archive(folder)


def require_archive(folder: Folder) -> Entries:
    """Return the metadata of the root of an archive.

    Raises
    ------
    InputFileError
        If there is no archive, or this version of nsxr does not know its layout.
    """
    document = folder.read_json(METADATA)
    found = own_attributes(document).get(FORMAT)
    if found is None:
        raise InputFileError(f"{folder} is no archive of nsxr; nsxr archive add makes them")
    if found != _VERSION:
        raise InputFileError(f"{folder}: the archive has layout {found}, this version of nsxr knows layout {_VERSION}")
    return dict(document)


def make_parents(folder: Folder, node: str) -> None:
    """Create the groups above an exposure, if they are missing."""
    parts = node.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder.make(f"{'/'.join(parts[:depth])}/{METADATA}", _encoded(group_document()))


def all_nodes(folder: Folder) -> Iterator[str]:
    """Yield the paths of all exposures in order, complete or not."""

    def below(key: str, depth: int) -> Iterator[str]:
        for name in folder.names(key)[0]:
            path = f"{key}/{name}" if key else name
            if name != JOURNAL:
                if depth == 4:
                    yield path
                else:
                    yield from below(path, depth + 1)

    yield from below("", 1)


def _encoded(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _root(metadata: Mapping[str, object]) -> Entries:
    inline = {"kind": "inline", "must_understand": False, "metadata": dict(metadata)}
    return {**group_document({FORMAT: _VERSION}), "consolidated_metadata": inline}


def consolidated(folder: Folder, known: Mapping[str, object] | None = None) -> Entries:
    """Return the metadata of all complete exposures and the groups above them, by path.

    Parameters
    ----------
    folder : Folder
        The archive.
    known : mapping, optional
        Earlier result. If the metadata of an exposure have not changed, the metadata below it are taken from this
        result.
    """
    earlier = dict(known or {})
    below: dict[str, Entries] = {}
    for path, document in earlier.items():
        if path.count("/") > 3:
            below.setdefault("/".join(path.split("/")[:4]), {})[path] = document
    found: Entries = {}
    nodes = list(all_nodes(folder))
    documents = folder.read_all_json([f"{node}/{METADATA}" for node in nodes])
    for node, document in zip(nodes, documents.values(), strict=True):
        if not is_complete(document):
            continue
        parts = node.split("/")
        for depth in range(1, 4):
            found["/".join(parts[:depth])] = group_document()
        found[node] = document
        if earlier.get(node) == document:
            found |= below.get(node, {})
        else:
            names = [f"{node}/{name}" for name in folder.files(node) if name.endswith(f"/{METADATA}")]
            inner = folder.read_all_json(names)
            found |= {name.rpartition("/")[0]: inner[name] for name in names}
    return found


def consolidate(folder: Folder, anew: bool = False) -> None:
    """Write all metadata to the root, so that opening the archive reads one file only.

    Several processes may do this at the same time. Each process reads the metadata again after it has written, so that
    the last one writes the exposures of all processes.

    Parameters
    ----------
    folder : Folder
        The archive.
    anew : bool
        Whether to read the metadata of all exposures again, including those that the root already has.
    """
    written = None
    found = {} if anew else known_metadata(require_archive(folder))
    while written != (found := consolidated(folder, found)):
        folder.put(METADATA, _encoded(_root(found)))
        written = found
