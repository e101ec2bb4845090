"""Frames in which correlated noise is measured, and their means, which show the sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks, to_whole_frames
from nsxr.compute.reductions import add_blocks, reduce_tree
from nsxr.errors import ModelError
from nsxr.kernels.ramps.differences import differences, sums_of_squares, weighted_sums
from nsxr.kernels.ramps.frame_quality import frame_quality, numbers_of_means
from nsxr.kernels.ramps.robust_mean import robust_mean
from nsxr.kernels.ramps.slope_weights import slope_weights
from nsxr.model.dims import IMAGE, RAMP
from nsxr.model.dq import UNUSABLE_PIXEL
from nsxr.model.readout import Readout
from nsxr.model.time_order import TimeOrder, science_time_order
from nsxr.model.variables import check

__all__ = [
    "SERIES",
    "Frames",
    "frame_by_frame",
    "frame_of",
    "frames_of",
    "mean_of_images",
    "squares_about",
]

_OF_PARTS = {"group": "sample", "row": "piece"}
SERIES = 10
"""Least number of integrations whose mean shows the source well enough."""

_ROWS = 128  # rows in which the noise of a frame is measured
_SAMPLE, _ENOUGH = 8, 2**24  # frames in which the spectrum is measured at least, and samples that are enough for it


@dataclass(frozen=True)
class Frames:
    """Differences of groups or rates, in which correlated noise is measured.

    Attributes
    ----------
    values : DataArray
        (integration, group, row, column) float32, NaN where a pixel cannot be used.
    parts : tuple of DataArray
        What frames are made of: the values alone, or ``sci``, ``groupdq`` and ``pixeldq`` in blocks, whose dims group
        and row are called ``sample`` and ``piece``. Whoever needs each frame once takes the parts, see
        :func:`frame_of`. Then the values of all frames are not in memory at once.
    sampled : ndarray
        Numbers of the groups in which the spectrum is measured.
    precision : DataArray
        (integration, group) float32, inverse variance of the noise of a pixel.
    images : DataArray
        (integration, row, column) float32, the mean of the groups of each integration, or the mean of all frames of a
        time series. Frames are weighted by the inverse variance of their noise, and differences of groups also as in
        the fit of a slope.
    mean : DataArray
        (row, column) float32, the mean of ``images``, without what a bad integration adds.
    source : DataArray or None
        (group, row, column) float32, the mean over integrations of a time series, which has enough of them for the mean
        to show the source, so that pixels with light are used too. None for other exposures.
    apart : DataArray or None
        (integration, group) float32, by how much the level of a frame of a time series is far from that of the others,
        else 0. The means do not have it. None for other exposures.
    shared : DataArray
        (integration,) float64, variance of the noise in each of the ``images`` over the variance of the noise in a
        frame.
    relative : DataArray
        (integration,) float64, variance of the noise in ``images`` over that of the noise in ``still``: 1 but for a
        time series.
    order : TimeOrder
        The order in which pixels are read.
    bands : ndarray
        (row,), amplifier that reads each row.
    """

    values: xr.DataArray
    parts: tuple[xr.DataArray, ...]
    sampled: np.ndarray
    precision: xr.DataArray
    images: xr.DataArray
    mean: xr.DataArray
    source: xr.DataArray | None
    apart: xr.DataArray | None
    shared: xr.DataArray
    relative: xr.DataArray
    order: TimeOrder
    bands: np.ndarray

    @property
    def is_series(self) -> bool:
        """Whether this is a time series with a source."""
        return self.source is not None

    @property
    def still(self) -> xr.DataArray:
        """The image that is the same in all integrations of a time series, or in all frames of an integration."""
        return self.images if self.source is None else self.source

    @property
    def averaged(self) -> int:
        """Axis of (integration, group) along which frames are averaged for ``static``."""
        return 0 if self.is_series or self.values.sizes["group"] == 1 else 1

    @property
    def static(self) -> xr.DataArray | None:
        """The image that is subtracted before the spectrum is measured, None for a single frame.

        It is ``still``, or ``mean`` if integrations have a single frame.
        """
        if self.is_series or self.averaged == 1:
            return self.still
        return self.mean if self.values.sizes["integration"] > 1 else None


def frames_of(exposure: xr.Dataset) -> Frames:
    """Return differences of successive groups of ramps, or rates as they are.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, if ramps have a single group, or if IRS2 frames still have their
        interleaved rows.
    """
    readout = Readout.of(exposure)
    if "science_row" in exposure.coords:
        raise ModelError("IRS2 frames still have their interleaved rows, subtract reference pixels first")
    has_groups = "group" in exposure["sci"].dims
    _check(exposure, has_groups)
    parts = _parts(exposure)
    values = _values(parts)
    integrations, groups = values.sizes["integration"], values.sizes["group"]
    sampled = _sampled(integrations, groups, values.size)
    weights = slope_weights(groups)
    stride = max(1, exposure.sizes["row"] // _ROWS)
    some = exposure.isel(row=slice(stride // 2, None, stride))
    outputs = dict.fromkeys(("precision", "level", "tilt", "covered"), (("integration", "group"), np.float32))
    precision, level, tilt, covered = map_blocks(
        frame_quality, to_whole_frames(_values(_parts(some))), core=IMAGE, outputs=outputs
    ).values()
    is_series = integrations >= SERIES
    of_means = map_blocks(
        numbers_of_means,
        *(one_chunk(array, "integration") for array in (covered, level, tilt, precision)),
        core=("integration", "group"),
        outputs={
            "shared": (("image",), np.float64),
            "number": ((), np.float64),
            "apart": (("integration", "group"), np.float32),
            "usual": (("group",), np.float32),
            "usual_of_all": ((), np.float32),
        },
        sizes={"image": 1 if is_series else integrations},
        is_series=is_series,
    )
    shared = of_means["shared"].rename(image="integration")
    dims = ("integration", "group") if is_series else ("group",)
    level = level if is_series else xr.zeros_like(level)
    images = to_whole_frames(_mean(parts, dims, weights, precision, level))
    images = (images + of_means["usual_of_all"]).expand_dims("integration") if is_series else images
    whole = ("integration", *IMAGE)
    images = map_blocks(_without_dead, images, core=IMAGE, outputs={"images": (whole, np.float32)})["images"]
    mean = mean_of_images(images)
    source: xr.DataArray | None = None
    apart: xr.DataArray | None = None
    relative = xr.ones_like(shared)
    if is_series:
        source = to_whole_frames(_mean(parts, ("integration",), np.ones(groups), precision, level)) + of_means["usual"]
        apart, relative = of_means["apart"], shared * of_means["number"]
    order = science_time_order(readout, values.sizes["row"], values.sizes["column"])
    bands = readout.amplifier_of(exposure.indexes["row"].to_numpy())
    return Frames(values, parts, sampled, precision, images, mean, source, apart, shared, relative, order, bands)


def _check(exposure: xr.Dataset, has_groups: bool) -> None:
    if not has_groups:
        check(exposure, "sci", "dq", "var_rnoise", "var_poisson", units={"sci": "DN/s"})
        return
    check(exposure, "sci", "groupdq", "pixeldq", units={"sci": "DN"})
    if exposure.sizes["group"] < 2:
        raise ModelError("differences of groups need two groups or more, found one; clean the rates instead")


def _sampled(integrations: int, groups: int, size: int) -> np.ndarray:
    """Return the numbers of the groups in which the spectrum is measured: some of many full frames, or all."""
    wanted = max(2, -(-_SAMPLE // integrations))
    if groups <= wanted or size // groups * wanted < _ENOUGH:
        return np.arange(groups)
    return np.unique(np.linspace(0, groups - 1, wanted).round().astype(int))


def _parts(exposure: xr.Dataset) -> tuple[xr.DataArray, ...]:
    """Return what frames are made of, see :class:`Frames`."""
    if "group" in exposure["sci"].dims:
        blocks = to_blocks(exposure[["sci", "groupdq"]])
        sci, flags = (unlabelled(blocks[name]).transpose(*RAMP) for name in ("sci", "groupdq"))
        parts = sci, flags, one_chunk(unlabelled(exposure["pixeldq"]).transpose(*IMAGE), *IMAGE)
        return tuple(array.rename({d: n for d, n in _OF_PARTS.items() if d in array.dims}) for array in parts)
    usable = (to_whole_frames(unlabelled(exposure["dq"])) & UNUSABLE_PIXEL) == 0
    values = to_whole_frames(unlabelled(exposure["sci"]))
    values = values.where(usable & np.isfinite(values))
    return (values.expand_dims([dim for dim in ("integration", "group") if dim not in values.dims]).transpose(*RAMP),)


def _values(parts: tuple[xr.DataArray, ...]) -> xr.DataArray:
    """Return differences of groups, or rates, (integration, group, row, column) float32, NaN where unusable."""
    return parts[0] if len(parts) == 1 else frame_by_frame(differences, parts, [], (), "values")


def frame_by_frame(
    kernel: Callable[..., np.ndarray],
    parts: tuple[xr.DataArray, ...],
    others: Sequence[xr.DataArray],
    core: Sequence[str],
    name: str,
) -> xr.DataArray:
    """Return what a kernel makes of ramps, in chunks of frames, (integration, group, row, column) float32.

    Where blocks have some of the rows of a frame, each task takes two groups out of all blocks. A slice that dask makes
    would be a copy that stays in memory.

    Parameters
    ----------
    kernel : callable
        ``kernel(sci, groupdq, pixeldq, *others)``. It returns one frame less than there are groups.
    parts : tuple of DataArray
        See :class:`Frames`.
    others : sequence of DataArray
        More arrays. They have the groups of the result, or none.
    core : sequence of str
        Dims of the other arrays that are neither of frames nor of ramps.
    name : str
        Name of the result.
    """
    groups, rows = parts[0].sizes["sample"] - 1, parts[0].sizes["piece"]
    whole = "sample", "piece", "group", *IMAGE, *core
    run = partial(map_blocks, kernel, core=whole, outputs={name: (RAMP, np.float32)}, joined="piece")
    if parts[0].chunks is None or len(parts[0].chunks[2]) == 1:
        return run(*parts, *others, sizes={"group": groups, "row": rows})[name]
    found = []
    for g in range(groups):
        of_group = (array.isel(group=slice(g, g + 1)) if "group" in array.dims else array for array in others)
        found.append(run(*parts, *of_group, sizes={"group": 1, "row": rows}, within=("sample", slice(g, g + 2)))[name])
    return xr.concat(found, "group")


def frame_of(parts: tuple[np.ndarray, ...], integration: int, group: int) -> np.ndarray:
    """Return one frame, (row, column) float32, from blocks of the parts."""
    if len(parts) == 1:
        frame: np.ndarray = parts[0][integration, group]
        return frame
    sci, flags, pixeldq = parts
    both = slice(group, group + 2)
    found: np.ndarray = differences(sci[integration, both], flags[integration, both], pixeldq)[0]
    return found


def mean_of_images(images: xr.DataArray) -> xr.DataArray:
    """Return the mean of the images of integrations, without what a bad one adds, (row, column) float32.

    See :func:`nsxr.kernels.ramps.robust_mean.robust_mean`. A single image stays as it is.
    """
    if images.sizes["integration"] == 1:
        return images.isel(integration=0)
    outputs = {"mean": (IMAGE, np.float32)}
    whole = one_chunk(images, "integration", *IMAGE)
    return map_blocks(robust_mean, whole, core=("integration", *IMAGE), outputs=outputs)["mean"]


def _without_dead(images: np.ndarray) -> np.ndarray:
    """Return images with NaN where pixels have exactly the values of their neighbours: an amplifier is dead."""
    same = np.pad(images[..., 1:] == images[..., :-1], ((0, 0), (0, 0), (1, 1)), constant_values=images.shape[2] > 1)
    return np.where(same[..., 1:] & same[..., :-1], np.float32(np.nan), images)


def _mean(
    parts: tuple[xr.DataArray, ...],
    dims: tuple[str, ...],
    weights: np.ndarray,
    precision: xr.DataArray,
    level: xr.DataArray,
) -> xr.DataArray:
    """Return the mean of usable values less their levels over some dims, with weights of groups and frames, float32."""
    along = xr.DataArray(weights.astype(np.float32), dims="group") * precision
    if len(parts) == 1:
        total = ((parts[0] - level) * along).sum(dims, dtype=np.float64)
        count = (parts[0].notnull() * along).sum(dims, dtype=np.float64)
    else:
        over_integrations, over_groups = ("integration" in dims), ("group" in dims)
        along = along.transpose("integration", "group")
        n = 1 if over_groups else along.sizes["group"]
        kernel = partial(weighted_sums, over_integrations=over_integrations, over_groups=over_groups)
        total, count = _sums(kernel, parts, [along, level], ("difference",), {"difference": n}, over_integrations)
        if over_groups:
            total, count = total.isel(group=0), count.isel(group=0)
    return (total / count.where(count > 0)).astype(np.float32)


def squares_about(frames: Frames, static: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the sum of squares of values less a static image, in units of the noise, and the sum of the weights.

    Both are (row, column) float64.
    """
    weight = frames.precision
    if frames.apart is not None:
        weight = weight.where(chunk_like(frames.apart, weight) == 0, np.float32(0))
    if len(frames.parts) == 1:
        square = (frames.values - static).astype(np.float64) ** 2 * weight
        dims = ("integration", "group")
        return square.sum(dims), (frames.values.notnull() * weight).sum(dims)
    square, count = _sums(sums_of_squares, frames.parts, [static, weight], (), {})
    return square, count


def _sums(
    kernel: Callable[..., tuple[np.ndarray, np.ndarray]],
    parts: tuple[xr.DataArray, ...],
    others: Sequence[xr.DataArray],
    dims: tuple[str, ...],
    sizes: Mapping[str, int],
    over_integrations: bool = True,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return two sums over the integrations of blocks of ramps, or for each of them, of what a kernel makes of them."""
    names = {"group": "difference", "row": "piece"}
    renamed = (array.rename({d: n for d, n in names.items() if d in array.dims}) for array in others)
    found = map_blocks(
        kernel,
        *parts,
        *(one_chunk(array, "difference") for array in renamed),
        core=("sample", "difference", "column"),
        outputs=dict.fromkeys(("first", "second"), (("integration", *dims, "piece", "column"), np.float64)),
        sizes=sizes,
        reduced=dict.fromkeys(("first", "second"), "integration") if over_integrations else None,
    )
    sums = list(found.values())
    if over_integrations:
        sums = [reduce_tree(add_blocks, array, "integration", np.float64).isel(integration=0) for array in sums]
    back = {"piece": "row", "difference": "group"}
    first, second = (array.rename({d: n for d, n in back.items() if d in array.dims}) for array in sums)
    return first, second
