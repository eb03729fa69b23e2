"""Excerpts of the published lists with the figures of the originals' own code (golden/make_published.py)."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from farvox.cli.main import main

FROZEN = json.loads((Path(__file__).parents[1] / "golden/published.json").read_text())
HELPERS = runpy.run_path(str(Path(__file__).with_name("embeddings.py")))
save, evaluated = HELPERS["save"], HELPERS["evaluated"]


@pytest.mark.parametrize("name", ["vox1_o_trials", "trials_dev_keys", "himia_trial_mic"])
def test_eer_and_min_dcf_are_those_of_the_original(tmp_path, capsys, name):
    frozen, trials, scores = FROZEN[name], tmp_path / "trials", tmp_path / "scores"
    trials.write_text(frozen["trials"])
    rows = [line.split() for line in frozen["trials"].splitlines()]
    if name == "himia_trial_mic":
        tests = {row[1].replace("{}", f"{channel:02}") for row in rows for channel in range(16)}
        names = sorted({row[0] for row in rows} | tests)
        speakers = [each.split("_")[0] for each in names]
    else:
        names, speakers = sorted({each for row in rows for each in row[1:]}), frozen["speakers"]
    save(tmp_path / "emb", names, speakers)
    assert main(["score", str(trials), str(tmp_path / "emb"), "--channels", "sum", "--out", str(scores)]) == 0
    expected = (frozen["eer"], frozen["min_dcf"])
    assert evaluated(capsys, trials, scores) == pytest.approx(expected, abs=1e-6)


def test_the_scores_of_the_blind_list_are_those_of_the_homework(tmp_path):
    """Ids that are an utterance and channels are refused until ``--channel-ids`` says which is meant."""
    frozen, trials, scores = FROZEN["himia_blind_trials"], tmp_path / "trials", tmp_path / "scores"
    trials.write_text(frozen["trials"])
    save(tmp_path / "emb", frozen["names"], [name.split("_")[0] for name in frozen["names"]])
    words = ["score", trials, tmp_path / "emb", "--channels", "sum", "--out", scores]
    assert main([str(word) for word in words]) == 1
    assert main([str(word) for word in [*words, "--channel-ids", "test"]]) == 0
    assert main(["submit", str(trials), str(scores), str(tmp_path / "score.txt")]) == 0
    found = np.array((tmp_path / "score.txt").read_text().split(), float)
    np.testing.assert_allclose(found, frozen["scores"], rtol=0, atol=1e-6)
