"""Build the template of the picture frame from dark exposures, and write it as a reference file."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits

from nsxr.compute.blocks import map_blocks
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ParameterError
from nsxr.kernels.ramps.picture_frame import leading_pattern
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.ramps.picture_frame import SEGMENT, by_integration, segment_edges, segments
from nsxr.storage.urls import local_path
from nsxr.storage.whole import refuse_existing, replacing

__all__ = ["build_picture_frame", "write_picture_frame"]


def build_picture_frame(darks: Sequence[xr.Dataset], *, smoothing: float = 1.0) -> xr.Dataset:
    """Build a template of the picture frame from dark exposures.

    Parameters
    ----------
    darks : sequence of Dataset
        Full-frame ramps of one detector without light: ``sci`` (integration, group, row, column) float32 [DN],
        ``pixeldq``, ``groupdq``. Correct them up to the flags of jumps, with the same steps as the exposures from which
        the template will be subtracted.
    smoothing : float
        Standard deviation of the Gaussian that smooths the template within each amplifier [16 pixels].

    Returns
    -------
    Dataset
        A reference of type ``pictureframe``, with ``sci`` (row, column) float32 of rms 1. Lazy if the darks are lazy.
        The mean over each amplifier is 0. It cannot be measured, because each amplifier has its own level.

    Raises
    ------
    ParameterError
        If there is no dark, if darks have different pixels or detectors, or if all darks have a single group.

    Notes
    -----
    The first group is subtracted from all groups. The differences are averaged in blocks of 16 x 16 pixels, with
    clipping, and their mean over the integration is subtracted. Then the level of every line in every amplifier is
    removed. The leading principal component of the rest gives the strength of the pattern in each group. The pattern
    is the regression on these strengths, and the levels of lines are shrunk by their uncertainty.
    """
    exposures = [dark for dark in darks if dark.sizes["group"] > 1]
    if not exposures:
        raise ParameterError(f"{len(darks)} darks, none with two groups or more; at least one is needed")
    first = exposures[0]
    row, column = (first.indexes[dim].to_numpy() for dim in ("row", "column"))
    for dark in exposures:
        check(dark, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
        same = dark.attrs["DETECTOR"] == first.attrs["DETECTOR"] and all(
            np.array_equal(dark.indexes[dim].to_numpy(), first.indexes[dim].to_numpy()) for dim in ("row", "column")
        )
        if not same or Readout.from_header(dark.attrs).subarray != "FULL":
            raise ParameterError(
                f"darks must be full frames of the same pixels; {dark.attrs.get('filename', 'one')} of "
                f"{dark.attrs['DETECTOR']}, {dark.attrs['SUBARRAY']}, does not go with "
                f"{first.attrs.get('filename', 'the first')} of {first.attrs['DETECTOR']}"
            )
    row_edges, column_edges = segment_edges(row), segment_edges(column)
    blocks = xr.concat([_blocks(dark, row_edges) for dark in exposures], "frame")
    output = Readout.from_header(first.attrs).amplifier_of(row)
    sci = map_blocks(
        _expanded_pattern,
        one_chunk(blocks, "frame", "row_block", "segment"),
        core=("frame", "row_block", "segment"),
        outputs={"sci": (("row", "column"), np.float32)},
        sizes={"row": row.size, "column": column.size},
        row=row,
        column=column,
        row_edges=row_edges,
        column_edges=column_edges,
        output=output,
        smoothing=float(smoothing),
    )["sci"]
    detector = Readout.of(first).detector
    sci.attrs = {"long_name": "pattern of the picture frame, rms 1", "units": "1"}
    coordinates = {name: first[name] for name in ("row", "column", "amplifier") if name in first.coords}
    attributes = {
        "reference_type": "pictureframe",
        "filename": f"nsxr_pictureframe_{detector.lower()}.fits",
        "pedigree": "INFLIGHT",
        "useafter": f"{first.attrs.get('DATE-OBS', '2022-01-01')}T00:00:00",
        "detector": detector,
    }
    return xr.Dataset({"sci": sci}, attrs=attributes).assign_coords(coordinates)


def _blocks(dark: xr.Dataset, row_edges: np.ndarray) -> xr.DataArray:
    """Return images of blocks, minus their mean over an integration, (frame, row_block, segment) float32."""
    sci = dark["sci"]
    everywhere = xr.DataArray(np.ones((sci.sizes["row"], sci.sizes["column"]), np.bool_), dims=("row", "column"))
    nothing = xr.zeros_like(everywhere, dtype=np.float32)
    mean, _, count = segments(dark, nothing, by_integration(everywhere, sci))
    blocks = map_blocks(
        _block_means,
        one_chunk(mean, "row"),
        count,
        core=("row", "group"),
        outputs={"blocks": (("integration", "group", "row_block", "segment"), np.float32)},
        sizes={"row_block": row_edges.size - 1},
        row_edges=row_edges,
    )["blocks"]
    return blocks.stack(frame=("integration", "group"), create_index=False).transpose("frame", "row_block", "segment")


def _block_means(mean: np.ndarray, count: np.ndarray, row_edges: np.ndarray) -> np.ndarray:
    total = np.add.reduceat(mean.astype(np.float64) * count, row_edges[:-1], axis=2)
    number = np.add.reduceat(count.astype(np.float64), row_edges[:-1], axis=2)
    blocks = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    is_gone = ~np.isfinite(blocks[:, 1:]).any(1)  # no data in this integration, in the other groups either
    blocks[:, 0] = np.where(is_gone, np.nan, 0)
    number = np.isfinite(blocks).sum(1, keepdims=True)
    level = np.where(np.isfinite(blocks), blocks, 0).sum(1, keepdims=True) / np.maximum(number, 1)
    return np.asarray(blocks - level, np.float32)


def _expanded_pattern(
    blocks: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    row_edges: np.ndarray,
    column_edges: np.ndarray,
    output: np.ndarray,
    smoothing: float,
) -> np.ndarray:
    """Return the leading pattern of blocks at every pixel, smoothed within each amplifier."""
    of_block = output[row_edges[:-1]]
    image = np.empty((row.size, column.size), np.float32)
    pattern = leading_pattern(blocks, of_block)
    centres = [
        np.array([axis[a:b].mean() for a, b in pairwise(edges)])
        for axis, edges in ((row, row_edges), (column, column_edges))
    ]
    along = _smoother(column, centres[1], smoothing)
    for number in np.unique(output):
        part, rows = pattern[of_block == number], output == number
        across = _smoother(row[rows], centres[0][of_block == number], smoothing)
        part = np.where(np.isfinite(part), part, 0.0 if not np.isfinite(part).any() else np.nanmedian(part))
        image[rows] = across @ part @ along.T
        image[rows] -= image[rows].mean()
    rms = np.sqrt(np.mean(image.astype(np.float64) ** 2))
    return np.asarray(image / rms if rms > 0 else image, np.float32)


def _smoother(position: np.ndarray, centre: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the weights of block values for a local straight line at each position, (position, centre).

    A line follows the slope of the pattern up to the edges of the detector; a mean does not.
    """
    width = SEGMENT * max(smoothing, 0.5)
    weights = np.empty((position.size, centre.size))
    for number, here in enumerate(position):
        distance = (centre - here) / width
        weight = (
            np.exp(-((np.abs(distance) - np.abs(distance).min()) ** 2) / 2) + 1e-12
        )  # the nearest block always counts
        zeroth, first, second = (float((weight * distance**power).sum()) for power in range(3))
        determinant = zeroth * second - first**2
        if determinant > 1e-3 * zeroth * second:
            weights[number] = weight * (second - first * distance) / determinant
        else:
            weights[number] = weight / zeroth
    return weights


def write_picture_frame(template: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a template as a FITS file of type ``pictureframe``, which :func:`nsxr.open_references` reads.

    Parameters
    ----------
    template : Dataset
        From :func:`build_picture_frame`. It is computed here.
    path : path
        File to write.
    overwrite : bool
        Whether to replace an existing file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputExistsError
        If the file exists already.
    """
    target = local_path(path)
    if not overwrite:
        refuse_existing([target])
    first = {dim: int(template.indexes[dim].min()) for dim in ("row", "column")}
    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "TELESCOP": "JWST",
            "INSTRUME": "NIRSPEC",
            "REFTYPE": "PICTUREFRAME",
            "DETECTOR": template.attrs["detector"],
            "PEDIGREE": template.attrs["pedigree"],
            "USEAFTER": template.attrs["useafter"],
            "AUTHOR": "nsxr",
            "DESCRIP": "Pattern of the picture frame, rms 1",
            "DATAMODL": "PictureFrameModel",
            "FILENAME": target.name,
            "SUBSTRT1": first["column"] + 1,
            "SUBSTRT2": first["row"] + 1,
            "SUBSIZE1": template.sizes["column"],
            "SUBSIZE2": template.sizes["row"],
        }
    )
    image = fits.ImageHDU(template["sci"].transpose("row", "column").to_numpy().astype(">f4"), name="SCI")
    with replacing(target) as partial:
        fits.HDUList([primary, image]).writeto(partial)
    return target
