"""IRS2: subtract correlated noise, measured in the interleaved reference pixels and the reference output."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, take_rows, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk
from nsxr.compute.reductions import reduce_blocks
from nsxr.errors import ParameterError, ReferenceFileError
from nsxr.kernels.ramps import irs2 as loops
from nsxr.kernels.reductions import sum_groups
from nsxr.model.history import record
from nsxr.model.readout import IRS2_ROWS, REFERENCE_BORDER, Readout, irs2_layout, require_all_rows
from nsxr.model.variables import check
from nsxr.ramps.reference_pixels.bad_interleaved import (
    count_bad_interleaved,
    find_bad_interleaved,
    listed_interleaved,
    rows_of_pairs,
)
from nsxr.ramps.reference_pixels.high_interleaved import find_high_interleaved, replacement_rows
from nsxr.references.match import require_kind

__all__ = ["subtract_interleaved_reference"]

SECTOR = IRS2_ROWS // 5
_FILTER_EDGE, _FILTER_WIDTH = 32 * 2048 // 2 - 2500, 5000  # bins of a full frame's spectrum
_FILTER_ITERATIONS = 3
_NEAR = 4  # blocks on each side, from which the first guess for a bad sample is taken


@dataclass(frozen=True)
class Sector:
    """Time order of one amplifier; :mod:`nsxr.kernels.ramps.irs2` explains the arrays."""

    rows: slice
    row_of_slot: np.ndarray
    from_slot: np.ndarray
    slot_of_science: np.ndarray
    is_reversed: bool


def _sector(amplifier: int, detector: str) -> Sector:
    """Return the time order of the reference output (0) or of an amplifier (1 to 4)."""
    band = amplifier if detector == "NRS1" else 4 - amplifier
    in_time = np.arange(SECTOR)
    if (amplifier % 2 == 0) == (detector == "NRS1"):
        in_time = in_time[::-1]  # this amplifier reads towards smaller rows
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
    exposure: xr.Dataset, refpix: xr.Dataset, *, bad_pairs: str = "robust", ovr_corr_mitigation_ftr: float = 3.0
) -> xr.Dataset:
    r"""Subtract correlated noise from a raw IRS2 exposure, and drop the interleaved rows.

    The mean of all groups of the integration is subtracted from each group. A straight line in time is fitted to the
    first and last columns of each amplifier, and subtracted. Then, for amplifier *k*,

    .. math:: \beta_k\,\mathcal F(s_k) + \alpha_k\,\mathcal F(r)

    is subtracted, with :math:`s_k` the interleaved reference pixels of the amplifier, zero between them, and :math:`r`
    the reference output, with its gaps filled. Only the real part of the result is needed. So real transforms and
    Hermitian weights give exactly the same. The mean over groups does not change, and so an integration of one group
    does not change.

    Samples of bad pairs are left out. In :math:`s_k` they are replaced by what the formula predicts from the other
    samples. Repeated, this converges to the prediction from the good samples alone. A sample has little weight in its
    own prediction, so a single step, which starts from the mean of good neighbours, is enough. In :math:`r` bad samples
    are gaps.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row=3200, column) float32 [DN], ``pixeldq``, ``groupdq``.
    refpix : Dataset
        ``alpha``, ``beta`` (output, frequency) complex64; optionally ``bad_output``, ``bad_parity``,
        ``bad_mask`` that list bad pairs of interleaved pixels.
    bad_pairs : {"robust", "jwst"}
        Which pairs are bad, and whether they are left out or replaced. ``robust``: pairs from
        :func:`~nsxr.ramps.reference_pixels.bad_interleaved.find_bad_interleaved` are left out of the integrations in
        which they are bad. ``jwst``, as in the observatory's pipeline: pairs from
        :func:`~nsxr.ramps.reference_pixels.high_interleaved.find_high_interleaved` and those that ``refpix`` lists are
        replaced by neighbours in all integrations.
    ovr_corr_mitigation_ftr : float
        Limit beyond which pairs are bad with ``jwst`` [standard deviations].

    Returns
    -------
    Dataset
        All variables with 2048 rows; ``row`` is the detector row. Science rows are never replaced. DQ of science pixels
        does not change. With ``robust``, the numbers from
        :func:`~nsxr.ramps.reference_pixels.bad_interleaved.count_bad_interleaved` are added, lazy if the exposure is.

    Raises
    ------
    ParameterError
        If ``bad_pairs`` is unknown.
    ReferenceFileError
        If the weights do not have one value for each slot of a frame.

    References
    ----------
    Moseley et al. 2010, Proc. SPIE 7742; Rauscher et al. 2017, PASP 129, 105003.
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    bad_pairs = "jwst" if bad_pairs == "peer" else bad_pairs
    if bad_pairs not in ("robust", "jwst"):
        raise ParameterError(f"bad_pairs is {bad_pairs!r}, expected 'robust' or 'jwst'")
    require_all_rows(exposure)
    require_kind(refpix, "refpix")
    n_slots = loops.SLOTS * exposure.sizes["column"]
    if refpix.sizes["frequency"] != n_slots:
        raise ReferenceFileError(
            f"refpix {refpix.attrs.get('filename', 'in memory')} has {refpix.sizes['frequency']} frequencies, "
            f"expected {n_slots}: {loops.SLOTS} slots for each of {exposure.sizes['column']} columns"
        )
    detector = Readout.of(exposure).detector
    parameters: dict[str, Any] = {"bad_pairs": bad_pairs}
    counts: dict[str, xr.DataArray] = {}
    if bad_pairs == "jwst":
        parameters["ovr_corr_mitigation_ftr"] = ovr_corr_mitigation_ftr
        high = find_high_interleaved(exposure, ovr_corr_mitigation_ftr)
        if "bad_mask" in refpix:
            high = high | listed_interleaved(refpix, detector)
        bad = high.expand_dims(integration=exposure.sizes["integration"])
        bad_rows = [bad.isel(row=_sector(amplifier, detector).rows) for amplifier in range(5)]
    else:
        found = find_bad_interleaved(exposure, refpix)
        counts = count_bad_interleaved(found)
        bad_rows = [rows_of_pairs(found, amplifier, detector) for amplifier in range(5)]
    science = _corrected(unlabelled(exposure["sci"]), refpix, detector, bad_rows, is_patched=bad_pairs == "jwst")
    stripped = _without_reference_rows(exposure, science)
    return record(stripped.assign(counts), "refpix", [refpix], parameters, sci=stripped["sci"])


def _corrected(
    sci: xr.DataArray, refpix: xr.Dataset, detector: str, bad_rows: list[xr.DataArray], is_patched: bool
) -> xr.DataArray:
    """Return the corrected science rows, (integration, group, row, column).

    ``bad_rows`` are (integration, row) bool, for the reference output and for the four amplifiers. Bad rows are left
    out or, if ``is_patched``, replaced.
    """
    mean = reduce_blocks(sum_groups, sci, "group", np.float64).sum("group") / sci.sizes["group"]
    mean = mean.astype(np.float32)

    def parts(amplifier: int, sector: Sector) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
        # each sector separately, so that no amplifier waits for the pixels of another
        frames, means = (one_chunk(a.isel(row=sector.rows), "row", "column") for a in (sci, mean))
        first = frames.isel(group=0)
        sources = map_blocks(
            _sources,
            chunk_like(one_chunk(bad_rows[amplifier], "row"), first.isel(column=0)),
            core=("row",),
            outputs={"sources": (("integration", "row", "source"), np.int64)},
            sizes={"source": 2},
            is_patched=is_patched,
        )["sources"]
        return frames, means, sources

    reference_sector = _sector(0, detector)
    spectrum = map_blocks(
        _reference_spectrum,
        *parts(0, reference_sector),
        core=("row", "column"),
        outputs={"spectrum": (("integration", "group", "slot", "line"), np.complex64)},
        sizes=_spectrum_sizes(sci.sizes["column"]),
        sector=reference_sector,
    )["spectrum"]
    corrected = {}
    for amplifier in range(1, 5):
        sector = _sector(amplifier, detector)
        alpha, beta = (_folded(unlabelled(refpix[name].sel(output=amplifier, drop=True))) for name in ("alpha", "beta"))
        part = map_blocks(
            _correct_amplifier,
            *parts(amplifier, sector),
            spectrum,
            alpha,
            beta,
            core=("row", "column"),
            outputs={"part": (("integration", "group", "science", "column"), np.float32)},
            sizes={"science": SECTOR * 4 // 5},
            sector=sector,
        )["part"]
        corrected[sector.rows.start] = part.rename(science="row")
    return xr.concat([corrected[start] for start in sorted(corrected)], "row")


def _without_reference_rows(exposure: xr.Dataset, science: xr.DataArray) -> xr.Dataset:
    """Return the exposure without reference rows, with the corrected signal of its science rows."""
    readout = Readout.of(exposure)
    rows = irs2_layout(readout.detector).science_rows_raw
    others = {name: take_rows(unlabelled(a), rows, 4) for name, a in exposure.data_vars.items() if name != "sci"}
    stripped = (
        xr.Dataset(others)
        .assign_coords(readout.row_coordinates(rows.size))
        .assign_coords({name: c for name, c in exposure.coords.items() if "row" not in c.dims})
    )
    stripped = stripped.assign(sci=science.assign_attrs(exposure["sci"].attrs))[list(exposure.data_vars)]
    stripped.attrs = dict(exposure.attrs)
    return stripped


def _folded(weights: xr.DataArray) -> xr.DataArray:
    """Return the Hermitian part of weights in the order of :mod:`nsxr.kernels.ramps.irs2`."""

    def fold(values: np.ndarray) -> np.ndarray:
        mirrored = np.concatenate([values[:1], values[:0:-1]])
        return loops.in_order(0.5 * (values + mirrored.conj()))

    whole = one_chunk(weights, "frequency").rename(frequency="whole")
    outputs = {"folded": (("slot", "line"), np.complex64)}
    sizes = _spectrum_sizes(weights.sizes["frequency"] // loops.SLOTS)
    return map_blocks(fold, whole, core=("whole",), outputs=outputs, sizes=sizes)["folded"]


def _spectrum_sizes(n_columns: int) -> dict[str, int]:
    return {"slot": loops.SLOTS, "line": n_columns // 2 + 1}


def _low_pass(n_columns: int) -> np.ndarray:
    """Return the filter that fills the reference output, in the order of a spectrum."""
    n = loops.SLOTS * n_columns
    edge, width = (round(v * n_columns / 2048) for v in (_FILTER_EDGE, _FILTER_WIDTH))
    fall = 0.5 * (1 + np.cos(np.arange(width) * np.pi / width))
    response = np.zeros(n, dtype=np.float32)
    for start in (0, n // 2 - edge - width):  # once around zero and, reversed, once up to the highest frequency
        response[start : start + edge + width] = np.append(np.ones(edge), fall)[:: 1 if start == 0 else -1]
    response[n // 2] = 1
    response[n // 2 + 1 :] = response[n // 2 - 1 : 0 : -1]
    return loops.in_order(response)


def _sources(bad: np.ndarray, *, is_patched: bool) -> np.ndarray:
    """Return the two rows whose mean is used for each row of a sector, from (integration, row) flags.

    Returns (integration, row, 2) int64. Bad rows are -1, to be left out. If they are to be patched, they have the rows
    that replace them, or -2 if there is none, which stands for the value 0.
    """
    if is_patched:
        sources = np.stack([replacement_rows(rows) for rows in bad])
        return np.where(sources < 0, -2, sources)
    return np.where(bad, -1, np.arange(bad.shape[1]))[..., None].repeat(2, axis=-1)


def _reference_spectrum(sci: np.ndarray, mean: np.ndarray, sources: np.ndarray, *, sector: Sector) -> np.ndarray:
    """Return the spectrum of the reference output, (integration, group, slot, line) complex64."""
    n_columns = sci.shape[-1]
    response = _low_pass(n_columns)
    row = sector.row_of_slot
    normal = np.arange(512)
    is_estimated = np.ones(loops.SLOTS, dtype=bool)
    is_estimated[normal + 6 * ((normal + 8) // 16)] = False
    weights = np.sin(np.arange(1, 32) * np.pi / 32).astype(np.float32)
    series = np.empty((loops.SLOTS, n_columns), dtype=np.float32)
    out = np.empty((*sci.shape[:2], *_spectrum_sizes(n_columns).values()), dtype=np.complex64)
    for i in range(sci.shape[0]):
        is_known = (row >= 0) & (sources[i, row, 0] >= 0)
        for g in range(sci.shape[1]):
            line = loops.fit_line(sci[i, g], mean[i], sources[i], row, sector.is_reversed, REFERENCE_BORDER)
            loops.gather(sci[i, g], mean[i], sources[i], row, np.arange(loops.SLOTS), sector.is_reversed, line, series)
            loops.fill_gaps(series, is_known, weights)
            filled = loops.along_lines(series)
            for _ in range(_FILTER_ITERATIONS):
                smooth = loops.across_slots(filled.copy())
                smooth *= response
                smooth = loops.across_slots(smooth, inverse=True)
                filled[is_estimated] = smooth[is_estimated]
            out[i, g] = loops.across_slots(filled)
    return out


def _correct_amplifier(
    sci: np.ndarray,
    mean: np.ndarray,
    sources: np.ndarray,
    spectrum: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    *,
    sector: Sector,
) -> np.ndarray:
    """Return the corrected science rows of one amplifier, (integration, group, science, column) float32."""
    n_columns = sci.shape[-1]
    row = sector.row_of_slot
    read, copies = np.unique(sector.from_slot, return_inverse=True)  # read[0] is -1, for slots without a sample
    copies = np.where(sector.from_slot >= 0, copies - 1, -1)
    series = np.empty((read.size - 1, n_columns), dtype=np.float32)
    out = np.empty((*sci.shape[:2], sector.slot_of_science.size, n_columns), dtype=np.float32)
    for i in range(sci.shape[0]):
        left_out = np.flatnonzero(sources[i, row[read[1:]], 0] == -1)
        for g in range(sci.shape[1]):
            frame = sci[i, g]
            line = loops.fit_line(frame, mean[i], sources[i], row, sector.is_reversed, REFERENCE_BORDER)
            loops.gather(frame, mean[i], sources[i], row, read[1:], sector.is_reversed, line, series)
            if left_out.size:
                _fill_by_neighbours(series, left_out)
            own = loops.across_slots(loops.spread(series, copies))
            loops.weigh(own, beta, spectrum[i, g], alpha)
            if left_out.size:
                loops.fill_by_prediction(own, beta, series, copies, left_out)
            own = loops.across_slots(own, inverse=True)
            correction = loops.in_time(own, sector.slot_of_science, n_columns)
            loops.subtract(frame, correction, line, sector.slot_of_science, row, sector.is_reversed, out[i, g])
    return out


def _fill_by_neighbours(series: np.ndarray, left_out: np.ndarray) -> None:
    """Fill rows of a sparse series with the mean of nearby good rows of the same slot parity, in place."""
    number = np.arange(series.shape[0])
    block, pair = number // 4, number // 2 % 2
    is_good = ~np.isin(number, left_out)
    for row in left_out:
        like = number[is_good & (pair == pair[row])]
        if like.size:
            distance = np.abs(block[like] - block[row])
            series[row] = series[like[distance <= max(_NEAR, distance.min())]].mean(0)
