"""Draw correlated noise before and after its correction: spectra of all outputs, and two frames."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsxr.compute.blocks import compute_together
from nsxr.model.readout import Readout
from nsxr.plot.exposures import plot_noise_spectrum, set_title

__all__ = ["plot_noise", "plot_residual"]


def plot_residual(axes: Axes, exposure: xr.Dataset, title: str, limit: float, integration: int = 0) -> None:
    """Draw what the second difference of groups deviates from the one before, in which light cancels.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], three groups or more; of two, their difference is drawn.
    title : str
        What it is.
    limit : float
        End of the colour scale [DN].
    integration : int, default 0
        Which integration, by position.
    """
    order = 2 if exposure.sizes["group"] > 2 else 1
    (frames,) = compute_together(exposure["sci"].isel(integration=integration, group=slice(0, order + 1)))
    noise = np.diff(frames.to_numpy(), n=order, axis=0)[0] / np.sqrt(6.0 if order == 2 else 2.0)
    row, column = (exposure[dim].to_numpy() for dim in ("row", "column"))
    style: dict[str, Any] = {"origin": "lower", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": "auto"}
    image = axes.imshow(noise, extent=(column[0], column[-1], row[0], row[-1]), interpolation="nearest", **style)
    axes.set_title(title)
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.figure.colorbar(image, ax=axes, label="noise of a group [DN]", pad=0.01)


def plot_noise(before: xr.Dataset, after: xr.Dataset, integration: int = 0) -> Figure:
    """Return a figure of the noise of an exposure before and after a correction.

    Parameters
    ----------
    before, after : Dataset
        Ramps with two groups or more: ``sci`` (integration, group, row, column) float32 [DN]. A few groups of one
        integration are computed.
    integration : int, default 0
        Which integration, by position.
    """
    outputs = sorted({*after["amplifier"].to_numpy().tolist()} - {0})
    n_outputs = len(outputs)
    readout = Readout.from_header(after.attrs)
    wide = max(n_outputs, 2)
    layout: list[Any] = [[f"output {outputs[k % n_outputs]}" for k in range(wide)]]
    layout.append(["before"] * (wide // 2) + ["after"] * (wide - wide // 2))
    figure = Figure(figsize=(4.4 * wide, 9), layout="constrained")
    panels = figure.subplot_mosaic(layout)
    for number in outputs:
        plot_noise_spectrum(panels[f"output {number}"], before, after, number, integration)
    (sample,) = compute_together(before["sci"].isel(integration=integration, group=slice(0, 2)))
    limit = 3 * float(np.nanpercentile(np.abs(np.diff(sample.to_numpy(), axis=0)), 50))
    for name, exposure in (("before", before), ("after", after)):
        plot_residual(panels[name], exposure, name, limit, integration)
    words = (str(after.attrs.get("filename", "")), readout.detector, readout.read_pattern, readout.subarray)
    set_title(figure, "   ".join(word for word in words if word))
    return figure
