"""Compiled parts of the fit of a trace, against NumPy and SciPy."""

import numpy as np
import pytest
from scipy.special import erf

from nsxr.kernels.spectra.banded import Prior, most_likely
from nsxr.kernels.spectra.gaussians import gaussian, skirted
from nsxr.kernels.spectra.splines import SplineGrid, add_splines, spline_variance
from nsxr.kernels.spectra.trace_fit import _add_columns, orthonormal, without
from nsxr.kernels.spectra.trace_profile import polynomials


def gaussian_twin(distance, width):
    lower, upper = (distance - 0.5) / width, (distance + 0.5) / width
    profile = 0.5 * (erf(upper / np.sqrt(2)) - erf(lower / np.sqrt(2)))
    low, up = (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) for edge in (lower, upper))
    return np.stack([profile, (up - low) / width, lower * low - upper * up])


@pytest.mark.parametrize("rows", [np.arange(-40.0, 40.0), np.array([0.3, -7.0, 2.2, np.nan])])
def test_gaussians_are_those_of_erf_and_exp(rng, rows):
    width = rng.uniform(0.3, 8.0, 30)
    distance = (rows[:, None] + rng.uniform(-1, 1, 30))[None] + np.zeros((2, 1, 1))
    found, expected = gaussian(distance, width), gaussian_twin(distance, width)
    assert found.shape == (3, 2, rows.size, 30)
    known = np.isfinite(distance)
    np.testing.assert_allclose(found[:, known], expected[:, known], rtol=0, atol=2e-12)
    assert (np.isnan(found[0]) == np.isnan(distance)).all()
    mixed = 0.8 * expected[0] + 0.2 * gaussian_twin(distance, 2.2 * width)[0]
    np.testing.assert_allclose(skirted(distance, width, 0.2)[0][known], mixed[known], rtol=0, atol=1e-13)
    line = rows[np.isfinite(rows)]
    np.testing.assert_allclose(gaussian(line, 1.5), gaussian_twin(line, 1.5), rtol=0, atol=2e-12)


@pytest.mark.parametrize("n_shapes", [0, 2])
def test_equations_of_a_trace_are_those_of_projected_derivatives(rng, n_shapes):
    images, weights = rng.normal(size=(2, 9, 6)), rng.uniform(size=(2, 9, 6))
    weights[:, :, 3] = 0.0
    parts, along = rng.normal(size=(4, 2, 9, 6)), polynomials(6)
    shapes = orthonormal(list(rng.normal(size=(n_shapes, 2, 9, 6))), weights)
    stacked = np.stack(shapes) if shapes else np.zeros((0, 2, 9, 6))
    normal, gradient = np.eye(8), np.ones(8)
    chi_square = _add_columns(images, weights, stacked, parts, along, normal, gradient)
    profile, *derivatives = (without(part, weights, shapes) for part in parts)
    power = (weights * profile**2).sum(1)
    safe = np.where(power > 0, power, 1.0)
    flux = ((weights * profile * images).sum(1) / safe)[:, None]
    rest = images - flux * profile
    a, b, c = (flux * (d - profile * ((weights * profile * d).sum(1) / safe)[:, None]) for d in derivatives)
    exposures = np.eye(2)[:, :, None, None]
    by_parameter = np.stack([*(exposures * a), a * along[1], a * along[2], *(b * one for one in along), c])
    expected = np.einsum("eyx,ieyx,jeyx->ij", weights, by_parameter, by_parameter)
    np.testing.assert_allclose(normal, np.eye(8) + np.tril(expected), atol=1e-12)
    np.testing.assert_allclose(gradient, 1 + np.einsum("eyx,ieyx,eyx->i", weights, by_parameter, rest), atol=1e-12)
    np.testing.assert_allclose(chi_square, (weights * rest**2).sum(), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", [0, 3, 11])
def test_the_most_likely_prior_is_that_of_whole_matrices(rng, bandwidth):
    near = np.abs(np.subtract.outer(np.arange(12), np.arange(12))) <= bandwidth
    root = np.tril(rng.normal(size=(12, 12)) * near)
    normal, right = root @ root.T * near + 12 * np.eye(12), rng.normal(size=12) * 5
    priors = [Prior(scale * np.eye(12), 12 * np.log(scale)) for scale in (1.0, 4.0)]
    amplitudes = 10.0 ** np.arange(-2, 2)
    best = None
    for prior in priors:
        for amplitude in amplitudes:
            matrix = normal + prior.inverse / amplitude**2
            solution = np.linalg.solve(matrix, right)
            evidence = right @ solution + prior.log_determinant - 24 * np.log(amplitude) - np.linalg.slogdet(matrix)[1]
            if best is None or evidence > best[0]:
                best = evidence, solution, np.linalg.inv(matrix)
    found, covariance = most_likely(normal, right, priors, amplitudes, bandwidth, with_covariance=True)
    np.testing.assert_allclose(found, best[1], rtol=1e-10)
    np.testing.assert_allclose(covariance, best[2], rtol=1e-10, atol=1e-14)
    assert not most_likely(normal, right, priors, amplitudes, bandwidth, with_covariance=False)[1].any()


def test_variance_of_splines_is_that_of_the_whole_gradient(rng):
    grid = SplineGrid(9, 5, 2.0)
    root = rng.normal(size=(45, 45))
    covariance = root @ root.T
    distance = np.linspace(-4, 4, 9)[None, :, None] + rng.uniform(-0.4, 0.4, (1, 1, 6))
    weights = rng.normal(size=(1, 9, 6))
    found = np.empty((1, 6))
    spline_variance(distance, weights, grid, covariance, found)
    gradient = np.zeros((6, 45))
    for k in range(45):
        coefficients, image = np.zeros((9, 5)), np.zeros(distance.shape)
        coefficients.flat[k] = 1.0
        add_splines(distance, coefficients, grid.reach, image)
        gradient[:, k] = (weights * image).sum(1)[0]
    np.testing.assert_allclose(found[0], np.einsum("xi,ij,xj->x", gradient, covariance, gradient), rtol=1e-9)
