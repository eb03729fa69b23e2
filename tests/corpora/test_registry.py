import subprocess
import sys

import pytest

from farvox.corpora.registry import PREPARERS, PrepareOptions, prepare, prepare_folder
from farvox.errors import CorpusError, UsageError


def test_every_corpus_of_the_issue_is_listed():
    assert list(PREPARERS) == [
        "voxceleb1", "voxceleb2", "himia", "ffsvc2020", "ffsvc2022", "3dspeaker", "cnceleb", "voices",
        "musan", "rirs_noises", "speechocean762", "an4", "folder", "synthetic",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PREPARERS)
def test_every_listed_function_is_there_and_documented(name):
    preparer = PREPARERS[name]
    function = preparer.load()
    assert function.__name__ == f"prepare_{name}"
    assert function.__doc__ and preparer.summary


def test_listing_the_corpora_imports_none_of_them():
    script = (
        "import sys, farvox.corpora.registry;"
        "print(sorted(set(sys.modules) & {'numpy', 'polars', 'av', 'soundfile', 'farvox.corpora.himia'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_corpus_is_prepared_by_name(tmp_path, record, notes):
    record(tmp_path / "mine/alice/a.wav")
    options = PrepareOptions(jobs=1, trials=None)
    (made,) = prepare("folder", str(tmp_path / "mine"), str(tmp_path / "out"), options, note=notes.append)
    assert made.utt_ids.to_list() == ["alice-a"]


def test_an_unknown_corpus_is_refused_with_the_nearest_name(tmp_path, notes):
    with pytest.raises(CorpusError, match=r"unknown corpus 'voxceleb'; did you mean 'voxceleb\d'\?; farvox"):
        prepare("voxceleb", tmp_path, tmp_path, note=notes.append)


def test_an_option_that_the_corpus_does_not_take_is_refused(tmp_path, notes):
    with pytest.raises(CorpusError, match="--convert means nothing to the corpus himia; it takes --jobs"):
        prepare("himia", tmp_path, tmp_path / "out", PrepareOptions(convert="flac"), note=notes.append)


def test_no_jobs_at_all_are_refused():
    with pytest.raises(UsageError, match="jobs = 0; it must be at least 1"):
        PrepareOptions(jobs=0)


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
    record(tmp_path / "mine/a.wav")
    with pytest.raises(CorpusError, match="no speaker found; expected one folder per speaker"):
        prepare_folder(tmp_path / "mine", tmp_path / "out", note=notes.append)
