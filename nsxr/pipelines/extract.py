"""From the slits of several exposures to spectra, source by source: the order of the steps, no maths."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import xarray as xr

from nsxr.associate.exposures import require_distinct
from nsxr.errors import ParameterError
from nsxr.model.slit_header import SlitHeader
from nsxr.slits.nod_variance import restore_background_variance
from nsxr.spectra.extraction import Weighting, extract_spectrum
from nsxr.spectra.outlier_detection import flag_outliers
from nsxr.spectra.plausibility import Extracted, warn_of_suspicions
from nsxr.spectra.trace_model import fit_trace_model

__all__ = ["Extraction", "extract_source", "group_by_source"]

Parts = Literal["detectors", "slits"]


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
        """Compute slits, models and spectra together, so that what they share is computed once; not for long series.

        Warns
        -----
        DegradedResultWarning
            Of whatever is suspicious, see :mod:`nsxr.spectra.plausibility`: a position far from its plan, an absurd
            width, no light, missing wavelengths or times.
        """
        parts = {"slits": self.slits, "models": self.models, "spectra": self.spectra}
        named = {f"{kind}/{n}": dataset for kind, each in parts.items() for n, dataset in enumerate(each)}
        tree = xr.DataTree.from_dict(named).compute()
        done = {kind: [tree[f"{kind}/{n}"].to_dataset() for n in range(len(each))] for kind, each in parts.items()}
        found = Extraction(**done)
        parts_of_each = zip(found.spectra, found.models, found.slits, strict=True)
        warn_of_suspicions([Extracted(*parts) for parts in parts_of_each])
        return found


def group_by_source(slits: Iterable[xr.Dataset], *, across: Sequence[Parts] = ()) -> dict[str, list[int]]:
    """Tell which slits show the same source with the same detector, filter and grating.

    Parameters
    ----------
    slits : iterable of Dataset
        With the attributes SOURCEID, SRCNAME, or without a source SLTNAME.
    across : sequence of {"detectors", "slits"}
        What the slits of a group may differ in, for spectra to be combined: both detectors, or the fixed slits that a
        target was moved through, those with FXD_SLIT as SLTNAME. Traces of such groups are not to be fitted together.

    Returns
    -------
    dict of str to list of int
        Names, of sources (``s000020115``, ``v`` for virtual ones, ``b`` for background slits) or slits (``s200a1``),
        and positions in ``slits``. If a name comes twice, the later ones say in what they differ.

    Raises
    ------
    ParameterError
        If ``across`` is anything else.
    """
    unknown = sorted({str(part) for part in across} - {"detectors", "slits"})
    if unknown or isinstance(across, str):
        raise ParameterError(f"across is {across!r}, expected a list of 'detectors' and 'slits'")
    groups: dict[tuple[str, ...], list[int]] = {}
    names: dict[tuple[str, ...], str] = {}
    for number, slit in enumerate(slits):
        header = SlitHeader.of(slit)
        source, name = _source_of(header, "slits" in across)
        optics = [_plain(text) for text in (header.detector, header.filter, header.grating, header.program)]
        optics[0] = "" if "detectors" in across else optics[0]
        optics.append(f"order{header.order}" if header.order > 1 else "")
        key = (*source, *optics)
        groups.setdefault(key, []).append(number)
        names.setdefault(key, name)
    found: dict[str, list[int]] = {}
    firsts: dict[str, tuple[str, ...]] = {}
    for key, members in groups.items():
        name = names[key].lower()
        first = firsts.setdefault(name, key)
        differing = [value for value, usual in zip(key[-5:], first[-5:], strict=True) if value and value != usual]
        full = "_".join([name, *differing]).lower()
        choices = [full, *(f"{full}_{number}" for number in range(2, len(groups) + 2))]
        found[next(choice for choice in choices if choice not in found)] = members
    return found


def _plain(text: str) -> str:
    """Return the text of a keyword as it may be part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)


def _source_of(header: SlitHeader, any_slit: bool) -> tuple[tuple[str, ...], str]:
    """Return what tells the source in a slit from others, and its name as the observatory has it."""
    source_name, slit = _plain(header.source_name), _plain(header.name)
    if header.shutters and header.source_id:
        kind = "b" if "BKG" in source_name.upper() else "v" if header.source_id < 0 else "s"
        return (str(header.source_id), source_name), f"{kind}{abs(header.source_id):09d}"
    is_target = header.fixed_slit is None or _plain(header.fixed_slit) == slit
    if any_slit and not header.shutters and slit and is_target:
        target = _plain(header.target) or source_name
        return ("target", target), target or "target"
    # fixed slits number their sources from one, in every slit; 0 is no source
    place = [_plain(text) for text in header.place]
    if not slit:
        slit = f"slit{place[0]}" if place[0] else "-".join(["slit", *filter(None, place[1:])])
        return ("", "", *place), slit
    return (str(header.source_id or ""), source_name, slit), slit


def extract_source(
    slits: Sequence[xr.Dataset],
    *,
    restore_variance: bool = True,
    outliers: bool = True,
    weighting: Weighting = "auto",
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
    pairs = zip(each, models, strict=True)
    spectra = [extract_spectrum(slit, model, weighting=weighting) for slit, model in pairs]
    return Extraction(each, models, spectra)


def _lacks_background_variance(slits: Sequence[xr.Dataset]) -> bool:
    """Whether these are nods of one slitlet, subtracted from each other, with their own variances alone."""
    headers = [SlitHeader.of(slit) for slit in slits]
    places = {(header.name, header.detector, header.program, header.observation) for header in headers}
    subtracted = all(header.has_nods_subtracted for header in headers)
    known = any(header.background_members is not None for header in headers)
    known |= any("var_background" in slit for slit in slits)
    return len(slits) > 1 and len(places) == 1 and subtracted and not known
