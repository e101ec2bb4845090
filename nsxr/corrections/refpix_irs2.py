"""IRS2: subtract correlated noise by the interleaved reference pixels and the reference output."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy.stats import sigma_clipped_stats

from nsxr.errors import ReferenceFileError
from nsxr.kernels import irs2 as loops
from nsxr.kernels.reductions import sum_groups
from nsxr.lazy import map_blocks, reduce_blocks, take_rows, unlabelled
from nsxr.model.chunking import chunk_like, one_chunk
from nsxr.model.dq import PixelFlag
from nsxr.model.history import record
from nsxr.model.readout import IRS2_ROWS, REFERENCE_BORDER, Readout, irs2_layout
from nsxr.model.variables import check

__all__ = ["find_bad_interleaved", "replacement_rows", "subtract_interleaved_reference"]

SECTOR = IRS2_ROWS // 5
_BAD_REFERENCE = np.uint32(PixelFlag.BAD_REF_PIXEL.value)
_FILTER_EDGE, _FILTER_WIDTH = 32 * 2048 // 2 - 2500, 5000  # bins of a full frame's spectrum
_FILTER_ITERATIONS = 3
_PERIOD = 20  # rows from one block of interleaved reference pixels to the next


@dataclass(frozen=True)
class Sector:
    """Time order of one output: see :mod:`nsxr.kernels.irs2` for the arrays."""

    rows: slice
    row_of_slot: np.ndarray
    from_slot: np.ndarray
    slot_of_output: np.ndarray
    is_reversed: bool


def _sector(output: int, detector: str) -> Sector:
    """Return the time order of output 0 (the reference output) to 4."""
    band = output if detector == "NRS1" else 4 - output
    in_time = np.arange(SECTOR)
    if (output % 2 == 0) == (detector == "NRS1"):
        in_time = in_time[::-1]  # this output reads towards smaller rows
    science = np.arange(512)
    reference = np.arange(128)
    row_of_slot = np.full(loops.SLOTS, -1, dtype=np.int64)
    row_of_slot[science + 6 * ((science + 8) // 16)] = in_time[science + 4 * ((science + 8) // 16)]
    row_of_slot[reference + 18 * (reference // 4) + 9] = in_time[reference + 16 * (reference // 4) + 8]
    from_slot = np.full(loops.SLOTS, -1, dtype=np.int64)
    for block in range(32):
        from_slot[22 * block + 7 : 22 * block + 15] = 22 * block + np.array([9, 11, 9, 11, 10, 12, 10, 12])
    slot_of_row = np.empty(SECTOR, dtype=np.int64)
    slot_of_row[row_of_slot[row_of_slot >= 0]] = np.flatnonzero(row_of_slot >= 0)
    rows = slice(band * SECTOR, (band + 1) * SECTOR)
    is_science = irs2_layout(detector).is_science[rows]
    return Sector(rows, row_of_slot, from_slot, slot_of_row[is_science], detector == "NRS2")


def subtract_interleaved_reference(
    exposure: xr.Dataset, refpix: xr.Dataset, *, ovr_corr_mitigation_ftr: float = 3.0
) -> xr.Dataset:
    r"""Subtract correlated noise from a raw IRS2 exposure, and drop the interleaved rows.

    In each group, less the mean of all groups of the integration, a line in time is fitted to the
    first and last columns of each output and removed, and for output *k*

    .. math:: \beta_k\,\mathcal F(s_k) + \alpha_k\,\mathcal F(r)

    is subtracted, with :math:`s_k` the interleaved reference pixels of the output, zero between
    them, and :math:`r` the reference output, its gaps filled. Only the real part matters, so the
    transforms are real and the weights made Hermitian, which is exact. The mean over groups, and
    hence an integration of one group, does not change.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row=3200, column) float32 [DN], ``pixeldq``, ``groupdq``.
    refpix : Dataset
        ``alpha``, ``beta`` (output, frequency) complex64; optionally ``bad_output``, ``bad_parity``,
        ``bad_mask`` that list bad pairs of interleaved pixels.
    ovr_corr_mitigation_ftr : float
        Limit of :func:`find_bad_interleaved` [standard deviations].

    Returns
    -------
    Dataset
        All variables with 2048 rows, ``row`` now being the detector row. Bad interleaved pixels are
        replaced by neighbours before use; science rows are never overwritten. DQ of science pixels
        does not change.

    Raises
    ------
    ReferenceFileError
        If the weights do not have one value for each slot of a frame.

    References
    ----------
    Moseley et al. 2010, Proc. SPIE 7742; Rauscher et al. 2017, PASP 129, 105003.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    readout = Readout.from_header(exposure.attrs)
    n_slots = loops.SLOTS * exposure.sizes["column"]
    if refpix.sizes["frequency"] != n_slots:
        raise ReferenceFileError(
            f"refpix {refpix.attrs.get('filename', 'in memory')} has {refpix.sizes['frequency']} frequencies, "
            f"expected {n_slots}: {loops.SLOTS} slots for each of {exposure.sizes['column']} columns"
        )
    sci = unlabelled(exposure["sci"])
    mean = reduce_blocks(sum_groups, sci, "group", np.float64).sum("group") / sci.sizes["group"]
    mean = mean.astype(np.float32)
    listed = _listed_bad(refpix, readout.detector) if "bad_mask" in refpix else None

    def parts(sector: Sector) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
        # sector by sector, so that one output never waits for the pixels of another
        frames, means = (one_chunk(a.isel(row=sector.rows), "row", "column") for a in (sci, mean))
        bad = _bad_in_sector(exposure, sector.rows, ovr_corr_mitigation_ftr)
        if listed is not None:
            bad = bad | listed.isel(row=sector.rows)
        return frames, chunk_like(means, frames.isel(group=0)), one_chunk(bad, "row")

    reference_sector = _sector(0, readout.detector)
    (spectrum,) = map_blocks(
        _reference_spectrum,
        *parts(reference_sector),
        core=("row", "column"),
        outputs=[(("integration", "group", "slot", "line"), np.complex64)],
        sizes=_spectrum_sizes(exposure.sizes["column"]),
        sector=reference_sector,
    )
    corrected = {}
    for output in range(1, 5):
        sector = _sector(output, readout.detector)
        alpha, beta = (_folded(unlabelled(refpix[name].sel(output=output, drop=True))) for name in ("alpha", "beta"))
        (part,) = map_blocks(
            _correct_output,
            *parts(sector),
            spectrum,
            alpha,
            beta,
            core=("row", "column"),
            outputs=[(("integration", "group", "science", "column"), np.float32)],
            sizes={"science": SECTOR * 4 // 5},
            sector=sector,
        )
        corrected[sector.rows.start] = part.rename(science="row")
    science = xr.concat([corrected[start] for start in sorted(corrected)], "row")

    layout = irs2_layout(readout.detector)
    rows = layout.science_rows_raw
    others = {name: take_rows(unlabelled(a), rows, 4) for name, a in exposure.data_vars.items() if name != "sci"}
    stripped = (
        xr.Dataset(others)
        .assign_coords(readout.row_coordinates(rows.size))
        .assign_coords({name: c for name, c in exposure.coords.items() if "row" not in c.dims})
    )
    stripped = stripped.assign(sci=science.assign_attrs(exposure["sci"].attrs))[list(exposure.data_vars)]
    stripped.attrs = dict(exposure.attrs)
    parameters = {"ovr_corr_mitigation_ftr": ovr_corr_mitigation_ftr}
    return record(stripped, "refpix", [refpix], parameters, sci=stripped["sci"])


def find_bad_interleaved(exposure: xr.Dataset, n_sigma: float = 3.0) -> xr.DataArray:
    """Find bad interleaved reference pixels by statistics of their pairs.

    The two pixels of a pair are read one after the other. For each output and integration, three
    numbers of each pair (mean absolute difference, mean, standard deviation, over all groups and
    columns) are compared with those of the other pairs: a pair is bad if one lies more than
    ``n_sigma`` clipped standard deviations above their clipped mean. A pair that is bad in one
    integration, or has BAD_REF_PIXEL anywhere in ``pixeldq``, is bad in all.

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
    sectors = [slice(start, start + SECTOR) for start in range(0, IRS2_ROWS, SECTOR)]
    return xr.concat([_bad_in_sector(exposure, rows, n_sigma) for rows in sectors], "row")


def _bad_in_sector(exposure: xr.Dataset, rows: slice, n_sigma: float) -> xr.DataArray:
    """Return :func:`find_bad_interleaved` for the rows of one output, without coordinates."""
    is_interleaved = irs2_layout(str(exposure.attrs["DETECTOR"])).is_interleaved[rows]
    inside = np.flatnonzero(is_interleaved)
    pixeldq = unlabelled(exposure["pixeldq"]).isel(row=rows)
    flagged = ((pixeldq & _BAD_REFERENCE) != 0).any("column") & xr.DataArray(is_interleaved, dims="row")
    (moments,) = map_blocks(
        _pair_sums,
        one_chunk(unlabelled(exposure["sci"]).isel(row=rows).isel(row=inside), "row", "column"),
        core=("row", "column"),
        outputs=[(("integration", "group", "statistic", "pair"), np.float64)],
        sizes={"statistic": 3, "pair": inside.size // 2},
    )
    (outlying,) = map_blocks(
        _outlying_pairs,
        one_chunk(moments.mean("group"), "statistic", "pair"),
        one_chunk(flagged.isel(row=inside), "row"),
        core=("statistic", "pair", "row"),
        outputs=[(("integration", "row"), np.bool_)],
        sizes={"row": inside.size},
        n_sigma=n_sigma,
    )
    position = np.cumsum(is_interleaved).clip(1) - 1
    found = one_chunk(outlying.any("integration"), "row").isel(row=position)
    return (found & xr.DataArray(is_interleaved, dims="row")) | flagged


def _pair_sums(sci: np.ndarray) -> np.ndarray:
    """Mean absolute difference, mean and mean square of each pair of rows, frame by frame."""
    first, second = sci[..., 0::2, :], sci[..., 1::2, :]
    out = np.empty((*sci.shape[:2], 3, first.shape[2]))
    out[:, :, 0] = np.abs(second - first).mean(-1, dtype=np.float64)
    out[:, :, 1] = (first.mean(-1, dtype=np.float64) + second.mean(-1, dtype=np.float64)) / 2
    square = np.einsum("...c,...c->...", first, first, dtype=np.float64)
    out[:, :, 2] = (square + np.einsum("...c,...c->...", second, second, dtype=np.float64)) / (2 * sci.shape[-1])
    return out


def _outlying_pairs(moments: np.ndarray, flagged: np.ndarray, n_sigma: float) -> np.ndarray:
    """Turn (integration, statistic, pair) into (integration, row) flags; pairs flagged before are left out."""
    known = flagged.reshape(-1, 2).any(-1)
    bad = np.zeros((moments.shape[0], known.size), dtype=bool)
    for i, (difference, mean, square) in enumerate(moments):
        for values in (difference, mean, np.sqrt(np.maximum(square - mean**2, 0))):
            centre, _, scatter = sigma_clipped_stats(values[~known], sigma=n_sigma)
            bad[i] |= ~known & (values - centre > n_sigma * scatter)
    return bad.repeat(2, axis=-1)


def _listed_bad(refpix: xr.Dataset, detector: str) -> xr.DataArray:
    """Return the interleaved pixels that the reference lists as bad, (row=3200,) bool."""

    def decode(outputs: np.ndarray, parities: np.ndarray, masks: np.ndarray) -> np.ndarray:
        bad = np.zeros(IRS2_ROWS, dtype=bool)
        for output, parity, mask in zip(outputs, parities, masks, strict=True):
            second = (int(parity) == 2) != (int(output) % 2 == 0)  # even outputs read the other way
            for bit in range(32):
                if int(mask) >> bit & 1:
                    column = SECTOR * int(output) + 8 + _PERIOD * bit + 2 * second
                    bad[column : column + 2] = True
        return bad if detector == "NRS1" else bad[::-1]

    columns = [one_chunk(unlabelled(refpix[name]), "bad") for name in ("bad_output", "bad_parity", "bad_mask")]
    (bad,) = map_blocks(decode, *columns, core=("bad",), outputs=[(("row",), np.bool_)], sizes={"row": IRS2_ROWS})
    return bad


def replacement_rows(bad: np.ndarray) -> np.ndarray:
    """Return the two rows whose mean stands in for each row of a sector.

    Parameters
    ----------
    bad : (640,) bool
        Bad interleaved pixels.

    Returns
    -------
    (640, 2) int64
        A good row stands for itself; a bad one is replaced by the same pixel of the blocks before and
        after, or the one of the two that is good, else by a good pixel of the other pair in its
        block; -1 where there is none.
    """
    sources = np.repeat(np.arange(bad.size)[:, None], 2, axis=1)
    block = (np.arange(bad.size) - 8) // _PERIOD
    for row in np.flatnonzero(bad).tolist():
        near = [r for r in (row - _PERIOD, row + _PERIOD) if 0 <= r < bad.size and not bad[r]]
        pair = [r for r in (row - 2, row + 2) if not bad[r] and block[r] == block[row] and _is_interleaved(r)]
        choice = near or pair[:1] or [-1]
        sources[row] = choice[0], choice[-1]
    return sources


def _is_interleaved(row: int) -> bool:
    return (row + 8) % _PERIOD >= 16


def _folded(weights: xr.DataArray) -> xr.DataArray:
    """Return the Hermitian part of weights in the order of :func:`nsxr.kernels.irs2.spectrum`."""

    def fold(values: np.ndarray) -> np.ndarray:
        mirrored = np.concatenate([values[:1], values[:0:-1]])
        return loops.in_order(0.5 * (values + mirrored.conj()))

    whole = one_chunk(weights, "frequency").rename(frequency="whole")
    (folded,) = map_blocks(
        fold,
        whole,
        core=("whole",),
        outputs=[(("slot", "line"), np.complex64)],
        sizes=_spectrum_sizes(weights.sizes["frequency"] // loops.SLOTS),
    )
    return folded


def _spectrum_sizes(n_columns: int) -> dict[str, int]:
    return {"slot": loops.SLOTS, "line": n_columns // 2 + 1}


def _low_pass(n_columns: int) -> np.ndarray:
    """Return the filter that fills the reference output, in the order of a spectrum."""
    n = loops.SLOTS * n_columns
    edge, width = (round(v * n_columns / 2048) for v in (_FILTER_EDGE, _FILTER_WIDTH))
    fall = 0.5 * (1 + np.cos(np.arange(width) * np.pi / width))
    response = np.zeros(n, dtype=np.float32)
    for start in (0, n // 2 - edge - width):  # the same around zero and, reversed, up to the highest frequency
        response[start : start + edge + width] = np.append(np.ones(edge), fall)[:: 1 if start == 0 else -1]
    response[n // 2] = 1
    response[n // 2 + 1 :] = response[n // 2 - 1 : 0 : -1]
    return loops.in_order(response)


def _reference_spectrum(sci: np.ndarray, mean: np.ndarray, bad: np.ndarray, *, sector: Sector) -> np.ndarray:
    """Return the spectrum of the reference output, (integration, group, slot, line) complex64."""
    n_columns = sci.shape[-1]
    sources = replacement_rows(bad)
    response = _low_pass(n_columns)
    row = sector.row_of_slot
    is_known = (row >= 0) & (sources[row, 0] >= 0)
    normal = np.arange(512)
    is_estimated = np.ones(loops.SLOTS, dtype=bool)
    is_estimated[normal + 6 * ((normal + 8) // 16)] = False
    weights = np.sin(np.arange(1, 32) * np.pi / 32).astype(np.float32)
    series = np.empty((loops.SLOTS, n_columns), dtype=np.float32)
    out = np.empty((*sci.shape[:2], *_spectrum_sizes(n_columns).values()), dtype=np.complex64)
    for i in range(sci.shape[0]):
        for g in range(sci.shape[1]):
            line = loops.fit_line(sci[i, g], mean[i], sources, row, sector.is_reversed, REFERENCE_BORDER)
            loops.gather(sci[i, g], mean[i], sources, row, np.arange(loops.SLOTS), sector.is_reversed, line, series)
            loops.fill_gaps(series, is_known, weights)
            filled = loops.along_lines(series)
            for _ in range(_FILTER_ITERATIONS):
                smooth = loops.across_slots(filled.copy())
                smooth *= response
                smooth = loops.across_slots(smooth, inverse=True)
                filled[is_estimated] = smooth[is_estimated]
            out[i, g] = loops.across_slots(filled)
    return out


def _correct_output(
    sci: np.ndarray,
    mean: np.ndarray,
    bad: np.ndarray,
    spectrum: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    *,
    sector: Sector,
) -> np.ndarray:
    """Return the corrected science rows of one output, (integration, group, science, column) float32."""
    n_columns = sci.shape[-1]
    sources = replacement_rows(bad)
    row = sector.row_of_slot
    read, copies = np.unique(sector.from_slot, return_inverse=True)  # read[0] is -1, for slots without sample
    is_filled = sector.from_slot >= 0
    series = np.empty((read.size - 1, n_columns), dtype=np.float32)
    out = np.empty((*sci.shape[:2], sector.slot_of_output.size, n_columns), dtype=np.float32)
    for i in range(sci.shape[0]):
        for g in range(sci.shape[1]):
            frame = sci[i, g]
            line = loops.fit_line(frame, mean[i], sources, row, sector.is_reversed, REFERENCE_BORDER)
            loops.gather(frame, mean[i], sources, row, read[1:], sector.is_reversed, line, series)
            own = loops.across_slots(loops.spread(series, np.where(is_filled, copies - 1, -1)))
            loops.weigh(own, beta, spectrum[i, g], alpha)
            own = loops.across_slots(own, inverse=True)
            correction = loops.in_time(own, sector.slot_of_output, n_columns)
            loops.subtract(frame, correction, line, sector.slot_of_output, row, sector.is_reversed, out[i, g])
    return out
