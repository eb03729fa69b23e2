import time

import polars as pl
import pytest

from farvox.corpora.ffsvc_names import CONDITIONS, parse_names


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("T0344_344I1M_1_0307_normal", "T 0344 I 1M 1 0307 TI normal"),
        ("F0549_549PCML3M_recorded6_0005_fast", "F 0549 PCM L3M recorded6 0005 TD fast"),
        ("S0001_001MIC_Tr2_0031_slow", "S 0001 MIC  Tr2 0031 semi-TD slow"),
        ("F0336_336I-1.5M_1_0030_fast", "F 0336 I -1.5M 1 0030 TD fast"),
        ("T0344_344PAD0.25M_1_0090_normal", "T 0344 PAD 0.25M 1 0090 semi-TD normal"),
        ("S0344_344PCMR3M_recorded14_0091_slow", "S 0344 PCM R3M recorded14 0091 TI slow"),
    ],
)
def test_a_name_tells_where_and_how_it_was_recorded(name, conditions):
    table = parse_names(pl.Series([name]))
    assert tuple(table.columns) == CONDITIONS
    assert table.rows() == [tuple(conditions.split(" "))]


@pytest.mark.parametrize(
    "name",
    ["ffsvc22_dev_000000", "", "X0344_344I1M_1_0307_normal", "T0344_344TV1M_1_0307_normal", "T0344_344I1M_1"],
)
def test_a_name_of_another_form_tells_nothing(name):
    assert parse_names(pl.Series([name, "T0344_344I1M_1_0307_normal"])).row(0) == (None,) * len(CONDITIONS)


def test_the_whole_supplement_is_parsed_in_seconds():
    count = 823_726
    names = pl.Series(
        [f"T{n % 120:04}_{n % 120:03}PCM-1.5M_recorded14_{n // 2000:04}_normal" for n in range(count)]
    )
    start = time.perf_counter()
    table = parse_names(names)
    assert time.perf_counter() - start < 5
    assert table.null_count().sum_horizontal().item() == 0
    assert table["speaker"].n_unique() == 120
    assert dict(table["text_dependence"].value_counts().iter_rows())["TI"] > count // 2
