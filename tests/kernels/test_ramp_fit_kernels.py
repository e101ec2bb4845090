import warnings

import numba
import numpy as np
import pytest
from series_twin import robust_rate

from nsxr.kernels.ramps.ramp_fit import combine_sums, finish_slopes, fit_slopes
from nsxr.kernels.ramps.ramp_tile import PixelImages, SelectedGroups
from nsxr.kernels.ramps.ramp_weights import POWERS, SIGNAL_TO_NOISE, weight_tables

DNU, SAT, JUMP, PERSISTENCE = 1, 2, 4, 32


def fit(sci, groupdq, pixeldq=None, gain=1.2, readnoise=10.0, dark=0.0, time=3.0, frames=1, suppress=True):
    """Call the kernels with images from scalars: products of each integration, then of all."""
    image = np.zeros(sci.shape[2:], np.float32)
    groups = sci.shape[1]
    images = PixelImages(
        np.zeros(image.shape, np.uint32) if pixeldq is None else pixeldq,
        image + np.float32(gain),
        image + np.float32(readnoise),
        image + np.float32(dark),
        np.empty((0, 0), np.float32),
    )
    selected = SelectedGroups(time, time * (frames + 1) / (2 * frames), frames, 0, groups - 1, suppress and groups > 1)
    sci, groupdq = np.ascontiguousarray(sci, np.float32), np.ascontiguousarray(groupdq, np.uint8)
    *rates, sums = fit_slopes(sci, groupdq, images, selected, weight_tables(groups))
    dq = np.bitwise_or.reduce(rates[-1], axis=0) & ~np.uint32(1)
    return (*rates, *finish_slopes(combine_sums(sums), dq, time))


def segments(flags):
    """Cut a ramp at its flags: pairs of first and last-plus-one group."""
    flags = [int(flag) & ~PERSISTENCE for flag in flags]
    if sum(flag == 0 for flag in flags) == 1 or flags[0] & SAT:
        return []
    cuts = "".join("." if flag == 0 else "J" if flag == JUMP else "x" for flag in flags)
    found, begin = [], None
    for group, kind in enumerate(cuts + "x"):
        if kind == "." and begin is None:
            begin = group - (cuts[max(group - 1, 0)] == "J")
        elif kind != "." and begin is not None:
            found, begin = [*found, (begin, group)], None
    return [(begin, end) for begin, end in found if end - begin > 1]


def weighted_slope(ramp, gain, noise):
    """Fit a line by weighted least squares, written as in the reports."""
    length = len(ramp)
    rise = max((ramp[-1] - ramp[0]) * gain, 0.0)
    power = POWERS[np.searchsorted(SIGNAL_TO_NOISE, rise / np.sqrt(noise**2 + rise), side="right")]
    middle = (length - 1) / 2
    weights = np.abs((np.arange(length) - middle) / middle) ** power / noise**2
    return np.polyfit(np.arange(length), ramp, 1, w=np.sqrt(weights))[0]


def twin(ramps, flags, gain, readnoise, dark, time, frames):
    """Fit one pixel, (integration, group), as plainly as possible."""
    noise = readnoise * gain / np.sqrt(2 * frames)
    slopes, cubes, lengths = [], [], []
    for ramp, dq in zip(ramps.astype(float), flags, strict=True):
        parts = segments(dq)
        sums = [(end - begin) ** 3 - (end - begin) for begin, end in parts]
        cubes.append(np.sum(sums))
        lengths.append(sum(end - begin - 1 for begin, end in parts))
        slopes.append(sum(s * weighted_slope(ramp[b:e], gain, noise) for s, (b, e) in zip(sums, parts, strict=True)))
    sums, differences = np.array(cubes, float), np.array(lengths, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_rates = np.array(slopes) / sums, 1 / (gain * differences), 12 * noise**2 / gain**2 / sums, differences
        of_rates = [np.where(differences > 0, values, 0) for values in of_rates]
        rate = max(robust_rate(*of_rates), 0) / time + dark / gain
    slopes, cubes, lengths = (np.array([*values, np.sum(values)], dtype=float) for values in (slopes, cubes, lengths))
    with np.errstate(divide="ignore", invalid="ignore"):
        poisson = np.where(lengths > 0, rate / (time * gain * lengths), np.nan)
        return slopes / cubes / time, poisson, np.where(lengths > 0, 12 * noise**2 / (time * gain) ** 2 / cubes, np.nan)


@pytest.mark.parametrize("groups", [2, 3, 6, 13])
@pytest.mark.parametrize("frames", [1, 5])
def test_equals_twin_on_random_flags(rng, groups, frames):
    shape = (2, groups, 2, 67)
    sci = rng.poisson(10 ** rng.uniform(-1, 4, shape[2:]), shape).cumsum(axis=1) + rng.normal(0, 8, shape)
    flags = rng.choice(
        [0, DNU, SAT, JUMP, PERSISTENCE, JUMP | DNU, 16], shape, p=[0.7, 0.04, 0.04, 0.1, 0.06, 0.03, 0.03]
    )
    flags[..., ::3] = 0
    sci, flags = sci.astype(np.float32), flags.astype(np.uint8)
    out = fit(sci, flags, gain=1.2, readnoise=9.0, dark=0.3, frames=frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for row, column in np.ndindex(shape[2:]):
            expected = twin(sci[..., row, column], flags[..., row, column], 1.2, 9.0, 0.3, 3.0, frames)
            sigma = np.sqrt(expected[1] + expected[2])
            for each, image, values in zip(out[:3], out[4:7], expected, strict=True):
                found = np.array([*each[:, row, column], image[row, column]])
                tolerance = 1e-5 * np.abs(values) + (1e-5 * sigma if values is expected[0] else 0)
                np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
                assert (np.isnan(values) | (np.abs(found - values) <= tolerance)).all()


def test_weights_do_not_depend_on_scale():
    """The pair form of the weighted slope is that of the defining sums, for every length and power."""
    coefficients, norms = weight_tables(40)
    for index, power in enumerate(POWERS):
        for length in (2, 3, 4, 11, 40):
            x = np.arange(length) - (length - 1) / 2
            weights = np.abs(x / x[-1]) ** power
            expected = weights * x / np.sum(weights * x * x)
            found = np.zeros(length)
            for early in range(length // 2):
                late = length - 1 - early
                found[late] = coefficients[index, late - early] / norms[index, length]
                found[early] = -found[late]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 130])
def test_tiles_do_not_show(rng, columns):
    sci = rng.normal(0, 10, (2, 5, 1, columns)).cumsum(axis=1)
    flags = np.where(rng.random(sci.shape) < 0.1, JUMP, 0)
    whole = fit(sci, flags)
    for column in {0, columns // 2, columns - 1}:
        alone = fit(sci[..., column : column + 1], flags[..., column : column + 1])
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(one[..., column], other[..., 0])


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="too slow without compiled loops")
@pytest.mark.parametrize("flux", [0.01, 0.1, 1.0, 5.0, 20.0])
def test_pulls_of_clean_ramps(rng, flux):
    """20 groups of 14.6 s: the mean and the width of the pulls are as known for this method."""
    readnoise, time = 14.0, 14.589
    shape = (1, 20, 40, 500)
    sci = rng.poisson(flux * time, shape).cumsum(axis=1) + rng.normal(0, readnoise / np.sqrt(2), shape)
    slope, poisson, read, dq = fit(sci, np.zeros(shape), gain=1.0, readnoise=readnoise, time=time)[4:]
    pull = (slope - flux) / np.sqrt(poisson + read)
    width = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    assert not dq.any()
    assert abs(pull.mean()) < 0.06
    assert 0.88 < width < 1.07
