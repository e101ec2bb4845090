"""Subtract the picture frame: a smooth pattern of the detector whose strength changes from frame to frame."""

from typing import Annotated

import numpy as np
import scipy.ndimage
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like, in_groups, one_chunk
from nsxr.compute.passes import settle
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.medians import median_and_scatter
from nsxr.kernels.ramps.picture_frame import (
    fit_amplitudes,
    mean_slope,
    segment_means,
    shrink_amplitudes,
)
from nsxr.model.declarations import Needs, step
from nsxr.model.dims import RATES
from nsxr.model.dq import JUMP, UNUSABLE_GROUP, UNUSABLE_PIXEL, PixelFlag
from nsxr.model.history import record, record_skip
from nsxr.model.parameters import Choices
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.references.match import match, require_kind

__all__ = [
    "SEGMENT",
    "by_integration",
    "estimate_picture_frame",
    "find_background",
    "segment_edges",
    "segments",
    "subtract_picture_frame",
]

_SEGMENTS = ("integration", "group", "row", "segment")
_TIMES = ("integration", "group")
_NO_LIGHT = np.uint32(UNUSABLE_PIXEL | PixelFlag.NON_SCIENCE.value)
SEGMENT = 16
"""Columns of a segment, and rows of a block. The pattern varies on scales of some 80 pixels."""

_CLIP = 5.0


@step("picture_frame", references=[Needs("pictureframe", argument="picture_frame")], off="correct is not set")
def subtract_picture_frame(
    ramps: xr.Dataset,
    picture_frame: xr.Dataset,
    is_background: xr.DataArray | None = None,
    *,
    method: Annotated[str, Choices("fit", "median")] = "fit",
) -> xr.Dataset:
    """Subtract a template of the picture frame from every group.

    The strength of the picture frame follows the temperature of the detector and its electronics. It is measured in
    pixels without light.

    Parameters
    ----------
    ramps : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], ``pixeldq``, ``groupdq`` with jumps flagged.
    picture_frame : Dataset
        ``sci`` (row, column) float32, the template, in any scale; from a reference file of type ``pictureframe`` or
        from :func:`build_picture_frame`. NaN counts as 0.
    is_background : DataArray, optional
        (row, column) or (integration, row, column) bool, True in pixels without light. Default: from
        :func:`find_background`.
    method : str
        ``"fit"``: least squares with a free level for every 16 columns of every amplifier. The amplitudes are relative
        to their mean over an integration, and reduced by the share of noise in them. ``"median"``: as in the
        observatory's pipeline, from the medians of the centre and of the edges of each group less the first one. The
        level at the edges is subtracted too.

    Returns
    -------
    Dataset
        ``sci`` corrected; new ``picture_frame_amplitude`` and ``picture_frame_uncertainty`` (integration, group)
        float32 [DN]. DQ does not change. Ramps have no variances yet, so the uncertainty is not added to any. The error
        of the correction is the uncertainty times the template. The step is skipped for subarrays and for single
        groups.

    Raises
    ------
    ModelError
        If a variable is missing or not as declared.
    ParameterError
        If the method is unknown.
    ReferenceFileError
        If the template does not cover the ramps.

    References
    ----------
    Rauscher 2015, PASP 127, 1144, for the name and size of the pattern.
    """
    check(ramps, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    if method not in ("fit", "median"):
        raise ParameterError(f"method is {method!r}, expected 'fit' or 'median'")
    readout = Readout.of(ramps)
    if readout.subarray != "FULL":
        return record_skip(ramps, "picture_frame", f"subarray {readout.subarray}, full frames are needed")
    if ramps.sizes["group"] < 2:
        return record_skip(ramps, "picture_frame", "1 group, at least 2 are needed")
    found = estimate_picture_frame(ramps, picture_frame, is_background, method=method)
    template = _template(picture_frame, ramps).fillna(0)
    sci = ramps["sci"]
    parts = {name: chunk_like(settle(unlabelled(found[name])), sci) for name in found.data_vars}
    corrected = sci - parts["amplitude"].astype(np.float32) * template
    if "offset" in parts:
        corrected = corrected - parts["offset"]
    return record(
        ramps,
        "picture_frame",
        [picture_frame],
        {"method": method, "is_background": is_background is not None},
        units=dict.fromkeys(("picture_frame_amplitude", "picture_frame_uncertainty"), "DN"),
        sci=corrected.transpose(*sci.dims),
        picture_frame_amplitude=parts["amplitude"],
        picture_frame_uncertainty=parts["uncertainty"],
    )


def estimate_picture_frame(
    ramps: xr.Dataset,
    picture_frame: xr.Dataset,
    is_background: xr.DataArray | None = None,
    *,
    method: str = "fit",
) -> xr.Dataset:
    r"""Measure the amplitude of the template in every group.

    Parameters are those of :func:`subtract_picture_frame`.

    Returns
    -------
    Dataset
        ``amplitude`` and ``uncertainty`` (integration, group) float32 [DN], in units of the template. ``"median"`` also
        gives ``offset`` [DN], which is to be subtracted, and no uncertainty (NaN). A group in which nothing could be
        measured has amplitude 0.

    Notes
    -----
    With :math:`D_g` the group :math:`g` less the first one, means of 16 columns of a row are fitted by
    :math:`D_g = a_g T + l_{g,k}`, one level :math:`l` for every 16 columns :math:`k` of every amplifier. So steps
    between amplifiers, and 1/f noise slower than a line, do not affect :math:`a_g`. The :math:`a_g` follow from changes
    of the signal from row to row within an amplifier. The sum of squares of the :math:`a_g` about their mean is
    compared with the sum that noise alone would give. If it exceeds that sum by less than 2 sigma, nothing is
    subtracted. Otherwise the :math:`a_g` are reduced by the share of noise in the sum (empirical Bayes).
    """
    if is_background is None:
        is_background = find_background(ramps)
    sci = ramps["sci"]
    template = _template(picture_frame, ramps)
    is_used = by_integration(is_background, sci)
    if method == "median":
        return _by_medians(ramps, template, is_used)
    mean, pattern, count = segments(ramps, template, is_used)
    output = _outputs(ramps)
    outputs = dict.fromkeys(("amplitude", "uncertainty"), (_TIMES, np.float32))
    amplitude, uncertainty = map_blocks(
        fit_amplitudes,
        *(one_chunk(part, "row") for part in (mean, pattern, count)),
        core=("group", "row", "segment"),
        outputs=outputs,
        output=output,
        limit=_CLIP,
    ).values()
    found = map_blocks(shrink_amplitudes, amplitude, uncertainty, core=("group",), outputs=outputs)
    return xr.Dataset(found)


def find_background(ramps: xr.Dataset) -> xr.DataArray:
    """Find pixels without light from the ramps alone.

    A pixel has light if its mean group difference deviates from the median of all pixels by more than 4 times their
    scatter. Single pixels are tested, and means of 3 rows and 15 columns. The neighbours of such pixels count as pixels
    with light too.

    Parameters
    ----------
    ramps : Dataset
        As in :func:`subtract_picture_frame`.

    Returns
    -------
    DataArray
        (integration, row, column) bool; False also in reference pixels and in pixels that are DO_NOT_USE.
    """
    sci = unlabelled(ramps["sci"])
    slope = map_blocks(
        mean_slope,
        one_chunk(sci, "group"),
        chunk_like(unlabelled(ramps["groupdq"]), one_chunk(sci, "group")),
        core=("group",),
        outputs={"slope": (RATES, np.float32)},
        unusable=int(UNUSABLE_GROUP),
        jump=int(JUMP),
    )["slope"]
    dark = unlabelled((ramps["pixeldq"] & _NO_LIGHT) == 0)
    slope = one_chunk(slope.where(chunk_like(dark, slope)), "row")
    is_background = map_blocks(_unlit, slope, core=("row", "column"), outputs={"is_background": (RATES, np.bool_)})[
        "is_background"
    ]
    return chunk_like(is_background, sci.isel(group=0))


def _unlit(slope: np.ndarray, limit: float = 4.0) -> np.ndarray:
    found = np.zeros(slope.shape, np.bool_)
    for plane, out in zip(slope, found, strict=True):
        there = np.isfinite(plane)
        if not there.any():
            continue
        middle = np.median(plane[there])
        excess = np.where(there, plane - middle, 0)
        is_lit = np.abs(excess) > limit * median_and_scatter(excess[there])[1]
        weight = scipy.ndimage.uniform_filter((there & ~is_lit).astype(np.float32), (3, 15))
        smooth = scipy.ndimage.uniform_filter(np.where(is_lit, 0, excess), (3, 15))
        smooth = np.where(weight > 0.3, smooth / np.maximum(weight, 0.3), 0)
        is_lit |= smooth > limit * median_and_scatter(smooth[there])[1]
        out[...] = there & ~scipy.ndimage.binary_dilation(is_lit, np.ones((3, 3)))
    return found


def _template(picture_frame: xr.Dataset, ramps: xr.Dataset) -> xr.DataArray:
    require_kind(picture_frame, "pictureframe")
    return unlabelled(match(picture_frame[["sci"]], ramps)["sci"])


def by_integration(is_background: xr.DataArray, sci: xr.DataArray) -> xr.DataArray:
    """Return a mask of pixels as (integration, row, column), chunked as the signal is."""
    wanted = {dim: sci.sizes[dim] for dim in is_background.dims}
    if is_background.dtype != np.bool_ or dict(is_background.sizes) != wanted or "group" in wanted:
        raise ModelError(
            f"is_background is {is_background.dtype} with sizes {dict(is_background.sizes)}, expected bool "
            f"(row, column) or (integration, row, column) of {dict(sci.sizes)}"
        )
    planes = unlabelled(is_background)
    if "integration" not in planes.dims:
        planes = planes.expand_dims(integration=sci.sizes["integration"])
    return chunk_like(planes, unlabelled(sci.isel(group=0)))


def _outputs(ramps: xr.Dataset) -> np.ndarray:
    return Readout.of(ramps).amplifier_of(ramps.indexes["row"].to_numpy())


def segment_edges(column: np.ndarray) -> np.ndarray:
    """Return the positions at which segments of neighbouring columns begin, and the end of the last segment."""
    segment = column // SEGMENT
    return np.concatenate([[0], np.flatnonzero(np.diff(segment)) + 1, [column.size]])


def segments(ramps: xr.Dataset, template: xr.DataArray, is_used: xr.DataArray) -> tuple[xr.DataArray, ...]:
    """Return means of signal and template and counts, (integration, group, row, segment), see ``segment_means``."""
    sci = one_chunk(unlabelled(ramps["sci"]), "group", "column")
    edges = segment_edges(ramps.indexes["column"].to_numpy())
    dark = unlabelled((ramps["pixeldq"] & _NO_LIGHT) == 0)
    found = map_blocks(
        segment_means,
        sci,
        ramps["groupdq"],
        is_used & dark,
        template,
        core=("group", "column"),
        outputs=dict.fromkeys(("signal", "template", "count"), (_SEGMENTS, np.float32)),
        sizes={"segment": edges.size - 1},
        edges=edges,
        unusable=int(UNUSABLE_GROUP),
        jump=int(JUMP),
        limit=_CLIP,
    )
    return tuple(found.values())


def _by_medians(ramps: xr.Dataset, template: xr.DataArray, is_used: xr.DataArray) -> xr.Dataset:
    sci = unlabelled(ramps["sci"])
    row, column = (ramps.indexes[dim].to_numpy() for dim in ("row", "column"))
    groups = in_groups(one_chunk(sci, "row"), "group", 1)
    first = one_chunk(sci.isel(group=0), "row")
    amplitude, offset = map_blocks(
        _scale_by_medians,
        groups,
        first,
        one_chunk(is_used, "row"),
        one_chunk(template, "row"),
        core=("row", "column"),
        outputs=dict.fromkeys(("amplitude", "offset"), (_TIMES, np.float32)),
        is_edge=_region(row, column, is_edge=True),
        is_centre=_region(row, column, is_edge=False),
    ).values()
    is_later = xr.DataArray(np.arange(sci.sizes["group"]) > 0, dims="group")
    amplitude, offset = (part.where(is_later, np.float32(0)) for part in (amplitude, offset))
    nothing = xr.full_like(amplitude, np.nan)
    return xr.Dataset({"amplitude": amplitude, "offset": offset, "uncertainty": nothing})


def _region(row: np.ndarray, column: np.ndarray, *, is_edge: bool) -> np.ndarray:
    """Return which pixels belong to the centre or to the edges, as the observatory's pipeline defines them."""
    if not is_edge:
        inner_row, inner_column = ((axis >= 76) & (axis < 1984) for axis in (row, column))
        return np.asarray(inner_row[:, None] & inner_column)
    strip_row, strip_column = (((axis >= 4) & (axis < 75)) | ((axis >= 1985) & (axis < 2043)) for axis in (row, column))
    within_row, within_column = ((axis >= 4) & (axis < 2043) for axis in (row, column))
    return np.asarray((strip_row[:, None] | strip_column) & within_row[:, None] & within_column)


def _scale_by_medians(
    group: np.ndarray,
    first: np.ndarray,
    is_used: np.ndarray,
    template: np.ndarray,
    is_edge: np.ndarray,
    is_centre: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitude and offset of the correction ``amplitude * template + offset``; 0 without pixels."""
    amplitude, offset = (np.zeros(group.shape[:2], np.float32) for _ in range(2))
    for i in range(group.shape[0]):
        regions = [region & is_used[i] & np.isfinite(template) for region in (is_centre, is_edge)]
        if not all(region.any() for region in regions):
            continue
        centre_reference, edge_reference = (float(np.median(template[region])) for region in regions)
        for g in range(group.shape[1]):
            change = group[i, g] - first[i]
            inside = [change[region][np.isfinite(change[region])] for region in regions]
            if any(values.size == 0 for values in inside) or centre_reference == edge_reference:
                continue
            centre, edge = (float(np.median(values)) for values in inside)
            scale = (centre - edge) / (centre_reference - edge_reference)
            amplitude[i, g], offset[i, g] = scale, edge - scale * edge_reference
    return amplitude, offset
