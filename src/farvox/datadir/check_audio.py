"""The audio of a data dir, read whole: what is damaged is named."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from multiprocessing.pool import ThreadPool
from pathlib import Path

from farvox.audio.files import read_recording
from farvox.datadir.check import Fault
from farvox.datadir.kaldi import DataDir
from farvox.datadir.shards import PackedFile, ShardTable, table_of
from farvox.errors import AudioError
from farvox.progress import ProgressLine


def check_audio(path: str | Path) -> Iterator[Fault]:
    """Read all audio of a data dir and find what is damaged, in the order of `wav.scp`.

    Packed utterances are compared with the checksums of their shards, others are decoded. Lines that
    `check_data_dir` finds fault with for want of audio are found again.

    Args:
        path: the data dir.

    Raises:
        DataDirError: it cannot be opened.
    """
    data_dir = DataDir.open(path)
    paths = data_dir.wav_paths.to_list()
    threads = min(16, 4 * (os.cpu_count() or 1))
    with ThreadPool(threads) as pool, ProgressLine("checking audio", len(paths)) as progress:
        for row, fault in enumerate(pool.imap(_fault_of_audio, paths, chunksize=16)):
            progress.show(row)
            if fault:
                what = f"'{data_dir.utt_ids[row]}': {fault}"
                yield Fault(str(data_dir.path / "wav.scp"), row + 1, what)


def _fault_of_audio(path: str) -> str:
    """What is wrong with a recording; empty where nothing is."""
    try:
        packed = PackedFile.parse(path)
        if packed is None:
            read_recording(path)
            return ""
        checksum = _checksums(packed.shard).get(packed.place.start)
        if checksum is None:
            return f"no checksum of it in {table_of(packed.shard)}; copy that file again"
        if zlib.crc32(packed.content()) != checksum:
            return f"{packed}: differs from its checksum; the shard is damaged: copy it again"
    except AudioError as error:
        return str(error)
    return ""


@lru_cache(maxsize=64)
def _checksums(shard: str) -> dict[int, int]:
    """Where a file of a shard begins -> its checksum."""
    table = ShardTable.read(shard)
    return {} if table is None else {entry.place.start: entry.crc32 for entry in table.entries}
