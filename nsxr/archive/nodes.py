"""Make the paths of exposures in an archive from headers, and check paths that are read."""

import re
from collections.abc import Mapping

from nsxr.errors import InputFileError
from nsxr.model.keywords import read

__all__ = ["JOURNAL", "is_node", "node_path", "plan_key"]

JOURNAL = ".nsxr"
"""Folder of the journal. Readers of Zarr ignore it, because it has no metadata of Zarr."""

_PARTS = ("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE", "DETECTOR")
_DIGITS = dict(zip(_PARTS, (5, 3, 3, 2, 1, 2, 5, 4), strict=True))
_LONGEST = 20  # characters of a keyword; the observatory uses up to five
_NODE = re.compile(
    "[a-z0-9]{5,20}/[a-z0-9]{3,20}/[a-z0-9]{3,20}_[a-z0-9]{5,60}_[a-z0-9]{5,20}"
    "(_integrations[0-9]{1,9}to[0-9]{1,9})?/[a-z0-9]{4,20}"
)


def is_node(path: object) -> bool:
    """Return whether :func:`node_path` can make this path. Other paths are never written or removed."""
    return isinstance(path, str) and _NODE.fullmatch(path) is not None


def node_path(header: Mapping[str, object]) -> str:
    """Return the path of an exposure, ``01234/001/001_03101_00001/nrs1``, with numbers as in the names of its files.

    If only some segments of an exposure are given, the path contains them: ``001_03101_00001_integrations1to20``.

    Parameters
    ----------
    header : mapping
        Keywords of the primary header.

    Raises
    ------
    InputFileError
        If keywords are missing, are not letters and digits, or are too long for names.
    """
    values = {key: str(header.get(key, "")).strip().lower() for key in _PARTS}
    form = re.compile(f"[a-z0-9]{{1,{_LONGEST}}}")
    wrong = [f"{key} is {header.get(key)!r}" for key, value in values.items() if not form.fullmatch(value)]
    if wrong:
        raise InputFileError(
            f"{header.get('filename', 'exposure')}: {', '.join(wrong)}; an archive names exposures by these keywords, "
            f"which must be at most {_LONGEST} letters and digits"
        )
    program, observation, visit, group, sequence, activity, number, detector = (
        values[key].zfill(_DIGITS[key]) for key in _PARTS
    )
    exposure = f"{visit}_{group}{sequence}{activity}_{number}"
    first = read(header, "INTSTART")
    last, total = (read(header, key, default=0) for key in ("INTEND", "NINTS"))
    if last and (first, last) != (1, total):
        exposure += f"_integrations{first}to{last}"
    path = f"{program}/{observation}/{exposure}/{detector}"
    if not is_node(path):
        raise InputFileError(f"{header.get('filename', 'exposure')}: INTSTART is {first} and INTEND {last}")
    return path


def plan_key(node: str) -> str:
    """Return the key of the plan of a node."""
    return f"{JOURNAL}/{node.replace('/', '-')}.json"
