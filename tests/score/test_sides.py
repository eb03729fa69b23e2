"""The rules by which an id stands for utterances, one before the other."""

import contextlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score.columns import stem_of
from farvox.score.sides import FoundSide, SideFinder


def found(utt_ids, spelled, as_channels=None):
    side = SideFinder(utt_ids, [spelled]).find(spelled, as_channels)
    return [utt_ids[row] for row in side.rows]


def test_the_exact_id_comes_before_the_one_without_suffix():
    assert found(["a", "a.wav"], "a.wav") == ["a.wav"]
    assert found(["a.wav", "a"], "a") == ["a"]


def test_an_utterance_whose_name_has_braces_is_itself():
    assert found(["a_{}", "a_1"], "a_{}") == ["a_{}"]


def test_microphones_come_in_the_order_of_their_numbers():
    assert found(["a_10_b", "a_2_b", "a_1_b"], "a_{}_b.wav") == ["a_1_b", "a_2_b", "a_10_b"]


def test_a_number_is_a_whole_run_of_digits():
    with pytest.raises(TrialError, match=r"no utterance matches 'utt1\{\}'"):
        found(["utt12", "utt1x"], "utt1{}")


def test_channels_are_numbered_without_leading_zeros_from_zero():
    assert found(["a_0", "a_1", "a_01", "a_x", "b_2"], "a") == ["a_0", "a_1"]
    with pytest.raises(TrialError, match="no utterance 'a'"):
        found(["a_1", "a_2"], "a")


def test_channel_0_may_be_missing_or_left_out_where_that_is_said():
    utt_ids = ["a_1", "a_2", "a_2024"]
    for how in ({"first_channel": 1}, {"allow_missing": True}):
        side = SideFinder(utt_ids, ["a"], **how).find("a")
        assert side.channels == (1, 2)
    with pytest.raises(TrialError, match="'a_1' is missing"):
        SideFinder(utt_ids[1:], ["a"], first_channel=1).find("a")


def test_where_both_are_there_the_reader_is_asked():
    utt_ids = ["a", "a_0", "a_1"]
    with pytest.raises(TrialError, match="say which side means channels"):
        found(utt_ids, "a")
    assert found(utt_ids, "a", as_channels=True) == ["a_0", "a_1"]
    assert found(utt_ids, "a", as_channels=False) == ["a"]


@given(st.integers(1, 20), st.randoms())
def test_all_channels_are_found_in_whatever_order_they_are_listed(count, random):
    channels = [f"a_{n}.wav" for n in range(count)]
    shuffled = random.sample(channels, count)
    finder = SideFinder(shuffled, ["a.wav"])
    assert [shuffled[row] for row in finder.find("a.wav").rows] == channels
    assert finder.reading == f"1 id read as its channels ID_0, ID_1, ... ({count} each)"


@given(
    utt_ids=st.lists(
        st.from_regex(r"[ab/]{1,2}(_[01])?(_\{\})?(\.wav|\.flac)?", fullmatch=True), unique=True
    ),
    spelled=st.lists(
        st.from_regex(r"[ab/-]{1,2}(_[01])?(_\{\})?(\.wav|\.m4a)?", fullmatch=True), unique=True
    ),
)
def test_ids_that_name_one_utterance_are_found_all_at_once(utt_ids, spelled):
    finder = SideFinder(utt_ids, spelled)
    rows = finder.plain_rows(pl.Series(spelled, dtype=pl.String)).tolist()
    for name, row in zip(spelled, rows, strict=True):
        if row >= 0:
            assert finder.find(name) == FoundSide((row,), (-1,))
    stems_differ = len({stem_of(utt_id) for utt_id in utt_ids}) == len(utt_ids)
    if stems_differ and not any("_0" in utt_id for utt_id in utt_ids):
        for name in (name for name, row in zip(spelled, rows, strict=True) if row < 0):
            with contextlib.suppress(TrialError):
                assert finder.find(name).channels != (-1,)
