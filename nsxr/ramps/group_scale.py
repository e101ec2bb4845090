"""Undo the on-board division of frame sums."""

import warnings

import numpy as np
import xarray as xr

from nsxr.errors import DegradedResultWarning, InputFileError
from nsxr.model.declarations import step
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about, read
from nsxr.model.readout import Readout
from nsxr.model.variables import check

__all__ = ["scale_groups"]


@step("group_scale")
def scale_groups(exposure: xr.Dataset) -> xr.Dataset:
    """Scale groups to the mean of their frames.

    On board, the sum of the NFRAMES frames of a group is divided by a power of two, FRMDIVSR. If the two numbers differ
    (NRSIRS2: 5 and 8), the stored values are not means of frames. Thresholds and references apply only after the values
    are multiplied by FRMDIVSR / NFRAMES.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN].

    Returns
    -------
    Dataset
        ``sci`` scaled. If the factor is 1, the step is recorded as skipped. If FRMDIVSR is missing, it is taken to be
        the smallest power of two that is NFRAMES or more, as in all readouts.

    Raises
    ------
    InputFileError
        If frames are averaged, and FRMDIVSR is not a power of two or is less than NFRAMES.

    Warns
    -----
    DegradedResultWarning
        If FRMDIVSR is missing and NFRAMES is not a power of two.
    """
    check(exposure, "sci", units={"sci": "DN"})
    readout = Readout.of(exposure)
    n_frames = readout.n_frames
    divisor = read(exposure.attrs, "FRMDIVSR", matters=n_frames > 1)
    if divisor is None:
        divisor = 1 << (n_frames - 1).bit_length()
        if divisor != n_frames:
            warnings.warn(
                about(
                    exposure.attrs,
                    f"FRMDIVSR is missing; sums of {n_frames} frames are taken to have been divided by {divisor}, "
                    "the next power of two",
                ),
                DegradedResultWarning,
                stacklevel=2,
            )
    if divisor & (divisor - 1) or divisor < n_frames:
        raise InputFileError(
            about(
                exposure.attrs,
                f"keyword FRMDIVSR is {divisor}, expected a power of two, NFRAMES ({n_frames}) or more",
            )
        )
    if divisor == n_frames:
        return record_skip(exposure, "group_scale", "NFRAMES and FRMDIVSR are equal")
    factor = divisor / n_frames
    return record(exposure, "group_scale", parameters={"factor": factor}, sci=exposure["sci"] * np.float32(factor))
