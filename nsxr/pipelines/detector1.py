"""Run stage 1: the corrections from raw ramps to count rates, in order."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import overload

import xarray as xr

from nsxr.associate.predecessors import earlier_exposures
from nsxr.compute.layouts import is_kept
from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.model.dims import RAMP
from nsxr.model.history import steps
from nsxr.model.keywords import about
from nsxr.model.parameters import said
from nsxr.model.types import Entries, Named
from nsxr.model.variables import check
from nsxr.pipelines.pipeline import Pipeline
from nsxr.pipelines.settings import Settings
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise
from nsxr.ramps.cosmic_rays import flag_cosmic_rays
from nsxr.ramps.count_rates import fit_count_rates
from nsxr.ramps.dark_current import subtract_dark
from nsxr.ramps.dq_init import initialize_dq
from nsxr.ramps.gain_scale import scale_gain
from nsxr.ramps.group_scale import scale_groups
from nsxr.ramps.linearity import correct_linearity
from nsxr.ramps.persistence import flag_persistence, last_saturation, latest_saturation
from nsxr.ramps.picture_frame import subtract_picture_frame
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.ramps.saturation import flag_saturation
from nsxr.ramps.superbias import subtract_superbias

__all__ = ["AFTER_SATURATION", "DETECTOR1", "correct_ramps", "detector1", "fit_rates", "saturation_of"]


def _find_as_fitted(parameters: dict[str, Entries]) -> None:
    """Use the jump algorithm that belongs to the algorithm of the fit, unless the user chose one."""
    if parameters["ramp_fit"].get("algorithm") == "ols":
        parameters["jump"] = {"algorithm": "two-point", **parameters["jump"]}


DETECTOR1 = Pipeline(
    "detector1",
    [
        scale_groups,
        initialize_dq,
        flag_saturation,
        subtract_superbias,
        subtract_reference_pixels,
        correct_linearity,
        subtract_dark,
        flag_cosmic_rays,
        subtract_picture_frame,
        clean_flicker_noise,
        flag_persistence,
        fit_count_rates,
        scale_gain,
    ],
    products=("rate", "rateints"),
    agree=_find_as_fitted,
)
"""The steps of stage 1 in order. They are the same for every EXP_TYPE."""

AFTER_SATURATION = "superbias"
"""The first step that :func:`saturation_of` does not run."""


@overload
def detector1(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    light: xr.DataArray | None = ...,
    skip: Collection[str] = ...,
    run: Collection[str] = ...,
    **parameters: Named,
) -> xr.DataTree: ...


@overload
def detector1(
    exposure: Sequence[xr.Dataset],
    references: Mapping[str, xr.Dataset] | Sequence[Mapping[str, xr.Dataset]],
    *,
    light: xr.DataArray | Sequence[xr.DataArray | None] | None = ...,
    skip: Collection[str] = ...,
    run: Collection[str] = ...,
    **parameters: Named,
) -> list[xr.DataTree]: ...


@DETECTOR1.shows_steps
def detector1(
    exposure: xr.Dataset | Sequence[xr.Dataset],
    references: Mapping[str, xr.Dataset] | Sequence[Mapping[str, xr.Dataset]],
    *,
    light: xr.DataArray | Sequence[xr.DataArray | None] | None = None,
    skip: Collection[str] = (),
    run: Collection[str] = (),
    **parameters: Named,
) -> xr.DataTree | list[xr.DataTree]:
    """Calibrate a raw exposure, or the exposures of a programme, to count rates.

    Parameters
    ----------
    exposure : Dataset, or sequence of Dataset
        Raw ramps, as from :func:`nsxr.open_exposure`: ``sci`` (integration, group, row, column) [DN]. Several exposures
        may be in any order. With ``persistence={"persistence_time": ...}``, pixels that saturate in an exposure are
        flagged for that time in the later exposures of the same detector.
    references : mapping of str to Dataset, or sequence of mapping
        References by type, as from :func:`nsxr.open_references`. Give one mapping for all exposures, or one for each.
    light : DataArray, or sequence of DataArray or None
        Pixels on which light can fall, from :func:`nsxr.locate_light`: one for all exposures, or one for each. They
        count as lit in ``clean_flicker_noise``.
    skip : collection of str
        Steps to skip. Products record which steps were skipped.
    run : collection of str
        Steps to run that are off by default; the command ``nsxr steps`` lists them. A step is also on if any of
        its parameters is given. A step in ``skip`` is always off.
    **parameters : mapping
        Parameters of a step under its name: ``jump={"rejection_threshold": 5.0}``. The command ``nsxr parameters`` and
        the page Parameters of the documentation list all of them.

    Returns
    -------
    DataTree, or list of DataTree in the order of the exposures
        ``rate`` (row, column), all integrations combined, and ``rateints`` (integration, row, column). Each has ``sci``
        [DN/s], ``dq``, ``var_poisson`` and ``var_rnoise`` [(DN/s)2]. The result is lazy if the exposure is lazy.

    Raises
    ------
    MissingReferenceError
        If steps lack references. The message names all missing references.
    ModelError
        If the exposure is not raw, because a correction was already applied.
    ParameterError
        If a step or parameter is unknown, or a value is not allowed.

    Notes
    -----
    If you compute a part of a lazy result, everything that the part depends on is computed, and none of it is kept.
    Reference pixels, snowballs and jumps need whole frames: one pixel of a full-frame rate costs two thirds of the time
    of the whole rate. Do not compute one part after the other. Call ``result.compute()`` once, or write the result with
    :func:`nsxr.write_products`.
    """
    settings = DETECTOR1.settings(parameters, skip, run)
    if isinstance(exposure, xr.Dataset):
        if not isinstance(references, Mapping):
            raise ParameterError(
                f"references is {said(references)}; one exposure takes one mapping of names to Datasets"
            )
        if light is not None and not isinstance(light, xr.DataArray):
            raise ParameterError(f"light is {said(light)}; one exposure takes one DataArray")
        return _fit_rates(_last(_correct_ramps(exposure, references, settings, None, light)), references, settings)
    exposures = list(exposure)
    each = [references] * len(exposures) if isinstance(references, Mapping) else list(references)
    if len(each) != len(exposures):
        raise ParameterError(f"{len(exposures)} exposures and {len(each)} mappings of references; give one for each")
    lights = [light] * len(exposures) if light is None or isinstance(light, xr.DataArray) else list(light)
    if len(lights) != len(exposures):
        raise ParameterError(f"{len(exposures)} exposures and {len(lights)} images of light; give one for each")
    duration = persistence_time(settings)
    headers = [one.attrs for one in exposures]
    trees = []
    for one, own, lit in zip(exposures, each, lights, strict=True):
        before = None
        if duration:
            chosen = earlier_exposures(one.attrs, headers, duration)
            states = [_saturation_of(exposures[i], each[i], settings) for i in chosen]
            before = latest_saturation(states) if states else None
        trees.append(_fit_rates(_last(_correct_ramps(one, own, settings, before, lit)), own, settings))
    return trees


def persistence_time(settings: Settings) -> float | None:
    """Return how long saturated pixels show persistence in later exposures [s]. None if the step is off."""
    is_on = "persistence" not in settings.skip
    duration = settings.parameters["persistence"].get("persistence_time") if is_on else None
    return float(duration) if duration else None


@DETECTOR1.shows_steps
def saturation_of(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    skip: Collection[str] = (),
    run: Collection[str] = (),
    **parameters: Named,
) -> xr.DataArray:
    """Return when pixels of a raw exposure were last saturated. Later exposures use these times.

    The parameters are those of :func:`detector1`. Only references of the steps before :data:`AFTER_SATURATION` are
    used.

    Returns
    -------
    DataArray
        (row, column) float64 [d], see :func:`nsxr.ramps.persistence.last_saturation`.
    """
    return _saturation_of(exposure, references, DETECTOR1.settings(parameters, skip, run))


def _saturation_of(exposure: xr.Dataset, references: Mapping[str, xr.Dataset], settings: Settings) -> xr.DataArray:
    return last_saturation(_last(DETECTOR1.correct(exposure, references, settings, until=AFTER_SATURATION)))


@DETECTOR1.shows_steps
def correct_ramps(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    before: xr.DataArray | None = None,
    light: xr.DataArray | None = None,
    skip: Collection[str] = (),
    run: Collection[str] = (),
    **parameters: Named,
) -> dict[str, xr.Dataset]:
    """Run the corrections of the ramps: all steps before the fit.

    The parameters are those of :func:`detector1`. ``before`` is that of :func:`nsxr.flag_persistence`.

    Returns
    -------
    dict of str to Dataset
        The exposure after each step, by name of the step, in order. All are lazy. A Dataset that is not used costs no
        time.
    """
    settings = DETECTOR1.settings(parameters, skip, run)
    return _correct_ramps(exposure, references, settings, before, light)


def _correct_ramps(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    settings: Settings,
    before: xr.DataArray | None,
    light: xr.DataArray | None,
) -> dict[str, xr.Dataset]:
    check(exposure, "sci", units={"sci": "DN"}, dims=RAMP)
    done = [entry["step"] for entry in steps(exposure) if entry["status"] == "COMPLETE"]
    if done:
        raise ModelError(
            f"the exposure has had {', '.join(done)} already, expected a raw exposure; give it as nsxr.open_exposure "
            "returns it, or call the functions of the remaining steps"
        )
    given: dict[str, dict[str, object]] = {"persistence": {"before": before}, "clean_flicker_noise": {"light": light}}
    is_cleaned = DETECTOR1.is_done("clean_flicker_noise", exposure, settings)
    given["jump"] = {"needs_signal": is_cleaned and is_kept(exposure["sci"].sizes)}
    left_out: dict[str, str] = {}
    method = settings.parameters["picture_frame"].get("method", "fit")
    if method == "fit" and all(DETECTOR1.is_done(name, exposure, settings) for name in _JOINT):
        given["clean_flicker_noise"] |= {"picture_frame": references.get("pictureframe")}
        left_out["picture_frame"] = "fitted together with correlated noise, in clean_flicker_noise"
    return DETECTOR1.correct(exposure, references, settings, given=given, left_out=left_out)


_JOINT = ("picture_frame", "clean_flicker_noise")
"""Steps that are fitted together if both are on."""


@DETECTOR1.shows_steps
def fit_rates(
    ramps: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    skip: Collection[str] = (),
    run: Collection[str] = (),
    **parameters: Named,
) -> xr.DataTree:
    """Fit corrected ramps, and scale the rates by the gain setting.

    The parameters are those of :func:`detector1`. ``ramps`` is the last Dataset of :func:`correct_ramps`.

    Returns
    -------
    DataTree
        ``rate`` and ``rateints``.
    """
    return _fit_rates(ramps, references, DETECTOR1.settings(parameters, skip, run))


def _fit_rates(ramps: xr.Dataset, references: Mapping[str, xr.Dataset], settings: Settings) -> xr.DataTree:
    given = {"ramp_fit": {"dark_current": settings.parameters["dark_current"].get("average_dark_current")}}
    left_out: dict[str, str] = {}
    gain = references.get("gain")
    if "gain_scale" not in settings.skip and gain is not None and gain.attrs.get("gain_factor") is None:
        left_out["gain_scale"] = "the gain reference has no usable GAINFACT"
        warnings.warn(
            about(
                ramps.attrs,
                f"the gain reference {gain.attrs.get('filename', 'in memory')} has no usable GAINFACT, "
                "so rates are not scaled to the gain of full frames",
            ),
            DegradedResultWarning,
            stacklevel=3,
        )
    return DETECTOR1.make_products(ramps, references, settings, given=given, left_out=left_out)


def _last(stages: Mapping[str, xr.Dataset]) -> xr.Dataset:
    return list(stages.values())[-1]
