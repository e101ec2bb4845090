"""Find cosmic-ray jumps in ramps, by two-point differences or by likelihood."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, map_with_halo
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks, to_ramps
from nsxr.compute.passes import settle
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.jump import JumpSizes, spread_jumps
from nsxr.kernels.ramps.series_rate import TwoPointSearch
from nsxr.kernels.sorting import Thresholds
from nsxr.model.dims import IMAGE, RAMP
from nsxr.model.dq import JUMP, NO_GAIN, GroupFlag
from nsxr.model.history import record, record_skip
from nsxr.model.parameters import Choices, Range, Sigmas, Times, Unit
from nsxr.model.readout import Readout
from nsxr.model.variables import check, variable_attributes
from nsxr.ramps.likelihood_jumps import FEWEST_GROUPS, flag_by_likelihood, likelihood_threshold, step_search
from nsxr.ramps.two_point import find_ordinary, flag_by_differences
from nsxr.references.match import match

__all__ = ["event_rate", "flag_jumps", "why_no_jumps"]

_Number = Annotated[int, Range(0, 65535)]
_Signal = Annotated[float, Range(0, 1e6), Unit("DN")]
_ALGORITHMS = ("two-point", "likelihood")
_TWO_POINT_THRESHOLD = 4.0
_TWO_GROUP_THRESHOLD = 3.23
"""Default threshold of time series of two groups. About 0.08 % of differences without a jump exceed it; 0.12 % with
four integrations, the worst case. Of differences with a jump of 6 sigma, 94 to 95 % exceed it with three and four
integrations, 97 % with five, and 99 % with nine or more."""


@dataclass(frozen=True)
class _Options:
    """Parameters of :func:`flag_jumps`, with the algorithm and the threshold that are used."""

    algorithm: str
    rejection_threshold: float
    three_group_rejection_threshold: float
    four_group_rejection_threshold: float
    flag_4_neighbors: bool
    min_jump_to_flag_neighbors: float
    max_jump_to_flag_neighbors: float
    min_diffs_single_pass: int
    minimum_groups: int
    minimum_sigclip_groups: int
    only_use_ints: bool
    after_jump_flag_dn1: float
    after_jump_flag_time1: float
    after_jump_flag_dn2: float
    after_jump_flag_time2: float

    def __post_init__(self) -> None:
        if self.algorithm not in _ALGORITHMS:
            raise ParameterError(f"algorithm is {self.algorithm!r}, expected one of {', '.join(_ALGORITHMS)}")
        negative = [name for name, value in asdict(self).items() if name != "algorithm" and value < 0]
        if negative:
            raise ParameterError(f"jump parameters must not be negative: {', '.join(negative)}")

    @property
    def by_likelihood(self) -> bool:
        return self.algorithm == "likelihood"

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds by number of differences: four groups have three differences, three groups have two."""
        by_groups = self.four_group_rejection_threshold, self.three_group_rejection_threshold
        return Thresholds(self.rejection_threshold, *map(float, by_groups))

    def two_point_search(self, readout: Readout) -> TwoPointSearch:
        return TwoPointSearch(
            readout.n_frames,
            self.thresholds,
            int(self.min_diffs_single_pass),
            int(self.minimum_sigclip_groups),
            bool(self.only_use_ints),
            readout.first_group_time / readout.group_time,
        )

    def groups_after(self, readout: Readout) -> tuple[int, int]:
        """Return how many groups are flagged after jumps above the first and above the second after-jump threshold."""
        times = self.after_jump_flag_time1, self.after_jump_flag_time2
        return int(times[0] // readout.group_time), int(times[1] // readout.group_time)

    def sizes(self, readout: Readout) -> JumpSizes:
        """Return the sizes of jumps that flag more than their own group, with thresholds in DN."""
        after = self.groups_after(readout)
        return JumpSizes(
            float(self.after_jump_flag_dn1) if after[0] else np.inf,
            float(self.after_jump_flag_dn2) if after[1] else np.inf,
            float(self.min_jump_to_flag_neighbors) if self.flag_4_neighbors else np.inf,
            float(self.max_jump_to_flag_neighbors),
        )


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

    A cosmic ray deposits its charge at once. The difference of two successive groups is then much larger than the other
    differences of the pixel.

    With ``algorithm="likelihood"``, the ramp is fitted as in :func:`fit_ramps` with the same algorithm. A difference,
    or two differences in succession, is a jump if chi square falls by more than the threshold when the differences are
    left out. The search is repeated as long as more than three differences are left. Ramps of fewer than five groups,
    and pixels with at most three usable differences, are searched by two-point differences.

    With ``algorithm="two-point"``, each difference is compared with other differences of the pixel, in one of three
    ways:

    1. With ``minimum_sigclip_groups`` or more integrations, each difference is sigma-clipped among the integrations
       (about the median, at most five iterations).
    2. Otherwise, with ``min_diffs_single_pass`` or more usable differences per integration, each difference is compared
       once with the median of all differences.
    3. Otherwise the most deviant difference is compared with the median of the others, and taken out if it is a jump.
       This is repeated until no jump is found.

    In a time series of two groups, each integration has a single difference. It is compared with the median of the
    other integrations.

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
        How jumps are distinguished from noise.
    rejection_threshold : float, optional
        Threshold of a jump, with four valid differences or more; default 4. By likelihood, two differences in
        succession have to be as improbable as one difference at the threshold. The default is then chosen such that a
        jump is found in less than 0.1 % of ramps without one, whatever their length: 3.8 for 5 groups, 4.2 for 20. In a
        time series of two groups, the threshold is in units of the combined noise of a difference and of the median of
        the others, and the default is 3.23.
    three_group_rejection_threshold : float
        Threshold where two differences are valid, as in ramps of three groups; in the third way. In a time series of
        two groups, threshold for pixels with two good integrations, and for steps down, which cosmic rays do not cause.
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
        With fewer groups per integration the step is skipped. It is always skipped for one group, and for two groups in
        a single integration.
    minimum_sigclip_groups : int
        With this many integrations, differences are compared among integrations: the first way.
    only_use_ints : bool
        Whether the first way compares the same difference among integrations. Otherwise it clips all differences of a
        pixel together, and ``minimum_sigclip_groups`` is the least number of usable groups in all integrations
        together.
    after_jump_flag_dn1, after_jump_flag_dn2 : float
        Jumps of at least this size, at the median gain, also flag the groups that follow for ``after_jump_flag_time1``
        and ``after_jump_flag_time2``.
    after_jump_flag_time1, after_jump_flag_time2 : float
        For how long groups after jumps of ``after_jump_flag_dn1`` and ``after_jump_flag_dn2`` are flagged; 0 for no
        flags.
    series : Dataset, optional
        The same exposure, opened and corrected a second time in the ``ramp`` layout. The limits of ordinary differences
        are found from all integrations of a pixel. With a second copy, these integrations are read before those of the
        first are needed (:func:`nsxr.compute.passes.settle`), and only a few integrations are in memory at once.

    Returns
    -------
    Dataset
        ``groupdq`` with JUMP_DET on the later group of each jump, except where a group is DO_NOT_USE or
        SATURATED; ``pixeldq`` with NO_GAIN_VALUE and DO_NOT_USE where the gain is not positive; a lazy
        scalar ``primary_cosmic_rays``; for several integrations ``median_rate`` (row, column) float32 [DN/s], the
        rate that all integrations share, a robust mean of their slopes, from which :func:`fit_ramps` takes the photon
        noise, see :mod:`nsxr.kernels.ramps.series_rate`. ``sci`` is unchanged, in the ``block`` layout. With too few
        groups, the exposure is returned and the step is recorded as skipped.

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

    The median is taken over all groups and integrations, also if these come from several files. The third way uses
    another location in place of this median. With four or more valid differences it is the median of all but the one of
    largest absolute value. With three it is the median, and with two the one closer to zero. The third way keeps the
    sign of the differences, so that downward steps are found like upward ones.

    In a time series of two groups, a difference d is compared with the median m of the k others. It is a jump if it is
    larger by more than the threshold times ``sqrt((max(m, 0) + R^2 / n) (1 + v))``, with v the variance of the median
    of k normal values. From 20 integrations on, the scatter of the pixel (from its median absolute deviation) replaces
    the expected scatter if it is significantly larger, because sources vary and a transit is not a jump. An integration
    with a jump has no difference left, and gets no rate.

    A group that is DO_NOT_USE in a whole row of pixels does not count as usable in that row. So groups that are lost in
    the whole frame are left out without reading the whole frame, because a row is always in one chunk.

    References
    ----------
    Anderson & Gordon 2011, PASP 123, 1237: "Optimal Cosmic-Ray Detection for Nondestructive Read Ramps".

    Brandt 2024, PASP 136, 045005: "Likelihood-based Jump Detection and Cosmic Ray Rejection for Detectors Read Out
    Up-the-ramp".
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    groups = exposure.sizes["group"]
    if rejection_threshold is None:
        rejection_threshold = _default_threshold(algorithm, groups)
    options = _Options(
        algorithm=_possible(algorithm, groups),
        rejection_threshold=float(rejection_threshold),
        three_group_rejection_threshold=three_group_rejection_threshold,
        four_group_rejection_threshold=four_group_rejection_threshold,
        flag_4_neighbors=flag_4_neighbors,
        min_jump_to_flag_neighbors=min_jump_to_flag_neighbors,
        max_jump_to_flag_neighbors=max_jump_to_flag_neighbors,
        min_diffs_single_pass=min_diffs_single_pass,
        minimum_groups=minimum_groups,
        minimum_sigclip_groups=minimum_sigclip_groups,
        only_use_ints=only_use_ints,
        after_jump_flag_dn1=after_jump_flag_dn1,
        after_jump_flag_time1=after_jump_flag_time1,
        after_jump_flag_dn2=after_jump_flag_dn2,
        after_jump_flag_time2=after_jump_flag_time2,
    )
    why_not = why_no_jumps(exposure, minimum_groups)
    if why_not is not None:
        return record_skip(exposure, "jump", why_not)
    readout = Readout.of(exposure)
    exposure = to_blocks(exposure)
    gain_values = match(gain, exposure, "gain")["sci"].astype(np.float32, copy=False)
    noise_values = match(readnoise, exposure, "readnoise")["sci"].astype(np.float32, copy=False)
    is_series = exposure.sizes["integration"] > 1
    ordinary: dict[str, xr.DataArray] = {}
    if is_series or not options.by_likelihood:
        ramps = exposure if series is None else to_ramps(series)
        search = options.two_point_search(readout)
        ordinary = find_ordinary(ramps, gain_values, noise_values, search, with_limits=not options.by_likelihood)
        if series is not None:
            ordinary = {name: settle(array) for name, array in ordinary.items()}
    after, sizes = options.groups_after(readout), options.sizes(readout)
    # only the after-jump thresholds need the median, and it needs the whole reference
    median_gain = _median(gain_values) if any(after) else xr.DataArray(1.0)
    sci, groupdq = exposure["sci"], exposure["groupdq"]
    if options.by_likelihood:
        steps = step_search(options.thresholds, readout)
        rate = ordinary.get("rate")
        code = flag_by_likelihood((sci, groupdq), gain_values, noise_values, rate, median_gain, steps, sizes)
    else:
        code = flag_by_differences(sci, groupdq, gain_values, ordinary, median_gain, sizes)
    jumps = map_with_halo(
        spread_jumps, code, depth={"row": 1}, boundary=0, after_large=after[0], after_very_large=after[1]
    )
    pixeldq = exposure["pixeldq"] | ~(gain_values > 0) * NO_GAIN
    result = record(exposure, "jump", [readnoise, gain], asdict(options), groupdq=groupdq | jumps, pixeldq=pixeldq)
    count = ((code & JUMP) != 0).sum(RAMP)
    result = result.assign(primary_cosmic_rays=_jumps_a_second(count, groupdq, readout.group_time))
    return result.assign(median_rate=_median_rate(ordinary["rate"], sci, readout)) if is_series else result


def _possible(algorithm: str, groups: int) -> str:
    """Return the algorithm for ramps of this many groups."""
    return "two-point" if algorithm in _ALGORITHMS and groups < FEWEST_GROUPS else algorithm


def _default_threshold(algorithm: str, groups: int) -> float:
    """Return the default threshold [sigma] for ramps of this many groups."""
    if _possible(algorithm, groups) == "likelihood":
        return likelihood_threshold(groups - 1)
    return _TWO_POINT_THRESHOLD if groups > 2 else _TWO_GROUP_THRESHOLD


def _jumps_a_second(count: xr.DataArray, groupdq: xr.DataArray, group_time: float) -> xr.DataArray:
    rate = event_rate(count, groupdq, group_time) * 1e3
    rate.attrs = {"long_name": "jumps found, per second and 1000 pixels", "units": "1/s", "keyword": "PRIMECRS"}
    return rate


def _median_rate(rate_per_group: xr.DataArray, sci: xr.DataArray, readout: Readout) -> xr.DataArray:
    """Return the rate that integrations share [DN/s], in the chunks of the ramps."""
    rate = chunk_like(rate_per_group, sci.isel(integration=0, group=0)) / np.float32(readout.group_time)
    rate.attrs = {"units": "DN/s", **variable_attributes("median_rate")}
    return rate


def why_no_jumps(exposure: xr.Dataset, minimum_groups: int = 2) -> str | None:
    """Return why jumps cannot be found in an exposure, or None if they can."""
    groups = exposure.sizes["group"]
    least = max(2 if exposure.sizes["integration"] > 1 else 3, int(minimum_groups))
    return None if groups >= least else f"{groups} groups per integration, at least {least} are needed"


def event_rate(count: xr.DataArray, groupdq: xr.DataArray, group_time: float) -> xr.DataArray:
    """Return the number of jumps, or of snowballs, per second and pixel.

    Parameters
    ----------
    count : DataArray
        Number of jumps or snowballs in the whole exposure, a scalar.
    groupdq : DataArray
        (integration, group, row, column) uint8. The time of groups that are DO_NOT_USE in the whole frame does not
        count. The first group of an integration does not count either.
    group_time : float
        Time between groups [s].

    Returns
    -------
    DataArray
        Scalar float64 [1/s], lazy if the input is; NaN if no group counts.
    """
    lost = ((groupdq & np.uint8(GroupFlag.DO_NOT_USE)) != 0).all(("row", "column")).sum()
    groups = groupdq.sizes["integration"] * (groupdq.sizes["group"] - 1) - lost
    pixels = groupdq.sizes["row"] * groupdq.sizes["column"]
    return (count / (group_time * pixels * groups.where(groups > 0))).astype(np.float64)


def _median(image: xr.DataArray) -> xr.DataArray:
    """Return the median of the values of an image that are not NaN, a lazy scalar."""
    outputs: dict[str, Any] = {"median": ((), np.float64)}
    return map_blocks(np.nanmedian, one_chunk(image, *IMAGE), core=IMAGE, outputs=outputs)["median"]
