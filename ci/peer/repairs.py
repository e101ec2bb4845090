"""Pixels in which nsxr differs from jwst on purpose: one mask for each documented repair.

Agreement is reported with and without these pixels. A mask is used only for exposures in which the repair can change
something. There it is as narrow as the saved flags allow. "erased flags", "zero slopes" and "single groups" find the
fault itself. "sign of jumps" takes every ramp whose jump flags differ, and "edge of subarrays" every ramp in which only
jwst has a jump flag. These two would also hide any other disagreement about jumps. The configurations without
snowballs, and those with ten or more differences, would show such a disagreement.

One repair has no mask. In IRS2 exposures jwst takes a sample that equals its mean over groups for a missing sample,
which changes many other samples in time. For these exposures jwst also runs with such samples nudged by 0.001 DN
(``run_peer.py --nudge-zeros``). Agreement is reported with and without nudging.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from products import Pair

from nsxr.model.dq import GroupFlag, PixelFlag

__all__ = ["REPAIRS", "Repair"]

Mask = np.ndarray | None

SERIES = 100  # least number of integrations for which jwst clips across integrations
SINGLE_PASS = 10  # least number of differences for which jwst finds jumps in one pass


@dataclass(frozen=True)
class Repair:
    """A named repair; ``mask`` returns the pixels that it changed, or None if it cannot change any."""

    name: str
    reason: str
    mask: Callable[[Pair], Mask]


def _sign_of_jumps(pair: Pair) -> Mask:
    flags = pair.group_flags("jump")
    if flags is None:
        return None
    integrations, groups = flags[0].shape[:2]
    if integrations >= SERIES or groups - 1 >= SINGLE_PASS:
        return None
    differ = ((flags[0] ^ flags[1]) & GroupFlag.JUMP_DET) != 0
    return pair.per_product(differ.any(axis=1))


def _edge_of_subarrays(pair: Pair) -> Mask:
    flags = pair.group_flags("jump")
    if flags is None or flags[0].shape[-2] == flags[0].shape[-1]:
        return None
    only_peer = (flags[0] & ~flags[1] & GroupFlag.JUMP_DET) != 0
    return pair.per_product(only_peer.any(axis=1))


def _erased_flags(pair: Pair) -> Mask:
    after, before = pair.group_flags("jump"), pair.group_flags("dark_current")
    if after is None or before is None:
        return None
    erased = (before[0] & ~after[0] & np.uint8(GroupFlag.DO_NOT_USE | GroupFlag.AD_FLOOR)) != 0
    return pair.per_product(erased.any(axis=1))


def _zero_slopes(pair: Pair) -> Mask:
    return (pair.peer.sci == 0) & (pair.peer.var_rnoise == 0) & ((pair.peer.dq & PixelFlag.DO_NOT_USE) == 0)


def _single_groups(pair: Pair) -> Mask:
    flags = pair.group_flags("jump")
    if flags is None or flags[0].shape[1] < 2:
        return None
    seen = flags[0] & np.uint8(~GroupFlag.PERSISTENCE & 0xFF)
    good = seen == 0
    starts = good | (seen == GroupFlag.JUMP_DET)
    no_segment = (good.sum(axis=1) >= 2) & ~(good[:, 1:] & starts[:, :-1]).any(axis=1)
    return pair.per_product(no_segment)


def _flagged_rows(pair: Pair) -> Mask:
    only_peer = pair.peer.dq & ~pair.ours.dq & np.uint32(PixelFlag.BAD_REF_PIXEL)
    return only_peer != 0


REPAIRS: tuple[Repair, ...] = (
    Repair("edge of subarrays", "jwst measures the distance from both edges in rows", _edge_of_subarrays),
    Repair("sign of jumps", "with few differences jwst does not see steps downwards", _sign_of_jumps),
    Repair("erased flags", "jwst's growth of saturated cores clears earlier flags", _erased_flags),
    Repair("zero slopes", "jwst gives 0 instead of NaN to ramps without a usable segment", _zero_slopes),
    Repair("single groups", "jwst divides one value by the group time where no two groups adjoin", _single_groups),
    Repair("flagged rows", "one bad reference pixel flag makes jwst overwrite a whole row", _flagged_rows),
)
"""Repairs in the order in which pixels are attributed to them."""
