"""Clean correlated noise of known truth by the methods of other programs; print one table.

    python ci/rivals.py [--peer FOLDER | --no-peer] [--snowblind FOLDER] [--seed 2031] [--groups 4] [--short] [ROW...]

The exposures, their truth, and the measurement are those of ``ci/flicker.py``. Each scene is simulated with once, half
and three times the correlated noise. *left*, *column* and *odd-even* are measured in differences of groups, as
described there. *left, ramp*, *column, ramp* and *bias* are measured in the sum of all differences, the last group less
the first. Methods that clean rates have only these.

Methods, all with the true mask, except ``nsxr``, which finds its own:

- ``none``: reference pixels as in stage 1, and nothing else;
- ``median``, ``channel``, ``fft``, ``median image``, ``fft image``: jwst, as in ``ci/flicker.py``;
- ``nsclean``: NSClean (Rauscher 2024, PASP 136, 015001), which is the code behind ``fft``, applied to rates as by its
  author;
- ``sirs``: jwst's filter of side reference pixels in place of the running median (Rauscher et al. 2022), with kernels
  from a dark with this noise and another seed; ``sirs nsxr``: the same idea in nsxr, with kernels from the exposure;
- ``snowblind``: the Wiener filter of the readout stream of snowblind 1.0.1, for full frames. Its clock is that of
  traditional frames; in IRS2 frames its stream leaves out the interleaved reference pixels;
- ``column 0``, ``column 1``: the background of columns of Eureka (Bell et al. 2022, JOSS 7, 4503), written anew: in
  each column, a constant or a straight line through the pixels away from the trace, with outliers left out;
  ``column 0 rate``: the same for rates;
- ``nsxr``; ``oracle``, the conditional mean under the true mask and the spectrum of all pixels.
"""

import json
import subprocess
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import CI, add_choices, add_peer, call_peer, make_parser, peer_python, write_head, write_row
from flicker import FAINT, Exposure, Row, measure, nsxr_noise, oracle, peer_noise, simulate

from nsxr.ramps.reference_pixels.side_columns import estimate_side_kernels, read_sides

SCENES = {
    "ifu": Row(),
    "mos": Row(scene="MOS"),
    "fs": Row(scene="FS"),
    "dark": Row(scene="dark"),
    "ifu irs2": Row(readout="NRSIRS2RAPID"),
    "mos irs2": Row(readout="NRSIRS2RAPID", scene="MOS"),
    "allslits": Row(subarray="ALLSLITS", scene="FS"),
    "bots 2048": Row(subarray="SUB2048", scene="BOTS", integrations=40, artifacts=FAINT),
    "bots 512": Row(subarray="SUB512", scene="BOTS", integrations=80, artifacts=FAINT),
}
ROWS = {f"{name} x{scale:g}": replace(row, scale=scale) for scale in (1, 0.5, 3) for name, row in SCENES.items()}
SHORT = ("allslits x1", "bots 512 x1")

SNOWBLIND = "snowblind==1.0.1"
HALF_WIDTH = 8
"""Rows from the centre of a trace to the first pixels of the background, in time series."""

INSIDE = ("nsxr", "oracle", "median image", "fft image")
"""Methods that use the pixels that are measured, in time series and darks, so that *left* says nothing."""

Found = tuple[np.ndarray, float]
"""Noise of differences of groups, and seconds for a difference."""


def install_snowblind(python: Path, folder: Path) -> Path:
    """Install snowblind, without what it needs, into a folder beside jwst's environment; return the folder."""
    if not (folder / "snowblind").is_dir():
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), SNOWBLIND]
        subprocess.run(command, check=True)
    return folder.resolve()


def whole_ramp(exposure: Exposure) -> Exposure:
    """Return the exposure with its first and last group only."""
    steps = exposure.ramps.sizes["group"] - 1
    return replace(exposure, ramps=exposure.ramps.isel(group=[0, -1]), light=exposure.light * steps)


@cache
def side_kernels(scale: float, seed: int) -> np.ndarray:
    """Return the kernels from side reference pixels to amplifiers, (output, side, tap), from a dark of 12 groups."""
    dark = simulate(Row(scene="dark", scale=scale), seed, 12, use_side_ref_pixels=False).ramps
    sides = read_sides(dark["sci"], dark["pixeldq"], "NRS1")
    bands = [dark["sci"].isel(row=slice(first, first + 512)) for first in range(0, 2048, 512)]
    return np.asarray(estimate_side_kernels(bands, sides, dark["pixeldq"]).values)


def others(
    python: Path, exposure: Exposure, is_dark: np.ndarray, snowblind: Path, row: Row, seed: int
) -> dict[str, Found]:
    """Return the noise that snowblind subtracts from full frames, and that SIRS does in place of the running median."""
    ramps = exposure.ramps["sci"].values
    groups = ramps.shape[1]
    with TemporaryDirectory(prefix="rivals-") as name:
        folder = Path(name)
        np.save(folder / "ramps.npy", ramps)
        np.save(folder / "dark.npy", is_dark & ((exposure.ramps["pixeldq"].values & 1) == 0))
        if row.readout == "NRSRAPID":
            levels = simulate(row, seed, groups, use_side_ref_pixels=False).ramps["sci"].values
            np.save(folder / "levels.npy", levels)
            np.save(folder / "kernels.npy", side_kernels(row.scale, seed + 1000))
        (folder / "about.json").write_text(json.dumps({"snowblind": str(snowblind)}), "utf-8")
        call_peer(python, "run_rivals.py", folder)
        seconds = json.loads((folder / "seconds.json").read_text("utf-8"))
        found = {name: (np.diff(ramps - np.load(folder / f"{name}.npy"), axis=1), seconds[name]) for name in seconds}
    if row.readout == "NRSRAPID":
        made = simulate(row, seed, groups, refpix_algorithm="sirs").ramps["sci"].values
        found["sirs nsxr"] = np.diff(ramps - made, axis=1), np.nan
    return found


def column_background(frames: np.ndarray, used: np.ndarray, degree: int, limit: float = 5.0) -> np.ndarray:
    """Return a polynomial through the pixels that are used in each column; outliers are left out, three times.

    ``frames`` (frame, row, column), ``used`` (row, column) bool. Columns without pixels get 0.
    """
    place = np.linspace(-1, 1, frames.shape[-2])[:, None]
    out = np.empty_like(frames)
    for noise, frame in zip(out, frames, strict=True):
        known = used & np.isfinite(frame)
        values = np.where(known, frame, 0).astype(np.float64)
        for _ in range(3):
            count = np.maximum(known.sum(0), 1)
            middle, mean = (known * place).sum(0) / count, (known * values).sum(0) / count
            fit = np.broadcast_to(mean, frame.shape)
            if degree:
                away = place - middle
                slope = (known * away * values).sum(0) / np.maximum((known * away**2).sum(0), 1e-9)
                fit = mean + slope * away
            scatter = np.sqrt((known * (values - fit) ** 2).sum(0) / count)
            known &= np.abs(values - fit) <= limit * scatter
        noise[:] = fit
    return out


def of_columns(exposure: Exposure, is_dark: np.ndarray, degree: int) -> Found:
    """Return the background of columns of all differences."""
    frames = np.diff(exposure.ramps["sci"].values, axis=1)
    used = is_dark & ((exposure.ramps["pixeldq"].values & 1) == 0)
    if frames.shape[0] >= 10:
        light = exposure.light.mean((0, 1))
        rows = np.arange(light.shape[0])[:, None]
        centre = (rows * light).sum(0) / np.maximum(light.sum(0), 1e-9)
        used = (np.abs(rows - centre) > HALF_WIDTH) & ((exposure.ramps["pixeldq"].values & 1) == 0)
    start = time.process_time()
    flat = frames.reshape(-1, *is_dark.shape)
    noise = column_background(flat, used, degree).reshape(frames.shape)
    return noise, (time.process_time() - start) / len(flat)


def methods(
    python: Path | None, snowblind: Path, exposure: Exposure, row: Row, seed: int
) -> tuple[dict[str, Found], dict[str, Found]]:
    """Return the noise by all methods that clean differences of groups, and by those that clean rates."""
    light = exposure.light[0, 0]
    is_dark = light < 0.01
    found: dict[str, Found] = {"none": (np.zeros_like(exposure.residual), np.nan)}
    rates: dict[str, Found] = {}
    whole = whole_ramp(exposure)
    if python is not None:
        for with_image in (False, True) if row.integrations >= 10 else (False,):
            found |= peer_noise(python, exposure, is_dark, with_image)
        rates["nsclean"] = peer_noise(python, whole, is_dark, False, ["fft"])["fft"]
        if row.subarray == "FULL":
            found |= others(python, exposure, is_dark, snowblind, row, seed)
    for degree in (0, 1):
        found[f"column {degree}"] = of_columns(exposure, is_dark, degree)
    rates["column 0 rate"] = of_columns(whole, is_dark, 0)
    found["nsxr"] = nsxr_noise(exposure, None)
    found["oracle"] = oracle(exposure, is_dark), np.nan
    return found, rates


def write_table(python: Path | None, snowblind: Path, names: list[str], seed: int, groups: int) -> None:
    """Print the rows of the table."""
    write_head("exposure", "method", "left", "column", "left, ramp", "column, ramp", "bias", "odd-even", "seconds")
    for name in names:
        row = ROWS[name]
        exposure = simulate(row, seed, groups)
        white = 2 * (5.2 / exposure.gain) ** 2
        whole = whole_ramp(exposure)
        found, rates = methods(python, snowblind, exposure, row, seed)
        for method, (noise, seconds) in (found | rates).items():
            of_ramp = measure(whole, noise.sum(1, keepdims=True), white)
            of_group = measure(exposure, noise, white) if method in found else {}
            cells = [f"{of_group[key]:.3f}" if of_group else "" for key in ("left", "column", "steps")]
            left = f"{of_ramp['left']:.3f}"
            if (row.integrations >= 10 or row.scene == "dark") and method in INSIDE:
                cells[0] = left = ""
            bias = "" if row.scene == "dark" else f"{of_ramp['bias']:+.2f} %"
            cost = "" if np.isnan(seconds) else f"{seconds:.2f}"
            write_row(name, method, *cells[:2], left, f"{of_ramp['column']:.2f}", bias, cells[2], cost)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "rows", list(ROWS))
    add_peer(parser, is_optional=True)
    parser.add_argument("--snowblind", type=Path, default=CI.parent / ".ci/build/snowblind", metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=2031)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--short", action="store_true", help=f"only {' and '.join(SHORT)}")
    arguments = parser.parse_args()
    python = None if arguments.no_peer else peer_python(arguments.peer)
    snowblind = arguments.snowblind if python is None else install_snowblind(python, arguments.snowblind)
    names = [name for name in arguments.rows if name in SHORT or not arguments.short]
    write_table(python, snowblind, names, arguments.seed, arguments.groups)


if __name__ == "__main__":
    main()
