"""Stage 1: the ordered corrections from raw ramps to count rates."""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ParamSpec, TypeVar, overload

import xarray as xr

from nsxr.compute.blocks import settle
from nsxr.compute.layouts import is_kept, rechunk_by_tasks, to_blocks, to_ramps
from nsxr.errors import DegradedResultWarning, MissingReferenceError, ModelError, ParameterError
from nsxr.model.history import record_skip, steps
from nsxr.model.keywords import about
from nsxr.model.parameters import Choices, Parameter, Range, closest, parameters_of, said
from nsxr.model.provenance import noted
from nsxr.model.readout import Readout
from nsxr.model.variables import RAMP, check
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise
from nsxr.ramps.dark_current import average_dark_current, subtract_dark
from nsxr.ramps.dq_init import initialize_dq
from nsxr.ramps.gain_scale import scale_gain
from nsxr.ramps.group_scale import scale_groups
from nsxr.ramps.jump import flag_jumps, why_no_jumps
from nsxr.ramps.linearity import correct_linearity
from nsxr.ramps.persistence import (
    earlier_exposures,
    flag_persistence,
    last_saturation,
    latest_saturation,
)
from nsxr.ramps.picture_frame import subtract_picture_frame
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.ramps.read_noise import read_noise_after_cleaning, rescale_read_noise
from nsxr.ramps.reference_pixels.refpix import subtract_reference_pixels
from nsxr.ramps.saturation import flag_saturation
from nsxr.ramps.snowballs import flag_snowballs
from nsxr.ramps.superbias import subtract_superbias
from nsxr.references.choose import References
from nsxr.references.match import require_kind

__all__ = [
    "SATURATION_REFERENCES",
    "STEPS",
    "all_settings",
    "check_settings",
    "correct_ramps",
    "detector1",
    "fit_rates",
    "reference_types",
    "saturation_of",
]


@dataclass(frozen=True)
class Step:
    """One step of stage 1: the functions that it runs and the references that it takes.

    ``options`` are parameters of the step that no function takes under that name, or with another default.
    """

    functions: tuple[Callable[..., Any], ...]
    references: tuple[str, ...] = ()
    options: tuple[Parameter, ...] = ()

    @cached_property
    def declared(self) -> dict[str, Parameter]:
        """The parameters of the step, by name."""
        found: dict[str, Parameter] = {}
        for function in self.functions:
            found |= parameters_of(function, _GIVEN)
        return {**found, **{option.name: option for option in self.options}}

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the parameters of the step."""
        return {name: parameter.default for name, parameter in self.declared.items()}


_GIVEN = ("average_dark_current", "series")  # keyword arguments that the pipeline works out
_DARK_CURRENT = Parameter(
    "average_dark_current",
    float,
    None,
    "Mean dark current, for the photon noise that it leaves behind; default that of the dark reference.",
    "electron/s",
    Range(0, 1e6),
)
_EXPAND = Parameter("expand_large_events", bool, True, "Whether snowballs, and showers on request, are looked for.")
_CORRECT = Parameter("correct", bool, False, "Whether the picture frame is subtracted.")
_FIT_METHOD = Parameter(
    "fit_method",
    str,
    "off",
    "How correlated noise is found: as its conditional mean given the dark pixels, or as their median. Or not at all.",
    choices=Choices("off", "optimal", "median"),
)
_RESCALE = Parameter(
    "rescale_read_noise", bool, False, "Whether the read noise reference is scaled to what dark pixels show."
)

STEPS: Mapping[str, Step] = {
    "group_scale": Step((scale_groups,)),
    "dq_init": Step((initialize_dq,), ("mask",)),
    "saturation": Step((flag_saturation,), ("saturation",)),
    "superbias": Step((subtract_superbias,), ("superbias",)),
    "refpix": Step((subtract_reference_pixels,), ("refpix",)),
    "linearity": Step((correct_linearity,), ("linearity",)),
    "dark_current": Step((subtract_dark,), ("dark",), (_DARK_CURRENT,)),
    "jump": Step((flag_jumps, flag_snowballs), ("readnoise", "gain"), (_EXPAND,)),
    "picture_frame": Step((subtract_picture_frame,), ("pictureframe",), (_CORRECT,)),
    "clean_flicker_noise": Step((clean_flicker_noise,), options=(_FIT_METHOD,)),
    "persistence": Step((flag_persistence,)),
    "ramp_fit": Step((fit_ramps,), ("readnoise", "gain"), (_RESCALE,)),
    "gain_scale": Step((scale_gain,), ("gain",)),
}
"""The steps of stage 1 in order, under the names of the observatory's pipeline."""

_ESSENTIAL = ("dq_init", "ramp_fit")

P = ParamSpec("P")
R = TypeVar("R")


def _with_steps(function: Callable[P, R]) -> Callable[P, R]:
    """Show the steps in the signature of a function, where help and completion find them, instead of ``parameters``."""
    shown = inspect.signature(function)
    kept = [one for one in shown.parameters.values() if one.kind is not one.VAR_KEYWORD]
    steps = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in STEPS]
    setattr(function, "__signature__", shown.replace(parameters=[*kept, *steps]))  # noqa: B010  (mypy knows none)
    return function


SATURATION_REFERENCES = ("mask", "saturation", "superbias")
"""Reference types that :func:`saturation_of` needs."""


@overload
def detector1(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    skip: Collection[str] = ...,
    **parameters: Mapping[str, Any],
) -> xr.DataTree: ...


@overload
def detector1(
    exposure: Sequence[xr.Dataset],
    references: Mapping[str, xr.Dataset] | Sequence[Mapping[str, xr.Dataset]],
    *,
    skip: Collection[str] = ...,
    **parameters: Mapping[str, Any],
) -> list[xr.DataTree]: ...


@_with_steps
def detector1(
    exposure: xr.Dataset | Sequence[xr.Dataset],
    references: Mapping[str, xr.Dataset] | Sequence[Mapping[str, xr.Dataset]],
    *,
    skip: Collection[str] = (),
    **parameters: Mapping[str, Any],
) -> xr.DataTree | list[xr.DataTree]:
    """Calibrate a raw exposure, or the exposures of a programme, to count rates.

    Parameters
    ----------
    exposure : Dataset, or sequence of Dataset
        Raw ramps, as from :func:`nsxr.open_exposure`: ``sci`` (integration, group, row, column) [DN]. Of several, in
        any order, saturated pixels are carried from one to the next of the same detector, if
        ``persistence={"persistence_time": ...}`` says for how long.
    references : mapping of str to Dataset, or sequence of mapping
        References by type, as from :func:`nsxr.open_references`; the same for all exposures, or one mapping for each.
    skip : collection of str
        Steps to leave out; this is recorded in the products.
    **parameters : mapping
        Parameters of a step under its name: ``jump={"rejection_threshold": 5.0}``. The command ``nsxr parameters`` and
        the page ``docs/parameters.md`` list all of them.

    Returns
    -------
    DataTree, or list of DataTree in the order of the exposures
        ``rate`` (row, column), all integrations combined, and ``rateints`` (integration, row,
        column). Each with ``sci`` [DN/s], ``dq``, ``var_poisson`` and ``var_rnoise`` [(DN/s)2]. Lazy
        if the exposure is: building computes nothing.

    Raises
    ------
    MissingReferenceError
        If a step lacks a reference; all missing ones are named at once.
    ModelError
        If the exposure is not raw: a correction was applied before.
    ParameterError
        If a step or parameter is unknown, or a value is not as declared.

    Notes
    -----
    A part of a lazy result computes what it depends on, and what is computed is not kept. Reference pixels, snowballs
    and jumps need whole frames, so that one pixel of a full-frame rate costs two thirds of all of it. Call
    ``result.compute()`` once and look at parts of that, or write it with :func:`nsxr.write_products`, instead of
    computing one part after the other.
    """
    if isinstance(exposure, xr.Dataset):
        if not isinstance(references, Mapping):
            raise ParameterError(
                f"references is {said(references)}; one exposure takes one mapping of names to Datasets"
            )
        return _rates_of(exposure, references, None, skip, parameters)
    exposures = list(exposure)
    each = [references] * len(exposures) if isinstance(references, Mapping) else list(references)
    if len(each) != len(exposures):
        raise ParameterError(f"{len(exposures)} exposures and {len(each)} mappings of references; give one for each")
    duration = check_settings(parameters, skip)["persistence"].get("persistence_time")
    headers = [one.attrs for one in exposures]
    trees = []
    for one, own in zip(exposures, each, strict=True):
        before = None
        if duration and "persistence" not in skip:
            chosen = earlier_exposures(one.attrs, headers, float(duration))
            states = [saturation_of(exposures[i], each[i], skip=skip, **parameters) for i in chosen]
            before = latest_saturation(states) if states else None
        trees.append(_rates_of(one, own, before, skip, parameters))
    return trees


def _rates_of(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    before: xr.DataArray | None,
    skip: Collection[str],
    parameters: Mapping[str, Mapping[str, Any]],
) -> xr.DataTree:
    stages = correct_ramps(exposure, references, before=before, skip=skip, **parameters)
    return fit_rates(list(stages.values())[-1], references, skip=skip, **parameters)


@_with_steps
def saturation_of(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    skip: Collection[str] = (),
    **parameters: Mapping[str, Any],
) -> xr.DataArray:
    """Return when pixels of a raw exposure were last saturated, for the exposures after it.

    Parameters as of :func:`detector1`; of the references, those in :data:`SATURATION_REFERENCES` are used.

    Returns
    -------
    DataArray
        (row, column) float64 [d], see :func:`nsxr.ramps.persistence.last_saturation`.
    """
    settings = check_settings(parameters, skip)
    return last_saturation(_linearized(exposure, references, settings, skip, until="superbias")["saturation"])


def reference_types(
    exposure: xr.Dataset, skip: Collection[str] = (), parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Return the reference types that stage 1 needs for an exposure, with parameters of steps as given."""
    needed = []
    for name, step in STEPS.items():
        is_off = name == "picture_frame" and not (parameters or {}).get(name, {}).get("correct", False)
        is_other = name == "refpix" and not Readout.of(exposure).is_irs2
        if name not in skip and not is_off and not is_other:
            needed += [kind for kind in step.references if kind not in needed]
    return needed


@_with_steps
@rechunk_by_tasks()
def correct_ramps(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    before: xr.DataArray | None = None,
    skip: Collection[str] = (),
    **parameters: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    """Run the corrections of the ramps: all but their fit.

    Parameters as of :func:`detector1`; ``before`` as in :func:`nsxr.flag_persistence`.

    Returns
    -------
    dict of str to Dataset
        The exposure after each step, by name of the step, in order. All lazy, so the ones that are
        not used cost nothing.
    """
    settings = check_settings(parameters, skip)
    check(exposure, "sci", units={"sci": "DN"}, dims=RAMP)
    done = [entry["step"] for entry in steps(exposure) if entry["status"] == "COMPLETE"]
    if done:
        raise ModelError(
            f"the exposure has had {', '.join(done)} already, expected a raw exposure; give it as nsxr.open_exposure "
            "made it, or go on with the functions of the steps that are left"
        )
    _require_references(reference_types(exposure, skip, settings), references)
    is_cheap = not Readout.of(exposure).is_irs2  # to correct a second time
    why_not = "on request" if "jump" in skip else why_no_jumps(exposure)
    if why_not is not None:
        stages = _linearized(to_ramps(exposure) if is_cheap else exposure, references, settings, skip)
        ramps = list(stages.values())[-1]
        stages["jump"] = record_skip(ramps, "jump", why_not)
        return {**stages, **_after_jumps(stages["jump"], references, before, settings, skip)}
    stages = _linearized(to_blocks(exposure) if is_cheap else exposure, references, settings, skip)
    ramps = to_blocks(list(stages.values())[-1])
    series = None
    is_series = ramps["sci"].chunks is not None and ramps.sizes["integration"] > 1
    if is_cheap and is_series and not is_kept({str(dim): size for dim, size in ramps["sci"].sizes.items()}):
        # what is ordinary for a pixel is found in all integrations, which memory need not hold at once
        with warnings.catch_warnings():  # what is degraded has just been said
            warnings.simplefilter("ignore", DegradedResultWarning)
            series = list(_linearized(to_ramps(exposure), references, settings, skip).values())[-1]
    stages["jump"] = _find_jumps(ramps, series, references, settings["jump"], is_cheap)
    return {**stages, **_after_jumps(stages["jump"], references, before, settings, skip)}


def _require_references(kinds: Sequence[str], references: Mapping[str, xr.Dataset]) -> None:
    """Raise unless there is a reference of each of these types, under its name."""
    missing = [kind for kind in kinds if kind not in references]
    if missing:
        users = [f"{kind} ({', '.join(s for s in STEPS if kind in STEPS[s].references)})" for kind in missing]
        left_out = references.why_not if isinstance(references, References) else lambda kind: ""
        reasons = [f"{kind}: {reason}" for kind in missing if (reason := left_out(kind))]
        why = f"; left out as {'; as '.join(reasons)}" if reasons else ""
        raise MissingReferenceError(
            f"references missing: {', '.join(users)}; give them, or skip the steps in brackets{why}"
        )
    for kind in kinds:
        require_kind(references[kind], kind)


def _after_jumps(
    ramps: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    before: xr.DataArray | None,
    settings: Mapping[str, Mapping[str, Any]],
    skip: Collection[str],
) -> dict[str, xr.Dataset]:
    """Run the steps between the search for jumps and the fit; return the exposure after each."""
    of_flicker, of_frame = settings["clean_flicker_noise"], dict(settings["picture_frame"])
    why_not = None
    if "clean_flicker_noise" in skip:
        why_not = "on request"
    elif of_flicker.get("fit_method", "off") == "off":
        why_not = "fit_method is off"
    elif ramps.sizes["group"] < 2:
        why_not = "1 group, at least 2 are needed; clean the rates"
    pattern = None
    if "picture_frame" in skip:
        framed = record_skip(ramps, "picture_frame", "on request")
    elif not of_frame.pop("correct", False):
        framed = record_skip(ramps, "picture_frame", "correct is not set")
    elif why_not is None and of_frame.get("method", "fit") == "fit":
        pattern = references["pictureframe"]
        framed = record_skip(ramps, "picture_frame", "fitted together with correlated noise, in clean_flicker_noise")
    else:
        framed = subtract_picture_frame(ramps, references["pictureframe"], **of_frame)
    if why_not is None:
        cleaned = clean_flicker_noise(framed, None, pattern, **of_flicker)
    else:
        cleaned = record_skip(framed, "clean_flicker_noise", why_not)
    if "persistence" in skip:
        flagged = record_skip(cleaned, "persistence", "on request")
    else:
        flagged = flag_persistence(cleaned, before, **settings["persistence"])
    return {"picture_frame": framed, "clean_flicker_noise": cleaned, "persistence": flagged}


def _linearized(
    exposure: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    settings: Mapping[str, Mapping[str, Any]],
    skip: Collection[str],
    until: str = "jump",
) -> dict[str, xr.Dataset]:
    """Run the steps before ``until``; return the exposure after each."""
    stages: dict[str, xr.Dataset] = {}
    current = exposure
    for name, step in STEPS.items():
        if name == until:
            break
        if name in skip:
            current = record_skip(current, name, "on request")
        elif name == "saturation":
            bias = None if "superbias" in skip else references["superbias"]
            current = flag_saturation(current, references["saturation"], bias, **settings[name])
        elif name == "refpix":
            current = subtract_reference_pixels(
                current, references.get("refpix"), references.get("sirskernel"), **settings[name]
            )
            # IRS2 frames had the layout of the transforms; what has all integrations in a chunk keeps them
            current = to_blocks(current) if "science_row" in exposure.coords else current
        elif name == "dark_current":
            options = {k: v for k, v in settings[name].items() if k != "average_dark_current"}
            current = subtract_dark(current, references["dark"], **options)
        else:
            current = step.functions[0](current, *(references[kind] for kind in step.references), **settings[name])
        stages[name] = current
    return stages


@_with_steps
@rechunk_by_tasks()
def fit_rates(
    ramps: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    *,
    skip: Collection[str] = (),
    **parameters: Mapping[str, Any],
) -> xr.DataTree:
    """Fit corrected ramps and scale the rates by the gain setting.

    Parameters as of :func:`detector1`, ``ramps`` being the last of :func:`correct_ramps`.

    Returns
    -------
    DataTree
        ``rate`` and ``rateints``.
    """
    settings = check_settings(parameters, skip)
    value = settings["dark_current"].get("average_dark_current")
    is_dark_used = "dark_current" not in skip
    _require_references([*(["dark"] if is_dark_used else []), "readnoise", "gain"], references)
    dark = references["dark"] if is_dark_used else None
    gain, readnoise = references["gain"], references["readnoise"]
    of_fit = dict(settings["ramp_fit"])
    if rescale := of_fit.pop("rescale_read_noise", False):
        readnoise = rescale_read_noise(ramps, readnoise, gain)
    dark_value = average_dark_current(dark, ramps, value)
    if "flicker_variance" in ramps:
        readnoise = read_noise_after_cleaning(ramps, readnoise, gain, dark_value)
    tree = fit_ramps(ramps, readnoise, gain, average_dark_current=dark_value, **of_fit)
    if "gain_scale" not in skip and gain.attrs.get("gain_factor") is None:
        warnings.warn(
            about(
                ramps.attrs,
                f"the gain reference {gain.attrs.get('filename', 'in memory')} has no usable GAINFACT, "
                "so rates are not scaled to the gain of full frames",
            ),
            DegradedResultWarning,
            stacklevel=2,
        )
    nodes = {}
    for name, node in tree.children.items():
        rates = node.to_dataset()
        if rescale:
            rates = rates.assign(_scale_keywords(readnoise["scale"]))
        if "gain_scale" in skip:
            nodes[name] = record_skip(rates, "gain_scale", "on request")
        elif gain.attrs.get("gain_factor") is None:
            nodes[name] = record_skip(rates, "gain_scale", "the gain reference has no usable GAINFACT")
        else:
            nodes[name] = scale_gain(rates, gain)
    recipe = {"parameters": all_settings(parameters), "skip": [name for name in STEPS if name in skip]}
    for name, rates in nodes.items():
        nodes[name] = rates.assign_attrs(noted(rates.attrs, recipe=recipe))
    return xr.DataTree.from_dict(nodes, name=tree.name)


def _find_jumps(
    ramps: xr.Dataset,
    series: xr.Dataset | None,
    references: Mapping[str, xr.Dataset],
    settings: Mapping[str, Any],
    is_cheap: bool,
) -> xr.Dataset:
    names = set(inspect.signature(flag_snowballs).parameters)
    of_snowballs = {k: v for k, v in settings.items() if k in names}
    of_jumps = {k: v for k, v in settings.items() if k not in names and k != "expand_large_events"}
    flagged = flag_jumps(ramps, references["readnoise"], references["gain"], series=series, **of_jumps)
    if not settings.get("expand_large_events", True):
        return flagged
    found = flag_snowballs(flagged, references["readnoise"], references["gain"], **of_snowballs)
    if not is_cheap or len((ramps["sci"].chunks or ((), (), ()))[2]) <= 1:
        return found
    # snowballs are looked for in the flags of whole frames; meanwhile the signal need not be kept
    waiting = [name for name, array in found.data_vars.items() if name == "groupdq" or "row" not in array.dims]
    return found.assign({name: settle(found[name]) for name in waiting})


def _scale_keywords(scale: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the factors on the read noise as numbers that become keywords of a product."""
    found = {}
    for number in scale["amplifier"].values:
        value = scale.sel(amplifier=number, drop=True)
        value.attrs = {"long_name": f"factor on read noise, output {number}", "keyword": f"RNSCALE{number}"}
        found[f"read_noise_scale_{number}"] = value
    return found


def check_settings(parameters: Mapping[str, Mapping[str, Any]], skip: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the parameters of every step after checking names and values.

    Jumps are looked for in the way of the fit, unless they have an algorithm of their own.

    Raises
    ------
    ParameterError
        If a step or a parameter is unknown, or a value is not as declared; all problems at once.
    """
    problems = []
    for name in [*parameters, *skip]:
        if name not in STEPS:
            problems.append(f"there is no step {name!r}{_hint(name, STEPS)}")
    problems += [f"step {name!r} cannot be skipped" for name in _ESSENTIAL if name in skip]
    settings: dict[str, dict[str, Any]] = {name: {} for name in STEPS}
    for name, given in parameters.items():
        if name not in STEPS or given is None:
            continue
        if not isinstance(given, Mapping) or isinstance(given, xr.Dataset):
            problems.append(f"parameters of step {name!r} must be a mapping, not {said(given)}")
            continue
        known = STEPS[name].declared
        for parameter, value in given.items():
            if parameter not in known:
                problems.append(f"step {name!r} has no parameter {parameter!r}{_hint(parameter, known)}")
                continue
            try:
                settings[name][parameter] = known[parameter].check(value, f"{name}.")
            except ParameterError as error:
                problems.append(str(error))
    if problems:
        raise ParameterError("; ".join(problems))
    if settings["ramp_fit"].get("algorithm") == "ols":
        settings["jump"] = {"algorithm": "two-point", **settings["jump"]}  # what is found agrees with what is fitted
    return settings


def all_settings(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the parameters of every step that has any, defaults filled in; those that are left open are left out."""
    settings = check_settings(parameters, ())
    filled = {name: {**step.parameters, **settings[name]} for name, step in STEPS.items()}
    known = {name: {k: v for k, v in values.items() if v is not None} for name, values in filled.items()}
    return {name: values for name, values in known.items() if values}


def _hint(name: Any, known: Collection[str]) -> str:
    meant = closest(name, known)
    return f", did you mean {meant!r}?" if meant else f"; known: {', '.join(known) or 'none'}"
