"""Subtract the dark ramp."""

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.model.chunking import chunk_like
from nsxr.model.history import record, record_skip
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["average_dark_current", "subtract_dark"]


def subtract_dark(exposure: xr.Dataset, dark: xr.Dataset) -> xr.Dataset:
    """Subtract from each group the dark ramp sampled with the frames of the exposure.

    A dark with the frames and gaps of the exposure is used group by group. A faster dark is averaged
    over the NFRAMES dark frames of each group, GROUPGAP frames being left out between groups; where
    it is too short, it goes on along the line through its last two groups.

    Parameters
    ----------
    exposure : Dataset
        Linearised ``sci`` (integration, group, row, column) float32 [DN], ``pixeldq``.
    dark : Dataset
        ``sci`` (group, row, column) float32 [DN], ``dq`` (row, column), attributes ``n_frames`` and
        ``group_gap``. Only the groups needed are read.

    Returns
    -------
    Dataset
        ``sci`` less the dark (NaN counts as 0); flags of the dark added to ``pixeldq``. A dark with
        more frames a group, or a larger gap, than the exposure cannot be used: the step is recorded
        as skipped.

    Raises
    ------
    ReferenceFileError
        If a dark of a single group would have to be extrapolated.
    """
    check(exposure, "sci", "pixeldq", units={"sci": "DN"})
    readout = Readout.from_header(exposure.attrs)
    frames, gap = int(dark.attrs["n_frames"]), int(dark.attrs["group_gap"])
    if frames > readout.n_frames or gap > readout.group_gap:
        reason = (
            f"the dark has {frames} frames a group and a gap of {gap}, more than the exposure "
            f"({readout.n_frames} and {readout.group_gap})"
        )
        return record_skip(exposure, "dark_current", reason)
    n_groups = exposure.sizes["group"]
    ramp = dark["sci"].fillna(0)
    if (frames, gap) != (readout.n_frames, readout.group_gap):
        ramp = _average_frames(ramp, n_groups, readout, name=str(dark.attrs.get("filename", "dark")))
    ramp = _extend(ramp, n_groups, name=str(dark.attrs.get("filename", "dark")))
    cut = match(dark.drop_vars("sci").assign(sci=ramp), exposure)
    planes = cut["sci"].drop_vars("group", errors="ignore")
    sci = exposure["sci"]
    if planes.chunks is not None and sci.chunks is not None:
        planes = chunk_like(planes, sci.isel(integration=0))
    return record(exposure, "dark_current", [dark], sci=sci - planes, pixeldq=exposure["pixeldq"] | cut["dq"])


def average_dark_current(dark: xr.Dataset | None, exposure: xr.Dataset, value: float | None = None) -> xr.DataArray:
    """Return the mean dark current for the photon noise of the fit, (row, column) float32 [electron/s].

    In this order: ``value``, the image ``average_dark_current`` of the dark, its keyword of that name, 0.

    Parameters
    ----------
    dark : Dataset or None
        Dark reference.
    exposure : Dataset
        Sets rows and columns.
    value : float, optional
        Dark current given by hand [electron/s].
    """
    pixels = exposure["sci"].isel(integration=0, group=0, drop=True)
    constant = value
    if constant is None and dark is not None:
        if "average_dark_current" in dark:
            return match(dark[["average_dark_current"]], exposure)["average_dark_current"].fillna(0)
        constant = dark.attrs.get("average_dark_current")
    return xr.full_like(pixels, np.float32(constant or 0.0))


def _average_frames(ramp: xr.DataArray, n_groups: int, readout: Readout, name: str) -> xr.DataArray:
    """Average consecutive dark frames as the groups of the exposure do."""
    step = readout.n_frames + readout.group_gap
    ramp = _extend(ramp, (n_groups - 1) * step + readout.n_frames, name)
    first = np.arange(n_groups) * step
    total = ramp.isel(group=first)
    for frame in range(1, readout.n_frames):
        total = total + ramp.isel(group=first + frame)
    return total / np.float32(readout.n_frames)


def _extend(ramp: xr.DataArray, length: int, name: str) -> xr.DataArray:
    """Cut a ramp to a length, or continue it along the line through its last two groups."""
    ramp = ramp.drop_vars("group", errors="ignore")
    missing = length - ramp.sizes["group"]
    if missing <= 0:
        return ramp.isel(group=slice(0, length))
    if ramp.sizes["group"] < 2:
        raise ReferenceFileError(f"dark {name} has one group, {length} are needed, and one cannot be extrapolated")
    last, before = ramp.isel(group=-1), ramp.isel(group=-2)
    steps = xr.DataArray(np.arange(1, missing + 1, dtype=np.float32), dims="group")
    return xr.concat([ramp, (last + (last - before) * steps).transpose(*ramp.dims)], "group")
