"""Find bad pixels in the exposures themselves: pixels that stand out at the same place in all of them."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.slits.row_medians import row_medians
from nsxr.model.declarations import step
from nsxr.model.dims import IMAGE
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.parameters import Limits, Range
from nsxr.model.variables import check, variances_of
from nsxr.slits.background import mean_over_integrations

__all__ = ["find_bad_pixels", "flag_bad_pixels"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_BAD = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.OTHER_BAD_PIXEL)
_WARM = np.uint32(PixelFlag.WARM)
_STRUCTURE = 0.1
"""Deviation of pixels from their neighbours that flat fields and tilted traces make, relative to the light."""
_OF_BOTH, _OF_FAINTER = 1.5, 10.0
"""No line has more light in a pixel than so many times that of its two neighbours in the row, or of the fainter one.

For lines of 1.8 pixels (full width at half maximum) it is 1.1 if they are centred, and 5.7 if they are between two
pixels."""
_CONSISTENT = 0.5
"""Each exposure must show at least this part of the mean excess."""

Share = Annotated[float, Range(0.0, 0.5)]
Length = Annotated[int, Range(3, 201)]


def find_bad_pixels(
    exposures: Sequence[xr.Dataset],
    *,
    method: Literal["significance", "jwst"] = "significance",
    n_sigma: Limits = 5.0,
    flagfrac_lower: Share = 0.001,
    flagfrac_upper: Share = 0.001,
    kernel_size: Length = 15,
    force_single: bool = False,
) -> xr.DataArray:
    """Find pixels that are too bright or too faint in all exposures.

    Light that is spread along the dispersion is removed by a running median along the rows. What stands out then is a
    line, a hit, or a bad pixel. Lines have light in the pixels beside them, hits are in one exposure.

    Parameters
    ----------
    exposures : sequence of Dataset
        Count rates of one detector on the same pixels: science, backgrounds, and exposures that serve this purpose.
        ``sci``, ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), with or without integration in front. Pixels of
        the first one are those of the result.
    method : {"significance", "jwst"}
        ``"significance"``: pixels that stand out from their noise. Data without bad pixels lose none. ``"jwst"``:
        a fixed fraction of all pixels, those farthest from the median in the minimum of all exposures, as in the
        observatory's pipeline.
    n_sigma : float
        ``"significance"``: how far a pixel stands out in the mean of all exposures [standard deviations].
    flagfrac_lower, flagfrac_upper : float
        ``"jwst"``: share of pixels to flag at the faint and at the bright end.
    kernel_size : int
        Columns of the running median, odd.
    force_single : bool
        Whether a single exposure is enough. Hits cannot be told from bad pixels then.

    Returns
    -------
    DataArray
        (row, column) uint32: DO_NOT_USE and OTHER_BAD_PIXEL for bad pixels, with WARM for bright ones that
        ``"significance"`` finds, and 0. Lazy if the exposures are. Pixels that cannot be used anyway are not searched.

    Raises
    ------
    ParameterError
        If there is a single exposure, an exposure comes twice, or a parameter is not allowed.
    ModelError
        If exposures are of another detector or unit, or do not cover the first one.

    Notes
    -----
    With the residual r and variance v of a pixel in each exposure, its excess is R = sum(r / v) / sum(1 / v). A bright
    pixel is bad if R, less the most that a line can have there by the light of its two neighbours in the row, is
    ``n_sigma`` standard deviations, and if all exposures show half of R within their noise. Pixels beside a brighter
    one are taken for the wing of a line, unless the brighter one is bad. Faint pixels alike, with the signs turned. The
    deviation of R is that of the count rates, scaled up by the scatter nearby in the row if that is larger, and a tenth
    of the light in quadrature, because pixels differ before the flat field.
    """
    exposures = list(exposures)
    if len(exposures) < 2 and not force_single:
        raise ParameterError("bad pixels are found in two exposures or more; force_single allows one")
    if not kernel_size % 2:
        raise ParameterError(f"kernel_size is {kernel_size}, expected an odd number of columns")
    require_distinct(exposures)
    first = exposures[0]
    images = [_on_pixels(one, first) for one in exposures]
    labels = {dim: first[dim] for dim in IMAGE}
    if method == "jwst":
        sci = [one_chunk(image["sci"], *IMAGE) for image in images]
        found = map_blocks(
            _least_and_most,
            *sci,
            core=IMAGE,
            outputs={"bad": (IMAGE, np.uint32)},
            shares=(flagfrac_lower, flagfrac_upper),
            length=kernel_size,
        )
    else:
        parts = [one_chunk(chunk_like(image[name], images[0]["sci"]), "column") for image in images for name in _PARTS]
        found = map_blocks(
            _standing_out,
            *parts,
            core=("column",),
            outputs={"bad": (IMAGE, np.uint32)},
            n_sigma=float(n_sigma),
            length=kernel_size,
        )
    return found["bad"].assign_coords(labels).rename("bad")


_PARTS = ("sci", "dq", "var_poisson", "var_rnoise")


def _on_pixels(exposure: xr.Dataset, first: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return an exposure on the pixels of the first one, without labels."""
    check(exposure, *_PARTS)
    name = str(exposure.attrs.get("filename", "an exposure"))
    for key, ours, theirs in (
        ("DETECTOR", first.attrs.get("DETECTOR"), exposure.attrs.get("DETECTOR")),
        ("units", first["sci"].attrs.get("units"), exposure["sci"].attrs.get("units")),
    ):
        if ours != theirs:
            raise ModelError(f"{name} has {key} {theirs!r}, the science {ours!r}")
    mean = mean_over_integrations(exposure)
    try:
        cut = mean.sel({dim: first.indexes[dim] for dim in IMAGE})
    except KeyError:
        raise ModelError(f"{name} does not cover the rows and columns of the science") from None
    return {part: unlabelled(cut[part]) for part in _PARTS}


def _least_and_most(*sci: np.ndarray, shares: tuple[float, float], length: int) -> np.ndarray:
    """Return flags for the faintest and brightest pixels, relative to the median along the row."""
    lowest = np.fmin.reduce(sci)
    flat = lowest - row_medians(np.ascontiguousarray(lowest), length, 0.0)
    if not np.isfinite(flat).any():
        return np.zeros(flat.shape, np.uint32)
    low, high = np.nanpercentile(flat, [100 * shares[0], 100 * (1 - shares[1])])
    return np.where((flat > high) | (flat < low), _BAD, np.uint32(0))


def _standing_out(*parts: np.ndarray, n_sigma: float, length: int) -> np.ndarray:
    """Return flags for the pixels of some rows that stand out in all exposures."""
    count, nan = len(parts) // len(_PARTS), np.float32(np.nan)
    residuals, variances, lights = [], [], []
    for number in range(count):
        sci, dq, *kinds = parts[number * len(_PARTS) : (number + 1) * len(_PARTS)]
        variance = kinds[0] + kinds[1]
        known = np.isfinite(sci) & ((dq & _DO_NOT_USE) == 0) & (variance > 0) & np.isfinite(variance)
        light = row_medians(np.where(known, sci, nan), length, np.nan)
        residuals.append(np.where(known, sci - light, nan))
        variances.append(np.where(known, variance, np.float32(np.inf)))
        lights.append(light)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = [1 / variance for variance in variances]
        total = np.sum(weights, axis=0)
        mean, light = (
            np.sum([w * np.nan_to_num(one) for w, one in zip(weights, each, strict=True)], axis=0) / total
            for each in (residuals, lights)
        )
        noise = 1 / np.sqrt(total)
        nearby = np.float32(1.4826) * row_medians(np.abs(mean) / noise, length, np.nan)
        noise = np.hypot(noise * np.fmax(nearby, np.float32(1)), _STRUCTURE * light)
        enough = np.sum([w > 0 for w in weights], axis=0) >= min(count, 2)
        flags = np.zeros(mean.shape, np.uint32)
        for sign, flag in ((1, _BAD | _WARM), (-1, _BAD)):
            excess, agree = sign * mean, enough.copy()
            for residual, variance in zip(residuals, variances, strict=True):
                agree &= ~(sign * residual + np.sqrt(variance) < _CONSISTENT * excess)
            bad = np.zeros(excess.shape, bool)
            for _ in range(2):  # then without the light of those found, for two bad pixels side by side
                seen = np.where(bad, np.nan, excess)
                bad |= agree & (excess - _of_lines(seen, noise) > n_sigma * noise)
            flags[bad] = flag
    return flags


def _of_lines(excess: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the most light that a line can have in each pixel, by the light in the pixels beside it; NaN if unknown.

    Where a pixel beside is not known, or is faint, the line is taken to be as sharp and as badly placed as can be.
    """
    left, right = np.full(excess.shape, np.nan), np.full(excess.shape, np.nan)
    left[:, 1:], right[:, :-1] = excess[:, :-1], excess[:, 1:]
    of_both = _OF_BOTH * (np.maximum(left, 0) + np.maximum(right, 0))
    of_one = _OF_FAINTER * (np.maximum(np.fmin(left, right), 0) + noise)
    is_wing = (excess < left) | (excess < right)
    return np.asarray(np.where(is_wing, np.where(np.isnan(of_both), of_one, of_both), np.fmin(of_both, of_one)))


@step("badpix_selfcal", parts=(find_bad_pixels,), given=["exposures"], off="the step is off by default")
def flag_bad_pixels(
    exposure: xr.Dataset, *, exposures: Sequence[xr.Dataset] | xr.DataArray, **finding: object
) -> xr.Dataset:
    """Flag bad pixels that are found in the exposures themselves.

    Parameters
    ----------
    exposure : Dataset
        Count rates: ``sci``, ``dq``, ``var_poisson``, ``var_rnoise``, with or without integration in front.
    exposures : sequence of Dataset, or DataArray
        Exposures in which bad pixels are searched, this one among them; or what :func:`find_bad_pixels` found.
    **finding
        Parameters of :func:`find_bad_pixels`.

    Returns
    -------
    Dataset
        ``dq`` with the flags of :func:`find_bad_pixels` in addition; ``sci`` and the variances are NaN in bad pixels.

    Raises
    ------
    ParameterError, ModelError
        See :func:`find_bad_pixels`.
    """
    check(exposure, "sci", "dq")
    bad = exposures if isinstance(exposures, xr.DataArray) else find_bad_pixels(exposures, **finding)  # type: ignore[arg-type]
    own = bad.reindex({dim: exposure.indexes[dim] for dim in IMAGE}, fill_value=0)
    flags = chunk_like(unlabelled(own), unlabelled(exposure["sci"]))
    masked = {name: unlabelled(exposure[name]).where(flags == 0) for name in ("sci", *variances_of(exposure))}
    masked["dq"] = unlabelled(exposure["dq"]) | flags
    masked = {name: image.transpose(*exposure[name].dims) for name, image in masked.items()}
    return record(exposure, "badpix_selfcal", (), finding, None, (), None, **masked)
