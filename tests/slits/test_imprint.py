import numpy as np
import pytest

import nsxr
from nsxr.associate.backgrounds import choose_imprint
from nsxr.errors import DegradedResultWarning, ModelError
from nsxr.model.dq import PixelFlag
from nsxr.testing import forbid_computes
from tests.optics.exposures import make_rates


def rates(level, number, **header):
    found = make_rates("IFU", "PRISM", rows=(900, 930), columns=(0, 200), EXPOSURE=number, **header)
    one = np.float32(1)
    return found.assign(
        {name: found[name] * 0 + one * value for name, value in (("sci", level), ("var_poisson", 2), ("var_rnoise", 3))}
    ).map(lambda array: array.assign_attrs(found[array.name].attrs))


def test_the_imprint_and_its_variance(monkeypatch):
    science, imprint = rates(5.0, 1), rates(2.0, 2)
    imprint["sci"][3, 4] = np.nan
    before = science.copy(deep=True)
    found = nsxr.subtract_imprint(science, imprints=[imprint])
    good = np.ones(science["sci"].shape, bool)
    good[3, 4] = False
    np.testing.assert_array_equal(found["sci"], np.where(good, 3.0, np.nan))
    np.testing.assert_array_equal(found["var_poisson"].to_numpy()[good], 4.0)
    np.testing.assert_array_equal(found["var_rnoise"].to_numpy()[good], 6.0)
    np.testing.assert_array_equal((found["dq"].to_numpy() & PixelFlag.DO_NOT_USE) > 0, ~good)
    assert science.identical(before)
    with forbid_computes():
        lazy = nsxr.subtract_imprint(science.chunk(row=7), imprints=[imprint.chunk(column=50)])
    assert lazy["sci"].chunks is not None
    np.testing.assert_array_equal(lazy["sci"], found["sci"])


def test_the_imprint_of_the_same_target_observation_and_dither():
    own = {"BKGDTARG": False, "OBSERVTN": "003", "PATT_NUM": 2}
    assert choose_imprint(own, [{}]) == 0
    imprints = [own | {"BKGDTARG": True}, own | {"PATT_NUM": 1}, own, own | {"OBSERVTN": "004"}]
    assert choose_imprint(own, imprints) == 2
    assert choose_imprint(own | {"BKGDTARG": True}, imprints) == 0
    assert choose_imprint(own | {"PATT_NUM": 5}, imprints) is None
    assert choose_imprint(own, []) is None


def test_imprints_that_do_not_fit():
    science = rates(5.0, 1, PATT_NUM=3)
    several = [rates(1.0, 2, PATT_NUM=1), rates(1.0, 3, PATT_NUM=2)]
    with pytest.warns(DegradedResultWarning, match="no imprint was subtracted: none of 2 imprints"):
        found = nsxr.subtract_imprint(science, imprints=several)
    np.testing.assert_array_equal(found["sci"], science["sci"])
    with pytest.raises(ModelError, match="has GRATING 'G395H', the science 'PRISM'"):
        nsxr.subtract_imprint(science, imprints=[rates(1.0, 2, GRATING="G395H")])
