"""Simulate, calibrate with jwst and with nsxr, and compare, for every configuration.

    python ci/peer/compare_all.py [--short] [CONFIGURATION...] [-o DIR] [--peer FOLDER]

Without names the long list is run (``configurations.py``), with ``--short`` the quick list of CI. jwst runs in the
environment of ``environment.sh``, which is made if it is missing. Both programs run twice for each configuration. The
first run is as a user would run them, for time, peak memory and the agreement with jwst as it is. The second run saves
every step, and nudges IRS2 samples in jwst (see ``repairs.py``), for the agreement step by step and outside the
documented repairs. The quick list has no IRS2 samples: there, the second run is the only one, and times include the
saving of all steps. Results go to ``DIR/comparison.md`` and ``DIR/comparison.json``. Exposures and products are removed
as soon as they are compared, unless ``--keep`` is given. Times are of one run each; ``ci/benchmarks/side_by_side.py``
measures medians.

Ends with status 1 if slopes outside the documented repairs disagree in any configuration, if a
command fails, or if a product does not open strictly in jwst's data models.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import (
    PEER,
    add_choices,
    add_peer,
    log_command,
    make_parser,
    measure_command,
    peer_python,
    table_head,
    table_row,
)
from compare import compare, is_in_agreement, summary
from configurations import (
    CONFIGURATIONS,
    LONG,
    SHORT,
    Configuration,
    Paths,
    nsxr_command,
    peer_command,
    simulate_command,
)
from products import STEPS


def peer_seconds(log: Path) -> dict[str, float]:
    """Return the seconds of each step that jwst reports: the last JSON line in a log."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"uncal"')]
    return dict(json.loads(lines[-1])["steps"]) if lines else {}


def run_configuration(
    configuration: Configuration, folder: Path, python: Path, once: bool = False
) -> dict[str, object]:
    """Simulate, calibrate and compare one configuration, in a folder of its own; return the results.

    With ``once``, the run that saves all steps is the only one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log_command(simulate_command(configuration, folder / "exposure"), folder / "simulate.log")
    paths = Paths.find(folder / "exposure")
    peer, ours = folder / "peer", folder / "nsxr"
    result: dict[str, object] = {"configuration": configuration.name, "label": configuration.label}
    theirs, own = folder / "peer.log", folder / "nsxr.log"
    if not once:
        result["peer"] = measure_command(peer_command(configuration, paths, peer, python), theirs)
        result["peer"]["steps"] = peer_seconds(theirs)
        result["nsxr"] = measure_command(nsxr_command(configuration, paths, ours, like_peer=True), own)
        as_is = compare(peer, ours, paths.root, paths.truth)
        for whose in (peer, ours):
            shutil.rmtree(whose)
        theirs, own = folder / "peer-steps.log", folder / "nsxr-steps.log"
    of_peer = measure_command(peer_command(configuration, paths, peer, python, save_steps=True), theirs)
    of_nsxr = measure_command(nsxr_command(configuration, paths, ours, save=STEPS, like_peer=True), own)
    products = [str(ours / f"{paths.root}_{kind}.fits") for kind in ("rate", "rateints")]
    try:
        log_command([str(python), str(PEER / "validate_product.py"), *products], folder / "validate.log")
        result["validation"] = "passed"
    except RuntimeError as error:
        result["validation"] = str(error)
    found = compare(peer, ours, paths.root, paths.truth if once else None)
    if once:
        result |= {"peer": of_peer | {"steps": peer_seconds(theirs)}, "nsxr": of_nsxr}
        as_is = found
    result |= found
    result["pulls"] = as_is["pulls"]
    result["as_is"] = {kind: product["slopes"] for kind, product in as_is["products"].items()}
    result["agrees"] = is_in_agreement(result)
    return result


def _worst(result: dict[str, object], key: str, sign: int) -> float:
    """Return the largest (or, for a negative sign, smallest) value of a statistic of the slopes outside repairs."""
    slopes = [product["slopes_outside_repairs"] for product in result["products"].values()]
    return sign * max(sign * entry.get(key, float("nan")) for entry in slopes)


def _farthest(result: dict[str, object], whose: str) -> str:
    """Return the standard deviation of pulls that is farthest from 1 among the flux bins of the rate."""
    deviations = [entry["robust_deviation"] for entry in result["pulls"].get("rate", {}).get(whose, [])]
    return f"{max(deviations, key=lambda value: abs(value - 1)):.3f}" if deviations else "-"


def overview(results: Sequence[dict[str, object]]) -> str:
    """Return one Markdown table over all configurations."""
    header = [
        *("configuration (integrations x groups)", "jwst [s]", "nsxr [s]", "ratio", "jwst [GB]", "nsxr [GB]", "ratio"),
        *("within 0.02 sigma, as is", "outside repairs", "99.9 % below [sigma]", "median", "changed by repairs"),
        *("worst pull, jwst", "worst pull, nsxr", "agrees"),
    ]
    lines = [table_head(header)]
    for result in results:
        if "error" in result:
            failure = f"failed: {result['error'].splitlines()[0]}"
            lines.append(table_row([result["label"], failure, *[""] * (len(header) - 2)]))
            continue
        seconds = [float(result[who]["seconds"]) for who in ("peer", "nsxr")]
        memory = [float(result[who]["peak_bytes"]) / 1e9 for who in ("peer", "nsxr")]
        touched = sum(sum(product["repairs"].values()) for product in result["products"].values())
        cells = [
            str(result["label"]),
            *(f"{value:.1f}" for value in seconds),
            f"{seconds[0] / seconds[1]:.1f}",
            *(f"{value:.2f}" for value in memory),
            f"{memory[1] / memory[0]:.2f}",
            f"{100 * min(slopes['within_tolerance'] for slopes in result['as_is'].values()):.3f} %",
            f"{100 * _worst(result, 'within_tolerance', -1):.3f} %",
            f"{_worst(result, 'percentile_99.9', 1):.1e}",
            f"{max((slopes['median'] for slopes in result['as_is'].values()), key=abs):.0e}",
            str(touched),
            _farthest(result, "peer"),
            _farthest(result, "nsxr"),
            "yes" if result["agrees"] and result["validation"] == "passed" else "no",
        ]
        lines.append(table_row(cells))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the configurations of the command line."""
    parser = make_parser(__doc__)
    add_choices(parser, "configurations", list(CONFIGURATIONS), default=[])
    parser.add_argument("--short", action="store_true", help="the quick subset instead of the long list")
    parser.add_argument("-o", "--output", type=Path, default=Path(".ci/build/comparison"), metavar="DIR")
    add_peer(parser)
    parser.add_argument("--keep", action="store_true", help="keep exposures and products")
    arguments = parser.parse_args()
    chosen = [CONFIGURATIONS[name] for name in arguments.configurations] or list(SHORT if arguments.short else LONG)
    os.environ.setdefault("MPLBACKEND", "agg")
    python = peer_python(arguments.peer)
    arguments.output.mkdir(parents=True, exist_ok=True)

    results: list[dict[str, object]] = []
    details = []
    for configuration in chosen:
        folder = arguments.output / configuration.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            result = run_configuration(configuration, folder, python, once=configuration in SHORT)
            details.append(f"## {configuration.label}\n\n{summary(result)}")
        except Exception as error:  # go on with the other configurations
            traceback.print_exc()
            result = {"configuration": configuration.name, "label": configuration.label, "error": str(error)}
            details.append(f"## {configuration.label}\n\nfailed\n\n```\n{error}\n```\n")
        results.append(result)
        report = f"# nsxr beside jwst\n\n{overview(results)}\n" + "\n".join(details)
        (arguments.output / "comparison.md").write_text(report, encoding="utf-8")
        (arguments.output / "comparison.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        if not arguments.keep and "error" not in result:
            for part in ("exposure", "peer", "nsxr"):
                shutil.rmtree(folder / part, ignore_errors=True)
    sys.stdout.write(report)
    sys.exit(int(not all(result.get("agrees") and result.get("validation") == "passed" for result in results)))


if __name__ == "__main__":
    main()
