"""Open the filters of side reference pixels, which come in ASDF files."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nsxr.errors import MissingReferenceError, ReferenceFileError
from nsxr.io.fingerprint import describe_file

__all__ = ["open_sirs_kernel"]


def open_sirs_kernel(path: str | os.PathLike[str], detector: str) -> xr.Dataset:
    """Open a reference of type SIRSKERNEL, the filters for ``refpix_algorithm="sirs"``.

    Parameters
    ----------
    path : path
        ASDF file with ``gamma`` and ``zeta`` under the name of each detector, in lower case.
    detector : str
        NRS1 or NRS2.

    Returns
    -------
    Dataset
        ``gamma`` and ``zeta`` (output, frequency) complex128, in memory: Fourier coefficients of the filters from
        the left and the right side reference pixels to the outputs 1 to 4.

    Raises
    ------
    MissingReferenceError
        If the asdf library is not installed.
    ReferenceFileError
        If the file has no filters for this detector, or they are not for four outputs.

    References
    ----------
    Rauscher et al. 2022, "Simple Improved Reference Subtraction".
    """
    try:
        asdf: Any = import_module("asdf")
    except ImportError as error:
        raise MissingReferenceError(f"{path}: the asdf library is needed to read it; install it by 'asdf'") from error
    name = detector.lower()
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        filters = file.tree.get(name)
        if filters is None or not {"gamma", "zeta"} <= set(filters):
            listed = ", ".join(sorted(str(key) for key in file.tree if key not in ("asdf_library", "history", "meta")))
            raise ReferenceFileError(f"{path}: no gamma and zeta under {name!r}; the file has {listed or 'nothing'}")
        arrays = {kind: np.array(filters[kind], dtype=np.complex128) for kind in ("gamma", "zeta")}
    shapes = {kind: array.shape for kind, array in arrays.items()}
    if shapes["gamma"] != shapes["zeta"] or len(shapes["gamma"]) != 2 or shapes["gamma"][0] != 4:
        raise ReferenceFileError(f"{path}: shapes of {name} are {shapes}, expected (4, frequencies) twice")
    attributes = {"reference_type": "sirskernel", "filename": Path(path).name, "detector": detector.upper()}
    attributes |= {key: value for key, value in describe_file(os.fspath(path)).items() if key != "file"}
    return xr.Dataset({kind: (("output", "frequency"), array) for kind, array in arrays.items()}, attrs=attributes)
