"""Plot an extraction for a quick look: slit with trace and aperture, profile, and spectrum with its errors."""

import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsxr.compute.cluster import worker_errors
from nsxr.model.dims import image_dims
from nsxr.model.dq import PixelFlag
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import VARIANCES
from nsxr.plot.style import BLUE, GREEN, VERMILLION

__all__ = ["plot_extraction", "white_light"]

_PLACES = (0.2, 0.5, 0.8)
_COLOURS = (BLUE, VERMILLION, GREEN)
_FLAGGED = int(PixelFlag.DO_NOT_USE)


def plot_extraction(slit: xr.Dataset, model: xr.Dataset, spectrum: xr.Dataset) -> Figure:
    """Draw the fit to a slit and the extracted spectrum. All three inputs are computed.

    Parameters
    ----------
    slit : Dataset
        ``sci``, ``dq``. The mean of a time series is drawn.
    model : Dataset
        From :func:`nsxr.fit_trace_model`.
    spectrum : Dataset
        From :func:`nsxr.extract_spectrum`.

    Returns
    -------
    Figure
        Panels: the slit with the fitted trace, the planned position, the edges of the aperture, and pixels that were
        left out (flagged pixels grey, other pixels red); the profile at three places; the part of the profile on good
        pixels; the spectrum with its standard deviation and marks at flagged columns. A time series has two more
        panels: the flux of each integration relative to the median, and the sum over wavelengths against time.
    """
    series = "integration" in slit.dims
    with worker_errors():
        mean = slit["sci"].mean("integration") if series else slit["sci"]
        flags = ((slit["dq"] & np.uint32(_FLAGGED)) > 0).mean("integration") > 0.5 if series else slit["dq"] & _FLAGGED
        image, flagged = mean.compute(), (flags > 0).compute()
        kept = ["profile", "aperture", "is_used", "trace", "flux", "noise_scale", "position_planned"]
        fitted = model[[*kept, "position_fitted", "position_uncertainty"]].compute()
        found = spectrum.drop_dims(image_dims(slit)[0], errors="ignore").compute()
    figure = Figure(figsize=(12, 11 if series else 9), layout="constrained")
    heights = (1.4, 0.5, 1.2, 1.2) if series else (1.4, 0.5, 1.2)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(3, 1), height_ratios=heights)
    _draw_slit(figure, figure.add_subplot(grid[0, 0]), image, flagged, fitted)
    _draw_profile(figure.add_subplot(grid[0, 1]), image, fitted)
    one = _typical(found) if series else found
    _draw_coverage(figure.add_subplot(grid[1, 0]), one)
    _draw_text(figure.add_subplot(grid[1, 1]), slit, fitted, one)
    _draw_spectrum(figure.add_subplot(grid[2, :]), one, series)
    if series:
        _draw_series(figure, figure.add_subplot(grid[3, 0]), found)
        _draw_light_curve(figure.add_subplot(grid[3, 1]), found)
    return figure


def _typical(found: xr.Dataset) -> xr.Dataset:
    """Return the median spectrum of a time series, with the standard deviation of one integration."""
    names = [name for name in found.data_vars if "integration" in found[name].dims and name != "dq"]
    one = found[names].median("integration")
    return one.assign(dq=((found["dq"] & _FLAGGED) > 0).all("integration").astype(np.uint32) * np.uint32(_FLAGGED))


def _edges(array: xr.DataArray, dim: str) -> tuple[float, float]:
    return float(array[dim][0]) - 0.5, float(array[dim][-1]) + 0.5


def _draw_slit(figure: Figure, axes: Axes, image: xr.DataArray, flagged: xr.DataArray, fitted: xr.Dataset) -> None:
    inside = image.where(~flagged).values
    known = inside[np.isfinite(inside)]
    top = float(np.percentile(np.abs(known), 99)) if known.size else 1.0
    top = top if top > 0 else 1.0
    low = -top if known.size and np.percentile(known, 2) < -0.15 * top else -0.15 * top
    across, along = image_dims(image)
    extent = (*_edges(image, along), *_edges(image, across))
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": extent, "interpolation": "nearest"}
    drawn = axes.imshow(inside, vmin=low, vmax=top, cmap="RdBu_r" if low == -top else "viridis", **options)
    axes.set_facecolor("0.85")
    unit = image.attrs.get("units", "")
    figure.colorbar(drawn, ax=axes, label=f"signal [{unit}]" if unit else "signal", pad=0.01)
    out = (~fitted["is_used"] & ~flagged & np.isfinite(image)).values
    near = (fitted["aperture"] > 0).values
    rows, columns = np.nonzero(out & near)
    row, column = image[across].values, image[along].values
    axes.plot(column[columns], row[rows], "s", ms=3, mfc="none", mec="red", label="left out", ls="none")
    trace = fitted["trace"]
    half = 0.5 * fitted["aperture"].sum(across)
    axes.plot(column, trace, "k-", lw=1, label="trace")
    axes.plot(column, trace - half, "k--", lw=0.8, label="aperture")
    axes.plot(column, trace + half, "k--", lw=0.8)
    planned = float(fitted["position_planned"])
    if np.isfinite(planned):
        axes.plot(column[column.size // 2], planned, "w+", ms=12, mew=2.5)
        axes.plot(column[column.size // 2], planned, "m+", ms=11, mew=1.5, label="planned")
    axes.set(xlabel="detector column", ylabel="detector row", xlim=extent[:2], ylim=extent[2:])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncol=4, fontsize="small", frameon=False)
    if not known.size:
        axes.text(0.5, 0.5, "no pixel can be used", transform=axes.transAxes, ha="center")


def _draw_profile(axes: Axes, image: xr.DataArray, fitted: xr.Dataset) -> None:
    across, along = image_dims(image)
    n = image.sizes[along]
    width = max(n // 40, 3)
    distance = (image[across] - fitted["trace"]).transpose(*image.dims)
    flux = fitted["flux"].where(fitted["flux"] > 0)
    for place, colour in zip(_PLACES, _COLOURS, strict=True):
        part = {along: slice(int(place * n) - width, int(place * n) + width + 1)}
        use = fitted["is_used"].isel(part) & (np.abs(distance.isel(part)) < 5)
        bright = flux.isel(part) > 0.2 * flux.isel(part).median()
        u, light = distance.isel(part), image.isel(part) / flux.isel(part)
        light = light.where(use & bright)
        axes.plot(u.values.ravel(), light.values.ravel(), ".", ms=2, color=colour, alpha=0.4)
        fit = fitted["profile"].isel(part).where(np.abs(u) < 5)
        order = np.argsort(u.values.ravel())
        axes.plot(u.values.ravel()[order], fit.values.ravel()[order], "-", lw=1, color=colour, label=f"at {place:.0%}")
    top = float(fitted["profile"].max()) if np.isfinite(fitted["profile"]).any() else 1.0
    axes.set(xlabel="rows from the trace", ylabel="part of the flux", xlim=(-5, 5), ylim=(-0.3 * top, 1.4 * top))
    axes.legend(fontsize="small", frameon=False)


def _draw_coverage(axes: Axes, one: xr.Dataset) -> None:
    axes.plot(_columns(one), one["coverage"], drawstyle="steps-mid", lw=0.8, color="0.3")
    axes.axhline(0.5, color="red", lw=0.8, ls=":")
    axes.set(xlabel="detector column", ylabel="coverage", ylim=(0, 1.05), xlim=_columns(one)[[0, -1]])


def _columns(one: xr.Dataset) -> np.ndarray:
    return np.asarray(one["dispersion"].values if "dispersion" in one.coords else np.arange(one.sizes["dispersion"]))


def _draw_text(axes: Axes, slit: xr.Dataset, fitted: xr.Dataset, one: xr.Dataset) -> None:
    header = SlitHeader.of(slit)
    planned = float(fitted["position_planned"])
    lines = [
        f"{header.source_name or 'source'}, slit {header.name}",
        f"{header.filter} {header.grating} {header.detector}",
        f"row {float(fitted['position_fitted']):.3f} ± {float(fitted['position_uncertainty']):.3f}",
        f"planned {planned:.3f}" if np.isfinite(planned) else "no planned position",
        f"noise variance times {float(fitted['noise_scale']):.2f}",
        f"{int((one['dq'] & _FLAGGED > 0).sum())} of {one.sizes['dispersion']} columns flagged",
    ]
    axes.axis("off")
    lines = [part for line in lines for part in textwrap.wrap(line, 36) or [""]]
    axes.text(0, 1.0, "\n".join(lines), va="top", fontsize="medium", transform=axes.transAxes)


def _scaled(one: xr.Dataset) -> tuple[float, str]:
    """Return a factor and a unit that make fluxes easy to read."""
    unit = str(one["flux"].attrs.get("units", ""))
    typical = float(np.nanmedian(np.abs(one["flux"]))) if np.isfinite(one["flux"]).any() else 1.0
    if unit != "Jy" or not typical > 0:
        return 1.0, unit
    for factor, name in ((1e9, "nJy"), (1e6, "µJy"), (1e3, "mJy")):
        if typical * factor < 1000:
            return factor, name
    return 1.0, unit


def _draw_spectrum(axes: Axes, one: xr.Dataset, series: bool) -> None:
    factor, unit = _scaled(one)
    wavelength = one["wavelength"].values if np.isfinite(one["wavelength"]).any() else _columns(one)
    flux = one["flux"].values * factor
    deviation = np.sqrt(sum(one[f"flux_var_{part}"].values for part in VARIANCES)) * factor
    good = (one["dq"].values & _FLAGGED) == 0
    shown = np.where(good, flux, np.nan)
    axes.fill_between(wavelength, shown - deviation, shown + deviation, step="mid", alpha=0.35, label="1 sigma")
    axes.plot(
        wavelength, shown, drawstyle="steps-mid", lw=0.8, color="k", label="median spectrum" if series else "flux"
    )
    known = shown[np.isfinite(shown)]
    if known.size:
        low, high = np.percentile(known, (0.5, 99.7))
        axes.set_ylim(min(low, 0) - 0.1 * (high - low), high + 0.15 * (high - low))
    there = ~good & np.isfinite(wavelength)
    bottom = axes.get_ylim()[0]
    axes.plot(wavelength[there], np.full(there.sum(), bottom), "|", color="red", ms=12, label="flagged")
    has_wavelength = np.isfinite(one["wavelength"]).any()
    axes.set(xlabel="wavelength [µm]" if has_wavelength else "detector column", ylabel=f"flux [{unit}]")
    axes.axhline(0, color="0.6", lw=0.6)
    axes.legend(fontsize="small", frameon=False, loc="upper left", ncol=3)


def _draw_series(figure: Figure, axes: Axes, found: xr.Dataset) -> None:
    flux = found["flux"].where((found["dq"] & _FLAGGED) == 0)
    ratio = (flux / flux.median("integration")).values - 1
    known = ratio[np.isfinite(ratio)]
    limit = float(np.percentile(np.abs(known), 90)) if known.size else 1.0
    extent = (0.5, found.sizes["integration"] + 0.5, -0.5, found.sizes["dispersion"] - 0.5)
    drawn = axes.imshow(ratio.T, aspect="auto", origin="lower", vmin=-limit, vmax=limit, cmap="RdBu_r", extent=extent)
    axes.set(xlabel="integration", ylabel="column of the cut-out")
    figure.colorbar(drawn, ax=axes, label="flux over median, less 1", pad=0.01)


def white_light(series: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the sum over the wavelengths that all integrations have, and its standard deviation.

    Both have the dim ``integration`` and are relative to the median of the sums.
    """
    good = ((series["dq"] & _FLAGGED) == 0) & np.isfinite(series["flux"])
    always = good.mean("integration") > 0.999
    total = series["flux"].where(always).sum("dispersion")
    poisson, rnoise = (series[f"flux_var_{part}"].where(always).sum("dispersion") for part in ("poisson", "rnoise"))
    middle = float(total.median()) or 1.0
    return total / middle, (poisson + rnoise) ** 0.5 / abs(middle)


def _draw_light_curve(axes: Axes, found: xr.Dataset) -> None:
    total, error = white_light(found)
    time = found["int_mid_MJD_UTC"].values if "int_mid_MJD_UTC" in found.coords else found["integration"].values
    is_time = "int_mid_MJD_UTC" in found.coords
    start = float(time[0]) if is_time else 0.0
    time = (time - start) * (24 if is_time else 1)
    axes.errorbar(time, total, error, fmt=".", ms=3, lw=0.6)
    axes.set(xlabel="hours" if is_time else "integration", ylabel="white light, relative")
