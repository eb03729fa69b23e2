import os
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import audio_info, read_audio
from farvox.corpora.voxceleb import convert_audio, prepare_voxceleb1, prepare_voxceleb2
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError

O_LINES = (
    "1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav\n"
    "0 id10270/x6uYqmx31kE/00001.wav id10300/ize-eiCFEg0/00003.wav\n"
)
E_LINES = "0 id10001/-Zzy_5-z0AA/00001.wav id10270/8jEAjG6SegY/00008.wav\n"


@pytest.fixture
def vox1(tmp_path, record) -> Path:
    """Two development and two test speakers, unpacked as ``vox1_dev_wav.zip`` and ``vox1_test_wav.zip``."""
    root = tmp_path / "VoxCeleb1"
    for path in ("id10001/-Zzy_5-z0AA/00001", "id10001/-Zzy_5-z0AA/00002", "id11251/s4R4hvqrhFw/00009"):
        record(root / "vox1_dev_wav/wav" / f"{path}.wav")
    for path in ("id10270/x6uYqmx31kE/00001", "id10270/8jEAjG6SegY/00008", "id10300/ize-eiCFEg0/00003"):
        record(root / "vox1_test_wav/wav" / f"{path}.wav")
    return root


@pytest.fixture(scope="module")
def m4a(tmp_path_factory) -> bytes:
    """A second of a 200 Hz tone in the format of VoxCeleb2: AAC at 16 kHz, mono."""
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("m4a") / "tone.m4a"
    wav_T = (0.3 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path.read_bytes()


@pytest.fixture
def vox2(tmp_path, m4a) -> Path:
    root = tmp_path / "VoxCeleb2"
    for path in (
        "dev/aac/id00012/21Uxsk56VDQ/00001",
        "dev/aac/id00012/_-a-b/00002",
        "test/aac/id00017/01dfn2spqyE/00001",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{path}.m4a").write_bytes(m4a)
    return root


def rows(folder: Path) -> list[tuple[str, str]]:
    return DataDir.open(folder).table.select("utt_id", "speaker_id").rows()


def test_the_40_official_test_speakers_are_told_from_the_others(vox1, tmp_path, notes):
    made = prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["vox1_dev", "vox1_test", "vox1"]
    assert rows(tmp_path / "out/vox1_dev") == [
        ("id10001--Zzy_5-z0AA-00001", "id10001"),
        ("id10001--Zzy_5-z0AA-00002", "id10001"),
        ("id11251-s4R4hvqrhFw-00009", "id11251"),
    ]
    assert rows(tmp_path / "out/vox1_test")[1] == ("id10270-x6uYqmx31kE-00001", "id10270")
    assert len(made[2]) == 6 and made[2].num_samples.to_list() == [800] * 6


@pytest.mark.parametrize("layout", ["wav", "dev/wav", "a/b/wav", "."])
def test_speakers_are_found_at_any_depth(tmp_path, record, notes, layout):
    path = record(tmp_path / "vox" / layout / "id10009/7hpSiT9_gCE/00001.wav")
    (made,) = prepare_voxceleb1(tmp_path / "vox", tmp_path / "out", note=notes.append)
    assert made.path.name == "vox1_dev"
    assert made.table.select("utt_id", "wav_path").rows() == [("id10009-7hpSiT9_gCE-00001", str(path))]


def test_one_part_alone_makes_no_vox1_of_both(tmp_path, record, notes):
    record(tmp_path / "vox/wav/id10309/vid/00001.wav")
    made = prepare_voxceleb1(tmp_path / "vox", tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["vox1_test"]
    assert any("no speaker of vox1_dev" in note for note in notes)


def test_official_lists_get_joined_ids_and_go_where_all_their_utterances_are(vox1, tmp_path, notes):
    (vox1 / "veri_test.txt").write_text(O_LINES)
    (vox1 / "list_test_all2.txt").write_text(E_LINES)
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    for part in ("vox1_test", "vox1"):
        assert (tmp_path / "out" / part / "trials_O").read_text() == (
            "1 id10270-x6uYqmx31kE-00001 id10270-8jEAjG6SegY-00008\n"
            "0 id10270-x6uYqmx31kE-00001 id10300-ize-eiCFEg0-00003\n"
        )
    assert (tmp_path / "out/vox1/trials_E_cleaned").exists()
    assert not (tmp_path / "out/vox1_test/trials_E_cleaned").exists()
    assert not list((tmp_path / "out/vox1_dev").glob("trials*"))


def test_all_six_official_lists_are_known(vox1, tmp_path, notes):
    folder = tmp_path / "meta"
    folder.mkdir()
    for name in (
        "veri_test",
        "veri_test2",
        "list_test_all",
        "list_test_all2",
        "list_test_hard",
        "list_test_hard2",
    ):
        (folder / f"{name}.txt").write_text(O_LINES)
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append, trials=folder)
    assert sorted(path.name for path in (tmp_path / "out/vox1").glob("trials*")) == [
        "trials_E", "trials_E_cleaned", "trials_H", "trials_H_cleaned", "trials_O", "trials_O_cleaned",
    ]  # fmt: skip


def test_a_list_with_another_number_of_trials_than_the_publishers_is_a_note(vox1, tmp_path, notes):
    (vox1 / "veri_test2.txt").write_text(O_LINES)
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    assert any("veri_test2.txt: 2 trials; the publisher's list has 37,611" in note for note in notes)


def test_a_list_of_the_publishers_length_is_no_note(vox1, tmp_path, notes):
    (vox1 / "veri_test.txt").write_text(O_LINES * (37_720 // 2))
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    assert not any("the publisher's list has" in note for note in notes)


def test_a_list_that_fits_nowhere_is_left_out_with_a_note(vox1, tmp_path, notes):
    (vox1 / "veri_test.txt").write_text(O_LINES + "0 id10270/x6uYqmx31kE/00001.wav id10271/gone/00001.wav\n")
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    assert not list((tmp_path / "out").glob("*/trials*"))
    assert "trials_O: left out; 1 of its 4 utterances are not there, id10271-gone-00001 for one" in notes


@pytest.mark.parametrize("line", ["id10270/a/1.wav id10270/b/2.wav", "2 id10270/a/1.wav id10270/b/2.wav"])
def test_a_malformed_list_is_refused_at_its_line(vox1, tmp_path, notes, line):
    (vox1 / "veri_test.txt").write_text(f"{O_LINES}{line}\n")
    with pytest.raises(CorpusError, match=r"veri_test\.txt:3: .*expected '0\|1"):
        prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)


def test_no_list_is_a_note_but_none_where_they_are_said_to_be_is_refused(vox1, tmp_path, notes):
    prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append)
    assert any("no official trial list" in note and "--trials" in note for note in notes)
    (tmp_path / "meta").mkdir()
    with pytest.raises(CorpusError, match=r"meta: no trial list found; expected veri_test\.txt"):
        prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append, trials=tmp_path / "meta")
    with pytest.raises(CorpusError, match="gone: no such folder"):
        prepare_voxceleb1(vox1, tmp_path / "out", note=notes.append, trials=tmp_path / "gone")


def test_a_tree_without_speaker_folders_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "vox/A.J._Buckley/00001.wav")
    with pytest.raises(CorpusError, match=r"no speaker folder with audio found; expected wav/id10001"):
        prepare_voxceleb1(tmp_path / "vox", tmp_path / "out", note=notes.append)


def test_without_conversion_the_dirs_point_at_the_m4a_files(vox2, tmp_path, notes):
    dev, test = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append)
    assert dev.utt_ids.to_list() == ["id00012-21Uxsk56VDQ-00001", "id00012-_-a-b-00002"]
    assert dev.wav_paths[0] == str(vox2 / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a")
    assert (test.path.name, test.speaker_ids.to_list()) == ("vox2_test", ["id00017"])
    assert all(16000 <= length < 18100 for length in dev.num_samples)
    assert any("--convert" in note for note in notes)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_conversion_writes_what_the_m4a_decodes_to(vox2, tmp_path, notes, suffix):
    dev, test = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert=suffix, jobs=1)
    assert dev.wav_paths.to_list() == [
        str(tmp_path / f"out/audio/id00012/{name}.{suffix}") for name in ("21Uxsk56VDQ/00001", "_-a-b/00002")
    ]
    for utterance in (*dev.utterances(), *test.utterances()):
        assert audio_info(utterance.wav_path).num_samples == utterance.num_samples
    original_T = read_audio(vox2 / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a")
    assert abs(read_audio(dev.wav_paths[0]) - original_T).max() <= 1 / 32768


def test_conversion_in_processes_gives_the_same(vox2, tmp_path, notes, monkeypatch, other_processes):
    monkeypatch.setattr("farvox.corpora.voxceleb.FILES_AT_ONCE", 1)
    alone = prepare_voxceleb2(vox2, tmp_path / "alone", note=notes.append, convert="flac", jobs=1)
    together = prepare_voxceleb2(vox2, tmp_path / "together", note=notes.append, convert="flac", jobs=2)
    for one, other in zip(alone, together, strict=True):
        assert one.table.drop("wav_path").equals(other.table.drop("wav_path"))
        for a, b in zip(one.wav_paths, other.wav_paths, strict=True):
            assert Path(a).read_bytes() == Path(b).read_bytes()


def test_an_interrupted_conversion_goes_on_where_it_stopped(vox2, tmp_path, notes):
    prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    kept, lost = (
        tmp_path / "out/audio/id00012" / name for name in ("21Uxsk56VDQ/00001.flac", "_-a-b/00002.flac")
    )
    first = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    assert (kept.stat().st_mtime_ns, lost.read_bytes()) == first


def test_a_file_that_was_replaced_is_converted_again_whatever_its_time(vox2, tmp_path, record, notes):
    dev, *_ = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    changed, kept = map(Path, dev.wav_paths)
    before, length = kept.stat().st_mtime_ns, dev.num_samples[0]
    assert not any("made again" in note for note in notes)
    source = vox2 / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a"
    new = record(tmp_path / "new.wav", 4000)
    os.utime(new, ns=(0, 0))  # as of an archive: older than what was converted
    os.replace(new, source)
    dev, *_ = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    assert sum("1 files were made again" in note for note in notes) == 1
    assert np.array_equal(read_audio(changed), read_audio(source)) and kept.stat().st_mtime_ns == before
    assert dev.num_samples[0] == 4000 != length
    source.write_bytes(b"not an m4a file")  # now the flac of before is of no recording
    dev, *_ = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    assert dev.wav_paths.to_list() == [str(kept)]


def test_a_file_that_cannot_be_decoded_is_listed_with_the_reason(vox2, tmp_path, notes):
    broken = vox2 / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a"
    broken.write_bytes(b"not an m4a file")
    dev, _ = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="flac", jobs=1)
    assert dev.utt_ids.to_list() == ["id00012-_-a-b-00002"]
    _, row = (tmp_path / "out/rejected.tsv").read_text().splitlines()
    assert row.startswith(f"{broken}\tcannot be read as audio")
    assert any(note.startswith("1 audio files cannot be used") for note in notes)


def test_of_an_utterance_in_two_formats_the_quicker_one_counts(vox2, tmp_path, record, notes):
    wav = record(vox2 / "dev/wav/id00012/21Uxsk56VDQ/00001.wav", 4000)
    dev, _ = prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append)
    assert (dev.wav_paths[0], dev.num_samples[0]) == (str(wav), 4000)
    assert any("1 of them in two formats" in note for note in notes)


def test_files_already_in_the_wanted_format_stay_where_they_are(tmp_path, record, notes):
    path = record(tmp_path / "vox/dev/id00012/vid/00001.flac")
    (dev,) = prepare_voxceleb2(tmp_path / "vox", tmp_path / "out", note=notes.append, convert="flac")
    assert dev.table.row(0) == ("id00012-vid-00001", str(path), "id00012", 800)


def test_an_unknown_format_is_refused(vox2, tmp_path, notes):
    with pytest.raises(CorpusError, match=r"--convert mp3: .*flac or wav"):
        prepare_voxceleb2(vox2, tmp_path / "out", note=notes.append, convert="mp3")


def utterances(folder: Path, record, count: int) -> list[Utterance]:
    names = [f"{number:05}" for number in range(count)]
    return [Utterance(f"s-v-{name}", str(record(folder / f"s/v/{name}.wav")), "s") for name in names]


def test_an_unfinished_output_is_written_again(tmp_path, record, notes):
    found = utterances(tmp_path / "in", record, 1)
    (made,) = convert_audio(found, tmp_path / "out", "flac", {}, note=notes.append, jobs=1)
    whole = Path(made.wav_path).read_bytes()
    Path(made.wav_path).write_bytes(b"")
    convert_audio(found, tmp_path / "out", "flac", {}, note=notes.append, jobs=1)
    assert Path(made.wav_path).read_bytes() == whole


def test_nothing_to_convert_is_no_error(tmp_path, record, notes):
    found = utterances(tmp_path, record, 2)
    assert convert_audio(found, tmp_path / "out", "wav", {}, note=notes.append) == found
