r"""The spectrum of correlated noise, from time series with gaps.

The power of a series times its weight is, on average, the spectrum of the noise convolved with the power of the weight.
The effect of the gaps on each band of the spectrum is computed. Bands with amplitudes that are not negative are fitted
to the power in bins of frequency.
"""

import numpy as np
import scipy.optimize

from nsxr.kernels.ramps.flicker import Densities
from nsxr.kernels.ramps.noise_bands import density_of_bands, octaves, power_bins

__all__ = ["alike_frames", "fit_densities"]

_ROUNDS = 6
_HARDLY = 0.05
"""Expected size of the correlated noise of an amplifier at high frequencies, relative to white noise."""

_ALIKE = 1.5
_LEAST_WHITE = 0.05  # least white noise, relative to the median power

_CHANGE = 0.5
"""Expected change of the noise from one octave to the next, relative to 1/f."""


def alike_frames(power: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return which frames have the noise that integrations share, (integration, group) bool.

    ``power`` (integration, group, 2, bin) is from :func:`binned_power`, and ``count`` (integration, group) is 0 for
    frames without pixels. White noise is the median over bins. An integration is left out if its median white noise is
    not within a factor of 1.5 of that of the others. If two integrations disagree, the quieter one is used.
    """
    seen: np.ndarray = (count > 0) & np.isfinite(power).all((2, 3))
    white = np.median(np.where(seen[..., None], power[:, :, 0], 0), axis=-1)
    of_integration = np.array([np.median(w[s]) if s.any() else np.nan for w, s in zip(white, seen, strict=True)])
    known = np.sort(of_integration[np.isfinite(of_integration)])
    if not known.size:
        return seen
    middle = known[(known.size - 1) // 2]
    alike = (of_integration <= _ALIKE * middle) & (of_integration >= middle / _ALIKE)
    found: np.ndarray = seen & alike[:, None]
    return found


def fit_densities(power: np.ndarray, n_frames: int, weight: np.ndarray, folded: np.ndarray) -> Densities:
    """Return the spectrum of the noise from the power of weighted frames.

    Parameters
    ----------
    power : ndarray
        (2, bin) float64, mean over frames of :func:`nsxr.kernels.ramps.noise_bands.binned_power` of
        ``series * weight``.
    n_frames : int
        Number of these frames.
    weight : ndarray
        (output, time) float32, variance of white noise of a sample of weight 1 over the variance of this sample.
    folded : ndarray
        (2, band, bin) float64, :func:`nsxr.kernels.ramps.noise_bands.folded_bands` of all bands and this weight.

    Returns
    -------
    Densities
        The spectral densities. Their constant part, the level of an amplifier, may be as large as the largest that was
        measured.
    """
    n_outputs, length = weight.shape
    if not (power[0].any() and weight.any()):
        nothing = np.zeros(length // 2 + 1)
        return Densities(1.0, nothing, nothing)
    own_folded, pair_folded = folded
    white = np.full(power.shape[1], float(weight.sum(dtype=np.float64)) / n_outputs)
    n_bands, n_bins = own_folded.shape
    nothing = np.zeros_like(white)
    if n_outputs == 1:
        model = np.vstack([white, own_folded]).T
        seen = power[0]
    else:
        of_outputs = np.vstack([white, own_folded, own_folded])
        of_pairs = np.vstack([nothing, 0 * own_folded, pair_folded])
        model = np.hstack([of_outputs, of_pairs]).T
        seen = np.concatenate([power[0], power[1]])
    counts = np.diff(np.append(power_bins(length), length // 2 + 1)) * float(n_frames)
    filled = float((weight > 0).mean())  # a gap leaves fewer independent frequencies
    freedom = np.maximum(counts * filled, 1.0)
    expected = _smooth(power[0])
    found = np.zeros(model.shape[1])
    for _ in range(_ROUNDS):
        error = expected / np.sqrt(freedom * n_outputs)
        if n_outputs > 1:
            error = np.concatenate([error, expected / np.sqrt(freedom * n_outputs * (n_outputs - 1) / 2)])
        rows, values = [model / error[:, None]], [seen / error]
        for first in range(1, model.shape[1], n_bands):
            rows.append(_ties(found, first, n_bands, length, model.shape[1]))
            values.append(np.zeros(len(rows[-1])))
        rows.append(_modesty(model.shape[1], n_bands, length, float(np.median(expected)) / white[0]))
        values.append(np.zeros(len(rows[-1])))
        scale = np.maximum(np.abs(rows[0]).max(0), 1e-300)
        found = scipy.optimize.nnls(np.vstack(rows) / scale, np.concatenate(values), maxiter=50 * scale.size)[0] / scale
        expected = np.maximum((model @ found)[:n_bins], 1e-3 * expected)
    own, common = found[1 : 1 + n_bands], found[1 + n_bands :] if n_outputs > 1 else np.zeros(n_bands)
    # with few dark pixels, bands may take all of the white noise, but every detector has white noise
    least = _LEAST_WHITE * float(np.median(expected)) / white[0]
    return Densities(max(float(found[0]), least), density_of_bands(own, length), density_of_bands(common, length))


def _modesty(n_all: int, n_bands: int, length: int, white: float) -> np.ndarray:
    """Return equations that keep correlated noise small at high frequencies, where it looks like white noise."""
    n_low = octaves(length)
    bands = [k for k in (n_low - 2, n_low - 1, n_low, n_bands - 2, n_bands - 1) if 0 < k < n_bands]
    rows = np.zeros((len(bands), n_all))
    for row, k in zip(rows, bands, strict=True):
        row[1 + k] = 4 / (_HARDLY * white)  # bands are 1/f, and here f is about 1/4
    return rows


def _smooth(power: np.ndarray) -> np.ndarray:
    padded = np.pad(power, 2, mode="edge")
    smooth: np.ndarray = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    return smooth.clip(1e-30)


def _ties(found: np.ndarray, first: int, n_bands: int, length: int, n_all: int) -> np.ndarray:
    """Return equations that tie each band to the next, relative to the size of both in the fit before."""
    rows = []
    n_low = octaves(length)
    for begin, end in ((1, 1 + n_low), (1 + n_low, n_bands)):
        for k in range(first + begin, first + end - 1):
            size = found[k : k + 2].mean()
            if size > 0:
                row = np.zeros(n_all)
                row[k : k + 2] = np.array([1, -1]) / (_CHANGE * size)
                rows.append(row)
    return np.array(rows).reshape(-1, n_all)
