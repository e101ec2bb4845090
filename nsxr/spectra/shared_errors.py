"""Errors of references, which the wavelengths of a spectrum and its exposures share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.formats.keywords import step_keywords
from nsxr.kernels.spectra.combination import OF_PIXELS
from nsxr.model.dims import image_dims
from nsxr.model.dq import UNUSABLE
from nsxr.model.history import parsed_steps
from nsxr.model.slit_header import SlitHeader
from nsxr.model.steps import REFERENCES
from nsxr.model.texts import in_capitals
from nsxr.model.types import Attributes
from nsxr.model.variables import FACTOR_VARIANCES, RELATIVE_ERRORS, variable_attributes
from nsxr.slits.light import fixed_slit
from nsxr.spectra.column_sums import mean_over_profile

__all__ = ["origin_of", "relative_errors", "spectral_covariance"]

_FILES: Mapping[str, tuple[str, ...]] = {
    "relative_error_flat": ("fflat", "sflat", "dflat"),
    "relative_error_pathloss": ("pathloss",),
    "relative_error_barshadow": ("barshadow",),
    "relative_error_photom": ("photom",),
    OF_PIXELS: ("sflat", "dflat"),
}
"""Types of the references that errors come from."""
_ENOUGH = 3
"""Integrations of a time series that tell a relative error: it is the same in all, where a pixel is good."""


def origin_of(attrs: Attributes, error: str) -> tuple[str, ...]:
    """Return what errors of two spectra have in common if they are the same error.

    Parameters
    ----------
    attrs : mapping
        Attributes of a spectrum. The names of references come from its history, or else from the keywords R_*.
    error : str
        Name of a relative error of a spectrum, or :data:`nsxr.kernels.spectra.combination.OF_PIXELS`.

    Returns
    -------
    tuple of str
        File names, filter, grating and fixed slit; for errors of pixels the detector instead of the fixed slit.
    """
    done = step_keywords(parsed_steps(attrs.get("nsxr_steps", "[]")))
    known = {**attrs, **{key: value for key, (value, _) in done.items()}}
    files = (str(known.get(REFERENCES[kind].keyword, "")).rsplit("/", 1)[-1] for kind in _FILES[error])
    place = in_capitals(attrs, "DETECTOR") if error == OF_PIXELS else fixed_slit(attrs) or ""
    return (*files, in_capitals(attrs, "FILTER"), in_capitals(attrs, "GRATING"), place)


def relative_errors(
    slit: xr.Dataset, model: xr.Dataset, weight: xr.DataArray, flux: xr.DataArray
) -> dict[str, xr.DataArray]:
    """Return the errors of factors that all pixels of a wavelength share, relative to the flux, along the dispersion.

    Parameters
    ----------
    slit : Dataset
        Calibrated slit with any of ``var_pathloss``, ``var_barshadow``, ``var_photom``, and ``var_flat`` with
        ``flatfield_common``.
    model : Dataset
        Model of its trace: ``profile`` and ``aperture``.
    weight, flux : DataArray
        Weights of pixels in the flux (row, dispersion), and the flux (dispersion).

    Returns
    -------
    dict of DataArray
        ``relative_error_*`` (dispersion) float64, means over the profile of what the good pixels of a column have. The
        bar shadow of a sky that was subtracted is not a factor of the source: its error is the weighted sum of those of
        the pixels, over the flux.
    """
    found = _of_factors(slit, model)
    if "var_barshadow" in slit and SlitHeader.of(slit).is_spectrum_subtracted:
        found |= map_blocks(
            _of_sky,
            one_chunk(slit["var_barshadow"], *image_dims(slit)),
            weight,
            flux,
            core=(*image_dims(slit), "dispersion"),
            outputs={"relative_error_barshadow": (("dispersion",), np.float64)},
        )
    return {name: array.assign_attrs(variable_attributes(name)) for name, array in found.items()}


def _of_sky(variance: np.ndarray, weight: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return the error of a column, over its flux, if the errors of all its pixels go the same way."""
    error = (weight * np.sqrt(np.nan_to_num(variance.astype(np.float64)))).sum(axis=0)
    return np.asarray(np.divide(error, flux, out=np.zeros(flux.shape), where=np.isfinite(flux) & (flux != 0)))


def _of_factors(slit: xr.Dataset, model: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the relative errors of what the light was divided by."""
    has_common = "flatfield_common" in slit
    found = {
        error: variance
        for error, variance in zip(RELATIVE_ERRORS, FACTOR_VARIANCES, strict=True)
        if variance in slit and (variance != "var_flat" or has_common)
    }
    if not found:
        return {}
    dims = image_dims(slit)
    given = [slit[name] for name in ("sci", "dq", *found.values())]
    if "integration" in slit.dims:
        given = [array.isel(integration=slice(_ENOUGH)) if "integration" in array.dims else array for array in given]
    core = ("integration", *dims) if "integration" in slit.dims else dims
    return map_blocks(
        _means,
        *(one_chunk(array, *(dim for dim in core if dim in array.dims)) for array in given),
        model["profile"],
        model["aperture"],
        *([slit["flatfield_common"]] if "relative_error_flat" in found else []),
        core=core,
        outputs=dict.fromkeys(found, (("dispersion",), np.float64)),
        sizes={"dispersion": slit.sizes[dims[1]]},
        number=len(found),
    )


def _means(sci: np.ndarray, dq: np.ndarray, *blocks: np.ndarray, number: int) -> tuple[np.ndarray, ...] | np.ndarray:
    """Return the mean relative error of each column; the first variance is the flat field if there is a common part."""
    variances, (profile, aperture, *common) = blocks[:number], blocks[number:]
    usable = ((dq & UNUSABLE) == 0) & np.isfinite(sci) & (sci != 0)
    found = []
    for place, variance in enumerate(variances):
        part = common[0] if common and not place else 1.0
        square = np.where(usable, variance.astype(np.float64) * part, np.nan)
        with np.errstate(all="ignore"):
            each = np.sqrt(square) / np.abs(sci.astype(np.float64))
        each = np.fmax.reduce(each, axis=0) if each.ndim > 2 else each
        found.append(mean_over_profile(each, profile, aperture))
    return tuple(found) if number > 1 else found[0]


def spectral_covariance(spectrum: xr.Dataset) -> xr.DataArray:
    """Return the covariance of the fluxes of a spectrum, with the errors of references that its wavelengths share.

    Parameters
    ----------
    spectrum : Dataset
        One spectrum, from :func:`nsxr.extract_spectrum` or :func:`nsxr.combine_spectra`: ``flux`` (dispersion) and its
        variances; ``flux_covariance`` and ``relative_error_*`` as far as there are.

    Returns
    -------
    DataArray
        (dispersion, dispersion_other) float64, square of the units of ``flux``. NaN where there is no flux. Lazy if the
        spectrum is.

    Raises
    ------
    ModelError
        If the spectrum has no variances, or is a time series.

    Notes
    -----
    ``C = diag(V) + N + sum_k e_k e_k^T``. V is the sum of the variances ``flux_var_*``. N has the covariance of
    neighbours, which combined spectra have. ``e_k = flux * relative_error_k`` is the error from one kind of reference:
    the flat field, the path loss, the bar shadow, the sensitivity. It is the same for all wavelengths of a spectrum.
    The variance of a sum with weights w is ``w^T C w``.

    Examples
    --------
    >>> covariance = nsxr.spectral_covariance(spectrum)  # doctest: +SKIP
    >>> error_of_sum = covariance.sum() ** 0.5  # doctest: +SKIP
    """
    variances = [str(name) for name in spectrum.data_vars if str(name).startswith("flux_var_")]
    if not variances or "flux" not in spectrum or spectrum["flux"].dims != ("dispersion",):
        found = f"dims {spectrum['flux'].dims}" if "flux" in spectrum else "no flux"
        raise ModelError(f"a covariance needs flux along dispersion and its variances; found {found}, {variances}")
    names = [*variances, *(name for name in ("flux_covariance", *RELATIVE_ERRORS) if name in spectrum)]
    made = map_blocks(
        _covariance,
        *(one_chunk(spectrum[name], "dispersion") for name in ("flux", *names)),
        core=("dispersion",),
        outputs={"covariance": (("dispersion", "dispersion_other"), np.float64)},
        sizes={"dispersion_other": spectrum.sizes["dispersion"]},
        names=names,
    )["covariance"]
    units = spectrum["flux"].attrs.get("units")
    attrs: dict[str, Any] = {"long_name": "covariance of flux"} | ({"units": f"({units})2"} if units else {})
    return made.assign_coords(spectrum["flux"].coords).assign_attrs(attrs)


def _covariance(flux: np.ndarray, *blocks: np.ndarray, names: list[str]) -> np.ndarray:
    values = dict(zip(names, blocks, strict=True))
    # if the variance of a flat field is not known it counts as 0
    each = [np.nan_to_num(v) if n.endswith("_flat") else v for n, v in values.items() if n.startswith("flux_var_")]
    found = np.diag(np.sum(each, axis=0))
    if "flux_covariance" in values:
        beside = np.nan_to_num(values["flux_covariance"][:-1])
        found += np.diag(beside, 1) + np.diag(beside, -1)
    for name in RELATIVE_ERRORS:
        if name in values:
            error = flux * np.nan_to_num(values[name])
            found += np.outer(error, error)
    found[~np.isfinite(flux)] = np.nan
    found[:, ~np.isfinite(flux)] = np.nan
    return found
