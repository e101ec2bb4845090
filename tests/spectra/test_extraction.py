"""Extraction: fluxes, variances and coverage against simulated truth; series; units; laziness."""

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.spectra.companions import Others
from nsxr.kernels.spectra.extraction import column_weights
from nsxr.model.dq import PixelFlag
from nsxr.simulate import simulate_trace
from nsxr.spectra.box_extraction import extract_box
from nsxr.spectra.extraction import _with_shared_noise, extract_spectrum, model_image
from nsxr.spectra.trace_model import fit_trace_model
from nsxr.testing import forbid_computes, make_slit


def test_brightness_of_a_source_that_fills_its_slitlet():
    rows = np.arange(31.0)
    open_rows = np.abs(rows - 15) <= 7.7  # three shutters; the cut-out has dark rows on both sides, as cut_slits makes
    sci = np.tile(np.where(open_rows, 2.0, 0.0)[:, None], (1, 80)).astype(np.float32)
    wavelength = np.tile(np.where(np.abs(rows - 15) <= 9.7, 1.5, np.nan)[:, None], (1, 80))
    slit = make_slit(sci, (1e-6, 1e-6, 0.0), wavelength=wavelength, units="MJy/sr", SRCTYPE="EXTENDED", SHUTSTA="1x1")
    slit = slit.assign_attrs(PIXAR_SR=4e-13, SRCYPOS=0.0, SRCXPOS=0.0, EXP_TYPE="NRS_MSASPEC")
    spectrum = extract_spectrum(slit, background="none")
    np.testing.assert_allclose(spectrum["surf_bright"][5:-5], 2.0, rtol=0.07)  # a row of 15


def test_variances_where_the_sensitivity_changes_much_from_column_to_column():
    slit, _ = simulate_trace(columns=120, signal_to_noise=60)
    scale = xr.DataArray(np.exp(3 * np.clip(np.arange(120) / 30 - 1, -1, 0) ** 2), dims="column")
    plain, steep = slit, slit.copy()
    for name, power in {"sci": 1, "var_poisson": 2, "var_rnoise": 2, "var_flat": 2}.items():
        if name in slit:
            steep[name] = (slit[name] * scale**power).astype(np.float32).assign_attrs(slit[name].attrs)
    one, other = (extract_spectrum(each, background="none") for each in (plain, steep))
    ratio = other["flux_var_poisson"] / one["flux_var_poisson"] / scale.rename(column="dispersion").values ** 2
    np.testing.assert_allclose(ratio[3:-3], 1.0, atol=0.12)


IMAGE = ("row", "column")
PARTS = ("poisson", "rnoise", "flat")


def aperture_flux(truth: xr.Dataset, model: xr.Dataset) -> xr.DataArray:
    """Return the true flux within the aperture."""
    return (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).rename(column="dispersion")


def deviation(spectrum: xr.Dataset) -> xr.DataArray:
    return np.sqrt(sum(spectrum[f"flux_var_{part}"] for part in PARTS))


def test_column_weights_are_least_squares() -> None:
    random = np.random.default_rng(1)
    profile = random.random((2, 9, 5))
    aperture = (random.random((2, 9, 5)) > 0.2).astype(float)
    precision = random.random((2, 9, 5)) * (random.random((2, 9, 5)) > 0.2)
    image = random.normal(size=(2, 9, 5))
    for order in (0, 1, 2):
        flux, level, leverage = column_weights(profile, aperture, precision, order)
        for e in range(2):
            for x in range(5):
                w = precision[e, :, x] * (aperture[e, :, x] > 0 if order == 0 else 1)
                y = np.linspace(-1, 1, 9)
                terms = np.stack([profile[e, :, x], np.ones(9), y][: 1 + order], axis=1)
                root = np.sqrt(w)[:, None]
                solution = np.linalg.lstsq(terms * root, image[e, :, x] * root[:, 0], rcond=None)[0]
                hat = terms @ np.linalg.pinv(terms * root) * root.T
                assert (flux[e, :, x] * image[e, :, x]).sum() == pytest.approx(solution[0], rel=1e-9)
                np.testing.assert_allclose(leverage[e, :, x], np.diag(hat) * (w > 0), atol=1e-9)
                if order:
                    centre = np.average(y, weights=aperture[e, :, x])
                    there = solution[1] + (solution[2] * centre if order == 2 else 0.0)
                    assert (level[e, :, x] * image[e, :, x]).sum() == pytest.approx(there, rel=1e-8)


@pytest.mark.parametrize("bad_pixels", ["isolated", "clusters"])
@pytest.mark.parametrize("signal_to_noise", [11.0, 150.0])
def test_fluxes_and_variances(signal_to_noise: float, bad_pixels: str) -> None:
    pulls, hit, ratios = [], [], []
    seeds = 12 if bad_pixels == "isolated" else 16
    for seed in range(seeds):
        slit, truth = simulate_trace(signal_to_noise=signal_to_noise, bad_pixels=bad_pixels, seed=seed)  # type: ignore[arg-type]
        model = fit_trace_model(slit)
        spectrum = extract_spectrum(slit, model)
        wanted = aperture_flux(truth, model)
        pulls.append(((spectrum["flux"] - wanted) / deviation(spectrum)).values)
        ratios.append(float((spectrum["flux"] / wanted).mean()))
        near = np.abs(truth["row"] - truth["trace"]) < 1.6
        kept = spectrum["dq"] == 0
        hit.append((truth["is_bad"] & near).any("row").values & kept.values)
    all_pulls, is_hit = np.concatenate(pulls), np.concatenate(hit)
    assert is_hit.sum() > 100
    assert np.std(all_pulls[~is_hit]) == pytest.approx(1.0, abs=0.04)
    assert np.std(all_pulls[is_hit]) == pytest.approx(1.0, abs=3 / np.sqrt(2 * is_hit.sum()))
    assert np.mean(ratios) == pytest.approx(1.0, abs=3 / signal_to_noise / np.sqrt(seeds * 420) + 0.001)


def test_near_the_limit_of_cramer_and_rao() -> None:
    for seed in range(3):
        slit, truth = simulate_trace(signal_to_noise=20.0, bad_pixels="none", seed=seed)
        spectrum = extract_spectrum(slit)
        limit = np.sqrt(1 / (truth["profile"] ** 2 / truth["variance"]).sum("row")) * 1e6
        signal_to_noise = (truth["flux"] / limit).mean() / (spectrum["flux"] / deviation(spectrum)).mean()
        assert 0.97 < float(signal_to_noise) < 1.03


def test_missing_pixels_are_made_up_for() -> None:
    slit, truth = simulate_trace(signal_to_noise=150.0, bad_pixels="none")
    row = int(np.rint(float(truth["trace"][100]))) - 200
    flags = slit["dq"].copy(deep=True)
    flags.values[row, 100] |= np.uint32(PixelFlag.DO_NOT_USE)
    flags.values[row - 1 : row + 2, 200] |= np.uint32(PixelFlag.DO_NOT_USE)
    flags.values[row, 300] |= np.uint32(PixelFlag.FLUX_ESTIMATED)
    model = fit_trace_model(slit)
    holed = slit.assign(dq=flags)
    for weighting in ("profile", "box"):
        spectrum = extract_spectrum(holed, weighting=weighting)  # type: ignore[arg-type]
        pull = (spectrum["flux"] - aperture_flux(truth, model)) / deviation(spectrum)
        assert np.abs(pull[[100, 300]]).max() < 4
        assert spectrum["coverage"][100] < 0.75
        assert spectrum["coverage"][50] == pytest.approx(1.0)
        assert deviation(spectrum)[100] > 1.15 * deviation(spectrum)[99]
        assert spectrum["dq"][200] == PixelFlag.DO_NOT_USE
        assert np.isfinite(spectrum["flux"][200])
        assert spectrum["dq"][100] == 0


def test_box_is_the_sum_over_the_aperture() -> None:
    slit, _ = simulate_trace(bad_pixels="none")
    model = fit_trace_model(slit, rescale_noise=False)
    spectrum = extract_spectrum(slit, model, weighting="box")
    inside = (model["aperture"] > 0) & model["is_used"]
    total = (slit["sci"].astype(float) * model["aperture"]).where(inside, 0.0).sum("row").values * 1e6
    whole = (spectrum["coverage"] > 0.999999).values
    np.testing.assert_allclose(spectrum["flux"][whole], total[whole], rtol=1e-9)
    read = (slit["var_rnoise"].astype(float) * model["aperture"] ** 2).where(inside, 0.0).sum("row").values
    noise = (spectrum["flux_var_poisson"] + spectrum["flux_var_rnoise"]).values
    extra = 1 + model["profile_variance"].values * spectrum["flux"].values ** 2 / noise
    np.testing.assert_allclose((spectrum["flux_var_rnoise"] / 1e12)[whole], read[whole], rtol=2e-2)
    assert np.nanmax(extra) < 1.2


@pytest.mark.parametrize("background", ["constant", "linear"])
def test_local_background(background: str) -> None:
    pulls = []
    for seed in range(4):
        slit, truth = simulate_trace(signal_to_noise=60.0, background=900.0, bad_pixels="isolated", seed=seed)
        model = fit_trace_model(slit, background=background)  # type: ignore[arg-type]
        spectrum = extract_spectrum(slit, model)
        # the wings of the true profile beyond the aperture are light of the source, too
        pulls.append(((spectrum["flux"] - aperture_flux(truth, model)) / deviation(spectrum)).values)
        level = spectrum["background"] * 4.8e-13
        assert float((level / (900 * 1e-15)).mean()) == pytest.approx(1.0, abs=0.02)
        assert (spectrum["bkgd_var_rnoise"] > 0).all()
    assert np.nanstd(np.concatenate(pulls)) == pytest.approx(1.0, abs=0.06)


def test_surface_brightness_units() -> None:
    slit, _ = simulate_trace(bad_pixels="none")
    area = slit.attrs["PIXAR_SR"]
    bright = slit.assign(
        sci=(slit["sci"] / area).astype(np.float32).assign_attrs(units="MJy/sr"),
        var_poisson=(slit["var_poisson"] / area**2).astype(np.float32),
        var_rnoise=(slit["var_rnoise"] / area**2).astype(np.float32),
    )
    one, other = extract_spectrum(slit), extract_spectrum(bright)
    np.testing.assert_allclose(other["flux"], one["flux"], rtol=1e-4)
    np.testing.assert_allclose(other["flux_var_rnoise"], one["flux_var_rnoise"], rtol=1e-3)
    assert one["flux"].attrs["units"] == "Jy"
    assert one["flux_var_poisson"].attrs["units"] == "(Jy)2"
    assert not one["surf_bright"].any()
    pixels = fit_trace_model(bright)["aperture"].sum("row").values
    np.testing.assert_allclose(other["surf_bright"], other["flux"] / 1e6 / area / pixels, rtol=1e-9)
    with pytest.raises(ModelError, match="PIXAR_SR"):
        extract_spectrum(bright.assign_attrs(PIXAR_SR=0.0))
    with pytest.raises(ModelError, match="units 'erg'"):
        extract_spectrum(slit.assign(sci=slit["sci"].assign_attrs(units="erg")))


def test_wavelength_is_that_of_the_trace() -> None:
    slit, truth = simulate_trace(offset=2.0, bad_pixels="none")
    spectrum = extract_spectrum(slit)
    at = slit["wavelength"].interp(row=truth["trace"], column=truth["column"])
    np.testing.assert_allclose(spectrum["wavelength"], at, atol=2e-5)
    assert spectrum["wavelength"].attrs["units"] == "um"


def test_series() -> None:
    slit, truth = simulate_trace(signal_to_noise=100.0, integrations=30, depth=0.01, bad_pixels="isolated", seed=4)
    sci = slit["sci"].copy(deep=True)
    row = int(np.rint(float(truth["trace"][77]))) - 200
    sci.values[12, row, 77] *= 3  # a cosmic ray in one integration
    slit = slit.assign(sci=sci)
    model = fit_trace_model(slit)
    spectrum = extract_spectrum(slit, model)
    assert spectrum["flux"].dims == ("integration", "dispersion")
    assert "int_mid_MJD_UTC" in spectrum.coords
    pull = (spectrum["flux"] - aperture_flux(truth, model)) / deviation(spectrum)
    assert float(pull.std()) == pytest.approx(1.0, abs=0.02)
    assert abs(float(pull[12, 77])) < 4.5
    white = spectrum["flux"].mean("dispersion")
    depth = 1 - float(white[10:20].mean() / (white[:10].mean() + white[20:].mean()) * 2)
    assert depth == pytest.approx(0.01, abs=0.0006)
    with forbid_computes():
        lazy = extract_spectrum(slit.chunk({"integration": 7}))
    xr.testing.assert_allclose(lazy.compute().drop_vars("weight"), spectrum.drop_vars("weight"), rtol=1e-6)


def test_lazy_and_the_same_for_any_chunks() -> None:
    slit, _ = simulate_trace(columns=128)
    plain, before = extract_spectrum(slit), slit.copy(deep=True)
    for chunks in ({"column": 50}, {"row": 7}, {}):
        with forbid_computes():
            lazy = extract_spectrum(slit.chunk(chunks))
        computed = lazy.compute()
        xr.testing.assert_identical(computed.drop_vars("wavelength"), plain.drop_vars("wavelength"))
        np.testing.assert_allclose(computed["wavelength"], plain["wavelength"], rtol=1e-14)
    xr.testing.assert_identical(slit, before)
    for name in ("flux", "flux_var_poisson", "surf_bright", "background", "npixels", "coverage"):
        assert plain[name].dims == ("dispersion",)
        assert plain[name].dtype == np.float64


def test_extended_source_is_summed_over_the_slit() -> None:
    slit, truth = simulate_trace(signal_to_noise=100.0, fwhm=7.0, bad_pixels="isolated", seed=6)
    slit.attrs["SRCTYPE"] = "EXTENDED"
    assert float(fit_trace_model(slit)["aperture"].sum("row").median()) > 15
    model = fit_trace_model(slit, half_width=6.5)
    spectrum = extract_spectrum(slit, model)
    ratio = (spectrum["flux"] / aperture_flux(truth, model))[20:-20]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.003)
    assert float(ratio.std()) < 0.02


def test_model_image_fits_the_light() -> None:
    slit, truth = simulate_trace(signal_to_noise=100.0, bad_pixels="none")
    model = fit_trace_model(slit)
    spectrum = extract_spectrum(slit, model)
    image = model_image(spectrum, model, slit)
    true = truth["flux"] * truth["profile"] / 1e6
    pull = ((image["model"] - true) / np.sqrt(image["model_variance"])).where(model["aperture"] > 0.9)
    assert 0.7 < float(pull.std()) < 1.4
    assert image["model"].dims == IMAGE


def test_refused() -> None:
    slit, _ = simulate_trace(columns=64)
    with pytest.raises(ParameterError, match="weighting is 'best'"):
        extract_spectrum(slit, weighting="best")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="least_coverage is 2"):
        extract_spectrum(slit, least_coverage=2)
    with pytest.raises(ParameterError, match="a model was given"):
        extract_spectrum(slit, fit_trace_model(slit), half_width=2.0)


@pytest.mark.parametrize("columns", [1, 2, 5, 17, 32])
def test_few_columns_are_enough(columns: int) -> None:
    slit, truth = simulate_trace(seed=1)
    few = slit.isel(column=slice(200, 200 + columns))
    spectrum = extract_spectrum(few)
    ratio = spectrum["flux"].values / truth["flux"].values[200 : 200 + columns]
    assert (spectrum["dq"] == 0).all()
    np.testing.assert_allclose(np.mean(ratio), 1.0, atol=0.02 + 0.06 / np.sqrt(columns))
    series, _ = simulate_trace(columns=columns, integrations=2, seed=1)
    assert np.isfinite(extract_spectrum(series)["flux"]).all()


@pytest.mark.parametrize("rows", [slice(15, 16), slice(14, 16), slice(10, 15), slice(9, 16)])
def test_columns_are_flagged_where_the_cut_out_lacks_their_light(rows: slice) -> None:
    slit, truth = simulate_trace(seed=1, bad_pixels="none")
    cut = slit.isel(row=rows)
    spectrum = extract_spectrum(cut)
    good = (spectrum["dq"] == 0).values
    ratio = spectrum["flux"].values / truth["flux"].values
    if cut.sizes["row"] < 3:
        assert not good.any()
    else:
        inside = (truth["trace"] < float(cut["row"][-1]) + 0.5).values
        assert 0.9 * inside.sum() < good.sum() < inside.sum() + 20  # the others are too far out
        assert ratio[good].min() > 0.3


@pytest.mark.parametrize("dim", ["column", "row"])
def test_slits_without_pixels(dim: str) -> None:
    slit, _ = simulate_trace(columns=40)
    empty = slit.isel({dim: slice(0, 0)})
    for extract in (extract_spectrum, fit_trace_model, extract_box):
        with pytest.raises(ModelError, match=f"^dim '{dim}' is empty, expected a length of 1 at least$"):
            extract(empty)
    assert (extract_spectrum(slit.assign(dq=slit["dq"] | np.uint32(1)))["dq"] == 1).all()


@pytest.mark.parametrize(("bright", "cut"), [(50, 15), (5, 16)])
def test_columns_with_a_faint_wing_alone_change_no_other(bright, cut):
    """At the slanted end of a slit, a few pixels far from the trace are left. Their flux is arbitrary."""
    row, column = np.mgrid[0:27, 0:120]
    light = bright * np.exp(-0.5 * ((row - 9 - 0.01 * column) / 0.4) ** 2)
    sci = light + np.random.default_rng(0).normal(0, 0.3, light.shape)
    for n in range(3):
        sci[: cut - n, n] = np.nan
    wavelength = np.where(np.isnan(sci), np.nan, 1.0 + 0.01 * column)
    slit = make_slit(sci, (0.01, 0.08, 0.0), wavelength=wavelength, units="MJy", SRCYPOS=0.0)
    spectrum = extract_spectrum(slit, position=1209.6)
    expected = 1e6 * bright * 0.4 * np.sqrt(2 * np.pi)
    assert abs(np.median(spectrum["flux"][3:]) / expected - 1) < 0.15
    assert (spectrum["dq"][:3] & PixelFlag.DO_NOT_USE).all()


def test_a_sky_behind_bars_does_not_change_the_flux_of_a_point():
    row, column = np.mgrid[0:26, 0:120]
    place = (row - 12.6 - 0.01 * column) / 4.5  # shutters
    bars = 1 - 0.5 * np.exp(-0.5 * (((place + 0.5) % 1 - 0.5 + 0.5) % 1 - 0.5) ** 2 / 0.1**2)
    sky = np.where(np.abs(place) < 1.5, bars, 0.0)
    light = 40 * np.exp(-0.5 * ((row - 12.6 - 0.01 * column) / 0.9) ** 2)
    noise = np.random.default_rng(2).normal(0, 0.2, light.shape)
    wavelength = np.where(np.abs(place) < 1.9, 1.0 + 0.01 * column, np.nan)
    sci = np.where(np.isnan(wavelength), np.nan, light + 60 * sky + noise)
    slit = make_slit(sci, (0.02, 0.02, 0.0), wavelength=wavelength, units="MJy", SRCYPOS=0.0, SHUTSTA="1x1")
    known = slit.assign(sky_part=(("row", "column"), np.where(np.isnan(wavelength), np.nan, sky).astype(np.float32)))
    expected = 1e6 * 40 * 0.9 * np.sqrt(2 * np.pi)
    with_bars, without = (
        float((extract_spectrum(each, position=1213.2)["flux"] / expected).median()) for each in (known, slit)
    )
    assert abs(with_bars - 1) < 0.01
    assert abs(without - 1) > 3 * abs(with_bars - 1)


def test_all_rows_share_the_noise_of_a_spectrum_that_was_subtracted():
    slit, _ = simulate_trace(columns=80, signal_to_noise=60)
    own = 0.3 * slit["var_rnoise"].drop_vars(list(slit["var_rnoise"].coords))
    slit = slit.assign(var_background=own)
    nods, sky = (slit.assign_attrs({key: "COMPLETE"}) for key in ("S_BKDSUB", "S_MSBSUB"))
    one, other = (extract_spectrum(each, background="none") for each in (nods, sky))
    weight, deviation = (np.nan_to_num(one) for one in (other["weight"].to_numpy(), np.sqrt(own.to_numpy())))
    more = (weight * deviation).sum(0) ** 2 - (weight**2 * deviation**2).sum(0)
    kinds = ("flux_var_poisson", "flux_var_rnoise")
    added = sum(other[kind] - one[kind] for kind in kinds).to_numpy()
    good = np.isfinite(added)
    np.testing.assert_allclose(added[good], more[good], rtol=1e-3)
    assert (more[good] / sum(one[kind] for kind in kinds).to_numpy()[good]).min() > 0.05
    xr.testing.assert_identical(one["flux"].drop_attrs(), other["flux"].drop_attrs())


def test_a_star_behind_a_stuck_shutter_changes_no_column_without_its_flag():
    slit, _ = simulate_trace(columns=120, signal_to_noise=1000, bad_pixels="none", tilt=0.0)
    star = xr.zeros_like(slit["sci"])
    star[:, 60:100] = 3 * slit["sci"].shift(row=2, fill_value=0)[:, 60:100]
    stuck = xr.zeros_like(slit["dq"])
    stuck[:, 60:100] = np.uint32(PixelFlag.MSA_FAILED_OPEN)
    flagged = slit.assign(sci=(slit["sci"] + star).assign_attrs(slit["sci"].attrs), dq=slit["dq"] | stuck)
    alone, found = (extract_spectrum(each, background="none") for each in (slit, flagged))
    has_flag = (found["dq"] & np.uint32(PixelFlag.MSA_FAILED_OPEN)) > 0
    assert (has_flag == (np.abs(np.arange(120) - 79.5) < 20)).all()
    clear = ~has_flag & np.isfinite(alone["flux"])
    np.testing.assert_allclose((found["flux"] / alone["flux"])[clear].median(), 1.0, atol=0.005)
    assert (found["flux"] / alone["flux"])[60:100].median() > 1.5


def test_no_background_is_fitted_in_a_single_open_shutter():
    rows, wavelength = np.arange(17.0)[:, None], np.full((17, 60), 1.5)
    light = 0.9 * np.exp(-0.5 * (rows - 8) ** 2) + 0.1 * np.exp(-0.5 * ((rows - 8) / 2) ** 2)
    sci = np.tile(np.where(np.abs(rows - 8) < 3, light, 0), (1, 60)).astype(np.float32)
    slit = make_slit(sci, (1e-8, 1e-8, 0.0), wavelength=wavelength, units="MJy", SRCTYPE="POINT", SHUTSTA="x")
    slit = slit.assign_attrs(SRCYPOS=0.0, SRCXPOS=0.0, EXP_TYPE="NRS_MSASPEC", MSAQUAD=3, SLTNAME="7")
    with pytest.warns(DegradedResultWarning, match="slitlet 7 has one open shutter"):
        model = fit_trace_model(slit)
    assert model.attrs["background"] == "none"
    assert fit_trace_model(slit.assign_attrs(MSAQUAD=5)).attrs["background"] == "constant"  # a fixed slit


@pytest.mark.parametrize("lost", [15, 16])
def test_lines_stay_in_place_where_wavelengths_change_along_a_column_that_lost_a_pixel(lost):
    rows, columns = np.mgrid[:31, :80].astype(float)
    wavelength = 1 + 0.01 * (columns + 0.1 * (rows - 15))
    light = 1 + 6 * np.exp(-0.5 * ((wavelength - 1.4) / 0.011) ** 2)
    profile = np.exp(-0.5 * ((rows - 15.2) / 0.8) ** 2)
    sci = (profile / profile.sum(0) * light).astype(np.float32)
    slit = make_slit(sci, (1e-4, 1e-4, 0.0), wavelength=wavelength, units="MJy", SRCTYPE="POINT")
    slit["dq"][lost, 39] = np.uint32(PixelFlag.DO_NOT_USE)
    spectrum = extract_spectrum(slit, position=1215.2, background="none")
    line = (spectrum["flux"] * 1e-6 - 1)[30:51]
    centroid = float((line * spectrum["wavelength"][30:51]).sum() / line.sum())
    assert abs(centroid - 1.4) < 0.002 * 0.01  # pixel; 0.008 without the correction


def test_a_column_without_its_source_does_not_change_the_brightness_of_neighbours():
    others = Others(np.full((1, 1), -3.0), np.full((1, 1), 0.5), np.full((1, 1), -3.0))
    flux = np.full((1, 120), 2.0)
    flux[0, 17] = 1e9  # hardly a pixel is left
    found = others.confirmed(np.full((1, 1, 120), 1.8), np.full((1, 1, 120), 0.1), flux)
    np.testing.assert_allclose(found.strengths, 0.9)


def test_a_column_without_any_good_pixel_in_the_aperture_has_no_flux():
    slit, _ = simulate_trace(columns=60, signal_to_noise=50)
    model = fit_trace_model(slit, background="constant")
    model["sky"] = model["sky"] * np.linspace(0.5, 1, slit.sizes["row"])[:, None]
    slit["dq"][8:, 30] |= np.uint32(1)  # what is left has 1e-6 of the light
    spectrum = extract_spectrum(slit, model)
    assert float(spectrum["coverage"][30]) == 0
    assert np.isnan(spectrum["flux"][30])
    assert np.isnan(spectrum["flux_var_rnoise"][30])
    assert spectrum["flux"].notnull().sum() == 59


def test_noise_that_rows_share_is_summed_without_overflow():
    weight = xr.DataArray(np.full((4, 3), 9e19, np.float32), dims=("row", "dispersion"))
    variance = xr.DataArray(np.full((4, 3), 1e-12, np.float32), dims=("row", "column"))
    one = xr.DataArray(np.full(3, 4e28), dims="dispersion")
    values = {f"{prefix}_var_{kind}": one for prefix in ("flux", "sb") for kind in ("poisson", "rnoise", "flat")}
    with np.errstate(over="raise"):
        found = _with_shared_noise(values, weight, variance)
    shared = (4 * 9e19) ** 2 * 1e-12 - 4 * 9e19**2 * 1e-12
    np.testing.assert_allclose(found["flux_var_rnoise"], 4e28 * (1 + shared / 12e28), rtol=1e-6)
