"""What a result was made with is kept in it, comes back from files, and is enough to make it again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from click.testing import CliRunner

import nsxr
from nsxr import archive as archives
from nsxr.cli import main
from nsxr.errors import ArchivedOtherwiseError, InputFileError, OutputExistsError
from nsxr.formats.fingerprint import PIECE, PIECES, fingerprint
from nsxr.model import commit, provenance
from nsxr.model.history import record, steps
from nsxr.model.provenance import KEY, differences, merged, noted, provenance_of, software
from nsxr.products.spectra_write import write_spectra
from nsxr.products.write import write_products
from nsxr.simulate import simulate_exposure, simulate_trace, small_exposure
from nsxr.slits.background import combine_backgrounds
from nsxr.slits.exposure_mean import average_exposures
from nsxr.testing import forbid_computes

SUB32 = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 4, "integrations": 2}
NODE = "01234/001/001_03101_00001/nrs1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simulate_exposure(tmp_path_factory.mktemp("made"), **SUB32)


@pytest.fixture(scope="module")
def tree(made):
    exposure = nsxr.open_exposure(made.uncal)
    references = nsxr.open_references(made.references["gain"].parent, exposure)
    return nsxr.detector1(exposure, references, skip=["linearity"], jump={"rejection_threshold": 5.0})


@pytest.fixture(scope="module")
def loaded(tree):
    """The same in memory, for tests of what is written."""
    return tree.compute()


@pytest.fixture
def run():
    def invoke(*words, status=0):
        result = CliRunner().invoke(main, [*map(str, words)], prog_name="nsxr")
        assert result.exit_code == status, result.output
        return result.output

    return invoke


def test_software_is_that_which_runs():
    found = software()
    assert found["numpy"] == np.__version__
    assert found["xarray"] == xr.__version__
    assert found["nsxr"] == nsxr.__version__
    assert set(found) == {"nsxr", "commit", "python", *provenance.LIBRARIES}


@pytest.mark.parametrize("layout", ["branch", "packed", "detached", "worktree"])
def test_commit_is_read_from_the_files_of_git(tmp_path, layout):
    def git(*words, folder=tmp_path):
        options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "x")
    root = tmp_path
    if layout == "packed":
        git("pack-refs", "--all")
    elif layout == "detached":
        git("checkout", "--detach")
    elif layout == "worktree":
        root = tmp_path / "tree"
        git("worktree", "add", "-b", "other", str(root))
    expected = git("rev-parse", "HEAD", folder=root)
    assert commit.head(root / ".git") == expected
    assert commit.checked_out(root) is None  # a clone of something else
    (root / "pyproject.toml").touch()
    assert commit.checked_out(root) == expected


def test_an_installed_package_knows_the_commit_it_was_built_from(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools, which builds nsxr, is not installed")
    repository = Path(nsxr.__file__).parents[1]
    shutil.copy(repository / "setup.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "nsxr"\nversion = "0"\n[tool.setuptools]\npackages = ["nsxr", "nsxr.model"]\n'
    )
    model = tmp_path / "nsxr" / "model"
    model.mkdir(parents=True)
    for name in ("commit.py", "provenance.py", "types.py"):
        shutil.copy(repository / "nsxr" / "model" / name, model)
    for folder in (model, model.parent):
        (folder / "__init__.py").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("0123456789abcdef" * 2 + "01234567\n")

    def built(*words):
        command = [sys.executable, "setup.py", "-q", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def said(folder):
        code = "from nsxr.model.provenance import _commit; print(_commit())"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env={"PYTHONPATH": "."})
        return done.stdout.strip()

    built("build_py", "--build-lib", "lib")
    assert said(tmp_path / "lib") == "0123456789abcdef" * 2 + "01234567"
    (tmp_path / ".git" / "HEAD").write_text("0" * 40)
    assert said(tmp_path) == "0" * 40  # where it runs from the clone, the commit of now
    assert not (tmp_path / "nsxr" / "commit.txt").exists()
    shutil.rmtree(tmp_path / ".git")  # outside a clone it is built all the same
    built("build_py", "--build-lib", "other")
    assert said(tmp_path / "other") != "0" * 40


def test_fingerprints_tell_files_apart(tmp_path):
    path = tmp_path / "a.fits"
    content = np.random.default_rng(1).integers(0, 256, PIECE * PIECES * 3, np.uint8)
    content.tofile(path)
    first = fingerprint(str(path))
    assert fingerprint(str(shutil.copy(path, tmp_path / "b.fits"))) == first  # time and name do not matter
    for place in (0, content.size - 1):
        changed = content.copy()
        changed[place] ^= 1
        changed.tofile(path)
        assert fingerprint(str(path)) != first
    content[:-1].tofile(path)
    assert fingerprint(str(path)) != first
    changed = content.copy()
    changed[PIECE + 10] ^= 1  # as documented: single pixels of large files are not looked at
    changed.tofile(path)
    assert fingerprint(str(path)) == first
    small = tmp_path / "small.fits"
    small.write_bytes(bytes(3000))
    before = fingerprint(str(small))
    small.write_bytes(bytes(1500) + b"\1" + bytes(1499))
    assert fingerprint(str(small)) != before


def test_rates_say_what_they_were_made_with(made, tree):
    with forbid_computes():
        found = tree["rate"].to_dataset().nsxr.provenance
    assert found["software"] == [software()]
    (given,) = found["inputs"]
    assert given["file"] == made.uncal[0].name
    assert (given["size"], given["fingerprint"]) == (made.uncal[0].stat().st_size, fingerprint(str(made.uncal[0])))
    assert found["references"]["dark"]["fingerprint"] == fingerprint(str(made.references["dark"]))
    assert "linearity" not in found["references"]
    assert found["recipe"]["skip"] == ["linearity"]
    assert found["recipe"]["parameters"]["jump"]["rejection_threshold"] == 5.0
    assert found["recipe"]["parameters"]["refpix"]["odd_even_columns"] is True  # a default
    assert found == tree["rateints"].to_dataset().nsxr.provenance


@pytest.mark.parametrize("parameters", [{}, {"ramp_fit": {"algorithm": "ols"}}])
def test_the_recipe_that_is_kept_gives_the_same_steps(parameters):
    small = small_exposure(**SUB32, columns=None)
    first = nsxr.detector1(small.exposure, small.references, **parameters)["rate"].to_dataset()
    recipe = first.nsxr.provenance["recipe"]
    again = nsxr.detector1(small.exposure, small.references, skip=recipe["skip"], **recipe["parameters"])
    assert steps(again["rate"].to_dataset()) == steps(first)
    assert again["rate"].to_dataset().nsxr.provenance == first.nsxr.provenance


def test_products_keep_it_in_both_formats_and_the_same_recipe_gives_the_same_bytes(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contents = []
    for name in ("a", "b"):
        write_products(tree, tmp_path / name, "x", ("fits", "zarr"), progress=False)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    expected = tree["rate"].to_dataset().nsxr.provenance
    stored = xr.open_dataset(tmp_path / "a" / "x.zarr", group="rate", engine="zarr", chunks={})
    assert provenance_of(stored.attrs) == expected
    assert (stored.attrs["DATAMODL"], stored.attrs["FILENAME"]) == ("ImageModel", "x.zarr")
    assert (stored.attrs["S_LINEAR"], stored.attrs["S_JUMP"]) == ("SKIPPED", "COMPLETE")
    assert stored.attrs["CAL_VER"] == f"nsxr {nsxr.__version__}"
    assert stored.attrs["DATE"].startswith("2023-11-14T22:13:20")
    with fits.open(tmp_path / "a" / "x_rateints.fits") as hdus:
        rows = hdus["NSXR_PROVENANCE"].data
        assert {row["KEY"]: json.loads(row["VALUE"]) for row in rows} == expected
        assert hdus[0].header["DATE"] == stored.attrs["DATE"]
    again = xr.open_dataset(tmp_path / "a" / "x_rate.fits", engine="nirspec", chunks={})
    assert [entry["file"] for entry in again.nsxr.provenance["inputs"]] == [
        expected["inputs"][0]["file"],
        "x_rate.fits",
    ]
    assert again.nsxr.provenance["recipe"] == expected["recipe"]


def test_without_that_variable_only_dates_differ(tmp_path, loaded, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name in ("a", "b"):
        write_products(loaded, tmp_path / name, "x", progress=False)
    difference = fits.FITSDiff(*(tmp_path / name / "x_rate.fits" for name in ("a", "b")), ignore_keywords=["DATE"])
    assert difference.identical, difference.report()


def test_spectra_keep_it(tmp_path):
    slit, _ = simulate_trace(columns=60, seed=1)
    slit.attrs |= noted(slit.attrs, inputs=[{"file": "x_cal.fits", "fingerprint": "ab"}])
    spectrum = nsxr.extract_spectrum(slit)
    for name in ("a_x1d.fits", "a.zarr"):
        tree = nsxr.open_spectra(write_spectra(spectrum.drop_dims("row"), tmp_path / name))
        (found,) = [node.to_dataset() for node in tree.subtree if "flux" in node]
        assert found.nsxr.provenance["software"] == [software()]
        assert found.nsxr.provenance["inputs"][0] == {"file": "x_cal.fits", "fingerprint": "ab"}


def test_damaged_provenance_is_one_clear_line(tmp_path, loaded):
    write_products(loaded, tmp_path, "x", progress=False)
    for column, value in (("VALUE", "{no json"), ("KEY", None)):
        path = shutil.copy(tmp_path / "x_rate.fits", tmp_path / f"{column}_rate.fits")
        with fits.open(path, mode="update") as hdus:
            if value is None:
                hdus["NSXR_PROVENANCE"].columns.change_name(column, "OTHER")
            else:
                hdus["NSXR_PROVENANCE"].data[column][0] = value
        with pytest.raises(InputFileError, match="NSXR_PROVENANCE cannot be read"):
            xr.open_dataset(path, engine="nirspec", chunks={})
    assert provenance_of({KEY: "[]"}) == provenance_of({KEY: "{"}) == provenance_of({KEY: 3}) == {}


def test_differences_are_said():
    old = provenance_of(noted({}, inputs=[{"file": "a", "fingerprint": "1"}], references={"dark": {"file": "d"}}))
    old["recipe"] = {"parameters": {"jump": {"rejection_threshold": 4.0}}, "skip": []}
    new = json.loads(json.dumps(old))
    assert differences(old, new) == []
    new["inputs"][0]["fingerprint"], new["references"] = "2", {"dark": {"file": "e"}, "gain": {"file": "g"}}
    new["recipe"] = {"parameters": {"jump": {"rejection_threshold": 5.0, "x": 1}}, "skip": ["jump", "dark_current"]}
    assert differences(old, new) == [
        "input a: the content of a is another one",
        "reference dark: d -> e",
        "reference gain: none -> g",
        "jump.rejection_threshold: 4.0 -> 5.0",
        "jump.x: default -> 1",
        "skipped: nothing -> jump, dark_current",
    ]


# --- archives: what is there is compared with what is wanted, and made again


@pytest.fixture(scope="module")
def archived(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("archived") / "a.zarr"
    archives.add_exposure(path, made.uncal[0], made.references["gain"].parent)
    return path


def test_adding_again_says_what_differs(archived, made, run):
    words = ["archive", "add", archived, made.uncal[0], "--references", made.references["gain"].parent]
    assert "already there" in run(*words)
    output = run(*words, "--set", "jump.rejection_threshold=5", "--skip", "linearity", "--raw", status=1)
    assert "jump.rejection_threshold: default -> 5.0" in output
    assert "skipped: nothing -> linearity" in output
    assert "raw: not kept -> kept" in output
    with pytest.raises(OutputExistsError, match="is there already; ask"):
        archives.add_exposure(archived, made.uncal[0], made.references["gain"].parent)
    references = made.references["gain"].parent
    with pytest.raises(ArchivedOtherwiseError, match=r"persistence\.persistence_time: default -> 10"):
        archives.add_exposure(archived, made.uncal[0], references, persistence={"persistence_time": 10.0})


def test_replay_is_identical_and_finds_what_changed(archived, made, run, tmp_path, monkeypatch):
    assert run("archive", "replay", archived, "01234/001") == f"{NODE}: identical\n"
    assert "has no exposure 01234/00;" in run("archive", "replay", archived, "01234/00", status=1)
    monkeypatch.setattr(provenance, "software", lambda: {**software(), "numpy": "9.9"})
    copied = Path(shutil.copytree(archived, tmp_path / "b.zarr"))
    import zarr

    array = zarr.open_array(str(copied / NODE / "rate" / "sci"), mode="r+")
    array[4, 5] = array[4, 5] + 0.5
    output = run("archive", "replay", copied, status=1)
    assert (
        output
        == f"{NODE}: rate/sci: 1 values differ, by up to 0.5 (made by other versions: numpy {np.__version__} -> 9.9)\n"
    )


def test_replay_is_refused_where_inputs_changed(made, tmp_path, run):
    folder = tmp_path / "files"
    shutil.copytree(made.uncal[0].parent, folder)
    path, uncal = tmp_path / "a.zarr", folder / made.uncal[0].name
    archives.add_exposure(path, uncal, folder / "references", progress=False)
    dark = folder / "references" / made.references["dark"].name
    content = dark.read_bytes()
    with fits.open(dark, mode="update") as hdus:
        hdus[0].header["TITLE"] = "another one"
    output = run("archive", "replay", path, status=1)
    assert "not replayed: inputs or references have changed since it was made (" in output
    assert f"the content of {dark.name} is another one" in output
    dark.write_bytes(content)
    uncal.unlink()
    output = run("archive", "replay", path, status=1)
    assert "not replayed: " in output
    assert "no such file" in output


# --- what is made of several


def test_means_have_the_steps_that_all_share_and_their_own(loaded):
    first = loaded["rate"].to_dataset()
    first.attrs |= {"filename": "a", KEY: noted({}, inputs=[{"file": "a"}])[KEY]}
    second = record(first, "outlier_detection", parameters={"threshold": 5}, sci=first["sci"] + 1)
    second.attrs |= {"filename": "b", "EXPOSURE": "2", "EXPSTART": 61060.0, KEY: noted({}, inputs=[{"file": "b"}])[KEY]}
    for combine, step in ((average_exposures, "average_exposures"), (combine_backgrounds, "combine_backgrounds")):
        mean = combine([first, second])
        assert [entry["step"] for entry in steps(mean)] == [*(e["step"] for e in steps(first)), step]
        one, other = steps(mean)[-1]["parameters"]["members"]
        assert (one, other["name"]) == ({"name": "a"}, "b")
        assert [entry["step"] for entry in other["steps"]] == ["outlier_detection"]
        assert [entry["file"] for entry in mean.nsxr.provenance["inputs"]] == ["a", "b"]
    assert merged([{}, {}]) == {}


# --- Datasets for people


def test_errors_are_made_of_variances(loaded):
    rate = loaded["rateints"].to_dataset()
    with forbid_computes():
        error = rate.chunk().nsxr.err
    expected = np.sqrt(rate["var_poisson"] + rate["var_rnoise"])
    np.testing.assert_array_equal(error, expected)
    assert (error.dims, error.attrs["units"], error.dtype) == (rate["sci"].dims, "DN/s", np.float32)
    slit, _ = simulate_trace(columns=60, seed=1)
    slit["var_flat"] = slit["var_rnoise"].where(slit["row"] > slit["row"][2])
    total = slit["var_poisson"] + slit["var_rnoise"] + slit["var_flat"].fillna(0)
    np.testing.assert_allclose(slit.nsxr.err, np.sqrt(total), rtol=1e-6)
    spectrum = nsxr.extract_spectrum(slit.drop_vars("var_flat"))
    assert spectrum.nsxr.err.attrs["units"] == spectrum["flux"].attrs["units"]
    with pytest.raises(nsxr.errors.ModelError, match="no variances"):
        xr.Dataset({"sci": ("x", [1.0])}).nsxr.err  # noqa: B018


def test_nodes_of_trees_have_the_same(loaded, tree):
    rate = loaded["rate"].to_dataset()
    xr.testing.assert_identical(loaded["rate"].nsxr.err, rate.nsxr.err)
    assert loaded["rateints"].nsxr.steps == loaded["rateints"].to_dataset().nsxr.steps
    assert loaded["rate"].nsxr.provenance == rate.nsxr.provenance
    with forbid_computes():
        assert tree["rateints"].nsxr.err.dims == ("integration", "row", "column")
    for name in ("err", "steps", "provenance"):
        with pytest.raises(nsxr.errors.ModelError, match="holds other nodes only: 'rate', 'rateints'"):
            getattr(loaded.nsxr, name)


def holds(value):
    """Whether netCDF, of any version, can hold a value as an attribute."""
    return isinstance(value, str | int | float | np.ndarray | np.generic) and not isinstance(value, bool | np.bool_)


def test_attributes_are_such_as_netcdf_holds(made, loaded, tmp_path):
    exposure = nsxr.open_exposure(made.uncal)
    references = nsxr.open_references(made.references["gain"].parent, exposure)
    slit, _ = simulate_trace(columns=60, seed=1)
    spectrum = nsxr.extract_spectrum(slit)
    small = small_exposure(**SUB32, columns=None)
    several = [
        *references.values(),
        *small.references.values(),
        *(node.to_dataset() for node in loaded.children.values()),
    ]
    for dataset in [exposure, small.exposure, slit, nsxr.fit_trace_model(slit), spectrum, *several]:
        attributes = [dataset.attrs, *(array.attrs for array in dataset.variables.values())]
        assert [item for attrs in attributes for item in attrs.items() if not holds(item[1])] == []
    exposure.to_netcdf(tmp_path / "x.nc", engine="scipy")
    again = xr.open_dataset(tmp_path / "x.nc", engine="scipy")
    np.testing.assert_array_equal(again["sci"], exposure["sci"])
    assert again.attrs["fits_header"] == exposure.attrs["fits_header"]
    assert exposure.attrs["TSOVISIT"] == 1
    write_products(loaded, tmp_path, "x", progress=False)
    header, before = fits.getheader(tmp_path / "x_rate.fits"), fits.getheader(made.uncal[0])
    for key in ("TSOVISIT", "HGA_MOVE", "ZEROFRAM"):  # T and F stay what they were
        assert header.cards[key].image == before.cards[key].image


def test_headers_are_kept_once(made, tree):
    rate = tree["rate"].to_dataset()
    assert all("fits_header" not in array.attrs for array in rate.variables.values())
    bare = (rate["sci"] * 2).drop_attrs()
    assert len((rate["sci"] * 2)._repr_html_()) - len(bare._repr_html_()) < 800
    assert len(repr(rate)) < 3000


def test_tables_in_zarr_have_the_rows_that_there_are(tmp_path, loaded):
    rows = np.full((16, 8), np.nan, np.float32)
    rows[:3] = np.arange(24).reshape(3, 8)
    for name, table in (("memory", rows), ("lazy", xr.DataArray(rows).chunk().data)):
        given = {
            k: node.to_dataset().assign(snowballs=(("snowball", "property"), table))
            for k, node in loaded.children.items()
        }
        write_products(xr.DataTree.from_dict(given), tmp_path, name, ("zarr",), progress=False)
        found = xr.open_dataset(tmp_path / f"{name}.zarr", group="rate", engine="zarr", chunks={})
        np.testing.assert_array_equal(found["snowballs"], rows[:3])


def test_names_are_where_people_look_for_them():
    assert nsxr.PixelFlag.SATURATED == 2
    assert nsxr.GroupFlag.JUMP_DET == 4
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        nsxr.nonsense  # noqa: B018


# --- several simulated exposures


def test_simulated_exposures_have_numbers_and_are_not_replaced_silently(tmp_path, run):
    words = ["simulate", "-o", tmp_path, "--subarray", "SUB32", "--groups", 2]
    run(*words)
    assert "already there" in run(*words, "--seed", 2, status=1)
    run(*words, "--seed", 2, "--overwrite")
    run(*words, "--programme", 77, "--observation", 2, "--exposure", 3)
    first, second = sorted(tmp_path.glob("*_uncal.fits"))
    assert first.name == "jw00077002001_03101_00003_nrs1_uncal.fits"
    headers = [fits.getheader(path) for path in (first, second)]
    assert [headers[0][key] for key in ("PROGRAM", "OBSERVTN", "EXPOSURE", "VISIT_ID")] == [
        "00077",
        "002",
        "3",
        "00077002001",
    ]
    assert headers[0]["EXPSTART"] > headers[1]["EXPEND"] + 1
    assert headers[0]["FILENAME"] == first.name
    changed = next((tmp_path / "references").glob("*_gain_*"))
    changed.write_bytes(changed.read_bytes() + bytes(2880))
    assert "with other content" in run(*words, "--exposure", 4, status=1)
