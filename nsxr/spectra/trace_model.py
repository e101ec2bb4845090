"""The trace of a source on the detector: position, profile, photon noise, outliers, from one or several exposures."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.compute.passes import settle
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.spectra.column_fit import box_weights, column_weights
from nsxr.kernels.spectra.companions import Others
from nsxr.kernels.spectra.extraction import Place, Source, fit_source, steady_flux
from nsxr.kernels.spectra.slit_geometry import nod_distances, open_part, planned_trace, slit_aperture, trace_of_light
from nsxr.kernels.spectra.wild_pixels import wild_pixels, wild_variances
from nsxr.model.arguments import checks_arguments
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.keywords import read
from nsxr.model.parameters import Limits, Range, Unit, said
from nsxr.model.readout import DETECTOR_SIZE
from nsxr.model.variables import check
from nsxr.slits.collection import is_extended
from nsxr.spectra.series_mean import mean_image

__all__ = ["BACKGROUND_TERMS", "UNUSABLE", "fit_trace_model", "usable_pixels"]

IMAGE = ("cross_dispersion", "dispersion")
BACKGROUND_TERMS = {"none": 0, "constant": 1, "linear": 2, "if any": -1}
"""Terms of each kind of local background; where one was subtracted, the pixels beside the trace say what is left."""
UNUSABLE = int(PixelFlag.DO_NOT_USE | PixelFlag.NON_SCIENCE | PixelFlag.OUTLIER | PixelFlag.FLUX_ESTIMATED)
"""Flags of pixels that are no measurements; FLUX_ESTIMATED are values that somebody filled in."""
HALF_WIDTH = 3.0
"""Half width of the aperture of point sources [pixel]; the observatory's is as wide."""
_LEAST_ROWS = 3  # that tell where a trace is
_UNPLANNED = 2.0  # pixels by which a position taken from the light itself may be wrong
_PIXELS, _COLUMNS, _ONE = ("exposure", *IMAGE), ("exposure", "dispersion"), ("exposure",)
_OUTPUTS: dict[str, tuple[Sequence[str], type[np.generic]]] = {
    **dict.fromkeys(("profile", "profile_uncertainty", "response", "aperture", "weight"), (_PIXELS, np.float64)),
    "is_used": (_PIXELS, np.bool_),
    **dict.fromkeys(("beside", "beside_variance", "sky"), (_PIXELS, np.float64)),
    **dict.fromkeys(("trace", "width", "flux", "steady_flux", "background_variance"), (_COLUMNS, np.float64)),
    **dict.fromkeys(("variance_of_signal", "profile_variance"), (_COLUMNS, np.float64)),
    "off_profile": (_COLUMNS, np.bool_),
    **dict.fromkeys(("noise_scale", "background_terms", "neighbours"), (_ONE, np.float64)),
    **dict.fromkeys(("position_planned", "position_fitted", "position_uncertainty"), (_ONE, np.float64)),
}

_Rows = Annotated[float, Range(0, 2048, is_open=True), Unit("pixel")]
Background = Literal["auto", "none", "constant", "linear"]


def usable_pixels(slit: xr.Dataset) -> xr.DataArray:
    """Return where pixels are measurements: finite, and without flags of :data:`UNUSABLE`."""
    return ((slit["dq"] & np.uint32(UNUSABLE)) == 0) & np.isfinite(slit["sci"])


def _kind_of_background(slit: xr.Dataset, background: Background) -> str:
    """Return the kind of local background, ``auto`` resolved."""
    if background != "auto":
        if background not in ("none", "constant", "linear"):
            raise ParameterError(f"background is {background!r}, expected auto, none, constant or linear")
        return background
    subtracted = "COMPLETE" in (slit.attrs.get("S_BKDSUB"), slit.attrs.get("S_MSBSUB"))
    return "if any" if subtracted or "background_members" in slit.attrs else "constant"


def _warn_of_unknown_source(slit: xr.Dataset) -> None:
    """Warn if SRCTYPE is a word that says nothing; none, N/A and UNKNOWN are usual, and mean a point source."""
    given = slit.attrs.get("SRCTYPE")
    if given is not None and str(given).strip().upper() not in ("POINT", "EXTENDED", "UNKNOWN", "N/A", ""):
        name = slit.attrs.get("filename", "a slit")
        message = f"{name}: SRCTYPE is {said(given)}, expected POINT or EXTENDED; treated as a point source"
        warnings.warn(message, DegradedResultWarning, stacklevel=4)


@checks_arguments  # also what other functions hand on
def fit_trace_model(
    slits: xr.Dataset | Sequence[xr.Dataset],
    *,
    half_width: _Rows | None = None,
    position: Annotated[float, Range(-2048, 4096), Unit("pixel")] | None = None,
    position_prior: _Rows = 0.3,
    background: Background = "auto",
    rejection_threshold: Limits = 5.0,
    rescale_noise: bool = True,
) -> Any:
    """Fit position, profile and photon noise of the source in a slit, or in several nods of one source together.

    The profile is smooth along the dispersion and free across it: a Gaussian whose centre and width are
    parabolas in wavelength, and splines on top whose size the data decide. Nods share it, and the shape of the trace;
    offsets and fluxes are their own. Series are averaged over integrations first. Other sources in the slit, from 2.5
    rows on, have their own light in every column, with the profile of a point source; all the light in the slit of an
    extended source is its own.

    Parameters
    ----------
    slits : Dataset, or sequence of Dataset
        Each with ``sci`` (cross_dispersion, dispersion), or with integration in front, [DN/s, MJy or MJy/sr], ``dq``,
        ``var_poisson``, ``var_rnoise``, ``wavelength``. Several are exposures of one source.
    half_width : float, optional
        Half width of the aperture [pixel]; 3 for point sources. That of extended ones (SRCTYPE) is the slit, as tilted
        as it is; a half width cuts it.
    position : float, optional
        Planned detector row of the source in the middle column. By default from SRCYPOS, SHUTSTA and the edges of the
        slit, or from the light itself where a cut-out does not tell.
    position_prior : float, default 0.3
        Standard deviation of the true position from the planned one [pixel].
    background : {"auto", "none", "constant", "linear"}
        Local background of each column, fitted together with its flux, in open shutters alone. ``auto``: a constant; if
        a background was subtracted before, only if pixels beside the trace of a point source show that something is
        left, by 5 standard deviations and half a percent of the flux.
    rejection_threshold : float, default 5
        Pixels off the model by so many standard deviations, and by more than 2 % of the light around, are left out.
    rescale_noise : bool, default True
        Enlarge variances by what the scatter of pixels without light asks for; not those of series.

    Returns
    -------
    Dataset, or list of Dataset
        For each slit ``profile`` (cross_dispersion, dispersion), part of the flux of a column in a pixel, with
        ``profile_uncertainty``; ``aperture``, the part of each pixel within the aperture; ``weight``, the factor of a
        pixel in the flux of its column; ``is_used``; ``response``, the signal in a pixel for a flux of one, which is
        the profile but for extended sources with subtracted nods; ``beside``, light of other sources, and of subtracted
        nods of a point source [units of sci], with its photon noise ``beside_variance``; ``sky``, part of an even sky
        that open shutters let through; along
        ``dispersion`` ``trace`` and ``width`` [pixel], ``flux`` and ``steady_flux``, for
        models of variance without the noise of the column itself, [units of sci], ``background_variance`` and
        ``variance_of_signal`` (of single integrations), ``profile_variance`` (relative variance of the flux that comes
        from the profile); ``off_profile``, columns with lines that are distributed otherwise than the continuum, where
        no pixel is left out for that, and fluxes are sums over the aperture;
        ``background_terms``, 0, 1 or 2 for none, a constant or a line; ``neighbours``, number of other sources found;
        ``noise_scale``; ``position_planned`` (NaN if not known), ``position_fitted``,
        ``position_uncertainty`` [detector row, middle column]. All float64 but ``is_used`` and
        ``off_profile``. Lazy if a slit is.

    Warns
    -----
    DegradedResultWarning
        If SRCTYPE is a word that says nothing: the source is treated as a point.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If a parameter is out of its range, or an exposure comes twice.

    References
    ----------
    Horne 1986 (PASP 98, 609); Bolton & Burles 2007 (NJP 9, 443) for profiles by splines.
    """
    alone = isinstance(slits, xr.Dataset)
    each = [slits] if isinstance(slits, xr.Dataset) else list(slits)
    if not each:
        raise ParameterError("no slit given")
    require_distinct(each)
    for name, value in {"half_width": half_width, "position_prior": position_prior}.items():
        if value is not None and not 0 < value <= DETECTOR_SIZE:
            raise ParameterError(f"{name} is {value}, expected a positive number of pixels, at most {DETECTOR_SIZE}")
    for slit in each:
        check(slit, "sci", "dq", "var_poisson", "var_rnoise")
        if "slit" in slit.dims:
            raise ModelError("this Dataset has many slits; go through them with nsxr.iterate_slits")
    rows = np.unique(np.concatenate([slit["cross_dispersion"].values for slit in each]))
    if rows.size > 1.5 * max(slit.sizes["cross_dispersion"] for slit in each):  # in slits apart: nothing is shared
        return [
            fit_trace_model(
                slit,
                half_width=half_width,
                position=position,
                position_prior=position_prior,
                background=background,
                rejection_threshold=rejection_threshold,
                rescale_noise=rescale_noise,
            )
            for slit in each
        ]
    for slit in each:
        _warn_of_unknown_source(slit)
    order = BACKGROUND_TERMS[_kind_of_background(each[0], background)]
    extended = is_extended(each[0])
    columns = np.unique(np.concatenate([slit["dispersion"].values for slit in each]))
    means = [mean_image(slit, usable_pixels(slit)) for slit in each]
    images = [mean.assign(_wavelength(slit)) for (mean, _), slit in zip(means, each, strict=True)]
    if len(each) > 1:
        labels = {"cross_dispersion": rows, "dispersion": columns}
        images = [
            image.drop_vars("usable").reindex(labels).assign(usable=image["usable"].reindex(labels, fill_value=False))
            for image in images
        ]
    stack = {
        name: one_chunk(xr.concat([i[name] for i in images], "exposure"), "exposure", *IMAGE)
        for name in ("sci", "var_poisson", "var_rnoise", "usable", "wavelength")
    }
    shutters = [str(slit.attrs.get("SHUTSTA", "")) for slit in each]
    places = [read(slit.attrs, "SRCYPOS", default=0.0, matters=False) for slit in each]
    found = map_blocks(
        _fit_block,
        *(stack[name] for name in ("sci", "var_poisson", "var_rnoise", "usable", "wavelength")),
        core=("exposure", *IMAGE),
        outputs=list(_OUTPUTS.values()),
        first_row=float(rows[0]),
        shutters=shutters,
        places=places,
        position=position,
        half_width=half_width,
        prior=position_prior,
        order=order,
        rejection=rejection_threshold,
        # the mean of many integrations has so little noise that the wings of the profile would be taken for some
        rescale_noise=rescale_noise and not any("integration" in slit.dims for slit in each),
        extended=extended,
    )
    together = xr.Dataset(dict(zip(_OUTPUTS, found, strict=True))).drop_vars("wavelength", errors="ignore")
    parameters = {
        "half_width": half_width,
        "position": position,
        "position_prior": position_prior,
        "background": _kind_of_background(each[0], background),
        "rejection_threshold": rejection_threshold,
        "rescale_noise": rescale_noise,
        "exposures": len(each),
    }
    if any("integration" in slit.dims for slit in each):  # all integrations make the model, and all wait for it
        together = together.assign({name: settle(together[name]) for name in together.data_vars})
    models = []
    for number, slit in enumerate(each):
        own = together.isel(exposure=number, drop=True).sel({dim: slit[dim].values for dim in IMAGE})
        own.attrs = dict(slit.attrs)
        for name in (
            "background_variance",
            "variance_of_signal",
            "beside_variance",
        ):  # of one integration, not of the mean
            own[name] = own[name] * means[number][1]
        own["trace"].attrs["units"] = own["width"].attrs["units"] = "pixel"
        own["flux"].attrs["units"] = own["beside"].attrs["units"] = slit["sci"].attrs.get("units", "")
        models.append(record(own, "fit_trace_model", parameters=parameters))
    return models[0] if alone else models


def _wavelength(slit: xr.Dataset) -> dict[str, Any]:
    if "wavelength" in slit:
        return {"wavelength": slit["wavelength"].reset_coords(drop=True)}
    return {"wavelength": (IMAGE, np.full([slit.sizes[dim] for dim in IMAGE], np.nan, dtype=np.float32))}


def _fit_block(
    sci: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    usable: np.ndarray,
    wavelength: np.ndarray,
    *,
    first_row: float,
    shutters: Sequence[str],
    places: Sequence[float],
    position: float | None,
    half_width: float | None,
    prior: float,
    order: int,
    rejection: float,
    rescale_noise: bool,
    extended: bool,
) -> tuple[np.ndarray, ...]:
    """Fit (exposure, cross_dispersion, dispersion) arrays; see :func:`fit_trace_model`."""
    images = [array.astype(np.float64) for array in (sci, var_poisson, var_rnoise)]
    n, n_rows, n_columns = sci.shape
    plan, planned = np.empty((n, n_columns)), np.full(n, np.nan)
    # the light of a column is compared with others, so units do not matter but powers of ten under 1e-30 would
    finite = usable & np.isfinite(images[0])
    scale = float(np.median(np.abs(images[0][finite]))) if finite.any() else 1.0
    scale = scale if scale > 0 else 1.0
    images = [images[0] / scale, images[1] / scale**2, images[2] / scale**2]
    variance = images[1] + images[2]
    good = finite & np.isfinite(variance) & (variance > 0)
    good &= n_rows >= _LEAST_ROWS
    good &= ~wild_variances(images[1], images[2], good)
    good &= ~wild_pixels(images[0], good)
    for e in range(n):
        path = planned_trace(wavelength[e], shutters[e], places[e])
        if path is None:
            precision = np.where(good[e], 1 / np.where(good[e], variance[e], 1.0), 0.0)
            path = trace_of_light(np.where(good[e], images[0][e], 0.0), precision)
        else:
            planned[e] = path[n_columns // 2] + first_row
        if position is not None:
            path = path + (position - first_row - path[n_columns // 2])
            planned[e] = position
        plan[e] = path
    is_planned = bool(np.isfinite(planned).all())
    sky = [open_part(each, state) for each, state in zip(wavelength, shutters, strict=True)]
    slit = np.stack([_slit_of(each, there) for each, there in zip(wavelength, finite, strict=True)])
    place = Place(
        plan,
        is_planned,
        prior if is_planned else _UNPLANNED,
        min(half_width or (n_rows if extended else HALF_WIDTH), float(n_rows)),  # no wider than the cut-out
        np.stack([np.ones((n_rows, n_columns)) if each is None else each for each in sky]),
        slit if extended else None,
        [nod_distances(each, state) for each, state in zip(wavelength, shutters, strict=True)],
    )
    fit = partial(
        fit_source, images[0], images[1], images[2], good, place, rejection=rejection, rescale_noise=rescale_noise
    )
    order = 0 if extended and order < 0 else order
    source = fit(order=max(order, 0))
    if order < 0:
        order = int(_has_light_beside(source, images[0], images[2], place.sky))
        source = fit(order=1) if order else source
    profile, aperture = source.profile.evaluate(n_rows)
    response, _ = source.profile.response(n_rows)
    own = np.where(source.is_used, images[0] - source.beside, 0.0)
    dark = source.dark_variance(np.where(good, images[2], 1.0)) + source.beside_variance
    steady, precision = source.flux, np.where(source.is_used, 1 / dark, 0.0)

    def factors() -> np.ndarray:
        fitted, level, _ = column_weights(response, aperture, precision, order, place.sky)
        summed, _ = box_weights(
            fitted, level, profile, response, aperture, precision, place.sky, order, source.off_profile
        )
        return np.where(source.off_profile[:, None, :], summed, fitted)

    for _ in range(2):
        weights = factors()
        light = np.maximum(source.flux[:, None, :] * profile, 0.0)
        variance = dark + source.variance_of_signal[:, None, :] * light
        steady = steady_flux((weights * own).sum(1), 1 / np.maximum((weights**2 * variance).sum(1), 1e-300))
        total = dark + source.variance_of_signal[:, None, :] * np.maximum(steady[:, None, :] * profile, 0.0)
        precision = np.where(source.is_used, 1 / total, 0.0)
    weights = factors()
    trace = source.profile.trace()
    return (
        profile,
        source.profile.uncertainty(n_rows),
        response,
        aperture,
        weights,
        source.is_used,
        source.beside * scale,
        source.beside_variance * scale**2,
        place.sky,
        trace + first_row,
        np.broadcast_to(source.profile.width(), (n, n_columns)).copy(),
        (weights * own).sum(1) * scale,
        steady * scale,
        source.background_variance * scale**2,
        source.variance_of_signal * scale,
        source.profile.flux_variance(_summed(source, profile, response, aperture, weights) if extended else weights),
        source.off_profile,
        source.noise_scale,
        np.full(n, float(order)),
        (source.others.strengths > 0).sum(1).astype(float),
        planned,
        trace[:, n_columns // 2] + first_row,
        np.sqrt(np.diag(source.profile.covariance))[:n],
    )


def _summed(
    source: Source, profile: np.ndarray, response: np.ndarray, aperture: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the factors of pixels in the sum over the aperture, where the fit tells what is missing."""
    summed = np.where(source.is_used & (2 * response > profile), aperture, 0.0)
    return np.asarray(summed + (1 - (summed * response).sum(1, keepdims=True)) * weights)


def _slit_of(wavelength: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Return the part of each pixel in the slit; without edges, between the first and the last pixel of a column."""
    found = slit_aperture(wavelength)
    if found is not None:
        return found
    there = np.isfinite(wavelength) if np.isfinite(wavelength).any() else finite
    above, below = np.maximum.accumulate(there, axis=0), np.maximum.accumulate(there[::-1], axis=0)[::-1]
    return (above & below).astype(float)


def _has_light_beside(source: Source, images: np.ndarray, var_rnoise: np.ndarray, sky: np.ndarray) -> bool:
    """Whether pixels beside the trace have a level that matters to the flux, in any of the exposures."""
    n_rows = images.shape[1]
    _, aperture = source.profile.evaluate(n_rows)
    distance = source.profile.distance(n_rows)
    beside = source.is_used & (np.abs(distance) > source.profile.half_width + 1.0)
    for line in (source.others, Others(source.profile.distances, source.profile.strengths)):
        for k in range(line.strengths.shape[1]):  # skirts of others would be taken for a background
            apart = np.abs(distance - line.distances[:, k, None, None]) > source.profile.half_width + 1.0
            beside &= apart | (line.strengths[:, k, None, None] == 0)
    precision = np.where(beside, 1 / source.dark_variance(np.where(beside, var_rnoise, 1.0)), 0.0)
    response, _ = source.profile.response(n_rows)
    total = (precision * sky**2).sum((1, 2))
    residual = np.where(beside, images - source.beside - source.flux[:, None, :] * response, 0.0)
    level = (precision * sky * residual).sum((1, 2)) / np.where(total > 0, total, np.inf)
    in_flux = np.abs(level) * aperture.sum(1).mean(1)
    matters = in_flux > 0.005 * np.abs(np.median(source.flux, axis=1))
    return bool((matters & (np.abs(level) * np.sqrt(total) > 5.0)).any())
