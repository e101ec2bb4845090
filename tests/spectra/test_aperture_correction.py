"""Spectra of points get the light outside of their aperture: known answers, edges, laziness."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr

import nsxr
from nsxr.errors import ModelError, ParameterError, ReferenceFileError
from nsxr.model.history import steps
from nsxr.simulate import simulate_trace
from nsxr.testing import forbid_computes, make_slit, make_spectrum


def apcorr(slits=None):
    n = 1 if slits is None else len(slits)
    wavelength = np.array([1.0, 1.3, 1.6, np.nan])
    size = np.array([[2.0] * 4, [6.0] * 4, [np.nan] * 4])
    correction = 1 + 1 / size + 0.1 * wavelength
    variables = {
        "filter": ("entry", ["CLEAR"] * n),
        "grating": ("entry", ["PRISM"] * n),
        "wavelength": (("entry", "node"), np.tile(wavelength, (n, 1))),
        "size": (("entry", "step", "node"), np.tile(size, (n, 1, 1))),
        "correction": (("entry", "step", "node"), np.tile(correction, (n, 1, 1))),
    }
    if slits is not None:
        variables["slit"] = ("entry", slits)
    return xr.Dataset(variables, attrs={"reference_type": "apcorr", "filename": "apcorr.fits"})


def spectrum(npixels=4.0, **attrs):
    header = {"EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": "PRISM", "SRCTYPE": "POINT", "SLTNAME": "7"}
    found = make_spectrum(np.linspace(1, 2, 5), 0.01, [0.9, 1.0, 1.15, 1.6, np.nan], **(header | attrs))
    return found.assign(npixels=("dispersion", np.full(5, npixels)))


def expected(size):
    wavelength = np.array([1.0, 1.0, 1.15, 1.6])
    low, high = 1 + 1 / 2 + 0.1 * wavelength, 1 + 1 / 6 + 0.1 * wavelength
    part = np.clip((size - 2) / 4, 0, 1)
    return np.append(low * (1 - part) + high * part, 1)  # a place without a wavelength keeps its flux


@pytest.mark.parametrize("npixels", [1.0, 2.0, 3.0, 6.0, 9.0])
def test_flux_and_variances(npixels):
    one = spectrum(npixels)
    found = nsxr.apply_aperture_correction(one, apcorr())
    np.testing.assert_allclose(found["aperture_correction"], expected(npixels), rtol=1e-12)
    for name, power in {"flux": 1, "surf_bright": 1, "flux_var_poisson": 2, "sb_var_rnoise": 2}.items():
        np.testing.assert_allclose(found[name], one[name] * expected(npixels) ** power, rtol=1e-12)
    assert steps(found)[-1]["references"] == {"apcorr": "apcorr.fits"}
    by_size = nsxr.apply_aperture_correction(spectrum(4.0), apcorr(), size=npixels)
    np.testing.assert_array_equal(by_size["flux"], found["flux"])


def test_missing_pixels_do_not_change_the_correction():
    slit, _ = simulate_trace(columns=60, signal_to_noise=200)
    slit = slit.assign_attrs(EXP_TYPE="NRS_MSASPEC", FILTER="CLEAR", GRATING="PRISM", SRCTYPE="POINT")
    slit["wavelength"] = slit["wavelength"] * 0 + np.float32(1.3)
    bad = np.zeros(slit["dq"].shape, bool)
    bad[int(slit.sizes["row"] / 2) - 1, 20:40:3] = True
    spectrum = nsxr.extract_spectrum(slit.assign(dq=slit["dq"].where(~bad, 1).astype(np.uint32)), half_width=2.0)
    assert (spectrum["npixels"][20:40:3] < 3.5).all()
    found = nsxr.apply_aperture_correction(spectrum, apcorr())
    np.testing.assert_allclose(found["aperture_correction"], 1 + (1 / 2 + 1 / 6) / 2 + 0.13, rtol=1e-6)


def test_a_local_background_with_light_of_the_wings():
    """A wing of 15 % is under the trace and beyond: without the correction, its light would count as background."""
    rows, wavelength = np.arange(24.0), 1.3
    core = np.diff(ndtr((np.append(rows, 24.0) - 12.0) / 0.9))
    wing = np.diff(ndtr((np.append(rows, 24.0) - 12.0) / 4.0))
    light = np.tile((0.85 * core + 0.15 * wing)[:, None], (1, 80)).astype(np.float32)
    header = {"EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": "PRISM", "SRCTYPE": "POINT", "SLTNAME": "7"}
    slit = make_slit(light, (1e-8, 1e-8, 0.0), wavelength=np.full(light.shape, wavelength), units="MJy", **header)
    table = apcorr()
    size = np.arange(2.0, 25.0, 2.0)
    inside = 0.85 * (2 * ndtr(size / 2 / 0.9) - 1) + 0.15 * (2 * ndtr(size / 2 / 4.0) - 1)
    values = np.tile((1 / inside)[None, :, None], (1, 1, 4))
    table = table.drop_vars(["size", "correction"]).assign(
        size=(("entry", "step", "node"), np.tile(size[None, :, None], (1, 1, 4))),
        correction=(("entry", "step", "node"), values),
    )
    for background in ("none", "constant"):
        spectrum = nsxr.extract_spectrum(slit, background=background, position=1211.5)
        found = nsxr.apply_aperture_correction(spectrum, table)["flux"][5:-5]
        np.testing.assert_allclose(found / 1e6, 1.0, atol=0.008, err_msg=background)
    plain = nsxr.apply_aperture_correction(spectrum.drop_vars("weight"), table)["flux"][5:-5]
    assert (plain / 1e6 < 0.99).all()


def test_integrations_lazily():
    one = spectrum()
    series = xr.concat([one, 2 * one], "integration", data_vars="all").assign_attrs(one.attrs)
    series["npixels"] = series["npixels"] / xr.DataArray([1, 2], dims="integration")
    with forbid_computes():
        lazy = nsxr.apply_aperture_correction(series.chunk(integration=1), apcorr())
    np.testing.assert_allclose(lazy["flux"][1], 2 * one["flux"] * expected(4.0), rtol=1e-12)
    xr.testing.assert_allclose(lazy.compute(), nsxr.apply_aperture_correction(series, apcorr()))


def test_what_is_left_as_it_is():
    extended = nsxr.apply_aperture_correction(spectrum(SRCTYPE="EXTENDED"), apcorr())
    assert "not a point (SRCTYPE EXTENDED)" in steps(extended)[-1]["reason"]
    fixed = {"EXP_TYPE": "NRS_FIXEDSLIT", "SLTNAME": "S400A1"}
    other = nsxr.apply_aperture_correction(spectrum(**fixed), apcorr(["S200A1"]))
    assert "no row for" in steps(other)[-1]["reason"]
    np.testing.assert_array_equal(other["flux"], spectrum()["flux"])
    own = nsxr.apply_aperture_correction(spectrum(**fixed), apcorr(["S200A1", "S400A1"]))
    np.testing.assert_allclose(own["aperture_correction"], expected(4.0), rtol=1e-12)


def test_refusals():
    with pytest.raises(ReferenceFileError, match=r"apcorr apcorr.fits has no row for FILTER 'F100LP'"):
        nsxr.apply_aperture_correction(spectrum(FILTER="F100LP"), apcorr())
    with pytest.raises(ModelError, match="lacks npixels"):
        nsxr.apply_aperture_correction(spectrum().drop_vars("npixels"), apcorr())
    with pytest.raises(ParameterError, match="size is -1"):
        nsxr.apply_aperture_correction(spectrum(), apcorr(), size=-1.0)


def test_shutters_that_the_header_does_not_tell():
    slit, _ = simulate_trace(columns=60, signal_to_noise=200)
    places = np.broadcast_to((np.arange(slit.sizes["row"]) - 10)[:, None] / 5.0, slit["sci"].shape)
    slit = slit.assign_coords(slit_y=(("row", "column"), places.astype(np.float32)))
    header = {"EXP_TYPE": "NRS_MSASPEC", "FILTER": "CLEAR", "GRATING": "PRISM", "SRCTYPE": "POINT", "SLTNAME": "7"}
    found = nsxr.extract_spectrum(slit.assign_attrs(header, SHUTSTA="1x1", SRCYPOS=0.1, SLTYSCL=1.0))
    correct = nsxr.apply_aperture_correction
    expected = correct(found, apcorr())["aperture_correction"]
    for value in ("N/A", np.nan):
        np.testing.assert_array_equal(
            correct(found.assign_attrs(SLTYSCL=value), apcorr())["aperture_correction"], expected
        )
    closed = correct(found.assign_attrs(SHUTSTA="000"), apcorr())["aperture_correction"]
    np.testing.assert_array_equal(closed, correct(found.drop_vars("slit_y"), apcorr())["aperture_correction"])
