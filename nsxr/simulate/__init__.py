"""Simulated NIRSpec exposures, with their truth and matching references."""

from nsxr.model.arguments import checks_all as _checks_all
from nsxr.simulate.artifacts import QUIET, Artifacts
from nsxr.simulate.compact_optics import write_compact_optics
from nsxr.simulate.exposure import SimulatedExposure, simulate_exposure, write_references
from nsxr.simulate.flux_references import write_flux_references
from nsxr.simulate.sky import Shape, Sky, SkySource, Transit, read_sky
from nsxr.simulate.small_exposure import SmallExposure, small_exposure
from nsxr.simulate.spectra import Line, PowerLaw, Spectrum, Table
from nsxr.simulate.traces import simulate_trace
from nsxr.simulate.true_flux import true_flux

__all__ = [
    "QUIET",
    "Artifacts",
    "Line",
    "PowerLaw",
    "Shape",
    "SimulatedExposure",
    "Sky",
    "SkySource",
    "SmallExposure",
    "Spectrum",
    "Table",
    "Transit",
    "read_sky",
    "simulate_exposure",
    "simulate_trace",
    "small_exposure",
    "true_flux",
    "write_compact_optics",
    "write_flux_references",
    "write_references",
]

_checks_all(globals())
