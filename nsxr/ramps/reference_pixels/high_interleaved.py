"""Find bad interleaved reference pixels of IRS2 as the observatory's pipeline does, and the rows that replace them."""

import numpy as np
import xarray as xr
from astropy.stats import sigma_clipped_stats

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.model.dq import PixelFlag
from nsxr.model.readout import IRS2_ROWS, Readout, irs2_layout
from nsxr.ramps.reference_pixels.bad_interleaved import PERIOD

__all__ = ["find_high_interleaved", "replacement_rows"]

_SECTOR = IRS2_ROWS // 5
_BAD_REFERENCE = np.uint32(PixelFlag.BAD_REF_PIXEL.value)


def find_high_interleaved(exposure: xr.Dataset, n_sigma: float = 3.0) -> xr.DataArray:
    """Find bad interleaved reference pixels as the observatory's pipeline does.

    For each amplifier and integration, three numbers of each pair (mean absolute difference, mean, standard deviation,
    over all groups and columns) are compared with those of the other pairs. A pair is bad if one of its numbers is more
    than ``n_sigma`` clipped standard deviations above the clipped mean. A pair that is bad in one integration, or has
    BAD_REF_PIXEL anywhere in ``pixeldq``, is bad in all integrations.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row=3200, column) float32 [DN], ``pixeldq``.
    n_sigma : float
        Limit [standard deviations].

    Returns
    -------
    DataArray
        (row,) bool, False in science rows.
    """
    sectors = [slice(start, start + _SECTOR) for start in range(0, IRS2_ROWS, _SECTOR)]
    return xr.concat([_high_in_sector(exposure, rows, n_sigma) for rows in sectors], "row")


def _high_in_sector(exposure: xr.Dataset, rows: slice, n_sigma: float) -> xr.DataArray:
    """Return :func:`find_high_interleaved` for the rows of one amplifier, without coordinates."""
    is_interleaved = irs2_layout(Readout.of(exposure).detector).is_interleaved[rows]
    inside = np.flatnonzero(is_interleaved)
    pixeldq = unlabelled(exposure["pixeldq"]).isel(row=rows)
    flagged = ((pixeldq & _BAD_REFERENCE) != 0).any("column") & xr.DataArray(is_interleaved, dims="row")
    moments = map_blocks(
        _pair_sums,
        one_chunk(unlabelled(exposure["sci"]).isel(row=rows).isel(row=inside), "row", "column"),
        core=("row", "column"),
        outputs={"moments": (("integration", "group", "statistic", "pair"), np.float64)},
        sizes={"statistic": 3, "pair": inside.size // 2},
    )["moments"]
    outlying = map_blocks(
        _outlying_pairs,
        one_chunk(moments.mean("group"), "statistic", "pair"),
        one_chunk(flagged.isel(row=inside), "row"),
        core=("statistic", "pair", "row"),
        outputs={"outlying": (("integration", "row"), np.bool_)},
        sizes={"row": inside.size},
        n_sigma=n_sigma,
    )["outlying"]
    position = np.cumsum(is_interleaved).clip(1) - 1
    found = one_chunk(outlying.any("integration"), "row").isel(row=position)
    return (found & xr.DataArray(is_interleaved, dims="row")) | flagged


def _pair_sums(sci: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference, mean and mean square of each pair of rows, frame by frame."""
    first, second = sci[..., 0::2, :], sci[..., 1::2, :]
    out = np.empty((*sci.shape[:2], 3, first.shape[2]))
    out[:, :, 0] = np.abs(second - first).mean(-1, dtype=np.float64)
    out[:, :, 1] = (first.mean(-1, dtype=np.float64) + second.mean(-1, dtype=np.float64)) / 2
    square = np.einsum("...c,...c->...", first, first, dtype=np.float64)
    out[:, :, 2] = (square + np.einsum("...c,...c->...", second, second, dtype=np.float64)) / (2 * sci.shape[-1])
    return out


def _outlying_pairs(moments: np.ndarray, flagged: np.ndarray, n_sigma: float) -> np.ndarray:
    """Return flags (integration, row) from (integration, statistic, pair); pairs flagged before are left out."""
    known = flagged.reshape(-1, 2).any(-1)
    bad = np.zeros((moments.shape[0], known.size), dtype=bool)
    for i, (difference, mean, square) in enumerate(moments):
        for values in (difference, mean, np.sqrt(np.maximum(square - mean**2, 0))):
            centre, _, scatter = sigma_clipped_stats(values[~known], sigma=n_sigma)
            bad[i] |= ~known & (values - centre > n_sigma * scatter)
    return bad.repeat(2, axis=-1)


def replacement_rows(bad: np.ndarray) -> np.ndarray:
    """Return the two rows whose mean is used for each row of a sector.

    Parameters
    ----------
    bad : (640,) bool
        Bad interleaved pixels.

    Returns
    -------
    (640, 2) int64
        For a good row, the row itself. A bad row is replaced by the same pixel of the blocks before and after, or of
        the one of these blocks in which it is good. If it is bad in both, a good pixel of the other pair in the same
        block is used. -1 if there is none.
    """
    sources = np.repeat(np.arange(bad.size)[:, None], 2, axis=1)
    block = (np.arange(bad.size) - 8) // PERIOD
    for row in np.flatnonzero(bad).tolist():
        near = [r for r in (row - PERIOD, row + PERIOD) if 0 <= r < bad.size and not bad[r]]
        pair = [r for r in (row - 2, row + 2) if not bad[r] and block[r] == block[row] and _is_interleaved(r)]
        choice = near or pair[:1] or [-1]
        sources[row] = choice[0], choice[-1]
    return sources


def _is_interleaved(row: int) -> bool:
    return (row + 8) % PERIOD >= 16
