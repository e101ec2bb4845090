"""Compute weights of a box in a cut-out, the background below it, and sums over it; NumPy, one image at a time."""

import math
from collections.abc import Sequence

import numpy as np

from nsxr.kernels.shared_noise import SharedNoise, shared_in_columns
from nsxr.model.dq import PixelFlag

__all__ = ["box_weights", "overlap", "smooth", "sum_box"]

Polynomials = Sequence[Sequence[float]]
_LARGEST_CONDITION = 1e10
_MOST_MISSING = 0.5  # largest missing part of a box whose sum can be used
_ERROR_OF_MEDIAN = 1.2  # ratio to the error of the mean


def overlap(rows: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the part of each pixel between two limits; both limits are pixels inside. 0 where a limit is NaN."""
    part: np.ndarray = np.nan_to_num(np.clip(np.minimum(upper, rows) - np.maximum(lower, rows) + 1, 0, 1))
    return part


def box_weights(
    wavelength: np.ndarray,
    limits: np.ndarray,
    center: np.ndarray,
    *,
    extract_width: float | None,
    src_coeff: Polynomials | None,
    bkg_coeff: Polynomials | None,
    by_wavelength: bool,
    position_offset: float,
    whole_background: bool,
) -> tuple[np.ndarray, ...]:
    """Return the weights of the pixels of a box.

    Parameters
    ----------
    wavelength : (..., row, column) float32 [um]
        NaN outside the slit.
    limits : (..., 5) float
        First and last row, first and last column, middle column.
    center : (..., column) float [row]
        Centre of the source; NaN where the box stays at its nominal place.
    extract_width, src_coeff, bkg_coeff : see :class:`nsxr.references.apertures.Aperture`
        There are no weights of the background if ``bkg_coeff`` is None.
    by_wavelength : bool
        Whether polynomials are functions of wavelength; otherwise they are functions of the column.
    position_offset : float [row]
        Added to all limits.
    whole_background : bool
        Whether pixels that are only partly in a background region are left out, as for a median.

    Returns
    -------
    weights, background : (..., row, column) float64
        Part of each pixel in the box and in the background regions.
    mean_wavelength : (..., column) float64
        Mean wavelength with the weights of the box; NaN where the box is empty.
    start, stop : (...) float64
        Means over the image of the lowest and highest pixels in the box.
    """
    weights = np.zeros(wavelength.shape)
    background = np.zeros(wavelength.shape)
    means = np.empty((*wavelength.shape[:-2], wavelength.shape[-1]))
    start, stop = np.empty(wavelength.shape[:-2]), np.empty(wavelength.shape[:-2])
    for image in np.ndindex(wavelength.shape[:-2]):
        known = np.isfinite(wavelength[image])
        rows, columns = np.indices(known.shape, sparse=True)
        first_row, last_row, first_column, last_column, middle = limits[image]
        used = (columns >= first_column) & (columns <= last_column)
        argument = wavelength[image].astype(np.float64) if by_wavelength else columns.astype(np.float64)
        if src_coeff is not None:
            regions = _regions(src_coeff, argument)
        elif extract_width is not None:
            regions = [_around((first_row + last_row) / 2, extract_width)]
        else:
            regions = [(np.asarray(first_row), np.asarray(last_row))]
        shift = position_offset
        placed = np.flatnonzero(np.isfinite(center[image]))
        if placed.size:
            column = placed[np.argmin(np.abs(placed - middle))]
            nominal = (_cover(rows, regions) * used)[:, column]
            if not nominal.any():
                nominal[:] = 1
            shift += center[image][column] - np.average(rows[:, 0], weights=nominal)
        if placed.size and src_coeff is None and extract_width is not None:
            regions = [_around(center[image] + position_offset, extract_width)]
        else:
            regions = [(lower + shift, upper + shift) for lower, upper in regions]
        weights[image] = np.where(known, _cover(rows, regions) * used, 0)
        start[image] = min(_mean(lower) for lower, _ in regions)
        stop[image] = max(_mean(upper) for _, upper in regions)
        total = weights[image].sum(axis=0)
        sums = np.where(known, wavelength[image] * weights[image], 0).sum(axis=0)
        means[image] = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
        if bkg_coeff is not None:
            around = [(lower + shift, upper + shift) for lower, upper in _regions(bkg_coeff, argument)]
            background[image] = _cover(rows, around, whole=whole_background) * used
    return weights, background, means, start, stop


def _regions(coefficients: Polynomials, argument: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first and last pixel inside each region, from polynomials that describe its edges."""
    edges = [np.polynomial.polynomial.polyval(argument, np.asarray(c, np.float64)) for c in coefficients]
    return [(lower + 0.5, upper - 0.5) for lower, upper in zip(edges[::2], edges[1::2], strict=True)]


def _around(middle: np.ndarray | float, width: float) -> tuple[np.ndarray, np.ndarray]:
    lower = np.asarray(middle) - (width - 1) / 2
    return lower, lower + width - 1


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _cover(rows: np.ndarray, regions: list[tuple[np.ndarray, np.ndarray]], whole: bool = False) -> np.ndarray:
    """Return the part of each pixel in any of the regions."""
    found = np.zeros(())
    for lower, upper in regions:
        part = (rows >= lower) & (rows <= upper) if whole else overlap(rows, lower, upper)
        found = np.maximum(found, part)
    return found


def sum_box(
    sci: np.ndarray,
    dq: np.ndarray,
    weights: np.ndarray,
    background: np.ndarray,
    *variances: np.ndarray,
    fit: str | None,
    order: int,
    smoothing_length: int,
    shared: SharedNoise | None = None,
    read: int = 0,
) -> tuple[np.ndarray, ...]:
    """Return weighted sums over the good pixels of a box, with the background subtracted.

    Parameters
    ----------
    sci : (..., row, column) float32
        Images.
    dq : (..., row, column) uint32
        Flags. A pixel is missing if it has DO_NOT_USE, or NaN in ``sci`` or in all variances.
    weights, background : (row, column) float64
        From :func:`box_weights`; with the first dimension of ``sci`` in front if this is the dimension of slits.
    *variances : (..., row, column) float32
        Any number.
    fit : str or None
        ``poly`` or ``median``; None for no background.
    order, smoothing_length : int
        See :class:`nsxr.references.apertures.Aperture`.
    shared : SharedNoise, optional
        What the pixels share of the noise of one of the variances.
    read : int
        Which of the variances that is.

    Returns
    -------
    sum, background, npixels, coverage : (..., column) float64
        The background is summed over the same pixels; coverage is the part of the box on measured pixels.
    variances, variances of the background : (..., column) float64
        For each kind of variance; the variances include those of the background. NaN where a pixel lacks this kind but
        has others.
    dq : (..., column) uint32
        OTHER_BAD_PIXEL where pixels of the box are missing. DO_NOT_USE where more than half of the box is missing, and
        where the error is not known: a variance of the sum is not finite, although the image has this kind of variance.
    """
    n = len(variances)
    variances = tuple(np.where(variance < 0, np.nan, variance) for variance in variances)  # invalid
    results = [np.zeros((*sci.shape[:-2], sci.shape[-1])) for _ in range(4 + 2 * n)]
    flags = np.zeros((*sci.shape[:-2], sci.shape[-1]), dtype=np.uint32)
    while weights.ndim < sci.ndim:
        weights, background = weights[..., None, :, :], background[..., None, :, :]
    weights, background = np.broadcast_to(weights, sci.shape), np.broadcast_to(background, sci.shape)
    for image in np.ndindex(sci.shape[:-2]):
        usable = np.isfinite(sci[image]) & (dq[image] & np.uint32(PixelFlag.DO_NOT_USE) == 0)
        if variances:
            usable &= ~np.all([np.isnan(variance[image]) for variance in variances], axis=0)
        exact = usable.copy()
        for variance in variances:
            exact &= ~np.isinf(variance[image])
        signal = np.where(usable, sci[image], np.nan).astype(np.float64)
        level, factor = np.zeros(signal.shape), np.zeros(signal.shape)
        if fit is not None:
            smoothed = smooth(signal, smoothing_length) if smoothing_length else signal
            find = _fit_polynomial if fit == "poly" else _fit_median
            level, factor = find(smoothed, background[image] != 0, exact, weights[image], order)
        summed = np.where(np.isfinite(signal - level), weights[image], 0)
        npixels, box = summed.sum(axis=0), weights[image].sum(axis=0)
        is_measured = dq[image] & np.uint32(PixelFlag.FLUX_ESTIMATED) == 0
        some = npixels > 1e-8
        results[0][image] = np.where(some, _weighted(signal - level, summed), np.nan)
        results[1][image] = _weighted(level, summed)
        results[2][image] = npixels
        flags[image] = np.where(some & (box - npixels > 1e-8), int(PixelFlag.OTHER_BAD_PIXEL), 0)
        is_lost = ~some | (npixels < (1 - _MOST_MISSING) * box)
        np.divide((summed * is_measured).sum(axis=0), box, out=results[3][image], where=box > 0)
        for number, variance in enumerate(variances):
            known = variance[image].astype(np.float64)
            of_background = _weighted(known, factor**2)
            of_box = _weighted(known, summed**2) + of_background
            if shared is not None and number == read:
                known = np.nan_to_num(known, posinf=0.0)
                of_box += shared_in_columns(summed - factor, known, shared)
                of_background += shared_in_columns(factor, known, shared)
            results[4 + number][image] = of_box
            results[4 + n + number][image] = of_background
            if np.isfinite(variance[image]).any():
                is_lost |= ~np.isfinite(results[4 + number][image])
        flags[image][is_lost] |= np.uint32(PixelFlag.DO_NOT_USE)
    return (*results, flags)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return sums over rows; pixels without weight may be NaN."""
    summed: np.ndarray = (np.where(weights != 0, values, 0) * weights).sum(axis=0)
    return summed


def smooth(image: np.ndarray, length: int) -> np.ndarray:
    """Return the mean of the finite pixels in a window along columns; edges are extended with the last pixel."""
    half = length // 2
    padded = np.pad(image, ((0, 0), (half, half)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)
    known = np.isfinite(windows)
    number = known.sum(axis=-1)
    total = np.where(known, windows, 0).sum(axis=-1)
    mean: np.ndarray = np.divide(total, number, out=np.full(image.shape, np.nan), where=number > 0)
    return mean


def _fit_polynomial(
    image: np.ndarray, region: np.ndarray, exact: np.ndarray, weights: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit each column. Return the background, and how much its sum over the box depends on each pixel."""
    n_rows = image.shape[0]
    powers = np.linspace(-1, 1, n_rows)[:, None] ** np.arange(order + 1)
    used = (region & exact & np.isfinite(image)).T
    matrix = np.einsum("cr,ri,rj->cij", used, powers, powers)
    solvable = np.linalg.cond(matrix) < _LARGEST_CONDITION
    inverse = np.zeros(matrix.shape)
    inverse[solvable] = np.linalg.inv(matrix[solvable])
    solution = np.einsum("cij,rj->cir", inverse, powers) * used[:, None, :]
    coefficients = np.einsum("cir,cr->ic", solution, np.where(used, image.T, 0))
    return powers @ coefficients, np.einsum("rc,ri,cis->sc", weights, powers, solution)


def _fit_median(
    image: np.ndarray, region: np.ndarray, exact: np.ndarray, weights: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each column, NaN where there is none, and dependences on pixels as in _fit_polynomial."""
    values = np.sort(np.where(region & np.isfinite(image), image, np.nan), axis=0)  # NaN goes last; nanmedian warns
    number = np.isfinite(values).sum(axis=0)
    columns = np.arange(number.size)
    level = (values[np.maximum(number - 1, 0) // 2, columns] + values[number // 2, columns]) / 2
    used = region & exact
    share = _ERROR_OF_MEDIAN * weights.sum(axis=0) / np.maximum(used.sum(axis=0), 1)
    return np.broadcast_to(level, image.shape), used * share
