"""Noise of mean images, told from light that may hide in dark pixels.

Arrays are lazy; the functions inside work on NumPy blocks.
"""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import chunk_like, one_chunk
from nsxr.kernels.ramps.flicker import Densities, series_length, to_series
from nsxr.kernels.ramps.static_light import light_density, without_smooth
from nsxr.model.dims import IMAGE, RAMP
from nsxr.ramps.correlated_noise.frames import Frames
from nsxr.ramps.correlated_noise.noise_model import MODEL

__all__ = ["beside_light", "continued", "light_of", "typical_light", "without_light"]

_SLOW, _FAST = 0.1, 0.3
"""Frequencies [cycles per line] between which the noise of a single frame is told from smooth light."""


def light_of(
    images: xr.DataArray, is_dark: xr.DataArray, density: xr.DataArray, frames: Frames, strength: float
) -> xr.DataArray:
    """Return the density of light in each mean image, relative to the noise in it, (integration, frequency) float64.

    ``images`` (integration, row, column) are means of frames less their level, ``density`` (component, frequency) the
    densities of the noise of a frame, and ``strength`` that of the light that may be hidden.
    """
    order, is_single = frames.order, frames.static is None
    length = series_length(order)

    def find(images: np.ndarray, is_dark: np.ndarray, density: np.ndarray, all_shared: np.ndarray) -> np.ndarray:
        found = []
        for image, shared in zip(images, all_shared, strict=True):
            own, common, white = density * shared
            noise = Densities(float(white[0]), own, common)
            known = is_dark & np.isfinite(image)
            weight = to_series(known.astype(np.float32), order, length)
            series = to_series(np.where(known, image, np.float32(0)), order, length)
            found.append(light_density(series, weight, noise, order, strength, single=is_single) / shared)
        return np.array(found)

    outputs = {"light": (("integration", "frequency"), np.float64)}
    arrays = images, is_dark, density, frames.shared
    return map_blocks(find, *arrays, core=(*IMAGE, *MODEL), outputs=outputs)["light"]


def typical_light(light: xr.DataArray) -> xr.DataArray:
    """Return the middle of the densities of light of the integrations, (frequency,) float64; of two, the lower one."""

    def middle(light: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sort(light, axis=0)[(len(light) - 1) // 2]
        return found

    outputs = {"light": (("frequency",), np.float64)}
    whole = one_chunk(light, "integration")
    return map_blocks(middle, whole, core=("integration", "frequency"), outputs=outputs)["light"]


def beside_light(density: xr.DataArray, light: xr.DataArray) -> xr.DataArray:
    """Return the densities of noise with that of light as last component, (..., component, frequency) float64.

    They have integrations if the light has.
    """
    both = xr.broadcast(density, light.expand_dims("component"), exclude=("component",))
    return xr.concat(both, "component").transpose(..., *MODEL)


def without_light(frames: Frames, is_dark: xr.DataArray, level: xr.DataArray | None) -> xr.DataArray:
    """Return some frames without what all share, to measure the spectrum of the noise.

    A single frame shares nothing. It loses the level of the dark pixels if the optics know them, else smooth light.
    """
    if frames.static is not None:
        static = frames.static.isel(group=frames.sampled) if "group" in frames.static.dims else frames.static
        sampled = frames.values.isel(group=frames.sampled)
        residual = sampled - chunk_like(static, sampled)
        return residual if frames.apart is None else residual - chunk_like(frames.apart[:, frames.sampled], sampled)
    if level is not None:
        return frames.values - level

    def subtract(values: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
        return np.array([[without_smooth(image, is_dark) for image in of_integration] for of_integration in values])

    return map_blocks(subtract, frames.values, is_dark, core=IMAGE, outputs={"residual": (RAMP, np.float32)})[
        "residual"
    ]


def continued(density: xr.DataArray, frames: Frames) -> xr.DataArray:
    """Return the densities with 1/f noise where light was subtracted from a single frame."""
    if frames.static is not None:
        return density

    order = frames.order

    def extend(density: np.ndarray) -> np.ndarray:
        frequency = np.arange(density.shape[1]) / series_length(order) * order.slots
        found = density.copy()
        known, slow = (frequency >= _SLOW) & (frequency < _FAST), (frequency > 0) & (frequency < _SLOW)
        if known.any():
            found[:2, slow] = (density[:2, known] * frequency[known]).mean(1, keepdims=True) / frequency[slow]
        return found

    return map_blocks(extend, density, core=MODEL, outputs={"density": (MODEL, np.float64)})["density"]
