"""Rotations about the coordinate axes."""

import numpy as np

__all__ = ["about"]


def about(axis: str, angle: float) -> np.ndarray:
    """Return the matrix (3, 3) that turns vectors counter-clockwise about an axis, by an angle [degree]."""
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = cosine
    matrix[i, j], matrix[j, i] = -sine, sine
    return matrix
