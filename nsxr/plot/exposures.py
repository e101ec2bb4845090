"""Quick-look figures: rate image, data quality, a ramp with its fit, noise before and after.

Every function draws on Axes that it is given and keeps no state; figures are made without pyplot, so
they work in any thread and without a display. Lazy inputs are cut to what is drawn before anything
is computed. Colours are those of Okabe and Ito [1]_, told apart with any colour vision.

References
----------
.. [1] Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
"""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nsxr.compute.blocks import compute_together
from nsxr.diagnostics.noise import noise_spectrum
from nsxr.errors import ModelError
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import steps
from nsxr.model.keywords import read
from nsxr.model.readout import Readout
from nsxr.plot.jumps import plot_snowballs

__all__ = [
    "choose_pixel",
    "plot_dq",
    "plot_dq_map",
    "plot_noise_spectrum",
    "plot_quicklook",
    "plot_ramp",
    "plot_rate",
    "set_title",
]

BLUE, SKY, GREEN, ORANGE, VERMILLION, PINK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, QUIET, PAPER = "#222222", "#8A8A8A", "#F4F4F4"

# drawn over one another from last to first: a pixel shows the first class that it belongs to
_CLASSES: Mapping[str, tuple[int, str]] = {
    "reference pixel": (PixelFlag.REFERENCE_PIXEL, QUIET),
    "saturated": (PixelFlag.SATURATED, ORANGE),
    "do not use": (PixelFlag.DO_NOT_USE, INK),
    "jump": (PixelFlag.JUMP_DET, SKY),
    "other flag": (0xFFFFFFFF, PINK),
}

_GROUP_STYLES: Mapping[str, tuple[int, str, str]] = {
    "do not use": (GroupFlag.DO_NOT_USE, "x", INK),
    "saturated": (GroupFlag.SATURATED, "^", ORANGE),
    "jump": (GroupFlag.JUMP_DET, "D", VERMILLION),
}


def _plane(dataset: xr.Dataset, integration: int) -> xr.Dataset:
    """Return one image of a rate or rateints Dataset."""
    return dataset.isel(integration=integration) if "integration" in dataset.dims else dataset


def _edges(plane: xr.DataArray) -> tuple[float, float, float, float]:
    row, column = plane["row"].to_numpy(), plane["column"].to_numpy()
    return float(column[0]) - 0.5, float(column[-1]) + 0.5, float(row[0]) - 0.5, float(row[-1]) + 0.5


def _is_strip(plane: xr.DataArray | xr.Dataset) -> bool:
    """Return whether an image is so much wider than high that its pixels are drawn stretched."""
    return plane.sizes["row"] <= plane.sizes["column"] // 3


def _label_image(axes: Axes, plane: xr.DataArray) -> None:
    axes.set_aspect("auto" if _is_strip(plane) else "equal")
    axes.set_xlabel("column [pixel], wavelength →")
    axes.set_ylabel("row [pixel]")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"


def plot_rate(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw a rate image in science orientation, wavelengths along the horizontal axis.

    The stretch is linear around the background and logarithmic above (inverse hyperbolic sine), set
    by usable pixels: from their 1st to their 99.7th percentile. Pixels without a rate are grey.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    rate : Dataset
        ``sci`` (row, column) or (integration, row, column) float32 [DN/s] and ``dq`` uint32.
    integration : int, default 0
        Which image, by position, if there are several.
    """
    plane = _plane(rate, integration)
    sci, dq = compute_together(plane["sci"], plane["dq"])
    unusable = PixelFlag.DO_NOT_USE | PixelFlag.SATURATED | PixelFlag.REFERENCE_PIXEL
    usable = sci.to_numpy()[np.isfinite(sci.to_numpy()) & (dq.to_numpy() & np.uint32(unusable) == 0)]
    low, middle, high = np.percentile(usable, (1, 50, 99.7)) if usable.size else (0.0, 0.0, 1.0)
    width = max(float(middle - low), 1e-3 * float(high - low), 1e-6)
    norm = AsinhNorm(linear_width=width, vmin=float(low), vmax=max(float(high), float(low) + width))
    cmap = colormaps["cividis"].with_extremes(bad=QUIET)
    image = axes.imshow(
        np.ma.masked_invalid(sci.to_numpy()), origin="lower", extent=_edges(sci), norm=norm, cmap=cmap, rasterized=True
    )
    _label_image(axes, sci)
    axes.set_title("rate")
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, extend="both", fraction=0.05, pad=0.01)
    bar.set_label(f"count rate [{sci.attrs.get('units', 'DN/s')}]")
    decades = 10.0 ** np.arange(-3, 7)
    ticks = np.concatenate([-decades[::-1], [0.0], decades])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    places, zero = np.asarray(norm(ticks)), float(norm(0.0))
    ticks = ticks[(ticks == 0) | (np.abs(places - zero) > 0.05)]  # others would overprint the zero
    bar.set_ticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()


def _classes(dq: np.ndarray) -> np.ndarray:
    """Return the position in ``_CLASSES`` of each pixel, or their number for pixels without flags."""
    classes = np.full(dq.shape, len(_CLASSES), dtype=np.uint8)
    for position, (mask, _) in reversed(list(enumerate(_CLASSES.values()))):
        classes[(dq & np.uint32(mask)) != 0] = position
    return classes


def plot_dq_map(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw where flagged pixels are, by what matters most about each.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    rate : Dataset
        ``dq`` (row, column) or (integration, row, column) uint32.
    integration : int, default 0
        Which image, by position, if there are several.
    """
    (dq,) = compute_together(_plane(rate, integration)["dq"])
    classes = _classes(dq.to_numpy())
    colours = [to_rgba(colour) for _, colour in _CLASSES.values()] + [to_rgba(PAPER)]
    axes.imshow(
        classes,
        origin="lower",
        extent=_edges(dq),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        interpolation="nearest",  # colours are classes: means of two would be a third
        rasterized=True,
    )
    _label_image(axes, dq)
    axes.set_title("data quality")
    share = np.bincount(classes.ravel(), minlength=len(colours)) / classes.size
    names = [*_CLASSES, "no flag"]
    keys = [
        Patch(facecolor=colour, edgecolor=QUIET, label=f"{name} {_percent(part)}", linewidth=0.5)
        for name, colour, part in zip(names, colours, share, strict=True)
        if part > 0
    ]
    columns, depth = (len(keys), -0.24) if _is_strip(dq) else (2, -0.16)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, depth), "ncols": columns}
    axes.legend(handles=keys, frameon=False, fontsize="small", **place)


def plot_dq(axes: Axes, rate: xr.Dataset, integration: int = 0) -> None:
    """Draw the fraction of pixels that carries each flag.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    rate : Dataset
        ``dq`` (row, column) or (integration, row, column) uint32.
    integration : int, default 0
        Which image, by position, if there are several.
    """
    (array,) = compute_together(_plane(rate, integration)["dq"])
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


def choose_pixel(rate: xr.Dataset, integration: int = 0, jump: bool = True) -> tuple[int, int]:
    """Return the row and column labels of a pixel whose ramp is worth looking at.

    Among usable, unsaturated pixels it is the one nearest to the 99th percentile of the rates; with
    ``jump``, it is the median one of the brightest twentieth that have a jump, if there are any.

    Parameters
    ----------
    rate : Dataset
        ``sci`` [DN/s] and ``dq``, (row, column) or (integration, row, column).
    integration : int, default 0
        Which image, by position, if there are several.
    jump : bool, default True
        Whether to prefer pixels with a jump.

    Raises
    ------
    ModelError
        If no pixel is usable.
    """
    plane = _plane(rate, integration)
    sci, dq = (array.to_numpy() for array in compute_together(plane["sci"], plane["dq"]))
    unusable = PixelFlag.DO_NOT_USE | PixelFlag.SATURATED | PixelFlag.REFERENCE_PIXEL
    usable = np.isfinite(sci) & (dq & np.uint32(unusable) == 0)
    if not usable.any():
        raise ModelError("no pixel has a usable rate; name the pixel to draw")
    bright = usable & (sci >= np.percentile(sci[usable], 95.0))
    with_jump = bright & (dq & np.uint32(PixelFlag.JUMP_DET) != 0)
    percentile = 99.0
    if jump and with_jump.any():
        usable, percentile = with_jump, 50.0
    distance = np.where(usable, np.abs(sci - np.percentile(sci[usable], percentile)), np.inf)
    row, column = np.unravel_index(np.argmin(distance), distance.shape)
    return int(plane["row"][row]), int(plane["column"][column])


def plot_ramp(axes: Axes, ramp: xr.Dataset, rate: xr.Dataset, pixel: tuple[int, int], integration: int = 0) -> None:
    """Draw the groups of one pixel, their flags as symbols, and the fitted slope.

    The slope is drawn through each run of good groups, from one jump to the next.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    ramp : Dataset
        ``sci`` (integration, group, row, column) float32 [DN] and ``groupdq`` uint8, as fitted.
        ``attrs["TGROUP"]`` is the time between groups [s].
    rate : Dataset
        ``sci``, ``var_poisson`` and ``var_rnoise`` of the rate or rateints. A gain factor applied
        after the fit is taken out again.
    pixel : tuple of int
        Row and column label.
    integration : int, default 0
        Which integration, by position.
    """
    row, column = pixel
    here = ramp.isel(integration=integration).sel(row=row, column=column)
    fit = _plane(rate, integration).sel(row=row, column=column)
    values, flags, slope, poisson, read_noise = (
        array.to_numpy()
        for array in compute_together(here["sci"], here["groupdq"], fit["sci"], fit["var_poisson"], fit["var_rnoise"])
    )
    scaled = any(entry["step"] == "gain_scale" and entry["status"] == "COMPLETE" for entry in steps(rate))
    factor = read(rate.attrs, "GAINFACT", default=1.0) if scaled else 1.0
    slope, error = float(slope) / factor, float(np.sqrt(poisson + read_noise)) / factor
    times = np.arange(len(values)) * Readout.from_header(ramp.attrs).group_time
    bad = (flags & np.uint8(GroupFlag.DO_NOT_USE | GroupFlag.SATURATED)) != 0
    jumped = (flags & np.uint8(GroupFlag.JUMP_DET)) != 0
    segment = np.cumsum(jumped | np.diff(bad, prepend=bad[:1]))
    for number in np.unique(segment[~bad]):
        inside = (segment == number) & ~bad
        offset = np.mean(values[inside] - slope * times[inside])
        ends = times[inside][[0, -1]] + 0.3 * (times[1] - times[0]) * np.array([-1, 1]) if len(times) > 1 else times
        axes.plot(ends, offset + slope * ends, color=BLUE, linewidth=1.6, zorder=2)
    label = f"{slope:.4g} ± {error:.2g} DN/s"
    axes.plot([], [], color=BLUE, linewidth=1.6, label=label)
    plain = flags == 0
    axes.plot(times[plain], values[plain], "o", color=INK, markersize=4, zorder=3, label="good group")
    for name, (mask, marker, colour) in _GROUP_STYLES.items():
        which = (flags & np.uint8(mask)) != 0
        if which.any():
            style: dict[str, Any] = {"markersize": 7, "markeredgewidth": 1.5, "zorder": 4, "label": name}
            axes.plot(times[which], values[which], marker, color=colour, fillstyle="none", linestyle="none", **style)
    other = ~plain & ~bad & ~jumped
    if other.any():
        axes.plot(times[other], values[other], "s", color=PINK, markersize=5, label="other flag", linestyle="none")
    axes.set_xlabel("time since the first group [s]" if "TGROUP" in ramp.attrs else "group")
    axes.set_ylabel(f"signal [{ramp['sci'].attrs.get('units', 'DN')}]")
    axes.set_title(f"ramp of row {row}, column {column}")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(frequency: np.ndarray, power: np.ndarray, per_decade: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return means of a spectrum in bins of equal ratio."""
    position = np.floor(per_decade * np.log10(frequency)).astype(int)
    _, bins = np.unique(position, return_inverse=True)
    count = np.bincount(bins)
    return np.bincount(bins, frequency) / count, np.bincount(bins, power) / count


def plot_noise_spectrum(
    axes: Axes, before: xr.Dataset, after: xr.Dataset, amplifier: int | None = None, integration: int = 0
) -> None:
    """Draw the noise of one output along readout time, before and after correction.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    before, after : Dataset
        Exposures as :func:`noise_spectrum` takes them; raw, and after reference-pixel correction.
        ``before`` is brought to the scale of ``after`` if only that had group_scale applied.
    amplifier : int, optional
        Output; default 2 where there are several, else the only one.
    integration : int, default 0
        Which integration, by position.
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
    axes.set_title(f"noise along readout, output {amplifier}")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def set_title(figure: Figure, title: str, size: str = "medium") -> None:
    """Give a figure a title in as many lines as its width needs."""
    text = figure.suptitle(title, fontsize=size)
    points = figure.get_figwidth() * 72
    letters = int(
        0.95 * points / (0.6 * float(text.get_fontsize()))
    )  # a letter of the usual fonts is this wide, or less
    text.set_text(textwrap.fill(title, max(letters, 10), replace_whitespace=False, break_on_hyphens=False))


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=QUIET, transform=axes.transAxes)


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

    Rate image, data quality map with circles around large cosmic-ray events, the fraction of pixels per flag, one ramp
    with its fit, and the noise spectrum before and after correction. What is not given is left out.

    Parameters
    ----------
    rate : Dataset
        ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), or with integrations.
    ramp : Dataset, optional
        Exposure as fitted: ``sci`` [DN], ``groupdq``. Only one pixel and a few groups of one output
        are computed.
    raw : Dataset, optional
        Exposure before reference-pixel correction, ``sci`` [DN], for the noise spectrum.
    pixel : tuple of int, optional
        Row and column label of the ramp; default :func:`choose_pixel`.
    integration : int, default 0
        Which integration, by position.
    amplifier : int, optional
        Output of the noise spectrum; see :func:`plot_noise_spectrum`.
    title : str, optional
        Default: file name, instrument setup and readout, from the header.

    Returns
    -------
    Figure
        Not known to pyplot; save it with its ``savefig`` or show it as the value of a notebook cell.
    """
    (image,) = compute_together(_plane(rate, integration))
    if _is_strip(image["sci"]):
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
        _say(panels["ramp"], "no ramp given")
    else:
        if pixel is None:
            pixel = choose_pixel(image, jump="integration" in rate.dims or ramp.sizes["integration"] == 1)
        plot_ramp(panels["ramp"], ramp, image, pixel, integration)
    if ramp is None or raw is None:
        _say(panels["noise"], "no noise spectrum:\nit needs the exposure before and after correction")
    elif ramp.sizes["group"] < 2:
        _say(panels["noise"], "no noise spectrum:\nit needs two groups or more")
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
