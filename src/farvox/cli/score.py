"""``farvox score``: from embeddings to scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from farvox.errors import TrialError, UsageError
from farvox.types import ChannelIds, Channels, Norm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from farvox.datadir.embeddings import EmbeddingSet
    from farvox.score.trials import ResolvedTrials

NEAREST = 300
"""How many of the cohort AS-norm takes unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class BackEnd:
    """How embeddings become scores: what ``farvox score`` says of its options of these names.

    Raises:
        UsageError: options that contradict each other.
    """

    channels: str = "mean-norm"
    channel_ids: ChannelIds | None = None
    first_channel: int = 0
    allow_missing_channels: bool = False
    enrol_map: Path | None = None
    test_map: Path | None = None
    centre: Path | None = None
    norm: str | None = None
    cohort: Path | None = None
    cohort_speakers: Path | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        for wrong, what in (
            (
                self.norm and not self.cohort,
                f"norm {self.norm} needs a cohort: embeddings of speakers who are in no trial",
            ),
            (self.cohort and not self.norm, "a cohort goes with norm s-norm or as-norm"),
            (self.cohort_speakers and not self.cohort, "cohort-speakers goes with a cohort"),
            (self.top is not None and self.norm != "as-norm", "top goes with norm as-norm"),
        ):
            if wrong:
                raise UsageError(what)

    @property
    def nearest(self) -> int | None:
        """How many of the cohort count for a side; None: all."""
        return (NEAREST if self.top is None else self.top) if self.norm == "as-norm" else None


def score(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    channels: Channels = "mean-norm",
    channel_ids: ChannelIds | None = None,
    first_channel: int = 0,
    allow_missing_channels: FlagCreatePairsOff[bool] = False,
    out_trials: Annotated[Path | None, arg(metavar="TRIALS")] = None,
    enrol_map: Annotated[Path | None, arg(metavar="FILE")] = None,
    test_map: Annotated[Path | None, arg(metavar="FILE")] = None,
    centre: Annotated[Path | None, arg(metavar="EMBEDDINGS")] = None,
    norm: Norm | None = None,
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
    if out_trials and channels != "expand":
        raise UsageError("--out-trials goes with --channels expand: other rules keep the trials as they are")
    back_end = BackEnd(
        channels=channels, channel_ids=channel_ids, first_channel=first_channel,
        allow_missing_channels=allow_missing_channels, enrol_map=enrol_map, test_map=test_map,
        centre=centre, norm=norm, cohort=cohort, cohort_speakers=cohort_speakers, top=top,
    )  # fmt: skip
    score_by(back_end, trials, embeddings, out, out_trials)
    return 0


def score_by(
    back_end: BackEnd, trials: Path, embeddings: Sequence[Path], out: Path, out_trials: Path | None = None
) -> None:
    """Score a trial list and write the scores; says on stderr how everything was read.

    Args:
        back_end: how.
        trials: the list.
        embeddings: folders that together hold its utterances.
        out: score file to write.
        out_trials: also write the list that the scores are of, which ``expand`` changes.
    """
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
        back_end.channel_ids,
        enrol_map=read_side_map(back_end.enrol_map) if back_end.enrol_map else None,
        test_map=read_side_map(back_end.test_map) if back_end.test_map else None,
        first_channel=back_end.first_channel,
        allow_missing_channels=back_end.allow_missing_channels,
    )
    for path, of_side in ((back_end.enrol_map, resolved.enrol_side), (back_end.test_map, resolved.test_side)):
        if path and not resolved.side_mapped[of_side].any():
            raise TrialError(f"{path}: names no id of that side of {trials}, so it would change nothing")
    if resolved.reading:
        print(resolved.reading, file=sys.stderr)
    rule = back_end.channels
    if rule == "expand":
        resolved, rule = expand(resolved), "mean-norm"
        print(resolved.reading, file=sys.stderr)
    centre_E = None if back_end.centre is None else mean_embedding(_load((back_end.centre,)).embeddings)
    sides_SE = side_embeddings(
        resolved, embedding_set.embeddings, rule, centre_E=centre_E, quality_N=embedding_set.quality
    )
    scores = scalar_products(resolved, sides_SE)
    if back_end.norm:
        scores = _normalised(back_end, resolved, sides_SE, scores, centre_E)
    write_scores(out, resolved.trials, scores)
    if out_trials:
        write_trials(out_trials, resolved.trials)
    print(f"{len(scores):,} scores: {out}", file=sys.stderr)


def _normalised(
    back_end: BackEnd,
    resolved: ResolvedTrials,
    sides_SE: NDArray[np.float64],
    scores: NDArray[np.float64],
    centre_E: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    from farvox.score.norm import cohort_embeddings, cohort_scores, normalise_scores

    assert back_end.cohort is not None
    cohort, top = back_end.cohort, back_end.nearest
    members = _load((cohort,))
    if shared := set(members.utt_ids) & set(resolved.needed_ids):
        print(
            f"warning: {len(shared):,} utterances of the cohort are in the trials ('{min(shared)}', ...): "
            "a cohort is of other speakers",
            file=sys.stderr,
        )
    speaker_ids = None
    if back_end.cohort_speakers:
        speaker_of = _speakers(back_end.cohort_speakers)
        if unknown := next((utt_id for utt_id in members.utt_ids if utt_id not in speaker_of), None):
            raise TrialError(f"--cohort-speakers does not say who speaks in '{unknown}' of {cohort}")
        speaker_ids = [speaker_of[utt_id] for utt_id in members.utt_ids]
    cohort_CE = cohort_embeddings(members.embeddings, centre_E=centre_E, speaker_ids=speaker_ids)
    kept = "all" if top is None else f"the nearest {top:,}"
    what = "utterances" if speaker_ids is None else f"speakers ({len(members):,} utterances)"
    print(f"cohort: {len(cohort_CE):,} {what}, {kept} of each side", file=sys.stderr)
    return normalise_scores(resolved, scores, cohort_scores(sides_SE, cohort_CE, top))


def _speakers(path: Path) -> dict[str, str]:
    from farvox.datadir.kaldi import read_table

    table = read_table(path / "utt2spk" if path.is_dir() else path, ("utt_id", "speaker_id"))
    return dict(table.iter_rows())


def _load(folders: Sequence[Path]) -> EmbeddingSet:
    import numpy as np

    from farvox.datadir.embeddings import EmbeddingSet

    sets = [EmbeddingSet.load(folder) for folder in folders]
    if len(sets) == 1:
        return sets[0]
    for folder, other in zip(folders, sets, strict=True):
        if other.embeddings.shape[1] != sets[0].embeddings.shape[1]:
            raise TrialError(
                f"{folder}: embeddings of {other.embeddings.shape[1]} dimensions, and of"
                f" {sets[0].embeddings.shape[1]} in {folders[0]}: they are of different models"
            )
    _note_precisions(folders, sets)
    utt_ids = [utt_id for other in sets for utt_id in other.utt_ids]
    known = any(other.quality is not None for other in sets)
    qualities = [np.full(len(s), np.nan, np.float32) if s.quality is None else s.quality for s in sets]
    return EmbeddingSet(
        utt_ids,
        np.concatenate([other.embeddings for other in sets]),
        quality=np.concatenate(qualities) if known else None,
    )


def _note_precisions(folders: Sequence[Path], sets: Sequence[EmbeddingSet]) -> None:
    found = [str(each.meta.get("precision", "fp32")) for each in sets]
    if len(set(found)) > 1:
        told = ", ".join(f"{folder} in {precision}" for folder, precision in zip(folders, found, strict=True))
        print(f"farvox score: note: embeddings of several precisions: {told}", file=sys.stderr)
