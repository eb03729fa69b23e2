"""What HI-MIA's file names tell: ``SV0299_2_03_F0096`` is point 2, microphone 3, fast, utterance 96."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

CONDITIONS = ("point", "microphone", "speed", "utterance")
SPEEDS = {"N": "normal", "S": "slow", "F": "fast"}

_NAME = r"^[^_]+_(?<point>\d+)_(?<microphone>\d+)_(?<speed>[NSF])(?<utterance>\d+)$"


def parse_names(names: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The conditions that HI-MIA's names tell.

    Points 2, 5 and 6 are circular arrays of up to 16 microphones, 7 is the close-talk microphone.

    Args:
        names: file names without suffix.

    Returns:
        One row a name, the columns of `CONDITIONS`; all null where the name has another form.
    """
    name = pl.Series("name", names, pl.String)
    fields = pl.DataFrame(name).select(pl.col("name").str.extract_groups(_NAME)).unnest("name")
    return fields.with_columns(pl.col("speed").replace(SPEEDS)).select(CONDITIONS)
