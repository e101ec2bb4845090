"""Find the reference files of an exposure: by path, in a directory, or with CRDS."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import xarray as xr

from nsxr.errors import (
    DegradedResultWarning,
    InputFileError,
    MissingReferenceError,
    ParameterError,
    ReferenceFileError,
)
from nsxr.formats.fits_headers import FitsFile, keywords
from nsxr.model.dims import RAMP
from nsxr.model.keywords import start_of
from nsxr.model.readout import Readout
from nsxr.model.steps import REFERENCES, serves
from nsxr.model.variables import check
from nsxr.references.crds import CRDS, best_references, crds_state, fetch_reference
from nsxr.references.files import OPTIONAL, TYPES, open_reference, scan_reference
from nsxr.references.sirs_kernels import open_sirs_kernel
from nsxr.references.suitability import restriction, use_after, why_unfit
from nsxr.storage.options import StorageOptions
from nsxr.storage.stores import list_files
from nsxr.storage.urls import is_remote, shown

__all__ = ["References", "open_references"]

logger = logging.getLogger(__name__)


class References(dict[str, xr.Dataset]):
    """Hold references by type, and the reasons why other files were left out.

    Attributes
    ----------
    left_out : dict of str to list of str
        By type, the name and the reason of each file in the directory that does not fit the exposure. Files that could
        not be read are listed under the empty type.
    """

    def __init__(self, found: Mapping[str, xr.Dataset], left_out: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(found)
        self.left_out = {kind: list(reasons) for kind, reasons in (left_out or {}).items()}

    def why_not(self, kind: str, most: int = 4) -> str:
        """Return a text that says why a type is missing; empty if no file was left out."""
        reasons = [*self.left_out.get(kind, ()), *self.left_out.get("", ())]
        more = len(reasons) - most
        return "; ".join([*reasons[:most], *([f"and {more} more files"] if more > 0 else [])])


def open_references(
    source: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    exposure: xr.Dataset,
    overrides: Mapping[str, str | os.PathLike[str]] | None = None,
    types: Iterable[str] | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> References:
    """Choose and open the references of an exposure. Pixels are read when they are needed.

    Parameters
    ----------
    source : path, mapping of str to path, or "crds"
        A directory of reference files, which are recognized by their headers; or paths by type; or ``"crds"`` for the
        best references of the JWST Calibration Reference Data System (CRDS). These are downloaded now if they are not
        in the CRDS cache. Directories and paths may be URLs.
    exposure : Dataset
        Raw exposure.
    overrides : mapping of str to path, optional
        Paths by type, used instead of the files in ``source``. ``crds://NAME`` is a file of CRDS.
    types : iterable of str, optional
        Types to open. By default all types that stage 1 needs, and ``pictureframe`` if the directory has one. The
        weights ``refpix`` are opened for IRS2 readout only. The filters of side reference pixels (``sirskernel``) are
        opened only if their path is given.
    storage_options : mapping, optional
        Options of the stores behind URLs, see :func:`nsxr.open_exposure`.

    Returns
    -------
    dict of str to Dataset
        References by type, each with its path or URL in ``encoding["source"]``. A type without a reference is absent.
        The step that needs this type raises an error, which says why files of the directory were left out.

    Raises
    ------
    ReferenceFileError
        If a reference given by path does not fit the exposure, or two files in a directory fit equally well.
    MissingReferenceError
        If the directory does not exist, or its store cannot list it.
    RemoteAccessError
        If the store behind a URL cannot be reached, or asks for credentials.
    ParameterError
        If a type is unknown.
    """
    check(exposure, "sci", dims=RAMP)
    readout = Readout.of(exposure)
    wanted = [t for t in (TYPES if types is None else tuple(types)) if t not in REFERENCES or serves(t, readout)]
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
            if path.startswith(CRDS):
                by_name[kind] = path
                path = fetch_reference(path)
            opened[kind] = _given(kind, path, exposure, options)
    others = [kind for kind in wanted if kind not in opened]
    if others and not isinstance(source, Mapping):
        if is_crds:
            for kind, path in best_references(exposure, others).items():
                opened[kind] = _given(kind, path, exposure, options)
                names[kind] = f"{CRDS}{os.path.basename(path)}"
        else:
            opened |= _from_directory(os.fspath(source), exposure, others, options, left_out)
    references = References(
        {kind: open_reference(kind, opened[kind], exposure) for kind in wanted if kind in opened}, left_out
    )
    state = crds_state() if names else {}
    for kind, name in names.items():
        references[kind].attrs |= {"filename": name, **state}
    for kind, name in by_name.items():
        references[kind].attrs["filename"] = name  # the name only, without the CRDS context
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
    """Read the headers of a reference given by path, and check that it fits the exposure."""
    try:
        file = scan_reference(path, options)
    except InputFileError as error:
        raise ReferenceFileError(f"{kind} reference {error}") from error
    reason = why_unfit(kind, file, exposure, strict=False)
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
    """Return the files of a directory that fit an exposure. The reasons for the others go to ``left_out``."""
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
            reason = why_unfit(kind, file, exposure, strict=True)
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
    """Return the most specific candidate. If there are several, return the one with the latest USEAFTER."""
    subarray = Readout.of(exposure).subarray

    def rank(file: FitsFile) -> tuple[bool, bool, datetime]:
        own = str(keywords(file.primary).get("SUBARRAY", "")).strip().upper() == subarray
        pattern = restriction(file, "READPATT", "P_READPA") is not None
        return own, pattern, use_after(file) or datetime.min.replace(tzinfo=UTC)

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
