"""Find snowballs by their charge: halos are fitted to rings around saturated cores."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.ramps.rings import STEPS_PER_SIGMA, fill_disc, ring_histograms
from nsxr.kernels.ramps.snowballs import Ellipses, SnowballLimits, fill_ellipses, find_ellipses, find_regions
from nsxr.model.dq import JUMP, GroupFlag
from nsxr.model.variables import EVENT_PROPERTIES

__all__ = ["Halo", "fit_halo", "flag_halos", "smallest_charge"]

SATURATED = np.uint8(GroupFlag.SATURATED.value)

_PROPERTIES = len(EVENT_PROPERTIES) - 1
_BRIGHT = 5.0  # sigma; a ring with a larger mean is too bright, because the scaled differences are clipped
_SURE, _STILL = 150.0, 50.0
"""By how much chi square has to fall for a halo to be accepted, and for a halo that was found in the group before.
Correlated noise of readouts without interleaved reference pixels makes chi square fall by more than 50 at one place in
a hundred, and by up to 130.
"""
_LEAST_PIXELS = 5  # least number of pixels of a ring
_LEAST_RINGS = 4
_FARTHEST = 6.0  # number of e-foldings to which the fit is extrapolated inwards
_LEAST_DEPTH = 3  # least depth of a region at an edge [pixel]; its least length along the edge is twice as much
_SCALES = np.geomspace(0.1, 2.0, 30)  # scales of exponentials [radius of the core]
_POWERS = np.arange(2.5, 9.0, 0.25)  # exponents of power laws


class _Frames(NamedTuple):
    """One integration, (group, row, column or pair): new flags, flags as given, scaled differences."""

    cube: np.ndarray
    flags: np.ndarray
    planes: np.ndarray


class Halo(NamedTuple):
    """The fit to rings: amplitude at the edge of the core [sigma], NaN if too steep to measure; reach [pixel]."""

    amplitude: float
    reach: float


def _means(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and number of the pixels of each ring without the outliers, and the noise of one pixel [sigma]."""
    value = np.arange(-128, 128) / STEPS_PER_SIGMA
    number = histogram.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.cumsum(histogram, 1)
        median = value[np.argmax(2 * below >= number[:, None], axis=1)]
        is_faint = (number >= _LEAST_PIXELS) & (median < 1)
        spread = np.abs(value - median[:, None])
        noise = 1.0
        if is_faint.any():
            steps = np.rint(spread[is_faint] * STEPS_PER_SIGMA).astype(int)
            deviations = np.cumsum(np.bincount(steps.ravel(), histogram[is_faint].ravel()))
            noise = max(1.4826 * np.argmax(2 * deviations >= deviations[-1]) / STEPS_PER_SIGMA, 0.3)
        kept = histogram * (spread < 3.5 * noise)
        count = kept.sum(1)
        mean = (kept * value).sum(1) / count
    return np.where(count > 0, mean, 0.0), count, float(noise)


def fit_halo(histogram: np.ndarray, core: float, limit: float, sure: float = _SURE) -> Halo | None:
    """Fit the fall of charge, and a level, to the rings outside a core.

    The fall is an exponential from the edge of the core or a power law from its centre, whichever fits better. Rings
    that are so bright that their differences are clipped are not fitted, but always belong to the halo.

    Parameters
    ----------
    histogram : (ring, 256) int
        From :func:`ring_histograms`.
    core : float
        Radius of the core [pixel].
    limit : float
        Least charge that matters [sigma of a difference]. The halo ends where the charge falls below it.
    sure : float
        By how much chi square has to fall.

    Returns
    -------
    Halo or None
        None if there is no charge outside the core.
    """
    mean, count, noise = _means(histogram)
    ring = np.arange(mean.size)
    is_outside = (ring >= core) & (count >= _LEAST_PIXELS)
    bright = np.flatnonzero(is_outside & (mean > _BRIGHT))
    inner = float(bright[-1] + 1) if bright.size else 0.0
    chosen = is_outside & (ring >= inner)
    if chosen.sum() < _LEAST_RINGS:
        return Halo(np.nan, inner) if inner else None
    distance, values, variance = ring[chosen] + 0.5, mean[chosen], noise**2 / count[chosen]
    start, scales = distance[0], core * _SCALES
    far = distance.size // 2  # usually no charge here: correlated noise of neighbours shows as scatter of the means
    variance = variance + max(np.var(values[far:]) - np.mean(variance[far:]), 0.0)
    weight = 1 / variance
    shape = np.concatenate([np.exp((start - distance) / scales[:, None]), (start / distance) ** _POWERS[:, None]])
    # amplitude and level of each shape by weighted least squares
    centred = shape - (shape @ weight)[:, None] / weight.sum()
    covariance = centred @ (weight * values)
    norm = (centred**2) @ weight
    fall = np.where(covariance > 0, covariance**2 / norm, 0.0)  # fall of chi square
    best = int(np.argmax(fall))
    if fall[best] < sure:
        return Halo(np.nan, inner) if inner else None
    amplitude = float(covariance[best] / norm[best])
    ratio = max(amplitude / limit, 1.0)
    if best < scales.size:
        scale = scales[best]
        reach, rise = start + scale * np.log(ratio), (start - core) / scale
    else:
        power = _POWERS[best - scales.size]
        reach, rise = start * ratio ** (1 / power), power * np.log(start / core)
    known = amplitude * np.exp(rise) if rise < _FARTHEST else np.nan
    return Halo(float(known), max(float(reach), inner))


def smallest_charge(group: int, groups: int, tolerance: float) -> float:
    """Return the charge [sigma of a difference] that, arriving before a group, shifts the slope by ``tolerance`` sigma.

    This is for a ramp with read noise alone. With photon noise the slope shifts by fewer sigma.
    """
    before = group * (groups - group)
    return float(tolerance / (np.sqrt(2) * before * np.sqrt(3 / (groups * (groups**2 - 1)))))


def flag_halos(
    groupdq: np.ndarray,
    scaled: np.ndarray,
    *,
    edges: tuple[int, int, int, int],
    tolerance: float,
    limits: SnowballLimits,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flag snowballs out to where their charge no longer matters, in each integration.

    Parameters
    ----------
    groupdq : (integration, group, row, column) uint8
        Not changed.
    scaled : (integration, group, row, pair) int8
        From :func:`nsxr.kernels.ramps.rings.scaled_differences`.
    edges : tuple of int
        First and last light-sensitive row, first and last light-sensitive column.
    tolerance : float
        ``halo_tolerance`` of :func:`nsxr.ramps.snowballs.flag_snowballs`.
    limits : SnowballLimits
        Least and largest sizes.
    most : int
        Largest number of snowballs of an integration in the table. All snowballs are flagged.

    Returns
    -------
    flags : (integration, group, row, column) uint8
        ``groupdq`` with JUMP_DET and SATURATED added.
    cores : (integration, row, column) bool
        Large saturated cores, before they are enlarged.
    events : (integration,) int64
        Number of snowballs.
    table : (integration, event, property) float32
        :data:`nsxr.model.variables.EVENT_PROPERTIES` without the first one, with positions in the array; NaN beyond the
        last snowball.
    """
    integrations, _, rows, columns = groupdq.shape
    flags = groupdq.copy()
    cores = np.zeros((integrations, 1, rows, columns), np.uint8)
    events = np.zeros(integrations, np.int64)
    table = np.full((integrations, most, _PROPERTIES), np.nan, np.float32)
    for integration in range(integrations):
        frames = _Frames(flags[integration], groupdq[integration], scaled[integration])
        found = _flag_cores(frames, cores[integration], edges, tolerance, limits)
        found += _flag_at_edges(frames, edges, tolerance, limits, found)
        events[integration] = len(found)
        found.sort()
        table[integration, : len(found)] = np.reshape(found[:most], (-1, _PROPERTIES))
    return flags, cores[:, 0] != 0, events, table


def _flag_cores(
    frames: _Frames, cores: np.ndarray, edges: tuple[int, int, int, int], tolerance: float, limits: SnowballLimits
) -> list[tuple[float, ...]]:
    """Flag the snowballs around saturated cores, and large cores in ``cores``; return the rows of the table."""
    cube, before, planes = frames
    widest = 2 * limits.max_extended_radius
    found: list[tuple[float, ...]] = []
    for group in range(len(cube)):
        now, earlier = before[group], before[group - 1] if group else np.zeros_like(before[0])
        saturated = find_ellipses(now, SATURATED, earlier, SATURATED, limits.min_sat_area)
        radii = np.sqrt((saturated.minor + 1) * (saturated.major + 1)) / 2
        circles = _at_edges(now, SATURATED, earlier, edges, (limits.min_sat_area, 1)) if radii.size else []
        for number in range(radii.size):
            row, column = float(saturated.row[number]), float(saturated.column[number])
            circle = _nearest(row, column, float(radii[number]), circles)
            start = _start(before, planes, group, *circle)
            snowball = None if start is None else _flag_snowball(frames, start, circle, tolerance, limits)
            if snowball is None:
                continue
            found.append(snowball)
            if saturated.minor[number] > limits.min_sat_radius_extend:
                ellipse = Ellipses(*(values[number : number + 1] for values in saturated))
                axes = (np.minimum(axis + 2 * limits.sat_expand, widest) for axis in (ellipse.minor, ellipse.major))
                fill_ellipses(cube[group:], SATURATED, np.uint8(0), ellipse, *axes)
                fill_ellipses(cores, JUMP, np.uint8(0), ellipse, ellipse.minor, ellipse.major)
    return found


def _flag_at_edges(
    frames: _Frames,
    edges: tuple[int, int, int, int],
    tolerance: float,
    limits: SnowballLimits,
    known: list[tuple[float, ...]],
) -> list[tuple[float, ...]]:
    """Flag the snowballs whose cores are outside the detector, unless they are known."""
    found: list[tuple[float, ...]] = []
    for start in range(1, len(frames.flags)):
        now = frames.flags[start]
        for row, column, radius in _at_edges(now, JUMP, now, edges, (limits.min_jump_area, _LEAST_DEPTH)):
            if any(e[0] == start and np.hypot(row - e[1], column - e[2]) < e[5] + radius for e in (*known, *found)):
                continue
            # jumps end where the halo is already faint, so its rings begin at half the radius
            snowball = _flag_snowball(frames, start, (row, column, radius / 2), tolerance, limits, is_doubtful=True)
            found += [] if snowball is None else [snowball]
    return found


def _rings(core: float, max_extended_radius: int) -> int:
    return int(min(10 * core + 30, max_extended_radius + 10))


def _start(flags: np.ndarray, planes: np.ndarray, group: int, row: float, column: float, core: float) -> int | None:
    """Return the group in which pixels around a core jump: the one in which the core saturates, or one beside it."""
    first = int(core) + 1
    for start in range(max(group - 1, 1), min(group + 2, len(flags))):
        _, pixels, jumps = ring_histograms(planes[start], flags[start], row, column, first + 3)
        if 2 * jumps[first:].sum() >= max(pixels[first:].sum(), _LEAST_PIXELS):
            return start
    return None


def _flag_snowball(
    frames: _Frames,
    start: int,
    circle: tuple[float, float, float],
    tolerance: float,
    limits: SnowballLimits,
    is_doubtful: bool = False,
) -> tuple[float, ...] | None:
    """Flag one snowball, from the group in which it arrives to the last with charge; return its row of the table.

    ``circle`` is row, column and radius of the core.
    """
    (cube, flags, planes), (row, column, core) = frames, circle
    max_extended_radius = limits.max_extended_radius
    groups, rings = len(flags), _rings(core, max_extended_radius)
    first: Halo | None = None
    reach, pixels = float(max_extended_radius), 0
    for group in range(start, groups):
        histogram, _, _ = ring_histograms(planes[group], flags[group], row, column, rings)
        limit = smallest_charge(group, groups, tolerance)
        halo = fit_halo(histogram, core, limit, _SURE if group == start else _STILL)
        if halo is None or (is_doubtful and (np.isnan(halo.amplitude) or halo.reach <= core)):
            if group > start + 1:  # charge has come for some groups; it may still come, too faint to be found
                pixels += fill_disc(cube[group], JUMP, SATURATED, row, column, reach)
            break
        first = first or halo
        reach = min(reach, halo.reach)
        pixels += fill_disc(cube[group], JUMP, SATURATED, row, column, reach)
    if first is None:
        return None
    return (start, row, column, core, first.amplitude, min(first.reach, max_extended_radius), pixels)


def _at_edges(
    plane: np.ndarray, wanted: np.uint8, other: np.ndarray, edges: tuple[int, int, int, int], least: tuple[float, int]
) -> list[tuple[float, float, float]]:
    """Return centre and radius of the circles whose segments are regions at an edge.

    Regions are those of :func:`find_regions`, without pixels that are SATURATED in ``other``. They have at least the
    area and the depth in ``least``.
    """
    found = []
    regions = find_regions(plane, wanted, other, SATURATED)
    for region in regions[regions[:, 0] >= least[0]]:
        box = region[6:10]  # first and last row, first and last column
        for axis in (0, 1):
            first, last = box[2 * axis : 2 * axis + 2]
            across = box[2 - 2 * axis : 4 - 2 * axis]
            length = across[1] - across[0] + 1
            low, high = edges[2 * axis : 2 * axis + 2]
            touched = [(low, 1, last - low + 1)] if first <= low + 1 else []
            touched += [(high, -1, high - first + 1)] if last >= high - 1 else []
            for edge, inwards, depth in touched:
                if depth >= least[1] and length >= 2 * least[1]:
                    radius = (length**2 / 4 + depth**2) / (2 * depth)
                    place = edge - inwards / 2 + inwards * (depth - radius), across.mean()
                    found.append((float(place[axis]), float(place[1 - axis]), float(radius)))
    return found


def _nearest(
    row: float, column: float, core: float, circles: list[tuple[float, float, float]]
) -> tuple[float, float, float]:
    """Return the circle whose segment is a core at an edge, or the core itself."""
    near = [circle for circle in circles if np.hypot(circle[0] - row, circle[1] - column) < 2 * core]
    return min(near, key=lambda circle: np.hypot(circle[0] - row, circle[1] - column), default=(row, column, core))
