"""Count rates of simulated skies come back as spectra of their sources."""

import re

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

import nsxr
from nsxr.errors import DegradedResultWarning, MissingReferenceError, ModelError, ParameterError
from nsxr.model.dq import PixelFlag
from nsxr.model.history import steps
from nsxr.pipelines.spec2 import SPEC2, spec2
from nsxr.simulate import PowerLaw, Sky, SkySource, Spectrum, simulate_exposure
from nsxr.testing import forbid_computes
from tests.optics.exposures import make_rates, optics_of
from tests.products.metafiles import write_metafile

STAR = SkySource("star", Spectrum(PowerLaw(4e-4, 2.2, -1.0)), offset=(0.0, 0.0))
SETTINGS = {"mode": "FS", "subarray": "SUBS200A1", "grating": "G235H", "readout": "NRSRAPID", "groups": 5}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return the files of a simulated fixed slit. Its count rates and its references are beside them."""
    folder = tmp_path_factory.mktemp("slit")
    made = simulate_exposure(folder, sky=Sky((STAR,)), flux_references=True, **SETTINGS)
    raw = nsxr.open_exposure(made.uncal)
    rates = nsxr.detector1(raw, nsxr.open_references(made.references, raw)).compute()
    nsxr.write_products(rates, folder, "star", progress=False)
    return made


@pytest.fixture
def slit(simulated):
    """Return the folder of the simulated fixed slit."""
    return simulated.truth.parent


@pytest.fixture
def inputs(slit):
    rate = nsxr.open_exposure(slit / "star_rate.fits")
    where = slit / "references"
    return rate, nsxr.open_spec2_references(where, rate), nsxr.open_optics(where, rate)


def test_the_flux_of_a_star_comes_back(inputs):
    before = inputs[0].copy()
    with forbid_computes():
        tree = spec2(*inputs)
    slit, spectrum = (tree[kind]["S200A1"].to_dataset().compute() for kind in ("cal", "x1d"))
    assert slit["sci"].attrs["units"] == "MJy"
    assert {"flatfield_point", "pathloss_point", "photom_point", "var_flat", "var_pathloss", "var_photom"} <= set(slit)
    done = {entry["step"]: entry["status"] for entry in steps(slit)}
    assert done["bkg_subtract"] == "SKIPPED"
    assert {"extract_2d", "srctype", "flat_field", "pathloss", "photom"} <= {
        k for k, v in done.items() if v == "COMPLETE"
    }
    assert 0.001 < float(spectrum["relative_error_flat"].median()) < 0.002  # three tables with errors of 0.001
    assert 0.01 < float(spectrum["relative_error_photom"].median()) < 0.02
    good = (spectrum["dq"] & 1) == 0
    flux, wavelength = spectrum["flux"].where(good, drop=True), spectrum["wavelength"].where(good, drop=True)
    sigma = np.sqrt(sum(spectrum[name] for name in ("flux_var_poisson", "flux_var_rnoise"))).where(good, drop=True)
    true = 4e-4 * (wavelength / 2.2) ** -1.0
    assert good.sum() > 250
    assert abs(np.average(flux / true, weights=(true / sigma) ** 2) - 1) < 0.02
    pull = ((flux - true) / sigma).to_numpy()
    assert 0.8 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.25
    assert before.identical(inputs[0])


def test_products_keep_what_was_subtracted_and_its_variance(inputs, tmp_path):
    rate, references, optics = inputs
    other = rate.assign_attrs(
        filename="jw01234001001_03101_00002_nrs1_rate.fits", EXPOSURE="2", PATT_NUM=2, YOFFSET=0.8
    )
    each = []
    for science, background in ((rate, other), (other, rate)):
        tree = spec2(science, references, optics, backgrounds=[background]).compute()
        cal, spectrum = (tree[kind]["S200A1"].to_dataset() for kind in ("cal", "x1d"))
        part = cal["var_background"] / (cal["var_poisson"] + cal["var_rnoise"])
        np.testing.assert_allclose(part.median(), 0.5, rtol=1e-3)  # both exposures have the same noise
        path = nsxr.write_slits(tree["cal"], tmp_path / f"{len(each)}_cal.fits", progress=False)
        ((_, again),) = nsxr.iterate_slits(nsxr.open_slits(path))
        assert again.attrs["nod_shifts"] == cal.attrs["nod_shifts"] != "[0.0]"
        again_spectrum = nsxr.apply_aperture_correction(nsxr.extract_spectrum(again.load()), references["apcorr"])
        xr.testing.assert_allclose(again_spectrum["flux"], spectrum["flux"], rtol=1e-6)
        each.append((again, spectrum))
    found = nsxr.extract_source([again for again, _ in each])  # variances are not added a second time
    for mine, (_, spectrum) in zip(found.spectra, each, strict=True):
        ratio = mine["flux_var_rnoise"] / spectrum["flux_var_rnoise"] * spectrum["aperture_correction"] ** 2
        assert 0.9 < float(ratio.median()) < 1.1


def test_missing_references_and_other_exposures_are_refused_by_name(inputs):
    rate, references, optics = inputs
    without = {kind: one for kind, one in references.items() if kind not in ("photom", "sflat")}
    with pytest.raises(MissingReferenceError, match=r"sflat \(flat_field\), photom \(photom\)"):
        spec2(rate, without, optics)
    skipped = spec2(rate, without, optics, skip=["flat_field", "photom"])
    assert skipped["cal"]["S200A1"]["sci"].attrs["units"] == "DN/s"
    with pytest.raises(ModelError, match="EXP_TYPE is 'NRS_IMAGE'"):
        spec2(rate.assign_attrs(EXP_TYPE="NRS_IMAGE"), references, optics)
    with pytest.raises(ParameterError, match="no step 'flatfield'"):
        spec2(rate, references, optics, skip=["flatfield"])


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("NRS_BRIGHTOBJ", {"run": ["badpix_selfcal"]}, "step badpix_selfcal is not part of EXP_TYPE NRS_BRIGHTOBJ"),
        ("NRS_IFU", {"run": ["adaptive_trace_model"]}, "step adaptive_trace_model is not part of EXP_TYPE NRS_IFU"),
        ("NRS_IFU", {"pixel_replace": {"algorithm": "trace_model"}}, "step pixel_replace is not part"),
        ("NRS_BRIGHTOBJ", {"backgrounds": [xr.Dataset()]}, "backgrounds were given, but step bkg_subtract"),
        ("NRS_FIXEDSLIT", {"imprints": [xr.Dataset()]}, "imprints were given, but step imprint_subtract"),
        ("NRS_BRIGHTOBJ", {"selfcal": [xr.Dataset()]}, "selfcal were given, but step badpix_selfcal"),
        ("NRS_IFU", {"shutters": "jw_msa.fits"}, "shutters were given, but exposures of EXP_TYPE NRS_IFU"),
    ],
)
def test_what_a_mode_has_no_use_for_is_refused(kind, given, message):
    with pytest.raises(ParameterError, match=message):
        spec2(xr.Dataset(attrs={"EXP_TYPE": kind}), {}, None, **given)


def test_a_spectrum_of_the_sky_is_subtracted(inputs):
    rate = inputs[0]
    points = np.linspace(1.6, 3.3, 400)
    sky = xr.Dataset(
        {
            "surf_bright": ("dispersion", np.full(400, 2.0), {"units": "MJy/sr"}),
            "sb_var_poisson": ("dispersion", np.full(400, 0.01)),
            "sb_var_rnoise": ("dispersion", np.full(400, 0.02)),
        },
        {"wavelength": ("dispersion", points)},
    )
    with forbid_computes():
        tree = spec2(*inputs, sky=sky)
    slit, plain = (one["cal"]["S200A1"].to_dataset().compute() for one in (tree, spec2(*inputs)))
    assert steps(slit)[-1]["step"] == "photom"
    assert {entry["step"]: entry["status"] for entry in steps(slit)}["master_background"] == "COMPLETE"
    # a point is divided by other factors than the sky, so that units differ by their ratio
    lost = (plain["sci"] - slit["sci"]) / slit["photom_point"] * slit["flatfield_point"] * slit["pathloss_point"]
    back = lost / slit["flatfield_uniform"] / slit["pathloss_uniform"] * slit["photom_uniform"]
    known = np.isfinite(back.to_numpy())
    np.testing.assert_allclose(back.to_numpy()[known], 2.0, rtol=2e-3)
    ratio = (slit["var_background"] / ((plain["sci"] - slit["sci"]) / 2.0) ** 2).to_numpy()
    np.testing.assert_allclose(ratio[known], 0.03, rtol=5e-3)
    reasons = {}
    for given in (
        {"skip": ["photom"]},
        {"backgrounds": [rate.assign_attrs(filename="other_rate.fits", EXPOSURE="00002", EXPSTART=59999.0)]},
    ):
        done = steps(spec2(*inputs, sky=sky, **given)["cal"]["S200A1"].to_dataset())
        reasons |= {next(iter(given)): next(one for one in done if one["step"] == "master_background")["reason"]}
    assert "without photom" in reasons["skip"]
    assert "backgrounds of other exposures" in reasons["backgrounds"]
    with pytest.raises(ParameterError, match="needs background slitlets"):
        spec2(*inputs, sky="master")
    with pytest.raises(ParameterError, match="expected global, master, or a spectrum"):
        spec2(*inputs, sky="all")
    with pytest.raises(MissingReferenceError, match="photom"):
        spec2(rate, {kind: one for kind, one in inputs[1].items() if kind != "photom"}, inputs[2], sky=sky)
    with pytest.raises(ParameterError, match="shutters and fixed slits only"):
        spec2(rate.assign_attrs(EXP_TYPE="NRS_IFU"), {}, inputs[2], sky=sky)


def test_a_fixed_slit_has_a_sky_of_its_own(slit, run, tmp_path, inputs):
    options = ("--references", slit / "references", "-o", tmp_path, "--skip", "extract_1d", "--sky")
    lines = run("spec2", slit / "star_rate.fits", *options, "global").output.splitlines()
    assert [line.rsplit("/", 1)[-1] for line in lines[-2:]] == ["star_cal.fits", "star_sky_x1d.fits"]
    sky = nsxr.open_spectra(tmp_path / "star_sky_x1d.fits")
    spectrum = sky["S200A1"].to_dataset()
    slits = nsxr.cut_slits(inputs[0].compute(), inputs[2], coordinates=["slit_y"])
    response = nsxr.sky_response(slits, inputs[1])
    light = slits["S200A1"]["sci"] / response["S200A1"]["response"]
    # there is no sky; what stage 1 left of the level of the dark is in all rows
    expected = np.nanmedian(light.to_numpy()[abs(slits["S200A1"]["slit_y"].to_numpy()) > 0.25])
    assert abs(float(spectrum["surf_bright"].median() - expected)) < 3  # [MJy/sr], the star has about 800 in a row
    assert steps(spectrum)[-1]["step"] == "estimate_sky"
    tree = spec2(*inputs, sky=sky, skip=["extract_1d"])
    assert tree["cal"]["S200A1"].attrs["S_MSBSUB"] == "COMPLETE"
    assert "expected global, master, or a file" in run("spec2", "a_rate.fits", *options, "local", status=1).output
    assert "--background and --sky" in run(
        "spec2", "a_rate.fits", *options, "global", "--background", "b_rate.fits", status=1
    ).output  # fmt: skip


def test_modes_have_the_steps_of_the_observatory_in_its_order():
    order = [*SPEC2.steps]
    assert [*SPEC2.of("NRS_IFU")] == [
        "badpix_selfcal", "msa_flagging", "clean_flicker_noise", "imprint_subtract", "bkg_subtract", "assign_wcs",
        "srctype", "flat_field", "pathloss", "photom",
    ]  # fmt: skip
    for kind in ("NRS_FIXEDSLIT", "NRS_MSASPEC", "NRS_BRIGHTOBJ"):
        own = [*SPEC2.of(kind)]
        assert own == sorted(own, key=order.index)
    assert "pathloss" not in SPEC2.of("NRS_BRIGHTOBJ")
    assert "barshadow" in SPEC2.of("NRS_MSASPEC")


def test_the_command(slit, run, tmp_path):
    rate = slit / "star_rate.fits"
    lines = run("spec2", rate, "--references", slit / "references", "-o", tmp_path, "--quicklook").output.splitlines()
    names = ["star_cal.fits", "star_x1d.fits", "star_spec2.png"]
    assert [line.rsplit("/", 1)[-1] for line in lines[-3:]] == names
    assert (tmp_path / "star_spec2.png").stat().st_size > 20_000
    with fits.open(tmp_path / "star_cal.fits") as cal, fits.open(tmp_path / "star_x1d.fits") as x1d:
        assert cal["SCI"].header["BUNIT"] == "MJy"
        assert np.isfinite(x1d["EXTRACT1D"].data["FLUX"]).sum() > 250
    replaced = ["--run", "adaptive_trace_model", "--set", "pixel_replace.algorithm=trace_model"]
    run("spec2", rate, "--references", slit / "references", *replaced, "-o", tmp_path / "replaced")
    with fits.open(tmp_path / "star_cal.fits") as plain, fits.open(tmp_path / "replaced" / "star_cal.fits") as cal:
        assert "TRACEMODEL" not in plain
        assert (cal[0].header["S_TRCMOD"], cal[0].header["S_PXREPL"]) == ("COMPLETE", "COMPLETE")
        filled = (cal["DQ"].data & int(PixelFlag.FLUX_ESTIMATED)) > 0
        assert filled.sum() > 0
        assert np.isnan(plain["SCI"].data[filled]).all()
        np.testing.assert_array_equal(cal["SCI"].data[filled], cal["TRACEMODEL"].data[filled])
        np.testing.assert_array_equal(cal["SCI"].data[~filled], plain["SCI"].data[~filled])
    again = run("spec2", rate, "--references", slit / "references", "-o", tmp_path, status=1).output
    assert "star_cal.fits" in again
    only = ("spec2", rate, "--references", slit / "references", "-o", tmp_path / "cal", "--skip", "extract_1d")
    assert "needs the step extract_1d" in run(*only, "--quicklook", status=1).output
    run(*only)
    assert [path.name for path in (tmp_path / "cal").iterdir()] == ["star_cal.fits"]
    assert "exclude each other" in run(
        "spec2", rate, "--references", slit, "--background", rate, "--no-background", status=1
    ).output  # fmt: skip
    assert "expected count rates" in run("spec2", slit / "x_cal.fits", "--references", slit, status=1).output


def test_the_demo_goes_from_ramps_to_a_comparison_with_the_truth(simulated, run, tmp_path, monkeypatch):
    asked = {}

    def small(folder, **settings):
        asked.update(settings)
        return simulated

    monkeypatch.setattr("nsxr.cli.simulation.simulate_exposure", small)
    root = "jw01234001001_03101_00001_nrs1"
    older = [tmp_path / f"{root}_{name}" for name in ("rate.fits", "cal.fits", "truth.png")]
    for path in older:
        path.write_text("older")
    *_, look, words = run("demo", "-o", tmp_path, "--seed", 3).stdout.splitlines()
    # the rest is the simulator's default: full-frame NRSIRS2RAPID of 20 groups
    assert asked == {"seed": 3, "mode": "MOS", "sky": "default", "dithers": 3, "flux_references": True}
    products = {"_rate.fits", "_rateints.fits", ".zarr", "_quicklook.png", "_cal.fits", "_x1d.fits", "_spec2.png"}
    assert products | {"_truth.png"} <= {path.name.removeprefix(root) for path in tmp_path.iterdir()}
    assert all(path.stat().st_size > 20_000 for path in older)
    assert look.endswith(f"look at {tmp_path / f'{root}_truth.png'}")
    scatter = re.fullmatch(r"1 spectrum of a point, \d+ columns: .* ([\d.]+) times .* 0.00 % are off by .*", words)
    assert 0.85 < float(scatter[1]) < 1.15


def test_fixed_slits_of_an_exposure_of_shutters_have_references_of_their_own(tmp_path):
    path = write_metafile(tmp_path / "jw_msa.fits")
    with fits.open(path) as file:
        sources = file["SOURCE_INFO"].copy()
        table = Table(file["SHUTTER_INFO"].data)
    table["fixed_slit"] = np.full(len(table), "NONE", "S8")
    table.add_row([*table[1].values()])
    table[-1]["fixed_slit"], table[-1]["source_id"] = "S200A1", 5
    shutters = fits.BinTableHDU(np.array(table), name="SHUTTER_INFO")
    fits.HDUList([fits.PrimaryHDU(), shutters, sources]).writeto(path, overwrite=True)
    rates = make_rates("MSASPEC", "PRISM", READPATT="NRSRAPID", SUBSIZE1=2048, SUBSIZE2=2048)
    optics = optics_of(rates)
    flux = ["msa_flagging", "wavecorr", "flat_field", "pathloss", "barshadow", "photom", "extract_1d"]
    both = spec2(rates, {}, optics, shutters=path, fixed_references={}, skip=flux)["cal"]
    assert [*both.children] == ["1", "2", "S200A1"]
    assert (both["S200A1"].attrs["MSAQUAD"], both["1"].attrs["MSAQUAD"]) == (5, 3)
    with pytest.warns(DegradedResultWarning, match="fixed slits S200A1 are left out"):
        alone = spec2(rates, {}, optics, shutters=path, skip=flux)["cal"]
    assert [*alone.children] == ["1", "2"]


def test_stage_1_cleans_with_the_light_of_the_optics(slit, run, tmp_path):
    uncal, where = next(slit.glob("*_uncal.fits")), slit / "references"
    raw = nsxr.open_exposure(uncal)
    light = nsxr.locate_light(raw, nsxr.open_optics(where, raw))
    assert 0.3 < float(light.mean()) < 0.9
    references = nsxr.open_references(where, raw)
    tree = nsxr.detector1(raw, references, light=light, clean_flicker_noise={"fit_method": "median"})
    expected = tree["rate"].to_dataset().compute()
    record = next(entry for entry in steps(expected) if entry["step"] == "clean_flicker_noise")
    assert record["parameters"]["mask"] == "found, and light of the optics"
    words = ["detector1", uncal, "--references", where, "--set", "clean_flicker_noise.fit_method=median"]
    for place, given in (("default", []), ("same", ["--optics", where])):
        run(*words, "-o", tmp_path / place, *given)
        text = next((tmp_path / place).glob("*_recipe.toml")).read_text()
        assert f'optics = "{where}"' in text
        assert "shutters" not in text
        rate = nsxr.open_exposure(next((tmp_path / place).glob("*_rate.fits"))).compute()
        np.testing.assert_array_equal(rate["sci"], expected["sci"])
        assert rate.attrs["S_CLNFNS"] == "COMPLETE"
    with pytest.raises(ParameterError, match="one exposure takes one DataArray"):
        nsxr.detector1(raw, references, light=[light])
    with pytest.raises(ParameterError, match="1 exposures and 2 images of light"):
        nsxr.detector1([raw], references, light=[light, light])
