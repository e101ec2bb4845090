"""Reductions over the groups of a block."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["first_flagged", "sum_groups"]


@kernel
def sum_groups(sci: np.ndarray, start: int) -> np.ndarray:  # pragma: no cover
    """Sum over groups in double precision.

    ``sci`` (integration, group, row, column) float32; returns (integration, 1, row, column) float64.
    ``start``, the position of the block, does not matter.
    """
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    out = np.zeros((n_integrations, 1, n_rows, n_columns), dtype=np.float64)
    for i in range(n_integrations):
        for r in range(n_rows):
            for g in range(n_groups):
                for c in range(n_columns):
                    out[i, 0, r, c] += sci[i, g, r, c]
    return out


@kernel
def first_flagged(flags: np.ndarray, start: int, flag: np.uint8, never: int) -> np.ndarray:  # pragma: no cover
    """Find the first group that has a flag.

    ``flags`` (integration, group, row, column) uint8 is a block whose first group is number ``start``. Returns
    (integration, 1, row, column) int16, ``never`` if no group has the flag.
    """
    n_integrations, n_groups, n_rows, n_columns = flags.shape
    out = np.full((n_integrations, 1, n_rows, n_columns), never, dtype=np.int16)
    for i in range(n_integrations):
        for r in range(n_rows):
            for g in range(n_groups - 1, -1, -1):
                for c in range(n_columns):
                    if flags[i, g, r, c] & flag:
                        out[i, 0, r, c] = start + g
    return out
