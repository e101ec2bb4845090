"""Check reading from an object store at full size: bytes, requests and seconds, from a local S3 server.

    python ci/object_store.py [--readout NRSIRS2RAPID] [--groups 20] [--directory FOLDER]

Simulates a full-frame exposure with its references, and puts all files on moto's S3 server, which runs in a process on
this computer. No other server is contacted. Then the program opens the exposure, reads one amplifier of one group,
reads one amplifier of all groups, and calibrates. For each of these it prints how many requests the server answered,
how many bytes it sent, the size of the requested pixels in bytes, the seconds, and the seconds with local files. Fails
if reading an amplifier takes more than 1.3 times its bytes, if opening reads 200 kB or more, or if results differ from
those of the local files. The server copies the whole object to answer each request. So the seconds are those of moto,
not of a real store, and grow with the size of the file. Needs the extra "test", 4 GB of memory and 1.5 GB of disk;
takes a minute or two.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from common import make_parser
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

import nsxr
from nsxr.simulate import simulate_exposure

OPENING_LIMIT = 200_000
BAND_LIMIT = 1.3


def serve(address: Any, requests: Any, sent: Any) -> None:
    """Answer requests like S3 until killed; count requests and the bytes sent."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)

    def counted(environ: Any, start_response: Any) -> list[bytes]:
        body = b"".join(application(environ, start_response))
        with requests.get_lock():
            requests.value += 1
            sent.value += len(body) if environ["REQUEST_METHOD"] == "GET" else 0
        return [body]

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=MotoRequestHandler)
    address.put(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


class Table:
    """One line for each operation, with the store and with local files."""

    def __init__(self, requests: Any, sent: Any) -> None:
        self.requests, self.sent = requests, sent
        print(f"{'':<34}{'requests':>9}{'MB sent':>10}{'MB asked':>10}{'seconds':>9}{'local':>8}")

    def line(self, name: str, asked: int, remote: Callable[[], Any], local: Callable[[], Any]) -> tuple[Any, Any, int]:
        """Do the operation both ways; return both results and the bytes sent."""
        self.requests.value = self.sent.value = 0
        started = time.perf_counter()
        far = remote()
        middle = time.perf_counter()
        near = local()
        took, took_locally = middle - started, time.perf_counter() - middle
        count, sent = self.requests.value, self.sent.value
        print(f"{name:<34}{count:>9}{sent / 1e6:>10.3f}{asked / 1e6:>10.3f}{took:>9.2f}{took_locally:>8.2f}")
        return far, near, sent


def main() -> int:
    """Run the check; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--readout", default="NRSIRS2RAPID", choices=["NRSIRS2RAPID", "NRSRAPID"])
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--directory", help="where to keep the simulated files; default a temporary folder")
    chosen = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    context = multiprocessing.get_context("spawn")
    address, requests, sent = context.Queue(), context.Value("q", 0), context.Value("q", 0)
    server = context.Process(target=serve, args=(address, requests, sent), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            options = {"client_kwargs": {"endpoint_url": address.get(timeout=60)}}
            made = simulate_exposure(Path(chosen.directory or temporary), readout=chosen.readout, groups=chosen.groups)
            return check(made, options, Table(requests, sent))
        finally:
            server.terminate()
            server.join()


def check(made: Any, options: dict[str, Any], table: Table) -> int:
    """Compare the store with local files; return 0 if there is no problem."""
    system = fsspec.filesystem("s3", **options)
    system.mkdir("bucket")
    raw = made.uncal[0]
    url = f"s3://bucket/raw/{raw.name}"
    system.put_file(str(raw), url)
    for path in made.references.values():
        system.put_file(str(path), f"s3://bucket/references/{path.name}")
    problems = []

    def opened(place: Any, references: Any, **kwargs: Any) -> tuple[Any, Any]:
        exposure = nsxr.open_exposure(place, **kwargs)
        return exposure, nsxr.open_references(references, exposure, **kwargs)

    exposure, local, n_bytes = table.line(
        "open the exposure",
        0,
        lambda: nsxr.open_exposure(url, storage_options=options),
        lambda: nsxr.open_exposure(raw),
    )
    if n_bytes >= OPENING_LIMIT:
        problems.append(f"opening read {n_bytes} bytes, allowed are {OPENING_LIMIT}")
    rows = np.flatnonzero(exposure["amplifier"].values == 2)
    band = slice(int(rows[0]), int(rows[-1]) + 1)
    for name, groups in (("one amplifier of one group", slice(1, 2)), ("one amplifier of all groups", slice(None))):
        place = {"integration": slice(0, 1), "group": groups, "row": band}
        plain = nsxr.open_exposure(url, chunks=None, storage_options=options)["sci"].isel(place)
        near = nsxr.open_exposure(raw, chunks=None)["sci"].isel(place)
        values, wanted, n_bytes = table.line(name, 2 * plain.size, plain.load, near.load)
        if not np.array_equal(values, wanted):
            problems.append(f"{name}: values differ from those of the local file")
        if n_bytes > BAND_LIMIT * 2 * plain.size:
            problems.append(f"{name}: {n_bytes} bytes read for {2 * plain.size}")
    far, near, _ = table.line(
        "open exposure and references",
        0,
        lambda: opened(url, "s3://bucket/references", storage_options=options),
        lambda: opened(raw, made.references["gain"].parent),
    )
    in_all = raw.stat().st_size + sum(path.stat().st_size for path in made.references.values())
    remote, local, _ = table.line(
        "calibrate (asked: size of files)",
        in_all,
        lambda: nsxr.detector1(*far)["rate"].to_dataset().load(),
        lambda: nsxr.detector1(*near)["rate"].to_dataset().load(),
    )
    if not remote.equals(local):
        problems.append("the rate image differs from that of the local files")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
