"""What is suspicious about a spectrum is said, and nothing of a good one."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import nsxr
from nsxr.cli import main
from nsxr.errors import DegradedResultWarning
from nsxr.pipelines.extract import extract_source
from nsxr.simulate import simulate_trace
from nsxr.spectra.plausibility import Extracted, suspicions
from tests.products.slit_files import write_cal


def made(seed: int = 3, **parameters: object) -> xr.Dataset:
    slit, _ = simulate_trace(**({"columns": 120, "signal_to_noise": 30.0, "seed": seed} | parameters))  # type: ignore
    return slit.assign_attrs(filename="a_cal.fits")


def told(slits: list[xr.Dataset], **options: object) -> list[str]:
    """Return the warnings of an extraction."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extract_source(slits, **options).compute()  # type: ignore[arg-type]
    assert all(one.category is DegradedResultWarning for one in caught)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["point", "lines", "faint", "extended", "nods", "series"])
def test_good_spectra_are_beyond_suspicion(kind: str, seed: int) -> None:
    options: dict[str, dict[str, object]] = {
        "point": {},
        "lines": {"lines": True},
        "faint": {"signal_to_noise": 3.0},
        "extended": {},
        "nods": {"nod": -1},
        "series": {"integrations": 4},
    }
    slits = [made(seed, **options[kind])]
    if kind == "extended":
        slits[0].attrs["SRCTYPE"] = "EXTENDED"
    if kind == "nods":
        slits += [made(seed + 10, nod=1), made(seed + 20)]
    assert told(slits) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("dark", "there is no light of a source: signal to noise of all columns together is"),
        ("off", r"the source is \+[23]\.\d rows \(\d+ sigma\) from its planned row 21\d\.\d"),
        ("no wavelengths", "there are no wavelengths; detector columns are used instead"),
        ("no times", r"4 of 4 integrations have no time \(INT_TIMES\)"),
        ("one time", r"1 of 4 integrations have no time \(INT_TIMES\)"),
        ("no noise", "no column could be extracted: no pixel has a finite var_poisson"),
        ("holes", r"\d+ of 120 columns are flagged DO_NOT_USE"),
    ],
)
def test_what_is_suspicious_is_said(what: str, words: str) -> None:
    series = {"integrations": 4} if "time" in what else {}
    slit = made(signal_to_noise=0.001 if what == "dark" else 30.0, offset=3.0 if what == "off" else 0.0, **series)
    if what == "no wavelengths":
        slit = slit.drop_vars("wavelength")
    elif what == "no times":
        slit = slit.drop_vars("int_mid_MJD_UTC")
    elif what == "one time":
        slit["int_mid_MJD_UTC"].values[2] = np.nan
    elif what == "no noise":
        slit["var_poisson"].values[:] = np.nan
    elif what == "holes":
        slit["dq"].values[:, 20:100] = 1
    with pytest.warns(DegradedResultWarning, match=f"^a_cal.fits, slit 12: {words}") as caught:
        extract_source([slit]).compute()
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("offset", "seed"), [(-6.0, 3), (-7.0, 4), (-12.0, 3)])
def test_a_source_far_below_its_plan_is_missed_and_that_is_said(offset: float, seed: int) -> None:
    slit, truth = simulate_trace(offset=offset, seed=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = extract_source([slit]).compute()
    words = r": there is \d\.\d% of the light of a neighbour at the planned row"
    assert any(re.search(words, str(one.message)) for one in caught)
    (spectrum,), (model,) = found.spectra, found.models
    good = (spectrum["dq"].values & 1) == 0
    assert abs(float((spectrum["flux"] / truth["flux"]).median())) < 0.05
    # the noise of a flux is that of one pixel at least, were all light in it
    error = np.sqrt(spectrum["flux_var_poisson"] + spectrum["flux_var_rnoise"]).values
    of_a_pixel = np.sqrt(slit["var_rnoise"].where(model["aperture"] > 0).min("row")).values * 1e6
    assert good.sum() > 0.3 * good.size
    assert (error[good] > 0.8 * of_a_pixel[good]).all()


def test_a_faint_source_beside_a_bright_one_is_beyond_suspicion() -> None:
    assert told([made(neighbour=8.0, neighbour_distance=7.0)]) == []


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e30, 2500.0])
@pytest.mark.parametrize("columns", [slice(None), slice(50, 55)])
def test_wavelengths_that_the_detectors_do_not_see_are_said(value: float, columns: slice) -> None:
    slit = made()
    wavelength = slit["wavelength"].values[:, columns]
    wavelength[np.isfinite(wavelength)] = value
    number = 5 if columns.stop else 120
    assert told([slit]) == [
        f"a_cal.fits, slit 12: {number} of 120 wavelengths are not between 0.3 and 8 um, such as {value:g}"
    ]


def test_one_wavelength_for_all_columns_is_said() -> None:
    slit = made()
    slit["wavelength"] = slit["wavelength"] * 0 + 2.5
    assert told([slit]) == ["a_cal.fits, slit 12: all columns have the wavelength 2.5 um"]


@pytest.mark.parametrize("value", [np.nan, "N/A", None, "far up", 1e30])
def test_a_missing_plan_is_said_where_it_matters(value: object) -> None:
    slit = made().assign_attrs(SRCYPOS=value)
    (said,) = told([slit])
    assert said.startswith(f"a_cal.fits, slit 12: there is no planned position (SRCYPOS is {value!r}): the middle of")
    row = float(nsxr.fit_trace_model(slit)["position_planned"])
    assert f"row {row:.1f}" in said
    assert told([slit], position=row) == []
    assert told([slit.assign_attrs(SRCTYPE="EXTENDED")]) == []
    # edges of the slit are cut off, and the plan is the light
    assert told([slit.isel(row=slice(8, 22))]) == []


def test_an_absurd_width_is_said() -> None:
    slit = made()
    model = nsxr.fit_trace_model(slit)
    spectrum = nsxr.extract_spectrum(slit, model)
    assert suspicions(Extracted(spectrum, model, slit)) == []
    (said,) = suspicions(Extracted(spectrum, model.assign(width=model["width"] + 9), slit))
    assert said.startswith("the trace is ")
    assert said.endswith(" pixels wide (sigma), expected less than 3")


def test_light_is_not_missed_where_none_is_planned() -> None:
    slit = made(signal_to_noise=0.001)
    for attrs in (
        {"SRCNAME": "1234_BKG22"},
        {"SOURCEID": -3},
        {"SHUTSTA": "", "SLTNAME": "S200A2", "FXD_SLIT": "S200A1"},
    ):
        assert told([slit.assign_attrs(attrs)]) == []
    assert len(told([slit.assign_attrs(SHUTSTA="", SLTNAME="S200A1", FXD_SLIT="S200A1")])) == 1


def test_the_command_says_so_and_leaves_a_dark_nod_out(tmp_path: Path) -> None:
    slits = [made(1, nod=-1), made(2, signal_to_noise=0.001), made(3, nod=1, offset=3.0)]
    files = [
        write_cal(tmp_path / f"jw01234001001_03101_0000{n}_nrs1_cal.fits", [slit], EXPOSURE=n, EXPSTART=60000.0 + n)
        for n, slit in enumerate(slits, start=1)
    ]
    run = CliRunner().invoke(main, ["extract", *map(str, files), "-o", str(tmp_path / "out"), "--no-progress"])
    assert run.exit_code == 0, run.output
    assert "00002_nrs1_cal.fits, slit 12: there is no light of a source" in run.output
    assert re.search("00002_nrs1_cal.fits: less than 0.3 of the light of the .*; left out of the mean", run.output)
    assert "00003_nrs1_cal.fits, slit 12: the source is +" in run.output
    assert re.search(
        r"00002_nrs1_cal.fits, slit 12: it differs from the other exposures in \d+% of its col", run.output
    )
    (path,) = (tmp_path / "out").glob("*_c1d.fits")
    ((_, mean),) = nsxr.iterate_slits(nsxr.open_spectra(path))
    assert mean["n_input"].max() == 2
