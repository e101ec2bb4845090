"""Values that a reference can hold in this world; what lies beyond is flagged where the reference is opened."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nsxr.model.dq import PixelFlag
from nsxr.model.readout import IRS2_ROWS

__all__ = ["LIMITS", "Limit", "flag_unphysical"]

IMAGE = ("row", "column")

CONVERTER = 65535.0
"""Largest value of the 16-bit converter [DN]."""

_TERM = 100 * CONVERTER
"""No term of a polynomial may come to more, for any signal that the converter gives [DN]."""


_NOISE = 0.1
"""Smallest read noise [DN], well below the step of the converter."""


@dataclass(frozen=True)
class Limit:
    """Smallest and largest possible value of a variable of a reference, and what a pixel outside of them gets.

    Attributes
    ----------
    least, most : float
        Range, ends included. Where there are powers of the signal, they hold for the term at the end of the converter.
    units : str
        Units of the range.
    flags : PixelFlag
        For pixels of which a value is outside, or not finite. None where a later step flags a pixel without a value.
    becomes_nan : bool
        Whether the value is taken away. Else a step goes by the flag.
    linear : float, optional
        Smallest coefficient of the first power, which is near 1 in real references.
    """

    least: float
    most: float
    units: str
    flags: PixelFlag | None = None
    becomes_nan: bool = True
    linear: float | None = None


LIMITS: Mapping[tuple[str, str], Limit] = {
    # without its bias, a pixel is too high or too low by thousands of DN, and linearised in the wrong place
    ("superbias", "sci"): Limit(-CONVERTER, CONVERTER, "DN", PixelFlag.UNRELIABLE_BIAS | PixelFlag.DO_NOT_USE),
    # without its dark, a pixel keeps 0.01 electron/s more, unless it is hot
    ("dark", "sci"): Limit(-CONVERTER, CONVERTER, "DN", PixelFlag.UNRELIABLE_DARK),
    ("dark", "average_dark_current"): Limit(-1e5, 1e5, "electron/s"),
    ("linearity", "coefficients"): Limit(-_TERM, _TERM, "DN", PixelFlag.NO_LIN_CORR, becomes_nan=False, linear=0.1),
    ("linearity", "inverse_coefficients"): Limit(-_TERM, _TERM, "DN", PixelFlag.NO_LIN_CORR, becomes_nan=False),
    # a threshold above the converter's end is never reached, one of 0 always
    ("saturation", "sci"): Limit(1.0, CONVERTER, "DN", PixelFlag.NO_SAT_CHECK, becomes_nan=False),
    # real gains are between 0.9 and 2; jump detection and fit give pixels without one NO_GAIN_VALUE and DO_NOT_USE
    ("gain", "sci"): Limit(0.1, 10.0, "electron/DN"),
    # the fit gives pixels without a positive noise DO_NOT_USE
    ("readnoise", "sci"): Limit(_NOISE, CONVERTER, "DN"),
    ("pictureframe", "sci"): Limit(-CONVERTER, CONVERTER, "1"),
    # real weights are below 10; one that cannot be makes its output NaN, which the fit gives DO_NOT_USE
    ("refpix", "alpha"): Limit(-1e3, 1e3, "1"),
    ("refpix", "beta"): Limit(-1e3, 1e3, "1"),
}
"""By type of reference and variable."""


def flag_unphysical(kind: str, reference: xr.Dataset) -> xr.Dataset:
    """Return a reference without values that are not finite or out of any physical range, and with flags for them.

    Parameters
    ----------
    kind : str
        Type of the reference.
    reference : Dataset
        Its variables, see :data:`LIMITS`; ``dq`` (row, column) uint32 where there are flags to set. Lazy.

    Returns
    -------
    Dataset
        Such values are NaN, and ``dq`` has the flags of :data:`LIMITS`. In raw IRS2 frames, reference pixels between
        the science pixels get no flags: for them a reference need have no values.
    """
    result = reference
    for (of_kind, name), limit in LIMITS.items():
        if of_kind != kind or name not in reference:
            continue
        array = reference[name]
        bounds = {"least": _bounds(array, limit.least), "most": _bounds(array, limit.most)}
        if limit.linear is not None and array.sizes[array.dims[0]] > 1:
            bounds["least"][1] = limit.linear
        outside: xr.DataArray = xr.apply_ufunc(
            _is_outside, array, kwargs=bounds, dask="parallelized", output_dtypes=[np.bool_]
        )
        if limit.becomes_nan:
            inside = xr.apply_ufunc(
                _without, array, outside, dask="parallelized", output_dtypes=[array.dtype], keep_attrs=True
            )
            result = result.assign({name: inside.assign_attrs(array.attrs)})
        if limit.flags:
            outside = outside.any([dim for dim in array.dims if dim not in IMAGE])
            if array.sizes["row"] == IRS2_ROWS:
                outside = (outside & (reference["science_row"] >= 0)).drop_vars("science_row")
            flagged = result["dq"] | outside * np.uint32(limit.flags.value)
            result = result.assign(dq=flagged.drop_attrs().assign_attrs(result["dq"].attrs))
    return result


def _bounds(array: xr.DataArray, bound: float) -> np.ndarray:
    """Return the bound of each power of a polynomial, or one for all; an axis for each dim."""
    first = str(array.dims[0])
    if not first.endswith("order"):
        return np.full((1,) * array.ndim, bound, np.float32)
    powers = CONVERTER ** np.arange(array.sizes[first], dtype=np.float64)
    return np.reshape(bound / powers, (-1, 1, 1)).astype(np.float32)


def _is_outside(block: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Say which values are outside of the bounds, or NaN; quickly where none is, as in most blocks."""
    size = np.abs(block) if block.dtype.kind == "c" else block
    axes = tuple(axis for axis in range(block.ndim) if least.shape[axis] == 1)
    if (size.min(axes, keepdims=True) >= least).all() and (size.max(axes, keepdims=True) <= most).all():
        return np.zeros(block.shape, np.bool_)
    outside: np.ndarray = ~((size >= least) & (size <= most))
    return outside


def _without(block: np.ndarray, outside: np.ndarray) -> np.ndarray:
    if not outside.any():
        return block
    left = block.copy()
    left[outside] = np.nan
    return left
