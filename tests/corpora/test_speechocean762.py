from pathlib import Path

import pytest

from farvox.corpora.speechocean762 import prepare_speechocean762
from farvox.errors import CorpusError


@pytest.fixture
def speechocean(tmp_path, record) -> Path:
    """Two speakers in train, one in test; lists with tabs, sound files with a capital suffix."""
    root = tmp_path / "speechocean762"
    for part, speakers in (("train", ("0001", "0005")), ("test", ("0003",))):
        utterances = [(f"0{speaker}{take:04}", speaker) for speaker in speakers for take in (11, 35)]
        (root / part).mkdir(parents=True)
        entries = [f"{utt}\tWAVE/SPEAKER{speaker}/{utt}.WAV\n" for utt, speaker in utterances]
        (root / part / "wav.scp").write_text("".join(entries))
        (root / part / "utt2spk").write_text("".join(f"{utt}\t{speaker}\n" for utt, speaker in utterances))
        (root / part / "spk2age").write_text("".join(f"{speaker}\t6\n" for speaker in speakers))
        for utt, speaker in utterances:
            record(root / f"WAVE/SPEAKER{speaker}/{utt}.WAV")
    (root / "train/spk2gender").write_text("0001\tm\n0005\tf\n")
    return root


def test_both_parts_keep_the_ids_of_the_corpus(speechocean, tmp_path, notes):
    train, test = prepare_speechocean762(speechocean, tmp_path / "out", note=notes.append)
    assert train.table.row(0) == (
        "000010011",
        str(speechocean / "WAVE/SPEAKER0001/000010011.WAV"),
        "0001",
        800,
    )
    assert (len(train), len(test), test.speaker_ids.unique().to_list()) == (4, 2, ["0003"])


def test_age_and_gender_are_carried_where_present(speechocean, tmp_path, notes):
    prepare_speechocean762(speechocean, tmp_path / "out", note=notes.append)
    assert (tmp_path / "out/train/spk2gender").read_text() == "0001\tm\n0005\tf\n"
    assert (tmp_path / "out/test/spk2age").read_text() == "0003\t6\n"
    assert not (tmp_path / "out/test/spk2gender").exists()


def test_files_that_were_converted_since_are_found(speechocean, tmp_path, record, notes):
    for path in list(speechocean.rglob("*.WAV")):
        record(path.with_suffix(".flac"))
        path.unlink()
    train, _ = prepare_speechocean762(speechocean, tmp_path / "out", note=notes.append)
    assert train.wav_paths[0] == str(speechocean / "WAVE/SPEAKER0001/000010011.flac")


def test_an_absent_part_is_a_note(speechocean, tmp_path, notes):
    (speechocean / "test/wav.scp").unlink()
    made = prepare_speechocean762(
        speechocean.parent, tmp_path.parent / f"{tmp_path.name}_out", note=notes.append
    )
    assert [each.path.name for each in made] == ["train"]
    assert any("no part 'test'" in note for note in notes)


def test_an_absent_file_is_refused_at_its_line(speechocean, tmp_path, notes):
    (speechocean / "WAVE/SPEAKER0001/000010035.WAV").unlink()
    with pytest.raises(CorpusError, match=r"train/wav\.scp:2: no file .*000010035\.WAV \(nor"):
        prepare_speechocean762(speechocean, tmp_path / "out", note=notes.append)


def test_an_utterance_without_speaker_is_refused_at_its_line(speechocean, tmp_path, notes):
    (speechocean / "train/utt2spk").write_text("000010011 0001\n")
    with pytest.raises(CorpusError, match=r"wav\.scp:2: utterance 000010035 has no speaker"):
        prepare_speechocean762(speechocean, tmp_path / "out", note=notes.append)


def test_the_lists_of_the_corpus_are_not_replaced(speechocean, tmp_path, notes):
    before = (speechocean / "train/wav.scp").read_text()
    for source in (speechocean, speechocean.parent):
        with pytest.raises(CorpusError, match="lies in the corpus"):
            prepare_speechocean762(source, speechocean, note=notes.append)
    assert (speechocean / "train/wav.scp").read_text() == before


def test_another_tree_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "corpus/WAVE/a.wav")
    with pytest.raises(CorpusError, match=r"not the speechocean762 corpus; expected train/ and test/"):
        prepare_speechocean762(tmp_path / "corpus", tmp_path / "out", note=notes.append)


def test_the_real_corpus_has_2500_utterances_of_125_speakers(corpora, tmp_path, notes):
    (train,) = prepare_speechocean762(corpora / "speechocean762", tmp_path / "out", note=notes.append)
    assert (len(train), train.speaker_ids.n_unique()) == (2500, 125)
    assert train.num_samples.sum() / 16000 / 3600 == pytest.approx(2.88, abs=0.01)
    assert (tmp_path / "out/train/spk2age").is_file()
