"""Define how one slit and many slits are represented.

A slit is a Dataset: ``sci``, ``dq``, variances and ``wavelength`` (row, column), labelled with zero-based detector rows
and columns, with ``integration`` in front in time series. A resampled slit has ``cross_dispersion`` and ``dispersion``
instead, see :mod:`nsxr.model.dims`. Many slits are a DataTree with one node for each slit, each with its own size. A
spectrum is a Dataset with ``flux`` and other variables along ``dispersion``; many spectra are a DataTree.

Functions of a slit take a Dataset and return a Dataset; :func:`map_slits` applies them to all nodes of a DataTree.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.dq import PixelFlag
from nsxr.model.keywords import about
from nsxr.model.names import plain_name
from nsxr.optics.slit import ONE_SLIT

__all__ = ["as_slit", "as_tree", "iterate_slits", "map_slits", "warn_of_lost"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE)

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)


def as_slit(rates: xr.Dataset) -> xr.Dataset:
    """Return count rates of a subarray with one spectrum as a slit.

    Other exposures show many slits: :func:`nsxr.cut_slits` cuts these out.

    Parameters
    ----------
    rates : Dataset
        ``sci`` [DN/s], ``dq``, ``var_poisson``, ``var_rnoise`` (row, column), with or without integration in front.

    Returns
    -------
    Dataset
        The same pixels with SLTNAME, the name of the slit. SRCTYPE is POINT if the header has none.

    Raises
    ------
    ModelError
        If there are no rows and columns, or if the exposure does not show exactly one spectrum.
    """
    if not {"row", "column"} <= set(rates.dims):
        raise ModelError(f"rates have dims {tuple(rates.dims)}, expected row and column")
    kind, subarray = (str(rates.attrs.get(key, "")).strip().upper() for key in ("EXP_TYPE", "SUBARRAY"))
    is_series = kind == "NRS_BRIGHTOBJ"
    if not ((is_series or kind == "NRS_FIXEDSLIT") and (subarray in ONE_SLIT or (is_series and not subarray))):
        raise ModelError(
            f"these count rates show no single slit: EXP_TYPE is {kind!r} and SUBARRAY {subarray!r}, expected "
            f"NRS_BRIGHTOBJ or NRS_FIXEDSLIT in one of {', '.join(ONE_SLIT)}; cut out slits with nsxr.cut_slits, or "
            "give cal, calints or s2d"
        )
    slit = rates.drop_vars("amplifier", errors="ignore")
    name = plain_name(rates.attrs.get("FXD_SLIT", rates.attrs.get("SUBARRAY", "full")), "full")
    slit.attrs = {"SRCTYPE": "POINT", **rates.attrs, "SLTNAME": name}
    return slit


def as_tree(slits: Sequence[xr.Dataset], attrs: Mapping[Any, Any], names: Sequence[str] | None = None) -> xr.DataTree:
    """Return slits, or spectra, as a DataTree.

    Parameters
    ----------
    slits : sequence of Dataset
        Slits or spectra.
    attrs : mapping
        Attributes of the root: keywords of the primary header.
    names : sequence of str, optional
        Names of the nodes. By default the names of the slits (SLTNAME), or their numbers. A name that comes twice is
        numbered.
    """
    wanted = names or [plain_name(slit.attrs.get("SLTNAME", n), str(n)) for n, slit in enumerate(slits, start=1)]
    nodes: dict[str, xr.Dataset] = {}
    for name, slit in zip(wanted, slits, strict=True):
        number = len(nodes) + 1
        nodes[name if name not in nodes else f"{name}-{number}"] = slit
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = dict(attrs)
    return tree


def iterate_slits(slits: xr.Dataset | xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the name and the Dataset of each slit, or spectrum.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit, or many as from :func:`nsxr.open_slits`.
    """
    if isinstance(slits, xr.Dataset):
        yield str(slits.attrs.get("SLTNAME", "slit")), slits
        return
    for node in slits.subtree:
        if node.has_data:
            name = node.name if node is slits else node.relative_to(slits)  # with the names of groups between them
            yield name or str(slits.attrs.get("SLTNAME", "slit")), node.to_dataset()


def map_slits(function: Callable[[xr.Dataset], xr.Dataset], slits: Slits) -> Slits:
    """Apply a function of one slit to one slit, or to each slit of a DataTree.

    Parameters
    ----------
    function : callable
        Takes the Dataset of a slit and returns a Dataset.
    slits : Dataset or DataTree
        One slit, or many as from :func:`nsxr.open_slits`.

    Returns
    -------
    Dataset or DataTree
        The result, or a DataTree with the results under the names of the slits.

    Raises
    ------
    ModelError
        If ``slits`` is something else.

    Examples
    --------
    >>> spectra = map_slits(lambda slit: nsxr.extract_box(slit, aperture), slits)  # doctest: +SKIP
    """
    if isinstance(slits, xr.Dataset):
        return function(slits)
    if not isinstance(slits, xr.DataTree):
        raise ModelError(f"slits are a {type(slits).__name__}, expected a Dataset or a DataTree")
    tree = xr.DataTree.from_dict({name: function(slit) for name, slit in iterate_slits(slits)})
    tree.attrs = dict(slits.attrs)
    return tree


def warn_of_lost(slits: xr.Dataset | xr.DataTree) -> None:
    """Warn of slits in which no pixel can be used. Only slits that are in memory are looked at."""
    lost = []
    for name, slit in iterate_slits(slits):
        if slit["sci"].chunks is None and slit["dq"].chunks is None:
            good = ((slit["dq"].to_numpy() & _DO_NOT_USE) == 0) & np.isfinite(slit["sci"].to_numpy())
            lost += [] if good.any() else [name]
    if lost:
        message = f"no pixel can be used in {', '.join(lost)}: all are NaN or have DO_NOT_USE"
        warnings.warn(about(slits.attrs, message), DegradedResultWarning, stacklevel=3)
