"""The speaker and the recording conditions of each side of a trial."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.datadir.conditions import merge_conditions, read_conditions
from farvox.datadir.kaldi import DataDir, read_table
from farvox.errors import TrialError, UsageError
from farvox.score.trials import TrialList

PathLike = str | os.PathLike[str]
Speakers = tuple[NDArray[np.int64], NDArray[np.int64]]


def speakers_from_dirs(trials: TrialList, sources: Sequence[PathLike]) -> Speakers:
    """The speaker of both sides of every trial, as data dirs have it.

    Args:
        trials: the list; a side of several channels is found by the rules of `SideFinder`.
        sources: data dirs, or files of lines ``utt_id speaker_id``, which hold every utterance of the list.

    Returns:
        A number for the speaker of each enrolment and of each test side, int64 [num_trials] each.

    Raises:
        TrialError: an utterance is in none of them or has two speakers, a side is of several speakers, or
            the speakers contradict the labels.
        DataDirError: a source cannot be read.
    """
    tables = []
    for source in map(Path, sources):
        if source.is_dir():
            tables.append(DataDir.open(source).table.select("utt_id", "speaker_id"))
            if tables[-1]["speaker_id"].has_nulls():
                raise TrialError(f"{source}: has neither utt2spk nor spk2utt, so the speakers are not known")
        else:
            tables.append(read_table(source, ("utt_id", "speaker_id")))
    table = pl.concat(tables).unique(maintain_order=True)
    twice = table.filter(pl.col("utt_id").is_duplicated()).sort("utt_id")
    if len(twice):
        (utt_id, one), (_, other) = twice.rows()[:2]
        raise TrialError(f"'{utt_id}' is of the speaker '{one}' in one source and of '{other}' in another")
    enrol, test = (
        _values_of_side(trials, side, table["utt_id"], table["speaker_id"]) for side in ("enrol", "test")
    )
    for side, values in (("enrolment", enrol), ("test", test)):
        several = (values.list.len() > 1).arg_true()
        if len(several):
            n = int(several[0])
            raise TrialError(
                f"{trials.path}:{n + 1}: the {side} side is of several speakers: {', '.join(values[n])}"
            )
    return _numbered(trials, enrol.list.first(), test.list.first())


def speakers_from_ids(trials: TrialList, separator: str) -> Speakers:
    """The speaker of both sides, named by the part of an id before the first ``separator``.

    Returns:
        A number for the speaker of each enrolment and of each test side, int64 [num_trials] each.

    Raises:
        TrialError: an id has no ``separator``, or begins with it; or the speakers contradict the labels.
    """
    speaker = trials.ids.str.split(separator).list.first()
    nameless = (~trials.ids.str.contains(separator, literal=True) | (speaker == "")).to_numpy()
    for codes in (trials.enrol_code, trials.test_code):
        if nameless[codes].any():
            n = int(np.argmax(nameless[codes]))
            raise TrialError(
                f"{trials.path}:{n + 1}: '{trials.ids[int(codes[n])]}' has nothing before a '{separator}', so"
                " that its speaker is not in its name; give data dirs with --trial-speakers"
            )
    return _numbered(trials, speaker.gather(trials.enrol_code), speaker.gather(trials.test_code))


def trial_conditions(trials: TrialList, sources: Sequence[PathLike], by: Sequence[str]) -> pl.DataFrame:
    """The conditions of every trial.

    Args:
        trials: the list.
        sources: data dirs with a `utt2cond`, or such files, which together hold the utterances asked for.
        by: names of conditions; of the test side, or with ``enrol.`` before it of the enrolment side.

    Returns:
        One column of strings for each name, [num_trials]. A side of several channels has their values
        joined by ``+``; an unknown value is the empty string.

    Raises:
        TrialError: an utterance is in none of the sources.
        UsageError: no such condition.
        DataDirError: a source cannot be read, or two disagree.
    """
    known = merge_conditions([read_conditions(Path(source)) for source in sources], [str(s) for s in sources])
    utt_ids = [DataDir.open(source).utt_ids for source in map(Path, sources) if source.is_dir()]
    all_ids = pl.concat([known["utt_id"], *utt_ids]).unique(maintain_order=True)
    table = pl.DataFrame({"utt_id": all_ids}).join(known, on="utt_id", how="left", maintain_order="left")
    columns = []
    for name in by:
        column = name.removeprefix("enrol.")
        if column not in known.columns[1:]:
            raise UsageError(f"--by {name}: no such condition; there are {', '.join(known.columns[1:])}")
        side = "test" if column == name else "enrol"
        values = _values_of_side(trials, side, table["utt_id"], table[column].fill_null(""))
        columns.append(values.list.sort().list.join("+").alias(name))
    return pl.DataFrame(columns)


def _values_of_side(trials: TrialList, side: str, utt_ids: pl.Series, values: pl.Series) -> pl.Series:
    """The distinct values of the utterances of one side of every trial: a list of strings each."""
    codes = trials.test_code if side == "test" else trials.enrol_code
    one_side = dataclasses.replace(trials, enrol_code=codes, test_code=codes)
    resolved = one_side.resolve(
        utt_ids, allow_missing_channels=True
    )  # that was checked when scores were made
    sizes = np.diff(resolved.side_offsets)
    rows = pl.DataFrame({"utt_id": resolved.utt_ids}).join(
        pl.DataFrame({"utt_id": utt_ids, "value": values}), on="utt_id", how="left", maintain_order="left"
    )
    of_side = pl.DataFrame(
        {"side": np.repeat(np.arange(len(sizes)), sizes), "value": rows["value"].gather(resolved.side_rows)}
    ).group_by("side", maintain_order=True)
    return of_side.agg(pl.col("value").unique())["value"].gather(resolved.test_side)


def _numbered(trials: TrialList, enrol: pl.Series, test: pl.Series) -> Speakers:
    """Speakers as numbers, if they agree with the labels of the list."""
    if trials.target is not None:
        wrong = (enrol == test) != pl.Series(trials.target == 1)
        if wrong.any():
            n = int(wrong.arg_true()[0])
            raise TrialError(
                f"{trials.path}:{n + 1}: labelled {'target' if trials.target[n] else 'non-target'}, but its"
                f" speakers are '{enrol[n]}' and '{test[n]}' ({wrong.sum():,} such trials): the"
                " speakers are of another corpus, or the labels are wrong"
            )
    names = pl.concat([enrol, test]).rank("dense").cast(pl.Int64).to_numpy()
    return names[: len(enrol)], names[len(enrol) :]
