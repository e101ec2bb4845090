"""Fit lines of light at known distances from each other: sources that were planned in one slit, and subtracted nods."""

import numpy as np

from nsxr.kernels.spectra.gaussians import gaussian
from nsxr.kernels.spectra.lines import APART, NARROW, Lines, collapsed, fit_terms

__all__ = ["planned_lines"]

_OFFSETS = np.arange(-6, 7) * 0.1  # rows, common offsets that are tried; farther, two sources look like a wide one
_LEAST = 0.01  # light of a source relative to the brightest one, so that ratios are finite


def planned_lines(
    image: np.ndarray,
    precision: np.ndarray,
    plan: np.ndarray,
    sky: np.ndarray,
    *,
    has_level: bool,
    prior: float,
    others: np.ndarray,
    seen: Lines,
) -> Lines:
    """Return the lines of one exposure, with the distances that were planned and the common offset that fits best.

    Parameters
    ----------
    image, precision, plan, sky, has_level, prior
        As for :func:`find_lines`.
    others : (other,) ndarray
        Planned distances of the other sources [row].
    seen : Lines
        What :func:`find_lines` found. Subtracted nods, and lines that were not planned, are kept.

    Returns
    -------
    Lines
        The planned sources come first among the others.
    """
    curve = collapsed(image, precision, plan, sky)
    if curve is None:
        return seen
    places = np.concatenate([[0.0], others])
    level = [curve.sky / curve.deviation] if has_level else []
    best: tuple[float, float, float, np.ndarray] | None = None
    for width in NARROW:
        for offset in _OFFSETS:
            at = places + offset
            shapes = gaussian(curve.distance[:, None] - at, width)[0]
            for distance, part in zip(seen.echo_distances, seen.echo_strengths, strict=True):
                shapes = shapes - part * gaussian(curve.distance[:, None] - at - distance, width)[0]
            terms = [*level, *(shapes / curve.deviation[:, None]).T]
            solution, residual = fit_terms(terms, curve.mean / curve.deviation)
            light = solution[len(level) :]
            score = float((np.minimum(np.abs(residual), 30.0) ** 2).sum()) + (offset / prior) ** 2
            if best is None or score < best[0]:
                best = score, float(offset), width, light
    assert best is not None
    _, offset, width, light = best
    light = np.maximum(light, _LEAST * max(float(light.max()), 1e-300))
    unplanned = [
        k
        for k, place in enumerate(seen.offset + seen.distances)
        if np.abs(place - offset - places).min() > APART and seen.strengths[k] > 0
    ]
    return Lines(
        offset,
        width,
        np.concatenate([others, seen.offset + seen.distances[unplanned] - offset]),
        np.concatenate([light[1:] / light[0], seen.strengths[unplanned]]),
        seen.echo_distances,
        seen.echo_strengths,
    )
