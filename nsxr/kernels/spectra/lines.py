"""Find the traces in a slit: the source, its neighbours, and negative traces of subtracted nods.

A line of light, or line, is one trace in the slit. The light of a slit is averaged along the planned trace to a curve
across the slit. Sources are maxima of this curve, subtracted nods are minima. The source is the maximum at its planned
position, not the brightest one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nsxr.kernels.spectra.gaussians import SKIRT, gaussian

__all__ = ["APART", "NARROW", "SIGNIFICANCE", "Curve", "Lines", "collapsed", "find_lines", "fit_terms"]

_STEP = 0.25  # rows, width of the bins of the curve
NARROW = (0.65, 0.85, 1.1, 1.4)  # rows, widths of the image of a point source that are tried
_WIDE = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # rows, widths of extended sources that are tried
_FAINTEST_IN_ECHO = 0.15  # limit near a subtracted nod, which may be a little brighter or wider
_UNLIKELY = 2.0
_ASTRAY = 1.5  # rows, largest distance of a source from its planned position in the search for subtracted nods
_MOST = 6  # largest number of lines in a slit
APART = 2.5
"""Least distance of two lines [row]."""
SIGNIFICANCE = 5.0
"""Least significance of a line, in standard deviations."""
_FAINTEST = 0.04  # relative to the brightest line
_TOLERANCE, _TOLERANCE_AROUND = 0.08, 0.015  # errors, relative to the light and to the brightest light within two rows
_AROUND = 16  # columns to each side from which the brightness of a faint column is taken
_WINDOW = 3.0  # rows around the planned position in which the source is searched


_Pattern = tuple[np.ndarray, float]  # distances of subtracted nods, and the part of the light that each has


@dataclass(frozen=True)
class Lines:
    """Hold the lines of light in the slit of one exposure.

    Attributes
    ----------
    offset : float
        Distance of the source from its planned position [row].
    width : float
        Standard deviation of the Gaussians [row].
    distances, strengths : (line,) ndarray
        Of other sources: distances from the source [row], and light relative to the source. Light is negative for a
        source that is seen only in subtracted nods.
    echo_distances, echo_strengths : (echo,) ndarray
        Of subtracted nods: distances from the source [row], and light relative to the source.
    """

    offset: float
    width: float
    distances: np.ndarray
    strengths: np.ndarray
    echo_distances: np.ndarray
    echo_strengths: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Hold the mean light along lines parallel to the planned trace, relative to the brightness of columns.

    Fields are the distance from the trace, the mean and its standard deviation, a uniform sky in the same units, and
    the part of the sky that shutters let through.
    """

    distance: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    sky: np.ndarray
    passed: np.ndarray


@dataclass(frozen=True)
class _Rules:
    """Hold what is known of the source, see :func:`find_lines`."""

    has_level: bool
    is_planned: bool
    prior: float
    extended: bool


@dataclass(frozen=True)
class _Shapes:
    """Hold lines at all places of a grid, and the light that they are fitted to, in standard deviations of the light.

    Attributes
    ----------
    grid : (place,) ndarray
        Distances from the planned position [row].
    shapes : (bin, place) ndarray
        Shape of a line at each place.
    values : (bin,) ndarray
        Light.
    level : list of ndarray
        The background, if there is one.
    enough, near : (place,) ndarray of bool
        Places where enough of a line is in the slit; places where the source may be.
    spread : float
        Ratio of the noise to the given noise; 1 or more.
    """

    grid: np.ndarray
    shapes: np.ndarray
    values: np.ndarray
    level: list[np.ndarray]
    enough: np.ndarray
    near: np.ndarray
    spread: float


def collapsed(image: np.ndarray, precision: np.ndarray, plan: np.ndarray, sky: np.ndarray) -> Curve | None:
    """Return the mean light along lines parallel to the planned trace; None if there is too little."""
    used = precision > 0
    count = np.maximum(used.sum(0), 1)
    column = np.where(used.any(0), precision.sum(0) / count, 0.0)
    if not column.any():
        return None
    # without this, bins that contain different columns would differ if some of the columns have emission lines
    brightness = _brightness(image, precision)
    column = np.minimum(column, 4.0 * np.median(column[column > 0])) * brightness**2
    image, sky_there = image / brightness, sky / brightness
    precision = precision * brightness**2
    distance = np.arange(image.shape[0])[:, None] - plan
    first = np.floor(distance.min() / _STEP)
    number = (np.floor(distance / _STEP) - first).astype(int)[used]
    weight = np.broadcast_to(column, image.shape)[used]
    size = int(number.max()) + 1
    total = np.bincount(number, weight, size)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(number, weight * values[used], size) / np.maximum(total, 1e-300))

    variance = mean(column / np.where(used, precision, 1.0)) / np.maximum(total, 1e-300)
    kept = np.bincount(number, minlength=size) > 0.2 * _STEP * image.shape[1]
    if kept.sum() < 8:
        return None
    light = mean(image)
    reach = int(2 / _STEP)
    around = np.abs(np.pad(light, reach))
    around = np.max([around[k : k + size] for k in range(2 * reach + 1)], axis=0)
    # the profile is not known better than this, because its width changes along the trace
    flaws = (_TOLERANCE * light) ** 2 + (_TOLERANCE_AROUND * around) ** 2
    found = mean(distance), light, np.sqrt(variance + flaws), mean(sky_there), mean(sky)
    return Curve(*(values[kept] for values in found))


def _brightness(image: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the absolute brightness of each column (x,), from its own pixels or from the columns around."""
    used = precision > 0
    noise = np.where(used, 1 / np.where(used, precision, 1.0), 0.0).sum(0)
    power = np.where(used, image**2, 0.0).sum(0) - noise
    window = np.ones(2 * _AROUND + 1)
    # in a slit shorter than the window, mode "same" would return the length of the window
    inside = slice(_AROUND, _AROUND + power.size)
    smooth = np.convolve(power, window)[inside] / np.convolve(np.ones(power.size), window)[inside]
    found = np.where(power > 100 * noise, power, smooth)
    typical = float(np.median(found[used.any(0)]))
    if not typical > 0:
        return np.ones(power.size)
    return np.asarray(np.sqrt(np.clip(found / typical, 0.05, None)))


def find_lines(
    image: np.ndarray,
    precision: np.ndarray,
    plan: np.ndarray,
    sky: np.ndarray,
    *,
    has_level: bool,
    is_planned: bool,
    prior: float,
    nods: np.ndarray | None = None,
    extended: bool = False,
) -> Lines:
    """Find the source, and other lines of light, in one exposure.

    Parameters
    ----------
    image, precision : (y, x) ndarray
        Signal, and inverse variances of zero where a pixel cannot be used.
    plan : (x,) ndarray
        Planned position of the trace.
    sky : (y, x) ndarray
        Part of the light of a uniform sky that reaches a pixel.
    has_level : bool
        Whether a background is fitted.
    is_planned : bool
        Whether the position was planned; otherwise it was estimated from the light.
    prior : float
        Standard deviation of the true offset from the plan [row].
    nods : (n,) ndarray, optional
        Possible distances of other nods from the source [row]; by default any distance.
    extended : bool, default False
        Whether the source is extended. All positive light, of any width, then belongs to the source, and other lines
        can only be subtracted nods.
    """
    none = np.zeros(0)
    curve = collapsed(image, precision, plan, sky)
    if curve is None:
        return Lines(0.0, NARROW[1], none, none, none, none)
    rules = _Rules(has_level, is_planned, prior, extended)
    high = max((curve.distance[-1] - curve.distance[0]) / 3, 1.0)
    widths = [w for w in _WIDE if w < high] if extended else NARROW

    def best(tried: Iterable[tuple[float, _Pattern]]) -> tuple[float, Lines, _Pattern] | None:
        found = [
            (*lines, pattern)
            for width, pattern in tried
            if (lines := _lines_of_width(curve, width, rules, pattern)) is not None
        ]
        return min(found, key=lambda each: each[0]) if found else None

    # an approximate width is enough to find which nods were subtracted
    first = best((width, pattern) for pattern in _patterns(curve, nods, extended) for width in widths[1::2])
    chosen = best((width, first[2]) for width in widths) if first else None
    return chosen[1] if chosen else Lines(0.0, NARROW[1], none, none, none, none)


def _patterns(curve: Curve, nods: np.ndarray | None, extended: bool) -> Iterator[_Pattern]:
    """Yield patterns of subtracted nods, distances and strength: all combinations of shutters with negative light.

    If the source is extended, nods may also lie behind closed shutters, because light beside these shutters is seen.
    """
    yield np.zeros(0), np.inf if nods is None else 1.0
    if nods is None:
        return
    offsets = np.arange(-_ASTRAY, _ASTRAY + 0.1, _STEP)
    seen = [nod for nod in nods if _is_negative(curve, offsets + nod).any()]
    hidden = [nod for nod in nods if not _is_open(curve, float(nod))]
    for count in range(1, len(seen) + 1):
        for chosen in combinations(seen, count):
            for more in range(len(hidden) + 1):
                for behind in combinations(hidden, more) if extended else [()]:
                    yield np.array([*chosen, *behind]), 1.0 / (count + more)


def _lines_of_width(curve: Curve, width: float, rules: _Rules, pattern: _Pattern) -> tuple[float, Lines] | None:
    """Return chi square, plus 25 for each line, and the lines; None if the pattern of nods does not fit.

    Each line has echoes at all distances of the pattern.
    """
    echoes, part = pattern
    shapes = _shapes(curve, width, rules, pattern)
    places, solution, residual = _add_lines(curve, shapes, rules, pattern)
    light, at = solution[len(shapes.level) :], shapes.grid[places]
    strengths = np.full(echoes.size, part)
    chi_square = float((np.minimum(np.abs(residual), 30.0) ** 2).sum()) + SIGNIFICANCE**2 * (len(places) + echoes.size)
    # if shutters are known, only nods are negative; another source at the place of a nod would look like one more nod
    on_echo = np.abs(at[:, None, None] - at[None, :, None] - echoes) < APART
    if ((light < 0).any() and not np.isinf(part)) or on_echo.any():
        chi_square *= _UNLIKELY
    # a source has to be more significant if it is farther from its planned position
    power = (shapes.shapes[:, places] ** 2).sum(0)
    is_likely = light**2 * power > (SIGNIFICANCE * shapes.spread) ** 2 + 4.0 * (at / rules.prior) ** 2
    bright = [k for k in range(len(places)) if light[k] > 0 and shapes.near[places[k]] and is_likely[k]]
    if not bright:
        if echoes.size:
            return None
        strongest = np.abs(light).max() if light.size else 1.0
        return chi_square, Lines(0.0, width, at, light / max(strongest, 1e-300), echoes, strengths)
    top = max(light[k] for k in bright)
    candidates = [k for k in bright if light[k] >= 0.2 * top]
    is_planned = rules.is_planned
    source = min(candidates, key=lambda k: abs(at[k])) if is_planned else max(candidates, key=lambda k: light[k])
    in_sight = np.array([_is_open(curve, float(echo)) for echo in echoes], dtype=bool)
    if echoes.size and not _is_negative(curve, at[source] + echoes[in_sight]).all():
        return None
    others = [k for k in range(len(places)) if k != source]
    distances, ratios = at[others] - at[source], light[others] / light[source]
    return chi_square, Lines(float(at[source]), width, distances, ratios, echoes, strengths)


def _shapes(curve: Curve, width: float, rules: _Rules, pattern: _Pattern) -> _Shapes:
    """Return the shapes of lines of one width with their echoes."""
    echoes, part = pattern
    grid = np.arange(curve.distance[0], curve.distance[-1], _STEP)
    plain = _line(curve, grid, width, rules.extended)
    echoed = sum((_line(curve, grid + nod, width, rules.extended) for nod in echoes), np.zeros_like(plain))
    shapes = plain - part * echoed if echoes.size else plain
    reached = (plain**2).sum(0)
    enough = reached > 0.3 * np.median(reached)
    shapes, values = shapes / curve.deviation[:, None], curve.mean / curve.deviation
    level = [curve.sky / curve.deviation] if rules.has_level else []
    # neighbouring bins have no common pixels, so their second differences measure the noise, almost without lines
    close = curve.distance[2:] - curve.distance[:-2] < 3 * _STEP
    second = np.abs(np.diff(values, 2)[close])
    spread = max(float(np.median(second)) / 0.6745 / np.sqrt(6), 1.0) if second.size > 10 else 1.0
    return _Shapes(grid, shapes, values, level, enough, np.abs(grid) <= _WINDOW, spread)


def _add_lines(
    curve: Curve, given: _Shapes, rules: _Rules, pattern: _Pattern
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Add lines, the most significant first. Return their places on the grid, the fit, and the residual."""
    (echoes, part), grid, shapes, enough = pattern, given.grid, given.shapes, given.enough
    negative = _is_negative(curve, grid)
    places: list[int] = []
    solution, residual = fit_terms(given.level, given.values)
    while len(places) < _MOST:
        terms = [*given.level, *(shapes[:, p] for p in places)]
        free = shapes
        if terms:
            q, _ = np.linalg.qr(np.stack(terms, axis=1))
            free = shapes - q @ (q.T @ shapes)
        power, along = (free**2).sum(0), residual @ free
        gain = np.where(power > 0.1 * (shapes**2).sum(0), along**2 / np.maximum(power, 1e-300), 0.0)
        allowed = enough & (gain > 0) & ((along > 0) | (negative & (echoes.size == 0)))
        for place in places:
            allowed &= np.abs(grid - grid[place]) >= APART
        if rules.extended and not places:
            allowed &= (along > 0) & (given.near if rules.is_planned else np.ones_like(given.near))
        elif rules.extended:  # positive light is the source; if shutters are not known, echoes are added one by one
            allowed &= (along < 0) & np.isinf(part)
        if not allowed.any():
            break
        place = int(np.argmax(np.where(allowed, gain, -1.0)))
        trial, rest = fit_terms([*terms, shapes[:, place]], given.values)
        if gain[place] < (SIGNIFICANCE * given.spread) ** 2:
            break
        light = trial[len(given.level) :]
        to_echoes = np.abs(grid[place] - (grid[places][:, None] + echoes))
        in_echo = bool((to_echoes < APART).any())
        if places and (
            abs(light[-1]) < (_FAINTEST_IN_ECHO if in_echo else _FAINTEST) * np.abs(light).max()
            or (light[-1] > 0 and not in_echo and not _is_bump(curve, grid[place], grid[places], given.spread))
        ):
            # this is the flank of another line: do not add it, and do not search here again
            enough = enough & (np.abs(grid - grid[place]) > 0.3)
            continue
        places.append(place)
        solution, residual = trial, rest
    return places, solution, residual


def _line(curve: Curve, places: np.ndarray, width: float, extended: bool) -> np.ndarray:
    """Return lines of light at some places. Lines of extended sources have a skirt, and are cut by shutters."""
    core: np.ndarray = gaussian(curve.distance[:, None] - places, width)[0]
    if not extended:
        return core
    skirt = gaussian(curve.distance[:, None] - places, SKIRT * width)[0]
    return np.asarray((0.9 * core + 0.1 * skirt) * curve.passed[:, None])


def _is_open(curve: Curve, place: float) -> bool:
    near = np.abs(curve.distance - place) < 1.0
    return bool(near.any() and curve.passed[near].mean() > 0.3)


def _is_negative(curve: Curve, places: np.ndarray) -> np.ndarray:
    """Return at which places the light is negative by three standard deviations."""
    near = (np.abs(curve.distance[:, None] - places) < 1.0) & (curve.passed[:, None] > 0.5)
    weight = near / curve.deviation[:, None] ** 2
    total = weight.sum(0)
    pull = (weight * curve.mean[:, None]).sum(0) / np.sqrt(np.maximum(total, 1e-300))
    return np.asarray(pull < -3.0)


def fit_terms(terms: list[np.ndarray], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitudes of terms that fit values best, and the residual."""
    if not terms:
        return np.zeros(0), values
    design = np.stack(terms, axis=1)
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    return solution, values - design @ solution


def _is_bump(curve: Curve, place: float, others: np.ndarray, spread: float) -> bool:
    """Return whether light at a place exceeds the minimum before each other line, or the light opposite that line."""
    near = np.abs(curve.distance - place) <= 0.5
    if not near.any():
        return False
    height, noise = float(curve.mean[near].mean()), float(np.median(curve.deviation[near])) * spread
    for other in others:
        between = (curve.distance > min(place, other)) & (curve.distance < max(place, other))
        mirrored = np.abs(curve.distance - (2 * other - place)) <= 0.5
        opposite = curve.mean[mirrored].mean() if mirrored.any() else np.inf
        valley = _lowest(curve.mean[between]) if between.any() else np.inf
        if height < min(1.1 * valley + 3.0 * noise, 2.5 * opposite + 5.0 * noise):
            return False
    return True


def _lowest(values: np.ndarray) -> float:
    """Return the smallest mean of three neighbouring values."""
    return float(np.convolve(values, np.ones(3) / 3, mode="valid").min()) if values.size > 3 else float(values.min())
