"""Compare the products of jwst and of nsxr for one exposure, and both with the truth.

    python ci/peer/compare.py PEER_DIR NSXR_DIR [--root ROOT] [--truth FILE] [--json FILE]

Both folders hold ``<root>_rate.fits`` and ``<root>_rateints.fits`` and may hold the saved steps.
Prints a table; ``--json`` stores all numbers. Ends with status 1 if the slopes outside the documented repairs disagree:
if their median is not 0, or if fewer than 99.9 % are within 0.02 of their uncertainty.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agreement import TOLERANCE, compare_products, compare_steps, good_pixels
from common import make_parser, table_head, table_row
from products import Pair, read_product
from truth import pulls, read_truth

__all__ = ["compare", "is_in_agreement", "summary"]

WITHIN = 0.999
MEDIAN = 1e-3  # a smaller median counts as 0, because of the precision of float32


def compare(peer: Path, ours: Path, root: str, truth: Path | None = None) -> dict[str, object]:
    """Return all comparisons of one exposure as a JSON-compatible dict."""
    result: dict[str, object] = {"root": root, "products": {}, "steps": compare_steps(root, peer, ours), "pulls": {}}
    for kind in ("rate", "rateints"):
        name = f"{root}_{kind}.fits"
        pair = Pair(read_product(peer / name), read_product(ours / name), root, peer, ours)
        result["products"][kind] = compare_products(pair)
        if truth is not None:
            good, _ = good_pixels(pair)
            known = read_truth(truth, kind)
            result["pulls"][kind] = {"peer": pulls(pair.peer, known, good), "nsxr": pulls(pair.ours, known, good)}
    return result


def is_in_agreement(result: dict[str, object]) -> bool:
    """Return whether slopes outside the documented repairs agree, in both products."""
    for product in result["products"].values():
        slopes = product["slopes_outside_repairs"]
        if not slopes["pixels"] or abs(slopes["median"]) > MEDIAN or slopes["within_tolerance"] < WITHIN:
            return False
    return True


def _table(header: list[str], rows: list[list[object]]) -> list[str]:
    return [table_head(header), *map(table_row, rows), ""]


def _flag_text(flags: dict[str, dict[str, int]]) -> str:
    parts = [
        f"{name} +{counts['nsxr_only']} -{counts['peer_only']} of {counts['both'] + counts['peer_only']}"
        for name, counts in flags.items()
        if counts["nsxr_only"] or counts["peer_only"]
    ]
    return ", ".join(parts) or "none"


def summary(result: dict[str, object]) -> str:
    """Return the comparison of one exposure as Markdown tables."""
    lines: list[str] = []
    rows: list[list[object]] = []
    for kind, product in result["products"].items():
        for name in ("slopes", "slopes_outside_repairs"):
            slopes = product[name]
            if slopes["pixels"]:
                rows.append(
                    [
                        kind,
                        "all good" if name == "slopes" else "outside repairs",
                        slopes["pixels"],
                        f"{slopes['median']:.2e}",
                        f"{100 * slopes['within_tolerance']:.4f} %",
                        f"{slopes['percentile_99.9']:.2e}",
                        f"{slopes['largest']:.2e}",
                    ]
                )
    header = ["product", "pixels", "number", "median", f"within {TOLERANCE} sigma", "99.9 % below", "largest"]
    lines += _table(header, rows)
    for kind, product in result["products"].items():
        lines.append(f"{kind}: excluded {product['excluded'] or 'none'}; changed by repairs {product['repairs']}")
        for name, ratios in product["variances"].items():
            if ratios:
                low, middle, high = (ratios[key] for key in ("percentile_0.1", "median", "percentile_99.9"))
                lines.append(f"{kind}: {name} nsxr / jwst {low:.5f} {middle:.5f} {high:.5f} (0.1, 50, 99.9 %)")
        lines.append(f"{kind}: flags that differ (+ nsxr only, - jwst only): {_flag_text(product['flags'])}")
        lines.append("")
    if result["steps"]:
        rows = [
            [
                step,
                entry["values"],
                entry["differing"],
                f"{entry['percentile_99.9']:.2e}",
                f"{entry['largest']:.2e}",
                _flag_text(entry["group_flags"]),
                _flag_text(entry["pixel_flags"]),
            ]
            for step, entry in result["steps"].items()
        ]
        header = ["step", "values", "differing", "99.9 % below [DN]", "largest [DN]", "group flags", "pixel flags"]
        lines += _table(header, rows)
    for kind, both in result["pulls"].items():
        rows = [
            [kind, f"{a['low']}-{a['high']}", a["pixels"]]
            + [f"{x[key]:.4f}" for key in ("median", "robust_deviation") for x in (a, b)]
            for a, b in zip(both["peer"], both["nsxr"], strict=True)
        ]
        header = ["product", "electron/s", "pixels", "median jwst", "median nsxr", "deviation jwst", "deviation nsxr"]
        lines += _table(header, rows)
    return "\n".join(lines)


def main() -> None:
    """Compare the two folders of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("peer", type=Path, metavar="PEER_DIR")
    parser.add_argument("ours", type=Path, metavar="NSXR_DIR")
    parser.add_argument("--root", help="file name before _rate.fits; needed if there are several")
    parser.add_argument("--truth", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    root = arguments.root
    if root is None:
        roots = [path.name.removesuffix("_rate.fits") for path in sorted(arguments.ours.glob("*_rate.fits"))]
        if len(roots) != 1:
            parser.error(f"{arguments.ours} holds {len(roots)} files *_rate.fits; choose one with --root")
        root = roots[0]
    result = compare(arguments.peer, arguments.ours, root, arguments.truth)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    sys.stdout.write(summary(result) + "\n")
    sys.exit(0 if is_in_agreement(result) else 1)


if __name__ == "__main__":
    main()
