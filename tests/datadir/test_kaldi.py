import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import read_audio
from farvox.datadir.check import check_data_dir, fix_data_dir
from farvox.datadir.derive import combine, subset
from farvox.datadir.kaldi import (
    DataDir,
    Utterance,
    file_of_command,
    read_lines,
    read_table,
    regular_pairs,
    split_lines,
    values_of,
    write_data_dir,
)
from farvox.datadir.pack import pack
from farvox.errors import DataDirError
from farvox.training.loader import ChunkDataset
from farvox.training.table import TrainingTable

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
    assert values_of(tmp_path / "utt2cluster", ["b", "a"], "label").to_list() == ["c2 0.8", "c1 0.9"]
    with pytest.raises(DataDirError, match="utt2cluster: has no line for the utterance 'z'"):
        values_of(tmp_path / "utt2cluster", ["a", "z"], "label")


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
        (b"a 1.wav\n\nb 2.wav\n", r"wav.scp:2: empty line.*farvox check .* --fix OUT"),
        (b"a 1.wav\nb\n", r"wav.scp:2: 'b' has no second field"),
        (b"a 1.wav\nb 2.wav\na 1.wav\n", r"wav.scp:3: 'a' is there twice"),
        (b"a 1.wav\nb \xff.wav\n", r"wav.scp:2: not UTF-8 text: b \\xff.wav"),
        (b"a sox a.sph -t wav - speed 2 |\n", r"wav.scp:1: the audio of 'a' is a command"),
        (b"", r"wav.scp: is empty"),
    ],
)
def test_a_bad_wav_scp_is_refused_by_line(tmp_path: Path, text: bytes, complaint: str) -> None:
    with pytest.raises(DataDirError, match=complaint):
        DataDir.open(make(tmp_path, wav_scp=text))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"utt2spk": "a s1\nb s2 x\n"},
            r"utt2spk:2: more than two fields: 'b s2 x'; every line is",
        ),
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
        "import re, sys, time\nfrom farvox.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "most = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(most, time.process_time(), file=sys.stderr)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the most memory that a process took is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(million)], capture_output=True, text=True, check=True
    )
    assert "1,000,000 utterances of 5,000 speakers" in done.stdout
    most, seconds = map(float, done.stderr.split()[-2:])  # KiB; of both cores, which others use too
    assert most < 2 * 1024**2 and seconds < 2 * 20


class TestSegments:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """Recordings r1 (3 s), r2 (2 s, two channels) and a third of which there is no segment."""
        rng = np.random.default_rng(5)
        for name, shape in {"r1": (24000,), "r2": (16000, 2), "r3": (8000,)}.items():
            soundfile.write(tmp_path / f"{name}.wav", rng.integers(-9000, 9000, shape, dtype=np.int16), 8000)
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "wav.scp").write_text("".join(f"{r} {tmp_path / r}.wav\n" for r in ("r1", "r2", "r3")))
        (folder / "segments").write_text(
            "a-1 r1 0.00 1.255 \t\na-2\tr1  1.255 -1\r\nb-1 r2 0.3 1.7 1\nb-2 r2 0.3 2.2 0\n"
        )
        (folder / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\nb-2 b\n")
        return folder

    def test_an_utterance_is_a_stretch_of_a_recording(self, data: Path) -> None:
        opened = DataDir.open(data)
        assert opened.utt_ids.to_list() == ["a-1", "a-2", "b-1", "b-2"]
        assert opened.speaker_ids.to_list() == ["a", "a", "b", "b"]
        recordings = {r: soundfile.read(data.parent / f"{r}.wav", always_2d=True)[0] for r in ("r1", "r2")}
        wanted = [
            ("r1", 0, 10040, 0),
            ("r1", 10040, 24000, 0),
            ("r2", 2400, 13600, 1),
            ("r2", 2400, 16000, 0),
        ]
        for path, (recording, begin, end, channel) in zip(opened.wav_paths, wanted, strict=True):
            wav_T = read_audio(path, sample_rate=8000)
            np.testing.assert_array_equal(wav_T, recordings[recording][begin:end, channel].astype(np.float32))

    @pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
    def test_a_stretch_is_what_sox_cuts_out(self, data: Path, tmp_path: Path) -> None:
        for path, cut in zip(DataDir.open(data).wav_paths, ("0 =1.255", "1.255"), strict=False):
            source, target = str(tmp_path / "r1.wav"), str(tmp_path / "cut.wav")
            subprocess.run(["sox", "-D", source, target, "trim", *cut.split()], check=True)
            np.testing.assert_array_equal(
                read_audio(path, sample_rate=8000), read_audio(target, sample_rate=8000)
            )

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("b-3 r2 1.0 1.0", "'b-3' begins at 1.0 s and ends at 1.0 s"),
            ("b-3 r2 1.0 0.5", "'b-3' begins at 1.0 s and ends at 0.5 s"),
            ("b-3 r2 -0.1 0.5", "'b-3' begins at -0.1 s"),
            ("b-3 r2 0.0 -2", "'b-3' begins at 0.0 s and ends at -2.0 s"),
            ("b-3 r9 0.0 1.0", "'b-3' is of the recording 'r9', which is not in wav.scp"),
            ("b-1 r2 0.0 1.0", "'b-1' is there twice"),
            ("b-3 r2 0.0", "'b-3' has 3 fields"),
            ("b-3 r2 0.0 1.0 0 x", "'b-3' has 6 fields"),
            ("b-3 r2 0,0 1.0", "the begin or end of 'b-3' is no number"),
            ("b-3 r2 0.0 inf", "the begin or end of 'b-3' is no number"),
            ("b-3 r2 0.0 1.0 A", "the channel of 'b-3' is no number from 0"),
            ("b-3 r2 0.0 1.0 -1", "the channel of 'b-3' is no number from 0"),
        ],
    )
    def test_a_bad_segment_is_refused_by_line(self, data: Path, line: str, complaint: str) -> None:
        with (data / "segments").open("a") as segments:
            segments.write(f"{line}\n")
        with pytest.raises(DataDirError, match=f"segments:5: .*{complaint}"):
            DataDir.open(data)
        if "twice" not in complaint:
            assert any(
                complaint in fault.what and fault.line == 5
                for fault in check_data_dir(data)
                if fault.file.endswith("segments")
            )

    def test_an_utterance_without_a_speaker_is_named_at_its_segment(self, data: Path) -> None:
        (data / "utt2spk").write_text("a-1 a\na-2 a\nb-2 b\n")
        with pytest.raises(DataDirError, match="segments:3: 'b-1' has no speaker in utt2spk"):
            DataDir.open(data)

    def test_what_is_written_over_a_data_dir_with_segments_is_what_was_read(self, data: Path) -> None:
        before = DataDir.open(data).table
        write_data_dir(data, before)
        assert DataDir.open(data).table.equals(before)
        wav_scp, segments = ((data / name).read_text() for name in ("wav.scp", "segments"))
        assert wav_scp == f"a-1 {data.parent}/r1.wav\nb-1 {data.parent}/r2.wav\n"  # what Kaldi reads
        assert segments == "a-1 a-1 0.0 1.255\na-2 a-1 1.255 -1\nb-1 b-1 0.3 1.7 1\nb-2 b-1 0.3 2.2 0\n"

    def test_stretches_beside_whole_recordings_and_sides_are_written_as_segments(self, data: Path) -> None:
        paths = [
            f"{data.parent}/{name}" for name in ("r1.wav", "r2.wav#channel=1", "r2.wav#side=1#t=0.5,1.5")
        ]
        paths += [f"{data.parent}/r2.wav#t=0.25&channel=1", f"{data.parent}/r1.wav#t=1e-05,1.0"]
        before = write_data_dir(data, [Utterance(f"u{n}", path) for n, path in enumerate(paths)])
        after = DataDir.open(data)
        assert (data / "segments").read_text().splitlines()[:2] == ["u0 u0 0.0 -1", "u1 u1 0.0 -1"]
        assert (data / "wav.scp").read_text().splitlines()[0] == f"u0 {paths[0]}"
        assert after.wav_paths.to_list()[:2] == paths[:2]
        for path, again in zip(before.wav_paths, after.wav_paths, strict=True):
            np.testing.assert_array_equal(read_audio(path), read_audio(again))
        write_data_dir(data, [Utterance("u0", paths[0])])
        assert not (data / "segments").exists()

    def test_every_use_of_a_data_dir_gets_the_stretches(self, data: Path, tmp_path: Path) -> None:
        opened = DataDir.open(data)
        wanted = {u: read_audio(path, sample_rate=8000) for u, path in zip(*opened.table[:, :2], strict=True)}
        made = {
            "packed": pack(data, tmp_path / "packed"),
            "part": subset(data, tmp_path / "part", speakers="2-2"),
            "both": combine(tmp_path / "both", [data, tmp_path / "part"]),
            "fixed": fix_data_dir(data, tmp_path / "fixed", audio=True)[0],
        }
        assert {name: len(each) for name, each in made.items()} == {
            "packed": 4, "part": 2, "both": 4, "fixed": 4
        }  # fmt: skip
        for each in made.values():
            for utterance in DataDir.open(each.path).utterances():
                wav_T = read_audio(utterance.wav_path, sample_rate=8000)
                np.testing.assert_array_equal(wav_T, wanted[utterance.utt_id])
            assert list(check_data_dir(each.path)) == []

    def test_a_chunk_for_training_lies_within_the_stretch(
        self, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
        dataset = ChunkDataset(TrainingTable.open([data]), seed=0, num_samples=3000, sample_rate=8000)
        for row, path in enumerate(DataDir.open(data).wav_paths):
            stretch_T = read_audio(path, sample_rate=8000)
            windows = np.lib.stride_tricks.sliding_window_view(stretch_T, 3000)
            for position in range(4):
                chunk = dataset.read((0, position, row))
                assert (windows[:, :8] == chunk.wav_T[:8]).all(axis=1).any()
        # Other segments are another table.
        (data / "segments").write_text("a-1 r1 2.0 2.5\na-2 r1 1 -1\nb-1 r2 0 1 1\nb-2 r2 0 1 0\n")
        assert TrainingTable.open([data]).wav_paths[0].endswith("#t=2.0,2.5")

    def test_a_side_of_a_file_is_read_by_reco2file_and_channel(self, data: Path) -> None:
        wav = data.parent / "r2.wav"
        (data / "wav.scp").write_text(f"r1 {wav}\nr2 {wav}\nr3 {wav}#channel=0\n")
        (data / "segments").write_text("x r1 0 1\ny r2 0 1\nz r3 0 1\n")
        (data / "utt2spk").unlink()
        (data / "reco2file_and_channel").write_text("r1 call A\nr2 call B\nr3 call 2\n")
        left_T, right_T = soundfile.read(wav, dtype="float32")[0][:8000].T
        for path, side_T in zip(DataDir.open(data).wav_paths, (left_T, right_T, left_T), strict=True):
            np.testing.assert_array_equal(read_audio(path, sample_rate=8000), side_T)
        (data / "reco2file_and_channel").write_text("r1 call A\nr2 call left\n")
        with pytest.raises(DataDirError, match=r"reco2file_and_channel:2: a line is 'recording file side'"):
            DataDir.open(data)


@pytest.mark.parametrize(
    ("command", "audio"),
    [
        ("cat a.wav |", "a.wav"),
        ("cat 'my music/a.wav' |", "my music/a.wav"),
        ("sox /x/a.flac -t wav - |", "/x/a.flac"),
        ("/usr/bin/sox -t flac a.flac -t wav -|", "a.flac"),
        ("ffmpeg -v error -i a.m4a -f wav - |", "a.m4a"),
        ("ffmpeg -nostdin -i a.m4a -acodec pcm_s16le -f wav pipe:1 |", "a.m4a"),
        ("sph2pipe -f wav -p -c 2 a.sph |", "a.sph#side=1"),
        ("sph2pipe -f wav a.sph |", "a.sph"),
        ("flac -c -d -s a.flac |", "a.flac"),
        ("flac -cds a.flac |", "a.flac"),
        ("flac --decode --stdout a.flac |", "a.flac"),
        ("flac -c -s a.flac |", None),  # encodes
        ("flac -c a.flac |", None),
        ("cat a.wav b.wav |", None),
        ("cat - |", None),
        ("cat $DIR/a.wav |", None),
        ("cat *.wav |", None),
        ("sox a.wav -t wav - speed 1.1 |", None),
        ("sox a.wav -r 8000 -t wav - |", None),
        ("sox a.wav -c 1 -t wav - |", None),
        ("sox -v 0.5 a.wav -t wav - |", None),
        ("sox -t raw a.raw -t wav - |", None),
        ("cat a.wav | sox -t wav - -t wav - rate 8k |", None),
        ("ffmpeg -ss 3 -i a.wav -f wav - |", None),
        ("ffmpeg -i a.wav -ac 1 -f wav - |", None),
        ("sph2pipe -f wav -t 1:2 a.sph |", None),
        ("sph2pipe -f wav -c 3 a.sph |", None),
        ("cat 'a.wav |", None),
        ("gunzip -c a.wav.gz |", None),
        ("|", None),
    ],
)
def test_a_command_that_only_reads_a_file_is_that_file(command: str, audio: str | None) -> None:
    assert file_of_command(command) == audio


@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
def test_the_way_out_of_a_command_works(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    folder = make(tmp_path, wav_scp=f"a sox {tmp_path}/a.wav -t wav - speed 2 |\n".encode())
    with pytest.raises(DataDirError, match=r"wav.scp:1: the audio of 'a' is a command") as refused:
        DataDir.open(folder)
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True, cwd=folder)
    (folder / "wav.scp").write_text(f"a {folder}/decoded-a.wav\n")
    assert len(read_audio(DataDir.open(folder).wav_paths[0])) == 8000


@pytest.mark.parametrize("path", ["raw.ark:12[0:99]", "a.wav[1:2]"])
def test_ranges_are_refused_by_name(tmp_path: Path, path: str) -> None:
    folder = make(tmp_path, wav_scp=f"a {path}\n".encode())
    with pytest.raises(DataDirError, match=r"wav.scp:1: the audio of 'a' is a range of an entry"):
        DataDir.open(folder)
    assert any("is a range" in fault.what for fault in check_data_dir(folder))
