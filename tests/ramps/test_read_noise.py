"""Read noise measured in dark pixels: known factors, with light, cosmic rays, averaged groups, few groups."""

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import nsxr
from nsxr.compute import layouts as chunking
from nsxr.kernels.ramps.read_noise import BIN_WIDTH, BINS, histograms, scale_from_histogram, scale_of_integrations
from nsxr.model.dq import GroupFlag
from nsxr.model.history import steps
from nsxr.products.write import write_products
from nsxr.ramps.read_noise import rescale_read_noise
from nsxr.simulate import Artifacts, small_exposure
from nsxr.testing import FULL_FRAME, assert_lazy_and_chunk_invariant, make_exposure, make_noise_references

JUMP, DO_NOT_USE = np.uint8(GroupFlag.JUMP_DET.value), np.uint8(GroupFlag.DO_NOT_USE.value)
RAMP, IMAGE = ("integration", "group", "row", "column"), ("row", "column")
FACTORS = {1: 0.8, 2: 1.0, 3: 1.3, 4: 1.1}
NOISE = 8.5  # DN, of a difference of single frames


def make_ramps(groups=8, frames=1, seed=1, columns=24, gain=1.2, light=0.0):
    """Full rows of four outputs whose noise is not that of the reference; half of the pixels see light [electron]."""
    rng = np.random.default_rng(seed)
    sigma = NOISE / np.sqrt(2 * frames) * np.repeat(list(FACTORS.values()), 512)[:, None]
    rate = np.where(np.arange(columns) % 2, rng.exponential(light, (2048, columns)) if light else 0.0, 0.5)
    shape = (1, groups, 2048, columns)
    sci = rng.poisson(rate, shape).cumsum(1) / gain + sigma * rng.normal(0, 1, shape)
    flags = np.zeros(shape, np.uint8)
    hits = (rng.random(shape) < 0.004) & (np.arange(groups)[:, None, None] > 0)
    sci += np.cumsum(hits * 300.0, axis=1)
    flags |= hits * JUMP
    flags[0, groups // 2, 100:120] |= DO_NOT_USE
    sci[0, groups // 2, 100:120] = np.nan
    exposure = make_exposure(sci, flags, **FULL_FRAME, NFRAMES=frames, TFRAME=10.0)
    return exposure, *make_noise_references(exposure, NOISE, gain)


@pytest.mark.parametrize(("groups", "frames", "light"), [(8, 1, 0.0), (8, 1, 50.0), (20, 5, 10.0), (3, 1, 0.0)])
def test_factors_of_the_outputs(groups, frames, light):
    result = rescale_read_noise(*make_ramps(groups, frames, light=light))
    assert list(result["amplifier"].values) == [1, 2, 3, 4]
    for number, factor in FACTORS.items():
        scale, error = (float(result[name].sel(amplifier=number)) for name in ("scale", "scale_error"))
        assert 0 < error < 0.02
        assert abs(scale - factor) < max(0.01, 3.5 * error)
        rows = result["sci"].values[512 * (number - 1) : 512 * number]
        np.testing.assert_allclose(rows, NOISE * scale, rtol=1e-6)


def test_error_is_the_scatter():
    scales = [rescale_read_noise(*make_ramps(5, columns=8, seed=seed)) for seed in range(30)]
    scatter = np.std([result["scale"].values for result in scales], axis=0)
    errors = np.mean([result["scale_error"].values for result in scales], axis=0)
    np.testing.assert_allclose(scatter / errors, 1, atol=0.4)


@pytest.mark.parametrize("groups", [1, 2])
def test_too_few_groups_leave_the_reference(groups):
    exposure, readnoise, gain = make_ramps(groups)
    result = rescale_read_noise(exposure, readnoise, gain)
    assert (result["scale"].values == 1).all()
    assert (result["scale_error"].values == 0).all()
    np.testing.assert_array_equal(result["sci"].values, readnoise["sci"].values)


def test_histogram_is_that_of_a_plain_version():
    rng = np.random.default_rng(2)
    sci = rng.normal(0, 6, (2, 9, 5, 7)).astype(np.float32)
    flags = rng.choice(np.array([0, 0, 0, 0, 0, JUMP, DO_NOT_USE], np.uint8), sci.shape)
    pixeldq = rng.choice(np.array([0, 0, 4], np.uint32), (5, 7))
    gain, noise = np.full((5, 7), 1.5, np.float32), np.full((5, 7), 8.0, np.float32)
    output = np.array([0, 0, 1, 1, 1])
    result = histograms(sci, flags, pixeldq, gain, noise, output, 2, 1, np.uint32(4))
    expected = np.zeros((2, 2, BINS))
    for i, r, c in np.ndindex(2, 5, 7):
        dq = flags[i, :, r, c]
        step = np.diff(sci[i, :, r, c].astype(float))
        usable = ((dq[1:] | dq[:-1]) & DO_NOT_USE == 0) & (dq[1:] & JUMP == 0)
        if pixeldq[r, c] or usable.sum() < 2 or 2 * max(step[usable].mean(), 0) / 1.5 / 192 >= 0.1:
            continue
        size = np.abs(np.diff(step)[usable[1:] & usable[:-1]]) / np.sqrt(192) / BIN_WIDTH
        np.add.at(expected[i, output[r]], np.minimum(size.astype(int), BINS - 1), 1)
    assert result[..., BINS + 1].sum() == expected.sum() > 50
    assert np.abs(result[..., :BINS] - expected).sum() <= 2  # at the edges of bins


def test_limits_of_factors():
    histogram = np.zeros((3, BINS + 2))
    histogram[0, 10], histogram[1, 1500], histogram[2, 700] = 5000, 5000, 999
    histogram[:, BINS + 1] = histogram[:, :BINS].sum(1)
    scale, _ = scale_from_histogram(histogram)
    np.testing.assert_array_equal(scale, [0.5, 2.0, 1.0])


def test_lazy_and_chunk_invariant():
    exposure, readnoise, gain = make_ramps(5, columns=8)
    chunkings = {"row": 512}, {"row": 128, "group": 2}, {"row": 64, "column": 4}
    assert_lazy_and_chunk_invariant(rescale_read_noise, exposure, readnoise, gain, chunkings=chunkings, rtol=1e-9)


@pytest.mark.parametrize("algorithm", ["ols", "likelihood"])
def test_pipeline_scales_variances_and_says_so(tmp_path, algorithm, monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 400_000)
    artifacts = Artifacts(pedestal=0, common_pink=0, output_pink=0, alternating_columns=0, picture_frame=0)
    made = small_exposure(readout="NRSRAPID", groups=8, columns=32, scene="dark", artifacts=artifacts)
    references = dict(made.references)
    references["readnoise"] = references["readnoise"].assign(sci=references["readnoise"]["sci"] / np.float32(1.25))
    chunked = made.exposure.chunk({"row": 256}).assign_coords(made.exposure.coords)
    fit = {"algorithm": algorithm, "rescale_read_noise": True}
    skip = ["clean_flicker_noise"]  # which finds the read noise by itself
    tree = nsxr.detector1(chunked, references, skip=skip, ramp_fit=fit)
    (path, _) = write_products(tree, tmp_path, "x", progress=False)
    header = fits.getheader(path)
    scales = [header[f"RNSCALE{n}"] for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(scales, 1.25, rtol=0.03)
    plain = nsxr.detector1(made.exposure, references, skip=skip, ramp_fit={"algorithm": algorithm})
    rate = tree["rate"].to_dataset().compute()
    ratio = (rate["var_rnoise"] / plain["rate"]["var_rnoise"]).groupby("amplifier").median(...)
    np.testing.assert_allclose(ratio, np.square(scales), rtol=1e-3 if algorithm == "ols" else 0.02)
    assert steps(rate)[-2]["parameters"]["rescale_read_noise"] is True
    assert "RNSCALE1" not in str(plain["rate"].attrs)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from(["noisy", "constant", "NaN", "empty"]),
    st.integers(0, 3),
    st.integers(2, 4),
    st.sampled_from([1, 3]),
)
def test_one_bad_integration_does_not_change_the_factor(kind, bad, integrations, outputs):
    rng = np.random.default_rng(bad)
    shape = (integrations, 8, 3 * outputs, 200)
    sci = rng.normal(0, 6, shape).astype(np.float32)
    groupdq = np.zeros(shape, np.uint8)
    bad %= integrations
    if kind == "noisy":
        sci[bad] *= 5
    elif kind == "constant":
        if integrations == 2:
            return  # of two that disagree the quieter one is believed
        sci[bad] = 65000
    elif kind == "NaN":
        sci[bad] = np.nan
    else:
        groupdq[bad] = DO_NOT_USE
    image = np.ones(shape[2:], np.float32)
    output = np.arange(shape[2]) // 3
    counts = histograms(sci, groupdq, image.astype(np.uint32) * 0, image, NOISE * image, output, outputs, 1, 1)
    scale, error = scale_of_integrations(counts)
    np.testing.assert_allclose(scale, 6 * np.sqrt(2) / NOISE, rtol=0.05)
    assert (error > 0).all()
    np.testing.assert_array_equal(scale_of_integrations(counts[:0])[0], 1)
