"""Measure how far two calibrations of one exposure agree: slopes, variances, flags, and every step."""

from collections.abc import Sequence
from enum import IntFlag
from pathlib import Path

import numpy as np
from products import STEPS, Pair, iterate_steps
from repairs import REPAIRS, Repair

from nsxr.model.dq import GroupFlag, PixelFlag

__all__ = ["TOLERANCE", "compare_products", "compare_steps", "good_pixels"]

TOLERANCE = 0.02
"""Largest difference of two slopes, in units of their uncertainty, that counts as agreement."""


def good_pixels(pair: Pair) -> tuple[np.ndarray, dict[str, int]]:
    """Return the mask of pixels that both programs call usable; count the other pixels once each, by reason."""
    reasons: dict[str, int] = {}
    good = np.ones(pair.peer.sci.shape, dtype=bool)
    bad = [(product.dq & PixelFlag.DO_NOT_USE) != 0 for product in (pair.peer, pair.ours)]
    causes = (
        ("DO_NOT_USE in both", bad[0] & bad[1]),
        ("DO_NOT_USE in jwst only", bad[0]),
        ("DO_NOT_USE in nsxr only", bad[1]),
        ("not finite in jwst", ~np.isfinite(pair.peer.sci)),
        ("not finite in nsxr", ~np.isfinite(pair.ours.sci)),
        ("no uncertainty in jwst", ~(pair.peer.err > 0)),
        ("no uncertainty in nsxr", ~(pair.ours.err > 0)),
    )
    for name, mask in causes:
        lost = good & mask
        reasons[name] = int(lost.sum())
        good &= ~mask
    return good, {name: count for name, count in reasons.items() if count}


def _slope_statistics(difference: np.ndarray) -> dict[str, float | int]:
    if difference.size == 0:
        return {"pixels": 0}
    size = np.abs(difference)
    return {
        "pixels": int(difference.size),
        "median": float(np.median(difference)),
        "within_tolerance": float((size <= TOLERANCE).mean()),
        "percentile_99.9": float(np.percentile(size, 99.9)),
        "largest": float(size.max()),
    }


def _ratios(ours: np.ndarray, peer: np.ndarray) -> dict[str, float]:
    valid = (peer > 0) & np.isfinite(ours)
    if not valid.any():
        return {}
    low, middle, high = np.percentile(ours[valid] / peer[valid], [0.1, 50, 99.9])
    return {"percentile_0.1": float(low), "median": float(middle), "percentile_99.9": float(high)}


def _flag_differences(flags: type[IntFlag], peer: np.ndarray, ours: np.ndarray) -> dict[str, dict[str, int]]:
    """Count, for every bit set anywhere, pixels with the bit in both programs, in jwst only and in nsxr only."""
    seen = int(np.bitwise_or.reduce(peer, axis=None) | np.bitwise_or.reduce(ours, axis=None))
    counts = {}
    for flag in flags:
        if seen & flag:
            a, b = (peer & flag.value) != 0, (ours & flag.value) != 0
            counts[str(flag.name)] = {
                "both": int((a & b).sum()),
                "peer_only": int((a & ~b).sum()),
                "nsxr_only": int((b & ~a).sum()),
            }
    return counts


def compare_products(pair: Pair, repairs: Sequence[Repair] = REPAIRS) -> dict[str, object]:
    """Compare two products of the same kind.

    Returns
    -------
    dict
        ``slopes`` over all good pixels and ``slopes_outside_repairs`` (difference over jwst's
        uncertainty), ``excluded`` and ``repairs`` (pixel counts), ``variances`` (nsxr over peer,
        percentiles) and ``flags`` for each bit.
    """
    if pair.peer.sci.shape != pair.ours.sci.shape:
        raise ValueError(f"{pair.root}: shapes {pair.peer.sci.shape} (jwst) and {pair.ours.sci.shape} (nsxr) differ")
    good, excluded = good_pixels(pair)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = (pair.ours.sci.astype(np.float64) - pair.peer.sci) / pair.peer.err
    touched = np.zeros_like(good)
    counts = {}
    for repair in repairs:
        mask = repair.mask(pair)
        if mask is not None:
            counts[repair.name] = int((good & mask & ~touched).sum())
            touched |= mask
    outside = good & ~touched
    return {
        "shape": list(good.shape),
        "slopes": _slope_statistics(difference[good]),
        "slopes_outside_repairs": _slope_statistics(difference[outside]),
        "excluded": excluded,
        "repairs": counts,
        "variances": {
            name: _ratios(getattr(pair.ours, name)[outside], getattr(pair.peer, name)[outside])
            for name in ("var_poisson", "var_rnoise")
        },
        "flags": _flag_differences(PixelFlag, pair.peer.dq, pair.ours.dq),
    }


class _Percentile:
    """Percentile of many magnitudes, from a histogram of 100 bins a decade, so that values are not kept."""

    EDGES = np.concatenate([[0.0], np.logspace(-8, 6, 1401), [np.inf]])

    def __init__(self) -> None:
        self.counts = np.zeros(self.EDGES.size - 1, dtype=np.int64)
        self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        if values.size:
            self.counts += np.histogram(values, self.EDGES)[0]
            self.largest = max(self.largest, float(values.max()))

    def at(self, percent: float) -> float:
        """Return the upper edge of the bin with the percentile; 0 if this is the lowest bin."""
        if not self.counts.any():
            return float("nan")
        position = int(np.searchsorted(np.cumsum(self.counts), percent / 100 * self.counts.sum()))
        return 0.0 if position == 0 else float(min(self.EDGES[position + 1], self.largest))


def _merge(total: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    for name, counts in more.items():
        kept = total.setdefault(name, dict.fromkeys(counts, 0))
        for key, value in counts.items():
            kept[key] += value


def compare_steps(root: str, peer_folder: Path, our_folder: Path) -> dict[str, dict[str, object]]:
    """Compare the saved output of every step that both programs have: differences [DN] and flags.

    Values are compared if both are finite and neither has DO_NOT_USE or SATURATED in the group.
    """
    results: dict[str, dict[str, object]] = {}
    unusable = np.uint8(GroupFlag.DO_NOT_USE | GroupFlag.SATURATED)
    for step in STEPS:
        peer, ours = (folder / f"{root}_{step}.fits" for folder in (peer_folder, our_folder))
        if not (peer.exists() and ours.exists()):
            continue
        percentile, group_flags, pixel_flags = _Percentile(), {}, {}
        differ = values = 0
        for arrays in iterate_steps(peer, ours):
            a, b = arrays["SCI"]
            if a is None or b is None or a.shape != b.shape:
                shapes = [None if x is None else x.shape for x in (a, b)]
                raise ValueError(f"{root}, step {step}: shapes {shapes[0]} (jwst) and {shapes[1]} (nsxr) differ")
            valid = np.isfinite(a) & np.isfinite(b)
            flags = arrays["GROUPDQ"]
            if flags[0] is not None and flags[1] is not None:
                valid &= ((flags[0] | flags[1]) & unusable) == 0
                _merge(group_flags, _flag_differences(GroupFlag, flags[0], flags[1]))
            size = np.abs(a[valid].astype(np.float64) - b[valid])
            percentile.add(size)
            differ += int((size > 0).sum())
            values += size.size
            pixels = arrays["PIXELDQ"]
            if pixels[0] is not None and pixels[1] is not None:
                _merge(pixel_flags, _flag_differences(PixelFlag, pixels[0], pixels[1]))
        results[step] = {
            "values": values,
            "differing": differ,
            "largest": percentile.largest,
            "percentile_99.9": percentile.at(99.9),
            "group_flags": group_flags,
            "pixel_flags": pixel_flags,
        }
    return results
