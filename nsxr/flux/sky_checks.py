"""Check whether a spectrum of the sky fits the slits that it is subtracted from."""

import warnings
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import about
from nsxr.model.texts import in_capitals, text_of
from nsxr.model.units import require
from nsxr.model.variables import check
from nsxr.slits.collection import iterate_slits
from nsxr.slits.light import fixed_slit, is_point

__all__ = ["SKY_VARIANCES", "check_sky", "file_of", "spectrum_of", "warn_of_uncovered"]

SKY_VARIANCES = ("sb_var_poisson", "sb_var_rnoise")
_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)
_MOST_UNCOVERED = 0.1
"""Part of the pixels of a slit beyond the ends of the spectrum, from which a warning says so."""

T = TypeVar("T")


def spectrum_of(name: str, spectra: Mapping[str, T]) -> T | None:
    """Return what belongs to a slit: the only one, or that of its name. None if there is none of this name."""
    return next(iter(spectra.values())) if len(spectra) == 1 else spectra.get(name)


def file_of(spectrum: xr.Dataset) -> str:
    """Return the name of the file that a spectrum is from, empty if it is from none."""
    return text_of(spectrum.attrs, "filename") or text_of(spectrum.attrs, "FILENAME")


def check_sky(spectrum: xr.Dataset, slit: xr.Dataset) -> None:
    """Raise ModelError if a spectrum is not that of a sky, or not of the optics of a slit.

    Values are checked if they are in memory. A spectrum of another fixed slit gives a warning.
    """
    check(spectrum, "surf_bright", *SKY_VARIANCES, units={"surf_bright": "MJy/sr"}, dims=("dispersion",))
    name = file_of(spectrum)
    what = f"{name}: the spectrum of the sky" if name else "the spectrum of the sky"
    if "wavelength" not in spectrum.coords:
        raise ModelError(f"{what} has no coordinate 'wavelength'")
    if (units := spectrum["wavelength"].attrs.get("units")) is not None:
        require("wavelength of the sky", units, "um")
    if is_point(spectrum.attrs):
        raise ModelError(
            f"{what} is that of a point (SRCTYPE is POINT), which has no surface brightness; expected an extended one"
        )
    for key in ("GRATING", "FILTER"):
        own, other = in_capitals(spectrum.attrs, key), in_capitals(slit.attrs, key)
        if own and other and own != other:
            raise ModelError(about(slit.attrs, f"{what} has {key} {own}, the slits have {other}"))
    _check_values(spectrum, what)
    of_sky, of_slit = fixed_slit(spectrum.attrs), fixed_slit(slit.attrs)
    if of_sky and of_slit and of_sky != of_slit:
        warnings.warn(
            about(slit.attrs, f"{what} is that of slit {of_sky}, which blurs lines in another way than slit {of_slit}"),
            DegradedResultWarning,
            stacklevel=4,
        )


def _check_values(spectrum: xr.Dataset, what: str) -> None:
    """Raise ModelError if values that are in memory cannot be used."""
    needed = ("wavelength", "surf_bright", *SKY_VARIANCES)
    if any(spectrum[name].chunks is not None for name in (*needed, *(["dq"] if "dq" in spectrum else []))):
        return
    usable = _usable(spectrum)
    if usable.sum() < 2:
        raise ModelError(f"{what} has {usable.sum()} usable points, expected 2 at least")
    for name in SKY_VARIANCES:
        lowest = np.nanmin(np.append(spectrum[name].to_numpy()[usable], 0.0))
        if lowest < 0:
            raise ModelError(f"{what} has {name} down to {lowest:.3g}, expected variances of 0 or more")


def _usable(spectrum: xr.Dataset) -> np.ndarray:
    """Return which points of a spectrum in memory are used."""
    known = np.isfinite(spectrum["surf_bright"].to_numpy()) & np.isfinite(spectrum["wavelength"].to_numpy())
    flagged = (spectrum["dq"].to_numpy() & _DO_NOT_USE) > 0 if "dq" in spectrum else False
    found: np.ndarray = known & ~np.asarray(flagged)
    return found


def warn_of_uncovered(slits: xr.DataTree, sky: xr.Dataset | xr.DataTree) -> None:
    """Warn if a spectrum lacks wavelengths of slits. Only slits and spectra that are in memory are looked at."""
    spectra = dict(iterate_slits(sky))
    lost = []
    for name, slit in iterate_slits(slits):
        spectrum = spectrum_of(name, spectra)
        if spectrum is None or any(one["wavelength"].chunks is not None for one in (slit, spectrum)):
            continue
        if spectrum["surf_bright"].chunks is not None:
            continue
        known = spectrum["wavelength"].to_numpy()[_usable(spectrum)]
        wavelength = slit["wavelength"].to_numpy()
        seen = np.isfinite(wavelength).sum()
        outside = ((wavelength < known.min()) | (wavelength > known.max())).sum() if known.size else seen
        if outside > _MOST_UNCOVERED * seen:
            lost.append(f"{name} ({100 * outside / seen:.0f} % of its pixels)")
    if lost:
        warnings.warn(
            about(slits.attrs, f"the spectrum of the sky lacks wavelengths of slits {', '.join(lost)}: NaN there"),
            DegradedResultWarning,
            stacklevel=4,
        )
