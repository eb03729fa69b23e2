import os
import re
import shutil

import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.corpora.folder import prepare_folder
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError, DataDirError
from farvox.farfield.rirs import audio_of


def test_an_id_is_the_speaker_and_the_path_below_the_speakers_folder(tmp_path, record, notes):
    record(tmp_path / "mine/alice/hello.wav")
    record(tmp_path / "mine/alice/2024/day 1/hello.flac")
    record(tmp_path / "mine/bob/a.b.ogg".replace("ogg", "WAV"))
    (made,) = prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)
    assert made.path.name == "all"
    assert made.table.select("utt_id", "speaker_id").rows() == [
        ("alice-2024-day_1-hello", "alice"), ("alice-hello", "alice"), ("bob-a.b", "bob"),
    ]  # fmt: skip
    assert made.wav_paths[0] == str(tmp_path / "mine/alice/2024/day 1/hello.flac")


def test_two_formats_of_one_recording_are_refused(tmp_path, record, notes):
    record(tmp_path / "mine/alice/hello.wav")
    record(tmp_path / "mine/alice/hello.flac")
    with pytest.raises(CorpusError, match=r"hello\.wav: its utterance id 'alice-hello' is also that of"):
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)


def test_two_paths_that_join_to_one_id_are_refused(tmp_path, record, notes):
    record(tmp_path / "mine/alice/a/b.wav")
    record(tmp_path / "mine/alice/a-b.wav")
    with pytest.raises(CorpusError, match="'alice-a-b' is also that of"):
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)


def test_audio_outside_the_speaker_folders_is_left_out_and_counted(tmp_path, record, notes):
    record(tmp_path / "mine/alice/a.wav")
    record(tmp_path / "mine/stray.wav")
    (made,) = prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)
    assert made.utt_ids.to_list() == ["alice-a"]
    assert any("1 audio files outside the speaker folders" in note for note in notes)


def test_a_folder_without_speakers_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "mine/a_1.wav")
    with pytest.raises(CorpusError, match="no speaker found; expected one folder per speaker") as refused:
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)
    pattern = re.search(r"--pattern '(.*)'", str(refused.value))[1]
    (made,) = prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append, pattern=pattern)
    assert made.speaker_ids.to_list() == ["a"]


def test_a_file_name_that_is_not_utf8_is_left_out_and_listed(tmp_path):
    write_audio(tmp_path / "in" / "A" / "a.wav", np.sin(np.arange(800.0)))
    shutil.copy(tmp_path / "in/A/a.wav", os.fsencode(tmp_path) + b"/in/A/b\xff.wav")
    (made,) = prepare_folder(tmp_path / "in", tmp_path / "out", note=print, jobs=1)
    assert made.utt_ids.to_list() == ["A-a"]
    (_, line) = (tmp_path / "out" / "rejected.tsv").read_text().splitlines()
    assert line.startswith(str(tmp_path / "in/A/b\\xff.wav")) and "not UTF-8" in line
    with pytest.raises(DataDirError, match="not UTF-8"):
        audio_of(tmp_path / "in")


def test_files_that_cannot_be_used_are_status_1_until_they_are_accepted(tmp_path, capsys):
    write_audio(tmp_path / "in" / "A" / "a.wav", np.sin(np.arange(800.0)))
    (tmp_path / "in/A/text.wav").write_text("no audio")
    words = ["prepare", "folder", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path}/out/rejected.tsv" in err and "--skip-bad" in err and "Traceback" not in err
    assert DataDir.open(tmp_path / "out/all").utt_ids.to_list() == ["A-a"]
    assert main([*words, "--skip-bad"]) == 0
    (_, line) = (tmp_path / "out/rejected.tsv").read_text().splitlines()
    assert line.startswith(str(tmp_path / "in/A/text.wav"))
    assert main(["prepare", "an4", str(tmp_path / "in"), str(tmp_path / "out"), "--pattern", "x"]) == 1
    assert "--pattern means nothing to the corpus an4" in capsys.readouterr().err


def test_more_than_a_share_of_unusable_files_is_refused_for_every_corpus(tmp_path, capsys):
    for name in ("noise/free-sound/a", "noise/free-sound/b", "noise/sound-bible/c"):
        (tmp_path / f"musan/{name}.wav").parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / f"musan/{name}.wav", np.sin(np.arange(800.0)))
    (tmp_path / "musan/noise/free-sound/b.wav").write_bytes(b"")
    words = ["prepare", "musan", str(tmp_path / "musan"), str(tmp_path / "out")]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path}/out/rejected.tsv: lists 1 of 3 files" in err and "more than 0.1 %" in err
    assert main([*words, *re.search(r"--max-rejects \S+", err)[0].split()]) == 0
    assert main([*words, "--max-rejects", "0.3"]) == 1
    assert main([*words, "--skip-bad"]) == 0


def test_rates_are_counted(tmp_path):
    (tmp_path / "in/ann").mkdir(parents=True)
    for name, rate in (("1", 8000), ("2", 16000), ("3", 16000)):
        write_audio(tmp_path / f"in/ann/{name}.wav", np.full(1600, 0.1), rate)
    notes = []
    prepare_folder(tmp_path / "in", tmp_path / "out", note=notes.append, jobs=1)
    assert notes[0] == "note: recordings of several rates: 1 at 8,000 Hz, 2 at 16,000 Hz"


def test_a_pattern_says_the_speaker_and_the_conditions(tmp_path, record, notes):
    record(tmp_path / "mine/alice/phone_1m_a.wav")
    record(tmp_path / "mine/bob/array_2_3.5m_b.flac")
    form = "{speaker}/{device}_{distance}m_{session}.wav"
    (made,) = prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append, pattern=form)
    assert made.speaker_ids.to_list() == ["alice", "bob"]
    assert (made.path / "utt2cond").read_text().splitlines() == [
        "utt_id\tdevice\tdistance\tsession",
        "alice-phone_1m_a\tphone\t1\ta",
        "bob-array_2_3.5m_b\tarray\t2_3.5\tb",  # as few characters as can be
    ]
    form_of_dots = "{speaker}/{device}_{distance}m_{a}.{b}"  # of which none is a suffix
    record(tmp_path / "dots/alice/phone_1m_a.2.wav")
    (made,) = prepare_folder(tmp_path / "dots", tmp_path / "out2", note=notes.append, pattern=form_of_dots)
    assert (made.path / "utt2cond").read_text().splitlines()[1].split("\t")[1:] == ["phone", "1", "a", "2"]
    record(tmp_path / "mine/bob/near.wav")
    with pytest.raises(CorpusError, match=r"bob/near\.wav: is not of the form --pattern"):
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append, pattern=form)


@pytest.mark.parametrize(
    "form", ["{device}.wav", "{speaker}/{speaker}.wav", "{speaker}/{a}{b}.wav", "{speaker}/{a"]
)
def test_a_pattern_that_cannot_be_read_is_refused(tmp_path, record, notes, form):
    record(tmp_path / "mine/alice/a.wav")
    with pytest.raises(CorpusError, match="--pattern '"):
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append, pattern=form)
