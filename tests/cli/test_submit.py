"""``farvox submit`` as a user types it."""

import subprocess
import sys
import zipfile

import pytest

from farvox.cli.main import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trials").write_text("a.wav b.wav\na.wav c.wav\n")
    (tmp_path / "scores").write_text("a c 0.25\na b 0.75\n")
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


def test_a_score_file_becomes_a_submission(folder, capsys):
    assert run("submit", folder / "trials", folder / "scores", folder / "scores.zip") == 0
    assert "2 scores in the order of" in capsys.readouterr().err
    with zipfile.ZipFile(folder / "scores.zip") as archive:
        assert archive.read("scores.txt") == b"0.75\n0.25\n"
    assert run("submit", folder / "trials", folder / "scores", folder / "score.txt") == 0
    assert (folder / "score.txt").read_bytes() == b"0.75\n0.25\n"


def test_numbers_that_are_no_submission_of_these_trials_are_not_replaced(folder, capsys):
    for there in ("0.5\n1.25\n3.75\n", "0.5", "0.5\r\n"):
        (folder / "score.txt").write_text(there)
        assert run("submit", folder / "trials", folder / "scores", folder / "score.txt") == 1
        assert (
            "score.txt: has" in (said := capsys.readouterr().err) and "2 trials: it is no submission" in said
        )
        assert (folder / "score.txt").read_text() == there.replace("\r", "")
    (folder / "score.txt").unlink()
    for _ in range(2):
        assert run("submit", folder / "trials", folder / "scores", folder / "score.txt") == 0


FAULTS = {
    "missing": ("a b 1\n", "scores: 1 of the 2 trials have no score"),
    "surplus": ("a b 1\na c 2\nb c 3\n", "scores:3: this pair is not in"),
    "nan": ("a b nan\na c 1\n", "scores:1: the score 'nan' is not a finite number"),
    "no ids": ("1\n2\n", "scores:1: 1 column, where 3 or 4 are expected"),
}


@pytest.mark.parametrize(("scored", "message"), FAULTS.values(), ids=FAULTS)
def test_scores_of_other_trials_give_a_message_and_no_file(folder, capsys, scored, message):
    (folder / "scores").write_text(scored)
    assert run("submit", folder / "trials", folder / "scores", folder / "out.zip") == 1
    assert message in capsys.readouterr().err and not (folder / "out.zip").exists()


def test_another_suffix_is_wrong_usage(folder, capsys):
    assert run("submit", folder / "trials", folder / "scores", folder / "out.csv") == 2
    assert "a submission is a .zip" in capsys.readouterr().err


def test_submit_does_not_import_torch(folder):
    program = (
        "import sys; from farvox.cli.main import main; main(['submit', 'trials', 'scores', 'out.zip']);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
