"""The conditions of trials: of a side, of both, derived ones, and bins."""

import numpy as np
import polars as pl
import pytest

from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import DataDirError, UsageError
from farvox.score.conditions import binned, trial_conditions
from farvox.score.trials import read_trials

WAV_SCP = "ann-near ann-near.wav\nann-far_0 x.wav\nann-far_1 x.wav\nben-near x.wav\nben-far x.wav\n"
UTT2COND = "utt_id\tdistance\tchannel\nann-far_0\t5m\t0\nann-far_1\t5m\t1\nben-far\t3m\t0\nann-near\t1m\t\n"


@pytest.fixture
def folder(tmp_path):
    rows = sorted(WAV_SCP.splitlines())
    (tmp_path / "wav.scp").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "utt2spk").write_text("".join(f"{row.split()[0]} {row[:3]}\n" for row in rows))
    (tmp_path / "utt2cond").write_text(UTT2COND)
    return tmp_path


@pytest.fixture
def trials(tmp_path):
    def write_and_read(
        text="1 ann-near.wav ann-far\n0 ann-near ben-far\n1 ben-near ben-far\n0 ann-near ben-near\n",
    ):
        (tmp_path / "trials").write_text(text)
        return read_trials(tmp_path / "trials")

    return write_and_read


def test_conditions_are_those_of_the_test_side_or_of_the_enrolment_side(folder, trials):
    table = trial_conditions(trials(), [folder], ["distance", "channel", "enrol.distance"])
    assert table["distance"].to_list() == ["5m", "3m", "3m", ""]  # ben-near is not in utt2cond
    assert table["channel"].to_list() == ["0+1", "0", "0", ""]
    assert table["enrol.distance"].to_list() == ["1m", "1m", "", "1m"]


def test_an_unknown_condition_is_refused(folder, trials):
    with pytest.raises(UsageError, match="--by device: no such condition; there are distance, channel"):
        trial_conditions(trials(), [folder], ["device"])
    with pytest.raises(DataDirError, match="nowhere"):
        trial_conditions(trials(), [folder / "nowhere"], ["distance"])


def values(folder, trials, *by, **options):
    table = trial_conditions(trials, [folder], by, **options)
    return [table[name].to_list() for name in by]


def test_a_condition_that_no_trial_has_is_refused(folder, trials, tmp_path):
    trials = trials()
    rows = (
        "".join(f"{utt_id}\t\n" for utt_id in ("ann-near", "ben-near", "ben-far")) + "of_another_list\t3m\n"
    )
    (tmp_path / "room").write_text("utt_id\troom\n" + rows)
    for name in ("room", "same.room", "enrol.room", "gap.room"):
        with pytest.raises(UsageError, match=f"no trial has the condition '{name}'"):
            trial_conditions(trials, [folder, tmp_path / "room"], [name])


def test_conditions_are_in_the_order_of_their_numbers(folder, trials):
    rows = {"ann-near": "10 m", "ann-far_0": "2 m", "ann-far_1": "2 m", "ben-far": ""}
    lines = "".join(f"{utt_id}\t{value}\n" for utt_id, value in rows.items())
    (folder / "utt2cond").write_text("utt_id\tdistance\n" + lines)
    for name in ("distance", "enrol.distance"):
        found = trial_conditions(trials(), [folder], [name])[name]
        order = [each for each in ("", "2 m", "10 m") if each in set(found)]
        assert found.unique().sort().to_list() == order and len(order) == 2, name


def test_a_value_may_be_the_same_on_both_sides_or_not(folder, trials):
    (folder / "spk2gender").write_text("ann f\nben f\n")
    assert values(folder, trials(), "same.distance") == [["different", "different", "", ""]]
    assert values(folder, trials(), "gender", "same.gender") == [["f"] * 4, ["same"] * 4]


def test_the_duration_of_a_side_is_the_mean_of_its_utterances(folder, trials):
    seconds = {"ann-near": 1, "ann-far_0": 1.5, "ann-far_1": 2.5, "ben-near": 0.5, "ben-far": 3}
    lines = sorted(f"{name} {16_000 * length:.0f}\n" for name, length in seconds.items())
    (folder / "utt2num_samples").write_text("".join(lines))
    assert values(folder, trials(), "duration", edges={"duration": (1, 2, 3)}) == [
        ["2 to 3 s", "3 s or more", "3 s or more", "below 1 s"]  # (1.5 + 2.5) / 2 = 2
    ]
    assert values(folder, trials(), "enrol.duration", edges={"enrol.duration": (1,)}) == [
        ["1 s or more", "1 s or more", "below 1 s", "1 s or more"]
    ]
    (folder / "utt2dur").write_text("ben-far 0.25\n")
    assert values(folder, trials(), "duration") == [["", "0.25", "0.25", ""]]


def test_a_gap_is_between_numbers_dates_or_the_visits_of_ffsvc(folder, trials):
    for values_of, expected in (
        (["2026-01-02", "2026-01-15", "2026-01-15", "2025-12-31"], ["13 days", "2 days", "", ""]),
        (["F", "T", "T", "S"], ["2", "1", "", ""]),
        (["1.5 h", "1 h", "2 h", "4 h"], ["0 h", "2.5 h", "", ""]),  # a side of two channels is their mean
    ):
        names = ("ann-near", "ann-far_0", "ann-far_1", "ben-far")
        rows = "".join(f"{name}\t{value}\n" for name, value in zip(names, values_of, strict=True))
        (folder / "utt2cond").write_text(f"utt_id\tvisit\n{rows}")
        assert values(folder, trials(), "gap.visit") == [expected]
    (folder / "utt2cond").write_text("utt_id\tvisit\nann-near\tMay\n")
    with pytest.raises(UsageError, match=r"--by gap.visit: 'May' is neither a number .* nor a date"):
        values(folder, trials(), "gap.visit")


def test_a_table_of_trials_has_conditions_of_both_sides(folder, trials, tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "enrol\ttest\tlikeness\nann-near\tann-far\t0.5\nann-near\tben-far.wav\t2\n"
    )
    table = trial_conditions(trials(), [folder, tmp_path / "pairs.tsv"], ["likeness", "distance"])
    assert table["likeness"].to_list() == ["0.5", "2", "", ""]
    (tmp_path / "pairs.tsv").write_text("enrol\ttest\tlikeness\nann-near\tann-far\n")
    with pytest.raises(DataDirError, match=r"pairs.tsv:2: 2 fields between tabs, the header has 3"):
        trial_conditions(trials(), [folder, tmp_path / "pairs.tsv"], ["likeness"])


def test_the_snr_that_extract_estimated_is_a_condition(folder, trials, tmp_path):
    (tmp_path / "emb").mkdir()
    (tmp_path / "emb/utt_ids.txt").write_text("".join(f"{row.split()[0]}\n" for row in WAV_SCP.splitlines()))
    (tmp_path / "emb/utt2quality").write_text("ann-far_0 10.00\nann-far_1 20.00\nben-far 30.50\n")
    table = trial_conditions(trials(), [folder, tmp_path / "emb"], ["snr"], edges={"snr": [15, 20]})
    assert table["snr"].to_list() == ["15 to 20 dB", "20 dB or more", "20 dB or more", ""]


def test_the_measures_of_extract_are_conditions(folder, trials, tmp_path):
    ids = [row.split()[0] for row in WAV_SCP.splitlines()]
    measures = np.array([[1.5 + n, 4.25, n % 2] for n in range(len(ids))], np.float32)
    EmbeddingSet(ids, np.ones((len(ids), 2), np.float32), measures=measures).save(tmp_path / "emb")
    table = trial_conditions(trials(), [folder, tmp_path / "emb"], ["speech", "decay"], edges={"speech": [4]})
    assert set(table["speech"]) == {"below 4 s", "4 s or more"}
    assert "4.25" in set(table["decay"])


def test_a_bin_holds_its_lower_edge_and_bins_are_in_order():
    found = binned(pl.Series([0.5, 1.0, 2.9, 3.0, None, -1.0]), (1, 3), "s")
    assert found.to_list() == ["below 1 s", "1 to 3 s", "1 to 3 s", "3 s or more", "", "below 1 s"]
    assert found.unique().sort().to_list() == ["", "below 1 s", "1 to 3 s", "3 s or more"]
    assert binned(pl.Series([2.0, 11.0]), (10,)).to_list() == ["below 10", "10 or more"]


def many(tmp_path, texts, column="t60"):
    """A list of trials of which each has a test utterance of its own."""
    names = [f"u{n:02}" for n in range(len(texts))]
    rows = "".join(f"{name}\t{text}\n" for name, text in zip(names, texts, strict=True))
    (tmp_path / "utt2cond").write_text(f"utt_id\t{column}\n{rows}")
    (tmp_path / "trials").write_text("".join(f"{n % 2} u00 {name}\n" for n, name in enumerate(names)))
    return read_trials(tmp_path / "trials")


def test_many_values_of_a_measurement_are_put_in_quantiles(tmp_path):
    trials = many(tmp_path, [f"{n / 10:.1f}" for n in range(20)])
    table = trial_conditions(trials, [tmp_path / "utt2cond"], ["t60"], bins=2)
    assert table["t60"].value_counts(sort=True).sort("t60").rows() == [
        ("below 0.95 s", 10),
        ("0.95 s or more", 10),
    ]
    four = trial_conditions(trials, [tmp_path / "utt2cond"], ["t60"])["t60"]
    assert four.value_counts()["count"].to_list() == [5] * 4
    assert four.unique().sort()[1] == "0.475 to 0.95 s"


def test_names_that_are_numbers_and_few_values_stay_as_they_are(tmp_path):
    for texts, column in (
        ([str(n) for n in range(16)], "channel"),
        ([f"{n:02}" for n in range(16)], "point"),
        (["0.3", "0.6"] * 8, "t60"),
        ([f"{n} m" for n in range(15)] + ["far"], "distance"),
    ):
        trials = many(tmp_path, texts, column)
        assert trial_conditions(trials, [tmp_path / "utt2cond"], [column])[column].to_list() == texts
    with pytest.raises(UsageError, match="--edges distance: 'far' is no number"):
        trial_conditions(trials, [tmp_path / "utt2cond"], ["distance"], edges={"distance": (1.0,)})


def test_units_are_read_from_the_values(tmp_path):
    trials = many(tmp_path, ["1M", "3M", "5m", "0.25 m"] * 4, "distance")
    table = trial_conditions(trials, [tmp_path / "utt2cond"], ["distance"], edges={"distance": (1, 4)})
    assert table["distance"].unique().sort().to_list() == ["below 1 M", "1 to 4 M", "4 M or more"]
