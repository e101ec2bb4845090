"""Correlated noise of frames, from pixels that see no light: its spectrum, its estimate, and the noise that is left.

Arrays are lazy; the functions at the end work on NumPy blocks.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import ndimage

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import chunk_like, in_groups, one_chunk, to_whole_frames
from nsxr.kernels.medians import median_and_scatter
from nsxr.kernels.ramps.differences import template_amount
from nsxr.kernels.ramps.flicker import (
    TOLERANCE,
    Densities,
    Solver,
    draw_noise,
    known_samples,
    series_length,
    to_image,
    to_series,
)
from nsxr.kernels.ramps.noise_bands import band_count, binned_power, folded_bands, power_bins
from nsxr.kernels.ramps.noise_spectrum import alike_frames, fit_densities
from nsxr.kernels.ramps.slope_weights import left_about_mean
from nsxr.kernels.ramps.static_light import SolverBesideLight
from nsxr.model.dims import IMAGE, RAMP
from nsxr.model.time_order import TimeOrder
from nsxr.ramps.correlated_noise.covariance import LAG_SIZES, correlation_of, kinds_of, products_of_kinds
from nsxr.ramps.correlated_noise.frames import SERIES, Frames, frame_by_frame, frame_of, squares_about

__all__ = ["MODEL", "NoiseLeft", "noise_left", "noise_of", "spectrum_of", "weight_of_series"]

MODEL = ("component", "frequency")
"""Dims of the spectral densities."""
_OUTLIER = 4.0  # samples that deviate by more standard deviations are left out
_DRAWS, _MOST_DRAWS, _DRAWN = 2, 16, 2**21  # simulated frames, and their pixels: small frames need more of them
_DRAW_TOLERANCE = 1e-3  # the noise that is left in simulated frames need not be known better
_COVERED = 0.5  # least share of the mask that frames show, and of the frames that do so, if there are few integrations
_NOTHING = 1e-14  # white noise below this is rounding [squared units of the frames]
_SMOOTHED = 65  # columns over which the variance of the noise that is left is averaged


def weight_of_series(frames: Frames, is_dark: xr.DataArray) -> xr.DataArray:
    """Return the weight of every pixel from its scatter in time, 1 in dark pixels, (row, column) float32."""
    square, count = squares_about(frames, frames.still)

    def weigh(square: np.ndarray, count: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
        known = count > 0.3 * count.max()
        variance = np.where(known, square / np.where(known, count, 1), np.inf)
        dark = known & is_dark
        of_typical = dark if dark.any() else known
        typical = np.median(variance[of_typical]) if of_typical.any() else np.inf
        if not np.isfinite(typical):
            return np.zeros(is_dark.shape, np.float32)
        ratio = np.where(known, variance / max(typical, 1e-30), np.inf)
        weight = np.where(is_dark & (ratio < 3), 1, 1 / np.maximum(ratio, 1))
        return np.where(ratio < 0.25, 0, weight).astype(np.float32)  # such a pixel does not show the noise

    images = (one_chunk(array, *IMAGE) for array in (square, count))
    weight = map_blocks(weigh, *images, is_dark, core=IMAGE, outputs={"weight": (IMAGE, np.float32)})["weight"]
    return weight


def noise_of(
    values: xr.DataArray | Frames,
    weight: xr.DataArray,
    density: xr.DataArray,
    order: TimeOrder,
    *,
    less: xr.DataArray | None = None,
    plus: xr.DataArray | None = None,
    apart: xr.DataArray | None = None,
    pattern: xr.DataArray | None = None,
    source: xr.DataArray | None = None,
    limit: float = _OUTLIER,
) -> xr.DataArray:
    """Return the noise of each frame, fitted together with the amount of a pattern, or of light, in each frame.

    Images may have integrations or groups: ``less`` is subtracted from the values before, and ``plus`` is added to the
    noise. Levels of frames, ``apart`` (integration, group), are subtracted before and added too. ``density`` may have
    integrations.
    """
    template = source if source is not None else pattern
    response = None
    if template is not None:
        alike = template if "group" in template.dims else template.expand_dims("group")
        alike = to_whole_frames(alike.expand_dims(integration=density.sizes.get("integration", 1)))
        response = noise_of(alike, weight, density, order, limit=np.inf)
        response = response if "integration" in density.dims else response.isel(integration=0)
        response = response if "group" in template.dims else response.isel(group=0)
    images = {"less": less, "plus": plus, "apart": apart, "template": template, "response": response}
    given = {name: image for name, image in images.items() if image is not None}
    dims = {name: tuple(str(d) for d in image.dims if d not in IMAGE) for name, image in given.items()}
    others = weight, density, *given.values()
    kernel = partial(_noise_of_frames, dims=dims, order=order, is_source=source is not None, limit=limit)
    if isinstance(values, Frames) and len(values.parts) > 1:
        return frame_by_frame(kernel, values.parts, others, MODEL, "noise")
    frames = values.values if isinstance(values, Frames) else values
    return map_blocks(kernel, frames, *others, core=(*IMAGE, *MODEL), outputs={"noise": (RAMP, np.float32)})["noise"]


class NoiseLeft(NamedTuple):
    """The noise that cleaning leaves in a frame.

    Attributes
    ----------
    variance : DataArray
        (row, column) float32, without the level of the frame.
    change : DataArray
        (row, column) float32, what this noise adds to the variance of a pixel. The estimate follows the noise of the
        pixels that it comes from, so it is negative in most of them.
    correlation : DataArray
        (lag, kind) float32, see :func:`correlation_of`.
    level : DataArray
        () float64, variance of the level that is left in all pixels of the frame. The others do not have it, because it
        is the same in all pixels: it is like light of the sky.
    """

    variance: xr.DataArray
    change: xr.DataArray
    correlation: xr.DataArray
    level: xr.DataArray


def noise_left(weight: xr.DataArray, density: xr.DataArray, frames: Frames) -> NoiseLeft:
    """Return the noise that cleaning leaves in a frame, from simulated frames."""
    number = max(_DRAWS, min(_MOST_DRAWS, _DRAWN // weight.size))
    draws = in_groups(chunk_like(xr.DataArray(np.arange(number), dims="draw"), frames.values), "draw", 1)
    kinds = kinds_of(weight, frames)
    apart, common = map_blocks(
        _levels_left,
        weight,
        density,
        core=(*IMAGE, *MODEL),
        outputs=dict.fromkeys(("apart", "common"), ((), np.float64)),
        order=frames.order,
    ).values()
    *simulated, products = map_blocks(
        _simulate_errors,
        draws,
        weight,
        density,
        kinds,
        core=(*IMAGE, *MODEL),
        outputs={
            **dict.fromkeys(("squares", "followed"), (("draw", *IMAGE), np.float32)),
            "products": (("draw", "kind", "lag"), np.float64),
        },
        sizes=LAG_SIZES,
        order=frames.order,
    ).values()
    variance, change = map_blocks(
        _smooth_variances,
        *(one_chunk(array, "draw") for array in simulated),
        weight,
        apart,
        core=("draw", *IMAGE),
        outputs=dict.fromkeys(("variance", "change"), (IMAGE, np.float32)),
    ).values()
    return NoiseLeft(variance, change, correlation_of(products, apart, kinds, density, frames.order), common)


def spectrum_of(residual: xr.DataArray, frames: Frames, weight: xr.DataArray) -> xr.DataArray:
    """Return the spectral densities of one frame, (component, frequency) float64.

    White noise is NaN, and other noise 0, if no two frames can be compared.
    """
    order, length = frames.order, series_length(frames.order)
    left = partial(_left_of_frames, axis=frames.averaged, sampled=frames.sampled, groups=frames.values.sizes["group"])
    power, count = map_blocks(
        _power_of_frames,
        residual,
        weight,
        core=IMAGE,
        outputs={
            "power": (("integration", "group", "kind", "bin"), np.float64),
            "count": (("integration", "group"), np.float64),
        },
        sizes={"kind": 2, "bin": power_bins(length).size},
        order=order,
    ).values()
    numbers = in_groups(chunk_like(xr.DataArray(np.arange(band_count(length)), dims="band"), residual), "band", 10)
    folded = map_blocks(
        _folded,
        numbers,
        weight,
        core=IMAGE,
        outputs={"folded": (("band", "kind", "bin"), np.float64)},
        sizes={"kind": 2, "bin": power_bins(length).size},
        order=order,
    )["folded"]

    def fit(power: np.ndarray, count: np.ndarray, weight: np.ndarray, folded: np.ndarray) -> np.ndarray:
        kept = left(count)
        count = np.where(kept > 0, count, 0)
        seen = alike_frames(power, _of_covered(count) if 1 < len(count) < SERIES else count)
        kept = kept[..., None, None]
        mean = (power[seen] / kept[seen]).mean(0) if seen.any() else np.zeros(power.shape[2:])
        is_measured = np.median(mean[0]) > _NOTHING * float(weight.sum(dtype=np.float64))
        mean = mean if is_measured else np.zeros_like(mean)
        series = to_series(weight, order, length)
        densities = fit_densities(mean, int(seen.sum()), series, folded.transpose(1, 0, 2))
        white = densities.white if is_measured else np.nan
        return np.stack([densities.own, densities.common, np.full_like(densities.own, white)])

    density = map_blocks(
        fit,
        one_chunk(power, *map(str, power.dims)),
        one_chunk(count, *map(str, count.dims)),
        weight,
        one_chunk(folded, "band"),
        core=(*map(str, power.dims), *IMAGE, "band"),
        outputs={"density": (MODEL, np.float64)},
        sizes={"component": 3, "frequency": length // 2 + 1},
    )["density"]
    return density


def _left_of_frames(count: np.ndarray, *, axis: int, sampled: np.ndarray, groups: int) -> np.ndarray:
    """Return the share of the noise that is left in each frame after the mean was subtracted, (integration, group).

    The mean has all groups. Those that were not sampled count as usable where the nearest one is.
    """
    nearest = np.abs(np.arange(groups)[:, None] - sampled).argmin(1)
    return left_about_mean((count > _COVERED * count.max())[:, nearest], axis)[:, sampled]


def _of_covered(count: np.ndarray) -> np.ndarray:
    """Return the weights (integration, group) with 0 for frames that lack many pixels, and for integrations of such.

    The mask of these frames is another one, and little is known of the mean that was subtracted from them.
    """
    covered = count > _COVERED * count.max()
    covered &= covered.mean(1, keepdims=True) >= _COVERED
    return np.where(covered, count, 0) if covered.any() else count


def _folded(numbers: np.ndarray, weight: np.ndarray, *, order: TimeOrder) -> np.ndarray:
    """Return the power of bands in the weighted series, (band, kind, bin) float64."""
    return folded_bands(to_series(weight, order, series_length(order)), numbers).transpose(1, 0, 2)


def _power_of_frames(values: np.ndarray, weight: np.ndarray, *, order: TimeOrder) -> tuple[np.ndarray, np.ndarray]:
    """Return the binned power of weighted frames, and the sum of the weights of each."""
    length = series_length(order)
    out = np.zeros((*values.shape[:2], 2, power_bins(length).size))
    total = np.zeros(values.shape[:2])
    whole = float(weight.sum(dtype=np.float64))
    root, stride = np.sqrt(weight), max(1, weight.size // 200_000)
    for i in range(values.shape[0]):
        for g in range(values.shape[1]):
            noise = values[i, g] * root
            some = noise.ravel()[::stride]
            some = some[(root.ravel()[::stride] > 0) & np.isfinite(some)]
            middle, scatter = median_and_scatter(some)
            used = (np.abs(noise) <= abs(middle) + 5 * scatter) & (weight > 0)  # False where there is no value
            total[i, g] = weight[used].sum(dtype=np.float64)
            if total[i, g]:
                series = to_series(np.where(used, values[i, g] * weight, np.float32(0)), order, length)
                out[i, g] = binned_power(series) * (whole / total[i, g])
    return out, total


def _densities(density: np.ndarray) -> Densities:
    return Densities(float(density[2, 0]), density[0], density[1])


def _solver(density: np.ndarray, n_outputs: int, tolerance: float = TOLERANCE) -> Solver | SolverBesideLight:
    """Return what solves for the noise: beside light, if its density is the last component."""
    noise = _densities(density)
    if len(density) == 3:
        return Solver(noise, n_outputs, tolerance=tolerance)
    return SolverBesideLight(noise, density[3], n_outputs, tolerance)


def _noise_of_frames(
    *arrays: np.ndarray,
    dims: Mapping[str, tuple[str, ...]],
    order: TimeOrder,
    is_source: bool,
    limit: float,
) -> np.ndarray:
    """Return the noise of each frame, (integration, group, row, column) float32.

    ``dims`` are names of images, and which of integration and group they have.
    """
    number = len(arrays) - len(dims) - 2
    parts, (weight, density, *images) = arrays[:number], arrays[number:]
    length = series_length(order)
    weights = to_series(weight, order, length)
    solvers = [_solver(each, len(order.rows)) for each in (density if density.ndim == 3 else [density])]
    groups = parts[0].shape[1] - (len(parts) > 1)
    out = np.empty((parts[0].shape[0], groups, *weight.shape), np.float32)
    for i in range(out.shape[0]):
        for g in range(out.shape[1]):
            place = {"integration": i, "group": g}
            given = {
                name: image[tuple(place[dim] for dim in of_image)]
                for (name, of_image), image in zip(dims.items(), images, strict=True)
            }
            frame = frame_of(parts, i, g)
            frame = frame - given["less"] if "less" in given else frame
            if apart := given.get("apart"):
                frame = frame - apart
            series = to_series(frame, order, length)
            solver = solvers[min(i, len(solvers) - 1)]
            noise = to_image(solver.noise(series, known_samples(series, weights), limit), order)
            if "template" in given:
                template, response = given["template"], given["response"]
                amount = np.float32(template_amount(frame, noise, weight, template, response))
                noise += amount * (-response if is_source else template - response)
            out[i, g] = noise + given["plus"] if "plus" in given else noise
            if apart:
                out[i, g] += apart
    return out


def _simulate_errors(
    draws: np.ndarray, weight: np.ndarray, density: np.ndarray, kinds: np.ndarray, *, order: TimeOrder
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the noise that cleaning leaves in simulated frames, squared, and times the white noise of the pixel.

    The third array are sums of products of its pixels, see :func:`products_of_kinds`. None of them has the levels of
    amplifiers: few draws would say little of levels, of which a draw has one. See :func:`_levels_left`.
    """
    length = series_length(order)
    solver = _solver(density, len(order.rows), _DRAW_TOLERANCE)
    weights = to_series(weight, order, length)
    density = density.copy()
    density[:2, 0] = 0
    densities = _densities(density)
    scatter = np.sqrt(np.float32(densities.white) / np.where(weights > 0, weights, np.float32(1)))
    squares, followed = (np.empty((draws.size, *weight.shape), dtype=np.float32) for _ in range(2))
    products = np.empty((draws.size, *LAG_SIZES.values()))
    for place, number in enumerate(draws):
        random = np.random.default_rng([5, int(number)])
        noise = draw_noise(densities, len(order.rows), length, random)
        white = random.standard_normal(noise.shape, dtype=np.float32) * scatter
        noise -= solver.noise(white + noise, weights)
        error = to_image(noise, order)
        products[place] = products_of_kinds(error, to_image(white, order), kinds, order)
        squares[place] = error**2
        followed[place] = to_image(noise * white, order)
    return squares, followed, products


def _levels_left(weight: np.ndarray, density: np.ndarray, *, order: TimeOrder) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of levels that is left: of amplifiers less the level of the frame, and of the frame."""
    length, n_outputs = series_length(order), len(order.rows)
    filled = float(weight.sum(dtype=np.float64)) / (length * n_outputs)  # share of samples with weight
    of_level, light = float(density[:2, 0].sum()), float(density[3:, 0].sum())
    kept = 1.0
    if of_level > 0 and filled > 0:
        other = float(density[2, 0]) / filled + light
        kept = other / (of_level + other)
    left = kept**2 / length
    apart = float(density[0, 0]) * (1 - 1 / n_outputs)
    return np.asarray(apart * left), np.asarray((of_level - apart) * left)


def _smooth_variances(
    squares: np.ndarray, followed: np.ndarray, weight: np.ndarray, apart: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of what is left, and its change of the variance of pixels, as means over nearby pixels.

    ``apart`` is the variance of the levels of amplifiers that is left, which the squares do not have.

    Pixels with and without weight are averaged separately. The product with white noise scatters more than the square
    and depends less on the place, so it is averaged over more pixels.
    """
    used = weight > 0
    variance, change = np.zeros_like(weight), np.zeros_like(weight)
    for inside in (used, ~used):
        variance[inside] = _mean_nearby(squares.mean(0), inside, 1)[inside] + np.float32(apart)
    change[~used] = variance[~used]
    change[used] = variance[used] + 2 * _mean_nearby(followed.mean(0), used, _SMOOTHED)[used]
    return variance, change


def _mean_nearby(values: np.ndarray, inside: np.ndarray, rows: int) -> np.ndarray:
    """Return means of the values inside, over some rows and 65 columns."""
    size = (rows, _SMOOTHED)
    share = ndimage.uniform_filter(inside.astype(np.float32), size, mode="constant")
    total = ndimage.uniform_filter(np.where(inside, values, np.float32(0)), size, mode="constant")
    found: np.ndarray = total / np.maximum(share, np.float32(1e-6))
    return found
