"""Connected regions of flags, their moment ellipses, and snowballs that are flagged as ellipses."""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.model.dq import JUMP, GroupFlag

__all__ = [
    "Ellipses",
    "SnowballLimits",
    "fill_ellipse",
    "fill_ellipses",
    "find_ellipses",
    "find_regions",
    "flag_large_events",
    "is_near_edge",
]

SATURATED = np.uint8(GroupFlag.SATURATED.value)

_SMALLEST_RING = 8  # pixels; a smaller region has no hole, because pixels outside connect through corners


class Ellipses(NamedTuple):
    """Ellipses of regions, one element for each: centres [pixel], full axes [pixel], angle [radian].

    The angle is that of the major axis from the direction of growing rows towards growing columns.
    """

    row: np.ndarray
    column: np.ndarray
    minor: np.ndarray
    major: np.ndarray
    angle: np.ndarray


class SnowballLimits(NamedTuple):
    """Least and largest sizes of snowballs, see :func:`nsxr.ramps.snowballs.flag_snowballs`."""

    min_sat_area: float
    min_jump_area: float
    min_sat_radius_extend: float
    sat_expand: int
    max_extended_radius: int


@kernel
def find_regions(
    plane: np.ndarray, wanted: np.uint8, other: np.ndarray, excluded: np.uint8
) -> np.ndarray:  # pragma: no cover
    """Find 8-connected regions of pixels by joining runs along rows.

    Parameters
    ----------
    plane, other : (row, column) uint8
        A pixel counts if it has a ``wanted`` bit in ``plane`` and no ``excluded`` bit in ``other``.

    Returns
    -------
    (region, 11) float64
        Number of pixels; sums of y, x, y^2, x^2, y*x; first row, last row, first column, last column; column of the
        first pixel. Regions are in raster order. Sums are counted from the first pixel of the region, so that they are
        exact and do not depend on the position of the region.
    """
    rows, columns = plane.shape
    n_runs = 0
    for r in range(rows):
        for c in range(columns):
            is_on = ((plane[r, c] & wanted) != 0) & ((other[r, c] & excluded) == 0)
            left = max(c - 1, 0)
            was_on = (c > 0) & ((plane[r, left] & wanted) != 0) & ((other[r, left] & excluded) == 0)
            n_runs += is_on & (not was_on)
    start = np.empty(n_runs, np.int64)
    stop = np.empty(n_runs, np.int64)
    row = np.empty(n_runs, np.int64)
    parent = np.empty(n_runs, np.int64)
    if n_runs == 0:
        return np.empty((0, 11), np.float64)
    k = 0
    above, above_end = 0, 0  # first and last run of the row before
    for r in range(rows):
        first = k
        c = 0
        while c < columns:
            if (plane[r, c] & wanted) == 0 or (other[r, c] & excluded) != 0:
                c += 1
                continue
            start[k] = c
            while c < columns and (plane[r, c] & wanted) != 0 and (other[r, c] & excluded) == 0:
                c += 1
            stop[k], row[k], parent[k] = c, r, k
            while above < above_end and stop[above] < start[k]:
                above += 1
            near = above
            while near < above_end and start[near] <= stop[k]:
                a, b = near, k
                while parent[a] != a:
                    parent[a] = parent[parent[a]]
                    a = parent[a]
                while parent[b] != b:
                    parent[b] = parent[parent[b]]
                    b = parent[b]
                parent[max(a, b)] = min(a, b)
                near += 1
            k += 1
        above, above_end = first, k
    region = np.empty(n_runs, np.int64)
    n_regions = 0
    for k in range(n_runs):
        root = parent[k]  # the root of a region is its first run, which already has a number
        while parent[root] != root:
            root = parent[root]
        if root == k:
            region[k] = n_regions
            n_regions += 1
        else:
            region[k] = region[root]
    found = np.zeros((n_regions, 11), np.float64)
    for k in range(n_runs):
        one = found[region[k]]
        if one[0] == 0:
            one[6], one[8], one[9], one[10] = row[k], start[k], stop[k] - 1, start[k]
        a, b, y = start[k] - one[10], stop[k] - one[10], row[k] - one[6]
        n = b - a
        x = n * (a + b - 1) / 2
        one[0] += n
        one[1] += n * y
        one[2] += x
        one[3] += n * y * y
        one[4] += (b * (b - 1) * (2 * b - 1) - a * (a - 1) * (2 * a - 1)) / 6
        one[5] += y * x
        one[7] = row[k]
        one[8] = min(one[8], start[k])
        one[9] = max(one[9], stop[k] - 1)
    return found


def find_ellipses(
    plane: np.ndarray, wanted: np.uint8, other: np.ndarray, excluded: np.uint8, least_area: float
) -> Ellipses:
    """Return the moment ellipses of regions whose area, with holes filled, is at least ``least_area`` pixels.

    Axes are those of the uniform ellipse with the second moments of the region's pixels, less one pixel. An axis is
    negative for a line one pixel wide. Other parameters are those of :func:`find_regions`.
    """
    regions = find_regions(plane, wanted, other, excluded)
    is_large = regions[:, 0] >= least_area
    if least_area > _SMALLEST_RING:
        from scipy import ndimage  # rings are rare, and scipy.ndimage takes 0.05 s to import

        boxes = (regions[:, 7] - regions[:, 6] + 1) * (regions[:, 9] - regions[:, 8] + 1)
        for k in np.flatnonzero(~is_large & (regions[:, 0] >= _SMALLEST_RING) & (boxes >= least_area)):
            first_row, last_row, first, last, seed = regions[k, 6:].astype(int)
            window = np.s_[first_row : last_row + 1, first : last + 1]
            mask = ((plane[window] & wanted) != 0) & ((other[window] & excluded) == 0)
            labels, _ = ndimage.label(mask, np.ones((3, 3)))
            own = labels == labels[0, seed - first]
            is_large[k] = ndimage.binary_fill_holes(own, np.ones((3, 3))).sum() >= least_area
    area, y, x, y2, x2, yx, first_row, _, _, _, first_column = regions[is_large].T
    # area^2 times the moments: differences of integers, so that a round region is exactly round
    moment_y, moment_x, moment_yx = area * y2 - y**2, area * x2 - x**2, area * yx - y * x
    half_sum, half_difference = (moment_y + moment_x) / 2, (moment_y - moment_x) / 2
    half = np.hypot(half_difference, moment_yx)
    major = 4 * np.sqrt(half_sum + half) / area - 1
    minor = 4 * np.sqrt(np.maximum(half_sum - half, 0)) / area - 1
    angle = np.arctan2(moment_yx, half_difference) / 2
    row, column = first_row + y / area, first_column + x / area
    return Ellipses(row, column, minor, major, angle)


@kernel
def fill_ellipse(
    cube: np.ndarray,
    flag: np.uint8,
    blocked: np.uint8,
    row: int,
    column: int,
    semi_minor: int,
    semi_major: int,
    angle: float,
) -> None:  # pragma: no cover
    """Set a flag inside an ellipse in all planes of ``cube`` (group, row, column), in place.

    Pixels that have the ``blocked`` bit do not change. An ellipse without area changes no pixel.
    """
    groups, rows, columns = cube.shape
    if semi_minor <= 0 or semi_major <= 0:
        return
    if semi_minor == semi_major:
        angle = 0.0  # a circle must not depend on how a rotation is rounded
    cosine, sine = np.cos(angle), np.sin(angle)
    reach = max(semi_minor, semi_major)
    for r in range(max(row - reach, 0), min(row + reach + 1, rows)):
        for c in range(max(column - reach, 0), min(column + reach + 1, columns)):
            along = ((r - row) * cosine + (c - column) * sine) / semi_major
            across = ((r - row) * sine - (c - column) * cosine) / semi_minor
            if along * along + across * across < 1:
                for group in range(groups):
                    if cube[group, r, c] & blocked == 0:
                        cube[group, r, c] |= flag


@kernel
def _contains_any(
    ellipses: Ellipses, point_rows: np.ndarray, point_columns: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """Return for each ellipse whether it contains at least one of the points."""
    rows, columns, minors, majors, angles = ellipses
    found = np.zeros(rows.size, np.bool_)
    for k in range(rows.size):
        cosine, sine = np.cos(angles[k]), np.sin(angles[k])
        along2, across2 = (majors[k] / 2) ** 2, (minors[k] / 2) ** 2
        reach = max(abs(majors[k]), abs(minors[k])) / 2
        for p in range(point_rows.size):
            y, x = point_rows[p] - rows[k], point_columns[p] - columns[k]
            if abs(y) > reach or abs(x) > reach:
                continue
            along, across = y * cosine + x * sine, y * sine - x * cosine
            if along**2 * across2 + across**2 * along2 <= along2 * across2:
                found[k] = True
                break
    return found


def is_near_edge(ellipses: Ellipses, shape: tuple[int, int], edge_size: int) -> np.ndarray:
    """Return for each ellipse whether its centre is within ``edge_size`` pixels of an edge of the image."""
    row, column = ellipses.row, ellipses.column
    is_near_rows = (row < edge_size) | (row > max(0, shape[0] - edge_size))
    is_near_columns = (column < edge_size) | (column > max(0, shape[1] - edge_size))
    return np.asarray(is_near_rows | is_near_columns)


def fill_ellipses(
    cube: np.ndarray, flag: np.uint8, blocked: np.uint8, ellipses: Ellipses, minor: np.ndarray, major: np.ndarray
) -> None:
    """Fill ellipses with other full axes; centres and semi-axes are rounded to whole pixels."""
    whole = [np.rint(x).astype(np.int64) for x in (ellipses.row, ellipses.column, minor / 2, major / 2)]
    for row, column, semi_minor, semi_major, angle in zip(*whole, ellipses.angle, strict=True):
        fill_ellipse(cube, flag, blocked, row, column, semi_minor, semi_major, angle)


def flag_large_events(
    groupdq: np.ndarray, *, limits: SnowballLimits, expand_factor: float, sat_required_snowball: bool, edge_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flag snowballs as ellipses, group by group in each integration.

    Parameters
    ----------
    groupdq : (integration, group, row, column) uint8
        Not changed.
    limits : SnowballLimits
        Least and largest sizes.
    expand_factor, sat_required_snowball, edge_size
        As in :func:`nsxr.ramps.snowballs.flag_snowballs`.

    Returns
    -------
    flags : (integration, group, row, column) uint8
        ``groupdq`` with JUMP_DET and SATURATED added.
    cores : (integration, row, column) bool
        Large saturated cores, before they are enlarged.
    events : (integration,) int64
        Number of snowballs.
    """
    min_sat_area, min_jump_area, min_sat_radius_extend, sat_expand, max_extended_radius = limits
    integrations, groups, rows, columns = groupdq.shape
    flags = groupdq.copy()
    cores = np.zeros((integrations, rows, columns), np.uint8)
    events = np.zeros(integrations, np.int64)
    widest = 2 * max_extended_radius
    for integration in range(integrations):
        cube = flags[integration]
        for group in range(1, groups):
            now = cube[group]
            saturated = find_ellipses(now, SATURATED, cube[group - 1], SATURATED, min_sat_area)
            jumps = find_ellipses(now, JUMP, now, SATURATED, min_jump_area)
            if sat_required_snowball:
                is_snowball = is_near_edge(jumps, (rows, columns), edge_size)
                is_snowball |= _contains_any(jumps, saturated.row, saturated.column)
                if group < groups - 1 and not is_snowball.all():
                    following = find_ellipses(cube[group + 1], SATURATED, now, SATURATED, min_sat_area)
                    is_snowball |= _contains_any(jumps, following.row, following.column)
                jumps = Ellipses(*(values[is_snowball] for values in jumps))
                large = Ellipses(*(values[saturated.minor > min_sat_radius_extend] for values in saturated))
                minor, major = (np.minimum(axis + 2 * sat_expand, widest) for axis in (large.minor, large.major))
                fill_ellipses(cube[group:], SATURATED, np.uint8(0), large, minor, major)
                fill_ellipses(cores[integration : integration + 1], JUMP, np.uint8(0), large, large.minor, large.major)
            minor = np.minimum(jumps.minor * expand_factor, widest)
            major = np.minimum(jumps.major + jumps.minor * (expand_factor - 1), widest)
            fill_ellipses(cube[group : group + 1], JUMP, SATURATED, jumps, minor, major)
            events[integration] += jumps.row.size
    return flags, cores != 0, events
