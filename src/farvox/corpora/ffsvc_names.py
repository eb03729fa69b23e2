"""What the file names of FFSVC2020 tell; FFSVC2022 gives its development files such names in a list.

``T0344_344I1M_1_0307_normal`` is visit T of speaker 0344, recorded by an iPhone (I) at 1 m, channel 1,
utterance 307, spoken at normal speed (Qin et al., "The FFSVC 2020 evaluation plan", arXiv:2002.00387).
"""

from __future__ import annotations

import polars as pl

DEVICES = ("MIC", "PAD", "PCM", "I")
CONDITIONS = (
    "visit", "speaker", "device", "distance", "channel", "utterance", "text_dependence", "speed",
)  # fmt: skip
FORM = "<visit><speaker>_<speaker><device><distance>_<channel>_<utterance>_<speed>"

# Utterances up to these numbers are the wake-up phrase, and sentences that begin with it.
_LAST_DEPENDENT, _LAST_SEMI_DEPENDENT = 30, 90

_NAME = (
    r"^(?<visit>[FST])(?<speaker>\d{4})_\d{3}"
    rf"(?<device>{'|'.join(DEVICES)})(?<distance>[LR]?-?\d+(?:\.\d+)?M|)"
    r"_(?<channel>[0-9A-Za-z]+)_(?<utterance>\d{3,4})_(?<speed>[a-z]+)$"
)


def parse_names(names: pl.Series) -> pl.DataFrame:
    """The conditions that FFSVC2020's names tell: 823,726 of them in a few seconds.

    Distances are as spelled: ``0.25M``, ``3M``, ``L3M`` and ``R3M`` (30 degrees to the left and right),
    ``-1.5M`` (behind); the close-talk microphone (``MIC``) has none. ``text_dependence`` is ``TD`` for
    utterances 1-30 (the wake-up phrase), ``semi-TD`` for 31-90, ``TI`` above.

    Args:
        names: file names without suffix.

    Returns:
        One row a name, the columns of `CONDITIONS`; all null where the name has another form.
    """
    parsed = pl.DataFrame({"name": names.cast(pl.String)}).select(
        pl.col("name").str.extract_groups(_NAME).alias("fields")
    )
    number = pl.col("utterance").cast(pl.Int32)
    text_dependence = (
        pl.when(number <= _LAST_DEPENDENT)
        .then(pl.lit("TD"))
        .when(number <= _LAST_SEMI_DEPENDENT)
        .then(pl.lit("semi-TD"))
        .when(number.is_not_null())
        .then(pl.lit("TI"))
    )
    return parsed.unnest("fields").with_columns(text_dependence=text_dependence).select(CONDITIONS)
