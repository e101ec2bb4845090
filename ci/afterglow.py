"""Measure persistence after saturation in the next integration and exposure, with and without flags; print a table.

    python ci/afterglow.py [--seed 1]

Ramps have 20 groups of 14.6 s, 0.05 electron/s and 6 electrons of noise a frame. The first of two exposures has two
integrations, and pixels saturate in the first one. The second exposure follows 120 s later. From the reset on, a pixel
releases charge. The rate starts at the number in the first column [electron/s], with 30 % scatter from pixel to pixel,
and falls with an e-folding time of 200 s. Methods: ``off``, which is the default of nsxr and of jwst; and 600 s and
1200 s during which groups are not used. For each integration: the mean of (rate - truth) / uncertainty of the pixels
that have a rate, and how many pixels have none.
"""

import numpy as np
import xarray as xr
from common import make_parser, write_head, write_row
from ramps import NOISE, Scene, as_exposure

import nsxr
from nsxr.model.dq import GroupFlag
from nsxr.ramps.persistence import last_saturation
from nsxr.testing import make_times

FLUX, FALL, GAP, START = 0.05, 200.0, 120.0, 61000.0
SCENE = Scene(2, 20, 1, 14.6)
SATURATED = np.uint8(GroupFlag.SATURATED.value)
SHAPE = 64, 256
METHODS = {"off": 0.0, "600 s": 600.0, "1200 s": 1200.0}


def simulate(amplitude: float, generator: np.random.Generator) -> tuple[list[xr.Dataset], dict[str, xr.Dataset]]:
    """Return two exposures, the first of which saturates in its first integration, and references."""
    length = SCENE.groups * SCENE.group_time
    own = amplitude * np.clip(generator.normal(1, 0.3, SHAPE), 0, None)
    exposures, references = [], {}
    for number, shift in enumerate((0.0, 2 * length + GAP)):
        sci = np.empty((2, SCENE.groups, *SHAPE), np.float32)
        for integration in range(2):
            total = np.zeros(SHAPE)
            for group in range(SCENE.groups):
                end = shift + (integration * SCENE.groups + group + 1) * SCENE.group_time - length  # since the reset
                glow = own * FALL * (np.exp(-(end - SCENE.group_time) / FALL) - np.exp(-end / FALL))
                total += generator.poisson(FLUX * SCENE.group_time + (glow if end > 0 else 0 * glow))
                sci[integration, group] = total + generator.normal(0, NOISE, SHAPE)
        exposure, references = as_exposure(SCENE, sci)
        groupdq = np.zeros(sci.shape, np.uint8)
        if number == 0:
            groupdq[0, 5:] = SATURATED
        exposure = exposure.assign_coords(make_times(START + shift / 86400, 2, length))
        exposures.append(exposure.assign(groupdq=exposure["groupdq"].copy(data=groupdq)))
    return exposures, references


def main() -> None:
    """Print the table, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1)
    generator = np.random.default_rng(parser.parse_args().seed)
    write_head("electron/s", "method", "next integration", "next exposure", "and its second integration")
    for amplitude in (0.01, 0.1, 1.0):
        exposures, references = simulate(amplitude, generator)
        for method, window in METHODS.items():
            cells = []
            for exposure, before in zip(exposures, (None, last_saturation(exposures[0])), strict=True):
                given = references["readnoise"], references["gain"]
                flagged = nsxr.flag_jumps(exposure, *given)
                flagged = nsxr.flag_persistence(flagged, before, persistence_time=window, persistence_dnu=True)
                rates = nsxr.fit_ramps(flagged, *given)["rateints"].to_dataset()
                pull = (rates["sci"].astype(float) - FLUX) / np.sqrt(rates["var_poisson"] + rates["var_rnoise"])
                cells += [(float(plane.mean()), float(plane.isnull().mean())) for plane in pull]
            words = [f"{mean:+.2f}, {100 * lost:.0f} %" if lost < 1 else "no rates" for mean, lost in cells[1:]]
            write_row(f"{amplitude:g}", method, *words)


if __name__ == "__main__":
    main()
