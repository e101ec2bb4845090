"""Combine spectra of one source from several nods and exposures, with the errors that they share."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from nsxr.associate.exposures import COMBINED, exposures_of, require_distinct
from nsxr.compute.blocks import Output, map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.kernels.spectra.combination import LEAST_LIGHT, OF_PIXELS, combined_spectrum, grid_by_column, union_of_grids
from nsxr.model.declarations import step
from nsxr.model.history import combined_attributes, members_of, record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import RELATIVE_ERRORS, VARIABLES, VARIANCES, check, variable_attributes
from nsxr.spectra.shared_errors import origin_of

__all__ = ["combine_spectra"]

_INPUTS = ("flux", "surf_bright", *(f"{kind}_var_{part}" for kind in ("flux", "sb") for part in VARIANCES), "dq")
_OWN = ("flux_var_shared", "sb_var_shared", "flux_covariance", "combination_weight", "n_input")
_OUTPUTS = (*_INPUTS, *_OWN, *RELATIVE_ERRORS)
_PLACES = ("position_fitted", "extraction_start")
"""Where a spectrum is on the detector [row]."""
_MEANINGS: Mapping[str, str] = {
    "flux_var_shared": "covariance of what spectra share, such as backgrounds",
    "sb_var_shared": "covariance of what spectra share, such as backgrounds",
    "flux_covariance": "covariance of flux with the next wavelength",
    "combination_weight": "sum of the weights of what was combined",
    "n_input": "spectra that were combined",
}


@step("combine_1d")
def combine_spectra(
    spectra: Sequence[xr.Dataset],
    *,
    weighting: Literal["optimal", "exposure_time"] = "optimal",
    wavelength: np.ndarray | None = None,
    clip_threshold: float | None = None,
    smoothing: int = 101,
) -> xr.Dataset:
    """Combine spectra of one source on one wavelength grid, and propagate their variances and covariances.

    The wavelengths of nods differ by parts of a pixel. Spectra are interpolated linearly. Variances are propagated
    exactly, with the covariance between neighbouring wavelengths that the interpolation causes. Weights are smooth in
    wavelength: weights from the noise of each pixel would prefer pixels that are low by chance. Samples that are not
    finite or are flagged DO_NOT_USE are left out at their wavelengths. A spectrum with less than 0.3 of the light of
    the brightest one, by 5 standard deviations, is left out completely: nods lose different parts of the light beside a
    shutter, and a nod behind a closed shutter has no information about the source. If there are three or more spectra,
    one with three times the light of the others, or with a ten thousandth of their variance, is left out too.

    Exposures share noise if the same background was subtracted from them, or if they were subtracted from each other.
    The covariance of this noise is included for spectra that have ``weight`` and ``var_background``. Exposures on the
    same pixels also share the errors of the flat field of single pixels, and all exposures with the same references
    share the errors of these: ``relative_error_*`` do not become smaller in the mean. A spectrum whose relative error
    is missing or NaN takes that of the others.

    Parameters
    ----------
    spectra : sequence of Dataset
        ``flux`` (dispersion) float64 [Jy or DN/s], ``dq`` uint32, coordinate ``wavelength`` (dispersion) [um],
        ``dispersion`` labelled with detector columns. Variances and ``surf_bright`` are optional; all spectra have them
        or none has. ``relative_error_*`` (dispersion), as far as there are. For the covariance: ``weight`` and
        ``profile`` (row, dispersion), the weights of detector pixels in the flux, and the parts of the light on them;
        ``var_background`` (row, dispersion), variance of the background that was subtracted, and
        ``attrs["background_members"]``, a JSON list of the names of its exposures.
    weighting : {"optimal", "exposure_time"}, default "optimal"
        Weights are the inverse of a running median of the variance, or the keyword EFFEXPTM.
    wavelength : (n,) array, optional
        Grid [um], increasing. By default the wavelengths of the first spectrum that has any; detector columns where it
        has none take the wavelengths of the other spectra. With several detectors or slits the grid keeps the sampling
        of each. A gap between them is filled with wavelengths that have no flux and are flagged DO_NOT_USE.
    clip_threshold : float, optional
        Leave out samples that differ from the weighted mean of the others by more than this number of standard
        deviations, the worst first. Standard deviations come from the known variances. If two samples differ from each
        other, the one that is farther from the median of both spectra within two pixels is left out.
    smoothing : int, default 101
        Length of the running median, pixels.

    Returns
    -------
    Dataset
        Along ``dispersion``: ``flux``, ``surf_bright`` and their variances, the sums of weight squared times variance;
        ``flux_var_shared`` and ``sb_var_shared``, the contribution of covariance between the spectra, which can be
        negative; ``relative_error_*``, the errors of references, over the flux; ``flux_covariance``, the covariance of
        each flux with the next; ``combination_weight`` and ``n_input`` float64; ``dq``, the flags of the samples that
        were used, DO_NOT_USE where there was none. Attributes are those of the first spectrum. Lazy if a spectrum is.

    Warns
    -----
    DegradedResultWarning
        If a spectrum without light, or without any sample on the grid, is left out. There is no warning if a spectrum
        is lazy; see ``n_input``. If some spectra lack a relative error that others have.

    Raises
    ------
    ModelError
        If spectra lack variables, differ in units, or are time series.
    ParameterError
        If a parameter is out of its range, an exposure time is missing, or an exposure comes twice; or if spectra of
        several detectors or slits have lazy wavelengths and no grid is given.

    Notes
    -----
    R_i is the interpolation of spectrum i, and w_i are its weights, normalised at each wavelength k. Then

    ``var(k) = sum_i w_ik^2 (R_i V_i R_i')_kk + sum_(i != j) w_ik w_jk (R_i C_ij R_j')_kk``

    The covariance of neighbours has the same form, with (k, k + 1). V_i is diagonal. C_ij has for each detector column
    the sum over common rows of ``weight_i weight_j c``. c is the covariance of two pixels from which backgrounds of n_i
    and n_j exposures were subtracted: ``s (n_i b_i + n_j b_j) / (2 n_i n_j)`` for s exposures that are in both
    backgrounds. This is exact if all exposures are in both. b_i is subtracted from it if spectrum j is from an exposure
    in the background of i, and b_j for the reverse. b is ``var_background``. To C_ij comes ``r sqrt(u_i u_j)`` if both
    spectra are of the same pixels and flat fields. u is ``flux_var_flat``, and r the correlation of ``weight profile``
    in a column; without these, 1 - half of the distance of the spectra [rows], or 1 if that is not known. Relative
    errors with the same origin (file, filter, grating, slit) add up as ``sum_i w_i flux_i e_i``, those of different
    origins in quadrature. See :func:`nsxr.spectral_covariance` for the covariance of all wavelengths. Weights use the
    noise of each spectrum alone, so they are not optimal where much noise is shared; the variance is correct for the
    weights that were used.
    """
    parts = list(spectra)
    _check(parts, weighting, clip_threshold, smoothing)
    require_distinct(parts)
    names = [name for name in _INPUTS if all(name in part for part in parts)]
    units = {name: parts[0][name].attrs["units"] for name in names if "units" in parts[0][name].attrs}
    names += [name for name in RELATIVE_ERRORS if any(name in part for part in parts)]
    grid, columns = _common_grid(parts) if wavelength is None else (_given_grid(wavelength), None)
    grid = one_chunk(unlabelled(grid), "dispersion").astype(np.float64)
    outputs = [name for name in _OUTPUTS if name not in (*_INPUTS, *RELATIVE_ERRORS) or name in names]
    outputs = [name for name in outputs if name != "sb_var_shared" or "surf_bright" in names]
    found, included, useful = _combined(parts, names, outputs, grid, weighting, clip_threshold, smoothing)
    units |= {"flux_var_shared": f"({units['flux']})2", "flux_covariance": f"({units['flux']})2"}
    if "surf_bright" in units:
        units["sb_var_shared"] = f"({units['surf_bright']})2"
    for name in found:
        found[name].attrs = {"long_name": _MEANINGS[name]} if name in _MEANINGS else {}
    coordinates: dict[str, Any] = {"wavelength": ("dispersion", grid.data, _wavelength_attributes())}
    if columns is not None and all("dispersion" in part.coords for part in parts):
        coordinates["dispersion"] = columns
    base = xr.Dataset(coords=coordinates, attrs=_common(parts))
    parameters: dict[str, Any] = {"weighting": weighting, "clip_threshold": clip_threshold, "smoothing": smoothing}
    parameters["members"] = members_of(parts)
    result = record(base, "combine_1d", (), parameters, units=None, drop=(), attrs=None, **found)
    for name in found:
        result[name].attrs |= found[name].attrs | ({"units": units[name]} if name in units else {})
    _warn_of_left_out([member["name"] for member in parameters["members"]], included, useful)
    return result


def _combined(
    parts: Sequence[xr.Dataset],
    names: Sequence[str],
    outputs: Sequence[str],
    grid: xr.DataArray,
    weighting: str,
    clip_threshold: float | None,
    smoothing: int,
) -> tuple[dict[str, xr.DataArray], xr.DataArray, xr.DataArray]:
    """Return the combined quantities, which spectra are included, and which have any sample on the grid."""
    headers = [SlitHeader.of(part) for part in parts]
    arrays, keys = [grid], []
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        maps = ["weight"] * ("weight" in part) + ["var_background"] * _has_background(part, header)
        maps += ["profile"] * ("profile" in part)
        maps += [name for name in _PLACES if name in part.variables][:1]
        for name in ("wavelength", *names, *maps):
            if name in RELATIVE_ERRORS and name not in part:
                continue
            array = unlabelled(part[name])
            array = array.rename({dim: f"{dim}_{number}" for dim in array.dims})
            arrays.append(one_chunk(array, *map(str, array.dims)))
            keys.append(("place" if name in _PLACES else name, number))
    kinds: dict[str, Output] = {name: (("dispersion",), np.uint32 if name == "dq" else np.float64) for name in outputs}
    by_time = weighting == "exposure_time"
    found = map_blocks(
        combined_spectrum,
        *arrays,
        core=sorted({str(dim) for array in arrays for dim in array.dims}),
        outputs=kinds | dict.fromkeys(("included", "useful"), (("spectrum",), np.bool_)),
        sizes={"spectrum": len(parts)},
        keys=keys,
        wanted=[*outputs, "included", "useful"],
        labels=[_labels(part) for part in parts],
        exposures=[_exposure(part, header) for part, header in zip(parts, headers, strict=True)],
        origins=[{name: origin_of(part.attrs, name) for name in (OF_PIXELS, *RELATIVE_ERRORS)} for part in parts],
        times=[header.exposure_time for header in headers] if by_time else None,
        clip_threshold=clip_threshold,
        smoothing=smoothing,
    )
    return {name: found[name] for name in outputs}, found["included"], found["useful"]


def _warn_of_left_out(names: Sequence[str], included: xr.DataArray, useful: xr.DataArray) -> None:
    """Warn of spectra that are left out of the mean, if this is known without computing."""
    reasons = {
        "no flux with a known error at any wavelength of the mean": ~useful,
        f"less than {LEAST_LIGHT} of the light of the brightest spectrum, or light or errors that are far from those "
        "of the others": useful & ~included,
    }
    for reason, left_out in reasons.items():
        if left_out.chunks is None and left_out.any():
            which = [names[i] or f"spectrum {i + 1}" for i in np.flatnonzero(left_out.to_numpy()).tolist()]
            warnings.warn(
                f"{', '.join(which)}: {reason}; left out of the mean",
                DegradedResultWarning,
                stacklevel=4,  # the frame above the decorator that checks arguments
            )


def _wavelength_attributes() -> dict[str, object]:
    return {"units": VARIABLES["wavelength"].units[0]} | variable_attributes("wavelength")


def _common(parts: Sequence[xr.Dataset]) -> dict[Any, Any]:
    """Return the attributes of the first spectrum without those of its exposure alone, and the steps that all share."""
    attrs = combined_attributes(parts)
    kept = {key: value for key, value in attrs.items() if key not in ("background_members", "filename")}
    exposures = [list(found[:-1]) for part in parts for found in sorted(exposures_of(part.attrs))]
    return kept | ({COMBINED: json.dumps(exposures)} if exposures else {})


def _check(parts: Sequence[xr.Dataset], weighting: str, clip_threshold: float | None, smoothing: int) -> None:
    if not parts:
        raise ModelError("there are no spectra to combine")
    for part in parts:
        check(part, "flux", "dq", "flux_var_poisson")
        if part["flux"].dims != ("dispersion",):
            raise ModelError(
                f"flux has dims {part['flux'].dims}, expected ('dispersion',); choose one slit, or average integrations"
            )
        if "wavelength" not in part.coords:
            raise ModelError("coordinate 'wavelength' is missing; spectra cannot be combined without it")
    for name in ("flux", "surf_bright"):
        units = {part[name].attrs.get("units") for part in parts if name in part}
        if len(units) > 1:
            raise ModelError(f"{name} has units {sorted(map(str, units))}, expected the same in all spectra")
    for name in RELATIVE_ERRORS:
        for part in (part for part in parts if name in part):
            check(part, name)
        lacking = [
            SlitHeader.of(part).exposure or f"spectrum {i}" for i, part in enumerate(parts, 1) if name not in part
        ]
        if 0 < len(lacking) < len(parts):
            warnings.warn(
                f"{', '.join(lacking)}: {name} is missing; that of the other spectra is used",
                DegradedResultWarning,
                stacklevel=5,  # the frame above the decorator that checks arguments
            )
    if "units" not in parts[0]["flux"].attrs:
        raise ModelError("flux has no units, expected 'Jy' or 'DN/s'; set attrs['units']")
    if weighting not in ("optimal", "exposure_time"):
        raise ParameterError(f"weighting is {weighting!r}, expected 'optimal' or 'exposure_time'")
    if weighting == "exposure_time" and not all(SlitHeader.of(part).exposure_time > 0 for part in parts):
        raise ParameterError("weighting 'exposure_time' needs keyword EFFEXPTM in all spectra; use 'optimal'")
    if clip_threshold is not None and not clip_threshold > 0:
        raise ParameterError(f"clip_threshold is {clip_threshold}, expected more than 0")
    if smoothing < 1 or smoothing % 2 == 0:
        raise ParameterError(f"smoothing is {smoothing}, expected an odd number of pixels")


def _given_grid(wavelength: np.ndarray) -> xr.DataArray:
    values = np.asarray(wavelength, dtype=np.float64)
    if values.ndim != 1 or not np.all(np.diff(values) > 0):
        raise ParameterError("wavelength is not an increasing sequence of finite numbers")
    return xr.DataArray(values, dims="dispersion")


def _common_grid(parts: Sequence[xr.Dataset]) -> tuple[xr.DataArray, np.ndarray | None]:
    """Return wavelengths that cover all spectra, and their detector columns if all are of one detector and slit."""
    places: dict[tuple[str, str], list[xr.Dataset]] = {}
    for part in parts:
        header = SlitHeader.of(part)
        places.setdefault((header.detector, header.name), []).append(part)
    if len(places) > 1 and any(part["wavelength"].chunks is not None for part in parts):
        raise ParameterError(
            f"spectra are of {len(places)} detectors or slits, and the length of a grid for all depends on wavelengths "
            "that are not computed yet; compute() the spectra, or give wavelength"
        )
    grids = [_grid_by_column(of_place) for of_place in places.values()]
    if len(grids) == 1:
        return grids[0]
    return xr.DataArray(union_of_grids([grid.to_numpy() for grid, _ in grids]), dims="dispersion"), None


def _grid_by_column(parts: Sequence[xr.Dataset]) -> tuple[xr.DataArray, np.ndarray]:
    """Return the wavelengths of the first spectrum; columns where it has none take those of the other spectra."""
    labels = [_labels(part)[0] for part in parts]
    columns = np.unique(np.concatenate(labels))
    arrays = [unlabelled(part["wavelength"]).rename(dispersion=f"dispersion_{n}") for n, part in enumerate(parts)]
    arrays = [one_chunk(array, *map(str, array.dims)) for array in arrays]
    found = map_blocks(
        grid_by_column,
        *arrays,
        core=[str(array.dims[0]) for array in arrays],
        outputs={"wavelength": (("dispersion",), np.float64)},
        sizes={"dispersion": columns.size},
        labels=labels,
        columns=columns,
    )
    return found["wavelength"], columns


def _has_background(part: xr.Dataset, header: SlitHeader) -> bool:
    return "weight" in part and "var_background" in part and header.background_members is not None


def _labels(part: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the columns and rows of a spectrum; a spectrum without weights of pixels has no rows."""
    columns = part["dispersion"].to_numpy() if "dispersion" in part.coords else np.arange(part.sizes["dispersion"])
    across = str(part["weight"].dims[0]) if "weight" in part else ""
    rows = part[across].to_numpy() if across in part.coords else np.array([], np.int64)
    return columns, rows


def _exposure(part: xr.Dataset, header: SlitHeader) -> tuple[str, tuple[str, ...]]:
    """Return the names of the exposure of a spectrum and of those in its background, without suffixes of products."""
    members = (header.background_members or ()) if _has_background(part, header) else ()
    return _without_kind(header.exposure), tuple(sorted(_without_kind(name) for name in members))


def _without_kind(name: str) -> str:
    """Return ``jw..._nrs1`` for ``jw..._nrs1_rate.fits``, so that rates and calibrated slits have the same name."""
    stem = name.rsplit("/", 1)[-1].split(".fits")[0]
    return stem.rsplit("_", 1)[0] if "_" in stem and ".fits" in name else stem
