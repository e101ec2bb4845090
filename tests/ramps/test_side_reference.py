"""Filters from the side reference pixels to each output of a full frame."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr.errors import ParameterError, ReferenceFileError
from nsxr.kernels.ramps.reference_pixels import running_median
from nsxr.kernels.ramps.side_filter import (
    estimate_kernels,
    filter_sides,
    kernels_from_reference,
    line_medians,
    side_lines,
)
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.simulate import Artifacts, small_exposure
from nsxr.testing import assert_lazy_and_chunk_invariant

SIRS = {"refpix_algorithm": "sirs", "halfwidth": 12}


def sirs_kernel(detector="NRS1", n=33):
    frequency = np.fft.rfftfreq(2 * (n - 1))
    response = 1 / (1 + (frequency / 0.05) ** 2)
    left = np.stack([weight * response * np.exp(4j * np.pi * frequency) for weight in (0.6, 0.5, 0.4, 0.3)])
    right = np.stack([weight * response for weight in (0.3, 0.4, 0.5, 0.6)])
    dims = ("output", "frequency")
    attributes = {"reference_type": "sirskernel", "detector": detector, "filename": "sirs.asdf"}
    return xr.Dataset({"gamma": (dims, left), "zeta": (dims, right)}, attrs=attributes)


def test_kernel_is_the_inverse_transform():
    reference = sirs_kernel()
    gamma, zeta = reference["gamma"].values, reference["zeta"].values
    sharp = kernels_from_reference(gamma, zeta, 1e-3, 12)
    expected = np.fft.fftshift(np.fft.irfft(gamma[1]))[32 - 12 : 32 + 13]
    np.testing.assert_allclose(sharp[1, 0], expected, atol=1e-12)
    window = np.exp(-(np.arange(-12, 13) ** 2) / 2)
    smooth = np.convolve(np.fft.fftshift(np.fft.irfft(zeta[3]))[20:45], window / window.sum(), mode="same")
    np.testing.assert_allclose(kernels_from_reference(gamma, zeta, 1.0, 12)[3, 1], smooth, atol=1e-12)


def test_filter_is_a_convolution(rng):
    sides, kernels = rng.normal(0, 1, (2, 1, 2, 60)).astype(np.float32), rng.normal(0, 1, (4, 2, 9))
    filtered = filter_sides(*sides, kernels)
    for group, output in np.ndindex(2, 4):
        padded = [np.pad(side[0, group], 4, mode="reflect") for side in sides]
        expected = sum(np.convolve(p, k, mode="valid") for p, k in zip(padded, kernels[output], strict=True))
        np.testing.assert_allclose(filtered[0, group, output], expected, atol=1e-5)


def test_side_lines_leave_out_outliers_and_bad_pixels(rng):
    sci = rng.normal(5, 1, (1, 2, 4, 50)).astype(np.float32)
    good = np.ones((4, 50), bool)
    good[:, 7] = good[2, 9] = False
    sci[0, 1, 3, 20] = 900
    sci[:, :, 2, 9] = np.nan
    lines = side_lines(sci, good, 4.0)
    np.testing.assert_allclose(lines[0, 1, 20], sci[0, 1, :3, 20].mean(), rtol=1e-6)
    np.testing.assert_allclose(lines[0, :, 9], sci[0, :, [0, 1, 3], 9].mean(0), rtol=1e-6)
    np.testing.assert_allclose(lines[0, 0, 7], np.delete(lines[0, 0], 7).mean(), atol=0.05)
    assert (side_lines(sci, np.zeros_like(good), 4.0) == 0).all()


def test_line_medians_do_not_see_light(rng):
    noise = rng.normal(0, 1, (2, 5, 1, 30))
    light = rng.uniform(0, 900, (40, 30)) * np.arange(5)[:, None, None] + rng.normal(0, 300, (40, 30))
    good = rng.random((40, 30)) > 0.2
    sci = (noise + light + np.where(good, 0, 1e5 * np.arange(5)[:, None, None] ** 2)).astype(np.float32)
    good[:, 3] = False
    medians = line_medians(sci, good)
    time = np.arange(5)
    for i, c in np.ndindex(2, 30):
        expected = noise[i, :, 0, c] - np.polyval(np.polyfit(time, noise[i, :, 0, c], 1), time)
        np.testing.assert_allclose(medians[i, :, c], 0 if c == 3 else expected, atol=2e-3)


def drifts(rng, shape, lines):
    """Draw noise that is smooth over some ten lines."""
    window = np.hanning(21)
    return np.apply_along_axis(np.convolve, -1, rng.normal(0, 1, (*shape, lines)), window / window.sum(), "same") * 8


def test_estimated_kernels_predict_what_is_common_and_nothing_else(rng):
    common = drifts(rng, (1, 6), 400)
    sides = [(common + rng.normal(0, 1, common.shape)).astype(np.float32) for _ in range(2)]
    other = drifts(rng, (1, 6), 400)
    outputs = np.stack([0.5 * common, other, common, 0 * common], 2) + rng.normal(0, 0.2, (1, 6, 4, 400))
    time = np.arange(6)[:, None, None]
    straight = outputs - outputs.mean(1, keepdims=True)
    straight = straight - (straight * (time - 2.5)).sum(1, keepdims=True) / 17.5 * (time - 2.5)
    kernels = estimate_kernels(*sides, straight.astype(np.float32), 12)
    gains = kernels.sum((1, 2))
    assert gains[0] == pytest.approx(0.5, abs=0.1)
    assert gains[2] == pytest.approx(1, abs=0.2)
    assert abs(gains[1]) < 0.1
    assert abs(gains[3]) < 0.05
    np.testing.assert_array_equal(kernels, kernels[..., ::-1])
    left = straight[:, :, 2] - estimate_left(sides, kernels[2:3])
    box = np.ones(11) / 11
    mean = np.apply_along_axis(np.convolve, -1, (sides[0] + sides[1]) / 2, box, "same")
    assert left.std() < 0.8 * (straight[:, :, 2] - mean + mean.mean(1, keepdims=True)).std()


def test_nothing_is_estimated_from_nothing(rng):
    used = []
    for _ in range(50):
        sides = rng.normal(0, 1, (2, 1, 5, 200)).astype(np.float32)
        lines = drifts(rng, (1, 5), 200)[:, :, None] + rng.normal(0, 0.2, (1, 5, 4, 200))
        used.append((estimate_kernels(*sides, lines.astype(np.float32), 12) != 0).any())
    assert np.mean(used) <= 0.04


def estimate_left(sides, kernels):
    predicted = filter_sides(*sides, kernels)[:, :, 0]
    predicted = predicted - predicted.mean(1, keepdims=True)
    time = np.arange(predicted.shape[1])[:, None] - (predicted.shape[1] - 1) / 2
    return predicted - (predicted * time).sum(1, keepdims=True) / (time**2).sum() * time


def line_noise(noise):
    """Rms of what lines of outputs deviate from their mean over groups."""
    lines = noise.reshape(*noise.shape[:2], 4, 512, -1)[..., 4:-4].mean(3)
    return np.sqrt(((lines - lines.mean(1, keepdims=True)) ** 2).mean())


@pytest.fixture(scope="module", params=["NRS1", "NRS2"])
def frames(request):
    """Full frames of 160 lines with a spectrum in most rows, superbias subtracted, and their correlated noise alone."""
    quiet = {"bad_pixels": 0, "cosmic_rays": 0, "snowballs": 0}
    made = [
        small_exposure(
            readout="NRSRAPID",
            groups=4,
            columns=160,
            detector=request.param,
            seed=5,
            rounded=False,
            artifacts=Artifacts(correlated_scale=scale, **quiet),
        )
        for scale in (1.0, 0.0)
    ]
    first = made[0]
    ramps = nsxr.initialize_dq(first.exposure, first.references["mask"])
    ramps = nsxr.subtract_superbias(ramps, first.references["superbias"])
    return ramps, first.exposure["sci"].values - made[1].exposure["sci"].values


def test_filters_of_the_data_leave_less_noise_than_the_median(frames):
    ramps, noise = frames
    left = {}
    for name, parameters in {"none": {"use_side_ref_pixels": False}, "median": {}, "sirs": SIRS}.items():
        removed = ramps["sci"] - subtract_reference_pixels(ramps, **parameters)["sci"]
        left[name] = line_noise(noise - removed.values)
    assert left["sirs"] < 0.85 * left["median"]
    assert left["sirs"] < 0.85 * left["none"]


def test_lazy_and_independent_of_chunks(frames):
    ramps = frames[0].isel(column=np.r_[:20, 140:160])
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels, ramps, chunkings=({"row": 512}, {"row": 700, "group": 1}), **SIRS
    )
    assert result["reference_side_gain_4"].attrs["keyword"] == "RPGAIN4"
    kernel = sirs_kernel(ramps.attrs["DETECTOR"])

    def with_reference(exposure):
        return subtract_reference_pixels(exposure, None, kernel, **SIRS)

    result = assert_lazy_and_chunk_invariant(with_reference, ramps, chunkings=({"row": 512, "group": 1},))
    assert nsxr.model.history.steps(result)[-1]["references"] == {"sirskernel": "sirs.asdf"}


def test_given_kernel_is_applied_in_the_order_of_reading(frames):
    ramps = frames[0]
    detector = ramps.attrs["DETECTOR"]
    kernel = sirs_kernel(detector)
    before = subtract_reference_pixels(ramps, use_side_ref_pixels=False)["sci"].values[0, 1]
    after = subtract_reference_pixels(ramps, None, kernel, **SIRS)["sci"].values[0, 1]
    turned, result = (x.T if detector == "NRS1" else x[::-1, ::-1].T for x in (before, after))  # (line, pixel in it)
    kernels = kernels_from_reference(kernel["gamma"].values, kernel["zeta"].values, 1.0, 12)
    sides = [
        side_lines(turned.T[None, None, rows], np.ones((4, 160), bool), 4.0)[0, 0] for rows in (np.s_[:4], np.s_[-4:])
    ]
    for output in range(4):
        signal = sum(np.convolve(side, k, mode="same") for side, k in zip(sides, kernels[output], strict=True))
        expected = turned[:, 512 * output : 512 * (output + 1)] - signal[:, None]
        np.testing.assert_allclose(result[12:-12, 512 * output : 512 * (output + 1)], expected[12:-12], atol=1e-4)


def test_what_cannot_be_done_is_said(frames):
    ramps = frames[0]
    with pytest.raises(ParameterError, match="from 2 groups, at least 3"):
        subtract_reference_pixels(ramps.isel(group=slice(2)), **SIRS)
    other = "NRS2" if ramps.attrs["DETECTOR"] == "NRS1" else "NRS1"
    with pytest.raises(ReferenceFileError, match=f"is for {other}"):
        subtract_reference_pixels(ramps, None, sirs_kernel(other), **SIRS)
    with pytest.raises(ReferenceFileError, match="9 frequencies"):
        subtract_reference_pixels(ramps, None, sirs_kernel(ramps.attrs["DETECTOR"], 9), **SIRS)
    with pytest.raises(ReferenceFileError, match="expected NRS"):
        subtract_reference_pixels(ramps, None, sirs_kernel(ramps.attrs["DETECTOR"]).drop_vars("zeta"), **SIRS)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.sampled_from(["huge", "NaN", "constant"]), st.integers(0, 3))
def test_one_bad_integration_does_not_change_the_filter(kind, bad):
    rng = np.random.default_rng(5)
    sides = rng.normal(0, 1, (2, 4, 6, 400)).cumsum(-1) * 0.3
    sides -= sides.mean(-1, keepdims=True)
    lines = np.repeat(0.5 * (sides[0] + sides[1])[:, :, None], 4, 2) + rng.normal(0, 0.3, (4, 6, 4, 400))
    left, right = (side + rng.normal(0, 0.3, side.shape) for side in sides)
    before = estimate_kernels(left, right, lines, 4)
    for values in (left, right, lines):
        values[bad] = {"huge": rng.normal(0, 1e4, values[bad].shape), "NaN": np.nan, "constant": 0.0}[kind]
    after = estimate_kernels(left, right, lines, 4)
    assert before.sum() > 2
    np.testing.assert_allclose(after.sum((1, 2)), before.sum((1, 2)), atol=0.1)
    np.testing.assert_allclose(after, before, atol=0.05)


def test_frames_without_values_have_no_side_signal(rng):
    sci = rng.normal(5, 1, (2, 1, 4, 30)).astype(np.float32)
    sci[1] = np.nan
    lines = side_lines(sci, np.ones((4, 30), bool), 4.0)
    assert (lines[1] == 0).all()
    np.testing.assert_allclose(lines[0].mean(), 5, atol=0.5)


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 40])
def test_running_median_of_few_columns(rng, columns):
    """Frames narrower than the window are reflected again and again; values that are not finite are left out."""
    sci = rng.normal(0, 1, (1, 1, 4, columns)).astype(np.float32)
    sci[0, 0, 1, 0] = np.nan
    found = running_median(sci, np.ones((4, columns), bool), 11)
    padded = np.pad(sci[0, 0], ((0, 0), (5, 5)), mode="reflect" if columns > 1 else "edge")
    expected = [np.nanmedian(padded[:, c : c + 11]) for c in range(columns)]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)
