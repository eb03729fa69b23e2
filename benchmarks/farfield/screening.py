"""Ingredients that farvox does not have, each added to the far-field fine-tuning: 200 steps.

    python benchmarks/farfield/screening.py CORPORA OUT [NAME ...]

Trained and judged as in `ablation.py`, whose OUT it takes, and compared with the whole of the same seeds:
the table of docs/farfield.md. What has no option is patched in here, and stays here unless it helps.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from ablation import BEFORE, LISTS, WHOLE, compare
from folds import extract, farvox
from numpy.typing import NDArray
from scipy.signal import butter, resample, sosfiltfilt
from torch import Tensor
from torch.nn import functional as fn

from farvox.audio.files import read_audio, write_audio
from farvox.augment.chain import FarvoxChain
from farvox.cli.main import main as command_line
from farvox.corpora.farfield import measured_rooms
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.farfield.enhance import dereverberate
from farvox.farfield.rooms import measure_rir
from farvox.models.margin import CosineHead
from farvox.rng import rng_for
from farvox.training import trainer
from farvox.training.loader import Chunk, ChunkDataset
from farvox.training.objective import Losses, TrainingModel
from farvox.training.step import Stepper, StepResult
from farvox.training.table import Draw, EpochPlan
from farvox.zoo.find import open_embedder

SEED, RATE = 1, 16000
Wav = NDArray[np.float32]


def pairs_of_rooms(term: Callable[[Tensor, Tensor], Tensor], weight: float) -> None:
    """Every chunk twice in a batch, each through a room of its own, with one more term of the loss."""
    batch, read, forward = EpochPlan.batch, ChunkDataset.read, TrainingModel.forward

    def batch_of_pairs(self: EpochPlan, *place: int) -> list[Draw]:
        draws = batch(self, *place)
        return [(epoch, position, draws[i - i % 2][2]) for i, (epoch, position, _) in enumerate(draws)]

    def read_first(self: ChunkDataset, draw: Draw) -> Chunk:
        epoch, position, row = draw
        chunk = read(self, (epoch, position - position % 2, row))
        return chunk._replace(position=position, rng=rng_for(self.seed, epoch, position, 97))

    def with_term(self: TrainingModel, feats: Tensor, labels: Tensor, target: Tensor | None = None) -> Losses:
        embed, kept = self._embed, []
        self._embed = lambda feats_BFM: kept.append(embed(feats_BFM)) or kept[-1]
        try:
            found = forward(self, feats, labels, target)
        finally:
            self._embed = embed
        return found._replace(loss=found.loss + weight * term(fn.normalize(kept[0].float()), labels))

    EpochPlan.batch, ChunkDataset.read, TrainingModel.forward = batch_of_pairs, read_first, with_term


def disagreement(emb_BE: Tensor, labels_B: Tensor) -> Tensor:
    """Mean of 1 - cosine between the two of a pair."""
    return 1 - (emb_BE[::2] * emb_BE[1::2]).sum(1).mean()


def contrast(emb_BE: Tensor, labels_B: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, eq. 2), all of a class being positives."""
    logits_BB = (emb_BE @ emb_BE.T / temperature).fill_diagonal_(-torch.inf)
    positive_BB = (labels_B[:, None] == labels_B).fill_diagonal_(False)
    log_BB = logits_BB.log_softmax(dim=1).masked_fill(~positive_BB, 0.0)
    return -(log_BB.sum(1) / positive_BB.sum(1)).mean()


def inter_topk(nearest: int = 5, margin: float = 0.06) -> None:
    """A margin also on the nearest wrong classes: the inter-topK penalty of Zhao et al., 2022."""
    forward = CosineHead.forward

    def harder(self: CosineHead, emb_BE: Tensor, labels_B: Tensor | None = None) -> Tensor:
        logits_BC = forward(self, emb_BE, labels_B)
        with torch.autocast(emb_BE.device.type, enabled=False):
            cosine_BC = logits_BC / self.scale
            wrong_BK = cosine_BC.scatter(1, labels_B[:, None], -2.0).topk(nearest).indices
            angle_BK = cosine_BC.gather(1, wrong_BK).clamp(-0.999, 0.999).acos()
            return self.scale * cosine_BC.scatter(1, wrong_BK, (angle_BK - margin).cos())

    CosineHead.forward = harder


def sharpness_aware(radius: float = 0.05) -> None:
    """The gradient where the loss is greatest nearby (Foret et al., 2021, eq. 2 and 3)."""
    gradient = Stepper.gradient

    def nearby(self: Stepper, micro_batches: Sequence[object], count: int) -> StepResult:
        batches = list(micro_batches)
        first = gradient(self, batches, count)
        moved = [
            (weight, radius / first.grad_norm * weight.grad)
            for weight in self.parameters
            if weight.grad is not None
        ]
        with torch.no_grad():
            kept = [weight.clone() for weight, _ in moved]
            for weight, step in moved:
                weight += step
        found = gradient(self, batches, count)
        with torch.no_grad():
            for (weight, _), before in zip(moved, kept, strict=True):
                weight.copy_(before)
        return found

    Stepper.gradient = nearby


class LowRank(torch.optim.Adam):
    """Adam for the head; of the network only W0 + B A for each matrix, of rank 8 (Hu et al., 2022)."""

    def __init__(self, parameters: Sequence[dict[str, object]], rank: int = 8, **options: object) -> None:
        super().__init__(parameters, **options)
        network, *heads = (group["params"] for group in self.param_groups)
        draws = torch.Generator().manual_seed(SEED)
        self.pairs = []
        for weight in (each for each in network if each.dim() > 1):
            rows, columns = weight.shape[0], weight[0].numel()
            down = torch.randn(min(rank, columns), columns, generator=draws) / columns**0.5
            up = torch.zeros(rows, len(down))
            self.pairs.append((weight, weight.detach().clone(), up.requires_grad_(), down.requires_grad_()))
        inner = [each for _, _, *pair in self.pairs for each in pair]
        self.inner = torch.optim.Adam([*inner, *(each for head in heads for each in head)], lr=1e-3)

    def step(self, closure: None = None) -> None:
        """Take a step of the factors, and set the matrices."""
        with torch.no_grad():
            for weight, _, up, down in self.pairs:
                gradient = weight.grad.reshape(len(weight), -1)
                up.grad, down.grad = gradient @ down.T, up.T @ gradient
        self.inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.inner.step()
        with torch.no_grad():
            for weight, start, up, down in self.pairs:
                weight.copy_(start + (up @ down).view_as(weight))


def low_rank() -> None:
    """Train the factors and the head alone."""
    trainer.build_optimizer = lambda _, parameters: LowRank(parameters)


def dereverberated(share: float = 0.25) -> None:
    """A share of the chunks goes through WPE after room and noise."""
    chain = FarvoxChain.__call__

    def sometimes(self: FarvoxChain, wav_T: Wav, rng: np.random.Generator) -> Wav:
        wav_T = chain(self, wav_T, rng)
        return dereverberate(wav_T[None])[0].astype(np.float32) if rng.random() < share else wav_T

    FarvoxChain.__call__ = sometimes


def telephone(share: float = 0.3) -> None:
    """A share of the chunks goes over a telephone, after room and noise: 300 to 3,400 Hz, 8 bits (mu-law)."""
    chain = FarvoxChain.__call__
    band = butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")

    def sometimes(self: FarvoxChain, wav_T: Wav, rng: np.random.Generator) -> Wav:
        wav_T = chain(self, wav_T, rng)
        if rng.random() >= share or not wav_T.any():
            return wav_T
        narrow_T = sosfiltfilt(band, wav_T)
        peak = np.abs(narrow_T).max()
        small_T = np.sign(narrow_T) * np.log1p(255 * np.abs(narrow_T) / peak) / np.log(256)
        small_T = np.round(small_T * 127) / 127
        return (np.sign(small_T) * peak * (256 ** np.abs(small_T) - 1) / 255).astype(np.float32)

    FarvoxChain.__call__ = sometimes


def write_rooms(out: Path, rooms: dict[str, Wav], table: list[str]) -> Path:
    """A data dir of responses, with the lines of its utt2cond."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rir_R in rooms.items():
        write_audio(out / f"{name}.wav", 0.5 * rir_R / np.abs(rir_R).max(), RATE)
    (out / "wav.scp").write_text("".join(f"{name} {out.absolute()}/{name}.wav\n" for name in sorted(rooms)))
    (out / "utt2cond").write_text("\n".join(table) + "\n")
    return out


def measured(corpora: Path, out: Path, names: Sequence[str], copies: int = 125) -> Path:
    """Measured responses, in copies played 0.8 to 1.25 times as fast: other sizes of the room."""
    rng, rooms, table = rng_for(SEED, 0, 0), {}, ["utt_id\tt60\tdrr\tdistance"]
    for name, rir_R in measured_rooms(corpora / "rirs_gtu").items():
        for copy in range(copies if name.startswith(tuple(names)) else 0):
            faster = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
            rooms[f"{name}-{copy:03d}"] = resample(rir_R, round(len(rir_R) / faster)).astype(np.float32)
    for name, rir_R in sorted(rooms.items()):
        t60, drr = measure_rir(rir_R)
        table.append(f"{name}\t{t60 or 0:.3f}\t{drr or 0:.2f}\t")
    return write_rooms(out, rooms, table)


def absorbing(simulated: Path, out: Path) -> Path:
    """The simulated rooms, each octave with a T60 of its own, 0.7 to 1.4 times that of the room."""
    rng, rooms = rng_for(SEED, 0, 0), {}
    edges = [0, *(125 * 2**octave for octave in range(6)), RATE / 2]
    table = (simulated / "utt2cond").read_text().splitlines()
    for line in table[1:]:
        name, t60 = line.split("\t")[0], float(line.split("\t")[1])
        rir_R = read_audio(simulated / "audio" / f"{name}.wav").astype(np.float64)
        start = int(np.abs(rir_R).argmax())
        seconds_R = np.clip(np.arange(len(rir_R)) - start, 0, None) / RATE
        spectrum, frequencies = np.fft.rfft(rir_R), np.fft.rfftfreq(len(rir_R), 1 / RATE)
        total_R = np.zeros_like(rir_R)
        for low, high in pairwise(edges):
            band_R = np.fft.irfft(spectrum * ((low <= frequencies) & (frequencies < high)), len(rir_R))
            faster = np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
            total_R += band_R * np.exp(-3 * np.log(10) * seconds_R / t60 * (1 / faster - 1))
        rooms[name] = total_R.astype(np.float32)
    return write_rooms(out, rooms, table)


ODD, EVEN = "rooms-odd", "rooms-even"
PAIRS = {ODD: ("room-207", "room-conferrence01"), EVEN: ("room-208", "room-sport01")}
"""The measured rooms that are trained in; the other two judge."""
LAYERS = '["front", "first", "blocks.0", "blocks.1"]'
AGREE = partial(pairs_of_rooms, disagreement, 2.0)
"""The option agree.weight = 2, as it was before it was one."""
LONGER: dict[str, object] = {"--distill.weight": 0, "--data.epoch_size": 3200}
FREE = 1e-12
"""A pull to the start that pulls nothing; without one, network and head are one group of the optimiser."""
INGREDIENTS: dict[str, tuple[Callable[[], None] | None, dict[str, object]]] = {
    "subcentre": (None, {"--head.name": "subcentre-aam"}),
    "top": (None, {"--optim.freeze": LAYERS}),
    "margin": (None, {"--head.margin": 0.4}),
    "absorbing": (None, {}),
    **dict.fromkeys(PAIRS, (None, {})),
    "contrast": (partial(pairs_of_rooms, contrast, 1.0), {}),
    "consistency": (AGREE, {}),
    "low-rank": (low_rank, {"--optim.l2_sp": FREE, "--optim.lr": 1e-3}),
    "topk": (inter_topk, {}),
    "dereverberated": (dereverberated, {}),
    "telephone": (telephone, {}),
    "sharpness": (sharpness_aware, {}),
    "all": (AGREE, LONGER),
    **dict.fromkeys((f"all-{pair}" for pair in PAIRS), (AGREE, LONGER)),
}
"""What each adds: a patch, and options. ``all`` is what was taken: pairs, 400 steps, no teacher; and with
measured rooms."""
SEEDS = dict.fromkeys(("contrast", "consistency", *PAIRS), (1, 2, 3)) | dict.fromkeys(
    (f"all-{pair}" for pair in PAIRS), (1, 2)
)
"""Of what looked better with one seed."""


def main(corpora: str, out: str, *names: str) -> None:
    """Train, extract, compare; patches are of the process, so that each training has one of its own."""
    root = Path(out)
    if names[:1] == ("train",):
        return train(Path(corpora), root, names[1], int(names[2]))
    judged, lists = root / "data/judged", root / "data/across-tune"
    for name in names or INGREDIENTS:
        seeds, systems = SEEDS.get(name, (SEED,)), {}
        for seed in seeds:
            run = root / f"exp/{name}-{seed}"
            if not (run / "train/finished").exists():
                words = (__file__, corpora, out, "train", name, str(seed))
                subprocess.run([sys.executable, *words], check=True)
            extract(run / "train/finished", judged, root / f"emb/{name}-{seed}")
        for each in (WHOLE, name):
            systems[each] = [f"{each}-{seed}" for seed in seeds]
        if name.endswith(ODD):
            continue  # judged with EVEN
        for trials in LISTS:
            if name.endswith(EVEN):
                systems[name] = [
                    swapped(root, lists, trials, name.removesuffix(EVEN), seed) for seed in seeds
                ]
            compare(root, lists, trials, systems)
    if not names:
        embed_windows(root / f"exp/{WHOLE}-{SEED}/train/finished", judged, root / "emb/windows")
        for trials in LISTS:
            compare(root, lists, trials, {WHOLE: [f"{WHOLE}-{SEED}"], "windows": ["windows"]})


def embed_windows(model: Path, data: Path, out: Path, seconds: float = 2.0) -> None:
    """The mean of unit-length embeddings of windows that overlap by half, unless it is there."""
    if out.exists():
        return
    embedder, source = open_embedder(model), DataDir.open(data)
    rows, length = [], int(seconds * RATE)
    for path in source.wav_paths:
        wav_T = read_audio(path, sample_rate=RATE)
        starts = range(0, max(1, len(wav_T) - length // 2), length // 2)
        found = [
            embedder.embed(wav_T[max(0, min(start, len(wav_T) - length)) :][:length]) for start in starts
        ]
        rows.append(np.mean([each / np.linalg.norm(each) for each in found], axis=0))
    EmbeddingSet(source.utt_ids.to_list(), np.asarray(rows, np.float32)).save(out)


def train(corpora: Path, root: Path, name: str, seed: int) -> None:
    """One training in this process, with its patch."""
    patch, options = INGREDIENTS[name]
    options = BEFORE | options
    data, lists, rooms = (root / "data" / each for each in ("farfield-tune", "across-tune", name))
    if pair := next((each for each in PAIRS if name.endswith(each)), ""):
        options["--augment.rirs"] = f'["{data}/rooms", "{measured(corpora, rooms, PAIRS[pair])}"]'
    if name == "absorbing":
        options["--augment.rirs"] = f'["{absorbing(data / "rooms", rooms)}"]'
    if patch:
        patch()
    words = ("run", "farfield/tune", "--paths.lists", lists, "--paths.data", data, "--paths.corpora", corpora)
    words += ("--run-dir", root / f"exp/{name}-{seed}", "--from", "train", "--to", "train", "--seed", seed)
    words += ("--threads", 1, *chain(*options.items()))
    if status := command_line([str(word) for word in words]):
        raise SystemExit(status)


def swapped(root: Path, lists: Path, trials: str, prefix: str, seed: int) -> str:
    """Scores of each test by the model that was not trained in its room; its name."""
    lines = {}
    for pair in PAIRS:
        path = root / "scores" / trials / f"{prefix}{pair}-{seed}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            farvox("score", lists / f"{trials}.trials", root / f"emb/{path.name}", "--out", path)
        lines[pair] = path.read_text().splitlines(keepends=True)
    of_odd = [any(room in line for room in PAIRS[ODD]) for line in lines[ODD]]
    chosen = [lines[EVEN][i] if is_odd else lines[ODD][i] for i, is_odd in enumerate(of_odd)]
    name = f"{prefix}rooms-swapped-{seed}"
    (root / "scores" / trials / name).write_text("".join(chosen))
    return name


if __name__ == "__main__":
    main(*sys.argv[1:])
