"""The mask: which pixels see no light, found from an exposure or given."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.kernels.ramps.dark_pixels import find_dark
from nsxr.model.dims import IMAGE
from nsxr.ramps.correlated_noise.frames import Frames, frames_of

__all__ = ["dark_of", "find_dark_pixels", "on_pixels_of"]

_OF_MEAN = 1.4
"""Where integrations are averaged, light stands out by so much more: still fainter than what one integration shows.
Less noise is taken for light, so that the mask hardly changes if the mean lacks a bad integration. More would be worse
for points: fainter ones would count as dark."""


def find_dark_pixels(exposure: xr.Dataset, light: xr.DataArray | None = None, *, n_sigma: float = 3.0) -> xr.DataArray:
    """Find the pixels that see no light, from the exposure itself.

    The mean of all differences of groups, or of all rates, is compared with its level and scatter in dark pixels.
    Single pixels are compared, and means along the dispersion over 9 and 65 columns. These means show traces far below
    the noise of a pixel. See :func:`nsxr.kernels.ramps.dark_pixels.find_dark`. The result can be drawn, edited, saved,
    and given to :func:`clean_flicker_noise`.

    Parameters
    ----------
    exposure : Dataset
        Ramps or rates as in :func:`clean_flicker_noise`.
    light : DataArray, optional
        (row, column) bool, True in pixels on which light can fall, as from :func:`nsxr.locate_light`. They count as
        lit, and the others are searched.
    n_sigma : float
        How far light stands out [standard deviations of the dark].

    Returns
    -------
    DataArray
        (row, column) bool with the labels of the exposure. Lazy if the exposure is.
    """
    is_dark, _ = dark_of(frames_of(exposure), n_sigma, light=on_pixels_of(light, exposure, "light"))
    labels = {d: exposure[d] for d in IMAGE}
    return is_dark.assign_coords(labels).assign_attrs(long_name="pixels that see no light")


def on_pixels_of(image: xr.DataArray | None, exposure: xr.Dataset, name: str) -> xr.DataArray | None:
    """Return a mask on the pixels of an exposure, in one chunk, or raise ModelError. None stays None.

    A mask with labels may be larger than the exposure.
    """
    if image is None:
        return None
    if image.dtype.kind not in "biu":
        raise ModelError(f"{name} has dtype {image.dtype}, expected bool: what is not a number would count as True")
    expected = {dim: exposure.sizes[dim] for dim in IMAGE}
    wanted = {dim: exposure.indexes[dim] for dim in IMAGE if dim in exposure.indexes and dim in image.indexes}
    try:
        cut = image.sel(wanted)
    except KeyError:
        raise ModelError(f"{name} has sizes {dict(image.sizes)}, and does not cover the exposure: {expected}") from None
    if dict(cut.sizes) != expected:
        raise ModelError(f"{name} has sizes {dict(cut.sizes)}, expected {expected}")
    return one_chunk(unlabelled(cut.transpose(*IMAGE)).astype(bool), *IMAGE)


def dark_of(
    frames: Frames,
    n_sigma: float,
    mask: xr.DataArray | None = None,
    mean: xr.DataArray | None = None,
    light: xr.DataArray | None = None,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return which pixels are dark, and the level of dark pixels as an image.

    Single pixels of a given mask that stand out are left out, so that light is not taken for noise where the mask is
    wrong. ``mean`` (row, column) is searched instead of the mean of the frames: without its noise, fainter light is
    found. Pixels of ``light`` count as lit.
    """

    def find(mean: np.ndarray, *given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks = dict(zip(names, given, strict=True))
        usable = np.isfinite(mean) & ~masks.get("light", np.False_)
        is_dark, level = find_dark(mean, usable, bands, limit, masks.get("mask"))
        return is_dark, np.full(mean.shape, level, dtype=np.float32)

    bands = frames.bands
    limit = n_sigma * (_OF_MEAN if frames.images.sizes["integration"] > 1 else 1.0)
    named = {name: image for name, image in (("mask", mask), ("light", light)) if image is not None}
    names, given = tuple(named), list(named.values())
    outputs = {"is_dark": (IMAGE, np.bool_), "level": (IMAGE, np.float32)}
    image = frames.mean if mean is None else mean
    is_dark, level = map_blocks(find, image, *given, core=IMAGE, outputs=outputs).values()
    return is_dark, level
