"""Exceptions and warnings of nsxr. Each exception is also a subclass of the most similar builtin exception."""

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
    """Return the command that installs an extra of nsxr, for messages."""
    return f'pip install "nsxr[{extra}]", or in a clone of nsxr pip install ".[{extra}]"'


class NsxrError(Exception):
    """Base class of all errors that nsxr raises on purpose."""


class InputFileError(NsxrError, ValueError):
    """An input file is of the wrong kind, cut off, or inconsistent."""


class ModelError(NsxrError, ValueError):
    """A Dataset lacks a variable, or a variable has wrong dims, dtype or units."""


class ReferenceFileError(NsxrError, ValueError):
    """A reference does not fit the exposure, or its content is wrong."""


class MissingReferenceError(NsxrError, LookupError):
    """A correction needs a reference that was not given."""


class ParameterError(NsxrError, ValueError):
    """A parameter is unknown, or its value is out of range."""


class OutputExistsError(NsxrError, FileExistsError):
    """A product would replace an existing file, and overwriting was not asked for."""


class ArchivedOtherwiseError(OutputExistsError):
    """An exposure is in the archive already, made with other parameters, steps, references or inputs."""


class ArchiveInUseError(NsxrError, BlockingIOError):
    """Another process is writing the same exposure to the archive."""


class RemoteAccessError(NsxrError, OSError):
    """A store behind a URL cannot be reached, does not answer, or needs other credentials."""


class ClusterError(NsxrError, RuntimeError):
    """A dask cluster cannot be reached, or its workers cannot do the work."""


class NsxrWarning(UserWarning):
    """Base class of all warnings of nsxr."""


class DegradedResultWarning(NsxrWarning):
    """The result is usable, but worse than it should be."""
