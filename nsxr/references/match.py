"""Cut a reference to the pixels of an exposure, by label."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nsxr.compute.blocks import take_rows
from nsxr.compute.layouts import chunk_like
from nsxr.errors import ReferenceFileError
from nsxr.model.keywords import require
from nsxr.model.readout import IRS2_ROWS, irs2_layout

__all__ = ["match", "require_kind"]

_IMAGES: Mapping[str, tuple[str, ...]] = {
    "dark": ("sci", "dq"),
    "gain": ("sci",),
    "linearity": ("coefficients", "dq"),
    "mask": ("dq",),
    "pictureframe": ("sci",),
    "readnoise": ("sci",),
    "saturation": ("sci", "dq"),
    "superbias": ("sci", "dq"),
}
"""Variables that corrections use, by type of the reference."""
_OTHERS: Mapping[str, tuple[str, ...]] = {"refpix": ("alpha", "beta")}
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {"dark": ("n_frames", "group_gap")}


def require_kind(reference: xr.Dataset, kind: str, *, pixels: bool = True) -> None:
    """Raise ReferenceFileError unless a reference has this type and all variables and labels that corrections use.

    Without ``pixels``, only its type is checked. No pixels are read.
    """
    found, name = reference.attrs.get("reference_type"), reference.attrs.get("filename", "in memory")
    if found is None:
        raise ReferenceFileError(
            f"reference {name} has no attribute 'reference_type', expected {kind!r}; "
            f"if it is one, say so: .assign_attrs(reference_type={kind!r})"
        )
    if found != kind:
        raise ReferenceFileError(f"reference {name} is of type {found!r}, expected {kind!r}; give that one")
    if not pixels:
        return
    images = _IMAGES.get(kind, ())
    missing = [f"variable {one!r}" for one in (*images, *_OTHERS.get(kind, ())) if one not in reference]
    missing += [
        f"dim {dim!r} with labels"
        for dim in ("row", "column")
        if images
        and (dim not in reference.indexes or any(dim not in reference[one].dims for one in images if one in reference))
    ]
    missing += [f"attribute {one!r}" for one in _ATTRIBUTES.get(kind, ()) if one not in reference.attrs]
    if missing:
        raise ReferenceFileError(
            f"{kind} {name} lacks {', '.join(missing)}; open the file with nsxr.open_references, or add what is missing"
        )


def match(reference: xr.Dataset, exposure: xr.Dataset, kind: str | None = None) -> xr.Dataset:
    """Return a reference with exactly the rows and columns of an exposure, and with its chunks.

    A raw IRS2 exposure has interleaved reference rows. In a reference of 2048 rows these rows are missing: the result
    has NaN and flags of 0 there. A reference in raw IRS2 format loses its interleaved rows if the exposure has none.

    Parameters
    ----------
    reference : Dataset
        With dims ``row`` and ``column`` and their pixel labels.
    exposure : Dataset
        With ``sci`` and the same labels.
    kind : str, optional
        Type that the reference must be of, see :func:`require_kind`.

    Returns
    -------
    Dataset
        Lazy if the reference is; coordinates are those of the exposure.

    Raises
    ------
    ReferenceFileError
        If the reference does not cover the exposure, or is of another type.
    """
    if kind is not None:
        require_kind(reference, kind)
    cut = reference
    if cut.sizes["row"] == IRS2_ROWS and "science_row" in cut.coords and "science_row" not in exposure.coords:
        science_row = irs2_layout(_detector(exposure)).science_row
        cut = cut.isel(row=np.flatnonzero(science_row >= 0))
        cut = cut.drop_vars("science_row").assign_coords(row=science_row[science_row >= 0])
    expand = "science_row" in exposure.coords and "science_row" not in cut.coords
    wanted_rows = exposure.indexes["row"].to_numpy()
    if expand:
        wanted_rows = irs2_layout(_detector(exposure)).science_row[wanted_rows]
    is_science = wanted_rows >= 0
    rows = _positions(cut, "row", wanted_rows[is_science], reference)
    columns = _positions(cut, "column", exposure.indexes["column"].to_numpy(), reference)
    if expand:
        index = np.zeros(wanted_rows.size, dtype=np.int64)
        index[is_science] = rows
        # repeat the row before: with sorted indices the number of chunks stays the same
        index = np.maximum.accumulate(np.where(is_science, index, 0))
        mask = xr.DataArray(is_science, dims="row")
        cut = cut.isel(column=_slice(columns)).drop_vars([c for c in cut.coords if "row" in cut[c].dims])
        n_bands = 5 if wanted_rows.size == IRS2_ROWS else 1
        expanded = {name: take_rows(array, index, n_bands) for name, array in cut.data_vars.items()}
        for name, array in expanded.items():
            missing = array.dtype.type(0) if array.dtype.kind in "ui" else np.float32("nan")
            expanded[name] = array.where(mask, missing)
        cut = xr.Dataset(expanded, attrs=cut.attrs)
    else:
        cut = cut.isel(row=_slice(rows), column=_slice(columns))
    coordinates = {c: exposure[c] for c in ("row", "column", "amplifier", "science_row") if c in exposure.coords}
    cut = cut.drop_vars([c for c in cut.coords if c in ("row", "column", "amplifier", "science_row")])
    cut = cut.assign_coords(coordinates)
    for name, array in cut.data_vars.items():
        if array.chunks is not None and exposure["sci"].chunks is not None:
            cut[name] = chunk_like(array, exposure["sci"].isel(integration=0, group=0))
    return cut


def _positions(reference: xr.Dataset, dim: str, wanted: np.ndarray, named: xr.Dataset) -> np.ndarray:
    positions = reference.indexes[dim].get_indexer(wanted)
    if (positions < 0).any():
        labels = reference.indexes[dim]
        kind, name = named.attrs.get("reference_type", "reference"), named.attrs.get("filename", "in memory")
        raise ReferenceFileError(
            f"{kind} {name} covers {dim}s {labels.min()} to {labels.max()}, "
            f"the exposure needs {wanted.min()} to {wanted.max()}"
        )
    return np.asarray(positions)


def _detector(exposure: xr.Dataset) -> str:
    return str(require(exposure.attrs, "DETECTOR", purpose="it sets the order of rows")["DETECTOR"])


def _slice(positions: np.ndarray) -> slice | np.ndarray:
    """Return consecutive positions as a slice, because dask cuts a slice without a copy."""
    if positions.size and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions
