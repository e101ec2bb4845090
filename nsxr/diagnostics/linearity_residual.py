"""Measure residual non-linearity and charge migration, from the slopes of late and early groups."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from astropy.table import Table

from nsxr.compute.blocks import map_blocks, map_with_halo
from nsxr.compute.layouts import one_chunk, to_blocks
from nsxr.compute.reductions import reduce_tree
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.ramps.linearity_residual import KINDS, SUMS, compare_with_neighbours, half_slopes, sums_by_signal
from nsxr.model.readout import Readout
from nsxr.model.variables import check

__all__ = ["linearity_table", "measure_linearity_residual"]

_RATES = ("integration", "row", "column")
_LEAST_PIXELS = 10


def measure_linearity_residual(
    exposure: xr.Dataset, *, signals: Sequence[float] | None = None, least_contrast: float = 0.1
) -> xr.Dataset:
    """Compare the slopes of the late and the early half of all ramps, by signal.

    In linear ramps, the mean slopes of both halves are the same at any brightness. If the linearity correction is
    not perfect, the slopes differ, by an amount that depends on the signal, the detector and the amplifier. If
    charge migrates (the brighter-fatter effect), pixels that are brighter than their neighbours lose signal in
    late groups, and fainter pixels gain signal.

    Parameters
    ----------
    exposure : Dataset
        Corrected ramps, after jumps were flagged: ``sci`` (integration, group, row, column) float32 [DN] and
        ``groupdq``. Groups that are DO_NOT_USE or SATURATED, and differences that end in a JUMP_DET group, are not
        used.
    signals : sequence of float, optional
        Edges of the bins of signal at the end of the ramp [DN]. The default is 15 bins of equal ratio from 300 to
        65 000. The signal comes from the mean of both halves, so that it is biased towards neither.
    least_contrast : float
        Relative difference from the mean of the four neighbours, above which a pixel counts as brighter or fainter.

    Returns
    -------
    Dataset
        Dims ``amplifier``, ``kind`` (all, brighter, fainter) and ``signal`` (geometric middle of each bin [DN]).
        ``residual`` float64 is the difference of the mean late slope and the mean early slope, divided by their mean.
        ``residual_error`` is its standard error, from the scatter of pixels. ``pixels`` is the number of pixels. Bins
        with fewer than 10 pixels are NaN. Lazy if the exposure is lazy.

    Raises
    ------
    ModelError
        If variables are missing or have wrong dims, dtype or units, or if there are fewer than five groups.
    ParameterError
        If the edges of bins do not increase.

    References
    ----------
    Plazas et al. 2018, PASP 130, 065004, on the brighter-fatter effect in infrared detectors; Goudfrooij et al. 2024,
    PASP 136, 014503, on charge migration in data of NIRISS.
    """
    check(exposure, "sci", "groupdq", units={"sci": "DN"})
    edges = np.geomspace(300.0, 65000.0, 16) if signals is None else np.asarray(signals, np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all() or not edges[0] > 0:
        raise ParameterError("signals are the edges of bins: two or more positive numbers that ascend")
    if exposure.sizes["group"] < 5:
        raise ModelError(f"the exposure has {exposure.sizes['group']} groups; two halves need five or more")
    blocks = to_blocks(exposure)
    slopes = map_blocks(
        half_slopes,
        blocks["sci"],
        blocks["groupdq"],
        core=("group", "column"),
        outputs={"early": (_RATES, np.float32), "late": (_RATES, np.float32)},
    )
    early, late = slopes["early"], slopes["late"]
    contrast = map_with_halo(compare_with_neighbours, early + late, {"row": 1}, boundary=np.nan)
    amplifier = Readout.from_header(exposure.attrs).amplifier_of(exposure["row"].values)
    labels, output = np.unique(amplifier, return_inverse=True)
    dims = ("integration", "amplifier", "kind", "signal", "sum")
    sums = map_blocks(
        sums_by_signal,
        one_chunk(early, "row", "column"),
        late,
        contrast,
        core=("row", "column"),
        outputs={"sums": (dims, np.float64)},
        sizes={"amplifier": labels.size, "kind": len(KINDS), "signal": edges.size - 1, "sum": SUMS},
        reduced={"sums": "integration"},
        output=output,
        n_outputs=labels.size,
        edges=edges,
        differences=exposure.sizes["group"] - 1,
        least_contrast=float(least_contrast),
    )["sums"]
    total = reduce_tree(_add, sums, "integration", np.float64).isel(integration=0, drop=True)
    pixels, difference, square, mean = (total.isel(sum=number, drop=True) for number in range(SUMS))
    enough = pixels.where(pixels >= _LEAST_PIXELS)
    variance = (square / enough - (difference / enough) ** 2) / enough
    found = {
        "residual": difference / mean.where(enough > 0),
        "residual_error": xr.ufuncs.sqrt(variance) / (mean / enough),
        "pixels": pixels.astype(np.int64),
    }
    meanings = {
        "residual": "slope of the late over that of the early half of ramps, less one",
        "residual_error": "standard error of it",
        "pixels": "ramps that went in",
    }
    for name, array in found.items():
        array.attrs = {"long_name": meanings[name]}
    coordinates = {
        "amplifier": ("amplifier", labels),
        "kind": ("kind", list(KINDS)),
        "signal": ("signal", np.sqrt(edges[1:] * edges[:-1]), {"units": "DN", "long_name": "signal at the end"}),
    }
    keywords = ("DETECTOR", "READPATT", "SUBARRAY", "filename")
    return xr.Dataset(found, coordinates, {key: exposure.attrs[key] for key in keywords if key in exposure.attrs})


def linearity_table(residual: xr.Dataset) -> Table:
    """Return a computed result of :func:`measure_linearity_residual` as a table. Bins without pixels have no row."""
    frame = residual.stack(bin=("amplifier", "kind", "signal"))
    chosen = frame.isel(bin=np.flatnonzero(frame["pixels"].values > 0))
    columns = {name: chosen[name].values for name in ("amplifier", "kind", "signal", *residual.data_vars)}
    table = Table({name: values.astype(str) if name == "kind" else values for name, values in columns.items()})
    table["signal"].unit = "DN"
    table.meta = dict(residual.attrs)
    return table


def _add(block: np.ndarray) -> np.ndarray:
    total: np.ndarray = block.sum(0, keepdims=True)
    return total
