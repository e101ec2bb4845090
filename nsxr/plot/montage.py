"""Many slits on one page: each slit as a strip over its spectrum."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nsxr.model.types import Entries
from nsxr.plot.slit_images import Drawn, draw_band, draw_sky, draw_strip, mark_source, signal_to_noise

__all__ = ["draw_montage"]

_MOST = 100
_COLUMNS = ((3, 1), (12, 2), (36, 3), (60, 4), (_MOST, 5))
"""Number of columns for up to so many slits."""


def draw_montage(slits: Sequence[Drawn], skies: Sequence[xr.Dataset] = ()) -> Figure:
    """Draw each slit as a strip over its spectrum. Of more than 100 slits, those with the highest signal to noise.

    Parameters
    ----------
    slits : sequence of Drawn
        From :func:`nsxr.plot.slit_images.prepare`.
    skies : sequence of Dataset, optional
        Spectra of the sky that were subtracted: one from all slits, or one from each fixed slit. They are drawn last.
    """
    ratios = [signal_to_noise(one.spectrum) for one in slits]
    order = np.argsort([-ratio if np.isfinite(ratio) else np.inf for ratio in ratios], kind="stable")
    chosen = sorted(order[:_MOST])  # in the order of the product
    across = next(columns for most, columns in _COLUMNS if len(chosen) <= most)
    down = -(-(len(chosen) + bool(skies)) // across)
    wide, high = (
        {1: 10.0, 2: 12.0, 3: 14.0}.get(across, 16.5),
        max(1.2 if across > 3 else 1.7, 2.2 if across == 1 else 0.0),
    )
    margin = 0.75
    figure = Figure(figsize=(wide, down * high + 2 * margin - 0.15))
    width, height = figure.get_size_inches()
    left, gap = 0.6, 0.6
    cell = (width - left - 0.15 - (across - 1) * gap) / across
    boxes = [
        (left + column * (cell + gap), height - margin - row * high, cell, high)
        for row, column in (divmod(number, across) for number in range(len(chosen) + 1))
    ]
    for box, position in zip(boxes, chosen, strict=False):
        _draw_cell(figure, slits[position], ratios[position], box)
    if skies:
        x, top, *_ = boxes[-1]
        axes = figure.add_axes((x / width, (top - high + 0.2) / height, cell / width, (high - 0.4) / height))
        draw_sky(axes, skies)
        axes.set_title("sky that was subtracted", fontsize=8, loc="left", weight="bold", pad=2)
        axes.tick_params(labelsize=7, length=2, pad=1.5)
        axes.yaxis.label.set_fontsize(7)
    header = slits[0].header
    words = [header.exposure, header.detector, header.filter, header.grating]
    count = f"{len(chosen)} slits"
    if len(chosen) < len(slits):
        count = f"{len(chosen)} of {len(slits)} slits, those with the highest S/N"
    figure.suptitle("   ".join([*filter(None, words), count]), fontsize="large", y=1 - 0.12 / height)
    key = "strips: signal over noise from -2 to 30, orange: expected place of the source, grey: flagged"
    key += "     spectra: flux with its standard deviation, red: flagged"
    figure.text(0.5, 1 - 0.42 / height, key, ha="center", fontsize="small")
    figure.supxlabel("wavelength [µm]", fontsize="medium", y=0.12 / height)
    return figure


def _draw_cell(figure: Figure, drawn: Drawn, ratio: float, box: tuple[float, float, float, float]) -> None:
    """Draw one slit into a box: left, top, width and height in inches."""
    width, height = figure.get_size_inches()
    x, top, cell, high = box
    words, strip = 0.17, 0.24 * high
    bottom = 0.2
    body = high - words - strip - bottom

    def place(low: float, tall: float) -> Axes:
        return figure.add_axes((x / width, low / height, cell / width, tall / height))

    image = place(top - words - strip, strip)
    draw_strip(image, drawn, over_noise=True)
    mark_source(image, size=4)
    image.set_xticks([])
    image.set_yticks([])
    spectrum = place(top - words - strip - body, body)
    unit = draw_band(spectrum, drawn.spectrum, width=0.6)
    spectrum.set_ylabel(unit, fontsize=7, labelpad=1)
    spectrum.set_xlim(image.get_xlim())
    spectrum.tick_params(labelsize=7, length=2, pad=1.5)
    spectrum.yaxis.set_major_locator(MaxNLocator(3, prune="upper"))
    spectrum.xaxis.set_major_locator(MaxNLocator(6))
    header = drawn.header
    source = header.source_name or header.target
    name = f"{header.name}   {source}" if source and source != header.name else header.name
    style: Entries = {"fontsize": 8, "transform": image.transAxes, "va": "bottom", "clip_on": False}
    image.text(0, 1.08, name, ha="left", weight="bold", **style)
    found = f"S/N {ratio:.2g}" if np.isfinite(ratio) else "no flux"
    details = [header.shutters, header.source_type.lower(), found]
    image.text(1, 1.08, "   ".join(filter(None, details)), ha="right", **style)
