"""Make the primary header of a product: keywords of the input, status of the steps, names of the references."""

import os
import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.model.history import steps
from nsxr.model.provenance import provenance_of, software
from nsxr.model.steps import REFERENCES, STEPS
from nsxr.model.types import Attributes, Named

__all__ = [
    "as_product",
    "carried_header",
    "is_of_product",
    "primary_header",
    "printable",
    "product_keywords",
    "set_keyword",
    "step_keywords",
]

_LOGICAL = ("WAVECOR", "BARSHDW")
"""Keywords of slits that are logical in FITS and 1 or 0 in attributes.

In a primary header, a keyword is logical if the value of the input was logical."""

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_STRUCTURE = re.compile(
    "SIMPLE|XTENSION|BITPIX|NAXIS[0-9]*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|EXTNAME|EXTVER|EXTLEVEL"
    "|DATAMIN|DATAMAX|CHECKSUM|DATASUM|NEXTEND|END"
)


def printable(text: str) -> str:
    """Return text in ASCII, as FITS headers need it. Other characters become escapes."""
    return text.replace("\n", " ").encode("ascii", "backslashreplace").decode()


def _describe(entry: Named) -> str:
    """Return one provenance record as a sentence for HISTORY."""
    if entry["status"] != "COMPLETE":
        reason = entry.get("reason")
        return f"{entry['step']}: {str(entry['status']).lower()}" + (f", {reason}" if reason else "")
    parts = [f"{name} = {value}" for name, value in entry["parameters"].items()]
    parts += [f"{kind} from {name}" for kind, name in entry["references"].items()]
    return f"{entry['step']}: done" + (f", with {', '.join(parts)}" if parts else "")


def _model_type(dataset: xr.Dataset) -> str:
    if "group" in dataset.dims:
        return "RampModel"
    if "integration" in dataset.dims:
        return "CubeModel"
    kind, mode = (str(dataset.attrs.get(key, "")).upper() for key in ("EXP_TYPE", "OPMODE"))
    is_ifu = kind == "NRS_IFU" or (kind in ("NRS_AUTOWAVE", "NRS_LAMP") and mode == "IFU")
    return "IFUImageModel" if is_ifu else "ImageModel"


def carried_header(attrs: Attributes) -> fits.Header:
    """Return the header in ``attrs["fits_header"]`` without its structural keywords."""
    carried = fits.Header.fromstring(str(attrs.get("fits_header", "")), sep="\n")
    cards = [card for card in carried.cards if not _STRUCTURE.fullmatch(card.keyword)]
    return fits.Header(cards)


def set_keyword(header: fits.Header, key: str, value: object, comment: str | None = None) -> None:
    """Set a keyword. The old comment is kept if no new one is given. Comments are cut to the length of a card."""
    if comment is None:
        comment = header.comments[key] if key in header else ""
    if key in _LOGICAL and value in (0, 1):
        value = bool(value)
    used = _length(key, value)
    if used <= 80:  # a longer string is written to several cards, together with its comment
        comment = comment[: max(77 - used, 0)]
    header[key] = (value, comment)


def _length(key: str, value: object) -> int:
    """Return the length of a card without its comment. To make a card takes as long as all the rest of a header."""
    if len(key) <= 8 and isinstance(value, str) and value:
        return 12 + max(len(value.replace("'", "''")), 8)
    if len(key) <= 8 and (isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**19)):
        return 30
    return len(fits.Card(key if len(key) <= 8 else f"HIERARCH {key}", value).image.rstrip())


def _now() -> str:
    """Return the time for DATE, UTC. If ``SOURCE_DATE_EPOCH`` [s] is set, use it, so that products are reproducible."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    time = datetime.fromtimestamp(int(given), UTC) if given.isdigit() else datetime.now(UTC)
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds")


def product_keywords(dataset: xr.Dataset, filename: str, model: str | None = None) -> dict[str, tuple[Any, str]]:
    """Return value and comment of each keyword that describes a product and how it was made, for all formats.

    Parameters
    ----------
    dataset : Dataset
        Content of the product. Its dims give the data model. Its history gives status keywords ``S_*`` and reference
        names ``R_*``.
    filename : str
        Final name of the product.
    model : str, optional
        Data model (DATAMODL), if the dims do not determine it.
    """
    release, commit = software()["nsxr"], software()["commit"]
    status = "DEVELOPMENT" if re.search(r"dev|\+", str(release)) else "RELEASE"
    found = {
        "DATE": (_now(), "UTC date file created"),
        "FILENAME": (filename, "Name of the file"),
        "DATAMODL": (model or _model_type(dataset), "Type of data model"),
        "CAL_VER": (f"nsxr {release}", "Calibration software version"),
        "CAL_VCS": (commit or status, "Calibration software revision"),
    }
    crds = provenance_of(dataset.attrs).get("crds", {})
    for key, name, comment in (
        ("CRDS_VER", "version", "Version of CRDS file selection software used"),
        ("CRDS_CTX", "context", "CRDS context (.pmap) used to select ref files"),
    ):
        if name in crds:
            found[key] = (crds[name], comment)
    return found | step_keywords(steps(dataset))


def step_keywords(records: Sequence[Named]) -> dict[str, tuple[Any, str]]:
    """Return value and comment of the status keywords ``S_*`` and reference names ``R_*`` of a history."""
    found: dict[str, tuple[Any, str]] = {}
    for entry in records:
        if entry["step"] in STEPS:
            keyword, comment = STEPS[entry["step"]]
            if found.get(keyword) != ("COMPLETE", comment):  # a step of stage 1 that stage 2 has no need to repeat
                found[keyword] = (entry["status"], comment)
        for kind, name in entry["references"].items():
            if kind in REFERENCES and (keyword := REFERENCES[kind].keyword):
                found[keyword] = (printable(name), REFERENCES[kind].comment)
    return found


_OF_PRODUCT = {"DATE", "FILENAME", "DATAMODL", "CAL_VER", "CAL_VCS", "CRDS_VER", "CRDS_CTX"}
_OF_PRODUCT |= {one.keyword for one in STEPS.values()} | {one.keyword for one in REFERENCES.values() if one.keyword}


def is_of_product(keyword: str) -> bool:
    """Return whether :func:`product_keywords` may set this keyword. Such keywords belong in the primary header."""
    return keyword in _OF_PRODUCT


def as_product(dataset: xr.Dataset, filename: str, model: str | None = None, dated: bool = True) -> xr.Dataset:
    """Return a Dataset with :func:`product_keywords` as attributes, for formats without headers.

    The other parameters are those of :func:`product_keywords`. If not ``dated``, the result has no DATE.
    """
    found = {key: value for key, (value, _) in product_keywords(dataset, filename, model).items()}
    result = dataset.assign_attrs(found)
    if not dated:
        del result.attrs["DATE"]
    return result


def primary_header(dataset: xr.Dataset, filename: str) -> fits.Header:
    """Return the primary header of a product.

    Parameters
    ----------
    dataset : Dataset
        ``attrs["fits_header"]`` gives order, comments, COMMENT and HISTORY. Other attributes with the names of FITS
        keywords give the values, and override ``fits_header``. ``attrs["nsxr_steps"]`` gives status keywords ``S_*``,
        reference names ``R_*`` and HISTORY.
    filename : str
        Final name of the product.

    Returns
    -------
    Header
        A new header. Attributes whose names are not FITS keywords are left out.
    """
    header = fits.Header(
        [
            ("SIMPLE", True, "conforms to FITS standard"),
            ("BITPIX", 8, "array data type"),
            ("NAXIS", 0),
            ("EXTEND", True),
        ]
    )
    header.extend(carried_header(dataset.attrs).cards, update=False, unique=False, end=True)
    for key, value in dataset.attrs.items():
        if key not in header and not _KEYWORD.fullmatch(str(key)):
            continue
        if _STRUCTURE.fullmatch(key) or key in ("COMMENT", "HISTORY", ""):
            continue
        value = value.item() if isinstance(value, np.generic) else value
        value = printable(value) if isinstance(value, str) else value
        if isinstance(header.get(key), bool) and value in (0, 1):  # other formats have no T and F
            value = bool(value)
        if key not in header or header[key] != value or type(header[key]) is not type(value):
            set_keyword(header, key, value)
    for key, (value, comment) in product_keywords(dataset, filename).items():
        set_keyword(header, key, value, comment)
    sentences = [
        f"Made by nsxr {software()['nsxr']}; its steps in order, with parameters and references:",
        *map(_describe, steps(dataset)),
    ]
    for line in chain.from_iterable(textwrap.wrap(printable(text), 72, subsequent_indent="  ") for text in sentences):
        header.add_history(line)
    return header
