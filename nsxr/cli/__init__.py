"""The command line: detector1, extract, archive, simulate, info, check, parameters, demo."""

import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from nsxr.cli.archives import archive
from nsxr.cli.calibration import detector1
from nsxr.cli.check import check
from nsxr.cli.description import info
from nsxr.cli.extraction import extract
from nsxr.cli.parameters import parameters
from nsxr.cli.simulation import demo, simulate
from nsxr.storage.stores import without_secrets

__all__ = ["main", "run"]

_MALLOC = {-8: 1, -3: 8 * 2**20, -1: 256 * 2**20}
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h. Threads of dask would each keep an arena of what they
freed, and blocks of pixels leave holes in it that the next ones do not fit: these go back to the system at once. To
ask for smaller ones again and again takes more time than it is worth."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsxr")
@click.option("-v", "--verbose", count=True, help="Say what is done, with times; twice for everything.")
def main(verbose: int) -> None:
    """Calibrate JWST NIRSpec exposures as labelled, lazy arrays."""
    click.get_current_context().with_resource(_ends_in_order())
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    form = "%(asctime)s %(name)s: %(message)s" if verbose > 1 else "%(asctime)s %(message)s"
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Discreet(form, datefmt="%H:%M:%S"))
    logging.getLogger("nsxr").setLevel(level)


class _Discreet(logging.Formatter):
    """Log without what URLs may tell: users, passwords, signatures; tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """End on SIGTERM, and when the terminal closes, as on Ctrl-C: workers are stopped, half-written files removed."""
    ending = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants to go on
        ending.append(signal.SIGHUP)

    def end(number: int, frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)  # a second one must not disturb the tidying
        with suppress(OSError):  # there may be no terminal any more
            click.echo("Terminated!", err=True)
        raise SystemExit(128 + number)

    try:
        before = {each: signal.signal(each, end) for each in ending}
    except ValueError:  # only main threads have handlers
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


for _command in (detector1, extract, archive, simulate, info, check, parameters, demo):
    main.add_command(_command)


def run() -> None:
    """Run the command line in a process of its own, which may be set up for that."""
    gc.freeze()  # what has been imported stays until the end; looking through it for garbage took 0.3 s
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            library = ctypes.CDLL(None)
            for option, value in _MALLOC.items():
                library.mallopt(option, value)
    main()
