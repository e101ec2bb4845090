"""Check computed spectra for signs of a wrong extraction, and describe what is suspicious."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nsxr.errors import DegradedResultWarning
from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.kernels.spectra.outliers import DISAGREEING
from nsxr.model.dq import PixelFlag
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import variances_of

__all__ = ["CHECKS", "Extracted", "suspicions", "warn_of_suspicions"]

_MOST_SIGMA = 4.0  # between the fitted and the planned position
_WIDEST = 3.0  # sigma of a point source [pixel]; those of the telescope are 0.7 to 1.3
_WAVELENGTHS = (0.3, 8.0)  # um, range of the detectors
_LEAST_SIGNAL = 3.0  # signal to noise of all columns together
_BRIGHT = 5.0  # signal to noise of one column, such as that of an emission line
_MOST_FLAGGED = 0.5
_FAINTEST = 0.05  # relative to the light of other sources in the slit
_USUAL_PRIOR = 0.3


@dataclass(frozen=True)
class Extracted:
    """Hold a computed spectrum, and the slit and the model that it was made from if they are available."""

    spectrum: xr.Dataset
    model: xr.Dataset | None = None
    slit: xr.Dataset | None = None

    @property
    def good(self) -> np.ndarray:
        """Values of the flux that can be used (bool)."""
        flags = self.spectrum["dq"].values & np.uint32(PixelFlag.DO_NOT_USE)
        return np.asarray(np.isfinite(self.spectrum["flux"].values) & (flags == 0))

    @property
    def signal(self) -> tuple[float, int]:
        """Signal to noise of all columns together, and number of columns that are bright by themselves."""
        kinds = [self.spectrum[name].values for name in variances_of(self.spectrum, "flux_var")]
        variance = np.sum([np.nan_to_num(kind) for kind in kinds], axis=0) if kinds else np.zeros(self.good.shape)
        used = self.good & (variance > 0)
        flux, variance = np.where(used, self.spectrum["flux"].values, 0.0), np.where(used, variance, 0.0)
        if flux.ndim > 1:
            flux, variance = flux.sum(0), variance.sum(0)
        total = float(variance.sum())
        bright = int(((flux > _BRIGHT * np.sqrt(variance)) & (variance > 0)).sum())
        return (float(flux.sum()) / math.sqrt(total) if total > 0 else 0.0), bright

    @property
    def contrast(self) -> float:
        """Light of the source, relative to that of other sources in its slit; infinite if there are none."""
        if self.model is None or "beside" not in self.model:
            return math.inf
        used = self.good if self.good.ndim == 1 else self.good.any(0)
        own = float(np.nansum(self.model["flux"].values[used]))
        others = float(np.nansum(np.maximum(self.model["beside"].values[:, used], 0.0)))
        return own / others if others > 0 else math.inf

    @property
    def header(self) -> SlitHeader:
        """Header of the slit."""
        return SlitHeader.of(self.spectrum)

    @property
    def should_have_light(self) -> bool:
        """Whether a source is planned in this slit: no for background slits, and for fixed slits without the target."""
        return self.header.has_planned_source

    @property
    def position_prior(self) -> float:
        """Uncertainty of the planned position that the fit assumed [pixel]."""
        return _USUAL_PRIOR if self.model is None else float(self.model.attrs.get("position_prior", _USUAL_PRIOR))

    @property
    def is_position_given(self) -> bool:
        """Whether the user gave the planned position."""
        return self.model is not None and bool(self.model.attrs.get("is_position_given", False))

    @property
    def has_light(self) -> bool:
        """Whether there is light of a source."""
        whole, bright = self.signal
        return whole > _LEAST_SIGNAL or bright > 1 + self.good.shape[-1] / 1000


def _columns(found: Extracted) -> Iterator[str]:
    good = found.good if found.good.ndim == 1 else found.good.any(0)
    wavelength = found.spectrum["wavelength"].values
    inside = np.isfinite(wavelength) if np.isfinite(wavelength).any() else np.ones(good.size, bool)
    flagged, number = int((inside & ~good).sum()), int(inside.sum())
    if not good.any():
        slit = {} if found.slit is None else found.slit
        empty = [n for n in ("sci", "var_poisson", "var_rnoise") if n in slit and not np.isfinite(slit[n].values).any()]
        yield f"no column could be extracted{': no pixel has a finite ' * bool(empty)}{' and '.join(empty)}"
    elif flagged > _MOST_FLAGGED * number:
        yield f"{flagged} of {number} columns are flagged DO_NOT_USE"


def _wavelengths(found: Extracted) -> Iterator[str]:
    values = found.spectrum["wavelength"].values
    known = values[np.isfinite(values)]
    if not known.size:
        yield "there are no wavelengths; detector columns are used instead"
        return
    outside = known[(known < _WAVELENGTHS[0]) | (known > _WAVELENGTHS[1])]
    if outside.size:
        yield (
            f"{outside.size} of {known.size} wavelengths are not between {_WAVELENGTHS[0]:g} and "
            f"{_WAVELENGTHS[1]:g} um, such as {outside[0]:g}"
        )
    elif known.size > 1 and np.ptp(known) < 1e-6:
        yield f"all columns have the wavelength {known[0]:g} um"


def _times(found: Extracted) -> Iterator[str]:
    if "integration" not in found.spectrum["flux"].dims:
        return
    number, name = found.spectrum.sizes["integration"], TIME_COLUMNS[1]
    times = found.spectrum[name].values if name in found.spectrum.coords else np.full(number, np.nan)
    lost = int((~np.isfinite(times)).sum())
    if lost:
        yield f"{lost} of {number} integrations have no time (INT_TIMES)"


def _light(found: Extracted) -> Iterator[str]:
    if not (found.should_have_light and found.good.any()):
        return
    if not found.has_light:
        yield f"there is no light of a source: signal to noise of all columns together is {found.signal[0]:.1f}"
    if found.contrast < _FAINTEST:
        yield (
            f"there is {max(found.contrast, 0.0):.1%} of the light of a neighbour at the planned row: the neighbour "
            "may be the source, with a wrong plan"
        )


def _plan(found: Extracted) -> Iterator[str]:
    planned = found.spectrum.variables.get("position_planned")
    if found.header.is_extended or not found.should_have_light or planned is None or not np.isfinite(planned.values):
        return
    if not found.is_position_given and found.header.source_y is None:
        value = found.spectrum.attrs.get("SRCYPOS")
        yield (
            f"there is no planned position (SRCYPOS is {value!r}): the middle of the shutter is used, row "
            f"{float(planned.values):.1f}; set position if this is wrong"
        )


def _position(found: Extracted) -> Iterator[str]:
    if not (found.should_have_light and found.has_light) or "position_fitted" not in found.spectrum.variables:
        return
    names = ("position_planned", "position_fitted", "position_uncertainty")
    planned, fitted, error = (
        float(found.spectrum[name]) if name in found.spectrum.variables else math.nan for name in names
    )
    sigma = math.hypot(found.position_prior, error if math.isfinite(error) else 0.0)
    if abs(fitted - planned) > _MOST_SIGMA * sigma:
        yield (
            f"the source is {fitted - planned:+.1f} rows ({abs(fitted - planned) / sigma:.0f} sigma) from its planned "
            f"row {planned:.1f}: another source, a wrong plan, or no light"
        )


def _width(found: Extracted) -> Iterator[str]:
    if found.model is None or not (found.should_have_light and found.has_light):
        return
    width = float(np.nanmedian(found.model["width"].values))
    most = found.model["profile"].shape[0] if found.header.is_extended else _WIDEST
    if not width <= most:
        yield f"the trace is {width:.1f} pixels wide (sigma), expected less than {most:g}"


def _disagreement(found: Extracted) -> Iterator[str]:
    if "disagreement" in found.spectrum.variables:
        part = float(found.spectrum["disagreement"])
        if part > DISAGREEING:
            yield f"it differs from the other exposures in {part:.0%} of its columns: it is compared with itself only"


CHECKS: tuple[Callable[[Extracted], Iterator[str]], ...] = (
    _columns,
    _wavelengths,
    _times,
    _light,
    _plan,
    _position,
    _width,
    _disagreement,
)
"""Checks of a spectrum. Each check yields one line of text for each problem that it finds."""


def suspicions(found: Extracted) -> list[str]:
    """Return what is suspicious about a spectrum, one line for each problem.

    Parameters
    ----------
    found : Extracted
        Computed.
    """
    return [line for check in CHECKS for line in check(found)]


def warn_of_suspicions(extracted: Sequence[Extracted], stacklevel: int = 2) -> None:
    """Issue a DegradedResultWarning for each problem of a spectrum, with the names of file and slit.

    Parameters
    ----------
    extracted : sequence of Extracted
        Computed.
    stacklevel : int
        See :func:`warnings.warn`.
    """
    for number, found in enumerate(extracted, start=1):
        name = found.header.called(f"spectrum {number}")
        slit = f", slit {found.header.name}" if found.header.name else ""
        for line in suspicions(found):
            warnings.warn(f"{name}{slit}: {line}", DegradedResultWarning, stacklevel=stacklevel + 1)
