"""Draw snowballs at their positions."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection

__all__ = ["plot_snowballs"]


def plot_snowballs(axes: Axes, dataset: xr.Dataset, integration: int | None = None, colour: str = "#D55E00") -> None:
    """Draw a circle with the flagged radius around each snowball, over an image in detector pixels.

    Parameters
    ----------
    axes : Axes
        Axes with an image, for example from :func:`nsxr.plot.images.plot_dq_map`. Its limits do not change.
    dataset : Dataset
        ``snowballs`` (snowball, property) float32, from :func:`nsxr.flag_snowballs`.
    integration : int, optional
        Number of an integration, counted from 1. The default is all integrations.
    colour : str
        Colour of the circles.
    """
    events = dataset["snowballs"].dropna("snowball", how="all")
    if integration is not None:
        events = events[np.flatnonzero(events.sel(property="integration") == integration)]
    row, column, radius = (events.sel(property=name).values for name in ("row", "column", "masked_radius"))
    view = axes.get_xlim(), axes.get_ylim()
    circles = EllipseCollection(
        2 * radius,
        2 * radius,
        np.zeros(radius.size),
        units="xy",
        offsets=np.column_stack([column, row]),
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=colour,
        linewidths=1.2,
    )
    axes.add_collection(circles)
    axes.set(xlim=view[0], ylim=view[1])
    axes.set_title(f"{axes.get_title()}, {radius.size} snowball{'' if radius.size == 1 else 's'}".lstrip(", "))
