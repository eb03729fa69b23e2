"""Byte ranges of remote files: object stores and all else that fsspec reads by a URL.

Credentials and the address of the store are found in the usual way: for ``s3://`` in ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, the files of ``~/.aws`` or the role of the
machine; for other stores as their fsspec packages do. A request that fails for a passing reason is repeated,
which a line on stderr tells. A process that is asked to end waits for no answer (`farvox.children.ending`).
URLs that hold a password are refused.

A URL that a person or a caller names is read. One that a data dir names is read only where that is asked for:
in a block of `remote_audio`, in a bucket that this user packed to (`know_bucket`), or in the one that the
data dir itself was named in (`trusted`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.request import url2pathname

from farvox.atomic import write_text
from farvox.cache import cache_path
from farvox.children import ending
from farvox.errors import AudioError, MissingExtraError, UnreachableError
from farvox.progress import SECONDS_BETWEEN_LINES, to_stderr

TRIES = 6  # of a request; the waits between them add up to 6 seconds
_FIRST_WAIT = 0.2
_LOOK = 0.2  # seconds after which a thread that waits sees that the process ends
_S3_CONFIG = {"retries": {"max_attempts": 0}, "connect_timeout": 10, "read_timeout": 30}

_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError)  # a second try would repeat them
_DENIED = (401, 403)  # HTTP

ORIGIN = r"^([A-Za-z][A-Za-z0-9+.:-]+://[^/?#]*)"
"""Pattern of the scheme and the host, or bucket, of a URL."""
HOW_TO_ASK = "farvox reads it with --remote, or with [data] remote = true in a recipe"
_BUCKETS = "buckets.txt"  # in the cache
_PACKAGES = {
    "s3": "farvox[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
_PACKAGES |= {"http": "fsspec[http]", "https": "fsspec[http]"}
_NO_NETWORK = ("file", "memory")
_TAGS = ("etag", "md5hash", "content-md5")  # of a file's content, as stores name them
_TIMES = ("lastmodified", "last-modified", "last_modified", "updated", "mtime", "created")  # of a change

Answer = TypeVar("Answer")

_told: list[float] = []  # when the last line on a request that is repeated was printed
_lost: set[str] = set()  # stores that answered no try of a request: the others are not repeated either

_asked: ContextVar[bool] = ContextVar("remote audio is asked for", default=False)
_trusted: ContextVar[tuple[str, ...]] = ContextVar("origins that were named", default=())


def is_remote(location: str) -> bool:
    """True for a URL that is read through fsspec: any but ``file://``."""
    return "://" in location and bool(re.match(ORIGIN, location)) and not location.startswith("file://")


def without_scheme(location: str) -> str:
    """The path of a ``file://`` URL; anything else as it is."""
    if not location.startswith("file://"):
        return location
    return url2pathname(location.removeprefix("file://").removeprefix("localhost"))


@contextmanager
def remote_audio(asked: bool = True) -> Iterator[None]:
    """If ``asked``, the data dirs that are opened in this block may name audio of other machines."""
    token = _asked.set(asked or _asked.get())
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def trusted(url: str) -> Iterator[None]:
    """Data dirs that are opened in this block may name audio in the bucket of this URL."""
    token = _trusted.set((*_trusted.get(), *re.findall(ORIGIN, url)))
    try:
        yield
    finally:
        _trusted.reset(token)


def is_asked() -> bool:
    """True in a block of `remote_audio`."""
    return _asked.get()


def know_bucket(url: str) -> None:
    """Remember, for this user, that audio was packed to the bucket of a URL, so that it may be read there."""
    known = _known_buckets()
    if (found := re.match(ORIGIN, url)) and found[1] not in known:
        with suppress(OSError):  # then it has to be asked for
            write_text(cache_path() / _BUCKETS, "".join(f"{each}\n" for each in sorted({*known, found[1]})))


def _known_buckets() -> set[str]:
    try:
        return set((cache_path() / _BUCKETS).read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def why_refused(origin: str, *, asked: bool) -> str:
    """The reason not to read from an origin (see `ORIGIN`) that a data dir names; empty: it may be read."""
    scheme, _, host = origin.partition("://")
    if fault := _fault_of(origin):
        return fault
    if asked or scheme in _NO_NETWORK or origin in (*_trusted.get(), *_known_buckets()):
        return ""
    return f"lies on another machine ({scheme}://{host}), which nobody asked to read from; {HOW_TO_ASK}"


def _fault_of(url: str) -> str:
    """The reason why a URL is unfit for any use; empty: there is none."""
    scheme, _, rest = url.partition("://")
    host = re.split("[/?#]", rest)[0]
    user, at, host_alone = host.rpartition("@")
    is_container = scheme in ("abfs", "abfss", "az") and not re.search("[:@]", user)
    if at and not is_container:
        return (
            f"{scheme}://***@{host_alone}: a password or user in a URL is refused, since URLs are printed "
            "and kept; leave out all before the @, and give credentials in the environment or a file, as the "
            "store's own tools take them"
        )
    if ":" in scheme or "::" in re.sub(r"\[.*?\]", "", url):
        return f"{host_alone}: a chain of URLs (::) is refused; name the file itself"
    return ""


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


def version_of(url: str) -> str:
    """Size of a remote file, a tab, and the tag or time of change that its store tells, if it does.

    Raises:
        AudioError: there is no such file; further errors as `read_range`.
    """

    def ask(store: Any) -> str:
        store.invalidate_cache()
        return _version(store.info(url))

    return _try(url, ask)


def _version(info: Mapping[str, Any]) -> str:
    found = {str(name).lower(): value for name, value in info.items()}
    told = next((found[name] for name in (*_TAGS, *_TIMES) if found.get(name) is not None), "")
    return f"{found.get('size')}\t{told}"


def list_files(url: str) -> dict[str, str]:
    """Names right in a folder of a store -> their versions, as `version_of`; of folders ``name/`` -> "".

    It is empty where there is no such folder, or no such bucket. Errors as `read_range`.
    """

    def ask(store: Any) -> dict[str, str]:
        store.invalidate_cache()
        try:
            found = store.ls(url, detail=True)
        except FileNotFoundError:
            return {}
        names = [str(each["name"]).rstrip("/").rpartition("/")[2] for each in found]
        return {
            **{
                name: _version(each)
                for name, each in zip(names, found, strict=True)
                if each["type"] == "file"
            },
            **{f"{name}/": "" for name, each in zip(names, found, strict=True) if each["type"] != "file"},
        }

    return _try(url, ask)


def put_file(path: str, url: str) -> None:
    """Copy a local file to a URL; stores show it whole or not at all. Errors as `read_range`."""
    _try(url, lambda store: store.put_file(path, url))


def get_file(url: str, path: str) -> None:
    """Copy a remote file to a path. Errors as `read_range`."""
    _try(url, lambda store: store.get_file(url, path))


def remove_file(url: str) -> None:
    """Remove a remote file, if it is there. Errors as `read_range`."""

    def ask(store: Any) -> None:
        with suppress(FileNotFoundError):
            store.rm_file(url)

    _try(url, ask)


def _try(url: str, ask: Callable[[Any], Answer]) -> Answer:
    """Request something from the file system of a URL, again where a failure may pass."""
    if fault := _fault_of(url):
        raise UnreachableError(fault)
    scheme = url.partition("://")[0]
    try:
        import fsspec

        # fsspec keeps one file system a process, and makes a new one after a fork.
        if url.startswith("s3://"):
            store = fsspec.core.url_to_fs(url, config_kwargs=_S3_CONFIG)[0]
            store.retries = 1  # else three layers try again, each for all tries of the one below
        elif scheme in ("http", "https"):
            from fsspec.implementations.http import aiohttp

            limits = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)}
            store = fsspec.core.url_to_fs(url, client_kwargs=limits)[0]
        else:
            store = fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        package = _PACKAGES.get(scheme, error.name or "fsspec")
        raise MissingExtraError(
            f"{url}: needs {error.name or 'a further package'}: pip install '{package}' ({error})"
        ) from error
    except ValueError as error:
        raise UnreachableError(f"{url}: {error}") from None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "Amazon S3"
    where = f"{url} (at {endpoint})" if scheme == "s3" else url
    delay, origin = 0.0, "".join(re.findall(ORIGIN, url))
    for remaining in reversed(range(TRIES)):
        try:
            answer = _wait_for(lambda: ask(store), delay)
            _lost.discard(origin)
            return answer
        except FileNotFoundError:
            raise AudioError(f"{where}: no such file, or no such bucket") from None
        except Exception as error:  # each store has errors of its own
            is_denied = isinstance(error, _FINAL) or getattr(error, "status", None) in _DENIED
            if is_denied or "Credential" in type(error).__name__:
                raise UnreachableError(
                    f"{where}: access is refused: {error}; check the credentials (docs/training.md says "
                    "where they are looked for) and what they allow"
                ) from None
            why = str(error) or type(error).__name__
            if not remaining or origin in _lost:
                _lost.add(origin)
                raise UnreachableError(
                    f"{where}: no answer after {TRIES - remaining} tries: {why}; check the address and "
                    "the network, and give the same command again: what is done is kept, and it goes on"
                ) from error
            if not _told or time.monotonic() - _told[-1] >= SECONDS_BETWEEN_LINES:
                _told[:] = [time.monotonic()]
                to_stderr(f"{where}: no answer: {why}; tried again, {remaining} times at most")
        delay = 2 * delay or _FIRST_WAIT
    raise AssertionError("the last try returns or raises")


def _wait_for(ask: Callable[[], Answer], delay: float) -> Answer:
    """The answer to a request, made after a delay in a thread that no end of this process waits for."""
    answer: Future[Answer] = Future()
    threading.Thread(target=_make, args=(answer, ask, delay), name="remote", daemon=True).start()
    while not wait([answer], _LOOK).done:
        if ending:
            raise KeyboardInterrupt
    try:
        return answer.result()
    finally:
        del answer  # an error holds this frame


def _make(answer: Future[Answer], ask: Callable[[], Answer], delay: float) -> None:
    time.sleep(delay)
    try:
        answer.set_result(ask())
    except BaseException as error:
        answer.set_exception(error)
