"""Find outliers on the detector: pixels that disagree with the other exposures of the same source."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ParameterError
from nsxr.kernels.spectra.outliers import disagreeing_pixels
from nsxr.model.declarations import step
from nsxr.model.dims import image_dims
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.spectra.trace_model import fit_trace_model, usable_pixels

__all__ = ["flag_outliers"]

_MODEL: Mapping[str, Any] = {
    **dict.fromkeys(("response", "profile_uncertainty", "aperture"), 0.0),
    **dict.fromkeys(("is_used", "off_profile"), False),
    **dict.fromkeys(("background_variance", "variance_of_signal"), 0.0),
    "noise_scale": 1.0,
    "background_terms": 0.0,
}
"""Variables of trace models, in the order of the arguments of a block, and the value for pixels outside a slit."""
_OUTLIER = np.uint32(PixelFlag.OUTLIER | PixelFlag.DO_NOT_USE)


@step("outlier_detection")
def flag_outliers(
    slits: Sequence[xr.Dataset],
    models: Sequence[xr.Dataset] | None = None,
    *,
    snr: float = 5.0,
    scale: float = 0.05,
    **fitting: Any,
) -> list[xr.Dataset]:
    """Flag pixels of a trace that deviate from the signal that all exposures of the source together predict.

    The observatory's pipeline resamples exposures to a common grid, takes a median and resamples the median back. This
    does not work for an undersampled trace: its steep flanks are flagged, or the limits have to be loose. Here nothing
    is resampled. The expected signal of a pixel is the flux of its column times the profile of the trace. The flux
    comes from the other exposures at the same wavelength, and from the pixels of the column where they agree. Emission
    lines are kept, because they are in all exposures.

    Parameters
    ----------
    slits : sequence of Dataset
        Exposures or nods of one source: ``sci``, ``dq``, ``var_poisson``, ``var_rnoise``, ``wavelength``. A single one
        is compared with itself.
    models : sequence of Dataset, optional
        From :func:`nsxr.fit_trace_model` of all slits. By default they are made here, with the parameters in
        ``fitting``.
    snr : float, default 5
        Number of standard deviations by which a pixel may deviate. They include the noise of the pixel, of the expected
        flux, and of the profile.
    scale : float, default 0.05
        Additional deviation that is allowed, as a part of the light around a pixel and of the change of this light
        along the dispersion.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    list of Dataset
        The slits, with OUTLIER and DO_NOT_USE set in ``dq``. Pixels outside the apertures are not tested, because the
        models do not describe them. Emission lines whose light is distributed differently from the continuum are not
        tested either. Nothing else changes. If there are other exposures to compare with, the scalar ``disagreement``
        is the part of the columns in which an exposure differs from the most similar of the others. If it is above a
        fifth, as behind a closed shutter, the exposure is compared with itself only, and is not used to test the
        others.

    Raises
    ------
    ParameterError
        If a parameter is out of its range, the numbers of slits and models differ, an exposure comes twice, or a time
        series is given.
    """
    each = list(slits)
    if not snr > 0 or not scale >= 0:
        raise ParameterError(f"snr is {snr} and scale is {scale}, expected snr above 0 and scale from 0")
    if any("integration" in slit.dims for slit in each):
        raise ParameterError(
            "a time series is given, expected single exposures: extraction rejects its outliers itself"
        )
    require_distinct(each)
    if models is None:
        models = fit_trace_model(each, **fitting)
    elif fitting:
        raise ParameterError(f"{sorted(fitting)} are parameters of fit_trace_model; models were given already")
    if len(models) != len(each):
        raise ParameterError(f"{len(each)} slits and {len(models)} models; give one for each")
    found = _compare(each, models, snr, scale)
    dims = image_dims(each[0])
    results = []
    for number, slit in enumerate(each):
        own = found.isel(exposure=number, drop=True).sel({dim: slit[dim].values for dim in dims})
        flags = own["is_outlier"].reset_coords(drop=True).astype(np.uint32) * _OUTLIER
        parameters = {"snr": snr, "scale": scale, "exposures": len(each)}
        flagged = record(slit, "outlier_detection", parameters=parameters, dq=slit["dq"] | flags)
        if len(each) > 1:
            flagged["disagreement"] = own["disagreement"].reset_coords(drop=True)
        results.append(flagged)
    return results


def _compare(each: Sequence[xr.Dataset], models: Sequence[xr.Dataset], snr: float, scale: float) -> xr.Dataset:
    """Return the outliers of all exposures on one grid of pixels that covers all, and how much each one disagrees."""
    dims = image_dims(each[0])
    labels = {dim: np.unique(np.concatenate([slit[dim].values for slit in each])) for dim in dims}

    def stack(arrays: Sequence[xr.DataArray], fill: Any) -> xr.DataArray:
        parts = [
            array.reset_coords(drop=True).reindex({d: labels[d] for d in array.dims if d in labels}, fill_value=fill)
            for array in arrays
        ]
        joined = xr.concat(parts, "exposure")
        return one_chunk(joined, *map(str, joined.dims))

    of_slits = {
        "sci": stack([slit["sci"] - model["beside"] for slit, model in zip(each, models, strict=True)], np.nan),
        "usable": stack([usable_pixels(slit) for slit in each], False),
        "var_rnoise": stack([slit["var_rnoise"] for slit in each], np.nan),
        "wavelength": stack([_mean_wavelength(*pair) for pair in zip(each, models, strict=True)], np.nan),
    }
    of_models = {name: stack([model[name] for model in models], fill) for name, fill in _MODEL.items()}
    found = map_blocks(
        _flag_block,
        *(of_slits | of_models).values(),
        core=("exposure", *dims),
        outputs={"is_outlier": (("exposure", *dims), np.bool_), "disagreement": (("exposure",), np.float64)},
        threshold=snr,
        tolerance=scale,
    )
    return xr.Dataset(found, coords=labels)


def _mean_wavelength(slit: xr.Dataset, model: xr.Dataset) -> xr.DataArray:
    """Return the wavelength of each column of a slit, the mean over the profile."""
    across = image_dims(slit)[0]
    weight = (model["profile"] * model["aperture"]).where(np.isfinite(slit["wavelength"]), 0.0)
    total = weight.sum(across)
    return (weight * slit["wavelength"].fillna(0.0)).sum(across) / total.where(total > 0)


def _flag_block(
    sci: np.ndarray,
    usable: np.ndarray,
    var_rnoise: np.ndarray,
    wavelengths: np.ndarray,
    profile: np.ndarray,
    profile_uncertainty: np.ndarray,
    aperture: np.ndarray,
    is_used: np.ndarray,
    off_profile: np.ndarray,
    background_variance: np.ndarray,
    variance_of_signal: np.ndarray,
    noise_scale: np.ndarray,
    background_terms: np.ndarray,
    *,
    threshold: float,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    dark = noise_scale[:, None, None] * (var_rnoise.astype(np.float64) + background_variance[:, None, :])
    good = usable & np.isfinite(dark) & (dark > 0)
    unit = (
        float(np.median(np.sqrt(dark[good]))) if good.any() else 1.0
    )  # squares of values in MJy would be too small to divide by
    return disagreeing_pixels(
        np.where(good, sci, 0.0) / unit,
        good,
        np.where(good, dark, unit**2) / unit**2,
        variance_of_signal / unit,
        wavelengths,
        profile,
        profile_uncertainty,
        aperture,
        is_used,
        off_profile,
        int(background_terms.max()),
        threshold,
        tolerance,
    )
