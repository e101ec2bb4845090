"""Pixels on which nsxr departs from the peer on purpose: one mask for each documented repair.

Agreement is reported with and without these pixels. A mask acts only in exposures where the repair can
act. Inside those it is as narrow as the saved flags allow, which differs: "erased flags", "zero slopes"
and "single groups" recognise the fault itself, while "sign of jumps" takes every ramp whose jump flags
differ and "edge of subarrays" every ramp in which only the peer has a jump flag. The last two would
also hide another disagreement about jumps; the configurations that switch snowballs off or have ten
differences or more are there to show one.

One repair has no mask. In IRS2 the peer takes a sample that equals its mean over groups for a missing
one, and what that changes reaches far in time. There the peer is run with such samples nudged by
0.001 DN (``run_peer.py --nudge-zeros``), and agreement is reported for the peer as it is beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from products import Pair

from nsxr.model.dq import GroupFlag, PixelFlag

__all__ = ["REPAIRS", "Repair"]

Mask = np.ndarray | None

SERIES = 100  # integrations from which the peer clips across integrations instead
SINGLE_PASS = 10  # differences from which the peer finds jumps in one pass


@dataclass(frozen=True)
class Repair:
    """A named repair; ``mask`` gives the pixels that it touched, or None where it cannot act."""

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
    Repair("edge of subarrays", "the peer measures the distance from both edges in rows", _edge_of_subarrays),
    Repair("sign of jumps", "with few differences the peer does not see steps downwards", _sign_of_jumps),
    Repair("erased flags", "the peer's growth of saturated cores clears earlier flags", _erased_flags),
    Repair("zero slopes", "the peer gives 0 instead of NaN to ramps without a usable segment", _zero_slopes),
    Repair("single groups", "the peer divides one value by the group time where no two groups adjoin", _single_groups),
    Repair("flagged rows", "one bad reference pixel flag makes the peer overwrite a whole row", _flagged_rows),
)
"""In the order in which pixels are attributed to them."""
