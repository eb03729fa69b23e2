import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import read_audio
from farvox.corpora.himia import prepare_himia
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError, FarvoxError
from farvox.synthetic.corpus import Spec, parse_spec, prepare_synthetic

SMALLEST = (
    "tiny,train_speakers=3,dev_speakers=2,test_speakers=2,train_takes=1,dev_takes=2,test_takes=2,"
    "min_seconds=0.3,max_seconds=0.5,noises=1,bank_noises=1"
)
NAME = re.compile(r"SV\d{4}_(7_01|[256]_(0\d|1[0-5]))_[NSF]\d{4}")


def silent(message):
    pass


def fingerprints(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*.wav")
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    made = prepare_synthetic("tiny", out, note=silent, jobs=1)
    return out, {data_dir.path.name: data_dir for data_dir in made}


@pytest.fixture(scope="module")
def trials(corpus):
    out, _ = corpus
    return {
        name: [line.split() for line in (out / "test_v2" / name).read_text().splitlines()]
        for name in ("trials_near", "trials_far", "trials_mic", "trials_1m")
    }


def test_the_data_dirs_hold_what_the_specification_says(corpus):
    _, dirs = corpus
    assert {name: len(data_dir) for name, data_dir in dirs.items()} == {
        "close": 8 * 3,
        "far": 8 * 3 * 2,
        "train": 8 * 3 * 3,
        "dev": 3 * 2 * (1 + 3),
        "test_v2": 4 * 3 * (1 + 3 * 2),
        "rirs": 3,
        "noise": 2,
    }
    assert set(dirs["train"].utt_ids) == {*dirs["close"].utt_ids, *dirs["far"].utt_ids}


def test_recordings_are_named_like_himia_and_are_there(corpus):
    _, dirs = corpus
    for part in ("train", "dev", "test_v2"):
        for utterance in DataDir.open(dirs[part].path).utterances():
            assert NAME.fullmatch(utterance.utt_id)
            assert utterance.speaker_id == utterance.utt_id[:6]
            assert Path(utterance.wav_path).is_absolute()
            assert len(read_audio(utterance.wav_path)) == utterance.num_samples


def test_no_speaker_is_in_two_parts(corpus):
    _, dirs = corpus
    train, dev, test = (set(dirs[part].speaker_ids) for part in ("train", "dev", "test_v2"))
    assert not train & dev and not train & test and not dev & test


def test_a_trial_never_asks_about_one_take_and_its_label_is_right(trials):
    for name, lines in trials.items():
        for enrol, test, label in lines:
            enrolled, tested = enrol.removesuffix(".wav").split("_"), test.removesuffix(".wav").split("_")
            assert (label == "target") == (enrolled[0] == tested[0])
            assert (enrolled[0], enrolled[3]) != (tested[0], tested[3])
            assert enrolled[1] == ("2" if name == "trials_1m" else "7")
        assert len({tuple(line) for line in lines}) == len(lines)
        labels = [label for *_, label in lines]
        assert labels.count("nontarget") == 2 * labels.count("target") > 0


def test_the_trial_lists_compare_what_their_names_say(trials, corpus):
    _, dirs = corpus
    known = {f"{utt_id}.wav" for utt_id in dirs["test_v2"].utt_ids}
    assert all({enrol, test} <= known and "_7_01_" in test for enrol, test, _ in trials["trials_near"])
    assert all({enrol, test} <= known and "_7_01_" not in test for enrol, test, _ in trials["trials_far"])
    for enrol, test, _ in trials["trials_mic"] + trials["trials_1m"]:
        assert {side.format(channel) for side in (enrol, test) for channel in ("00", "08")} <= known
    assert {test.split("_")[1] for _, test, _ in trials["trials_far"]} == {"2", "5", "6"}


def test_the_audio_folder_is_a_himia_corpus(corpus, tmp_path):
    out, dirs = corpus
    for seen in prepare_himia(out / "audio", tmp_path, note=silent):
        ours = dirs[seen.path.name]
        assert list(seen.utt_ids) == list(ours.utt_ids)
        assert list(seen.speaker_ids) == list(ours.speaker_ids)
        assert list(seen.wav_paths) == list(ours.wav_paths)
    for name in ("trials_mic", "trials_1m"):
        assert (tmp_path / "test_v2" / name).read_bytes() == (out / "test_v2" / name).read_bytes()


def test_the_pauses_of_far_recordings_are_filled_with_noise_and_reverberation(corpus):
    _, dirs = corpus
    pauses = {"7": [], "2": [], "6": []}
    for utterance in dirs["test_v2"].utterances():
        point = utterance.utt_id.split("_")[1]
        if point in pauses:
            wav = read_audio(utterance.wav_path)
            power = np.sort(np.mean(wav[: len(wav) // 400 * 400].reshape(-1, 400) ** 2, axis=1))
            pauses[point].append(10 * np.log10(power[len(power) // 10] / power.mean()))
    floor_db = {point: np.mean(levels) for point, levels in pauses.items()}
    assert floor_db["7"] < floor_db["2"] - 10
    assert floor_db["2"] < floor_db["6"]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path, other_processes):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    prepare_synthetic(SMALLEST, one, note=silent, jobs=1)
    prepare_synthetic(SMALLEST, two, note=silent, jobs=2)
    prepare_synthetic(SMALLEST, other, note=silent, jobs=1, seed=1)
    assert fingerprints(one) == fingerprints(two)
    assert not set(fingerprints(one).values()) & set(fingerprints(other).values())
    assert (one / "test_v2" / "trials_far").read_text() == (two / "test_v2" / "trials_far").read_text()


def test_making_it_again_replaces_the_audio_but_never_a_foreign_folder(tmp_path):
    prepare_synthetic(SMALLEST, tmp_path / "out", note=silent, jobs=1)
    prepare_synthetic(SMALLEST, tmp_path / "out", note=silent, jobs=1, seed=7)
    assert json.loads((tmp_path / "out/audio/synthetic.json").read_text())["seed"] == 7
    (tmp_path / "mine" / "audio").mkdir(parents=True)
    (tmp_path / "mine" / "audio" / "song.wav").write_text("mine")
    with pytest.raises(FarvoxError, match="not replaced"):
        prepare_synthetic(SMALLEST, tmp_path / "mine", note=silent, jobs=1)
    assert (tmp_path / "mine" / "audio" / "song.wav").read_text() == "mine"


def test_a_specification_is_a_name_or_changes_or_both():
    assert parse_spec("demo") == Spec()
    assert parse_spec("train_speakers=5, max_seconds=4.5") == Spec(train_speakers=5, max_seconds=4.5)
    assert parse_spec("tiny,test_takes=9").test_takes == 9
    assert parse_spec("tiny,test_takes=9").train_speakers == parse_spec("tiny").train_speakers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("huge", "unknown synthetic corpus 'huge'"),
        ("demo,speakers=3", "unknown key 'speakers'"),
        ("demo,train_speakers=many", "'train_speakers=many': a number is needed"),
        ("demo,train_speakers=0", "train_speakers must be more than 0"),
        ("demo,test_takes=1", "two takes"),
        ("demo,test_microphones=3", "1, 2, 4, 8 or 16"),
        ("demo,train_points=4", "only 3 arrays"),
        ("demo,min_seconds=5", "max_seconds"),
    ],
)
def test_a_specification_that_makes_no_corpus_is_refused(text, message, tmp_path):
    with pytest.raises(CorpusError, match=message):
        prepare_synthetic(text, tmp_path / "out", note=silent)
    assert not (tmp_path / "out").exists()


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="-1"):
        prepare_synthetic("tiny", tmp_path, note=silent, seed=-1)
