"""Combine spectra on NumPy arrays."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse

from nsxr.kernels.medians import median_of_finite
from nsxr.kernels.spectra.odd_spectra import LEAST_LIGHT, clip, pixels_around, unlike_others, without_light
from nsxr.model.dq import PixelFlag

__all__ = [
    "LEAST_LIGHT",
    "OF_PIXELS",
    "background_covariance",
    "combined_spectrum",
    "grid_by_column",
    "interpolation",
    "running_median",
    "union_of_grids",
]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_Exposure = tuple[str, tuple[str, ...]]


def interpolation(wavelength: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each wavelength of a grid, two pixels and the weight of the second in linear interpolation.

    Parameters
    ----------
    wavelength : (n,) float64
        Wavelengths of the pixels, NaN where there is none.
    grid : (m,) float64
        Wavelengths wanted.

    Returns
    -------
    first, second : (m,) int64
        Neighbouring pixels; both are the same pixel if its wavelength is that of the grid; -1 outside the spectrum.
    part : (m,) float64
        Weight of ``second``.
    """
    first, second, part = np.full(grid.size, -1), np.full(grid.size, -1), np.zeros(grid.size)
    pixels = np.flatnonzero(np.isfinite(wavelength))
    if not pixels.size:
        return first, second, part
    pixels = pixels[np.argsort(wavelength[pixels], kind="stable")]
    rising = wavelength[pixels]
    inside = (grid >= rising[0]) & (grid <= rising[-1])  # False for NaN
    place = np.searchsorted(rising, grid[inside], side="right") - 1
    above = np.minimum(place + 1, pixels.size - 1)
    step = rising[above] - rising[place]
    part[inside] = np.where(step > 0, (grid[inside] - rising[place]) / np.where(step > 0, step, 1), 0)
    first[inside] = pixels[place]
    second[inside] = np.where(part[inside] > 0, pixels[above], pixels[place])
    apart = np.abs(first - second) > 1  # there is a gap between the pixels
    first[apart], second[apart] = -1, -1
    return first, second, part


def grid_by_column(*wavelengths: np.ndarray, labels: Sequence[np.ndarray], columns: np.ndarray) -> np.ndarray:
    """Return one wavelength for each detector column of spectra that differ by parts of a pixel.

    Parameters
    ----------
    *wavelengths : (n,) float64
        Wavelengths of each spectrum, NaN where there is none. The first spectrum that has any is used. Columns where it
        has none take those of the next spectrum, shifted so that both agree in the nearest column that they share.
    labels : sequence of (n,) int
        Detector columns of each spectrum.
    columns : (m,) int
        All columns, increasing.
    """
    grid = np.full(columns.size, np.nan)
    for wavelength, label in zip(wavelengths, labels, strict=True):
        own = np.full(columns.size, np.nan)
        own[np.searchsorted(columns, label)] = wavelength
        wanted = np.flatnonzero(np.isnan(grid) & np.isfinite(own))
        shared = np.flatnonzero(np.isfinite(grid) & np.isfinite(own))
        shift = 0.0
        if shared.size:
            after = np.clip(np.searchsorted(shared, wanted), 1, max(shared.size - 1, 1))
            low, high = shared[after - 1], shared[np.minimum(after, shared.size - 1)]
            nearest = np.where(wanted - low <= np.abs(high - wanted), low, high)
            shift = grid[nearest] - own[nearest]
        grid[wanted] = own[wanted] + shift
    return grid


def union_of_grids(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return increasing wavelengths that cover all grids, with gaps filled; where grids overlap the first one counts.

    Parameters
    ----------
    grids : sequence of (n,) float64
        Wavelengths of each grid; NaN is ignored.
    """
    found = np.empty(0)
    for given in grids:
        own = np.unique(given[np.isfinite(given)])
        if found.size > 1 and own.size > 1:
            after = np.searchsorted(found, own)
            below = own - found[np.maximum(after - 1, 0)]
            above = found[np.minimum(after, found.size - 1)] - own
            away = np.minimum(np.abs(below), np.abs(above))
            own = own[away >= 0.75 * np.gradient(own)]
        found = np.sort(np.concatenate([found, own]))
    if found.size < 4:
        return found
    steps = np.diff(found)
    usual = np.maximum(np.append(steps[1], steps[:-1]), np.append(steps[1:], steps[-2]))
    filled = [
        np.linspace(found[k], found[k + 1], round(steps[k] / usual[k]) + 1)[1:-1]
        for k in np.flatnonzero(steps > 1.5 * usual)
    ]
    return np.sort(np.concatenate([found, *filled]))


def running_median(values: np.ndarray, length: int) -> np.ndarray:
    """Return the median of the finite values around each pixel; pixels without such values are interpolated."""
    found = median_of_finite(pixels_around(values, length // 2))
    good = np.flatnonzero(np.isfinite(found))
    return np.interp(np.arange(values.size), good, found[good]) if good.size else found


def background_covariance(
    pair: tuple[_Exposure, _Exposure],
    weights: tuple[np.ndarray, np.ndarray],
    variances: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the covariance of two spectra that their backgrounds cause, for each detector column.

    Parameters
    ----------
    pair : two of (str, tuple of str)
        Names of the exposure of each spectrum, and of the exposures in its background.
    weights : two (rows, columns) arrays
        Weights of the same detector pixels in each spectrum.
    variances : two (rows, columns) arrays
        Variances of the background subtracted from each spectrum.
    """
    (one, members_one), (other, members_other) = pair
    n_one, n_other = len(members_one), len(members_other)
    shared = len(set(members_one) & set(members_other))
    covariance = np.zeros(weights[0].shape)
    if shared:
        covariance += shared * (n_one * variances[0] + n_other * variances[1]) / (2 * n_one * n_other)
    if other in members_one:
        covariance -= variances[0]
    if one in members_other:
        covariance -= variances[1]
    product = weights[0] * weights[1] * covariance
    return np.asarray(np.where(np.isfinite(product), product, 0.0).sum(axis=0))


Origins = Mapping[str, tuple[str, ...]]
"""Where the errors of a spectrum are from, by name. Equal words mean the same error."""
OF_PIXELS = "of_pixels"
"""Word for errors of a flat field that are independent between pixels."""
_REACH = 2.0
"""Distance [rows] of two spectra that see different pixels, if their profiles are not known."""


class _Spectrum:
    """Hold one spectrum by detector column, 0 where there is no usable value, and its interpolation to a grid."""

    def __init__(self, values: Mapping[str, np.ndarray], labels: tuple[np.ndarray, np.ndarray], span: range) -> None:
        # if the variance of a flat field is not known it counts as 0
        known = {name: np.nan_to_num(v, nan=0.0) if name.endswith("var_flat") else v for name, v in values.items()}
        self.values, self.columns, self.rows, self.span = known, labels[0], labels[1], span
        self.parts = [name for name in known if "_var_" in name]
        flux, dq = known["flux"], known["dq"]
        variance = np.sum([known[name] for name in self.parts if name.startswith("flux")], axis=0)
        self.good = np.isfinite(flux) & (variance > 0) & np.isfinite(variance) & ((dq & _DO_NOT_USE) == 0)
        self.variance = self.by_column(variance)

    def by_column(self, values: np.ndarray) -> np.ndarray:
        full = np.zeros(len(self.span))
        full[self.columns - self.span.start] = np.where(self.good, values, 0.0)
        return full

    def sample(self, grid: np.ndarray, smoothing: int) -> None:
        """Set for each wavelength of a grid whether there is a sample, its weight, its flags, and the interpolation."""
        first, second, part = interpolation(self.values["wavelength"], grid)
        self.used = (first >= 0) & self.good[first] & self.good[second]
        rows = np.flatnonzero(first >= 0)
        entries = np.concatenate([1 - part[rows], part[rows]])
        place = self.columns[np.concatenate([first[rows], second[rows]])] - self.span.start
        shape = (grid.size, len(self.span))
        self.matrix = sparse.csr_array((entries, (np.concatenate([rows, rows]), place)), shape=shape)
        variance = self.variance[self.columns - self.span.start]
        inverse = np.divide(1.0, variance, out=np.full(variance.size, np.nan), where=self.good)
        smooth = running_median(inverse, smoothing)
        self.weight = (1 - part) * smooth[first] + part * smooth[second]
        self.flags = self.values["dq"][first] | self.values["dq"][second]

    def brightness_per_flux(self) -> np.ndarray:
        """Return the ratio of surface brightness to flux by detector column; both are the same sum of pixels."""
        variance = np.sum([self.values[name] for name in self.parts if name.startswith("sb")], axis=0)
        nothing = np.zeros(len(self.span))
        ratio = np.divide(self.by_column(variance), self.variance, out=nothing, where=self.variance > 0)
        return np.asarray(np.sqrt(ratio))

    def shared_with(self, other: "_Spectrum", pair: tuple[_Exposure, _Exposure]) -> np.ndarray | None:
        """Return the covariance that backgrounds cause, by detector column; None if backgrounds are not known."""
        if "var_background" not in self.values or "var_background" not in other.values:
            return None
        common, *pixels = self._common_pixels(other)
        full = np.zeros(len(self.span))
        full[common - self.span.start] = background_covariance(
            pair,
            *((self.values[name][pixels[0]], other.values[name][pixels[1]]) for name in ("weight", "var_background")),
        )
        return full

    def flat_shared_with(self, other: "_Spectrum") -> np.ndarray | None:
        """Return the covariance that the flat field of the same pixels causes, by detector column, or None.

        The share of a pixel in the error is weight times profile.
        """
        if not all("flux_var_flat" in s.values and s.values["flux_var_flat"].any() for s in (self, other)):
            return None
        correlation = np.ones(len(self.span))
        if {"weight", "profile"} <= set(self.values) & set(other.values):
            common, *pixels = self._common_pixels(other)
            shares = [s.values["weight"].astype(np.float64) * np.nan_to_num(s.values["profile"]) for s in (self, other)]
            whole = [(share**2).sum(0) for share in shares]
            product = (shares[0][pixels[0]] * shares[1][pixels[1]]).sum(0)
            norm = np.sqrt(whole[0][pixels[0][1][0]] * whole[1][pixels[1][1][0]])
            correlation = np.zeros(len(self.span))
            correlation[common - self.span.start] = np.divide(product, norm, out=np.zeros(norm.size), where=norm > 0)
        elif "place" in self.values and "place" in other.values:
            distance = np.nan_to_num(abs(float(self.values["place"] - other.values["place"])))
            correlation *= max(0.0, 1 - distance / _REACH)
        if not correlation.any():
            return None
        variances = [s.by_column(s.values["flux_var_flat"]) for s in (self, other)]
        return np.asarray(correlation * np.sqrt(np.maximum(variances[0] * variances[1], 0.0)))

    def _common_pixels(self, other: "_Spectrum") -> tuple[np.ndarray, Any, Any]:
        """Return the detector columns that two spectra share, and the indices of the shared pixels in both maps."""
        _, row, other_row = np.intersect1d(self.rows, other.rows, return_indices=True)
        common, column, other_column = np.intersect1d(self.columns, other.columns, return_indices=True)
        return common, np.ix_(row, column), np.ix_(other_row, other_column)


def combined_spectrum(
    *blocks: np.ndarray,
    keys: Sequence[tuple[str, int]],
    wanted: Sequence[str],
    labels: Sequence[tuple[np.ndarray, np.ndarray]],
    exposures: Sequence[_Exposure],
    origins: Sequence[Origins],
    times: Sequence[float] | None,
    clip_threshold: float | None,
    smoothing: int,
) -> tuple[np.ndarray, ...]:
    """Combine spectra on a grid of wavelengths, see :func:`nsxr.spectra.combination.combine_spectra`.

    Parameters
    ----------
    *blocks : ndarray
        The grid, then the variables of each spectrum.
    keys : sequence of (str, int)
        Name of the variable and number of the spectrum, for each block after the first.
    wanted : sequence of str
        Names of the results to return, in order.
    labels : sequence of (columns, rows)
        Detector columns of each spectrum, and rows of its maps.
    exposures : sequence of (str, tuple of str)
        Names of the exposure of each spectrum, and of the exposures in its background.
    origins : sequence of mapping
        Where the errors of each spectrum are from.
    times : sequence of float or None
        Weights; None for the inverse of the variance.
    clip_threshold : float or None
        Standard deviations.
    smoothing : int
        Length of the running median of the inverse variance.
    """
    grid, given = blocks[0], list(zip(keys, blocks[1:], strict=True))
    span = range(min(int(c.min()) for c, _ in labels), max(int(c.max()) for c, _ in labels) + 1)
    spectra = []
    for number, label in enumerate(labels):
        spectrum = _Spectrum({name: block for (name, of), block in given if of == number}, label, span)
        spectrum.sample(grid, smoothing)
        spectra.append(spectrum)
    weights = np.array([s.weight if times is None else np.full(grid.size, times[i]) for i, s in enumerate(spectra)])
    used = np.array([s.used for s in spectra]) & np.isfinite(weights)
    samples = np.array([s.matrix @ s.by_column(s.values["flux"]) for s in spectra])
    variances = np.array([_product(s.matrix, s.matrix) @ s.variance for s in spectra])
    useful = used.any(axis=1)
    included = ~unlike_others(samples, variances, used)
    used &= included[:, None]
    included &= ~without_light(samples, variances, used)
    used &= included[:, None]
    if clip_threshold is not None:
        used = clip(samples, variances, weights, used, clip_threshold)
    weights = np.where(used, weights, 0.0)
    sums = weights.sum(axis=0)
    empty = sums == 0
    shares = weights / np.where(empty, 1.0, sums)
    matrices = [(sparse.diags_array(share) @ s.matrix).tocsr() for share, s in zip(shares, spectra, strict=True)]

    found = {name: np.zeros(grid.size) for name in ("flux_var_shared", "sb_var_shared", "flux_covariance")}
    for name in [name for name in ("flux", "surf_bright", *spectra[0].parts) if name in spectra[0].values]:
        is_variance = name in spectra[0].parts
        applied = [_product(matrix, matrix) if is_variance else matrix for matrix in matrices]
        terms = [matrix @ s.by_column(s.values[name]) for matrix, s in zip(applied, spectra, strict=True)]
        found[name] = np.sum(terms, axis=0)
    for matrix, spectrum in zip(matrices, spectra, strict=True):
        found["flux_covariance"][:-1] += _product(matrix[:-1], matrix[1:]) @ spectrum.variance
    for i, j in combinations(range(len(spectra)), 2):
        covariance = spectra[i].shared_with(spectra[j], (exposures[i], exposures[j]))
        flat = spectra[i].flat_shared_with(spectra[j]) if origins[i][OF_PIXELS] == origins[j][OF_PIXELS] else None
        if covariance is None and flat is None:
            continue
        covariance = np.zeros(len(span)) + (0.0 if covariance is None else covariance) + (0.0 if flat is None else flat)
        both = 2 * _product(matrices[i], matrices[j])
        neighbours = _product(matrices[i][:-1], matrices[j][1:]) + _product(matrices[j][:-1], matrices[i][1:])
        found["flux_var_shared"] += both @ covariance
        found["flux_covariance"][:-1] += neighbours @ covariance
        if "surf_bright" in found:
            scale = spectra[i].brightness_per_flux() * spectra[j].brightness_per_flux()
            found["sb_var_shared"] += both @ (covariance * scale)
    found |= _relative_errors(spectra, matrices, origins, wanted)
    found = {name: np.where(empty, np.nan, values) for name, values in found.items()}
    found |= {
        "combination_weight": sums,
        "n_input": used.sum(axis=0).astype(np.float64),
        "included": included,
        "useful": useful,
    }
    flags = np.where(used, np.array([s.flags for s in spectra]), np.uint32(0))
    found["dq"] = np.where(empty, _DO_NOT_USE, np.bitwise_or.reduce(flags, axis=0))
    return tuple(found[name] for name in wanted)


def _relative_errors(
    spectra: Sequence[_Spectrum],
    matrices: Sequence[sparse.csr_array],
    origins: Sequence[Origins],
    wanted: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the relative errors of the mean: those of the same origin add up, those of others in quadrature.

    A spectrum whose error is not known has that of the others. NaN where none is known.
    """
    found = {}
    for name in (name for name in wanted if name.startswith("relative_error_")):
        sums: dict[tuple[str, ...], np.ndarray] = {}
        light, lit = np.zeros(matrices[0].shape[0]), np.zeros(matrices[0].shape[0])
        for spectrum, matrix, origin in zip(spectra, matrices, origins, strict=True):
            if name in spectrum.values:
                is_known = np.isfinite(spectrum.values[name])
                flux = np.where(is_known, spectrum.values["flux"], 0.0)
                error = matrix @ spectrum.by_column(np.nan_to_num(spectrum.values[name]) * flux)
                sums[origin[name]] = sums.get(origin[name], 0.0) + error
                light += matrix @ spectrum.by_column(flux)
                lit += matrix @ spectrum.by_column(is_known.astype(np.float64))
        each = list(sums.values())
        total = each[0] if len(each) == 1 else np.sqrt(np.sum(np.square(each), axis=0))
        found[name] = np.divide(total, light, out=np.where(lit > 0, 0.0, np.nan), where=light != 0)
    return found


def _product(one: sparse.csr_array, other: sparse.csr_array) -> sparse.csr_array:
    """Return the elementwise product of two matrices."""
    return one.multiply(other).tocsr()
