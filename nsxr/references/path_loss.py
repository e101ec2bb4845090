"""Open references of the path loss (type PATHLOSS): the light that passes a slit, by position and wavelength."""

import os

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.formats.fits_headers import FitsFile
from nsxr.references.sampled import describe_reference, in_micrometres, read_image, sampled_axis, scan_of_type

__all__ = ["open_path_loss"]

_KIND = "pathloss"
_MOST = 100.0  # largest possible path loss; those of uniform light reach 3


def open_path_loss(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of the path loss: the part of the light that apertures let pass.

    Parameters
    ----------
    path : path
        FITS file with the extensions PS, PSVAR, UNI and UNIVAR, once for each aperture.

    Returns
    -------
    Dataset
        In memory, float64, for each aperture NAME (a fixed slit, MOS1X1, MOS1X3, IFU): ``point_NAME`` (wavelength_NAME,
        y_NAME, x_NAME) of a point source at a position in the aperture, and ``uniform_NAME``
        (uniform_wavelength_NAME) of uniform light, relative to a point in the middle. Wavelengths are in um, positions
        in pitch of shutters, or widths and heights of a fixed slit. ``point_variance_NAME`` and
        ``uniform_variance_NAME`` are their variances. They are missing if the file has none, or only zeros. The
        attribute ``shutters`` of ``point_NAME`` is the number of open shutters, 0 if the file does not tell.

    Raises
    ------
    ReferenceFileError
        If the file does not exist, is damaged, is of another type, or lacks an image or an axis; if a value is not
        finite, not positive, or very large.

    Examples
    --------
    >>> pathloss = nsxr.open_path_loss("jwst_nirspec_pathloss_0005.fits")  # doctest: +SKIP
    """
    file = scan_of_type(_KIND, path)
    versions = sorted(version for name, version in file.versions if name == "PS")
    if not versions:
        listed = ", ".join(name for name in file.extensions if name) or "none"
        raise ReferenceFileError(f"{file.path}: has no path loss of a point source; extensions are {listed}, not PS")
    variables: dict[str, xr.DataArray] = {}
    for version in versions:
        for name, array in _aperture(file, version).items():
            if name in variables:
                raise ReferenceFileError(f"{file.path}: aperture {name.partition('_')[2]} comes twice")
            variables[name] = array
    return xr.Dataset(variables, attrs=describe_reference(file, _KIND))


def _aperture(file: FitsFile, version: int) -> dict[str, xr.DataArray]:
    """Return the path losses of one aperture and their variances."""
    loss, header = read_image(file, "PS", 3, version)
    uniform, uniform_header = read_image(file, "UNI", 1, version)
    name = str(header.get("APERTURE") or version).strip().upper()
    shutters = header.get("SHUTTERS", 0)
    wavelength, y, x = (sampled_axis(file, header, 3 - axis, size) for axis, size in enumerate(loss.shape))
    uniform_wavelength = sampled_axis(file, uniform_header, 1, uniform.size)
    point_coords = {
        f"wavelength_{name}": in_micrometres(file, header, wavelength),
        f"y_{name}": y,
        f"x_{name}": x,
    }
    uniform_coords = {f"uniform_wavelength_{name}": in_micrometres(file, uniform_header, uniform_wavelength)}
    found = {}
    for kind, values, coords in (("point", loss, point_coords), ("uniform", uniform, uniform_coords)):
        what = f"{file.path}: path loss of {name} for {kind} light"
        strange = int((~((values > 0) & (values < _MOST))).sum())
        if strange:
            raise ReferenceFileError(f"{what}: {strange} of {values.size} values are not between 0 and {_MOST:g}")
        found[f"{kind}_{name}"] = xr.DataArray(values, coords, list(coords), attrs={"units": "1"})
        variance = _variance(file, {"point": "PSVAR", "uniform": "UNIVAR"}[kind], values, version)
        if variance is not None:
            found[f"{kind}_variance_{name}"] = xr.DataArray(variance, coords, list(coords))
    found[f"point_{name}"].attrs["shutters"] = int(shutters) if isinstance(shutters, int | float) else 0
    return found


def _variance(file: FitsFile, name: str, values: np.ndarray, version: int) -> np.ndarray | None:
    """Return the variance of a path loss. None if the file does not tell."""
    if (name, version) not in file.versions:
        return None
    variance, _ = read_image(file, name, values.ndim, version)
    if variance.shape != values.shape or not (variance >= 0).all():
        raise ReferenceFileError(
            f"{file.path}: {name} {version} has shape {variance.shape} or values that are no variances, expected "
            f"{values.shape} and 0 or more"
        )
    return variance if variance.any() else None
