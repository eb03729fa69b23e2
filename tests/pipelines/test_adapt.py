"""``farvox adapt``: folders of recordings become a model with a threshold, its figures and its report."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomli_w

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import CheckpointError
from farvox.farfield import RirsOptions
from farvox.farfield.rirs import make_rirs
from farvox.options import merge
from farvox.pipelines.adapt import INDEPENDENT, AdaptOptions, messages_of, split_files, with_folders
from farvox.pipelines.recipe import find_recipe, read_recipe, read_toml
from farvox.zoo import Card

SMALL = {
    "device": "cpu",
    "threads": 1,
    "init": {"mean_utterances": 1},
    "data": {"num_frames": 30, "speeds": [1.0], "epoch_size": 24, "workers": 0},
    "optim": {"batch_size": 8, "precision": "fp32"},
    "schedule": {"epochs": 3},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_corpus, model_folder):
    """Folders of a user: 12 speakers whose names begin their files, responses, noise; and a short recipe."""
    folder, rng = tmp_path_factory.mktemp("user's own $home"), np.random.default_rng(0)
    make_corpus(folder / "dir", speakers=[f"s{n:02}" for n in range(12)], takes=4)
    shutil.copytree(folder / "dir/wav", folder / "speech")
    shutil.copytree(model_folder, folder / "model")
    for number, take in itertools.product(range(12), range(4)):
        part = folder / ("few" if number < 3 else "others")
        part.mkdir(exist_ok=True)
        shutil.copy(folder / f"speech/s{number:02}_{take}.wav", part)
    (folder / "two").mkdir()
    for number, take in itertools.product((3, 4), range(4)):
        shutil.copy(folder / f"speech/s{number:02}_{take}.wav", folder / f"two/t{number}_{take}.wav")
    (folder / "empty").mkdir()
    for number in range(5):
        rir_R = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 600) * 0.1
        rir_R[0] = 0.9
        write_audio(folder / f"rooms/hall {number}.wav", rir_R.astype(np.float32))
        (folder / "noise/fan").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"noise/fan/{number}.ogg", 0.1 * rng.standard_normal(16000), 16000)
    text = tomli_w.dumps(merge(read_toml(find_recipe("adapt")), SMALL))
    (folder / "mine.toml").write_text(re.sub(r"(--rooms|noise) \d+", r"\1 16", text))
    return folder


def words_of(home, *words):
    given = (
        "--speech",
        "speech",
        "--pattern",
        "{speaker}_{take}.wav",
        "--model",
        "model",
        "--recipe",
        "mine.toml",
    )
    paths = [str(home / word) if (home / word).exists() else word for word in (*given, *words)]
    return ["adapt", *map(str, paths)]


def adapt(home, *words):
    return main(words_of(home, *words))


@pytest.fixture(scope="module")
def adapted(home):
    """The results of an adaptation to measured rooms and recorded noise, killed after its first epoch."""
    words = [*shlex.split("--rooms rooms --noise noise --far 0.1 --minutes 0.02 --out"), home / "out"]
    command = [sys.executable, "-m", "farvox", *words_of(home, *words)]
    with subprocess.Popen(command, start_new_session=True) as process:
        while not (home / "out/train/checkpoints/epoch_000").exists() and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (home / "out/report.html").exists()
    assert adapt(home, *words) == 0
    return home / "out"


@pytest.mark.slow
def test_an_adaptation_ends_in_a_model_with_its_threshold_and_figures(adapted, voices, capsys):
    card = Card.load(adapted / "model")
    assert card.threshold_speakers == 6 and "rejects" in card.threshold_note
    for name in ("near FAR", "far FAR"):
        assert name in card.threshold_note
    results = json.loads((adapted / "results.json").read_text())
    tuned = [each for each in results["results"] if each["system"] == "fine-tuned"]
    assert [each.eer for each in card.figures] == [each["eer"] for each in tuned]
    assert {each["trial_list"] for each in results["differences"]} == {"near", "far"}
    for name in ("near", "far"):
        assert sum(f"{name}: fine-tuned is " in line for line in results["notes"]) == 1
        assert f"{name}: fine-tuned is " in (adapted / "report.html").read_text()
    assert any(line.startswith(f"threshold {card.threshold:.4f}") for line in results["notes"])
    assert (adapted / "report.html").is_file()
    pair = [str(voices / name) for name in ("a0.wav", "a1.wav")]
    assert main(["verify", *pair, "--model", str(adapted / "model")]) in (0, 1)


@pytest.mark.slow
def test_speakers_of_another_folder_judge_in_rooms_and_noise_made_for_it(home, tmp_path):
    assert adapt(home, "--speech", "few", "--test", "others", "--out", tmp_path / "out") == 0
    assert len((tmp_path / "out/data/judged.speakers").read_text().split()) == 9
    assert len(DataDir.open(tmp_path / "out/data/rooms/simulated")) == 32
    assert {figure.data for figure in Card.load(tmp_path / "out/model").figures} == {"near, out", "far, out"}


def split(folder, out, *, are_rooms=True):
    """The files on either side, below the folder; and whether they are the same."""
    said = []
    _, is_same = split_files(folder, out, np.random.default_rng(0), said.append, are_rooms=are_rooms)
    sides = [
        [str(Path(path).relative_to(folder)) for path in DataDir.open(out / part).wav_paths]
        for part in ("train", "test")
    ]
    return *sides, is_same, said[0]


def test_files_that_say_the_same_are_on_one_side(home, tmp_path):
    rirs = [read_audio(path) for path in sorted((home / "rooms").glob("*.wav"))]
    for number, rir_R in enumerate(rirs[:4]):
        for channel, gain in enumerate((1, 0.5, 0.25)):
            write_audio(tmp_path / f"rooms/room{number}/{channel}.wav", gain * rir_R)
    train_, test, is_same, said = split(tmp_path / "rooms", tmp_path / "split")
    assert len(train_) == 9 and len(test) == 3 and not is_same
    assert len({path[:5] for path in test}) == 1 and not {p[:5] for p in train_} & {p[:5] for p in test}
    assert said.endswith("9 files to train with, 3 others to judge with (4 that do not say the same)")
    train_, test, is_same, _ = split(tmp_path / "rooms", tmp_path / "noise", are_rooms=False)
    assert len(train_) == 9 and {path[:5] for path in train_} & {path[:5] for path in test}

    shutil.copytree(home / "rooms", tmp_path / "below/wav")
    train_, test, is_same, _ = split(tmp_path / "below", tmp_path / "split1")  # one folder says nothing
    assert len(train_) == 4 and len(test) == 1 and not is_same

    for number in range(6):  # twice each of three
        write_audio(tmp_path / f"equal/{number}.wav", rirs[number % 3])
    train_, test, *_ = split(tmp_path / "equal", tmp_path / "split2", are_rooms=False)
    assert len(train_) == 4 and len({int(path[0]) % 3 for path in test}) == 1
    assert not {int(path[0]) % 3 for path in train_} & {int(path[0]) % 3 for path in test}

    make_rirs(tmp_path / "sized", RirsOptions(measured=(home / "rooms",), sizes=4, jobs=1))
    train_, test, *_ = split(tmp_path / "sized", tmp_path / "split3")
    assert len(train_) == 16 and not {p.split("-")[0] for p in train_} & {p.split("-")[0] for p in test}

    write_audio(tmp_path / "one/hall.wav", rirs[0])
    train_, test, is_same, said = split(tmp_path / "one", tmp_path / "split4")
    assert is_same and train_ == test == ["hall.wav"] and "the same to judge with: there is only one" in said
    write_audio(tmp_path / "one/cellar.wav", rirs[1])
    train_, test, is_same, _ = split(tmp_path / "one", tmp_path / "split5")
    assert not is_same and sorted(train_ + test) == ["cellar.wav", "hall.wav"]


@pytest.mark.slow
def test_a_room_that_was_trained_in_and_judges_is_told_of_in_the_report(home, tmp_path):
    write_audio(home / "one/hall.wav", read_audio(home / "rooms/hall 0.wav"))
    assert adapt(home, "--rooms", "one", "--out", tmp_path / "out", "--minutes", "0.02") == 0
    told = "No speaker of these trials was trained on; their room was: there is only one."
    notes = json.loads((tmp_path / "out/results.json").read_text())["notes"]
    assert told in notes and INDEPENDENT not in notes
    assert told in (tmp_path / "out/report.html").read_text()
    command = Card.load(tmp_path / "out/model").figures[0].command
    words = shlex.split(command)
    assert (
        words[words.index("--rooms") + 1].endswith("/one") and words[words.index("--minutes") + 1] == "0.02"
    )


@pytest.mark.slow
def test_responses_that_cannot_be_used_are_left_out_on_either_side(home, tmp_path, capsys):
    shutil.copytree(home / "rooms", home / "some bad")
    for number in range(5):
        write_audio(home / f"some bad/silent {number}.wav", np.zeros(4000 + number))
    words = ("--rooms", "some bad", "--out", tmp_path / "out", "--minutes", "0.02")
    assert adapt(home, *words) == 1
    assert "leave them out with --skip-bad" in capsys.readouterr().err
    assert adapt(home, *words, "--skip-bad") == 0
    data = tmp_path / "out/data"
    silent = {
        part: sum("silent" in name for name in DataDir.open(data / "responses" / part).utt_ids)
        for part in ("train", "test")
    }
    assert silent == {"train": 4, "test": 1}
    for part in ("test", "sized"):
        assert not any("silent" in name for name in DataDir.open(data / "rooms" / part).utt_ids)


@pytest.mark.slow
def test_nobody_and_nothing_that_judges_was_trained_on(adapted):
    data = adapted / "data"
    for kind, names in (
        ("speakers", "{}.speakers"),
        ("rooms", "responses/{}/wav.scp"),
        ("noise", "noise/{}/wav.scp"),
    ):
        test = "judged" if kind == "speakers" else "test"
        train_, judged = ({*(data / names.format(part)).read_text().splitlines()} for part in ("train", test))
        assert train_ and judged and not train_ & judged
    sized = read_conditions(data / "rooms/sized")
    assert {*sized["source"]} == {*DataDir.open(data / "responses/train").utt_ids} and len(sized) == 200
    recipe = read_toml(adapted / "recipe.toml")
    assert recipe["augment"]["rirs"] == ["$data/rooms/simulated", "$data/rooms/sized"]


@pytest.mark.slow
def test_the_recipe_makes_the_same_model_again_without_a_kill(adapted, tmp_path):
    words = [str(adapted / "recipe.toml"), "--run-dir", str(tmp_path / "again"), "--from", "train"]
    assert main(["run", *words, "--to", "train"]) == 0
    made, again = (adapted / "model", tmp_path / "again/train/finished")
    assert (again / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_bounded_training_keeps_all_its_epochs(adapted):
    recipe = read_recipe(str(adapted / "recipe.toml"))
    assert recipe.data.epoch_size in (8, 16, 24) and recipe.schedule.epochs == 3
    few = [each for each in recipe.notes if "and the recipe has 9: so few may make a model worse" in each]
    assert len(few) == (recipe.data.epoch_size == 8)
    assert {*few} <= {*json.loads((adapted / "results.json").read_text())["notes"]}
    assert not (adapted / "timing").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "new", "--test", "speech"), "leave out --test"),
        (("--out", "new", "--speech", "few"), "name a folder of others with --test"),
        (("--out", "new", "--test", "two"), "2: 2 to train on and 3 to judge by are the fewest"),
        (("--out", "new", "--speech", "nobody", "--noise", "empty"), "empty: has neither"),
    ],
)
def test_what_cannot_be_adapted_is_refused(home, words, message, tmp_path, capsys):
    words = [tmp_path / "new" if word == "new" else word for word in words]
    assert adapt(home, *words) == 1
    assert message in capsys.readouterr().err


def test_a_quarter_of_the_speakers_judges_and_fifty_at_most(tmp_path, capsys):
    for number in range(208):
        noise_T = np.random.default_rng(number).standard_normal(400).astype(np.float32)
        write_audio(tmp_path / f"speech/{number:03d}_0.wav", 0.1 * noise_T)
    options = AdaptOptions(speech=tmp_path / "speech", pattern="{speaker}_{take}.wav")
    for left, judging in ((208, 50), (44, 11), (24, 10), (7, 3)):
        for path in sorted((tmp_path / "speech").iterdir())[left:]:
            path.unlink()
        with_folders(tmp_path / f"{left}", options, print)
        parts = [
            (tmp_path / f"{left}/data/{part}.speakers").read_text().split() for part in ("judged", "train")
        ]
        assert (len(parts[0]), len({*parts[0], *parts[1]})) == (judging, left)
        assert f"{judging} of {left} speakers are kept for judging" in capsys.readouterr().out


def test_a_key_in_a_message_can_be_set_where_it_says(home, tmp_path, capsys):
    table = merge(read_toml(home / "mine.toml"), {"validate": {"data": "$nowhere", "trials": "x"}})
    (tmp_path / "other.toml").write_text(tomli_w.dumps(table))
    assert adapt(home, "--recipe", tmp_path / "other.toml", "--out", tmp_path / "new") == 1
    told = capsys.readouterr().err
    saved = Path(re.search(r"paths\.nowhere: to be set in (\S+), which the same", told)[1])
    saved.write_text(saved.read_text().replace("[paths]", '[paths]\nnowhere = "away"'))
    assert read_recipe(str(saved)).validate.data == Path("away")


def test_an_error_of_training_names_what_there_is_here(tmp_path):
    error = CheckpointError("put it back, or start another --run-dir. It is evaluated by --from extract")
    run = rf"farvox run {tmp_path}/recipe\.toml --run-dir {tmp_path} --from extract"
    told = f"start another --out. It is evaluated by '{run}'$"
    with pytest.raises(CheckpointError, match=told), messages_of(tmp_path, "adapt"):
        raise error


def test_recordings_under_two_names_are_refused_until_one_of_each_is_removed(home, tmp_path, capsys):
    shutil.copytree(home / "others", tmp_path / "others")
    copy = tmp_path / "others/somebody_0.wav"
    shutil.copy(home / "few/s00_1.wav", copy)
    folders = {"speech": home / "few", "test": tmp_path / "others"}
    words = (f"--{name}={folder}" for name, folder in folders.items())
    assert adapt(home, *words, "--out", tmp_path / "new") == 1
    told = capsys.readouterr().err
    assert f"1 recording(s) under two names, {home / 'few/s00_1.wav'} and {copy} first" in told
    copy.unlink()
    options = AdaptOptions(**folders, pattern="{speaker}_{take}.wav", recipe=str(home / "mine.toml"))
    assert with_folders(tmp_path / "again", options, print)["seed"] == 1


def test_unusable_recordings_are_accepted_by_the_options_that_the_message_names(home, tmp_path, capsys):
    shutil.copytree(home / "few", tmp_path / "few")
    (tmp_path / "few/s00_9.wav").write_bytes(b"")
    words = ("--out", tmp_path / "new", "--speech", tmp_path / "few")
    assert adapt(home, *words) == 1
    told = capsys.readouterr().err
    for more in (re.search(r"--max-rejects [\d.]+", told)[0].split(), [re.search(r"--skip-bad", told)[0]]):
        assert adapt(home, *words, *more) == 1
        assert "name a folder of others with --test" in capsys.readouterr().err
