"""Subtract backgrounds: other nods or dedicated exposures, with their uncertainties."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.slits.background import clipped_mean
from nsxr.model.declarations import step
from nsxr.model.dims import image_dims
from nsxr.model.dq import PixelFlag
from nsxr.model.history import combined_attributes, members_of, record
from nsxr.model.keywords import read
from nsxr.model.parameters import Choices
from nsxr.model.provenance import merged
from nsxr.model.variables import FACTOR_VARIANCES, check, variable_attributes, variances_of
from nsxr.slits.places import dither_of

__all__ = ["combine_backgrounds", "mean_over_integrations", "require_alike", "subtract_background"]

Method = Annotated[str, Choices("optimal", "jwst", peer="jwst")]
_LEVELS = {"optimal": 4.0, "jwst": 3.0}
"""Default limit of clipping of each method, in standard deviations."""
_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_MOST_BITS = 8
"""Largest number of backgrounds for which ``contributing`` is recorded."""
_SAME = ("DETECTOR", "FILTER", "GRATING")
_TILTS = ("GWA_XTIL", "GWA_YTIL")
_TILT_TOLERANCE = 1e-8


def _name(dataset: xr.Dataset, number: int) -> str:
    return str(dataset.attrs.get("filename", f"background {number + 1}"))


def require_alike(science: xr.Dataset, backgrounds: Sequence[xr.Dataset]) -> None:
    """Raise ModelError if a background does not match this exposure. The message lists all differences."""
    problems = []
    dims = image_dims(science)
    for number, background in enumerate(backgrounds):
        name = _name(background, number)
        check(background, "sci", "dq", "var_poisson", "var_rnoise")
        if image_dims(background) != dims:
            problems.append(f"{name} has dims {background['sci'].dims}, the science {science['sci'].dims}")
            continue
        for key in _SAME:
            if background.attrs.get(key) != science.attrs.get(key):
                problems.append(
                    f"{name} has {key} {background.attrs.get(key)!r}, the science {science.attrs.get(key)!r}"
                )
        for key in _TILTS:
            one, other = (read(each.attrs, key, matters=False) for each in (science, background))
            if (one is None) != (other is None) or (one is not None and abs(one - other) > _TILT_TOLERANCE):
                problems.append(f"{name} has the grating wheel at {key} {other}, the science at {one}")
        if background["sci"].attrs.get("units") != science["sci"].attrs.get("units"):
            units = background["sci"].attrs.get("units")
            problems.append(f"{name} is in {units!r}, the science in {science['sci'].attrs.get('units')!r}")
        for dim in dims:
            if not np.isin(science[dim].values, background[dim].values).all():
                problems.append(f"{name} does not cover the science along {dim}")
    if problems:
        raise ModelError("; ".join(problems))


def mean_over_integrations(exposure: xr.Dataset) -> xr.Dataset:
    """Return the mean of usable pixels over integrations, with each kind of variance. An image is not changed."""
    if "integration" not in exposure.dims:
        return exposure
    usable = ((exposure["dq"] & _DO_NOT_USE) == 0) & exposure["sci"].notnull()
    count = usable.sum("integration")
    parts = {name: exposure[name].where(usable).sum("integration") for name in ("sci", *variances_of(exposure))}
    known = count.where(count > 0)
    mean = {name: (part / (known if name == "sci" else known**2)).astype(np.float32) for name, part in parts.items()}
    flags = (count == 0).astype(np.uint32) * _DO_NOT_USE
    result = exposure.drop_dims("integration").assign({**mean, "dq": flags})
    result["sci"].attrs = exposure["sci"].attrs
    return result


def combine_backgrounds(
    backgrounds: Sequence[xr.Dataset], *, method: Method = "optimal", sigma: float | None = None
) -> xr.Dataset:
    """Return the mean of background exposures, with its variances.

    Parameters
    ----------
    backgrounds : sequence of Dataset
        ``sci``, ``dq``, ``var_poisson``, ``var_rnoise``, with or without ``var_flat``; count rates (row, column) or
        slits, see :mod:`nsxr.slits.collection`. Integrations are averaged first.
    method : {"optimal", "jwst"}
        ``optimal``: the mean is weighted by exposure time (EFFEXPTM). Pixels are left out that have DO_NOT_USE, or that
        differ from the other exposures by more than ``sigma`` standard deviations of their known noise. Variances are
        not used as weights, because noisy variances would prefer low values. ``jwst``: the unweighted mean, clipped at
        ``sigma`` times the scatter of the values, as in the observatory's pipeline. ``peer`` is an older name of
        ``jwst``.
    sigma : float, optional
        Limit of clipping, 0 for none. By default 4, or 3 for ``jwst``. At 3, no value is clipped if there are fewer
        than 11 values.

    Returns
    -------
    Dataset
        ``sci``; its variances, each kind ``sum(weight**2 * variance)``; ``dq``, the flags of the exposures that
        contribute, and DO_NOT_USE where there are none; ``n_contributing`` uint8; of eight backgrounds at
        most, ``contributing`` uint8, a bit for each one that contributes. Attribute ``background_members``:
        names of the exposures. Lazy if one of them is.

    Raises
    ------
    ModelError
        If exposures do not match.
    ParameterError
        If there is none, an exposure comes twice, or a parameter is out of its range.
    """
    if not backgrounds:
        raise ParameterError("no background given")
    method = _method(method)
    threshold = _LEVELS[method] if sigma is None else float(sigma)
    if threshold < 0:
        raise ParameterError(f"sigma is {sigma}, expected a positive number, or 0 for no clipping")
    first = backgrounds[0]
    require_alike(first, backgrounds)
    require_distinct(backgrounds)
    dims = image_dims(first)
    each = [mean_over_integrations(background).sel({d: first[d].values for d in dims}) for background in backgrounds]
    parts = [part for part in variances_of(each[0]) if all(part in background for background in each)]
    times = np.array([read(background.attrs, "EFFEXPTM", matters=False) for background in backgrounds])
    weights = times if method == "optimal" and (times > 0).all() else np.ones(len(each))

    def stack(name: str) -> xr.DataArray:
        arrays = [chunk_like(unlabelled(background[name]), unlabelled(each[0]["sci"])) for background in each]
        return one_chunk(xr.concat(arrays, "exposure"), "exposure")

    arrays = [stack(name) for name in ("sci", "dq", *parts)]
    own: dict[str, type[np.generic]] = {"sci": np.float32, "dq": np.uint32, "n_contributing": np.uint8}
    own["contributing"] = np.uint8
    found = map_blocks(
        _combine_block,
        *arrays,
        core=("exposure",),
        outputs={name: (dims, dtype) for name, dtype in (own | dict.fromkeys(parts, np.float32)).items()},
        weights=weights,
        threshold=threshold,
        clips_by_scatter=method == "jwst",
    )
    result = xr.Dataset(
        found,
        coords=first[list(dims)].coords,
        attrs={
            **combined_attributes(backgrounds),
            "background_members": json.dumps([_name(b, i) for i, b in enumerate(backgrounds)]),
            "background_dithers": json.dumps([dither_of(background.attrs) for background in backgrounds]),
        },
    )
    for name in ("sci", "dq", *parts):
        result[name].attrs = dict(first[name].attrs)
    result["n_contributing"].attrs = variable_attributes("n_contributing")
    if len(each) > _MOST_BITS:
        result = result.drop_vars("contributing")
    given = {"method": method, "sigma": threshold, "members": members_of(backgrounds)}
    return record(result, "combine_backgrounds", parameters=given)


def _method(method: str) -> Literal["optimal", "jwst"]:
    """Return the current name of a method."""
    if method == "optimal":
        return "optimal"
    if method in ("jwst", "peer"):
        return "jwst"
    raise ParameterError(f"method is {method!r}, expected optimal or jwst")


def _combine_block(
    sci: np.ndarray,
    dq: np.ndarray,
    *variances: np.ndarray,
    weights: np.ndarray,
    threshold: float,
    clips_by_scatter: bool,
) -> tuple[np.ndarray, ...]:
    n, shape = sci.shape[0], sci.shape[1:]
    values = sci.reshape(n, -1).astype(np.float64)
    kinds = [part.reshape(n, -1).astype(np.float64) for part in variances]
    finite = np.isfinite(values)
    if clips_by_scatter:
        good = finite.copy()
        while threshold > 0:
            count = np.maximum(good.sum(0), 1)
            centre = _median(values, good)
            mean = np.where(good, values, 0.0).sum(0) / count
            scatter = np.sqrt(np.where(good, (values - mean) ** 2, 0.0).sum(0) / count)
            kept = good & (np.abs(values - centre) <= threshold * scatter)
            if (kept == good).all():
                break
            good = kept
        factors = good / np.maximum(good.sum(0), 1)
        mean = np.where(good.any(0), np.where(good, values, 0.0).sum(0) / np.maximum(good.sum(0), 1), 0.0)
        flags = np.bitwise_or.reduce(dq.reshape(n, -1), axis=0)
    else:
        # the photon noise of a value depends on the value, so each exposure gets the mean variance of all
        good = finite & ((dq.reshape(n, -1) & _DO_NOT_USE) == 0) & np.all([np.isfinite(k) for k in kinds[:2]], axis=0)
        time = weights / weights.mean()
        photons = np.where(good, kinds[0] * time[:, None], 0.0).sum(0) / np.maximum(good.sum(0), 1)
        known = photons / time[:, None] + kinds[1]
        mean, factors = np.empty(values.shape[1]), np.empty_like(values)
        clipped_mean(np.where(good, values, 0.0), known, weights.astype(np.float64), good, threshold, mean, factors)
        contributed = factors > 0
        flags = np.bitwise_or.reduce(np.where(contributed, dq.reshape(n, -1), np.uint32(0)), axis=0)
        flags = np.where(contributed.any(0), flags, _DO_NOT_USE).astype(np.uint32)
    sums = [np.where(factors > 0, factors**2 * np.where(np.isfinite(kind), kind, 0.0), 0.0).sum(0) for kind in kinds]
    count = (factors > 0).sum(0)
    bits = ((factors[:_MOST_BITS] > 0) << np.arange(min(n, _MOST_BITS))[:, None]).sum(0)
    return tuple(
        np.asarray(array).reshape(shape).astype(dtype)
        for array, dtype in zip(
            (mean, flags, count, bits, *sums),
            (np.float32, np.uint32, np.uint8, np.uint8, *[np.float32] * len(sums)),
            strict=True,
        )
    )


def _median(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the median of good values along the first axis; 0 where there is none."""
    count = good.sum(0)
    ranked = np.sort(np.where(good, values, np.finfo(float).max / 4), axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    at = np.arange(values.shape[1])
    return np.where(count > 0, 0.5 * (ranked[low, at] + ranked[high, at]), 0.0)


@step("bkg_subtract")
def subtract_background(
    science: xr.Dataset,
    backgrounds: Sequence[xr.Dataset] | xr.Dataset,
    *,
    method: Method = "optimal",
    sigma: float | None = None,
) -> xr.Dataset:
    """Subtract the mean of background exposures, and add its variance.

    Parameters
    ----------
    science : Dataset
        ``sci``, ``dq``, ``var_poisson``, ``var_rnoise``, with or without ``var_flat``: count rates or one slit, with or
        without integration in front.
    backgrounds : sequence of Dataset, or Dataset
        Exposures, as for :func:`combine_backgrounds`, or the result of this function. They have to cover the science
        exposure; pixels outside it are cut off by label.
    method, sigma
        See :func:`combine_backgrounds`. With ``jwst`` the variances of the science do not change, and the science gets
        the flags of all backgrounds, as in the observatory's pipeline (known issue NS-G09).

    Returns
    -------
    Dataset
        ``sci`` minus the background, and each variance plus that of the background. ``var_background`` is the sum of
        the variances of the background. In calibrated slits, ``var_photom`` and other variances of factors are those
        of the light that is left. Exposures with the same ``background_members`` (attribute) share this noise,
        see :func:`average_exposures`. Where no background contributes, ``sci`` is NaN and DO_NOT_USE is set. Flags of
        backgrounds are not copied, because they do not describe the science. ``subtracted`` is ``contributing`` of the
        backgrounds. S_BKDSUB is COMPLETE.

    Raises
    ------
    ModelError
        If backgrounds have another detector, filter, grating, position of the grating wheel or unit, or do not cover
        the science. The message lists all problems.
    ParameterError
        If a parameter is out of its range.

    Notes
    -----
    ``var += sum(weight**2 * var of a background)`` for each kind; the weights of a pixel add up to one.
    """
    check(science, "sci", "dq", "var_poisson", "var_rnoise")
    method = _method(method)
    dims = image_dims(science)
    if isinstance(backgrounds, xr.Dataset):
        backgrounds = [backgrounds]
    require_alike(science, backgrounds)
    require_distinct([science, *backgrounds])
    combined = len(backgrounds) == 1 and "n_contributing" in backgrounds[0]
    mean = backgrounds[0] if combined else combine_backgrounds(backgrounds, method=method, sigma=sigma)
    mean = mean.sel({dim: science[dim].values for dim in dims})
    own = {name: chunk_like(unlabelled(mean[name]), unlabelled(science["sci"])) for name in mean.data_vars}
    members = mean.attrs["background_members"]
    parameters = {"method": method, "sigma": sigma, "backgrounds": json.loads(members)}
    attrs = {"S_BKDSUB": "COMPLETE", "background_members": members, **merged([science.attrs, mean.attrs])}
    if "background_dithers" in mean.attrs:
        attrs["background_dithers"] = mean.attrs["background_dithers"]
    if method == "jwst":
        return record(
            science,
            "bkg_subtract",
            parameters=parameters,
            attrs=attrs,
            sci=science["sci"] - own["sci"],
            dq=science["dq"] | own["dq"],
        )
    none = (own["n_contributing"] == 0).astype(np.uint32) * _DO_NOT_USE
    added = {part: own[part] for part in variances_of(science) if part in own}
    lost = [part for part in ("var_poisson", "var_rnoise") if part not in added]
    if lost:
        raise ModelError(f"the combined background has no {', '.join(lost)}")
    total = sum(added.values(), xr.zeros_like(own["sci"])).astype(np.float32)
    units = science["var_rnoise"].attrs.get("units", "")
    total.attrs = {**variable_attributes("var_background"), "units": units}
    result = record(
        science,
        "bkg_subtract",
        (),
        parameters,
        attrs=attrs,
        sci=science["sci"] - own["sci"],
        dq=science["dq"] | none,
        var_poisson=science["var_poisson"] + added["var_poisson"],
        var_rnoise=science["var_rnoise"] + added["var_rnoise"],
    )
    if "var_flat" in added:
        flat = (science["var_flat"] + added["var_flat"]).assign_attrs(science["var_flat"].attrs)
        result = result.assign(var_flat=flat)
    if factors := [name for name in FACTOR_VARIANCES if name in science and name != "var_flat"]:
        left = (result["sci"] / science["sci"]) ** 2  # the error of a factor is relative to what is left of the light
        variances = {name: (science[name] * left).astype(np.float32) for name in factors}
        result = result.assign({name: one.assign_attrs(science[name].attrs) for name, one in variances.items()})
    # after this, var_flat is a sum, and no part of it belongs to the light that is left
    result = result.drop_vars("flatfield_common", errors="ignore")
    if "contributing" in own:
        bits = own["contributing"].assign_attrs(variable_attributes("subtracted"))
        result = result.assign(subtracted=bits.assign_coords(science[list(dims)].coords))
    return result.assign(var_background=total.assign_coords(science[list(dims)].coords))
