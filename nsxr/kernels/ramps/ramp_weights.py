"""Weights of the groups in the least-squares fit of a ramp."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["POWERS", "SIGNAL_TO_NOISE", "WeightTables", "power_of", "weight_tables"]

SIGNAL_TO_NOISE = (5.0, 10.0, 20.0, 50.0, 100.0)
"""Signal-to-noise ratios of a segment from which the next power is used."""

POWERS = (0.0, 0.4, 1.0, 3.0, 6.0, 10.0)
"""Powers of the distance from the middle of a segment, which are the weights of its groups."""


class WeightTables(NamedTuple):
    """Tables from :func:`weight_tables`.

    Attributes
    ----------
    coefficients : (power, groups) float64
        c for each distance j.
    norms : (power, groups + 1) float64
        Sum of c[j] j over the pairs of a segment, for each length of a segment.
    """

    coefficients: np.ndarray
    norms: np.ndarray


def weight_tables(groups: int) -> WeightTables:
    """Return the factors of the groups in the weighted slope of a segment.

    The weights are symmetric about the middle of a segment, so groups count in pairs, and the slope per
    group is ``sum(c[j] * (y[later] - y[earlier])) / sum(c[j] * j)`` over pairs that are j groups apart,
    with ``c[j] = j**(power + 1)``. The read noise and the half length of the segment scale all weights by the same
    factor, so they cancel.

    Parameters
    ----------
    groups : int
        Groups per integration.

    Returns
    -------
    WeightTables
    """
    distance = np.arange(groups, dtype=np.float64)
    coefficients = distance ** (np.array(POWERS)[:, np.newaxis] + 1)
    products = coefficients * distance
    norms = np.zeros((len(POWERS), groups + 1))
    for length in range(2, groups + 1):
        norms[:, length] = norms[:, length - 2] + products[:, length - 1]
    return WeightTables(coefficients, norms)


@kernel
def power_of(rise: float, noise: float) -> int:  # pragma: no cover
    """Return the index into POWERS for a rise [electron] over a segment, given the variance of one group."""
    if not rise > 0.0:
        return 0
    ratio = rise / np.sqrt(noise + rise)
    index = 0
    for limit in SIGNAL_TO_NOISE:
        if ratio >= limit:
            index += 1
    return index
