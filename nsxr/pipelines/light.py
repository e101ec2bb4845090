"""Tell from references where light can fall, for exposures that are calibrated from files."""

import os
from pathlib import Path

import xarray as xr

from nsxr.references.optics import open_optics
from nsxr.references.spec2 import open_spec2_references
from nsxr.slits.lit_pixels import locate_light
from nsxr.slits.selection import metafile_beside
from nsxr.storage.urls import is_remote

__all__ = ["light_of", "metafile_of"]


def metafile_of(file: str, exposure: xr.Dataset) -> str | None:
    """Return the path of the MSA metafile beside a file, if the header of the exposure names one and it is there."""
    beside = None if is_remote(file) else metafile_beside(Path(file), exposure)
    return None if beside is None else os.fspath(beside)


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
