"""Tell from the optics which pixels light can fall on, so that the others show the noise alone."""

import os
from collections.abc import Iterator

import numpy as np
import xarray as xr

from nsxr.errors import ModelError, ParameterError
from nsxr.model.readout import IRS2_ROWS
from nsxr.optics.fixed_slits import slits_of_table
from nsxr.optics.footprints import lit_by
from nsxr.optics.instrument import Optics, SlitOptics
from nsxr.optics.shutters import FIXED_SLIT_IDS
from nsxr.slits.selection import require_matching, slits_of, window_of
from nsxr.slits.stuck_shutters import stuck_optics

__all__ = ["locate_light"]

_STRIP = (922, 1116)
"""Rows of the fixed slits, from the first one to the one after the last, as in the jwst package."""


def locate_light(
    exposure: xr.Dataset,
    optics: Optics,
    *,
    shutters: str | os.PathLike[str] | None = None,
    msaoper: xr.Dataset | None = None,
    margin: int = 2,
) -> xr.DataArray:
    """Tell which pixels light can fall on: through slits, open shutters, slices, and shutters that never close.

    All wavelengths count that pass the filter and that the detectors see, also those beyond the nominal range, and the
    zeroth order. Fixed slits are always open, so their light is there in exposures of shutters and of the IFU too.

    Parameters
    ----------
    exposure : Dataset
        Ramps or count rates from :func:`nsxr.open_exposure`. Only the header and the labels are used.
    optics : Optics
        From :func:`nsxr.open_optics`.
    shutters : path, optional
        The MSA metafile (``..._msa.fits``), for exposures of shutters.
    msaoper : Dataset, optional
        Shutters that never close, from :func:`nsxr.open_operability`, in memory.
    margin : int
        Pixels added on each side across the dispersion, for the image of the edges of slits.

    Returns
    -------
    DataArray
        ``light`` (row, column) bool with labels of the detector, in memory. True where light can fall. Not in it: light
        of sources in closed shutters, wings of very bright sources, and persistence. :func:`nsxr.clean_flicker_noise`
        takes it as ``light``, and finds the rest from the exposure.

    Raises
    ------
    ModelError
        If the exposure has neither slits nor slices, the optics are of another exposure, or labels are missing.
    InputFileError
        If a metafile is missing, cannot be read, or is of another exposure.
    ParameterError
        If the margin is negative.

    Notes
    -----
    For the IFU without an ``msa`` reference, rows 922 to 1115 count as those of the fixed slits, as in the
    observatory's pipeline.

    Examples
    --------
    >>> light = nsxr.locate_light(rates, optics, shutters="..._msa.fits")  # doctest: +SKIP
    >>> rates = nsxr.clean_flicker_noise(rates, light=light)  # doctest: +SKIP
    """
    if margin < 0:
        raise ParameterError(f"margin is {margin}, expected 0 or more pixels")
    require_matching(exposure, optics)
    rows, columns = _pixels(exposure)
    lit = np.zeros((rows.size, columns.size), bool)
    for rays in _openings(exposure, optics, shutters):
        lit |= lit_by(rays, rows, columns, margin)
    for rays in [] if msaoper is None else stuck_optics(msaoper, optics):
        lit |= lit_by(rays, rows, columns, margin)
    if optics.is_ifu and not optics.quadrants:
        lit |= ((rows >= _STRIP[0]) & (rows < _STRIP[1]))[:, np.newaxis]
    labels = {"row": rows, "column": columns}
    return xr.DataArray(lit, labels, ("row", "column"), "light", {"long_name": "pixels that light can fall on"})


def _pixels(exposure: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the detector; raw IRS2 frames have rows of reference pixels between them."""
    if "science_row" in exposure.coords and exposure.sizes["row"] == IRS2_ROWS:
        return np.arange(2048), np.asarray(exposure.indexes["column"])
    window = window_of(exposure)
    return np.arange(window.first_row, window.end_row), np.arange(window.first_column, window.end_column)


def _openings(exposure: xr.Dataset, optics: Optics, shutters: str | os.PathLike[str] | None) -> Iterator[SlitOptics]:
    """Yield the optics of all openings that are meant to be open, and of all fixed slits."""
    if optics.is_ifu:
        if shutters is not None:
            raise ModelError("an exposure of the IFU needs no MSA metafile; leave out shutters")
        yield from (optics.for_slit(name) for name in optics.slits)
        for fixed in (quadrant for quadrant in optics.quadrants if quadrant.number == 5):
            for slit in slits_of_table(FIXED_SLIT_IDS, fixed, optics.wavelength_range, optics.order).values():
                affine = fixed.to_plane(slit.x, slit.y, slit.width, slit.height)
                yield SlitOptics(optics.path, slit, affine)
        return
    yield from (optics.for_slit(slit) for slit in slits_of(exposure, optics, shutters))
    yield from (optics.for_slit(name) for name in optics.slits)
