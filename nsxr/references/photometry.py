"""Open references of the sensitivity (type PHOTOM) and of the solid angle of a pixel (type AREA), which are tables."""

import os
from collections.abc import Mapping

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.formats.fits_headers import FitsFile
from nsxr.model.keywords import whole_number
from nsxr.references.sampled import describe_reference, scan_of_type
from nsxr.references.tables import columns_of

__all__ = ["TIME_FORMS", "open_photometry", "open_pixel_area"]

TIME_FORMS: Mapping[str, tuple[str, ...]] = {
    "linear": ("t0", "lossperyear"),
    "exponential": ("t0", "amplitude", "tau", "const"),
    "powerlaw": ("t0", "year1value", "tsoft", "alpha"),
}
"""Forms in which the throughput depends on time, with the columns of their tables."""

_BY_WAVELENGTH = ("wavelength", "relresponse", "reluncertainty")
_SELECTORS = ("filter", "grating", "slit")
_METRES = 1e-4  # wavelengths below this are in metres
_SHUTTERS = (4, 171, 365)  # quadrants, shutters along the slit, shutters along the dispersion
_SLICES = 30
_AREAS = 1e-4, 10.0  # smallest and largest possible solid angle of a pixel [arcsec2]; S1600A1 has 0.17


def open_photometry(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference that converts count rates, divided by flats, to flux densities.

    Parameters
    ----------
    path : path
        FITS file with a table PHOTOM: ``filter``, ``grating``, ``slit`` (fixed slits only), ``photmj`` [MJy for 1 DN/s]
        and its ``uncertainty``; and ``nelem``, ``wavelength`` [um], ``relresponse`` and ``reluncertainty``. The tables
        TIMECOEFF_LINEAR, TIMECOEFF_EXPONENTIAL and TIMECOEFF_POWERLAW tell how the throughput changes with time. They
        have the rows of PHOTOM.

    Returns
    -------
    Dataset
        In memory, float64, with a row ``entry`` for each ``filter``, ``grating`` and ``slit``: ``photmj``,
        ``uncertainty``; and along ``node``, ``wavelength`` [um], increasing, ``relresponse`` and ``reluncertainty``,
        NaN beyond the last node of an entry. Uncertainties are absolute, 0 where the file has none. Columns of tables
        of time are ``linear_t0`` and so on, with days in MJD.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, is of another type, lacks columns, or if the rows of its tables differ.
    """
    file = scan_of_type("photom", path, "PHOTOM", *(f"TIMECOEFF_{form.upper()}" for form in TIME_FORMS))
    columns = columns_of(file, "PHOTOM", "filter", "grating", "photmj", "wavelength", "relresponse")
    shapes = {name: values.shape for name, values in columns.items() if name in _BY_WAVELENGTH}
    if columns["wavelength"].ndim != 2 or len(set(shapes.values())) != 1 or columns["photmj"].ndim != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ReferenceFileError(
            f"{file.path}: columns of PHOTOM have shapes {listed}, expected several values in each row"
        )
    nodes = {name: columns[name] for name in _BY_WAVELENGTH[:2]}
    nodes["reluncertainty"] = _known(columns.get("reluncertainty"), nodes["wavelength"])
    _sort(file, nodes, columns.get("nelem"))
    variables = {name: (("entry", "node"), values) for name, values in nodes.items()}
    texts = {name: ("entry", columns[name]) for name in _SELECTORS if name in columns}
    numbers = {
        "photmj": ("entry", columns["photmj"], {"units": "MJy s / DN"}),
        "uncertainty": ("entry", _known(columns.get("uncertainty"), columns["photmj"]), {"units": "MJy s / DN"}),
    }
    dataset = xr.Dataset({**texts, **numbers, **variables, **_time_dependence(file, columns)})
    dataset["wavelength"].attrs["units"] = "um"
    return dataset.assign_attrs(describe_reference(file, "photom"))


def _known(uncertainty: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Return uncertainties that are finite and not negative. Others become 0."""
    if uncertainty is None or uncertainty.dtype.kind != "f" or uncertainty.shape != values.shape:
        return np.zeros(values.shape)
    return np.where(np.isfinite(uncertainty) & (uncertainty > 0), uncertainty, 0.0)


def _sort(file: FitsFile, nodes: dict[str, np.ndarray], lengths: np.ndarray | None) -> None:
    """Bring the nodes of each entry to increasing wavelengths in um, and set those beyond its length to NaN."""
    wavelength = nodes["wavelength"]
    n = wavelength.shape[1]
    for entry in range(len(wavelength)):
        length = n if lengths is None else whole_number(lengths[entry])
        if length is None or not 1 < length <= n:
            raise ReferenceFileError(f"{file.path}: row {entry + 1} of PHOTOM has nelem {length}, expected 2 to {n}")
        order = np.argsort(wavelength[entry, :length], kind="stable")
        for values in nodes.values():
            values[entry, :length] = values[entry, order]
            values[entry, length:] = np.nan
        if 0 < wavelength[entry, length - 1] < _METRES:
            wavelength[entry] *= 1e6
        used = wavelength[entry, :length]
        if not (np.diff(used) > 0).all() or not 0.1 < used[0] < used[-1] < 30:
            raise ReferenceFileError(
                f"{file.path}: wavelengths in row {entry + 1} of PHOTOM go from {used[0]:g} to {used[-1]:g}, expected "
                "different wavelengths from 0.6 to 5.3 um"
            )


def _time_dependence(file: FitsFile, photom: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    found: dict[str, tuple[str, np.ndarray]] = {}
    for form, names in TIME_FORMS.items():
        table = f"TIMECOEFF_{form.upper()}"
        if table not in file.extensions:
            continue
        columns = columns_of(file, table, *names)
        differ = [
            name
            for name in _SELECTORS
            if name in columns and name in photom and not np.array_equal(columns[name], photom[name])
        ]
        if differ or len(columns["t0"]) != len(photom["filter"]):
            raise ReferenceFileError(f"{file.path}: the rows of {table} are not those of PHOTOM")
        found |= {f"{form}_{name}": ("entry", columns[name]) for name in names}
    return found


def open_pixel_area(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of the solid angle that a pixel sees.

    Parameters
    ----------
    path : path
        FITS file with a table AREA of ``pixarea`` [arcsec2], and ``slit_id`` for fixed slits; ``quadrant``,
        ``shutter_x`` and ``shutter_y`` for shutters; or ``slice_id`` for slices, from 0.

    Returns
    -------
    Dataset
        In memory: ``pixel_area`` float64 [arcsec2], NaN where the file has none. Its dims are ``slit`` with the names
        of slits; ``quadrant``, ``shutter_y`` and ``shutter_x`` with numbers from 1; or ``slice`` with the numbers 1 to
        30, as in :func:`nsxr.locate_slices`.

    Raises
    ------
    ReferenceFileError
        If the file cannot be read, is of another type, lacks columns, has an entry twice, or if areas are not in
        arcsec2.
    """
    file = scan_of_type("area", path, "AREA")
    columns = columns_of(file, "AREA", "pixarea")
    key = next((name for name in ("slit_id", "slice_id", "quadrant") if name in columns), None)
    columns = columns if key is None else columns_of(file, "AREA", "pixarea", key)
    area = columns["pixarea"]
    known = area[np.isfinite(area) & (area > 0)]
    if not known.size or not _AREAS[0] < known.min() <= known.max() < _AREAS[1]:
        found = f"go from {known.min():g} to {known.max():g}" if known.size else "are all missing"
        raise ReferenceFileError(f"{file.path}: areas of pixels {found}, expected 0.01 to 0.2 arcsec2")
    area = np.where(np.isfinite(area) & (area > 0), area, np.nan)
    places: tuple[np.ndarray, ...]
    if "slit_id" in columns:
        labels: dict[str, np.ndarray] = {"slit": columns["slit_id"]}
        values = area
        places = (np.unique(columns["slit_id"], return_inverse=True)[1],)
    elif "slice_id" in columns:
        labels = {"slice": np.arange(1, _SLICES + 1)}
        values, places = _placed(file, area, [columns["slice_id"]], (_SLICES,))
    elif "quadrant" in columns:
        labels = dict(
            zip(("quadrant", "shutter_y", "shutter_x"), (np.arange(1, n + 1) for n in _SHUTTERS), strict=True)
        )
        columns = columns_of(file, "AREA", *labels)
        values, places = _placed(file, area, [columns[name] - 1 for name in labels], _SHUTTERS)
    else:
        raise ReferenceFileError(
            f"{file.path}: table AREA has columns {', '.join(columns)}, expected slit_id, slice_id, or quadrant"
        )
    if np.bincount(np.ravel_multi_index(places, values.shape)).max() > 1:
        raise ReferenceFileError(f"{file.path}: table AREA has an entry twice")
    array = xr.DataArray(values, labels, tuple(labels), attrs={"units": "arcsec2"})
    return xr.Dataset({"pixel_area": array}, attrs=describe_reference(file, "area"))


def _placed(
    file: FitsFile, area: np.ndarray, numbers: list[np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return areas at their places in an array that is NaN elsewhere."""
    places = tuple(np.nan_to_num(one, nan=-1).astype(np.int64) for one in numbers)
    if any((one < 0).any() or (one >= n).any() for one, n in zip(places, shape, strict=True)):
        raise ReferenceFileError(f"{file.path}: table AREA has numbers outside of {', '.join(map(str, shape))}")
    values = np.full(shape, np.nan)
    values[places] = area
    return values, places
