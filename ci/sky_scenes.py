"""Subtract the sky from exposures of known skies, in all ways that spec2 has, and compare with exposures without sky.

    python ci/sky_scenes.py [SCENE...] [--seeds 4] [-o TABLE]

The sky is zodiacal light with emission lines. Each exposure has a twin without sky: the same sources, and nothing else.
All are calibrated from count rates, see ``spec_skies.py``. The table has a row for each scene and way to subtract:

- ``global``: one spectrum of the sky from all slitlets. ``master``: from background slitlets. ``dedicated``: a spectrum
  of an exposure of sky alone, for fixed slits one of each slit. ``one nod``, ``two nods``: other nods are subtracted
  pixel by pixel.
- ``left``: light of the sky that is left over light of the sky, without noise: the slit farthest from zero, in pixels
  that see more than half of the sky, and no sources of other nods [per mille]; ``median`` is that over slits.
- ``in lines``: rms of what is left within 3 pixels of lines of the sky over their peaks, without noise [per mille].
- ``noise``: scatter of pixels, and of weighted sums over columns, over that with the first way; medians. The weights
  are those of the spectra with the first way, because profiles of faint sources follow the noise.
- ``cal``: pull of pixels: with noise minus without, over the deviation that is claimed, rms.
- ``x1d``: the same of spectra.
- ``flux``: spectra over those of the twin minus one, without noise: the source farthest from zero, median over columns
  [per mille of the sky's light in its aperture]; so it does not depend on how bright sources are.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits
from common import add_choices, make_parser, table_head, table_row, write_head, write_row
from spec_skies import count_rates, in_the_dark
from spec_sources import PITCH, on_sky, shutters_on_detector, spectrum

import nsxr
from nsxr.pipelines.spec2 import spec2
from nsxr.simulate import write_flux_references
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.observation import Observation, observe
from nsxr.simulate.shutters import shutter_slit
from nsxr.simulate.sky import Sky, SkySource, zodiacal_light
from nsxr.simulate.spectra import Line, Spectrum

COLUMNS = ("scene", "sky", "slits", "left", "median", "in lines", "noise: cal", "noise: x1d", "cal", "x1d", "flux")
CLEAN = 0.05
LINES = 7
NEAR = 3  # pixels
BACKGROUND = "background"
NODS = {"one nod": 1, "two nods": 2}


@dataclass(frozen=True)
class SkyScene:
    """A sky behind sources of some brightness.

    Attributes
    ----------
    name : str
        Name on the command line.
    grating, detector, mode : str
        As for :class:`spec_skies.Scene`.
    brightness : tuple of float
        Light of sources in the brightest pixel [electron/s], used in turn; 0 stands for a background slitlet.
    slitlets : int
        Number of slitlets.
    sky : float
        Factor on zodiacal light.
    """

    name: str
    grating: str
    detector: str = "NRS1"
    mode: str = "MOS"
    brightness: tuple[float, ...] = (0.3, 0.03, 0.1)
    slitlets: int = 9
    sky: float = 1.0


SCENES = (
    SkyScene("prism", "PRISM", brightness=(0.3, 0.03, 0.1, 0.0)),
    SkyScene("prism-bright", "PRISM", brightness=(20.0, 3.0, 0.3, 0.1)),
    SkyScene("g395h", "G395H", brightness=(0.1, 0.01, 0.0)),
    SkyScene("g140m", "G140M", "NRS2", brightness=(0.1, 0.01, 0.0)),
    SkyScene("fs-prism", "PRISM", mode="FS", brightness=(0.3,)),
    SkyScene("fs-g395h", "G395H", mode="FS", brightness=(0.1,)),
)


@dataclass
class Look:
    """A scene with its exposures: of nods, of the same nods without sky, and of the sky alone."""

    scene: SkyScene
    nods: list[Observation]
    twins: list[Observation]
    empty: Observation
    references: dict[str, str]
    lines: tuple[float, ...]

    def sees_sky(self, slit: xr.Dataset, count: int) -> np.ndarray:
        """Return the pixels of a slit in which sources of other nods have less than 1 permille of the sky's light."""
        if not count:
            return np.ones(slit["sci"].shape, bool)
        of_sources = np.max([one.light.rate for one in self.twins[1 : count + 1]], axis=0)
        configuration = self.empty.configuration
        labels = [("row", configuration.rows), ("column", configuration.columns)]
        whole = xr.DataArray(of_sources < 1e-3 * self.empty.light.rate, coords=labels)
        return whole.sel(row=slit["row"], column=slit["column"]).values

    def rate(self, one: Observation, noise: float, seed: Sequence[int] | None) -> xr.Dataset:
        """Return count rates."""
        kind = "EXTENDED" if one is self.empty else "POINT"
        source_type = "" if self.scene.mode == "MOS" else kind
        return count_rates(one, noise, None if seed is None else np.random.default_rng(list(seed)), source_type)

    def calibrated(self, way: str, noise: float, seed: int | None = None) -> xr.DataTree:
        """Return what spec2 makes of the first nod in one way to subtract the sky."""

        def made(one: Observation, number: int) -> xr.Dataset:
            return self.rate(one, noise, None if seed is None else (seed, number))

        rate = made(self.twins[0], 0) if way == "twin" else made(self.nods[0], 0)
        count = NODS.get(way, 0)
        given: dict[str, Any] = {"backgrounds": [made(one, n) for n, one in enumerate(self.nods[1 : count + 1], 1)]}
        if way == "twin":  # its background is known, and must not be fitted
            given["extract_1d"] = {"background": "none"}
        if way in ("global", "master"):
            given["sky"] = way
        if way == "dedicated":
            found = self._run(made(self.empty, 9), sky="global", skip=["extract_1d"])["sky"]
            given["sky"] = found if found.children else found.to_dataset()
        return self._run(rate, **given)

    def _run(self, rate: xr.Dataset, **given: Any) -> xr.DataTree:
        optics = nsxr.open_optics(self.references, rate)
        references = nsxr.open_spec2_references(self.references, rate)
        return spec2(rate, references, optics, shutters=self.nods[0].metafile, **given).compute()


def look(scene: SkyScene, folder: Path) -> Look:
    """Let a scene shine through the optics, with and without sky, and write its references."""
    nods, paths, dark = in_the_dark(folder, mode=scene.mode, grating=scene.grating, detector=scene.detector, dithers=3)
    optics = dark[0].optics
    random = np.random.default_rng(5)
    flux = 1 / SimulatedInstrument.of(optics).peak_rate()
    sources = []
    if scene.mode == "FS":
        sources.append(SkySource("point", spectrum(optics, scene.brightness[0] * flux), offset=(0.0, 0.0)))
    places = shutters_on_detector(optics) if scene.mode == "MOS" else []
    for number, place in zip(range(scene.slitlets), places, strict=False):
        peak = scene.brightness[number % len(scene.brightness)]
        slit = shutter_slit(optics, *place)
        kind = BACKGROUND if peak == 0 else f"{peak:g}"
        light = Spectrum() if peak == 0 else spectrum(optics, peak * flux)
        at = on_sky(optics, slit, *(PITCH * random.uniform(-0.3, 0.3, 2)))
        sources.append(SkySource(f"{kind} / {number}", light, *at))
    light, lines = _sky(scene, optics)
    seen = [observe(one, Sky(tuple(sources), light), paths, folder, seed=1, peak_rate=1) for one in nods]
    metafile = seen[0].metafile
    if metafile is not None:
        _without_sources(metafile, {n for n, one in enumerate(sources, 1) if one.name.startswith(BACKGROUND)})
    given: dict[str, Any] = {"shutters": metafile, "seed": 1, "peak_rate": 1}
    twins = [observe(one, Sky(tuple(sources)), paths, folder, **given) for one in nods]
    empty = observe(nods[0], Sky((), light), paths, folder, **given)
    references = write_flux_references(folder, seen[0].optics, mode=scene.mode, failed_open=())
    return Look(scene, seen, twins, empty, {k: str(v) for k, v in (paths | references).items()}, lines)


def _sky(scene: SkyScene, optics: Any) -> tuple[Spectrum, tuple[float, ...]]:
    """Return zodiacal light with unresolved lines whose peaks are about twice as bright."""
    light, instrument = zodiacal_light(scene.sky), SimulatedInstrument.of(optics)
    low, high = optics.wavelength_range
    lines = []
    for number, at in enumerate(np.linspace(low, high, LINES + 2)[1:-1]):
        pixel = float(np.interp(at, instrument.nodes, instrument.dispersion))
        place = float(at + number / LINES * pixel)
        power = 2 * 4.0 * pixel * float(light.continuum.at(np.array(at))) * 1e6
        lines.append(Line(place, power / Spectrum.line_integral(Line(place, 1.0))))
    return Spectrum(light.continuum, tuple(lines)), tuple(line.wavelength for line in lines)


def _without_sources(metafile: Path, sources: set[int]) -> None:
    """Make slitlets with these sources background slitlets, in the list of shutters."""
    with fits.open(metafile, mode="update") as file:
        table = file["SHUTTER_INFO"].data
        slitlets = set(table["slitlet_id"][np.isin(table["source_id"], list(sources))].tolist())
        rows = np.isin(table["slitlet_id"], list(slitlets))
        table["source_id"][rows], table["background"][rows], table["primary_source"][rows] = 0, "Y", "N"
        for name in ("estimated_source_in_shutter_x", "estimated_source_in_shutter_y"):
            table[name][rows] = np.nan


def slits(tree: xr.DataTree, kind: str) -> dict[str, xr.Dataset]:
    """Return the slits or spectra of a tree."""
    return {name: node.to_dataset() for name, node in tree[kind].children.items()}


def left_over(
    seen: Look, way: str, tree: xr.DataTree, raw: xr.DataTree, twin: xr.DataTree
) -> tuple[list[float], list[float]]:
    """Return what is left of the sky in each slit over the sky, and the rms in lines over their peaks."""
    left, in_lines = [], []
    for name, cal in slits(tree, "cal").items():
        dark, full = slits(twin, "cal")[name], slits(raw, "cal")[name]
        sky, rest = (full["sci"] - dark["sci"]).values, (cal["sci"] - dark["sci"]).values
        part = next((full[one].values for one in ("sky_part", "barshadow") if one in full), None)
        part = np.abs(full["slit_y"].values) < 0.4 if part is None else part
        kept = np.isfinite(sky) & np.isfinite(rest) & (part > 0.5) & seen.sees_sky(full, NODS.get(way, 0))
        if kept.sum() < 1000:
            continue
        left.append(1e3 * float(rest[kept].sum() / sky[kept].sum()))
        wavelength = full.get("wavelength_uncorrected", full["wavelength"]).values
        pixel = np.abs(np.gradient(wavelength, axis=1))
        for at in seen.lines:
            near = kept & (np.abs(wavelength - at) < NEAR * pixel)
            if near.sum() > 20:
                in_lines.append(1e3 * float(np.sqrt(np.mean(rest[near] ** 2)) / sky[near].max()))
    return left, in_lines


def run(scene: SkyScene, ways: Sequence[str], seeds: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a scene."""
    seen = look(scene, folder)
    twin, raw = seen.calibrated("twin", CLEAN), seen.calibrated("none", CLEAN)
    scatter: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = {}
    weights: dict[str, np.ndarray] = {}
    for way in ways:
        clean = seen.calibrated(way, CLEAN)
        left, in_lines = left_over(seen, way, clean, raw, twin)
        silent = seen.calibrated(way, 1.0)
        noisy = [seen.calibrated(way, 1.0, seed) for seed in range(1, seeds + 1)]
        weights = weights or {name: one["weight"].values for name, one in slits(silent, "x1d").items()}
        scatter[way] = scatter_of(silent, noisy, weights)
        ratios = [
            np.nanmedian([np.nanmedian(own / first[name]) for name, own in found.items()])
            for found, first in zip(scatter[way], scatter[ways[0]], strict=True)
        ]
        cells = [f"{max(left, key=abs):+.1f}", f"{np.median(left):+.2f}", f"{np.median(in_lines):.1f}"]
        cells += [f"{ratio:.3f}" for ratio in ratios]
        cells += [f"{pulls_of(silent, noisy, *kind):.3f}" for kind in (("cal", "sci"), ("x1d", "flux"))]
        flux = [1e3 * value for value in _bias(clean, twin, raw)]
        yield scene.name, way, str(len(left)), *cells, f"{max(flux, key=abs):+.1f}"


def scatter_of(
    silent: xr.DataTree, noisy: Sequence[xr.DataTree], weights: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the scatter of pixels of each slit, and that of sums over columns, with weights of other spectra."""
    pixels, columns = {}, {}
    for name, quiet in slits(silent, "cal").items():
        off = np.array([slits(tree, "cal")[name]["sci"].values - quiet["sci"].values for tree in noisy])
        used = np.nan_to_num(weights[name])
        pixels[name] = np.sqrt(np.mean(off**2, axis=0))
        total = np.where(used > 0, off * used, 0).sum(axis=1)
        columns[name] = np.sqrt(np.mean(total**2, axis=0))
        columns[name][columns[name] == 0] = np.nan
    return pixels, columns


def pulls_of(silent: xr.DataTree, noisy: Sequence[xr.DataTree], kind: str, name: str) -> float:
    """Return the rms pull of all pixels or columns."""
    pulls = []
    for slit, quiet in slits(silent, kind).items():
        if kind == "x1d" and quiet.attrs["SRCTYPE"] != "POINT":
            continue
        prefix = "flux_var" if kind == "x1d" else "var"
        for one in (slits(tree, kind)[slit] for tree in noisy):
            with np.errstate(all="ignore"):
                claimed = np.sqrt(one[f"{prefix}_poisson"] + one[f"{prefix}_rnoise"]).values
                pull = (one[name] - quiet[name]).values / claimed
            pulls.append(pull[np.isfinite(pull) & ((one["dq"].values & 1) == 0)])
    return float(np.sqrt(np.mean(np.square(np.concatenate(pulls)))))


def _bias(tree: xr.DataTree, twin: xr.DataTree, raw: xr.DataTree) -> list[float]:
    """Return how far the flux of each point is from that of the twin, over the light of the sky in its aperture."""
    found = []
    for name, one in slits(tree, "x1d").items():
        if one.attrs["SRCTYPE"] != "POINT":
            continue
        sky = (slits(raw, "cal")[name]["sci"] - slits(twin, "cal")[name]["sci"]).max("row").values * 1e6
        found.append(float(np.nanmedian((one["flux"].values - slits(twin, "x1d")[name]["flux"].values) / sky)))
    return found


WAYS = ("global", "master", "dedicated", "one nod", "two nods")


def main() -> int:
    """Print the table."""
    parser = make_parser(__doc__)
    known = {scene.name: scene for scene in SCENES}
    add_choices(parser, "scenes", list(known))
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, metavar="TABLE", help="also write the table to this file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [table_head(COLUMNS)]
    write_head(*COLUMNS)
    for name in given.scenes:
        scene = known[name]
        cannot = {"global", "master"} if scene.mode != "MOS" else set() if 0.0 in scene.brightness else {"master"}
        ways = [way for way in given.ways if way not in cannot]
        with TemporaryDirectory(prefix="skies-") as folder:
            for cells in run(scene, ways, given.seeds, Path(folder)):
                write_row(*cells)
                lines.append(table_row(cells))
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
