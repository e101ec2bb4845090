"""Tables of rays that ESA computed with the flight model, and what our optics say of the same rays.

The tables are those that the observatory's aperture file (pysiaf) is tested with: all shutters with the mirror in the
grating wheel, and rays of target acquisition, with and without a tilt of the wheel.
"""

import gzip
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from nsxr.optics.instrument import Optics
from nsxr.optics.parts import Disperser, Distortion
from nsxr.references.optics import open_optics
from tests.optics.exposures import make_rates
from tests.optics.flight_references import read_blocks, write_flight_references

__all__ = ["open_mirror", "rays_of_acquisition", "shutters_of_quadrant", "table_of", "write_mirror"]

FOLDER = Path("flight") / "pysiaf_nirspec_delivery"
ARCSEC = 3600.0


def table_of(real_data: Path, name: str) -> tuple[dict[str, np.ndarray], fits.Header]:
    """Return the columns of a table of the delivery, float64, and its primary header."""
    with gzip.open(real_data / FOLDER / f"{name}.fits.gz") as file, fits.open(file) as hdus:
        rows = hdus[1].data
        return {key: np.array(rows[key], np.float64) for key in rows.columns.names}, hdus[0].header


def _larger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the larger of two absolute differences. The tables have single precision: up to 1.2e-4 pixel, 2.7e-5"."""
    return np.maximum(np.abs(x), np.abs(y))


def _mirror(real_data: Path, wheel_x: float | None, wheel_y: float | None) -> Disperser:
    """Return the mirror as a grating without lines, turned by half of what the sensors of the wheel say."""
    angles = {"theta_x": 0.0, "theta_y": 0.0}
    for name, file, reading in (("theta_x", "TiltX", wheel_y), ("theta_y", "TiltY", wheel_x)):
        blocks = read_blocks(real_data / "esa_model_NRS_COMM_16" / "Description" / f"disperser_MIRROR_{file}.gtp")
        slope, zero = float(blocks["CoeffsTemperature00"][0]), float(blocks["Zeroreadings"][0])
        angles[name] = 0.0 if reading is None else 0.5 * slope * (reading - zero) / ARCSEC
    # A density of 0 would say that this is the prism.
    return Disperser("MIRROR", **angles, theta_z=0.0, tilt_y=0.0, order=-1, groove_density=1e-12)


def write_mirror(real_data: Path, folder: Path) -> dict[str, Path]:
    """Write the flight references with filter CLEAR, all but the mirror."""
    return write_flight_references(real_data, folder, grating="PRISM", filter_name="CLEAR", ifu=False)


def open_mirror(
    real_data: Path,
    files: Mapping[str, Path],
    detector: str,
    wheel_x: float | None = None,
    wheel_y: float | None = None,
) -> Optics:
    """Return the flight optics with filter CLEAR and the mirror; without readings the wheel is not tilted."""
    optics = open_optics(files, make_rates("MSASPEC", "PRISM", detector, rows=(0, 2), columns=(0, 2)))
    return replace(optics, path=replace(optics.path, disperser=_mirror(real_data, wheel_x, wheel_y)))


def shutters_of_quadrant(
    optics: Mapping[str, Optics], table: Mapping[str, np.ndarray], number: int
) -> dict[str, np.ndarray]:
    """Return the differences of all rays of a table of shutters: MSA [m], sky [arcsec], pixels of both detectors."""
    first = optics["NRS1"]
    place = first.quadrant(number)
    shutter = table["I"].astype(int) - 1 + 365 * (table["J"].astype(int) - 1)
    x, y = place.affine[:, :2] @ [place.x[shutter], place.y[shutter]] + place.affine[:, 2:]
    found = {"msa": _larger(x - table["XPOSMSA"], y - table["YPOSMSA"])}
    v2, v3 = first.msa_to_v2v3(table["XPOSMSA"], table["YPOSMSA"], 2.0)
    found["sky"] = _larger(v2 - table["XPOSSKY"] * ARCSEC, v3 - table["YPOSSKY"] * ARCSEC)
    for detector, sca in (("NRS1", 491), ("NRS2", 492)):
        column, row = optics[detector].msa_to_detector(table["XPOSMSA"], table["YPOSMSA"], 2.0)
        own = (column, row) if detector == "NRS1" else (2047 - column, 2047 - row)
        found[detector] = _larger(own[0] + 1 - table[f"IPOS{sca}"], own[1] + 1 - table[f"JPOS{sca}"])
    return found


def _distort(distortion: Distortion, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the image of points: an affine map, then polynomials. NumPy twin of the kernels."""
    before, powers = distortion.before, distortion.coefficients[:, 0]
    u, v = (before[axis, 0] * x + before[axis, 1] * y + before[axis, 2] for axis in (0, 1))
    return np.array([np.polynomial.polynomial.polyval2d(u, v, powers[axis]) for axis in (0, 1)])


def rays_of_acquisition(optics: Optics, table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the differences of rays from pixels to the wheel and on to the sky: tangents of angles, and arcsec.

    The table was made in this direction, with the mirror, which has no wavelength to find. So the parts are used one by
    one. The table's last step is one polynomial fitted to the collimator, the fore optics and the telescope together.
    """
    path = optics.path
    x, y = table["SCA_X"] - 1, table["SCA_Y"] - 1
    if optics.detector == "NRS2":
        x, y = 2047 - x, 2047 - y
    affine = path.focal_plane.from_pixels
    plane = affine[:, :2] @ [x, y] + affine[:, 2:]
    tangent = _distort(path.camera.forward, *plane)
    ray = np.array([*tangent, np.ones_like(x)])
    ray = path.disperser.rotation @ (ray / np.sqrt((ray**2).sum(axis=0)))
    back = path.disperser.rotation.T @ (ray * [[-1], [-1], [1]])
    towards = back[:2] / back[2]
    found = {"wheel out": _larger(tangent[0] - table["GWAout_X"], tangent[1] - table["GWAout_Y"])}
    found["wheel in"] = _larger(towards[0] - table["GWAin_X"], towards[1] - table["GWAin_Y"])
    place = _distort(path.collimator.forward, *towards)
    v2, v3 = optics.msa_to_v2v3(*place, 2.5)
    found["sky"] = _larger(v2 - table["XAN"] * ARCSEC, v3 + (table["YAN"] + 0.13) * ARCSEC)
    return found
