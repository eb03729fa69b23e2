"""A model whose card declares conditioning: every way to its embeddings conditions alike."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from farvox import Verifier
from farvox.audio.conditioning import Conditioning
from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import StoreError
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise
from farvox.verifier import SqliteStore
from farvox.zoo import Card, open_embedder
from farvox.zoo.model import save_model

RATE = 16000
ON = Conditioning(longest_pause=1.0, level=-20.0)
KWARGS = {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}


def voice(seed: int, sentence: int, seconds: float = 2.0):
    speaker = draw_voice(np.random.default_rng(seed))
    rng = np.random.default_rng(100 * seed + sentence)
    return synthesise(speaker, draw_sentence(rng, seconds), rng).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of one model: as it is, and with a card that conditions."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = build_model("ecapa", **KWARGS)
    for name, conditioning in (("plain", Conditioning()), ("conditioned", ON)):
        save_model(folder / name, network, FrontEndConfig(kind="kaldi-fbank", num_mels=24), "ecapa", KWARGS)
        Card(name=name, threshold=0.5, narrow_threshold=0.6, conditioning=conditioning).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two speakers, three recordings each: as recorded, faint, and after 8 s of hiss."""
    folder = tmp_path_factory.mktemp("data")
    hiss_T = 1e-4 * np.random.default_rng(1).standard_normal(8 * RATE).astype(np.float32)
    utterances = []
    for speaker in (1, 2):
        wav_T = voice(speaker, 0)
        ways = {"asis": wav_T, "faint": 0.004 * wav_T, "hiss": np.concatenate([hiss_T, wav_T])}
        for name, altered_T in ways.items():
            path = folder / f"s{speaker}-{name}.wav"
            soundfile.write(path, altered_T, RATE, subtype="FLOAT")
            utterances.append(Utterance(f"s{speaker}-{name}", str(path), f"s{speaker}"))
    write_data_dir(folder / "dir", utterances)
    return folder


def test_a_card_keeps_it_and_the_digest_tells_it(models):
    plain, conditioned = (open_embedder(models / name) for name in ("plain", "conditioned"))
    assert Card.load(models / "conditioned").conditioning == ON
    assert plain.digest != conditioned.digest == ON.digest(plain.digest)
    narrow = open_embedder(models / "conditioned", band="narrow")
    assert narrow.digest == dataclasses.replace(ON, band="narrow").digest(plain.digest)
    assert narrow.card.threshold == 0.6
    written = json.loads((models / "plain" / "card.json").read_text())
    del written["conditioning"]  # as an earlier farvox wrote it
    assert Card.from_dict(written) == Card.load(models / "plain")


def test_level_and_pauses_cost_a_conditioned_model_next_to_nothing(models, data):
    wavs = {name: str(data / f"s1-{name}.wav") for name in ("asis", "faint", "hiss")}
    lost = {}
    for name in ("plain", "conditioned"):
        verifier = Verifier.from_pretrained(models / name)
        as_is, faint, hissing = (verifier.embed(path) for path in wavs.values())
        lost[name] = 1 - min(as_is @ faint, as_is @ hissing)
    assert lost["conditioned"] < 0.2 * lost["plain"]


def test_extract_verify_and_an_exported_file_agree(models, data, tmp_path, capsys):
    model = str(models / "conditioned")
    assert main(["export", model, str(tmp_path / "model.onnx")]) == 0
    of_verify = Verifier.from_pretrained(model, vad="off").embed(str(data / "s1-hiss.wav"))
    for number, (spec, backend) in enumerate(
        ((model, "torch"), (model, "onnx"), (tmp_path / "model.onnx", "auto"))
    ):
        out = tmp_path / f"out{number}"
        words = ["extract", str(spec), str(data / "dir"), str(out), "--backend", backend, "--device", "cpu"]
        assert main(words) == 0
        found = EmbeddingSet.load(out)
        emb_E = found.embeddings[found.utt_ids.index("s1-hiss")]
        np.testing.assert_allclose(emb_E / np.linalg.norm(emb_E), of_verify, atol=1e-4)
        assert found.meta["conditioning"] == dataclasses.asdict(ON)
        assert found.meta["digest"] == open_embedder(model).digest == open_embedder(spec).digest


def test_embeddings_of_before_are_refused_beside_new_ones(models, data, tmp_path, capsys):
    (tmp_path / "trials").write_text("s1-asis s1-faint target\ns1-asis s2-faint nontarget\n")
    for name in ("plain", "conditioned"):
        assert main(["extract", str(models / name), str(data / "dir"), str(tmp_path / name)]) == 0
    capsys.readouterr()
    score = ["score", str(tmp_path / "trials"), str(tmp_path / "plain"), str(tmp_path / "conditioned")]
    assert main([*score, "--out", str(tmp_path / "scores")]) != 0
    assert "conditioning" in capsys.readouterr().err
    assert main(["score", *score[1:2], score[2], "--out", str(tmp_path / "scores")]) == 0


def test_a_speaker_who_was_enrolled_before_is_not_compared_and_it_is_said(models, data, tmp_path):
    store = SqliteStore(tmp_path / "speakers.sqlite")
    options = {"store": store, "vad": "off"}
    Verifier.from_pretrained(models / "plain", **options).enrol("ann", str(data / "s1-asis.wav"))
    verifier = Verifier.from_pretrained(models / "conditioned", **options)
    with pytest.raises(
        StoreError, match="1 are with another one, or for another --band or conditioning: enrol"
    ):
        verifier.identify(str(data / "s1-asis.wav"))
    verifier.enrol("bob", str(data / "s2-asis.wav"))
    assert verifier.identify(str(data / "s2-asis.wav")).num_others == 1


def test_scores_of_a_narrow_band_calibrate_the_narrow_threshold(models, tmp_path, capsys):
    utterances = []
    for speaker in range(8):
        for sentence in range(4):
            path = tmp_path / f"s{speaker}-{sentence}.wav"
            write_audio(path, voice(speaker, sentence, 1.0), RATE)
            utterances.append(Utterance(path.stem, str(path), f"s{speaker}"))
    write_data_dir(tmp_path / "dir", utterances)
    model = tmp_path / "model"
    model.mkdir()
    for file in (models / "conditioned").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    trials = str(tmp_path / "dir" / "trials")
    assert main(["trials", str(tmp_path / "dir"), trials, "--all-pairs"]) == 0
    words = [str(model), str(tmp_path / "dir"), str(tmp_path / "narrow"), "--band", "narrow"]
    assert main(["extract", *words]) == 0
    assert main(["score", trials, str(tmp_path / "narrow"), "--out", str(tmp_path / "scores")]) == 0
    assert main(["calibrate", trials, str(tmp_path / "scores"), "--far", "0.1", "--model", str(model)]) == 0
    card = Card.load(model)
    assert card.threshold == 0.5 and card.calibration is None and card.conditioning == ON
    assert card.narrow_threshold != 0.6 and card.narrow_calibration is not None
    assert Verifier.from_pretrained(model, band="narrow").threshold == card.narrow_threshold


def test_notes_on_what_conditioning_mends_are_left_out(models, data):
    codes = {}
    for name in ("plain", "conditioned"):
        verifier = Verifier.from_pretrained(models / name)
        for which in ("faint", "hiss"):
            signal = verifier.signal(str(data / f"s1-{which}.wav"))
            codes[name, which] = {note.code for note in signal.warnings}
    assert "low-level" in codes["plain", "faint"] and "little-speech" in codes["plain", "hiss"]
    both = codes["conditioned", "faint"] | codes["conditioned", "hiss"]
    assert not {"low-level", "little-speech"} & both


def test_extract_says_where_the_speech_is_and_takes_that_channel(models, tmp_path, capsys):
    speech_T = voice(1, 0)
    hiss_T = 1e-3 * np.random.default_rng(1).standard_normal(len(speech_T)).astype(np.float32)
    write_audio(tmp_path / "mono.wav", speech_T, RATE)
    write_audio(tmp_path / "right.wav", np.stack([hiss_T, speech_T]), RATE)
    write_audio(tmp_path / "left.wav", np.stack([speech_T, hiss_T]), RATE)
    write_audio(tmp_path / "phone.wav", speech_T[::2], 8000)
    names = ("left", "mono", "phone", "right")
    write_data_dir(
        tmp_path / "dir", [Utterance(name, str(tmp_path / f"{name}.wav"), "ann") for name in names]
    )
    words = ["extract", str(models / "plain"), str(tmp_path / "dir")]
    found = {}
    for channel in ("0", "most-speech"):
        assert main([*words, str(tmp_path / channel), "--channel", channel]) == 0
        told = capsys.readouterr().err
        assert ("--channel most-speech takes that" in told) == (channel == "0")
        assert (
            "3 at 16,000 Hz" in told and "1 at 8,000 Hz" in told and "1 of 4 recordings hold nothing" in told
        )
        found[channel] = EmbeddingSet.load(tmp_path / channel)
    rows = {channel: dict(zip(each.utt_ids, each.embeddings, strict=True)) for channel, each in found.items()}
    assert np.array_equal(rows["most-speech"]["right"], rows["most-speech"]["mono"])
    assert not np.allclose(rows["0"]["right"], rows["0"]["mono"], atol=1e-2)
    assert np.array_equal(rows["0"]["left"], rows["0"]["mono"])
    assert found["most-speech"].meta["channel"] == "most-speech" and found["0"].meta["narrow_band"] == 1
    assert main([*words, str(tmp_path / "one"), "--channel", "1"]) == 1
    assert "mono.wav: has no channel 1" in capsys.readouterr().err


DEVICE_ONLY = """
import sys
sys.path[:] = [path for path in sys.path if path]
import importlib.machinery
allowed = set("numpy soundfile _soundfile _soundfile_data cffi _cffi_backend pycparser soxr onnxruntime "
    "tyro rich platformdirs farvox typing_extensions docstring_parser shtab typeguard markdown_it mdurl "
    "pygments".split())
if sys.argv[1] != "verify":
    allowed.add("cryptography")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in allowed | sys.stdlib_module_names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and "site-packages" in str(spec.origin):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from farvox.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_device_verifies_enrols_and_identifies_with_the_few_packages_of_its_install(models, tmp_path):
    """Nothing but what docs/device.md installs can be imported: no torch, polars, scipy, PyAV, silero-vad."""
    model = tmp_path / "model.onnx"
    assert main(["export", str(models / "conditioned"), str(model)]) == 0
    for number, seed in enumerate((1, 1, 2)):
        write_audio(tmp_path / f"{number}.wav", voice(seed, number, 3.0), RATE)
    one, two, three = (str(tmp_path / f"{number}.wav") for number in range(3))
    store = ["--store", str(tmp_path / "speakers.sqlite")]
    for words, statuses in (
        (["verify", one, two], {0, 1}),
        (["enrol", "ann", one, *store], {0}),
        (["identify", two, *store], {0, 1}),
        (["verify", one, three, "--vad", "trim", "--band", "narrow"], {0, 1}),
    ):
        command = [sys.executable, "-c", DEVICE_ONLY, *words, "--model", str(model)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in statuses and "Traceback" not in done.stderr, done.stderr


def test_verify_compares_below_4_khz_where_a_side_has_nothing_above(models, tmp_path, capsys):
    full_T = voice(1, 0)
    write_audio(tmp_path / "full.wav", full_T, RATE)
    write_audio(tmp_path / "phone.wav", full_T[::2], 8000)
    full, phone = str(tmp_path / "full.wav"), str(tmp_path / "phone.wav")
    model = models / "conditioned"
    for pair in ((full, phone), (phone, full), (phone, phone)):
        auto = Verifier.from_pretrained(model).verify(*pair)
        narrow = Verifier.from_pretrained(model, band="narrow").verify(*pair)
        assert auto == narrow and auto.band == "narrow" and auto.threshold == 0.6
        told = [note for note in auto.notes if note.code == "narrow-band"]
        assert told and not any(note.serious for note in told)
    for verifier, pair in (
        (Verifier.from_pretrained(model), (full, full)),  # nothing is narrow
        (Verifier.from_pretrained(model, threshold=0.4), (full, phone)),  # a threshold of full scores
        (Verifier.from_pretrained(model, band="full"), (full, phone)),
    ):
        verdict = verifier.verify(*pair)
        assert verdict.band == "full" and verdict.threshold in (0.4, 0.5)
        serious = {note.code for note in verdict.notes if note.serious}
        assert ("narrow-band" in serious) == (phone in pair)
    assert main(["verify", full, phone, "--model", str(model), "--strict", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["band"] == "narrow"
    assert main(["verify", full, phone, "--model", str(model), "--strict", "--band", "full"]) == 2


def test_a_model_without_a_narrow_threshold_compares_full_bands_and_says_what_that_costs(models, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in (models / "conditioned").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    dataclasses.replace(Card.load(model), narrow_threshold=None).save(model)
    paths = [str(tmp_path / f"phone{number}.wav") for number in range(2)]
    for number, path in enumerate(paths):
        write_audio(path, voice(1, number)[::2], 8000)
    verdict = Verifier.from_pretrained(model).verify(*paths)
    assert verdict.band == "full" and {note.code for note in verdict.notes if note.serious} == {"narrow-band"}
