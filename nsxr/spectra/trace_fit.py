"""Fit the trace of a source to the images of its exposures: the calculation for one block of NumPy arrays.

Images are (exposure, y, x). See :func:`nsxr.fit_trace_model` for the meaning of the results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from nsxr.kernels.spectra.column_fit import box_weights, column_weights
from nsxr.kernels.spectra.companions import beside_all
from nsxr.kernels.spectra.extraction import Place, Source, fit_source, steady_flux
from nsxr.kernels.spectra.slit_geometry import nod_distances, open_part, planned_trace, slit_aperture, trace_of_light
from nsxr.kernels.spectra.slit_places import rows_of
from nsxr.kernels.spectra.wild_pixels import wild_pixels, wild_variances
from nsxr.model.dq import UNUSABLE, PixelFlag

__all__ = ["OUTPUTS", "FitSettings", "fit_exposures", "fit_one_exposure"]

HALF_WIDTH = 3.0
"""Half width of the aperture of point sources [pixel], the same as in the observatory's pipeline."""
_DOUBT = 1e4  # further variance of pixels that see a stuck shutter, relative to their variance
_LEAST_ROWS = 3  # needed to find the position of a trace
_UNPLANNED = 2.0  # pixels, error of a position that was estimated from the light
_SEVERAL = 2  # companions that one level has to explain, so that the level is believed

OUTPUTS: Mapping[str, tuple[Literal["pixel", "column", "exposure"], type[np.generic]]] = {
    **dict.fromkeys(("profile", "profile_uncertainty", "response", "aperture", "weight"), ("pixel", np.float64)),
    "is_used": ("pixel", np.bool_),
    **dict.fromkeys(("beside", "beside_variance", "sky"), ("pixel", np.float64)),
    **dict.fromkeys(("trace", "width", "flux", "steady_flux", "background_variance"), ("column", np.float64)),
    **dict.fromkeys(("variance_of_signal", "profile_variance"), ("column", np.float64)),
    "off_profile": ("column", np.bool_),
    **dict.fromkeys(("noise_scale", "background_terms", "neighbours"), ("exposure", np.float64)),
    **dict.fromkeys(("position_planned", "position_fitted", "position_uncertainty"), ("exposure", np.float64)),
}
"""Results of a fit, in this order: whether there is a value for each pixel, column or exposure, and the dtype."""


@dataclass(frozen=True)
class FitSettings:
    """Hold what a fit needs besides the images.

    Attributes
    ----------
    first_row : float
        Detector row of the first row of the images.
    shutters : tuple of str
        State of the shutters in each exposure; empty for fixed slits.
    places : tuple of float
        Planned position of the source in each exposure [slit heights].
    sources : tuple of (tuple of float)
        Planned places of all sources of each exposure [open heights], the primary one first; for slits that know the
        place of each pixel along the slit.
    nods : tuple of (tuple of float), or None
        Of each exposure, the shifts of the source in those that were subtracted and show it [open heights]; None if
        they are not known.
    position, half_width, position_prior, rejection_threshold, rescale_noise
        See :func:`nsxr.fit_trace_model`.
    background_terms : int
        Number of terms of the local background: 0, 1 or 2; -1 for one term if there is light beside the trace,
        otherwise none.
    is_extended : bool
        Whether the source is extended.
    """

    first_row: float
    shutters: tuple[str, ...]
    places: tuple[float, ...]
    sources: tuple[tuple[float, ...], ...]
    nods: tuple[tuple[float, ...] | None, ...]
    position: float | None
    half_width: float | None
    position_prior: float
    rejection_threshold: float
    rescale_noise: bool
    background_terms: int
    is_extended: bool


@dataclass(frozen=True)
class _Images:
    """Hold signal and variances in units of the typical signal, and which pixels can be used."""

    signal: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    finite: np.ndarray
    good: np.ndarray
    scale: float


def fit_one_exposure(
    sci: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    dq: np.ndarray,
    wavelength: np.ndarray,
    sky_part: np.ndarray,
    slit_y: np.ndarray,
    *,
    settings: FitSettings,
) -> tuple[np.ndarray, ...]:
    """Fit one exposure with images (y, x), see :func:`fit_exposures`; the results have no ``exposure`` dimension."""
    usable = ((dq & UNUSABLE) == 0) & np.isfinite(sci)
    signal, poisson, read = (np.where(usable, each, np.float32(np.nan)) for each in (sci, var_poisson, var_rnoise))
    images = (each[None] for each in (signal, poisson, read, usable, wavelength, sky_part, slit_y))
    stuck = (dq & np.uint32(PixelFlag.MSA_FAILED_OPEN)) > 0
    found = fit_exposures(*images, settings=settings, stuck=stuck[None])
    return tuple(np.asarray(array[0]) for array in found)


def fit_exposures(
    sci: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    usable: np.ndarray,
    wavelength: np.ndarray,
    sky_part: np.ndarray,
    slit_y: np.ndarray,
    *,
    settings: FitSettings,
    stuck: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Fit the trace of a source to all its exposures together.

    Parameters
    ----------
    sci, var_poisson, var_rnoise : (exposure, y, x) ndarray
        Signal and variances.
    usable : (exposure, y, x) ndarray of bool
        Pixels that are measurements.
    wavelength : (exposure, y, x) ndarray
        Wavelengths [um], NaN outside the slit.
    sky_part : (exposure, y, x) ndarray
        Part of the light of a uniform sky in each pixel. NaN in all pixels if it is not known; the edges of the open
        shutters then tell.
    slit_y : (exposure, y, x) ndarray
        Place of pixels along the slit [open heights]. NaN in all pixels if it is not known; the edges of the slit then
        tell where the source was planned.
    settings : FitSettings
        All other inputs.
    stuck : (exposure, y, x) ndarray of bool, optional
        Pixels that see a shutter which never closes, and may have light of a star in it. They have little weight.

    Returns
    -------
    tuple of ndarray
        :data:`OUTPUTS`, in their order.
    """
    images = _scaled(sci, var_poisson, var_rnoise, usable)
    if stuck is not None and stuck.any():
        doubt = np.where(stuck, _DOUBT * (images.var_rnoise + images.var_poisson), 0.0)
        images = replace(images, var_rnoise=images.var_rnoise + doubt)
    plan, planned = _plan(images, wavelength, slit_y, settings)
    is_planned = bool(np.isfinite(planned).all())
    place = _place(images, wavelength, sky_part, slit_y, plan, is_planned, settings)
    source, order = _fit(images, place, settings)
    found = {"position_planned": planned} | _described(source, order, images, place, settings)
    return tuple(np.asarray(found[name]) for name in OUTPUTS)


def _scaled(sci: np.ndarray, var_poisson: np.ndarray, var_rnoise: np.ndarray, usable: np.ndarray) -> _Images:
    images = [array.astype(np.float64) for array in (sci, var_poisson, var_rnoise)]
    # columns are compared with each other, so units do not matter; values below 1e-30 would be too small
    finite = usable & np.isfinite(images[0])
    scale = float(np.median(np.abs(images[0][finite]))) if finite.any() else 1.0
    scale = scale if scale > 0 else 1.0
    signal, poisson, noise = images[0] / scale, images[1] / scale**2, images[2] / scale**2
    variance = poisson + noise
    good = finite & np.isfinite(variance) & (variance > 0)
    good &= sci.shape[1] >= _LEAST_ROWS
    good &= ~wild_variances(poisson, noise, good)
    good &= ~wild_pixels(signal, good)
    return _Images(signal, poisson, noise, finite, good, scale)


def _place(
    images: _Images,
    wavelength: np.ndarray,
    sky_part: np.ndarray,
    slit_y: np.ndarray,
    plan: np.ndarray,
    is_planned: bool,
    settings: FitSettings,
) -> Place:
    """Return the properties of the source and of its slit that are known without its light."""
    _, n_rows, n_columns = images.signal.shape
    sky = [
        np.nan_to_num(known.astype(np.float64)) if np.isfinite(known).any() else open_part(each, state)
        for known, each, state in zip(sky_part, wavelength, settings.shutters, strict=True)
    ]
    slit = np.stack([_slit_of(each, there) for each, there in zip(wavelength, images.finite, strict=True)])
    widest = settings.half_width or (n_rows if settings.is_extended else HALF_WIDTH)
    return Place(
        plan,
        is_planned,
        settings.position_prior if is_planned else _UNPLANNED,
        min(widest, float(n_rows)),  # at most the height of the cut-out
        np.stack([np.ones((n_rows, n_columns)) if each is None else each for each in sky]),
        slit if settings.is_extended else None,
        *_known_lines(wavelength, slit_y, plan, settings),
    )


def _known_lines(
    wavelength: np.ndarray, slit_y: np.ndarray, plan: np.ndarray, settings: FitSettings
) -> tuple[list[np.ndarray | None], bool, list[np.ndarray]]:
    """Return possible distances of subtracted nods [row], whether they are exact, planned distances of other sources.

    If it is not known which nods were subtracted, the source may have been in each of the other shutters.
    """
    nods = [nod_distances(each, state) for each, state in zip(wavelength, settings.shutters, strict=True)]
    others: list[np.ndarray] = [np.zeros(0)] * len(nods)
    is_exact = True
    for e, (image, path) in enumerate(zip(slit_y, plan, strict=True)):
        sources, shifts = settings.sources[e], settings.nods[e]

        def distances(places: Sequence[float], image: np.ndarray = image, path: np.ndarray = path) -> np.ndarray:
            traces = [rows_of(image, place) for place in places]
            return np.array([float(np.median(trace - path)) for trace in traces if trace is not None])

        others[e] = distances(() if settings.is_extended else sources[1:])
        is_exact &= shifts is not None and bool(sources)
        if shifts is not None and sources:
            nods[e] = distances([sources[0] + shift for shift in shifts])
    return nods, is_exact, others


def _plan(
    images: _Images, wavelength: np.ndarray, slit_y: np.ndarray, settings: FitSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the planned row of each column in the cut-out, and the planned detector row in the middle column."""
    n, _, n_columns = images.signal.shape
    variance = images.var_poisson + images.var_rnoise
    plan, planned = np.empty((n, n_columns)), np.full(n, np.nan)
    for e in range(n):
        path = rows_of(slit_y[e], settings.sources[e][0]) if settings.sources[e] else None
        if path is None:
            path = planned_trace(wavelength[e], settings.shutters[e], settings.places[e])
        if path is None:
            good = images.good[e]
            precision = np.where(good, 1 / np.where(good, variance[e], 1.0), 0.0)
            path = trace_of_light(np.where(good, images.signal[e], 0.0), precision)
        else:
            planned[e] = path[n_columns // 2] + settings.first_row
        if settings.position is not None:
            path = path + (settings.position - settings.first_row - path[n_columns // 2])
            planned[e] = settings.position
        plan[e] = path
    return plan, planned


def _fit(images: _Images, place: Place, settings: FitSettings) -> tuple[Source, int]:
    """Return the fitted source, and the number of terms of the local background."""
    fit = partial(
        fit_source,
        images.signal,
        images.var_poisson,
        images.var_rnoise,
        images.good,
        place,
        rejection=settings.rejection_threshold,
        rescale_noise=settings.rescale_noise,
    )
    order = settings.background_terms
    order = 0 if settings.is_extended and order < 0 else order
    source = fit(order=max(order, 0))
    if order < 0:
        order = 0
        if source.others.overlap:  # a background would take the wings of two sources that overlap
            return source, order
        has_level = _has_light_beside(source, images.signal, images.var_rnoise, place.sky)
        # without a level in the model, faint sources describe it, and hide the pixels that show it
        if has_level or source.others.number >= _SEVERAL:
            beside_level = fit(order=1)
            if has_level or beside_level.others.number <= source.others.number - _SEVERAL:
                source, order = beside_level, 1
    return source, order


def _described(
    source: Source, order: int, images: _Images, place: Place, settings: FitSettings
) -> dict[str, np.ndarray]:
    """Return the results for pixels, columns and exposures, in the units of the signal."""
    n, n_rows, n_columns = images.signal.shape
    profile, aperture = source.profile.evaluate(n_rows)
    response, _ = source.profile.response(n_rows)
    own = np.where(source.is_used, images.signal - source.beside, 0.0)

    def weights_for(precision: np.ndarray) -> np.ndarray:
        fitted, level, _ = column_weights(response, aperture, precision, order, place.sky)
        summed, _ = box_weights(
            fitted, level, profile, response, aperture, precision, place.sky, order, source.off_profile
        )
        return np.where(source.off_profile[:, None, :], summed, fitted)

    weights, steady = _settled(source, images, own, profile, weights_for)
    trace = source.profile.trace()
    of_flux = _summed(source, profile, response, aperture, weights) if settings.is_extended else weights
    scale = images.scale
    return {
        "profile": profile,
        "profile_uncertainty": source.profile.uncertainty(n_rows),
        "response": response,
        "aperture": aperture,
        "weight": weights,
        "is_used": source.is_used,
        "beside": source.beside * scale,
        "beside_variance": source.beside_variance * scale**2,
        "sky": place.sky,
        "trace": trace + settings.first_row,
        "width": np.broadcast_to(source.profile.width(), (n, n_columns)).copy(),
        "flux": (weights * own).sum(1) * scale,
        "steady_flux": steady * scale,
        "background_variance": source.background_variance * scale**2,
        "variance_of_signal": source.variance_of_signal * scale,
        "profile_variance": source.profile.flux_variance(of_flux),
        "off_profile": source.off_profile,
        "noise_scale": source.noise_scale,
        "background_terms": np.full(n, float(order)),
        "neighbours": (source.others.strengths > 0).sum(1).astype(float),
        "position_fitted": trace[:, n_columns // 2] + settings.first_row,
        "position_uncertainty": np.sqrt(np.diag(source.profile.covariance))[:n],
    }


def _settled(
    source: Source, images: _Images, own: np.ndarray, profile: np.ndarray, weights_for: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and steady fluxes by iteration, because they depend on each other through the variance."""
    dark = source.dark_variance(np.where(images.good, images.var_rnoise, 1.0)) + source.beside_variance
    steady, precision = source.flux, np.where(source.is_used, 1 / dark, 0.0)
    for _ in range(2):
        weights = weights_for(precision)
        light = np.maximum(source.flux[:, None, :] * profile, 0.0)
        variance = dark + source.variance_of_signal[:, None, :] * light
        steady = steady_flux((weights * own).sum(1), 1 / np.maximum((weights**2 * variance).sum(1), 1e-300))
        total = dark + source.variance_of_signal[:, None, :] * np.maximum(steady[:, None, :] * profile, 0.0)
        precision = np.where(source.is_used, 1 / total, 0.0)
    return weights_for(precision), steady


def _summed(
    source: Source, profile: np.ndarray, response: np.ndarray, aperture: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the weights of pixels in the sum over the aperture, with missing pixels replaced by the fit."""
    summed = np.where(source.is_used & (2 * response > profile), aperture, 0.0)
    return np.asarray(summed + (1 - (summed * response).sum(1, keepdims=True)) * weights)


def _slit_of(wavelength: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Return the part of each pixel in the slit. If edges are unknown, use the first and last pixel of a column."""
    found = slit_aperture(wavelength)
    if found is not None:
        return found
    there = np.isfinite(wavelength) if np.isfinite(wavelength).any() else finite
    above, below = np.maximum.accumulate(there, axis=0), np.maximum.accumulate(there[::-1], axis=0)[::-1]
    return (above & below).astype(float)


def _has_light_beside(source: Source, images: np.ndarray, var_rnoise: np.ndarray, sky: np.ndarray) -> bool:
    """Return whether pixels beside the trace have a level that changes the flux noticeably, in any exposure."""
    n_rows = images.shape[1]
    _, aperture = source.profile.evaluate(n_rows)
    # the skirts of other sources would look like a background
    apart = source.profile.half_width + 1.0
    beside = source.is_used & beside_all(source.profile, n_rows, source.others, apart)
    precision = np.where(beside, 1 / source.dark_variance(np.where(beside, var_rnoise, 1.0)), 0.0)
    response, _ = source.profile.response(n_rows)
    total = (precision * sky**2).sum((1, 2))
    residual = np.where(beside, images - source.beside - source.flux[:, None, :] * response, 0.0)
    level = (precision * sky * residual).sum((1, 2)) / np.where(total > 0, total, np.inf)
    in_flux = np.abs(level) * aperture.sum(1).mean(1)
    matters = in_flux > 0.005 * np.abs(np.median(source.flux, axis=1))
    return bool((matters & (np.abs(level) * np.sqrt(total) > 5.0)).any())
