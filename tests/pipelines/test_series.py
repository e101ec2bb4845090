"""Stage 1 of series: what one integration does to the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr.simulate import small_exposure

_MADE = {}


def made(groups, skip):
    """Return a dark exposure of three integrations and its rates, made once for each number of groups."""
    if (groups, *skip) not in _MADE:
        small = small_exposure(
            readout="NRSRAPID", subarray="SUB512", groups=groups, integrations=3, columns=None, scene="dark", seed=4
        )
        _MADE[groups, *skip] = small, rates_of(small, small.exposure["sci"].values, skip=skip)
    return _MADE[groups, *skip]


def rates_of(small, sci, skip=()):
    exposure = small.exposure.copy()
    exposure["sci"] = exposure["sci"].copy(data=sci)
    return nsxr.detector1(exposure, small.references, skip=["refpix", *skip])["rateints"].to_dataset()


def error(rates):
    return np.sqrt(rates["var_poisson"] + rates["var_rnoise"]).values


@pytest.mark.parametrize("skip", [["clean_flicker_noise"], []])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    st.sampled_from(["saturated early", "saturated", "afterglow", "noisy", "hit"]),
    st.integers(0, 2),
    st.sampled_from([8, 32]),
)
def test_one_bad_integration_leaves_rates_and_errors_of_others(skip, kind, bad, groups):
    small, before = made(groups, skip)
    sci = small.exposure["sci"].values.astype(np.int64)
    region = np.s_[bad, :, 4:28, 4:60]
    if kind == "saturated early":
        sci[bad, 2:, 4:28, 4:60] = 65000
    elif kind == "saturated":
        sci[region] = 65000
    elif kind == "afterglow":
        sci[region] += 2 * np.arange(groups)[:, None, None]
    elif kind == "noisy":
        sci[region] += np.rint(np.random.default_rng(1).normal(0, 40, sci[region].shape)).astype(int)
    else:
        sci[bad, groups // 2 :, 4:28, 4:60] += 300
    after = rates_of(small, sci.clip(0, 65535).astype(np.float32), skip=skip)
    others = np.arange(3) != bad
    of_region = np.s_[others, 4:28, 4:60]
    ratio = (error(after) / error(before))[of_region]
    moved = ((after["sci"] - before["sci"]).values / error(before))[of_region]
    known = np.isfinite(ratio)
    assert known.mean() > 0.98
    assert (np.isfinite(after["sci"].values) == np.isfinite(before["sci"].values))[of_region].all()
    low, high = np.quantile(ratio[known], [0.16, 0.84])
    assert low > 0.83
    assert high < 1.2
    # nearly all of it where a jump is found in one and not in both. With the cleaning, also where a pixel is used for
    # the estimate of the noise in one and not in both: the estimate follows its white noise in one
    assert np.sqrt((moved[known] ** 2).mean()) < 0.12
    assert np.quantile(np.abs(moved[known]), 0.99) < (0.1 if skip else 0.45)
