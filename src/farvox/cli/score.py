"""``farvox score``: from embeddings to scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from farvox.io.embeddings import EmbeddingSet
    from farvox.score.trials import ResolvedTrials

Channels = Literal["mean-norm", "mean", "sum", "score-mean", "best", "weighted", "expand"]
NORMS = {"s-norm": None, "as-norm": 300}


def score(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    channels: Channels = "mean-norm",
    channel_ids: Literal["enrol", "test", "both", "neither"] | None = None,
    first_channel: int = 0,
    allow_missing_channels: FlagCreatePairsOff[bool] = False,
    out_trials: Annotated[Path | None, arg(metavar="TRIALS")] = None,
    enrol_map: Annotated[Path | None, arg(metavar="FILE")] = None,
    test_map: Annotated[Path | None, arg(metavar="FILE")] = None,
    centre: Annotated[Path | None, arg(metavar="EMBEDDINGS")] = None,
    norm: Literal["s-norm", "as-norm"] | None = None,
    cohort: Annotated[Path | None, arg(metavar="EMBEDDINGS")] = None,
    cohort_speakers: Annotated[Path | None, arg(metavar="DIR|FILE")] = None,
    top: int | None = None,
) -> int:
    """Score a trial list: one line a trial, in trial order, "enrol test score".

    Args:
        trials: trial list of any form; the labels, if any, are not looked at.
        embeddings: one or more folders made by "farvox extract".
        out: score file to write.
        channels: how the utterances of a side become one: mean of the length-normalised embeddings, mean or
            plain sum of the raw ones, mean of the scores of all pairs, the best by quality, a mean weighted
            by quality; or "expand": every channel a trial of its own.
        channel_ids: the side whose ids mean their channels ID_0, ID_1, ... where an utterance ID is
            there too; without it such ids are refused.
        first_channel: leave out channels with a lower number.
        allow_missing_channels: count channels that a side lacks and others have, instead of stopping.
        out_trials: with "expand": also write the list of the trials of single channels, with their labels.
        enrol_map: enrolment ids that stand for several utterances: lines "model utt1 utt2 ...".
        test_map: the same of the test side.
        centre: subtract the mean of these embeddings from all others first.
        norm: normalise the scores by those against a cohort, all of it or each side's nearest.
        cohort: embeddings of the cohort: speakers who are in no trial.
        cohort_speakers: data dir or utt2spk of the cohort, which becomes a mean embedding a speaker.
        top: how many of the nearest; 300 unless given.
    """
    if not embeddings:
        print("farvox score: EMBEDDINGS is missing: name at least one folder of embeddings", file=sys.stderr)
        return 2
    _refuse_contradictions(channels, out_trials, norm, cohort, cohort_speakers, top)
    from farvox.score.channels import expand
    from farvox.score.cosine import scalar_products, side_embeddings
    from farvox.score.norm import mean_embedding
    from farvox.score.scores import write_scores
    from farvox.score.sides import read_side_map
    from farvox.score.trials import read_trials, write_trials

    trial_list = read_trials(trials)
    print(trial_list.form, file=sys.stderr)
    embedding_set = _load(embeddings)
    resolved = trial_list.resolve(
        embedding_set.utt_ids,
        channel_ids,
        enrol_map=read_side_map(enrol_map) if enrol_map else None,
        test_map=read_side_map(test_map) if test_map else None,
        first_channel=first_channel,
        allow_missing_channels=allow_missing_channels,
    )
    if resolved.reading:
        print(resolved.reading, file=sys.stderr)
    if channels == "expand":
        resolved = expand(resolved)
        print(resolved.reading, file=sys.stderr)
    rule = "mean-norm" if channels == "expand" else channels
    centre_E = None if centre is None else mean_embedding(_load((centre,)).embeddings)
    sides_SE = side_embeddings(
        resolved, embedding_set.embeddings, rule, centre_E=centre_E, quality_N=embedding_set.quality
    )
    scores = scalar_products(resolved, sides_SE)
    if norm and cohort:
        speakers = _speakers(cohort_speakers) if cohort_speakers else None
        top = NORMS[norm] if top is None else top
        scores = _normalised(resolved, sides_SE, scores, cohort, speakers, centre_E, top)
    write_scores(out, resolved.trials, scores)
    if out_trials:
        write_trials(out_trials, resolved.trials)
    print(f"{len(scores):,} scores: {out}", file=sys.stderr)
    return 0


def _refuse_contradictions(
    channels: Channels,
    out_trials: Path | None,
    norm: str | None,
    cohort: Path | None,
    cohort_speakers: Path | None,
    top: int | None,
) -> None:
    from farvox.errors import UsageError

    if out_trials and channels != "expand":
        raise UsageError("--out-trials goes with --channels expand: other rules keep the trials as they are")
    if norm and not cohort:
        raise UsageError(f"--norm {norm} needs --cohort: embeddings of speakers who are in no trial")
    if cohort and not norm:
        raise UsageError("--cohort goes with --norm s-norm or --norm as-norm")
    if cohort_speakers and not cohort:
        raise UsageError("--cohort-speakers goes with --cohort")
    if top is not None and norm != "as-norm":
        raise UsageError("--top goes with --norm as-norm")


def _normalised(
    resolved: ResolvedTrials,
    sides_SE: NDArray[np.float64],
    scores: NDArray[np.float64],
    cohort: Path,
    speaker_of: dict[str, str] | None,
    centre_E: NDArray[np.float64] | None,
    top: int | None,
) -> NDArray[np.float64]:
    from farvox.errors import TrialError
    from farvox.score.norm import cohort_embeddings, cohort_scores, normalise_scores

    members = _load((cohort,))
    if shared := set(members.utt_ids) & set(resolved.needed_ids):
        print(
            f"warning: {len(shared):,} utterances of the cohort are in the trials ('{min(shared)}', ...): "
            "a cohort is of other speakers",
            file=sys.stderr,
        )
    speaker_ids = None
    if speaker_of is not None:
        if unknown := next((utt_id for utt_id in members.utt_ids if utt_id not in speaker_of), None):
            raise TrialError(f"--cohort-speakers does not say who speaks in '{unknown}' of {cohort}")
        speaker_ids = [speaker_of[utt_id] for utt_id in members.utt_ids]
    cohort_CE = cohort_embeddings(members.embeddings, centre_E=centre_E, speaker_ids=speaker_ids)
    kept = "all" if top is None else f"the nearest {top:,}"
    what = "utterances" if speaker_ids is None else f"speakers ({len(members):,} utterances)"
    print(f"cohort: {len(cohort_CE):,} {what}, {kept} of each side", file=sys.stderr)
    return normalise_scores(resolved, scores, cohort_scores(sides_SE, cohort_CE, top))


def _speakers(path: Path) -> dict[str, str]:
    from farvox.io.kaldi import read_table

    table = read_table(path / "utt2spk" if path.is_dir() else path, ("utt_id", "speaker_id"))
    return dict(table.iter_rows())


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
    known = any(other.quality is not None for other in sets)
    qualities = [np.full(len(s), np.nan, np.float32) if s.quality is None else s.quality for s in sets]
    return EmbeddingSet(
        utt_ids,
        np.concatenate([other.embeddings for other in sets]),
        quality=np.concatenate(qualities) if known else None,
    )
