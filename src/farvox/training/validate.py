"""Validation on a trial list, shared among all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farvox.datadir.kaldi import DataDir
from farvox.errors import TrialError
from farvox.metrics.detection import detection_error
from farvox.score.cosine import cosine_scores
from farvox.score.trials import read_trials
from farvox.training.distributed import World
from farvox.zoo import Model, TorchEmbedder
from farvox.zoo.embedder import embed_files


@dataclass
class Validation:
    """A data dir and a labelled trial list; read once, at the start, so that faults show before training."""

    data_dir: Path
    trials: Path

    def __post_init__(self) -> None:
        self._prepared  # noqa: B018  (faults of the files show now)

    @cached_property
    def _prepared(self) -> tuple[list[str], list[str], Any, Any]:
        table = DataDir.open(self.data_dir).table
        trials = read_trials(self.trials)
        if trials.target is None:
            raise TrialError(f"{self.trials}: validation needs a trial list with labels")
        rows = trials.resolve(table["utt_id"], allow_missing_channels=True).needed_rows
        kept = table[rows]
        return (
            kept["utt_id"].to_list(),
            kept["wav_path"].to_list(),
            trials,
            trials.resolve(kept["utt_id"], allow_missing_channels=True),
        )

    def run(self, model: Model, world: World) -> dict[str, float]:
        """EER and minDCF of ``model``; every rank embeds its share of the utterances."""
        utt_ids, wav_paths, trials, resolved = self._prepared
        model.network.eval()
        mine = slice(world.rank, None, world.size)
        local = embed_files(TorchEmbedder(model), utt_ids[mine], wav_paths[mine])
        rows = world.gather_rows(torch.from_numpy(local).to(world.device), len(utt_ids))
        scores = cosine_scores(resolved, rows.cpu().numpy().astype(np.float32))
        result = detection_error(scores, trials.target)
        return {"eer": result.eer, "min_dcf": result.min_dcf}
