import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import nsxr
from nsxr.errors import DegradedResultWarning, InputFileError, ParameterError
from nsxr.simulate import simulate_exposure
from nsxr.testing import forbid_computes


def fails(paths, *words):
    with pytest.raises(InputFileError) as error:
        nsxr.open_exposure(paths)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_segments_make_the_exposure_in_any_order(sub32, segments, order):
    whole = nsxr.open_exposure(sub32)
    with forbid_computes():
        joined = nsxr.open_exposure([segments[i] for i in order])
    np.testing.assert_array_equal(joined["sci"].values, whole["sci"].values)
    assert joined["sci"].dims == whole["sci"].dims
    assert joined["sci"].attrs.keys() == whole["sci"].attrs.keys()
    for name, coordinate in whole.coords.items():
        xr.testing.assert_equal(joined[name].reset_coords(drop=True), coordinate.reset_coords(drop=True))
        assert joined[name].dtype == coordinate.dtype
    keys = ("NINTS", "INTSTART", "INTEND", "EXSEGNUM", "EXSEGTOT")
    assert [joined.attrs[key] for key in keys] == [whole.attrs[key] for key in keys] == [5, 1, 5, 1, 1]


def test_one_segment_is_opened_as_it_is(segments):
    one = nsxr.open_exposure([segments[2]])
    assert one["integration"].values.tolist() == [5]
    assert one.attrs["EXSEGNUM"] == 3


def test_missing_ends_are_told(segments):
    with pytest.warns(DegradedResultWarning, match="integrations 1 to 4 of 5"):
        joined = nsxr.open_exposure(segments[:2])
    assert joined["integration"].values.tolist() == [1, 2, 3, 4]
    assert (joined.attrs["INTSTART"], joined.attrs["INTEND"], joined.attrs["NINTS"]) == (1, 4, 5)
    assert joined.attrs["EXSEGTOT"] == 3
    with pytest.warns(DegradedResultWarning, match="integrations 3 to 5 of 5"):
        nsxr.open_exposure(segments[1:])


def test_a_gap_is_named(segments):
    fails([segments[2], segments[0]], "integrations 3 to 4 are missing", str(segments[2]))


def test_an_overlap_is_named(segments, changed):
    twice = changed(segments[1], name="twice_uncal.fits")
    fails([*segments, twice], "starts at integration 3", "goes on to 4", "twice_uncal.fits")


def test_segments_of_other_exposures_are_named_with_all_that_differs(segments, changed):
    other = changed(segments[1], EXPOSURE="2", GRATING="PRISM", name="other_uncal.fits")
    fails([segments[0], other, segments[2]], "EXPOSURE is '2'", "GRATING is 'PRISM'", "'MIRROR'", "other_uncal.fits")
    second = changed(segments[1], DETECTOR="NRS2", name="second_uncal.fits")
    fails([segments[0], second, segments[2]], "DETECTOR is 'NRS2'", "'NRS1'")


def test_other_shapes_are_named(segments, tmp_path):
    options = {"readout": "NRSRAPID", "groups": 3, "integrations": 5, "segments": 3, "references": False}
    wide = simulate_exposure(tmp_path, subarray="SUB512S", columns=40, **options).uncal
    fails([segments[0], wide[1], segments[2]], "SUBARRAY is 'SUB512S'", "SUBSIZE1 is 40", "SUBSTRT2")


def test_tables_must_be_in_all_segments_or_in_none(segments, changed):
    def without(hdus):
        del hdus["INT_TIMES"]

    copies = [changed(path, without) for path in segments]
    assert "int_mid_MJD_UTC" not in nsxr.open_exposure(copies).coords
    fails([segments[0], copies[1], segments[2]], "int_mid_MJD_UTC")


def test_a_broken_segment_is_named(segments, tmp_path):
    broken = tmp_path / "broken_uncal.fits"
    broken.write_bytes(segments[1].read_bytes()[:20000])
    fails([segments[0], broken, segments[2]], "broken_uncal.fits", "cut off")


def test_calls_that_make_no_sense(segments):
    with pytest.raises(ParameterError, match="no file"):
        nsxr.open_exposure([])
    with pytest.raises(ParameterError, match="chunks"):
        nsxr.open_exposure(segments, chunks=None)


def test_rates_of_segments_are_those_of_the_exposure(tmp_path):
    """What comes out does not hang on how the series was cut into files."""
    options = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 4, "integrations": 4}
    whole = simulate_exposure(tmp_path / "whole", **options)
    cut = simulate_exposure(tmp_path / "cut", **options, segments=2, references=False)
    rates = []
    for paths in (whole.uncal, cut.uncal):
        exposure = nsxr.open_exposure(paths)
        tree = nsxr.detector1(exposure, nsxr.open_references(tmp_path / "whole" / "references", exposure))
        rates.append(tree.to_dict())
    for node in ("/rate", "/rateints"):
        for name, array in rates[0][node].data_vars.items():
            np.testing.assert_array_equal(rates[1][node][name].values, array.values, err_msg=f"{node} {name}")


def test_int_times_of_segments_run_on(segments):
    times = nsxr.open_exposure(segments)["int_mid_MJD_UTC"].values
    assert (np.diff(times) > 0).all()
    np.testing.assert_array_equal(
        times, np.concatenate([fits.getdata(path, "INT_TIMES")["int_mid_MJD_UTC"] for path in segments])
    )


@pytest.mark.parametrize("total", [6, 21])
def test_an_exposure_that_lacks_its_end_is_told(sub32, changed, total):
    path = changed(sub32, NINTS=total)
    with pytest.warns(DegradedResultWarning, match=f"{path.name}: holds integrations 1 to 5 of {total}"):
        exposure = nsxr.open_exposure(path)
    assert exposure["integration"].values.tolist() == [1, 2, 3, 4, 5]
