import numpy as np

from nsxr.kernels.ramps.flicker import series_length
from nsxr.kernels.ramps.lag_covariance import LAGS, add_lags, correlations
from nsxr.model.time_order import TimeOrder


def test_products_of_all_pairs_at_a_lag():
    rows = np.arange(70)
    order = TimeOrder(82, 100, False, (rows, rows + 70), (rows, rows[::-1]))
    values = np.random.default_rng(1).standard_normal((2, series_length(order))).astype(np.float32)
    values[:, order.slots * order.lines :] = 0
    found = add_lags(values, order)
    blocks = [values[:, : 96 * 82].astype(np.float64), values[:, 96 * 82 : 100 * 82].astype(np.float64)]
    for place in (0, 1, 63, 64, 80, 127, -1):
        lag = int(LAGS[place] @ [82, 1])
        expected = sum((block[:, : max(block.shape[1] - lag, 0)] * block[:, lag:]).sum() for block in blocks)
        np.testing.assert_allclose(found[place], expected, atol=2e-2)


def test_covariances_are_relative_to_the_variances_of_both_pixels():
    sums = np.array([[-1e9, -5e8], [2e9, 1e9], [0, 3e8]])
    counts = np.array([[1e9, 1e9], [1e9, 1e9], [0, 1e9]])
    used, unused, mixed = correlations(sums, counts, white=9.0)
    np.testing.assert_allclose(used, [-1 / 8, -0.5 / 8], rtol=1e-5)
    np.testing.assert_allclose(unused, [2 / 11, 1 / 11], rtol=1e-5)
    np.testing.assert_allclose(mixed, [0, 0.3 / np.sqrt(88)], rtol=1e-5)
