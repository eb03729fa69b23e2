"""``farvox score``: from embeddings to scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from farvox.io.embeddings import EmbeddingSet


def score(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    channels: Literal["mean-norm", "sum"] = "mean-norm",
    channel_ids: Literal["enrol", "test", "both", "neither"] | None = None,
) -> int:
    """Score a trial list: one line a trial, in trial order, "enrol test score".

    Args:
        trials: trial list of any form; the labels, if any, are not looked at.
        embeddings: one or more folders made by "farvox extract".
        out: score file to write.
        channels: how a side of several utterances becomes one embedding: the mean of the
            length-normalised ones, or the plain sum, as in the HI-MIA homework.
        channel_ids: the side whose ids mean their channels ID_0, ID_1, ... where an utterance ID is
            there too; without it such ids are refused.
    """
    if not embeddings:
        print("farvox score: EMBEDDINGS is missing: name at least one folder of embeddings", file=sys.stderr)
        return 2
    from farvox.score.cosine import cosine_scores
    from farvox.score.scores import write_scores
    from farvox.score.trials import read_trials

    trial_list = read_trials(trials)
    print(trial_list.form, file=sys.stderr)
    embedding_set = _load(embeddings)
    resolved = trial_list.resolve(embedding_set.utt_ids, channel_ids)
    if resolved.reading:
        print(resolved.reading, file=sys.stderr)
    write_scores(out, trial_list, cosine_scores(resolved, embedding_set.embeddings, channels))
    print(f"{len(trial_list):,} scores: {out}", file=sys.stderr)
    return 0


def _load(folders: tuple[Path, ...]) -> EmbeddingSet:
    import numpy as np

    from farvox.errors import TrialError
    from farvox.io.embeddings import EmbeddingSet

    sets = [EmbeddingSet.load(folder) for folder in folders]
    if len(sets) == 1:
        return sets[0]
    for folder, other in zip(folders, sets, strict=True):
        if other.embeddings.shape[1] != sets[0].embeddings.shape[1]:
            raise TrialError(
                f"{folder}: embeddings of {other.embeddings.shape[1]} dimensions, and of"
                f" {sets[0].embeddings.shape[1]} in {folders[0]}: they are of different models"
            )
    utt_ids = [utt_id for other in sets for utt_id in other.utt_ids]
    return EmbeddingSet(utt_ids, np.concatenate([other.embeddings for other in sets]))
