"""Weights for the IRS2 correction that fit the simulated noise."""

import numpy as np

from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration

__all__ = ["irs2_weights", "remaining_correlated_variance"]

_SPARSE_SLOTS = 8 * 32  # slots of a line with interleaved reference pixels; each pixel fills two slots


def irs2_weights(configuration: Configuration, artifacts: Artifacts) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Return the weights with which the interleaved pixels and the reference output predict the noise.

    Parameters
    ----------
    configuration : Configuration
        Gives *n*, the number of slots of a frame.
    artifacts : Artifacts
        Amplitudes of the noise.

    Returns
    -------
    alpha, beta : (n,) complex64
        Weights of the spectrum of the reference output, and of the spectrum of the interleaved pixels. They are
        the same for all amplifiers.
    variance : float
        Variance of the correlated noise that is left [electron2].

    Notes
    -----
    The noise of an amplifier is :math:`y = c + p + a`: common, own and alternating 1/f noise. Their spectral
    densities are *C*, *P* and *A*, and *M* is the sum. The interleaved pixels, divided by the share of slots that
    they fill, measure *y* plus white noise of density :math:`N_s`. The reference output shares only *c*, and has
    white noise of density :math:`N_r`. The best linear prediction has

    .. math::

        \alpha = C N_s / D, \quad \beta' = (M (M + N_r) - C^2) / D, \quad D = (M + N_s)(M + N_r) - C^2,

    and leaves :math:`M (1 - \beta') - \alpha C`. At low frequency, :math:`\alpha + \beta'` goes to 1. Only 8 x 32
    of 712 slots are filled by interleaved pixels, hence :math:`\beta = \beta' 712 / 256`. Each reference pixel
    fills two slots, so its white noise counts 712 / 128 times. Noise that is aliased by the sampling counts as
    white noise too.

    References
    ----------
    Moseley et al. 2010, Proc. SPIE 7742; Rauscher et al. 2017, PASP 129, 105003.
    """
    order = configuration.time_order
    n = order.slots * order.lines
    bins = np.minimum(np.arange(n), n - np.arange(n))
    frequency = np.maximum(bins, 0.5) / n
    from_nyquist = np.maximum(0.5 - frequency, 0.5 / n)
    common = artifacts.correlated("common_pink") ** 2 * _density(frequency, n)
    own = artifacts.correlated("output_pink") ** 2 * _density(frequency, n)
    alternating = artifacts.correlated("alternating_columns") ** 2 * _density(from_nyquist, n)
    total = common + own + alternating
    total[0] += artifacts.correlated("pedestal") ** 2 * n
    white = (artifacts.white_noise * artifacts.reference_noise_ratio) ** 2
    aliased = float((common + own)[(frequency > 1 / 44) & (frequency < 0.5)].mean())
    sparse_noise = (white + aliased) * order.slots / (_SPARSE_SLOTS / 2) + 1e-12
    reference_noise = white * order.slots / 640 + 1e-12
    determinant = (total + sparse_noise) * (total + reference_noise) - common**2
    alpha = common * sparse_noise / determinant
    beta = (total * (total + reference_noise) - common**2) / determinant
    left = total * (1 - beta) - alpha * common
    scaled = beta * (order.slots / _SPARSE_SLOTS)
    return alpha.astype(np.complex64), scaled.astype(np.complex64), float(left[1:].sum() / n)


def remaining_correlated_variance(configuration: Configuration, artifacts: Artifacts) -> float:
    """Return the variance of correlated noise in one frame after reference pixels were used [electron2].

    The read noise reference includes this variance. For IRS2 see :func:`irs2_weights`. For other readouts it is a
    share of the 1/f variance, measured on simulated darks. In full frames the side pixels remove slow noise. In
    subarrays no noise is removed, and the error of the level, estimated at the ends of a frame, is added.
    """
    if configuration.is_irs2:
        return irs2_weights(configuration, artifacts)[2]
    pink = artifacts.correlated("common_pink") ** 2 + artifacts.correlated("output_pink") ** 2
    share = 0.85 if configuration.n_outputs == 4 else 1.6 if configuration.subarray.startswith("SUB1024") else 1.3
    return pink * share + artifacts.correlated("alternating_columns") ** 2


def _density(frequency: np.ndarray, n: int) -> np.ndarray:
    """Return the spectral density of 1/f noise with unit variance, drawn over two frames of *n* slots."""
    harmonic = np.log(n) + np.euler_gamma  # sum of 1/k over the frequencies of two frames
    return np.asarray(1 / (2 * harmonic * frequency))
