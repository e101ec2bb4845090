import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

from nsxr.errors import ParameterError, ReferenceFileError
from nsxr.references.apertures import Aperture, read_aperture

REFERENCE = {
    "reftype": "EXTRACT1D",
    "apertures": [
        {"id": "dummy", "ystart": 1},
        {"id": "S200A1", "region_type": "background", "ystart": 2},
        {"id": "S200A1", "spectral_order": 2, "ystart": 3},
        {"id": "S200A1", "spectral_order": 1, "ystart": 4, "extract_width": 6, "use_source_posn": False, "dispaxis": 1},
        {"id": "S200A2", "src_coeff": [[2, 0.1], [5.5]], "bkg_coeff": [[-0.5], [1]], "independent_var": "WAVELENGTH"},
        {"id": "ANY", "bkg_fit": "median", "nod_correction": False, "comment": "whatever else the file says"},
    ],
}


def slit(**attrs):
    return xr.Dataset(attrs=attrs)


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "extract1d.json"
    made.write_text(json.dumps(REFERENCE))
    return made


def test_entry_of_the_slit_and_its_order(path):
    found = read_aperture(path, slit(SLTNAME="S200A1", SPORDER=1))
    assert found == Aperture(
        name="S200A1", ystart=4.0, extract_width=6.0, use_source_posn=False, filename="extract1d.json"
    )
    assert read_aperture(path, slit(SLTNAME="S200A1")).ystart == 4  # without an order it is the first
    assert read_aperture(str(path), slit(SLTNAME="S200A1", SPORDER=2)).ystart == 3


def test_polynomials_become_tuples(path):
    found = read_aperture(path, slit(SLTNAME="S200A2"))
    assert found.src_coeff == ((2.0, 0.1), (5.5,))
    assert found.bkg_coeff == ((-0.5,), (1.0,))
    assert found.independent_var == "wavelength"


def test_any_serves_other_slits_and_nameless_slits_take_the_first(path):
    assert read_aperture(path, slit(SLTNAME="30")).bkg_fit == "median"
    assert read_aperture(path, slit(SPORDER=1)).name == "S200A1"


def test_contents_serve_as_well_as_the_file(path):
    from_file = read_aperture(path, slit(SLTNAME="S200A2"))
    assert read_aperture(REFERENCE, slit(SLTNAME="S200A2")) == dataclasses.replace(from_file, filename="")


def test_parameters_of_one_aperture():
    assert read_aperture({"ystart": 3, "ystop": 8.5}, slit(SLTNAME="7")) == Aperture(ystart=3.0, ystop=8.5)
    with pytest.raises(ParameterError, match="unknown parameters of an aperture: ystar;"):
        read_aperture({"ystar": 3}, slit())


def test_padded_sets_need_one_aperture(path):
    several = xr.Dataset(coords={"slit": np.array(["30", "31"])})
    assert read_aperture(path, several).bkg_fit == "median"
    with pytest.raises(ReferenceFileError, match="one by one"):
        read_aperture(path, several.assign_coords(slit=["30", "S200A2"]))


def test_no_entry_is_an_error_that_names_those_found():
    one = {"apertures": REFERENCE["apertures"][:4]}
    with pytest.raises(ReferenceFileError, match=r"'S400A1', order 1; found S200A1 \(order 2\)"):
        read_aperture(one, slit(SLTNAME="S400A1"))
    with pytest.raises(ReferenceFileError, match="order 3"):
        read_aperture(one, slit(SLTNAME="S200A1", SPORDER=3))


@pytest.mark.parametrize("text", ["no json", "[1, 2]", "{}"])
def test_files_that_are_no_references(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ReferenceFileError, match=r"wrong\.json"):
        read_aperture(path, slit())


def test_dispersion_along_columns_is_refused():
    with pytest.raises(ReferenceFileError, match="dispaxis"):
        read_aperture({"dispaxis": 2}, slit())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"independent_var": "row"}, "independent_var"),
        ({"bkg_fit": "spline"}, "bkg_fit"),
        ({"bkg_order": -1}, "bkg_order"),
        ({"smoothing_length": 4}, "smoothing_length"),
        ({"smoothing_length": 1}, "smoothing_length"),
        ({"extract_width": 0.0}, "extract_width"),
        ({"src_coeff": ((1.0,),)}, "pairs"),
        ({"bkg_coeff": ((1.0,), ())}, "pairs"),
    ],
)
def test_wrong_values_are_refused(parameters, message):
    with pytest.raises(ParameterError, match=message):
        Aperture(**parameters)
