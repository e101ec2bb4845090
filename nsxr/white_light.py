"""White light curves: the flux of each integration of a series, summed over wavelengths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import xarray as xr
from astropy.table import QTable

from nsxr.errors import ModelError, ParameterError
from nsxr.io.fits_tables import TIME_COLUMNS
from nsxr.io.products import write_whole
from nsxr.io.stores import local_path
from nsxr.kernels.medians import median_of_finite
from nsxr.lazy import map_blocks, settle
from nsxr.model.chunking import one_chunk
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.provenance import KEY
from nsxr.model.variables import check

__all__ = ["white_light_curve", "write_white_light_curve"]

_PARTS = ("poisson", "rnoise", "flat")
_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_META = {
    "instrument": "INSTRUME",
    "exp_type": "EXP_TYPE",
    "subarray": "SUBARRAY",
    "filter": "FILTER",
    "grating": "GRATING",
    "target_name": "TARGPROP",
}


def white_light_curve(
    series: xr.Dataset,
    *,
    min_wavelength: float | None = None,
    max_wavelength: float | None = None,
    max_flagged: float = 0.1,
) -> xr.Dataset:
    """Sum the flux of each integration over wavelengths, the same ones in all integrations.

    A wavelength that is missing in one integration and not in the next makes the curve jump by its flux. What an
    integration lacks, flagged DO_NOT_USE or not finite, is made up for by the median spectrum of the series, scaled to
    what the integration has: the others keep all of their light. Wavelengths that half of the integrations lack are
    left out of all. Integrations that lost more than a part of their wavelengths become NaN.

    Parameters
    ----------
    series : Dataset
        ``flux`` (integration, dispersion) float64 [Jy or DN/s], ``flux_var_poisson``, ``flux_var_rnoise``,
        ``flux_var_flat`` as far as there are, ``dq`` uint32, coordinate ``wavelength`` (dispersion) [um].
    min_wavelength, max_wavelength : float, optional
        Bounds [um], included. Default: all wavelengths, or all columns if no wavelength is known, as of count rates.
    max_flagged : float, default 0.1
        Part of the wavelengths of most integrations that one may lack before it is lost.

    Returns
    -------
    Dataset
        ``flux`` and its variances (integration) float64, sums over wavelengths, those of integrations that lack some
        larger in proportion; ``n_wavelengths`` (integration) int64, those that an integration has, 0 where the flux is
        NaN; the coordinates along ``integration``. Lazy if the series is.

    Raises
    ------
    ModelError
        If the series lacks a variable, or has no integrations.
    ParameterError
        If the bounds are the wrong way round, or ``max_flagged`` is not in 0 to 1.

    Notes
    -----
    Variances add, since pixels of a detector do not share their noise. The variance from the flat field is the same
    flat in every integration: it matters for the level of the curve and not for its changes; where it is NaN it counts
    as 0.
    """
    check(series, "flux", "dq")
    if series["flux"].dims != ("integration", "dispersion"):
        raise ModelError(f"flux has dims {series['flux'].dims}, expected ('integration', 'dispersion')")
    if min_wavelength is not None and max_wavelength is not None and min_wavelength >= max_wavelength:
        raise ParameterError(f"min_wavelength is {min_wavelength}, expected less than max_wavelength {max_wavelength}")
    if not 0 <= max_flagged <= 1:
        raise ParameterError(f"max_flagged is {max_flagged}, expected 0 to 1")
    base = series.drop_vars([name for name, c in series.coords.items() if not set(c.dims) <= {"integration"}])
    wavelength = series["wavelength"].drop_vars(list(series["wavelength"].coords))
    wanted: xr.DataArray = xr.ufuncs.isfinite(wavelength)
    if min_wavelength is None and max_wavelength is None:
        wanted = wanted | ~wanted.any()  # count rates have no wavelengths yet
    if min_wavelength is not None:
        wanted = wanted & (wavelength >= min_wavelength)
    if max_wavelength is not None:
        wanted = wanted & (wavelength <= max_wavelength)
    names = [name for name in ("flux", *(f"flux_var_{part}" for part in _PARTS)) if name in series]
    if "flux_var_flat" in names:  # a flat field whose variance nobody knows counts as one without
        base = base.assign(flux_var_flat=base["flux_var_flat"].fillna(0.0))
    bad = (base["dq"] & _DO_NOT_USE) != 0
    for name in names:
        bad = bad | ~np.isfinite(base[name])
    core = ("integration", "dispersion")
    scale, used = map_blocks(
        _made_up,
        one_chunk(base["flux"].reset_coords(drop=True), *core),
        one_chunk(bad.reset_coords(drop=True), *core),
        one_chunk(wanted.reset_coords(drop=True), "dispersion"),
        core=core,
        outputs=[(("integration",), np.float64), (("dispersion",), np.bool_)],
        max_flagged=max_flagged,
    )
    scale, used = settle(scale), settle(used) & ~bad
    sums: dict[str, Any] = {}
    for name in names:
        factor = scale if name == "flux" else scale**2
        sums[name] = base[name].where(used, 0.0).sum("dispersion", skipna=False) * factor
    n_used = used.sum("dispersion").where(np.isfinite(scale), 0).astype(np.int64)
    sums["n_wavelengths"] = n_used.assign_attrs(long_name="wavelengths that were summed")
    parameters = {"min_wavelength": min_wavelength, "max_wavelength": max_wavelength, "max_flagged": max_flagged}
    kept = base.drop_vars(list(base.data_vars))
    units = {name: series[name].attrs["units"] for name in names if "units" in series[name].attrs}
    return record(kept, "white_light", parameters=parameters, units=units, **sums)


def _made_up(
    flux: np.ndarray, bad: np.ndarray, wanted: np.ndarray, *, max_flagged: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors by which sums are larger with the wavelengths that integrations lack, and those summed.

    ``flux``, ``bad`` are (integration, dispersion), ``wanted`` is (dispersion,). The factors of lost integrations are
    NaN.
    """
    there = wanted & ~bad
    used = wanted & (2 * there.sum(0) > there.any(1).sum())
    lost = (bad & used).sum(1) > max_flagged * used.sum()
    there &= ~lost[:, None]
    typical = np.where(used, median_of_finite(np.where(there, flux, np.nan)), 0.0)
    there &= used
    whole, part = typical.sum(), there @ typical
    # where there is next to no light, all wavelengths count alike
    known = (whole > 0) & (part > 0.5 * whole * there.sum(1) / max(used.sum(), 1)) & (part > 0)
    count = np.where(there.any(1), used.sum() / np.maximum(there.sum(1), 1), np.nan)
    return np.where(known, whole / np.where(known, part, 1.0), count), used


def write_white_light_curve(
    curves: xr.Dataset | Sequence[xr.Dataset], path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write white light curves as an ECSV table with the columns of the observatory's ``whtlt``, and errors.

    Parameters
    ----------
    curves : Dataset or sequence of Dataset
        From :func:`white_light_curve`, one for each detector.
    path : path
        Of the file to write; its directory is made if need be.
    overwrite : bool, default False
        Whether an older file may be replaced.

    Returns
    -------
    Path
        The file written, with MJD_UTC_NRS1, BJD_TDB_NRS1 (days), whitelight_flux_NRS1, whitelight_flux_error_NRS1 [Jy
        or DN/s] and n_wavelengths_NRS1, and so on for NRS2. Rows are integrations; the shorter of two curves ends in
        NaN.

    Raises
    ------
    ModelError
        If a curve has no times, or two are of one detector.
    OutputExistsError
        If the file is there already.

    Notes
    -----
    The error is the root of the sum of the variances. Integrations without a flux stay in the table, as NaN.
    """
    parts = [curves] if isinstance(curves, xr.Dataset) else list(curves)
    detectors = [str(curve.attrs.get("DETECTOR", "")) for curve in parts]
    if len(set(detectors)) != len(parts) or not parts:
        raise ModelError(f"curves are of the detectors {detectors}, expected one for each")
    for curve in parts:
        missing = [name for name in (TIME_COLUMNS[1], TIME_COLUMNS[4]) if name not in curve.coords]
        if missing or "flux" not in curve:
            raise ModelError(
                f"a white light curve lacks {', '.join(missing) or 'flux'}; take it from white_light_curve"
            )
    final = local_path(path)

    def create(partials: Sequence[Path]) -> list[tuple[xr.DataArray, Any]]:
        _table(parts, detectors).write(partials[0], format="ascii.ecsv")
        return []

    write_whole([final], create, final.parent, final.name, overwrite, False)
    return final


def _table(curves: Sequence[xr.Dataset], detectors: Sequence[str]) -> QTable:
    attrs = curves[0].attrs
    table = QTable(meta={name: attrs.get(keyword) for name, keyword in _META.items()})
    table.meta |= {key: attrs[key] for key in (KEY,) if key in attrs}
    longest = max(curve.sizes["integration"] for curve in curves)
    for curve, detector in zip(curves, detectors, strict=True):
        loaded = curve.compute()
        ending = f"_{detector}" if detector else ""
        unit = u.Unit(loaded["flux"].attrs["units"])
        variance = sum(loaded[f"flux_var_{part}"].to_numpy() for part in _PARTS if f"flux_var_{part}" in loaded)
        columns = {
            "MJD_UTC": loaded[TIME_COLUMNS[1]].to_numpy(),
            "BJD_TDB": loaded[TIME_COLUMNS[4]].to_numpy(),
            "whitelight_flux": loaded["flux"].to_numpy(),
            "whitelight_flux_error": np.sqrt(np.broadcast_to(variance, loaded["flux"].shape)),
        }
        for name, values in columns.items():
            padded = np.pad(values, (0, longest - values.size), constant_values=np.nan)
            table[f"{name}{ending}"] = padded << unit if name.startswith("whitelight") else padded
        counts = loaded["n_wavelengths"].to_numpy()
        table[f"n_wavelengths{ending}"] = np.pad(counts, (0, longest - counts.size))
    return table
