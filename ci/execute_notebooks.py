"""Execute notebooks in scratch folders, from the first cell to the last; an error in a cell stops the program.

``--output FOLDER`` stores the executed notebooks there. ``--write`` stores them in place, and stores the pictures of
cells with the metadata ``"figure": NAME`` as ``docs/images/NAME.png``, for the pages of the documentation. The
outputs that a notebook had before are not compared with the new ones, because pictures differ between versions of the
plotting library.
"""

import base64
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from common import make_parser
from nbclient import NotebookClient

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def execute(path: Path, output: Path | None) -> None:
    """Run one notebook from the first cell to the last, and store the executed one as ``output``."""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    if output is not None:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, output)
    if output == path:
        store_figures(notebook)
    print(f"{path}: executed in {time.monotonic() - started:.0f} s")


def store_figures(notebook: nbformat.NotebookNode) -> None:
    """Store the pictures of cells that name a figure."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []) if "figure" in cell.metadata else []:
            if "image/png" in output.get("data", {}):
                picture = base64.b64decode(output["data"]["image/png"])
                (IMAGES / f"{cell.metadata['figure']}.png").write_bytes(picture)


def main() -> int:
    """Execute the notebooks named on the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", action="store_true", help="store the executed notebooks in place")
    where.add_argument("--output", type=Path, metavar="FOLDER", help="store the executed notebooks in this folder")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        execute(path, path if arguments.write else arguments.output and arguments.output / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
