"""Colours, titles and axes that all pictures share.

The colours of Okabe and Ito [1]_ can be told apart with any colour vision.

References
----------
.. [1] Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
"""

import textwrap

import xarray as xr
from matplotlib.axes import Axes
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
    "one_image",
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


def set_title(figure: Figure, title: str, size: str = "medium") -> None:
    """Give a figure a title, with line breaks so that it fits the width."""
    text = figure.suptitle(title, fontsize=size)
    points = figure.get_figwidth() * 72
    letters = int(0.95 * points / (0.6 * float(text.get_fontsize())))  # no letter of the usual fonts is wider
    text.set_text(textwrap.fill(title, max(letters, 10), replace_whitespace=False, break_on_hyphens=False))


def say(axes: Axes, text: str) -> None:
    """Write a text in place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=QUIET, transform=axes.transAxes)
