"""Flag snowballs, which are large cosmic-ray events, and showers."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import chunk_like, to_frames
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.showers import flag_excess
from nsxr.kernels.ramps.snowballs import SnowballLimits
from nsxr.model.dims import RAMP
from nsxr.model.dq import JUMP
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Pixels, Range, Sigmas, Times, Unit
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.ramps.jump import event_rate
from nsxr.ramps.snowball_ellipses import flag_by_ellipses
from nsxr.ramps.snowball_halos import flag_by_halos, scaled_frames

__all__ = ["flag_snowballs"]

_Area = Annotated[float, Range(0, 2048**2), Unit("pixel")]
_ALGORITHMS = ("halo", "ellipse")


@dataclass(frozen=True)
class _Options:
    """Parameters of :func:`flag_snowballs`."""

    snowball_algorithm: str
    halo_tolerance: float
    find_showers: bool
    shower_threshold: float
    shower_min_area: float
    min_sat_area: float
    min_jump_area: float
    expand_factor: float
    sat_required_snowball: bool
    min_sat_radius_extend: float
    sat_expand: int
    edge_size: int
    max_extended_radius: int
    mask_snowball_core_next_int: bool
    snowball_time_masked_next_int: float

    def __post_init__(self) -> None:
        if self.snowball_algorithm not in _ALGORITHMS:
            expected = f"expected one of {', '.join(_ALGORITHMS)}"
            raise ParameterError(f"snowball_algorithm is {self.snowball_algorithm!r}, {expected}")
        used = {name: value for name, value in self.parameters.items() if name != "snowball_algorithm"}
        negative = [name for name, value in used.items() if value < 0]
        if negative or not self.halo_tolerance > 0:
            raise ParameterError(f"snowball parameters must be positive: {', '.join(negative) or 'halo_tolerance'}")

    @property
    def by_halos(self) -> bool:
        return self.snowball_algorithm == "halo"

    @property
    def limits(self) -> SnowballLimits:
        return SnowballLimits(
            float(self.min_sat_area),
            float(self.min_jump_area),
            float(self.min_sat_radius_extend),
            int(self.sat_expand),
            int(self.max_extended_radius),
        )

    @property
    def of_ellipses(self) -> dict[str, Any]:
        """Return the parameters for ellipses only."""
        return {
            "expand_factor": float(self.expand_factor),
            "sat_required_snowball": bool(self.sat_required_snowball),
            "edge_size": int(self.edge_size),
        }

    @property
    def of_showers(self) -> dict[str, Any]:
        """Return the parameters for showers only."""
        return {"shower_threshold": float(self.shower_threshold), "shower_min_area": float(self.shower_min_area)}

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters that have an effect, which are recorded."""
        return {
            "snowball_algorithm": self.snowball_algorithm,
            "find_showers": bool(self.find_showers),
            **self.limits._asdict(),
            **({"halo_tolerance": float(self.halo_tolerance)} if self.by_halos else self.of_ellipses),
            **(self.of_showers if self.find_showers else {}),
            "mask_snowball_core_next_int": bool(self.mask_snowball_core_next_int),
            "snowball_time_masked_next_int": float(self.snowball_time_masked_next_int),
        }

    def groups_masked(self, group_time: float, groups: int) -> int:
        """Return up to which group cores are flagged in the next integration; 0 for no groups."""
        masked = min(int(self.snowball_time_masked_next_int // group_time), groups)
        return masked if self.mask_snowball_core_next_int and masked > 1 else 0


def flag_snowballs(
    exposure: xr.Dataset,
    readnoise: xr.Dataset | None = None,
    gain: xr.Dataset | None = None,
    *,
    snowball_algorithm: Annotated[str, Choices("halo", "ellipse")] = "halo",
    halo_tolerance: Annotated[float, Range(0, 1e3, is_open=True), Unit("sigma")] = 0.1,
    find_showers: bool = False,
    shower_threshold: Sigmas = 6.0,
    shower_min_area: _Area = 100.0,
    min_sat_area: _Area = 1.0,
    min_jump_area: _Area = 5.0,
    expand_factor: Annotated[float, Range(0, 100)] = 2.0,
    sat_required_snowball: bool = True,
    min_sat_radius_extend: Annotated[float, Range(0, 2048), Unit("pixel")] = 2.5,
    sat_expand: Pixels = 2,
    edge_size: Pixels = 25,
    max_extended_radius: Pixels = 200,
    mask_snowball_core_next_int: bool = True,
    snowball_time_masked_next_int: Times = 4000.0,
) -> xr.Dataset:
    """Flag the surroundings of large cosmic-ray events, called snowballs.

    A snowball is round and covers tens to hundreds of pixels. It has a core that saturates, a ring of pixels that jump,
    and around the ring a halo that is too faint to be found pixel by pixel. Call this function after
    :func:`nsxr.ramps.jump.flag_jumps`.

    With ``snowball_algorithm="halo"``, a snowball is a core that has just saturated, with jumps around it. Differences
    of groups are averaged in rings around the core, relative to the ordinary difference of each pixel and in units of
    its noise. A fit to the rings gives the fall of the charge with distance. Pixels are flagged out to where the charge
    shifts the rate of a pixel by ``halo_tolerance`` of its uncertainty. Charge may still arrive in the following
    groups, from traps or because frames are averaged. These groups are then flagged as well, as far out as charge is
    found in them. A region of jumps at an edge of the detector may belong to a core outside the detector. It is taken
    for a segment of a circle, and is a snowball if a halo is found around it.

    With ``"ellipse"``, as in the observatory's pipeline, regions of jumps are found among the flags, and larger
    ellipses are flagged.

    Parameters
    ----------
    exposure : Dataset
        ``groupdq`` (integration, group, row, column) uint8 with jumps flagged; for halos and showers also ``sci``
        float32 [DN].
    readnoise, gain : Dataset
        As in :func:`flag_jumps`; for halos and showers.
    snowball_algorithm : {"halo", "ellipse"}
        How the area to be flagged is found.
    halo_tolerance : float
        Shift of a rate that may remain at the edge of a flagged halo.
    find_showers : bool
        Whether to flag regions in which many pixels have a little too much signal in the same group, without a core.
    shower_threshold : float
        Pixels are flagged as a shower if their mean over 11 x 11 pixels exceeds this, in robust standard deviations of
        such means.
    shower_min_area : float
        Least area of connected pixels that are flagged as a shower.
    min_sat_area : float
        Least area of a saturated core, holes filled.
    min_jump_area : float
        Least area of a region of jumps, holes filled.
    expand_factor : float
        By how much the minor axis of the region of jumps grows. The major axis grows by as many pixels. Ellipses only.
    sat_required_snowball : bool
        Whether a region of jumps counts only if its ellipse contains the centre of a core that saturates for the first
        time in this group or the next. If not set, all regions count and cores do not grow. Ellipses only.
    min_sat_radius_extend : float
        Cores whose full minor axis is larger than this grow.
    sat_expand : int
        By how much the semi-axes of a core grow.
    edge_size : int
        A region with its centre within this distance of an edge needs no core, because the core may be outside the
        detector. Ellipses only.
    max_extended_radius : int
        Largest semi-axis of a flagged ellipse, or radius of a halo.
    mask_snowball_core_next_int : bool
        Whether cores that grow are also flagged as jumps in the next integration, where the pixels
        still release charge.
    snowball_time_masked_next_int : float
        For how long cores are flagged in the next integration.

    Returns
    -------
    Dataset
        ``groupdq`` with JUMP_DET added around each snowball, in its group, where it is not SATURATED; with
        SATURATED added around each large core, from its group on; and with JUMP_DET in the same cores in
        the next integration. No flag is cleared. A lazy scalar ``extended_emission_events`` is added, and, for halos,
        ``snowballs`` (snowball, property) float32: integration and group, counted from 1, in which a snowball
        arrives; row and column of its centre, detector pixels; radius of the core as saturated, neighbours included,
        and radius flagged [pixel]; amplitude of the halo at the edge of the core [standard deviations of a difference
        of groups], NaN if the halo is too steep to measure; number of samples flagged. NaN beyond the last snowball.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If a parameter is negative, the algorithm unknown, or references are missing.

    Notes
    -----
    Regions are 8-connected. The ellipse of a region has the second moments of the region, with both axes one pixel
    shorter.

    Charge of z standard deviations of a difference that arrives before group k of N shifts a slope that is limited by
    read noise by ``z k (N - k) sqrt(6 / (N (N^2 - 1)))`` standard deviations.

    References
    ----------
    Regan 2023, JWST-STScI-008545: "Detection and Flagging of Showers and Snowballs in JWST".
    """
    options = _Options(
        snowball_algorithm=snowball_algorithm,
        halo_tolerance=halo_tolerance,
        find_showers=find_showers,
        shower_threshold=shower_threshold,
        shower_min_area=shower_min_area,
        min_sat_area=min_sat_area,
        min_jump_area=min_jump_area,
        expand_factor=expand_factor,
        sat_required_snowball=sat_required_snowball,
        min_sat_radius_extend=min_sat_radius_extend,
        sat_expand=sat_expand,
        edge_size=edge_size,
        max_extended_radius=max_extended_radius,
        mask_snowball_core_next_int=mask_snowball_core_next_int,
        snowball_time_masked_next_int=snowball_time_masked_next_int,
    )
    check(exposure, "groupdq")
    readout = Readout.of(exposure)
    groupdq = exposure["groupdq"]
    frames = to_frames(groupdq)
    references = []
    if options.by_halos or options.find_showers:
        scaled = scaled_frames(exposure, readnoise, gain, readout)
        references = [reference for reference in (readnoise, gain) if reference is not None]
    if options.by_halos:
        found = flag_by_halos(exposure, frames, scaled, options.limits, float(halo_tolerance))
    else:
        found = flag_by_ellipses(frames, options.limits, **options.of_ellipses)
    flags = found["flags"]
    if options.find_showers:
        flags = _with_showers(flags, scaled, **options.of_showers)
    masked = options.groups_masked(readout.group_time, groupdq.sizes["group"])
    if masked:
        flags = _with_cores_of_before(flags, found["cores"], masked)
    result = record(exposure, "jump", references, options.parameters, groupdq=chunk_like(flags, groupdq))
    rate = event_rate(found["events"].sum(), groupdq, readout.group_time) * 1e6
    rate.attrs = {"long_name": "snowballs found, per second and 10^6 pixels", "units": "1/s", "keyword": "EXTNCRS"}
    result = result.assign(extended_emission_events=rate)
    return result.assign(snowballs=found["snowballs"]) if options.by_halos else result


def _with_showers(flags: xr.DataArray, scaled: xr.DataArray, **of_showers: Any) -> xr.DataArray:
    """Return the flags with the flags of showers added."""
    outputs = {"flags": (RAMP, np.uint8)}
    core = ("group", "row", "column", "pair")
    return map_blocks(flag_excess, flags, scaled, core=core, outputs=outputs, **of_showers)["flags"]


def _with_cores_of_before(flags: xr.DataArray, cores: xr.DataArray, masked: int) -> xr.DataArray:
    """Return the flags with the cores of the integration before added, in groups up to ``masked``."""
    if flags.sizes["integration"] == 1:
        return flags
    before = chunk_like(cores.shift(integration=1, fill_value=False), flags)
    group = np.arange(flags.sizes["group"])
    return flags | before * (xr.DataArray((group > 0) & (group < masked), dims="group") * JUMP)
