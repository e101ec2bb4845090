"""When each pixel last saturated, and which groups come soon after."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["flag_windows", "last_end", "latest_before"]


@kernel
def last_end(groupdq: np.ndarray, end: np.ndarray, flag: np.uint8) -> np.ndarray:  # pragma: no cover
    """Return the end of the last integration in which a pixel has a flag.

    Parameters
    ----------
    groupdq : (integration, group, row, column) uint8
    end : (integration,) float64
        End of each integration [s], ascending.
    flag : uint8

    Returns
    -------
    (1, row, column) float64
        -inf where no integration has the flag.
    """
    integrations, groups, rows, columns = groupdq.shape
    out = np.full((1, rows, columns), -np.inf)
    for i in range(integrations):
        for g in range(groups):
            for r in range(rows):
                for c in range(columns):
                    if groupdq[i, g, r, c] & flag:
                        out[0, r, c] = end[i]
    return out


def latest_before(last: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the latest time of ``before`` (row, column) and of all blocks before each block, (block, row, column)."""
    earlier = np.concatenate([before[None], last[:-1]])
    return np.maximum.accumulate(earlier, axis=0)


@kernel
def flag_windows(
    groupdq: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    before: np.ndarray,
    group_time: float,
    duration: float,
    saturated: np.uint8,
    flag: np.uint8,
) -> np.ndarray:  # pragma: no cover
    """Flag the groups that end within some time after the end of an earlier integration with saturation.

    Parameters
    ----------
    groupdq : (integration, group, row, column) uint8
        Not changed.
    start, end : (integration,) float64
        ``start`` is one group time before the end of the first group; ``end`` is the end of the integration [s].
    before : (1, row, column) float64
        End of the last integration with saturation before this block [s].
    group_time, duration : float
        Time between groups, and how long after a saturation groups are flagged [s].
    saturated, flag : uint8
        Flag to look for, and flags to add.
    """
    integrations, groups, rows, columns = groupdq.shape
    out = groupdq.copy()
    until = before[0] + duration
    for i in range(integrations):
        for g in range(groups):
            time = start[i] + (g + 1) * group_time
            for r in range(rows):
                for c in range(columns):
                    if time <= until[r, c]:
                        out[i, g, r, c] |= flag
        for g in range(groups):
            for r in range(rows):
                for c in range(columns):
                    if groupdq[i, g, r, c] & saturated:
                        until[r, c] = end[i] + duration
    return out
