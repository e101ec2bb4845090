"""Make white light curves: the flux of each integration of a time series, summed over wavelengths."""

from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.compute.passes import settle
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.medians import median_of_finite
from nsxr.model.declarations import step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.variables import check, error_variances, variances_of

__all__ = ["LightWeighting", "white_light_curve"]

LightWeighting = Literal["optimal", "sum"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_BRIGHT = 3.0  # signal to noise of the mean spectrum, from which weights follow from it


@step("white_light")
def white_light_curve(
    series: xr.Dataset,
    *,
    min_wavelength: float | None = None,
    max_wavelength: float | None = None,
    max_flagged: float = 0.1,
    weighting: LightWeighting = "optimal",
) -> xr.Dataset:
    """Sum the flux of each integration over wavelengths, over the same wavelengths in all integrations.

    Some wavelengths are much noisier than others, above all in Jy, where few photons can be much flux. So each
    wavelength has a weight, which is the same in all integrations. The light curve is the relative brightness with the
    least noise, times the sum of the median spectrum. If a transit is deeper at some wavelengths than at others, its
    depth is the mean with weights of flux times weight.

    If a wavelength is missing in one integration and not in the next, the light curve changes by its flux. Missing
    samples are flagged DO_NOT_USE or are not finite. They are replaced by the median spectrum of the time series,
    scaled to the flux of the integration at its other wavelengths. Other integrations do not change in a plain sum, and
    with weights only by a common factor. Wavelengths that half of the integrations lack are left out of all
    integrations. Integrations that lack more than ``max_flagged`` of their wavelengths become NaN.

    Parameters
    ----------
    series : Dataset
        ``flux`` (integration, dispersion) float64 [Jy or DN/s], ``flux_var_poisson``, ``flux_var_rnoise``,
        ``flux_var_flat`` as far as there are, ``dq`` uint32, coordinate ``wavelength`` (dispersion) [um].
    min_wavelength, max_wavelength : float, optional
        Bounds [um], included. By default all wavelengths; all columns if no wavelength is known, as for count rates.
    max_flagged : float, default 0.1
        Largest part of the summed wavelengths that an integration may lack; otherwise it becomes NaN.
    weighting : {"optimal", "sum"}
        ``optimal``: weights are the median spectrum over the mean variance. ``sum``: the plain sum, as in the
        observatory's pipeline, and also if the median spectrum has a signal to noise below 3.

    Returns
    -------
    Dataset
        ``flux`` and its variances (integration) float64, sums over wavelengths. The sums of integrations that lack
        wavelengths are scaled up in proportion. ``n_wavelengths`` (integration) int64, the number of wavelengths that
        an integration has, 0 where the flux is NaN. The coordinates along ``integration``. Lazy if the time series is.

    Raises
    ------
    ModelError
        If the time series lacks a variable, or has no integrations.
    ParameterError
        If the bounds are the wrong way round, ``max_flagged`` is not in 0 to 1, or ``weighting`` is not known.

    Notes
    -----
    Variances are summed, with the squares of the weights, because the noise of different pixels is independent. The
    variance of the flat field comes from the same flat in every integration: it affects the level of the light curve
    and not its changes. Where it is NaN it counts as 0.
    """
    check(series, "flux", "dq")
    if series["flux"].dims != ("integration", "dispersion"):
        raise ModelError(f"flux has dims {series['flux'].dims}, expected ('integration', 'dispersion')")
    if min_wavelength is not None and max_wavelength is not None and min_wavelength >= max_wavelength:
        raise ParameterError(f"min_wavelength is {min_wavelength}, expected less than max_wavelength {max_wavelength}")
    if not 0 <= max_flagged <= 1:
        raise ParameterError(f"max_flagged is {max_flagged}, expected 0 to 1")
    if weighting not in get_args(LightWeighting):
        raise ParameterError(f"weighting is {weighting!r}, expected one of {', '.join(get_args(LightWeighting))}")
    base = series.drop_vars([name for name, c in series.coords.items() if not set(c.dims) <= {"integration"}])
    wavelength = series["wavelength"].drop_vars(list(series["wavelength"].coords))
    wanted: xr.DataArray = xr.ufuncs.isfinite(wavelength)
    if min_wavelength is None and max_wavelength is None:
        wanted = wanted | ~wanted.any()  # count rates have no wavelengths yet
    if min_wavelength is not None:
        wanted = wanted & (wavelength >= min_wavelength)
    if max_wavelength is not None:
        wanted = wanted & (wavelength <= max_wavelength)
    names = ["flux", *variances_of(series, "flux_var")]
    if "flux_var_flat" in names:  # if the variance of a flat field is not known it counts as 0
        base = base.assign(flux_var_flat=base["flux_var_flat"].fillna(0.0))
    bad = (base["dq"] & _DO_NOT_USE) != 0
    for name in names:
        bad = bad | ~np.isfinite(base[name])
    variance = sum((base[name] for name in error_variances(series)), xr.zeros_like(base["flux"]))
    precision = (1 / variance.where(~bad & (variance > 0))).mean("integration").fillna(0.0)
    core = ("integration", "dispersion")
    found = map_blocks(
        _made_up,
        *(one_chunk(array, *map(str, array.dims)) for array in (base["flux"], bad, wanted, precision)),
        core=core,
        outputs={"scale": (("integration",), np.float64), "weight": (("dispersion",), np.float64)},
        max_flagged=max_flagged,
        is_weighted=weighting == "optimal",
    )
    scale, weight = settle(found["scale"]), settle(found["weight"])
    used = (weight > 0) & ~bad
    sums: dict[str, Any] = {}
    for name in names:
        factor = (scale, weight) if name == "flux" else (scale**2, weight**2)
        sums[name] = (base[name].where(used, 0.0) * factor[1]).sum("dispersion", skipna=False) * factor[0]
    n_used = used.sum("dispersion").where(np.isfinite(scale), 0).astype(np.int64)
    sums["n_wavelengths"] = n_used.assign_attrs(long_name="wavelengths that were summed")
    parameters: dict[str, Any] = {"min_wavelength": min_wavelength, "max_wavelength": max_wavelength}
    parameters |= {"max_flagged": max_flagged, "weighting": weighting}
    kept = base.drop_vars(list(base.data_vars))
    units = {name: series[name].attrs["units"] for name in names if "units" in series[name].attrs}
    return record(kept, "white_light", parameters=parameters, units=units, **sums)


def _made_up(
    flux: np.ndarray,
    bad: np.ndarray,
    wanted: np.ndarray,
    precision: np.ndarray,
    *,
    max_flagged: float,
    is_weighted: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return factors that make up for missing wavelengths in sums, and the weights of wavelengths, 0 if unused.

    ``flux``, ``bad`` are (integration, dispersion), ``wanted`` and ``precision`` (1 / variance) are (dispersion,). The
    factors of lost integrations are NaN.
    """
    there = wanted & ~bad
    used = wanted & (2 * there.sum(0) > there.any(1).sum())
    lost = (bad & used).sum(1) > max_flagged * used.sum()
    there &= ~lost[:, None]
    typical = np.where(used, median_of_finite(np.where(there, flux, np.nan)), 0.0)
    there &= used
    weight = used.astype(np.float64)
    power = typical**2 * precision * there.sum(0)
    is_bright = power.sum() > _BRIGHT**2 * max(used.sum(), 1)
    if is_weighted and is_bright:
        best = np.maximum(typical, 0.0) * precision
        # the flux is that of the sum of the median spectrum
        weight = best * (typical.sum() / (best * typical).sum())
    light = weight * typical
    whole, part = light.sum(), there @ light
    # if there is almost no light, all wavelengths have the same weight
    least = 0.0 if is_weighted and is_bright else 0.5 * whole * there.sum(1) / max(used.sum(), 1)
    known = (whole > 0) & (part > least) & (part > 0)
    count = np.where(there.any(1), used.sum() / np.maximum(there.sum(1), 1), np.nan)
    return np.where(known, whole / np.where(known, part, 1.0), count), weight
