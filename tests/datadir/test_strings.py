import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.datadir import strings
from farvox.datadir.strings import StringTable

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_string_table_gives_back_its_strings(strings):
    table = StringTable.of(pl.Series(strings))
    assert [table[row] for row in range(len(table))] == strings == list(table)
    assert table.column().to_list() == strings


@given(st.lists(TEXT), TEXT)
def test_the_lines_of_a_file_are_mapped_strings(tmp_path_factory, lines, unfinished):
    path = tmp_path_factory.mktemp("lines") / "utt_ids.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode() + unfinished.encode())
    table = StringTable.of_lines(path)
    assert table == lines
    assert lines == table
    assert table.column().to_list() == lines
    assert [table[row] for row in range(-len(lines), len(lines))] == lines * 2
    assert table[1:] == lines[1:]
    assert table[::-2] == lines[::-2]


def test_lines_are_found_whatever_the_block_that_they_are_sought_in(tmp_path, monkeypatch):
    monkeypatch.setattr(strings, "_SCANNED", 7)
    monkeypatch.setattr(strings, "_ITERATED", 3)
    lines = [f"speaker-{n}" * (n % 3) for n in range(20)]
    path = tmp_path / "utt_ids.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    table = StringTable.of_lines(path)
    assert list(table) == lines
    with pytest.raises(IndexError):
        table[20]
