"""``results.json``."""

import json
import sys

import numpy as np

import farvox
from farvox.atomic import sha256_of
from farvox.report.results import write_results
from farvox.score.scores import write_scores
from farvox.score.trials import read_trials


def test_results_name_the_command_the_versions_and_the_digests(tmp_path, monkeypatch):
    (tmp_path / "trials").write_text("1 a b\n0 a c\n")
    trials = read_trials(tmp_path / "trials")
    write_scores(tmp_path / "known", trials, np.array([0.5, 0.25]), {"model": {"name": "x"}, "digest": "d"})
    write_scores(tmp_path / "plain", trials, np.array([0.5, 0.25]))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/farvox", "evaluate", "my trials", "known"])
    path, paths = tmp_path / "results.json", [tmp_path / "known", tmp_path / "plain"]
    write_results(path, {"eer": 1 / 3}, trials=[trials.path, trials.path], scores=paths)
    saved = json.loads(path.read_text())
    assert saved["eer"] == 1 / 3
    assert saved["command"] == "farvox evaluate 'my trials' known"
    assert saved["versions"]["farvox"] == farvox.__version__
    assert saved["versions"]["numpy"] == np.__version__
    assert saved["trials"] == {str(trials.path): sha256_of(trials.path)}
    known, plain = saved["scores"].values()
    assert known["sha256"] == plain["sha256"] == sha256_of(paths[0])
    assert (known["model"], known["model_digest"]) == ({"name": "x"}, "d")
    assert plain["model"] is plain["model_digest"] is None
