"""Draw residual non-linearity: the slopes of late groups relative to early groups."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsxr.model.types import Entries
from nsxr.plot.style import set_title

__all__ = ["plot_linearity", "plot_linearity_residual"]

_STYLES = {"all": ("o", "#0072B2"), "brighter": ("^", "#D55E00"), "fainter": ("v", "#009E73")}


def plot_linearity_residual(axes: Axes, residual: xr.Dataset, amplifier: int) -> None:
    """Draw the residual of one amplifier against signal, in per cent, with error bars.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    residual : Dataset
        From :func:`nsxr.measure_linearity_residual`.
    amplifier : int
        Number of the amplifier.
    """
    one = residual.sel(amplifier=amplifier)
    for number, (kind, (marker, colour)) in enumerate(_STYLES.items()):
        part = one.sel(kind=kind)
        signal = part["signal"].values * 1.04 ** (number - 1)  # so that symbols do not overlap
        style: Entries = {
            "fmt": marker,
            "color": colour,
            "markersize": 4,
            "elinewidth": 1,
            "label": f"{kind} pixels",
        }
        axes.errorbar(signal, 100 * part["residual"].values, 100 * part["residual_error"].values, **style)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("signal at the end of the ramp [DN]")
    axes.set_ylabel("late over early slope, less one [%]")
    axes.set_title(f"amplifier {amplifier}")
    axes.spines[["top", "right"]].set_visible(False)


def plot_linearity(residual: xr.Dataset) -> Figure:
    """Return a figure of all amplifiers. The parameter is that of :func:`plot_linearity_residual`."""
    residual = residual.compute()
    amplifiers = residual["amplifier"].values
    figure = Figure(figsize=(4.6 * amplifiers.size + 1, 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, amplifiers.size, sharey=True))
    for axes, amplifier in zip(panels, amplifiers, strict=True):
        plot_linearity_residual(axes, residual, int(amplifier))
        axes.label_outer()
    panels[0].legend(frameon=False, fontsize="small")
    words = (str(residual.attrs.get(key, "")) for key in ("filename", "DETECTOR", "READPATT", "SUBARRAY"))
    set_title(figure, "   ".join(word for word in words if word))
    return figure
