"""Pulls of measured rates against the rates that were simulated, by flux."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits
from products import Product

__all__ = ["FLUX_EDGES", "Truth", "pulls", "read_truth"]

FLUX_EDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0)
"""Edges of the flux bins, electron/s."""

FEWEST = 100
"""Least number of pixels of a flux bin."""

_TO_SIGMA = 1.482602218505602  # standard deviation of a normal distribution over its median deviation


@dataclass(frozen=True)
class Truth:
    """The simulated truth, in the form of a product of one kind.

    ``flux`` (row, column) [electron/s] and ``rate`` in the product's shape [DN/s] are light alone. ``clean`` in the
    product's shape is True in good pixels without cosmic rays or other disturbances.
    """

    flux: np.ndarray
    rate: np.ndarray
    clean: np.ndarray


def read_truth(path: Path, kind: str) -> Truth:
    """Read a truth file of the simulator for a product, ``rate`` or ``rateints``."""
    with fits.open(path, memmap=False) as hdus:
        flux = np.asarray(hdus["RATE"].data, dtype=np.float64)
        rate = np.asarray(hdus["RATE_DN"].data, dtype=np.float64)
        factor = np.asarray(hdus["LIGHT_CURVE"].data["factor"], dtype=np.float64)
        sound = np.asarray(hdus["FLAGS"].data) == 0
        disturbed = np.asarray(hdus["DISTURBED"].data) != 0
    if kind == "rateints":
        return Truth(flux, rate * factor[:, None, None], sound & ~disturbed)
    return Truth(flux, rate * factor.mean(), sound & ~disturbed.any(axis=0))


def pulls(product: Product, truth: Truth, usable: np.ndarray) -> list[dict[str, float]]:
    """Return mean and robust standard deviation of the pulls of a product, one entry for each flux bin.

    Parameters
    ----------
    product : Product
        ``rate`` or ``rateints`` [DN/s].
    truth : Truth
        Truth of the same kind of product.
    usable : ndarray of bool
        Pixels to use, in the product's shape. They must be the same for both programs, so that bins can be compared.

    Notes
    -----
    ``pull = (rate - true rate) / err``. The gain cancels.
    """
    valid = usable & truth.clean & np.isfinite(product.sci) & (product.err > 0)
    flux = np.broadcast_to(truth.flux, product.sci.shape)
    bins = []
    for low, high in pairwise(FLUX_EDGES):
        inside = valid & (flux >= low) & (flux < high)
        if inside.sum() < FEWEST:
            continue
        pull = (product.sci[inside] - truth.rate[inside]) / product.err[inside]
        middle = float(np.median(pull))
        bins.append(
            {
                "low": low,
                "high": high,
                "pixels": int(pull.size),
                "mean": float(pull.mean()),
                "median": middle,
                "robust_deviation": float(_TO_SIGMA * np.median(np.abs(pull - middle))),
            }
        )
    return bins
