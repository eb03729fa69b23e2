"""Every kind of damaged audio is found by a check, and training takes none of it.

The speech is real. A check is that of the command line: its status, what it prints, and what it leaves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
import soundfile

from farvox.audio.shards import PackedFile
from farvox.cli.main import main
from farvox.datadir import PackOptions
from farvox.datadir.audit import COLUMNS, read_checked
from farvox.datadir.check import fix_data_dir
from farvox.datadir.derive import combine, subset
from farvox.datadir.kaldi import CHECKED, DataDir, Utterance, write_data_dir
from farvox.datadir.pack import pack
from farvox.errors import AudioError, CheckpointError, DataDirError
from farvox.jobs import REJECTED
from farvox.options import from_table, merge
from farvox.pipelines.recipe import Recipe
from farvox.pipelines.train import train
from farvox.training.checkpoint import finished_epochs

FORMATS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
}  # fmt: skip
RATE = 16000


@pytest.fixture(scope="module")
def speech(corpora):
    """Samples of 40 real utterances of 2 s."""
    files = sorted((corpora / "speechocean762" / "WAVE").glob("*/*"))[:400:10]
    return [np.resize(soundfile.read(str(path), dtype="float32")[0], 2 * RATE) for path in files]


@pytest.fixture
def data(speech, tmp_path):
    """A data dir of four speakers with four utterances each, wav files of 2 s."""
    return data_of(speech[:16], tmp_path)


def data_of(wavs, folder, suffix="wav"):
    utterances = []
    for number, wav_T in enumerate(wavs):
        path = folder / "wav" / f"u{number:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, wav_T)
        utterances.append(Utterance(f"u{number:02}", str(path), f"s{number // 4}"))
    return write_data_dir(folder / "data", utterances)


def write(path, wav_T):
    kind = path.suffix[1:]
    if kind in FORMATS:
        format_, subtype = FORMATS[kind]
        soundfile.write(str(path), wav_T, RATE, format=format_, subtype=subtype)
        return
    codec, options = ("aac", {"movflags": "faststart"}) if kind == "m4a" else ("libopus", {})
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=48000 if kind == "webm" else RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        to_codec = av.AudioResampler(
            stream.format, "mono", stream.rate, stream.codec_context.frame_size or 960
        )
        for part in (*to_codec.resample(frame), *to_codec.resample(None), None):
            container.mux(stream.encode(part))


def check(capsys, data_dir, *words):
    """Status, and the lines that a check of the audio prints."""
    capsys.readouterr()
    status = main(["check", str(data_dir.path), "--audio", *words])
    return status, capsys.readouterr().out.splitlines()


def read_rejected(path):
    """Utterance -> reason, of a table of rejected ones."""
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    return dict(line.split("\t", 1) for line in lines)


def edit(path, change):
    path = Path(path)
    path.write_bytes(change(path.read_bytes()))


def in_the_middle(patch):
    def change(content):
        at = len(content) // 2
        return content[:at] + patch + content[at + len(patch) :]

    return change


DAMAGE = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "400 random bytes": in_the_middle(np.random.default_rng(0).bytes(400)),
    "400 zero bytes": in_the_middle(bytes(400)),
    "50 bytes lost": lambda content: content[: len(content) // 2] + content[len(content) // 2 + 50 :],
    "a tail of zeros": lambda content: content[: len(content) // 3] + bytes(len(content) * 2 // 3),
    "a header alone": lambda content: content[:44],
    "nothing": lambda content: b"",
    "a page of a server": lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
}
"""What is done to the bytes of a file."""


SILENT = ("400 random bytes", "400 zero bytes", "a tail of zeros")
"""Damage after which a file of these formats may be as good as any, to who does not know what was in it."""


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("suffix", [*FORMATS, "m4a", "webm"])
def test_damage_to_a_file_is_found_by_a_check_or_by_digests_against_an_earlier_one(
    speech, tmp_path, capsys, suffix, kind
):
    data = data_of(speech[:3], tmp_path, suffix)
    assert check(capsys, data, "--digests")[0] == 0
    earlier = tmp_path / "earlier"
    shutil.copytree(data.path, earlier)
    (data.path / CHECKED).unlink()
    edit(data.wav_paths[1], DAMAGE[kind])
    status, lines = check(capsys, data)
    faults = [line for line in lines if not line.startswith("note: ")]
    is_found = status == 1 and len(faults) == 1 and ":2: 'u01': " in faults[0]
    assert is_found or (suffix == "wav" and kind in SILENT)
    assert set(read_rejected(data.path / REJECTED)) == ({"u01"} if is_found else set())
    status, lines = check(capsys, DataDir.open(earlier), "--digests")
    assert status == 1 and ":2: 'u01': " in lines[0]
    assert set(read_rejected(earlier / REJECTED)) == {"u01"}


def test_odd_samples_are_found_noted_or_change_nothing(speech, tmp_path, capsys):
    """Samples of 2 s; the names of those that are noted, and of those at fault, begin with n and f."""
    wav_T = speech[0]
    nan_T, inf_TC = wav_T.copy(), np.stack([wav_T, wav_T], axis=1)
    nan_T[RATE], inf_TC[5, 1] = np.nan, np.inf
    wild_T = wav_T.copy()
    wild_T[::100] = 1e30
    holes_T = wav_T.copy()
    holes_T[RATE // 2 : RATE * 3 // 2] = 0
    kinds = {
        "f-nan": nan_T, "f-silent": 0 * wav_T, "f-constant": 0 * wav_T + 0.25, "f-faint": 1e-9 * wav_T,
        "f-short": wav_T[:200], "n-clipped": np.clip(100 * wav_T, -1, 1), "n-second-channel": inf_TC,
        "n-holes": holes_T, "f-wild": wild_T, "n-scaled": 2**15 * wav_T, "good": wav_T,
        "good-stereo": np.stack([wav_T, wav_T], axis=1),
    }  # fmt: skip
    utterances = []
    for name, samples in kinds.items():
        path = tmp_path / f"{name}.wav"
        is_float = re.match("n-s|f-nan|f-wild", name)
        soundfile.write(path, samples, RATE, subtype="FLOAT" if is_float else "PCM_16")
        utterances.append(Utterance(name, str(path), "s", len(samples)))
    spare, renamed = tmp_path / "n-spare.wav", tmp_path / "good-renamed.wav"
    spare.write_bytes((tmp_path / "good.wav").read_bytes() + b"ID: 12345")
    write(tmp_path / "x.flac", wav_T)
    (tmp_path / "x.flac").rename(renamed)
    write(fake := tmp_path / "f-length.wav", wav_T[: RATE // 2])  # cut, under a header of that length
    for path, length in ((spare, 2 * RATE), (renamed, 2 * RATE), (fake, 2 * RATE)):
        utterances.append(Utterance(path.stem, str(path), "s", length))
    data = write_data_dir(tmp_path / "data", utterances)
    seconds = "".join(f"{utt_id} {2 if utt_id != 'good' else 1}\n" for utt_id in data.utt_ids)
    status, lines = check(capsys, data)
    assert status == 1
    faults = {match[1]: line for line in lines if (match := re.search(r":\d+: '(.*?)': ", line))}
    assert set(faults) == {utt_id for utt_id in data.utt_ids if utt_id.startswith("f-")}
    assert "utt2num_samples says 32000, and the audio has 8000 samples; correct it" in faults["f-length"]
    assert "samples up to 1e+30 times full scale" in faults["f-wild"]
    notes = "\n".join(line for line in lines if line.startswith("note: "))
    for utt_id, words in {
        "n-clipped": "2 of 8 recordings .*more than one of 1,000 samples: they are clipped",
        "n-second-channel": "1 of 8 recordings .*not finite in another channel",
        "n-holes": "1 of 8 recordings .*more than 0.5 s of zeros",
        "n-spare": "1 of 8 recordings have bytes after their audio that are no part of it",
    }.items():
        line = data.utt_ids.index_of(utt_id) + 1
        assert re.search(rf"wav\.scp:{line}: {words}", notes), utt_id
    table = {row["utt_id"]: row for row in read_checked(data.path).iter_rows(named=True)}
    good = table["good"]
    assert (good["num_samples"], good["sample_rate"], good["num_channels"]) == (2 * RATE, RATE, 1)
    assert abs(good["level"] - 10 * np.log10(np.mean(np.square(wav_T)))) < 0.1
    assert table["good-stereo"]["num_channels"] == 2 and table["f-nan"]["not_finite"] == 1
    assert table["good-renamed"]["crc32"] == good["crc32"] == table["n-spare"]["crc32"]
    assert 990 <= table["n-holes"]["zeros"] <= 1010 and table["n-spare"]["spare"] == 9

    # The ways out of a wrong length: the line is corrected. A wrong utt2dur is told likewise.
    edit(data.path / "utt2num_samples", lambda text: text.replace(b"f-length 32000", b"f-length 8000"))
    (data.path / "utt2dur").write_text(seconds.replace("f-length 2", "f-length 0.5"))
    faults = {match[1]: line for line in check(capsys, data)[1] if (match := re.search(r"'(.*?)': ", line))}
    assert "f-length" not in faults and "utt2dur says 1, and the audio has 2.0 s" in faults["good"]


def test_an_ogg_or_mp3_file_that_broke_off_between_its_frames_is_found(speech, tmp_path, capsys):
    data = data_of(speech[:2], tmp_path, "ogg")
    path = Path(data.wav_paths[0])
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"OggS\0")])
    status, lines = check(capsys, data)
    assert status == 1 and "its last page is not marked as such" in lines[0]
    command = re.search(r"`(ffmpeg .*?)`", lines[0])[1].split()
    mended = tmp_path / "mended.ogg"
    subprocess.run([command[0], "-loglevel", "error", *command[1:-1], str(mended)], check=True)
    mended.replace(path)
    assert check(capsys, data)[0] == 0

    data = data_of(speech[:3], tmp_path / "mp3", "mp3")
    content = Path(data.wav_paths[0]).read_bytes()
    without_length = content[len(content) // 2 :]
    start = without_length.find(content[:2])  # a frame in the middle, so that no header gives a length
    Path(data.wav_paths[0]).write_bytes(without_length[start:] + b"TAG" + bytes(125))
    Path(data.wav_paths[1]).write_bytes(without_length[start:-20])
    edit(data.wav_paths[2], lambda mp3: mp3[: len(mp3) // 2] + bytes(30) + mp3[len(mp3) // 2 :])
    status, lines = check(capsys, data)
    assert status == 1 and [line.split(":")[1] for line in lines] == ["2", "3"]
    assert (
        "it ends within a frame; copy it again" in lines[0] and "there is no frame; copy it again" in lines[1]
    )


def test_a_second_check_decodes_only_what_is_new_or_has_changed(data, speech, capsys, monkeypatch):
    assert check(capsys, data)[0] == 0
    before = read_checked(data.path)
    opened = []
    monkeypatch.setattr("farvox.datadir.audit.open_audio", opened.append)  # no with-block: it would fail
    assert check(capsys, data)[0] == 0 and opened == []
    monkeypatch.undo()
    write(Path(data.wav_paths[3]), speech[20])
    extra = data.path.parent / "wav" / "u99.wav"
    write(extra, speech[21])
    rows = [*data.utterances(), Utterance("u99", str(extra), "s9")]
    for name in ("wav.scp", "utt2spk"):
        value = {"wav.scp": "wav_path", "utt2spk": "speaker_id"}[name]
        (data.path / name).write_text("".join(f"{row.utt_id} {getattr(row, value)}\n" for row in rows))
    (data.path / "spk2utt").unlink()
    status, lines = check(capsys, data)
    assert (
        status == 0
        and "wav.scp:4: 1 of 17 recordings hold other samples than at an earlier check" in lines[0]
    )
    after = read_checked(data.path)
    changed = after.join(before, on=before.columns, how="anti")["utt_id"].to_list()
    assert changed == ["u03", "u99"]


KILLED = """
import sys, time
from farvox.datadir import audit
from farvox.cli.main import main
audit._BATCH = 1
measured, measure = [], audit._measure
def some(*args):
    if len(measured) == 3:
        time.sleep(600)  # until it is killed
    measured.append(args)
    return measure(*args)
audit._measure = some
sys.exit(main(["check", sys.argv[1], "--audio", "--jobs", "1"]))
"""


def test_a_check_that_is_killed_goes_on_and_ends_the_same(data, tmp_path, capsys):
    whole = write_data_dir(tmp_path / "whole", data.table)
    assert check(capsys, whole)[0] == 0
    unfinished, kept = data.path / f".{CHECKED}", 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(data.path)], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(lines_of(unfinished)) < kept + 3:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (data.path / CHECKED).exists() and len(lines_of(unfinished)) > kept
        kept = len(lines_of(unfinished))
        with unfinished.open("a") as file:
            file.write("u15\ttorn")
    status, _ = check(capsys, data)
    assert status == 0 and not unfinished.exists()
    assert (data.path / CHECKED).read_bytes() == (whole.path / CHECKED).read_bytes()


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_check_goes_on_from_a_file_whose_first_line_was_not_written_to_its_end(data, share, capsys):
    header = "\t".join(COLUMNS)
    begun = header[: round(share * len(header))]
    (data.path / f".{CHECKED}").write_text(begun)
    assert check(capsys, data)[0] == 0
    whole = (data.path / CHECKED).read_bytes()
    (data.path / CHECKED).unlink()
    for number in (1, 2):
        (data.path / f".{CHECKED}.{number:05}-of-00002").write_text(begun)
        assert check(capsys, data, "--shard", f"{number}/2")[0] == 0
    (data.path / f".{CHECKED}").write_text(begun)
    assert main(["join", str(data.path)]) == 0
    assert (data.path / CHECKED).read_bytes() == whole
    (data.path / f".{CHECKED}").write_text("of another\n")
    assert main(["check", str(data.path), "--audio"]) == 1
    assert f"{data.path}/.{CHECKED}: damaged, or of another farvox" in capsys.readouterr().err


def lines_of(path):
    return path.read_bytes().split(b"\n")[1:-1] if path.exists() else []


def test_the_table_does_not_depend_on_the_number_of_processes(speech, tmp_path, capsys, other_processes):
    data = data_of((speech * 4)[:130], tmp_path)
    tables = []
    for jobs in ("1", "2"):
        assert check(capsys, data, "--jobs", jobs)[0] == 0
        tables.append((data.path / CHECKED).read_bytes())
        (data.path / CHECKED).unlink()
    assert tables[0] == tables[1]


def test_content_that_differs_from_an_earlier_check_stays_a_fault_until_it_is_as_it_was(
    data, tmp_path, capsys
):
    path = Path(data.wav_paths[5])
    good, state = path.read_bytes(), path.stat()
    for words in ([], ["--digests"]):  # the first knows the CRC-32 of the samples only
        assert check(capsys, data, *words)[0] == 0
        edit(path, in_the_middle(np.random.default_rng(1).bytes(400)))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a disk that rots
        assert check(capsys, data)[0] == 0
        for _ in range(2):
            status, lines = check(capsys, data, "--digests")
            assert status == 1 and "'u05'" in lines[0] and "at an earlier check: copy it again" in lines[0]
        assert check(capsys, data)[0] == 1
        path.write_bytes(good)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert check(capsys, data, "--digests")[0] == 0
        assert not (data.path / REJECTED).exists()
    edit(path, in_the_middle(bytes(400)))  # replaced on purpose
    assert check(capsys, data, "--digests")[0] == 1
    assert "if it was replaced on purpose, remove utt2audio" in check(capsys, data, "--digests")[1][0]
    (data.path / CHECKED).unlink()
    assert check(capsys, data, "--digests")[0] == 0


def test_digests_are_of_a_check_of_the_audio(data, capsys):
    assert main(["check", str(data.path), "--digests"]) == 2
    assert "--digests is of --audio" in capsys.readouterr().err


def test_packed_audio_stretches_and_arks_are_checked_alike(data, speech, tmp_path, capsys):
    packed = pack(data.path, tmp_path / "packed", PackOptions(codec="flac", jobs=1))
    (tmp_path / "raw.ark").write_bytes(b"".join(Path(path).read_bytes() for path in data.wav_paths[:3]))
    size = os.path.getsize(data.wav_paths[0])
    arks = [Utterance(f"a{n}", f"{tmp_path}/raw.ark:{n * size}", "s", 2 * RATE) for n in range(3)]
    parts = [Utterance(f"p{n}", f"{data.wav_paths[n]}#t=0.5,1.5", "s", RATE) for n in range(3)]
    dirs = [packed, write_data_dir(tmp_path / "arks", arks), write_data_dir(tmp_path / "parts", parts)]
    for each in dirs:
        assert check(capsys, each, "--digests")[0] == 0, each.path
        assert check(capsys, each)[0] == check(capsys, each, "--digests")[0] == 0
    shard = PackedFile.parse(packed.wav_paths[2])
    for path, at in ((shard.shard, shard.member.start + 3000), (tmp_path / "raw.ark", size + 3000)):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"\x55\xaa" * 20)
    edit(data.wav_paths[1], in_the_middle(b"\x55\xaa" * 200))
    for each, utt_id in zip(dirs, ("u02", "a1", "p1"), strict=True):
        status, lines = check(capsys, each, "--digests")
        assert status == 1 and len(read_rejected(each.path / REJECTED)) == 1 and f"'{utt_id}'" in lines[0]


def test_a_check_goes_along_with_a_part_or_a_union_but_not_with_other_audio(data, speech, tmp_path, capsys):
    more = data_of(speech[16:20], tmp_path / "more")
    ids = more.utt_ids.map_elements(lambda name: f"more-{name}", return_dtype=pl.String)
    more = write_data_dir(tmp_path / "renamed", more.table.with_columns(utt_id=ids))
    for each in (data, more):
        assert check(capsys, each)[0] == 0
    part = subset(data.path, tmp_path / "part", speakers="2-3")
    both = combine(tmp_path / "both", [part.path, more.path])
    fixed = fix_data_dir(both.path, tmp_path / "fixed")[0]
    assert set(read_checked(fixed.path)["utt_id"]) == set(both.utt_ids)
    assert read_checked(fixed.path).equals(read_checked(both.path))
    assert not (pack(data.path, tmp_path / "packed", PackOptions(jobs=1)).path / CHECKED).exists()
    (more.path / CHECKED).unlink()
    assert not (combine(tmp_path / "others", [part.path, more.path]).path / CHECKED).exists()


def test_what_is_left_out_is_listed_with_the_reason(data, tmp_path, capsys):
    edit(data.wav_paths[2], lambda content: content[:1000])
    out = tmp_path / "fixed"
    assert main(["check", str(data.path), "--audio"]) == 1
    assert "--audio --fix OUT' writes what has no fault" in capsys.readouterr().err
    edit(data.path / "utt2spk", lambda text: text.replace(b"u07 s1\n", b""))
    assert main(["check", str(data.path), "--audio", "--fix", str(out)]) == 1
    reasons = read_rejected(out / REJECTED)
    assert set(reasons) == {"u02", "u07"}
    assert "bytes of audio are missing" in reasons["u02"] and "utt2spk" in reasons["u07"]
    assert len(DataDir.open(out)) == 14 and check(capsys, DataDir.open(out))[0] == 0


def test_a_data_dir_that_cannot_be_written_is_checked_all_the_same(data, capsys):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    edit(data.wav_paths[2], lambda content: content[:1000])
    data.path.chmod(0o500)
    assert check(capsys, data)[0] == 1
    data.path.chmod(0o700)
    assert not (data.path / CHECKED).exists()


def test_a_damaged_table_is_named_and_made_anew(data, tiny_recipe, tmp_path, capsys):
    assert check(capsys, data)[0] == 0
    for damage in (lambda text: text[5:], lambda text: text.replace(b"\t32000", b"\tx", 1)):
        edit(data.path / CHECKED, damage)
        assert main(["check", str(data.path), "--audio"]) == 1
        assert f"{data.path / CHECKED}: damaged, or of another farvox" in capsys.readouterr().err
        with pytest.raises(DataDirError, match="damaged, or of another farvox"):
            trained(tiny_recipe, data, tmp_path / "run")
        (data.path / CHECKED).unlink()
        assert check(capsys, data)[0] == 0


def trained(recipe, data_dir, run_dir, epochs=1, **options):
    """Lines that a training of one epoch prints."""
    lines = []
    data = {"train": [str(data_dir.path)], **options}
    table = merge(recipe, {"data": data, "schedule": {"epochs": epochs}})
    train(from_table(Recipe, table, "test"), run_dir, note=lines.append)
    return lines


def test_who_reads_audio_that_changed_since_the_check_says_so(data, speech, model_folder, tmp_path, capsys):
    check(capsys, data)
    lines: list[str] = []
    pack(data.path, tmp_path / "before", note=lines.append)
    assert not any("has changed" in line for line in lines)
    for number in (4, 7):
        write(Path(data.wav_paths[number]), speech[30])
        os.utime(data.wav_paths[number], (1, 1))
    readers = {
        "pack": [data.path, tmp_path / "packed"],
        "simulate": [data.path, tmp_path / "far", "--noise", data.path, "--copies", "1"],
        "enhance": [data.path, tmp_path / "clean", "--wpe"],
        "noises": [data.path, tmp_path / "noise"],
        "extract": [model_folder, data.path, tmp_path / "embeddings"],
    }
    for verb, words in readers.items():
        main([verb, *map(str, words)])
        out, err = capsys.readouterr()
        told = [line for line in (out + err).splitlines() if "has changed" in line]
        assert len(told) == 1, (verb, out, err)
        line = told[0]
        assert line.startswith(f"note: {data.path}: the audio of 2 of 16 utterances has changed since"), verb
        assert f"first is 'u04' ({data.wav_paths[4]})" in line
    command = re.search(r"'farvox (check .*? --audio)'", line)[1]
    assert main(command.split()) == 0
    (data.path / CHECKED).write_text("x")
    lines.clear()
    pack(data.path, tmp_path / "after", note=lines.append)
    assert any(line.startswith("note: ") and "damaged" in line for line in lines)


def test_training_refuses_audio_that_changed_since_the_check(data, speech, tiny_recipe, tmp_path, capsys):
    (note,) = (line for line in trained(tiny_recipe, data, tmp_path / "unchecked") if "not checked" in line)
    assert f"{data.path} (by 'farvox check DIR --audio')" in note
    check(capsys, data)
    assert not any("not checked" in line for line in trained(tiny_recipe, data, tmp_path / "a"))
    state = os.stat(data.wav_paths[4])
    write(Path(data.wav_paths[4]), speech[30])
    os.utime(data.wav_paths[4], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(
        DataDirError, match=r"audio of 1 of 16 utterances has changed .* the first is 'u04'"
    ) as no:
        trained(tiny_recipe, data, tmp_path / "b")
    command = re.search(r"'farvox (check .*? --audio)'", str(no.value))[1]
    assert main(command.split()) == 0
    trained(tiny_recipe, data, tmp_path / "c")
    (data.path / "wav.scp").write_text((data.path / "wav.scp").read_text().replace("u04 ", "u040 "))
    (data.path / "utt2spk").write_text((data.path / "utt2spk").read_text().replace("u04 ", "u040 "))
    with pytest.raises(DataDirError, match="or was not checked; the first is 'u040'"):
        trained(tiny_recipe, data, tmp_path / "d")


def test_a_copy_with_other_times_is_the_same_where_digests_are_known(data, tiny_recipe, tmp_path, capsys):
    for words, is_refused in (([], True), (["--digests"], False)):
        assert check(capsys, data, *words)[0] == 0
        for path in data.wav_paths:
            os.utime(path, (1, 1 + len(words)))
        if is_refused:
            with pytest.raises(DataDirError, match="16 of 16 utterances"):
                trained(tiny_recipe, data, tmp_path / "run")
        else:
            trained(tiny_recipe, data, tmp_path / "run")
    edit(data.wav_paths[4], in_the_middle(b"ab"))
    with pytest.raises(DataDirError, match="1 of 16 utterances"):
        trained(tiny_recipe, data, tmp_path / "run2")


def test_utterances_at_fault_are_left_out_up_to_a_share(data, tiny_recipe, tmp_path, capsys):
    edit(data.wav_paths[2], lambda content: content[:1000])
    assert check(capsys, data)[0] == 1
    run_dir = tmp_path / "run"
    with pytest.raises(
        AudioError, match=r"1 of 16 utterances cannot be trained on, which is more than 0\.1 %"
    ):
        trained(tiny_recipe, data, run_dir)
    assert set(read_rejected(run_dir / REJECTED)) == {"u02"}
    with pytest.raises(AudioError, match=r"leave them out with --max-rejects 0\.063"):
        trained(tiny_recipe, data, run_dir)
    lines = trained(tiny_recipe, data, run_dir, max_rejects=0.063)
    assert any(f"were left out; {run_dir / REJECTED} names each" in line for line in lines)
    assert any(line.startswith("15 utterances, 4 speakers") for line in lines)
    assert "bytes of audio are missing" in read_rejected(run_dir / REJECTED)["u02"]


def test_a_run_goes_on_after_a_check_from_its_weights_or_without_the_check(
    data, tiny_recipe, tmp_path, capsys
):
    soundfile.write(data.wav_paths[2], np.zeros(2 * RATE), RATE)
    more = {"max_rejects": 0.063}
    trained(tiny_recipe, data, tmp_path / "run")
    assert check(capsys, data)[0] == 1
    with pytest.raises(CheckpointError, match="or a check of the audio leaves others out") as no:
        trained(tiny_recipe, data, tmp_path / "run", epochs=2, **more)
    model = re.search(r"--init\.model (\S+)", str(no.value))[1]
    trained(merge(tiny_recipe, {"init": {"model": model}}), data, tmp_path / "other", **more)
    (data.path / CHECKED).unlink()
    trained(tiny_recipe, data, tmp_path / "run", epochs=2, **more)
    assert finished_epochs(tmp_path / "run") == [0, 1]


def test_the_share_is_an_option_of_the_verb(data, tiny_recipe, tmp_path, capsys):
    import tomli_w

    edit(data.wav_paths[2], lambda content: content[:1000])
    assert check(capsys, data)[0] == 1
    table = merge(tiny_recipe, {"data": {"train": [str(data.path)]}, "schedule": {"epochs": 1}})
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    words = ["train", str(tmp_path / "r.toml"), "--run-dir", str(tmp_path / "run")]
    assert main(words) == 1
    option = re.search(r"--max-rejects [\d.]+", capsys.readouterr().err)[0]
    assert main([*words, *option.split()]) == 0
