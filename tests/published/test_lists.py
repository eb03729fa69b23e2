"""The publishers' own lists: names, counts and figures, and the score files that are handed in.

EER, minDCF and scores were computed from the same embeddings by the originals' own code: ``get_eer`` of the
baseline's tools/utils.py (Vox1-O, FFSVC2022), ``get_eer_HIMIA`` of the homework's scoring.py, and
``get_results`` of its test.py.
"""

import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest

from farvox.cli.main import main

HELPERS = runpy.run_path(str(Path(__file__).with_name("embeddings.py")))
save, evaluated = HELPERS["save"], HELPERS["evaluated"]


def rows_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_vox1_o_of_the_baseline(published, tmp_path, capsys):
    names = [name for name, _ in rows_of(published / "vox1_o_wav.scp")]
    assert len(names) == 4874
    save(tmp_path / "emb", names, [name.split("-")[0] for name in names])
    trials = published / "vox1_o_trials"
    assert main(["score", str(trials), str(tmp_path / "emb"), "--out", str(tmp_path / "scores")]) == 0
    eer, min_dcf = evaluated(capsys, trials, tmp_path / "scores")
    assert (eer, min_dcf) == pytest.approx((0.17965488947224179, 0.8849433702525213), abs=1e-6)


def test_the_development_trials_of_ffsvc2022(published, tmp_path, capsys):
    rows = rows_of(published / "dev_meta_list")[1:]
    names = [name for _, name in rows]
    assert len(names) == len(set(names)) == 68_543
    save(tmp_path / "emb", names, [original[1:5] for original, _ in rows])
    keyed, scores = published / "trials_dev_keys", tmp_path / "scores"
    assert main(["score", str(keyed), str(tmp_path / "emb"), "--out", str(scores)]) == 0
    assert len(scores.read_text().splitlines()) == 72_000
    eer, min_dcf = evaluated(capsys, keyed, scores)
    assert (eer, min_dcf) == pytest.approx((0.18219444444444444, 0.9203888888888889), abs=1e-6)
    without_keys = published / "trials_dev"
    assert main(["score", str(without_keys), str(tmp_path / "emb"), "--out", str(tmp_path / "same")]) == 0
    assert (tmp_path / "same").read_bytes() == scores.read_bytes()


def test_a_submission_has_the_form_of_the_example(published, tmp_path):
    with zipfile.ZipFile(published / "example_score.zip") as example:
        assert example.namelist() == ["scores.txt"]
        lines = example.read("scores.txt").decode().splitlines()
    assert len(lines) == 441_600 and all(len(line.split()) == 1 for line in lines)
    trials = published / "trials_dev"
    pairs = [line for line in trials.read_text().splitlines() if line]
    (tmp_path / "scores").write_text("".join(f"{pair} 0.25\n" for pair in pairs))
    assert main(["submit", str(trials), str(tmp_path / "scores"), str(tmp_path / "out.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as made:
        assert made.namelist() == ["scores.txt"]
        assert [float(line) for line in made.read("scores.txt").decode().split()] == [0.25] * 72_000


def test_the_far_field_trials_of_himia_as_the_homework_scores_them(published, tmp_path, capsys):
    trials = published / "himia_trial_mic"
    rows = rows_of(trials)
    assert len(rows) == 14_061 and sum(row[2] == "1" for row in rows) == 7_022
    channels = [row[1].replace("{}", f"{channel:02}") for row in rows for channel in range(16)]
    names = sorted({*channels, *(row[0] for row in rows)})
    save(tmp_path / "emb", names, [name.split("_")[0] for name in names])
    words = [str(trials), str(tmp_path / "emb"), "--channels", "sum", "--out", str(tmp_path / "scores")]
    assert main(["score", *words]) == 0
    eer, min_dcf = evaluated(capsys, trials, tmp_path / "scores")
    assert (eer, min_dcf) == pytest.approx((0.07844395158697753, 0.5733874002794133), abs=1e-6)


def test_the_blind_list_of_the_homework(published, tmp_path):
    """Seven ids are an utterance and eight channels as well: ``--channel-ids`` says which is meant."""
    names = [name for name, _ in rows_of(published / "himia_blind_wav.scp")]
    assert len(names) == 74_030
    save(tmp_path / "emb", names, [name.split("_")[0] for name in names])
    trials, scores = published / "himia_blind_trials", tmp_path / "scores"
    words = [str(trials), str(tmp_path / "emb"), "--channels", "sum", "--out", str(scores)]
    assert main(["score", *words]) != 0
    assert main(["score", *words, "--channel-ids", "test"]) == 0
    assert main(["submit", str(trials), str(scores), str(tmp_path / "score.txt")]) == 0
    found = np.array((tmp_path / "score.txt").read_text().split(), float)
    theirs = np.array((published / "himia_blind_scores_58.txt").read_text().split(), float)
    assert len(found) == len(theirs) == 28_068
    first = [
        0.38876468464569514, 0.048318320136868875, 0.0745212783460264, 0.1603989173217577,
        -0.0864936211402545, 0.23622537911305364, -0.09556603119505436, 0.10559173888405615,
    ]  # fmt: skip
    np.testing.assert_allclose(found[:8], first, rtol=0, atol=1e-6)
    weights = np.cos(np.arange(len(found)))
    assert found.mean() == pytest.approx(0.0003766250929779748, abs=1e-6)
    assert found @ weights == pytest.approx(-23.153608027938397, abs=1e-3)
