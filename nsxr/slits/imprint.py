"""Subtract an imprint: an exposure with all shutters closed, which shows the light that leaks through the MSA."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from nsxr.associate.backgrounds import choose_imprint
from nsxr.compute.blocks import unlabelled
from nsxr.compute.layouts import chunk_like
from nsxr.errors import DegradedResultWarning
from nsxr.model.declarations import step
from nsxr.model.dims import image_dims
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about
from nsxr.model.variables import check
from nsxr.slits.background import mean_over_integrations, require_alike

__all__ = ["subtract_imprint"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)


@step("imprint_subtract", given=["imprints"])
def subtract_imprint(exposure: xr.Dataset, *, imprints: Sequence[xr.Dataset]) -> xr.Dataset:
    """Subtract the imprint that belongs to an exposure of shutters or of the IFU, and add its variance.

    Parameters
    ----------
    exposure : Dataset
        Count rates: ``sci``, ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), with or without integration in
        front.
    imprints : sequence of Dataset
        Count rates of imprints. :func:`nsxr.associate.backgrounds.choose_imprint` chooses one by the headers.

    Returns
    -------
    Dataset
        ``sci`` minus the imprint, and each kind of variance plus that of the imprint. ``sci`` is NaN and DO_NOT_USE is
        set where the imprint has no value. Lazy if one of them is. If no imprint fits, the exposure comes back with a
        record of the reason.

    Raises
    ------
    ModelError
        If the imprint has another detector, filter, grating, position of the grating wheel or unit, or does not cover
        the exposure.

    Warns
    -----
    DegradedResultWarning
        If no imprint fits.

    Notes
    -----
    The observatory's pipeline leaves the variances as they are, and copies all flags of the imprint.

    Examples
    --------
    >>> rates = subtract_imprint(rates, imprints=[nsxr.open_exposure("..._rate.fits")])  # doctest: +SKIP
    """
    check(exposure, "sci", "dq", "var_poisson", "var_rnoise")
    number = choose_imprint(exposure.attrs, [one.attrs for one in imprints])
    if number is None:
        reason = f"none of {len(imprints)} imprints is of the same kind of target, observation and dither"
        warnings.warn(
            about(exposure.attrs, f"no imprint was subtracted: {reason}"), DegradedResultWarning, stacklevel=2
        )
        return record_skip(exposure, "imprint_subtract", reason)
    imprint = imprints[number]
    require_alike(exposure, [imprint])
    mean = mean_over_integrations(imprint)
    mean = mean.sel({dim: exposure[dim].values for dim in image_dims(exposure)})
    sci, dq = unlabelled(exposure["sci"]), unlabelled(exposure["dq"])
    own = {name: chunk_like(unlabelled(mean[name]), sci) for name in ("sci", "dq", "var_poisson", "var_rnoise")}
    is_lost = ((own["dq"] & _DO_NOT_USE) > 0) | own["sci"].isnull()
    return record(
        exposure,
        "imprint_subtract",
        parameters={"imprint": str(imprint.attrs.get("filename", "in memory"))},
        sci=sci - own["sci"].where(~is_lost),
        dq=(dq | is_lost.astype(np.uint32) * _DO_NOT_USE).transpose(*dq.dims),
        var_poisson=unlabelled(exposure["var_poisson"]) + own["var_poisson"],
        var_rnoise=unlabelled(exposure["var_rnoise"]) + own["var_rnoise"],
    )
