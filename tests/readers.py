"""Readers of what others may have written or a disk damaged, and a few small cases for each.

A case is a folder, in which one file is damaged at a time: by hypothesis in `tests/test_readers.py`, by
atheris in `tests/soak/fuzz.py`. Only a `FarvoxError` may leave a reader.
"""

import io
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import torch

from farvox.audio.files import audio_info, read_recording, write_audio
from farvox.cli.main import main
from farvox.clustering.elbow import SavedCurve
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import FarvoxError
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.pipelines.recipe import read_recipe, recipe_to_toml
from farvox.score.sides import read_side_map
from farvox.verifier.enrolment import Enrolment
from farvox.verifier.store import SqliteStore
from farvox.zoo import Calibration, Card, open_embedder, save_model

ROOT = Path(__file__).parents[1]
UTT_IDS = [f"{speaker}-{take}" for speaker in "abc" for take in range(3)]
PAIRS = [(one, other) for n, one in enumerate(UTT_IDS) for other in UTT_IDS[n + 1 :]]
TRIALS = [(int(one[0] == other[0]), one, other) for one, other in PAIRS]
RATE = 16000
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
WORD = re.compile(rb"[^\s,:=]+")
WORDS = ("nontarget", "target")
BY_LIBSNDFILE = {
    "wav": "PCM_16", "wavex": "FLOAT", "rf64": "PCM_24", "w64": "PCM_16", "aiff": "PCM_16", "au": "ULAW",
    "nist": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "caf": "ALAC_16",
    "avr": "PCM_16", "paf": "PCM_16", "voc": "PCM_16", "ircam": "PCM_16", "svx": "PCM_16", "htk": "PCM_16",
    "mat4": "FLOAT", "mat5": "PCM_16", "pvf": "PCM_16", "mpc2k": "PCM_16", "xi": "DPCM_16",
}  # fmt: skip
BY_FFMPEG = {"m4a": "aac", "mkv": "libmp3lame", "webm": "libopus", "avi": "pcm_s16le"}


class Reader(NamedTuple):
    """How cases are made in a folder, how one is read, and the pattern of its files that are damaged."""

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    files: str = "*"


def verb(*words: object) -> None:
    """Run a verb, which ends by an answer or a message, and not for lack of memory."""
    out, err, status = io.StringIO(), io.StringIO(), None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code
    said = err.getvalue()
    assert status in (0, 1, 2) and "Traceback" not in said and "out of memory" not in said, said


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def noise(seconds: float = 0.25) -> np.ndarray:
    wav_T = 0.1 * np.random.default_rng(0).standard_normal(int(RATE * seconds))
    return wav_T.astype(np.float32)


def make_trials(folder: Path) -> None:
    write(folder / "voxceleb/trials", *(f"{t} {a}.wav {b}.wav" for t, a, b in TRIALS))
    write(folder / "himia/trials", *(f"{a} {b} {WORDS[t]}" for t, a, b in TRIALS))
    write(folder / "nist/trials", "modelid\tsegmentid\tside", *(f"{a}\t{b}.sph\ta" for _, a, b in TRIALS))
    for case in folder.iterdir():
        make_embeddings(case / "embeddings")


def make_scores(folder: Path) -> None:
    rows = [(*trial, np.linspace(-1, 1, len(TRIALS))[n]) for n, trial in enumerate(TRIALS)]
    write(folder / "ours/scores", *(f"{a} {b} {s:.9f}" for _, a, b, s in rows))
    write(folder / "wespeaker/scores", *(f"{a}.wav {b}.wav {s:.5f} {WORDS[t]}" for t, a, b, s in rows))
    write(folder / "3dspeaker/scores", *(f"{a} {b} {t} {s:.5f}" for t, a, b, s in rows))
    for case in folder.iterdir():
        write(case / "trials", *(f"{t} {a} {b}" for t, a, b in TRIALS))
        write(case / "utt2cond", "utt_id\tplace\tsnr", *(f"{u}\tp{n}\t{n}.5" for n, u in enumerate(UTT_IDS)))


def read_scores(case: Path) -> None:
    verb("evaluate", case / "trials", case / "scores", "--by", "place", "snr", "--data", case / "utt2cond")


def make_embeddings(folder: Path) -> None:
    emb_NE = np.random.default_rng(1).standard_normal((len(UTT_IDS), 4)).astype(np.float32)
    meta = {"data_dir": "/data", "digest": "0" * 64, "model": {"name": "small", "kwargs": {"channels": 8}}}
    measures_NM = np.random.default_rng(2).uniform(0, 9, (len(UTT_IDS), 5)).astype(np.float32)
    from polars import Series

    from farvox.audio.quality import OF_SAMPLES

    measures_NM = measures_NM[:, : len(OF_SAMPLES)]
    speakers = Series([utt_id[0] for utt_id in UTT_IDS])
    EmbeddingSet(UTT_IDS, emb_NE, meta, measures_NM[:, 0], speakers, None, measures_NM).save(folder)


def make_scored(folder: Path) -> None:
    """Scores with their metadata, and a calibration and a fusion of them."""
    case = folder / "a"
    make_embeddings(case / "embeddings")
    write(case / "trials", *(f"{t} {a} {b}" for t, a, b in TRIALS))
    verb("score", case / "trials", case / "embeddings", "--out", case / "scores")
    verb("calibrate", case / "trials", case / "scores", "--far", 0.5, "--save", case / "calibration.json")
    verb("fuse", case / "trials", f"a={case}/scores", "--save", case / "fusion.json")


def read_scored(case: Path) -> None:
    trials, scores = case / "trials", case / "scores"
    verb("calibrate", trials, scores, "--apply", case / "calibration.json", "--out", case / "out")
    verb("fuse", trials, f"a={scores}", "--apply", case / "fusion.json", "--out", case / "out")


def make_maps(folder: Path) -> None:
    write(folder / "a/map", "m1 a-0 a-1", "m2 b-0 b-1 b-2", "m3 c-0")


def make_data_dir(folder: Path) -> None:
    path = folder.with_name("sound.wav")
    write_audio(path, noise(), RATE)
    utterances = [Utterance(utt_id, str(path), utt_id[0], RATE // 4) for utt_id in UTT_IDS]
    conditions = ["utt_id\tplace\tsource", *(f"{utt_id}\tp\t{utt_id}" for utt_id in UTT_IDS)]
    for name in ("plain", "segments", "piped"):
        write_data_dir(folder / name, utterances, files={"utt2cond": "".join(f"{x}\n" for x in conditions)})
    (folder / "segments/utt2num_samples").unlink()
    write(folder / "segments/wav.scp", f"r1 {path}", f"r2 {path}")
    write(folder / "segments/segments", *(f"{u} r1 0.0{n} 0.2" for n, u in enumerate(UTT_IDS)))
    write(folder / "piped/wav.scp", *(f"{u} sph2pipe -f wav -p -c 1 {path} |" for u in UTT_IDS))


def read_data_dir(case: Path) -> None:
    verb("check", case, "--audio")
    verb("subset", case, case / "out", "--speakers", "1-2")


def make_ark(folder: Path) -> None:
    wav, flac = io.BytesIO(), io.BytesIO()
    soundfile.write(wav, noise(), RATE, format="WAV", subtype="PCM_16")
    soundfile.write(flac, noise(), RATE, format="FLAC")
    size = len(flac.getvalue()).to_bytes(4, "little")
    (folder / "a").mkdir(parents=True)
    content = b"a-0 " + wav.getvalue() + b"a-1 AUDIO\4" + size + flac.getvalue()
    (folder / "a/audio.ark").write_bytes(content)
    write(
        folder / "a/wav.scp",
        f"a-0 {folder}/a/audio.ark:4",
        f"a-1 {folder}/a/audio.ark:{len(wav.getvalue()) + 8}",
    )


def make_shards(folder: Path) -> None:
    make_data_dir(folder / "made")
    for codec in ("flac", "wav"):
        verb("pack", folder / "made/plain", folder / codec, "--codec", codec, "--jobs", 1)
        for path in (folder / codec / "shards").iterdir():
            path.rename(folder / codec / path.name)


def make_recipes(folder: Path) -> None:
    for path in ROOT.glob("recipes/*/*.toml"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name / "recipe.toml")


def make_audio(folder: Path) -> None:
    for suffix, subtype in BY_LIBSNDFILE.items():
        (folder / suffix).mkdir(parents=True)
        with suppress(soundfile.LibsndfileError):
            soundfile.write(folder / suffix / f"a.{suffix}", noise(), RATE, subtype, format=suffix.upper())
    for suffix, codec in BY_FFMPEG.items():
        (folder / suffix).mkdir(parents=True)
        rate = 48000 if codec == "libopus" else RATE
        with av.open(str(folder / suffix / f"a.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(noise()[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            size = stream.codec_context.frame_size or 960
            to_codec = av.AudioResampler(stream.format, "mono", rate, size)
            for part in (*to_codec.resample(frame), *to_codec.resample(None), None):
                container.mux(stream.encode(part))


def read_audio(case: Path) -> None:
    path = next(case.iterdir())
    audio_info(path)
    read_recording(path)
    read_recording(io.BytesIO(path.read_bytes()))


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"num_mels": 20, "channels": 8, "pooled_channels": 8, "embedding_dim": 4}
    for name in ("plain", "checked"):
        save_model(
            folder / name, build_model("xvector", **sizes), FrontEndConfig(num_mels=20), "xvector", sizes
        )
        Card(name="small", threshold=0.5, calibration=Calibration(10.0, -5.0)).save(folder / name)
    (folder / "plain/manifest.json").unlink()


def read_model(case: Path) -> None:
    open_embedder(case, "cpu", backend="torch").embed(noise())


def make_onnx(folder: Path) -> None:
    make_model(folder / "made")
    (folder / "a").mkdir()
    verb("export", folder / "made/plain", folder / "a/model.onnx")


def read_onnx(case: Path) -> None:
    open_embedder(case / "model.onnx", "cpu").embed(noise())


def make_store(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    store = SqliteStore(folder / "a/store")
    for n, name in enumerate("ab"):
        store.add(
            Enrolment(
                name=name, model_digest="0" * 64, model_name="small", num_recordings=1, seconds=1.0,
                template_E=np.eye(4, dtype=np.float32)[n],
            )
        )  # fmt: skip
    store.close()


def read_store(case: Path) -> None:
    store = SqliteStore(case / "store")
    try:
        store.listing()
        store.models()
        store.best(np.ones(4, np.float32), "0" * 64, top=2)
    finally:
        store.close()


def make_extraction(folder: Path) -> None:
    """An extraction that was interrupted, of one recording that is missing."""
    make_model(folder.with_name("extracted"))
    path = folder.with_name("sound.wav")
    write_audio(path, noise(), RATE)
    lines = [f"{u} {path if u != 'a-0' else folder / 'missing.wav'}" for u in UTT_IDS]
    write(folder.with_name("extracted") / "data/wav.scp", *lines)
    (folder / "a").mkdir(parents=True)
    read_extraction(folder / "a")


def read_extraction(case: Path) -> None:
    made = case.parent.with_name("extracted")
    verb("extract", made / "plain", made / "data", case / "out", "--threads", 1, "--backend", "torch")


def make_sweep(folder: Path) -> None:
    curve = open_sweep(folder / "a")
    for number in (2, 3, 10):
        curve.add(number, number / 11)


def open_sweep(case: Path) -> SavedCurve:
    return SavedCurve.open(case / "sweep", np.eye(4, dtype=np.float32), {})


READERS = {
    "trials": Reader(
        make_trials,
        lambda case: verb("score", case / "trials", case / "embeddings", "--out", case / "out"),
        "trials",
    ),
    "scores": Reader(make_scores, read_scores),
    "scored": Reader(make_scored, read_scored, "*.json"),
    "map": Reader(make_maps, lambda case: read_side_map(case / "map")),
    "data dir": Reader(make_data_dir, read_data_dir),
    "ark": Reader(make_ark, lambda case: verb("check", case, "--audio")),
    "shards": Reader(make_shards, lambda case: verb("check", case, "--audio"), "*.*"),
    "recipe": Reader(make_recipes, lambda case: recipe_to_toml(read_recipe(str(case / "recipe.toml")))),
    "audio": Reader(make_audio, read_audio),
    "embeddings": Reader(
        lambda folder: make_embeddings(folder / "a"),
        lambda case: verb("cluster", case, case / "out", "--clusters", "2"),
    ),
    "model": Reader(make_model, read_model, "*.*"),
    "onnx": Reader(make_onnx, read_onnx),
    "store": Reader(make_store, read_store),
    "extraction": Reader(make_extraction, read_extraction, "out.unfinished/*"),
    "sweep": Reader(
        make_sweep, lambda case: SavedCurve.open(case / "sweep", np.eye(4, dtype=np.float32), {})
    ),
}


class Cases:
    """The cases of a reader, each of which is as it was made whenever it is read.

    Attributes:
        files: the case and the name of each file that may be damaged.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.reader, self.folder, self.whole = READERS[name], folder / "cases", folder / "whole"
        self.reader.make(self.folder)
        found = self.folder.glob(f"*/{self.reader.files}")
        found = sorted(path for path in found if path.is_file() and not path.name.startswith("."))
        paths = [path.relative_to(self.folder) for path in found]
        self.files = [(path.parts[0], "/".join(path.parts[1:])) for path in paths]
        shutil.copytree(self.folder, self.whole)

    def content(self, file: tuple[str, str]) -> bytes:
        """What is in a file before it is damaged."""
        return self.whole.joinpath(*file).read_bytes()

    def read(self, file: tuple[str, str], content: bytes) -> None:
        """Read a case in which a file has another content; errors as of the reader, but a `FarvoxError`."""
        case = self.folder / file[0]
        shutil.rmtree(case)
        shutil.copytree(self.whole / file[0], case)
        self.folder.joinpath(*file).write_bytes(content)
        with suppress(FarvoxError):
            self.reader.read(case)
