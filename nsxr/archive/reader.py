"""Open archives, and list and choose exposures by their headers. No pixels are read."""

import json
import os
from dataclasses import dataclass

import xarray as xr

from nsxr.archive.journal import Plan, claims, is_at_work, is_readable, plans
from nsxr.archive.layout import STATE, all_nodes, from_raw, is_complete, require_archive
from nsxr.archive.nodes import plan_key
from nsxr.errors import InputFileError, ParameterError
from nsxr.formats.manifest import MANIFEST
from nsxr.formats.zarr_metadata import METADATA
from nsxr.formats.zarr_read import open_store
from nsxr.model.keywords import read
from nsxr.model.parameters import closest
from nsxr.model.types import Named
from nsxr.storage.folder import Folder

__all__ = ["ArchivedExposure", "list_exposures", "open_archive", "open_raw", "select_exposures"]


@dataclass(frozen=True)
class ArchivedExposure:
    """Describe an exposure of an archive: one row of the table that ``nsxr archive ls`` prints.

    ``state`` is complete, in progress, interrupted (it can be resumed), half-written (it has no plan and has to be
    added again) or damaged (``nsxr archive check`` reports the damage). It is "no plan" for a file of the journal that
    is not a plan. The other fields are known for complete exposures only. ``size`` is in bytes.
    """

    path: str
    state: str
    mode: str = ""
    filter: str = ""
    grating: str = ""
    subarray: str = ""
    readout: str = ""
    integrations: int = 0
    groups: int = 0
    has_raw: bool = False
    size: int = 0
    date: str = ""


def open_archive(path: str | os.PathLike[str], storage_options: Named | None = None) -> xr.DataTree:
    """Open the complete exposures of an archive lazily.

    Parameters
    ----------
    path : path or URL
        The archive.
    storage_options : mapping, optional
        Options of the store behind a URL, see :func:`nsxr.open_exposure`.

    Returns
    -------
    DataTree
        programme / observation / exposure / detector. The node of a detector has the header keywords in ``attrs``.
        Below it are ``rate``, ``rateints`` and, if the raw ramps were kept, ``raw``.

    Raises
    ------
    InputFileError
        If there is no archive.
    RemoteAccessError
        If the store behind a URL cannot be reached.
    """
    folder = Folder.at(path, storage_options)
    return open_store(folder, require_archive(folder))


def select_exposures(tree: xr.DataTree, **keywords: object) -> xr.DataTree:
    """Choose the exposures of an archive whose headers have the given values.

    Parameters
    ----------
    tree : DataTree
        From :func:`open_archive`.
    **keywords : value or list of values
        Header keywords, ``GRATING="G395H"`` or ``GRATING=["G395H", "G395M"]``. Pass keywords with a hyphen as
        ``**{"DATE-OBS": "2026-01-15"}``.

    Returns
    -------
    DataTree
        The exposures with all nodes below them, under the same paths; empty if there are none. Nothing is read.

    Raises
    ------
    ParameterError
        If no exposure has a keyword.
    """
    found = {node.path: node for node in tree.subtree if node.attrs.get(STATE) == "complete"}
    known = {str(key) for node in found.values() for key in node.attrs}
    unknown = [key for key in keywords if key not in known]
    if unknown and found:
        meant = closest(unknown[0].upper(), sorted(known))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ParameterError(f"no exposure has the header keyword {', '.join(unknown)}{hint}")
    wanted = {key: value if isinstance(value, list | tuple | set) else [value] for key, value in keywords.items()}
    chosen = [node for node in found.values() if all(node.attrs.get(key) in values for key, values in wanted.items())]
    contents = {part.path: part.to_dataset(inherit=False) for node in chosen for part in node.subtree}
    selected = xr.DataTree.from_dict(contents, name=tree.name)
    selected.attrs = dict(tree.attrs)
    return selected


def open_raw(tree: xr.DataTree) -> xr.Dataset:
    """Return the raw exposure from an archive, equal to the result of :func:`nsxr.open_exposure`.

    Parameters
    ----------
    tree : DataTree
        Node of a detector, ``tree["01234/001/001_03101_00001/nrs1"]``, or a node with only one detector below it.

    Returns
    -------
    Dataset
        ``sci`` (integration, group, row, column) float32 [DN], lazy, in the stored chunks. It is an input of
        :func:`nsxr.detector1`.

    Raises
    ------
    InputFileError
        If the raw ramps were not kept, or if there are several raw exposures.
    """
    found = [node for node in tree.subtree if node.name == "raw" and "sci" in node]
    if len(found) != 1:
        problem = f"{len(found)} raw exposures, choose one" if found else "no raw exposure; add with --raw keeps them"
        raise InputFileError(f"{tree.path}: {problem}")
    return from_raw(found[0].to_dataset(inherit=False))


def list_exposures(path: str | os.PathLike[str], storage_options: Named | None = None) -> list[ArchivedExposure]:
    """List the exposures of an archive, including those that are not complete.

    Parameters and errors are those of :func:`open_archive`.
    """
    folder = Folder.at(path, storage_options)
    require_archive(folder)
    planned = set(plans(folder))
    held = claims(folder)
    busy = {
        key.partition(".claim")[0] + ".json"
        for key, content in held.items()
        if is_readable(content) and is_at_work(content)
    }
    nodes, found = set(all_nodes(folder)), []
    for key in sorted(planned):
        try:
            nodes.add(Plan.read(folder, key).node)
        except InputFileError:
            found.append(ArchivedExposure(key, "no plan"))
    for name, document in folder.read_all_json([f"{node}/{METADATA}" for node in sorted(nodes)]).items():
        node = name.rpartition("/")[0]
        if is_complete(document):
            try:
                found.append(_described(node, document["attributes"]))
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                found.append(ArchivedExposure(node, "damaged"))
        elif plan_key(node) in busy:
            found.append(ArchivedExposure(node, "in progress"))
        else:
            found.append(ArchivedExposure(node, "interrupted" if plan_key(node) in planned else "half-written"))
    return found


def _described(node: str, header: Named) -> ArchivedExposure:
    manifest = json.loads(header[MANIFEST])
    first, last = (read(header, key, default=0, matters=False) for key in ("INTSTART", "INTEND"))
    return ArchivedExposure(
        path=node,
        state="complete",
        mode=str(header.get("EXP_TYPE", "")),
        filter=str(header.get("FILTER", "")),
        grating=str(header.get("GRATING", "")),
        subarray=str(header.get("SUBARRAY", "")),
        readout=str(header.get("READPATT", "")),
        integrations=last - first + 1 if first and last else read(header, "NINTS", default=0, matters=False),
        groups=read(header, "NGROUPS", default=0, matters=False),
        has_raw="raw/sci" in manifest,
        size=sum(entry["bytes"] for entry in manifest.values()),
        date=str(header.get("DATE-BEG") or header.get("DATE-OBS", "")),
    )
