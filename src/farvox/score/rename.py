"""Trial lists for data dirs in which several utterances have become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from farvox.atomic import atomic_file
from farvox.errors import TrialError
from farvox.score.trials import ResolvedTrials


def rename_sides(trials: ResolvedTrials, new_ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The list with each side called by the one utterance that its utterances have become.

    Args:
        trials: the list, resolved against the old utterances.
        new_ids: what each old utterance has become, in the order of ``trials.utt_ids``.

    Returns:
        Columns `enrol`, `test` and, before them if the list has a key, `target` (1 or 0); in trial order.

    Raises:
        TrialError: a side has become several utterances.
    """
    new_of_row = pl.Series(new_ids, dtype=pl.String).gather(trials.side_rows)
    first = trials.side_offsets[:-1]
    name_of_side = new_of_row.gather(first)
    spread = np.repeat(np.arange(len(first)), np.diff(trials.side_offsets))
    torn = (new_of_row != name_of_side.gather(spread)).arg_true()
    if len(torn):
        side = int(spread[torn[0]])
        line = int(np.argmax((trials.enrol_side == side) | (trials.test_side == side)))
        on_test = trials.enrol_side[line] != side
        spelled = (trials.trials.test if on_test else trials.trials.enrol)[line]
        one, other = name_of_side[side], new_of_row[int(torn[0])]
        raise TrialError(
            f"{trials.trials.path}:{line + 1}: '{spelled}' has become several utterances, such as '{one}' and"
            f" '{other}'; only a side that is one utterance can be renamed"
        )
    columns = {"enrol": name_of_side.gather(trials.enrol_side), "test": name_of_side.gather(trials.test_side)}
    if trials.target is None:
        return pl.DataFrame(columns)
    return pl.DataFrame({"target": pl.Series(trials.target), **columns})


def write_trials(path: str | Path, table: pl.DataFrame) -> None:
    """Write a trial list, whole or not at all: the columns of ``table`` with blanks between them.

    Raises:
        FarvoxError: the system refuses to write there.
    """
    with atomic_file(path) as temporary:
        table.write_csv(temporary, include_header=False, separator=" ", quote_style="never")
