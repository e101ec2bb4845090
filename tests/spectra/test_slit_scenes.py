"""Light beside a source: neighbours, subtracted nods, sky in open shutters, tilted slits, against known truth."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import NsxrError
from nsxr.kernels.spectra.column_fit import solve_parts
from nsxr.kernels.spectra.slit_geometry import nod_distances, open_part, slit_aperture
from nsxr.pipelines.extract import extract_source
from nsxr.products.slits_read import open_slits
from nsxr.simulate import simulate_trace
from nsxr.slits.collection import iterate_slits
from nsxr.spectra.extraction import extract_spectrum
from nsxr.spectra.trace_model import fit_trace_model

PARTS = ("poisson", "rnoise", "flat")


def measured(slit: xr.Dataset, truth: xr.Dataset, **fitting: Any) -> tuple[float, float, float, int]:
    """Return flux over truth in the aperture, error of the position, scatter over claimed, number of neighbours."""
    model = fit_trace_model(slit, **fitting)
    spectrum = extract_spectrum(slit, model)
    wanted = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).values
    pull = (spectrum["flux"].values - wanted) / np.sqrt(sum(spectrum[f"flux_var_{part}"].values for part in PARTS))
    position = float((model["trace"] - truth["trace"]).mean())
    scatter = float(np.sqrt(np.nanmean(np.diff(pull) ** 2) / 2))
    return float(np.nansum(spectrum["flux"]) / wanted.sum()), position, scatter, int(model["neighbours"])


def with_neighbour(brightness: float, distance: float) -> tuple[xr.Dataset, xr.Dataset]:
    slit, truth = simulate_trace(bad_pixels="none", seed=1)
    _, other = simulate_trace(bad_pixels="none", seed=2, offset=distance)
    light = (other["profile"] * other["flux"] / 1e6 * brightness).values.astype("f4")
    slit["sci"] = (slit["sci"] + light).assign_attrs(slit["sci"].attrs)
    return slit, truth


@pytest.mark.parametrize("signal_to_noise", [45.0, 150.0])
@pytest.mark.parametrize(("nod", "other_nods"), [(0, 2), (1, 1)])
def test_extended_source_with_subtracted_nods(signal_to_noise: float, nod: int, other_nods: int) -> None:
    nods = {"negative_nods": True, "nod": nod, "other_nods": other_nods, "seed": 1}
    slit, truth = simulate_trace(signal_to_noise=signal_to_noise, **nods)  # type: ignore[arg-type]
    flux, position, scatter, _ = measured(slit.assign_attrs(SRCTYPE="EXTENDED"), truth)
    assert flux == pytest.approx(1.0, abs=0.03)
    assert abs(position) < 0.1
    assert scatter == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("nod", [-1, 0])
def test_extended_source_that_overlaps_with_its_nods(nod: int) -> None:
    slit, truth = simulate_trace(
        signal_to_noise=100.0, negative_nods=True, nod=nod, fwhm=4.0, source_type="EXTENDED", seed=31
    )
    flux, position, _, _ = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.03)
    assert abs(position) < 0.1


@pytest.mark.parametrize(("nod", "shutters", "other_nods"), [(1, "011", 1), (0, "110", 2)])
@pytest.mark.parametrize("signal_to_noise", [45.0, 150.0])
def test_extended_source_beside_a_closed_shutter_with_nods(
    signal_to_noise: float, nod: int, shutters: str, other_nods: int
) -> None:
    slit, truth = simulate_trace(
        signal_to_noise=signal_to_noise,
        negative_nods=True,
        nod=nod,
        other_nods=other_nods,
        shutters=shutters,
        fwhm=4.0,
        source_type="EXTENDED",
        seed=41,
    )
    flux, position, scatter, _ = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.03)
    assert abs(position) < 0.1
    assert scatter == pytest.approx(1.0, abs=0.15)


def test_aperture_of_an_extended_source_follows_the_slit() -> None:
    fluxes = []
    for tilt in (0.0, 0.012, -0.03):
        slit, truth = simulate_trace(
            signal_to_noise=100.0, tilt=tilt, rows=44, fwhm=4.0, source_type="EXTENDED", bad_pixels="none", seed=3
        )
        model = fit_trace_model(slit)
        assert not model["aperture"].where(slit["wavelength"].isnull(), 0.0).any()
        heights = model["aperture"].sum("row")
        assert float(heights.std()) < 0.5
        spectrum = extract_spectrum(slit, model)
        fluxes.append(float(spectrum["flux"].sum() / truth["flux"].sum()))
        assert float(spectrum["npixels"].max()) <= float(np.isfinite(slit["wavelength"]).sum("row").max())
    np.testing.assert_allclose(fluxes, 1.0, atol=0.01)


@pytest.mark.parametrize("brightness", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("distance", [7.0, 3.0, -4.0])
def test_neighbours_are_neither_background_nor_the_source(brightness: float, distance: float) -> None:
    slit, truth = with_neighbour(brightness, distance)
    flux, position, _, neighbours = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.01 if distance == 7.0 else 0.03)
    assert abs(position) < 0.05
    assert neighbours == 1
    if distance == 7.0:
        plain, _, _, _ = measured(slit, truth, background="none")
        assert flux == pytest.approx(plain, abs=0.01)


def test_no_neighbour_is_made_up() -> None:
    for seed in range(4):
        slit, truth = simulate_trace(signal_to_noise=150.0, lines=bool(seed % 2), seed=seed, offset=0.2 * seed)
        assert measured(slit, truth)[3] == 0


@pytest.mark.parametrize(("nod", "shutters"), [(0, "111"), (1, "111"), (-1, "110")])
def test_sky_falls_through_open_shutters_alone(nod: int, shutters: str) -> None:
    slit, truth = simulate_trace(signal_to_noise=60.0, sky=400.0, nod=nod, shutters=shutters, seed=5)
    assert "S_BKDSUB" not in slit.attrs
    flux, position, scatter, neighbours = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.03)
    assert abs(position) < 0.1
    assert scatter == pytest.approx(1.0, abs=0.15)
    assert neighbours == 0
    spectrum = extract_spectrum(slit)
    level = float(spectrum["background"].mean()) * 4.8e-13 / 1e-15
    assert level == pytest.approx(400.0, rel=0.05)


def test_sky_and_neighbour() -> None:
    slit, truth = simulate_trace(signal_to_noise=60.0, sky=200.0, neighbour=1.0, neighbour_distance=-5.0, seed=6)
    flux, position, _, neighbours = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.05)
    assert abs(position) < 0.1
    assert neighbours == 1


def test_neighbour_of_a_nodded_source_has_nods_of_its_own() -> None:
    slit, truth = simulate_trace(negative_nods=True, nod=-1, neighbour=0.5, neighbour_distance=-7.5, seed=8)
    flux, position, _, neighbours = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.03)
    assert abs(position) < 0.05
    assert neighbours == 1


@pytest.mark.parametrize(("brightness", "distance"), [(0.3, 3.0), (0.1, -3.0)])
def test_near_neighbour_of_a_nodded_source_without_slope(brightness: float, distance: float) -> None:
    slit, truth = simulate_trace(
        negative_nods=True, tilt=0.0, neighbour=brightness, neighbour_distance=distance, seed=51
    )
    flux, _, scatter, _ = measured(slit, truth)
    assert flux == pytest.approx(1.0, abs=0.05)
    assert scatter == pytest.approx(1.0, abs=0.15)


def test_width_and_tilt_are_bound() -> None:
    slit, _ = simulate_trace(signal_to_noise=0.5, columns=120, seed=9)
    random = np.random.default_rng(1)
    wild = slit["sci"] + (3e-14 * np.linspace(-1, 1, 30)[:, None] * random.normal(size=(30, 120))).astype("f4")
    model = fit_trace_model(slit.assign(sci=wild.assign_attrs(slit["sci"].attrs)), background="none")
    assert float(model["width"].min()) > 0.15
    assert float(model["width"].max()) < 6.0
    assert float(model["trace"].max() - model["trace"].min()) < 10.0


def test_geometry_of_shutters() -> None:
    slit, _ = simulate_trace(tilt=0.02, rows=44)
    wavelength = slit["wavelength"].values
    open_, closed = open_part(wavelength, "1x1"), open_part(wavelength, "1x0")
    aperture = slit_aperture(wavelength)
    assert open_ is not None
    assert closed is not None
    assert aperture is not None
    np.testing.assert_allclose(open_.sum(0), 3.3 * 4.4, rtol=0.02)  # three shutters and two bars
    np.testing.assert_allclose(closed.sum(0), 2.15 * 4.4, rtol=0.02)
    assert (open_ - closed).min() > -1e-9
    assert not (aperture > 0)[np.isnan(wavelength)].any()
    np.testing.assert_allclose(nod_distances(wavelength, "1x1"), [5.06, -5.06], rtol=0.02)
    assert open_part(wavelength, "1111x1111") is None  # so many shutters are not in these rows
    assert open_part(np.ones((5, 20)), "1x1") is None


@pytest.mark.parametrize("tilt", [0.0, 0.005, -0.012])
def test_distances_of_nods_do_not_depend_on_the_slope(tilt: float) -> None:
    slit, _ = simulate_trace(tilt=tilt)
    np.testing.assert_allclose(nod_distances(slit["wavelength"].values, "1x1"), [5.06, -5.06], atol=0.02)


def test_parts_of_columns_are_least_squares() -> None:
    random = np.random.default_rng(2)
    parts, precision = random.random((3, 2, 9, 4)), random.random((2, 9, 4))
    images = random.normal(size=(2, 9, 4))
    found, deviation = solve_parts(images, precision, parts)
    for e in range(2):
        for x in range(4):
            root = np.sqrt(precision[e, :, x])[:, None]
            design = parts[:, e, :, x].T * root
            wanted = np.linalg.lstsq(design, images[e, :, x] * root[:, 0], rcond=None)[0]
            np.testing.assert_allclose(found[:, e, x], wanted, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(
                deviation[:, e, x], np.sqrt(np.diag(np.linalg.inv(design.T @ design))), rtol=1e-3
            )


@pytest.mark.skipif("NSXR_REAL_DATA" not in os.environ, reason="NSXR_REAL_DATA is not set: no real products to read")
@pytest.mark.filterwarnings("ignore::nsxr.errors.DegradedResultWarning")
@pytest.mark.parametrize("source_type", [None, "EXTENDED"])
@pytest.mark.parametrize("pattern", ["mos_jw02565/*_0000*_cal.fits", "mos_jw04233/*_phot.*.fits", "mos_jw01345/*.fits"])
def test_real_nods_of_any_type_give_spectra(pattern: str, source_type: str | None) -> None:
    slits = []
    for path in sorted(Path(os.environ["NSXR_REAL_DATA"]).glob(pattern)):
        slits += [
            slit.isel({slit["sci"].dims[-1]: slice(150, 230)}).load() for _, slit in iterate_slits(open_slits(path))
        ]
    each = slits if source_type is None else [slit.assign_attrs(SRCTYPE=source_type) for slit in slits]
    found = extract_source(each).compute()
    for spectrum in found.spectra:
        assert float((spectrum["dq"] == 0).mean()) > 0.8
    if pattern.startswith("mos_jw02565"):
        fluxes = [float(spectrum["flux"].where(spectrum["dq"] == 0).sum()) for spectrum in found.spectra]
        np.testing.assert_allclose(fluxes, np.mean(fluxes), rtol=0.12)  # shutters lose that much


@pytest.mark.skipif("NSXR_REAL_DATA" not in os.environ, reason="NSXR_REAL_DATA is not set: no real products to read")
@pytest.mark.filterwarnings("ignore::nsxr.errors.DegradedResultWarning")
def test_no_slit_of_any_real_file_crashes() -> None:
    number = 0
    for path in sorted(Path(os.environ["NSXR_REAL_DATA"]).rglob("*.fits")):
        try:
            slits = list(iterate_slits(open_slits(path)))[:1]
        except NsxrError:  # no slits, as references and spectra
            continue
        for _, slit in slits:
            part = slit.isel({slit["sci"].dims[-1]: slice(100, 160)}).load()
            spectrum = extract_source([part]).compute().spectra[0]
            assert spectrum["flux"].shape == (part["sci"].shape[-1],)
            number += 1
    assert number >= 8
