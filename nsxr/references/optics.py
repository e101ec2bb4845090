"""Read the optics of an exposure from reference files."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from nsxr.errors import ParameterError, ReferenceFileError
from nsxr.formats.asdf_blocks import AsdfFile
from nsxr.formats.asdf_transforms import Polynomial, Transform, read_transform
from nsxr.model.keywords import start_of
from nsxr.model.optics_header import OpticsHeader
from nsxr.optics.boxes import seen_range
from nsxr.optics.fixed_slits import slits_of_table
from nsxr.optics.instrument import LightPath, Optics
from nsxr.optics.parts import Disperser, Distortion, FocalPlane, Quadrant, Relay
from nsxr.optics.pointing import Pointing
from nsxr.optics.shutters import FIXED_SLIT_IDS
from nsxr.references.crds import best_references
from nsxr.references.embedded_optics import optics_of_product
from nsxr.references.optics_files import choose_files, warn_if_mixed
from nsxr.references.optics_parts import affine_of, inverse_of, relay_of

__all__ = ["open_optics"]

_FULL_RANGE = (0.6e-6, 5.3e-6)  # m
_ALWAYS = ("fpa", "camera", "collimator", "disperser", "wavelengthrange")
_FOR_SKY = ("fore", "ote")
_FOR_IFU = ("ifufore", "ifuslicer", "ifupost")
T = TypeVar("T")

_LARGEST = 1e15  # any number of these references; whole numbers in YAML may have any size
_NEAR = 20.0  # K, between the prism and the measurement of its glass


def open_optics(
    references: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    exposure: xr.Dataset | OpticsHeader | None = None,
    *,
    wavelength_range: tuple[float, float] | None = None,
) -> Optics:
    """Read the optics of an exposure: from the pixels of its detector to slits and sky, and back.

    Parameters
    ----------
    references : path, mapping of str to path, or "crds"
        A folder of reference files in ASDF format, which are recognized by their headers; or paths by type; or
        ``"crds"`` for the best ones of the JWST Calibration Reference Data System. Types:
        ``fpa``, ``camera``, ``collimator``, ``disperser``, ``wavelengthrange``, ``msa``; ``fore`` and ``ote`` for light
        from the sky; ``ifufore``, ``ifuslicer``, ``ifupost`` and, if there is one, ``chromcorr`` for the IFU. The IFU
        does not need ``msa``. Or one product in FITS format with cut-outs of slits, such as ``_cal``: the gwcs in it
        holds the optics of its slits.
    exposure : Dataset or OpticsHeader, optional
        Exposure from :func:`nsxr.open_exposure`, or what its header says. Its pixels are not read. A product needs
        none.
    wavelength_range : (float, float), optional
        Wavelengths [um] that slits are looked at for, if light outside of the nominal range is wanted. By default the
        nominal range of the filter and the grating.

    Returns
    -------
    Optics
        Frozen object that holds numbers only. Exposures of lamps have no sky: ``has_sky`` is False. From a product,
        ``slits`` has the slits of the product by name, with wavelengths before a correction for the place of the source
        in its slit; the other slits of the exposure are not known.

    Raises
    ------
    ParameterError
        If references are no product, and there is no exposure. If a range of wavelengths is given with a product, is
        empty, or is nothing that the detectors see.
    InputFileError
        If a product has no gwcs of slits. If the exposure has no spectra, or keywords of the grating wheel or of the
        pointing are missing.
    MissingReferenceError
        If references are missing, or the folder does not exist.
    ReferenceFileError
        If a reference does not fit the exposure, is damaged, or holds transforms that are no optics of NIRSpec; or if
        two files in the folder fit equally well.

    Warns
    -----
    DegradedResultWarning
        If references from the ground and from flight are mixed.

    Examples
    --------
    >>> optics = nsxr.open_optics("references", exposure)  # doctest: +SKIP
    >>> slit_y, wavelength, ra, dec = optics.forward(1000, 1100, "S200A1")  # doctest: +SKIP
    """
    if not isinstance(references, Mapping) and os.fspath(references).endswith((".fits", ".fits.gz")):
        if wavelength_range is not None:
            raise ParameterError("the slits of a product have the wavelengths of its gwcs; leave out wavelength_range")
        return optics_of_product(references)
    if exposure is None:
        raise ParameterError("references of the optics need an exposure; only a product (FITS) holds optics on its own")
    start: datetime | None = None
    if isinstance(exposure, OpticsHeader):
        header = exposure
    else:
        header, start = OpticsHeader.from_attributes(exposure.attrs), start_of(exposure.attrs)
    header.require_spectra()
    needed = [*_ALWAYS, *(() if header.is_lamp else _FOR_SKY), *(_FOR_IFU if header.is_ifu else ("msa",))]
    optional = (["msa"] if header.is_ifu else []) + (["chromcorr"] if header.is_ifu and not header.is_lamp else [])
    if not isinstance(references, Mapping) and os.fspath(references).lower() == "crds":
        if isinstance(exposure, OpticsHeader):
            raise ParameterError("CRDS chooses references by the header of an exposure; give the exposure")
        references = best_references(exposure, [*needed, *optional])
    files = choose_files(references, needed, optional, header, start)
    warn_if_mixed(files, header.called)
    nominal, order = _wavelength_range(files["wavelengthrange"], header)
    path = _light_path(files, header, nominal, order)
    names = tuple(sorted((kind, os.path.basename(file.name)) for kind, file in files.items()))
    quadrants = _quadrants(files["msa"]) if "msa" in files else ()
    wanted = nominal if wavelength_range is None else seen_range(wavelength_range)
    if not header.is_ifu:
        fixed = next((quadrant for quadrant in quadrants if quadrant.number == 5), None)
        slits = {} if fixed is None else slits_of_table(tuple(FIXED_SLIT_IDS), fixed, wanted, order)
        return Optics(path, slits, quadrants, references=names)
    slicer = _slicer(files["ifuslicer"])
    slits = slits_of_table([str(number) for number in range(slicer.x.size)], slicer, wanted, order)
    post = tuple(_slice_post(files["ifupost"], number) for number in range(slicer.x.size))
    return Optics(path, slits, quadrants, slicer, post, _relay(files["ifufore"]), names)


def _light_path(
    files: Mapping[str, AsdfFile], header: OpticsHeader, nominal: tuple[float, float], order: int
) -> LightPath:
    pointing = None
    if not header.is_lamp:
        ra, dec, v2, v3, roll = (value or 0.0 for value in (header.ra, header.dec, header.v2, header.v3, header.roll))
        pointing = Pointing(ra, dec, v2, v3, roll, header.aberration)
    model = f"{header.detector.lower()}_model"
    fpa = _transform(files["fpa"], model)
    focal_plane = _checked(
        files["fpa"], lambda: FocalPlane(header.detector, affine_of(fpa), affine_of(inverse_of(fpa)))
    )
    return LightPath(
        detector=header.detector,
        filter=header.filter,
        grating=header.grating,
        exposure_type=header.exposure_type,
        wavelength_range=nominal,
        order=order,
        focal_plane=focal_plane,
        camera=_relay(files["camera"]),
        collimator=_relay(files["collimator"]),
        disperser=_disperser(files["disperser"], header, order),
        fore=_relay(files["fore"]) if "fore" in files and not header.is_lamp else None,
        correction=_relay(files["chromcorr"]) if "chromcorr" in files else None,
        telescope=_relay(files["ote"]) if "ote" in files and not header.is_lamp else None,
        pointing=pointing,
        velocity=header.velocity,
    )


def _disperser(file: AsdfFile, header: OpticsHeader, order: int) -> Disperser:
    """Return the disperser with the tilt of the wheel: half of the change of the mirror's angle, axes exchanged."""
    values = {name: _number(file, file.tree, name) for name in ("theta_x", "theta_y", "theta_z", "tilt_y")}
    bare = Disperser(
        name=header.grating,
        theta_x=values["theta_x"] + _tilt(file, "gwa_tilty", header.wheel_y),
        theta_y=values["theta_y"] + _tilt(file, "gwa_tiltx", header.wheel_x),
        theta_z=values["theta_z"],
        tilt_y=values["tilt_y"],
        order=order,
    )
    if header.grating != "PRISM":
        density = _number(file, file.tree, "groovedensity")
        if density <= 0:
            raise ReferenceFileError(f"{file.name}: groovedensity is {density:g}, expected a number above 0")
        return replace(bare, groove_density=density)
    measured = _number(file, file.tree, "tref")
    if header.wheel_temperature is None or header.wheel_temperature - measured >= _NEAR:
        raise ReferenceFileError(
            f"{file.name}: the glass was measured at {measured} K, the prism has {header.wheel_temperature} K "
            f"(GWA_TILT); expected a difference below {_NEAR:g} K"
        )
    glass = [file.arrays.read(file.tree.get(name)).reshape(-1) for name in ("kcoef", "lcoef")]
    if any(array.shape != (3,) or not np.isfinite(array).all() for array in glass):
        raise ReferenceFileError(f"{file.name}: kcoef and lcoef are no lists of three numbers")
    k, poles = (tuple(map(float, array)) for array in glass)
    return replace(bare, prism_angle=_number(file, file.tree, "angle"), glass_k=k, glass_l=poles)


def _tilt(file: AsdfFile, name: str, reading: float | None) -> float:
    """Return the change of an angle [degree] that a sensor of the wheel shows."""
    node = file.tree.get(name)
    if not isinstance(node, Mapping) or not node.get("zeroreadings"):
        raise ReferenceFileError(f"{file.name}: {name} has no tilt_model and zeroreadings")
    model = _transform(file, "tilt_model", node)
    if not isinstance(model, Polynomial) or model.coefficients.ndim != 1 or reading is None:
        raise ReferenceFileError(f"{file.name}: tilt_model of {name} is no polynomial in one variable")
    zero = float(file.arrays.read(node["zeroreadings"]).reshape(-1)[0])
    arcsec = [float(np.polynomial.polynomial.polyval(at, model.coefficients)) for at in (reading, zero)]
    return 0.5 * (arcsec[0] - arcsec[1]) / 3600.0


def _wavelength_range(file: AsdfFile, header: OpticsHeader) -> tuple[tuple[float, float], int]:
    """Return the range [um] and the order of filter (or lamp) and grating, or of any filter with this grating."""
    tree = file.tree
    key = f"{header.lamp if header.is_lamp else header.filter}_{header.grating}"
    lists = [tree.get(name) or () for name in ("waverange_selector", "wavelengthrange", "order")]
    if not all(isinstance(one, Sequence) and len(one) == len(lists[0]) for one in lists):
        raise ReferenceFileError(f"{file.name}: waverange_selector, wavelengthrange and order differ in length")
    names, ranges, orders = [str(name) for name in lists[0]], lists[1], lists[2]
    same = [i for i, name in enumerate(names) if name == key or name.rpartition("_")[2] == header.grating]
    exact = [i for i in same if names[i] == key]
    low, high, order = *_FULL_RANGE, -1
    if same:
        chosen = (exact or same)[0]
        limits, order = file.arrays.read(ranges[chosen]).reshape(-1), orders[chosen]
        if limits.size != 2 or not 0 < limits[0] < limits[1] < _LARGEST or not isinstance(order, int):
            raise ReferenceFileError(f"{file.name}: {names[chosen]} has no two increasing wavelengths and an order")
        low, high = map(float, limits)
    return (low * 1e6, high * 1e6), order


def _quadrants(file: AsdfFile) -> tuple[Quadrant, ...]:
    found = []
    for number in range(1, 6):
        node = file.tree.get(f"Q{number}")
        if isinstance(node, Mapping):
            found.append(_table(file, number, node))
    if not found:
        raise ReferenceFileError(f"{file.name}: has no quadrants Q1 to Q5")
    return tuple(found)


def _slicer(file: AsdfFile) -> Quadrant:
    return _table(file, 5, file.tree)


def _table(file: AsdfFile, number: int, node: Mapping[str, Any]) -> Quadrant:
    table = file.arrays.read(node.get("data"))
    columns = ("XC", "YC", "SIZEX", "SIZEY")
    if table.ndim != 1:
        raise ReferenceFileError(f"{file.name}: the table of quadrant {number} has shape {table.shape}, expected rows")
    missing = [name for name in columns if name not in (table.dtype.names or ())]
    if missing:
        raise ReferenceFileError(f"{file.name}: the table of quadrant {number} lacks columns {', '.join(missing)}")
    affine = _checked(file, lambda: affine_of(_transform(file, "model", node)))
    x, y, width, height = (table[name].astype(np.float64) for name in columns)
    return Quadrant(number, x, y, width, height, affine)


def _slice_post(file: AsdfFile, number: int) -> Distortion:
    """Return the optics behind a slice: a linear part, then polynomials with a part that grows with the wavelength."""
    node = file.tree.get(f"slice_{number}")
    if not isinstance(node, Mapping):
        raise ReferenceFileError(f"{file.name}: slice_{number} is missing")
    before = _checked(file, lambda: affine_of(_transform(file, "linear", node)))
    names = (("xpoly", "xpoly_distortion"), ("ypoly", "ypoly_distortion"))
    each = [[_coefficients(file, name, node) for name in pair] for pair in names]
    size = max(array.shape[0] for pair in each for array in pair)
    coefficients = np.zeros((2, 2, size, size))
    for axis, pair in enumerate(each):
        for power, array in enumerate(pair):
            coefficients[axis, power, : array.shape[0], : array.shape[1]] = array
    return Distortion(before, coefficients)


def _coefficients(file: AsdfFile, name: str, node: Mapping[str, Any]) -> np.ndarray:
    model = _transform(file, name, node)
    if not isinstance(model, Polynomial) or model.coefficients.ndim != 2:
        raise ReferenceFileError(f"{file.name}: {name} is no polynomial in two variables")
    coefficients = model.coefficients
    if coefficients.shape[0] != coefficients.shape[1] or np.fliplr(np.tril(np.fliplr(coefficients), -1)).any():
        raise ReferenceFileError(f"{file.name}: {name} has other powers than those up to a total degree")
    return coefficients


def _relay(file: AsdfFile) -> Relay:
    return _checked(file, lambda: relay_of(_transform(file, "model")))


def _transform(file: AsdfFile, name: str, node: Mapping[str, Any] | None = None) -> Transform:
    tree = file.tree if node is None else node
    if name not in tree:
        raise ReferenceFileError(f"{file.name}: {name} is missing")
    return _checked(file, lambda: read_transform(tree[name], file.arrays))


def _number(file: AsdfFile, node: Mapping[str, Any], name: str) -> float:
    value = node.get(name)
    value = value.get("value") if isinstance(value, Mapping) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise ReferenceFileError(f"{file.name}: {name} is {value!r:.40}, expected a number")
    return float(value)


def _checked(file: AsdfFile, make: Callable[[], T]) -> T:
    """Return what a function makes, with the name of the file in its errors."""
    try:
        return make()
    except ReferenceFileError as error:
        if str(error).startswith(file.name):
            raise
        raise ReferenceFileError(f"{file.name}: {error}") from error
    except np.linalg.LinAlgError as error:
        raise ReferenceFileError(f"{file.name}: a matrix has no inverse") from error
