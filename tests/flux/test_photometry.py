"""Count rates become flux: known answers, units, time dependence, places without a sensitivity, laziness."""

import dask
import numpy as np
import pytest
import xarray as xr

import nsxr
from nsxr.errors import InputFileError, ModelError, ReferenceFileError
from nsxr.flux.photometry import photom_factor
from nsxr.flux.sensitivity import time_dependence
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.testing import make_slit

SHAPE = (4, 30)
SR = (np.pi / 180 / 3600) ** 2


def refuse(*args, **kwargs):
    raise AssertionError("something was computed while the graph was built")


def photometry(slits=None, **times):
    n = 1 if slits is None else len(slits)
    variables = {
        "filter": ("entry", np.array(["CLEAR"] * n)),
        "grating": ("entry", np.array(["PRISM"] * n)),
        "photmj": ("entry", np.full(n, 2e-12)),
        "uncertainty": ("entry", np.full(n, 4e-14)),
        "wavelength": (("entry", "node"), np.tile([1.2, 1.5, 1.9, np.nan], (n, 1))),
        "relresponse": (("entry", "node"), np.tile([1.0, 2.0, 0.5, np.nan], (n, 1))),
        "reluncertainty": (("entry", "node"), np.tile([0.01, 0.02, 0.005, np.nan], (n, 1))),
    }
    if slits is not None:
        variables["slit"] = ("entry", np.array(slits))
    variables |= {name: ("entry", np.full(n, value)) for name, value in times.items()}
    return xr.Dataset(variables, attrs={"reference_type": "photom", "filename": "photom.fits"})


def areas(**labels):
    shape = tuple(len(values) for values in labels.values())
    values = 0.02 + 0.001 * np.arange(np.prod(shape)).reshape(shape)
    array = xr.DataArray(values, labels, tuple(labels))
    return xr.Dataset({"pixel_area": array}, attrs={"reference_type": "area", "filename": "area.fits"})


SHUTTERS = {"quadrant": np.arange(1, 5), "shutter_y": np.arange(1, 4), "shutter_x": np.arange(1, 6)}


def shutter(**attrs):
    rng = np.random.default_rng(3)
    header = {"EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": "PRISM", "MSAQUAD": 3, "XCEN": 4, "YCEN": 2}
    return make_slit(rng.normal(5, 1, SHAPE), (1.0, 0.5, 0.1), **(header | {"SRCTYPE": "POINT", "BUNIT": None} | attrs))


def fixed(name="S200A1", **attrs):
    return shutter(EXP_TYPE="NRS_FIXEDSLIT", SLTNAME=name, **attrs)


def expected(slit, name="wavelength"):
    lam = slit[name].to_numpy().astype(float)
    return 2e-12 * np.interp(lam, [1.2, 1.5, 1.9], [1, 2, 0.5], left=np.nan, right=np.nan)


def test_a_point_source_has_flux_density():
    slit = shutter()
    found = nsxr.calibrate_flux(slit, photometry(), areas(**SHUTTERS))
    factor = expected(slit)
    np.testing.assert_allclose(found["sci"], slit["sci"] * factor, rtol=1e-6)
    np.testing.assert_allclose(found["var_flat"], slit["var_flat"] * factor**2, rtol=1e-6)
    relative = 0.02**2 + 0.01**2  # of photmj and of relresponse
    np.testing.assert_allclose(found["var_photom"], found["sci"] ** 2 * relative, rtol=1e-5)
    area = 0.02 + 0.001 * (2 * 15 + 1 * 5 + 3)
    np.testing.assert_allclose(found["photom_point"], np.nan_to_num(factor), rtol=1e-6)
    np.testing.assert_allclose(found["photom_uniform"], np.nan_to_num(factor) / (area * SR), rtol=1e-6)
    units = {
        name: found[name].attrs["units"] for name in ("sci", "var_poisson", "var_rnoise", "var_flat", "var_photom")
    }
    assert units == {"sci": "MJy"} | dict.fromkeys(list(units)[1:], "(MJy)2")
    is_outside = np.isnan(factor)
    assert 0 < is_outside.sum() < is_outside.size
    np.testing.assert_array_equal((found["dq"] & PixelFlag.DO_NOT_USE) > 0, is_outside)
    keywords = {key: found.attrs[key] for key in ("PHOTMJSR", "PHOTUJA2", "PIXAR_SR", "PIXAR_A2")}
    np.testing.assert_allclose([*keywords.values()], [2e-12, 2e-12 * 23.504431, area * SR, area], rtol=1e-6)
    last = steps(found)[-1]
    assert last["status"] == "COMPLETE"
    assert last["references"] == {"photom": "photom.fits", "area": "area.fits"}
    assert "photom_point" not in slit


@pytest.mark.parametrize("kind", ["EXTENDED", "UNKNOWN"])
def test_other_light_has_surface_brightness(kind):
    slit = fixed("S400A1", SRCTYPE=kind)
    found = nsxr.calibrate_flux(slit, photometry(["S200A1", "S400A1"]), areas(slit=["S200A1", "S400A1"]))
    np.testing.assert_allclose(found["sci"], slit["sci"] * expected(slit) / (0.021 * SR), rtol=1e-6)
    assert found["sci"].attrs["units"] == "MJy/sr"
    assert found["var_photom"].attrs["units"] == "(MJy/sr)2"
    assert found.attrs["PHOTMJSR"] == pytest.approx(2e-12 / (0.021 * SR))


def test_the_variance_of_the_background_has_the_units_of_the_flux():
    slit = shutter()
    slit["var_background"] = slit["var_poisson"]
    found = nsxr.calibrate_flux(slit, photometry(), areas(**SHUTTERS))
    np.testing.assert_array_equal(found["var_background"], found["var_poisson"])
    assert found["var_background"].attrs["units"] == "(MJy)2"


def test_uniform_light_has_uncorrected_wavelengths():
    slit = fixed()
    slit["wavelength_uncorrected"] = slit["wavelength"] + np.float32(0.05)
    found = nsxr.calibrate_flux(slit, photometry(["S200A1"]), areas(slit=["S200A1"]))
    np.testing.assert_allclose(found["photom_point"], np.nan_to_num(expected(slit)), rtol=1e-6)
    uniform = np.nan_to_num(expected(slit, "wavelength_uncorrected")) / (0.02 * SR)
    np.testing.assert_allclose(found["photom_uniform"], uniform, rtol=1e-6)


def test_a_time_series_is_of_a_point_in_s1600a1():
    slit = make_slit(
        np.ones((3, *SHAPE)), SRCTYPE="", SLTNAME="", EXP_TYPE="NRS_BRIGHTOBJ", FILTER="CLEAR", GRATING="PRISM"
    )
    found = nsxr.calibrate_flux(slit, photometry(["S200A1", "S1600A1"]), areas(slit=["S1600A1"]))
    assert found["sci"].attrs["units"] == "MJy"
    np.testing.assert_allclose(found["sci"], np.broadcast_to(expected(slit), (3, *SHAPE)), rtol=1e-6)
    assert found["photom_point"].dims == ("row", "column")


def sliced():
    n = np.zeros(SHAPE, np.uint8)
    n[1], n[2] = 1, 30
    slit = shutter(EXP_TYPE="NRS_IFU", SRCTYPE="POINT", EXPMID=59365.0)
    return slit.assign(slice=(("row", "column"), n))


def test_slices_have_surface_brightness_and_the_throughput_of_their_date():
    slit = sliced()
    times = {"linear_t0": 59000.0, "linear_lossperyear": 0.1}
    area = areas(slice=np.arange(1, 31))
    found = nsxr.calibrate_flux(slit, photometry(**times), area)
    factor = expected(slit) / 0.9 / SR  # one year after the reference, a tenth of the light is lost
    np.testing.assert_allclose(found["sci"][1], (slit["sci"] * factor)[1] / 0.02, rtol=1e-6)
    np.testing.assert_allclose(found["sci"][2], (slit["sci"] * factor)[2] / 0.049, rtol=1e-6)
    assert found["sci"].attrs["units"] == "MJy/sr"
    assert "photom_point" not in found
    assert found["sci"][[0, 3]].isnull().all()
    assert ((found["dq"][[0, 3]] & PixelFlag.NON_SCIENCE) > 0).all()
    assert (found["dq"][1] & PixelFlag.NON_SCIENCE == 0).all()
    # beyond the wavelengths of the reference there is no value
    assert found["sci"][1].isnull().sum() == np.isnan(expected(slit)[1]).sum() > 0
    assert found.attrs["PIXAR_A2"] == pytest.approx(0.0345)


def test_forms_of_time_dependence_multiply():
    values = {
        "linear_t0": 59000.0,
        "linear_lossperyear": 0.02,
        "exponential_t0": 59100.0,
        "exponential_amplitude": 0.1,
        "exponential_tau": 200.0,
        "exponential_const": 0.9,
        "powerlaw_t0": 59000.0,
        "powerlaw_year1value": 0.97,
        "powerlaw_tsoft": 10.0,
        "powerlaw_alpha": -0.02,
    }
    row = photometry(**values).isel(entry=0)
    found = time_dependence(row, {"EXPSTART": 59199.0, "EXPEND": 59201.0})
    parts = (1 - 0.02 * 200 / 365) * (0.1 * np.exp(-0.5) + 0.9) * (0.97 * (210 / 375) ** -0.02)
    assert found == pytest.approx(parts, rel=1e-12)
    assert time_dependence(row, {"EXPMID": 59200.0}) == found
    assert time_dependence(row, {"EXPMID": "N/A", "EXPSTART": 59199.0, "EXPEND": 59201.0}) == found
    with pytest.raises(InputFileError, match="EXPSTART"):
        time_dependence(row, {})
    with pytest.raises(ReferenceFileError, match="throughput at MJD 500000"):
        time_dependence(row, {"EXPMID": 5e5})


def test_both_conversions_have_the_time_dependence():
    slit = fixed(EXPMID=59365.0)
    photom = photometry(["S200A1"], linear_t0=59000.0, linear_lossperyear=0.5)
    found = nsxr.calibrate_flux(slit, photom, areas(slit=["S200A1"]))
    np.testing.assert_allclose(found["photom_point"], np.nan_to_num(2 * expected(slit)), rtol=1e-6)
    np.testing.assert_allclose(found["photom_uniform"], found["photom_point"] / (0.02 * SR), rtol=1e-6)


def test_slits_that_references_lack():
    photom, area = photometry(["S200A1", "S400A1"]), areas(slit=["S200A1"])
    tree = xr.DataTree.from_dict({name: fixed(name) for name in ("S200A1", "S400A1", "S200B1")})
    found = nsxr.calibrate_flux(tree, photom, area)
    assert found["S200A1/sci"].attrs["units"] == found["S400A1/sci"].attrs["units"] == "MJy"
    assert "photom_uniform" not in found["S400A1"]
    assert "PIXAR_SR" not in found["S400A1"].attrs
    assert found["S200B1/sci"].attrs["units"] == "DN/s"
    assert "no row" in steps(found["S200B1"].to_dataset())[-1]["reason"]
    extended = nsxr.calibrate_flux(fixed("S400A1", SRCTYPE="EXTENDED"), photom, area)
    assert "no area of a pixel for slit S400A1" in steps(extended)[-1]["reason"]
    far = nsxr.calibrate_flux(shutter(XCEN=300, SRCTYPE="EXTENDED"), photometry(), areas(**SHUTTERS))
    assert "shutter 300, 2 of quadrant 3" in steps(far)[-1]["reason"]
    nowhere = nsxr.calibrate_flux(shutter(XCEN="none", SRCTYPE="EXTENDED"), photometry(), areas(**SHUTTERS))
    assert "a slit without a shutter" in steps(nowhere)[-1]["reason"]


def test_what_is_wrong_for_all_slits_is_an_error():
    with pytest.raises(ReferenceFileError, match="no row for FILTER 'F100LP'"):
        nsxr.calibrate_flux(shutter(FILTER="F100LP"), photometry(), areas(**SHUTTERS))
    with pytest.raises(ReferenceFileError, match="is for fixed slits"):
        nsxr.calibrate_flux(shutter(), photometry(["S200A1"]), areas(**SHUTTERS))
    with pytest.raises(ReferenceFileError, match="2 rows"):
        nsxr.calibrate_flux(fixed(), photometry(["S200A1", "S200A1"]), areas(slit=["S200A1"]))
    with pytest.raises(ReferenceFileError, match="no area for slices 30"):
        nsxr.calibrate_flux(sliced(), photometry(), areas(slice=np.arange(1, 31)).where(lambda a: a.slice < 30))
    calibrated = nsxr.calibrate_flux(shutter(), photometry(), areas(**SHUTTERS))
    with pytest.raises(ModelError, match="units 'MJy'"):
        nsxr.calibrate_flux(calibrated, photometry(), areas(**SHUTTERS))
    with pytest.raises(ModelError, match="'slice' is missing"):
        nsxr.calibrate_flux(shutter(EXP_TYPE="NRS_IFU"), photometry(), areas(**SHUTTERS))
    with pytest.raises(ReferenceFileError, match="is of type 'area'"):
        nsxr.calibrate_flux(shutter(), areas(**SHUTTERS), areas(**SHUTTERS))


def test_sensitivities_of_zero_count_as_missing():
    photom = photometry()
    photom["relresponse"] = photom["relresponse"] * 0
    found = nsxr.calibrate_flux(shutter(), photom, areas(**SHUTTERS))
    assert found["sci"].isnull().all()
    assert ((found["dq"] & PixelFlag.DO_NOT_USE) > 0).all()


@pytest.mark.parametrize("chunks", [{"row": 3}, {"column": 11, "row": 2}])
@pytest.mark.parametrize("make", [shutter, sliced])
def test_lazy_and_the_same_for_all_chunks(make, chunks):
    slit = make()
    area = areas(**SHUTTERS) if make is shutter else areas(slice=np.arange(1, 31))
    wanted = nsxr.calibrate_flux(slit, photometry(), area)
    with dask.config.set(scheduler=refuse):
        lazy = nsxr.calibrate_flux(slit.chunk(chunks), photometry(), area)
    assert lazy["sci"].chunks is not None
    xr.testing.assert_identical(lazy.compute(), wanted)


def test_the_factor_undoes_the_conversion():
    slit = shutter()
    for light in ("point", "uniform"):
        factor = photom_factor(slit, photometry(), areas(**SHUTTERS), light=light)
        found = nsxr.calibrate_flux(slit, photometry(), areas(**SHUTTERS))
        product = factor.value * found[f"photom_{light}"]
        np.testing.assert_allclose(product.where(factor.value.notnull(), 1), 1, rtol=1e-6)
        np.testing.assert_array_equal(found[f"photom_{light}"] == 0, factor.value.isnull())
