"""Measure how right the optics are: against ESA's flight model, and from detector to slit and back.

    python ci/optics.py

Needs NSXR_REAL_DATA. The rows of the table:

- all 249 660 shutters with the mirror: place in the MSA, on the sky, and on both detectors, against the tables that the
  observatory's aperture file is tested with;
- 1326 rays of target acquisition a detector, with and without a tilt of the wheel, against tables of the same origin;
- 20 000 random points of a slit, those of them that the detector sees: slit to detector to slit, with and without the
  Newton step.

ESA's ray tables plane by plane, ESA's traces, and products with an embedded gwcs are in ``tests/optics``. The
comparison with jwst is ``ci/peer/compare_optics.py``. Ends with status 1 if a difference is larger than its limit.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from common import make_parser, table_head, table_row

from nsxr.references.optics import open_optics
from tests.optics.exposures import make_rates
from tests.optics.flight_references import write_flight_references
from tests.optics.flight_tables import open_mirror, rays_of_acquisition, shutters_of_quadrant, table_of, write_mirror

Row = tuple[str, int, float, str, float]
"""What, number of points, largest difference, its unit, limit."""

UNITS = {"msa": ("m", 0.11e-6), "sky": ("arcsec", 5e-5), "NRS1": ("pixel", 2e-4), "NRS2": ("pixel", 2e-4)}
RAYS = {"wheel out": ("tan", 4e-8), "wheel in": ("tan", 4e-8), "sky": ("arcsec", 5e-4)}
LOOPS = (
    ("FIXEDSLIT", "PRISM", "CLEAR", "NRS1", "S200A1"),
    ("FIXEDSLIT", "G395H", "F290LP", "NRS2", "S400A1"),
    ("FIXEDSLIT", "G140M", "F100LP", "NRS1", "S1600A1"),
    ("IFU", "PRISM", "CLEAR", "NRS1", "7"),
    ("IFU", "G395H", "F290LP", "NRS1", "22"),
)


def shutters(real_data: Path, folder: Path) -> Iterator[Row]:
    """Compare all shutters."""
    files = write_mirror(real_data, folder)
    optics = {detector: open_mirror(real_data, files, detector) for detector in ("NRS1", "NRS2")}
    largest, number = dict.fromkeys(UNITS, 0.0), 0
    for quadrant in (1, 2, 3, 4):
        table, _ = table_of(real_data, f"apertures_testData__sky_fpa_projectionMSA_Q{quadrant}")
        number += table["I"].size
        for name, values in shutters_of_quadrant(optics, table, quadrant).items():
            largest[name] = max(largest[name], float(values.max()))
    for name, (unit, limit) in UNITS.items():
        yield f"shutters, {name}", number, largest[name], unit, limit
    for tilt in ("NoTilt", "WithGWATilt"):
        for detector, sca in (("NRS1", 491), ("NRS2", 492)):
            table, header = table_of(real_data, f"TA_testData{tilt}__testDataTA_SCA{sca}CLEAR")
            mirror = open_mirror(real_data, files, detector, float(header["GWA_XTIL"]), float(header["GWA_YTIL"]))
            for name, values in rays_of_acquisition(mirror, table).items():
                yield f"{tilt} {detector}, {name}", values.size, float(values.max()), *RAYS[name]


def loops(real_data: Path, folder: Path) -> Iterator[Row]:
    """Go from a slit to the detector and back, without and with the Newton step; differences in pixels."""
    rng = np.random.default_rng(0)
    for mode, grating, filter_name, detector, name in LOOPS:
        files = write_flight_references(real_data, folder, grating=grating, filter_name=filter_name)
        optics = open_optics(files, make_rates(mode, grating, detector, rows=(0, 2), columns=(0, 2)))
        slit = optics.slits[name]
        low, high = slit.slit_y_low, slit.slit_y_high
        place = rng.uniform(low + 0.05 * (high - low), high - 0.05 * (high - low), 20_000)
        wavelength = rng.uniform(*optics.wavelength_range, place.size)
        column, row = optics.inverse(place, wavelength, name, newton=True)
        on_detector = (column > 0) & (column < 2047) & (row > 0) & (row < 2047)
        place, wavelength = place[on_detector], wavelength[on_detector]
        for newton, limit in ((False, 0.03), (True, 1e-6)):
            column, row = optics.inverse(place, wavelength, name, newton=newton)
            seen = optics.forward(column, row, name, sky=False)
            again = optics.inverse(seen.slit_y, seen.wavelength, name, newton=newton)
            worst = np.nanmax(np.hypot(again[0] - column, again[1] - row))
            text = "with" if newton else "without"
            yield f"{mode} {grating} {detector} {name}, loop {text} Newton", place.size, float(worst), "pixel", limit


def main() -> int:
    """Print the table."""
    make_parser(__doc__).parse_args()
    if "NSXR_REAL_DATA" not in os.environ:
        print("NSXR_REAL_DATA is not set: there is no flight model to compare with")
        return 0
    real_data, bad = Path(os.environ["NSXR_REAL_DATA"]), 0
    print(table_head(("compared", "points", "largest difference", "unit", "limit")))
    with TemporaryDirectory(prefix="nsxr-optics-") as folder:
        for part in (shutters, loops):
            for what, points, worst, unit, limit in part(real_data, Path(folder)):
                bad += not worst <= limit
                print(table_row((what, points, f"{worst:.1e}", unit, f"{limit:.0e}")), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
