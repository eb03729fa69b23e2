"""Figures in text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.report.text import as_latex, as_markdown, gain_line, rounded, span


def test_digits_follow_from_the_number_of_trials():
    assert [rounded(0.034567, n, "%") for n in (24, 200, 2000, 20_000, 10**8)] == [
        "3.5 %",
        "3.5 %",
        "3.46 %",
        "3.457 %",
        "3.457 %",
    ]
    assert [rounded(0.48333, n) for n in (24, 200, 2000, 10**8)] == ["0.48", "0.483", "0.4833", "0.4833"]
    assert rounded(0.0192, 2000, "points", sign="+") == "+1.92 points"
    assert rounded(-0.01, 200, sign="+") == "-0.010"
    assert span((0.0028, 0.0315), 2000, "points", sign="+") == "+0.28 to +3.15 points"
    assert span((0.31, 0.4), 200) == "0.310 to 0.400"


def test_names_are_shown_as_they_are_in_markdown_and_latex():
    rows = [["a_b*c", "<i>|\\"], ["x", "y"]]
    assert as_markdown(rows, "By same_sex") == (
        "## By same\\_sex\n\n| a\\_b\\*c | \\<i>\\|\\\\ |\n|---|---:|\n| x | y |"
    )
    assert r"a\_b*c & \textless{}i\textgreater{}\textbar{}\textbackslash{} \\" in as_latex("t", rows)


@given(st.floats(0, 1), st.integers(1, 100_000))
def test_rounding_moves_no_rate_by_more_than_half_a_trial(rate, trials):
    shown = float(rounded(rate, trials, "%").removesuffix(" %")) / 100
    assert abs(shown - rate) <= 0.5 / trials + 1e-12


@pytest.mark.parametrize(
    ("change", "interval", "begins", "ends"),
    [
        (-0.02, (-0.03, -0.01), "far: new is better than old (EER 5.0 % -> 3.0 %", "-3.0 to -1.0 points)"),
        (-0.02, (-0.05, 0.01), "note: far: new is not proven better than old", "points; zero is inside)"),
        (0.0, (0.0, 0.0), "note: far: new is not proven better than old", "points; zero is inside)"),
        (0.02, (-0.01, 0.05), "note: far: new is not proven better than old", "points; zero is inside)"),
        (0.02, (0.01, 0.03), "note: far: new is worse than old (EER 5.0 % -> 7.0 %", "+1.0 to +3.0 points)"),
    ],
)
def test_only_what_is_better_beyond_doubt_is_called_better(change, interval, begins, ends):
    sure = interval[0] > 0 or interval[1] < 0
    eer = {"other": 0.05, "difference": change, "interval": interval, "excludes_zero": sure, "p": 0.5}
    pair = {"system": "new", "other": "old", "eer": eer}
    line = gain_line("far", pair, {"num_target": 900, "num_nontarget": 9000})
    assert line.startswith(begins) and line.endswith(ends)
