"""The light path for many points: from pixels to the slit, from the slit to the sky, and back."""

import math
from typing import NamedTuple

import numpy as np

from nsxr.kernels.compilation import kernel
from nsxr.kernels.optics.stages import (
    Dispersing,
    Distorting,
    apply_affine,
    camera_angles,
    distort,
    emerging_angle,
    interpolate,
    spherical,
    unit_vector,
    wavelength_at,
)

__all__ = [
    "Sky",
    "Spectrograph",
    "pixels_of_slit",
    "plane_of_sky",
    "sky_of_plane",
    "slit_of_pixels",
    "wheel_of_slit",
]


class Spectrograph(NamedTuple):
    """Everything between the plane of the slits and the pixels, for one slit.

    Attributes
    ----------
    pixel, pixel_back : (2, 3) ndarray
        From pixels to the focal plane [m], and back.
    camera, camera_back : Distorting
        From the focal plane to the camera's rays, and back.
    rotation : (3, 3) ndarray
        From the camera and the collimator to the grating wheel.
    disperser : Dispersing
        Grating or prism.
    collimator : Distorting
        From the plane of the slits to the collimator's rays.
    slicer : Distorting
        From the slicer of the IFU to the plane of the slits; without coefficients for slits.
    slit : (2, 3) ndarray
        From the slit, in open widths and heights, to its plane [m].
    velocity : float
        Wavelength at the barycentre over the wavelength in the instrument.
    middle : float
        Wavelength [m] at which the slicer's optics are taken where the wavelength is not known yet.
    """

    pixel: np.ndarray
    pixel_back: np.ndarray
    camera: Distorting
    camera_back: Distorting
    rotation: np.ndarray
    disperser: Dispersing
    collimator: Distorting
    slicer: Distorting
    slit: np.ndarray
    velocity: float
    middle: float


class Sky(NamedTuple):
    """Everything between the plane of the slits and the sky, in one direction.

    Attributes
    ----------
    slicer, fore, correction, telescope : Distorting
        Fore optics of the IFU, fore optics, their chromatic correction, telescope. To the sky they are applied in this
        order, and end in V2, V3 [arcsec]; to the slits they are applied in the opposite order. Those that an exposure
        does not have are without coefficients.
    aberration : (2, 3) ndarray
        Differential velocity aberration, in V2, V3 [arcsec].
    attitude : (3, 3) ndarray
        Rotation between the telescope and the sky.
    """

    slicer: Distorting
    fore: Distorting
    correction: Distorting
    telescope: Distorting
    aberration: np.ndarray
    attitude: np.ndarray


# The scalar functions take single parts, not the whole path: passing all its arrays at each call would take most of the
# time (0.2 us of 0.3 us a point).


@kernel
def _wheel(
    slit: np.ndarray,
    slicer: Distorting,
    collimator: Distorting,
    rotation: np.ndarray,
    slit_x: float,
    slit_y: float,
    wavelength: float,
) -> tuple[float, float]:
    """Return alpha_in and beta_in of a point of the slit. The wavelength [m] matters for slices only."""
    x, y = apply_affine(slit, slit_x, slit_y)
    x, y = distort(slicer, x, y, wavelength)
    x, y = distort(collimator, x, y, wavelength)
    return unit_vector(rotation, x, y)


@kernel
def wheel_of_slit(
    path: Spectrograph,
    slit_x: np.ndarray,
    slit_y: np.ndarray,
    wavelength: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
) -> None:
    """Write the direction cosines with which light of a slit reaches the disperser. All arrays (point)."""
    slit, slicer, collimator, rotation = path.slit, path.slicer, path.collimator, path.rotation
    for p in range(slit_x.size):
        alpha[p], beta[p] = _wheel(slit, slicer, collimator, rotation, slit_x[p], slit_y[p], wavelength[p])


@kernel
def slit_of_pixels(
    path: Spectrograph,
    betas: np.ndarray,
    slit_ys: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    slit_y: np.ndarray,
    wavelength: np.ndarray,
) -> None:
    """Write the place along the slit [open heights], and the wavelength [um], that each pixel sees.

    Parameters
    ----------
    path : Spectrograph
        The instrument and the slit.
    betas, slit_ys : (node,) ndarray
        Table of the place along the slit for beta_in, which grows. Pixels outside see nothing of the slit: NaN.
    column, row : (point,) ndarray
        Pixels of the detector, from 0, in science orientation.
    slit_y, wavelength : (point,) ndarray
        Output.
    """
    slit, slicer, collimator, rotation = path.slit, path.slicer, path.collimator, path.rotation
    pixel, camera, disperser, scale = path.pixel, path.camera, path.disperser, path.velocity * 1e6
    for p in range(column.size):
        x, y = apply_affine(pixel, column[p], row[p])
        x, y = distort(camera, x, y, 0.0)
        alpha_out, beta_out = unit_vector(rotation, x, y)
        along = interpolate(betas, slit_ys, -beta_out)
        slit_y[p] = along
        if math.isnan(along):
            wavelength[p] = math.nan
            continue
        alpha_in, beta_in = _wheel(slit, slicer, collimator, rotation, 0.0, along, path.middle)
        wavelength[p] = wavelength_at(disperser, alpha_in, beta_in, alpha_out) * scale


@kernel
def _to_focal_plane(camera: Distorting, back: Distorting, u: float, v: float, steps: int) -> tuple[float, float]:
    """Return the place in the focal plane from which the camera sees the ray (u, v, 1).

    The camera's own backward polynomials give it to about 0.01 pixel. Newton steps make it exact.
    """
    x, y = distort(back, u, v, 0.0)
    h = 1e-5  # m, half a pixel: the camera is so smooth that the slopes are right to 1e-6
    for _ in range(steps):
        u0, v0 = distort(camera, x, y, 0.0)
        ux, vx = distort(camera, x + h, y, 0.0)
        uy, vy = distort(camera, x, y + h, 0.0)
        ux, vx, uy, vy = (ux - u0) / h, (vx - v0) / h, (uy - u0) / h, (vy - v0) / h
        area = ux * vy - uy * vx
        x += ((u - u0) * vy - (v - v0) * uy) / area
        y += ((v - v0) * ux - (u - u0) * vx) / area
    return x, y


@kernel
def pixels_of_slit(
    path: Spectrograph,
    steps: int,
    slit_x: np.ndarray,
    slit_y: np.ndarray,
    wavelength: np.ndarray,
    index: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
) -> None:
    """Write the pixels to which light of a slit goes. Inverse of :func:`slit_of_pixels`.

    Parameters
    ----------
    path : Spectrograph
        The instrument and the slit.
    steps : int
        Newton steps. With 0, the backward polynomials are used alone, and the slicer's optics at the given wavelength.
        With more, the result is the inverse of ``slit_of_pixels``, which takes the slicer at its middle wavelength.
    slit_x, slit_y : (point,) ndarray
        Place in the slit [open widths and heights].
    wavelength : (point,) ndarray
        Wavelength [um].
    index : (point,) ndarray
        Refractive index of the prism; not used for gratings.
    column, row : (point,) ndarray
        Output, pixels from 0.
    """
    slit, slicer, collimator, rotation = path.slit, path.slicer, path.collimator, path.rotation
    camera, camera_back, disperser, pixel = path.camera, path.camera_back, path.disperser, path.pixel_back
    for p in range(slit_x.size):
        metres = wavelength[p] * 1e-6
        seen = path.middle if steps > 0 else metres
        alpha, beta = _wheel(slit, slicer, collimator, rotation, slit_x[p], slit_y[p], seen)
        alpha = emerging_angle(disperser, alpha, beta, metres / path.velocity, index[p])
        u, v = camera_angles(rotation, alpha, -beta)
        x, y = _to_focal_plane(camera, camera_back, u, v, steps)
        column[p], row[p] = apply_affine(pixel, x, y)


@kernel
def sky_of_plane(
    sky: Sky, stage: int, x: np.ndarray, y: np.ndarray, wavelength: np.ndarray, first: np.ndarray, second: np.ndarray
) -> None:
    """Write the images of points of the plane of the slits, or of the slicer.

    Parameters
    ----------
    sky : Sky
        The way to the sky.
    stage : int
        Where to stop: 0 after the fore optics of the IFU, in the plane of the slits [m]; 1 in the plane of the
        telescope's image [m]; 2 in V2, V3 [arcsec]; 3 on the sky [degree].
    x, y : (point,) ndarray
        Points [m].
    wavelength : (point,) ndarray
        Wavelength [um].
    first, second : (point,) ndarray
        Output.
    """
    slicer, fore, correction, telescope = sky.slicer, sky.fore, sky.correction, sky.telescope
    for p in range(x.size):
        metres = wavelength[p] * 1e-6
        a, b = distort(slicer, x[p], y[p], metres)
        if stage > 0:
            a, b = distort(fore, a, b, metres)
            a, b = distort(correction, a, b, metres)
        if stage > 1:
            a, b = distort(telescope, a, b, metres)
        if stage > 2:
            a, b = apply_affine(sky.aberration, a, b)
            a, b = spherical(sky.attitude, a / 3600.0, b / 3600.0)
        first[p], second[p] = a, b


@kernel
def plane_of_sky(
    sky: Sky, stage: int, a: np.ndarray, b: np.ndarray, wavelength: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """Write the points of the plane of the slits, or of the slicer, whose images are given.

    Inverse of :func:`sky_of_plane`, with the inverse parts in ``sky``. ``stage`` is where to start.
    """
    slicer, fore, correction, telescope = sky.slicer, sky.fore, sky.correction, sky.telescope
    for p in range(a.size):
        metres = wavelength[p] * 1e-6
        u, v = a[p], b[p]
        if stage > 2:
            u, v = spherical(sky.attitude, u, v)
            u = u - 360.0 if u > 180.0 else u
            u, v = apply_affine(sky.aberration, u * 3600.0, v * 3600.0)
        if stage > 1:
            u, v = distort(telescope, u, v, metres)
        if stage > 0:
            u, v = distort(correction, u, v, metres)
            u, v = distort(fore, u, v, metres)
        x[p], y[p] = distort(slicer, u, v, metres)
