"""Parts of the optics as transforms of a gwcs: what slits and slices share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from nsxr.errors import ModelError
from nsxr.formats import gwcs_write as write
from nsxr.formats.gwcs_write import Node, beside, chain, identity, pick, scale
from nsxr.optics.light_path import LightPath
from nsxr.optics.parts import Distortion, Relay
from nsxr.optics.slit_optics import SPEED_OF_LIGHT

__all__ = [
    "Shared",
    "coloured",
    "frames",
    "from_pixels",
    "shared_parts",
    "wheel_to_slit",
    "with_wavelength",
]


@dataclass(frozen=True)
class Shared:
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
def shared_parts(path: LightPath) -> Shared:
    """Return what all slits of an exposure have in common."""
    disperser = path.disperser
    angles = (disperser.theta_x, disperser.theta_y, disperser.theta_z, disperser.tilt_y)
    rotation = write.rotation_to_wheel(angles, "xyzy")
    turned_back = write.rotation_to_wheel([-angle for angle in angles[::-1]], "yzyx")
    focal = chain(write.affine(path.focal_plane.affine), identity(2), inverse=write.affine(path.focal_plane.inverse))
    camera = relay(path.camera)
    to_wheel = chain(
        focal,
        camera,
        write.slopes_to_cosines(),
        rotation,
        inverse=chain(
            turned_back,
            write.cosines_to_slopes(),
            distortion(path.camera.backward),
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
    return Shared(
        frames=frames(path.has_sky),
        to_wheel=to_wheel,
        collimator=(distortion(path.collimator.backward), write.slopes_to_cosines(), rotation),
        wavelength=wavelength,
        angle=angle,
        velocity=scale(velocity, "velocity_correction"),
        back=scale(1.0 / velocity, "inv_vel_correction"),
        to_sky=_to_sky(path) if path.has_sky else (),
    )


def from_pixels(first_column: int, first_row: int, detector: str, **content: Any) -> Node:
    """Return the step from the pixels of an image to those of the detector in its own orientation."""
    pixel = beside(write.shift(first_column), write.shift(first_row))
    turned = beside(*(chain(write.shift(-2047.0), scale(-1.0)) for _ in range(2)))
    return chain(pixel, turned if detector == "NRS2" else identity(2), **content)


def wheel_to_slit(shared: Shared, table: tuple[np.ndarray, np.ndarray], towards: Node, back: Node) -> Node:
    """Return the step from directions at the wheel to the place in the slit and the wavelength [m], with its inverse.

    Intermediate coordinates: (alpha_out, y), then (alpha_in, beta_in, z, alpha_out, y).

    Parameters
    ----------
    shared : Shared
        What all slits have in common.
    table : (beta, slit_y)
        Place along the slit for beta_in, see :attr:`nsxr.optics.slit_optics.SlitOptics.table`.
    towards : Node
        From places in the slit (x, y) to directions at the wheel.
    back : Node
        The same for the inverse. If it takes three coordinates, the third one is the wavelength [m].
    """
    beta, slit_y = table
    along = beside(identity(1), chain(scale(-1.0), write.table(beta, slit_y)))
    incoming = beside(chain(beside(scale(0.0), identity(1)), towards), identity(2))
    found = beside(scale(0.0), identity(1), chain(shared.wavelength, shared.velocity))
    inside = beside(back, shared.back)
    outwards = inside if back.n == 2 else chain(pick(0, 1, 2, 2, of=3), inside)
    return chain(
        pick(0, 1, of=3),
        along,
        pick(1, 1, 0, 1, of=2),
        incoming,
        pick(3, 4, 0, 1, 3, of=5),
        found,
        inverse=chain(outwards, pick(3, 0, 1, 2, of=4), shared.angle),
    )


def distortion(part: Distortion) -> Node:
    """Return a distortion of (x, y)."""
    if not part.coefficients.shape[1]:
        return identity(2)
    if part.coefficients.shape[1] > 1:
        raise ModelError("a distortion depends on the wavelength, expected only the fore optics to do so")
    both = beside(*(write.polynomial(one) for one in part.coefficients[:, 0]))
    return chain(write.affine(part.before), pick(0, 1, 0, 1, of=2), both)


def relay(part: Relay) -> Node:
    """Return optics of (x, y), with their inverse."""
    return with_inverse(distortion(part.forward), distortion(part.backward))


def coloured(part: Distortion) -> Node:
    """Return a distortion of (x, y, wavelength) to (x, y)."""
    if not part.coefficients.shape[1]:
        return pick(0, 1, of=3)
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
    if path.fore is None or path.telescope is None or path.pointing is None:
        raise ModelError("these optics have no way to the sky")
    found = frames(True)
    steps = [write.step(found["msa_frame"], with_wavelength(path.fore))]
    last = "oteip"
    if path.correction is not None:
        steps.append(write.step(found[last], with_wavelength(path.correction)))
        last = "oteip_chromcorr"
    pointing, matrix = path.pointing, path.pointing.affine()
    stretched = beside(scale(matrix[0, 0]), scale(matrix[1, 1]))
    moved = beside(write.shift(matrix[0, 2]), write.shift(matrix[1, 2]))
    to_sky = write.sky_of_v2v3(pointing.v2, pointing.v3, pointing.roll, pointing.ra, pointing.dec)
    return (
        *steps,
        write.step(found[last], beside(relay(path.telescope), scale(1e6))),
        write.step(found["v2v3"], beside(chain(stretched, moved), identity(1))),
        write.step(found["v2v3vacorr"], beside(to_sky, identity(1))),
        write.step(found["world"], None),
    )


def with_wavelength(part: Relay) -> Node:
    """Return optics of (x, y, wavelength) with their inverse, which pass the wavelength on."""
    copy = pick(0, 1, 2, 2, of=3)
    back = coloured(part.backward)
    return chain(
        copy,
        beside(with_inverse(coloured(part.forward), back), identity(1)),
        inverse=chain(copy, beside(back, identity(1))),
    )


def with_inverse(node: Node, inverse: Node) -> Node:
    """Return a transform with an inverse."""
    return replace(node, content={**node.content, "inverse": inverse})


@lru_cache(maxsize=2)
def frames(has_sky: bool) -> Mapping[str, Node]:
    """Return the frames by name."""
    wavelength = write.wavelength_frame()
    found: dict[str, Any] = {
        "detector": write.plane_frame("detector", ("x", "y"), "pixel"),
        "sca": write.plane_frame("sca", ("x", "y"), "pixel"),
        "coordinates": write.plane_frame("coordinates", ("x", "y"), "pixel"),
        "gwa": write.plane_frame("gwa", ("alpha_in", "beta_in"), "rad"),
        "world": write.composite_frame("world", write.sky_frame(), wavelength),
    }
    planes = {
        "slit_frame": ("slit_spatial", ("x_slit", "y_slit"), ""),
        "wavecorr_frame": ("slit_spatial", ("x_slit", "y_slit"), ""),
        "msa_frame": ("msa_spatial", ("x_msa", "y_msa"), "m"),
        "oteip": ("oteip", ("X_OTEIP", "Y_OTEIP"), "deg"),
        "oteip_chromcorr": ("oteip", ("X_OTEIP", "Y_OTEIP"), "deg"),
        "slicer": ("slicer_spatial", ("x_slicer", "y_slicer"), ""),
        "v2v3": ("v2v3_spatial", ("v2", "v3"), "arcsec"),
        "v2v3vacorr": ("v2v3vacorr_spatial", ("v2", "v3"), "arcsec"),
    }
    for name, plane in planes.items():
        found[name] = write.composite_frame(name, write.plane_frame(*plane), wavelength)
    return found
