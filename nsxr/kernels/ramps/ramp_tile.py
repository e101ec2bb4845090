"""Tiles of ramps, and the steps that both fits of slopes share."""

from typing import Any, NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.tiles import Columns
from nsxr.model.dq import JUMP, NO_GAIN, GroupFlag, PixelFlag

__all__ = [
    "BAD",
    "CONSIDERED",
    "INHERITED",
    "INVALID",
    "PixelImages",
    "RampTile",
    "SelectedGroups",
    "add_exactly",
    "new_tile",
    "pixel_state",
    "take_ramps",
]

_DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
_SATURATED = np.uint8(GroupFlag.SATURATED.value)

CONSIDERED = np.uint8(0xFF & ~GroupFlag.PERSISTENCE.value)
"""Bits of ``groupdq`` with which a group is not fitted: all bits except PERSISTENCE."""

INHERITED = np.uint8(JUMP | _SATURATED | GroupFlag.PERSISTENCE.value)
"""Bits that are copied from the groups to the rate."""

INVALID = np.uint32(PixelFlag.DO_NOT_USE.value | PixelFlag.SATURATED.value)
"""Bits of ``pixeldq`` with which a pixel has no rate."""

BAD = np.uint32(PixelFlag.DO_NOT_USE.value)
"""The bit that a pixel without rate gets."""


class PixelImages(NamedTuple):
    """Properties of each pixel.

    Attributes
    ----------
    pixeldq : (row, column) uint32
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    dark : (row, column) float32 [electron/s]
    given_rate : (row, column) or (0, 0) float32 [DN/s]
        Mean rate for the photon noise. If empty, the fit finds the rate.
    """

    pixeldq: np.ndarray
    gain: np.ndarray
    readnoise: np.ndarray
    dark: np.ndarray
    given_rate: np.ndarray


class SelectedGroups(NamedTuple):
    """The groups that are fitted.

    Attributes
    ----------
    group_time : float [s]
    one_group_time : float [s]
        Exposure time of the first group.
    n_frames : int
        Frames averaged into a group.
    first, last : int
        Groups to use, inclusive.
    suppress : bool
        Whether ramps with a single good group get no rate.
    """

    group_time: float
    one_group_time: float
    n_frames: int
    first: int
    last: int
    suppress: bool


class RampTile(NamedTuple):
    """One integration of the ramps of a tile.

    Attributes
    ----------
    values : (group, column) float32 [DN]
        0 where a sample is not finite.
    flags : (group, column) uint8
        Not 0 where a group is not fitted.
    flagged, union : (column,) uint8
        ``flagged`` has all bits of the flags of a ramp; ``union`` has all bits of ``groupdq``.
    """

    values: np.ndarray
    flags: np.ndarray
    flagged: np.ndarray
    union: np.ndarray


@kernel
def new_tile(groups: int, columns: int) -> RampTile:  # pragma: no cover
    """Return an empty tile."""
    values, flags = np.empty((groups, columns), np.float32), np.empty((groups, columns), np.uint8)
    return RampTile(values, flags, np.empty(columns, np.uint8), np.empty(columns, np.uint8))


@kernel
def take_ramps(
    sci: np.ndarray, groupdq: np.ndarray, integration: int, at: Columns, selected: SelectedGroups, tile: RampTile
) -> bool:  # pragma: no cover
    """Copy one integration to the tile; return whether any of its ramps has flags.

    Groups before ``first`` or after ``last``, and samples that are not finite, become DO_NOT_USE. A whole ramp becomes
    DO_NOT_USE if it is saturated from the start or, with ``suppress``, if it has a single good group.
    """
    row, start, columns = at
    first, last, suppress = selected.first, selected.last, selected.suppress
    values, flags, flagged, union = tile
    groups = sci.shape[1]
    flagged[:] = 0
    union[:] = 0
    for group in range(groups):
        outside = _DO_NOT_USE if (group < first) | (group > last) else np.uint8(0)
        for c in range(columns):
            value = sci[integration, group, row, start + c]
            given = groupdq[integration, group, row, start + c]
            is_finite = abs(value) < np.float32(np.inf)
            flag = (given & CONSIDERED) | outside | (np.uint8(0) if is_finite else _DO_NOT_USE)
            values[group, c] = value if is_finite else np.float32(0)
            flags[group, c] = flag
            flagged[c] |= flag
            union[c] |= given
    found = False
    for c in range(columns):
        if not flagged[c]:
            continue
        found = True
        good = 0
        for group in range(groups):
            good += flags[group, c] == 0
        if (suppress and good == 1) or flags[0, c] & _SATURATED:
            for group in range(groups):
                flags[group, c] |= _DO_NOT_USE
    return found


@kernel
def pixel_state(
    pixeldq: int, gain: float, readnoise: float, n_frames: int
) -> tuple[Any, float, Any]:  # pragma: no cover
    """Return the flags of a pixel, its gain, and the variance of one group [electron2]."""
    dq = np.uint32(pixeldq)
    electrons = np.float64(gain)
    # rounded as in jwst, so that each ramp gets the same power of its weights
    single = np.float32(readnoise * (electrons / np.sqrt(2.0 * n_frames)))
    if not (electrons > 0) & (electrons < np.inf):
        dq |= NO_GAIN
    elif not (single > 0) & (single < np.inf):
        dq |= BAD
    return dq | BAD if dq & INVALID else dq, electrons, np.float64(single) ** 2


@kernel
def add_exactly(sums: np.ndarray, row: int, column: int, value: float, rest: float) -> None:  # pragma: no cover
    """Add to the first sum and to the second, its rounding error, so that the total does not depend on the order."""
    total = sums[0, 0, row, column]
    added = total + value
    part = added - total
    error = (total - (added - part)) + (value - part)
    sums[0, 0, row, column] = added
    sums[0, 1, row, column] += error + rest
