"""Model other sources in the slits of a source, and subtracted nods."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsxr.kernels.spectra.lines import APART, SIGNIFICANCE, Lines
from nsxr.kernels.spectra.trace_profile import Profile

__all__ = ["Others", "beside_all", "gather"]

_BRIGHTEST = 1e6  # largest light relative to the source, which may have no light
_OVERLAP, _BRIGHT = 4.5, 0.1  # rows; light relative to the source
_ASTRAY = 0.03  # rows, error of planned distances of sources from each other


@dataclass(frozen=True)
class Others:
    """Describe other sources, and subtracted nods, in the slits of a source.

    Attributes
    ----------
    distances, strengths : (exposure, other) ndarray
        Distances from the source [row], and light relative to the source; 0 where there is none in an exposure.
    planned : (exposure, other) ndarray, optional
        Planned distances from the source [row]; NaN for those that were not planned.
    """

    distances: np.ndarray
    strengths: np.ndarray
    planned: np.ndarray | None = None

    def __bool__(self) -> bool:
        return bool(self.strengths.any())

    @property
    def number(self) -> int:
        """How many there are in any exposure."""
        return int((self.strengths != 0).any(0).sum())

    @property
    def are_planned(self) -> bool:
        """Whether the places of some of them were planned."""
        return self.planned is not None and bool((np.isfinite(self.planned) & (self.strengths != 0)).any())

    @property
    def overlap(self) -> bool:
        """Whether bright sources that were planned overlap with the source."""
        if self.planned is None:
            return False
        near = np.isfinite(self.planned) & (np.abs(self.distances) < _OVERLAP)
        return bool((near & (np.abs(self.strengths) > _BRIGHT)).any())

    def shapes(self, profile: Profile, n_rows: int) -> np.ndarray:
        """Return the signal of other sources (other, exposure, y, x), with their traces in subtracted nods."""
        parts = [
            profile.at(n_rows, self.distances[:, k]) * (self.strengths[:, k, None, None] != 0)
            for k in range(self.strengths.shape[1])
        ]
        return np.stack(parts) if parts else np.zeros((0, *profile.distance(n_rows).shape))

    def taken(self, profile: Profile, n_rows: int, *, has_level: bool = False) -> np.ndarray:
        """Return pixels within 2.5 rows of others that have half of the source's light or more (exposure, y, x).

        If a background is fitted, up to 4.5 rows around bright others are included: their skirts would look like
        background.
        """
        distance = profile.distance(n_rows)
        own = profile.at(n_rows, np.zeros(profile.n_exposures), echoes=False)
        found = np.zeros(own.shape, dtype=bool)
        for k in range(self.strengths.shape[1]):
            shape = profile.at(n_rows, self.distances[:, k], echoes=False)
            ratio = np.abs(self.strengths[:, k, None, None]) * shape > 0.5 * own
            near = np.abs(distance - self.distances[:, k, None, None]) < APART
            if self.planned is not None:  # they are fitted together with the source, also where they overlap
                near &= ~(np.isfinite(self.planned[:, k, None, None]))
            found |= ratio & near & (np.abs(distance) > 1.0)
            if has_level:
                apart = APART + np.minimum(1.5 * np.abs(self.strengths[:, k, None, None]), 2.0)
                is_near = np.abs(distance - self.distances[:, k, None, None]) < apart
                found |= (
                    is_near & (np.abs(distance) > profile.half_width + 0.5) & (self.strengths[:, k, None, None] != 0)
                )
        return found

    def confirmed(self, amplitudes: np.ndarray, deviations: np.ndarray, flux: np.ndarray) -> "Others":
        """Return others that are significant in many columns; arguments are (other, exposure, x) and (exposure, x)."""
        strengths = self.strengths.copy()
        weight = np.where(np.isfinite(deviations) & (deviations > 0), deviations, np.inf) ** -2.0
        for k in range(strengths.shape[1]):
            for e in np.flatnonzero(strengths[:, k]):
                w, sign = weight[k, e], np.sign(strengths[e, k])
                total = (w * amplitudes[k, e]).sum() * sign / np.sqrt(max(w.sum(), 1e-300))
                parts = [
                    (a * b).sum() * sign > 0
                    for a, b in zip(np.array_split(w, 12), np.array_split(amplitudes[k, e], 12), strict=True)
                ]
                # a median, because the flux of a column with hardly a pixel of the source is arbitrary
                each = [np.array_split(part, 12) for part in (w, w * amplitudes[k, e], w * flux[e])]
                light = np.median(
                    [a.sum() / max(abs(f.sum()), 1e-300) for v, a, f in zip(*each, strict=True) if v.any()]
                )
                is_there = total > SIGNIFICANCE and np.mean(parts) > 0.6
                strengths[e, k] = np.clip(light, -_BRIGHTEST, _BRIGHTEST) if is_there else 0.0
        return replace(self, strengths=strengths)

    def moved(self, residual: np.ndarray, precision: np.ndarray, profile: Profile, amplitudes: np.ndarray) -> "Others":
        """Return others with positions that reduce the residual; each moves by half a row at most.

        Those that were planned stay within a tenth of a row of the plan.
        """
        n_rows, distances = residual.shape[1], self.distances.copy()
        planned = np.full_like(distances, np.nan) if self.planned is None else self.planned
        for k in range(distances.shape[1]):
            slope = (profile.at(n_rows, distances[:, k] + 0.1) - profile.at(n_rows, distances[:, k] - 0.1)) / 0.2
            slope = slope * amplitudes[k][:, None, :]
            power = (precision * slope**2).sum((1, 2))
            along = (precision * slope * residual).sum((1, 2))
            is_planned = np.isfinite(planned[:, k])
            held = np.where(is_planned, 1 / _ASTRAY**2, 0.0)
            along += held * np.where(is_planned, planned[:, k] - distances[:, k], 0.0)
            power += held
            distances[:, k] += np.clip(along / np.where(power > 0, power, np.inf), -0.5, 0.5)
        return replace(self, distances=distances)


def beside_all(profile: Profile, n_rows: int, others: Others, apart: float) -> np.ndarray:
    """Return pixels (exposure, y, x) beside the source, and farther than ``apart`` [row] from others and its nods."""
    distance = profile.distance(n_rows)
    beside = np.abs(distance) > profile.half_width + 1.0
    for line in (others, Others(profile.distances, profile.strengths)):
        for k in range(line.strengths.shape[1]):
            is_apart = np.abs(distance - line.distances[:, k, None, None]) > apart
            beside &= is_apart | (line.strengths[:, k, None, None] == 0)
    return np.asarray(beside)


def gather(
    lines: list[Lines], nods: Sequence[np.ndarray | None], planned: Sequence[np.ndarray]
) -> tuple[Others, Others]:
    """Return other sources, and subtracted nods of this source, from the lines of all exposures.

    If the possible positions of other nods are not known, every negative line counts as a nod. The first lines of an
    exposure are those of ``planned``, the planned distances of other sources [row].
    """
    others, echoes = [], []
    for line, places, own in zip(lines, nods, planned, strict=True):
        is_echo = (line.strengths < 0) & (places is None)
        is_echo[: own.size] = False
        others.append((line.distances[~is_echo], line.strengths[~is_echo], own))
        distances = np.concatenate([line.echo_distances, line.distances[is_echo]])
        echoes.append((distances, np.concatenate([line.echo_strengths, -line.strengths[is_echo]]), np.zeros(0)))
    return _padded(others), _padded(echoes)


def _padded(each: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Others:
    most = max(distances.size for distances, _, _ in each)
    found = np.zeros((2, len(each), most))
    known = np.full((len(each), most), np.nan)
    for e, (distances, strengths, own) in enumerate(each):
        found[0, e, : distances.size], found[1, e, : distances.size] = distances, strengths
        known[e, : min(own.size, distances.size)] = own[: distances.size]
    return Others(found[0], found[1], known)
