"""Spectra with known truth: what bad pixels, backgrounds and positions do to fluxes and to their errors.

python ci/spectra.py [--seed 1000] [--seeds 40]

Undersampled, tilted traces (FWHM 1.8 pixels) with 1.2 % bad pixels, or clusters of 2 to 3 rows by 2 columns, smooth
and with lines (``nsxr.simulate.simulate_trace``). Methods: nothing, a box that leaves missing pixels out; the
observatory's ``mingrad`` and ``fit_profile`` (``nsxr.replace_pixels``, which gives the values of jwst 3.0.0) before the
box; nsxr; and least squares with the true profile, variances and pixels (oracle).
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import xarray as xr

import nsxr
from nsxr.simulate import simulate_trace

PARTS = ("poisson", "rnoise", "flat")
SCENES = [(bad, ratio) for bad in ("isolated", "clusters") for ratio in (11.0, 45.0, 150.0)]


def deviation(spectrum: xr.Dataset) -> np.ndarray:
    """Return the claimed standard deviation of the flux."""
    return np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in PARTS))


def box(slit: xr.Dataset, model: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum over the aperture of pixels that are there, and its deviation."""
    there = ((slit["dq"] & np.uint32(1)) == 0) & np.isfinite(slit["sci"])
    weight = model["aperture"].where(there, 0.0)
    flux = (weight * slit["sci"].where(there, 0.0)).sum("cross_dispersion")
    variance = (weight**2 * (slit["var_poisson"] + slit["var_rnoise"]).where(there, 0.0)).sum("cross_dispersion")
    return flux.values * 1e6, np.sqrt(variance.values) * 1e6


def oracle(slit: xr.Dataset, truth: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the least-squares flux with the true profile and variances, and its deviation."""
    good = ~truth["is_bad"] & np.isfinite(slit["sci"])
    weight = (truth["profile"] / truth["variance"]).where(good, 0.0)
    precision = (weight * truth["profile"]).sum("cross_dispersion")
    flux = (weight * slit["sci"].where(good, 0.0)).sum("cross_dispersion") / precision
    return flux.values * 1e6, np.sqrt(1 / precision.values) * 1e6


def without_values(slit: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Return the slit as the observatory's pipeline has it after stage 2: bad pixels are NaN."""
    names = ("sci", "var_poisson", "var_rnoise")
    return slit.assign({name: slit[name].where(~truth["is_bad"]).assign_attrs(slit[name].attrs) for name in names})


def methods(slit: xr.Dataset, truth: xr.Dataset) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, float]]:
    """Yield name, relative error, deviation over claimed deviation, usable columns, and seconds."""
    start = time.process_time()
    model = nsxr.fit_trace_model(slit)
    fitted = time.process_time() - start
    kept = None
    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("cross_dispersion")).values
    for weighting in ("profile", "box"):
        start = time.process_time()
        spectrum = nsxr.extract_spectrum(slit, model, weighting=weighting)
        seconds = fitted + time.process_time() - start
        kept = spectrum["dq"].values == 0
        error = spectrum["flux"].values - within
        yield f"nsxr, {weighting}", error / within, error / deviation(spectrum), kept, seconds
    holed = without_values(slit, truth)
    for algorithm in ("nothing", "mingrad", "fit_profile"):
        start = time.process_time()
        filled = holed if algorithm == "nothing" else nsxr.replace_pixels(holed, algorithm=algorithm)
        flux, sigma = box(filled, model)
        seconds = time.process_time() - start
        yield algorithm, (flux - within) / within, (flux - within) / np.where(sigma > 0, sigma, np.nan), kept, seconds
    flux, sigma = oracle(slit, truth)
    true = truth["flux"].values
    yield "oracle", (flux - true) / true, (flux - true) / sigma, kept, 0.0


def divots(seed: int, seeds: int) -> None:
    """Print errors of columns with bad pixels, and of the others."""
    print("\n| scene | S/N | method | 95 % error | pull | 95 % error, all hit | clean: pull | clean: bias | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for bad, ratio in SCENES:
        found: dict[str, list[tuple[np.ndarray, ...]]] = {}
        flagged = total = 0
        for number in range(seeds):
            slit, truth = simulate_trace(
                signal_to_noise=ratio, bad_pixels=bad, lines=bool(number % 2), offset=0.2, seed=seed + number
            )
            near = np.abs(truth["cross_dispersion"] - truth["trace"]) < 1.6
            hit = (truth["is_bad"] & near).any("cross_dispersion").values
            for name, error, pull, kept, seconds in methods(slit, truth):
                found.setdefault(name, []).append(
                    (error[hit & kept], pull[hit & kept], error[hit], pull[~hit], error[~hit], np.array([seconds]))
                )
            flagged, total = flagged + (hit & ~kept).sum(), total + hit.sum()
        for name, parts in found.items():
            error, pull, every, clean, rest, seconds = (np.concatenate(p) for p in zip(*parts, strict=True))
            print(
                f"| {bad} | {ratio:.0f} | {name} | {100 * np.nanpercentile(np.abs(error), 95):.2f} % | "
                f"{np.nanstd(pull):.3f} | {100 * np.nanpercentile(np.abs(every), 95):.2f} % | {np.nanstd(clean):.3f} | "
                f"{100 * np.nanmean(rest):+.3f} % | {np.median(seconds):.3f} |"
            )
        print(f"| {bad} | {ratio:.0f} | | {flagged} of {total} hit columns are flagged | | | | | |")


def limits(seed: int, seeds: int) -> None:
    """Print signal to noise over the limit of Cramer and Rao, and errors of positions."""
    print("\n| S/N | S/N over limit | position: mean, rms error | claimed | bias of the flux |")
    print("| --- | --- | --- | --- | --- |")
    for ratio in (5.0, 20.0, 45.0, 150.0):
        gain, error, claimed, bias = [], [], [], []
        for number in range(seeds):
            slit, truth = simulate_trace(
                signal_to_noise=ratio, bad_pixels="none", offset=0.6 * np.sin(number), seed=seed + number
            )
            model = nsxr.fit_trace_model(slit)
            spectrum = nsxr.extract_spectrum(slit, model)
            inside = model["aperture"] > 0
            limit = 1 / (truth["profile"] ** 2 / truth["variance"]).where(inside, 0.0).sum("cross_dispersion")
            within = truth["flux"] * (truth["profile"] * model["aperture"]).sum("cross_dispersion")
            scatter = np.std(
                (spectrum["flux"].values - within.values) / (np.sqrt(limit.values) * 1e6 * within / truth["flux"])
            )
            gain.append(1 / scatter)
            centroid = (truth["profile"] * truth["cross_dispersion"]).sum("cross_dispersion")
            error.append(float((model["trace"] - centroid).mean()))
            claimed.append(float(model["position_uncertainty"]))
            bias.append(float((spectrum["flux"] - within).sum() / within.sum()))
        print(
            f"| {ratio:.0f} | {np.mean(gain):.3f} | {np.mean(error):+.4f}, {np.sqrt(np.mean(np.square(error))):.4f} | "
            f"{np.mean(claimed):.4f} | {100 * np.mean(bias):+.3f} +- {100 * np.std(bias) / np.sqrt(seeds):.3f} % |"
        )


def nods(seed: int, seeds: int) -> None:
    """Print what fitting nods together is worth."""
    print("\n| S/N | fitted | 95 % error of hit columns | pull |")
    print("| --- | --- | --- | --- |")
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
                    within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("cross_dispersion")).values
                    near = np.abs(truth["cross_dispersion"] - truth["trace"]) < 1.6
                    hit = ((truth["is_bad"] & near).any("cross_dispersion") & (spectrum["dq"] == 0)).values
                    error = spectrum["flux"].values - within
                    errors.append((error / within)[hit])
                    pulls.append((error / deviation(spectrum))[hit])
            error, pull = np.concatenate(errors), np.concatenate(pulls)
            label = "together" if together else "one by one"
            print(f"| {ratio:.0f} | {label} | {100 * np.percentile(np.abs(error), 95):.2f} % | {pull.std():.3f} |")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1000, help="first seed")
    parser.add_argument("--seeds", type=int, default=40, help="spectra for each scene")
    given = parser.parse_args()
    divots(given.seed, given.seeds)
    limits(given.seed, given.seeds)
    nods(given.seed, given.seeds)


if __name__ == "__main__":
    main()
