"""Colours, titles and axes that all pictures share.

The colours of Okabe and Ito [1]_ can be told apart with any colour vision.

References
----------
.. [1] Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
"""

import textwrap

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "ORANGE",
    "PAPER",
    "PINK",
    "QUIET",
    "SKY",
    "VERMILLION",
    "edges",
    "is_strip",
    "label_image",
    "mark_ticks",
    "one_image",
    "readable_flux",
    "say",
    "set_title",
]

BLUE, SKY, GREEN, ORANGE, VERMILLION, PINK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, QUIET, PAPER = "#222222", "#8A8A8A", "#F4F4F4"


def one_image(dataset: xr.Dataset, integration: int) -> xr.Dataset:
    """Return one image of a rate or rateints Dataset."""
    return dataset.isel(integration=integration) if "integration" in dataset.dims else dataset


def edges(plane: xr.DataArray) -> tuple[float, float, float, float]:
    """Return the outer edges of an image in columns and rows, in the order for ``imshow``."""
    row, column = plane["row"].to_numpy(), plane["column"].to_numpy()
    return float(column[0]) - 0.5, float(column[-1]) + 0.5, float(row[0]) - 0.5, float(row[-1]) + 0.5


def is_strip(plane: xr.DataArray | xr.Dataset) -> bool:
    """Return whether an image is so wide that its pixels are drawn stretched."""
    return plane.sizes["row"] <= plane.sizes["column"] // 3


def label_image(axes: Axes, plane: xr.DataArray) -> None:
    """Label the axes of an image and choose its aspect."""
    axes.set_aspect("auto" if is_strip(plane) else "equal")
    axes.set_xlabel("column [pixel], wavelength →")
    axes.set_ylabel("row [pixel]")


def mark_ticks(bar: Colorbar, norm: AsinhNorm) -> None:
    """Mark zero and powers of ten on a colour bar, without those that would overprint the zero.

    Where there are few powers of ten, 2 and 5 times these are marked too.
    """
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    decades = 10.0 ** np.arange(-6, 7)
    seen = decades[(decades > max(low, 0.0)) & (decades < high)]
    if np.count_nonzero(np.asarray(norm(seen)) > float(norm(max(low, 0.0))) + 0.05) < 2:
        decades = np.sort(np.concatenate([decades, 2 * decades, 5 * decades]))
    ticks = np.concatenate([-decades[::-1], [0.0], decades])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    places, zero = np.asarray(norm(ticks)), float(norm(0.0))
    ticks = ticks[(ticks == 0) | (np.abs(places - zero) > 0.05)]
    bar.set_ticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()


def set_title(figure: Figure, title: str, size: str = "medium") -> None:
    """Give a figure a title, with line breaks so that it fits the width."""
    text = figure.suptitle(title, fontsize=size)
    points = figure.get_figwidth() * 72
    letters = int(0.95 * points / (0.6 * float(text.get_fontsize())))  # no letter of the usual fonts is wider
    text.set_text(textwrap.fill(title, max(letters, 10), replace_whitespace=False, break_on_hyphens=False))


def readable_flux(values: np.ndarray, unit: str) -> tuple[float, str]:
    """Return a factor and a unit that make fluxes in Jy or MJy easy to read. Other units stay as they are."""
    known = np.abs(values[np.isfinite(values)])
    typical = float(np.percentile(known, 90)) if known.size else 0.0
    in_jansky = {"Jy": 1.0, "MJy": 1e6}.get(unit)
    if in_jansky is None or not typical > 0:
        return 1.0, unit
    for factor, name in ((1e9, "nJy"), (1e6, "µJy"), (1e3, "mJy")):
        if typical * in_jansky * factor < 1000:
            return in_jansky * factor, name
    return in_jansky, "Jy"


def say(axes: Axes, text: str) -> None:
    """Write a text in place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=QUIET, transform=axes.transAxes)
