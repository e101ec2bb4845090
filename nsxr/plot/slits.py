"""Draw where the light of slits or slices falls on an image of count rates."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.plot.images import plot_rate
from nsxr.plot.style import ORANGE, SKY, is_strip, one_image

__all__ = ["draw_slits", "plot_slits"]

_SAMPLES = 300
_MOST_NAMES = 150
_MOST_NUMBERS = 6
"""Most slits with a number at each wavelength. Numbers of more slits would hide their spectra."""


class _Outline(NamedTuple):
    """The two ends of a slit on the detector: columns and rows, (end, wavelength). NaN beyond the image."""

    name: str
    wavelength: np.ndarray
    column: np.ndarray
    row: np.ndarray


def draw_slits(rate: xr.Dataset, optics: Optics, slits: Iterable[Slit]) -> Figure:
    """Return a figure with an image of count rates, and the outlines of slits on it.

    Parameters
    ----------
    rate : Dataset
        ``sci`` (row, column) or (integration, row, column) float32 [DN/s] and ``dq`` uint32. The first integration is
        drawn.
    optics : Optics
        From :func:`nsxr.open_optics`.
    slits : iterable of Slit
        The slits, or the slices. Those that miss the image are not drawn.

    Returns
    -------
    Figure
        The figure is not registered with pyplot. Save it with ``savefig``, or show it as the value of a notebook cell.
    """
    outlines = _outlines(rate, optics, slits)
    part = _rows_of(rate, outlines)
    figure = Figure(figsize=(13, 5 if is_strip(part["sci"]) else 11.5), layout="constrained")
    _plot(figure.subplots(), part, optics, outlines)
    return figure


def plot_slits(axes: Axes, rate: xr.Dataset, optics: Optics, slits: Iterable[Slit]) -> None:
    """Draw an image of count rates, and the outlines of slits with names and wavelengths on it.

    Rows far from all slits are left out if the slits fill less than a third of the rows.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    rate, optics, slits
        As for :func:`draw_slits`.
    """
    outlines = _outlines(rate, optics, slits)
    _plot(axes, _rows_of(rate, outlines), optics, outlines)


def _outlines(rate: xr.Dataset, optics: Optics, slits: Iterable[Slit]) -> list[_Outline]:
    """Return the outlines of the slits that the image shows."""
    rows, columns = (rate.indexes[dim].to_numpy() for dim in ("row", "column"))
    found = []
    for slit in slits:
        wavelength = np.linspace(*slit.wavelength_range, _SAMPLES)
        ends = np.array([[slit.slit_y_low], [slit.slit_y_high]])
        column, row = optics.for_slit(slit).inverse(ends, wavelength)
        is_seen = (column >= columns[0] - 0.5) & (column <= columns[-1] + 0.5)
        is_seen &= ((row >= rows[0] - 0.5) & (row <= rows[-1] + 0.5)).any(axis=0)
        if is_seen.any():
            name = str(int(slit.name) + 1) if optics.is_ifu else slit.name  # slices are counted from 1
            found.append(_Outline(name, wavelength, np.where(is_seen, column, np.nan), np.where(is_seen, row, np.nan)))
    return found


def _rows_of(rate: xr.Dataset, outlines: list[_Outline]) -> xr.Dataset:
    """Return one image, without the rows that are far from all slits if these are most of the rows."""
    image = one_image(rate, 0)
    if not outlines:
        return image
    low = min(np.nanmin(one.row) for one in outlines)
    high = max(np.nanmax(one.row) for one in outlines)
    margin = 0.15 * (high - low)
    part = image.sel(row=slice(low - margin, high + margin))
    return part if part.sizes["row"] <= image.sizes["row"] // 3 else image


def _plot(axes: Axes, image: xr.Dataset, optics: Optics, outlines: list[_Outline]) -> None:
    """Draw the image and the outlines."""
    plot_rate(axes, image)
    limits = axes.get_xlim(), axes.get_ylim()
    seen = [one.wavelength[np.isfinite(one.column).any(axis=0)] for one in outlines]
    step = 0.1 if max((np.ptp(each) for each in seen), default=0.0) < 1.5 else 0.5
    few, many = len(outlines) <= _MOST_NUMBERS, len(outlines) > 40
    for outline in outlines:
        for column, row in zip(outline.column, outline.row, strict=True):
            axes.plot(column, row, color=SKY, linewidth=0.5 if many else 0.9)
        is_seen = np.flatnonzero(np.isfinite(outline.column).any(axis=0))
        for end in (is_seen[0], is_seen[-1]):
            axes.plot(outline.column[:, end], outline.row[:, end], color=SKY, linewidth=0.5 if many else 0.9)
        _mark_wavelengths(axes, outline, step, with_numbers=few)
        if len(outlines) <= _MOST_NAMES:
            _name(axes, outline, float(is_seen[0]), limits[0], "small" if not many else 5.5)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    noun = ("slice" if optics.is_ifu else "slit") + ("" if len(outlines) == 1 else "s")
    words = f"{optics.detector}   {optics.filter}   {optics.grating}   {len(outlines)} {noun}"
    axes.set_title(f"{words}, orange lines every {step} um" if outlines else words)


def _name(axes: Axes, outline: _Outline, first: float, limits: tuple[float, float], size: str | float) -> None:
    """Write the name of a slit left of its outline; where the outline begins at the edge of the image, inside."""
    place = (float(np.nanmin(outline.column)), float(np.nanmean(outline.row[:, int(first)])))
    is_left = place[0] > limits[0] + 0.06 * (limits[1] - limits[0])
    axes.annotate(
        outline.name,
        place,
        xytext=(-3 if is_left else 3, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
        fontsize=size,
        color="white",
        path_effects=[withStroke(linewidth=1.2, foreground="black")],
    ).set_in_layout(False)  # names beyond the image would make room for themselves


def _mark_wavelengths(axes: Axes, outline: _Outline, step: float, *, with_numbers: bool) -> None:
    """Draw a line across the slit at each round wavelength."""
    is_seen = np.isfinite(outline.column).all(axis=0)
    if not is_seen.any():
        return
    wavelength = outline.wavelength[is_seen]
    for number in range(int(np.ceil(wavelength[0] / step)), int(np.floor(wavelength[-1] / step)) + 1):
        value = number * step
        column, row = (
            [float(np.interp(value, wavelength, edge[is_seen])) for edge in axis]
            for axis in (outline.column, outline.row)
        )
        axes.plot(column, row, color=ORANGE, linewidth=0.7)
        if with_numbers:
            axes.annotate(
                f"{value:.1f}",
                (column[1], row[1]),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize="x-small",
                color="white",
                path_effects=[withStroke(linewidth=1.2, foreground="black")],
            ).set_in_layout(False)
