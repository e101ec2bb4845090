"""Draw spectra beside the truth of the simulated sky."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

from nsxr.plot.slit_images import draw_band, signal_to_noise, usable
from nsxr.plot.style import INK, QUIET, SKY, VERMILLION, readable_flux, set_title

__all__ = ["draw_truth", "pulls", "scatter_of"]

_PANELS = 7
_FARTHEST = 6.0
"""Last bin of the histogram, in standard deviations."""


def pulls(spectrum: xr.Dataset, true: xr.DataArray) -> np.ndarray:
    """Return flux less truth in units of the standard deviation, of the columns that can be used."""
    flux, deviation, good = usable(spectrum)
    good = good & (deviation > 0) & np.isfinite(true.values)
    return np.asarray((flux - true.values)[good] / deviation[good])


def draw_truth(spectra: Mapping[str, xr.Dataset], true: Mapping[str, xr.DataArray], title: str = "") -> Figure:
    """Return a figure that shows spectra beside the truth, from bright sources to faint ones.

    The last panel is a histogram of all columns of all spectra: flux less truth in units of the standard deviation,
    beside the normal distribution that it is expected to follow.

    Parameters
    ----------
    spectra : mapping of str to Dataset
        Spectra by slit, computed.
    true : mapping of str to DataArray
        The truth, from :func:`nsxr.simulate.true_flux`. Only spectra that have one are drawn.
    title : str
        Title of the figure.
    """
    found = {name: pulls(spectra[name], one) for name, one in true.items()}
    names = sorted((name for name in found if found[name].size), key=lambda name: -signal_to_noise(spectra[name]))
    shown = [names[n] for n in np.unique(np.linspace(0, len(names) - 1, min(_PANELS, len(names))).astype(int))]
    across = 2 if len(shown) > 1 else 1
    figure = Figure(figsize=(7 * across, 2.4 * -(-(len(shown) + 1) // across) + 0.4), layout="constrained")
    panels = figure.subplots(-(-(len(shown) + 1) // across), across, squeeze=False).ravel()
    for axes, name in zip(panels, shown, strict=False):
        spectrum = spectra[name]
        unit = draw_band(axes, spectrum, label="spectrum")
        flux, _, good = usable(spectrum)
        factor, _ = readable_flux(flux[good], str(spectrum["flux"].attrs.get("units", "")))
        axes.plot(spectrum["wavelength"], factor * true[name], color=VERMILLION, lw=1.1, label="truth")
        ratio, scatter = signal_to_noise(spectrum), scatter_of(found[name])
        source = true[name].attrs.get("source", "")
        axes.set_title(f"slit {name}   {source}   S/N {ratio:.2g}   scatter over error {scatter:.2f}", fontsize="small")
        axes.set(ylabel=f"flux [{unit}]", xlabel="wavelength [µm]")
    panels[0].legend(frameon=False, fontsize="small", ncols=4, loc="upper left")
    everything = np.concatenate([found[name] for name in names])
    last = panels[len(shown)]
    bins = np.linspace(-_FARTHEST, _FARTHEST, 61)
    last.hist(np.clip(everything, bins[0], bins[-1]), bins, density=True, color=SKY, edgecolor=QUIET, lw=0.3)
    last.plot(bins, norm.pdf(bins), color=INK, lw=1, label="normal distribution")
    last.set_title(
        f"{everything.size} columns of {len(names)} spectra   scatter over error {scatter_of(everything):.2f}",
        fontsize="small",
    )
    last.set(xlabel="(flux - truth) / standard deviation", yticks=[])
    last.legend(frameon=False, fontsize="small")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(shown) + 1 :]:
        axes.set_axis_off()
    set_title(figure, title or "spectra beside the truth")
    return figure


def scatter_of(values: np.ndarray) -> float:
    """Return the scatter about zero, as the median of the absolute values that a normal distribution would have."""
    return float(np.median(np.abs(values)) / norm.ppf(0.75))
