"""Write the commit into what is built, so that products made by an installed nsxr can name it."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_ROOT = Path(__file__).resolve().parent
_COMMIT = runpy.run_path(str(_ROOT / "nsxr" / "model" / "commit.py"))


def _write(package: Path) -> None:
    """Write the commit into a package that is built; outside a clone nothing, or what a source distribution brought."""
    commit = _COMMIT["checked_out"](_ROOT)
    if commit is not None:
        (package / _COMMIT["BUILT"]).write_text(f"{commit}\n", "ascii")


class _BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable installation runs from the clone, and looks there
            _write(Path(self.build_lib) / "nsxr")


class _Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        _write(Path(base_dir) / "nsxr")


setup(cmdclass={"build_py": _BuildPy, "sdist": _Sdist})
