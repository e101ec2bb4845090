import numpy as np
import pytest
import scipy.fft

from nsxr.kernels.ramps.dark_pixels import dark_level, find_dark
from nsxr.kernels.ramps.flicker import Densities, Solver, draw_noise, series_length, to_image, to_series
from nsxr.kernels.ramps.noise_bands import band_count, binned_power, folded_bands, power_bins
from nsxr.kernels.ramps.noise_spectrum import alike_frames, fit_densities
from nsxr.model.readout import IRS2_ROWS, Readout, irs2_layout
from nsxr.model.time_order import science_time_order
from nsxr.simulate import Artifacts, small_exposure
from nsxr.simulate.configuration import configure
from nsxr.simulate.noise import FrameNoise


def densities(length, common=0.3, own=0.05, alternating=0.02, white=4.0, level=10.0):
    frequency = np.arange(length // 2 + 1) / length
    inverse = 1 / np.maximum(frequency, 0.5 / length)
    of_outputs = own * inverse + alternating / np.maximum(0.5 - frequency, 0.5 / length)
    of_outputs[0] = level * length
    shared = common * inverse
    shared[0] = 0
    return Densities(white, of_outputs, shared)


def covariance(density, n_outputs):
    """Return the covariance matrix of (output, time)."""
    length = 2 * (density.own.size - 1)
    lag = (np.arange(length)[:, None] - np.arange(length)) % length
    own, common = (scipy.fft.irfft(part, length)[lag] for part in (density.own, density.common))
    return np.kron(np.eye(n_outputs), own) + np.kron(np.ones((n_outputs, n_outputs)), common)


def conditional_mean(values, weight, density):
    """The ten-line twin: dense algebra."""
    n_outputs = values.shape[0]
    of_noise = covariance(density, n_outputs)
    known = np.flatnonzero(weight.ravel() > 0)
    seen = of_noise[np.ix_(known, known)] + np.diag(density.white / weight.ravel()[known])
    return (of_noise[:, known] @ np.linalg.solve(seen, values.ravel()[known])).reshape(values.shape)


def gaps(random, n_outputs, length):
    weight = (random.random((n_outputs, length)) > 0.2).astype(np.float32)
    weight[0, 40:90] = 0
    weight[-1, 100:130] = 0.3
    return weight


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_solver_finds_the_conditional_mean(n_outputs):
    random = np.random.default_rng(1)
    density = densities(256)
    weight = gaps(random, n_outputs, 256)
    noise = draw_noise(density, n_outputs, 256, random)
    values = (noise + 2 * random.standard_normal(noise.shape)).astype(np.float32)
    expected = conditional_mean(values, weight, density)
    found = Solver(density, n_outputs, (30, 30, 60), 0).noise(values, weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.std())
    quick = Solver(density, n_outputs).noise(values, weight)
    error = np.std(noise - expected)
    assert np.std(quick - expected) < 0.1 * error
    assert np.std(noise - quick) < 1.01 * error


def test_solver_leaves_out_what_deviates_and_does_nothing_without_data():
    random = np.random.default_rng(2)
    density = densities(4096)
    weight = gaps(random, 4, 4096)
    noise = draw_noise(density, 4, 4096, random)
    values = (noise + 2 * random.standard_normal(noise.shape)).astype(np.float32)
    solver = Solver(density, 4)
    clean = solver.noise(values, weight).copy()
    hit = random.random(values.shape) < 0.01
    values[hit] += 200
    robust = solver.noise(values, weight, 4.0).copy()
    assert np.std(robust - noise) < 1.03 * np.std(clean - noise)
    assert np.std(solver.noise(values, weight) - noise) > 2 * np.std(clean - noise)
    np.testing.assert_array_equal(solver.noise(values, np.zeros_like(weight), 4.0), 0)


def test_drawn_noise_has_the_given_covariance():
    density = densities(128)
    random = np.random.default_rng(3)
    drawn = np.array([draw_noise(density, 2, 128, random).ravel() for _ in range(8000)])
    expected = covariance(density, 2)
    found = drawn.T @ drawn / len(drawn)
    assert np.abs(found - expected).max() < 0.06 * expected.max()


@pytest.mark.parametrize(
    ("readout", "subarray", "detector"),
    [
        ("NRSRAPID", "FULL", "NRS1"),
        ("NRSRAPID", "FULL", "NRS2"),
        ("NRSIRS2RAPID", "FULL", "NRS1"),
        ("NRSIRS2RAPID", "FULL", "NRS2"),
        ("NRSRAPID", "SUB2048", "NRS2"),
        ("NRSRAPID", "ALLSLITS", "NRS1"),
    ],
)
def test_series_are_in_the_order_in_which_simulated_noise_is_read(readout, subarray, detector):
    configuration = configure(
        readout=readout, subarray=subarray, groups=1, integrations=1, detector=detector, scene="dark", columns=8
    )
    quiet = Artifacts(white_noise=0, output_pink=0, pedestal=0, alternating_columns=0, picture_frame=0)
    shape = (configuration.raw_rows, 8)
    seed = np.random.SeedSequence(4)
    raw = FrameNoise(configuration, quiet, np.zeros(shape, np.float32), seed).draw()
    if configuration.raw_rows == IRS2_ROWS:
        raw = raw[irs2_layout(detector).science_rows_raw]
    header = small_exposure(readout=readout, subarray=subarray, detector=detector, groups=1, columns=8).exposure.attrs
    order = science_time_order(Readout.from_header(header), *raw.shape)
    length = series_length(order)
    series = to_series(raw, order, length)
    np.testing.assert_array_equal(to_image(series, order), raw)
    read = (series != 0).all(0)
    np.testing.assert_allclose(series[:, read] - series[:1, read], 0, atol=1e-6)  # the same noise at the same time
    steps = np.diff(series[0])[read[1:] & read[:-1]]
    assert steps.std() < 0.9 * series[0, read].std()


@pytest.mark.parametrize("n_frames", [1, 12])
def test_spectrum_is_found_through_gaps(n_frames):
    random = np.random.default_rng(5)
    length = 2**16
    density = densities(length, level=0.1)
    weight = (random.random((4, length)) > 0.1).astype(np.float32)
    weight[:, (np.arange(length) // 300) % 3 == 0] = 0
    power = np.zeros((2, power_bins(length).size))
    for _ in range(n_frames):
        values = draw_noise(density, 4, length, random)
        values += 2 * random.standard_normal(values.shape, dtype=np.float32)
        power += binned_power(values * weight) / n_frames
    found = fit_densities(power, n_frames, weight, folded_bands(weight, np.arange(band_count(length))))
    assert found.white == pytest.approx(density.white, rel=0.03)
    for k in (64, 512, 4096):
        near = slice(k // 2, 2 * k)
        assert found.common[near].mean() == pytest.approx(density.common[near].mean(), rel=0.3)
        assert found.own[near].mean() == pytest.approx(density.own[near].mean(), rel=0.4)
    last = slice(length // 2 - 16, length // 2 - 2)
    assert found.own[last].mean() == pytest.approx(density.own[last].mean(), rel=0.5)


def test_spectrum_of_white_noise_has_nothing_correlated():
    random = np.random.default_rng(6)
    weight = np.ones((1, 2**14), dtype=np.float32)
    power = binned_power(random.standard_normal(weight.shape, dtype=np.float32))
    folded = folded_bands(weight, np.arange(band_count(2**14)))
    found = fit_densities(power, 1, weight, folded)
    assert found.white == pytest.approx(1, rel=0.03)
    assert found.own[1:].mean() < 0.02
    silent = fit_densities(0 * power, 1, weight, folded)
    assert silent.white > 0
    assert not silent.own.any()


def test_dark_pixels_of_an_image_with_bright_and_faint_traces():
    random = np.random.default_rng(7)
    rows, columns = np.arange(512)[:, None], np.arange(600)
    light = np.zeros((512, 600), dtype=np.float32)
    for row, peak in ((60, 500), (150, 3.0), (250, 0.6)):
        light += peak * np.exp(-0.5 * ((rows - row - 1e-5 * (columns - 300) ** 2) / 1.5) ** 2)
    light[300:420, 100:500] += 50
    stripes = 0.8 * np.cumsum(random.standard_normal(600)) / 5
    image = (light + stripes + random.standard_normal(light.shape)).astype(np.float32)
    usable = random.random(image.shape) > 0.01
    image[~usable] = np.nan
    is_dark, level = find_dark(image, usable, np.zeros(512, dtype=np.int64))
    assert is_dark.dtype == bool
    assert not is_dark[~usable].any()
    assert is_dark[light < 0.01].mean() > 0.9
    assert is_dark[light > 3].mean() < 0.01
    assert is_dark[(light > 0.3) & (light < 3)].mean() < 0.15
    assert level == pytest.approx(np.median(stripes), abs=0.3)


def test_nothing_is_dark_where_nothing_is_known():
    image = np.full((8, 8), np.nan, dtype=np.float32)
    is_dark, level = find_dark(image, np.isfinite(image), np.zeros(8, dtype=np.int64))
    assert not is_dark.any()
    assert np.isnan(level)
    assert np.isnan(dark_level(np.array([1.0, 2.0]))[0])


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize("factor", [0.1, 30.0, np.nan])
def test_an_integration_of_other_noise_has_no_part_in_the_spectrum(rng, bad, factor):
    power = rng.chisquare(50, (4, 6, 2, 40))
    power[bad] *= factor
    count = np.ones((4, 6))
    count[1, 3] = 0
    seen = alike_frames(power, count)
    assert not seen[bad].any()
    assert not seen[1, 3]
    assert seen.sum() == 17
    assert alike_frames(power[bad : bad + 1], count[:1]).all() == np.isfinite(factor)
