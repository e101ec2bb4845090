"""No exposure is counted twice, whatever its files are called."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import nsxr
from nsxr.associate.backgrounds import nod_backgrounds
from nsxr.associate.exposures import exposures_of, identity, require_distinct
from nsxr.cli import main
from nsxr.errors import ParameterError
from nsxr.simulate import simulate_trace
from nsxr.slits.background import combine_backgrounds, subtract_background
from nsxr.slits.exposure_mean import average_exposures
from nsxr.slits.nod_variance import restore_background_variance
from tests.products.slit_files import write_cal

REAL = os.environ.get("NSXR_REAL_DATA")
HEADER = {"PROGRAM": "01234", "OBSERVTN": "001", "VISIT": "001", "EXPOSURE": "2", "EXPSTART": 60000.25}


def slit(nod: int = 0, seed: int = 1, **attrs: object) -> xr.Dataset:
    made, _ = simulate_trace(nod=nod, columns=60, seed=seed, bad_pixels="none")  # type: ignore[arg-type]
    return made.assign_attrs(HEADER | attrs)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"filename": "other_s2d.fits"}, True),
        ({"EXPOSURE": 2, "PROGRAM": 1234}, True),  # another spelling
        ({"EXPSTART": 60000.2501}, False),
        ({"EXPOSURE": "3"}, False),
        ({"DETECTOR": "NRS2"}, False),
        ({"SLTNAME": "S200A2"}, False),
        ({"SPORDER": 0}, True),
        ({"SPORDER": 2}, False),
        ({"INTSTART": 201}, False),  # another segment
        ({"EXPSTART": "N/A"}, False),  # nobody knows
    ],
)
def test_exposures_are_told_by_their_headers(changes: dict[str, object], is_same: bool) -> None:
    one = HEADER | {"DETECTOR": "NRS1", "SLTNAME": "S200A1", "filename": "one_cal.fits"}
    assert bool(exposures_of(one) & exposures_of(one | changes)) == is_same


def test_headers_that_do_not_say_are_no_evidence() -> None:
    assert identity({"PROGRAM": "01234", "OBSERVTN": "001", "FILENAME": "a_cal.fits"}) is None
    assert identity({"EXPSTART": float("nan")}) is None
    for damaged in ("", "{", "[1, 2]", 5, "[" * 10000):
        assert exposures_of(HEADER | {"combined_exposures": damaged}) == set()
    bare = [simulate_trace(columns=60, seed=n)[0].assign_attrs(filename="a_cal.fits") for n in (1, 2)]
    require_distinct(bare)
    for lazy in (bare[:1] * 2, [bare[0].chunk(), bare[0].chunk()]):  # the same array all the same
        with pytest.raises(ParameterError, match=r"a_cal\.fits and a_cal\.fits hold the same exposure of slit 12"):
            require_distinct(lazy)


def test_empty_slits_of_different_exposures_are_no_twins() -> None:
    """The same array, all NaN, but the headers say that it was measured twice."""
    empty = slit().chunk() * np.nan
    require_distinct([empty.assign_attrs(HEADER), empty.assign_attrs(HEADER | {"EXPOSURE": 3})])


def test_every_place_where_exposures_meet_refuses_one_twice(tmp_path: Path) -> None:
    one, twin = slit(filename="e_cal.fits"), slit(filename="e_s2d.fits", seed=2)
    third = slit(nod=1, seed=3, EXPOSURE="3", EXPSTART=60000.3)
    said = r"e_cal\.fits and e_s2d\.fits hold the same exposure of slit 12; .*give one of them"
    with pytest.raises(ParameterError, match=said):
        nsxr.extract_source([one, third, twin])
    spectra = [nsxr.extract_spectrum(part) for part in (one, third, twin)]
    with pytest.raises(ParameterError, match=said):
        nsxr.combine_spectra(spectra)
    combined = nsxr.combine_spectra(spectra[:2])
    with pytest.raises(ParameterError, match="hold the same exposure"):
        nsxr.combine_spectra([combined, spectra[2]])
    for function in (
        nsxr.fit_trace_model,
        nsxr.flag_outliers,
        combine_backgrounds,
        average_exposures,
        restore_background_variance,
    ):
        with pytest.raises(ParameterError, match=said):
            function([one, third, twin])
    with pytest.raises(ParameterError, match=said):
        subtract_background(one, [third, twin])
    with pytest.raises(ParameterError, match=r"number 1 and number 3 hold the same exposure"):
        nod_backgrounds([HEADER, HEADER | {"EXPOSURE": 3}, HEADER])
    files = [write_cal(tmp_path / f"e_{kind}.fits", [one], **HEADER) for kind in ("cal", "s2d")]
    for given in ([files[0], files[0]], files):
        run = CliRunner().invoke(main, ["extract", *map(str, given), "-o", str(tmp_path / "out"), "--no-progress"])
        assert run.exit_code == 1
        assert "hold the same exposure of slit 12" in run.output
        assert run.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(REAL is None, reason="NSXR_REAL_DATA is not set: no real products to read")
def test_real_products_of_one_exposure() -> None:
    folder = Path(str(REAL), "mos_jw02565")

    def read(*names: str) -> list[xr.Dataset]:
        return [part for name in names for _, part in nsxr.iterate_slits(nsxr.open_slits(folder / name))]

    cal, s2d = (f"jw02565007001_03101_00002_nrs2_{kind}.fits" for kind in ("cal", "s2d"))
    source = "jw02565-o007_s000020115_nirspec_clear-prism_cal.fits"
    require_distinct(read(cal, "jw02565007001_03101_00003_nrs2_cal.fits"))
    require_distinct(read(source))  # three exposures under one header
    for twice in ((cal, s2d), (source, cal), (cal, source), (source, source)):
        with pytest.raises(ParameterError, match="hold the same exposure of slit 30"):
            require_distinct(read(*twice))
    old = Path(str(REAL), "fs_jw01492/jw01492-o005_s00004_nirspec_f100lp-g140m-s1600a1-sub2048_s2d.fits")
    ((_, resampled),) = nsxr.iterate_slits(nsxr.open_slits(old))
    found = sorted(exposures_of(resampled.attrs))
    assert [one[5:8] + one[-1:] for one in found] == [("1", str(n), "NRS1", "S1600A1") for n in range(1, 7)]
    member = xr.Dataset(attrs=resampled.attrs | {"EXPOSURE": "2", "EXPSTART": 59806.620032824})
    del member.attrs["combined_exposures"]
    with pytest.raises(ParameterError, match="hold the same exposure of slit S1600A1"):
        require_distinct([resampled, member])
