"""The layout in which an exposure goes through a pipeline, and whether a step has to read it a second time."""

import xarray as xr

from nsxr.compute.layouts import is_kept, to_blocks, to_ramps
from nsxr.model.readout import Readout

__all__ = ["arranged", "exceeds_memory", "out_of_frames"]


def arranged(exposure: xr.Dataset, by_integration: bool) -> xr.Dataset:
    """Return a raw exposure in the layout in which a pipeline corrects it; arrays that are not lazy stay as they are.

    Raw IRS2 exposures stay in frames, for the transforms of their reference pixels.

    Parameters
    ----------
    exposure : Dataset
        Raw ramps.
    by_integration : bool
        Whether a step needs whole integrations. If none does, all integrations of some rows come into one chunk, as
        the fit of a time series needs them.
    """
    if Readout.of(exposure).is_irs2:
        return exposure
    return to_blocks(exposure) if by_integration else to_ramps(exposure)


def out_of_frames(dataset: xr.Dataset, raw: xr.Dataset) -> xr.Dataset:
    """Return what was made of raw IRS2 frames in whole integrations; other exposures keep their layout."""
    return to_blocks(dataset) if "science_row" in raw.coords else dataset


def exceeds_memory(exposure: xr.Dataset, ramps: xr.Dataset) -> bool:
    """Whether a time series is so long that it has to be read a second time, instead of being kept in memory.

    Parameters
    ----------
    exposure : Dataset
        As opened. IRS2 exposures are not read again: their corrections cost too much.
    ramps : Dataset
        The same, corrected.
    """
    is_series = ramps["sci"].chunks is not None and ramps.sizes["integration"] > 1
    if not is_series or Readout.of(exposure).is_irs2:
        return False
    return not is_kept({str(dim): size for dim, size in ramps["sci"].sizes.items()})
