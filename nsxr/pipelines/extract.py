"""Extract spectra from the slits of several exposures, source by source: run the steps in order."""

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
    """One source: its slits in each exposure, the models that were fitted to them, and its spectra.

    Attributes
    ----------
    slits : list of Dataset
        The slits that the spectra were extracted from, with outliers flagged.
    models : list of Dataset
        Models of the trace, from :func:`nsxr.fit_trace_model`.
    spectra : list of Dataset
        Spectra, from :func:`nsxr.extract_spectrum`.
    """

    slits: list[xr.Dataset] = field(default_factory=list)
    models: list[xr.Dataset] = field(default_factory=list)
    spectra: list[xr.Dataset] = field(default_factory=list)

    def compute(self) -> "Extraction":
        """Compute slits, models and spectra together. Parts that they share are computed once.

        Do not use this for long time series: all results are in memory.

        Warns
        -----
        DegradedResultWarning
            If a result is suspicious, see :mod:`nsxr.spectra.plausibility`: a position far from its plan, an absurd
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
    """Group the slits that show the same source with the same detector, filter and grating.

    Parameters
    ----------
    slits : iterable of Dataset
        Slits with the attributes SOURCEID and SRCNAME, or SLTNAME if they have no source.
    across : sequence of {"detectors", "slits"}
        In what the slits of a group may differ, if their spectra are to be combined. ``detectors``: a group may have
        slits of both detectors. ``slits``: a group may have several fixed slits that the target was moved through,
        namely those with FXD_SLIT equal to SLTNAME. Do not fit the traces of such groups together.

    Returns
    -------
    dict of str to list of int
        Positions in ``slits``, by name of the group: a source (``s000020115``, ``v`` for virtual sources, ``b`` for
        background slits) or a slit (``s200a1``). If several groups would have the same name, the later names also say
        in what they differ, such as the grating.

    Raises
    ------
    ParameterError
        If ``across`` has any other word.
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
    """Return the text of a keyword in a form that may be part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)


def _source_of(header: SlitHeader, any_slit: bool) -> tuple[tuple[str, ...], str]:
    """Return values that identify the source in a slit, and its name in the style of the observatory's files."""
    source_name, slit = _plain(header.source_name), _plain(header.name)
    if header.shutters and header.source_id:
        kind = "b" if "BKG" in source_name.upper() else "v" if header.source_id < 0 else "s"
        return (str(header.source_id), source_name), f"{kind}{abs(header.source_id):09d}"
    is_target = header.fixed_slit is None or _plain(header.fixed_slit) == slit
    if any_slit and not header.shutters and slit and is_target:
        target = _plain(header.target) or source_name
        return ("target", target), target or "target"
    # in fixed slits, sources are numbered from 1 in each slit; 0 means no source
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
    """Extract the spectra of one source from all its exposures.

    Parameters
    ----------
    slits : sequence of Dataset
        Nods and exposures, or one time series, see :func:`nsxr.fit_trace_model`.
    restore_variance : bool, default True
        If the observatory's pipeline subtracted nods from each other, and all slits are nods of one slitlet, add the
        variances that the pipeline left out, see :func:`nsxr.restore_background_variance`.
    outliers : bool, default True
        Flag outliers by comparing the exposures, see :func:`nsxr.flag_outliers`.
    weighting : {"auto", "profile", "box"}
        Weights of the pixels, see :func:`nsxr.extract_spectrum`.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    Extraction
        The result is lazy if the slits are lazy.

    Raises
    ------
    ParameterError
        If there is no slit, or if an exposure is given twice, for instance as its cal and its s2d product.
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
    """Return whether slits are nods of one slitlet, subtracted from each other, but with their own variances only."""
    headers = [SlitHeader.of(slit) for slit in slits]
    places = {(header.name, header.detector, header.program, header.observation) for header in headers}
    subtracted = all(header.has_nods_subtracted for header in headers)
    known = any(header.background_members is not None for header in headers)
    known |= any("var_background" in slit for slit in slits)
    return len(slits) > 1 and len(places) == 1 and subtracted and not known
