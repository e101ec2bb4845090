"""Execute notebooks in scratch folders; with --write, store the results in place.

Every notebook must run as it is, from the first cell to the last. Cells of the stored notebook are
not compared: pictures differ between versions of the plotting library.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path, write: bool) -> None:
    """Run one notebook from the first cell to the last."""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    if write:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, path)
    print(f"{path}: executed in {time.monotonic() - started:.0f} s")


def main() -> int:
    """Execute the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="store the executed notebooks")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        execute(path, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
