"""Fit slopes to ramps, by optimally weighted least squares or by likelihood."""

from functools import partial
from typing import Annotated, Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import unlabelled
from nsxr.compute.layouts import to_blocks, to_ramps
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.ramp_tile import SelectedGroups
from nsxr.model.dims import IMAGE
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Range, Unit
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.ramps.correlated_noise.frames import SERIES
from nsxr.ramps.slopes import fit_least_squares, fit_likelihood
from nsxr.references.match import match

__all__ = ["fit_algorithm", "fit_ramps"]

_ALGORITHMS = {"ols": "ols", "ols_c": "ols", "likelihood": "likelihood", "likely": "likelihood"}
"""Names of the algorithms, here and in ``jwst``."""
_OF_RAMPS = (
    "median_rate",
    "flicker_variance",
    "white_variance",
    "dark_level",
    "is_dark",
    "expected_signal",
    "flicker_variance_of_mean",
    "noise_correlation_of_mean",
)
_OF_INTEGRATIONS = ("noise_used", "noise_correlation")
"""What pixels share in single integrations of a time series, not in their mean."""
_Group = Annotated[int, Range(0, 65535)]
_UNITS = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}


def fit_ramps(
    exposure: xr.Dataset,
    readnoise: xr.Dataset,
    gain: xr.Dataset,
    *,
    algorithm: Annotated[str, Choices("ols", "likelihood", ols_c="ols", likely="likelihood")] = "likelihood",
    average_dark_current: xr.DataArray | float = 0.0,
    suppress_one_group: bool = True,
    firstgroup: _Group | None = None,
    lastgroup: _Group | None = None,
    reset_noise: Annotated[float, Range(0, 1e6), Unit("electron")] | None = None,
) -> xr.DataTree:
    """Fit the count rate of every pixel, per integration and for the whole exposure.

    With ``algorithm="likelihood"``, all differences of successive usable groups are fitted together, with the noise of
    each difference and the noise that it shares with its neighbours. A difference that leads to a JUMP_DET group is
    left out. With ``reset_noise``, the first group is fitted too, as a measurement of the charge since the reset.

    With ``algorithm="ols"``, as in the observatory's pipeline, a ramp is cut into segments of successive groups without
    flags. A segment may begin with a group that is flagged JUMP_DET and nothing else, because the charge of the cosmic
    ray is in that group already. Each segment of two or more groups gets a slope by weighted least squares, and slopes
    are averaged with the inverse of their read-noise variances.

    Groups flagged PERSISTENCE are used.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], corrected up to jump detection;
        ``groupdq`` uint8; ``pixeldq`` (row, column) uint32; ``median_rate`` (row, column) float32 [DN/s], if
        :func:`flag_jumps` has found it. With ``median_rate`` the integrations may be in any chunks; without it they are
        brought together in one chunk.
    readnoise : Dataset
        ``sci`` (row, column) float32 [DN]: noise of a difference of two single frames.
    gain : Dataset
        ``sci`` (row, column) float32 [electron/DN].
    algorithm : {"ols", "likelihood"}
        Weights of the groups: by the signal-to-noise ratio of a segment, or by the covariance of the differences.
        ``"OLS_C"`` and ``"LIKELY"``, the names in ``jwst``, are accepted too. Several integrations without
        ``median_rate``, for instance if the jump step was skipped, are fitted by ``"ols"``.
    average_dark_current : DataArray or float
        Dark current [electron/s] that was subtracted from the ramps but still adds photon noise; a number or (row,
        column). NaN and negative values count as 0.
    suppress_one_group : bool
        Whether ramps with a single good group get no rate. If not set, and always for integrations of one group, a ramp
        with no segment and a good first group gets a rate: the value of this group divided by its exposure time.
    firstgroup : int, optional
        First group to use, counted from 0; default all.
    lastgroup : int, optional
        Last group to use, counted from 0; default all. A number beyond the last group means the last group.
    reset_noise : float, optional
        Likelihood only: scatter of the level after a reset around the superbias that was subtracted. A ramp with a good
        first group then has a rate, also if it has no other good group, whatever ``suppress_one_group`` says. Rates of
        two or three bright groups become up to 9 % more precise; other rates hardly change. A cosmic ray in the first
        group then changes the rate more. Default: the level is unknown, and the first group alone is not a measurement.

    Returns
    -------
    DataTree
        Nodes ``rate`` (row, column) and ``rateints`` (integration, row, column), each with float32
        ``sci`` [DN/s], ``var_poisson``, ``var_rnoise`` [(DN/s)2] and uint32 ``dq``; by likelihood also float32
        ``chi_square`` of the differences that were fitted, with one degree of freedom less. Lazy if the exposure is.
        All variables are made in one pass over the ramps. A chunk has all integrations of some rows.

        ``dq`` starts as ``pixeldq`` and takes over JUMP_DET, SATURATED and PERSISTENCE from any group.
        Where there is no slope, ``sci`` and both variances are NaN and DO_NOT_USE is set; in ``rate`` this means that
        no integration has a slope. There is no slope for pixels that are DO_NOT_USE or SATURATED in ``pixeldq``, for
        ramps that are saturated from the first group, for ramps without two successive usable groups, and for pixels
        whose read noise or gain is not positive. If the gain is not positive, NO_GAIN_VALUE is set too.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If the algorithm is unknown, firstgroup and lastgroup leave fewer than two of several groups, or
        ``reset_noise`` is negative, not finite, or given for another algorithm.

    Notes
    -----
    With T the group time, g the gain, and r = readnoise / sqrt(2 NFRAMES) the noise of one group [DN], a
    segment of n groups whose signal rises by D electrons in all has ::

        S = D / sqrt((r g)^2 + D)
        w_i = |(i - m) / m|^P,  m = (n - 1) / 2

    as signal-to-noise ratio and weights, where P is 0, 0.4, 1, 3, 6, 10 for S below 5, 10, 20, 50, 100 and
    above. Its variances are ::

        var_rnoise  = 12 r^2 / (T^2 (n^3 - n))
        var_poisson = (max(M, 0) + dark / g) / (T g (n - 1))

    where M is ``median_rate``. In ramps from :func:`clean_flicker_noise`, M is ``expected_signal`` in pixels that see
    little light; by ``"ols"``, only if there is a ``median_rate`` for the others. Without it, M is a robust mean of the
    slopes of all integrations, in which an integration that deviates by five standard deviations does not count. For a
    single integration, M is the median difference of groups, divided by T. Differences that touch a DO_NOT_USE or
    SATURATED group or lead to a JUMP_DET group are left out. The dark current is divided by the gain because M is in
    DN/s. A first group alone, of exposure time t = (NFRAMES + 1) TFRAME / 2, has the variances 2 r^2 / t^2 and (M +
    dark / g) / (t g). For each of the two kinds, inverse variances of segments and of integrations are added.

    By likelihood, with a the signal per group, N frames per group and t, T the frame and the group time, the
    differences d [electron] have the covariance matrix ::

        C = a tridiagonal(q, 1 - 2 q, q) + (r g)^2 tridiagonal(-1, 2, -1),  q = (t / T) (N^2 - 1) / (6 N)

    and the slope is ``1' C^-1 d / (1' C^-1 1)`` with the variance ``1 / (1' C^-1 1)``, which is split into the parts
    of both matrices. For a single integration, a is the slope itself, found in two steps from the median difference.
    After the second step, the noise of a does not bias the slope to first order. For several integrations, a is M for
    all of them, so that the weights do not depend on the noise of an integration. Integrations are averaged with their
    inverse variances as weights. A reset noise s adds a first row to the matrices, for the signal of the first group,
    of exposure time t = e T. Its expected value is e times the slope. Its variance is ``a (e - q) + (r g)^2 + s^2``,
    and its covariance with the next difference is ``a q - (r g)^2``. The part of s counts as read noise.

    References
    ----------
    Fixsen et al. 2000, PASP 112, 1350: "Cosmic-Ray Rejection and Readout Efficiency for Large-Area Arrays".

    Robberto 2008, JWST-STScI-001490: "On the Optimal Strategy to Fit MULTIACCUM Ramps in the Presence of
    Cosmic Rays".

    Brandt 2024, PASP 136, 045004: "Optimal Fitting and Debiasing for Detectors Read Out Up-the-Ramp".

    Examples
    --------
    >>> tree = fit_ramps(exposure, references["readnoise"], references["gain"])  # doctest: +SKIP
    >>> tree["rate"]["sci"].plot()  # doctest: +SKIP
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    groups = exposure.sizes["group"]
    first, last = _selected_groups(groups, firstgroup, lastgroup)
    chosen = fit_algorithm(algorithm)
    if reset_noise is not None and not (chosen == "likelihood" and 0 <= reset_noise < np.inf):
        raise ParameterError(
            f"reset_noise is {reset_noise!r} with algorithm {algorithm!r}, expected None, or 0 or more electrons with "
            "algorithm 'likelihood'"
        )
    has_rate = "median_rate" in exposure
    if exposure.sizes["integration"] > 1 and not has_rate and reset_noise is None:
        # covariances from the noisy rate of each integration would give more weight to integrations with low rates
        chosen = "ols"
    readout = Readout.of(exposure)
    if has_rate:
        check(exposure, "median_rate", units={"median_rate": "DN/s"})
    exposure = to_blocks(exposure) if has_rate else to_ramps(exposure)
    gain_values = unlabelled(match(gain, exposure, "gain")["sci"])
    noise_values = unlabelled(match(readnoise, exposure, "readnoise")["sci"])
    if isinstance(average_dark_current, xr.DataArray):
        dark = unlabelled(average_dark_current).transpose(*IMAGE)
    else:
        dark = xr.full_like(gain_values, average_dark_current, dtype=np.float32).transpose(*IMAGE)
    images = [exposure["pixeldq"], gain_values, noise_values, dark]
    images += _known_rate(exposure, has_rate or chosen == "likelihood", readout.group_time)
    suppress = bool(suppress_one_group) and groups > 1 and reset_noise is None
    times = readout.group_time, readout.first_group_time
    selected = SelectedGroups(*times, readout.n_frames, first, last, suppress)
    ramps = exposure["sci"], exposure["groupdq"]
    if chosen == "likelihood":
        rate, rateints = fit_likelihood(*ramps, images, selected, readout.frame_time, reset_noise)
    else:
        rate, rateints = fit_least_squares(*ramps, images, selected)
    parameters: dict[str, Any] = {
        "algorithm": chosen,
        "suppress_one_group": suppress_one_group,
        "firstgroup": firstgroup,
        "lastgroup": lastgroup,
        "rescale_read_noise": "scale" in readnoise,
    }
    if chosen == "likelihood":
        parameters["reset_noise"] = reset_noise
    if "group" in exposure.indexes and groups < readout.n_groups:
        parameters["groups"] = exposure.indexes["group"].tolist()  # the groups that were chosen
    if not isinstance(average_dark_current, xr.DataArray):
        parameters["average_dark_current"] = float(average_dark_current)
    product = partial(_product, exposure, [readnoise, gain], parameters)
    return xr.DataTree.from_dict(
        {"rate": product({"integration", "group"}, rate), "rateints": product({"group"}, rateints)}
    )


def fit_algorithm(name: str) -> str:
    """Return ``"ols"`` or ``"likelihood"`` for any name that :func:`fit_ramps` takes, or raise ParameterError."""
    try:
        return _ALGORITHMS[str(name).lower()]
    except KeyError:
        raise ParameterError(f"algorithm is {name!r}, expected one of {', '.join(_ALGORITHMS)}") from None


def _known_rate(exposure: xr.Dataset, may_be_partial: bool, group_time: float) -> list[xr.DataArray]:
    """Return the rate for the photon noise, NaN where the fit has to find it; nothing if it is not known anywhere.

    In single pixels with little light, the photon noise of their own rates would be that of their noise.
    """
    found = exposure.get("median_rate")
    if may_be_partial and "expected_signal" in exposure:
        expected = unlabelled(exposure["expected_signal"]) / np.float32(group_time)
        found = expected if found is None else expected.fillna(unlabelled(found))
    return [] if found is None else [found]


def _selected_groups(groups: int, firstgroup: int | None, lastgroup: int | None) -> tuple[int, int]:
    """Return the first and the last group to use."""
    first = 0 if firstgroup is None else int(firstgroup)
    last = groups - 1 if lastgroup is None else min(int(lastgroup), groups - 1)
    if first < 0 or last < 0 or (first >= last and groups > 1) or first > last:
        raise ParameterError(
            f"firstgroup={firstgroup} and lastgroup={lastgroup} leave fewer than two of {groups} groups, "
            "counted from 0; a slope needs two"
        )
    return first, last


def _product(
    exposure: xr.Dataset,
    references: list[xr.Dataset],
    parameters: dict[str, Any],
    lost: set[str],
    fitted: dict[str, Any],
) -> xr.Dataset:
    """Return a product: the fit, and the variables of the exposure whose dims the product has."""
    gone = [name for name, array in exposure.variables.items() if name != "sci" and lost & set(array.dims)]
    if "integration" in lost and exposure.sizes["integration"] >= SERIES:
        gone += _OF_INTEGRATIONS
    base = exposure.drop_vars([*gone, "pixeldq", *_OF_RAMPS], errors="ignore")
    return record(base, "ramp_fit", references, parameters, _UNITS, **fitted)
