"""Clean correlated noise of known truth in several ways; print one table.

    python ci/flicker.py [--peer FOLDER | --no-peer] [--seed 1] [--groups 7] [ROW...]

Every row is an exposure, simulated with the published amplitudes of the noise (``Artifacts``) and without other
effects. The reference pixels are used as in stage 1. The table shows what is left in the differences of groups after
cleaning, less the simulated light:

- *left*: correlated noise in pixels with light, rms, relative to the noise before cleaning;
- *column*: rms of the mean over the rows with light, column by column, in electrons of a group;
- *bias*: mean of pixels with light, less the mean of dark pixels and less the light, relative to the light, in percent;
- *steps*: rms of the difference of odd and even rows in an amplifier and group (alternating columns), before and after;
- *seconds* of processor time for a frame, with all parts of the method.

``ci/pulls.py`` compares the scatter with the claimed errors.

Methods: ``none``; ``median``, ``channel`` (median of each amplifier) and ``fft`` of jwst, run in an environment of its
own, with the true mask; for time series also after the median image, scaled by the true light curve, was subtracted
(``median image``, ``fft image``); ``nsxr``; and ``oracle``, the conditional mean for the true mask, solved to
convergence, with the spectrum of the noise of all pixels, without gaps and without light. For time series, the oracle
uses all pixels, with the photon noise of the true light. Time series have photon noise, which is subtracted from *left*
and *column*.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr
from common import add_choices, add_peer, call_peer, make_parser, peer_python

import nsxr
from nsxr.kernels.ramps.flicker import Solver, series_length, to_image, to_series
from nsxr.kernels.ramps.noise_bands import band_count, binned_power, folded_bands
from nsxr.kernels.ramps.noise_spectrum import fit_densities
from nsxr.model.readout import Readout
from nsxr.ramps.correlated_noise.frames import frames_of
from nsxr.simulate import QUIET, Artifacts, small_exposure

NOISE = ("white_noise", "pedestal", "common_pink", "output_pink", "alternating_columns", "picture_frame", "reset_noise")

FAINT = {"full_well": 500.0, "photon_noise": True}
"""A trace of 50 electrons a group, so that read noise matters, with its photon noise."""


@dataclass(frozen=True)
class Row:
    """Options of a simulated exposure that differ from the defaults."""

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
    "bots 2048": Row(subarray="SUB2048", scene="BOTS", integrations=40, groups=5, artifacts=FAINT),
    "bots 512": Row(subarray="SUB512", scene="BOTS", integrations=80, groups=5, artifacts=FAINT),
}


@dataclass(frozen=True)
class Exposure:
    """Ramps with noise and light [DN], the light of a difference of groups, and the pixels with light."""

    ramps: xr.Dataset
    light: np.ndarray
    gain: float
    has_photons: bool = False

    @property
    def residual(self) -> np.ndarray:
        """Return differences of groups without the light, (integration, group, row, column)."""
        return np.diff(self.ramps["sci"].values, axis=1) - self.light


def simulate(row: Row, seed: int, groups: int, **refpix: Any) -> Exposure:
    """Return the exposure of a row; with ``swing``, noise is stronger in the second half of the groups.

    ``refpix`` are parameters of the correction with reference pixels.
    """
    if not row.swing:
        return _simulate(row, seed, groups, refpix)
    weak, strong = (
        _simulate(replace(row, scale=row.scale * (1 + sign * row.swing), swing=0), seed, groups, refpix)
        for sign in (-1, 1)
    )
    late = np.arange(groups) >= groups / 2
    sci = np.where(late[:, None, None], strong.ramps["sci"].values, weak.ramps["sci"].values)
    array = weak.ramps["sci"]
    return replace(weak, ramps=weak.ramps.assign(sci=(array.dims, sci, array.attrs)))


def _simulate(row: Row, seed: int, groups: int, refpix: dict[str, Any]) -> Exposure:
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
    ramps = nsxr.correct_ramps(raw, references, skip=["linearity", "dark_current", "jump"], refpix=refpix)["refpix"]
    truth = made.truth
    gain = float(references["gain"]["sci"].mean())
    light = truth["rate"].values / gain * Readout.from_header(raw.attrs).group_time
    curve = truth["light_curve"].values[:, None, None, None]
    return Exposure(ramps, light * curve, gain, artifacts.photon_noise)


def oracle(exposure: Exposure, is_dark: np.ndarray) -> np.ndarray:
    """Return the noise of the differences, estimated with the spectrum of all pixels."""
    order = frames_of(exposure.ramps).order
    residual = exposure.residual
    length = series_length(order)
    known = (exposure.ramps["groupdq"].values == 0).all((0, 1)) & (exposure.ramps["pixeldq"].values == 0)
    everywhere = to_series(known.astype(np.float32), order, length)
    flat = np.where(known, residual, 0).reshape(-1, *is_dark.shape).astype(np.float32)
    power = np.mean([binned_power(to_series(frame, order, length)) for frame in flat], axis=0)
    folded = folded_bands(everywhere, np.arange(band_count(length)))
    densities = fit_densities(power, len(flat), everywhere, folded)
    weight = to_series((is_dark & known).astype(np.float32), order, length)
    if exposure.has_photons:
        photons = exposure.light.mean((0, 1)) / exposure.gain
        weight = to_series((known / (1 + photons / (2 * 27 / exposure.gain**2))).astype(np.float32), order, length)
    solver = Solver(densities, len(order.rows), (40, 30, 15), 0)
    found = [to_image(solver.noise(to_series(frame, order, length), weight), order) for frame in flat]
    return np.array(found).reshape(residual.shape)


def nsxr_noise(exposure: Exposure, mask: xr.DataArray | None) -> tuple[np.ndarray, float]:
    """Return the noise of the differences, and the seconds for a frame."""
    start = time.process_time()
    noise: np.ndarray = nsxr.estimate_flicker_noise(exposure.ramps, mask)["noise"].values
    return noise, (time.process_time() - start) / noise[..., 0, 0].size


def peer_noise(
    python: Path,
    exposure: Exposure,
    is_dark: np.ndarray,
    with_image: bool,
    methods: Sequence[str] = ("median", "channel", "fft"),
) -> dict[str, tuple[np.ndarray, float]]:
    """Return the noise of the differences by each method of jwst, and the seconds for a frame."""
    frames = np.diff(exposure.ramps["sci"].values, axis=1)
    known = (exposure.ramps["pixeldq"].values & 1) == 0
    dark, light = is_dark & known, 0.0
    if with_image:
        factor = exposure.light.mean((1, 2, 3), keepdims=True) / exposure.light.mean()
        light, dark = np.median(frames / factor, axis=0) * factor, known
    values = (frames - light).reshape(-1, *is_dark.shape).astype(np.float32)
    header = exposure.ramps.attrs
    about = {"detector": header["DETECTOR"], "subarray": header["SUBARRAY"], "methods": list(methods)}
    with TemporaryDirectory(prefix="flicker-") as folder:
        for name, array in (("frames", values), ("mean", values.mean(0)), ("dark", dark)):
            np.save(Path(folder, f"{name}.npy"), array)
        about["background"] = "none" if with_image else "median"
        Path(folder, "about.json").write_text(json.dumps(about), "utf-8")
        call_peer(python, "run_flicker.py", folder)
        seconds = json.loads(Path(folder, "seconds.json").read_text("utf-8"))
        noises = {name: np.load(Path(folder, f"{name}.npy")).reshape(frames.shape) for name in seconds}
    return {f"{name} image" if with_image else name: (noises[name], seconds[name]) for name in seconds}


def measure(exposure: Exposure, noise: np.ndarray, white: float) -> dict[str, float]:
    """Return the columns of the table."""
    before, after = exposure.residual, exposure.residual - noise
    light = exposure.light[0, 0] if exposure.light.ndim == 4 else exposure.light
    border = np.asarray(exposure.ramps["pixeldq"].values) != 0
    border |= (exposure.ramps["groupdq"].values != 0).any((0, 1))
    lit = (light > 0.3 * np.sqrt(white)) & ~border
    dark = (light < 0.01) & ~border
    lit = lit if lit.any() else dark

    photons = light / exposure.gain * exposure.has_photons

    def correlated(residual: np.ndarray) -> float:
        return float(np.sqrt(max((residual[..., lit] ** 2).mean() - white - photons[lit].mean(), 0)))

    trace = light > np.maximum(0.005 * light.max(axis=0), 0.01) if light.any() else np.ones_like(lit)
    rows = np.where(trace & ~border, 1.0, np.nan)

    def columns(residual: np.ndarray) -> float:
        with np.errstate(invalid="ignore"):
            count = np.nansum(rows, axis=0)
            means = np.nansum(residual * rows, axis=-2)[..., count > 0] / count[count > 0]
            known = (np.nansum(photons * rows, axis=0)[count > 0] / count[count > 0] ** 2).mean()
        return float(np.sqrt(max(means.var() - known, 0)) * exposure.gain / np.sqrt(2))

    amplifiers = np.asarray(exposure.ramps["amplifier"].values)

    def steps(residual: np.ndarray) -> float:
        found = []
        for amplifier in np.unique(amplifiers):
            part = np.where(lit | dark, residual, np.nan)[..., amplifiers == amplifier, :]
            found.append(np.nanmean(part[..., 0::2, :], (-1, -2)) - np.nanmean(part[..., 1::2, :], (-1, -2)))
        return float(np.sqrt(np.mean(np.square(found))))

    return {
        "left": correlated(after) / correlated(before),
        "column": columns(after),
        "bias": 100 * float(after[..., lit].mean() - after[..., dark].mean()) / float(light[lit].mean() or np.nan),
        "steps before": steps(before),
        "steps": steps(after),
    }


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "rows", list(ROWS))
    add_peer(parser, is_optional=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", type=int, default=7)
    arguments = parser.parse_args()
    python = None if arguments.no_peer else peer_python(arguments.peer)
    for name in arguments.rows:
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
        zeros = np.zeros_like(exposure.residual)
        results: dict[str, tuple[np.ndarray, float]] = {"none": (zeros, 0.0)}
        images = (False, True) if row.integrations >= 10 else (False,)
        given = is_dark if mask is None else mask.values
        for with_image in images if python else ():
            results |= peer_noise(python, exposure, given, with_image)
        results["nsxr"] = nsxr_noise(exposure, mask)
        results["oracle"] = oracle(exposure, is_dark), np.nan
        for method, (noise, seconds) in results.items():
            columns = measure(exposure, noise, white)
            line = " | ".join(f"{key} {value:.4g}" for key, value in columns.items())
            print(f"{name} | {method} | {line} | seconds {seconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
