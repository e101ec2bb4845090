"""Read images of references that are sampled on linear axes, such as positions of a source and wavelengths."""

import os
from pathlib import Path

import numpy as np
from astropy.io import fits

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.fits_headers import FitsFile, keywords, scan
from nsxr.model.types import Entries

__all__ = ["describe_reference", "in_micrometres", "read_image", "sampled_axis", "scan_of_type"]

_METRES = 1e6
_LIMITS = (0.01, 100.0)  # wavelengths that a table in metres may have [um]


def scan_of_type(kind: str, path: str | os.PathLike[str], *tables: str) -> FitsFile:
    """Read the headers of a reference and the tables that are named, and check that it is of a type and of NIRSpec.

    Raises
    ------
    ReferenceFileError
        If the file does not exist, is damaged, or is of another type or instrument.
    """
    if not os.path.isfile(path):
        raise ReferenceFileError(f"{path}: no such file, expected a reference of type {kind.upper()}")
    try:
        file = scan(path, tables)
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error
    header = keywords(file.primary)
    wanted = {"REFTYPE": kind.upper(), "INSTRUME": "NIRSPEC"}
    wrong = [
        f"{key} is {header.get(key)!r}, expected {value!r}"
        for key, value in wanted.items()
        if str(header.get(key, "")).strip().upper() != value
    ]
    if wrong:
        raise ReferenceFileError(f"{Path(path).name}: {'; '.join(wrong)}")
    return file


def read_image(file: FitsFile, name: str, axes: int, version: int = 1) -> tuple[np.ndarray, fits.Header]:
    """Return an image of a reference in double precision, and its header.

    Raises
    ------
    ReferenceFileError
        If the image is missing, damaged, or has another number of axes.
    """
    if (name, version) not in file.versions:
        listed = ", ".join(f"{one} {number}" for one, number in file.versions if one) or "none"
        raise ReferenceFileError(f"{file.path}: image {name} {version} is missing (found {listed})")
    try:
        source = file.image(name, "float64", version)
        if len(source.shape) != axes:
            raise ReferenceFileError(f"{file.path}: {name} {version} has {len(source.shape)} axes, expected {axes}")
        return source.read((slice(None),) * axes), file.versions[name, version].header
    except InputFileError as error:
        raise ReferenceFileError(str(error)) from error


def sampled_axis(file: FitsFile, header: fits.Header, number: int, size: int) -> np.ndarray:
    """Return the values along one axis of an image, from CRVALn, CDELTn and CRPIXn (1 if it is missing).

    Raises
    ------
    ReferenceFileError
        If a keyword is missing, or if the values do not increase.
    """
    found = {key: header.get(f"{key}{number}") for key in ("CRVAL", "CDELT")}
    lacking = [f"{key}{number}" for key, value in found.items() if not _is_number(value)]
    if lacking:
        raise ReferenceFileError(
            f"{file.path}: {' and '.join(lacking)} of {header.get('EXTNAME')} are missing or no numbers; they say what "
            "its axes are"
        )
    first = header.get(f"CRPIX{number}", 1.0)
    values = float(found["CRVAL"]) + (np.arange(1, size + 1) - float(first)) * float(found["CDELT"])
    if size < 2 or not found["CDELT"] > 0:
        raise ReferenceFileError(
            f"{file.path}: axis {number} of {header.get('EXTNAME')} has {size} values in steps of {found['CDELT']}, "
            "expected two at least that increase"
        )
    return np.asarray(values)


def in_micrometres(file: FitsFile, header: fits.Header, wavelength: np.ndarray) -> np.ndarray:
    """Return wavelengths of an axis in um. The observatory's references have them in metres.

    Raises
    ------
    ReferenceFileError
        If the result is no wavelength of NIRSpec, as with an axis in another unit.
    """
    converted = wavelength * _METRES
    if not _LIMITS[0] < converted[0] < converted[-1] < _LIMITS[1]:
        raise ReferenceFileError(
            f"{file.path}: wavelengths of {header.get('EXTNAME')} go from {wavelength[0]:g} to {wavelength[-1]:g}, "
            "expected metres, about 6e-7 to 5.3e-6"
        )
    return converted


def describe_reference(file: FitsFile, kind: str) -> Entries:
    """Return the attributes of an opened reference, as provenance keeps them."""
    known = {key: value for key, value in describe_file(file.location, file.stamp).items() if key != "file"}
    return {"reference_type": kind, "filename": os.path.basename(file.path), **known}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
