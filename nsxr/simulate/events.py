"""Cosmic rays and snowballs: charge that arrives at once."""

from dataclasses import dataclass

import numpy as np

from nsxr.model.readout import DETECTOR_SIZE
from nsxr.simulate.artifacts import Artifacts
from nsxr.simulate.configuration import Configuration

__all__ = ["Events", "Snowballs", "draw_events"]

PIXEL_AREA = (18e-4) ** 2
"""cm2."""

_MEAN_CHARGE = 5200.0
_PACKETS = 32
_TRACK = 2.0  # mean length of a track seen from above [pixel]
_DIFFUSION = 0.45  # rms distance over which charge spreads [pixel]


@dataclass(frozen=True)
class Snowballs:
    """Snowballs of one integration. Each array has one entry for each snowball."""

    frame: np.ndarray
    time: np.ndarray
    row: np.ndarray
    column: np.ndarray
    core_radius: np.ndarray
    halo_radius: np.ndarray


@dataclass(frozen=True)
class Events:
    """Charge that arrives at once in one integration. Each array has one entry for each pixel that gets charge.

    Attributes
    ----------
    frame : ndarray
        First frame, zero-based, that contains the charge.
    pixel : ndarray
        Position in the flattened (row, column) image.
    charge : ndarray
        float32 [electron].
    hit : ndarray
        Number of the cosmic ray; -1 for snowballs.
    time : ndarray
        Time since the reset [s].
    snowballs : Snowballs
        Position, time and size of the snowballs.
    """

    frame: np.ndarray
    pixel: np.ndarray
    charge: np.ndarray
    hit: np.ndarray
    time: np.ndarray
    snowballs: Snowballs

    def in_frame(self, frame: int) -> slice:
        """Return the slice of the entries of a frame. Entries are sorted by frame."""
        return slice(*np.searchsorted(self.frame, [frame, frame + 1]))


def draw_events(
    configuration: Configuration, artifacts: Artifacts, random: np.random.Generator, full_well: float
) -> Events:
    """Draw the cosmic rays and snowballs of one integration.

    A cosmic ray leaves packets of charge along a straight track. The direction of the track is random and
    its length is exponential. Diffusion and capacitive coupling spread the charge. On average a cosmic ray
    leaves 5200 electrons in 7 pixels, with a lognormal distribution of the charge. A snowball fills all
    pixels within its core radius (1.5 to 9 pixels, power law) beyond full well. Around the core it leaves a
    disc of charge that falls off out to four core radii. Reference pixels collect no charge.

    Parameters
    ----------
    configuration : Configuration
        Pixels and times.
    artifacts : Artifacts
        Rates.
    random : numpy.random.Generator
        Source of random numbers.
    full_well : float
        Charge of a full pixel [electron].

    References
    ----------
    Rauscher & Fixsen 2025, PASP 137, 095003; Regan 2023, JWST-STScI-008545.
    """
    shape = (configuration.rows.size, configuration.columns.size)
    duration = configuration.groups * configuration.n_frames * configuration.frame_time
    rays = _draw_rays(shape, duration, artifacts, random)
    snow, snow_pixels = _draw_snowballs(shape, duration, artifacts, random, full_well)
    snow_frame = np.ceil(snow.time / configuration.frame_time).astype(np.int64) - 1
    snow = Snowballs(snow_frame, snow.time, snow.row, snow.column, snow.core_radius, snow.halo_radius)
    pixel, charge, hit, time = (np.concatenate(parts) for parts in zip(rays, snow_pixels, strict=True))
    keep = ~configuration.is_border.reshape(-1)[pixel]
    pixel, charge, hit, time = pixel[keep], charge[keep], hit[keep], time[keep]
    frame = np.maximum(np.ceil(time / configuration.frame_time).astype(np.int64) - 1, 0)
    order = np.argsort(frame, kind="stable")
    return Events(frame[order], pixel[order], charge[order].astype(np.float32), hit[order], time[order], snow)


_Pixels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _draw_rays(shape: tuple[int, int], duration: float, artifacts: Artifacts, random: np.random.Generator) -> _Pixels:
    n = int(random.poisson(artifacts.cosmic_rays * PIXEL_AREA * shape[0] * shape[1] * duration))
    start = random.random((2, n, 1)) * np.array(shape)[:, None, None]
    angle = random.uniform(0, 2 * np.pi, (n, 1))
    length = random.exponential(_TRACK, (n, 1))
    along = random.random((n, _PACKETS)) * length
    spread = random.normal(0, _DIFFUSION, (2, n, _PACKETS))
    row = np.floor(start[0] + along * np.sin(angle) + spread[0]).astype(np.int64)
    column = np.floor(start[1] + along * np.cos(angle) + spread[1]).astype(np.int64)
    charge = _MEAN_CHARGE * random.lognormal(-0.5 * 0.9**2, 0.9, n)
    time = duration * random.random(n)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    hit = np.broadcast_to(np.arange(n)[:, None], inside.shape)[inside]
    key, packets = np.unique(hit * (shape[0] * shape[1]) + (row * shape[1] + column)[inside], return_counts=True)
    hit = key // (shape[0] * shape[1])
    return key % (shape[0] * shape[1]), packets * charge[hit] / _PACKETS, hit, time[hit]


def _draw_snowballs(
    shape: tuple[int, int],
    duration: float,
    artifacts: Artifacts,
    random: np.random.Generator,
    full_well: float,
) -> tuple[Snowballs, _Pixels]:
    n = int(random.poisson(artifacts.snowballs * shape[0] * shape[1] / DETECTOR_SIZE**2 * duration))
    row, column = random.random((2, n)) * np.array(shape)[:, None]
    radius = np.minimum(1.5 * (1 + random.pareto(2.5, n)), 9.0)
    time = duration * random.random(n)
    pixels, charges = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    for y, x, r in zip(row, column, radius, strict=True):
        rows = np.arange(max(0, int(y - 4 * r)), min(shape[0], int(y + 4 * r) + 1))
        columns = np.arange(max(0, int(x - 4 * r)), min(shape[1], int(x + 4 * r) + 1))
        distance = np.hypot(rows[:, None] - y, columns - x)
        halo = random.poisson(2500 * np.exp(-np.maximum(distance - r, 0) / (0.7 * r))).astype(np.float64)
        charge = np.where(distance <= r, 2 * full_well, np.where(distance <= 4 * r, halo, 0))
        hit_rows, hit_columns = np.nonzero(charge)
        pixels.append(rows[hit_rows] * shape[1] + columns[hit_columns])
        charges.append(charge[hit_rows, hit_columns])
    sizes = [p.size for p in pixels[1:]]
    pixel = np.concatenate(pixels)
    none = np.full(pixel.size, -1)
    balls = Snowballs(np.zeros(n, dtype=np.int64), time, row, column, radius, 4 * radius)
    return balls, (pixel, np.concatenate(charges), none, np.repeat(time, sizes))
