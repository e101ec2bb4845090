"""Handle storage options: what a store needs besides the URL, such as its endpoint and credentials.

Storage options are passed with each path. There are no global options.
"""

import copy
from collections.abc import Mapping
from importlib import import_module

import fsspec
from dask.base import tokenize

from nsxr.errors import ParameterError
from nsxr.model.types import Entries, Named
from nsxr.storage.urls import protocols

__all__ = ["ANONYMOUS", "NO_OPTIONS", "StorageOptions", "token"]

TRIES = 5
"""Number of tries before a request counts as failed."""

CONNECT_TIMEOUT, READ_TIMEOUT = 20, 30
"""Seconds without an answer, or without another byte, after which a try counts as failed."""

ANONYMOUS: dict[str, Entries] = {"s3": {"anon": True}, "gs": {"token": "anon"}, "gcs": {"token": "anon"}}
"""Storage options for public data."""


def token(value: object) -> str:
    """Return a hash of a value, which is the same in every process and does not reveal the value."""
    return str(tokenize(value))


class StorageOptions:
    """Hold storage options: hashable, picklable, and shown without their values.

    Parameters
    ----------
    options : mapping, optional
        As for fsspec. Options of one protocol may be given under its name, ``{"s3": {"anon": True}}``. Options of
        protocols that a URL does not use are ignored, so that the same options serve files in several stores. All
        other options go to the first protocol of the URL.
    """

    _options: Entries
    _token: str

    def __init__(self, options: "Named | StorageOptions | None" = None) -> None:
        if isinstance(options, StorageOptions):
            options = options._options
        if options is not None and not isinstance(options, Mapping):
            raise ParameterError(f"storage_options is a {type(options).__name__}, expected a mapping")
        self._options = copy.deepcopy(dict(options or {}))
        self._token = token(self._options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageOptions) and self._token == other._token

    def __hash__(self) -> int:
        return hash(self._token)

    def __repr__(self) -> str:
        return f"StorageOptions({', '.join(sorted(self._options))})"

    def __reduce__(self) -> tuple[object, ...]:
        return StorageOptions, (self._options,)

    def __dask_tokenize__(self) -> str:
        return self._token

    def of(self, path: str, tries: int = TRIES) -> dict[str, Entries]:
        """Return the options of each protocol of a URL, with time-outs and numbers of tries filled in."""
        known = fsspec.available_protocols()
        named = {k: v for k, v in self._options.items() if isinstance(v, Mapping) and k in known}
        plain = {k: v for k, v in self._options.items() if k not in named}
        first, *others = protocols(path)
        found = {first: _complete(first, {**named.get(first, {}), **plain}, tries)}
        found |= {protocol: _complete(protocol, named.get(protocol, {}), tries) for protocol in others}
        return copy.deepcopy(found)  # fsspec changes the options that it gets

    def names_any_for(self, path: str) -> bool:
        """Return whether options would be sent to the store of this URL; they may include headers and passwords."""
        known = fsspec.available_protocols()
        named = {k for k, v in self._options.items() if isinstance(v, Mapping) and k in known}
        first, *others = protocols(path)
        return bool(set(self._options) - named) or any(self._options.get(p) for p in (first, *others) if p in named)


NO_OPTIONS = StorageOptions()


def _complete(protocol: str, options: Named, tries: int) -> Entries:
    """Add default time-outs and numbers of tries, where the caller has not set them."""
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
