"""Record which corrections ran, with which parameters and references.

A Dataset carries its history as ``attrs["nsxr_steps"]``, a JSON list of records with keys ``step``, ``status``
(``COMPLETE`` or ``SKIPPED``), ``parameters``, ``references`` (type to file name) and ``reason``. The attribute is a
string, because Zarr, netCDF and FITS can all store strings. For software and input files, see
:mod:`nsxr.model.provenance`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from nsxr.errors import ModelError
from nsxr.model.provenance import merged, noted
from nsxr.model.types import Attributes, Entries, Named
from nsxr.model.variables import VARIABLES, variable_attributes

__all__ = [
    "combined_attributes",
    "joint_history",
    "joint_steps",
    "members_of",
    "parsed_steps",
    "record",
    "record_skip",
    "shared_steps",
    "steps",
]

_KEY = "nsxr_steps"


def steps(dataset: xr.Dataset) -> list[Entries]:
    """Return the provenance records of a Dataset, oldest first.

    Raises
    ------
    ModelError
        If the attribute does not hold records in the format of nsxr.
    """
    return parsed_steps(dataset.attrs.get(_KEY, "[]"))


def parsed_steps(text: Any) -> list[Entries]:
    """Return provenance records from their JSON text. Raise ModelError like :func:`steps`."""
    try:
        records = json.loads(text)
        if not isinstance(records, list):
            raise ValueError("no list")
        for entry in records:
            words = [entry["step"], entry["status"], *entry["references"].values(), entry.get("reason", "")]
            if not isinstance(entry["parameters"], dict) or not all(isinstance(word, str) for word in words):
                raise ValueError("a record has entries of wrong types")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"attribute {_KEY} is not a list of the steps that were applied ({reason})") from error
    return records


def _append(attrs: Attributes, entry: Named) -> dict[Any, Any]:
    entries = [*parsed_steps(attrs.get(_KEY, "[]")), entry]
    return {**attrs, _KEY: json.dumps(entries)}


_OF_FILES = ("size", "fingerprint")


def _origins(references: Sequence[xr.Dataset]) -> tuple[dict[str, Entries], Entries]:
    """Return the provenance of references by type, and that of the reference data system that selected them."""
    found: dict[str, Entries] = {}
    crds: Entries = {}
    for reference in references:
        attrs = reference.attrs
        known = {key: attrs[key] for key in _OF_FILES if key in attrs}
        found[attrs["reference_type"]] = {"file": attrs.get("filename", "unnamed"), **known}
        crds |= {key: attrs[f"crds_{key}"] for key in ("context", "version") if f"crds_{key}" in attrs}
    return found, crds


def combined_attributes(members: Sequence[xr.Dataset]) -> dict[Any, Any]:
    """Return the attributes of a combination of Datasets: those of the first one, with the history that all share.

    The history keeps the steps that all members had with the same parameters. The other steps of a member belong in the
    record of the step that combines the members, see :func:`members_of`.
    """
    each = [steps(member) for member in members]
    shared = [entry for entry in each[0] if all(entry in one for one in each[1:])]
    attrs = {**members[0].attrs, **merged([member.attrs for member in members])}
    return {**attrs, _KEY: json.dumps(shared)} if any(each) else attrs


def members_of(datasets: Sequence[xr.Dataset]) -> list[Entries]:
    """Return the name of each Dataset and the steps it does not share with all, for the record of a combination."""
    each = [steps(one) for one in datasets]
    found = []
    for one, own in zip(datasets, each, strict=True):
        entry: Entries = {"name": str(one.attrs.get("filename", one.attrs.get("FILENAME", "")))}
        different = [step for step in own if not all(step in other for other in each)]
        found.append(entry | ({"steps": different} if different else {}))
    return found


def shared_steps(histories: Sequence[Sequence[Entries]]) -> int:
    """Return how many records, from the oldest on, all histories have in common."""
    count = 0
    for entries in zip(*histories, strict=False):
        if any(entry != entries[0] for entry in entries[1:]):
            break
        count += 1
    return count


def joint_steps(histories: Sequence[Sequence[Entries]]) -> list[Entries]:
    """Return one history of Datasets that are stored together, such as the slits of a file.

    It has the records that all of them share, then one record for each other step and status, with the parameters that
    are the same in all of these records, and with all references. A step that was done for some of them comes last as
    ``COMPLETE``.
    """
    count = shared_steps(histories)
    found: dict[tuple[str, str], Entries] = {}
    for entry in (entry for entries in histories for entry in entries[count:]):
        key = (entry["step"], entry["status"])
        one = found.setdefault(key, entry)
        alike = {name: v for name, v in one["parameters"].items() if entry["parameters"].get(name) == v}
        found[key] = {**one, "parameters": alike, "references": {**one["references"], **entry["references"]}}
        if one.get("reason") != entry.get("reason"):
            found[key].pop("reason", None)
    order = list(dict.fromkeys(name for name, _ in found))
    others = sorted(found.values(), key=lambda entry: (order.index(entry["step"]), entry["status"] == "COMPLETE"))
    return [*histories[0][:count], *others]


def joint_history(datasets: Sequence[xr.Dataset]) -> dict[str, str]:
    """Return the history of Datasets that are stored together as an attribute, see :func:`joint_steps`."""
    records = joint_steps([steps(one) for one in datasets])
    return {_KEY: json.dumps(records)} if records else {}


def record(
    dataset: xr.Dataset,
    step: str,
    references: Sequence[xr.Dataset] = (),
    parameters: Named | None = None,
    units: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    attrs: Named | None = None,
    **variables: xr.DataArray,
) -> xr.Dataset:
    """Return a copy of a Dataset with new variables and one more provenance record.

    The Dataset and the replaced variables keep their attributes, even if arithmetic dropped them. Declared variables
    get their constant attributes and their dtypes.

    Parameters
    ----------
    dataset : Dataset
        The input of the correction.
    step : str
        Name of the correction, as in the pipeline (``"superbias"``).
    references : sequence of Dataset
        References used. Their ``reference_type`` and ``filename`` attributes are recorded.
    parameters : mapping, optional
        Parameters, JSON-compatible.
    units : mapping, optional
        New units of variables. Other variables keep theirs.
    drop : sequence of str
        Variables to leave out of the result.
    attrs : mapping, optional
        Dataset attributes to add, such as a header keyword that the correction computes.
    **variables : DataArray
        New or replaced variables.
    """
    used = {r.attrs["reference_type"]: r.attrs.get("filename", "unnamed") for r in references}
    entry = {"step": step, "status": "COMPLETE", "parameters": dict(parameters or {}), "references": used}
    finished: dict[str, xr.Variable | xr.DataArray] = {}
    for name, array in variables.items():
        variable = array.variable.copy(deep=False)
        if name in VARIABLES and variable.dtype != VARIABLES[name].dtype:
            variable = variable.astype(VARIABLES[name].dtype)
        old = dataset.variables[name].attrs if name in dataset.variables else {}
        constant = variable_attributes(name) if name in VARIABLES else {}
        new_units = {"units": units[name]} if units and name in units else {}
        variable.attrs = {**old, **constant, **new_units}
        finished[name] = variable if _fits(array, dataset) else xr.DataArray(variable, array.coords)
    result = dataset.drop_vars(list(drop)).assign(finished) if drop else dataset.assign(finished)
    files, crds = _origins(references)
    result.attrs = _append(noted({**dataset.attrs, **(attrs or {})}, references=files, crds=crds), entry)
    return result


def _fits(array: xr.DataArray, dataset: xr.Dataset) -> bool:
    """Return whether an array has the labels of a Dataset. It can then be assigned without alignment."""
    return all(dim not in dataset.indexes or index.equals(dataset.indexes[dim]) for dim, index in array.indexes.items())


def record_skip(dataset: xr.Dataset, step: str, reason: str) -> xr.Dataset:
    """Return the Dataset with a record that a correction was skipped, and why."""
    result = dataset.copy(deep=False)
    entry = {"step": step, "status": "SKIPPED", "parameters": {}, "references": {}, "reason": reason}
    result.attrs = _append(noted(dataset.attrs), entry)
    return result
