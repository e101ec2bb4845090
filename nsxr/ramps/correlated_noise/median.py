"""Correlated noise as the median of each column, as in the observatory's pipeline, for comparison."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.model.dims import IMAGE, RAMP

__all__ = ["median_stripes"]


def median_stripes(values: xr.DataArray, is_dark: xr.DataArray, bands: np.ndarray | None = None) -> xr.DataArray:
    """Return the median of the dark pixels of every column, over all rows or over the rows of each amplifier.

    Parameters
    ----------
    values : DataArray
        (integration, group, row, column) float32, with the level of dark pixels subtracted; NaN where a pixel cannot be
        used.
    is_dark : DataArray
        (row, column) bool.
    bands : ndarray, optional
        (row,), amplifier that reads each row, if each amplifier is to have its own median.

    Returns
    -------
    DataArray
        float32 of the same shape; 0 in columns without dark pixels.
    """
    of_row = np.zeros(values.sizes["row"], dtype=np.int64) if bands is None else bands

    def stripes(values: np.ndarray, is_dark: np.ndarray) -> np.ndarray:
        noise = np.zeros_like(values)
        for band in np.unique(of_row):
            rows = of_row == band
            masked = np.ma.masked_invalid(np.where(is_dark[rows], values[..., rows, :], np.nan))
            middle = np.ma.median(masked, axis=-2, keepdims=True)  # type: ignore[no-untyped-call]
            noise[..., rows, :] = middle.filled(0)
        return noise

    noise = map_blocks(stripes, values, is_dark, core=IMAGE, outputs={"noise": (RAMP, np.float32)})["noise"]
    return noise
