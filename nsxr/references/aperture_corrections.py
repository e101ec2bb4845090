"""Open references of the aperture correction of slits (type APCORR), which are tables."""

import os

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.references.sampled import describe_reference, scan_of_type
from nsxr.references.tables import columns_of

__all__ = ["open_aperture_correction"]

_PHASE = 0.5
"""Place of the source in its pixel for which the correction is taken, as in the observatory's pipeline: the middle."""


def open_aperture_correction(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of how much light of a point source is outside of the rows that a spectrum was summed over.

    Parameters
    ----------
    path : path
        FITS file with a table APCORR: ``filter``, ``grating``, ``slit`` (fixed slits only), ``wavelength`` [um],
        ``nelem_wl``; ``size`` (size, wavelength) [pixel], ``nelem_size``; ``pixphase``; ``apcorr`` and ``apcorr_err``
        (size, wavelength, phase).

    Returns
    -------
    Dataset
        In memory, float64, with a row ``entry`` for each ``filter``, ``grating`` and ``slit``: ``wavelength`` (entry,
        node) [um], increasing; ``size`` (entry, step, node) [pixel], increasing; ``correction`` (entry, step, node), by
        which the flux is multiplied, for a source in the middle of a pixel, and its ``uncertainty``. NaN beyond the
        last node and step of an entry.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, is of another type, lacks columns, or if sizes are in other units than pixels.
    """
    file = scan_of_type("apcorr", path, "APCORR")
    columns = columns_of(file, "APCORR", "filter", "grating", "wavelength", "size", "pixphase", "apcorr")
    unit = str(file.extensions["APCORR"].header.get("SIZEUNIT", "pixels")).strip().lower()
    if not unit.startswith("pix"):
        raise ReferenceFileError(f"{file.path}: sizes of apertures are in {unit!r}, expected pixels")
    phase, wavelength, size, table = (columns[key] for key in ("pixphase", "wavelength", "size", "apcorr"))
    expected = (*size.shape, phase.shape[-1])
    if size.ndim != 3 or wavelength.shape != (len(size), size.shape[-1]) or table.shape != expected:
        raise ReferenceFileError(
            f"{file.path}: apcorr has shape {table.shape[1:]}, expected {expected[1:]}: size, wavelength, phase"
        )
    uncertainty = columns.get("apcorr_err", np.zeros_like(table)).reshape(table.shape)
    found = {name: np.full(size.shape, np.nan) for name in ("size", "correction", "uncertainty")}
    nodes = np.full(wavelength.shape, np.nan)
    for entry in range(len(size)):
        steps = int(columns["nelem_size"][entry]) if "nelem_size" in columns else size.shape[1]
        length = int(columns["nelem_wl"][entry]) if "nelem_wl" in columns else size.shape[2]
        order = np.argsort(wavelength[entry, :length], kind="stable")
        part = np.s_[entry, :steps, :length]
        nodes[entry, :length] = wavelength[entry, order]
        found["size"][part] = size[entry, :steps, order].T
        for name, values in (("correction", table), ("uncertainty", uncertainty)):
            found[name][part] = _in_the_middle(phase[entry], values[entry, :steps, order]).T
        parts = [values[part] for values in found.values()]
        _require_sound(f"{file.path}: row {entry + 1} of APCORR", nodes[entry, :length], *parts)
    texts = {name: ("entry", columns[name]) for name in ("filter", "grating", "slit") if name in columns}
    variables = {name: (("entry", "step", "node"), values) for name, values in found.items()}
    dataset = xr.Dataset({**texts, "wavelength": (("entry", "node"), nodes, {"units": "um"}), **variables})
    dataset["size"].attrs["units"] = "pixel"
    return dataset.assign_attrs(describe_reference(file, "apcorr"))


def _in_the_middle(phase: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate values (..., phase) linearly to the middle of a pixel."""
    right = int(np.clip(np.searchsorted(phase, _PHASE), 1, max(phase.size - 1, 1)))
    if phase.size < 2 or not phase[right - 1] <= _PHASE <= phase[right]:
        nearest: np.ndarray = values[..., int(np.argmin(np.abs(phase - _PHASE)))]
        return nearest
    part = (_PHASE - phase[right - 1]) / (phase[right] - phase[right - 1])
    between: np.ndarray = values[..., right - 1] * (1 - part) + values[..., right] * part
    return between


def _require_sound(
    what: str, wavelength: np.ndarray, size: np.ndarray, correction: np.ndarray, uncertainty: np.ndarray
) -> None:
    if wavelength.size < 2 or not (np.diff(wavelength) > 0).all() or not 0.1 < wavelength[0] < wavelength[-1] < 30:
        raise ReferenceFileError(f"{what}: its wavelengths are not different numbers from 0.6 to 5.3 um")
    if not (size > 0).all() or not (np.diff(size, axis=0) > 0).all():
        raise ReferenceFileError(f"{what}: its sizes do not increase")
    if not ((correction > 0) & (correction < 100)).all() or not np.isfinite(uncertainty).all():
        raise ReferenceFileError(f"{what}: has corrections that are no numbers from 0 to 100")
