"""Packed data dirs: chunks read, packing, training batches, and all of that from an object store.

The reference for a chunk is libsndfile (through soundfile) on a file an utterance, opened, sought and read,
as most data sets do; for packing it is what WebDataset's writer does, read by soundfile, encoded by it, and
put into a tar file, in one process. Batches are compared with those of the same loader from the unpacked
files. The object store is moto's server on this machine, which shares its processors, so that row says what
asking side by side brings and not what a store can do; its reference has an object an utterance, which is
fetched whole with fsspec and decoded, as many at once.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from _bench import Bench, at_least
from loader import make_dir, walk

from farvox.audio.files import read_audio
from farvox.datadir import PackOptions
from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.datadir.pack import pack
from farvox.training.loader import ChunkDataset, load_batches
from farvox.training.table import EpochPlan, StepBatches, TrainingTable

RATE, SECONDS, CHUNK = 16000, 8, 32000
WORKERS = 2


def noise(rng: np.random.Generator) -> np.ndarray:
    """Coloured noise whose level changes every tenth of a second: flac makes 0.6 of it, as of speech."""
    white_T = rng.standard_normal(SECONDS * RATE)
    wav_T = scipy.signal.lfilter([0.3], [1.0, -1.6, 0.7], white_T) * 0.05
    return (wav_T * np.repeat(rng.uniform(0.001, 1, SECONDS * 10) ** 2, RATE // 10)).astype(np.float32)


def as_flac(folder: Path, source: DataDir) -> DataDir:
    """The same with a flac file an utterance."""
    folder.mkdir()
    paths = []
    for utt_id, path in zip(source.utt_ids, source.wav_paths, strict=True):
        paths.append(str(folder / f"{utt_id}.flac"))
        soundfile.write(paths[-1], soundfile.read(path, dtype="int16")[0], RATE)
    return write_data_dir(folder, source.table.with_columns(wav_path=np.array(paths)))


@contextmanager
def object_store() -> Iterator[None]:
    """A server on this machine that answers as S3 does, and the environment that leads to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    port = url.rsplit(":", 1)[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ[name] = "test"
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
        while server.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


def main() -> None:
    bench = Bench(__doc__)
    bench.parser.add_argument("--utterances", type=int, default=1500)
    options = bench.parse()
    count = 60 if options.quick else options.utterances
    with tempfile.TemporaryDirectory() as name:
        root, rng = Path(name), np.random.default_rng(0)
        source = DataDir.open(make_dir(root / "files", [noise(rng) for _ in range(count)]))
        packed = {
            codec: pack(source.path, root / codec, PackOptions(codec=codec, shard_size=100))
            for codec in ("wav", "flac")
        }
        compare_chunks(bench, source, packed["wav"], "16-bit wav", 2000, at_least(20_000))
        compare_chunks(bench, as_flac(root / "flacs", source), packed["flac"], "flac", 500, None)
        compare_packing(bench, source, root)
        compare_batches(bench, source, packed, 256 if options.quick else 3200, options.clock)
        with object_store():
            compare_store(bench, source, root, 256 if options.quick else 1024, options.clock)
    bench.finish()


def compare_chunks(bench: Bench, source: DataDir, packed: DataDir, kind: str, reads: int, target) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(len(source), size=reads).tolist()
    starts = rng.integers(SECONDS * RATE - CHUNK, size=reads).tolist()
    files, entries = source.wav_paths.to_list(), packed.wav_paths.to_list()

    def ours() -> None:
        for row, start in zip(rows, starts, strict=True):
            read_audio(entries[row], start=start, num_samples=CHUNK)

    def reference() -> None:
        for row, start in zip(rows, starts, strict=True):
            with soundfile.SoundFile(files[row]) as file:
                file.seek(start)
                file.read(CHUNK, dtype="float32")

    bench.compare(
        f"chunks of 2 s, packed {kind}", ours=ours, reference=reference, count=reads, unit="chunks/s",
        target=target, reference_is=f"soundfile, a {kind} file an utterance",
    )  # fmt: skip


def compare_packing(bench: Bench, source: DataDir, root: Path) -> None:
    seconds = len(source) * SECONDS
    for codec in ("wav", "flac"):
        made = iter(range(1000))

        def ours(codec: str = codec, made: Iterator[int] = made) -> None:
            pack(source.path, root / f"{codec}-{next(made)}", PackOptions(codec=codec, shard_size=100))

        def reference(codec: str = codec) -> None:
            with tarfile.open(root / "reference.tar", "w") as archive:
                for utt_id, path in zip(source.utt_ids, source.wav_paths, strict=True):
                    content = io.BytesIO()
                    soundfile.write(content, soundfile.read(path, dtype="int16")[0], RATE, format=codec)
                    member = tarfile.TarInfo(f"{utt_id}.{codec}")
                    member.size = content.tell()
                    content.seek(0)
                    archive.addfile(member, content)

        bench.compare(
            f"packing to {codec}, {WORKERS} processes", ours=ours, reference=reference, count=seconds,
            unit="x real time", reference_is="soundfile and tarfile, one process", warm=False,
        )  # fmt: skip


def batches_of(folder: Path, samples: int, clock: str, workers: int = WORKERS) -> float:
    """Samples a second, chunks alone: no augmentation hides what reading takes."""
    table = TrainingTable.open([folder])
    plan = EpochPlan(0, table.speakers_N, 64, epoch_size=samples)
    dataset = ChunkDataset(table, seed=0, num_samples=CHUNK)
    batches = load_batches(dataset, StepBatches(plan, 0, 0, 1), workers=workers)
    return walk(lambda: (len(batch.labels_B) for batch in batches), samples // 64 * 64, clock)


def compare_batches(
    bench: Bench, source: DataDir, packed: dict[str, DataDir], samples: int, clock: str
) -> None:
    folders = {"files": source.path, **{codec: each.path for codec, each in packed.items()}}
    found: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(bench.repeats):
        for name, folder in folders.items():
            found[name].append(batches_of(folder, samples, clock))
    for codec in packed:
        bench.record(
            f"batches without augmentation, packed {codec}", found[codec], found["files"], "samples/s",
            reference_is="the same loader, a wav file an utterance",
        )  # fmt: skip


def compare_store(bench: Bench, source: DataDir, root: Path, samples: int, clock: str) -> None:
    import fsspec

    store = fsspec.filesystem("s3")
    store.mkdir("bench")
    far = pack(source.path, root / "far", PackOptions(at="s3://bench/packed", shard_size=100))
    objects = source.wav_paths.to_list()[: samples // 4]
    urls = [f"bench/files/{number:05}.wav" for number in range(len(objects))]
    store.put(objects, urls)

    def whole(url: str) -> int:
        wav_T, _ = soundfile.read(io.BytesIO(store.cat_file(url)), dtype="float32")
        return len(wav_T[:CHUNK])

    def reference() -> float:
        began = time.perf_counter()
        with ThreadPool(64) as pool:
            pool.map(whole, urls, chunksize=1)
        return len(urls) / (time.perf_counter() - began)

    found: dict[str, list[float]] = {"ours": [], "whole": [], "one by one": []}
    for _ in range(bench.repeats):
        found["ours"].append(batches_of(far.path, samples, clock))
        found["whole"].append(reference())
        began = time.perf_counter()
        for path in far.wav_paths[:100]:
            read_audio(path, start=100, num_samples=CHUNK)
        found["one by one"].append(100 / (time.perf_counter() - began))
    bench.record(
        "batches from an object store on this machine", found["ours"], found["whole"], "samples/s",
        reference_is="an object an utterance, fetched whole, 64 at once",
    )  # fmt: skip
    bench.record(
        "the same against one request after the other", found["ours"], found["one by one"], "samples/s",
        reference_is="read_audio of a chunk, in turn",
    )  # fmt: skip


if __name__ == "__main__":
    main()
