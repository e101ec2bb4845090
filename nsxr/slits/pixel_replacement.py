"""Replace missing pixels by estimates before resampling."""

from typing import Any, Literal, TypeVar, get_args

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.slits.pixel_replace import fit_profile, smallest_gradient
from nsxr.model.declarations import step
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.units import require
from nsxr.model.variables import check_slit, variances_of
from nsxr.slits.collection import map_slits

__all__ = ["Algorithm", "replace_pixels"]

Algorithm = Literal["mingrad", "fit_profile", "trace_model"]
Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)
_DO_NOT_USE, _NON_SCIENCE, _ESTIMATED = (
    np.uint32(flag) for flag in (PixelFlag.DO_NOT_USE, PixelFlag.NON_SCIENCE, PixelFlag.FLUX_ESTIMATED)
)


@step("pixel_replace", off="not asked for", given=["model"])
def replace_pixels(
    slit: Slits,
    *,
    algorithm: Algorithm = "mingrad",
    n_adjacent_cols: int = 3,
    model: xr.Dataset | None = None,
) -> Slits:
    """Replace missing pixels of a slit, or of each of many slits, by estimates.

    Resampling spreads one missing pixel over its neighbours; an estimate avoids this. An estimate is not a measurement:
    the pixel gets the flag FLUX_ESTIMATED, and extraction from detector pixels treats it as missing. Do not replace
    pixels if the slit is not resampled.

    Parameters
    ----------
    slit : Dataset or DataTree
        One slit or many: ``sci`` float32, an image with or without ``integration`` in front; ``dq``; ``wavelength``
        [um], NaN outside the slit; ``var_poisson``, ``var_rnoise``, ``var_flat``, where they are present. A pixel is
        missing if it is NaN in ``sci`` or has DO_NOT_USE.
    algorithm : str
        ``mingrad``: the mean of the left and right neighbours or of the upper and lower neighbours, whichever pair
        differs less; variances are the squares of the mean errors. ``fit_profile``: the median profile of adjacent
        columns, scaled to the column; errors are estimated in the same way. Both are as in the observatory's pipeline:
        they ignore the noise of the neighbours, and their variances are rough. ``trace_model``: the value and variance
        of ``model``, or else of ``trace_model`` and ``var_trace_model`` in the slit, which the step
        adaptive_trace_model adds.
    n_adjacent_cols : int
        Columns on each side for ``fit_profile``.
    model : Dataset, optional
        For ``trace_model``: ``model`` [units of ``sci``] and ``model_variance`` [their square], with the dims of
        ``sci`` or without integration. Pixels where it is NaN stay as they are.

    Returns
    -------
    Dataset or DataTree
        The slit with new ``sci`` and variances in replaced pixels. Only pixels inside the slit are replaced, which have
        a wavelength and no NON_SCIENCE. Their ``dq`` gets FLUX_ESTIMATED and loses DO_NOT_USE, as in the pipeline,
        because resampling leaves out pixels with DO_NOT_USE. No other step clears a flag. With ``trace_model`` the
        whole variance goes to ``var_rnoise``, and the other variances are 0: an estimate has no photon noise, and
        resampling weights pixels with the inverse of ``var_rnoise``, so the weight of the estimate follows from its
        whole variance.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, or ``model`` is on other pixels or in other units.
    ParameterError
        If a parameter is out of range, if another algorithm has a ``model``, or if ``trace_model`` has none and the
        slit has none either.

    Notes
    -----
    As in the pipeline, ``mingrad`` never replaces pixels in the two first and the last rows and columns of a cut-out.
    Different from the pipeline: pixels outside the slit do not change. The scale of a profile is the exact
    least-squares solution; the pipeline searches it to 1e-4. FLUX_ESTIMATED that was set before stays. Variances change
    only where the value changes. ``trace_model`` does not replace pixels that the model lacks: those outside of the
    aperture, and those in columns whose flux cannot be found, for example because the missing pixel is in the middle of
    the source. The history does not say how many pixels were replaced, because pixels are not read before they are
    needed; count the flag FLUX_ESTIMATED.

    Examples
    --------
    >>> filled = replace_pixels(slit, algorithm="fit_profile")  # doctest: +SKIP
    """
    if algorithm not in get_args(Algorithm):
        raise ParameterError(f"algorithm is {algorithm!r}, expected one of {', '.join(get_args(Algorithm))}")
    if n_adjacent_cols < 1:
        raise ParameterError(f"n_adjacent_cols is {n_adjacent_cols}, expected at least 1")
    if model is not None and algorithm != "trace_model":
        raise ParameterError(f"algorithm is {algorithm!r} and a model was given: only trace_model takes one")
    return map_slits(
        lambda one: _replaced(one, algorithm, n_adjacent_cols, _own(one, algorithm) if model is None else model), slit
    )


def _own(slit: xr.Dataset, algorithm: Algorithm) -> xr.Dataset | None:
    """Return the model that a slit has itself. None for other algorithms."""
    if algorithm != "trace_model":
        return None
    names = {"trace_model": "model", "var_trace_model": "model_variance"}
    if not names.keys() <= set(slit.data_vars):
        raise ParameterError(
            "algorithm is 'trace_model', but no model was given and the slit has none: run adaptive_trace_model before"
        )
    return slit[[*names]].rename(names)


def _replaced(slit: xr.Dataset, algorithm: Algorithm, n_adjacent_cols: int, model: xr.Dataset | None) -> xr.Dataset:
    """Return one slit with estimates for its missing pixels."""
    parts = variances_of(slit)
    needed = ["var_rnoise"] if model is not None and "var_rnoise" not in parts else []
    image = check_slit(slit, "sci", "dq", "wavelength", *parts, *needed)
    sci, dq, wavelength = (unlabelled(slit[name]) for name in ("sci", "dq", "wavelength"))
    missing = ~(abs(sci) < np.inf) | (dq & _DO_NOT_USE > 0)
    inside = wavelength.notnull() & (dq & _NON_SCIENCE == 0)

    if model is not None:
        estimate, variance = _model(slit, model)
        nothing = xr.zeros_like(variance)
        estimates = {"sci": estimate} | {name: variance if name == "var_rnoise" else nothing for name in parts}
    else:
        arrays: list[xr.DataArray] = [sci, missing, *(unlabelled(slit[name]) for name in parts)]
        options: dict[str, Any] = {"n_adjacent_cols": n_adjacent_cols} if algorithm == "fit_profile" else {}
        dims = [str(dim) for dim in sci.dims]
        estimates = map_blocks(
            fit_profile if algorithm == "fit_profile" else smallest_gradient,
            *(one_chunk(array, *image) for array in arrays),
            core=image,
            outputs=dict.fromkeys(("sci", *parts), (dims, np.float32)),
            **options,
        )

    replaced = missing & inside & (abs(estimates["sci"]) < np.inf)
    changed: dict[str, Any] = {
        name: unlabelled(slit[name]).where(~replaced, value) for name, value in estimates.items()
    }
    flags = dq.where(~replaced, dq & ~_DO_NOT_USE | _ESTIMATED)
    parameters: dict[str, Any] = {"algorithm": algorithm}
    if algorithm == "fit_profile":
        parameters["n_adjacent_cols"] = n_adjacent_cols
    return record(slit, "pixel_replace", parameters=parameters, **changed, dq=flags)


def _model(slit: xr.Dataset, model: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the model and its variance, checked to be on the pixels of the slit."""
    lacking = [name for name in ("model", "model_variance") if name not in model]
    if lacking:
        raise ModelError(f"the model lacks {', '.join(lacking)} (found {', '.join(map(str, model)) or 'none'})")
    units = str(slit["sci"].attrs.get("units"))
    require("model", model["model"].attrs.get("units"), units)
    require("model_variance", model["model_variance"].attrs.get("units"), f"({units})2")
    for name in ("model", "model_variance"):
        for dim, size in model[name].sizes.items():
            if dim not in slit["sci"].dims or size != slit.sizes[dim]:
                raise ModelError(f"{name} has sizes {dict(model[name].sizes)}, expected some of {slit['sci'].sizes}")
            if dim in model.indexes and dim in slit.indexes and not model.indexes[dim].equals(slit.indexes[dim]):
                raise ModelError(f"{name} has other labels along {dim!r} than the slit: cut it to the same pixels")
    return unlabelled(model["model"]), unlabelled(model["model_variance"])
