"""Describe a file in words: its kind, its readout, the corrections that were applied, its contents."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import xarray as xr
from astropy.io import fits

from nsxr.errors import InputFileError
from nsxr.formats.fits_headers import keywords, scan
from nsxr.formats.fits_tables import kept_origin, steps_from_table
from nsxr.formats.zarr_read import open_store
from nsxr.model.history import joint_steps, steps
from nsxr.model.keywords import read
from nsxr.model.provenance import provenance_of
from nsxr.model.readout import Readout
from nsxr.model.steps import STATUS, STEPS
from nsxr.model.types import Attributes, Entries, Named
from nsxr.storage.folder import Folder
from nsxr.storage.options import StorageOptions
from nsxr.storage.urls import is_remote, shown

__all__ = ["counted", "describe"]

_FEW_DARK, _LITTLE = 0.01, 0.1
"""Share of dark pixels, and share of correlated noise or of noise removed, below which a product says why."""


def describe(path: str | Path, storage_options: Named | None = None) -> str:
    """Describe an exposure, a product or a reference without reading its pixels.

    Parameters
    ----------
    path : path
        FITS file, gzipped or not, or Zarr store written by nsxr, or the URL of either. URLs of Zarr stores end in
        .zarr.
    storage_options : mapping, optional
        Options for access to a URL, see :func:`nsxr.open_exposure`.

    Returns
    -------
    str
        Several lines of text.

    Raises
    ------
    InputFileError
        If the path is neither a FITS file nor a Zarr store, or if the file is cut off.
    RemoteAccessError
        If a URL cannot be reached.
    """
    name = os.fspath(path)
    options = StorageOptions(storage_options)
    if shown(name).rstrip("/").endswith(".zarr") if is_remote(name) else Path(name).is_dir():
        return _describe_zarr(name, options)
    file = scan(name, ("NSXR_STEPS", "NSXR_PROVENANCE"), options)
    header = keywords(file.primary)
    is_reference = bool(header.get("REFTYPE"))
    lines = [f"{Path(file.path).name}: {header.get('DATAMODL', 'FITS file')}", *_describe_header(header)]
    if not is_reference:
        table = file.extensions["NSXR_STEPS"].table if "NSXR_STEPS" in file.extensions else None
        records = [] if table is None else steps(xr.Dataset(attrs={"nsxr_steps": steps_from_table(table, file.path)}))
        lines += _made(kept_origin(file))
        lines += _done({k: header[k] for k in STATUS if k in header}, header.get("CAL_VER"), records)
        lines += _correlated_noise(header, _unit_of_noise(header, records))
    contents = {name: _extent(extension.header) for name, extension in file.extensions.items()}
    lines += ["contents:", *(f"  {name:<12} {extent}" for name, extent in contents.items() if extent)]
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 exposure``, ``2 exposures``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _extent(header: fits.Header) -> str:
    if header.get("XTENSION") == "BINTABLE":
        return f"table of {counted(header['NAXIS2'], 'row')}, {counted(header['TFIELDS'], 'column')}"
    shape = [str(header[f"NAXIS{i}"]) for i in range(header["NAXIS"], 0, -1)]
    return f"({', '.join(shape)}) {header['BITPIX']} bit" if shape else ""


def _describe_header(header: Named) -> list[str]:
    def value(*names: str) -> str:
        return " ".join(str(header[n]) for n in names if header.get(n) not in (None, "", "N/A"))

    lines = []
    if header.get("REFTYPE"):
        return [f"reference:   {value('REFTYPE', 'DETECTOR', 'SUBARRAY')}, {value('PEDIGREE')}, {value('DESCRIP')}"]
    if value("INSTRUME"):
        lines.append(f"exposure:    {value('INSTRUME', 'DETECTOR', 'EXP_TYPE', 'FILTER', 'GRATING')}")
    if value("TARGPROP", "DATE-OBS"):
        odd = value("DATE-OBS") and read(header, "DATE-OBS", matters=False) is None
        note = " (DATE-OBS is no date, but references are chosen by it)" if odd else ""
        lines.append(f"observed:    {value('DATE-OBS', 'TIME-OBS')}{note} {value('TARGPROP')}".rstrip())
    try:
        readout = Readout.from_header(header)
    except InputFileError as error:
        if "READPATT" in header and "NGROUPS" in header:  # the header of an exposure
            lines.append(f"readout:     cannot be told, {error}")
        return lines
    frames = f", {readout.n_frames} frames averaged" if readout.n_frames > 1 else ""
    total = readout.n_integrations * readout.n_groups * readout.group_time
    rows = f"rows {readout.row_start} to {readout.row_start + readout.n_rows - 1}"
    columns = f"columns {readout.column_start} to {readout.column_start + readout.n_columns - 1}"
    ramps = f"{counted(readout.n_integrations, 'integration')} of {counted(readout.n_groups, 'group')}"
    ramps = f"{ramps} of {readout.group_time:g} s{frames}"
    pattern = f"{readout.read_pattern} {readout.subarray}"
    lines.append(f"readout:     {pattern}, {rows}, {columns}, outputs {readout.n_outputs}")
    lines.append(f"ramps:       {ramps}; {total:.4g} s in all")
    if read(header, "EXSEGTOT", matters=False) > 1:
        part = f"{value('EXSEGNUM')} of {value('EXSEGTOT')}"
        lines.append(f"segment:     {part}, integrations {value('INTSTART')} to {value('INTEND')}")
    return lines


def _done(status: Named, version: str | None, records: Sequence[Entries]) -> list[str]:
    """Return a line for each step, in the order in which they ran.

    It is the record of nsxr with parameters if there is one, else the status keyword. Records of one step that follow
    each other share a line: large events are found by the step jump, and slits differ in what was done to them.
    """
    if not status and not records:
        return ["corrections: none"]
    order, ran = list(STEPS), [[*group] for _, group in groupby(records, lambda entry: entry["step"])]
    recorded = {STEPS[entry["step"]].keyword for entry in records if entry["step"] in STEPS}
    for keyword, value in status.items():
        if keyword not in recorded:
            place = order.index(STATUS[keyword])
            later = (n for n, (one, *_) in enumerate(ran) if one["step"] in order[place:])
            known = {"step": STATUS[keyword], "status": value, "parameters": {}, "references": {}}
            ran.insert(next(later, len(ran)), [known])
    lines = [f"corrections{f', the last by version {version}' if version else ''}:"]
    return lines + [f"  {entries[0]['step']:<20} {'; '.join(_outcomes(entries))}" for entries in ran]


def _outcomes(entries: Sequence[Entries]) -> list[str]:
    """Return the outcomes of a step in words, with parameters and references or the reason: COMPLETE comes first."""
    outcomes: dict[str, list[str]] = {}
    for entry in sorted(entries, key=lambda entry: str(entry["status"])):
        given = {**entry["parameters"], **{f"{k} reference": v for k, v in entry["references"].items()}}
        text = ", ".join(f"{k} {v}" for k, v in given.items()) or entry.get("reason", "")
        outcomes.setdefault(entry["status"], []).extend([text] if text else [])
    return [outcome + (f": {', '.join(dict.fromkeys(texts))}" if texts else "") for outcome, texts in outcomes.items()]


def _made(attrs: Attributes) -> list[str]:
    """Return lines about software and input files."""
    found = provenance_of(attrs)
    lines = []
    for versions in found.get("software", [])[-1:]:
        commit = f" (commit {versions['commit'][:10]})" if versions.get("commit") else ""
        others = [f"{key} {value}" for key, value in versions.items() if key not in ("nsxr", "commit") and value]
        lines.append(f"made by:     nsxr {versions.get('nsxr')}{commit}, {', '.join(others)}")
    if "crds" in found:
        lines.append(f"references:  chosen by CRDS {found['crds'].get('version')}, {found['crds'].get('context')}")
    if names := [str(entry.get("file")) for entry in found.get("inputs", [])]:
        lines.append(f"inputs:      {', '.join(names)}")
    return lines


def _unit_of_noise(header: Named, records: Sequence[Named]) -> str:
    """Return the unit of the numbers about correlated noise: ramps were cleaned, or rates."""
    names = [str(entry.get("step")) for entry in records]
    cleaned = max((place for place, name in enumerate(names) if name == "clean_flicker_noise"), default=0)
    return "DN" if "ramp_fit" in names[cleaned:] or header.get("DATAMODL") == "RampModel" else "DN/s"


def _correlated_noise(header: Named, unit: str) -> list[str]:
    """Return a line about the correlated noise that was found, and why little of it was removed."""
    names = ("FLKWHITE", "FLKNOISE", "FLKLEFT", "FLKDARK", "FLKDONE")
    if any(not isinstance(header.get(name), float | int) for name in names):
        return []
    white, noise, left, dark, done = (float(header[name]) for name in names)
    level = header.get("FLKLEVEL")
    of_frame = f"level of the frame {float(level):.3g} {unit}, " if isinstance(level, float | int) else ""
    line = f"noise:       white {white:.3g} {unit}, correlated {noise:.3g} {unit}, left in light {left:.3g} {unit} "
    line += f"({of_frame}{100 * done:.0f} % of the variance removed); {100 * dark:.0f} % of the pixels are dark"
    if white <= 0:
        line += "; nothing was removed, because no two frames can be compared"
    elif dark < _FEW_DARK:
        line += "; nothing was removed, because almost no pixels are dark"
    elif noise < _LITTLE * white:
        line += "; almost nothing was removed, because there is almost no correlated noise"
    elif done < _LITTLE:
        line += "; little was removed, because light that could be hidden looks like this noise"
    return [line]


def _describe_zarr(path: str, options: StorageOptions) -> str:
    tree = open_store(Folder.at(path, options))
    with tree:
        nodes = {node.path.strip("/") or "/": node.to_dataset() for node in tree.subtree if node.data_vars}
        nodes = nodes or {"/": tree.to_dataset()}
        first = next(iter(nodes.values()))
        lines = [f"{Path(shown(path)).name}: Zarr store", *_describe_header(first.attrs)]
        # padded slits have one history at the root, which has only what all slits share if slits are groups
        each = [tree.to_dataset(), *nodes.values()]
        known = {**first.attrs, **{key: value for one in each for key, value in one.attrs.items()}}
        status = {key: known[key] for key in STATUS if key in known}
        records = joint_steps([found for one in each if (found := steps(one))] or [[]])
        lines += [*_made(known), *_done(status, known.get("CAL_VER"), records)]
        variables = (v for node in nodes.values() for v in node.data_vars.values())
        numbers = {str(v.attrs["keyword"]): v for v in variables if not v.dims and "keyword" in v.attrs}
        unit = str(numbers["FLKNOISE"].attrs.get("units", "DN")) if "FLKNOISE" in numbers else "DN"
        lines += _correlated_noise({name: v.item() for name, v in numbers.items()}, unit)
        lines.append("contents:")
        for name, node in nodes.items():
            sizes = node["sci"].sizes if "sci" in node else node["flux"].sizes if "flux" in node else node.sizes
            extent = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
            lines.append(f"  {name:<12} {', '.join(map(str, node.data_vars))} ({extent})")
    return "\n".join(lines)
