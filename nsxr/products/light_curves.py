"""Write white light curves as ECSV tables."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import xarray as xr
from astropy.table import QTable

from nsxr.errors import ModelError
from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.model.provenance import KEY
from nsxr.model.variables import error_variances
from nsxr.products.write import write_whole
from nsxr.storage.urls import local_path

__all__ = ["write_white_light_curve"]

_META = {
    "instrument": "INSTRUME",
    "exp_type": "EXP_TYPE",
    "subarray": "SUBARRAY",
    "filter": "FILTER",
    "grating": "GRATING",
    "target_name": "TARGPROP",
}


def write_white_light_curve(
    curves: xr.Dataset | Sequence[xr.Dataset], path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write white light curves as an ECSV table with the columns of the observatory's ``whtlt``, and errors.

    Parameters
    ----------
    curves : Dataset or sequence of Dataset
        Curves from :func:`white_light_curve`, one for each detector.
    path : path
        File to write. Its directory is made if it does not exist.
    overwrite : bool, default False
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The file that was written. Its columns are MJD_UTC_NRS1, BJD_TDB_NRS1 (days), whitelight_flux_NRS1,
        whitelight_flux_error_NRS1 [Jy or DN/s] and n_wavelengths_NRS1, and the same for NRS2. Rows are integrations.
        The shorter of two curves is filled with NaN.

    Raises
    ------
    ModelError
        If a curve has no times, or if two curves are from the same detector.
    OutputExistsError
        If the file already exists.

    Notes
    -----
    The error is the square root of the sum of the variances, without that of the flat field: it changes the level of a
    light curve, and not its shape. Integrations without a flux are NaN in the table.
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
        variance = sum(loaded[name].to_numpy() for name in error_variances(loaded))
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
