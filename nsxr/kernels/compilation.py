"""The numba options of every kernel, in one place.

Kernels release the GIL, so dask threads run them side by side. They are never ``parallel``, because numba's own threads
abort under dask's. They compile on first call. Compiled code is kept on disk between runs (``cache=True``). Numba
writes each cache file under a temporary name, renames it, and checks a stamp of the source when it reads the file. So
the worst that processes that start together do is to compile twice.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a kernel with the options of this package."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]
