"""Correlated noise of known truth, cleaned in several ways; print one table.

    python ci/flicker.py [--seed 1] [--groups 7] [ROW...]

Every row is an exposure: simulated with the published amplitudes of the noise (``Artifacts``), its reference pixels
used as stage 1 does, everything else left away that is no noise. What is measured is what cleaning leaves in the
differences of groups, less the light that was put in:

- *left*: correlated noise in lit pixels, rms, relative to what was there before cleaning;
- *column*: rms of the mean over the rows of a trace, column by column, in electrons of a group;
- *bias*: mean of lit pixels less that of dark ones and less the light, relative to the light, in percent;
- *steps*: rms of the difference of odd and even rows in an output and group (alternating columns), before and after;
- *pull*: rms of the residual over the deviation that is claimed, in lit pixels, and in dark ones;
- *seconds* of processor time for a frame, everything that belongs to the method included.

Methods: ``none``; ``median``, ``channel`` and ``fft`` in the manner of the observatory's pipeline, with its mask;
``nsxr``; ``oracle``: the conditional mean for the mask of what was really dark, with the spectrum found in the noise of
all pixels, without gaps and without light, and solved to the end.
"""

import argparse
import time
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

import nsxr
from nsxr.corrections.flicker_frames import frames_of
from nsxr.kernels.flicker import Solver, series_length, to_image, to_series
from nsxr.kernels.noise_spectrum import binned_power, fit_densities
from nsxr.model.readout import Readout
from nsxr.simulate import QUIET, Artifacts, small_exposure

METHODS = ("none", "nsxr", "oracle")
NOISE = ("white_noise", "pedestal", "common_pink", "output_pink", "alternating_columns", "picture_frame", "reset_noise")


@dataclass(frozen=True)
class Row:
    """An exposure, and what is special about it."""

    readout: str = "NRSRAPID"
    subarray: str = "FULL"
    scene: str = "IFU"
    scale: float = 1.0
    integrations: int = 1
    groups: int | None = None
    artifacts: dict[str, float] = field(default_factory=dict)
    swing: float = 0.0
    wrong: float = 0.0


ROWS = {
    "ifu": Row(),
    "ifu weak": Row(scale=0.5),
    "ifu strong": Row(scale=3.0),
    "mos": Row(scene="MOS"),
    "mos weak": Row(scene="MOS", scale=0.5),
    "mos strong": Row(scene="MOS", scale=3.0),
    "fs": Row(scene="FS"),
    "dark": Row(scene="dark"),
    "ifu irs2": Row(readout="NRSIRS2RAPID"),
    "mos irs2": Row(readout="NRSIRS2RAPID", scene="MOS"),
    "columns": Row(scene="MOS", artifacts={"alternating_columns": 1.5}),
    "frame": Row(scene="MOS", artifacts={"picture_frame": 1.0}),
    "swing": Row(scene="MOS", swing=0.7),
    "wrong mask": Row(scene="MOS", wrong=0.1),
    "allslits": Row(subarray="ALLSLITS", scene="FS"),
    "bots 2048": Row(subarray="SUB2048", scene="BOTS", integrations=40, groups=5),
    "bots 512": Row(subarray="SUB512", scene="BOTS", integrations=80, groups=5),
}


@dataclass(frozen=True)
class Exposure:
    """Ramps with noise and light [DN], the light of a difference of groups, and where it is."""

    ramps: xr.Dataset
    light: np.ndarray
    gain: float

    @property
    def residual(self) -> np.ndarray:
        """Differences of groups without the light, (integration, group, row, column)."""
        return np.diff(self.ramps["sci"].values, axis=1) - self.light


def simulate(row: Row, seed: int, groups: int) -> Exposure:
    """Return the exposure of a row; with a swing, noise is stronger in the second half of the groups."""
    if not row.swing:
        return _simulate(row, seed, groups)
    weak, strong = (
        _simulate(replace(row, scale=row.scale * (1 + sign * row.swing), swing=0), seed, groups) for sign in (-1, 1)
    )
    late = np.arange(groups) >= groups / 2
    sci = np.where(late[:, None, None], strong.ramps["sci"].values, weak.ramps["sci"].values)
    array = weak.ramps["sci"]
    return replace(weak, ramps=weak.ramps.assign(sci=(array.dims, sci, array.attrs)))


def _simulate(row: Row, seed: int, groups: int) -> Exposure:
    artifacts = replace(QUIET, **{name: getattr(Artifacts(), name) for name in NOISE}, correlated_scale=row.scale)
    artifacts = replace(artifacts, bias_structure=0, nonlinearity=0, pixel_scatter=0, dark_current=0)
    artifacts = replace(artifacts, **row.artifacts)
    made = small_exposure(
        readout=row.readout,
        subarray=row.subarray,
        scene=row.scene,
        groups=row.groups or groups,
        integrations=row.integrations,
        seed=seed,
        columns=None,
        artifacts=artifacts,
        rounded=False,
    )
    raw, references = made.exposure, made.references
    ramps = nsxr.correct_ramps(raw, references, skip=["linearity", "dark_current", "jump"])["refpix"]
    truth = made.truth
    gain = float(references["gain"]["sci"].mean())
    light = truth["rate"].values / gain * Readout.from_header(raw.attrs).group_time
    return Exposure(ramps, light * truth["light_curve"].values[:, None, None, None], gain)


def oracle(exposure: Exposure, is_dark: np.ndarray) -> np.ndarray:
    """Return the noise of the differences, from the spectrum that is in all pixels."""
    order = frames_of(exposure.ramps).order
    residual = exposure.residual
    length = series_length(order)
    known = (exposure.ramps["groupdq"].values == 0).all((0, 1)) & (exposure.ramps["pixeldq"].values == 0)
    everywhere = to_series(known.astype(np.float32), order, length)
    flat = np.where(known, residual, 0).reshape(-1, *is_dark.shape).astype(np.float32)
    power = np.mean([binned_power(to_series(frame, order, length)) for frame in flat], axis=0)
    densities = fit_densities(power, len(flat), everywhere)
    weight = to_series((is_dark & known).astype(np.float32), order, length)
    solver = Solver(densities, len(order.rows), (40, 30, 15), 0)
    found = [to_image(solver.noise(to_series(frame, order, length), weight), order) for frame in flat]
    return np.array(found).reshape(residual.shape)


def nsxr_noise(exposure: Exposure, mask: xr.DataArray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise of the differences, and the variance of what is left in them where nothing else is known."""
    found = nsxr.estimate_flicker_noise(exposure.ramps, mask)
    white = float(found["density"].values[2, 0])
    counts = found["weight"].values > 0
    change = np.where(counts, -found["variance"].values, found["variance"].values)
    return found["noise"].values, white + change


def noise_of(
    method: str, exposure: Exposure, is_dark: np.ndarray, mask: xr.DataArray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the noise that a method finds in the differences, and the variance that it claims."""
    if method == "none":
        return np.zeros_like(exposure.residual), None
    if method == "oracle":
        return oracle(exposure, is_dark), None
    return nsxr_noise(exposure, mask)


def measure(exposure: Exposure, noise: np.ndarray, variance: np.ndarray | None, white: float) -> dict[str, float]:
    """Return the columns of the table."""
    before, after = exposure.residual, exposure.residual - noise
    light = exposure.light[0, 0] if exposure.light.ndim == 4 else exposure.light
    border = np.asarray(exposure.ramps["pixeldq"].values) != 0
    border |= (exposure.ramps["groupdq"].values != 0).any((0, 1))
    lit = (light > 0.3 * np.sqrt(white)) & ~border
    dark = (light < 0.01) & ~border
    lit = lit if lit.any() else dark

    def correlated(residual: np.ndarray) -> float:
        return float(np.sqrt(max((residual[..., lit] ** 2).mean() - white, 0)))

    trace = light > 0.2 * light.max(axis=0) if light.any() else np.ones_like(lit)
    rows = np.where(trace & lit, 1.0, np.nan)

    def columns(residual: np.ndarray) -> float:
        with np.errstate(invalid="ignore"):
            count = np.nansum(rows, axis=0)
            means = np.nansum(residual * rows, axis=-2)[..., count > 0] / count[count > 0]
        return float(means.std() * exposure.gain / np.sqrt(2))

    amplifiers = np.asarray(exposure.ramps["amplifier"].values)

    def steps(residual: np.ndarray) -> float:
        found = []
        for amplifier in np.unique(amplifiers):
            part = np.where(lit | dark, residual, np.nan)[..., amplifiers == amplifier, :]
            found.append(np.nanmean(part[..., 0::2, :], (-1, -2)) - np.nanmean(part[..., 1::2, :], (-1, -2)))
        return float(np.sqrt(np.mean(np.square(found))))

    result = {
        "left": correlated(after) / correlated(before),
        "column": columns(after),
        "bias": 100 * float(after[..., lit].mean() - after[..., dark].mean()) / float(light[lit].mean() or np.nan),
        "steps before": steps(before),
        "steps": steps(after),
    }
    if variance is not None:
        for name, where in (("lit", lit), ("dark", dark)):
            level = np.median(after[..., dark])
            result[f"pull {name}"] = float(np.sqrt(((after[..., where] - level) ** 2).mean() / variance[where].mean()))
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", type=int, default=7)
    arguments = parser.parse_args()
    for name in arguments.rows or ROWS:
        row = ROWS[name]
        exposure = simulate(row, arguments.seed, arguments.groups)
        light = exposure.light[0, 0]
        is_dark = light < 0.01
        white = 2 * (5.2 / exposure.gain) ** 2
        mask = None
        if row.wrong:
            random = np.random.default_rng(arguments.seed)
            labels = {d: exposure.ramps[d] for d in ("row", "column")}
            mask = xr.DataArray(is_dark | (random.random(is_dark.shape) < row.wrong), labels, ("row", "column"))
        for method in METHODS:
            start = time.process_time()
            noise, variance = noise_of(method, exposure, is_dark, mask)
            seconds = (time.process_time() - start) / noise[..., 0, 0].size
            found = measure(exposure, noise, variance, white)
            line = " | ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{name} | {method} | {line} | seconds {seconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
