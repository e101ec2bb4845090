import dask
import numpy as np
import pytest
import xarray as xr

from nsxr.flux.factors import Factor, divide, multiply
from nsxr.model.dq import PixelFlag
from nsxr.testing import make_slit

SHAPE = (7, 40)


def refuse(*args, **kwargs):
    raise AssertionError("something was computed while the graph was built")


def image(values):
    return xr.DataArray(np.broadcast_to(np.asarray(values, np.float32), SHAPE).copy(), dims=("row", "column"))


@pytest.fixture
def slit():
    rng = np.random.default_rng(1)
    dq = np.zeros((3, *SHAPE), np.uint32)
    dq[0, 2, 3] = PixelFlag.DO_NOT_USE
    sci = rng.normal(5, 1, (3, *SHAPE))
    sci[1, 4, 5] = np.nan
    return make_slit(sci, (1.0, 0.5, 0.1), dq)


@pytest.fixture
def factor():
    value = image(np.linspace(0.5, 2, SHAPE[1]))
    value[0, 0], value[1, 1] = np.nan, 0
    flags = xr.zeros_like(value, dtype=np.uint32)
    flags[3, 3] = PixelFlag.UNRELIABLE_FLAT
    return Factor(value, image(0.01), flags)


def test_values_variances_and_flags(slit, factor):
    found = divide(slit, factor, kind="pathloss")
    value = np.broadcast_to(factor.value.to_numpy().astype(np.float64), slit["sci"].shape)
    is_lost = ~np.isfinite(slit["sci"].to_numpy()) | ~np.isfinite(value) | (value == 0)
    is_lost |= slit["dq"].to_numpy() > 0
    with np.errstate(all="ignore"):
        expected = np.where(is_lost, np.nan, slit["sci"].to_numpy() / value)
        for name in ("var_poisson", "var_rnoise", "var_flat"):
            wanted = np.where(is_lost, np.nan, slit[name].to_numpy() / value**2)
            np.testing.assert_allclose(found[name], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["sci"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["var_pathloss"], 0.01 * expected**2, rtol=1e-5)
    np.testing.assert_array_equal((found["dq"].to_numpy() & PixelFlag.DO_NOT_USE) > 0, is_lost)
    assert (found["dq"].to_numpy()[:, 3, 3] & PixelFlag.UNRELIABLE_FLAT).all()


def test_the_variance_of_a_flat_is_replaced(slit, factor):
    found = divide(slit, factor, kind="flat")
    assert [*found] == ["sci", "dq", "var_poisson", "var_rnoise", "var_flat"]
    np.testing.assert_allclose(found["var_flat"], 0.01 * found["sci"].to_numpy() ** 2, rtol=1e-5)


def test_deviations_of_light_that_was_subtracted_add_up(slit, factor):
    before = slit.assign(var_barshadow=0.01 * (2 * slit["sci"]) ** 2)  # two thirds of the light were subtracted
    found = divide(before, factor, kind="barshadow")
    np.testing.assert_allclose(found["var_barshadow"], 0.01 * (3 * found["sci"].to_numpy()) ** 2, rtol=1e-5)


@pytest.mark.parametrize("chunks", [{"integration": 1}, {"row": 3}, {"column": 11, "row": 2}])
def test_lazy_and_the_same_for_all_chunks(slit, factor, chunks):
    expected = divide(slit, factor, kind="photom")
    with dask.config.set(scheduler=refuse):
        lazy = divide(slit.chunk(chunks), factor, kind="photom")
        back = multiply(slit.assign(lazy), factor.value)
    for name, array in lazy.items():
        assert array.chunks is not None
        np.testing.assert_array_equal(array, expected[name])
    np.testing.assert_allclose(back["sci"], slit["sci"].where(expected["sci"].notnull()), rtol=1e-6)


def test_undone(slit, factor):
    before = slit.copy(deep=True)
    divided = slit.assign(divide(slit, Factor(factor.value), kind="photom"))
    assert "var_photom" not in divided
    back = multiply(divided, factor.value)
    is_kept = divided["sci"].notnull()
    for name in ("sci", "var_poisson", "var_rnoise", "var_flat"):
        np.testing.assert_allclose(back[name], slit[name].where(is_kept), rtol=1e-6)
    xr.testing.assert_identical(slit, before)


@pytest.mark.parametrize("chunks", [None, {"row": 3, "integration": 1}])
def test_the_variance_of_a_subtracted_background_is_scaled_too(slit, factor, chunks):
    slit["var_background"] = image(0.25)
    wanted = (0.25 / factor.value.where(factor.value != 0) ** 2).to_numpy()
    given = slit if chunks is None else slit.chunk(chunks)
    found = divide(given, factor, kind="pathloss")
    np.testing.assert_allclose(found["var_background"], wanted, rtol=1e-6)
    back = multiply(given.assign(found), factor.value)["var_background"]
    np.testing.assert_allclose(back, np.where(np.isnan(wanted), np.nan, 0.25), rtol=1e-6)
