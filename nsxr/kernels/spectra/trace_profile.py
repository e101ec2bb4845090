"""Describe the spatial profile of a spectrum on the detector: the trace, and the light across it.

The light of a column x is ``f(x) P(u, x)``, where ``u`` is the distance of a pixel from the trace. ``P`` is a Gaussian
with a skirt, integrated over pixels, plus a correction. Centre and width of the Gaussian change smoothly with x. The
correction is made of splines in u and x. Its size is determined by the data (marginal likelihood), so it vanishes where
the data do not need it. ``f`` is free in every column. Several exposures of one source share the profile and the shape
of the trace, but have offsets and fluxes of their own. Each other nod that was subtracted leaves an echo: a negative
trace of the strength ``a`` at the distance ``d``. A pixel then has ``f(x) (P(u) - sum of a P(u - d))``. Images are
(exposure, y, x) float64. Weights are inverse variances, zero where a pixel is not used.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from nsxr.kernels.spectra.gaussians import skirted
from nsxr.kernels.spectra.splines import SplineGrid, add_splines, spline_variance

__all__ = [
    "REACH",
    "USUAL_SKIRT",
    "WIDTHS",
    "Profile",
    "aperture_of",
    "echoed",
    "flux_of",
    "planned_profile",
    "polynomials",
    "uncorrected",
]

KNOT_SPACING = 0.5
"""Pixels between knots of the correction across the trace."""
COLUMNS_A_KNOT = 70
"""Least number of columns between knots of the correction along the trace."""
REACH = 1.5
"""Extent of the correction beyond the aperture of a point source [pixel]; skirts of other sources reach as far."""
USUAL_SKIRT = 0.1
"""Typical part of the light in the skirt."""
WIDTHS = (0.3, 2.5)
"""Least and largest standard deviation of the image of a point source [pixel]."""


@dataclass(frozen=True)
class Profile:
    """Hold a fitted profile.

    Attributes
    ----------
    plan : (exposure, x) ndarray
        Planned position of the trace, pixels of the cut-out.
    shape : (exposure + 6,) ndarray
        Offsets of the exposures from the planned position [pixel], tilt and curvature of the trace relative to the plan
        [pixel], three coefficients of the logarithm of the width [pixel] along x, and the part of the light in the
        skirt.
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
        Distances [pixel] and strengths of the echoes of subtracted nods.
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
    widest: float = WIDTHS[1]
    _made: dict[str, tuple[np.ndarray, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def n_exposures(self) -> int:
        """Number of exposures."""
        return int(self.plan.shape[0])

    @property
    def grid(self) -> SplineGrid:
        """Knots of the correction."""
        n_u, n_x = self.correction.shape
        return SplineGrid(n_u, n_x, self.reach)

    def trace(self) -> np.ndarray:
        """Return the position of the trace (exposure, x), pixels of the cut-out."""
        along = polynomials(self.plan.shape[1])
        n = self.n_exposures
        return np.asarray(self.plan + self.shape[:n, None] + self.shape[n : n + 2] @ along[1:])

    def width(self) -> np.ndarray:
        """Return the standard deviation of the Gaussian (x,), pixels."""
        return np.asarray(np.exp(self.shape[self.n_exposures + 2 : -1] @ polynomials(self.plan.shape[1])))

    def distance(self, n_rows: int) -> np.ndarray:
        """Return the distance of pixels from the trace (exposure, y, x)."""
        return np.asarray(np.arange(n_rows)[:, None] - self.trace()[:, None, :])

    def evaluate(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the profile P and the aperture (exposure, y, x): the part of each pixel that belongs to the source."""
        profile, aperture, _ = self._own(n_rows)
        return profile, aperture

    def _own(self, n_rows: int) -> tuple[np.ndarray, ...]:
        """Return the profile, the aperture, and the profile without its normalization."""

        def make() -> tuple[np.ndarray, ...]:
            distance = self.distance(n_rows)
            raw, aperture = self._raw(distance), aperture_of(distance, self.half_width)
            if self.slit is not None:
                aperture = np.minimum(aperture, self.slit)
            return raw / _normal(raw, aperture), aperture, raw

        return self._once(f"own {n_rows}", make)

    def response(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the signal for a flux of one (P with its echoes), and the light that causes noise (exposure, y, x)."""

        def make() -> tuple[np.ndarray, ...]:
            profile, aperture, raw = self._own(n_rows)
            if not self.strengths.any():
                return profile, profile
            return self._with_echoes(profile, self.distance(n_rows), _normal(raw, aperture))

        signal, light = self._once(f"response {n_rows}", make)
        return signal, light

    def at(self, n_rows: int, places: np.ndarray, *, echoes: bool = True) -> np.ndarray:
        """Return the signal of another source (exposure, y, x), at ``places`` (exposure,), rows from the trace."""
        own, (_, _, raw) = self.distance(n_rows), self._own(n_rows)
        normal = _normal(raw, aperture_of(own, self.half_width))
        distance = own - places[:, None, None]
        profile = (self._raw(distance) if places.any() else raw) / normal
        return self._with_echoes(profile, distance, normal)[0] if echoes else profile

    def _once(self, name: str, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """Return arrays that are made when they are asked for first."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _with_echoes(
        self, profile: np.ndarray, distance: np.ndarray, normal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        signal, light = profile.copy(), profile.copy()
        for k in range(self.strengths.shape[1]):
            strength = self.strengths[:, k, None, None]
            echo = self._raw(distance - self.distances[:, k, None, None]) / normal
            signal -= strength * echo
            light += strength**2 * echo  # in a mean of n nods, each has 1/n of the light and 1/n2 of the variance
        return signal, light

    def _raw(self, distance: np.ndarray) -> np.ndarray:
        profile: np.ndarray = skirted(distance, self.width(), self.shape[-1])[0]
        add_splines(distance, self.correction, self.reach, profile)
        return profile if self.passed is None else profile * self.passed

    def flux_variance(self, weights: np.ndarray) -> np.ndarray:
        """Return the variance that the uncertainty of the profile causes in a flux of one (exposure, x).

        Parameters
        ----------
        weights : (exposure, y, x) ndarray
            Weights of pixels in the flux.
        """
        distance = self.distance(weights.shape[1])
        _, aperture = self.evaluate(weights.shape[1])
        signal, _ = self.response(weights.shape[1])
        passed = np.ones_like(weights) if self.passed is None else self.passed
        # dP = basis - P sum(aperture * basis), because the sum of P stays one
        along = [(weights - aperture * (weights * signal).sum(1, keepdims=True)) * passed]
        places = [distance]
        for k in range(self.strengths.shape[1]):
            along.append(-self.strengths[:, k, None, None] * weights * passed)
            places.append(distance - self.distances[:, k, None, None])
        out = np.empty((weights.shape[0], weights.shape[2]))
        pixels, factors = (np.ascontiguousarray(np.concatenate(each, axis=1)) for each in (places, along))
        spline_variance(pixels, factors, self.grid, self.correction_covariance, out)
        return out

    def uncertainty(self, n_rows: int) -> np.ndarray:
        """Return the standard deviation of P in each pixel (exposure, y, x)."""
        distance = self.distance(n_rows)
        out = np.empty(distance.shape)
        one = np.zeros((distance.shape[0], 1, distance.shape[2]))
        for y in range(n_rows):
            row = np.ascontiguousarray(distance[:, y : y + 1])
            variance = np.empty((distance.shape[0], distance.shape[2]))
            spline_variance(row, one + 1.0, self.grid, self.correction_covariance, variance)
            out[:, y] = np.sqrt(variance)
        return out


def _normal(profile: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum((profile * aperture).sum(1, keepdims=True), 1e-3))


@lru_cache(16)
def polynomials(n_columns: int) -> np.ndarray:
    """Return 1, x and x2 - 1/3 (3, x) for x from -1 to 1."""
    x = np.linspace(-1.0, 1.0, n_columns) if n_columns > 1 else np.zeros(1)
    return np.stack([np.ones_like(x), x, x**2 - 1 / 3])


def aperture_of(distance: np.ndarray, half_width: float) -> np.ndarray:
    """Return the part of each pixel, 0 to 1, that lies within ``half_width`` of the trace."""
    return np.asarray(np.clip(half_width + 0.5 - np.abs(distance), 0.0, 1.0))


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
    widest: float = WIDTHS[1],
) -> Profile:
    """Return an initial profile: a Gaussian at given offsets (exposure,) from the plan (exposure, x)."""
    n = plan.shape[0]
    shape = np.zeros(n + 6)
    shape[:n], shape[n + 2], shape[-1] = offsets, np.log(width), USUAL_SKIRT
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
    return uncorrected(profile, half_width + REACH)


def uncorrected(profile: Profile, reach: float) -> Profile:
    """Return a profile whose correction is zero, with knots up to ``reach`` from the trace."""
    n_u, n_x = _lengths(reach, profile.plan.shape[1])
    return replace(
        profile, reach=reach, correction=np.zeros((n_u, n_x)), correction_covariance=np.zeros((n_u * n_x, n_u * n_x))
    )


def echoed(distance: np.ndarray, width: np.ndarray, part: float, like: Profile) -> np.ndarray:
    """Return the results of :func:`skirted` (4, exposure, y, x) with the echoes of a profile."""
    parts = skirted(distance, width, part)
    for k in range(like.strengths.shape[1]):
        if like.strengths[:, k].any():
            echo = skirted(distance - like.distances[:, k, None, None], width, part)
            parts -= like.strengths[:, k, None, None] * echo
    return parts if like.passed is None else parts * like.passed


def _lengths(reach: float, n_columns: int) -> tuple[int, int]:
    """Return the numbers of splines across and along the trace."""
    return int(np.ceil(2 * (reach + 1) / KNOT_SPACING)) + 3, max(1, min(12, n_columns // COLUMNS_A_KNOT)) + 3
