"""Recognize URLs of files, and show them without secrets."""

import os
import re
from pathlib import Path

from nsxr.errors import ParameterError

__all__ = ["is_remote", "local_path", "protocols", "receivers", "shown", "without_secrets"]

_WITHOUT_HOST = {"s3", "s3a", "gs", "gcs", "memory", "file", "local", "simplecache", "filecache", "blockcache"}
"""Protocols whose URLs contain no host, so that no options are sent to one."""


def is_remote(path: str) -> bool:
    """Return whether a path is a URL, not a local file."""
    return "://" in path


def protocols(path: str) -> list[str]:
    """Return the protocols of a URL, the outermost one of a chained URL first."""
    return [part.partition("://")[0] for part in path.split("::")]


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the local path of a file or directory to write.

    Raises
    ------
    ParameterError
        If it is a URL, or a URL that lost a slash because it was made a Path. Otherwise a local folder of this name
        would be created.
    """
    name = os.fspath(path)
    if is_remote(name) or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:+/", name):
        raise ParameterError(
            f"{shown(name)} is a URL, but products are written to local directories only; "
            "exposures and references that are read, and archives, may be URLs"
        )
    return Path(name)


def receivers(path: str) -> set[str]:
    """Return the hosts in all parts of a URL, as ``https://host:port``.

    URLs of S3 and Google Cloud Storage contain no host; it is in their storage options.
    """
    found = set()
    for part in path.split("::"):
        protocol, _, rest = part.partition("://")
        if rest and protocol.lower() not in _WITHOUT_HOST:
            host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
            found.add(f"{protocol}://{host}".lower())
    return found


def shown(path: str) -> str:
    """Return a path for messages. The query, user and password of a URL are removed, because they may be secret."""
    if not is_remote(path):
        return path
    return re.split(r"[?#]", re.sub(r"://[^/?#]*@", "://", path), maxsplit=1)[0]


def without_secrets(text: str) -> str:
    """Return a text of another library, such as an error message, with secrets in its URLs removed by :func:`shown`.

    Some messages contain only the path of a URL. The query after its question mark is removed too.
    """
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda found: shown(found[0]), text)
    return re.sub(r"\?[^\s?=&'\"]+=[^\s'\"]*", "", text)
