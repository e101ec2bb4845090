"""Find the references of the optics of an exposure: ASDF files, by path or in a folder."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nsxr.errors import DegradedResultWarning, MissingReferenceError, ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfFile, read_asdf
from nsxr.model.keywords import parse_date
from nsxr.model.optics_header import OpticsHeader
from nsxr.references.files import ANY

__all__ = ["choose_files", "warn_if_mixed"]

logger = logging.getLogger(__name__)

_BY_GRATING = ("disperser",)
_BY_FILTER = ("fore", "chromcorr")
_ERAS = ("GROUND", "INFLIGHT")


@dataclass(frozen=True)
class _Wanted:
    """What references must fit."""

    header: OpticsHeader
    start: datetime | None


def choose_files(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    needed: Iterable[str],
    optional: Iterable[str],
    header: OpticsHeader,
    start: datetime | None,
) -> dict[str, AsdfFile]:
    """Return the reference file of each type.

    Parameters
    ----------
    source : path, or mapping of str to path
        A folder of ASDF files, which are recognized by their headers; or paths by type.
    needed, optional : iterable of str
        Types that must be there, and types that may be there.
    header : OpticsHeader
        The exposure.
    start : datetime or None
        When the exposure started. None if it is not known: then the latest references are taken.

    Raises
    ------
    ReferenceFileError
        If a file given by path does not fit, or two files in the folder fit equally well.
    MissingReferenceError
        If the folder does not exist, or types are missing. All missing types are named.
    """
    needed, optional = tuple(needed), tuple(optional)
    types = (*needed, *optional)
    wanted = _Wanted(header, start)
    left_out: dict[str, list[str]] = {}
    if isinstance(source, Mapping):
        found = {kind: _given(kind, source[kind], wanted) for kind in types if source.get(kind) is not None}
    else:
        found = _from_folder(Path(source), types, wanted, left_out)
    missing = [kind for kind in needed if kind not in found]
    if missing:
        reasons = [reason for kind in missing for reason in left_out.get(kind, ())]
        why = f"; left out: {'; '.join(reasons[:4])}" if reasons else ""
        place = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
        raise MissingReferenceError(
            f"{header.called}: references {', '.join(missing)} of the optics are missing in {place}{why}"
        )
    return found


def _given(kind: str, path: str | os.PathLike[str], wanted: _Wanted) -> AsdfFile:
    file = read_asdf(path)
    reason = _why_unfit(kind, file, wanted, strict=False)
    if reason:
        raise ReferenceFileError(f"{file.name}: {reason}")
    return file


def _from_folder(
    folder: Path, types: tuple[str, ...], wanted: _Wanted, left_out: dict[str, list[str]]
) -> dict[str, AsdfFile]:
    if not folder.is_dir():
        raise MissingReferenceError(f"{folder} is not a folder of references")
    candidates: dict[str, list[AsdfFile]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".asdf":
            continue
        try:
            file = read_asdf(path)
        except ReferenceFileError as error:
            logger.warning("left out: %s", error)
            continue
        kind = str(_meta(file).get("reftype", "")).strip().lower()
        if kind not in types:
            continue
        reason = _why_unfit(kind, file, wanted, strict=True)
        if reason is None:
            candidates.setdefault(kind, []).append(file)
        else:
            logger.info("left out: %s: %s", path, reason)
            left_out.setdefault(kind, []).append(f"{path.name}: {reason}")
    return {kind: _best(kind, files) for kind, files in candidates.items()}


def _best(kind: str, files: list[AsdfFile]) -> AsdfFile:
    """Return the file with the latest USEAFTER."""
    ordered = sorted(files, key=_use_after)
    if len(ordered) > 1 and _use_after(ordered[-1]) == _use_after(ordered[-2]):
        raise ReferenceFileError(
            f"{ordered[-2].name} and {ordered[-1].name} fit equally well as {kind} reference; name one of them"
        )
    return ordered[-1]


def _why_unfit(kind: str, file: AsdfFile, wanted: _Wanted, *, strict: bool) -> str | None:
    """Return why a reference does not fit an exposure, None if it fits.

    With ``strict``, the exposure type and the date have to fit too.
    """
    meta = _meta(file)
    found = str(meta.get("reftype", "")).strip().lower()
    if found != kind:
        return f"REFTYPE is {found.upper()!r}, expected {kind.upper()!r}"
    instrument, exposure = _section(meta, "instrument"), _section(meta, "exposure")
    if str(instrument.get("name", "NIRSPEC")).strip().upper() != "NIRSPEC":
        return f"INSTRUME is {instrument['name']!r}, expected 'NIRSPEC'"
    header = wanted.header
    checks = [("DETECTOR", instrument, "detector", header.detector)]
    if kind in _BY_GRATING:
        checks.append(("GRATING", instrument, "grating", header.grating))
    if kind in _BY_FILTER:
        checks.append(("FILTER", instrument, "filter", header.filter))
    if strict:
        checks.append(("EXP_TYPE", exposure, "type", header.exposure_type))
    for keyword, section, name, value in checks:
        listed = _listed(section, name, "exptype" if name == "type" else name)
        if listed and value not in listed:
            return f"{keyword} is {'|'.join(listed)}, that of the exposure is {value}"
    after = _use_after(file)
    if strict and wanted.start is not None and after > wanted.start:
        return f"USEAFTER is {after:%Y-%m-%dT%H:%M:%S}, the exposure started {wanted.start:%Y-%m-%dT%H:%M:%S}"
    return None


def _listed(section: Mapping[str, Any], name: str, pattern: str) -> list[str]:
    """Return the values that a header allows; empty if it allows all."""
    for key in (f"p_{pattern}", name):
        value = str(section.get(key) or "").upper()
        listed = [word.strip() for word in value.split("|") if word.strip()]
        if listed and not any(word in ANY for word in listed):
            return listed
    return []


def _use_after(file: AsdfFile) -> datetime:
    date = parse_date(str(_meta(file).get("useafter", "")))
    return datetime.min.replace(tzinfo=UTC) if date is None else date


def _meta(file: AsdfFile) -> Mapping[str, Any]:
    return _section(file.tree, "meta")


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def warn_if_mixed(files: Mapping[str, AsdfFile], called: str) -> None:
    """Warn if some references are from the ground and others from flight. Their optics differ by 10 to 45 pixels."""
    by_era: dict[str, list[str]] = {era: [] for era in _ERAS}
    for kind, file in files.items():
        pedigree = str(_meta(file).get("pedigree", "")).strip().upper()
        for era in _ERAS:
            if pedigree.startswith(era) and kind != "wavelengthrange":  # a table of limits, the same for both
                by_era[era].append(os.path.basename(file.name))
    ground, flight = by_era["GROUND"], by_era["INFLIGHT"]
    if ground and flight:
        warnings.warn(
            f"{called}: references from the ground ({', '.join(ground)}) are mixed with references from flight "
            f"({', '.join(flight)}); their optics differ by 10 to 45 pixels",
            DegradedResultWarning,
            stacklevel=3,
        )
