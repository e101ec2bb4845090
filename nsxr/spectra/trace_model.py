"""Fit the trace of a source on the detector: position, profile, photon noise and outliers, from its exposures."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, overload

import numpy as np
import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.compute.passes import settle
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.model.arguments import checks_arguments
from nsxr.model.dims import image_dims
from nsxr.model.dq import UNUSABLE
from nsxr.model.history import record
from nsxr.model.parameters import Limits, Range, Unit, said
from nsxr.model.readout import DETECTOR_SIZE
from nsxr.model.slit_header import SlitHeader, quadrant_of
from nsxr.model.variables import check_slit
from nsxr.spectra.series_mean import mean_image
from nsxr.spectra.trace_fit import OUTPUTS, FitSettings, fit_exposures, fit_one_exposure

__all__ = ["BACKGROUND_TERMS", "fit_trace_model", "usable_pixels"]

BACKGROUND_TERMS = {"none": 0, "constant": 1, "linear": 2, "if any": -1}
"""Terms of each kind of local background; -1 if pixels beside the trace decide, after a background subtraction."""
_IMAGES = ("sci", "var_poisson", "var_rnoise")
_PLACES = ("wavelength", "sky_part", "slit_y")
"""What else the fit uses of pixels. Slits may lack each of them."""
_OF_ONE_INTEGRATION = ("background_variance", "variance_of_signal", "beside_variance")

_Rows = Annotated[float, Range(0, 2048, is_open=True), Unit("pixel")]
Background = Literal["auto", "none", "constant", "linear"]


@dataclass(frozen=True)
class _Options:
    """Hold the parameters of :func:`fit_trace_model`."""

    half_width: float | None
    position: float | None
    position_prior: float
    background: Background
    rejection_threshold: float
    rescale_noise: bool

    def __post_init__(self) -> None:
        for name in ("half_width", "position_prior"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= DETECTOR_SIZE:
                raise ParameterError(
                    f"{name} is {value}, expected a positive number of pixels, at most {DETECTOR_SIZE}"
                )

    def kind_of_background(self, slit: xr.Dataset) -> str:
        """Return the kind of local background, with ``auto`` replaced by the kind that it stands for."""
        if self.background == "auto":
            header = SlitHeader.of(slit)
            if header.is_sky_subtracted:
                return "if any"
            if len(header.shutters) > 1 or quadrant_of(slit.attrs) not in (1, 2, 3, 4):
                return "constant"
            warnings.warn(
                f"slitlet {header.name or '?'} has one open shutter, where a sky looks like the wings of the source: "
                "no local background is subtracted; subtract nods or a spectrum of the sky",
                DegradedResultWarning,
                stacklevel=5,
            )
            return "none"
        if self.background not in ("none", "constant", "linear"):
            raise ParameterError(f"background is {self.background!r}, expected auto, none, constant or linear")
        return self.background


def usable_pixels(slit: xr.Dataset) -> xr.DataArray:
    """Return which pixels are measurements: finite, and without flags of :data:`nsxr.model.dq.UNUSABLE`."""
    return ((slit["dq"] & UNUSABLE) == 0) & np.isfinite(slit["sci"])


def _warn_of_unknown_source(slit: xr.Dataset) -> None:
    """Warn if SRCTYPE has an unknown value. No value, N/A and UNKNOWN are usual, and mean a point source."""
    header = SlitHeader.of(slit)
    if header.source_type not in ("POINT", "EXTENDED", "UNKNOWN", "N/A", ""):
        message = (
            f"{header.called('a slit')}: SRCTYPE is {said(slit.attrs['SRCTYPE'])}, expected POINT or EXTENDED; "
            "treated as a point source"
        )
        warnings.warn(message, DegradedResultWarning, stacklevel=4)


@overload
def fit_trace_model(
    slits: xr.Dataset,
    *,
    half_width: _Rows | None = ...,
    position: Annotated[float, Range(-2048, 4096), Unit("pixel")] | None = ...,
    position_prior: _Rows = ...,
    background: Background = ...,
    rejection_threshold: Limits = ...,
    rescale_noise: bool = ...,
) -> xr.Dataset: ...


@overload
def fit_trace_model(
    slits: Sequence[xr.Dataset],
    *,
    half_width: _Rows | None = ...,
    position: Annotated[float, Range(-2048, 4096), Unit("pixel")] | None = ...,
    position_prior: _Rows = ...,
    background: Background = ...,
    rejection_threshold: Limits = ...,
    rescale_noise: bool = ...,
) -> list[xr.Dataset]: ...


@checks_arguments  # also arguments that other functions pass on
def fit_trace_model(
    slits: xr.Dataset | Sequence[xr.Dataset],
    *,
    half_width: _Rows | None = None,
    position: Annotated[float, Range(-2048, 4096), Unit("pixel")] | None = None,
    position_prior: _Rows = 0.3,
    background: Background = "auto",
    rejection_threshold: Limits = 5.0,
    rescale_noise: bool = True,
) -> xr.Dataset | list[xr.Dataset]:
    """Fit position, profile and photon noise of the source in a slit, or in several nods of this source together.

    The profile is smooth along the dispersion and free across it. It is a Gaussian whose centre and width are parabolas
    in wavelength, plus splines whose size is determined by the data. Nods share the profile and the shape of the trace,
    but each has its own offset and fluxes. Time series are averaged over integrations first. Other sources in the slit
    that are at least 2.5 rows away are fitted too: each has its own flux in every column, and the profile of a point
    source. If the source is extended, all the light in the slit belongs to it.

    Parameters
    ----------
    slits : Dataset, or sequence of Dataset
        Each with ``sci`` [DN/s, MJy or MJy/sr], ``dq``, ``var_poisson``, ``var_rnoise``, ``wavelength``, see
        :mod:`nsxr.slits.collection`. Several slits are exposures of one source.
    half_width : float, optional
        Half width of the aperture [pixel]; 3 for point sources. The aperture of extended sources (SRCTYPE) is the slit
        with its tilt; a half width makes it narrower.
    position : float, optional
        Planned detector row of the source in the middle column. By default it follows from SRCYPOS, SHUTSTA and the
        edges of the slit, or from the light if these are not known.
    position_prior : float, default 0.3
        Standard deviation of the true position from the planned one [pixel].
    background : {"auto", "none", "constant", "linear"}
        Local background of each column in open shutters, fitted together with the flux. ``auto`` is a constant, or
        none for a single open shutter, where a sky looks like the wings of the source. If a
        background was subtracted before, ``auto`` is a constant only if pixels beside the trace of a point source show
        a remaining background, by 5 standard deviations and half a percent of the flux, or if a constant replaces two
        or more faint sources that would be found without it.
    rejection_threshold : float, default 5
        Pixels are left out that deviate from the model by more than this number of standard deviations plus 2 % of the
        light around them.
    rescale_noise : bool, default True
        Scale variances up to the scatter of pixels without light. Variances of time series are not scaled.

    Returns
    -------
    Dataset, or list of Dataset
        For each slit, on its pixels: ``profile``, the part of the flux of a column in a pixel, with
        ``profile_uncertainty``; ``aperture``, the part of each pixel within the aperture; ``weight``, the weight of a
        pixel in the flux of its column; ``is_used``; ``response``, the signal in a pixel for a flux of one, which
        equals the profile except for extended sources with subtracted nods; ``beside``, the light of other sources, and
        of subtracted nods of a point source [units of sci], with its photon noise ``beside_variance``; ``sky``, the
        part of a uniform sky that open shutters let through.

        Along its columns: ``trace`` and ``width`` [pixel]; ``flux`` [units of sci]; ``steady_flux`` [units of sci], the
        flux without the noise of the column itself, for models of variance; ``background_variance`` and
        ``variance_of_signal`` (of single integrations); ``profile_variance``, the relative variance of the flux that
        comes from the profile; ``off_profile``, columns with lines whose light is distributed differently from the
        continuum. In these columns no pixel is left out because of this difference, and fluxes are sums over the
        aperture.

        Scalars: ``background_terms``, 0, 1 or 2 for none, a constant or a line; ``neighbours``, the number of other
        sources found; ``noise_scale``; ``position_planned`` (NaN if not known), ``position_fitted`` and
        ``position_uncertainty`` [detector row, middle column]. All variables are float64, except ``is_used`` and
        ``off_profile``. Lazy if a slit is.

    Warns
    -----
    DegradedResultWarning
        If SRCTYPE has an unknown value. The source is then treated as a point source. If the slit is a single open
        shutter, and no sky was subtracted.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    ParameterError
        If a parameter is out of its range, or an exposure comes twice.

    References
    ----------
    Horne 1986 (PASP 98, 609); Bolton & Burles 2007 (NJP 9, 443) for profiles by splines.
    """
    options = _Options(half_width, position, position_prior, background, rejection_threshold, rescale_noise)
    alone = isinstance(slits, xr.Dataset)
    each = [slits] if isinstance(slits, xr.Dataset) else list(slits)
    if not each:
        raise ParameterError("no slit given")
    require_distinct(each)
    kinds = [check_slit(slit, "sci", "dq", "var_poisson", "var_rnoise") for slit in each]
    dims = kinds[0]
    if len(set(kinds)) > 1:
        raise ModelError("some slits are resampled and others are not, expected one kind: give cal or s2d products")
    rows = np.unique(np.concatenate([slit[dims[0]].values for slit in each]))
    are_apart = rows.size > 1.5 * max(slit.sizes[dims[0]] for slit in each)  # slits that have no rows in common
    groups = [[slit] for slit in each] if are_apart else [each]
    models = []
    for group in groups:
        for slit in group:
            _warn_of_unknown_source(slit)
        models += _fit_together(group, options)
    return models[0] if alone else models


def _fit_together(each: Sequence[xr.Dataset], options: _Options) -> list[xr.Dataset]:
    """Return the model of each exposure of one source."""
    dims, headers = image_dims(each[0]), [SlitHeader.of(slit) for slit in each]
    is_series = any("integration" in slit.dims for slit in each)
    kind = options.kind_of_background(each[0])
    settings = FitSettings(
        first_row=float(min(slit[dims[0]].values[0] for slit in each)),
        shutters=tuple(header.shutters for header in headers),
        places=tuple(header.source_y or 0.0 for header in headers),
        sources=tuple(header.places if "slit_y" in slit else () for header, slit in zip(headers, each, strict=True)),
        nods=tuple(
            None if header.nods is None else tuple(shift for shift in header.nods if shift is not None)
            for header in headers
        ),
        position=options.position,
        half_width=options.half_width,
        position_prior=options.position_prior,
        rejection_threshold=options.rejection_threshold,
        # the mean of many integrations has so little noise that the wings of the profile would look like excess noise
        rescale_noise=options.rescale_noise and not is_series,
        background_terms=BACKGROUND_TERMS[kind],
        is_extended=headers[0].is_extended,
    )
    parameters = {
        "half_width": options.half_width,
        "position": options.position,
        "position_prior": options.position_prior,
        "background": kind,
        "rejection_threshold": options.rejection_threshold,
        "rescale_noise": options.rescale_noise,
        "exposures": len(each),
    }
    is_alone = len(each) == 1 and not is_series
    found = [_fit_one(each[0], settings)] if is_alone else _fit_stack(each, settings, is_series)
    models = []
    for slit, own in zip(each, found, strict=True):
        own.attrs = {**slit.attrs, "background": kind, "position_prior": options.position_prior}
        own.attrs["is_position_given"] = int(options.position is not None)
        own["trace"].attrs["units"] = own["width"].attrs["units"] = "pixel"
        own["flux"].attrs["units"] = own["beside"].attrs["units"] = slit["sci"].attrs.get("units", "")
        models.append(record(own, "fit_trace_model", parameters=parameters))
    return models


def _fit_one(slit: xr.Dataset, settings: FitSettings) -> xr.Dataset:
    """Return the results of a fit to a single exposure."""
    dims = image_dims(slit)
    own = {"pixel": dims, "column": dims[1:], "exposure": ()}
    found = map_blocks(
        fit_one_exposure,
        *(one_chunk(slit[name], *dims) for name in (*_IMAGES, "dq")),
        *(_image_of(slit, name) for name in _PLACES),
        core=dims,
        outputs={name: (own[kind], dtype) for name, (kind, dtype) in OUTPUTS.items()},
        settings=settings,
    )
    return xr.Dataset(found, coords={dim: slit.coords[dim] for dim in dims})


def _fit_stack(each: Sequence[xr.Dataset], settings: FitSettings, is_series: bool) -> list[xr.Dataset]:
    """Return the results of a fit to several exposures, or to the mean of a time series, one for each exposure."""
    dims = image_dims(each[0])
    labels = {dim: np.unique(np.concatenate([slit[dim].values for slit in each])) for dim in dims}
    means = [mean_image(slit, usable_pixels(slit)) for slit in each]
    images = [
        mean.assign({name: _image_of(slit, name) for name in _PLACES}) for mean, slit in zip(means, each, strict=True)
    ]
    if len(each) > 1:
        images = [
            image.drop_vars("usable").reindex(labels).assign(usable=image["usable"].reindex(labels, fill_value=False))
            for image in images
        ]
    names = (*_IMAGES, "usable", *_PLACES)
    core = ("exposure", *dims)
    own = {"pixel": core, "column": ("exposure", dims[1]), "exposure": ("exposure",)}
    found = map_blocks(
        fit_exposures,
        *(one_chunk(xr.concat([image[name] for image in images], "exposure"), *core) for name in names),
        core=core,
        outputs={name: (own[kind], dtype) for name, (kind, dtype) in OUTPUTS.items()},
        settings=settings,
    )
    if is_series:  # the model needs all integrations, and extraction of each one needs the model
        found = {name: settle(array) for name, array in found.items()}
    together = xr.Dataset(found, coords=labels)
    models = []
    for number, (slit, mean) in enumerate(zip(each, means, strict=True)):
        own_model = together.isel(exposure=number, drop=True).sel({dim: slit[dim].values for dim in dims})
        if is_series:  # variances of one integration, not of the mean
            n_averaged = mean["n_averaged"]
            own_model = own_model.assign({name: own_model[name] * n_averaged for name in _OF_ONE_INTEGRATION})
        models.append(own_model)
    return models


def _image_of(slit: xr.Dataset, name: str) -> xr.DataArray:
    """Return wavelengths, or another property of pixels; NaN if a slit does not have it."""
    if name in slit:
        return slit[name].reset_coords(drop=True)
    dims = image_dims(slit)
    return xr.DataArray(np.full([slit.sizes[dim] for dim in dims], np.nan, dtype=np.float32), dims=dims)
