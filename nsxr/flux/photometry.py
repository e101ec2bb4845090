"""Convert count rates of slits and slices, divided by flats, to flux density or surface brightness."""

from typing import TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.errors import ModelError, ParameterError, ReferenceFileError
from nsxr.flux.factors import Factor, divide
from nsxr.flux.sensitivity import NotInTable, Sensitivity, areas_of, sensitivity_of
from nsxr.model.declarations import Needs, step
from nsxr.model.dims import IMAGE
from nsxr.model.dq import OUTSIDE
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about
from nsxr.model.types import Attributes, Entries
from nsxr.model.variables import check, check_slit
from nsxr.references.match import require_kind
from nsxr.slits.collection import map_slits
from nsxr.slits.light import exposure_type, is_point, wavelength_name

__all__ = ["calibrate_flux", "photom_factor"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_ARCSEC2 = float(np.deg2rad(1 / 3600) ** 2)
"""One square arcsecond [sr]."""
_MICROJANSKY = 1e12 * _ARCSEC2
"""One MJy/sr [uJy/arcsec2]."""


@step("photom", references=[Needs("photom"), Needs("area")])
def calibrate_flux(slits: Slits, photom: xr.Dataset, area: xr.Dataset) -> Slits:
    """Convert count rates to flux density for point sources, and to surface brightness for all other light.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit or many, or an exposure of the IFU with ``slice`` from :func:`nsxr.locate_slices`. With ``sci`` [DN/s],
        divided by flats, ``dq`` and variances (row, column), with or without integration in front, and ``wavelength``
        (row, column) [um]. Of the attributes, EXP_TYPE, FILTER and GRATING choose the sensitivity, and SRCTYPE the
        units. SLTNAME, or MSAQUAD, XCEN and YCEN, choose the area of a pixel. References whose sensitivity depends on
        time need EXPMID, or EXPSTART and EXPEND.
    photom : Dataset
        From :func:`nsxr.open_photometry`.
    area : Dataset
        From :func:`nsxr.open_pixel_area`.

    Returns
    -------
    Dataset or DataTree
        ``sci`` [MJy] for point sources, [MJy/sr] for others and for slices; ``dq`` and variances. Pixels without a
        sensitivity have DO_NOT_USE and NaN. ``var_photom`` is the variance from the uncertainty of the sensitivity, if
        the reference has one. All pixels and exposures share most of it, so it is not part of the noise of a pixel.
        ``photom_point`` [MJy for 1 DN/s] and ``photom_uniform`` [MJy/sr for 1 DN/s] (row, column) are the sensitivities
        for both kinds of light, 0 where there is none; slices have ``photom_uniform`` only. The attributes PHOTMJSR,
        PHOTUJA2, PIXAR_SR and PIXAR_A2 are those of the observatory's products.

        A slit that the references do not have comes back in DN/s, with a record of why it was skipped. A point source
        without an area is calibrated, but has no ``photom_uniform``.

    Raises
    ------
    ModelError
        If variables are missing, or ``sci`` is not in DN/s.
    ReferenceFileError
        If a reference is of another type, has no row for the filter and the grating, has several, or lacks slices.
    InputFileError
        If the sensitivity depends on time, and the header has no time.

    Notes
    -----
    The sensitivity is ``photmj`` times ``relresponse``, interpolated in wavelength, divided by the throughput at the
    time of the exposure. Throughputs of several forms are multiplied: linear, 1 - loss Δt/365; exponential,
    A exp(-Δt/τ) + c; power law, v ((Δt + s) / (365 + s))^α. Δt is in days.

    In contrast to the observatory's pipeline, slices also get the throughput of their date, and pixels of slices beyond
    the wavelengths of the reference have no value, instead of that at the end. Sensitivities of 0 count as missing.
    Pixels between slices are NaN.

    Light of a point source has the corrected wavelengths; uniform light has those before the correction
    (``wavelength_uncorrected``).

    Examples
    --------
    >>> photom, area = nsxr.open_photometry("photom.fits"), nsxr.open_pixel_area("area.fits")  # doctest: +SKIP
    >>> slits = nsxr.calibrate_flux(slits, photom, area)  # doctest: +SKIP
    """
    require_kind(photom, "photom")
    require_kind(area, "area")
    return map_slits(lambda slit: _calibrate(slit, photom, area), slits)


def photom_factor(slit: xr.Dataset, photom: xr.Dataset, area: xr.Dataset | None = None, *, light: str) -> Factor:
    """Return what count rates are divided by to give flux: the inverse of the sensitivity.

    Parameters
    ----------
    slit : Dataset
        A slit, or an exposure of the IFU, as in :func:`calibrate_flux`.
    photom, area : Dataset
        References. Uniform light needs the area.
    light : str
        ``point`` for flux density [MJy], or ``uniform`` for surface brightness [MJy/sr].

    Raises
    ------
    ReferenceFileError
        If a reference has no row, or no area, for this slit.
    """
    if light not in ("point", "uniform"):
        raise ParameterError(f"light is {light!r}, expected 'point' or 'uniform'")
    if light == "uniform" and area is None:
        raise ReferenceFileError(about(slit.attrs, "uniform light needs a reference of type area"))
    sensitivity = sensitivity_of(slit, photom)
    areas = None if light == "point" or area is None else areas_of(slit, area)
    return _factor(slit, sensitivity, light, areas)[0]


def _calibrate(slit: xr.Dataset, photom: xr.Dataset, area: xr.Dataset) -> xr.Dataset:
    is_sliced = _is_sliced(slit)
    units = {"sci": "DN/s", "wavelength": "um"}
    if is_sliced:
        check(slit, "sci", "dq", "wavelength", units=units)
    else:
        check_slit(slit, "sci", "dq", "wavelength", units=units)
    has_point = not is_sliced and _has_point(slit.attrs)
    try:
        sensitivity = sensitivity_of(slit, photom)
    except NotInTable as error:
        return record_skip(slit, "photom", str(error))
    areas, missing = None, ""
    try:
        areas = areas_of(slit, area)
    except NotInTable as error:
        missing = str(error)
        if not has_point:
            return record_skip(slit, "photom", missing)
    light = "point" if has_point else "uniform"
    factor, conversion = _factor(slit, sensitivity, light, areas)
    found = divide(slit, factor, kind="photom") | {f"photom_{light}": conversion}
    if has_point and areas is not None:
        found["photom_uniform"] = _factor(slit, sensitivity, "uniform", areas)[1]
    unit = "MJy" if has_point else "MJy/sr"
    variances = [name for name in found if name.startswith("var_")]
    attrs = _keywords(sensitivity, areas, has_point)
    parameters: Entries = {"light": light, "throughput": sensitivity.throughput}
    parameters |= {"without_area": missing} if missing else {}
    units = {"sci": unit} | dict.fromkeys(variances, f"({unit})2")
    used = [photom, area] if areas is not None else [photom]
    return record(slit, "photom", used, parameters, units, (), attrs, **found)


def _is_sliced(slit: xr.Dataset) -> bool:
    """Return whether this is an exposure of the IFU. Raise ModelError if it is, and its slices are not known."""
    if "slice" in slit.variables:
        return True
    if exposure_type(slit.attrs) == "NRS_IFU":
        raise ModelError(about(slit.attrs, "variable 'slice' is missing; merge the result of nsxr.locate_slices"))
    return False


def _has_point(attrs: Attributes) -> bool:
    """Return whether a slit shows a point source. The source of a time series is one unless the header differs."""
    return is_point(attrs) or (not attrs.get("SRCTYPE") and exposure_type(attrs) == "NRS_BRIGHTOBJ")


def _keywords(sensitivity: Sensitivity, areas: np.ndarray | None, has_point: bool) -> dict[str, float]:
    """Return the keywords of the observatory's products. Those of slices are of the mean area."""
    scale, mean = sensitivity.scale, None if areas is None else float(np.nanmean(areas))
    found = {} if mean is None else {"PIXAR_SR": mean * _ARCSEC2, "PIXAR_A2": mean}
    if not has_point and mean is not None:
        scale /= mean * _ARCSEC2
    return {"PHOTMJSR": scale, "PHOTUJA2": scale * _MICROJANSKY, **found}


def _factor(
    slit: xr.Dataset, sensitivity: Sensitivity, light: str, areas: np.ndarray | None
) -> tuple[Factor, xr.DataArray]:
    """Return the factor for point or uniform light, and its inverse, the conversion."""
    is_uniform = light == "uniform"
    is_sliced = areas is not None and areas.size > 1
    outputs: dict[str, Output] = dict.fromkeys(("factor", "conversion"), (IMAGE, np.float32))
    if sensitivity.has_uncertainty:
        outputs["relative_variance"] = (IMAGE, np.float32)
    if is_sliced:
        outputs["dq"] = (IMAGE, np.uint32)
    found = map_blocks(
        _convert,
        slit[wavelength_name(slit, light)],
        *([slit["slice"]] if is_sliced else []),
        core=(),
        outputs=outputs,
        scale=sensitivity.scale,
        nodes=(sensitivity.wavelength, sensitivity.response, sensitivity.relative_variance),
        areas=areas if is_uniform else None,
        has_uncertainty=sensitivity.has_uncertainty,
    )
    return Factor(found["factor"], found.get("relative_variance"), found.get("dq")), found["conversion"]


def _convert(
    wavelength: np.ndarray,
    number: np.ndarray | None = None,
    *,
    scale: float,
    nodes: tuple[np.ndarray, np.ndarray, np.ndarray],
    areas: np.ndarray | None,
    has_uncertainty: bool,
) -> tuple[np.ndarray, ...]:
    """Return the factor, NaN outside; the conversion, 0 outside; the relative variance; and flags between slices."""
    place, response, variance = nodes
    lam = wavelength.astype(np.float64)
    found = np.interp(lam, place, response, left=np.nan, right=np.nan)
    with np.errstate(all="ignore"):
        conversion = scale * found
        if areas is not None:
            conversion /= _ARCSEC2 * (areas[0] if number is None else areas[number])
        is_known = (conversion > 0) & np.isfinite(conversion)
        factor = np.where(is_known, 1 / conversion, np.nan)
    results = [factor.astype(np.float32), np.where(is_known, conversion, 0).astype(np.float32)]
    if has_uncertainty:
        results.append(np.interp(lam, place, variance).astype(np.float32))
    if number is not None:
        results.append(np.where(number == 0, OUTSIDE, np.uint32(0)))
    return tuple(results)
