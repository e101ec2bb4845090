"""Read the products and saved steps of one exposure, made by jwst or by nsxr."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

__all__ = ["STEPS", "Pair", "Product", "iterate_steps", "read_product"]

STEPS = ("group_scale", "dq_init", "saturation", "superbias", "refpix", "linearity", "dark_current", "jump")
"""Steps whose output both programs can save, as ``<root>_<step>.fits``, in the order of the pipeline."""


@dataclass(frozen=True)
class Product:
    """A ``rate`` (row, column) or ``rateints`` (integration, row, column); [DN/s] and [(DN/s)2]."""

    header: fits.Header
    sci: np.ndarray
    err: np.ndarray
    dq: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray


def _native(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))


def read_product(path: Path) -> Product:
    """Read a whole product."""
    with fits.open(path, memmap=False) as hdus:
        arrays = [_native(hdus[name].data) for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")]
        return Product(hdus[0].header.copy(), *arrays)


@dataclass
class Pair:
    """The products of one exposure by jwst (``peer``) and by nsxr (``ours``), and the folders of their steps."""

    peer: Product
    ours: Product
    root: str
    peer_folder: Path
    our_folder: Path
    _flags: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    @property
    def is_cube(self) -> bool:
        """Return whether the products are ``rateints``."""
        return self.peer.sci.ndim == 3

    def group_flags(self, step: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return GROUPDQ (integration, group, row, column) of both programs after a step, None if not saved."""
        found = [self._read_flags(name, step) for name in ("peer", "ours")]
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    def _read_flags(self, whose: str, step: str) -> np.ndarray | None:
        key = (whose, step)
        if key not in self._flags:
            path = (self.peer_folder if whose == "peer" else self.our_folder) / f"{self.root}_{step}.fits"
            self._flags[key] = None
            if path.exists():
                with fits.open(path, memmap=False) as hdus:
                    self._flags[key] = np.asarray(hdus["GROUPDQ"].data, dtype=np.uint8)
        return self._flags[key]

    def per_product(self, ramps: np.ndarray) -> np.ndarray:
        """Return a mask of this product's pixels from a mask of ramps (integration, row, column)."""
        return ramps if self.is_cube else ramps.any(axis=0)


def iterate_steps(peer: Path, ours: Path) -> Iterator[dict[str, tuple[np.ndarray | None, np.ndarray | None]]]:
    """Yield SCI, GROUPDQ and PIXELDQ of two saved steps, one integration at a time.

    An array that a program does not have yet at this step is None.
    """
    with fits.open(peer, memmap=False) as a, fits.open(ours, memmap=False) as b:
        for integration in range(a["SCI"].shape[0]):
            found: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {}
            for name in ("SCI", "GROUPDQ", "PIXELDQ"):
                pair = []
                for hdus in (a, b):
                    if name not in hdus:
                        pair.append(None)
                    elif name == "PIXELDQ":
                        pair.append(_native(hdus[name].section[:]) if integration == 0 else None)
                    else:
                        pair.append(_native(hdus[name].section[integration]))
                found[name] = (pair[0], pair[1])
            yield found
