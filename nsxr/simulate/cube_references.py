"""References of spectra from cubes: circles on the sky, their corrections, and sizes of voxels."""

from typing import Any

import numpy as np
from astropy.io import fits

from nsxr.optics.instrument import Optics
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.reference_headers import reference_meta

__all__ = ["circle_references", "cube_parameters", "enclosed_in_circle"]

_RADII = (0.15, 0.3, 0.45, 0.6, 0.9, 1.2)
_PIXEL = 0.1  # height of a pixel and width of a slice, arcsec


def circle_references(optics: Optics, instrument: SimulatedInstrument, wavelength: np.ndarray) -> dict[str, Any]:
    """Return the trees of the references of extraction and of its correction, by type."""
    meta = reference_meta("apcorr", "NrsIfuApcorrModel", optics, "IFU")
    return {
        "extract1d": {"meta": _circle_meta(optics), "data": _circles(wavelength)},
        "apcorr": {"meta": meta, "apcorr_table": _circle_corrections(optics, instrument, wavelength)},
    }


def _circle_meta(optics: Optics) -> dict[str, Any]:
    more = {"region_type": "target", "subtract_background": False, "method": "subpixel", "subpixels": 10}
    return reference_meta("extract1d", "Extract1dIFUModel", optics, "IFU", **more)


def _circles(wavelength: np.ndarray) -> dict[str, Any]:
    values = {"radius": 0.45, "inner_bkg": 1.0, "outer_bkg": 1.2, "axis_ratio": 1.0, "axis_pa": 0.0}
    units = {"radius": "arcsec", "inner_bkg": "arcsec", "outer_bkg": "arcsec", "axis_pa": "degrees"}
    data: dict[str, Any] = {"wavelength": wavelength.astype(np.float32), "wavelength_units": "micron"}
    data |= {name: np.full(wavelength.size, value, np.float32) for name, value in values.items()}
    return data | {f"{name}_units": unit for name, unit in units.items()}


def enclosed_in_circle(instrument: SimulatedInstrument, radius: float, wavelength: np.ndarray) -> np.ndarray:
    """Return the part of a point's light in a circle [arcsec] of a cube, at wavelengths [um].

    Slices and pixels widen the image of the point, and so does the spectrograph along the slices.
    """
    box = _PIXEL / np.sqrt(12)
    along = np.hypot(instrument.smear(wavelength), box)
    edges = np.linspace(-radius, radius, 401)
    parts = np.diff(instrument.cumulative(edges[:, None], wavelength, box), axis=0)
    middle = 0.5 * (edges[1:] + edges[:-1])
    chord = np.sqrt(radius**2 - middle**2)[:, None]
    inside = 2 * instrument.cumulative(chord, wavelength, along) - 1
    return np.asarray((parts * inside).sum(axis=0))


def _circle_corrections(optics: Optics, instrument: SimulatedInstrument, wavelength: np.ndarray) -> dict[str, Any]:
    correction = np.array([1 / enclosed_in_circle(instrument, radius, wavelength) for radius in _RADII])
    return {
        "filter": optics.filter,
        "grating": optics.grating,
        "wavelength": wavelength.astype(np.float32),
        "wavelength_units": "micron",
        "radius": np.tile(np.array(_RADII, np.float32)[:, None], (1, wavelength.size)),
        "radius_units": "arcsec",
        "apcorr": correction.astype(np.float32),
        "apcorr_err": np.full(correction.shape, 0.01, np.float32),
    }


def cube_parameters(optics: Optics, instrument: SimulatedInstrument) -> list[fits.BinTableHDU]:
    """Return the tables of voxels, and of the weights of pixels in them."""
    low, high = instrument.nodes[0], instrument.nodes[-1]
    step = float(np.median(instrument.dispersion))
    keys = {"disperser": optics.grating, "filter": optics.filter}
    msm = {"roispatial": 0.2, "roispectral": 2 * step, "power": 2.0, "softrad": 0.01}
    emsm = {"roispatial": 0.2, "roispectral": 2 * step, "scalerad": 0.075}
    limits = {"wavemin": low, "wavemax": high, "spaxelsize": 0.1, "spectralstep": step}
    hdus = [
        _table("CUBEPAR", [{**keys, **limits}]),
        _table("CUBEPAR_MSM", [{**keys, **msm}]),
        _table("CUBEPAR_EMSM", [{**keys, **emsm}]),
    ]
    nodes = np.linspace(low, high, 200)
    for width in ("PRISM", "MED", "HIGH"):
        for name, values in (("MSM", msm), ("EMSM", emsm), ("DRIZZLE", {})):
            rows = [{"wavelength": float(node), **values} for node in nodes]
            hdus.append(_table(f"MULTICHAN_{width}_{name}", rows))
    return hdus


def _table(name: str, rows: list[dict[str, Any]]) -> fits.BinTableHDU:
    columns = [
        fits.Column(key, "6A" if isinstance(value, str) else "E", array=np.array([row[key] for row in rows]))
        for key, value in rows[0].items()
    ]
    return fits.BinTableHDU.from_columns(columns, name=name)
