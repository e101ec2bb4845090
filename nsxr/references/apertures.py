"""Read apertures of box extraction from JSON reference files (type extract1d), or from a mapping."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import xarray as xr

from nsxr.errors import InputFileError, ParameterError, ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.model.keywords import read
from nsxr.model.types import Named
from nsxr.storage.local import open_regular

__all__ = ["Aperture", "open_apertures", "read_aperture"]

_ANY = "ANY"
_LONGEST = 2**26  # largest JSON reference, bytes
_LARGEST_ORDER, _LARGEST_SMOOTHING, _MOST_COEFFICIENTS = 20, 10_001, 50
_NOT_USED = ("id", "region_type", "dispaxis", "spectral_order")
Coefficients = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Aperture:
    """Describe where a spectrum and its background are in a cut-out, with the parameters of the reference files.

    Rows and columns count from 0 in the cut-out.

    Parameters
    ----------
    name : str
        Slit of the entry; ANY for all slits.
    xstart, xstop, ystart, ystop : float, optional
        First and last column and row, both included; by default the whole cut-out. 3 to 5 are three rows; a limit of
        5.4 adds 0.4 of row 6.
    extract_width : float, optional
        Height of the box [rows]. The box is around the centre of the source if it is known, otherwise around the middle
        of ystart and ystop.
    src_coeff, bkg_coeff : tuple of tuples of float, optional
        Limits of one or more regions: lower, upper, lower, upper ... Each limit is a polynomial, constant first.
        Centres of pixels have integer coordinates: 2.5 to 5.5 are three rows. ``src_coeff`` has priority over all other
        limits.
    independent_var : str
        Argument of the polynomials: ``pixel`` (column) or ``wavelength`` [um].
    bkg_fit : str
        How the background of a column is computed from the pixels in its regions: ``poly`` (least squares), ``mean``,
        or ``median``.
    bkg_order : int
        Order of ``poly``.
    smoothing_length : int
        Columns over which the image is averaged before the background is computed; 0 or an odd number from 3.
    use_source_posn : bool, optional
        Whether all limits move with the source. None means that they do for a point source in a slit.
    filename : str
        Name of the reference file, for provenance.
    """

    name: str = _ANY
    xstart: float | None = None
    xstop: float | None = None
    ystart: float | None = None
    ystop: float | None = None
    extract_width: float | None = None
    src_coeff: Coefficients | None = None
    bkg_coeff: Coefficients | None = None
    independent_var: str = "pixel"
    bkg_fit: str = "poly"
    bkg_order: int = 0
    smoothing_length: int = 0
    use_source_posn: bool | None = None
    filename: str = ""

    def __post_init__(self) -> None:
        problems = []
        if self.independent_var not in ("pixel", "wavelength"):
            problems.append(f"independent_var is {self.independent_var!r}, expected 'pixel' or 'wavelength'")
        if not isinstance(self.bkg_fit, str) or self.bkg_fit not in ("poly", "mean", "median"):
            problems.append(f"bkg_fit is {self.bkg_fit!r}, expected 'poly', 'mean' or 'median'")
        if not _is_whole(self.bkg_order) or not 0 <= self.bkg_order <= _LARGEST_ORDER:
            problems.append(f"bkg_order is {self.bkg_order}, expected a whole number from 0 to {_LARGEST_ORDER}")
        length, most = self.smoothing_length, _LARGEST_SMOOTHING
        if not _is_whole(length) or (length != 0 and (not 3 <= length <= most or length % 2 != 1)):
            problems.append(
                f"smoothing_length is {length}, expected 0 or an odd integer from 3 to {_LARGEST_SMOOTHING}"
            )
        if self.extract_width is not None and not 0 < self.extract_width < math.inf:
            problems.append(f"extract_width is {self.extract_width}, expected a positive number of rows")
        for name in ("xstart", "xstop", "ystart", "ystop"):
            limit = getattr(self, name)
            if limit is not None and not math.isfinite(limit):
                problems.append(f"{name} is {limit}, expected a finite number of pixels")
        for name, coefficients in {"src_coeff": self.src_coeff, "bkg_coeff": self.bkg_coeff}.items():
            if coefficients is not None and (len(coefficients) % 2 or not all(coefficients) or not coefficients):
                problems.append(
                    f"{name} has {len(coefficients)} lists, expected pairs of a lower and an upper limit, none empty"
                )
            elif any(len(c) > _MOST_COEFFICIENTS or not all(map(math.isfinite, c)) for c in coefficients or ()):
                problems.append(f"{name} has more than {_MOST_COEFFICIENTS} coefficients, or some that are not finite")
        if self.use_source_posn not in (None, True, False):
            problems.append(f"use_source_posn is {self.use_source_posn!r}, expected true, false or null")
        if problems:
            raise ParameterError(f"aperture {self.name!r}: {'; '.join(problems)}")


def _is_whole(number: object) -> bool:
    return (
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) and number % 1 == 0
    )


_KNOWN = tuple(field.name for field in fields(Aperture) if field.name not in ("name", "filename"))


def open_apertures(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of apertures (type extract1d) for :func:`read_aperture`.

    Parameters
    ----------
    path : path
        JSON file with a list ``apertures``.

    Returns
    -------
    Dataset
        Without variables. Its attribute ``apertures`` is the list as JSON text.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, or has no such list.
    """
    text = json.dumps(_entries_of(Path(path)))
    described = {key: value for key, value in describe_file(os.fspath(path)).items() if key != "file"}
    attributes = {"reference_type": "extract1d", "filename": Path(path).name, "apertures": text}
    return xr.Dataset(attrs=attributes | described)


def _entries_of(path: Path) -> Any:
    """Return the list of apertures in a file."""
    try:
        with open_regular(path) as file:
            content = json.loads(file.read(_LONGEST).decode("utf-8"))
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ReferenceFileError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, Mapping) or "apertures" not in content:
        raise ReferenceFileError(f"{path} has no list 'apertures', expected an extract1d reference")
    return content["apertures"]


def read_aperture(reference: str | os.PathLike[str] | Named | xr.Dataset, slit: xr.Dataset) -> Aperture:
    """Return the aperture of a slit.

    Parameters
    ----------
    reference : path, mapping or Dataset
        A JSON reference, also as from :func:`open_apertures`; its contents (with ``apertures``); or parameters of one
        aperture, see :class:`Aperture`.
    slit : Dataset
        The entry is selected by the name of the slit (attribute SLTNAME, or coordinate ``slit`` of a padded set) and
        its spectral order (SPORDER, default 1). It is the first entry whose ``id`` is the name or ANY, whose
        ``region_type`` is target, and whose ``spectral_order``, if it has one, is the order or ANY. A slit without a
        name takes the first entry.

    Returns
    -------
    Aperture
        Frozen.

    Raises
    ------
    ReferenceFileError
        If the file is not such a reference, if no entry fits, or if slits of a padded set have different entries.
    ParameterError
        If a parameter is unknown or out of range.

    Examples
    --------
    >>> read_aperture({"ystart": 3, "ystop": 8}, slit).ystop  # doctest: +SKIP
    8.0
    """
    filename, content = "", dict[str, Any]()
    if isinstance(reference, xr.Dataset):
        filename = str(reference.attrs.get("filename", ""))
        content["apertures"] = json.loads(reference.attrs["apertures"])
    elif isinstance(reference, str | os.PathLike):
        filename = Path(reference).name
        content["apertures"] = _entries_of(Path(reference))
    else:
        content |= {str(key): value for key, value in reference.items()}
    if "apertures" not in content:
        unknown = sorted(set(content) - {*_KNOWN, *_NOT_USED})
        if unknown:
            raise ParameterError(f"unknown parameters of an aperture: {', '.join(unknown)}; known: {_KNOWN}")
        return _aperture(content, "")
    entries = content["apertures"]
    names = (
        [str(name) for name in slit["slit"].to_numpy()]
        if "slit" in slit.coords
        else [str(slit.attrs.get("SLTNAME", _ANY)).strip()]
    )
    order = read(slit.attrs, "SPORDER")
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ReferenceFileError(f"extract1d {filename}: 'apertures' is no list of apertures")
    found = {id(entry): entry for entry in (_pick(entries, name, order, filename) for name in names)}
    if len(found) > 1:
        chosen = ", ".join(str(entry["id"]) for entry in found.values())
        raise ReferenceFileError(f"slits have different apertures ({chosen}): extract them one by one")
    return _aperture(next(iter(found.values())), filename)


def _pick(entries: Iterable[Named], name: str, order: int, filename: str) -> Named:
    entries = [e for e in entries if e.get("id", "dummy") != "dummy" and e.get("region_type", "target") == "target"]
    for entry in entries:
        fits = _ANY in (name, entry["id"]) or name == str(entry["id"])
        if fits and entry.get("spectral_order", order) in (order, _ANY):
            return entry
    listed = ", ".join(f"{entry['id']} (order {entry.get('spectral_order', _ANY)})" for entry in entries) or "none"
    raise ReferenceFileError(f"extract1d {filename}: no aperture for slit {name!r}, order {order}; found {listed}")


def _aperture(entry: Named, filename: str) -> Aperture:
    name = str(entry.get("id", _ANY))
    if entry.get("dispaxis", 1) != 1:
        raise ReferenceFileError(f"aperture {name!r} has dispaxis {entry['dispaxis']}, expected 1: along rows")
    given = {key: entry[key] for key in _KNOWN if entry.get(key) is not None}
    key = ""
    try:
        for key in ("src_coeff", "bkg_coeff"):
            if key in given:
                given[key] = tuple(tuple(float(c) for c in polynomial) for polynomial in given[key])
        for key in ("xstart", "xstop", "ystart", "ystop", "extract_width"):
            if key in given:
                given[key] = float(given[key])
        key = "independent_var"
        if key in given:
            given[key] = "wavelength" if given[key].lower().startswith("wavelength") else "pixel"
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ParameterError(f"aperture {name!r}: {key} is {given[key]!r} ({error})") from error
    return Aperture(name=name, filename=filename, **given)
