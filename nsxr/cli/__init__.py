"""Run the command line. Only the command that runs is imported, so that ``nsxr --help`` is fast."""

import ctypes
import gc
import importlib
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

__all__ = ["main", "run"]

_MALLOC = {-8: 1, -3: 8 * 2**20, -1: 256 * 2**20}
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h.

By default, each thread of dask keeps its freed memory in an arena of its own. Freed blocks of pixels leave holes in the
arena that new blocks do not fit into. With these values, large blocks return to the system at once. Smaller blocks are
kept, because requesting them again and again takes too much time."""


_COMMANDS = {
    "archive": ("archives", "Keep many exposures in one Zarr archive."),
    "check": ("check", "Read all of FITS or Zarr products, or archives, and print a line for each problem."),
    "demo": (
        "simulation",
        "Simulate a full-frame exposure, calibrate it up to spectra, and compare them with the truth.",
    ),
    "detector1": ("calibration", "Calibrate raw exposures to count rates."),
    "extract": (
        "extraction",
        "Extract spectra from slits: cal, calints, s2d, cut-outs, or count rates of a time series.",
    ),
    "info": ("description", "Show the type of a file, its readout, and the steps that were applied."),
    "parameters": ("parameters", "List the parameters of the steps, or of one STEP, with types, units and defaults."),
    "simulate": ("simulation", "Simulate a raw exposure with its references and its true count rates."),
    "slits": ("slits", "List the slits of an exposure, and draw where their light falls."),
    "spec2": ("spec2", "Calibrate count rates to slits or slices in units of flux, and extract spectra."),
    "steps": ("parameters", "List the steps in their order, with keywords and references."),
}
"""Module below :mod:`nsxr.cli` of each command, and the first sentence of its help."""


class _Commands(click.Group):
    """A group of commands that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"nsxr.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nsxr")
@click.option("-v", "--verbose", count=True, help="Log each action with its time. Give it twice for more detail.")
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
    """Remove secrets of URLs from log messages and tracebacks: users, passwords, signatures."""

    def format(self, record: logging.LogRecord) -> str:
        from nsxr.storage.urls import without_secrets  # imported late: it takes a third of a second

        return without_secrets(super().format(record))


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """End on SIGTERM or when the terminal closes as on Ctrl-C: stop workers and remove half-written files."""
    ending = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup, continue when the terminal closes
        ending.append(signal.SIGHUP)

    def end(number: int, frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not interrupt the cleaning up
        with suppress(OSError):  # the terminal may be closed
            click.echo("Terminated!", err=True)
        raise SystemExit(128 + number)

    try:
        before = {each: signal.signal(each, end) for each in ending}
    except ValueError:  # only the main thread can set handlers
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def run() -> None:
    """Run the command line in its own process: set up memory allocation and garbage collection, then call ``main``."""
    for word in sys.argv[1:]:
        if word in _COMMANDS:
            importlib.import_module(f"nsxr.cli.{_COMMANDS[word][0]}")
            break
    gc.freeze()  # imported modules stay until the end; searching them for garbage took 0.3 s
    gc.set_threshold(50_000, 20, 20)  # graphs are not garbage; searching those of 81 slits took 1.4 s
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # a C library without mallopt
            library = ctypes.CDLL(None)
            for option, value in _MALLOC.items():
                library.mallopt(option, value)
    main()
