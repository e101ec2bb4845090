"""The pixels of an image that see no light, found from the image alone."""

import numpy as np
from scipy import ndimage

from nsxr.kernels.compilation import kernel
from nsxr.kernels.medians import median_and_scatter
from nsxr.kernels.sorting import median_of, sort_columns

__all__ = ["dark_level", "find_dark"]

_LENGTHS = {1: 1.0, 9: 0.5, 65: 1.0}
"""Pixels along the dispersion that are averaged, to see bright, faint and very faint traces, and how much farther than
n_sigma they have to stand out. What stands out by less is so faint that the estimate of the noise hardly takes it for
noise."""

_ROUNDS = 3
_TILE = 32  # columns that are sorted together
_NEARBY, _LOW = 33, 35.0  # columns whose levels are compared, and the percentile of these levels: many may have lines
_KNOWN = 0.3  # least share of usable pixels in a mean
_ENOUGH = 200_000  # values that are enough to tell their centre and their scatter
_FEWEST = 24  # least number of dark pixels of an amplifier in a column, to measure their level


def dark_level(values: np.ndarray, used: np.ndarray | None = None) -> tuple[float, float]:
    """Return the centre and the scatter of the values of dark pixels, if most other values are larger.

    The centre is the middle of the densest quarter of the values. The scatter is that of the values below the centre.
    (NaN, NaN) for fewer than 10 values. ``used`` are the places of values that count, all of them finite; by default,
    all finite values count. Of many values, some from the whole image are enough.
    """
    used = np.isfinite(values) if used is None else used
    step = np.count_nonzero(used) // _ENOUGH | 1  # an even step would see only every other column
    known = values.ravel()[::step][used.ravel()[::step]]
    if known.size < 10:
        return np.nan, np.nan
    ordered = np.sort(known.astype(np.float64))
    part = ordered.size // 4
    width = ordered[part:] - ordered[:-part]
    smooth = ndimage.uniform_filter1d(width, max(1, width.size // 50), mode="nearest")
    first = int(np.argmin(smooth))
    middle = float(np.median(ordered[first : first + part]))
    below = middle - ordered[ordered <= middle]
    scatter = float(1.4826 * np.median(below))
    return middle, scatter


def find_dark(
    image: np.ndarray,
    usable: np.ndarray,
    bands: np.ndarray,
    n_sigma: float = 3.0,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Find the pixels that see no light.

    A pixel has light if it stands out, by itself or in means along the dispersion, from the level of the dark pixels of
    the same amplifier in the same column. This level follows correlated noise. Regions with light are enlarged along
    the dispersion by part of the length that was averaged. They are enlarged by two pixels across the dispersion, where
    the wings are too faint to be found. Columns of an amplifier have light if their level stands out from nearby ones.

    Parameters
    ----------
    image : ndarray
        (row, column) float32, for instance a mean of many groups. The dispersion runs along columns.
    usable : ndarray
        (row, column) bool, pixels whose value can be used.
    bands : ndarray
        (row,) int, amplifier that reads each row.
    n_sigma : float
        How far light stands out [standard deviations of the dark].
    mask : ndarray, optional
        (row, column) bool, pixels known to be dark. Then only single pixels that stand out are taken out of the mask.

    Returns
    -------
    is_dark : ndarray
        (row, column) bool.
    level : float
        Level of the dark pixels; NaN if there are none.
    """
    usable = usable & np.isfinite(image)
    values = np.where(usable, image, np.float32(0))
    if mask is not None:
        usable = usable & mask
    middle, scatter = dark_level(values, usable)
    if not np.isfinite(middle):
        return np.zeros_like(usable), np.nan
    is_dark = usable & (np.abs(values - middle) <= n_sigma * scatter)
    bright = _bright_columns(_column_levels(values, usable, bands), is_dark, usable, bands, n_sigma + 2)
    for _ in range(_ROUNDS):
        flat = values - _column_levels(values, is_dark, bands)
        lit, of_pixel = bright.copy(), 0.0
        for length, beyond in _LENGTHS.items() if mask is None else [(1, 0.0)]:
            mean, known = _running_mean(flat, usable & ~lit, length) if length > 1 else (flat, usable)
            centre, width = dark_level(mean, is_dark & known)
            if length == 1 and not np.isfinite(centre):  # too few dark pixels to tell what is dark
                return np.zeros_like(usable), np.nan
            of_pixel = width if length == 1 else of_pixel
            width = max(width, of_pixel / np.sqrt(length))  # white noise alone scatters as much
            if not width > 0:
                continue
            found = known & (mean - centre > (n_sigma + beyond) * width)
            if length == 1:
                lit |= known & (mean - centre < -(n_sigma + 1) * width)  # too low for a dark pixel: a bad value
                # light extends along the dispersion: add pixels above 2 sigma beside one that stands out
                found |= _grown(found, 1) & (mean - centre > 2 * width)
            else:
                found = _opened(found, length)
            lit |= found
        if mask is None:
            lit |= _grown(_traces(lit), 1, across=2)
        is_dark = usable & ~lit
    return is_dark, float(np.median(values[is_dark])) if is_dark.any() else np.nan


def _bright_columns(
    levels: np.ndarray, is_dark: np.ndarray, usable: np.ndarray, bands: np.ndarray, n_sigma: float
) -> np.ndarray:
    """Return the columns of an amplifier that a line fills: brighter than nearby ones, or with few dark pixels."""
    lit = np.zeros(levels.shape, np.bool_)
    for band in np.unique(bands):
        rows = bands == band
        of_band, share = levels[rows][:1], is_dark[rows].sum(0) / np.maximum(usable[rows].sum(0), 1)
        rest = of_band - ndimage.percentile_filter(of_band, _LOW, (1, _NEARBY), mode="nearest")
        centre, scatter = dark_level(rest)
        scatter = max(scatter, 0.7 * median_and_scatter(rest)[1])  # few columns may lie close
        found = ((share < 0.5 * np.median(share)) & usable[rows].any(0))[None]
        if scatter > 0:
            found = found | (rest > centre + n_sigma * scatter)
        lit[rows] = _grown(found, 2)
    return lit


def _traces(lit: np.ndarray) -> np.ndarray:
    """Return pixels with light that have a neighbour with light along the dispersion."""
    both: np.ndarray = ndimage.uniform_filter1d(lit.astype(np.float32), 9, axis=1, mode="constant") > 0.4
    found: np.ndarray = lit & both
    return found


def _opened(found: np.ndarray, length: int) -> np.ndarray:
    """Return the pixels whose means were found."""
    return _grown(found, length // 4)


def _grown(found: np.ndarray, along: int, across: int = 0) -> np.ndarray:
    """Return found pixels, enlarged to each side by this many neighbours along and across the dispersion."""
    grown = found
    for axis, width in ((1, along), (0, across)):
        done = 0
        while done < width:
            step = min(done + 1, width - done)  # what is grown already grows by its own width and one pixel
            before = grown.swapaxes(0, axis)
            grown = grown.copy()
            after = grown.swapaxes(0, axis)
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
            done += step
    return grown


@kernel
def _running_mean(
    values: np.ndarray, usable: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Return means of usable pixels along the dispersion, with the noise of a full window, and where they are known."""
    rows, columns = values.shape
    mean, known = np.empty(values.shape, np.float32), np.empty(values.shape, np.bool_)
    half = length // 2
    factor = np.zeros(length + 1)
    for n in range(1, length + 1):
        factor[n] = 1 / np.sqrt(n / length) / length if n > _KNOWN * length else 0.0
    for r in range(rows):
        total, count = 0.0, 0
        for c in range(-half, columns):
            last, before = c + half, c - half - 1
            if last < columns and usable[r, last]:
                total += values[r, last]
                count += 1
            if before >= 0 and usable[r, before]:
                total -= values[r, before]
                count -= 1
            if c >= 0:
                known[r, c] = factor[count] > 0
                mean[r, c] = total * factor[count]
    return mean, known


def _column_levels(values: np.ndarray, is_dark: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Return the median of the dark pixels of each amplifier in each column, as an image."""
    levels = np.zeros_like(values)
    for band in np.unique(bands):
        rows = np.flatnonzero(bands == band)
        median, count = _column_medians(values, is_dark, rows)
        enough = count >= _FEWEST
        if enough.any():
            median[~enough] = np.median(median[enough])
        else:
            median[:] = np.median(values[is_dark]) if is_dark.any() else 0.0
        levels[rows] = median
    return levels


@kernel
def _column_medians(
    values: np.ndarray, is_dark: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Return the median of dark pixels of some rows in each column, float32, and the number of these pixels."""
    n = values.shape[1]
    median, count = np.zeros(n, np.float32), np.zeros(n, np.int64)
    tile = np.empty((rows.size, _TILE), np.float32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        for r in range(rows.size):
            for c in range(size):
                used = is_dark[rows[r], start + c]
                tile[r, c] = values[rows[r], start + c] if used else np.inf
                count[start + c] += used
        sort_columns(tile, rows.size, size)
        for c in range(size):
            median[start + c] = median_of(tile, c, 0, count[start + c])
    return median, count
