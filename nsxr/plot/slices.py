"""Draw a calibrated exposure of the IFU: the frame with its slices, and a rough picture of the field."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from nsxr.compute.blocks import compute_together
from nsxr.compute.cluster import worker_errors
from nsxr.model.dq import PixelFlag
from nsxr.model.types import Entries
from nsxr.model.variables import variances_of
from nsxr.plot.slit_images import scale_of
from nsxr.plot.style import INK, QUIET, SKY, edges, mark_ticks, set_title

__all__ = ["draw_slices"]

_FLAGGED = np.uint32(PixelFlag.DO_NOT_USE.value)
_PLACES = 30
"""Places along a slice. A slice is 3 arcsec long and 0.1 arcsec wide, so a place is as long as a slice is wide."""
_SLICES = 30
_ACROSS = [*range(_SLICES, 0, -2), *range(1, _SLICES, 2)]
"""Numbers of the slices from one edge of the field to the other. They are counted from the middle to both sides."""
_WAVELENGTHS = 200
"""Bins of wavelength of the spectra."""


def draw_slices(frame: xr.Dataset) -> Figure:
    """Return a figure of the frame with the numbers of the slices, the field, and spectra of its brightest places.

    Parameters
    ----------
    frame : Dataset
        ``cal`` of :func:`nsxr.spec2`: ``sci``, ``dq``, variances, ``wavelength`` (row, column), and the coordinates
        ``slice`` and ``slit_y``.
    """
    names = ["sci", "dq", "wavelength", *variances_of(frame)]
    with worker_errors():
        (image,) = compute_together(frame[names].assign_coords(slice=frame["slice"], slit_y=frame["slit_y"]))
    sci, number, wavelength = (np.asarray(image[name].values) for name in ("sci", "slice", "wavelength"))
    error = np.sqrt(sum(np.nan_to_num(image[name].values) for name in variances_of(image)))
    usable = (number > 0) & np.isfinite(sci) & np.isfinite(wavelength) & ((image["dq"].values & _FLAGGED) == 0)
    figure = Figure(figsize=(14.5, 8.6), layout="constrained")
    layout: list[Any] = [["frame", "field"], ["frame", "spectra"]]
    panels = figure.subplot_mosaic(layout, width_ratios=(1.35, 1), height_ratios=(1.4, 1))
    unit = str(image["sci"].attrs.get("units", ""))
    _draw_frame(figure, panels["frame"], image, np.where(usable, sci, np.nan), error, unit)
    place = np.clip(((image["slit_y"].values + 0.5) * _PLACES), 0, _PLACES - 1)
    cell = (number[usable].astype(np.intp) - 1) * _PLACES + place[usable].astype(np.intp)
    field = _medians(cell, sci[usable], _SLICES * _PLACES).reshape(_SLICES, _PLACES)
    _draw_field(figure, panels["field"], field, unit)
    _draw_spectra(panels["spectra"], field, cell, wavelength[usable], sci[usable], unit)
    words = (str(frame.attrs.get(key, "")) for key in ("filename", "DETECTOR", "FILTER", "GRATING", "TARGNAME"))
    set_title(figure, "   ".join(word for word in words if word), "large")
    return figure


def _medians(cell: np.ndarray, values: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the median of the values of each cell, NaN for cells without values."""
    order = np.lexsort((values, cell))
    count = np.bincount(cell, minlength=n_cells)
    start = np.cumsum(count) - count
    lower, upper = start + (count - 1) // 2, start + count // 2
    found = np.full(n_cells, np.nan)
    full = count > 0
    ordered = values[order]
    found[full] = 0.5 * (ordered[lower[full]] + ordered[upper[full]])
    return found


def _draw_frame(figure: Figure, axes: Axes, image: xr.Dataset, shown: np.ndarray, error: np.ndarray, unit: str) -> None:
    number = image["slice"].values
    norm = scale_of(shown, error, np.isfinite(shown))
    style: Entries = {"origin": "lower", "extent": edges(image["sci"]), "interpolation": "nearest", "rasterized": True}
    axes.imshow(np.where(number > 0, 1.0, np.nan), cmap="Greys", vmin=0, vmax=2.2, **style)
    drawn = axes.imshow(np.ma.masked_invalid(shown), norm=norm, cmap="cividis", **style)
    axes.set_aspect("auto")
    bar = figure.colorbar(drawn, ax=axes, extend="both", pad=0.01, aspect=45, label=f"brightness [{unit}]")
    mark_ticks(bar, norm)
    column, row = image["column"].values, image["row"].values
    lit = number > 0
    first, last = (float(value) for value in np.flatnonzero(lit.any(axis=0))[[0, -1]]) if lit.any() else (0.0, 1.0)
    text: Entries = {"fontsize": 7, "color": INK, "va": "center", "annotation_clip": False}
    for one in np.unique(number[lit]):
        rows, columns = np.nonzero(number == one)
        end = columns <= columns.min() + 5
        position = (float(column[columns.min()]), float(row[rows[end]].mean()))
        axes.annotate(
            str(one),
            position,
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            **text,
        ).set_in_layout(False)
    margin = 0.04 * (last - first) + 5
    axes.set_xlim(float(column[int(first)]) - margin, float(column[int(last)]) + 0.5 * margin)
    axes.set(xlabel="column [pixel], wavelength →", ylabel="row [pixel]")
    axes.set_title("frame, with numbers of the slices; grey: flagged", size="medium")


def _draw_field(figure: Figure, axes: Axes, field: np.ndarray, unit: str) -> None:
    known = field[np.isfinite(field)]
    low, high = np.percentile(known, (2, 99.9)) if known.size else (0.0, 1.0)
    high = max(float(high), float(low) + 1e-6 * abs(float(low)) + 1e-30)
    norm = AsinhNorm(linear_width=0.1 * (high - float(low)), vmin=float(low), vmax=high)
    cmap = colormaps["cividis"].with_extremes(bad=QUIET)
    style: Entries = {"origin": "lower", "aspect": 10.0, "interpolation": "nearest", "norm": norm, "cmap": cmap}
    ordered = field[np.array(_ACROSS) - 1]
    drawn = axes.imshow(np.ma.masked_invalid(ordered.T), extent=(-0.5, _SLICES - 0.5, -1.5, 1.5), **style)
    mark_ticks(figure.colorbar(drawn, ax=axes, extend="both", pad=0.01, label=f"brightness [{unit}]"), norm)
    ticks = [0, 5, 10, 14, 15, 19, 24, 29]
    axes.set_xticks(ticks, [str(_ACROSS[tick]) for tick in ticks])
    axes.set(xlabel="slice", ylabel="place along the slice [arcsec]")
    axes.set_title("field: median of all wavelengths, slices side by side", size="medium")


def _draw_spectra(
    axes: Axes, field: np.ndarray, cell: np.ndarray, wavelength: np.ndarray, sci: np.ndarray, unit: str
) -> None:
    """Draw the median of the brightest ten places, and of the fainter half, in bins of wavelength."""
    if not cell.size:
        axes.set_axis_off()
        return
    flat = field.ravel()
    known = np.isfinite(flat)
    order = np.argsort(np.where(known, -flat, np.inf), kind="stable")
    n_known = int(known.sum())
    groups = (
        ("median of the 10 brightest places", order[:10], INK),
        ("of the fainter half", order[n_known // 2 : n_known], SKY),
    )
    bins = np.linspace(float(wavelength.min()), float(wavelength.max()), _WAVELENGTHS + 1)
    curves = []
    for label, cells, colour in groups:
        chosen = np.zeros(flat.size, bool)
        chosen[cells] = True
        inside = chosen[cell]
        position = np.clip(np.digitize(wavelength[inside], bins) - 1, 0, _WAVELENGTHS - 1)
        curve = _medians(position, sci[inside], _WAVELENGTHS)
        axes.plot(0.5 * (bins[1:] + bins[:-1]), curve, drawstyle="steps-mid", lw=1.0, color=colour, label=label)
        curves.append(curve)
    beside = np.pad(np.array(curves), ((0, 0), (1, 1)), constant_values=np.nan)
    limited = np.fmin(beside[:, 1:-1], 3 * np.fmax(np.abs(beside[:, :-2]), np.abs(beside[:, 2:])))  # without outliers
    low, high = np.nanpercentile(limited, (1, 100))
    axes.set_ylim(min(float(low), 0.0) - 0.05 * float(high - low), float(high) + 0.2 * float(high - low))
    axes.axhline(0, color=QUIET, lw=0.6, zorder=0)
    axes.set(xlabel="wavelength [µm]", ylabel=f"brightness [{unit}]", xlim=(bins[0], bins[-1]))
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
