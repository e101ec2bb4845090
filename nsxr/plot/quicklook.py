"""The quick look: rate image, data quality, a ramp with its fit, noise before and after correction.

Functions of :mod:`nsxr.plot` draw on the Axes that the caller gives, and keep no state. They do not use pyplot, so they
work in any thread and without a display. Only what is drawn is computed from lazy inputs.
"""

from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from nsxr.compute.blocks import compute_together
from nsxr.plot.images import plot_dq, plot_dq_map, plot_rate
from nsxr.plot.jumps import plot_snowballs
from nsxr.plot.noise import plot_noise_spectrum
from nsxr.plot.ramps import choose_pixel, plot_ramp
from nsxr.plot.style import is_strip, one_image, say, set_title

__all__ = ["plot_quicklook"]


def plot_quicklook(
    rate: xr.Dataset,
    ramp: xr.Dataset | None = None,
    raw: xr.Dataset | None = None,
    *,
    pixel: tuple[int, int] | None = None,
    integration: int = 0,
    amplifier: int | None = None,
    title: str | None = None,
) -> Figure:
    """Return a figure that shows an exposure at a glance.

    The figure has the rate image, a map of flags with circles around snowballs, the fraction of pixels with each flag,
    one ramp with its fit, and the noise spectrum before and after correction. Panels without data are left out.

    Parameters
    ----------
    rate : Dataset
        ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), or with integrations.
    ramp : Dataset, optional
        Ramps before the fit: ``sci`` [DN], ``groupdq``. Only one pixel and a few groups of one amplifier
        are computed.
    raw : Dataset, optional
        Exposure before reference-pixel correction, ``sci`` [DN], for the noise spectrum.
    pixel : tuple of int, optional
        Row and column label of the pixel of the ramp. The default is that of :func:`choose_pixel`.
    integration : int, default 0
        Position of the integration.
    amplifier : int, optional
        Amplifier of the noise spectrum, see :func:`plot_noise_spectrum`.
    title : str, optional
        The default is the file name, the instrument setup and the readout, from the header.

    Returns
    -------
    Figure
        The figure is not registered with pyplot. Save it with ``savefig``, or show it as the value of a notebook cell.
    """
    (image,) = compute_together(one_image(rate, integration))
    if is_strip(image["sci"]):
        figure = Figure(figsize=(15, 10), layout="constrained")
        rows: list[Any] = [["rate"] * 3, ["map"] * 3, ["flags", "ramp", "noise"]]
        panels = figure.subplot_mosaic(rows, height_ratios=(0.8, 0.8, 1.4))
    else:
        figure = Figure(figsize=(17, 8.6), layout="constrained")
        panels = figure.subplot_mosaic(
            [["rate", "map", "flags"], ["rate", "ramp", "noise"]], width_ratios=(2.1, 1.1, 1.1)
        )
    plot_rate(panels["rate"], image)
    plot_dq_map(panels["map"], image)
    if "snowballs" in image:
        plot_snowballs(panels["map"], image, None if "integration" not in rate.dims else int(image["integration"]))
    plot_dq(panels["flags"], image)
    if ramp is None:
        say(panels["ramp"], "no ramp given")
    else:
        if pixel is None:
            pixel = choose_pixel(image, jump="integration" in rate.dims or ramp.sizes["integration"] == 1)
        plot_ramp(panels["ramp"], ramp, image, pixel, integration)
    if ramp is None or raw is None:
        say(panels["noise"], "no noise spectrum:\nit needs the exposure before and after correction")
    elif ramp.sizes["group"] < 2:
        say(panels["noise"], "no noise spectrum:\nit needs two groups or more")
    else:
        plot_noise_spectrum(panels["noise"], raw, ramp, amplifier, integration)
    if title is None:
        keys = ("filename", "DETECTOR", "EXP_TYPE", "GRATING", "FILTER", "READPATT", "SUBARRAY")
        words = [str(rate.attrs[key]) for key in keys if rate.attrs.get(key)]
        if {"NINTS", "NGROUPS"} <= set(rate.attrs):
            words.append(f"integrations: {rate.attrs['NINTS']}   groups: {rate.attrs['NGROUPS']}")
        title = "   ".join(words)
    set_title(figure, title, "large")
    return figure
