"""Subtract the superbias."""

import xarray as xr

from nsxr.model.declarations import Needs, step
from nsxr.model.history import record
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["subtract_superbias"]


@step("superbias", references=[Needs("superbias")])
def subtract_superbias(exposure: xr.Dataset, superbias: xr.Dataset) -> xr.Dataset:
    """Subtract the superbias from every group.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], ``pixeldq`` (row, column).
    superbias : Dataset
        ``sci`` (row, column) float32 [DN], NaN where unknown, and ``dq``.

    Returns
    -------
    Dataset
        ``sci`` less the superbias (unchanged where the superbias is NaN); flags of the reference added to ``pixeldq``.
        The noise of the superbias is the same in all groups and cancels in slopes.
    """
    check(exposure, "sci", "pixeldq", units={"sci": "DN"})
    bias = match(superbias, exposure, "superbias")
    sci = exposure["sci"] - bias["sci"].fillna(0)
    return record(exposure, "superbias", [superbias], sci=sci, pixeldq=exposure["pixeldq"] | bias["dq"])
