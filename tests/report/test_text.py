"""Figures in text."""

from hypothesis import given
from hypothesis import strategies as st

from farvox.report.text import as_latex, as_markdown, rounded, span


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
