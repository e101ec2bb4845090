"""Path loss: known answers of small references, the rules of slitlets and fixed slits, and real products."""

import dask
import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import DegradedResultWarning, ModelError, ReferenceFileError
from nsxr.flux.path_loss import path_loss_factor
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.testing import make_slit

SHAPE = (5, 60)
WAVELENGTH = np.linspace(0.6, 5.4, 9)
PATTERN = "flight/nirspec_pathloss/jwst_nirspec_pathloss_erf.fits"


def point(x, y, wavelength):
    """Return a path loss that bilinear interpolation finds exactly."""
    return 0.7 + 0.3 * x + 0.1 * y + 0.2 * x * y + 0.02 * wavelength


def dip(x, y):
    """Return the light of a narrow image that passes near a bar between two shutters."""
    return (1 - 0.6 * np.exp(-0.5 * ((y - 0.5) / 0.06) ** 2)) * (1 - x**2)


def uniform(shutters, wavelength):
    return 2.0 + 0.1 * shutters - 0.05 * wavelength


def refuse(*args, **kwargs):
    raise AssertionError("something was computed while the graph was built")


def reference(variances=True):
    data, coords = {}, {}
    for name, shutters in (("MOS1X1", 1), ("MOS1X3", 3), ("S200A1", 0)):
        x, y = np.linspace(-0.5, 0.5, 11), np.linspace(-0.5, 0.5, 11) * max(shutters, 1)
        coords |= {f"x_{name}": x, f"y_{name}": y, f"wavelength_{name}": WAVELENGTH}
        coords[f"uniform_wavelength_{name}"] = WAVELENGTH
        dims = (f"wavelength_{name}", f"y_{name}", f"x_{name}")
        loss = point(x, y[:, None], WAVELENGTH[:, None, None]) - 0.1 * (shutters == 3)
        data[f"point_{name}"] = (dims, loss, {"shutters": shutters})
        data[f"uniform_{name}"] = (f"uniform_wavelength_{name}", uniform(shutters, WAVELENGTH))
        if variances:
            data[f"point_variance_{name}"] = (dims, np.full(loss.shape, 4e-4))
            data[f"uniform_variance_{name}"] = (f"uniform_wavelength_{name}", np.full(WAVELENGTH.size, 9e-4))
    return xr.Dataset(data, coords, {"reference_type": "pathloss", "filename": "pathloss.fits"})


def slitlet(states="1x1", x=0.13, y=-0.21, kind="POINT", **attrs):
    wavelength = np.linspace(0.7, 5.3, SHAPE[1]) + 0.01 * np.arange(SHAPE[0])[:, None]
    wavelength[0, :3] = np.nan
    sci = np.random.default_rng(1).normal(5, 1, SHAPE)
    given = {"SHUTSTA": states, "SRCXPOS": x, "SRCYPOS": y, "SRCTYPE": kind, "SLTNAME": "7"} | attrs
    return make_slit(sci, wavelength=wavelength, **given)


def fixed(name="S200A1", **attrs):
    return slitlet("", SLTNAME=name, **{"EXP_TYPE": "NRS_FIXEDSLIT"} | attrs)


@pytest.mark.parametrize("y", [0.5, 0.483, 0.388])
def test_a_point_behind_a_bar_has_the_smooth_path_loss(y):
    fine = reference(variances=False).isel(y_MOS1X3=0, x_MOS1X3=0, drop=True).drop_vars("point_MOS1X3")
    grid_y, grid_x = np.linspace(-1.5, 1.5, 92), np.linspace(-0.5, 0.5, 31)
    coords = {"wavelength_MOS1X3": WAVELENGTH, "y_MOS1X3": grid_y, "x_MOS1X3": grid_x}
    loss = np.broadcast_to(dip(grid_x, grid_y[:, None]), (WAVELENGTH.size, 92, 31))
    fine["point_MOS1X3"] = xr.DataArray(np.array(loss), coords, tuple(coords), attrs={"shutters": 3})
    slit = slitlet(x=0.312, y=y)
    errors = {
        kind: np.nanmax(
            np.abs(nsxr.correct_path_loss(slit, fine, interpolation=kind)["pathloss_point"] - dip(0.312, y))
        )
        for kind in ("cubic", "linear")
    }
    assert errors["cubic"] < 0.004
    assert errors["linear"] > 2 * errors["cubic"]


def test_a_point_in_three_shutters():
    slit, reference_ = slitlet(), reference()
    before = slit.copy(deep=True)
    found = nsxr.correct_path_loss(slit, reference_)
    loss = point(0.13, -0.21, slit["wavelength"].to_numpy().astype(float)) - 0.1
    np.testing.assert_allclose(found["pathloss_point"], loss, rtol=1e-6)
    np.testing.assert_allclose(found["pathloss_uniform"], uniform(3, slit["wavelength"]), rtol=1e-6)
    np.testing.assert_allclose(found["sci"], slit["sci"].to_numpy() / loss, rtol=1e-6)
    np.testing.assert_allclose(found["var_rnoise"], slit["var_rnoise"].to_numpy() / loss**2, rtol=1e-6)
    np.testing.assert_allclose(found["var_pathloss"], 4e-4 / loss**2 * found["sci"].to_numpy() ** 2, rtol=1e-5)
    assert found["var_pathloss"].attrs["units"] == "(DN/s)2"
    assert found.attrs["PTHLOSS"] == "POINT"
    assert steps(found)[-1]["references"] == {"pathloss": "pathloss.fits"}
    is_lost = np.isnan(loss)
    assert is_lost.sum() == 3
    np.testing.assert_array_equal((found["dq"].to_numpy() & PixelFlag.DO_NOT_USE) > 0, is_lost)
    xr.testing.assert_identical(slit, before)


@pytest.mark.parametrize(
    ("states", "aperture", "shift"),
    [
        ("1x1", 3, 0),
        ("x11", 3, -1),
        ("11x", 3, 1),
        ("x", 1, 0),
        ("1x", 3, 1),
        ("x1", 3, -1),
        ("1110x", 1, 0),
        ("0x0", 1, 0),
        ("1x0", 3, 1),
        ("11x11", 3, 0),
    ],
)
def test_the_neighbours_of_the_shutter_decide(states, aperture, shift):
    found = nsxr.correct_path_loss(slitlet(states), reference())
    wavelength = found["wavelength"].to_numpy().astype(float)
    loss = point(0.13, -0.21 + shift, wavelength) - 0.1 * (aperture == 3)
    np.testing.assert_allclose(found["pathloss_point"], loss, rtol=1e-6)
    shutters = 2 if len(states) == 2 else aperture  # the mean of 1 and 3
    np.testing.assert_allclose(found["pathloss_uniform"], uniform(shutters, wavelength), rtol=1e-6)


def test_extended_sources_have_the_loss_of_uniform_light():
    found = nsxr.correct_path_loss(slitlet(kind="EXTENDED"), reference())
    loss = uniform(3, found["wavelength"].to_numpy().astype(float))
    np.testing.assert_allclose(found["sci"], slitlet()["sci"].to_numpy() / loss, rtol=1e-6)
    np.testing.assert_allclose(found["var_pathloss"], 9e-4 / loss**2 * found["sci"].to_numpy() ** 2, rtol=1e-5)
    assert found.attrs["PTHLOSS"] == "UNIFORM"


@pytest.mark.parametrize(("x", "y"), [(0.5, 1.5), (0.62, 0.0), (0.0, -1.9)])
def test_sources_outside_keep_their_loss_and_units(x, y):
    """In jwst, a source outside of the grid, or on its last node, loses even the correction of uniform light."""
    inside = nsxr.correct_path_loss(slitlet(kind="EXTENDED", x=0.0, y=0.0), reference())
    extended = nsxr.correct_path_loss(slitlet(kind="EXTENDED", x=x, y=y), reference())
    np.testing.assert_array_equal(extended["sci"], inside["sci"])
    if abs(x) > 0.5 or abs(y) > 1.5:
        with pytest.warns(DegradedResultWarning, match="slit 7: the source is outside of aperture MOS1X3"):
            found = nsxr.correct_path_loss(slitlet(x=x, y=y), reference())
    else:
        found = nsxr.correct_path_loss(slitlet(x=x, y=y), reference())
    edge = point(np.clip(x, -0.5, 0.5), np.clip(y, -1.5, 1.5), found["wavelength"].to_numpy().astype(float)) - 0.1
    np.testing.assert_allclose(found["pathloss_point"], edge, rtol=1e-6)
    np.testing.assert_allclose(found["sci"], slitlet()["sci"].to_numpy() / edge, rtol=1e-6)
    np.testing.assert_array_equal(found["pathloss_uniform"], inside["pathloss_uniform"])


def test_uniform_light_in_a_fixed_slit_has_uncorrected_wavelengths():
    for slit, is_fixed in ((fixed(), True), (slitlet(), False)):
        moved = slit.assign(wavelength_uncorrected=slit["wavelength"] - np.float32(0.05))
        found = nsxr.correct_path_loss(moved, reference())
        wavelength = slit["wavelength"].to_numpy().astype(float)
        shutters = 0 if is_fixed else 3
        np.testing.assert_allclose(
            found["pathloss_point"], point(0.13, -0.21, wavelength) - 0.1 * (not is_fixed), rtol=1e-6
        )
        np.testing.assert_allclose(
            found["pathloss_uniform"], uniform(shutters, wavelength - 0.05 * is_fixed), rtol=1e-6
        )


def test_a_fixed_slit_in_a_shutter_exposure_is_found_by_its_name():
    found = nsxr.correct_path_loss(slitlet("x", SLTNAME="S200A1"), reference())
    expected = nsxr.correct_path_loss(fixed(), reference())
    np.testing.assert_array_equal(found["pathloss_point"], expected["pathloss_point"])


def test_the_ifu_has_a_source_in_the_middle():
    only = reference()[[name for name in reference() if "S200A1" in str(name)]]
    slices = slitlet("", EXP_TYPE="NRS_IFU", SLTNAME="", kind="EXTENDED")
    found = nsxr.correct_path_loss(slices, only)
    wavelength = slices["wavelength"].to_numpy().astype(float)
    np.testing.assert_allclose(found["pathloss_point"], point(0, 0, wavelength), rtol=1e-6)
    np.testing.assert_allclose(found["sci"], slices["sci"].to_numpy() / uniform(0, wavelength), rtol=1e-6)


@pytest.mark.parametrize(
    ("slit", "reason"),
    [
        (fixed("S400A1"), "has no aperture S400A1, only MOS1X1, MOS1X3, S200A1"),
        (fixed(EXP_TYPE="NRS_BRIGHTOBJ"), "time series have no path loss"),
    ],
)
def test_skipped(slit, reason):
    found = nsxr.correct_path_loss(slit, reference())
    assert steps(found)[-1]["status"] == "SKIPPED"
    assert reason in steps(found)[-1]["reason"]
    xr.testing.assert_equal(found, slit)
    with pytest.raises(ModelError, match=reason):
        path_loss_factor(slit, reference(), light="point")


def test_a_slitlet_without_its_aperture_is_skipped():
    only = reference()[[name for name in reference() if "1X3" not in str(name)]]
    assert "no aperture of 3 shutter" in steps(nsxr.correct_path_loss(slitlet(), only))[-1]["reason"]
    assert steps(nsxr.correct_path_loss(slitlet("x"), only))[-1]["status"] == "COMPLETE"


def test_unknown_variances_are_left_out():
    assert "var_pathloss" not in nsxr.correct_path_loss(slitlet(), reference(variances=False))


def test_wavelengths_that_the_reference_lacks():
    far = slitlet()
    far["wavelength"] = far["wavelength"] + np.float32(0.3)  # to 5.64 um, the reference ends at 5.4
    found = nsxr.correct_path_loss(far, reference())
    is_beyond = far["wavelength"].to_numpy() > 5.4
    assert 5 < is_beyond.sum() < 30
    assert np.isnan(found["sci"].to_numpy()[is_beyond]).all()
    assert (found["dq"].to_numpy()[is_beyond] & PixelFlag.DO_NOT_USE).all()
    assert np.isfinite(found["sci"].to_numpy()[~is_beyond & far["wavelength"].notnull().to_numpy()]).all()


def test_lazy_and_the_same_for_all_chunks():
    sci = np.random.default_rng(2).normal(5, 1, (3, *SHAPE))
    one = slitlet("x1")
    slit = make_slit(sci, wavelength=one["wavelength"], **one.attrs)
    expected = nsxr.correct_path_loss(slit, reference())
    for chunks in ({"integration": 1}, {"row": 2, "column": 17}):
        with dask.config.set(scheduler=refuse):
            lazy = nsxr.correct_path_loss(slit.chunk(chunks), reference())
        assert all(lazy[name].chunks for name in ("sci", "dq", "var_pathloss", "pathloss_point"))
        xr.testing.assert_equal(lazy.compute(), expected)


def test_what_is_wrong_is_told():
    done = nsxr.correct_path_loss(slitlet(), reference())
    with pytest.raises(ModelError, match="was corrected before"):
        nsxr.correct_path_loss(done, reference())
    with pytest.raises(ReferenceFileError, match="type 'fflat', expected 'pathloss'"):
        nsxr.correct_path_loss(slitlet(), reference().assign_attrs(reference_type="fflat"))
    with pytest.raises(ModelError, match="'wavelength' is missing"):
        nsxr.correct_path_loss(slitlet().drop_vars("wavelength"), reference())
    with pytest.raises(ModelError, match="SHUTSTA"):
        nsxr.correct_path_loss(slitlet("1?1"), reference())
    with pytest.warns(DegradedResultWarning, match="position of the source"):
        unknown = nsxr.correct_path_loss(slitlet(x=None), reference())
    at_zero = nsxr.correct_path_loss(slitlet(x=0.0), reference())
    np.testing.assert_array_equal(unknown["sci"], at_zero["sci"])


def test_many_slits():
    tree = xr.DataTree.from_dict({"1": slitlet(), "2": slitlet("x", kind="EXTENDED")})
    found = nsxr.correct_path_loss(tree, reference())
    assert [found[name].attrs["PTHLOSS"] for name in ("1", "2")] == ["POINT", "UNIFORM"]


@pytest.mark.parametrize(
    "name",
    [
        "mos_jw02565/jw02565007001_03101_00003_nrs2_cal.fits",
        "mos_jw04233/jw04233006001_03101_00004_nrs1_phot.186.4233_44597.fits",
    ],
)
def test_path_losses_of_flight_products(real_data, name):
    """Uniform light as stored; the path loss of points, whose table is not public, is linear between its nodes."""
    pathloss = nsxr.open_path_loss(real_data / PATTERN)  # its table of uniform light is that of flight
    ((_, slit),) = nsxr.iterate_slits(nsxr.open_slits(real_data / name))
    slit = slit.load()
    found = path_loss_factor(slit, pathloss, light="uniform").value
    np.testing.assert_allclose(found, slit["pathloss_uniform"], rtol=1e-6)
    stored, wavelength = slit["pathloss_point"].to_numpy(), slit["wavelength"].to_numpy().astype(float)
    nodes = pathloss["wavelength_MOS1X3"].to_numpy()
    is_known = np.isfinite(stored)
    hats = np.stack([np.interp(wavelength[is_known], nodes, row) for row in np.eye(nodes.size)], axis=1)
    at_nodes = np.linalg.lstsq(hats, stored[is_known].astype(float), rcond=None)[0]
    np.testing.assert_allclose(hats @ at_nodes, stored[is_known], rtol=1e-6)
