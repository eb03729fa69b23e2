import polars as pl
import pytest

from farvox.errors import TrialError
from farvox.score.rename import rename_sides, write_trials
from farvox.score.trials import read_trials

UTTERANCES = ["a_7", "b_2_00_N1", "b_2_01_N1", "c_0", "c_1"]
BECAME = ["a_7", "b_2_00_N1", "b_2_00_N1", "c_0", "c_0"]


def renamed(path, text, became=BECAME):
    path.write_text(text)
    return rename_sides(read_trials(path).resolve(UTTERANCES), became)


def test_a_side_is_called_by_what_its_channels_have_become(tmp_path):
    table = renamed(tmp_path / "trials", "a_7.wav b_2_{}_N1.wav target\nc b_2_01_N1 nontarget\n")
    assert table.rows() == [(1, "a_7", "b_2_00_N1"), (0, "c_0", "b_2_00_N1")]
    write_trials(tmp_path / "out", table)
    assert (tmp_path / "out").read_text() == "1 a_7 b_2_00_N1\n0 c_0 b_2_00_N1\n"
    again = read_trials(tmp_path / "out").resolve(["a_7", "b_2_00_N1", "c_0"])
    assert again.needed_ids == ["a_7", "b_2_00_N1", "c_0"]


def test_a_list_without_a_key_stays_without(tmp_path):
    assert renamed(tmp_path / "trials", "a_7 c\n").equals(pl.DataFrame({"enrol": ["a_7"], "test": ["c_0"]}))


def test_a_side_that_has_become_several_is_refused(tmp_path):
    with pytest.raises(
        TrialError, match=r"trials:2: 'c' has become several utterances, such as 'c_0' and 'c_1'"
    ):
        renamed(tmp_path / "trials", "a_7 b_2_{}_N1\na_7 c\n", [*BECAME[:3], "c_0", "c_1"])
