"""``farvox fuse``, as it is typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from farvox.atomic import sha256_of
from farvox.cli.main import main
from farvox.pipelines.score import Scores


@pytest.fixture
def scored(tmp_path):
    """Paths of a list of 400 trials of 40 speakers and of the scores of two systems."""
    rng = np.random.default_rng(0)
    target = np.repeat([1, 0], [100, 300])
    enrol = np.arange(400) % 40
    test = np.where(target == 1, enrol, (enrol + 1 + np.arange(400) // 40) % 40)
    pairs = [f"s{a:02}-e s{b:02}-t{n}" for n, (a, b) in enumerate(zip(enrol, test, strict=True))]
    write(tmp_path / "trials", [f"{t} {pair}" for t, pair in zip(target, pairs, strict=True)])
    own = rng.standard_normal((2, 400))
    for name, noise in zip(("one", "two"), own, strict=True):
        scores = 0.1 * (noise + 2.0 * target + 0.5 * own[0])
        write(tmp_path / name, [f"{pair} {s:.9f}" for pair, s in zip(pairs, scores, strict=True)])
    return tmp_path


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def test_ids_of_several_recordings_stand_for_them_in_fused_scores_too(systems, corpus, capsys):
    rows = [line.split() for line in (systems / "trials").read_text().split("\n")[:-1]]
    write(systems / "map", [f"m-{enrol} {enrol}" for enrol in sorted({row[1] for row in rows})])
    write(systems / "mapped", [f"{label} m-{enrol} {test}" for label, enrol, test in rows])
    trials, saved, out = (str(systems / name) for name in ("mapped", "fit.json", "fused"))
    for name in ("one", "two"):
        mapped = ["--enrol-map", str(systems / "map"), "--out", str(systems / f"{name}-mapped")]
        assert main(["score", trials, str(systems / f"{name}-emb"), *mapped]) == 0
    words = [trials, *(f"{name}={systems / name}-mapped" for name in ("one", "two"))]
    assert main(["fuse", *words, "--save", saved]) == 0
    assert main(["fuse", *words, "--apply", saved, "--out", out]) == 0
    capsys.readouterr()
    asked = ["--data", str(corpus / "train"), "--intervals", "--bootstrap", "20", "--json"]
    assert main(["evaluate", trials, out, *asked]) == 0
    assert json.loads(capsys.readouterr().out)["intervals"]["num_speakers"] == 6


@pytest.fixture
def systems(corpus, model_folder, tmp_path):
    """Scores of two models on all pairs of six speakers: NAME-scores."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import save_model
    from farvox.zoo.model import read_config

    shutil.copytree(model_folder, tmp_path / "one")
    torch.manual_seed(7)
    kwargs = read_config(model_folder)["model"]["kwargs"]
    save_model(tmp_path / "two", build_model("ecapa", **kwargs), FrontEndConfig(num_mels=24), "ecapa", kwargs)
    assert main(["trials", str(corpus / "train"), str(tmp_path / "trials"), "--all-pairs"]) == 0
    for name in ("one", "two"):
        emb, out = str(tmp_path / f"{name}-emb"), str(tmp_path / f"{name}-scores")
        assert main(["extract", str(tmp_path / name), str(corpus / "train"), emb, "--backend", "torch"]) == 0
        assert main(["score", str(tmp_path / "trials"), emb, "--out", out]) == 0
    return tmp_path


def test_the_fusion_of_one_system_is_its_calibration(scored, capsys):
    trials, scores = str(scored / "trials"), str(scored / "one")
    assert main(["calibrate", trials, scores, "--far", "0.05", "--json"]) == 0
    calibrated = json.loads(capsys.readouterr().out)
    assert main(["fuse", trials, f"system={scores}", "--json"]) == 0
    fused = json.loads(capsys.readouterr().out)
    assert (fused["systems"]["system"]["scale"], fused["offset"]) == (
        calibrated["scale"],
        calibrated["offset"],
    )


def test_a_fusion_costs_less_than_either_system_and_is_printed(scored, capsys):
    trials, words = str(scored / "trials"), [f"a={scored / 'one'}", f"b={scored / 'two'}"]
    assert main(["fuse", trials, *words, "--speaker-before", "-", "--save", str(scored / "fit.json")]) == 0
    shown = capsys.readouterr()
    fitted = json.loads((scored / "fit.json").read_text())
    a, b = (fitted["systems"][name]["scale"] for name in "ab")
    assert f"llr = {a:.4f} x a + {b:.4f} x b - {-fitted['offset']:.4f} (nats)" in shown.out
    assert "100 target, 300 non-target, 40 speakers" in shown.out and "few" not in shown.err
    assert fitted["trials"] == {trials: sha256_of(trials)} and fitted["num_speakers"] == 40
    out = str(scored / "fused")
    assert main(["fuse", trials, *words, "--apply", str(scored / "fit.json"), "--out", out]) == 0
    one, two, fused = (Scores.read(trials, scored / name).values for name in ("one", "two", "fused"))
    np.testing.assert_allclose(fused, a * one + b * two + fitted["offset"], rtol=1e-12)
    cllrs = []
    for name in ("one", "two"):
        single = ["--apply", str(scored / f"{name}.json"), "--out", str(scored / f"{name}-llr")]
        assert main(["calibrate", trials, str(scored / name), "--far", "0.05", "--save", single[1]]) == 0
        assert main(["calibrate", trials, str(scored / name), *single]) == 0
    for name in ("one-llr", "two-llr", "fused"):
        capsys.readouterr()
        assert main(["evaluate", trials, str(scored / name), "--llr", "--json"]) == 0
        cllrs.append(json.loads(capsys.readouterr().out)["cllr"])
    assert cllrs[2] < min(cllrs[:2])


def test_a_fusion_is_for_the_scores_of_its_models_and_needs_no_labels(systems, capsys):
    trials, saved, out = str(systems / "trials"), str(systems / "fit.json"), systems / "fused"
    words = [f"{name}={systems / name}-scores" for name in ("one", "two")]
    assert main(["fuse", trials, *words, "--save", saved]) == 0
    told = capsys.readouterr()
    assert "6 speakers" in told.out and "6 speakers are few for 3 fitted numbers" in told.err
    rows = [line.split() for line in Path(trials).read_text().split("\n")[:-1]]
    write(systems / "unlabelled", [" ".join(row[1:]) for row in reversed(rows)])  # and in another order
    apply = [str(systems / "unlabelled"), "--apply", saved, "--out", str(out)]
    assert main(["fuse", *apply, *words[::-1]]) == 0
    found, fitted = Scores.read(trials, out), json.loads(Path(saved).read_text())
    assert found.meta["scoring"]["fusion"]["sha256"] == sha256_of(saved) == found.meta["digest"]
    raw = [Scores.read(trials, systems / f"{name}-scores") for name in ("one", "two")]
    scales = [fitted["systems"][name]["scale"] for name in ("one", "two")]
    np.testing.assert_allclose(
        found.values, scales[0] * raw[0].values + scales[1] * raw[1].values + fitted["offset"], rtol=1e-12
    )
    assert found.meta["embeddings"] == [str(systems / f"{name}-emb") for name in ("one", "two")]
    assert (
        main(["score", trials, str(systems / "two-emb"), "--channels", "sum", "--out", str(systems / "sum")])
        == 0
    )
    out.unlink()
    for named, status, why in (
        ([f"one={systems / 'two-scores'}", f"two={systems / 'two-scores'}"], 1, "of another model than"),
        ([words[0], f"two={systems / 'sum'}"], 1, "scores of two: scored with channels sum"),
        (words[:1], 2, "is of the systems one, two, and these are one: name them as there, NAME=SCORES"),
        ([words[0], f"b={systems / 'two-scores'}"], 2, "these are one, b"),
    ):
        capsys.readouterr()
        assert main(["fuse", *apply, *named]) == status
        assert why in capsys.readouterr().err and not out.exists()
    # A calibration of fused scores is for those of the same fusion.
    assert main(["fuse", *apply, *words]) == 0
    again = ["--far", "0.5", "--save", str(systems / "again.json")]
    assert main(["calibrate", trials, str(out), *again]) == 0
    told = capsys.readouterr()
    assert "not known" not in told.err
    apply_again = ["--apply", again[-1], "--out", str(systems / "llrs")]
    assert main(["calibrate", trials, str(out), *apply_again]) == 0
    assert main(["calibrate", trials, str(systems / "one-scores"), *apply_again]) == 1
    assert "of another model than" in capsys.readouterr().err
    assert main(["calibrate", trials, str(out), "--far", "0.5", "--model", str(systems / "one")]) == 1
    assert "these are no cosines" in capsys.readouterr().err


def test_speakers_too_few_for_a_fusion_are_refused(scored, capsys):
    trials = str(scored / "trials")
    lines = (scored / "trials").read_text().split("\n")[:-1]
    kept = [line for line in lines if {w[:3] for w in line.split()[1:]} <= {"s00", "s01", "s02"}]
    pairs = {" ".join(line.split()[1:]) for line in kept}
    write(scored / "few", kept)
    for name in ("one", "two"):
        rows = (scored / name).read_text().split("\n")[:-1]
        write(scored / f"{name}-few", [row for row in rows if row.rsplit(" ", 1)[0] in pairs])
    words = ["fuse", str(scored / "few"), *(f"{n}={scored / n}-few" for n in ("one", "two"))]
    assert main([*words, "--speaker-before", "-"]) == 1
    assert (
        "3 speakers are too few for the 3 numbers of a fusion of 2 systems: 4 or more"
        in capsys.readouterr().err
    )
    words = ["fuse", trials, *(f"{n}={scored / n}" for n in ("one", "two"))]
    assert main(words) == 0
    assert "--speaker-before says who speaks" in capsys.readouterr().err
    assert main([*words, "--speaker-before", "-"]) == 0  # the remedy
    assert "unknown speakers" not in capsys.readouterr().err


def test_what_cannot_be_fused_is_refused(scored, capsys):
    trials, one, two = (str(scored / name) for name in ("trials", "one", "two"))
    words = ["fuse", trials, f"a={one}", f"b={two}"]
    rows = (scored / "one").read_text().split("\n")[:-1]
    write(scored / "copy", [f"{row.rsplit(' ', 1)[0]} {3 * float(row.split()[2]) + 1:.9f}" for row in rows])
    write(scored / "short", rows[:7] + rows[8:])
    write(scored / "odd", [*rows, "x y 0.1"])
    write(scored / "bare", [line[2:] for line in (scored / "trials").read_text().split("\n")[:-1]])
    (scored / "broken.json").write_text('{"format": "farvox-calibration/1", "kind": "linear", "scale": 1}')
    broken = ["--apply", str(scored / "broken.json"), "--out", str(scored / "out")]
    for typed, status, why in (
        (["fuse", trials, f"a={one}", f"b={scored / 'copy'}"], 1, "b says nothing that a does not"),
        (["fuse", trials, f"a={one}", f"b={scored / 'short'}"], 1, "trials:8)"),
        (["fuse", trials, f"a={one}", f"b={scored / 'odd'}"], 1, "odd:401: this pair is not in"),
        (["fuse", str(scored / "bare"), f"a={one}", f"b={two}"], 1, "no labels"),
        (["fuse", trials, f"a={one},{two}"], 2, "give each seed a name of its own"),
        (["fuse", trials, f"a={one}", f"a={two}"], 2, "a name of its own"),
        (["fuse", trials], 2, ""),
        ([*words, *broken], 1, "broken.json: cannot be read as a fusion"),
        ([*words, *broken[:2]], 2, "--apply FILE.json and --out SCORES go together"),
        ([*words, *broken, "--save", str(scored / "x.json")], 2, "nothing for --save"),
        ([*words, "--save", one], 1, "one"),
    ):
        assert main(typed) == status
        assert why in capsys.readouterr().err
    assert main(["fuse", trials, f"a={one}", f"b={two}", "--save", str(scored / "f.json")]) == 0
    assert (
        main(["calibrate", trials, one, "--apply", str(scored / "f.json"), "--out", str(scored / "o")]) == 1
    )
    assert "cannot be read as a calibration" in capsys.readouterr().err


def test_a_system_that_counts_against_the_same_speaker_is_noted(scored, capsys):
    rows = [row.rsplit(" ", 1) for row in (scored / "two").read_text().split("\n")[:-1]]
    write(scored / "turned", [f"{pair} {-float(score):.9f}" for pair, score in rows])
    assert main(["fuse", str(scored / "trials"), f"a={scored / 'one'}", f"b={scored / 'turned'}"]) == 0
    told = capsys.readouterr()
    assert "note: a higher score of b makes the fused one lower" in told.err and " x a - " in told.out
