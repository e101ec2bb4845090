from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.fft

from nsxr.model.readout import irs2_layout
from nsxr.simulate import QUIET, Artifacts
from nsxr.simulate.configuration import configure
from nsxr.simulate.detectors import detector_pixels
from nsxr.simulate.irs2_weights import irs2_weights
from nsxr.simulate.noise import FrameNoise, picture_frame

SILENT = replace(QUIET, white_noise=0.0)


def setup(readout="NRSRAPID", subarray="SUB2048", detector="NRS1", **changes):
    values = {"groups": 2, "integrations": 1, "scene": "dark"} | changes
    return configure(readout=readout, subarray=subarray, detector=detector, **values)


def frames(configuration, artifacts, n, seed=1, n_frames=1):
    pixels = detector_pixels(configuration, artifacts)
    noise = FrameNoise(configuration, artifacts, pixels.white_noise, np.random.SeedSequence(seed))
    return np.stack([noise.draw(n_frames) for _ in range(n)])


@pytest.mark.parametrize("name", ["common_pink", "output_pink", "alternating_columns"])
def test_pink_noise_has_its_rms(name):
    drawn = frames(setup(), replace(SILENT, **{name: 2.0}), 60)
    assert np.sqrt((drawn.astype(float) ** 2).mean()) == pytest.approx(2.0, rel=0.05)


def test_white_noise_has_its_rms_and_reference_pixels_less():
    configuration = setup(subarray="SUBS200A1")
    drawn = frames(configuration, replace(SILENT, white_noise=5.2, pixel_scatter=0), 12)
    assert drawn[..., ~configuration.is_border].std() == pytest.approx(5.2, rel=0.005)
    assert drawn[..., configuration.is_border].std() == pytest.approx(0.8 * 5.2, rel=0.03)


def test_averaging_frames_lowers_the_noise():
    artifacts = replace(SILENT, white_noise=5.0, common_pink=3.0, pixel_scatter=0)
    one, four = (frames(setup(), artifacts, 60, n_frames=n).astype(float).std() for n in (1, 4))
    assert one / four == pytest.approx(2.0, rel=0.05)


def test_pedestals_belong_to_outputs_and_frames():
    drawn = frames(setup(subarray="FULL", columns=4), replace(SILENT, pedestal=4.0), 300)
    by_output = drawn.reshape(300, 4, -1)
    assert np.ptp(by_output, axis=2).max() < 1e-4
    levels = by_output[:, :, 0]
    np.testing.assert_allclose(levels.std(0), 4.0, rtol=0.15)
    assert np.abs(np.corrcoef(levels.T) - np.eye(4)).max() < 0.2


def test_correlated_scale_scales_the_correlated_parts_alone():
    artifacts = Artifacts(bad_reference_pixels=0)
    configuration = setup()
    white = frames(configuration, replace(artifacts, correlated_scale=0), 1)
    once, thrice = (frames(configuration, replace(artifacts, correlated_scale=s), 1) - white for s in (1, 3))
    np.testing.assert_allclose(thrice, 3 * once, atol=2e-4)
    assert once.std() > 2


def spectrum(series):
    """Power spectrum averaged over series, without the mean."""
    return (np.abs(scipy.fft.rfft(series, axis=-1)) ** 2).mean(0)[1:]


def slope(power, first, last):
    k = np.arange(1, power.size + 1)
    edges = np.unique(np.geomspace(first, last, 20).astype(int))
    x = [np.log(k[a:b].mean()) for a, b in pairwise(edges)]
    y = [np.log(power[a:b].mean()) for a, b in pairwise(edges)]
    return np.polyfit(x, y, 1)[0]


def series_of(configuration, drawn):
    """Values in the order of time, gaps left out, of the only output."""
    order = configuration.time_order
    lines = drawn[:, np.argsort(order.slot[0]), :]
    return (lines[..., ::-1] if order.is_reversed else lines).swapaxes(1, 2).reshape(len(drawn), -1)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_pink_noise_falls_as_one_over_frequency_in_time_order(detector):
    configuration = setup(detector=detector)
    drawn = frames(configuration, replace(SILENT, output_pink=1.0), 100)
    power = spectrum(series_of(configuration, drawn))
    assert slope(power, 30, 5000) == pytest.approx(-1.0, abs=0.08)


def test_alternating_noise_is_pink_noise_of_alternating_sign():
    configuration = setup()
    drawn = frames(configuration, replace(SILENT, alternating_columns=1.0), 100)
    sign = np.where(configuration.time_order.slot[0] % 2, -1, 1)[:, None]
    power = spectrum(series_of(configuration, drawn * sign))
    assert slope(power, 30, 5000) == pytest.approx(-1.0, abs=0.08)
    assert np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1] < -0.5


def test_common_noise_is_the_same_in_all_outputs_at_a_time():
    configuration = setup("NRSIRS2RAPID", "FULL", columns=8)
    (drawn,) = frames(configuration, replace(SILENT, common_pink=3.0), 1)
    order = configuration.time_order
    in_time = np.stack([drawn[rows][np.argsort(slot)] for rows, slot in zip(order.rows, order.slot, strict=True)])
    np.testing.assert_array_equal(in_time, np.broadcast_to(in_time[:1], in_time.shape))
    (own,) = frames(configuration, replace(SILENT, output_pink=3.0), 1)
    in_time = np.stack([own[rows][np.argsort(slot)].ravel() for rows, slot in zip(order.rows, order.slot, strict=True)])
    assert np.abs(np.corrcoef(in_time) - np.eye(5)).max() < 0.8


def test_picture_frame_has_unit_rms_over_the_detector():
    image = picture_frame(setup(subarray="FULL"))
    assert image.mean(dtype=float) == pytest.approx(0, abs=1e-5)
    assert image.std(dtype=float) == pytest.approx(1, rel=1e-5)
    assert image[2, 1000] > 1 > image[1000, 1000]


def test_bad_interleaved_pairs_misbehave():
    configuration = setup("NRSIRS2RAPID", "FULL", columns=512)
    (drawn,) = frames(configuration, replace(SILENT, white_noise=5.2, bad_reference_pixels=1.0), 1)
    layout = irs2_layout("NRS1")
    deviating = np.flatnonzero((drawn.std(1) > 20) | (drawn.mean(1) < -500))
    assert layout.is_interleaved[deviating].all()
    np.testing.assert_array_equal(deviating.reshape(-1, 2) @ [-1, 1], 1)
    assert deviating.size == 16
    assert np.delete(drawn, deviating, axis=0).std() < 6


def correct(cube, alpha, beta, order):
    """Correct science pixels by interleaved pixels and reference output, written straight from its definition."""
    lines, slots = order.lines, order.slots
    cube = cube - cube.mean(0)
    time = np.arange(lines * slots)
    normal = np.arange(512)
    normal = normal + 6 * ((normal + 8) // 16)
    reference = (22 * np.arange(32)[:, None] + [9, 11, 10, 12]).ravel()
    window = np.sin(np.pi * np.arange(1, 32) / 32)
    out = []
    for frame in cube:
        series, known = np.zeros((5, lines, slots)), np.zeros(slots, dtype=bool)
        for output in range(5):
            series[output][:, order.slot[output]] = frame[order.rows[output]].T
            known[order.slot[output]] = True
            ends = np.zeros((lines, slots), dtype=bool)
            ends[:4, known] = ends[-4:, known] = True
            line = np.polyval(np.polyfit(time[ends.ravel()], series[output][ends], 1), time).reshape(lines, slots)
            series[output] -= np.where(known, line, 0)
        refout, mask = series[0].ravel(), np.tile(known, lines).astype(float)
        kernel = np.zeros(refout.size)
        kernel[np.arange(-15, 16)] = window
        smooth = [np.fft.irfft(np.fft.rfft(x) * np.fft.rfft(kernel), refout.size) for x in (refout, mask)]
        refout = np.where(mask > 0, refout, smooth[0] / np.maximum(smooth[1], 1e-6))
        cleaned = []
        for output in range(1, 5):
            sparse = np.zeros((lines, slots))
            for block in range(32):
                at = 22 * block
                sparse[:, at + 7 : at + 15] = series[output][:, at + np.array([9, 11, 9, 11, 10, 12, 10, 12])]
            model = np.fft.ifft(beta * np.fft.fft(sparse.ravel()) + alpha * np.fft.fft(refout)).real
            cleaned.append((series[output] - model.reshape(lines, slots))[:, normal])
        out.append(cleaned)
    assert reference.size == 128
    return np.array(out)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_weights_remove_correlated_noise(detector):
    """Variance in excess of the white noise falls more than six-fold, to what the weights promise."""
    artifacts = replace(Artifacts(bad_reference_pixels=0), pixel_scatter=0, bad_pixels=0)
    configuration = setup("NRSIRS2RAPID", "FULL", detector, columns=256)
    order = configuration.time_order
    drawn = frames(configuration, artifacts, 4).astype(float)
    if order.is_reversed:
        drawn = drawn[:, :, ::-1]
    alpha, beta, promised = irs2_weights(configuration, artifacts)
    science = irs2_layout(detector).is_science
    before = drawn[:, science][:, :, 8:-8].var(0, ddof=1).mean() - 5.2**2
    after = correct(drawn, alpha, beta, order)[:, :, 8:-8].var(0, ddof=1).mean() - 5.2**2
    assert before > 6 * after
    assert after == pytest.approx(promised, abs=0.8)


def test_weights_at_low_frequency_share_the_common_noise():
    configuration = setup("NRSIRS2RAPID", "FULL", columns=256)
    alpha, beta, left = irs2_weights(configuration, Artifacts())
    assert alpha.size == 712 * 256
    np.testing.assert_allclose(alpha[1:4].real + beta[1:4].real * 256 / 712, 1, atol=0.02)
    np.testing.assert_allclose(beta[0].real, 712 / 256, rtol=1e-3)
    np.testing.assert_array_equal(alpha[1:], alpha[:0:-1])
    assert 1 < left < 4
    none = irs2_weights(configuration, replace(Artifacts(), correlated_scale=0))
    assert np.abs(none[0]).max() == 0
    assert none[2] == 0
