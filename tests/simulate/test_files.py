import numpy as np
import pytest
from astropy.io import fits

from nsxr.errors import ParameterError
from nsxr.model.dq import PixelFlag, recode
from nsxr.simulate import simulate_exposure, small_exposure, write_references
from nsxr.simulate.configuration import configure
from nsxr.simulate.fits_files import open_raw
from nsxr.simulate.headers import Segment

SIZE = {"readout": "NRSRAPID", "subarray": "SUB512S", "groups": 4, "integrations": 5, "detector": "NRS2"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulate_exposure(tmp_path_factory.mktemp("one"), **SIZE)


def test_raw_file_holds_what_was_simulated(simulated):
    small = small_exposure(**SIZE, columns=None)
    (path,) = simulated.uncal
    assert path.name == "jw01234001001_03101_00001_nrs2_uncal.fits"
    with fits.open(path) as file:
        file.verify("exception")
        assert [hdu.name for hdu in file] == ["PRIMARY", "SCI", "GROUP", "INT_TIMES", "ASDF"]
        assert file["SCI"].header["BITPIX"] == 16
        assert file["SCI"].header["BZERO"] == 32768
        np.testing.assert_array_equal(file["SCI"].data, small.exposure["sci"].values)
        assert file["SCI"].data.dtype == np.uint16
        for key, value in file[0].header.items():
            if key in small.exposure.attrs:
                assert small.exposure.attrs[key] == value
        times = file["INT_TIMES"].data
        np.testing.assert_array_equal(times["integration_number"], small.exposure["integration"])
        np.testing.assert_array_equal(times["int_mid_BJD_TDB"], small.exposure["int_mid_BJD_TDB"])
        assert len(file["GROUP"].data) == 20
        np.testing.assert_array_equal(file["GROUP"].data["group_number"][:5], [1, 2, 3, 4, 1])


def test_files_depend_on_the_seed_alone(simulated, tmp_path):
    again = simulate_exposure(tmp_path, **SIZE)
    for one, other in zip(
        [*simulated.uncal, simulated.truth, *simulated.references.values()],
        [*again.uncal, again.truth, *again.references.values()],
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_segments_make_up_the_exposure(simulated, tmp_path):
    cut = simulate_exposure(tmp_path, **SIZE, segments=2, references=False)
    assert cut.references == {}
    assert [path.name for path in cut.uncal] == [f"jw01234001001_03101_00001-seg00{n}_nrs2_uncal.fits" for n in (1, 2)]
    whole = fits.getdata(simulated.uncal[0], "SCI")
    np.testing.assert_array_equal(np.concatenate([fits.getdata(path, "SCI") for path in cut.uncal]), whole)
    headers = [fits.getheader(path) for path in cut.uncal]
    assert [(h["INTSTART"], h["INTEND"], h["EXSEGNUM"], h["EXSEGTOT"], h["NINTS"]) for h in headers] == [
        (1, 3, 1, 2, 5),
        (4, 5, 2, 2, 5),
    ]
    numbers = [fits.getdata(path, "INT_TIMES")["integration_number"].tolist() for path in cut.uncal]
    assert numbers == [[1, 2, 3], [4, 5]]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(p.name for p in cut.uncal), cut.truth.name])
    with pytest.raises(ParameterError, match="segments is 6"):
        simulate_exposure(tmp_path, **SIZE, segments=6)


def definitions(file):
    return [{"NAME": row["NAME"], "VALUE": int(row["VALUE"])} for row in file["DQ_DEF"].data]


def test_references_hold_the_datasets_with_bits_of_their_own(tmp_path):
    paths = write_references(tmp_path, readout="NRSIRS2RAPID", detector="NRS2", groups=3, columns=24)
    # the file has the first columns of the detector, a small exposure both ends
    small = small_exposure(readout="NRSIRS2RAPID", detector="NRS2", groups=3, columns=48)
    assert set(paths) == set(small.references)
    unknown = set()
    for kind, path in paths.items():
        dataset = small.references[kind]
        dataset = dataset.isel(column=slice(24)) if "column" in dataset.dims else dataset
        assert path.name == dataset.attrs["filename"]
        with fits.open(path) as file:
            file.verify("exception")
            header = file[0].header
            assert (header["REFTYPE"], header["DETECTOR"]) == (kind.upper(), "NRS2")
            if kind == "refpix":
                continue
            assert header["SUBSIZE1"] == 24
            if "dq" in dataset:
                dq, names = recode(file["DQ"].data, definitions(file))
                unknown |= set(names)
                np.testing.assert_array_equal(dq, dataset["dq"].values, err_msg=kind)
            for variable, extension in (
                ("sci", "SCI"),
                ("coefficients", "COEFFS"),
                ("inverse_coefficients", "INV_COEFFS"),
            ):
                if variable in dataset and kind != "readnoise":
                    np.testing.assert_allclose(file[extension].data, dataset[variable].values, rtol=1e-4, atol=1e-12)
    assert unknown == {"BAD_LIN_CORR"}
    superbias = fits.getdata(paths["superbias"], "DQ_DEF")
    assert dict(zip(superbias["NAME"], superbias["BIT"], strict=True))["UNRELIABLE_BIAS"] == 1
    dark = fits.getheader(paths["dark"])
    assert (dark["NGROUPS"], dark["NFRAMES"], dark["GROUPGAP"]) == (8, 1, 0)


def test_weights_alternate_real_and_imaginary_parts(tmp_path):
    path = write_references(tmp_path, readout="NRSIRS2", groups=2, columns=16)["refpix"]
    weights = small_exposure(readout="NRSIRS2", groups=2, columns=16).references["refpix"]
    table = fits.getdata(path, "IRS2")
    assert len(table) == 2 * 712 * 16
    for output in range(4):
        for name in ("alpha", "beta"):
            values = table[f"{name}_{output}"]
            np.testing.assert_array_equal(values[0::2] + 1j * values[1::2], weights[name].values[output])
    listed = fits.getdata(path, "DQ")
    np.testing.assert_array_equal(listed["MASK"], weights["bad_mask"])
    assert len(listed) == 8


def test_listed_pairs_are_those_of_the_truth():
    for detector in ("NRS1", "NRS2"):
        small = small_exposure(detector=detector, columns=8, groups=2)
        weights, truth = small.references["refpix"], small.truth
        rows = set()
        table = [weights[f"bad_{name}"].values for name in ("output", "parity", "mask")]
        for output, parity, mask in zip(*table, strict=True):
            for block in np.flatnonzero([int(mask) >> k & 1 for k in range(32)]):
                second = (parity == 2) != (output % 2 == 0)
                column = 640 * int(output) + 8 + 20 * int(block) + 2 * second
                rows.add(column if detector == "NRS1" else 3198 - column)
        listed = truth["bad_pair_raw_row"].values[truth["bad_pair_is_listed"].values]
        assert rows == set(listed.tolist())
        flagged = np.flatnonzero(small.references["mask"]["dq"].values[:, 0] & np.uint32(PixelFlag.BAD_REF_PIXEL))
        last = truth["bad_pair_raw_row"].values[-1]
        np.testing.assert_array_equal(flagged, [last, last + 1])


def test_truth_file_explains_itself(simulated):
    small = small_exposure(**SIZE, columns=None)
    assert simulated.truth.name == "jw01234001001_03101_00001_nrs2_truth.fits"
    with fits.open(simulated.truth) as file:
        file.verify("exception")
        np.testing.assert_array_equal(file["RATE"].data, small.truth["rate"])
        np.testing.assert_array_equal(file["RATE_DN"].data, small.truth["rate_dn"])
        np.testing.assert_array_equal(file["DISTURBED"].data, small.truth["disturbed"])
        np.testing.assert_array_equal(file["COSMIC_RAYS"].data["charge"], small.truth["hit_charge"])
        np.testing.assert_array_equal(file["LIGHT_CURVE"].data["factor"], small.truth["light_curve"])
        assert file["RATE"].header["BUNIT"] == "electron/s"
        assert all(hdu.header["COMMENT"] for hdu in file[1:])
        gain = small.references["gain"]["sci"].values
        known = np.isfinite(gain)
        np.testing.assert_allclose(
            (file["RATE"].data / gain * file[0].header["GAINFACT"])[known], file["RATE_DN"].data[known], rtol=1e-5
        )


def test_nothing_is_left_when_writing_fails(tmp_path):
    configuration = configure(readout="NRSRAPID", subarray="SUB32", groups=2, integrations=1, detector="NRS1")
    with pytest.raises(RuntimeError, match="stop"), open_raw(tmp_path / "a.fits", configuration, Segment(1, 1, 1, 1)):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
