from functools import partial

import numpy as np
import pytest
import xarray as xr
from astropy.table import QTable

from nsxr.errors import ModelError, OutputExistsError, ParameterError
from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.products.light_curves import write_white_light_curve
from nsxr.spectra.white_light import white_light_curve
from nsxr.testing import assert_lazy_and_chunk_invariant

BAD = np.uint32(PixelFlag.DO_NOT_USE)
plain_sum = partial(white_light_curve, weighting="sum")


@pytest.fixture
def series(rng):
    def make(integrations=6, columns=30, detector="NRS1"):
        shape = (integrations, columns)
        dims = ("integration", "dispersion")
        spectrum = 1 + np.arange(columns)
        variables = {
            "flux": (dims, spectrum + rng.normal(0, 0.1, shape), {"units": "Jy"}),
            "flux_var_poisson": (dims, np.full(shape, 0.006), {"units": "(Jy)2"}),
            "flux_var_rnoise": (dims, np.full(shape, 0.004), {"units": "(Jy)2"}),
            "dq": (dims, np.zeros(shape, np.uint32)),
        }
        coordinates = {
            "integration": np.arange(integrations) + 1,
            "dispersion": 100 + np.arange(columns),
            "wavelength": ("dispersion", 2 + 0.1 * np.arange(columns), {"units": "um"}),
        } | {name: ("integration", 6e4 + i + np.arange(integrations)) for i, name in enumerate(TIME_COLUMNS)}
        return xr.Dataset(variables, coordinates, {"DETECTOR": detector, "FILTER": "F290LP", "INSTRUME": "NIRSPEC"})

    return make


def test_sum_and_variances(series):
    data = series()
    chunkings = ({"integration": 1}, {"integration": 4, "dispersion": 7}, {"integration": -1, "dispersion": -1})
    curve = assert_lazy_and_chunk_invariant(plain_sum, data, chunkings=chunkings, rtol=1e-13)
    np.testing.assert_allclose(curve["flux"], data["flux"].values.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(curve["flux_var_poisson"], 30 * 0.006)
    np.testing.assert_allclose(curve["flux_var_rnoise"], 30 * 0.004)
    np.testing.assert_array_equal(curve["n_wavelengths"], 30)
    assert curve["flux"].attrs["units"] == "Jy"
    assert curve["flux_var_poisson"].attrs["units"] == "(Jy)2"
    assert curve["flux"].dims == ("integration",)
    assert curve[TIME_COLUMNS[1]].equals(data[TIME_COLUMNS[1]])
    assert steps(curve)[-1]["step"] == "white_light"


def test_bounds_are_included(series):
    data = series()
    curve = plain_sum(data, min_wavelength=2.5, max_wavelength=3.0)
    np.testing.assert_allclose(curve["flux"], data["flux"].values[:, 5:11].sum(axis=1))
    np.testing.assert_array_equal(curve["n_wavelengths"], 6)


def test_without_any_wavelength_all_columns_count(series):
    data = series()
    blind = data.assign_coords(wavelength=data["wavelength"] * np.nan)
    np.testing.assert_array_equal(plain_sum(blind)["flux"], plain_sum(data)["flux"])
    assert np.isnan(plain_sum(blind, min_wavelength=2.5)["flux"]).all()


@pytest.mark.parametrize("how", ["flag", "flux", "variance"])
def test_a_wavelength_lost_once_is_made_up_for(series, how):
    """Else the curve would jump by its flux, 13, or the others lose it; noise of the sum is 0.5."""
    data = series()
    clean = plain_sum(data)
    if how == "flag":
        data["dq"].values[2, 12] = BAD
    elif how == "flux":
        data["flux"].values[2, 12] = np.nan
    elif how == "variance":
        data["flux_var_rnoise"].values[2, 12] = np.nan
    curve = plain_sum(data)
    np.testing.assert_array_equal(curve["n_wavelengths"], [30, 30, 29, 30, 30, 30])
    others = [0, 1, 3, 4, 5]
    xr.testing.assert_identical(curve.isel(integration=others), clean.isel(integration=others))
    missing = np.median(data["flux"].values[others, 12])
    has = np.delete(data["flux"].values[2], 12).sum()
    assert float(curve["flux"][2]) == pytest.approx(has * (1 + missing / (465 - 13)), abs=0.02)
    assert float(curve["flux"][2] - clean["flux"][2]) == pytest.approx(0, abs=0.5)
    factor = float(curve["flux"][2]) / has
    assert float(curve["flux_var_poisson"][2]) == pytest.approx(29 * 0.006 * factor**2)


def test_a_wavelength_without_a_value_is_left_out_of_all(series):
    data = series()
    wavelength = data["wavelength"].values.copy()
    wavelength[12] = np.nan
    curve = plain_sum(data.assign_coords(wavelength=("dispersion", wavelength)))
    np.testing.assert_array_equal(curve["n_wavelengths"], 29)
    np.testing.assert_allclose(curve["flux"], np.delete(data["flux"].values, 12, axis=1).sum(axis=1))
    data["dq"].values[:3, 12] = BAD  # half of the integrations lack it
    np.testing.assert_array_equal(plain_sum(data)["n_wavelengths"], 29)


def test_scattered_losses_keep_a_transit(series, rng):
    """Every wavelength is lost in some integration: none would be left if it were left out of all."""
    data = series(integrations=200, columns=100)
    depth = np.where(np.arange(200) // 50 == 1, 0.9, 1.0)[:, None]
    lost = rng.random((200, 100)) < 0.03
    data["flux"].values[:] *= depth
    clean = plain_sum(data)
    data["flux"].values[lost] = 1e9
    data["dq"].values[lost] = BAD
    curve = plain_sum(data)
    assert np.abs(curve["flux"] / clean["flux"] - 1).max() < 1e-3
    assert (curve["n_wavelengths"] == 100 - lost.sum(1)).all()


def test_without_light_wavelengths_count_alike(series):
    data = series()
    data["flux"].values[:] = data["flux"].values - (2 + np.arange(30))
    data["dq"].values[2, :10] = BAD
    curve = plain_sum(data, max_flagged=0.5)
    np.testing.assert_allclose(curve["flux"][2], 1.5 * data["flux"].values[2, 10:].sum())


def test_other_flags_do_not_count(series):
    data = series()
    data["dq"].values[:] = np.uint32(PixelFlag.FLUX_ESTIMATED)
    np.testing.assert_array_equal(plain_sum(data)["n_wavelengths"], 30)


def test_a_lost_integration_takes_no_wavelengths_along(series):
    data = series()
    data["dq"].values[3, :20] = BAD
    curve = plain_sum(data)
    np.testing.assert_array_equal(curve["n_wavelengths"], [30, 30, 30, 0, 30, 30])
    np.testing.assert_array_equal(np.isnan(curve["flux"]), [False, False, False, True, False, False])
    strict = plain_sum(data, max_flagged=1.0)
    np.testing.assert_array_equal(strict["n_wavelengths"], [30, 30, 30, 10, 30, 30])
    np.testing.assert_allclose(strict["flux"], 465, atol=3)


def test_nothing_left_is_nan(series):
    curve = plain_sum(series(), min_wavelength=9.0)
    assert np.isnan(curve["flux"]).all()
    np.testing.assert_array_equal(curve["n_wavelengths"], 0)


def test_scatter_is_what_the_variance_says(series):
    curve = plain_sum(series(integrations=2000))
    variance = curve["flux_var_poisson"] + curve["flux_var_rnoise"]
    pull = (curve["flux"] - curve["flux"].mean()) / np.sqrt(variance)
    assert float(pull.std()) == pytest.approx(1, abs=0.05)


def test_table(series, tmp_path):
    one, two = plain_sum(series()), plain_sum(series(integrations=4, detector="NRS2"))
    one["flux_var_flat"] = one["flux_var_poisson"].copy()  # all integrations share it
    path = write_white_light_curve([one, two.chunk()], tmp_path / "new" / "x_whtlt.ecsv")
    table = QTable.read(path, format="ascii.ecsv")
    names = ("MJD_UTC", "BJD_TDB", "whitelight_flux", "whitelight_flux_error", "n_wavelengths")
    assert table.colnames == [f"{name}_{detector}" for detector in ("NRS1", "NRS2") for name in names]
    np.testing.assert_array_equal(table["whitelight_flux_NRS1"].to_value("Jy"), one["flux"])
    np.testing.assert_array_equal(table["MJD_UTC_NRS1"], one[TIME_COLUMNS[1]])
    np.testing.assert_array_equal(table["BJD_TDB_NRS1"], one[TIME_COLUMNS[4]])
    error = np.sqrt(one["flux_var_poisson"] + one["flux_var_rnoise"])
    np.testing.assert_array_equal(table["whitelight_flux_error_NRS1"].to_value("Jy"), error)
    np.testing.assert_array_equal(table["whitelight_flux_NRS2"][:4].to_value("Jy"), two["flux"])
    assert np.isnan(table["whitelight_flux_NRS2"][4:]).all()
    np.testing.assert_array_equal(table["n_wavelengths_NRS2"], [30] * 4 + [0] * 2)
    assert table.meta["filter"] == "F290LP"
    with pytest.raises(OutputExistsError):
        write_white_light_curve(one, path)
    write_white_light_curve(one, path, overwrite=True)
    assert len(QTable.read(path, format="ascii.ecsv").colnames) == 5
    assert [p.name for p in path.parent.iterdir()] == ["x_whtlt.ecsv"]


def test_what_is_refused(series, tmp_path):
    data = series()
    with pytest.raises(ParameterError, match="min_wavelength"):
        plain_sum(data, min_wavelength=3.0, max_wavelength=2.0)
    with pytest.raises(ParameterError, match="max_flagged"):
        plain_sum(data, max_flagged=2.0)
    with pytest.raises(ModelError, match="integration"):
        plain_sum(data.isel(integration=0))
    with pytest.raises(ModelError, match="dq"):
        plain_sum(data.drop_vars("dq"))
    curve = plain_sum(data)
    with pytest.raises(ModelError, match="NRS1"):
        write_white_light_curve([curve, curve], tmp_path / "x.ecsv")
    with pytest.raises(ModelError, match="int_mid"):
        write_white_light_curve(curve.drop_vars(TIME_COLUMNS), tmp_path / "x.ecsv")
    assert not list(tmp_path.iterdir())


def test_a_flat_field_of_unknown_variance_loses_no_wavelength(series):
    data = series()
    unknown = xr.full_like(data["flux"], np.nan).assign_attrs(units="(Jy)2")
    curve = plain_sum(data.assign(flux_var_flat=unknown))
    np.testing.assert_array_equal(curve["flux"], plain_sum(data)["flux"])
    np.testing.assert_array_equal(curve["flux_var_flat"], 0)
    np.testing.assert_array_equal(curve["n_wavelengths"], 30)


@pytest.mark.parametrize("part", [4, 12, 29])
def test_a_poor_integration_does_not_impoverish_the_others(series, part):
    data = series(integrations=9)
    data["dq"].values[:, 20:24] = BAD  # in all
    clean = plain_sum(data)
    np.testing.assert_array_equal(clean["n_wavelengths"], 26)
    data["dq"].values[5, :part] = BAD
    curve = plain_sum(data)
    others = np.arange(9) != 5
    np.testing.assert_array_equal(curve["flux"][others], clean["flux"][others])
    np.testing.assert_array_equal(curve["flux_var_rnoise"][others], clean["flux_var_rnoise"][others])
    assert np.isnan(curve["flux"][5])


@pytest.fixture
def noisy(rng):
    """A transit of 2 % in Jy: one photon of the last wavelengths is a hundred times the flux of one at the first."""
    columns, integrations = 200, 400
    photons, factor = np.linspace(4e4, 200.0, columns), np.geomspace(1e-10, 1e-8, columns)
    depth = np.where(np.arange(integrations) // 100 == 2, 0.98, 1.0)
    read = 900.0
    counts = rng.normal(depth[:, None] * photons, np.sqrt(photons + read))
    dims = ("integration", "dispersion")
    variables = {
        "flux": (dims, counts * factor, {"units": "Jy"}),
        "flux_var_poisson": (dims, np.broadcast_to(photons * factor**2, counts.shape), {"units": "(Jy)2"}),
        "flux_var_rnoise": (dims, np.broadcast_to(read * factor**2, counts.shape), {"units": "(Jy)2"}),
        "flux_var_flat": (dims, (1e-3 * counts * factor) ** 2, {"units": "(Jy)2"}),
        "dq": (dims, np.zeros(counts.shape, np.uint32)),
    }
    data = xr.Dataset(variables, {"wavelength": ("dispersion", np.linspace(1, 5, columns), {"units": "um"})})
    limit = 1 / np.sqrt((photons**2 / (photons + read)).sum())  # the least possible relative error
    return data, depth, limit


def test_weights_leave_the_transit_and_the_least_noise(noisy):
    data, depth, limit = noisy
    chunkings = ({"integration": 7}, {"integration": -1, "dispersion": 50})
    curve = assert_lazy_and_chunk_invariant(white_light_curve, data, chunkings=chunkings, rtol=1e-12)
    relative = curve["flux"] / curve["flux"][depth == 1].mean()
    scatter = float((relative / depth).std())
    assert scatter == pytest.approx(limit, rel=0.1)
    found = 1 - float(relative[depth < 1].mean())
    assert found == pytest.approx(0.02, abs=4 * limit / np.sqrt(80))
    error = np.sqrt(curve["flux_var_poisson"] + curve["flux_var_rnoise"]) / curve["flux"]
    np.testing.assert_allclose(error, limit, rtol=0.03)
    plain = plain_sum(data)["flux"]
    assert float((plain / depth).std() / plain.mean()) > 1.8 * scatter
    assert float(curve["flux"].mean() / plain.mean()) == pytest.approx(1, abs=3e-3)
    assert steps(curve)[-1]["parameters"]["weighting"] == "optimal"


def test_weights_make_up_for_losses(noisy, rng):
    data, _, limit = noisy
    clean = white_light_curve(data)
    lost = rng.random(data["flux"].shape) < 0.03
    data["flux"].values[lost] = 1e9
    data["dq"].values[lost] = BAD
    curve = white_light_curve(data)
    assert np.abs(curve["flux"] / clean["flux"] - 1).max() < 2 * limit
    assert float(curve["flux"].mean() / clean["flux"].mean()) == pytest.approx(1, abs=1e-3)


def test_spectra_without_light_are_summed(noisy):
    data, depth, _ = noisy
    curve = xr.DataArray(depth / depth.mean(), dims="integration")
    data["flux"] = data["flux"] - curve * data["flux"].mean("integration")
    xr.testing.assert_identical(white_light_curve(data)["flux"], plain_sum(data)["flux"])


def test_one_integration_has_its_sum(noisy):
    data = noisy[0].isel(integration=[0])
    np.testing.assert_allclose(white_light_curve(data)["flux"], plain_sum(data)["flux"], rtol=1e-12)


def test_a_weighting_that_is_not_known(series):
    with pytest.raises(ParameterError, match="weighting is 'best', expected one of optimal, sum"):
        white_light_curve(series(), weighting="best")
