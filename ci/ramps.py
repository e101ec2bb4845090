"""Fit ramps of known truth, with and without cosmic rays, by nsxr and by jwst; print one table.

    python ci/ramps.py [--peer FOLDER] [--rows 48] [--seed 1] [SCENE...]

Scenes: ``single`` is one integration of 20 groups of 14.6 s, ``averaged`` the same with groups that are means of five
frames. ``short`` has five such groups of 73 s, ``series`` 100 integrations of 10 groups, ``few`` three integrations of
20 groups, and ``pairs`` 12 integrations of two groups, in which an integration with a cosmic ray has no rate. Read
noise is 6 electrons for one frame. A cosmic ray hits 6 % of the pixels of an integration, with charges spread evenly in
their logarithm from 10 to 3000 electrons. For each flux [electron/s] and method:

- *deviation*: standard deviation of (rate - truth) / uncertainty, pixels without cosmic ray;
- *over bound*: standard deviation of the rates of these pixels over the Cramér-Rao bound for ramps without jumps;
- *hit*: mean of (rate - truth) / uncertainty, pixels with a cosmic ray after the first group;
- *found*: share of cosmic rays of 10-30, 30-100, 100-300 and more electrons that are flagged;
- *false*: share of pixels without cosmic ray that are flagged;
- *Msample/s*: speed of search and fit together, in processor time. For jwst it includes the steps around them.

jwst runs with its own defaults, in an environment that ``ci/peer/environment.sh`` makes. ``--no-peer`` leaves the rows
of jwst out.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from common import add_choices, add_peer, fit_by_peer, make_parser, peer_python, write_head, write_row

import nsxr
from nsxr.kernels.ramps.covariance import shared_part
from nsxr.model.dq import GroupFlag
from nsxr.testing import FULL_FRAME, make_exposure, make_noise_references

NOISE, HIT = 6.0, 0.06
CHARGES = (10, 30, 100, 300, 3000)
JUMP = np.uint8(GroupFlag.JUMP_DET.value)
METHODS = {"nsxr least squares": ("two-point", "ols"), "nsxr likelihood": ("likelihood", "likelihood")}
PEER = {"jwst default": "OLS_C", "jwst likelihood": "LIKELY"}


@dataclass(frozen=True)
class Scene:
    """Sizes and times of the ramps of a scene."""

    integrations: int
    groups: int
    frames: int
    group_time: float
    fluxes: tuple[float, ...] = (0.01, 0.03, 0.1, 1.0, 5.0, 20.0)


SCENES = {
    "single": Scene(1, 20, 1, 14.6),
    "averaged": Scene(1, 20, 5, 14.6),
    "short": Scene(1, 5, 5, 73.0),
    "series": Scene(100, 10, 1, 0.9, (20.0, 500.0, 5000.0)),
    "few": Scene(3, 20, 1, 14.6, (0.0, 0.01, 0.1, 5.0)),
    "pairs": Scene(12, 2, 1, 0.9, (20.0, 500.0, 5000.0)),
}


@dataclass(frozen=True)
class Ramps:
    """Samples [electron] and their cosmic rays."""

    sci: np.ndarray
    charge: np.ndarray
    is_late: np.ndarray


def simulate(scene: Scene, flux: float, shape: tuple[int, int], generator: np.random.Generator) -> Ramps:
    """Draw ramps frame by frame."""
    frame_time = scene.group_time / scene.frames
    charge = np.exp(generator.uniform(*np.log((CHARGES[0], CHARGES[-1])), (scene.integrations, *shape)))
    charge *= generator.random(charge.shape) < HIT
    when = generator.uniform(0, scene.groups * scene.group_time, charge.shape)
    total = np.zeros(charge.shape)
    sci = np.empty((scene.integrations, scene.groups, *shape), np.float32)
    for group in range(scene.groups):
        mean = 0.0
        for frame in range(scene.frames):
            total += generator.poisson(flux * frame_time, total.shape)
            hit = charge * (when <= group * scene.group_time + (frame + 1) * frame_time)
            mean = mean + (total + hit + generator.normal(0, NOISE, total.shape)) / scene.frames
        sci[:, group] = mean
    return Ramps(sci, charge, when > scene.group_time)


def as_exposure(scene: Scene, sci: np.ndarray) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Return ramps as an exposure of nsxr, with references; one DN is one electron."""
    times = {"NFRAMES": scene.frames, "TFRAME": scene.group_time / scene.frames, "TGROUP": scene.group_time}
    exposure = make_exposure(sci, **FULL_FRAME, **times)
    readnoise, gain = make_noise_references(exposure, NOISE * np.sqrt(2))
    return exposure, {"readnoise": readnoise, "gain": gain}


def run_nsxr(scene: Scene, sci: np.ndarray, method: str) -> dict[str, np.ndarray]:
    """Return rate, variance and flags of every integration, and the processor seconds."""
    jump, fit = METHODS[method]
    exposure, references = as_exposure(scene, sci)
    start = time.process_time()
    given = references["readnoise"], references["gain"]
    flagged = nsxr.flag_jumps(exposure, *given, algorithm=jump, flag_4_neighbors=False)
    rates = nsxr.fit_ramps(flagged, *given, algorithm=fit)["rateints"].to_dataset()
    seconds = time.process_time() - start
    variance = (rates["var_poisson"] + rates["var_rnoise"]).values
    return {"rate": rates["sci"].values, "variance": variance, "flags": flagged["groupdq"].values, "seconds": seconds}


def run_peer(scene: Scene, sci: np.ndarray, python: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return rate, variance, flags and seconds of jwst, by name of the method."""
    times = {"group_time": scene.group_time, "frame_time": scene.group_time / scene.frames}
    given = {"sci": sci, "gain": 1.0, "readnoise": NOISE * np.sqrt(2), "n_frames": scene.frames, **times}
    results = fit_by_peer(python, given)
    parts = ("rate", "variance", "flags", "seconds")
    return {
        name: {part: results[f"{algorithm}_{part}"].reshape(_shape(part, sci)) for part in parts}
        for name, algorithm in PEER.items()
    }


def _shape(part: str, sci: np.ndarray) -> tuple[int, ...]:
    return {"flags": sci.shape, "seconds": ()}.get(part, (sci.shape[0], *sci.shape[2:]))


def bound(scene: Scene, flux: float) -> float:
    """Return the Cramér-Rao bound of a rate [electron/s]."""
    n, shared = scene.groups - 1, shared_part(scene.frames, 1.0, scene.frames)
    signal, noise = flux * scene.group_time, NOISE**2 / scene.frames
    matrix = np.diag(np.full(n, signal * (1 - 2 * shared) + 2 * noise))
    matrix += (signal * shared - noise) * (np.eye(n, k=1) + np.eye(n, k=-1))
    return float(np.linalg.inv(matrix).sum() ** -0.5 / scene.group_time)


def cells(scene: Scene, flux: float, ramps: Ramps, found: dict[str, np.ndarray]) -> list[str]:
    """Return the numbers of one row of the table."""
    clean, late = ramps.charge == 0, (ramps.charge > 0) & ramps.is_late
    error = found["rate"].astype(float) - flux
    pull = error / np.sqrt(found["variance"])
    is_flagged = (found["flags"] & JUMP).any(1)
    edges = pairwise(CHARGES)
    shares = [is_flagged[late & (ramps.charge >= low) & (ramps.charge < high)].mean() for low, high in edges]
    return [
        f"{np.nanstd(pull[clean]):.3f}",
        f"{np.nanstd(error[clean]) / bound(scene, flux):.3f}",
        f"{np.nanmean(pull[late]):+.3f}",
        " ".join(f"{share:.2f}" for share in shares),
        f"{100 * is_flagged[clean].mean():.3f} %",
        f"{found['flags'].size / found['seconds'] / 1e6:.1f}",
    ]


def main() -> None:
    """Print the table, row by row."""
    parser = make_parser(__doc__)
    add_choices(parser, "scenes", list(SCENES))
    add_peer(parser, is_optional=True)
    parser.add_argument("--rows", type=int, default=48, help="rows of 2048 pixels; a time series has a hundredth")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    python = None if arguments.no_peer else peer_python(arguments.peer)
    write_head("scene", "electron/s", "method", "deviation", "over bound", "hit", "found", "false", "Msample/s")
    generator = np.random.default_rng(arguments.seed)
    for name in arguments.scenes:
        scene = SCENES[name]
        shape = (max(1, arguments.rows // scene.integrations), 2048)
        for flux in scene.fluxes:
            ramps = simulate(scene, flux, shape, generator)
            results = {} if python is None else run_peer(scene, ramps.sci, python)
            for method in METHODS:
                run_nsxr(scene, ramps.sci[:, :, :1, :64], method)  # compiles
                results[method] = run_nsxr(scene, ramps.sci, method)
            for method, found in results.items():
                write_row(name, f"{flux:g}", method, *cells(scene, flux, ramps, found))


if __name__ == "__main__":
    main()
