"""``farvox calibrate``, as it is typed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from farvox.atomic import sha256_of
from farvox.audio.conditioning import Conditioning
from farvox.cli.main import main
from farvox.manifest import damaged_files
from farvox.pipelines.score import Scores
from farvox.verifier import Verifier
from farvox.zoo import Card, open_embedder, read_card

NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
"""


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
    assert "not yours to change: --out FOLDER or --out FILE.onnx" in capsys.readouterr().err
    assert main(["calibrate", *scored(2.0), "--far", "0.001"]) == 1
    assert "10,000 or more" in capsys.readouterr().err


@pytest.fixture
def extracted(corpus, model_folder, tmp_path):
    """The model, another of the same layout, and scores of each of the corpus's trials."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import save_model
    from farvox.zoo.model import read_config

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
    assert f"{extracted / 'one'}: of another model than {extracted / 'two-scores'}" in said
    assert "digest" in said
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
        assert "without norm, centre and plda" in capsys.readouterr().err


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
    flattered = f"{trials} holds the trials that {saved} was fitted on"
    assert flattered in capsys.readouterr().err
    assert main(["evaluate", trials, str(out), "--llr"]) == 0
    assert flattered in capsys.readouterr().err
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


def test_a_threshold_has_an_interval_over_the_speakers(extracted, corpus, tmp_path, capsys):
    """The speakers are those of the embeddings that were scored, or of the data dir."""
    trials, scores, model = str(corpus / "dev/trials"), extracted / "one-scores", extracted / "one"
    words = ["calibrate", trials, str(scores), "--far", "0.5"]
    assert main([*words, "--model", str(model), "--save", str(tmp_path / "fit.json")]) == 0
    shown, of = capsys.readouterr().out, json.loads((tmp_path / "fit.json").read_text())["threshold"]
    (low, high), card = of["intervals"]["threshold"], Card.load(model)
    assert low < of["threshold"] < high and of["intervals"]["num_speakers"] == 3
    assert f"interval     {low:.4f} to {high:.4f} (95 %, 3 speakers); at the threshold FAR" in shown
    assert card.threshold_interval == pytest.approx((low, high), abs=1e-4) and card.threshold_speakers == 3
    assert main(["models", str(model)]) == 0
    assert "95 % interval, 3 speakers" in capsys.readouterr().out

    lines = Path(trials).read_text().splitlines()
    flipped = [f"{1 - int(line[0])}{line[1:]}" if n == 3 else line for n, line in enumerate(lines)]
    (tmp_path / "wrong").write_text("".join(f"{line}\n" for line in flipped))
    assert main(["calibrate", str(tmp_path / "wrong"), *words[2:], "--save", str(tmp_path / "no.json")]) == 1
    assert "wrong:4: labelled" in capsys.readouterr().err and not (tmp_path / "no.json").exists()

    Path(f"{scores}.meta.json").unlink()
    assert main([*words, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["threshold"]["intervals"] is None
    assert "no interval: " in told.err and "--trial-speakers" in told.err
    assert main([*words, "--json", "--trial-speakers", str(corpus / "dev")]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"]["intervals"] == of["intervals"]


def test_enrolments_of_several_recordings_have_the_speakers_of_their_recordings(extracted, corpus, capsys):
    emb, out = extracted / "one-emb", extracted / "mapped"
    of_speaker = {}
    for line in (corpus / "dev/utt2spk").read_text().split("\n")[:-1]:
        utt_id, speaker = line.split()
        of_speaker.setdefault(speaker, []).append(utt_id)
    rows = [f"{speaker}-model {' '.join(utts[:2])}\n" for speaker, utts in of_speaker.items()]
    (extracted / "map").write_text("".join(rows))
    pairs = [(one, other) for one in of_speaker for other in of_speaker]
    lines = [f"{int(a == b)} {a}-model {utt}\n" for a, b in pairs for utt in of_speaker[b][2:]]
    (extracted / "trials").write_text("".join(lines * 4))
    words = [str(extracted / "trials"), str(emb), "--enrol-map", str(extracted / "map"), "--out", str(out)]
    assert main(["score", *words]) == 0
    assert main(["calibrate", words[0], str(out), "--far", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"]["intervals"]["num_speakers"] == 3
    asked = ["--data", str(corpus / "dev"), "--by", "enrol.duration", "--intervals", "--bootstrap", "20"]
    assert main(["evaluate", words[0], str(out), *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["intervals"]["num_speakers"] == 3 and "" not in found["conditions"][0]["condition"].values()


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "graph.onnx"}


def test_a_copy_gets_the_threshold_and_the_model_stays_as_it_is(extracted, corpus, capsys):
    """The copy's embeddings are those of the model, conditioning and all."""
    model, mine = extracted / "one", extracted / "mine"
    Card(name="small", conditioning=Conditioning(level=-20.0)).save(model)
    trials, emb, scores = str(corpus / "dev/trials"), str(extracted / "emb"), str(extracted / "scores")
    assert main(["extract", str(model), str(corpus / "dev"), emb, "--backend", "torch"]) == 0
    assert main(["score", trials, emb, "--out", scores]) == 0
    before = content_of(model)
    words = ["calibrate", trials, scores, "--far", "0.5", "--model", str(model), "--out"]
    assert main([*words, str(mine)]) == 0
    assert f"written      {mine}" in capsys.readouterr().out
    assert content_of(model) == before and damaged_files(mine) == []
    assert Card.load(mine).threshold is not None and Card.load(mine).conditioning.level == -20.0
    assert open_embedder(mine).digest == Scores.read(trials, scores).meta["digest"]
    assert main([*words, str(mine)]) == 0  # a copy may be replaced,
    assert main([*words, str(model)]) == 2  # the model itself not by its copy,
    assert main([*words, str(extracted)]) == 1  # and no folder of other things
    assert "holds other things" in capsys.readouterr().err
    assert main([*words[:-1], "--out", str(mine), "--apply", "x"]) == 2


@pytest.mark.slow
def test_a_copy_as_an_onnx_file_decides_without_torch(extracted, corpus, voices, capsys):
    """From a folder to an ONNX file, and from that to another, which differ in the threshold only."""
    first, second, model = extracted / "mine.onnx", extracted / "again.onnx", extracted / "one"
    trials, scores = str(corpus / "dev/trials"), str(extracted / "one-scores")
    before = content_of(model)
    for spec, far, out in ((model, "0.5", first), (first, "0.7", second)):
        words = ["calibrate", trials, scores, "--far", far, "--model", str(spec)]
        assert main([*words, "--out", str(out)]) == 0
    assert main(words) == 2 and main([*words, "--out", str(extracted / "folder")]) == 2
    assert "is an ONNX file" in capsys.readouterr().err
    assert content_of(model) == before
    one, two = open_embedder(first), open_embedder(second)
    assert one.digest == two.digest == Scores.read(trials, scores).meta["digest"]
    assert one.card.threshold > two.card.threshold and one.card.threshold_speakers == 3
    wavs = [str(voices / "a0.wav"), str(voices / "a1.wav")]
    words = ["verify", "--model", str(second), "--vad", "off", "--json", *wavs]
    script = f"{NO_TORCH}from farvox.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["threshold"] == two.card.threshold


@pytest.mark.slow
def test_a_model_of_the_zoo_is_copied_with_a_threshold_and_keeps_its_conditioning(
    campplus, corpus, tmp_path, capsys
):
    trials, scores, mine = str(corpus / "dev/trials"), str(tmp_path / "scores"), tmp_path / "mine"
    assert main(["extract", "campplus-zh-en", str(corpus / "dev"), str(tmp_path / "emb")]) == 0
    assert main(["score", trials, str(tmp_path / "emb"), "--out", scores]) == 0
    before = content_of(campplus)
    words = ["calibrate", trials, scores, "--far", "0.5", "--model", "campplus-zh-en", "--note", "mine"]
    for out in (mine, tmp_path / "mine.onnx"):
        assert main([*words, "--out", str(out)]) == 0
        copy = open_embedder(out)
        assert copy.digest == Scores.read(trials, scores).meta["digest"]
        assert copy.card.conditioning == read_card("campplus-zh-en").conditioning
        assert "trials of mine" in copy.card.threshold_note
        assert copy.card.narrow_threshold == read_card("campplus-zh-en").narrow_threshold
        assert main(["verify", "--model", str(out), *[str(corpus / "x.wav")] * 2]) == 2  # no such file
    assert content_of(campplus) == before


def test_enrolments_of_several_recordings_have_a_threshold_of_their_own(
    extracted, corpus, voices, tmp_path, capsys
):
    """The card keeps one a number of recordings; verify and identify take the nearest not above."""
    model = extracted / "one"
    wavs = [str(voices / f"{name}.wav") for name in ("a0", "a1", "a2")]
    words = ["verify", "--model", str(model), "--vad", "off", "--json"]
    Card(name="small", threshold=0.5).save(model)
    main([*words, *wavs])
    told = capsys.readouterr()
    assert "the threshold was chosen for single ones" in told.err and json.loads(told.out)["threshold"] == 0.5

    rows = [line.split() for line in (corpus / "dev/utt2spk").read_text().split("\n")[:-1]]
    of_speaker = {speaker: [utt for utt, of in rows if of == speaker] for _, speaker in rows}
    lines = [f"m-{speaker} {' '.join(utts[:2])}\n" for speaker, utts in of_speaker.items()]
    (tmp_path / "map").write_text("".join(lines))
    pairs = [f"{int(s == of)} m-{s} {of_speaker[of][2]}\n" for s in of_speaker for of in of_speaker]
    (tmp_path / "trials").write_text("".join(pairs * 4))
    trials, scores = str(tmp_path / "trials"), str(tmp_path / "scores")
    scoring = [str(extracted / "one-emb"), "--enrol-map", str(tmp_path / "map"), "--out", scores]
    assert main(["score", trials, *scoring]) == 0
    assert Scores.read(trials, scores).meta["enrol_recordings"] == [2, 2]
    fit = ["calibrate", trials, scores, "--far", "0.5", "--model", str(model)]
    assert main(fit) == 0 and main(fit) == 0  # the second takes the place of the first
    card = Card.load(model)
    assert card.threshold == 0.5 and [each.recordings for each in card.thresholds] == [2]
    assert card.for_recordings(1) is card
    of_two = card.for_recordings(3).threshold
    assert of_two == card.thresholds[0].threshold and card.thresholds[0].threshold_speakers == 3

    store = ["--store", str(tmp_path / "s.sqlite"), "--model", str(model), "--vad", "off"]
    assert main(["enrol", "ann", *wavs[:2], *store, "--allow-mixed"]) == 0
    capsys.readouterr()
    for asked, wanted in (
        ([*words, *wavs[:2]], 0.5),
        ([*words, *wavs], of_two),
        ([*words, *wavs, "--threshold", "-1"], -1),
        (["identify", wavs[2], *store, "--json"], of_two),
        (["identify", wavs[2], *store, "--json", "--threshold", "0.1"], 0.1),
    ):
        main(asked)
        told = capsys.readouterr()
        assert json.loads(told.out)["threshold"] == wanted and "single ones" not in told.err


@pytest.fixture
def measured(make_corpus, model_folder, tmp_path):
    """Model, data dir, and scores of embeddings with measures: 12 speakers, 0.4 to 3 s an utterance."""
    data = make_corpus(tmp_path / "data", speakers=[f"q{n}" for n in range(12)], seconds=(0.4, 3.0), seed=5)
    shutil.copytree(model_folder, tmp_path / "one")
    words = ["extract", str(tmp_path / "one"), str(data), str(tmp_path / "emb"), "--backend", "torch"]
    assert main([*words, "--quality"]) == 0
    scores = str(tmp_path / "scores")
    assert main(["score", str(data / "trials"), str(tmp_path / "emb"), "--out", scores]) == 0
    return tmp_path, str(data / "trials"), scores


def test_the_probability_of_verify_knows_the_recordings_as_apply_does(measured, capsys):
    """One calibration with measures, in a file and in a card: the same likelihood ratios and decisions."""
    folder, trials, scores = measured
    saved, out = str(folder / "fitted.json"), str(folder / "llrs")
    fit = ["calibrate", trials, scores, "--far", "0.1", "--quality"]
    capsys.readouterr()
    assert main([*fit, "--save", saved, "--model", str(folder / "one")]) == 0
    told = capsys.readouterr().out
    assert "quality      llr = " in told and "higher speech" in told and "(quality-aware)" in told
    assert main(["models", str(folder / "one")]) == 0
    shown = capsys.readouterr().out
    assert "lower speech" in shown and "which decides" in shown
    fitted = json.loads(Path(saved).read_text())
    assert fitted["kind"] == "quality" and {"speech", "norm"} <= {x["measure"] for x in fitted["terms"]}
    assert fitted["held_out"]["num_speakers"] == 12 and fitted["plain"]["scale"] > 0

    unlabelled = folder / "unlabelled"
    lines = Path(trials).read_text().splitlines()
    unlabelled.write_text("".join(line.split(maxsplit=1)[1] + "\n" for line in lines))
    assert main(["calibrate", str(unlabelled), scores, "--apply", saved, "--out", out]) == 0
    llrs = Scores.read(unlabelled, out)
    assert llrs.meta["scoring"]["calibration"]["kind"] == "quality"
    point = fitted["llr_threshold"]
    assert np.mean(llrs.values[[line[0] == "0" for line in lines]] >= point["threshold"]) == point["far"]

    verifier = Verifier.from_pretrained(folder / "one", backend="torch", vad="off")
    thresholds = set()
    for n in range(0, len(lines), 97):
        sides = (folder / "data/wav" / f"{utt_id}.wav" for utt_id in lines[n].split()[1:])
        verdict = verifier.verify(*sides)
        assert verdict.probability == pytest.approx(1 / (1 + np.exp(-llrs.values[n])), abs=1e-4)
        assert verdict.same == (llrs.values[n] >= point["threshold"])
        gap = (point["threshold"] - llrs.values[n]) / fitted["scale"]
        assert verdict.threshold == pytest.approx(verdict.score + gap, abs=1e-4)
        assert verdict.threshold_probability == pytest.approx(1 / (1 + np.exp(-point["threshold"])))
        thresholds.add(round(verdict.threshold, 3))
    assert len(thresholds) > 5  # one for every two recordings
    one, rate = soundfile.read(folder / "data/wav/q0_0.wav", dtype="float32")
    both = np.stack([one, one + np.float32(1e-4)])  # two channels of one sound: measures are means over them
    mono, stereo = (verifier.verify((x, rate), folder / "data/wav/q1_0.wav") for x in (one, both))
    assert stereo.probability == pytest.approx(mono.probability, abs=1e-3)
    assert stereo.threshold == pytest.approx(mono.threshold, abs=1e-3)
    asked = Verifier.from_pretrained(folder / "one", backend="torch", vad="off", threshold=0.25)
    assert asked.verify(*[folder / "data/wav/q0_0.wav"] * 2).threshold == 0.25  # what is asked for holds


def test_measures_that_are_missing_are_named(measured, capsys):
    folder, trials, scores = measured
    saved = str(folder / "fitted.json")
    assert main(["calibrate", trials, scores, "--far", "0.1", "--quality", "--save", saved]) == 0
    (folder / "emb/utt2measures").unlink()
    for words in (["--far", "0.1", "--quality"], ["--apply", saved, "--out", str(folder / "llrs")]):
        assert main(["calibrate", trials, scores, *words]) == 1
        told = capsys.readouterr().err
        assert f"{folder / 'emb'}: holds no speech, decay, narrow" in told and "--quality" in told
    extract = ["extract", str(folder / "one"), str(folder / "data"), str(folder / "emb"), "--quality"]
    assert main([*extract, "--backend", "torch"]) == 0  # the remedy
    assert main(["calibrate", trials, scores, "--apply", saved, "--out", str(folder / "llrs")]) == 0
    assert "extracted again" in capsys.readouterr().err
    Path(f"{scores}.meta.json").unlink()
    assert main(["calibrate", trials, scores, "--far", "0.1", "--quality"]) == 1
    assert "score with 'farvox score'" in capsys.readouterr().err
    assert main(["score", trials, str(folder / "emb"), "--out", scores]) == 0
    assert main(["calibrate", trials, scores, "--far", "0.1", "--quality"]) == 0
    fitted = json.loads(Path(saved).read_text())
    fitted["terms"][0]["measure"] = "mood"
    (folder / "odd.json").write_text(json.dumps(fitted))
    assert main(["calibrate", trials, scores, "--apply", str(folder / "odd.json"), "--out", "x"]) == 1
    assert "mood" in capsys.readouterr().err
    assert main(["calibrate", trials, scores, "--apply", saved, "--quality", "--out", "x"]) == 2


def test_recordings_unlike_those_of_the_fit_are_noted(measured, capsys):
    """No recording of the fit is narrow; all lie within 3 s."""
    folder, trials, scores = measured
    saved, apply = str(folder / "fitted.json"), ["calibrate", trials, scores, "--apply"]
    fit = ["calibrate", trials, scores, "--far", "0.1", "--quality", "--model", str(folder / "one")]
    capsys.readouterr()
    assert main([*fit, "--save", saved]) == 0
    told = capsys.readouterr()
    assert "narrow" not in told.out  # of weight 0
    num_fitted = 2 + sum(term["weight"] != 0 for term in json.loads(Path(saved).read_text())["terms"])
    assert f"note: 12 speakers are few for {num_fitted} fitted numbers" in told.err
    assert main([*apply, saved, "--out", str(folder / "llrs")]) == 0
    assert "outside what" not in capsys.readouterr().err

    measures = folder / "emb/utt2measures"
    rows = [line.split("\t") for line in measures.read_text().splitlines()]
    rows[1][3] = "1"  # the first recording is by telephone now
    measures.write_text("".join("\t".join(row) + "\n" for row in rows))
    num = sum(rows[1][0] in line.split()[1:] for line in Path(trials).read_text().splitlines())
    assert main([*apply, saved, "--out", str(folder / "llrs")]) == 0
    told = capsys.readouterr().err
    assert f"{measures} was changed since" in told and "score again" in told
    assert (
        f"note: {num} of " in told and f"have a 'narrow' outside what {saved} was fitted on (0 to 0)" in told
    )

    verifier = Verifier.from_pretrained(folder / "one", backend="torch", vad="off")
    one, other = (folder / f"data/wav/q{n}_0.wav" for n in (0, 1))
    wav, rate = soundfile.read(one, dtype="float32")
    alike, long = verifier.verify(one, other), verifier.verify((np.tile(wav, 9), rate), other)
    assert not [note for note in alike.notes if note.code == "unlike-calibration"]
    (note,) = [x for x in long.enrol[0].warnings if x.code == "unlike-calibration" and "'speech'" in x]
    assert not note.serious and "the calibration has seen" in note
    assert not [x for x in long.test[0].warnings if "'speech'" in x]


def test_a_calibration_of_few_speakers_says_so(measured, capsys):
    folder, trials, scores = measured
    few = folder / "few"
    lines = [line.split() for line in Path(trials).read_text().splitlines()]
    four = [line for line in lines if {x[:2] for x in line[1:]} <= {"q0", "q1", "q2", "q3"}]
    few.write_text(
        "".join(" ".join(line) + "\n" for line in four if not {x[:3] for x in line[1:]} & {"q10", "q11"})
    )
    assert main(["score", str(few), str(folder / "emb"), "--out", scores]) == 0
    capsys.readouterr()
    assert main(["calibrate", str(few), scores, "--far", "0.2", "--quality"]) == 0
    told = capsys.readouterr().err
    assert "no figure of speakers held out: 4 speakers cannot be cut into 5 parts" in told
    assert "says who speaks" not in told and "note: 4 speakers are few for" in told
    assert main(["calibrate", str(few), scores, "--far", "0.2"]) == 0
    assert "note: 4 speakers are few for 2 fitted numbers" in capsys.readouterr().err


def test_speakers_held_out_are_those_that_are_named(measured, capsys):
    folder, trials, scores = measured
    fit = ["calibrate", trials, scores, "--far", "0.1", "--quality", "--json"]
    assert main([*fit, "--speaker-before", "_"]) == 0
    named = json.loads(capsys.readouterr().out)["held_out"]
    (folder / "emb/utt2spk").unlink()
    assert main(fit) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["held_out"] is None and "no figure of speakers held out" in told.err
    assert main([*fit, "--trial-speakers", str(folder / "data")]) == 0
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert found == named and found["num_speakers"] == 12 and found["cllr"]["interval"][0] < 0.5


def test_the_sides_of_several_recordings_are_measured_by_their_mean(measured, capsys):
    """Fitted on enrolments of two recordings; verify with two has the same probability."""
    folder, _, _ = measured
    speakers = [f"q{n}" for n in range(12)]
    (folder / "map").write_text("".join(f"m-{s} {s}_0 {s}_1\n" for s in speakers))
    pairs = [(s, f"{of}_{take}") for s in speakers for of in speakers for take in (2, 3)]
    (folder / "list").write_text("".join(f"{int(s == utt[:-2])} m-{s} {utt}\n" for s, utt in pairs))
    trials, scores, out = (str(folder / name) for name in ("list", "two", "llrs"))
    mapped = [str(folder / "emb"), "--enrol-map", str(folder / "map")]
    assert main(["score", trials, *mapped, "--out", scores]) == 0
    fit = ["calibrate", trials, scores, "--far", "0.2", "--quality", "--save", str(folder / "f.json")]
    assert main([*fit, "--model", str(folder / "one")]) == 0
    assert main(["calibrate", trials, scores, "--apply", str(folder / "f.json"), "--out", out]) == 0
    llrs, verifier = (
        Scores.read(trials, out),
        Verifier.from_pretrained(folder / "one", backend="torch", vad="off"),
    )
    for n in range(0, len(pairs), 61):
        s, utt = pairs[n]
        wavs = [folder / f"data/wav/{name}.wav" for name in (f"{s}_0", f"{s}_1", utt)]
        verdict = verifier.verify(wavs[:2], wavs[2])
        assert verdict.probability == pytest.approx(1 / (1 + np.exp(-llrs.values[n])), abs=1e-4)
