"""Compare the scatter of count rates with their claimed errors, for pixels and for sums of pixels; print one table.

    python ci/pulls.py [--seeds 1 2] [--columns 256] [ROW...]

Every row is a simulated exposure with all noise of the detector and of photons, without cosmic rays and bad pixels,
after stage 1. The truth is subtracted from its rates. The columns are the rms of the rest
over the claimed error, for single pixels and for sums over 3 x 3, 1 x 30 (along a row) and 30 x 1 pixels (along a
column, in the order of reading): with independent errors, and with the covariances of :func:`nsxr.summed_variance`. The
places are

- *dark*: all pixels see no light, and lie more than 3 pixels from all light;
- *light*: all pixels see light;
- *beside*: all pixels see no light, and one or more lie within 3 pixels of light;
- *across*: some pixels see light, others do not.
"""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from common import add_choices, make_parser, write_head, write_row
from scipy import ndimage

import nsxr
from nsxr.kernels.shared_noise import PlacesInTime, SharedNoise, shared_in_image
from nsxr.model.dq import PixelFlag
from nsxr.simulate import Artifacts, small_exposure
from nsxr.slits.summed_variance import places_of_shared_noise

BOXES = {"1 x 1": (1, 1), "3 x 3": (3, 3), "1 x 30": (1, 30), "30 x 1": (30, 1)}
PLACES = ("dark", "light", "beside", "across")
MOST = 4000
"""Sums of each kind in each place of an exposure; they are chosen at random."""
FEWEST = 200
"""Sums without common pixels that a number needs: 5 % is then its standard error."""
_BAD = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.REFERENCE_PIXEL)
LIGHT = 1e-3  # light below this counts as none [DN/s]


@dataclass(frozen=True)
class Row:
    """Options of a simulated exposure."""

    scene: str
    readout: str = "NRSRAPID"
    subarray: str = "FULL"
    integrations: int = 1
    groups: int = 8
    detector: str = "NRS1"


ROWS = {
    "dark": Row("dark"),
    "mos": Row("MOS"),
    "ifu": Row("IFU"),
    "fs": Row("FS"),
    "mos nrs2": Row("MOS", detector="NRS2"),
    "dark irs2": Row("dark", "NRSIRS2RAPID"),
    "mos irs2": Row("MOS", "NRSIRS2RAPID"),
    "ifu irs2": Row("IFU", "NRSIRS2RAPID"),
    "allslits": Row("FS", subarray="ALLSLITS"),
    "bots 512": Row("BOTS", subarray="SUB512", integrations=20, groups=5),
}


@dataclass(frozen=True)
class Exposure:
    """Rates without the true light, and what they claim."""

    residual: np.ndarray
    variance: np.ndarray
    read: np.ndarray
    light: np.ndarray
    good: np.ndarray
    used: np.ndarray
    table: np.ndarray
    places: PlacesInTime


def simulate(row: Row, seed: int, columns: int) -> Exposure:
    """Return a calibrated exposure, or one integration of a series."""
    artifacts = replace(Artifacts(), cosmic_rays=0, snowballs=0, bad_pixels=0, bad_reference_pixels=0)
    made = small_exposure(
        readout=row.readout,
        subarray=row.subarray,
        scene=row.scene,
        groups=row.groups,
        integrations=row.integrations,
        detector=row.detector,
        seed=seed,
        columns=columns,
        artifacts=artifacts,
    )
    tree = nsxr.detector1(made.exposure, made.references)
    is_series = row.integrations > 1
    product = tree["rateints"].to_dataset().isel(integration=1) if is_series else tree["rate"].to_dataset()
    rate: xr.Dataset = product.compute()
    light = made.truth["rate_dn"].values * float(made.truth["light_curve"][int(is_series)])
    good = (rate["dq"].values & _BAD) == 0
    residual = rate["sci"].values - light
    residual -= np.median(residual[good & (light < LIGHT)]) if (light < LIGHT).any() else 0
    read = rate["var_rnoise"].values.astype(np.float64)
    variance = read + rate["var_poisson"].values
    used, table = rate["noise_used"].values, rate["noise_correlation"].values
    places = places_of_shared_noise(rate)
    assert places is not None
    return Exposure(residual, variance, read, light, good, used, table, places)


def sums(
    exposure: Exposure, shape: tuple[int, int], place: str, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return the sums of boxes in a place, with their variances without and with covariances, (box, 3).

    Boxes overlap. The second result is the number of pixels in all of them, over the number of pixels of a box.
    """
    lit = exposure.light >= LIGHT
    near = ndimage.binary_dilation(lit, np.ones((7, 7))) if lit.any() else lit
    origin = tuple(-(n // 2) for n in shape)

    def every(image: np.ndarray) -> np.ndarray:
        found: np.ndarray = ndimage.minimum_filter(image.astype(np.uint8), shape, mode="constant", origin=origin) > 0
        return found

    all_lit, all_dark = every(lit), every(~lit)
    wanted = {
        "dark": every(~near),
        "light": all_lit,
        "beside": all_dark & ~every(~near),
        "across": ~all_lit & ~all_dark,
    }[place] & every(exposure.good)
    corners = np.argwhere(wanted)
    contiguous = exposure.places.line[np.minimum(corners[:, 1] + shape[1] - 1, exposure.light.shape[1] - 1)]
    corners = corners[contiguous - exposure.places.line[corners[:, 1]] == shape[1] - 1]
    covered = np.zeros(exposure.light.shape, dtype=bool)
    for y, x in np.ndindex(shape):
        covered[corners[:, 0] + y, corners[:, 1] + x] = True
    corners = corners[random.permutation(len(corners))[:MOST]]
    found = np.empty((len(corners), 3))
    ones = np.ones(shape)
    for result, (y, x) in zip(found, corners, strict=True):
        box = slice(y, y + shape[0]), slice(x, x + shape[1])
        places = exposure.places._replace(
            amplifier=exposure.places.amplifier[box[0]],
            slot=exposure.places.slot[box[0]],
            line=exposure.places.line[box[1]],
        )
        shared = SharedNoise(exposure.used[box], exposure.table, places)
        alone = exposure.variance[box].sum()
        result[:] = exposure.residual[box].sum(), alone, alone + shared_in_image(ones, exposure.read[box], shared)
    return found, covered.sum() / ones.size


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "rows", list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--columns", type=int, default=256)
    arguments = parser.parse_args()
    write_head("exposure", "place", *(f"{box}{kind}" for box in BOXES for kind in (", independent", ", shared")))
    for name in arguments.rows:
        exposures = [simulate(ROWS[name], seed, arguments.columns) for seed in arguments.seeds]
        random = np.random.default_rng(arguments.seeds[0])
        for place in PLACES:
            cells = []
            for shape in BOXES.values():
                each = [sums(one, shape, place, random) for one in exposures]
                found = np.concatenate([one for one, _ in each])
                few = sum(number for _, number in each) < FEWEST
                for variance in found.T[1:]:
                    cells.append("" if few else f"{np.sqrt(np.mean(found[:, 0] ** 2 / variance)):.3f}")
            if any(cells):
                write_row(name, place, *cells)


if __name__ == "__main__":
    main()
