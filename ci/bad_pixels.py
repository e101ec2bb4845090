"""Search bad pixels in simulated exposures of the IFU with known ones; print one table.

    python ci/bad_pixels.py [--seed 7]

Count rates have noise, zodiacal light, 400 pixels that are too bright or too faint by 3 to 100 sigma in all exposures,
and a hit in 0.1 % of the pixels of each exposure. *found* is the share of the injected pixels that are flagged, by how
far they stand out [sigma of one exposure]. *wrong* is the number of other pixels that are flagged: hits, lines, noise,
and pixels that the simulated detector responds badly with.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from common import make_parser, write_head, write_row
from spec_skies import Scene, look

import nsxr

SCENES = {
    "a star": Scene("star", "IFU", "PRISM", dithers=2, has_sky=True),
    "fills the field, with lines": Scene("lines", "IFU", "PRISM", kinds=("extended",), dithers=2, has_sky=True),
    "fills the field, bright": Scene("bright", "IFU", "G395H", kinds=("extended",), dithers=4, has_sky=True),
}
RANGES = ((3, 5), (5, 10), (10, 30), (30, 100))


def injected(rates: Sequence[xr.Dataset], seed: int) -> tuple[list[xr.Dataset], np.ndarray, np.ndarray]:
    """Return the exposures with bad pixels and hits, the places of the bad pixels, and how far they stand out."""
    random = np.random.default_rng(seed)
    good = np.flatnonzero(np.isfinite(rates[0]["sci"].values))
    places = random.choice(good, 400, replace=False)
    amounts = 10 ** random.uniform(0.5, 2, places.size) * np.where(random.random(places.size) < 0.75, 1, -1)
    made = []
    for number, rate in enumerate(rates):
        sigma = np.sqrt((rate["var_poisson"] + rate["var_rnoise"]).values)
        sci = rate["sci"].values + 0
        sci.ravel()[places] += amounts * sigma.ravel()[places]
        own = np.random.default_rng([seed, number])
        hit = own.random(sci.shape) < 1e-3
        sci[hit] += 10 ** own.uniform(0.7, 2, hit.sum()) * sigma[hit]
        made.append(rate.assign(sci=(rate["sci"].dims, sci, rate["sci"].attrs)))
    return made, places, np.abs(amounts)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=7)
    seed = parser.parse_args().seed
    write_head("scene", "exposures", "method", *(f"found {low} to {high}" for low, high in RANGES), "wrong")
    for name, scene in SCENES.items():
        with TemporaryDirectory(prefix="bad-pixels-") as folder:
            rates, places, amounts = injected(look(scene, Path(folder)).rates(1.0, seed), seed)
        for method in ("significance", "jwst"):
            bad = nsxr.find_bad_pixels(rates, method=method).values.ravel() > 0
            shares = [bad[places][(amounts >= low) & (amounts < high)].mean() for low, high in RANGES]
            bad[places] = False
            found = [f"{share:.2f}" for share in shares]
            write_row(f"{scene.grating}, {name}", len(rates), f"`{method}`", *found, bad.sum())


if __name__ == "__main__":
    main()
