"""Run stage 2: from count rates to calibrated slits or slices, and to spectra, in order."""

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError, ParameterError
from nsxr.flux.bar_shadow import correct_bar_shadow
from nsxr.flux.flat_field import correct_flat_field
from nsxr.flux.master_background import SKY_STEPS, subtract_sky, subtract_sky_of_fixed_slits
from nsxr.flux.path_loss import correct_path_loss
from nsxr.flux.photometry import calibrate_flux
from nsxr.flux.sky import estimate_sky, sky_response
from nsxr.model.declarations import Takes, step
from nsxr.model.history import steps
from nsxr.model.keywords import about
from nsxr.model.provenance import noted
from nsxr.model.types import Function, Named
from nsxr.model.variables import check
from nsxr.optics.instrument import Optics
from nsxr.pipelines.members import Members, prepare
from nsxr.pipelines.pipeline import Pipeline
from nsxr.pipelines.settings import Settings
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise
from nsxr.slits.background import subtract_background
from nsxr.slits.bad_pixels import flag_bad_pixels
from nsxr.slits.collection import as_tree, iterate_slits, map_slits, warn_of_lost
from nsxr.slits.cut_outs import cut_slits
from nsxr.slits.imprint import subtract_imprint
from nsxr.slits.light import exposure_type, fixed_slit
from nsxr.slits.lit_pixels import locate_light
from nsxr.slits.pixel_replacement import replace_pixels
from nsxr.slits.slices import locate_slices
from nsxr.slits.source_type import set_source_type
from nsxr.slits.stuck_shutters import flag_stuck_shutters
from nsxr.slits.wavelength_zero_point import correct_wavelength_zero_point
from nsxr.spectra.aperture_correction import apply_aperture_correction
from nsxr.spectra.extraction import Weighting, extract_spectrum
from nsxr.spectra.trace_image import add_trace_model
from nsxr.spectra.trace_model import fit_trace_model

__all__ = ["MODES", "SPEC2", "spec2"]


@step("extract_2d", given=["optics", "shutters"], is_essential=True)
def cut(
    rate: xr.Dataset,
    *,
    optics: Optics,
    shutters: str | os.PathLike[str] | None = None,
    extended: bool = False,
) -> xr.DataTree:
    """Cut the slits out of count rates, with wavelengths and places along the slit.

    Parameters
    ----------
    rate : Dataset
        Count rates.
    optics, shutters
        As for :func:`nsxr.cut_slits`.
    extended : bool, default False
        Whether to cut out all wavelengths that the detector sees.
    """
    return cut_slits(rate, optics, shutters=shutters, coordinates=["slit_y"], extended=extended)


@step("assign_wcs", given=["optics"], is_essential=True)
def locate(rate: xr.Dataset, *, optics: Optics) -> xr.Dataset:
    """Add slice, wavelength and place along the slice to each pixel of the IFU.

    Parameters
    ----------
    rate : Dataset
        Count rates.
    optics : Optics
        From :func:`nsxr.open_optics`.
    """
    slices = locate_slices(rate, optics, coordinates=["wavelength", "slit_y"])
    found = rate.drop_vars("amplifier", errors="ignore").assign(wavelength=slices["wavelength"])
    return found.assign_coords(slice=slices["slice"], slit_y=slices["slit_y"]).assign_attrs(slices.attrs)


@step("extract_1d", references=[Takes("apcorr")], parts=(fit_trace_model,))
def extract(
    slits: xr.DataTree, apcorr: xr.Dataset | None = None, *, weighting: Weighting = "auto", **fitting: Any
) -> xr.DataTree:
    """Extract the spectrum of the source in each slit.

    Parameters
    ----------
    slits : DataTree
        Calibrated slits.
    apcorr : Dataset, optional
        From :func:`nsxr.open_aperture_correction`. Without it, light outside of the aperture is lost.
    weighting : {"auto", "profile", "box"}
        As for :func:`nsxr.extract_spectrum`.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.
    """
    spectra = map_slits(lambda slit: extract_spectrum(slit, weighting=weighting, **fitting), slits)
    return spectra if apcorr is None else apply_aperture_correction(spectra, apcorr)


_TYPE: list[Function] = [set_source_type]
_FACTORS: list[Function] = [correct_wavelength_zero_point, correct_flat_field, correct_path_loss]
_SPECTRA: list[Function] = [calibrate_flux, add_trace_model, replace_pixels, extract]
_SKY: list[Function] = [subtract_sky_of_fixed_slits, subtract_sky]
_BEFORE: list[Function] = [
    flag_bad_pixels,
    flag_stuck_shutters,
    clean_flicker_noise,
    subtract_imprint,
    subtract_background,
]
_BEFORE_FIXED: list[Function] = [flag_bad_pixels, clean_flicker_noise, subtract_background]

MODES: Mapping[str, list[Function]] = {
    "NRS_FIXEDSLIT": [*_BEFORE_FIXED, cut, *_TYPE, subtract_sky_of_fixed_slits, *_FACTORS, *_SPECTRA],
    "NRS_MSASPEC": [*_BEFORE, cut, *_TYPE, subtract_sky, *_FACTORS, correct_bar_shadow, *_SPECTRA],
    "NRS_IFU": [*_BEFORE, locate, set_source_type, correct_flat_field, correct_path_loss, calibrate_flux],
    "NRS_BRIGHTOBJ": [clean_flicker_noise, cut, *_TYPE, *_FACTORS[:-1], *_SPECTRA],
}
"""Steps of each EXP_TYPE in order."""

SPEC2 = Pipeline(
    "spec2",
    [*_BEFORE, locate, cut, *_TYPE, *_SKY, *_FACTORS, correct_bar_shadow, *_SPECTRA],
    products=("cal", "x1d"),
    modes=MODES,
    off={"clean_flicker_noise": "not asked for"},
)
"""The steps of stage 2. Exposures of each EXP_TYPE have some of them, see :data:`MODES`."""


_OF_SLITS = (*SKY_STEPS.values(), "wavecorr", "flat_field")
"""Steps of which the first is the first one whose references differ between shutters and fixed slits."""
_FACTOR_STEPS = ("flat_field", "pathloss", "barshadow", "photom")
"""The steps whose factors tell how slits respond to the sky."""
_PRODUCTS = {"cal": ("pixel_replace", "adaptive_trace_model", "photom"), "x1d": ("extract_1d",)}
"""Each product is made by the first of these steps that is on."""


@SPEC2.shows_steps
def spec2(
    rate: xr.Dataset,
    references: Mapping[str, xr.Dataset],
    optics: Optics,
    *,
    shutters: str | os.PathLike[str] | None = None,
    backgrounds: Sequence[xr.Dataset] = (),
    imprints: Sequence[xr.Dataset] = (),
    sky: Literal["global", "master"] | xr.Dataset | xr.DataTree | None = None,
    selfcal: Sequence[xr.Dataset] = (),
    fixed_references: Mapping[str, xr.Dataset] | None = None,
    skip: Collection[str] = (),
    run: Collection[str] = (),
    **parameters: Named,
) -> xr.DataTree:
    """Calibrate count rates to slits or slices in units of flux, and extract spectra.

    Parameters
    ----------
    rate : Dataset
        Count rates, as from :func:`nsxr.open_exposure` or :func:`nsxr.detector1`: ``sci`` [DN/s], ``dq``,
        ``var_poisson``, ``var_rnoise`` (row, column), with integration in front for time series.
    references : mapping of str to Dataset
        References by type, as from :func:`nsxr.open_spec2_references`.
    optics : Optics
        From :func:`nsxr.open_optics`.
    shutters : path, optional
        The MSA metafile, for exposures of shutters.
    backgrounds : sequence of Dataset
        Count rates of backgrounds: other nods, or dedicated exposures. Their mean is subtracted, with its variance.
    imprints : sequence of Dataset
        Count rates with all shutters closed, for exposures of shutters or of the IFU, and for their backgrounds, see
        :func:`nsxr.subtract_imprint`.
    sky : {"global", "master"}, Dataset or DataTree, optional
        Spectrum of the sky to subtract from shutters or fixed slits, if no backgrounds are given: ``global`` fits it to
        all slitlets outside of their sources, ``master`` to background slitlets, see :func:`nsxr.estimate_sky`; each
        fixed slit has a spectrum of its own. Or a spectrum of surface brightness, such as that of an exposure of a
        background, see :func:`nsxr.subtract_sky`.
    selfcal : sequence of Dataset
        Count rates in which bad pixels are searched too, with ``run=["badpix_selfcal"]``, see
        :func:`nsxr.find_bad_pixels`.
    fixed_references : mapping of str to Dataset, optional
        References of fixed slits, for exposures of shutters whose metafile has fixed slits too:
        ``nsxr.open_spec2_references(source, rate.assign_attrs(EXP_TYPE="NRS_FIXEDSLIT"))``. Without them, fixed slits
        are left out, with a warning.
    skip, run, **parameters
        As for :func:`nsxr.detector1`.

    Returns
    -------
    DataTree
        ``cal``: a node for each slit, or the frame of the IFU, with ``sci`` [MJy, or MJy/sr for extended sources],
        ``dq``, ``var_poisson``, ``var_rnoise``, ``var_flat``, variances of the other factors, ``wavelength`` [um], and
        the factors themselves. ``x1d``: a spectrum for each slit, see :func:`nsxr.extract_spectrum`; not for the IFU,
        whose spectra come from cubes. ``sky``: the spectrum of the sky, if it was estimated. Lazy
        if the count rates are lazy.

    Warns
    -----
    DegradedResultWarning
        If a slit has no good pixel, as far as this is known without computing.

    Raises
    ------
    ModelError
        If these are no count rates of a spectrum, or were calibrated before.
    MissingReferenceError
        If steps lack references. The message names all missing references.
    ParameterError
        If a step or parameter is unknown, a value is not allowed, or an exposure of this EXP_TYPE has no use for a step
        in ``run`` or for an argument.
    """
    settings = SPEC2.settings(parameters, skip, run)
    kind = exposure_type(rate.attrs)
    if kind not in MODES:
        raise ModelError(about(rate.attrs, f"EXP_TYPE is {kind!r}, expected {', '.join(MODES)}"))
    members = Members(backgrounds, imprints, selfcal)
    _require_used(rate, settings, members, shutters)
    check(rate, "sci", "dq", "var_poisson", "var_rnoise", units={"sci": "DN/s"})
    own_steps = set(SPEC2.steps) - {"clean_flicker_noise"}  # which stage 1 may have done
    done = [entry["step"] for entry in steps(rate) if entry["status"] == "COMPLETE" and entry["step"] in own_steps]
    if done:
        raise ModelError(about(rate.attrs, f"{', '.join(done)} was done already, expected count rates of stage 1"))
    given, left_out = prepare(
        rate,
        members,
        SPEC2.of(kind),
        settings,
        lambda: locate_light(rate, optics, shutters=shutters, msaoper=references.get("msaoper")),
    )
    given |= {"msa_flagging": {"optics": optics}, "assign_wcs": {"optics": optics}, "wavecorr": {"optics": optics}}
    given["extract_2d"] = {"optics": optics, "shutters": shutters}
    spectrum, why_no_sky = _checked_sky(sky, kind, settings, bool(backgrounds))
    left_out |= dict.fromkeys(SKY_STEPS.values(), why_no_sky) if why_no_sky else {}
    first = next(name for name in SPEC2.of(kind) if name in _OF_SLITS)
    stages = SPEC2.correct(rate, references, settings, given=given, left_out=left_out, until=first)
    products: dict[str, xr.Dataset | xr.DataTree] = {}
    needed = _for_sky(kind, settings)
    for part, own in _parts(list(stages.values())[-1], references, fixed_references):
        has_all = all(one in own for one in needed)  # else the steps below name what is missing
        if spectrum is not None and isinstance(part, xr.DataTree) and has_all:
            response = sky_response(part, {one: own[one] for one in needed})
            if isinstance(spectrum, str):
                products["sky"] = spectrum = _estimated_sky(part, response, spectrum, kind)
            given[SKY_STEPS[kind]] = {"sky": spectrum, "response": response}
        later = SPEC2.correct(rate, own, settings, given=given, left_out=left_out, since=(first, part))
        for name, makers in _PRODUCTS.items():
            known = [one for one in makers if one in later]
            on = [one for one in known if settings.reason_off(SPEC2.steps[one]) is None]
            if on or (known and name == "cal"):
                products[name] = _joined(products.get(name), later[[*on, known[-1]][0]])
    recipe = SPEC2.recipe(settings)
    if "cal" in products:
        warn_of_lost(products["cal"])
    tree = xr.DataTree()
    for name, product in products.items():
        nodes = product if isinstance(product, xr.DataTree) else xr.DataTree(product)
        tree[name] = nodes.map_over_datasets(lambda one: one.assign_attrs(noted(one.attrs, recipe=recipe)))
    return tree


_USERS = {"backgrounds": "bkg_subtract", "imprints": "imprint_subtract", "selfcal": "badpix_selfcal"}
"""The step that uses each kind of members."""


def _require_used(
    rate: xr.Dataset, settings: Settings, members: Members, shutters: str | os.PathLike[str] | None
) -> None:
    """Raise ParameterError if an exposure of this mode has no use for what was asked for or given."""
    kind = exposure_type(rate.attrs)
    known = SPEC2.of(kind)
    problems = [f"step {name} is not part of EXP_TYPE {kind}" for name in settings.run if name not in known]
    problems += [
        f"{name} were given, but step {step} is not part of EXP_TYPE {kind}"
        for name, step in _USERS.items()
        if getattr(members, name) and step not in known
    ]
    if shutters is not None and kind != "NRS_MSASPEC":
        problems.append(f"shutters were given, but exposures of EXP_TYPE {kind} need no MSA metafile")
    if problems:
        raise ParameterError(about(rate.attrs, "; ".join(problems)))


def _checked_sky(
    sky: object, kind: str, settings: Settings, has_backgrounds: bool
) -> tuple[str | xr.Dataset | xr.DataTree | None, str]:
    """Return the sky that is to be subtracted, if any, or why there is none."""
    if sky is None:
        return None, "no sky was given"
    if kind not in SKY_STEPS:
        raise ParameterError(f"a sky is subtracted from shutters and fixed slits only, EXP_TYPE is {kind!r}")
    if not isinstance(sky, xr.Dataset | xr.DataTree):
        if sky not in ("global", "master"):
            raise ParameterError(f"sky is {sky!r:.60}, expected global, master, or a spectrum")
        if sky == "master" and kind != "NRS_MSASPEC":
            raise ParameterError("sky is 'master', which needs background slitlets of shutters, expected global")
    if has_backgrounds:
        return None, "backgrounds of other exposures were subtracted"
    if (why := settings.reason_off(SPEC2.steps["photom"])) is not None:
        return None, f"the sky has no count rates without photom: {why}"
    is_off = settings.reason_off(SPEC2.steps[SKY_STEPS[kind]]) is not None
    return (None, "") if is_off else (sky, "")


def _estimated_sky(slits: xr.DataTree, response: xr.DataTree, sky: str, kind: str) -> xr.Dataset | xr.DataTree:
    """Return the spectrum of the sky of all shutters, or that of each fixed slit: they blur lines differently."""
    if kind == "NRS_MSASPEC":
        return estimate_sky(slits, response, slitlets="all" if sky == "global" else "background")
    named = {name: slit for name, slit in iterate_slits(slits) if response[name].has_data}
    each = [estimate_sky(as_tree([slit], slits.attrs, [name]), response) for name, slit in named.items()]
    return as_tree(each, slits.attrs, [*named])


def _for_sky(kind: str, settings: Settings) -> list[str]:
    """Return the types of the references that say how slits respond to the sky: those of the factors that are on."""
    on = [step for name, step in SPEC2.of(kind).items() if name in _FACTOR_STEPS and settings.reason_off(step) is None]
    return [one for step in on for one in step.needs]


def _parts(
    located: xr.Dataset | xr.DataTree,
    references: Mapping[str, xr.Dataset],
    fixed_references: Mapping[str, xr.Dataset] | None,
) -> list[tuple[xr.Dataset | xr.DataTree, Mapping[str, xr.Dataset]]]:
    """Return the slits of shutters and the fixed slits of an exposure of shutters, each with its references."""
    is_shutters = exposure_type(located.attrs) == "NRS_MSASPEC"
    if not isinstance(located, xr.DataTree) or not is_shutters:
        return [(located, references)]
    named = dict(iterate_slits(located))
    fixed = {name: slit for name, slit in named.items() if fixed_slit(slit.attrs) is not None}
    others = {name: slit for name, slit in named.items() if name not in fixed}
    if fixed and fixed_references is None:
        warnings.warn(
            about(
                located.attrs,
                f"fixed slits {', '.join(fixed)} are left out, because they need references of their own: give "
                "fixed_references",
            ),
            DegradedResultWarning,
            stacklevel=3,
        )
    parts = [(others, references)]
    if fixed_references is not None:
        parts.append((fixed, {**references, **fixed_references}))
    return [(as_tree([*own.values()], located.attrs, [*own]), kinds) for own, kinds in parts if own]


def _joined(one: xr.Dataset | xr.DataTree | None, other: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """Return one tree with the slits of two."""
    if one is None:
        return other
    named = dict(iterate_slits(one)) | dict(iterate_slits(other))
    return as_tree([*named.values()], one.attrs, [*named])
