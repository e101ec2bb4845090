"""Open references of the bar shadow (type BARSHADOW): the light of a uniform sky beneath bars between shutters."""

import os

import numpy as np
import xarray as xr

from nsxr.errors import ReferenceFileError
from nsxr.references.sampled import describe_reference, in_micrometres, read_image, sampled_axis, scan_of_type

__all__ = ["open_bar_shadow"]

_KIND = "barshadow"
_TOLERANCE = 1e-4  # of the ends of the axis along the slit [pitch]
_MOST = 10.0


def open_bar_shadow(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a reference of the bar shadow: the light of a uniform sky along slits of one and of three open shutters.

    Parameters
    ----------
    path : path
        FITS file with the extensions DATA1X1, DATA1X3, VAR1X1 and VAR1X3.

    Returns
    -------
    Dataset
        In memory, float32, all (y, wavelength): ``shadow_1x1`` and ``shadow_1x3``, and ``variance_1x1`` and
        ``variance_1x3`` if the file has variances that are not 0 everywhere. ``y`` goes from -1 to 1 and is the
        distance from the middle of the (middle) shutter [pitch]. ``wavelength`` is in um. The values are means over the
        height of a pixel, as a measured bar shadow is.

    Raises
    ------
    ReferenceFileError
        If the file does not exist, is damaged, is of another type, or lacks an image; if its images differ in size, do
        not go from -1 to 1 along the slit, or have values that are no fractions of light.

    Examples
    --------
    >>> barshadow = nsxr.open_bar_shadow("jwst_nirspec_barshadow_0006.fits")  # doctest: +SKIP
    """
    file = scan_of_type(_KIND, path)
    images, axes = {}, {}
    for label in ("1X1", "1X3"):
        image, header = read_image(file, f"DATA{label}", 2)
        # the observatory's pipeline does not read CRPIX: the first value of each axis is CRVAL
        header = header.copy()
        header["CRPIX1"] = header["CRPIX2"] = 1.0
        y = sampled_axis(file, header, 2, image.shape[0])
        wavelength = in_micrometres(file, header, sampled_axis(file, header, 1, image.shape[1]))
        images[f"shadow_{label.lower()}"], axes[label] = image, (y, wavelength)
        if not image.shape[0] % 2 or np.abs(y[[0, -1]] - [-1, 1]).max() > _TOLERANCE:
            raise ReferenceFileError(
                f"{file.path}: DATA{label} has {image.shape[0]} rows from {y[0]:g} to {y[-1]:g} along the slit, "
                "expected an odd number from -1 to 1"
            )
        strange = int((~((image >= 0) & (image < _MOST))).sum())
        if strange:
            raise ReferenceFileError(
                f"{file.path}: {strange} of {image.size} values of DATA{label} are not between 0 and {_MOST:g}"
            )
    (y, wavelength), (other_y, other_wavelength) = axes.values()
    if y.shape != other_y.shape or wavelength.shape != other_wavelength.shape or (wavelength != other_wavelength).any():
        raise ReferenceFileError(f"{file.path}: DATA1X1 and DATA1X3 have different axes, expected the same")
    variances = {}
    for label in ("1X1", "1X3"):
        if (f"VAR{label}", 1) in file.versions:
            variance, _ = read_image(file, f"VAR{label}", 2)
            if variance.shape != (y.size, wavelength.size) or not (variance >= 0).all():
                raise ReferenceFileError(
                    f"{file.path}: VAR{label} has shape {variance.shape} or values that are no variances, expected "
                    f"{(y.size, wavelength.size)} and 0 or more"
                )
            variances[f"variance_{label.lower()}"] = variance
    if len(variances) == 2 and any(variance.any() for variance in variances.values()):
        images |= variances
    coords = {
        "y": ("y", np.linspace(-1, 1, y.size), {"units": "pitch"}),
        "wavelength": ("wavelength", wavelength, {"units": "um"}),
    }
    data = {name: (("y", "wavelength"), image.astype(np.float32)) for name, image in images.items()}
    return xr.Dataset(data, coords, describe_reference(file, _KIND))
