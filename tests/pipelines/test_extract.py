"""From files of slits to spectra: sources are told apart, nods fitted together, products named as the field does."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

import nsxr
from nsxr.cli import main
from nsxr.errors import ModelError, ParameterError
from nsxr.pipelines.extract import group_by_source
from nsxr.simulate import simulate_exposure, simulate_trace
from nsxr.testing import forbid_computes
from tests.products.slit_files import simulated_slits, write_cal


def nods() -> list[tuple[xr.Dataset, xr.Dataset]]:
    """Return nods of one source, subtracted from each other as the peer does: without variances of the background."""
    each = [simulate_trace(nod=n, columns=200, signal_to_noise=30.0, seed=40 + n) for n in (-1, 0, 1)]
    found = []
    for i, (slit, truth) in enumerate(each):
        others = [other for j, (other, _) in enumerate(each) if j != i]
        mean = sum((other["sci"] for other in others), xr.zeros_like(slit["sci"])) / 2
        dq = slit["dq"] | others[0]["dq"] | others[1]["dq"]
        found.append((slit.assign(sci=(slit["sci"] - mean).assign_attrs(slit["sci"].attrs), dq=dq), truth))
    return found


def write_nods(folder: Path) -> list[str]:
    return [
        str(
            write_cal(
                folder / f"jw01234001001_03101_0000{i}_nrs1_cal.fits",
                [slit.assign_attrs(SLTSTRT1=601, SLTSTRT2=201)],
                PROGRAM="01234",
                OBSERVTN="001",
            )
        )
        for i, (slit, _) in enumerate(nods(), start=1)
    ]


def test_sources_are_told_apart() -> None:
    slits = simulated_slits(3) + simulated_slits(3)
    assert list(group_by_source(slits).values()) == [[0, 3], [1, 4], [2, 5]]
    assert list(group_by_source(slits)) == ["s000000100", "s000000101", "s000000102"]
    fixed = [
        slit.assign_attrs(SHUTSTA="", SOURCEID=1, SRCNAME="A", SLTNAME=name)
        for slit, name in zip(slits, "AB" * 3, strict=True)
    ]
    assert group_by_source(fixed) == {"a": [0, 2, 4], "b": [1, 3, 5]}
    virtual = [slits[0].assign_attrs(SOURCEID=-7), slits[0].assign_attrs(SOURCEID=-7, DETECTOR="NRS2")]
    assert group_by_source(virtual) == {"v000000007": [0], "v000000007_nrs2": [1]}


def test_nods_of_a_source() -> None:
    slits = [slit for slit, _ in nods()]
    with forbid_computes():
        lazy = nsxr.extract_source([slit.chunk() for slit in slits])
    found = nsxr.extract_source(slits)
    pulls = []
    for spectrum, other, (_, truth), model in zip(found.spectra, lazy.spectra, nods(), found.models, strict=True):
        xr.testing.assert_allclose(spectrum.drop_vars("weight"), other.compute().drop_vars("weight"), rtol=1e-10)
        within = (truth["flux"] * (truth["profile"] * model["aperture"]).sum("row")).rename(column="dispersion")
        variance = spectrum["flux_var_poisson"] + spectrum["flux_var_rnoise"]
        pulls.append(((spectrum["flux"] - within) / np.sqrt(variance)).where(spectrum["dq"] == 0))
        assert "var_background" in spectrum
    assert float(np.nanstd(pulls)) == pytest.approx(1.0, abs=0.08)
    low = nsxr.extract_source(slits, restore_variance=False, rescale_noise=False)
    assert (low.spectra[0]["flux_var_rnoise"] < found.spectra[0]["flux_var_rnoise"]).mean() > 0.99
    with pytest.raises(ParameterError, match="no slit"):
        nsxr.extract_source([])


def test_command_on_nods(tmp_path: Path) -> None:
    files = write_nods(tmp_path)
    result = CliRunner().invoke(main, ["extract", *files, "-o", str(tmp_path / "out"), "--quicklook", "--no-progress"])
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    root = "jw01234001001_03101_0000{}_nrs1"
    assert names == sorted(
        [f"{root.format(i)}_x1d.fits" for i in (1, 2, 3)]
        + [f"{root.format(i)}_s000000001_extract.png" for i in (1, 2, 3)]
        + ["jw01234-o001_s000000001_nirspec_clear-prism_c1d.fits"]
    )
    with fits.open(tmp_path / "out" / f"{root.format(2)}_x1d.fits") as hdus:
        header, table = hdus["EXTRACT1D"].header, hdus["EXTRACT1D"].data
        assert header["SRCNAME"] == "simulated"
        assert abs(header["POSFIT"] - header["POSPLAN"]) < 0.1
        flux = nsxr.extract_source([slit for slit, _ in nods()]).spectra[1]["flux"].values
        np.testing.assert_allclose(table["FLUX"], flux, rtol=1e-6)
        assert hdus[0].header["S_EXTR1D"] == "COMPLETE"
    spectra = nsxr.open_spectra(tmp_path / "out" / "jw01234-o001_s000000001_nirspec_clear-prism_c1d.fits")
    ((_, combined),) = nsxr.iterate_slits(spectra)
    assert (combined["n_input"] == 3).mean() > 0.8
    zarr = [*files, "-o", str(tmp_path / "zarr"), "--format", "zarr", "--no-progress", "--no-combine"]
    assert CliRunner().invoke(main, ["extract", *zarr]).exit_code == 0
    for path in (tmp_path / "out" / f"{root.format(2)}_x1d.fits", tmp_path / "zarr" / f"{root.format(2)}_x1d.zarr"):
        said = CliRunner().invoke(main, ["info", str(path)])
        assert said.exit_code == 0, said.output
        for step in ("outlier_detection", "extract_1d"):
            assert re.search(rf"{step} +COMPLETE", said.output), said.output
    again = CliRunner().invoke(main, ["extract", *files, "-o", str(tmp_path / "out"), "--no-progress"])
    assert again.exit_code == 1
    assert "already there" in again.output


def test_command_on_a_series(tmp_path: Path) -> None:
    slit, truth = simulate_trace(integrations=20, columns=120, depth=0.05, signal_to_noise=60.0, bad_pixels="none")
    slit.attrs |= {"SLTNAME": "S1600A1", "SHUTSTA": "", "SLTSTRT1": 601, "SLTSTRT2": 201}
    path = write_cal(tmp_path / "jw01234001001_04101_00001_nrs1_calints.fits", [slit], "SlitModel")
    result = CliRunner().invoke(main, ["extract", str(path), "-o", str(tmp_path), "--format", "both", "--no-progress"])
    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "jw01234001001_04101_00001_nrs1_whtlt.ecsv")
    curve = np.asarray(table["whitelight_flux_NRS1"])
    expected = truth["flux"].sum("column").values
    np.testing.assert_allclose(curve / curve[0], expected / expected[0], atol=0.006)
    series = xr.open_dataset(
        tmp_path / "jw01234001001_04101_00001_nrs1_x1dints.zarr", group="S1600A1", engine="zarr", chunks={}
    )
    assert series["flux"].dims == ("integration", "wavelength")
    ((_, read),) = nsxr.iterate_slits(nsxr.open_spectra(tmp_path / "jw01234001001_04101_00001_nrs1_x1dints.fits"))
    np.testing.assert_array_equal(read["flux"], series["flux"])


def test_raw_series_to_light_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = simulate_exposure(
        "raw", readout="NRSRAPID", subarray="SUB512", integrations=30, groups=4, segments=2, seed=2
    )
    run = [*map(str, made.uncal), "--references", "raw/references", "-o", "rates", "--format", "both", "--no-progress"]
    result = CliRunner().invoke(main, ["detector1", *run])
    assert result.exit_code == 0, result.output
    curves = []
    for ending in ("_rateints.fits", ".zarr"):
        (rates,) = Path("rates").glob(f"*{ending}")
        result = CliRunner().invoke(main, ["extract", str(rates), "-o", f"spectra{ending}", "--no-progress"])
        assert result.exit_code == 0, result.output
        (written,) = Path(f"spectra{ending}").glob("*_whtlt.ecsv")
        curves.append(Table.read(written))
    (rates,) = Path("rates").glob("*_rateints.fits")
    for keyword, value in {"EXP_TYPE": "NRS_MSASPEC", "SUBARRAY": "ALLSLITS"}.items():  # of many slits
        fits.setval(shutil.copy(rates, "many_rateints.fits"), keyword, value=value)
        refused = CliRunner().invoke(main, ["extract", "many_rateints.fits", "-o", "many"])
        assert refused.exit_code == 1
        assert "many_rateints.fits: these count rates show no single slit: EXP_TYPE is" in refused.output
        assert refused.output.count("\n") == 1
        assert not Path("many").exists()
    (rates,) = Path("rates").glob("*.zarr")
    curve = np.asarray(curves[0]["whitelight_flux_NRS1"])
    np.testing.assert_array_equal(curve, curves[1]["whitelight_flux_NRS1"])
    with xr.open_dataset("rates/" + rates.name, group="rateints", engine="zarr") as opened:
        np.testing.assert_array_equal(curves[0]["MJD_UTC_NRS1"], opened["int_mid_MJD_UTC"])
    true = Table.read(made.truth, hdu="LIGHT_CURVE")["factor"]
    error = np.asarray(curves[0]["whitelight_flux_error_NRS1"])
    factor = (curve * true / error**2).sum() / (true**2 / error**2).sum()
    assert true.min() < 0.985
    assert ((curve - factor * true) / error).std() == pytest.approx(1.0, abs=0.3)


@pytest.mark.skipif("NSXR_REAL_DATA" not in os.environ, reason="NSXR_REAL_DATA is not set: no real products to read")
def test_real_nods_agree_within_their_errors() -> None:
    files = sorted(Path(os.environ["NSXR_REAL_DATA"], "mos_jw02565").glob("jw02565007001_*_cal.fits"))
    slits = [slit for file in files for _, slit in nsxr.iterate_slits(nsxr.open_slits(file))]
    chi_squares = []
    for options in ({}, {"restore_variance": False, "rescale_noise": False}):
        first, _, third = nsxr.extract_source(slits, **options).compute().spectra
        first = first.isel(dispersion=np.flatnonzero(np.isfinite(first["wavelength"])))
        there = nsxr.combine_spectra([third], wavelength=first["wavelength"].values)  # variances follow exactly
        good = ((first["dq"].values | there["dq"].values) & 1) == 0
        parts = [f"flux_var_{part}" for part in ("poisson", "rnoise", "flat")]
        variance = sum(first[part].values + there[part].values for part in parts)
        chi_squares.append(float(np.mean(((first["flux"].values - there["flux"].values) ** 2 / variance)[good])))
    assert chi_squares[0] == pytest.approx(1.0, abs=0.25)
    assert chi_squares[1] > 1.4  # with the variances that are stored


def test_one_source_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = simulated_slits(2)
    files = [write_cal(tmp_path / f"{name}_cal.fits", [good, bad]) for name in "ab"]

    def fails(slits: list[xr.Dataset], **options: object) -> object:
        if slits[0].attrs["SOURCEID"] == bad.attrs["SOURCEID"]:
            raise ModelError("no light at all")
        return nsxr.extract_source(slits, **options)

    monkeypatch.setattr("nsxr.cli.extraction.extract_source", fails)
    result = CliRunner().invoke(main, ["extract", *map(str, files), "-o", str(tmp_path / "out"), "--no-progress"])
    assert result.exit_code == 1, result.output
    assert f"s{int(bad.attrs['SOURCEID']):09d}: no light at all" in result.output
    for name in ("a", "b"):
        with fits.open(tmp_path / "out" / f"{name}_x1d.fits") as hdus:
            assert [hdu.header["SOURCEID"] for hdu in hdus if hdu.name == "EXTRACT1D"] == [good.attrs["SOURCEID"]]


def test_command_chooses_and_refuses(tmp_path: Path) -> None:
    path = write_cal(tmp_path / "x_cal.fits", simulated_slits(3))
    run = CliRunner().invoke(main, ["extract", str(path), "-o", str(tmp_path), "--source", "102", "--no-progress"])
    assert run.exit_code == 0, run.output
    with fits.open(tmp_path / "x_x1d.fits") as hdus:
        assert [hdu.header["SOURCEID"] for hdu in hdus if hdu.name == "EXTRACT1D"] == [102]
    missing = CliRunner().invoke(main, ["extract", str(path), "--source", "5"])
    assert missing.exit_code == 2
    assert "no source 5; found 1234_100" in missing.output
    wrong = CliRunner().invoke(main, ["extract", str(tmp_path / "x_x1d.fits"), "-o", str(tmp_path)])
    assert wrong.exit_code == 1
    assert "has no slits" in wrong.output


PROGRAMMES = ["s000000005", "s000000005_02", "s000000005_03"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            [{"SOURCEID": 22, "SRCNAME": "1234_BKG22"}, {"SOURCEID": 22, "SRCNAME": "1234_22"}],
            ["b000000022", "s000000022"],
        ),
        ([{"SOURCEID": 0, "SLTNAME": "7"}, {"SOURCEID": 0, "SLTNAME": "8"}], ["7", "8"]),
        ([{"SOURCEID": 0, "SLITID": 3}, {"SOURCEID": 0, "SLITID": 4}], ["slit3", "slit4"]),
        ([{"SLTSTRT1": 1, "SLTSTRT2": 2}, {"SLTSTRT1": 1, "SLTSTRT2": 9}], ["slit-1-2", "slit-1-9"]),
        ([{"SLITID": 3}, {"SLITID": 3, "DETECTOR": "NRS2"}], ["slit3", "slit3_nrs2"]),
        ([{"SOURCEID": 5}, {"SOURCEID": 5, "GRATING": "G140M"}], ["s000000005", "s000000005_g140m"]),
        ([{"SOURCEID": 5}, {"SOURCEID": 5, "PROGRAM": "02"}, {"SOURCEID": 5, "PROGRAM": "03"}], PROGRAMMES),
        ([{"SOURCEID": 5, "SPORDER": -1}, {"SOURCEID": 5, "SPORDER": -2}], ["s000000005", "s000000005_order2"]),
        ([{"SOURCEID": 5, "SRCNAME": "a"}, {"SOURCEID": 5, "SRCNAME": "b"}], ["s000000005", "s000000005_2"]),
        ([{"SOURCEID": "5", "SRCNAME": "../x"}, {"SOURCEID": "N/A", "SLTNAME": "a/b"}], ["s000000005", "a-b"]),
    ],
)
def test_sources_get_names_of_their_own(headers: list[dict[str, object]], expected: list[str]) -> None:
    usual = {"DETECTOR": "NRS1", "FILTER": "CLEAR", "GRATING": "PRISM", "SHUTSTA": "1x1"}
    groups = group_by_source([xr.Dataset(attrs=usual | header) for header in headers * 2])
    assert list(groups.values()) == [[n, n + len(headers)] for n in range(len(headers))]
    assert list(groups) == expected


def test_detectors_and_slits_are_put_together_on_request() -> None:
    usual = {"FILTER": "F290LP", "GRATING": "G395M", "TARGNAME": "HD 1", "PROGRAM": "01"}
    headers = [
        {"DETECTOR": "NRS1", "SLTNAME": "S200A1", "FXD_SLIT": "S200A1", "SOURCEID": 1},
        {"DETECTOR": "NRS1", "SLTNAME": "S200A2", "FXD_SLIT": "S200A1", "SOURCEID": 2},  # the sky
        {"DETECTOR": "NRS1", "SLTNAME": "S200A2", "FXD_SLIT": "S200A2", "SOURCEID": 2},
        {"DETECTOR": "NRS2", "SLTNAME": "S200A1", "FXD_SLIT": "S200A1", "SOURCEID": 1},
    ]
    slits = [xr.Dataset(attrs=usual | header) for header in headers]
    assert group_by_source(slits) == {"s200a1": [0], "s200a2": [1, 2], "s200a1_nrs2": [3]}
    assert group_by_source(slits, across=["detectors"]) == {"s200a1": [0, 3], "s200a2": [1, 2]}
    assert group_by_source(slits, across=["slits"]) == {"hd-1": [0, 2], "s200a2": [1], "hd-1_nrs2": [3]}
    assert group_by_source(slits, across=["slits", "detectors"]) == {"hd-1": [0, 2, 3], "s200a2": [1]}
    for wrong in ("slits", ["gratings"]):
        with pytest.raises(ParameterError, match="expected a list of"):
            group_by_source(slits, across=wrong)  # type: ignore[arg-type]


def test_command_combines_detectors_on_request(tmp_path: Path) -> None:
    files = []
    for number, detector in enumerate(("NRS1", "NRS2")):
        slit, _ = simulate_trace(columns=80, seed=number, bad_pixels="none")
        slit["wavelength"] = (slit["wavelength"] + 10.0 * number).assign_attrs(slit["wavelength"].attrs)
        slit = slit.assign_attrs(DETECTOR=detector)
        name = f"jw01234001001_03101_00001_{detector.lower()}_cal.fits"
        files.append(str(write_cal(tmp_path / name, [slit], PROGRAM="01234", OBSERVTN="001", EXPSTART=60000.0)))
    run = CliRunner().invoke(main, ["extract", *files, "-o", str(tmp_path / "apart"), "--no-progress"])
    assert run.exit_code == 0, run.output
    assert not list((tmp_path / "apart").glob("*c1d*"))
    again = ["extract", *files, "-o", str(tmp_path / "both"), "--across", "detectors", "--no-progress"]
    run = CliRunner().invoke(main, again)
    assert run.exit_code == 0, run.output
    assert len(list((tmp_path / "both").glob("*_x1d.fits"))) == 2
    ((_, both),) = nsxr.iterate_slits(
        nsxr.open_spectra(tmp_path / "both" / "jw01234-o001_s000000001_nirspec_clear-prism_c1d.fits")
    )
    used = both["n_input"] == 1
    parts = [nsxr.open_spectra(path) for path in sorted((tmp_path / "both").glob("*_x1d.fits"))]
    flux = np.concatenate([next(nsxr.iterate_slits(part))[1]["flux"] for part in parts])
    np.testing.assert_allclose(both["flux"][used], flux, rtol=1e-12)
    assert np.isnan(both["flux"][~used]).all()
    assert (~used).sum() > 50  # the gap
