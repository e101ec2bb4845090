"""Add an image of the fitted light to slits."""

from typing import Any, TypeVar

import numpy as np
import xarray as xr

from nsxr.model.declarations import step
from nsxr.model.history import record
from nsxr.slits.collection import map_slits
from nsxr.spectra.extraction import extract_spectrum, model_image
from nsxr.spectra.trace_model import fit_trace_model

__all__ = ["add_trace_model"]

Slits = TypeVar("Slits", xr.Dataset, xr.DataTree)


@step("adaptive_trace_model", off="not asked for", parts=(fit_trace_model,))
def add_trace_model(slits: Slits, **fitting: Any) -> Slits:
    """Add an image of the light that was fitted to each slit: source, neighbours and local background.

    :func:`nsxr.replace_pixels` can fill missing pixels with it. The other variables do not change.

    Parameters
    ----------
    slits : Dataset or DataTree
        One slit or many, as for :func:`nsxr.extract_spectrum`.
    **fitting
        Parameters of :func:`nsxr.fit_trace_model`.

    Returns
    -------
    Dataset or DataTree
        The slits with ``trace_model`` [units of ``sci`` and its dims] and ``var_trace_model``, the variance of the fit,
        float32. They are on detector pixels, missing ones too; NaN outside the aperture, and in columns that cannot be
        used.

    Notes
    -----
    The observatory's pipeline has splines here, which it also uses to resample slits to smaller pixels. nsxr has the
    model that it extracts spectra with, and does not resample.
    """

    def add(slit: xr.Dataset) -> xr.Dataset:
        model = fit_trace_model(slit, **fitting)
        image = model_image(extract_spectrum(slit, model), model, slit)
        unit = slit["sci"].attrs["units"]
        return record(
            slit,
            "adaptive_trace_model",
            parameters=fitting,
            units={"trace_model": unit, "var_trace_model": f"({unit})2"},
            trace_model=image["model"].astype(np.float32),
            var_trace_model=image["model_variance"].astype(np.float32),
        )

    return map_slits(add, slits)
