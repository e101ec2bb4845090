"""Wavelengths from the gwcs in the ASDF extension of a product, for files without WAVELENGTH. Computed when used."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from nsxr.errors import InputFileError
from nsxr.formats.gwcs_read import read_gwcs
from nsxr.formats.pixels import PixelSource
from nsxr.formats.zarr_metadata import first_line
from nsxr.storage.urls import shown

__all__ = ["WcsArray", "WcsWavelength"]


@dataclass(frozen=True)
class WcsWavelength:
    """Place of the coordinates of a slit in a file. The object is small, can be pickled, and has no open file.

    Attributes
    ----------
    tree : PixelSource
        The bytes of the ASDF extension, from :func:`nsxr.formats.gwcs_read.wcs_bytes`.
    version : int
        EXTVER of the slit.
    shape : (rows, columns)
        Shape of the slit.
    """

    tree: PixelSource
    version: int
    shape: tuple[int, ...]

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the wavelengths [um] of the pixels that integers and slices select.

        Raises
        ------
        InputFileError
            If the tree is damaged, refers to something outside of the file, or has no wavelengths.
        """
        try:
            row, column = np.mgrid[: self.shape[0], : self.shape[1]]
            wavelength = read_gwcs(self.tree, self.version).wavelength(column[key], row[key])
        except InputFileError:
            raise
        except Exception as error:  # a damaged tree may raise any error when it is parsed
            raise InputFileError(
                f"{shown(self.tree.path)}: WAVELENGTH is missing, and the gwcs of slit {self.version} cannot be "
                f"evaluated ({first_line(error)}); drop it with drop_vars('wavelength')"
            ) from error
        return np.asarray(wavelength, dtype=np.float32)


class WcsArray(BackendArray):
    """Array that xarray indexes lazily, see :class:`WcsWavelength`."""

    def __init__(self, source: WcsWavelength) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.source.read)

    def __dask_tokenize__(self) -> WcsWavelength:
        return self.source
