"""HI-MIA, its homework's blind test and FFSVC2022: from files with the publishers' names to the submission.

Everything goes through the command line, as a participant types it: prepare, check, train, extract, score by
every rule for several channels, evaluate, submit. The audio is made up.
"""

import itertools
import json
import zipfile
import zlib

import numpy as np
import pytest
import tomli_w

from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.options import kinds
from farvox.pipelines.score import ScoreOptions
from farvox.score.columns import stem_of

pytestmark = pytest.mark.slow

RULES = kinds(ScoreOptions)["channels"].choices
MICS = range(4)
LABELS = ("nontarget", "target")


def run(*words):
    assert main([str(word) for word in words]) == 0


def record(path, speaker):
    """Half a second of a buzz with the speaker's pitch, and noise of the file's own."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    pitch = 90 + zlib.crc32(speaker.encode()) % 150
    time_T = np.arange(8000) / 16000
    tones_T = sum(np.sin(2 * np.pi * pitch * k * time_T + rng.uniform(0, 6)) / k for k in range(1, 9))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, (0.1 * tones_T + 0.03 * rng.standard_normal(len(time_T))).astype(np.float32))


def train(folder, data):
    """An epoch of a small network."""
    recipe = {
        "device": "cpu", "threads": 1,
        "data": {"train": [str(data)], "num_frames": 30, "workers": 0},
        "features": {"num_mels": 24},
        "model": {
            "name": "xvector", "num_mels": 24, "channels": 16, "pooled_channels": 32, "embedding_dim": 16,
        },
        "optim": {"batch_size": 8, "lr": 0.01},
        "schedule": {"epochs": 1, "kind": "constant", "warmup_epochs": 0},
    }  # fmt: skip
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    run("train", folder / "recipe.toml", "--run-dir", folder / "run")
    return folder / "run"


def extract(model, data, out):
    """The embeddings of a data dir, and the quality of each recording, which some rules ask for."""
    run("extract", model, data, out, "--device", "cpu", "--threads", 1, "--quality")
    return out


def read_scores(path):
    """(enrolment, test) -> score."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {(stem_of(enrol), stem_of(test)): float(figure) for enrol, test, figure in lines}


def score_by(rule, trials, embeddings, out):
    """Score by one rule; returns the list that the scores are of."""
    words = ["score", trials, embeddings, "--channels", rule, "--out", out]
    if rule != "expand":
        run(*words)
        return trials
    expanded = out.with_name(f"{out.name}_trials")
    run(*words, "--out-trials", expanded)
    return expanded


def evaluate(trials, scores, capsys):
    capsys.readouterr()
    run("evaluate", trials, scores, "--json")
    return json.loads(capsys.readouterr().out)


def cosine(one_E, other_E):
    return float(one_E @ other_E / (np.linalg.norm(one_E) * np.linalg.norm(other_E)))


@pytest.fixture(scope="module")
def himia(tmp_path_factory):
    """HI-MIA's train and test_v2 with both trial lists, taken as far as embeddings of test_v2."""
    folder = tmp_path_factory.mktemp("himia")
    for part, numbers in (("train", range(1, 5)), ("test_v2", range(297, 300))):
        for speaker in (f"SV{number:04}" for number in numbers):
            for take in ("N0001", "S0002"):
                far = [f"{point}_{mic:02}_{take}" for point in (2, 5) for mic in MICS]
                for place in (f"7_01_{take}", *far):
                    record(folder / f"HIMIA/{part}/wav/{speaker}/{speaker}_{place}.wav", speaker)
    speakers = [f"SV{number:04}" for number in range(297, 300)]
    for name, place in (("trials_mic", "7_01"), ("trials_1m", "2_{}")):
        lines = [
            f"{enrol}_{place}_N0001.wav {test}_5_{{}}_S0002.wav {LABELS[enrol == test]}\n"
            for enrol, test in itertools.product(speakers, speakers)
        ]
        (folder / "HIMIA/test_v2" / name).write_text("".join(lines))
    run("prepare", "himia", folder / "HIMIA", folder / "data")
    for part in ("train", "test_v2"):
        run("check", folder / "data" / part)
    extract(train(folder, folder / "data/train"), folder / "data/test_v2", folder / "emb")
    return folder


@pytest.mark.parametrize("trials", ["trials_mic", "trials_1m"])
@pytest.mark.parametrize("rule", RULES)
def test_himia_is_scored_by_every_rule_and_submitted(himia, tmp_path, capsys, rule, trials):
    scored = score_by(rule, himia / "data/test_v2" / trials, himia / "emb", tmp_path / "scores")
    figures = evaluate(scored, tmp_path / "scores", capsys)
    assert 0 <= figures["eer"] <= 1
    run("submit", scored, tmp_path / "scores", tmp_path / "score.txt")
    submitted = [float(line) for line in (tmp_path / "score.txt").read_text().splitlines()]
    assert submitted == list(read_scores(tmp_path / "scores").values())
    assert len(submitted) == (9 * len(MICS) if rule == "expand" else 9)


def test_the_homework_sums_the_channels(himia, tmp_path):
    run(
        "score", himia / "data/test_v2/trials_mic", himia / "emb",
        "--channels", "sum", "--out", tmp_path / "scores",
    )  # fmt: skip
    embeddings = EmbeddingSet.load(himia / "emb")
    emb_of = dict(zip(embeddings.utt_ids, embeddings.embeddings.astype(np.float64), strict=True))
    for (enrol, test), figure in read_scores(tmp_path / "scores").items():
        sum_E = sum(emb_of[test.format(f"{mic:02}")] for mic in MICS)
        assert figure == pytest.approx(cosine(emb_of[enrol], sum_E), abs=1e-6)


def test_kaldi_makes_a_trial_of_every_channel_but_the_first(himia, tmp_path):
    run(
        "score", himia / "data/test_v2/trials_mic", himia / "emb",
        "--channels", "expand", "--first-channel", 1, "--out", tmp_path / "scores",
    )  # fmt: skip
    embeddings = EmbeddingSet.load(himia / "emb")
    emb_of = dict(zip(embeddings.utt_ids, embeddings.embeddings.astype(np.float64), strict=True))
    scores = read_scores(tmp_path / "scores")
    speakers = [f"SV{number:04}" for number in range(297, 300)]
    assert scores.keys() == {
        (f"{enrol}_7_01_N0001", f"{test}_5_{mic:02}_S0002")
        for enrol, test in itertools.product(speakers, speakers)
        for mic in MICS
        if mic > 0
    }
    for (enrol, test), figure in scores.items():
        assert figure == pytest.approx(cosine(emb_of[enrol], emb_of[test]), abs=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "expand"])
def test_the_blind_test_of_the_homework_becomes_a_score_file(himia, tmp_path, rule):
    """An id of the list is a file, or stands for its channels ``ID_0`` to ``ID_7``; there are no labels."""
    enrolled, tested = ("id06729", "id06730"), ("id01519", "id01520", "id01521")
    names = [*enrolled, *(f"{test}_{channel}" for test in tested for channel in range(8))]
    for name in names:
        record(tmp_path / f"blind/{name}.wav", name.split("_")[0])
    (tmp_path / "data").mkdir()
    lines = sorted(f"{name} {tmp_path}/blind/{name}.wav\n" for name in names)
    (tmp_path / "data/wav.scp").write_text("".join(lines))
    pairs = [f"{enrol} {test}" for test, enrol in itertools.product(tested, enrolled)]
    (tmp_path / "trials").write_text("\n".join(pairs) + "\n")
    run("check", tmp_path / "data")
    extract(himia / "run", tmp_path / "data", tmp_path / "emb")
    run("score", tmp_path / "trials", tmp_path / "emb", "--channels", rule, "--out", tmp_path / "scores")
    run("submit", tmp_path / "trials", tmp_path / "scores", tmp_path / "score.txt")
    scores = read_scores(tmp_path / "scores")
    figures = [float(line) for line in (tmp_path / "score.txt").read_text().splitlines()]
    assert figures == [scores[tuple(pair.split())] for pair in pairs]


CELLS = ("I0.25M_1", "PCM1M_recorded2", "PCML3M_recorded6", "PAD5M_1")


@pytest.fixture(scope="module")
def ffsvc(tmp_path_factory):
    """FFSVC2020's supplement and FFSVC2022's development and evaluation files with the published lists."""
    folder = tmp_path_factory.mktemp("ffsvc")
    for speaker, cell, take in itertools.product(("0344", "0345", "0346", "0347"), CELLS, (1, 40)):
        name = f"T{speaker}_{speaker[1:]}{cell}_{take:04}_normal.wav"
        record(folder / f"FFSVC2020_supplement/T{speaker}/{name}", speaker)
    source = folder / "FFSVC2022"
    meta = ["Original_Name FFSVC2022_Name"]
    for number, (speaker, cell) in enumerate(itertools.product(("0549", "0550", "0551"), CELLS)):
        record(source / f"dev/ffsvc22_dev_{number:06}.wav", speaker)
        record(source / f"eval/ffsvc22_eval_{number:06}.wav", f"eval {speaker}")
        meta.append(f"F{speaker}_{speaker[1:]}{cell}_0001_normal ffsvc22_dev_{number:06}")
    (source / "dev_meta_list").write_text("\n".join(meta) + "\n")
    # Enrolment is always the telephone at 0.25 m, the first of the cells.
    pairs = [(a, b) for a in range(0, 12, 4) for b in range(12) if b % 4]
    keys = [f"{int(a // 4 == b // 4)} ffsvc22_dev_{a:06}.wav ffsvc22_dev_{b:06}.wav" for a, b in pairs]
    blind = [f"ffsvc22_eval_{a:06}.wav ffsvc22_eval_{b:06}.wav" for a, b in pairs]
    (source / "trials_dev_keys").write_text("\n".join(keys) + "\n")
    (source / "trials_eval").write_text("\n".join(blind) + "\n")
    run("prepare", "ffsvc2020", folder / "FFSVC2020_supplement", folder / "data/ffsvc2020")
    run("prepare", "ffsvc2022", source, folder / "data/ffsvc2022")
    for part in ("ffsvc2020/supplement", "ffsvc2022/dev", "ffsvc2022/eval"):
        run("check", folder / "data" / part)
    train(folder, folder / "data/ffsvc2020/supplement")
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_ffsvc2022_goes_from_the_files_to_the_archive(ffsvc, tmp_path, capsys, rule):
    """A side is one file there, so that all rules come to the same."""
    data = ffsvc / "data/ffsvc2022"
    for part in ("dev", "eval"):
        extract(ffsvc / "run", data / part, tmp_path / part)
    keys = score_by(rule, data / "dev/trials_dev_keys", tmp_path / "dev", tmp_path / "scores_dev")
    figures = evaluate(keys, tmp_path / "scores_dev", capsys)
    assert (figures["num_target"], figures["num_nontarget"]) == (9, 18)

    trials = score_by(rule, data / "eval/trials_eval", tmp_path / "eval", tmp_path / "scores_eval")
    run("submit", trials, tmp_path / "scores_eval", tmp_path / "submission.zip")
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["scores.txt"]
        figures = [float(line) for line in archive.read("scores.txt").decode().splitlines()]
    embeddings = EmbeddingSet.load(tmp_path / "eval")
    emb_of = dict(zip(embeddings.utt_ids, embeddings.embeddings.astype(np.float64), strict=True))
    pairs = [line.split() for line in (data / "eval/trials_eval").read_text().splitlines()]
    wanted = [cosine(*(emb_of[stem_of(name)] for name in pair)) for pair in pairs]
    np.testing.assert_allclose(figures, wanted, atol=1e-6)


def test_the_scores_of_the_development_trials_are_no_submission(ffsvc, tmp_path, capsys):
    data = ffsvc / "data/ffsvc2022"
    extract(ffsvc / "run", data / "dev", tmp_path / "dev")
    score_by("mean-norm", data / "dev/trials_dev_keys", tmp_path / "dev", tmp_path / "scores")
    words = ["submit", data / "eval/trials_eval", tmp_path / "scores", tmp_path / "out.zip"]
    assert main([str(word) for word in words]) == 1
    assert (
        "27 of the 27 trials have no score" in capsys.readouterr().err and not (tmp_path / "out.zip").exists()
    )
