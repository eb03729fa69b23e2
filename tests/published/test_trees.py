"""Every published recipe on small audio files with the publishers' names, from the corpora to a submission.

A tree has every name of the publisher's list: FFSVC2022's 68,543 development files, the 4,874 of the
baseline's Vox1-O, HI-MIA's far-field trials with 16 microphones, the 74,030 of the homework's blind list.
Files of one speaker are links to one recording. Training parts, whose lists are not published, are as in the
tests of the docs.
"""

import itertools
import json
import os
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet

TESTS = Path(__file__).parents[1]
SMALL_CORPORA = runpy.run_path(str(TESTS / "project/conftest.py"))
RECIPES = runpy.run_path(str(TESTS / "project/test_recipes.py"))
SMALL, NARROW, load_recipe = (RECIPES[name] for name in ("SMALL", "NARROW", "load_recipe"))
FAST = ["--device", "cpu", "--threads", "2"]

pytestmark = pytest.mark.slow


def rows_of(path):
    return [line.split() for line in path.read_text().splitlines()]


class Tree:
    """Files by the publishers' names, each a link to the one recording of its speaker."""

    def __init__(self, root):
        self.root, self.recordings = root, {}

    def add(self, path, speaker):
        recording = self.recordings.get(speaker)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if recording is None:
            rng = np.random.default_rng(len(self.recordings))
            time_T = np.arange(4800) / 16000
            tones = sum(np.sin(2 * np.pi * rng.uniform(80, 3000) * time_T) for _ in range(6))
            soundfile.write(target, 0.05 * tones + 0.01 * rng.standard_normal(4800), 16000)
            self.recordings[speaker] = target
        else:
            os.link(recording, target)


@pytest.fixture(scope="module")
def corpora(published, tmp_path_factory):
    """The user's ``corpora`` and data dirs made of it, with the lists of the publishers."""
    root = tmp_path_factory.mktemp("trees")
    for part in ("voxceleb2", "himia"):
        SMALL_CORPORA[part](root / "corpora")
    tree = Tree(root / "corpora")
    for utt_id, path in rows_of(published / "vox1_o_wav.scp"):
        tree.add(path.replace("/PATH/VoxCeleb1", "VoxCeleb1/wav"), utt_id.split("-")[0])
    lines = [
        f"{label} {one.replace('-', '/', 1)[::-1].replace('-', '/', 1)[::-1]}.wav "
        f"{other.replace('-', '/', 1)[::-1].replace('-', '/', 1)[::-1]}.wav\n"
        for label, one, other in rows_of(published / "vox1_o_trials")
    ]
    (root / "corpora/VoxCeleb1/veri_test2.txt").write_text("".join(lines))

    meta = rows_of(published / "dev_meta_list")[1:]
    for original, name in meta:
        tree.add(f"FFSVC2022/{name}.wav", original[:5])
    for name in ("dev_meta_list", "trials_dev", "trials_dev_keys"):
        (root / "corpora/FFSVC2022" / name).write_bytes((published / name).read_bytes())
    for speaker in sorted({original[:5] for original, _ in meta})[:6]:
        for original in [original for original, _ in meta if original[:5] == speaker][:30]:
            tree.add(f"FFSVC2020_supplement/{original}.wav", speaker)

    rows = rows_of(published / "himia_trial_mic")
    test_v2 = root / "corpora/HIMIA/test_v2"
    shutil.rmtree(test_v2)
    for enrol, test, _ in rows:
        for name in (enrol, *(test.replace("{}", f"{channel:02}") for channel in range(16))):
            path = Path("HIMIA/test_v2/SPEECHDATA/wav", name[:6], name)
            if not (tree.root / path).exists():
                tree.add(path, name[:6])
    words = {"0": "nontarget", "1": "target"}
    (test_v2 / "trials_mic").write_text("".join(f"{a} {b} {words[label]}\n" for a, b, label in rows))
    pairs = [(row[1], other[1]) for row, other in itertools.pairwise(rows[:500])]  # none is published
    lines = [f"{a} {b} {'target' if a[:6] == b[:6] else 'nontarget'}\n" for a, b in pairs]
    (test_v2 / "trials_1m").write_text("".join(lines))
    for utt_id, path in rows_of(published / "himia_blind_wav.scp"):
        tree.add(path.removeprefix("./data/"), utt_id[:7])

    for name in ("noise_wav_list", "music_wav_list", "rir_list"):
        for (path,) in rows_of(published / name):
            tree.add(path.removeprefix("/PATH/"), name)
    for number in range(4):  # no recipe of the baseline's takes speech, so its lists have none
        tree.add(f"musan/speech/librivox/speech-librivox-{number:04}.wav", "speech")
    return root


@pytest.fixture
def home(corpora, tmp_path, monkeypatch):
    """A user's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").symlink_to(corpora / "corpora")
    monkeypatch.setenv("FARVOX_CORPORA", "corpora")
    return tmp_path


def run(*words):
    assert main([str(word) for word in words]) == 0, words


def equal_to_the_baseline(published, trials, embeddings, report):
    """EER and minDCF of the baseline's own functions, from the same embeddings."""
    theirs = runpy.run_path(str(published / "baseline/utils.py"))
    found = EmbeddingSet.load(embeddings)
    row_of = {name: row for row, name in enumerate(found.utt_ids)}
    unit_NE = np.asarray(found.embeddings, np.float64)
    unit_NE /= np.linalg.norm(unit_NE, axis=1, keepdims=True)
    rows = np.array(
        [[row_of[a.removesuffix(".wav")], row_of[b.removesuffix(".wav")]] for _, a, b in rows_of(trials)]
    )
    target = np.array([label == "1" for label, _, _ in rows_of(trials)])
    scores = (unit_NE[rows[:, 0]] * unit_NE[rows[:, 1]]).sum(axis=1)
    eer, _, min_dcf, _ = theirs["compute_eer"](scores[target], scores[~target])
    assert (report["eer"], report["min_dcf"]) == pytest.approx((eer, min_dcf), abs=1e-6)


def prepare_ffsvc(trials=None):
    """FFSVC2022's data dirs; with ``trials``, the development part of the first trials only."""
    run("prepare", "ffsvc2020", "corpora/FFSVC2020_supplement", "data/ffsvc2020")
    run("prepare", "ffsvc2022", "corpora/FFSVC2022", "data/ffsvc2022")
    if trials is None:
        return []
    lines = Path("corpora/FFSVC2022/trials_dev_keys").read_text().splitlines(keepends=True)[:trials]
    names = {name.removesuffix(".wav") for line in lines for name in line.split()[1:]}
    Path("names").write_text("".join(f"{name}\n" for name in sorted(names)))
    run("subset", "data/ffsvc2022/dev", "data/few", "--utterances", "names")
    Path("data/few/trials_dev_keys").write_text("".join(lines))
    return ["--paths.ffsvc2022_dev", "data/few"]


def evaluated(capsys, *words):
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_task_1_on_all_development_names_to_a_submission(published, home, capsys):
    prepare_ffsvc()
    run("check", "data/ffsvc2022/dev", "--trials", "data/ffsvc2022/dev/trials_dev_keys")
    narrow = NARROW["ffsvc-resnet34"]
    one = ["--schedule.epochs", "1", "--schedule.margin_epochs", "[]"]
    run("run", "ffsvc2022/resnet34-pretrain", *SMALL, *narrow, *one, *FAST)
    first = load_recipe("ffsvc2022/resnet34-finetune").schedule.first_epoch
    run("run", "ffsvc2022/resnet34-finetune", *SMALL, *FAST, "--schedule.epochs", first + 1)
    vox, tuned = Path("exp/ffsvc2022/resnet34-pretrain/train"), Path("exp/ffsvc2022/resnet34-finetune/train")
    for run_dir, name, trials in (
        (vox, "Vox-O", Path("data/voxceleb1/vox1_test/trials_O_cleaned")),
        (tuned, "FFSVC2022-dev", Path("data/ffsvc2022/dev/trials_dev_keys")),
    ):
        (embeddings,) = (each.parent for each in (run_dir / "embeddings").glob("*/meta.json"))
        report = evaluated(capsys, trials, run_dir / "scores" / f"{name}.txt")
        equal_to_the_baseline(published, trials, embeddings, report)
    run("submit", "corpora/FFSVC2022/trials_dev", tuned / "scores/FFSVC2022-dev.txt", "out.zip")
    with zipfile.ZipFile("out.zip") as made:
        assert len(made.read("scores.txt").decode().split()) == 72_000


def test_the_baselines_lists_of_paths_name_the_same_files(published, home):
    for corpus, names, parts in (
        ("musan", ("noise_wav_list", "music_wav_list"), {"noise": 930, "music": 660}),
        ("rirs_noises", ("rir_list",), {"smallroom": 20_000, "mediumroom": 20_000}),
    ):
        lists = Path("lists", corpus)
        lists.mkdir(parents=True)
        for name in names:
            text = (published / name).read_text().replace("/PATH/", f"{home}/corpora/")
            (lists / name).write_text(text)
        run("prepare", corpus, lists, f"data/{corpus}")
        assert {part: len(rows_of(Path("data", corpus, part, "wav.scp"))) for part in parts} == parts


@pytest.mark.parametrize(
    "name",
    ["resnet34-pretrain-dp", "ecapa-pretrain", "ecapa-pretrain-dp", "reserved-pretrain", "wavlm-ecapa"],
)
def test_another_pretraining(home, name):
    recipe = load_recipe(f"ffsvc2022/{name}")
    dev = prepare_ffsvc(300) if recipe.data.reserve else []
    words = [
        *SMALL,
        *NARROW[recipe.model["name"]],
        "--schedule.epochs",
        "1",
        "--schedule.margin_epochs",
        "[]",
    ]
    run("run", f"ffsvc2022/{name}", *words, *dev, *FAST)
    scores = Path("exp/ffsvc2022", name, "train/scores/Vox-O.txt").read_text().splitlines()
    assert len(scores) == len(Path("corpora/VoxCeleb1/veri_test2.txt").read_text().splitlines())


def test_ecapa_is_fine_tuned_and_task_2_clusters_the_supplement(home):
    dev = prepare_ffsvc(300)
    one = ["--schedule.epochs", "1", "--schedule.margin_epochs", "[]", "--validate.trials", ""]
    for arch in ("resnet34", "ecapa"):
        run("run", f"ffsvc2022/{arch}-pretrain", *SMALL, *NARROW[f"ffsvc-{arch}"], *one, "--to", "train")
    first = load_recipe("ffsvc2022/ecapa-finetune").schedule.first_epoch
    run("run", "ffsvc2022/ecapa-finetune", *SMALL, *dev, "--schedule.epochs", first + 1)
    assert len(rows_of(Path("exp/ffsvc2022/ecapa-finetune/train/scores/FFSVC2022-dev.txt"))) == 300
    few = ["--selftrain.clusters", "2:6", "--selftrain.rounds", "1", "--selftrain.min_size", "1"]
    run("selftrain", "ffsvc2022/task2-selftrain", *SMALL, *dev, *few, "--schedule.epochs", "39")
    rows = Path("exp/ffsvc2022/task2-selftrain/rounds.tsv").read_text().splitlines()
    assert len(rows) == 3 and rows[2].startswith("1\t")


def test_rows_reserved_while_pretraining_are_fine_tuned(home):
    dev = prepare_ffsvc(300)
    words = [*SMALL, "--data.epoch_size", "16", "--optim.batch_size", "8", "--schedule.epochs", "1"]
    narrow = [*NARROW["resnet34"], "--schedule.margin_epochs", "[]", "--validate.trials", ""]
    run("run", "ffsvc2022/reserved-pretrain", *words, *narrow, *dev, "--to", "train")
    run("run", "ffsvc2022/reserved-finetune", *words, *dev)
    for stage in ("train", "large-margin"):
        scores = Path("exp/ffsvc2022/reserved-finetune", stage, "scores/FFSVC2022-dev.txt")
        assert len(rows_of(scores)) == 300


def test_the_large_margin_goes_on_with_the_classifier(home):
    first = ["--schedule.first_epoch", "39", "--schedule.epochs", "40", "--validate.trials", ""]
    words = [*SMALL, *NARROW["ffsvc-resnet34"], *first]
    run("run", "ffsvc2022/resnet34-pretrain-dp", *words, "--to", "train")
    last = ["--schedule.epochs", "41", "--validate.trials", "", "--data.num_frames", "60"]
    run("run", "ffsvc2022/resnet34-large-margin", *SMALL, *last, *FAST)
    scores = rows_of(Path("exp/ffsvc2022/resnet34-large-margin/train/scores/Vox-O.txt"))
    assert len(scores) == len(rows_of(Path("corpora/VoxCeleb1/veri_test2.txt")))


def test_the_homework_from_its_mixture_to_the_blind_list(published, home, capsys):
    words = [*SMALL, *NARROW["ffsvc-ecapa"], "--validate.trials", ""]
    run("run", "himia/ecapa-pretrain", *words, "--schedule.first_epoch", 43, "--schedule.epochs", 44)
    run("run", "himia/ecapa-ftmix", *SMALL, *FAST, "--schedule.epochs", "45")
    run_dir = Path("exp/himia/ecapa-ftmix/train")
    (embeddings,) = (each.parent for each in (run_dir / "embeddings").glob("test_v2*/meta.json"))
    trials = published / "himia_trial_mic"
    run("score", trials, embeddings, "--channels", "sum", "--out", "scores")
    report = evaluated(capsys, trials, "scores")
    theirs = runpy.run_path(str(published / "baseline/utils.py"))
    found = EmbeddingSet.load(embeddings)
    emb_of = {
        name: np.asarray(row, np.float64) for name, row in zip(found.utt_ids, found.embeddings, strict=True)
    }
    scores, labels = [], []
    for enrol, test, label in rows_of(trials):
        one = emb_of[enrol.removesuffix(".wav")]
        names = (test.replace("{}", f"{channel:02}").removesuffix(".wav") for channel in range(16))
        other = sum(emb_of[name] for name in names)
        scores.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        labels.append(label == "1")
    scores, labels = np.array(scores), np.array(labels)
    eer, _, min_dcf, _ = theirs["compute_eer"](scores[labels], scores[~labels])
    assert (report["eer"], report["min_dcf"]) == pytest.approx((eer, min_dcf), abs=1e-6)

    Path("data/blind").mkdir()
    lines = [
        f"{name} corpora/{path.removeprefix('./data/')}\n"
        for name, path in rows_of(published / "himia_blind_wav.scp")
    ]
    Path("data/blind/wav.scp").write_text("".join(lines))
    blind = published / "himia_blind_trials"
    run("check", "data/blind", "--trials", blind, "--channel-ids", "test")
    run("extract", run_dir, "data/blind", "exp/blind", *FAST)
    run("score", blind, "exp/blind", "--channels", "sum", "--channel-ids", "test", "--out", "blind")
    run("submit", blind, "blind", "score.txt")
    found = EmbeddingSet.load("exp/blind")
    emb_of = {
        name: np.asarray(row, np.float64) for name, row in zip(found.utt_ids, found.embeddings, strict=True)
    }
    submitted = [float(line) for line in Path("score.txt").read_text().split()]
    for (enrol, test), score in itertools.islice(zip(rows_of(blind), submitted, strict=True), 2_000):
        one = emb_of[enrol]
        other = sum(emb_of[f"{test}_{channel}"] for channel in range(8) if f"{test}_{channel}" in emb_of)
        assert score == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-6)
