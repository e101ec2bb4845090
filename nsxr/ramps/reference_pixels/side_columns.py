"""Signal of the side reference rows of full frames: a running median, or a filter for each amplifier."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.compute.passes import settle
from nsxr.errors import ParameterError, ReferenceFileError
from nsxr.kernels.ramps.reference_pixels import running_median
from nsxr.kernels.ramps.side_filter import (
    estimate_kernels,
    filter_sides,
    kernels_from_reference,
    line_medians,
    side_lines,
)
from nsxr.model.dq import PixelFlag
from nsxr.model.readout import DETECTOR_SIZE, REFERENCE_BORDER

__all__ = ["estimate_side_kernels", "estimate_side_signal", "filtered_sides", "read_sides", "side_kernels"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE.value)
_LINES = ("integration", "group", "column")
_KERNELS = ("output", "side", "tap")


def estimate_side_signal(sci: xr.DataArray, pixeldq: xr.DataArray, length: int = 11) -> xr.DataArray:
    """Return the running median of the reference rows at both sides, averaged.

    Parameters
    ----------
    sci : DataArray
        (integration, group, row, column) float32 [DN], levels already subtracted.
    pixeldq : DataArray
        (row, column) uint32.
    length : int
        Columns in the window, odd.

    Returns
    -------
    DataArray
        (integration, group, column) float32 [DN]. If one side has no good pixel, the value of the other side; 0 if
        neither has one.
    """
    row = sci.indexes["row"].to_numpy()
    sides = []
    for rows in (np.flatnonzero(row < REFERENCE_BORDER), np.flatnonzero(row >= DETECTOR_SIZE - REFERENCE_BORDER)):
        if rows.size == 0:
            continue
        side = slice(int(rows[0]), int(rows[-1]) + 1)
        good = (unlabelled(pixeldq.isel(row=side)) & _DO_NOT_USE) == 0
        median = map_blocks(
            running_median,
            one_chunk(unlabelled(sci.isel(row=side)), "row", "column"),
            one_chunk(good, "row", "column"),
            core=("row", "column"),
            outputs={"median": (("integration", "group", "column"), np.float32)},
            length=length,
        )["median"]
        sides.append(median)
    if not sides:
        return unlabelled(xr.zeros_like(sci.isel(row=0, drop=True)))
    return xr.concat(sides, "side").mean("side", skipna=True).fillna(0).astype(np.float32)


def side_kernels(
    sirskernel: xr.Dataset, detector: str, *, gaussmooth: float = 1.0, halfwidth: int = 30
) -> xr.DataArray:
    """Return the kernels of a SIRS reference.

    Parameters
    ----------
    sirskernel : Dataset
        ``gamma`` (left) and ``zeta`` (right), (output, frequency) complex: Fourier coefficients of the filters of the
        four amplifiers, in memory. An attribute ``detector``, if there is one, must be that of the exposure.
    detector : str
        NRS1 or NRS2.
    gaussmooth : float
        Standard deviation of the Gaussian that smooths kernels [lines].
    halfwidth : int
        Lines to each side of the centre that are kept.

    Returns
    -------
    DataArray
        (output, side, tap) float64; side 0 is the side that is read first in a line of amplifier 1.

    Raises
    ------
    ReferenceFileError
        If the coefficients are not as declared, too few for ``halfwidth``, or belong to another detector.
    """
    found = str(sirskernel.attrs.get("detector", detector)).upper()
    shapes = [sirskernel[name].shape if name in sirskernel else None for name in ("gamma", "zeta")]
    if found != detector.upper() or shapes[0] != shapes[1] or shapes[0] is None or shapes[0][0] != 4:
        raise ReferenceFileError(
            f"sirskernel reference is for {found} with gamma {shapes[0]} and zeta {shapes[1]}; expected {detector} and "
            "two arrays (output, frequency) of 4 outputs"
        )
    if shapes[0][1] <= halfwidth:
        raise ReferenceFileError(
            f"sirskernel reference has {shapes[0][1]} frequencies, too few for halfwidth {halfwidth}; lower halfwidth"
        )
    gamma, zeta = sirskernel["gamma"].to_numpy(), sirskernel["zeta"].to_numpy()
    return xr.DataArray(kernels_from_reference(gamma, zeta, gaussmooth, halfwidth), dims=_KERNELS)


def estimate_side_kernels(
    bands: list[xr.DataArray],
    sides: xr.DataArray,
    pixeldq: xr.DataArray,
    *,
    halfwidth: int = 30,
) -> xr.DataArray:
    """Return the kernels that predict the 1/f noise of each amplifier from the side reference pixels of this exposure.

    The lines of an amplifier are medians over its light-sensitive pixels. A straight ramp is subtracted from each pixel
    before, so constant light and dark current cancel. See :func:`nsxr.kernels.ramps.side_filter.estimate_kernels`.

    Parameters
    ----------
    bands : list of DataArray
        Rows of each of the four amplifiers, in the order of amplifiers, (integration, group, row, column) float32 [DN],
        levels already subtracted, with their coordinates.
    sides : DataArray
        (side, integration, group, column) float32 [DN], columns in image order.
    pixeldq : DataArray
        (row, column) uint32, with coordinates.
    halfwidth : int
        Lines to each side of the centre that a kernel may use.

    Returns
    -------
    DataArray
        (output, side, tap) float64. Lazy if the exposure is; the frames of each integration and amplifier are brought
        together.

    Raises
    ------
    ParameterError
        If there are fewer than three groups. The straight ramp alone needs two.
    """
    if bands[0].sizes["group"] < 3:
        raise ParameterError(
            f"kernels of 'sirs' cannot be estimated from {bands[0].sizes['group']} groups, at least 3 are needed; "
            "give a reference of type 'sirskernel', or use refpix_algorithm='median'"
        )
    lines = []
    for band in bands:
        row, column = (band.indexes[dim].to_numpy() for dim in ("row", "column"))
        inside = xr.DataArray(_is_inside(row), dims="row") & xr.DataArray(_is_inside(column), dims="column")
        good = (unlabelled(pixeldq.sel(row=slice(row[0], row[-1]))) & _DO_NOT_USE) == 0
        medians = map_blocks(
            line_medians,
            one_chunk(unlabelled(band), "group", "row", "column"),
            one_chunk((good & inside).transpose("row", "column"), "row", "column"),
            core=("group", "row", "column"),
            outputs={"medians": (_LINES, np.float32)},
        )["medians"]
        lines.append(one_chunk(medians, *_LINES))
    stacked = one_chunk(xr.concat(lines, "output").transpose("integration", "group", "output", "column"), "output")
    kernels = map_blocks(
        estimate_kernels,
        *(one_chunk(sides.isel(side=k), *_LINES) for k in range(2)),
        stacked,
        core=("integration", "group", "output", "column"),
        outputs={"kernels": (_KERNELS, np.float64)},
        sizes={"output": len(bands), "side": 2, "tap": 2 * halfwidth + 1},
        halfwidth=halfwidth,
    )["kernels"]
    return settle(kernels)


def filtered_sides(sides: xr.DataArray, kernels: xr.DataArray, detector: str) -> xr.DataArray:
    """Return the signal of the side reference rows, filtered for the lines of each amplifier.

    Parameters
    ----------
    sides : DataArray
        (side, integration, group, column) float32 [DN], as from :func:`read_sides`.
    kernels : DataArray
        (output, side, tap) float64.
    detector : str
        NRS1 or NRS2, whose lines are read from the last to the first column.

    Returns
    -------
    DataArray
        (integration, group, output, column) float32 [DN].
    """
    kernels = kernels if detector == "NRS1" else kernels.isel(tap=slice(None, None, -1))
    filtered = map_blocks(
        filter_sides,
        *(one_chunk(sides.isel(side=k), "column") for k in range(2)),
        one_chunk(kernels, *_KERNELS),
        core=("column", *_KERNELS),
        outputs={"filtered": (("integration", "group", "output", "column"), np.float32)},
        sizes={"output": kernels.sizes["output"]},
    )["filtered"]
    return filtered


def read_sides(sci: xr.DataArray, pixeldq: xr.DataArray, detector: str, *, sigreject: float = 4.0) -> xr.DataArray:
    """Return the line means of the side reference rows.

    Parameters
    ----------
    sci : DataArray
        (integration, group, row, column) float32 [DN], levels already subtracted, with coordinates.
    pixeldq : DataArray
        (row, column) uint32.
    detector : str
        NRS1, whose left side is row 0, or NRS2, where it is row 2047.
    sigreject : float
        Limit beyond which a pixel is left out, in standard deviations of its side and frame.

    Returns
    -------
    DataArray
        (side, integration, group, column) float32 [DN], the left side first, columns in image order.
    """
    row = sci.indexes["row"].to_numpy()
    low, high = np.flatnonzero(row < REFERENCE_BORDER), np.flatnonzero(row >= DETECTOR_SIZE - REFERENCE_BORDER)
    lines = []
    for rows in (low, high) if detector == "NRS1" else (high, low):
        side = slice(int(rows[0]), int(rows[-1]) + 1)
        good = (unlabelled(pixeldq.isel(row=side)) & _DO_NOT_USE) == 0
        means = map_blocks(
            side_lines,
            one_chunk(unlabelled(sci.isel(row=side)), "row", "column"),
            one_chunk(good, "row", "column"),
            core=("row", "column"),
            outputs={"means": (_LINES, np.float32)},
            sigreject=float(sigreject),
        )["means"]
        lines.append(means)
    return xr.concat(lines, "side")


def _is_inside(label: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (label >= REFERENCE_BORDER) & (label < DETECTOR_SIZE - REFERENCE_BORDER)
    return inside
