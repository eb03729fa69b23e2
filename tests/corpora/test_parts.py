import pytest

from farvox.corpora.parts import recordings, unique, write_parts
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError


def test_lengths_are_measured_and_the_dir_reads_back(tmp_path, record, notes):
    found = [
        Utterance(name, str(record(tmp_path / f"{name}.wav", n)), "s") for name, n in (("b", 700), ("a", 900))
    ]
    (made,) = write_parts(tmp_path / "out", {"train": found}, note=notes.append, jobs=2)
    assert made.table.equals(DataDir.open(tmp_path / "out/train").table)
    assert made.table.select("utt_id", "num_samples").rows() == [("a", 900), ("b", 700)]
    assert notes == [f"{tmp_path / 'out/train'}: 2 utterances, 1 speakers"]


def test_a_known_length_is_not_measured_again(tmp_path, notes):
    (made,) = write_parts(tmp_path, {"all": [Utterance("a", "/not/there.wav", "s", 123)]}, note=notes.append)
    assert made.num_samples.to_list() == [123]


def test_an_unusable_file_is_left_out_counted_and_listed_with_the_reason(tmp_path, record, notes):
    good, empty = record(tmp_path / "good.wav"), record(tmp_path / "empty.wav", 0)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(good.read_bytes()[:1000])
    (made,) = write_parts(
        tmp_path / "out", {"all": recordings(map(str, [good, empty, broken]))}, note=notes.append
    )
    assert made.utt_ids.to_list() == ["good"]
    header, *rows = (tmp_path / "out/rejected.tsv").read_text().splitlines()
    assert header == "wav_path\treason"
    assert rows[0].startswith(f"{broken}\ttruncated") and rows[1] == f"{empty}\tholds no sample"
    assert notes[-1].startswith("2 audio files cannot be used")


def test_the_list_of_unusable_files_goes_when_all_is_well_again(tmp_path, record, notes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/rejected.tsv").write_text("of an earlier run")
    write_parts(tmp_path / "out", {"all": recordings([str(record(tmp_path / "a.wav"))])}, note=notes.append)
    assert not (tmp_path / "out/rejected.tsv").exists()


def test_a_part_without_any_usable_file_is_refused_with_a_reason(tmp_path, notes):
    (tmp_path / "a.wav").write_text("this is text")
    with pytest.raises(CorpusError, match=r"none of its audio files can be used: .*a\.wav: cannot be read"):
        write_parts(tmp_path / "out", {"all": recordings([str(tmp_path / "a.wav")])}, note=notes.append)
    assert not (tmp_path / "out/all").exists()


def test_a_folder_that_is_no_data_dir_is_not_written_into(tmp_path, record, notes):
    path = record(tmp_path / "musan/noise/a.wav")
    with pytest.raises(CorpusError, match="already there and not a data dir"):
        write_parts(tmp_path / "musan", {"noise": recordings([str(path)])}, note=notes.append)


def test_an_earlier_data_dir_is_replaced(tmp_path, record, notes):
    for name in ("a", "b"):
        write_parts(
            tmp_path / "out", {"all": recordings([str(record(tmp_path / f"{name}.wav"))])}, note=notes.append
        )
    assert DataDir.open(tmp_path / "out/all").utt_ids.to_list() == ["b"]


def test_further_files_go_into_their_part(tmp_path, notes):
    parts = {name: [Utterance(name, "/a.wav", "s", 1)] for name in ("dev", "test")}
    write_parts(tmp_path, parts, note=notes.append, files={"test": {"trials": "a b target\r\n"}})
    assert (tmp_path / "test/trials").read_bytes() == b"a b target\r\n"
    assert not (tmp_path / "dev/trials").exists()


def test_two_files_of_one_id_are_refused_and_both_are_named():
    with pytest.raises(CorpusError, match=r"/b/x\.wav: its utterance id 'x' is also that of /a/x\.wav"):
        unique([Utterance("x", "/a/x.wav"), Utterance("x", "/b/x.wav")])


def test_of_several_formats_the_preferred_one_is_kept():
    files = ["/a/x.m4a", "/b/x.wav", "/c/x.flac"]
    (kept,) = unique((Utterance("x", path) for path in files), prefer=(".wav", ".flac", ".m4a"))
    assert kept.wav_path == "/b/x.wav"


def test_blanks_in_a_file_name_become_underscores():
    assert [each.utt_id for each in recordings(["/a/dog bark  2.wav"])] == ["dog_bark_2"]


def test_nothing_is_written_when_one_part_cannot_be(tmp_path, record, notes):
    (tmp_path / "b.wav").write_text("this is text")
    parts = {
        "train": recordings([str(record(tmp_path / "a.wav"))]),
        "dev": recordings([str(tmp_path / "b.wav")]),
    }
    with pytest.raises(CorpusError, match="out/dev: none of its audio files can be used"):
        write_parts(tmp_path / "out", parts, note=notes.append)
    assert not (tmp_path / "out").exists()
