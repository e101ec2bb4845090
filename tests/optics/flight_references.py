"""References of the flight optics in the observatory's format, made from ESA's text model of NIRSpec.

The observatory's own flight references are not public without its server. ESA's model NRS_COMM_16 is: its polynomials
are those of the flight references to the last digit. Each transform is written with the structure that the ground
references of the observatory have, so that jwst reads these files too. Two types have no source in the model:
``chromcorr`` is written as the identity, and ``wavelengthrange`` is a copy of the flight reference 0008.
"""

import shutil
from collections.abc import Mapping as Keys
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from astropy.io import fits
from astropy.modeling import Model
from astropy.modeling.models import (
    AffineTransformation2D,
    Identity,
    Mapping,
    Polynomial1D,
    Polynomial2D,
    Rotation2D,
    Scale,
    Shift,
)

__all__ = ["FIXED_SLITS", "read_blocks", "read_shutters", "write_flight_references"]

FIXED_SLITS = ("S200A1", "S200A2", "S400A1", "S1600A1", "S200B1", "IFU")
"""Apertures in the order of the fifth quadrant's table; the corners in ESA's table have other prefixes and endings."""
ARCSEC = 3600.0
OPEN_AREA = {1: (77e-6, 177e-6), 2: (77e-6, 177e-6), 3: (78e-6, 178e-6), 4: (78e-6, 178e-6)}
"""Open width and height of a shutter [m], by quadrant, as in products of the flight pipeline."""
SHUTTER_COLUMNS, SHUTTER_ROWS = 365, 171
SLIT_TABLE = [("NO", ">i4"), ("XC", ">f4"), ("YC", ">f4"), ("SIZEX", ">f4"), ("SIZEY", ">f4")]
SPECTRA = "NRS_FIXEDSLIT|NRS_BRIGHTOBJ|NRS_MSASPEC|NRS_IFU|NRS_IMAGE|NRS_LAMP|NRS_AUTOWAVE|NRS_AUTOFLAT|"


def read_blocks(path: Path, *, stop: str = "InputDistortionMap_1") -> dict[str, list[str]]:
    """Read a text file of the model: the words below each line ``*NAME``, up to the block that is named ``stop``."""
    blocks: dict[str, list[str]] = {}
    words: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("*"):
                name = line[1:].split()[0]
                if name == stop:
                    break
                words = blocks.setdefault(name, [])
            else:
                words += line.partition("!")[0].split()
    return blocks


def _numbers(blocks: Keys[str, list[str]], name: str) -> np.ndarray:
    return np.array([float(word) for word in blocks[name]])


def _both(models: list[Model]) -> Model:
    return reduce(and_, models)


def _chain(*models: Model) -> Model:
    return reduce(or_, models)


def _shift(offsets: np.ndarray) -> Model:
    return _both([Shift(float(offset)) for offset in offsets])


def _linear(blocks: Keys[str, list[str]]) -> tuple[Model, Model]:
    """Return the linear part of a transform, forward and backward: factors after a rotation, between two centres."""
    factor = _numbers(blocks, "Factor")
    angle = np.deg2rad(_numbers(blocks, "Rotation")[0])
    matrix = np.diag(factor) @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    from_centre, to_centre = _numbers(blocks, "InputRotationCentre"), _numbers(blocks, "OutputRotationCentre")
    forward = _chain(_shift(-from_centre), AffineTransformation2D(matrix), _shift(to_centre))
    backward = _chain(_shift(-to_centre), AffineTransformation2D(np.linalg.inv(matrix)), _shift(from_centre))
    return forward, backward


def _polynomial(coefficients: np.ndarray) -> Polynomial2D:
    """Return a polynomial of degree 5; the model lists coefficients by the power of x, then by that of y."""
    degree = 5
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    named = {f"c{i}_{j}": float(c) for (i, j), c in zip(powers, coefficients, strict=True)}
    return Polynomial2D(degree, **named)


def _polynomials(blocks: Keys[str, list[str]], direction: str) -> list[tuple[Polynomial2D, Polynomial2D]]:
    """Return for x and y the polynomial and the one that is multiplied by the wavelength in metres."""
    found = []
    for axis in "xy":
        coefficients = _numbers(blocks, f"{axis}{direction}Coefficients")
        found.append((_polynomial(coefficients[:21]), _polynomial(coefficients[21:])))
    return found


def _plane(blocks: Keys[str, list[str]], direction: str) -> Model:
    """Return the polynomials in x and y as one model of two coordinates."""
    return Mapping((0, 1, 0, 1)) | _both([here for here, _ in _polynomials(blocks, direction)]) | Identity(2)


def _achromatic(blocks: Keys[str, list[str]]) -> Model:
    """Return the model from the output plane to the input plane, with its own backward polynomials as inverse."""
    forward, backward = _linear(blocks)
    model = _plane(blocks, "Backward") | backward
    model.inverse = forward | _plane(blocks, "Forward")
    return model


def _with_wavelength(blocks: Keys[str, list[str]], direction: str) -> Model:
    each = []
    for here, distortion in _polynomials(blocks, direction):
        times_wavelength = (Mapping((0, 1), n_inputs=3) | distortion) * (Mapping((2,), n_inputs=3) | Identity(1))
        each.append((Mapping((0, 1), n_inputs=3) | here) + times_wavelength)
    return Mapping((0, 1, 2, 0, 1, 2)) | _both(each) | Identity(2)


def _chromatic(blocks: Keys[str, list[str]]) -> Model:
    """Return the model of (x, y, wavelength) from the output plane to the input plane, with its inverse."""
    forward, backward = _linear(blocks)
    model = _with_wavelength(blocks, "Backward") | backward
    model.inverse = (forward & Identity(1)) | _with_wavelength(blocks, "Forward")
    return model


def _slice_transform(path: Path) -> dict[str, Model]:
    blocks = read_blocks(path)
    forward, _ = _linear(blocks)
    (x, x_distortion), (y, y_distortion) = _polynomials(blocks, "Forward")
    (x.inverse, _), (y.inverse, _) = _polynomials(blocks, "Backward")
    return {
        "linear": forward,
        "xpoly": x,
        "ypoly": y,
        "xpoly_distortion": x_distortion,
        "ypoly_distortion": y_distortion,
    }


def _fpa(path: Path) -> dict[str, Model]:
    blocks = read_blocks(path)
    found = {}
    for number, (detector, sign) in {491: ("nrs1", 1.0), 492: ("nrs2", -1.0)}.items():
        pitch = [_numbers(blocks, f"SCA{number}_Pitch{axis}")[0] for axis in "XY"]
        place = np.array([_numbers(blocks, f"SCA{number}_Pos{axis}")[0] for axis in "XY"])
        angle = _numbers(blocks, f"SCA{number}_RotAngle")[0]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = sign * turn @ np.diag(pitch)
        model = AffineTransformation2D(matrix) | _shift(place)
        model.inverse = _shift(-place) | AffineTransformation2D(np.linalg.inv(matrix))
        found[f"{detector}_model"] = model
    return found


def _tilt(path: Path) -> dict[str, Any]:
    blocks = read_blocks(path)
    high, low = _numbers(blocks, "CoeffsTemperature00")
    return {
        "temperatures": [float(value) for value in blocks["Temperatures"]],
        "tilt_model": Polynomial1D(1, c0=low, c1=high),
        "unit": "arcsec",
        "zeroreadings": [float(value) for value in blocks["Zeroreadings"]],
    }


def _disperser(folder: Path, grating: str) -> dict[str, Any]:
    path = folder / f"disperser_{grating}.{'pri' if grating == 'PRISM' else 'dis'}"
    blocks = read_blocks(path)
    content: dict[str, Any] = {f"theta_{axis}": _numbers(blocks, f"THETA{axis.upper()}")[0] / ARCSEC for axis in "xyz"}
    content |= {"tilt_x": 0.0, "tilt_y": _numbers(blocks, "TILTY")[0]}
    # A tilt about y is read by the sensor x: the file TiltY holds the table of the sensor x.
    content |= {"gwa_tiltx": _tilt(folder / f"disperser_{grating}_TiltY.gtp")}
    content |= {"gwa_tilty": _tilt(folder / f"disperser_{grating}_TiltX.gtp")}
    if grating == "PRISM":
        glass = _numbers(blocks, "COEFFORMULA")
        content |= {"angle": _numbers(blocks, "ANGLE")[0], "kcoef": glass[::2].tolist(), "lcoef": glass[1::2].tolist()}
        content |= {name: _numbers(blocks, name.upper())[0] for name in ("tref", "pref")}
        content |= {"tcoef": _numbers(blocks, "THERMALCOEF").tolist(), "wbound": _numbers(blocks, "WBOUND").tolist()}
    else:
        content["groovedensity"] = _numbers(blocks, "GROOVEDENSITY")[0]
    return {name: float(value) if isinstance(value, np.floating) else value for name, value in content.items()}


def read_shutters(path: Path, quadrant: int) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Read a quadrant of ESA's shutter metrology.

    Returns
    -------
    table : structured array of 62415 rows
        Number from 1, centre and open size [m] in the frame of the quadrant, in single precision, as in the
        observatory's reference. Numbers run along the dispersion first.
    angle : float
        Rotation of the quadrant [degrees].
    place : tuple of float
        Position of shutter (1, 1) in the MSA plane [m].
    """
    blocks = read_blocks(path)

    def value(name: str) -> float:
        return float(blocks[f"Q{quadrant}{name}"][0])

    table = np.zeros(SHUTTER_COLUMNS * SHUTTER_ROWS, SLIT_TABLE)
    row, column = np.divmod(np.arange(table.size), SHUTTER_COLUMNS)
    table["NO"] = np.arange(1, table.size + 1)
    table["XC"], table["YC"] = column * value("xpitch") * 1e-3, row * value("ypitch") * 1e-3
    table["SIZEX"], table["SIZEY"] = OPEN_AREA[quadrant]
    return table, float(np.rad2deg(value("rot"))), (value("xref"), value("yref"))


def _fixed_slits(path: Path) -> np.ndarray:
    table = np.zeros(len(FIXED_SLITS), SLIT_TABLE)
    with fits.open(path) as hdus:
        corners = {row["SIAF_NAME"].strip(): row for row in hdus["POSITIONS"].data}
    for number, name in enumerate(FIXED_SLITS):
        row = corners["NRS_FULL_IFU" if name == "IFU" else f"NRS_{name}_SLIT"]
        x, y = (np.array([row[f"C{corner}_{axis}POSMSA"] for corner in range(1, 5)], float) for axis in "XY")
        table[number] = (number, x.mean(), y.mean(), np.ptp(x), np.ptp(y))
    return table


def _msa(model: Path) -> dict[str, Any]:
    content = {}
    for quadrant in range(1, 5):
        table, angle, place = read_shutters(model / "MSA.msa.ascii", quadrant)
        content[f"Q{quadrant}"] = {"model": Rotation2D(angle) | _shift(np.array(place)), "data": table}
    (corners,) = model.glob("NRS_SIAF_*.fits")
    content["Q5"] = {"model": Rotation2D(0.0) | _shift(np.zeros(2)), "data": _fixed_slits(corners)}
    return content


def _slicer(path: Path) -> dict[str, Any]:
    with fits.open(path) as hdus:
        table = np.array(hdus["SLICER"].data).astype(SLIT_TABLE)
    return {"model": Rotation2D(0.0) | _shift(np.zeros(2)), "data": table}


def _meta(reftype: str, model_type: str, **instrument: str) -> dict[str, Any]:
    kinds = "NRS_IFU|" if reftype.startswith("ifu") or reftype == "chromcorr" else SPECTRA
    return {
        "author": "ESA, NIRSpec instrument model NRS_COMM_16",
        "date": "2022-06-09T00:00:00.000",
        "description": f"{reftype} of the flight model NRS_COMM_16",
        "exposure": {"type": "NRS_IFU" if kinds == "NRS_IFU|" else "N/A", "p_exptype": kinds},
        "instrument": {"name": "NIRSPEC", "p_detector": "NRS1|NRS2|"} | instrument,
        "model_type": model_type,
        "pedigree": "INFLIGHT 2022-02-01 2022-06-01",
        "reftype": reftype,
        "telescope": "JWST",
        "title": f"NIRSPEC {reftype} file",
        "useafter": "2022-01-01T00:00:00",
    }


def _write_no_correction(folder: Path, filter_name: str) -> Path:
    """Write a reference ``chromcorr`` that changes nothing, and return its path; jwst needs one for the IFU."""
    path = folder / "flight_chromcorr.asdf"
    meta = _meta("chromcorr", "ChromCorrModel", filter=filter_name)
    asdf.AsdfFile({"meta": meta, "model": Identity(3)}).write_to(path)
    return path


def write_flight_references(
    real_data: Path, folder: Path, *, grating: str, filter_name: str, shutters: bool = True, ifu: bool = True
) -> dict[str, Path]:
    """Write the optics of one grating and filter as the observatory's references and return their paths by type.

    Parameters
    ----------
    real_data : Path
        The folder of real files, with ``esa_model_NRS_COMM_16`` and ``crds_refs`` in it.
    folder : Path
        Where the files go; the folder is made.
    grating : str
        ``G140M`` to ``G395H``, ``PRISM`` or ``MIRROR``.
    filter_name : str
        ``CLEAR``, ``F070LP``, ``F100LP``, ``F110W``, ``F140X``, ``F170LP`` or ``F290LP``.
    shutters, ifu : bool
        Whether to write the tables of shutters (6 MB), and the types that only the IFU needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = real_data / "esa_model_NRS_COMM_16"
    transforms, description = model / "CoordTransform", model / "Description"
    written: dict[str, Path] = {}

    def write(reftype: str, model_type: str, content: dict[str, Any], **instrument: str) -> None:
        written[reftype] = folder / f"flight_{reftype}.asdf"
        tree = {"meta": _meta(reftype, model_type, **instrument), **content}
        asdf.AsdfFile(tree).write_to(written[reftype])

    write("camera", "CameraModel", {"model": _achromatic(read_blocks(transforms / "Camera.pcf"))})
    write("collimator", "CollimatorModel", {"model": _achromatic(read_blocks(transforms / "Collimator.pcf"))})
    sky = _achromatic(read_blocks(transforms / "OTE.pcf"))
    ote = sky | Scale(ARCSEC) & Scale(ARCSEC)
    ote.inverse = Scale(1 / ARCSEC) & Scale(1 / ARCSEC) | sky.inverse
    write("ote", "OTEModel", {"model": ote})
    fore = _chromatic(read_blocks(transforms / f"Fore_{filter_name}.pcf"))
    write("fore", "FOREModel", {"model": fore}, filter=filter_name)
    write("fpa", "FPAModel", _fpa(description / "FPA.fpa"))
    write("disperser", "DisperserModel", _disperser(description, grating), grating=grating)
    if shutters:
        write("msa", "MSAModel", _msa(model))
    if ifu:
        fields = transforms / "IFU"
        write("ifufore", "IFUFOREModel", {"model": _chromatic(read_blocks(fields / "IFU_FORE.pcf"))})
        slices = {f"slice_{n}": _slice_transform(fields / f"IFU-POST_{n}.pcf") for n in range(30)}
        write("ifupost", "IFUPostModel", slices)
        write("ifuslicer", "IFUSlicerModel", _slicer(description / "IFU_slicer.sgd"))
        written["chromcorr"] = _write_no_correction(folder, filter_name)
    written["wavelengthrange"] = folder / "flight_wavelengthrange.asdf"
    shutil.copyfile(real_data / "crds_refs" / "jwst_nirspec_wavelengthrange_0008.asdf", written["wavelengthrange"])
    return written
