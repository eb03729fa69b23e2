"""Byte ranges of remote files: object stores and all else that fsspec reads by a URL.

Credentials and the address of the store are found in the usual way: for ``s3://`` in ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, the files of ``~/.aws`` or the role of the
machine; for other stores as their fsspec packages do. A request that fails for a passing reason is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from farvox.errors import AudioError, MissingExtraError, UnreachableError

TRIES = 6  # of a request; the waits between them add up to 6 seconds
_FIRST_WAIT = 0.2
_S3_CONFIG = {"retries": {"max_attempts": 0}, "connect_timeout": 10, "read_timeout": 30}

_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError)  # a second try would repeat them

Answer = TypeVar("Answer")


def is_remote(location: str) -> bool:
    """True for a URL, which is read through fsspec."""
    return "://" in location


def read_range(url: str, start: int, count: int) -> bytes:
    """Bytes ``start`` to ``start + count`` of a remote file, by one request; fewer where it ends before.

    Raises:
        AudioError: there is no such file.
        UnreachableError: access is denied, or the store does not answer.
        MissingExtraError: the package for this kind of URL is not installed.
    """
    return _try(url, lambda store: bytes(store.cat_file(url, start=start, end=start + count)))


def read_whole(url: str) -> bytes:
    """All bytes of a remote file; errors as `read_range`."""
    return _try(url, lambda store: bytes(store.cat_file(url)))


def size_of(url: str) -> int | None:
    """Bytes of a remote file, as it is now; None where there is none. Errors as `read_range`."""

    def ask(store: Any) -> int | None:
        try:
            store.invalidate_cache()
            return int(store.info(url)["size"])
        except FileNotFoundError:
            return None

    return _try(url, ask)


def put_file(path: str, url: str) -> None:
    """Copy a local file to a URL; stores show it whole or not at all. Errors as `read_range`."""
    _try(url, lambda store: store.put_file(path, url))


def _try(url: str, ask: Callable[[Any], Answer]) -> Answer:
    """Request something from the file system of a URL, again where a failure may pass."""
    try:
        import fsspec

        # fsspec keeps one file system a process, and makes a new one after a fork.
        if url.startswith("s3://"):
            store = fsspec.core.url_to_fs(url, config_kwargs=_S3_CONFIG)[0]
            store.retries = 1  # else three layers try again, each for all tries of the one below
        else:
            store = fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        how = "pip install 'farvox[s3]'" if url.startswith("s3://") else f"{error}"
        raise MissingExtraError(f"{url}: needs {error.name or 'a further package'}: {how}") from error
    except ValueError as error:
        raise UnreachableError(f"{url}: {error}") from None
    wait = _FIRST_WAIT
    for remaining in reversed(range(TRIES)):
        try:
            return ask(store)
        except FileNotFoundError:
            raise AudioError(f"{url}: no such file, or no such bucket") from None
        except _FINAL as error:
            raise UnreachableError(
                f"{url}: access is refused: {error}; check the credentials (docs/training.md says where they "
                "are looked for) and what they allow"
            ) from None
        except Exception as error:  # each store has errors of its own
            if not remaining:
                raise UnreachableError(
                    f"{url}: no answer after {TRIES} tries: {error}; check the address and the network, "
                    "and start again"
                ) from error
        time.sleep(wait)
        wait *= 2
    raise AssertionError("the last try returns or raises")
