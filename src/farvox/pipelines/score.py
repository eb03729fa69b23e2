"""Scoring: trials and embeddings become scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

import farvox
from farvox.errors import TrialError, UsageError
from farvox.options import Above, AtLeast, AtMost, Metavar, Options, to_table
from farvox.progress import Note, silent
from farvox.reprs import short_repr
from farvox.score import ChannelIds, Channels, Norm
from farvox.writers import writes

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from farvox.datadir.embeddings import EmbeddingSet
    from farvox.score.conditions import SharedConditions
    from farvox.score.plda import Plda
    from farvox.score.sides import SideMap
    from farvox.score.trials import ResolvedTrials, TrialList

NEAREST = 300
"""Cohort members that AS-norm keeps unless told otherwise."""
FEW_A_DIMENSION = 10  # utterances beyond one a speaker: fewer are few for PLDA


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of a scoring.

    Raises:
        UsageError: options that contradict each other.
    """

    channels: Channels = "mean-norm"
    """Rule that makes one of the utterances of a side: mean of the length-normalised embeddings, mean or
    plain sum of the raw ones, mean of the scores of all pairs, the best by quality, a mean weighted by
    quality; or "expand": every channel a trial of its own."""
    channel_ids: ChannelIds | None = None
    """Side whose ids mean their channels ID_0, ID_1, ... where an utterance ID is there too; without it such
    ids are refused."""
    first_channel: Annotated[int, AtLeast(0)] = 0
    """Leave out channels with a lower number."""
    allow_missing_channels: bool = False
    """Count channels that a side lacks and others have, instead of stopping."""
    allow_self: bool = False
    """Score an utterance against itself or its own copy too, instead of stopping."""
    enrol_map: Annotated[Path | None, Metavar("FILE")] = None
    """Enrolment ids that stand for several utterances: lines "model utt1 utt2 ..."."""
    test_map: Annotated[Path | None, Metavar("FILE")] = None
    """The same for the test side."""
    centre: Annotated[Path | None, Metavar("EMBEDDINGS")] = None
    """Embeddings whose mean is subtracted from all others first; with plda those it learns from, unless
    given."""
    plda: Annotated[Path | None, Metavar("EMBEDDINGS")] = None
    """Embeddings of other speakers, several of each, from which PLDA learns how one voice varies; scores are
    its log-likelihood ratios instead of cosines."""
    plda_speakers: Annotated[Path | None, Metavar("DIR|FILE")] = None
    """Data dir or utt2spk of these embeddings, where they do not hold their speakers or have others."""
    lda: Annotated[int | None, AtLeast(1)] = None
    """Dimensions that linear discriminant analysis keeps before PLDA; all unless given."""
    norm: Norm | None = None
    """Normalisation of the scores by those against a cohort, all of it or each side's nearest."""
    cohort: Annotated[Path | None, Metavar("EMBEDDINGS")] = None
    """Embeddings of the cohort: speakers who are in no trial."""
    cohort_speakers: Annotated[Path | None, Metavar("DIR|FILE")] = None
    """Data dir or utt2spk of the cohort, which becomes a mean embedding a speaker."""
    top: Annotated[int | None, AtLeast(1)] = None
    """Cohort members that as-norm keeps for a side, the nearest ones; 300 unless given."""
    top_percent: Annotated[float | None, Above(0), AtMost(100)] = None
    """The same as a share of the cohort, in per cent; at least one member is kept."""
    cohort_by: Annotated[str | None, Metavar("CONDITION")] = None
    """Condition, such as distance or duration, by which the cohort is split: a side is normalised by the
    members that are of the condition of the other side of the trial."""
    cohort_edges: Annotated[tuple[float, ...], Metavar("NUMBER...")] = ()
    """Rising edges of the bins of this condition; unless given, a measurement of more than ten values is
    split at the quartiles over the cohort."""
    conditions: Annotated[tuple[Path, ...], Metavar("DIR...")] = ()
    """Data dirs, utt2cond files or folders of embeddings that have it; unless given, the data dirs that the
    embeddings of trials and cohort are of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for wrong, what in (
            (
                self.norm and not self.cohort,
                f"norm {self.norm} needs a cohort: embeddings of speakers who are in no trial",
            ),
            (self.cohort and not self.norm, "a cohort goes with norm s-norm or as-norm"),
            (self.cohort_speakers and not self.cohort, "cohort-speakers goes with a cohort"),
            (self.plda_speakers and not self.plda, "plda-speakers goes with plda"),
            (self.lda and not self.plda, "lda goes with plda"),
            (
                self.plda and self.channels == "score-mean",
                "channels score-mean is a mean of cosines; with plda use mean-norm or another rule",
            ),
            (self.top is not None and self.norm != "as-norm", "top goes with norm as-norm"),
            (self.top_percent is not None and self.norm != "as-norm", "top_percent goes with norm as-norm"),
            (self.top is not None and self.top_percent is not None, "give top or top_percent, not both"),
            (self.cohort_by and not self.norm, "cohort-by goes with norm s-norm or as-norm"),
            (self.cohort_edges and not self.cohort_by, "cohort-edges goes with cohort-by"),
            (
                list(self.cohort_edges) != sorted(set(self.cohort_edges)),
                "cohort-edges: each edge is above the one before it",
            ),
        ):
            if wrong:
                raise UsageError(what)


@dataclass(frozen=True)
class Scores:
    """Trials and their scores, one a trial; with the channel rule ``expand``, of single channels.

    ``meta`` is their origin, as ``SCORES.meta.json`` has it; empty where it is not known. ``name`` is what
    messages call them: their file, if they have one.
    """

    trials: TrialList
    values: NDArray[np.float64]
    meta: dict[str, Any] = field(default_factory=dict)
    name: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"scores of {self.trials.path}")

    __repr__ = short_repr

    @classmethod
    def read(cls, trials: str | Path, scores: str | Path) -> Scores:
        """A trial list and its score file; ids match with or without ".wav", in any order.

        Raises:
            TrialError: a file cannot be read, or the scores are not those of the trials.
        """
        from farvox.score.scores import read_score_meta, read_scores
        from farvox.score.trials import read_trials

        trial_list = read_trials(trials)
        return cls(trial_list, read_scores(scores, trial_list), read_score_meta(scores), str(scores))

    def side_maps(self) -> dict[str, SideMap | None]:
        """``enrol_map`` and ``test_map``: the utterances that ids stood for when the scores were made.

        Raises:
            TrialError: a map cannot be read any more.
        """
        from farvox.score.sides import read_side_map

        used = self.meta.get("scoring", {})
        return {key: read_side_map(used[key]) if used.get(key) else None for key in ("enrol_map", "test_map")}


@writes("out")
def score(
    trials: str | Path,
    embeddings: str | Path | Sequence[str | Path],
    options: ScoreOptions = ScoreOptions(),
    *,
    out: str | Path | None = None,
    out_trials: str | Path | None = None,
    trained: Mapping[str, Iterable[str | None]] | None = None,
    note: Note = silent,
) -> Scores:
    """Score a trial list.

    Args:
        trials: the list, of any form; labels, if any, must not contradict the speakers of the embeddings.
        embeddings: the folder, or folders, that hold its utterances.
        out_trials: list to write of the trials that the scores belong to, which ``expand`` changes.
        trained: the speakers that the model was trained on, by data dir or model; those in the trials are
            reported.
        note: called with a line on everything that was read or decided.

    Raises:
        TrialError: the list, a map, the cohort or what PLDA learns from does not fit; a trial is of an
            utterance against itself or its own copy; or labels contradict the speakers.
        DataDirError: the sets of embeddings are not of one model.
    """
    import polars as pl

    from farvox.atomic import refuse_to_replace
    from farvox.datadir.embeddings import EmbeddingSet, shared_origin
    from farvox.datadir.kaldi import shared_speakers
    from farvox.score.channels import expand
    from farvox.score.conditions import shared_conditions
    from farvox.score.cosine import scalar_products, side_embeddings
    from farvox.score.lists import refuse_wrong_trials
    from farvox.score.norm import cohort_scores, matched_cohort_scores, mean_embedding, normalise_scores
    from farvox.score.scores import META_SUFFIX, SCORE_FILE, SCORE_META, embeddings_state, write_scores
    from farvox.score.trials import TRIAL_LIST, UNLABELLED_LIST, read_trials, write_trials

    if out_trials and options.channels != "expand":
        raise UsageError("--out-trials goes with --channels expand: other rules keep the trials as they are")
    if options.conditions and not options.cohort_by:
        raise UsageError("--conditions goes with --cohort-by, which names one of them")
    inputs = (trials, options.enrol_map, options.test_map, options.cohort_speakers)
    if out:
        refuse_to_replace(out, SCORE_FILE, inputs)
        refuse_to_replace(f"{out}{META_SUFFIX}", SCORE_META, inputs)
    if out_trials and out and os.path.realpath(out) == os.path.realpath(out_trials):
        raise UsageError(f"scores and trials cannot be written to one file, {out}")
    trial_list = read_trials(trials)
    if out_trials:
        kind = UNLABELLED_LIST if trial_list.target is None else TRIAL_LIST
        refuse_to_replace(out_trials, kind, inputs)
    note(trial_list.form)
    embeddings = [embeddings] if isinstance(embeddings, str | os.PathLike) else embeddings
    if not embeddings:
        raise UsageError("EMBEDDINGS is missing: name at least one folder of embeddings")
    others = (options.centre, options.plda, options.cohort)
    sets = {Path(path): EmbeddingSet.load(path) for path in (*embeddings, *others) if path}
    for folder, each in sets.items():
        if count := each.num_relabelled():
            note(
                f"note: {count:,} utterances of {folder} have another speaker by now in "
                f"{each.meta['data_dir']}; those of the extraction are taken"
            )
    metas = {str(path): {"dimension": each.embeddings.shape[1], **each.meta} for path, each in sets.items()}
    origin = shared_origin(metas, "extract all with one model", note)
    embedding_set = _joined([sets[Path(path)] for path in embeddings])
    known_ids = embedding_set.ids
    resolved = _resolve(trial_list, known_ids, trials, options, note)
    speaker_ids = embedding_set.speaker_ids
    if speaker_ids is None:
        speaker_ids = pl.Series([None] * len(known_ids), dtype=pl.String)
    leaks = refuse_wrong_trials(
        resolved,
        speaker_ids,
        known_ids if embedding_set.recordings is None else embedding_set.recordings,
        allow_self=options.allow_self,
        remedy="remove them, or add --allow-self (in a recipe: allow_self = true)",
    )
    in_trials = speaker_ids.gather(resolved.needed_rows)
    for where, speakers in (trained or {}).items():
        leaks += shared_speakers(in_trials, f"the trials {trials}", speakers, f"the training {where}")

    rule: Channels = options.channels
    if rule == "expand":
        resolved, rule = expand(resolved), "mean-norm"
        note(resolved.reading)
    centre = options.centre or options.plda
    centre_E = mean_embedding(sets[centre].embeddings) if centre else None
    sides_SE = side_embeddings(
        resolved, embedding_set.embeddings, rule, centre_E=centre_E, quality_N=embedding_set.quality
    )
    shares = partial(_shares, needed_ids=resolved.needed_ids, in_trials=in_trials, trials=trials)
    plda = None
    if options.plda:
        plda_speakers = _speakers_of(sets[options.plda], options.plda_speakers)
        leaks += shares(sets[options.plda], plda_speakers, f"PLDA's training {options.plda}")
        plda = _plda(sets[options.plda], plda_speakers, centre_E, options, note)
    values = plda.scores(resolved, sides_SE) if plda else scalar_products(resolved, sides_SE)

    if options.norm and options.cohort:
        members = sets[options.cohort]
        cohort_speakers = _speakers_of(members, options.cohort_speakers)
        leaks += shares(members, cohort_speakers, f"the cohort {options.cohort}")
        by_speaker = cohort_speakers if options.cohort_speakers else None
        conditions = None
        if options.cohort_by:
            own = [sets[Path(path)].meta.get("data_dir") for path in (*embeddings, options.cohort)]
            sources = options.conditions or list(dict.fromkeys(Path(path) for path in own if path))
            if not sources:
                raise UsageError(
                    "--cohort-by: the data dirs of these embeddings are not known; name what has the "
                    "conditions with --conditions"
                )
            conditions = shared_conditions(
                resolved, members.ids, sources, options.cohort_by, options.cohort_edges
            )
        cohort_CE, conditions, top_K = _cohort(members, by_speaker, conditions, centre_E, options, note)
        if plda:
            sides_SE, cohort_CE = plda.as_products(sides_SE, cohort_CE)
        if conditions is None:
            values = normalise_scores(resolved, values, cohort_scores(sides_SE, cohort_CE, top_K[0]))
        else:
            matched = matched_cohort_scores(resolved, sides_SE, cohort_CE, conditions, top_K)
            values = normalise_scores(resolved, values, matched, conditions.number_S)

    for line in leaks:
        note(line)
    sizes = np.where(resolved.side_mapped, np.diff(resolved.side_offsets), 1)[np.unique(resolved.enrol_side)]
    meta = {
        "farvox_version": farvox.__version__,
        "enrol_recordings": [int(sizes.min()), int(sizes.max())],
        "trials": str(trials),
        "embeddings": [str(path) for path in embeddings],
        "inputs": {str(path): embeddings_state(path) for path in sets},
        **origin,
        "scoring": {"back_end": "plda" if plda else "cosine", **to_table(options)},
        "leaks": leaks,
    }
    if out:
        write_scores(out, resolved.trials, values, meta)
        note(f"{len(values):,} scores: {out}")
    if out_trials:
        write_trials(out_trials, resolved.trials)
    return Scores(resolved.trials, values, meta, str(out or ""))


def _resolve(
    trial_list: TrialList, utt_ids: pl.Series, trials: str | Path, options: ScoreOptions, note: Note
) -> ResolvedTrials:
    """Find the utterances of both sides of every trial; a map that would change nothing is refused."""
    from farvox.score.sides import read_side_map

    resolved = trial_list.resolve(
        utt_ids,
        options.channel_ids,
        enrol_map=read_side_map(options.enrol_map) if options.enrol_map else None,
        test_map=read_side_map(options.test_map) if options.test_map else None,
        first_channel=options.first_channel,
        allow_missing_channels=options.allow_missing_channels,
    )
    for path, of_side in ((options.enrol_map, resolved.enrol_side), (options.test_map, resolved.test_side)):
        if path and not resolved.side_mapped[of_side].any():
            raise TrialError(f"{path}: names no id of that side of {trials}, so it would change nothing")
        if path and (alone := len(np.unique(of_side[~resolved.side_mapped[of_side]]))):
            note(f"{path}: {alone:,} ids of that side are not in it, and stand for themselves")
    if resolved.reading:
        note(resolved.reading)
    return resolved


def _speakers_of(members: EmbeddingSet, source: Path | None) -> pl.Series | None:
    """The speaker of every utterance, from a data dir or utt2spk if one is given; None where not known."""
    from farvox.datadir.kaldi import values_of

    if source is None:
        return members.speaker_ids
    return values_of(source / "utt2spk" if source.is_dir() else source, members.ids)


def _shares(
    members: EmbeddingSet,
    speaker_ids: pl.Series | None,
    what: str,
    *,
    needed_ids: Sequence[str],
    in_trials: pl.Series,
    trials: str | Path,
) -> list[str]:
    """A line on the utterances, and one on the speakers, that a cohort or training set has in the trials."""
    from farvox.datadir.kaldi import shared_speakers

    leaks = []
    if shared := set(members.ids.filter(members.ids.is_in(list(needed_ids)))):
        leaks.append(
            f"warning: {len(shared):,} utterances of {what} are in the trials ('{min(shared)}', "
            "...): it has to be of other speakers"
        )
    if speaker_ids is not None:
        leaks += shared_speakers(speaker_ids, what, in_trials, f"the trials {trials}")
    return leaks


def _plda(
    members: EmbeddingSet,
    speaker_ids: pl.Series | None,
    centre_E: NDArray[np.floating] | None,
    options: ScoreOptions,
    note: Note,
) -> Plda:
    from farvox.score.norm import cohort_embeddings
    from farvox.score.plda import Plda

    if speaker_ids is None or speaker_ids.null_count():
        raise TrialError(
            f"{options.plda}: PLDA needs the speaker of every utterance, and these embeddings do not hold "
            "them: name a data dir or utt2spk (--plda-speakers)"
        )
    plda = Plda.fit(
        cohort_embeddings(members.embeddings, centre_E=centre_E), speaker_ids.to_list(), lda=options.lda
    )
    num_speakers, kept = speaker_ids.n_unique(), len(plda.psi_D)
    note(f"PLDA: {len(members):,} utterances of {num_speakers:,} speakers, {kept} dimensions")
    num_dimensions = members.embeddings.shape[1]
    if len(members) - num_speakers < FEW_A_DIMENSION * num_dimensions or num_speakers < num_dimensions:
        note(
            f"note: these are few for PLDA, which learns how the {num_dimensions} dimensions vary within and "
            "between speakers; it may be worse than the cosine"
        )
    return plda


def _cohort(
    members: EmbeddingSet,
    by_speaker: pl.Series | None,
    conditions: SharedConditions | None,
    centre_E: NDArray[np.floating] | None,
    options: ScoreOptions,
    note: Note,
) -> tuple[NDArray[np.float32], SharedConditions | None, list[int | None]]:
    """The cohort: its embeddings, its conditions, and how many a side keeps of all and of each condition.

    With ``by_speaker`` a member is the mean of a speaker's utterances, or of those of one condition.
    """
    import polars as pl

    from farvox.score.norm import cohort_embeddings

    speaker_ids = None
    if by_speaker is not None:
        speaker_ids = by_speaker.to_list()
        if conditions:
            number_C = pl.Series(conditions.number_C).cast(pl.String).str.zfill(9)
            speaker_ids = (number_C + by_speaker).to_list()
            number = [int(each[:9]) for each in np.unique(np.asarray(speaker_ids))]
            conditions = conditions._replace(number_C=np.array(number))
    cohort_CE = cohort_embeddings(members.embeddings, centre_E=centre_E, speaker_ids=speaker_ids)
    sizes = [len(cohort_CE)]
    if conditions:
        sizes += np.bincount(conditions.number_C, minlength=len(conditions.names) + 1)[1:].tolist()
    top_K: list[int | None] = [None] * len(sizes)
    if options.top_percent:
        top_K = [max(1, round(size * options.top_percent / 100)) for size in sizes]
    elif options.norm == "as-norm":
        top_K = [options.top or NEAREST] * len(sizes)
    kept = "all" if top_K[0] is None else f"the nearest {top_K[0]:,}"
    if options.top_percent and conditions:
        kept = f"the nearest {options.top_percent:g} %"
    what = "utterances" if by_speaker is None else f"speakers ({len(members):,} utterances)"
    note(f"cohort: {len(cohort_CE):,} {what}, {kept} of each side")
    if conditions:
        of_each = ", ".join(
            f"{size:,} of {name}" for size, name in zip(sizes[1:], conditions.names, strict=True)
        )
        note(f"cohort: {of_each}")
        unknown = [int((number == 0).sum()) for number in (conditions.number_S, conditions.number_C)]
        if any(unknown):
            note(
                f"note: {options.cohort_by} is not known, or is several, of {unknown[0]:,} sides, against "
                f"which the whole cohort stands, and of {unknown[1]:,} members of the cohort"
            )
    return cohort_CE, conditions, top_K


def _joined(sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """Several sets of embeddings as one; a set alone stays memory-mapped."""
    import polars as pl

    from farvox.datadir.embeddings import EmbeddingSet

    if len(sets) == 1:
        return sets[0]
    qualities = [np.full(len(s), np.nan, np.float32) if s.quality is None else s.quality for s in sets]
    ids = [other.ids for other in sets]
    unknown = [pl.Series([None] * len(other), dtype=pl.String) for other in sets]
    speakers = [
        each if s.speaker_ids is None else s.speaker_ids for s, each in zip(sets, unknown, strict=True)
    ]
    recordings = [each if s.recordings is None else s.recordings for s, each in zip(sets, ids, strict=True)]
    return EmbeddingSet(
        pl.concat(ids).to_list(),
        np.concatenate([other.embeddings for other in sets]),
        quality=np.concatenate(qualities) if any(s.quality is not None for s in sets) else None,
        speaker_ids=pl.concat(speakers),
        recordings=pl.concat(recordings),
    )
