"""Opening and checking a data dir of a million utterances, against reading the same files in a plain loop.

The loop is the least that any reader in Python does: split every line of wav.scp and utt2spk into a dict. The
figures are ratios of times in the same run; below 1 is faster than the loop.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from farvox.data.table import TrainingTable
from farvox.io.check import check_data_dir
from farvox.io.kaldi import DataDir


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


def plain_loop(folder: Path) -> int:
    """wav.scp and utt2spk as dicts."""
    total = 0
    for name in ("wav.scp", "utt2spk"):
        with (folder / name).open(encoding="utf-8") as lines:
            total += len(dict(line.split(maxsplit=1) for line in lines))
    return total


def seconds(work: Callable[[], object]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    count = parser.parse_args().utterances
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dir(folder, count)
        loop = seconds(lambda: plain_loop(folder))
        print(f"{count:,} utterances; a plain loop over wav.scp and utt2spk: {loop:.2f} s")
        for what, work in (
            ("DataDir.open", lambda: DataDir.open(folder)),
            ("TrainingTable.open", lambda: TrainingTable.open([folder])),
            ("check_data_dir", lambda: list(check_data_dir(folder))),
        ):
            took = seconds(work)
            print(f"  {what:<20} {took:6.2f} s  {took / loop:6.2f} x the loop")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory of the whole run, with what the loop holds: {peak:.2f} GB")


if __name__ == "__main__":
    main()
