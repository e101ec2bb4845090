"""nsxr calibrates JWST NIRSpec exposures as labelled, lazy arrays.

The functions of the package are listed in ``nsxr/__init__.pyi``. A function is imported when it is first used, with the
libraries that it needs: this keeps the command line fast.
"""

import os as _os
import sys as _sys
import threading as _threading

import lazy_loader as _lazy_loader

_load, _names, __all__ = _lazy_loader.attach_stub(__name__, __file__)
_importing = _threading.RLock()
"""Held while a function is imported: threads that import at once may see half a module."""
_MODULES = ("errors", "simulate", "testing")
__all__ = [name for name in __all__ if name not in _MODULES]


def __dir__() -> list[str]:
    """Return what the package exports, and its modules for users."""
    return [*_names(), "__version__"]


def __getattr__(name: str) -> object:
    """Import what the package exports under a name. Its arguments are checked when it is called."""
    if name == "__version__":
        from nsxr.model.provenance import software

        return software()["nsxr"]
    if name not in _names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing:
        from nsxr.model.arguments import exported

        if name not in globals():  # another thread may have been faster
            _register()
            globals()[name] = exported(_load(name), __name__)
        return globals()[name]


def _register() -> None:
    """Register ``Dataset.nsxr`` and ``DataTree.nsxr``."""
    import nsxr.accessor  # noqa: F401


if _os.path.basename((getattr(_sys, "argv", None) or [""])[0]) not in ("nsxr", "-m"):
    _register()  # takes a third of a second, for xarray; the command line imports what a command needs
