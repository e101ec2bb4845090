"""Find the references of an exposure: given by path, in a directory, or by the reference data system."""

import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import xarray as xr

from nsxr.errors import (
    DegradedResultWarning,
    InputFileError,
    MissingReferenceError,
    NsxrError,
    ParameterError,
    ReferenceFileError,
    install,
)
from nsxr.formats.fits_headers import FitsFile, keywords, refuse_compressed
from nsxr.model.keywords import read, start_of
from nsxr.model.readout import Readout
from nsxr.model.variables import RAMP, check
from nsxr.references.files import ANY, OPTIONAL, TYPES, open_reference, region, sampling, scan_reference
from nsxr.references.sirs_kernels import open_sirs_kernel
from nsxr.storage.stores import StorageOptions, is_remote, list_files, shown

__all__ = ["References", "open_references"]

logger = logging.getLogger(__name__)

_CRDS = "crds://"
_CRDS_PARAMETERS = {
    "meta.instrument.name": "INSTRUME",
    "meta.instrument.detector": "DETECTOR",
    "meta.instrument.filter": "FILTER",
    "meta.instrument.grating": "GRATING",
    "meta.instrument.lamp_mode": "OPMODE",
    "meta.instrument.lamp_state": "LAMP",
    "meta.exposure.type": "EXP_TYPE",
    "meta.exposure.readpatt": "READPATT",
    "meta.subarray.name": "SUBARRAY",
    "meta.subarray.xstart": "SUBSTRT1",
    "meta.subarray.ystart": "SUBSTRT2",
    "meta.subarray.xsize": "SUBSIZE1",
    "meta.subarray.ysize": "SUBSIZE2",
    "meta.observation.date": "DATE-OBS",
    "meta.observation.time": "TIME-OBS",
    "meta.visit.tsovisit": "TSOVISIT",
}
"""Header keyword of each parameter by which the reference data system chooses."""


class References(dict[str, xr.Dataset]):
    """References by type, and why others were left out.

    Attributes
    ----------
    left_out : dict of str to list of str
        By type, file and reason of each reference in the directory that does not serve the exposure. Under the empty
        name, files that could not be read.
    """

    def __init__(self, found: Mapping[str, xr.Dataset], left_out: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(found)
        self.left_out = {kind: list(reasons) for kind, reasons in (left_out or {}).items()}

    def why_not(self, kind: str, most: int = 4) -> str:
        """Return in words why a type is missing, empty if nothing was left out."""
        reasons = [*self.left_out.get(kind, ()), *self.left_out.get("", ())]
        more = len(reasons) - most
        return "; ".join([*reasons[:most], *([f"and {more} more files"] if more > 0 else [])])


def open_references(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    exposure: xr.Dataset,
    overrides: Mapping[str, str | os.PathLike[str]] | None = None,
    types: Iterable[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> References:
    """Choose and open the references of an exposure; pixels stay in the files until needed.

    Parameters
    ----------
    source : path, mapping of str to path, or "crds"
        A directory of reference files, told apart by their headers; paths by type; or ``"crds"`` for
        the best references of the JWST Calibration Reference Data System, fetched now if they are
        not in its cache. Directories and paths may be URLs.
    exposure : Dataset
        Raw exposure.
    overrides : mapping of str to path, optional
        Paths by type that win over ``source``; ``crds://NAME`` is the file of that name of the reference data system.
    types : iterable of str, optional
        Types wanted; default all that stage 1 needs, and a ``pictureframe`` that a directory has. IRS2 weights are left
        out for other readouts; filters of side reference pixels (``sirskernel``) are opened if they are given by path.
    storage_options : mapping, optional
        How the stores behind URLs are reached, see :func:`nsxr.open_exposure`.

    Returns
    -------
    dict of str to Dataset
        By type, each with its path or URL as ``encoding["source"]``. A type for which there is no reference is absent;
        the step that needs it says so, and why files of a directory were left out.

    Raises
    ------
    ReferenceFileError
        If a reference given by path does not belong to the exposure, or two in a directory fit
        equally well.
    MissingReferenceError
        If the directory does not exist, or its store does not list it.
    RemoteAccessError
        If the store behind a URL cannot be reached, or asks for credentials.
    ParameterError
        If a type is unknown.
    """
    check(exposure, "sci", dims=RAMP)
    readout = Readout.of(exposure)
    wanted = [t for t in (TYPES if types is None else tuple(types)) if t != "refpix" or readout.is_irs2]
    is_crds = not isinstance(source, Mapping) and os.fspath(source).lower() == "crds"
    if types is None and not is_crds and readout.subarray == "FULL":
        wanted.append("pictureframe")
    given = {**(source if isinstance(source, Mapping) else {}), **(overrides or {})}
    unknown = [t for t in [*given, *wanted] if t not in (*TYPES, *OPTIONAL)]
    if unknown:
        raise ParameterError(f"unknown reference types {', '.join(unknown)}; known: {', '.join((*TYPES, *OPTIONAL))}")
    wanted = [t for t in wanted if t != "sirskernel"]
    options = StorageOptions(storage_options)
    opened: dict[str, FitsFile] = {}
    left_out: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for kind in wanted:
        if kind in given:
            path = os.fspath(given[kind])
            if path.startswith(_CRDS):
                by_name[kind] = path
                path = _fetched(path)
            opened[kind] = _given(kind, path, exposure, options)
    others = [kind for kind in wanted if kind not in opened]
    if others and not isinstance(source, Mapping):
        if is_crds:
            for kind, path in _from_crds(exposure, others).items():
                opened[kind] = _given(kind, path, exposure, options)
                names[kind] = f"{_CRDS}{os.path.basename(path)}"
        else:
            opened |= _from_directory(os.fspath(source), exposure, others, options, left_out)
    references = References(
        {kind: open_reference(kind, opened[kind], exposure) for kind in wanted if kind in opened}, left_out
    )
    state = _crds_state() if names else {}
    for kind, name in names.items():
        references[kind].attrs |= {"filename": name, **state}
    for kind, name in by_name.items():
        references[kind].attrs["filename"] = name  # whatever context has it
    if "sirskernel" in given:
        references["sirskernel"] = open_sirs_kernel(given["sirskernel"], readout.detector)
    places = {kind: file.location for kind, file in opened.items()}
    if "sirskernel" in references:
        place = os.fspath(given["sirskernel"])
        places["sirskernel"] = place if is_remote(place) else os.path.abspath(place)
    for kind, place in places.items():
        references[kind].encoding["source"] = place
        logger.info("%s: %s", kind, shown(place))
    return references


def _given(kind: str, path: str | os.PathLike[str], exposure: xr.Dataset, options: StorageOptions) -> FitsFile:
    """Scan a reference named by path and check that it covers the exposure."""
    try:
        file = scan_reference(path, options)
    except InputFileError as error:
        raise ReferenceFileError(f"{kind} reference {error}") from error
    reason = _why_not(kind, file, exposure, strict=False)
    if reason:
        raise ReferenceFileError(f"{file.path}: {reason}")
    return file


def _from_directory(
    directory: str,
    exposure: xr.Dataset,
    types: Sequence[str],
    options: StorageOptions,
    left_out: dict[str, list[str]],
) -> dict[str, FitsFile]:
    """Scan a directory for what fits; say in ``left_out`` why other references do not."""
    candidates: dict[str, list[FitsFile]] = {kind: [] for kind in types}
    for path in _listed(directory, options):
        try:
            file = scan_reference(path, options)
        except InputFileError as error:
            logger.warning("left out: %s", error)
            left_out.setdefault("", []).append(str(error))
            continue
        kind = str(keywords(file.primary).get("REFTYPE", "")).strip().lower()
        if kind in candidates:
            reason = _why_not(kind, file, exposure, strict=True)
            if reason is None:
                candidates[kind].append(file)
            else:
                logger.info("left out: %s: %s", file.path, reason)
                left_out.setdefault(kind, []).append(f"{os.path.basename(file.path)}: {reason}")
    return {kind: _best(kind, files, exposure) for kind, files in candidates.items() if files}


def _listed(directory: str, options: StorageOptions) -> list[str]:
    """Return the FITS files of a directory, which may be a URL."""
    if is_remote(directory):
        try:
            paths = list_files(directory, options)
        except InputFileError as error:
            raise MissingReferenceError(f"{shown(directory)} is not a directory of references ({error})") from error
    elif Path(directory).is_dir():
        paths = sorted(map(str, Path(directory).iterdir()))
    else:
        raise MissingReferenceError(f"{directory} is not a directory of references")
    found = [path for path in paths if path.endswith((".fits", ".fits.gz"))]
    if is_remote(directory) and not found:
        raise MissingReferenceError(
            f"{shown(directory)} lists no FITS files; name the references one by one if its server gives no listings"
        )
    return found


def _best(kind: str, files: Sequence[FitsFile], exposure: xr.Dataset) -> FitsFile:
    """Return the most specific candidate, of those the one of latest use."""
    subarray = Readout.of(exposure).subarray

    def rank(file: FitsFile) -> tuple[bool, bool, datetime]:
        own = str(keywords(file.primary).get("SUBARRAY", "")).strip().upper() == subarray
        pattern = _says(file, "READPATT", "P_READPA") is not None
        return own, pattern, _use_after(file) or datetime.min.replace(tzinfo=UTC)

    ordered = sorted(files, key=rank)
    if len(ordered) > 1 and rank(ordered[-1]) == rank(ordered[-2]):
        raise ReferenceFileError(
            f"{ordered[-2].path} and {ordered[-1].path} fit equally well as {kind} reference; name one of them"
        )
    if len(ordered) > 1 and rank(ordered[-1])[:2] == rank(ordered[-2])[:2] and start_of(exposure.attrs) is None:
        warnings.warn(
            f"{exposure.attrs.get('filename', 'the exposure')}: DATE-OBS is {exposure.attrs.get('DATE-OBS')!r}, so the "
            f"latest {kind} reference is taken, {os.path.basename(ordered[-1].path)}",
            DegradedResultWarning,
            stacklevel=4,
        )
    return ordered[-1]


def _use_after(file: FitsFile) -> datetime | None:
    """Return the first date of use; None for any."""
    found: datetime | None = read(keywords(file.primary), "USEAFTER", source=file.path)
    return found


def _says(file: FitsFile, *keys: str) -> str | None:
    """Return the first of some keywords that restricts the use of a reference."""
    header = keywords(file.primary)
    for key in keys:
        value = str(header.get(key, "")).strip().upper()
        if value not in ANY:
            return value
    return None


def _why_not(kind: str, file: FitsFile, exposure: xr.Dataset, strict: bool) -> str | None:
    """Return why a reference does not serve an exposure, None if it does.

    ``strict`` also asks for the readout pattern and the date, which someone who names a file may
    choose to disregard.
    """
    header, readout = keywords(file.primary), Readout.of(exposure)
    if str(header.get("REFTYPE", "")).strip().lower() != kind:
        return f"REFTYPE is {header.get('REFTYPE')!r}, expected {kind.upper()!r}"
    instrument = str(header.get("INSTRUME", "NIRSPEC")).strip().upper()
    if instrument != "NIRSPEC":
        return f"INSTRUME is {instrument!r}, expected 'NIRSPEC'"
    detector = _says(file, "DETECTOR")
    if detector is not None and detector != readout.detector:
        return f"DETECTOR is {detector!r}, the exposure is from {readout.detector!r}"
    if strict and (reason := _why_not_now(kind, file, exposure, readout)):
        return reason
    try:
        refuse_compressed(file)
        place = region(file)
        if kind == "dark":
            sampling(file)
    except NsxrError as error:
        return str(error).removeprefix(f"{file.path}: ")
    if place is not None:
        needed = (readout.row_start, readout.n_rows, readout.column_start, readout.n_columns)
        covers = all(place[i] <= needed[i] and place[i] + place[i + 1] >= needed[i] + needed[i + 1] for i in (0, 2))
        if not covers or (kind == "dark" and place != needed):
            word = "exactly" if kind == "dark" else "at least"
            return f"covers {_pixels(place)}, but {word} {_pixels(needed)} are needed"
    return None


def _why_not_now(kind: str, file: FitsFile, exposure: xr.Dataset, readout: Readout) -> str | None:
    """Return why a reference does not serve the readout or the date of an exposure, None if it does."""
    patterns = _says(file, "P_READPA", "READPATT")
    if patterns is not None:
        listed = patterns.replace("ALLIRS2", "NRSIRS2|NRSIRS2RAPID").split("|")
        if readout.read_pattern not in [p.strip() for p in listed]:
            return f"READPATT is {patterns!r}, that of the exposure is {readout.read_pattern!r}"
    subarray = _says(file, "SUBARRAY")
    if kind in ("dark", "superbias") and subarray not in (None, readout.subarray):
        # bias and dark hang on the timing of the readout: a cut of another subarray looks right and is not
        return f"SUBARRAY is {subarray!r}, that of the exposure is {readout.subarray!r}"
    try:
        after = _use_after(file)
    except InputFileError as error:
        return str(error).removeprefix(f"{file.path}: ")
    start = start_of(exposure.attrs)
    if start is not None and after is not None and after > start:
        return f"USEAFTER is {after:%Y-%m-%dT%H:%M:%S}, the exposure started {start:%Y-%m-%dT%H:%M:%S}"
    return None


def _pixels(place: tuple[int, int, int, int]) -> str:
    row, rows, column, columns = place
    return f"rows {row} to {row + rows - 1}, columns {column} to {column + columns - 1}"


def _crds_state() -> dict[str, str]:
    """Return context and version of the reference data system, which has just chosen."""
    crds: Any = import_module("crds")
    found = {"crds_version": str(getattr(crds, "__version__", "unknown"))}
    try:
        found["crds_context"] = str(import_module("crds.core.heavy_client").get_processing_mode("jwst")[1])
    except (ImportError, AttributeError, OSError, crds.CrdsError) as error:  # the references are chosen all the same
        logger.warning("the context of the reference data system is not known: %s", error)
    return found


def _crds_library() -> Any:
    try:
        return import_module("crds")
    except ImportError as error:
        raise MissingReferenceError(
            f"the crds library is not installed ({install('crds')}); it needs CRDS_PATH, a folder for its files, and "
            "CRDS_SERVER_URL=https://jwst-crds.stsci.edu in the environment; or give a directory of references"
        ) from error


def _fetched(name: str) -> str:
    """Return the path of the file ``crds://NAME`` of the reference data system; download it if need be."""
    file = name.removeprefix(_CRDS)
    if not re.fullmatch(r"\w[\w.-]*", file):
        raise ParameterError(f"{name} is no file of the reference data system, expected crds:// and the name of a file")
    crds = _crds_library()
    try:
        return str(import_module("crds.client.api").dump_references("jwst", [file])[file])
    except (crds.CrdsError, SystemExit, KeyError) as error:
        reason = str(error) if isinstance(error, crds.CrdsError) else "it has no such file, or cannot be reached"
        raise MissingReferenceError(
            f"the reference data system did not give {file}: {reason}; check CRDS_PATH and CRDS_SERVER_URL"
        ) from error


def _from_crds(exposure: xr.Dataset, types: Sequence[str]) -> dict[str, str]:
    """Ask the reference data system, once, for all types; download what is not in its cache."""
    crds = _crds_library()
    parameters = {name: exposure.attrs[key] for name, key in _CRDS_PARAMETERS.items() if key in exposure.attrs}
    if "meta.visit.tsovisit" in parameters:  # 1 and 0 as an attribute
        parameters["meta.visit.tsovisit"] = bool(parameters["meta.visit.tsovisit"])
    try:
        found = crds.getreferences(parameters, reftypes=list(types), observatory="jwst")
    except ImportError as error:
        raise MissingReferenceError(
            f"the crds library needs another one to choose JWST references ({error}); install stdatamodels"
        ) from error
    except (crds.CrdsError, SystemExit) as error:
        # it ends the program when it reaches neither its server nor its cache; the reason is in its log
        reason = str(error) if isinstance(error, Exception) else "neither its server nor its cache can be reached"
        raise MissingReferenceError(
            f"the reference data system gave no references: {reason}; check CRDS_PATH and CRDS_SERVER_URL"
        ) from error
    chosen = {}
    for kind in types:
        path = str(found.get(kind, "NOT FOUND"))
        if path.upper().startswith("NOT FOUND"):
            logger.info("no %s reference: %s", kind, path)
        else:
            chosen[kind] = path
    return chosen
