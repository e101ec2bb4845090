"""Subtract what the reference pixels see, in traditional readouts and subarrays.

IRS2 frames have their own correction, :mod:`nsxr.corrections.refpix_irs2`;
:func:`subtract_reference_pixels` chooses by readout.
"""

import numpy as np
import xarray as xr

from nsxr.corrections.refpix_irs2 import subtract_interleaved_reference
from nsxr.errors import MissingReferenceError, ParameterError
from nsxr.kernels.reference_pixels import clipped_means, running_median
from nsxr.lazy import map_blocks, settle, unlabelled
from nsxr.model.chunking import is_kept, one_chunk
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.readout import DETECTOR_SIZE, REFERENCE_BORDER, Readout
from nsxr.model.variables import check

__all__ = ["estimate_levels", "estimate_side_signal", "subtract_reference_pixels"]

EDGELESS = ("SUB512", "SUB512S", "SUB32")
"""Subarrays that hold no reference pixels; their first and last four columns stand in."""

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE.value)
_REFERENCE = np.uint32(PixelFlag.REFERENCE_PIXEL.value)


def subtract_reference_pixels(
    exposure: xr.Dataset,
    refpix: xr.Dataset | None = None,
    *,
    odd_even_columns: bool = True,
    use_side_ref_pixels: bool = True,
    side_smoothing_length: int = 11,
    side_gain: float = 1.0,
    siglimit: float = 3.0,
    ovr_corr_mitigation_ftr: float = 3.0,
) -> xr.Dataset:
    """Subtract bias drifts and correlated noise as seen by the reference pixels.

    *Full frame, four outputs*: from each amplifier and row parity, the clipped mean of its reference
    columns, averaged over both ends; then from every column, the running median of the side
    reference rows. *Subarrays, one output*: one clipped mean for each row parity, no side signal.
    *IRS2*: see :func:`~nsxr.corrections.refpix_irs2.subtract_interleaved_reference`.

    The names speak of detector columns, which are rows here: "odd and even columns" are odd and even
    rows of an image in science orientation.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], ``pixeldq``, ``groupdq``.
    refpix : Dataset, optional
        Weights ``alpha`` and ``beta`` of IRS2; not used by other readouts.
    odd_even_columns : bool
        Whether parities have levels of their own.
    use_side_ref_pixels : bool
        Whether to subtract the side signal (full frame only).
    side_smoothing_length : int
        Columns in the running median; an even number is raised by one.
    side_gain : float
        Factor on the side signal.
    siglimit : float
        Clipping limit [standard deviations].
    ovr_corr_mitigation_ftr : float
        IRS2: limit beyond which interleaved reference pixels count as bad [standard deviations].

    Returns
    -------
    Dataset
        ``sci`` corrected, reference pixels themselves included. DQ does not change, except that IRS2
        exposures lose their interleaved rows (``pixeldq`` and ``groupdq`` too). Where an amplifier
        has no usable reference pixels of one parity it is left as it is.

    Raises
    ------
    MissingReferenceError
        If an IRS2 exposure comes without ``refpix``.
    ParameterError
        If a limit or length is not positive.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    if siglimit <= 0 or side_smoothing_length < 1 or ovr_corr_mitigation_ftr <= 0:
        raise ParameterError("siglimit, side_smoothing_length and ovr_corr_mitigation_ftr must be positive")
    if "science_row" in exposure.coords:
        if refpix is None:
            raise MissingReferenceError("an IRS2 exposure needs a reference of type 'refpix' for its correction")
        return subtract_interleaved_reference(exposure, refpix, ovr_corr_mitigation_ftr=ovr_corr_mitigation_ftr)
    readout = Readout.from_header(exposure.attrs)
    four_outputs = readout.n_outputs == 4
    sci, pixeldq = exposure["sci"], exposure["pixeldq"]
    bands = []
    amplifiers = readout.amplifier_of(exposure.indexes["row"].to_numpy())
    for amplifier in dict.fromkeys(amplifiers.tolist()):
        rows = np.flatnonzero(amplifiers == amplifier)
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        levels = estimate_levels(
            sci.isel(row=band),
            pixeldq.isel(row=band),
            by_end=four_outputs,
            edgeless=readout.subarray in EDGELESS,
            odd_even_columns=odd_even_columns,
            siglimit=siglimit,
        )
        levels = levels if _may_wait(sci.isel(row=band)) else settle(levels)
        bands.append(unlabelled(sci.isel(row=band)) - levels)
    corrected = (bands[0] if len(bands) == 1 else xr.concat(bands, "row")).assign_coords(sci.coords)
    if four_outputs and use_side_ref_pixels:
        length = side_smoothing_length + 1 - side_smoothing_length % 2
        side = settle(estimate_side_signal(corrected, pixeldq, length))
        corrected = corrected - side * np.float32(side_gain)
    parameters = {
        "odd_even_columns": odd_even_columns,
        "use_side_ref_pixels": use_side_ref_pixels,
        "side_smoothing_length": side_smoothing_length,
        "side_gain": side_gain,
        "siglimit": siglimit,
    }
    return record(exposure, "refpix", [], parameters, sci=corrected.transpose(*sci.dims))


def _may_wait(band: xr.DataArray) -> bool:
    """Whether the blocks that share an estimate may wait for it in memory."""
    if band.chunks is None:
        return True
    lengths = dict(zip(band.dims, band.chunks, strict=True))
    together = {str(dim): max(lengths[dim]) for dim in ("integration", "group")}
    return len(lengths["row"]) == 1 or is_kept({**together, "row": band.sizes["row"], "column": band.sizes["column"]})


def estimate_levels(
    sci: xr.DataArray,
    pixeldq: xr.DataArray,
    *,
    by_end: bool,
    edgeless: bool = False,
    odd_even_columns: bool = True,
    siglimit: float = 3.0,
) -> xr.DataArray:
    """Return the level of the reference pixels for each row of one amplifier.

    Parameters
    ----------
    sci : DataArray
        Rows of one amplifier, (integration, group, row, column) float32 [DN].
    pixeldq : DataArray
        (row, column) uint32.
    by_end : bool
        Whether the pixels at the two ends of the columns are averaged as two clipped means (four
        outputs) or make one mean (subarrays, where only pixels flagged REFERENCE_PIXEL count).
    edgeless : bool
        Whether the first and last four columns stand in for reference pixels.
    odd_even_columns : bool
        Whether each row parity has its level.
    siglimit : float
        Clipping limit [standard deviations].

    Returns
    -------
    DataArray
        (integration, group, row) float32 [DN]; 0 where there is nothing to subtract.
    """
    column = sci.indexes["column"].to_numpy()
    low = column < REFERENCE_BORDER
    high = column >= DETECTOR_SIZE - REFERENCE_BORDER
    if edgeless:
        low, high = np.arange(column.size) < REFERENCE_BORDER, np.arange(column.size) >= column.size - REFERENCE_BORDER
    border = np.flatnonzero(low | high)
    pixels, flags = unlabelled(sci.isel(column=border)), unlabelled(pixeldq.isel(column=border))
    parity = xr.DataArray(
        sci.indexes["row"].to_numpy() % 2 if odd_even_columns else np.zeros(sci.sizes["row"], int), dims="row"
    )
    end = xr.DataArray(high[border].astype(int) if by_end else np.zeros(border.size, int), dims="column")
    n_parities, n_ends = 1 + odd_even_columns, 1 + by_end
    usable = (flags & _DO_NOT_USE) == 0
    if not by_end and not edgeless:
        usable = usable & ((flags & _REFERENCE) != 0)
    label = (parity * n_ends + end).astype(np.int8).where(usable, np.int8(-1)).transpose("row", "column")
    (means,) = map_blocks(
        clipped_means,
        one_chunk(pixels, "row", "column"),
        one_chunk(label, "row", "column"),
        core=("row", "column"),
        outputs=[(("integration", "group", "label"), np.float32)],
        sizes={"label": n_parities * n_ends},
        n_labels=n_parities * n_ends,
        limit=float(siglimit),
    )
    levels = [
        means.isel(label=slice(p * n_ends, (p + 1) * n_ends)).mean("label", skipna=True) for p in range(n_parities)
    ]
    known = np.isfinite(sum(levels))  # both parities, or neither
    levels = [level.where(known, np.float32(0)) for level in levels]
    return levels[-1].where(parity == 1, levels[0]).transpose("integration", "group", "row")


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
        (integration, group, column) float32 [DN]; the one side where the other has no good pixel, 0
        where neither has.
    """
    row = sci.indexes["row"].to_numpy()
    sides = []
    for rows in (np.flatnonzero(row < REFERENCE_BORDER), np.flatnonzero(row >= DETECTOR_SIZE - REFERENCE_BORDER)):
        if rows.size == 0:
            continue
        side = slice(int(rows[0]), int(rows[-1]) + 1)
        good = (unlabelled(pixeldq.isel(row=side)) & _DO_NOT_USE) == 0
        (median,) = map_blocks(
            running_median,
            one_chunk(unlabelled(sci.isel(row=side)), "row", "column"),
            one_chunk(good, "row", "column"),
            core=("row", "column"),
            outputs=[(("integration", "group", "column"), np.float32)],
            length=length,
        )
        sides.append(median)
    if not sides:
        return unlabelled(xr.zeros_like(sci.isel(row=0, drop=True)))
    return xr.concat(sides, "side").mean("side", skipna=True).fillna(0).astype(np.float32)
