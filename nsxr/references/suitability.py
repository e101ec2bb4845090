"""Check from its header whether a reference file fits an exposure."""

from datetime import datetime

import xarray as xr

from nsxr.errors import InputFileError, NsxrError
from nsxr.formats.fits_headers import FitsFile, keywords, refuse_compressed
from nsxr.model.keywords import read, start_of
from nsxr.model.readout import Readout
from nsxr.references.files import ANY, region, sampling

__all__ = ["restriction", "use_after", "why_unfit"]


def why_unfit(kind: str, file: FitsFile, exposure: xr.Dataset, strict: bool) -> str | None:
    """Return why a reference does not fit an exposure, None if it fits.

    With ``strict``, the readout pattern and the date have to fit too. They are not checked for files given by path.
    """
    header, readout = keywords(file.primary), Readout.of(exposure)
    if str(header.get("REFTYPE", "")).strip().lower() != kind:
        return f"REFTYPE is {header.get('REFTYPE')!r}, expected {kind.upper()!r}"
    instrument = str(header.get("INSTRUME", "NIRSPEC")).strip().upper()
    if instrument != "NIRSPEC":
        return f"INSTRUME is {instrument!r}, expected 'NIRSPEC'"
    detector = restriction(file, "DETECTOR")
    if detector is not None and detector != readout.detector:
        return f"DETECTOR is {detector!r}, the exposure is from {readout.detector!r}"
    if strict and (reason := _why_unfit_now(kind, file, exposure, readout)):
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


def _why_unfit_now(kind: str, file: FitsFile, exposure: xr.Dataset, readout: Readout) -> str | None:
    """Return why a reference does not fit the readout or the date of an exposure, None if it fits."""
    patterns = restriction(file, "P_READPA", "READPATT")
    if patterns is not None:
        listed = patterns.replace("ALLIRS2", "NRSIRS2|NRSIRS2RAPID").split("|")
        if readout.read_pattern not in [p.strip() for p in listed]:
            return f"READPATT is {patterns!r}, that of the exposure is {readout.read_pattern!r}"
    subarray = restriction(file, "SUBARRAY")
    if kind in ("dark", "superbias") and subarray not in (None, readout.subarray):
        # bias and dark depend on the timing of the readout, so a part of another subarray would be wrong
        return f"SUBARRAY is {subarray!r}, that of the exposure is {readout.subarray!r}"
    try:
        after = use_after(file)
    except InputFileError as error:
        return str(error).removeprefix(f"{file.path}: ")
    start = start_of(exposure.attrs)
    if start is not None and after is not None and after > start:
        return f"USEAFTER is {after:%Y-%m-%dT%H:%M:%S}, the exposure started {start:%Y-%m-%dT%H:%M:%S}"
    return None


def use_after(file: FitsFile) -> datetime | None:
    """Return the first date for which a reference may be used, None if it has no USEAFTER."""
    found: datetime | None = read(keywords(file.primary), "USEAFTER", source=file.path)
    return found


def restriction(file: FitsFile, *keys: str) -> str | None:
    """Return the value of the first of these keywords that restricts the use of a reference, None if none does."""
    header = keywords(file.primary)
    for key in keys:
        value = str(header.get(key, "")).strip().upper()
        if value not in ANY:
            return value
    return None


def _pixels(place: tuple[int, int, int, int]) -> str:
    row, rows, column, columns = place
    return f"rows {row} to {row + rows - 1}, columns {column} to {column + columns - 1}"
