"""Average the rates of many simulated exposures; print how the noise falls with their number.

    python ci/deep_stacks.py [--seed 7000] [--exposures 64] [--columns 256] [--groups 3] [--short] [CASE...]

All exposures show the same pixels of the same detector (full frames of NRSRAPID, all rows, some columns), with the same
picture frame pattern. The noise of each has its own seed: white noise, levels of amplifiers, 1/f noise, alternating
columns, picture frame, photon noise. Bad pixels and cosmic rays are left out. Cases: ``dark``; ``faint``, slices of
the IFU with 0.0001 to 20 electron/s, the same light in all exposures; ``dark frame`` and ``faint frame``, with five
times the picture frame.

Exposures go through stage 1. Methods:

- ``off``: stage 1 without cleaning;
- ``nsxr``: stage 1 with cleaning;
- ``nsxr frame``: with ``picture_frame`` too;
- ``nsxr light``: as ``nsxr``, if the pixels with more than 0.0001 electron/s are given as ``light``;
- ``jwst off``, ``jwst median``, ``jwst channel``, ``jwst fft`` with ``--peer FOLDER``: reference pixels and slopes as
  in jwst, and differences of groups cleaned by the code of jwst with the true mask. ``channel`` and ``fft`` need
  ``--columns 2048``.

Light is subtracted from the rates. The first table shows the rms of the mean of N exposures, over the rms of one times
N^-1/2, averaged over all choices of N exposures. The rms is that of single pixels, or of means over the rows of a
column, in dark pixels or in pixels with light, around their mean over the frame. The ratio is 1 if exposures have
nothing in common. The slope is that of log rms against log N, with its sampling error (jackknife over exposures).
*Shared* is the variance of what all exposures have in common, the mean product of two exposures. The second table
shows the mean residual of all exposures together, of dark pixels, and of pixels with light, by brightness, less that
of dark pixels. Units are 0.001 electron/s, and its square.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from common import add_choices, add_peer, make_parser, peer_python, write_head, write_row
from flicker import NOISE, Exposure, peer_noise

import nsxr
from nsxr.model.readout import Readout
from nsxr.simulate import QUIET, Artifacts, SmallExposure, small_exposure

CASES = {"dark": (False, 1.0), "dark frame": (False, 5.0), "faint": (True, 1.0), "faint frame": (True, 5.0)}
"""Whether there is light, and the factor on the picture frame."""

OWN: dict[str, list[str]] = {"nsxr": [], "nsxr frame": ["picture_frame"]}
"""Steps that are asked for."""

WITHOUT = ["jump", "clean_flicker_noise"]
DARK = 1e-4  # light below this counts as none [electron/s]
BINS = (DARK, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf)
"""Brightness [electron/s] of the second table."""

SCENE_SEED = 1
_PIXELS = 65536  # whose products are formed at once

PARTS = 8
"""Parts of the columns, for sampling errors."""


@dataclass(frozen=True)
class Setting:
    """What all exposures of a run share."""

    columns: int
    groups: int
    light: np.ndarray
    python: Path | None


class Stack:
    """Images of many exposures, as deviations from their mean over regions, for pixels and for means of columns."""

    def __init__(self, regions: dict[str, np.ndarray]) -> None:
        self.regions = regions
        self.total: Any = 0.0
        self.number = 0
        self.products: dict[str, np.ndarray] = {}
        self._values: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, image: np.ndarray) -> None:
        """Add an exposure."""
        self.total = self.total + image.astype(np.float64)
        for name, region in self.regions.items():
            inside = np.where(region, image - image[region].mean(), np.float32(0))
            count = region.sum(0)
            seen = count > 32
            means = inside.sum(0, dtype=np.float64)[seen] / count[seen]
            self._values[f"{name}, pixels"].append(inside[region])
            self._values[f"{name}, columns"].append(means - means.mean())

    def close(self) -> None:
        """Replace the exposures by the mean product of each with each, (exposure, exposure), to free their memory."""
        for name, values in self._values.items():
            self.number = len(values)
            total = np.zeros((self.number, self.number))
            for first in range(0, values[0].size, _PIXELS):
                part = np.array([image[first : first + _PIXELS] for image in values], dtype=np.float64)
                total += part @ part.T
            self.products[name] = total / values[0].size
        self._values.clear()


def noise_of_means(products: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rms of the mean of N exposures over that of one times N^-1/2, and the mean product of two exposures.

    The square of the rms is averaged over all choices of N exposures. So it follows from the mean square of an exposure
    and from the mean product of two.
    """
    n = len(products)
    own = np.trace(products) / n
    shared = (products.sum() - np.trace(products)) / (n * (n - 1))
    return np.sqrt(np.maximum(1 + (numbers - 1) * shared / own, 1e-6)), float(shared)


def simulate(setting: Setting, seed: int, frame: float, with_light: bool) -> SmallExposure:
    """Return an exposure of the detector, with the light of the scene and its photon noise."""
    own = {name: getattr(Artifacts(), name) for name in NOISE}
    artifacts = replace(QUIET, **own, nonlinearity=0)
    artifacts = replace(artifacts, picture_frame=artifacts.picture_frame * frame)
    made = small_exposure(
        readout="NRSRAPID",
        groups=setting.groups,
        columns=setting.columns,
        scene="dark",
        seed=seed,
        artifacts=artifacts,
        rounded=False,
    )
    if not with_light:
        return made
    duration = Readout.from_header(made.exposure.attrs).group_time
    random = np.random.default_rng([seed, 18])
    arrived = random.poisson(setting.light * duration, (setting.groups, *setting.light.shape)).cumsum(0)
    gain = made.references["gain"]["sci"].values
    sci = made.exposure["sci"]
    return replace(made, exposure=made.exposure.assign(sci=sci + (arrived / gain).astype(np.float32)))


def rates_of(
    setting: Setting, made: SmallExposure, methods: list[str], light: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the rates by each method [electron/s]."""
    gain = made.references["gain"]["sci"].values

    def fitted(ramps: xr.Dataset, **options: Any) -> np.ndarray:
        rate = nsxr.fit_rates(ramps, made.references, **options)["rate"]["sci"]
        return np.asarray(rate.values * gain)

    ramps = None
    for method in methods:
        if method.startswith("jwst"):
            continue
        options: dict[str, Any] = {"skip": WITHOUT if method == "off" else ["jump"], "run": OWN.get(method, [])}
        if method == "nsxr light":
            options["light"] = xr.DataArray(light > DARK, {d: made.exposure[d] for d in ("row", "column")})
        ramps = nsxr.correct_ramps(made.exposure, made.references, **options)["persistence"]
        yield method, fitted(ramps)
    peers = [method for method in methods if method.startswith("jwst")]
    if not peers or setting.python is None:
        return
    like_peer = {"refpix": {"shrink_levels": False}, "skip": WITHOUT}
    ramps = nsxr.correct_ramps(made.exposure, made.references, **like_peer)["persistence"]
    duration = Readout.from_header(ramps.attrs).group_time
    exposure = Exposure(ramps, (light / gain * duration)[None, None], float(np.nanmean(gain)))
    wanted = [method.removeprefix("jwst ") for method in peers if method != "jwst off"]
    found = peer_noise(setting.python, exposure, light <= DARK, False, wanted) if wanted else {}
    found["off"] = np.zeros_like(ramps["sci"].values[:, 1:]), 0.0
    for method in peers:
        noise, _ = found[method.removeprefix("jwst ")]
        sci = ramps["sci"].values.copy()
        sci[:, 1:] -= noise.cumsum(1)
        cleaned = ramps.assign(sci=(ramps["sci"].dims, sci, ramps["sci"].attrs))
        yield method, fitted(cleaned, ramp_fit={"algorithm": "ols"})


def stacks_of(setting: Setting, case: str, methods: list[str], seeds: range) -> dict[str, Stack]:
    """Return the stacks of all methods."""
    with_light, frame = CASES[case]
    light = setting.light * with_light
    methods = [method for method in methods if with_light or method != "nsxr light"]
    stacks: dict[str, Stack] = {}
    for seed in seeds:
        made = simulate(setting, seed, frame, with_light)
        for method, rate in rates_of(setting, made, methods, light):
            if method not in stacks:
                good = np.isfinite(rate) & (made.references["mask"]["dq"].values == 0)
                regions = {"dark": good & (light <= DARK), "light": good & (light > DARK)}
                stacks[method] = Stack({name: region for name, region in regions.items() if region.any()})
            stacks[method].add(rate - light)
    for stack in stacks.values():
        stack.close()
    return stacks


def write_stacks(case: str, stacks: dict[str, Stack]) -> None:
    """Print how the noise falls with the number of exposures."""
    for method, stack in stacks.items():
        numbers = 2 ** np.arange(int(np.log2(stack.number)) + 1)
        for quantity, products in stack.products.items():
            ratios, shared = noise_of_means(products, numbers)
            rest = [np.delete(np.delete(products, k, 0), k, 1) for k in range(stack.number)]
            slopes = [_slope(numbers, noise_of_means(part, numbers)[0]) for part in rest]
            shares = [noise_of_means(part, numbers)[1] for part in rest]
            error, doubt = (np.sqrt(stack.number - 1) * np.std(found) for found in (slopes, shares))
            one = 1e3 * np.sqrt(np.trace(products) / stack.number)
            cells = [f"{ratio:.3f}" for ratio in ratios[1:]]
            found = f"{_slope(numbers, ratios):+.3f} ± {error:.3f}"
            write_row(case, method, quantity, f"{one:.1f}", *cells, found, f"{1e6 * shared:+.2f} ± {1e6 * doubt:.2f}")


def _slope(numbers: np.ndarray, ratios: np.ndarray) -> float:
    return float(np.polyfit(np.log(numbers), np.log(ratios / np.sqrt(numbers)), 1)[0])


def write_biases(setting: Setting, case: str, stacks: dict[str, Stack]) -> None:
    """Print the mean residual of the deepest stack, by brightness [electron/s]."""
    light = setting.light * CASES[case][0]
    for method, stack in stacks.items():
        image = stack.total / stack.number
        used = np.any(list(stack.regions.values()), axis=0)
        dark = _parts(image, stack.regions["dark"])
        cells = [_with_error(dark)]
        for low, high in pairwise(BINS):
            cells.append(_with_error(_parts(image, used & (light >= low) & (light < high)) - dark))
        write_row(case, method, stack.number, *cells)


def _with_error(means: np.ndarray) -> str:
    """Return the mean over parts of the frame with its error, or nothing if few parts have a value."""
    known = means[np.isfinite(means)]
    if known.size < 4:
        return ""
    return f"{1e3 * known.mean():+.2f} ± {1e3 * np.std(known) / np.sqrt(known.size - 1):.2f}"


def _parts(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the means of pixels in eighths of the columns."""
    total, count = np.where(inside, image, 0).sum(0, dtype=np.float64), inside.sum(0)
    pairs = zip(np.array_split(total, PARTS), np.array_split(count, PARTS), strict=True)
    return np.array([values.sum() / pixels.sum() if pixels.sum() > 10 else np.nan for values, pixels in pairs])


def main() -> None:
    """Print both tables."""
    parser = make_parser(__doc__)
    add_choices(parser, "cases", list(CASES))
    add_peer(parser)
    parser.add_argument("--methods", nargs="+", default=["off", *OWN, "nsxr light"])
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--exposures", type=int, default=64, help="a power of 2")
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="4 exposures of 64 columns")
    arguments = parser.parse_args()
    columns, exposures = (64, 4) if arguments.short else (arguments.columns, arguments.exposures)
    scene = small_exposure(readout="NRSRAPID", groups=2, columns=columns, scene="IFU", seed=SCENE_SEED, artifacts=QUIET)
    is_peer = any(method.startswith("jwst") for method in arguments.methods)
    python = peer_python(arguments.peer) if is_peer else None
    setting = Setting(columns, arguments.groups, scene.truth["rate"].values, python)
    start = time.process_time()
    seeds = range(arguments.seed, arguments.seed + exposures)
    results = {case: stacks_of(setting, case, arguments.methods, seeds) for case in arguments.cases}
    numbers = [f"{2**k}" for k in range(1, int(np.log2(exposures)) + 1)]
    write_head("case", "method", "rms of", "1", *numbers, "slope", "shared")
    for case, stacks in results.items():
        write_stacks(case, stacks)
    print()
    bins = (f"{low:g} to {high:g}" for low, high in pairwise(BINS))
    write_head("case", "method", "exposures", "dark", *bins)
    for case, stacks in results.items():
        write_biases(setting, case, stacks)
    print(f"\n{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
