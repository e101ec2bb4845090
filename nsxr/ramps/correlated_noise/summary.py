"""What products tell of the correlated noise of an exposure: a table of spectra, and numbers that become keywords."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.kernels.ramps.noise_bands import power_bins
from nsxr.model.dims import IMAGE
from nsxr.model.time_order import SAMPLE_TIME
from nsxr.model.variables import SPECTRUM_COLUMNS
from nsxr.ramps.correlated_noise.noise_model import MODEL

__all__ = ["LEVEL_KEYWORD", "summary_of"]

LEVEL_KEYWORD = "FLKLEVEL"

_NUMBERS = {
    "dark_share": ("FLKDARK", "share of pixels that see no light"),
    "white_noise": ("FLKWHITE", "white noise of a frame, rms"),
    "flicker_noise": ("FLKNOISE", "correlated noise before cleaning, rms"),
    "alternating_noise": ("FLKODDEV", "alternating columns before cleaning, rms"),
    "flicker_left": ("FLKLEFT", "correlated noise left in light, rms"),
    "level_left": (LEVEL_KEYWORD, "level left in all pixels of a frame, rms"),
    "share_removed": ("FLKDONE", "share of correlated variance removed in light"),
}


def summary_of(found: xr.Dataset, frames: float, unit: str) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Return the table of spectra and the numbers that become keywords, for one frame.

    ``found`` is from :func:`estimate_flicker_noise`, a difference of groups has the noise of two ``frames``, and
    ``unit`` is that of the signal.
    """

    def summarize(
        density: np.ndarray, variance: np.ndarray, weight: np.ndarray, is_dark: np.ndarray, *levels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        density, length = np.nan_to_num(density), 2 * (density.shape[1] - 1)
        starts = power_bins(length)[1:]
        counts = np.diff(np.append(starts, density.shape[1]))
        frequency = np.add.reduceat(np.arange(density.shape[1], dtype=np.float64), starts) / counts
        parts = np.add.reduceat(density, starts, axis=1) / counts * (2 * SAMPLE_TIME / frames)
        high = density[0, 3 * length // 8 :]
        rest = variance[weight == 0] if (weight == 0).any() else variance
        numbers = [
            is_dark.mean(),
            np.sqrt(density[2, 0] / frames),
            np.sqrt(((density[:2, 1:].mean(1) + density[:2, 0] / length).sum()) / frames),
            np.sqrt((high - high.min()).sum() * 2 / length / frames),
            np.sqrt((np.median(rest) + levels[0]) / frames),
            np.sqrt(levels[1] / frames),
        ]
        numbers.append(max(0.0, 1 - (numbers[4] / numbers[2]) ** 2) if numbers[2] > 0 else 0.0)
        columns = np.vstack([frequency / (length * SAMPLE_TIME), parts]).T
        return columns.astype(np.float32), np.array(numbers)

    images = [unlabelled(found[name]) for name in ("density", "variance", "weight", "is_dark")]
    is_known = "level_variance" in found
    level = found["level_variance"] if is_known else xr.zeros_like(images[0].isel(component=0, frequency=0))
    levels = level, found.get("level_variance_of_mean", level)
    table, numbers = map_blocks(
        summarize,
        *images,
        *levels,
        core=(*MODEL, *IMAGE),
        outputs={"table": (("band", "part"), np.float32), "numbers": (("number",), np.float64)},
        sizes={
            "band": power_bins(2 * (found.sizes["frequency"] - 1)).size - 1,
            "part": len(SPECTRUM_COLUMNS),
            "number": len(_NUMBERS),
        },
    ).values()
    named = {}
    for place, (name, (keyword, meaning)) in enumerate(_NUMBERS.items()):
        if name == "level_left" and not is_known:
            continue
        units = {} if "share" in name else {"units": unit}
        named[name] = numbers.isel(number=place).assign_attrs(long_name=meaning, keyword=keyword, **units)
    return table, named
