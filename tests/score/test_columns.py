"""Columns of text files: the same whatever the block, the separator and the line ends."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score import columns
from farvox.score.columns import IdTable, column_blocks, encoded_columns, stem_of, stems_of

words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12)


def read_all(path: Path, block_bytes: int) -> list[tuple[str, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BLOCK_BYTES", block_bytes)
        rows, next_line = [], 1
        for first_line, frame in column_blocks(path, widths=(2,)):
            assert first_line == next_line
            next_line += len(frame)
            rows += frame.rows()
    return rows


@given(
    rows=st.lists(st.tuples(words, words), min_size=1, max_size=20),
    separator=st.sampled_from([" ", "\t", "   ", "\t "]),
    line_end=st.sampled_from(["\n", "\r\n", " \n"]),
    tail=st.sampled_from(["", "\n", "\n \n\n"]),
    block_bytes=st.integers(1, 64),
)
@example(rows=[("x^", "1")], separator=" ", line_end="\n", tail="\n", block_bytes=64)
def test_lines_are_the_same_in_blocks_of_any_size(
    tmp_path_factory, rows, separator, line_end, tail, block_bytes
):
    path = tmp_path_factory.mktemp("columns") / "file"
    path.write_bytes((line_end.join(separator.join(row) for row in rows) + tail).encode())
    assert read_all(path, block_bytes) == read_all(path, 1 << 20) == rows


@given(
    rows=st.lists(st.tuples(words, words, words), min_size=1, max_size=20),
    separator=st.sampled_from([" ", "\t", "  "]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_ids_become_the_same_strings_whether_the_file_is_read_at_once_or_by_line(
    tmp_path_factory, rows, separator, line_end
):
    path = tmp_path_factory.mktemp("columns") / "file"
    path.write_bytes("".join(separator.join(row) + line_end for row in rows).encode())
    codes, ids = encoded_columns(path, (3,))
    assert sorted(ids) == sorted({word for row in rows for word in row})
    assert [tuple(ids.gather(column)) for column in codes.T] == rows


def test_lines_that_are_all_alike_are_parsed_at_once_and_others_are_not():
    for text, regular in (
        ("a b 1\nc d 0\n", True),
        ("a b 1\nc d 0", True),
        ("a\tb\t1\nc\td\t0\n", True),
        ("a b 1\r\nc d 0\r\n", True),
        ("a b 1\r\nc d 0\n", True),
        ("a b 1\nc d 0\r\n", False),
        ("a b 1\nc  d 0\n", False),
        ("a b 1\nc d\t0\n", False),
        ("a\tb\t1\nc\td \t0\n", False),
        ("a b 1\nc \x0bd 0\n", False),
        ("a b 1\n\nc d 0\n", False),
        ("a b 1\nc d 0 \n", False),
        ("a b 1\nc d\n", False),
        ("a b 1\nc d 0 e\n", False),
    ):
        schema = dict.fromkeys("xyz", pl.String)
        assert (columns._parse_regular(text.encode(), schema) is not None) == regular, text


@given(
    blank_line=st.sampled_from(["", "   ", "\t"]),
    before=st.integers(1, 5),
    after=st.integers(1, 5),
    block_bytes=st.integers(1, 30),
)
def test_a_blank_line_between_others_is_named_whatever_the_blocks(
    tmp_path_factory, blank_line, before, after, block_bytes
):
    path = tmp_path_factory.mktemp("columns") / "file"
    path.write_text("\n".join(["a b"] * before + [blank_line] + ["c d"] * after) + "\n")
    with pytest.raises(TrialError, match=f"file:{before + 1}: blank line"):
        read_all(path, block_bytes)


def test_quotes_and_hashes_are_ordinary_characters(tmp_path):
    (tmp_path / "file").write_text('"a #b\n\'c d"\n')
    assert read_all(tmp_path / "file", 1 << 20) == [('"a', "#b"), ("'c", 'd"')]


def test_a_string_keeps_its_number_from_column_to_column():
    table = IdTable()
    assert table.encode(pl.Series(["b", "a", "b"])).tolist() == [0, 1, 0]
    assert table.encode(pl.Series(["c", "a"])).tolist() == [2, 1]
    assert table.values.to_list() == ["b", "a", "c"]


@given(st.lists(st.lists(st.integers(0, 3000), max_size=400), max_size=8), st.integers(1, 100))
def test_strings_are_numbered_as_by_a_dict(columns_of_numbers, rows_in_cache):
    number_of: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "ROWS_IN_CACHE", rows_in_cache)
        patch.setattr(columns, "FEWEST_SLOTS", 2)
        table = IdTable()
        for numbers in columns_of_numbers:
            strings = [f"utt-{n}" for n in numbers]
            expected = [number_of.setdefault(string, len(number_of)) for string in strings]
            assert table.encode(pl.Series(strings, dtype=pl.String)).tolist() == expected
    assert table.values.to_list() == list(number_of)


@pytest.mark.parametrize(
    ("utt_id", "stem"),
    [
        ("id10270/x6uYqmx31kE/00001.wav", "id10270-x6uYqmx31kE-00001"),
        ("SV0333_2_{}_N0124.wav", "SV0333_2_{}_N0124"),
        ("a.flac", "a"),
        ("a.b", "a.b"),
    ],
)
def test_ids_are_matched_by_their_stem(utt_id, stem):
    assert stem_of(utt_id) == stem
    assert stems_of(pl.Series([utt_id, "x.wav"])).to_list() == [stem, "x"]
