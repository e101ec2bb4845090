"""Extract the flux of a source in each column from its good pixels, weighted by the profile."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.model.declarations import step
from nsxr.model.dims import image_dims, on_pixels
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.slit_header import SlitHeader
from nsxr.model.variables import VARIANCES, check_slit, variable_attributes, variances_of
from nsxr.slits.summed_variance import SHARED_NOISE, places_of_shared_noise
from nsxr.spectra.column_sums import (
    MODEL,
    SumSettings,
    at_mean_wavelength,
    extract_columns,
    mean_over_profile,
    weights_of_sum,
)
from nsxr.spectra.shared_errors import relative_errors
from nsxr.spectra.trace_model import fit_trace_model

__all__ = ["extract_spectrum", "model_image"]

Weighting = Literal["auto", "profile", "box"]
_JANSKY = 1e6
_QUANTITIES = {"flux": "flux", "surf_bright": "sb", "background": "bkgd"}
"""Quantities of a spectrum and the prefixes of their variances."""
_CARRIED = frozenset(("slit_y", "subtracted"))
"""What the aperture correction needs of the pixels of a slit."""
_POSITIONS = ("position_planned", "position_fitted", "position_uncertainty")


@dataclass(frozen=True)
class _Units:
    """Convert sums of pixels to the quantities of a spectrum.

    Attributes
    ----------
    units : str
        Units of the slit: MJy, MJy/sr or DN/s.
    to_flux : float
        Factor from a sum of pixels to a flux.
    to_brightness : float
        Factor from the level of a pixel to a brightness; 0 where the area of a pixel is not known.
    """

    units: str
    to_flux: float
    to_brightness: float

    @classmethod
    def of(cls, slit: xr.Dataset) -> "_Units":
        """Return the conversions for a slit, from the units of its signal and the area of a pixel."""
        units, area = str(slit["sci"].attrs.get("units", "")), SlitHeader.of(slit).pixel_area or 0.0
        if units == "MJy":
            return cls(units, _JANSKY, 1 / area if area else 0.0)
        if units == "DN/s":
            return cls(units, 1.0, 1.0)
        if units != "MJy/sr":
            raise ModelError(f"sci has units {units!r}, expected MJy, MJy/sr or DN/s")
        if not area > 0:
            raise ModelError("sci is in MJy/sr, but PIXAR_SR, the solid angle of a pixel, is missing or not positive")
        return cls(units, area * _JANSKY, 1.0)

    @property
    def is_per_area(self) -> bool:
        """Whether pixels are in units per steradian."""
        return self.units == "MJy/sr"

    def of_quantity(self, name: str) -> str:
        """Return the units of a quantity of a spectrum."""
        if self.units == "DN/s":
            return "DN/s"
        return "Jy" if name == "flux" else "MJy/sr"


@step("extract_1d")
def extract_spectrum(
    slit: xr.Dataset,
    model: xr.Dataset | None = None,
    *,
    weighting: Weighting = "auto",
    rejection_threshold: float = 5.0,
    least_coverage: float = 0.5,
    **fitting: Any,
) -> xr.Dataset:
    """Extract the spectrum of the source in a slit, or one spectrum for each integration of a time series.

    In each column the profile is fitted to the good pixels by least squares (optimal extraction). With
    ``weighting="box"`` the flux is the sum over the aperture, and missing pixels are taken from that fit. A missing
    pixel lowers the signal to noise, and the variance becomes larger; the flux does not become smaller. Weights come
    from a model of the variance, not from the noisy pixels themselves.

    Parameters
    ----------
    slit : Dataset
        ``sci`` [DN/s, MJy or MJy/sr], with or without integration in front, ``dq``, ``var_poisson``, ``var_rnoise``,
        with or without ``var_flat`` and variances of other factors; ``wavelength`` [um]. See
        :mod:`nsxr.slits.collection`.
    model : Dataset, optional
        From :func:`nsxr.fit_trace_model`, for this slit or for a time series. By default the model is made here, with
        the parameters in ``fitting``.
    weighting : {"auto", "profile", "box"}
        ``auto``: ``box`` for extended sources (SRCTYPE), ``profile`` for others.
    rejection_threshold : float, default 5
        In single integrations, pixels are left out that deviate from the model by more than this number of standard
        deviations plus 5 % of the light around them.
    least_coverage : float, default 0.5
        Columns with a smaller part of the profile on good pixels, or in the cut-out, are flagged DO_NOT_USE; their
        values stay. Columns are also flagged if their profile is not that of a source because much of it is negative,
        as with residuals of a bright neighbour. No profile can be fitted to a cut-out of less than 3 rows: all its
        columns are flagged. Columns with more than 2 % of the profile on pixels that see a shutter which never closes
        have its flag, MSA_FAILED_OPEN: a star in it would add to the flux.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    Dataset
        Along ``dispersion``, with integration in front if the slit has it, float64: ``flux`` [Jy, or DN/s] and
        ``flux_var_poisson``, ``flux_var_rnoise``, ``flux_var_flat``; ``surf_bright`` [MJy/sr] and ``background``
        [MJy/sr] with their variances, zero where the units of the slit or the kind of background do not give them;
        ``npixels``; ``aperture_size``, the height of the aperture that the flux refers to, with the pixels that are
        missing [pixel]; ``coverage``; ``dq``; ``relative_error_*``, errors of references that all wavelengths share,
        over the flux, as far as the slit has ``var_photom`` and so on; the coordinate ``wavelength`` [um]. ``weight``
        (row, dispersion) has the weights of pixels in the flux of the mean image, in units of flux per ``sci``, and
        ``profile`` (row, dispersion) is that of the model. ``var_background``, ``slit_y`` and ``subtracted`` are
        those of the slit. Rows are labelled as in the slit. Positions are those of the model. For MJy the flux density
        [Jy] is 1e6 times the sum; for MJy/sr it is this times PIXAR_SR, and the surface brightness of an extended
        source is the mean over the rows of open shutters. NaN where nothing can be extracted.

    Raises
    ------
    ModelError
        If variables are missing, if ``sci`` has other units, or if ``sci`` is in MJy/sr and PIXAR_SR is missing.
    ParameterError
        If a parameter is unknown or out of its range.

    Notes
    -----
    Variances are sums of squared weights times variances. The read noise is that of the slit times ``noise_scale``; if
    the slit tells what pixels share of it, the covariances in a column count too (:func:`nsxr.summed_variance`). The
    photon noise is that of the model. The uncertainty of the profile is added to both in proportion. Errors of a factor
    that all pixels of a wavelength share do not average down in the sum: they are ``relative_error_*``, see
    :func:`nsxr.spectral_covariance`. ``flux_var_flat`` is from the rest of ``var_flat`` (``flatfield_common``), or from
    all of it if the slit does not tell.
    Wavelengths may change along a column. Fluxes of columns that lost pixels are moved to the mean wavelength of the
    profile with the slope of the spectrum; this does not change variances.
    A spectrum of the sky that was subtracted has the same noise in all rows of a column, so it does not average down.

    References
    ----------
    Horne 1986 (PASP 98, 609); Robertson 1986 (PASP 98, 1220).
    """
    dims = check_slit(slit, "sci", "dq", "var_poisson", "var_rnoise")
    if weighting not in ("auto", "profile", "box"):
        raise ParameterError(f"weighting is {weighting!r}, expected auto, profile or box")
    if not 0 <= least_coverage < 1:
        raise ParameterError(f"least_coverage is {least_coverage}, expected a part from 0 to below 1")
    header, units = SlitHeader.of(slit), _Units.of(slit)
    if model is None:
        model = fit_trace_model(slit, **fitting)
    elif fitting:
        raise ParameterError(f"{sorted(fitting)} are parameters of fit_trace_model; a model was given already")
    is_box = weighting == "box" or (weighting == "auto" and header.is_extended)
    settings = SumSettings(
        is_box=is_box,
        first_row=None if header.is_extended else float(slit[dims[0]][0]),
        rejection_threshold=rejection_threshold,
        least_coverage=least_coverage,
        to_flux=units.to_flux,
        to_brightness=units.to_brightness,
        is_per_area=units.is_per_area,
        places=places_of_shared_noise(slit),
    )
    values = _sums(slit, model, settings)
    for name, prefix in _QUANTITIES.items():
        unit = units.of_quantity(name)
        values[name].attrs = {**variable_attributes(name), "units": unit}
        for kind in VARIANCES:
            variance = f"{prefix}_var_{kind}"
            values[variance].attrs = {**variable_attributes(variance), "units": f"({unit})2"}
    for name in ("npixels", "aperture_size", "coverage", "dq"):
        values[name].attrs = variable_attributes(name)
    parameters = {
        "weighting": "box" if is_box else "profile",
        "background": model.attrs.get("background"),
        "rejection_threshold": rejection_threshold,
        "least_coverage": least_coverage,
    }
    spectrum = xr.Dataset(coords=_labels(slit, model), attrs=slit.attrs)
    spectrum = record(spectrum, "extract_1d", parameters=parameters)
    pixels = _of_pixels(slit, model, is_box, units)
    if not is_box and "wavelength" in slit:
        names = ("flux", "surf_bright") if units.is_per_area else ("flux",)
        values |= {name: _at_mean_wavelength(values[name], values["dq"], slit, model) for name in names}
    values |= relative_errors(slit, model, pixels["weight"], values["flux"])
    if header.is_spectrum_subtracted and "var_background" in slit:
        values |= _with_shared_noise(values, pixels["weight"], slit["var_background"])
    return spectrum.assign(values | pixels | _scalars(slit, model))


def _sums(slit: xr.Dataset, model: xr.Dataset, settings: SumSettings) -> dict[str, xr.DataArray]:
    """Return all values along the dispersion."""
    dims = image_dims(slit)
    along = ("integration", "dispersion") if "integration" in slit.dims else ("dispersion",)
    names = [name for name in variances_of(slit) if name != "var_poisson"]
    names += ["flatfield_common"] if {"var_flat", "flatfield_common"} <= set(slit.variables) else []
    names += [] if settings.places is None else SHARED_NOISE
    quantities = [name for q, prefix in _QUANTITIES.items() for name in (q, *(f"{prefix}_var_{k}" for k in VARIANCES))]
    dtypes: dict[str, type[np.generic]] = dict.fromkeys(
        [*quantities, "npixels", "aperture_size", "coverage"], np.float64
    )
    return map_blocks(
        extract_columns,
        *(one_chunk(slit[name], *dims) for name in ("sci", "dq")),
        *(model[name] for name in MODEL),
        *(slit[name] for name in names),
        core=(*dims, "lag", "kind"),
        outputs={name: (along, dtype) for name, dtype in (dtypes | {"dq": np.uint32}).items()},
        sizes={"dispersion": slit.sizes[dims[1]]},
        settings=settings,
    )


def _labels(slit: xr.Dataset, model: xr.Dataset) -> dict[str, Any]:
    """Return the coordinates of a spectrum: wavelengths, detector columns, and times of integrations."""
    row, column = image_dims(slit)
    labels: dict[str, Any] = {
        str(name): c.variable for name, c in slit.coords.items() if set(c.dims) <= {"integration"}
    }
    if column in slit.coords:
        labels["dispersion"] = ("dispersion", slit[column].to_numpy(), slit[column].attrs)
    n_columns = slit.sizes[column]
    if "wavelength" not in slit:
        return {**labels, "wavelength": ("dispersion", np.full(n_columns, np.nan), {"units": "um"})}
    found = map_blocks(
        mean_over_profile,
        *(one_chunk(array, row, column) for array in (slit["wavelength"], model["profile"], model["aperture"])),
        core=(row, column),
        outputs={"wavelength": (("dispersion",), np.float64)},
        sizes={"dispersion": n_columns},
    )
    return {**labels, "wavelength": found["wavelength"].assign_attrs({**slit["wavelength"].attrs, "units": "um"})}


def _at_mean_wavelength(flux: xr.DataArray, dq: xr.DataArray, slit: xr.Dataset, model: xr.Dataset) -> xr.DataArray:
    """Return fluxes at the wavelengths of :func:`_labels`, also in columns that lost pixels."""
    row, column = image_dims(slit)
    found = map_blocks(
        at_mean_wavelength,
        *(each.rename(dispersion=column) for each in (flux, dq)),
        one_chunk(slit["wavelength"], row, column),
        *(model[name] for name in ("profile", "aperture", "weight")),
        core=(row, column),
        outputs={"flux": (tuple(map(str, flux.dims)), np.float64)},
        sizes={"dispersion": slit.sizes[column]},
    )
    return found["flux"].assign_attrs(flux.attrs)


def _of_pixels(slit: xr.Dataset, model: xr.Dataset, is_box: bool, units: _Units) -> dict[str, xr.DataArray]:
    """Return weights of pixels in the flux, the profile, and the variance of a background that exposures may share."""
    row, column = image_dims(slit)
    found = map_blocks(
        weights_of_sum,
        *(model[name] for name in ("weight", "profile", "response", "aperture", "is_used")),
        core=(row, column),
        outputs={"weight": ((row, "dispersion"), np.float32)},
        sizes={"dispersion": slit.sizes[column]},
        is_box=is_box,
        to_flux=units.to_flux,
    )
    if "var_background" in slit:
        variance = slit["var_background"].reset_coords(drop=True).drop_vars(column, errors="ignore")
        found["var_background"] = variance.rename({column: "dispersion"})
    found["profile"] = model["profile"].astype(np.float32).reset_coords(drop=True).drop_vars(column, errors="ignore")
    found["profile"] = found["profile"].rename({column: "dispersion"}).drop_vars(row, errors="ignore")
    for name in _CARRIED & set(map(str, slit.variables)):
        values = slit[name].reset_coords(drop=True).drop_vars([row, column], errors="ignore")
        found[name] = values.rename({column: "dispersion"})
    if row in slit.coords:
        pixels = (_CARRIED | {"weight", "profile"}) & set(found)
        found |= {name: found[name].assign_coords({row: slit[row].variable}) for name in pixels}
    return found


def _with_shared_noise(
    values: dict[str, xr.DataArray], weight: xr.DataArray, variance: xr.DataArray
) -> dict[str, xr.DataArray]:
    """Return variances of a spectrum, scaled up by noise of the background that all rows of a column share."""
    row = str(weight.dims[0])
    plain = weight.drop_vars(list(weight.coords)).astype(np.float64)  # squares of float32 may overflow
    own = xr.DataArray(variance.variable, name="").rename(dict(zip(variance.dims, weight.dims, strict=True)))
    own = own.fillna(0.0)
    once = (plain * np.sqrt(own)).sum(row) ** 2 - (plain**2 * own).sum(row)
    total = sum(values[f"flux_var_{kind}"] for kind in VARIANCES)
    scale = 1 + np.maximum(once, 0) / total
    names = [f"{prefix}_var_{kind}" for prefix in ("flux", "sb") for kind in ("poisson", "rnoise")]
    return {name: (values[name] * scale).assign_attrs(values[name].attrs) for name in names}


def _scalars(slit: xr.Dataset, model: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the positions of the source, and how much the exposure disagrees with the others."""
    found = {name: model[name].reset_coords(drop=True).assign_attrs(units="pixel") for name in _POSITIONS}
    if "disagreement" in slit:  # of exposures, from flag_outliers
        found = {"disagreement": slit["disagreement"].reset_coords(drop=True), **found}
    return found


def model_image(spectrum: xr.Dataset, model: xr.Dataset, slit: xr.Dataset) -> xr.Dataset:
    """Return the fitted signal of every pixel, for example to replace missing pixels with it.

    Parameters
    ----------
    spectrum : Dataset
        From :func:`extract_spectrum`.
    model : Dataset
        From :func:`nsxr.fit_trace_model`.
    slit : Dataset
        The slit that they were made from.

    Returns
    -------
    Dataset
        ``model`` [units of sci] and ``model_variance`` on the pixels of the slit, with integration in front if the
        spectrum has it, float64. The variance is that of the flux and of the profile. NaN outside the aperture, and in
        columns that cannot be used.
    """
    units, dims = _Units.of(slit), slit["sci"].dims
    kept = on_pixels((spectrum["dq"] & np.uint32(PixelFlag.DO_NOT_USE)) == 0, slit)
    flux = on_pixels(spectrum["flux"], slit) / units.to_flux
    level = on_pixels(spectrum["background"], slit) / (units.to_brightness or 1.0)
    variance = sum(on_pixels(spectrum[f"flux_var_{kind}"], slit) for kind in VARIANCES) / units.to_flux**2
    extra = sum(on_pixels(spectrum[f"bkgd_var_{kind}"], slit) for kind in VARIANCES) / (units.to_brightness or 1.0) ** 2
    inside = kept & (model["aperture"] > 0)
    image = (flux * model["response"] + level * model["sky"] + model["beside"]).where(inside)
    uncertain = variance * model["profile"] ** 2 + flux**2 * model["profile_uncertainty"] ** 2 + extra
    return xr.Dataset(
        {
            "model": image.transpose(*dims).assign_attrs(units=units.units),
            "model_variance": uncertain.where(inside).transpose(*dims).assign_attrs(units=f"({units.units})2"),
        }
    )
