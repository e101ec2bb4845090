"""Get references from the JWST Calibration Reference Data System (CRDS), with its library ``crds``."""

import logging
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import xarray as xr

from nsxr.errors import MissingReferenceError, ParameterError, install

__all__ = ["CRDS", "best_references", "crds_state", "fetch_reference"]

logger = logging.getLogger(__name__)

CRDS = "crds://"
"""Start of the names of CRDS files."""

_PARAMETERS = {
    "meta.instrument.name": "INSTRUME",
    "meta.instrument.detector": "DETECTOR",
    "meta.instrument.filter": "FILTER",
    "meta.instrument.grating": "GRATING",
    "meta.instrument.lamp_mode": "OPMODE",
    "meta.instrument.lamp_state": "LAMP",
    "meta.exposure.type": "EXP_TYPE",
    "meta.exposure.readpatt": "READPATT",
    "meta.subarray.name": "SUBARRAY",
    "meta.subarray.xstart": "SUBSTRT1",
    "meta.subarray.ystart": "SUBSTRT2",
    "meta.subarray.xsize": "SUBSIZE1",
    "meta.subarray.ysize": "SUBSIZE2",
    "meta.observation.date": "DATE-OBS",
    "meta.observation.time": "TIME-OBS",
    "meta.visit.tsovisit": "TSOVISIT",
}
"""Header keyword of each parameter by which CRDS chooses references."""


def best_references(exposure: xr.Dataset, types: Sequence[str]) -> dict[str, str]:
    """Ask CRDS once for all types, and download files that are not in its cache."""
    crds = _library()
    parameters = {name: exposure.attrs[key] for name, key in _PARAMETERS.items() if key in exposure.attrs}
    if "meta.visit.tsovisit" in parameters:  # attributes have 1 and 0 for T and F
        parameters["meta.visit.tsovisit"] = bool(parameters["meta.visit.tsovisit"])
    try:
        found = crds.getreferences(parameters, reftypes=list(types), observatory="jwst")
    except ImportError as error:
        raise MissingReferenceError(
            f"the crds library needs another one to choose JWST references ({error}); install stdatamodels"
        ) from error
    except (crds.CrdsError, SystemExit) as error:
        # SystemExit: the library exits the program if it can reach neither its server nor its cache
        reason = str(error) if isinstance(error, Exception) else "neither its server nor its cache can be reached"
        raise MissingReferenceError(
            f"CRDS gave no references: {reason}; check CRDS_PATH and CRDS_SERVER_URL"
        ) from error
    chosen = {}
    for kind in types:
        path = str(found.get(kind, "NOT FOUND"))
        if path.upper().startswith("NOT FOUND"):
            logger.info("no %s reference: %s", kind, path)
        else:
            chosen[kind] = path
    return chosen


def fetch_reference(name: str) -> str:
    """Return the local path of the file ``crds://NAME``. Download the file if it is not in the cache."""
    file = name.removeprefix(CRDS)
    if not re.fullmatch(r"\w[\w.-]*", file):
        raise ParameterError(f"{name} names no CRDS file, expected crds:// and the name of a file")
    crds = _library()
    try:
        return str(import_module("crds.client.api").dump_references("jwst", [file])[file])
    except (crds.CrdsError, SystemExit, KeyError) as error:
        reason = str(error) if isinstance(error, crds.CrdsError) else "it has no such file, or cannot be reached"
        raise MissingReferenceError(
            f"CRDS did not give {file}: {reason}; check CRDS_PATH and CRDS_SERVER_URL"
        ) from error


def crds_state() -> dict[str, str]:
    """Return the context and the version of CRDS, after it has chosen references."""
    crds: Any = import_module("crds")
    found = {"crds_version": str(getattr(crds, "__version__", "unknown"))}
    try:
        found["crds_context"] = str(import_module("crds.core.heavy_client").get_processing_mode("jwst")[1])
    except (
        ImportError,
        AttributeError,
        OSError,
        crds.CrdsError,
    ) as error:  # the references have been chosen
        logger.warning("the CRDS context is not known: %s", error)
    return found


def _library() -> Any:
    try:
        return import_module("crds")
    except ImportError as error:
        raise MissingReferenceError(
            f"the crds library is not installed ({install('crds')}); it needs CRDS_PATH, a folder for its files, and "
            "CRDS_SERVER_URL=https://jwst-crds.stsci.edu in the environment; or give a directory of references"
        ) from error
