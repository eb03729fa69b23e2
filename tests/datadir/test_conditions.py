import time
from pathlib import Path

import polars as pl
import pytest

from farvox.datadir.conditions import (
    conditions_text,
    merge_conditions,
    parse_where,
    read_conditions,
    select_utterances,
)
from farvox.errors import DataDirError, UsageError

TEXT = "utt_id\tdistance\tdevice\na\t1M\tPCM\nb\t\tI\nc\t3M\t\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "utt2cond").write_text(TEXT)
    return tmp_path / "utt2cond"


def test_conditions_are_read_as_they_were_written(file: Path) -> None:
    table = read_conditions(file)
    assert table.columns == ["utt_id", "distance", "device"]
    assert table.rows() == [("a", "1M", "PCM"), ("b", "", "I"), ("c", "3M", "")]
    assert set(table.dtypes) == {pl.String}
    assert conditions_text(table.reverse()) == TEXT


def test_a_data_dir_stands_for_its_file(file: Path) -> None:
    assert read_conditions(file.parent).equals(read_conditions(file))


def test_windows_line_ends_and_values_with_blanks_are_read(file: Path) -> None:
    file.write_bytes(b"utt_id\troom\r\na\tliving room \r\n")
    assert read_conditions(file).rows() == [("a", "living room ")]


def test_a_file_with_a_header_alone_has_no_rows(file: Path) -> None:
    file.write_text("utt_id\troom\n")
    assert read_conditions(file).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1: ''; the first line names the columns, utt_id first"),
        ("a\t1M\n", "1: 'a\t1M'; the first line names the columns"),
        ("utt_id\na\n", "1: no column but utt_id"),
        ("utt_id\tx\tx\n", "1: the column 'x' is there twice"),
        ("utt_id\t\n", "1: '' cannot be a column"),
        ("utt_id\tx=1\n", "1: 'x=1' cannot be a column"),
        ("utt_id\tx\na\t1\nb\n", "3: 1 fields between tabs, the header has 2: 'b'"),
        ("utt_id\tx\na\t1\t2\n", "2: 3 fields between tabs, the header has 2: 'a 1 2'"),
        ("utt_id\tx\n\na\t1\n", "2: empty line"),
        ("utt_id\tx\n\t1\n", "2: no utterance"),
        ("utt_id\tx\na\t1\nb\t1\na\t2\n", "4: 'a' is there twice"),
    ],
)
def test_a_fault_is_named_by_its_line(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(DataDirError) as caught:
        read_conditions(file)
    assert f"utt2cond:{complaint}" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="utt2cond: no such file"):
        read_conditions(tmp_path)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ({"utt_id": ["a"], "x": ["1\t2"]}, r"the x of 'a' is '1\\t2'; a value holds neither tabs"),
        ({"utt_id": ["a", "a"], "x": ["1", "2"]}, "'a' is there twice"),
        ({"utt_id": ["a"], "line": ["1"]}, "cannot be called 'line'"),
    ],
)
def test_values_that_could_not_be_read_again_are_refused(rows: dict[str, list[str]], complaint: str) -> None:
    with pytest.raises(DataDirError, match=complaint):
        conditions_text(pl.DataFrame(rows))


def test_tables_are_merged_over_the_union_of_their_columns() -> None:
    one = pl.DataFrame({"utt_id": ["a", "b"], "x": ["1", ""]})
    two = pl.DataFrame({"utt_id": ["b", "c"], "x": ["2", "3"], "y": ["", "9"]})
    merged = merge_conditions([one, two], ["one", "two"])
    assert conditions_text(merged) == "utt_id\tx\ty\na\t1\t\nb\t2\t\nc\t3\t9\n"
    with pytest.raises(DataDirError, match="'b' has the x '2' in two and '5' in three"):
        merge_conditions([one, two, pl.DataFrame({"utt_id": ["b"], "x": ["5"]})], ["one", "two", "three"])


def test_conditions_are_chosen_by_their_values(file: Path) -> None:
    table = read_conditions(file)

    def chosen(*words: str) -> list[str]:
        return select_utterances(table, parse_where(words), file).to_list()

    assert chosen("distance=1M,3M") == ["a", "c"]
    assert chosen("distance=1M,3M", "device=PCM") == ["a"]
    assert chosen("device=") == ["c"]
    with pytest.raises(DataDirError, match="has no condition 'room'; it has distance, device"):
        chosen("room=a")
    with pytest.raises(DataDirError, match=r"no utterance has distance '1m'; did you mean '1M'"):
        chosen("distance=1m")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["distance"], "expected CONDITION=VALUE"), (["=x"], "expected"), (["d=1", "d=2"], "write --where d=")],
)
def test_a_condition_of_another_form_is_wrong_usage(words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_where(words)


@pytest.mark.slow
def test_a_million_rows_are_read_in_seconds(tmp_path: Path) -> None:
    number = pl.int_range(1_000_000, eager=True)
    table = pl.DataFrame({"utt_id": "u" + number.cast(pl.String).str.zfill(7)})
    table = table.with_columns(pl.lit(f"value{n}").alias(f"c{n}") for n in range(7))
    (tmp_path / "utt2cond").write_text(conditions_text(table))
    start = time.process_time()
    assert read_conditions(tmp_path / "utt2cond").equals(table)
    assert time.process_time() - start < 10
