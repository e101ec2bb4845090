"""The numba options of every kernel, in one place.

Kernels release the GIL, so dask threads run them side by side; they are never ``parallel`` (numba's
own threads abort under dask's) and compile on first call. Compiled code is kept on disk between runs
(``cache=True``): numba writes each cache file under a temporary name and renames it, and reads are
guarded by a source stamp, so processes that start together at worst compile twice.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a loop kernel with the project's options."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]
