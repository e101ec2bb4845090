"""Interpolate flats in wavelength, pixel by pixel."""

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["finish_flat", "multiply_images", "multiply_table"]

_NODE = np.sqrt(0.6) / 2
_OUTER, _MIDDLE = 5 / 18, 8 / 18
"""Nodes and weights of the Gauss-Legendre rule of three points, for the mean over an interval of length 1."""


@kernel
def _place(x: float, nodes: np.ndarray, start: int) -> int:
    """Return the interval of increasing nodes that holds x, which must not be outside. Search from interval start."""
    k = start
    while k < nodes.size - 2 and nodes[k + 1] <= x:
        k += 1
    while k > 0 and nodes[k] > x:
        k -= 1
    return k


@kernel
def multiply_images(
    wavelength: np.ndarray,
    planes: np.ndarray,
    sci: np.ndarray,
    err: np.ndarray,
    dq: np.ndarray,
    lost: np.uint32,
    value: np.ndarray,
    relative_variance: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Multiply ``value`` by images that are interpolated linearly in wavelength.

    Parameters
    ----------
    wavelength : (row, column) float32
        Wavelengths, NaN outside the slit. Pixels there do not change.
    planes : (plane,) float64
        Increasing wavelengths of the images. A single image holds for all wavelengths.
    sci : (plane, row, column) float32
        Images.
    err, dq : (plane or 1, row, column)
        Errors float32, NaN for none, and flags uint32.
    lost : uint32
        Flags of pixels outside of these wavelengths, and of those whose image is NaN or 0. Their value becomes NaN.
    value, relative_variance, flags : (row, column)
        float64, float64 and uint32, changed in place.
    """
    rows, columns = wavelength.shape
    n = planes.size
    for r in range(rows):
        k = 0
        for c in range(columns):
            x = wavelength[r, c]
            if not x > 0.0:
                continue
            part = 0.0
            if n > 1 and not (planes[0] <= x <= planes[n - 1]):
                value[r, c] = np.nan
                flags[r, c] |= lost
                continue
            if n > 1:
                k = _place(x, planes, k)
                part = (x - planes[k]) / (planes[k + 1] - planes[k])
            found, error, bits = float(sci[k, r, c]), float(err[k % err.shape[0], r, c]), dq[k % dq.shape[0], r, c]
            if part > 0.0:
                found += part * (sci[k + 1, r, c] - found)
                if err.shape[0] > 1:
                    error += part * (err[k + 1, r, c] - error)
                if dq.shape[0] > 1:
                    bits |= dq[k + 1, r, c]
            if found == 0.0 or found != found:
                found, bits = np.nan, bits | lost
            value[r, c] *= found
            flags[r, c] |= bits
            if error == error:
                relative_variance[r, c] += (error / found) ** 2


@kernel
def multiply_table(
    wavelength: np.ndarray,
    nodes: np.ndarray,
    data: np.ndarray,
    err: np.ndarray,
    lost: np.uint32,
    value: np.ndarray,
    relative_variance: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Multiply ``value`` by a table, averaged over the wavelengths that a pixel sees.

    Parameters
    ----------
    wavelength : (row, column) float32
        Wavelengths, NaN outside the slit. The width of a pixel is the step to the next pixel of its row, at the end of
        a row that from the pixel before.
    nodes, data, err : (node,) float64
        Table: increasing wavelengths, values and errors, linear between them.
    lost : uint32
        Flags of pixels that the table does not cover. Their value becomes NaN.
    value, relative_variance, flags : (row, column)
        float64, float64 and uint32, changed in place.
    """
    rows, columns = wavelength.shape
    last = nodes.size - 1
    for r in range(rows):
        k = 0
        for c in range(columns):
            x = wavelength[r, c]
            if not x > 0.0:
                continue
            width = 0.0
            if c + 1 < columns and wavelength[r, c + 1] > 0.0:
                width = float(wavelength[r, c + 1]) - x
            elif c > 0 and wavelength[r, c - 1] > 0.0:
                width = x - float(wavelength[r, c - 1])
            half = abs(width) * _NODE
            if not (nodes[0] <= x - half and x + half <= nodes[last]):
                value[r, c] = np.nan
                flags[r, c] |= lost
                continue
            if last == 0:
                mean, error = data[0], err[0]
            else:
                mean, error = 0.0, 0.0
                for point in range(3):
                    y = x + (point - 1) * half
                    k = _place(y, nodes, k)
                    part = (y - nodes[k]) / (nodes[k + 1] - nodes[k])
                    mean += (_MIDDLE if point == 1 else _OUTER) * (data[k] + part * (data[k + 1] - data[k]))
                    if point == 1:
                        error = err[k] + part * (err[k + 1] - err[k])
            value[r, c] *= mean
            relative_variance[r, c] += (error / mean) ** 2


@kernel
def finish_flat(
    wavelength: np.ndarray,
    do_not_use: np.uint32,
    no_flat: np.uint32,
    bad: np.uint32,
    value: np.ndarray,
    relative_variance: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Give the flags ``bad`` to pixels without a positive value, and NaN to pixels with ``do_not_use`` or ``no_flat``.

    Parameters
    ----------
    wavelength : (row, column) float32
        Wavelengths, NaN outside the slit. Pixels there become NaN without flags.
    do_not_use, no_flat, bad : uint32
        Flags.
    value, relative_variance, flags : (row, column)
        float64, float64 and uint32, changed in place.
    """
    rows, columns = wavelength.shape
    for r in range(rows):
        for c in range(columns):
            if not wavelength[r, c] > 0.0:
                value[r, c] = np.nan
                relative_variance[r, c] = np.nan
            elif flags[r, c] & (do_not_use | no_flat) or not (0.0 < value[r, c] < np.inf):
                flags[r, c] |= bad
                value[r, c] = np.nan
                relative_variance[r, c] = np.nan
