from pathlib import Path

import pytest

from farvox.corpora.tree import audio_files, listed_files, open_source, read_text, stem, walk
from farvox.errors import CorpusError


def test_audio_is_found_at_any_depth_whatever_the_case_of_its_suffix(tmp_path, record):
    made = [record(tmp_path / name) for name in ("b.WAV", "a/c.flac", "a/b/d.ogg.wav")]
    (tmp_path / "a/readme.txt").write_text("not audio")
    assert sorted(audio_files(tmp_path)) == sorted(map(str, made))
    assert stem(str(made[2])) == "d.ogg"


def test_hidden_files_and_folders_are_left_out(tmp_path, record):
    record(tmp_path / ".trash/a.wav")
    (tmp_path / "._b.wav").write_bytes(b"what macOS leaves behind")
    assert list(audio_files(tmp_path)) == []


def test_a_linked_folder_is_followed_and_a_circle_of_links_ends(tmp_path, record):
    record(tmp_path / "elsewhere/a.wav")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/dev").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "corpus")
    assert list(audio_files(tmp_path / "corpus")) == [str(tmp_path / "corpus/dev/a.wav")]


def test_a_caller_of_walk_may_keep_out_of_folders(tmp_path, record):
    record(tmp_path / "in/a.wav")
    record(tmp_path / "out/b.wav")
    seen = []
    for _, folders, files in walk(tmp_path):
        folders[:] = [name for name in folders if name != "out"]
        seen += files
    assert seen == ["a.wav"]


def test_a_list_of_paths_is_resolved_from_the_folders_above_it(tmp_path, record):
    far = record(tmp_path / "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav")
    near = record(tmp_path / "RIRS_NOISES/lists/with blanks.wav")
    absolute = record(tmp_path / "other/x.wav")
    rir_list = tmp_path / "RIRS_NOISES/lists/rir_list"
    kaldi = "--rir-id 1 --room-id small RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav"
    rir_list.write_text(f"{kaldi}\nwith blanks.wav\r\n\n{absolute}\n{absolute}\n")
    assert listed_files(rir_list) == [str(far), str(near), str(absolute)]


def test_a_corpus_may_have_been_renamed(tmp_path, record):
    file = record(tmp_path / "rirs/real/x.wav")
    (tmp_path / "rirs/real/rir_list").write_text("--rir-id 1 --room-id a RIRS_NOISES/real/x.wav\n")
    assert listed_files(tmp_path / "rirs/real/rir_list") == [str(file)]


def test_a_list_that_names_an_absent_file_is_refused_at_its_line(tmp_path, record):
    record(tmp_path / "a.wav")
    (tmp_path / "noise_wav_list").write_text("a.wav\n/PATH/musan/noise/b.wav\n")
    with pytest.raises(CorpusError, match=r"noise_wav_list:2: no file /PATH/musan/noise/b\.wav"):
        listed_files(tmp_path / "noise_wav_list")


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "rir_list").write_text("\n\n")
    with pytest.raises(CorpusError, match="rir_list: an empty list"):
        listed_files(tmp_path / "rir_list")


def test_text_that_is_not_utf8_is_refused_by_name(tmp_path):
    (tmp_path / "trials_mic").write_bytes(b"ok\n\xff\xfe")
    with pytest.raises(CorpusError, match=r"trials_mic: not UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "trials_mic")


def test_an_absent_corpus_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; expected one with wav/"):
        open_source(tmp_path / "nowhere", tmp_path / "out", "wav/")


def test_the_corpus_is_not_its_own_output(tmp_path):
    with pytest.raises(CorpusError, match="choose an output folder outside"):
        open_source(tmp_path, tmp_path / "a/..", "wav/")


def test_an_output_inside_the_corpus_is_refused_where_it_could_be_taken_for_a_part_of_it(tmp_path):
    assert open_source(tmp_path, tmp_path / "data", "wav/") == tmp_path
    with pytest.raises(CorpusError, match="lies in the corpus"):
        open_source(tmp_path, tmp_path / "data", "wav/", apart=True)


def test_the_source_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_source(Path("corpus"), Path("out"), "wav/") == tmp_path / "corpus"
