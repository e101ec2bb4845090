"""Undo the on-board division of frame sums."""

import numpy as np
import xarray as xr

from nsxr.model.history import record, record_skip
from nsxr.model.readout import Readout
from nsxr.model.variables import check

__all__ = ["scale_groups"]


def scale_groups(exposure: xr.Dataset) -> xr.Dataset:
    """Scale groups to the mean of their frames.

    On board, the sum of the NFRAMES frames of a group is divided by a power of two, FRMDIVSR. Where
    the two differ (NRSIRS2: 5 and 8) stored values are no means, and no threshold or reference
    applies to them, until multiplied by FRMDIVSR / NFRAMES.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN].

    Returns
    -------
    Dataset
        ``sci`` scaled; a skip is recorded where the factor is 1, or unknown (FRMDIVSR missing).
    """
    check(exposure, "sci", units={"sci": "DN"})
    readout = Readout.of(exposure)
    divisor = readout.frame_divisor
    if divisor is None:
        return record_skip(exposure, "group_scale", "FRMDIVSR is missing")
    if divisor == readout.n_frames:
        return record_skip(exposure, "group_scale", "NFRAMES and FRMDIVSR are equal")
    factor = divisor / readout.n_frames
    return record(exposure, "group_scale", parameters={"factor": factor}, sci=exposure["sci"] * np.float32(factor))
