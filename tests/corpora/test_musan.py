from pathlib import Path

import pytest

from farvox.corpora.musan import prepare_musan
from farvox.errors import CorpusError


@pytest.fixture
def musan(tmp_path, record) -> Path:
    root = tmp_path / "musan"
    for path in (
        "noise/free-sound/noise-free-sound-0000", "noise/sound-bible/noise-sound-bible-0001",
        "music/fma/music-fma-0000", "speech/librivox/speech-librivox-0000",
    ):  # fmt: skip
        record(root / f"{path}.wav")
    (root / "noise/free-sound/LICENSE").write_text("not audio")
    return root


def test_noise_music_and_speech_become_a_dir_each(musan, tmp_path, notes):
    noise, music, speech = prepare_musan(musan, tmp_path / "out", note=notes.append)
    assert noise.utt_ids.to_list() == ["noise-free-sound-0000", "noise-sound-bible-0001"]
    assert noise.wav_paths[0] == str(musan / "noise/free-sound/noise-free-sound-0000.wav")
    assert (music.path.name, speech.path.name) == ("music", "speech")
    assert sorted(path.name for path in (tmp_path / "out/music").iterdir()) == ["utt2num_samples", "wav.scp"]


def test_the_folder_above_will_do(musan, tmp_path, notes):
    made = prepare_musan(musan.parent, tmp_path / "out", note=notes.append)
    assert len(made) == 3


def test_the_baselines_lists_of_paths_are_taken(musan, tmp_path, notes):
    lists = tmp_path / "data/MUSAN"
    lists.mkdir(parents=True)
    (lists / "noise_wav_list").write_text(f"{musan}/noise/sound-bible/noise-sound-bible-0001.wav\n")
    (lists / "music_wav_list").write_text(f"{musan}/music/fma/music-fma-0000.wav\n")
    noise, music = prepare_musan(lists, tmp_path / "out", note=notes.append)
    assert (noise.utt_ids.to_list(), music.utt_ids.to_list()) == (
        ["noise-sound-bible-0001"],
        ["music-fma-0000"],
    )
    assert notes[0] == f"{lists}: nothing for the part 'speech'"


def test_one_list_alone_is_taken_for_the_part_it_is_named_after(musan, tmp_path, notes):
    (tmp_path / "speech_wav_list").write_text("musan/speech/librivox/speech-librivox-0000.wav\n")
    (made,) = prepare_musan(tmp_path / "speech_wav_list", tmp_path / "out", note=notes.append)
    assert (made.path.name, made.utt_ids.to_list()) == ("speech", ["speech-librivox-0000"])


def test_a_list_of_unknown_kind_is_refused(musan, tmp_path, notes):
    (tmp_path / "wav_list").write_text("musan/music/fma/music-fma-0000.wav\n")
    with pytest.raises(CorpusError, match="wav_list: this list is of no known part"):
        prepare_musan(tmp_path / "wav_list", tmp_path / "out", note=notes.append)


def test_a_list_with_the_baselines_placeholder_path_is_refused_at_its_line(tmp_path, notes):
    (tmp_path / "noise_wav_list").write_text("/PATH/musan/noise/sound-bible/noise-sound-bible-0066.wav\n")
    with pytest.raises(CorpusError, match="noise_wav_list:1: no file /PATH/musan"):
        prepare_musan(tmp_path / "noise_wav_list", tmp_path / "out", note=notes.append)


def test_another_tree_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "corpus/a.wav")
    with pytest.raises(CorpusError, match="not the MUSAN corpus; expected noise/, music/ and speech/"):
        prepare_musan(tmp_path / "corpus", tmp_path / "out", note=notes.append)


def test_two_recordings_of_one_name_are_refused(musan, tmp_path, record, notes):
    record(musan / "music/again/music-fma-0000.wav")
    with pytest.raises(CorpusError, match="'music-fma-0000' is also that of"):
        prepare_musan(musan, tmp_path / "out", note=notes.append)
