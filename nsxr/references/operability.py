"""Open references of the operability of shutters (type MSAOPER), which are JSON files."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.whole_files import read_json
from nsxr.model.types import Entries, Named

__all__ = ["open_operability"]

_STATES = ("state", "TA state", "Internal state")
_PLACE = {"Q": 4, "x": 365, "y": 171}
"""Keys of the place of a shutter, and their largest values."""


def open_operability(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference that lists shutters which do not obey commands, and keep those that never close.

    Parameters
    ----------
    path : path
        JSON file with a list ``msaoper``. Each entry has the quadrant ``Q``, the number of the shutter along the
        dispersion ``x`` and along the slit ``y``, and up to three states: ``state``, ``TA state``, ``Internal state``.

    Returns
    -------
    Dataset
        In memory, along ``shutter``: ``quadrant``, ``xcen`` and ``ycen``, int64, of each shutter with the state
        ``open`` in one of the three states, as in the observatory's pipeline. Each shutter is there once.

    Raises
    ------
    ReferenceFileError
        If the file does not exist or is damaged, if an entry has no state, or one that is no text, or if a shutter does
        not exist.
    """
    entries = _entries(path)
    found: dict[tuple[int, int, int], None] = {}
    for number, entry in enumerate(entries):
        place = _place(path, number, entry)
        given = {key: entry[key] for key in _STATES if key in entry}
        if not given or not all(isinstance(state, str) for state in given.values()):
            raise ReferenceFileError(
                f"{path}: entry {number} of msaoper has {str(given)[:60] if given else 'no state'}, expected a text in "
                f"{', '.join(_STATES)}"
            )
        states = [state.strip().lower() for state in given.values()]
        if "open" in states:
            found[place] = None
    places = np.array(list(found), dtype=np.int64).reshape(-1, 3)
    attributes: Entries = {"reference_type": "msaoper", "filename": Path(path).name}
    attributes |= {key: value for key, value in describe_file(os.fspath(path)).items() if key != "file"}
    columns = {name: ("shutter", places[:, axis]) for axis, name in enumerate(("quadrant", "xcen", "ycen"))}
    return xr.Dataset(columns, attrs=attributes)


def _entries(path: str | os.PathLike[str]) -> list[Named]:
    tree = read_json(path)
    entries = tree.get("msaoper") if isinstance(tree, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ReferenceFileError(f"{path}: has no list of shutters msaoper; is it a reference of type MSAOPER?")
    return entries


def _place(path: str | os.PathLike[str], number: int, entry: Named) -> tuple[int, int, int]:
    values = []
    for key, most in _PLACE.items():
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ReferenceFileError(
                f"{path}: {key} of entry {number} of msaoper is {str(value)[:20]!r}, expected a number from 1 to {most}"
            )
        values.append(value)
    return values[0], values[1], values[2]
