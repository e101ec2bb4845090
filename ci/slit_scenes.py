"""Extract slits of known truth: neighbours, extended sources, subtracted nods, tilted slits, sky, closed shutters.

    python ci/slit_scenes.py [--seed 1000] [--seeds 3] [--short]

Every combination of signal to noise (10, 45, 150), source (point, extended with a FWHM of 4 rows, a point with a
neighbour 3 to 10 rows away of 0.1 to 3 times its light), other nods subtracted (0, 1, 2), slope of the trace, sky
(none, or in the open shutters; if nods are subtracted, only the noise of the sky is left in the cut-out), and shutters
(three open, or one of them closed). Neighbours are 1.5 rows or more from subtracted nods. The nod changes from seed to
seed. ``--short`` takes one signal to noise and one slope.

For each scene: flux over truth in the aperture, mean value and the value farthest from one; rms error of the position;
scatter between neighbouring columns over the claimed deviation. A scene is marked as off, and counted at the end, if
its flux is off by 3 % (by 5 % beside a neighbour as bright or brighter) and by two standard deviations of the sum over
all columns, if its position is off by 0.1 row, or if its scatter is outside 0.9 to 1.1.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from common import make_parser, table_row, write_head, write_row

import nsxr
from nsxr.simulate import simulate_trace

PARTS = ("poisson", "rnoise", "flat")
PITCH = 1.15 * 4.4  # rows between shutters
BRIGHTNESS = (0.1, 0.3, 1.0, 3.0)


class Found(NamedTuple):
    """Results of one cut-out."""

    flux: float
    noise: float
    position: float
    scatter: float
    neighbours: int


def extracted(keywords: dict[str, Any]) -> Found:
    """Return flux over truth, error of the position, and scatter over claimed deviation of a simulated slit."""
    slit, truth = simulate_trace(**keywords)
    model = nsxr.fit_trace_model(slit)
    spectrum = nsxr.extract_spectrum(slit, model)
    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    deviation = np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in PARTS))
    kept = (spectrum["dq"].values == 0) & np.isfinite(spectrum["flux"].values)
    flux = spectrum["flux"].values[kept].sum() / within[kept].sum() if kept.any() else np.nan
    noise = np.sqrt((deviation[kept] ** 2).sum()) / within[kept].sum()
    pull = np.where(kept, (spectrum["flux"].values - within) / deviation, np.nan)
    scatter = np.sqrt(np.nanmean(np.diff(pull) ** 2) / 2)
    centroid = (truth["profile"] * truth["row"]).sum("row")
    wanted = truth["trace"] if keywords["source_type"] == "EXTENDED" else centroid  # shutters block part of the light
    position = float((model["trace"] - wanted).mean())
    return Found(float(flux), float(noise), position, float(scatter), int(model["neighbours"]))


def realizations(scene: dict[str, Any], closed: bool, seed: int, seeds: int) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield keywords of a scene for each seed, and how bright its neighbour is."""
    for number in range(seeds):
        random = np.random.default_rng(seed + 7919 * number)
        shutters = ("011", "110")[number % 2] if closed else "111"
        nod = int(random.choice([n for n in (-1, 0, 1) if shutters[n + 1] == "1"]))
        keywords = dict(scene, seed=seed + number, nod=nod, shutters=shutters, offset=float(random.normal(0, 0.2)))
        keywords["rows"] = 30 + int(abs(scene["tilt"]) * 420)
        neighbour = 0.0
        if keywords.pop("kind") == "two":
            at = -nod * PITCH
            places = [d for d in np.arange(-10.0, 10.1, 0.5) if abs(d) >= 3 and is_open(at + d, shutters)]
            if scene["negative_nods"]:  # a neighbour cannot be distinguished from a subtracted nod at the same place
                places = [d for d in places if min(abs(abs(d) - n * PITCH) for n in (1, 2)) > 1.5]
            neighbour = float(BRIGHTNESS[number % len(BRIGHTNESS)])
            keywords |= {"neighbour": neighbour, "neighbour_distance": float(random.choice(places))}
        yield keywords, neighbour


def is_open(row: float, shutters: str) -> bool:
    """Return whether a position, in rows from the middle of the slit, is behind an open shutter."""
    number = int(np.clip(np.rint(-row / PITCH), -1, 1)) + 1
    return abs(row) < PITCH + 2.0 and shutters[number] != "0"


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1000, help="first seed")
    parser.add_argument("--seeds", type=int, default=0, help="realizations of each scene; 4, or 1 if short")
    parser.add_argument("--short", action="store_true", help="one signal to noise, one slope")
    parser.add_argument("--only", default="", help="part of a row's name, as 'two | 1'")
    given = parser.parse_args()
    seeds = given.seeds or (1 if given.short else 4)
    ratios, tilts = ((45.0,), (0.03,)) if given.short else ((10.0, 45.0, 150.0), (-0.015, 0.0, 0.03))
    scene_columns = ("source", "nods", "sky", "shutters", "slope", "S/N")
    write_head(*scene_columns, "flux/truth: mean, worst", "position", "scatter", "")
    wrong, total = 0, 0
    for number, (kind, nods, sky, closed, tilt, ratio) in enumerate(
        product(("point", "extended", "two"), (0, 1, 2), (0.0, 100.0), (False, True), tilts, ratios)
    ):
        states = "in" if sky else "out", "one closed" if closed else "open"
        name = (kind, nods, *states, tilt, f"{ratio:.0f}")
        if given.only not in table_row(name):
            continue
        scene = {"kind": kind, "signal_to_noise": ratio, "tilt": tilt, "sky": sky, "lines": bool(number % 2)}
        scene |= {"negative_nods": nods > 0, "other_nods": max(nods, 1), "source_type": "POINT", "fwhm": 1.8}
        if kind == "extended":
            scene |= {"source_type": "EXTENDED", "fwhm": 4.0}
        found, limits = [], []
        for keywords, neighbour in realizations(scene, closed, given.seed + 100 * number, seeds):
            found.append(extracted(keywords))
            limits.append(0.05 if neighbour >= 1 else 0.03)
        flux, noise, position, scatter, _ = (np.array(values) for values in zip(*found, strict=True))
        off = np.abs(flux - 1)
        marks = ["flux"] * bool((off > np.array(limits) + 2 * noise).any()) + ["position"] * bool(
            (np.abs(position) > 0.1).any()
        )
        marks += ["scatter"] * (not 0.9 <= np.sqrt(np.mean(scatter**2)) <= 1.1)
        wrong, total = wrong + bool(marks), total + 1
        write_row(
            *name,
            f"{flux.mean():.3f}, {flux[off.argmax()]:.3f}",
            f"{np.sqrt(np.mean(position**2)):.3f}",
            f"{np.sqrt(np.mean(scatter**2)):.2f}",
            " ".join(marks),
        )
    print(f"\n{wrong} of {total} scenes are off")


if __name__ == "__main__":
    main()
