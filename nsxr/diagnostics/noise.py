"""Measure the noise of an exposure: its spectrum along the order of reading."""

import numpy as np
import scipy.fft
import xarray as xr
from astropy.table import Table

from nsxr.compute.blocks import compute_together
from nsxr.errors import ModelError, ParameterError
from nsxr.kernels.medians import median_and_scatter
from nsxr.model.readout import Readout
from nsxr.model.time_order import SAMPLE_TIME

__all__ = ["NOISE_GROUPS", "noise_spectrum", "noise_table"]


NOISE_GROUPS = 6
"""Default number of groups in which noise is measured."""

_SAMPLED = 200_000
"""Number of differences that tell which ones are outliers."""


def _lines(exposure: xr.Dataset, amplifier: int, integration: int, groups: int) -> xr.DataArray:
    """Return the science pixels of one amplifier as (group, column, row), lazy. Columns are detector lines."""
    if not 0 <= integration < (found := exposure.sizes["integration"]):
        raise ParameterError(f"integration is {integration}, expected 0 to {found - 1}: the exposure has {found}")
    rows = exposure["amplifier"].to_numpy() == amplifier
    if "science_row" in exposure.coords:
        rows &= exposure["science_row"].to_numpy() >= 0
    if not rows.any():
        known = sorted(set(exposure["amplifier"].to_numpy().tolist()) - {0})
        raise ParameterError(f"amplifier {amplifier} has no science rows, expected one of {known}")
    where = np.flatnonzero(rows)
    band = exposure["sci"].isel(integration=integration, group=slice(0, groups), row=slice(where[0], where[-1] + 1))
    return band.isel(row=where - where[0]).transpose("group", "column", "row")


def _spectrum(lines: np.ndarray, readout: Readout) -> tuple[np.ndarray, np.ndarray]:
    """Return frequency and power spectral density of detector lines (group, line, pixel)."""
    order = 2 if len(lines) > 2 else 1
    noise = np.diff(lines.astype(np.float32, copy=False), n=order, axis=0) * np.float32(
        1 / np.sqrt(6 if order == 2 else 2)
    )
    some = noise.ravel()[:: max(1, noise.size // _SAMPLED)]
    centre, scatter = median_and_scatter(some[np.isfinite(some)])
    valid = np.abs(noise - centre) <= 5 * max(scatter, 1e-12)  # False where there is no value
    noise = np.where(valid, noise, np.float32(0))
    count = valid.sum(axis=-1)
    means = noise.sum(axis=-1, dtype=np.float64) / np.maximum(count, 1)
    n_lines, n_pixels = lines.shape[1:]
    pixel = np.arange(n_pixels)
    if readout.is_irs2:  # reference pixels and gaps lie between runs of 16 science pixels
        pixel = pixel + 6 * ((pixel + 8) // 16)
    line_time = readout.frame_time / n_lines
    slots = 712 if readout.is_irs2 else n_pixels
    fast = np.zeros((*noise.shape[:-1], slots), np.float32)
    fast[..., pixel] = np.where(valid, noise - means[..., None].astype(np.float32), np.float32(0))
    transform = scipy.fft.rfft(fast, overwrite_x=True)
    total = (transform.real**2 + transform.imag**2).sum(axis=(0, 1), dtype=np.float64)
    power_fast = 2 * SAMPLE_TIME * total / max(int(valid.sum()), 1)
    frequency_fast = np.fft.rfftfreq(slots, SAMPLE_TIME)
    slow = np.where(count > 0, means - means.mean(axis=-1, keepdims=True), 0.0)
    power_slow = 2 * line_time / n_lines * (np.abs(np.fft.rfft(slow)) ** 2).mean(axis=0)
    frequency_slow = np.fft.rfftfreq(n_lines, line_time)
    below = (frequency_slow > 0) & (frequency_slow < max(frequency_fast[1], frequency_slow[1] * 1.5))
    return (
        np.concatenate([frequency_slow[below], frequency_fast[1:]]),
        np.concatenate([power_slow[below], power_fast[1:]]),
    )


def noise_spectrum(
    exposure: xr.Dataset, amplifier: int, integration: int = 0, groups: int = NOISE_GROUPS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the power spectral density of the read noise of one amplifier.

    The noise is taken from second differences of groups, in which bias and sources cancel, and is scaled to the noise
    of one group. With only two groups, the first difference is used. Pixels beyond five standard deviations, such as
    cosmic rays, are left out. Frequencies above the line rate come from pixels along detector lines (science columns).
    Frequencies below the line rate come from the means of successive lines.

    Parameters
    ----------
    exposure : Dataset
        ``sci`` (integration, group, row, column) float32 [DN] with coordinate ``amplifier`` on row,
        and header attributes. In a raw IRS2 frame of 3200 rows, ``science_row`` tells which rows are science rows.
    amplifier : int
        Number of the amplifier, 1 to 4.
    integration : int, default 0
        Which integration, by position.
    groups : int, default 6
        Number of groups to use. Only these are computed.

    Returns
    -------
    frequency : ndarray of float64
        Frequencies, Hz, ascending.
    power : ndarray of float64
        One-sided power spectral density, DN^2/Hz.

    Raises
    ------
    ModelError
        If there is only one group.
    ParameterError
        If the amplifier does not exist.

    Notes
    -----
    ``P(f) = 2 T / N |sum_n x_n exp(-2 pi i f t_n)|^2``, with ``T`` the time between samples and ``N``
    their number, averaged over lines and differences. An amplifier pauses between some pixels (at line ends, and
    for interleaved reference pixels). These pauses fold white noise into the spectrum of line means. The spectrum then
    lies higher by the ratio of the line time to the time of its pixels, which is at most 1.4.
    """
    if exposure.sizes["group"] < 2:
        raise ModelError("a noise spectrum needs two groups or more, found one")
    (lines,) = compute_together(_lines(exposure, amplifier, integration, groups))
    return _spectrum(lines.to_numpy(), Readout.from_header(exposure.attrs))


_BANDS = {
    "slow": "noise slower than a detector line",
    "fast": "noise faster than a detector line",
    "alternating": "noise within 5 % of the highest frequency",
}


def noise_table(before: xr.Dataset, after: xr.Dataset, integration: int = 0, groups: int = NOISE_GROUPS) -> Table:
    """Return the noise of each amplifier before and after a correction, in three bands of frequency.

    Parameters
    ----------
    before, after : Dataset
        Exposures as for :func:`noise_spectrum`.
    integration, groups : int
        As for :func:`noise_spectrum`.

    Returns
    -------
    Table
        One row for each ``amplifier``. The columns are the rms [DN] of noise that is slower than a detector line
        (``slow``), faster (``fast``), and that changes sign from pixel to pixel (``alternating``), each ``_before`` and
        ``_after``. All of them include white noise.
    """
    rows = []
    readout = Readout.from_header(after.attrs)
    for amplifier in sorted({*after["amplifier"].to_numpy().tolist()} - {0}):
        row: dict[str, float] = {"amplifier": amplifier}
        for name, exposure in (("before", before), ("after", after)):
            frequency, power = noise_spectrum(exposure, amplifier, integration, groups)
            line_rate = exposure.sizes["column"] / readout.frame_time
            slow, alternating = frequency < 0.9 * line_rate, frequency > 0.95 * frequency[-1]
            masks = dict(zip(_BANDS, (slow, ~slow & ~alternating, alternating), strict=True))
            row |= {f"{band}_{name}": _rms(frequency, power, inside) for band, inside in masks.items()}
        rows.append(row)
    table = Table(rows)
    for column in table.colnames[1:]:
        band, when = column.split("_")
        table[column].unit = "DN"
        table[column].format = ".4g"
        table[column].description = f"rms of {_BANDS[band]}, {when} the correction, white noise included"
    return table


def _rms(frequency: np.ndarray, power: np.ndarray, inside: np.ndarray) -> float:
    width = np.gradient(frequency) if frequency.size > 1 else np.ones(1)
    if 2 * frequency[-1] * SAMPLE_TIME > 1 - 1e-6:  # only half of the last bin lies below the highest frequency
        width[-1] /= 2
    return float(np.sqrt((power * width)[inside].sum()))
