"""References of stage 2 in the observatory's format: they sample the response of the simulated instrument."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from nsxr.errors import ParameterError
from nsxr.optics.instrument import Optics
from nsxr.simulate.aperture_references import aperture_references
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration, configure
from nsxr.simulate.detectors import DetectorPixels, detector_pixels, nominal_gain
from nsxr.simulate.instrument import SimulatedInstrument
from nsxr.simulate.reference_headers import EXPOSURE_TYPES, reference_hdu
from nsxr.simulate.response import (
    ANY,
    PLANES,
    detector_fast,
    detector_plane,
    fore_fast,
    fore_shutters,
    spectrograph_fast,
    spectrograph_image,
)
from nsxr.simulate.shutters import FAILED_OPEN, check_failed, shutter_slit
from nsxr.storage.whole import replacing

__all__ = ["write_flux_references"]

_SIZE = 2048
_FAST_ROWS = 1200
_ERROR = 0.001
"""Error of every flat."""
_WORST = 0.4
"""Pixels that respond less to light than this have no flat."""
_SR_TO_ARCSEC2 = float(np.rad2deg(1) * 3600) ** 2
_FLAGS = (("DO_NOT_USE", "Bad pixel"), ("UNRELIABLE_FLAT", "Flat variance large"), ("NO_FLAT_FIELD", "No flat field"))

Hdus = list[fits.ImageHDU | fits.BinTableHDU]


def write_flux_references(
    folder: str | Path,
    optics: Optics,
    *,
    mode: str,
    artifacts: Artifacts | None = None,
    failed_open: Sequence[tuple[int, int, int]] = FAILED_OPEN,
    pixels: DetectorPixels | None = None,
) -> dict[str, Path]:
    """Write all references that take count rates of a simulated exposure to flux densities and spectra.

    Flats have the structure of single pixels of the simulated detector, with its gain. Sensitivities are those with the
    gain of full frames, because stage 1 multiplies subarrays by GAINFACT.

    Parameters
    ----------
    folder : str or Path
        Folder of the files. It is made if it does not exist.
    optics : Optics
        The optics of the exposure. They say where slits are and how large pixels are on the sky.
    mode : str
        ``FS``, ``MOS``, ``IFU`` or ``BOTS``.
    artifacts : Artifacts, optional
        Those of the exposure: bad pixels, and the scatter of properties of pixels.
    failed_open : sequence of (int, int, int)
        Those of the exposure, as in :func:`simulate_exposure`.
    pixels : DetectorPixels, optional
        Properties of the pixels of the full frame with these artifacts, if the caller has them already.

    Returns
    -------
    dict
        Paths by type: fflat, sflat, dflat, photom, area, extract1d, apcorr, and where the mode needs them pathloss,
        barshadow, cubepar, wavecorr, msaoper.

    Raises
    ------
    ParameterError
        If the mode is none of these, or if a shutter does not exist.
    """
    check_failed(failed_open)
    if mode not in EXPOSURE_TYPES:
        raise ParameterError(f"mode {mode!r} has no references of flux; expected one of {', '.join(EXPOSURE_TYPES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    instrument = SimulatedInstrument.of(optics)
    configuration = configure(
        readout="NRSRAPID", subarray="FULL", groups=1, integrations=1, detector=optics.detector, grating=optics.grating
    )
    known = pixels or detector_pixels(configuration, artifacts or Artifacts())
    makers: Mapping[str, Callable[[], Hdus]] = {
        "fflat": lambda: _fore_flat(optics, mode),
        "sflat": lambda: _spectrograph_flat(mode),
        "dflat": lambda: _detector_flat(configuration, known),
        "photom": lambda: _photom(optics, instrument, configuration, mode),
        "area": lambda: _area(optics, instrument, mode),
    }
    written: dict[str, Path] = {}
    for kind, make in makers.items():
        path = folder / _file_name(kind, optics, mode)
        with replacing(path) as partial:
            hdus = [reference_hdu(kind, optics, mode, path.name), *make()]
            fits.HDUList(hdus).writeto(partial)
        written[kind] = path
    return written | aperture_references(folder, optics, instrument, mode, failed_open)


def _file_name(kind: str, optics: Optics, mode: str) -> str:
    """Return a name that two references share only if they are equal."""
    parts = [kind, "sim"]
    if kind in ("dflat", "sflat", "photom"):
        parts.append(optics.detector)
    if kind != "dflat":
        parts += [mode, optics.filter, optics.grating]
    return f"jwst_nirspec_{'_'.join(parts)}.fits".lower()


def _fast_table(
    fast: Callable[[str, np.ndarray], np.ndarray], names: tuple[str, ...], version: int
) -> fits.BinTableHDU:
    """Return the table of a fast variation, a row for each slit."""
    wavelength = np.linspace(*PLANES, _FAST_ROWS)
    number = f"{_FAST_ROWS}E"
    columns = [
        fits.Column("slit_name", "15A", array=np.array(names)),
        fits.Column("nelem", "J", array=np.full(len(names), _FAST_ROWS)),
        fits.Column("wavelength", number, unit="micrometer", array=np.tile(wavelength, (len(names), 1))),
        fits.Column("data", number, array=np.array([fast(name, wavelength) for name in names])),
        fits.Column("error", number, array=np.full((len(names), _FAST_ROWS), _ERROR)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FAST_VARIATION", ver=version)


def _planes(image: np.ndarray, version: int = 1, dq: np.ndarray | None = None) -> Hdus:
    """Return an image, or planes of it at two wavelengths, with errors and flags.

    D has one plane of errors and flags. The other cubes have as many planes of them as of values; jwst needs both.
    """
    shape = image.shape if dq is None else dq.shape
    error = np.full(shape, _ERROR, np.float32)
    flags = np.zeros(shape, np.uint32) if dq is None else dq
    found: Hdus = [
        fits.ImageHDU(image.astype(np.float32), name="SCI", ver=version),
        fits.ImageHDU(error, name="ERR", ver=version),
        fits.ImageHDU(flags, name="DQ", ver=version),
    ]
    if image.ndim == 3:
        column = fits.Column("wavelength", "E", unit="micrometer", array=np.array(PLANES))
        found.append(fits.BinTableHDU.from_columns([column], name="WAVELENGTH", ver=version))
    return found


def _flag_table() -> fits.BinTableHDU:
    """Return the meaning of the bits of a flat's flags."""
    bits = np.arange(len(_FLAGS))
    columns = [
        fits.Column("BIT", "J", array=bits),
        fits.Column("VALUE", "J", array=2**bits),
        fits.Column("NAME", "40A", array=np.array([name for name, _ in _FLAGS])),
        fits.Column("DESCRIPTION", "80A", array=np.array([text for _, text in _FLAGS])),
    ]
    return fits.BinTableHDU.from_columns(columns, name="DQ_DEF")


def _fore_flat(optics: Optics, mode: str) -> Hdus:
    if mode == "IFU":
        return [_fast_table(fore_fast, (ANY,), 1)]
    if mode != "MOS":
        return [_fast_table(fore_fast, tuple(optics.slits), 1)]
    hdus: Hdus = []
    for number in (1, 2, 3, 4):
        shutters = optics.quadrant(number)
        x, y = (place.reshape(171, 365) for place in (shutters.x, shutters.y))
        cube = np.stack([fore_shutters(number, x, y, plane) for plane in PLANES])
        hdus += [*_planes(cube, number), _fast_table(fore_fast, (ANY,), number)]
    return [*hdus, _flag_table()]


def _spectrograph_flat(mode: str) -> Hdus:
    pixels = np.arange(_SIZE)
    if mode == "MOS":
        image = np.stack([spectrograph_image(pixels, pixels, plane).astype(np.float32) for plane in PLANES])
    else:
        image = spectrograph_image(pixels, pixels, None)
    names = (ANY,) if mode in ("MOS", "IFU") else ("S200A1", "S200A2", "S400A1", "S1600A1", "S200B1")
    return [*_planes(image), _fast_table(spectrograph_fast, names, 1), _flag_table()]


def _detector_flat(configuration: Configuration, pixels: DetectorPixels) -> Hdus:
    structure = pixels.response * np.float32(pixels.nominal_gain) / pixels.gain
    is_bad = pixels.response < _WORST
    values = sum(1 << bit for bit, (name, _) in enumerate(_FLAGS) if name != "UNRELIABLE_FLAT")
    dq = np.where(is_bad & ~configuration.is_border, np.uint32(values), np.uint32(0))
    structure = np.where(is_bad, np.float32(1), structure)
    cube = np.stack([np.float32(detector_plane(plane)) * structure for plane in PLANES])
    table = _fast_table(lambda _, wavelength: detector_fast(wavelength), (ANY,), 1)
    return [*_planes(cube, dq=dq), table, _flag_table()]


def _photom(optics: Optics, instrument: SimulatedInstrument, configuration: Configuration, mode: str) -> Hdus:
    factor = 1e-6 * nominal_gain(configuration) * instrument.conversion()  # MJy for 1 DN/s
    scale = float(np.median(factor))
    slits = list(optics.slits) if mode in ("FS", "BOTS") else [""]
    n, rows = len(instrument.nodes), len(slits)
    many = f"{n}E"
    columns = [
        fits.Column("filter", "12A", array=np.full(rows, optics.filter)),
        fits.Column("grating", "15A", array=np.full(rows, optics.grating)),
        *([fits.Column("slit", "15A", array=np.array(slits))] if slits[0] else []),
        fits.Column("photmj", "E", array=np.full(rows, scale)),
        fits.Column("uncertainty", "E", array=np.full(rows, 0.01 * scale)),
        fits.Column("nelem", "I", array=np.full(rows, n)),
        fits.Column("wavelength", many, array=np.tile(instrument.nodes, (rows, 1))),
        fits.Column("relresponse", many, array=np.tile(factor / scale, (rows, 1))),
        fits.Column("reluncertainty", many, array=np.full((rows, n), 0.01)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="PHOTOM")
    return [table]


def _area(optics: Optics, instrument: SimulatedInstrument, mode: str) -> Hdus:
    if mode == "MOS":
        quadrant, number = np.divmod(np.arange(4 * 365 * 171), 365 * 171)
        across, along = np.divmod(number, 365)
        area = np.full(number.size, instrument.pixel_area(shutter_slit(optics, 1, 1, 1)))
        columns: list[Any] = [
            fits.Column("quadrant", "I", array=quadrant + 1),
            fits.Column("shutter_x", "I", array=along + 1),
            fits.Column("shutter_y", "I", array=across + 1),
        ]
    else:
        area = np.array([instrument.pixel_area(slit) for slit in optics.slits.values()])
        name = fits.Column("slit_id", "15A", array=np.array(list(optics.slits)))
        columns = [fits.Column("slice_id", "I", array=np.arange(area.size)) if mode == "IFU" else name]
    columns.append(fits.Column("pixarea", "E", unit="arcsec^2", array=area * _SR_TO_ARCSEC2))
    return [fits.BinTableHDU.from_columns(columns, name="AREA")]
