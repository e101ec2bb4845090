"""Bar shadow: templates of slitlets, values at pixels, and the shadow of a simulated instrument."""

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

import nsxr
from nsxr.errors import ModelError, ReferenceFileError
from nsxr.flux.bar_shadow import bar_shadow_factor
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.simulate.aperture_references import Geometry, bar_shadow
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.testing import make_slit

ROWS, COLUMNS = 201, 11
STEPS = (ROWS - 1) // 2
WAVELENGTH = np.linspace(0.6, 5.4, COLUMNS)
SHAPE = (25, 60)
PITCH = 1.15


def refuse(*args, **kwargs):
    raise AssertionError("something was computed while the graph was built")


def reference(variances=True):
    """Return smooth shadows that differ between both sides of a shutter, so that exchanged pieces show up."""
    y = np.linspace(-1, 1, ROWS)[:, None]
    slope = 1 - 0.02 * WAVELENGTH
    one = np.exp(-((1.3 * y) ** 4)) * (1 + 0.1 * y) * slope + 0.05
    three = (0.8 + 0.2 * np.cos(2 * np.pi * y) + 0.03 * y) * slope
    data = {"shadow_1x1": one, "shadow_1x3": three}
    if variances:
        data |= {"variance_1x1": np.full(one.shape, 4e-4), "variance_1x3": np.full(one.shape, 9e-4)}
    return xr.Dataset(
        {name: (("y", "wavelength"), image.astype(np.float32)) for name, image in data.items()},
        {"y": y[:, 0], "wavelength": WAVELENGTH},
        {"reference_type": "barshadow", "filename": "barshadow.fits"},
    )


def slitlet(states="1x1", kind="EXTENDED", first=-2.0, last=2.0, integrations=(), **attrs):
    wavelength = np.linspace(0.7, 5.3, SHAPE[1]) + 0.01 * np.arange(SHAPE[0])[:, None]
    slit_y = np.linspace(first, last, SHAPE[0])[:, None] + np.linspace(0, 0.1, SHAPE[1])
    wavelength[0, :3] = slit_y[0, :3] = np.nan
    sci = np.random.default_rng(1).normal(5, 1, (*integrations, *SHAPE))
    given = {"SHUTSTA": states, "SRCTYPE": kind, "SLTNAME": "7", "SLTYSCL": PITCH} | attrs
    slit = make_slit(sci, wavelength=wavelength, **given)
    return slit.assign_coords(slit_y=(("row", "column"), slit_y.astype(np.float32)))


def at_pixels(image, row, slit):
    """Interpolate an image at the rows and wavelengths of pixels."""
    nodes = (np.arange(len(image)), WAVELENGTH)
    wavelength = np.clip(np.nan_to_num(slit["wavelength"].to_numpy()), *WAVELENGTH[[0, -1]])
    places = np.stack([np.clip(np.nan_to_num(row), 0, len(image) - 1), wavelength], axis=-1)
    return np.where(np.isfinite(row), RegularGridInterpolator(nodes, image)(places), np.nan)


def test_a_slitlet_of_three_open_shutters():
    slit, barshadow = slitlet(), reference()
    before = slit.copy(deep=True)
    one, three = (barshadow[name].to_numpy().astype(float) for name in ("shadow_1x1", "shadow_1x3"))
    half, whole = slice(None, STEPS), slice(None, STEPS + 1)
    template = np.concatenate([one[half], three[half], three[half], one[STEPS:]])
    for seam, (left, right) in {1: (one[STEPS], three[0]), 2: (three[STEPS], three[0])}.items():
        template[seam * STEPS] = 0.5 * (left + right)
    template[3 * STEPS] = 0.5 * (three[STEPS] + one[STEPS])
    assert template[whole].shape == one[whole].shape
    found = nsxr.correct_bar_shadow(slit, barshadow)
    shadow = at_pixels(template, (2 + slit["slit_y"].to_numpy() / np.float64(PITCH)) * STEPS, slit)
    np.testing.assert_allclose(found["barshadow"], shadow, rtol=1e-6)
    np.testing.assert_allclose(found["sci"], slit["sci"].to_numpy() / shadow, rtol=1e-6)
    np.testing.assert_allclose(found["var_poisson"], slit["var_poisson"].to_numpy() / shadow**2, rtol=1e-6)
    is_lost = np.isnan(shadow)
    assert is_lost.sum() == 3
    np.testing.assert_array_equal((found["dq"].to_numpy() & PixelFlag.DO_NOT_USE) > 0, is_lost)
    assert found.attrs["BARSHDW"] is True
    assert steps(found)[-1]["references"] == {"barshadow": "barshadow.fits"}
    relative = found["var_barshadow"].to_numpy() / found["sci"].to_numpy() ** 2 * shadow**2
    assert np.nanmin(relative) == pytest.approx(4e-4, rel=1e-4)
    assert np.nanmax(relative) == pytest.approx(9e-4, rel=1e-4)
    assert found["var_barshadow"].attrs["units"] == "(DN/s)2"
    xr.testing.assert_identical(slit, before)


@pytest.mark.parametrize(
    ("states", "source", "pieces"),
    [
        ("x", 0, ["co", "oc"]),
        ("x1", 0, ["co", "oo", "oc"]),
        ("1x", 1, ["co", "oo", "oc"]),
        ("1x011", 1, ["co", "oo", "oc", "co", "oo", "oc"]),
        ("0x1", 1, ["cc", "co", "oo", "oc"]),
        ("1x0", 1, ["co", "oo", "oc", "cc"]),
        ("1x00", 1, ["co", "oo", "oc", "cc", "cc"]),
        ("111", 1, ["co", "oo", "oo", "oc"]),  # a background slitlet: places count from its middle
        ("11", 0, ["co", "oo", "oc"]),
    ],
)
def test_any_string_of_open_and_closed_shutters(states, source, pieces):
    barshadow = reference()
    one, three = (barshadow[name].to_numpy().astype(float) for name in ("shadow_1x1", "shadow_1x3"))
    known = {"co": one[: STEPS + 1], "oo": three[: STEPS + 1], "oc": one[STEPS:], "cc": 0 * one[STEPS:] + one.min()}
    # places in the middle between both ends of a piece, far from the seams
    for number, piece in enumerate(pieces):
        middle = (number - 0.5 - source) * PITCH
        slit = slitlet(states, first=middle - 0.2, last=middle + 0.1)
        row = (slit["slit_y"].to_numpy() / np.float64(PITCH) + source + 1 - number) * STEPS
        expected = at_pixels(known[piece], row, slit)
        found = bar_shadow_factor(slit, barshadow).value
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"{states} {piece}")


def test_the_upper_half_is_not_shifted():
    """The last piece of jwst begins a row (0.002 pitch) above the middle of its shutter."""
    barshadow = reference()
    place = PITCH * np.array([0.25, 0.5, 0.75])
    wavelength = np.full((1, 3), 2.04)  # a node
    slit = make_slit(np.ones((1, 3)), wavelength=wavelength, **slitlet("x").attrs)
    slit = slit.assign_coords(slit_y=(("row", "column"), place[None].astype(np.float32)))
    expected = barshadow["shadow_1x1"].sel(wavelength=2.04, method="nearest").interp(y=[0.25, 0.5, 0.75])
    np.testing.assert_allclose(bar_shadow_factor(slit, barshadow).value[0], expected, rtol=1e-6)


def test_beyond_the_ends_the_last_value_holds():
    barshadow = reference()
    far = slitlet("x", first=2.0, last=3.0)
    far["wavelength"] = far["wavelength"] + np.float32(4)  # all but a few beyond 5.4 um
    found = bar_shadow_factor(far, barshadow).value.to_numpy()
    beyond = far["wavelength"].to_numpy() > 5.4
    np.testing.assert_allclose(found[beyond], float(barshadow["shadow_1x1"][-1, -1]), rtol=1e-6)


def test_light_of_the_sky_has_uncorrected_wavelengths():
    slit = slitlet()
    moved = slit.assign(wavelength_uncorrected=slit["wavelength"], wavelength=slit["wavelength"] + np.float32(0.3))
    np.testing.assert_array_equal(
        bar_shadow_factor(moved, reference()).value, bar_shadow_factor(slit, reference()).value
    )


@pytest.mark.parametrize(
    ("slit", "reason"),
    [
        (slitlet(kind="POINT"), "the source is a point"),
        (slitlet(EXP_TYPE="NRS_FIXEDSLIT"), "NRS_FIXEDSLIT have no bars"),
        (slitlet("x", SLTNAME="S200A1"), "fixed slit S200A1 has no bars"),
    ],
)
def test_skipped(slit, reason):
    found = nsxr.correct_bar_shadow(slit, reference())
    assert steps(found)[-1]["status"] == "SKIPPED"
    assert reason in steps(found)[-1]["reason"]
    assert found.attrs["BARSHDW"] is False
    is_point = "point" in reason
    xr.testing.assert_equal(found.drop_vars("sky_part", errors="ignore"), slit)
    assert ("sky_part" in found) is is_point
    if is_point:  # a sky behind the bars has this shape
        np.testing.assert_array_equal(found["sky_part"], bar_shadow_factor(slit, reference()).value)


def test_a_background_can_use_the_shadow_in_the_slit_of_a_point():
    np.testing.assert_array_equal(
        bar_shadow_factor(slitlet(kind="POINT"), reference()).value, bar_shadow_factor(slitlet(), reference()).value
    )


def test_unknown_variances_are_left_out():
    assert "var_barshadow" not in nsxr.correct_bar_shadow(slitlet(), reference(variances=False))


def test_lazy_and_the_same_for_all_chunks():
    slit = slitlet("x10", integrations=(3,))
    expected = nsxr.correct_bar_shadow(slit, reference())
    assert expected["sci"].chunks is None
    for chunks in ({"integration": 1}, {"row": 6, "column": 17}):
        with dask.config.set(scheduler=refuse):
            lazy = nsxr.correct_bar_shadow(slit.chunk(chunks), reference())
        assert all(lazy[name].chunks for name in ("sci", "dq", "var_barshadow", "barshadow"))
        xr.testing.assert_equal(lazy.compute(), expected)


def test_many_slits_share_the_reference():
    tree = xr.DataTree.from_dict({str(n): slitlet(x).chunk() for n, x in enumerate(("x", "1x", "1x1", "x11"))})
    found = nsxr.correct_bar_shadow(tree, reference())
    layers = {key for node in found.children.values() for key in node["sci"].data.dask.layers}
    assert sum("shadow" in key or "variance" in key for key in layers) <= 2 * 4  # loaded once, not once for each slit


def test_what_is_wrong_is_told():
    with pytest.raises(ModelError, match="was corrected before"):
        nsxr.correct_bar_shadow(nsxr.correct_bar_shadow(slitlet(), reference()), reference())
    with pytest.raises(ReferenceFileError, match="type 'pathloss', expected 'barshadow'"):
        nsxr.correct_bar_shadow(slitlet(), reference().assign_attrs(reference_type="pathloss"))
    with pytest.raises(ModelError, match="coordinate slit_y is missing"):
        nsxr.correct_bar_shadow(slitlet().drop_vars("slit_y"), reference())
    with pytest.raises(ModelError, match="SHUTSTA"):
        nsxr.correct_bar_shadow(slitlet(""), reference())
    with pytest.raises(ModelError, match="have no bars"):
        bar_shadow_factor(slitlet(EXP_TYPE="NRS_IFU"), reference())


@pytest.mark.parametrize(("states", "shutters"), [("x", 1), ("1x1", 3), ("11x11", 5)])
def test_the_shadow_of_a_simulated_instrument(states, shutters):
    """The template from slits of one and three shutters is the shadow of slits of any number of open shutters."""
    instrument = SimulatedInstrument("PRISM", (0.6, 5.3), (0.01, 0.02))
    geometry = Geometry(0.2, 0.46, 1.363, PITCH, 0.22)
    wavelength, y = np.linspace(0.6, 5.4, 51), np.linspace(-1, 1, 1001)
    images = {
        f"shadow_1x{n}": (("y", "wavelength"), bar_shadow(instrument, geometry, n, y[:, None], wavelength))
        for n in (1, 3)
    }
    barshadow = xr.Dataset(images, {"y": y, "wavelength": wavelength})
    half = 0.5 * shutters * PITCH
    slit = slitlet(states, first=-half, last=half)
    found = bar_shadow_factor(slit, barshadow).value
    expected = bar_shadow(instrument, geometry, shutters, slit["slit_y"].to_numpy() / PITCH, slit["wavelength"])
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert float(found.min()) < 0.6
    assert float(found.max()) > 0.98
