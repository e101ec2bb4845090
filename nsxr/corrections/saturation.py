"""Flag groups in which a pixel, or its neighbour, has saturated."""

import numpy as np
import xarray as xr

from nsxr.errors import ParameterError
from nsxr.kernels.reductions import first_flagged
from nsxr.kernels.saturation import box_minimum, compare_with_limits
from nsxr.lazy import map_blocks, map_with_halo, reduce_blocks, take_rows, unlabelled
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import record
from nsxr.model.readout import Readout, irs2_layout
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["flag_saturation"]

_SATURATED = np.uint8(GroupFlag.SATURATED.value)
_DO_NOT_USE = np.uint8(GroupFlag.DO_NOT_USE.value)
_FLOOR = np.uint8((GroupFlag.AD_FLOOR | GroupFlag.DO_NOT_USE).value)
_PARTIAL = ("line", "peer")
_NO_CHECK = np.uint32(PixelFlag.NO_SAT_CHECK.value)


def flag_saturation(
    exposure: xr.Dataset,
    saturation: xr.Dataset,
    superbias: xr.Dataset | None = None,
    *,
    n_pix_grow_sat: int = 1,
    use_readpatt: bool = True,
    partial_saturation: str = "line",
) -> xr.Dataset:
    """Flag saturated groups, groups at the converter's floor, and partly saturated averages.

    A pixel is saturated from the first group at or above its threshold onward, and so are its
    neighbours within ``n_pix_grow_sat``, to which charge spills. Values of 0 or less are AD_FLOOR
    and not used. Where frames are averaged, a group may hold saturated frames while its mean is
    still below the threshold:

    * the last group before saturation is DO_NOT_USE, neighbours included, if its last frame is saturated on the
      straight line from the bias at the reset through its mean. For a steady signal this finds every such group,
      however many of its frames are saturated, and no other. With ``partial_saturation="peer"`` it is the
      observatory's rule: traditional readouts only, and the line starts from zero, so that groups up to
      a third of the bias below are lost needlessly;
    * the second group is flagged if the third is saturated, the first would not have
      led there, and the step from first to second is larger than one saturating frame explains
      (DO_NOT_USE in traditional readouts, SATURATED with neighbours in IRS2).

    Parameters
    ----------
    exposure : Dataset
        Before superbias subtraction: ``sci`` (integration, group, row, column) float32 [DN],
        ``pixeldq``, ``groupdq``.
    saturation : Dataset
        ``sci`` (row, column) float32 [DN], thresholds that include the bias, and ``dq``.
    superbias : Dataset, optional
        ``sci`` (row, column) [DN], where signals start from in the tests of averaged groups; 0 if not given.
    n_pix_grow_sat : int
        Pixels by which saturation grows in all eight directions.
    use_readpatt : bool
        Whether to test averaged groups.
    partial_saturation : {"line", "peer"}
        How the last group before saturation is tested.

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
        If ``n_pix_grow_sat`` is negative, or ``partial_saturation`` unknown.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    if n_pix_grow_sat < 0:
        raise ParameterError(f"n_pix_grow_sat is {n_pix_grow_sat}, expected 0 or more pixels")
    if partial_saturation not in _PARTIAL:
        raise ParameterError(f"partial_saturation is {partial_saturation!r}, expected {' or '.join(_PARTIAL)}")
    readout = Readout.from_header(exposure.attrs)
    sci = exposure["sci"]
    n_groups = sci.sizes["group"]
    reference = match(saturation, exposure)
    unchecked = ((reference["dq"] & _NO_CHECK) != 0) | reference["sci"].isnull()
    is_irs2 = "science_row" in exposure.coords
    is_science = exposure["science_row"] >= 0 if is_irs2 else xr.ones_like(exposure["row"], dtype=bool)
    threshold = reference["sci"].where(~unchecked, np.float32(np.inf)).where(is_science)

    # one look at the samples; what follows needs these flags alone, so the samples need not be kept
    (limits,) = map_blocks(
        compare_with_limits,
        sci,
        threshold.transpose("row", "column"),
        core=(),
        outputs=[(("integration", "group", "row", "column"), np.uint8)],
        saturated=_SATURATED,
        floor=_FLOOR,
    )
    number = xr.DataArray(np.arange(n_groups, dtype=np.int16), dims="group")
    first = reduce_blocks(first_flagged, limits, "group", np.int16, flag=_SATURATED, never=n_groups).min("group")
    averaged = use_readpatt and readout.n_frames > 1
    suspicious = None
    bias = _bias(superbias, exposure) if averaged else np.float32(0)
    if averaged and n_groups > 2:
        suspicious = _second_group_is_partly_saturated(sci, threshold, bias, readout)
        if is_irs2:
            first = first.where(~(suspicious & (first == 2)), np.int16(1))
    grown = _grow(first, n_groups, n_pix_grow_sat, readout.detector if is_irs2 else None)

    saturated = number >= grown
    groupdq = exposure["groupdq"] | (limits & _FLOOR) | saturated * _SATURATED
    dilution = xr.DataArray([_dilution(readout, g) for g in range(n_groups)], dims="group").astype(np.float32)
    before = number + 1 == grown
    if averaged and partial_saturation == "line":
        partial = before & (sci - bias >= (threshold - bias) * dilution)
        # after the earliest of these groups, neighbours are saturated
        never = np.int16(n_groups)
        last = (partial * (number - never) + never).min("group").transpose(*first.dims)
        lost = _grow(last, n_groups, n_pix_grow_sat, readout.detector if is_irs2 else None)
        groupdq = groupdq | (number == lost) * _DO_NOT_USE
    elif averaged and not is_irs2:
        partial = before & (sci >= threshold * dilution) & ((groupdq & _DO_NOT_USE) == 0)
        groupdq = groupdq | _grow_groups(partial, n_pix_grow_sat) * _DO_NOT_USE
    if suspicious is not None and not is_irs2:
        second = suspicious & (grown == 2) & (number == 1)
        groupdq = groupdq | second * _DO_NOT_USE
    flags = reference["dq"] | (unchecked & is_science) * _NO_CHECK
    return record(
        exposure,
        "saturation",
        [saturation],
        {
            "n_pix_grow_sat": n_pix_grow_sat,
            "use_readpatt": use_readpatt,
            "partial_saturation": partial_saturation,
        },
        pixeldq=exposure["pixeldq"] | flags,
        groupdq=groupdq.transpose(*sci.dims),
    )


def _bias(superbias: xr.Dataset | None, exposure: xr.Dataset) -> xr.DataArray | np.float32:
    return np.float32(0) if superbias is None else match(superbias, exposure)["sci"]


def _dilution(readout: Readout, group: int) -> float:
    """Mean over last frame number of a group: the level of its mean when the last frame saturates."""
    first, last = group * readout.n_frames + 1, (group + 1) * readout.n_frames
    return (first + last) / 2 / last


def _second_group_is_partly_saturated(
    sci: xr.DataArray, threshold: xr.DataArray, bias: xr.DataArray | np.float32, readout: Readout
) -> xr.DataArray:
    """Test groups 0 and 1, (integration, row, column) bool; that group 2 is saturated is left to the caller."""
    zeroth, first = sci.isel(group=0, drop=True), sci.isel(group=1, drop=True)
    n = readout.n_frames
    expected = (zeroth - bias) / ((n + 1) / 2) * (3 * n) + bias
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
    flags = flags.transpose("integration", "group", "row", "column")
    return map_with_halo(_maximum, flags, {"row": pixels}, boundary=False, reach=pixels)
