import pytest

from farvox.corpora.himia_names import CONDITIONS, parse_names


def test_a_name_tells_point_microphone_speed_and_utterance():
    table = parse_names(["SV0299_7_01_S0096", "SV0333_2_15_N0124", "SV0333_6_00_F3787"])
    assert tuple(table.columns) == CONDITIONS
    assert table.rows() == [
        ("7", "01", "slow", "0096"), ("2", "15", "normal", "0124"), ("6", "00", "fast", "3787"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "SV0299", "SV0299_7_01_X0096", "SV0299_7_01_S0096_x", "T0344_344I1M_1_0307"]
)
def test_a_name_of_another_form_tells_nothing(name):
    assert parse_names([name, "SV0299_7_01_S0096"]).row(0) == (None,) * 4
