"""Look for harm by the cleaning of correlated noise, on many kinds of small exposures; print one table.

    python ci/harm.py [--seeds 20] [--first 1000] [KIND...]

Every kind is an exposure, simulated with the published amplitudes of the noise (``Artifacts``) and corrected with its
reference pixels. Known light is added, with its photon noise. Each seed is cleaned with its light, and once more
without its light: the difference shows what cleaning does to the light. Everything is measured in the slope over the
groups:

- *rms*: rms of the error in pixels with light, after cleaning over before; without light, in all pixels;
- *column*: the same for the means over the lit rows of a column;
- *worse*: percent of the seeds in which one of the two got worse than uncorrected by more than 1 sigma, where sigma is
  the scatter of the uncorrected figure over the seeds;
- *light*: change of the faint light by cleaning, in percent of it, with its error; then in units of the scatter of this
  light over the seeds, after cleaning;
- *points*: the same for the points in the scene; here the scatter is that of one point;
- *shift*: mean change of the level of pixels with light by cleaning, in units of its own error; it shows a bias that
  is there without light;
- *dark*: share of pixels that count as dark.

Faint light is the light of a scene that is not one of its bright sources, as an image: its amount is fitted to the
errors by least squares.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import xarray as xr
from common import add_choices, make_parser, write_head, write_row
from scipy import ndimage

import nsxr
from nsxr.model.dims import IMAGE, RAMP
from nsxr.model.dq import GroupFlag
from nsxr.model.readout import Readout
from nsxr.simulate import QUIET, Artifacts, small_exposure
from nsxr.testing import make_noise_references

NOISE = ("white_noise", "pedestal", "common_pink", "output_pink", "alternating_columns", "picture_frame", "reset_noise")


@dataclass(frozen=True)
class Light:
    """Images of light [electron/s]: faint extended light, points, and bright sources."""

    faint: np.ndarray
    points: np.ndarray
    bright: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Return all light."""
        return self.faint + self.points + self.bright

    def scaled(self, factor: float) -> "Light":
        """Return the light times a factor."""
        return Light(self.faint * factor, self.points * factor, self.bright * factor)


Scene = Callable[[tuple[int, int], np.random.Generator], Light]


def make_light(shape: tuple[int, int], faint: object = 0, points: object = 0, bright: object = 0) -> Light:
    """Return light of these parts, which may be numbers."""
    return Light(*(np.broadcast_to(np.asarray(part, dtype=np.float64), shape) for part in (faint, points, bright)))


def nothing(shape: tuple[int, int], _: np.random.Generator) -> Light:
    """Return no light."""
    return make_light(shape)


def traces(every: int, peak: float, width: float = 1.5) -> Scene:
    """Return traces along the rows."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        first = random.integers(0, every)
        distance = np.abs((np.arange(shape[0]) - first + every / 2) % every - every / 2)
        spectrum = 1 + 0.3 * np.sin(np.arange(shape[1]) / 50)
        return make_light(shape, bright=peak * np.exp(-0.5 * (distance / width) ** 2)[:, None] * spectrum)

    return scene


def smooth(scale: float, peak: float) -> Scene:
    """Return a Gaussian of this scale [pixel] at some place, and a bright trace."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        row, column = (random.uniform(0.2 * n, 0.8 * n) for n in shape)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        blob = peak * np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / scale**2)
        return replace(traces(max(shape[0], 64), 2.0)(shape, random), faint=blob)

    return scene


def gradient(level: float) -> Scene:
    """Return light that fills the field and grows along the rows, as zodiacal light does."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        slopes = random.uniform(-0.5, 0.5, 2)
        rows, columns = (np.linspace(-0.5, 0.5, n) for n in shape)
        field = level * (1 + slopes[0] * rows[:, None] + slopes[1] * columns)
        return replace(traces(max(shape[0], 64), 2.0)(shape, random), faint=field)

    return scene


def nebula(level: float) -> Scene:
    """Return structured light that fills the field, with scales of 5 to 100 pixels."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        field = np.zeros(shape)
        for scale in (5, 20, 100):
            part = ndimage.gaussian_filter(random.standard_normal(shape), scale, mode="wrap")
            field += part / max(part.std(), 1e-9)
        return make_light(shape, faint=level * np.exp(0.4 * field))

    return scene


def slits(sky: float) -> Scene:
    """Return the sky in three wide slits, and a star in one of them."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        rows = np.arange(shape[0]) / shape[0]
        inside = ((rows > 0.1) & (rows < 0.4)) | ((rows > 0.45) & (rows < 0.6)) | ((rows > 0.65) & (rows < 0.95))
        wave = 1 + 0.3 * np.sin(np.arange(shape[1]) / 200 + random.uniform(0, 6))
        star = 3 * np.exp(-0.5 * ((np.arange(shape[0]) - 0.25 * shape[0]) / 1.5) ** 2)
        return make_light(shape, faint=sky * inside[:, None] * wave, bright=star[:, None])

    return scene


def points(peak: float, share: float = 2e-4) -> Scene:
    """Return points at random places."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        image = (random.random(shape) < share).astype(np.float64)
        image = ndimage.gaussian_filter(image, 1.0) * 2 * np.pi
        return replace(traces(max(shape[0], 64), 2.0)(shape, random), points=peak * image)

    return scene


def lines(peak: float) -> Scene:
    """Return emission lines that fill columns, and a bright trace."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        columns = np.arange(shape[1])
        places = random.uniform(0, shape[1], 6)
        spectrum = np.exp(-0.5 * ((columns - places[:, None]) / 1.2) ** 2).sum(0)
        return replace(traces(max(shape[0], 64), 2.0)(shape, random), faint=peak * np.broadcast_to(spectrum, shape))

    return scene


def lamp(level: float) -> Scene:
    """Return light in all pixels, with the differences between pixels of a flat field."""

    def scene(shape: tuple[int, int], random: np.random.Generator) -> Light:
        fringes = 1 + 0.05 * np.sin(np.arange(shape[1]) / 3) + 0.02 * random.standard_normal(shape)
        return make_light(shape, faint=level * fringes)

    return scene


@dataclass(frozen=True)
class Kind:
    """An exposure, its light, and what is wrong with it.

    ``mask`` says which mask is given: ``known`` pixels without light; ``large``: it has a part of the light; ``small``:
    it has a fifth of the dark pixels; ``light``: light of the optics; ``light large`` and ``light small``.
    """

    scene: Scene = nothing
    subarray: str = "FULL"
    columns: int | None = 128
    groups: int = 6
    integrations: int = 1
    readout: str = "NRSRAPID"
    scale: float = 1.0
    mask: str | None = None
    trouble: str | None = None


SMALL = {"subarray": "SUB2048", "columns": None}
KINDS = {
    "traces": Kind(traces(64, 4.0)),
    "strong": Kind(traces(64, 4.0), scale=3.0),
    "white": Kind(traces(64, 4.0), scale=0.0),
    "crowded": Kind(traces(8, 2.0)),
    "nebula": Kind(nebula(0.3)),
    "bright nebula": Kind(nebula(3.0)),
    "slits": Kind(slits(0.1), subarray="ALLSLITS", columns=512),
    "slits optics": Kind(slits(0.1), subarray="ALLSLITS", columns=512, mask="light"),
    "zodi": Kind(gradient(0.3), columns=512),
    "zodi faint": Kind(gradient(0.03), columns=512),
    "mask large": Kind(slits(0.1), columns=512, mask="large"),
    "mask small": Kind(traces(64, 4.0), mask="small"),
    "mask known": Kind(traces(64, 4.0), mask="known"),
    "light large": Kind(slits(0.1), mask="light large"),
    "light small": Kind(slits(0.1), mask="light small"),
    "noisy amplifier": Kind(traces(64, 4.0), trouble="noisy"),
    "dead amplifier": Kind(traces(64, 4.0), trouble="dead"),
    "NaN amplifier": Kind(traces(64, 4.0), trouble="NaN"),
    "2 groups": Kind(slits(0.1), groups=2),
    "2 groups smooth": Kind(smooth(50, 1.0), groups=2),
    "2 groups optics": Kind(slits(0.1), groups=2, mask="light"),
    "3 groups": Kind(slits(0.1), groups=3),
    "rates": Kind(slits(0.1), trouble="rates"),
    "SUB32": Kind(traces(32, 40.0), subarray="SUB32", columns=None),
    "SUB512": Kind(traces(32, 4.0), subarray="SUB512", columns=None),
    "SUB2048": Kind(traces(32, 4.0), **SMALL),
    "SUB512 2 groups": Kind(traces(32, 4.0), subarray="SUB512", columns=None, groups=2),
    "series": Kind(traces(32, 40.0), subarray="SUB512", columns=None, groups=4, integrations=12),
    "afterglow": Kind(traces(128, 4.0), trouble="afterglow"),
    "lines": Kind(lines(0.3)),
    "faint lines": Kind(lines(0.03)),
    "lamp": Kind(lamp(10.0)),
    "faint lamp": Kind(lamp(0.1)),
    "dark": Kind(),
    "dark 2 groups": Kind(groups=2),
    "irs2": Kind(traces(64, 4.0), readout="NRSIRS2RAPID"),
    "points": Kind(points(0.2)),
    "bright points": Kind(points(20.0)),
    **{
        f"smooth {scale} px {peak:g}": Kind(smooth(scale, peak), columns=128 if scale < 50 else 256)
        for scale in (5, 50, 500)
        for peak in (0.01, 0.1, 1.0)
    },
    "smooth optics": Kind(smooth(50, 0.1), columns=256, mask="light"),
    "SUB2048 smooth": Kind(smooth(100, 1.0), **SMALL),
}


@dataclass(frozen=True)
class Exposure:
    """Ramps with noise and light, the light of a group [DN], and the masks for the cleaning."""

    ramps: xr.Dataset
    light: Light
    masks: dict[str, xr.DataArray]

    @property
    def slope(self) -> np.ndarray:
        """Return the slope over the groups, or the rate of a group, (row, column)."""
        return slope_of(self.ramps)


def slope_of(ramps: xr.Dataset) -> np.ndarray:
    """Return the mean slope of ramps [DN/group], or rates, (row, column); NaN where a group cannot be used."""
    sci = ramps["sci"].values.astype(np.float64)
    if "group" not in ramps["sci"].dims:
        return sci.reshape(-1, *sci.shape[-2:]).mean(0)
    lost = (ramps["groupdq"].values != 0).any((0, 1)) | (ramps["pixeldq"].values != 0)
    n = sci.shape[1]
    weights = np.arange(n) - (n - 1) / 2
    slope = np.tensordot(sci, weights / (weights**2).sum(), axes=(1, 0)).mean(0)
    return np.where(lost, np.nan, slope)


@lru_cache(maxsize=1)
def dark_ramps(kind: Kind, seed: int) -> tuple[xr.Dataset, float, float]:
    """Return ramps without light, after the reference pixels, with the gain [electron/DN] and the time of a group."""
    artifacts = replace(QUIET, **{name: getattr(Artifacts(), name) for name in NOISE}, correlated_scale=kind.scale)
    artifacts = replace(artifacts, bias_structure=0, nonlinearity=0, pixel_scatter=0, dark_current=0)
    made = small_exposure(
        readout=kind.readout,
        subarray=kind.subarray,
        scene="dark",
        groups=kind.groups,
        integrations=kind.integrations,
        seed=seed,
        columns=kind.columns,
        artifacts=artifacts,
        rounded=False,
    )
    ramps = nsxr.correct_ramps(made.exposure, made.references, skip=["linearity", "dark_current", "jump"])["refpix"]
    gain = float(made.references["gain"]["sci"].mean())
    return ramps, gain, Readout.from_header(made.exposure.attrs).group_time


def simulate(kind: Kind, seed: int, with_light: bool = True) -> Exposure:
    """Return the exposure of a kind, with or without its light. The noise of the electronics is the same."""
    ramps, gain, time = dark_ramps(kind, seed)
    shape = ramps.sizes["row"], ramps.sizes["column"]
    light = kind.scene(shape, np.random.default_rng([seed, 1]))
    masks = masks_of(kind, light, ramps, np.random.default_rng([seed, 2]))
    electrons = light.all * time * with_light
    size = kind.integrations, kind.groups, *shape
    random = np.random.default_rng([seed, 3])
    mean = np.broadcast_to(electrons, size)
    if kind.trouble == "afterglow" and with_light:
        mean = mean + afterglow(size, time)
    charge = random.poisson(mean).cumsum(1) / gain if with_light else 0
    sci = (ramps["sci"].values + charge).astype(np.float32)
    groupdq = ramps["groupdq"].values.copy()
    if kind.trouble == "afterglow":
        groupdq[:, 3:, 60:66, 40:60] |= np.uint8(GroupFlag.SATURATED.value)
    amplifier = slice(shape[0] // 4, shape[0] // 2)
    if kind.trouble == "noisy":
        sci[..., amplifier, :] += np.random.default_rng([seed, 4]).normal(0, 100, sci[..., amplifier, :].shape)
    elif kind.trouble == "dead":
        sci[..., amplifier, :] = 1000
    elif kind.trouble == "NaN":
        sci[..., amplifier, :] = np.nan
    ramps = ramps.assign(sci=(RAMP, sci, ramps["sci"].attrs), groupdq=(RAMP, groupdq))
    if kind.trouble != "rates":
        return Exposure(ramps, light.scaled(time / gain), masks)
    readnoise, gains = make_noise_references(ramps, 1.414 * 5.2 / gain, gain)
    rates = nsxr.fit_ramps(ramps, readnoise, gains, algorithm="ols")["rate"].to_dataset()
    return Exposure(rates, light.scaled(1 / gain), masks)


def afterglow(size: tuple[int, ...], time: float) -> np.ndarray:
    """Return the persistence of stars of an earlier exposure [electron of a group], which fades over 200 s."""
    rows, columns = np.ogrid[: size[2], : size[3]]
    star = np.exp(-0.5 * (((rows - 30) % 200 - 100) ** 2 + ((columns - 20) % 60 - 30) ** 2) / 2.5**2)
    return 2 * time * star * np.exp(-np.arange(size[1]) * time / 200)[:, None, None]


def masks_of(kind: Kind, light: Light, ramps: xr.Dataset, random: np.random.Generator) -> dict[str, xr.DataArray]:
    """Return the masks that the cleaning is given."""
    if kind.mask is None:
        return {}
    lit = light.all > 0.001
    image = {
        "known": ~lit,
        "large": ~lit | (random.random(lit.shape) < 0.3),
        "small": ~lit & (random.random(lit.shape) < 0.2),
        "light": lit,
        "light large": ndimage.binary_dilation(lit, iterations=8),
        "light small": ndimage.binary_erosion(lit, np.ones((13, 1))),
    }[kind.mask]
    if kind.mask == "light" and lit.all():
        image = light.all > 0.1 * light.all.max()
    labels = {d: ramps[d] for d in IMAGE}
    return {"light" if kind.mask.startswith("light") else "mask": xr.DataArray(image, labels, IMAGE)}


def amount(image: np.ndarray, template: np.ndarray) -> float:
    """Return the amount of a template in an image."""
    known = np.isfinite(image)
    norm = float((template[known] ** 2).sum())
    return float((image[known] * template[known]).sum()) / norm if norm else np.nan


def measure(kind: Kind, seed: int) -> dict[str, float]:
    """Return the figures of a seed."""
    exposure = simulate(kind, seed)
    light = exposure.light
    cleaned = nsxr.clean_flicker_noise(exposure.ramps, **exposure.masks)
    has_light = light.all.any()
    lit = light.all > 0.02 * light.all.max() if has_light else np.ones(light.all.shape, bool)
    before, after = (slope_of(ramps) - light.all for ramps in (exposure.ramps, cleaned))
    if kind.trouble in ("dead", "NaN", "noisy"):  # that amplifier shows nothing
        lit = lit & (np.arange(lit.shape[0]) // (lit.shape[0] // 4) != 1)[:, None]
    lit = lit & np.isfinite(before)
    lit &= ~((light.faint == 0) & (light.bright < 0.02 * light.all.max())) if light.faint.any() else True
    found = {"dark": float(cleaned["dark_share"])}
    for name, error in (("before", before), ("after", after)):
        error = np.where(np.isfinite(error), error, 1e3)
        found[f"rms {name}"] = float(np.sqrt((error[lit] ** 2).mean()))
        rows = np.where(lit, error, 0).sum(0) / np.maximum(lit.sum(0), 1)
        found[f"column {name}"] = float(np.sqrt((rows[lit.any(0)] ** 2).mean()))
    found["shift"] = float(np.where(lit, after - before, 0).sum() / lit.sum())
    if not has_light:
        return found
    alone = simulate(kind, seed, with_light=False)
    removed = before - after
    without = slope_of(alone.ramps) - slope_of(nsxr.clean_flicker_noise(alone.ramps, **alone.masks))
    for name, template in (("light", light.faint), ("points", light.points)):
        found[name] = -amount(removed - without, template)
        found[f"{name} error"] = amount(after, template)
    found["count"] = float(light.points.sum() / max(light.points.max(), 1e-9) / (2 * np.pi))
    return found


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    add_choices(parser, "kinds", list(KINDS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000)
    arguments = parser.parse_args()
    write_head("kind", "rms", "column", "worse [%]", "light [%]", "[sigma]", "points [%]", "[sigma]", "shift", "dark")
    for name in arguments.kinds:
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        found = [measure(KINDS[name], seed) for seed in seeds]
        table = {key: np.array([one[key] for one in found]) for key in found[0]}
        worse = np.zeros(len(found), bool)
        ratios = []
        for figure in ("rms", "column"):
            before, after = table[f"{figure} before"], table[f"{figure} after"]
            worse |= after - before > before.std()
            ratios.append(f"{after.mean() / before.mean():.3f}")
        cells = [*ratios, f"{100 * worse.mean():.1f}"]
        for light in ("light", "points"):
            change = table.get(light, np.array([np.nan]))
            if not np.isfinite(change).all():
                cells += ["", ""]
                continue
            mean, error = change.mean(), change.std() / len(change) ** 0.5
            scatter = table[f"{light} error"].std() * (table["count"].mean() ** 0.5 if light == "points" else 1)
            cells += [f"{100 * mean:+.2f} ± {100 * error:.2f}", f"{mean / scatter:+.3f}"]
        shift = table["shift"]
        cells += [f"{shift.mean() / (shift.std() / len(shift) ** 0.5 or np.nan):+.1f}", f"{table['dark'].mean():.2f}"]
        write_row(name, *cells)


if __name__ == "__main__":
    main()
