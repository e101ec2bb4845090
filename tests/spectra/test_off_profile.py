"""Lines that are distributed otherwise than the continuum keep their light, and leave the profile as it is."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.kernels.spectra.off_profile import columns_off_profile
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace
from nsxr.simulate.traces import ELECTRON
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.outlier_detection import flag_outliers
from nsxr.spectra.trace_model import fit_trace_model

LINES = (60.0, 140.3, 330.7)
NEBULAE = {
    "whole slit": lambda distance, column: np.abs(distance) < 6.5,
    "beside the source": lambda distance, column: np.exp(-0.5 * ((distance - 1) / 0.9) ** 2),
    "narrower than the continuum": lambda distance, column: np.exp(-0.5 * (distance / 0.5) ** 2),
    "rotating": lambda distance, column: np.exp(-0.5 * ((distance - 0.7 * column) / 0.9) ** 2),
}


def nebula(kind: str, strength: float, **simulated: float) -> tuple[xr.Dataset, xr.Dataset, xr.DataArray]:
    """Return a point source with lines of a nebula, so many times the peak of its continuum; truth; true image."""
    slit, truth = simulate_trace(bad_pixels="none", **simulated)  # type: ignore[arg-type]
    column, distance = np.arange(420), (truth["row"] - truth["trace"]).values
    light = (truth["flux"] * truth["profile"]).transpose(*slit["sci"].dims) / 1e6
    line = sum(np.exp(-0.5 * (column - at) ** 2) * NEBULAE[kind](distance, column - at) for at in LINES)
    added = np.where(np.isfinite(slit["sci"]), strength * float(light.max()) * line, 0.0)
    electrons = np.random.default_rng(7).poisson(added / ELECTRON)
    changed = {
        "sci": (slit["sci"] + electrons * ELECTRON).astype(np.float32).assign_attrs(slit["sci"].attrs),
        "var_poisson": (slit["var_poisson"] + electrons * ELECTRON**2).astype(np.float32),
    }
    return slit.assign(changed), truth, light + added


@pytest.mark.parametrize(("signal_to_noise", "strength"), [(45.0, 20.0), (150.0, 5.0)])
@pytest.mark.parametrize("source", ["POINT", "EXTENDED"])
@pytest.mark.parametrize("kind", list(NEBULAE))
def test_lines_keep_their_light(kind: str, source: str, signal_to_noise: float, strength: float) -> None:
    slit, _, image = nebula(kind, strength, signal_to_noise=signal_to_noise, seed=1)
    slit.attrs["SRCTYPE"] = source
    model = fit_trace_model(slit, background="none")
    spectrum = extract_spectrum(slit, model)
    wanted = (image * model["aperture"]).sum("row").values * 1e6
    deviation = np.sqrt(sum(spectrum[f"flux_var_{part}"] for part in ("poisson", "rnoise", "flat"))).values
    pull = (spectrum["flux"].values - wanted) / deviation
    away = np.ones(420, dtype=bool)
    for at in LINES:
        line = slice(int(at) - 4, int(at) + 6)
        assert spectrum["flux"].values[line].sum() == pytest.approx(wanted[line].sum(), rel=0.01)
        away[line] = False
    assert np.std(pull[~away]) < 1.6
    assert (0.9 if source == "POINT" else 0.5) < np.std(pull[away]) < 1.1  # profiles as wide as a slit are less sure
    assert (model["off_profile"].values & away).sum() <= 6
    assert not spectrum["dq"].any()


def test_nebular_lines_are_no_outliers_between_exposures() -> None:
    slits = [nebula("beside the source", 10.0, nod=n, seed=n + 2)[0] for n in (-1, 0, 1)]
    for slit in flag_outliers(slits, background="none"):
        assert ((slit["dq"].values & np.uint32(PixelFlag.OUTLIER)) > 0).sum() <= 1


@pytest.mark.skipif("NSXR_REAL_DATA" not in os.environ, reason="needs real data")
@pytest.mark.filterwarnings("ignore:.*WAVELENGTH is missing:nsxr.errors.DegradedResultWarning")
def test_lines_of_a_real_nebula() -> None:
    (path,) = Path(os.environ["NSXR_REAL_DATA"], "fs_jw01492").glob("*_s2d.fits")
    ((_, slit),) = nsxr.iterate_slits(nsxr.open_slits(path))
    slit = slit.compute()
    model = fit_trace_model(slit)
    found = extract_spectrum(slit, model)["flux"].values
    wanted = (slit["sci"] * model["aperture"]).sum("cross_dispersion").values * 1e6
    reach = np.nanmedian(found / wanted)  # skirts of the subtracted nods take 2 % of the sum
    for at in (70, 193, 210, 505):  # with 0.45 to 0.96 of their light before
        line, beside = slice(at - 4, at + 5), slice(at + 6, at + 11)
        excess = [flux[line].sum() - 9 * np.median(flux[beside]) for flux in (found, wanted)]
        assert excess[0] == pytest.approx(excess[1] * reach, rel=0.03)


def test_is_leave_one_out() -> None:
    random = np.random.default_rng(5)
    profile = np.repeat(np.array([0.05, 0.3, 0.4, 0.2, 0.05])[None, :, None], 40, axis=2)
    variance = random.uniform(0.5, 2.0, profile.shape)
    image = 100 * profile + random.normal(size=profile.shape) * np.sqrt(variance)
    image[0, 2, 5] += 60  # a hit
    image[0, :, 10] += -30, 30, 30, -30, 0  # another profile
    image[0, 2, 20:23] += 60  # a line that is narrower
    image[0, [1, 3], 30] += 30, -30  # no line
    inside = random.random(profile.shape) > 0.05
    inside[:, :, [5, 10, 20, 21, 22, 30]] = True
    lines = (np.arange(40) != 30)[None]
    limit = 5 * np.sqrt(variance)

    def residual(column: int, kept: np.ndarray) -> np.ndarray:
        p, w = profile[0, :, column], kept / variance[0, :, column]
        return image[0, :, column] - p * (w * p * image[0, :, column]).sum() / (w * p * p).sum()

    def deviates(column: int, row: int) -> float:
        if not inside[0, row, column]:
            return 0.0
        value = residual(column, inside[0, :, column])[row]
        return float(np.sign(value) * (abs(value) > limit[0, row, column]))

    wanted, suspected = np.zeros(40, dtype=bool), np.zeros(40, dtype=bool)
    for x in range(40):
        there = inside[0, :, x]
        explained = False
        for row in np.flatnonzero(there):
            sign = np.sign(residual(x, there)[row])
            kept = there & (np.arange(5) != row)
            beside = [deviates(c, row) for c in (x - 1, x + 1) if 0 <= c < 40 and lines[0, c]]
            fits = (np.abs(residual(x, kept)) <= limit[0, :, x])[kept].all()
            explained |= bool(fits and sign not in beside)
        contradicts = any(deviates(x, row) for row in range(5))
        suspected[x] = lines[0, x] and contradicts
        wanted[x] = suspected[x] and not explained
    for _ in range(40):
        wanted |= suspected & (np.roll(wanted, 1) | np.roll(wanted, -1))
    found = columns_off_profile(image, variance, profile, limit, inside, lines)
    np.testing.assert_array_equal(found[0], wanted)
    assert not found[0, 5]
    assert found[0, 10]
    assert found[0, 20:23].all()
    assert not found[0, 30]
