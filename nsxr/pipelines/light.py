"""Tell from references where light can fall, for exposures that are calibrated from files."""

import logging
import os
import warnings
from pathlib import Path

import xarray as xr

from nsxr.errors import DegradedResultWarning, MissingReferenceError, NsxrError
from nsxr.model.keywords import about
from nsxr.model.optics_header import OpticsHeader
from nsxr.references.optics import open_optics
from nsxr.references.spec2 import open_spec2_references
from nsxr.slits.lit_pixels import locate_light
from nsxr.slits.selection import metafile_beside
from nsxr.storage.urls import is_remote

__all__ = ["light_if_known", "light_of", "metafile_of"]

logger = logging.getLogger(__name__)

_MODES = ("NRS_MSASPEC", "NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_IFU")


def metafile_of(file: str, exposure: xr.Dataset, folder: str | None = None) -> str | None:
    """Return the path of the MSA metafile that the header of the exposure names, or None if it is not there.

    It is looked for beside a file, then in a folder.
    """
    places = [file] if folder is None else [file, os.path.join(folder, "any")]
    found = (metafile_beside(Path(place), exposure) for place in places if not is_remote(place))
    return next((os.fspath(path) for path in found if path is not None), None)


def light_of(exposure: xr.Dataset, optics: str, shutters: str | None) -> xr.DataArray:
    """Return the pixels of an exposure on which light can fall, see :func:`nsxr.locate_light`.

    Parameters
    ----------
    exposure : Dataset
        Raw ramps or count rates.
    optics : str
        Directory of the references of the optics, or ``"crds"``. The list of shutters that never close (msaoper) is
        used if it is there.
    shutters : str or None
        The MSA metafile, for exposures of shutters.
    """
    found = open_optics(optics, exposure)
    operability = open_spec2_references(optics, exposure, types=("msaoper",))
    return locate_light(exposure, found, shutters=shutters, msaoper=operability.get("msaoper"))


def light_if_known(exposure: xr.Dataset, folder: str, shutters: str | None) -> xr.DataArray | None:
    """Return the pixels on which light can fall, if a folder of references has the optics of the exposure.

    Parameters
    ----------
    exposure, shutters
        As in :func:`light_of`.
    folder : str
        A local folder.

    Returns
    -------
    DataArray or None
        None for exposures of other modes than slits, shutters and the IFU, if references of the optics or the MSA
        metafile are not there, or if they cannot be used.

    Warns
    -----
    DegradedResultWarning
        If the references or the metafile are there and cannot be used.
    """
    header = OpticsHeader.from_attributes(exposure.attrs)
    if header.exposure_type not in _MODES or header.grating == "MIRROR":
        return None
    alone = "the cleaning of 1/f noise finds light from the exposure alone"
    try:
        if header.exposure_type == "NRS_MSASPEC" and shutters is None:
            raise MissingReferenceError("the MSA metafile is neither beside the exposure nor with the references")
        return light_of(exposure, folder, shutters)
    except MissingReferenceError as error:
        logger.info("%s, so %s", error, alone)
    except (NsxrError, OSError, ValueError) as error:
        text = f"optics in {folder} cannot be used, so {alone}: {error}"
        warnings.warn(about(exposure.attrs, text), DegradedResultWarning, stacklevel=2)
    return None
