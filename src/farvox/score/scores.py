"""Score files: one line a trial, in trial order, ``enrol test score``, ids as the trial list spells them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from farvox.atomic import atomic_file
from farvox.errors import TrialError
from farvox.score.columns import IdTable, column_blocks, stem_of
from farvox.score.trials import TrialList

LINES_PER_BLOCK = 1_000_000
FEWEST_DIGITS = 9


def write_scores(path: str | os.PathLike[str], trials: TrialList, scores: ArrayLike) -> None:
    """Write one line for each trial, whole or not at all.

    Scores are written with as many significant digits as it takes to read the same number back (up to
    17), and with at least 9.

    Args:
        path: the file to write.
        trials: gives the ids and the order.
        scores: float [num_trials].

    Raises:
        TrialError: there is not one finite score for each trial.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(trials),):
        raise TrialError(f"scores of shape {scores.shape} do not fit {len(trials):,} trials")
    if not np.isfinite(scores).all():
        line = int(np.argmin(np.isfinite(scores)))
        raise TrialError(f"{trials.path}:{line + 1}: the score of this trial is {scores[line]}")
    with atomic_file(Path(path)) as temporary, open(temporary, "wb") as file:
        for first in range(0, len(scores), LINES_PER_BLOCK):
            block = slice(first, first + LINES_PER_BLOCK)
            enrol = trials.ids.gather(trials.enrol_code[block]).alias("enrol")
            test = trials.ids.gather(trials.test_code[block]).alias("test")
            lines = pl.DataFrame([enrol, test, _written(scores[block])])
            lines.write_csv(file, separator=" ", include_header=False, quote_style="never")


def read_scores(path: str | os.PathLike[str], trials: TrialList) -> NDArray[np.float64]:
    """Read the score of every trial of a list, whatever the order of the lines.

    Ids match with or without ``.wav`` and the like, as everywhere. A pair that the list holds several
    times has its score as often, or once.

    Args:
        path: lines ``enrol test score``.
        trials: the list to put the scores in order for.

    Returns:
        float64 [num_trials], in trial order.

    Raises:
        TrialError: ``FILE:LINE: what`` for a score that is no finite number, a pair that is not in the
            list or that has two different scores; or a trial without a score.
    """
    path = Path(path)
    codes, ids, scores = _encoded(path)
    pair_of_line, pair_of_trial = _pairs(codes, ids, trials)
    if np.array_equal(pair_of_line, pair_of_trial):
        return scores
    return _in_trial_order(path, trials, pair_of_line, pair_of_trial, scores)


def _encoded(path: Path) -> tuple[NDArray[np.int32], pl.Series, NDArray[np.float64]]:
    """The ids of every line as numbers [2, num_lines], their strings, and the scores."""
    table, code_blocks, score_blocks = IdTable(), [], []
    for first_line, frame in column_blocks(path, widths=(3,)):
        enrol, test, score = frame
        code_blocks.append(np.stack([table.encode(enrol), table.encode(test)]))
        score_blocks.append(_numbers(path, first_line, score))
    return np.concatenate(code_blocks, axis=1), table.values, np.concatenate(score_blocks)


def _written(scores: NDArray[np.float64]) -> pl.Series:
    """The shortest text of each score, followed by zeros where that has fewer than nine digits."""
    texts = pl.Series("score", scores).cast(pl.String)
    rows = (texts.str.len_bytes() < FEWEST_DIGITS + 8).arg_true().to_numpy()  # few: sign, 0.0000 and digits
    padded = [f"{score:#.{FEWEST_DIGITS}g}" for score in scores[rows].tolist()]
    exact = np.array([float(text) for text in padded]) == scores[rows]
    return texts.scatter(rows[exact], [text for text, same in zip(padded, exact, strict=True) if same])


def _numbers(path: Path, first_line: int, column: pl.Series) -> NDArray[np.float64]:
    scores = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    if not np.isfinite(scores).all():
        n = int(np.argmin(np.isfinite(scores)))
        raise TrialError(f"{path}:{first_line + n}: the score '{column[n]}' is not a finite number")
    return scores


def _pairs(
    line_codes: NDArray[np.int32], ids: pl.Series, trials: TrialList
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One number for each pair of ids, the same for the lines of a score file and for the trials."""
    number_of_stem: dict[str, int] = {}
    numbers = [
        np.array([number_of_stem.setdefault(stem_of(name), len(number_of_stem)) for name in names], np.int64)
        for names in (trials.ids, ids)
    ]
    base = len(number_of_stem)
    of_trial = numbers[0][trials.enrol_code] * base + numbers[0][trials.test_code]
    return numbers[1][line_codes[0]] * base + numbers[1][line_codes[1]], of_trial


def _in_trial_order(
    path: Path,
    trials: TrialList,
    pair_of_line: NDArray[np.int64],
    pair_of_trial: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> NDArray[np.float64]:
    line_order = np.argsort(pair_of_line, kind="stable")
    trial_order = np.argsort(pair_of_trial, kind="stable")
    found, wanted = pair_of_line[line_order], pair_of_trial[trial_order]
    sorted_scores = scores[line_order]

    contradicts = (found[1:] == found[:-1]) & (sorted_scores[1:] != sorted_scores[:-1])
    if contradicts.any():
        n = int(np.argmax(contradicts))
        earlier, line = line_order[n : n + 2] + 1
        raise TrialError(f"{path}:{line}: another score than on line {earlier} for the same trial")

    place = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    missing = found[place] != wanted
    if missing.any():
        n = int(trial_order[missing].min())
        raise TrialError(
            f"{path}: {missing.sum():,} of the {len(trials):,} trials have no score; the first is"
            f" '{trials.enrol[n]} {trials.test[n]}' ({trials.path}:{n + 1})"
        )

    num_trials = np.searchsorted(wanted, found, "right") - np.searchsorted(wanted, found, "left")
    num_lines = np.searchsorted(found, found, "right") - np.searchsorted(found, found, "left")
    surplus = num_lines > num_trials
    if surplus.any():
        n = int(np.argmax(surplus))
        line = line_order[n + num_lines[n] - 1] + 1
        what = "is here more often than in" if num_trials[n] else "is not in"
        raise TrialError(f"{path}:{line}: this pair {what} {trials.path} ({surplus.sum():,} such lines)")

    in_trial_order = np.empty(len(trials))
    in_trial_order[trial_order] = sorted_scores[place]
    return in_trial_order
