import shutil
from pathlib import Path

import pytest

from farvox.corpora.parts import (
    audio_files,
    listed_files,
    open_source,
    read_text,
    recordings,
    stem,
    unique,
    walk,
    write_parts,
)
from farvox.corpora.registry import PREPARERS, prepare
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError, DataDirError


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


def test_an_earlier_data_dir_of_the_same_recordings_is_replaced_and_no_other(tmp_path, record, notes):
    a, b, c = (str(record(tmp_path / f"{name}.wav")) for name in "abc")
    for paths in ([a], [a, b], [b]):  # more was downloaded, and one was removed
        write_parts(tmp_path / "out", {"all": recordings(paths)}, note=notes.append)
    assert DataDir.open(tmp_path / "out/all").utt_ids.to_list() == ["b"]
    with pytest.raises(DataDirError, match="all: holds a data dir that farvox prepare did not make"):
        write_parts(tmp_path / "out", {"new": recordings([b]), "all": recordings([c])}, note=notes.append)
    assert (
        DataDir.open(tmp_path / "out/all").utt_ids.to_list() == ["b"] and not (tmp_path / "out/new").exists()
    )


def test_moved_and_copied_recordings_are_known_again_and_others_of_the_same_names_are_not(
    tmp_path, record, notes
):
    paths = [record(tmp_path / f"near/{name}.wav") for name in "ab"]
    write_parts(tmp_path / "out", {"all": recordings(map(str, paths))}, note=notes.append)
    other = [str(record(tmp_path / f"far/{name}.wav", 900)) for name in "ab"]
    with pytest.raises(DataDirError, match="all: holds a data dir that farvox prepare did not make"):
        write_parts(tmp_path / "out", {"all": recordings(other)}, note=notes.append)
    shutil.copytree(tmp_path / "near", tmp_path / "copied")
    for old, new in (("near", "copied"), ("copied", "moved")):
        if new == "moved":
            shutil.move(tmp_path / old, tmp_path / new)
        now = [str(path) for path in sorted((tmp_path / new).iterdir())]
        (made,) = write_parts(tmp_path / "out", {"all": recordings(now)}, note=notes.append)
        assert DataDir.open(made.path).wav_paths.to_list() == now


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
    assert open_source(tmp_path, tmp_path / "data/a", "wav/", read=["wav"]) == tmp_path
    for out, read in (("wav", ["wav"]), ("above/wav/a", ["wav"]), ("data", ()), ("a/../wav/..", ["wav"])):
        with pytest.raises(CorpusError, match="lies in the corpus"):
            open_source(tmp_path, tmp_path / out, "wav/", read=read)


@pytest.mark.parametrize("corpus", sorted({*PREPARERS} - {"synthetic", "noise"}))
def test_no_corpus_is_prepared_into_a_folder_that_is_read(tmp_path, corpus):
    inside = {"himia": "train", "musan": "noise", "3dspeaker": "test", "an4": "wav/an4_clstk/fash"}
    inside["rirs_noises"] = "RIRS_NOISES/simulated_rirs"
    out = tmp_path / "corpus" / inside.get(corpus, "9616")
    out.mkdir(parents=True)
    with pytest.raises(CorpusError, match=f"{out.name}.*: lies in the corpus .*choose an output folder out"):
        prepare(corpus, tmp_path / "corpus", out / "out")


def test_the_source_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_source(Path("corpus"), Path("out"), "wav/") == tmp_path / "corpus"


def test_every_pair_of_files_with_one_id_is_named_at_once():
    twice = [Utterance(name, f"/{folder}/{name}.wav", "s") for folder in "ab" for name in "xyz"]
    with pytest.raises(CorpusError) as caught:
        unique(twice)
    lines = str(caught.value).split("\n")
    assert [line.partition(":")[0] for line in lines] == ["/b/x.wav", "/b/y.wav", "/b/z.wav"]
