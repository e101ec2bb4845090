"""Describe the optics of the slices of the IFU as a gwcs, with the frames that the observatory's files have.

As in version 3 of the observatory's pipeline, the map of slices chooses the transform of a pixel. All slices are one
image, and the gwcs takes its pixels.
"""

import numpy as np
import xarray as xr
from scipy.ndimage import find_objects

from nsxr.errors import ModelError
from nsxr.formats import gwcs_write as write
from nsxr.formats.gwcs_write import Node, beside, chain, identity, pick, scale
from nsxr.optics.instrument import Optics
from nsxr.optics.slit_optics import SlitOptics
from nsxr.products.gwcs_parts import Shared, coloured, from_pixels, shared_parts, wheel_to_slit, with_wavelength

__all__ = ["slices_tree", "slices_wcs"]

_NOWHERE = (slice(0, 1), slice(0, 1))


def slices_tree(frame: xr.Dataset, optics: Optics) -> bytes:
    """Return the ASDF part of a calibrated frame of the IFU: one gwcs for all slices.

    Parameters
    ----------
    frame : Dataset
        With the coordinates ``slice`` (row, column), which is computed here, and the labels of the detector.
    optics : Optics
        The optics of the exposure.

    Raises
    ------
    ModelError
        If the optics have no slices.
    """
    labels = frame["slice"].transpose("row", "column").to_numpy().astype(np.uint8)
    start = (int(frame["column"].to_numpy()[0]), int(frame["row"].to_numpy()[0]))
    return write.asdf_text({"meta": {"model_type": "IFUImageModel", "wcs": slices_wcs(optics, labels, start)}})


def slices_wcs(optics: Optics, labels: np.ndarray, start: tuple[int, int] = (0, 0)) -> Node:
    """Return the gwcs of an image of all slices.

    Parameters
    ----------
    optics : Optics
        The optics of the exposure.
    labels : (row, column) ndarray of uint8
        Number of the slice that each pixel sees, from 1; 0 for none.
    start : (column, row)
        Pixel of the detector, from 0, that is the first pixel of the image.

    Raises
    ------
    ModelError
        If the optics have no slices.
    """
    if optics.slicer is None or optics.slice_fore is None:
        raise ModelError("these optics have no slices, expected the optics of an exposure of the IFU")
    shared = shared_parts(optics.path)
    pixels = from_pixels(*start, optics.path.detector)
    places = find_objects(labels, max_label=len(optics.slits))
    slicer = write.affine(optics.slicer.affine)
    transforms, back = {}, {}
    for number, (name, place) in enumerate(zip(optics.slits, places, strict=True), start=1):
        rows, columns = place or _NOWHERE
        box = write.limits((columns.start, columns.stop), (rows.start, rows.stop))
        rays = optics.for_slit(name)
        parts = (
            pixels,
            shared.to_wheel,
            _to_slice(rays, shared, slicer),
            beside(_in_slicer(rays, slicer), identity(1)),
        )
        transforms[number] = chain(*parts, bounding_box=box)
        back[round(float(rays.affine[0, 2]), 5)] = number
    found, shape = shared.frames, labels.shape
    steps = [
        write.step(
            found["coordinates"], chain(identity(2), identity(2), bounding_box=write.bounding_box(*shape[::-1]))
        ),
        write.step(found["detector"], write.selector(labels, transforms, back)),
    ]
    if not optics.has_sky:
        to_msa = chain(with_wavelength(optics.slice_fore), beside(identity(2), scale(1e6)))
        return write.wcs([*steps, write.step(found["slicer"], to_msa), write.step(found["msa_frame"], None)])
    return write.wcs([*steps, write.step(found["slicer"], with_wavelength(optics.slice_fore)), *shared.to_sky])


def _in_slicer(rays: SlitOptics, slicer: Node) -> Node:
    """Return the way from a slice [open units] to the plane of the slicer [m]."""
    slit = rays.slit
    size, centre = beside(scale(slit.width), scale(slit.height)), beside(write.shift(slit.x), write.shift(slit.y))
    return chain(size, centre, slicer)


def _to_slice(rays: SlitOptics, shared: Shared, slicer: Node) -> Node:
    """Return the way from the wheel to a slice. Towards it, the slicer's optics are those at the middle wavelength."""
    assert rays.slice_post is not None  # slices have it
    own, post = _in_slicer(rays, slicer), coloured(rays.slice_post)
    middle = chain(pick(0, 1, 0, of=2), beside(identity(2), write.constant(1e-6 * rays.middle)))
    towards = chain(own, middle, post, *shared.collimator)
    back = chain(beside(own, identity(1)), post, *shared.collimator)
    return wheel_to_slit(shared, rays.table, towards, back)
