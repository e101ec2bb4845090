"""Assert that a correction is lazy, does not depend on chunks, and does not change its input."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.base import get_scheduler

__all__ = ["assert_lazy_and_chunk_invariant", "count_computes", "forbid_computes"]


class ComputeCounter:
    """Counts of computes and tasks of dask inside :func:`count_computes`."""

    def __init__(self) -> None:
        self.computes = 0
        self.tasks = 0


@contextmanager
def count_computes() -> Iterator[ComputeCounter]:
    """Count computes and tasks (after fusion) under the synchronous scheduler."""
    counter = ComputeCounter()
    synchronous = get_scheduler(scheduler="synchronous")

    def schedule(graph: Any, keys: Any, **kwargs: Any) -> Any:
        counter.computes += 1
        counter.tasks += len(graph if isinstance(graph, Mapping) else graph.__dask_graph__())
        return synchronous(graph, keys, **kwargs)

    with dask.config.set(scheduler=schedule):
        yield counter


@contextmanager
def forbid_computes() -> Iterator[None]:
    """Fail if anything inside the ``with`` block computes."""
    with count_computes() as counter:
        yield
    assert counter.computes == 0, f"{counter.computes} computes while building the graph"


def assert_lazy_and_chunk_invariant(
    correction: Callable[..., xr.Dataset],
    exposure: xr.Dataset,
    *references: xr.Dataset,
    chunkings: tuple[Mapping[str, int], ...],
    rtol: float = 0.0,
    **parameters: Any,
) -> xr.Dataset:
    """Assert that a correction is lazy, pure and independent of chunks, and return its NumPy result.

    Parameters
    ----------
    correction : callable
        ``correction(exposure, *references, **parameters) -> Dataset``.
    exposure, *references : Dataset
        Inputs in memory, as NumPy arrays.
    chunkings : tuple of mappings
        Chunk lengths to try on the exposure.
    rtol : float
        Relative tolerance for sums whose order depends on chunks. With 0, values must be identical.
    **parameters
        Passed to the correction.
    """
    before = [d.copy(deep=True) for d in (exposure, *references)]
    expected = correction(exposure, *references, **parameters)
    for chunks in chunkings:
        lazy = exposure.chunk(chunks)
        lazy_references = [r.chunk() for r in references]
        with forbid_computes():
            result = correction(lazy, *lazy_references, **parameters)
        whole = result.compute(scheduler="synchronous")  # compute shared work of variables once
        for name in expected.data_vars:
            assert result[name].dims == expected[name].dims, f"{name}: {result[name].dims}"
            assert result[name].dtype == expected[name].dtype, f"{name}: {result[name].dtype}"
            assert result[name].attrs.keys() == expected[name].attrs.keys(), name
            computed = whole[name]
            assert computed.dtype == expected[name].dtype, f"{name}: computed {computed.dtype}"
            np.testing.assert_allclose(
                computed.values, expected[name].values, rtol=rtol, atol=0, err_msg=f"{name} with chunks {chunks}"
            )
        assert result.attrs == expected.attrs
    for original, given in zip(before, (exposure, *references), strict=True):
        xr.testing.assert_identical(original, given)
    return expected
