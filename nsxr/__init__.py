"""nsxr calibrates JWST NIRSpec exposures as labelled, lazy arrays.

The functions of the package are listed in ``nsxr/__init__.pyi``. A function is imported when it is first used, with the
libraries that it needs: this keeps the command line fast.
"""

import ast as _ast
import importlib as _importlib
import os as _os
import sys as _sys
import threading as _threading
from pathlib import Path as _Path

# lazy_loader stores functions here before their arguments are checked, and other threads find them
_HOMES = {
    one.name: f"{__name__}.{line.module or one.name}"
    for line in _ast.parse(_Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(line, _ast.ImportFrom)
    for one in line.names
}
"""The module of each name."""
_importing = _threading.RLock()
"""Held while a function is imported: threads that import at once may see half a module."""
__all__ = [name for name, home in _HOMES.items() if home != f"{__name__}.{name}"]


def __dir__() -> list[str]:
    """Return what the package exports, and its modules for users."""
    return [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import what the package exports under a name. Its arguments are checked when it is called."""
    if name == "__version__":
        from nsxr.model.provenance import software

        return software()["nsxr"]
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing:
        from nsxr.model.arguments import exported

        if name not in globals():  # another thread may have been faster
            _register()
            home = _importlib.import_module(_HOMES[name])
            globals()[name] = exported(getattr(home, name), __name__) if name in __all__ else home
        return globals()[name]


def _register() -> None:
    """Register ``Dataset.nsxr`` and ``DataTree.nsxr``."""
    import nsxr.accessor  # noqa: F401


if _os.path.basename((getattr(_sys, "argv", None) or [""])[0]) not in ("nsxr", "-m"):
    _register()  # takes a third of a second, for xarray; the command line imports what a command needs
