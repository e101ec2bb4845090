"""Choose the layout of an exposure in a pipeline, and decide whether to read its ramps twice to save memory."""

import xarray as xr

from nsxr.compute.layouts import is_kept, to_blocks, to_ramps
from nsxr.model.readout import Readout

__all__ = ["arranged", "exceeds_memory", "out_of_frames"]


def arranged(exposure: xr.Dataset, by_integration: bool) -> xr.Dataset:
    """Return a raw exposure in the layout for its corrections. Arrays that are not lazy do not change.

    Raw IRS2 exposures keep whole frames, because the Fourier transforms of their reference pixels need them.

    Parameters
    ----------
    exposure : Dataset
        Raw ramps.
    by_integration : bool
        Whether a step needs whole integrations. If none does, a chunk has all integrations of some rows, as the fit of
        a time series needs.
    """
    if Readout.of(exposure).is_irs2:
        return exposure
    return to_blocks(exposure) if by_integration else to_ramps(exposure)


def out_of_frames(dataset: xr.Dataset, raw: xr.Dataset) -> xr.Dataset:
    """Return a Dataset in chunks of whole integrations if it was made from raw IRS2 frames. Others do not change."""
    return to_blocks(dataset) if "science_row" in raw.coords else dataset


def exceeds_memory(exposure: xr.Dataset, ramps: xr.Dataset) -> bool:
    """Return whether a time series is too long to be in memory at once. Its ramps are then read a second time.

    Parameters
    ----------
    exposure : Dataset
        Raw exposure. IRS2 exposures are not read a second time, because their corrections cost too much.
    ramps : Dataset
        The same exposure, corrected.
    """
    is_series = ramps["sci"].chunks is not None and ramps.sizes["integration"] > 1
    if not is_series or Readout.of(exposure).is_irs2:
        return False
    return not is_kept(ramps["sci"].sizes)
