"""Averaged groups with saturated frames: which are given up, and what that does to rates. Truth frame by frame."""

import numpy as np
import pytest

from nsxr.model.readout import irs2_layout
from nsxr.ramps.jump import flag_jumps
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.ramps.saturation import flag_saturation
from nsxr.testing import assert_lazy_and_chunk_invariant

DNU, SAT = 1, 2
BIAS, THRESHOLD, WELL = 8000.0, 60000.0, 61000.0
GROUPS = 6


def expose(rate, charge, arrived, frames, rng=None, noise=0.0):
    """Return groups and their highest frames [DN], for rates and hits (row, column), times in frames."""
    reads = np.empty((GROUPS * frames, *np.shape(rate)))
    total = np.zeros(np.shape(rate))
    for number in range(GROUPS * frames):
        total += rate if rng is None else rng.poisson(rate)
        reads[number] = np.minimum(BIAS + total + charge * (arrived <= number), WELL)
    highest = reads.reshape(GROUPS, frames, *np.shape(rate)).max(1)
    if rng is not None:
        reads += rng.normal(0, noise, reads.shape)
    return reads.reshape(GROUPS, frames, *np.shape(rate)).mean(1), highest


@pytest.fixture
def flag(make_exposure, make_reference):
    def run(groups, frames, rule="predicted", row_start=965, **parameters):
        times = {"TFRAME": 2 / frames, "TGROUP": 2.0}
        exposure = make_exposure(groups[np.newaxis], NFRAMES=frames, SUBSTRT2=row_start, **times)
        given = (make_reference(kind, exposure, sci=v) for kind, v in (("saturation", THRESHOLD), ("superbias", BIAS)))
        parameters = {"n_pix_grow_sat": 0, "partial_saturation": rule} | parameters
        return flag_saturation(exposure, *given, **parameters)

    return run


@pytest.mark.parametrize("frames", [2, 4, 5, 8])
def test_steady_ramps_lose_every_group_with_a_saturated_frame(flag, frames):
    """And hardly any other: only where the last frame comes closer to the threshold than a response may bend."""
    rng = np.random.default_rng(1)
    end = rng.uniform(1, 2 * GROUPS * frames, (40, 250))  # frames until the threshold
    rate = (THRESHOLD - BIAS) / end
    groups, highest = expose(rate, 0.0, 0, frames)
    flags = flag(groups, frames)["groupdq"].values[0]
    is_partial = (highest >= THRESHOLD) & (groups < THRESHOLD)
    assert is_partial.any(0).mean() > 0.1
    assert (flags[is_partial] == DNU).all()
    np.testing.assert_array_equal(flags & SAT > 0, groups >= THRESHOLD)
    needless = (flags == DNU) & ~is_partial
    assert (THRESHOLD - highest < 0.04 * frames * frames * rate)[needless].all()
    assert needless.sum() < 0.25 * is_partial.sum()
    without = flag(groups, frames, use_readpatt=False)["groupdq"].values[0]
    assert (without[is_partial] == 0).all()


@pytest.mark.parametrize("frames", [4, 5])
def test_hits_that_saturate_the_last_frames_are_seen(flag, frames):
    rng = np.random.default_rng(2)
    shape = (40, 250)
    rate = (THRESHOLD - BIAS) / rng.uniform(2 * frames, 60 * frames, shape)
    arrived = rng.integers(0, GROUPS * frames, shape)
    groups, highest = expose(rate, np.exp(rng.uniform(np.log(1e3), np.log(2e5), shape)), arrived, frames)
    flags = flag(groups, frames)["groupdq"].values[0]
    is_partial = (highest >= THRESHOLD) & (groups < THRESHOLD)
    by_hit = is_partial & (np.arange(GROUPS)[:, np.newaxis, np.newaxis] == arrived // frames)
    assert by_hit[1:-1].sum() > 1000
    assert (flags[1:-1][by_hit[1:-1]] == DNU).all()
    # the first group is told from a bright pixel unless half of its frames are saturated
    faint = by_hit[0] & (rate * 4 * frames < THRESHOLD - BIAS) & (arrived == frames - 1)
    assert faint.sum() > 50
    assert (flags[0][faint] == DNU).all()
    before = np.arange(GROUPS)[:, np.newaxis, np.newaxis] < np.minimum(
        arrived // frames, (highest < THRESHOLD).sum(0) - 1
    )
    assert (flags[before] == 0).all()


def test_groups_after_which_nothing_saturates_stay(flag):
    groups, _ = expose(np.full((3, 3), 200.0), np.full((3, 3), 40000.0), 22, 4)
    assert groups.max() < THRESHOLD
    assert not flag(groups, 4)["groupdq"].any()


def test_the_last_group_is_tested_too(flag):
    groups, highest = expose(np.full((3, 3), 2300.0), 0.0, 0, 4)
    assert groups.max() < THRESHOLD < highest.max()
    np.testing.assert_array_equal(flag(groups, 4)["groupdq"].values[0].max((1, 2)), [0, 0, 0, 0, 0, DNU])


def test_neighbours_lose_the_same_groups(flag):
    rate = np.full((7, 9), 10.0)
    rate[3, 4], rate[3, 5] = 5000.0, 6500.0  # partly saturated in groups 2 and 1, saturated in 3 and 2
    groups, _ = expose(rate, 0.0, 0, 4)
    flags = flag(groups, 4, n_pix_grow_sat=1)["groupdq"].values[0]
    expected = np.zeros(flags.shape, np.uint8)
    expected[2, 2:5, 3:7] = DNU
    expected[1, 2:5, 4:7] = DNU
    expected[2:, 2:5, 4:7] = SAT
    expected[3:, 2:5, 3:7] = SAT
    np.testing.assert_array_equal(flags, expected)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_irs2_frames_are_tested_alike_whatever_their_chunks(make_exposure, make_reference, flag, detector):
    layout = irs2_layout(detector)
    rng = np.random.default_rng(3)
    rate = (THRESHOLD - BIAS) / rng.uniform(2, 60, (2048, 3))
    groups, _ = expose(rate, 0.0, 0, 5)
    raw = np.full((1, GROUPS, 3200, 3), 70000.0)
    raw[0][:, layout.science_rows_raw] = groups
    changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2", "DETECTOR": detector, "SUBSTRT1": 1, "SUBSTRT2": 1}
    exposure = make_exposure(raw, NOUTPUTS=5, NFRAMES=5, FRMDIVSR=8, **changes)
    small = make_exposure(np.zeros((1, 1, 2048, 3)), NOUTPUTS=5, **changes)
    result = assert_lazy_and_chunk_invariant(
        flag_saturation,
        exposure,
        make_reference("saturation", small, sci=THRESHOLD),
        make_reference("superbias", exposure, sci=BIAS),
        chunkings=({"row": 640, "group": 4}, {"row": 1000, "group": 1}),
        n_pix_grow_sat=0,
    )
    flags = result["groupdq"].values[0]
    assert not flags[:, ~layout.is_science].any()
    # all frames lie in one column of a detector, too high for a subarray
    expected = flag(groups, 5, row_start=1)["groupdq"].values[0]
    assert (expected == DNU).sum() > 500
    np.testing.assert_array_equal(flags[:, layout.science_rows_raw], expected)


@pytest.mark.parametrize("frames", [4, 5])
@pytest.mark.parametrize("algorithm", ["ols", "likelihood"])
@pytest.mark.parametrize("good", [1, 2, 3, 4])
def test_rates_up_to_the_last_good_group_are_unbiased(flag, make_reference, frames, algorithm, good):
    """Ramps that have 1, 2, 3 or 4 whole groups before they saturate part way through the next one."""
    rng = np.random.default_rng(4)
    rate = (THRESHOLD - BIAS) / rng.uniform(good * frames, (good + 1) * frames, (40, 250))
    groups, highest = expose(rate, 0.0, 0, frames, rng, 6.0)
    is_partial = ((highest >= THRESHOLD) & (groups < THRESHOLD)).any(0)
    deviation = {}
    for use in (True, False):
        flagged = flag(groups, frames, use_readpatt=use)
        flagged = flagged.assign(sci=(flagged["sci"] - np.float32(BIAS)).assign_attrs(units="DN"))
        given = [
            make_reference(kind, flagged, sci=value) for kind, value in (("readnoise", 6 * np.sqrt(2)), ("gain", 1))
        ]
        search = "two-point" if algorithm == "ols" else "likelihood"
        flagged = flag_jumps(flagged, *given, algorithm=search, flag_4_neighbors=False)
        rates = fit_ramps(flagged, *given, algorithm=algorithm, suppress_one_group=False)["rate"]
        error = rates["sci"].values - rate * frames / 2
        deviation[use] = (error / np.sqrt(rates["var_poisson"] + rates["var_rnoise"]).values)[is_partial]
    assert np.isfinite(deviation[True]).mean() > 0.99
    assert abs(np.nanmean(deviation[True])) < 0.1
    assert deviation[False].mean() < (-0.2 if good > 3 else -0.4)
