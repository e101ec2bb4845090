"""Measure the read noise from dark pixels."""

import numpy as np
import xarray as xr

from nsxr.compute.blocks import map_blocks, unlabelled
from nsxr.compute.layouts import chunk_like, one_chunk, to_blocks
from nsxr.compute.passes import settle
from nsxr.compute.reductions import reduce_tree
from nsxr.kernels.ramps.read_noise import BINS, histograms, scale_of_integrations
from nsxr.model.dq import UNUSABLE_PIXEL
from nsxr.model.readout import Readout
from nsxr.model.variables import check
from nsxr.references.match import match

__all__ = ["change_of_pixels", "read_noise_after_cleaning", "rescale_read_noise"]


def rescale_read_noise(exposure: xr.Dataset, readnoise: xr.Dataset, gain: xr.Dataset) -> xr.Dataset:
    """Scale a read noise reference, amplifier by amplifier, to the noise of pixels with little light.

    The noise is measured from second differences of groups, in which light, bias and dark current cancel. Their median
    absolute value is robust against outliers. The result includes all noise that is left in the ramps, correlated noise
    too. Pixels in which photon noise would be more than a tenth of the variance are left out. The photon noise of the
    other pixels is subtracted. An integration whose noise differs from the others by more than a fifth does not count.

    Parameters
    ----------
    exposure : Dataset
        Corrected ramps, after jumps were flagged: ``sci`` (integration, group, row, column) float32 [DN], ``groupdq``,
        ``pixeldq``.
    readnoise : Dataset
        ``sci`` (row, column) float32 [DN]: noise of a difference of two single frames.
    gain : Dataset
        ``sci`` (row, column) float32 [electron/DN].

    Returns
    -------
    Dataset
        ``readnoise`` cut to the exposure, with ``sci`` multiplied by the ``scale`` of the amplifier of each row;
        ``scale`` and ``scale_error`` (amplifier) float64, the factor and its standard error. The factor is between 0.5
        and 2. Factor and error are 1 and 0 if fewer than 1000 second differences are usable, as in ramps of one and two
        groups. Lazy if the exposure is; the factor of an amplifier needs all pixels of the amplifier.

    Raises
    ------
    ModelError
        If variables are missing or not as declared.
    """
    check(exposure, "sci", "groupdq", "pixeldq", units={"sci": "DN"})
    readout = Readout.of(exposure)
    blocks = to_blocks(exposure)
    sci = unlabelled(blocks["sci"])
    reference = match(readnoise, exposure, "readnoise")
    labels, output = np.unique(readout.amplifier_of(exposure["row"].values), return_inverse=True)
    image = sci.isel(integration=0, group=0)
    images = [blocks["pixeldq"], match(gain, exposure, "gain")["sci"], reference["sci"]]
    counts = map_blocks(
        _counts,
        sci,
        chunk_like(unlabelled(blocks["groupdq"]), sci),
        *(chunk_like(unlabelled(array), image) for array in images),
        chunk_like(xr.DataArray(output.astype(np.int64), dims="row"), image),
        core=("group", "column"),
        outputs={"counts": (("integration", "row", "amplifier", "size"), np.float64)},
        sizes={"amplifier": labels.size, "size": BINS + 2},
        reduced={"counts": "row"},
        n_outputs=labels.size,
        n_frames=readout.n_frames,
    )["counts"]
    rows = reduce_tree(_add_rows, counts, "row", np.float64)
    scale, error = map_blocks(
        scale_of_integrations,
        one_chunk(rows.isel(row=0, drop=True), "integration", "amplifier", "size"),
        core=("integration", "amplifier", "size"),
        outputs=dict.fromkeys(("scale", "error"), (("amplifier",), np.float64)),
    ).values()
    if not readout.is_irs2:  # IRS2 ramps are expensive to correct a second time, so they stay in memory; others do not
        scale, error = settle(scale), settle(error)
    scale = scale.assign_coords(amplifier=labels)
    factor = scale.isel(amplifier=xr.DataArray(output, dims="row")).drop_vars("amplifier").astype(np.float32)
    scaled = (reference["sci"] * chunk_like(factor, image)).transpose("row", "column").astype(np.float32)
    scaled.attrs = reference["sci"].attrs
    return reference.assign(sci=scaled, scale=scale, scale_error=error.assign_coords(amplifier=labels))


def read_noise_after_cleaning(
    exposure: xr.Dataset, readnoise: xr.Dataset, gain: xr.Dataset, average_dark_current: xr.DataArray | float = 0.0
) -> xr.Dataset:
    r"""Adapt a read noise reference to ramps from which correlated noise was removed.

    The reference includes the correlated noise of the exposures from which it was made. Its square is scaled to the
    uncorrelated noise of dark pixels, and the variance of the correlated noise that is left is added.

    Parameters
    ----------
    exposure : Dataset
        Ramps from :func:`nsxr.clean_flicker_noise`, with ``flicker_variance``, ``white_variance``, ``dark_level`` and
        ``is_dark``.
    readnoise, gain, average_dark_current
        As in :func:`nsxr.fit_ramps`.

    Returns
    -------
    Dataset
        ``readnoise`` cut to the exposure with a new ``sci`` (row, column) float32 [DN]. The factor on its square is
        between 0.1 and 10, and 1 if there are no dark pixels.

    Notes
    -----
    With N frames in a group, w the white variance, p the photon variance in dark pixels, v the variance of correlated
    noise, and R the read noise of the reference, the new read noise is

    .. math:: R'^2 = R^2 \frac{2 N (w - p)}{\langle R^2 \rangle} + 2 N v

    Where the estimate follows the noise of a pixel, *v* is negative, and smaller for pixels with less noise.
    """
    check(exposure, "flicker_variance", "white_variance", "dark_level", "is_dark")
    readout = Readout.of(exposure)
    reference = match(readnoise, exposure, "readnoise")
    square = unlabelled(reference["sci"]).astype(np.float32) ** 2
    dark = chunk_like(unlabelled(exposure["is_dark"]), square)
    of_gain = unlabelled(match(gain, exposure, "gain")["sci"]).where(dark).mean()
    frames = readout.n_frames
    shared = readout.frame_time / readout.group_time * (frames**2 - 1) / (6 * frames)
    current = average_dark_current
    if isinstance(current, xr.DataArray):
        current = unlabelled(current).where(dark).mean()
    electrons = exposure["dark_level"].clip(0.0, None) * of_gain + current * readout.group_time
    photons = 0.5 * electrons * (1 - 2 * shared) / of_gain**2
    white = (exposure["white_variance"] - photons).clip(0.0, None)
    left = chunk_like(unlabelled(exposure["flicker_variance"]), square)
    mean_square = square.where(dark).astype(np.float64).mean()
    left = change_of_pixels(left, square / mean_square)
    factor = 2 * frames * white / mean_square
    factor = factor.where(np.isfinite(factor), 1.0).clip(0.1, 10.0)
    changed = (square * factor.astype(np.float32) + np.float32(2 * frames) * left).clip(0.0, None) ** np.float32(0.5)
    changed = changed.transpose("row", "column").astype(np.float32)
    return reference.assign(sci=changed.assign_attrs(reference["sci"].attrs))


def change_of_pixels(change: xr.DataArray, ratio: xr.DataArray) -> xr.DataArray:
    """Return what correlated noise that is left adds to the variance of pixels with more or less noise than others.

    ``change`` (row, column) is for a pixel with the mean variance of dark pixels, and ``ratio`` (row, column) is the
    variance of each pixel over this mean. It is negative where the estimate follows the noise of a pixel. A pixel with
    less noise has less to lose.
    """
    less = ratio.clip(0.0, 1.0).astype(np.float32).fillna(np.float32(1))
    return change * less.where(change < 0, np.float32(1))


def _counts(
    sci: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    readnoise: np.ndarray,
    output: np.ndarray,
    *,
    n_outputs: int,
    n_frames: int,
) -> np.ndarray:
    references = gain.astype(np.float32, copy=False), readnoise.astype(np.float32, copy=False)
    return histograms(sci, groupdq, pixeldq, *references, output, n_outputs, n_frames, UNUSABLE_PIXEL)[:, None]


def _add_rows(block: np.ndarray) -> np.ndarray:
    total: np.ndarray = block.sum(1, keepdims=True)
    return total
