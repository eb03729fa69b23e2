"""The start of a training run: new weights, or a model with its front-end and classifier.

Shape suffixes: N utterance (of a class), E embedding, T sample, V speed, S speaker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from farvox.audio.files import read_audio
from farvox.augment.effects import change_speed
from farvox.errors import AudioError, ModelError, RecipeError
from farvox.features.frontend import FrontEndConfig
from farvox.manifest import read_weights
from farvox.models.base import EmbeddingNetwork
from farvox.models.margin import CosineHead, Head
from farvox.parsing import read_record
from farvox.rng import rng_for
from farvox.training.checkpoint import START, load_state
from farvox.training.distributed import World
from farvox.training.loader import ChunkDataset, fit_length
from farvox.training.table import Index, TrainingTable
from farvox.zoo import Model, TorchEmbedder, find_model
from farvox.zoo.model import fill, read_config

IDLE = "idle "
"""Beginning of the names of ``head.idle_classes``: rows that no speaker has, which only ever push away.

Two thirds of the HI-MIA homework's classifier are such rows. The space sets them apart from speakers.
"""
MEANS_STREAM = 2
"""Stream of `rng_for` that draws the utterances of the means."""
LONGEST_SECONDS = 10.0
"""Length of the beginning of an utterance that is embedded."""


@dataclass(frozen=True)
class StartingPoint:
    """Front-end, architecture and, when training starts from a model, its weights."""

    frontend: FrontEndConfig
    model_name: str
    model_kwargs: dict[str, Any]
    folder: Path | None = None
    network_state: dict[str, Tensor] | None = None
    old_classes: Sequence[str] = ()

    def load_network(self, network: EmbeddingNetwork) -> None:
        """Put the model's weights, if there is a model, into ``network``."""
        if self.network_state is not None:
            fill(network, self.network_state, f"{self.folder} against [model] of the recipe")

    def classes_for(self, classifier: str, classes: list[str]) -> list[str]:
        """Names of the classifier's rows: those of the data, or the model's own with new ones after them.

        Raises:
            RecipeError: ``keep`` or ``extend`` without a model, or ``keep`` with other speakers.
        """
        if classifier in ("new", "means"):
            return classes
        if not self.old_classes:
            raise RecipeError(
                f"init.classifier = '{classifier}' needs init.model to be a run dir, one of its checkpoints, "
                "or a model of the baseline that 'farvox import --spk2utt' gave the names of its classes"
            )
        old, now = set(_speaking(self.old_classes)), set(_speaking(classes))
        if classifier == "extend":
            if old.isdisjoint(now):
                raise RecipeError(
                    f"init.classifier = 'extend': none of the {len(old)} classes of {self.folder} "
                    f"('{min(old)}', ...) is in the data dirs ('{min(now)}', ...); use 'new', or import it "
                    "again with the --spk2utt it was trained on"
                )
            known = set(self.old_classes)
            return [*self.old_classes, *(name for name in classes if name not in known)]
        if differing := old ^ now:
            raise RecipeError(
                f"init.classifier = 'keep': {self.folder} was trained on {len(old)} classes, the data dirs "
                f"have {len(now)}, and {len(differing)} are in one of them only ('{min(differing)}', ...); "
                "use 'extend' to add classes or 'new' to start afresh"
            )
        return list(self.old_classes)

    def load_head(self, head: Head, num_classes: int) -> None:
        """Put the model's classifier into ``head``, built for its classes; extend it to ``num_classes``."""
        assert self.folder is not None
        path = self.folder / "classifier.safetensors"
        fill(head, read_weights(path), f"{path} against [head] of the recipe")
        head.extend_classes(num_classes - len(self.old_classes))


def starting_point(model: str, features: Mapping[str, Any], network: Mapping[str, Any]) -> StartingPoint:
    """The start that ``init.model``, ``[features]`` and ``[model]`` of a recipe describe.

    A model brings its front-end and architecture along; what the recipe says besides must agree.

    Raises:
        RecipeError: the recipe names no architecture, or a front-end other than the model's.
    """
    kwargs = {key: value for key, value in network.items() if key != "name"}
    if not model:
        if "name" not in network:
            raise RecipeError("the recipe names no architecture: set model.name ('farvox models' lists them)")
        frontend = FrontEndConfig.from_dict(dict(features))
        return StartingPoint(frontend, network["name"], {"num_mels": frontend.num_mels, **kwargs})
    folder = find_model(model)
    config = read_config(folder)
    frontend = FrontEndConfig.from_dict(config["frontend"])
    if features and FrontEndConfig.from_dict({**config["frontend"], **features}) != frontend:
        raise RecipeError(
            f"[features] of the recipe differs from the front-end of {folder}: "
            f"{dict(features)} against {config['frontend']}; leave [features] out to take the model's"
        )
    name = config["model"]["name"]
    if network.get("name", name) != name:
        raise RecipeError(f"model.name = '{network['name']}', but {folder} is a '{name}'")
    classes = load_state(folder).classes if (folder / "state.json").exists() else ()
    return StartingPoint(
        frontend, name, {**config["model"]["kwargs"], **kwargs}, folder,
        read_weights(folder / "model.safetensors"), classes,
    )  # fmt: skip


def trained_speakers(model: str | Path) -> dict[str, list[str]]:
    """The speakers of a MODEL's classes, and of the models that it began with in turn, by the folder of each.

    A model without the names of its classes, or that is not there any more, ends the list.
    """
    found: dict[str, list[str]] = {}
    with suppress(ModelError):
        while model and (folder := find_model(model)) and str(folder) not in found:
            if not (folder / "state.json").exists():
                break
            names = _speaking(load_state(folder).classes)
            found[str(folder)] = sorted({re.sub(r"@[\d.]+$", "", name) for name in names})
            record = folder.parent.parent / START
            model = read_record(record).get("folder", "")
    return found


def class_names(speakers: Sequence[str], speeds: Sequence[float]) -> list[str]:
    """Names of the classifier's rows, speed by speed; a speaker at a speed other than 1 is one of his own."""
    return [name if factor == 1 else f"{name}@{factor:g}" for factor in speeds for name in speakers]


def reserved_speakers(dirs: Sequence[str | Path], speakers: Sequence[str]) -> list[str]:
    """Speakers of ``data.reserve`` that are not among ``speakers``: rows wait for them from the start.

    Until data of theirs is trained on, such a row only pushes away; a later run with ``keep`` or
    ``extend`` finds it by its name.
    """
    if not dirs:
        return []
    known = set(speakers)
    return [name for name in TrainingTable.open(dirs).speaker_names if name not in known]


def _speaking(classes: Sequence[str]) -> list[str]:
    return [name for name in classes if not name.startswith(IDLE)]


def start_at_means(
    head: Head, model: Model, dataset: ChunkDataset, utterances: int, world: World, first_class: int = 0
) -> None:
    """Set the rows of ``head`` to the length-normalised means of its speakers' length-normalised embeddings.

    With several centres a class, its utterances are dealt out among them. Rows that no speaker has stay
    as they are. All ranks call this together; each embeds its share.

    Args:
        head: of cosines; changed in place.
        model: the starting model, left in evaluation mode.
        dataset: the training utterances; its seed draws those that are embedded.
        utterances: most utterances of each speaker that are embedded, at each speed.
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
    embedder, table = TorchEmbedder(model), dataset.table
    rows_N = draw_utterances(table.speakers_N, utterances, dataset.seed)
    used = [(int(row), variant) for variant in range(len(dataset.speeds)) for row in rows_N]
    mine = used[world.rank :: world.size]
    local_NE = np.empty((len(mine), embedder.embedding_dim), dtype=np.float32)

    def embed_one(number: int) -> None:
        row, variant = mine[number]
        path, rate = table.wav_paths[row], embedder.sample_rate
        try:
            wav_T = read_audio(path, num_samples=int(LONGEST_SECONDS * rate), sample_rate=rate)
            if len(wav_T) == 0:
                raise AudioError(f"{path}: the file has no samples")
            wav_T = change_speed(wav_T, dataset.speeds[variant])
            local_NE[number] = embedder.embed(fit_length(wav_T, max(len(wav_T), embedder.min_samples)))
        except AudioError as error:
            raise AudioError(f"utterance '{table.utt_ids[row]}': {error}") from None

    with embedder.side_by_side() as pool:
        for _ in pool.map(embed_one, range(len(mine))):
            pass
    local = torch.from_numpy(local_NE).to(world.device)
    emb_NE = functional.normalize(world.gather_rows(local, len(used)))
    classes_N = np.array([dataset.label(variant, row) for row, variant in used])
    classes_N -= first_class
    here_N = (classes_N >= 0) & (classes_N < head.num_classes)
    emb_NE, classes_N, per_class = emb_NE[torch.from_numpy(here_N)], classes_N[here_N], head.num_subcentres

    # Sums of the embeddings of every centre; a centre that got none has those of its class.
    order = np.argsort(classes_N, kind="stable")
    _, starts, counts = np.unique(classes_N[order], return_index=True, return_counts=True)
    within_N = np.empty(len(order), dtype=np.int64)
    within_N[order] = np.arange(len(order)) - np.repeat(starts, counts)
    centres_N = torch.from_numpy(classes_N * per_class + within_N % per_class).to(emb_NE.device)
    sums = emb_NE.new_zeros(head.num_classes * per_class, emb_NE.shape[1]).index_add(0, centres_N, emb_NE)
    of_class = sums.view(head.num_classes, per_class, -1).sum(dim=1).repeat_interleave(per_class, dim=0)
    centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, of_class)
    present = centres.norm(dim=1) > 0
    with torch.no_grad():
        head.weight[present] = functional.normalize(centres[present]).to(head.weight)


def draw_utterances(speakers_N: Index, most: int, seed: int) -> Index:
    """Row numbers of at most ``most`` utterances of every speaker, speaker by speaker."""
    shuffled_N = rng_for(seed, 0, 0, MEANS_STREAM).permutation(len(speakers_N))
    rows_N: Index = shuffled_N[np.argsort(speakers_N[shuffled_N], kind="stable")]
    _, starts, counts = np.unique(speakers_N[rows_N], return_index=True, return_counts=True)
    within_N = np.arange(len(rows_N)) - np.repeat(starts, counts)
    return rows_N[within_N < most]
