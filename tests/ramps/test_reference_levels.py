"""Levels of reference pixels that are subtracted only as far as they exceed their uncertainty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr.kernels.ramps.reference_levels import shrinkage, shrunken_levels
from nsxr.kernels.ramps.reference_pixels import clipped_means
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.simulate import Artifacts, small_exposure
from nsxr.testing import assert_lazy_and_chunk_invariant

REFERENCE = np.uint32(1 << 31)


def reference_pixels(rng, level, offset, noise=4.0, reset=30.0):
    """Draw (integration, group, 32, 8) reference pixels with a level and an offset between parities in each group."""
    sign = np.where(np.arange(32) % 2, 0.5, -0.5)[:, None]
    pixels = rng.normal(0, noise, (*level.shape, 32, 8)) + rng.normal(0, reset, (level.shape[0], 1, 32, 8))
    return (pixels + level[..., None, None] + offset[..., None, None] * sign).astype(np.float32)


LABEL = (np.arange(32)[:, None] % 2 * 2 + np.arange(8) // 4).astype(np.int8)
WHOLE = {"n_parities": 2, "limit": 3.0, "is_lit": False, "by_ends": True}


def varying(values):
    return values - values.mean(1, keepdims=True)


def test_factor_is_that_of_least_squares():
    assert shrinkage(5.0, 1.0, 10_000) == pytest.approx(0.8)
    assert shrinkage(1.05, 1.0, 100) == 0  # may well be noise
    assert shrinkage(4.0, 1.0, 1) == 0
    assert shrinkage(4.0, 1.0, 0) == 0
    assert shrinkage(0.0, 0.0, 9) == 0


def test_share_of_noise_is_left_out(rng):
    level, offset = rng.normal(0, 6, (40, 10)), rng.normal(0, 0.6, (40, 10))
    levels, evidence = shrunken_levels(reference_pixels(rng, level, offset), LABEL, **WHOLE)
    error = np.sqrt(2 * 4.0**2 / 128)  # of one estimate of the offset
    assert evidence[3] == pytest.approx(0.6**2 / (0.6**2 + error**2), abs=0.06)
    assert evidence[2] == pytest.approx(0.6, rel=0.1)
    assert evidence[0] == pytest.approx(1, abs=0.01)
    left = varying(levels[..., 1] - levels[..., 0] - offset).std()
    least = 0.6 * error / np.hypot(0.6, error)
    assert left == pytest.approx(least * np.sqrt(0.9), rel=0.1)  # 9 of 10 groups are independent
    assert left < 0.85 * error * np.sqrt(0.9)
    common = varying(levels.mean(-1) - level).std()
    assert common == pytest.approx(4 / 16 * np.sqrt(0.9), rel=0.1)  # although reset noise is 30


def test_constant_offset_is_kept_if_it_is_significant(rng):
    none = np.zeros((4, 6))
    levels, evidence = shrunken_levels(reference_pixels(rng, none, none + 30.0), LABEL, **WHOLE)
    assert evidence[1] == pytest.approx(30, abs=4 * 30 / np.sqrt(64))
    assert evidence[3] == 0
    np.testing.assert_allclose(levels[..., 1] - levels[..., 0], evidence[1], rtol=1e-5)
    faint = [shrunken_levels(reference_pixels(rng, none, none), LABEL, **WHOLE) for _ in range(20)]
    assert np.mean([evidence[1] == 0 for _, evidence in faint]) > 0.9


def test_offset_in_full_follows_when_it_is_large(rng):
    offset = rng.normal(0, 10, (1, 8))
    levels, evidence = shrunken_levels(reference_pixels(rng, 0 * offset, offset), LABEL, **WHOLE)
    left = varying(levels[..., 1] - levels[..., 0] - offset).std() / varying(offset).std()
    assert left < 0.1
    assert evidence[3] > 0.95


def test_noise_of_the_ends_is_no_level(rng):
    """Slow noise, the same in the pixels of one end, averages as two values do and not as 256."""
    ends = rng.normal(0, 3, (30, 8, 2))
    pixels = reference_pixels(rng, np.zeros((30, 8)), np.zeros((30, 8))) + np.repeat(ends, 4, -1)[:, :, None]
    pixels = pixels.astype(np.float32)
    assert shrunken_levels(pixels, LABEL, **WHOLE)[1][0] < 0.2
    assert shrunken_levels(pixels, LABEL, **{**WHOLE, "by_ends": False})[1][0] > 0.95


@pytest.mark.parametrize("everywhere", [0.0, 3.0])
def test_light_is_no_level(rng, everywhere):
    level = rng.normal(0, 4, (30, 8))
    light = everywhere + np.r_[np.zeros(22), np.full(4, 1.0), np.full(6, 400.0)]  # DN per group
    arrived = rng.poisson(light[:, None], (*level.shape, 32, 8)).cumsum(1)
    pixels = reference_pixels(rng, level, 0 * level) + arrived.astype(np.float32)
    levels, evidence = shrunken_levels(pixels, LABEL, **{**WHOLE, "is_lit": True, "by_ends": False})
    left = varying(levels.mean(-1) - level)
    slope, drift = (values @ (np.arange(8) - 3.5) / 42 for values in (left, level))
    # the drift of the whole exposure cannot be told from light; it is subtracted if levels like these explain it
    assert slope.mean() == pytest.approx(-drift.mean() if everywhere else 0, abs=0.05)
    assert (left - slope.mean() * (np.arange(8) - 3.5)).std() < 0.12 * level.std()
    assert evidence[0] > 0.95


def test_pixels_of_one_parity_or_none_change_nothing(rng):
    pixels = reference_pixels(rng, np.full((2, 3), 50.0), np.zeros((2, 3)))
    one = np.where(LABEL < 2, LABEL, np.int8(-1))
    for label in (one, np.full_like(LABEL, -1)):
        levels, evidence = shrunken_levels(pixels, label, **WHOLE)
        assert (levels == 0).all()
        assert np.isnan(evidence).all()
    apart = np.where((LABEL == 0) | (LABEL == 3), LABEL, np.int8(-1))  # each at an end of its own
    np.testing.assert_allclose(shrunken_levels(pixels, apart, **WHOLE)[0].mean(), 50, atol=10)


def test_exposures_without_noise_or_of_one_group():
    for lit in (False, True):
        settings = {**WHOLE, "is_lit": lit}
        assert (shrunken_levels(np.zeros((2, 3, 32, 8), np.float32), LABEL, **settings)[0] == 0).all()
        one, evidence = shrunken_levels(np.full((2, 1, 32, 8), 70, np.float32), LABEL, **settings)
        np.testing.assert_array_equal(one, 70)
        np.testing.assert_array_equal(evidence, 0)


@pytest.mark.parametrize(("name", "columns", "start"), [("SUB2048", 2048, 0), ("SUB512S", 40, 1024)])
def test_lazy_and_independent_of_chunks(make_exposure, rng, chunkings, name, columns, start):
    sci = rng.normal(100, 5, (3, 6, 16, columns)) + rng.normal(0, 9, (3, 6, 1, 1))
    sci[:, :, 1::2] += 80
    exposure = make_exposure(sci, SUBARRAY=name, SUBSTRT1=start + 1)
    column = exposure["column"].values
    exposure["pixeldq"][:, (column < 4) | (column >= 2044)] = REFERENCE
    result = assert_lazy_and_chunk_invariant(subtract_reference_pixels, exposure, chunkings=chunkings)
    assert result["sci"].dtype == np.float32
    assert abs(result["sci"][..., 1::2, :].mean() - result["sci"][..., ::2, :].mean()) < 2
    assert result["reference_offset_1"] == pytest.approx(80, abs=2)
    assert result["reference_offset_1"].attrs["units"] == "DN"
    assert result["reference_level_kept_1"] > 0.8
    assert result["reference_level_kept_1"].attrs["keyword"] == "RPKEEP1"
    joint = subtract_reference_pixels(exposure, odd_even_columns=False)
    assert joint["sci"][..., 1::2, :].mean() - joint["sci"][..., ::2, :].mean() == pytest.approx(80, abs=2)
    assert np.isnan(joint["reference_offset_1"])


def test_numbers_reach_the_products():
    small = small_exposure(readout="NRSRAPID", subarray="SUB512S", groups=4, columns=16)
    exposure = small.exposure.chunk().assign_coords(small.exposure.coords)
    for node in nsxr.detector1(exposure, small.references).children.values():
        number = node["reference_offset_kept_1"]
        assert number.attrs["keyword"] == "OEKEEP1"
        assert number.dims == ()
        assert number.compute(scheduler="synchronous") == 0


@pytest.mark.parametrize(("name", "most"), [("SUB512S", 0.02), ("SUB2048", 0.02)])
def test_alternating_noise_does_not_grow(name, most):
    """Plain means make it five times worse here, because their uncertainty is more than it."""
    raw, plain, shrunken = [], [], []
    quiet = {"bad_pixels": 0, "cosmic_rays": 0, "snowballs": 0}
    for seed in range(25):
        made = [
            small_exposure(
                readout="NRSRAPID", subarray=name, groups=5, integrations=2, columns=32, seed=seed, rounded=False,
                artifacts=Artifacts(correlated_scale=scale, **quiet),
            )
            for scale in (1.0, 0.0)
        ]  # fmt: skip
        noise = made[0].exposure["sci"].values - made[1].exposure["sci"].values
        references = made[0].references
        ramps = nsxr.initialize_dq(made[0].exposure, references["mask"])
        ramps = nsxr.subtract_superbias(ramps, references["superbias"])
        raw.append(offset_left(noise))
        for left, given_settings in ((plain, {"shrink_levels": False}), (shrunken, {})):
            removed = ramps["sci"] - subtract_reference_pixels(ramps, **given_settings)["sci"]
            left.append(offset_left(noise - removed.values))
    assert np.mean(plain) > 3 * np.mean(raw)
    worse = np.array(shrunken) > np.array(raw) + np.mean(plain) * np.sqrt(2 / 8)
    assert worse.mean() <= most
    assert np.mean(shrunken) < 1.1 * np.mean(raw)


def offset_left(noise):
    """Mean square of what odd rows differ from even rows, in deviations of groups from their integration."""
    offset = noise[..., 1::2, :].mean((2, 3)) - noise[..., ::2, :].mean((2, 3))
    return (varying(offset) ** 2).mean()


KINDS = ("saturated", "constant", "NaN", "NaN_group", "NaN_pixel", "noisy", "drifting", "offset", "alternating", "hit")


def spoil(kind, pixels, bad, rng):
    """Make the reference pixels of one integration bad, in place."""
    if kind == "saturated":
        pixels[bad, 2:] = 65000
    elif kind == "constant":
        pixels[bad] = 65535
    elif kind == "NaN":
        pixels[bad] = np.nan
    elif kind == "NaN_group":
        pixels[bad, 1] = np.nan
    elif kind == "NaN_pixel":
        pixels[bad, 1, 3, 2] = np.nan
    elif kind == "noisy":
        pixels[bad] += rng.normal(0, 60, pixels[bad].shape)
    elif kind == "drifting":
        pixels[bad] += rng.normal(0, 500, (pixels.shape[1], 1, 1))
    elif kind == "offset":
        pixels[bad] += 3000
    elif kind == "alternating":
        pixels[bad, :, 1::2] += rng.normal(0, 90, (pixels.shape[1], 1, 1))
    elif kind == "hit":
        pixels[bad, 3:, :9] += 20000


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(KINDS),
    st.integers(3, 6),
    st.integers(0, 5),
    st.sampled_from([(0.0, 0.0), (0.5, 0.3), (6.0, 2.0)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_one_bad_integration_leaves_the_levels_of_others(kind, integrations, bad, scatter, is_lit, seed):
    """Levels of the others move from group to group by less than 0.05 of the noise of a pixel, which is 4.

    What is constant in an integration, and in no rate, is known a little less without the bad one.
    """
    rng = np.random.default_rng(seed)
    shape = integrations, 8
    pixels = reference_pixels(rng, *(rng.normal(0, s, shape) for s in scatter), reset=0.0)
    parameters = {**WHOLE, "is_lit": is_lit}
    before, _ = shrunken_levels(pixels, LABEL, **parameters)
    bad %= integrations
    spoil(kind, pixels, bad, rng)
    with np.errstate(all="raise", under="ignore"):
        after, evidence = shrunken_levels(pixels, LABEL, **parameters)
    others = np.arange(integrations) != bad
    assert np.isfinite(after).all()
    assert np.isfinite(evidence).all()
    change = (after - before)[others]
    assert np.sqrt((varying(change) ** 2).mean()) < 0.05 * 4
    assert np.sqrt((change**2).mean()) < 0.1 * 4
    if kind in ("NaN_pixel", "NaN_group") and not is_lit:
        assert np.sqrt(((after - before)[:, 2:] ** 2).mean()) < 0.05 * 4


def test_the_bad_integration_keeps_its_own_levels(rng):
    level = rng.normal(0, 300, (3, 8))
    level[:2] = 0
    levels, evidence = shrunken_levels(reference_pixels(rng, level, 0 * level), LABEL, **WHOLE)
    assert evidence[0] == 0  # of those that are alike
    assert np.abs(varying(levels.mean(-1)) - varying(level)).max() < 1.5


def test_a_single_wrong_value_does_not_take_the_level_of_its_frame():
    pixels = np.full((1, 4, 32, 8), 70, np.float32)
    pixels[0, 2, 5, 5] = np.nan
    np.testing.assert_array_equal(shrunken_levels(pixels, LABEL, **WHOLE)[0], 70)
    pixels[0, 2, 6, 5] = np.inf
    np.testing.assert_array_equal(clipped_means(pixels, LABEL, 4, 3.0)[0], 70)


def test_a_group_without_values_leaves_the_other_groups(rng):
    level = rng.normal(0, 6, (3, 8))
    pixels = reference_pixels(rng, level, 0 * level)
    before, _ = shrunken_levels(pixels, LABEL, **WHOLE)
    pixels[1, 4] = np.nan
    after, _ = shrunken_levels(pixels, LABEL, **WHOLE)
    others = np.arange(8) != 4
    np.testing.assert_allclose(varying(after[1, others][None]), varying(before[1, others][None]), atol=0.3)
    np.testing.assert_allclose(varying(after[[0, 2]]), varying(before[[0, 2]]), atol=0.1)
