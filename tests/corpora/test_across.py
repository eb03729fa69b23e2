"""``farvox prepare across``: folds near and across rooms, each judged by a model that heard none of it."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.corpora import across
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir

SPEAKERS = ("0001", "0002", "0003", "0004")
LISTS = ("near", "measured", "simulated", "short-1", "short-2", "far-enrol")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, record):
    """Four speakers of 21 utterances, noise, six responses, and two speakers of another corpus."""
    root = tmp_path_factory.mktemp("corpora")
    utterances = [(f"0{speaker}{take:04}", speaker) for speaker in SPEAKERS for take in range(21)]
    lists = root / "speechocean762/train"
    lists.mkdir(parents=True)
    entries = [f"{utt}\tWAVE/SPEAKER{speaker}/{utt}.WAV\n" for utt, speaker in utterances]
    (lists / "wav.scp").write_text("".join(entries))
    (lists / "utt2spk").write_text("".join(f"{utt}\t{speaker}\n" for utt, speaker in utterances))
    ages = zip(SPEAKERS, (6, 30, 15, 16), strict=True)
    (lists / "spk2age").write_text("".join(f"{each}\t{age}\n" for each, age in ages))
    for utt, speaker in utterances:
        record(root / f"speechocean762/WAVE/SPEAKER{speaker}/{utt}.WAV", 20000)
    for number in range(8):
        record(root / f"noise_esc10/rain/{number}.flac", 1600)
    rng = np.random.default_rng(0)
    for name in "abcdef":
        rir_R = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300) * 0.1
        rir_R[0] = 0.9
        write_audio(root / f"rirs_gtu/room-{name}-micstep-1.wav", rir_R.astype(np.float32))
    for speaker in ("fabc", "mxyz"):
        for take in range(10):
            record(root / f"an4/wav/an4_clstk/{speaker}/an{take}-{speaker}-b.flac", 20000)
    return root


def pairs_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_folds_judge_every_speaker_once_by_those_that_no_model_of_theirs_heard(
    corpora, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(across, "FOLD", 2)
    out = tmp_path / "out"
    assert main(["prepare", "across", str(corpora), str(out)]) == 0
    capsys.readouterr()
    judged = []
    for number in (1, 2):
        fold, trained = DataDir.open(out / f"fold-{number}"), DataDir.open(out / f"train-{number}")
        assert not {*fold.speaker_ids} & {*trained.speaker_ids} and len({*trained.speaker_ids}) == 2
        judged += sorted({*fold.speaker_ids})
        known = read_conditions(out / f"fold-{number}")
        count = Counter(known["list"])
        assert count == {"enrol": 20, "near": 20, "enrol-measured": 10, "measured": 40, "simulated": 20,
                         "short-1": 20, "short-2": 20}  # fmt: skip
        far = known.filter(known["list"] == "measured")
        assert {*far["room"]} == {"room-e", "room-f"} and {*far["snr"]} == {"5", "12", "20"}
        simulated = known.filter(known["list"] == "simulated")
        assert {*simulated.select("distance", "snr").iter_rows()} == {
            (distance, snr) for distance in ("1", "2.5", "4.5") for snr in ("5", "12", "20")
        }
    assert judged == [f"so{each}" for each in SPEAKERS]
    rooms = DataDir.open(out / "rooms-train")
    assert [name[:6] for name in rooms.utt_ids] == ["room-a", "room-b", "room-c", "room-d"]
    assert all(Path(path).is_relative_to(corpora / "rirs_gtu") for path in rooms.wav_paths)
    ages = {u[:6]: age for u, age in read_conditions(out / "fold-1").select("utt_id", "age").iter_rows()}
    assert ages == {"so0001": "child", "so0002": "adult"}
    for name in LISTS:
        pairs = pairs_of(out / f"{name}.trials")
        half = len(pairs) // 2
        folds = [{(a[:6], b[:6]) for a, b, _ in part} for part in (pairs[:half], pairs[half:])]
        for number, found in enumerate(folds, 1):
            speakers = {*DataDir.open(out / f"fold-{number}").speaker_ids}
            assert found == {(a, b) for a in speakers for b in speakers}
    short = DataDir.open(out / "fold-1").table.filter(known_list(out / "fold-1", "short-1"))
    assert {len(read_audio(path)) for path in short["wav_path"]} == {16000}
    other = read_conditions(out / "fold-an4")
    assert Counter(other["list"])["enrol"] == 8 and Counter(other["list"])["near"] == 10
    assert len(pairs_of(out / "an4-near.trials")) == 80 and not (out / "an4-simulated.trials").exists()


def known_list(folder, name):
    known = read_conditions(folder)
    return DataDir.open(folder).utt_ids.is_in(known.filter(known["list"] == name)["utt_id"].implode())


def test_settings_are_chosen_in_other_rooms_by_speakers_after_those_trained_on(corpora, tmp_path, capsys):
    shutil.copytree(corpora, tmp_path / "no an4", ignore=shutil.ignore_patterns("an4"))
    for name in ("one", "same"):
        words = [str(tmp_path / "no an4"), str(tmp_path / name), "--speakers", "2-3"]
        assert main(["prepare", "across", *words]) == 0
    assert {*DataDir.open(tmp_path / "one/train-1").speaker_ids} == {"so0001"}
    assert not (tmp_path / "one/rooms-train").exists()
    known = read_conditions(tmp_path / "one/fold-1")
    assert {*known["room"]} == {"", "room-a", "room-b", "room-c", "room-d"}
    one, same = ({p.name: p.read_bytes() for p in (tmp_path / n / "wav").iterdir()} for n in ("one", "same"))
    assert one == same and len(one) == 110
    capsys.readouterr()
    assert main(["prepare", "across", str(tmp_path / "no an4"), str(tmp_path / "all")]) == 1
    assert "an4: no such folder; expected speechocean762/" in capsys.readouterr().err
    assert main(["prepare", "across", *words[:1], str(tmp_path / "first"), "--speakers", "1-2"]) == 1
    assert "--speakers 1-2: nobody comes before them to train on" in capsys.readouterr().err


def test_the_loudest_stretch_begins_where_the_most_energy_is():
    wav_T = np.zeros(1000, np.float32)
    wav_T[600:700] = 1
    assert 600 - 50 <= across.loudest(wav_T, 150) <= 600 and across.loudest(wav_T, 2000) == 0
