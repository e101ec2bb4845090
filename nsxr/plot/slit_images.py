"""Draw a calibrated slit in wavelength order, and its spectrum: what all pictures of stage 2 share."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import AsinhNorm

from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import read
from nsxr.model.slit_header import SlitHeader
from nsxr.model.types import Entries
from nsxr.model.variables import variances_of
from nsxr.plot.style import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, VERMILLION, readable_flux

__all__ = [
    "Drawn",
    "along_source",
    "draw_band",
    "draw_sky",
    "draw_strip",
    "mark_source",
    "prepare",
    "scale_of",
    "signal_to_noise",
    "usable",
    "write_units",
]

_FLAGGED = np.uint32(PixelFlag.DO_NOT_USE.value)


class Drawn(NamedTuple):
    """One slit with what is needed to draw it.

    Attributes
    ----------
    slit, spectrum : Dataset
        One image, and its spectrum; both computed.
    header : SlitHeader
        Of the slit.
    wavelength : ndarray
        Wavelength of each column at the place of the source [um], increasing.
    place : ndarray
        Rows from the expected place of the source, (row, column). Without a source, from the middle of the slit.
    columns : ndarray
        The columns of the slit that have a wavelength, in the order of ``wavelength``.
    """

    slit: xr.Dataset
    spectrum: xr.Dataset
    header: SlitHeader
    wavelength: np.ndarray
    place: np.ndarray
    columns: np.ndarray


def prepare(slit: xr.Dataset, spectrum: xr.Dataset) -> Drawn | None:
    """Return what is needed to draw a slit. None if the slit has no wavelengths.

    Parameters
    ----------
    slit : Dataset
        ``sci``, ``dq``, ``wavelength`` (row, column), variances and, where it is known, ``slit_y``.
    spectrum : Dataset
        From :func:`nsxr.extract_spectrum`, of this slit.
    """
    header = SlitHeader.of(slit)
    wavelength = np.asarray(slit["wavelength"].values, dtype=float)
    rows = np.arange(slit.sizes["row"], dtype=float)
    if "slit_y" in slit.coords:
        across = np.asarray(slit["slit_y"].values, dtype=float)
        planned = (header.source_y or 0.0) * float(read(slit.attrs, "SLTYSCL", matters=False) or 1.0)
        expected = planned if header.has_planned_source and abs(planned) < 100 else 0.0
    else:
        middle = float(spectrum["position_planned"]) if "position_planned" in spectrum else np.nan
        middle = middle if np.isfinite(middle) else float(slit["row"].values.mean())
        across = np.where(np.isfinite(wavelength), slit["row"].values[:, np.newaxis] - middle, np.nan)
        expected = 0.0
    level, tilt = _line(rows, across)
    is_known = np.isfinite(level) & np.isfinite(tilt) & (tilt != 0)
    centre = np.where(is_known, (expected - level) / np.where(is_known, tilt, 1.0), np.nan)
    at_zero, slope = _line(rows, wavelength)
    at_source = at_zero + slope * np.clip(centre, rows[0], rows[-1])
    columns = np.flatnonzero(np.isfinite(at_source))
    if columns.size < 2:
        return None
    columns = columns[np.argsort(at_source[columns], kind="stable")]
    return Drawn(slit, spectrum, header, at_source[columns], rows[:, np.newaxis] - centre[columns], columns)


def _line(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the level at row 0 and the slope of a straight line through each column. NaN if a column has no value."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_row = (known * rows[:, np.newaxis]).sum(axis=0) / count
        mean = np.where(known, values, 0.0).sum(axis=0) / count
        distance = np.where(known, rows[:, np.newaxis] - mean_row, 0.0)
        spread = (distance**2).sum(axis=0)
        slope = (distance * np.where(known, values, 0.0)).sum(axis=0) / spread
    slope = np.where(count > 1, slope, np.nan)
    return mean - slope * mean_row, slope


def scale_of(values: np.ndarray, error: np.ndarray, usable: np.ndarray) -> AsinhNorm:
    """Return colours that are linear within the noise, and logarithmic above.

    Pixels with large errors, such as those at the ends of the wavelengths, do not set the limits.
    """
    with np.errstate(invalid="ignore"):
        known = usable & np.isfinite(values) & np.isfinite(error) & (error > 0)
        noise = float(np.median(error[known])) if known.any() else 1.0
        kept = values[known & (error < 3 * noise)]
    if not kept.size:
        return AsinhNorm(linear_width=1.0, vmin=-1.0, vmax=1.0)
    low, middle, high = np.percentile(kept, (1, 50, 99.7))
    bottom = max(float(low), float(middle) - 3 * noise)
    return AsinhNorm(linear_width=2 * noise, vmin=bottom, vmax=max(float(high), float(middle) + 5 * noise))


def draw_strip(axes: Axes, drawn: Drawn, *, over_noise: bool = False) -> tuple[QuadMesh, AsinhNorm]:
    """Draw a slit straightened: wavelength [um] to the right, rows from the expected source upwards.

    Each pixel is drawn where its light comes from. Nothing is resampled. Flagged pixels are grey.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    drawn : Drawn
        From :func:`prepare`.
    over_noise : bool, default False
        Whether to draw the signal in units of its standard deviation.
    """
    columns = drawn.columns
    sci, flags = (np.asarray(drawn.slit[name].values)[:, columns] for name in ("sci", "dq"))
    error = np.sqrt(sum(np.nan_to_num(drawn.slit[name].values) for name in variances_of(drawn.slit)))[:, columns]
    inside = np.isfinite(np.asarray(drawn.slit["wavelength"].values)[:, columns])
    usable = inside & ((flags & _FLAGGED) == 0) & np.isfinite(sci)
    factor, _ = readable_flux(sci[usable], str(drawn.slit["sci"].attrs.get("units", "")))
    if over_noise:
        with np.errstate(invalid="ignore", divide="ignore"):
            sci, factor = sci / error, 1.0
        norm = AsinhNorm(linear_width=3.0, vmin=-2.0, vmax=30.0)
    else:
        norm = scale_of(sci * factor, error * factor, usable)
    steps = np.diff(drawn.wavelength)
    middle = drawn.wavelength[:-1] + 0.5 * steps
    edges = np.concatenate([[drawn.wavelength[0] - 0.5 * steps[0]], middle, [drawn.wavelength[-1] + 0.5 * steps[-1]]])
    first = drawn.place[0] - 0.5
    first = np.concatenate([first[:1], 0.5 * (first[1:] + first[:-1]), first[-1:]])
    place = first + np.arange(sci.shape[0] + 1)[:, np.newaxis]
    grey = np.ma.masked_where(usable | ~inside, np.zeros(sci.shape))
    grid = np.broadcast_to(edges, place.shape), place
    axes.pcolormesh(*grid, grey, cmap=colormaps["gray"].with_extremes(under=QUIET), vmin=1, vmax=2, rasterized=True)
    shown = np.ma.masked_where(~usable, sci * factor)
    mesh = axes.pcolormesh(*grid, shown, cmap="cividis", norm=norm, rasterized=True)
    seen = drawn.place[inside]
    low, high = (float(seen.min()) - 0.5, float(seen.max()) + 0.5) if seen.size else (-1.0, 1.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(low, high)
    return mesh, norm


def mark_source(axes: Axes, *, size: float = 6) -> None:
    """Mark the expected place of the source at both ends of a strip, so that its light stays visible."""
    for end, side in ((0.0, ">"), (1.0, "<")):
        axes.plot(
            [end], [0.0], side, color=ORANGE, ms=size, transform=axes.get_yaxis_transform(), clip_on=False, zorder=5
        )


def along_source(drawn: Drawn, name: str) -> np.ndarray:
    """Return a variable of the slit at the expected place of the source, for each of the drawn columns."""
    nearest = np.argmin(np.abs(drawn.place), axis=0)
    found: np.ndarray = np.asarray(drawn.slit[name].values, dtype=float)[nearest, drawn.columns]
    return found


def usable(spectrum: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux and standard deviation of a spectrum, and where they can be used."""
    flux = np.asarray(spectrum["flux"].values, dtype=float)
    parts = variances_of(spectrum, "flux_var")
    deviation = np.sqrt(sum((np.nan_to_num(spectrum[part].values) for part in parts), np.zeros(flux.shape)))
    good = ((spectrum["dq"].values & _FLAGGED) == 0) & np.isfinite(flux) & np.isfinite(spectrum["wavelength"].values)
    return flux, deviation, good


def signal_to_noise(spectrum: xr.Dataset) -> float:
    """Return the median of flux over standard deviation of the usable columns. NaN if there are none."""
    flux, deviation, good = usable(spectrum)
    good &= deviation > 0
    return float(np.median(flux[good] / deviation[good])) if good.any() else float("nan")


def draw_band(axes: Axes, spectrum: xr.Dataset, *, label: str = "flux", width: float = 0.8) -> str:
    """Draw a spectrum with its standard deviation as a band, and marks where it cannot be used. Return the unit.

    The limits leave out the tails of noise where the instrument sees little, but not lines.
    """
    flux, deviation, good = usable(spectrum)
    wavelength = np.asarray(spectrum["wavelength"].values, dtype=float)
    factor, unit = readable_flux(flux[good], str(spectrum["flux"].attrs.get("units", "")))
    order = np.argsort(wavelength, kind="stable")
    order = order[np.isfinite(wavelength[order])]
    shown = np.where(good, flux * factor, np.nan)[order]
    sigma = np.where(good, deviation * factor, np.nan)[order]
    across = wavelength[order]
    band: Entries = {"color": SKY, "alpha": 0.55, "linewidth": 0.0, "rasterized": False}
    axes.fill_between(across, shown - sigma, shown + sigma, step="mid", label="1 sigma", **band)
    axes.plot(across, shown, drawstyle="steps-mid", lw=width, color=INK, label=label)
    axes.axhline(0, color=QUIET, lw=0.6, zorder=0)
    axes.set_ylim(*_limits(shown, sigma))
    lost = across[~good[order] & (across >= across[0])] if across.size else across
    if lost.size:
        style: Entries = {"color": VERMILLION, "ms": 5, "ls": "none", "mew": 0.8}
        bottom = np.full(lost.size, 0.03)
        axes.plot(lost, bottom, "|", transform=axes.get_xaxis_transform(), label="flagged", **style)
    return unit


def draw_sky(axes: Axes, skies: Sequence[xr.Dataset]) -> None:
    """Draw the spectra of the sky that were subtracted, with their standard deviations as bands."""
    levels = []
    for sky, colour in zip(skies, cycle((INK, BLUE, GREEN, PINK, VERMILLION)), strict=False):
        level = np.asarray(sky["surf_bright"].values, dtype=float)
        deviation = np.sqrt(np.asarray(sky["sb_var_poisson"].values + sky["sb_var_rnoise"].values, dtype=float))
        good = ((sky["dq"].values & _FLAGGED) == 0) & np.isfinite(level) & np.isfinite(sky["wavelength"].values)
        wavelength, level, deviation = sky["wavelength"].values[good], level[good], deviation[good]
        axes.fill_between(wavelength, level - deviation, level + deviation, color=SKY, alpha=0.55, linewidth=0.0)
        axes.plot(wavelength, level, lw=0.6, color=colour, label=str(sky.attrs.get("SLTNAME", "")))
        levels.append(level)
    axes.axhline(0, color=QUIET, lw=0.6, zorder=0)
    if len(levels) > 1:
        axes.legend(frameon=False, fontsize="x-small", ncols=len(levels), loc="upper right", borderaxespad=0)
    known = np.concatenate(levels)
    if known.size:
        low, high = np.percentile(known, (0.5, 99.5))
        axes.set_ylim(min(float(low), 0.0), 1.2 * max(float(high), 0.0) or 1.0)
    axes.set_ylabel("MJy/sr")


def _limits(flux: np.ndarray, sigma: np.ndarray) -> tuple[float, float]:
    """Return limits of the flux axis: what is seen with less than three times the typical error, and 0."""
    known = np.isfinite(flux) & (sigma > 0)
    if not known.any():
        return -1.0, 1.0
    typical = float(np.median(sigma[known]))
    sure = known & (sigma < np.maximum(3 * typical, 0.1 * np.abs(flux)))
    beside = np.pad(np.where(sure, flux, np.nan), 1, constant_values=np.nan)
    highest = np.fmin(flux, 3 * np.fmax(np.abs(beside[:-2]), np.abs(beside[2:])))  # lines are wider than one column
    low, high = np.percentile(flux[sure], 0.5), np.nanmax(highest[sure])
    low, high = min(float(low), 0.0) - typical, max(float(high), 0.0) + 2 * typical
    return low - 0.08 * (high - low), high + 0.15 * (high - low)


def write_units(unit: str, per_pixel: bool) -> str:
    """Return a label of fluxes of pixels, or of a spectrum."""
    if "Jy" not in unit:
        return f"count rate [{unit}]"
    if "/sr" in unit:
        return f"brightness [{unit}]"
    return f"flux in a pixel [{unit}]" if per_pixel else f"flux density [{unit}]"
