"""Backgrounds: variances that say what the scatter is, outliers clipped in few exposures, shared backgrounds once."""

import json

import numpy as np
import pytest
import xarray as xr
from astropy.stats import sigma_clip

from nsxr.errors import ModelError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.slits.background import combine_backgrounds, subtract_background
from nsxr.slits.exposure_mean import average_exposures
from nsxr.testing import forbid_computes, make_rates

RATE, READ = 0.05, 4e-4  # DN/s, variance of read noise
TIME = 900.0
GAIN = 1.0


def exposure(seed: int, shape: tuple[int, int] = (60, 400), light: float = 0.0, time: float = TIME, **attrs: object):
    """Return count rates of sky and read noise, with variances made of the noisy rates as in real products."""
    random = np.random.default_rng(seed)
    true = (RATE + light) / time / GAIN
    sci = RATE + light + random.normal(size=shape) * np.sqrt(true + READ * TIME / time)
    attrs = {"FILTER": "CLEAR", "GRATING": "PRISM", "GWA_XTIL": 0.3, "GWA_YTIL": 0.03, **attrs}
    attrs = {"DETECTOR": "NRS1", "EFFEXPTM": time, "filename": f"e{seed}_rate.fits", **attrs}
    return make_rates(sci, np.maximum(sci, 0) / time / GAIN, READ * TIME / time, **attrs)


def pull(dataset: xr.Dataset, expected: float = 0.0) -> float:
    return float(((dataset["sci"] - expected) / np.sqrt(dataset["var_poisson"] + dataset["var_rnoise"])).std())


@pytest.mark.parametrize("number", [1, 2, 4])
def test_variance_of_the_difference(number: int) -> None:
    science, backgrounds = exposure(0), [exposure(n + 1) for n in range(number)]
    ours = subtract_background(science, backgrounds)
    theirs = subtract_background(science, backgrounds, method="peer")
    assert pull(ours) == pytest.approx(1.0, abs=0.015)
    assert pull(theirs) == pytest.approx(np.sqrt(1 + 1 / number), abs=0.02)
    assert float(ours["sci"].mean()) == pytest.approx(0.0, abs=4 * np.sqrt(READ / ours["sci"].size))
    np.testing.assert_allclose(
        ours["var_background"],
        ours["var_rnoise"] + ours["var_poisson"] - science["var_rnoise"] - science["var_poisson"],
        rtol=1e-3,
    )
    assert ours.attrs["S_BKDSUB"] == "COMPLETE"
    assert len(json.loads(ours.attrs["background_members"])) == number


def test_a_shared_background_counts_once() -> None:
    background = [exposure(99)]
    dithers = [subtract_background(exposure(n), background) for n in range(4)]
    assert pull(average_exposures(dithers)) == pytest.approx(1.0, abs=0.02)
    apart = [d.drop_vars("var_background") for d in dithers]
    assert pull(average_exposures(apart)) == pytest.approx(np.sqrt(1.25 / 0.5), abs=0.05)
    different = [subtract_background(exposure(n), [exposure(50 + n)]) for n in range(4)]
    assert pull(average_exposures(different)) == pytest.approx(1.0, abs=0.02)


def test_missing_pixels_of_one_dither() -> None:
    dithers = [subtract_background(exposure(n), [exposure(99)]) for n in range(3)]
    dithers[1]["dq"].values[:, ::2] = 1
    mean = average_exposures(dithers)
    assert pull(mean) == pytest.approx(1.0, abs=0.02)
    assert not mean["dq"].any()


@pytest.mark.parametrize("number", [2, 3, 4, 5, 7])
def test_clipping_of_few(number: int) -> None:
    backgrounds = [exposure(n) for n in range(number)]
    clean = combine_backgrounds(backgrounds)
    assert float((clean["n_contributing"] < number).mean()) < 1e-3
    plain = combine_backgrounds(backgrounds, sigma=0)
    assert abs(float((clean["sci"] - plain["sci"]).mean())) < 0.01 * np.sqrt(READ)
    noise = np.sqrt(READ + RATE / TIME)
    random = np.random.default_rng(3)
    hit = random.random((60, 400)) < 0.02
    backgrounds[0]["sci"].values[hit] += 10 * noise
    backgrounds[0]["var_poisson"].values[hit] += 10 * noise / TIME
    found = combine_backgrounds(backgrounds)
    assert float((found["n_contributing"].values[hit] == number - 1).mean()) > 0.99
    assert float((found["sci"].values[hit] - RATE).mean()) == pytest.approx(0, abs=0.1 * noise)


def test_weights_follow_exposure_time_and_not_the_noise() -> None:
    backgrounds = [exposure(1), exposure(2, time=300.0)]
    found = combine_backgrounds(backgrounds, sigma=0)
    expected = (backgrounds[0]["sci"] * 900 + backgrounds[1]["sci"] * 300) / 1200
    np.testing.assert_allclose(found["sci"], expected, rtol=1e-5)
    variance = (backgrounds[0]["var_rnoise"] * 900**2 + backgrounds[1]["var_rnoise"] * 300**2) / 1200**2
    np.testing.assert_allclose(found["var_rnoise"], variance, rtol=1e-5)
    faint = [exposure(n, time=TIME) for n in range(10, 14)]
    assert float(combine_backgrounds(faint)["sci"].mean()) == pytest.approx(RATE, abs=4 * np.sqrt(READ / 4 / 24000))


def test_like_the_peer() -> None:
    backgrounds = [exposure(n, (20, 30)) for n in range(12)]
    backgrounds[3]["sci"].values[::3] += 1.0
    backgrounds[5]["sci"].values[4, :] = np.nan
    backgrounds[6]["dq"].values[7] = 1024
    found = combine_backgrounds(backgrounds, method="peer")
    values = np.stack([b["sci"].values.astype(float) for b in backgrounds])
    clipped = sigma_clip(np.ma.masked_invalid(values), sigma=3, maxiters=None, axis=0)
    np.testing.assert_allclose(found["sci"], clipped.mean(axis=0).filled(0), rtol=1e-6)
    science = exposure(77, (20, 30))
    result = subtract_background(science, backgrounds, method="peer")
    assert (result["dq"][7] == 1024).all()
    xr.testing.assert_equal(result["var_rnoise"], science["var_rnoise"])


def test_flags_of_those_that_contribute() -> None:
    science, backgrounds = exposure(0), [exposure(1), exposure(2)]
    dead, warm = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.DEAD), np.uint32(PixelFlag.WARM)
    backgrounds[0]["dq"].values[5, 5] = dead
    backgrounds[0]["dq"].values[6, 6] = backgrounds[1]["dq"].values[6, 6] = dead
    backgrounds[0]["dq"].values[7, 7] = warm
    science["dq"].values[8, 8] = 4
    result = subtract_background(science, backgrounds)
    assert result["dq"][5, 5] == 0
    assert result["sci"][5, 5] == pytest.approx(float(science["sci"][5, 5] - backgrounds[1]["sci"][5, 5]))
    assert result["dq"][6, 6] == PixelFlag.DO_NOT_USE
    assert np.isnan(result["sci"][6, 6])
    assert result["dq"][7, 7] == 0
    assert result["dq"][8, 8] == 4
    combined = combine_backgrounds(backgrounds)
    assert combined["dq"][7, 7] == warm
    assert combined["n_contributing"][5, 5] == 1


def test_series_and_subarrays() -> None:
    series = xr.concat([exposure(n, (16, 40)) for n in range(5)], "integration")
    background = exposure(50, (60, 100))
    result = subtract_background(series, [background])
    assert result["sci"].dims == ("integration", "row", "column")
    np.testing.assert_allclose(result["sci"][2], series["sci"][2] - background["sci"][:16, :40], atol=1e-7)
    averaged = combine_backgrounds([series])
    np.testing.assert_allclose(averaged["sci"], series["sci"].mean("integration"), rtol=1e-5)
    np.testing.assert_allclose(averaged["var_rnoise"], READ / 5, rtol=1e-5)


def test_lazy_pure_and_the_same_for_any_chunks() -> None:
    science, backgrounds = exposure(0, (20, 30)), [exposure(n, (20, 30)) for n in range(1, 4)]
    copies = [each.copy(deep=True) for each in (science, *backgrounds)]
    plain = subtract_background(science, backgrounds)
    for chunks in ({"row": 7}, {"row": 5, "column": 11}, {}):
        with forbid_computes():
            lazy = subtract_background(science.chunk(chunks), [b.chunk(chunks) for b in backgrounds])
        xr.testing.assert_identical(lazy.compute(), plain)
    for each, copy in zip((science, *backgrounds), copies, strict=True):
        xr.testing.assert_identical(each, copy)
    assert plain["sci"].attrs["units"] == "DN/s"
    assert plain["sci"].dtype == plain["var_background"].dtype == np.float32
    combined = combine_backgrounds(backgrounds)
    xr.testing.assert_identical(subtract_background(science, combined).drop_attrs(), plain.drop_attrs())


def test_slits_too() -> None:
    names = {"row": "cross_dispersion", "column": "dispersion"}
    result = subtract_background(exposure(0).rename(names), [exposure(1).rename(names)])
    assert pull(result) == pytest.approx(1.0, abs=0.015)


def test_the_error_of_a_factor_is_that_of_the_light_that_is_left() -> None:
    slit, other = (exposure(n, light=n * 0.1, shape=(9, 40)).assign_attrs(SLTNAME="5") for n in (2, 1))
    slit["var_photom"] = (0.01 * slit["sci"] ** 2).astype(np.float32)
    slit["flatfield_common"] = xr.ones_like(slit["sci"])
    found = subtract_background(slit, [other])
    np.testing.assert_allclose(found["var_photom"], 0.01 * found["sci"] ** 2, rtol=1e-5)
    assert "flatfield_common" not in found


def test_refused_by_name() -> None:
    science = exposure(0)
    other = exposure(1, GRATING="G140M", GWA_XTIL=0.3001)
    other["sci"].attrs["units"] = "MJy"
    with pytest.raises(ModelError, match=r"e1_rate.fits has GRATING 'G140M'.*grating wheel at GWA_XTIL 0.3001.*'MJy'"):
        subtract_background(science, [other])
    with pytest.raises(ModelError, match="does not cover the science along column"):
        subtract_background(science, [exposure(1, (60, 300))])
    with pytest.raises(ParameterError, match="no background"):
        subtract_background(science, [])
    with pytest.raises(ParameterError, match="sigma is -1"):
        subtract_background(science, [exposure(1)], sigma=-1)
    with pytest.raises(ModelError, match="not on the same pixels"):
        average_exposures([exposure(0), exposure(1, (50, 400))])


def test_positions_of_the_grating_wheel_that_are_not_known() -> None:
    unknown = [exposure(0, GWA_XTIL="N/A"), exposure(1, GWA_XTIL=float("nan"))]
    assert subtract_background(unknown[0], unknown[1:]).attrs["S_BKDSUB"] == "COMPLETE"
    for science, background in ((unknown[0], exposure(2)), (exposure(2), unknown[0])):
        with pytest.raises(ModelError, match="the grating wheel at GWA_XTIL"):
            subtract_background(science, [background])
