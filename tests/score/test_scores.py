"""Score files: written in trial order, read in any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score.scores import _written, read_scores, write_scores
from farvox.score.trials import read_trials


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "trials").write_text("1 a.wav b.wav\n0 a.wav c.wav\n0 b.wav c.wav\n")
    return read_trials(tmp_path / "trials")


@pytest.fixture
def read(tmp_path, trials):
    def write_and_read(text):
        (tmp_path / "scores").write_text(text)
        return read_scores(tmp_path / "scores", trials).tolist()

    return write_and_read


def test_a_line_repeats_the_ids_as_spelled_and_keeps_every_digit(tmp_path, trials):
    scores = [1 / 3, -2e-7 / 3, 1.0]
    write_scores(tmp_path / "scores", trials, scores)
    rows = [line.split(" ") for line in (tmp_path / "scores").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["a.wav", "b.wav"], ["a.wav", "c.wav"], ["b.wav", "c.wav"]]
    assert [float(row[2]) for row in rows] == scores


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.5, 1.0, 0.0, -1e-7])))
def test_a_score_carries_at_least_nine_digits_and_is_read_back_exactly(values):
    texts = _written(np.array(values, float)).to_list()
    assert [float(text) for text in texts] == values
    mantissas = [text.lstrip("-").partition("e")[0].replace(".", "") for text in texts]
    assert all(len(digits.lstrip("0") or digits) >= 9 for digits in mantissas)


def test_a_round_score_is_written_with_zeros(tmp_path, trials):
    write_scores(tmp_path / "scores", trials, [0.5, -1.0, 1 / 3])
    texts = [line.split(" ")[2] for line in (tmp_path / "scores").read_text().splitlines()]
    assert texts == ["0.500000000", "-1.00000000", "0.3333333333333333"]


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_what_is_written_is_read(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("scores")
    (folder / "trials").write_text("a b\na c\nb c\n")
    trials = read_trials(folder / "trials")
    write_scores(folder / "scores", trials, values)
    assert read_scores(folder / "scores", trials).tolist() == values


def test_ids_match_with_or_without_a_suffix(read):
    assert read("a b 0.1\na.wav c 0.2\nb.flac c.wav 3\n") == [0.1, 0.2, 3.0]


def test_any_order_will_do(read):
    assert read("b c 0.3\na b 0.1\na c 0.2\n") == [0.1, 0.2, 0.3]


def test_a_pair_that_is_listed_twice_has_one_score(tmp_path):
    (tmp_path / "trials").write_text("a b\na b\na c\n")
    trials = read_trials(tmp_path / "trials")
    (tmp_path / "scores").write_text("a c 2\na b 1\n")
    assert read_scores(tmp_path / "scores", trials).tolist() == [1, 1, 2]
    (tmp_path / "scores").write_text("a c 2\na b 1\na b 1\n")
    assert read_scores(tmp_path / "scores", trials).tolist() == [1, 1, 2]


FAULTS = {
    "missing": ("a b 1\nb c 1\n", r"scores: 1 of the 3 trials have no score; .* 'a.wav c.wav' .*trials:2"),
    "not in the list": ("b c 3\na b 1\na c 2\nc a 4\n", "scores:4: this pair is not in .*trials"),
    "too often": ("b c 3\na b 1\na c 2\na b 1\n", "scores:4: this pair is here more often than in"),
    "contradiction": ("b c 3\na b 1\na c 2\na b 4\n", "scores:4: another score than on line 2"),
    "not a number": ("a b 1\na c x\nb c 2\n", "scores:2: the score 'x' is not a finite number"),
    "nan": ("a b 1\na c 2\nb c nan\n", "scores:3: the score 'nan' is not a finite number"),
    "two columns": ("a b\na c\n", "scores:1: 2 columns, where 3 are expected"),
    "empty": ("", "scores: the file is empty"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_does_not_fit_is_refused_by_line(read, text, message):
    with pytest.raises(TrialError, match=message):
        read(text)


def test_only_one_finite_score_a_trial_is_written(tmp_path, trials):
    with pytest.raises(TrialError, match="do not fit 3 trials"):
        write_scores(tmp_path / "scores", trials, [1.0, 2.0])
    with pytest.raises(TrialError, match=r"trials:2: the score of this trial is nan"):
        write_scores(tmp_path / "scores", trials, [1.0, np.nan, 2.0])
    assert not (tmp_path / "scores").exists()
