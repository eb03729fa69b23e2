"""Opening and checking a data dir of a million utterances, against reading the same files in a plain loop.

The loop is the least that any reader in Python does: split every line of wav.scp and utt2spk into a dict.
wav.scp alone is read as the FFSVC2022 baseline does, into a list of split lines. The check of the audio, of
files of 4 s in one process, is against decoding the same files with soundfile: it also takes a CRC-32 of the
samples, measures them, looks for a band that ends early, and keeps what it found.
"""

from __future__ import annotations

import resource
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from _bench import Bench, at_most, times

from farvox.datadir import AudioCheckOptions
from farvox.datadir.audit import check_recordings
from farvox.datadir.check import check_data_dir
from farvox.datadir.kaldi import CHECKED, DataDir, Utterance, read_table, write_data_dir
from farvox.progress import silent
from farvox.rng import rng_for
from farvox.training.table import TrainingTable


def write_dir(folder: Path, num_utterances: int) -> None:
    """A data dir of speakers with 200 utterances each, all of one audio file."""
    wav = folder / "audio.wav"
    wav.touch()
    ids = [
        (f"id{n // 200:05}-video{n % 200 // 10:02}-{n:08}", f"id{n // 200:05}") for n in range(num_utterances)
    ]
    (folder / "wav.scp").write_text("".join(f"{utt_id} {wav}\n" for utt_id, _ in ids))
    (folder / "utt2spk").write_text("".join(f"{utt_id} {speaker}\n" for utt_id, speaker in ids))
    (folder / "utt2num_samples").write_text("".join(f"{utt_id} 48000\n" for utt_id, _ in ids))
    utterances: dict[str, list[str]] = {}
    for utt_id, speaker in ids:
        utterances.setdefault(speaker, []).append(utt_id)
    (folder / "spk2utt").write_text("".join(f"{s} {' '.join(u)}\n" for s, u in utterances.items()))


def split_lines(path: Path) -> list[list[str]]:
    """One file as the baseline reads it."""
    with path.open(encoding="utf-8") as lines:
        return [line.split() for line in lines]


def plain_loop(folder: Path) -> int:
    """wav.scp and utt2spk as dicts."""
    total = 0
    for name in ("wav.scp", "utt2spk"):
        with (folder / name).open(encoding="utf-8") as lines:
            total += len(dict(line.split(maxsplit=1) for line in lines))
    return total


def write_audio(folder: Path, suffix: str, count: int) -> DataDir:
    """A data dir with a file an utterance: 4 s of noise that comes and goes as speech does."""
    utterances = []
    (folder / suffix).mkdir(parents=True)
    for n in range(count):
        rng = rng_for(0, 0, n)
        wav_T = 0.1 * rng.standard_normal(64000) * np.repeat(rng.uniform(0.001, 1, 40) ** 2, 1600)
        path = folder / suffix / f"{n}.{suffix}"
        soundfile.write(path, np.round(32768 * wav_T).astype(np.int16), 16000)
        utterances.append(Utterance(f"u{n:04}", str(path), "s"))
    return write_data_dir(folder / f"data-{suffix}", utterances)


def check_audio(data: DataDir) -> None:
    """Check all of it, as for the first time."""
    (data.path / CHECKED).unlink(missing_ok=True)
    rows = data.table.select("utt_id", "wav_path")
    check_recordings(data.path, rows, AudioCheckOptions(jobs=1), silent)


def decode(data: DataDir) -> None:
    """Decode all of it."""
    for path in data.wav_paths:
        soundfile.read(path, dtype="float32")


def main() -> None:
    bench = Bench(__doc__)
    bench.parser.add_argument("--utterances", type=int, default=1_000_000)
    options = bench.parse()
    count = options.utterances // (50 if options.quick else 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dir(folder, count)
        size = (folder / "wav.scp").stat().st_size
        bench.compare(
            "wav.scp of 1 M lines",
            ours=lambda: read_table(folder / "wav.scp"),
            reference=lambda: split_lines(folder / "wav.scp"),
            reference_is="FFSVC2022 baseline: a list of split lines",
            target=at_most(0.3),
            published=1.21,
            floor=size / 2e9,
            floor_is=f"{size / 1e6:.0f} MB at 2 GB/s",
        )
        for what, work in (
            ("DataDir.open, 1 M utterances", lambda: DataDir.open(folder)),
            ("TrainingTable.open, 1 M utterances", lambda: TrainingTable.open([folder])),
            ("farvox check, 1 M utterances", lambda: list(check_data_dir(folder))),
        ):
            loop = "wav.scp and utt2spk into dicts, line by line"
            bench.compare(what, ours=work, reference=lambda: plain_loop(folder), reference_is=loop)
        for suffix, most in (("wav", 8), ("flac", 3)):
            data = write_audio(folder, suffix, 50 if options.quick else 1000)
            bench.compare(
                f"farvox check --audio, {suffix}",
                ours=partial(check_audio, data),
                reference=partial(decode, data),
                reference_is="soundfile, one file after the other",
                target=times(1 / most),
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory of the whole run, with what the loops hold: {peak:.2f} GB")
    bench.finish()


if __name__ == "__main__":
    main()
