"""Describe the optics of a slit as the steps of a gwcs, with the frames that the observatory's files have.

The steps that all slits share are made once. The file then holds them once, see :mod:`nsxr.formats.gwcs_write`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from scipy.linalg import solveh_banded

from nsxr.compute.blocks import compute_together
from nsxr.errors import ModelError, ParameterError
from nsxr.formats import gwcs_write as write
from nsxr.formats.gwcs_write import Node, beside, chain, identity, pick, scale
from nsxr.model.keywords import read
from nsxr.model.types import Attributes
from nsxr.optics.instrument import Optics
from nsxr.optics.light_path import LightPath
from nsxr.optics.parts import Distortion, Relay
from nsxr.optics.shutters import ends_of_slitlet
from nsxr.optics.slit import Slit
from nsxr.optics.slit_optics import SPEED_OF_LIGHT, SlitOptics

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
    shared = _shared(optics.path)
    slit = optics.slit
    size = beside(scale(slit.width), scale(slit.height))
    centre = beside(write.shift(slit.x), write.shift(slit.y))
    to_plane = chain(size, centre, write.affine(affine, name=f"msa_Q{slit.quadrant}"))
    frames, box = shared.frames, write.bounding_box(shape[1], shape[0])
    pixel = beside(write.shift(first_column), write.shift(first_row))
    turned = beside(*(chain(write.shift(-2047.0), scale(-1.0)) for _ in range(2)))
    whole = chain(pixel, turned if optics.path.detector == "NRS2" else identity(2), bounding_box=box)
    steps = [
        write.step(frames["detector"], whole),
        write.step(frames["sca"], shared.to_wheel),
        write.step(frames["gwa"], _wheel_to_slit(optics, shared, to_plane)),
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


@dataclass(frozen=True)
class _Shared:
    """What all slits of an exposure have in common."""

    frames: Mapping[str, Node]
    to_wheel: Node
    collimator: tuple[Node, ...]
    wavelength: Node
    angle: Node
    velocity: Node
    back: Node
    to_sky: tuple[Node, ...]


@lru_cache(maxsize=4)
def _shared(path: LightPath) -> _Shared:
    disperser = path.disperser
    angles = (disperser.theta_x, disperser.theta_y, disperser.theta_z, disperser.tilt_y)
    rotation = write.rotation_to_wheel(angles, "xyzy")
    turned_back = write.rotation_to_wheel([-angle for angle in angles[::-1]], "yzyx")
    focal = chain(write.affine(path.focal_plane.affine), identity(2), inverse=write.affine(path.focal_plane.inverse))
    camera = _relay(path.camera)
    to_wheel = chain(
        focal,
        camera,
        write.slopes_to_cosines(),
        rotation,
        inverse=chain(
            turned_back,
            write.cosines_to_slopes(),
            _distortion(path.camera.backward),
            write.affine(path.focal_plane.inverse),
        ),
    )
    velocity = 1.0 / (1.0 + path.velocity / SPEED_OF_LIGHT)
    if disperser.is_prism:
        numbers = disperser.numbers
        lookup = write.table(numbers.indices, numbers.wavelengths)
        wavelength = chain(write.index_of_prism(disperser.prism_angle), lookup)
        angle = write.way_through_prism(disperser.prism_angle, disperser.glass_k, disperser.glass_l)
    else:
        wavelength = write.grating(disperser.groove_density, disperser.order, "wavelength")
        angle = write.grating(disperser.groove_density, disperser.order, "angle")
    return _Shared(
        frames=_frames(path.has_sky),
        to_wheel=to_wheel,
        collimator=(_distortion(path.collimator.backward), write.slopes_to_cosines(), rotation),
        wavelength=wavelength,
        angle=angle,
        velocity=scale(velocity, "velocity_correction"),
        back=scale(1.0 / velocity, "inv_vel_correction"),
        to_sky=_to_sky(path) if path.has_sky else (),
    )


def _wheel_to_slit(optics: SlitOptics, shared: _Shared, to_plane: Node) -> Node:
    """Return the step from directions at the wheel to the place in the slit and the wavelength [m], with its inverse.

    Intermediate coordinates: (alpha_out, y), then (alpha_in, beta_in, z, alpha_out, y).
    """
    towards = chain(to_plane, *shared.collimator)
    beta, slit_y = optics.table
    along = beside(identity(1), chain(scale(-1.0), write.table(beta, slit_y)))
    incoming = beside(chain(beside(scale(0.0), identity(1)), towards), identity(2))
    found = beside(scale(0.0), identity(1), chain(shared.wavelength, shared.velocity))
    back = chain(beside(towards, shared.back), pick(3, 0, 1, 2, of=4), shared.angle)
    return chain(
        pick(0, 1, of=3),
        along,
        pick(1, 1, 0, 1, of=2),
        incoming,
        pick(3, 4, 0, 1, 3, of=5),
        found,
        inverse=back,
    )


def _distortion(part: Distortion) -> Node:
    """Return a distortion of (x, y)."""
    if not part.coefficients.shape[1]:
        return identity(2)
    if part.coefficients.shape[1] > 1:
        raise ModelError("a distortion depends on the wavelength, expected only the fore optics to do so")
    both = beside(*(write.polynomial(one) for one in part.coefficients[:, 0]))
    return chain(write.affine(part.before), pick(0, 1, 0, 1, of=2), both)


def _relay(relay: Relay) -> Node:
    forward = _distortion(relay.forward)
    return replace(forward, content={**forward.content, "inverse": _distortion(relay.backward)})


def _coloured(part: Distortion) -> Node:
    """Return a distortion of (x, y, wavelength) to (x, y)."""
    axes = []
    for one in part.coefficients:
        node = chain(pick(0, 1, of=3), write.polynomial(one[0]))
        if one.shape[0] > 1:
            slope = chain(pick(0, 1, of=3), write.polynomial(one[1]))
            by_wavelength = write.combined("multiply", slope, chain(pick(2, of=3), identity(1)))
            node = write.combined("add", node, by_wavelength)
        axes.append(node)
    before = beside(write.affine(part.before), identity(1))
    return chain(before, pick(0, 1, 2, 0, 1, 2, of=3), beside(*axes))


def _to_sky(path: LightPath) -> tuple[Node, ...]:
    """Return the steps from the plane of the MSA to the sky, which all slits share."""
    fore, telescope, pointing = path.fore, path.telescope, path.pointing
    if fore is None or telescope is None or pointing is None or path.correction is not None:
        raise ModelError("the way to the sky is not that of slits; slices of the IFU have no gwcs yet")
    frames = _frames(True)
    copy = pick(0, 1, 2, 2, of=3)
    to_oteip = chain(
        copy,
        beside(_with_inverse(_coloured(fore.forward), _coloured(fore.backward)), identity(1)),
        inverse=chain(copy, beside(_coloured(fore.backward), identity(1))),
    )
    to_v2v3 = beside(_relay(telescope), scale(1e6))
    matrix = pointing.affine()
    stretched = beside(scale(matrix[0, 0]), scale(matrix[1, 1]))
    moved = beside(write.shift(matrix[0, 2]), write.shift(matrix[1, 2]))
    to_sky = write.sky_of_v2v3(pointing.v2, pointing.v3, pointing.roll, pointing.ra, pointing.dec)
    return (
        write.step(frames["msa_frame"], to_oteip),
        write.step(frames["oteip"], to_v2v3),
        write.step(frames["v2v3"], beside(chain(stretched, moved), identity(1))),
        write.step(frames["v2v3vacorr"], beside(to_sky, identity(1))),
        write.step(frames["world"], None),
    )


def _with_inverse(node: Node, inverse: Node) -> Node:
    return replace(node, content={**node.content, "inverse": inverse})


@lru_cache(maxsize=2)
def _frames(has_sky: bool) -> Mapping[str, Node]:
    """Return the frames by name."""
    wavelength = write.wavelength_frame()
    found: dict[str, Any] = {
        "detector": write.plane_frame("detector", ("x", "y"), "pixel"),
        "sca": write.plane_frame("sca", ("x", "y"), "pixel"),
        "gwa": write.plane_frame("gwa", ("alpha_in", "beta_in"), "rad"),
        "world": write.composite_frame("world", write.sky_frame(), wavelength),
    }
    planes = {
        "slit_frame": ("slit_spatial", ("x_slit", "y_slit"), ""),
        "wavecorr_frame": ("slit_spatial", ("x_slit", "y_slit"), ""),
        "msa_frame": ("msa_spatial", ("x_msa", "y_msa"), "m"),
        "oteip": ("oteip", ("X_OTEIP", "Y_OTEIP"), "deg"),
        "v2v3": ("v2v3_spatial", ("v2", "v3"), "arcsec"),
        "v2v3vacorr": ("v2v3vacorr_spatial", ("v2", "v3"), "arcsec"),
    }
    for name, plane in planes.items():
        found[name] = write.composite_frame(name, write.plane_frame(*plane), wavelength)
    return found
