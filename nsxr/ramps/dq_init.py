"""Start the data-quality arrays from the bad-pixel mask."""

import numpy as np
import xarray as xr

from nsxr.model.declarations import Needs, step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["initialize_dq"]


@step("dq_init", references=[Needs("mask")], is_essential=True)
def initialize_dq(
    exposure: xr.Dataset, mask: xr.Dataset, *, user_supplied_dq: xr.DataArray | None = None
) -> xr.Dataset:
    """Create ``pixeldq`` and ``groupdq`` from the bad-pixel mask.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN]; ``pixeldq`` and ``groupdq`` if they exist already.
    mask : Dataset
        ``dq`` (row, column) uint32.
    user_supplied_dq : DataArray, optional
        (row, column) flags of the exposure's pixels, which are combined with the flags of the mask.

    Returns
    -------
    Dataset
        With ``pixeldq`` and ``groupdq``. Of the flags of the mask, only DO_NOT_USE is copied to all groups. Flags that
        existed before are kept.
    """
    check(exposure, "sci", units={"sci": "DN"})
    dq = match(mask, exposure, "mask")["dq"]
    if user_supplied_dq is not None:
        dq = dq | user_supplied_dq.astype(np.uint32)
    do_not_use = np.uint32(PixelFlag.DO_NOT_USE.value)
    pixeldq = exposure["pixeldq"] | dq if "pixeldq" in exposure else dq
    sci = exposure["sci"]
    groupdq = exposure.get("groupdq", xr.zeros_like(sci, dtype=np.uint8)) | (dq & do_not_use).astype(np.uint8)
    parameters = {} if user_supplied_dq is None else {"user_supplied_dq": user_supplied_dq.name or "in memory"}
    return record(exposure, "dq_init", [mask], parameters, pixeldq=pixeldq, groupdq=groupdq.transpose(*sci.dims))
