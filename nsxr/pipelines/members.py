"""Prepare the exposures that belong to a science exposure: backgrounds, imprints, those that show bad pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr

from nsxr.model.declarations import Step
from nsxr.model.dims import IMAGE
from nsxr.model.history import steps
from nsxr.model.types import Entries
from nsxr.pipelines.settings import Settings
from nsxr.ramps.correlated_noise.flicker_noise import clean_flicker_noise
from nsxr.slits.bad_pixels import find_bad_pixels, flag_bad_pixels
from nsxr.slits.imprint import subtract_imprint

__all__ = ["Members", "prepare"]

_CLEANING = "clean_flicker_noise"


class Members(NamedTuple):
    """Count rates that belong to a science exposure, by their role in an association."""

    backgrounds: Sequence[xr.Dataset] = ()
    imprints: Sequence[xr.Dataset] = ()
    selfcal: Sequence[xr.Dataset] = ()


def prepare(
    rate: xr.Dataset,
    members: Members,
    known: Mapping[str, Step],
    settings: Settings,
    light: Callable[[], xr.DataArray],
) -> tuple[dict[str, Entries], dict[str, str]]:
    """Correct backgrounds and imprints as the science exposure will be, up to the subtraction of backgrounds.

    Parameters
    ----------
    rate : Dataset
        Count rates of the science exposure.
    members : Members
        The other exposures.
    known : mapping of str to Step
        The steps of this mode.
    settings : Settings
        Steps that are on, and their parameters.
    light : callable
        Returns where light can fall on the detector, as :func:`nsxr.locate_light`. Backgrounds and imprints have the
        same open shutters, or fewer.

    Returns
    -------
    given : dict
        Further arguments of the steps of the science exposure, by step.
    left_out : dict of str to str
        Reasons to leave out steps that are on, by step.
    """
    given: dict[str, Entries] = {}
    left_out: dict[str, str] = {}
    backgrounds, imprints = list(members.backgrounds), list(members.imprints)

    def parameters_if_on(name: str) -> dict[str, Any] | None:
        is_on = name in known and settings.reason_off(known[name]) is None
        return dict(settings.parameters[name]) if is_on else None

    finding = parameters_if_on("badpix_selfcal")
    if finding is not None and not (backgrounds or members.selfcal or finding.get("force_single")):
        left_out["badpix_selfcal"] = "no background and no exposure for this step was given"
    elif finding is not None:
        bad = find_bad_pixels([rate, *backgrounds, *members.selfcal], **finding)
        given["badpix_selfcal"] = {"exposures": bad}
        backgrounds = [flag_bad_pixels(one, exposures=bad, **finding) for one in backgrounds]
    cleaning = parameters_if_on(_CLEANING)
    if cleaning is not None:
        lit = light()
        given[_CLEANING] = {"light": lit}
        if _is_cleaned(rate):
            left_out[_CLEANING] = "done in stage 1"
        backgrounds, imprints = ([_cleaned(one, lit, cleaning) for one in each] for each in (backgrounds, imprints))
    if not imprints:
        left_out["imprint_subtract"] = "no imprint was given"
    elif parameters_if_on("imprint_subtract") is not None:
        given["imprint_subtract"] = {"imprints": imprints}
        backgrounds = [subtract_imprint(one, imprints=imprints) for one in backgrounds]
    if backgrounds:
        given["bkg_subtract"] = {"backgrounds": backgrounds}
    else:
        left_out["bkg_subtract"] = "no background was given"
    return given, left_out


def _is_cleaned(rate: xr.Dataset) -> bool:
    """Return whether stage 1 has removed correlated noise, that of nsxr or that of the observatory."""
    records = [entry["status"] for entry in steps(rate) if entry["step"] == _CLEANING]
    return "COMPLETE" in records or (not records and rate.attrs.get("S_CLNFNS") == "COMPLETE")


def _cleaned(rate: xr.Dataset, light: xr.DataArray, cleaning: Mapping[str, Any]) -> xr.Dataset:
    """Return another exposure without correlated noise. It may have pixels that the science exposure does not have."""
    if _is_cleaned(rate):
        return rate
    own = light.reindex({dim: rate.indexes[dim] for dim in IMAGE}, fill_value=False)
    return clean_flicker_noise(rate, light=own, **cleaning)
