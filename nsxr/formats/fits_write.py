"""Write ramps and count rates as JWST FITS products, with their extensions in order."""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.formats.extensions import FRAME_IMAGES
from nsxr.formats.fits_layout import Part, Place, Target, image_header, lay_out
from nsxr.formats.fits_tables import (
    LateTable,
    asdf_marker,
    asdf_table,
    groups,
    integration_times,
    late_header,
    origin,
    provenance,
    table,
)
from nsxr.formats.keywords import carried_header, primary_header, set_keyword
from nsxr.formats.spectra_tables import SLIT_KEYWORDS
from nsxr.model.variables import TABLES, check, variances_of

__all__ = ["OF_SCI", "create_fits", "table_part"]

OF_SCI = ("PHOTMJSR", "PHOTUJA2", "PIXAR_SR", "PIXAR_A2")
"""Keywords of a calibrated frame that stand in the header of SCI, and that are attributes of a Dataset."""


def _late_keywords(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables of a Dataset that are values of header keywords, by keyword."""
    return {str(a.attrs["keyword"]): a for a in dataset.data_vars.values() if not a.ndim and "keyword" in a.attrs}


def _extensions(dataset: xr.Dataset, coordinates: bytes | None) -> Iterator[tuple[str, xr.DataArray | np.ndarray]]:
    """Yield name and content of each extension, images and tables, in the order of the observatory's files."""
    is_ramp = "group" in dataset.dims
    times = integration_times(dataset) if "integration" in dataset.dims else None
    tables = {"INT_TIMES": times} if times is not None else {}
    yield "SCI", dataset["sci"]
    if is_ramp:
        yield from ((name.upper(), dataset[name]) for name in ("pixeldq", "groupdq") if name in dataset)
        rows = groups(dataset)
        tables = ({"GROUP": rows} if rows is not None else {}) | tables
        yield from tables.items()
    else:
        variances = [dataset[name] for name in variances_of(dataset)]
        error = xr.ufuncs.sqrt(sum(variances[1:], variances[0]))
        yield "ERR", error.assign_attrs(units=dataset["sci"].attrs["units"])
        yield "DQ", dataset["dq"]
        yield from tables.items()
        yield "VAR_POISSON", dataset["var_poisson"]
        yield "VAR_RNOISE", dataset["var_rnoise"]
        if "chi_square" in dataset:
            yield "CHI_SQUARE", dataset["chi_square"]
        for name, variable in FRAME_IMAGES.items():
            if variable in dataset.variables:
                yield name, dataset[variable].astype(np.int32) if name == "REGIONS" else dataset[variable]
    yield from ((name, dataset[variable]) for name, (variable, _, _) in TABLES.items() if variable in dataset)
    records = provenance(dataset)
    if records is not None:
        yield "NSXR_STEPS", records
    known = origin(dataset.attrs)
    if known is not None:
        yield "NSXR_PROVENANCE", known
    yield "ASDF", asdf_marker() if coordinates is None else asdf_table(coordinates)


def create_fits(
    path: Path, dataset: xr.Dataset, filename: str, coordinates: bytes | None = None
) -> list[tuple[xr.DataArray, Target]]:
    """Create a FITS product without its pixels, and return the targets of its arrays. Nothing is computed.

    Rates get SCI ERR DQ VAR_POISSON VAR_RNOISE, with INT_TIMES before the variances if there are integrations.
    ``ERR = sqrt(var_poisson + var_rnoise)``, float32. Calibrated frames of the IFU also get VAR_FLAT, WAVELENGTH,
    REGIONS and the other extensions in :data:`nsxr.formats.extensions.FRAME_IMAGES`; their ERR includes ``var_flat``.
    Ramps get SCI PIXELDQ GROUPDQ GROUP INT_TIMES, as far as the
    Dataset has them. Then come ``SNOWBALLS`` (snowballs), ``NOISE`` (noise spectra) and ``NOISE_CORR``
    (what pixels share of the noise), the table ``NSXR_STEPS`` with a JSON text for each step, and a small ASDF
    extension for tools that need one.

    Parameters
    ----------
    path : Path
        File to create. It must not exist.
    dataset : Dataset
        Ramps: ``sci`` (integration, group, row, column) [DN], with ``pixeldq`` and ``groupdq`` if they were made. Or
        rates: ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), with or without a leading
        integration.
    filename : str
        Final name of the product, for its header.
    coordinates : bytes, optional
        An ASDF file with a gwcs, in place of the empty one.

    Returns
    -------
    list of (DataArray, Target)
        Each array and its target. Arrays are images, tables of snowballs or noise, and numbers with an attribute
        ``keyword``. They are lazy if the input is lazy.

    Raises
    ------
    ModelError
        If a variable is missing or has dims or a dtype that the product cannot hold.
    OSError
        If the file cannot be created or the disk is full.
    """
    is_ramp = "group" in dataset.dims
    check(dataset, *(("sci",) if is_ramp else ("sci", "dq", "var_poisson", "var_rnoise")))
    of_sci = [key for key in OF_SCI if key in dataset.attrs]
    described = dataset.copy(deep=False)
    described.attrs = {key: value for key, value in dataset.attrs.items() if key not in of_sci}
    primary = primary_header(described, filename)
    late = _late_keywords(dataset)
    for keyword, array in late.items():
        set_keyword(primary, keyword, None, str(array.attrs.get("long_name", ""))[:45])
    parts = [Part(primary, late=late)]
    for name, content in _extensions(dataset, coordinates):
        if not isinstance(content, xr.DataArray):
            parts.append(Part(*table(name, content)))
        elif name in TABLES:
            check(dataset, TABLES[name][0])
            parts.append(table_part(name, content))
        else:
            own = _sci_header(dataset, of_sci) if name == "SCI" else None
            parts.append(Part(image_header(name, content, own), content))
    return lay_out(path, parts)


def _sci_header(dataset: xr.Dataset, keywords: Collection[str]) -> fits.Header:
    """Return the header of SCI: that of the exposure, with keywords that corrections added to it."""
    text = dataset.attrs.get("sci_header", dataset["sci"].attrs.get("fits_header", ""))
    header = carried_header({"fits_header": text})
    for key in keywords:
        set_keyword(header, key, dataset.attrs[key], SLIT_KEYWORDS[key])
    return header


def table_part(name: str, rows: xr.DataArray) -> Part:
    """Return a table in :data:`nsxr.model.variables.TABLES` as a part of a file; its rows may be lazy."""
    return Part(late_header(name, rows.shape[0]), rows, partial(_table_target, name))


def _table_target(name: str, place: Place, rows: xr.DataArray) -> Target:
    return LateTable(place.path, name, place.header, place.offset)
