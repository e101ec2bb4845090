import numpy as np
import pytest

from nsxr.kernels.ramps.slope_weights import left_about_mean, slope_weights, variance_of_mean

USABLE = {
    "all": [[1, 1, 1, 1, 1]],
    "saturated late": [[1, 1, 1, 0, 0]],
    "a group lost": [[1, 0, 0, 1, 1]],
    "apart": [[1, 0, 1, 0, 1]],
    "integrations": [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 1, 1, 1, 0]],
}


def frames_of(usable, rng, draws=20_000):
    """Return differences of groups of white noise, (draw, integration, frame), with variance 1."""
    return np.diff(rng.normal(0, 0.5**0.5, (draws, len(usable), len(usable[0]) + 1)))


def test_weights_are_those_of_a_fitted_line(rng):
    values = rng.normal(0, 1, 7)
    slope = np.polynomial.polynomial.polyfit(np.arange(7), values, 1)[1]
    assert (slope_weights(6) * np.diff(values)).sum() == pytest.approx(slope)


@pytest.mark.parametrize("over_integrations", [False, True])
@pytest.mark.parametrize("kind", USABLE)
def test_variance_of_mean_is_that_of_drawn_frames(rng, kind, over_integrations):
    usable = np.array(USABLE[kind], bool)
    weights, dims = slope_weights(5) * usable, (1, 2) if over_integrations else 2
    mean = (weights * frames_of(usable, rng)).sum(dims) / weights.sum((0, 1) if over_integrations else 1)
    np.testing.assert_allclose(variance_of_mean(usable, over_integrations), mean.var(0), rtol=0.05)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", USABLE)
def test_what_is_left_about_the_mean_is_that_of_drawn_frames(rng, kind, axis):
    usable = np.array(USABLE[kind], bool)
    frames = frames_of(usable, rng)
    weights = (slope_weights(5) if axis else np.ones(5)) * usable
    total = np.maximum(weights.sum(axis, keepdims=True), 1e-9)
    variance = (frames - (weights * frames).sum(axis + 1, keepdims=True) / total).var(0)
    expected = np.nanmean(np.where(usable, variance, np.nan), axis=1, keepdims=True) if axis else variance
    found = left_about_mean(usable, axis)
    np.testing.assert_allclose(found[usable], np.broadcast_to(expected, found.shape)[usable], rtol=0.05, atol=1e-9)


def test_frames_without_others():
    assert left_about_mean(np.array([[True]]), 1) == 1
    np.testing.assert_array_equal(left_about_mean(np.array([[True, False]]), 1), 0)
    np.testing.assert_array_equal(variance_of_mean(np.zeros((2, 3), bool), False), 1)
