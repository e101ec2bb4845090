"""Exceptions and warnings, and what their messages share. Each exception is also the builtin that it resembles most."""

__all__ = [
    "ArchiveInUseError",
    "ArchivedOtherwiseError",
    "ClusterError",
    "DegradedResultWarning",
    "InputFileError",
    "MissingReferenceError",
    "ModelError",
    "NsxrError",
    "NsxrWarning",
    "OutputExistsError",
    "ParameterError",
    "ReferenceFileError",
    "RemoteAccessError",
    "install",
]


def install(extra: str) -> str:
    """Return the command that brings the libraries of an extra of nsxr, for messages."""
    return f'pip install "nsxr[{extra}]", or in a clone of nsxr pip install ".[{extra}]"'


class NsxrError(Exception):
    """Base class of all errors raised on purpose by nsxr."""


class InputFileError(NsxrError, ValueError):
    """An exposure file is not what it should be: wrong kind, cut off, or inconsistent."""


class ModelError(NsxrError, ValueError):
    """A Dataset lacks a variable, or has one with wrong dims, dtype or units."""


class ReferenceFileError(NsxrError, ValueError):
    """A reference does not belong to the exposure, or its content is wrong."""


class MissingReferenceError(NsxrError, LookupError):
    """A correction needs a reference of a type that was not given."""


class ParameterError(NsxrError, ValueError):
    """A parameter is unknown or has a value outside its range."""


class OutputExistsError(NsxrError, FileExistsError):
    """A product would overwrite an existing file and overwriting was not asked for."""


class ArchivedOtherwiseError(OutputExistsError):
    """An exposure is in the archive, but was made with other parameters, steps, references or inputs."""


class ArchiveInUseError(NsxrError, BlockingIOError):
    """Another process is writing the same exposure into the archive."""


class RemoteAccessError(NsxrError, OSError):
    """A store behind a URL cannot be reached, asks for other credentials, or does not answer."""


class ClusterError(NsxrError, RuntimeError):
    """A dask cluster cannot be reached, or its workers cannot do the work."""


class NsxrWarning(UserWarning):
    """Base class of all warnings issued by nsxr."""


class DegradedResultWarning(NsxrWarning):
    """The result is usable but poorer than it should be."""
