"""Fit all ramps of an exposure with the kernels of one algorithm, and combine the integrations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks
from nsxr.compute.reductions import reduce_tree
from nsxr.kernels.ramps.covariance import shared_part
from nsxr.kernels.ramps.likelihood import WEIGHTED_SUMS, combine_weighted, finish_weighted, fit_by_likelihood
from nsxr.kernels.ramps.ramp_fit import SUMS, combine_sums, finish_slopes, fit_slopes
from nsxr.kernels.ramps.ramp_tile import PixelImages, SelectedGroups
from nsxr.kernels.ramps.ramp_weights import weight_tables
from nsxr.model.dims import IMAGE, RATES
from nsxr.model.dq import PixelFlag
from nsxr.model.variables import VARIABLES

__all__ = ["fit_least_squares", "fit_likelihood"]

_DO_NOT_USE = np.uint32(PixelFlag.DO_NOT_USE.value)
_PRODUCT = ("sci", "var_poisson", "var_rnoise", "dq")

_Fitted = dict[str, xr.DataArray]


def fit_least_squares(
    sci: xr.DataArray, groupdq: xr.DataArray, images: Sequence[xr.DataArray], selected: SelectedGroups
) -> tuple[_Fitted, _Fitted]:
    """Fit ramps as the observatory's pipeline does, by least squares with weights from the signal-to-noise ratio.

    Parameters
    ----------
    sci, groupdq : DataArray
        Ramps. If no rate is given, a chunk has all integrations.
    images : sequence of DataArray
        ``pixeldq``, gain, read noise, dark current, and the rate for the photon noise if it is given; (row, column).
    selected : SelectedGroups
        Groups that are fitted.

    Returns
    -------
    rate, rateints : dict of DataArray
        Variables of both products.
    """
    rateints, sums = _fitted(_least_squares, (sci, groupdq, *images), _PRODUCT, SUMS, selected=selected)
    return _combined(combine_sums, finish_slopes, sums, rateints, selected.group_time), rateints


def fit_likelihood(
    sci: xr.DataArray,
    groupdq: xr.DataArray,
    images: Sequence[xr.DataArray],
    selected: SelectedGroups,
    frame_time: float,
    reset_noise: float | None,
) -> tuple[_Fitted, _Fitted]:
    """Fit ramps with the covariance of their differences.

    Parameters
    ----------
    sci, groupdq, images, selected
        As in :func:`fit_least_squares`.
    frame_time : float [s]
    reset_noise : float or None [electron]
        Scatter of the level after a reset, if it is known.

    Returns
    -------
    rate, rateints : dict of DataArray
        Variables of both products.
    """
    rateints, sums = _fitted(
        _likelihood,
        (sci, groupdq, *images),
        (*_PRODUCT, "chi_square"),
        WEIGHTED_SUMS,
        selected=selected,
        shared=shared_part(selected.n_frames, frame_time, selected.group_time),
        reset_noise=-1.0 if reset_noise is None else float(reset_noise),
    )
    return _combined(combine_weighted, finish_weighted, sums, rateints, selected.group_time, images[1]), rateints


def _fitted(
    kernel: Callable[..., Any], arrays: Sequence[xr.DataArray], names: Sequence[str], n_sums: int, **parameters: Any
) -> tuple[_Fitted, xr.DataArray]:
    """Return the fit of each integration, and the sums over the integrations of each block."""
    outputs: dict[str, Any] = {name: (RATES, VARIABLES[name].dtype) for name in names}
    outputs["sums"] = (("integration", "sum", *IMAGE), np.float64)
    found = map_blocks(
        kernel,
        *arrays,
        core=("group", "column"),
        outputs=outputs,
        sizes={"sum": n_sums},
        reduced={"sums": "integration"},
        **parameters,
    )
    sums = found.pop("sums")
    return found, sums


def _combined(
    combine: Callable[..., Any],
    finish: Callable[..., Any],
    sums: xr.DataArray,
    rateints: _Fitted,
    group_time: float,
    *images: xr.DataArray,
) -> _Fitted:
    """Return the fit of all integrations together."""
    flags = reduce_tree(_any_flag, rateints["dq"], "integration", np.uint32).isel(integration=0, drop=True)
    together = reduce_tree(combine, sums, "integration", np.float64)
    outputs = {name: (IMAGE, VARIABLES[name].dtype) for name in rateints}
    arrays = together, flags, *images
    return map_blocks(finish, *arrays, core=("integration", "sum"), outputs=outputs, group_time=group_time)


def _any_flag(dq: np.ndarray) -> np.ndarray:
    """Return the flags of any integration, without DO_NOT_USE, which only says that one of them has no slope."""
    flags: np.ndarray = np.bitwise_or.reduce(dq, axis=0, keepdims=True) & ~_DO_NOT_USE
    return flags


def _images(
    pixeldq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    dark: np.ndarray,
    rate: np.ndarray | None = None,
) -> PixelImages:
    given = np.empty((0, 0), np.float32) if rate is None else rate
    return PixelImages(
        pixeldq, gain.astype(np.float32, copy=False), readnoise.astype(np.float32, copy=False), dark, given
    )


def _least_squares(
    sci: np.ndarray, groupdq: np.ndarray, *images: np.ndarray, selected: SelectedGroups
) -> tuple[np.ndarray, ...]:
    return fit_slopes(sci, groupdq, _images(*images), selected, weight_tables(sci.shape[1]))


def _likelihood(
    sci: np.ndarray,
    groupdq: np.ndarray,
    *images: np.ndarray,
    selected: SelectedGroups,
    shared: float,
    reset_noise: float,
) -> tuple[np.ndarray, ...]:
    return fit_by_likelihood(sci, groupdq, _images(*images), selected, shared, reset_noise)
