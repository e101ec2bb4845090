"""Find which exposures a Dataset was made from, so that no exposure is used twice."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xarray as xr

from nsxr.errors import ParameterError
from nsxr.model.keywords import read

__all__ = ["COMBINED", "exposures_of", "identity", "require_distinct", "require_distinct_headers"]

COMBINED = "combined_exposures"
"""Attribute of Datasets made from several exposures: a JSON list with the :func:`identity` of each."""

_NAME = ("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE", "DETECTOR")
_LEAST = ("PROGRAM", "OBSERVTN", "VISIT", "EXPOSURE")
_OBSERVATION = ("PROGRAM", "OBSERVTN", "DETECTOR", "FILTER", "GRATING", "SLTNAME")


def identity(header: Mapping[str, object]) -> list[str] | None:
    """Return what identifies an exposure, or a segment of a time series; None if the header does not contain it.

    Parameters
    ----------
    header : mapping
        Keywords. EXPSTART, or PROGRAM, OBSERVTN, VISIT and EXPOSURE are needed. Names of files are not used.
    """
    start, first = (read(header, key, matters=False) for key in ("EXPSTART", "INTSTART"))
    if not start and not all(_text(header.get(key)) for key in _LEAST):
        return None
    return [*(_text(header.get(key)) for key in _NAME), f"{start:.9f}" if start else "", str(first)]


def _text(value: object) -> str:
    """Return a keyword as text, which is the same for ``001`` and 1."""
    text = "" if value is None else str(value).strip().upper()
    return "" if text in ("", "N/A", "NONE", "UNKNOWN") else text.lstrip("0") or "0"


def exposures_of(header: Mapping[str, object]) -> set[tuple[str, ...]]:
    """Return the exposures that a slit or spectrum was made from, with slit and order; empty if they are unknown."""
    order = abs(read(header, "SPORDER", matters=False))
    slit = _text(header.get("SLTNAME")) + (f" order {order}" if order > 1 else "")
    if COMBINED in header:
        try:
            return {(*map(str, found), slit) for found in json.loads(str(header[COMBINED]))}
        except (ValueError, TypeError, RecursionError):  # the attribute may come from other software
            return set()
    own = identity(header)
    if own is None:
        return set()
    if _is_multiple(header):  # a MultiExposureModel has the header of only one of its exposures
        own = [*own, f"exposure {read(header, 'EXTVER', matters=False)}"]
    return {(*own, slit)}


def _is_multiple(header: Mapping[str, object]) -> bool:
    return str(header.get("DATAMODL", "")) == "MultiExposureModel"


def require_distinct_headers(headers: Sequence[Mapping[str, object]]) -> None:
    """Raise ParameterError if two headers are of the same exposure and slit. Names of files are not used.

    Parameters
    ----------
    headers : sequence of mapping
        Attributes of slits, spectra or count rates.
    """
    seen: dict[tuple[str, ...], int] = {}
    kinds: dict[tuple[str, ...], int] = {}
    for number, header in enumerate(headers):
        found = exposures_of(header)
        twin = next((seen[one] for one in found if one in seen), None)
        seen |= dict.fromkeys(found, number)
        if twin is None and found:
            # a MultiExposureModel does not name its exposures; they are those of cal products of the same observation
            key = tuple(_text(header.get(name)) for name in _OBSERVATION)
            twin = kinds.get((*key, str(not _is_multiple(header))))
            kinds[*key, str(_is_multiple(header))] = number
        if twin is not None:
            _refuse(headers[twin], header, (twin, number))


def require_distinct(datasets: Iterable[xr.Dataset]) -> None:
    """Raise ParameterError if two slits, spectra or count rates are of the same exposure.

    If headers do not identify the exposure, Datasets with the same array count as the same exposure.

    Parameters
    ----------
    datasets : iterable of Dataset
        With ``sci`` or ``flux``. Nothing is computed.
    """
    each = list(datasets)
    require_distinct_headers([dataset.attrs for dataset in each])
    arrays: dict[Any, int] = {}
    for number, dataset in enumerate(each):
        name = next((name for name in ("sci", "flux") if name in dataset), None)
        if name is None:
            continue
        variable = dataset.variables[name]
        twin = arrays.setdefault(variable.data.name if variable.chunks is not None else id(variable), number)
        if twin != number and not (exposures_of(each[twin].attrs) and exposures_of(dataset.attrs)):
            _refuse(each[twin].attrs, dataset.attrs, (twin, number))


def _refuse(one: Mapping[str, object], other: Mapping[str, object], numbers: tuple[int, int]) -> None:
    names = [
        str(header.get("filename") or header.get("FILENAME") or f"number {number + 1}")
        for header, number in zip((one, other), numbers, strict=True)
    ]
    slit = f" of slit {other['SLTNAME']}" if other.get("SLTNAME") else ""
    raise ParameterError(
        f"{names[0]} and {names[1]} hold the same exposure{slit}; used twice, it would make errors too small: "
        "give one of them"
    )
