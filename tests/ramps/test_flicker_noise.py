"""Correlated noise: what is left of it, its variance, sources untouched, ramps and rates and series, no harm."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr.cli import main
from nsxr.compute import layouts as chunking
from nsxr.errors import ModelError
from nsxr.kernels.ramps.dark_pixels import find_dark
from nsxr.kernels.ramps.flicker import Densities, Solver, series_length, to_image, to_series
from nsxr.kernels.ramps.slope_weights import slope_weights
from nsxr.model.dq import UNUSABLE_PIXEL, GroupFlag, PixelFlag
from nsxr.model.history import steps
from nsxr.model.readout import Readout
from nsxr.model.time_order import science_time_order
from nsxr.ramps.correlated_noise import mask
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise, estimate_flicker_noise
from nsxr.ramps.correlated_noise.frames import frames_of
from nsxr.ramps.correlated_noise.mask import dark_of, find_dark_pixels
from nsxr.ramps.correlated_noise.noise_model import noise_left
from nsxr.ramps.count_rates import fit_count_rates
from nsxr.ramps.read_noise import read_noise_after_cleaning
from nsxr.simulate import Artifacts, simulate_exposure, small_exposure
from nsxr.simulate.configuration import configure
from nsxr.simulate.noise import FrameNoise, picture_frame
from nsxr.testing import assert_lazy_and_chunk_invariant, forbid_computes, make_exposure, make_noise_references

RAMP, IMAGE = ("integration", "group", "row", "column"), ("row", "column")
WHITE = 5.2
GAIN = 1.0
AFTER_REFERENCES = 0.3
"""Levels of amplifiers that reference pixels leave. Larger levels could be light."""
ONLY_PINK = {"picture_frame": 0.0}


def make_ramps(groups=6, integrations=1, columns=64, seed=1, light=None, curve=None, subarray="FULL", **artifacts):
    """Ramps of known correlated noise, white noise and light [DN in a group], with the correlated noise alone."""
    configuration = configure(
        readout="NRSRAPID", subarray=subarray, groups=groups, integrations=integrations, detector="NRS1",
        scene="dark", columns=columns,
    )  # fmt: skip
    amounts = Artifacts(**{**ONLY_PINK, **artifacts})
    shape = (configuration.rows.size, columns)
    noise = FrameNoise(configuration, amounts, np.zeros(shape, np.float32), np.random.SeedSequence(seed))
    random = np.random.default_rng(seed)
    correlated = np.array([[noise.draw() for _ in range(groups)] for _ in range(integrations)])
    sci = correlated + WHITE * random.standard_normal(correlated.shape)
    sci += 30 * random.standard_normal((integrations, 1, *shape))
    light = np.zeros(shape) if light is None else light
    curve = np.ones(integrations) if curve is None else curve
    charge = random.poisson(np.broadcast_to(light * curve[:, None, None, None], correlated.shape)).cumsum(1)
    sci += charge
    place = {"SUBARRAY": configuration.subarray, "SUBSTRT1": int(configuration.columns[0]) + 1}
    place |= {"SUBSTRT2": configuration.row_start + 1, "TFRAME": 10.0}
    return make_exposure(sci, columns=configuration.columns, **place), correlated


def traces(shape, peak=40.0, every=64):
    rows = np.arange(shape[0])[:, None]
    distance = (rows - every // 2) % every
    distance = np.minimum(distance, every - distance)
    return peak * np.exp(-0.5 * (distance / 1.5) ** 2) * np.ones(shape)


def test_lazy_pure_and_the_same_for_every_chunking():
    ramps, _ = make_ramps(groups=5, columns=16)
    ramps["groupdq"][0, 2, 100:200] = np.uint8(GroupFlag.JUMP_DET.value)
    ramps["sci"][0, 3, 7, 5] = np.nan
    result = assert_lazy_and_chunk_invariant(
        clean_flicker_noise,
        ramps,
        chunkings=({"row": 512, "group": 2}, {"group": 1}, {"row": 2048, "column": 16, "integration": 1}),
    )
    assert result["sci"].dims == RAMP
    assert result["sci"].dtype == np.float32
    assert result["flicker_variance"].dims == IMAGE
    assert result["sci"].attrs["units"] == "DN"
    assert steps(result)[-1]["step"] == "clean_flicker_noise"
    np.testing.assert_array_equal(result["sci"][:, 0], ramps["sci"][:, 0])
    np.testing.assert_array_equal(result["groupdq"], ramps["groupdq"])
    assert np.isnan(result["sci"].values).sum() == 1


def test_series_are_lazy_pure_and_the_same_for_every_chunking():
    ramps, _ = make_ramps(groups=3, integrations=12, columns=64, subarray="SUB2048")
    assert_lazy_and_chunk_invariant(
        clean_flicker_noise,
        ramps,
        chunkings=({"integration": 5}, {"integration": 12, "row": 8}, {"group": 1, "integration": 1}),
    )


def true_densities(columns, scale=1.0, outputs=4, slots=524):
    """Return the spectrum of what FrameNoise draws, of a difference of two groups."""
    order = science_time_order(Readout.from_header(make_ramps(groups=2, columns=columns)[0].attrs), 2048, columns)
    length = series_length(order)
    samples = slots * columns
    frequency = np.arange(length // 2 + 1) / length

    def pink(distance, amplitude):
        harmonics = np.log(samples) + np.euler_gamma
        return 2 * (amplitude * scale) ** 2 / (2 * harmonics * np.maximum(distance, 0.5 / samples))

    own = pink(frequency, 1.0) + pink(0.5 - frequency, 0.5)
    own[0] += 2 * (4 * scale) ** 2 * length
    return order, length, Densities(2 * WHITE**2, own, pink(frequency, 3.0))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_correlated_noise_goes_as_far_as_it_can(scale):
    light = traces((2048, 128))
    ramps, correlated = make_ramps(groups=8, columns=128, light=light, correlated_scale=scale)
    found = estimate_flicker_noise(ramps)
    lit = light > 1
    assert not found["is_dark"].values[light > 3].any()
    truth = np.diff(correlated, axis=1)
    left = truth - found["noise"].values
    order, length, densities = true_densities(128, scale)
    solver = Solver(densities, 4, (30, 30, 20), 0)
    weight = to_series(found["is_dark"].values.astype(np.float32), order, length)
    frames = np.diff(ramps["sci"].values, axis=1)[0]
    best = [to_image(solver.noise(to_series(frame, order, length) * weight, weight), order) for frame in frames]
    rest, least = (error - error.mean(1, keepdims=True) for error in (left, truth - best))
    assert (rest**2)[..., lit].mean() < 1.02**2 * (least**2)[..., lit].mean()
    assert (left**2)[..., lit].mean() < 0.25 * (truth**2)[..., lit].mean()
    assert found["density"].values[2, 0] == pytest.approx(2 * WHITE**2, rel=0.03)


def test_variances_of_rates_mean_what_they_say():
    light = traces((2048, 128), peak=4.0)
    ratios = {"dark": [], "lit": []}
    for seed in range(3):
        ramps, _ = make_ramps(groups=8, columns=128, light=light, seed=seed, pedestal=AFTER_REFERENCES)
        cleaned = clean_flicker_noise(ramps)
        readnoise, gain = make_noise_references(ramps, 10.0, GAIN)  # of the noise that was there before
        adapted = read_noise_after_cleaning(cleaned, readnoise, gain)
        rate = nsxr.fit_ramps(cleaned, adapted, gain, algorithm="ols")["rate"]
        assert not {"flicker_variance", "white_variance", "is_dark", "dark_level"} & set(rate.data_vars)
        error = rate["sci"].values - light / 10
        error -= np.median(error[light < 0.01])
        lit, dark = light > 1, light < 0.01
        ratios["dark"].append((error[dark] ** 2).mean() / rate["var_rnoise"].values[dark].mean())
        whole = (rate["var_rnoise"] + rate["var_poisson"]).values
        ratios["lit"].append((error[lit] ** 2).mean() / whole[lit].mean())
    assert np.sqrt(np.mean(ratios["dark"])) == pytest.approx(1, abs=0.02)
    assert np.sqrt(np.mean(ratios["lit"])) == pytest.approx(1, abs=0.02)


def test_photon_noise_of_faint_pixels_is_not_that_of_their_own_noise():
    """Noise above zero would count as light: half of the faint pixels would claim too much, and none too little."""
    light = traces((2048, 64), peak=20.0) + 0.5
    ramps, _ = make_ramps(groups=6, columns=64, light=light, pedestal=0.0, common_pink=0.0)
    cleaned = clean_flicker_noise(ramps)
    readnoise, gain = make_noise_references(ramps, 10.0, 2.0)
    rate = nsxr.fit_ramps(cleaned, readnoise, gain, average_dark_current=0.01)["rate"]
    alone = nsxr.fit_ramps(cleaned.drop_vars("expected_signal"), readnoise, gain, average_dark_current=0.01)["rate"]
    weights = np.array([5, 8, 9, 8, 5]) / 35  # of differences, where read noise is large
    expected = (weights**2).sum() * (2 * light + 0.1) / 20**2
    dark, bright = cleaned["is_dark"].values, light > 12
    beside = ~dark & (light < 1)
    assert beside.mean() > 0.01
    for where, tolerance, least in ((dark, 0.1, 1.5), (beside, 0.3, 1.2)):
        claimed, before, _ = (
            i[where].mean() for i in (rate["var_poisson"].values, alone["var_poisson"].values, expected)
        )
        assert claimed == pytest.approx(expected[where].mean(), rel=tolerance)
        assert before > least * claimed
    for name in ("sci", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(rate[name].values[bright], alone[name].values[bright])


def test_white_noise_is_left_as_it_is():
    nothing = dict.fromkeys(("pedestal", "common_pink", "output_pink", "alternating_columns"), 0.0)
    ramps, _ = make_ramps(groups=5, columns=64, **nothing)
    change = (clean_flicker_noise(ramps)["sci"] - ramps["sci"]).values[0, -1]
    assert change.std() < 0.02 * WHITE


def test_rates_are_cleaned_alike():
    light = traces((2048, 128))
    ramps, _ = make_ramps(groups=2, columns=128, light=light, common_pink=6.0, pedestal=AFTER_REFERENCES)
    readnoise, gain = make_noise_references(ramps, 1.414 * WHITE, GAIN)
    tree = nsxr.fit_ramps(ramps, readnoise, gain, algorithm="ols")
    for name in ("rate", "rateints"):
        rates = tree[name].to_dataset()
        result = assert_lazy_and_chunk_invariant(clean_flicker_noise, rates, chunkings=({"row": 512}, {"column": 128}))
        assert result["sci"].dims == rates["sci"].dims
        before, after = ((r["sci"].values - light / 10) for r in (rates, result))
        lit = light > 1
        excess = [(e[..., lit] ** 2).mean() - rates["var_poisson"].values[..., lit].mean() for e in (before, after)]
        assert excess[1] < 0.75 * excess[0]
        dark = result["var_rnoise"].values[..., light < 0.01]
        pull = after[..., light < 0.01].std() / np.sqrt(dark.mean() + rates["var_poisson"].values[..., ~lit].mean())
        assert pull == pytest.approx(1, abs=0.04)


def test_series_keep_their_light_curve():
    light = traces((32, 512), peak=200.0, every=32)
    curve = 1 - 0.02 * (np.abs(np.arange(24) - 12) < 5)
    ramps, correlated = make_ramps(
        groups=4, integrations=24, columns=512, light=light, curve=curve, subarray="SUB2048", pedestal=AFTER_REFERENCES
    )
    found = estimate_flicker_noise(ramps)
    assert 0 < np.median(found["weight"].values[light > 100]) < 0.5
    left = np.diff(correlated, axis=1) - found["noise"].values
    assert left.std() < 0.62 * np.diff(correlated, axis=1).std()
    cleaned = clean_flicker_noise(ramps)
    rise = (cleaned["sci"].isel(group=-1) - cleaned["sci"].isel(group=0)).values
    level = 3 * found["level"].values[0, 0]  # the same in all integrations, and left in
    white_light = (rise[:, light > 20] - level).sum(1) / (3 * light[light > 20].sum())
    error = 1 / np.sqrt(3 * light[light > 20].sum())
    np.testing.assert_allclose(white_light, curve, atol=5 * error)
    assert white_light.mean() == pytest.approx(curve.mean(), abs=2 * error / np.sqrt(24))


def test_the_mean_of_a_series_has_errors_of_its_own():
    """Lit pixels help to estimate what is noise in single integrations, and not what is noise in their mean."""
    light = traces((32, 512), peak=40.0, every=32)
    pulls = []
    for seed in range(2):
        ramps, _ = make_ramps(
            groups=3,
            integrations=12,
            columns=512,
            light=light,
            subarray="SUB2048",
            seed=seed,
            pedestal=AFTER_REFERENCES,
        )
        cleaned = clean_flicker_noise(ramps)
        tree = fit_count_rates(cleaned, *make_noise_references(ramps, 7.0, GAIN), algorithm="ols")
        rate, single = tree["rate"].to_dataset(), tree["rateints"].to_dataset()
        error = rate["sci"].values - light / 10 - float(cleaned["dark_level"]) / 10
        lit = light > 1
        whole = rate["var_rnoise"].values + rate["var_poisson"].values
        pulls.append([(error[where] ** 2).mean() / whole[where].mean() for where in (lit, ~lit)])
        np.testing.assert_array_equal(rate["noise_used"], cleaned["is_dark"])
        assert rate["noise_correlation"].dims == single["noise_correlation"].dims
        assert rate["noise_used"].sum() < single["noise_used"].sum()
        assert rate["var_rnoise"].values[lit].mean() > 1.1 * single["var_rnoise"].values[:, lit].mean() / 12
    np.testing.assert_allclose(np.sqrt(np.mean(pulls, 0)), 1, atol=0.04)
    alone = nsxr.fit_ramps(cleaned, *make_noise_references(ramps, 7.0, GAIN), algorithm="ols")
    shared = {"noise_used", "noise_correlation"}
    assert shared <= set(alone["rateints"].data_vars)
    assert not shared & set(alone["rate"].data_vars)


def test_a_picture_frame_is_found_together_with_the_noise():
    ramps, correlated = make_ramps(groups=4, columns=256, picture_frame=2.0, seed=3)
    configuration = configure(
        readout="NRSRAPID", subarray="FULL", groups=1, integrations=1, detector="NRS1", scene="dark", columns=256
    )
    pattern = picture_frame(configuration)
    reference = xr.Dataset({"sci": (IMAGE, pattern)}, {d: ramps[d] for d in IMAGE})
    reference.attrs = {"reference_type": "pictureframe", "filename": "frame.fits"}
    truth = np.diff(correlated, axis=1)
    smooth = pattern - pattern.mean()

    def amount(left):
        return np.abs((left * smooth).mean((2, 3)) / (smooth**2).mean())

    without, with_pattern = (
        amount(truth - estimate_flicker_noise(ramps, None, which)["noise"].values) for which in (None, reference)
    )
    assert amount(truth).mean() > 1
    assert with_pattern.mean() < 0.1 * amount(truth).mean()
    assert with_pattern.mean() < without.mean()
    assert steps(clean_flicker_noise(ramps, None, reference))[-1]["references"] == {"pictureframe": "frame.fits"}


def test_masks_are_found_given_and_refused():
    light = traces((2048, 64))
    ramps, _ = make_ramps(columns=64, light=light)
    ramps["pixeldq"][3] = np.uint32(PixelFlag.DO_NOT_USE.value)
    found = find_dark_pixels(ramps)
    assert found.dims == IMAGE
    assert found.dtype == bool
    assert not found[3].any()
    assert found.values[light < 0.01].mean() > 0.9
    given = clean_flicker_noise(ramps, found)
    assert (given["sci"] - clean_flicker_noise(ramps)["sci"]).values.std() < 0.1 * WHITE
    assert steps(given)[-1]["parameters"]["mask"] == "given"
    with pytest.raises(ModelError, match="mask has sizes"):
        clean_flicker_noise(ramps, found.isel(row=slice(0, 10)))
    lit = clean_flicker_noise(ramps, xr.zeros_like(found))
    np.testing.assert_array_equal(lit["sci"], ramps["sci"])


def test_light_that_is_too_faint_to_be_found_is_kept_if_the_optics_tell_it():
    known = np.broadcast_to(np.arange(2048)[:, None] % 512 < 200, (2048, 32))
    faint = 0.4 * known  # 8 % of the white noise of a group
    light = xr.DataArray(np.pad(known, ((0, 0), (0, 4))), {"row": np.arange(2048), "column": np.arange(36)}, IMAGE)
    bias = {}
    for name, where in (("found", None), ("known", light)):
        left = []
        for seed in range(3):
            ramps, _ = make_ramps(groups=8, columns=32, light=faint, seed=seed)
            sci = clean_flicker_noise(ramps, light=where)["sci"]
            rate = (sci[0, -1] - sci[0, 0]).values / 7
            left.append((rate[known].mean() - rate[~known].mean()) / 0.4 - 1)
        bias[name] = np.mean(left), np.std(left) / 3**0.5
    for of_mask in bias.values():
        assert abs(of_mask[0]) < 0.02 + 3 * of_mask[1]
    assert not find_dark_pixels(ramps, light).values[known].any()
    assert find_dark_pixels(ramps, light).values[~known].mean() > 0.9
    parameters = steps(clean_flicker_noise(ramps, light=light))[-1]["parameters"]
    assert parameters["mask"] == "found, and light of the optics"
    with pytest.raises(ModelError, match=r"light has sizes .* does not cover the exposure"):
        clean_flicker_noise(ramps, light=light.isel(row=slice(0, 10)))


def test_what_cannot_be_cleaned_is_refused():
    ramps, _ = make_ramps(groups=2, columns=8)
    with pytest.raises(ModelError, match="clean the rates"):
        clean_flicker_noise(ramps.isel(group=slice(0, 1)))
    raw = small_exposure(columns=4, groups=2).exposure
    with pytest.raises(ModelError, match="interleaved rows"):
        clean_flicker_noise(raw.assign(groupdq=raw["sci"].astype(np.uint8)))


def test_products_carry_spectra_and_numbers(tmp_path):
    made = small_exposure(readout="NRSRAPID", subarray="SUB512", columns=None, groups=6, integrations=2)
    tree = nsxr.detector1(made.exposure.chunk(), made.references)
    nsxr.write_products(tree, tmp_path, "mine", formats=("fits", "zarr"))
    with fits.open(tmp_path / "mine_rate.fits") as file:
        header, table, shared = file[0].header, file["NOISE"].data, file["NOISE_CORR"].data
        assert header["S_CLNFNS"] == "COMPLETE"
        assert 0.2 < header["FLKDARK"] < 1
        assert header["FLKWHITE"] == pytest.approx(5.2 / 1.992, rel=0.1)
        assert header["FLKNOISE"] > header["FLKLEFT"] > 0
        assert header["FLKODDEV"] == pytest.approx(0.25, abs=0.2)
        assert table["frequency"][0] > 0
        assert (np.diff(table["frequency"]) > 0).all()
        assert (table["own"][:4] > 3 * table["white"][:4]).all()
        assert not table["common"].any()
        np.testing.assert_allclose(table["white"], 2e-5 * header["FLKWHITE"] ** 2, rtol=1e-4)
    back = xr.open_dataset(tmp_path / "mine_rate.fits", engine="nirspec")
    stored = xr.open_dataset(tmp_path / "mine.zarr", group="rate", engine="zarr", consolidated=False)
    for rate in (back, stored):
        np.testing.assert_array_equal(rate["noise_spectrum"].sel(part="own"), table["own"])
        np.testing.assert_array_equal(rate["noise_correlation"].sel(kind="used"), shared["used"])
        assert rate["noise_used"].mean() == pytest.approx(header["FLKDARK"])
        dark = (rate["noise_used"] == 1) & rate["sci"].notnull()
        alone = (rate["var_rnoise"] + rate["var_poisson"]).where(dark).sum()
        assert abs(nsxr.summed_variance(rate, dark.astype(float)) / alone - 1) > 0.1
    off = nsxr.detector1(made.exposure.chunk(), made.references, skip=["clean_flicker_noise"])["rate"].to_dataset()
    assert not {"noise_spectrum", "noise_correlation", "noise_used"} & set(off)
    skipped = next(entry for entry in steps(off) if entry["step"] == "clean_flicker_noise")
    assert skipped["status"] == "SKIPPED"


def test_noise_that_is_left_has_the_correlations_of_the_spectrum():
    """Where no pixel is dark, all noise is left. Where all are, the estimate is a filter in frequency."""
    ramps, _ = make_ramps(groups=2, columns=512, subarray="SUB512")
    frames = frames_of(ramps)
    length = series_length(frames.order)
    frequency = np.arange(length // 2 + 1) / length
    own, white = 3 / (1 + (frequency / 0.01) ** 2), 2.0
    densities = [own, np.zeros_like(own), np.full_like(own, white)]
    density = xr.DataArray(np.array(densities), dims=("component", "frequency"))
    for is_dark, left, sign in ((0, own, 1), (1, own * white / (own + white), -1)):
        weight = xr.full_like(frames.mean, is_dark, dtype=np.float32)
        table = noise_left(weight, density, frames).correlation
        expected = scipy.fft.irfft(left, length)
        line, slot, *kinds = table.values.T.astype(np.float64)
        lag = (line * frames.order.slots + slot).astype(int)
        np.testing.assert_allclose(
            kinds[1 - is_dark], sign * expected[lag] / (white + sign * expected[0]), atol=0.1 * expected[0] / white
        )


@pytest.mark.parametrize("subarray", ["ALLSLITS", "SUB512"])
def test_errors_of_one_amplifier_are_those_relative_to_its_level(subarray):
    """The level of a frame is noise that all pixels share. It is neither in their variance nor is it light."""
    artifacts = replace(Artifacts(), cosmic_rays=0, snowballs=0, bad_pixels=0, bad_reference_pixels=0)
    squares, photons, levels = [], [], []
    for seed in (31, 32, 33):
        options = {"readout": "NRSRAPID", "subarray": subarray, "scene": "FS", "groups": 8, "columns": 256}
        made = small_exposure(**options, seed=seed, artifacts=artifacts)
        rate = nsxr.detector1(made.exposure, made.references)["rate"].to_dataset().compute()
        dark = (made.truth["rate_dn"].values < 1e-3) & ((rate["dq"].values & UNUSABLE_PIXEL) == 0)
        error = rate["sci"].values[dark]
        variance = (rate["var_rnoise"] + rate["var_poisson"]).values[dark]
        squares.append(np.mean((error - np.median(error)) ** 2 / variance))
        photons.append(rate["var_poisson"].values[dark].mean() / rate["var_rnoise"].values[dark].mean())
        levels.append(float(rate["level_left"]))
    assert 0.95 < np.sqrt(np.mean(squares)) < 1.02
    assert np.mean(photons) < 0.04
    assert 0.3 < np.mean(levels) < 3.0  # DN of a frame; before the cleaning it is 2 DN


def test_noise_before_and_after_as_a_table():
    ramps, _ = make_ramps(groups=8, columns=128)
    table = nsxr.noise_table(ramps, clean_flicker_noise(ramps))
    assert list(table["amplifier"]) == [1, 2, 3, 4]
    slow = [np.sqrt(np.mean(table[f"slow_{when}"].value ** 2)) for when in ("before", "after")]
    assert slow[1] < 0.3 * slow[0]
    assert (table["fast_after"] < table["fast_before"]).all()
    assert table["slow_before"].unit == "DN"
    np.testing.assert_allclose(table["fast_after"], WHITE, rtol=0.1)
    assert table["slow_after"].description == (
        "rms of noise slower than a detector line, after the correction, white noise included"
    )


def test_alternating_noise_is_counted_once(rng):
    ramps, _ = make_ramps(groups=4, columns=128)
    white = ramps.assign(sci=ramps["sci"].copy(data=rng.normal(0, WHITE, ramps["sci"].shape).astype(np.float32)))
    sign = xr.DataArray(np.where(np.arange(ramps.sizes["row"]) % 2, 1.0, -1.0), dims="row")
    amounts = xr.DataArray(rng.normal(0, 1, 4), dims="group")
    table = nsxr.noise_table(white, white.assign(sci=white["sci"] + amounts * sign))
    added = np.sqrt(table["alternating_after"] ** 2 - table["alternating_before"] ** 2)
    np.testing.assert_allclose(added, np.sqrt((np.diff(amounts, 2) ** 2).mean() / 6), rtol=0.1)


def test_the_level_that_is_left_in_a_time_series_is_that_of_its_mean():
    """The mean of ten integrations has about the level that the mean of nine has."""
    claims = []
    for integrations in (9, 10):
        ramps, _ = make_ramps(groups=3, integrations=integrations, columns=128, seed=4, subarray="SUB512")
        claims.append(float(clean_flicker_noise(ramps)["level_left"]))
    assert 0.5 < claims[1] / claims[0] < 2


def test_a_mask_has_to_be_bool():
    ramps, _ = make_ramps(columns=64)
    unknown = xr.full_like(ramps["pixeldq"], np.nan, np.float64)
    for name in ("mask", "light"):
        with pytest.raises(ModelError, match=f"{name} has dtype float64, expected bool"):
            clean_flicker_noise(ramps, **{name: unknown})


@pytest.mark.parametrize("groups", [2, 3])
def test_the_level_of_a_single_difference_cannot_be_told_from_light(groups):
    ramps, _ = make_ramps(groups=groups, columns=64)
    cleaned = clean_flicker_noise(ramps)
    assert ("level_left" in cleaned) == (groups > 2)
    assert cleaned["flicker_left"].attrs["units"] == "DN"


def test_command_compares_noise(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(mask, "find_dark", lambda *arguments: calls.append(1) or find_dark(*arguments))
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB512", groups=4, scene="BOTS")
    out = tmp_path / "out"
    words = ["detector1", str(made.uncal[0]), "--references", str(made.references["gain"].parent), "-o", str(out)]
    words += ["--set", "clean_flicker_noise.fit_method=optimal", "--noise", "--no-progress"]
    result = CliRunner().invoke(main, [*words, "--skip", "clean_flicker_noise"])
    assert result.exit_code == 1
    assert "--noise compares before and after clean_flicker_noise, which is skipped" in result.output
    assert not list(out.glob("*.fits"))
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert len(calls) == 2  # once with, once without the noise of the mean: nothing is computed again for the table
    (table,) = out.glob("*_noise.ecsv")
    assert Table.read(table)["slow_after"][0] < Table.read(table)["slow_before"][0]
    assert len(list(out.glob("*_noise.png"))) == 1
    one = simulate_exposure(tmp_path / "one", readout="NRSRAPID", subarray="SUB512", groups=1, scene="BOTS")
    result = CliRunner().invoke(main, [words[0], str(one.uncal[0]), *words[2:5], str(tmp_path / "none"), *words[6:]])
    assert "--noise needs two groups" in result.output
    assert not list(tmp_path.glob("none/*"))
    words[-3] = "clean_flicker_noise.fit_method=best"
    assert "expected one of" in CliRunner().invoke(main, [*words, "--overwrite"]).output


@pytest.mark.parametrize("by_channel", [False, True])
def test_medians_of_columns_are_there_for_comparison(by_channel):
    ramps, _ = make_ramps(groups=4, columns=32, light=traces((2048, 32)))
    parameters = {"fit_method": "median", "fit_by_channel": by_channel}
    result = assert_lazy_and_chunk_invariant(
        clean_flicker_noise, ramps, chunkings=({"row": 512}, {"group": 1}), **parameters
    )
    is_dark = find_dark_pixels(ramps).values
    level = dark_of(frames_of(ramps), 3.0)[1].values[0, 0]
    steps_of = np.diff(ramps["sci"].values, axis=1)[0, 1]
    rows = slice(512, 1024) if by_channel else slice(None)
    expected = np.median(steps_of[rows][is_dark[rows, 20], 20])
    found = steps_of - np.diff(result["sci"].values, axis=1)[0, 1]
    np.testing.assert_allclose(found[rows, 20], expected - level, atol=0.05)
    assert "flicker_variance" not in result
    with pytest.raises(ValueError, match="fit_method is 'best'"):
        clean_flicker_noise(ramps, fit_method="best")


def test_nothing_dark_changes_nothing():
    ramps, _ = make_ramps(groups=4, columns=16)
    nothing = xr.DataArray(np.zeros((2048, 16), bool), dims=IMAGE)
    cleaned = clean_flicker_noise(ramps, nothing)
    readnoise, gain = make_noise_references(ramps, 1.414 * WHITE, GAIN)
    np.testing.assert_array_equal(cleaned["sci"], ramps["sci"])
    np.testing.assert_array_equal(clean_flicker_noise(ramps, light=~nothing)["sci"], ramps["sci"])
    np.testing.assert_array_equal(read_noise_after_cleaning(cleaned, readnoise, gain)["sci"], readnoise["sci"])


LOST = {
    "an integration of two": (2, 2, np.s_[1]),
    "all groups but two": (1, 6, np.s_[:, 2:]),
    "all groups but two of each": (3, 6, np.s_[:, 2:]),
}


@pytest.mark.parametrize("kind", LOST)
def test_without_two_frames_to_compare_read_noise_and_signal_stay(kind):
    integrations, groups, lost = LOST[kind]
    ramps, _ = make_ramps(groups=groups, integrations=integrations, columns=16)
    ramps["groupdq"][lost] = np.uint8(GroupFlag.SATURATED.value)
    readnoise, gain = make_noise_references(ramps, 1.414 * WHITE, GAIN)
    cleaned = clean_flicker_noise(ramps)
    np.testing.assert_array_equal(cleaned["sci"], ramps["sci"])
    np.testing.assert_array_equal(read_noise_after_cleaning(cleaned, readnoise, gain)["sci"], readnoise["sci"])
    assert float(cleaned["white_noise"]) == 0


@pytest.mark.parametrize(
    ("integrations", "groups", "lost"), [(1, 6, np.s_[:, 3:]), (4, 3, np.s_[:2]), (11, 3, np.s_[3:])]
)
def test_white_noise_is_right_if_frames_are_lost(integrations, groups, lost):
    subarray = "SUB512" if integrations > 10 else "FULL"
    ramps, _ = make_ramps(groups=groups, integrations=integrations, columns=32, subarray=subarray)
    ramps["groupdq"][lost] = np.uint8(GroupFlag.SATURATED.value)
    white = float(clean_flicker_noise(ramps)["white_noise"])
    assert white == pytest.approx(WHITE, rel=0.06)


def test_pixels_with_little_read_noise_keep_a_variance():
    ramps, _ = make_ramps(columns=16)
    readnoise, gain = make_noise_references(ramps, 1.414 * WHITE, GAIN)
    readnoise["sci"][5::7] *= 0.1
    noise = read_noise_after_cleaning(clean_flicker_noise(ramps), readnoise, gain)["sci"].values
    assert (noise[5::7] > 0.05 * 1.414 * WHITE).all()
    assert np.median(noise[5::7]) < 0.2 * 1.414 * WHITE


def test_a_series_without_dark_pixels_stays_as_it_is():
    ramps, _ = make_ramps(groups=2, integrations=11, columns=16, subarray="SUB512")
    ramps["pixeldq"][::2] = np.uint32(PixelFlag.DO_NOT_USE.value)
    light = xr.DataArray(np.ones((32, 16), bool), dims=IMAGE)
    assert np.isfinite(clean_flicker_noise(ramps, light=light)["sci"]).all()


@pytest.mark.parametrize("integrations", [2, 11])
def test_exposures_longer_than_memory_give_the_same(tmp_path, monkeypatch, integrations):
    made = simulate_exposure(tmp_path, readout="NRSRAPID", subarray="SUB32", groups=4, integrations=integrations)
    products = []
    for kept in (2**30, 1):
        monkeypatch.setattr(chunking, "KEPT_BYTES", kept)
        monkeypatch.setattr(chunking, "CHUNK_BYTES", 40_000)
        exposure = nsxr.open_exposure(made.uncal)
        references = nsxr.open_references(made.references["gain"].parent, exposure)
        with forbid_computes():
            tree = nsxr.detector1(exposure, references, clean_flicker_noise={"fit_method": "optimal"})
        layers = tree["rate"]["sci"].data.__dask_graph__().layers
        assert (sum(name.startswith("settle-") for name in layers) > 5) == (kept == 1)
        paths = nsxr.write_products(tree, tmp_path / str(kept), "it", progress=False)
        products.append([fits.getdata(path, name) for path in paths for name in ("SCI", "VAR_RNOISE", "DQ")])
    for one, other in zip(*products, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.sampled_from(["noisy", "NaN", "saturated", "constant", "hits"]), st.integers(0, 2), st.sampled_from([3, 10]))
def test_one_bad_integration_leaves_the_cleaning_of_others(kind, bad, integrations):
    """Spectrum and variance stay, and the noise found in the others moves by less than a fifth of white noise."""
    ramps, _ = make_ramps(groups=4, integrations=integrations, columns=128, subarray="SUB2048", seed=3)
    is_dark = xr.DataArray(np.ones([ramps.sizes[d] for d in IMAGE], bool), dims=IMAGE)
    sci, groupdq = ramps["sci"].values.copy(), ramps["groupdq"].values.copy()
    if kind == "noisy":
        sci[bad] += np.random.default_rng(1).normal(0, 60, sci[bad].shape)
    elif kind == "NaN":
        sci[bad] = np.nan
    elif kind == "saturated":
        groupdq[bad, 1:] |= np.uint8(GroupFlag.SATURATED.value)
    elif kind == "constant":
        sci[bad] = 65000
    else:
        sci[bad, 2:, ::9] += 40000
    spoilt = ramps.assign(sci=(RAMP, sci, ramps["sci"].attrs), groupdq=(RAMP, groupdq))
    before, after = (estimate_flicker_noise(given, is_dark) for given in (ramps, spoilt))
    others = np.arange(integrations) != bad
    change = (after["noise"] - before["noise"]).values[others]
    assert np.sqrt((change**2).mean()) < 0.2 * np.sqrt(2) * WHITE
    white = after["density"][2, 0] / before["density"][2, 0]
    assert 0.9 < white < 1.1
    assert 0.8 < after["variance"].mean() / before["variance"].mean() < 1.25


def with_higher_integration(exposure, number=1, level=100.0):
    """Return ramps or rates of which one integration is higher in all pixels, by a level for each group or second."""
    is_it = xr.DataArray(np.arange(exposure.sizes["integration"]) == number, dims="integration")
    steps = xr.DataArray(np.arange(exposure.sizes.get("group", 1)), dims="group") if "group" in exposure.dims else 1
    sci = (exposure["sci"] + level * is_it * steps).transpose(*exposure["sci"].dims)
    return exposure.assign(sci=sci.astype(np.float32).assign_attrs(exposure["sci"].attrs))


@pytest.mark.parametrize("integrations", [3, 10])
def test_the_level_of_one_integration_leaves_the_others(integrations):
    ramps, _ = make_ramps(groups=3, integrations=integrations, columns=128, subarray="SUB512", seed=3)
    before, after = (clean_flicker_noise(given)["sci"] for given in (ramps, with_higher_integration(ramps)))
    change = (after - before).diff("group")[np.arange(integrations) != 1]
    assert abs(float(change.mean())) < 0.5
    assert float(change.std()) < 0.2 * np.sqrt(2) * WHITE


@pytest.mark.parametrize("kind", ["ramps", "half of the columns lost", "rates"])
def test_the_level_of_one_integration_of_a_series_is_removed(kind):
    """The source of this integration stays, and so does what is found in the others, however large the level is."""
    light = traces((32, 128), peak=40.0)
    ramps, _ = make_ramps(groups=3, integrations=12, columns=128, subarray="SUB2048", light=light, seed=5)
    if kind == "half of the columns lost":
        ramps["groupdq"][1, :, :, :64] = np.uint8(GroupFlag.DO_NOT_USE.value)
    exposure, white = ramps, WHITE
    if kind == "rates":
        readnoise, gain = make_noise_references(ramps, 1.414 * WHITE, GAIN)
        exposure = fit_count_rates(ramps, readnoise, gain)["rateints"].to_dataset()
        white = float(exposure["var_rnoise"].median()) ** 0.5
    cleaned, higher = (
        clean_flicker_noise(given)["sci"] for given in (exposure, with_higher_integration(exposure, level=300.0))
    )
    change = higher - cleaned
    change = change if kind == "rates" else change.diff("group")
    change = change.where((ramps["groupdq"][1, 0] & np.uint8(GroupFlag.DO_NOT_USE.value)) == 0)
    assert float(change.std()) < 0.1 * white
    assert float(np.abs(change.where(light > 20).mean(IMAGE)).max()) < 0.1 * white


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_group_that_is_lost_within_a_ramp(value):
    """Less noise is left in the rest, and the white noise is known."""
    groups, lost = 6, 2
    weights = slope_weights(groups - 1) * [1, 0, 0, 1, 1]
    scatter = []
    for seed in range(4):
        ramps, _ = make_ramps(groups=groups, columns=256, subarray="SUB512", seed=seed)
        ramps["sci"][:, lost] = value
        cleaned = clean_flicker_noise(ramps)
        assert float(cleaned["white_noise"]) == pytest.approx(WHITE, rel=0.06)
        slopes = [
            np.tensordot(weights / weights.sum(), np.nan_to_num(np.diff(given["sci"].values[0], axis=0)), 1)
            for given in (ramps.where(np.isfinite(ramps)), cleaned.where(np.isfinite(cleaned)))
        ]
        scatter.append([slope.std() for slope in slopes])
    before, after = np.mean(scatter, axis=0)
    assert after < 0.92 * before


def lost(kind, groups, columns=64):
    """Return how much of known light is lost, and its scatter in units of the white noise of the ramp.

    The ramps with and without the light have the same noise.
    """
    rows, places = np.ogrid[:2048, :columns]
    light = {
        "smooth": 0.5 * np.exp(-0.5 * (((rows - 800) / 50) ** 2 + ((places - 30) / 20) ** 2)),
        "slits": 0.3 * (rows % 512 < 300) * np.ones(columns),
        "lamp": 200 * np.random.default_rng(2).normal(1, 0.05, (2048, columns)).clip(0),
    }[kind]
    ramps, _ = make_ramps(groups=groups, columns=columns, pedestal=AFTER_REFERENCES)
    steps_of = np.arange(groups)[:, None, None] * light
    lit = ramps.assign(sci=ramps["sci"] + xr.DataArray(steps_of.astype(np.float32), dims=RAMP[1:]))
    change = [
        (cleaned["sci"] - given["sci"]).values[0, -1]
        for given in (ramps, lit)
        for cleaned in [clean_flicker_noise(given)]
    ]
    pattern = light - light.mean()
    part = -float(((change[1] - change[0]) * pattern).sum() / ((groups - 1) * (pattern**2).sum()))
    return abs(part), (groups - 1) * pattern.max() / (2**0.5 * WHITE)


@pytest.mark.parametrize("kind", ["smooth", "slits", "lamp"])
@pytest.mark.parametrize("groups", [2, 5])
def test_light_in_dark_pixels_stays(kind, groups):
    part, brightness = lost(kind, groups)
    assert part < 0.03 or part * brightness < 0.02, (part, brightness)


def test_products_say_what_was_done(tmp_path):
    """Nothing is dark in a lamp, and there is no correlated noise in white noise."""
    ramps, _ = make_ramps(groups=4, columns=32, pedestal=AFTER_REFERENCES)
    nothing = dict.fromkeys(("pedestal", "common_pink", "output_pink", "alternating_columns"), 0.0)
    white, _ = make_ramps(groups=4, columns=32, **nothing)
    no_dark = xr.zeros_like(ramps["pixeldq"], dtype=bool)
    done = [float(clean_flicker_noise(*given)["share_removed"]) for given in ((ramps,), (white,), (ramps, no_dark))]
    assert done[0] > 0.5
    assert done[2] == 0
    assert float(clean_flicker_noise(white)["flicker_noise"]) < 0.1 * WHITE


def test_a_dead_amplifier_does_not_say_what_is_dark():
    ramps, _ = make_ramps(groups=4, columns=32, pedestal=AFTER_REFERENCES)
    found = estimate_flicker_noise(ramps.assign(sci=ramps["sci"].where(ramps["row"] >= 512, 1000)))
    assert not found["is_dark"][:512].any()
    assert found["is_dark"][512:].mean() > 0.8
