"""Correct the wavelengths of a point source that is not in the middle of its slit."""

import warnings
from typing import NamedTuple, TypeVar

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.declarations import Needs, step
from nsxr.model.history import record, record_skip
from nsxr.model.keywords import about, read
from nsxr.model.variables import check_slit
from nsxr.optics.instrument import Optics
from nsxr.optics.parts import shutter_id
from nsxr.slits.collection import map_slits
from nsxr.slits.light import fixed_slit, shutter_of

__all__ = ["correct_wavelength_zero_point"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)

_SHUTTERS = "MOS"
_OUTSIDE = 1.0
"""Distance from the middle of a slit beyond which its light does not pass [widths, or pitch]."""


class _Shifts(NamedTuple):
    """Wavelengths [um], shifts there [pixel], and whether the last values hold beyond."""

    wavelength: np.ndarray
    values: np.ndarray
    holds: bool


@step("wavecorr", references=[Needs("wavecorr")], given=["added", "optics"])
def correct_wavelength_zero_point(
    slits: Slits, wavecorr: xr.Dataset, *, added: xr.Dataset | None = None, optics: Optics | None = None
) -> Slits:
    """Correct wavelengths for the position of a point source across its slit.

    The optics give each pixel the wavelength of light from the middle of the slit. The spectrum of a point beside the
    middle is shifted along the dispersion, by up to half of the width of the slit. References give this shift.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit or many, with ``wavelength`` (row, column) float32 [um], NaN outside the slit, and the attributes
        SRCTYPE, SRCXPOS [pitch of shutters, or widths of a fixed slit] and, for fixed slits, SLTNAME. The dispersion is
        along columns.
    wavecorr : Dataset
        From :func:`nsxr.open_zero_point`, in memory.
    added : Dataset, optional
        A second reference whose shifts are added, such as an empirical table.
    optics : Optics, optional
        From :func:`nsxr.open_optics`, with the shutters of references. With them, the shifts of ``wavecorr`` are those
        of the shutter itself.

    Returns
    -------
    Dataset or DataTree
        For point sources: the new ``wavelength``, and the old one as ``wavelength_uncorrected``, which corrections of
        uniform light need. The two are equal if the corrected wavelengths of a slit would not increase. ``sci``,
        variances and flags do not change. Other slits come back with a record of why they were skipped: sources that
        are not points or outside of the slit, slits without a position, slits of one column, apertures that no
        reference has. The attribute WAVECOR is 1 for slits that were corrected, 0 for others.

    Raises
    ------
    ModelError
        If ``wavelength`` is missing or was corrected before, or if a reference has no tables of offsets, or offsets
        that are not finite.

    Warns
    -----
    DegradedResultWarning
        If no reference has the aperture of a point source.

    Notes
    -----
    As in the observatory's pipeline: the mean wavelength of each column, λ, and the mean change of wavelength across a
    pixel, dλ/dx, give the corrected mean λ' = λ + S(λ, x) dλ/dx. S is the shift in pixels. The wavelength of each pixel
    is then changed as λ → λ' is, with a straight line beyond both ends. If λ' does not increase with the column
    everywhere, all wavelengths of the slit stay as they are.

    The planned position is in pitch, as the references are; it is not converted to open widths.

    References have one table for all shutters, but the width of a shutter on the detector changes over the MSA: by
    up to 3.5 % from its middle, which are 0.02 pixels for a source at the edge of a shutter. With ``optics``, the
    shifts of a shutter are multiplied by its width on the detector over that of a shutter in the middle of the MSA, for
    which the table is taken to hold. The observatory's pipeline uses the table as it is, and so does this function
    without ``optics``.

    Examples
    --------
    >>> slits = correct_wavelength_zero_point(slits, nsxr.open_zero_point("wavecorr.asdf"))  # doctest: +SKIP
    """
    references = [wavecorr] if added is None else [wavecorr, added]
    for reference in references:
        _require_tables(reference)

    def correct(slit: xr.Dataset) -> xr.Dataset:
        result = _correct(slit, references, optics)
        return result.assign_attrs(WAVECOR=int("wavelength_uncorrected" in result))

    return map_slits(correct, slits)


def _correct(slit: xr.Dataset, references: list[xr.Dataset], optics: Optics | None) -> xr.Dataset:
    check_slit(slit, "wavelength", units={"wavelength": "um"})
    if "wavelength_uncorrected" in slit:
        raise ModelError(about(slit.attrs, "wavelengths were corrected for the position of the source before"))
    name = fixed_slit(slit.attrs) or _SHUTTERS
    position = read(slit.attrs, "SRCXPOS", matters=False)
    source_type = str(slit.attrs.get("SRCTYPE", "")).strip().upper()
    if source_type != "POINT":
        return record_skip(slit, "wavecorr", f"the source is not a point (SRCTYPE {source_type or 'missing'})")
    if position is None:
        return record_skip(slit, "wavecorr", "the position of the source is not known (SRCXPOS)")
    if abs(position) > _OUTSIDE:
        return record_skip(slit, "wavecorr", f"the source is outside of the slit (SRCXPOS {position:.3g})")
    used = [reference for reference in references if f"offset_{name}" in reference]
    if not used:
        reason = f"no reference has the aperture {name}"
        warnings.warn(
            about(slit.attrs, f"the wavelengths of a point source are not corrected: {reason}"),
            DegradedResultWarning,
            stacklevel=2,
        )
        return record_skip(slit, "wavecorr", reason)
    if slit.sizes["column"] < 2:
        return record_skip(slit, "wavecorr", "the slit has one column, so its dispersion is not known")
    shifts = [_at(reference, name, float(position)) for reference in used]
    if optics is not None and name == _SHUTTERS and used[0] is references[0]:  # an empirical table is a mean of many
        shifts[0] = shifts[0]._replace(values=shifts[0].values * _widths(slit, optics, shifts[0].wavelength))
    wavelength = one_chunk(slit["wavelength"], "row", "column")
    corrected = map_blocks(
        _shifted,
        wavelength,
        core=("row", "column"),
        outputs={"wavelength": (("row", "column"), np.float32)},
        shifts=tuple(shifts),
    )["wavelength"]
    # a record has one reference of each type; the names of both tables are among the parameters
    parameters = {"tables": [str(one.attrs.get("filename", "")) for one in used]}
    return record(
        slit,
        "wavecorr",
        used[:1],
        parameters,
        units={"wavelength_uncorrected": "um"},
        wavelength=corrected,
        wavelength_uncorrected=slit["wavelength"].copy(deep=False),
    )


def _require_tables(reference: xr.Dataset) -> None:
    """Raise ModelError unless a reference has finite tables of offsets. They are small, and in memory."""
    tables = [array for name, array in reference.data_vars.items() if str(name).startswith("offset_")]
    if not tables:
        raise ModelError(
            f"the reference has {', '.join(map(str, reference.data_vars)) or 'no variables'}, expected offset_NAME for "
            "each aperture; open it with nsxr.open_zero_point"
        )
    for table in tables:
        if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table.to_numpy()).all():
            raise ModelError(f"{table.name} of the reference is no table of finite offsets of two dims")


def _at(reference: xr.Dataset, name: str, x: float) -> _Shifts:
    """Return the shifts at one position of the source."""
    table = reference[f"offset_{name}"]
    wavelength, places = (table[dim].to_numpy() for dim in table.dims)
    holds = reference.attrs.get("beyond") == "hold"
    return _Shifts(wavelength, _interpolated(np.array([x]), places, table.to_numpy().T, holds)[0], holds)


def _widths(slit: xr.Dataset, optics: Optics, wavelength: np.ndarray) -> np.ndarray:
    """Return the width of a shutter on the detector over that of a shutter in the middle of the MSA, at wavelengths."""
    place = shutter_of(slit.attrs)
    sides = np.array([[-0.5], [0.5]])
    shutter = optics.shutter(place.quadrant, shutter_id(place.xcen, place.ycen))
    own, _ = optics.inverse(0.0, wavelength, shutter, slit_x=sides)
    middle, _ = optics.msa_to_detector(sides * shutter.width, 0.0, wavelength)
    ratio = np.diff(own, axis=0)[0] / np.diff(middle, axis=0)[0]
    return np.where(np.isfinite(ratio), ratio, 1.0)


def _interpolated(x: np.ndarray, nodes: np.ndarray, values: np.ndarray, holds: bool) -> np.ndarray:
    """Interpolate linearly between nodes along the first axis. Beyond them, extend the line or hold the last value."""
    if holds:
        x = np.clip(x, nodes[0], nodes[-1])
    left = np.clip(np.searchsorted(nodes, x) - 1, 0, nodes.size - 2)
    part = ((x - nodes[left]) / (nodes[left + 1] - nodes[left])).reshape(-1, *(1,) * (values.ndim - 1))
    found: np.ndarray = values[left] * (1 - part) + values[left + 1] * part
    return found


def _shifted(wavelength: np.ndarray, *, shifts: tuple[_Shifts, ...]) -> np.ndarray:
    """Return the corrected wavelengths of one slit."""
    lam = wavelength.astype(np.float64)
    mean, dispersion = _column_means(lam), _column_means(_dispersion(lam))
    known = np.isfinite(mean) & np.isfinite(dispersion)
    mean, dispersion = mean[known], dispersion[known]
    moved = mean.copy()
    for nodes, values, holds in shifts:
        moved += _interpolated(mean, nodes, values, holds) * dispersion
    if mean.size < 2 or not (np.diff(mean) > 0).all() or not (np.diff(moved) > 0).all():
        return wavelength
    change = _interpolated(lam.ravel(), mean, moved, holds=False)
    return change.reshape(lam.shape).astype(np.float32)


def _dispersion(lam: np.ndarray) -> np.ndarray:
    """Return the change of wavelength from half a pixel before the middle of each pixel to half a pixel after it.

    Polynomials through the differences of neighbouring pixels give it: two before and two after a pixel; near the end
    of a slit, the next three; in slits of few columns, the mean of those that there are.
    """
    rows, columns = lam.shape
    unknown = np.full((rows, 3), np.nan)
    differences = np.concatenate([unknown, np.diff(lam, axis=1), unknown], axis=1)
    before3, before2, before, after, after2, after3 = (differences[:, k : k + columns] for k in range(6))
    found: np.ndarray = (9 * (before + after) - before2 - after2) / 16
    for estimate in (
        (3 * before + 6 * after - after2) / 8,
        (3 * after + 6 * before - before2) / 8,
        (15 * after - 10 * after2 + 3 * after3) / 8,
        (15 * before - 10 * before2 + 3 * before3) / 8,
        (before + after) / 2,
        after,
        before,
    ):
        found = np.where(np.isnan(found), estimate, found)
    return found


def _column_means(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
