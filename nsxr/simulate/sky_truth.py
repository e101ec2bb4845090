"""The truth of a rendered sky: what every pixel sees, where the sources are, and their spectra."""

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.simulate.observation import Observation
from nsxr.simulate.spectra import Spectrum

__all__ = ["sky_truth", "sky_truth_tables"]

IMAGE = ("row", "column")
_SAMPLES = 500


def sky_truth(observation: Observation) -> xr.Dataset:
    """Return the truth of a rendered sky.

    Returns
    -------
    Dataset
        - ``wavelength`` (row, column) float32 [um] and ``slit_y`` (row, column) float32 [open heights], in the middle
          of pixels. NaN outside of slits. Where two slits overlap, those of the later one.
        - ``slit_number`` (row, column) int16: position in ``slit_name`` from 1; 0 outside.
        - ``slit_name`` (slit,).
        - ``source_name``, ``source_ra``, ``source_dec`` [degree] and ``source_extended`` (source,).
        - ``flux`` (source, sample) [Jy, or MJy/sr of extended sources] and ``sky`` (sample,) [MJy/sr]: the continua at
          ``sample_wavelength`` [um].
        - Emission lines along ``line``: ``line_source``, ``line_wavelength`` [um], ``line_flux`` [W/m2, or W/m2/sr] and
          ``line_fwhm`` [km/s].
        - Along ``sighting``, each source in each slit that it sends light into: ``sighting_source``,
          ``sighting_slit``, ``sighting_x`` and ``sighting_y`` [open widths and heights], and ``sighting_fraction``:
          the part of the light of a point that passes the slit, at the middle wavelength.
    """
    configuration, light, sky = observation.configuration, observation.light, observation.sky
    images = _images(observation)
    low, high = observation.optics.wavelength_range
    sample = np.linspace(low, high, _SAMPLES)
    sources = sky.sources
    positions = np.array([source.position(*observation.pointing) for source in sources]).reshape(-1, 2)
    lines = [(source.name, line) for source in sources for line in source.spectrum.lines]
    sightings = [one for slit in light.slits for one in slit.sources]
    flux = np.array([_continuum(source.spectrum, sample) for source in sources]).reshape(-1, _SAMPLES)
    return xr.Dataset(
        {
            **images,
            "slit_name": ("slit", _words([one.grid.slit.name for one in light.slits])),
            "source_name": ("source", _words([source.name for source in sources])),
            "source_ra": ("source", positions[:, 0]),
            "source_dec": ("source", positions[:, 1]),
            "source_extended": ("source", np.array([source.shape.is_extended for source in sources], dtype=bool)),
            "flux": (("source", "sample"), flux),
            "sky": ("sample", np.zeros(_SAMPLES) if sky.background is None else _continuum(sky.background, sample)),
            "sample_wavelength": ("sample", sample, {"units": "um"}),
            "line_source": ("line", _words([name for name, _ in lines])),
            "line_wavelength": ("line", np.array([line.wavelength for _, line in lines])),
            "line_flux": ("line", np.array([line.flux for _, line in lines])),
            "line_fwhm": ("line", np.array([line.fwhm for _, line in lines])),
            "sighting_source": ("sighting", _words([one.source for one in sightings])),
            "sighting_slit": ("sighting", _words([one.slit for one in sightings])),
            "sighting_x": ("sighting", np.array([one.x for one in sightings])),
            "sighting_y": ("sighting", np.array([one.y for one in sightings])),
            "sighting_fraction": ("sighting", np.array([one.fraction for one in sightings])),
        },
        coords={"row": configuration.rows, "column": configuration.columns},
    )


def _images(observation: Observation) -> dict[str, tuple[object, ...]]:
    """Return what the pixels see."""
    rows, columns = observation.configuration.rows, observation.configuration.columns
    wavelength = np.full((rows.size, columns.size), np.nan, dtype=np.float32)
    slit_y, number = wavelength.copy(), np.zeros(wavelength.shape, dtype=np.int16)
    for n, one in enumerate(observation.light.slits, start=1):
        grid, slit = one.grid, one.grid.slit
        y = grid.centre_slit_y
        inside = (y >= slit.slit_y_low) & (y <= slit.slit_y_high)
        i, j = np.nonzero(inside)
        at = np.searchsorted(rows, grid.rows)[i], np.searchsorted(columns, grid.columns)[j]
        wavelength[at], slit_y[at], number[at] = grid.wavelength[inside], y[inside], n
    return {
        "wavelength": (IMAGE, wavelength, {"units": "um"}),
        "slit_y": (IMAGE, slit_y),
        "slit_number": (IMAGE, number),
    }


def _continuum(spectrum: Spectrum, wavelength: np.ndarray) -> np.ndarray:
    return np.zeros(wavelength.size) if spectrum.continuum is None else spectrum.continuum.at(wavelength)


def _words(names: list[str]) -> np.ndarray:
    return np.array(names, dtype="U40") if names else np.zeros(0, dtype="U40")


def sky_truth_tables(truth: xr.Dataset) -> list[fits.BinTableHDU]:
    """Return the tables of a truth file: SLITS, SOURCES, LINES, SIGHTINGS and SPECTRA."""
    hdus = []
    for name, prefix in (("SLITS", "slit_"), ("SOURCES", "source_"), ("LINES", "line_"), ("SIGHTINGS", "sighting_")):
        dim = prefix[:-1]
        columns = {str(v).removeprefix(prefix): truth[v].values for v in truth.data_vars if truth[v].dims == (dim,)}
        hdus.append(fits.BinTableHDU.from_columns([_column(n, values) for n, values in columns.items()], name=name))
    names = [*(str(name) for name in truth["source_name"].values), "sky"]
    flux = np.vstack([truth["flux"].values, truth["sky"].values])
    wavelength = np.broadcast_to(truth["sample_wavelength"].values, flux.shape)
    units = [*np.where(truth["source_extended"].values, "MJy/sr", "Jy"), "MJy/sr"]
    spectra = [
        fits.Column("source", "40A", array=np.array(names)),
        fits.Column("unit", "6A", array=np.array(units)),
        fits.Column("wavelength", f"{flux.shape[1]}D", unit="um", array=wavelength),
        fits.Column("flux", f"{flux.shape[1]}D", array=flux),
    ]
    hdus.append(fits.BinTableHDU.from_columns(spectra, name="SPECTRA"))
    return hdus


def _column(name: str, values: np.ndarray) -> fits.Column:
    formats = {"f8": "D", "b1": "L", "U40": "40A"}
    unit = {"ra": "deg", "dec": "deg", "wavelength": "um", "fwhm": "km/s"}.get(name)
    return fits.Column(name, formats[values.dtype.str[1:]], unit=unit, array=values)
