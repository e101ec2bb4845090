"""Combine spectra of one source from several nods and exposures, with the covariance of what they share."""

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
from nsxr.kernels.spectra.combination import LEAST_LIGHT, combined_spectrum, grid_by_column, union_of_grids
from nsxr.model.declarations import step
from nsxr.model.history import combined_attributes, members_of, record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import VARIABLES, VARIANCES, check, variable_attributes

__all__ = ["combine_spectra"]

_INPUTS = ("flux", "surf_bright", *(f"{kind}_var_{part}" for kind in ("flux", "sb") for part in VARIANCES), "dq")
_OUTPUTS = (*_INPUTS, "flux_var_shared", "sb_var_shared", "flux_covariance", "combination_weight", "n_input")
_MEANINGS: Mapping[str, str] = {
    "flux_var_shared": "covariance of the backgrounds that spectra share",
    "sb_var_shared": "covariance of the backgrounds that spectra share",
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
    """Combine spectra of one source, on one grid of wavelengths, with all that is known of their errors.

    Wavelengths of nods differ by parts of a pixel. Spectra are interpolated linearly, and variances follow exactly,
    with the covariance that this makes between neighbouring wavelengths. Weights are smooth in wavelength: weights from
    a pixel's own noise would prefer pixels that were low by chance. Samples that are not finite or flagged DO_NOT_USE
    are left out, wavelength by wavelength. A spectrum with less than 0.3 of the light of the brightest one, by 5
    standard deviations, is left out altogether: nods differ by what falls beside a shutter, and one behind a closed
    shutter says nothing of the source. So is, of three and more, one with three times the light of the others, or a
    ten thousandth of their variance.

    Where exposures had the same background subtracted, or each other, the noise of that is common to them. Spectra
    that carry ``weight`` and ``var_background`` get the covariance from it.

    Parameters
    ----------
    spectra : sequence of Dataset
        ``flux`` (dispersion) float64 [Jy or DN/s], ``dq`` uint32, coordinate ``wavelength`` (dispersion) [um],
        ``dispersion`` labelled with detector columns; variances and ``surf_bright`` as far as there are, in all of them
        alike. For the covariance: ``weight`` (row, dispersion), by which detector pixels entered the flux,
        ``var_background`` (row, dispersion), variance of the background that was subtracted, and
        ``attrs["background_members"]``, a JSON list of the names of its exposures.
    weighting : {"optimal", "exposure_time"}, default "optimal"
        By the inverse of the variance, a running median of it; or by keyword EFFEXPTM.
    wavelength : (n,) array, optional
        Grid [um], rising. Default: the wavelengths of the first spectrum that has any, gone on with by the others in
        detector columns where it has none. Spectra of several detectors or slits keep the sampling of each; what they
        leave out between them is filled up with wavelengths where nothing is, flagged DO_NOT_USE.
    clip_threshold : float, optional
        Leave out samples that differ from the weighted mean of the others by more than so many standard deviations,
        the known ones, the worst first. Of two that differ from each other, the one goes that is farther from the
        median of both around it, within two pixels.
    smoothing : int, default 101
        Length of the running median, pixels.

    Returns
    -------
    Dataset
        Along ``dispersion``: ``flux``, ``surf_bright`` and their variances, the sums of weight squared times variance;
        ``flux_var_shared`` and ``sb_var_shared``, what covariance between the spectra adds, which can be negative;
        ``flux_covariance``, of each flux with the next; ``combination_weight`` and ``n_input`` float64; ``dq``, the
        flags of what was used, DO_NOT_USE where nothing was. Attributes are those of the first
        spectrum. Lazy if a spectrum is.

    Warns
    -----
    DegradedResultWarning
        If a spectrum without light, or without any sample on the grid, is left out, and nothing is lazy; else
        ``n_input`` tells.

    Raises
    ------
    ModelError
        If spectra lack variables, differ in units, or are series.
    ParameterError
        If a parameter is out of its range, an exposure time is missing, an exposure comes twice, or spectra of several
        detectors or slits have lazy wavelengths and no grid is given.

    Notes
    -----
    With R_i the interpolation of spectrum i and w_i its weights, normalised at each wavelength k,

    ``var(k) = sum_i w_ik^2 (R_i V_i R_i')_kk + sum_(i != j) w_ik w_jk (R_i C_ij R_j')_kk``

    and likewise (k, k + 1) for the covariance of neighbours. V_i is diagonal, and C_ij has for each detector column the
    sum over common rows of ``weight_i weight_j c``. c is the covariance of two pixels that had backgrounds of n_i and
    n_j exposures subtracted: ``s (n_i b_i + n_j b_j) / (2 n_i n_j)`` for s exposures that are in both, exact if all
    are, less b_i if spectrum j is from an exposure in the background of i, less b_j for the reverse; b is
    ``var_background``. Weights take the noise of each spectrum by itself, so they are not quite the best where much is
    shared; the variance is right for the weights that were used.
    """
    parts = list(spectra)
    _check(parts, weighting, clip_threshold, smoothing)
    require_distinct(parts)
    names = [name for name in _INPUTS if all(name in part for part in parts)]
    grid, columns = _common_grid(parts) if wavelength is None else (_given_grid(wavelength), None)
    grid = one_chunk(unlabelled(grid), "dispersion").astype(np.float64)
    outputs = [name for name in _OUTPUTS if name not in _INPUTS or name in names]
    outputs = [name for name in outputs if name != "sb_var_shared" or "surf_bright" in names]
    found, included, useful = _combined(parts, names, outputs, grid, weighting, clip_threshold, smoothing)
    units = {name: parts[0][name].attrs["units"] for name in names if "units" in parts[0][name].attrs}
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
    """Return the combined quantities, which spectra are included, and which have any light on the grid."""
    headers = [SlitHeader.of(part) for part in parts]
    arrays, keys = [grid], []
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        maps = ["weight", "var_background"] if _has_background(part, header) else []
        for name in ("wavelength", *names, *maps):
            array = unlabelled(part[name])
            array = array.rename({dim: f"{dim}_{number}" for dim in array.dims})
            arrays.append(one_chunk(array, *map(str, array.dims)))
            keys.append((name, number))
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
        times=[header.exposure_time for header in headers] if by_time else None,
        clip_threshold=clip_threshold,
        smoothing=smoothing,
    )
    return {name: found[name] for name in outputs}, found["included"], found["useful"]


def _warn_of_left_out(names: Sequence[str], included: xr.DataArray, useful: xr.DataArray) -> None:
    """Warn of spectra that are not in the mean, if that is known already."""
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
                stacklevel=4,  # past the check of arguments at the door of the package
            )


def _wavelength_attributes() -> dict[str, object]:
    return {"units": VARIABLES["wavelength"].units[0]} | variable_attributes("wavelength")


def _common(parts: Sequence[xr.Dataset]) -> dict[Any, Any]:
    """Return the attributes of the first spectrum, less what holds for its exposure alone, and steps that all share."""
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
                f"flux has dims {part['flux'].dims}, expected ('dispersion',); choose one slit, average series"
            )
        if "wavelength" not in part.coords:
            raise ModelError("coordinate 'wavelength' is missing; spectra cannot be combined without it")
    for name in ("flux", "surf_bright"):
        units = {part[name].attrs.get("units") for part in parts if name in part}
        if len(units) > 1:
            raise ModelError(f"{name} has units {sorted(map(str, units))}, expected the same in all spectra")
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
        raise ParameterError("wavelength is no rising sequence of finite numbers")
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
    """Return the wavelengths of the first spectrum, gone on with by others in columns where it has none."""
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
    """Return the labels of the columns and rows of a spectrum; without weights of pixels, there are no rows."""
    columns = part["dispersion"].to_numpy() if "dispersion" in part.coords else np.arange(part.sizes["dispersion"])
    across = str(part["weight"].dims[0]) if "weight" in part else ""
    rows = part[across].to_numpy() if across in part.coords else np.array([], np.int64)
    return columns, rows


def _exposure(part: xr.Dataset, header: SlitHeader) -> tuple[str, tuple[str, ...]]:
    """Return the name of the exposure of a spectrum, and of those in its background, without product kinds."""
    members = (header.background_members or ()) if _has_background(part, header) else ()
    return _without_kind(header.exposure), tuple(sorted(_without_kind(name) for name in members))


def _without_kind(name: str) -> str:
    """Return ``jw..._nrs1`` of ``jw..._nrs1_rate.fits``, so that rates and calibrated slits are the same exposure."""
    stem = name.rsplit("/", 1)[-1].split(".fits")[0]
    return stem.rsplit("_", 1)[0] if "_" in stem and ".fits" in name else stem
