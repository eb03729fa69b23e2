"""``farvox calibrate``, as it is typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from farvox.atomic import sha256_of
from farvox.cli.main import main
from farvox.pipelines.score import Scores
from farvox.zoo import Card, open_embedder


@pytest.fixture
def scored(tmp_path):
    """A function that writes 400 trials and their scores: (target mean, scale) -> the two paths."""

    def write(distance, scale=0.1):
        rng = np.random.default_rng(0)
        target = np.repeat([1, 0], [100, 300])
        scores = scale * (rng.standard_normal(400) + distance * target)
        (tmp_path / "trials").write_text("".join(f"{t} a{n} b{n}\n" for n, t in enumerate(target)))
        (tmp_path / "scores").write_text("".join(f"a{n} b{n} {s:.9f}\n" for n, s in enumerate(scores)))
        return str(tmp_path / "trials"), str(tmp_path / "scores")

    return write


def test_a_threshold_is_printed_and_written_into_the_card(scored, model_folder, tmp_path, capsys):
    shutil.copytree(model_folder, tmp_path / "model")
    assert main(["calibrate", *scored(2.0), "--far", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "100 target, 300 non-target" in out and "written" not in out
    words = ["--far", "0.05", "--model", str(tmp_path / "model"), "--note", "my trials"]
    assert main(["calibrate", *scored(2.0), *words]) == 0
    card = Card.load(tmp_path / "model")
    assert card.name == "small" and f"{card.threshold:.4f}" in out
    assert "my trials" in card.threshold_note and card.calibration.scale > 0


def test_leaks_of_the_scores_are_reported(scored, capsys):
    trials, scores = scored(2.0)
    meta = {"leaks": ["warning: 3 of the 4 speakers"], "sha256": sha256_of(scores)}
    Path(f"{scores}.meta.json").write_text(json.dumps(meta))
    assert main(["calibrate", trials, scores, "--far", "0.05"]) == 0
    assert "warning: 3 of the 4 speakers" in capsys.readouterr().err


def test_what_cannot_be_a_card_is_refused_and_nothing_is_written(scored, model_folder, capsys):
    before = Card.load(model_folder)
    assert main(["calibrate", *scored(2.0, scale=20.0), "--far", "0.05", "--model", str(model_folder)]) == 1
    assert "these are no cosines" in capsys.readouterr().err
    assert Card.load(model_folder) == before
    assert main(["calibrate", *scored(2.0), "--model", "campplus-zh-en"]) == 2
    assert "not yours to change" in capsys.readouterr().err
    assert main(["calibrate", *scored(2.0), "--far", "0.001"]) == 1
    assert "10,000 or more" in capsys.readouterr().err


@pytest.fixture
def extracted(corpus, model_folder, tmp_path):
    """The model, another of the same layout, and scores of each of the corpus's trials."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import read_config, save_model

    shutil.copytree(model_folder, tmp_path / "one")
    torch.manual_seed(7)
    kwargs = read_config(model_folder)["model"]["kwargs"]
    save_model(tmp_path / "two", build_model("ecapa", **kwargs), FrontEndConfig(num_mels=24), "ecapa", kwargs)
    for name in ("one", "two"):
        emb, out = str(tmp_path / f"{name}-emb"), str(tmp_path / f"{name}-scores")
        assert main(["extract", str(tmp_path / name), str(corpus / "dev"), emb, "--backend", "torch"]) == 0
        assert main(["score", str(corpus / "dev/trials"), emb, "--out", out]) == 0
    return tmp_path


def test_a_card_takes_no_threshold_of_another_models_scores(extracted, corpus, capsys):
    words = ["calibrate", str(corpus / "dev/trials"), str(extracted / "two-scores"), "--far", "0.5"]
    before = Card.load(extracted / "one")
    assert main([*words, "--model", str(extracted / "one")]) == 1
    said = capsys.readouterr().err
    assert f"{extracted / 'one'}: of another model than scores of" in said and "digest" in said
    assert Card.load(extracted / "one") == before
    assert main([*words, "--model", str(extracted / "two")]) == 0  # the remedy
    assert "not known" not in capsys.readouterr().err
    assert main(words) == 0  # no card is written, so nothing is compared


def test_a_card_takes_no_threshold_of_normalised_scores(extracted, corpus, capsys):
    """Those of AS-norm may lie between -1 and 1 and are no cosines all the same."""
    trials, emb, out = str(corpus / "dev/trials"), str(extracted / "one-emb"), str(extracted / "scores")
    for words in (["--centre", emb], ["--norm", "s-norm", "--cohort", emb]):
        assert main(["score", trials, emb, *words, "--out", out]) == 0
        assert main(["calibrate", trials, out, "--far", "0.5", "--model", str(extracted / "one")]) == 1
        assert "without norm and centre" in capsys.readouterr().err


def test_a_saved_calibration_makes_likelihood_ratios_of_other_scores(extracted, corpus, tmp_path, capsys):
    """Trials without labels become log-likelihood ratios that `evaluate --llr` takes."""
    trials, scores = str(corpus / "dev/trials"), str(extracted / "one-scores")
    saved, llrs = tmp_path / "fitted.json", tmp_path / "llrs"
    assert main(["calibrate", trials, scores, "--far", "0.5", "--save", str(saved)]) == 0
    assert f"written      {saved}" in capsys.readouterr().out
    fitted = json.loads(saved.read_text())
    assert fitted["kind"] == "linear" and fitted["threshold"]["far_asked"] == 0.5
    assert fitted["origin"]["digest"] == open_embedder(extracted / "one").digest
    assert fitted["trials"] == {trials: sha256_of(trials)} and fitted["versions"]["farvox"]
    assert fitted["scores"]["sha256"] == sha256_of(scores)

    lines = Path(trials).read_text().split("\n")[:-1]
    unlabelled = tmp_path / "unlabelled"
    unlabelled.write_text("".join(f"{' '.join(line.split()[1:])}\n" for line in lines))
    assert main(["calibrate", str(unlabelled), scores, "--apply", str(saved), "--out", str(llrs)]) == 0
    raw, found = Scores.read(trials, scores), Scores.read(trials, llrs)
    np.testing.assert_array_equal(found.values, fitted["scale"] * raw.values + fitted["offset"])
    applied = found.meta["scoring"].pop("calibration")
    assert applied == {
        **{key: fitted[key] for key in ("kind", "scale", "offset")},
        "file": str(saved),
        "sha256": sha256_of(saved),
    }
    assert found.meta["scoring"] == raw.meta["scoring"] and found.meta["digest"] == raw.meta["digest"]
    capsys.readouterr()
    assert main(["evaluate", trials, str(llrs), "--llr", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["cllr"] < 1 and table["min_cllr"] <= table["cllr"]
    # A calibration of calibrated scores is the identity: both are the least log loss.
    assert main(["calibrate", trials, str(llrs), "--far", "0.5", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["scale"], again["offset"]) == pytest.approx((1.0, 0.0), abs=1e-4)


def test_a_calibration_is_for_scores_of_its_model_and_rules_only(extracted, corpus, tmp_path, capsys):
    trials, saved = str(corpus / "dev/trials"), str(tmp_path / "fitted.json")
    one, out = str(extracted / "one-scores"), tmp_path / "llrs"
    assert main(["calibrate", trials, one, "--far", "0.5", "--save", saved]) == 0
    assert (
        main(
            ["score", trials, str(extracted / "one-emb"), "--channels", "sum", "--out", str(tmp_path / "sum")]
        )
        == 0
    )
    apply = ["--apply", saved, "--out", str(out)]
    for scores, why in (
        (extracted / "two-scores", "of another model than"),
        (tmp_path / "sum", "channels mean-norm: score by the same rules"),
    ):
        capsys.readouterr()
        assert main(["calibrate", trials, str(scores), *apply]) == 1
        assert why in capsys.readouterr().err and not out.exists()
    assert main(["calibrate", trials, one, *apply]) == 0
    assert main(["calibrate", trials, str(out), "--apply", saved, "--out", str(tmp_path / "twice")]) == 1
    assert "scored with calibration" in capsys.readouterr().err
    model = str(extracted / "one")
    assert main(["calibrate", trials, str(out), "--far", "0.5", "--model", model]) == 1
    assert "these are no cosines" in capsys.readouterr().err


def test_a_file_that_is_no_calibration_and_options_that_need_one_another_are_refused(
    scored, tmp_path, capsys
):
    trials, scores = scored(2.0)
    broken = tmp_path / "broken.json"
    for text in ("", "[]", "{}", '{"format": "farvox-calibration/1", "kind": "linear", "scale": -1}'):
        broken.write_text(text)
        words = ["--apply", str(broken), "--out", str(tmp_path / "out")]
        assert main(["calibrate", trials, scores, *words]) == 1
        assert "broken.json: cannot be read as a calibration" in capsys.readouterr().err
    assert main(["calibrate", trials, scores, "--apply", str(broken)]) == 2
    assert main(["calibrate", trials, scores, "--apply", str(broken), "--out", "x", "--save", "y"]) == 2
