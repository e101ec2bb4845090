"""Subtract a spectrum of the sky from the count rates of slits."""

import warnings

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.flux.sky_checks import SKY_VARIANCES, check_sky, file_of, spectrum_of, warn_of_uncovered
from nsxr.kernels.flux.sky import evaluate_sky
from nsxr.model.declarations import step
from nsxr.model.dims import IMAGE
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record, record_skip, steps
from nsxr.model.keywords import about
from nsxr.model.texts import text_of
from nsxr.model.variables import check_slit, variable_attributes
from nsxr.slits.collection import as_tree, iterate_slits
from nsxr.slits.light import exposure_type, wavelength_name

__all__ = ["SKY_STEPS", "subtract_sky", "subtract_sky_of_fixed_slits"]

SKY_STEPS = {"NRS_MSASPEC": "master_background_mos", "NRS_FIXEDSLIT": "master_background"}
"""The step that subtracts a spectrum of the sky, by EXP_TYPE."""
_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)


@step("master_background_mos", given=["sky", "response"])
def subtract_sky(slits: xr.DataTree, sky: xr.Dataset | xr.DataTree, response: xr.DataTree) -> xr.DataTree:
    """Subtract a spectrum of the sky from the count rates of slits, and add its variance.

    Parameters
    ----------
    slits : DataTree
        Count rates of slits before any factor was applied: ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise``,
        ``wavelength``.
    sky : Dataset or DataTree
        A spectrum of uniform light: ``surf_bright`` [MJy/sr] and ``sb_var_poisson``, ``sb_var_rnoise`` along
        ``dispersion``, with or without ``dq``, and the coordinate ``wavelength`` [um]. From :func:`nsxr.estimate_sky`,
        or of an exposure of a background, see :func:`nsxr.open_spectra`. A DataTree of several spectra has one for each
        slit, by name.
    response : DataTree
        From :func:`nsxr.sky_response`, for these slits.

    Returns
    -------
    DataTree
        ``sci`` minus the sky, and ``var_poisson`` and ``var_rnoise`` plus those of the sky. ``var_background`` is the
        sum of these. ``var_barshadow`` is what the uncertainty of the bar shadow adds, if the reference tells it: all
        exposures share it, so it is not part of the noise. Pixels at wavelengths that the spectrum does not have are
        NaN with DO_NOT_USE. Pixels without a response keep their values; they lose them with the next factor. S_MSBSUB
        is COMPLETE. Slits without a response, or without a spectrum, come back with a record of why they were skipped.

    Raises
    ------
    ModelError
        If backgrounds were subtracted before, or variables or units of the spectrum are not as expected; if the
        spectrum is that of a point, or of another filter or grating, or has no usable points or negative variances.

    Warns
    -----
    DegradedResultWarning
        If several spectra lack that of a slit; if a spectrum is that of another fixed slit; or if it lacks more than a
        tenth of the wavelengths of a slit, as far as this is known without computing.

    Notes
    -----
    Between its points, the spectrum is a cubic spline, and its variance is linear. Gaps of more than 4 pixels are not
    bridged. All rows of a slit share the noise of the spectrum; extraction takes this into account.
    """
    spectra = dict(iterate_slits(sky))
    own_of = {name: spectrum_of(name, spectra) for name, _ in iterate_slits(slits)}
    for name, slit in iterate_slits(slits):
        if (spectrum := own_of[name]) is not None:
            check_sky(spectrum, slit)
    is_lazy = any(slit["sci"].chunks is not None for _, slit in iterate_slits(slits))
    points = {name: _points(spectrum, is_lazy) for name, spectrum in spectra.items()}
    found = []
    for name, slit in iterate_slits(slits):
        done = SKY_STEPS.get(exposure_type(slit.attrs), "master_background")
        own = spectrum_of(name, points)
        light = response[name].to_dataset()
        if "response" not in light:
            found.append(record_skip(slit, done, str(light.attrs.get("reason", "its response is not known"))))
        elif own is None:
            found.append(record_skip(slit, done, "the sky has spectra of several slits, and none of this one"))
        else:
            found.append(_subtract(slit, done, own, light, _label(own_of[name], slit)))
    lacking = [name for name, spectrum in own_of.items() if spectrum is None]
    if lacking:
        message = f"no sky is subtracted from slits {', '.join(lacking)}: there are spectra of "
        warnings.warn(
            about(slits.attrs, f"{message}{', '.join(spectra) or 'no slit'}"), DegradedResultWarning, stacklevel=3
        )
    warn_of_uncovered(slits, sky)
    return as_tree(found, slits.attrs, [name for name, _ in iterate_slits(slits)])


@step("master_background", given=["sky", "response"])
def subtract_sky_of_fixed_slits(
    slits: xr.DataTree, sky: xr.Dataset | xr.DataTree, response: xr.DataTree
) -> xr.DataTree:
    """Subtract a spectrum of the sky from the count rates of fixed slits, see :func:`subtract_sky`."""
    return subtract_sky(slits, sky, response)


def _label(spectrum: xr.Dataset | None, slit: xr.Dataset) -> str:
    """Return where a spectrum is from: its file, or how it was estimated from the exposure itself."""
    if spectrum is None:
        return ""
    record = next((entry for entry in steps(spectrum) if entry["step"] == "estimate_sky"), None)
    name = file_of(spectrum)
    if record is None or (name and name != text_of(slit.attrs, "filename")):
        return name
    return "master" if record["parameters"].get("slitlets") == "background" else "global"


def _points(spectrum: xr.Dataset, is_lazy: bool) -> list[xr.DataArray]:
    """Return wavelengths, brightness and variances of a spectrum. Points that are flagged are NaN."""
    brightness = spectrum["surf_bright"]
    if "dq" in spectrum:
        brightness = brightness.where((spectrum["dq"] & _DO_NOT_USE) == 0)
    arrays = [spectrum["wavelength"], brightness, *(spectrum[name] for name in SKY_VARIANCES)]
    arrays = [unlabelled(array).rename(dispersion="point") for array in arrays]
    return [array.chunk() if is_lazy and array.chunks is None else array for array in arrays]


def _subtract(slit: xr.Dataset, name: str, points: list[xr.DataArray], light: xr.Dataset, label: str) -> xr.Dataset:
    check_slit(slit, "sci", "dq", "var_poisson", "var_rnoise", "wavelength", units={"sci": "DN/s"})
    if "var_background" in slit:
        raise ModelError(about(slit.attrs, "a background was subtracted before: the slit has var_background"))
    has_bars = "bars_variance" in light
    names = ["sky", "var_poisson", "var_rnoise", "var_background", *(["var_barshadow"] if has_bars else [])]
    outputs: dict[str, Output] = dict.fromkeys(names, (IMAGE, np.float32)) | {"dq": (IMAGE, np.uint32)}
    own = map_blocks(
        _of_pixels,
        slit[wavelength_name(slit, "uniform")],
        light["response"],
        *([light["bars_variance"]] if has_bars else []),
        *points,
        core=("row", "column", "point"),
        outputs=outputs,
        has_bars=has_bars,
    )
    own = {name: chunk_like(array, unlabelled(slit["sci"])) for name, array in own.items()}
    units = slit["var_rnoise"].attrs.get("units", "")
    more = {name: own[name] for name in ("var_background", "var_barshadow") if name in own}
    for variable, array in more.items():
        array.attrs = {**variable_attributes(variable), "units": units}
    result = record(
        slit,
        name,
        (),
        {"sky": label},
        attrs={"S_MSBSUB": "COMPLETE"},
        sci=slit["sci"] - own["sky"],
        dq=slit["dq"] | own["dq"],
        var_poisson=slit["var_poisson"] + own["var_poisson"],
        var_rnoise=slit["var_rnoise"] + own["var_rnoise"],
    )
    labels = {dim: slit[dim] for dim in IMAGE}
    return result.assign({variable: array.assign_coords(labels) for variable, array in more.items()})


def _of_pixels(
    wavelength: np.ndarray, response: np.ndarray, *arrays: np.ndarray, has_bars: bool
) -> tuple[np.ndarray, ...]:
    """Return the count rate of the sky, its variances and their sum, what bars add to it, and flags."""
    bars, points = (arrays[0], arrays[1:]) if has_bars else (None, arrays)
    brightness, *variances = evaluate_sky(wavelength, *points)
    is_blind = ~np.isfinite(response)
    is_lost = ~is_blind & np.isfinite(wavelength) & ~np.isfinite(brightness)
    seen = np.where(is_blind, 0.0, response.astype(np.float64))
    with np.errstate(invalid="ignore"):
        sky = np.where(is_blind, 0.0, brightness * seen)
        parts = [np.where(is_blind, 0.0, variance * seen**2) for variance in variances]
        found = [sky, *parts, parts[0] + parts[1]]
        if bars is not None:
            found.append(np.where(is_blind, 0.0, sky**2 * bars))
    return *(one.astype(np.float32) for one in found), np.where(is_lost, _DO_NOT_USE, np.uint32(0))
