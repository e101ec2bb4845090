"""Find cosmic-ray jumps in ramps, by two-point differences or by likelihood."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import xarray as xr
from scipy.special import erfcinv, log_ndtr

from nsxr.compute.blocks import map_blocks, map_with_halo, settle, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk, ramp_chunks, to_blocks, to_ramps
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.jump import find_limits, flag_outside, spread_jumps
from nsxr.kernels.ramps.likelihood import shared_part
from nsxr.kernels.ramps.likelihood_search import find_steps
from nsxr.kernels.ramps.series_rate import find_series_rates
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import record, record_skip
from nsxr.model.parameters import Choices, Range, Sigmas, Times, Unit
from nsxr.model.readout import Readout
from nsxr.model.variables import check, variable_attributes
from nsxr.references.match import match

__all__ = ["event_rate", "flag_jumps", "why_no_jumps"]

_RAMP = ("integration", "group", "row", "column")
_Number = Annotated[int, Range(0, 65535)]
_Signal = Annotated[float, Range(0, 1e6), Unit("DN")]
_ALGORITHMS = ("two-point", "likelihood")
_TWO_POINT_THRESHOLD = 4.0
_TWO_GROUP_THRESHOLD = 3.23
"""For series of two groups: some 0.08 % of differences without a jump lie above, 0.12 % at worst, in four integrations;
and of those with one of 6 sigma 94 to 95 % in three and four integrations, 97 % in five and 99 % from nine on."""
_FALSE_RAMPS = 8e-4
"""Ramps without a jump in which the likelihood may find one, whatever their length."""
_LEAST_GROUPS = 5
"""For the likelihood: of three differences it cannot tell which one is apart."""


def flag_jumps(
    exposure: xr.Dataset,
    readnoise: xr.Dataset,
    gain: xr.Dataset,
    *,
    algorithm: Annotated[str, Choices("likelihood", "two-point")] = "likelihood",
    rejection_threshold: Sigmas | None = None,
    three_group_rejection_threshold: Sigmas = 6.0,
    four_group_rejection_threshold: Sigmas = 5.0,
    flag_4_neighbors: bool = True,
    min_jump_to_flag_neighbors: Sigmas = 30.0,
    max_jump_to_flag_neighbors: Sigmas = 1000.0,
    min_diffs_single_pass: _Number = 10,
    minimum_groups: _Number = 2,
    minimum_sigclip_groups: _Number = 100,
    only_use_ints: bool = True,
    after_jump_flag_dn1: _Signal = 0.0,
    after_jump_flag_time1: Times = 0.0,
    after_jump_flag_dn2: _Signal = 0.0,
    after_jump_flag_time2: Times = 0.0,
    series: xr.Dataset | None = None,
) -> xr.Dataset:
    """Flag groups at which the signal of a pixel jumps.

    A cosmic ray deposits its charge at once, so the difference of two successive groups stands out
    among the others of the pixel. What stands out is decided in one of three ways:

    1. With ``minimum_sigclip_groups`` or more integrations, sigma clipping (about the median, at most
       five iterations) of each difference among the integrations.
    2. Else, with ``min_diffs_single_pass`` or more usable differences per integration, one comparison of
       each difference with the median of all.
    3. Else a search that takes out the most deviant difference again and again, comparing with the
       median of the others.

    In a series of two groups, each integration has a single difference, which is compared with the median of the other
    integrations.

    With ``algorithm="likelihood"``, a jump is instead what the fit of :func:`fit_ramps` with the same algorithm cannot
    explain: a difference, or two in succession, without which chi square falls by more than a step of
    ``rejection_threshold`` standard deviations would be worth; again and again while more than three are left. With
    fewer than five groups, or where no more than three differences are usable, differences are compared all the same.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], linear and free of dark current;
        ``groupdq`` uint8; ``pixeldq`` (row, column) uint32.
    readnoise : Dataset
        ``sci`` (row, column) float32 [DN]: noise of a difference of two single frames.
    gain : Dataset
        ``sci`` (row, column) float32 [electron/DN].
    algorithm : {"two-point", "likelihood"}
        How jumps are told from noise.
    rejection_threshold : float, optional
        Threshold of a jump, with four valid differences or more; default 4. By likelihood, two differences in
        succession have to be as improbable as one beyond it, and the default is such that less than 0.1 % of ramps
        without a jump get one, whatever their length: 3.8 for 5 groups, 4.2 for 20. In a series of two groups it goes
        with the noise of a difference and of the median of the others together, and the default is 3.23.
    three_group_rejection_threshold : float
        Threshold where two differences are valid, as in ramps of three groups; in the third way. In a series of two
        groups, for pixels with two good integrations, and for steps down: charge only adds.
    four_group_rejection_threshold : float
        Threshold where three differences are valid, as in ramps of four groups; in the third way.
    flag_4_neighbors : bool
        Whether the four neighbours along rows and columns are flagged too, in the same group.
    min_jump_to_flag_neighbors : float
        Only larger jumps flag their neighbours. The default is the operational value of NIRSpec.
    max_jump_to_flag_neighbors : float
        Only smaller jumps flag their neighbours.
    min_diffs_single_pass : int
        With this many usable differences in an integration, one comparison with their median decides: the second way.
    minimum_groups : int
        With fewer groups per integration nothing is done (never with one, nor with two in a single integration).
    minimum_sigclip_groups : int
        With this many integrations, differences are compared among integrations: the first way.
    only_use_ints : bool
        Whether the first way compares the same difference among integrations. If not, it clips all
        differences of a pixel together and wants that many usable groups in all.
    after_jump_flag_dn1, after_jump_flag_dn2 : float
        Jumps of at least this size, at the median gain, also flag the groups that follow for ``after_jump_flag_time1``
        and ``after_jump_flag_time2``.
    after_jump_flag_time1, after_jump_flag_time2 : float
        How long the groups after jumps of ``after_jump_flag_dn1`` and ``after_jump_flag_dn2`` are flagged; 0 is off.
    series : Dataset, optional
        The same exposure, opened and corrected a second time in the ``ramp`` layout. What is ordinary for a pixel is
        found in all of its integrations; if they come from a second copy, that is read and done with before the
        first is needed (:func:`nsxr.compute.blocks.settle`), and no more than a few integrations are in memory at once.

    Returns
    -------
    Dataset
        ``groupdq`` with JUMP_DET on the later group of each jump, except where a group is DO_NOT_USE or
        SATURATED; ``pixeldq`` with NO_GAIN_VALUE and DO_NOT_USE where the gain is not positive; a lazy
        scalar ``primary_cosmic_rays``; for several integrations ``median_rate`` (row, column) float32 [DN/s], the
        rate that they share, from which :func:`fit_ramps` takes the photon noise: a robust mean of the slopes of
        integrations, see :mod:`nsxr.kernels.ramps.series_rate`. ``sci`` is unchanged, in the ``block`` layout. With too
        few groups, the exposure with a note that the correction was skipped.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If a parameter is negative, or the algorithm unknown.

    Notes
    -----
    With d the differences in electrons, R the read noise in electrons and n the frames per group::

        sigma^2 = |median(d)| + R^2 / n

    The median goes over all groups and integrations, also where these come from several files. The third
    way uses the location instead of the median: the median of all differences but one of largest
    absolute value (four or more valid), the median (three), or the one closer to zero (two). It keeps the
    sign of the differences, so that downward steps are found like upward ones.

    In a series of two groups, a difference d is compared with the median m of the k others: it is a jump if it is
    larger by more than the threshold times ``sqrt((max(m, 0) + R^2 / n) (1 + v))``, with v the variance of the median
    of k normal values. From 20 integrations on, the scatter of the pixel, by its median absolute deviation, takes the
    place of the expected one if it is significantly more: sources vary, and transits are no jumps. An integration with
    a jump then has no difference left, and no rate.

    A group that is DO_NOT_USE in a whole line of the detector does not count as usable there. Groups lost
    in the whole frame are thus left out, without asking the frame: a line is always in one chunk.

    References
    ----------
    Anderson & Gordon 2011, PASP 123, 1237: "Optimal Cosmic-Ray Detection for Nondestructive Read Ramps".

    Brandt 2024, PASP 136, 045005: "Likelihood-based Jump Detection and Cosmic Ray Rejection for Detectors Read Out
    Up-the-ramp".
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    if algorithm not in _ALGORITHMS:
        raise ParameterError(f"algorithm is {algorithm!r}, expected one of {', '.join(_ALGORITHMS)}")
    if exposure.sizes["group"] < _LEAST_GROUPS:
        algorithm = "two-point"
    threshold = _default_threshold(algorithm, exposure.sizes["group"] - 1)
    if rejection_threshold is not None:
        threshold = float(rejection_threshold)
    parameters: dict[str, Any] = {
        "rejection_threshold": threshold,
        "three_group_rejection_threshold": three_group_rejection_threshold,
        "four_group_rejection_threshold": four_group_rejection_threshold,
        "flag_4_neighbors": flag_4_neighbors,
        "min_jump_to_flag_neighbors": min_jump_to_flag_neighbors,
        "max_jump_to_flag_neighbors": max_jump_to_flag_neighbors,
        "min_diffs_single_pass": min_diffs_single_pass,
        "minimum_groups": minimum_groups,
        "minimum_sigclip_groups": minimum_sigclip_groups,
        "only_use_ints": only_use_ints,
        "after_jump_flag_dn1": after_jump_flag_dn1,
        "after_jump_flag_time1": after_jump_flag_time1,
        "after_jump_flag_dn2": after_jump_flag_dn2,
        "after_jump_flag_time2": after_jump_flag_time2,
    }
    negative = [name for name, value in parameters.items() if value < 0]
    if negative:
        raise ParameterError(f"jump parameters must not be negative: {', '.join(negative)}")
    parameters = {"algorithm": algorithm, **parameters}
    why_not = why_no_jumps(exposure, minimum_groups)
    if why_not is not None:
        return record_skip(exposure, "jump", why_not)

    readout = Readout.of(exposure)
    exposure = to_blocks(exposure)
    gain_values = match(gain, exposure, "gain")["sci"].astype(np.float32, copy=False)
    noise_values = match(readnoise, exposure, "readnoise")["sci"].astype(np.float32, copy=False)
    is_series = exposure.sizes["integration"] > 1
    by_likelihood = algorithm == "likelihood"
    limits: list[xr.DataArray] = []
    rate_per_group = None
    if is_series or not by_likelihood:
        limits, rate_per_group = _ordinary(
            exposure if series is None else to_ramps(series),
            gain_values,
            noise_values,
            with_limits=not by_likelihood,
            n_frames=readout.n_frames,
            threshold=threshold,
            threshold_three=float(four_group_rejection_threshold),
            threshold_two=float(three_group_rejection_threshold),
            min_differences=int(min_diffs_single_pass),
            min_clip_groups=int(minimum_sigclip_groups),
            only_integrations=bool(only_use_ints),
            first_group=readout.first_group_time / readout.group_time,
        )
        if series is not None:
            limits, rate_per_group = [settle(array) for array in limits], settle(rate_per_group)
    after = [int(time // readout.group_time) for time in (after_jump_flag_time1, after_jump_flag_time2)]
    # only the after-jump thresholds need it, and it needs the whole reference
    median_gain = _median(gain_values) if any(after) else xr.DataArray(1.0)
    kernel: Callable[..., np.ndarray]
    if by_likelihood:
        expected = [] if rate_per_group is None else [rate_per_group]
        arrays = [gain_values, noise_values, *expected]
        kernel = partial(
            _find,
            n_frames=readout.n_frames,
            shared=shared_part(readout.n_frames, readout.frame_time, readout.group_time),
            threshold=threshold,
            three=float(four_group_rejection_threshold),
            two=float(three_group_rejection_threshold),
        )
    else:
        arrays, kernel = [gain_values, *limits], _flag
    (code,) = map_blocks(
        kernel,
        exposure["sci"],
        chunk_like(exposure["groupdq"], exposure["sci"]),
        median_gain,
        *(chunk_like(array, exposure["sci"].isel(integration=0, group=0)) for array in arrays),
        core=("group", "column"),
        outputs=[(_RAMP, np.uint8)],
        large_dn=after_jump_flag_dn1 if after[0] else np.inf,
        very_large_dn=after_jump_flag_dn2 if after[1] else np.inf,
        min_spread=float(min_jump_to_flag_neighbors) if flag_4_neighbors else np.inf,
        max_spread=float(max_jump_to_flag_neighbors),
    )
    jumps = map_with_halo(
        spread_jumps, code, depth={"row": 1}, boundary=0, after_large=after[0], after_very_large=after[1]
    )
    no_gain = np.uint32(PixelFlag.NO_GAIN_VALUE | PixelFlag.DO_NOT_USE)
    pixeldq = exposure["pixeldq"] | ~(gain_values > 0) * no_gain
    count = ((code & np.uint8(GroupFlag.JUMP_DET)) != 0).sum(_RAMP)
    rate = event_rate(count, exposure["groupdq"], readout.group_time) * 1e3
    rate.attrs = {"long_name": "jumps found, per second and 1000 pixels", "units": "1/s", "keyword": "PRIMECRS"}
    result = record(
        exposure, "jump", [readnoise, gain], parameters, groupdq=exposure["groupdq"] | jumps, pixeldq=pixeldq
    )
    result = result.assign(primary_cosmic_rays=rate)
    if is_series and rate_per_group is not None:
        median_rate = chunk_like(rate_per_group, exposure["sci"].isel(integration=0, group=0))
        median_rate = median_rate / np.float32(readout.group_time)
        median_rate.attrs = {"units": "DN/s", **variable_attributes("median_rate")}
        result = result.assign(median_rate=median_rate)
    return result


def why_no_jumps(exposure: xr.Dataset, minimum_groups: int = 2) -> str | None:
    """Return why jumps cannot be found in an exposure, or None if they can."""
    groups = exposure.sizes["group"]
    least = max(2 if exposure.sizes["integration"] > 1 else 3, int(minimum_groups))
    return None if groups >= least else f"{groups} groups per integration, at least {least} are needed"


def _default_threshold(algorithm: str, differences: int) -> float:
    """Return the threshold [sigma] for ramps of so many differences."""
    if algorithm == "two-point":
        return _TWO_POINT_THRESHOLD if differences > 1 else _TWO_GROUP_THRESHOLD
    tests = differences + (differences - 1) / 2  # those of pairs go with those of their halves
    return float(np.sqrt(2) * erfcinv(_FALSE_RAMPS / tests))


def event_rate(count: xr.DataArray, groupdq: xr.DataArray, group_time: float) -> xr.DataArray:
    """Return events per second and pixel.

    Parameters
    ----------
    count : DataArray
        Number of events in the whole exposure, a scalar.
    groupdq : DataArray
        (integration, group, row, column) uint8. Groups that are DO_NOT_USE in the whole frame do not count as
        time, nor does the first group of an integration.
    group_time : float
        Time between groups [s].

    Returns
    -------
    DataArray
        Scalar float64 [1/s], lazy if the input is; NaN if no time was usable.
    """
    lost = ((groupdq & np.uint8(GroupFlag.DO_NOT_USE)) != 0).all(("row", "column")).sum()
    groups = groupdq.sizes["integration"] * (groupdq.sizes["group"] - 1) - lost
    pixels = groupdq.sizes["row"] * groupdq.sizes["column"]
    return (count / (group_time * pixels * groups.where(groups > 0))).astype(np.float64)


def _median(image: xr.DataArray) -> xr.DataArray:
    """Return the median of an image without its NaN, a lazy scalar."""
    (median,) = map_blocks(
        np.nanmedian, one_chunk(image, "row", "column"), core=("row", "column"), outputs=[((), np.float64)]
    )
    return median


def _ordinary(
    ramps: xr.Dataset, gain: xr.DataArray, readnoise: xr.DataArray, with_limits: bool, **parameters: Any
) -> tuple[list[xr.DataArray], xr.DataArray]:
    """Return the limits of ordinary differences, if wanted, and the rate that integrations share."""
    sci, groupdq = unlabelled(ramps["sci"]), chunk_like(unlabelled(ramps["groupdq"]), ramps["sci"])
    sizes = {str(dim): size for dim, size in sci.sizes.items()}
    image, differences = ("row", "column"), ("difference", "row", "column")
    steps = sizes["group"] - 1
    each = parameters["only_integrations"] and sizes["integration"] >= parameters["min_clip_groups"] and steps > 1
    of_limits = [(differences, np.float64)] * 2 + [(image, np.float64)] * 2
    of_rate = [(image, np.float32)]  # its uncertainty, which is not needed
    if not with_limits:
        parameters = {k: v for k, v in parameters.items() if k not in ("min_clip_groups", "only_integrations")}
    images = [chunk_like(unlabelled(array), sci.isel(integration=0, group=0)) for array in (gain, readnoise)]

    def find(core: Sequence[str], within: tuple[str, slice] | None = None) -> tuple[xr.DataArray, ...]:
        return map_blocks(
            find_limits if with_limits else find_series_rates,
            sci,
            groupdq,
            *images,
            core=core,
            outputs=[*(of_limits if with_limits else of_rate), (image, np.float32)],
            sizes={"difference": steps if each else 1},
            joined="integration",
            within=within,
            **parameters,
        )

    if sci.chunks is None or len(sci.chunks[2]) > 1:
        *limits, rate = find(("integration", "group", "column"))
        return limits, rate
    # blocks have all rows and wait for each other; some rows at a time are taken from all of them
    rows = ramp_chunks(sizes)["row"]
    tiles = [find(_RAMP, ("row", slice(start, start + rows))) for start in range(0, sizes["row"], rows)]
    *limits, rate = (xr.concat(parts, "row") for parts in zip(*tiles, strict=True))
    return [limit.transpose(..., "row", "column") for limit in limits], rate


def _flag(
    sci: np.ndarray,
    groupdq: np.ndarray,
    median_gain: np.ndarray,
    gain: np.ndarray,
    *limits: np.ndarray,
    large_dn: float,
    very_large_dn: float,
    min_spread: float,
    max_spread: float,
) -> np.ndarray:
    """Run the kernel with the after-jump thresholds in electrons; ``limits`` are those of :func:`find_limits`."""
    factor = float(median_gain)
    lower, upper, median, sigma = limits
    sizes = large_dn * factor, very_large_dn * factor, min_spread, max_spread
    return flag_outside(sci, groupdq, gain, lower, upper, median, sigma, *sizes)


def _find(
    sci: np.ndarray,
    groupdq: np.ndarray,
    median_gain: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    rate: np.ndarray | None = None,
    *,
    n_frames: int,
    shared: float,
    threshold: float,
    three: float,
    two: float,
    large_dn: float,
    very_large_dn: float,
    min_spread: float,
    max_spread: float,
) -> np.ndarray:
    """Run the kernel of the likelihood with what chi square has to lose, and the after-jump thresholds in electrons."""
    factor = float(median_gain)
    double = -2 * (np.log(2) + log_ndtr(-threshold))  # as improbable with two degrees of freedom
    given = np.empty((0, 0), np.float32) if rate is None else rate
    sizes = large_dn * factor, very_large_dn * factor, min_spread, max_spread
    limits = threshold**2, float(double), three, two
    return find_steps(sci, groupdq, gain, readnoise, given, n_frames, shared, *limits, *sizes)
