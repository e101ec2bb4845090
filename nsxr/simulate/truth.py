"""The truth of a simulated exposure: the true rates, and all disturbances."""

from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.model.dq import PixelFlag, flag_attributes
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.detectors import bad_interleaved
from nsxr.simulate.headers import Segment, primary_header
from nsxr.simulate.ramps import Ramps
from nsxr.simulate.sky_truth import sky_truth_tables
from nsxr.storage.whole import replacing

__all__ = ["DISTURBANCES", "truth_dataset", "truth_path", "write_truth"]

DISTURBANCES = {"COSMIC_RAY": 1, "SNOWBALL": 2, "FULL_WELL": 4}
"""Bits of ``disturbed``."""

IMAGE = ("row", "column")

_TABLES = {
    "COSMIC_RAYS": ("hit_pixel", "hit_"),
    "SNOWBALLS": ("snowball", "snowball_"),
    "BAD_REFERENCE": ("bad_pair", "bad_pair_"),
}
_MEANING = {
    "RATE": "Light that is detected, for a light curve of 1",
    "RATE_DN": "RATE over gain, times the gain factor: what a rate product should say",
    "DARK": "Dark current, not contained in RATE",
    "FLAGS": "What is wrong with a pixel, standard JWST bits",
    "DISTURBED": "1 cosmic ray, 2 snowball, 4 reached full well, per integration",
    "LIGHT_CURVE": "Factor on RATE and RATE_DN, per integration",
    "COSMIC_RAYS": "Charge left by cosmic rays, one row per pixel and hit",
    "SNOWBALLS": "Large events",
    "BAD_REFERENCE": "Bad pairs of interleaved reference pixels (IRS2)",
    "WAVELENGTH": "Wavelength at the barycentre, in the middle of pixels",
    "SLIT_Y": "Place along the slit, in open heights from its centre",
    "SLIT": "Row of SLITS that lights the pixel, from 1; 0 for none",
    "SLITS": "Slits, slitlets or slices that send light to the detector",
    "SOURCES": "Sources of the sky",
    "LINES": "Emission lines: flux in W/m2, or W/m2/sr of extended sources",
    "SIGHTINGS": "Each source in each slit: place in open units, part of the light that passes",
    "SPECTRA": "Continua of the sources and of the sky",
}


def truth_dataset(ramps: Ramps) -> xr.Dataset:
    """Return the truth of an exposure, after all its groups have been drawn.

    Returns
    -------
    Dataset
        - ``rate`` (row, column) float32 [electron/s]: the light alone.
        - ``rate_dn`` (row, column) [DN/s]: the rate that a product should have. This is ``rate``, divided by the
          gain and multiplied by the gain factor.
        - ``dark_current`` (row, column) [electron/s].
        - ``light_curve`` (integration,): a factor on both rates.
        - ``flags`` (row, column) uint32: what is wrong with a pixel.
        - ``disturbed`` (integration, row, column) uint8: cosmic ray (1), snowball (2), full well (4).
        - Lists along ``hit_pixel``, ``snowball`` and ``bad_pair``. Integrations and groups count from 1. The group is
          the first one with some of the charge. Rows and columns are zero-based detector pixels. Times count
          from the reset [s].
    """
    configuration, pixels = ramps.configuration, ramps.pixels
    rate = ramps.rate
    to_dn = np.float32(pixels.gain_factor) / pixels.gain
    border = np.where(configuration.is_border, np.uint32(PixelFlag.REFERENCE_PIXEL.value), np.uint32(0))
    masks = np.array(list(DISTURBANCES.values()), dtype=np.uint8)
    flags = {"flag_masks": masks, "flag_meanings": " ".join(DISTURBANCES)}
    variables: dict[str, tuple[object, ...]] = {
        "rate": (IMAGE, rate, {"units": "electron/s"}),
        "rate_dn": (IMAGE, rate * to_dn, {"units": "DN/s"}),
        "dark_current": (IMAGE, pixels.dark_current, {"units": "electron/s"}),
        "flags": (IMAGE, pixels.flags | border, flag_attributes(PixelFlag, np.uint32)),
        "disturbed": (("integration", *IMAGE), _disturbed(ramps), flags),
        "light_curve": (("integration",), ramps.scene.light_curve),
    }
    lists = {"hit_pixel": _hits(ramps), "snowball": _snowballs(ramps), "bad_pair": _bad_pairs(ramps)}
    prefixes = dict(_TABLES.values())
    for dim, columns in lists.items():
        variables |= {prefixes[dim] + name: ((dim,), values) for name, values in columns.items()}
    coordinates = {
        "row": configuration.rows,
        "column": configuration.columns,
        "integration": np.arange(1, configuration.integrations + 1),
    }
    attributes = {"detector": configuration.detector, "gain_factor": pixels.gain_factor}
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def _group(frame: np.ndarray, configuration: Configuration) -> np.ndarray:
    return (frame // configuration.n_frames + 1).astype(np.int32)


def _hits(ramps: Ramps) -> dict[str, np.ndarray]:
    configuration = ramps.configuration
    parts = []
    for integration, events in enumerate(ramps.events, start=1):
        ray = events.hit >= 0
        row, column = np.divmod(events.pixel[ray], configuration.columns.size)
        parts.append(
            {
                "integration": np.full(row.size, integration, dtype=np.int32),
                "group": _group(events.frame[ray], configuration),
                "row": configuration.rows[row].astype(np.int32),
                "column": configuration.columns[column].astype(np.int32),
                "charge": events.charge[ray],
                "time": events.time[ray],
                "number": events.hit[ray].astype(np.int32),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _snowballs(ramps: Ramps) -> dict[str, np.ndarray]:
    configuration = ramps.configuration
    parts = []
    for integration, events in enumerate(ramps.events, start=1):
        balls = events.snowballs
        row = np.minimum(balls.row.astype(np.int64), configuration.rows.size - 1)
        column = np.minimum(balls.column.astype(np.int64), configuration.columns.size - 1)
        parts.append(
            {
                "integration": np.full(row.size, integration, dtype=np.int32),
                "group": _group(balls.frame, configuration),
                "row": configuration.rows[row].astype(np.int32),
                "column": configuration.columns[column].astype(np.int32),
                "core_radius": balls.core_radius,
                "halo_radius": balls.halo_radius,
                "time": balls.time,
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _bad_pairs(ramps: Ramps) -> dict[str, np.ndarray]:
    configuration = ramps.configuration
    there = configuration.is_irs2 and ramps.artifacts.bad_reference_pixels > 0
    pairs = bad_interleaved(configuration) if there else []
    column = np.array(
        [640 * output + 8 + 20 * block + 2 * (block % 2) for output, block, _, _ in pairs], dtype=np.int32
    )
    return {
        "output": np.array([pair[0] for pair in pairs], dtype=np.int32),
        "raw_row": column if configuration.detector == "NRS1" else np.int32(3198) - column,
        "kind": np.array([pair[2] for pair in pairs], dtype="U10"),
        "is_listed": np.array([pair[3] for pair in pairs], dtype=bool),
    }


def _disturbed(ramps: Ramps) -> np.ndarray:
    out = np.zeros((ramps.configuration.integrations, *ramps.pixels.gain.shape), dtype=np.uint8)
    for image, events, full in zip(out, ramps.events, ramps.saturated, strict=True):
        flat = image.reshape(-1)
        ray = events.hit >= 0
        flat[events.pixel[ray]] |= np.uint8(DISTURBANCES["COSMIC_RAY"])
        flat[events.pixel[~ray]] |= np.uint8(DISTURBANCES["SNOWBALL"])
        image |= np.where(full, np.uint8(DISTURBANCES["FULL_WELL"]), np.uint8(0))
    return out


def truth_path(directory: Path, configuration: Configuration) -> Path:
    """Return the path that :func:`write_truth` writes to."""
    return directory / f"{configuration.root}_{configuration.detector.lower()}_truth.fits"


def write_truth(directory: Path, truth: xr.Dataset, configuration: Configuration) -> Path:
    """Write the truth of an exposure as ``<root>_<detector>_truth.fits``. Comments in each HDU say what it is."""
    path = truth_path(directory, configuration)
    header = primary_header(configuration, Segment(1, 1, 1, configuration.integrations))
    header["FILENAME"], header["GAINFACT"] = path.name, truth.attrs["gain_factor"]
    del header["DATAMODL"]
    hdus = [fits.PrimaryHDU(header=header)]
    images = {"RATE": "rate", "RATE_DN": "rate_dn", "DARK": "dark_current", "FLAGS": "flags", "DISTURBED": "disturbed"}
    has_sky = "wavelength" in truth
    if has_sky:
        images |= {"WAVELENGTH": "wavelength", "SLIT_Y": "slit_y", "SLIT": "slit_number"}
    for name, variable in images.items():
        hdu = fits.ImageHDU(truth[variable].values, name=name)
        if "units" in truth[variable].attrs:
            hdu.header["BUNIT"] = truth[variable].attrs["units"]
        hdus.append(hdu)
    curve = [
        fits.Column("integration", "J", array=truth["integration"].values),
        fits.Column("factor", "D", array=truth["light_curve"].values),
    ]
    hdus.append(fits.BinTableHDU.from_columns(curve, name="LIGHT_CURVE"))
    for name, (_, prefix) in _TABLES.items():
        columns = {str(v).removeprefix(prefix): truth[v].values for v in truth.data_vars if str(v).startswith(prefix)}
        hdus.append(fits.BinTableHDU.from_columns([_column(n, values) for n, values in columns.items()], name=name))
    if has_sky:
        hdus += sky_truth_tables(truth)
    for hdu in hdus[1:]:
        hdu.header.add_comment(_MEANING[hdu.name])
    with replacing(path) as partial:
        fits.HDUList(hdus).writeto(partial)
    return path


def _column(name: str, values: np.ndarray) -> fits.Column:
    formats = {"i4": "J", "f4": "E", "f8": "D", "b1": "L", "U10": "10A"}
    unit = {"charge": "electron", "time": "s", "core_radius": "pixel", "halo_radius": "pixel"}.get(name)
    return fits.Column(name, formats[values.dtype.str[1:]], unit=unit, array=values)
