import numpy as np
import pytest

from nsxr.ramps.linearity import correct_linearity
from nsxr.testing import assert_lazy_and_chunk_invariant

CUBIC = np.array([0.0, 1.0, 2e-6, 3e-11])  # from measured to linear


def measured_from(linear):
    """Invert the cubic by Newton's method."""
    x = np.array(linear, dtype=np.float64)
    for _ in range(50):
        x -= (np.polynomial.polynomial.polyval(x, CUBIC) - linear) / np.polynomial.polynomial.polyval(
            x, CUBIC[1:] * [1, 2, 3]
        )
    return x


def planes(coefficients, exposure):
    shape = (exposure.sizes["row"], exposure.sizes["column"])
    return np.broadcast_to(np.asarray(coefficients)[:, None, None], (len(coefficients), *shape)).copy()


def test_linear_signal_comes_back(make_exposure, make_reference, chunkings, rng):
    linear = np.cumsum(rng.uniform(100, 8000, (3, 6, 16, 40)), axis=1)
    exposure = make_exposure(measured_from(linear))
    reference = make_reference("linearity", exposure, coefficients=planes(CUBIC, exposure))
    result = assert_lazy_and_chunk_invariant(correct_linearity, exposure, reference, chunkings=chunkings)
    np.testing.assert_allclose(result["sci"], linear, rtol=3e-7)
    twin = np.polynomial.polynomial.polyval(exposure["sci"].values.astype(np.float64), CUBIC)
    np.testing.assert_allclose(result["sci"], twin, rtol=3e-7)


def test_saturated_groups_and_pixels_without_polynomial_keep_their_value(make_exposure, make_reference):
    exposure = make_exposure(np.full((1, 3, 4, 5), 20000.0))
    exposure["groupdq"][0, 2, 0, 0] = 2
    exposure["groupdq"][0, 1, 0, 0] = 1
    coefficients = planes(CUBIC, exposure)
    coefficients[:, 1, 1] = 0, 0, 0, 0
    coefficients[3, 1, 2] = np.nan
    dq = np.zeros((4, 5), np.uint32)
    dq[1, 3] = 1 << 20
    result = correct_linearity(exposure, make_reference("linearity", exposure, dq=dq, coefficients=coefficients))
    changed = (result["sci"] != 20000).values[0]
    assert not changed[2, 0, 0]
    assert changed[:2, 0, 0].all()
    assert not changed[:, 1, 1:4].any()
    assert changed.sum() == 60 - 1 - 9
    np.testing.assert_array_equal(result["pixeldq"].values[1, :5] >> 20, [0, 1, 1, 1, 0])


def test_average_of_non_linear_frames_becomes_mean_of_linear_ones(make_exposure, make_reference, chunkings):
    frames, groups, rate = 4, 6, 1500.0
    reads = rate * np.arange(1, frames * groups + 1)
    averaged = measured_from(reads).reshape(groups, frames).mean(1)
    sci = np.broadcast_to(averaged[None, :, None, None], (3, groups, 16, 40))
    exposure = make_exposure(sci, NFRAMES=frames, FRMDIVSR=frames)
    grid = np.linspace(0, 40000, 2000)
    powers = np.stack([grid**k for k in (1, 2, 3, 4, 5)], axis=1)
    fit = np.linalg.lstsq(powers / powers.max(0), measured_from(grid), rcond=None)[0] / powers.max(0)
    inverse = np.concatenate([[0], fit])
    simple = make_reference("linearity", exposure, coefficients=planes(CUBIC, exposure))
    by_reads = make_reference(
        "linearity", exposure, coefficients=planes(CUBIC, exposure), inverse_coefficients=planes(inverse, exposure)
    )
    result = assert_lazy_and_chunk_invariant(correct_linearity, exposure, by_reads, chunkings=chunkings)
    truth = reads.reshape(groups, frames).mean(1)
    error = np.abs(result["sci"].values[0, :, 0, 0] - truth)
    error_simple = np.abs(correct_linearity(exposure, simple)["sci"].values[0, :, 0, 0] - truth)
    assert error.max() < 0.1
    assert error_simple.max() > 1


@pytest.mark.parametrize("groups", [1, 2])
def test_few_groups(make_exposure, make_reference, groups):
    exposure = make_exposure(np.full((1, groups, 2, 3), 1000.0), NFRAMES=4, FRMDIVSR=4)
    reference = make_reference(
        "linearity",
        exposure,
        coefficients=planes(CUBIC, exposure),
        inverse_coefficients=planes([0, 1, -2e-6], exposure),
    )
    result = correct_linearity(exposure, reference)
    np.testing.assert_allclose(result["sci"], np.polynomial.polynomial.polyval(1000.0, CUBIC), rtol=1e-5)
