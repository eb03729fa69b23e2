"""Score files, written in trial order and read in any; submissions, one number a line."""

import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError, UsageError
from farvox.score import columns
from farvox.score.scores import read_scores, write_scores, write_submission
from farvox.score.trials import TrialList, read_trials

NUM_FFSVC2022 = 441_600
NUM_HOMEWORK = 28_068


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


@given(st.lists(st.floats(-1e99, 1e99) | st.sampled_from([0.5, 1.0, 0.0, -1e-7])))
def test_a_score_carries_at_least_nine_digits_and_is_read_back_exactly(tmp_path_factory, values):
    path, codes = tmp_path_factory.mktemp("scores") / "scores", np.zeros(len(values), np.int32)
    trials = TrialList(Path("trials"), pl.Series(["a"]), codes, codes, None, "made by hand")
    write_scores(path, trials, values)
    texts = [line.split(" ")[2] for line in path.read_text().splitlines()]
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
    "huge": ("a b 1\na c 2\nb c -1e308\n", "scores:3: the score '-1e308' is not a finite number below"),
    "nan": ("a b 1\na c 2\nb c nan\n", "scores:3: the score 'nan' is not a finite number"),
    "two columns": ("a b\na c\n", "scores:1: 2 columns, where 3 or 4 are expected"),
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


def inside(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["scores.txt"] and archive.testzip() is None
        return archive.read("scores.txt").decode("utf-8")


def test_a_zip_holds_the_scores_in_trial_order_with_every_digit(tmp_path, trials):
    write_submission(tmp_path / "out.zip", trials, [0.5, -1 / 3, 1e-9])
    text = inside(tmp_path / "out.zip")
    assert [float(line) for line in text.splitlines()] == [0.5, -1 / 3, 1e-9] and text.endswith("\n")


def test_a_text_file_holds_the_same_lines(tmp_path, trials):
    write_submission(tmp_path / "out.zip", trials, [0.5, -1 / 3, 1e-9])
    write_submission(tmp_path / "score.txt", trials, [0.5, -1 / 3, 1e-9])
    assert (tmp_path / "score.txt").read_bytes().decode("utf-8") == inside(tmp_path / "out.zip")


def test_the_same_scores_give_the_same_bytes(tmp_path, trials, monkeypatch):
    write_submission(tmp_path / "one.zip", trials, [1, 2, 3])
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_submission(tmp_path / "two.zip", trials, [1, 2, 3])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


NO_SCORES = {
    "nan": ([1, float("nan"), 3], "trials:2: the score of this trial is nan"),
    "inf": ([1, 2, float("-inf")], "trials:3: the score of this trial is -inf"),
    "too few": ([1, 2], r"trials: scores of shape \(2,\) do not fit 3 trials"),
}


@pytest.mark.parametrize(("scores", "message"), NO_SCORES.values(), ids=NO_SCORES)
def test_what_no_challenge_takes_is_refused_and_nothing_is_written(tmp_path, trials, scores, message):
    with pytest.raises(TrialError, match=message):
        write_submission(tmp_path / "out.zip", trials, scores)
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]


def test_another_suffix_is_wrong_usage(tmp_path, trials):
    with pytest.raises(UsageError, match=r"scores\.csv: a submission is a \.zip"):
        write_submission(tmp_path / "scores.csv", trials, [1, 2, 3])


@pytest.mark.slow
def test_a_list_of_the_shape_of_ffsvc2022s_evaluation(tmp_path):
    enrol = np.arange(NUM_FFSVC2022) // 48
    test = 10_000 + (enrol * 37 + np.arange(NUM_FFSVC2022) % 48 * 1009) % 58_000
    table = pl.DataFrame({"enrol": enrol, "test": test}).select(
        pl.concat_str(
            pl.lit("ffsvc22_eval_"), pl.col(name).cast(pl.String).str.zfill(6), pl.lit(".wav")
        ).alias(name)
        for name in ("enrol", "test")
    )
    table.write_csv(tmp_path / "trials_eval", separator=" ", include_header=False)
    trials = read_trials(tmp_path / "trials_eval")
    assert trials.target is None and len(trials) == NUM_FFSVC2022
    scores = np.random.default_rng(0).uniform(-1, 1, len(trials))
    shuffled = table.with_columns(pl.col("test").str.strip_suffix(".wav"), score=scores).sample(
        fraction=1.0, shuffle=True, seed=1
    )
    shuffled.write_csv(tmp_path / "scores", separator=" ", include_header=False)
    write_submission(tmp_path / "scores.zip", trials, read_scores(tmp_path / "scores", trials))
    assert np.array_equal(np.array(inside(tmp_path / "scores.zip").splitlines(), float), scores)


def test_a_list_of_the_shape_of_the_homeworks_blind_test(tmp_path):
    enrol = [f"id{n:05d}" for n in range(5000, 5000 + 3520)]
    tested = [f"id{n:05d}" for n in range(10_000, 10_000 + 8812)]
    rng = np.random.default_rng(1)
    pairs = np.stack([rng.integers(0, 3520, NUM_HOMEWORK), np.arange(NUM_HOMEWORK) % 8812], axis=1)
    (tmp_path / "trials").write_text("".join(f"{enrol[e]} {tested[t]}\n" for e, t in pairs))
    trials = read_trials(tmp_path / "trials")
    assert len(trials) == NUM_HOMEWORK
    utt_ids = enrol + [f"{name}_{channel}" for name in tested for channel in range(8)]
    resolved = trials.resolve(utt_ids)
    assert set(np.diff(resolved.side_offsets).tolist()) == {1, 8}
    write_scores(tmp_path / "scores", trials, rng.uniform(-1, 1, NUM_HOMEWORK))
    scores = read_scores(tmp_path / "scores", trials)
    write_submission(tmp_path / "score.txt", trials, scores)
    lines = (tmp_path / "score.txt").read_text("utf-8").splitlines()
    assert len(lines) == NUM_HOMEWORK and np.array_equal(np.array(lines, float), scores)


@pytest.mark.parametrize(
    "form",
    ["{enrol} {test} {score} {word}", "{enrol} {test} {label} {score}", "{enrol}\t{test}\t{score}\t{label}"],
    ids=["wespeaker", "3dspeaker", "label last"],
)
def test_score_files_of_other_toolkits_carry_labels(tmp_path, form):
    (tmp_path / "list").write_text("1 a b\n0 a c\n1 b a\n0 b c\n")
    trials = read_trials(tmp_path / "list")
    lines = [("b", "c", 0.0, 0), ("a", "b", 1.0, 1), ("b", "a", 0.5, 1), ("a", "c", -0.25, 0)]
    (tmp_path / "scores").write_text(
        "".join(
            form.format(enrol=e, test=t, score=s, label=k, word=("nontarget", "target")[k]) + "\n"
            for e, t, s, k in lines
        )
    )
    assert read_scores(tmp_path / "scores", trials).tolist() == [1.0, -0.25, 0.5, 0.0]


def test_scores_of_0_and_1_are_not_taken_for_labels_beside_words(tmp_path):
    (tmp_path / "list").write_text("1 a b\n0 a c\n")
    (tmp_path / "scores").write_text("a b 1 target\na c 0 nontarget\n")
    assert read_scores(tmp_path / "scores", read_trials(tmp_path / "list")).tolist() == [1.0, 0.0]


def test_labels_of_a_score_file_that_contradict_the_list_or_the_scores_are_refused(tmp_path):
    (tmp_path / "list").write_text("1 a b\n0 a c\n")
    trials = read_trials(tmp_path / "list")
    (tmp_path / "scores").write_text("a b 1 0.5\na c 1 0.2\n")
    with pytest.raises(TrialError, match=r"scores:2: the label is not that of the trial in .*list"):
        read_scores(tmp_path / "scores", trials)
    (tmp_path / "scores").write_text("a b 1 1\na c 0 0\n")
    with pytest.raises(TrialError, match=r"scores:1: .* both look like labels"):
        read_scores(tmp_path / "scores", trials)
    (tmp_path / "scores").write_text("a b 0.5 0.1\na c 0.2 0.3\n")
    with pytest.raises(TrialError, match=r"scores:1: four columns"):
        read_scores(tmp_path / "scores", trials)


@pytest.mark.parametrize("block_bytes", [columns.BLOCK_BYTES, 1], ids=["one block", "a block a line"])
def test_scores_below_a_header_of_nist_are_read_and_another_header_is_explained(
    read, monkeypatch, block_bytes
):
    monkeypatch.setattr(columns, "BLOCK_BYTES", block_bytes)
    lines = "b\tc\ta\t-2\na\tc\ta\t0.5\na\tb\ta\t1\n"
    with pytest.raises(TrialError, match=r"scores:1: four columns.* if this line is a header, it names the"):
        read(f"who\twhat\tside\tLLR\n{lines}")
    with pytest.raises(TrialError, match=r"scores:1: the score 'y' is not a .* if this line is a header"):
        read("x w y\na b 1\n")
    with pytest.raises(TrialError, match=r"scores:1: a header that names no column of scores: call it LLR"):
        read(f"modelid\tsegmentid\tside\tratio\n{lines}")
    assert read(f"modelid\tsegmentid\tside\tLLR\n{lines}") == [1.0, 0.5, -2.0]
    with pytest.raises(TrialError, match=r"scores:3: the score 'x' is not"):
        read("model_id segment_id score\na b 1\na c x\n")
