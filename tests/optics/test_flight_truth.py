"""Flight optics against tables of the observatory's aperture file (pysiaf): shutters in the MSA, and on the sky."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from nsxr.references.optics import open_optics
from tests.optics.exposures import make_rates
from tests.optics.flight_references import write_flight_references


@pytest.mark.parametrize("quadrant", [1, 2, 3, 4])
def test_shutters_of_a_quadrant(real_data, tmp_path, quadrant):
    files = write_flight_references(real_data, tmp_path, grating="PRISM", filter_name="CLEAR", ifu=False)
    optics = open_optics(files, make_rates("MSASPEC", "PRISM"))
    folder = real_data / "flight" / "pysiaf_nirspec_delivery"
    with gzip.open(folder / f"apertures_testData__sky_fpa_projectionMSA_Q{quadrant}.fits.gz") as file:
        table = fits.getdata(file)
    table = table[np.random.default_rng(quadrant).choice(len(table), 3000, replace=False)]
    place = optics.quadrant(quadrant)
    number = table["I"].astype(int) - 1 + 365 * (table["J"].astype(int) - 1)
    x, y = place.affine[:, :2] @ [place.x[number], place.y[number]] + place.affine[:, 2:]
    assert np.hypot(x - table["XPOSMSA"], y - table["YPOSMSA"]).max() < 0.11e-6  # m; two versions of the metrology
    v2, v3 = optics.msa_to_v2v3(table["XPOSMSA"], table["YPOSMSA"], 2.0)
    distance = np.hypot(v2 / 3600 - table["XPOSSKY"], v3 / 3600 - table["YPOSSKY"]) * 3600
    assert distance.max() < 5e-5  # arcsec
