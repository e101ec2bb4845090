import numpy as np
import pytest
import xarray as xr

from nsxr.errors import InputFileError, ModelError
from nsxr.model.readout import Readout, from_detector, irs2_layout, to_detector


def test_detector_orientation_there_and_back(rng):
    frame = rng.normal(size=(2, 5, 7))
    for detector in ("NRS1", "NRS2"):
        np.testing.assert_array_equal(from_detector(to_detector(frame, detector), detector), frame)
    np.testing.assert_array_equal(to_detector(frame, "NRS1")[0], frame[0].T)
    np.testing.assert_array_equal(to_detector(frame, "NRS2")[0], frame[0, ::-1, ::-1].T)


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_irs2_layout_by_counting(detector):
    """Each output: 8 science, then 31 times 4 reference and 16 science, 4 reference, 8 science."""
    one = "s" * 8 + ("r" * 4 + "s" * 16) * 31 + "r" * 4 + "s" * 8
    assert len(one) == 640
    expected = one * 5  # the pattern reads the same both ways
    layout = irs2_layout(detector)
    assert "".join("r" if i else "s" for i in layout.is_interleaved) == expected
    reference_output = slice(0, 640) if detector == "NRS1" else slice(2560, 3200)
    assert (layout.output[reference_output] == 0).all()
    assert not layout.is_science[reference_output].any()
    assert layout.is_science.sum() == 2048
    np.testing.assert_array_equal(layout.science_row[layout.science_rows_raw], np.arange(2048))
    assert (np.diff(layout.science_rows_raw) > 0).all()
    np.testing.assert_array_equal(layout.science_row >= 0, layout.is_science)


@pytest.mark.parametrize(("detector", "order"), [("NRS1", [1, 2, 3, 4]), ("NRS2", [4, 3, 2, 1])])
def test_amplifiers_are_bands_of_rows(header, detector, order):
    full = {"SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048, "NOUTPUTS": 4}
    readout = Readout.from_header(header(DETECTOR=detector, **full))
    coordinates = readout.row_coordinates(2048)
    np.testing.assert_array_equal(coordinates["amplifier"][1], np.repeat(order, 512))
    raw = Readout.from_header(header(DETECTOR=detector, READPATT="NRSIRS2", **full)).row_coordinates(3200)
    np.testing.assert_array_equal(np.unique(raw["amplifier"][1]), range(5))
    np.testing.assert_array_equal(
        raw["amplifier"][1][irs2_layout(detector).science_rows_raw], coordinates["amplifier"][1]
    )


def test_raw_rows_and_labels(header):
    subarray = Readout.from_header(header(SUBSTRT2=957, SUBSIZE2=32))
    assert subarray.raw_rows == 32
    assert not subarray.is_irs2
    np.testing.assert_array_equal(subarray.row_coordinates(32)["row"][1], np.arange(956, 988))
    place = {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 2048, "NOUTPUTS": 5}
    full = header(SUBARRAY="FULL", READPATT="NRSIRS2RAPID", **place)
    assert Readout.from_header(full).raw_rows == 3200
    assert Readout.from_header(full | {"READPATT": "NRSRAPID"}).raw_rows == 2048


def test_frame_numbers_start_from_one(header):
    readout = Readout.from_header(header(NFRAMES=4, GROUPGAP=2, TGROUP=12.0))
    assert readout.mean_frame(0) == 2.5
    np.testing.assert_array_equal(readout.mean_frame(np.arange(3)), [2.5, 8.5, 14.5])


def test_all_missing_keywords_are_named(header):
    keywords = header()
    del keywords["TGROUP"], keywords["DETECTOR"]
    with pytest.raises(InputFileError, match="DETECTOR, TGROUP"):
        Readout.from_header(keywords)
    with pytest.raises(InputFileError, match="'NRCA1', expected 'NRS1' or 'NRS2'"):
        Readout.from_header(header(DETECTOR="NRCA1"))


def labelled(header, labels, integrations=(1, 2, 3), **changes):
    shape = (len(integrations), len(labels), 2, 3)
    dataset = xr.Dataset({"sci": (("integration", "group", "row", "column"), np.zeros(shape, np.float32))})
    dataset = dataset.assign_coords(group=list(labels), integration=list(integrations))
    return dataset.assign_attrs(header(groups=8, **changes))


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("labels", [range(1, 9), range(1, 9, 2), range(2, 9, 3), [3, 4, 5], [8]])
def test_groups_that_were_chosen_keep_their_times(header, labels, frames):
    dataset = labelled(header, labels, NFRAMES=frames, TGROUP=2.0 * frames)
    whole, readout = Readout.from_header(dataset.attrs), Readout.of(dataset)
    position = np.array(list(labels)) - 1
    np.testing.assert_array_equal(readout.mean_frame(np.arange(len(labels))), whole.mean_frame(position))
    if len(labels) > 1:
        assert readout.group_time == whole.group_time * (labels[1] - labels[0])
    assert readout.first_group_time == whole.mean_frame(position[0]) * 2.0


@pytest.mark.parametrize(
    ("labels", "integrations", "said"),
    [
        (range(8, 0, -1), (1, 2, 3), "8, 7, 6, 5, 4, 3, 2, 1, expected evenly spaced"),
        ([1, 2, 4], (1, 2, 3), "1, 2, 4, expected evenly spaced"),
        ([2, 2], (1, 2, 3), "2, 2, expected evenly spaced"),
        (range(1, 10), (1, 2, 3), "1, 2, 3, 4, ..., 7, 8, 9, but NGROUPS is 8"),
        (range(8), (1, 2, 3), "NGROUPS is 8"),
        (range(1, 9), (1, 2, 1), "1, 2, 1, expected each number once"),
    ],
)
def test_labels_that_contradict_the_header(header, labels, integrations, said):
    with pytest.raises(ModelError, match=said):
        Readout.of(labelled(header, labels, integrations))


def test_groups_without_labels_are_all_of_them(header):
    dataset = labelled(header, range(1, 9)).drop_vars("group")
    assert Readout.of(dataset) == Readout.from_header(dataset.attrs)
    with pytest.raises(ModelError, match="4 groups without labels, but NGROUPS is 8"):
        Readout.of(dataset.isel(group=slice(0, 8, 2)))
