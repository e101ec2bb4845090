"""The rate that integrations share, in NumPy."""

import numpy as np


def robust_rate(slopes, photons, reads, counts):
    """Return the robust mean of slopes (integration,) whose variances are ``photons * rate + reads``."""
    known = counts > 0
    if not known.any():
        return np.nan
    start = np.sort(slopes[known & (2 * counts >= counts.max())])
    centre = start[(start.size - 1) // 2]
    for _ in range(2):
        variance = max(centre, 0) * photons + reads
        weight = np.clip(1 - (slopes - centre) ** 2 / variance / 25, 0, None)[known] ** 2 / variance[known]
        centre = (weight * slopes[known]).sum() / weight.sum()
    return centre
