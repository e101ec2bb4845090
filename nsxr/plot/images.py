"""Pictures of count rates: the image, the map of flags, and the fraction of pixels with each flag."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, ListedColormap, to_rgba
from matplotlib.patches import Patch

from nsxr.compute.blocks import compute_together
from nsxr.model.dq import PixelFlag
from nsxr.model.types import Entries
from nsxr.plot.style import INK, ORANGE, PAPER, PINK, QUIET, SKY, edges, is_strip, label_image, mark_ticks, one_image

__all__ = ["plot_dq", "plot_dq_map", "plot_rate"]

# drawn over one another from last to first: a pixel shows the first class that it belongs to
_CLASSES: Mapping[str, tuple[int, str]] = {
    "reference pixel": (PixelFlag.REFERENCE_PIXEL, QUIET),
    "saturated": (PixelFlag.SATURATED, ORANGE),
    "do not use": (PixelFlag.DO_NOT_USE, INK),
    "jump": (PixelFlag.JUMP_DET, SKY),
    "other flag": (0xFFFFFFFF, PINK),
}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"


def plot_rate(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw a rate image in science orientation, with wavelength along the horizontal axis.

    The colour scale is linear around the background and logarithmic above (inverse hyperbolic sine). It runs from the
    1st to the 99.7th percentile of the usable pixels. Pixels without a rate are grey.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    rate : Dataset
        ``sci`` (row, column) or (integration, row, column) float32 [DN/s] and ``dq`` uint32.
    integration : int, default 0
        Position of the image, if there are several integrations.
    """
    plane = one_image(rate, integration)
    sci, dq = compute_together(plane["sci"], plane["dq"])
    unusable = PixelFlag.DO_NOT_USE | PixelFlag.SATURATED | PixelFlag.REFERENCE_PIXEL
    usable = sci.to_numpy()[np.isfinite(sci.to_numpy()) & (dq.to_numpy() & np.uint32(unusable) == 0)]
    low, middle, high = np.percentile(usable, (1, 50, 99.7)) if usable.size else (0.0, 0.0, 1.0)
    width = max(float(middle - low), 1e-3 * float(high - low), 1e-6)
    norm = AsinhNorm(linear_width=width, vmin=float(low), vmax=max(float(high), float(low) + width))
    cmap = colormaps["cividis"].with_extremes(bad=QUIET)
    image = axes.imshow(
        np.ma.masked_invalid(sci.to_numpy()), origin="lower", extent=edges(sci), norm=norm, cmap=cmap, rasterized=True
    )
    label_image(axes, sci)
    axes.set_title("rate")
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, extend="both", fraction=0.05, pad=0.01)
    bar.set_label(f"count rate [{sci.attrs.get('units', 'DN/s')}]")
    mark_ticks(bar, norm)


def _classes(dq: np.ndarray) -> np.ndarray:
    """Return the position in ``_CLASSES`` of each pixel. Pixels without flags get the number of classes."""
    classes = np.full(dq.shape, len(_CLASSES), dtype=np.uint8)
    for position, (mask, _) in reversed(list(enumerate(_CLASSES.values()))):
        classes[(dq & np.uint32(mask)) != 0] = position
    return classes


def plot_dq_map(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw a map of flagged pixels. Each pixel has the colour of its most important flag.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    rate : Dataset
        ``dq`` (row, column) or (integration, row, column) uint32.
    integration : int, default 0
        Position of the image, if there are several integrations.
    """
    (dq,) = compute_together(one_image(rate, integration)["dq"])
    classes = _classes(dq.to_numpy())
    colours = [to_rgba(colour) for _, colour in _CLASSES.values()] + [to_rgba(PAPER)]
    axes.imshow(
        classes,
        origin="lower",
        extent=edges(dq),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        interpolation="nearest",  # colours are classes, and the mean of two classes would be a third one
        rasterized=True,
    )
    label_image(axes, dq)
    axes.set_title("data quality")
    share = np.bincount(classes.ravel(), minlength=len(colours)) / classes.size
    names = [*_CLASSES, "no flag"]
    keys = [
        Patch(facecolor=colour, edgecolor=QUIET, label=f"{name} {_percent(part)}", linewidth=0.5)
        for name, colour, part in zip(names, colours, share, strict=True)
        if part > 0
    ]
    columns, depth = (len(keys), -0.24) if is_strip(dq) else (2, -0.16)
    place: Entries = {"loc": "upper center", "bbox_to_anchor": (0.5, depth), "ncols": columns}
    axes.legend(handles=keys, frameon=False, fontsize="small", **place)


def plot_dq(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw the fraction of pixels with each flag.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    rate : Dataset
        ``dq`` (row, column) or (integration, row, column) uint32.
    integration : int, default 0
        Position of the image, if there are several integrations.
    """
    (array,) = compute_together(one_image(rate, integration)["dq"])
    dq = array.to_numpy()
    shares = {flag: float(np.mean((dq & np.uint32(flag.value)) != 0)) for flag in PixelFlag}
    present = sorted(((share, flag) for flag, share in shares.items() if share > 0), key=lambda item: item[0])
    axes.set_title(f"flags: {_percent(float(np.mean(dq == 0)))} of pixels have none")
    axes.set_xlabel("fraction of pixels [%]")
    if not present:
        axes.set_yticks([])
        axes.set_xlim(0, 100)
        return
    percents = [100 * share for share, _ in present]
    special = {PixelFlag.DO_NOT_USE: INK, PixelFlag.SATURATED: ORANGE, PixelFlag.JUMP_DET: SKY}
    special[PixelFlag.REFERENCE_PIXEL] = QUIET
    axes.barh(range(len(present)), percents, color=[special.get(flag, PINK) for _, flag in present], height=0.7)
    axes.set_xscale("log")
    axes.set_xlim(min(percents) / 3, max(percents) * 8)
    axes.set_yticks(range(len(present)), [str(flag.name).lower().replace("_", " ") for _, flag in present])
    for position, (share, _) in enumerate(present):
        axes.annotate(
            _percent(share), (100 * share, position), (3, 0), textcoords="offset points", va="center", size="small"
        )
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
