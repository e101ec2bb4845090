"""Record what a result was made with: software, inputs, references and recipe, in one attribute of a Dataset.

``attrs["nsxr_provenance"]`` is a JSON object with these keys. A key is left out if its value is not known.

``software``
    A list of versions: nsxr (with its commit, or null), Python, NumPy and the other libraries that affect the values.
    A new entry is added when other versions work on a product.
``inputs``
    A list with the name, size [bytes] and fingerprint of each file that was opened, see
    :func:`nsxr.formats.fingerprint.fingerprint`.
``references``
    The same, by type of reference.
``crds``
    Context and version of the reference data system, if it selected references.
``recipe``
    Parameters of all steps of stage 1, defaults included, and the steps that were skipped.

The attribute is a string, because Zarr, netCDF and FITS can all store strings. It has no date: the same recipe gives
the same text.
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

__all__ = [
    "KEY",
    "LIBRARIES",
    "differences",
    "gathered",
    "merged",
    "noted",
    "other_versions",
    "provenance_of",
    "software",
]

KEY = "nsxr_provenance"
"""Name of the attribute."""

LIBRARIES = ("numpy", "numba", "scipy", "dask", "xarray", "astropy", "zarr")
"""Libraries whose versions are kept."""


@cache
def software() -> dict[str, str | None]:
    """Return the versions of nsxr, Python and :data:`LIBRARIES`. The version is None if a library is not installed."""
    found: dict[str, str | None] = {"nsxr": version("nsxr"), "commit": _commit(), "python": platform.python_version()}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    """Return the version of a library: the imported one, else the installed one, which takes 4 ms to find."""
    imported = getattr(sys.modules.get(name), "__version__", None)
    if imported is not None:
        return str(imported)
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit that nsxr is checked out at or was built from, or None."""
    package = Path(__file__).resolve().parents[1]
    commit = checked_out(package.parent)
    try:
        if commit is None and (package / BUILT).is_file():
            commit = (package / BUILT).read_text("ascii").strip() or None
        if commit is None:
            origin = json.loads(distribution("nsxr").read_text("direct_url.json") or "{}")
            commit = origin.get("vcs_info", {}).get("commit_id")
    except (OSError, ValueError, PackageNotFoundError):  # the provenance then has no commit
        return None
    return None if commit is None else str(commit)


def provenance_of(attrs: Attributes) -> Entries:
    """Return the provenance in the attributes of a Dataset. Empty if there is none."""
    try:
        found = json.loads(attrs.get(KEY, "{}"))
    except (TypeError, ValueError):  # not written by nsxr
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
    """Return attributes of a Dataset with inputs, references, recipe and this software added to its provenance.

    Parameters
    ----------
    attrs : mapping
        Attributes of a Dataset.
    inputs : sequence of mapping
        Files that were opened: ``file``, ``size``, ``fingerprint``.
    references : mapping of str to mapping, optional
        The same by type.
    crds, recipe : mapping, optional
        As described in the docstring of this module.
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


def _in_words(value: object) -> Any:
    """Return a parameter in a form that JSON can store: NumPy scalars as numbers, arrays as a text with their shape."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return f"{type(value).__name__} of shape {value.shape}" if hasattr(value, "shape") else repr(value)


def merged(members: Sequence[Attributes]) -> dict[str, str]:
    """Return the provenance attribute for a combination of Datasets: inputs and software of all of them.

    References and recipe are kept if all members share them. Empty if no member has a provenance.
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


def gathered(members: Sequence[Attributes]) -> dict[str, str]:
    """Return the provenance attribute for Datasets that are stored together, such as the slits of a file.

    Unlike :func:`merged`, it has the references of all of them.
    """
    found = merged(members)
    references: Entries = {}
    for attrs in members:
        references |= provenance_of(attrs).get("references", {})
    return {KEY: json.dumps({**json.loads(found[KEY]), "references": references})} if references else found


def differences(old: Named, new: Named) -> list[str]:
    """List the inputs, references and settings in which two results differ. Versions of software are not compared.

    Parameters
    ----------
    old, new : mapping
        From :func:`provenance_of`.

    Returns
    -------
    list of str
        Lines such as ``jump.rejection_threshold: 4.0 -> 5.0``. Empty if nothing differs.
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
    """List the software whose version was different when a result was made, such as ``numpy 2.1.0 -> 2.2.1``."""
    before, after = (old.get("software") or [{}])[-1], software()
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
