"""Readers of damaged and hostile files: only a `FarvoxError` leaves, in seconds, and within a gigabyte.

``FARVOX_FUZZ=N`` draws N examples of each reader anew; otherwise there are few, always the same. What was
found once is kept in ``tests/found``.
"""

import os
import resource
import runpy
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
CODE = runpy.run_path(str(HERE / "readers.py"))
FUZZ = int(os.environ.get("FARVOX_FUZZ", "0"))
FOUND = sorted((HERE / "found").glob("*/*"))
SECONDS, SPARE_BYTES = 20, 1 << 30
TOKENS = (
    b"", b"0", b"-1", b"1e308", b"1e999", b"-1e-400", b"nan", b"NaN", b"Infinity", b"9223372036854775808",
    b"-9223372036854775809", b"1" * 5000, b"null", b"true", b"{}", b"[]", b'""', b'"x"', b"[" * 2000,
    b'{"a":' * 2000, b"a." * 2000, b"../../x", b"/dev/zero", b"/proc/self/mem", b"\0", b"\r", b"\n", b"\t",
    b" ", b"\xff", b"\xed\xa0\x80", b"\xc2\x85", b"\xe2\x80\xa8", b"\x1b[2J", b"\xef\xbb\xbf", b"%s%n",
    b"#t=1e999", b"#", b"|", b"x" * 5000, b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80",
    b"\xff" * 8, b"\0" * 64,
)  # fmt: skip


class TooSlowError(BaseException):
    """No reader takes it for a fault of what it reads."""


@contextmanager
def limits():
    """Let a block take some seconds, and a gigabyte more than there is."""

    def stop(*_):
        raise TooSlowError(f"takes more than {SECONDS} s")

    before, most = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(SECONDS)
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, most)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A function that gives the cases of a reader."""
    made = {}

    def cases_of(name):
        if name not in made:
            made[name] = CODE["Cases"](name, tmp_path_factory.mktemp("reader"))
        return made[name]

    return cases_of


@st.composite
def damages(draw, content):
    """A content with some of it changed, left out, repeated, or replaced by what readers stumble over."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        head = draw(st.booleans())
        at = min(at, at % 64) if head else at
        end = min(len(content), at + draw(st.sampled_from([0, 1, 2, 4, 8, 30, 1000])))
        token = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12)))
        kind = draw(st.sampled_from(["replace", "cut", "repeat", "flip", "number", "word"]))
        match kind:
            case "replace":
                content = content[:at] + token + content[end:]
            case "cut":
                content = content[:at]
            case "repeat":
                content = content[:at] + content[at:end] * draw(st.integers(2, 50)) + content[end:]
            case "flip" if at < len(content):
                bit = content[at] ^ 1 << draw(st.integers(0, 7))
                content = content[:at] + bytes([bit]) + content[at + 1 :]
            case "number" | "word":  # the next one
                found = CODE["WORD" if kind == "word" else "NUMBER"].search(content, at)
                if found:
                    content = content[: found.start()] + token + content[found.end() :]
    return content


@pytest.mark.slow
@pytest.mark.parametrize("name", CODE["READERS"])
@settings(
    max_examples=FUZZ or 60,
    derandomize=not FUZZ,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(data=st.data())
def test_whatever_is_damaged_only_a_message_leaves(name, cases, data):
    of_reader = cases(name)
    file = data.draw(st.sampled_from(of_reader.files))
    content = data.draw(damages(of_reader.content(file)))
    with limits():
        of_reader.read(file, content)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_before_stays_mended(path, cases):
    """Files are named ``READER/CASE--FILE--WHAT``."""
    of_reader = cases(path.parent.name)
    case, file, _ = path.name.replace("+", "/").split("--")
    with limits():
        of_reader.read((case, file), path.read_bytes())
