"""Files behind s3:// and http:// URLs, on servers of this machine that count the bytes they send."""

import base64
import gzip
import io
import logging
import os
import pickle
import re

import fsspec
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from dask.base import tokenize
from distributed import Client, LocalCluster

import nsxr
from nsxr.cli import main
from nsxr.errors import (
    InputFileError,
    MissingReferenceError,
    NsxrError,
    ParameterError,
    ReferenceFileError,
    RemoteAccessError,
)
from nsxr.formats.fits_headers import scan
from nsxr.products.describe import describe
from nsxr.simulate import simulate_exposure
from nsxr.storage import remote_errors, stores
from nsxr.storage.options import CONNECT_TIMEOUT, READ_TIMEOUT, TRIES, StorageOptions
from nsxr.storage.stores import filesystem, list_files, read_ranges
from nsxr.storage.urls import shown
from nsxr.testing import forbid_computes

pytest.importorskip("s3fs", reason="s3fs is not installed (extra 's3')")
servers = pytest.importorskip("object_servers", reason="moto's server is not installed (extra 'test')")

SECRET = "not-for-the-eyes-of-others"


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """Made-up credentials, none of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
            patch.delenv(name)
        nowhere = tmp_path_factory.mktemp("aws") / "none"
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", str(nowhere))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere))
        yield
        servers.forget_connections()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small exposure with its references, and a full frame of few columns."""
    folder = tmp_path_factory.mktemp("files")
    small = simulate_exposure(folder / "small", readout="NRSRAPID", subarray="SUB32", groups=3, integrations=4)
    frame = simulate_exposure(
        folder / "frame", readout="NRSRAPID", subarray="FULL", groups=4, columns=128, references=False
    )
    return {"small": small, "frame": frame}


@pytest.fixture(scope="module")
def s3(environment, files):
    """An S3 server with the files in a private bucket, one of them public: the counter, storage options, base URL."""
    application, handler = servers.s3_application()
    counted = servers.Counted(application)
    with servers.served(counted, handler) as address:
        options = {"client_kwargs": {"endpoint_url": address}}
        system = fsspec.filesystem("s3", **options)
        system.mkdir("bucket")
        for made in files.values():
            system.put_file(str(made.uncal[0]), f"bucket/raw/{made.uncal[0].parent.name}_uncal.fits")
        for path in files["small"].references.values():
            system.put_file(str(path), f"bucket/references/{path.name}")
        system.put_file(str(files["small"].uncal[0]), "bucket/public/x_uncal.fits", ACL="public-read")
        counted.system = system
        counted.options = options
        yield counted
        servers.forget_connections()


@pytest.fixture(autouse=True)
def fresh(request, monkeypatch):
    monkeypatch.setattr(remote_errors, "FIRST_WAIT", 0.01)
    if "s3" in request.fixturenames:
        request.getfixturevalue("s3").forget()


SMALL, FRAME, REFERENCES = (
    "s3://bucket/raw/small_uncal.fits",
    "s3://bucket/raw/frame_uncal.fits",
    "s3://bucket/references",
)


def test_opening_reads_headers_alone(s3, files):
    size = files["frame"].uncal[0].stat().st_size
    with forbid_computes():
        exposure = nsxr.open_exposure(FRAME, storage_options=s3.options)
    assert size > 2_000_000
    assert s3.n_bytes < 200_000
    assert exposure.sizes == {"integration": 1, "group": 4, "row": 2048, "column": 128}


def test_a_band_of_one_group_reads_its_own_bytes(s3, files):
    exposure = nsxr.open_exposure(FRAME, chunks={"group": 1}, storage_options=s3.options)
    s3.forget()
    band = exposure["sci"].isel(group=2, row=slice(512, 1024))
    local = nsxr.open_exposure(files["frame"].uncal[0])["sci"].isel(group=2, row=slice(512, 1024))
    np.testing.assert_array_equal(band.values, local.values)
    assert s3.gets() == [512 * 128 * 2]


def test_a_few_rows_without_dask_read_their_own_bytes(s3, files):
    exposure = nsxr.open_exposure(FRAME, chunks=None, storage_options=s3.options)
    s3.forget()
    rows = exposure["sci"][0, 1, 700:708, 3:5].values
    np.testing.assert_array_equal(rows, nsxr.open_exposure(files["frame"].uncal[0])["sci"][0, 1, 700:708, 3:5])
    assert s3.gets() == [8 * 128 * 2]


@pytest.mark.parametrize(("gap", "requests"), [(0, 4), (2**20, 1)])
def test_near_ranges_are_fetched_as_one(s3, files, monkeypatch, gap, requests):
    monkeypatch.setattr(stores, "MERGED_GAP", gap)
    exposure = nsxr.open_exposure(FRAME, storage_options=s3.options)
    s3.forget()
    band = exposure["sci"].isel(row=slice(512, 1024))
    np.testing.assert_array_equal(band, nsxr.open_exposure(files["frame"].uncal[0])["sci"][:, :, 512:1024])
    frame, run = 2048 * 128 * 2, 512 * 128 * 2
    assert sorted(s3.gets()) == ([run] * 4 if gap == 0 else [3 * frame + run])
    assert len(s3.gets()) == requests


def test_ranges_come_in_the_order_asked_for(s3, files):
    content = files["small"].uncal[0].read_bytes()
    ranges = [(5000, 5010), (0, 30), (5005, 5020), (40000, 40001)]
    found = read_ranges(SMALL, StorageOptions(s3.options), ranges)
    assert [bytes(part) for part in found] == [content[start:stop] for start, stop in ranges]


def test_calibration_from_s3_equals_that_of_local_files(s3, files):
    made = files["small"]
    local_exposure = nsxr.open_exposure(made.uncal[0])
    local = nsxr.detector1(local_exposure, nsxr.open_references(made.references["gain"].parent, local_exposure))
    exposure = nsxr.open_exposure(SMALL, storage_options=s3.options)
    with forbid_computes():
        references = nsxr.open_references(REFERENCES, exposure, storage_options=s3.options)
        remote = nsxr.detector1(exposure, references)
    assert set(references) == set(made.references)
    for product in ("rate", "rateints"):
        for name, variable in local[product].data_vars.items():
            np.testing.assert_array_equal(remote[product][name].values, variable.values)


def test_irs2_weights_are_fetched_once(s3, tmp_path):
    made = simulate_exposure(tmp_path, groups=2, columns=8)
    s3.system.put_file(str(made.references["refpix"]), "bucket/irs2/refpix.fits")
    exposure = nsxr.open_exposure(made.uncal[0])
    url = "s3://bucket/irs2/refpix.fits"
    weights = nsxr.open_references({"refpix": url}, exposure, types=["refpix"], storage_options=s3.options)["refpix"]
    s3.forget()
    found = weights[["alpha", "beta"]].compute(scheduler="synchronous")
    assert s3.gets() == [2 * 712 * 8 * 8 * 4]
    local = nsxr.open_references({"refpix": made.references["refpix"]}, exposure, types=["refpix"])["refpix"]
    for name in ("alpha", "beta"):
        np.testing.assert_array_equal(found[name], local[name])


def test_segments_and_the_engine_take_urls(s3, tmp_path):
    made = simulate_exposure(
        tmp_path, readout="NRSRAPID", subarray="SUB32", groups=2, integrations=4, segments=2, references=False
    )
    for path in made.uncal:
        s3.system.put_file(str(path), f"bucket/segments/{path.name}")
    urls = list_files("s3://bucket/segments/", s3.options)
    assert urls == [f"s3://bucket/segments/{path.name}" for path in made.uncal]
    exposure = nsxr.open_exposure(urls[::-1], storage_options=s3.options)
    local = nsxr.open_exposure(made.uncal)
    assert exposure.assign_attrs(nsxr_provenance="").identical(local.assign_attrs(nsxr_provenance=""))
    with xr.open_dataset(urls[1], engine="nirspec", storage_options=s3.options, chunks={}) as second:
        np.testing.assert_array_equal(second["sci"], exposure["sci"][2:])


def test_gzipped_and_cached_files(s3, files):
    content = files["small"].uncal[0].read_bytes()
    s3.system.pipe_file("bucket/raw/zipped_uncal.fits.gz", gzip.compress(content))
    local = nsxr.open_exposure(files["small"].uncal[0])
    zipped = nsxr.open_exposure("s3://bucket/raw/zipped_uncal.fits.gz", storage_options=s3.options)
    np.testing.assert_array_equal(zipped["sci"], local["sci"])
    cached = nsxr.open_exposure(f"simplecache::{SMALL}", storage_options={"s3": s3.options})
    np.testing.assert_array_equal(cached["sci"], local["sci"])


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_info(s3, files):
    told = describe(SMALL, s3.options).splitlines()
    assert told[0].startswith("small_uncal.fits: ")
    assert told[1:] == describe(files["small"].uncal[0]).splitlines()[1:]
    rate = xr.Dataset({"sci": (("row", "column"), np.zeros((2, 3), np.float32))})
    rate.to_zarr("s3://bucket/p/mine.zarr", group="rate", storage_options=s3.options, consolidated=True)
    assert "rate         sci (row 2, column 3)" in describe("s3://bucket/p/mine.zarr", s3.options)
    with pytest.raises(InputFileError, match=r"there is no such object: s3://bucket/p/yours.zarr"):
        describe("s3://bucket/p/yours.zarr", s3.options)


def test_the_command_line_takes_urls(s3, files, tmp_path):
    address = s3.options["client_kwargs"]["endpoint_url"]
    options = ["--storage", f"client_kwargs.endpoint_url={address}"]
    runner = CliRunner()
    told = runner.invoke(main, ["info", "s3://bucket/public/x_uncal.fits", "--anonymous", *options])
    assert told.output == describe(files["small"].uncal[0]).replace(files["small"].uncal[0].name, "x_uncal.fits") + "\n"
    command = ["detector1", SMALL, "--references", REFERENCES, "-o", str(tmp_path), "--skip", "jump", *options]
    written = runner.invoke(main, command)
    names = ("small_rate.fits", "small_rateints.fits", "small_recipe.toml")
    assert written.output.split() == [str(tmp_path / name) for name in names]
    denied = runner.invoke(main, [*command, "--anonymous"])
    assert denied.exit_code == 1
    assert denied.output.startswith(f"Error: access to {SMALL} is denied")
    mixed = runner.invoke(main, ["info", SMALL, "--storage", "key=a", "--storage", "key.x=1"])
    assert "key has a value already" in mixed.output


def test_workers_need_the_url_alone(s3, files):
    options = {"key": "testing", "secret": SECRET, **s3.options}
    exposure = nsxr.open_exposure(SMALL, storage_options=options)
    lost = nsxr.open_exposure(f"{SMALL}", storage_options=options)
    copied = pickle.loads(pickle.dumps(exposure))
    with (
        LocalCluster(processes=True, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        np.testing.assert_array_equal(copied["sci"].values, nsxr.open_exposure(files["small"].uncal[0])["sci"])
        s3.failures += [403] * 10
        with pytest.raises(RemoteAccessError, match=r"access to s3://bucket/raw/small_uncal.fits is denied"):
            lost["sci"].compute()


def test_options_are_told_apart_and_never_shown(s3, caplog):
    caplog.set_level(logging.DEBUG, logger="nsxr")
    options = {"key": "testing", "secret": SECRET, **s3.options}
    file = scan(SMALL, storage_options=options)
    source = file.image("SCI", "float32")
    for text in (repr(source), str(StorageOptions(options)), repr(file.options), str(tokenize(source))):
        assert SECRET not in text
    assert hash(source) == hash(pickle.loads(pickle.dumps(source)))
    assert source == pickle.loads(pickle.dumps(source))
    assert tokenize(source) == tokenize(pickle.loads(pickle.dumps(source)))
    assert tokenize(source) != tokenize(scan(SMALL, storage_options=s3.options).image("SCI", "float32"))
    assert options == {"key": "testing", "secret": SECRET, **s3.options}
    with pytest.raises(InputFileError) as caught:
        scan("s3://bucket/nothing.fits", storage_options=options)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text
    assert shown(f"https://me:{SECRET}@host/a.fits?X-Signature={SECRET}") == "https://host/a.fits"


def test_a_changed_object_gives_other_names_to_tasks(s3, files):
    content = files["small"].uncal[0].read_bytes()
    s3.system.pipe_file("bucket/changing_uncal.fits", content)
    before = nsxr.open_exposure("s3://bucket/changing_uncal.fits", storage_options=s3.options)
    s3.system.pipe_file("bucket/changing_uncal.fits", content[:-1] + b"\1")
    after = nsxr.open_exposure("s3://bucket/changing_uncal.fits", storage_options=s3.options)
    assert before["sci"].data.name != after["sci"].data.name


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/raw/nothing_uncal.fits", "there is no such object: s3://bucket/raw/nothing_uncal.fits"),
        ("s3://nowhere-at-all/x_uncal.fits", "there is no such bucket: s3://nowhere-at-all/x_uncal.fits"),
    ],
)
def test_missing_keys_and_buckets(s3, url, message):
    with pytest.raises(InputFileError, match=f"^{re.escape(message)}$"):
        nsxr.open_exposure(url, storage_options=s3.options)


def test_missing_references(s3):
    exposure = nsxr.open_exposure(SMALL, storage_options=s3.options)
    with pytest.raises(MissingReferenceError, match=r"s3://bucket/none is not a directory of references"):
        nsxr.open_references("s3://bucket/none", exposure, storage_options=s3.options)
    s3.system.pipe_file("bucket/text/read.me", b"nothing")
    with pytest.raises(MissingReferenceError, match=r"s3://bucket/text lists no FITS files"):
        nsxr.open_references("s3://bucket/text", exposure, storage_options=s3.options)
    with pytest.raises(ReferenceFileError, match=r"gain reference there is no such object: s3://bucket/gain.fits"):
        nsxr.open_references({"gain": "s3://bucket/gain.fits"}, exposure, storage_options=s3.options)


def test_truncated_objects(s3, files):
    content = files["frame"].uncal[0].read_bytes()
    s3.system.pipe_file("bucket/cut_uncal.fits", content[:1_000_000])
    with pytest.raises(InputFileError, match="cut off in extension SCI, it has 1000000 bytes"):
        nsxr.open_exposure("s3://bucket/cut_uncal.fits", storage_options=s3.options)


@pytest.mark.parametrize(("length", "message"), [(1_900_000, "file ends at byte 1900000, "), (9000, "the file ends")])
def test_objects_that_shrink_after_opening(s3, files, length, message):
    content = files["frame"].uncal[0].read_bytes()
    s3.system.pipe_file("bucket/shrinking_uncal.fits", content)
    exposure = nsxr.open_exposure("s3://bucket/shrinking_uncal.fits", storage_options=s3.options)
    s3.system.pipe_file("bucket/shrinking_uncal.fits", content[:length])
    with pytest.raises(InputFileError, match=message):
        exposure["sci"][..., -512:, :].compute(scheduler="synchronous")


def test_credentials(s3, monkeypatch):
    public = "s3://bucket/public/x_uncal.fits"
    with pytest.raises(RemoteAccessError, match=r"access to s3://bucket/raw/small_uncal.fits is denied"):
        nsxr.open_exposure(SMALL, storage_options={"anon": True, **s3.options})
    anonymous = nsxr.open_exposure(public, storage_options={"anon": True, **s3.options})
    by_protocol = nsxr.open_exposure(public, storage_options={"s3": {"anon": True, **s3.options}, "http": {"x": 1}})
    assert anonymous["sci"].equals(by_protocol["sci"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    other = {**s3.options, "config_kwargs": {"read_timeout": 7}}  # no connection with them is there yet
    with pytest.raises(RemoteAccessError, match=r"no credentials for s3://bucket/public/x_uncal.fits; .*'anon': True"):
        nsxr.open_exposure(public, storage_options=other)


def test_options_that_a_store_does_not_take(s3):
    with pytest.raises(ParameterError, match=r"storage options that the store does not accept .*'endpoint'"):
        nsxr.open_exposure(SMALL, storage_options={"endpoint": "x"})
    with pytest.raises(ParameterError, match="storage_options is a list, expected a mapping"):
        nsxr.open_exposure(SMALL, storage_options=["anon"])
    with pytest.raises(ParameterError, match=r"gopher://x_uncal.fits: cannot be opened with StorageOptions\(anon\)"):
        nsxr.open_exposure("gopher://x_uncal.fits", storage_options={"anon": True})


def test_s3_tries_again(s3, files):
    exposure = nsxr.open_exposure(SMALL, storage_options=s3.options)
    s3.forget()
    s3.failures += [503, "cut", 500, "cut"]
    np.testing.assert_array_equal(exposure["sci"], nsxr.open_exposure(files["small"].uncal[0])["sci"])
    assert len(s3.gets()) == TRIES
    s3.forget()
    s3.failures += [503, 503, 503]
    nsxr.open_exposure(SMALL, storage_options=s3.options)
    list_files(REFERENCES, s3.options)


def test_s3_that_never_answers(s3):
    exposure = nsxr.open_exposure(SMALL, storage_options={**s3.options, "config_kwargs": {"read_timeout": 0.2}})
    s3.forget()
    s3.failures += ["silence"] * (TRIES + 1)
    with pytest.raises(RemoteAccessError, match=r"cannot be reached, tried 5 times .*Timeout"):
        exposure["sci"].compute(scheduler="synchronous")
    assert len(s3.failures) == 1
    cached = f"simplecache::{SMALL}"
    options = {"s3": {**s3.options, "config_kwargs": {"read_timeout": 0.2}}}
    s3.failures += ["silence"] * TRIES
    with pytest.raises(RemoteAccessError, match=r"cannot be reached, tried 5 times .*Timeout"):
        nsxr.open_exposure(cached, storage_options=options)
    assert len(s3.failures) == 1


def test_s3_that_is_not_there():
    options = {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    with pytest.raises(RemoteAccessError, match=r"s3://bucket/x_uncal.fits cannot be reached, tried 5 times"):
        nsxr.open_exposure("s3://bucket/x_uncal.fits", storage_options=options)


@pytest.fixture
def web(files):
    """A web server with ranges: the counter, with the address as ``url``."""
    contents = {f"/{name}_uncal.fits": made.uncal[0].read_bytes() for name, made in files.items()}
    contents |= {f"/references/{path.name}": path.read_bytes() for path in files["small"].references.values()}
    counted = servers.Counted(servers.Folder(contents))
    with servers.served(counted) as counted.url:
        yield counted
        servers.forget_connections()


def test_http_reads_ranges(web, files):
    url = f"{web.url}/frame_uncal.fits"
    exposure = nsxr.open_exposure(url, chunks={"group": 1})
    assert web.n_bytes < 200_000
    web.forget()
    np.testing.assert_array_equal(
        exposure["sci"][0, 3, 512:1024], nsxr.open_exposure(files["frame"].uncal[0])["sci"][0, 3, 512:1024]
    )
    assert web.gets() == [512 * 128 * 2]
    assert exposure.attrs["filename"] == "frame_uncal.fits"


def test_references_of_a_web_folder(web, files):
    exposure = nsxr.open_exposure(f"{web.url}/small_uncal.fits?token=1")
    assert exposure.attrs["filename"] == "small_uncal.fits"
    references = nsxr.open_references(f"{web.url}/references/", exposure)
    assert set(references) == set(files["small"].references)
    local = nsxr.open_references(files["small"].references, exposure)
    np.testing.assert_array_equal(references["gain"]["sci"], local["gain"]["sci"])


@pytest.mark.parametrize("failure", [503, "cut"])
def test_http_tries_again(web, files, failure):
    url = f"{web.url}/small_uncal.fits"
    web.failures += [503, 502]
    exposure = nsxr.open_exposure(url)
    web.forget()
    web.failures += [failure] * (TRIES - 1)
    np.testing.assert_array_equal(exposure["sci"], nsxr.open_exposure(files["small"].uncal[0])["sci"])
    assert len(web.gets()) == TRIES
    web.failures += [failure] * TRIES
    with pytest.raises(RemoteAccessError, match=f"{url} cannot be reached, tried 5 times"):
        exposure["sci"].compute(scheduler="synchronous")
    assert not web.failures


def test_only_ranges_that_failed_are_fetched_again(web, monkeypatch):
    monkeypatch.setattr(stores, "MERGED_GAP", 0)
    web.failures += [503]
    found = read_ranges(f"{web.url}/small_uncal.fits", StorageOptions(), [(0, 9), (100, 109), (200, 209)])
    assert bytes(found[0]) == b"SIMPLE  ="
    assert sorted(web.gets()) == [9, 9, 9, 503]


def test_http_errors_that_do_not_pass(web):
    url = f"{web.url}/small_uncal.fits"
    exposure = nsxr.open_exposure(url)
    web.forget()
    web.failures += [403]
    with pytest.raises(RemoteAccessError, match=f"access to {url} is denied"):
        exposure["sci"].compute(scheduler="synchronous")
    assert len(web.gets()) == 1
    with pytest.raises(InputFileError, match="there is no such object"):
        nsxr.open_exposure(f"{web.url}/nothing_uncal.fits")
    with pytest.raises(RemoteAccessError, match="cannot be reached, tried 5 times"):
        nsxr.open_exposure("http://127.0.0.1:9/x_uncal.fits")


def test_http_that_never_answers(web):
    url = f"{web.url}/small_uncal.fits"
    timeout = __import__("aiohttp").ClientTimeout(sock_read=0.1)
    exposure = nsxr.open_exposure(url, storage_options={"client_kwargs": {"timeout": timeout}})
    web.failures += ["silence"] * TRIES
    with pytest.raises(RemoteAccessError, match=r"cannot be reached, tried 5 times \(.*[Tt]imeout"):
        exposure["sci"].compute(scheduler="synchronous")


def test_a_web_server_without_ranges(files):
    counted = servers.Counted(servers.Folder({"/x_uncal.fits": files["frame"].uncal[0].read_bytes()}, ranges=False))
    with servers.served(counted) as address:
        url = f"{address}/x_uncal.fits"
        with pytest.raises(
            InputFileError, match=r"sends no ranges of bytes; download it first, or put 'simplecache::'"
        ):
            nsxr.open_exposure(url)
        with pytest.raises(InputFileError, match="sends no ranges of bytes"):
            read_ranges(url, StorageOptions(), [(0, 100)])
        exposure = nsxr.open_exposure(f"simplecache::{url}")
        np.testing.assert_array_equal(exposure["sci"], nsxr.open_exposure(files["frame"].uncal[0])["sci"])
        servers.forget_connections()


def test_time_outs_and_retries_are_given_unless_chosen():
    chosen = StorageOptions({"config_kwargs": {"read_timeout": 1}}).of("s3://a/b")["s3"]["config_kwargs"]
    assert chosen == {
        "read_timeout": 1,
        "connect_timeout": CONNECT_TIMEOUT,
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
    }
    assert StorageOptions().of("https://a/b")["https"]["client_kwargs"]["timeout"].sock_read == READ_TIMEOUT
    both = StorageOptions({"s3": {"anon": True}, "cache_storage": "x"}).of("simplecache::s3://a/b")
    assert both["simplecache"] == {"cache_storage": "x"}
    assert both["s3"]["anon"] is True


def test_filesystem_gives_the_path_inside():
    system, inner = filesystem("memory://a/b.fits")
    system.pipe(inner, b"x")
    assert list_files("memory://a") == ["memory://a/b.fits"]
    with filesystem("memory://a/b.fits")[0].open(inner) as file:
        assert isinstance(file, io.BytesIO)
    system.rm("/a", recursive=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_answers_of_servers_are_errors_of_nsxr_without_secrets(status, tmp_path, caplog):
    """Raw file, reference, store and archive behind a signed URL that is refused; the command with -vv, too."""
    counted = servers.Counted(lambda environ, start: [b""])
    with servers.served(counted) as address, caplog.at_level("DEBUG", logger="nsxr"):
        url = address.replace("://", f"://me:{SECRET}@") + "/{}?X-Amz-Signature=" + SECRET
        openers = {
            "x_uncal.fits": nsxr.open_exposure,
            "x.zarr": describe,
            "a.zarr": nsxr.archive.open_archive,
            "x_cal.fits": nsxr.open_slits,
        }
        for name, opener in openers.items():
            counted.failures = [status] * 50
            with pytest.raises(NsxrError) as error:
                opener(url.format(name))
            assert SECRET not in str(error.value)
            assert "\n" not in str(error.value)
        counted.failures = [status] * 50
        words = ["-vv", "detector1", url.format("x_uncal.fits"), url.format("y_uncal.fits"), "--references", "nowhere"]
        result = CliRunner().invoke(main, [*words, "-o", str(tmp_path)])
        assert result.exit_code == 1
        servers.forget_connections()
    spoken = [record.getMessage() for record in caplog.records if record.name.startswith("nsxr")]
    lines = [line for line in result.output.splitlines() if "werkzeug" not in line]  # the server is in this process
    assert spoken
    for word in (SECRET, base64.b64encode(f"me:{SECRET}".encode()).decode()):
        assert word not in "\n".join([*spoken, *lines])
