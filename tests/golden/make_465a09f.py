"""Make tests/golden/465a09f: what a user of commit 465a09f has on disk. Run with the code of that commit:

    git worktree add /tmp/465a09f 465a09f
    PYTHONPATH=/tmp/465a09f/src OMP_NUM_THREADS=1 python tests/golden/make_465a09f.py tests/golden/465a09f

Everything is synthetic. All paths in the files are relative to the folder, so it can be copied and entered.
"""

# ruff: noqa: I001  the modules of farvox are those of that commit

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import tomli_w

from farvox.cli.main import main
from farvox.corpora import pack as packing
from farvox.io.audio import write_audio
from farvox.io.banks import bank_audio
from farvox.io.embeddings import EmbeddingSet
from farvox.io.kaldi import write_data_dir
from farvox.types import Utterance

TINY = {
    "device": "cpu",
    "threads": 1,
    "seed": 5,
    "data": {"train": ["data/train"], "num_frames": 25, "workers": 0, "speeds": [1.0, 0.9]},
    "features": {"num_mels": 24},
    "model": {"name": "xvector", "num_mels": 24, "channels": 8, "pooled_channels": 16, "embedding_dim": 8},
    "head": {"name": "aam"},
    "optim": {"name": "adam", "batch_size": 6, "lr": 0.01},
    "schedule": {"epochs": 3, "kind": "cosine", "warmup_epochs": 0.5},
    "validate": {"data": "data/dev", "trials": "data/dev/trials"},
    "log": {"every": 1},
}
GROUP = r"(?P<channel>\d)-.*"


def farvox(*words, status=0):
    found = main([str(word) for word in words])
    assert found == status, (found, words)


def interrupted(target, calls, *words):
    """Run a verb that is stopped, as by Ctrl-C, at a call of a function."""
    module, name = target.rsplit(".", 1)
    original, count = getattr(sys.modules[module], name), 0

    def stopped(*arguments, **named):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    with mock.patch(target, stopped):
        farvox(*words, status=130)


def buzz(rng, pitch, formant, num_samples):
    t = np.arange(num_samples) / 16000
    harmonics = np.arange(1, 25) * pitch * (1 + 0.02 * rng.standard_normal())
    gains = np.exp(-(((harmonics - formant) / 600) ** 2)) + 0.05
    wav_T = sum(
        g * np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for g, f in zip(gains, harmonics, strict=True)
    )
    return (0.004 * wav_T + 1e-4 * rng.standard_normal(num_samples)).astype(np.float32)


def data_dir(raw, name, speakers, takes, num_samples, seed):
    """A data dir of files in ``raw``, with all trials."""
    rng, utterances = np.random.default_rng(seed), []
    for speaker in speakers:
        pitch, formant = rng.uniform(90, 260), rng.uniform(400, 2500)
        for take in range(takes):
            path = raw / f"{name}/wav/{speaker}-{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, buzz(rng, pitch, formant, num_samples))
            utterances.append(Utterance(f"{speaker}-{take}", str(path), speaker, num_samples))
    pairs = [(a, b) for n, a in enumerate(utterances) for b in utterances[n + 1 :]]
    lines = [f"{int(a.speaker_id == b.speaker_id)} {a.utt_id} {b.utt_id}\n" for a, b in pairs]
    write_data_dir(raw / name, utterances, files={"trials": "".join(lines)})


def data(raw):
    """Packed data dirs, a bank of responses, and channels of takes."""
    data_dir(raw, "train", [f"s{n}" for n in range(6)], 2, 6400, seed=0)
    data_dir(raw, "dev", ["d0", "d1", "d2", "d3"], 2, 6400, seed=1)
    data_dir(raw, "short", ["a", "b", "c"], 2, 3200, seed=2)
    rng, takes = np.random.default_rng(3), []
    for take in ("x", "y", "z"):
        wav_T = buzz(rng, 130, 900, 4000)
        for channel in range(2):
            path = raw / f"takes/{channel}-{take}.wav"
            path.parent.mkdir(exist_ok=True)
            write_audio(path, np.roll(wav_T, 3 * channel))
            takes.append(Utterance(path.stem, str(path), "s", 4000))
    write_data_dir(raw / "takes", takes)
    for name in ("train", "dev", "short", "takes"):
        farvox("pack", raw / name, f"data/{name}", "--codec", "flac", "--jobs", 1)
    rooms = ["--rooms", 1, "--per-room", 2, "--t60", 0.15, 0.16, "--distance", 0.5, 0.8]
    farvox("rirs", "data/rirs", *rooms, "--jobs", 1)
    lines = (Path("data/rirs/wav.scp")).read_text().replace(f"{os.getcwd()}/", "")
    Path("data/rirs/wav.scp").write_text(lines)
    for other in ("simulate.json", "batches"):
        path = Path("data/rirs") / other
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def trained(expected):
    """A finished run, its model and embeddings, a store; and the same run, stopped after its first epoch."""
    Path("tiny.toml").write_text(tomli_w.dumps(TINY))
    farvox("train", "tiny.toml", "--run-dir", "run")
    records = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    expected["losses"] = [[r["epoch"], r["loss"]] for r in records if r["kind"] == "step"]
    expected["eer"] = [r["eer"] for r in records if r["kind"] == "epoch"]
    shutil.rmtree("run")
    farvox("train", "tiny.toml", "--run-dir", "longer", "--schedule.epochs", 20)
    shutil.move("longer/checkpoints/epoch_019", "model")
    shutil.rmtree("longer")
    for name in ("classifier.safetensors", "optimizer.safetensors", "state.json"):
        (Path("model") / name).unlink()
    farvox("extract", "model", "data/dev", "embeddings", "--device", "cpu", "--threads", 1, "--quality")
    farvox("score", "data/dev/trials", "embeddings", "--out", "scores")
    expected["scores"] = [float(line.split()[-1]) for line in Path("scores").read_text().splitlines()]
    farvox(
        "calibrate", "data/dev/trials", "scores", "--far", 0.5, "--model", "model", "--note", "of the test"
    )
    interrupted("farvox.train.checkpoint.prune_checkpoints", 0, "train", "tiny.toml", "--run-dir", "run")


def enrolled(raw, expected):
    for speaker in ("d0", "d1"):
        farvox("enrol", speaker, raw / f"dev/wav/{speaker}-0.wav", "--model", "model", "--vad", "off", *STORE)
    answer = raw / "answer.json"
    with answer.open("w") as file, mock.patch("sys.stdout", file):
        words = ["--model", "model", "--vad", "off", "--threshold", "-1", "--json", *STORE]
        farvox("identify", raw / "dev/wav/d1-1.wav", *words)
    expected["identify"] = [[e["name"], e["score"]] for e in json.loads(answer.read_text())["candidates"]]


STORE = ["--store", "speakers.sqlite"]


def half_finished(expected):
    """Jobs that were stopped, and what they come to when they are not."""
    far = ["simulate", "data/short", "far", "--rirs", "data/rirs", "--noise", "data/dev", "--copies", 3]
    far += ["--seed", 4, "--jobs", 1]
    farvox(*far)
    expected["far"] = Path("far/utt2cond").read_text()
    shutil.rmtree("far")
    interrupted("farvox.corpora.simulate.write_audio", 17, *far)

    one = ["enhance", "data/takes", "one", "--beamform", "mvdr", "--group", GROUP, "--jobs", 1]
    farvox(*one)
    expected["one"] = Path("one/utt2num_samples").read_text()
    shutil.rmtree("one")
    interrupted("farvox.corpora.enhance.write_audio", 1, *one)

    packing.pack("data/short", "packed", note=print, shard_bytes=14_000, jobs=1)
    expected["packed"] = Path("packed/wav.scp").read_text()
    last = max(path.stem for path in Path("packed/shards").glob("*.tar"))
    for path in (
        *Path("packed/shards").glob(f"{last}*"),
        *(p for p in Path("packed").iterdir() if p.is_file()),
    ):
        path.unlink()

    lists = {"method": "kmeans", "clusters": "2:9", "rounds": 2, "stable": 1.5, "min_size": 1}
    table = {**TINY, "init": {"model": "model"}, "selftrain": {"data": "data/train", **lists}}
    table = {**table, "schedule": {**TINY["schedule"], "epochs": 1}}
    table["evaluate"] = [{"name": "dev", "data": "data/dev", "trials": "data/dev/trials"}]
    Path("selftrain.toml").write_text(tomli_w.dumps(table))
    words = ["selftrain", "selftrain.toml", "--run-dir", "selftrain"]
    farvox(*words)
    expected["labels"] = Path("selftrain/round-1/labels/utt2cluster").read_text()
    expected["rounds"] = Path("selftrain/rounds.tsv").read_text()
    shutil.rmtree("selftrain")
    interrupted("farvox.adapt.cluster.kmeans", 4, *words)


def whole_recipe():
    """A recipe in full, as a run dir has it, with every table."""
    from farvox.recipe import parse_recipe, recipe_to_toml

    table = {
        **TINY,
        "title": "Every table",
        "notes": ["A note."],
        "run_dir": "exp/whole",
        "paths": {"data": "data"},
        "prepare": ["combine data/all data/train data/dev"],
        "augment": {"kind": "farvox", "rirs": ["data/rirs"], "reverb_probability": 0.5},
        "specaugment": {"kind": "both", "probability": 0.5},
        "init": {"model": "model", "classifier": "means"},
        "distill": {"weight": 2.0},
        "selftrain": {"data": "data/train", "clusters": "4:9", "keep": 0.9},
        "adapt": [{"name": "far", "set": {"optim": {"lr": 0.001}, "data": {"train": ["data/far"]}}}],
        "evaluate": [
            {"name": "dev", "data": "data/dev", "trials": "data/dev/trials", "by": ["point"]},
            {
                "name": "normalised", "data": "data/dev", "trials": "data/dev/trials", "channels": "weighted",
                "centre": "data/train", "norm": "as-norm", "cohort": "data/train", "top": 4,
                "cohort_speakers": "data/train",
            },
        ],
    }  # fmt: skip
    Path("recipe.toml").write_text(recipe_to_toml(parse_recipe(table)))


def bank(raw, expected):
    """The file in which training keeps noise, as it lies in the cache."""
    paths = [str(raw / f"short/wav/{name}-0.wav") for name in "ab"]
    found = bank_audio(paths, sample_rate=16000)
    shutil.copytree(found.folder, "bank")
    Path("bank/files.txt").write_text("int16 at 16000 Hz\n")
    expected["bank"] = [found.length(n) for n in range(2)] + [float(found.crop(1)[100])]


if __name__ == "__main__":
    out = Path(sys.argv[1]).absolute()
    readme = (out / "README.md").read_bytes() if (out / "README.md").exists() else b""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "README.md").write_bytes(readme)
    os.chdir(out)
    found = {}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, FARVOX_CACHE=folder):
        raw = Path(folder) / "raw"
        data(raw)
        trained(found)
        enrolled(raw, found)
        half_finished(found)
        whole_recipe()
        bank(raw, found)
    found["embeddings"] = len(EmbeddingSet.load("embeddings").utt_ids)
    Path("expected.json").write_text(json.dumps(found, indent=1) + "\n")
