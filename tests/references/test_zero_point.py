"""Tables of the wavelength zero point are read in both formats, with wavelengths in um."""

import numpy as np
import pytest

import nsxr
from nsxr.errors import DegradedResultWarning, ReferenceFileError


def test_the_empirical_table(real_data):
    table = nsxr.open_zero_point(real_data / "flight/campfire/jades_dr4_empirical_wavecorr.asdf")
    offset = table["offset_MOS"]
    assert offset.dims == ("wavelength_MOS", "x_MOS")
    assert np.isfinite(offset).all()
    one = offset.sel(wavelength_MOS=2.21, x_MOS=0.28, method="nearest")
    assert float(one) == pytest.approx(-0.35, abs=0.005)  # as in the file: S[1, 2]


def test_a_table_with_exchanged_axes_is_noticed(real_data):
    path = real_data / "crds_refs/jwst_nirspec_wavecorr_0001.asdf"  # a dummy made before launch, by its PEDIGREE
    with pytest.warns(DegradedResultWarning, match="exchanged"):
        table = nsxr.open_zero_point(path)
    assert {name for name in table if str(name).startswith("offset_")} == {
        f"offset_{name}" for name in ("S1600A1", "S200A1", "S200A2", "S400A1", "S200B1")
    }
    np.testing.assert_allclose(table["wavelength_S200A1"][[0, -1]], [0.6, 5.3])
    np.testing.assert_allclose(table["offset_S200A1"][0, 0], -0.52115458)


def test_other_files_are_refused(real_data):
    with pytest.raises(ReferenceFileError, match="expected apertures"):
        nsxr.open_zero_point(real_data / "crds_refs/jwst_nirspec_fpa_0005.asdf")
