"""Average background-subtracted exposures on the same pixels, with the noise of backgrounds that they share."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.errors import ModelError, ParameterError
from nsxr.model.dims import image_dims
from nsxr.model.dq import PixelFlag
from nsxr.model.history import combined_attributes, members_of, record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import check

__all__ = ["average_exposures"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)


def average_exposures(exposures: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the mean of exposures on the same pixels, with the correct variance of backgrounds that they share.

    Parameters
    ----------
    exposures : sequence of Dataset
        Background-subtracted by :func:`subtract_background`, of the same shape and labels, without integrations.

    Returns
    -------
    Dataset
        ``sci`` weighted by exposure time (EFFEXPTM), without pixels flagged DO_NOT_USE; ``var_poisson``, ``var_rnoise``
        and ``dq`` of the pixels that contribute. Variances are the sum of ``w**2 * v`` over exposures plus the sum of
        ``(sum of w)**2 * b`` over groups of exposures that share a background. w are weights, v is the variance of an
        exposure without its background, and b is the variance of the shared background.

    Raises
    ------
    ModelError
        If labels or units differ.
    """
    each = list(exposures)
    if not each:
        raise ParameterError("no exposure given")
    require_distinct(each)
    dims = image_dims(each[0])
    for exposure in each:
        check(exposure, "sci", "dq", "var_poisson", "var_rnoise")
        if any(not exposure[dim].equals(each[0][dim]) for dim in dims) or "integration" in exposure.dims:
            raise ModelError("exposures are not on the same pixels; average spectra instead")
        if exposure["sci"].attrs.get("units") != each[0]["sci"].attrs.get("units"):
            raise ModelError("exposures have different units")
    times = [SlitHeader.of(exposure).exposure_time for exposure in each]
    times = times if min(times) > 0 else [1.0] * len(each)
    used = [((e["dq"] & _DO_NOT_USE) == 0) & e["sci"].notnull() for e in each]
    weights = [use * time for use, time in zip(used, times, strict=True)]
    total = sum(weights[1:], weights[0])
    share = [weight / total.where(total > 0) for weight in weights]
    zero = xr.zeros_like(share[0])
    mean = sum((s * e["sci"].fillna(0.0) for s, e in zip(share, each, strict=True)), zero)
    parts = [part for part in ("var_poisson", "var_rnoise") if all(part in e for e in each)]
    plain = {p: sum((s**2 * e[p].fillna(0.0) for s, e in zip(share, each, strict=True)), zero) for p in parts}
    sums = sum(plain.values(), zero)
    groups: dict[tuple[str, ...] | None, list[int]] = {}
    for number, exposure in enumerate(each):
        if "var_background" in exposure:  # exposures with the same members share its noise
            groups.setdefault(SlitHeader.of(exposure).background_members, []).append(number)
    extra = zero
    for members in groups.values():
        common = each[members[0]]["var_background"]
        joint = sum((share[i] for i in members), zero) ** 2
        extra = extra + (joint - sum((share[i] ** 2 for i in members), zero)) * common
    factor = (sums + extra) / sums.where(sums > 0)
    flags = [e["dq"].where(use, np.uint32(0)).astype(np.uint32) for e, use in zip(each, used, strict=True)]
    combined = flags[0]
    for other in flags[1:]:
        combined = combined | other
    combined = combined | ((total == 0).astype(np.uint32) * _DO_NOT_USE)
    kept = each[0].drop_vars([name for name in each[0].data_vars if name not in ("sci", "dq", *parts)])
    kept.attrs = combined_attributes(each)
    return record(
        kept,
        "average_exposures",
        (),
        {"exposures": len(each), "members": members_of(each)},
        sci=mean.where(total > 0),
        dq=combined,
        drop=(),
        attrs=None,
        units=None,
        **{part: (plain[part] * factor).where(total > 0) for part in parts},
    )
