"""Describe the optics of a slit as the steps of a gwcs, with the frames that the observatory's files have.

The steps that all slits share are made once. The file then holds them once, see :mod:`nsxr.formats.gwcs_write`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.linalg import solveh_banded

from nsxr.compute.blocks import compute_together
from nsxr.errors import ModelError, ParameterError
from nsxr.formats import gwcs_write as write
from nsxr.formats.gwcs_write import Node, beside, chain, identity, scale
from nsxr.model.keywords import read
from nsxr.model.types import Attributes
from nsxr.optics.instrument import Optics
from nsxr.optics.shutters import ends_of_slitlet
from nsxr.optics.slit import Slit
from nsxr.optics.slit_optics import SlitOptics
from nsxr.products.gwcs_parts import from_pixels, shared_parts, wheel_to_slit

__all__ = ["coordinates_tree", "slit_of_attributes", "slit_wcs"]


def coordinates_tree(slits: Sequence[xr.Dataset], optics: Optics, model: str) -> bytes:
    """Return the ASDF part of a product: a gwcs for each slit.

    Parameters
    ----------
    slits : sequence of Dataset
        Cut-outs with detector labels.
    optics : Optics
        The optics of their exposure.
    model : str
        Data model of the product (DATAMODL).

    Raises
    ------
    ModelError
        If slits are resampled, or are of several exposures, or the optics do not have them.
    """
    if model == "MultiExposureModel":
        raise ModelError("slits of several exposures have no common optics; write them without optics")
    entries = []
    moved = [slit["wavelength"] if slit.attrs.get("WAVECOR") and "wavelength" in slit else None for slit in slits]
    for one, wavelength in zip(slits, compute_together(*moved), strict=True):
        attrs, row, column = one.attrs, one.get("row"), one.get("column")
        if row is None or column is None:
            raise ModelError(f"slit {attrs.get('SLTNAME', '')!r} has no detector rows and columns, so it has no gwcs")
        slit = slit_of_attributes(optics, attrs)
        first_row, first_column = (int(label.to_numpy()[0]) for label in (row, column))
        affine = optics.quadrant(slit.quadrant).affine
        node = slit_wcs(
            optics.for_slit(slit),
            affine,
            first_column,
            first_row,
            (row.size, column.size),
            corrected=None if wavelength is None else wavelength.transpose("row", "column").to_numpy(),
        )
        ends = {"slit_ymin": slit.slit_y_low, "slit_ymax": slit.slit_y_high}
        place = {"quadrant": slit.quadrant}  # these have no keyword in all versions of the observatory's models
        place |= {key.lower(): int(attrs[key]) for key in ("XCEN", "YCEN") if key in attrs}
        entries.append({"meta": {"model_type": "SlitModel", "wcs": node}, **ends, **place})
    return write.asdf_text({"slits": entries} if model == "MultiSlitModel" else entries[0])


def slit_of_attributes(optics: Optics, attrs: Attributes) -> Slit:
    """Return the slit that the keywords of a cut-out describe.

    Parameters
    ----------
    optics : Optics
        The optics of the exposure. A slit of this name in ``optics.slits`` is taken as it is.
    attrs : mapping
        Keywords of the cut-out: SLTNAME; for slitlets MSAQUAD, SHUTTRID and SHUTSTA too.

    Raises
    ------
    ModelError
        If the optics do not have the slit.
    """
    name = str(attrs.get("SLTNAME", ""))
    if name in optics.slits:
        return optics.slits[name]
    quadrant, shutter, state = read(attrs, "MSAQUAD"), read(attrs, "SHUTTRID"), str(attrs.get("SHUTSTA", ""))
    try:
        if quadrant == 5 or "x" not in state:
            raise ParameterError("these are no keywords of a slitlet")
        opening = optics.shutter(quadrant, shutter)
    except ParameterError as error:
        raise ModelError(
            f"slit {name!r} is not one of these optics: found MSAQUAD {quadrant}, SHUTTRID {shutter} and SHUTSTA "
            f"{state!r}, expected keywords as from nsxr.cut_slits, and the optics of the same exposure ({error})"
        ) from error
    low, high = ends_of_slitlet(state.index("x"), len(state) - 1 - state.index("x"))
    return replace(opening, name=name, slit_y_low=low, slit_y_high=high)


def slit_wcs(
    optics: SlitOptics,
    affine: np.ndarray,
    first_column: int,
    first_row: int,
    shape: tuple[int, int],
    corrected: np.ndarray | None = None,
) -> Node:
    """Return the gwcs of a cut-out.

    Parameters
    ----------
    optics : SlitOptics
        The optics of the slit.
    affine : (2, 3) ndarray
        From the frame of the slit's quadrant to the plane of the MSA [m].
    first_column, first_row : int
        Pixel of the detector, from 0, that is the first pixel of the cut-out.
    shape : (rows, columns)
        Shape of the cut-out.
    corrected : (row, column) ndarray, optional
        Wavelengths of pixels after the correction for the place of a source [um]. The gwcs then has a step to them
        after the frame of the slit: a table of the means of columns, with the last steps going on beyond its ends, as
        the observatory's pipeline has it.
    """
    shared = shared_parts(optics.path)
    slit = optics.slit
    size = beside(scale(slit.width), scale(slit.height))
    centre = beside(write.shift(slit.x), write.shift(slit.y))
    to_plane = chain(size, centre, write.affine(affine, name=f"msa_Q{slit.quadrant}"))
    frames, box = shared.frames, write.bounding_box(shape[1], shape[0])
    whole = from_pixels(first_column, first_row, optics.path.detector, bounding_box=box)
    towards = chain(to_plane, *shared.collimator)
    steps = [
        write.step(frames["detector"], whole),
        write.step(frames["sca"], shared.to_wheel),
        write.step(frames["gwa"], wheel_to_slit(shared, optics.table, towards, towards)),
    ]
    last = "slit_frame"
    moved = None if corrected is None else _correction(optics, first_column, first_row, corrected)
    if moved is not None:
        steps.append(write.step(frames[last], beside(identity(2), write.table(*moved, goes_on=True))))
        last = "wavecorr_frame"
    if not optics.has_sky:
        to_msa = beside(to_plane, scale(1e6))
        return write.wcs([*steps, write.step(frames[last], to_msa), write.step(frames["msa_frame"], None)])
    return write.wcs([*steps, write.step(frames[last], beside(to_plane, identity(1))), *shared.to_sky])


def _correction(
    optics: SlitOptics, first_column: int, first_row: int, corrected: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a table of corrected wavelengths [m], at the mean wavelength of each column as the optics have it [m].

    The correction of the zero point is linear between these means. So its values there are those with which the table
    gives the corrected wavelengths of all pixels (least squares, because these have single precision). None if there
    are fewer than two columns, or if the correction does not increase.
    """
    row, column = np.indices(corrected.shape, dtype=np.float64)
    before = optics.forward(column + first_column, row + first_row, sky=False).wavelength
    known = np.isfinite(before) & np.isfinite(corrected)
    count = known.sum(axis=0)
    points = np.where(known, before, 0.0).sum(axis=0)[count > 0] / count[count > 0]
    if points.size < 2 or not (np.diff(points) > 0).all():
        return None
    x, y = before[known], corrected[known].astype(np.float64)
    left = np.clip(np.searchsorted(points, x) - 1, 0, points.size - 2)
    part = (x - points[left]) / (points[left + 1] - points[left])
    change, n = y - x, points.size  # small numbers lose less
    diagonal = 1e-9 + np.bincount(left, (1 - part) ** 2, n) + np.bincount(left + 1, part**2, n)
    beside_it = np.bincount(left + 1, part * (1 - part), n)
    wanted = np.bincount(left, (1 - part) * change, n) + np.bincount(left + 1, part * change, n)
    values = points + solveh_banded(np.array([beside_it, diagonal]), wanted)
    return (1e-6 * points, 1e-6 * values) if (np.diff(values) > 0).all() else None
