"""One spectrum of the sky from many slits, and its subtraction."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr

import nsxr
from nsxr.errors import DegradedResultWarning, MissingReferenceError, ModelError
from nsxr.kernels.flux.sky import Samples, evaluate_sky, fit_sky, widths_of_pixels
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.testing import forbid_computes, make_slit

PIXEL, ROWS, COLUMNS = 0.002, 24, 200
HEIGHT = 0.2  # open heights of a row
LINES = (1.11, 1.2503)


def sky_at(wavelength, pixel=PIXEL):
    """Return a continuum with unresolved lines, as pixels see them."""
    found = 0.2 + 0.1 * wavelength
    for line in LINES:
        edges = [ndtr((wavelength + side * pixel - line) / (0.7 * pixel)) for side in (-0.5, 0.5)]
        found = found + 2 * (edges[1] - edges[0])
    return found


def scene(number, seed, noise=1.0, source=0.0, exposure=200.0, **attrs):
    """Return a slitlet of three shutters with a source in the middle one, and its response."""
    rng = np.random.default_rng([seed, number])
    phase = rng.uniform()
    wavelength = 1 + PIXEL * (np.arange(COLUMNS) + phase + 0.07 * np.arange(ROWS)[:, None])
    slit_y = np.broadcast_to(HEIGHT * (np.arange(ROWS) - ROWS / 2 + 0.5)[:, None], wavelength.shape)
    bars = np.clip(1.8 - np.abs(slit_y), 0, 1)
    response = 3 * bars * (1 + 0.2 * np.sin(5 * wavelength + number))
    light = sky_at(wavelength) * response
    light = light + source * np.exp(-0.5 * (slit_y / 0.25) ** 2)
    poisson, read = light / exposure, np.full_like(light, 1e-3)
    sci = light + noise * np.sqrt(poisson + read) * rng.standard_normal(light.shape)
    given = {"SLTNAME": str(number), "SHUTSTA": "1x1", "EXP_TYPE": "NRS_MSASPEC", "SRCYPOS": 0.0, "SLTYSCL": 1.15}
    slit = make_slit(sci, (poisson, read, 0.0), wavelength=wavelength, **given | attrs).drop_vars("var_flat")
    slit = slit.assign_coords(slit_y=(("row", "column"), slit_y.astype(np.float32)))
    images = {"response": response, "bars": bars, "bars_variance": np.full_like(bars, 1e-4)}
    return slit, xr.Dataset({name: (("row", "column"), one.astype(np.float32)) for name, one in images.items()})


def trees(count=6, **options):
    each = {str(n): scene(n, **{"seed": 1, **options}) for n in range(1, count + 1)}
    slits, response = (xr.DataTree.from_dict({name: one[k] for name, one in each.items()}) for k in (0, 1))
    slits.attrs = {"filename": "rate.fits"}
    return slits, response


def test_the_spectrum_and_its_errors_are_right_with_lines_narrower_than_two_pixels():
    slits, response = trees(source=5.0)
    sky = nsxr.estimate_sky(slits, response)
    known = ((sky["dq"] & 1) == 0).to_numpy()
    wavelength, value = sky["wavelength"].to_numpy()[known], sky["surf_bright"].to_numpy()[known]
    sigma = np.sqrt((sky["sb_var_poisson"] + sky["sb_var_rnoise"]).to_numpy()[known])
    pull = (value - sky_at(wavelength)) / sigma
    assert known.sum() > 2 * COLUMNS
    assert 0.9 < pull.std() < 1.1
    assert abs(pull.mean()) < 0.1
    near = np.abs(wavelength - LINES[1]) < 3 * PIXEL
    assert np.abs(value - sky_at(wavelength))[near].max() < 0.03  # of lines of 2
    assert np.isnan(sky["surf_bright"].to_numpy()[~known]).all()
    assert float(sky["clipped"]) < 0.02


def test_wings_of_bright_sources_are_told_from_the_sky():
    each = {str(n): scene(n, seed=2, source=source, noise=0.1) for n, source in enumerate((80.0, 5.0, 30.0, 12.0))}
    slits, response = (xr.DataTree.from_dict({name: one[k] for name, one in each.items()}) for k in (0, 1))
    sky = nsxr.estimate_sky(slits, response)
    wavelength = sky["wavelength"].to_numpy()
    far = np.min(np.abs(wavelength[:, None] - LINES), axis=1) > 4 * PIXEL
    left = (sky["surf_bright"].to_numpy() / sky_at(wavelength))[far] - 1
    assert abs(np.median(left)) < 2e-3  # in the row next to the brightest source, wings are a tenth of the sky


def test_light_that_nobody_planned_is_left_out():
    slits, response = trees(noise=0.0)
    clean = nsxr.estimate_sky(slits, response)
    for name, row in (("2", 6), ("4", 17)):
        slits[name]["sci"][row] += 3.0
    flagged = slits["5"].to_dataset()
    flagged["sci"][5, 50:90] = 1e4
    flagged["dq"][5, 50:90] |= np.uint32(PixelFlag.MSA_FAILED_OPEN)
    slits["5"] = xr.DataTree(flagged)
    found = nsxr.estimate_sky(slits, response)
    assert float(found["clipped"]) > 0.02
    n = int(((clean["dq"] & 1) == 0).sum())
    truth = sky_at(found["wavelength"].to_numpy())
    near = np.min(np.abs(found["wavelength"].to_numpy()[:, None] - LINES), axis=1) < 4 * PIXEL
    np.testing.assert_allclose(found["surf_bright"][:n][~near[:n]], truth[:n][~near[:n]], rtol=2e-3)


def test_background_slitlets_alone_and_what_cannot_be():
    slits, response = trees(3, noise=0.0)
    slits["2"].attrs |= {"SRCNAME": "1234_BKG2"}
    sky = nsxr.estimate_sky(slits, response, slitlets="background")
    record = steps(sky)[-1]
    assert record["step"] == "estimate_sky"
    assert record["parameters"]["slits"] == ["2"]
    slits["2"].attrs["SRCNAME"] = "1234_2"
    with pytest.raises(ModelError, match="no background slitlets"):
        nsxr.estimate_sky(slits, response, slitlets="background")
    for node in slits.children.values():
        node.attrs["SHUTSTA"] = "x"
    with pytest.raises(ModelError, match="no slitlets with shutters beside their sources"):
        nsxr.estimate_sky(slits, response)
    slits, response = trees(2)
    with pytest.raises(ModelError, match="0 pixels see nothing but the sky"):
        nsxr.estimate_sky(slits, response, source_margin=50.0)
    with pytest.raises(MissingReferenceError, match="missing: photom, area"):
        nsxr.sky_response(slits, {})


def test_subtraction_leaves_noise_that_is_known():
    slits, response = trees(source=5.0)
    before = slits.copy(deep=True)
    found = nsxr.subtract_sky(slits, nsxr.estimate_sky(slits, response), response)
    assert before.identical(slits)
    pulls = []
    for name, node in found.children.items():
        slit, old, light = node.to_dataset(), slits[name].to_dataset(), response[name].to_dataset()
        assert (slit.attrs["S_MSBSUB"], slit["sci"].attrs["units"]) == ("COMPLETE", "DN/s")
        added = sum(slit[kind] - old[kind] for kind in ("var_poisson", "var_rnoise"))
        np.testing.assert_allclose(slit["var_background"], added, rtol=1e-3, atol=1e-7)
        sky = (old["sci"] - slit["sci"]).to_numpy()
        np.testing.assert_allclose(slit["var_barshadow"], 1e-4 * sky**2, rtol=1e-3, atol=1e-9)
        far = (np.abs(slit["slit_y"]) > 0.9) & (light["bars"] > 0.1)
        pulls.append((slit["sci"] / np.sqrt(slit["var_poisson"] + slit["var_rnoise"])).to_numpy()[far.to_numpy()])
    pull = np.concatenate(pulls)
    # pixels that the sky was made from have a part of its noise
    assert 0.93 < pull[np.isfinite(pull)].std() < 1.0
    assert steps(found["1"].to_dataset())[-1]["step"] == "master_background_mos"
    with pytest.raises(ModelError, match="subtracted before"):
        nsxr.subtract_sky(found, nsxr.estimate_sky(slits, response), response)


def test_lazy_slits_give_the_same():
    slits, response = trees(3)
    expected = nsxr.subtract_sky(slits, nsxr.estimate_sky(slits, response), response)
    lazy, own = slits.chunk(), response.chunk()
    with forbid_computes():
        sky = nsxr.estimate_sky(lazy, own)
        found = nsxr.subtract_sky(lazy, sky, own)
    for name, node in found.compute().children.items():
        xr.testing.assert_identical(node.to_dataset().drop_attrs(), expected[name].to_dataset().drop_attrs())


def test_slits_without_a_response_or_a_spectrum_are_skipped():
    slits, response = trees(2, noise=0.0)
    sky = nsxr.estimate_sky(slits, response)
    response["1"] = xr.DataTree(xr.Dataset(attrs={"reason": "no area"}))
    found = nsxr.subtract_sky(slits, sky, response)
    assert steps(found["1"].to_dataset())[-1]["reason"] == "no area"
    assert "S_MSBSUB" not in found["1"].attrs
    several = xr.DataTree.from_dict({"1": sky, "3": sky})
    with pytest.warns(DegradedResultWarning, match="from slits 2: there are spectra of 1, 3"):
        found = nsxr.subtract_sky(slits, several, response)
    assert "none of this one" in steps(found["2"].to_dataset())[-1]["reason"]


def test_wavelengths_that_the_spectrum_does_not_have():
    wavelength = 1 + PIXEL * np.arange(100) + 0.0003 * np.arange(3)[:, None]
    nodes = 1 + PIXEL * np.arange(20, 80)
    values = np.stack([sky_at(nodes), np.full(60, 1e-4), np.full(60, 2e-4)])
    values[0, 5] = np.nan  # one bad point is bridged, ten are not
    values[0, 30:40] = np.nan
    sky, poisson, read = evaluate_sky(wavelength, nodes, *values)
    known = np.isfinite(sky)
    assert known[:, 25].all()
    assert not known[:, :19].any()
    assert not known[:, 82:].any()
    assert not known[:, 51:59].any()
    smooth = known & (np.min(np.abs(wavelength[..., None] - LINES), axis=-1) > 6 * PIXEL)
    np.testing.assert_allclose(sky[smooth], sky_at(wavelength)[smooth], rtol=1e-3)
    np.testing.assert_allclose(poisson[known], 1e-4)
    np.testing.assert_allclose(read[known], 2e-4)
    assert np.isnan(evaluate_sky(wavelength, nodes, *(values * np.nan))[0]).all()


def test_the_points_of_a_spectrum_are_the_spline_itself():
    slits = np.empty(4, object)
    for n in range(4):
        wavelength = 1 + PIXEL * (np.arange(300) + 0.23 * n) + 0.1 * PIXEL * np.arange(6)[:, None]
        row, ones = np.broadcast_to(np.arange(6.0)[:, None], wavelength.shape), np.ones_like(wavelength)
        curve = wavelength**3 - 2 * wavelength
        images = (
            wavelength,
            widths_of_pixels(wavelength),
            curve,
            1e-6 * ones,
            1e-6 * ones,
            ones,
            row,
            ones,
            np.nan * ones,
        )
        slits[n] = Samples(*(image.ravel() for image in images))
    nodes, value, *variances, count, dropped = fit_sky(slits, length=2400)
    assert dropped == 0
    assert np.nansum(count) > 4 * 6 * 300
    wavelength = np.linspace(1.05, 1.5, 1000)[None]
    found, *_ = evaluate_sky(np.repeat(wavelength, 2, 0), nodes, value, *variances)
    np.testing.assert_allclose(found[0], (wavelength**3 - 2 * wavelength)[0], rtol=1e-6)


def changed(sky, **values):
    """Return a copy of a spectrum with other values or units of variables."""
    found = sky.copy(deep=True)
    for name, value in values.items():
        if isinstance(value, str):
            found[name].attrs["units"] = value
        else:
            found[name][:] = value
    return found


def test_a_spectrum_that_is_none_of_this_sky_is_refused_by_name():
    slits, response = trees(2, noise=0.0, GRATING="PRISM", FILTER="CLEAR")
    sky = nsxr.estimate_sky(slits, response)
    wrong = {
        "SRCTYPE is POINT": sky.assign_attrs(SRCTYPE="POINT"),
        "has GRATING G395H, the slits have PRISM": sky.assign_attrs(GRATING="G395H"),
        "has FILTER F290LP, the slits have CLEAR": sky.assign_attrs(FILTER="F290LP"),
        "units 'm', expected 'um'": changed(sky, wavelength="m"),
        "has 0 usable points": changed(sky, surf_bright=np.nan),
        "has 1 usable points": sky.isel(dispersion=slice(50, 51)),
        "sb_var_rnoise down to -1": changed(sky, sb_var_rnoise=-1.0),
    }
    for message, spectrum in wrong.items():
        with pytest.raises(ModelError, match=message):
            nsxr.subtract_sky(slits, spectrum, response)
    nsxr.subtract_sky(slits, sky.assign_attrs(DETECTOR="NRS2"), response)


def test_a_spectrum_of_another_slit_or_of_few_wavelengths_is_a_warning():
    slits, response = trees(1, noise=0.0, SLTNAME="S200A1", EXP_TYPE="NRS_FIXEDSLIT", SRCTYPE="EXTENDED")
    sky = nsxr.estimate_sky(slits, response)
    with pytest.warns(DegradedResultWarning, match="of slit S400A1, which blurs lines"):
        nsxr.subtract_sky(slits, sky.assign_attrs(SLTNAME="S400A1"), response)
    part = sky.isel(dispersion=slice(0, 300)).assign_attrs(SLTNAME="S200A1")
    with pytest.warns(DegradedResultWarning, match=r"lacks wavelengths of slits 1 \(\d\d % of its pixels\)"):
        nsxr.subtract_sky(slits, part, response)


def test_the_record_says_where_the_spectrum_is_from():
    slits, response = trees(2, noise=0.0)
    for node in slits.children.values():
        node.attrs["filename"] = "rate.fits"
    slits["2"].attrs["SRCNAME"] = "1234_BKG2"
    sky = nsxr.estimate_sky(slits, response)
    given = {
        "global": sky,
        "master": nsxr.estimate_sky(slits, response, slitlets="background"),
        "other_sky_x1d.fits": sky.drop_attrs(deep=False).assign_attrs(FILENAME="other_sky_x1d.fits"),
    }
    for label, spectrum in given.items():
        found = nsxr.subtract_sky(slits, spectrum, response)
        assert steps(found["1"].to_dataset())[-1]["parameters"]["sky"] == label
