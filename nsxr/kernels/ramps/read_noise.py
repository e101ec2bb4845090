"""Histograms of second differences of groups, from which read noise is measured."""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, UNUSABLE_GROUP

__all__ = ["BINS", "BIN_WIDTH", "histograms", "scale_from_histogram", "scale_of_integrations"]

BIN_WIDTH, BINS = 1 / 256, 1536
"""Bins of the histograms [expected standard deviation]; two more columns hold photon noise and number of samples."""

_MOST_PHOTONS = 0.1  # largest share of photon noise in the expected variance; brighter pixels do not count
_LEAST_SAMPLES = 1000
_LIMITS = 0.5, 2.0
_ALIKE = 0.2
_MEDIAN = 1.482602218505602  # standard deviation over the median absolute value, of normal noise


@kernel
def histograms(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    output: np.ndarray,
    n_outputs: int,
    n_frames: int,
    unusable: np.uint32,
) -> np.ndarray:  # pragma: no cover
    """Count the absolute second differences of pixels with little light, by amplifier.

    Parameters
    ----------
    sci : (integration, group, row, column) float32
        [DN].
    groupdq : (integration, group, row, column) uint8
        Second differences that touch a DO_NOT_USE or SATURATED group, or a difference that leads to JUMP_DET, are left
        out.
    pixeldq : (row, column) uint32
        Pixels with an ``unusable`` flag are left out.
    gain, readnoise : (row, column) float32
        [electron/DN]; noise of a difference of two single frames [DN].
    output : (row,) int64
        Zero-based amplifier of each row.
    n_outputs, n_frames : int
        Number of amplifiers, and of frames per group.

    Returns
    -------
    (integration, n_outputs, BINS + 2) float64
        Number of samples in each bin; then the sum of expected photon variance over expected read variance, and the
        number of samples.
    """
    integrations, groups, rows, columns = sci.shape
    out = np.zeros((integrations, n_outputs, BINS + 2))
    for i in range(integrations):
        for r in range(rows):
            counts = out[i, output[r]]
            for c in range(columns):
                expected = 3 * readnoise[r, c] ** 2 / n_frames
                if (pixeldq[r, c] & unusable) != 0 or not (expected > 0 and gain[r, c] > 0):
                    continue
                total, n = 0.0, 0
                for g in range(1, groups):
                    if ((groupdq[i, g, r, c] | groupdq[i, g - 1, r, c]) & UNUSABLE_GROUP) == 0 and not (
                        groupdq[i, g, r, c] & JUMP
                    ):
                        total += sci[i, g, r, c] - sci[i, g - 1, r, c]
                        n += 1
                if n < 2:
                    continue
                photons = 2 * max(total / n, 0.0) / gain[r, c] / expected
                if not photons < _MOST_PHOTONS:
                    continue
                for g in range(2, groups):
                    touched = groupdq[i, g, r, c] | groupdq[i, g - 1, r, c] | groupdq[i, g - 2, r, c]
                    if (touched & UNUSABLE_GROUP) != 0 or ((groupdq[i, g, r, c] | groupdq[i, g - 1, r, c]) & JUMP) != 0:
                        continue
                    second = sci[i, g, r, c] - 2 * sci[i, g - 1, r, c] + sci[i, g - 2, r, c]
                    size = abs(second) / np.sqrt(expected) / BIN_WIDTH
                    if size == size:
                        counts[min(int(size), BINS - 1)] += 1
                        counts[BINS] += photons
                        counts[BINS + 1] += 1
    return out


def scale_of_integrations(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and its error of each amplifier from (integration, output, BINS + 2) histograms.

    An integration is left out if its scale is not within 20 % of the median. For an even number of integrations, the
    median is the lower of the two in the middle. An integration with too few samples for its own scale is kept.
    """
    total = np.empty(histograms.shape[1:])
    for output in range(histograms.shape[1]):
        of_output = histograms[:, output]
        known = of_output[:, BINS + 1] >= _LEAST_SAMPLES
        scales = scale_from_histogram(of_output)[0]
        alike = np.ones(len(of_output), np.bool_)
        if known.any():
            middle = np.sort(scales[known])[(known.sum() - 1) // 2]
            alike = ~known | (np.abs(scales - middle) <= _ALIKE * middle)
        total[output] = of_output[alike].sum(0)
    return scale_from_histogram(total)


def scale_from_histogram(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ratio of measured to expected noise, and its standard error, for each amplifier.

    ``histogram`` (output, BINS + 2) from :func:`histograms`; 1 and 0 where there are fewer than 1000 samples.
    """
    counts, photons, samples = histogram[:, :BINS], histogram[:, BINS], histogram[:, BINS + 1]
    below = np.cumsum(counts, axis=1)
    place = np.argmax(2 * below >= samples[:, None], axis=1)
    rows = np.arange(len(counts))
    inside = counts[rows, place]
    enough = samples >= _LEAST_SAMPLES
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (samples / 2 - (below[rows, place] - inside)) / inside
        variance = (_MEDIAN * BIN_WIDTH * (place + part)) ** 2 - photons / samples
        # the median of n values has the error 0.787 / sqrt(n) of their scale; of three successive ones two are
        # independent
        error = 0.787 * _MEDIAN * np.sqrt(1.5 / samples)
    scale = np.clip(np.sqrt(np.maximum(variance, 0)), *_LIMITS)
    return np.where(enough, scale, 1.0), np.where(enough, error * scale, 0.0)
