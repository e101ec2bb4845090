"""Open the filters of side reference pixels (type SIRSKERNEL), which are ASDF files."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.formats.asdf_trees import require_plain_tree
from nsxr.formats.fingerprint import describe_file
from nsxr.formats.zarr_metadata import first_line

__all__ = ["open_sirs_kernel"]

_MOST = 1e3  # largest possible coefficient; real coefficients are below 10


def open_sirs_kernel(path: str | os.PathLike[str], detector: str) -> xr.Dataset:
    """Open a reference of type SIRSKERNEL, which has the filters for ``refpix_algorithm="sirs"``.

    Parameters
    ----------
    path : path
        ASDF file with ``gamma`` and ``zeta`` under the name of each detector, in lower case.
    detector : str
        NRS1 or NRS2.

    Returns
    -------
    Dataset
        ``gamma`` and ``zeta`` (output, frequency) complex128, in memory: Fourier coefficients of the filters from the
        left and the right side reference pixels to the amplifiers 1 to 4 along ``output``.

    Raises
    ------
    ReferenceFileError
        If the file does not exist, is damaged, or refers to other files; or if it has no filters for this detector, or
        filters that are not finite numbers for four amplifiers.

    References
    ----------
    Rauscher et al. 2022, "Simple Improved Reference Subtraction".
    """
    asdf: Any = import_module("asdf")
    name = detector.lower()
    require_plain_tree(path)
    try:
        with asdf.open(path, memmap=False, lazy_load=False, validate_checksums=True) as file:
            tree = dict(file.tree)
            filters = tree.get(name)
            filters = dict(filters) if isinstance(filters, Mapping) else {}
            arrays = {k: np.array(filters[k], np.complex128) for k in ("gamma", "zeta") if filters.get(k) is not None}
    except Exception as error:  # a damaged file may raise any error of asdf, yaml or NumPy
        raise ReferenceFileError(f"{path}: no ASDF file that can be read ({first_line(error)})") from error
    if len(arrays) < 2:
        listed = ", ".join(sorted(str(key) for key in tree if key not in ("asdf_library", "history", "meta")))
        raise ReferenceFileError(f"{path}: no gamma and zeta under {name!r}; the file has {listed or 'nothing'}")
    shapes = {kind: array.shape for kind, array in arrays.items()}
    if shapes["gamma"] != shapes["zeta"] or len(shapes["gamma"]) != 2 or shapes["gamma"][0] != 4:
        raise ReferenceFileError(f"{path}: shapes of {name} are {shapes}, expected (4, frequencies) twice")
    if not shapes["gamma"][1]:
        raise ReferenceFileError(f"{path}: gamma and zeta of {name} are empty")
    strange = sum(int((~(np.abs(array) <= _MOST)).sum()) for array in arrays.values())
    if strange:
        raise ReferenceFileError(
            f"{path}: {strange} coefficients of {name} are not finite or above {_MOST:g}, expected filters of about 1"
        )
    attributes = {"reference_type": "sirskernel", "filename": Path(path).name, "detector": detector.upper()}
    attributes |= {key: value for key, value in describe_file(os.fspath(path)).items() if key != "file"}
    return xr.Dataset({kind: (("output", "frequency"), array) for kind, array in arrays.items()}, attrs=attributes)
