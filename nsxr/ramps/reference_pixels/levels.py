"""Levels of the reference columns, amplifier by amplifier, in traditional readouts and subarrays."""

from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.kernels.ramps.reference_levels import EVIDENCE, shrunken_levels
from nsxr.kernels.ramps.reference_pixels import clipped_means
from nsxr.model.dims import RAMP
from nsxr.model.dq import PixelFlag
from nsxr.model.readout import DETECTOR_SIZE, REFERENCE_BORDER

__all__ = ["estimate_levels", "estimate_shrunken_levels", "evidence_keywords"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE.value)
_REFERENCE = np.uint32(PixelFlag.REFERENCE_PIXEL.value)

_KEYWORDS = {
    "level_kept": ("share of level subtracted", "", "RPKEEP"),
    "offset": ("constant odd-even offset", "DN", "OEOFFS"),
    "offset_scatter": ("scatter of odd-even offset", "DN", "OESCAT"),
    "offset_kept": ("share of odd-even scatter subtracted", "", "OEKEEP"),
}


def estimate_levels(
    sci: xr.DataArray,
    pixeldq: xr.DataArray,
    *,
    by_end: bool,
    edgeless: bool = False,
    odd_even_columns: bool = True,
    siglimit: float = 3.0,
) -> xr.DataArray:
    """Return the mean of the reference pixels for each row of one amplifier.

    Parameters
    ----------
    sci : DataArray
        Rows of one amplifier, (integration, group, row, column) float32 [DN].
    pixeldq : DataArray
        (row, column) uint32.
    by_end : bool
        Whether the pixels at the two ends of the columns make two clipped means, which are averaged (four amplifiers),
        or one mean (subarrays, where only pixels flagged REFERENCE_PIXEL count).
    edgeless : bool
        Whether the first and last four columns are used in place of reference pixels.
    odd_even_columns : bool
        Whether odd and even rows have levels of their own.
    siglimit : float
        Clipping limit [standard deviations].

    Returns
    -------
    DataArray
        (integration, group, row) float32 [DN]; 0 where there is nothing to subtract.
    """
    pixels, usable, end = _border(sci, pixeldq, by_end, edgeless)
    end = end if by_end else xr.zeros_like(end)
    parity = _parity(sci, odd_even_columns)
    n_parities, n_ends = 1 + odd_even_columns, 1 + by_end
    means = map_blocks(
        _means,
        one_chunk(pixels, "row", "column"),
        one_chunk(_label(parity * n_ends + end, usable), "row", "column"),
        core=("row", "column"),
        outputs={"means": (("integration", "group", "label"), np.float32)},
        sizes={"label": n_parities * n_ends},
        n_labels=n_parities * n_ends,
        limit=float(siglimit),
    )["means"]
    levels = [
        means.isel(label=slice(p * n_ends, (p + 1) * n_ends)).mean("label", skipna=True) for p in range(n_parities)
    ]
    known = np.isfinite(sum(levels))  # both parities, or neither
    levels = [level.where(known, np.float32(0)) for level in levels]
    return levels[-1].where(parity == 1, levels[0]).transpose("integration", "group", "row")


def estimate_shrunken_levels(
    sci: xr.DataArray,
    pixeldq: xr.DataArray,
    *,
    by_end: bool,
    edgeless: bool = False,
    odd_even_columns: bool = True,
    siglimit: float = 3.0,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the level of the reference pixels for each row of one amplifier, and numbers that describe its evidence.

    Odd and even rows have a common level and an offset from each other. Both have three parts: the mean over the
    exposure, the deviations of integrations, and the deviations of groups. Each part is multiplied by the share that
    exceeds its uncertainty, so that nothing is subtracted where the estimate is pure noise, see
    :func:`nsxr.kernels.ramps.reference_levels.shrunken_levels`.

    Parameters
    ----------
    sci, pixeldq, by_end, edgeless, odd_even_columns, siglimit
        As in :func:`estimate_levels`. If ``edgeless`` is set, rows with light are left out, and the mean slope of each
        pixel is subtracted first.

    Returns
    -------
    levels : DataArray
        (integration, group, row) float32 [DN]; 0 where there is nothing to subtract. The estimate needs the reference
        pixels of the whole exposure, 8 columns of each frame. They are brought together lazily.
    evidence : DataArray
        (evidence,) float64, the numbers named in :data:`nsxr.kernels.ramps.reference_levels.EVIDENCE`, NaN if there are
        no reference pixels, or if odd and even rows share a level.
    """
    pixels, usable, end = _border(sci, pixeldq, by_end, edgeless)
    parity = _parity(sci, odd_even_columns)
    n_parities = 1 + odd_even_columns
    levels, evidence = map_blocks(
        shrunken_levels,
        one_chunk(pixels, "integration", "group", "row", "column"),
        one_chunk(_label(parity * 2 + end, usable), "row", "column"),
        core=RAMP,
        outputs={
            "levels": (("integration", "group", "parity"), np.float32),
            "evidence": (("evidence",), np.float64),
        },
        sizes={"parity": n_parities, "evidence": len(EVIDENCE)},
        n_parities=n_parities,
        limit=float(siglimit),
        is_lit=edgeless,
        by_ends=not by_end,
    ).values()
    by_parity = [levels.isel(parity=p) for p in range(n_parities)]
    of_rows = by_parity[-1].where(parity == 1, by_parity[0]).transpose("integration", "group", "row")
    return of_rows, evidence.assign_coords(evidence=list(EVIDENCE))


def evidence_keywords(evidence: xr.DataArray, amplifier: int) -> dict[str, xr.DataArray]:
    """Return the evidence of one amplifier as numbers that become keywords of products.

    Parameters
    ----------
    evidence : DataArray
        From :func:`estimate_shrunken_levels`.
    amplifier : int
        Number of the amplifier.
    """
    numbers = {}
    for name, (meaning, units, keyword) in _KEYWORDS.items():
        number = evidence.sel(evidence=name, drop=True)
        number.attrs = {"long_name": f"{meaning}, output {amplifier}", "keyword": f"{keyword}{amplifier}"}
        number.attrs |= {"units": units} if units else {}
        numbers[f"reference_{name}_{amplifier}"] = number
    return numbers


def _border(
    sci: xr.DataArray, pixeldq: xr.DataArray, by_end: bool, edgeless: bool
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return the columns of reference pixels, which of them are usable, and at which end each column is."""
    column = sci.indexes["column"].to_numpy()
    low = column < REFERENCE_BORDER
    high = column >= DETECTOR_SIZE - REFERENCE_BORDER
    if edgeless:
        low, high = np.arange(column.size) < REFERENCE_BORDER, np.arange(column.size) >= column.size - REFERENCE_BORDER
    border = np.flatnonzero(low | high)
    pixels, flags = unlabelled(sci.isel(column=border)), unlabelled(pixeldq.isel(column=border))
    usable = (flags & _DO_NOT_USE) == 0
    if not by_end and not edgeless:
        usable = usable & ((flags & _REFERENCE) != 0)
    return pixels, usable, xr.DataArray(high[border].astype(int), dims="column")


def _parity(sci: xr.DataArray, odd_even_columns: bool) -> xr.DataArray:
    row = sci.indexes["row"].to_numpy()
    return xr.DataArray(row % 2 if odd_even_columns else np.zeros(row.size, int), dims="row")


def _label(number: xr.DataArray, usable: xr.DataArray) -> xr.DataArray:
    return number.astype(np.int8).where(usable, np.int8(-1)).transpose("row", "column")


def _means(sci: np.ndarray, label: np.ndarray, **parameters: Any) -> np.ndarray:
    means: np.ndarray = clipped_means(sci, label, **parameters)[0]
    return means
