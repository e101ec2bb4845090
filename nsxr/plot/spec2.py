"""The quick look at stage 2: one page for a slit or the IFU, and a montage for many slits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsxr.compute.blocks import compute_together
from nsxr.compute.cluster import worker_errors
from nsxr.errors import ModelError
from nsxr.model.dq import PixelFlag
from nsxr.model.slit_header import SlitHeader
from nsxr.model.types import Entries
from nsxr.model.variables import variances_of
from nsxr.plot.montage import draw_montage
from nsxr.plot.slices import draw_slices
from nsxr.plot.slit_images import (
    Drawn,
    along_source,
    draw_band,
    draw_sky,
    draw_strip,
    mark_source,
    prepare,
    signal_to_noise,
    write_units,
)
from nsxr.plot.spectra import white_light
from nsxr.plot.style import BLUE, GREEN, INK, PINK, QUIET, VERMILLION, mark_ticks, readable_flux, say, set_title
from nsxr.slits.collection import iterate_slits

__all__ = ["draw_spec2"]

_FLAGGED = np.uint32(PixelFlag.DO_NOT_USE.value)
_FACTORS = {"flatfield": ("flat field", BLUE), "pathloss": ("path loss", VERMILLION), "barshadow": ("bar shadow", PINK)}


def draw_spec2(tree: xr.DataTree) -> Figure:
    """Return a figure that shows the products of stage 2 at a glance.

    - One slit: the slit in wavelength order with the expected place of its source, the factors that it was divided by,
      and the spectrum with its error. A time series shows its mean and its median spectrum, and the white light and
      the flux of each wavelength against time.
    - Several slits: each slit over its spectrum. Of more than 100 slits, those with the highest signal to noise.
    - The spectrum of the sky that was subtracted, if the tree has ``sky``.
    - The IFU: the frame, and the median of each place in each slice, the slices side by side.

    Only what is drawn is computed from lazy products.

    Parameters
    ----------
    tree : DataTree
        From :func:`nsxr.spec2`: ``cal`` and, except for the IFU, ``x1d``; with or without ``sky``.

    Returns
    -------
    Figure
        The figure is not registered with pyplot. Save it with ``savefig``, or show it as the value of a notebook cell.

    Raises
    ------
    ModelError
        If the tree has no ``cal``, or no ``x1d`` for slits.
    """
    if "cal" not in tree.children or not (tree["cal"].children or "slice" in tree["cal"].coords):
        raise ModelError(
            f"nodes of the tree are {', '.join(tree.children) or 'none'}, expected cal with slits or slices"
        )
    if not tree["cal"].children:
        return draw_slices(tree["cal"].to_dataset())
    if "x1d" not in tree.children:
        raise ModelError("the tree has no x1d: without the step extract_1d there are no spectra to draw")
    with worker_errors():
        spectra = dict(iterate_slits(tree.children["x1d"]))
        cuts = {name: _needed(slit) for name, slit in iterate_slits(tree.children["cal"]) if name in spectra}
        skies = [sky for _, sky in iterate_slits(tree.children["sky"])] if "sky" in tree.children else []
        images, found, skies = compute_together(cuts, {name: _plain(spectra[name]) for name in cuts}, skies)
    series = any("integration" in spectrum.dims for spectrum in found.values())
    drawn = {name: prepare(images[name], typical(found[name])) for name in images}
    pages = {name: one for name, one in drawn.items() if one is not None}
    if len(pages) > 1:
        return draw_montage(list(pages.values()), skies)
    for name, one in pages.items():
        return _draw_page(one, found[name] if series else None, skies)
    figure = Figure(figsize=(8, 3))
    say(figure.subplots(), "no slit has wavelengths")
    return figure


def _needed(slit: xr.Dataset) -> xr.Dataset:
    """Return what is drawn of a slit: one image. Of a time series, the mean and its variance."""
    factors = [name for name in map(str, slit.data_vars) if name.rpartition("_")[0] in _FACTORS or name in _FACTORS]
    kept = ["sci", "dq", "wavelength", *variances_of(slit), *factors]
    chosen = slit[kept].drop_vars([name for name in slit.coords if name not in ("row", "column", "slit_y")])
    if "integration" not in slit.dims:
        return chosen
    good = ((chosen["dq"] & _FLAGGED) == 0) & np.isfinite(chosen["sci"])
    count = good.sum("integration")
    means: dict[str, Any] = {"sci": chosen["sci"].where(good).mean("integration", keep_attrs=True)}
    for name in variances_of(slit):
        mean = chosen[name].where(good).mean("integration")
        means[name] = mean if name == "var_flat" else mean / count  # all integrations share the flat field
    means["dq"] = (count == 0).astype(np.uint32) * _FLAGGED
    return chosen.drop_vars(list(means)).assign(means).assign_attrs(slit.attrs)


def _plain(spectrum: xr.Dataset) -> xr.Dataset:
    return spectrum.drop_dims(["row", "cross_dispersion"], errors="ignore")


def typical(spectrum: xr.Dataset) -> xr.Dataset:
    """Return the median spectrum of a time series, with the standard deviation of one integration."""
    if "integration" not in spectrum.dims:
        return spectrum
    names = [name for name in spectrum.data_vars if "integration" in spectrum[name].dims and name != "dq"]
    flagged = ((spectrum["dq"] & _FLAGGED) > 0).all("integration").astype(np.uint32) * _FLAGGED
    kept = spectrum.drop_dims("integration").assign(spectrum[names].median("integration", keep_attrs=True))
    return kept.assign(dq=flagged)


def _draw_page(drawn: Drawn, series: xr.Dataset | None, skies: Sequence[xr.Dataset]) -> Figure:
    """Draw one slit: image, factors and spectrum below each other, the sky, and for time series light curves."""
    heights = [1.0, 0.55, 1.6] + ([1.3] if series is not None else [0.7] if skies else [])
    figure = Figure(figsize=(13, 2.9 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(2.2, 1), height_ratios=heights)
    image = figure.add_subplot(grid[0, :])
    mesh, norm = draw_strip(image, drawn)
    mark_source(image)
    sci = drawn.slit["sci"]
    unit = readable_flux(sci.where((drawn.slit["dq"] & _FLAGGED) == 0).values, str(sci.attrs.get("units", "")))[1]
    bar = figure.colorbar(mesh, ax=image, extend="both", pad=0.01, fraction=0.05)
    bar.set_label(write_units(unit, per_pixel=True))
    mark_ticks(bar, norm)
    whole = " (mean of the integrations)" if series is not None else ""
    image.set_title(
        f"slit {drawn.header.name}{whole}; orange: expected place of the source; grey: flagged", size="medium"
    )
    image.set_ylabel("rows from\nthe source")
    factors = figure.add_subplot(grid[1, :], sharex=image)
    _draw_factors(factors, drawn)
    spectrum = figure.add_subplot(grid[2, :], sharex=image)
    unit = draw_band(spectrum, drawn.spectrum, label="flux" if series is None else "median of the integrations")
    spectrum.set_xlabel("wavelength [µm]")
    spectrum.set_ylabel(write_units(unit, per_pixel=False))
    for axes in (image, factors):
        axes.tick_params(labelbottom=False)
    spectrum.legend(framealpha=0.85, edgecolor="none", fontsize="small", ncols=3, loc="upper right")
    _finish(spectrum)
    if series is not None:
        _draw_wavelengths(figure, figure.add_subplot(grid[3, 0]), series)
        _draw_white_light(figure.add_subplot(grid[3, 1]), series)
    elif skies:
        below = figure.add_subplot(grid[3, :], sharex=image)
        draw_sky(below, skies)
        below.set(ylabel="sky subtracted\n[MJy/sr]", xlabel="wavelength [µm]")
        _finish(below)
    set_title(figure, title_of(drawn), "large")
    return figure


def title_of(drawn: Drawn) -> str:
    """Return the exposure, the slit, the source and the signal to noise as one line."""
    header: SlitHeader = drawn.header
    source = header.source_name or header.target
    words = [header.exposure, header.detector, header.filter, header.grating, source, header.source_type.lower()]
    return "   ".join([word for word in words if word] + [f"S/N {signal_to_noise(drawn.spectrum):.3g} per column"])


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _draw_factors(axes: Axes, drawn: Drawn) -> None:
    """Draw what the count rates at the place of the source were divided by."""
    light = "uniform" if drawn.header.is_extended else "point"
    for kind, (label, colour) in _FACTORS.items():
        name = next((name for name in (f"{kind}_{light}", kind) if name in drawn.slit), None)
        if name is not None:
            values = along_source(drawn, name)
            axes.plot(drawn.wavelength, np.where(values > 0, values, np.nan), color=colour, lw=1.2, label=label)
    if "aperture_correction" in drawn.spectrum:
        one = drawn.spectrum
        known = np.isfinite(one["flux"].values) & ((one["dq"].values & _FLAGGED) == 0)
        inside = np.where(known, 1 / one["aperture_correction"].values, np.nan)
        axes.plot(one["wavelength"].values, inside, color=GREEN, lw=1.2, label="light in the aperture")
    axes.axhline(1, color=QUIET, lw=0.6, zorder=0)
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (1, 99))
    axes.set_ylim(min(low, 1.0) - 0.1, max(high, 1.0) + 0.2)  # room for the legend
    axes.set_ylabel("divided by")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small", ncols=4, loc="upper right", borderaxespad=0)
    _finish(axes)


def _draw_wavelengths(figure: Figure, axes: Axes, series: xr.Dataset) -> None:
    """Draw the flux of each wavelength and integration, relative to the median of the integrations."""
    usable = ((series["dq"] & _FLAGGED) == 0) & np.isfinite(series["flux"])
    flux = series["flux"].where(usable)
    ratio = 100 * ((flux / flux.median("integration")).transpose("integration", "dispersion").values - 1)
    wavelength = np.asarray(series["wavelength"].values, dtype=float)
    wavelength = np.nanmedian(wavelength, axis=0) if wavelength.ndim > 1 else wavelength
    columns = np.flatnonzero(np.isfinite(wavelength))
    columns = columns[np.argsort(wavelength[columns], kind="stable")]
    known = np.abs(ratio[np.isfinite(ratio)])
    limit = float(np.percentile(known, 90)) if known.size else 1.0
    time, label = _times(series)
    step = np.diff(time).mean() if time.size > 1 else 1.0
    across = np.concatenate([time - 0.5 * step, [time[-1] + 0.5 * step]])
    middle = wavelength[columns]
    inner = 0.5 * (middle[1:] + middle[:-1])
    edges = np.concatenate([middle[:1], inner, middle[-1:]])
    axes.set_facecolor(QUIET)
    shown = np.ma.masked_invalid(ratio[:, columns].T)
    mesh = axes.pcolormesh(across, edges, shown, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True)
    figure.colorbar(mesh, ax=axes, extend="both", pad=0.01, label="flux over median, less 1 [%]")
    axes.set(xlabel=label, ylabel="wavelength [µm]")


def _times(series: xr.Dataset) -> tuple[np.ndarray, str]:
    """Return the times of the integrations, and the label of the axis."""
    if "int_mid_MJD_UTC" in series.coords:
        time = np.asarray(series["int_mid_MJD_UTC"].values, dtype=float)
        if np.isfinite(time).all() and (np.diff(time) > 0).all():
            hours = 24 * (time - time[0])
            return (hours, "time [hours]") if hours[-1] > 0.5 else (3600 * hours, "time [s]")
    return np.asarray(series["integration"].values, dtype=float), "integration"


def _draw_white_light(axes: Axes, series: xr.Dataset) -> None:
    """Draw the sum over the wavelengths that all integrations have, relative to its median."""
    total, error = white_light(series)
    time, label = _times(series)
    style: Entries = {"fmt": ".", "color": INK, "ecolor": QUIET, "ms": 5, "elinewidth": 0.9}
    axes.errorbar(time, 100 * (total - 1), 100 * error, **style)
    axes.axhline(0, color=QUIET, lw=0.6, zorder=0)
    axes.set(xlabel=label, ylabel="white light, less median [%]")
    _finish(axes)
