"""Training batches: ours against the FFSVC2022 baseline's data set, written anew from its description.

The reference does what the baseline's own class does for a sample: the whole file is read and low-passed
(sox's biquad, a recursion over all samples), two seconds of it are cut out, one of noise, reverberation and
nothing (1 : 1 : 2) is applied, the noise or impulse response being read whole and low-passed too, the
convolution is scipy.signal.convolve of the whole, and the worker computes the log mel spectrogram; a stock
DataLoader collates. It runs a second time without the low-pass, which is a faster way to the same samples.

Ours has the same mixture, and speed perturbation besides. Files are made on the spot (16-bit wav, 8 s of
speech, 10 s of noise: MUSAN's are longer, which would slow the reference only) unless data dirs are given.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import torch
from _bench import Bench, processor_seconds, times
from torch.utils.data import DataLoader, Dataset

from farvox.audio.files import write_audio
from farvox.augment.chain import AugmentOptions, build_augmenter
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import draw_masks
from farvox.training.loader import ChunkDataset, load_batches
from farvox.training.table import EpochPlan, StepBatches, TrainingTable

RATE, FRAMES, BATCH = 16000, 200, 64


class BaselineDataset(Dataset):
    """The baseline's way to a training example."""

    def __init__(self, paths: dict[str, list[str]], *, lowpass: bool) -> None:
        self.speech, self.noise, self.music, self.rirs = (
            paths[name] for name in ("speech", "noise", "music", "rirs")
        )
        self.lowpass = lowpass
        config = FrontEndConfig(kind="ffsvc-mel")
        self.mel_KM = build_frontend(config).mel_LM[::2]  # its rows are there for both parts of a bin
        self.window_N = torch.hann_window(400)

    def __len__(self) -> int:
        return len(self.speech)

    def sample(self, path: str) -> np.ndarray:
        """A whole file."""
        wav_T, _ = soundfile.read(path, dtype="float32", always_2d=True)
        wav_T = wav_T[:, 0]
        if self.lowpass:  # 8 kHz of 16 kHz: sox computes the recursion all the same
            wav_T = scipy.signal.lfilter([0.25, 0.5, 0.25], [1.0, 0.0, 0.0], wav_T).astype(np.float32)
        return wav_T

    def cut(self, path: str) -> np.ndarray:
        """Two seconds of it."""
        wav_T, length = self.sample(path), FRAMES * 160 - 160
        if len(wav_T) <= length:
            return np.tile(wav_T, length // len(wav_T) + 1)[:length]
        start = int(random.random() * (len(wav_T) - length))
        return wav_T[start : start + length]

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        wav_T = self.cut(self.speech[row])
        kind = random.choice(["noise", "rir", "clean", "clean"])
        if kind == "noise":
            noise_T = self.cut(random.choice(self.noise if random.random() < 0.5 else self.music))
            ratio = np.exp(random.uniform(0, 20) / 10)
            norms = np.linalg.norm(noise_T), np.linalg.norm(wav_T)
            wav_T = (ratio * norms[0] / norms[1] * wav_T + noise_T) / 2
        elif kind == "rir":
            rir_R = self.sample(random.choice(self.rirs))
            wav_T = scipy.signal.convolve(wav_T, rir_R, mode="full")[: len(wav_T)]
        signal_T = torch.from_numpy(np.ascontiguousarray(wav_T, dtype=np.float32))
        signal_T = (signal_T - signal_T.mean()) / signal_T.std().clamp_min(1e-6)
        spectrum_KF = torch.stft(signal_T, 512, 160, 400, self.window_N, return_complex=True)
        feats_FM = (spectrum_KF.abs().pow(2).T @ self.mel_KM + 1e-6).log()
        feats_MF = (feats_FM - feats_FM.mean(dim=0)).T
        if random.random() < 1 / 3:
            width = random.randint(5, 15)
            if random.random() < 0.5:
                start = random.randint(0, FRAMES - width)
                feats_MF[:, start : start + width] = 0
            else:
                feats_MF[random.randint(0, 75) :][:4] = 0
        return feats_MF, row % 100


def walk(batches: Callable[[], object], samples: int, clock: str) -> float:
    """Samples a second, from the first batch on by the clock, or in whole by the processor."""
    start, began, seen = processor_seconds(), 0.0, 0
    for count in batches():
        if not began:
            began = time.perf_counter()
        else:
            seen += count
    wall = time.perf_counter() - began
    return samples / (processor_seconds() - start) if clock == "cpu" else seen / wall


def make_dir(folder: Path, waves: list[np.ndarray]) -> Path:
    rows = []
    for number, wav_T in enumerate(waves):
        path = folder / f"wav/{number:05}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, wav_T)
        rows.append(
            Utterance(f"s{number % 100:03}-{number:05}", str(path), f"s{number % 100:03}", len(wav_T))
        )
    return write_data_dir(folder, rows).path


def made(root: Path, share: float) -> dict[str, Path]:
    """Data dirs of coloured noise; what is in the files changes nothing about the time they take."""
    rng = np.random.default_rng(0)

    def noise(seconds: float) -> np.ndarray:
        white_T = rng.standard_normal(int(seconds * RATE))
        return 0.1 * scipy.signal.lfilter([1.0], [1.0, -0.9], white_T).astype(np.float32)

    def rir() -> np.ndarray:
        wav_R = 0.1 * noise(rng.uniform(0.5, 1.0))
        wav_R *= np.exp(-np.arange(len(wav_R)) / 1500)
        wav_R[40] = 0.9
        return wav_R

    return {
        "speech": make_dir(root / "speech", [noise(8) for _ in range(int(600 * share))]),
        "noise": make_dir(root / "noise", [noise(10) for _ in range(int(100 * share))]),
        "music": make_dir(root / "music", [noise(10) for _ in range(int(100 * share))]),
        "rirs": make_dir(root / "rirs", [rir() for _ in range(int(200 * share))]),
    }


def main() -> None:
    bench = Bench(__doc__)
    for name in ("speech", "noise", "music", "rirs"):
        bench.parser.add_argument(f"--{name}", type=Path, help="a data dir, not made on the spot")
    bench.parser.add_argument("--samples", type=int, default=25_600)
    options = bench.parse()
    samples = 640 if options.quick else options.samples
    with tempfile.TemporaryDirectory() as name:
        dirs = made(Path(name), 0.1 if options.quick else 1.0)
        dirs |= {key: given for key in dirs if (given := getattr(options, key))}
        compare(bench, dirs, samples, options.clock)
    bench.finish()


def compare(bench: Bench, dirs: dict[str, Path], samples: int, clock: str) -> None:
    table = TrainingTable.open([dirs["speech"]])
    config = FrontEndConfig()
    banks = {name: [dirs[name]] for name in ("noise", "music", "rirs")}
    frontend = build_frontend(config)

    def ours(kind: str, workers: int = 2, features: bool = True) -> float:
        plan = EpochPlan(0, table.speakers_N, BATCH, epoch_size=samples)
        dataset = ChunkDataset(
            table, seed=0, num_samples=config.num_samples_for(FRAMES), speeds=(1.0, 0.9, 1.1),
            augment=build_augmenter(AugmentOptions(kind=kind, **banks)),
            draw_masks=lambda rng: draw_masks(rng, FRAMES, 80),
        )  # fmt: skip
        batches = load_batches(
            dataset, StepBatches(plan, 0, 0, 1), workers=workers, frontend=frontend if features else None
        )
        return walk(lambda: (len(batch.labels_B) for batch in batches), samples // BATCH * BATCH, clock)

    paths = {name: DataDir.open(folder).wav_paths.to_list() for name, folder in dirs.items()}
    share = samples // 2

    def baseline(lowpass: bool) -> float:
        dataset = BaselineDataset(paths, lowpass=lowpass)
        sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=share)
        loader = DataLoader(dataset, BATCH, sampler=sampler, num_workers=2, drop_last=True)
        return walk(lambda: (len(labels) for _, labels in loader), share // BATCH * BATCH, clock)

    ours("ffsvc")  # packs the banks
    runs: dict[str, Callable[[], float]] = {
        "ours": lambda: ours("ffsvc"),
        "device": lambda: ours("ffsvc", features=False),
        "farvox": lambda: ours("farvox"),
        "one": lambda: ours("ffsvc", workers=1),
        "original": lambda: baseline(True),
        "plain": lambda: baseline(False),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(bench.repeats):
        for name, run in runs.items():
            found[name].append(run())
    rate, baseline_is = "samples/s", "the baseline's data set with 2 workers, written anew"
    bench.record(
        "baseline's mixture and speed, features in 2 workers", found["ours"], found["original"], rate,
        target=times(4), reference_is=baseline_is, published=505,
    )  # fmt: skip
    bench.record(
        "the same against the baseline without its low-pass", found["ours"], found["plain"], rate,
        reference_is="the same without sox's low-pass", published=762,
    )  # fmt: skip
    bench.record(
        "the same, features left to the device", found["device"], found["original"], rate,
        reference_is=baseline_is, published=505,
    )  # fmt: skip
    bench.record(
        "farvox's chain and speed, features in 2 workers", found["farvox"], found["original"], rate,
        reference_is=baseline_is, published=505,
    )  # fmt: skip
    if clock == "wall":
        bench.record(
            "two workers against one", found["ours"], found["one"], rate,
            target=times(1.8), reference_is="ours with 1 worker",
        )  # fmt: skip


if __name__ == "__main__":
    main()
