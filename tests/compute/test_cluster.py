"""Clusters: the same bytes wherever and however the work is done, and clear errors where it cannot be."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numba
import numpy as np
import pytest
from click.testing import CliRunner

import nsxr
from nsxr import cli
from nsxr.compute.cluster import _sizes, _unseen, connected, require_reachable, worker_errors
from nsxr.errors import ClusterError, ParameterError
from nsxr.kernels.ramps import ramp_fit
from nsxr.products.write import write_products
from nsxr.simulate import simulate_exposure

distributed = pytest.importorskip("distributed")

ROOT = "jw01234001001_03101_00001_nrs1"
LIMIT = "768MiB"
TRIES = 2
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find the tests


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 12, tzinfo=tz)


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    """Stop the clock: products carry the time when they were made."""
    monkeypatch.setattr("nsxr.formats.keywords.datetime", Noon)


@pytest.fixture
def blocks(monkeypatch):
    """Cut the series into blocks of 25 integrations."""
    monkeypatch.setattr("nsxr.compute.layouts.CHUNK_BYTES", 25 * 5 * 32 * 32 * 4)


@pytest.fixture
def passes(blocks, monkeypatch):
    """Do not keep the series in memory either: limits are found first, and wait on the workers."""
    monkeypatch.setattr("nsxr.compute.layouts.KEPT_BYTES", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {"readout": "NRSRAPID", "subarray": "SUB32", "groups": 5, "integrations": 100}
    return simulate_exposure(tmp_path_factory.mktemp("series"), **settings)


QUICKLY = ("clean_flicker_noise",)
"""Steps that are left out where it does not matter what is computed."""


def calibrate(made, folder, chunks="raw", formats=("fits",), skip=QUICKLY):
    exposure = nsxr.open_exposure(made.uncal, chunks=chunks)
    tree = nsxr.detector1(exposure, nsxr.open_references(made.references, exposure), skip=skip)
    return tree, write_products(tree, folder, ROOT, formats)


def digests(paths):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def expected(made, tmp_path_factory):
    """Products in the blocks that are the default (one), made by one thread, by the steps that are left out."""
    found = {}
    for skip in (QUICKLY, ()):
        with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
            patch.setattr("nsxr.formats.keywords.datetime", Noon)
            tree, paths = calibrate(made, tmp_path_factory.mktemp("expected"), skip=skip)
        assert tree["rateints"]["sci"].data.npartitions == 1
        found[skip] = digests(paths)
    return found


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nsxr.compute.cluster._TRIES", TRIES)
        with connected(workers=2, memory_limit=LIMIT) as client:
            yield client


# the same bytes


@pytest.mark.parametrize(
    ("chunks", "skip"),
    [
        ("raw", QUICKLY),
        ({"integration": 7}, QUICKLY),
        ({"integration": 50, "row": 4}, QUICKLY),
        ({"integration": 7}, ()),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_chunkings_make_the_same_bytes(made, expected, passes, tmp_path, threads, chunks, skip):
    with dask.config.set(scheduler="threads", num_workers=threads):
        tree, paths = calibrate(made, tmp_path, chunks, skip=skip)
    assert tree["rateints"]["sci"].data.npartitions == 4
    assert digests(paths) == expected[skip]


def test_workers_make_the_same_bytes(made, expected, passes, client, tmp_path):
    _, paths = calibrate(made, tmp_path / "two")
    assert digests(paths) == expected[QUICKLY]
    client.cluster.scale(4)
    client.wait_for_workers(4, timeout=60)
    try:
        _, paths = calibrate(made, tmp_path / "four", skip=())
    finally:
        client.cluster.scale(2)
    assert digests(paths) == expected[()]


def test_kernels_travel_by_name_and_are_not_compiled_again():
    kernels = [value for value in vars(ramp_fit).values() if isinstance(value, numba.core.registry.CPUDispatcher)]
    assert kernels
    for kernel in kernels:
        for text in (pickle.dumps(kernel), cloudpickle.dumps(kernel)):
            assert len(text) < 200
            assert pickle.loads(text) is kernel
    other = numba.njit(lambda x: x + 1)
    assert pickle.loads(cloudpickle.dumps(other))(1) == 2


# workers die


@dataclass(frozen=True)
class Trouble:
    """A place for blocks where something happens after a block has been written, once or each time."""

    target: Any
    happens: Any
    mark: Path

    def __setitem__(self, index, block):
        self.target[index] = block
        self.happens(self.mark)


def once(mark):
    """Say whether this is the first call in any process."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def take_too_much(seconds=20):
    ones = np.ones(96 * 2**20)  # 768 MiB
    time.sleep(seconds)
    return ones[0]


@pytest.fixture
def trouble(monkeypatch, tmp_path):
    """Return a function after which something happens where a product is written."""
    from nsxr.products import write as products

    def arrange(happens):
        def create(*words):
            return [(array, Trouble(target, happens, tmp_path / "mark")) for array, target in create_fits(*words)]

        create_fits = products.create_fits
        monkeypatch.setattr(products, "create_fits", create)

    return arrange


def kill_once(mark):
    if once(mark):
        os.kill(os.getpid(), signal.SIGKILL)


def take_too_much_once(mark):
    if once(mark):
        take_too_much()


@pytest.mark.slow  # workers are processes that import nsxr, and one more is started for the one that died
@pytest.mark.parametrize("happens", [kill_once, take_too_much_once], ids=["killed", "out of memory"])
def test_a_worker_that_dies_costs_time_only(made, expected, passes, client, trouble, tmp_path, happens):
    client.wait_for_workers(2, timeout=60)
    before = set(client.run(os.getpid).values())
    trouble(happens)
    _, paths = calibrate(made, tmp_path / "out")
    assert (tmp_path / "mark").exists()
    assert digests(paths) == expected[QUICKLY]
    client.wait_for_workers(2, timeout=60)
    assert len(before - set(client.run(os.getpid).values())) == 1


def test_blocks_for_which_no_worker_has_memory_are_one_clear_error(made, client, trouble, tmp_path):
    trouble(lambda mark: take_too_much())
    with pytest.raises(ClusterError, match=rf"^{TRIES + 1} workers died .* memory limit of 768.00 MiB") as caught:
        calibrate(made, tmp_path / "out", formats=("fits", "zarr"))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    client.wait_for_workers(2, timeout=60)


def test_work_without_workers_is_given_up(monkeypatch):
    def lose_all():
        with connected(workers=1) as client:
            client.cluster.scale(0)
            with worker_errors():
                client.submit(os.getpid).result(timeout=60)

    monkeypatch.setattr("nsxr.compute.cluster._NO_WORKERS", "0.5s")
    with pytest.raises(ClusterError, match="has lost all its workers, and none came back"):
        lose_all()


def test_after_an_error_no_worker_is_at_work_any_more(client, tmp_path):
    def write_late(folder):
        (folder / "started").touch()
        time.sleep(1)
        (folder / "late").touch()

    def fail():
        with worker_errors():
            future = client.submit(write_late, tmp_path, pure=False)
            while not (tmp_path / "started").exists():
                time.sleep(0.01)
            future.cancel()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert (tmp_path / "late").exists()


def test_a_block_that_cannot_be_written_leaves_nothing(made, client, trouble, tmp_path):
    def fail(mark):
        if once(mark):
            raise OSError("the disk is full")

    trouble(fail)
    with pytest.raises(OSError, match="the disk is full"):
        calibrate(made, tmp_path / "out", formats=("fits", "zarr"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lost_connection_is_an_error_and_no_product(made, blocks, client, trouble, tmp_path):
    """What a client had asked for is given up when its connection breaks, even if it is there again in no time."""

    def wait(mark):
        if once(mark):
            while not mark.with_suffix(".cut").exists():
                time.sleep(0.01)

    def cut():
        while not (tmp_path / "mark").exists():
            time.sleep(0.01)
        other.sync(other.scheduler_comm.comm.close)
        (tmp_path / "mark.cut").touch()

    client.wait_for_workers(2, timeout=60)
    trouble(wait)
    with distributed.Client(client.scheduler.address) as other:
        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises(ClusterError, match=f"the scheduler at {client.scheduler.address} was lost"):
            calibrate(made, tmp_path / "out")
        thread.join()
        while other.status != "running":  # closed while it connects, it would leave a socket open
            time.sleep(0.05)
    assert list((tmp_path / "out").iterdir()) == []


# what workers can reach


def test_reachable_files_and_directories_pass_and_nothing_stays_behind(made, client, tmp_path):
    folder = made.references["gain"].parent
    paths = [*made.uncal, folder, "s3://bucket/nowhere_uncal.fits", tmp_path / "nothing_here_either.fits"]
    require_reachable(client, paths, tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_unreachable_files_are_named_with_the_worker_and_the_remedy(made, client, tmp_path, monkeypatch):
    raw = made.uncal[0]
    monkeypatch.setattr("nsxr.compute.cluster._sizes", lambda paths: {"/nowhere/raw_uncal.fits": 9, str(raw): 10})
    with pytest.raises(ClusterError, match=r"has no /nowhere/raw_uncal\.fits") as caught:
        require_reachable(client, [raw], tmp_path / "a" / "b")
    for address in client.scheduler_info()["workers"]:
        assert f"{address} has no /nowhere/raw_uncal.fits; " in str(caught.value)
    assert f"has another {raw}, of {raw.stat().st_size} bytes instead of 10" in str(caught.value)
    assert "use a file system that all share, or URLs" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_directories_are_checked_file_by_file(made, tmp_path):
    folder = made.references["gain"].parent
    sizes = _sizes([str(folder), str(made.uncal[0]), str(tmp_path / "nothing")])
    assert set(sizes) == {str(path) for path in [*made.references.values(), made.uncal[0]]}
    assert _unseen(sizes, None) == []


def test_an_output_directory_that_a_worker_does_not_see(client, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "touch", lambda path: None)  # the workers look in vain
    with pytest.raises(ClusterError, match=f"does not see the output directory {tmp_path}"):
        require_reachable(client, [], tmp_path)


# connecting


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"scheduler": "tcp://localhost:1", "workers": 2}, "not both"),
        ({"memory_limit": "2GB"}, "give their number as well"),
        ({"scheduler": "tcp://localhost:1", "memory_limit": "2GB"}, "give their number as well"),
        ({"workers": 0}, "0 workers asked for, expected 1 to 1024"),
        ({"workers": 1, "memory_limit": "much"}, "'much' is not a size such as 2GB"),
        ({"workers": 1, "memory_limit": "2"}, "'2' is 2 B for each worker, expected at least 512.00 MiB"),
        ({"performance_report": "report.html"}, "needs a scheduler or workers"),
        ({"workers": 1, "performance_report": "nowhere/report.html"}, "directory that does not exist"),
    ],
)
def test_contradictions(words, expected):
    with pytest.raises(ParameterError, match=expected), connected(**words):
        pass


def test_nothing_asked_for_is_threads_without_importing_distributed():
    program = """
import sys
import nsxr.cli
from nsxr.compute.cluster import connected
with connected() as client:
    assert client is None
assert "distributed" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParameterError, match=r'pip install "nsxr\[distributed\]"'), connected(workers=1):
        pass
    monkeypatch.setattr("nsxr.compute.cluster.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="pip install bokeh"), connected(workers=1, performance_report="a.html"):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://somewhere:9", "127.0.0.1"])
def test_a_scheduler_that_does_not_answer(monkeypatch, address):
    monkeypatch.setattr("nsxr.compute.cluster._PATIENCE", 1)
    before = dask.config.get("scheduler", None)
    with pytest.raises(ClusterError, match=f"no dask scheduler answers at {address} within 1 s"), connected(address):
        pass
    assert dask.config.get("scheduler", None) == before  # nothing computes through a Client without connection


def test_a_scheduler_without_workers():
    options = {"n_workers": 0, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options, host="127.0.0.1", protocol="tcp://") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(ClusterError, match=f"{address} has no workers; start some"), connected(address):
            pass


def test_workers_with_another_version_or_none(client, monkeypatch):
    here = os.getpid()

    def other(name):
        return "1.0" if os.getpid() == here else "0.9"

    def none(name):
        if os.getpid() == here:
            return "1.0"
        raise PackageNotFoundError(name)

    address = client.scheduler.address
    for function, answer in ((other, "0.9"), (none, "no nsxr")):
        monkeypatch.setattr("nsxr.compute.cluster.version", function)
        with pytest.raises(ClusterError, match=f"need nsxr 1.0, as here, but .* has {answer}"), connected(address):
            pass


def test_what_was_started_ends_also_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = tmp_path / "report.html"
    processes = []

    def fail():
        with connected(workers=1, performance_report=report) as client:
            assert client.dashboard_link.startswith("http://127.0.0.1:")
            processes.extend(client.run(os.getpid).values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)
    assert "<html" in report.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [report]


# the command


@pytest.fixture
def exposures(made, tmp_path):
    """Return three raw files; the second is cut off."""
    names = [f"jw0123400{number}001_03101_00001_nrs1_uncal.fits" for number in (1, 2, 3)]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes(made.uncal[0].read_bytes())
    os.truncate(paths[1], 20_000)
    return paths


def test_the_installed_command_on_workers(made, exposures, tmp_path):
    folder, report = made.references["gain"].parent.name, tmp_path / "report.html"
    (tmp_path / folder).symlink_to(made.references["gain"].parent)
    program = Path(sys.executable).with_name("nsxr")
    words = ["detector1", *(path.name for path in exposures), "--references", folder, "-o", "out"]
    words += ["--workers", "1", "--memory-limit", "2GB", "--performance-report", report, "--skip", *QUICKLY]
    done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    kinds = ("rate.fits", "rateints.fits", "recipe.toml")
    done_ones = (exposures[0], exposures[2])
    written = [f"out/{path.name.replace('uncal.fits', kind)}" for path in done_ones for kind in kinds]
    assert done.stdout.split() == written
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").iterdir()) == sorted(written)
    assert "dashboard at http://127.0.0.1:" in done.stderr
    assert "2 of 3 exposures" in done.stderr
    assert exposures[1].name in done.stderr
    assert "Traceback" not in done.stderr
    assert "distributed" not in done.stderr  # nothing of what dask's servers say to each other
    assert report.is_file()


def run(made, *words):
    references = ("--references", made.references["gain"].parent)
    return CliRunner().invoke(cli.main, [str(word) for word in ("detector1", *words, *references)])


def test_the_command_on_a_running_scheduler(made, expected, client, tmp_path):
    result = run(made, *made.uncal, "-o", tmp_path, "--scheduler", client.scheduler.address)
    assert result.exit_code == 0, result.output
    assert digests(Path(name) for name in result.stdout.split() if name.endswith(".fits")) == expected[()]


def test_a_bad_exposure_does_not_stop_the_others(made, exposures, tmp_path):
    result = run(made, *exposures, "-o", tmp_path / "out", "--skip", *QUICKLY)
    assert result.exit_code == 1
    names = [path.name.replace("_uncal.fits", "") for path in exposures]
    assert [Path(line).name[: len(names[0])] for line in result.stdout.splitlines()] == [names[0]] * 3 + [names[2]] * 3
    summary = result.stderr[result.stderr.index("2 of 3 exposures") :]
    assert names[1] in summary
    assert result.stderr.count(str(exposures[1])) == 1  # why, when it happened
    assert summary.count("\n") == 2


def test_wrong_requests_fail_before_anything_is_computed(made, exposures, tmp_path):
    for words in (["--set", "jump.rejection_treshold=3"], ["--skip", "drak_current"], ["--save", "nothing"]):
        result = run(made, *exposures, "-o", tmp_path / "out", *words)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_interrupt_stops_all(made, exposures, tmp_path, monkeypatch):
    tried = []

    def calibrate(paths, *words, **kwargs):
        tried.append(Path(paths[0]))
        if len(tried) == 2:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr("nsxr.cli.calibration.calibrate", calibrate)
    result = run(made, *exposures, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.endswith("Aborted!\n")
    assert tried == exposures[:2]
