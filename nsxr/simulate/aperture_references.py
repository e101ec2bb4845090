"""References of what slits, bars and apertures do to light: path loss, bar shadow, apertures and their corrections."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy.special import ndtr

from nsxr.optics.instrument import Optics
from nsxr.optics.slit import Slit
from nsxr.simulate.cube_references import circle_references, cube_parameters
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.profiles import Aperture, point_profile
from nsxr.simulate.reference_headers import EXPOSURE_TYPES, reference_hdu, reference_meta
from nsxr.simulate.shutters import shutter_slit
from nsxr.storage.whole import replacing

__all__ = ["aperture_references", "bar_shadow", "geometry_of", "point_loss"]

_UM = 1e-6
_PLANES = 31
_BOX = 8.0
"""Height of the box in which spectra of point sources are extracted [pixel]."""
_SIZES = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0)
_PHASES = (0.0, 0.5, 1.0)
_STEPS = 1001  # rows of a bar shadow: 500 for each pitch
_POINT_ERROR, _SHADOW_ERROR = 0.01, 0.005


@dataclass(frozen=True)
class Geometry:
    """Size of one opening on the sky [arcsec], pitch in open units, and height of a pixel [open heights]."""

    width: float
    height: float
    x_pitch: float
    y_pitch: float
    pixel: float


def aperture_references(
    folder: Path,
    optics: Optics,
    instrument: SimulatedInstrument,
    mode: str,
    failed_open: Sequence[tuple[int, int, int]],
) -> dict[str, Path]:
    """Write the references of apertures and return their paths by type, see ``write_flux_references``."""
    low, high = instrument.nodes[0], instrument.nodes[-1]
    wavelength = np.linspace(low, high, _PLANES)
    name = f"{mode}_{optics.filter}_{optics.grating}".lower()
    tables: dict[str, Callable[[], list[Any]]] = {}
    if mode != "BOTS":
        tables["pathloss"] = lambda: _path_loss(optics, instrument, mode, wavelength)
    if mode == "MOS":
        tables["barshadow"] = lambda: _bar_shadow(optics, instrument, (low, high))
    if mode == "IFU":
        tables["cubepar"] = lambda: cube_parameters(optics, instrument)
    else:
        tables["apcorr"] = lambda: _corrections(optics, instrument, mode, wavelength)
    written = {kind: folder / f"jwst_nirspec_{kind}_sim_{name}.fits" for kind in tables}
    for kind, make in tables.items():
        with replacing(written[kind]) as partial:
            fits.HDUList([reference_hdu(kind, optics, mode, written[kind].name), *make()]).writeto(partial)
    trees: dict[str, dict[str, Any]] = {}
    if mode == "IFU":
        trees |= circle_references(optics, instrument, wavelength)
    else:
        written["extract1d"] = _write_json(folder, "extract1d", name, {"apertures": _boxes(optics, mode)}, optics, mode)
        meta = reference_meta("wavecorr", "WaveCorrModel", optics, mode)
        trees["wavecorr"] = {"meta": meta, "apertures": _zero_points(optics, instrument, mode, wavelength)}
    if mode in ("MOS", "IFU"):
        written["msaoper"] = _write_json(
            folder, "msaoper", name, {"msaoper": _failed_shutters(failed_open)}, optics, mode
        )
    asdf: Any = import_module("asdf")
    for kind, tree in trees.items():
        written[kind] = folder / f"jwst_nirspec_{kind}_sim_{name}.asdf"
        with replacing(written[kind]) as partial:
            # jwst closes the file before it reads the arrays, so they stand in its text
            asdf.AsdfFile(tree).write_to(partial, all_array_storage="inline")
    return written


def _write_json(folder: Path, kind: str, name: str, content: Mapping[str, Any], optics: Optics, mode: str) -> Path:
    path = folder / f"jwst_nirspec_{kind}_sim_{name}.json"
    meta = reference_meta(kind, "JsonModel", optics, mode)
    instrument = {"reftype": kind.upper(), "instrument": "NIRSPEC", "exp_type": EXPOSURE_TYPES[mode]}
    with replacing(path) as partial:
        partial.write_text(json.dumps({**instrument, "meta": meta, **content}, indent=1), encoding="utf-8")
    return path


def geometry_of(optics: Optics, slit: Slit) -> Geometry:
    """Return the size of an opening on the sky, in the middle of the wavelengths."""
    path, wavelength = optics.for_slit(slit), 0.5 * sum(optics.wavelength_range)
    left, right, low, high = (
        np.array(path.slit_to_v2v3(x, y, wavelength)) for x, y in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
    )
    _, rows = path.inverse(np.array([-0.5, 0.5]), wavelength)
    width, height = (float(np.hypot(*(b - a))) for a, b in ((left, right), (low, high)))
    pitches = (1.0, 1.0)
    if slit.quadrant < 5:
        table = optics.quadrant(slit.quadrant)
        pitches = (float(table.x[1] - table.x[0]) / slit.width, float(table.y[365] - table.y[0]) / slit.height)
    return Geometry(width, height, *pitches, float(1 / np.abs(rows[1] - rows[0])))


def _middle_shutter(optics: Optics) -> Geometry:
    return geometry_of(optics, shutter_slit(optics, 3, 183, 86))


def point_loss(
    instrument: SimulatedInstrument,
    geometry: Geometry,
    shutters: int,
    x: np.ndarray,
    y: np.ndarray,
    wavelength: np.ndarray,
) -> np.ndarray:
    """Return the part of a point's light that passes a fixed slit or neighbouring open shutters.

    Parameters
    ----------
    instrument : SimulatedInstrument
        It has the point-spread function.
    geometry : Geometry
        Size of an opening.
    shutters : int
        Number of open shutters, one above the other, odd. The point is near the middle one.
    x, y : ndarray
        Place of the point relative to the middle [pitch; of a fixed slit: its width and height].
    wavelength : ndarray
        Wavelengths [um]. All arrays broadcast.
    """

    def passes(centre: np.ndarray, size: float) -> np.ndarray:
        below = instrument.cumulative(-0.5 * size - centre, wavelength)
        return np.asarray(instrument.cumulative(0.5 * size - centre, wavelength) - below)

    across = passes(x * geometry.x_pitch * geometry.width, geometry.width)
    step, half = geometry.y_pitch * geometry.height, shutters // 2
    along = [passes((y - k) * step, geometry.height) for k in range(-half, half + 1)]
    return np.asarray(across * sum(along))


def bar_shadow(
    instrument: SimulatedInstrument, geometry: Geometry, shutters: int, y: np.ndarray, wavelength: np.ndarray
) -> np.ndarray:
    """Return the light of a uniform sky in a pixel, relative to a slit without bars.

    The value is the mean over the height of a pixel, as a measured bar shadow is.

    Parameters
    ----------
    instrument, geometry, shutters
        As in :func:`point_loss`.
    y : ndarray
        Place of the middle of the pixel relative to the middle shutter [pitch].
    wavelength : ndarray
        Wavelengths [um], which broadcast with ``y``.
    """
    sigma, half = instrument.smear(wavelength), shutters // 2
    place, pixel = y * geometry.y_pitch * geometry.height, geometry.pixel * geometry.height

    def integral(distance: np.ndarray) -> np.ndarray:
        """Return the integral of the normal distribution function."""
        z = distance / sigma
        return np.asarray(sigma * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)))

    total = np.zeros(np.broadcast(place, wavelength).shape)
    for k in range(-half, half + 1):
        for side in (-0.5, 0.5):
            edge = (k * geometry.y_pitch + side) * geometry.height
            step = integral(place + 0.5 * pixel - edge) - integral(place - 0.5 * pixel - edge)
            total -= np.copysign(1, side) * step / pixel
    return total


def _path_loss(optics: Optics, instrument: SimulatedInstrument, mode: str, wavelength: np.ndarray) -> list[Any]:
    if mode == "MOS":
        geometry = _middle_shutter(optics)
        apertures = [("MOS1x1", 1, geometry, 91), ("MOS1x3", 3, geometry, 273)]
    elif mode == "IFU":
        apertures = [("IFU", 0, Geometry(1, 1, 1, 1, 1), 21)]
    else:
        apertures = [(name, 1, geometry_of(optics, slit), 21) for name, slit in optics.slits.items()]
    hdus: list[Any] = []
    for number, (name, shutters, geometry, rows) in enumerate(apertures, 1):
        columns = 91 if mode == "MOS" else 21  # fine enough that light at edges is interpolated to 0.5 %
        x, y = np.linspace(-0.5, 0.5, columns), np.linspace(-0.5, 0.5, rows) * max(shutters, 1)
        if mode == "IFU":
            loss = np.ones((_PLANES, rows, columns))  # what one slice loses, its neighbours get
        else:
            grid = (x, y[:, None], wavelength[:, None, None])
            loss = point_loss(instrument, geometry, shutters, *grid)
        uniform = instrument.uniform(_NO_SLIT, wavelength)
        for kind, data in (
            ("PS", loss),
            ("PSVAR", (_POINT_ERROR * loss) ** 2),
            ("UNI", uniform),
            ("UNIVAR", (_POINT_ERROR * uniform) ** 2),
        ):
            hdu = fits.ImageHDU(data.astype(np.float64), name=kind, ver=number)
            axes = (x, y, wavelength * _UM) if data.ndim == 3 else (wavelength * _UM,)
            for axis, nodes in enumerate(axes, 1):
                unit = "METER" if axis == len(axes) else "UNITLESS"
                cards = {
                    "CTYPE": unit,
                    "CRPIX": 1.0,
                    "CRVAL": nodes[0],
                    "CDELT": (nodes[-1] - nodes[0]) / (len(nodes) - 1),
                }
                for keyword, value in cards.items():
                    hdu.header[f"{keyword}{axis}"] = value
            hdu.header["APERTURE"], hdu.header["SHUTTERS"] = name, shutters
            hdus.append(hdu)
    return hdus


_NO_SLIT = Slit("", 5, 0.0, 0.0, 1.0, 1.0, -0.5, 0.5, (0.6, 5.3), -1)


def _bar_shadow(optics: Optics, instrument: SimulatedInstrument, ends: tuple[float, float]) -> list[Any]:
    geometry, wavelength = _middle_shutter(optics), np.linspace(*ends, 101)
    y = np.linspace(-1, 1, _STEPS)
    hdus = []
    for shutters, label in ((1, "1X1"), (3, "1X3")):
        shadow = bar_shadow(instrument, geometry, shutters, y[:, None], wavelength)
        for prefix, image in (("DATA", shadow), ("VAR", np.full(shadow.shape, _SHADOW_ERROR**2))):
            hdu = fits.ImageHDU(image.astype(np.float32), name=f"{prefix}{label}")
            steps = {"1": (ends[0] * _UM, (ends[1] - ends[0]) / 100 * _UM), "2": (-1.0, 2 / (_STEPS - 1))}
            for axis, (first, step) in steps.items():
                hdu.header[f"CRPIX{axis}"] = 1.0
                hdu.header[f"CRVAL{axis}"], hdu.header[f"CDELT{axis}"] = first, step
            hdus.append(hdu)
    return hdus


def _corrections(optics: Optics, instrument: SimulatedInstrument, mode: str, wavelength: np.ndarray) -> list[Any]:
    """Return the light of a centred source that passes the slit, relative to the light in a box."""
    if mode == "MOS":
        geometry = _middle_shutter(optics)
        apertures = {
            "": (geometry, tuple((k * geometry.y_pitch - 0.5, k * geometry.y_pitch + 0.5) for k in (-1, 0, 1)))
        }
    else:
        apertures = {name: (geometry_of(optics, slit), ((-0.5, 0.5),)) for name, slit in optics.slits.items()}
    size, n = np.array(_SIZES), len(wavelength)
    corrections = []
    for geometry, openings in apertures.values():
        aperture = Aperture(openings, openings[0][0], openings[-1][1], geometry.width, geometry.height)
        profile = point_profile(aperture, instrument, wavelength, np.zeros(n), np.zeros(n))
        half = 0.5 * size * geometry.pixel
        inside = [np.interp(half, profile.edges, row) - np.interp(-half, profile.edges, row) for row in profile.below]
        corrections.append(profile.below[:, -1:].T / np.array(inside).T)
    rows, phases = len(apertures), len(_PHASES)
    table = np.broadcast_to(np.array(corrections)[..., None], (rows, size.size, n, phases))
    shape = f"({phases},{n},{size.size})"
    columns = [
        fits.Column("filter", "12A", array=np.full(rows, optics.filter)),
        fits.Column("grating", "15A", array=np.full(rows, optics.grating)),
        *([fits.Column("slit", "15A", array=np.array(list(apertures)))] if mode != "MOS" else []),
        fits.Column("wavelength", f"{n}E", array=np.tile(wavelength, (rows, 1))),
        fits.Column("nelem_wl", "I", array=np.full(rows, n)),
        fits.Column(
            "size",
            f"{n * size.size}E",
            dim=f"({n},{size.size})",
            array=np.broadcast_to(size[:, None], (rows, size.size, n)).copy(),
        ),
        fits.Column("nelem_size", "I", array=np.full(rows, size.size)),
        fits.Column("pixphase", f"{phases}E", array=np.tile(_PHASES, (rows, 1))),
        fits.Column("apcorr", f"{table[0].size}E", dim=shape, array=table.astype(np.float32)),
        fits.Column("apcorr_err", f"{table[0].size}E", dim=shape, array=np.full(table.shape, 0.01, np.float32)),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="APCORR")
    hdu.header["SIZEUNIT"] = "pixels"
    return [hdu]


def _boxes(optics: Optics, mode: str) -> list[dict[str, Any]]:
    names = ["ANY"] if mode == "MOS" else list(optics.slits)
    return [
        {"id": name, "region_type": "target", "dispaxis": 1, "spectral_order": "ANY", "extract_width": _BOX}
        for name in names
    ]


def _zero_points(
    optics: Optics, instrument: SimulatedInstrument, mode: str, wavelength: np.ndarray
) -> list[dict[str, Any]]:
    """Return how far the wavelength of a pixel is off [pixel], because light passes beside the middle of the slit.

    All shutters have one table: the mean of the shutters in the middle of the four quadrants.
    """
    models: Any = import_module("astropy.modeling.models")
    slits: dict[str, tuple[Slit, ...]] = {name: (slit,) for name, slit in optics.slits.items()}
    if mode == "MOS":
        slits = {"MOS": tuple(shutter_slit(optics, quadrant, 183, 86) for quadrant in (1, 2, 3, 4))}
    x, found = np.linspace(-0.5, 0.5, 21), []
    for name, each in slits.items():
        table = np.mean([_shifts(optics, instrument, slit, x, wavelength) for slit in each], axis=0)
        found.append(
            {
                "aperture_name": name,
                "zero_point_offset": models.Tabular2D(
                    points=(wavelength * _UM, x), lookup_table=table, bounds_error=False, fill_value=np.nan
                ),
                "variance": np.full(table.shape, 1e-4),
                "width": each[0].width * geometry_of(optics, each[0]).x_pitch,
            }
        )
    return found


def _shifts(
    optics: Optics, instrument: SimulatedInstrument, slit: Slit, x: np.ndarray, wavelength: np.ndarray
) -> np.ndarray:
    """Return the shifts of points in one slit [pixel], (wavelength, x)."""
    geometry, path, n = geometry_of(optics, slit), optics.for_slit(slit), wavelength.size
    aperture = Aperture(((-0.5, 0.5),), -0.5, 0.5, geometry.width, geometry.height)
    central, _ = path.inverse(0.0, wavelength)
    table = np.empty((n, x.size))
    for k, offset in enumerate(x * geometry.x_pitch):
        profile = point_profile(aperture, instrument, wavelength, np.full(n, offset), np.zeros(n))
        moved, _ = path.inverse(0.0, wavelength, slit_x=profile.shift)
        table[:, k] = central - moved
    finite = np.isfinite(table).all(axis=1)
    return np.stack([np.interp(wavelength, wavelength[finite], column[finite]) for column in table.T], axis=1)


def _failed_shutters(failed_open: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    return [
        {"Q": q, "x": x, "y": y, "state": "open", "TA state": "closed", "Internal state": "normal", "Vignetted": "No"}
        for q, x, y in failed_open
    ]
