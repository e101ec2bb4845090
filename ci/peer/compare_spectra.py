"""Replace pixels of simulated slits by the step of jwst and by its versions in nsxr, and compare values.

    python ci/peer/compare_spectra.py [--peer FOLDER]

Ends with status 1 if values, variances or flags differ. Other arguments are ignored; ``compare_all.py`` takes them.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import add_peer, make_parser, peer_python
from spectra import IMAGES, replaced_by_peer, without_values

import nsxr
from nsxr.simulate import simulate_trace

TOLERANCES = {"mingrad": 1e-6, "fit_profile": 1e-3}
"""Largest difference, relative to the brightest pixel; jwst finds the scale of a profile to 1e-4."""


def main() -> int:
    """Print the largest differences; return 1 if one is too large."""
    parser = make_parser(__doc__)
    add_peer(parser)
    python = peer_python(parser.parse_known_args()[0].peer)
    kinds = ("isolated", "clusters")
    pairs = [simulate_trace(bad_pixels=kind, signal_to_noise=60, lines=True, seed=5) for kind in kinds]
    by_peer = replaced_by_peer(python, pairs)
    failed = 0
    for algorithm, tolerance in TOLERANCES.items():
        for number, (slit, truth) in enumerate(pairs):
            mine = nsxr.replace_pixels(without_values(slit, truth), algorithm=algorithm)
            theirs = by_peer[algorithm][0][number]
            inside = np.isfinite(slit["wavelength"].values)  # jwst replaces pixels outside the slit, too
            replaced = int(((mine["dq"].values != slit["dq"].values) & inside).sum())
            worst = 0.0
            for name in IMAGES:
                one, other = (dataset[name].values[inside].astype(float) for dataset in (mine, theirs))
                same = np.array_equal(np.isnan(one), np.isnan(other))
                size = 1.0 if name == "dq" else np.nanmax(np.abs(other))
                worst = max(worst, float(np.nanmax(np.abs(one - other))) / size if same else np.inf)
            good = worst <= tolerance
            failed += not good
            print(f"{'ok' if good else 'FAILED':<7} {algorithm}, {kinds[number]}: {replaced} replaced, {worst:.1e}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
