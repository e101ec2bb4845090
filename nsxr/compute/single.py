"""Graphs of kernels that run once, on whole arrays, as those of a slit do."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

__all__ = ["pick", "run_once"]


def run_once(
    run: Callable[..., Any],
    arrays: Sequence[da.Array],
    outputs: Sequence[tuple[tuple[int, ...], type[np.generic]]],
    token: str,
) -> list[da.Array]:
    """Return the outputs of a kernel that runs once, on whole arrays, from their shapes and dtypes.

    The graph has one task for the kernel and one for each output. To make it takes a tenth of the time that blockwise
    layers take, and so does the optimization. An exposure of shutters has a thousand such graphs.
    """
    keys = [(array.name, *([0] * array.ndim)) for array in arrays]
    together = f"run-{token}"
    names = [together] if len(outputs) == 1 else [f"pick-{token}-{number}" for number in range(len(outputs))]
    layers: dict[str, Any] = {}
    dependencies: dict[str, Any] = {}
    for graph in {id(array.dask): array.dask for array in arrays}.values():
        layers |= graph.layers
        dependencies |= graph.dependencies
    dependencies[together] = {array.name for array in arrays}
    made = [(name, *([0] * len(shape))) for name, (shape, _) in zip(names, outputs, strict=True)]
    given = [TaskRef(key) for key in keys]
    if len(outputs) == 1:
        layers[together] = _Single({made[0]: Task(made[0], run, *given)})
    else:
        layers[together] = _Single({together: Task(together, run, *given)})
        for number, (name, key) in enumerate(zip(names, made, strict=True)):
            layers[name] = _Single({key: Task(key, pick, TaskRef(together), number)})
            dependencies[name] = {together}
    whole = HighLevelGraph(layers, dependencies)
    return [
        da.Array(
            whole, name, tuple((length,) for length in shape), dtype=dtype, meta=np.empty((0,) * len(shape), dtype)
        )
        for name, (shape, dtype) in zip(names, outputs, strict=True)
    ]


class _Single(MaterializedLayer):  # type: ignore[misc]
    """A layer of one task. To cull it, dask would go through all keys of the graph."""

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[MaterializedLayer, Mapping[Any, set[Any]]]:
        """Return the layer, and what its task depends on; nothing if no one needs it."""
        ((key, task),) = self.mapping.items()
        return (self, {key: set(task.dependencies)}) if key in keys else (self, {})


def pick(results: tuple[np.ndarray, ...], number: int) -> np.ndarray:
    """Return one of the results of a kernel."""
    return results[number]
