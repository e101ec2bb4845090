"""Reference pixels of traditional readouts."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nsxr.errors import MissingReferenceError, ParameterError
from nsxr.kernels.ramps.reference_pixels import clipped_means
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.ramps.reference_pixels.side_columns import estimate_side_signal
from nsxr.testing import assert_lazy_and_chunk_invariant

REFERENCE = np.uint32(1 << 31)


def test_clipped_mean_is_that_of_scipy(rng):
    sci = rng.normal(10, 2, (2, 3, 40, 8)).astype(np.float32)
    sci[:, :, 5:8] += 50
    label = rng.integers(-1, 3, (40, 8)).astype(np.int8)
    means, variances = clipped_means(sci, label, 4, 3.0)
    for i, g, k in np.ndindex(2, 3, 3):
        clipped = stats.sigmaclip(sci[i, g][label == k].astype(np.float64), 3, 3).clipped
        assert means[i, g, k] == pytest.approx(clipped.mean(), rel=1e-6)
        assert variances[i, g, k] == pytest.approx(stats.sem(clipped) ** 2, rel=1e-5)
    assert np.isnan(means[..., 3]).all()


def test_constant_pixels_have_their_own_mean():
    sci = np.full((1, 1, 4, 4), 0.1, np.float32)
    assert clipped_means(sci, np.zeros((4, 4), np.int8), 1, 3.0)[0][0, 0, 0] == np.float32(0.1)


@pytest.fixture
def full_frame(make_exposure, rng):
    """Full frame whose middle columns are left out: geometry goes by label."""
    columns = np.r_[0:20, 2028:2048]

    def make(detector):
        sci = rng.normal(0, 5, (1, 3, 2048, 40)).astype(np.float32)
        return make_exposure(
            sci, columns=columns, DETECTOR=detector, SUBARRAY="FULL", SUBSTRT1=1, SUBSTRT2=1, NOUTPUTS=4
        )

    return make


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_levels_of_amplifiers_and_parities_vanish(full_frame, detector, shrink):
    exposure = full_frame(detector)
    level = np.arange(24.0).reshape(3, 4, 2) * 10  # group, amplifier, parity
    rows = np.arange(2048)
    added = level[:, rows // 512, rows % 2].astype(np.float32)
    clean = exposure["sci"].values.copy()
    exposure["sci"] = exposure["sci"] + xr.DataArray(added, dims=("group", "row"))
    exposure["sci"].attrs["units"] = "DN"
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels,
        exposure,
        chunkings=({"row": 512}, {"row": 700, "group": 1}),
        use_side_ref_pixels=False,
        shrink_levels=shrink,
    )
    difference = result["sci"].values - clean
    by_band = difference.reshape(3, 4, 256, 2, 40)
    assert by_band.std(axis=(2, 4)).max() < 1e-4  # one number each
    assert np.abs(by_band.mean(axis=(2, 4))).max() < 4 * 5 / np.sqrt(2048)  # reference pixels of one kind
    joint = subtract_reference_pixels(exposure, odd_even_columns=False, use_side_ref_pixels=False)
    step = (joint["sci"].values - clean).reshape(3, 4, 256, 2, 40).mean(axis=(2, 4))
    np.testing.assert_allclose(step[..., 1] - step[..., 0], 10, atol=0.5)


def side_twin(corrected, good, length=11):
    """Running median of each side over ``length`` columns, ends reflected."""
    half = length // 2
    sides = []
    for rows in (slice(0, 4), slice(2044, 2048)):
        values = np.where(good[rows], corrected[:, :, rows], np.nan)
        padded = np.pad(values, ((0, 0), (0, 0), (0, 0), (half, half)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=-1)
        sides.append(np.nanmedian(windows, axis=(2, 4)))
    return np.nanmean(sides, axis=0)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_side_signal_is_the_running_median(full_frame, detector):
    exposure = full_frame(detector)
    drift = np.linspace(-30, 30, 40).astype(np.float32)
    exposure["sci"] = (exposure["sci"] + xr.DataArray(drift, dims="column")).assign_attrs(units="DN")
    exposure["pixeldq"][1, 3] = exposure["pixeldq"][2045, 10] = 1
    without = subtract_reference_pixels(exposure, use_side_ref_pixels=False)["sci"].values
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels, exposure, chunkings=({"row": 512}, {"row": 700, "group": 2})
    )
    expected = without - side_twin(without, exposure["pixeldq"].values == 0)[:, :, None, :]
    np.testing.assert_allclose(result["sci"], expected, atol=1e-4)
    slope = np.polyfit(np.arange(40), result["sci"].values.mean((0, 1, 2)), 1)[0]
    assert abs(slope) < 0.1 * 60 / 39  # not 0: reflected ends flatten the median of a drift


def test_side_without_good_pixels_is_left_out(full_frame):
    exposure = full_frame("NRS1")
    exposure["pixeldq"][:4] = 1
    one = estimate_side_signal(exposure["sci"], exposure["pixeldq"])
    window = exposure["sci"].values[0, 0, 2044:, 0:6]  # reflected: columns 1..5 count twice
    expected = np.median(np.concatenate([window.ravel(), window[:, 1:].ravel()]))
    assert one[0, 0, 0] == pytest.approx(expected, rel=1e-6)
    exposure["pixeldq"][2044:] = 1
    assert (estimate_side_signal(exposure["sci"], exposure["pixeldq"]) == 0).all()


def subarray(make_exposure, rng, name, columns, start, detector="NRS1"):
    exposure = make_exposure(
        rng.normal(0, 5, (2, 3, 16, columns)), SUBARRAY=name, SUBSTRT1=start + 1, DETECTOR=detector
    )
    rows = exposure["row"].values
    parity = xr.DataArray(rows % 2 * 40.0, dims="row")
    exposure["sci"] = (exposure["sci"] + 100 + parity).astype(np.float32).assign_attrs(units="DN")
    column = exposure["column"].values
    exposure["pixeldq"][:, (column < 4) | (column >= 2044)] = REFERENCE
    return exposure


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_subarray_levels_by_absolute_parity(make_exposure, rng, chunkings, detector):
    exposure = subarray(make_exposure, rng, "SUB2048", 2048, 0, detector)
    exposure["pixeldq"][3, 0] |= 1
    exposure["sci"][:, :, 3, 0] = 1e6  # flagged, so it does not matter
    result = assert_lazy_and_chunk_invariant(
        subtract_reference_pixels, exposure, chunkings=chunkings, shrink_levels=False
    )
    good = exposure["pixeldq"].values == REFERENCE
    twin = exposure["sci"].values.astype(np.float64)
    for i, g, p in np.ndindex(2, 3, 2):
        chosen = good & (exposure["row"].values[:, None] % 2 == p)
        mean = stats.sigmaclip(twin[i, g][chosen], 3, 3).clipped.mean()
        twin[i, g, exposure["row"].values % 2 == p] -= mean
    np.testing.assert_allclose(result["sci"], twin, atol=2e-3, rtol=1e-6)


def test_subarray_without_reference_pixels_uses_its_ends(make_exposure, rng):
    exposure = subarray(make_exposure, rng, "SUB512", 40, 1024)
    result = subtract_reference_pixels(exposure)["sci"].values
    assert abs(result[..., ::2, :].mean() - result[..., 1::2, :].mean()) < 2
    assert abs(result.mean()) < 2


def test_one_sided_subarray_and_no_reference_pixels_at_all(make_exposure, rng):
    exposure = subarray(make_exposure, rng, "SUB1024A", 1024, 0)
    assert abs(subtract_reference_pixels(exposure)["sci"].values.mean()) < 3
    exposure["pixeldq"][:] = 0
    unchanged = subtract_reference_pixels(exposure)["sci"]
    np.testing.assert_array_equal(unchanged, exposure["sci"])


def test_irs2_needs_its_reference(make_exposure):
    changes = {"SUBARRAY": "FULL", "READPATT": "NRSIRS2", "SUBSTRT1": 1, "SUBSTRT2": 1, "NOUTPUTS": 5}
    with pytest.raises(MissingReferenceError, match="refpix"):
        subtract_reference_pixels(make_exposure(np.zeros((1, 2, 3200, 2)), **changes))


def test_limit_must_be_positive(make_exposure):
    with pytest.raises(ParameterError, match="siglimit=0 must be positive"):
        subtract_reference_pixels(make_exposure(np.zeros((1, 2, 4, 4))), siglimit=0)
    with pytest.raises(ParameterError, match="'mean', expected 'median' or 'sirs'"):
        subtract_reference_pixels(make_exposure(np.zeros((1, 2, 4, 4))), refpix_algorithm="mean")
