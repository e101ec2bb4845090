"""Subtract the signal of the reference pixels, in traditional readouts and subarrays.

IRS2 frames have another correction, :mod:`nsxr.ramps.reference_pixels.irs2`. :func:`subtract_reference_pixels` chooses
by readout.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from nsxr.compute.blocks import unlabelled
from nsxr.compute.layouts import is_kept
from nsxr.compute.passes import settle
from nsxr.errors import MissingReferenceError, ParameterError
from nsxr.model.declarations import Needs, Takes, step
from nsxr.model.history import record
from nsxr.model.parameters import Choices, Limits, Range, Unit
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.ramps.reference_pixels.irs2 import subtract_interleaved_reference
from nsxr.ramps.reference_pixels.levels import estimate_levels, estimate_shrunken_levels, evidence_keywords
from nsxr.ramps.reference_pixels.side_columns import (
    estimate_side_kernels,
    estimate_side_signal,
    filtered_sides,
    read_sides,
    side_kernels,
)
from nsxr.references.match import require_kind

__all__ = ["subtract_reference_pixels"]

EDGELESS = ("SUB512", "SUB512S", "SUB32")
"""Subarrays without reference pixels. Their first and last four columns are used instead."""


@dataclass(frozen=True)
class _Options:
    """Parameters of :func:`subtract_reference_pixels` for readouts other than IRS2."""

    odd_even_columns: bool
    shrink_levels: bool
    use_side_ref_pixels: bool
    refpix_algorithm: str
    side_smoothing_length: int
    side_gain: float
    siglimit: float
    sigreject: float
    gaussmooth: float
    halfwidth: int

    def __post_init__(self) -> None:
        names = ("siglimit", "side_smoothing_length", "sigreject", "gaussmooth", "halfwidth")
        wrong = [f"{name}={getattr(self, name)!r}" for name in names if not getattr(self, name) > 0]
        if wrong:
            raise ParameterError(f"{', '.join(wrong)} must be positive")
        if self.refpix_algorithm not in ("median", "sirs"):
            raise ParameterError(f"refpix_algorithm is {self.refpix_algorithm!r}, expected 'median' or 'sirs'")


@step("refpix", references=[Needs("refpix"), Takes("sirskernel")], by_frame=True)
def subtract_reference_pixels(
    exposure: xr.Dataset,
    refpix: xr.Dataset | None = None,
    sirskernel: xr.Dataset | None = None,
    *,
    odd_even_columns: bool = True,
    shrink_levels: bool = True,
    use_side_ref_pixels: bool = True,
    refpix_algorithm: Annotated[str, Choices("median", "sirs")] = "median",
    side_smoothing_length: Annotated[int, Range(1, 2048), Unit("column")] = 11,
    side_gain: Annotated[float, Range(-10, 10)] = 1.0,
    siglimit: Limits = 3.0,
    sigreject: Limits = 4.0,
    gaussmooth: Annotated[float, Range(0, 1e4, is_open=True), Unit("line")] = 1.0,
    halfwidth: Annotated[int, Range(1, 2048), Unit("line")] = 30,
    bad_pairs: Annotated[str, Choices("robust", "jwst", peer="jwst")] = "robust",
    ovr_corr_mitigation_ftr: Limits = 3.0,
) -> xr.Dataset:
    """Subtract the bias drifts and the correlated noise that are measured in the reference pixels.

    *Full frame, four amplifiers*: the level of the reference columns is subtracted from each amplifier, for odd and
    even rows separately. Then the signal of the side reference rows is subtracted from every column. *Subarrays, one
    amplifier*: only the levels of odd and even rows are subtracted. *IRS2*: see
    :func:`~nsxr.ramps.reference_pixels.irs2.subtract_interleaved_reference`.

    The names of parameters refer to columns of the raw detector image. These are rows here: "odd and even columns" are
    odd and even rows of an image in science orientation.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN], ``pixeldq``, ``groupdq``.
    refpix : Dataset, optional
        Weights ``alpha`` and ``beta`` of IRS2; not used by other readouts.
    sirskernel : Dataset, optional
        ``gamma`` and ``zeta`` (output, frequency) complex: filters from the left and the right side reference
        pixels to each amplifier. Used with ``refpix_algorithm="sirs"``. Without this reference the filters are
        estimated from the exposure.
    odd_even_columns : bool
        Whether odd and even columns of the detector have levels of their own.
    shrink_levels : bool
        Whether levels, and offsets between odd and even rows, are reduced to the share that exceeds their uncertainty,
        see :func:`~nsxr.ramps.reference_pixels.levels.estimate_shrunken_levels`. Otherwise levels are clipped means.
    use_side_ref_pixels : bool
        Whether to subtract the side signal (full frame only).
    refpix_algorithm : {"median", "sirs"}
        How the side signal is found. ``"median"``: a running median, the same for all amplifiers. ``"sirs"``: a filter
        from both sides to each amplifier.
    side_smoothing_length : int
        Columns in the running median; an even number is raised by one.
    side_gain : float
        Factor on the running median.
    siglimit : float
        Clipping limit of levels.
    sigreject : float
        ``"sirs"``: limit beyond which a side reference pixel is left out.
    gaussmooth : float
        ``"sirs"``: standard deviation of the Gaussian that smooths kernels of a reference.
    halfwidth : int
        ``"sirs"``: half width of a kernel.
    bad_pairs : {"robust", "jwst"}
        IRS2: which pairs of interleaved reference pixels are bad, and whether they are left out or replaced.
    ovr_corr_mitigation_ftr : float
        IRS2: limit beyond which pairs are bad with ``"jwst"``.

    Returns
    -------
    Dataset
        ``sci`` corrected, reference pixels themselves included. DQ does not change, except that IRS2
        exposures lose their interleaved rows (``pixeldq`` and ``groupdq`` too) and get the numbers of bad pairs. An
        amplifier without usable reference pixels of one parity does not change.

        With ``shrink_levels``, float64 numbers are added for each amplifier, which become keywords of products:
        ``reference_level_kept_1`` (RPKEEP1), the share of the variation of the level that was subtracted;
        ``reference_offset_1`` (OEOFFS1), the constant offset between odd and even rows [DN];
        ``reference_offset_scatter_1`` (OESCAT1), the scatter of this offset between groups, beyond its uncertainty
        [DN]; ``reference_offset_kept_1`` (OEKEEP1), the share of the variation of the offset that was subtracted. With
        ``"sirs"``, ``reference_side_gain_1`` (RPGAIN1) is added, the sum of the kernels.

    Raises
    ------
    MissingReferenceError
        If ``refpix`` is not given for an IRS2 exposure.
    ReferenceFileError
        If ``sirskernel`` does not fit.
    ParameterError
        If a limit or length is not positive, the algorithm is unknown, or filters are to be estimated from fewer
        than three groups.

    References
    ----------
    Rauscher et al. 2022, "Simple Improved Reference Subtraction".
    """
    check(exposure, "sci", "pixeldq", "groupdq", units={"sci": "DN"})
    options = _Options(
        odd_even_columns=odd_even_columns,
        shrink_levels=shrink_levels,
        use_side_ref_pixels=use_side_ref_pixels,
        refpix_algorithm=refpix_algorithm,
        side_smoothing_length=side_smoothing_length,
        side_gain=side_gain,
        siglimit=siglimit,
        sigreject=sigreject,
        gaussmooth=gaussmooth,
        halfwidth=halfwidth,
    )
    if not ovr_corr_mitigation_ftr > 0:
        raise ParameterError(f"ovr_corr_mitigation_ftr={ovr_corr_mitigation_ftr!r} must be positive")
    if "science_row" in exposure.coords:
        if refpix is None:
            raise MissingReferenceError("an IRS2 exposure needs a reference of type 'refpix' for its correction")
        return subtract_interleaved_reference(
            exposure, refpix, bad_pairs=bad_pairs, ovr_corr_mitigation_ftr=ovr_corr_mitigation_ftr
        )
    readout = Readout.of(exposure)
    sci, pixeldq = exposure["sci"], exposure["pixeldq"]
    bands, numbers = _without_levels(sci, pixeldq, readout, options)
    has_sides = readout.n_outputs == 4 and use_side_ref_pixels
    used = []
    if has_sides and refpix_algorithm == "sirs":
        used = [] if sirskernel is None else [sirskernel]
        bands, gains = _filter_sides(bands, pixeldq, readout.detector, sirskernel, options)
        numbers |= gains
    corrected = unlabelled(_joined(list(bands.values()))).assign_coords(sci.coords)
    if has_sides and refpix_algorithm == "median":
        length = side_smoothing_length + 1 - side_smoothing_length % 2
        side = settle(estimate_side_signal(corrected, pixeldq, length))
        corrected = corrected - side * np.float32(side_gain)
    result = record(exposure, "refpix", used, asdict(options), sci=corrected.transpose(*sci.dims))
    return result.assign(numbers)


def _without_levels(
    sci: xr.DataArray, pixeldq: xr.DataArray, readout: Readout, options: _Options
) -> tuple[dict[int, xr.DataArray], dict[str, xr.DataArray]]:
    """Return the rows of each amplifier with its levels subtracted, and the numbers that become keywords."""
    bands: dict[int, xr.DataArray] = {}
    numbers: dict[str, xr.DataArray] = {}
    amplifiers = readout.amplifier_of(sci.indexes["row"].to_numpy())
    settings: dict[str, Any] = {
        "by_end": readout.n_outputs == 4,
        "edgeless": readout.subarray in EDGELESS,
        "odd_even_columns": options.odd_even_columns,
        "siglimit": options.siglimit,
    }
    for amplifier in dict.fromkeys(amplifiers.tolist()):
        rows = np.flatnonzero(amplifiers == amplifier)
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        of_band, flags = sci.isel(row=band), pixeldq.isel(row=band)
        if options.shrink_levels:
            levels, evidence = estimate_shrunken_levels(of_band, flags, **settings)
            numbers |= evidence_keywords(evidence, amplifier)
        else:
            levels = estimate_levels(of_band, flags, **settings)
        levels = levels if _may_wait(of_band, whole_exposure=options.shrink_levels) else settle(levels)
        bands[amplifier] = (unlabelled(of_band) - levels).assign_coords(of_band.coords)
    return bands, numbers


def _joined(bands: list[xr.DataArray]) -> xr.DataArray:
    return bands[0] if len(bands) == 1 else xr.concat([unlabelled(band) for band in bands], "row")


def _may_wait(band: xr.DataArray, whole_exposure: bool) -> bool:
    """Return whether the blocks that share an estimate may stay in memory until it is made."""
    if band.chunks is None:
        return True
    lengths = dict(zip(band.dims, band.chunks, strict=True))
    if whole_exposure and len(lengths["integration"]) * len(lengths["group"]) > 1:
        return False  # the whole time series would stay in memory
    together = {str(dim): max(lengths[dim]) for dim in ("integration", "group")}
    return len(lengths["row"]) == 1 or is_kept({**together, "row": band.sizes["row"], "column": band.sizes["column"]})


def _filter_sides(
    bands: dict[int, xr.DataArray],
    pixeldq: xr.DataArray,
    detector: str,
    sirskernel: xr.Dataset | None,
    options: _Options,
) -> tuple[dict[int, xr.DataArray], dict[str, xr.DataArray]]:
    """Return the rows of all amplifiers with the filtered side signal subtracted, and the gains of the filters."""
    rows = np.concatenate([band.indexes["row"].to_numpy() for band in bands.values()])
    sides = read_sides(
        _joined(list(bands.values())).assign_coords(row=rows), pixeldq, detector, sigreject=options.sigreject
    )
    if sirskernel is None:
        kernels = estimate_side_kernels([bands[k] for k in sorted(bands)], sides, pixeldq, halfwidth=options.halfwidth)
    else:
        require_kind(sirskernel, "sirskernel")
        kernels = side_kernels(sirskernel, detector, gaussmooth=options.gaussmooth, halfwidth=options.halfwidth)
    signal = settle(filtered_sides(sides, kernels, detector))
    cleaned, gains = {}, {}
    for number, band in bands.items():
        cleaned[number] = (unlabelled(band) - signal.isel(output=number - 1)).assign_coords(band.coords)
        gain = kernels.isel(output=number - 1).sum()
        gain.attrs = {"long_name": f"gain of side reference pixels, output {number}", "keyword": f"RPGAIN{number}"}
        gains[f"reference_side_gain_{number}"] = gain
    return cleaned, gains
