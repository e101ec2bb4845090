"""Average a few exposures pixel by pixel, without values that disagree with the other exposures."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["clipped_mean"]


@kernel
def clipped_mean(
    values: np.ndarray,
    variances: np.ndarray,
    weights: np.ndarray,
    is_good: np.ndarray,
    threshold: float,
    mean: np.ndarray,
    factors: np.ndarray,
) -> None:
    """Write the weighted mean of each pixel to ``mean``, and the normalised weights of its values to ``factors``.

    A value is left out if it deviates from the mean of the others by more than ``threshold`` standard deviations of the
    difference. The worst value is left out first, until two are left. If the last two disagree, the lower one is kept,
    because residuals of cosmic rays, and a source, add light.

    Parameters
    ----------
    values, variances : (exposure, pixel) ndarray
        float64; the variances are only used to find values that disagree.
    weights : (exposure,) ndarray
        Weights of the exposures.
    is_good : (exposure, pixel) ndarray of bool
        Values that can be used.
    threshold : float
        0 for no clipping.
    mean : (pixel,) ndarray
        Output, NaN without a value.
    factors : (exposure, pixel) ndarray
        Output, 0 for values that were left out.
    """
    n, n_pixels = values.shape
    for p in range(n_pixels):
        count, total, top, noise = 0, 0.0, 0.0, 0.0
        for e in range(n):
            factors[e, p] = 0.0
            if is_good[e, p]:
                count += 1
                factors[e, p] = weights[e]
                total += weights[e]
                top += weights[e] * values[e, p]
                noise += weights[e] ** 2 * variances[e, p]
        while threshold > 0.0 and count >= 2:
            worst, worst_excess = -1, threshold
            for e in range(n):
                weight = factors[e, p]
                if weight == 0.0:
                    continue
                rest = total - weight
                difference = values[e, p] - (top - weight * values[e, p]) / rest
                deviation = np.sqrt(variances[e, p] + (noise - weight**2 * variances[e, p]) / rest**2)
                excess = difference / deviation
                if count > 2:
                    excess = abs(excess)
                if excess > worst_excess:
                    worst, worst_excess = e, excess
            if worst < 0:
                break
            weight = factors[worst, p]
            factors[worst, p] = 0.0
            count -= 1
            total -= weight
            top -= weight * values[worst, p]
            noise -= weight**2 * variances[worst, p]
            if count == 1:
                break
        if count == 0:
            mean[p] = np.nan
            continue
        mean[p] = 0.0
        for e in range(n):
            factors[e, p] /= total
            if factors[e, p] > 0.0:
                mean[p] += factors[e, p] * values[e, p]
