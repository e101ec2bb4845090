"""Add missing background variances to nod-subtracted products."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.errors import ModelError, ParameterError
from nsxr.model.history import record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import check_slit

__all__ = ["restore_background_variance"]

_PARTS = ("var_poisson", "var_rnoise")


def restore_background_variance(slits: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Add to nod-subtracted slits the variances of the other nods, which were their background.

    The observatory's pipeline subtracts the mean of the other nods from each nod and does not change the variances
    (known issue NS-G09). Error bars are too small by the square root of two with one other nod, and by 1.22 with two.
    The products of the other nods have the missing variances, at the same pixels of the detector.

    Parameters
    ----------
    slits : sequence of Dataset
        All nods of one slit, as from :func:`nsxr.open_slits`: images with ``sci``, ``var_poisson`` and ``var_rnoise``,
        all in the same units.

    Returns
    -------
    list of Dataset
        The slits with ``var += sum(var of the others) / (n - 1)**2`` for both kinds of variance, and
        ``var_background``, the sum of the added variances. If another nod has no variance at a pixel, the mean of the
        nods that have one is used for it. The flux calibration of a pixel depends on the nod by a few percent; this is
        neglected.

    Raises
    ------
    ParameterError
        If there are fewer than two slits, or an exposure comes twice.
    ModelError
        If a slit has background variances already, no background was subtracted (S_BKDSUB), units or slits differ.
    """
    each = list(slits)
    if len(each) < 2:
        raise ParameterError(f"{len(each)} nods given; the variance of a background needs at least one other nod")
    require_distinct(each)
    headers = [SlitHeader.of(slit) for slit in each]
    names = [header.called(f"slit {number}") for number, header in enumerate(headers, start=1)]
    problems = []
    for slit, header, name in zip(each, headers, names, strict=True):
        check_slit(slit, "sci", *_PARTS)
        if "var_background" in slit or header.background_members is not None:
            problems.append(f"{name} has variances of its background already")
        if not header.has_nods_subtracted:
            problems.append(f"{name} has S_BKDSUB {slit.attrs.get('S_BKDSUB')!r}, expected 'COMPLETE'")
        if header.name != headers[0].name:
            problems.append(f"{name} has SLTNAME {header.name!r}, the first has {headers[0].name!r}")
        if header.detector != headers[0].detector:
            problems.append(f"{name} has DETECTOR {header.detector!r}, the first has {headers[0].detector!r}")
        if slit["sci"].attrs.get("units") != each[0]["sci"].attrs.get("units"):
            problems.append(f"{name} is in {slit['sci'].attrs.get('units')!r}, the first is in another unit")
    if problems:
        raise ModelError("; ".join(problems))
    results = []
    for number, slit in enumerate(each):
        added = {}
        for part in _PARTS:
            others = [
                other[part].reset_coords(drop=True).reindex_like(slit[part], fill_value=np.nan)
                for j, other in enumerate(each)
                if j != number
            ]
            stacked = xr.concat(others, "nod")
            known = stacked.notnull().sum("nod")
            total = stacked.fillna(0.0).sum("nod")
            added[part] = (total / known.where(known > 0) / len(others)).fillna(0.0)
        members = [name for j, name in enumerate(names) if j != number]
        results.append(
            record(
                slit,
                "restore_background_variance",
                parameters={"nods": len(each)},
                attrs={"background_members": json.dumps(members)},
                var_poisson=slit["var_poisson"] + added["var_poisson"],
                var_rnoise=slit["var_rnoise"] + added["var_rnoise"],
            ).assign(var_background=(added["var_poisson"] + added["var_rnoise"]).astype(np.float32))
        )
    return results
