"""Read, write, list and remove files in a directory on disk or behind a URL."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from nsxr.errors import InputFileError
from nsxr.model.types import Entries
from nsxr.storage.local import open_regular
from nsxr.storage.options import NO_OPTIONS, StorageOptions
from nsxr.storage.remote_errors import remote_errors
from nsxr.storage.stores import filesystem
from nsxr.storage.urls import is_remote, shown
from nsxr.storage.whole import make_file, put_file

__all__ = ["Folder", "parsed_json"]


@dataclass(frozen=True)
class Folder:
    """Represent a directory on disk, or a prefix behind a URL. Objects are small and picklable.

    Keys are paths below it, with parts separated by ``/``.

    Attributes
    ----------
    root : str
        Absolute path or URL.
    options : StorageOptions
        Options of the store behind a URL.
    """

    root: str
    options: StorageOptions = NO_OPTIONS

    @classmethod
    def at(
        cls, path: str | os.PathLike[str], storage_options: Mapping[str, object] | StorageOptions | None = None
    ) -> "Folder":
        """Return the folder of a URL or of a path. A relative path is made absolute."""
        name = os.fspath(path)
        root = name.rstrip("/") if is_remote(name) else os.path.abspath(name)
        return cls(root, StorageOptions(storage_options))

    def __str__(self) -> str:
        return shown(self.root)

    @property
    def is_remote(self) -> bool:
        """Whether the folder is behind a URL."""
        return is_remote(self.root)

    def place(self, key: str) -> str:
        """Return the path or URL of a key.

        Raises
        ------
        InputFileError
            If the key is not a path below the folder.
        """
        if key and not all(part not in ("", ".", "..") and "\0" not in part for part in key.split("/")):
            raise InputFileError(f"{self}: {key!r} is not a path below it")
        return f"{self.root}/{key}" if key else self.root

    @property
    def storage_options(self) -> Any:
        """Storage options in the form that functions of nsxr take."""
        return self.options

    def given(self) -> Entries | None:
        """Return the storage options in the form that xarray and zarr take."""
        return self.options.of(self.root) if self.is_remote else None

    @contextmanager
    def _system(self, key: str) -> Iterator[tuple[Any, str]]:
        """Yield the fsspec filesystem, whose cached listings are dropped, and the path of a key in it."""
        path = self.place(key)
        with remote_errors(path):
            if self.is_remote:
                system, inner = filesystem(path, self.options)
            else:
                system, inner = fsspec.filesystem("file"), path
            system.invalidate_cache()
            yield system, inner

    def read(self, key: str) -> bytes | None:
        """Return the content of a file, None if there is no such file."""
        if not self.is_remote:
            try:
                with open_regular(self.place(key)) as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        with self._system(key) as (system, inner):
            try:
                return bytes(system.cat_file(inner))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def read_json(self, key: str) -> Any:
        """Return the content of a JSON file, None if there is no such file or it is not JSON."""
        return parsed_json(self.read(key))

    def read_all_json(self, keys: Sequence[str]) -> Entries:
        """Return the contents of several JSON files, see :meth:`read_json`. Behind a URL they are fetched together."""
        if not self.is_remote or len(keys) < 2:
            return {key: self.read_json(key) for key in keys}
        with self._system("") as (system, inner):
            contents = system.cat([f"{inner}/{key}" for key in keys], on_error="return")
        found = dict(zip(keys, contents.values(), strict=True))
        for key, content in found.items():
            if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
                with remote_errors(self.place(key)):
                    raise content
        return {key: parsed_json(content if isinstance(content, bytes) else None) for key, content in found.items()}

    def put(self, key: str, content: bytes) -> None:
        """Write a file in one step, so that readers never find an incomplete file. An older file is replaced."""
        if self.is_remote:
            with self._system(key) as (system, inner):
                system.makedirs(inner.rpartition("/")[0], exist_ok=True)
                system.pipe_file(inner, content)
            return
        put_file(Path(self.place(key)), content)

    def put_json(self, key: str, content: Mapping[str, object]) -> None:
        """Write a JSON file, see :meth:`put`."""
        self.put(key, json.dumps(content, indent=1).encode())

    def make(self, key: str, content: bytes) -> bool:
        """Write a file if there is none yet; return whether it was written.

        If several processes try at the same time, one of them succeeds.
        """
        if self.is_remote:
            with self._system(key) as (system, inner):
                system.makedirs(inner.rpartition("/")[0], exist_ok=True)
                try:
                    system.pipe_file(inner, content, mode="create")
                except FileExistsError:  # caught here, before remote_errors turns it into an error of nsxr
                    return False
            return True
        return make_file(Path(self.place(key)), content)

    def files(self, key: str) -> dict[str, int]:
        """Return the sizes of all files below a key, by their paths relative to the key, sorted."""
        with self._system(key) as (system, inner):
            try:
                found = system.find(inner, detail=True)
            except FileNotFoundError:
                return {}
        prefix = inner.rstrip("/") + "/"
        sizes = {
            name.removeprefix(prefix): int(entry["size"]) for name, entry in found.items() if name.startswith(prefix)
        }
        return dict(sorted(sizes.items()))

    def names(self, key: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files directly below a key, sorted."""
        with self._system(key) as (system, inner):
            try:
                entries = system.ls(inner, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return [], []
        own = inner.rstrip("/")
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name not in (own, own.lstrip("/")):
                found[entry["type"] == "directory"].add(name.rpartition("/")[2])
        return sorted(found[True]), sorted(found[False])

    def remove(self, key: str) -> None:
        """Remove a file or folder, if there is one. The folder itself is never removed."""
        if not key:
            raise InputFileError(f"{self}: only files and folders below it can be removed, not the folder itself")
        for last in (False, False, True):  # other threads may still write blocks into it
            with self._system(key) as (system, inner):
                try:
                    system.rm(inner, recursive=True)
                except FileNotFoundError:
                    return
                except OSError:
                    if last:
                        raise


def parsed_json(content: bytes | str | None) -> Any:
    """Return the content of a JSON text, None if there is no text or it is not JSON."""
    try:
        return None if content is None else json.loads(content)
    except (ValueError, TypeError, RecursionError):  # RecursionError: thousands of nested brackets
        return None
