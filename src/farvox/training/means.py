"""Classifier rows that start where the speakers are: their mean embeddings by the starting model.

Shape suffixes: N utterance (of a class), E embedding, T sample, V speed, S speaker.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from farvox.audio.files import read_audio
from farvox.augment.speed import change_speed
from farvox.errors import AudioError, RecipeError
from farvox.models.margin import CosineHead, Head
from farvox.rng import rng_for
from farvox.training.dataset import Wav, fit_length
from farvox.training.distributed import World
from farvox.training.table import TrainingTable
from farvox.zoo import Model, TorchEmbedder

MEANS_STREAM = 2
"""Stream of `rng_for` that draws the utterances of the means."""

LONGEST_SECONDS = 10.0
"""What is heard of an utterance: its beginning, up to here."""

Index = npt.NDArray[np.int64]


def start_at_means(
    head: Head,
    model: Model,
    table: TrainingTable,
    labels_VS: Index,
    *,
    speeds: Sequence[float],
    utterances: int,
    seed: int,
    world: World,
    first_class: int = 0,
) -> None:
    """Set the rows of ``head`` to the length-normalised means of its speakers' length-normalised embeddings.

    With several centres a class, its utterances are dealt out among them. Rows that no speaker has stay
    as they are. All ranks call this together; each embeds its share.

    Args:
        head: of cosines; changed in place.
        model: the starting model, left in evaluation mode.
        table: the training utterances.
        labels_VS: class of each speaker at each speed.
        speeds: speed factors, V of them.
        utterances: at most so many of each speaker are heard, at each speed.
        seed: of the run; draws them.
        world: the ranks.
        first_class: the class of the head's first row, where it holds a part of them.

    Raises:
        RecipeError: the head has no cosines.
        AudioError: an utterance cannot be read; names it.
    """
    if not isinstance(head, CosineHead):
        raise RecipeError(
            "init.classifier = 'means' needs a head of cosines: head.name = 'aam', for instance"
        )
    rows_N = draw_utterances(table.speakers_N, utterances, seed)
    heard = [(int(row), variant) for variant in range(len(speeds)) for row in rows_N]
    mine = heard[world.rank :: world.size]
    local = torch.from_numpy(_embed(model, table, mine, speeds)).to(world.device)
    emb_NE = torch.nn.functional.normalize(world.gather_rows(local, len(heard)))
    classes_N = np.array([labels_VS[variant, table.speakers_N[row]] for row, variant in heard])
    classes_N -= first_class
    here_N = (classes_N >= 0) & (classes_N < head.num_classes)
    centres_NE = _centres(
        emb_NE[torch.from_numpy(here_N)], classes_N[here_N], head.num_classes, head.num_subcentres
    )
    present_N = centres_NE.norm(dim=1) > 0
    with torch.no_grad():
        head.weight[present_N] = torch.nn.functional.normalize(centres_NE[present_N]).to(head.weight)


def draw_utterances(speakers_N: Index, most: int, seed: int) -> Index:
    """Row numbers of at most ``most`` utterances of every speaker, speaker by speaker."""
    shuffled_N = rng_for(seed, 0, 0, MEANS_STREAM).permutation(len(speakers_N))
    rows_N: Index = shuffled_N[np.argsort(speakers_N[shuffled_N], kind="stable")]
    _, starts, counts = np.unique(speakers_N[rows_N], return_index=True, return_counts=True)
    within_N = np.arange(len(rows_N)) - np.repeat(starts, counts)
    return rows_N[within_N < most]


def _embed(
    model: Model, table: TrainingTable, heard: Sequence[tuple[int, int]], speeds: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Embeddings [N, E] of (row, number of the speed), several under way at a time."""
    embedder = TorchEmbedder(model)
    emb_NE = np.empty((len(heard), embedder.embedding_dim), dtype=np.float32)

    def embed_one(number: int) -> None:
        row, variant = heard[number]
        try:
            wav_T = _beginning(table.wav_paths[row], embedder.sample_rate, speeds[variant])
            emb_NE[number] = embedder.embed(fit_length(wav_T, max(len(wav_T), embedder.min_samples)))
        except AudioError as error:
            raise AudioError(f"utterance '{table.utt_ids[row]}': {error}") from None

    with embedder.side_by_side() as pool:
        for _ in pool.map(embed_one, range(len(heard))):
            pass
    return emb_NE


def _beginning(path: str, sample_rate: int, speed: float) -> Wav:
    wav_T = read_audio(path, num_samples=int(LONGEST_SECONDS * sample_rate), sample_rate=sample_rate)
    if len(wav_T) == 0:
        raise AudioError(f"{path}: the file has no samples")
    return change_speed(wav_T, speed)


def _centres(emb_NE: torch.Tensor, classes_N: Index, num_classes: int, per_class: int) -> torch.Tensor:
    """Sums of the embeddings of every centre [C K, E]; a centre that got none has those of its class."""
    order = np.argsort(classes_N, kind="stable")
    _, starts, counts = np.unique(classes_N[order], return_index=True, return_counts=True)
    within_N = np.empty(len(order), dtype=np.int64)
    within_N[order] = np.arange(len(order)) - np.repeat(starts, counts)
    centres_N = torch.from_numpy(classes_N * per_class + within_N % per_class).to(emb_NE.device)
    zeros = emb_NE.new_zeros(num_classes * per_class, emb_NE.shape[1])
    sums = zeros.index_add(0, centres_N, emb_NE)
    of_class = sums.view(num_classes, per_class, -1).sum(dim=1).repeat_interleave(per_class, dim=0)
    return torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, of_class)
