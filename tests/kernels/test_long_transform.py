"""The transform in two steps is the transform of NumPy, in another order."""

import numpy as np
import pytest

from nsxr.kernels.ramps.long_transform import LongTransform, split_columns


@pytest.mark.parametrize("length", [64, 256, 64 * 27, 64 * 96])
def test_spectra_are_those_of_numpy_in_another_order(length):
    series = np.random.default_rng(1).standard_normal((3, length), dtype=np.float32)
    transform = LongTransform(length, split_columns(length, 64))
    spectra = np.empty((3, transform.size), np.complex64)
    transform.forward(series, spectra)
    expected = np.fft.fft(series.astype(np.float64), axis=1)
    np.testing.assert_allclose(spectra, expected[:, transform.frequency], atol=1e-5 * np.abs(expected).max())
    power = (np.abs(np.fft.rfft(series.astype(np.float64), axis=1)) ** 2).mean(axis=0)
    np.testing.assert_allclose(transform.power(series), power, atol=1e-5 * power.max())
    seen = np.bincount(transform.frequency % length, transform.counts, length)
    seen += np.bincount(-transform.frequency % length, transform.counts, length)
    np.testing.assert_array_equal(seen, 2)
    again = np.empty_like(series)
    transform.backward(spectra, again)
    np.testing.assert_allclose(again, series, atol=1e-5)


@pytest.mark.parametrize("size", [8, 64])
def test_a_short_spectrum_becomes_the_low_frequencies_of_a_long_one(size):
    length = 64 * 24
    long, short = (LongTransform(n, split_columns(length, 64) * n // length) for n in (length, length // size))
    time = np.arange(length)
    waves = np.array([np.cos(2 * np.pi * 3 * time / length), np.sin(2 * np.pi * 11 * time / length) + 2])
    spectra = np.empty((2, short.size), np.complex64)
    short.forward(np.ascontiguousarray(waves[:, ::size], dtype=np.float32), spectra)
    found = np.empty((2, length), np.float32)
    long.backward(long.refined(short, spectra * np.float32(size)), found)
    np.testing.assert_allclose(found, waves, atol=1e-4)
