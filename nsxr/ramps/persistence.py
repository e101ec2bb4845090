"""Flag persistence: pixels that saturated in an earlier integration or exposure, and may still release charge."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, take_rows, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks
from nsxr.compute.passes import settle
from nsxr.compute.reductions import reduce_tree, spread_blocks
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.ramps.persistence import flag_windows, last_end, latest_before
from nsxr.model.declarations import step
from nsxr.model.dims import RAMP, RATES
from nsxr.model.dq import GroupFlag
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about, require
from nsxr.model.parameters import Times
from nsxr.model.readout import Readout, irs2_layout
from nsxr.model.variables import check

__all__ = ["flag_persistence", "last_saturation", "latest_saturation"]

_SATURATED = np.uint8(GroupFlag.SATURATED.value)
_SECONDS = 86400.0


@step("persistence")
def flag_persistence(
    exposure: xr.Dataset,
    before: xr.DataArray | None = None,
    *,
    persistence_time: Times | None = None,
    persistence_dnu: bool = False,
) -> xr.Dataset:
    """Flag groups of a pixel soon after it saturated.

    Traps that were filled by a saturating signal release their charge after the reset, in the next integration and in
    the next exposure. The time is counted from the end of the integration in which a pixel saturates, when the pixel is
    reset. All groups that end within ``persistence_time`` from then are flagged. Saturation by a snowball counts like
    any other saturation.

    Parameters
    ----------
    exposure : Dataset
        ``groupdq`` (integration, group, row, column) uint8 with saturation flagged. Times are taken from INT_TIMES
        (``int_start_MJD_UTC``, ``int_end_MJD_UTC``). Without these, they follow from EXPSTART, NGROUPS, TGROUP and
        TFRAME.
    before : DataArray, optional
        From :func:`last_saturation` of earlier exposures; (row, column) float64 [d], -inf in pixels that did not
        saturate. Pixels are matched by their labels.
    persistence_time : float, optional
        For how long after a saturation groups are flagged. With None or 0 the step is skipped.
    persistence_dnu : bool
        Whether groups flagged PERSISTENCE are also flagged DO_NOT_USE.

    Returns
    -------
    Dataset
        ``groupdq`` with PERSISTENCE added, and with DO_NOT_USE if ``persistence_dnu`` is set. Without DO_NOT_USE the
        groups are still used. No flag is cleared.

    Raises
    ------
    ModelError
        If ``groupdq`` is missing or not as declared, or if integrations are not sorted by time.
    ParameterError
        If ``persistence_time`` is negative.
    InputFileError
        If the header does not say when the exposure was taken.

    Warns
    -----
    DegradedResultWarning
        If times in INT_TIMES are not finite, or end before they start.

    References
    ----------
    Smith et al. 2008, Proc. SPIE 7021, 70210J: "A theory for image persistence in HgCdTe photodiodes".
    """
    check(exposure, "groupdq")
    if persistence_time is not None and not persistence_time >= 0:
        raise ParameterError(f"persistence_time is {persistence_time}, expected 0 or more seconds, or None")
    if not persistence_time:
        return record_skip(exposure, "persistence", "persistence_time is not set")
    readout = Readout.of(exposure)
    exposure = to_blocks(exposure) if "sci" in exposure else exposure
    groupdq = one_chunk(exposure["groupdq"], "group")
    flags = unlabelled(groupdq)
    zero, start, end = _integrations(exposure)
    if (np.diff(start) <= 0).any():
        raise ModelError("integrations are not in order of time; sort them: exposure.sortby('integration')")
    first_groups = start + (readout.frames_before - readout.group_gap) * readout.frame_time  # one group time early
    times = [chunk_like(xr.DataArray(time, dims="integration"), flags) for time in (first_groups, end)]
    per_block = _ends_of_blocks(flags, end)
    if before is None:
        earlier = xr.full_like(flags.isel(integration=0, group=0), -np.inf, dtype=np.float64)
    else:
        labels = {dim: exposure[dim].values for dim in ("row", "column")}
        earlier = (before.reindex(labels, fill_value=-np.inf) - zero) * _SECONDS
        earlier = chunk_like(unlabelled(earlier), flags.isel(integration=0, group=0))
    latest = map_blocks(
        latest_before,
        one_chunk(per_block, "integration"),
        earlier,
        core=("integration",),
        outputs={"latest": (RATES, np.float64)},
    )["latest"]
    if per_block.sizes["integration"] > 1:
        latest = settle(latest)  # blocks wait for those before them; the flags need not stay in memory until then
    added = GroupFlag.PERSISTENCE | (GroupFlag.DO_NOT_USE if persistence_dnu else GroupFlag(0))
    flagged = map_blocks(
        flag_windows,
        flags,
        *times,
        spread_blocks(latest, flags, "integration"),
        core=("group",),
        outputs={"flagged": (RAMP, np.uint8)},
        group_time=readout.group_time,
        duration=float(persistence_time),
        saturated=_SATURATED,
        flag=np.uint8(added.value),
    )["flagged"]
    parameters: dict[str, Any] = {"persistence_time": float(persistence_time), "persistence_dnu": bool(persistence_dnu)}
    flagged = chunk_like(flagged, exposure["groupdq"])
    return record(exposure, "persistence", (), {**parameters, "before": before is not None}, groupdq=flagged)


def last_saturation(exposure: xr.Dataset) -> xr.DataArray:
    """Return the end of the last integration in which each pixel saturated.

    Parameters
    ----------
    exposure : Dataset
        ``groupdq`` (integration, group, row, column) uint8 with saturation flagged, as :func:`nsxr.flag_saturation`
        makes it.

    Returns
    -------
    DataArray
        (row, column) float64, MJD in UTC [d], -inf where a pixel never saturated; lazy if the exposure is. Interleaved
        rows of IRS2 frames are left out. For several exposures, see :func:`latest_saturation`.
    """
    check(exposure, "groupdq")
    flags = one_chunk(unlabelled(exposure["groupdq"]), "group")
    zero, _, end = _integrations(exposure)
    latest = reduce_tree(_latest, _ends_of_blocks(flags, end), "integration", np.float64)
    latest = latest.isel(integration=0, drop=True) / _SECONDS + zero
    row = exposure["row"].values
    if "science_row" in exposure.coords:
        latest = take_rows(latest, irs2_layout(Readout.of(exposure).detector).science_rows_raw, 4)
        row = np.arange(latest.sizes["row"])
    latest.attrs = {"long_name": "end of the last integration with saturation, MJD in UTC", "units": "d"}
    return latest.assign_coords(row=row, column=exposure["column"].values).rename("last_saturation")


def latest_saturation(states: Sequence[xr.DataArray]) -> xr.DataArray:
    """Return the latest time of several images from :func:`last_saturation`, for all pixels of any of them."""
    aligned = xr.align(*states, join="outer", fill_value=-np.inf)
    latest = aligned[0]
    for state in aligned[1:]:
        latest = xr.ufuncs.maximum(latest, state)
    return latest.assign_attrs(states[0].attrs)


def _ends_of_blocks(flags: xr.DataArray, end: np.ndarray) -> xr.DataArray:
    """Return, for each block of integrations, when the last one with saturation has ended, (block, row, column) [s]."""
    times = chunk_like(xr.DataArray(end, dims="integration"), flags)
    last = map_blocks(
        last_end,
        flags,
        times,
        core=("group",),
        outputs={"last": (RATES, np.float64)},
        reduced={"last": "integration"},
        flag=_SATURATED,
    )["last"]
    return last


def _latest(ends: np.ndarray) -> np.ndarray:
    latest: np.ndarray = ends.max(0, keepdims=True)
    return latest


def _integrations(exposure: xr.Dataset) -> tuple[float, np.ndarray, np.ndarray]:
    """Return a time near the exposure [d], and start and end of its integrations since then [s]."""
    if all(name in exposure.coords for name in ("int_start_MJD_UTC", "int_end_MJD_UTC")):
        start, end = (exposure[name].values for name in ("int_start_MJD_UTC", "int_end_MJD_UTC"))
        if np.isfinite(start).all() and (end > start).all():
            zero = float(start[0])
            return zero, (start - zero) * _SECONDS, (end - zero) * _SECONDS
        warnings.warn(
            about(
                exposure.attrs,
                "INT_TIMES does not give start and end of all integrations; persistence takes times from EXPSTART",
            ),
            DegradedResultWarning,
            stacklevel=3,
        )
    readout = Readout.from_header(exposure.attrs)
    zero = require(exposure.attrs, "EXPSTART", purpose="they say when it was taken")["EXPSTART"]
    length = readout.group_time * readout.n_groups + readout.frames_before * readout.frame_time
    number = exposure["integration"].values - 1
    start = number * (length + readout.frame_time)  # one frame time to reset
    return zero, start, start + length
