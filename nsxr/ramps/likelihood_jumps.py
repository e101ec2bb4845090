"""Find jumps by the likelihood fit of a ramp."""

import numpy as np
import xarray as xr
from scipy.special import erfcinv, log_ndtr

from nsxr.compute.blocks import map_blocks
from nsxr.kernels.ramps.covariance import shared_part
from nsxr.kernels.ramps.jump import JumpSizes
from nsxr.kernels.ramps.likelihood_search import StepSearch, find_steps
from nsxr.kernels.sorting import Thresholds
from nsxr.model.dims import RAMP
from nsxr.model.readout import Readout

__all__ = ["FEWEST_GROUPS", "flag_by_likelihood", "likelihood_threshold", "step_search"]

FEWEST_GROUPS = 5
"""Least number of groups for the search. With three differences it cannot tell which one is a jump."""
_FALSE_RAMPS = 8e-4
"""Part of the ramps without a jump in which the search may find a jump, whatever their length."""


def likelihood_threshold(differences: int) -> float:
    """Return the default threshold [sigma] for ramps of this many differences."""
    tests = differences + (differences - 1) / 2  # a pair is tested together with its two differences
    return float(np.sqrt(2) * erfcinv(_FALSE_RAMPS / tests))


def step_search(thresholds: Thresholds, readout: Readout) -> StepSearch:
    """Return by how much chi square has to fall for a jump, from the thresholds in standard deviations."""
    shared = shared_part(readout.n_frames, readout.frame_time, readout.group_time)
    double = -2 * (np.log(2) + log_ndtr(-thresholds.four))  # as improbable with two degrees of freedom
    return StepSearch(readout.n_frames, shared, thresholds.four**2, float(double), thresholds.three, thresholds.two)


def flag_by_likelihood(
    ramps: tuple[xr.DataArray, xr.DataArray],
    gain: xr.DataArray,
    readnoise: xr.DataArray,
    rate: xr.DataArray | None,
    median_gain: xr.DataArray,
    search: StepSearch,
    sizes: JumpSizes,
) -> xr.DataArray:
    """Return the detection code of each sample, see :func:`nsxr.kernels.ramps.likelihood_search.find_steps`.

    Parameters
    ----------
    ramps : (sci, groupdq)
        Whole integrations in a chunk.
    gain, readnoise : DataArray
        (row, column) float32.
    rate : DataArray or None
        (row, column) float32 [DN per group], shared by several integrations.
    median_gain : DataArray
        Scalar that converts the sizes from DN to electrons.
    search : StepSearch
        Rules of the search.
    sizes : JumpSizes
        Sizes of jumps that flag more than their own group [DN].
    """
    arrays = [*ramps, median_gain, gain, readnoise, *([] if rate is None else [rate])]
    outputs = {"code": (RAMP, np.uint8)}
    found = map_blocks(_find, *arrays, core=("group", "column"), outputs=outputs, search=search, sizes_in_dn=sizes)
    return found["code"]


def _find(
    sci: np.ndarray,
    groupdq: np.ndarray,
    median_gain: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    rate: np.ndarray | None = None,
    *,
    search: StepSearch,
    sizes_in_dn: JumpSizes,
) -> np.ndarray:
    given = np.empty((0, 0), np.float32) if rate is None else rate
    return find_steps(sci, groupdq, gain, readnoise, given, search, sizes_in_dn.in_electrons(float(median_gain)))
