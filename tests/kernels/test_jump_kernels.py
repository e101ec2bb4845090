"""The jump kernels against NumPy twins."""

import numpy as np
import pytest
from astropy.stats import sigma_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from nsxr.kernels.ramps.jump import LARGE, SPREAD, VERY_LARGE, JumpSizes, flag_outside, spread_jumps
from nsxr.kernels.ramps.jump_limits import find_limits
from nsxr.kernels.ramps.series_rate import TwoPointSearch
from nsxr.kernels.sorting import Thresholds, sort_columns
from nsxr.model.dq import JUMP

DEFAULTS = {
    "large": np.inf,
    "very_large": np.inf,
    "n_frames": 1,
    "threshold": 4.0,
    "threshold_three": 5.0,
    "threshold_two": 6.0,
    "min_spread": 10.0,
    "max_spread": 1000.0,
    "min_differences": 10,
    "min_clip_groups": 100,
    "only_integrations": True,
}


def detect_jumps(sci, groupdq, gain, readnoise, **p):
    """Find limits and apply them."""
    thresholds = Thresholds(p["threshold"], p["threshold_three"], p["threshold_two"])
    least = p["min_differences"], p["min_clip_groups"]
    search = TwoPointSearch(p["n_frames"], thresholds, *least, p["only_integrations"], 0.5)
    *limits, _ = find_limits(sci, groupdq, gain, readnoise, search)
    sizes = JumpSizes(p["large"], p["very_large"], p["min_spread"], p["max_spread"])
    return flag_outside(sci, groupdq, gain, *limits, sizes)


def random_ramps(seed, shape, rate=40.0):
    """Ramps with cosmic rays of both signs, bad and saturated groups, NaN, and odd gains and noises."""
    rng = np.random.default_rng(seed)
    groups, rows, columns = shape[1:]
    steps = rng.poisson(rng.uniform(0, rate, (rows, columns)), shape).astype(float)
    steps += (rng.random(shape) < 0.05) * rng.normal(100, 600, shape)
    sci = (steps.cumsum(axis=1) + rng.normal(0, 6, shape)).astype(np.float32)
    sci[rng.random(shape) < 0.01] = np.nan
    groupdq = (rng.random(shape) < 0.03).astype(np.uint8)
    groupdq |= np.where(rng.random(shape).cumsum(axis=1) > 0.8 * groups, 2, 0).astype(np.uint8)
    groupdq |= np.where(rng.random(shape) < 0.01, 64, 0).astype(np.uint8)
    gain = rng.uniform(0.9, 1.6, (rows, columns)).astype(np.float32)
    readnoise = rng.uniform(4, 9, (rows, columns)).astype(np.float32)
    gain[0, :4] = 0, np.nan, -1, 1
    readnoise[0, 3:5] = np.nan, 0
    return sci, groupdq, gain, readnoise


def search_twin(values, variance, thresholds):
    """Return which differences of one pixel the iterative search finds."""
    left = np.isfinite(values)
    while (n := left.sum()) >= 2:
        by_size = sorted(values[left], key=lambda value: (abs(value), -value))
        location = by_size[0] if n == 2 else np.median(by_size[:-1] if n >= 4 else by_size)
        sigma = np.sqrt(np.abs(location) + variance)
        if not sigma > 0:
            break
        ratio, worst = max((abs(value - location) / sigma, value) for value in values[left])
        if not ratio > thresholds[min(n, 4)]:
            break
        left &= values != worst
    return np.isfinite(values) & ~left


def detect_twin(sci, groupdq, gain, readnoise, **p):
    """Return the detection code, branch after branch, in NumPy."""
    signal = np.where(groupdq & 3, np.float32("nan"), sci * gain)
    d = np.diff(signal, axis=1).astype(np.float64)
    finite = np.isfinite(d)
    filled = np.ma.masked_invalid(d)
    median = np.ma.median(filled, axis=(0, 1)).filled(np.nan).astype(float)
    variance = (readnoise * gain).astype(np.float32).astype(float) ** 2 / p["n_frames"]
    sigma = np.sqrt(np.abs(median) + variance)
    sigma[~(sigma > 0)] = np.nan
    usable = ((groupdq & 1) == 0).any(axis=3)  # (integration, group, row)
    jump = np.zeros(d.shape, bool)
    for row in range(sci.shape[2]):
        populations = sci.shape[0] if p["only_integrations"] else usable[:, :, row].sum()
        if populations >= p["min_clip_groups"]:
            axis = 0 if p["only_integrations"] else (0, 1)
            clipped = sigma_clip(filled[:, :, row], sigma=p["threshold"], axis=axis)
            jump[:, :, row] = np.ma.getmaskarray(clipped)
        elif usable[:, :, row].sum(axis=1).min() - 1 >= p["min_differences"]:
            jump[:, :, row] = np.abs(d - median)[:, :, row] / sigma[row] > p["threshold"]
        else:
            thresholds = {2: p["threshold_two"], 3: p["threshold_three"], 4: p["threshold"]}
            for column in range(sci.shape[3]):
                found = search_twin(d[:, :, row, column].ravel(), variance[row, column], thresholds)
                jump[:, :, row, column] = found.reshape(d.shape[:2])
    code = groupdq & 7
    later = code[:, 1:]
    later |= np.where(jump & finite, JUMP, 0).astype(np.uint8)
    ratio = np.abs(d - median) / sigma
    is_spread = (later & JUMP).astype(bool) & (ratio > p["min_spread"]) & (ratio < p["max_spread"])
    later |= np.where(is_spread, SPREAD, 0).astype(np.uint8)
    later |= np.where(d - median >= p["large"], LARGE, 0).astype(np.uint8)
    later |= np.where(d - median >= p["very_large"], VERY_LARGE, 0).astype(np.uint8)
    return code


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 19, 33, 100, 129])
def test_sorting_network_sorts_any_length(count):
    rng = np.random.default_rng(count)
    tile = rng.normal(size=(count + 2, 9)).astype(np.float32)
    tile[rng.random(tile.shape) < 0.2] = np.inf
    expected = tile.copy()
    expected[:count, :7] = np.sort(expected[:count, :7], axis=0)
    sort_columns(tile, count, 7)
    np.testing.assert_array_equal(tile, expected)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        pytest.param((1, 20, 4, 150), {"large": 50.0, "very_large": 300.0}, id="single pass, more than one tile"),
        pytest.param((3, 13, 3, 9), {"n_frames": 4}, id="single pass, averaged frames"),
        pytest.param((1, 9, 4, 20), {}, id="search"),
        pytest.param((4, 6, 3, 9), {"min_spread": 3.0}, id="search in several integrations"),
        pytest.param((1, 3, 4, 30), {}, id="search, three groups"),
        pytest.param((1, 4, 4, 30), {}, id="search, four groups"),
        pytest.param((110, 4, 2, 9), {}, id="clipping among integrations"),
        pytest.param((9, 14, 3, 9), {"only_integrations": False}, id="clipping of everything"),
    ],
)
def test_detection_equals_its_twin(shape, changes):
    ramps = random_ramps(sum(shape), shape)
    parameters = {**DEFAULTS, **changes}
    expected = detect_twin(*ramps, **parameters)
    assert (expected & JUMP).any()
    np.testing.assert_array_equal(detect_jumps(*ramps, **parameters), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-40, 40).map(lambda x: 25.0 * x), min_size=1, max_size=9),
    st.sampled_from([0.0, 5.0, 30.0]),
)
def test_search_equals_its_twin_whatever_the_ties(differences, readnoise):
    sci = np.concatenate([[0.0], np.cumsum(differences)]).astype(np.float32).reshape(1, -1, 1, 1)
    ramps = sci, np.zeros(sci.shape, np.uint8), np.ones((1, 1), np.float32), np.full((1, 1), readnoise, np.float32)
    expected = detect_twin(*ramps, **DEFAULTS)
    np.testing.assert_array_equal(detect_jumps(*ramps, **DEFAULTS), expected)


@pytest.mark.parametrize("after", [(0, 0), (2, 0), (1, 4)])
def test_spreading_equals_its_twin(after):
    rng = np.random.default_rng(3)
    shape = 2, 7, 9, 11
    code = np.zeros(shape, np.uint8)
    for bit, share in ((1, 0.1), (2, 0.1), (JUMP, 0.05), (SPREAD, 0.05), (LARGE, 0.3), (VERY_LARGE, 0.1)):
        code |= np.where(rng.random(shape) < share, bit, 0).astype(np.uint8)
    code[:, 0] &= 3
    spread = np.pad((code & SPREAD) > 0, ((0, 0), (0, 0), (1, 1), (1, 1)))
    near = spread[:, :, :-2, 1:-1] | spread[:, :, 2:, 1:-1] | spread[:, :, 1:-1, :-2] | spread[:, :, 1:-1, 2:]
    usable = (code & 3) == 0
    jump = (near | ((code & JUMP) > 0)) & usable
    expected = jump.copy()
    for bit, groups in zip((LARGE, VERY_LARGE), after, strict=True):
        for shift in range(1, groups + 1):
            expected[:, shift:] |= (jump & ((code & bit) > 0))[:, :-shift] & usable[:, shift:]
    result = spread_jumps(code, *after)
    np.testing.assert_array_equal(result[:, :, 1:-1], np.where(expected, JUMP, 0)[:, :, 1:-1])
    assert not result[:, :, [0, -1]].any()
