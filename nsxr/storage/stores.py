"""Files behind URLs: which paths are URLs, how they are reached, and what went wrong in one clear line.

Everything that :mod:`fsspec` opens is understood: ``s3://``, ``https://``, ``gs://``, ``memory://``, and chains
such as ``simplecache::https://``. What a store needs to know (endpoint, anonymous access, credentials) travels as
``storage_options`` with each path; nothing is kept globally.
"""

import copy
import logging
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from dask.base import tokenize

from nsxr.errors import InputFileError, NsxrError, ParameterError, RemoteAccessError, install

__all__ = [
    "ANONYMOUS",
    "NO_OPTIONS",
    "StorageOptions",
    "filesystem",
    "is_remote",
    "list_files",
    "local_path",
    "object_stamp",
    "open_remote",
    "read_ranges",
    "receivers",
    "remote_errors",
    "retried",
    "shown",
    "without_secrets",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 5
"""How often a request is made before it counts as failed."""

FIRST_WAIT = 0.5
"""Seconds before the second try; twice as long before each further one."""

CONNECT_TIMEOUT, READ_TIMEOUT = 20, 30
"""Seconds without an answer, and without a further byte, after which a try counts as failed."""

MERGED_GAP = 2**20
"""Byte ranges closer than this are fetched as one. With s3fs a request costs 1.6 ms of CPU time, a megabyte 0.8 ms:
a gap of up to 2 MB is cheaper to read than to step over; half of that, since bytes also fill the line."""

NO_RANGES = (
    "its server sends no ranges of bytes; download it first, or put 'simplecache::' before the URL to have that done"
)

_WITHOUT_HOST = {"s3", "s3a", "gs", "gcs", "memory", "file", "local", "simplecache", "filecache", "blockcache"}
"""Protocols whose URLs name no host that anything could be sent to."""

_ANSWERS_LATER = {408, 429, 500, 502, 503, 504}
"""HTTP status of failures that may pass."""

_NO_ANSWER = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError", "IncompleteRead"}
_NO_ANSWER |= {"ResponseParserError", "TimeoutError"}
"""Classes of aiohttp, botocore, urllib3 and Python for connections that fail or break."""

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}

ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}, "gcs": {"token": "anon"}}
"""Storage options for public data."""


class StorageOptions:
    """What a store needs to know besides the URL: hashable, picklable, silent about its values.

    Parameters
    ----------
    options : mapping, optional
        As for fsspec. Options of one protocol may be given under its name, ``{"s3": {"anon": True}}``; those of
        protocols that a URL does not use are ignored, so that one set serves files in several stores. All others
        go to the first protocol of the URL.
    """

    _options: dict[str, Any]
    _token: str

    def __init__(self, options: "Mapping[str, Any] | StorageOptions | None" = None) -> None:
        if isinstance(options, StorageOptions):
            options = options._options
        if options is not None and not isinstance(options, Mapping):
            raise ParameterError(f"storage_options is a {type(options).__name__}, expected a mapping")
        self._options = copy.deepcopy(dict(options or {}))
        self._token = str(tokenize(self._options))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageOptions) and self._token == other._token

    def __hash__(self) -> int:
        return hash(self._token)

    def __repr__(self) -> str:
        return f"StorageOptions({', '.join(sorted(self._options))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return StorageOptions, (self._options,)

    def __dask_tokenize__(self) -> str:
        return self._token

    def of(self, path: str, tries: int = TRIES) -> dict[str, dict[str, Any]]:
        """Return the options of each protocol of a URL, time-outs and tries of its client filled in."""
        known = fsspec.available_protocols()
        named = {k: v for k, v in self._options.items() if isinstance(v, Mapping) and k in known}
        plain = {k: v for k, v in self._options.items() if k not in named}
        first, *others = _protocols(path)
        found = {first: _complete(first, {**named.get(first, {}), **plain}, tries)}
        found |= {protocol: _complete(protocol, named.get(protocol, {}), tries) for protocol in others}
        return copy.deepcopy(found)  # fsspec writes into what it is given

    def names_any_for(self, path: str) -> bool:
        """Whether options were given that go to the store of a URL: headers and passwords may be among them."""
        known = fsspec.available_protocols()
        named = {k for k, v in self._options.items() if isinstance(v, Mapping) and k in known}
        first, *others = _protocols(path)
        return bool(set(self._options) - named) or any(self._options.get(p) for p in (first, *others) if p in named)


NO_OPTIONS = StorageOptions()


def _protocols(path: str) -> list[str]:
    return [part.partition("://")[0] for part in path.split("::")]


def _complete(protocol: str, options: Mapping[str, Any], tries: int) -> dict[str, Any]:
    """Add time-outs and retries that the caller did not choose."""
    if protocol in ("s3", "s3a"):
        config = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "retries": {"mode": "standard", "total_max_attempts": tries},
        }
        return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}
    if protocol in ("http", "https"):
        timeout = import_module("aiohttp").ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        return {**options, "client_kwargs": {"timeout": timeout, **options.get("client_kwargs", {})}}
    return dict(options)


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL that fsspec opens, rather than a local file."""
    return "://" in path


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of something that is going to be written.

    Raises
    ------
    ParameterError
        If it is a URL, also one that a Path has taken a slash from: a folder of that name would be made here.
    """
    name = os.fspath(path)
    if is_remote(name) or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:+/", name):
        raise ParameterError(
            f"{shown(name)} is a URL, but products are written to local directories only; "
            "exposures and references that are read, and archives, may be URLs"
        )
    return Path(name)


def receivers(path: str) -> set[str]:
    """Return the hosts that the parts of a URL name, as ``https://host:port``.

    Of S3 and Google's store there are none: their hosts are said by the options, not by the URL.
    """
    found = set()
    for part in path.split("::"):
        protocol, _, rest = part.partition("://")
        if rest and protocol.lower() not in _WITHOUT_HOST:
            host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
            found.add(f"{protocol}://{host}".lower())
    return found


def shown(path: str) -> str:
    """Return a path for messages: URLs without their query, user and password, which may be secrets."""
    if not is_remote(path):
        return path
    return re.split(r"[?#]", re.sub(r"://[^/?#]*@", "://", path), maxsplit=1)[0]


def without_secrets(text: str) -> str:
    """Return a text of somebody else, such as that of an exception, with its URLs as :func:`shown` gives them.

    Libraries name the path alone now and then: what follows a question mark there is left out as well.
    """
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda found: shown(found[0]), text)
    return re.sub(r"\?[^\s?=&'\"]+=[^\s'\"]*", "", text)


def filesystem(
    path: str, options: Mapping[str, Any] | StorageOptions | None = None, tries: int = TRIES
) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL, and the path there.

    Parameters
    ----------
    path : str
        URL, possibly chained.
    options : mapping or StorageOptions, optional
        See :class:`StorageOptions`.
    tries : int
        How often the client of the store makes a request, if it can try again; 1 if the caller uses
        :func:`retried`.

    Raises
    ------
    ParameterError
        If no filesystem of that name exists, its library is not installed, or it does not know an option.
    """
    options = options if isinstance(options, StorageOptions) else StorageOptions(options)
    try:
        system, inner = fsspec.core.url_to_fs(path, **options.of(path, tries))
    except ImportError as error:
        raise ParameterError(
            f"{shown(path)}: a library is missing ({without_secrets(str(error))}); those for s3:// and https:// are "
            f"brought by {install('s3')}"
        ) from error
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{shown(path)}: cannot be opened with {options} ({without_secrets(str(error))})"
        ) from error
    if tries == 1:
        layer = system
        while layer is not None:
            if isinstance(getattr(type(layer), "retries", None), int):
                # s3fs has no option for this; 5 tries in 5 tries, each made 5 times by botocore, would wait an hour
                layer.retries = 1
            layer = vars(layer).get("fs")  # below a cache
    return system, inner


def list_files(path: str, options: Mapping[str, Any] | StorageOptions | None = None) -> list[str]:
    """Return the URLs of the files directly below a URL, sorted.

    Raises
    ------
    InputFileError
        If there is nothing.
    RemoteAccessError
        If the store cannot be listed.
    """
    with remote_errors(path):
        system, inner = filesystem(path, options, tries=1)
        system.invalidate_cache(inner)
        entries = retried(lambda: system.ls(inner, detail=True), path)
    names = {str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "file"}
    return [f"{path.rstrip('/')}/{name}" for name in sorted(names)]


def open_remote(path: str, options: StorageOptions, read_ahead: int) -> Any:
    """Open a URL as a seekable binary file that fetches ``read_ahead`` bytes more than it is asked for."""
    system, inner = filesystem(path, options, tries=1)
    return system.open(inner, "rb", block_size=read_ahead, cache_type="readahead")


def object_stamp(path: str, options: StorageOptions) -> str:
    """Return what changes with an object, as far as its store tells: size, ETag, time of change."""
    system, inner = filesystem(path, options, tries=1)
    system.invalidate_cache(inner)
    return str(tokenize(sorted((key, str(value)) for key, value in system.info(inner).items())))


def read_ranges(path: str, options: StorageOptions, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Fetch exact ranges of bytes of one object, those closer than :data:`MERGED_GAP` as one, all at the same time.

    Parameters
    ----------
    path : str
        URL.
    options : StorageOptions
        Options of the store.
    ranges : sequence of (start, stop)
        Bytes from the start of the object.

    Returns
    -------
    list of memoryview
        One for each range.

    Raises
    ------
    InputFileError
        If there is no such object, it ends before a range does, or its server knows no ranges.
    RemoteAccessError
        If the object cannot be reached, see :func:`remote_errors`.
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= MERGED_GAP:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    with remote_errors(path):
        system, inner = filesystem(path, options, tries=1)
        blocks: dict[tuple[int, int], memoryview] = {}

        def fetch() -> None:
            missing = [span for span in merged if span not in blocks]
            starts, stops = (list(ends) for ends in zip(*missing, strict=True))
            results = system.cat_ranges([inner] * len(missing), starts, stops, on_error="return")
            errors = [result for result in results if isinstance(result, BaseException)]
            for span, result in zip(missing, results, strict=True):
                if not isinstance(result, BaseException):
                    blocks[span] = memoryview(result)
            if errors:
                raise errors[0]

        retried(fetch, path)
    for (start, stop), block in blocks.items():
        if len(block) < stop - start:
            raise InputFileError(
                f"{shown(path)}: the file ends at byte {start + len(block)}, {stop - start - len(block)} bytes "
                "before the end of the pixels asked for"
            )
        if len(block) > stop - start:
            raise InputFileError(f"{shown(path)}: {NO_RANGES}")
    first = [start for start, _ in merged]
    found = []
    for start, stop in ranges:
        span = merged[bisect_right(first, start) - 1]
        found.append(blocks[span][start - span[0] : stop - span[0]])
    return found


@contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """Turn errors of fsspec, botocore and aiohttp on one URL into errors of nsxr with one clear line.

    Errors on local files, and errors that are not known, pass unchanged.

    Raises
    ------
    InputFileError
        If there is no such object or bucket.
    RemoteAccessError
        If credentials are missing or refused, if the store cannot be reached, or does not answer in time.
    """
    try:
        yield
    except NsxrError:
        raise
    except Exception as error:
        # without the cause: it may carry signed requests, and does not always pickle
        translated = _translated(shown(path), error) if is_remote(path) else None
        if translated is None:
            raise
        # not its repr: that of aiohttp has the headers of the request, authorization among them
        logger.debug("%s: %s: %s", shown(path), type(error).__name__, _reason(list(_chain(error))))
        raise translated from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ if error.__suppress_context__ else error.__context__


def _names(error: BaseException) -> set[str]:
    """Names of the classes of an error: tells errors of libraries that need not be installed."""
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    """HTTP status that an error of aiohttp or botocore carries."""
    status = getattr(error, "status", None)
    response = getattr(error, "response", None)
    if status is None and isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, Mapping) else ""


def _translated(path: str, error: Exception) -> NsxrError | None:
    chain = list(_chain(error))
    names = set().union(*map(_names, chain))
    statuses = {status for e in chain if (status := _status(e)) is not None}
    codes = {code for e in chain if (code := _code(e))}
    reason = _reason(chain)
    if "TypeError" in names and "keyword argument" in reason:
        return ParameterError(f"{path}: storage options that its store does not take ({reason})")
    if "range request" in reason or "seek streaming" in reason:
        return InputFileError(f"{path}: {NO_RANGES}")
    if 416 in statuses:
        return InputFileError(f"{path}: the file ends before the pixels asked for; was it replaced meanwhile?")
    if names & _NO_CREDENTIALS:
        return RemoteAccessError(
            f"no credentials for {path}; give them in the usual way of that store (for AWS: environment, profile or "
            "role), or storage_options={'anon': True} (--anonymous) for public data"
        )
    if isinstance(error, PermissionError) or statuses & {401, 403}:
        return RemoteAccessError(f"access to {path} is denied ({reason}); other credentials may be needed")
    if "NoSuchBucket" in codes:
        return InputFileError(f"there is no such bucket: {path}")
    if 404 in statuses:
        return InputFileError(f"there is no such object: {path}")
    if names & _NO_ANSWER or statuses & _ANSWERS_LATER:
        return RemoteAccessError(f"{path} cannot be reached, tried {TRIES} times ({reason})")
    if isinstance(error, FileNotFoundError):
        return InputFileError(f"there is no such object: {path}")
    if names & {"BotoCoreError", "ClientError"}:
        return RemoteAccessError(f"{path} cannot be read ({reason})")
    if isinstance(error, OSError) and without_secrets(str(error)) != str(error):
        return RemoteAccessError(f"{path} cannot be read ({reason})")
    return None


def _reason(chain: Sequence[BaseException]) -> str:
    """First line of the innermost error that says something, without URLs."""
    for error in reversed(chain):
        status = _status(error)
        text = getattr(error, "message", "") or str(error)
        text = without_secrets(text.strip().partition("\n")[0])
        if text or status:
            return f"{status} {text}".strip() if status and str(status) not in text else text
    return type(chain[0]).__name__


def _may_pass(error: BaseException) -> bool:
    return any(_status(e) in _ANSWERS_LATER or _names(e) & _NO_ANSWER for e in _chain(error))


def retried(function: Callable[[], T], path: str) -> T:
    """Call a function that reads from a URL; again, after a while, if it fails for a passing reason.

    Clients of HTTP do not try again by themselves, those of S3 each in their own way and inside each other.
    """
    for attempt in range(TRIES - 1 if is_remote(path) else 0):
        try:
            return function()
        except Exception as error:
            if not _may_pass(error):
                raise
            seconds = FIRST_WAIT * 2**attempt
            reason = _reason(list(_chain(error)))
            logger.info("%s: try %d failed (%s), next in %.1f s", shown(path), attempt + 1, reason, seconds)
            time.sleep(seconds)
    return function()
