"""Read the optics of an exposure from the gwcs in one of its products.

The observatory's files of slits hold the whole path of light of each slit: the same coefficients as the references of
the optics, after the tilt of the grating wheel was applied. They are found by what the transforms do, not by how the
file spells them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nsxr.errors import InputFileError, ReferenceFileError
from nsxr.formats.asdf_transforms import (
    Combination,
    Compose,
    Concatenate,
    Constant,
    FixInputs,
    Identity,
    OtherTransform,
    RemapAxes,
    Scale,
    Shift,
    Tabular,
    Transform,
    count_inputs,
)
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.gwcs_read import GwcsSteps, read_gwcs, read_quadrant, wcs_bytes
from nsxr.formats.zarr_metadata import first_line
from nsxr.model.keywords import read
from nsxr.model.names import plain_name
from nsxr.model.types import Attributes
from nsxr.optics.instrument import LightPath, Optics
from nsxr.optics.parts import Disperser, Distortion, FocalPlane, Quadrant, Relay
from nsxr.optics.pointing import Pointing
from nsxr.optics.slit import Slit
from nsxr.optics.slit_optics import SPEED_OF_LIGHT
from nsxr.references.optics_parts import affine_of, distortion_of, inverse_of, relay_of
from nsxr.storage.options import StorageOptions

__all__ = ["EmbeddedSlit", "optics_of_gwcs", "optics_of_product"]

_WITHIN = 1e-9  # open heights, um, degree: largest difference of coordinates from those of the gwcs
_LARGEST_WARMING = 20.0  # K, of the prism above the temperature at which its glass was measured


@dataclass(frozen=True)
class EmbeddedSlit:
    """What the gwcs of one slit says.

    Attributes
    ----------
    path : LightPath
        The optics that all slits of the exposure share.
    slit : Slit
        The slit.
    quadrant : Quadrant
        The frame of the slit in the plane of the MSA. It has no shutters.
    first_row, first_column : int
        The pixel of the detector, from 0, that is the first pixel of the cut-out.
    """

    path: LightPath
    slit: Slit
    quadrant: Quadrant
    first_row: int
    first_column: int


def optics_of_product(path: str | os.PathLike[str]) -> Optics:
    """Read the optics from a product with cut-outs of slits.

    Parameters
    ----------
    path : path
        ``_cal`` file or any other file of slits that are not resampled, with a gwcs.

    Returns
    -------
    Optics
        ``slits`` has the slits of the product under their names (SLTNAME). Wavelengths are those before a correction
        for the place of the source in its slit. The other slits of the exposure are not known.

    Raises
    ------
    InputFileError
        If the file has no gwcs, has slits of several exposures, or its gwcs is none of slits on the detector.
    """
    name = os.fspath(path)
    file = scan(name, (), StorageOptions(None))
    tree = wcs_bytes(file)
    versions = sorted(version for extension, version in file.versions if extension == "SCI")
    if tree is None or not versions:
        raise InputFileError(f"{name}: has no gwcs of slits; give a folder of references of the optics")
    primary = keywords(file.primary)
    if str(primary.get("EXP_TYPE", "")).strip() == "NRS_IFU":
        raise InputFileError(f"{name}: is of the IFU, expected slits; give a folder of references of the optics")
    if str(primary.get("DATAMODL", "")).strip() == "MultiExposureModel":
        raise InputFileError(f"{name}: has slits of several exposures, expected one exposure")
    found: dict[str, EmbeddedSlit] = {}
    for version in versions:
        attrs = {**primary, **keywords(file.versions["SCI", version].header)}
        try:
            steps = read_gwcs(tree, version)
            one = optics_of_gwcs(steps, {"MSAQUAD": read_quadrant(tree, version), **attrs})
            _require_same(one, steps, file.versions["SCI", version].shape[-2:])
        except InputFileError:
            raise
        except Exception as error:  # a damaged tree may raise any error when it is parsed
            raise InputFileError(
                f"{name}: no optics can be read from the gwcs of slit {version} "
                f"({first_line(error)}); give a folder of references of the optics"
            ) from error
        key = one.slit.name if one.slit.name not in found else f"{one.slit.name}-{version}"
        found[key] = one
    each = list(found.values())
    quadrants = {one.quadrant.number: one.quadrant for one in each}
    differing = [key for key, one in found.items() if quadrants[one.quadrant.number] != one.quadrant]
    if differing or any(one.path != each[0].path for one in each):
        raise InputFileError(f"{name}: its slits have different optics, expected slits of one exposure")
    slits = {key: one.slit for key, one in found.items()}
    frames = tuple(quadrants[number] for number in sorted(quadrants))
    return Optics(each[0].path, slits, frames, references=(("gwcs", os.path.basename(name)),))


def _require_same(one: EmbeddedSlit, steps: GwcsSteps, shape: Sequence[int]) -> None:
    """Raise ReferenceFileError if optics and gwcs differ at some pixels: the gwcs then has parts that are not known."""
    row, column = (grid.astype(np.float64) for grid in np.mgrid[0 : shape[0] : 7j, 0 : shape[1] : 5j])
    optics = Optics(one.path, {}, (one.quadrant,)).for_slit(one.slit)
    found = optics.forward(column + one.first_column, row + one.first_row, sky=False)
    _, slit_y, metres, *_ = steps.evaluate(column, row, "slit_frame")
    pairs = [(found.slit_y, slit_y), (found.wavelength, metres * 1e6)]
    if optics.has_sky:
        ra, dec, corrected, *_ = steps.evaluate(column, row)
        pairs += zip(optics.slit_to_sky(0, slit_y, corrected), (ra, dec), strict=True)
    for ours, theirs in pairs:
        difference = np.where(np.isnan(ours) & np.isnan(theirs), 0.0, np.abs(ours - theirs))
        worst = float(np.nan_to_num(difference, nan=np.inf).max())
        if worst > _WITHIN:
            raise ReferenceFileError(f"it has parts that these optics do not have: coordinates differ by {worst:.2g}")


def optics_of_gwcs(steps: GwcsSteps, attrs: Attributes) -> EmbeddedSlit:
    """Return the optics that the gwcs of a slit holds.

    Parameters
    ----------
    steps : GwcsSteps
        From :func:`nsxr.formats.gwcs_read.read_gwcs`.
    attrs : mapping
        Keywords of the product and of the slit.

    Raises
    ------
    ReferenceFileError
        If a frame is missing, or a part of the light path is not found.
    """
    detector = str(attrs.get("DETECTOR", "")).strip()
    turned = affine_of(_step(steps, "detector", "sca"))
    sign, shift = float(turned[0, 0]), turned[:, 2]
    if abs(sign) != 1 or not np.array_equal(turned[:, :2], sign * np.eye(2)) or (sign < 0) != (detector == "NRS2"):
        raise ReferenceFileError(f"the pixels of {detector or 'an unknown detector'} are turned in another way")
    first_column, first_row = shift if sign > 0 else 2047 + sign * shift  # own frame of NRS2: 2047 - pixel
    camera_side = _chain(_step(steps, "sca", "gwa"))
    focal, camera = _focal_plane_and_camera(camera_side, detector)
    to_slit = _step(steps, "gwa", "slit_frame")
    disperser = _disperser(camera_side, to_slit, str(attrs.get("GRATING", "")).strip())
    plane, slit, quadrant = _slit_and_quadrant(steps, to_slit, attrs, disperser.order)
    fore, telescope, pointing = _sky(steps)
    light_path = LightPath(
        detector=detector,
        filter=str(attrs.get("FILTER", "")).strip(),
        grating=disperser.name,
        exposure_type=str(attrs.get("EXP_TYPE", "")).strip(),
        wavelength_range=slit.wavelength_range,
        order=disperser.order,
        focal_plane=focal,
        camera=camera,
        collimator=Relay(Distortion.nothing(), _collimator(to_slit, plane)),  # only the way to the wheel is in the file
        disperser=disperser,
        fore=fore,
        telescope=telescope,
        pointing=pointing,
        velocity=_velocity(to_slit),
    )
    return EmbeddedSlit(light_path, slit, quadrant, round(float(first_row)), round(float(first_column)))


def _step(steps: GwcsSteps, *frames: str) -> Transform:
    """Return the transform from a frame to the next one. The first frame may have several names."""
    for first in frames[:-1]:
        found = steps.between(first, frames[-1])
        if found is not None:
            return _unnamed(found)
    names = ", ".join(step.frame for step in steps.steps)
    raise ReferenceFileError(f"its frames are {names}, expected a step from {frames[0]} to {frames[-1]}")


def _unnamed(transform: Transform) -> Transform:
    """Return a transform without the number of the slit, which version 3 of the pipeline passes on beside x and y."""
    if not isinstance(transform, Compose):
        return transform
    if isinstance(transform.first, FixInputs) and isinstance(transform.second, RemapAxes):
        inner = transform.first.transform
        while isinstance(inner, Compose):
            inner = inner.first
        if isinstance(inner, Concatenate) and isinstance(inner.second, Identity):
            return inner.first
    first, second = _unnamed(transform.first), _unnamed(transform.second)
    is_same = first is transform.first and second is transform.second
    return transform if is_same else Compose(first, second)


def _chain(transform: Transform) -> list[Transform]:
    """Return the transforms that are applied one after the other. Those with an inverse of their own stay whole."""
    if isinstance(transform, Compose):
        parts = []
        for part in (transform.first, transform.second):
            parts += [part] if part.inverse is not None else _chain(part)
        return parts
    return [transform]


def _joined(parts: list[Transform]) -> Transform:
    if not parts:
        return Identity(2)
    found = parts[0]
    for part in parts[1:]:
        found = Compose(found, part)
    return found


def _walk(transform: Transform) -> Iterator[Transform]:
    """Yield a transform and all its parts, without inverses."""
    yield transform
    if isinstance(transform, Compose | Concatenate | Combination):
        yield from _walk(transform.first)
        yield from _walk(transform.second)


def _is(transform: Transform, tag: str) -> bool:
    return isinstance(transform, OtherTransform) and transform.tag.endswith(tag)


def _nodes(transform: Transform, tag: str) -> list[Mapping[str, Any]]:
    return [part.node for part in _walk(transform) if isinstance(part, OtherTransform) and part.tag.endswith(tag)]


def _until_cosines(parts: list[Transform]) -> list[Transform] | None:
    for number, part in enumerate(parts):
        if _is(part, "coords"):
            return parts[:number]
    return None


def _is_linear(transform: Transform) -> bool:
    try:
        affine_of(transform)
    except ReferenceFileError:
        return False
    return count_inputs(transform) == 2


def _focal_plane_and_camera(chain: list[Transform], detector: str) -> tuple[FocalPlane, Relay]:
    """Split the way from pixels to slopes: all linear parts before the first polynomial belong to the focal plane."""
    parts = _until_cosines(chain)
    if not parts:
        raise ReferenceFileError("the camera is not found between the frames sca and gwa")
    count = 0
    while count < len(parts) and _is_linear(parts[count]):
        count += 1
    focal = _joined(parts[:count])
    plane = FocalPlane(detector, affine_of(focal), affine_of(inverse_of(focal)))
    return plane, relay_of(_joined(parts[count:]))


def _slit_and_quadrant(
    steps: GwcsSteps, to_slit: Transform, attrs: Attributes, order: int
) -> tuple[np.ndarray, Slit, Quadrant]:
    """Return the map from slit to MSA (2, 3), the slit, and the frame of its quadrant."""
    to_plane = _step(steps, "wavecorr_frame", "slit_frame", "msa_frame")
    if isinstance(to_plane, Concatenate) and count_inputs(to_plane.first) == 2:
        to_plane = to_plane.first
    match _chain(to_plane):
        case [
            Concatenate(Scale() as width, Scale() as height),
            Concatenate(Shift() as x, Shift() as y),
            *rest,
        ]:
            affine = affine_of(_joined(rest))
        case _:
            raise ReferenceFileError("the slit does not start with its size and place, expected scales and shifts")
    number = read(attrs, "MSAQUAD")
    empty = np.zeros(0)
    quadrant = Quadrant(number, empty, empty, empty, empty, affine)
    low, high = (round(read(attrs, key) * 1e6, 9) for key in ("WAVSTART", "WAVEND"))
    place = (x.offset, y.offset, width.factor, height.factor)
    name = plain_name(attrs.get("SLTNAME", "slit"), "slit")
    slit = Slit(name, number, *place, *_ends(to_slit), (low, high), order)
    return affine_of(to_plane), slit, quadrant


def _ends(to_slit: Transform) -> tuple[float, float]:
    """Return the ends of the slit [open heights]: beyond them, coordinates become NaN."""
    limits = {str(node["condition"]): float(node["compareto"]) for node in _nodes(to_slit, "logical")}
    if {"LT", "GT"} <= set(limits):
        return limits["LT"], limits["GT"]
    tables = [part.values for part in _walk(to_slit) if isinstance(part, Tabular) and part.values.ndim == 1]
    if not tables:
        raise ReferenceFileError("the ends of the slit are not in the file")
    return float(tables[0].min()), float(tables[0].max())


def _collimator(to_slit: Transform, plane: np.ndarray) -> Distortion:
    """Return the way from the plane of the MSA to slopes at the wheel. The file has it for places in the slit."""
    best: list[Transform] = []
    for part in _walk(to_slit):
        before = _until_cosines(_chain(part)) or []
        sizes = [number for number, one in enumerate(before) if _is_size(one)]
        if sizes:
            best = before[sizes[-1] :]
    if not best:
        raise ReferenceFileError("the collimator is not found between the frames gwa and slit_frame")
    for count in range(2, len(best)):
        if _is_linear(_joined(best[:count])) and np.array_equal(affine_of(_joined(best[:count])), plane):
            return distortion_of(_joined(best[count:]))
    raise ReferenceFileError("light leaves the slit from another place than it has in the plane of the MSA")


def _is_size(transform: Transform) -> bool:
    """Return whether a transform multiplies a place in the slit by the size of the slit."""
    return isinstance(transform, Concatenate) and all(
        isinstance(part, Scale) and part.factor for part in (transform.first, transform.second)
    )


def _disperser(camera_side: list[Transform], to_slit: Transform, grating: str) -> Disperser:
    rotation = next((part for part in camera_side if _is(part, "rotation_sequence")), None)
    if not isinstance(rotation, OtherTransform) or rotation.node["axes_order"] != "xyzy":
        raise ReferenceFileError("the rotation to the grating wheel is not found, expected angles about x, y, z, y")
    theta_x, theta_y, theta_z, tilt_y = (float(angle) for angle in rotation.node["angles"])
    bare = Disperser(grating, theta_x, theta_y, theta_z, tilt_y, 0)
    for node in _nodes(to_slit, "grating_equation"):
        return replace(bare, groove_density=float(node["groove_density"]), order=int(node["order"]))
    prisms = [node for part in _everything(to_slit) for node in _nodes(part, "snell")]
    indices = _nodes(to_slit, "refraction_index_from_prism")
    if not prisms or not indices:
        raise ReferenceFileError("neither a grating nor a prism is found between the frames gwa and slit_frame")
    glass = prisms[0]
    if float(glass["temp"]) - float(glass["ref_temp"]) >= _LARGEST_WARMING:
        raise ReferenceFileError(f"the prism has {glass['temp']} K, its glass was measured at {glass['ref_temp']} K")
    k, poles = (tuple(float(number) for number in glass[key]) for key in ("kcoef", "lcoef"))
    return replace(bare, prism_angle=float(indices[0]["prism_angle"]), glass_k=k, glass_l=poles)


def _everything(transform: Transform) -> Iterator[Transform]:
    """Yield the transform, and the inverses that the file gives for it and its parts."""
    yield transform
    for part in _walk(transform):
        if part.inverse is not None:
            yield part.inverse


def _velocity(to_slit: Transform) -> float:
    """Return VELOSYS [m/s] from the factor of the wavelength."""
    for part in _walk(to_slit):
        if isinstance(part, Constant) and part.name == "velocity_correction":
            return (1.0 / part.value - 1.0) * SPEED_OF_LIGHT
        if isinstance(part, Scale) and "velocity" in part.name.lower():
            return (1.0 / part.factor - 1.0) * SPEED_OF_LIGHT
    return 0.0


def _of_plane(transform: Transform) -> Transform:
    """Return the part of a step that makes two coordinates. Beside it, the wavelength is passed on."""
    for part in _chain(transform):
        if isinstance(part, Concatenate) and count_inputs(part) != 2:
            return part.first
    return transform


def _sky(steps: GwcsSteps) -> tuple[Relay | None, Relay | None, Pointing | None]:
    """Return the fore optics, the telescope and the pointing. None if the light comes from a lamp."""
    if steps.steps[-1].frame == "msa_frame":
        return None, None, None
    fore = relay_of(_of_plane(_step(steps, "msa_frame", "oteip")))
    telescope = relay_of(_of_plane(_step(steps, "oteip", "v2v3")))
    scale, rotation = 1.0, None
    if steps.between("v2v3", "v2v3vacorr") is not None:
        scale = float(affine_of(_of_plane(_step(steps, "v2v3", "v2v3vacorr")))[0, 0])
    for node in _nodes(_step(steps, "v2v3vacorr", "v2v3", "world"), "rotate_sequence_3d"):
        rotation = node
    if rotation is None or rotation["axes_order"] != "zyxyz":
        raise ReferenceFileError("the attitude of the telescope is not found, expected angles about z, y, x, y, z")
    v2, v3, roll, dec, ra = (float(angle) for angle in rotation["angles"])
    return fore, telescope, Pointing(-ra, dec, v2 * 3600, -v3 * 3600, roll, scale)
