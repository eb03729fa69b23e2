"""Score files, and the submissions that challenges take in place of them.

A score file has one line a trial, in trial order: ``enrol test score``, ids as the trial list spells them. A
submission has one number a line and no ids: nothing in it names the trial of a number, so it is made from a
score file, and only when every trial of the list has its score. ``SCORES.meta.json`` beside a score file has
the model, the rules of the scoring, and the SHA-256 of the file that they are of.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from farvox.atomic import FileKind, atomic_file, sha256_of, write_json, write_text
from farvox.datadir.embeddings import MEASURES_FILE, files_of
from farvox.errors import TrialError, UsageError
from farvox.parsing import parse_json
from farvox.score.columns import IdTable, column_blocks, header_of, stem_of
from farvox.score.trials import LABEL_NUMBERS, LABEL_WORDS, LABELS, TrialList

META_SUFFIX = ".meta.json"
_NUMBER = rb"-?\d+(?=[.eE])(?:\.\d+)?(?:[eE][-+]?\d+)?"  # a whole one may be a label of a trial list
SCORE_FILE = FileKind("score file", rb"[^ ]+ [^ ]+ " + _NUMBER, lines=True)
SCORE_META = FileKind("description of scores", rb'\{\s*("farvox_version"|$)')  # or damaged at its beginning
LARGEST = 1e100
"""No score is as large; a sum or a square of such numbers is still finite."""
LINES_PER_BLOCK = 1_000_000
FEWEST_DIGITS = 9
INSIDE_ZIP = "scores.txt"
SUBMISSIONS = {
    ".zip": FileKind("submission", rb"PK\x03\x04.{26}" + INSIDE_ZIP.encode()),
    ".txt": FileKind("submission", _NUMBER, lines=True),
}
NO_HEADER = "; if this line is a header, it names the columns as 'modelid segmentid LLR' does, or is removed"
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of the file in the archive: the same scores give the same bytes, whenever they are packed."""


def write_scores(
    path: str | os.PathLike[str],
    trials: TrialList,
    scores: ArrayLike,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write one line for each trial, whole or not at all.

    Scores are written with as many significant digits as it takes to read the same number back (up to
    17), and with at least 9. ``meta``, where given, is written beside them, see `read_score_meta`.

    Raises:
        TrialError: there is not one finite score for each trial.
    """
    scores = _one_for_each(trials, scores)
    with atomic_file(Path(path), SCORE_FILE) as temporary, open(temporary, "wb") as file:
        for first in range(0, len(scores), LINES_PER_BLOCK):
            block = slice(first, first + LINES_PER_BLOCK)
            enrol = trials.ids.gather(trials.enrol_code[block]).alias("enrol")
            test = trials.ids.gather(trials.test_code[block]).alias("test")
            # The shortest text of each score, followed by zeros where that has fewer than nine digits.
            texts = pl.Series("score", scores[block]).cast(pl.String)
            # longer ones have sign, 0.0000 and nine digits or more
            rows = (texts.str.len_bytes() < FEWEST_DIGITS + 8).arg_true().to_numpy()
            padded = [f"{score:#.{FEWEST_DIGITS}g}" for score in scores[block][rows].tolist()]
            same = np.array([float(text) for text in padded]) == scores[block][rows]
            texts = texts.scatter(rows[same], [text for text, kept in zip(padded, same, strict=True) if kept])
            lines = pl.DataFrame([enrol, test, texts])
            lines.write_csv(file, separator=" ", include_header=False, quote_style="never")
    if meta is not None:
        write_json(f"{os.fspath(path)}{META_SUFFIX}", {**meta, "sha256": sha256_of(path)}, SCORE_META)


def read_score_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a score file; empty where there are none, or the file was changed since.

    Raises:
        TrialError: they are damaged, or the score file cannot be read.
    """
    beside = Path(f"{os.fspath(path)}{META_SUFFIX}")
    if not beside.exists():
        return {}
    try:
        meta = parse_json(beside.read_text("utf-8"))
        return meta if meta["sha256"] == sha256_of(path) else {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrialError(f"{beside}: cannot be read ({error!r}); delete it, or score again") from None


def embeddings_state(folder: str | os.PathLike[str]) -> str:
    """Size and time of a set of embeddings, and digest of its measures; empty where it is not there."""
    measures = Path(folder, MEASURES_FILE)
    try:
        found = [path.stat() for path in files_of(Path(folder))]
        digest = f" {sha256_of(measures)}" if measures.is_file() else ""
    except (OSError, ValueError):
        return ""
    return f"{sum(s.st_size for s in found)} {max(s.st_mtime_ns for s in found)}{digest}"


def replaced_inputs(where: str | os.PathLike[str], meta: Mapping[str, Any]) -> list[str]:
    """A line for each set of embeddings, or its measures, that changed since ``where`` was made of it."""
    lines = []
    for path, state in meta.get("inputs", {}).items():
        was, now = state.split(), embeddings_state(path).split()
        if now and now[:2] != was[:2]:
            lines.append(f"warning: {path} was extracted again since {where} was made of it; score again")
        elif now and now[2:] != was[2:] and was[2:]:  # scores of before have no digest
            changed = Path(path, MEASURES_FILE)
            lines.append(f"warning: {changed} was changed since {where} was made of it; score again")
    return lines


def _score_and_label(where: str, third: pl.Series, fourth: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The column of scores and that of labels, whichever comes first."""
    for words in LABEL_WORDS + LABEL_NUMBERS:  # scores may be 0 and 1, beside labels that are words
        third_is_label, fourth_is_label = third.is_in(words).all(), fourth.is_in(words).all()
        if third_is_label and fourth_is_label:
            raise TrialError(f"{where}: the last two columns both look like labels; leave the labels out")
        if third_is_label or fourth_is_label:
            return (fourth, third) if third_is_label else (third, fourth)
    raise TrialError(
        f"{where}: four columns, of which neither the third nor the fourth is a label{NO_HEADER}"
    )


def read_scores(path: str | os.PathLike[str], trials: TrialList) -> NDArray[np.float64]:
    """Read the score of every trial of a list, whatever the order of the lines.

    Ids match with or without ``.wav`` and the like, as everywhere. A pair that the list holds several
    times has its score as often, or once.

    Args:
        path: lines ``enrol test score``; or with a label as well, ``enrol test score label`` (WeSpeaker) or
            ``enrol test label score`` (3D-Speaker, SpeechBrain). Or below a header of NIST's, ``modelid
            segmentid side LLR``, of which the other columns are not used.
        trials: the list, whose order the scores get.

    Returns:
        float64 [num_trials], in trial order.

    Raises:
        TrialError: ``FILE:LINE: what`` for a score that is no finite number, a pair that is not in the
            list or that has two different scores; for labels that are not those of the list, or cannot be
            told from the scores; or a trial without a score.
    """
    path = Path(path)
    header = header_of(path)
    names, widths = ("enrol", "test", "score"), (len(header),) if header else (3, 4)
    if header and [header.count(name) for name in names] != [1, 1, 1]:
        raise TrialError(
            f"{path}:1: a header that names no column of scores: call it LLR, or remove the line"
        )
    table, code_blocks, score_blocks, label_blocks = IdTable(), [], [], []
    for first_line, columns in column_blocks(path, widths):
        if header:
            columns = pl.DataFrame([columns.to_series(header.index(name)).alias(name) for name in names])
        if header and first_line == 1:
            first_line, columns = 2, columns[1:]
        enrol, test, column, *label = columns
        if label:
            column, words = _score_and_label(f"{path}:{first_line}", column, *label)
            label_blocks.append(words.replace_strict({w: k for each in LABELS for w, k in each.items()}))
        code_blocks.append(np.stack([table.encode(enrol), table.encode(test)]))
        numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        if not (is_usable := np.abs(numbers) < LARGEST).all():
            n = int(np.argmin(is_usable))
            raise TrialError(
                f"{path}:{first_line + n}: the score '{column[n]}' is not a finite number below {LARGEST:g}"
                + (NO_HEADER if first_line + n == 1 else "")
            )
        score_blocks.append(numbers)
    codes, scores = np.concatenate(code_blocks, axis=1), np.concatenate(score_blocks)

    # One number for each pair of ids, the same in the file and in the list.
    number_of_stem: dict[str, int] = {}
    of_trial_id, of_line_id = (
        np.array([number_of_stem.setdefault(stem_of(name), len(number_of_stem)) for name in names], np.int64)
        for names in (trials.ids, table.values)
    )
    base = len(number_of_stem)
    pair_of_trial = of_trial_id[trials.enrol_code] * base + of_trial_id[trials.test_code]
    pair_of_line = of_line_id[codes[0]] * base + of_line_id[codes[1]]
    if label_blocks and trials.target is not None:
        label_of = dict(zip(pair_of_trial.tolist(), np.asarray(trials.target, bool).tolist(), strict=True))
        labels = np.concatenate([each.to_numpy() for each in label_blocks])
        for n, (pair, label) in enumerate(zip(pair_of_line.tolist(), labels.tolist(), strict=True), 1):
            if label_of.get(pair, label) != label:
                raise TrialError(f"{path}:{n}: the label is not that of the trial in {trials.path}")
    if np.array_equal(pair_of_line, pair_of_trial):
        return scores

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
            f" '{trials.enrol[n]} {trials.test[n]}' ({trials.at(n)})"
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


def submission_kind(path: str | os.PathLike[str]) -> FileKind:
    """The kind of a submission by its name.

    Raises:
        UsageError: the name ends neither in ``.zip`` nor in ``.txt``.
    """
    if Path(path).suffix not in SUBMISSIONS:
        raise UsageError(
            f"{path}: a submission is a .zip (FFSVC2022, with {INSIDE_ZIP} in it) or a .txt (the homework's "
            "score.txt)"
        )
    return SUBMISSIONS[Path(path).suffix]


def write_submission(path: str | os.PathLike[str], trials: TrialList, scores: ArrayLike) -> None:
    """Write one number for each trial, in trial order, as UTF-8; whole or not at all.

    FFSVC2022 takes a zip archive with one file, ``scores.txt``, in it; the HI-MIA homework takes a plain
    ``score.txt``. A number has the digits it takes to read the same float64 back.

    Args:
        path: ``.zip`` or ``.txt`` file to write; the suffix chooses the kind.
        trials: the list that the challenge gave out, with or without labels.
        scores: one a trial.

    Raises:
        TrialError: there is not one finite score for each trial, or another number of lines in a .txt there.
        UsageError: ``path`` ends in something else.
    """
    path = Path(path)
    kind = submission_kind(path)
    scores = _one_for_each(trials, scores)
    text = pl.DataFrame([pl.Series("score", scores).cast(pl.String)]).write_csv(
        include_header=False, quote_style="never"
    )
    if path.suffix == ".txt":
        num_lines = len(path.read_bytes().splitlines()) if path.exists() else 0
        if num_lines not in (0, len(trials)):
            raise TrialError(
                f"{path}: has {num_lines:,} lines, and {trials.path} {len(trials):,} trials: it is no "
                "submission of these, and is not replaced; remove it, or give another name"
            )
        write_text(path, text, kind)
        return
    entry = zipfile.ZipInfo(INSIDE_ZIP, EARLIEST)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
    with atomic_file(path, kind) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(entry, text.encode())


def _one_for_each(trials: TrialList, scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as an array, which has to have a finite one for each trial."""
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(trials),):
        raise TrialError(
            f"{trials.path}: scores of shape {scores.shape} do not fit {len(trials):,} trials: each needs one"
        )
    if not (is_usable := np.abs(scores) < LARGEST).all():
        line = int(np.argmin(is_usable))
        raise TrialError(
            f"{trials.at(line)}: the score of this trial is {scores[line]}; look at the embeddings of"
            " its two sides"
        )
    return scores
