import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.progress import Progress, duration, printable, to_stderr


def test_a_line_comes_only_after_a_while(monkeypatch):
    lines: list[str] = []
    quiet = Progress("files read", 10, lines.append)
    quiet.advance(5)
    assert lines == []
    monkeypatch.setattr("farvox.progress.SECONDS_BETWEEN_LINES", 0)
    talkative = Progress("files read", 1000, lines.append)
    talkative.start -= 110  # seconds ago
    talkative.advance(400)
    talkative.show(500, "12 MB")
    assert lines == [
        "files read: 400 of 1,000, 4 a second, 3 min left",
        "files read: 500 of 1,000, 5 a second, 2 min left, 12 MB",
    ]


def test_the_rate_of_a_task_that_goes_on_is_that_of_what_is_done_now(monkeypatch):
    monkeypatch.setattr("farvox.progress.SECONDS_BETWEEN_LINES", 0)
    lines: list[str] = []
    progress = Progress("copies made", 1000, lines.append, done=900)
    progress.start -= 100
    progress.show(900)
    progress.advance(50)
    assert lines == ["copies made: 950 of 1,000, 2 s each, 2 min left"]


def test_a_time_is_told_in_the_unit_that_people_would_choose():
    assert [duration(n) for n in (0, 42, 89, 90, 3540, 3600, 12345)] == [
        "0 s", "42 s", "89 s", "2 min", "59 min", "1 h 00 min", "3 h 26 min"
    ]  # fmt: skip


@pytest.mark.parametrize("note", [to_stderr, print])
def test_a_bar_is_shown_on_a_terminal_where_lines_would_be_printed(note, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("copies made", 10, note) as progress:
        progress.advance(5, "half")
    assert ("copies made" in capsys.readouterr().err) == (note is to_stderr)


@given(st.text() | st.text('\x1b\x9b\u202e\u2028\ud800\\"/x', max_size=9))
def test_what_is_printed_is_harmless_and_valid_json_stays_the_same(text):
    shown = printable(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(shown) == {text: text}
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", printable(text)
    )


def test_a_terminal_is_given_no_escape_sequences_of_an_id(capsys):
    to_stderr("'\x1b[2Ja\x9b1m\u202eb\r' is damaged\n\tso it is: 张三")
    assert capsys.readouterr().err == "'\\u001b[2Ja\\u009b1m\\u202eb\\u000d' is damaged\n\tso it is: 张三\n"
