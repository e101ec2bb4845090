"""Kernels that search ramps for jumps by likelihood, see :mod:`nsxr.kernels.ramps.covariance` for the covariance.

A jump is a free parameter that is added to one difference, or one for each of two differences in succession. By how
much chi square falls follows from C^-1 near the diagonal, without another fit.
"""

from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.covariance import (
    Differences,
    Factors,
    covariance_of,
    factor,
    new_differences,
    new_factors,
)
from nsxr.kernels.ramps.jump import JumpSizes, code_of, difference_at
from nsxr.kernels.ramps.tiles import Columns, Ramps
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, UNUSABLE_OR_JUMP

__all__ = ["StepSearch", "find_steps"]

_TILE_COLUMNS = 32
_LEAST = 3
"""Least number of differences that a search leaves. With three it cannot tell which is a jump; these are compared."""


class StepSearch(NamedTuple):
    """The rules of the search for jumps.

    Attributes
    ----------
    n_frames : int
        Frames averaged into a group.
    shared : float
        From :func:`nsxr.kernels.ramps.covariance.shared_part`.
    single, double : float
        By how much chi square has to fall for a jump in one difference, and for a jump in two differences in
        succession.
    three, two : float
        Thresholds [sigma] for ramps with only three or two usable differences: distance from the median of three, or
        from the smaller one of two.
    """

    n_frames: int
    shared: float
    single: float
    double: float
    three: float
    two: float


class _Found(NamedTuple):
    """The best jump of each column.

    Attributes
    ----------
    excess : (column,) float64
        Fall of chi square, less the threshold.
    where : (column,) int64
        The first difference of the jump, plus the number of all differences if the jump has two differences; -1 if
        there is no jump.
    change : (column,) float64
        Change of the slope.
    later : (4, column) float64
        Scratch.
    """

    excess: np.ndarray
    where: np.ndarray
    change: np.ndarray
    later: np.ndarray


class _Searched(NamedTuple):
    """The columns of a tile that are searched.

    Attributes
    ----------
    place : (column,) int64
        The column of the tile.
    number : (column,) int64
        Number of usable differences.
    total : (column,) float64
        Sum of the usable differences.
    """

    place: np.ndarray
    number: np.ndarray
    total: np.ndarray


@kernel
def _search(
    tile: Differences,
    shared: float,
    steps: int,
    columns: int,
    factors: Factors,
    single: float,
    double: float,
    found: _Found,
) -> None:  # pragma: no cover
    """Find for each column the jump, in one difference or two, for which chi square falls most."""
    _, used, rate, noise = tile
    inverse, reduced, ones, weight, slope, _ = factors
    excess, where, change, later = found
    for c in range(columns):
        excess[c] = 0.0
        where[c] = -1
        change[c] = 0.0
        for i in range(4):
            later[i, c] = 0.0
    for step in range(steps):
        k = steps - 1 - step
        after = min(k + 1, steps - 1)
        for c in range(columns):
            joined = used[k, c] * used[after, c] if step > 0 else 0.0
            factor = (rate[c] * shared - noise[c]) * joined * inverse[k, c]
            # rows of C^-1 (d - slope) and C^-1 1, and the two elements of C^-1 beside the diagonal and on it
            left = (reduced[k, c] - slope[c] * ones[k, c]) * inverse[k, c] - factor * later[0, c]
            own = ones[k, c] * inverse[k, c] - factor * later[1, c]
            element = inverse[k, c] + factor * factor * later[3, c]
            beside = -factor * later[3, c] - own * later[1, c] / weight[c]
            free = element - own * own / weight[c]
            is_used = used[k, c] > 0
            gain = left * left / free
            score = gain - single if is_used & (free > 0) else -1.0
            amplitude = left / free
            is_best = score > excess[c]
            excess[c] = score if is_best else excess[c]
            where[c] = k if is_best else where[c]
            change[c] = own * amplitude / weight[c] if is_best else change[c]
            # together with the difference after it
            determinant = free * later[2, c] - beside * beside
            first = (left * later[2, c] - later[0, c] * beside) / determinant
            second = (later[0, c] * free - left * beside) / determinant
            gain = first * left + second * later[0, c]
            score = gain - double if (joined > 0) & (determinant > 0) else -1.0
            is_best = score > excess[c]
            excess[c] = score if is_best else excess[c]
            where[c] = k + steps if is_best else where[c]
            change[c] = (own * first + later[1, c] * second) / weight[c] if is_best else change[c]
            later[0, c] = left
            later[1, c] = own
            later[2, c] = free
            later[3, c] = element


@kernel
def _most_deviant(
    differences: np.ndarray, used: np.ndarray, column: int, steps: int, variance: float, three: float, two: float
) -> int:  # pragma: no cover
    """Return which of three differences deviates from their median, or which of two from the smaller; -1 for none."""
    count = 0
    lowest, highest, total, nearest = np.inf, -np.inf, 0.0, np.inf
    for k in range(steps):
        if used[k, column] > 0:
            value = differences[k, column]
            count += 1
            total += value
            lowest, highest = min(lowest, value), max(highest, value)
            nearest = value if abs(value) < abs(nearest) else nearest
    if count < 2 or count > 3:
        return -1
    location = total - lowest - highest if count == 3 else nearest
    limit = (three if count == 3 else two) * np.sqrt(abs(location) + 2.0 * variance)
    found, largest = -1, limit
    for k in range(steps):
        distance = abs(differences[k, column] - location)
        if used[k, column] > 0 and distance > largest:
            found, largest = k, distance
    return found


@kernel
def _take_differences(
    ramps: Ramps, integration: int, at: Columns, tile: Differences, searched: _Searched, code: np.ndarray
) -> None:  # pragma: no cover
    """Fill a tile with the differences of an integration, and the code with the flags that are kept."""
    sci, groupdq, gain = ramps
    row, start, columns = at
    differences, used, count, total = tile.values, tile.used, searched.number, searched.total
    groups = sci.shape[1]
    for group in range(groups):
        for c in range(columns):
            code[integration, group, row, start + c] = groupdq[integration, group, row, start + c] & UNUSABLE_OR_JUMP
    for c in range(columns):
        count[c] = 0
        total[c] = 0.0
    for k in range(groups - 1):
        for c in range(columns):
            before = groupdq[integration, k, row, start + c]
            after = groupdq[integration, k + 1, row, start + c]
            difference = difference_at(sci, gain, integration, k, row, start + c)
            is_usable = ((before | after) & UNUSABLE_GROUP == 0) & (after & JUMP == 0)
            is_usable &= abs(difference) < np.float32(np.inf)
            differences[k, c] = difference if is_usable else np.float32(0)
            used[k, c] = 1.0 if is_usable else 0.0
            count[c] += is_usable
            total[c] += differences[k, c]


@kernel
def _compare_few(
    tile: Differences, c: int, variance: float, search: StepSearch, sizes: JumpSizes, code: np.ndarray
) -> None:  # pragma: no cover
    """Flag the jumps of a ramp of two or three differences in its code (group,)."""
    differences, used = tile.values, tile.used
    steps = code.size - 1
    k = _most_deviant(differences, used, c, steps, variance, search.three, search.two)
    while k >= 0:
        size = abs(differences[k, c])
        code[k + 1] |= code_of(size, size / np.sqrt(2.0 * variance), sizes)
        used[k, c] = 0.0
        k = _most_deviant(differences, used, c, steps, variance, search.three, search.two)


@kernel
def _choose_columns(
    images: tuple[np.ndarray, np.ndarray, np.ndarray],
    integration: int,
    at: Columns,
    search: StepSearch,
    sizes: JumpSizes,
    tile: Differences,
    searched: _Searched,
    code: np.ndarray,
) -> int:  # pragma: no cover
    """Move the columns that are searched to the front of the tile; return how many there are.

    ``images`` are gain, read noise and given rate. Ramps of two or three differences are finished here.
    """
    gain, readnoise, given_rate = images
    row, start, columns = at
    differences, used, rate, noise = tile
    place, count, total = searched
    steps = code.shape[1] - 1
    active = 0
    for c in range(columns):
        single_noise = np.float64(readnoise[row, start + c]) * gain[row, start + c]
        variance = single_noise * single_noise / (2.0 * search.n_frames)
        if not (variance > 0.0) & (variance < np.inf):
            continue
        if count[c] <= _LEAST:
            _compare_few(tile, c, variance, search, sizes, code[integration, :, row, start + c])
            continue
        if given_rate.size > 0:
            expected = np.float64(given_rate[row, start + c]) * gain[row, start + c]
        else:
            expected = total[c] / count[c]
        rate[active] = expected if expected > 0.0 else 0.0
        noise[active] = variance
        place[active] = c
        count[active] = count[c]
        if active < c:
            for k in range(steps):
                differences[k, active] = differences[k, c]
                used[k, active] = used[k, c]
        active += 1
    return active


@kernel
def _flag_found(
    integration: int,
    at: Columns,
    active: int,
    shared: float,
    is_given: bool,
    sizes: JumpSizes,
    work: tuple[Differences, Factors, _Found, _Searched],
    code: np.ndarray,
) -> int:  # pragma: no cover
    """Flag the jump of each column, move columns with a jump to the front for another search, return their number."""
    tile, factors, best, searched = work
    differences, used, rate, noise = tile
    where, change, slope = best.where, best.change, factors.slope
    place, count = searched.place, searched.number
    steps = code.shape[1] - 1
    left_over = 0
    for j in range(active):
        if where[j] < 0:
            continue
        c = at.start + place[j]
        fitted = slope[j] - change[j]
        scatter = np.sqrt(rate[j] * (1.0 - 2.0 * shared) + 2.0 * noise[j])
        first = where[j] % steps
        end = first + (2 if where[j] >= steps else 1)
        for k in range(first, end):
            step = differences[k, j] - fitted
            code[integration, k + 1, at.row, c] |= code_of(step, abs(step) / scatter, sizes)
            differences[k, j] = 0.0
            used[k, j] = 0.0
        left = count[j] - (end - first)
        if left <= _LEAST:
            continue
        for k in range(steps):
            differences[k, left_over] = differences[k, j]
            used[k, left_over] = used[k, j]
        rate[left_over] = rate[j] if is_given else max(fitted, 0.0)
        noise[left_over] = noise[j]
        place[left_over] = place[j]
        count[left_over] = left
        left_over += 1
    return left_over


@kernel
def find_steps(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    given_rate: np.ndarray,
    search: StepSearch,
    sizes: JumpSizes,
) -> np.ndarray:  # pragma: no cover
    """Flag jumps: differences, single or two in succession, without which the rest of the ramp fits far better.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group are not used.
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    given_rate : (row, column) or (0, 0) float32 [DN per group]
        Rate for the photon noise. If empty, the rate is the mean difference of the ramp at first, then the slope
        without the jumps found so far. A large jump makes the mean difference too large, but not so large that the jump
        is missed.
    search : StepSearch
        Rules of the search.
    sizes : JumpSizes
        Sizes of jumps that flag more than their own group.

    Returns
    -------
    (integration, group, row, column) uint8
        Detection codes, as from :func:`nsxr.kernels.ramps.jump.flag_outside`.
    """
    integrations, groups, rows, all_columns = sci.shape
    steps = groups - 1
    width = min(all_columns, _TILE_COLUMNS)
    is_given = given_rate.size > 0
    ramps, images = Ramps(sci, groupdq, gain), (gain, readnoise, given_rate)
    tile, factors = new_differences(steps, width), new_factors(steps, width)
    found = _Found(np.empty(width), np.empty(width, np.int64), np.empty(width), np.empty((4, width)))
    searched = _Searched(np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width))
    work = (tile, factors, found, searched)
    code = np.empty(sci.shape, np.uint8)
    covariance = covariance_of(search.shared, 0.0, -1.0)
    for integration in range(integrations):
        for row in range(rows):
            for start in range(0, all_columns, width):
                at = Columns(row, start, min(width, all_columns - start))
                _take_differences(ramps, integration, at, tile, searched, code)
                active = _choose_columns(images, integration, at, search, sizes, tile, searched, code)
                while active > 0:
                    factor(tile, covariance, steps, active, factors)
                    _search(tile, search.shared, steps, active, factors, search.single, search.double, found)
                    active = _flag_found(integration, at, active, search.shared, is_given, sizes, work, code)
    return code
