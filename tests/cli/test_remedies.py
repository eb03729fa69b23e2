"""The remedies that messages name, taken out of what is printed and run where they are needed.

Every case is a situation of real files in the current folder, the command that fails there, and how its
message names the way out. The capitals in a remedy (OUT, DIR, FILE) are places for the user's own names; a
case gives them. ``tests/project/test_remedies.py`` compares the cases with the messages in the source.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import tomli_w

from farvox.audio.files import open_audio, read_audio, write_audio
from farvox.audio.mapped import map_audio
from farvox.audio.shards import encode
from farvox.cli.main import main
from farvox.clustering.elbow import find_elbow
from farvox.clustering.kmeans import kmeans
from farvox.corpora.voxceleb import prepare_voxceleb2
from farvox.datadir.derive import combine
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import FarvoxError
from farvox.features.fbank import KaldiFbank
from farvox.features.frontend import FrontEndConfig
from farvox.machine import available_memory
from farvox.metrics.clustering import purity
from farvox.metrics.detection import det_curve
from farvox.models.registry import build_model
from farvox.score.scores import write_scores
from farvox.score.trials import read_trials
from farvox.synthetic.corpus import parse_spec
from farvox.verifier import SqliteStore, read_signal
from farvox.zoo import Card
from farvox.zoo.export import refuse_name
from farvox.zoo.find import find_model
from farvox.zoo.pretrained import parse_address


@dataclass(frozen=True)
class Case:
    """A situation and its way out."""

    command: str | Callable[[], object]
    """What is typed first, without ``farvox``; or what is called in Python."""
    remedy: str
    """A regular expression; its group is the remedy: options for the first command, ``farvox ...``, or a
    command of another program. Without a group it is something to do, which ``act`` or ``again`` does."""
    make: Callable[[], object] = lambda: None
    """Makes the situation."""
    names: dict[str, str] = field(default_factory=dict)
    """What the user puts for the capitals of the remedy, or for an option without a value."""
    again: str | Callable[[], object] | None = None
    """The first command after a remedy that is no option of it, where it differs."""
    act: Callable[[], object] = lambda: None
    """Does what the message says, where that is nothing to type."""
    of: str = ""
    """The words in the source that name the remedy, where ``remedy`` does not have them as they stand there;
    ``{}`` is what is put in."""
    statuses: tuple[int, int, int] = (1, 0, 0)
    """Of the first command, of the remedy, and of the first command at the end."""

    @property
    def words(self) -> str:
        """The words in the source that this case covers."""
        return self.of or re.sub(r"\\(.)|[()]", r"\1", self.remedy)


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def copy(source: str, out: str) -> None:
    """A data dir of its own; the audio stays where it is."""
    Path(out).mkdir()
    for path in Path(source).iterdir():
        if path.is_file():
            (Path(out) / path.name).write_bytes(path.read_bytes())


def with_fault() -> None:
    copy("dev", "bad")
    edit("bad/utt2spk", "d0_1 d0\n", "d0_1 d1\n")


def with_drop() -> None:
    copy("dev", "bad")
    edit("bad/utt2spk", "d0_1 d0\n", "")
    Path("bad/spk2utt").unlink()


def unsorted() -> None:
    copy("dev", "bad")
    lines = Path("bad/wav.scp").read_text().splitlines(keepends=True)
    Path("bad/wav.scp").write_text("".join(lines[::-1]))


def with_bad_file() -> None:
    copy("dev", "bad")
    Path("broken.wav").write_bytes(b"RIFF\0\0\0\0 no audio")
    wav = Path("bad/wav.scp").read_text().splitlines()
    Path("bad/wav.scp").write_text("\n".join(["d0_0 broken.wav", *wav[1:]]) + "\n")


def many() -> None:
    write_audio("x.wav", 0.1 * np.sin(np.arange(1600.0)))
    write_data_dir("many", [Utterance(f"u{n:05}", "x.wav", f"s{n % 7000:04}", 1600) for n in range(14200)])


def with_trials() -> None:
    assert run(f"extract model dev emb {FAST}") == 0
    assert run("score dev/trials emb --out scores") == 0


def bare_model() -> None:
    Path("bare").mkdir()
    for path in Path("model").iterdir():
        if path.name not in ("card.json", "manifest.json"):
            (Path("bare") / path.name).write_bytes(path.read_bytes())


def bare_model_with_scores() -> None:
    bare_model()
    assert run(f"extract bare dev emb {FAST}") == 0
    assert run("score dev/trials emb --out scores") == 0


def strict_model() -> None:
    bare_model()
    Card(name="bare", threshold=0.99999).save(Path("bare"))


def foreign_graph() -> None:
    import onnx

    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "small", [x], [x])
    onnx.save(onnx.helper.make_model(graph), "small.onnx")


def enrolled() -> None:
    assert run(f"enrol ann voices/a0.wav {MODEL}") == 0


def hiss() -> None:
    write_audio("hiss.wav", 1e-3 * np.random.default_rng(0).standard_normal(48000))


def trained() -> None:
    shutil.copytree("trained", "exp")


def array() -> None:
    """Two takes of two channels, one of which lacks a channel."""
    wav_T, utterances = read_audio("voices/a0.wav"), []
    for name in ("ann_1_0", "ann_1_1", "ben_1_0", "ben_1_1", "cy_1_0"):
        delay = 5 * int(name[-1])
        write_audio(f"{name}.wav", wav_T[100 - delay : 16100 - delay])
        utterances.append(Utterance(name, f"{name}.wav", name[:-4], 16000))
    write_data_dir("array", utterances)


def damaged_array() -> None:
    array()
    Path("ann_1_0.wav").write_text("no audio")


def recipe_with(path: str, **tables: dict[str, object]) -> Callable[[], object]:
    """Makes a recipe as ``recipe.toml`` with further or other entries in its tables."""

    def make() -> None:
        table = tomllib.loads(Path("recipe.toml").read_text())
        for name, entries in tables.items():
            table[name] = table.get(name, {}) | entries
        Path(path).write_text(tomli_w.dumps(table))

    return make


def without(path: str, *tables: str) -> None:
    """Makes a recipe as ``recipe.toml`` without some of its tables."""
    table = tomllib.loads(Path("recipe.toml").read_text())
    Path(path).write_text(tomli_w.dumps({name: each for name, each in table.items() if name not in tables}))


def bare_recipe() -> None:
    without("bare.toml", "model")


def started() -> None:
    """A run that started from a model, of which there is a copy."""
    trained()
    shutil.copytree("exp", "start")
    shutil.copytree("start", "start.kept")
    assert run("train recipe.toml --run-dir exp2 --init.model start --schedule.epochs 1") == 0


def retrained() -> None:
    """The model that was started from is another now."""
    shutil.rmtree("start")
    assert run("train recipe.toml --run-dir start --optim.lr 0.02") == 0


def renewed() -> None:
    """The model that was started from has a further epoch now."""
    assert run("train recipe.toml --run-dir start --schedule.epochs 3") == 0


def own() -> None:
    """A run on a data dir with audio of its own."""
    copy("train", "own")
    Path("own/wav").mkdir()
    lines = [line.split() for line in Path("own/wav.scp").read_text().splitlines()]
    for utt_id, path in lines:
        shutil.copy(path, f"own/wav/{utt_id}.wav")
    Path("own/wav.scp").write_text("".join(f"{utt_id} own/wav/{utt_id}.wav\n" for utt_id, _ in lines))
    recipe_with("own.toml", data={"train": ["own"]})()
    assert run("train own.toml --run-dir exp --schedule.epochs 1") == 0


def replaced() -> None:
    """A file of a run has another time."""
    own()
    os.utime("own/wav/s0_1.wav", (1, 1))


def slow_header() -> None:
    """A wav file whose header states 16 Hz."""
    content = bytearray(Path("voices/a0.wav").read_bytes())
    content[24:28] = (16).to_bytes(4, "little")
    Path("slow.wav").write_bytes(content)


def joined(kind: str) -> None:
    """Two files in one; of ogg the second has half the rate."""
    wav_T = read_audio("voices/a0.wav")
    soundfile.write(f"one.{kind}", wav_T, 16000)
    soundfile.write(f"two.{kind}", wav_T, 8000 if kind == "ogg" else 16000)
    Path(f"both.{kind}").write_bytes(Path(f"one.{kind}").read_bytes() + Path(f"two.{kind}").read_bytes())


def more_bytes() -> None:
    """A wav file whose header was written before the last second."""
    content = bytearray(Path("voices/a0.wav").read_bytes())
    content[4:8] = (len(content) - 8 - 32000).to_bytes(4, "little")
    content[40:44] = (len(content) - 44 - 32000).to_bytes(4, "little")
    Path("more.wav").write_bytes(content)


def two_tracks() -> None:
    tracks = "-i voices/a0.wav -i voices/b0.wav -map 0:a -map 1:a -c:a flac two.mka"
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    subprocess.run(f"ffmpeg -loglevel error {tracks}", shell=True, check=True, stdin=subprocess.DEVNULL)


def piped_ark() -> None:
    """A wav file in an ark, whose header states no length, as sox writes it into a pipe."""
    content = bytearray(Path("voices/a0.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    Path("audio.ark").write_bytes(b"a0 " + content)
    Path("piped").mkdir()
    Path("piped/wav.scp").write_text("a0 audio.ark:3\n")


def with_command() -> None:
    copy("dev", "bad")
    lines = Path("bad/wav.scp").read_text().splitlines()
    Path("bad/wav.scp").write_text(
        "\n".join(["d0_0 sox voices/a0.wav -t wav - gain -3 |", *lines[1:]]) + "\n"
    )
    Path("bad/utt2num_samples").unlink()


def one_speaker() -> None:
    assert run("subset dev one --speakers 1-1") == 0
    recipe_with("one.toml", data={"train": ["one"]}, optim={"batch_size": 2})()


def without_speakers() -> None:
    with_drop()
    recipe_with("bad.toml", data={"train": ["bad"]})()


def plain_rirs() -> None:
    """A folder of room impulse responses, which nobody measured."""
    tail_T = np.exp(-np.arange(4000) / 300) * np.random.default_rng(0).standard_normal(4000)
    tail_T[0] = 4
    Path("rirs").mkdir()
    write_audio("rirs/room.wav", 0.9 * tail_T / np.abs(tail_T).max())
    write_data_dir("rirs", [Utterance("room", "rirs/room.wav", None, 4000)])
    recipe_with(
        "far.toml",
        augment={"rirs": ["rirs"], "kind": "farvox", "reverb_probability": 1.0, "rir_t60": [0.01, 3.0]},
    )()


def speechbrain_weights() -> None:
    import torch

    weight = runpy.run_path(str(GOLDEN / "make_models.py"))["weight"]
    keys = json.loads((GOLDEN / "foreign_keys.json").read_text())
    shapes = keys["speechbrain-ecapa"]["shapes"]
    theirs = {
        name: weight(name, shape).float() if shape else torch.tensor(0) for name, shape in shapes.items()
    }
    torch.save(theirs, "theirs.pt")


def little_speech() -> None:
    wav_T = read_audio("voices/a0.wav")
    write_audio("long.wav", np.concatenate([np.zeros(20 * 16000, np.float32), wav_T]))


def stereo_of_two() -> None:
    strict_model()
    one_T, other_T = read_audio("voices/a0.wav"), read_audio("voices/b0.wav")
    length = min(len(one_T), len(other_T))
    soundfile.write("call.wav", np.stack([one_T[:length], other_T[:length]], axis=1), 16000)


def two_lists() -> None:
    with_trials()
    write_data_dir("cond", [Utterance(f"d{s}_{t}", "x.wav", f"d{s}", 1) for s in range(3) for t in range(3)])
    rows = "".join(f"d{s}_{t}\t{t}m\n" for s in range(3) for t in range(3))
    Path("cond/utt2cond").write_text("utt_id\tdistance\n" + rows)


def notes() -> None:
    Path("notes.txt").write_text("call Ann\n")


GOLDEN = Path(__file__).parents[1] / "golden"
PROGRAM = re.compile(r"(?:ffmpeg|sox|head|tail|iconv|tr)\b")
FAST = "--device cpu --threads 1"
MODEL = "--model model --store store.sqlite"
GROUP = "--group '.*_(?P<channel>[0-9])' --beamform mvdr --jobs 1"
CASES = {
    "a fault of a data dir": Case(
        "check bad",
        r"'(farvox check bad --fix OUT)'",
        with_fault,
        {"OUT": "good"},
        "check good",
        of="'farvox check {}{} --fix OUT'",
        statuses=(1, 1, 0),
    ),
    "a file of another kind": Case(
        "trials dev notes.txt",
        "is not replaced by one; remove it, or give another name",
        notes,
        act=lambda: Path("notes.txt").unlink(),
    ),
    "an output that is an input": Case(
        "score trials emb --out trials",
        "is an input of this command, and is not replaced; give another name",
        lambda: Path("trials").write_text("a b target\n"),
        again="trials dev other",
    ),
    "an output that holds another data dir": Case(
        "combine dev train",
        "choose another OUT, or remove it first",
        again="combine new train",
        of="of the same inputs{}, and that is not replaced; choose another OUT, or remove it first",
    ),
    "an output that holds another model": Case(
        "average other model other",
        "choose another OUT, or remove it first",
        lambda: shutil.copytree("model", "other"),
        again="average new model other",
        of="not made so ({}: {}), and that is not replaced; choose another OUT, or remove it first",
    ),
    "an output that holds embeddings of another file": Case(
        "import b.npy emb --arch ffsvc-embeddings",
        "choose another OUT, or remove it first",
        lambda: (set_of("emb", "ab"), np.save("b.npy", {"a": np.ones(4, np.float32)}, allow_pickle=True)),
        act=lambda: shutil.rmtree("emb"),
        of="not imported from {}; they are not replaced: choose another OUT, or remove it first",
    ),
    "an output that holds clusters of other embeddings": Case(
        "cluster other out --clusters 2",
        "choose another OUT, or remove it first",
        lambda: (set_of("emb", "a b c d"), set_of("other", "a b c d"), run("cluster emb out --clusters 2")),
        again="cluster other new --clusters 2",
        of="holds clusters of {}, not of {}; they are not replaced: choose another OUT, or remove it first",
    ),
    "an output in a folder of embeddings": Case(
        "trials dev emb/list",
        "a folder of embeddings is replaced as a whole, with it; give another name",
        lambda: set_of("emb", "ab"),
        again="trials dev list",
    ),
    "an output that is the graph of a model": Case(
        "export other other/graph.onnx",
        "is the graph that the model of its folder computes by; give another name",
        lambda: shutil.copytree("model", "other"),
        again="export other graph.onnx",
    ),
    "an output of numbers that are no submission": Case(
        "submit list scores score.txt",
        "submission of these, and is not replaced; remove it, or give another name",
        lambda: (
            Path("list").write_text("a b\na c\n"),
            Path("scores").write_text("a b 0.5\na c 0.25\n"),
            Path("score.txt").write_text("0.5\n"),
        ),
        act=lambda: Path("score.txt").unlink(),
    ),
    "an output among the recordings": Case(
        "simulate data/all recordings/far --rirs rirs --jobs 1",
        "and would be read as more of them; choose an OUT outside of it",
        lambda: (plain_rirs(), run("prepare folder recordings data")),
        again="simulate data/all far --rirs rirs --jobs 1",
    ),
    "an output that is the data dir itself": Case(
        "combine dev dev train",
        "choose another OUT",
        again="combine new dev train",
        of="is the data dir itself, an input of farvox {}; choose another OUT",
    ),
    "an output that holds embeddings of another data dir": Case(
        f"extract model dev emb {FAST}",
        "choose another OUT, or remove it first",
        lambda: EmbeddingSet(["a"], np.eye(1, 4, dtype=np.float32), {"data_dir": "train"}).save("emb"),
        act=lambda: shutil.rmtree("emb"),
        of="{} not replaced: choose another OUT, or remove it first",
    ),
    "an output that is a device": Case(
        "trials dev /dev/null",
        "is not replaced; give the name of a file",
        again="trials dev list",
    ),
    "an output that is a folder": Case(
        "trials dev folder",
        "is a folder, and a file is to be written there; choose another name",
        lambda: Path("folder").mkdir(),
        again="trials dev folder/list",
    ),
    "a write-protected output": Case(
        "trials dev list",
        "is write-protected, and is not replaced; remove it, or give another name",
        lambda: (run("trials dev list"), Path("list").chmod(0o444)),
        act=lambda: Path("list").unlink(),
    ),
    "lines left out": Case(
        "check bad --fix good",
        r"(--allow-drops with another OUT)",
        with_drop,
        {"--allow-drops with another OUT": "--allow-drops --fix good2"},
    ),
    "lines out of order": Case(
        "check bad",
        r"'(farvox combine OUT DIR)'",
        unsorted,
        {"OUT": "good", "DIR": "bad"},
        "check good",
        statuses=(0, 0, 0),
    ),
    "no data dir": Case(
        "check mine",
        r"'(farvox prepare)'",
        lambda: Path("mine").mkdir(),
        names={"prepare": "prepare folder recordings mine"},
        again="check mine/all",
        of="'farvox prepare' makes data dirs",
    ),
    "a subset of nothing: speakers": Case(
        "subset dev some", r"give (--speakers)", names={"--speakers": "--speakers 1-2"}, statuses=(2, 0, 0)
    ),
    "a subset of nothing: per speaker": Case(
        "subset dev some",
        r"or (--per-speaker)",
        names={"--per-speaker": "--per-speaker 1"},
        statuses=(2, 0, 0),
    ),
    "very many pairs": Case("trials many list", r"give (--num-nontarget N)", many, {"N": "5"}),
    "a file that cannot be embedded": Case(
        f"extract model bad emb {FAST}",
        r"leave them out with (--skip-bad)",
        with_bad_file,
        of="leave them out with {}",
    ),
    "a file that cannot be packed": Case("pack bad packed --jobs 1", r"(--skip-bad)", with_bad_file),
    "no embeddings": Case(
        "score dev/trials emb --out scores",
        r"'(farvox extract)' makes one",
        names={"extract": f"extract model dev emb {FAST}"},
    ),
    "no quality of the embeddings": Case(
        "score dev/trials emb --channels best --out again",
        r"'(farvox extract --quality)'",
        with_trials,
        {"extract": f"extract model dev emb2 {FAST}"},
        "score dev/trials emb2 --channels best --out again",
        of="{} every utterance: extract with 'farvox extract --quality'",
    ),
    "a small cohort": Case(
        "score dev/trials emb --norm as-norm --cohort emb --out again",
        r"ask for fewer with (--top)",
        with_trials,
        {"--top": "--top 3"},
    ),
    "intervals without speakers": Case(
        "evaluate dev/trials scores --intervals",
        r"name data dirs with (--data)",
        with_trials,
        {"--data": "--data dev"},
        statuses=(2, 0, 0),
    ),
    "intervals without speakers, which the ids hold": Case(
        "evaluate dev/trials scores --intervals",
        r"say with (--speaker-before)",
        with_trials,
        {"--speaker-before": "--speaker-before _"},
        statuses=(2, 0, 0),
    ),
    "speakers without intervals": Case(
        "evaluate dev/trials scores --trial-speakers dev",
        r"add (--intervals)",
        with_trials,
        statuses=(2, 0, 0),
    ),
    "nothing to compare": Case(
        "evaluate dev/trials scores --trial-speakers dev",
        r"or (--against)",
        with_trials,
        {"--against": "--against scores"},
        statuses=(2, 0, 0),
    ),
    "one recording": Case(
        "verify voices/a0.wav --model model",
        r"(farvox verify ENROL TEST)",
        names={"ENROL": "--model model voices/a0.wav", "TEST": "voices/a0.wav"},
        again="verify voices/a0.wav voices/a0.wav --model model",
        statuses=(2, 0, 0),
    ),
    "a model without a threshold": Case(
        "verify --model bare voices/a0.wav voices/a0.wav",
        r"give one \(threshold=, (--threshold)\)",
        bare_model,
        {"--threshold": "--threshold 0.4"},
        statuses=(2, 0, 0),
    ),
    "a model that is not calibrated": Case(
        "verify --model bare voices/a0.wav voices/a0.wav",
        r"'(farvox calibrate)'",
        bare_model_with_scores,
        {"calibrate": "calibrate dev/trials scores --far 0.5 --model bare"},
        statuses=(2, 0, 0),
    ),
    "nobody is enrolled": Case(
        f"identify voices/a0.wav {MODEL}",
        r"'(farvox enrol)'",
        names={"enrol": f"enrol ann voices/a0.wav {MODEL}"},
        statuses=(2, 0, 0),
    ),
    "enrolled already: forget": Case(
        f"enrol ann voices/a0.wav {MODEL}",
        r"\((farvox forget)\)",
        enrolled,
        {"forget": "forget ann --store store.sqlite"},
    ),
    "enrolled already: replace": Case(f"enrol ann voices/a0.wav {MODEL}", r"\((--replace)", enrolled),
    "two persons": Case(
        "enrol ann voices/a0.wav voices/b0.wav --model bare --store s.sqlite",
        r"\((--allow-mixed)\)",
        strict_model,
    ),
    "no speech": Case("verify --model model hiss.wav hiss.wav", r"\((--vad off)\)", hiss, statuses=(2, 0, 0)),
    "a run dir of another recipe": Case(
        "train recipe.toml --run-dir exp --optim.lr 0.02",
        r"choose another (--run-dir)",
        trained,
        {"--run-dir": "--run-dir exp2"},
        of="with another recipe; choose another --run-dir",
    ),
    "a run dir that is not to be resumed": Case(
        "train recipe.toml --no-resume --run-dir exp",
        r"choose another (--run-dir)",
        trained,
        {"--run-dir": "--run-dir exp2"},
        of="checkpoint(s): choose another --run-dir",
    ),
    "validation without its data dir": Case(
        "train recipe.toml --run-dir exp --validate.trials dev/trials",
        r"set (validate\.data)",
        names={"validate.data": "--validate.data dev"},
    ),
    "an epoch below a batch: batch": Case(
        "train recipe.toml --run-dir exp --data.epoch_size 4",
        r"lower (optim\.batch_size)",
        names={"optim.batch_size": "--optim.batch_size 4"},
    ),
    "an epoch below a batch: epoch": Case(
        "train recipe.toml --run-dir exp --data.epoch_size 4",
        r"raise (data\.epoch_size)",
        names={"data.epoch_size": "--data.epoch_size 16"},
    ),
    "no network": Case(
        "train empty.toml --run-dir exp",
        r"set (model\.name)",
        lambda: Path("empty.toml").write_text('device = "cpu"\n[data]\ntrain = ["train"]\nnum_frames = 30\n'),
        {
            "model.name": "--model.name xvector --model.channels 16 --model.pooled_channels 32"
            " --schedule.epochs 1 --optim.batch_size 8 --schedule.margin_epochs [] --data.workers 0"
        },
    ),
    "no recipe": Case(
        "train nowhere --run-dir exp",
        r"'(farvox recipes)'",
        again="recipes",
        of="'farvox recipes' lists those",
    ),
    "a take without a channel": Case(
        f"enhance array enhanced {GROUP}", r"with (--allow-missing-channels)", array
    ),
    "a take that cannot be read": Case(
        f"enhance array enhanced {GROUP} --allow-missing-channels",
        r"leave them out with (--skip-bad)",
        damaged_array,
        of="leave them out with {}",
    ),
    "takes that nothing names": Case(
        "enhance array enhanced --beamform mvdr --allow-missing-channels --jobs 1",
        r"(--group) or --by",
        array,
        {"--group": "--group '.*_(?P<channel>[0-9])'"},
    ),
    "one speaker": Case(
        "train one.toml --run-dir exp",
        r"add another data dir to (data\.train)",
        one_speaker,
        {"data.train": '--data.train \'["one", "train"]\''},
    ),
    "utterances without a speaker": Case(
        "train bad.toml --run-dir exp",
        r"'(farvox check bad)' lists",
        without_speakers,
        {},
        "train bad.toml --data.train '[\"dev\"]' --run-dir exp",
        of="'farvox check {}' lists",
        statuses=(1, 1, 0),
    ),
    "decay towards no model": Case(
        "train recipe.toml --run-dir exp2 --optim.l2_sp 0.1",
        r"set (init\.model)",
        trained,
        {"init.model": "--init.model exp"},
        of="optim.l2_sp needs a model to start from: set init.model",
    ),
    "classes drawn from no shards": Case(
        "train recipe.toml --run-dir exp --optim.sample_classes 0.5",
        r"set (optim\.shard_head) = true",
        names={"optim.shard_head": "--optim.shard_head true"},
    ),
    "a path that is not known": Case(
        "train far.toml --run-dir exp",
        r"or give (--paths\.data DIR)",
        recipe_with("far.toml", paths={"data": "$FARVOX_NOWHERE"}, data={"train": ["$data/train"]}),
        {"DIR": "."},
        of="set the environment variable {}, or give --{} DIR",
    ),
    "a path that is in no variable": Case(
        "train far.toml --run-dir exp",
        r"give (--paths\.data DIR)",
        recipe_with("far.toml", data={"train": ["$data/train"]}),
        {"DIR": "."},
        of="give --paths.{} DIR",
    ),
    "no response that can be used": Case(
        "rirs out --measured responses --jobs 1 --skip-bad",
        r"so that none is left; .*Give others, or repair some",
        lambda: responses(b=0),
        act=lambda: shutil.copy("rirs/room.wav", "responses/b.wav"),
        of="so that none is left; {} names each, the first is {} '{}': {}. Give others, or repair some",
    ),
    "the level of no noise": Case(
        "simulate dev far --jobs 1 --snr 0 5",
        r"--snr is of noise, and none is given: name its folder with (--noise)",
        names={"--noise": "--noise dev"},
        statuses=(2, 0, 0),
    ),
    "an array of measured rooms": Case(
        "rirs out --measured rirs --array linear4",
        r"--array is of rooms that are simulated, and --measured has others; leave it out",
        plain_rirs,
        again="rirs out --measured rirs",
        statuses=(2, 0, 0),
        of="is of rooms that are simulated, and --{} has others; leave it out",
    ),
    "sizes of rooms that are simulated": Case(
        "rirs out --sizes 3",
        r"sizes is of measured responses: name their folder with (--measured)",
        plain_rirs,
        {"--measured": "--measured rirs"},
        statuses=(2, 0, 0),
    ),
    "responses that nobody measured": Case(
        "train far.toml --run-dir exp",
        r"(farvox rirs OUT --measured rirs)",
        plain_rirs,
        {"OUT": "measured"},
        "train far.toml --run-dir exp --augment.rirs '[\"measured\"]'",
        of="measure them: farvox rirs OUT --measured {}",
    ),
    "weights of two toolkits": Case(
        "import theirs.pt out --arch speechbrain-ecapa",
        r"Say (--frontend speechbrain)",
        speechbrain_weights,
        of="Say {}, whichever trained it",
    ),
    "weights of two toolkits, the other": Case(
        "import theirs.pt out --arch speechbrain-ecapa",
        r"or (--frontend 3dspeaker)",
        speechbrain_weights,
        of="--frontend {}",
    ),
    "two persons on the channels": Case(
        "enrol ann call.wav --model bare --store s.sqlite",
        r"(--channel) takes one",
        stereo_of_two,
        {"--channel": "--channel 0"},
    ),
    "little of it is speech": Case(
        "verify --model model voices/b0.wav long.wav --threshold -1 --strict --vad check",
        r"(--vad trim) leaves it out",
        little_speech,
        statuses=(2, 0, 0),
    ),
    "conditions of no data dir": Case(
        "evaluate dev/trials scores --by distance",
        r"name the data dirs that have them with (--data)",
        two_lists,
        {"--data": "--data cond"},
        statuses=(2, 0, 0),
    ),
    "an ONNX file of others": Case(
        "verify --model small.onnx voices/a0.wav voices/a0.wav",
        r"'(farvox export)'",
        foreign_graph,
        {"export": "export model own.onnx"},
        again="verify --model own.onnx voices/a0.wav voices/a0.wav",
        statuses=(2, 0, 0),
    ),
}


def shown(command: str, path: str) -> None:
    """Run a command, and print a file that it wrote."""
    assert run(command) != 0
    print(Path(path).read_text())


def many_channels(count: int = 9, rate: int = 16000) -> None:
    noise_TC = 0.1 * np.random.default_rng(0).standard_normal((3200, count))
    soundfile.write("wide.wav", noise_TC, rate)
    write_data_dir("wide", [Utterance("u", "wide.wav", "s", 3200)])


def flac_ark(missing: int) -> None:
    """A flac file in an ark that lacks its last bytes."""
    soundfile.write("one.flac", read_audio("voices/a0.wav"), 16000)
    content = Path("one.flac").read_bytes()
    whole = b"a0 AUDIO\x08" + len(content).to_bytes(8, "little") + content
    Path("flac.ark").write_bytes(whole[: len(whole) - missing])


def flac(change: Callable[[bytes], bytes] = bytes) -> None:
    soundfile.write("one.flac", read_audio("voices/a0.wav"), 16000)
    Path("one.flac").write_bytes(change(Path("one.flac").read_bytes()))


def cut_while_open(name: str) -> None:
    soundfile.write(name, read_audio("voices/a0.wav"), 16000)
    with open_audio(name) as audio:
        os.truncate(name, 4000)
        audio.read()


def m4a(kept: float = 1.0) -> None:
    """A file of compressed audio that ends after a part of its packets."""
    import av

    wav_T = read_audio("voices/a0.wav")
    with av.open("one.m4a", "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, len(wav_T) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(
                wav_T[None, start : start + 1024], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open("one.m4a") as written:
        places = [packet.pos for packet in written.demux(audio=0) if packet.size]
    if kept < 1:
        os.truncate("one.m4a", places[int(kept * len(places))])


def mapped() -> None:
    map_audio(["one.wav"], sample_rate=16000)


def packed(codec: str = "wav", damage: Callable[[bytearray], object] = lambda content: None) -> None:
    """A packed data dir, whose shard is damaged then; ``kept`` has the shard as it was."""
    assert run(f"pack dev packed --jobs 1 --codec {codec}") == 0
    (shard,) = Path("packed/shards").glob("*.tar")
    shutil.copy(shard, "kept")
    content = bytearray(shard.read_bytes())
    damage(content)
    shard.write_bytes(content)


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def flip(content: bytearray) -> None:
    for at in range(20000, 24000):
        content[at] ^= 0x5A


def mend_shard() -> None:
    (shard,) = Path("packed/shards").glob("*.tar")
    shutil.copy("kept", shard)


def read_packed() -> None:
    for path in DataDir.open("packed").wav_paths:
        read_audio(path)


def speakerless() -> None:
    copy("dev", "bare")
    for name in ("utt2spk", "spk2utt"):
        Path("bare", name).unlink()


def with_column(path: str, header: str, value: str) -> None:
    ids = DataDir.open(path).utt_ids
    Path(path, "utt2age").write_text(f"{header}\n" + "".join(f"{utt_id}\t{value}\n" for utt_id in ids))


def two_headers() -> None:
    for source, out, name in (("dev", "a", "age"), ("train", "b", "years")):
        copy(source, out)
        with_column(out, f"utt_id\t{name}", "30")


def disagreeing() -> None:
    copy("dev", "bad")
    edit("bad/utt2spk", "d0_1 d0\n", "d0_1 d1\n")
    Path("bad/spk2utt").unlink()


def segmented() -> None:
    """A data dir of stretches, one of which begins after the end of its recording."""
    Path("cuts").mkdir()
    Path("cuts/wav.scp").write_text("r voices/a0.wav\n")
    Path("cuts/segments").write_text("u0 r 0.0 0.9\nu1 r 90.0 91.0\n")


def embedded() -> None:
    assert run(f"extract model dev emb {FAST}") == 0


def resaved(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[], object]:
    def make() -> None:
        assert run(f"extract model dev emb --quality {FAST}") == 0
        path = Path("emb", name)
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return make


AGAIN = f"extract model dev emb {FAST}"
CASES |= {
    "a folder that would replace a file": Case(
        f"extract model dev recipe.toml {FAST}",
        r"is a file, and a folder is to be written there; choose another name",
        again=AGAIN,
    ),
    "a folder of other things: another": Case(
        f"extract model dev voices {FAST}",
        r"it is not replaced: choose another name",
        again=AGAIN,
        of="it is not replaced: choose another name, or empty it first",
    ),
    "a folder of other things: emptied": Case(
        f"extract model dev mine {FAST}",
        r"or empty it first",
        lambda: (Path("mine").mkdir(), Path("mine/notes").write_text("x")),
        act=lambda: Path("mine/notes").unlink(),
    ),
    "audio of a name of another format": Case(
        lambda: write_audio("out.mp3", np.zeros(1600)),
        r"choose one of these suffixes",
        again=lambda: write_audio("out.wav", np.zeros(1600)),
    ),
    "too many channels for flac": Case(
        lambda: write_audio("out.flac", np.zeros((9, 1600))),
        r"flac holds 8 channels at most, not 9; write \.wav",
        again=lambda: write_audio("out.wav", np.zeros((9, 1600))),
        of="flac holds {} channels at most, not {}; write .wav",
    ),
    "a truncated ark": Case(
        lambda: read_audio("flac.ark:3"),
        r"copy the ark again",
        lambda: flac_ark(500),
        act=lambda: flac_ark(0),
    ),
    "damaged flac": Case(
        lambda: read_audio("one.flac"),
        r"damaged audio: .*; copy it again",
        lambda: flac(lambda content: content[:9000] + bytes(4000) + content[13000:]),
        act=flac,
        of="damaged audio: {}; copy it again",
    ),
    "an AIFF file that shrinks while it is read": Case(
        lambda: cut_while_open("one.aiff"),
        r"truncated: ends at sample \d+ of \d+; copy it again",
        again=lambda: read_audio("one.aiff"),
        act=lambda: soundfile.write("one.aiff", read_audio("voices/a0.wav"), 16000),
        of="truncated: ends at sample {} of {}; copy it again",
    ),
    "a wav file that shrinks while it is read": Case(
        lambda: cut_while_open("one.wav"),
        r"truncated: ends at sample \d+ of \d+; copy it again",
        again=lambda: read_audio("one.wav"),
        act=lambda: shutil.copy("voices/a0.wav", "one.wav"),
        of="truncated: ends at sample {}; copy it again",
    ),
    "an m4a file that was cut": Case(
        lambda: read_audio("one.m4a"),
        r"truncated: holds only .*; copy it again",
        lambda: m4a(0.6),
        act=m4a,
        of="truncated: holds only {}; copy it again",
    ),
    "a noise that is gone": Case(
        mapped,
        r"bring it back, or leave it out of its data dir",
        act=lambda: shutil.copy("voices/a0.wav", "one.wav"),
    ),
    "a chain of URLs": Case(
        lambda: read_audio(f"simplecache::file://{Path.cwd()}/voices/a0.wav"),
        r"a chain of URLs \(::\) is refused; name the file itself",
        again=lambda: read_audio(f"file://{Path.cwd()}/voices/a0.wav"),
    ),
    "a recording beyond 4 GB": Case(
        lambda: encode(np.broadcast_to(np.int16(0), (2**31, 1)), 16000, "wav"),
        r"longer than a wav file can be \(4 GB\); use flac, or cut it",
        again=lambda: encode(np.zeros((16000, 1), np.int16), 16000, "wav"),
    ),
    "nine channels to pack": Case(
        lambda: shown("pack wide packed --codec flac --jobs 1", "packed/rejected.tsv"),
        r"flac holds 8 channels at most, not 9; use wav",
        many_channels,
        act=lambda: shutil.rmtree("packed"),
        again="pack wide packed --codec wav --jobs 1",
        of="flac holds 8 channels at most, not {}; use wav",
        statuses=(0, 0, 0),
    ),
    "a rate that flac does not have": Case(
        lambda: shown("pack wide packed --codec flac --jobs 1", "packed/rejected.tsv"),
        r"cannot be flac \(.*\); use wav",
        lambda: many_channels(1, 700_000),
        act=lambda: shutil.rmtree("packed"),
        again="pack wide packed --codec wav --jobs 1",
        of="cannot be flac ({}); use wav",
        statuses=(0, 0, 0),
    ),
    "a shard that is cut short": Case(
        read_packed,
        r"the shard is cut short: it ends before this utterance; copy it again",
        lambda: packed(damage=cut),
        act=mend_shard,
    ),
    "a damaged shard of flac": Case(
        read_packed,
        r"'(farvox check --audio)' finds all that is: copy the shard again",
        lambda: packed("flac", flip),
        {"check --audio": "check packed --audio"},
        act=mend_shard,
        statuses=(1, 1, 0),
    ),
    "a shard that is cut short: check": Case(
        "check packed",
        r"which is cut short \(.* bytes\); copy it again",
        lambda: packed(damage=cut),
        act=mend_shard,
        of="which is cut short ({} bytes); copy it again",
    ),
    "a damaged shard": Case(
        "check packed --audio",
        r"differs from its checksum; the shard is damaged: copy it again",
        lambda: packed(damage=flip),
        act=mend_shard,
    ),
    "an ark of features": Case(
        "check arks --audio",
        r"wav\.scp names audio: copy the ark and its wav\.scp again",
        lambda: (
            flac_ark(0),
            Path("arks").mkdir(),
            Path("arks/wav.scp").write_text("a0 flac.ark:5\n"),
        ),
        act=lambda: Path("arks/wav.scp").write_text("a0 flac.ark:3\n"),
    ),
    "a stretch beyond its recording: times": Case(
        "check cuts --audio",
        r"correct its times, or leave it out",
        segmented,
        act=lambda: edit("cuts/segments", "90.0 91.0", "0.5 1.0"),
    ),
    "a stretch beyond its recording: left out": Case(
        "check cuts --audio",
        r"or leave it out",
        segmented,
        act=lambda: edit("cuts/segments", "u1 r 90.0 91.0\n", ""),
        of="correct its times, or leave it out",
    ),
    "a data dir that is mended into one: another": Case(
        "check bad --fix more",
        r"is a data dir already; choose another OUT",
        with_fault,
        again="check bad --fix good",
        of="is a data dir already; choose another OUT, or remove it",
        statuses=(1, 0, 1),
    ),
    "a data dir that is mended into one: removed": Case(
        "check bad --fix good",
        r"or remove it",
        lambda: (with_fault(), copy("dev", "good")),
        act=lambda: shutil.rmtree("good"),
        of="is a data dir already; choose another OUT, or remove it",
        statuses=(1, 0, 1),
    ),
    "one utterance of two speakers": Case(
        "combine out dev bad",
        r"'d0_1' has the speaker_id 'd0' in dev and 'd1' in bad; rename it in one of them",
        disagreeing,
        act=lambda: (
            [edit(f"bad/{name}", "d0_1 ", "d0_9 ") for name in ("utt2spk", "wav.scp")]
            + [edit("bad/utt2num_samples", "d0_1 ", "d0_9 ")]
        ),
        of="rename it in one of them, or leave one of them out",
    ),
    "one utterance of two speakers: without one": Case(
        "combine out dev bad",
        r"or leave one of them out",
        disagreeing,
        again="combine out dev more",
        of="rename it in one of them, or leave one of them out",
    ),
    "a condition in two words": Case(
        "subset two some --where distance=0m --where distance=1m",
        r"distance was given before; write --where distance=VALUE,VALUE",
        lambda: (two_lists(), Path("cond").rename("two")),
        again="subset two some --where distance=0m,1m",
        of="was given before; write {} {}=VALUE,VALUE",
        statuses=(2, 0, 0),
    ),
    "nothing to combine: in Python": Case(
        lambda: combine("out", []),
        r"there is nothing to combine; name at least one data dir",
        again=lambda: combine("out", ["dev"]),
    ),
    "one data dir without speakers": Case(
        "combine out train bare",
        r"give it a utt2spk, or combine only dirs of one kind",
        speakerless,
        act=lambda: shutil.copy("dev/utt2spk", "bare/utt2spk"),
    ),
    "one data dir without speakers: left out": Case(
        "combine out train bare",
        r"or combine only dirs of one kind",
        speakerless,
        again="combine out train dev",
        of="give it a utt2spk, or combine only dirs of one kind",
    ),
    "a part of a data dir in its place": Case(
        "subset mine mine --per-speaker 1",
        "choose another OUT",
        lambda: copy("dev", "mine"),
        again="subset mine some --per-speaker 1",
        of="is the data dir itself, an input of farvox {}; choose another OUT",
    ),
    "a packed data dir in its place": Case(
        "pack mine mine --jobs 1",
        "choose another OUT",
        lambda: copy("dev", "mine"),
        again="pack mine packed --jobs 1",
        of="is the data dir itself, an input of farvox {}; choose another OUT",
    ),
    "conditions that nothing has": Case(
        "subset dev some --where distance=3M",
        r"'(farvox prepare)' writes one for the corpora whose file names hold the conditions",
        lambda: (
            Path("SLR85/train/SPEECHDATA/SV0001").mkdir(parents=True),
            shutil.copy("voices/a0.wav", "SLR85/train/SPEECHDATA/SV0001/SV0001_2_07_F0001.wav"),
        ),
        {"prepare": "prepare himia SLR85 himia"},
        "subset himia/train some --where speed=fast",
        of="'farvox prepare' writes one for the corpora",
    ),
    "no utterance of each speaker": Case(
        "subset dev some --per-speaker 0",
        r"--per-speaker 0: at least 1 is needed",
        again="subset dev some --per-speaker 1",
        of="--per-speaker {}: at least 1 is needed",
    ),
    "speakers that are not there": Case(
        "subset dev some --speakers 3-9",
        r"--speakers 3-9: dev has speakers 1-3; FIRST-LAST counts them from 1",
        again="subset dev some --speakers 1-3",
        of="has speakers 1-{}; FIRST-LAST counts them from 1",
    ),
    "columns of two names": Case(
        "combine out a b",
        r"give both the same columns, or remove one of the files",
        two_headers,
        act=lambda: edit("b/utt2age", "years", "age"),
    ),
    "columns of two names: removed": Case(
        "combine out a b",
        r"or remove one of the files",
        two_headers,
        act=lambda: Path("b/utt2age").unlink(),
        of="give both the same columns, or remove one of the files",
    ),
    "embeddings of fewer utterances": Case(
        "score dev/trials emb --out scores",
        r"8 utterance ids for 9 embeddings; extract them again",
        lambda: (embedded(), edit("emb/utt_ids.txt", "d2_2\n", ""), Path("emb/utt2spk").unlink()),
        act=embedded,
        of="utterance ids for {} embeddings; extract them again",
    ),
    "damaged embeddings": Case(
        "score dev/trials emb --out scores",
        r"damaged embeddings \(.*\); extract them again",
        lambda: (embedded(), os.truncate("emb/embeddings.npy", 300)),
        act=embedded,
        of="damaged embeddings ({}); extract them again",
    ),
    "qualities of fewer utterances": Case(
        lambda: EmbeddingSet(["a"], np.zeros((1, 2), np.float32), {}, np.zeros(2, np.float32)),
        r"2 qualities for 1 utterances; extract them again",
        again=lambda: (run(f"extract model dev emb --quality {FAST}"), EmbeddingSet.load("emb")),
        of="qualities for {} utterances; extract them again",
    ),
    "trials of another data dir": Case(
        lambda: EmbeddingSet.load("emb").rows(["d0_0", "s0_0"]),
        r"'s0_0' has no embedding \(1 such utterances\); extract the data dir that holds it",
        embedded,
        again=lambda: EmbeddingSet.load("emb2").rows(["s0_0"]),
        act=lambda: run(f"extract model train emb2 {FAST}"),
        of="has no embedding ({} such utterances); extract the data dir that holds it",
    ),
    "a line that is not 'utterance speaker'": Case(
        f"extract model bad emb {FAST}",
        r"every line is 'utt_id speaker_id'; '(farvox check bad --fix OUT)' leaves such lines out",
        lambda: (copy("dev", "bad"), edit("bad/utt2spk", "d0_1 d0\n", "d0_1 d0 x\n")),
        {"OUT": "good"},
        f"extract model good emb {FAST}",
        of="'farvox check {} --fix OUT' leaves such lines out",
        statuses=(1, 1, 0),  # "good" lacks an utterance
    ),
    "a text of Windows": Case(
        "check bad",
        r"UTF-16 text, where UTF-8 is expected; convert it: (iconv -f UTF-16 -t UTF-8 bad/wav\.scp > OUT)",
        lambda: (
            copy("dev", "bad"),
            Path("bad/wav.scp").write_bytes(Path("dev/wav.scp").read_text().encode("utf-16")),
        ),
        {"OUT": "utf8"},
        act=lambda: shutil.move("utf8", "bad/wav.scp"),
        of="convert it: iconv -f {} -t UTF-8 {} > OUT",
    ),
    "trials with commas": Case(
        "score bad emb --out scores",
        r"where 2 or 3 are expected; put blanks between columns, not commas: (tr , ' ' < bad > OUT)",
        lambda: (
            embedded(),
            Path("bad").write_text("enroll,test,label\n" + "d0_0,d0_1,True\nd0_0,d1_0,False\n"),
        ),
        {"OUT": "good"},
        "score good emb --out scores",
        of="; put blanks between columns, not commas: tr , ' ' < {} > OUT",
    ),
    "speakers of some utterances": Case(
        lambda: write_data_dir("out", [Utterance("a", "a.wav", "s"), Utterance("b", "b.wav")]),
        r"'b' has no speaker, others have; name all speakers or none",
        again=lambda: write_data_dir("out", [Utterance("a", "a.wav", "s"), Utterance("b", "b.wav", "t")]),
        of="has no speaker, others have; name all speakers or none",
    ),
    "an id that is not UTF-8": Case(
        lambda: write_data_dir("out", [Utterance("a", os.fsdecode(b"\xe9.wav"), "s")]),
        r"which a data dir must be; rename it",
        again=lambda: write_data_dir("out", [Utterance("a", "e.wav", "s")]),
        of="{}: {} is not UTF-8, which a data dir must be; rename it",
    ),
    "samples of more than 16 bits": Case(
        "pack deep packed --exact --jobs 1",
        r"without --exact it is rounded to the nearest",
        lambda: (
            soundfile.write("deep.wav", 0.3 * np.sin(np.arange(3200)), 16000, subtype="PCM_24"),
            write_data_dir("deep", [Utterance("u", "deep.wav", "s", 3200)]),
        ),
        again="pack deep packed2 --jobs 1",
    ),
}


def torn_array() -> None:
    array()
    Path("array/spk2utt").unlink()
    edit("array/utt2spk", "ann_1_1 ann", "ann_1_1 eve")


def short_channel() -> None:
    array()
    write_audio("ben_1_1.wav", read_audio("ben_1_1.wav")[:-4800])


def two_takes() -> None:
    """Two takes of one speaker at one point."""
    array()
    names = ["ann_1_0", "ann_1_1", "ann_2_0", "ann_2_1"]
    utterances = [Utterance(name, f"ann_1_{name[-1]}.wav", "ann", 16000) for name in names]
    rows = "".join(f"{name}\t{name[-1]}\tp\t{name[4]}\n" for name in names)
    write_data_dir("two", utterances, files={"utt2cond": f"utt_id\tchannel\tpoint\tvisit\n{rows}"})


def pauses() -> None:
    """A recording with a noisy pause of three seconds before speech."""
    hiss()
    voice_T = read_audio("voices/a0.wav")
    write_audio("paused.wav", np.concatenate([read_audio("hiss.wav"), voice_T]))
    write_data_dir("paused", [Utterance("u", "paused.wav", "s", None)])


def with_channels() -> None:
    array()
    rows = "".join(f"{utt_id}\t{utt_id[-1]}\n" for utt_id in DataDir.open("array").utt_ids)
    Path("array/utt2cond").write_text("utt_id\tchannel\n" + rows)


def responses(**files: float) -> None:
    """A folder of responses, by the names of their files; 0 is silent."""
    plain_rirs()
    room_T = read_audio("rirs/room.wav")
    for name, gain in files.items():
        path = Path("responses", f"{name.replace('_', '/')}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, gain * room_T)


def half_silent() -> None:
    Path("responses").mkdir()
    room_T = read_audio("rirs/room.wav")
    write_audio("responses/z.wav", np.stack([room_T, 0 * room_T]))


def silent_dir(name: str) -> None:
    plain_rirs()
    write_audio("silent.wav", np.zeros(16000))
    hiss()
    files = {"quiet": "silent.wav", "loud": "hiss.wav"}
    write_data_dir(name, [Utterance(utt_id, path, "s", None) for utt_id, path in files.items()])
    for utt_id, path in files.items():
        write_data_dir(utt_id, [Utterance(utt_id, path, "s", None)])


def placed(*names: str) -> None:
    """The recording of a voice under other names."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("voices/a0.wav", name)


HALF = "--group '.*_(?P<channel>[0-9])' --jobs 1 --allow-missing-channels"
SPEECH = "SLR85/train/SPEECHDATA"
CASES |= {
    "nothing to enhance": Case(
        f"enhance array enhanced {HALF}",
        r"nothing to do: choose a (--beamform)",
        array,
        {"--beamform": "--beamform mvdr"},
        of="nothing to do: choose a --beamform, or --wpe, or both",
        statuses=(2, 0, 0),
    ),
    "channels of several lengths": Case(
        f"enhance array enhanced --beamform mvdr {HALF}",
        r"a larger --tolerance with another OUT cuts all to the shortest",
        short_channel,
        again=f"enhance array enhanced2 --tolerance 0.5 --beamform mvdr {HALF}",
        of="one is damaged (a larger --tolerance with another OUT cuts all to the shortest)",
    ),
    "no group of the channel": Case(
        "enhance array enhanced --beamform mvdr --group '.*_[0-9]' --jobs 1 --allow-missing-channels",
        r"needs one named group, \(\?P<channel>\.\.\.\), around the channel",
        array,
        again=f"enhance array enhanced --beamform mvdr {HALF}",
        of="needs one named group, (?P<channel>...), around the channel",
        statuses=(2, 0, 0),
    ),
    "a pattern that is none": Case(
        "enhance array enhanced --beamform mvdr --group '(' --jobs 1",
        r"not a regular expression",
        array,
        again=f"enhance array enhanced --beamform mvdr {HALF}",
        of="--group '{}': not a regular expression: {}",
        statuses=(2, 0, 0),
    ),
    "a pattern that fits nothing": Case(
        "enhance array enhanced --beamform mvdr --group 'x(?P<channel>[0-9])' --jobs 1",
        r"fits no utterance; the first is 'ann_1_0'",
        array,
        again=f"enhance array enhanced --beamform mvdr {HALF}",
        of="{}: --group '{}' fits no utterance; the first is '{}'",
    ),
    "takes by no conditions": Case(
        "enhance array enhanced --beamform mvdr --by point --jobs 1",
        r"no such file, and --by names columns of it; use --group instead",
        array,
        again=f"enhance array enhanced --beamform mvdr {HALF}",
    ),
    "takes by their channels": Case(
        "enhance array enhanced --beamform mvdr --by channel --jobs 1 --allow-missing-channels",
        r"distinguishes the channels of a take, not takes; leave it out",
        with_channels,
        again=f"enhance array enhanced --beamform mvdr {HALF}",
    ),
    "one channel twice": Case(
        "enhance two enhanced --beamform mvdr --by point --jobs 1",
        r"--by or --group must distinguish more takes",
        two_takes,
        again="enhance two enhanced --beamform mvdr --by point,visit --jobs 1",
    ),
    "a take of two speakers": Case(
        f"enhance array enhanced --beamform mvdr {HALF}",
        r"are of several speakers; see utt2spk",
        torn_array,
        act=lambda: edit("array/utt2spk", "ann_1_1 eve", "ann_1_1 ann"),
    ),
    "a folder begun with other settings: another": Case(
        f"enhance array enhanced --beamform mvdr {HALF}",
        r"choose another name, or remove .*enhanced to begin again",
        lambda: (array(), run(f"enhance array enhanced --beamform delay-and-sum {HALF}")),
        again=f"enhance array enhanced2 --beamform mvdr {HALF}",
        of="choose another name, or remove {} to begin again",
    ),
    "a folder begun with other settings: removed": Case(
        f"enhance array enhanced --beamform mvdr {HALF}",
        r"or remove .*enhanced to begin again",
        lambda: (array(), run(f"enhance array enhanced --beamform delay-and-sum {HALF}")),
        act=lambda: shutil.rmtree("enhanced"),
        of="choose another name, or remove {} to begin again",
    ),
    "no pause as long as that": Case(
        "noises paused found --least 100 --jobs 1",
        r"no recording has 100 s without speech; lower --least with another OUT",
        pauses,
        again="noises paused found2 --least 0.5 --jobs 1",
        of="s without speech; lower --least with another OUT, or take longer recordings",
    ),
    "a response that is silent": Case(
        "rirs measured --measured responses --jobs 1",
        r"not an impulse response \(all zeros\); leave it out",
        lambda: responses(a=1, b=0),
        act=lambda: Path("responses/b.wav").unlink(),
        again="rirs measured2 --measured responses --jobs 1",
    ),
    "two responses of one name": Case(
        "rirs measured --measured responses --jobs 1",
        r"two responses have one name; give one of the files another",
        lambda: (
            responses(a=1),
            shutil.copy("responses/a.wav", "responses/x y.wav"),
            shutil.copy("responses/a.wav", "responses/x_y.wav"),
        ),
        act=lambda: Path("responses/x_y.wav").rename("responses/b.wav"),
    ),
    "a response whose name is not UTF-8": Case(
        "rirs measured --measured responses --jobs 1",
        r"not UTF-8, which a data dir must be; rename the file",
        lambda: (responses(a=1), Path("responses/a.wav").rename(os.fsdecode(b"responses/\xe9.wav"))),
        act=lambda: Path(os.fsdecode(b"responses/\xe9.wav")).rename("responses/e.wav"),
    ),
    "a silent utterance": Case(
        "simulate both far --rirs rirs --jobs 1",
        r"it is silent; leave it out",
        lambda: silent_dir("both"),
        again="simulate loud far2 --rirs rirs --jobs 1",
    ),
    "silent noise": Case(
        "simulate loud far --rirs rirs --noise quiet --jobs 1",
        r"cuts of noise were silent, the last one of .*; give other noise",
        lambda: silent_dir("both"),
        again="simulate loud far2 --rirs rirs --noise loud --jobs 1",
        of="cuts of noise were silent, the last one of {}; give other noise",
    ),
    "speech in the place of responses": Case(
        "simulate loud far --rirs dev --jobs 1",
        r"give noise, music and speech as (--noise)",
        lambda: silent_dir("both"),
        {"--noise": "--noise dev"},
        again="simulate loud far2 --rirs rirs --jobs 1",
        of="give noise, music and speech as {}",
    ),
    "a response of a silent channel": Case(
        "simulate loud far --rirs responses --jobs 1",
        r"channel 1 is silent; leave it out",
        lambda: (silent_dir("both"), half_silent()),
        act=lambda: (shutil.copy("rirs/room.wav", "responses"), Path("responses/z.wav").unlink()),
        again="simulate loud far2 --rirs responses --jobs 1",
        of="response '{}': channel {} is silent; leave it out",
    ),
    "too many mel filters": Case(
        lambda: KaldiFbank(FrontEndConfig(num_mels=500)),
        r"lower num_mels",
        again=lambda: KaldiFbank(FrontEndConfig(num_mels=80)),
        of="mel filters are too many, some would cover no frequency at all; lower num_mels",
    ),
    "a setting that a front-end does not have": Case(
        lambda: FrontEndConfig(kind="ffsvc-mel", dither=1.0),
        r"leave it out, or use kind kaldi-fbank",
        again=lambda: (FrontEndConfig(kind="ffsvc-mel"), FrontEndConfig(kind="kaldi-fbank", dither=1.0)),
    ),
    "a synthetic corpus that is none": Case(
        lambda: parse_spec("large"),
        r"choose demo or tiny, or key=value",
        again=lambda: [parse_spec(text) for text in ("demo", "tiny", "train_speakers=20")],
        of="unknown synthetic corpus '{}': choose {}, or key=value,...",
    ),
    "an exported model for torch": Case(
        "verify --model small.onnx voices/a0.wav voices/a0.wav --backend torch",
        r"which torch does not run: name what it was exported from",
        foreign_graph,
        again="verify --model model voices/a0.wav voices/a0.wav --backend torch",
        statuses=(2, 0, 0),
    ),
    "an exported model to train": Case(
        lambda: find_model("small.onnx"),
        r"name the model that it was exported from",
        foreign_graph,
        again=lambda: find_model("model"),
    ),
    "a folder in the place of an export": Case(
        lambda: refuse_name("a.onnx"),
        r"is a folder, and a file is to be written there; choose another name",
        lambda: Path("a.onnx").mkdir(),
        again=lambda: refuse_name("b.onnx"),
    ),
    "an address that is none": Case(
        lambda: parse_address("huggingface:model.bin"),
        r"write huggingface:OWNER/NAME:FILE or modelscope:OWNER/NAME@REVISION:FILE",
        again=lambda: [parse_address(text) for text in ("huggingface:a/b:c.bin", "modelscope:a/b@v1:c.bin")],
    ),
    "a toolkit that is none of the two": Case(
        "import theirs.pt out --arch speechbrain-ecapa --frontend ffsvc-mel",
        r"does not say what 'speechbrain-ecapa' was trained on: say --frontend speechbrain",
        speechbrain_weights,
        again="import theirs.pt out --arch speechbrain-ecapa --frontend speechbrain",
        of="--frontend {}: does not say what '{}' was trained on: say {}",
    ),
    "two corpora in one folder": Case(
        "prepare himia both out",
        r"several folders have such parts, .*; name the one",
        lambda: placed(*(f"both/{name}/train/SPEECHDATA/SV1/SV1_2_07_F1.wav" for name in ("a", "b"))),
        again="prepare himia both/a out",
        of="several folders have such parts, {} and {}; name the one",
    ),
    "a list of MUSAN of another name": Case(
        "prepare musan mine out",
        r"name it noise_wav_list, music_wav_list or speech_wav_list",
        lambda: Path("mine").write_text(f"{Path.cwd()}/voices/a0.wav\n"),
        act=lambda: Path("mine").rename("noise_wav_list"),
        again="prepare musan noise_wav_list out",
    ),
    "data dirs inside their corpus": Case(
        "prepare folder recordings recordings",
        r"choose an output folder outside of it",
        again="prepare folder recordings out",
    ),
    "data dirs in the place of other things": Case(
        "prepare himia SLR85 out",
        r"already there and not a data dir \(no wav\.scp\); choose another output folder",
        lambda: placed(f"{SPEECH}/SV1/SV1_2_07_F1.wav", "out/train/x.wav"),
        again="prepare himia SLR85 out2",
    ),
    "two files of one id": Case(
        "prepare himia SLR85 out",
        r"keep one of the two files below the corpus folder",
        lambda: placed(f"{SPEECH}/SV1/SV1_2_07_F1.wav", f"{SPEECH}/SV2/SV1_2_07_F1.wav"),
        act=lambda: Path(f"{SPEECH}/SV2/SV1_2_07_F1.wav").unlink(),
    ),
    "a file of another form": Case(
        "prepare ffsvc2020 ffsvc out",
        r"move such files out of the folder",
        lambda: placed(
            "ffsvc/wav/dev/T0549/549PCM1M/T0549_549PCM1M_recorded2_0001_normal.wav",
            "ffsvc/wav/dev/T0549/549PCM1M/notes.wav",
        ),
        act=lambda: Path("ffsvc/wav/dev/T0549/549PCM1M/notes.wav").unlink(),
    ),
    "no official trial list": Case(
        "prepare voxceleb1 vox out",
        r"'(--trials DIR)' says where they are",
        lambda: (
            placed("vox/wav/id10001/abc/00001.wav", "vox/wav/id10002/abc/00001.wav"),
            Path("lists").mkdir(),
            Path("lists/veri_test2.txt").write_text("0 id10001/abc/00001.wav id10002/abc/00001.wav\n"),
        ),
        {"DIR": "lists"},
        of="no official trial list ({}); '--trials DIR' says where they are",
        statuses=(0, 0, 0),
    ),
}


TRAIN = "train recipe.toml --run-dir exp"
LATER = "train recipe.toml --run-dir exp2"
CASES |= {
    "a rate that has ended at 0: a final one": Case(
        f"{TRAIN} --schedule.kind cosine --schedule.extend 1",
        r"set schedule\.final_lr in a new run",
        again=f"{TRAIN} --schedule.kind cosine --schedule.extend 1 --schedule.final_lr 1e-3",
    ),
    "a rate that has ended at 0: more epochs": Case(
        f"{TRAIN} --schedule.kind cosine --schedule.extend 1",
        r"raise schedule\.epochs instead",
        lambda: run(f"{TRAIN} --schedule.kind cosine --schedule.epochs 1"),
        again=f"{TRAIN} --schedule.kind cosine --schedule.epochs 2",
    ),
    "a last epoch below the first": Case(
        f"{TRAIN} --schedule.first_epoch 44 --schedule.epochs 1",
        r"so give the number after the last",
        again=f"{TRAIN} --schedule.first_epoch 44 --schedule.epochs 45",
    ),
    "one end of the margin's growth": Case(
        f"{TRAIN} --schedule.margin_epochs '[1]'",
        r"give the epochs where the margin's growth starts and ends",
        again=f"{TRAIN} --schedule.margin_epochs '[0, 1]'",
    ),
    "no speeds": Case(
        f"{TRAIN} --data.speeds '[]'",
        r"give at least one factor, and none twice",
        again=f"{TRAIN} --data.speeds '[1.0, 1.1]'",
    ),
    "shards of no head": Case(
        f"{LATER} --init.model exp --distill.weight 1 --distill.classify 0 --optim.shard_head true",
        r"leaves no head to train; leave it out",
        trained,
        again=f"{LATER} --init.model exp --distill.weight 1 --distill.classify 0",
    ),
    "shards in fp16": Case(
        f"{TRAIN} --optim.shard_head true --optim.precision fp16",
        r"exclude each other; use 'bf16'",
        again=f"{TRAIN} --optim.shard_head true --optim.precision bf16",
    ),
    "a pair in two passes": Case(
        f"{TRAIN} --agree.weight 1 --optim.batch_size 10 --optim.accumulate 2",
        r"of pairs \(agree\.weight\): set optim\.batch_size to 12",
        again=f"{TRAIN} --agree.weight 1 --optim.batch_size 12 --optim.accumulate 2",
        of="accumulation steps{}: set optim.batch_size to",
    ),
    "compiled and computed again": Case(
        f"{TRAIN} --optim.compile true --optim.checkpointing true",
        r"exclude each other; set one of them",
        again=f"{TRAIN} --optim.checkpointing true",
    ),
    "a teacher of no model": Case(
        f"{LATER} --distill.weight 0.5",
        r"distill\.weight needs a model to start from: set (init\.model)",
        trained,
        {"init.model": "--init.model exp"},
    ),
    "a classifier of no model": Case(
        f"{LATER} --init.classifier keep",
        r"init\.classifier = 'keep' needs a model to start from: set (init\.model)",
        trained,
        {"init.model": "--init.model exp"},
        of="init.classifier = '{}' needs a model to start from: set init.model",
    ),
    "two numbers of mels": Case(
        f"{TRAIN} --features.num_mels 30",
        r"but features\.num_mels = 30: leave it out",
        again=f"{TRAIN} --features.num_mels 30",
        act=lambda: edit(
            "recipe.toml", '[model]\nname = "xvector"\nnum_mels = 24', '[model]\nname = "xvector"'
        ),
        of="but features.num_mels = {}: leave it out",
    ),
    "a dollar sign": Case(
        "train dollar.toml --run-dir exp",
        r"write \$\$ for a dollar sign",
        lambda: (copy("train", "a$ b"), recipe_with("dollar.toml", data={"train": ["a$ b"]})()),
        act=lambda: edit("dollar.toml", "a$ b", "a$$ b"),
    ),
    "nothing to train on": Case(
        f"{TRAIN} --data.train '[]'",
        r"no data dir to train on: set (data\.train)",
        names={"data.train": "--data.train '[\"train\"]'"},
    ),
    "features of another model": Case(
        f"{LATER} --init.model exp --features.num_mels 30",
        r"leave \[features\] out to take the model's",
        trained,
        again=f"{LATER} --init.model exp",
        act=lambda: edit("recipe.toml", "[features]\nnum_mels = 24\n", ""),
    ),
    "means without cosines": Case(
        f"{LATER} --init.model exp --init.classifier means --head.name softmax",
        r"needs a head of cosines: head\.name = 'aam'",
        trained,
        again=f"{LATER} --init.model exp --init.classifier means --head.name aam",
    ),
    "the classifier of a model that has none": Case(
        "train bare.toml --run-dir exp2 --init.model model --init.classifier keep",
        r"needs init\.model to be a run dir",
        lambda: (trained(), without("bare.toml", "model", "features")),
        again="train bare.toml --run-dir exp2 --init.model exp --init.classifier keep",
    ),
    "the classifier of other speakers: extend": Case(
        f"{LATER} --init.model exp --init.classifier keep --data.train '[\"more\"]'",
        r"use 'extend' to add classes",
        trained,
        again=f"{LATER} --init.model exp --init.classifier extend --data.train '[\"more\"]'",
    ),
    "the classifier of other speakers: new": Case(
        f"{LATER} --init.model exp --init.classifier keep --data.train '[\"more\"]'",
        r"or 'new' to start afresh",
        trained,
        again=f"{LATER} --init.model exp --init.classifier new --data.train '[\"more\"]'",
    ),
    "no speaker in common": Case(
        f"{LATER} --init.model exp --init.classifier extend --data.train '[\"dev\"]'",
        r"is in the data dirs \('d0', \.\.\.\); use 'new'",
        trained,
        again=f"{LATER} --init.model exp --init.classifier new --data.train '[\"dev\"]'",
        of="is in the data dirs ('{}', ...); use 'new'",
    ),
    "a start that was changed": Case(
        f"{LATER} --init.model start --schedule.epochs 3",
        r"was changed or removed since: put it back",
        lambda: (started(), retrained()),
        act=lambda: (shutil.rmtree("start"), Path("start.kept").rename("start")),
    ),
    "a start that was changed: another run dir": Case(
        f"{LATER} --init.model start --schedule.epochs 3",
        r"was changed or removed since: put it back, or start another --run-dir",
        lambda: (started(), retrained()),
        again="train recipe.toml --run-dir exp3 --init.model start --schedule.epochs 1",
    ),
    "a start that is another by now": Case(
        f"{LATER} --init.model start --schedule.epochs 2",
        r"which it began with \(start another --run-dir for the other\)",
        lambda: (started(), renewed()),
        again="train recipe.toml --run-dir exp3 --init.model start --schedule.epochs 1",
        of="(start another --run-dir for the other)",
        statuses=(0, 0, 0),
    ),
    "audio that was replaced": Case(
        "train own.toml --run-dir exp --schedule.epochs 2",
        r"put it back, or start another --run-dir",
        replaced,
        again="train own.toml --run-dir exp2 --schedule.epochs 2",
        of="put it back, or start another --run-dir. If only the times",
    ),
    "audio of another time": Case(
        "train own.toml --run-dir exp --schedule.epochs 2",
        r"If only the times of the files have changed, remove exp/audio-time\.npy and resume",
        replaced,
        act=lambda: Path("exp/audio-time.npy").unlink(),
        of="If only the times of the files have changed, remove {} and resume",
    ),
    "a data dir that was changed": Case(
        "train own.toml --run-dir exp --schedule.epochs 2",
        r"or a check of the audio leaves others out: put them back",
        lambda: (own(), edit("own/utt2spk", "s0_1 s0", "s0_1 s1"), Path("own/spk2utt").unlink()),
        act=lambda: edit("own/utt2spk", "s0_1 s1", "s0_1 s0"),
    ),
    "one example a pass: batch": Case(
        "train bare.toml --run-dir exp --optim.batch_size 2 --optim.accumulate 2 --model.name ecapa",
        r"set optim\.batch_size to 4 or more",
        bare_recipe,
        again="train bare.toml --run-dir exp --optim.batch_size 4 --optim.accumulate 2 --model.name ecapa",
        of="set optim.batch_size to {} or more{}{}",
    ),
    "NaN: rate": Case(
        f"{TRAIN} --optim.lr 1e30",
        r"Lower (optim\.lr)",
        names={"optim.lr": "--optim.lr 0.01"},
    ),
    "bf16 that is imitated": Case(
        f"{TRAIN} --optim.precision bf16",
        r"which is slow: take auto",
        lambda: os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2"),
        again="train recipe.toml --run-dir exp2 --optim.precision auto",
        statuses=(0, 0, 0),
    ),
    "no room impulse responses for a range": Case(
        f"{TRAIN} --augment.kind farvox --augment.noise '[\"dev\"]' --augment.rir_t60 '[0.1, 0.5]'",
        r"and none are used; give rirs",
        plain_rirs,
        again=f"{TRAIN} --augment.rirs '[\"rirs\"]' --augment.noise '[\"dev\"]'",
    ),
    "nothing to augment with": Case(
        f"{TRAIN} --augment.kind farvox",
        r"give data dirs of rirs, noise, music or speech",
        again=f"{TRAIN} --augment.kind farvox --augment.noise '[\"dev\"]'",
    ),
    "nothing to augment with: none": Case(
        f"{TRAIN} --augment.kind farvox",
        r"or take 'none'",
        again=f"{TRAIN} --augment.kind none",
    ),
    "a fixed mixture": Case(
        f"{TRAIN} --augment.kind ffsvc --augment.noise '[\"dev\"]' --augment.music '[\"dev\"]'"
        " --augment.rirs '[\"rirs\"]' --augment.noise_probability 0.5",
        r"does not use noise_probability; leave it out",
        plain_rirs,
        again=f"{TRAIN} --augment.kind ffsvc --augment.noise '[\"dev\"]' --augment.music '[\"dev\"]'"
        " --augment.rirs '[\"rirs\"]'",
        of="does not use {}; leave it out",
    ),
    "no response in range": Case(
        "train far.toml --run-dir exp --augment.rirs '[\"measured\"]' --augment.rir_t60 '[5.0, 6.0]'",
        r"no RIR has t60 5 to 6; widen the range",
        lambda: (plain_rirs(), run("rirs measured --measured rirs")),
        again="train far.toml --run-dir exp --augment.rirs '[\"measured\"]' --augment.rir_t60 '[0.01, 6.0]'",
        of="no RIR has {}; widen the range",
    ),
}


def labelled_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors: dict[str, object] = {f"u{n}": rng.standard_normal(8).astype(np.float32) for n in range(6)}
    np.save("vectors.npy", np.array(vectors))


def extracted() -> None:
    assert run(f"extract model dev emb {FAST}") == 0


def of_six() -> None:
    """Embeddings of six speakers."""
    embeddings_NE = np.repeat(np.eye(6, 16), 5, axis=0)
    embeddings_NE += 0.05 * np.random.default_rng(0).standard_normal(embeddings_NE.shape)
    ids = [f"u{n:02}" for n in range(len(embeddings_NE))]
    EmbeddingSet(ids, embeddings_NE.astype(np.float32), {"data_dir": "x"}).save("six")


def normalised() -> None:
    with_trials()
    bare_model_with_scores()
    Path("scores").unlink()
    assert run("score dev/trials emb --norm s-norm --cohort emb --out scores") == 0


CASES |= {
    "drops of no fix": Case(
        "check bad --allow-drops",
        r"farvox check: --allow-drops is of (--fix OUT)",
        with_drop,
        {"OUT": "good"},
        statuses=(2, 0, 0),
    ),
    "nothing to combine": Case(
        "combine out",
        r"farvox combine: name at least one data dir after OUT",
        again="combine out dev",
        statuses=(2, 0, 0),
    ),
    "all pairs and a number of them": Case(
        "trials dev list --all-pairs --num-nontarget 5",
        r"farvox trials: --all-pairs and --num-nontarget exclude each other",
        again="trials dev list --num-nontarget 5",
        statuses=(2, 0, 0),
    ),
    "an utterance against itself, in a check": Case(
        "check dev --trials self",
        r"remove them, or add (--allow-self)",
        lambda: Path("self").write_text("1 d0_0 d0_0\n0 d0_0 d1_0\n"),
    ),
    "an utterance against itself, removed": Case(
        "check dev --trials self",
        r"remove them, or add --allow-self",
        lambda: Path("self").write_text("1 d0_0 d0_0\n0 d0_0 d1_0\n"),
        act=lambda: edit("self", "1 d0_0 d0_0\n", ""),
    ),
    "an utterance against itself, scored": Case(
        "score self emb --out scores",
        r"remove them, or add (--allow-self) \(in a recipe: allow_self = true\)",
        lambda: (extracted(), Path("self").write_text("1 d0_0 d0_0\n0 d0_0 d1_0\n")),
    ),
    "options of a model for embeddings": Case(
        "import vectors.npy out --arch ffsvc-embeddings --epoch 3",
        r"--frontend, --spk2utt and --epoch are of a model; leave them out",
        labelled_vectors,
        again="import vectors.npy out --arch ffsvc-embeddings",
        statuses=(2, 0, 0),
    ),
    "all channels of an extraction": Case(
        f"extract model dev emb --channel all {FAST}",
        r"--channel all: it is most-speech or a number from 0",
        again=f"extract model dev emb --channel 0 {FAST}",
        of="--channel {}: it is most-speech or a number from 0",
        statuses=(2, 0, 0),
    ),
    "a channel of that name": Case(
        f"enrol ann voices/a0.wav {MODEL} --channel left",
        r"--channel left: it is all, most-speech or a number from 0",
        again=f"enrol ann voices/a0.wav {MODEL} --channel most-speech",
        of="--channel {}: it is all, most-speech or a number from 0",
        statuses=(2, 0, 0),
    ),
    "a word that is no field": Case(
        f"{TRAIN} optim.lr 0.02",
        r"'optim\.lr' is not of the form --field\.name VALUE",
        again=f"{TRAIN} --optim.lr 0.02",
        of="'{}' is not of the form --field.name VALUE",
        statuses=(2, 0, 0),
    ),
    "a plot of another kind": Case(
        "evaluate dev/trials scores --plot det.jpg",
        r"--plot det\.jpg: a plot is a \.png, \.svg or \.pdf file",
        with_trials,
        again="evaluate dev/trials scores --plot det.svg",
        of="--plot {}: a plot is a .png, .svg or .pdf file",
        statuses=(2, 0, 0),
    ),
    "nobody to enrol": Case(
        f"enrol ann {MODEL}",
        r"no recordings: (farvox enrol NAME FILE)\.\.\.",
        names={"NAME": "ann", "FILE": f"voices/a0.wav {MODEL}"},
        again=f"identify voices/a0.wav {MODEL}",
        of="no recordings: farvox enrol NAME FILE...",
        statuses=(2, 0, 0),
    ),
    "nobody to identify": Case(
        f"identify {MODEL}",
        r"no recording: (farvox identify FILE)",
        enrolled,
        {"FILE": f"voices/a0.wav {MODEL}"},
        f"identify voices/a0.wav {MODEL}",
        statuses=(2, 0, 0),
    ),
    "no candidate": Case(
        f"identify voices/a0.wav {MODEL} --top 0",
        r"--top: at least 1",
        enrolled,
        again=f"identify voices/a0.wav {MODEL} --top 1",
        statuses=(2, 0, 0),
    ),
    "a serious note": Case(
        "verify --model model long.wav long.wav --strict --vad check",
        r"none: a note is serious \(--strict\)",
        little_speech,
        again="verify --model model long.wav long.wav --vad check",
        statuses=(2, 0, 0),
    ),
    "more clusters than utterances": Case(
        "cluster emb out --clusters 50",
        r"50 clusters of 9 utterances: ask for fewer",
        extracted,
        again="cluster emb out --clusters 3",
        of="{} clusters of {} utterances: ask for fewer",
    ),
    "an elbow of two": Case(
        "cluster emb out --clusters 2:4:1",
        r"clusters = '2:4:1': an elbow needs at least three ascending numbers; give a wider range",
        extracted,
        again="cluster emb out --clusters 2:6:1",
        of="clusters = '{}': an elbow needs at least three ascending numbers; give a wider range",
        statuses=(2, 0, 0),
    ),
    "an elbow of two: one": Case(
        "cluster emb out --clusters 2:4:1",
        r"three ascending numbers; give a wider range, or one number",
        extracted,
        again="cluster emb out --clusters 3",
        statuses=(2, 0, 0),
    ),
    "an elbow at the edge": Case(
        "cluster six out --clusters 2:7:1",
        r"the elbow is at the edge of the range: try a wider one",
        of_six,
        again="cluster six out2 --clusters 2:12:1",
        statuses=(0, 0, 0),
    ),
    "an elbow of two points": Case(
        lambda: find_elbow([2, 4], [0.5, 0.6]),
        r"at least three ascending numbers of clusters, not \[2\.0, 4\.0\]; give a wider range",
        again=lambda: find_elbow([2, 4, 6, 8], [0.5, 0.6, 0.62, 0.63]),
        of="an elbow needs at least three ascending numbers of clusters, not {}; give a wider range",
    ),
    "k-means of too few": Case(
        lambda: kmeans(np.eye(3, dtype=np.float32), 4, seed=0),
        r"ask for at least 1, and at most as many as there are utterances",
        again=lambda: kmeans(np.eye(3, dtype=np.float32), 3, seed=0),
    ),
    "labels of other utterances": Case(
        lambda: purity([1, 1, 2], [1, 2]),
        r"cannot be compared: give one label an utterance in each",
        again=lambda: purity([1, 1, 2], [1, 2, 2]),
    ),
    "a score that is no number": Case(
        lambda: det_curve([0.1, np.nan, 0.3], [0, 0, 1]),
        r"score 2 is nan: every score must be a finite number",
        again=lambda: det_curve([0.1, 0.2, 0.3], [0, 0, 1]),
        of="score {} is {}: every score must be a finite number",
    ),
    "normalised scores for a card": Case(
        "calibrate dev/trials scores --far 0.5 --model bare",
        r"score with '(farvox score)' without norm, centre and plda",
        normalised,
        {"score": "score dev/trials emb --out cosines"},
        "calibrate dev/trials cosines --far 0.5 --model bare",
        of="score with 'farvox score' without norm, centre and plda",
    ),
    "scores of another model for a card": Case(
        "calibrate dev/trials scores --far 0.5 --model exp",
        r"score with embeddings of the model whose card this is",
        lambda: (with_trials(), trained()),
        act=lambda: (run(f"extract exp dev emb2 {FAST}"), run("score dev/trials emb2 --out scores2")),
        again="calibrate dev/trials scores2 --far 0.5 --model exp",
    ),
    "two ways to group": Case(
        f"enhance array enhanced {GROUP} --by take --allow-missing-channels",
        r"--group and --by are two ways to say the same; give one of them",
        array,
        again=f"enhance array enhanced {GROUP} --allow-missing-channels",
        statuses=(2, 0, 0),
    ),
    "two sources of speakers": Case(
        "evaluate dev/trials scores --intervals --trial-speakers dev --speaker-before _",
        r"the speakers come from --trial-speakers or from --speaker-before, not from both",
        with_trials,
        again="evaluate dev/trials scores --intervals --speaker-before _",
        statuses=(2, 0, 0),
    ),
    "too few non-target trials: a higher rate": Case(
        "calibrate dev/trials scores --far 0.001",
        r"or more are needed; add some or ask for a higher rate",
        with_trials,
        again="calibrate dev/trials scores --far 0.5",
    ),
}


def set_of(out: str, ids: str, spread: float = 1.0) -> None:
    """Embeddings of these utterances; all alike without ``spread``."""
    rng, names = np.random.default_rng(0), ids.split()
    embeddings_NE = np.ones((len(names), 16), np.float32)
    embeddings_NE += spread * rng.standard_normal(embeddings_NE.shape, np.float32)
    EmbeddingSet(names, embeddings_NE, {"data_dir": "x"}).save(out)


def scores_of(path: str, lines: str) -> Callable[[], object]:
    return lambda: (with_trials(), Path(path).write_text(lines))


def apart() -> None:
    """Two sides without a channel of the same number."""
    set_of("arr", "ann_1_0 ann_1_1 ben_1_2 ben_1_3 cy_1_0 cy_1_1 cy_1_2 cy_1_3")
    Path("list").write_text("0 ann_1 ben_1\n1 ann_1 cy_1\n")


def halves() -> None:
    """Two takes of two channels; the channels of one have their quality."""
    array()
    Path("list").write_text("0 ann_1 ben_1\n")
    for speakers, name in (("1-1", "e1"), ("2-2", "e2")):
        assert run(f"subset array part-{name} --speakers {speakers}") == 0
    assert run(f"extract model part-e1 e1 --quality {FAST}") == 0
    assert run(f"extract model part-e2 e2 {FAST}") == 0


def of_two_models() -> None:
    with_trials()
    trained()
    assert run(f"extract exp more others {FAST}") == 0


def two_channels() -> None:
    """A list as NIST writes it, with a side of the second channel of a call."""
    stereo_of_two()
    calls = [Utterance(name, f"voices/{name}.wav", None, 1) for name in ("a0", "b0")]
    write_data_dir("calls", [*calls, Utterance("call", "call.wav", None, 1)])
    Path("list.tsv").write_text("modelid\tsegmentid\tside\na0\tcall\ta\na0\tcall\tb\n")


def second_channel() -> None:
    wav_TC, rate = soundfile.read("call.wav")
    soundfile.write("call-b.wav", wav_TC[:, 1], rate)
    with open("calls/wav.scp", "a") as file:
        file.write("call-b call-b.wav\n")
    Path("calls/utt2num_samples").unlink()
    edit("list.tsv", "call\tb", "call-b\ta")
    assert run(f"extract model calls emb {FAST}") == 0


def without_any_speaker() -> None:
    copy("dev", "bad")
    Path("bad/utt2spk").unlink()
    Path("bad/spk2utt").unlink()
    recipe_with("bad.toml", data={"train": ["bad"]})()


EVALUATE = "evaluate dev/trials scores"
CASES |= {
    "a list of no rule: leave it out": Case(
        "score dev/trials emb --out scores --out-trials list",
        r"--out-trials goes with (--channels expand)",
        extracted,
        of="--out-trials goes with --channels expand",
        statuses=(2, 0, 0),
    ),
    "no embeddings to score": Case(
        "score dev/trials --out scores",
        r"EMBEDDINGS is missing: name at least one folder of embeddings",
        extracted,
        again="score dev/trials emb --out scores",
        statuses=(2, 0, 0),
    ),
    "embeddings of two models": Case(
        "score dev/trials emb --centre others --out again",
        r"extract all with one model",
        of_two_models,
        act=lambda: run(f"extract model more same {FAST}"),
        again="score dev/trials emb --centre same --out again",
    ),
    "two sizes of a cohort": Case(
        "score dev/trials emb --norm as-norm --cohort emb --top 3 --top-percent 50 --out again",
        r"give top or top_percent, not both",
        with_trials,
        again="score dev/trials emb --norm as-norm --cohort emb --top-percent 50 --out again",
        statuses=(2, 0, 0),
    ),
    "a larger cohort": Case(
        "score dev/trials emb --norm as-norm --cohort emb --top 20 --out again",
        r"the cohort has 9 members, and 20 are needed; bring a larger one",
        with_trials,
        act=lambda: run(f"extract model train cohort {FAST}"),
        again="score dev/trials emb --norm as-norm --cohort cohort --top 20 --out again",
        of="{} has {} members, and {} are needed; bring a larger one",
    ),
    "a cohort of copies": Case(
        "score list arr --channels mean-norm --norm s-norm --cohort copies --out again",
        r"the scores of some side against the cohort are all alike: bring another cohort",
        lambda: (
            set_of("arr", "a b"),
            Path("list").write_text("a b\n"),
            set_of("copies", "u v w", 0),
            set_of("cohort", "u v w"),
        ),
        again="score list arr --channels mean-norm --norm s-norm --cohort cohort --out again",
        of="the scores of some side against {} are all alike: bring another cohort",
    ),
    "no channel in common: another rule": Case(
        "score list arr --channels expand --allow-missing-channels --out scores --out-trials list2",
        r"so that 'expand' finds no pair; choose another rule",
        apart,
        again="score list arr --channels mean-norm --allow-missing-channels --out scores",
    ),
    "no channel in common: a map": Case(
        "score list arr --channels expand --allow-missing-channels --out scores --out-trials list2",
        r"so that 'expand' finds no pair; choose another rule, or name one side in a map",
        apart,
        act=lambda: Path("map").write_text("ann_1 ann_1_0 ann_1_1\n"),
        again="score list arr --channels expand --allow-missing-channels --out scores --out-trials list2"
        " --enrol-map map",
    ),
    "half of a side without quality": Case(
        "score list e1 e2 --channels best --out scores",
        r"'(farvox extract --quality)'",
        halves,
        {"extract": f"extract model part-e2 e3 {FAST}"},
        "score list e1 e3 --channels best --out scores",
        of="{} '{}' ({} such utterances): extract with 'farvox extract --quality'",
    ),
    "a channel that another lacks": Case(
        "score list arr --channels mean-norm --out scores",
        r"or let them be counted \('(--allow-missing-channels)'\)",
        lambda: (set_of("arr", "ann_1_0 ann_1_1 ben_1_0"), Path("list").write_text("ann_1 ben_1\n")),
        of="or let them be counted ('--allow-missing-channels')",
    ),
    "an utterance called as its channels": Case(
        "score list arr --channels mean-norm --out scores",
        r"\('farvox score (--channel-ids)'\)",
        lambda: (set_of("arr", "ann_1 ann_1_0 ann_1_1 ben"), Path("list").write_text("ann_1 ben\n")),
        {"--channel-ids": "--channel-ids enrol"},
        of="say which side means channels ('farvox score --channel-ids')",
    ),
    "the second channel of a call": Case(
        "score list.tsv emb --out scores",
        r"write the other as a file of its own, with side 'a'",
        lambda: (two_channels(), run(f"extract model calls emb {FAST}")),
        act=second_channel,
    ),
    "speakers that the ids do not hold": Case(
        f"{EVALUATE} --intervals --speaker-before -",
        r"so that its speaker is not in its name; give data dirs with (--trial-speakers)",
        with_trials,
        {"--trial-speakers": ""},
        f"{EVALUATE} --intervals --trial-speakers dev",
        of="give data dirs with --trial-speakers",
    ),
    "a condition that is not there": Case(
        f"{EVALUATE} --by room --conditions cond",
        r"--by room: no such condition; there are distance",
        two_lists,
        again=f"{EVALUATE} --by distance --conditions cond",
        of="--by {}: no such condition{}",
        statuses=(2, 0, 0),
    ),
    "scores between two labels": Case(
        "evaluate list four",
        r"the last two columns both look like labels; leave the labels out",
        lambda: (
            Path("list").write_text("1 a b\n0 a c\n"),
            Path("four").write_text("a b 1 1\na c 0 0\n"),
        ),
        act=lambda: Path("four").write_text("a b 1\na c 0\n"),
    ),
    "a score of an embedding that is none": Case(
        lambda: write_scores("scores", read_trials("list"), [0.5, np.nan]),
        r"list:2: the score of this trial is nan; look at the embeddings of its two sides",
        lambda: Path("list").write_text("1 a b\n0 a c\n"),
        again=lambda: write_scores("scores", read_trials("list"), [0.5, 0.1]),
        of="{}: the score of this trial is {}; look at the embeddings of its two sides",
    ),
    "damaged facts of scores: delete": Case(
        EVALUATE,
        r"scores\.meta\.json: cannot be read \(.*\); delete it",
        scores_of("scores.meta.json", "{"),
        act=lambda: Path("scores.meta.json").unlink(),
        of="{}: cannot be read ({}); delete it, or score again",
    ),
    "damaged facts of scores: again": Case(
        EVALUATE,
        r"delete it, or score again",
        scores_of("scores.meta.json", "{"),
        act=lambda: run("score dev/trials emb --out scores"),
        of="{}: cannot be read ({}); delete it, or score again",
    ),
    "labels first and last": Case(
        "check ones --trials list",
        r"name the columns in a first line, as 'label enrol test'",
        lambda: (
            write_data_dir("ones", [Utterance(f"{n}", "voices/a0.wav", f"{n}", 1) for n in range(2)]),
            Path("list").write_text("0 1 0\n0 0 1\n"),
        ),
        act=lambda: Path("list").write_text("label enrol test\n0 1 0\n0 0 1\n"),
    ),
    "a pair of both labels: correct": Case(
        "check dev --trials list",
        r"correct or remove one of them",
        lambda: Path("list").write_text("1 d0_0 d0_1\n0 d1_0 d0_1\n0 d0_0 d0_1\n"),
        act=lambda: edit("list", "0 d0_0 d0_1", "1 d0_0 d0_1"),
    ),
    "a pair of both labels: remove": Case(
        "check dev --trials list",
        r"such pairs\): correct or remove one of them",
        lambda: Path("list").write_text("1 d0_0 d0_1\n0 d1_0 d0_1\n0 d0_0 d0_1\n"),
        act=lambda: edit("list", "0 d0_0 d0_1\n", ""),
        of="such pairs): correct or remove one of them",
    ),
    "a list whose name is a path": Case(
        "run listed.toml --run-dir exp --to prepare",
        r"give each a name of its own that a file can have",
        lambda: Path("listed.toml").write_text(
            Path("recipe.toml").read_text()
            + '[[evaluate]]\nname = "far/near"\ndata = "dev"\ntrials = "dev/trials"\n'
        ),
        act=lambda: edit("listed.toml", "far/near", "far-near"),
    ),
    "stages the wrong way round": Case(
        "run recipe.toml --run-dir exp --from score --to train",
        r"--from score comes after --to train; the order is prepare train adapt extract score evaluate",
        again="run recipe.toml --run-dir exp --from prepare --to train",
        of="--from {} comes after --to {}; the order is {}",
    ),
    "self-training on nothing": Case(
        "selftrain recipe.toml --run-dir st --init.model exp --selftrain.clusters 3:6:1 --selftrain.rounds 1",
        r"(selftrain\.data) is missing: name the data dir whose speakers are to be found",
        trained,
        {"selftrain.data": "--selftrain.data train"},
        of="selftrain.data is missing: name the data dir whose speakers are to be found",
    ),
    "a data dir of no speakers": Case(
        "train bad.toml --run-dir exp",
        r"training needs utt2spk or spk2utt: run '(farvox check)' on it",
        without_any_speaker,
        {"check": "check bad"},
        act=lambda: shutil.copy("dev/utt2spk", "bad/utt2spk"),
        of="training needs utt2spk or spk2utt: run 'farvox check' on it",
    ),
}


def loudness(path: str, gain: float) -> Callable[[], object]:
    """Writes a recording so many times as loud, cut off at full scale."""
    return lambda: write_audio(path, np.clip(gain * read_audio("voices/a0.wav"), -1, 1))


def telephone() -> None:
    """A recording with nothing above 3 kHz, as a data dir as well."""
    spectrum_F = np.fft.rfft(wav_T := read_audio("voices/a0.wav"))
    spectrum_F[len(spectrum_F) * 3 // 8 :] = 0
    write_audio("narrow.wav", np.fft.irfft(spectrum_F, len(wav_T)))
    write_data_dir("narrow", [Utterance("n", "narrow.wav", None, len(wav_T))])


def silent_first() -> None:
    """A recording whose first channel holds no speech."""
    wav_T = read_audio("voices/a0.wav")
    hiss_T = 1e-3 * np.random.default_rng(0).standard_normal(len(wav_T))
    soundfile.write("late.wav", np.stack([hiss_T, wav_T], axis=1), 16000)
    write_data_dir("late", [Utterance("n", "late.wav", None, len(wav_T))])


def broken_store() -> None:
    enrolled()
    shutil.copy("store.sqlite", "store.kept")
    with open("store.sqlite", "r+b") as file:
        file.truncate(5000)


def older_store() -> None:
    enrolled()
    shutil.copy("store.sqlite", "store.kept")
    assert run(f"enrol ben voices/b0.wav {MODEL}") == 0
    shutil.copy("store.sqlite", "store.newest")
    shutil.copy("store.kept", "store.sqlite")


def zero_template() -> None:
    enrolled()
    db = sqlite3.connect("store.sqlite")
    db.execute("UPDATE enrolment SET template = zeroblob(length(template))")
    db.commit()
    db.close()


SAME = "verify --model model {0} {0}"
IDENTIFY = f"identify voices/a0.wav {MODEL}"
NOTES = "enrol ann voices/b0.wav --model model --store notes"
CASES |= {
    "recordings by telephone": Case(
        f"extract model narrow emb {FAST}",
        r"strangers among them score higher, others lower; (--band narrow) compares all alike",
        telephone,
        again=f"extract model narrow emb2 {FAST}",
        of="strangers among them score higher, others lower; --band narrow compares all alike",
        statuses=(0, 0, 0),
    ),
    "speech in the other channel": Case(
        f"extract model late emb {FAST}",
        r"(--channel most-speech) takes that",
        silent_first,
        again=f"extract model late emb2 {FAST}",
        of="but in another: {}; --channel most-speech takes that",
        statuses=(0, 0, 0),
    ),
    "cut off at full scale": Case(
        SAME.format("loud.wav"),
        r"of its samples are cut off; record at a lower level",
        loudness("loud.wav", 9),
        act=loudness("loud.wav", 1),
        statuses=(0, 0, 0),
    ),
    "faint speech": Case(
        "verify --model model voices/b0.wav faint.wav --threshold -1 --strict",
        r"below full scale: record at a higher level",
        loudness("faint.wav", 0.003),
        act=loudness("faint.wav", 1),
        statuses=(2, 0, 0),
    ),
    "a recording by telephone": Case(
        "verify --model model voices/a0.wav narrow.wav --band full --threshold -1 --strict",
        r"strangers on two such ones score higher; (--band narrow) compares both sides alike",
        telephone,
        again="verify --model model voices/a0.wav narrow.wav --threshold -1 --strict",
        of="strangers on two such ones score higher; --band narrow compares both sides alike",
        statuses=(2, 0, 0),
    ),
    "an array of samples by channels": Case(
        lambda: read_signal((np.stack([read_audio("voices/a0.wav")] * 2, axis=1), 16000)),
        r"an array is \[channels, samples\]: give array\.T",
        again=lambda: read_signal((np.stack([read_audio("voices/a0.wav")] * 2, axis=1).T, 16000)),
    ),
    "nobody asked for": Case(
        lambda: SqliteStore("store.sqlite").best(np.ones(16, np.float32), "d" * 64, top=0),
        r"the best 0 speakers were asked for; ask for at least one",
        again=lambda: SqliteStore("store.sqlite").best(np.ones(16, np.float32), "d" * 64, top=1),
        of="the best {} speakers were asked for; ask for at least one",
    ),
    "enrolled for another band": Case(
        f"{IDENTIFY} --band full --threshold -1",
        r"or for another --band or conditioning: enrol speakers \('(farvox enrol)'\)",
        lambda: run(f"enrol ann voices/a0.wav {MODEL} --band narrow"),
        {"enrol": f"enrol ben voices/a0.wav {MODEL} --band full"},
        of="; {} are with another one, or for another --band or conditioning",
        statuses=(2, 0, 0),
    ),
    "a template of zeros": Case(
        IDENTIFY,
        r"or of a copy from before 'farvox rekey'; forget and enrol it again",
        zero_template,
        act=lambda: (run("forget ann --store store.sqlite"), enrolled()),
        statuses=(2, 0, 0),
    ),
    "an older copy of a store: the newest": Case(
        IDENTIFY,
        r"it is damaged, or an older copy; bring back the newest one",
        older_store,
        act=lambda: shutil.copy("store.newest", "store.sqlite"),
        statuses=(2, 0, 0),
    ),
    "an older copy of a store: without the others": Case(
        "speakers --store store.sqlite",
        r"go on without them \('(farvox rekey)'\)",
        older_store,
        {"rekey": "rekey --store store.sqlite"},
        of="bring back the newest one, or go on without them ('farvox rekey')",
    ),
    "days of the past": Case(
        "sweep -1 --store store.sqlite",
        r"give 0 or more, such as (farvox sweep 365)",
        enrolled,
        {"365": "365 --store store.sqlite"},
        "sweep 1 --store store.sqlite",
        statuses=(2, 0, 0),
    ),
    "a damaged store: its copy": Case(
        IDENTIFY,
        r"it is damaged: bring back a copy of it",
        broken_store,
        act=lambda: shutil.copy("store.kept", "store.sqlite"),
        statuses=(2, 0, 0),
    ),
    "a damaged store: away": Case(
        IDENTIFY,
        r"bring back a copy of it, or move it away and enrol again",
        broken_store,
        act=lambda: (Path("store.sqlite").rename("broken"), enrolled()),
        statuses=(2, 0, 0),
    ),
    "another file as a store: place": Case(
        NOTES,
        r"it is not a store of speakers: choose another place",
        lambda: Path("notes").write_text("speakers\n" * 200),
        again=f"{NOTES}2",
    ),
    "another file as a store: away": Case(
        NOTES,
        r"it is not a store of speakers: choose another place, or move it away",
        lambda: Path("notes").write_text("speakers\n" * 200),
        act=lambda: Path("notes").rename("away"),
    ),
    "a folder as a store": Case(
        NOTES,
        r"it is not a file, as a store of speakers is: choose another place",
        lambda: Path("notes").mkdir(),
        again=f"{NOTES}2",
    ),
}


CASES |= {
    "a rate that no audio has": Case(
        SAME.format("slow.wav"),
        r"`(sox -r 16000 slow\.wav mended\.wav)`",
        slow_header,
        again=SAME.format("mended.wav"),
        of="`sox -r 16000 {} mended.wav`",
        statuses=(2, 0, 0),
    ),
    "joined flac files": Case(
        SAME.format("both.flac"),
        r"`(head -c \d+ both\.flac > first\.flac)`",
        lambda: joined("flac"),
        again=SAME.format("first.flac"),
        of="`{} {} > first.flac` and",
        statuses=(2, 0, 0),
    ),
    "joined flac files: the second": Case(
        SAME.format("both.flac"),
        r"and `(tail -c \+\d+ both\.flac > rest\.flac)`",
        lambda: joined("flac"),
        again=SAME.format("rest.flac"),
        of="and `{} {} > rest.flac` part them",
        statuses=(2, 0, 0),
    ),
    "joined ogg files of two rates": Case(
        SAME.format("both.ogg"),
        r"`(tail -c \+\d+ both\.ogg > rest\.ogg)`",
        lambda: joined("ogg"),
        again=SAME.format("rest.ogg"),
        of="`tail -c +{} {} > {}` takes out what follows",
        statuses=(2, 0, 0),
    ),
    "more bytes than the header states": Case(
        SAME.format("more.wav"),
        r"`(head -c \d+ more\.wav > cut\.wav)`",
        more_bytes,
        again=SAME.format("cut.wav"),
        of="`head -c {} {} > cut.{}` leaves them out",
        statuses=(2, 0, 0),
    ),
    "more bytes than the header states, which are audio": Case(
        SAME.format("more.wav"),
        r"`(ffmpeg -ignore_length 1 -i more\.wav mended\.wav)`",
        more_bytes,
        again=SAME.format("mended.wav"),
        of="`ffmpeg -ignore_length 1 -i {} mended.wav`",
        statuses=(2, 0, 0),
    ),
    "two audio tracks": Case(
        SAME.format("two.mka"),
        r"`(ffmpeg -i two\.mka -map 0:a:0 track\.wav)`",
        two_tracks,
        again=SAME.format("track.wav"),
        of="`ffmpeg -i {} -map 0:a:0 track.wav`",
        statuses=(2, 0, 0),
    ),
    "a wav file of a pipe in an ark": Case(
        f"extract model piped emb {FAST}",
        r"`(tail -c \+\d+ audio\.ark > audio\.wav)`",
        piped_ark,
        again=f"{SAME.format('audio.wav')}",
        of="`{}` takes out it and all that follows",
    ),
    "a command in wav.scp": Case(
        "check bad",
        r"`(sox voices/a0\.wav -t wav - gain -3 > decoded-d0_0\.wav)` writes its output: name that",
        with_command,
        act=lambda: edit("bad/wav.scp", "sox voices/a0.wav -t wav - gain -3 |", "decoded-d0_0.wav"),
        of="`{}` writes its output: name that",
    ),
    "a truncated recording": Case(
        SAME.format("cut.wav"),
        r"are missing; copy it again",
        lambda: Path("cut.wav").write_bytes(Path("voices/a0.wav").read_bytes()[:-9000]),
        act=lambda: shutil.copy("voices/a0.wav", "cut.wav"),
        of="truncated: {}; copy it again",
        statuses=(2, 0, 0),
    ),
    "a folder in the place of a recording": Case(
        SAME.format("voices"),
        r"it is a directory; name the audio file",
        again=SAME.format("voices/a0.wav"),
        statuses=(2, 0, 0),
    ),
}


def with_manifest() -> None:
    """A model folder of its own, with a manifest."""
    shutil.copytree("model", "mine")
    assert run("models mine --renew-manifest") == 0


def damaged_manifest() -> None:
    with_manifest()
    shutil.copy("mine/manifest.json", "kept")
    Path("mine/manifest.json").write_text("{")


def noisy_model() -> None:
    """A model whose front-end adds noise."""
    with_manifest()
    dither("mine", 1.0)
    assert run("models mine --renew-manifest") == 0


def dither(folder: str, amount: float) -> None:
    config = json.loads(Path(folder, "config.json").read_text())
    config["frontend"]["dither"] = amount
    Path(folder, "config.json").write_text(json.dumps(config))


def graph(change: Callable[[bytes], bytes]) -> Callable[[], None]:
    """Exports a model, and changes the file."""

    def make() -> None:
        assert run("export model small.onnx") == 0
        Path("small.onnx").write_bytes(change(Path("small.onnx").read_bytes()))

    return make


def without_an_entry(content: bytes) -> bytes:
    import onnx

    proto = onnx.ModelProto.FromString(content)
    del proto.metadata_props[-1:]
    return bytes(proto.SerializeToString())


def without_imitation() -> None:
    os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2")


def pretrained_wavlm() -> None:
    """Microsoft's file of a tiny WavLM, a folder made of it, and a recipe."""
    import torch

    weight = runpy.run_path(str(GOLDEN / "make_models.py"))["weight"]
    theirs = json.loads((GOLDEN / "wavlm.json").read_text())["base"]
    model = {name: weight(name, shape).float() for name, shape in theirs["shapes"].items()}
    torch.save({"cfg": theirs["cfg"], "model": model}, "WavLM-Large.pt")
    table = tomllib.loads(Path("recipe.toml").read_text())
    ecapa = {"channels": 16, "bottleneck": 8, "embedding_dim": 12, "num_mels": 160}
    table["model"] = {"name": "wavlm-ecapa", "wavlm": "$wavlm", **ecapa}
    table["features"] = {"kind": "waveform", "num_mels": 160}
    table["schedule"]["epochs"] = 1
    Path("wavlm.toml").write_text(tomli_w.dumps(table))


def wavlm_folder() -> None:
    pretrained_wavlm()
    assert run("import WavLM-Large.pt wavlm --arch wavlm") == 0


def pickled_wavlm() -> None:
    """A folder as older versions of transformers wrote it."""
    import torch
    from safetensors.torch import load_file

    wavlm_folder()
    torch.save(load_file("wavlm/model.safetensors"), "wavlm/pytorch_model.bin")
    Path("wavlm/model.safetensors").unlink()
    Path("wavlm/manifest.json").unlink()


def save_wavlm() -> None:
    from transformers import WavLMModel

    WavLMModel.from_pretrained("wavlm").save_pretrained("safe")


def wavlm_of(value: object) -> None:
    build_model("wavlm-ecapa", wavlm=value, num_mels=160, channels=16, bottleneck=8, embedding_dim=12)


def shorten_table() -> None:
    """The table of a shard loses its first entry; ``table.kept`` has it whole."""
    (table,) = Path("packed/shards").glob("*.json")
    shutil.copy(table, "table.kept")
    fields = json.loads(table.read_text())
    del fields["utterances"][0]
    table.write_text(json.dumps(fields))


def far_apart() -> None:
    """A take whose second channel is 30 samples later, of a noise that agrees nowhere near 0."""
    noise_T = 0.1 * np.random.default_rng(1).standard_normal(32000)
    for number in (0, 1):
        write_audio(f"ann_1_{number}.wav", noise_T[100 - 30 * number : 24100 - 30 * number])
    names = ["ann_1_0", "ann_1_1"]
    write_data_dir("array", [Utterance(name, f"{name}.wav", "ann", 24000) for name in names])


def with_bf16() -> None:
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    assert run("export model small.onnx") == 0


TUNE = "train wavlm.toml --run-dir exp --paths.wavlm wavlm"
VOX = "vox2/dev/aac/id00012/abc/00001"
FAR = "array apart --beamform mvdr --jobs 1 --allow-missing-channels --group '.*_(?P<channel>[0-9])'"
CASES |= {
    "an output that is not UTF-8": Case(
        f"extract model dev {os.fsdecode(b'emb-%b' % bytes([233]))} {FAST}",
        r"its path is not UTF-8; choose another name or folder",
        again=f"extract model dev emb {FAST}",
    ),
    "a WavLM for a recipe": Case(
        "import WavLM-Large.pt wavlm --arch wavlm",
        r"a WavLM for a recipe \((--paths\.wavlm)\)",
        pretrained_wavlm,
        {"--paths.wavlm": "--paths.wavlm wavlm"},
        "train wavlm.toml --run-dir exp --features.mean none",
        statuses=(0, 0, 0),
    ),
    "a list of another release": Case(
        "prepare ffsvc2022 ffsvc out",
        r"take the list of the same release",
        lambda: (
            placed("ffsvc/dev/ffsvc22_dev_000000.wav", "ffsvc/dev/ffsvc22_dev_000001.wav"),
            Path("ffsvc/dev_meta_list").write_text("T0344_344I1M_1_0307_normal ffsvc22_dev_000000\n"),
        ),
        act=lambda: Path("ffsvc/dev_meta_list").write_text(
            "T0344_344I1M_1_0307_normal ffsvc22_dev_000000\nT0344_344I3M_1_0308_normal ffsvc22_dev_000001\n"
        ),
    ),
    "a recording whose name is not UTF-8": Case(
        lambda: shown("prepare folder odd out", "out/rejected.tsv"),
        r"its path is not UTF-8, which a data dir must be; rename it",
        lambda: placed("odd/a/a0.wav", os.fsdecode(b"odd/a/\xe9.wav")),
        act=lambda: Path(os.fsdecode(b"odd/a/\xe9.wav")).rename("odd/a/e.wav"),
        again="prepare folder odd out",
        statuses=(0, 0, 0),
    ),
    "a format to convert to that is none": Case(
        lambda: prepare_voxceleb2(Path("vox2"), Path("out"), note=print, convert="ogg"),  # type: ignore
        r"the audio can be converted to flac or wav",
        lambda: placed(f"{VOX}.wav"),
        again=lambda: prepare_voxceleb2(Path("vox2"), Path("out"), note=print, convert="flac"),
        of="--convert {}: the audio can be converted to flac or wav",
    ),
    "compressed audio": Case(
        "prepare voxceleb2 vox2 out --jobs 1",
        r"and at each reading; (--convert) does it once",
        lambda: (m4a(), Path(VOX).parent.mkdir(parents=True), Path("one.m4a").rename(f"{VOX}.m4a")),
        {"--convert": "--convert flac"},
        "prepare voxceleb2 vox2 out2 --jobs 1",
        statuses=(0, 0, 0),
    ),
    "a table of checksums without one": Case(
        "check packed --audio",
        r"no checksum of it in \S*\.json; copy that file again",
        lambda: (packed(), shorten_table()),
        act=lambda: shutil.copy("table.kept", next(Path("packed/shards").glob("*.json"))),
        of="no checksum of it in {}; copy that file again",
    ),
    "channels that are far apart": Case(
        f"enhance {FAR} --max-delay 0.1",
        r"or further apart \(a larger --max-delay with another OUT\)",
        far_apart,
        again=f"enhance {FAR.replace('apart', 'apart2')}",
    ),
    "a damaged manifest: copy": Case(
        SAME.format("voices/a0.wav").replace("--model model", "--model mine"),
        r"copy it again from where it came from, or make the model again",
        damaged_manifest,
        act=lambda: shutil.copy("kept", "mine/manifest.json"),
        statuses=(2, 0, 0),
    ),
    "pickled weights": Case(
        TUNE,
        r"with WavLMModel\.from_pretrained\(NAME\)\.save_pretrained\(FOLDER\)",
        pickled_wavlm,
        again=TUNE.replace("paths.wavlm wavlm", "paths.wavlm safe"),
        act=save_wavlm,
    ),
    "pickled weights: Microsoft's": Case(
        TUNE,
        r"'(farvox import WavLM-Large\.pt FOLDER --arch wavlm)'",
        pickled_wavlm,
        {"FOLDER": "wavlm2"},
        TUNE.replace("paths.wavlm wavlm", "paths.wavlm wavlm2"),
        of="'farvox import WavLM-Large.pt FOLDER --arch wavlm'",
    ),
    "a WavLM that is a number: sizes": Case(
        lambda: wavlm_of(7),
        r"give a table of sizes, a folder or a name of huggingface\.co",
        again=lambda: wavlm_of({"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}),
    ),
    "a WavLM that is a number: folder": Case(
        lambda: wavlm_of(7),
        r"give a table of sizes, a folder or a name of huggingface\.co",
        wavlm_folder,
        again=lambda: wavlm_of("wavlm"),
    ),
    "bands of a waveform": Case(
        f"{TUNE} --specaugment.kind ffsvc",
        r"masks bands of mels, and a waveform has none; leave it out",
        wavlm_folder,
        again=TUNE,
        of="[specaugment] masks bands of mels, and a waveform has none; leave it out",
    ),
    "another mean than the weights'": Case(
        f"{TUNE} --features.mean utterance",
        r"but the weights of model\.wavlm were trained with 'none': take that",
        wavlm_folder,
        again="train wavlm.toml --run-dir exp2 --paths.wavlm wavlm --features.mean none",
        of="but the weights of model.wavlm were trained with '{}': take that",
        statuses=(0, 0, 0),
    ),
    "a WavLM to export": Case(
        "export exp wavlm.onnx",
        r"its attention is not written as a graph; use the model folder itself",
        lambda: (wavlm_folder(), run(TUNE)),
        again=f"extract exp dev emb {FAST}",
    ),
    "a precision that onnxruntime has not": Case(
        f"extract model dev emb --backend onnx --precision bf16 {FAST}",
        r"or leave --precision out",
        again=f"extract model dev emb --backend onnx {FAST}",
        of="add --backend openvino, or leave --precision out",
    ),
    "a precision that onnxruntime has not: openvino": Case(
        f"extract small.onnx dev emb --precision bf16 {FAST}",
        r"add (--backend openvino)",
        with_bf16,
        of="add --backend openvino, or leave --precision out",
    ),
    "bf16 that torch imitates": Case(
        f"extract model dev emb --backend torch --precision bf16 {FAST}",
        r"has no bf16, and imitating it is slow: leave --precision out",
        without_imitation,
        again=f"extract model dev emb --backend torch {FAST}",
        of="{} has no bf16, and imitating it is slow: leave --precision out",
    ),
    "a weight for each": Case(
        "average out model model --weights 1",
        r"give a positive weight for each of the 2 models",
        again="average out model model --weights 1 2",
        of="give a positive weight for each of the {} models",
    ),
    "a front-end with noise": Case(
        "export mine small.onnx",
        r"set 'dither' to 0 in the model's config\.json, delete its manifest\.json and export that",
        noisy_model,
        act=lambda: (dither("mine", 0.0), Path("mine/manifest.json").unlink()),
    ),
    "a graph of other words": Case(
        "verify --model small.onnx voices/a0.wav voices/a0.wav",
        r"no ONNX file, or a damaged one; export the model again",
        graph(lambda content: content[: len(content) // 2]),
        act=lambda: run("export model small.onnx"),
        statuses=(2, 0, 0),
    ),
    "a graph without a seal": Case(
        "verify --model small.onnx voices/a0.wav voices/a0.wav",
        r"its metadata lack 'sha256'; export the model again",
        graph(without_an_entry),
        act=lambda: run("export model small.onnx"),
        of="its metadata lack '{}'; export the model again",
        statuses=(2, 0, 0),
    ),
    "a graph that was changed": Case(
        "verify --model small.onnx voices/a0.wav voices/a0.wav",
        r"damaged, or changed since it was exported; export the model again",
        graph(lambda content: content.replace(b"small", b"SMALL", 1)),
        act=lambda: run("export model small.onnx"),
        statuses=(2, 0, 0),
    ),
}


def with_conditions(column: str, *values: str) -> Callable[[], object]:
    """Scores of ``dev``, and the data dir ``cond`` with a condition of its utterances, the values in turn."""

    def make() -> None:
        two_lists()
        rows = (f"d{n // 3}_{n % 3}\t{values[n % len(values)]}\n" for n in range(9))
        Path("cond/utt2cond").write_text(f"utt_id\t{column}\n{''.join(rows)}")

    return make


def with_pairs(header: str) -> Callable[[], object]:
    """The data dir ``cond``, and a table ``pairs`` of the trials."""

    def make() -> None:
        two_lists()
        trials = (line.split() for line in Path("dev/trials").read_text().splitlines())
        Path("pairs").write_text(header + "".join(f"{one}\t{other}\tyes\n" for _, one, other in trials))

    return make


def two_models() -> None:
    """A calibration of scores of one model, and scores of another."""
    with_trials()
    trained()
    assert run("calibrate dev/trials scores --far 0.5 --save fitted.json") == 0
    assert run(f"extract exp dev emb2 {FAST}") == 0
    assert run("score dev/trials emb2 --out scores2") == 0


def two_systems() -> None:
    """Scores of two models, and some that are all alike; of speakers that are not known."""
    with_trials()
    trained()
    assert run(f"extract exp dev emb2 {FAST}") == 0
    assert run("score dev/trials emb2 --out scores2") == 0
    write_scores("flat", read_trials("dev/trials"), np.full(len(read_trials("dev/trials")), 0.5))
    Path("scores.meta.json").unlink()


def without_speakers_of_plda() -> None:
    with_trials()
    assert run(f"extract model train others {FAST}") == 0
    Path("others/utt2spk").unlink()


def one_each() -> None:
    with_trials()
    assert run("subset train each --per-speaker 1") == 0
    assert run(f"extract model each others {FAST}") == 0


def more_of_each() -> None:
    assert run(f"extract model train enough {FAST}") == 0


BY = f"{EVALUATE} --data cond --by"
PLDA = "score dev/trials emb --out again --plda"
FOLDER = "prepare folder mine out --jobs 1 --pattern"
MINE = ("mine/near/ann_a.wav", "mine/far/ann_b.wav")
CASES |= {
    "tables of another kind": Case(
        f"{EVALUATE} --tables figures.doc",
        r"--tables figures\.doc: tables are a \.md or a \.tex file",
        with_trials,
        again=f"{EVALUATE} --tables figures.md",
        of="--tables {}: tables are a .md or a .tex file",
        statuses=(2, 0, 0),
    ),
    "audio of no data dir": Case(
        f"{EVALUATE} --report report --link-audio",
        r"--link-audio goes with --report and with (--data)",
        with_trials,
        {"--data": "--data dev"},
        of="--link-audio goes with --report and with --data",
        statuses=(2, 0, 0),
    ),
    "no scores": Case(
        "evaluate dev/trials",
        r"no scores: name a score file, or several as NAME=SCORES",
        with_trials,
        again="evaluate dev/trials mine=scores again=scores",
        statuses=(2, 0, 0),
    ),
    "two systems of one name": Case(
        f"{EVALUATE} scores",
        r"give each system a name of its own and its scores, each once, as NAME=SCORES",
        with_trials,
        again="evaluate dev/trials one=scores other=scores",
        statuses=(2, 0, 0),
    ),
    "another system beside several": Case(
        "evaluate dev/trials one=scores other=scores --against scores --speaker-before _",
        r"--against is for a single score file: name the other system as NAME=SCORES, too",
        with_trials,
        again="evaluate dev/trials one=scores other=scores third=scores --speaker-before _ --intervals",
        statuses=(2, 0, 0),
    ),
    "a width without a unit": Case(
        f"{EVALUATE} --plot det.pdf --width 8",
        r"--width 8: give 2 to 40 cm, as in 8\.5cm, 85mm or 3\.4in",
        with_trials,
        again=f"{EVALUATE} --plot det.pdf --width 85mm",
        of="--width {}: give 2 to 40 cm, as in 8.5cm, 85mm or 3.4in",
        statuses=(2, 0, 0),
    ),
    "an operating point of two numbers": Case(
        f"{EVALUATE} --dcf 0.05,10",
        r"give the prior of a target trial, as in 0\.05, or the prior and the costs of a miss and of a false"
        r" acceptance, as in 0\.01,10,1",
        with_trials,
        again=f"{EVALUATE} --dcf 0.05 --dcf 0.01,10,1",
        statuses=(2, 0, 0),
    ),
    "data dirs of conditions and no condition": Case(
        f"{EVALUATE} --conditions cond",
        r"--conditions goes with (--by)",
        two_lists,
        {"--by": "--by distance"},
        of="--conditions goes with --by",
        statuses=(2, 0, 0),
    ),
    "edges that are no numbers": Case(
        f"{BY} distance --edges distance=near,far",
        r"edges are numbers, as in duration=1,3,6",
        two_lists,
        again=f"{BY} distance --edges distance=1,2",
        statuses=(2, 0, 0),
    ),
    "edges that fall": Case(
        f"{BY} distance --edges distance=2,1",
        r"each edge is above the one before it",
        two_lists,
        again=f"{BY} distance --edges distance=1,2",
        statuses=(2, 0, 0),
    ),
    "edges of no condition": Case(
        f"{EVALUATE} --data cond --edges distance=1,2",
        r"--edges distance=1,2: there is no (--by distance)",
        two_lists,
        of="--edges {}: there is no --by {}",
        statuses=(2, 0, 0),
    ),
    "edges of a condition that is no number": Case(
        f"{BY} distance --edges distance=1,2",
        r"--edges distance: 'near' is no number, or has another unit than others",
        with_conditions("distance", "1 m", "near", "2 m"),
        act=with_conditions("distance", "1 m", "0.2 m", "2 m"),
        of="--edges {}: '{}' is no number, or has another unit than others",
        statuses=(2, 0, 0),
    ),
    "a gap between words": Case(
        f"{BY} gap.visit",
        r"--by gap\.visit: 'first' is neither a number of the unit of others nor a date \(2026-11-29\)",
        with_conditions("visit", "first", "second"),
        act=with_conditions("visit", "2026-11-28", "2026-11-29"),
        of="--by {}: '{}' is neither a number of the unit of others nor a date (2026-11-29)",
        statuses=(2, 0, 0),
    ),
    "a table of trials without a condition": Case(
        f"{BY} noisy --conditions pairs",
        r"after enrol and test, name each condition once, with tabs between",
        with_pairs("enrol\ttest\t\n"),
        act=with_pairs("enrol\ttest\tnoisy\n"),
        of="{}:1: after enrol and test, name each condition once, with tabs between",
    ),
    "a condition of two tables": Case(
        f"{BY} distance --conditions pairs",
        r"the condition 'distance' is in another table, too; rename it",
        with_pairs("enrol\ttest\tdistance\n"),
        act=with_pairs("enrol\ttest\tnoisy\n"),
        of="{}: the condition '{}' is in another table, too; rename it",
    ),
    "a calibration that is applied and fitted": Case(
        "calibrate dev/trials scores --apply fitted.json --model bare --out llr",
        r"--apply fits nothing, so that there is nothing for --model",
        lambda: (with_trials(), run("calibrate dev/trials scores --far 0.5 --save fitted.json")),
        again="calibrate dev/trials scores --apply fitted.json --out llr",
        statuses=(2, 0, 0),
    ),
    "a fusion that is applied and fitted": Case(
        "fuse dev/trials a=scores --apply fitted.json --save again.json --out llr",
        r"--apply fits nothing, so that there is nothing for --save",
        lambda: (with_trials(), run("fuse dev/trials a=scores --save fitted.json")),
        again="fuse dev/trials a=scores --apply fitted.json --out llr",
        statuses=(2, 0, 0),
    ),
    "a fusion that goes nowhere": Case(
        "fuse dev/trials a=scores --apply fitted.json",
        r"--apply FILE\.json and (--out SCORES) go together",
        lambda: (with_trials(), run("fuse dev/trials a=scores --save fitted.json")),
        {"SCORES": "llr"},
        statuses=(2, 0, 0),
    ),
    "several seeds in a fusion": Case(
        "fuse dev/trials a=scores,scores2",
        r"a: a system has one score file in a fusion; give each seed a name of its own",
        two_systems,
        again="fuse dev/trials a=scores b=scores2",
        of="a system has one score file in a fusion; give each seed a name of its own",
        statuses=(2, 0, 0),
    ),
    "a system twice in a fusion": Case(
        "fuse dev/trials a=scores b=scores",
        r"b says nothing that a does not: leave it out",
        two_systems,
        again="fuse dev/trials a=scores",
        of="{} says nothing that {} does not: leave it out",
    ),
    "a system of one score in a fusion": Case(
        "fuse dev/trials a=scores b=flat",
        r"b is 0\.5 in all trials and says nothing: leave it out",
        two_systems,
        again="fuse dev/trials a=scores",
        of="{} is {} in all trials and says nothing: leave it out",
    ),
    "a copy of no model": Case(
        "calibrate dev/trials scores --far 0.5 --out copy",
        r"--out goes with --apply or (--model)",
        with_trials,
        {"--model": "--model model"},
        of="--out goes with --apply or --model",
        statuses=(2, 0, 0),
    ),
    "a calibration of another model": Case(
        "calibrate dev/trials scores2 --apply fitted.json --out llr",
        r"score with that model",
        two_models,
        again="calibrate dev/trials scores --apply fitted.json --out llr",
    ),
    "PLDA without speakers": Case(
        f"{PLDA} others",
        r"name a data dir or utt2spk \((--plda-speakers)\)",
        without_speakers_of_plda,
        {"--plda-speakers": "--plda-speakers train"},
        of="name a data dir or utt2spk (--plda-speakers)",
    ),
    "PLDA of one recording a speaker": Case(
        f"{PLDA} others",
        r"are no such sample; give several recordings of many speakers",
        one_each,
        act=more_of_each,
        again=f"{PLDA} enough",
    ),
    "PLDA of few recordings": Case(
        f"{PLDA} emb",
        r"they are too few for PLDA; give more",
        with_trials,
        act=more_of_each,
        again=f"{PLDA} enough",
    ),
    "a path of another form: pattern": Case(
        f"{FOLDER} '{{distance}}/{{speaker}}-{{take}}.wav'",
        r"correct the pattern, or move the file out",
        lambda: placed(*MINE),
        again=f"{FOLDER} '{{distance}}/{{speaker}}_{{take}}.wav'",
    ),
    "a path of another form: file": Case(
        f"{FOLDER} '{{distance}}/{{speaker}}_{{take}}.wav'",
        r"correct the pattern, or move the file out",
        lambda: placed(*MINE, "mine/near/test.wav"),
        act=lambda: Path("mine/near/test.wav").rename("test.wav"),
    ),
    "a pattern without a speaker": Case(
        f"{FOLDER} '{{distance}}/ann_{{take}}.wav'",
        r"write \{speaker\} and other names in braces, each once, as in '\{speaker\}/\{device\}",
        lambda: placed(*MINE),
        again=f"{FOLDER} '{{distance}}/{{speaker}}_{{take}}.wav'",
        of="write {speaker} and other names in braces, each once",
    ),
    "a pattern of names that touch": Case(
        f"{FOLDER} '{{distance}}/{{speaker}}{{take}}.wav'",
        r"put a mark between them, or choose another name",
        lambda: placed(*MINE),
        again=f"{FOLDER} '{{distance}}/{{speaker}}_{{take}}.wav'",
    ),
    "a pattern with a name of farvox's": Case(
        f"{FOLDER} '{{distance}}/{{speaker}}_{{line}}.wav'",
        r"put a mark between them, or choose another name",
        lambda: placed(*MINE),
        again=f"{FOLDER} '{{distance}}/{{speaker}}_{{take}}.wav'",
    ),
}


def run(command: str | Callable[[], object]) -> int:
    if isinstance(command, str):
        return main(shlex.split(command))
    try:
        command()
    except FarvoxError as error:
        print(error)
        return 1
    return 0


@pytest.fixture(scope="module")
def run_dir(tiny_recipe, tmp_path_factory):
    """A finished run of the recipe."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe))
    assert main(["train", str(folder / "recipe.toml"), "--run-dir", str(folder / "exp")]) == 0
    return folder / "exp"


@pytest.fixture
def here(tmp_path, monkeypatch, corpus, model_folder, voices, tiny_recipe, run_dir):
    """A user's folder with data dirs, a model, recordings and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARVOX_DATA", str(tmp_path / "user"))
    for name, target in (
        ("dev", corpus / "dev"),
        ("train", corpus / "train"),
        ("more", corpus / "more"),
        ("model", model_folder),
    ):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "voices").symlink_to(voices)
    for name in ("a0", "b0"):
        folder = tmp_path / "recordings" / name[0]
        folder.mkdir(parents=True)
        (folder / f"{name}.wav").symlink_to(voices / f"{name}.wav")
    (tmp_path / "trained").symlink_to(run_dir)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe))
    variables = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(variables)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_remedy_of_a_message_works(here, case, capsys):
    case.make()
    capsys.readouterr()
    first, second, last = case.statuses
    status, printed = run(case.command), " ".join("".join(capsys.readouterr()).split())
    assert status == first, printed
    words = re.compile(re.escape(case.words).replace(r"\{\}", ".*?"))
    assert words.search(printed), printed
    found = re.search(case.remedy, printed)
    assert found, printed
    remedy = found[1] if found.groups() else ""
    for name, value in case.names.items():
        assert name in remedy
        remedy = remedy.replace(name, value)
    again = case.again or case.command
    if remedy.startswith("farvox "):
        assert run(remedy.removeprefix("farvox ")) == second, "".join(capsys.readouterr())
    elif program := PROGRAM.match(remedy):
        if shutil.which(program[0]) is None:
            pytest.skip(f"{program[0]} is not installed")
        subprocess.run(remedy, shell=True, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    elif remedy:
        again = f"{again} {remedy}"
    case.act()
    capsys.readouterr()
    status, printed = run(again), " ".join("".join(capsys.readouterr()).split())
    assert status == last, printed
    if first == last:
        assert not words.search(printed), "it is still printed"


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from farvox.cli.main import main
status = main()
with open("/proc/self/status") as file:
    print("peak", *(1024 * int(line.split()[1]) for line in file if line.startswith("VmPeak")))
sys.exit(status)
"""
"""Program that runs farvox with so many bytes of address space, 0 for all there are, and prints its peak."""


def limited(words: str, limit: int = 0) -> tuple[int, int, str]:
    """Status, peak of the address space in bytes, and messages of a command in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(limit), *shlex.split(words)]
    few = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | few)
    if "emory allocation" in done.stderr or done.returncode == -signal.SIGABRT:
        pytest.skip("a library ended the process itself, as polars and OpenBLAS do without memory")
    peak = re.search(r"^peak (\d+)$", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr and peak, (done.returncode, done.stderr)
    return done.returncode, int(peak[1]), done.stderr


def long_recordings(seconds: int = 120, number: int = 4) -> None:
    """The data dir ``long``, of whose four recordings some are, and ``cut`` of their first seconds."""
    for n in range(4):
        num_samples = 16000 * (seconds if n < number else 3)
        noise_T = 0.1 * np.random.default_rng(n).standard_normal(num_samples).astype(np.float32)
        write_audio(f"long{n}.wav", noise_T)
        write_audio(f"cut{n}.wav", noise_T[:48000])
    for name in ("long", "cut"):
        write_data_dir(name, [Utterance(f"u{n}", f"{name}{n}.wav", None, None) for n in range(4)])


def long_validation() -> None:
    long_recordings(300, 1)
    Path("pairs").write_text("1 u0 u1\n0 u2 u3\n")
    recipe_with("recipe.toml", validate={"data": "long", "trials": "pairs"}, schedule={"epochs": 1})()


def large_sets() -> None:
    """Embeddings of 60,000 utterances, and of the first 4,000."""
    rng, name = np.random.default_rng(0), "speaker-of-a-corpus-whose-names-are-long-"
    ids = [f"{name}{n // 10:04}_{n % 10}" for n in range(60_000)]
    speakers = pl.Series([utt_id[:-2] for utt_id in ids])
    embeddings_NE = rng.standard_normal((len(ids), 256), np.float32)
    for name, few in (("large", slice(None)), ("few", slice(4000))):
        some = EmbeddingSet(ids[few], embeddings_NE[few], {"data_dir": "x"}, speaker_ids=speakers[few])
        some.save(name)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak as Linux tells it")
@pytest.mark.parametrize(
    ("make", "command", "remedy", "again"),
    [
        (
            long_recordings,
            "extract model long emb --threads 4 --device cpu",
            "give fewer --threads",
            "extract model long emb --threads 1 --device cpu",
        ),
        (
            lambda: long_recordings(300, 1),
            "extract model long emb --threads 1 --device cpu",
            "cut the longest recordings, and name another OUT",
            "extract model cut emb2 --threads 1 --device cpu",
        ),
        (
            long_validation,
            TRAIN,
            "cut the longest recordings of validate.data",
            f"{TRAIN} --validate.data cut",
        ),
        (
            large_sets,
            "cluster few out --clusters 20 --method spectral --iterations 1 --restarts 1",
            "choose --method kmeans",
            "cluster few out --clusters 20 --iterations 1 --restarts 1",
        ),
        (
            large_sets,
            "cluster large out --clusters 5 --iterations 1 --restarts 1",
            "'farvox subset'",
            "cluster few out --clusters 5 --iterations 1 --restarts 1",
        ),
    ],
    ids=["extract", "recordings", "validation", "cluster", "subset"],
)
def test_what_needs_less_memory_is_enough_under_the_same_limit(here, make, command, remedy, again):
    make()
    (much, little) = (limited(each)[1] for each in (command, again))
    for out in ("emb", "emb2", "exp", "out", "scores"):
        shutil.rmtree(out) if Path(out).is_dir() else Path(out).unlink(missing_ok=True)
    for share in (0.65, 0.8, 0.9):  # threads that start late may need some more
        limit = little + int(share * (much - little))
        status, _, printed = limited(command, limit)
        if status == 0:
            pytest.skip("this machine has memory enough at the limit")
        assert status == 1 and "memory" in printed, printed
        if remedy not in printed:
            continue  # a library ran out of memory before what the remedy is of
        assert "out of memory" in printed
        status, _, printed = limited(again, limit)
        if status == 0:
            return
    pytest.fail(printed)


@pytest.mark.parametrize("program", ["ffmpeg", "sox"])
def test_a_recording_too_long_for_the_memory_is_refused_and_its_pieces_are_embedded(
    here, monkeypatch, capsys, program
):
    assert 1e7 < available_memory() < 1e15
    monkeypatch.setattr("farvox.zoo.embedder.available_memory", lambda: 0.3e9)  # of 90 s
    voice_T = read_audio("voices/a0.wav")
    write_audio("long.wav", np.resize(voice_T, 130 * 16000))
    write_data_dir("both", [Utterance("long", "long.wav", "a"), Utterance("short", "voices/b0.wav", "b")])
    for backend in ("onnx", "torch"):
        assert run(f"verify voices/a0.wav long.wav --model model --backend {backend}") == 2
        assert run(f"enrol ann long.wav {MODEL} --backend {backend}") == 1
        printed = capsys.readouterr().err
        told = "long.wav: 2.2 minutes need about 0.43 GB of memory to be embedded, and 0.3 GB are available"
        assert printed.count(told) == 2, printed
    assert run(f"extract model both emb {FAST} --skip-bad") == 0
    assert "long.wav: 2.2 minutes need about" in Path("emb/rejected.tsv").read_text()
    command = re.search(rf"`({program} .*?)`", printed)[1].replace("IN", "long.wav").replace("OUT", "piece")
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    pieces = sorted(Path().glob("piece*.wav"))
    assert sum(len(read_audio(piece)) for piece in pieces) == 130 * 16000 and len(pieces) == 3
    assert run(f"verify {' '.join(map(str, pieces))} --model model") == 0
