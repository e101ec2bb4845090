"""Choose among reference files by what their headers say: FITS, ASDF and JSON files, in a folder or by path."""

import logging
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nsxr.errors import (
    DegradedResultWarning,
    InputFileError,
    MissingReferenceError,
    NsxrError,
    ParameterError,
    ReferenceFileError,
)
from nsxr.formats.asdf_blocks import AsdfFile, read_asdf
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.whole_files import read_json, read_start
from nsxr.model.keywords import parse_date
from nsxr.model.texts import in_capitals
from nsxr.model.types import Named
from nsxr.references.files import ANY

__all__ = ["Candidate", "Wanted", "choose", "header_of", "read_candidate"]

logger = logging.getLogger(__name__)

_PATTERNS: Mapping[str, str] = {
    "DETECTOR": "P_DETECT",
    "FILTER": "P_FILTER",
    "GRATING": "P_GRATIN",
    "EXP_TYPE": "P_EXP_TY",
}
"""Keywords that restrict the use of a reference, and those that list several values: ``NRS_IFU|NRS_MSASPEC|``."""
_IN_TREES: Mapping[str, tuple[str, ...]] = {
    "REFTYPE": ("reftype",),
    "USEAFTER": ("useafter",),
    "PEDIGREE": ("pedigree",),
    "INSTRUME": ("instrument", "name"),
    "DETECTOR": ("instrument", "detector"),
    "FILTER": ("instrument", "filter"),
    "GRATING": ("instrument", "grating"),
    "EXP_TYPE": ("exposure", "type"),
    "P_DETECT": ("instrument", "p_detector"),
    "P_FILTER": ("instrument", "p_filter"),
    "P_GRATIN": ("instrument", "p_grating"),
    "P_EXP_TY": ("exposure", "p_exptype"),
}
"""Where the ``meta`` of ASDF and JSON files has a keyword."""
_IN_JSON: Mapping[str, str] = {"instrument": "INSTRUME", "p_exptype": "P_EXP_TY"}
"""Spellings at the top of JSON files that are no keywords of FITS files."""
_LONGEST = 2**28  # bytes in which the name of a type is looked for


@dataclass(frozen=True)
class Candidate:
    """A reference file and what its header says.

    Attributes
    ----------
    path : str
        The file.
    header : mapping
        Texts by the names that FITS files have: REFTYPE, INSTRUME, USEAFTER, PEDIGREE, DETECTOR, P_DETECT and so on.
    tree : AsdfFile or None
        The content of an ASDF file.
    """

    path: str
    header: Mapping[str, str]
    tree: AsdfFile | None = None

    @property
    def kind(self) -> str:
        """Type of the reference in lower case, empty if the header does not tell."""
        return self.header.get("REFTYPE", "").lower()

    @property
    def use_after(self) -> datetime:
        """The first date for which the reference may be used, a date long ago if the header has none."""
        date = parse_date(self.header.get("USEAFTER", ""))
        return datetime.min.replace(tzinfo=UTC) if date is None else date

    def allowed(self, keyword: str) -> list[str]:
        """Return the values of a keyword that the reference is for; empty if it is for all."""
        for key in (_PATTERNS[keyword], keyword):
            listed = [word.strip() for word in self.header.get(key, "").upper().split("|") if word.strip()]
            if listed and not any(word in ANY for word in listed):
                return listed
        return []


@dataclass(frozen=True)
class Wanted:
    """What references must fit.

    Attributes
    ----------
    header : mapping
        DETECTOR, FILTER, GRATING and EXP_TYPE of the exposure.
    called : str
        Name of the exposure, for messages.
    start : datetime or None
        When the exposure started. None if it is not known: then the latest references are taken.
    checked : callable
        Takes a type, and returns which of the keywords references of this type must fit.
    """

    header: Mapping[str, str]
    called: str
    start: datetime | None
    checked: Callable[[str], Collection[str]]


def choose(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    types: Collection[str],
    wanted: Wanted,
    suffixes: Collection[str],
    left_out: dict[str, list[str]],
) -> dict[str, Candidate]:
    """Return a file of each type, as far as there are any.

    Parameters
    ----------
    source : path, or mapping of str to path
        A folder of files, which are recognized by their headers; or paths by type.
    types : collection of str
        Types to choose.
    wanted : Wanted
        What the files must fit. The type of the exposure and the date are not checked for files given by path.
    suffixes : collection of str
        Ends of the names of files to read in a folder.
    left_out : dict of str to list of str
        Gets the reasons why files of the folder were left out, by type; those of unreadable files under ``""``.

    Raises
    ------
    ParameterError
        If a path in a mapping is something else.
    ReferenceFileError
        If a file given by path does not fit or cannot be read, or if two files in the folder fit equally well.
    MissingReferenceError
        If the folder does not exist.

    Warns
    -----
    DegradedResultWarning
        If the date of the exposure is not known, and several references differ by their dates only.
    """
    if isinstance(source, Mapping):
        for kind, path in source.items():
            if not isinstance(path, str | os.PathLike | None):
                raise ParameterError(f"the path of the reference {kind} is {path!r:.60}, expected a text or a Path")
        return {kind: _given(kind, source[kind], wanted) for kind in types if source.get(kind) is not None}
    folder, found = Path(source), dict[str, list[Candidate]]()
    if not folder.is_dir():
        raise MissingReferenceError(f"{folder} is not a folder of references")
    for path in sorted(folder.iterdir()):
        if not path.name.lower().endswith(tuple(suffixes)):
            continue
        try:
            candidate = read_candidate(path, types)
        except NsxrError as error:
            logger.warning("left out: %s", error)
            left_out.setdefault("", []).append(str(error))
            continue
        if candidate is None or candidate.kind not in types:
            continue
        reason = _why_unfit(candidate.kind, candidate, wanted, strict=True)
        if reason is None:
            found.setdefault(candidate.kind, []).append(candidate)
        else:
            logger.info("left out: %s: %s", path, reason)
            left_out.setdefault(candidate.kind, []).append(f"{path.name}: {reason}")
    return {kind: _best(kind, candidates, wanted) for kind, candidates in found.items()}


def read_candidate(path: str | os.PathLike[str], types: Collection[str] = ()) -> Candidate | None:
    """Read what the header of a reference file says.

    Parameters
    ----------
    path : path
        FITS, ASDF or JSON file, by the end of its name.
    types : collection of str, optional
        Types that are looked for. An ASDF or JSON file whose text mentions none of them is not read further.

    Returns
    -------
    Candidate or None
        None if the file is of none of the types.

    Raises
    ------
    InputFileError, ReferenceFileError
        If the file cannot be read.
    """
    name = os.fspath(path)
    if name.lower().endswith((".fits", ".fits.gz")):
        header = keywords(scan(name).primary)
        return Candidate(name, {key: str(value).strip() for key, value in header.items()})
    if types and not _mentions(name, types):
        return None
    if name.lower().endswith(".asdf"):
        file = read_asdf(name)
        return Candidate(name, _from_meta(file.tree.get("meta")), file)
    return Candidate(name, _from_json(name))


def _mentions(name: str, types: Collection[str]) -> bool:
    """Return whether the text of a file has the name of a type. This takes a hundredth of the time of parsing it."""
    text = read_start(name, _LONGEST)
    end = text.find(b"\n...") if text.startswith(b"#ASDF") else -1
    text = text[: end if end >= 0 else None].lower()
    return any(kind.encode() in text for kind in types)


def _from_json(name: str) -> dict[str, str]:
    tree = read_json(name)
    if not isinstance(tree, Mapping):
        raise ReferenceFileError(f"{name}: holds no values by name")
    top = {_IN_JSON.get(key.lower(), key.upper()): str(value) for key, value in tree.items() if isinstance(value, str)}
    return _from_meta(tree.get("meta")) | {key: value.strip() for key, value in top.items()}


def _from_meta(meta: Any) -> dict[str, str]:
    found = {}
    for keyword, place in _IN_TREES.items():
        value = meta
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            found[keyword] = str(value).strip()
    return found


def _given(kind: str, path: str | os.PathLike[str], wanted: Wanted) -> Candidate:
    try:
        candidate = read_candidate(path)
    except InputFileError as error:
        raise ReferenceFileError(f"{kind} reference {error}") from error
    assert candidate is not None  # without types, every file is read
    reason = _why_unfit(kind, candidate, wanted, strict=False)
    if reason:
        raise ReferenceFileError(f"{candidate.path}: {reason}")
    return candidate


def _why_unfit(kind: str, candidate: Candidate, wanted: Wanted, *, strict: bool) -> str | None:
    """Return why a reference does not fit an exposure, None if it fits.

    With ``strict``, the type of the exposure and the date have to fit too.
    """
    is_bare = not candidate.kind and not strict and candidate.path.lower().endswith(".json")  # written by a user
    if candidate.kind != kind and not is_bare:
        return f"REFTYPE is {candidate.kind.upper()!r}, expected {kind.upper()!r}"
    instrument = candidate.header.get("INSTRUME", "NIRSPEC").upper()
    if instrument != "NIRSPEC":
        return f"INSTRUME is {instrument!r}, expected 'NIRSPEC'"
    for keyword in wanted.checked(kind):
        if keyword == "EXP_TYPE" and not strict:
            continue
        listed, value = candidate.allowed(keyword), wanted.header[keyword]
        if listed and value not in listed:
            return f"{keyword} is {'|'.join(listed)}, that of the exposure is {value}"
    after = candidate.use_after
    if strict and wanted.start is not None and after > wanted.start:
        return f"USEAFTER is {after:%Y-%m-%dT%H:%M:%S}, the exposure started {wanted.start:%Y-%m-%dT%H:%M:%S}"
    return None


def _best(kind: str, candidates: Sequence[Candidate], wanted: Wanted) -> Candidate:
    """Return the most specific candidate. If there are several, return the one with the latest USEAFTER."""

    def specific(candidate: Candidate) -> tuple[int, bool]:
        named = sum(value in candidate.allowed(keyword) for keyword, value in wanted.header.items())
        return named, candidate.header.get("EXP_TYPE", "").upper() == wanted.header["EXP_TYPE"]

    ordered = sorted(candidates, key=lambda one: (*specific(one), one.use_after))
    best = ordered[-1]
    others = [one for one in ordered[:-1] if specific(one) == specific(best)]
    if others and others[-1].use_after == best.use_after:
        raise ReferenceFileError(
            f"{others[-1].path} and {best.path} fit equally well as {kind} reference; name one of them"
        )
    if others and wanted.start is None:
        warnings.warn(
            f"{wanted.called}: its date is not known, so the latest {kind} reference is taken, "
            f"{os.path.basename(best.path)}",
            DegradedResultWarning,
            stacklevel=5,
        )
    return best


def header_of(attrs: Named) -> dict[str, str]:
    """Return DETECTOR, FILTER, GRATING and EXP_TYPE of an exposure."""
    return {key: in_capitals(attrs, key) for key in _PATTERNS}
