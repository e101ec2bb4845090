"""Arguments that the kernels for ramps share.

Kernels work on tiles. A tile is a short run of columns of one row, copied to arrays ``(group, column)`` that stay in
the cache of the processor.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Columns", "Ramps"]


class Ramps(NamedTuple):
    """A block of ramps.

    Attributes
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    gain : (row, column) float32 [electron/DN]
    """

    sci: np.ndarray
    groupdq: np.ndarray
    gain: np.ndarray


class Columns(NamedTuple):
    """The pixels of a tile: ``size`` columns of a row, from the column ``start`` on."""

    row: int
    start: int
    size: int
