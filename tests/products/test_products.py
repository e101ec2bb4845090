import errno
import fcntl
import io
import itertools
import os
import sys
import weakref
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from nsxr.compute.progress import compute
from nsxr.errors import ModelError, OutputExistsError, ParameterError
from nsxr.formats.fits_tables import TIME_COLUMNS
from nsxr.model.history import record
from nsxr.pipelines.detector1 import detector1
from nsxr.products.write import product_paths, write_products
from nsxr.simulate import Artifacts, small_exposure
from nsxr.storage.whole import _Output
from nsxr.testing import count_computes

INTEGRATIONS, GROUPS, ROWS, COLUMNS = 4, 3, 6, 8
OWN_TABLES = ("NSXR_STEPS", "NSXR_PROVENANCE", "ASDF")


def raw_block(block_info=None, log=None, fail_at=None):
    """One block of raw pixels whose values tell where they are; notes that it was read."""
    where = block_info[None]["array-location"]
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{where}\n")
    if fail_at is not None and where[0][0] == fail_at:
        raise RuntimeError("a block failed")
    index = np.meshgrid(*(np.arange(a, b) for a, b in where), indexing="ij")
    return sum(i * 10.0**k for k, i in enumerate(index[::-1])).astype("f4")


def raw(log=None, fail_at=None, integrations=INTEGRATIONS):
    chunks = ((1,) * integrations, (GROUPS,), (ROWS // 2,) * 2, (COLUMNS,))
    return da.map_blocks(raw_block, chunks=chunks, dtype="f4", meta=np.empty((0,) * 4, "f4"), log=log, fail_at=fail_at)


def ramp(**options):
    dims = ("integration", "group", "row", "column")
    data = raw(**options)
    coords = {"integration": np.arange(data.shape[0]) + 1, "group": np.arange(GROUPS) + 1}
    coords |= {"row": np.arange(ROWS), "column": np.arange(COLUMNS)}
    times = {name: ("integration", 6e4 + np.arange(data.shape[0])) for name in TIME_COLUMNS}
    dataset = xr.Dataset(
        {"sci": (dims, data, {"units": "DN"})}, coords | times, {"EXP_TYPE": "NRS_BRIGHTOBJ", "NGROUPS": GROUPS}
    )
    dq = xr.zeros_like(dataset["sci"].isel(integration=0, group=0, drop=True), dtype="u4")
    return record(dataset, "dq_init", pixeldq=dq, groupdq=xr.zeros_like(dataset["sci"], dtype="u1"))


def tree_of(ramps):
    """Stand-in for the pipeline: slopes are last minus first group, with chained lazy arithmetic."""
    slope = (ramps["sci"].isel(group=-1, drop=True) - ramps["sci"].isel(group=0, drop=True)) / np.float32(7)
    slope = slope.where(slope["column"] != 3)
    noise = xr.zeros_like(slope) + np.float32(0.1)
    flags = slope.isnull().astype("u4") * np.uint32(0x80000001)

    def product(sci, dq, poisson, read):
        units = {"sci": "DN/s", "var_poisson": "(DN/s)2", "var_rnoise": "(DN/s)2"}
        coords = sci.drop_vars([c for c in sci.coords if c in TIME_COLUMNS and "integration" not in sci.dims]).coords
        empty = xr.Dataset(coords=coords, attrs=ramps.attrs)
        new = {"sci": sci, "dq": dq, "var_poisson": poisson, "var_rnoise": read}
        return record(empty, "ramp_fit", parameters={"algorithm": "OLS_C"}, units=units, **new)

    rateints = product(slope, flags, np.abs(slope), noise)
    mean = slope.mean("integration")
    rate = product(mean, flags.max("integration"), np.abs(mean), noise.max("integration"))
    return xr.DataTree.from_dict({"rate": rate, "rateints": rateints})


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def bits(array):
    array = np.ascontiguousarray(array)
    return array.astype(array.dtype.newbyteorder("=")).view(f"u{array.dtype.itemsize}")


def assert_same_pixels(directory, root, tree):
    with xr.open_datatree(directory / f"{root}.zarr", engine="zarr", chunks=None) as stored:
        for node in ("rate", "rateints"):
            expected = tree[node].to_dataset().compute(scheduler="synchronous")
            with fits.open(directory / f"{root}_{node}.fits") as hdus:
                for name in ("sci", "dq", "var_poisson", "var_rnoise"):
                    pixels = bits(stored[node][name].values)
                    np.testing.assert_array_equal(pixels, bits(hdus[name].data))
                    np.testing.assert_array_equal(pixels, bits(expected[name].values))


@pytest.mark.parametrize("formats", [("fits",), ("zarr",), ("fits", "zarr")])
def test_names(tmp_path, formats):
    ramps = ramp()
    paths = write_products(tree_of(ramps), tmp_path / "new", "jw1_nrs1", formats, steps={"superbias": ramps})
    expected = ["jw1_nrs1_superbias.fits"]
    expected += ["jw1_nrs1_rate.fits", "jw1_nrs1_rateints.fits"] if "fits" in formats else []
    expected += ["jw1_nrs1.zarr"] if "zarr" in formats else []
    assert entries(tmp_path / "new") == sorted(expected) == sorted(path.name for path in paths)
    with fits.open(tmp_path / "new" / "jw1_nrs1_superbias.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "PIXELDQ", "GROUPDQ", "INT_TIMES", *OWN_TABLES]
        assert hdus[0].header["FILENAME"] == "jw1_nrs1_superbias.fits"
        np.testing.assert_array_equal(hdus["SCI"].data, ramps["sci"].values)


def test_everything_in_one_compute_reading_raw_once(tmp_path):
    log = tmp_path / "log"
    ramps = ramp(log=str(log))
    tree = tree_of(ramps)
    with count_computes() as counter:
        write_products(tree, tmp_path / "out", "x", ("fits", "zarr"), steps={"dq_init": ramps})
    assert counter.computes == 1
    reads = log.read_text().splitlines()
    assert len(reads) == len(set(reads)) == INTEGRATIONS * 2
    assert_same_pixels(tmp_path / "out", "x", tree)


def test_arrays_in_memory_need_no_compute(tmp_path):
    tree = tree_of(ramp()).map_over_datasets(lambda node: node.compute(scheduler="synchronous"))
    with count_computes() as counter:
        write_products(tree, tmp_path, "x", ("fits", "zarr"))
    assert counter.computes == 0
    assert_same_pixels(tmp_path, "x", tree)


def test_blocks_stream(tmp_path):
    """However many integrations there are, few blocks are alive at once."""
    alive, most = 0, 0

    class Block(np.ndarray):
        pass

    def gone():
        nonlocal alive
        alive -= 1

    def make(block_info=None):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        shape = [b - a for a, b in block_info[None]["array-location"]]
        block = np.zeros(shape, "f4").view(Block)
        weakref.finalize(block, gone)
        return block

    integrations = 40
    chunks = ((1,) * integrations, (GROUPS,), (ROWS,), (COLUMNS,))
    data = da.map_blocks(make, chunks=chunks, dtype="f4", meta=np.empty((0,) * 4, "f4"))
    dims = ("integration", "group", "row", "column")
    coords = {"integration": np.arange(integrations) + 1, "group": np.arange(GROUPS) + 1}
    with dask.config.set(scheduler="synchronous"):
        ramps = xr.Dataset({"sci": (dims, data, {"units": "DN"})}, coords)
        write_products(xr.DataTree(), tmp_path, "x", steps={"linearity": ramps})
    assert most <= 3
    assert alive == 0


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("formats", [("fits",), ("zarr",), ("fits", "zarr")])
def test_a_failing_block_leaves_nothing(tmp_path, scheduler, formats):
    tree = tree_of(ramp(fail_at=2))
    with dask.config.set(scheduler=scheduler), pytest.raises(RuntimeError, match="a block failed"):
        write_products(tree, tmp_path, "x", formats)
    assert entries(tmp_path) == []


def test_a_failing_block_leaves_older_products(tmp_path):
    write_products(tree_of(ramp()), tmp_path, "x", ("fits", "zarr"))
    before = (tmp_path / "x_rate.fits").read_bytes()
    with pytest.raises(RuntimeError, match="a block failed"):
        write_products(tree_of(ramp(fail_at=2)), tmp_path, "x", ("fits", "zarr"), overwrite=True)
    assert entries(tmp_path) == ["x.zarr", "x_rate.fits", "x_rateints.fits"]
    assert (tmp_path / "x_rate.fits").read_bytes() == before
    assert_same_pixels(tmp_path, "x", tree_of(ramp()))


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nsxr.products.write.compute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_products(tree_of(ramp()), tmp_path, "x", ("fits", "zarr"))
    assert entries(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("happens", ["before", "after"])
@pytest.mark.parametrize(("older", "steps"), [(False, 3), (True, 4)], ids=["nothing there", "older products"])
def test_products_appear_all_or_none(tmp_path, monkeypatch, older, steps, happens, error):
    """Whichever step of giving the final names fails, all products are the older ones, or none are there.

    Two files and a directory take a step each; an older directory is set aside in another one.
    """
    if older:
        write_products(tree_of(ramp()), tmp_path, "x", ("fits", "zarr"))
    before = contents(tmp_path)
    changed = tree_of(ramp().assign_attrs(TARGNAME="changed"))
    replace, publish = os.replace, _Output.publish
    for number in range(steps):
        count = itertools.count()

        def step(source, target, count=count, number=number):
            fails = next(count) == number
            if not fails or happens == "after":
                replace(source, target)
            if fails:
                raise error

        def publishing(output, step=step):
            with monkeypatch.context() as patch:  # here alone: zarr renames files as well
                patch.setattr(os, "replace", step)
                publish(output)

        monkeypatch.setattr(_Output, "publish", publishing)
        with pytest.raises(type(error)):
            write_products(changed, tmp_path, "x", ("fits", "zarr"), overwrite=older)
        assert next(count) == number + 1
        assert contents(tmp_path) == before


def test_older_products_are_replaced_where_files_have_no_second_names(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write_products(tree_of(ramp()), tmp_path, "x")
    before = contents(tmp_path)
    write_products(tree_of(ramp().assign_attrs(TARGNAME="changed")), tmp_path, "x", overwrite=True)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_what_a_killed_run_had_set_aside_is_put_back(tmp_path, caplog):
    write_products(tree_of(ramp()), tmp_path, "x", ("zarr",))
    before = contents(tmp_path / "x.zarr")
    os.replace(tmp_path / "x.zarr", tmp_path / ".x.zarr.01234567.old")
    with pytest.raises(OutputExistsError, match=r"x\.zarr already there"):
        write_products(tree_of(ramp()), tmp_path, "x", ("zarr",))
    assert entries(tmp_path) == ["x.zarr"]
    assert contents(tmp_path / "x.zarr") == before
    assert "x.zarr: put back, a run that was to replace it was killed" in caplog.text


def test_products_that_another_run_writes_are_refused(tmp_path):
    with open(tmp_path / ".x.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputExistsError, match="another run is writing x to"):
            write_products(tree_of(ramp()), tmp_path, "x")
        assert entries(tmp_path) == [".x.lock"]
        write_products(tree_of(ramp()), tmp_path, "y")
    write_products(tree_of(ramp()), tmp_path, "x")  # the file of a run that was killed is no lock
    assert entries(tmp_path) == ["x_rate.fits", "x_rateints.fits", "y_rate.fits", "y_rateints.fits"]


def test_without_locks_nothing_that_may_be_in_use_is_removed(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".x_rate.fits.01234567.partial").touch()
    write_products(tree_of(ramp()), tmp_path, "x")
    assert entries(tmp_path) == [".x_rate.fits.01234567.partial", "x_rate.fits", "x_rateints.fits"]


def test_full_disk_is_noticed_before_anything_is_read(tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    log = tmp_path / "log"
    with pytest.raises(OSError, match="No space left"):
        write_products(tree_of(ramp(log=str(log))), tmp_path / "out", "x", ("fits", "zarr"))
    assert entries(tmp_path / "out") == []
    assert not log.exists()


def test_disk_filling_up_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write_products(tree_of(ramp()), tmp_path, "x", ("fits", "zarr"))
    assert entries(tmp_path) == []


@pytest.mark.parametrize("formats", [("fits",), ("zarr",), ("fits", "zarr")])
def test_existing_outputs_are_refused_before_anything_is_computed(tmp_path, formats):
    log = tmp_path / "log"
    write_products(tree_of(ramp()), tmp_path / "out", "x", formats)
    contents = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(OutputExistsError, match=r"x_rateints\.fits|x\.zarr"):
        write_products(tree_of(ramp(log=str(log))), tmp_path / "out", "x", formats)
    assert not log.exists()
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == contents
    changed = tree_of(ramp().assign_attrs(TARGNAME="changed"))
    write_products(changed, tmp_path / "out", "x", formats, overwrite=True)
    assert set(entries(tmp_path / "out")) == {p.relative_to(tmp_path / "out").parts[0] for p in contents}
    if "zarr" in formats:
        with xr.open_datatree(tmp_path / "out" / "x.zarr", engine="zarr", chunks=None) as tree:
            assert tree["rate"].attrs["TARGNAME"] == "changed"
    else:
        assert fits.getval(tmp_path / "out" / "x_rate.fits", "TARGNAME") == "changed"


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="netcdf"):
        product_paths(["rate"], tmp_path, "x", ["netcdf"])
    with pytest.raises(ParameterError, match="formats"):
        product_paths(["rate"], tmp_path, "x", [])
    with pytest.raises(ParameterError, match="rate"):
        product_paths(["rate"], tmp_path, "x", ["fits"], ["rate"])
    with pytest.raises(ModelError, match="nothing to write"):
        write_products(xr.DataTree(), tmp_path, "x")
    tree = tree_of(ramp())
    tree["rate"] = tree["rate"].to_dataset().drop_vars("dq")
    with pytest.raises(ModelError, match="'dq' is missing"):
        write_products(tree, tmp_path, "x")
    assert entries(tmp_path) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "shown"),
    [(True, io.StringIO, False), (True, Terminal, True), (False, Terminal, False), ("force", io.StringIO, True)],
)
def test_progress_is_for_terminals(progress, stream, shown):
    out = stream()
    with dask.config.set(scheduler="synchronous"):
        compute(da.ones(4, chunks=1).sum(), progress=progress, label="adding", stream=out)
    assert ("adding" in out.getvalue()) == shown
    if shown:
        assert "100%" in out.getvalue()
        assert out.getvalue().endswith("\n")


@pytest.mark.parametrize("kernel", [True, False])
def test_progress_is_an_output_of_a_cell_in_notebooks(monkeypatch, kernel):
    class Handle:
        def update(self, content, raw):
            assert raw
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        assert raw
        assert display_id
        shown.append(content["text/plain"])
        return Handle()

    shown = []
    shell = SimpleNamespace(kernel=None) if kernel else SimpleNamespace()  # IPython in a terminal has none
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with dask.config.set(scheduler="synchronous"):
        compute(da.ones(4, chunks=1).sum(), label="adding")
        compute(da.ones(4, chunks=1).sum(), label="adding", progress=False)
    assert bool(shown) == kernel
    assert all(line.startswith("adding ") and "\r" not in line for line in shown)
    assert not kernel or "100%" in shown[-1]
    assert sys.stderr.getvalue() == ""


def test_progress_survives_failures_and_plain_terminals():
    class Ascii(Terminal):
        def write(self, text):
            return super().write(text.encode("ascii").decode())

    out = Ascii()
    with pytest.raises(RuntimeError, match="a block failed"):
        compute(raw(fail_at=1), stream=out)
    assert "#" in out.getvalue() or "-" in out.getvalue()


def test_distributed(tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    (tmp_path / "scratch").mkdir()
    tree = tree_of(ramp())
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "scratch")}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster),
    ):
        out = Terminal()
        compute(da.ones(4, chunks=1).sum(), stream=out)
        assert "100%" in out.getvalue()
        write_products(tree, tmp_path / "out", "x", ("fits", "zarr"), steps={"dq_init": ramp()})
        with pytest.raises(RuntimeError, match="a block failed"):
            write_products(tree_of(ramp(fail_at=2)), tmp_path / "failed", "x", ("fits", "zarr"))
        assert entries(tmp_path / "failed") == []
    assert_same_pixels(tmp_path / "out", "x", tree)


@pytest.mark.parametrize("lazy", [False, True])
def test_numbers_known_late_reach_the_header(tmp_path, lazy):
    small = small_exposure(
        readout="NRSRAPID", subarray="SUB512S", groups=6, columns=32, artifacts=Artifacts(cosmic_rays=2000)
    )
    exposure = small.exposure.chunk({"row": 8}).assign_coords(small.exposure.coords) if lazy else small.exposure
    tree = detector1(exposure, small.references)
    (path, _) = write_products(tree, tmp_path, "x", progress=False)
    header = fits.getheader(path)
    assert header["PRIMECRS"] == pytest.approx(float(tree["rate"]["primary_cosmic_rays"]))
    assert header["PRIMECRS"] > 0
    assert header["EXTNCRS"] == float(tree["rate"]["extended_emission_events"])
    few = detector1(exposure.isel(group=slice(0, 2)).assign_attrs(NGROUPS=2), small.references)
    (path, _) = write_products(few, tmp_path, "few", progress=False)
    assert "PRIMECRS" not in fits.getheader(path)
    nothing = tree["rate"].to_dataset()
    nothing["primary_cosmic_rays"] = nothing["primary_cosmic_rays"] * np.nan
    nothing["primary_cosmic_rays"].attrs["keyword"] = "PRIMECRS"
    (path,) = write_products(xr.DataTree.from_dict({"rate": nothing}), tmp_path, "nothing", progress=False)
    assert fits.getheader(path)["PRIMECRS"] is None
