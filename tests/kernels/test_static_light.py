"""Light that may hide in dark pixels: the estimate against dense algebra, and what counts as light."""

import numpy as np
import pytest
import scipy.fft

from nsxr.kernels.ramps.dark_pixels import find_dark
from nsxr.kernels.ramps.flicker import Densities, draw_noise, series_length, to_image, to_series
from nsxr.kernels.ramps.static_light import SolverBesideLight, light_density, without_smooth
from nsxr.model.time_order import time_order

ORDER = time_order("NRS1", 32, 128, 1)
LENGTH = series_length(ORDER)
EVERYWHERE = to_series(np.ones((32, 128), np.float32), ORDER, LENGTH)


def densities(length=LENGTH, common=0.0, own=0.012, white=1.0):
    inverse = 1 / np.maximum(np.arange(length // 2 + 1) / length, 0.5 / length)
    return Densities(white, own * inverse, common * inverse)


def covariance(own, common, n_outputs):
    """Return the covariance matrix of (output, time)."""
    length = 2 * (own.size - 1)
    lag = (np.arange(length)[:, None] - np.arange(length)) % length
    own, common = (scipy.fft.irfft(part, length)[lag] for part in (own, common))
    return np.kron(np.eye(n_outputs), own) + np.kron(np.ones((n_outputs, n_outputs)), common)


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_solver_finds_the_conditional_mean_beside_light(n_outputs):
    random = np.random.default_rng(1)
    noise = densities(256, common=0.1)
    light = 20 * np.exp(-0.5 * ((np.arange(129) - 60) / 5) ** 2)
    weight = (random.random((n_outputs, 256)) > 0.2).astype(np.float32)
    values = (draw_noise(noise, n_outputs, 256, random) + random.standard_normal((n_outputs, 256))).astype(np.float32)
    of_noise = covariance(noise.own, noise.common, n_outputs)
    known = np.flatnonzero(weight)
    seen = (of_noise + covariance(light, 0 * light, n_outputs))[np.ix_(known, known)] + noise.white * np.eye(known.size)
    expected = (of_noise[:, known] @ np.linalg.solve(seen, values.ravel()[known])).reshape(values.shape)
    found = SolverBesideLight(noise, light, n_outputs).noise(values, weight)
    assert found.dtype == np.float32
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * expected.std()


def scene(kind):
    rows, columns = np.ogrid[:32, :128]
    return {
        "nothing": np.zeros((32, 128)),
        "blob": 5 * np.exp(-0.5 * ((rows - 15) ** 2 + (columns - 60) ** 2) / 8.0**2),
        "slit": 1.0 * ((rows > 8) & (rows < 24)) * np.ones(128),
        "lines": 2.0 * (columns % 16 < 3) * np.ones((32, 1)),
        "lamp": 100 * np.random.default_rng(5).normal(1, 0.02, (32, 128)),
    }[kind].astype(np.float32)


def removed(image, strength=1.0):
    """Return the noise that is found in an image, with the light that its own power shows."""
    noise = densities()
    series = to_series(image - np.median(image), ORDER, LENGTH)
    light = light_density(series, EVERYWHERE, noise, ORDER, strength)
    return to_image(SolverBesideLight(noise, light, 1).noise(series, EVERYWHERE), ORDER)


@pytest.mark.parametrize("kind", ["blob", "slit", "lines", "lamp"])
def test_light_that_is_there_in_every_frame_stays(kind):
    light = scene(kind)
    random = np.random.default_rng(2)
    noise = to_image(draw_noise(densities(), 1, LENGTH, random), ORDER)
    noise += random.standard_normal(noise.shape, dtype=np.float32)
    change = removed(noise + light) - removed(noise)
    pattern = light - light.mean()
    taken = float((change * pattern).sum() / (pattern**2).sum())
    assert abs(taken) < 0.03
    assert removed(noise).std() > 0.1  # noise is still found where there is no light


def test_noise_is_no_light():
    random = np.random.default_rng(3)
    noise = densities()
    for _ in range(5):
        series = draw_noise(noise, 1, LENGTH, random) + random.standard_normal((1, LENGTH), dtype=np.float32)
        with_own, floor = (
            light_density(part * EVERYWHERE, EVERYWHERE, noise, ORDER, 1.0) for part in (series, 0 * series)
        )
        assert (with_own > floor).mean() < 0.05
    assert (np.diff(floor[: ORDER.lines // 2]) <= 0).all()
    nothing = light_density(series, 0 * EVERYWHERE, noise, ORDER, 1.0)
    np.testing.assert_allclose(nothing, floor)
    np.testing.assert_allclose(light_density(0 * series, EVERYWHERE, noise, ORDER, 0.0), 0)


def test_lines_that_fill_columns_of_an_amplifier_are_light():
    random = np.random.default_rng(6)
    image = random.standard_normal((128, 400), dtype=np.float32) + 0.1 * random.standard_normal(400, dtype=np.float32)
    image[:64, [50, 200]] += 1.5
    bands = np.arange(128) // 64
    is_dark, _ = find_dark(image, np.ones(image.shape, bool), bands)
    assert not is_dark[:64, [50, 200]].any()
    assert is_dark[64:, [50, 200]].mean() > 0.6
    assert is_dark.mean() > 0.85


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_dark_in_a_crowded_field(seed):
    random = np.random.default_rng(seed)
    distance = np.abs(np.arange(512) % 8 - 4)
    light = 14 * np.exp(-0.5 * (distance / 1.5) ** 2)[:, None] * (1 + 0.3 * np.sin(np.arange(64) / 50))
    image = (light + np.sqrt(1 + 0.15 * light) * random.standard_normal(light.shape)).astype(np.float32)
    is_dark, _ = find_dark(image, np.ones(image.shape, bool), np.arange(512) // 128)
    assert is_dark[light > 2].mean() < 0.01


def test_smooth_light_of_a_single_frame_is_left_out():
    random = np.random.default_rng(4)
    columns = np.arange(600)
    light = 3 + np.sin(columns / 40) + np.arange(40)[:, None] / 10
    white = random.standard_normal((40, 600))
    is_dark = random.random((40, 600)) > 0.3
    is_dark[7, 100:200] = False
    found = without_smooth((light + white).astype(np.float32), is_dark)
    assert np.isnan(found[7, 110:190]).all()
    inside = is_dark & np.isfinite(found)
    assert found[inside].std() == pytest.approx(1, abs=0.02)
    assert np.isfinite(found)[is_dark].mean() > 0.99
