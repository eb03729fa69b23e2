import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.datadir.kaldi import (
    DataDir,
    Utterance,
    read_lines,
    read_table,
    regular_pairs,
    split_lines,
    values_of,
    write_data_dir,
)
from farvox.errors import DataDirError

# Anything but what ends a field or a line for Python, Kaldi or polars.
LETTERS = st.characters(
    codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters="\ufeff"
)
FIELDS = st.text(LETTERS, min_size=1, max_size=12)
PATHS = FIELDS.filter(lambda path: not path.endswith("|"))


@st.composite
def utterance_lists(draw: st.DrawFn) -> list[Utterance]:
    ids = draw(st.lists(FIELDS, min_size=1, max_size=8, unique=True))
    speakers = FIELDS if draw(st.booleans()) else st.none()
    lengths = st.integers(0, 2**40) if draw(st.booleans()) else st.none()
    return [Utterance(utt_id, draw(PATHS), draw(speakers), draw(lengths)) for utt_id in ids]


def make(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        content = text.encode() if isinstance(text, str) else text
        (folder / name.replace("wav_scp", "wav.scp")).write_bytes(content)
    return folder


@settings(deadline=None, max_examples=50)
@given(utterances=utterance_lists())
def test_a_data_dir_is_read_as_it_was_written_sorted(
    tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    written = write_data_dir(folder, utterances)
    opened = DataDir.open(folder)
    assert list(opened.utterances()) == sorted(utterances, key=lambda u: u.utt_id.encode())
    assert opened.table.equals(written.table)


@settings(deadline=None, max_examples=100)
@given(
    text=st.lists(st.sampled_from(["a", "b/c", "é", '"', " ", "  ", "\t", "\n", "\r\n", "\r"]), max_size=12),
    tail=st.sampled_from(["", "\n", "\n\n"]),
)
def test_a_table_read_at_once_is_the_one_read_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, text: list[str], tail: str
) -> None:
    path = tmp_path_factory.mktemp("data") / "table"
    path.write_text("a b\n" + "".join(text) + tail, newline="")
    found = regular_pairs(path, ("key", "value"))
    if found is not None:
        assert found.equals(split_lines(read_lines(path), ("key", "value")))
        assert found.equals(read_table(path, ("key", "value")))


def test_regular_tables_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "table"
    for text, regular in (("a b\nc d\n", True), ("a b\nc d", True), ("a b\nc d e\n", False), ("", False)):
        path.write_text(text)
        assert (regular_pairs(path, ("key", "value")) is not None) == regular


def test_values_come_in_the_order_asked_for_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "utt2cluster").write_text("a c1 0.9\nb c2 0.8\n")
    assert values_of(tmp_path / "utt2cluster", ["b", "a"]).to_list() == ["c2 0.8", "c1 0.9"]
    with pytest.raises(DataDirError, match="utt2cluster: has no line for the utterance 'z'"):
        values_of(tmp_path / "utt2cluster", ["a", "z"])


@settings(deadline=None, max_examples=50)
@given(utterances=utterance_lists())
def test_the_files_are_as_sort_in_the_c_locale_would_leave_them(
    tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    write_data_dir(folder, utterances)
    for file in folder.iterdir():
        keys = [line.split(b" ")[0] for line in file.read_bytes().splitlines()]
        assert keys == sorted(keys)


def test_only_wav_scp_is_needed(tmp_path: Path) -> None:
    opened = DataDir.open(make(tmp_path, wav_scp="b /b.wav\na /a.wav\n", trials="1 a b\n"))
    assert list(opened.utterances()) == [Utterance("b", "/b.wav"), Utterance("a", "/a.wav")]
    assert len(opened) == 2


def test_speakers_come_from_spk2utt_where_there_is_no_utt2spk(tmp_path: Path) -> None:
    folder = make(tmp_path, wav_scp="a 1.wav\nb 2.wav\nc 3.wav\n", spk2utt="s1 a  c\ns2\tb\n")
    assert DataDir.open(folder).speaker_ids.to_list() == ["s1", "s2", "s1"]


def test_rows_keep_the_order_of_wav_scp_whatever_the_order_of_the_others(tmp_path: Path) -> None:
    folder = make(
        tmp_path, wav_scp="b 2.wav\na 1.wav\n", utt2spk="a s1\nz s9\nb s2\n", utt2num_samples="a 10\n"
    )
    opened = DataDir.open(folder)
    assert opened.utt_ids.to_list() == ["b", "a"]
    assert opened.speaker_ids.to_list() == ["s2", "s1"]
    assert opened.num_samples.to_list() == [None, 10]


def test_windows_lines_tabs_and_stray_blanks_are_understood(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfa\t \t/my music/a.wav \t\r\n  b   /b\tc.wav\r\nc /c.wav"
    opened = DataDir.open(make(tmp_path, wav_scp=text))
    assert opened.utt_ids.to_list() == ["a", "b", "c"]
    assert opened.wav_paths.to_list() == ["/my music/a.wav", "/b\tc.wav", "/c.wav"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a 1.wav\n\nb 2.wav\n", r"wav.scp:2: empty line"),
        (b"a 1.wav\nb\n", r"wav.scp:2: 'b' has no second field"),
        (b"a 1.wav\nb 2.wav\na 1.wav\n", r"wav.scp:3: 'a' is there twice"),
        (b"a 1.wav\nb \xff.wav\n", r"wav.scp:2: not UTF-8 text: b \\xff.wav"),
        (b"a sph2pipe -f wav a.sph |\n", r"wav.scp:1: the audio of 'a' is a command"),
        (b"", r"wav.scp: is empty"),
    ],
)
def test_a_bad_wav_scp_is_refused_by_line(tmp_path: Path, text: bytes, complaint: str) -> None:
    with pytest.raises(DataDirError, match=complaint):
        DataDir.open(make(tmp_path, wav_scp=text))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"utt2spk": "a s1\n"}, r"wav.scp:2: 'b' has no speaker in utt2spk"),
        ({"spk2utt": "s1 a\n"}, r"wav.scp:2: 'b' has no speaker in spk2utt"),
        ({"utt2spk": "a s1\nb s1\nb s2\n"}, r"utt2spk:3: 'b' is there twice"),
        ({"utt2num_samples": "a 100\nb 1.5\n"}, r"utt2num_samples:2: '1.5' is not a number of samples"),
        ({"utt2num_samples": "a -1\n"}, r"utt2num_samples:1: '-1' is not"),
    ],
)
def test_files_that_do_not_fit_wav_scp_are_refused_by_line(
    tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    with pytest.raises(DataDirError, match=complaint):
        DataDir.open(make(tmp_path, wav_scp="a 1.wav\nb 2.wav\n", **files))


def test_a_folder_without_wav_scp_says_where_one_is(tmp_path: Path) -> None:
    make(tmp_path / "out" / "train", wav_scp="a 1.wav\n")
    with pytest.raises(DataDirError, match=r"no wav.scp; did you mean .*train"):
        DataDir.open(tmp_path / "out")
    with pytest.raises(DataDirError, match="no such data dir"):
        DataDir.open(tmp_path / "nowhere")


def test_a_table_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="utt2cond: no such file"):
        read_table(tmp_path / "utt2cond")


@pytest.mark.parametrize(
    ("utterances", "complaint"),
    [
        ([], "no utterance"),
        ([Utterance("a b", "x.wav")], "'a b' cannot be a utt_id"),
        ([Utterance("a", "x.wav", "s 1")], "'s 1' cannot be a speaker_id"),
        ([Utterance("a", "x\n.wav")], "wav.scp cannot hold the audio path"),
        ([Utterance("a", "cat x.wav |")], "wav.scp cannot hold the audio path"),
        ([Utterance("a", "x.wav"), Utterance("a", "y.wav")], "'a' is there twice"),
        ([Utterance("a", "x.wav", "s1"), Utterance("b", "y.wav")], "'b' has no speaker, others have"),
    ],
)
def test_ids_and_paths_that_no_line_can_hold_are_refused(
    tmp_path: Path, utterances: list[Utterance], complaint: str
) -> None:
    with pytest.raises(DataDirError, match=complaint):
        write_data_dir(tmp_path / "data", utterances)
    assert not (tmp_path / "data").exists()


def test_lengths_known_for_some_utterances_only_are_left_out(tmp_path: Path) -> None:
    write_data_dir(tmp_path, [Utterance("a", "x.wav", None, 5), Utterance("b", "y.wav")])
    assert os.listdir(tmp_path) == ["wav.scp"]


def test_writing_again_removes_what_was_said_of_the_old_utterances_and_keeps_the_audio(
    tmp_path: Path,
) -> None:
    write_data_dir(tmp_path, [Utterance("a", "x.wav", "s", 5)], files={"utt2cond": "a near\n"})
    make(tmp_path, **{"x.wav": b"sound"})
    write_data_dir(tmp_path, [Utterance("b", "y.wav")], files={"trials": "1 b b\n"})
    assert sorted(os.listdir(tmp_path)) == ["trials", "wav.scp", "x.wav"]
    with pytest.raises(DataDirError, match="not the name of a further file"):
        write_data_dir(tmp_path, [Utterance("b", "y.wav")], files={"../trials": "1 b b\n"})


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir of a million utterances and as many audio paths: 1,000 linked folders of 1,000 links."""
    folder = tmp_path_factory.mktemp("million")
    (folder / "audio").mkdir()
    (folder / "audio" / "one.wav").write_bytes(b"RIFF")
    for number in range(1000):
        (folder / "audio" / f"{number:03}.wav").symlink_to("one.wav")
        (folder / f"{number:03}").symlink_to("audio", target_is_directory=True)
    n = pl.int_range(1_000_000, eager=True)
    parts = {"speaker": (n // 200, 5), "video": (n // 20 % 10, 4), "take": (n, 7)}
    parts |= {"folder": (n // 1000, 3), "file": (n % 1000, 3)}
    table = pl.DataFrame(
        {name: part.cast(pl.String).str.zfill(width) for name, (part, width) in parts.items()}
    )
    table = table.select(
        utt_id=pl.format("id{}-video{}-{}", "speaker", "video", "take"),
        wav_path=pl.format("{}/{}/{}.wav", pl.lit(str(folder)), "folder", "file"),
        speaker_id=pl.format("id{}", "speaker"),
        num_samples=pl.lit(64000),
    )
    write_data_dir(folder / "data", table)
    return folder / "data"


@pytest.mark.slow
def test_a_million_utterances_open_in_two_seconds(million: Path) -> None:
    seconds = []
    for _ in range(5):  # neither the disk nor the neighbours are what is measured
        start = time.perf_counter()
        opened = DataDir.open(million)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    assert len(opened) == 1_000_000
    assert opened.speaker_ids.n_unique() == 5000


@pytest.mark.slow
def test_a_million_utterances_are_checked_in_twenty_seconds_and_two_gigabytes(million: Path) -> None:
    # VmHWM is the command's own; ru_maxrss would be that of the process it was forked from, if that is more.
    code = (
        "import re, sys\nfrom farvox.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the most memory that a process took is read from /proc")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(million)], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 20
    assert "1,000,000 utterances of 5,000 speakers" in done.stdout
    assert int(done.stderr.split()[-1]) < 2 * 1024**2  # KiB
