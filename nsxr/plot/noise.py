"""Draw correlated noise before and after its correction: spectra of all amplifiers, and two frames."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsxr.compute.blocks import compute_together
from nsxr.diagnostics.noise import noise_spectrum
from nsxr.model.history import steps
from nsxr.model.readout import Readout
from nsxr.model.types import Entries
from nsxr.plot.style import BLUE, VERMILLION, set_title

__all__ = ["plot_noise", "plot_noise_spectrum", "plot_residual"]


_DRAWN = 1000
"""Rows and columns that are drawn of a large frame: more would take longer, and a screen does not show them."""


def _smooth(frequency: np.ndarray, power: np.ndarray, per_decade: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of a spectrum in logarithmic bins."""
    position = np.floor(per_decade * np.log10(frequency)).astype(int)
    _, bins = np.unique(position, return_inverse=True)
    count = np.bincount(bins)
    return np.bincount(bins, frequency) / count, np.bincount(bins, power) / count


def plot_noise_spectrum(
    axes: Axes, before: xr.Dataset, after: xr.Dataset, amplifier: int | None = None, integration: int = 0
) -> None:
    """Draw the noise spectrum of one amplifier, before and after a correction.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    before, after : Dataset
        Exposures as for :func:`noise_spectrum`, for example raw and after reference-pixel correction. If only
        ``after`` has had group_scale, ``before`` is multiplied by the same scale.
    amplifier : int, optional
        Number of the amplifier. The default is 2 if there are several, otherwise the only one.
    integration : int, default 0
        Position of the integration.
    """
    readout = Readout.from_header(after.attrs)
    if amplifier is None:
        amplifier = 2 if readout.n_outputs > 1 else 1

    def is_scaled(exposure: xr.Dataset) -> bool:
        return any(entry["step"] == "group_scale" and entry["status"] == "COMPLETE" for entry in steps(exposure))

    scale = 1.0
    if readout.frame_divisor and is_scaled(after) and not is_scaled(before):
        scale = readout.frame_divisor / readout.n_frames
    for exposure, factor, colour, name in ((before, scale, VERMILLION, "before"), (after, 1.0, BLUE, "after")):
        frequency, power = noise_spectrum(exposure, amplifier, integration)
        power = power * factor**2
        total = float(np.sqrt(np.trapezoid(power, frequency)))
        x, y = _smooth(frequency, power)
        axes.plot(x, y, color=colour, linewidth=1.6, label=f"{name}: {total:.1f} DN rms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("frequency [Hz]")
    axes.set_ylabel("noise power [DN²/Hz]")
    axes.set_title(f"noise along readout, amplifier {amplifier}")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_residual(axes: Axes, exposure: xr.Dataset, title: str, limit: float, integration: int = 0) -> None:
    """Draw the second difference of groups, in which light cancels.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], with three groups or more. With two groups,
        their difference is drawn.
    title : str
        Title of the picture.
    limit : float
        Limit of the colour scale [DN].
    integration : int, default 0
        Position of the integration.
    """
    order = 2 if exposure.sizes["group"] > 2 else 1
    (frames,) = compute_together(exposure["sci"].isel(integration=integration, group=slice(0, order + 1)))
    noise = np.diff(frames.to_numpy(), n=order, axis=0)[0] / np.sqrt(6.0 if order == 2 else 2.0)
    row, column = (exposure[dim].to_numpy() for dim in ("row", "column"))
    noise = noise[:: max(1, len(row) // _DRAWN), :: max(1, len(column) // _DRAWN)]
    style: Entries = {"origin": "lower", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": "auto"}
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
        Position of the integration.
    """
    amplifiers = sorted({*after["amplifier"].to_numpy().tolist()} - {0})
    n_outputs = len(amplifiers)
    readout = Readout.from_header(after.attrs)
    wide = max(n_outputs, 2)
    layout: list[Any] = [[f"amplifier {amplifiers[k % n_outputs]}" for k in range(wide)]]
    layout.append(["before"] * (wide // 2) + ["after"] * (wide - wide // 2))
    figure = Figure(figsize=(4.4 * wide, 9), layout="constrained")
    panels = figure.subplot_mosaic(layout)
    for number in amplifiers:
        plot_noise_spectrum(panels[f"amplifier {number}"], before, after, number, integration)
    (sample,) = compute_together(before["sci"].isel(integration=integration, group=slice(0, 2)))
    limit = 3 * float(np.nanpercentile(np.abs(np.diff(sample.to_numpy(), axis=0)), 50))
    for name, exposure in (("before", before), ("after", after)):
        plot_residual(panels[name], exposure, name, limit, integration)
    words = (str(after.attrs.get("filename", "")), readout.detector, readout.read_pattern, readout.subarray)
    set_title(figure, "   ".join(word for word in words if word))
    return figure
