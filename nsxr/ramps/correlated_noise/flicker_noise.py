"""Remove correlated noise (1/f, levels of amplifiers, alternating columns), as measured in pixels without light."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import is_kept, one_chunk, to_blocks, to_whole_frames
from nsxr.compute.passes import settle
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.differences import without_noise
from nsxr.kernels.ramps.flicker import series_length
from nsxr.model.declarations import step
from nsxr.model.dims import IMAGE, RAMP
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Limits
from nsxr.model.time_order import SAMPLE_TIME
from nsxr.model.variables import CORRELATION_COLUMNS, SPECTRUM_COLUMNS
from nsxr.ramps.correlated_noise.expected_signal import expected_signal, without_chance
from nsxr.ramps.correlated_noise.frames import Frames, frames_of, mean_of_images
from nsxr.ramps.correlated_noise.mask import dark_of, on_pixels_of
from nsxr.ramps.correlated_noise.median import median_stripes
from nsxr.ramps.correlated_noise.noise_model import (
    NoiseLeft,
    noise_left,
    noise_of,
    spectrum_of,
    weight_of_series,
)
from nsxr.ramps.correlated_noise.static_light import beside_light, continued, light_of, typical_light, without_light
from nsxr.ramps.correlated_noise.summary import LEVEL_KEYWORD, summary_of
from nsxr.ramps.read_noise import change_of_pixels
from nsxr.references.match import match

__all__ = ["clean_flicker_noise", "estimate_flicker_noise"]

_HIDDEN, _BESIDE_OPTICS = 0.1, 0.001
"""Strength of light that may hide in dark pixels, and where the optics know which pixels are dark."""


def estimate_flicker_noise(
    exposure: xr.Dataset,
    mask: xr.DataArray | None = None,
    picture_frame: xr.Dataset | None = None,
    light: xr.DataArray | None = None,
    *,
    n_sigma: Limits = 3.0,
) -> xr.Dataset:
    r"""Estimate the correlated noise of every frame from the pixels that see no light.

    In the order in which pixels are read, the noise of the amplifiers is a stationary process. One part is common to
    all amplifiers, the other is independent in each: levels, 1/f noise and alternating columns. The spectra of both
    parts are measured from the exposure itself. The estimate is the conditional mean of the noise of all pixels, given
    the dark pixels. No linear estimate has smaller errors. Where the dark pixels say little, the estimate goes to zero.

    In a time series of ten or more integrations, the mean over integrations shows the source. Each frame is the mean
    times a factor, plus noise. So pixels with light are used too, as far as photon noise allows. The mean itself is
    cleaned with the dark pixels alone.

    Parameters
    ----------
    exposure : Dataset
        Ramps or rates as in :func:`clean_flicker_noise`.
    mask : DataArray, optional
        (row, column) bool, True in pixels without light. Default: from :func:`find_dark_pixels`.
    picture_frame : Dataset, optional
        ``sci`` (row, column) float32, a pattern. Its amount in every frame is fitted together with the noise.
    light : DataArray, optional
        (row, column) bool, True in pixels on which light can fall, as from :func:`nsxr.locate_light`. They count as
        lit, and the others are searched for light that the optics do not tell.
    n_sigma : float
        Pixels that deviate from the dark by more, in any of the ways of :func:`find_dark_pixels`, count as lit.

    Returns
    -------
    Dataset
        ``noise`` (integration, group, row, column) float32, of differences of groups (one group less than the ramps) or
        of rates (one group), in their units;
        ``variance`` (row, column) float32, of the correlated noise that is left in a frame or, for ramps, in the mean
        of all frames, where it counts as independent in each frame;
        ``change`` (row, column) float32, what this noise adds to the variance of a pixel. It is negative where the
        estimate follows the noise of the pixels that it comes from;
        ``correlation`` (lag, kind) float32, see ``noise_correlation`` of :func:`clean_flicker_noise`;
        ``change_of_mean``, ``correlation_of_mean`` and ``level_variance_of_mean``, the same as without ``of_mean``, for
        the mean of the integrations of a time series, times their number;
        ``expected_signal`` (row, column) float32, see :func:`clean_flicker_noise`;
        ``weight`` (row, column) float32, 0 to 1, of each pixel in the estimate; ``is_dark`` (row, column) bool;
        ``level`` (row, column) float32, of dark pixels; it is not subtracted; ``light_level`` (row, column) float32, as
        much of it as exceeds the noise of the level, for photon noise; ``level_variance`` () float64, of the level of
        all pixels that is left in a frame, which ``variance`` and ``change`` do not have; not for a single frame, whose
        level cannot be told from light; ``density`` (component, frequency) float64, spectral densities of one frame,
        two-sided, variance for each frequency of the transform: ``own`` of amplifiers, ``common`` to them, ``white``
        (NaN if no two frames can be compared); frequency in Hz.
        All are lazy if the exposure is.

    Notes
    -----
    Dark pixels are found twice. The first dark pixels give an estimate of the noise of the mean. This noise is
    subtracted before dark pixels are found again. See :mod:`nsxr.kernels.ramps.flicker` for the estimate, and
    :mod:`nsxr.kernels.ramps.noise_spectrum` for the spectra. With two or more frames, the mean of all frames is
    subtracted before the spectra are measured. The variance comes from simulated frames with these spectra, cleaned in
    the same way, and is averaged over 65 columns. The amount of a pattern is fitted by generalized least squares.
    """
    frames = frames_of(exposure)
    given, light = on_pixels_of(mask, exposure, "mask"), on_pixels_of(light, exposure, "light")
    wait = _same if is_kept(frames.values.sizes) else settle
    frames = _waiting(frames, wait)
    first, level = (wait(array) for array in dark_of(frames, n_sigma, given, None, light))
    residual = without_light(frames, first, None if light is None else level)
    weight = wait(weight_of_series(frames, first)) if frames.is_series else first.astype(np.float32)
    density = spectrum_of(residual, frames, weight)
    measured = wait(continued(density, frames) if light is None else density)
    density = measured.fillna(1.0)  # where no noise was measured, none is subtracted, whatever the white noise
    strength = _HIDDEN if light is None else _BESIDE_OPTICS
    images = frames.images - level
    both = beside_light(density, light_of(images, first, density, frames, strength)) * frames.shared
    of_images = noise_of(_as_frames(images), first.astype(np.float32), both, frames.order).isel(group=0)
    mean = wait(mean_of_images(frames.images - of_images))
    is_dark, level = (wait(array) for array in dark_of(frames, n_sigma, given, mean, light))
    hidden = wait(light_of(frames.images - level, is_dark, density, frames, strength))
    pattern = None
    if picture_frame is not None:
        pattern = one_chunk(unlabelled(match(picture_frame, exposure, "pictureframe")["sci"]), *IMAGE)
    of_dark = is_dark.astype(np.float32)
    weight = weight if frames.is_series else of_dark
    both = beside_light(density, hidden * frames.relative)
    noise = _noise_of_frames(frames, of_dark, level, weight, density, both, pattern, wait)
    of_light = beside_light(density, typical_light(hidden * frames.relative))
    left = of_mean = NoiseLeft._make(map(wait, noise_left(of_dark, of_light, frames)))
    if frames.is_series:  # only the noise of the mean was estimated from dark pixels alone
        left = NoiseLeft._make(map(wait, noise_left(weight, density, frames)))
    shared = frames.shared.mean("integration") / len(images)
    light_level = without_chance(level, of_mean.level * shared)
    light = mean - level + light_level
    found = xr.Dataset(
        {
            "noise": noise,
            "variance": left.variance,
            "change": left.change,
            "correlation": left.correlation,
            "expected_signal": expected_signal(light, is_dark, light_level, density, shared),
            "weight": weight,
            "is_dark": is_dark,
            "level": level,
            "light_level": light_level,
            "density": measured,
        }
    )
    if frames.static is not None:  # the level of a single frame cannot be told from light
        found = found.assign(level_variance=left.level)
    if frames.is_series:
        found = found.assign(change_of_mean=of_mean.change, correlation_of_mean=of_mean.correlation)
        found = found.assign(level_variance_of_mean=of_mean.level)
    length = series_length(frames.order)
    return found.assign_coords(
        {
            **{d: exposure[d] for d in IMAGE},
            "component": ["own", "common", "white"],
            "frequency": np.arange(length // 2 + 1) / (length * SAMPLE_TIME),
        }
    )


def _same(array: xr.DataArray) -> xr.DataArray:
    return array


def _waiting(frames: Frames, wait: Callable[[xr.DataArray], xr.DataArray]) -> Frames:
    """Return frames whose means are computed in a pass of their own, if ``wait`` says so."""
    images = wait(frames.images)
    mean = images.isel(integration=0) if len(images) == 1 else wait(mean_of_images(images))
    source = None if frames.source is None else wait(frames.source)
    shared, relative = wait(frames.shared), wait(frames.relative)
    apart = None if frames.apart is None else wait(frames.apart)
    return replace(frames, images=images, mean=mean, source=source, apart=apart, shared=shared, relative=relative)


def _as_frames(images: xr.DataArray) -> xr.DataArray:
    """Return images with the dims of frames: integration, group, row and column."""
    missing = [dim for dim in ("integration", "group") if dim not in images.dims]
    return images.expand_dims(missing).transpose(*RAMP)


def _noise_of_frames(
    frames: Frames,
    of_dark: xr.DataArray,
    level: xr.DataArray,
    weight: xr.DataArray,
    density: xr.DataArray,
    both: xr.DataArray,
    pattern: xr.DataArray | None,
    wait: Callable[[xr.DataArray], xr.DataArray],
) -> xr.DataArray:
    """Return the noise of frames: that of the mean of an integration, beside light, and that of the rest of each frame.

    In a time series, the mean over integrations shows the source, whose amount is fitted in each frame.
    """
    still = frames.still - level
    frame = to_whole_frames(_as_frames(still))
    steady = noise_of(frame, of_dark, both * (frames.shared / frames.relative), frames.order, pattern=pattern)
    steady = wait(steady.isel(integration=0) if frames.is_series else steady.isel(group=0))
    if frames.values.sizes["group"] == 1 and not frames.is_series:
        return _as_frames(steady)
    fitted = {"source": still.fillna(0)} if frames.is_series else {"pattern": pattern}
    return noise_of(frames, weight, density, frames.order, less=frames.still, plus=steady, apart=frames.apart, **fitted)


def _why_not_cleaned(exposure: xr.Dataset) -> str | None:
    """Return why ramps cannot be cleaned, or None if they can."""
    return "1 group, at least 2 are needed; clean the rates" if exposure.sizes.get("group", 2) < 2 else None


@step("clean_flicker_noise", unless=_why_not_cleaned)
def clean_flicker_noise(
    exposure: xr.Dataset,
    mask: xr.DataArray | None = None,
    picture_frame: xr.Dataset | None = None,
    light: xr.DataArray | None = None,
    *,
    fit_method: Annotated[str, Choices("optimal", "median")] = "optimal",
    fit_by_channel: bool = False,
    n_sigma: Limits = 3.0,
) -> xr.Dataset:
    """Subtract correlated noise, measured in pixels without light: amplifier levels, 1/f noise, alternating columns.

    Parameters
    ----------
    exposure : Dataset
        Ramps: ``sci`` (integration, group, row, column) float32 [DN] after the reference pixel correction, ``groupdq``
        after jumps were flagged, ``pixeldq``. Or rates: ``sci``, (integration, row, column) or (row, column) float32
        [DN/s], ``dq``, ``var_rnoise``, ``var_poisson``.
    mask : DataArray, optional
        (row, column) bool, True in pixels without light. Default: found by :func:`find_dark_pixels`.
    picture_frame : Dataset, optional
        ``sci`` (row, column) float32, a pattern. Its amount in every frame is fitted together with the noise.
    light : DataArray, optional
        (row, column) bool, True in pixels on which light can fall, as from :func:`nsxr.locate_light`. They count as
        lit, and the others are searched for light that the optics do not tell.
    fit_method : {"optimal", "median"}
        ``"optimal"``: the conditional mean of the noise, :func:`estimate_flicker_noise`. ``"median"``, for comparison:
        the median of the dark pixels of each column; variances do not change.
    fit_by_channel : bool
        ``"median"``: whether each amplifier has its own median.
    n_sigma : float
        Pixels that deviate from the dark by more, in any of the ways of :func:`find_dark_pixels`, count as lit.

    Returns
    -------
    Dataset
        ``sci`` without the estimated noise. DQ does not change. The first group of ramps does not change. Ramps get
        ``flicker_variance`` (row, column) [DN2], the variance of the correlated noise that is left in a group. It is
        negative in dark pixels, because the estimate follows their own noise too. Ramps also get ``white_variance`` ()
        [DN2], the variance of all other noise of a group in dark pixels; ``dark_level`` () [DN], the signal of a group
        in dark pixels, as far as it exceeds the noise of their level; and ``is_dark`` (row, column): see
        :func:`nsxr.ramps.read_noise.read_noise_after_cleaning`. ``expected_signal`` (row, column) [DN] is the signal of
        a group in dark and faint pixels, for their photon noise; NaN in others. Ramps of a time series get
        ``flicker_variance_of_mean`` (row, column) [DN2] and ``noise_correlation_of_mean`` (lag, kind), for the mean of
        all integrations. In rates, ``var_rnoise`` becomes its uncorrelated part, as measured in dark pixels, plus the
        variance of the correlated noise that is left. No variance has the level of the frame that is left, whose rms is
        the number ``level_left``: it is the same in all pixels, like light of the sky. Ramps and rates get
        ``noise_spectrum`` (band, part) float32, spectral densities [DN2/Hz] of one group, or of one rate, by
        :data:`nsxr.model.variables.SPECTRUM_COLUMNS`, and the numbers ``dark_share``, ``white_noise``,
        ``flicker_noise``, ``alternating_noise``, ``flicker_left``, ``level_left`` [DN, or DN/s of rates] and
        ``share_removed``, which become keywords. A single frame has no ``level_left``, and that of a time series is for
        the mean of all integrations, times the root of their number. ``noise_used`` (row, column) uint8 is 1 in the
        pixels from which the noise was estimated, and ``noise_correlation`` (lag, kind) float32 is what two pixels of
        an amplifier share: both were used, neither was, or one was. :func:`nsxr.summed_variance` needs them.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, or a mask does not fit.
    ParameterError
        If the method is unknown.

    See Also
    --------
    estimate_flicker_noise : The noise itself, its variance and spectrum.
    """
    if fit_method not in ("optimal", "median"):
        raise ParameterError(f"fit_method is {fit_method!r}, expected one of 'optimal', 'median'")
    known = "given" if mask is not None else "found" if light is None else "found, and light of the optics"
    parameters = {"fit_method": fit_method, "n_sigma": n_sigma, "mask": known}
    if fit_method == "median":
        frames = frames_of(exposure)
        own = {"mask": on_pixels_of(mask, exposure, "mask"), "light": on_pixels_of(light, exposure, "light")}
        is_dark, level = dark_of(frames, n_sigma, **own)
        noise = median_stripes(frames.values - level, is_dark, frames.bands if fit_by_channel else None)
        parameters["fit_by_channel"] = fit_by_channel
        return record(exposure, "clean_flicker_noise", [], parameters, sci=_without(exposure, noise))
    found = estimate_flicker_noise(exposure, mask, picture_frame, light, n_sigma=n_sigma)
    noise, change = unlabelled(found["noise"]), unlabelled(found["change"])
    white = unlabelled(found["density"]).isel(component=2, frequency=0)
    dark = unlabelled(found["is_dark"])
    dims = exposure["sci"].dims
    if "group" in dims:
        changed = {
            "sci": _without(exposure, noise),
            "flicker_variance": change / 2,
            "white_variance": (white / 2).astype(np.float32),
            "dark_level": unlabelled(found["light_level"]).isel(row=0, column=0),
            "is_dark": dark,
            "expected_signal": unlabelled(found["expected_signal"]),
        }
        if "change_of_mean" in found:
            changed["flicker_variance_of_mean"] = unlabelled(found["change_of_mean"]) / 2
        squares = ("flicker_variance", "flicker_variance_of_mean", "white_variance")
        units = dict.fromkeys(squares, "DN2") | {"dark_level": "DN", "expected_signal": "DN"}
    else:
        images = [unlabelled(exposure[name]) for name in ("var_rnoise", "var_poisson")]
        means = [image.where(dark).astype(np.float64).mean() for image in images]
        share = (white - means[1]) / means[0]
        share = share.where(np.isfinite(share), 1.0).clip(0.1, 10.0).astype(np.float32)
        changed = {
            "sci": _without(exposure, noise),
            "var_rnoise": (images[0] * share + change_of_pixels(change, images[0] / means[0])).clip(0.0, None),
        }
        units = {}
    table, numbers = summary_of(found, 2.0 if "group" in dims else 1.0, str(exposure["sci"].attrs.get("units", "")))
    changed = {name: array.transpose(*(d for d in dims if d in array.dims)) for name, array in changed.items()}
    changed |= {"noise_spectrum": table, "noise_correlation": unlabelled(found["correlation"])}
    if "change_of_mean" in found:
        changed["noise_correlation_of_mean"] = unlabelled(found["correlation_of_mean"])
    changed["noise_used"] = (unlabelled(found["weight"]) > 0).astype(np.uint8)
    references = [] if picture_frame is None else [picture_frame]
    fresh = _without_level(exposure)
    cleaned = record(fresh, "clean_flicker_noise", references, parameters, units, (), None, **changed)
    return cleaned.assign(numbers).assign_coords(part=list(SPECTRUM_COLUMNS), kind=list(CORRELATION_COLUMNS))


def _without_level(exposure: xr.Dataset) -> xr.Dataset:
    """Return an exposure without the level that an earlier cleaning left: the later one may not tell it anew."""
    attrs = {key: value for key, value in exposure.attrs.items() if key != LEVEL_KEYWORD}
    if isinstance(header := attrs.get("fits_header"), str):
        attrs["fits_header"] = "\n".join(card for card in header.split("\n") if not card.startswith(LEVEL_KEYWORD))
    return exposure.drop_vars("level_left", errors="ignore").drop_attrs(deep=False).assign_attrs(attrs)


def _without(exposure: xr.Dataset, noise: xr.DataArray) -> xr.DataArray:
    """Return the signal without the noise of its differences of groups, or of its rates."""
    if "group" in exposure["sci"].dims:
        sci = unlabelled(to_blocks(exposure)["sci"])
        left = map_blocks(
            without_noise,
            sci.transpose(*RAMP),
            noise.rename(group="difference"),
            core=("group", "difference", "column"),
            outputs={"sci": (RAMP, np.float32)},
            joined="difference",
        )["sci"]
    else:
        sci = to_whole_frames(unlabelled(exposure["sci"]))
        of_rates = noise.isel(group=0)
        left = sci - (of_rates if "integration" in sci.dims else of_rates.isel(integration=0))
    return left.transpose(*sci.dims).assign_coords(exposure["sci"].coords)
