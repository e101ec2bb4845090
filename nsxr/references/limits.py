"""Define the physical range of values of each reference. Values outside are flagged when a reference is opened."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nsxr.model.dq import PixelFlag
from nsxr.model.readout import IRS2_ROWS

__all__ = ["LIMITS", "Limit", "flag_unphysical"]

IMAGE = ("row", "column")

CONVERTER = 65535.0
"""Largest value of the 16-bit analog-to-digital converter [DN]."""

_TERM = 100 * CONVERTER
"""Largest value of a term of a polynomial, for any signal that the converter gives [DN]."""


_NOISE = 0.1
"""Smallest possible read noise [DN], well below one step of the converter."""


@dataclass(frozen=True)
class Limit:
    """Hold the smallest and largest possible value of a variable of a reference, and the flag for pixels outside.

    Attributes
    ----------
    least, most : float
        Range, ends included. For coefficients of a polynomial, the range applies to the term at the largest signal of
        the converter.
    units : str
        Units of the range.
    flags : PixelFlag
        Flags for pixels with a value that is outside or not finite. None if a later step flags pixels without a value.
    becomes_nan : bool
        Whether the value becomes NaN. If not, the step uses the flag.
    linear : float, optional
        Smallest coefficient of the first power. It is near 1 in real references.
    """

    least: float
    most: float
    units: str
    flags: PixelFlag | None = None
    becomes_nan: bool = True
    linear: float | None = None


LIMITS: Mapping[tuple[str, str], Limit] = {
    # without its bias, a pixel is wrong by thousands of DN, and the linearity correction uses a wrong signal
    ("superbias", "sci"): Limit(-CONVERTER, CONVERTER, "DN", PixelFlag.UNRELIABLE_BIAS | PixelFlag.DO_NOT_USE),
    # without its dark, a pixel is too high by 0.01 electron/s, or by more if it is hot
    ("dark", "sci"): Limit(-CONVERTER, CONVERTER, "DN", PixelFlag.UNRELIABLE_DARK),
    ("dark", "average_dark_current"): Limit(-1e5, 1e5, "electron/s"),
    ("linearity", "coefficients"): Limit(-_TERM, _TERM, "DN", PixelFlag.NO_LIN_CORR, becomes_nan=False, linear=0.1),
    ("linearity", "inverse_coefficients"): Limit(-_TERM, _TERM, "DN", PixelFlag.NO_LIN_CORR, becomes_nan=False),
    # a threshold above the range of the converter is never reached, and a threshold of 0 always
    ("saturation", "sci"): Limit(1.0, CONVERTER, "DN", PixelFlag.NO_SAT_CHECK, becomes_nan=False),
    # real gains are between 0.9 and 2; jump and ramp_fit give NO_GAIN_VALUE and DO_NOT_USE to pixels without a gain
    ("gain", "sci"): Limit(0.1, 10.0, "electron/DN"),
    # ramp_fit gives DO_NOT_USE to pixels without a positive read noise
    ("readnoise", "sci"): Limit(_NOISE, CONVERTER, "DN"),
    ("pictureframe", "sci"): Limit(-CONVERTER, CONVERTER, "1"),
    # real weights are below 10; an impossible weight makes its amplifier NaN, which gets DO_NOT_USE in ramp_fit
    ("refpix", "alpha"): Limit(-1e3, 1e3, "1"),
    ("refpix", "beta"): Limit(-1e3, 1e3, "1"),
}
"""Limits by type of reference and name of the variable."""


def flag_unphysical(kind: str, reference: xr.Dataset) -> xr.Dataset:
    """Remove and flag the values of a reference that are not finite or outside the physical range.

    Parameters
    ----------
    kind : str
        Type of the reference.
    reference : Dataset
        Variables as in :data:`LIMITS`. ``dq`` (row, column) uint32 is needed if there are flags to set. Lazy.

    Returns
    -------
    Dataset
        Such values are NaN, and ``dq`` has the flags of :data:`LIMITS`. In raw IRS2 frames, the interleaved reference
        pixels get no flags, because a reference need not have values for them.
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
    """Return the bound of each power of a polynomial, or one bound for all values, with one axis for each dim."""
    first = str(array.dims[0])
    if not first.endswith("order"):
        return np.full((1,) * array.ndim, bound, np.float32)
    powers = CONVERTER ** np.arange(array.sizes[first], dtype=np.float64)
    return np.reshape(bound / powers, (-1, 1, 1)).astype(np.float32)


def _is_outside(block: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return which values are outside the bounds, or NaN. Most blocks have no such value, and take little time."""
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
