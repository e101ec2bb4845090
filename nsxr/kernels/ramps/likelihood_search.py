"""Loops that search ramps for jumps by the likelihood, see :mod:`nsxr.kernels.ramps.likelihood` for the covariance.

A jump is a free parameter added to one difference, or to two in succession; what chi square loses by it follows
from C^-1 near the diagonal, without another fit.
"""

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.ramps.jump import JUMP, KEPT, LARGE, SPREAD, UNUSABLE, VERY_LARGE, difference_at
from nsxr.kernels.ramps.likelihood import factor, head_of

__all__ = ["find_steps"]

_TILE_COLUMNS = 32
_LEAST = 3
"""Differences that a search never goes below: of three it cannot tell which one is apart. They are compared instead."""


@kernel
def _search(
    used: np.ndarray,
    rate: np.ndarray,
    noise: np.ndarray,
    shared: float,
    steps: int,
    columns: int,
    inverse: np.ndarray,
    reduced: np.ndarray,
    ones: np.ndarray,
    weight: np.ndarray,
    slope: np.ndarray,
    single: float,
    double: float,
    later: np.ndarray,
    excess: np.ndarray,
    where: np.ndarray,
    change: np.ndarray,
) -> None:  # pragma: no cover
    """Find for each column the jump, of one difference or two, that takes most from chi square.

    ``excess`` is what it takes above the threshold, ``where`` the first difference, plus ``steps`` for two of them,
    and ``change`` what it does to the slope.
    """
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
    """Return which one of three or two differences is apart from their median, or from the smaller one, or -1."""
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
def find_steps(
    sci: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    given_rate: np.ndarray,
    n_frames: int,
    shared: float,
    single: float,
    double: float,
    three: float,
    two: float,
    large: float,
    very_large: float,
    min_spread: float,
    max_spread: float,
) -> np.ndarray:  # pragma: no cover
    """Flag the differences without which a ramp is likely, one or two neighbours at a time.

    Parameters
    ----------
    sci : (integration, group, row, column) float32 [DN]
    groupdq : (integration, group, row, column) uint8
        Differences that touch a DO_NOT_USE or SATURATED group are not used.
    gain : (row, column) float32 [electron/DN]
    readnoise : (row, column) float32 [DN]
        Correlated double sampling noise.
    given_rate : (row, column) or (0, 0) float32 [DN per group]
        Rate for the photon noise; if empty, the mean difference of the ramp at first, then the slope without the
        jumps found. A large jump makes the first one too large, by less than it takes to hide it.
    n_frames : int
        Frames averaged into a group.
    shared : float
        From :func:`shared_part`.
    single, double : float
        What chi square has to lose by one jump, and by two differences in succession.
    three, two : float
        Thresholds [sigma] for ramps of which only so many differences are usable: distance from the median of three, or
        from the smaller one of two.
    large, very_large : float [electron]
        Thresholds of the after-jump flags.
    min_spread, max_spread : float
        Jumps between these [standard deviations of a difference] are spread.

    Returns
    -------
    (integration, group, row, column) uint8
        As :func:`nsxr.kernels.ramps.jump.flag_outside`.
    """
    integrations, groups, rows, all_columns = sci.shape
    steps = groups - 1
    tile = min(all_columns, _TILE_COLUMNS)
    is_given = given_rate.size > 0
    differences = np.empty((steps, tile))
    used = np.empty((steps, tile))
    total = np.empty(tile)
    inverse = np.empty((steps, tile))
    reduced = np.empty((steps, tile))
    ones = np.empty((steps, tile))
    count = np.empty(tile, np.int64)
    place = np.empty(tile, np.int64)
    where = np.empty(tile, np.int64)
    rate, noise, weight = np.empty(tile), np.empty(tile), np.empty(tile)
    slope, chi_square, excess, change = np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile)
    later = np.empty((4, tile))
    code = np.empty(sci.shape, np.uint8)
    head = head_of(shared, 0.0, -1.0)
    for integration in range(integrations):
        for row in range(rows):
            for start in range(0, all_columns, tile):
                columns = min(tile, all_columns - start)
                for group in range(groups):
                    for c in range(columns):
                        code[integration, group, row, start + c] = groupdq[integration, group, row, start + c] & KEPT
                for c in range(columns):
                    count[c] = 0
                    total[c] = 0.0
                for k in range(steps):
                    for c in range(columns):
                        before = groupdq[integration, k, row, start + c]
                        after = groupdq[integration, k + 1, row, start + c]
                        difference = difference_at(sci, gain, integration, k, row, start + c)
                        is_usable = ((before | after) & UNUSABLE == 0) & (after & JUMP == 0)
                        is_usable &= abs(difference) < np.float32(np.inf)
                        differences[k, c] = difference if is_usable else np.float32(0)
                        used[k, c] = 1.0 if is_usable else 0.0
                        count[c] += is_usable
                        total[c] += differences[k, c]
                active = 0
                for c in range(columns):
                    single_noise = np.float64(readnoise[row, start + c]) * gain[row, start + c]
                    variance = single_noise * single_noise / (2.0 * n_frames)
                    if not (variance > 0.0) & (variance < np.inf):
                        continue
                    if count[c] <= _LEAST:
                        k = _most_deviant(differences, used, c, steps, variance, three, two)
                        while k >= 0:
                            size = abs(differences[k, c])
                            ratio = size / np.sqrt(2.0 * variance)
                            found = JUMP
                            found |= SPREAD if (ratio > min_spread) & (ratio < max_spread) else np.uint8(0)
                            found |= LARGE if size >= large else np.uint8(0)
                            found |= VERY_LARGE if size >= very_large else np.uint8(0)
                            code[integration, k + 1, row, start + c] |= found
                            used[k, c] = 0.0
                            k = _most_deviant(differences, used, c, steps, variance, three, two)
                        continue
                    if is_given:
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
                while active > 0:
                    factor(
                        differences,
                        used,
                        rate,
                        noise,
                        shared,
                        head,
                        steps,
                        active,
                        inverse,
                        reduced,
                        ones,
                        weight,
                        slope,
                        chi_square,
                    )
                    _search(
                        used,
                        rate,
                        noise,
                        shared,
                        steps,
                        active,
                        inverse,
                        reduced,
                        ones,
                        weight,
                        slope,
                        single,
                        double,
                        later,
                        excess,
                        where,
                        change,
                    )
                    searched, active = active, 0
                    for j in range(searched):
                        if where[j] < 0:
                            continue
                        c = start + place[j]
                        fitted = slope[j] - change[j]
                        scatter = np.sqrt(rate[j] * (1.0 - 2.0 * shared) + 2.0 * noise[j])
                        first = where[j] % steps
                        end = first + (2 if where[j] >= steps else 1)
                        for k in range(first, end):
                            step = differences[k, j] - fitted
                            ratio = abs(step) / scatter
                            found = JUMP
                            found |= SPREAD if (ratio > min_spread) & (ratio < max_spread) else np.uint8(0)
                            found |= LARGE if step >= large else np.uint8(0)
                            found |= VERY_LARGE if step >= very_large else np.uint8(0)
                            code[integration, k + 1, row, c] |= found
                            differences[k, j] = 0.0
                            used[k, j] = 0.0
                        left = count[j] - (end - first)
                        if left <= _LEAST:
                            continue
                        # the columns with a jump move together, and are searched again
                        for k in range(steps):
                            differences[k, active] = differences[k, j]
                            used[k, active] = used[k, j]
                        rate[active] = rate[j] if is_given else max(fitted, 0.0)
                        noise[active] = noise[j]
                        place[active] = place[j]
                        count[active] = left
                        active += 1
    return code
