"""Let jwst run without a reference server; imported by the programs that its Python executes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["offline"]


@contextmanager
def offline() -> Iterator[None]:
    """Set up an empty reference cache without a server; enter this context before jwst is imported.

    The reference library ends the interpreter if it finds neither a server nor a cache. So it gets a folder with the
    one file that it looks for.
    """
    context = "jwst_0000.pmap"
    with TemporaryDirectory(prefix="peer-references-") as folder:
        config = Path(folder) / "config" / "jwst"
        config.mkdir(parents=True)
        config.joinpath("server_config").write_text(
            repr(
                {
                    "observatory": "jwst",
                    "latest_context": context,
                    "operational_context": context,
                    "bad_files": "",
                    "bad_files_list": [],
                    "force_remote_mode": False,
                    "last_synced": "never",
                    "crds_version": {"str": "0"},
                }
            ),
            encoding="utf-8",
        )
        os.environ["CRDS_PATH"] = folder
        os.environ["CRDS_SERVER_URL"] = "https://crds-serverless-mode.stsci.edu"
        os.environ["CRDS_CONTEXT"] = context
        os.environ["STPIPE_DISABLE_CRDS_STEPPARS"] = "true"
        yield
