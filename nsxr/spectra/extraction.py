"""Fluxes of a source, column by column, from the pixels that are there, weighted by its profile."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.special import ndtr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.spectra.column_fit import box_weights, column_weights
from nsxr.model.declarations import step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record, steps
from nsxr.model.keywords import read
from nsxr.model.variables import check, variable_attributes
from nsxr.slits.collection import is_extended
from nsxr.spectra.trace_model import fit_trace_model, usable_pixels

__all__ = ["extract_spectrum", "model_image"]

IMAGE = ("cross_dispersion", "dispersion")
_JANSKY = 1e6
_PARTS = ("poisson", "rnoise", "flat")
_MOST_OF_LIGHT = 1.5
"""Sum of a profile without signs in its aperture; light has 1. Beyond it errors would be less than those of a pixel."""
_MODEL = (
    "profile",
    "response",
    "aperture",
    "is_used",
    "beside",
    "beside_variance",
    "sky",
    "steady_flux",
    "background_variance",
    "variance_of_signal",
    "profile_variance",
    "off_profile",
    "trace",
    "width",
)


@step("extract_1d")
def extract_spectrum(
    slit: xr.Dataset,
    model: xr.Dataset | None = None,
    *,
    weighting: Literal["auto", "profile", "box"] = "auto",
    rejection_threshold: float = 5.0,
    least_coverage: float = 0.5,
    **fitting: Any,
) -> xr.Dataset:
    """Extract the spectrum of the source in a slit, of each integration if there are several.

    Every column is a least-squares fit of the profile to its good pixels (optimal extraction), or, with
    ``weighting="box"``, the sum over the aperture with the missing pixels taken from that fit. A missing pixel costs
    signal to noise, and the variance says so; it never makes the flux smaller. Weights come from a model of the
    variance, not from the noisy pixels themselves.

    Parameters
    ----------
    slit : Dataset
        ``sci`` (cross_dispersion, dispersion), with or without integration in front, [DN/s, MJy or MJy/sr], ``dq``,
        ``var_poisson``, ``var_rnoise``, with or without ``var_flat``; ``wavelength`` [um].
    model : Dataset, optional
        From :func:`nsxr.fit_trace_model`, of this slit, or of a series; by default made here, with the parameters in
        ``fitting``.
    weighting : {"auto", "profile", "box"}
        ``auto``: ``box`` for extended sources (SRCTYPE), ``profile`` for others.
    rejection_threshold : float, default 5
        In single integrations, pixels off the model by so many standard deviations, and by more than 5 % of the light
        around, are left out.
    least_coverage : float, default 0.5
        Columns with a smaller part of the profile on good pixels, or in the cut-out, are flagged DO_NOT_USE; their
        values stay. So are columns weighted by a profile that is no light's, as of residuals of a bright neighbour:
        much of it is negative. A cut-out of less than 3 rows tells no profile: all of it is flagged.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    Dataset
        Along ``dispersion``, with integration in front if the slit has it, float64: ``flux`` [Jy, or DN/s] and
        ``flux_var_poisson``, ``flux_var_rnoise``, ``flux_var_flat``; ``surf_bright`` [MJy/sr] and ``background``
        [MJy/sr] with theirs, zero where the units of the slit or the kind of background do not give them;
        ``npixels``, ``coverage``; ``dq``; the coordinate ``wavelength`` [um]. ``weight`` (cross_dispersion, dispersion)
        are the factors of pixels in the flux of the mean image, in units of flux per ``sci``; positions as in the
        model. Flux density for MJy is 1e6 times the sum, for MJy/sr with PIXAR_SR. NaN where nothing can be extracted.

    Raises
    ------
    ModelError
        If variables are missing, units are others, or MJy/sr come without PIXAR_SR.
    ParameterError
        If a parameter is unknown or out of its range.

    Notes
    -----
    Variances are sums of squared weights times variances: read noise as given, enlarged by ``noise_scale``; photon
    noise as the model says; the uncertainty of the profile itself is added to both in proportion.

    References
    ----------
    Horne 1986 (PASP 98, 609); Robertson 1986 (PASP 98, 1220).
    """
    check(slit, "sci", "dq", "var_poisson", "var_rnoise")
    if "slit" in slit.dims:
        raise ModelError("this Dataset has many slits; go through them with nsxr.map_slits")
    if weighting not in ("auto", "profile", "box"):
        raise ParameterError(f"weighting is {weighting!r}, expected auto, profile or box")
    if not 0 <= least_coverage < 1:
        raise ParameterError(f"least_coverage is {least_coverage}, expected a part from 0 to below 1")
    to_flux, per_sr, units = _units(slit)
    if model is None:
        model = fit_trace_model(slit, **fitting)
    elif fitting:
        raise ParameterError(f"{sorted(fitting)} belong to fit_trace_model; a model was given already")
    box = weighting == "box" or (weighting == "auto" and is_extended(slit))
    names = [name for name in ("sci", "var_poisson", "var_rnoise", "var_flat") if name in slit]
    series = "integration" in slit.dims
    arrays = [_whole(slit[name]) for name in names if name != "var_poisson"]
    usable = _whole(usable_pixels(slit))
    static = [_whole(model[name]) for name in (*_MODEL, "noise_scale", "background_terms")]
    lead = ("integration",) if series else ()
    along = (*lead, "dispersion")
    n_outputs = 2 * len(_PARTS) + 4
    outputs: list[tuple[Sequence[str], type[np.generic]]] = [(along, np.float64)] * n_outputs
    found = map_blocks(
        _extract_block,
        arrays[0],
        usable,
        *static,
        *arrays[1:],
        core=IMAGE,
        outputs=[*outputs, (along, np.uint32)],
        box=box,
        first_row=None if is_extended(slit) else float(slit["cross_dispersion"][0]),
        rejection=rejection_threshold,
        least_coverage=least_coverage,
    )
    flux, level, npixels, coverage = found[:4]
    parts = {part: found[4 + 2 * i : 6 + 2 * i] for i, part in enumerate(_PARTS)}
    values: dict[str, xr.DataArray] = {"flux": flux * to_flux}
    pixels = model["aperture"].sum("cross_dispersion").reset_coords(drop=True)
    surface = 1.0 / pixels.where(pixels > 0) if per_sr else xr.zeros_like(pixels)
    values["surf_bright"] = (flux * surface).transpose(*along)
    pixel_area = read(slit.attrs, "PIXAR_SR", default=0.0, matters=False)
    brightness = 1.0 if per_sr or units == "DN/s" else (1 / pixel_area if pixel_area else 0.0)
    values["background"] = level * brightness
    for part, (of_flux, of_level) in parts.items():
        values[f"flux_var_{part}"] = of_flux * to_flux**2
        values[f"sb_var_{part}"] = (of_flux * surface**2).transpose(*along)
        values[f"bkgd_var_{part}"] = of_level * brightness**2
    values |= {"npixels": npixels, "coverage": coverage, "dq": found[-1]}
    labels = {name: c for name, c in slit.coords.items() if set(c.dims) <= {"integration", "dispersion"}}
    spectrum = xr.Dataset(coords=labels, attrs=slit.attrs)
    given = {
        name: ("DN/s" if units == "DN/s" else {"flux": "Jy", "surf_bright": "MJy/sr", "background": "MJy/sr"}[name])
        for name in ("flux", "surf_bright", "background")
    }
    for name, prefix in {"flux": "flux", "surf_bright": "sb", "background": "bkgd"}.items():
        given |= {f"{prefix}_var_{part}": f"({given[name]})2" for part in _PARTS}
    spectrum = spectrum.assign_coords(wavelength=_mean_wavelength(slit, model))
    spectrum = record(
        spectrum,
        "extract_1d",
        parameters={
            "weighting": "box" if box else "profile",
            "background": steps(model)[-1]["parameters"].get("background"),
            "rejection_threshold": rejection_threshold,
            "least_coverage": least_coverage,
        },
    )
    for name, unit in given.items():
        values[name] = values[name].assign_attrs(**variable_attributes(name), units=unit)
    for name in ("npixels", "coverage", "dq"):
        values[name] = values[name].assign_attrs(variable_attributes(name))
    spectrum = spectrum.assign(values)
    weight = model["weight"].reset_coords(drop=True)
    if box:
        summed = model["aperture"].where(model["is_used"] & (2 * model["response"] > model["profile"]), 0.0)
        covered = (model["response"] * summed).sum("cross_dispersion")
        weight = summed.reset_coords(drop=True) + (1 - covered) * weight
    spectrum["weight"] = weight.astype(np.float32) * np.float32(to_flux)
    if "disagreement" in slit:  # of exposures, from flag_outliers
        spectrum["disagreement"] = slit["disagreement"].reset_coords(drop=True)
    if "var_background" in slit:
        spectrum["var_background"] = slit["var_background"].reset_coords(drop=True)
    positions = ("position_planned", "position_fitted", "position_uncertainty")
    spectrum = spectrum.assign({name: model[name].reset_coords(drop=True) for name in positions})
    for name in positions:
        spectrum[name].attrs["units"] = "pixel"
    return spectrum


def _whole(array: xr.DataArray) -> xr.DataArray:
    return one_chunk(array, *(dim for dim in IMAGE if dim in array.dims))


def _units(slit: xr.Dataset) -> tuple[float, bool, str]:
    """Return the factor from sums of pixels to flux, whether pixels are per steradian, and the units."""
    units = str(slit["sci"].attrs.get("units", ""))
    if units == "MJy":
        return _JANSKY, False, units
    if units == "MJy/sr":
        area = read(slit.attrs, "PIXAR_SR", default=0.0, matters=False)
        if not area > 0:
            raise ModelError("sci is in MJy/sr, but PIXAR_SR, the solid angle of a pixel, is missing or not positive")
        return area * _JANSKY, True, units
    if units == "DN/s":
        return 1.0, False, units
    raise ModelError(f"sci has units {units!r}, expected MJy, MJy/sr or DN/s")


def _mean_wavelength(slit: xr.Dataset, model: xr.Dataset) -> xr.DataArray:
    """Return the wavelength of each column, mean over the profile, float64; NaN without wavelengths."""
    if "wavelength" not in slit:
        missing = np.full(slit.sizes["dispersion"], np.nan)
        return xr.DataArray(missing, dims="dispersion", attrs={"units": "um"})
    wavelength = slit["wavelength"].astype(np.float64)
    weight = (model["profile"] * model["aperture"]).where(np.isfinite(wavelength), 0.0)
    mean = (weight * wavelength.fillna(0.0)).sum("cross_dispersion") / weight.sum("cross_dispersion")
    return mean.where(weight.sum("cross_dispersion") > 0).reset_coords(drop=True).assign_attrs(units="um")


def _extract_block(
    sci: np.ndarray,
    usable: np.ndarray,
    profile: np.ndarray,
    response: np.ndarray,
    aperture: np.ndarray,
    is_used: np.ndarray,
    beside: np.ndarray,
    beside_variance: np.ndarray,
    sky: np.ndarray,
    mean_flux: np.ndarray,
    background_variance: np.ndarray,
    variance_of_signal: np.ndarray,
    profile_variance: np.ndarray,
    off_profile: np.ndarray,
    trace: np.ndarray,
    width: np.ndarray,
    noise_scale: np.ndarray,
    background_terms: np.ndarray,
    var_rnoise: np.ndarray,
    var_flat: np.ndarray | None = None,
    *,
    box: bool,
    first_row: float | None,
    rejection: float,
    least_coverage: float,
) -> tuple[np.ndarray, ...]:
    """Extract (integration, cross_dispersion, dispersion) or single images; see :func:`extract_spectrum`."""
    shape = (*sci.shape[:-2], sci.shape[-1])
    flux, level, npixels, coverage, *variances = (np.empty(shape) for _ in range(4 + 2 * len(_PARTS)))
    dq, order = np.zeros(shape, dtype=np.uint32), int(background_terms)
    light = np.maximum(mean_flux * profile, 0.0)
    photons = float(noise_scale) * background_variance + variance_of_signal * light + beside_variance
    neighbours = np.pad(light + np.abs(beside), ((1, 1), (0, 0)))
    around = np.maximum(np.maximum(neighbours[:-2], neighbours[2:]), light)
    one = [array[None] for array in (response, aperture)]
    inside = np.ones(shape[-1])
    if first_row is not None:  # where the cut-out ends in the trace, the profile knows only what is left of it
        edges = np.array([-0.5, sci.shape[-2] - 0.5])[:, None] + first_row - trace
        inside = np.subtract(*ndtr(edges / width)[::-1])
    is_light = box | off_profile | ((aperture * np.abs(profile)).sum(0) <= _MOST_OF_LIGHT)
    for index in np.ndindex(sci.shape[:-2]):
        read = float(noise_scale) * var_rnoise[index].astype(np.float64)
        variance = read + photons
        good = usable[index] & is_used & np.isfinite(variance) & (variance > 0)
        image = np.where(good, sci[index].astype(np.float64) - beside, 0.0)
        precision = np.where(good, 1 / np.where(good, variance, 1.0), 0.0)[None]
        weights, level_weights, leverage = column_weights(one[0], one[1], precision, order, sky[None])
        if rejection > 0 and sci.ndim > 2:
            residual = image - (weights[0] * image).sum(0) * response - (level_weights[0] * image).sum(0) * sky
            free = np.maximum(1 - leverage[0], 0.01)
            limit = rejection * np.sqrt(np.where(good, variance, 1.0) * free) + 0.05 * free * around
            excess = np.where(good & (aperture > 0), np.abs(residual) / limit, 0.0)
            bad = (excess > 1) & (excess == excess.max(0)) & ~off_profile
            if bad.any():
                good &= ~bad
                image = np.where(good, image, 0.0)
                precision = np.where(good, precision[0], 0.0)[None]
                weights, level_weights, _ = column_weights(one[0], one[1], precision, order, sky[None])
        w, b = weights[0], level_weights[0]
        covered = (aperture * profile * good).sum(0) * inside
        noise_of_light = photons
        if box or off_profile.any():
            summed, beside_it = box_weights(
                weights, level_weights, profile[None], one[0], one[1], precision, sky[None], order, off_profile[None]
            )
            w, b = np.where(box | off_profile, summed[0], w), beside_it[0]
            # sums have fixed weights, so that its own noise does no harm
            own = variance_of_signal * (np.maximum(image - (b * image).sum(0) * sky, 0.0) - light)
            noise_of_light = photons + np.where(off_profile, own, 0.0)
        there = w.any(0)
        flux[index] = np.where(there, (w * image).sum(0), np.nan)
        level[index] = (b * image).sum(0)
        npixels[index] = np.where(there, (aperture * good).sum(0), 0.0)
        coverage[index] = np.clip(covered, 0.0, 1.0)
        terms = (noise_of_light, read, np.zeros_like(read) if var_flat is None else var_flat[index].astype(np.float64))
        for i, term in enumerate(terms):
            known = np.where(good & np.isfinite(term), term, 0.0)
            variances[2 * i][index] = np.where(there, (w**2 * known).sum(0), np.nan)
            variances[2 * i + 1][index] = (b**2 * known).sum(0)
        noise = variances[0][index] + variances[2][index]
        factor = 1 + profile_variance * np.where(there, flux[index], 0.0) ** 2 / np.where(noise > 0, noise, 1.0)
        variances[0][index] *= factor
        variances[2][index] *= factor
        dq[index] = np.where(there & is_light & (covered >= least_coverage), 0, int(PixelFlag.DO_NOT_USE))
    return flux, level, npixels, coverage, *variances, dq


def model_image(spectrum: xr.Dataset, model: xr.Dataset, slit: xr.Dataset) -> xr.Dataset:
    """Return what the fitted trace says about every pixel, as for pixels that are to be replaced.

    Parameters
    ----------
    spectrum : Dataset
        From :func:`extract_spectrum`.
    model : Dataset
        From :func:`nsxr.fit_trace_model`.
    slit : Dataset
        What they were made from.

    Returns
    -------
    Dataset
        ``model`` [units of sci] and ``model_variance`` (cross_dispersion, dispersion), with integration in front if
        the spectrum has it, float64; variance of the flux and of the profile. NaN outside the aperture, and in columns
        that cannot be used.
    """
    to_flux, per_sr, units = _units(slit)
    pixel_area = read(slit.attrs, "PIXAR_SR", default=0.0, matters=False)
    brightness = 1.0 if per_sr or units == "DN/s" else (1 / pixel_area if pixel_area else 0.0)
    kept = (spectrum["dq"] & np.uint32(PixelFlag.DO_NOT_USE)) == 0
    flux = spectrum["flux"].reset_coords(drop=True) / to_flux
    level = spectrum["background"].reset_coords(drop=True) / (brightness or 1.0)
    variance = sum(spectrum[f"flux_var_{part}"].reset_coords(drop=True) for part in _PARTS) / to_flux**2
    extra = sum(spectrum[f"bkgd_var_{part}"].reset_coords(drop=True) for part in _PARTS) / (brightness or 1.0) ** 2
    inside = kept & (model["aperture"] > 0)
    image = (flux * model["response"] + level * model["sky"] + model["beside"]).where(inside)
    uncertain = variance * model["profile"] ** 2 + flux**2 * model["profile_uncertainty"] ** 2 + extra
    dims = slit["sci"].dims
    return xr.Dataset(
        {
            "model": image.transpose(*dims).assign_attrs(units=units),
            "model_variance": uncertain.where(inside).transpose(*dims).assign_attrs(units=f"({units})2"),
        }
    )
