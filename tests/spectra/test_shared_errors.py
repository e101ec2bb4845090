"""Errors of references that wavelengths and exposures share."""

import json

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.simulate import simulate_trace
from nsxr.spectra.combination import combine_spectra
from nsxr.spectra.extraction import _with_shared_noise, extract_spectrum
from nsxr.spectra.shared_errors import origin_of, spectral_covariance
from nsxr.spectra.trace_model import fit_trace_model
from nsxr.testing import forbid_computes, make_spectrum

COLUMNS = 80


@pytest.fixture(scope="module")
def slit():
    """A slit with the errors of a sensitivity, 1 % to 2 %, and of a flat field, 0.3 % of it from tables."""
    slit, _ = simulate_trace(columns=COLUMNS, signal_to_noise=60.0)
    square = slit["sci"].astype(np.float64) ** 2
    error = xr.DataArray(np.linspace(0.01, 0.02, COLUMNS), dims="column")
    slit["var_photom"] = (square * error**2).transpose("row", "column").astype(np.float32)
    slit["var_flat"] = (square * 0.005**2).astype(np.float32)
    slit["flatfield_common"] = xr.full_like(slit["sci"], 0.36)
    return slit.drop_attrs(deep=False).assign_attrs(slit.attrs)


@pytest.fixture(scope="module")
def model(slit):
    return fit_trace_model(slit)


@pytest.mark.parametrize("weighting", ["profile", "box"])
def test_errors_over_flux(slit, model, weighting):
    spectrum = extract_spectrum(slit, model, weighting=weighting)
    there = spectrum["dq"] == 0
    np.testing.assert_allclose(spectrum["relative_error_photom"][there], np.linspace(0.01, 0.02, COLUMNS)[there], 1e-4)
    np.testing.assert_allclose(spectrum["relative_error_flat"][there], 0.003, 1e-4)
    whole = extract_spectrum(slit.drop_vars("flatfield_common"), model, weighting=weighting)
    np.testing.assert_allclose(spectrum["flux_var_flat"], 0.64 * whole["flux_var_flat"], 1e-5)
    assert "relative_error_flat" not in whole
    assert "relative_error_pathloss" not in spectrum


def test_a_pixel_of_infinite_error_is_left_out(slit, model):
    variance = slit["var_photom"].copy(deep=True)
    variance[::3, 40] = np.inf  # and no warning of numpy
    spectrum = extract_spectrum(slit.assign(var_photom=variance), model)
    expected = extract_spectrum(slit, model)["relative_error_photom"]
    xr.testing.assert_allclose(spectrum["relative_error_photom"], expected)


def test_shared_noise_of_large_weights():
    """Weights are large in columns that hardly see the source. Two pixels share noise: twice the variance of each."""
    weight = xr.DataArray(np.full((2, 1), 1e25, np.float32), dims=("row", "dispersion"))
    names = [f"{prefix}_var_{kind}" for prefix in ("flux", "sb") for kind in ("poisson", "rnoise", "flat")]
    values = dict.fromkeys(names, xr.DataArray([1e14], dims="dispersion"))
    found = _with_shared_noise(values, weight, xr.full_like(weight, 1e-36))
    np.testing.assert_allclose(found["flux_var_poisson"], 1e14 * (1 + 2 / 3), 1e-6)


def test_the_bars_in_a_sky_that_was_subtracted(slit, model):
    sky = slit.assign(var_barshadow=xr.full_like(slit["sci"], 1e-30)).assign_attrs(S_MSBSUB="COMPLETE")
    with forbid_computes():
        lazy = extract_spectrum(sky.chunk(), model.chunk())
    spectrum = lazy.compute()
    error = spectrum["weight"].sum("row") * 1e-15
    np.testing.assert_allclose(spectrum["relative_error_barshadow"] * spectrum["flux"], error, 1e-6)


def test_time_series_have_the_same_errors(slit, model):
    wanted = extract_spectrum(slit, model)
    images = ("sci", "dq", "var_poisson", "var_rnoise", "var_flat", "var_photom")
    series = slit.assign({name: slit[name].expand_dims(integration=4) for name in images})
    series["sci"] = series["sci"].copy()
    series["sci"][0, :, 30] = np.nan  # lost in one integration
    with forbid_computes():
        found = extract_spectrum(series.chunk(integration=1), model)
    for name in ("relative_error_photom", "relative_error_flat"):
        np.testing.assert_allclose(found[name], wanted[name])


def spectra(number, rng, *, place=None, photom="photom_1.fits", flat=0.0):
    """Spectra of a source of 100, with noise 1 and a sensitivity known to 1 %."""
    found = []
    for n in range(number):
        part = make_spectrum(rng.normal(100, 1, COLUMNS), 1.0, filename=f"exposure{n}_x1d.fits", R_PHOTOM=photom)
        part["relative_error_photom"] = ("dispersion", np.full(COLUMNS, 0.01))
        part["flux_var_flat"] = ("dispersion", np.full(COLUMNS, flat), {"units": "(Jy)2"})
        found.append(part if place is None else part.assign_coords(position_fitted=place[n]))
    return found


def test_the_error_of_a_sensitivity_does_not_average_down(rng):
    each = spectra(16, rng)
    combined = combine_spectra(each)
    np.testing.assert_allclose(combined["relative_error_photom"], 0.01)
    noise = sum(combined[name] for name in combined if name.startswith("flux_var"))
    np.testing.assert_allclose(noise, 1 / 16)
    covariance = spectral_covariance(combined)
    floor = np.outer(combined["flux"], combined["flux"]) * 0.01**2
    np.testing.assert_allclose(covariance, floor + np.eye(COLUMNS) / 16)
    error = float(covariance.sum()) ** 0.5 / float(combined["flux"].sum())
    assert error == pytest.approx(0.01, rel=0.01)


def test_errors_of_different_references_average_down(rng):
    each = [spectra(4, rng)[n].assign_attrs(R_PHOTOM=f"crds://photom_{n}.fits") for n in range(4)]
    np.testing.assert_allclose(combine_spectra(each)["relative_error_photom"], 0.005, 1e-3)
    each[0] = each[0].drop_vars("relative_error_photom")
    with pytest.warns(DegradedResultWarning, match="photom is missing"):
        found = combine_spectra(each)["relative_error_photom"]
    np.testing.assert_allclose(found, 0.01 / np.sqrt(3), 0.01)  # that of the other three


def test_errors_that_are_no_factor_of_the_flux_do_not_average_down_either(rng):
    each = spectra(4, rng)
    for part in each:
        part["flux"] = part["flux"] - 100.0
        part["relative_error_barshadow"] = 5.0 / part["flux"]
    combined = combine_spectra(each)
    np.testing.assert_allclose(combined["relative_error_barshadow"] * combined["flux"], 5.0)


@pytest.mark.parametrize(
    ("place", "shared"), [(None, 4.0), ([20.0] * 4, 4.0), ([20.0, 20.0, 25.0, 25.0], 2.0), ([20.0, 21.0] * 2, 3.0)]
)
def test_flat_fields_of_the_same_pixels_do_not_average_down(rng, place, shared):
    combined = combine_spectra(spectra(4, rng, place=place, flat=4.0), weighting="optimal")
    np.testing.assert_allclose(combined["flux_var_flat"] + combined["flux_var_shared"], 4.0 * shared / 4)


def test_pixels_in_common_are_found_by_their_weights(rng):
    each = spectra(2, rng, place=[20.0, 20.0], flat=4.0)
    for number, part in enumerate(each):
        weight = np.zeros((9, COLUMNS), np.float32)
        weight[2 + 3 * number : 6 + 3 * number] = 0.5
        part["weight"] = part["profile"] = (("row", "dispersion"), weight)
        part.coords["row"] = 100 + np.arange(9)
    combined = combine_spectra(each)  # one of four pixels is in both
    np.testing.assert_allclose(combined["flux_var_flat"] + combined["flux_var_shared"], 4.0 * (1 + 0.25) / 2)


def test_origins():
    history = [{"step": "photom", "status": "COMPLETE", "parameters": {}, "references": {"photom": "a.fits"}}]
    attrs = {"FILTER": "CLEAR", "GRATING": "PRISM", "R_PHOTOM": "crds://b.fits"}
    assert origin_of(attrs, "relative_error_photom") == ("b.fits", "CLEAR", "PRISM", "")
    attrs |= {"nsxr_steps": json.dumps(history), "EXP_TYPE": "NRS_FIXEDSLIT", "SLTNAME": "S400A1"}
    assert origin_of(attrs, "relative_error_photom") == ("a.fits", "CLEAR", "PRISM", "S400A1")


def test_a_covariance_needs_one_spectrum(rng):
    with pytest.raises(ModelError, match="variances"):
        spectral_covariance(xr.Dataset({"flux": ("dispersion", np.ones(3))}))
    with pytest.raises(ModelError, match="found no flux"):
        spectral_covariance(xr.Dataset({"flux_var_poisson": ("dispersion", np.ones(3))}))
    with forbid_computes():
        lazy = spectral_covariance(combine_spectra([part.chunk() for part in spectra(2, rng)], wavelength=np.ones(1)))
    assert lazy.chunks is not None


def test_neighbours_in_the_covariance(rng):
    wave = 1 + 0.01 * (np.arange(COLUMNS) + 0.5)
    one, other = spectra(2, rng)
    combined = combine_spectra([one, other.assign_coords(wavelength=("dispersion", wave))])
    found = spectral_covariance(combined.drop_vars("relative_error_photom")).to_numpy()
    np.testing.assert_array_equal(np.diag(found, 1), combined["flux_covariance"][:-1])
    np.testing.assert_array_equal(np.diag(found, -1), combined["flux_covariance"][:-1])
    assert np.diag(found, 1).max() == pytest.approx(1 / 16)


def test_an_error_that_is_not_known_is_that_of_the_other_spectra():
    parts = spectra(3, np.random.default_rng(6))
    expected = combine_spectra(parts)["relative_error_photom"]
    parts[1]["relative_error_photom"][10:20] = np.nan
    found = combine_spectra(parts)["relative_error_photom"]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    with pytest.warns(DegradedResultWarning, match="exposure2_x1d.fits: relative_error_photom is missing"):
        found = combine_spectra([*parts[:2], parts[2].drop_vars("relative_error_photom")])["relative_error_photom"]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    for part in parts:
        part["relative_error_photom"][30] = np.nan
    assert np.isnan(combine_spectra(parts)["relative_error_photom"][30])
    parts[0] = parts[0].assign(relative_error_photom=("row", np.full(5, 0.01)))
    with pytest.raises(ModelError, match="'relative_error_photom' has dims"):
        combine_spectra(parts)
