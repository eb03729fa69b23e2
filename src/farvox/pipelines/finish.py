"""The weights of a training, finished: mixed with those that it began with, and centred.

Half-way between a model and its fine-tuning lies one that keeps more of what the first knew and loses little
of what the second learned (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). The mean
embedding of speech like that of the tests, subtracted from all embeddings, leaves what differs between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from farvox.atomic import sha256_of
from farvox.audio.shards import fingerprint
from farvox.jobs import digest
from farvox.options import AtLeast, Below, Metavar, Options
from farvox.parsing import parse_json
from farvox.pipelines.extract import extract
from farvox.progress import Note, silent

ENTRY = "finished"
"""Entry of ``config.json`` with what a finished model was made of."""


@dataclass(frozen=True, kw_only=True)
class FinishOptions(Options):
    """``[finish]``: what is done to the weights when they are trained; it makes the folder ``finished``."""

    start: Annotated[float, AtLeast(0), Below(1)] = 0.0
    """Share of the starting model in the weights."""
    centre: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir whose mean embedding is subtracted from all embeddings; the network's last layer holds it."""

    @property
    def is_any(self) -> bool:
        """Something is to be done."""
        return self.start > 0 or self.centre is not None


def finish(
    model: str | Path,
    start: str,
    options: FinishOptions,
    out: str | Path,
    *,
    device: str,
    note: Note = silent,
) -> None:
    """Write a model folder with the finished weights of a trained MODEL; not again where nothing has changed.

    Args:
        model: as it was trained, such as a run dir.
        start: the MODEL that the training began with.
        options: what is done.
        out: the folder to write.
        device: to embed on.

    Raises:
        ModelError: a model is not there, the two are of different networks, or the network cannot be centred.
        AudioError: recordings of the centre cannot be used.
    """
    import torch

    from farvox.datadir.kaldi import DataDir
    from farvox.score.norm import mean_embedding
    from farvox.zoo import Card, find_model, load_model, save_model
    from farvox.zoo.find import mean_of_models
    from farvox.zoo.model import CONFIG, WEIGHTS, pick_device
    from farvox.zoo.torch_backend import TorchEmbedder

    out = Path(out)
    folder = find_model(model)
    data_dir = DataDir.open(options.centre) if options.centre else None
    origin = {
        "of": sha256_of(folder / WEIGHTS),
        "start": sha256_of(find_model(start) / WEIGHTS) if options.start else "",
        "share": options.start,
        "centre": digest([*data_dir.utt_ids, fingerprint(data_dir.wav_paths)]) if data_dir else "",
    }
    if (out / CONFIG).is_file() and parse_json((out / CONFIG).read_text("utf-8")).get(ENTRY) == origin:
        return
    share = options.start
    mixed = mean_of_models([folder, start], [1 - share, share]) if share else load_model(folder)
    if data_dir:
        note(f"{out}: centred by {len(data_dir):,} recordings of {data_dir.path}")
        mixed.network.to(pick_device(device))
        found = extract(TorchEmbedder(mixed, Card.load(folder)), data_dir, note=note)
        mixed.network.subtract(torch.from_numpy(mean_embedding(found.embeddings)))
    config = mixed.config["model"]
    save_model(
        out, mixed.network, mixed.frontend_config, config["name"], config["kwargs"], extra={ENTRY: origin}
    )
