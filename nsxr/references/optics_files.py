"""Find the references of the optics of an exposure: ASDF files, by path or in a folder."""

import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime

from nsxr.errors import DegradedResultWarning, MissingReferenceError, ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfFile
from nsxr.model.optics_header import OpticsHeader
from nsxr.references.candidates import Candidate, Wanted, choose

__all__ = ["choose_files", "warn_if_mixed"]

_ALSO: Mapping[str, tuple[str, ...]] = {"disperser": ("GRATING",), "fore": ("FILTER",), "chromcorr": ("FILTER",)}
"""Keywords that references of a type must fit beside the detector and the type of the exposure."""
_ERAS = ("GROUND", "INFLIGHT")


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
    exposure = {
        "DETECTOR": header.detector,
        "FILTER": header.filter,
        "GRATING": header.grating,
        "EXP_TYPE": header.exposure_type,
    }
    wanted = Wanted(exposure, header.called, start, lambda kind: ("DETECTOR", *_ALSO.get(kind, ()), "EXP_TYPE"))
    left_out: dict[str, list[str]] = {}
    chosen = choose(source, (*needed, *optional), wanted, (".asdf",), left_out)
    found = {kind: _tree(candidate) for kind, candidate in chosen.items()}
    missing = [kind for kind in needed if kind not in found]
    if missing:
        reasons = [reason for kind in missing for reason in left_out.get(kind, ())]
        why = f"; left out: {'; '.join(reasons[:4])}" if reasons else ""
        place = "the mapping" if isinstance(source, Mapping) else os.fspath(source)
        raise MissingReferenceError(
            f"{header.called}: references {', '.join(missing)} of the optics are missing in {place}{why}"
        )
    return found


def _tree(candidate: Candidate) -> AsdfFile:
    if candidate.tree is None:
        raise ReferenceFileError(f"{candidate.path}: is no ASDF file by its name, expected one that ends in .asdf")
    return candidate.tree


def warn_if_mixed(files: Mapping[str, AsdfFile], called: str) -> None:
    """Warn if some references are from the ground and others from flight. Their optics differ by 10 to 45 pixels."""
    by_era: dict[str, list[str]] = {era: [] for era in _ERAS}
    for kind, file in files.items():
        meta = file.tree.get("meta")
        pedigree = str(meta.get("pedigree", "") if isinstance(meta, Mapping) else "").strip().upper()
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
