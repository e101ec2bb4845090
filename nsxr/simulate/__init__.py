"""Simulated NIRSpec exposures, with their truth and matching references."""

from nsxr.model.arguments import checks_all as _checks_all
from nsxr.simulate.artifacts import QUIET, Artifacts
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.exposure import (
    SimulatedExposure,
    SmallExposure,
    simulate_exposure,
    small_exposure,
    write_references,
)
from nsxr.simulate.traces import simulate_trace

__all__ = [
    "QUIET",
    "Artifacts",
    "SimulatedExposure",
    "SmallExposure",
    "simulate_exposure",
    "simulate_trace",
    "small_exposure",
    "write_compact_optics",
    "write_references",
]

_checks_all(globals())
