from pathlib import Path

from farvox.corpora.convert import convert_audio
from farvox.datadir.kaldi import Utterance


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
