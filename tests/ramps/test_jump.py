"""Jump detection: known answers, noise, laziness."""

from functools import partial

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nsxr.compute import layouts as chunking
from nsxr.errors import ModelError, ParameterError
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import steps
from nsxr.ramps import jump
from nsxr.ramps.jump import event_rate
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.testing import assert_lazy_and_chunk_invariant, make_exposure, make_noise_references, make_reference

flag_jumps = partial(jump.flag_jumps, algorithm="two-point")

JUMP, SATURATED, DO_NOT_USE = (
    np.uint8(flag.value) for flag in (GroupFlag.JUMP_DET, GroupFlag.SATURATED, GroupFlag.DO_NOT_USE)
)
RAMP = ("integration", "group", "row", "column")
GROUP_TIME = 10.0


def expose(sci, groupdq=None, row_start=0, n_frames=1):
    """Return an exposure of full rows, from a row on."""
    times = {"NFRAMES": n_frames, "TFRAME": GROUP_TIME / n_frames, "TGROUP": GROUP_TIME}
    return make_exposure(sci, groupdq, SUBARRAY="FULL", SUBSTRT1=1, SUBSTRT2=row_start + 1, **times)


def flag(sci, groupdq=None, readnoise=10.0, gain=1.0, n_frames=1, **parameters):
    exposure = expose(np.asarray(sci, float), groupdq, n_frames=n_frames)
    references = make_noise_references(exposure, readnoise, gain, margin=2)
    return flag_jumps(exposure, *references, **{"min_jump_to_flag_neighbors": 10.0} | parameters)


def steady(shape, rate=100.0):
    """Ramps without noise, DN."""
    return np.cumsum(np.full(shape, rate), axis=1)


def found(result):
    return [tuple(map(int, place)) for place in np.argwhere(result["groupdq"].values & JUMP)]


def cross(integration, group, row, column):
    offsets = ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))
    return [(integration, group, row + r, column + c) for r, c in offsets]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", [(1, 20, 5, 6), (2, 8, 5, 6), (1, 6, 5, 6)])
def test_a_step_is_found_in_its_group_and_in_no_other(shape, sign):
    sci = steady(shape)
    sci[0, 4:, 2, 3] += sign * 50
    assert found(flag(sci)) == []  # sigma is sqrt(100 + 10^2) = 14.1 electrons
    sci[0, 4:, 2, 3] += sign * 8
    assert found(flag(sci)) == [(0, 4, 2, 3)]
    sci[0, 4:, 2, 3] += sign * 100
    assert found(flag(sci)) == cross(0, 4, 2, 3)
    assert found(flag(sci, flag_4_neighbors=False)) == [(0, 4, 2, 3)]
    assert found(flag(sci, min_jump_to_flag_neighbors=12.0)) == [(0, 4, 2, 3)]
    assert found(flag(sci, max_jump_to_flag_neighbors=11.0)) == [(0, 4, 2, 3)]


def test_a_negative_step_as_large_as_the_signal_is_found():
    sci = steady((1, 6, 3, 3))
    sci[0, 3:, 1, 1] -= 200  # differences of 100 but one of -100, the same if only sizes are compared
    assert found(flag(sci, flag_4_neighbors=False)) == [(0, 3, 1, 1)]


def test_clipping_finds_what_one_integration_has_apart():
    rng = np.random.default_rng(1)
    sci = steady((100, 4, 3, 4)) + rng.uniform(-1, 1, (100, 4, 3, 4))
    sci[:, 2:] += 5000  # a step in all integrations is part of the ramp
    sci[60, 2:, 1, 2] += 30
    assert found(flag(sci, min_jump_to_flag_neighbors=0.0, max_jump_to_flag_neighbors=1.0)) == [(60, 2, 1, 2)]
    assert (60, 2, 1, 2) not in found(flag(sci[40:]))


def test_a_step_of_the_whole_frame_is_kept():
    sci = steady((100, 4, 2, 3)) + np.random.default_rng(1).uniform(-1, 1, (100, 4, 2, 3))
    sci[60, 2:] += 500
    assert (flag(sci)["groupdq"].values[60, 2] == JUMP).all()


@pytest.mark.parametrize(("groups", "threshold"), [(3, 6), (4, 5), (5, 4), (11, 4)])
@pytest.mark.parametrize("n_frames", [1, 4])
def test_thresholds_of_short_ramps(groups, threshold, n_frames):
    sigma = np.sqrt(100 + 10**2 / n_frames)
    sci = steady((1, groups, 1, 2))
    sci[0, 2:, 0, 0] += 1.02 * threshold * sigma
    sci[0, 2:, 0, 1] += 0.98 * threshold * sigma
    assert found(flag(sci, n_frames=n_frames)) == [(0, 2, 0, 0)]


def test_units_are_electrons():
    sci = steady((1, 12, 1, 1))
    sci[0, 5:] += 35
    assert found(flag(sci, readnoise=0.0)) == []  # 35 of sqrt(100): 3.5 sigma
    assert found(flag(sci, readnoise=0.0, gain=2.0)) == [(0, 5, 0, 0)]  # 70 of sqrt(200): 4.9 sigma


def test_too_few_groups_are_skipped_with_a_note():
    result = flag(steady((1, 2, 2, 2)))
    assert steps(result)[-1]["status"] == "SKIPPED"
    assert "2 groups" in steps(result)[-1]["reason"]
    assert steps(flag(steady((3, 1, 2, 2))))[-1]["status"] == "SKIPPED"
    assert steps(flag(steady((3, 2, 2, 2))))[-1]["status"] == "COMPLETE"
    for integrations, groups in ((1, 5), (3, 2)):
        skipped = flag(steady((integrations, groups, 2, 2)), minimum_groups=6)
        assert steps(skipped)[-1]["status"] == "SKIPPED"


def pairs(integrations, rate=100.0, readnoise=10.0, seed=1):
    """Two-group ramps of (integration, 2, 30, 500) with the noise of a difference."""
    rng = np.random.default_rng(seed)
    sci = np.zeros((integrations, 2, 30, 500))
    sci[:, 1] = rng.poisson(rate, sci[:, 1].shape) + rng.normal(0, readnoise, sci[:, 1].shape)
    return sci, np.sqrt(rate + readnoise**2)


@pytest.mark.parametrize("integrations", [3, 4, 7, 30, 120])
@pytest.mark.parametrize("rate", [0.0, 900.0])
def test_hits_in_series_of_two_groups(integrations, rate):
    """In every fourth pixel one integration is hit by 6 sigma; of the others less than 0.1 % are flagged."""
    sci, sigma = pairs(integrations, rate)
    bad = np.random.default_rng(2).integers(0, integrations, sci.shape[2:])
    is_hit = (np.arange(integrations)[:, None, None] == bad) & (np.arange(500) % 4 == 0)
    sci[:, 1] += 6 * sigma * is_hit
    groupdq = flag(sci, flag_4_neighbors=False)["groupdq"].values
    assert not groupdq[:, 0].any()
    assert (groupdq[:, 1] & JUMP)[is_hit].mean() / JUMP > (0.935 if integrations < 5 else 0.96)
    assert (groupdq[:, 1] & JUMP)[~is_hit].mean() / JUMP < 1e-3


def test_a_hit_pair_has_no_rate_and_no_part_in_the_mean():
    sci, sigma = pairs(5, 50.0)
    sci[2, 1, :, 7] += 40 * sigma
    exposure = expose(sci)
    references = make_noise_references(exposure, 10.0, 1.0, margin=2)
    flagged = jump.flag_jumps(exposure, *references, flag_4_neighbors=False)
    tree = fit_ramps(flagged, *references)
    hit, others = tree["rateints"].isel(integration=2, column=7), tree["rateints"].isel(integration=3, column=7)
    assert np.isnan(hit["sci"]).all()
    assert np.isnan(hit["var_poisson"]).all()
    assert (hit["dq"] == (JUMP | DO_NOT_USE)).all()
    assert np.isfinite(others["sci"]).mean() > 0.9
    rate = tree["rate"].isel(column=7)
    assert rate["sci"].mean() == pytest.approx(50.0 / GROUP_TIME, abs=4 * sigma / GROUP_TIME / np.sqrt(4 * 30))
    assert (rate["dq"] & DO_NOT_USE == 0).all()
    assert (rate["dq"] & JUMP != 0).all()
    assert steps(tree["rate"].to_dataset())[-1]["parameters"]["algorithm"] == "likelihood"


def test_two_pairs_differ_by_as_much_as_two_differences_of_three_groups():
    sci = np.zeros((2, 2, 1, 3))
    sci[:, 1] = 100
    sigma = np.sqrt(200)
    sci[1, 1, 0] += np.array([5.9, 6.1, -20]) * sigma
    assert found(flag(sci, flag_4_neighbors=False)) == [(0, 1, 0, 2), (1, 1, 0, 1)]


def test_sources_that_vary_are_no_jumps():
    sci, sigma = pairs(60, 10_000.0, 10.0)
    sci[20:40, 1] -= 4 * sigma  # a transit
    share = (flag(sci, flag_4_neighbors=False)["groupdq"].values != 0).mean()
    assert share < 5e-4
    sci[40:, 1] -= 8 * sigma
    assert (flag(sci, flag_4_neighbors=False)["groupdq"].values != 0).mean() < 5e-4


@pytest.mark.parametrize("algorithm", ["two-point", "likelihood"])
def test_series_of_two_groups_are_lazy_and_chunk_invariant(algorithm):
    sci, sigma = pairs(6)
    sci, groupdq = sci[:, :, :8, :20], np.zeros((6, 2, 8, 20), np.uint8)
    sci[4, 1, 5, 5] += 50 * sigma
    groupdq[1:, 1, 2, 2] = SATURATED
    exposure = expose(sci, groupdq)
    references = make_noise_references(exposure, 10.0, 1.0, margin=2)
    chunkings = {"row": 3}, {"integration": 2, "row": 4}
    result = assert_lazy_and_chunk_invariant(
        jump.flag_jumps, exposure, *references, chunkings=chunkings, algorithm=algorithm
    )
    assert set(cross(4, 1, 5, 5)) <= set(found(result))
    assert len(found(result)) < 9
    assert np.isfinite(result["median_rate"]).all()


def test_search_takes_one_step_after_another():
    sci = steady((1, 9, 1, 1))
    sci[0, 3:] += 4000
    sci[0, 5:] -= 300
    sci[0, 6:] += 90
    assert [place[1] for place in found(flag(sci))] == [3, 5, 6]


def test_bad_and_saturated_groups_and_nan_are_left_out():
    sci, groupdq = steady((1, 14, 3, 9)), np.zeros((1, 14, 3, 9), np.uint8)
    groupdq[0, 9:, 1, 1] = SATURATED
    sci[0, 9:, 1, 1] = 50
    groupdq[0, 4, 1, 3], sci[0, 4, 1, 3] = DO_NOT_USE, 9e9
    sci[0, 6, 1, 5] = np.nan
    groupdq[0, 7, 1, 7] = DO_NOT_USE
    sci[0, 8:, 1, 7] += 9000  # both differences touch a bad group
    result = flag(sci, groupdq)
    assert found(result) == []
    np.testing.assert_array_equal(result["groupdq"], groupdq)


def test_neighbours_that_cannot_be_used_are_not_flagged():
    sci, groupdq = steady((1, 14, 3, 3)), np.zeros((1, 14, 3, 3), np.uint8)
    sci[0, 6:, 1, 1] += 300
    groupdq[0, 6:, 0, 1] = SATURATED
    groupdq[0, 6, 1, 0] = DO_NOT_USE
    groupdq[0, 6, 1, 2] = GroupFlag.AD_FLOOR.value
    assert found(flag(sci, groupdq)) == [(0, 6, 1, 1), (0, 6, 1, 2), (0, 6, 2, 1)]


def test_gain_that_is_not_positive_is_flagged_in_pixeldq():
    exposure = expose(steady((1, 12, 2, 4)))
    gain = make_reference("gain", exposure, sci=1.0)
    gain["sci"][0, :3] = [0.0, np.nan, -1.0]
    result = flag_jumps(exposure, make_reference("readnoise", exposure, sci=5.0, margin=2), gain)
    expected = np.zeros((2, 4), np.uint32)
    expected[0, :3] = PixelFlag.NO_GAIN_VALUE | PixelFlag.DO_NOT_USE
    np.testing.assert_array_equal(result["pixeldq"], expected)
    assert found(result) == []


def test_groups_after_large_jumps():
    sci = steady((2, 15, 3, 8))
    sci[0, 4:, 1, 1] += 150
    sci[0, 4:, 1, 4] += 900
    sci[0, 4:, 1, 6] -= 900
    sci[1, 13:, 1, 1] += 150
    parameters = {"after_jump_flag_dn1": 120.0, "after_jump_flag_time1": 25.0, "flag_4_neighbors": False}
    parameters |= {"after_jump_flag_dn2": 500.0, "after_jump_flag_time2": 40.0}
    expected = [(0, g, 1, 1) for g in (4, 5, 6)] + [(0, g, 1, 4) for g in (4, 5, 6, 7, 8)] + [(0, 4, 1, 6)]
    expected += [(1, g, 1, 1) for g in (13, 14)]
    assert found(flag(sci, **parameters)) == sorted(expected)
    assert found(flag(sci, gain=2.0, **parameters)) == sorted(expected)  # thresholds are in DN


def test_groups_lost_in_whole_lines_do_not_count():
    sci = np.random.default_rng(4).normal(50, 20, (2, 12, 8, 500)).cumsum(axis=1)
    groupdq = np.zeros(sci.shape, np.uint8)
    assert found(flag(sci, groupdq)) == found(flag(sci, groupdq, min_diffs_single_pass=11))
    groupdq[1, :2] = DO_NOT_USE  # nine differences are left
    search = found(flag(sci, groupdq, min_diffs_single_pass=99))
    assert found(flag(sci, groupdq)) == search
    assert found(flag(sci, groupdq, min_diffs_single_pass=9)) != search
    groupdq[1, :2, :, 77] = 0  # one pixel is enough to show that the group is there
    assert found(flag(sci, groupdq)) == found(flag(sci, groupdq, min_diffs_single_pass=9))


def test_events_cross_amplifier_borders(monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 4 * 12 * 4 * 5)
    sci = steady((1, 12, 8, 5))
    sci[0, 5:, 3, 2] += 300
    exposure = expose(sci, row_start=508)
    assert exposure["amplifier"].values.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    references = make_noise_references(exposure, 10.0, 1.0, margin=2)
    lazy = flag_jumps(exposure.chunk({"row": 4}), *references, min_jump_to_flag_neighbors=10.0)
    assert lazy["groupdq"].chunks[2] == (4, 4)
    assert found(lazy) == cross(0, 5, 3, 2)


def noisy(seed, shape, row_start=0):
    rng = np.random.default_rng(seed)
    sci = rng.normal(20, 10, shape).cumsum(axis=1)
    hits = rng.random(shape) < 0.01
    sci += np.cumsum(hits * rng.exponential(500, shape), axis=1)
    groupdq = np.where(rng.random(shape) < 0.02, DO_NOT_USE, 0) | np.where(sci > 1500, SATURATED, 0)
    groupdq[:, :3, :1] |= DO_NOT_USE
    return expose(sci, groupdq, row_start)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((2, 13, 12, 20), {}),
        ((2, 13, 12, 20), {"after_jump_flag_dn1": 100.0, "after_jump_flag_time1": 25.0}),
        ((3, 6, 12, 20), {}),
        ((40, 6, 12, 5), {"minimum_sigclip_groups": 40}),
        ((3, 6, 12, 20), {"minimum_sigclip_groups": 10, "only_use_ints": False}),
        ((3, 6, 12, 20), {"flag_4_neighbors": False}),
    ],
)
def test_lazy_and_chunk_invariant(shape, parameters):
    exposure = noisy(1, shape)
    references = make_noise_references(exposure, 8.0, 1.2, margin=2)
    chunkings = {"row": 4}, {"row": 1, "group": 2, "column": 7}, {"row": 5, "integration": 1}
    result = assert_lazy_and_chunk_invariant(
        flag_jumps, exposure, *references, chunkings=chunkings, rtol=1e-12, **parameters
    )
    assert (result["groupdq"].values & JUMP).sum() > 20
    assert result["groupdq"].dims == RAMP
    assert steps(result)[-1]["references"] == {"readnoise": "readnoise.fits", "gain": "gain.fits"}
    assert steps(result)[-1]["parameters"].items() >= parameters.items()
    copy = cloudpickle.loads(cloudpickle.dumps(flag_jumps(exposure.chunk({"row": 4}), *references, **parameters)))
    xr.testing.assert_equal(copy["groupdq"], result["groupdq"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(1, 12), (2, 6), (1, 3)]), st.integers(0, 3))
def test_flags_are_kept_and_cutting_commutes(seed, lengths, cut):
    exposure = noisy(seed, (*lengths, 9, 6), row_start=100)
    references = make_noise_references(exposure, 8.0, 1.2, margin=2)
    whole = flag_jumps(exposure, *references, flag_4_neighbors=False)
    before, after = exposure["groupdq"].values, whole["groupdq"].values
    assert not (before & ~after).any()
    assert not (after & ~before & ~JUMP).any()
    assert not ((after ^ before)[(before & (SATURATED | DO_NOT_USE)) != 0]).any()
    rows = slice(1 + cut, 7)  # not a line in which groups are lost
    part = flag_jumps(exposure.isel(row=rows), *references, flag_4_neighbors=False)
    xr.testing.assert_equal(part["groupdq"], whole["groupdq"].isel(row=rows))


@pytest.mark.parametrize(("groups", "most"), [(20, 1.1e-4), (8, 9e-4)])
def test_false_positives_are_as_rare_as_noise_makes_them(groups, most):
    # 4 sigma of a normal distribution is 6.3e-5; the location is itself uncertain, by 0.3 and 0.45 sigma,
    # which the model does not include
    rng = np.random.default_rng(2)
    sci = rng.normal(0, 100, (1, groups, 100, 600)).cumsum(axis=1)
    share = np.mean(flag(sci, readnoise=100.0, flag_4_neighbors=False)["groupdq"].values[:, 1:] != 0)
    assert 4e-5 < share < most


def test_poisson_noise_is_in_the_model():
    rng = np.random.default_rng(3)
    sci = rng.poisson(900.0, (1, 20, 100, 600)).cumsum(axis=1)
    share = np.mean(flag(sci, readnoise=1.0, flag_4_neighbors=False)["groupdq"].values[:, 1:] != 0)
    assert 3e-5 < share < 1.2e-4


def test_count_of_cosmic_rays():
    sci = steady((2, 12, 5, 6))
    sci[0, 4:, 2, 3] += 300
    sci[1, 4:, 2, 3] += 60
    groupdq = np.zeros(sci.shape, np.uint8)
    groupdq[1, 0] = DO_NOT_USE
    result = flag(sci, groupdq)
    rate = result["primary_cosmic_rays"]
    assert rate.attrs["keyword"] == "PRIMECRS"
    assert rate.dtype == np.float64
    np.testing.assert_allclose(rate, 1000 * 2 / (GROUP_TIME * (24 - 1 - 2) * 30))
    lost = xr.full_like(result["groupdq"], DO_NOT_USE)
    assert np.isnan(event_rate(xr.DataArray(0), lost, GROUP_TIME))


def test_errors_name_what_is_wrong():
    exposure = expose(steady((1, 5, 2, 2)))
    references = make_noise_references(exposure, 8.0, 1.2, margin=2)
    with pytest.raises(ModelError, match="'groupdq' is missing"):
        flag_jumps(exposure.drop_vars("groupdq"), *references)
    with pytest.raises(ParameterError, match="rejection_threshold"):
        flag_jumps(exposure, *references, rejection_threshold=-1.0)


def test_median_rate_is_what_integrations_share():
    rng = np.random.default_rng(11)
    sci = rng.poisson(40.0, (5, 12, 6, 40)).cumsum(axis=1) / 2 + rng.normal(0, 5, (5, 12, 6, 40))
    sci[2] += 60.0 * np.arange(12)[:, None, None]
    sci[3, 6:, :3] += 900
    exposure = expose(sci)
    references = make_noise_references(exposure, 7.07, 2.0, margin=2)
    result = flag_jumps(exposure.chunk({"integration": 2}), *references, flag_4_neighbors=False)
    by_likelihood = jump.flag_jumps(exposure, *references)
    for rate in (result["median_rate"].compute(), by_likelihood["median_rate"]):
        assert rate.attrs["units"] == "DN/s"
        scatter = np.sqrt(1.2 * 20 / 2 / 11 + 12 * 5**2 / (11 * 12 * 13)) / np.sqrt(4) / GROUP_TIME
        assert rate.mean() == pytest.approx(20 / GROUP_TIME, abs=4 * scatter / np.sqrt(240))
        assert rate.std() < 1.3 * scatter
    np.testing.assert_allclose(result["median_rate"], by_likelihood["median_rate"], rtol=1e-4)
    assert "median_rate" not in flag_jumps(exposure.isel(integration=slice(0, 1)), *references)
