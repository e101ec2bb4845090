"""Flag jumps and, around large ones, snowballs: the step ``jump``."""

import xarray as xr

from nsxr.compute.passes import settle_flags
from nsxr.model.declarations import Needs, step, taken_by
from nsxr.model.readout import Readout
from nsxr.ramps.jump import flag_jumps, why_no_jumps
from nsxr.ramps.snowballs import flag_snowballs

__all__ = ["flag_cosmic_rays"]


@step(
    "jump",
    references=[Needs("readnoise"), Needs("gain")],
    parts=[flag_jumps, flag_snowballs],
    given=["needs_signal"],
    unless=why_no_jumps,
    by_integration=True,
    series="series",
)
def flag_cosmic_rays(
    exposure: xr.Dataset,
    readnoise: xr.Dataset,
    gain: xr.Dataset,
    *,
    expand_large_events: bool = True,
    series: xr.Dataset | None = None,
    needs_signal: bool = False,
    **parameters: object,
) -> xr.Dataset:
    """Flag groups at which the signal of a pixel jumps, and the surroundings of snowballs and showers.

    Parameters
    ----------
    exposure, readnoise, gain : Dataset
        As in :func:`nsxr.flag_jumps`.
    expand_large_events : bool
        Whether snowballs, and showers if asked for, are looked for.
    series : Dataset, optional
        As in :func:`nsxr.flag_jumps`.
    needs_signal : bool
        Whether the next step needs the signal of whole frames, as their flags do. It is then not read a second time.
    **parameters
        Parameters of :func:`nsxr.flag_jumps` and :func:`nsxr.flag_snowballs`.

    Returns
    -------
    Dataset
        What :func:`nsxr.flag_snowballs` makes of the result of :func:`nsxr.flag_jumps`; two records of ``jump``.
    """
    of_jumps, of_snowballs = taken_by(flag_jumps, parameters), taken_by(flag_snowballs, parameters)
    flagged = flag_jumps(exposure, readnoise, gain, series=series, **of_jumps)
    if not expand_large_events:
        return flagged
    found = flag_snowballs(flagged, readnoise, gain, **of_snowballs)
    # snowballs are found in the flags of whole frames; the signal need not stay in memory until then
    return found if needs_signal or Readout.of(exposure).is_irs2 else settle_flags(found)
