"""Linearity polynomials for groups, and for the frames in averaged groups."""

from typing import Any

import numpy as np

from nsxr.kernels.compilation import kernel

__all__ = ["linearize", "linearize_reads"]


@kernel
def linearize(
    sci: np.ndarray, groupdq: np.ndarray, coefficients: np.ndarray, saturated: np.uint8
) -> np.ndarray:  # pragma: no cover
    """Evaluate a polynomial in each unsaturated sample.

    ``sci`` (integration, group, row, column) float32, ``groupdq`` uint8 of the same shape, ``coefficients`` (order,
    row, column) float32, constant first; returns float32.
    """
    out = np.empty_like(sci)
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    order = coefficients.shape[0]
    for i in range(n_integrations):
        for r in range(n_rows):  # loop over rows outside groups: a row of coefficients stays in cache
            for g in range(n_groups):
                for c in range(n_columns):
                    out[i, g, r, c] = coefficients[order - 1, r, c]
                for k in range(order - 2, -1, -1):
                    for c in range(n_columns):
                        out[i, g, r, c] = out[i, g, r, c] * sci[i, g, r, c] + coefficients[k, r, c]
                for c in range(n_columns):
                    if groupdq[i, g, r, c] & saturated:
                        out[i, g, r, c] = sci[i, g, r, c]
    return out


@kernel
def _polynomial(x: np.float32, coefficients: np.ndarray, r: int, c: int) -> Any:  # pragma: no cover
    value = coefficients[coefficients.shape[0] - 1, r, c]
    for k in range(coefficients.shape[0] - 2, -1, -1):
        value = value * x + coefficients[k, r, c]
    return value


@kernel
def linearize_reads(
    sci: np.ndarray,
    groupdq: np.ndarray,
    coefficients: np.ndarray,
    inverse: np.ndarray,
    n_frames: int,
    frames_per_group: int,
    saturated: np.uint8,
) -> np.ndarray:  # pragma: no cover
    """Linearise the frames that are predicted inside each averaged group, and average them.

    Arguments are those of :func:`linearize`, and ``inverse`` (order, row, column), the polynomial from linear to
    measured signal. ``n_frames`` frames are averaged into a group. A group begins every ``frames_per_group`` frames.
    """
    out = np.empty_like(sci)
    n_integrations, n_groups, n_rows, n_columns = sci.shape
    for i in range(n_integrations):
        for r in range(n_rows):
            for c in range(n_columns):
                unsaturated = 0
                for g in range(n_groups):
                    if not groupdq[i, g, r, c] & saturated:
                        unsaturated += 1
                last = max(2, unsaturated - 1) - 1
                start = sci[i, 0, r, c]
                if not groupdq[i, 0, r, c] & saturated:
                    start = _polynomial(start, coefficients, r, c)
                end = sci[i, last, r, c]
                if not groupdq[i, last, r, c] & saturated:
                    end = _polynomial(end, coefficients, r, c)
                rate = (end - start) / np.float32(last * frames_per_group)
                for g in range(n_groups):
                    value = sci[i, g, r, c]
                    if groupdq[i, g, r, c] & saturated:
                        out[i, g, r, c] = value
                        continue
                    first = np.float32(g * frames_per_group) - np.float32(0.5) * np.float32(n_frames - 1)
                    mean = np.float32(0)
                    for frame in range(n_frames):
                        mean += _polynomial(start + rate * (first + np.float32(frame)), inverse, r, c)
                    offset = value - mean / np.float32(n_frames)
                    total = np.float32(0)
                    for frame in range(n_frames):
                        read = _polynomial(start + rate * (first + np.float32(frame)), inverse, r, c) + offset
                        total += _polynomial(read, coefficients, r, c)
                    out[i, g, r, c] = total / np.float32(n_frames)
    return out
