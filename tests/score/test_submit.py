"""Submission files: one number a line, in the order of the list."""

import zipfile

import numpy as np
import polars as pl
import pytest

from farvox.errors import TrialError, UsageError
from farvox.score.scores import read_scores, write_scores
from farvox.score.submit import write_submission
from farvox.score.trials import read_trials

NUM_FFSVC2022 = 441_600
NUM_HOMEWORK = 28_068


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "trials").write_text("a.wav b.wav\na.wav c.wav\nb.wav c.wav\n")
    return read_trials(tmp_path / "trials")


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


FAULTS = {
    "nan": ([1, float("nan"), 3], "trials:2: the score of this trial is nan"),
    "inf": ([1, 2, float("-inf")], "trials:3: the score of this trial is -inf"),
    "too few": ([1, 2], r"3 trials, but the scores are of shape \(2,\)"),
}


@pytest.mark.parametrize(("scores", "message"), FAULTS.values(), ids=FAULTS)
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
