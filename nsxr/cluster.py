"""Connect to a dask cluster, or start a small one, and see that its workers can do the work.

Nothing here is needed for threads, dask's default, and :mod:`distributed` is imported only on demand.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask

from nsxr.errors import ClusterError, ParameterError
from nsxr.io.stores import is_remote

__all__ = ["connected", "require_reachable"]

logger = logging.getLogger(__name__)

_PATIENCE = "20s"  # to reach a scheduler
_TRIES = 10  # of a task whose worker dies, before the task itself is blamed


@contextmanager
def connected(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    performance_report: str | os.PathLike[str] | None = None,
) -> Iterator[Any]:
    """Compute on a cluster inside the block: one that runs already, or workers of this machine.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running dask scheduler, ``tcp://host:8786``.
    workers : int, optional
        Number of worker processes to start on this machine, with one thread each.
    memory_limit : str, optional
        Of each worker started here, such as ``"2GB"``. At 60 % results are moved to disk, at 95 % the worker is
        restarted and its work done again.
    performance_report : path, optional
        HTML file in which dask tells what its workers did.

    Yields
    ------
    Client or None
        None if neither scheduler nor workers are given: dask's threads, or the Client that is active already.

    Raises
    ------
    ParameterError
        If the parameters contradict each other, or :mod:`distributed` is not installed.
    ClusterError
        If the scheduler does not answer, has no workers, or workers have no nsxr, or another version of it.
    """
    if scheduler is not None and workers is not None:
        raise ParameterError("give either a scheduler to connect to or a number of workers to start, not both")
    if workers is None and memory_limit is not None:
        raise ParameterError("a memory limit is for workers that are started here; give their number as well")
    if workers is not None and workers < 1:
        raise ParameterError(f"{workers} workers asked for, at least 1 is needed")
    if scheduler is None and workers is None:
        if performance_report is not None:
            raise ParameterError("a performance report needs a scheduler or workers; threads do not write one")
        yield None
        return
    try:
        from distributed import Client, LocalCluster
        from distributed import performance_report as report
    except ImportError as error:
        raise ParameterError('clusters need another package: pip install "nsxr[distributed]"') from error
    with ExitStack() as stack:
        if scheduler is None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="nsxr-workers-", ignore_cleanup_errors=True)
            )
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": _TRIES}))
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # kernels run side by side in processes as in threads, without a common lock
                processes=True,
                memory_limit=memory_limit if memory_limit is not None else "auto",
                local_directory=folder,
                dashboard_address=":0",
                silence_logs=logging.ERROR,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        else:
            try:
                client = stack.enter_context(Client(scheduler, timeout=_PATIENCE))
            except (OSError, ValueError) as error:
                raise ClusterError(f"no dask scheduler answers at {scheduler} within {_PATIENCE}: {error}") from error
        _require_nsxr(client)
        logger.info("dashboard at %s", client.dashboard_link)
        if performance_report is not None:
            stack.enter_context(report(filename=os.fspath(performance_report)))
        yield client


def _require_nsxr(client: Any) -> None:
    """Raise ClusterError unless there are workers and all have the nsxr that is at work here."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        raise ClusterError(f"the scheduler at {client.scheduler.address} has no workers; start some and try again")
    here = _version_here()
    others = {worker: found for worker, found in client.run(_version_here).items() if found != here}
    if others:
        listed = ", ".join(f"{worker}: {found or 'none'}" for worker, found in sorted(others.items()))
        raise ClusterError(f"workers need nsxr {here}, as here, but have {listed}; install the same everywhere")


def _version_here() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nsxr")
    except PackageNotFoundError:
        return None


def require_reachable(
    client: Any, inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] | None = None
) -> None:
    """Raise ClusterError unless every worker sees the same input files and the output directory.

    Parameters
    ----------
    client : Client
        Active client.
    inputs : sequence of path
        Files or directories. URLs are left out: the store behind them answers for itself.
    output : path, optional
        Directory in which workers will write; it is made if it does not exist.

    Raises
    ------
    ClusterError
        Naming the worker, the path and what to do.
    """
    local = {str(Path(path).absolute()): _size(path) for path in inputs if not is_remote(str(path))}
    token: Path | None = None
    try:
        if output is not None:
            folder = Path(output).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            token = folder / f".nsxr-{uuid4().hex[:12]}.seen"
            token.touch()
        problems = client.run(_unseen, local, None if token is None else str(token))
    finally:
        if token is not None:
            token.unlink(missing_ok=True)
    found = [f"{worker} {problem}" for worker, listed in sorted(problems.items()) for problem in listed]
    if found:
        raise ClusterError(
            f"workers must see the files under the same paths: {'; '.join(found[:5])}"
            f"{f' and {len(found) - 5} more' if len(found) > 5 else ''}; use a file system that all share, or URLs"
        )


def _size(path: str | os.PathLike[str]) -> int | None:
    """Return the size of a file, None for a directory or nothing at all."""
    return os.path.getsize(path) if os.path.isfile(path) else None


def _unseen(inputs: dict[str, int | None], token: str | None) -> list[str]:
    """Say what this worker cannot see."""
    problems = []
    for path, size in inputs.items():
        if not os.path.exists(path):
            problems.append(f"has no {path}")
        elif size is not None and os.path.getsize(path) != size:
            problems.append(f"has another {path}: {os.path.getsize(path)} bytes, {size} expected")
    if token is not None and not os.path.exists(token):
        problems.append(f"does not see the output directory {os.path.dirname(token)}")
    elif token is not None and not os.access(os.path.dirname(token), os.W_OK):
        problems.append(f"cannot write to {os.path.dirname(token)}")
    return problems
