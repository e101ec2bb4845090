"""Calibrate exposures of known skies by spec2, from count rates to spectra, and compare them with the truth.

    python ci/spec_scenes.py [SCENE...] [--short] [--noise RATIO...] [--seed 1] [-o TABLE]

The skies shine through the simulated optics onto the detector. Count rates are made from this light without ramps, so
they have no errors of stage 1: once without noise, and once with noise of known variance for each signal to noise.
The table has a row for each scene, kind of source and noise:

- ``n``: spectra, or cut-outs of extended sources.
- ``lines [pixel]``: centroids of lines minus the truth, rms and maximum.
- ``flux``: flux over truth minus one; of extended sources, brightness of pixels of ``cal``. The median over columns; of
  several spectra, the one farthest from zero.
- ``slow``, ``wiggle``: rms of flux over truth, relative to its median: means over 40 columns, and the rest. These are
  errors of the method in rows without noise.
- ``in lines``: flux of lines above their continuum over truth minus one, median.
- ``pull``: (flux - truth) / claimed deviation: nmad and rms over all columns. With noise, the errors of the method are
  part of it. Points of time series: spectra of integrations minus the spectrum without noise.
- ``cal``: (pixel - the same pixel without noise) / claimed deviation, rms, and pixels beyond 5 sigma [per mille]. With
  nods, only pixels that see the same light in all of them.
- ``brightness``: surface brightness of spectra of extended sources over truth minus one, the farthest from zero.
- ``bars``: steps of extended sources at bars: rms of the means of rows relative to the truth, where more than half of
  the light passes.
- ``depth``: depth of the transit minus the truth [ppm].

Columns within 8 pixels of a line are not part of flux, slow and wiggle. What is flagged DO_NOT_USE or MSA_FAILED_OPEN
is in nothing. The last column names what misses its target. ``--short`` has wider limits: those that are reached now.
Ends with status 1 if there is something in the last column.
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

import nsxr
from nsxr.model.dq import PixelFlag
from nsxr.simulate.sky import SkySource

COLUMNS = ("scene", "mode", "grating", "detector", "source", "S/N", "n", "lines [pixel]", "flux", "slow", "wiggle")
COLUMNS += ("in lines", "pull: nmad, rms", "cal: rms, > 5 sigma", "brightness", "bars", "depth [ppm]", "misses")
LINE_REACH, SLOW = 8, 40  # pixels
CLEAN = 0.05  # factor on the noise whose variances exposures without noise have

_BAD = int(PixelFlag.DO_NOT_USE | PixelFlag.MSA_FAILED_OPEN)

LIMITS = {"lines": 0.003, "largest": 0.01, "flux": 0.002, "slow": 0.001, "wiggle": 0.002, "in lines": 0.003}
LIMITS |= {"bars": 0.005, "depth": 5.0, "cal": 0.005, "brightness": 0.005}
"""Targets for rows without noise."""
SHORT_LIMITS = LIMITS | {"lines": 0.01, "largest": 0.02, "flux": 0.006, "slow": 0.006, "in lines": 0.006}
"""Limits for ``--short``: what is reached, with a margin. The program itself compares with the targets."""


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
    brightness: list[float] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the row by what is measured; what was not measured is absent."""
        found = {"depth": abs(self.depth)} if np.isfinite(self.depth) else {}
        if self.centroids:
            found |= {"lines": _rms(self.centroids), "largest": float(np.abs(self.centroids).max())}
        if np.isfinite(self.flux).any():
            found["cal" if self.is_extended else "flux"] = float(np.nanmax(np.abs(self.flux)))
        if self.brightness:
            found["brightness"] = float(np.abs(self.brightness).max())
        for name, values in (("slow", self.slow), ("wiggle", self.wiggle), ("bars", self.bars)):
            if values:
                found[name] = max(values)
        if self.lines:
            found["in lines"] = abs(float(np.median(self.lines)))
        return found

    def misses(self, has_noise: bool, limits: Mapping[str, float]) -> list[str]:
        """Return what misses its limit."""
        if not has_noise:
            return [name for name, value in self.numbers().items() if not value <= limits[name]]
        missed = []
        if self.pulls:
            pull = np.concatenate(self.pulls)
            chance = 3.5 / np.sqrt(pull.size)  # three standard deviations of a scatter
            missed += ["pull"] * bool(abs(_nmad(pull) - 1) > 0.03 + chance or _rms(pull) > 1.1 + chance)
        if self.pixels:
            pull = np.concatenate(self.pixels)
            missed += ["cal"] * bool(not 0.98 <= _rms(pull) <= 1.02 or np.mean(np.abs(pull) > 5) > 1e-4)
        return missed

    def cells(self, has_noise: bool) -> list[str]:
        """Return the cells of the row."""
        lines = f"{_rms(self.centroids):.4f}, {np.abs(self.centroids).max():.4f}" if self.centroids else ""
        known = [one for one in self.flux if np.isfinite(one)]
        farthest = f"{max(known, key=abs):+.4f}" if known else ""
        cells = [str(len(self.flux)), lines, farthest]
        cells += [f"{max(values):.4f}" if values else "" for values in (self.slow, self.wiggle)]
        cells.append(f"{np.median(self.lines):+.4f}" if self.lines else "")
        for pulls, more in ((self.pulls, False), (self.pixels, True)):
            pull = np.concatenate(pulls) if pulls and has_noise else np.zeros(0)
            one = f"{_rms(pull):.3f}, {1e3 * np.mean(np.abs(pull) > 5):.2f}" if more and pull.size else ""
            cells.append(one if more or not pull.size else f"{_nmad(pull):.3f}, {_rms(pull):.3f}")
        cells.append(f"{max(self.brightness, key=abs):+.4f}" if self.brightness else "")
        cells.append(f"{max(self.bars):.4f}" if self.bars else "")
        return [*cells, f"{self.depth:+.1f}" if np.isfinite(self.depth) else ""]


def measure(spectrum: xr.Dataset, source: SkySource, row: Row, passed: np.ndarray | float = 1.0) -> None:
    """Add a spectrum to a row.

    ``passed`` is what passes over what the reference expects to pass; of extended sources, their solid angle [Msr].
    """
    wavelength, flux = spectrum["wavelength"].values, spectrum["flux"].values / passed
    good = ((spectrum["dq"].values & _BAD) == 0) & np.isfinite(flux) & np.isfinite(wavelength)
    pixel = np.abs(np.gradient(wavelength))
    truth = source.spectrum.continuum.at(wavelength)
    deviation = np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in ("poisson", "rnoise")))
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
    row.pulls.append(((flux - truth) / (deviation / passed))[kept])
    per_area = 1e-6 if source.shape.is_extended else 1.0  # lines of extended sources are not in mega
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
        row.lines.append(float(light.sum() / (per_area * source.spectrum.line_integral(line)) - 1))
        row.centroids.append(float((light * (at[within] - centre)).sum() / light.sum()))


def measure_brightness(
    cal: xr.Dataset, source: SkySource, sky: object, row: Row, along: tuple[np.ndarray, np.ndarray] | None = None
) -> None:
    """Add the surface brightness of a slit that an extended source fills to a row.

    ``along`` are places along the slit and the brightness there, relative to that of the source.
    """
    wavelength, sci = cal["wavelength"].values, cal["sci"].values
    good = ((cal["dq"].values & _BAD) == 0) & np.isfinite(sci)
    if "barshadow" in cal:
        good &= cal["barshadow"].values > 0.5
    else:
        good &= np.abs(cal["slit_y"].values) < 0.35  # ends of slits and slices are partly dark
    truth = source.spectrum.continuum.at(wavelength) + (0 if sky is None else sky.continuum.at(wavelength))
    relative = np.ones(truth.shape) if along is None else np.interp(cal["slit_y"].values, *along)
    truth = truth * relative
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
    order = np.argsort(np.where(np.isfinite(ratio), wavelength, np.nan), axis=None)[: np.isfinite(ratio).sum()]
    steps = np.array([np.median(part) for part in np.array_split(ratio.ravel()[order], 400) if part.size])
    smooth = uniform_filter1d(steps, SLOW, mode="nearest")
    row.slow.append(_rms(smooth / middle - 1))
    row.wiggle.append(_rms((steps - smooth) / middle))
    if "slice" in cal.variables:
        return
    # nothing tells a source that fills its slit from the sky, so the local background stays in
    spectrum = nsxr.extract_spectrum(cal, background="none")
    wavelength = spectrum["wavelength"].values
    expected = source.spectrum.continuum.at(wavelength) + (0 if sky is None else sky.continuum.at(wavelength))
    expected = expected * np.nanmean(np.where(good, relative, np.nan))
    beside = (spectrum["dq"].values & 1) == 0
    for line in source.spectrum.lines:
        beside &= np.abs(wavelength - line.wavelength) > LINE_REACH * np.abs(np.gradient(wavelength))
    row.brightness.append(float(np.nanmedian((spectrum["surf_bright"].values / expected)[beside])) - 1)


def measure_slices(cal: xr.Dataset, source: SkySource, areas: Mapping[str, float], row: Row) -> None:
    """Add a point in the frame of the IFU: the sum of all its slices, at the wavelengths of the brightest one."""
    number, wavelength = cal["slice"].values, cal["wavelength"].values
    good = ((cal["dq"].values & _BAD) == 0) & np.isfinite(cal["sci"].values)
    spectra: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    of_lines = np.zeros((len(source.spectrum.lines), 2))  # light, and that of slices with bad pixels
    for one in np.unique(number[number > 0]):
        inside = (number == one) & np.isfinite(wavelength)
        columns = np.flatnonzero(inside.any(axis=0))
        # bad pixels are rare; columns with one in the light of the source would need a model of it
        whole = ~(inside & ~good)[:, columns].any(axis=0)
        place = np.nanmean(np.where(inside, wavelength, np.nan)[:, columns], axis=0)
        light = np.where(inside & good, cal["sci"].values, 0)[:, columns].sum(axis=0) * 1e6
        if cal["sci"].attrs["units"] == "MJy/sr":
            light *= areas[str(one - 1)]
        spectra[one] = place[whole], light[whole]
        pixel = np.abs(np.gradient(place))
        for k, line in enumerate(source.spectrum.lines):
            near = np.abs(place - line.wavelength) < LINE_REACH * pixel
            of_lines[k] += np.array([1.0, not whole[near].all()]) * (light * pixel)[near].sum()
    if source.name == "lines alone":
        # lines with a bad pixel in a slice with more than 0.1 % of their light are left out
        row.flux.append(np.nan)
        row.lines += [
            float(light / source.spectrum.line_integral(line) - 1)
            for line, (light, lost) in zip(source.spectrum.lines, of_lines, strict=True)
            if abs(lost) < 1e-3 * light
        ]
        return
    grid = max(spectra.values(), key=lambda one: float(np.median(one[1])) if one[1].size else 0.0)[0]
    total = np.zeros(grid.size)
    for place, light in spectra.values():
        order = np.argsort(place)
        total += np.interp(grid, place[order], light[order], left=np.nan, right=np.nan)
    found = xr.Dataset({"flux": ("x", total), "dq": ("x", np.zeros(grid.size, int)), "wavelength": ("x", grid)})
    measure(found.assign(flux_var_poisson=found["flux"] ** 2, flux_var_rnoise=0 * found["flux"]), source, row)
    row.pulls.clear()
    row.lines.clear()
    row.centroids.clear()


def measure_pixels(noisy: xr.Dataset, clean: xr.Dataset, quiet: xr.DataArray | None, row: Row) -> None:
    """Add the pulls of pixels to a row; with nods, those of pixels that see the same light in all of them."""
    difference = noisy["sci"].values - clean["sci"].values
    pull = difference / np.sqrt(noisy["var_poisson"].values + noisy["var_rnoise"].values)
    kept = np.isfinite(pull) & ((noisy["dq"].values & 1) == 0)
    if quiet is not None:
        kept &= quiet.sel(row=noisy["row"], column=noisy["column"]).values
    row.pixels.append(pull[kept])


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
            measure_pixels(slit, slits_of(clean, "cal")[name], seen.quiet(), row)
        if source.name.startswith(("fills", "extended")):
            row.is_extended = True
            along = seen.brightness(name, source) if "clumpy" in source.name else None
            sky = seen.sky.background if len(seen.observations) == 1 else None
            measure_brightness(slit, source, sky, row, along)
        elif seen.scene.mode == "BOTS":
            measure_series(seen, spectra[name], None if clean is None else slits_of(clean, "x1d")[name], row)
        elif seen.scene.mode == "IFU":
            measure_slices(slit, source, dict(seen.observations[0].instrument.areas), row)
        else:
            measure(spectra[name], source, row, seen.passed(name, source, spectra[name]["wavelength"].values))
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
    parser.add_argument("--short", action="store_true", help="two scenes, one signal to noise")
    parser.add_argument("--noise", type=float, nargs="*", help="signal to noise of points; 5, 45, 300, or 45 if short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, metavar="TABLE", help="also write the table to this file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    ratios = given.noise if given.noise is not None else [45.0] if given.short else [5.0, 45.0, 300.0]
    scenes = list(SHORT) if given.short else [known[name] for name in given.scenes]
    lines, wrong = [table_head(COLUMNS)], 0
    write_head(*COLUMNS)
    for scene in scenes:
        with TemporaryDirectory(prefix="scenes-") as folder:
            for kind, ratio, row, has_noise in run(scene, ratios, given.seed, Path(folder)):
                missed = row.misses(has_noise, SHORT_LIMITS if given.short else LIMITS)
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
