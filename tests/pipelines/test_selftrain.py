"""Rounds on disk."""

from farvox.pipelines.selftrain import Round, table_of_rounds


def test_a_round_remembers_what_is_done_and_what_it_came_to(tmp_path):
    first = Round(tmp_path / "round-1")
    assert not first.is_done("extract") and first.facts() == {}
    first.mark_done("extract")
    first.mark_done("cluster", {"clusters": 7})
    first.mark_done("evaluate", {"eer": {"dev": 0.1}})
    again = Round(tmp_path / "round-1")
    assert again.is_done("extract") and again.is_done("cluster") and not again.is_done("train")
    assert again.facts() == {"clusters": 7, "eer": {"dev": 0.1}}


def test_the_table_has_a_row_a_round_and_a_dash_where_nothing_is_known():
    facts = [
        {"eer": {"dev": 0.25}},
        {"clusters": 5, "kept": 9, "nmi_to_last": 0.0, "truth": {"nmi": 0.5, "purity": 1}},
    ]
    head, before, first = table_of_rounds(facts, ["dev"])
    assert head[-1] == "EER dev"
    assert before == ["0", "-", "-", "-", "-", "-", "25.00 %"]
    assert first == ["1", "5", "9", "0.0000", "0.5000", "1.0000", "-"]
