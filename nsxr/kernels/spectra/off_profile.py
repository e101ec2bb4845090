"""Find columns whose light is distributed differently from the other columns: lines of a nebula or of rotating gas.

Images are (exposure, y, x) float64.
"""

import numpy as np

__all__ = ["columns_off_profile"]


def columns_off_profile(
    images: np.ndarray,
    variance: np.ndarray,
    profile: np.ndarray,
    limit: np.ndarray,
    is_inside: np.ndarray,
    with_lines: np.ndarray,
) -> np.ndarray:
    """Return the columns with lines in which two or more pixels disagree with the profile (exposure, x), bool.

    If a column agrees with the profile after one of its pixels is left out, this pixel is an outlier, such as a cosmic
    ray. It is not an outlier if the same row also deviates in the next column. If the column disagrees for every choice
    of the pixel that is left out, the line has a profile different from the continuum. The same applies to neighbouring
    columns that also disagree with the profile.

    Parameters
    ----------
    images, variance : (exposure, y, x) ndarray
        Background-free signal, and its variance.
    profile : (exposure, y, x) ndarray
        Part of the flux in each pixel.
    limit : (exposure, y, x) ndarray
        Largest deviation of a pixel that is allowed.
    is_inside : (exposure, y, x) ndarray of bool
        Pixels in the aperture that can be used.
    with_lines : (exposure, x) ndarray of bool
        Columns to look at.
    """
    found = np.zeros(with_lines.shape, dtype=bool)
    exposure, column = np.nonzero(with_lines & is_inside.any(1))
    image, var, p, lim, inside = (
        array[exposure, :, column].T for array in (images, variance, profile, limit, is_inside)
    )
    weighted = np.where(inside, p / np.where(inside, var, 1.0), 0.0)
    precision = (weighted * p).sum(0)
    leverage = weighted / np.where(precision > 0, precision, 1.0)  # weight of each pixel in the flux
    residual = np.where(inside, image - (leverage * image).sum(0) * p, 0.0)
    lim = np.where(inside, lim, np.inf)
    contradicts = (np.abs(residual) > lim).any(0)
    full = np.zeros((images.shape[0], images.shape[1], images.shape[2] + 2))
    full[exposure, :, column + 1] = np.where(np.abs(residual) > lim, np.sign(residual), 0.0).T
    beside = np.stack([full[exposure, :, column].T, full[exposure, :, column + 2].T])
    alone = inside & ((beside * residual) <= 0).all(0)
    agrees = np.zeros(column.size, dtype=bool)
    for row in range(p.shape[0]):
        free = 1 - leverage[row] * p[row]
        without = residual + p * leverage[row] * residual[row] / np.maximum(free, 1e-6)
        without[row] = 0.0
        agrees |= alone[row] & (np.abs(without) <= lim).all(0)
    found[exposure, column] = contradicts & ~agrees
    suspected = np.zeros_like(found)
    suspected[exposure, column] = contradicts
    while True:  # add the flanks of lines
        padded = np.pad(found, ((0, 0), (1, 1)))
        grown = found | (suspected & (padded[:, :-2] | padded[:, 2:]))
        if (grown == found).all():
            return found
        found = grown
