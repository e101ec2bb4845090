"""Time ``nsxr spec2`` and jwst's stage 2: whole commands, in turn; print the table of medians.

    python ci/benchmarks/spec2.py [SCENE...] [-n 3] [-o DIR] [--peer FOLDER]

The scenes are those of ``spec2_scenes.py``. Measurements are made as in ``side_by_side.py``. Long time series run with
nsxr alone.
"""

import json
import os
import platform
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peer"))

from common import NSXR, PEER, add_choices, add_peer, log_command, make_parser, peer_python
from side_by_side import table, time_commands
from spec2_scenes import SCENES, Scene


def time_scene(scene: Scene, folder: Path, python: Path | None, turns: int) -> dict[str, object]:
    """Return the measurements of every turn of both programs on one scene."""
    folder.mkdir(parents=True, exist_ok=True)
    exposure = folder / "exposure" / scene.name
    maker = Path(__file__).with_name("spec2_scenes.py")
    log_command([sys.executable, str(maker), scene.name, str(exposure)], folder / "simulate.log")
    paths = json.loads((exposure / "scene.json").read_text(encoding="utf-8"))
    commands = {}
    if python is not None:
        run = [str(python), str(PEER / "run_spec2.py"), paths["peer_input"]]
        commands["peer"] = [*run, str(folder / "peer"), str(exposure / "scene.json")]
    commands["nsxr"] = [NSXR, "spec2", paths["input"], "--references", paths["folder"], "-o", str(folder / "nsxr")]
    return {"configuration": scene.name, "label": scene.label, **time_commands(commands, folder, turns)}


def main() -> None:
    """Time the scenes of the command line."""
    parser = make_parser(__doc__)
    add_choices(parser, "scenes", list(SCENES))
    parser.add_argument("-n", "--turns", type=int, default=3, help="runs of each program (default 3)")
    parser.add_argument("-o", "--output", type=Path, default=Path(".ci/build/spec2_side_by_side"), metavar="DIR")
    add_peer(parser, is_optional=True)
    arguments = parser.parse_args()
    python = None if arguments.no_peer else peer_python(arguments.peer)
    results = []
    for name in arguments.scenes:
        scene, folder = SCENES[name], (arguments.output / name).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        results.append(time_scene(scene, folder, python if scene.has_peer else None, arguments.turns))
        text = table(results)
        (arguments.output / "spec2.md").write_text(text, encoding="utf-8")
        (arguments.output / "spec2.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        for part in ("exposure", "peer", "nsxr"):
            shutil.rmtree(folder / part, ignore_errors=True)
        sys.stdout.write(text.splitlines()[-1] + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"\n{text}\nMedians of {arguments.turns} runs in turn; {os.cpu_count()} processors, ")
    sys.stdout.write(f"{platform.machine()}, Python {platform.python_version()}.\n")


if __name__ == "__main__":
    main()
