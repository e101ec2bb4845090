"""Clean correlated noise with masks from the exposure and from the optics; print one table.

    python ci/light_masks.py [--seed 1] [--groups 5] [SCENE...]

The light of simulated skies, through the optics, is added to simulated ramps with the published amplitudes of the noise
and with photon noise. Masks: *none* does not clean; *found* is what nsxr finds in the exposure; *optics* takes the
pixels on which light can fall from the optics, and finds the rest; *boxes* are the pixels that jwst 3.0.0 masks with
``mask_science_regions``, made here from the boxes of slits, from slices, and from rows 922 to 1115. Columns:

- *covered*: pixels with light of more than 0.001 electron/s that do not count as dark [percent of them];
- *dark*: pixels that count as dark [percent of all pixels];
- *left*: correlated noise in pixels where light can fall, rms, relative to the noise before cleaning;
- *column*: rms of the mean of these pixels in a column, less white and photon noise [electron of a group];
- *bias*: faint light that is subtracted as noise, relative to this light [percent]: the estimate of ramps with light
  less that of the same ramps without their light, for the same mask. Faint is less than the white noise of a group.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from common import add_choices, make_parser, write_head, write_row
from flicker import Exposure, Row, simulate
from spec_skies import Scene, Seen, look

import nsxr
from nsxr.errors import NsxrWarning
from nsxr.model.readout import Readout

SCENES = {
    "MOS PRISM, points and sky": Scene("mos", "MOS", "PRISM", kinds=("centred", "anywhere"), slitlets=12, has_sky=True),
    "MOS G395H, points and sky": Scene("mos", "MOS", "G395H", kinds=("centred", "anywhere"), slitlets=12, has_sky=True),
    "IFU PRISM, star and sky": Scene("ifu", "IFU", "PRISM", has_sky=True),
    "IFU G395H, star and sky": Scene("ifu", "IFU", "G395H", has_sky=True),
    "FS ALLSLITS, star and sky": Scene(
        "fs", "FS", "G395H", subarray="ALLSLITS", slit="S200A1", kinds=("point",), has_sky=True
    ),
}
LIT = 1e-3  # electron/s


def exposed(seen: Seen, seed: int, groups: int) -> Exposure:
    """Return ramps with noise and the light of a scene; the differences of groups have the light as attribute."""
    row = Row(scene="dark", subarray=seen.scene.subarray)
    exposure = simulate(row, seed, groups)
    ramps, rate = exposure.ramps, seen.observations[0].light.rate
    seconds = Readout.of(ramps).group_time
    electrons = np.random.default_rng(seed).poisson(np.broadcast_to(rate * seconds, (groups, *rate.shape)))
    electrons[0] = 0
    charge = electrons.cumsum(axis=0) / exposure.gain
    sci = (ramps["sci"] + charge.astype(np.float32)).assign_attrs(ramps["sci"].attrs)
    return Exposure(ramps.assign(sci=sci), rate * seconds / exposure.gain, exposure.gain, True)


def boxes(rate: xr.Dataset, seen: Seen, optics: nsxr.optics.instrument.Optics) -> np.ndarray:
    """Return the pixels that jwst masks: slices or boxes of slits, and the rows of the fixed slits."""
    lit = np.zeros(rate["sci"].shape, bool)
    if seen.scene.mode == "IFU":
        lit |= nsxr.locate_slices(rate, optics, coordinates=[])["slice"].values > 0
    else:
        for _, slit in nsxr.iterate_slits(nsxr.cut_slits(rate, optics, shutters=seen.observations[0].metafile)):
            rows, columns = (rate.indexes[dim].get_indexer(slit.indexes[dim]) for dim in ("row", "column"))
            lit[np.ix_(rows, columns)] = True
    if seen.scene.mode != "FS":
        lit |= ((rate["row"] >= 922) & (rate["row"] < 1116)).values[:, np.newaxis]
    return lit


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "scenes", list(SCENES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NsxrWarning)
    write_head("scene", "mask", "covered [%]", "dark [%]", "left", "column", "bias [%]")
    for name in arguments.scenes:
        with TemporaryDirectory(prefix="light-masks-") as folder:
            seen = look(SCENES[name], Path(folder))
            rate = seen.rates(1.0, None)[0]
            optics = nsxr.open_optics({kind: str(path) for kind, path in seen.references.items()}, rate)
            light = nsxr.locate_light(rate, optics, shutters=seen.observations[0].metafile)
            given = xr.DataArray(boxes(rate, seen, optics), light.coords, light.dims)
        exposure = exposed(seen, arguments.seed, arguments.groups)
        measure(name, exposure, seen.observations[0].light.rate, {"optics": light, "boxes": given}, light.values)


def measure(
    name: str, exposure: Exposure, rate: np.ndarray, given: dict[str, xr.DataArray], reached: np.ndarray
) -> None:
    """Print the rows of a scene."""
    residual, light, ramps = exposure.residual, exposure.light, exposure.ramps
    usable = (ramps["pixeldq"].values == 0) & (ramps["groupdq"].values == 0).all((0, 1))
    white = 2 * (5.2 / exposure.gain) ** 2
    lit, faint = usable & (rate > LIT), usable & (rate > LIT) & (light < np.sqrt(white))
    inside = usable & reached & (light < np.sqrt(white))
    steps = xr.DataArray(np.arange(ramps.sizes["group"], dtype=np.float32), dims="group")
    unlit = ramps["sci"] - steps * xr.DataArray(light.astype(np.float32), dims=("row", "column"))
    without = ramps.assign(sci=unlit.transpose(*ramps["sci"].dims).assign_attrs(ramps["sci"].attrs))
    for mask, where in ({"none": None, "found": None} | given).items():
        noise, cells, bias = np.zeros_like(residual), ["", ""], ""
        if mask != "none":
            found = nsxr.estimate_flicker_noise(ramps, light=where).compute()
            noise, is_dark = found["noise"].values, found["is_dark"].values
            cells = [f"{100 * (~is_dark)[lit].mean():.2f}", f"{100 * is_dark.mean():.1f}"]
            pair = [nsxr.estimate_flicker_noise(one, found["is_dark"])["noise"].values for one in (ramps, without)]
            bias = f"{-100 * float((pair[0] - pair[1])[..., faint].mean() / light[faint].mean()):+.2f}"
        shares = [_correlated(values, light, inside, white, exposure.gain) for values in (residual - noise, residual)]
        column = _columns(residual - noise, light, inside, white, exposure.gain)
        write_row(name, mask, *cells, f"{shares[0] / shares[1]:.3f}", f"{column:.2f}", bias)


def _correlated(values: np.ndarray, light: np.ndarray, where: np.ndarray, white: float, gain: float) -> float:
    return float(np.sqrt(max((values[..., where] ** 2).mean() - white - light[where].mean() / gain, 0)))


def _columns(values: np.ndarray, light: np.ndarray, where: np.ndarray, white: float, gain: float) -> float:
    count = where.sum(axis=0)
    seen = count > 0
    means = np.where(where, values, 0).sum(axis=-2)[..., seen] / count[seen]
    known = (white + np.where(where, light / gain, 0).sum(axis=0)[seen] / count[seen]) / count[seen]
    return float(np.sqrt(max((means**2 - known).mean(), 0)) * gain / np.sqrt(2))


if __name__ == "__main__":
    main()
