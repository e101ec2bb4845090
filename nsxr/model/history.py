"""Provenance: which correction ran, with which parameters and references.

A Dataset carries its provenance as ``attrs["nsxr_steps"]``, a JSON list of records with keys
``step``, ``status`` (``COMPLETE`` or ``SKIPPED``), ``parameters``, ``references`` (type to file name)
and ``reason``. Being a string it survives Zarr, netCDF and FITS alike.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from nsxr.model.variables import VARIABLES, variable_attributes

__all__ = ["record", "record_skip", "steps"]

_KEY = "nsxr_steps"


def steps(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Return the provenance records of a Dataset, oldest first."""
    return list(json.loads(dataset.attrs.get(_KEY, "[]")))


def _append(attrs: Mapping[Any, Any], entry: Mapping[str, Any]) -> dict[Any, Any]:
    entries = [*json.loads(attrs.get(_KEY, "[]")), entry]
    return {**attrs, _KEY: json.dumps(entries)}


def record(
    dataset: xr.Dataset,
    step: str,
    references: Sequence[xr.Dataset] = (),
    parameters: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    attrs: Mapping[str, Any] | None = None,
    **variables: xr.DataArray,
) -> xr.Dataset:
    """Return a copy of a Dataset with new variables and one more provenance record.

    Attributes of the Dataset and of the replaced variables are kept whatever arithmetic did to
    them; declared variables get their constant attributes, and dtypes as declared.

    Parameters
    ----------
    dataset : Dataset
        The input of the correction.
    step : str
        Name of the correction, as in the pipeline (``"superbias"``).
    references : sequence of Dataset
        References used; their ``reference_type`` and ``filename`` attributes are recorded.
    parameters : mapping, optional
        Parameters, JSON-compatible.
    units : mapping, optional
        New units of variables; else those of the input variable stay.
    drop : sequence of str
        Variables to leave out of the result.
    attrs : mapping, optional
        Dataset attributes to add (a header keyword that the correction computes).
    **variables : DataArray
        New or replaced variables.
    """
    used = {r.attrs["reference_type"]: r.attrs.get("filename", "unnamed") for r in references}
    entry = {"step": step, "status": "COMPLETE", "parameters": dict(parameters or {}), "references": used}
    finished = {}
    for name, array in variables.items():
        old = dict(dataset[name].attrs) if name in dataset.variables else {}
        constant = variable_attributes(name) if name in VARIABLES else {}
        new_units = {"units": units[name]} if units and name in units else {}
        if name in VARIABLES:
            array = array.astype(VARIABLES[name].dtype, copy=False)
        array = array.drop_vars([c for c in array.coords if c not in dataset.coords], errors="ignore")
        finished[name] = array.assign_attrs()
        finished[name].attrs = {**old, **constant, **new_units}
    result = dataset.drop_vars(list(drop)).assign(finished)
    result.attrs = _append({**dataset.attrs, **(attrs or {})}, entry)
    return result


def record_skip(dataset: xr.Dataset, step: str, reason: str) -> xr.Dataset:
    """Return the Dataset with a record that a correction was skipped, and why."""
    result = dataset.copy(deep=False)
    entry = {"step": step, "status": "SKIPPED", "parameters": {}, "references": {}, "reason": reason}
    result.attrs = _append(dataset.attrs, entry)
    return result
