"""Write cut-outs of slits: FITS in the layout of the observatory's cal products, or Zarr."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from nsxr.errors import ModelError
from nsxr.formats.fits_write import create_fits
from nsxr.formats.keywords import as_product
from nsxr.formats.zarr import create_zarr
from nsxr.model.history import steps
from nsxr.optics.instrument import Optics
from nsxr.products.padding import padded_groups
from nsxr.products.slice_gwcs import slices_tree
from nsxr.products.slits_fits import create_slits
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
        One slit, a DataTree of slits as from :func:`nsxr.open_slits`, or a calibrated frame of the IFU as from
        :func:`nsxr.spec2`, with the coordinate ``slice``.
    path : path
        File to write. Its directory is made if it does not exist.
    optics : Optics, optional
        The optics of the exposure, from :func:`nsxr.open_optics`, with which the slits were cut out. FITS files then
        have a gwcs for each slit, or one for all slices, which the observatory's software needs for its next steps.
        Zarr does not have it.
    overwrite : bool, default False
        Whether an existing file may be replaced.
    progress : bool or "force", default True
        Show a bar in a notebook, or if standard error is a terminal. "force" always shows it.

    Returns
    -------
    Path
        The file that was written.

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
    slit as EXTVER. ERR is the square root of ``var_poisson + var_rnoise + var_flat``, as in the observatory's files.
    Extensions of nsxr's own are VAR_PATHLOSS, VAR_BARSHADOW, VAR_PHOTOM, VAR_BACKGROUND, WAVELENGTH_UNCORRECTED and
    SLIT_Y. ERR does not include these variances, which all exposures share or which are part of VAR_POISSON and
    VAR_RNOISE already. The table NSXR_STEPS has the history of each slit. In the primary header, a step is COMPLETE if
    any slit had it. Keywords that differ between slits are in the headers of their SCI.

    A frame of the IFU becomes an IFUImageModel: SCI ERR DQ VAR_POISSON VAR_RNOISE VAR_FLAT WAVELENGTH, REGIONS with the
    numbers of the slices, and the extensions of the factors. With ``optics``, it has one gwcs for all slices.
    :func:`nsxr.open_exposure` reads it, from FITS and from Zarr.

    In Zarr, two or more slits share one group if they have the same variables in the same units, and each kind of slits
    has a group: points and extended sources, for example. In a group, slits are padded, see
    :mod:`nsxr.products.padding`. A single slit, and the exposures of a MultiExposureModel, have groups of their own.
    ``wavelength`` is a coordinate there, with ``ra``, ``dec`` and ``slit_y`` if the slits have them.
    :func:`nsxr.open_slits` reads all of these.
    """
    final = local_path(path)

    def create(partials: Sequence[Path]) -> list[tuple[xr.DataArray, Any]]:
        if final.suffix == ".zarr":
            is_frame = isinstance(slits, xr.Dataset) and "slice" in slits.coords
            model = None if is_frame else _model([slit for _, slit in iterate_slits(slits)])
            nodes = _zarr_nodes(slits, model)
            return list(create_zarr(partials[0], {k: as_product(node, final.name, model) for k, node in nodes.items()}))
        if isinstance(slits, xr.Dataset) and "slice" in slits.coords:
            return create_fits(partials[0], slits, final.name, None if optics is None else slices_tree(slits, optics))
        each = [slit for _, slit in iterate_slits(slits)]
        return create_slits(partials[0], each, slits.attrs, final.name, _model(each), optics)

    write_whole([final], create, final.parent, final.name, overwrite, progress)
    return final


def _zarr_nodes(slits: xr.Dataset | xr.DataTree, model: str | None) -> dict[str, xr.Dataset]:
    """Return the content of each group of a Zarr store."""
    if isinstance(slits, xr.Dataset):
        return {"/": _in_store(slits)}
    if model == "MultiExposureModel" or len(list(iterate_slits(slits))) < 2:
        own = {name: _in_store(child.to_dataset()) for name, child in slits.children.items()}
        return {"/": slits.to_dataset(), **own}
    return {name: _in_store(group) for name, group in padded_groups(slits, "slits").items()}


def _in_store(slit: xr.Dataset) -> xr.Dataset:
    """Return slits with ``wavelength`` as a coordinate, so that CF readers find the wavelength of each pixel."""
    return slit.set_coords("wavelength") if "wavelength" in slit else slit


def _model(slits: Sequence[xr.Dataset]) -> str:
    """Return the data model of the file: that of the input, if it fits the slits, else that of the kind of exposure.

    The observatory has time series as one SlitModel, and slits of other exposures as a MultiSlitModel, also a single
    one.
    """
    if not slits:
        raise ModelError("there are no slits to write")
    given = str(slits[0].attrs.get("DATAMODL", ""))
    if given == "MultiExposureModel" or (len(slits) == 1 and given == "SlitModel"):
        return given
    is_cut_out = "extract_2d" in {entry["step"] for entry in steps(slits[0])} and "integration" not in slits[0].dims
    return "MultiSlitModel" if len(slits) > 1 or given == "MultiSlitModel" or is_cut_out else "SlitModel"
