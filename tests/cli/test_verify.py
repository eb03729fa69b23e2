"""The verbs for people with recordings, as they are typed."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.zoo.card import Card, SequentialTest


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_DATA", str(tmp_path / "data"))


@pytest.fixture
def verify(model_folder):
    """Runs ``farvox verify`` with the small model; returns the status."""

    def run(*words):
        return main(["verify", "--model", str(model_folder), *map(str, words)])

    return run


def test_the_answer_is_printed_and_is_the_status(verify, voices, capsys):
    assert verify(voices / "a0.wav", voices / "a0.wav") == 0
    out = capsys.readouterr().out
    assert "score        1.0000   threshold 0.5\n" in out and "decision     same speaker\n" in out
    assert "probability  99.3 %" in out
    assert verify(voices / "a0.wav", voices / "b0.wav", "--threshold", "0.9999") == 1
    assert "different speakers" in capsys.readouterr().out


def test_the_answer_is_printed_as_json(verify, voices, capsys):
    assert verify(voices / "a0.wav", voices / "a1.wav", voices / "a0.wav", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["same"] is True and answer["score"] >= answer["threshold"] == 0.5
    assert 0.5 < answer["probability"] <= 1 and answer["model"] == "small"
    assert [len(answer[side]) for side in ("enrol", "test")] == [2, 1]
    assert answer["test"][0]["name"] == str(voices / "a0.wav")
    assert [note["code"] for note in answer["test"][0]["notes"]] == ["same-recording"]


def damaged(kind, voices, folder):
    """One of the twelve kinds of input that are not as they should be."""
    path = folder / f"{kind.replace(' ', '-')}.wav"
    wav_T = read_audio(voices / "a1.wav")
    match kind:
        case "silence":
            write_audio(path, np.zeros(32000))
        case "0.1 s":
            write_audio(path, wav_T[:1600])
        case "empty file":
            path.touch()
        case "text":
            path.write_text("this is no audio\n" * 50)
        case "NaN":
            soundfile.write(
                path, np.where(np.arange(len(wav_T)) == 99, np.nan, wav_T), 16000, subtype="FLOAT"
            )
        case "truncated":
            write_audio(path, wav_T)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "header only":
            soundfile.write(path, np.zeros(0), 16000)
        case "directory":
            path.mkdir()
        case "8 channels":
            rng = np.random.default_rng(0)
            write_audio(path, np.stack([wav_T + 0.001 * rng.standard_normal(len(wav_T)) for _ in range(8)]))
        case "8 kHz":
            write_audio(path, wav_T[::2], 8000)
        case "96 kHz":
            write_audio(path, np.repeat(wav_T, 6), 96000)
        case "clipped":
            write_audio(path, 8 * wav_T)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("silence", "silence"), ("0.1 s", "0.10 s of signal; at least 0.3 s"),
        ("empty file", "empty|no audio"),
        ("text", "cannot be read as audio"), ("NaN", "not finite"), ("truncated", "truncated"),
        ("header only", "holds no audio"), ("directory", "is a (directory|folder)"),
        ("missing", "no such file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["enrol", "test"])
def test_bad_input_is_refused_by_name_with_status_2(verify, voices, tmp_path, capsys, kind, message, side):
    path, good = damaged(kind, voices, tmp_path), voices / "a0.wav"
    assert verify(*((path, good) if side == "enrol" else (good, path))) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert said.err.startswith(f"farvox verify: {path}: ") and len(said.err.splitlines()) == 1
    assert re.search(message, said.err), said.err


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("8 channels", "8 channels: their embeddings are fused"), ("8 kHz", "kHz is in it"),
        ("clipped", "clipped"),
    ],
)  # fmt: skip
def test_unusual_input_is_scored_with_a_note(verify, voices, tmp_path, capsys, kind, note):
    path = damaged(kind, voices, tmp_path)
    assert verify(voices / "a0.wav", path, "--vad", "off", "--threshold=-1") == 0
    said = capsys.readouterr()
    assert "same speaker" in said.out
    assert f"farvox verify: note: {path}: " in said.err and note in said.err


def test_wrong_usage_and_a_missing_model_are_status_2(verify, voices, capsys):
    assert verify(voices / "a0.wav") == 2
    assert "two recordings are needed" in capsys.readouterr().err
    assert main(["verify", "--model", "nowhere", str(voices / "a0.wav"), str(voices / "a1.wav")]) == 2
    assert "no model 'nowhere'" in capsys.readouterr().err
    assert main(["verify", "--modle", "x", "a", "b"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "farvox verify: unknown option '--modle'; did you mean '--model'?",
        "usage: farvox verify ENROL... TEST",
        "'farvox verify --help' explains its options",
    ]


@pytest.mark.parametrize("threshold", ["nan", "45"])
def test_a_threshold_that_is_no_cosine_gets_no_answer(verify, voices, capsys, threshold):
    assert verify(voices / "a0.wav", voices / "a0.wav", "--threshold", threshold) == 2
    said = capsys.readouterr()
    assert said.out == "" and "is no cosine" in said.err


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_a_name_that_is_no_text_and_a_terminal_that_cannot_spell_are_no_obstacle(
    voices, model_folder, tmp_path
):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(path, "wb") as file:
        file.write((voices / "a0.wav").read_bytes())
    command = [sys.executable, "-m", "farvox", "verify", "--model", str(model_folder), "--json"]
    done = subprocess.run(
        [*command, path, str(voices / "a0.wav")],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same"] is True


@pytest.mark.skipif(os.name != "posix", reason="streams are closed by number")
@pytest.mark.parametrize("closed", [1, 2])
def test_the_answer_is_the_status_when_a_stream_is_closed(voices, model_folder, closed):
    for threshold, status in (("-1", 0), ("1", 1)):
        command = [sys.executable, "-m", "farvox", "verify", "--model", str(model_folder)]
        command += ["--threshold", threshold, str(voices / "a0.wav"), str(voices / "b1.wav")]
        done = subprocess.run(command, capture_output=True, preexec_fn=lambda: os.close(closed))
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stdout + done.stderr


def test_a_bug_is_status_2_and_no_answer(voices, model_folder):
    code = (
        "import sys, farvox.verifier.verifier as v\n"
        "v.Verifier.verify = lambda *words: 1 / 0\n"
        "from farvox.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = ["verify", str(voices / "a0.wav"), str(voices / "a1.wav"), "--model", str(model_folder)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr and done.stdout == ""


def test_both_inputs_are_checked_before_a_model_is_fetched(voices, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    assert main(["verify", str(voices / "a0.wav"), str(tmp_path / "absent.wav")]) == 2
    assert "absent.wav: no such file" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_speakers_are_enrolled_identified_listed_and_forgotten(voices, model_folder, capsys):
    model = ["--model", str(model_folder)]
    assert main(["enrol", "ann", str(voices / "a0.wav"), str(voices / "a1.wav"), *model]) == 0
    assert "ann: enrolled with 2 recordings" in capsys.readouterr().out
    assert main(["enrol", "Bö b", str(voices / "b0.wav"), *model]) == 0
    capsys.readouterr()
    assert main(["identify", str(voices / "b0.wav"), *model]) == 0
    assert capsys.readouterr().out.startswith("Bö b\n  among 2 speakers, threshold 0.5\n   1.0000  Bö b\n")
    assert main(["identify", str(voices / "b2.wav"), *model, "--threshold", "1", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] is None and answer["num_speakers"] == 2 and len(answer["candidates"]) == 2
    assert main(["speakers"]) == 0
    listed = capsys.readouterr()
    assert [line.split("  ")[0] for line in listed.out.splitlines()] == ["Bö b", "ann"]
    assert main(["forget", "ann"]) == 0
    assert main(["speakers", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out.split("\n", 1)[1])] == ["Bö b"]


def test_what_cannot_be_enrolled_or_identified_says_why(voices, model_folder, tmp_path, capsys):
    model = ["--model", str(model_folder)]
    assert main(["enrol", "ann", *model]) == 2
    assert main(["enrol", "ann", str(tmp_path / "absent.wav"), *model]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["identify", str(tmp_path / "absent.wav"), *model]) == 2
    assert main(["identify", str(voices / "a0.wav"), *model]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "nobody is enrolled with this model" in said.err
    assert main(["forget", "ann"]) == 1
    assert "ann" in capsys.readouterr().err
    assert main(["enrol", "ann", str(voices / "a0.wav"), *model]) == 0
    assert main(["enrol", "ann", str(voices / "a0.wav"), *model]) == 1
    assert main(["enrol", "ann", str(voices / "a0.wav"), "--replace", *model]) == 0


def test_another_store_may_be_named(voices, model_folder, tmp_path, capsys):
    store = ["--store", str(tmp_path / "others.sqlite")]
    assert main(["enrol", "ann", str(voices / "a0.wav"), "--model", str(model_folder), *store]) == 0
    assert (tmp_path / "others.sqlite").is_file() and not (tmp_path / "data").exists()
    capsys.readouterr()
    assert main(["speakers"]) == 0 and main(["speakers", *store]) == 0
    assert capsys.readouterr().out.startswith("ann  1 rec.")


@pytest.mark.parametrize("verb", ["speakers", "forget"])
def test_listing_and_forgetting_do_without_torch(verb, tmp_path):
    words = [verb, "x"] if verb == "forget" else [verb]
    code = f"import sys\nfrom farvox.cli.main import main\nmain({words})\n"
    code += "sys.exit('torch' in sys.modules)"
    env = {**os.environ, "FARVOX_DATA": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == 0


def test_strict_gives_no_decision_where_a_note_is_serious(verify, voices, model_folder, tmp_path, capsys):
    path = damaged("8 kHz", voices, tmp_path)
    assert verify(voices / "a0.wav", path, "--vad", "off", "--threshold=-1", "--strict") == 2
    assert "decision     none: a note is serious" in capsys.readouterr().out
    assert verify(voices / "a0.wav", path, "--vad", "off", "--threshold=-1", "--strict", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["same"] is None
    assert [note["code"] for note in found["test"][0]["notes"]] == ["narrow-band"]
    assert verify(voices / "a0.wav", voices / "a1.wav", "--vad", "off", "--threshold=-1", "--strict") == 0
    store = ["--vad", "off", "--store", tmp_path / "speakers.sqlite"]
    words = [str(word) for word in ("--model", model_folder, *store)]
    assert main(["enrol", "ann", str(voices / "a0.wav"), *words]) == 0
    words.append("--threshold=-1")
    assert main(["identify", str(path), *words]) == 0
    assert main(["identify", str(path), *words, "--strict"]) == 2
    assert "no answer: a note is serious" in capsys.readouterr().out
    assert main(["identify", str(path), *words, "--strict", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["name"] is None
    assert main(["identify", str(voices / "a1.wav"), *words, "--strict"]) == 0
    assert capsys.readouterr().out.startswith("ann\n")
    words[-1] = "--threshold=1"
    for strict in ([], ["--strict"]):
        assert main(["identify", str(voices / "b1.wav"), *words, *strict]) == 1
        assert capsys.readouterr().out.startswith("unknown\n")
    assert verify(voices / "a0.wav", path, "--channel", "left") == 2
    assert "all, most-speech or a number" in capsys.readouterr().err


def test_json_is_printed_also_where_there_is_no_answer(voices, model_folder, tmp_path, capsys):
    good, model = str(voices / "a0.wav"), ["--model", str(model_folder), "--json"]
    (tmp_path / "text.wav").write_text("no sound")
    for words, answer, code in (
        (["verify", good, str(tmp_path / "text.wav")], "same", "audio"),
        (["verify", good], "same", "usage"),
        (["verify", good, good, "--no-such-option"], "same", "usage"),
        (["identify", good, "--store", str(tmp_path / "store")], "name", "speaker"),
    ):
        assert main([*words, *model]) == 2
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert found[answer] is None and found["error"]["code"] == code, said
        assert found["error"]["message"] and said.err


def test_a_recording_against_itself_is_noted(voices, model_folder, tmp_path, capsys):
    copy = shutil.copy(voices / "a0.wav", tmp_path / "copy.wav")
    words = ["--model", str(model_folder), "--json", "--vad", "off"]
    assert main(["verify", str(voices / "a0.wav"), str(copy), *words]) == 0
    said = capsys.readouterr()
    (note,) = [n for n in json.loads(said.out)["test"][0]["notes"] if n["code"] == "same-recording"]
    assert note["serious"] and "a0.wav" in note["text"] and "the same recording" in said.err
    assert main(["verify", str(copy), str(copy), *words, "--strict"]) == 2
    assert json.loads(capsys.readouterr().out)["same"] is None
    main(["verify", str(voices / "a1.wav"), str(copy), *words])
    assert "same-recording" not in capsys.readouterr().out


@pytest.fixture
def listen(model_folder, voices, capsys):
    """A function that listens without a detector to a file; gives the status, the lines and the notes."""

    def listen(*words, source=voices / "a1.wav", model=model_folder):
        start = ["listen", "--model", str(model), "--vad", "off", "--source", str(source)]
        status = main([*start, *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    return listen


def test_listen_says_the_score_every_second_and_decides_at_the_end(listen, voices):
    status, lines, _ = listen(voices / "a0.wav")
    looks, end = lines[:-4], lines[-4:]
    assert [float(line.split()[0]) for line in looks] == [1.0 + n for n in range(len(looks))] and len(
        looks
    ) > 1
    assert all(line.endswith("not yet") and "score" in line for line in looks)
    assert [line.split()[0] for line in end] == ["decision", "score", "probability", "cost"]
    assert end[0].split()[1] == ("different", "same")[status == 0] and "at the end, threshold 0.5" in end[0]


def test_listen_ends_where_the_test_of_the_card_decides_unless_it_goes_on(
    listen, model_folder, voices, tmp_path, capsys
):
    shutil.copytree(model_folder, tmp_path / "model")
    for same, different, status, word in (
        (-1, -2, 0, "same"),
        (2, 1.5, 1, "different"),
        (2, -2, 2, "not yet"),
    ):
        test = SequentialTest(0.01, 0.05, (same, same), (different, different))
        replace(Card.load(model_folder), sequential=test).save(tmp_path / "model")
        for more, least in ((), 1), (("--to-end",), 2):
            found, lines, _ = listen(voices / "a0.wav", "--json", *more, model=tmp_path / "model")
            looks = [json.loads(line) for line in lines]
            assert found == status and looks[-1]["decision"] == word
            if word != "not yet":
                assert {look["decision"] for look in looks} == {word}
                assert (len(looks) - 1 > 1) == bool(more)
            assert len(looks) - 1 >= least
        assert looks[-1]["real_time_factor"] > 0 and looks[-1]["test"][0]["seconds"] > 2
    main(
        [
            "verify",
            str(voices / "a0.wav"),
            str(voices / "a1.wav"),
            "--model",
            str(model_folder),
            "--json",
            "--vad",
            "off",
        ]
    )
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(looks[-1]["score"], abs=1e-5)


def test_listen_names_a_channel_that_drops_out_once(listen, voices, tmp_path):
    wav_T = read_audio(voices / "a1.wav")
    wav_CT = np.stack([wav_T, wav_T[::-1]])
    wav_CT[1, 8000:] = 0
    write_audio(tmp_path / "two.wav", wav_CT)
    _, _, notes = listen(voices / "a0.wav", source=tmp_path / "two.wav")
    (note,) = [line for line in notes if "channel 1 (counted from 0) keeps one value" in line]
    assert note.startswith(f"farvox listen: note: {tmp_path / 'two.wav'}: ")


def test_listen_without_an_answer_is_one_line_of_json(listen, voices):
    status, lines, _ = listen(voices / "a0.wav", "--json", source="absent.wav")
    assert status == 2 and json.loads(lines[-1])["error"]["code"] == "audio" and len(lines) == 1
    assert listen("--json")[0] == 2
