"""Lay out slits as a FITS product: the extensions of each slit, its header and its history."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.compute.blocks import map_blocks
from nsxr.errors import ModelError
from nsxr.formats.extensions import SLIT_IMAGES
from nsxr.formats.fits_layout import Part, Target, image_header, lay_out, plain_header
from nsxr.formats.fits_tables import asdf_marker, asdf_table, integration_times, origin, provenance, table
from nsxr.formats.fits_write import table_part
from nsxr.formats.keywords import carried_header, is_of_product, primary_header, set_keyword
from nsxr.formats.spectra_tables import SLIT_KEYWORDS, SLIT_TEXTS, is_of_spectrum
from nsxr.model.dims import image_dims
from nsxr.model.history import joint_history
from nsxr.model.keywords import read
from nsxr.model.provenance import gathered
from nsxr.model.variables import check_slit, variances_of
from nsxr.optics.instrument import Optics
from nsxr.products.padding import is_resampled
from nsxr.products.slit_gwcs import coordinates_tree

__all__ = ["create_slits", "error_of"]


def create_slits(
    path: Path,
    slits: Sequence[xr.Dataset],
    root: Mapping[Any, Any],
    filename: str,
    model: str,
    optics: Optics | None = None,
) -> list[tuple[xr.DataArray, Target]]:
    """Create a FITS product without its pixels, and return its arrays with their targets.

    Parameters
    ----------
    path : Path
        File to create. It must not exist.
    slits : sequence of Dataset
        The slits, in the order of their EXTVER.
    root : mapping
        Attributes of the file. They override those of the slits.
    filename : str
        Final name of the product.
    model : str
        Data model (DATAMODL).
    optics : Optics, optional
        For a gwcs of each slit, see :func:`nsxr.write_slits`.

    Raises
    ------
    ModelError
        If there are no slits, if a variable is missing or not as declared, or if the optics do not have a slit.
    """
    if not slits:
        raise ModelError("there are no slits to write")
    for slit in slits:
        check_slit(slit, "sci", "dq")
    first = slits[0]
    own = _different_keywords([slit.attrs for slit in slits])
    attrs = {**first.attrs, **root, **joint_history(slits)}
    parts = [Part(_primary(attrs, own, filename, model))]
    for version, slit in enumerate(slits, start=1):
        for extension, array in _images(slit).items():
            header: str | fits.Header
            if extension == "SCI":
                header = image_header(extension, array, _slit_header(slit, own))
                header.set("EXTVER", version, "extension value", after="EXTNAME")
            else:
                header = plain_header(extension, array, version)
            parts.append(Part(header, array))
    asdf_part = asdf_marker() if optics is None else asdf_table(coordinates_tree(slits, optics, model))
    times = integration_times(first) if "integration" in first.dims else None
    records, known = provenance(*slits), origin({**root, **gathered([slit.attrs for slit in slits])})
    tables = [("INT_TIMES", times), ("NSXR_STEPS", records), ("NSXR_PROVENANCE", known), ("ASDF", asdf_part)]
    parts += [table_part("NOISE_CORR", first["noise_correlation"])] if "noise_correlation" in first else []
    parts += [Part(*table(name, rows)) for name, rows in tables if rows is not None]
    return lay_out(path, parts)


def error_of(slit: xr.Dataset) -> xr.DataArray | None:
    """Return ERR: the square root of the sum of ``var_poisson``, ``var_rnoise`` and ``var_flat``, float32.

    These are the variances that the observatory's ERR includes. A variance that is NaN counts as zero, except for the
    first one that the slit has. None if the slit has no variances.
    """
    names = variances_of(slit)
    if not names:
        return None
    dims = tuple(map(str, slit[names[0]].dims))
    outputs = {"err": (dims, np.float32)}
    found = map_blocks(_error, *(slit[name] for name in names), core=(), outputs=outputs)["err"]
    return found.assign_attrs(units=slit["sci"].attrs.get("units", ""))


def _error(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    total = first.copy()
    for other in others:
        total += np.where(np.isnan(other), np.float32(0.0), other)
    with np.errstate(invalid="ignore"):
        root: np.ndarray = np.sqrt(total)
    return root.astype(np.float32, copy=False)


def _images(slit: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the images of a slit by extension, in the order of the observatory's files."""
    found: dict[str, xr.DataArray] = {}
    for extension, name in SLIT_IMAGES.items():
        if name in slit.variables:
            found[extension] = slit[name]
        if extension == "DQ" and (error := error_of(slit)) is not None:
            found["ERR"] = error
    return found


def _different_keywords(each: Sequence[Mapping[Any, Any]]) -> set[str]:
    """Return the keywords whose values differ between slits. They belong in the extensions of the slits.

    Status keywords and names of references are left out, because the history of a slit tells them.
    """
    found: set[str] = set()
    first = each[0]
    for attrs in each[1:]:
        for key in set(first) | set(attrs):
            if key not in found and not _same(first.get(key), attrs.get(key)):
                found.add(key)
    return {key for key in found if _KEYWORD.fullmatch(str(key)) and not is_of_product(key)}


_KEYWORD = re.compile("[A-Z0-9_-]{1,8}")


def _same(one: Any, other: Any) -> bool:
    return bool(one is other or one == other or (one != one and other != other))


@lru_cache(maxsize=8)
def _of_exposure(text: str) -> tuple[fits.Card, ...]:
    """Return the cards of the header of an exposure that also hold for a slit."""
    return tuple(card for card in carried_header({"fits_header": text}).cards if is_of_spectrum(card.keyword))


def _slit_header(slit: xr.Dataset, own: Collection[str]) -> fits.Header:
    """Return the header of a slit: its original header, its keywords, and the place that its labels give.

    Slits that were cut out have no header of their own. They get what the header of the exposure says of time,
    ephemeris and pointing, but not its FITS coordinates and its region on the sky, which are those of the whole image.

    Parameters
    ----------
    slit : Dataset
        The slit.
    own : collection of str
        Keywords that differ between the slits of the file.
    """
    attrs = slit.attrs
    header = carried_header({"fits_header": attrs.get("slit_header", "")})
    if not header:
        gone = {"S_REGION", *(keyword for keyword in SLIT_KEYWORDS if keyword in attrs)}
        header = fits.Header(
            [card for card in _of_exposure(str(attrs.get("sci_header", ""))) if card.keyword not in gone]
        )
    for keyword in (*SLIT_KEYWORDS, *sorted(set(own) - set(SLIT_KEYWORDS))):
        value = attrs.get(keyword)
        is_unknown = value is None or (isinstance(value, float | np.floating) and not np.isfinite(value))
        if is_unknown or (keyword in header and _same(header[keyword], value)):
            continue  # FITS has no NaN: place of a source that is not known
        set_keyword(header, keyword, value, SLIT_KEYWORDS.get(keyword))
    for name, (keyword, comment) in SLIT_TEXTS.items():
        if name in attrs:
            set_keyword(header, keyword, str(attrs[name]), comment)
    if not is_resampled(slit, attrs):  # resampled pixels are not detector pixels
        for axis, dim in zip(("2", "1"), image_dims(slit), strict=True):
            if dim in slit.coords:
                start = int(slit[dim].to_numpy()[0]) + 2 - read(attrs, f"SUBSTRT{axis}", default=1)
                set_keyword(header, f"SLTSTRT{axis}", start, SLIT_KEYWORDS[f"SLTSTRT{axis}"])
                set_keyword(header, f"SLTSIZE{axis}", slit.sizes[dim], SLIT_KEYWORDS[f"SLTSIZE{axis}"])
    return header


def _primary(attrs: Mapping[Any, Any], different: Collection[str], filename: str, model: str) -> fits.Header:
    """Return the primary header of a product of slits, without the keywords of the headers of slits.

    Parameters
    ----------
    attrs : mapping
        Attributes of a slit, overridden by those of the file.
    different : collection of str
        Keywords that differ between the slits of the file.
    filename : str
        Final name of the product.
    model : str
        Data model (DATAMODL).
    """
    of_slit = fits.Header.fromstring(str(attrs.get("slit_header", "")), sep="\n")
    carried = fits.Header.fromstring(str(attrs.get("fits_header", "")), sep="\n")
    own = {*of_slit, *SLIT_KEYWORDS, *different}
    kept = {key: value for key, value in attrs.items() if key not in own or key in carried}
    # if both headers have a keyword, attrs holds the value of the slit
    of_both = [key for key in {*of_slit, *different} if key in carried and key in attrs]
    kept |= {key: carried[key] for key in of_both if key not in ("COMMENT", "HISTORY", "")}
    header = primary_header(xr.Dataset(attrs=kept), filename)
    set_keyword(header, "DATAMODL", model)
    return header
