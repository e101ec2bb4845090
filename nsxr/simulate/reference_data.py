"""Reference data of the simulated detectors, as Datasets. They describe the detectors exactly."""

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr

from nsxr.model.dq import PixelFlag
from nsxr.model.readout import IRS2_ROWS, Readout, irs2_layout
from nsxr.model.steps import REFERENCES, serves
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration
from nsxr.simulate.detectors import (
    CUBIC_SHARE,
    DetectorPixels,
    bad_interleaved,
    detector_pixels,
    expand_rows,
    measure,
)
from nsxr.simulate.headers import Segment, primary_header
from nsxr.simulate.irs2_weights import irs2_weights, remaining_correlated_variance
from nsxr.simulate.noise import picture_frame
from nsxr.simulate.ramps import response_terms

__all__ = ["EXTRA_DARK_GROUPS", "reference_datasets", "reference_name"]

IMAGE = ("row", "column")
USEAFTER = "2022-01-01T00:00:00"

EXTRA_DARK_GROUPS = 5
"""Number of groups by which the dark is longer than the exposure."""

SATURATION_MARGIN = 0.98
"""Threshold, relative to the signal at which a pixel really saturates."""

INVERSE_ORDER = 6

_ELSEWHERE = (
    PixelFlag.NO_LIN_CORR | PixelFlag.NO_SAT_CHECK | PixelFlag.UNRELIABLE_BIAS | PixelFlag.NO_GAIN_VALUE
)  # flags that are in other references than the mask


def reference_name(kind: str, configuration: Configuration) -> str:
    """Return the file name of a reference. Each configuration has its own name."""
    stem = f"{configuration.detector}_{configuration.subarray}_{configuration.readout}".lower()
    return f"jwst_nirspec_{kind}_sim_{stem}.fits"


def reference_datasets(
    configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels | None = None
) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the type and the Dataset of every reference that stage 1 needs for an exposure.

    The references have no noise. They describe the simulated detector exactly, with three exceptions. Some bad pixels
    are flagged or NaN. The saturation threshold lies 2 % below the signal at which pixels really saturate. The inverse
    linearity coefficients are a fit (better than 0.5 DN).

    Parameters
    ----------
    configuration : Configuration
        The settings of the exposure.
    artifacts : Artifacts
        Amplitudes of the effects. An effect with amplitude 0 is not in the references either.
    pixels : DetectorPixels, optional
        Properties of the pixels, if the caller has them already.
    """
    pixels = pixels or detector_pixels(configuration, artifacts)
    coordinates = _coordinates(configuration, configuration.rows.size)
    for kind, make in _MAKERS.items():
        if not serves(kind, configuration) or (kind == "pictureframe" and configuration.subarray != "FULL"):
            continue
        dataset = make(configuration, artifacts, pixels)
        if unit := REFERENCES[kind].unit:
            dataset["sci"].attrs["units"] = unit
        if "row" in dataset.dims:
            raw = dataset.sizes["row"] != configuration.rows.size
            dataset = dataset.assign_coords(_coordinates(configuration, IRS2_ROWS) if raw else coordinates)
        common = {
            "reference_type": kind,
            "filename": reference_name(kind, configuration),
            "pedigree": "DUMMY",
            "useafter": USEAFTER,
            "detector": configuration.detector,
        }
        dataset.attrs = common | dataset.attrs
        yield kind, dataset


def _coordinates(configuration: Configuration, rows: int) -> dict[str, tuple[str, np.ndarray]]:
    readout = Readout.from_header(primary_header(configuration, Segment(1, 1, 1, configuration.integrations)))
    return {**readout.row_coordinates(rows), "column": ("column", configuration.columns)}


def _has(pixels: DetectorPixels, *flags: PixelFlag) -> np.ndarray:
    """Return the given flags for the pixels that have all of them, and 0 elsewhere, uint32."""
    wanted = np.uint32(sum(flag.value for flag in flags))
    return np.where((pixels.flags & wanted) == wanted, wanted, np.uint32(0))


def _mask(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    elsewhere = (pixels.flags & np.uint32(_ELSEWHERE.value)) != 0
    reference = np.uint32(PixelFlag.REFERENCE_PIXEL.value)
    dq = np.where(elsewhere, np.uint32(0), pixels.flags) | np.where(configuration.is_border, reference, np.uint32(0))
    raw = expand_rows(configuration, dq)
    if configuration.is_irs2:
        raw = raw.copy()
        raw[~irs2_layout(configuration.detector).is_science] = reference
        if artifacts.bad_reference_pixels:
            output, block, _, _ = bad_interleaved(configuration)[-1]
            first = 640 * output + 8 + 20 * block + 2 * (block % 2)
            rows = np.array([first, first + 1])
            rows = rows if configuration.detector == "NRS1" else IRS2_ROWS - 1 - rows
            raw[rows] |= np.uint32((PixelFlag.BAD_REF_PIXEL | PixelFlag.DO_NOT_USE).value)
    return xr.Dataset({"dq": (IMAGE, raw)})


def _saturation(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    full = measure(pixels.full_well / pixels.gain, *response_terms(pixels))
    bias = pixels.bias[configuration.raw_row_of_row]
    unchecked = np.uint32(PixelFlag.NO_SAT_CHECK.value)
    dq = _has(pixels, PixelFlag.NO_SAT_CHECK) | np.where(configuration.is_border, unchecked, np.uint32(0))
    threshold = bias + np.float32(SATURATION_MARGIN) * full
    threshold = np.where(configuration.is_border, np.float32(65535), threshold)
    threshold = np.where((pixels.flags & unchecked) != 0, np.float32("nan"), threshold)
    return xr.Dataset({"sci": (IMAGE, threshold), "dq": (IMAGE, dq)})


def _superbias(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    dq = _has(pixels, PixelFlag.DO_NOT_USE, PixelFlag.UNRELIABLE_BIAS)
    raw = expand_rows(configuration, dq)
    bias = np.where(raw, np.float32("nan"), pixels.bias)
    return xr.Dataset({"sci": (IMAGE, bias), "dq": (IMAGE, raw)})


def _readnoise(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    """Return the noise of the difference of two frames [DN], after reference pixels were used, with rounding."""
    white = pixels.white_noise[configuration.raw_row_of_row].astype(np.float64)
    step = configuration.frame_divisor / configuration.n_frames
    rounding = step**2 / 12 * configuration.n_frames
    correlated = remaining_correlated_variance(configuration, artifacts)
    variance = (white**2 + correlated) / pixels.nominal_gain**2 + rounding
    noise = np.sqrt(2 * variance).astype(np.float32)
    return xr.Dataset({"sci": (IMAGE, noise)})


def _gain(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    unknown = (pixels.flags & np.uint32(PixelFlag.NO_GAIN_VALUE.value)) != 0
    gain = np.where(unknown, np.float32("nan"), pixels.gain)
    return xr.Dataset({"sci": (IMAGE, gain)}, attrs={"gain_factor": pixels.gain_factor})


def _linearity(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    quadratic, cubic = response_terms(pixels)
    zero, one = np.zeros_like(quadratic), np.ones_like(quadratic)
    forward = np.stack([zero, one, quadratic, cubic])
    inverse = _inverse_coefficients(pixels)
    forward[:, configuration.is_border] = 0
    inverse[:, configuration.is_border] = 0
    return xr.Dataset(
        {
            "coefficients": (("order", *IMAGE), forward),
            "inverse_coefficients": (("inverse_order", *IMAGE), inverse),
            "dq": (IMAGE, _has(pixels, PixelFlag.NO_LIN_CORR)),
        }
    )


def _inverse_coefficients(pixels: DetectorPixels) -> np.ndarray:
    """Fit the polynomials from linear to measured signal up to 1.02 full wells.

    If signals are in units of full well, the response has only one parameter, the curvature. So polynomials are
    fitted for a few curvatures. Their coefficients are then interpolated with polynomials in the curvature.
    """
    low, high = float(pixels.curvature.min()), float(pixels.curvature.max())
    nodes = np.linspace(low, max(high, low + 1e-6), 7)
    x = 0.51 * (1 - np.cos(np.linspace(0, np.pi, 60)))
    powers = x[:, None] ** np.arange(1, INVERSE_ORDER)
    fits = []
    for curvature in nodes:
        y = measure(x, float(curvature), CUBIC_SHARE * float(curvature))
        fits.append(np.linalg.lstsq(powers, y, rcond=None)[0])
    centre, half = 0.5 * (nodes[0] + nodes[-1]), 0.5 * (nodes[-1] - nodes[0])
    in_curvature = np.polynomial.polynomial.polyfit((nodes - centre) / half, np.array(fits), 4)
    at = (pixels.curvature - np.float32(centre)) / np.float32(half)
    scale = pixels.full_well / pixels.gain
    out = np.zeros((INVERSE_ORDER, *at.shape), dtype=np.float32)
    for k in range(1, INVERSE_ORDER):
        coefficient = np.polynomial.polynomial.polyval(at, in_curvature[:, k - 1].astype(np.float32))
        out[k] = coefficient / scale ** (k - 1)
    return out


def _dark(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    """Return the dark in linear DN, because it is subtracted after the linearity correction."""
    n_groups = configuration.groups + EXTRA_DARK_GROUPS
    mean_frame = np.arange(n_groups) * configuration.n_frames + (configuration.n_frames + 1) / 2
    seconds = (mean_frame * configuration.frame_time).astype(np.float32)
    ramp = seconds[:, None, None] * (pixels.dark_current / pixels.gain)
    hot = _has(pixels, PixelFlag.HOT)
    flagged = np.where(
        hot != 0,
        np.uint32(PixelFlag.HOT.value)
        | np.where(pixels.dark_current > 100, np.uint32(PixelFlag.UNRELIABLE_DARK.value), np.uint32(0)),
        np.where(pixels.dark_current > 0.1, np.uint32(PixelFlag.WARM.value), np.uint32(0)),
    )
    attributes = {
        "n_frames": configuration.n_frames,
        "n_groups": n_groups,
        "group_gap": 0,
        "average_dark_current": round(float(np.median(pixels.dark_current)), 6),
    }
    return xr.Dataset(
        {"sci": (("group", *IMAGE), ramp), "dq": (IMAGE, flagged)},
        attrs=attributes,
    )


def _picture_frame(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    pattern = picture_frame(configuration)[configuration.raw_row_of_row]
    return xr.Dataset({"sci": (IMAGE, pattern)})


def _refpix(configuration: Configuration, artifacts: Artifacts, pixels: DetectorPixels) -> xr.Dataset:
    alpha, beta, _ = irs2_weights(configuration, artifacts)
    masks = np.zeros((4, 2), dtype=np.uint32)
    if artifacts.bad_reference_pixels:
        for output, block, _, is_listed in bad_interleaved(configuration):
            if is_listed:
                second = (block % 2 == 1) != (output % 2 == 0)  # even amplifiers count parity the other way
                masks[output - 1, int(second)] |= np.uint32(1) << np.uint32(block)
    outputs = np.arange(1, 5)
    shape = (4, alpha.size)
    return xr.Dataset(
        {
            "alpha": (("output", "frequency"), np.broadcast_to(alpha, shape).copy()),
            "beta": (("output", "frequency"), np.broadcast_to(beta, shape).copy()),
            "bad_output": ("bad", np.repeat(outputs, 2).astype(np.uint16)),
            "bad_parity": ("bad", np.tile(np.array([1, 2], dtype=np.uint16), 4)),
            "bad_mask": ("bad", masks.reshape(-1)),
        },
        coords={"output": outputs},
    )


_MAKERS: dict[str, Callable[[Configuration, Artifacts, DetectorPixels], xr.Dataset]] = {
    "mask": _mask,
    "saturation": _saturation,
    "superbias": _superbias,
    "refpix": _refpix,
    "linearity": _linearity,
    "dark": _dark,
    "gain": _gain,
    "readnoise": _readnoise,
    "pictureframe": _picture_frame,
}
