"""Turn errors of stores behind URLs into one clear line without secrets, and try again after temporary errors.

Errors of aiohttp and botocore are recognized by the names of their classes, because these libraries may be missing.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from nsxr.errors import InputFileError, NsxrError, ParameterError, RemoteAccessError
from nsxr.storage.options import TRIES
from nsxr.storage.urls import is_remote, shown, without_secrets

__all__ = ["NO_RANGES", "remote_errors", "retried"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT = 0.5
"""Seconds before the second try; the time doubles before each further try."""

NO_RANGES = (
    "its server sends no ranges of bytes; download it first, or put 'simplecache::' before the URL to have that done"
)

_ANSWERS_LATER = {408, 429, 500, 502, 503, 504}
"""HTTP status codes of temporary failures."""

_NO_ANSWER = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError", "IncompleteRead"}
_NO_ANSWER |= {"ResponseParserError", "TimeoutError"}
"""Classes of aiohttp, botocore, urllib3 and Python for connections that fail or break."""

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}


@contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """Turn errors of fsspec, botocore and aiohttp about one URL into errors of nsxr.

    Errors about local files, and unknown errors, pass unchanged.

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
        # leave out the cause: it may contain signed requests, and cannot always be pickled
        translated = _translated(shown(path), error) if is_remote(path) else None
        if translated is None:
            raise
        # do not use the repr of the error: with aiohttp it contains the headers of the request, with the authorization
        logger.debug("%s: %s: %s", shown(path), type(error).__name__, _reason(list(_chain(error))))
        raise translated from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ if error.__suppress_context__ else error.__context__


def _names(error: BaseException) -> set[str]:
    """Return the names of the classes of an error."""
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of aiohttp or botocore, None if it has none."""
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
        return ParameterError(f"{path}: storage options that the store does not accept ({reason})")
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
    """Return the first line of the innermost error that has a text, without secrets."""
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
    """Call a function that reads from a URL, and call it again after a delay if the error may be temporary.

    HTTP clients do not try again by themselves. S3 clients do, but in several layers, whose tries multiply.
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
