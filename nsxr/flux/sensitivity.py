"""Find the sensitivity, and the area of a pixel, of a slit in the tables of references."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.model.keywords import about, read, require, whole_number
from nsxr.model.slit_header import quadrant_of
from nsxr.model.types import Attributes
from nsxr.references.photometry import TIME_FORMS
from nsxr.slits.light import fixed_slit

__all__ = ["NotInTable", "Sensitivity", "areas_of", "row_of", "sensitivity_of", "time_dependence"]

_YEAR = 365.0  # days of a year in references of time dependence


class NotInTable(ReferenceFileError):
    """A table does not have this one slit, as the message says. Other slits can be calibrated."""


class Sensitivity(NamedTuple):
    """The row of a reference for one slit.

    Attributes
    ----------
    scale : float
        Flux of 1 DN/s at the relative response 1 [MJy], at the time of the exposure.
    wavelength, response, relative_variance : ndarray
        Nodes [um], and the relative response and the relative variance of the product at each.
    throughput : float
        Throughput at the time of the exposure, relative to that of the reference.
    has_uncertainty : bool
        Whether the reference has an uncertainty.
    """

    scale: float
    wavelength: np.ndarray
    response: np.ndarray
    relative_variance: np.ndarray
    throughput: float
    has_uncertainty: bool


def row_of(slit: xr.Dataset, table: xr.Dataset) -> tuple[xr.Dataset, str]:
    """Return the row of a reference for the filter, the grating and, of fixed slits, the name of a slit.

    Parameters
    ----------
    slit : Dataset
        A slit, an exposure of the IFU, or a spectrum, with its attributes.
    table : Dataset
        A reference with ``filter``, ``grating`` and, for fixed slits, ``slit`` along ``entry``.

    Returns
    -------
    Dataset and str
        The row, and the words for it in messages.

    Raises
    ------
    ReferenceFileError
        If there is no row for the filter and the grating, or several rows fit.
    NotInTable
        If there is no row for this fixed slit.
    """
    name = f"{table.attrs.get('reference_type')} {table.attrs.get('filename', 'in memory')}"
    wanted = {key: str(slit.attrs.get(key.upper(), "")).strip().upper() for key in ("filter", "grating")}
    fits = np.ones(table.sizes["entry"], bool)
    for key, value in wanted.items():
        fits &= table[key].to_numpy() == value
    described = ", ".join(f"{key.upper()} {value!r}" for key, value in wanted.items())
    if not fits.any():
        raise ReferenceFileError(about(slit.attrs, f"{name} has no row for {described}"))
    fixed = fixed_slit(slit.attrs)
    if fixed is None and "slit" in table:
        raise ReferenceFileError(f"{name} is for fixed slits, expected one for shutters or slices")
    if fixed is not None:
        if "slit" not in table:
            raise NotInTable(f"{name} is for shutters or slices, expected one for fixed slits")
        fits &= table["slit"].to_numpy() == fixed
        described += f", slit {fixed}"
    if fits.sum() > 1:
        raise ReferenceFileError(f"{name} has {int(fits.sum())} rows for {described}, expected one")
    if not fits.any():
        raise NotInTable(f"{name} has no row for {described}")
    return table.isel(entry=int(np.flatnonzero(fits)[0])), described


def sensitivity_of(slit: xr.Dataset, photom: xr.Dataset) -> Sensitivity:
    """Return the row of the reference for the filter, the grating and, of fixed slits, the name of a slit.

    Raises
    ------
    ReferenceFileError
        If there is no row for the filter and the grating, or several rows fit.
    NotInTable
        If there is no row for this fixed slit.
    """
    row, described = row_of(slit, photom)
    name = photom.attrs.get("filename", "in memory")
    scale = float(row["photmj"])
    if not 0 < scale < np.inf:
        raise ReferenceFileError(f"photom {name}: photmj for {described} is {scale:g}, expected a positive number")
    nodes = np.isfinite(row["wavelength"].to_numpy())
    response, spread = (row[key].to_numpy()[nodes] for key in ("relresponse", "reluncertainty"))
    uncertainty = float(row["uncertainty"])
    with np.errstate(all="ignore"):
        relative = np.where(response > 0, spread / response, 0.0)
    throughput = time_dependence(row, slit.attrs)
    return Sensitivity(
        scale / throughput,
        row["wavelength"].to_numpy()[nodes],
        response,
        (uncertainty / scale) ** 2 + relative**2,
        throughput,
        bool(uncertainty > 0 or (spread > 0).any()),
    )


def time_dependence(row: xr.Dataset, attrs: Attributes) -> float:
    """Return the throughput at the middle of an exposure, relative to that of the reference.

    Parameters
    ----------
    row : Dataset
        One entry of a reference from :func:`nsxr.open_photometry`.
    attrs : mapping
        Keywords of the exposure, with EXPMID, or EXPSTART and EXPEND [d, MJD].

    Raises
    ------
    InputFileError
        If the throughput depends on time, and the keywords are missing.
    ReferenceFileError
        If the throughput is not positive at that time.
    """
    given = {
        form: {name: float(row[f"{form}_{name}"]) for name in names}
        for form, names in TIME_FORMS.items()
        if f"{form}_t0" in row
    }
    if not given:
        return 1.0
    time = _middle(attrs)
    found = 1.0
    with np.errstate(all="ignore"):
        for form, values in given.items():
            found *= _throughput(form, time - values["t0"], values)
    if not 0 < found < np.inf:
        raise ReferenceFileError(
            f"photom {row.attrs.get('filename', 'in memory')}: the throughput at MJD {time:.1f} is {found:g}, expected "
            "a positive number"
        )
    return found


def _throughput(form: str, days: float, values: Mapping[str, float]) -> float:
    if form == "linear":
        return 1 - values["lossperyear"] * days / _YEAR
    if form == "exponential":
        return float(values["amplitude"] * np.exp(-days / values["tau"]) + values["const"])
    soft, alpha = values["tsoft"], values["alpha"]
    return float(values["year1value"] * np.float64(days + soft) ** alpha / np.float64(_YEAR + soft) ** alpha)


def _middle(attrs: Attributes) -> float:
    """Return the time of the middle of an exposure [d, MJD]."""
    purpose = "the sensitivity depends on time"
    middle = read(attrs, "EXPMID")
    if middle is not None:
        return float(middle)
    found = require(attrs, "EXPSTART", "EXPEND", purpose=purpose)
    return 0.5 * float(found["EXPSTART"] + found["EXPEND"])


def areas_of(slit: xr.Dataset, area: xr.Dataset) -> np.ndarray:
    """Return the area of a pixel [arcsec2]: one number for a slit, one for each slice with NaN for no slice.

    Raises
    ------
    ReferenceFileError
        If the reference is not for slices, or lacks some.
    NotInTable
        If the reference lacks this slit or shutter.
    """
    table, name = area["pixel_area"], area.attrs.get("filename", "in memory")
    if "slice" in slit.variables:
        if table.dims != ("slice",):
            raise ReferenceFileError(f"area {name} is for {', '.join(map(str, table.dims))}, expected one for slices")
        missing = table["slice"].to_numpy()[table.isnull().to_numpy()]
        if missing.size:
            raise ReferenceFileError(f"area {name} has no area for slices {', '.join(map(str, missing))}")
        return np.concatenate([[np.nan], table.to_numpy()])
    fixed = fixed_slit(slit.attrs)
    if fixed is not None:
        found = table.to_numpy()[table["slit"].to_numpy() == fixed] if "slit" in table.dims else np.array([])
        place = f"slit {fixed}"
    else:
        place, found = "a slit without a shutter", np.array([])
        header = [quadrant_of(slit.attrs), *(whole_number(slit.attrs.get(key)) for key in ("YCEN", "XCEN"))]
        if "quadrant" in table.dims and None not in header:
            number = [int(one) for one in header if one is not None]
            place = f"shutter {number[2]}, {number[1]} of quadrant {number[0]}"
            if all(1 <= one <= n for one, n in zip(number, table.shape, strict=True)):
                found = table.to_numpy()[number[0] - 1, number[1] - 1, number[2] - 1 : number[2]]
    if found.size != 1 or not np.isfinite(found[0]):
        raise NotInTable(f"area {name} has no area of a pixel for {place}")
    return np.asarray(found)
