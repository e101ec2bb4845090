"""Declare every variable of an nsxr Dataset (dims, dtype, units, meaning), and check Datasets against this."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nsxr.errors import ModelError
from nsxr.model import units as _units
from nsxr.model.dims import IMAGE, RAMP, RATES, RESAMPLED, SPECTRUM, image_dims
from nsxr.model.dq import GroupFlag, PixelFlag, flag_attributes

__all__ = [
    "CORRELATION_COLUMNS",
    "EVENT_PROPERTIES",
    "FACTOR_VARIANCES",
    "IMAGE",
    "RAMP",
    "RATES",
    "RELATIVE_ERRORS",
    "SPECTRUM_COLUMNS",
    "TABLES",
    "VARIABLES",
    "VARIANCES",
    "Variable",
    "check",
    "check_labels",
    "check_slit",
    "error_variances",
    "units_of",
    "variable_attributes",
    "variances_of",
]

IMAGES = (RATES, IMAGE, RESAMPLED, ("integration", *RESAMPLED))
"""Dims of rates and slits: those of the detector, or those of resampled data."""
ONE_IMAGE = (IMAGE, RESAMPLED)
SPECTRA = (SPECTRUM, ("integration", *SPECTRUM))
FACTOR_VARIANCES = ("var_flat", "var_pathloss", "var_barshadow", "var_photom")
"""Variances from the uncertainties of factors, which all exposures and, in part, all pixels share."""
RELATIVE_ERRORS = tuple(name.replace("var_", "relative_error_") for name in FACTOR_VARIANCES)
"""Errors of the factors of a spectrum, relative to the flux, which all its wavelengths share."""
VARIANCES = ("poisson", "rnoise", "flat")
"""Kinds of variances: ``var_poisson``, ``var_rnoise``, ``var_flat`` of rates and slits, ``flux_var_*`` of spectra."""
EVENT_PROPERTIES = (
    "integration",
    "group",
    "row",
    "column",
    "core_radius",
    "halo_amplitude",
    "masked_radius",
    "pixels",
)
"""Labels along ``property`` of ``snowballs``, see :func:`nsxr.ramps.snowballs.flag_snowballs`."""
SPECTRUM_COLUMNS = ("frequency", "own", "common", "white")
"""Labels along ``part`` of ``noise_spectrum``, see :func:`nsxr.clean_flicker_noise`."""
CORRELATION_COLUMNS = ("lines", "slots", "used", "unused", "mixed")
"""Labels along ``kind`` of ``noise_correlation``, see :func:`nsxr.clean_flicker_noise`."""
TABLES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "SNOWBALLS": ("snowballs", "property", EVENT_PROPERTIES),
    "NOISE": ("noise_spectrum", "part", SPECTRUM_COLUMNS),
    "NOISE_CORR": ("noise_correlation", "kind", CORRELATION_COLUMNS),
}
"""Variables that are tables, by extension of the file: the variable, its second dim, and the labels along that dim."""


@dataclass(frozen=True)
class Variable:
    """Declaration of one variable. ``dims`` lists every allowed tuple of dims, in the order of preference."""

    dims: tuple[tuple[str, ...], ...]
    dtype: type[np.generic]
    units: tuple[str, ...]
    meaning: str


_FACTORS = ("the flat field", "the path loss", "the bar shadow", "the sensitivity")


def _spectra() -> dict[str, Variable]:
    """Declare the variables of a spectrum. Names are the columns of the observatory's products, in lower case."""
    kinds = {
        "flux": ("Jy", "flux density of the source", "flux"),
        "surf_bright": ("MJy/sr", "surface brightness", "sb"),
        "background": ("MJy/sr", "background that was subtracted", "bkgd"),
    }
    found = {}
    for name, (units, meaning, prefix) in kinds.items():
        found[name] = Variable(SPECTRA, np.float64, (units, "DN/s"), meaning)
        for part, source in {"poisson": "photon noise", "rnoise": "read noise", "flat": "the flat field"}.items():
            found[f"{prefix}_var_{part}"] = Variable(
                SPECTRA, np.float64, (f"({units})2", "(DN/s)2"), f"variance of {name} from {source}"
            )
    found |= {
        name: Variable(
            (SPECTRUM,), np.float64, (), f"error that wavelengths and exposures share, over flux, from {source}"
        )
        for name, source in zip(RELATIVE_ERRORS, _FACTORS, strict=True)
    }
    found["aperture_correction"] = Variable(SPECTRA, np.float64, (), "light of a point over that in the aperture")
    found["aperture_size"] = Variable(SPECTRA, np.float64, (), "height of the aperture of a flux, in pixels")
    found["npixels"] = Variable(SPECTRA, np.float64, (), "pixels that an extracted value was made from")
    found["coverage"] = Variable(SPECTRA, np.float64, (), "part of the profile of the source on pixels that were used")
    return found


VARIABLES: Mapping[str, Variable] = {
    "sci": Variable((RAMP, *IMAGES), np.float32, ("DN", "DN/s", "MJy", "MJy/sr"), "science signal"),
    "pixeldq": Variable((IMAGE,), np.uint32, (), "flags of a pixel that hold for all groups and integrations"),
    "groupdq": Variable((RAMP,), np.uint8, (), "flags of a pixel in one group"),
    "dq": Variable((*IMAGES, *SPECTRA), np.uint32, (), "flags of a rate, or of what was made from rates"),
    "var_poisson": Variable(IMAGES, np.float32, ("(DN/s)2",), "variance from photon noise"),
    "median_rate": Variable((IMAGE,), np.float32, ("DN/s",), "rate that the integrations share"),
    "var_rnoise": Variable(IMAGES, np.float32, ("(DN/s)2",), "variance from read noise"),
    "var_flat": Variable(IMAGES, np.float32, ("(DN/s)2",), "variance from the flat field"),
    **{
        name: Variable(IMAGES, np.float32, ("(MJy)2", "(DN/s)2"), f"variance from {source}")
        for name, source in list(zip(FACTOR_VARIANCES, _FACTORS, strict=True))[1:]
    },
    "trace_model": Variable(IMAGES, np.float32, ("MJy", "MJy/sr", "DN/s"), "signal that was fitted to the slit"),
    "var_trace_model": Variable(IMAGES, np.float32, ("(MJy)2", "(MJy/sr)2", "(DN/s)2"), "variance of trace_model"),
    "var_background": Variable(
        ONE_IMAGE, np.float32, ("(DN/s)2",), "variance of the background, which exposures may share"
    ),
    "n_contributing": Variable(ONE_IMAGE, np.uint8, (), "exposures that a pixel of a background was made from"),
    "subtracted": Variable(
        ONE_IMAGE, np.uint8, (), "backgrounds whose mean was subtracted from a pixel, one bit for each"
    ),
    "snowballs": Variable((("snowball", "property"),), np.float32, (), "large cosmic-ray events, NaN beyond the last"),
    "picture_frame_amplitude": Variable(
        (("integration", "group"),), np.float32, ("DN",), "strength of the picture frame"
    ),
    "picture_frame_uncertainty": Variable(
        (("integration", "group"),), np.float32, ("DN",), "uncertainty of the strength of the picture frame"
    ),
    "flicker_variance": Variable(
        (IMAGE,), np.float32, ("DN2",), "what correlated noise adds to the variance of a group"
    ),
    "flicker_variance_of_mean": Variable(
        (IMAGE,), np.float32, ("DN2",), "flicker_variance of the mean of all integrations, times their number"
    ),
    "noise_correlation_of_mean": Variable(
        (("lag", "kind"),), np.float32, (), "noise_correlation of the mean of all integrations"
    ),
    "white_variance": Variable(((),), np.float32, ("DN2",), "variance of other noise in a group in the dark"),
    "dark_level": Variable(((),), np.float32, ("DN",), "signal of a group in the dark, beyond its noise"),
    "is_dark": Variable((IMAGE,), np.bool_, (), "pixels that see no light"),
    "expected_signal": Variable(
        (IMAGE,), np.float32, ("DN",), "signal of a group in dark and faint pixels, NaN in others"
    ),
    "noise_spectrum": Variable(
        (("band", "part"),), np.float32, (), "spectral densities of the noise of a group, DN2/Hz"
    ),
    "noise_correlation": Variable(
        (("lag", "kind"),), np.float32, (), "covariance of the noise of two pixels, over the root of their var_rnoise"
    ),
    "noise_used": Variable(
        (IMAGE,), np.uint8, (), "1 for pixels from which correlated noise was estimated, 0 for others"
    ),
    "chi_square": Variable((RATES, IMAGE), np.float32, (), "chi square of the fit of the ramp"),
    "wavelength": Variable(ONE_IMAGE, np.float32, ("um",), "wavelength of the middle of a pixel"),
    "wavelength_uncorrected": Variable(
        ONE_IMAGE, np.float32, ("um",), "wavelength of light from the middle of the slit across its width"
    ),
    "slit_y": Variable(ONE_IMAGE, np.float32, ("1",), "place along the slit, in heights of the open area"),
    "slice": Variable((IMAGE,), np.uint8, (), "number of the slice, 0 between the slices"),
    **{
        name: Variable(ONE_IMAGE, np.float32, (), meaning)
        for name, meaning in {
            "pathloss_point": "part of the light of a point source that reaches the detector",
            "pathloss_uniform": "part of the light of a uniform source that reaches the detector",
            "barshadow": "part of the light that bars between shutters let pass",
            "sky_part": "part of the light of the sky that bars let pass, in the slit of a point source",
            "flatfield_point": "flat field for a point source",
            "flatfield_uniform": "flat field for a uniform source",
            "flatfield_common": "part of var_flat that all pixels of a wavelength share",
            "photom_point": "flux calibration for a point source",
            "photom_uniform": "flux calibration for a uniform source",
            "weight": "weight of what was resampled into a pixel",
        }.items()
    },
    **_spectra(),
}


def variable_attributes(name: str) -> dict[str, object]:
    """Return the constant attributes of a declared variable: its meaning, its CF name, the flags of DQ."""
    attributes: dict[str, object] = {"long_name": VARIABLES[name].meaning}
    if name == "wavelength":
        attributes["standard_name"] = "radiation_wavelength"  # of the CF conventions
    elif name == "groupdq":
        attributes |= flag_attributes(GroupFlag, np.uint8)
    elif name in ("pixeldq", "dq"):
        attributes |= flag_attributes(PixelFlag, np.uint32)
    return attributes


def units_of(name: str, signal: str) -> str | None:
    """Return the units of a variable of an image whose ``sci`` has the units ``signal``. None if it has no units."""
    if name == "sci":
        return signal
    if name.startswith("var_"):
        return f"({signal})2"
    return {"wavelength": "um", "wavelength_uncorrected": "um", "slit_y": "1"}.get(name)


def check(
    dataset: xr.Dataset, *names: str, units: Mapping[str, str] | None = None, dims: tuple[str, ...] | None = None
) -> None:
    """Raise ModelError unless the named variables are present and as declared, and their pixels are contiguous.

    Only metadata and labels are checked, never the values of pixels.

    Parameters
    ----------
    dataset : Dataset
        Any nsxr Dataset.
    *names : str
        Variables that must be there.
    units : mapping of str to str, optional
        The units that each of these variables must have.
    dims : tuple of str, optional
        The dims to require where several are declared, such as :data:`RAMP` for ramps.

    Raises
    ------
    ModelError
        If there are problems. The message names all of them.
    """
    problems = []
    for name in names:
        if name not in dataset.variables:
            problems.append(f"variable {name!r} is missing (found {', '.join(map(str, dataset.data_vars)) or 'none'})")
            continue
        declared, array = VARIABLES[name], dataset.variables[name]
        allowed = declared.dims if dims is None else (dims,)
        if array.dims not in allowed:
            expected = " or ".join(map(str, allowed))
            problems.append(f"variable {name!r} has dims {array.dims}, expected {expected}{_hint(array.dims, allowed)}")
        if array.dtype != declared.dtype:
            problems.append(f"variable {name!r} has dtype {array.dtype}, expected {np.dtype(declared.dtype)}")
    present = {str(dim) for name in names if name in dataset.variables for dim in dataset.variables[name].dims}
    problems += _label_problems(dataset, [dim for dim in _NEVER_EMPTY if dim in present])
    for name, expected in (units or {}).items():
        if name in dataset.variables:
            try:
                _units.require(name, dataset.variables[name].attrs.get("units"), expected)
            except ModelError as error:
                problems.append(str(error))
    if problems:
        raise ModelError("; ".join(problems))


def check_slit(slit: xr.Dataset, *names: str, units: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Check one slit like :func:`check`, and return its two dims, see :func:`nsxr.model.dims.image_dims`.

    The columns of a slit must have no gaps. Neighbours in the array are then neighbours on the detector, and a product
    can give the position of a slit by its first column.
    """
    if "slit" in slit.dims and "sci" in slit:
        image_dims(slit)  # raises an error for many slits
    check(slit, *names, units=units)
    dims = image_dims(slit)
    problems = _label_problems(slit, [dims[1]], may_have_gaps=False)
    if problems:
        raise ModelError("; ".join(problems))
    return dims


def check_labels(dataset: xr.Dataset, *dims: str, may_have_gaps: bool = False) -> None:
    """Raise ModelError unless a Dataset has these dims, with the labels of contiguous pixels.

    Parameters
    ----------
    dataset : Dataset
        Any nsxr Dataset.
    *dims : str
        Dims that must be there.
    may_have_gaps : bool
        Whether columns may have gaps, as :func:`check` allows them.
    """
    missing = [dim for dim in dims if dim not in dataset.indexes]
    problems = [f"labels of {dim!r} are missing, expected those of pixels of the detector" for dim in missing]
    problems += _label_problems(dataset, [dim for dim in dims if dim not in missing], may_have_gaps)
    if problems:
        raise ModelError("; ".join(problems))


def variances_of(dataset: xr.Dataset, prefix: str = "var") -> list[str]:
    """Return the names of the variances that a Dataset has: ``var_poisson`` and so on, in the order of products."""
    return [f"{prefix}_{kind}" for kind in VARIANCES if f"{prefix}_{kind}" in dataset]


def error_variances(dataset: xr.Dataset) -> list[str]:
    """Return the names of the variances whose sum is the square of the error of a spectrum.

    In time series, the flat field is not one of them: all integrations share it.
    """
    is_series = "flux" in dataset and "integration" in dataset["flux"].dims
    return [name for name in variances_of(dataset, "flux_var") if not is_series or name != "flux_var_flat"]


_CONSECUTIVE = ("row", "cross_dispersion", "dispersion")
_NEVER_EMPTY = ("integration", "group", "column", *_CONSECUTIVE)


def _label_problems(dataset: xr.Dataset, dims: Sequence[str], may_have_gaps: bool = True) -> list[str]:
    """List the dims that are empty, and the labels that are not those of contiguous pixels.

    Corrections assume that neighbours in an array are neighbours on the detector. Columns of frames may have gaps,
    because a frame can be cut to its two ends. Columns of spectra may have gaps too. Rows of frames and the pixels of
    cut-outs may not.
    """
    problems = []
    is_image = "cross_dispersion" in dims
    for dim in dims:
        if dataset.sizes[dim] == 0:
            problems.append(f"dim {dim!r} is empty, expected a length of 1 at least")
            continue
        if dim not in dataset.indexes or dim not in (*_CONSECUTIVE, "column"):
            continue
        labels = dataset.indexes[dim].to_numpy()
        if labels.dtype.kind not in "iuf" or (labels != np.round(labels)).any():
            problems.append(f"labels of {dim!r} are {labels.dtype} {labels[0]}, expected whole numbers")
            continue
        step = np.diff(labels.astype(np.float64))
        has_gaps = may_have_gaps and (dim == "column" or (dim == "dispersion" and not is_image))
        wrong = np.flatnonzero(step <= 0 if has_gaps else step != 1)
        if wrong.size:
            order = "increasing" if has_gaps else "increasing by 1"
            problems.append(
                f"labels of {dim!r} go from {labels[wrong[0]]} to {labels[wrong[0] + 1]}, expected labels {order}; "
                f"choose pixels with a slice of step 1: .isel({dim}=slice(start, stop))"
            )
    return problems


def _hint(found: tuple[Hashable, ...], allowed: tuple[tuple[str, ...], ...]) -> str:
    """Return advice for dims in another order, and for a dim that was lost by selecting one position along it."""
    for dims in allowed:
        if set(dims) == set(found):
            return f"; put them in order: .transpose{dims}"
    for dims in allowed:
        lost = [dim for dim in dims if dim not in found]
        if found and [dim for dim in dims if dim in found] == list(found):
            return (
                f"; to keep the dim of a single position, give a list: .isel({', '.join(f'{dim}=[0]' for dim in lost)})"
            )
    return ""
