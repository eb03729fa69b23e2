"""Submission files: what a challenge wants in place of a score file, one number a line and no ids.

Nothing in such a file says which trial a number is for, so it is made from a score file that names its
trials, and only when every trial of the list has its score.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from farvox.atomic import atomic_file, write_text
from farvox.errors import TrialError, UsageError
from farvox.score.trials import TrialList

INSIDE_ZIP = "scores.txt"
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of the file in the archive: the same scores give the same bytes, whenever they are packed."""


def check_submission_path(path: str | os.PathLike[str]) -> None:
    """Refuse a name that says neither of the two kinds; for those who want to know before any reading.

    Raises:
        UsageError: the name ends neither in ``.zip`` nor in ``.txt``.
    """
    if Path(path).suffix not in (".zip", ".txt"):
        raise UsageError(
            f"{path}: a submission is a .zip (FFSVC2022, with {INSIDE_ZIP} in it) or a .txt (the homework's "
            "score.txt)"
        )


def write_submission(path: str | os.PathLike[str], trials: TrialList, scores: ArrayLike) -> None:
    """Write one number for each trial, in trial order, as UTF-8; whole or not at all.

    FFSVC2022 takes a zip archive with one file, ``scores.txt``, in it; the HI-MIA homework takes a plain
    ``score.txt``. A number has the digits it takes to read the same float64 back.

    Args:
        path: ``.zip`` or ``.txt`` file to write; the suffix chooses the kind.
        trials: the list that the challenge gave out, with or without labels.
        scores: float [num_trials], in trial order.

    Raises:
        TrialError: there is not one finite score for each trial.
        UsageError: ``path`` ends in something else.
    """
    path = Path(path)
    check_submission_path(path)
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(trials),):
        raise TrialError(
            f"{trials.path}: {len(trials):,} trials, but the scores are of shape {scores.shape}; "
            "a submission has one for each"
        )
    if not np.isfinite(scores).all():
        line = int(np.argmin(np.isfinite(scores)))
        raise TrialError(
            f"{trials.path}:{line + 1}: the score of this trial is {scores[line]}, and no challenge takes "
            "that; look at the embeddings of its two sides"
        )
    text = pl.DataFrame([pl.Series("score", scores).cast(pl.String)]).write_csv(
        include_header=False, quote_style="never"
    )
    if path.suffix == ".txt":
        write_text(path, text)
        return
    entry = zipfile.ZipInfo(INSIDE_ZIP, EARLIEST)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(entry, text.encode())
