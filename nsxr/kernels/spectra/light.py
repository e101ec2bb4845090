"""Find a source, other sources in the slit, and the background, in images (exposure, y, x) float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsxr.kernels.spectra.companions import Others, beside_all, gather
from nsxr.kernels.spectra.lines import APART, SIGNIFICANCE, Lines, find_lines
from nsxr.kernels.spectra.overlapping import fit_overlapping, levels_of, parts_of
from nsxr.kernels.spectra.planned_lines import planned_lines
from nsxr.kernels.spectra.trace_fit import fit_echoes, fit_trace
from nsxr.kernels.spectra.trace_profile import Profile, planned_profile

__all__ = ["Place", "find_light", "levels_of", "parts_of"]

_POINT, _WIDEST = 0.9, 2.5  # pixels, first and largest width of the image of a point source
_LEAST_LINES = 8  # rows beside all known light; among fewer, most may have the skirt of a source


@dataclass(frozen=True)
class Place:
    """Hold the properties of a source and its slit that are known before the fit.

    Attributes
    ----------
    plan : (exposure, x) ndarray
        Planned position of the trace [pixel].
    is_planned : bool
        False if the plan was estimated from the light.
    prior : float
        Standard deviation of the true offset from the plan [pixel].
    half_width : float
        Half width of the aperture [pixel].
    sky : (exposure, y, x) ndarray
        Part of the light of a uniform sky that reaches each pixel.
    slit : (exposure, y, x) ndarray or None
        Part of each pixel within the slit, which is the aperture of an extended source; None for point sources.
    nods : sequence of ndarray or None
        For each exposure the possible distances of other nods from the source [row]; None if not known.
    are_nods_exact : bool
        Whether these are the nods that were subtracted.
    others : sequence of ndarray
        For each exposure the planned distances of other sources from the source [row].
    """

    plan: np.ndarray
    is_planned: bool
    prior: float
    half_width: float
    sky: np.ndarray
    slit: np.ndarray | None
    nods: Sequence[np.ndarray | None]
    are_nods_exact: bool
    others: Sequence[np.ndarray]


def find_light(
    images: np.ndarray, precision: np.ndarray, place: Place, order: int, is_told: np.ndarray
) -> tuple[Profile, Others, np.ndarray]:
    """Return the Gaussian profile of the source, the other light, and the inverse variances of usable pixels.

    Only columns in ``is_told`` (exposure, x) are used.
    """
    every, precision = precision, precision * is_told[:, None, :]
    n, n_rows, _ = images.shape
    extended = place.slit is not None
    lines = [_lines_of(images[e], precision[e], place, e, order) for e in range(n)]
    offsets = np.array([line.offset for line in lines])
    others, echoes = gather(lines, place.nods, [places if order == 0 else np.zeros(0) for places in place.others])
    away = np.abs(np.arange(n_rows)[:, None] - place.plan[:, None, :] - offsets[:, None, None])
    edge = (place.sky > 0.03) & (place.sky < 0.93)
    if extended:
        precision, every = (np.where(place.sky > 0.5, each, 0.0) for each in (precision, every))
        near = precision
    else:
        if order:  # where the sky fades its amount is not known
            is_doubtful = edge & (away > place.half_width + 0.5)
            precision, every = (np.where(is_doubtful, 0.0, each) for each in (precision, every))
        near = np.where(away < place.half_width + 3.0 * place.prior + 1.0, precision, 0.0)
    profile = planned_profile(
        place.plan,
        offsets,
        place.half_width,
        float(np.median([line.width for line in lines])) if extended else _POINT,
        slit=place.slit,
        passed=place.sky if extended else None,
        widest=_WIDEST if place.slit is None else max(0.5 * float(np.median(place.slit.sum(1))), _WIDEST),
        distances=echoes.distances,
        strengths=echoes.strengths,
    )
    planned = np.stack([profile.distances, profile.strengths])
    astray = 0.1 if all(places is not None for places in place.nods) else 0.3
    astray = 0.03 if place.are_nods_exact else astray
    rounds = 1 + (order > 0) + 3 * bool(others or profile.strengths.any())
    for number in range(rounds):
        own = images
        if order or others:
            flux, amplitudes, beside, level, deviations = parts_of(images, precision, profile, others, place.sky, order)
            if number == 0 and others:
                others = others.confirmed(amplitudes, deviations, flux)
            own = images - beside - level
            rest = own - flux[:, None, :] * profile.response(n_rows)[0]
            if order and number and not extended:  # the profile has been fitted once
                unlike = _unlike_background(rest, precision, profile, others, place.sky)
                precision, every = (np.where(unlike, 0.0, each) for each in (precision, every))
            if number and others:
                others = others.moved(rest, precision, profile, amplitudes)
        taken = others.taken(profile, n_rows)
        if extended:  # the skirt of the source and the background are fitted together
            profile = fit_trace(own, near * ~taken, profile, place.prior, levels=levels_of(place.sky, order))
        elif others.overlap:
            profile = fit_overlapping(images, near, profile, others, place.sky, order, place.prior)
        else:
            profile = fit_trace(own, near * ~taken, profile, place.prior)
        if profile.strengths.any() and not (extended and _overlaps(profile)):
            # the strength of an echo is not known from the light if other sources or a background are fitted
            unlike = np.where(others.strengths.any(1) | (order > 0), 1e-4, 0.2)
            profile = fit_echoes(own, precision * ~taken, profile, planned, astray, unlike)
    return profile, others, every


def _unlike_background(
    residual: np.ndarray, precision: np.ndarray, profile: Profile, others: Others, sky: np.ndarray
) -> np.ndarray:
    """Return pixels beside all known light, in lines along the trace whose light is unlike that of most others.

    They have light that no part of the model describes, such as a companion beside a subtracted nod, or its echo. A
    background that is fitted would take this light, and the profile of the source would then grow wings.
    """
    distance = profile.distance(residual.shape[1])
    beside = beside_all(profile, residual.shape[1], others, APART) & (sky > 0.5)
    number = np.floor(distance - distance.min()).astype(int)
    found = np.zeros(residual.shape, dtype=bool)
    for e, where in enumerate(number):
        weight = np.where(beside[e], precision[e], 0.0)
        total = np.bincount(where.ravel(), weight.ravel())
        seen = total > 0
        if seen.sum() < _LEAST_LINES:
            continue
        mean = np.bincount(where.ravel(), (weight * residual[e]).ravel()) / np.where(seen, total, 1.0)
        away = np.abs(mean - np.median(mean[seen]))
        spread = np.maximum(1.4826 * np.median(away[seen]), 1 / np.sqrt(np.where(seen, total, 1.0)))
        found[e] = (seen & (away > SIGNIFICANCE * spread))[where] & beside[e]
    return found


def _lines_of(image: np.ndarray, precision: np.ndarray, place: Place, e: int, order: int) -> Lines:
    """Return the lines of one exposure: those that were planned, and others that are seen."""
    seen = find_lines(
        image,
        precision,
        place.plan[e],
        place.sky[e],
        has_level=order > 0,
        is_planned=place.is_planned,
        prior=place.prior,
        nods=place.nods[e],
        extended=place.slit is not None,
    )
    if not place.others[e].size or order:  # a background that is fitted would take the wings of two sources
        return seen
    return planned_lines(
        image,
        precision,
        place.plan[e],
        place.sky[e],
        has_level=order > 0,
        prior=place.prior,
        others=place.others[e],
        seen=seen,
    )


def _overlaps(profile: Profile) -> bool:
    """Return whether a source overlaps with its echoes, so that its light hardly constrains the echoes."""
    nearest = np.abs(profile.distances[profile.strengths > 0]).min()
    return bool(nearest < 4.5 * np.median(profile.width()))
