"""Write cut-outs of slits: FITS in the layout of the observatory's cal products, or Zarr."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.errors import ModelError
from nsxr.formats.fits_layout import Part, Target, image_header, lay_out
from nsxr.formats.fits_tables import asdf_marker, asdf_table, integration_times, origin, provenance, table
from nsxr.formats.keywords import as_product, carried_header, primary_header, set_keyword
from nsxr.formats.spectra_tables import SLIT_KEYWORDS, is_of_spectrum
from nsxr.formats.zarr import create_zarr
from nsxr.model.dims import image_dims
from nsxr.model.keywords import read
from nsxr.model.provenance import merged
from nsxr.model.variables import check_slit, variances_of
from nsxr.optics.instrument import Optics
from nsxr.products.padding import is_resampled, pad_slits
from nsxr.products.slit_gwcs import coordinates_tree
from nsxr.products.slits_read import SLIT_IMAGES
from nsxr.products.write import write_whole
from nsxr.slits.collection import iterate_slits
from nsxr.storage.urls import local_path

__all__ = ["write_slits"]


def write_slits(
    slits: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    optics: Optics | None = None,
    overwrite: bool = False,
    progress: bool | Literal["force"] = True,
) -> Path:
    """Write slits as a FITS product, or as Zarr if the name ends in ``.zarr``.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit, or a DataTree of slits as from :func:`nsxr.open_slits`.
    path : path
        File to write. Its directory is made if it does not exist.
    optics : Optics, optional
        The optics of the exposure, from :func:`nsxr.open_optics`, with which the slits were cut out. FITS files then
        have a gwcs for each slit, which the observatory's software needs for its next steps. Zarr does not have it.
    overwrite : bool, default False
        Whether an existing file may be replaced.
    progress : bool or "force", default True
        Show a bar in a notebook, or if standard error is a terminal. "force" always shows it.

    Returns
    -------
    Path
        The file that was written.

    Warns
    -----
    DegradedResultWarning
        If wavelengths of slits were corrected for the places of their sources: the gwcs has those before.

    Raises
    ------
    ModelError
        If a variable is missing or not as declared, or if the optics do not have a slit.
    OutputExistsError
        If the file already exists, or another process is writing it.
    OSError
        If the disk is full or cannot be written.

    Notes
    -----
    FITS has the extensions SCI DQ ERR WAVELENGTH and those of other variables for each slit, with the number of the
    slit as EXTVER. ERR is the square root of the sum of the variances. Zarr has a group for each slit. Two or more
    slitlets of the shutter array share one group if they have the same variables and the same history. In that group
    they are padded, see :mod:`nsxr.products.padding`. :func:`nsxr.open_slits` reads all of these.
    """
    final = local_path(path)

    def create(partials: Sequence[Path]) -> list[tuple[xr.DataArray, Any]]:
        if final.suffix == ".zarr":
            nodes = _zarr_nodes(slits)
            model = _model([slit for _, slit in iterate_slits(slits)])
            return list(create_zarr(partials[0], {k: as_product(node, final.name, model) for k, node in nodes.items()}))
        return _create(partials[0], slits, final.name, optics)

    write_whole([final], create, final.parent, final.name, overwrite, progress)
    return final


def _zarr_nodes(slits: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the content of each group of a Zarr store."""
    if isinstance(slits, xr.Dataset):
        return {"/": slits}
    each = [slit for _, slit in iterate_slits(slits)]
    is_shutters = all(slit.attrs.get("EXP_TYPE") == "NRS_MSASPEC" for slit in each)
    is_alike = len({(frozenset(slit.data_vars), str(slit.attrs.get("nsxr_steps"))) for slit in each}) == 1
    if len(each) > 1 and is_shutters and is_alike and _model(each) != "MultiExposureModel":
        return {"/": pad_slits(slits)}
    return {"/": slits.to_dataset(), **{name: child.to_dataset() for name, child in slits.children.items()}}


def _model(slits: Sequence[xr.Dataset]) -> str:
    """Return the data model of the file: that of the input, if it fits the slits."""
    given = str(slits[0].attrs.get("DATAMODL", ""))
    if len(slits) > 1:
        return given if given == "MultiExposureModel" else "MultiSlitModel"
    return given if given in ("SlitModel", "MultiSlitModel") else "SlitModel"


def _images(slit: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the images of a slit by extension, in the order of the observatory's files."""
    variances = [slit[name] for name in variances_of(slit)]
    found: dict[str, xr.DataArray] = {}
    for extension, name in SLIT_IMAGES.items():
        if name not in slit:
            continue
        found[extension] = slit[name]
        if extension == "DQ" and variances:
            total = sum((part.fillna(0.0) for part in variances[1:]), variances[0])
            units = slit["sci"].attrs.get("units", "")
            found["ERR"] = xr.ufuncs.sqrt(total).astype(np.float32).assign_attrs(units=units)
    return found


def _create(
    path: Path, slits: xr.Dataset | xr.DataTree, filename: str, optics: Optics | None
) -> list[tuple[xr.DataArray, Target]]:
    each = [slit for _, slit in iterate_slits(slits)]
    if not each:
        raise ModelError("there are no slits to write")
    for slit in each:
        check_slit(slit, "sci", "dq")
    first = each[0]
    primary = slit_primary_header({**first.attrs, **slits.attrs}, filename, _model(each))
    parts = [Part(primary)]
    for version, slit in enumerate(each, start=1):
        for extension, array in _images(slit).items():
            if extension == "SCI":
                array = array.assign_attrs(fits_header=_slit_header(slit))
            header = image_header(extension, array)
            header["EXTVER"] = (version, "extension value")
            parts.append(Part(header, array))
    asdf_part = asdf_marker() if optics is None else asdf_table(coordinates_tree(each, optics, _model(each)))
    times = integration_times(first) if "integration" in first.dims else None
    records, known = provenance(first), origin({**slits.attrs, **merged([slit.attrs for slit in each])})
    tables = [("INT_TIMES", times), ("NSXR_STEPS", records), ("NSXR_PROVENANCE", known), ("ASDF", asdf_part)]
    parts += [Part(*table(name, rows)) for name, rows in tables if rows is not None]
    return lay_out(path, parts)


def _slit_header(slit: xr.Dataset) -> str:
    """Return the header of a slit as text: its original header, its keywords, and the place that its labels give.

    Slits that were cut out have no header of their own. They get what the header of the exposure says of time,
    ephemeris and pointing, but not its FITS coordinates and its region on the sky, which are those of the whole image.
    """
    header = fits.Header.fromstring(str(slit.attrs.get("slit_header", "")), sep="\n")
    if not header:
        exposure = carried_header({"fits_header": slit.attrs.get("sci_header", "")})
        gone = {"S_REGION", *(keyword for keyword in SLIT_KEYWORDS if keyword in slit.attrs)}
        header = fits.Header([one for one in exposure.cards if is_of_spectrum(one.keyword) and one.keyword not in gone])
    for keyword, meaning in SLIT_KEYWORDS.items():
        value = slit.attrs.get(keyword)
        is_unknown = value is None or (isinstance(value, float | np.floating) and not np.isfinite(value))
        if not is_unknown and keyword not in header:  # FITS has no NaN: place of a source that is not known
            set_keyword(header, keyword, value, meaning)
    if not is_resampled(slit, slit.attrs):  # resampled pixels are not detector pixels
        for axis, dim in zip(("2", "1"), image_dims(slit), strict=True):
            if dim in slit.coords:
                start = int(slit[dim].to_numpy()[0]) + 2 - read(slit.attrs, f"SUBSTRT{axis}", default=1)
                set_keyword(header, f"SLTSTRT{axis}", start, SLIT_KEYWORDS[f"SLTSTRT{axis}"])
                set_keyword(header, f"SLTSIZE{axis}", slit.sizes[dim], SLIT_KEYWORDS[f"SLTSIZE{axis}"])
    return str(header.tostring(sep="\n", endcard=False, padding=False))


def slit_primary_header(attrs: Mapping[Any, Any], filename: str, model: str) -> fits.Header:
    """Return the primary header of a product of slits, without the keywords from the header of a slit.

    Parameters
    ----------
    attrs : mapping
        Attributes of a slit, overridden by those of the file.
    filename : str
        Final name of the product.
    model : str
        Data model (DATAMODL).
    """
    own = fits.Header.fromstring(str(attrs.get("slit_header", "")), sep="\n")
    carried = fits.Header.fromstring(str(attrs.get("fits_header", "")), sep="\n")
    kept = {k: v for k, v in attrs.items() if (k not in own and k not in SLIT_KEYWORDS) or k in carried}
    # if both headers have a keyword, attrs holds the value of the slit
    kept |= {
        key: carried[key] for key in own if key in carried and key in attrs and key not in ("COMMENT", "HISTORY", "")
    }
    header = primary_header(xr.Dataset(attrs=kept), filename)
    set_keyword(header, "DATAMODL", model)
    return header
