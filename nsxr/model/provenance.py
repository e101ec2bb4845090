"""What a result was made with: software, inputs, references and recipe, in one attribute of a Dataset.

``attrs["nsxr_provenance"]`` is a JSON object with these keys, each only if it is known:

``software``
    A list: versions of nsxr (with the commit that it was checked out from, or null), Python, NumPy and the other
    libraries that the values hang on. A new entry is added where a product is worked on by other versions.
``inputs``
    A list: name, size [bytes] and fingerprint of each file that was opened, see
    :func:`nsxr.formats.fingerprint.fingerprint`.
``references``
    The same by type of reference.
``crds``
    Context and version of the reference data system, if it chose references.
``recipe``
    Parameters of all steps of stage 1, defaults included, and the steps left out.

Being a string it survives Zarr, netCDF and FITS alike. No date is in it: the same recipe gives the same text.
"""

import json
import platform
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from nsxr.model.commit import BUILT, checked_out
from nsxr.model.types import Attributes, ByStep, Entries, Named

__all__ = ["KEY", "LIBRARIES", "differences", "merged", "noted", "other_versions", "provenance_of", "software"]

KEY = "nsxr_provenance"
"""Name of the attribute."""

LIBRARIES = ("numpy", "numba", "scipy", "dask", "xarray", "astropy", "zarr")
"""Libraries whose versions are kept."""


@cache
def software() -> dict[str, str | None]:
    """Return the versions of nsxr, Python and :data:`LIBRARIES`; None for what is not installed. Read once."""
    found: dict[str, str | None] = {"nsxr": version("nsxr"), "commit": _commit(), "python": platform.python_version()}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    """Return the version of a library: of what is imported, else of what is installed, which takes 4 ms to find."""
    imported = getattr(sys.modules.get(name), "__version__", None)
    if imported is not None:
        return str(imported)
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit that nsxr runs from: of its checkout, or that it was built from; None if there is none."""
    package = Path(__file__).resolve().parents[1]
    commit = checked_out(package.parent)
    try:
        if commit is None and (package / BUILT).is_file():
            commit = (package / BUILT).read_text("ascii").strip() or None
        if commit is None:
            origin = json.loads(distribution("nsxr").read_text("direct_url.json") or "{}")
            commit = origin.get("vcs_info", {}).get("commit_id")
    except (OSError, ValueError, PackageNotFoundError):  # a provenance with less in it
        return None
    return None if commit is None else str(commit)


def provenance_of(attrs: Attributes) -> Entries:
    """Return what is known of a Dataset with these attributes; empty if nothing is."""
    try:
        found = json.loads(attrs.get(KEY, "{}"))
    except (TypeError, ValueError):  # somebody else's attribute
        return {}
    return dict(found) if isinstance(found, dict) else {}


def noted(
    attrs: Attributes,
    *,
    inputs: Sequence[Named] = (),
    references: ByStep | None = None,
    crds: Named | None = None,
    recipe: Named | None = None,
) -> dict[Any, Any]:
    """Return attributes in which more is said about where a Dataset comes from, and that this software made it.

    Parameters
    ----------
    attrs : mapping
        Attributes of a Dataset.
    inputs : sequence of mapping
        Files opened: ``file``, ``size``, ``fingerprint``.
    references : mapping of str to mapping, optional
        The same by type.
    crds, recipe : mapping, optional
        See the module.
    """
    found = provenance_of(attrs)
    made = found.setdefault("software", [])
    if not made or made[-1] != software():
        found["software"] = [*made, software()]
    if inputs:
        earlier = found.get("inputs", [])
        found["inputs"] = [*earlier, *(dict(entry) for entry in inputs if entry not in earlier)]
    if references:
        found["references"] = {**found.get("references", {}), **references}
    if crds:
        found["crds"] = {**found.get("crds", {}), **crds}
    if recipe is not None:
        found["recipe"] = dict(recipe)
    return {**attrs, KEY: json.dumps(found, default=_in_words)}


def _in_words(value: Any) -> Any:
    """Return what JSON can hold of a parameter: numbers of NumPy as Python's, of arrays no more than their shape."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return f"{type(value).__name__} of shape {value.shape}" if hasattr(value, "shape") else repr(value)


def merged(members: Sequence[Attributes]) -> dict[str, str]:
    """Return the attribute of what is made of several Datasets with these attributes: inputs and software of all.

    References and recipe are kept if all members share them. Empty if nothing is known of any.
    """
    each = [provenance_of(attrs) for attrs in members]
    if not any(each):
        return {}
    found: Entries = {}
    for key in ("software", "inputs"):
        listed: list[Any] = []
        for one in each:
            listed += [entry for entry in one.get(key, []) if entry not in listed]
        if listed:
            found[key] = listed
    for key in ("references", "crds", "recipe"):
        if key in each[0] and all(one.get(key) == each[0][key] for one in each):
            found[key] = each[0][key]
    return {KEY: json.dumps(found)}


def differences(old: Named, new: Named) -> list[str]:
    """Tell in which inputs, references and settings two results differ; versions of software are not looked at.

    Parameters
    ----------
    old, new : mapping
        From :func:`provenance_of`.

    Returns
    -------
    list of str
        ``jump.rejection_threshold: 4.0 -> 5.0``; empty if they were made alike.
    """
    lines = _files_differ(
        "input", {e["file"]: e for e in old.get("inputs", ())}, {e["file"]: e for e in new.get("inputs", ())}
    )
    lines += _files_differ("reference", old.get("references", {}), new.get("references", {}))
    before, after = old.get("recipe", {}), new.get("recipe", {})
    for step in {**before.get("parameters", {}), **after.get("parameters", {})}:
        one, other = before.get("parameters", {}).get(step, {}), after.get("parameters", {}).get(step, {})
        lines += [
            f"{step}.{name}: {one.get(name, 'default')} -> {other.get(name, 'default')}"
            for name in {**one, **other}
            if one.get(name) != other.get(name)
        ]
    for key, words in (("skip", "skipped"), ("run", "run though off by default")):
        named = [list(entry.get(key, ())) for entry in (before, after)]
        if sorted(named[0]) != sorted(named[1]):
            lines.append(f"{words}: " + " -> ".join(", ".join(names) or "nothing" for names in named))
    return lines


def _files_differ(word: str, old: ByStep, new: ByStep) -> list[str]:
    lines = []
    for key in {**old, **new}:
        one, other = old.get(key), new.get(key)
        if one is None or other is None:
            lines.append(
                f"{word} {key}: {'none' if one is None else one['file']} -> "
                f"{'none' if other is None else other['file']}"
            )
        elif one["file"] != other["file"]:
            lines.append(f"{word} {key}: {one['file']} -> {other['file']}")
        elif None not in (found := [e.get("fingerprint") for e in (one, other)]) and found[0] != found[1]:
            lines.append(f"{word} {key}: the content of {one['file']} is another one")
    return lines


def other_versions(old: Named) -> list[str]:
    """Tell which software made a result in other versions than are here now: ``numpy 2.1.0 -> 2.2.1``."""
    before, after = (old.get("software") or [{}])[-1], software()
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
