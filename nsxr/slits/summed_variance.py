"""The variance of sums of pixels that share noise."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.errors import ModelError
from nsxr.kernels.shared_noise import PlacesInTime, SharedNoise, shared_in_columns, shared_in_image
from nsxr.model.dims import IMAGE
from nsxr.model.readout import Readout
from nsxr.model.time_order import science_time_order
from nsxr.model.variables import check, variances_of

__all__ = ["SHARED_NOISE", "places_of_shared_noise", "summed_variance"]

SHARED_NOISE = ("noise_used", "noise_correlation")
"""Variables that tell what pixels share of the noise."""


def summed_variance(product: xr.Dataset, weights: xr.DataArray, dim: str | tuple[str, ...] = IMAGE) -> xr.DataArray:
    r"""Return the variance of a weighted sum of pixels, with the noise that the pixels share.

    After :func:`nsxr.clean_flicker_noise`, pixels are not independent. Where the noise was estimated from other pixels,
    neighbours share the error of the estimate, and their sum has more noise than that of independent pixels. Pixels
    from which the noise was estimated have negative covariances: the estimate takes a part of their own noise away.

    Parameters
    ----------
    product : Dataset
        Count rates or a slit: ``sci``, ``var_rnoise`` and other variances, (row, column) with or without
        ``integration``; with ``noise_used`` and ``noise_correlation``, as products of exposures have them from which
        correlated noise was removed. Without these two, pixels count as independent.
    weights : DataArray
        (row, column), weights of the pixels. Pixels without labels, or all that are labelled, must fit the product.
        Pixels that are not in the sum have the weight 0.
    dim : str or tuple of str
        ``("row", "column")``: the sum of all pixels. ``"row"``: the sum of each column.

    Returns
    -------
    DataArray
        float64, square of the units of ``sci``, along ``integration`` and ``column`` as far as they are left. Lazy if
        the product is. NaN if a pixel with a weight has no variance.

    Raises
    ------
    ModelError
        If variables are missing or not as declared, or if the weights do not fit.

    Notes
    -----
    .. math:: V = \sum_i w_i^2 v_i + \sum_{i \ne j} w_i w_j \sqrt{r_i r_j}\, c(\Delta l, \Delta s)

    v is the sum of all variances of a pixel, r is ``var_rnoise``. c is from the table ``noise_correlation``: it depends
    on the distance of two pixels in lines (columns of the image) and in slots of 10 us (rows of an amplifier), and on
    whether both were used for the estimate, neither was, or one was. It is 0 for pixels of different amplifiers.

    Examples
    --------
    >>> weights = xr.zeros_like(rate["sci"])  # doctest: +SKIP
    >>> weights.loc[{"row": slice(900, 929), "column": 1200}] = 1  # doctest: +SKIP
    >>> error = nsxr.summed_variance(rate, weights) ** 0.5  # doctest: +SKIP
    """
    names = variances_of(product)
    check(product, "sci", "var_rnoise", *names)
    wanted = (dim,) if isinstance(dim, str) else tuple(dim)
    if set(wanted) not in ({"row"}, set(IMAGE)):
        raise ModelError(f"dim is {dim!r}, expected 'row' or ('row', 'column')")
    given = weights.transpose(*IMAGE) if set(weights.dims) == set(IMAGE) else weights
    if given.dims != IMAGE or given.shape != tuple(product.sizes[d] for d in IMAGE):
        raise ModelError(f"weights have sizes {dict(weights.sizes)}, expected rows and columns of the product")
    places = places_of_shared_noise(product)
    of_columns = len(wanted) == 1
    along = ("integration",) if "integration" in product["sci"].dims else ()
    variances = [one_chunk(unlabelled(product[name]), *IMAGE) for name in names]
    found = map_blocks(
        _summed,
        *variances,
        unlabelled(given),
        *(unlabelled(product[name]) for name in SHARED_NOISE if places is not None),
        core=(*IMAGE, "lag", "kind"),
        outputs={"variance": ((*along, "column") if of_columns else along, np.float64)},
        read=names.index("var_rnoise"),
        number=len(names),
        places=places,
        of_columns=of_columns,
    )["variance"]
    kept = {d: product[d] for d in found.dims if d in product.coords}
    units = product["sci"].attrs.get("units")
    return found.assign_coords(kept).assign_attrs({"units": f"({units})2"} if units else {})


def places_of_shared_noise(product: xr.Dataset) -> PlacesInTime | None:
    """Return when the pixels of count rates or of a slit are read, if they share noise and the product tells how."""
    if not ({*SHARED_NOISE} <= set(product.variables) and set(IMAGE) <= set(product.dims)):
        return None
    readout = Readout.from_header(product.attrs, ramps=False)
    order = science_time_order(readout, readout.n_rows, readout.n_columns)
    amplifier, slot = (np.zeros(readout.n_rows, dtype=np.int64) for _ in range(2))
    for number, (rows, slots) in enumerate(zip(order.rows, order.slot, strict=True)):
        amplifier[rows], slot[rows] = number, slots
    row = product.indexes["row"].to_numpy() - readout.row_start
    if row.min() < 0 or row.max() >= readout.n_rows:
        raise ModelError(f"rows go to {row.max()}, expected rows of a subarray of {readout.n_rows} rows")
    line = product.indexes["column"].to_numpy().astype(np.int64)
    return PlacesInTime(amplifier[row], slot[row], line, order.is_reversed)


def _summed(*blocks: np.ndarray, read: int, number: int, places: PlacesInTime | None, of_columns: bool) -> np.ndarray:
    """Return the variances of sums of images (..., row, column)."""
    variances, (weights, *noise) = blocks[:number], blocks[number:]
    weights = weights.astype(np.float64)
    shape = variances[read].shape
    total = np.zeros((*shape[:-2], shape[-1]) if of_columns else shape[:-2])
    for index in np.ndindex(shape[:-2]):
        each = [v[index] if v.ndim == len(shape) else v for v in variances]
        alone = np.where(weights != 0, weights**2 * np.sum(each, axis=0, dtype=np.float64), 0.0)
        total[index] = alone.sum(0) if of_columns else alone.sum()
        if places is not None:
            pixels = weights, each[read].astype(np.float64), SharedNoise(noise[0], noise[1], places)
            total[index] += shared_in_columns(*pixels) if of_columns else shared_in_image(*pixels)
    return total
