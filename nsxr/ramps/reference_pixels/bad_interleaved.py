"""Find bad interleaved reference pixels of IRS2."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import one_chunk
from nsxr.kernels.ramps.bad_interleaved import MOMENTS, REASONS, judge, pair_moments
from nsxr.model.dq import PixelFlag
from nsxr.model.readout import IRS2_ROWS, Readout, irs2_layout
from nsxr.model.variables import check

__all__ = [
    "LIMIT",
    "PERIOD",
    "count_bad_interleaved",
    "find_bad_interleaved",
    "listed_interleaved",
    "rows_of_pairs",
]

LIMIT = 4.1
"""Deviation beyond which a pair is bad [standard deviations]. 0.06 % of good pairs exceed it in one of the six tests.
Of pairs that deviate by 5, all were found."""

_SECTOR = IRS2_ROWS // 5
PERIOD = 20
"""Rows from one block of interleaved reference pixels to the next."""
_BAD_REFERENCE = np.uint32(PixelFlag.BAD_REF_PIXEL.value)


def find_bad_interleaved(
    exposure: xr.Dataset, refpix: xr.Dataset | None = None, *, n_sigma: float = LIMIT
) -> xr.DataArray:
    """Find bad pairs of interleaved reference pixels in each integration separately.

    The two pixels of a pair are read one after the other. Six numbers of each pair are compared with the numbers of the
    other 63 pairs of the amplifier. The first three are the level, the difference of the two pixels (both are means
    over groups and columns), and the variance of single samples. The others are the variances of means over 8 columns,
    over 64 columns and over a frame, relative to the variance of single samples. They are large if there is telegraph
    noise. Noise that pairs share is subtracted first, line by line and frame by frame. The first three numbers may be
    too large or too small; the others only too large.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row=3200, column) float32 [DN], ``pixeldq``. The superbias should be subtracted
        before, because differences between the levels of pairs hide smaller changes.
    refpix : Dataset, optional
        ``bad_output``, ``bad_parity``, ``bad_mask`` (bad), which list bad pairs.
    n_sigma : float
        Limit [standard deviations of each number among good pairs].

    Returns
    -------
    DataArray
        (integration, output, pair) uint8, 0 for good pairs, else the bits that ``flag_masks`` and ``flag_meanings``
        name. A pair is LISTED if ``refpix`` lists it or one of its pixels has BAD_REF_PIXEL in ``pixeldq``; LISTED
        pairs are not tested. Output 0 is the reference output, outputs 1 to 4 are the amplifiers. The coordinate
        ``row`` (output, pair) is the first of the two raw rows of a pair. Lazy if the exposure is.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.

    References
    ----------
    Moseley et al. 2010, Proc. SPIE 7742; Rauscher et al. 2017, PASP 129, 105003.
    """
    check(exposure, "sci", "pixeldq", units={"sci": "DN"})
    detector = Readout.of(exposure).detector
    found, rows = [], []
    for output in range(5):
        band = output if detector == "NRS1" else 4 - output
        start = band * _SECTOR
        inside = start + _interleaved(detector, start)
        rows.append(inside[::2])
        sci = one_chunk(unlabelled(exposure["sci"]).isel(row=inside), "row", "column")
        moments = map_blocks(
            pair_moments,
            sci,
            core=("row", "column"),
            outputs={"moments": (("integration", "group", "moment", "pair"), np.float64)},
            sizes={"moment": MOMENTS, "pair": inside.size // 2},
        )["moments"]
        flagged = ((unlabelled(exposure["pixeldq"]).isel(row=inside) & _BAD_REFERENCE) != 0).any("column")
        if refpix is not None and "bad_mask" in refpix:
            flagged = flagged | listed_interleaved(refpix, detector).isel(row=inside)
        reasons = map_blocks(
            _reasons,
            one_chunk(moments, "group", "moment", "pair"),
            one_chunk(flagged, "row"),
            core=("group", "moment", "pair", "row"),
            outputs={"reasons": (("integration", "pair"), np.uint8)},
            n_sigma=float(n_sigma),
        )["reasons"]
        found.append(reasons)
    bad = xr.concat(found, "output").transpose("integration", "output", "pair")
    bad = bad.assign_coords(output=np.arange(5), row=(("output", "pair"), np.array(rows)))
    integrations = {name: c for name, c in exposure.coords.items() if c.dims == ("integration",)}
    attributes = {
        "long_name": "bad pairs of interleaved reference pixels",
        "flag_masks": np.array(list(REASONS.values()), dtype=np.uint8),
        "flag_meanings": " ".join(REASONS),
    }
    return bad.assign_coords(integrations).assign_attrs(attributes).rename("bad_interleaved")


def _reasons(moments: np.ndarray, flagged: np.ndarray, *, n_sigma: float) -> np.ndarray:
    listed = flagged[0::2] | flagged[1::2]
    found = judge(moments, listed, n_sigma)
    found[:, listed] = REASONS["LISTED"]
    return found


def count_bad_interleaved(bad: xr.DataArray) -> dict[str, xr.DataArray]:
    """Count bad pairs by reason.

    Parameters
    ----------
    bad : DataArray
        (integration, output, pair) uint8, from :func:`find_bad_interleaved`.

    Returns
    -------
    dict of str to DataArray
        Numbers, int64, that become keywords of a product: ``bad_reference_pairs`` (NBADREF), and one number for each
        reason (NBRMEAN, NBRDIFF, NBRSCAT, NBRTELE, NBRLIST). A pair that is bad in several integrations counts once. A
        pair with several reasons counts for each of them. Lazy if ``bad`` is.
    """
    found = unlabelled(bad)
    kinds = {"": (sum(REASONS.values()), "NBADREF", "bad pairs of interleaved reference pixels")}
    for reason, bit in REASONS.items():
        kinds[f"_{reason.lower()}"] = bit, f"NBR{reason[:4]}", f"bad reference pixel pairs: {reason.lower()}"
    counts = {}
    for ending, (mask, keyword, meaning) in kinds.items():
        count = ((found & np.uint8(mask)) != 0).any("integration").sum()
        count.attrs = {"long_name": meaning, "keyword": keyword}
        counts[f"bad_reference_pairs{ending}"] = count
    return counts


def rows_of_pairs(bad: xr.DataArray, output: int, detector: str) -> xr.DataArray:
    """Return bad rows of one amplifier, (integration, row=640) bool, from :func:`find_bad_interleaved`."""
    start = (output if detector == "NRS1" else 4 - output) * _SECTOR
    pair = np.full(_SECTOR, -1)
    pair[_interleaved(detector, start)] = np.arange(128) // 2
    of_rows = one_chunk(unlabelled(bad).isel(output=output), "pair").isel(pair=pair.clip(0)) != 0
    is_interleaved = xr.DataArray(pair >= 0, dims="pair")
    return (of_rows & is_interleaved).rename(pair="row")


def _interleaved(detector: str, start: int) -> np.ndarray:
    """Return the interleaved rows of a sector, counted from its first row."""
    return np.flatnonzero(irs2_layout(detector).is_interleaved[start : start + _SECTOR])


def listed_interleaved(refpix: xr.Dataset, detector: str) -> xr.DataArray:
    """Return the interleaved pixels that the reference lists as bad, (row=3200,) bool."""

    def decode(outputs: np.ndarray, parities: np.ndarray, masks: np.ndarray) -> np.ndarray:
        bad = np.zeros(IRS2_ROWS, dtype=bool)
        for output, parity, mask in zip(outputs, parities, masks, strict=True):
            second = (int(parity) == 2) != (int(output) % 2 == 0)  # even amplifiers read the other way
            for bit in range(32):
                if int(mask) >> bit & 1:
                    column = _SECTOR * int(output) + 8 + PERIOD * bit + 2 * second
                    bad[column : column + 2] = True
        return bad if detector == "NRS1" else bad[::-1]

    columns = [one_chunk(unlabelled(refpix[name]), "bad") for name in ("bad_output", "bad_parity", "bad_mask")]
    bad = map_blocks(decode, *columns, core=("bad",), outputs={"bad": (("row",), np.bool_)}, sizes={"row": IRS2_ROWS})[
        "bad"
    ]
    return bad
