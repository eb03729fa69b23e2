import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farvox.atomic import machine_tag
from farvox.audio.files import read_audio, read_channels, write_audio
from farvox.audio.remote import put_file
from farvox.audio.shards import PackedFile
from farvox.datadir import PackOptions, derive
from farvox.datadir.check import check_audio, check_data_dir
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.datadir.pack import pack
from farvox.errors import AudioError, DataDirError, FarvoxError, UnreachableError

CODECS = ("wav", "flac")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A data dir of recordings of several formats, rates and numbers of channels."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)

    def write(name, num_samples, *, channels=1, rate=16000, subtype="PCM_16"):
        swell_T = 0.01 + np.abs(np.sin(np.arange(num_samples) / 2000))
        wav_TC = 0.05 * rng.standard_normal((num_samples, channels)) * swell_T[:, None]
        soundfile.write(folder / name, wav_TC, rate, subtype=subtype)
        return Utterance(name.replace(".", "_"), str(folder / name), f"s{len(name) % 3}", num_samples)

    utterances = [
        write("a.wav", 40_000), write("b.flac", 33_333), write("two.wav", 20_000, channels=2),
        write("slow.wav", 9_000, rate=8000), write("short.wav", 3),
        write("eight.wav", 5_000, subtype="PCM_U8"),
        *(write(f"more{number:02}.wav", 8_000) for number in range(12)),
    ]  # fmt: skip
    header = "utt_id\tdistance\n"
    files = {
        "trials": "1 a_wav b_flac\n", "trials.txt": "0 a_wav short_wav\n",
        "utt2cond": header + "a_wav\t1M\nb_flac\t3M\n",
        "utt2lang": "".join(f"{each.utt_id} zh\n" for each in sorted(utterances, key=lambda u: u.utt_id)),
    }  # fmt: skip
    return write_data_dir(folder, utterances, files=files)


@pytest.fixture(scope="module", params=CODECS)
def packed(request, source, tmp_path_factory):
    """The same in shards of a few utterances."""
    out = tmp_path_factory.mktemp("packed") / request.param
    return pack(source.path, out, PackOptions(codec=request.param, shard_size=0.06, jobs=1))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("utt2audio", "rejected.tsv")
    }


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("[0-9]*.tar")}


def test_a_packed_data_dir_says_what_the_data_dir_said(source, packed):
    assert packed.table.drop("wav_path").equals(source.table.drop("wav_path"))
    assert DataDir.open(packed.path).table.equals(packed.table)
    assert len(shards(packed.path)) > 3
    for name in ("utt2spk", "spk2utt", "utt2num_samples", "trials", "trials.txt", "utt2cond", "utt2lang"):
        assert (packed.path / name).read_bytes() == (source.path / name).read_bytes()
    assert list(check_data_dir(packed.path)) == []
    fault, *notes = sorted(check_audio(packed.path), key=lambda fault: fault.is_note)
    assert "several rates: 1 at 8,000 Hz, 16 at 16,000 Hz" in notes[0].what
    assert "1 of 17 recordings hold nothing above 4 kHz" in notes[1].what and len(notes) == 2
    assert (
        not fault.is_note and "short_wav" in fault.what and "3 samples, too few for any model" in fault.what
    )


def test_all_samples_of_all_channels_stay_what_they_were(source, packed):
    for before, after in zip(source.wav_paths, packed.wav_paths, strict=True):
        np.testing.assert_array_equal(read_channels(after), read_channels(before))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_any_part_of_any_utterance_is_that_of_the_file(source, packed, data):
    row = data.draw(st.integers(0, len(source) - 1))
    start, count = data.draw(st.integers(0, 50_000)), data.draw(st.none() | st.integers(0, 50_000))
    rate = data.draw(st.sampled_from([16000, 16000, 8000]))
    part = {"start": start, "num_samples": count, "sample_rate": rate}
    np.testing.assert_array_equal(
        read_audio(packed.wav_paths[row], **part), read_audio(source.wav_paths[row], **part)
    )


def test_tar_gives_the_recordings_back(source, packed, tmp_path):
    for shard in (packed.path / "shards").glob("*.tar"):
        with tarfile.open(shard) as archive:
            archive.extractall(tmp_path, filter="data")
    files = {path.stem: path for path in tmp_path.iterdir()}
    assert sorted(files) == sorted(source.utt_ids)
    for utt_id, path in zip(source.utt_ids, source.wav_paths, strict=True):
        np.testing.assert_array_equal(read_channels(files[utt_id]), read_channels(path))


def test_derived_data_dirs_read_the_same_shards(source, packed, tmp_path):
    part = derive.subset(packed.path, tmp_path / "part", per_speaker=1)
    whole = derive.combine(tmp_path / "whole", [part.path, packed.path])
    assert whole.table.equals(packed.table)
    again = pack(part.path, tmp_path / "again", PackOptions(jobs=1))
    for utt_id, path in zip(again.utt_ids, again.wav_paths, strict=True):
        before = source.wav_paths[source.utt_ids.to_list().index(utt_id)]
        np.testing.assert_array_equal(read_channels(path), read_channels(before))


def test_what_is_packed_is_not_packed_again_whatever_the_number_of_processes(source, packed, other_processes):
    codec = packed.path.name
    before, files = shards(packed.path), tree(packed.path)
    pack(source.path, packed.path, PackOptions(codec=codec, shard_size=0.06, jobs=2))
    assert shards(packed.path) == before and tree(packed.path) == files


def test_processes_make_the_same_shards_as_one(source, packed, tmp_path):
    codec = packed.path.name
    pack(source.path, tmp_path / "two", PackOptions(codec=codec, shard_size=0.06, jobs=2))
    before = {name: content for name, content in tree(packed.path).items() if name != "wav.scp"}
    assert {name: content for name, content in tree(tmp_path / "two").items() if name != "wav.scp"} == before


@pytest.fixture
def own(tmp_path):
    """A data dir of 16 utterances to be changed."""
    rng = np.random.default_rng(1)
    utterances = []
    for number in range(16):
        path = tmp_path / f"own/wav/{number:02}.wav"
        write_audio(path, 0.1 * rng.standard_normal(4000))
        utterances.append(Utterance(f"u{number:02}", str(path), "s", 4000))
    return write_data_dir(tmp_path / "own", utterances, files={"trials": "1 u00 u01\n"})


def packed_own(own, **options):
    return pack(own.path, own.path.with_name("packed"), PackOptions(shard_size=0.016, jobs=1, **options))


def test_a_file_that_changed_is_packed_again_and_nothing_else(own):
    before = shards(packed_own(own).path)
    write_audio(own.wav_paths[5], np.full(4000, 0.25))
    again = packed_own(own)
    after = shards(again.path)
    assert len(before) == len(after) == 8
    assert len(before.items() & after.items()) == 7, "the stale one is gone, the new one is there"
    assert read_audio(again.wav_paths[5])[0] == 0.25
    (fault,) = check_audio(again.path)
    assert "silence" in fault.what  # as a constant is


def test_an_entry_of_before_never_means_other_audio(own):
    before = packed_own(own)
    write_audio(own.wav_paths[5], np.full(4000, 0.25))
    packed_own(own)
    with pytest.raises(AudioError, match="no such file"):
        read_audio(before.wav_paths[5])


def test_a_bad_recording_is_named_and_nothing_is_lost(own, tmp_path):
    Path(own.wav_paths[3]).write_bytes(b"RIFF, and no more")
    Path(own.wav_paths[9]).unlink()
    with pytest.raises(AudioError, match=r"2 of 16 utterances .* 'u03': .*03\.wav: .*--skip-bad") as raised:
        packed_own(own)
    out = tmp_path / "packed"
    assert "what is done is kept" in str(raised.value)
    listed = (out / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["utt_id", "u03", "u09"]
    assert "no such file" in listed[2]
    assert len(shards(out)) == 6 and not (out / "wav.scp").exists()
    kept = shards(out)

    notes: list[str] = []
    made = pack(own.path, out, PackOptions(shard_size=0.016, jobs=1, skip_bad=True), note=notes.append)
    assert len(made) == 14 and kept.items() < shards(out).items()
    assert (out / "utt2spk").read_text().count("\n") == 14
    assert any("2 of 16 utterances cannot be packed and were left out" in note for note in notes)

    with pytest.raises(AudioError, match="2 of 16"):
        packed_own(own)
    for row in (3, 9):
        write_audio(own.wav_paths[row], np.full(4000, 0.5))
    assert len(packed_own(own)) == 16
    assert kept.items() < shards(out).items() and not (out / "rejected.tsv").exists()


def test_recordings_that_are_not_16_bit_are_rounded_to_the_nearest_and_counted(tmp_path):
    rng = np.random.default_rng(0)
    wav_T = np.float32(0.3) * rng.standard_normal(9000).astype(np.float32)
    soundfile.write(tmp_path / "float.wav", wav_T, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "deep.wav", np.clip(wav_T, -0.9, 0.9), 16000, subtype="PCM_24")
    utterances = [Utterance(name, str(tmp_path / f"{name}.wav")) for name in ("deep", "float")]
    source = write_data_dir(tmp_path / "data", utterances)
    notes: list[str] = []
    packed = pack(source.path, tmp_path / "packed", PackOptions(jobs=1), note=notes.append)
    assert np.abs(wav_T).max() > 1
    assert notes[-1] == (
        "2 of 2 utterances are not 16-bit and were rounded; "
        "1 of them (such as 'float') left [-1, 1] and were clipped"
    )
    assert np.abs(read_audio(packed.wav_paths[0]) - read_audio(tmp_path / "deep.wav")).max() <= 0.5 / 32768
    np.testing.assert_allclose(
        read_audio(packed.wav_paths[1]), np.clip(wav_T, -1, 32767 / 32768), atol=0.5001 / 32768
    )
    with pytest.raises(AudioError, match=r"'deep': .* is not 16-bit; without --exact it is rounded"):
        pack(source.path, tmp_path / "packed", PackOptions(exact=True, jobs=1))


def test_flac_takes_eight_channels_and_says_so(tmp_path):
    soundfile.write(tmp_path / "nine.wav", np.zeros((100, 9)), 16000, subtype="PCM_16")
    write_data_dir(tmp_path / "data", [Utterance("nine", str(tmp_path / "nine.wav"))])
    with pytest.raises(AudioError, match=r"nine\.wav: flac holds 8 channels at most, not 9; use wav"):
        pack(tmp_path / "data", tmp_path / "packed", PackOptions(codec="flac", jobs=1))
    assert len(pack(tmp_path / "data", tmp_path / "packed", PackOptions(jobs=1))) == 1


def test_a_flipped_bit_is_found_and_the_utterance_named(own):
    made = packed_own(own)
    packed = PackedFile.parse(made.wav_paths[10])
    with open(packed.shard, "r+b") as file:
        file.seek(packed.member.start + 3000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    (fault,) = check_audio(made.path)
    assert str(fault).startswith(f"{made.path}/wav.scp:11: 'u10': ")
    assert "differs from its checksum" in fault.what
    assert list(check_data_dir(made.path)) == []


def test_a_shard_that_is_cut_or_gone_is_named_and_made_again(own):
    made = packed_own(own)
    first, last = (PackedFile.parse(made.wav_paths[row]) for row in (0, 15))
    os.truncate(last.shard, last.member.start + 100)
    os.unlink(first.shard)
    faults = [str(fault) for fault in check_data_dir(made.path)]
    assert len(faults) == 2
    assert faults[0].startswith(f"{made.path}/wav.scp:1: no such shard: {first.shard}")
    assert "2 lines name it" in faults[0]
    assert faults[1].startswith(f"{made.path}/wav.scp:16: 'u15' lies beyond the end of {last.shard}")
    assert len(list(check_audio(made.path))) == 3
    packed_own(own)
    assert list(check_data_dir(made.path)) == list(check_audio(made.path)) == []


def test_a_packing_that_is_killed_goes_on_and_ends_the_same(own, tmp_path):
    """Killed outright as soon as a shard is there, again and again."""
    whole = tmp_path / "whole"
    script = (
        "from farvox.datadir import PackOptions; from farvox.datadir.pack import pack; import sys; "
        "pack(sys.argv[1], sys.argv[2], PackOptions(shard_size=0.008, jobs=1))"
    )
    command = [sys.executable, "-c", script, str(own.path), str(tmp_path / "killed")]
    (tmp_path / "killed/shards").mkdir(parents=True)
    seen = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(shards(tmp_path / "killed")) <= seen:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = len(shards(tmp_path / "killed"))
    assert seen >= 1
    half = f".tmp-{machine_tag()}-{process.pid}-01234567-half.tar"  # its process is dead
    (tmp_path / "killed/shards" / half).write_bytes(b"half")
    before = shards(tmp_path / "killed")
    subprocess.run(command, check=True)
    pack(own.path, whole, PackOptions(shard_size=0.008, jobs=1))
    found, expected = tree(tmp_path / "killed"), tree(whole)
    found["wav.scp"] = found["wav.scp"].replace(b"/killed/", b"/whole/")
    assert found == expected
    tables = {name for name in before if (tmp_path / "killed/shards" / name).with_suffix(".json").exists()}
    assert tables


def test_other_folders_are_left_alone(own, tmp_path):
    with pytest.raises(DataDirError, match="is the data dir itself"):
        pack(own.path, own.path)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.tex").write_text("dear")
    with pytest.raises(FarvoxError, match="holds other things"):
        pack(own.path, tmp_path / "papers")
    with pytest.raises(DataDirError, match="no such data dir"):
        pack(tmp_path / "nowhere", tmp_path / "packed")


def test_shards_are_moved_to_an_object_store_and_not_moved_again(own, tmp_path, bucket, monkeypatch):
    import fsspec

    from farvox.datadir import pack as module

    moved = []

    def put(path, url):
        moved.append(url)
        put_file(path, url)

    monkeypatch.setattr(module, "put_file", put)
    made = packed_own(own, at=f"{bucket}/own/")
    assert shards(made.path) == {} and made.wav_paths[0].startswith(f"{bucket}/own/00000-")
    assert sum(url.endswith(".tar") for url in moved) == 8
    for before, after in zip(own.wav_paths, made.wav_paths, strict=True):
        np.testing.assert_array_equal(read_audio(after), read_audio(before))
    assert list(check_data_dir(made.path)) == list(check_audio(made.path)) == []
    store = fsspec.filesystem("s3")
    names = ("wav.scp", "utt2spk", "trials")
    assert all(store.cat_file(f"{bucket}/own/{name}") == (made.path / name).read_bytes() for name in names)

    store.rm(PackedFile.parse(made.wav_paths[15]).shard)
    assert "no such shard" in str(*check_data_dir(made.path))
    moved.clear()
    packed_own(own, at=f"{bucket}/own")
    assert [url for url in moved if url.endswith(".tar")] == [PackedFile.parse(made.wav_paths[15]).shard]


def test_a_store_that_cannot_be_used_is_found_out_at_once(own, monkeypatch, s3_server):
    import fsspec

    from farvox.audio import remote

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote, "TRIES", 1)
    with pytest.raises(UnreachableError, match="Unable to locate credentials; check the credentials"):
        packed_own(own, at="s3://bucket/own")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(UnreachableError, match="no answer after 1 tries"):
        packed_own(own, at="s3://bucket/own")
    fsspec.filesystem("s3").clear_instance_cache()
    assert not (own.path.with_name("packed") / "shards").exists()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.text("./\\~a%\x1bé", min_size=1, max_size=9), min_size=2, max_size=4, unique=True))
def test_members_of_a_shard_lie_in_its_folder_whatever_the_ids(ids, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_audio(folder / "a.wav", 0.5 * np.sin(np.arange(800.0)))
    write_data_dir(folder / "data", [Utterance(each, str(folder / "a.wav"), each) for each in ids])
    packed = pack(folder / "data", folder / "packed", PackOptions(jobs=1))
    assert packed.utt_ids.to_list() == sorted(ids)
    (shard,) = (folder / "packed" / "shards").glob("*.tar")
    with tarfile.open(shard) as file:
        names = file.getnames()
        file.extractall(folder / "unpacked", filter="data")
    assert len({path.name for path in (folder / "unpacked").iterdir()}) == len(names) == len(ids)
    assert check_data_dir(packed.path) and not list(check_audio(packed.path))


def test_the_shards_of_another_data_dir_stay(source, tmp_path):
    options = PackOptions(jobs=1)
    packed = pack(source.path, tmp_path / "P", options).path
    other = write_data_dir(tmp_path / "other", list(source.utterances())[:2]).path
    before = tree(packed)
    for name in (".made-by.json", "wav.scp"):  # of an earlier farvox, or interrupted
        with pytest.raises(
            DataDirError, match="P: holds a data dir that farvox pack did not make of the same"
        ):
            pack(other, packed, options)
        assert tree(packed) == before
        if name == "wav.scp":
            break
        content = (packed / "wav.scp").read_bytes()
        (packed / "wav.scp").unlink()
        before = tree(packed)
        with pytest.raises(DataDirError, match="P: holds a data dir"):
            pack(other, packed, options)
        (packed / "wav.scp").write_bytes(content)
        before = tree(packed)
    (packed / ".made-by.json").unlink()  # as an earlier farvox left it
    assert pack(source.path, packed, options).table.equals(DataDir.open(packed).table)
    assert tree(packed) == before
