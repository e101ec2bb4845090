"""Showers: regions in which many pixels have a little too much signal in the same group, without a core."""

import numpy as np

from nsxr.kernels.ramps.rings import STEPS_PER_SIGMA
from nsxr.model.dq import JUMP

__all__ = ["flag_excess"]

_WIDTH = 11  # side of the square over which the mean is taken [pixel]
_CLIP = 4 * STEPS_PER_SIGMA


def flag_excess(
    groupdq: np.ndarray, scaled: np.ndarray, *, shower_threshold: float, shower_min_area: float
) -> np.ndarray:
    """Flag connected regions whose local mean is too high.

    Parameters
    ----------
    groupdq : (integration, group, row, column) uint8
        Not changed. Pixels that are flagged do not count.
    scaled : (integration, group, row, pair) int8
        From :func:`nsxr.kernels.ramps.rings.scaled_differences`.
    shower_threshold : float
        Threshold in robust standard deviations of the local means in the frame. Correlated noise raises these standard
        deviations.
    shower_min_area : float
        Least number of connected pixels.

    Returns
    -------
    (integration, group, row, column) uint8
        ``groupdq`` with JUMP_DET added.
    """
    from scipy import ndimage  # seldom needed, and takes 0.05 s to import

    flags = groupdq.copy()
    for cube, planes in zip(flags, scaled, strict=True):
        for plane, pairs in zip(cube[1:], planes[1:], strict=True):
            values = pairs.repeat(2, axis=1)[:, : plane.shape[1]]
            is_counted = (plane == 0) & (values != -128)
            if not is_counted.any():
                continue
            signal = np.where(is_counted, np.clip(values, -_CLIP, _CLIP), 0).astype(np.float32)
            share = ndimage.uniform_filter(is_counted.astype(np.float32), _WIDTH, mode="constant")
            mean = ndimage.uniform_filter(signal, _WIDTH, mode="constant") / np.maximum(share, 1e-6)
            statistic = np.where(is_counted, mean * np.sqrt(share), 0)
            level = np.median(statistic[is_counted])
            noise = 1.4826 * np.median(np.abs(statistic[is_counted] - level))
            labels, n = ndimage.label(statistic - level > shower_threshold * noise, np.ones((3, 3)))
            if n:
                area = np.bincount(labels.ravel())
                area[0] = 0
                plane |= np.where((area >= shower_min_area)[labels] & is_counted, JUMP, np.uint8(0))
    return flags
