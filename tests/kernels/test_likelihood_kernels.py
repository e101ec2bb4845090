"""The kernels of the likelihood against dense matrices."""

from itertools import chain

import numpy as np
import pytest

from nsxr.kernels.ramps.covariance import shared_part
from nsxr.kernels.ramps.jump import SPREAD, JumpSizes
from nsxr.kernels.ramps.likelihood import combine_weighted, finish_weighted, fit_by_likelihood
from nsxr.kernels.ramps.likelihood_search import StepSearch, find_steps
from nsxr.kernels.ramps.ramp_tile import PixelImages, SelectedGroups
from nsxr.model.dq import JUMP

NONE = np.empty((0, 0), np.float32)
TIME, FRAMES = 20.0, 5
SHARED = shared_part(FRAMES, 4.0, TIME)


def covariance(rate, noise, used):
    """Return the covariance of the used differences, from the covariance of the groups of each frame."""
    n = used.size
    matrix = np.diag(np.full(n, rate * (1 - 2 * SHARED) + 2 * noise))
    off = np.full(n - 1, rate * SHARED - noise)
    return (matrix + np.diag(off, 1) + np.diag(off, -1))[np.ix_(used, used)]


def fit_twin(differences, rate, noise, used):
    """Return slope, its variance by photons and by reads, and chi square."""
    inverse = np.linalg.inv(covariance(rate, noise, used))
    d = differences[used]
    weights = inverse.sum(0) / inverse.sum()
    slope = weights @ d
    photons = weights @ covariance(rate, 0.0, used) @ weights
    return slope, photons, 1 / inverse.sum() - photons, (d - slope) @ inverse @ (d - slope)


def search_twin(differences, rate, noise, used, single, double):
    """Return which differences go, by fits with free steps, and the rates that led there."""
    used = used.copy()
    while used.sum() > 3:
        best = (0.0, ())
        inverse = np.linalg.inv(covariance(rate, noise, used))
        places = np.flatnonzero(used)

        def fit(free, places=places, inverse=inverse):
            design = np.stack([np.ones(places.size), *((places == k).astype(float) for k in free)], axis=1)
            solution = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ differences[places])
            rest = differences[places] - design @ solution
            return solution[0], rest @ inverse @ rest

        _, whole = fit(())
        pairs = ((k, k + 1) for k in places if k + 1 in places)
        for free in chain(((k,) for k in places), pairs):
            excess = whole - fit(free)[1] - (single if len(free) == 1 else double)
            if excess > best[0]:
                best = (excess, free)
        if not best[1]:
            break
        rate = max(fit(best[1])[0], 0.0)
        used[list(best[1])] = False
    return used


def test_shared_part_is_that_of_means_over_frames():
    """From the covariance of the frames themselves, each the sum of all charge until then."""
    for frames in (1, 2, 4, 5, 8):
        times = np.arange(1, 3 * frames + 1) / frames
        means = np.kron(np.eye(3), np.full(frames, 1 / frames))
        groups = means @ np.minimum.outer(times, times) @ means.T
        differences = np.diff(np.eye(3), axis=0)
        of_differences = differences @ groups @ differences.T
        np.testing.assert_allclose(of_differences[0, 1], shared_part(frames, 1.0, frames), atol=1e-12)
        np.testing.assert_allclose(np.diag(of_differences), 1 - 2 * shared_part(frames, 1.0, frames))


def ramps(seed, groups=12, columns=300, hits=0.0):
    rng = np.random.default_rng(seed)
    rate = rng.choice([0.0, 3.0, 30.0, 3000.0], columns)
    arrived = rng.poisson(rate / FRAMES, (groups * FRAMES, columns)).cumsum(axis=0)
    sci = arrived.reshape(groups, FRAMES, columns).mean(axis=1) + rng.normal(0, 4, (groups, columns))
    sci = sci + ((rng.random(sci.shape) < hits) * rng.normal(100, 200, sci.shape)).cumsum(axis=0)
    return sci.astype(np.float32)[np.newaxis, :, np.newaxis], np.full((1, columns), 12.0, np.float32)


def images(columns, gain=1.0):
    return np.full((1, columns), gain, np.float32)


@pytest.mark.parametrize("gain", [1.0, 1.4])
@pytest.mark.parametrize("which", ["no rate is given", "all rates are given", "some rates are given"])
def test_fit_is_that_of_dense_matrices(gain, which):
    sci, readnoise = ramps(1)
    groups, columns = sci.shape[1], sci.shape[3]
    groupdq = np.random.default_rng(2).choice([0, 1, 4, 32], sci.shape, p=[0.75, 0.13, 0.1, 0.02]).astype(np.uint8)
    groupdq[..., 0], groupdq[..., 1] = 0, 1
    given = NONE if which == "no rate is given" else images(columns, 1.5)
    if which == "some rates are given":
        given[:, ::3] = np.nan
    pixeldq, dark = np.zeros((1, columns), np.uint32), images(columns, 0.01)
    of_pixels = PixelImages(pixeldq, images(columns, gain), readnoise, dark, given)
    selected = SelectedGroups(TIME, 12.0, FRAMES, 0, groups - 1, True)
    slopes, poisson, reads, dq, chi_square, _ = fit_by_likelihood(sci, groupdq, of_pixels, selected, SHARED, -1.0)
    lost = 0
    for c in range(columns):
        flags = groupdq[0, :, 0, c] & ~np.uint8(32)
        stop = flags & 1 != 0
        used = ~(stop[1:] | stop[:-1] | (flags[1:] & 4 != 0))
        if not used.any():
            lost += 1
            assert np.isnan(slopes[0, 0, c]) & (dq[0, 0, c] & 1 == 1)
            continue
        d = np.diff(sci[0, :, 0, c]).astype(float) * np.float32(gain)
        noise = (12 * np.float32(gain)) ** 2 / (2 * FRAMES)
        is_given = given.size > 0 and np.isfinite(given[0, c])
        rate = 1.5 * TIME * np.float32(gain) if is_given else np.median(d[used])
        for _ in range(1 if is_given else 3):
            slope, by_photons, by_reads, square = fit_twin(d, max(rate, 0) + 0.01 * TIME, noise, used)
            rate = slope
        scale = TIME * gain
        np.testing.assert_allclose(slopes[0, 0, c], slope / scale, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(poisson[0, 0, c], by_photons / scale**2, rtol=1e-4)
        np.testing.assert_allclose(reads[0, 0, c], by_reads / scale**2, rtol=1e-4)
        np.testing.assert_allclose(chi_square[0, 0, c], square, rtol=1e-3, atol=1e-4)
    assert 0 < lost < columns / 10


@pytest.mark.parametrize("reset_noise", [0.0, 25.0])
@pytest.mark.parametrize("is_given", [False, True])
def test_fit_with_the_reset_level_is_that_of_dense_matrices(reset_noise, is_given):
    """From the covariance of the groups themselves, which all share the level after the reset."""
    sci, readnoise = ramps(11, groups=5, columns=400)
    groups, columns = sci.shape[1], sci.shape[3]
    sci += np.random.default_rng(12).normal(0, reset_noise, columns).astype(np.float32)
    groupdq = np.random.default_rng(13).choice([0, 1, 4, 2], sci.shape, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    groupdq[:, 0] &= 1
    groupdq[:, 2:, 0, :20] = 2
    groupdq[:, 1:, 0, 20:40] = 2
    given = images(columns, 1.5) if is_given else NONE
    pixeldq, dark, exposed = np.zeros((1, columns), np.uint32), images(columns, 0.01), (FRAMES + 1) / (2 * FRAMES)
    of_pixels = PixelImages(pixeldq, images(columns), readnoise, dark, given)
    selected = SelectedGroups(TIME, exposed * TIME, FRAMES, 0, groups - 1, False)
    slopes, poisson, reads, dq, chi_square, _ = fit_by_likelihood(
        sci, groupdq, of_pixels, selected, SHARED, reset_noise
    )
    times = np.arange(1, groups * FRAMES + 1) / FRAMES
    means = np.kron(np.eye(groups), np.full(FRAMES, 1 / FRAMES))
    photons = means @ np.minimum.outer(times, times) @ means.T
    steps = np.eye(groups) - np.eye(groups, k=-1)  # the first group, and the differences
    noise = 144 / (2 * FRAMES)
    alone = lost = 0
    for c in range(columns):
        flags = groupdq[0, :, 0, c]
        stop = flags & 3 != 0
        used = np.append(flags[0] == 0, ~(stop[1:] | stop[:-1] | (flags[1:] & 4 != 0)))
        if not used.any():
            lost += 1
            assert np.isnan(slopes[0, 0, c]) & (dq[0, 0, c] & 1 == 1)
            continue
        alone += used.sum() == 1 and used[0]
        d = (steps @ sci[0, :, 0, c].astype(float))[used]
        expected = (steps @ means @ times)[used]
        rate = np.median(d[1:] if used[0] else d) if used[1:].any() else d[0] / expected[0]
        rate = 1.5 * TIME if is_given else rate
        for _ in range(1 if is_given else 3):
            rate = max(rate, 0.0) + 0.01 * TIME
            by_reads = steps @ (noise * np.eye(groups) + reset_noise**2) @ steps.T
            matrix = (rate * steps @ photons @ steps.T + by_reads)[np.ix_(used, used)]
            weights = np.linalg.solve(matrix, expected)
            weights /= weights @ expected
            rate = weights @ d
        rest = d - rate * expected
        variance = weights @ by_reads[np.ix_(used, used)] @ weights
        np.testing.assert_allclose(slopes[0, 0, c], rate / TIME, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(reads[0, 0, c], variance / TIME**2, rtol=1e-4)
        total = weights @ matrix @ weights
        np.testing.assert_allclose(poisson[0, 0, c] + reads[0, 0, c], total / TIME**2, rtol=1e-4)
        np.testing.assert_allclose(chi_square[0, 0, c], rest @ np.linalg.solve(matrix, rest), rtol=1e-3, atol=1e-4)
    assert alone > 20
    assert 0 < lost < columns / 5


def test_search_is_that_of_fits_with_free_steps():
    sci, readnoise = ramps(3, groups=9, columns=200, hits=0.08)
    groupdq = (np.random.default_rng(4).random(sci.shape) < 0.05).astype(np.uint8)
    one = images(sci.shape[3])
    limits = (20.25, 23.8)
    search = StepSearch(FRAMES, SHARED, *limits, np.inf, np.inf)  # ramps of three differences are not compared
    code = find_steps(sci, groupdq, one, readnoise, NONE, search, JumpSizes(np.inf, np.inf, 10.0, 1e9))
    found = 0
    for c in range(sci.shape[3]):
        bad = groupdq[0, :, 0, c] != 0
        used = ~(bad[1:] | bad[:-1])
        d = np.diff(sci[0, :, 0, c]).astype(float)
        expected = search_twin(d, max(d[used].mean(), 0.0) if used.any() else 0.0, 14.4, used, *limits)
        np.testing.assert_array_equal(code[0, 1:, 0, c] & JUMP != 0, used & ~expected)
        found += (used & ~expected).sum()
        spread = code[0, 1:, 0, c] & SPREAD != 0
        assert not (spread & ~(used & ~expected)).any()
    assert 50 < found < 400


def test_flags_of_unusable_groups_stay_and_nothing_else_is_flagged_in_short_ramps():
    sci, readnoise = ramps(5, groups=4, columns=50, hits=0.3)
    groupdq = np.random.default_rng(6).choice([0, 1, 2, 64], sci.shape).astype(np.uint8)
    search, sizes = StepSearch(FRAMES, SHARED, 16.0, 20.0, np.inf, np.inf), JumpSizes(np.inf, np.inf, 0.0, 1e9)
    code = find_steps(sci, groupdq, images(50), readnoise, NONE, search, sizes)
    np.testing.assert_array_equal(code, groupdq & 3)


def test_blocks_of_integrations_combine_to_the_weighted_mean():
    sci, readnoise = ramps(7, columns=40)
    sci = np.concatenate([sci, ramps(8, columns=40)[0], ramps(9, columns=40)[0]])
    groupdq = (np.random.default_rng(10).random(sci.shape) < 0.1).astype(np.uint8)
    groupdq[1, :, 0, 3] = 1
    groupdq[:, :, 0, 4] = 1
    pixeldq, one = np.zeros((1, 40), np.uint32), images(40)
    of_pixels = PixelImages(pixeldq, one, readnoise, 0 * one, 2 * one)
    tail = (of_pixels, SelectedGroups(TIME, 12.0, FRAMES, 0, sci.shape[1] - 1, True), SHARED, -1.0)
    slopes, poisson, reads, _, chi_square, sums = fit_by_likelihood(sci, groupdq, *tail)
    parts = [fit_by_likelihood(sci[i : i + 1], groupdq[i : i + 1], *tail)[-1] for i in range(3)]
    together = combine_weighted(np.concatenate(parts))
    np.testing.assert_allclose(together, sums, rtol=1e-12)
    rate, var_poisson, var_rnoise, dq, square = finish_weighted(together, pixeldq, one, TIME)
    good = np.delete(np.arange(40), 4)
    weight, slopes, poisson = (array[:, 0, good] for array in (1 / (poisson + reads), slopes, poisson))
    total = np.nansum(weight, 0)
    mean = np.nansum(weight * slopes, 0) / total
    np.testing.assert_allclose(rate[0, good], mean, rtol=1e-5)
    np.testing.assert_allclose((var_poisson + var_rnoise)[0, good], 1 / total, rtol=1e-5)
    np.testing.assert_allclose(var_poisson[0, good], np.nansum(weight**2 * poisson, 0) / total**2, rtol=1e-5)
    expected = np.nansum(chi_square[:, 0, good] + weight * (slopes - mean) ** 2, 0)
    np.testing.assert_allclose(square[0, good], expected, rtol=1e-3, atol=1e-3)
    assert np.flatnonzero(dq[0]).tolist() == [4]
    assert np.isnan(rate[0, 4])
