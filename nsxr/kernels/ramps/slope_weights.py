"""Weights of the frames of a ramp in their mean, and the noise of this mean.

Frames are differences of successive groups. Neighbours among them have a covariance of minus half of their variance,
because they share a group.
"""

import numpy as np

__all__ = ["left_about_mean", "slope_weights", "variance_of_mean"]


def slope_weights(n: int) -> np.ndarray:
    """Return the weights with which ``n`` differences of groups make the slope of a fitted line, (n,) float64."""
    number = np.arange(1, n + 1)
    weights: np.ndarray = number * (n + 1 - number) / (number * (n + 1 - number)).sum()
    return weights


def variance_of_mean(usable: np.ndarray, over_integrations: bool) -> np.ndarray:
    """Return the variance of the weighted mean of the usable frames, over the variance of a frame.

    Parameters
    ----------
    usable : ndarray
        (integration, frame) bool.
    over_integrations : bool
        Whether the mean is that of the frames of all integrations, not of each integration.

    Returns
    -------
    ndarray
        (integration,) float64, with one integration if the mean is that of all. It is 1 where no frame is usable.
    """
    weights = slope_weights(usable.shape[1]) * usable
    total, variance = weights.sum(1), _variance(weights)
    if over_integrations:
        total, variance = total.sum(keepdims=True), variance.sum(keepdims=True)
    found: np.ndarray = np.where(total > 0, variance / np.where(total > 0, total, 1) ** 2, 1.0)
    return found


def left_about_mean(usable: np.ndarray, axis: int) -> np.ndarray:
    """Return the variance of frames less their mean, over the variance of a frame, (integration, frame) float64.

    It is 0 for a frame that is alone in its mean, and 1 if there is no other frame at all.

    Parameters
    ----------
    usable : ndarray
        (integration, frame) bool.
    axis : int
        0 if the mean is that of all integrations, 1 if it is the weighted mean of the frames of each integration.
    """
    if usable.size == 1:
        return np.ones(usable.shape)
    number = np.maximum(usable.sum(axis, keepdims=True), 1)
    if axis == 0:
        return np.broadcast_to(1 - 1 / number, usable.shape)
    weights = slope_weights(usable.shape[1]) * usable
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-30)
    padded = np.pad(weights, ((0, 0), (1, 1)))
    with_mean = (weights - 0.5 * (padded[:, :-2] + padded[:, 2:])) * usable
    left = 1 - 2 * with_mean.sum(1, keepdims=True) / number + _variance(weights)[:, None]
    return np.broadcast_to(np.where(number > 1, left, 0.0), usable.shape)


def _variance(weights: np.ndarray) -> np.ndarray:
    """Return the variance of the sums of weighted frames, over the variance of a frame, (integration,) float64."""
    found: np.ndarray = (weights**2).sum(1) - (weights[:, 1:] * weights[:, :-1]).sum(1)
    return found
