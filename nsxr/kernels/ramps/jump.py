"""Kernels that flag jumps in ramps and spread the flags to neighbours and to later groups.

Blocks are C-ordered ``(integration, group, row, column)``.
"""

from typing import Any, NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, UNUSABLE_OR_JUMP

__all__ = ["LARGE", "SPREAD", "VERY_LARGE", "JumpSizes", "code_of", "difference_at", "flag_outside", "spread_jumps"]

SPREAD = np.uint8(1 << 3)
"""Private bit of the detection code: the jump is passed on to the four neighbours."""

LARGE = np.uint8(1 << 4)
"""Private bit of the detection code: the jump is at least the first after-jump threshold."""

VERY_LARGE = np.uint8(1 << 5)
"""Private bit of the detection code: the jump is at least the second after-jump threshold."""


class JumpSizes(NamedTuple):
    """Sizes of jumps that flag more than their own group.

    Attributes
    ----------
    large, very_large : float [electron]
        Thresholds of the after-jump flags.
    min_spread, max_spread : float
        Jumps between these sizes [standard deviations of a difference] are passed on to neighbours.
    """

    large: float
    very_large: float
    min_spread: float
    max_spread: float

    def in_electrons(self, gain: float) -> "JumpSizes":
        """Return the sizes with thresholds converted from DN to electrons."""
        return self._replace(large=self.large * gain, very_large=self.very_large * gain)


@kernel
def code_of(step: float, ratio: float, sizes: JumpSizes) -> Any:  # pragma: no cover
    """Return the detection code of a jump of ``step`` electrons, which is ``ratio`` standard deviations."""
    found = JUMP
    found |= SPREAD if (ratio > sizes.min_spread) & (ratio < sizes.max_spread) else np.uint8(0)
    found |= LARGE if step >= sizes.large else np.uint8(0)
    found |= VERY_LARGE if step >= sizes.very_large else np.uint8(0)
    return found


@kernel
def difference_at(
    sci: np.ndarray, gain: np.ndarray, integration: int, step: int, row: int, column: int
) -> Any:  # pragma: no cover
    """Return the difference of two successive groups [electron]; each signal is converted and rounded first."""
    last = sci[integration, step, row, column] * gain[row, column]
    return sci[integration, step + 1, row, column] * gain[row, column] - last


@kernel
def flag_outside(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    median: np.ndarray,
    sigma: np.ndarray,
    sizes: JumpSizes,
) -> np.ndarray:  # pragma: no cover
    """Flag the differences outside the limits of :func:`nsxr.kernels.ramps.jump_limits.find_limits`.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
    gain : (row, column) float32 [electron/DN]
    lower, upper : (difference or 1, row, column) float64 [electron]
    median, sigma : (row, column) float64 [electron]
    sizes : JumpSizes
        Sizes of jumps that flag more than their own group.

    Returns
    -------
    (integration, group, row, column) uint8
        DO_NOT_USE, SATURATED and JUMP_DET of ``groupdq``, JUMP_DET where a jump is found, and the
        private bits SPREAD, LARGE, VERY_LARGE.
    """
    large, very_large, min_spread, max_spread = sizes
    integrations, groups, rows, columns = sci.shape
    code = np.empty(sci.shape, np.uint8)
    for integration in range(integrations):
        for row in range(rows):
            for c in range(columns):
                code[integration, 0, row, c] = groupdq[integration, 0, row, c] & UNUSABLE_OR_JUMP
        for step in range(groups - 1):
            at = step if lower.shape[0] > 1 else 0
            for row in range(rows):
                for c in range(columns):
                    before, after = groupdq[integration, step, row, c], groupdq[integration, step + 1, row, c]
                    value = difference_at(sci, gain, integration, step, row, c)
                    is_usable = ((before | after) & UNUSABLE_GROUP == 0) & (abs(value) < np.float32(np.inf))
                    excess = value - median[row, c]
                    ratio = abs(excess) / sigma[row, c]
                    is_outside = (value < lower[at, row, c]) | (value > upper[at, row, c])
                    found = (after & UNUSABLE_OR_JUMP) | (JUMP if is_outside & is_usable else np.uint8(0))
                    is_spread = ((found & JUMP) != 0) & is_usable & (ratio > min_spread) & (ratio < max_spread)
                    found |= SPREAD if is_spread else np.uint8(0)
                    found |= LARGE if is_usable & (excess >= large) else np.uint8(0)
                    found |= VERY_LARGE if is_usable & (excess >= very_large) else np.uint8(0)
                    code[integration, step + 1, row, c] = found
    return code


@kernel
def spread_jumps(code: np.ndarray, after_large: int, after_very_large: int) -> np.ndarray:  # pragma: no cover
    """Pass jumps on to neighbours and to later groups.

    Parameters
    ----------
    code : (integration, group, row, column) uint8
        Detection codes, as from :func:`flag_outside`, with one more row at each end. Only the SPREAD bit counts in
        these two rows.
    after_large, after_very_large : int
        Groups to flag after a jump with the LARGE, VERY_LARGE bit.

    Returns
    -------
    (integration, group, row, column) uint8
        JUMP_DET of usable groups, 0 elsewhere. The first and the last row are 0.
    """
    integrations, groups, rows, columns = code.shape
    jumps = np.zeros(code.shape, np.uint8)
    for integration in range(integrations):
        for group in range(groups):
            for row in range(1, rows - 1):
                for c in range(columns):
                    here = code[integration, group, row, c]
                    near = code[integration, group, row - 1, c] | code[integration, group, row + 1, c]
                    if c > 0:
                        near |= code[integration, group, row, c - 1]
                    if c < columns - 1:
                        near |= code[integration, group, row, c + 1]
                    is_jump = ((here & JUMP) != 0) | ((near & SPREAD) != 0)
                    jumps[integration, group, row, c] = (
                        JUMP if is_jump & ((here & UNUSABLE_GROUP) == 0) else np.uint8(0)
                    )
    if after_large > 0 or after_very_large > 0:
        for integration in range(integrations):
            for row in range(1, rows - 1):
                for c in range(columns):
                    until = 0
                    for group in range(groups):
                        found = code[integration, group, row, c]
                        if jumps[integration, group, row, c]:
                            if found & LARGE:
                                until = max(until, group + after_large)
                            if found & VERY_LARGE:
                                until = max(until, group + after_very_large)
                        # a group flagged only here does not flag later groups: ``found`` is its own code, read before
                        # the flag is set
                        if 0 < group <= until and not found & UNUSABLE_GROUP:
                            jumps[integration, group, row, c] = JUMP
    return jumps
