"""The spatial profile of a spectrum on the detector, from its own pixels: where the trace runs and how light spreads.

The light of a column x is ``f(x) P(u, x)``, ``u`` the distance of a pixel from the trace. ``P`` is a Gaussian with a
skirt, integrated over pixels, whose centre and width change smoothly with x, and a correction to it: splines in u and
x whose size the data decide (marginal likelihood), so that it vanishes where the data say nothing. ``f`` is free in
every column. Several exposures of one source share the profile and the shape of the trace; offsets and fluxes are
their own. Where other nods were subtracted, a pixel has ``f(x) (P(u) - sum of a P(u - d))``: echoes at the distances
``d`` of these nods, of strengths ``a``.
Images are (exposure, y, x) float64 with weights, the inverse variances, of zero where a pixel is not to be used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import erf

from nsxr.kernels.compilation import kernel

__all__ = [
    "Profile",
    "aperture_of",
    "fit_echoes",
    "fit_trace",
    "flux_of",
    "gaussian",
    "planned_profile",
    "refine_profile",
]

KNOT_SPACING = 0.5
"""Pixels between knots of the correction across the trace."""
COLUMNS_A_KNOT = 70
"""Columns between knots of the correction along the trace, at least."""
REACH = 1.5
"""Pixels beyond the aperture of a point source up to which there is a correction: so far skirts of others reach."""
_SKIRT = 2.2
"""Width of the skirt, in widths of the core."""
_AMPLITUDES = 10.0 ** np.arange(-5.0, -0.4, 0.5)  # of the correction, relative to the light of a column
_STIFFNESSES = (1.0, 30.0, 1000.0)  # against changes of the correction along the trace
_SCALES = np.array([0.3, 0.2, 0.5, 0.4, 0.2, 0.1])  # prior deviations of tilt, curvature, log width, and the skirt
_USUAL = 0.1  # part of the light in the skirt
_LEAST = 0.03  # of the amplitude of corrections, far from the source
_FURTHEST = 1.5  # pixels, of offsets from where they begin, and of tilt and curvature
_SLOPES = np.array([0.5, 0.3])  # bounds of the change of the logarithm of the width along x
_WIDTHS = (0.3, 2.5)  # pixels, standard deviations that the image of a point can have


@dataclass(frozen=True)
class Profile:
    """A fitted profile.

    Attributes
    ----------
    plan : (exposure, x) ndarray
        Planned position of the trace, pixels of the cut-out.
    shape : (exposure + 6,) ndarray
        Offsets of the exposures from the plan, tilt and curvature of the trace beyond the plan [pixel], three
        coefficients of the logarithm of the width [pixel] along x, and the part of the light in the skirt.
    covariance : ndarray
        Of ``shape``.
    half_width : float
        Half width of the aperture [pixel]: P sums to one over pixels, and parts of pixels, within it.
    reach : float
        Distance from the trace up to which there is a correction [pixel].
    correction : (n_u, n_x) ndarray
        Coefficients of the splines.
    correction_covariance : (n_u * n_x, n_u * n_x) ndarray
        Of ``correction``.
    slit : (exposure, y, x) ndarray, optional
        Part of each pixel within the slit: the aperture of an extended source.
    passed : (exposure, y, x) ndarray, optional
        Part of the light that open shutters let through.
    distances, strengths : (exposure, echo) ndarray
        Of the echoes that subtracted nods leave.
    widest : float
        Largest width [pixel].
    """

    plan: np.ndarray
    shape: np.ndarray
    covariance: np.ndarray
    half_width: float
    reach: float
    correction: np.ndarray
    correction_covariance: np.ndarray
    slit: np.ndarray | None = None
    passed: np.ndarray | None = None
    distances: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    strengths: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    widest: float = _WIDTHS[1]

    @property
    def n_exposures(self) -> int:
        """Number of exposures."""
        return int(self.plan.shape[0])

    def trace(self) -> np.ndarray:
        """Return the position of the trace (exposure, x), pixels of the cut-out."""
        along = _along(self.plan.shape[1])
        n = self.n_exposures
        return np.asarray(self.plan + self.shape[:n, None] + self.shape[n : n + 2] @ along[1:])

    def width(self) -> np.ndarray:
        """Return the standard deviation of the Gaussian (x,), pixels."""
        return np.asarray(np.exp(self.shape[self.n_exposures + 2 : -1] @ _along(self.plan.shape[1])))

    def distance(self, n_rows: int) -> np.ndarray:
        """Return the distance of pixels from the trace (exposure, y, x)."""
        return np.asarray(np.arange(n_rows)[:, None] - self.trace()[:, None, :])

    def evaluate(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the profile P and the aperture (exposure, y, x): the part of each pixel that belongs to the source."""
        distance = self.distance(n_rows)
        profile = self._raw(distance)
        aperture = aperture_of(distance, self.half_width)
        if self.slit is not None:
            aperture = np.minimum(aperture, self.slit)
        return profile / _normal(profile, aperture), aperture

    def response(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the signal for a flux of one, P with its echoes, and the light that makes noise (exposure, y, x)."""
        profile, aperture = self.evaluate(n_rows)
        if not self.strengths.any():
            return profile, profile
        distance = self.distance(n_rows)
        return self._with_echoes(profile, distance, _normal(self._raw(distance), aperture))

    def at(self, n_rows: int, places: np.ndarray, *, echoes: bool = True) -> np.ndarray:
        """Return the signal of another source (exposure, y, x), so many rows (exposure,) from the trace."""
        own = self.distance(n_rows)
        normal = _normal(self._raw(own), aperture_of(own, self.half_width))
        distance = own - places[:, None, None]
        profile = self._raw(distance) / normal
        return self._with_echoes(profile, distance, normal)[0] if echoes else profile

    def _with_echoes(
        self, profile: np.ndarray, distance: np.ndarray, normal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        signal, light = profile.copy(), profile.copy()
        for k in range(self.strengths.shape[1]):
            strength = self.strengths[:, k, None, None]
            echo = self._raw(distance - self.distances[:, k, None, None]) / normal
            signal -= strength * echo
            light += strength**2 * echo  # the mean of n exposures has 1/n of the light, and 1/n2 of its variance
        return signal, light

    def _raw(self, distance: np.ndarray) -> np.ndarray:
        profile = _skirted(distance, self.width(), self.shape[-1])[0]
        _add_splines(distance, self.correction, self.reach, profile)
        return profile if self.passed is None else profile * self.passed

    def flux_variance(self, weights: np.ndarray) -> np.ndarray:
        """Return the variance of a flux of one that comes from the uncertainty of the profile (exposure, x).

        Parameters
        ----------
        weights : (exposure, y, x) ndarray
            Factors with which pixels enter the flux.
        """
        distance = self.distance(weights.shape[1])
        _, aperture = self.evaluate(weights.shape[1])
        signal, _ = self.response(weights.shape[1])
        passed = np.ones_like(weights) if self.passed is None else self.passed
        # dP = basis - P sum(aperture * basis): the sum of P stays one
        along = [(weights - aperture * (weights * signal).sum(1, keepdims=True)) * passed]
        places = [distance]
        for k in range(self.strengths.shape[1]):
            along.append(-self.strengths[:, k, None, None] * weights * passed)
            places.append(distance - self.distances[:, k, None, None])
        n_u, n_x = self.correction.shape
        out = np.empty((weights.shape[0], weights.shape[2]))
        pixels, factors = (np.ascontiguousarray(np.concatenate(each, axis=1)) for each in (places, along))
        _spline_variance(pixels, factors, n_u, n_x, self.reach, self.correction_covariance, out)
        return out

    def uncertainty(self, n_rows: int) -> np.ndarray:
        """Return the standard deviation of P in each pixel (exposure, y, x)."""
        distance = self.distance(n_rows)
        out = np.empty(distance.shape)
        n_u, n_x = self.correction.shape
        one = np.zeros((distance.shape[0], 1, distance.shape[2]))
        for y in range(n_rows):
            row = np.ascontiguousarray(distance[:, y : y + 1])
            variance = np.empty((distance.shape[0], distance.shape[2]))
            _spline_variance(row, one + 1.0, n_u, n_x, self.reach, self.correction_covariance, variance)
            out[:, y] = np.sqrt(variance)
        return out


def _normal(profile: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum((profile * aperture).sum(1, keepdims=True), 1e-3))


def _along(n_columns: int) -> np.ndarray:
    """Return 1, x and x2 - 1/3 (3, x) for x from -1 to 1."""
    x = np.linspace(-1.0, 1.0, n_columns) if n_columns > 1 else np.zeros(1)
    return np.stack([np.ones_like(x), x, x**2 - 1 / 3])


def aperture_of(distance: np.ndarray, half_width: float) -> np.ndarray:
    """Return the part of each pixel, 0 to 1, that lies within ``half_width`` of the trace."""
    return np.asarray(np.clip(half_width + 0.5 - np.abs(distance), 0.0, 1.0))


def gaussian(distance: np.ndarray, width: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a Gaussian integrated over pixels, and its derivatives by distance and by the logarithm of the width."""
    lower, upper = (distance - 0.5) / width, (distance + 0.5) / width
    profile = 0.5 * (erf(upper / np.sqrt(2)) - erf(lower / np.sqrt(2)))
    low, up = (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) for edge in (lower, upper))
    return profile, (up - low) / width, lower * low - upper * up


def flux_of(images: np.ndarray, weights: np.ndarray, profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flux of each column and its inverse variance (exposure, x); 0 where no pixel can be used."""
    weighted = weights * profile
    precision = (weighted * profile).sum(1)
    return (weighted * images).sum(1) / np.where(precision > 0, precision, 1.0), precision


def planned_profile(
    plan: np.ndarray,
    offsets: np.ndarray,
    half_width: float,
    width: float,
    *,
    slit: np.ndarray | None = None,
    passed: np.ndarray | None = None,
    distances: np.ndarray | None = None,
    strengths: np.ndarray | None = None,
    widest: float = _WIDTHS[1],
) -> Profile:
    """Return a profile to begin with: a Gaussian at given offsets (exposure,) from the plan (exposure, x)."""
    n = plan.shape[0]
    shape = np.zeros(n + 6)
    shape[:n], shape[n + 2], shape[-1] = offsets, np.log(width), _USUAL
    none = np.zeros((n, 0))
    profile = Profile(
        plan,
        shape,
        np.zeros((n + 6, n + 6)),
        half_width,
        half_width,
        np.zeros((1, 1)),
        np.zeros((1, 1)),
        slit,
        passed,
        none if distances is None else distances,
        none if strengths is None else strengths,
        widest,
    )
    return _uncorrected(profile, half_width + REACH)


def _uncorrected(profile: Profile, reach: float) -> Profile:
    """Return a profile without correction, with room for one up to ``reach`` from the trace."""
    n_u, n_x = _lengths(reach, profile.plan.shape[1])
    return replace(
        profile, reach=reach, correction=np.zeros((n_u, n_x)), correction_covariance=np.zeros((n_u * n_x, n_u * n_x))
    )


def fit_trace(
    images: np.ndarray,
    weights: np.ndarray,
    start: Profile,
    prior: float,
    iterations: int = 8,
    levels: Sequence[np.ndarray] = (),
) -> Profile:
    """Fit the Gaussian profile: offsets of the exposures, shape of the trace, width.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal of the source alone and inverse variances.
    start : Profile
        To begin with. Offsets stay within 1.5 pixels of it, the width is that of the image of a point, or up to
        ``widest``, and the trace does not leave the plan by more than a few pixels.
    prior : float
        Standard deviation of the true offset from the planned one [pixel].
    iterations : int, default 8
        Steps of Gauss and Newton, fluxes eliminated in each (variable projection; Golub and Pereyra 2003).
    levels : sequence of ndarray
        Shapes (exposure, y, x) of a background whose brightness in each column is eliminated as well.
    """
    n, n_rows, n_columns = images.shape
    levels = _orthonormal(levels, weights)
    images = _without(images, weights, levels)
    plan, along = start.plan, _along(n_columns)
    rows, shape = np.arange(n_rows)[:, None], start.shape
    width = np.exp(shape[n + 2])
    deviations = np.concatenate([np.full(n, prior), _SCALES])
    centre = np.concatenate([np.zeros(n + 2), [np.log(width), 0.0, 0.0, _USUAL]])
    furthest = np.concatenate([np.full(n + 2, _FURTHEST), [0.0], _SLOPES, [0.0]])
    middle = np.concatenate([shape[:n], np.zeros(6)])
    lowest, highest = middle - furthest, middle + furthest
    lowest[n + 2], highest[n + 2] = np.log(_WIDTHS[0]), np.log(start.widest)
    lowest[-1], highest[-1] = 0.0, 0.4

    def evaluate(values: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        trace = plan + values[:n, None] + values[n : n + 2] @ along[1:]
        width = np.exp(values[n + 2 : -1] @ along)
        parts = _echoed(rows - trace[:, None, :], width, values[-1], start)
        profile, by_distance, by_width, by_skirt = (_without(part, weights, levels) for part in parts)
        flux, precision = flux_of(images, weights, profile)
        residual = images - flux[:, None, :] * profile
        chi_square = float((weights * residual**2).sum() + (((values - centre) / deviations) ** 2).sum())
        normal, gradient = np.diag(1 / deviations**2), (centre - values) / deviations**2
        safe = np.where(precision > 0, precision, 1.0)

        def projected(derivative: np.ndarray) -> np.ndarray:
            change = flux[:, None, :] * derivative
            return np.asarray(change - profile * ((weights * profile * change).sum(1) / safe)[:, None, :])

        moved, widened, skirted = projected(-by_distance), projected(by_width), projected(by_skirt)
        # sums over rows once, then over columns with each polynomial
        mm, ww, mw = ((weights * a * b).sum(1) for a, b in ((moved, moved), (widened, widened), (moved, widened)))
        mr, wr = ((weights * a * residual).sum(1) for a in (moved, widened))
        ms, ws = ((weights * a * skirted).sum(1) for a in (moved, widened))
        normal[-1, -1] += (weights * skirted**2).sum()
        normal[:n, -1] += ms.sum(1)
        normal[n : n + 2, -1] += along[1:] @ ms.sum(0)
        normal[n + 2 : -1, -1] += along @ ws.sum(0)
        normal[-1, :-1] = normal[:-1, -1]
        gradient[-1] += (weights * skirted * residual).sum()
        normal[np.arange(n), np.arange(n)] += mm.sum(1)
        normal[:n, n : n + 2] += mm @ along[1:].T
        normal[n : n + 2, :n] = normal[:n, n : n + 2].T
        normal[n : n + 2, n : n + 2] += (along[1:] * mm.sum(0)) @ along[1:].T
        normal[:n, n + 2 : -1] += mw @ along.T
        normal[n + 2 : -1, :n] = normal[:n, n + 2 : -1].T
        normal[n : n + 2, n + 2 : -1] += (along[1:] * mw.sum(0)) @ along.T
        normal[n + 2 : -1, n : n + 2] = normal[n : n + 2, n + 2 : -1].T
        normal[n + 2 : -1, n + 2 : -1] += (along * ww.sum(0)) @ along.T
        gradient[:n] += mr.sum(1)
        gradient[n : n + 2] += along[1:] @ mr.sum(0)
        gradient[n + 2 : -1] += along @ wr.sum(0)
        return chi_square, normal, gradient

    shape = np.clip(shape, lowest, highest)
    chi_square, normal, gradient = evaluate(shape)
    damping = 1e-3
    for _ in range(iterations):
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-9))
        tried = np.clip(shape + step, lowest, highest)
        trial = evaluate(tried)
        if trial[0] <= chi_square:
            done = chi_square - trial[0] < 1e-3
            shape, (chi_square, normal, gradient), damping = tried, trial, damping / 10
            if done:
                break
        else:
            damping = max(damping * 10, 1e-2)
    found = replace(start, shape=shape, covariance=np.linalg.inv(normal))
    reach = start.half_width + REACH
    if start.slit is not None:  # as far as an extended source reaches, and not over the whole slit
        height = float(np.median(start.slit.sum(1)))
        reach = float(np.clip(3.0 * np.exp(shape[n + 2]), 3.0, max(min(start.half_width, 0.5 * height), 3.0)))
    return _uncorrected(found, reach)


def _orthonormal(shapes: Sequence[np.ndarray], weights: np.ndarray) -> list[np.ndarray]:
    """Return combinations of shapes (exposure, y, x) whose weighted products over each column are one and zero."""
    found: list[np.ndarray] = []
    for shape in shapes:
        rest = _without(shape, weights, found)
        power, usual = ((weights * each**2).sum(1, keepdims=True) for each in (rest, shape))
        found.append(np.where(power > 1e-6 * usual, rest / np.sqrt(np.where(power > 0, power, 1.0)), 0.0))
    return found


def _without(values: np.ndarray, weights: np.ndarray, levels: Sequence[np.ndarray]) -> np.ndarray:
    """Return what is left of images (exposure, y, x) after a fit of orthonormal shapes to each column."""
    for level in levels:
        values = values - level * (weights * level * values).sum(1, keepdims=True)
    return values


def _skirted(distance: np.ndarray, width: np.ndarray, part: float) -> tuple[np.ndarray, ...]:
    """Return a Gaussian with a skirt, its derivatives by distance, by the log of the width, by the skirt's part."""
    core, skirt = gaussian(distance, width), gaussian(distance, _SKIRT * width)
    mixed = [(1 - part) * a + part * b for a, b in zip(core, skirt, strict=True)]
    return (*mixed, skirt[0] - core[0])


def _echoed(distance: np.ndarray, width: np.ndarray, part: float, like: Profile) -> list[np.ndarray]:
    """Return the same with the echoes of a profile."""
    parts = list(_skirted(distance, width, part))
    for k in range(like.strengths.shape[1]):
        echo = _skirted(distance - like.distances[:, k, None, None], width, part)
        parts = [part - like.strengths[:, k, None, None] * e for part, e in zip(parts, echo, strict=True)]
    return parts if like.passed is None else [part * like.passed for part in parts]


def fit_echoes(
    images: np.ndarray, weights: np.ndarray, profile: Profile, planned: np.ndarray, astray: float, unlike: np.ndarray
) -> Profile:
    """Fit distances and strengths of the echoes of an uncorrected profile.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Signal of the source with its echoes, and inverse variances.
    profile : Profile
        Without correction.
    planned : (2, exposure, echo) ndarray
        Distances where they should be [pixel], and the usual strengths.
    astray : float
        Deviation of distances from what is planned [pixel].
    unlike : (exposure,) ndarray
        Deviation of strengths from what is usual.
    """
    n = profile.n_exposures
    distance, width, part = profile.distance(images.shape[1]), profile.width(), profile.shape[-1]
    passed = np.ones_like(images) if profile.passed is None else profile.passed
    distances, strengths = profile.distances.copy(), profile.strengths.copy()
    for _ in range(2):
        signal = _echoed(distance, width, part, replace(profile, distances=distances, strengths=strengths))[0]
        flux, precision = flux_of(images, weights, signal)
        residual = images - flux[:, None, :] * signal
        for e in range(n):
            there = np.flatnonzero(strengths[e])
            if not there.size:
                continue
            derivatives = []
            for k in there:
                echo, by_distance, _, _ = _skirted(distance[e] - distances[e, k], width, part)
                derivatives += [-echo * passed[e], strengths[e, k] * by_distance * passed[e]]
            safe = np.where(precision[e] > 0, precision[e], 1.0)
            changes = [
                flux[e] * d - signal[e] * ((weights[e] * signal[e] * flux[e] * d).sum(0) / safe) for d in derivatives
            ]
            normal = np.array([[(weights[e] * a * b).sum() for b in changes] for a in changes])
            right = np.array([(weights[e] * a * residual[e]).sum() for a in changes])
            odd = np.arange(1, 2 * there.size, 2)
            normal[odd, odd] += 1 / astray**2
            right[odd] += (planned[0, e, there] - distances[e, there]) / astray**2
            normal[odd - 1, odd - 1] += 1 / unlike[e] ** 2
            right[odd - 1] += (planned[1, e, there] - strengths[e, there]) / unlike[e] ** 2
            step = np.linalg.solve(normal, right)
            usual, nearest = planned[1, e, there], planned[0, e, there]
            strengths[e, there] = np.clip(strengths[e, there] + step[::2], 0.5 * usual, 1.5 * usual)
            distances[e, there] = np.clip(distances[e, there] + step[1::2], nearest - 2 * astray, nearest + 2 * astray)
    return replace(profile, distances=distances, strengths=strengths)


def _lengths(reach: float, n_columns: int) -> tuple[int, int]:
    """Return how many splines there are across and along the trace."""
    return int(np.ceil(2 * (reach + 1) / KNOT_SPACING)) + 3, max(1, min(12, n_columns // COLUMNS_A_KNOT)) + 3


def refine_profile(
    images: np.ndarray,
    weights: np.ndarray,
    fluxes: np.ndarray,
    profile: Profile,
    levels: Sequence[np.ndarray] = (),
) -> Profile:
    """Return the profile with its correction fitted anew, given fluxes.

    The coefficients are normal random numbers of one amplitude, alike along the trace to a degree; amplitude and degree
    are those that make the data most likely. The amplitude falls with the light across the trace: far from it, light
    that cannot be told from that of a background, of a neighbour, or of subtracted nods is not made up.

    Parameters
    ----------
    images, weights : (exposure, y, x) ndarray
        Background-free signal and inverse variances.
    fluxes : (exposure, x) ndarray
        Flux of each column.
    profile : Profile
        Gaussian, or with an earlier correction, which is replaced.
    levels : sequence of ndarray
        Shapes (exposure, y, x) whose brightness in each column is found with the correction, as that of a neighbour.
    """
    distance = profile.distance(images.shape[1])
    bare = replace(profile, correction=np.zeros_like(profile.correction))
    shape, _ = bare.response(images.shape[1])
    n_u, n_x = profile.correction.shape
    size = n_u * n_x
    normal, right = np.zeros((size, size)), np.zeros(size)
    residual = images - fluxes[:, None, :] * shape
    passed = np.ones_like(images) if profile.passed is None else profile.passed
    one, none = np.ones((images.shape[0], 1)), np.zeros((images.shape[0], 1))
    strengths, distances = np.hstack([one, -profile.strengths]), np.hstack([none, profile.distances])
    # all pixels that the splines reach: one beyond the aperture would be whatever the others leave it
    _normal_equations(
        distance,
        residual,
        weights,
        fluxes,
        passed,
        strengths,
        distances,
        np.stack([*_orthonormal(levels, weights), np.zeros_like(images)]),
        n_u,
        n_x,
        profile.reach,
        normal,
        right,
    )
    scale = _decline(profile, n_u)
    normal = normal + np.triu(normal, 1).T
    difference = np.diff(np.eye(n_x), axis=0)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for stiffness in _STIFFNESSES:
        along = np.eye(n_x) + stiffness * difference.T @ difference
        prior = np.kron(np.diag(scale**-2.0), along)
        log_prior = n_u * np.linalg.slogdet(along)[1] - 2 * n_x * np.log(scale).sum()
        for amplitude in _AMPLITUDES:
            factor = cho_factor(normal + prior / amplitude**2, lower=True)
            solution = cho_solve(factor, right)
            log_determinant = 2 * np.log(np.diag(factor[0])).sum()
            evidence = right @ solution + log_prior - size * 2 * np.log(amplitude) - log_determinant
            if best is None or evidence > best[0]:
                best = (evidence, solution, cho_solve(factor, np.eye(size)))
    assert best is not None
    return replace(profile, correction=best[1].reshape(n_u, n_x), correction_covariance=best[2])


def _decline(profile: Profile, n_u: int) -> np.ndarray:
    """Return by how much less than in the middle splines across the trace (n_u,) are expected to be."""
    places = (np.arange(n_u) - 1.0) * 2 * (profile.reach + 1.0) / (n_u - 3) - (profile.reach + 1.0)
    width = float(np.exp(profile.shape[profile.n_exposures + 2]))
    light = _skirted(places, np.array(width), float(profile.shape[-1]))[0]
    return np.asarray(np.maximum(light / light.max(), _LEAST))


@kernel
def _cubic(position: float, values: np.ndarray) -> int:
    """Put the four cubic B-splines that are not zero into ``values``; return the number of the first."""
    first = int(np.floor(position))
    t = position - first
    s = 1.0 - t
    values[0] = s * s * s / 6.0
    values[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    values[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    values[3] = t * t * t / 6.0
    return first


@kernel
def _add_splines(distance: np.ndarray, coefficients: np.ndarray, reach: float, out: np.ndarray) -> None:
    """Add the splines to ``out`` (exposure, y, x)."""
    n_u, n_x = coefficients.shape
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            for y in range(distance.shape[1]):
                position = (distance[e, y, x] + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                if not 0.0 <= position < n_u - 3:  # NaN is not
                    continue
                j = _cubic(position, across)
                total = 0.0
                for a in range(4):
                    for b in range(4):
                        total += across[a] * along[b] * coefficients[j + a, i + b]
                out[e, y, x] += total


@kernel
def _normal_equations(
    distance: np.ndarray,
    residual: np.ndarray,
    weights: np.ndarray,
    fluxes: np.ndarray,
    passed: np.ndarray,
    strengths: np.ndarray,
    distances: np.ndarray,
    levels: np.ndarray,
    n_u: int,
    n_x: int,
    reach: float,
    normal: np.ndarray,
    right: np.ndarray,
) -> None:
    """Add up the upper triangle of the normal matrix, and the right side, of the spline coefficients.

    Orthonormal ``levels`` (level, exposure, y, x) are eliminated; the last one is none.
    """
    n_levels = levels.shape[0] - 1
    shared, known = np.zeros((n_levels, n_u * 4)), np.zeros(n_levels)
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    n_parts = strengths.shape[1]
    values, places = np.empty(16 * n_parts), np.empty(16 * n_parts, np.int64)
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            shared[:] = 0.0
            known[:] = 0.0
            for y in range(distance.shape[1]):
                weight = weights[e, y, x]
                if weight <= 0.0:
                    continue
                for k in range(n_levels):
                    known[k] += weight * levels[k, e, y, x] * residual[e, y, x]
                count = 0
                for part in range(n_parts):
                    u = distance[e, y, x] - distances[e, part]
                    position = (u + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                    if strengths[e, part] == 0.0 or not 0.0 <= position < n_u - 3:
                        continue
                    flux = fluxes[e, x] * strengths[e, part] * passed[e, y, x]
                    j = _cubic(position, across)
                    for a in range(4):
                        for b in range(4):
                            values[count] = flux * across[a] * along[b]
                            places[count] = (j + a) * n_x + i + b
                            count += 1
                for p in range(count):
                    for k in range(n_levels):
                        j, b = places[p] // n_x, places[p] % n_x - i
                        shared[k, 4 * j + b] += weight * values[p] * levels[k, e, y, x]
                    right[places[p]] += weight * values[p] * residual[e, y, x]
                    for q in range(p if n_parts == 1 else 0, count):
                        if places[p] <= places[q]:
                            normal[places[p], places[q]] += weight * values[p] * values[q]
            for k in range(n_levels):
                for j in range(n_u):
                    for b in range(4):
                        right[j * n_x + i + b] -= shared[k, 4 * j + b] * known[k]
                        for m in range(j, n_u):
                            for c in range(b if m == j else 0, 4):
                                product = shared[k, 4 * j + b] * shared[k, 4 * m + c]
                                normal[j * n_x + i + b, m * n_x + i + c] -= product


@kernel
def _spline_variance(
    distance: np.ndarray,
    weights: np.ndarray,
    n_u: int,
    n_x: int,
    reach: float,
    covariance: np.ndarray,
    out: np.ndarray,
) -> None:
    """Put the variance of sum(weights * splines) over each column into ``out`` (exposure, x)."""
    across, along = np.empty(4), np.empty(4)
    n_columns = distance.shape[2]
    gradient = np.empty(n_u * n_x)
    for e in range(distance.shape[0]):
        for x in range(n_columns):
            i = _cubic(min(x / max(n_columns - 1, 1), 0.999999) * (n_x - 3), along)
            gradient[:] = 0.0
            for y in range(distance.shape[1]):
                position = (distance[e, y, x] + reach + 1.0) * (n_u - 3) / (2.0 * (reach + 1.0))
                if weights[e, y, x] == 0.0 or not 0.0 <= position < n_u - 3:
                    continue
                j = _cubic(position, across)
                for a in range(4):
                    for b in range(4):
                        gradient[(j + a) * n_x + i + b] += weights[e, y, x] * across[a] * along[b]
            total = 0.0
            for k in range(n_u):
                for b in range(4):
                    p = k * n_x + i + b
                    if gradient[p] != 0.0:
                        for m in range(n_u):
                            for c in range(4):
                                q = m * n_x + i + c
                                total += gradient[p] * covariance[p, q] * gradient[q]
            out[e, x] = total
