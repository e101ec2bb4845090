"""Measure how well the picture frame is subtracted, and that darks without the pattern do not change.

    python ci/picture_frame.py [--seeds 1000] [TABLE...]

``pattern``: full-frame NRSRAPID darks of 8 groups with all kinds of correlated noise, some columns at both ends, and a
pattern of 0.2, 0.5 and 2 electrons. Methods: no correction; medians of centre and edges; the fit with the true
template; and the fit with a template built from 24 other darks of the same kind. The table shows the rms over groups of
the strength of the pattern that is left, over the rms of the injected strength, both relative to the mean over the
integration. ``refpix`` says whether reference pixels were subtracted before. This subtracts part of the pattern and
leaves another pattern. So the true template is then made by the same steps from a dark with the pattern and without
noise.

``stack``: rms of blocks of 64 x 64 pixels of mean rates of 1 to 64 darks with white noise and the pattern, over the rms
for one dark; and the logarithmic slope against the number of darks, -0.5 if only white noise is left.

``harm``: for darks without pattern, how often a fit changes anything, and how often the rms of blocks rises by more
than its sampling error.
"""

from typing import Any

import numpy as np
import xarray as xr
from common import add_choices, make_parser

import nsxr
from nsxr.diagnostics.picture_frame import build_picture_frame
from nsxr.model.dq import PixelFlag
from nsxr.ramps.picture_frame import estimate_picture_frame, subtract_picture_frame
from nsxr.simulate import Artifacts, small_exposure
from nsxr.simulate.artifacts import QUIET

COLUMNS, GROUPS = 256, 8
BLOCK = 64
NOISE: dict[str, Any] = {"cosmic_rays": 0, "snowballs": 0}


def dark(seed: int, strength: float, refpix: bool, quiet: bool = False) -> xr.Dataset:
    """Return a dark after stage 1 up to the jump step, with all simulated columns."""
    artifacts = replace_quiet(strength) if quiet else Artifacts(picture_frame=strength, **NOISE)
    made = small_exposure(
        readout="NRSRAPID", groups=GROUPS, columns=COLUMNS, scene="dark", seed=seed, artifacts=artifacts, rounded=False
    )
    skip = ["jump", "clean_flicker_noise", *([] if refpix else ["refpix"])]
    return nsxr.correct_ramps(made.exposure, made.references, skip=skip)["persistence"]


def replace_quiet(strength: float) -> Artifacts:
    """Return amplitudes with the pattern alone."""
    return Artifacts(**{**vars(QUIET), "picture_frame": strength})


def true_template(refpix: bool) -> xr.Dataset:
    """Return the pattern after the steps before the correction."""
    ramps = dark(999, 50.0, refpix, quiet=True)
    values = (ramps["sci"] - ramps["sci"].mean("group"))[0].values.astype(np.float64)
    values[~np.isfinite(values)] = 0
    flat = values.reshape(GROUPS, -1)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    pattern = (vectors[:, -1] @ flat).reshape(values.shape[1:])
    pattern /= np.sqrt(np.mean(pattern**2))
    return xr.Dataset(
        {"sci": (("row", "column"), pattern.astype(np.float32))},
        coords={name: ramps[name] for name in ("row", "column")},
        attrs={"reference_type": "pictureframe", "detector": "NRS1", "filename": "truth"},
    )


def injected(seed: int, strength: float, refpix: bool, pattern: np.ndarray) -> np.ndarray:
    """Return the strength of the pattern in each group: frames with the pattern less frames without, same seed."""
    with_it, without = (dark(seed, value, refpix)["sci"][0].values for value in (strength, 0.0))
    return project(with_it - without, pattern)


def project(groups: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Return strengths of the pattern in noise-free groups, relative to their mean."""
    good = np.isfinite(groups).all(0)
    strength = np.array([(group[good] * pattern[good]).sum() for group in groups]) / (pattern[good] ** 2).sum()
    return np.asarray(strength - strength.mean())


def pattern_table(seeds: int) -> None:
    """Print the table ``pattern``: how much of the pattern is left."""
    print("refpix  strength  none  median  fit, true template  fit, built template   correlation of built and true")
    for refpix in (False, True):
        truth = true_template(refpix)
        true = demean(truth["sci"].values.astype(np.float64))
        for strength in (0.2, 0.5, 2.0):
            built = build_picture_frame([dark(5000 + seed, strength, refpix) for seed in range(24)])
            left: dict[str, list[float]] = {"none": [], "median": [], "true": [], "built": []}
            norm = 0.0
            for seed in range(7000, 7000 + seeds):
                ramps = dark(seed, strength, refpix)
                before = injected(seed, strength, refpix, true)
                norm += (before**2).sum()
                left["none"].append((before**2).sum())
                for name, template, method in (
                    ("median", truth, "median"),
                    ("true", truth, "fit"),
                    ("built", built, "fit"),
                ):
                    corrected = subtract_picture_frame(ramps, template, method=method)
                    taken = project((ramps["sci"] - corrected["sci"])[0].values, true)
                    left[name].append(((before - taken) ** 2).sum())
            row = "  ".join(f"{np.sqrt(sum(values) / norm):6.3f}" for values in left.values())
            good = slice(8, -8)
            match = np.corrcoef(demean(built["sci"].values)[good].ravel(), true[good].ravel())[0, 1]
            print(f"{refpix!s:6}  {strength:8}  {row}  {match:6.3f}", flush=True)


def demean(image: np.ndarray) -> np.ndarray:
    """Return an image less the mean of each amplifier."""
    bands = image.reshape(4, -1, image.shape[-1])
    return np.asarray((bands - bands.mean((1, 2), keepdims=True)).reshape(image.shape))


def synthetic(random: np.random.Generator, base: xr.Dataset, pattern: np.ndarray, strength: float) -> xr.Dataset:
    """Return ramps of white noise, levels of amplifiers and lines, and the pattern."""
    shape = base["sci"].shape
    sci = 5.2 * random.standard_normal(shape, np.float32)
    sci += np.float32(strength) * random.standard_normal((*shape[:2], 1, 1), np.float32) * pattern
    sci += np.repeat(random.standard_normal((*shape[:2], 4), np.float32), 512, axis=2)[..., None]
    sci += random.standard_normal((*shape[:2], 1, shape[3]), np.float32) * np.float32(0.5)
    return base.assign(sci=base["sci"].copy(data=sci))


def base_of(columns: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Return ramps whose only flags are those of reference pixels, and the template."""
    made = small_exposure(readout="NRSRAPID", groups=GROUPS, columns=columns, scene="dark")
    mask = made.references["mask"]["dq"].values & np.uint32(PixelFlag.REFERENCE_PIXEL.value)
    sci = made.exposure["sci"]
    ramps = made.exposure.assign(pixeldq=(("row", "column"), mask), groupdq=(sci.dims, np.zeros(sci.shape, np.uint8)))
    return ramps, made.references["pictureframe"]


def blocks_of(ramps: xr.Dataset) -> np.ndarray:
    """Return block means of rates, with the levels of amplifiers and of columns subtracted."""
    time = np.arange(GROUPS) - (GROUPS - 1) / 2
    rate = np.tensordot(time / (time**2).sum(), ramps["sci"].values[0].astype(np.float64), 1)
    bands = rate.reshape(4, 512, -1)
    rate = (bands - bands.mean(1, keepdims=True)).reshape(rate.shape)
    width = min(BLOCK, rate.shape[1] // 2)
    return np.asarray(rate.reshape(2048 // BLOCK, BLOCK, -1, width).mean((1, 3)))


def stack_table(strength: float = 0.2) -> None:
    """Print the table ``stack``: how the noise of mean rates falls with the number of darks."""
    base, template = base_of(64)
    random = np.random.default_rng(20260)
    pattern = template["sci"].values
    images: dict[str, list[np.ndarray]] = {"none": [], "fit": []}
    for _ in range(64 * 4):
        ramps = synthetic(random, base, pattern, strength)
        images["none"].append(blocks_of(ramps))
        images["fit"].append(blocks_of(subtract_picture_frame(ramps, template)))
    numbers = np.array([1, 2, 4, 8, 16, 32, 64])
    print("number of darks   " + "  ".join(f"{n:6}" for n in numbers) + "   slope")
    for name, found in images.items():
        stack = np.array(found)
        rms = np.array([np.sqrt(np.mean(stack.reshape(-1, n, *stack.shape[1:]).mean(1) ** 2)) for n in numbers])
        slope = np.polyfit(np.log(numbers), np.log(rms), 1)[0]
        print(f"{name:16}  " + "  ".join(f"{value:6.3f}" for value in rms / rms[0]) + f"  {slope:6.3f}")


def harm_table(seeds: int) -> None:
    """Print the table ``harm``: how often darks without pattern change."""
    base, template = base_of(32)
    random = np.random.default_rng(777)
    everywhere = xr.DataArray(np.ones(base["sci"].shape[2:], bool), dims=("row", "column"))
    pattern = template["sci"].values
    touched, worse = 0, 0
    for _ in range(seeds):
        ramps = synthetic(random, base, pattern, 0.0)
        found = estimate_picture_frame(ramps, template, everywhere)["amplitude"]
        if not found.values.any():
            continue
        touched += 1
        before = blocks_of(ramps)
        after = blocks_of(ramps.assign(sci=ramps["sci"] - (found * template["sci"]).astype(np.float32)))
        powers = [np.mean(image**2) for image in (before, after)]
        worse += powers[1] > powers[0] * (1 + np.sqrt(2 / before.size))
    print(f"darks without pattern: {seeds}; changed {touched}; worse by more than 1 sigma {worse}")


def main() -> None:
    """Print the tables asked for."""
    parser = make_parser(__doc__)
    add_choices(parser, "tables", ["pattern", "stack", "harm"])
    parser.add_argument("--seeds", type=int, default=1000, help="darks without pattern")
    parser.add_argument("--darks", type=int, default=8, help="darks of each row of the table of patterns")
    options = parser.parse_args()
    if "pattern" in options.tables:
        pattern_table(options.darks)
    if "stack" in options.tables:
        stack_table()
    if "harm" in options.tables:
        harm_table(options.seeds)


if __name__ == "__main__":
    main()
