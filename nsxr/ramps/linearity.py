"""Correct the non-linear response of the pixels."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.kernels.ramps.linearity import linearize, linearize_reads
from nsxr.model.declarations import Needs, step
from nsxr.model.dims import RAMP
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import record
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["correct_linearity"]

_NO_CORRECTION = np.uint32(PixelFlag.NO_LIN_CORR.value)
_SATURATED = np.uint8(GroupFlag.SATURATED.value)


@step("linearity", references=[Needs("linearity")])
def correct_linearity(exposure: xr.Dataset, linearity: xr.Dataset) -> xr.Dataset:
    r"""Convert the measured signal to a linear signal, :math:`x' = \sum_j c_j x^j`.

    Averaged groups (NFRAMES > 1) are means of non-linear frames. If the reference has inverse coefficients, the frames
    of each group are predicted from the first and the last good group, shifted to agree with the measured mean,
    linearised one by one, and averaged.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN] after the bias and reference-pixel
        corrections, ``pixeldq``, ``groupdq``.
    linearity : Dataset
        ``coefficients`` (order, row, column) float32, constant first, ``dq``, and optionally
        ``inverse_coefficients`` (inverse_order, row, column).

    Returns
    -------
    Dataset
        ``sci`` linear, except in saturated groups, which keep their value. Pixels without a usable polynomial (flagged,
        NaN, or without linear term, like reference pixels) keep their values too and get NO_LIN_CORR. Flags of the
        reference are added to ``pixeldq``.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    readout = Readout.of(exposure)
    reference = match(linearity, exposure, "linearity")
    coefficients, unusable = _usable(reference["coefficients"], "order", reference["dq"])
    read_level = "inverse_coefficients" in reference and readout.n_frames > 1 and exposure.sizes["group"] > 1
    sci = exposure["sci"]
    output = {"sci": (RAMP, np.float32)}
    if read_level:
        inverse, no_inverse = _usable(reference["inverse_coefficients"], "inverse_order", reference["dq"])
        unusable = unusable | no_inverse
        linear = map_blocks(
            linearize_reads,
            one_chunk(sci, "group"),
            exposure["groupdq"],
            coefficients,
            inverse,
            core=("group",),
            outputs=output,
            n_frames=readout.n_frames,
            frames_per_group=readout.n_frames + readout.group_gap,
            saturated=_SATURATED,
        )["sci"]
    else:
        arrays = sci, exposure["groupdq"], coefficients
        linear = map_blocks(linearize, *arrays, core=(), outputs=output, saturated=_SATURATED)["sci"]
    flags = reference["dq"] | unusable * _NO_CORRECTION
    return record(
        exposure, "linearity", [linearity], {"read_level": read_level}, sci=linear, pixeldq=exposure["pixeldq"] | flags
    )


def _usable(coefficients: xr.DataArray, order: str, dq: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Replace polynomials that cannot be used by the identity, and return which pixels have a usable one."""
    flagged = (dq & _NO_CORRECTION) != 0
    unusable = flagged | coefficients.isnull().any(order) | (coefficients.isel({order: 1}, drop=True) == 0)
    identity = xr.DataArray(np.eye(1, coefficients.sizes[order], 1, dtype=np.float32)[0], dims=order)
    usable = coefficients.where(~unusable, identity).transpose(order, "row", "column").astype(np.float32)
    return usable.drop_vars(order, errors="ignore"), unusable
