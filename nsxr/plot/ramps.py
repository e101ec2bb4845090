"""Draw the ramp of one pixel, with its fit."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from nsxr.compute.blocks import compute_together
from nsxr.errors import ModelError
from nsxr.model.dq import GroupFlag, PixelFlag
from nsxr.model.history import steps
from nsxr.model.keywords import read
from nsxr.model.readout import Readout
from nsxr.model.types import Entries
from nsxr.plot.style import BLUE, INK, ORANGE, PINK, VERMILLION, one_image

__all__ = ["choose_pixel", "plot_ramp"]

_GROUP_STYLES: Mapping[str, tuple[int, str, str]] = {
    "do not use": (GroupFlag.DO_NOT_USE, "x", INK),
    "saturated": (GroupFlag.SATURATED, "^", ORANGE),
    "jump": (GroupFlag.JUMP_DET, "D", VERMILLION),
}


def choose_pixel(rate: xr.Dataset, integration: int = 0, jump: bool = True) -> tuple[int, int]:
    """Return the row and column labels of a pixel with an interesting ramp.

    With ``jump``, this is the pixel with the median rate among the brightest 5 % that have a jump. Without ``jump``, or
    if there is no such pixel, it is the usable, unsaturated pixel nearest to the 99th percentile of the rates.

    Parameters
    ----------
    rate : Dataset
        ``sci`` [DN/s] and ``dq``, (row, column) or (integration, row, column).
    integration : int, default 0
        Position of the image, if there are several integrations.
    jump : bool, default True
        Whether to prefer pixels with a jump.

    Raises
    ------
    ModelError
        If no pixel is usable.
    """
    plane = one_image(rate, integration)
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
        Axes to draw on.
    ramp : Dataset
        ``sci`` (integration, group, row, column) float32 [DN] and ``groupdq`` uint8, as before the fit.
        ``attrs["TGROUP"]`` is the time between groups [s].
    rate : Dataset
        ``sci``, ``var_poisson`` and ``var_rnoise`` of the rate or rateints. If a gain factor was
        applied after the fit, it is removed for the picture.
    pixel : tuple of int
        Row and column label.
    integration : int, default 0
        Position of the integration.
    """
    row, column = pixel
    here = ramp.isel(integration=integration).sel(row=row, column=column)
    fit = one_image(rate, integration).sel(row=row, column=column)
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
            style: Entries = {"markersize": 7, "markeredgewidth": 1.5, "zorder": 4, "label": name}
            axes.plot(times[which], values[which], marker, color=colour, fillstyle="none", linestyle="none", **style)
    other = ~plain & ~bad & ~jumped
    if other.any():
        axes.plot(times[other], values[other], "s", color=PINK, markersize=5, label="other flag", linestyle="none")
    axes.set_xlabel("time since the first group [s]" if "TGROUP" in ramp.attrs else "group")
    axes.set_ylabel(f"signal [{ramp['sci'].attrs.get('units', 'DN')}]")
    axes.set_title(f"ramp of row {row}, column {column}")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
