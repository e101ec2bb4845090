"""Describe the light of a point along a slit, from the light that its apertures enclose.

References tell how much light of a point in the middle of its slit is within apertures of some sizes. A mixture of
Gaussians has the same light in these apertures. Behind the same openings, it tells where the light of a point at
another place is. The image of a point grows in proportion to the wavelength, so one mixture holds for all wavelengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls
from scipy.special import ndtr

from nsxr.kernels.compilation import kernel

__all__ = ["Openings", "PointLight", "point_light"]

Openings = Sequence[tuple[float, float]]
"""Lower and upper ends of the open parts of a slit."""

_WIDTHS = 0.04 * 1.3 ** np.arange(16)  # pixels per um, standard deviations of the Gaussians
_BLURS = (0.2, 0.3, 0.4, 0.5, 0.6)  # pixels, standard deviations of the image of an edge that are tried
_FITTED = 4  # every fourth wavelength is enough for the fit
_TOTAL = 1e4  # weight of the sum of all light against the light in one aperture
_FLAW = 0.002  # error of the light outside of an aperture, besides one in proportion to this light
_STEP = 0.1  # pixels between places along a slit at which the light is summed
_MARGIN = 2.0  # pixels beyond the open parts that get blurred light


@dataclass(frozen=True)
class PointLight:
    """The light of points along a slit.

    Attributes
    ----------
    openings : sequence of (float, float)
        Open parts of the slit [open heights].
    pixel : float
        Height of a pixel [open heights].
    widths : (width, node) ndarray
        Standard deviations of the Gaussians at each wavelength [pixel].
    weights : (width,) ndarray
        Light of a point in each Gaussian.
    blur : float
        Standard deviation of the image of an edge [pixel].
    """

    openings: Openings
    pixel: float
    widths: np.ndarray
    weights: np.ndarray
    blur: float

    def below(self, place: float) -> tuple[np.ndarray, np.ndarray]:
        """Return places along the slit [open heights], and the light of a point that passes below them, (node, place).

        The last value is all light that passes.
        """
        edges, light = _below(self.openings, self.pixel, self.widths, place)
        return edges, _blurred(np.tensordot(self.weights, light, 1), self.blur)

    def enclosed(self, height: float) -> np.ndarray:
        """Return the part of the light of a point in the middle that is in an aperture [pixel] around it, (node,)."""
        edges, below = self.below(0.0)
        half = 0.5 * height * self.pixel
        inside = [np.subtract(*np.interp([half, -half], edges, one)) for one in below]
        return np.asarray(inside / below[:, -1])

    def in_pixels(self, node: np.ndarray, slit_y: np.ndarray, place: float, relative_to: float) -> np.ndarray:
        """Return the light in pixels (y, x) of a point at one place, for one unit of light that passes from another.

        Parameters
        ----------
        node : (x,) ndarray
            Wavelength of each column, as a fractional node.
        slit_y : (y, x) ndarray
            Place of the middle of each pixel along the slit [open heights]; NaN outside.
        place, relative_to : float
            Places of the two points along the slit [open heights].
        """
        edges, below = self.below(place)
        whole = below[:, -1] if place == relative_to else self.below(relative_to)[1][:, -1]
        below = below / whole[:, None]
        left = np.clip(node.astype(np.int64), 0, max(below.shape[0] - 2, 0))
        right, part = np.minimum(left + 1, below.shape[0] - 1), node - left
        found, last = np.zeros(slit_y.shape), edges.size - 1
        for side in (-0.5, 0.5):
            at = (np.nan_to_num(slit_y, nan=edges[0]) + side * self.pixel - edges[0]) / (edges[1] - edges[0])
            at = np.clip(at, 0, last)
            first = np.minimum(at.astype(np.int64), last - 1)
            along = at - first
            for k, share in ((left, 1 - part), (right, part)):
                values = (1 - along) * below[k, first] + along * below[k, first + 1]
                found += np.sign(side) * share * values
        return np.where(np.isfinite(slit_y), found, 0.0)


def point_light(
    wavelength: np.ndarray, sizes: np.ndarray, enclosed: np.ndarray, openings: Openings, pixel: float
) -> PointLight:
    """Return the light of points behind the openings of a slit.

    Parameters
    ----------
    wavelength : (node,) ndarray
        Wavelengths [um].
    sizes, enclosed : (size, node) ndarray
        Heights of apertures [pixel], and the part of the light of a point in the middle of them, relative to all of its
        light that passes.
    openings : sequence of (float, float)
        Open parts of the slit [open heights], relative to the middle of the shutter with the point.
    pixel : float
        Height of a pixel [open heights].

    Notes
    -----
    Least squares with weights that are not negative (Lawson and Hanson 1974).
    """
    widths = _WIDTHS[:, None] * wavelength
    part = slice(None, None, _FITTED)
    edges, light = _below(openings, pixel, widths[:, part], 0.0)
    fits = [_fit(blur, edges, _blurred(light, blur), sizes[:, part] * pixel, enclosed[:, part]) for blur in _BLURS]
    _, weights, blur = min(fits, key=lambda fit: fit[0])
    there = weights > 0
    return PointLight(openings, pixel, widths[there], weights[there], blur)


def _fit(
    blur: float, edges: np.ndarray, light: np.ndarray, sizes: np.ndarray, enclosed: np.ndarray
) -> tuple[float, np.ndarray, float]:
    """Return the misfit, the weights of the Gaussians, and the blur."""
    inside = np.empty((len(light), *sizes.shape))
    _enclose(edges, light, 0.5 * sizes, inside)
    # the sum of all light is one, up to a factor at each wavelength
    design = (inside - enclosed * light[:, None, :, -1]) / (_FLAW + 1 - enclosed)
    rows = np.vstack([design.reshape(len(light), -1).T, _TOTAL * light[:, light.shape[1] // 2, -1]])
    weights, misfit = nnls(rows, np.append(np.zeros(len(rows) - 1), _TOTAL))
    return misfit, weights, blur


@kernel
def _enclose(edges: np.ndarray, light: np.ndarray, halves: np.ndarray, inside: np.ndarray) -> None:
    """Write the light between two places at equal distances from 0 to ``inside`` (width, size, node)."""
    for k in range(light.shape[0]):
        for node in range(light.shape[1]):
            half = halves[:, node].copy()
            inside[k, :, node] = np.interp(half, edges, light[k, node]) - np.interp(-half, edges, light[k, node])


def _below(openings: Openings, pixel: float, widths: np.ndarray, place: float) -> tuple[np.ndarray, np.ndarray]:
    """Return places along the slit, and the light of Gaussians that passes below them, (width, node, place)."""
    low, high = openings[0][0] - _MARGIN * pixel, openings[-1][1] + _MARGIN * pixel
    edges = np.arange(low, high + pixel, _STEP * pixel)
    sigma = widths[..., None] * pixel
    total = np.zeros((*widths.shape, edges.size))
    for start, stop in openings:
        total += ndtr((np.clip(edges, start, stop) - place) / sigma) - ndtr((start - place) / sigma)
    return edges, total


def _blurred(below: np.ndarray, blur: float) -> np.ndarray:
    """Return running sums of light after the spectrograph has blurred it."""
    return np.asarray(gaussian_filter1d(below, blur / _STEP, axis=-1, mode="nearest"))
