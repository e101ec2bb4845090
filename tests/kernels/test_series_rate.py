"""The rate that integrations share: its twin, its precision, and that one bad integration does not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_twin import robust_rate

from nsxr.kernels.ramps.jump_limits import find_limits
from nsxr.kernels.ramps.series_rate import TwoPointSearch, find_series_rates
from nsxr.kernels.sorting import Thresholds

NOISE = 8.0  # electrons, of a difference
DNU, SAT, JUMP = 1, 2, 4
SEARCH = TwoPointSearch(1, Thresholds(4.0, 5.0, 6.0), 10, 100, True, 0.5)


def ramps(rng, rate, shape):
    steps = rng.poisson(rate, shape)
    return (steps.cumsum(1) + rng.normal(0, NOISE / np.sqrt(2), shape)).astype(np.float32)


def rates_of(sci, flags=None, gain=1.0, least=10):
    """Return uncertainty and rate, (row, column), [DN per group]."""
    flags = np.zeros(sci.shape, np.uint8) if flags is None else flags.astype(np.uint8)
    image = np.ones(sci.shape[2:], np.float32)
    search = SEARCH._replace(min_differences=least)
    return find_series_rates(sci, flags, gain * image, NOISE / gain * image, search)


def slope_of_segments(differences, is_good):
    """Fit a line with a level for each run of good differences, by least squares: slope and its two variances."""
    groups = np.concatenate([[0.0], np.cumsum(np.where(is_good, differences, 0))])
    segment = np.concatenate([[0], np.cumsum(~is_good)])
    levels = segment[:, None] == np.unique(segment)
    matrix = np.column_stack([np.arange(groups.size), levels])
    inverse = np.linalg.pinv(matrix)[0]
    photons = sum((inverse[k:].sum()) ** 2 for k in range(1, groups.size) if is_good[k - 1])
    return inverse @ groups, photons, NOISE**2 / 2 * (inverse**2).sum()


@pytest.mark.parametrize("groups", [2, 6, 14])
def test_equals_its_twin(rng, groups):
    shape = (5, groups, 2, 70)
    sci = ramps(rng, 20.0, shape)
    flags = rng.choice([0, DNU, SAT, JUMP], shape, p=[0.85, 0.05, 0.05, 0.05])
    flags[3, 1:, 1, 30:] = DNU
    _, found = rates_of(sci, flags, gain=2.0, least=1)
    steps = np.diff(sci.astype(float), axis=1) * 2
    good = ((flags[:, 1:] | flags[:, :-1]) & (DNU | SAT) == 0) & (flags[:, 1:] & JUMP == 0)
    checked = 0
    for row, column in np.ndindex(shape[2:]):
        of_pixel = []
        for d, is_good in zip(steps[..., row, column], good[..., row, column], strict=True):
            if is_good.any():
                middle = np.median(d[is_good])
                is_good = is_good & (abs(d - middle) <= 4 * np.sqrt(abs(middle) + NOISE**2))
            slope = slope_of_segments(d, is_good) if is_good.any() else (0.0, 1.0, 1.0)
            of_pixel.append((*slope, is_good.sum()))
        values = [np.array(v) for v in zip(*of_pixel, strict=True)]
        if values[3].any():
            assert found[row, column] == pytest.approx(robust_rate(*values) / 2, rel=1e-4, abs=1e-4)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("integrations", [2, 3, 20])
@pytest.mark.parametrize("rate", [0.0, 5.0, 2000.0])
def test_is_as_precise_as_it_says(rng, integrations, rate):
    error, found = rates_of(ramps(rng, rate, (integrations, 12, 20, 200)))
    assert found.mean() == pytest.approx(rate, abs=4 * found.std() / np.sqrt(found.size) + 0.06 * found.std())
    best = np.sqrt((6 * NOISE**2 / (11 * 12 * 13) + 1.2 * rate / 11) / integrations)
    assert found.std() < 1.12 * best
    assert np.median(error) == pytest.approx(found.std(), rel=0.15)


def test_first_groups_tell_where_nothing_else_does():
    sci = np.full((3, 4, 1, 2), 50, np.float32)
    flags = np.zeros(sci.shape, np.uint8)
    flags[:, 1:] = SAT
    flags[0, 0, 0, 0] = DNU
    sci[1, 0, 0, 1] = 5000
    np.testing.assert_allclose(rates_of(sci, flags)[1], 100)
    flags[:] = SAT
    assert np.isnan(rates_of(sci, flags)[1]).all()


def test_both_ways_to_it_agree(rng):
    sci = ramps(rng, 9.0, (3, 8, 2, 150))
    sci[1, 4:, 1] += 300
    flags = np.where(rng.random(sci.shape) < 0.1, JUMP, 0).astype(np.uint8)
    image = np.ones(sci.shape[2:], np.float32)
    of_limits = find_limits(sci, flags, image, NOISE * image, SEARCH)[-1]
    np.testing.assert_allclose(of_limits, rates_of(sci, flags)[1], rtol=1e-4, atol=1e-4)


def spoil(kind, sci, flags, bad, rng):
    """Make one integration bad, in place."""
    groups = sci.shape[1]
    if kind == "saturated early":
        flags[bad, 2:] |= SAT
        sci[bad, 2:] = 65000
    elif kind == "saturated":
        flags[bad] |= SAT
    elif kind == "afterglow":
        sci[bad] += 2.0 * np.arange(groups)[:, None, None]
    elif kind == "bright":
        sci[bad] += 500.0 * np.arange(groups)[:, None, None]
    elif kind == "hit":
        sci[bad, groups // 2 :] += 700
    elif kind == "hits":
        sci[bad] += np.cumsum(rng.choice([0, 300], sci[bad].shape), 0)
    elif kind == "noisy":
        sci[bad] += rng.normal(0, 10 * NOISE, sci[bad].shape)
    elif kind == "NaN":
        sci[bad] = np.nan
    elif kind == "down":
        sci[bad] -= 50.0 * np.arange(groups)[:, None, None]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(["saturated early", "saturated", "afterglow", "bright", "hit", "hits", "noisy", "NaN", "down"]),
    st.integers(2, 5),
    st.integers(0, 4),
    st.sampled_from([0.0, 3.0, 400.0]),
    st.integers(0, 99),
)
def test_one_bad_integration_does_not_matter(kind, integrations, bad, rate, seed):
    """What photon noise follows from moves by its own uncertainty, and so do errors: by less than a fifth."""
    if integrations == 2 and kind == "down":
        return  # of two that disagree the lower is believed
    rng = np.random.default_rng(seed)
    sci = ramps(rng, rate, (integrations, 24, 4, 100))
    flags = np.zeros(sci.shape, np.uint8)
    _, clean = rates_of(sci, flags)
    spoil(kind, sci, flags, bad % integrations, rng)
    _, found = rates_of(sci, flags)
    assert np.isfinite(found).all()
    variance = 6 * NOISE**2 / (23 * 24 * 25) + 1.2 * np.maximum([clean, found], 0) / 23
    ratio = np.sqrt(variance[1] / variance[0])
    low, high = np.quantile(ratio, [0.05, 0.95])
    assert low > 0.83
    assert high < 1.2
