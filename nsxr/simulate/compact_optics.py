"""Compact optics of NIRSpec, written as references in the observatory's format.

The simulator needs optics that ship as code. The numbers below are polynomials of degree 2 and 3. They were fitted to
ESA's flight model (NRS_COMM_16) and rounded. Spectra fall within about a pixel of where flight optics put them, but not
closer. Never mix these references with those of the observatory.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from operator import and_, or_
from pathlib import Path
from typing import Any

import numpy as np

from nsxr.errors import ParameterError
from nsxr.optics.parts import SHUTTERS_ALONG_DISPERSION, SHUTTERS_ALONG_SLIT

__all__ = ["FIXED_SLITS", "WAVELENGTHS", "write_compact_optics"]

Coefficients = Mapping[tuple[int, int], float]

_CAMERA: tuple[Coefficients, Coefficients] = (
    {
        (0, 0): -0.000429759, (0, 1): -0.000480597, (0, 2): 0.0135353, (0, 3): 0.636861, (1, 0): 3.5216,
        (1, 1): 2.93527, (1, 2): 15.7033, (2, 0): 0.00517252, (2, 1): 0.33771, (3, 0): 15.3863,
    },
    {
        (0, 0): 0.294096, (0, 1): 3.70486, (0, 2): 3.88472, (0, 3): 13.2313, (1, 0): -3.94857e-05,
        (1, 1): -0.00330454, (1, 2): 0.249926, (2, 0): 0.99096, (2, 1): 12.7326, (3, 0): 0.0444816,
    },
)  # fmt: skip
"""Powers of the place on the detectors [m], for the place in the pupil. 0.3 pixel from the flight model."""

_COLLIMATOR: tuple[Coefficients, Coefficients] = (
    {
        (0, 0): 5.8185e-05, (0, 1): -0.00190019, (0, 2): -0.00444093, (0, 3): 0.0432145, (1, 0): 1.57166,
        (1, 1): -0.398295, (1, 2): 1.22096, (2, 0): 0.0051991, (2, 1): -0.0040418, (3, 0): 1.09582,
    },
    {
        (0, 0): -0.294517, (0, 1): 1.64604, (0, 2): -0.621888, (0, 3): 1.14415, (1, 0): 0.000581659,
        (1, 1): 0.00314817, (1, 2): 0.0242077, (2, 0): -0.195111, (2, 1): 1.21339, (3, 0): 0.0130211,
    },
)  # fmt: skip
"""Powers of the place in the plane of the MSA [m], for the place in the pupil. 0.1 pixel from the flight model."""

_FORE: tuple[Coefficients, Coefficients] = (
    {
        (0, 0): 0.000480195, (0, 1): 1.09156, (0, 2): -0.19348,
        (1, 0): 1.22564, (1, 1): -0.153669, (2, 0): -0.0761069,
    },
    {
        (0, 0): 0.00026588, (0, 1): 1.24602, (0, 2): -0.221799,
        (1, 0): -1.07257, (1, 1): 0.13813, (2, 0): -0.102665,
    },
)  # fmt: skip
"""Powers of the place in the plane of the MSA [m], for the image plane of the telescope [m]. 0.2 arcsec from flight."""

_GRATINGS: Mapping[str, tuple[float, float, float, float, float]] = {
    "G140M": (95397.1, 0.0370, 0.0133, 0.0173, -4.2),
    "G140H": (252285.8, 0.0327, -0.0077, -0.0064, -8.8),
    "G235M": (56875.6, 0.0360, 0.0342, 0.0227, -4.2),
    "G235H": (150292.7, 0.0250, -0.0463, -0.0973, -8.75),
    "G395M": (33821.7, 0.0591, 0.0062, 0.0018, -4.1),
    "G395H": (89408.7, 0.0250, -0.0368, 0.0083, -8.8),
}
"""Grooves per metre, theta_x, theta_y, theta_z and tilt_y [degree]."""

_PRISM = {
    "angle": -16.5,
    "kcoef": [1.03293, 0.01233, 4.09337],
    "lcoef": [0.005456, 0.038817, 1264.01],
    "tcoef": [-2.66e-05, 0.0, 0.0, 0.0, 0.0, 0.0],
    "tref": 35.0,
    "pref": 0.0,
    "wbound": [4e-07, 7e-06],
}

TILT_ZERO: Mapping[str, tuple[float, float]] = {
    "PRISM": (0.3395, 0.0316),
    "G140M": (0.3282, 0.1243),
    "G140H": (0.3604, 0.1330),
    "G235M": (0.3201, 0.1384),
    "G235H": (0.3548, 0.1378),
    "G395M": (0.2833, 0.1772),
    "G395H": (0.3193, 0.1445),
}
"""Readings of the two sensors of the grating wheel (GWA_XTIL, GWA_YTIL) at which the angles hold, as in flight."""

WAVELENGTHS: Mapping[str, tuple[float, float]] = {
    "CLEAR_PRISM": (0.6, 5.3),
    "F070LP_G140M": (0.7, 1.27),
    "F070LP_G140H": (0.7, 1.27),
    "F100LP_G140M": (0.97, 1.89),
    "F100LP_G140H": (0.97, 1.89),
    "F170LP_G235M": (1.66, 3.17),
    "F170LP_G235H": (1.66, 3.17),
    "F290LP_G395M": (2.87, 5.27),
    "F290LP_G395H": (2.87, 5.27),
}
"""Nominal wavelengths [um] of each filter and grating."""

_QUADRANTS = {
    1: (-0.0250, -0.042693, -0.041770),
    2: (-0.0173, -0.042808, 0.007260),
    3: (-0.0135, 0.004593, -0.041775),
    4: (-0.0134, 0.004604, 0.007247),
}
"""Rotation [degree] of a quadrant of the MSA, and position of its first shutter [m]."""

PITCH = (104.98e-6, 203.5e-6)
"""Distance of neighbouring shutters along the dispersion and along the slit [m]."""

OPEN_AREA = (77e-6, 177e-6)
"""Open width and height of a shutter [m]."""

FIXED_SLITS: Mapping[str, tuple[float, float, float, float]] = {
    "S200A1": (0.026973, -0.002715, 7.55e-5, 1.261e-3),
    "S200A2": (0.034664, -0.001258, 7.60e-5, 1.272e-3),
    "S400A1": (0.029667, 0.000285, 1.547e-4, 1.449e-3),
    "S1600A1": (0.028666, 0.001552, 6.268e-4, 6.18e-4),
    "S200B1": (-0.034676, 0.002757, 7.88e-5, 1.274e-3),
    "IFU": (0.041295, 0.0, 1.211e-3, 1.230e-3),
}
"""Centre, width and height of the fixed apertures [m], in the order of the table of quadrant 5."""

_TABLE = [("NO", ">i4"), ("XC", ">f4"), ("YC", ">f4"), ("SIZEX", ">f4"), ("SIZEY", ">f4")]
_SPECTRA = "NRS_FIXEDSLIT|NRS_BRIGHTOBJ|NRS_MSASPEC|NRS_IFU|NRS_IMAGE|NRS_LAMP|NRS_AUTOWAVE|NRS_AUTOFLAT|"

_IFU_ONLY = ("ifufore", "ifuslicer", "ifupost", "chromcorr")


def write_compact_optics(
    folder: str | Path, *, grating: str, filter: str, shutters: bool = True, ifu: bool = True
) -> dict[str, Path]:
    """Write the compact optics of a filter and a grating as references.

    Parameters
    ----------
    folder : path
        Folder of the files. It is made if it does not exist.
    grating, filter : str
        ``PRISM`` with ``CLEAR``, or a grating with its filter, as in :data:`WAVELENGTHS`.
    shutters : bool
        Whether the table of quadrants 1 to 4 is written with all shutters (5 MB), or quadrant 5 only.
    ifu : bool
        Whether to write the types that only the IFU needs.

    Returns
    -------
    dict
        Paths by type: camera, collimator, fpa, ote, fore, disperser, msa, wavelengthrange, and ifufore, ifuslicer,
        ifupost, chromcorr (which changes nothing). ASDF files with standard transforms, which the jwst package reads
        too. Only the names of fore, chromcorr and disperser contain the filter or the grating, so that one folder can
        serve several gratings.

    Raises
    ------
    ParameterError
        If there are no wavelengths for the filter and the grating.
    """
    if f"{filter}_{grating}" not in WAVELENGTHS:
        raise ParameterError(
            f"filter {filter!r} with grating {grating!r} is not known, expected one of {', '.join(WAVELENGTHS)}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    models: Any = import_module("astropy.modeling.models")
    asdf: Any = import_module("asdf")
    trees: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
        "camera": ("CameraModel", {"model": _camera(models)}, {}),
        "collimator": ("CollimatorModel", {"model": _collimator(models)}, {}),
        "fpa": ("FPAModel", _fpa(models), {}),
        "ote": ("OTEModel", {"model": _ote(models)}, {}),
        "fore": ("FOREModel", {"model": _fore(models)}, {"filter": filter}),
        "disperser": ("DisperserModel", _disperser(models, grating), {"grating": grating}),
        "msa": ("MSAModel", _msa(models, shutters), {}),
        "wavelengthrange": ("WavelengthrangeModel", _wavelength_range(), {}),
    }
    if ifu:
        trees["ifufore"] = ("IFUFOREModel", {"model": _ifu_fore(models)}, {})
        trees["ifuslicer"] = ("IFUSlicerModel", {"model": _placed(models, 0, 0, 0), "data": _slices()}, {})
        trees["chromcorr"] = ("ChromCorrModel", {"model": models.Identity(3)}, {"filter": filter})
        trees["ifupost"] = ("IFUPostModel", {f"slice_{n}": _post(models, n) for n in range(30)}, {})
    written = {}
    for kind, (model, tree, instrument) in trees.items():
        stem = "_".join(["compact", kind, *instrument.values()])
        written[kind] = folder / f"{stem}.asdf".lower()
        asdf.AsdfFile({"meta": _meta(kind, model, instrument), **tree}).write_to(written[kind])
    return written


def _meta(kind: str, model: str, instrument: Mapping[str, str]) -> dict[str, Any]:
    is_ifu = kind in _IFU_ONLY
    modes = "NRS_IFU|" if is_ifu else _SPECTRA
    return {
        "author": "nsxr",
        "date": "2026-01-01T00:00:00.000",
        "description": f"{kind} of the compact optics of the nsxr simulator",
        "exposure": {"type": "NRS_IFU" if is_ifu else "N/A", "p_exptype": modes},
        "instrument": {"name": "NIRSPEC", "p_detector": "NRS1|NRS2|", **instrument},
        "model_type": model,
        "pedigree": "SIMULATION",
        "reftype": kind,
        "telescope": "JWST",
        "title": f"NIRSPEC {kind} file",
        "useafter": "2022-01-01T00:00:00",
    }


def _polynomial(models: Any, terms: Coefficients, degree: int) -> Any:
    return models.Polynomial2D(degree, **{f"c{i}_{j}": value for (i, j), value in terms.items()})


def _pair(models: Any, x: Any, y: Any) -> Any:
    """Return two polynomials of the same two inputs as one model."""
    return models.Mapping((0, 1, 0, 1)) | (x & y) | models.Identity(2)


def _shifted(models: Any, x: float, y: float) -> Any:
    return models.Shift(x) & models.Shift(y)


def _linear(models: Any, matrix: Sequence[Sequence[float]], shift: tuple[float, float]) -> tuple[Any, Any]:
    """Return matrix times (x, y) plus shift, and its inverse."""
    matrices = np.array(matrix, dtype=np.float64)
    forward = models.AffineTransformation2D(matrices) | _shifted(models, *shift)
    backward = _shifted(models, -shift[0], -shift[1]) | models.AffineTransformation2D(np.linalg.inv(matrices))
    return forward, backward


def _fitted_inverse(models: Any, terms: tuple[Coefficients, Coefficients], box: Sequence[float]) -> tuple[Any, Any]:
    """Fit polynomials of degree 5 that undo given ones inside a box (x low, x high, y low, y high)."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(box[0], box[1], 40), np.linspace(box[2], box[3], 40)))
    u, v = (sum(value * x**i * y**j for (i, j), value in axis.items()) for axis in terms)
    powers = [(i, j) for i in range(6) for j in range(6 - i)]
    design = np.stack([u**i * v**j for i, j in powers], axis=1)
    scale = np.abs(design).max(axis=0)  # powers of small numbers: without it the fit would drop the high ones
    fits = (np.linalg.lstsq(design / scale, axis, rcond=None)[0] / scale for axis in (x, y))
    first, second = (dict(zip(powers, map(float, fit), strict=True)) for fit in fits)
    return _polynomial(models, first, 5), _polynomial(models, second, 5)


def _camera(models: Any) -> Any:
    """Return detector to pupil."""
    model = _pair(models, *(_polynomial(models, axis, 3) for axis in _CAMERA))
    model.inverse = _pair(models, *_fitted_inverse(models, _CAMERA, (-0.042, 0.042, -0.021, 0.021)))
    return model


def _collimator(models: Any) -> Any:
    """Return pupil to plane of the MSA. The terms are those of the other direction."""
    model = _pair(models, *_fitted_inverse(models, _COLLIMATOR, (-0.045, 0.055, -0.044, 0.044)))
    model.inverse = _pair(models, *(_polynomial(models, axis, 3) for axis in _COLLIMATOR))
    return model


def _fpa(models: Any) -> dict[str, Any]:
    found = {}
    for detector, sign in (("nrs1_model", 1.0), ("nrs2_model", -1.0)):
        forward, backward = _linear(
            models, [[sign * 18e-6, 0.0], [0.0, sign * 18e-6]], (-sign * 0.038171, -sign * 0.018422)
        )
        forward.inverse = backward
        found[detector] = forward
    return found


def _ote(models: Any) -> Any:
    """Return image plane of the telescope [m] to V2, V3 [arcsec]."""
    matrix = 3600 * np.array([[-0.43553, -0.00158], [-0.00158, 0.43567]])
    forward, backward = _linear(models, matrix.tolist(), (379.404, -428.868))
    forward.inverse = backward
    return forward


def _fore(models: Any) -> Any:
    """Return plane of the MSA to image plane of the telescope."""
    model = _chromatic(models, tuple(_polynomial(models, axis, 2) for axis in _FORE))
    model.inverse = _chromatic(models, _fitted_inverse(models, _FORE, (-0.045, 0.055, -0.044, 0.044)))
    return model


def _ifu_fore(models: Any) -> Any:
    """Return slicer to plane of the MSA: 19.77 and 9.73 times smaller."""
    x, y = 1 / 19.7749, 1 / 9.7325
    centre = (0.041288 - 0.00187054 * x, 9.29e-05 * y)
    forward = ({(0, 0): centre[0], (1, 0): x}, {(0, 0): centre[1], (0, 1): y})
    backward = ({(0, 0): -centre[0] / x, (1, 0): 1 / x}, {(0, 0): -centre[1] / y, (0, 1): 1 / y})
    model = _chromatic(models, tuple(_polynomial(models, axis, 1) for axis in forward))
    model.inverse = _chromatic(models, tuple(_polynomial(models, axis, 1) for axis in backward))
    return model


def _chromatic(models: Any, polynomials: Sequence[Any]) -> Any:
    """Return polynomials as a model of x, y and wavelength, as references have it. Terms with wavelength are 0."""
    parts = []
    for polynomial in polynomials:
        constant = models.Mapping((0, 1), n_inputs=3) | polynomial
        growing = (models.Mapping((0, 1), n_inputs=3) | _polynomial(models, {}, 1)) * (
            models.Mapping((2,), n_inputs=3) | models.Identity(1)
        )
        parts.append(constant + growing)
    return models.Mapping((0, 1, 2, 0, 1, 2)) | reduce(and_, parts) | models.Identity(2)


def _disperser(models: Any, grating: str) -> dict[str, Any]:
    def tilt(zero: float, slope: float) -> dict[str, Any]:
        model = models.Polynomial1D(1, c0=-slope * zero, c1=slope)
        return {"temperatures": [37.0], "tilt_model": model, "unit": "arcsec", "zeroreadings": [zero]}

    content: dict[str, Any] = {
        "tilt_x": 0.0,
        "gwa_tiltx": tilt(TILT_ZERO[grating][0], -9000.0),
        "gwa_tilty": tilt(TILT_ZERO[grating][1], 3200.0),
    }
    if grating == "PRISM":
        return content | _PRISM | {"theta_x": 0.0344, "theta_y": -0.2825, "theta_z": 0.2944, "tilt_y": 24.29}
    density, *angles = _GRATINGS[grating]
    return (
        content
        | {"groovedensity": density}
        | dict(zip(("theta_x", "theta_y", "theta_z", "tilt_y"), angles, strict=True))
    )


def _placed(models: Any, angle: float, x: float, y: float) -> Any:
    return models.Rotation2D(angle) | _shifted(models, x, y)


def _msa(models: Any, shutters: bool) -> dict[str, Any]:
    content = {}
    for number, (angle, x, y) in _QUADRANTS.items() if shutters else ():
        table = np.zeros(SHUTTERS_ALONG_DISPERSION * SHUTTERS_ALONG_SLIT, _TABLE)
        row, column = np.divmod(np.arange(table.size), SHUTTERS_ALONG_DISPERSION)
        table["NO"] = np.arange(1, table.size + 1)
        table["XC"], table["YC"] = column * PITCH[0], row * PITCH[1]
        table["SIZEX"], table["SIZEY"] = OPEN_AREA
        content[f"Q{number}"] = {"model": _placed(models, angle, x, y), "data": table}
    rows = [(number, *place) for number, place in enumerate(FIXED_SLITS.values())]
    content["Q5"] = {"model": _placed(models, 0, 0, 0), "data": np.array(rows, _TABLE)}
    return content


def _slice_places(number: int) -> tuple[float, float]:
    """Return x of a slice on the slicer [m], and y behind the slicer [m]. Slices alternate about the centre."""
    pair, is_odd = divmod(number, 2)
    x = (-1 if is_odd else 1) * (0.0004 + 0.0008 * pair)
    return x, -0.00829 - 0.00199 * pair if is_odd else 0.00854 + 0.00198 * pair


def _slices() -> np.ndarray:
    return np.array([(number, _slice_places(number)[0], 0.0, 0.0008, 0.012) for number in range(30)], _TABLE)


def _post(models: Any, number: int) -> dict[str, Any]:
    """Return the optics behind the slicer for one slice: ten times smaller, at its own place."""
    x, y = _slice_places(number)
    forward = reduce(
        or_,
        [_shifted(models, -x, 0.0), models.AffineTransformation2D(np.diag([0.1, 0.1])), _shifted(models, 0.0487, y)],
    )
    axes = {"xpoly": {(1, 0): 1.0}, "ypoly": {(0, 1): 1.0}}
    found: dict[str, Any] = {"linear": forward}
    for name, terms in axes.items():
        model = _polynomial(models, terms, 1)
        model.inverse = _polynomial(models, terms, 1)
        found |= {name: model, f"{name}_distortion": _polynomial(models, {}, 1)}
    return found


def _wavelength_range() -> dict[str, Any]:
    return {
        "waverange_selector": list(WAVELENGTHS),
        "wavelengthrange": [[low * 1e-6, high * 1e-6] for low, high in WAVELENGTHS.values()],
        "order": [0 if name.endswith("PRISM") else -1 for name in WAVELENGTHS],
    }
