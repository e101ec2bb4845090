"""Help with tests of corrections. This package is public, so that you can test your own corrections with it.

- Builders make small exposures, references, rates and slits in memory: :func:`make_exposure`, :func:`make_reference`,
  :func:`make_slit`.
- Assertions check rules for every correction: :func:`assert_lazy_and_chunk_invariant`, :func:`forbid_computes`.
- Strategies for hypothesis are in :mod:`nsxr.testing.strategies`. Only that module needs hypothesis.

Exposures with realistic noise, sky and matching references come from :mod:`nsxr.simulate`.
"""

from nsxr.testing.assertions import assert_lazy_and_chunk_invariant, count_computes, forbid_computes
from nsxr.testing.exposures import (
    FULL_FRAME,
    make_exposure,
    make_header,
    make_noise_references,
    make_rates,
    make_reference,
    make_times,
)
from nsxr.testing.slits import make_slit, make_spectrum

__all__ = [
    "FULL_FRAME",
    "assert_lazy_and_chunk_invariant",
    "count_computes",
    "forbid_computes",
    "make_exposure",
    "make_header",
    "make_noise_references",
    "make_rates",
    "make_reference",
    "make_slit",
    "make_spectrum",
    "make_times",
]
