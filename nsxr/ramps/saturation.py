"""Flag groups in which a pixel, or its neighbour, has saturated."""

from typing import Annotated

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, map_with_halo, take_rows, unlabelled
from nsxr.compute.layouts import chunk_like
from nsxr.compute.reductions import reduce_blocks
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.saturation import box_minimum, compare_with_limits, find_saturated_frames
from nsxr.kernels.reductions import first_flagged
from nsxr.model.declarations import Needs, Takes, step
from nsxr.model.dims import RAMP
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Pixels
from nsxr.model.readout import Readout, irs2_layout, require_all_rows
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["flag_saturation"]

_SATURATED = np.uint8(GroupFlag.SATURATED.value)
_DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
_FLOOR = np.uint8((GroupFlag.AD_FLOOR | GroupFlag.DO_NOT_USE).value)
_NO_CHECK = np.uint32(PixelFlag.NO_SAT_CHECK.value)
_PARTIAL = np.uint8(128)  # internal: the group has saturated frames if the next group is saturated
_TESTS = ("predicted", "scaled")


@step("saturation", references=[Needs("saturation"), Takes("superbias", of="superbias")])
def flag_saturation(
    exposure: xr.Dataset,
    saturation: xr.Dataset,
    superbias: xr.Dataset | None = None,
    *,
    n_pix_grow_sat: Pixels = 1,
    use_readpatt: bool = True,
    partial_saturation: Annotated[str, Choices("predicted", "scaled")] = "predicted",
) -> xr.Dataset:
    """Flag saturated groups, groups at the floor of the A/D converter, and groups with a few saturated frames.

    A pixel is flagged SATURATED from the first group at or above its threshold onward. So are its neighbours within
    ``n_pix_grow_sat``, to which charge spills. Values of 0 or less are flagged AD_FLOOR and DO_NOT_USE. Where frames
    are averaged, the last group before saturation, or the last group of the integration, may hold saturated frames
    although its mean is still below the threshold. Such a group becomes DO_NOT_USE, in this pixel and in its
    neighbours, so that the rate comes from the groups before. ``partial_saturation`` says how such groups are found:

    * ``"predicted"``, in all readouts: the last frame of a steady signal from the bias to the mean of
      this group would lie above the threshold; or the mean is higher than predicted from the group before, by at
      least as much as a cosmic ray that saturates the last frame adds to it;
    * ``"scaled"``, the observatory's pipeline. Traditional readouts: the mean lies above the threshold
      scaled by (mean frame number / last frame number), bias included. All readouts: the second group is flagged if
      three things are true: the third group is saturated; a steady signal at the rate of the first group would not
      saturate the third; and the step from the first to the second group is larger than one saturated frame explains.
      Traditional readouts flag this group DO_NOT_USE, without its neighbours. IRS2 flags it SATURATED, with its
      neighbours.

    Parameters
    ----------
    exposure : Dataset
        Before superbias subtraction: ``sci`` (integration, group, row, column) float32 [DN],
        ``pixeldq``, ``groupdq``.
    saturation : Dataset
        ``sci`` (row, column) float32 [DN], thresholds that include the bias, and ``dq``.
    superbias : Dataset, optional
        ``sci`` (row, column) [DN], the level without charge, for the tests of averaged groups. Default: 0, with which
        groups are flagged somewhat earlier.
    n_pix_grow_sat : int
        How far saturation spreads to neighbours in all eight directions.
    use_readpatt : bool
        Whether to test groups of averaged frames for saturated frames.
    partial_saturation : {"predicted", "scaled"}
        How groups of averaged frames are tested.

    Returns
    -------
    Dataset
        ``groupdq`` with SATURATED, AD_FLOOR and DO_NOT_USE added; flags of the reference added to
        ``pixeldq``, with NO_SAT_CHECK where the threshold is NaN. ``sci`` is unchanged. In raw IRS2
        frames interleaved reference pixels and the reference output are never flagged, and
        neighbours are those of the image without them.

    Raises
    ------
    ParameterError
        If ``n_pix_grow_sat`` is negative or ``partial_saturation`` unknown.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    require_all_rows(exposure)
    if n_pix_grow_sat < 0:
        raise ParameterError(f"n_pix_grow_sat is {n_pix_grow_sat}, expected 0 or more pixels")
    if partial_saturation not in _TESTS:
        raise ParameterError(f"partial_saturation is {partial_saturation!r}, expected one of {', '.join(_TESTS)}")
    readout = Readout.of(exposure)
    sci = exposure["sci"]
    reference = match(saturation, exposure, "saturation")
    unchecked = ((reference["dq"] & _NO_CHECK) != 0) | reference["sci"].isnull()
    is_irs2 = "science_row" in exposure.coords
    is_science = exposure["science_row"] >= 0 if is_irs2 else xr.ones_like(exposure["row"], dtype=bool)
    threshold = reference["sci"].where(~unchecked, np.float32(np.inf)).where(is_science)
    threshold = threshold.transpose("row", "column")
    bias = (
        xr.zeros_like(threshold)
        if superbias is None
        else match(superbias, exposure, "superbias")["sci"].transpose("row", "column")
    )
    averaged = use_readpatt and readout.n_frames > 1
    is_predicted = averaged and partial_saturation == "predicted"
    detector = readout.detector if is_irs2 else None

    # the samples are read once; the rest needs only these flags, so the samples need not stay in memory
    limits = _look(sci, threshold, bias.fillna(np.float32(0)) if is_predicted else None, readout)
    groupdq = exposure["groupdq"] | (limits & _FLOOR)
    number = xr.DataArray(np.arange(sci.sizes["group"], dtype=np.int16), dims="group")
    never = number.size
    first = reduce_blocks(first_flagged, limits, "group", np.int16, flag=_SATURATED, never=never).min("group")
    if averaged and not is_predicted:
        groupdq = groupdq | _scaled(sci, threshold, bias, groupdq, first, readout, n_pix_grow_sat, detector)
    else:
        grown = _grow(first, never, n_pix_grow_sat, detector)
        groupdq = groupdq | (number >= grown) * _SATURATED
        if is_predicted:
            partial = ((number + 1 == first) & ((limits & _PARTIAL) != 0)).any("group")
            from_then_on = _grow(first - partial.astype(np.int16), never, n_pix_grow_sat, detector)
            groupdq = groupdq | ((number >= from_then_on) & (number < grown)) * _DO_NOT_USE
    flags = reference["dq"] | (unchecked & is_science) * _NO_CHECK
    return record(
        exposure,
        "saturation",
        [saturation],
        {"n_pix_grow_sat": n_pix_grow_sat, "use_readpatt": use_readpatt, "partial_saturation": partial_saturation},
        pixeldq=exposure["pixeldq"] | flags,
        groupdq=groupdq.transpose(*sci.dims),
    )


def _look(sci: xr.DataArray, threshold: xr.DataArray, bias: xr.DataArray | None, readout: Readout) -> xr.DataArray:
    """Compare samples, and with ``bias`` their frames, with the limits, (integration, group, row, column) uint8."""
    arrays = []
    if bias is not None:
        mean_frame = xr.DataArray(readout.mean_frame(np.arange(sci.sizes["group"])), dims="group")
        arrays = [chunk_like(unlabelled(sci).shift(group=1), sci), bias, chunk_like(mean_frame, sci)]
    limits = map_blocks(
        _compare,
        sci,
        threshold,
        *arrays,
        core=(),
        outputs={"limits": (RAMP, np.uint8)},
        groups=sci.sizes["group"],
        n_frames=readout.n_frames,
        frames_per_group=readout.n_frames + readout.group_gap,
    )["limits"]
    return limits


def _compare(
    sci: np.ndarray, threshold: np.ndarray, *arrays: np.ndarray, groups: int, n_frames: int, frames_per_group: int
) -> np.ndarray:
    limits = compare_with_limits(sci, threshold, _SATURATED, _FLOOR)
    if arrays:
        previous, bias, mean_frame = arrays
        counts = groups, n_frames, frames_per_group
        limits |= find_saturated_frames(sci, previous, threshold, bias, mean_frame, *counts, _PARTIAL)
    return limits


def _scaled(
    sci: xr.DataArray,
    threshold: xr.DataArray,
    bias: xr.DataArray,
    groupdq: xr.DataArray,
    first: xr.DataArray,
    readout: Readout,
    pixels: int,
    irs2_detector: str | None,
) -> xr.DataArray:
    """Return the flags of saturated and of partly saturated groups as the observatory's pipeline sets them."""
    number = xr.DataArray(np.arange(sci.sizes["group"], dtype=np.int16), dims="group")
    suspicious = None
    if number.size > 2:
        suspicious = _second_group_is_partly_saturated(sci, threshold, bias, readout)
        if irs2_detector is not None:
            first = first.where(~(suspicious & (first == 2)), np.int16(1))
    grown = _grow(first, number.size, pixels, irs2_detector)
    found = (number >= grown) * _SATURATED
    if irs2_detector is None:
        dilution = xr.DataArray([_dilution(readout, g) for g in number.values], dims="group").astype(np.float32)
        partial = (number + 1 == grown) & (sci >= threshold * dilution) & (((groupdq | found) & _DO_NOT_USE) == 0)
        found = found | _grow_groups(partial, pixels) * _DO_NOT_USE
        if suspicious is not None:
            found = found | (suspicious & (grown == 2) & (number == 1)) * _DO_NOT_USE
    return found


def _dilution(readout: Readout, group: int) -> float:
    """Return mean over last frame number: a group's mean over the threshold if its last frame just saturates."""
    mean = float(readout.mean_frame(group))
    return mean / (mean + (readout.n_frames - 1) / 2)


def _second_group_is_partly_saturated(
    sci: xr.DataArray, threshold: xr.DataArray, bias: xr.DataArray, readout: Readout
) -> xr.DataArray:
    """Test groups 0 and 1, (integration, row, column) bool; the caller tests whether group 2 is saturated."""
    zeroth, first = sci.isel(group=0, drop=True), sci.isel(group=1, drop=True)
    n = readout.n_frames
    last_of_second = float(readout.mean_frame(2)) + (n - 1) / 2
    expected = (zeroth - bias) / float(readout.mean_frame(0)) * last_of_second + bias
    return (expected < threshold) & (first - zeroth > (threshold - zeroth) / n)


def _minimum(block: np.ndarray, reach: int) -> np.ndarray:
    flat = np.ascontiguousarray(block).reshape(-1, *block.shape[-2:])
    return box_minimum(flat, reach).reshape(block.shape)


def _maximum(block: np.ndarray, reach: int) -> np.ndarray:
    return ~_minimum(~block, reach) if block.any() else block


def _grow(first: xr.DataArray, never: int, pixels: int, irs2_detector: str | None) -> xr.DataArray:
    """Spread the first saturated group to neighbours: the minimum over a square around each pixel."""
    if pixels == 0:
        return first
    image = first
    if irs2_detector is not None:
        layout = irs2_layout(irs2_detector)
        image = take_rows(unlabelled(first), layout.science_rows_raw, 4)
    grown = map_with_halo(_minimum, image, {"row": pixels}, boundary=np.int16(never), reach=pixels)
    if irs2_detector is None:
        return grown
    back = np.maximum.accumulate(layout.science_row).clip(0)
    raw = take_rows(grown, back, 5).assign_coords(first.coords)
    return raw.where(xr.DataArray(layout.is_science, dims="row"), np.int16(never))


def _grow_groups(flags: xr.DataArray, pixels: int) -> xr.DataArray:
    if pixels == 0:
        return flags
    flags = flags.transpose(*RAMP)
    return map_with_halo(_maximum, flags, {"row": pixels}, boundary=False, reach=pixels)
