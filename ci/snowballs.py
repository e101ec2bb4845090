"""Flag and fit snowballs of known truth, by nsxr and by jwst; print one table.

    python ci/snowballs.py [--peer FOLDER] [--size 1024] [--seed 1] [SCENE...]

An exposure has one integration of 20 groups of 14.6 s, 0.05 electron/s and 6 electrons of noise a frame. Cosmic rays
hit 6 % of the pixels, and there is one snowball in 20 000 pixels. Cores have 2 to 12 pixels (power law). A fifth of
them are centred at most 30 pixels inside or 15 pixels outside an edge. Scenes are shapes of the halo, with 2500
electrons beside the core: ``exponential``, ``gaussian``, ``power`` (fourth power), ``disc`` (an exponential that ends
at four radii), and ``release``, which releases another tenth of its charge later, with an e-folding time of two groups.
For each method:

- *found*: snowballs with cores of at least 2.5 pixels in which 95 % of the pixels that shift by more than half a
  standard deviation are flagged; counted for snowballs with a saturated pixel, and for those whose core is outside the
  detector;
- *halo*: mean of (rate - truth) / uncertainty, of pixels that do not saturate, from the core to where charge shifts a
  rate by 0.1;
- *needless*: samples that the step flags farther out, for each snowball, and as a share of all samples at the usual
  rate of one snowball in 20 s on a detector;
- *border*: harmonic mean of the variances from read noise in the outer 25 pixels, over the same with only those samples
  flagged that shift by more than 0.1 standard deviations;
- *seconds* of processor time of the step (jwst: with the jumps).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from common import add_choices, add_peer, fit_by_peer, make_parser, peer_python, write_head, write_row
from ramps import NOISE, Scene, as_exposure

import nsxr
from nsxr.kernels.ramps.halos import smallest_charge
from nsxr.kernels.ramps.saturation import box_minimum
from nsxr.model.dq import GroupFlag

SCENE = Scene(1, 20, 1, 14.6)
FLUX, FULL, BRIGHT, HITS = 0.05, 60000.0, 2500.0, 0.06
JUMP, SATURATED = np.uint8(GroupFlag.JUMP_DET.value), np.uint8(GroupFlag.SATURATED.value)
SHAPES = {
    "exponential": lambda d, r: np.exp(-(d - r) / (0.7 * r)),
    "gaussian": lambda d, r: np.exp(-0.5 * ((d / r) ** 2 - 1) / 1.44),
    "power": lambda d, r: (d / r) ** -4,
    "disc": lambda d, r: np.exp(-(d - r) / (0.7 * r)) * (d < 4 * r),
    "release": lambda d, r: np.exp(-(d - r) / (0.7 * r)),
}
METHODS: dict[str, dict[str, Any] | None] = {
    "nsxr off": None,
    "truth": None,
    "nsxr ellipse": {"snowball_algorithm": "ellipse"},
    "nsxr halo": {"snowball_algorithm": "halo"},
}


@dataclass(frozen=True)
class Frames:
    """Samples (group, row, column) [electron], charge of snowballs by group, and the snowballs."""

    sci: np.ndarray
    charge: np.ndarray
    events: list[tuple[int, float, float, float]]


def simulate(name: str, size: int, generator: np.random.Generator) -> Frames:
    """Draw a scene, group by group."""
    row, column = np.mgrid[:size, :size].astype(np.float32)
    charge = np.zeros((SCENE.groups, size, size), np.float32)
    events = []
    for number in range(size * size // 20_000):
        radius = min(2 * (1 + generator.pareto(2.0)), 12.0)
        group = int(generator.integers(1, SCENE.groups))
        place = generator.uniform(0, size, 2)
        if number % 5 == 0:
            place[number % 2] = generator.choice([0, size]) + generator.uniform(-15, 30)
        distance = np.maximum(np.hypot(row - place[0], column - place[1]), 1e-3)
        halo = generator.poisson(BRIGHT * SHAPES[name](np.maximum(distance, radius), radius))
        charge[group] += np.where(distance <= radius, 2 * FULL, halo)
        if name == "release":
            for later in range(group + 1, SCENE.groups):
                share = 0.1 * (np.exp(-(later - group - 1) / 2) - np.exp(-(later - group) / 2))
                charge[later] += generator.poisson(share * BRIGHT * SHAPES[name](np.maximum(distance, radius), radius))
        events.append((group, float(place[0]), float(place[1]), radius))
    charge[:, :4] = charge[:, :, :4] = 0  # reference pixels; light reaches the other two edges
    sci = np.empty_like(charge)
    total = np.zeros((size, size))
    for group in range(SCENE.groups):
        hits = generator.random((size, size)) < HITS / SCENE.groups
        total += generator.poisson(FLUX * SCENE.group_time, (size, size)) + charge[group]
        total += hits * np.exp(generator.uniform(np.log(10), np.log(3000), (size, size)))
        sci[group] = np.minimum(total, FULL) + generator.normal(0, NOISE, (size, size))
    return Frames(sci, charge, events)


def saturated(sci: np.ndarray) -> np.ndarray:
    """Return the flags of saturation, neighbours included, (group, row, column) uint8."""
    first = np.argmax(np.concatenate([sci >= 0.95 * FULL, np.ones((1, *sci.shape[1:]), bool)]), axis=0)
    grown = box_minimum(first[None].astype(np.int16), 1)[0]
    return (np.arange(len(sci))[:, None, None] >= grown) * SATURATED


def run_nsxr(frames: Frames, method: str) -> dict[str, Any]:
    """Return rate, variances, flags, and the processor seconds of the step."""
    exposure, references = as_exposure(SCENE, frames.sci[None])
    exposure["groupdq"] = exposure["groupdq"].copy(data=saturated(frames.sci)[None])
    given = references["readnoise"], references["gain"]
    flagged = nsxr.flag_jumps(exposure, *given, flag_4_neighbors=False)
    settings = METHODS[method]
    if method == "truth":
        needed = ((shift(frames) > 0.1) & (saturated(frames.sci) == 0)) * JUMP
        flagged = flagged.assign(groupdq=flagged["groupdq"] | needed[None])
    start = time.process_time()
    if settings is not None:
        flagged = nsxr.flag_snowballs(flagged, *given, **settings)
    seconds = time.process_time() - start
    return {**_fit(flagged, references), "seconds": seconds}


def run_peer(frames: Frames, python: Path, snowballs: bool) -> dict[str, Any]:
    """Return the same for jwst and its default fit; variances by read noise come from nsxr with the flags of jwst."""
    exposure, references = as_exposure(SCENE, frames.sci[None])
    numbers = {"gain": 1.0, "readnoise": NOISE * np.sqrt(2), "n_frames": 1}
    numbers |= {"group_time": SCENE.group_time, "frame_time": SCENE.group_time}
    given = {"sci": frames.sci[None], "groupdq": saturated(frames.sci)[None], **numbers}
    results = fit_by_peer(python, given, "--algorithms", "OLS_C", *["--snowballs"] * snowballs)
    flags, seconds = results["OLS_C_flags"], float(results["OLS_C_seconds"])
    rate, variance = (results[f"OLS_C_{part}"].reshape(frames.sci.shape[1:]) for part in ("rate", "variance"))
    read = _fit(exposure.assign(groupdq=exposure["groupdq"].copy(data=flags)), references)["read"]
    return {"rate": rate, "variance": variance, "read": read, "flags": flags[0], "seconds": seconds}


def _fit(flagged: xr.Dataset, references: dict[str, xr.Dataset]) -> dict[str, np.ndarray]:
    rates = nsxr.fit_ramps(flagged, references["readnoise"], references["gain"])["rate"].to_dataset()
    read = rates["var_rnoise"].values
    variance = read + rates["var_poisson"].values
    return {"rate": rates["sci"].values, "variance": variance, "read": read, "flags": flagged["groupdq"].values[0]}


def shift(frames: Frames) -> np.ndarray:
    """Return by how much the charge of snowballs shifts the rate, by group of arrival [standard deviations]."""
    limits = np.array([np.inf] + [smallest_charge(g, SCENE.groups, 0.1) for g in range(1, SCENE.groups)])
    return 0.1 * frames.charge / (limits[:, None, None] * NOISE * np.sqrt(2)).astype(np.float32)


def cells(frames: Frames, plain: dict[str, Any], truth: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the numbers of one row of the table."""
    shifts = shift(frames)
    unsaturated = (saturated(frames.sci)[-1] & SATURATED) == 0
    is_flagged = (found["flags"] & (JUMP | SATURATED)) > 0
    row, column = np.mgrid[: frames.sci.shape[1], : frames.sci.shape[2]]
    seen: tuple[list[bool], list[bool]] = [], []
    for group, y, x, radius in frames.events:
        mine = (np.hypot(row - y, column - x) < 8 * radius) & unsaturated & (shifts[group] > 0.5)
        if radius >= 2.5 and mine.sum() >= 20:
            is_inside = bool((np.hypot(row - y, column - x)[4:, 4:] < radius).any())
            seen[not is_inside].append(bool(is_flagged[group][mine].mean() >= 0.95))
    halo = unsaturated & (shifts > 0.1).any(0)
    pull = (found["rate"].astype(float) - FLUX) / np.sqrt(found["variance"])
    added = is_flagged & ((plain["flags"] & (JUMP | SATURATED)) == 0)
    border = np.ones(row.shape, bool)
    border[25:-25, 25:-25] = False
    weight, needed = (np.nansum(1 / result["read"][border]) for result in (found, truth))
    needless = (added & (shifts <= 0.1)).sum() / len(frames.events)
    usual = 0.05 * SCENE.groups * SCENE.group_time / (SCENE.groups * 2048**2)  # events a sample
    return [
        ", ".join(f"{sum(part)} of {len(part)}" for part in seen),
        f"{np.nanmean(np.clip(pull[halo], -50, 50)):+.3f}",
        f"{needless:.0f}, {100 * needless * usual:.3f} %",
        f"{100 * (needed / weight - 1):+.1f} %",
        f"{found['seconds']:.1f}",
    ]


def main() -> None:
    """Print the table, row by row."""
    parser = make_parser(__doc__)
    add_choices(parser, "scenes", list(SHAPES))
    add_peer(parser, is_optional=True)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    python = None if arguments.no_peer else peer_python(arguments.peer)
    write_head("halo", "method", "found", "bias", "needless", "border", "seconds")
    generator = np.random.default_rng(arguments.seed)
    for name in arguments.scenes:
        frames = simulate(name, arguments.size, generator)
        results = {}
        if python is not None:
            results |= {f"jwst {w}": run_peer(frames, python, w == "on") for w in ("off", "on")}
        results |= {method: run_nsxr(frames, method) for method in METHODS}
        for method, found in results.items():
            plain = results["jwst off" if method.startswith("jwst") else "nsxr off"]
            write_row(name, method, *cells(frames, plain, results["truth"], found))


if __name__ == "__main__":
    main()
