import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.corpora.registry import prepare
from farvox.datadir.check import check_data_dir
from farvox.datadir.derive import _files_of, combine, subset
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.datadir.pack import pack
from farvox.errors import DataDirError


def make(
    folder: Path, speakers: str, *, takes: int = 2, cond: str | None = None, length: int | None = 100
) -> Path:
    """A data dir with utterances `A-1`, `A-2`, ... of every speaker (a letter), in /audio/A-1.wav, ..."""
    utterances = [
        Utterance(f"{speaker}-{take}", f"/audio/{speaker}-{take}.wav", speaker, length)
        for speaker in speakers
        for take in range(1, takes + 1)
    ]
    conditions = "".join(f"{each.utt_id}\t{cond}\t\n" for each in utterances)
    files = {} if cond is None else {"utt2cond": f"utt_id\tdistance\tnote\n{conditions}"}
    write_data_dir(folder, utterances, files=files)
    return folder


def test_combining_is_concatenating_and_sorting(tmp_path: Path) -> None:
    dirs = [make(tmp_path / "x", "CA"), make(tmp_path / "y", "B"), make(tmp_path / "z", "D")]
    merged = combine(tmp_path / "out", dirs)
    expected = sorted((u for path in dirs for u in DataDir.open(path).utterances()), key=lambda u: u.utt_id)
    assert list(merged.utterances()) == expected
    assert list(DataDir.open(tmp_path / "out").utterances()) == expected
    assert [fault for fault in check_data_dir(tmp_path / "out") if "no such audio" not in fault.what] == []


def test_the_same_utterance_in_two_dirs_is_taken_once(tmp_path: Path) -> None:
    dirs = [make(tmp_path / "x", "AB", cond="1m"), make(tmp_path / "y", "BC", cond="1m")]
    assert combine(tmp_path / "out", dirs).utt_ids.to_list() == ["A-1", "A-2", "B-1", "B-2", "C-1", "C-2"]
    assert len((tmp_path / "out" / "utt2cond").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (Utterance("A-1", "/b.wav", "A", 100), r"the wav_path '/audio/A-1.wav' in .*x and '/b.wav' in .*y"),
        (Utterance("A-1", "/audio/A-1.wav", "Q", 100), r"'A-1' has the speaker_id 'A' in .*x and 'Q' in .*y"),
        (Utterance("A-1", "/audio/A-1.wav", "A", 7), r"has the num_samples '100' in .*x and '7' in .*y"),
    ],
)  # fmt: skip
def test_an_utterance_that_is_another_one_elsewhere_names_both_dirs(
    tmp_path: Path, other: Utterance, complaint: str
) -> None:
    make(tmp_path / "x", "A")
    write_data_dir(tmp_path / "y", [other])
    with pytest.raises(DataDirError, match=complaint):
        combine(tmp_path / "out", [tmp_path / "x", tmp_path / "y"])
    assert not (tmp_path / "out").exists()


def test_lengths_are_carried_when_every_dir_has_them(tmp_path: Path) -> None:
    x, y, z = make(tmp_path / "x", "A"), make(tmp_path / "y", "B"), make(tmp_path / "z", "C", length=None)
    combine(tmp_path / "out", [x, y])
    assert (tmp_path / "out" / "utt2num_samples").read_text().split()[:2] == ["A-1", "100"]
    combine(tmp_path / "out2", [x, y, z])
    assert not (tmp_path / "out2" / "utt2num_samples").exists()


def test_conditions_are_carried_and_empty_where_a_dir_does_not_say(tmp_path: Path) -> None:
    x, y = make(tmp_path / "x", "C", takes=1, cond="near"), make(tmp_path / "y", "A", takes=1, cond="far")
    (y / "utt2cond").write_text("utt_id\troom\tdistance\nA-1\thall\tfar\n")
    combine(tmp_path / "out", [x, y, make(tmp_path / "z", "D")])
    expected = "utt_id\tdistance\tnote\troom\nA-1\tfar\t\thall\nC-1\tnear\t\t\n"
    assert (tmp_path / "out" / "utt2cond").read_text() == expected
    assert [fault for fault in check_data_dir(tmp_path / "out") if "no such audio" not in fault.what] == []


def test_an_utterance_of_two_conditions_is_refused(tmp_path: Path) -> None:
    x, y = make(tmp_path / "x", "AB", cond="near"), make(tmp_path / "y", "BC", cond="far")
    with pytest.raises(DataDirError, match=r"'B-1' has the distance 'near' in .*x.utt2cond and 'far' in .*y"):
        combine(tmp_path / "out", [x, y])


def test_a_part_is_chosen_by_conditions(tmp_path: Path) -> None:
    dirs = [make(tmp_path / name, name.upper(), cond=where) for name, where in (("a", "1M"), ("b", "3M"))]
    whole = combine(tmp_path / "whole", [*dirs, make(tmp_path / "c", "C")])
    far = subset(whole.path, tmp_path / "far", where={"distance": ["3M"]})
    assert far.utt_ids.to_list() == ["B-1", "B-2"]
    assert (far.path / "utt2cond").read_text() == "utt_id\tdistance\tnote\nB-1\t3M\t\nB-2\t3M\t\n"
    with pytest.raises(DataDirError, match="no utterance has distance '5M'"):
        subset(whole.path, tmp_path / "none", where={"distance": ["5M"]})
    with pytest.raises(DataDirError, match="c: has no utt2cond, so --where cannot be answered"):
        subset(tmp_path / "c", tmp_path / "none", where={"distance": ["5M"]})
    assert not (tmp_path / "none").exists()


def test_files_about_speakers_are_carried_over(tmp_path: Path) -> None:
    x, y = make(tmp_path / "x", "CA"), make(tmp_path / "y", "B")
    (x / "spk2gender").write_text("A m\nC f\n")
    (y / "spk2gender").write_text("B f\nZ m\n")
    combine(tmp_path / "out", [x, y])
    assert (tmp_path / "out" / "spk2gender").read_text() == "A m\nB f\nC f\n"
    subset(tmp_path / "out", tmp_path / "part", speakers="2-3")
    assert (tmp_path / "part" / "spk2gender").read_text() == "B f\nC f\n"
    subset(tmp_path / "out", tmp_path / "one", speakers="2")
    assert (tmp_path / "one" / "spk2gender").read_text() == "B f\n"
    write_data_dir(y, [Utterance("C-9", "/audio/C-9.wav", "C", 100)], files={"spk2gender": "C m\n"})
    with pytest.raises(DataDirError, match=r"'C' has the line 'C f' in .*x.spk2gender and 'C m' in .*y"):
        combine(tmp_path / "out", [x, y])


def test_a_line_of_an_utterance_that_is_gone_is_no_header(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "B", takes=1)
    (source / "utt2dur").write_text("A-1 1.5\nB-1 2.5\n")
    subset(source, tmp_path / "out", speakers="1-1")
    assert (tmp_path / "out" / "utt2dur").read_text() == "B-1 2.5\n"


def test_a_file_with_another_header_is_refused(tmp_path: Path) -> None:
    x, y = make(tmp_path / "x", "A"), make(tmp_path / "y", "B")
    (x / "utt2room").write_text("utt\tdistance\nA-1\tr\nA-2\tr\n")
    (y / "utt2room").write_text("utt\troom\nB-1\tr\nB-2\tr\n")
    with pytest.raises(DataDirError, match=r"y.utt2room:1: header 'utt\troom'"):
        combine(tmp_path / "out", [x, y])


def test_speakers_are_known_in_every_dir_or_in_none(tmp_path: Path) -> None:
    x = make(tmp_path / "x", "A")
    y = write_data_dir(tmp_path / "y", [Utterance("n1", "/n1.wav")]).path
    z = write_data_dir(tmp_path / "z", [Utterance("n2", "/n2.wav")]).path
    with pytest.raises(DataDirError, match=r"y: has no speakers .*, but .*x has"):
        combine(tmp_path / "out", [x, y])
    assert combine(tmp_path / "out", [y, z]).utt_ids.to_list() == ["n1", "n2"]


def test_what_a_verb_made_of_the_same_dirs_is_replaced_and_no_other_data_dir(tmp_path: Path) -> None:
    x, y, z = (make(tmp_path / name, name.upper()) for name in "xyz")
    (tmp_path / "link").symlink_to("x")
    out = tmp_path / "out"
    combine(out, [x, y])
    (out / "text").write_text("X-1 hello\n")
    (out / "trials").write_text("X-1 Y-1 nontarget\n")
    write_data_dir(y, [Utterance("Y-9", "/9.wav", "Y", 1)])
    assert combine(out, [tmp_path / "link", y]).utt_ids.to_list() == ["X-1", "X-2", "Y-9"]
    assert not (out / "text").exists() and (out / "trials").exists()

    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    for refused in (
        lambda: combine(x, [y, z]),
        lambda: combine(x, [out]),
        lambda: combine(out, [y, z]),
        lambda: combine(x, [tmp_path / "link", y]),
        lambda: subset(x, z, speakers="1-1"),
        lambda: subset(x, out, speakers="1-1"),
        lambda: pack(x, z),
        lambda: pack(x, out),
    ):
        with pytest.raises(DataDirError, match=r"(x|z|out): (holds a data dir|is the data dir itself)"):
            refused()
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    combine(out, [y, x, x])  # the same
    (out / ".made-by.json").unlink()  # as an earlier farvox left it
    combine(out, [x, y])
    write_data_dir(y, [Utterance("Y-8", "/8.wav", "Y", 1)])
    combine(out, [x, y])
    (out / ".made-by.json").unlink()
    write_data_dir(y, [Utterance("Y-9", "/9.wav", "Y", 1)])
    with pytest.raises(DataDirError, match="out: holds a data dir"):
        combine(out, [x, y])
    subset(x, tmp_path / "part", per_speaker=1)
    (tmp_path / "part/.made-by.json").unlink()
    with pytest.raises(DataDirError, match="part: holds a data dir"):
        subset(x, tmp_path / "part")
    subset(x, tmp_path / "part", per_speaker=1)
    subset(x, tmp_path / "part")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/utt2spk").write_text("X-1 somebody\n")
    with pytest.raises(DataDirError, match="labels: holds a data dir"):
        combine(tmp_path / "labels", [x, y])


def test_a_project_that_was_moved_as_a_whole_is_made_again_where_it_lies_now(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("ann/1", "ann/2", "bob/1"):
        (path := tmp_path / f"here/rec/{name}.wav").parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, 0.1 * rng.standard_normal(1600).astype(np.float32))

    def make_all(home: Path) -> None:
        prepare("folder", home / "rec", home / "data")
        subset(home / "data/all", home / "data/ann", speakers="1-1")
        subset(home / "data/all", home / "data/bob", speakers="2-2")
        combine(home / "data/both", [home / "data/bob", home / "data/ann"])

    make_all(tmp_path / "here")
    for old, new, how in (("here", "deeper/copy", shutil.copytree), ("here", "there", shutil.move)):
        how(tmp_path / old, tmp_path / new)
        home = tmp_path / new
        make_all(home)
        for name in ("all", "both"):
            found = DataDir.open(home / "data" / name)
            assert found.utt_ids.to_list() == ["ann-1", "ann-2", "bob-1"]
            assert found.wav_paths.to_list() == [f"{home}/rec/{n}.wav" for n in ("ann/1", "ann/2", "bob/1")]
    with pytest.raises(DataDirError, match=r"ann: holds .* \(subset made it of \['.*there/data/all'\]\)"):
        subset(home / "data/both", home / "data/ann", speakers="1-1")
    shutil.move(home / "data/ann", tmp_path / "ann")  # alone: what lies beside it there is another dir
    with pytest.raises(DataDirError, match="ann: holds a data dir that farvox subset did not make"):
        subset(tmp_path / "deeper/copy/data/both", tmp_path / "ann", speakers="1-1")


def test_nothing_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="nothing to combine"):
        combine(tmp_path / "out", [])


def test_a_range_of_speakers_counts_from_one_and_includes_both_ends(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "DCBA", cond="near")
    part = subset(source, tmp_path / "out", speakers="2-3")
    assert part.utt_ids.to_list() == ["B-1", "B-2", "C-1", "C-2"]
    assert (tmp_path / "out" / "utt2cond").read_text().split()[:4] == ["utt_id", "distance", "note", "B-1"]
    assert len((tmp_path / "out" / "utt2cond").read_text().splitlines()) == 5


def test_the_parts_of_a_dir_make_the_whole_again(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "ABCD", cond="near")
    parts = [tmp_path / "first", tmp_path / "rest"]
    subset(source, parts[0], speakers="1-1")
    subset(source, parts[1], speakers="2-4")
    combine(tmp_path / "out", parts)
    for file in source.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("words", ["0-2", "3-2", "1-5"])
def test_a_range_beyond_the_speakers_says_how_many_there_are(tmp_path: Path, words: str) -> None:
    with pytest.raises(DataDirError, match=f"--speakers {words}: .*x has speakers 1-4"):
        subset(make(tmp_path / "x", "ABCD"), tmp_path / "out", speakers=words)


def test_speakers_are_named_in_a_file(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "ABC")
    (tmp_path / "list").write_text("C\r\nA and whatever follows\n")
    assert subset(source, tmp_path / "out", speakers=str(tmp_path / "list")).speaker_ids.to_list() == [
        *"AACC"
    ]
    (tmp_path / "list").write_text("C\nZ\n")
    with pytest.raises(DataDirError, match=r"list:2: .*x has no speaker 'Z'"):
        subset(source, tmp_path / "out", speakers=str(tmp_path / "list"))
    (tmp_path / "list").write_text("C\n\nA\n")
    with pytest.raises(DataDirError, match="list:2: empty line"):
        subset(source, tmp_path / "out", speakers=str(tmp_path / "list"))


def test_utterances_are_named_in_a_file(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "ABC")
    (tmp_path / "list").write_text("C-2\nA-1 /audio/A-1.wav\n")
    assert subset(source, tmp_path / "out", utterances=tmp_path / "list").utt_ids.to_list() == ["A-1", "C-2"]
    (tmp_path / "list").write_text("A-3\n")
    with pytest.raises(DataDirError, match=r"list:1: .*x has no utterance 'A-3'"):
        subset(source, tmp_path / "out", utterances=tmp_path / "list")


def test_some_utterances_of_each_speaker_are_drawn_by_the_seed(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "ABC", takes=30)
    draws = [
        subset(source, tmp_path / f"out{n}", per_speaker=5, seed=seed).utt_ids.to_list()
        for n, seed in enumerate([1, 1, 2])
    ]
    assert draws[0] == draws[1] != draws[2]
    assert Counter(utt_id[0] for utt_id in draws[0]) == {"A": 5, "B": 5, "C": 5}
    assert len(subset(source, tmp_path / "all", per_speaker=99)) == 90
    with pytest.raises(DataDirError, match="--per-speaker 0"):
        subset(source, tmp_path / "out", per_speaker=0)


def test_conditions_that_nothing_meets_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("A-1\n")
    with pytest.raises(DataDirError, match="no utterance meets all conditions"):
        subset(make(tmp_path / "x", "AB"), tmp_path / "out", speakers="2-2", utterances=tmp_path / "list")
    assert not (tmp_path / "out").exists()


def test_speakers_of_a_list_of_noises_cannot_be_chosen(tmp_path: Path) -> None:
    write_data_dir(tmp_path / "noise", [Utterance("n1", "/n1.wav")])
    with pytest.raises(DataDirError, match="neither utt2spk nor spk2utt"):
        subset(tmp_path / "noise", tmp_path / "out", speakers="1-1")


def test_a_subset_does_not_replace_its_own_source(tmp_path: Path) -> None:
    source = make(tmp_path / "x", "AB")
    with pytest.raises(DataDirError, match="is the data dir itself"):
        subset(source, tmp_path / "y/../x", speakers="1-1")
    assert len(DataDir.open(source)) == 4


def test_only_files_below_out_are_taken_for_files_of_a_batch():
    """What a batch is made again for is removed first: never anything that is the user's own."""
    names = [
        "a.wav",
        "s/b.wav",
        "..a/b.wav",
        "/home/u/x.wav",
        "../x.wav",
        "s/../../y.wav",
        "s/..",
        "http://h/x.wav",
    ]
    table = "file\tspeaker\n" + "".join(f"{name}\tann\n" for name in names)
    found = _files_of(Path("out/audio"), [], table.encode())
    assert found == [Path("out/audio") / name for name in names[:3]]
