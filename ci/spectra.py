"""Measure how bad pixels, backgrounds, outliers and positions change fluxes and errors of spectra of known truth.

    python ci/spectra.py [--peer FOLDER] [--seed 1000] [--seeds 40] [TABLE...]

Undersampled, tilted traces (FWHM 1.8 pixels) with 1.2 % bad pixels, or clusters of 2 to 3 rows by 2 columns, smooth
and with lines (``nsxr.simulate.simulate_trace``). Tables:

- *divots*: nsxr; a box that leaves missing pixels out (nothing); pixels replaced by the algorithms of jwst
  (``mingrad``, ``fit_profile``, ``trace_model``), run in an environment of its own, before the same box; least squares
  with the true profile, variances and pixels (oracle). Errors are those of columns with a bad pixel within 1.6 rows of
  the trace: of the columns that nsxr does not flag, and of all of them. *pull* is the scatter over the claimed
  deviation.
- *limits*: signal to noise over the Cramér-Rao limit, and errors of the position.
- *nods*: errors with nods fitted together and one by one.
- *backgrounds*: scatter over claimed deviation of pixels after one, two and four backgrounds were subtracted, and of
  the mean of four exposures that had the same background subtracted.
- *outliers*: which outliers are found in one, two, three and six exposures, and how many good pixels are flagged.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from common import add_choices, add_peer, call_peer, make_parser, peer_python, write_head, write_row

import nsxr
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace

PARTS = ("poisson", "rnoise", "flat")
SCENES = [(bad, ratio) for bad in ("isolated", "clusters") for ratio in (11.0, 45.0, 150.0)]


def deviation(spectrum: xr.Dataset) -> np.ndarray:
    """Return the claimed standard deviation of the flux."""
    return np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in PARTS))


def box(slit: xr.Dataset, model: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of usable pixels over the aperture, and its standard deviation."""
    there = ((slit["dq"] & np.uint32(1)) == 0) & np.isfinite(slit["sci"])
    weight = model["aperture"].where(there, 0.0)
    flux = (weight * slit["sci"].where(there, 0.0)).sum("row")
    variance = (weight**2 * (slit["var_poisson"] + slit["var_rnoise"]).where(there, 0.0)).sum("row")
    return flux.values * 1e6, np.sqrt(variance.values) * 1e6


def oracle(slit: xr.Dataset, truth: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the least-squares flux with the true profile and variances, and its standard deviation."""
    good = ~truth["is_bad"] & np.isfinite(slit["sci"])
    weight = (truth["profile"] / truth["variance"]).where(good, 0.0)
    precision = (weight * truth["profile"]).sum("row")
    flux = (weight * slit["sci"].where(good, 0.0)).sum("row") / precision
    return flux.values * 1e6, np.sqrt(1 / precision.values) * 1e6


def without_values(slit: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Return the slit as after stage 2 of jwst: bad pixels are NaN."""
    names = ("sci", "var_poisson", "var_rnoise")
    return slit.assign({name: slit[name].where(~truth["is_bad"]).assign_attrs(slit[name].attrs) for name in names})


Pair = tuple[xr.Dataset, xr.Dataset]
IMAGES = ("sci", "dq", "var_poisson", "var_rnoise")


def replaced_by_peer(python: Path, pairs: Sequence[Pair]) -> dict[str, tuple[list[xr.Dataset], float]]:
    """Return the slits with their pixels replaced by each algorithm of jwst, and seconds for a slit."""
    holed = [without_values(slit, truth) for slit, truth in pairs]
    stacks = {name: np.stack([slit[name].values for slit in holed]) for name in IMAGES}
    stacks["inside"] = np.stack([np.isfinite(slit["wavelength"].values) for slit in holed])
    first = holed[0]["row"].values[0]
    stacks["trace"] = np.stack([truth["trace"].values - first for _, truth in pairs])
    found = {}
    with TemporaryDirectory(prefix="spectra-") as folder:
        np.savez(Path(folder, "slits.npz"), **stacks)
        call_peer(python, "run_spectra.py", folder)
        for algorithm in ("mingrad", "fit_profile", "trace_model"):
            with np.load(Path(folder, f"{algorithm}.npz")) as file:
                filled = [
                    slit.assign({name: (slit[name].dims, file[name][number], slit[name].attrs) for name in IMAGES})
                    for number, slit in enumerate(holed)
                ]
                found[algorithm] = filled, float(file["seconds"])
    return found


def methods(
    slit: xr.Dataset, truth: xr.Dataset, others: dict[str, tuple[xr.Dataset, float]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, float]]:
    """Yield name, relative error, deviation over claimed deviation, usable columns, and seconds."""
    start = time.process_time()
    model = nsxr.fit_trace_model(slit)
    fitted = time.process_time() - start
    kept = None
    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    for weighting in ("profile", "box"):
        start = time.process_time()
        spectrum = nsxr.extract_spectrum(slit, model, weighting=weighting)
        seconds = fitted + time.process_time() - start
        kept = spectrum["dq"].values == 0
        error = spectrum["flux"].values - within
        yield f"nsxr, {weighting}", error / within, error / deviation(spectrum), kept, seconds
    for name, (filled, seconds) in others.items():
        flux, sigma = box(filled, model)
        yield name, (flux - within) / within, (flux - within) / np.where(sigma > 0, sigma, np.nan), kept, seconds
    flux, sigma = oracle(slit, truth)
    true = truth["flux"].values
    yield "oracle", (flux - true) / true, (flux - true) / sigma, kept, np.nan


def divots(python: Path, seed: int, seeds: int) -> None:
    """Print errors of columns with bad pixels, and of other columns."""
    print()
    errors = ("95 % error", "pull", "95 % error, all hit", "clean: pull", "clean: bias")
    write_head("scene", "S/N", "method", *errors, "seconds")
    for bad, ratio in SCENES:
        pairs = [
            simulate_trace(signal_to_noise=ratio, bad_pixels=bad, lines=bool(n % 2), offset=0.2, seed=seed + n)
            for n in range(seeds)
        ]
        by_peer = replaced_by_peer(python, pairs)
        found: dict[str, list[tuple[np.ndarray, ...]]] = {}
        flagged = total = 0
        for number, (slit, truth) in enumerate(pairs):
            near = np.abs(truth["row"] - truth["trace"]) < 1.6
            hit = (truth["is_bad"] & near).any("row").values
            others = {"nothing": (without_values(slit, truth), np.nan)}
            others |= {name: (slits[number], seconds) for name, (slits, seconds) in by_peer.items()}
            kept = hit
            for name, error, pull, kept, seconds in methods(slit, truth, others):
                found.setdefault(name, []).append(
                    (error[hit & kept], pull[hit & kept], error[hit], pull[~hit], error[~hit], np.array([seconds]))
                )
            flagged, total = flagged + (hit & ~kept).sum(), total + hit.sum()
        for name, parts in found.items():
            error, pull, every, clean, rest, seconds = (np.concatenate(p) for p in zip(*parts, strict=True))
            write_row(
                *(bad, f"{ratio:.0f}", name),
                f"{100 * np.nanpercentile(np.abs(error), 95):.2f} %",
                f"{np.nanstd(pull):.3f}",
                f"{100 * np.nanpercentile(np.abs(every), 95):.2f} %",
                f"{np.nanstd(clean):.3f}",
                f"{100 * np.nanmean(rest):+.3f} %",
                f"{np.median(seconds):.3f}",
            )
        write_row(bad, f"{ratio:.0f}", "", f"{flagged} of {total} hit columns are flagged", *[""] * 5)


def limits(seed: int, seeds: int) -> None:
    """Print signal to noise over the Cramér-Rao limit, and errors of positions."""
    print()
    write_head("S/N", "S/N over limit", "position: mean, rms error", "claimed", "bias of the flux")
    for ratio in (5.0, 20.0, 45.0, 150.0):
        gain, error, claimed, bias = [], [], [], []
        for number in range(seeds):
            slit, truth = simulate_trace(
                signal_to_noise=ratio, bad_pixels="none", offset=0.6 * np.sin(number), seed=seed + number
            )
            model = nsxr.fit_trace_model(slit)
            spectrum = nsxr.extract_spectrum(slit, model)
            inside = model["aperture"] > 0
            limit = 1 / (truth["profile"] ** 2 / truth["variance"]).where(inside, 0.0).sum("row")
            within = truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")
            scatter = np.std(
                (spectrum["flux"].values - within.values) / (np.sqrt(limit.values) * 1e6 * within / truth["flux"])
            )
            gain.append(1 / scatter)
            centroid = (truth["profile"] * truth["row"]).sum("row")
            error.append(float((model["trace"] - centroid).mean()))
            claimed.append(float(model["position_uncertainty"]))
            bias.append(float((spectrum["flux"].values - within.values).sum() / within.sum()))
        write_row(
            f"{ratio:.0f}",
            f"{np.mean(gain):.3f}",
            f"{np.mean(error):+.4f}, {np.sqrt(np.mean(np.square(error))):.4f}",
            f"{np.mean(claimed):.4f}",
            f"{100 * np.mean(bias):+.3f} +- {100 * np.std(bias) / np.sqrt(seeds):.3f} %",
        )


def nods(seed: int, seeds: int) -> None:
    """Print errors with nods fitted together and one by one."""
    print()
    write_head("S/N", "fitted", "95 % error of hit columns", "pull")
    for ratio in (5.0, 11.0, 45.0):
        for together in (False, True):
            errors, pulls = [], []
            for number in range(max(seeds // 3, 1)):
                each = [
                    simulate_trace(signal_to_noise=ratio, bad_pixels="clusters", nod=n, seed=seed + 3 * number + n)
                    for n in (-1, 0, 1)
                ]
                slits = [slit for slit, _ in each]
                models = nsxr.fit_trace_model(slits) if together else [nsxr.fit_trace_model(slit) for slit in slits]
                for (slit, truth), model in zip(each, models, strict=True):
                    spectrum = nsxr.extract_spectrum(slit, model)
                    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
                    near = np.abs(truth["row"] - truth["trace"]) < 1.6
                    hit = (truth["is_bad"] & near).any("row").values & (spectrum["dq"].values == 0)
                    error = spectrum["flux"].values - within
                    errors.append((error / within)[hit])
                    pulls.append((error / deviation(spectrum))[hit])
            error, pull = np.concatenate(errors), np.concatenate(pulls)
            label = "together" if together else "one by one"
            write_row(f"{ratio:.0f}", label, f"{100 * np.percentile(np.abs(error), 95):.2f} %", f"{pull.std():.3f}")


def backgrounds(seed: int, seeds: int) -> None:
    """Print pulls of pixels after backgrounds were subtracted, with and without their variances."""
    print()
    write_head("backgrounds", "nsxr", "jwst's way")

    def sky(number: int) -> xr.Dataset:
        slit, _ = simulate_trace(signal_to_noise=0.1, background=100.0, bad_pixels="none", seed=number)
        return slit.assign_attrs(filename=f"e{number}_cal.fits", S_BKDSUB=None)

    def pull(slit: xr.Dataset) -> float:
        return float((slit["sci"] / np.sqrt(slit["var_poisson"] + slit["var_rnoise"])).std())

    ways: dict[str, Callable[[list[xr.Dataset], list[xr.Dataset]], tuple[float, float]]] = {}
    for n in (1, 2, 4):

        def difference(science: list[xr.Dataset], others: list[xr.Dataset], n: int = n) -> tuple[float, float]:
            return tuple(pull(nsxr.subtract_background(science[0], others[:n], method=m)) for m in ("optimal", "peer"))

        ways[str(n)] = difference

    def shared(science: list[xr.Dataset], others: list[xr.Dataset]) -> tuple[float, float]:
        subtracted = [
            [nsxr.subtract_background(one, others[:1], method=m) for one in science] for m in ("optimal", "peer")
        ]
        return pull(nsxr.average_exposures(subtracted[0])), pull(nsxr.average_exposures(subtracted[1]))

    ways["1, shared by four exposures"] = shared
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(seeds):
        each = [sky(seed + 8 * number + k) for k in range(8)]
        for name, way in ways.items():
            found[name].append(way(each[:4], each[4:]))
    for name, values in found.items():
        ours, theirs = np.sqrt(np.mean(np.square(values), axis=0))
        write_row(name, f"{ours:.3f}", f"{theirs:.3f}")


def outliers(seed: int, seeds: int) -> None:
    """Print how many outliers are found and how many good pixels are flagged, on lines and elsewhere."""
    print()
    write_head("exposures", "S/N", "found of 7 sigma", "of 10 sigma", "good pixels flagged: lines", "elsewhere")
    for count in (1, 2, 3, 6):
        for ratio in (11.0, 60.0):
            recall, counts = [], np.zeros(4)
            for strength in (7.0, 10.0):
                found = total = 0
                for number in range(max(seeds // 4, 1)):
                    slits, hits, truths = [], [], []
                    for k in range(count):
                        one = seed + 10 * number + k
                        slit, truth = simulate_trace(signal_to_noise=ratio, lines=True, nod=k % 3 - 1, seed=one)
                        random = np.random.default_rng(one)
                        near = (np.abs(truth["row"] - truth["trace"]) < 2.0).values
                        hit = (random.random(near.shape) < 0.01) & near & ~truth["is_bad"].values
                        # the tolerance on undersampled flanks is added to the noise
                        light = (truth["flux"] * truth["profile"]).transpose(*slit["sci"].dims).values / 1e6
                        around = np.maximum(np.maximum(np.roll(light, 1, 0), np.roll(light, -1, 0)), light)
                        sci = slit["sci"].copy(deep=True)
                        sci.values[hit] += (strength * np.sqrt(truth["variance"].values) + 0.1 * around)[hit]
                        slits.append(slit.assign(sci=sci))
                        hits.append(hit)
                        truths.append((near & ~hit & ~truth["is_bad"].values, truth["flux"].values))
                    for slit, hit, (core, flux) in zip(nsxr.flag_outliers(slits), hits, truths, strict=True):
                        flagged = (slit["dq"].values & np.uint32(PixelFlag.OUTLIER)) > 0
                        found, total = found + (flagged & hit).sum(), total + hit.sum()
                        line = core & (flux > 2 * np.median(flux))
                        rest = core & ~line
                        counts += [(flagged & line).sum(), line.sum(), (flagged & rest).sum(), rest.sum()]
                recall.append(found / total)
            write_row(
                count,
                f"{ratio:.0f}",
                *(f"{100 * part:.1f} %" for part in recall),
                *(f"{100 * counts[n] / counts[n + 1]:.3f} %" for n in (0, 2)),
            )


TABLES: dict[str, Callable[[int, int], None]] = {
    "limits": limits,
    "nods": nods,
    "backgrounds": backgrounds,
    "outliers": outliers,
}


def main() -> None:
    """Print the tables."""
    parser = make_parser(__doc__)
    add_choices(parser, "tables", ["divots", *TABLES])
    add_peer(parser)
    parser.add_argument("--seed", type=int, default=1000, help="first seed")
    parser.add_argument("--seeds", type=int, default=40, help="spectra for each scene")
    given = parser.parse_args()
    if "divots" in given.tables:
        divots(peer_python(given.peer), given.seed, given.seeds)
    for name, table in TABLES.items():
        if name in given.tables:
            table(given.seed, given.seeds)


if __name__ == "__main__":
    main()
