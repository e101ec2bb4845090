"""Estimate the spectrum of the sky from many slits at once.

All slits see the same sky. What differs is how they respond to uniform light: flats, path loss, bars between shutters,
area of pixels. With these factors, each pixel that sees nothing but the sky is a measurement of its spectrum.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import xarray as xr

from nsxr.compute.blocks import Output, map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import MissingReferenceError, ModelError
from nsxr.flux.bar_shadow import bar_shadow_factor
from nsxr.flux.flat_field import Flats, flat_of
from nsxr.flux.path_loss import path_loss_factor
from nsxr.flux.photometry import photom_factor
from nsxr.flux.sensitivity import NotInTable
from nsxr.kernels.flux.sky import Samples, fit_sky, widths_of_pixels
from nsxr.model.dims import IMAGE
from nsxr.model.dq import PixelFlag
from nsxr.model.history import combined_attributes, record
from nsxr.model.keywords import about
from nsxr.model.parameters import Range, Unit
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import check_slit, variable_attributes
from nsxr.slits.background import mean_over_integrations
from nsxr.slits.collection import as_tree, iterate_slits
from nsxr.slits.light import exposure_type, fixed_slit, is_point, shutter_states

__all__ = ["estimate_sky", "sky_response"]

_BAD = np.uint32(PixelFlag.DO_NOT_USE | PixelFlag.MSA_FAILED_OPEN | PixelFlag.OUTLIER | PixelFlag.REFERENCE_PIXEL)
_LEAST_LIGHT = 0.5
"""Least part of the sky that bars let pass to pixels that are used."""
_INSIDE = 0.4
"""Half of the part of fixed slits that is used [heights]."""
_AROUND = 2.3
"""Distance up to which pixels count as those of a source [pixel]."""
_NODES_A_COLUMN = 8
"""Length of the spectrum over that of the longest slit, NaN at its end: slits see different wavelengths."""


def sky_response(slits: xr.DataTree, references: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """Return how the pixels of slits respond to the sky: the product of all factors for uniform light.

    Parameters
    ----------
    slits : DataTree
        Slits before any factor was applied, from :func:`nsxr.cut_slits` with the coordinate ``slit_y``.
    references : mapping of str to Dataset
        References by type, as from :func:`nsxr.open_spec2_references`: ``photom`` and ``area``, and those of the
        factors that the slits will be divided by: ``fflat``, ``sflat`` and ``dflat``, ``pathloss``, ``barshadow``.

    Returns
    -------
    DataTree
        For each slit ``response`` (row, column) float32 [DN/s for 1 MJy/sr], NaN without a factor; for slitlets also
        ``bars``, the part of the light that bars let pass, and ``bars_variance``, its variance over its square, if the
        reference has one. Lazy if the slits are. A slit that the references do not have is a node without variables,
        whose attribute ``reason`` says why.

    Raises
    ------
    MissingReferenceError
        If ``photom`` or ``area`` is missing.
    ModelError
        If a slit was calibrated before, or has no ``wavelength`` or ``slit_y``.
    """
    missing = [kind for kind in ("photom", "area") if kind not in references]
    if missing:
        raise MissingReferenceError(f"the sky needs the references photom and area, missing: {', '.join(missing)}")
    each = list(iterate_slits(slits))
    flats = None
    if all(kind in references for kind in ("fflat", "sflat", "dflat")):
        flats = Flats(*(references[kind] for kind in ("fflat", "sflat", "dflat")))
    shadow = references.get("barshadow")
    if shadow is not None and any(slit.chunks for _, slit in each):
        shadow = shadow.chunk()  # once, so that all slits share it in one graph
    found = [_response(slit, references, flats, shadow) for _, slit in each]
    return as_tree(found, slits.attrs, [name for name, _ in each])


def _response(
    slit: xr.Dataset, references: Mapping[str, xr.Dataset], flats: Flats | None, shadow: xr.Dataset | None
) -> xr.Dataset:
    check_slit(slit, "sci", "wavelength", units={"sci": "DN/s", "wavelength": "um"})
    if any(str(name).startswith(("flatfield", "pathloss", "barshadow")) for name in slit):
        raise ModelError(about(slit.attrs, "factors were applied before, expected count rates of slits"))
    has_bars = exposure_type(slit.attrs) == "NRS_MSASPEC" and fixed_slit(slit.attrs) is None
    bars = None
    try:
        factors = [photom_factor(slit, references["photom"], references["area"], light="uniform")]
        if flats is not None:
            factors.append(flat_of(slit, flats, light="uniform"))
        if "pathloss" in references:
            factors.append(path_loss_factor(slit, references["pathloss"], light="uniform"))
    except (NotInTable, ModelError) as error:
        return xr.Dataset(attrs={"reason": str(error)})
    if has_bars and shadow is not None:
        bars = bar_shadow_factor(slit, shadow)
        factors.append(bars)
    outputs: dict[str, Output] = {"response": (IMAGE, np.float32)}
    found = map_blocks(_product, *(factor.value for factor in factors), core=(), outputs=outputs)
    found["response"].attrs = {"units": "DN/s/(MJy/sr)", "long_name": "count rate for uniform light of 1 MJy/sr"}
    if bars is not None:
        found["bars"] = bars.value
        if bars.relative_variance is not None:
            found["bars_variance"] = bars.relative_variance
    return xr.Dataset(found)


def _product(*factors: np.ndarray) -> np.ndarray:
    product = np.ones(factors[0].shape)
    for factor in factors:
        product *= factor
    return np.where(product > 0, product, np.nan).astype(np.float32)


def estimate_sky(
    slits: xr.DataTree,
    response: xr.DataTree,
    *,
    slitlets: Literal["all", "background"] = "all",
    source_margin: Annotated[float, Range(0, 100), Unit("pixel")] = 3.5,
) -> xr.Dataset:
    """Fit one spectrum of the sky to the pixels of many slits.

    Parameters
    ----------
    slits : DataTree
        Count rates of slits, as for :func:`sky_response`. With flags of shutters that never close, see
        :func:`nsxr.flag_stuck_shutters`: their pixels are left out.
    response : DataTree
        From :func:`sky_response`.
    slitlets : {"all", "background"}
        ``all``: pixels of all slits that are farther from the planned source than ``source_margin``. ``background``:
        slits without a planned source only (a master background). All light in a fixed slit whose source is extended,
        as in an exposure of a background, counts as that of the sky. Fixed slits of different width blur lines
        differently: take one slit at a time.
    source_margin : float, default 3.5
        Distance from the planned source along the slit from which pixels are used [pixel].

    Returns
    -------
    Dataset
        A spectrum of an extended source along ``dispersion``: ``surf_bright`` [MJy/sr] float64, its variances
        ``sb_var_poisson`` and ``sb_var_rnoise``, ``npixels``, ``dq``, and the coordinate ``wavelength`` [um]; ``flux``
        is NaN. It is a cubic spline with knots every half pixel, or where 8 pixels are between them, given at its knots
        and in the middle between them. Entries beyond the last one are NaN with DO_NOT_USE. ``clipped`` is the part of
        the pixels that was left out because they do not see the sky alone. Lazy if the slits are.

    Raises
    ------
    ModelError
        If no slit can show the sky. When the result is computed: if too few pixels do.

    Notes
    -----
    Slits see a line at different phases of their pixels, so the spline is finer than a pixel. Weights are inverse
    variances, with photon noise averaged over pixels of nearly the same wavelength. Wings of the planned sources are
    fitted with the sky: all sources have the same ones, relative to their own light in the same column, which depend on
    the distance and, slowly, on wavelength. Sources of different brightness tell wings from the sky. Parts of rows of
    64 pixels whose light deviates from that of most rows by 3 standard deviations and 1 % are left out, then pixels
    that deviate by 4 standard deviations and 2 %. Variances are those of the fit; they are scaled up if the scatter of
    the pixels is larger than their variances say.
    """
    chosen = {name: slit for name, slit in iterate_slits(slits) if "response" in response[name].data_vars}
    chosen = {name: slit for name, slit in chosen.items() if _may_show_sky(slit, slitlets)}
    if not chosen:
        wanted = "background slitlets" if slitlets == "background" else "slitlets with shutters beside their sources"
        raise ModelError(
            about(slits.attrs, f"the sky cannot be estimated: there are no {wanted}; give a spectrum of the sky")
        )
    parts = [
        _samples(mean_over_integrations(slit), response[name].to_dataset(), source_margin)
        for name, slit in chosen.items()
    ]
    columns = max(slit.sizes["column"] for slit in chosen.values())
    names = ("wavelength", "surf_bright", "sb_var_poisson", "sb_var_rnoise", "npixels")
    outputs: dict[str, Output] = dict.fromkeys(names, (("dispersion",), np.float64))
    length = _NODES_A_COLUMN * columns
    found = map_blocks(
        fit_sky,
        xr.concat(parts, "slit"),
        core=("slit",),
        joined="slit",
        outputs=outputs | {"clipped": ((), np.float64)},
        sizes={"dispersion": length},
        length=length,
    )
    nothing = found["wavelength"].isnull()
    variables = {name: found[name] for name in (*names[1:], "clipped")}
    variables |= {"flux": found["wavelength"] * np.nan, "dq": nothing.astype(np.uint32)}
    for name in ("surf_bright", "sb_var_poisson", "sb_var_rnoise", "npixels", "flux", "dq"):
        variables[name].attrs = variable_attributes(name)
    for name, units in (("flux", "Jy"), ("surf_bright", "MJy/sr")):
        variables[name].attrs["units"] = units
    for name in ("sb_var_poisson", "sb_var_rnoise"):
        variables[name].attrs["units"] = "(MJy/sr)2"
    is_fixed = len(chosen) == 1 and fixed_slit(next(iter(chosen.values())).attrs) is not None
    name = next(iter(chosen)) if is_fixed else "sky"
    attrs = {**combined_attributes([*chosen.values()]), **slits.attrs, "SLTNAME": name, "SRCTYPE": "EXTENDED"}
    wavelength = found["wavelength"].assign_attrs(variable_attributes("wavelength"), units="um")
    spectrum = xr.Dataset(variables, {"dispersion": np.arange(length), "wavelength": wavelength}, attrs)
    given = {"slitlets": slitlets, "source_margin": source_margin, "slits": [*chosen]}
    return record(spectrum, "estimate_sky", parameters=given)


def _may_show_sky(slit: xr.Dataset, slitlets: str) -> bool:
    """Return whether a slit may show the sky, as far as is planned: shutters without the source, or no source."""
    if not _has_source(slit):
        return True
    if slitlets == "background":
        return False
    return fixed_slit(slit.attrs) is not None or len(shutter_states(slit.attrs)[0].replace("0", "")) > 1


def _has_source(slit: xr.Dataset) -> bool:
    """Return whether a source was planned in a slit. All light in an extended fixed slit counts as that of the sky."""
    if fixed_slit(slit.attrs) is not None and not is_point(slit.attrs):
        return False
    return SlitHeader.of(slit).has_planned_source


def _samples(slit: xr.Dataset, response: xr.Dataset, margin: float) -> xr.DataArray:
    """Return the pixels of a slit that see the sky, as one element."""
    check_slit(slit, "sci", "dq", "var_poisson", "var_rnoise", "wavelength")
    source = None
    if _has_source(slit):
        source, *_ = SlitHeader.of(slit).places or (0.0,)
    has_bars = "bars" in response
    arrays = [slit[name] for name in ("sci", "dq", "var_poisson", "var_rnoise", "wavelength", "slit_y")]
    return map_blocks(
        _collect,
        *(one_chunk(array, "row", "column") for array in arrays),
        response["response"],
        *([response["bars"]] if has_bars else []),
        core=("row", "column"),
        outputs={"samples": (("slit",), np.object_)},
        sizes={"slit": 1},
        source=source,
        margin=margin,
    )["samples"]


def _collect(
    sci: np.ndarray,
    dq: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    wavelength: np.ndarray,
    slit_y: np.ndarray,
    response: np.ndarray,
    bars: np.ndarray | None = None,
    *,
    source: float | None,
    margin: float,
) -> np.ndarray:
    """Return the pixels that see the sky and nothing else as far as is planned, as an array of one element."""
    with np.errstate(invalid="ignore"):
        variance = var_poisson + var_rnoise
        good = ((dq & _BAD) == 0) & np.isfinite(sci) & np.isfinite(response) & (variance > 0)
        good &= np.abs(slit_y) < _INSIDE if bars is None else bars >= _LEAST_LIGHT
        width = widths_of_pixels(wavelength)
        good &= width > 0
        height = np.nanmedian(np.abs(np.diff(slit_y, axis=0))) if slit_y.shape[0] > 1 else 1.0
        distance = np.abs(slit_y - (np.nan if source is None else source)) / height
        if source is not None:
            good &= distance > margin
    around = _around_source(sci, dq, response, bars, distance)
    good &= ~np.isnan(around) if source is not None else True
    seen = response[good].astype(np.float64)
    found = np.empty(1, object)
    found[0] = Samples(
        wavelength[good].astype(np.float64),
        width[good],
        sci[good] / seen,
        var_poisson[good] / seen**2,
        var_rnoise[good] / seen**2,
        seen,
        np.floor(slit_y[good] / height),
        distance[good],
        around[good],
    )
    return found


def _around_source(
    sci: np.ndarray, dq: np.ndarray, response: np.ndarray, bars: np.ndarray | None, distance: np.ndarray
) -> np.ndarray:
    """Return the mean brightness of the pixels around the source in each column, for all pixels; NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        brightness = sci / response.astype(np.float64) * (1.0 if bars is None else bars)
        inner = (distance <= _AROUND) & ((dq & _BAD) == 0) & np.isfinite(brightness)
        mean = np.where(inner, brightness, 0.0).sum(axis=0) / inner.sum(axis=0)
    return np.broadcast_to(mean, sci.shape)
