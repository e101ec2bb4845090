"""The mean of a few images, of which one may be bad."""

import numpy as np
import pytest

from nsxr.kernels.ramps.robust_mean import robust_mean


def images_of(number, seed=1, shape=(64, 128)):
    random = np.random.default_rng(seed)
    light = np.where(np.arange(shape[0]) % 16 < 3, 30, 0)[:, None]
    return (10 + light + random.normal(0, 1, (number, *shape))).astype(np.float32)


@pytest.mark.parametrize("number", [2, 3, 6])
def test_mean_of_good_images_is_the_mean(number):
    images = images_of(number)
    rest = robust_mean(images) - images.mean(0)
    rest -= np.median(rest)  # levels and weights are measured
    assert np.abs(rest).mean() < 0.02
    np.testing.assert_array_equal(robust_mean(images[:1]), images[0])


@pytest.mark.parametrize("number", [2, 3, 6])
@pytest.mark.parametrize("kind", ["bright", "dark", "noisy", "part", "NaN", "same"])
def test_a_bad_image_does_not_change_the_mean(number, kind):
    """What is left of it is less than the noise of a good image."""
    images = images_of(number)
    bad = images[-1]
    bad[:] = {
        "bright": 1000 * bad,
        "dark": bad - 1e5,
        "noisy": bad + np.random.default_rng(2).normal(0, 100, bad.shape),
        "part": np.where(np.arange(bad.shape[1]) > 30, bad + 500, bad),
        "NaN": np.nan,
        "same": 65000,
    }[kind]
    rest = robust_mean(images) - images[:-1].mean(0)
    assert np.isfinite(rest).all()
    rest -= np.median(rest)
    assert np.sqrt((rest**2).mean()) < 0.75 / np.sqrt(number - 1)


@pytest.mark.parametrize("number", [3, 6])
def test_faint_light_of_one_image_is_left_out(number):
    images = images_of(number)
    images[-1, :, 40:100] += 2
    rest = robust_mean(images) - images[:-1].mean(0)
    assert abs(rest[:, 45:95].mean() - rest[:, :35].mean()) < 0.2  # 0.33 to 0.67 otherwise


def test_pixels_without_values():
    images = images_of(3)
    images[:, 5, 5] = np.nan
    images[1:, 7, 7] = np.nan
    mean = robust_mean(images)
    assert np.isnan(mean[5, 5])
    assert np.isfinite(mean).sum() == mean.size - 1
    assert np.isnan(robust_mean(np.full((3, 8, 8), np.nan, np.float32))).all()
