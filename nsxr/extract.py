"""From the slits of several exposures to spectra, source by source: the order of the steps, no maths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from nsxr.corrections.nod_variance import restore_background_variance
from nsxr.corrections.outlier_detection import flag_outliers
from nsxr.corrections.spectral_extraction import extract_spectrum
from nsxr.corrections.trace_model import fit_trace_model
from nsxr.errors import ParameterError
from nsxr.model.exposures import require_distinct

__all__ = ["Extraction", "extract_source", "group_by_source"]

_SOURCE = ("DETECTOR", "FILTER", "GRATING", "SOURCEID", "SRCNAME")


@dataclass(frozen=True)
class Extraction:
    """One source: its slits in each exposure, what was fitted to them, and the spectra.

    Attributes
    ----------
    slits : list of Dataset
        As extracted, outliers flagged.
    models : list of Dataset
        From :func:`nsxr.fit_trace_model`.
    spectra : list of Dataset
        From :func:`nsxr.extract_spectrum`.
    """

    slits: list[xr.Dataset] = field(default_factory=list)
    models: list[xr.Dataset] = field(default_factory=list)
    spectra: list[xr.Dataset] = field(default_factory=list)

    def compute(self) -> "Extraction":
        """Compute slits, models and spectra together, so that what they share is computed once; not for long series."""
        parts = {"slits": self.slits, "models": self.models, "spectra": self.spectra}
        named = {f"{kind}/{n}": dataset for kind, each in parts.items() for n, dataset in enumerate(each)}
        tree = xr.DataTree.from_dict(named).compute()
        done = {kind: [tree[f"{kind}/{n}"].to_dataset() for n in range(len(each))] for kind, each in parts.items()}
        return Extraction(**done)


def group_by_source(slits: Iterable[xr.Dataset]) -> dict[str, list[int]]:
    """Tell which slits show the same source with the same detector, filter and grating.

    Parameters
    ----------
    slits : iterable of Dataset
        With the attributes SOURCEID, SRCNAME, or without a source SLTNAME.

    Returns
    -------
    dict of str to list of int
        Names, of sources (``s000020115``) or slits (``s200a1``), and positions in ``slits``.
    """
    keys: dict[tuple[Any, ...], list[int]] = {}
    for number, slit in enumerate(slits):
        key = tuple(slit.attrs.get(name) for name in _SOURCE)
        # fixed slits number their sources from one, in every slit
        is_fixed = not str(slit.attrs.get("SHUTSTA") or "").strip()
        keys.setdefault((*key, slit.attrs.get("SLTNAME") if is_fixed or key[3] is None else None), []).append(number)
    names: dict[str, list[int]] = {}
    for key, members in keys.items():
        detector, _, _, identity, _, slit_name = key
        name = str(slit_name).lower() if slit_name else _name_of(identity)
        if name in names:  # of another detector or grating
            name = f"{name}_{str(detector).lower()}"
        while name in names:
            name = f"{name}_"
        names[name] = members
    return names


def _name_of(identity: Any) -> str:
    """Return the name that the observatory gives a source: ``s`` or, of virtual ones, ``v``, and its number."""
    number = int(identity)
    return f"{'v' if number < 0 else 's'}{abs(number):09d}"


def extract_source(
    slits: Sequence[xr.Dataset],
    *,
    restore_variance: bool = True,
    outliers: bool = True,
    weighting: str = "auto",
    **fitting: Any,
) -> Extraction:
    """Extract the spectra of one source from all exposures of it.

    Parameters
    ----------
    slits : sequence of Dataset
        Nods and exposures, or one series; see :func:`nsxr.fit_trace_model`.
    restore_variance : bool, default True
        Where the observatory's pipeline subtracted nods from each other, and all slits are nods of one slitlet, add the
        variances that it left out, see :func:`nsxr.restore_background_variance`.
    outliers : bool, default True
        Flag outliers by comparing the exposures, see :func:`nsxr.flag_outliers`.
    weighting : {"auto", "profile", "box"}
        See :func:`nsxr.extract_spectrum`.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    Extraction
        Lazy if the slits are.

    Raises
    ------
    ParameterError
        If there is no slit, or one exposure comes twice, as when its cal and its s2d product are given.
    """
    each = list(slits)
    if not each:
        raise ParameterError("no slit given")
    require_distinct(each)
    is_series = any("integration" in slit.dims for slit in each)
    if restore_variance and not is_series and _lacks_background_variance(each):
        each = restore_background_variance(each)
    models = [fit_trace_model(slit, **fitting) for slit in each] if is_series else fit_trace_model(each, **fitting)
    if outliers and not is_series and len(each) > 1:
        each = flag_outliers(each, models)
    spectra = [
        extract_spectrum(slit, model, weighting=weighting)  # type: ignore[arg-type]
        for slit, model in zip(each, models, strict=True)
    ]
    return Extraction(each, models, spectra)


def _lacks_background_variance(slits: Sequence[xr.Dataset]) -> bool:
    """Whether these are nods of one slitlet, subtracted from each other, with their own variances alone."""
    first: Mapping[Any, Any] = slits[0].attrs
    same = all(
        slit.attrs.get(key) == first.get(key)
        for slit in slits
        for key in ("SLTNAME", "DETECTOR", "PROGRAM", "OBSERVTN")
    )
    subtracted = all(slit.attrs.get("S_BKDSUB") == "COMPLETE" for slit in slits)
    known = any("background_members" in slit.attrs or "var_background" in slit for slit in slits)
    return len(slits) > 1 and same and subtracted and not known
