"""Draw exposures with noise, jumps and flags, for hypothesis. Only this module needs that library."""

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from nsxr.model.dq import GroupFlag
from nsxr.testing.exposures import FULL_FRAME, make_exposure

__all__ = ["exposures"]

NOISE, RATE, LOST, HIT = 10.0, 20.0, 0.02, 0.01
"""Read noise and rate [DN per group], and the fractions of samples that are lost or hit by a cosmic ray."""


@st.composite
def exposures(
    draw: st.DrawFn,
    /,
    integrations: tuple[int, int] = (1, 3),
    groups: tuple[int, int] = (3, 12),
    rows: int = 6,
    columns: int = 8,
    saturation: float = 1500.0,
    **keywords: object,
) -> xr.Dataset:
    """Draw exposures with noise, cosmic rays, saturated and lost samples.

    Parameters
    ----------
    integrations, groups : pair of int
        Smallest and largest number.
    rows, columns : int
        Size of the exposure.
    saturation : float
        Level [DN] above which groups are flagged as saturated.
    **keywords
        Header keywords, see :func:`nsxr.testing.make_header`.
    """
    size = draw(st.integers(*integrations)), draw(st.integers(*groups)), rows, columns
    random = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    sci = random.normal(RATE, NOISE, size).cumsum(axis=1)
    sci += np.cumsum((random.random(size) < HIT) * random.exponential(500, size), axis=1)
    flags = np.where(random.random(size) < LOST, GroupFlag.DO_NOT_USE, 0)
    flags |= np.where(np.maximum.accumulate(sci > saturation, axis=1), GroupFlag.SATURATED, 0)
    return make_exposure(sci, flags, **{**FULL_FRAME, **keywords})
