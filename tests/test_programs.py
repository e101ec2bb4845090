"""The programs in ci/ that measure nsxr can be imported: none needs a name that another one no longer has."""

import subprocess
import sys
from pathlib import Path

CI = Path(__file__).parents[1] / "ci"
FOLDERS = (CI, CI / "benchmarks", CI / "peer")
ELSEWHERE = ("jdaviz", "jwst", "stdatamodels", "stpipe")
"""Packages of other environments."""

CODE = """
import importlib, sys
folders, elsewhere = sys.argv[1].split(), sys.argv[2].split()
sys.path[:0] = folders
for name in sys.argv[3:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in elsewhere:
            raise
"""


def test_programs_can_be_imported():
    names = [path.stem for folder in FOLDERS for path in sorted(folder.glob("*.py")) if "__name__" in path.read_text()]
    assert {"spec_scenes", "sky_scenes", "side_by_side", "compare_flux"} <= set(names)
    command = [sys.executable, "-c", CODE, " ".join(map(str, FOLDERS)), " ".join(ELSEWHERE), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
