"""Find the true flux of a source in the columns of its spectrum."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import ParameterError
from nsxr.simulate.sky_scene import LINE_SPREAD
from nsxr.simulate.spectra import Line, Spectrum, Table

__all__ = ["true_flux"]

_PER_MEGA = 1e-6


class _Source(NamedTuple):
    """A source of the truth: its spectrum, the unit and the mean of its continuum, and its wavelengths [um]."""

    spectrum: Spectrum
    unit: str
    mean: float
    ends: tuple[float, float]


def true_flux(truth: str | Path, spectrum: xr.Dataset, *, source: str | None = None) -> xr.DataArray:
    """Return the true flux density of a source in each column of its spectrum, as the simulated instrument sees it.

    Lines are widened by the instrument, and everything is averaged between the edges of each column. The columns of
    the spectrum are then expected to scatter about these values by their errors.

    Parameters
    ----------
    truth : str or Path
        The truth of a simulated exposure with a sky: :attr:`nsxr.simulate.SimulatedExposure.truth`.
    spectrum : Dataset
        A spectrum of this exposure, with ``wavelength`` (dispersion) [um].
    source : str, optional
        Name of the source in the sky. By default, the source that the attributes of the spectrum name (SRCALIAS), or
        else the one point that sends most light into the slit (SLTNAME).

    Returns
    -------
    DataArray
        (dispersion) float64 [Jy; MJy/sr for an extended source]. The surface brightness is that at the half-light
        radius of a ``sersic`` source, and at the centre of others, see :class:`nsxr.simulate.sky.Shape`. NaN where the
        truth has no wavelengths. For time series, the flux while the light curve is 1.

    Raises
    ------
    ParameterError
        If the file is no truth of a sky, or has no such source.
    """
    found, sightings = _read(Path(truth))
    name = source if source is not None else _primary(spectrum, found, sightings)
    if name not in found:
        raise ParameterError(f"{truth}: it has no source {name!r}; known: {', '.join(found)}")
    one = found[name]
    wavelength = spectrum["wavelength"].to_numpy()
    edges = _edges(wavelength)
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    inside = (low >= one.ends[0]) & (high <= one.ends[1])
    flux = np.full(wavelength.shape, np.nan)
    if inside.any():
        order = np.argsort(wavelength[inside])
        places, widths = wavelength[inside][order], (high - low)[inside][order]
        unit = 1.0 if one.unit == "Jy" else _PER_MEGA
        flux[inside] = one.spectrum.mean_between(
            low[inside], high[inside], lambda place: LINE_SPREAD * float(np.interp(place, places, widths)), unit
        )
    return xr.DataArray(flux, coords=spectrum["wavelength"].coords, dims=spectrum["wavelength"].dims).assign_attrs(
        units=one.unit, source=name
    )


def _read(path: Path) -> tuple[dict[str, _Source], list[dict[str, Any]]]:
    """Return the sources of a truth file by name, and where they were seen."""
    with fits.open(path) as file:
        if "SPECTRA" not in file:
            raise ParameterError(f"{path}: it has no SPECTRA, expected the truth of a simulated exposure with a sky")
        lines: dict[str, list[Line]] = {}
        for row in file["LINES"].data:
            line = Line(float(row["wavelength"]), float(row["flux"]), float(row["fwhm"]))
            lines.setdefault(row["source"].strip(), []).append(line)
        sources = {}
        for row in file["SPECTRA"].data:
            name, wavelength = str(row["source"]).strip(), row["wavelength"]
            continuum = Table(tuple(wavelength.tolist()), tuple(row["flux"].tolist()))
            spectrum = Spectrum(continuum, tuple(lines.get(name, ())))
            ends = (float(wavelength[0]), float(wavelength[-1]))
            sources[name] = _Source(spectrum, row["unit"].strip(), float(row["flux"].mean()), ends)
        rows = file["SIGHTINGS"].data
        sightings = [{name: row[name] for name in ("source", "slit", "fraction")} for row in rows]
    return sources, sightings


def _primary(spectrum: xr.Dataset, known: Mapping[str, _Source], sightings: list[dict[str, Any]]) -> str:
    """Return the name of the source of a spectrum."""
    alias, slit = str(spectrum.attrs.get("SRCALIAS", "")), str(spectrum.attrs.get("SLTNAME", ""))
    if alias in known:
        return alias
    light: dict[str, float] = {}
    for one in sightings:
        name = one["source"].strip()
        if one["slit"].strip() == slit and np.isfinite(one["fraction"]):
            light[name] = float(one["fraction"]) * known[name].mean
    if not light:
        raise ParameterError(f"slit {slit!r}: the truth has no point in it; name the source")
    return max(light, key=lambda name: light[name])


def _edges(centres: np.ndarray) -> np.ndarray:
    """Return the wavelengths at the edges of columns, from those in their middle."""
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
