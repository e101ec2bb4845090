"""Slitlets from metafiles: the primary source is the centre, and nothing that a metafile says is lost."""

import numpy as np
import pytest
from astropy.io import fits

from nsxr.errors import InputFileError, ParameterError
from nsxr.formats.msa_metafile import read_metafile
from nsxr.model.msa_metafile import CataloguedSource, MsaMetafile, ShutterRow
from nsxr.optics.shutters import FIXED_SLIT_IDS, find_slitlets, shutter_id
from nsxr.optics.slit import Slit, Slitlet
from tests.products.metafiles import write_metafile

NAN = float("nan")
SCALES = dict.fromkeys((1, 2, 3, 4), (1.363, 1.15))


def place(quadrant: int, number: int) -> Slit:
    return Slit(str(number), quadrant, number * 1e-6, quadrant * 1e-3, 77e-6, 177e-6, -0.5, 0.5, (0.6, 5.3), -1)


FIXED = {name: Slit(name, 5, 0.0, 0.0, 2e-4, 3e-3, -0.55, 0.55, (0.6, 5.3), -1) for name in FIXED_SLIT_IDS}


def row(ycen: int, source: int = 0, *, primary: bool = False, x: float = NAN, y: float = NAN, **others) -> ShutterRow:
    given = {"slitlet_id": 7, "metadata_id": 1, "dither": 1, "quadrant": 2, "xcen": 10, "ycen": ycen, "fixed_slit": ""}
    given |= {"source_id": source, "source_x": x, "source_y": y, "is_primary": primary, "is_background": source == 0}
    return ShutterRow(**(given | others))


def slitlets(*rows: ShutterRow, sources: dict | None = None) -> list[Slitlet]:
    known = sources or {5: CataloguedSource("1_5", "five", 10.0, -70.0, 0.9)}
    metafile = MsaMetafile("file_msa.fits", rows, known)
    return find_slitlets(metafile, 1, 1, place=place, fixed_slits=FIXED, scales=SCALES, program="1")


def test_the_primary_source_is_the_centre_even_if_another_source_comes_first():
    (found,) = slitlets(row(20, 9, x=0.5, y=0.5), row(21), row(22, 5, primary=True, x=0.2, y=0.75), row(23))
    assert (found.ycen, found.state, found.shutter_id) == (22, "11x1", shutter_id(10, 22))
    assert found.source is not None
    assert (found.source.id, found.source.name, found.source.ra) == (5, "1_5", 10.0)
    np.testing.assert_allclose((found.source.x, found.source.y), (-0.3, 0.25))
    np.testing.assert_allclose((found.slit_y_low, found.slit_y_high), (-1.05 - 2 * 1.15, 1.05 + 1.15))


def test_several_sources_keep_their_own_shutters_and_positions():
    (found,) = slitlets(row(20, 9, x=0.5, y=0.6), row(22, 5, primary=True, x=0.5, y=0.5), row(22, 6, x=0.1, y=0.5))
    assert [source.id for source in found.sources] == [5, 9, 6]
    assert found.sources[1].name == "1_VRT7"  # the catalogue does not have it
    np.testing.assert_allclose(found.position_of(found.sources[1]), (0.0, (0.1 - 2) * 1.15))
    np.testing.assert_allclose(found.position_of(found.sources[2]), (-0.4 * 1.363, 0.0))


def test_a_shutter_that_comes_twice_is_one_shutter():
    (found,) = slitlets(row(20), row(20, 9, x=0.5, y=0.5), row(21, 5, primary=True, x=0.5, y=0.5))
    assert found.state == "1x"


def test_a_gap_and_a_background_slitlet():
    (found,) = slitlets(row(20), row(22), row(23))
    assert (found.state, found.ycen, found.is_background, found.source) == ("1011", 21, True, None)


def test_the_central_shutter_of_a_background_slitlet_is_marked_as_in_other_slitlets():
    (found,) = slitlets(row(20), row(21), row(22), row(23))
    assert (found.state, found.ycen, found.is_background) == ("1x11", 21, True)


@pytest.mark.parametrize(
    ("name", "program", "with_source", "moved"),
    [
        ("msa_metafiles/jw02736007001_01_msa.fits.gz", "2736", 374, 14),
        ("mos_jw02565/jw02565007001_01_msa_original.fits", "2565", 287, 1),
    ],
)
def test_centres_of_real_slitlets_that_the_observatorys_pipeline_takes_from_another_source(
    real_data, name, program, with_source, moved
):
    metafile = read_metafile(real_data / name)
    exposures = sorted({(each.metadata_id, each.dither) for each in metafile.shutters})
    counted = differing = 0
    for metadata_id, dither in exposures:
        found = find_slitlets(
            metafile, metadata_id, dither, place=place, fixed_slits=FIXED, scales=SCALES, program=program
        )
        rows = [each for each in metafile.shutters if (each.metadata_id, each.dither) == (metadata_id, dither)]
        for slitlet in found:
            if slitlet.source is not None:
                of_slitlet = [each for each in rows if each.slitlet_id == slitlet.slitlet_id]
                # the rule of the pipeline: the first row that is not background
                first = next(each for each in of_slitlet if not each.is_background)
                primary = next(each for each in of_slitlet if each.is_primary)
                assert (slitlet.xcen, slitlet.ycen) == (primary.xcen, primary.ycen)
                counted += 1
                differing += first.ycen != slitlet.ycen
    assert (counted, differing) == (with_source, moved)


def test_positions_that_are_not_known_are_the_centre():
    (found,) = slitlets(row(20, 5, primary=True))
    assert found.source is not None
    assert (found.source.x, found.source.y) == (0.0, 0.0)


def test_fixed_slits_of_a_shutter_exposure_stay():
    rows = [
        row(0, 5, primary=True, x=0.5, y=0.6, fixed_slit="S200A2", quadrant=5, xcen=0),
        row(0, fixed_slit="S1600A1", quadrant=5, xcen=0),
        row(20, 5, primary=True, x=0.5, y=0.5),
    ]
    first, second, third = slitlets(*rows)
    assert (first.name, first.quadrant, first.slitlet_id, first.shutter_id) == ("S200A2", 5, -102, 1)
    assert first.source is not None
    assert (second.name, second.slitlet_id, second.shutter_id, second.source) == ("S1600A1", -104, 3, None)
    assert third.name == "7"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(20, 5, metadata_id=3)], "no shutters for MSAMETID 1, it has 3"),
        ([row(20, 5, dither=2)], r"no shutters for dither 1 \(PATT_NUM\) of MSAMETID 1, it has dithers 2"),
        ([row(20, 5, primary=True), row(21, 6, primary=True)], "slitlet 7 has 2 primary sources"),
        ([row(20, 5, primary=True), row(21, xcen=11)], "slitlet 7 are not in one line"),
        ([row(0, 5, fixed_slit="S300A1")], "fixed slit S300A1 is not known"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(rows, message):
    with pytest.raises(InputFileError, match=message):
        slitlets(*rows)


def test_the_dither_may_be_left_out_if_there_is_only_one():
    rows = [row(20, 5, primary=True), row(20, 5, primary=True, dither=2), row(30, 5, primary=True, metadata_id=2)]
    metafile = MsaMetafile("file_msa.fits", tuple(rows), {})
    given = {"place": place, "fixed_slits": FIXED, "scales": SCALES, "program": "1"}
    assert [slitlet.ycen for slitlet in find_slitlets(metafile, 2, None, **given)] == [30]
    with pytest.raises(InputFileError, match=r"has dithers 1, 2 of MSAMETID 1, .* PATT_NUM is missing"):
        find_slitlets(metafile, 1, None, **given)


@pytest.mark.parametrize("shutter", [(0, 1), (366, 1), (1, 0), (1, 172), (-3, 5)])
def test_a_number_that_would_be_that_of_another_shutter_is_refused(shutter):
    with pytest.raises(ParameterError, match="does not exist, expected 1 to 365 along the dispersion"):
        shutter_id(*shutter)


def change_metafile(path, table, column, value):
    """Write a value into the second row of a column, or the values of another type into all rows."""
    with fits.open(write_metafile(path)) as hdus:
        tables = {hdu.name: {name: np.asarray(hdu.data[name]) for name in hdu.columns.names} for hdu in hdus[1:]}
    columns = tables[table]
    n = len(columns[column])
    if isinstance(value, np.ndarray):
        columns[column] = np.repeat(value[np.newaxis], n, axis=0)
    else:
        columns[column] = columns[column].copy()
        columns[column][min(1, n - 1)] = value
    made = []
    for name, each in tables.items():
        rows = np.empty(len(next(iter(each.values()))), [(key, a.dtype, a.shape[1:]) for key, a in each.items()])
        for key, values in each.items():
            rows[key] = values
        made.append(fits.BinTableHDU(rows, name=name))
    fits.HDUList([fits.PrimaryHDU(), *made]).writeto(path, overwrite=True)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shutter_row", 0, "shutter_row is 0 in row 2, expected a whole number from 1 to 365"),
        ("shutter_row", 366, "shutter_row is 366 in row 2"),
        ("shutter_row", np.array(180.7), "shutter_row is 180.7 in row 1"),
        ("shutter_column", 172, "shutter_column is 172 in row 2, expected a whole number from 1 to 171"),
        ("shutter_column", np.array("x"), "shutter_column has no single number in each row"),
        ("shutter_quadrant", 5, "shutter_quadrant is 5 in row 2"),
        ("slitlet_id", -1, "slitlet_id is -1 in row 2"),
        ("slitlet_id", np.array([1, 2]), "slitlet_id has no single number in each row"),
        ("source_id", np.array(np.nan), "source_id is nan in row 1"),
        ("estimated_source_in_shutter_x", np.inf, "shutter_x is inf in row 2, expected a number from -100 to 100"),
        ("estimated_source_in_shutter_y", 1e30, "shutter_y is 1.*e.30 in row 2"),
        ("background", np.array(True), "background has no text in each row"),
        ("ra", 400.0, "ra is 400 in row 1, expected a number from -360 to 360"),
        ("dec", np.array("x"), "dec has no single number in each row"),
        ("stellarity", np.inf, "stellarity is inf in row 1"),
    ],
)
def test_metafiles_with_values_that_cannot_be(tmp_path, column, value, message):
    table = "SOURCE_INFO" if column in ("ra", "dec", "stellarity") else "SHUTTER_INFO"
    change_metafile(tmp_path / "jw_msa.fits", table, column, value)
    with pytest.raises(InputFileError, match=rf"jw_msa\.fits: table {table}: .*{message}"):
        read_metafile(tmp_path / "jw_msa.fits")


def test_numbers_that_are_not_known_stay_unknown(tmp_path):
    change_metafile(tmp_path / "jw_msa.fits", "SOURCE_INFO", "ra", NAN)
    assert np.isnan(read_metafile(tmp_path / "jw_msa.fits").sources[5].ra)


def real_slitlets(path, dither, program):
    return find_slitlets(path, 1, dither, place=place, fixed_slits=FIXED, scales=SCALES, program=program)


def test_real_metafile_with_several_sources_in_a_slitlet(real_data):
    metafile = read_metafile(real_data / "msa_metafiles" / "jw02736007001_01_msa.fits.gz")
    found = {slitlet.name: slitlet for slitlet in real_slitlets(metafile, 1, "2736")}
    assert len(found) == 74
    one = found["24"]
    assert one.source is not None
    assert (one.source.id, one.ycen, one.state) == (7570, 22, "11x1")  # the observatory's pipeline: 20, x111


@pytest.mark.parametrize(("name", "expected"), [("_original", (127, 110)), ("", (1, 1))])
def test_real_metafile_before_and_after_editing(real_data, name, expected):
    metafile = read_metafile(real_data / "mos_jw02565" / f"jw02565007001_01_msa{name}.fits")
    found = real_slitlets(metafile, 1, "2565")
    assert (len(found), sum(not slitlet.is_background for slitlet in found)) == expected
    assert {slitlet.state.count("x") for slitlet in found} == {1}


def test_a_file_that_is_no_metafile(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        read_metafile(tmp_path / "jw_msa.fits")
