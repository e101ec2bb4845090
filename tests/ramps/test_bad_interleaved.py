"""Bad interleaved reference pixels: recall, false rate, reasons, and the rule of the observatory's pipeline."""

import numpy as np
import pytest
import xarray as xr

from nsxr.kernels.ramps.bad_interleaved import REASONS, judge, pair_moments, robust_scores
from nsxr.model.readout import irs2_layout
from nsxr.ramps.reference_pixels.bad_interleaved import (
    LIMIT,
    count_bad_interleaved,
    find_bad_interleaved,
    rows_of_pairs,
)
from nsxr.ramps.reference_pixels.high_interleaved import find_high_interleaved
from nsxr.testing import forbid_computes

BAD_REFERENCE = np.uint32(1 << 17)
NONE_LISTED = np.zeros(64, bool)


def noise(rng, integrations, groups, columns):
    """Rows of one output: white noise, drifts that all pairs share, pixels of different level."""
    white = rng.normal(0, 5, (integrations, groups, 128, columns))
    drift = np.cumsum(rng.normal(0, 1, (integrations, groups, 1, columns)), axis=-1)
    pedestal = rng.normal(0, 20, (integrations, groups, 1, 1))
    return (white + drift + pedestal + rng.normal(0, 60, (128, 1))).astype(np.float32)


def telegraph(rng, shape, dwell):
    flips = rng.random(shape) < 1 / dwell
    return (np.cumsum(flips, axis=-1) + rng.integers(0, 2, (*shape[:-1], 1))) % 2


def test_reasons_and_integrations(make_irs2):
    rng = np.random.default_rng(1)
    sci = np.concatenate([noise(rng, 3, 6, 256) for _ in range(5)], axis=2)
    inside = np.flatnonzero(irs2_layout("NRS2").is_interleaved)
    spoiled = {  # output 4 comes first
        (0, 4, 3): "MEAN",
        (1, 4, 60): "MEAN",
        (1, 3, 5): "DIFFERENCE",
        (2, 2, 33): "SCATTER",
        (0, 1, 7): "TELEGRAPH",
        (2, 0, 8): "TELEGRAPH",
    }
    sci[0, :, 6:8] += 500
    sci[1, :, 120:122] -= 500
    sci[1, :, 128 + 10] += 300
    sci[1, :, 128 + 11] -= 300
    sci[2, :, 256 + 66] += rng.normal(0, 3, (6, 256))  # one of the two pixels
    sci[0, :, 384 + 14 : 384 + 16] += 5 * telegraph(rng, (6, 2, 256), 20)
    sci[2, [1, 2, 4], 512 + 16 : 512 + 18] += 6  # whole frames
    frames = np.zeros((3, 6, 3200, 256), np.float32)
    frames[:, :, inside] = sci
    exposure = make_irs2(frames, "NRS2")
    before = exposure.copy(deep=True)
    bad = find_bad_interleaved(exposure)
    assert bad.dims == ("integration", "output", "pair")
    assert bad.shape == (3, 5, 64)
    assert bad.dtype == np.uint8
    assert bad.attrs["flag_meanings"].split() == list(REASONS)
    np.testing.assert_array_equal(bad.attrs["flag_masks"], list(REASONS.values()))
    found = {tuple(index) for index in np.argwhere(bad.values)}
    assert found == spoiled.keys()
    for index, reason in spoiled.items():
        assert bad.values[index] & REASONS[reason], (index, bad.values[index])
    np.testing.assert_array_equal(bad["row"].values, inside.reshape(5, 64, 2)[::-1, :, 0])
    xr.testing.assert_identical(exposure, before)

    for chunks in ({"integration": 1, "group": 2, "row": 640}, {"integration": 2, "row": 700}):
        with forbid_computes():
            lazy = find_bad_interleaved(exposure.chunk(chunks))
            counts = count_bad_interleaved(lazy)
        xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), bad)
        assert {name: int(count) for name, count in counts.items()} == {
            "bad_reference_pairs": 6,
            "bad_reference_pairs_mean": 2,
            "bad_reference_pairs_difference": 1,
            "bad_reference_pairs_scatter": 2,  # strong telegraph noise counts, too
            "bad_reference_pairs_telegraph": 2,
            "bad_reference_pairs_listed": 0,
        }
    assert len({count.attrs["keyword"] for count in counts.values()}) == 6
    rows = rows_of_pairs(bad, 4, "NRS2")
    assert rows.dims == ("integration", "row")
    assert [np.flatnonzero(r).tolist() for r in rows] == [inside[[6, 7]].tolist(), inside[[120, 121]].tolist(), []]


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_listed_pairs(make_irs2, detector):
    rng = np.random.default_rng(2)
    sci = np.tile(rng.normal(0, 5, (1, 3, 640, 16)), (1, 1, 5, 1))
    listed = [640 + 8 + 40, 1280 + 8 + 100 + 2, 3 * 640 + 8]  # detector columns; the last one by pixeldq
    first = listed if detector == "NRS1" else [3198 - column for column in listed]
    exposure = make_irs2(sci, detector)
    exposure["pixeldq"][first[2], 5] = BAD_REFERENCE
    exposure["pixeldq"][3, 7] = BAD_REFERENCE  # not an interleaved row
    columns = {"bad_output": [1, 2], "bad_parity": [1, 1], "bad_mask": [1 << 2, 1 << 5]}
    refpix = xr.Dataset({name: ("bad", np.array(values)) for name, values in columns.items()})
    bad = find_bad_interleaved(exposure, refpix, n_sigma=20.0)[0]
    flags = dict(zip(bad["row"].values.ravel().tolist(), bad.values.ravel().tolist(), strict=True))
    assert {row: flag for row, flag in flags.items() if flag} == dict.fromkeys(first, REASONS["LISTED"])


def test_recall_at_five_sigma():
    """Pairs put 5 standard deviations of the good pairs from their centre, three of each output at a time."""
    rng = np.random.default_rng(11)
    kinds = ("high", "low", "noisy", "telegraph", "difference")
    found = dict.fromkeys(kinds, 0)
    n = 40
    for _ in range(n):
        rows = noise(rng, 1, 5, 64)[0]
        numbers = rows.mean((0, 2)).reshape(64, 2)
        level, difference = numbers.mean(1), numbers[:, 1] - numbers[:, 0]
        picked = rng.permutation(64)
        for kind, pair in zip(kinds, picked, strict=False):
            at = slice(2 * pair, 2 * pair + 2)
            if kind in ("high", "low"):
                side = 1 if kind == "high" else -1
                rows[:, at] += level.mean() + 5 * side * level.std() - level[pair]
            elif kind == "difference":
                rows[:, 2 * pair + 1] += difference.mean() + 5 * difference.std() - difference[pair]
            elif kind == "noisy":
                rows[:, at] += 5 * rng.normal(0, 1, rows[:, at].shape)
            else:
                rows[:, at] += 25 * telegraph(rng, rows[:, at].shape, 40)
        bad = judge(pair_moments(rows[None]), NONE_LISTED, LIMIT)[0]
        for kind, pair in zip(kinds, picked, strict=False):
            found[kind] += bad[pair] > 0
    assert all(count >= 0.97 * n for count in found.values()), found
    assert sum(found.values()) >= 0.99 * n * len(kinds)


def test_false_rate():
    rng = np.random.default_rng(21)
    integrations = 400
    rows = np.concatenate([noise(rng, 1, 4, 64) for _ in range(integrations)])
    bad = judge(pair_moments(rows), NONE_LISTED, LIMIT)
    assert (bad > 0).mean() <= 1e-3, (bad > 0).sum()
    assert (bad > 0).any()  # 25600 pairs: a limit beyond reach would be no test


def test_bad_pairs_do_not_hide_each_other():
    rng = np.random.default_rng(31)
    rows = noise(rng, 1, 5, 64)
    bad = np.arange(0, 40, 2)  # 20 of 64
    for pair in bad:
        rows[:, :, 2 * pair : 2 * pair + 2] += rng.choice([-1, 1]) * 1000
    found = judge(pair_moments(rows), NONE_LISTED, LIMIT)[0]
    np.testing.assert_array_equal(np.flatnonzero(found & REASONS["MEAN"]), bad)


def test_moments_equal_plain_sums():
    rng = np.random.default_rng(41)
    sci = noise(rng, 2, 3, 80)
    moments = pair_moments(sci)
    frame = sci[1, 2].astype(float)
    mean = frame.mean(1, keepdims=True)
    pairs = (frame - mean).reshape(32, 2, 2, 80)
    left = (pairs - np.median(pairs.mean(2), axis=0)[:, None]).reshape(64, 2, 80)
    np.testing.assert_allclose(moments[1, 2, :2], mean.reshape(64, 2).T)
    for number, lines in zip((2, 3, 4), (1, 8, 64), strict=True):
        blocks = left[:, :, : 80 // lines * lines].reshape(64, 2, -1, lines).mean(-1)
        np.testing.assert_allclose(moments[1, 2, number], lines * (blocks**2).sum((1, 2)), rtol=1e-4)


def test_scores_are_deviations_in_sigma():
    rng = np.random.default_rng(51)
    values = rng.normal(7, 3, 64)
    values[5], values[6] = 1e6, -1e6
    left_out = np.arange(64) == 6
    scores = robust_scores(values, left_out)
    good = np.abs(scores) < 5
    assert good.sum() == 62
    assert scores[good].std() == pytest.approx(1, abs=0.05)
    assert scores[5] > 1e4
    assert scores[6] < -1e4
    np.testing.assert_array_equal(robust_scores(np.full(64, 3.0), left_out), 0)
    assert robust_scores(np.where(np.arange(64) == 9, 4.0, 3.0), left_out)[9] == np.inf


def test_constant_frames_and_listed_outputs_have_nothing_to_find():
    still = pair_moments(np.full((1, 2, 128, 16), 7, np.float32))
    assert not judge(still, NONE_LISTED, LIMIT).any()
    assert not judge(still, ~NONE_LISTED, LIMIT).any()


def test_high_pairs_are_found_and_others_kept(make_irs2, rng):
    sci = rng.normal(0, 5, (2, 5, 3200, 16))
    high, noisy, different, flagged = 640 + 8, 640 + 28, 2 * 640 + 10, 3 * 640 + 48
    sci[0, :, high : high + 2] += 100  # in one integration alone
    sci[:, :, noisy : noisy + 2] *= 8
    sci[:, :, different] += 60
    sci[:, :, different + 1] -= 60
    exposure = make_irs2(sci)
    exposure["pixeldq"][flagged, 7] = BAD_REFERENCE
    exposure["pixeldq"][3, 7] = BAD_REFERENCE  # of a science row of the reference output
    with_limit = assert_chunked_equal(exposure)
    for row in (high, high + 1, noisy, noisy + 1, different, different + 1, flagged):
        assert with_limit[row], row
    assert with_limit.sum() == 7
    assert not with_limit[~irs2_layout("NRS1").is_interleaved].any()


def assert_chunked_equal(exposure):
    bad = find_high_interleaved(exposure, n_sigma=6).values
    chunked = exposure.chunk({"integration": 1, "group": 2, "row": 640})
    np.testing.assert_array_equal(find_high_interleaved(chunked, n_sigma=6).values, bad)
    return bad
