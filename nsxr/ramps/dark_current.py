"""Subtract the dark ramp."""

import warnings

import numpy as np
import xarray as xr

from nsxr.compute.layouts import chunk_like
from nsxr.errors import DegradedResultWarning, ReferenceFileError
from nsxr.model.declarations import Needs, step
from nsxr.model.history import record
from nsxr.model.parameters import Parameter, Range
from nsxr.model.readout import Readout, mean_frame
from nsxr.model.variables import check
from nsxr.references.match import match, require_kind

__all__ = ["average_dark_current", "subtract_dark"]

_AVERAGE = Parameter(
    "average_dark_current",
    float,
    None,
    "Mean dark current, for the photon noise that it leaves behind; default that of the dark reference.",
    "electron/s",
    Range(0, 1e6),
)
"""Parameter of the step that the fit of the ramps uses."""


@step("dark_current", references=[Needs("dark")], options=[_AVERAGE])
def subtract_dark(exposure: xr.Dataset, dark: xr.Dataset) -> xr.Dataset:
    """Subtract from each group the dark ramp at the time of the frames of that group.

    Dark and exposure may differ in the number of frames in a group and in the frames skipped between groups. If a group
    of the exposure covers whole groups of the dark, these groups are averaged. Otherwise the dark is interpolated
    between the mean frame numbers of its groups, to the mean frame number of the group of the exposure.

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
        ``sci`` less the dark (NaN counts as 0); flags of the dark added to ``pixeldq``.

    Raises
    ------
    ReferenceFileError
        If a dark has a single group, and its mean frame number differs from that of a group of the exposure.

    Warns
    -----
    DegradedResultWarning
        If the dark is shorter than the exposure, or begins after it. The dark is then extrapolated along the line
        through its last, or first, two groups.
    """
    check(exposure, "sci", "pixeldq", units={"sci": "DN"})
    require_kind(dark, "dark")
    readout = Readout.of(exposure)
    name = str(dark.attrs.get("filename", "dark"))
    sampling = int(dark.attrs["n_frames"]), int(dark.attrs["group_gap"])
    position, weight = _samples(readout, exposure.sizes["group"], *sampling, dark.sizes["group"], name)
    cut = match(dark.drop_vars("sci").assign(sci=_weighted(dark["sci"].fillna(0), position, weight)), exposure)
    planes = cut["sci"]
    sci = exposure["sci"]
    if planes.chunks is not None and sci.chunks is not None:
        planes = chunk_like(planes, sci.isel(integration=0))
    return record(exposure, "dark_current", [dark], sci=sci - planes, pixeldq=exposure["pixeldq"] | cut["dq"])


def average_dark_current(dark: xr.Dataset | None, exposure: xr.Dataset, value: float | None = None) -> xr.DataArray:
    """Return the mean dark current for the photon noise of the fit, (row, column) float32 [electron/s].

    The first of these that is known: ``value``, the image ``average_dark_current`` of the dark reference, the keyword
    of that name, 0.

    Parameters
    ----------
    dark : Dataset or None
        Dark reference.
    exposure : Dataset
        Exposure whose rows and columns the result has.
    value : float, optional
        Dark current set by the user [electron/s].
    """
    pixels = exposure["sci"].isel(integration=0, group=0, drop=True)
    constant = value
    if constant is None and dark is not None:
        require_kind(dark, "dark")
        if "average_dark_current" in dark:
            return match(dark[["average_dark_current"]], exposure)["average_dark_current"].fillna(0)
        constant = dark.attrs.get("average_dark_current")
    return xr.full_like(pixels, np.float32(constant or 0.0))


def _samples(
    readout: Readout, n_groups: int, n_frames: int, group_gap: int, n_darks: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return which groups of a dark make up each group of an exposure, and with which weights, (group, member) both.

    Parameters
    ----------
    readout : Readout
        Readout of the exposure.
    n_groups : int
        Groups of the exposure.
    n_frames, group_gap, n_darks : int
        Frames averaged into a group of the dark, frames left out between groups, and groups of the dark.
    name : str
        Name of the dark, for messages.
    """
    wanted = np.atleast_1d(readout.mean_frame(np.arange(n_groups)))
    of_dark = np.atleast_1d(mean_frame(np.arange(n_darks), n_frames, group_gap))
    chosen: list[dict[int, float]] = []
    outside = []
    for frame in wanted:
        whole = np.flatnonzero(np.abs(of_dark - frame) + (n_frames - 1) / 2 <= (readout.n_frames - 1) / 2)
        if whole.size and of_dark[whole].mean() == frame:
            chosen.append(dict.fromkeys(map(int, whole), 1 / whole.size))
            continue
        if n_darks < 2:
            raise ReferenceFileError(
                f"dark {name} has one group, at frame {of_dark[0]:g}; a group of the exposure is at frame {frame:g}, "
                "and a single group cannot be interpolated"
            )
        before = int(np.clip(np.searchsorted(of_dark, frame) - 1, 0, n_darks - 2))
        part = float((frame - of_dark[before]) / (of_dark[before + 1] - of_dark[before]))
        chosen.append({before: 1 - part, before + 1: part})
        if not 0 <= part <= 1:
            outside.append(frame)
    if outside:
        warnings.warn(
            f"dark {name} covers frames {of_dark[0]:g} to {of_dark[-1]:g}; for {len(outside)} of {n_groups} groups, at "
            f"frames {outside[0]:g} to {outside[-1]:g}, the dark is extrapolated along a straight line",
            DegradedResultWarning,
            stacklevel=3,
        )
    members = max(map(len, chosen))
    position, weight = np.zeros((n_groups, members), np.int64), np.zeros((n_groups, members))
    for group, parts in enumerate(chosen):
        position[group, : len(parts)], weight[group, : len(parts)] = list(parts), list(parts.values())
        position[group, len(parts) :] = position[group, len(parts) - 1]
    return position, weight


def _weighted(ramp: xr.DataArray, position: np.ndarray, weight: np.ndarray) -> xr.DataArray:
    """Return weighted sums over groups of a ramp, (group, ...); ``position`` and ``weight`` are (group, member)."""
    ramp = ramp.drop_vars("group", errors="ignore")
    if (weight[:, 0] == 1).all():
        return ramp.isel(group=position[:, 0])
    total = xr.zeros_like(ramp.isel(group=position[:, 0]))
    for where, part in zip(position.T, weight.T.astype(np.float32), strict=True):
        total = total + ramp.isel(group=where) * xr.DataArray(part, dims="group")
    return total
