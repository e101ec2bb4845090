"""Fit count rates with the read noise measured in the ramps: the step ``ramp_fit``."""

from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import unlabelled
from nsxr.compute.layouts import chunk_like
from nsxr.model.declarations import Needs, Takes, step
from nsxr.ramps.dark_current import average_dark_current
from nsxr.ramps.ramp_fit import fit_ramps
from nsxr.ramps.read_noise import read_noise_after_cleaning
from nsxr.ramps.read_noise import rescale_read_noise as scaled_read_noise

__all__ = ["fit_count_rates"]


@step(
    "ramp_fit",
    references=[Needs("readnoise"), Needs("gain"), Takes("dark", of="dark_current")],
    parts=[fit_ramps],
    given=["average_dark_current", "dark_current"],
    is_essential=True,
    makes_products=True,
)
def fit_count_rates(
    ramps: xr.Dataset,
    readnoise: xr.Dataset,
    gain: xr.Dataset,
    dark: xr.Dataset | None = None,
    *,
    rescale_read_noise: bool = False,
    dark_current: float | None = None,
    **parameters: Any,
) -> xr.DataTree:
    """Fit slopes to ramps, with the photon noise of the dark current and the read noise measured in the ramps.

    Parameters
    ----------
    ramps, readnoise, gain : Dataset
        As in :func:`nsxr.fit_ramps`.
    dark : Dataset, optional
        Dark reference that was subtracted. Its mean dark current leaves photon noise in the ramps.
    rescale_read_noise : bool
        Whether the read noise reference is scaled to the noise of dark pixels.
    dark_current : float, optional
        Mean dark current [electron/s], in place of the value of the dark reference.
    **parameters
        Parameters of :func:`nsxr.fit_ramps`.

    Returns
    -------
    DataTree
        From :func:`nsxr.fit_ramps`. If the read noise was scaled, the factors are added as variables that become
        keywords.
    """
    noise = scaled_read_noise(ramps, readnoise, gain) if rescale_read_noise else readnoise
    scale = noise["scale"] if rescale_read_noise else None
    current, before = average_dark_current(dark, ramps, dark_current), noise
    if "flicker_variance" in ramps:
        noise = read_noise_after_cleaning(ramps, noise, gain, current)
    tree = fit_ramps(ramps, noise, gain, average_dark_current=current, **parameters)
    if "flicker_variance_of_mean" in ramps:
        of_mean = ramps.assign(flicker_variance=ramps["flicker_variance_of_mean"])
        tree = _with_noise_of_mean(tree, ramps, noise, read_noise_after_cleaning(of_mean, before, gain, current))
    if scale is None:
        return tree
    factors = _scale_keywords(scale)
    nodes = {name: node.to_dataset().assign(factors) for name, node in tree.children.items()}
    return xr.DataTree.from_dict(nodes, name=tree.name)


def _with_noise_of_mean(tree: xr.DataTree, ramps: xr.Dataset, noise: xr.Dataset, of_mean: xr.Dataset) -> xr.DataTree:
    """Return products of a time series whose ``rate`` has the noise that cleaning left in the mean of integrations."""
    rate = tree["rate"].to_dataset()
    one, mean = (chunk_like(unlabelled(reference["sci"]), rate["sci"]) for reference in (noise, of_mean))
    factor = ((mean / one.where(one > 0)) ** 2).fillna(np.float32(1))
    changed = rate.assign(
        var_rnoise=(rate["var_rnoise"] * factor).assign_attrs(rate["var_rnoise"].attrs),
        noise_used=unlabelled(ramps["is_dark"]).astype(np.uint8),
        noise_correlation=unlabelled(ramps["noise_correlation_of_mean"]),
    )
    return xr.DataTree.from_dict({"rate": changed, "rateints": tree["rateints"].to_dataset()}, name=tree.name)


def _scale_keywords(scale: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the factors on the read noise as numbers that become keywords of a product."""
    found = {}
    for number in scale["amplifier"].values:
        value = scale.sel(amplifier=number, drop=True)
        value.attrs = {"long_name": f"factor on read noise, output {number}", "keyword": f"RNSCALE{number}"}
        found[f"read_noise_scale_{number}"] = value
    return found
