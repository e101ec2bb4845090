"""Calibrate exposures of known skies by spec2, from count rates to spectra, and compare them with the truth.

    python ci/spec_scenes.py [SCENE...] [--short] [--noise RATIO...] [--seed 1] [-o TABLE]

The skies shine through the simulated optics onto the detector. Count rates are made from this light without ramps, so
they have no errors of stage 1: once without noise, and once with noise of known variance for each signal to noise.
The table has a row for each scene, kind of source and noise:

- ``n``: spectra, or cut-outs of extended sources.
- ``lines [pixel]``: centroids of lines minus the truth, rms and maximum.
- ``flux``: flux over truth minus one. The median over columns; of several spectra, the one farthest from zero.
- ``slow``, ``wiggle``: rms of flux over truth, relative to its median: means over 40 columns, and the rest. These are
  errors of the method in rows without noise.
- ``in lines``: flux of lines above their continuum over truth minus one, median.
- ``pull``: (flux - truth) / claimed deviation: nmad and rms over all columns. With noise, the errors of the method are
  part of it. Points of time series: spectra of integrations minus the spectrum without noise.
- ``cal``: (pixel - the same pixel without noise) / claimed deviation, rms, and pixels beyond 5 sigma [per mille].
- ``bars``: steps of extended sources at bars: rms of the means of rows relative to the truth, where more than half of
  the light passes.
- ``depth``: depth of the transit minus the truth [ppm].

Columns within 8 pixels of a line are not part of flux, slow and wiggle; columns that are flagged DO_NOT_USE are in
nothing. The last column names what misses its limit. Ends with status 1 if there is something.
"""

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from common import add_choices, make_parser, table_head, table_row, write_head, write_row
from scipy.ndimage import uniform_filter1d
from spec_skies import SCENES, SHORT, Scene, Seen, look

from nsxr.simulate.sky import SkySource

COLUMNS = ("scene", "mode", "grating", "detector", "source", "S/N", "n", "lines [pixel]", "flux", "slow", "wiggle")
COLUMNS += ("in lines", "pull: nmad, rms", "cal: rms, > 5 sigma", "bars", "depth [ppm]", "misses")
LINE_REACH, SLOW = 8, 40  # pixels
CLEAN = 0.05  # factor on the noise whose variances exposures without noise have

LIMITS = {"lines": 0.003, "largest": 0.01, "flux": 0.002, "slow": 0.001, "wiggle": 0.002, "in lines": 0.003}
LIMITS |= {"bars": 0.005, "depth": 5.0, "brightness": 0.005}
"""Targets for rows without noise."""


@dataclass
class Row:
    """What is found of one kind of source, over all its spectra."""

    centroids: list[float] = field(default_factory=list)
    flux: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    wiggle: list[float] = field(default_factory=list)
    lines: list[float] = field(default_factory=list)
    pulls: list[np.ndarray] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)
    bars: list[float] = field(default_factory=list)
    depth: float = np.nan
    is_extended: bool = False

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the row by what is measured; what was not measured is absent."""
        found = {"depth": abs(self.depth)} if np.isfinite(self.depth) else {}
        if self.centroids:
            found |= {"lines": _rms(self.centroids), "largest": float(np.abs(self.centroids).max())}
        if self.flux:
            found["brightness" if self.is_extended else "flux"] = float(np.abs(self.flux).max())
        for name, values in (("slow", self.slow), ("wiggle", self.wiggle), ("bars", self.bars)):
            if values:
                found[name] = max(values)
        if self.lines:
            found["in lines"] = abs(float(np.median(self.lines)))
        return found

    def misses(self, has_noise: bool) -> list[str]:
        """Return what misses its limit."""
        if not has_noise:
            return [name for name, value in self.numbers().items() if not value <= LIMITS[name]]
        missed = []
        if self.pulls:
            pull = np.concatenate(self.pulls)
            missed += ["pull"] * (not 0.97 <= _nmad(pull) <= 1.03 or _rms(pull) > 1.1)
        if self.pixels:
            pull = np.concatenate(self.pixels)
            missed += ["cal"] * (not 0.98 <= _rms(pull) <= 1.02 or float(np.mean(np.abs(pull) > 5)) > 1e-4)
        return missed

    def cells(self, has_noise: bool) -> list[str]:
        """Return the cells of the row."""
        lines = f"{_rms(self.centroids):.4f}, {np.abs(self.centroids).max():.4f}" if self.centroids else ""
        farthest = f"{max(self.flux, key=abs):+.4f}" if self.flux else ""
        cells = [str(len(self.flux)), lines, farthest]
        cells += [f"{max(values):.4f}" if values else "" for values in (self.slow, self.wiggle)]
        cells.append(f"{np.median(self.lines):+.4f}" if self.lines else "")
        for pulls, more in ((self.pulls, False), (self.pixels, True)):
            pull = np.concatenate(pulls) if pulls and has_noise else np.zeros(0)
            one = f"{_rms(pull):.3f}, {1e3 * np.mean(np.abs(pull) > 5):.2f}" if more and pull.size else ""
            cells.append(one if more or not pull.size else f"{_nmad(pull):.3f}, {_rms(pull):.3f}")
        cells.append(f"{max(self.bars):.4f}" if self.bars else "")
        return [*cells, f"{self.depth:+.1f}" if np.isfinite(self.depth) else ""]


def measure(spectrum: xr.Dataset, source: SkySource, row: Row) -> None:
    """Add a spectrum to a row."""
    name = "surf_bright" if source.shape.is_extended else "flux"
    prefix = "sb" if source.shape.is_extended else "flux"
    wavelength, flux = spectrum["wavelength"].values, spectrum[name].values
    good = ((spectrum["dq"].values & 1) == 0) & np.isfinite(flux) & np.isfinite(wavelength)
    pixel = np.abs(np.gradient(wavelength))
    truth = source.spectrum.continuum.at(wavelength)
    deviation = np.sqrt(sum(spectrum[f"{prefix}_var_{part}"].values for part in ("poisson", "rnoise")))
    near = np.zeros(good.shape, bool)
    for line in source.spectrum.lines:
        near |= np.abs(wavelength - line.wavelength) < LINE_REACH * pixel
    ratio = np.where(good & ~near, flux / truth, np.nan)
    kept = np.isfinite(ratio)
    if kept.sum() < SLOW:
        row.flux.append(np.nan)
        return
    middle = float(np.median(ratio[kept]))
    smooth = uniform_filter1d(ratio[kept], SLOW, mode="nearest")
    row.flux.append(middle - 1)
    row.slow.append(_rms(smooth / middle - 1))
    row.wiggle.append(_rms((ratio[kept] - smooth) / middle))
    row.pulls.append(((flux - truth) / deviation)[kept])
    unit = 1e-6 if source.shape.is_extended else 1.0
    at = np.arange(wavelength.size)
    for line in source.spectrum.lines:
        centre = float(np.interp(line.wavelength, wavelength, at, left=np.nan, right=np.nan))
        if not np.isfinite(centre):
            continue
        within = np.abs(at - round(centre)) <= LINE_REACH - 2
        beside = kept & (np.abs(at - centre) < 3 * LINE_REACH)
        if not good[within].all() or within.sum() < 2 * LINE_REACH - 3 or beside.sum() < LINE_REACH:
            continue
        level = float(np.median(ratio[beside]))
        light = ((flux - level * truth) * pixel)[within]
        # columns see the mean between their edges, so their sum times their widths is the light of the line
        row.lines.append(float(light.sum() / source.spectrum.line_integral(line) / unit - 1))
        row.centroids.append(float((light * (at[within] - centre)).sum() / light.sum()))


def measure_brightness(cal: xr.Dataset, source: SkySource, sky: object, row: Row) -> None:
    """Add the surface brightness of a slit that an extended source fills to a row."""
    wavelength, sci = cal["wavelength"].values, cal["sci"].values
    good = ((cal["dq"].values & 1) == 0) & np.isfinite(sci)
    if "barshadow" in cal:
        good &= cal["barshadow"].values > 0.5
    truth = source.spectrum.continuum.at(wavelength) + (0 if sky is None else sky.continuum.at(wavelength))
    pixel = np.abs(np.gradient(wavelength, axis=1))
    for line in source.spectrum.lines:
        good &= ~(np.abs(wavelength - line.wavelength) < LINE_REACH * pixel)
    ratio = np.where(good, sci / truth, np.nan)
    middle = float(np.nanmedian(ratio))
    shadow = cal["barshadow"].values if "barshadow" in cal else None
    row.flux.append(middle - 1)
    if shadow is not None:
        levels = np.round(10 * shadow[good]).astype(int)
        values = ratio[good] / middle
        row.bars.append(_rms([np.median(values[levels == n]) - 1 for n in np.unique(levels)]))
    columns = np.nanmedian(ratio, axis=0)
    columns = columns[np.isfinite(columns)]
    smooth = uniform_filter1d(columns, SLOW, mode="nearest")
    row.slow.append(_rms(smooth / middle - 1))
    row.wiggle.append(_rms((columns - smooth) / middle))


def measure_pixels(noisy: xr.Dataset, clean: xr.Dataset, row: Row) -> None:
    """Add the pulls of pixels to a row."""
    difference = noisy["sci"].values - clean["sci"].values
    pull = difference / np.sqrt(noisy["var_poisson"].values + noisy["var_rnoise"].values)
    row.pixels.append(pull[np.isfinite(pull) & ((noisy["dq"].values & 1) == 0)])


def slits_of(tree: xr.DataTree, name: str) -> dict[str, xr.Dataset]:
    """Return the slits or spectra of a product by name."""
    node = tree.children.get(name)
    if node is None:
        return {}
    return {key: one.to_dataset() for key, one in node.children.items()} or {"": node.to_dataset()}


def source_in(seen: Seen, slit: xr.Dataset, name: str) -> SkySource | None:
    """Return the primary source of a slit."""
    scene = seen.scene
    if scene.mode == "MOS":
        number = int(slit.attrs.get("SOURCEID") or 0)
        return seen.sky.sources[number - 1] if number > 0 else None
    return seen.sky.sources[0] if name in ("", scene.slit) or scene.mode == "BOTS" else None


def rows_of(seen: Seen, tree: xr.DataTree, clean: xr.DataTree | None) -> dict[str, Row]:
    """Return the rows of a scene by kind of source; ``clean`` is what was calibrated without noise."""
    rows: dict[str, Row] = defaultdict(Row)
    spectra = slits_of(tree, "x1d")
    for name, slit in slits_of(tree, "cal").items():
        source = source_in(seen, slit, name)
        if source is None:
            continue
        row = rows[source.name.partition(" / ")[0]]
        if clean is not None:
            measure_pixels(slit, slits_of(clean, "cal")[name], row)
        if source.name.startswith(("fills", "extended")):
            row.is_extended = True
            measure_brightness(slit, source, seen.sky.background if len(seen.observations) == 1 else None, row)
        elif seen.scene.mode == "BOTS":
            measure_series(seen, spectra[name], None if clean is None else slits_of(clean, "x1d")[name], row)
        elif name in spectra and not source.shape.is_extended:
            measure(spectra[name], source, row)
    return rows


def measure_series(seen: Seen, spectra: xr.Dataset, clean: xr.Dataset | None, row: Row) -> None:
    """Add a time series to a row."""
    curve = seen.observations[0].scene.light_curve
    out = curve == 1
    mean = spectra.isel(integration=out).mean("integration")
    mean["dq"] = spectra["dq"].isel(integration=0)
    measure(mean, seen.sky.sources[0], row)
    row.pulls.clear()
    good = ((spectra["dq"].values & 1) == 0).all(axis=0)
    if clean is not None:
        good &= ((clean["dq"].values & 1) == 0).all(axis=0)
        deviation = np.sqrt(spectra["flux_var_poisson"].values + spectra["flux_var_rnoise"].values)
        row.pulls.append(((spectra["flux"].values - clean["flux"].values) / deviation)[:, good].ravel())
        return
    white = spectra["flux"].values[:, good & np.isfinite(spectra["flux"].values).all(axis=0)].sum(axis=1)
    relative = white / white[out].mean()
    deepest = curve == curve.min()
    row.depth = 1e6 * float((1 - relative[deepest].mean()) - (1 - curve.min()))


def run(scene: Scene, ratios: Sequence[float], seed: int, folder: Path) -> Iterator[tuple[str, str, Row, bool]]:
    """Yield kind of source, signal to noise and numbers of all rows of a scene."""
    seen = look(scene, folder)
    clean = seen.calibrated(CLEAN)
    for kind, row in rows_of(seen, clean, None).items():
        yield kind, "-", row, False
    reached = signal_to_noise(seen, clean)
    for ratio in ratios:
        factor = CLEAN * reached / ratio
        noisy, silent = seen.calibrated(factor, seed), seen.calibrated(factor)  # the same variances, without noise
        for kind, row in rows_of(seen, noisy, silent).items():
            yield kind, f"{ratio:g}", row, True


def signal_to_noise(seen: Seen, tree: xr.DataTree) -> float:
    """Return the signal to noise of the spectra of points, median over all columns; without spectra, of pixels."""
    found = []
    for spectrum in slits_of(tree, "x1d").values():
        if str(spectrum.attrs.get("SRCTYPE")) == "POINT":
            deviation = np.sqrt(spectrum["flux_var_poisson"].values + spectrum["flux_var_rnoise"].values)
            with np.errstate(all="ignore"):
                found.append(np.nanmedian(spectrum["flux"].values / deviation))
    if not found:
        for slit in slits_of(tree, "cal").values():
            with np.errstate(all="ignore"):
                found.append(np.nanpercentile(slit["sci"].values / np.sqrt(slit["var_poisson"].values), 99))
    return float(np.median(found))


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else np.nan


def _nmad(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def main() -> int:
    """Print the table."""
    parser = make_parser(__doc__)
    known: Mapping[str, Scene] = {scene.name: scene for scene in SCENES}
    add_choices(parser, "scenes", list(known), [scene.name for scene in SCENES if scene not in SHORT])
    parser.add_argument("--short", action="store_true", help="a few scenes, in 20 s")
    parser.add_argument("--noise", type=float, nargs="*", default=[5.0, 45.0, 300.0], help="signal to noise of points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, metavar="TABLE", help="also write the table to this file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    scenes = list(SHORT) if given.short else [known[name] for name in given.scenes]
    lines, wrong = [table_head(COLUMNS)], 0
    write_head(*COLUMNS)
    for scene in scenes:
        with TemporaryDirectory(prefix="scenes-") as folder:
            for kind, ratio, row, has_noise in run(scene, given.noise, given.seed, Path(folder)):
                missed = row.misses(has_noise)
                wrong += bool(missed)
                names = (scene.name, scene.mode, scene.grating, scene.detector, kind, ratio)
                cells = (*names, *row.cells(has_noise), " ".join(missed))
                write_row(*cells)
                lines.append(table_row(cells))
    print(f"\n{wrong} rows miss a limit")
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
