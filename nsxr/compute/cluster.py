"""Connect to a dask cluster, or start one on this machine, and check that its workers can do the work.

dask's default scheduler, threads, does not need this module. :mod:`distributed` is imported only when it is needed.
"""

import copyreg
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask
import dask.threaded
from dask.base import get_scheduler
from dask.utils import format_bytes, parse_bytes
from numba.core.registry import CPUDispatcher

from nsxr.errors import ClusterError, NsxrError, ParameterError, install
from nsxr.model.types import Entries
from nsxr.storage.urls import is_remote, local_path

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connected", "require_reachable", "worker_errors"]

logger = logging.getLogger(__name__)

LEAST_MEMORY = 512 * 2**20
"""Smallest memory limit of a worker [bytes]. With all kernels loaded and no pixels, a worker uses 300 to 400 MB."""

_PATIENCE = 20  # seconds to reach a scheduler
_IN_FLIGHT = 10  # seconds to wait for running tasks after a failure: each takes a second or two
_NO_WORKERS = "2 minutes"  # time without any worker after which the computation fails
_MOST_WORKERS = 1024
_TRIES = 10  # number of times that a task may lose its worker before the task fails


@contextmanager
def connected(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    performance_report: str | os.PathLike[str] | None = None,
) -> Iterator[Any]:
    """Compute on a cluster inside a ``with`` block: a cluster that runs already, or workers on this machine.

    Workers that are started here are stopped at the end of the block, also after an error.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running dask scheduler, ``tcp://host:8786``.
    workers : int, optional
        Number of worker processes to start on this machine, with one thread each.
    memory_limit : str, optional
        Memory limit of each worker that is started here, such as ``"2GB"``. Default: an equal share of the memory of
        this machine. At 60 % results are moved to disk. At 95 % the worker is restarted and its work is done again.
    performance_report : path, optional
        HTML file for dask's report on what its workers did.

    Yields
    ------
    Client or None
        None if neither scheduler nor workers are given. dask's threads, or the Client that is already active, are then
        used.

    Raises
    ------
    ParameterError
        If the parameters contradict each other, or a package is not installed.
    ClusterError
        If the scheduler does not answer or has no workers, or if a worker has no nsxr or another version of it.
    """
    limit = _checked(scheduler, workers, memory_limit, performance_report)
    if scheduler is None and workers is None:
        with _as_it_is():
            yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ParameterError(f"clusters need another package: {install('distributed')}") from error
    with ExitStack() as stack:
        # a Client becomes the default scheduler even if it cannot connect
        stack.enter_context(dask.config.set(scheduler=dask.config.get("scheduler", None)))
        stack.enter_context(_quiet())
        if workers is not None:
            client = stack.enter_context(Client(stack.enter_context(_local_cluster(workers, limit))))
        else:
            try:
                client = stack.enter_context(Client(scheduler, timeout=_PATIENCE))
            except (OSError, ValueError) as error:
                raise ClusterError(f"no dask scheduler answers at {scheduler} within {_PATIENCE} s: {error}") from error
            _require_nsxr(client)
        logger.info("dashboard at %s", client.dashboard_link)
        if performance_report is not None:
            stack.enter_context(_report(local_path(performance_report)))
        yield client


def _as_it_is() -> AbstractContextManager[object]:
    """Use the scheduler that dask would choose. dask's own choice would import distributed, which is slow."""
    if "distributed" in sys.modules or dask.config.get("scheduler", None) is not None:
        return nullcontext()
    threads: AbstractContextManager[object] = dask.config.set(scheduler=dask.threaded.get)
    return threads


def _checked(
    scheduler: str | None,
    workers: int | None,
    memory_limit: str | None,
    performance_report: str | os.PathLike[str] | None,
) -> int | None:
    """Raise an error if parameters contradict each other, and return the memory limit [bytes]."""
    if scheduler is not None and workers is not None:
        raise ParameterError("give either a scheduler to connect to or a number of workers to start, not both")
    if workers is None and memory_limit is not None:
        raise ParameterError("a memory limit is for workers that are started here; give their number as well")
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise ParameterError(
            f"{workers} workers asked for, expected 1 to {_MOST_WORKERS}, each a process of this machine"
        )
    if performance_report is not None:
        if scheduler is None and workers is None:
            raise ParameterError("a performance report needs a scheduler or workers; threads do not write one")
        if find_spec("bokeh") is None:
            raise ParameterError("a performance report needs another package: pip install bokeh")
        if not local_path(performance_report).absolute().parent.is_dir():
            raise ParameterError(f"the performance report {performance_report} goes to a directory that does not exist")
    if memory_limit is None:
        return None
    try:
        limit = int(parse_bytes(memory_limit))
    except (ValueError, OverflowError) as error:
        raise ParameterError(f"memory limit {memory_limit!r} is not a size such as 2GB") from error
    if limit < LEAST_MEMORY:
        raise ParameterError(
            f"memory limit {memory_limit!r} is {format_bytes(limit)} for each worker, expected at least "
            f"{format_bytes(LEAST_MEMORY)}, as in 2GB"
        )
    return limit


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep log messages of the cluster from the handlers of the root logger. Errors are raised in any case."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [talker.level for talker in loggers]
    try:
        for talker in loggers:
            talker.setLevel(logging.CRITICAL)
        yield
    finally:
        for talker, level in zip(loggers, levels, strict=True):
            talker.setLevel(level)


@contextmanager
def _local_cluster(workers: int, limit: int | None) -> Iterator[Any]:
    """Start workers on this machine, and end them after the block."""
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    place = dask.config.get("temporary-directory", None)
    temporary = tempfile.TemporaryDirectory(prefix="nsxr-workers-", dir=place, ignore_cleanup_errors=True)
    settings = {
        "distributed.scheduler.allowed-failures": _TRIES,
        # By default a worker pauses at 80 % until memory becomes free. Results can be moved to disk, but other memory
        # may never become free.
        "distributed.worker.memory.pause": False,
        # time that a worker tries to fetch results from a dead worker; dask's default of 30 s is for networks
        "distributed.comm.timeouts.connect": "10s",
        # on a busy machine the restart of a worker may take longer than the 15 s after which dask rejects it
        "distributed.deploy.lost-worker-timeout": "10 minutes",
        "distributed.scheduler.no-workers-timeout": _NO_WORKERS,
    }
    with temporary as folder, dask.config.set(settings, temporary_directory=folder):
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # in processes, kernels run at the same time without a common lock
                processes=True,
                memory_limit=limit or MEMORY_LIMIT // workers,
                dashboard_address="127.0.0.1:0",
                preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],  # only nsxr handles Ctrl-C
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{workers} workers could not be started here: {error}") from error
        with cluster:
            yield cluster


@contextmanager
def _report(path: Path) -> Iterator[None]:
    """Write dask's performance report on a ``with`` block, also if the block fails. A failed report gives a warning."""
    from distributed import performance_report

    report = performance_report(filename=str(path))
    report.__enter__()
    try:
        yield
    finally:
        try:
            report.__exit__(None, None, None)
        except Exception as error:
            logger.warning("no performance report in %s: %s", path, error)


def _run(client: "Client", function: Callable[..., object], *words: object, **settings: object) -> Entries:
    """Run a function on all workers, and return the results by the addresses of the workers."""
    try:
        answers: Entries = client.run(function, *words, **settings)
    except OSError as error:  # the connection failed; errors of the function itself are returned
        raise _lost(client, error) from error
    return answers


def _lost(client: "Client", error: BaseException) -> ClusterError:
    return ClusterError(f"the scheduler at {client.scheduler.address} was lost, or its work was cancelled: {error}")


def _require_nsxr(client: "Client") -> None:
    """Raise ClusterError unless there are workers, and all of them have the version of nsxr of this process."""
    here = version("nsxr")
    # a function of the standard library, so that workers without nsxr can run it too
    found = _run(client, version, "nsxr", on_error="return")
    if not found:
        raise ClusterError(f"the scheduler at {client.scheduler.address} has no workers; start some and try again")
    others = {
        worker: "no nsxr" if isinstance(answer, PackageNotFoundError) else answer
        for worker, answer in sorted(found.items())
        if answer != here
    }
    if others:
        listed = ", ".join(f"{worker} has {answer}" for worker, answer in others.items())
        raise ClusterError(f"workers need nsxr {here}, as here, but {listed}; install the same everywhere")


def require_reachable(
    client: "Client", inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] | None = None
) -> None:
    """Raise ClusterError unless every worker sees the same input files and the output directory.

    Parameters
    ----------
    client : Client
        Active client.
    inputs : sequence of path
        Files, or directories of FITS files. URLs are not checked, and neither are paths that do not exist here.
    output : path, optional
        Directory in which workers will write. It is made if it does not exist.

    Raises
    ------
    ClusterError
        If a worker cannot see a path. The message names the worker and the path, and says what to do.
    """
    sizes = _sizes([str(Path(path).absolute()) for path in inputs if not is_remote(str(path))])
    token: Path | None = None
    new: list[Path] = []
    if output is not None and not is_remote(str(output)):
        folder = Path(output).absolute()
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / f".nsxr-{uuid4().hex[:12]}.seen"
        token.touch()
    try:
        problems = _run(client, _unseen, sizes, None if token is None else str(token))
    finally:
        if token is not None:
            token.unlink(missing_ok=True)
    found = [f"{worker} {problem}" for worker, listed in sorted(problems.items()) for problem in listed]
    if found:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise ClusterError(
            f"workers must see files under the same paths as here, but {'; '.join(found[:5])}"
            f"{f'; and {len(found) - 5} more' if len(found) > 5 else ''}: use a file system that all share, or URLs"
        )


def _sizes(paths: Sequence[str]) -> dict[str, int]:
    """Return the sizes of files, and of the FITS files in directories [bytes]."""
    files = [path for path in paths if os.path.isfile(path)]
    for folder in filter(os.path.isdir, paths):
        files += [entry.path for entry in os.scandir(folder) if entry.name.endswith((".fits", ".fits.gz"))]
    return {path: os.path.getsize(path) for path in files}


def _unseen(sizes: dict[str, int], token: str | None) -> list[str]:
    """List the paths that this worker cannot see."""
    problems = []
    for path, size in sizes.items():
        if not os.path.exists(path):
            problems.append(f"has no {path}")
        elif os.path.getsize(path) != size:
            problems.append(f"has another {path}, of {os.path.getsize(path)} bytes instead of {size}")
    if token is not None and not os.path.exists(token):
        problems.append(f"does not see the output directory {os.path.dirname(token)}")
    elif token is not None and not os.access(os.path.dirname(token), os.W_OK):
        problems.append(f"cannot write to {os.path.dirname(token)}")
    return problems


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn errors of dying workers into a clear ClusterError, and wait after any error until no worker writes.

    Put this context manager around code that computes. Without a cluster it does nothing. Without the wait, a worker
    could still write a block after the incomplete output has been removed.

    Raises
    ------
    ClusterError
        If the workers of a task died too often, if all workers died, or if the scheduler was lost.
    """
    client: Client | None = getattr(get_scheduler(), "__self__", None)
    if client is None or not hasattr(client, "scheduler_comm"):
        yield
        return
    connection = client.scheduler_comm
    try:
        yield
        if client.status != "running" or client.scheduler_comm is not connection:
            # when the connection breaks, dask drops the results without an error, even if it connects again
            raise CancelledError("the connection broke")
    except BaseException as error:
        with suppress(Exception):
            _wait_until_idle(client)
        clear = _explained(error, client)
        if clear is None:
            raise
        raise clear from error


def _explained(error: BaseException, client: "Client") -> NsxrError | None:
    """Return a ClusterError for an error that the cluster itself raises, None for other errors."""
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

    if isinstance(error, KilledWorker):
        limit = error.last_worker.memory_limit
        memory = f"the memory limit of {format_bytes(limit)} for each worker" if limit else "the memory of the machine"
        return ClusterError(
            f"{error.allowed_failures + 1} workers died over the same block, the last one at "
            f"{error.last_worker.address}; most likely {memory} is too small: allow each of fewer workers more"
        )
    if isinstance(error, NoValidWorkerError | NoWorkerError):
        return ClusterError(f"the scheduler at {client.scheduler.address} has lost all its workers, and none came back")
    if isinstance(error, CancelledError | CommClosedError):
        return _lost(client, error)
    return None


def _wait_until_idle(client: "Client") -> None:
    """Wait for the running tasks. Tasks that have not started are already cancelled."""
    end = time.monotonic() + _IN_FLIGHT
    while client.status == "running" and time.monotonic() < end and any(client.run(_n_running).values()):
        time.sleep(0.1)


def _n_running(dask_worker: Any) -> int:
    return len(dask_worker.state.executing)


def _kernel(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _by_name(function: CPUDispatcher) -> Any:
    """Pickle a kernel of nsxr by its name.

    By default, numba sends the source, and each worker compiles it again, which takes eight seconds. A worker that
    finds the kernel by name in its own nsxr loads the compiled code from disk.
    """
    module, name = function.py_func.__module__, function.py_func.__qualname__
    if module.startswith("nsxr.") and getattr(sys.modules.get(module), name, None) is function:
        return _kernel, (module, name)
    return function.__reduce__()


copyreg.pickle(CPUDispatcher, _by_name)
