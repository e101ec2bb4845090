"""Draw where the light of slits or slices falls on an image of count rates."""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.plot.images import plot_rate
from nsxr.plot.style import ORANGE, SKY

__all__ = ["plot_outlines", "plot_slits"]

_SAMPLES = 300
_MOST_NAMES = 120


def plot_slits(axes: Axes, rate: xr.Dataset, optics: Optics, slits: Iterable[Slit]) -> None:
    """Draw outlines of slits with their names and wavelengths over an image of count rates.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    rate : Dataset
        ``sci`` (row, column) or (integration, row, column) float32 [DN/s] and ``dq`` uint32. The first integration is
        drawn.
    optics : Optics
        From :func:`nsxr.open_optics`.
    slits : iterable of Slit
        The slits. Slits that miss the image are not drawn.
    """
    plot_rate(axes, rate)
    axes.set_title(f"{optics.detector} {optics.filter} {optics.grating}: where the light of slits falls")
    plot_outlines(axes, rate, optics, slits)


def plot_outlines(axes: Axes, rate: xr.Dataset, optics: Optics, slits: Iterable[Slit]) -> None:
    """Draw the outlines alone. Parameters are those of :func:`plot_slits`."""
    columns, rows = (rate.indexes[dim].to_numpy() for dim in ("column", "row"))
    limits = columns[0] - 0.5, columns[-1] + 0.5, rows[0] - 0.5, rows[-1] + 0.5
    drawn = []
    for slit in slits:
        low, high = slit.wavelength_range
        wavelength = np.linspace(low, high, _SAMPLES)
        rays = optics.for_slit(slit)
        edges = [rays.inverse(np.full(_SAMPLES, end), wavelength) for end in (slit.slit_y_low, slit.slit_y_high)]
        is_seen = [_inside(*edge, limits) for edge in edges]
        if not (is_seen[0] | is_seen[1]).any():
            continue
        drawn.append((slit.name, wavelength, edges, is_seen[0] | is_seen[1]))
    many = len(drawn) > 40
    for name, wavelength, edges, is_seen in drawn:
        for column, row in edges:
            axes.plot(column[is_seen], row[is_seen], color=SKY, linewidth=0.5 if many else 0.9)
        for end in (np.flatnonzero(is_seen)[0], np.flatnonzero(is_seen)[-1]):
            axes.plot([edge[0][end] for edge in edges], [edge[1][end] for edge in edges], color=SKY, linewidth=0.5)
        _mark_wavelengths(axes, wavelength, edges, is_seen, with_numbers=len(drawn) <= 6)
        if len(drawn) <= _MOST_NAMES:
            first = np.flatnonzero(is_seen)[0]
            place = edges[0][0][first], 0.5 * (edges[0][1][first] + edges[1][1][first])
            is_left = place[0] > limits[0] + 0.06 * (limits[1] - limits[0])
            axes.annotate(
                name,
                place,
                xytext=(-3 if is_left else 3, 0),
                textcoords="offset points",
                ha="right" if is_left else "left",
                va="center",
                fontsize=5 if many else 8,
                color="white",
                path_effects=[withStroke(linewidth=1.2, foreground="black")],
            )
    axes.set_xlim(limits[0], limits[1])
    axes.set_ylim(limits[2], limits[3])


def _inside(column: np.ndarray, row: np.ndarray, limits: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray((column >= limits[0]) & (column <= limits[1]) & (row >= limits[2]) & (row <= limits[3]))


def _mark_wavelengths(
    axes: Axes,
    wavelength: np.ndarray,
    edges: list[tuple[np.ndarray, np.ndarray]],
    is_seen: np.ndarray,
    *,
    with_numbers: bool,
) -> None:
    """Draw a line across the slit at each round wavelength."""
    low, high = wavelength[is_seen].min(), wavelength[is_seen].max()
    step = 0.1 if high - low < 1.5 else 0.5
    for value in np.arange(np.ceil(low / step) * step, high, step):
        ends = [[np.interp(value, wavelength, axis) for axis in edge] for edge in edges]
        axes.plot([ends[0][0], ends[1][0]], [ends[0][1], ends[1][1]], color=ORANGE, linewidth=0.6)
        if with_numbers:
            axes.annotate(
                f"{value:.1f}",
                (ends[1][0], ends[1][1]),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=6,
                color=ORANGE,
                path_effects=[withStroke(linewidth=1.0, foreground="black")],
                annotation_clip=True,
            )
