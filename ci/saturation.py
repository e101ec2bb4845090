"""Fit ramps that saturate, and ramps of few groups, of known truth; print one table of each.

    python ci/saturation.py [--rows 24] [--seed 1] [TABLE...]

``partial``: integrations of 6 groups that saturate in the named group, or never. The flux is drawn evenly between the
fluxes that reach the threshold at the beginning and at the end of the group. NRS averages 4 frames, NRSIRS2 5, divided
on board by 4 and by 8. The response bends by 2 to 6 %, and frames are cut off at full well, 2 % above the threshold.
Ramps have no cosmic ray, or a cosmic ray of 1000 to 200 000 electrons at any time. For each rule about averaged groups
(``off``; ``scaled``, the rule of jwst; and ``predicted``) and fit:

- *bias*: mean of (rate - truth) / uncertainty in ramps with a group that is partly saturated, its mean below the
  threshold; with cosmic rays, in ramps in which the cosmic ray caused this;
- *worst tenth*: the same in the tenth of the fluxes, or of the times of the cosmic rays, in which it is largest;
- *missed*: ramps in which a group is used although a frame is at or above the threshold;
- *needless*: ramps that lose a group without such frames; the group of the cosmic ray does not count, because no group
  after it can be used;
- *rates*: ramps with a rate.

``reset``: ramps of 1, 2, 3 and 5 good groups of 5 frames, with the next group saturated. The level after the reset
scatters by 25 electrons. Ramps are fitted by least squares, by likelihood, and by likelihood with the reset level as a
measurement. Ramps of one group are not suppressed:

- *deviation*: standard deviation of (rate - truth) / uncertainty;
- *bias*: mean of (rate - truth), in standard deviations of the rate;
- *over bound*: standard deviation of the rates over the Cramér-Rao bound;
- *gain*: standard deviation by likelihood without the reset level over that with it;
- *hit in group 1*: mean of (rate - truth) / uncertainty of ramps with a cosmic ray of 10 to 3000 electrons in the first
  group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import add_choices, make_parser, write_head, write_row
from ramps import METHODS, Scene, as_exposure

import nsxr
from nsxr.model.dq import GroupFlag
from nsxr.model.readout import IRS2_ROWS, irs2_layout
from nsxr.testing import make_reference

NOISE, RESET = 6.0, 25.0
BIAS, THRESHOLD, FULL_WELL = 10000.0, 64000.0, 1.02
UNUSABLE = np.uint8(GroupFlag.DO_NOT_USE | GroupFlag.SATURATED)
RULES = {
    "off": {"use_readpatt": False},
    "scaled": {"partial_saturation": "scaled"},
    "predicted": {"partial_saturation": "predicted"},
}
PATTERNS = {"NRS": (Scene(1, 6, 4, 42.947), 4), "NRSIRS2": (Scene(1, 6, 5, 72.944), 8)}
GOOD_GROUPS, FLUXES = (1, 2, 3, 5), (0.1, 5.0, 150.0)
WELL = (THRESHOLD - BIAS) * FULL_WELL


@dataclass(frozen=True)
class Ramps:
    """Raw groups [DN], true rates [electron/s], times of cosmic rays as parts of the ramp, highest frames, bend."""

    sci: np.ndarray
    flux: np.ndarray
    when: np.ndarray
    highest: np.ndarray
    curvature: np.ndarray


def simulate(pattern: str, group: int, is_hit: bool, rows: int, generator: np.random.Generator) -> Ramps:
    """Draw ramps frame by frame that saturate in a group, counted from 1; 0 for ramps that never saturate."""
    scene, divisor = PATTERNS[pattern]
    shape = (rows, 2048)
    end = 1 / generator.uniform(1 / group, 1 / (group - 1 + 1e-3), shape) if group else generator.uniform(8, 80, shape)
    flux = (THRESHOLD - BIAS) / (end * scene.group_time)
    charge = np.exp(generator.uniform(*np.log((1e3, 2e5)), shape)) * is_hit
    when, curvature = generator.random(shape), generator.uniform(0.02, 0.06, shape)
    total, frame_time = np.zeros(shape), scene.group_time / scene.frames
    sci, highest = np.zeros((1, scene.groups, *shape), np.float32), np.empty((1, scene.groups, *shape))
    for number in range(scene.groups * scene.frames):
        total += generator.poisson(flux * frame_time)
        collected = total + charge * (when <= (number + 1) / (scene.groups * scene.frames))
        signal = np.minimum(bend(collected, curvature), WELL)
        sci[0, number // scene.frames] += signal + BIAS + generator.normal(0, NOISE, shape)
        highest[0, number // scene.frames] = signal + BIAS
    stored = np.clip(np.rint(sci / divisor), 0, 65535) * (divisor / scene.frames)
    return Ramps(stored.astype(np.float32), flux, when, highest, curvature)


def bend(signal: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Return the measured signal for a linear signal; the response bends until the well is full."""
    return signal * (1 - curvature * np.minimum(signal, 1.2 * WELL) / WELL)


def straighten(signal: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Undo :func:`bend`."""
    part = curvature / WELL
    return (1 - np.sqrt(np.maximum(1 - 4 * part * signal, 0.0))) / (2 * part)


def worst(values: np.ndarray, order: np.ndarray) -> float:
    """Return the mean that is farthest from 0 among tenths of the values, sorted by another quantity."""
    parts = np.array_split(values[np.argsort(order)], 10)
    means = [float(np.nanmean(part)) for part in parts if np.isfinite(part).sum() > 100]
    return max(means, key=abs, default=np.nan)


def of_partial(rows: int, generator: np.random.Generator) -> None:
    """Print the table of partial saturation."""
    write_head(
        "pattern",
        "saturates in group",
        "hits",
        "rule",
        "fit",
        "bias",
        "worst tenth",
        "missed",
        "needless",
        "rates",
    )
    for pattern, (scene, _) in PATTERNS.items():
        for is_hit in (False, True):
            for group in (0, 2, 3, 4, 5) if is_hit else (1, 2, 3, 4, 5, 6):
                ramps = simulate(pattern, group, is_hit, rows, generator)
                exposure, references = as_exposure(scene, ramps.sci)
                gain = references["gain"]
                bad = np.logical_or.accumulate(ramps.highest >= THRESHOLD, axis=1)
                partial = bad & (ramps.sci < THRESHOLD)
                own = ~bad
                if is_hit:
                    came = np.arange(scene.groups)[:, np.newaxis, np.newaxis] == (ramps.when * scene.groups).astype(int)
                    partial &= came & (np.cumsum(bad, axis=1) == 1)
                    own &= ~came
                partial = partial.any(axis=1)[0]
                order = ramps.when if is_hit else ramps.flux
                for rule, parameters in RULES.items():
                    lost = (given_up(pattern, ramps.sci, parameters) & UNUSABLE) != 0
                    flags = lost * np.uint8(GroupFlag.SATURATED)
                    linear = exposure.assign(
                        sci=exposure["sci"].copy(data=straighten(ramps.sci - BIAS, ramps.curvature).astype(np.float32)),
                        groupdq=exposure["groupdq"] | flags,
                    )
                    for method, (jump, fit) in METHODS.items():
                        found = nsxr.flag_jumps(
                            linear, references["readnoise"], gain, algorithm=jump, flag_4_neighbors=False
                        )
                        rates = nsxr.fit_ramps(found, references["readnoise"], gain, algorithm=fit)["rate"]
                        error = np.sqrt(rates["var_poisson"] + rates["var_rnoise"]).values
                        pull = (rates["sci"].values - ramps.flux) / error
                        cells = (
                            f"{np.nanmean(pull[partial]):+.3f}" if np.isfinite(pull[partial]).sum() > 100 else "",
                            f"{worst(pull[partial], order[partial]):+.2f}",
                            f"{100 * (bad & ~lost).any(1).sum() / pull.size:.2f} %",
                            f"{100 * (lost & own).any(1).sum() / pull.size:.2f} %",
                            f"{100 * np.isfinite(pull).mean():.1f} %",
                        )
                        name = method.split()[1]
                        write_row(pattern, group or "never", "yes" if is_hit else "no", rule, name, *cells)


def given_up(pattern: str, sci: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
    """Return the group flags that a rule sets, for pixels without neighbours."""
    raw = sci
    if pattern == "NRSIRS2":
        rows = irs2_layout("NRS1").science_rows_raw
        raw = np.full((*sci.shape[:2], IRS2_ROWS, sci.shape[2]), BIAS, np.float32)
        raw[:, :, rows] = sci.swapaxes(2, 3)
    scene, divisor = PATTERNS[pattern]
    exposure, _ = as_exposure(scene, raw)
    exposure = exposure.assign_attrs(READPATT=pattern, FRMDIVSR=divisor)
    levels = {"saturation": THRESHOLD, "superbias": BIAS}
    given = [make_reference(kind, exposure, sci=level) for kind, level in levels.items()]
    flags = nsxr.flag_saturation(exposure, *given, n_pix_grow_sat=0, **parameters)["groupdq"].values
    return flags[:, :, rows].swapaxes(2, 3) if pattern == "NRSIRS2" else flags


def of_reset(rows: int, generator: np.random.Generator) -> None:
    """Print the table of the reset level."""
    write_head(
        "good groups",
        "electron/s",
        "fit",
        "reset level",
        "deviation",
        "bias",
        "over bound",
        "gain",
        "hit in group 1",
    )
    for good in GOOD_GROUPS:
        for flux in FLUXES:
            scene = Scene(1, good + 1, 5, 72.944)
            shape = (rows, 2048)
            total = np.zeros(shape)
            is_hit = np.arange(rows) % 2 == 1  # every second row
            charge = np.exp(generator.uniform(*np.log((10, 3000)), shape)) * is_hit[:, np.newaxis]
            when = generator.uniform(0, 5, shape)
            reset = generator.normal(0, RESET, shape)
            sci = np.zeros((1, good + 1, *shape), np.float32)
            for number in range(5 * (good + 1)):
                total += generator.poisson(flux * scene.group_time / 5, shape)
                hit = charge * (when <= number + 1)
                sci[0, number // 5] += (total + hit + reset + generator.normal(0, NOISE, shape)) / 5
            exposure, references = as_exposure(scene, sci)
            exposure["groupdq"][:, good:] = np.uint8(GroupFlag.SATURATED)
            scatter = {}
            for method, level in (("least squares", None), ("likelihood", None), ("likelihood", RESET)):
                given = references["readnoise"], references["gain"]
                name = METHODS[f"nsxr {method}"][1]
                parameters = {"algorithm": name, "suppress_one_group": False, "reset_noise": level}
                rates = nsxr.fit_ramps(exposure, *given, **parameters)["rate"]
                error = rates["sci"].values.astype(float) - flux
                pull = error / np.sqrt(rates["var_poisson"] + rates["var_rnoise"]).values
                scatter[level] = error[~is_hit].std()
                write_row(
                    good,
                    f"{flux:g}",
                    method,
                    "unknown" if level is None else f"{level:g} electrons",
                    f"{pull[~is_hit].std():.3f}",
                    f"{error[~is_hit].mean() / scatter[level]:+.3f}",
                    "" if good == 1 and level is None else f"{scatter[level] / bound(scene, good, flux, level):.3f}",
                    f"{scatter[None] / scatter[level]:.2f}" if level is not None and good > 1 else "",
                    f"{pull[is_hit].mean():+.2f}",
                )


def bound(scene: Scene, good: int, flux: float, reset: float | None) -> float:
    """Return the Cramér-Rao bound of a rate [electron/s], from the covariance of the groups themselves."""
    times = np.arange(1, good * scene.frames + 1) * scene.group_time / scene.frames
    means = np.kron(np.eye(good), np.full(scene.frames, 1 / scene.frames))
    matrix = means @ (flux * np.minimum.outer(times, times) + NOISE**2 * np.eye(times.size)) @ means.T
    if reset is None:  # only the differences are measurements
        steps = np.diff(np.eye(good), axis=0)
        means, matrix = steps @ means, steps @ matrix @ steps.T
    else:
        matrix += reset**2
    return float((means @ times @ np.linalg.inv(matrix) @ means @ times) ** -0.5)


TABLES: dict[str, Callable[[int, np.random.Generator], None]] = {"partial": of_partial, "reset": of_reset}


def main() -> None:
    """Print the tables, row by row."""
    parser = make_parser(__doc__)
    add_choices(parser, "tables", list(TABLES))
    parser.add_argument("--rows", type=int, default=24, help="rows of 2048 pixels")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.tables:
        TABLES[name](arguments.rows, np.random.default_rng(arguments.seed))


if __name__ == "__main__":
    main()
