import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from farvox.audio.quality import QualityTerm
from farvox.errors import ModelError, UsageError
from farvox.zoo import Calibration, Card, Figure

FULL = Card(
    name="m",
    title="A model",
    licence="Apache-2.0",
    publisher="us",
    training_data="speech",
    threshold=0.45,
    threshold_note="on trials",
    calibration=Calibration(30.0, -12.0, "on trials"),
    figures=(Figure("test speakers", 100, 0.01, 0.1, "farvox evaluate"),),
)


AWARE = replace(
    FULL,
    calibration=Calibration(30.0, -12.0, "on trials", (QualityTerm("speech", "lower", -0.5, 1.0, 8.0),), 2.5),
)


def with_term(**change):
    """A change of the card: a calibration with one term, of which some fields are others."""
    return {
        "calibration": asdict(AWARE.calibration) | {"terms": [asdict(AWARE.calibration.terms[0]) | change]}
    }


def test_a_calibration_that_knows_the_recordings_survives_its_file_and_moves_the_threshold(tmp_path):
    AWARE.save(tmp_path)
    assert Card.load(tmp_path) == AWARE
    short_M, long_M = np.array([1.0, 9, 0, 7]), np.array([7.0, 9, 0, 7])
    one, other = AWARE.for_quality(short_M, long_M), AWARE.for_quality(long_M, long_M)
    assert one.calibration.offset == pytest.approx(-12 - 0.5 * math.log(2)) and one.calibration.terms == ()
    assert one.calibration.llr(one.threshold) == pytest.approx(2.5)  # the same ratio, at another score
    assert other.calibration.llr(other.threshold) == pytest.approx(2.5) and other.threshold > one.threshold
    assert FULL.for_quality(short_M, long_M) is FULL


def test_a_card_survives_its_file(tmp_path):
    FULL.save(tmp_path)
    assert Card.load(tmp_path) == FULL
    assert json.loads((tmp_path / "card.json").read_text())["figures"][0]["eer"] == 0.01


TEST = {"false_acceptance": 0.01, "false_rejection": 0.05, "same": [0.6, 0.5], "different": [0.3, 0.5]}


def test_a_sequential_test_survives_its_file_and_is_not_for_the_narrow_band(tmp_path):
    card = Card.from_dict({**asdict(FULL), "sequential": TEST})
    card.save(tmp_path)
    assert Card.load(tmp_path) == card and card.sequential.same == (0.6, 0.5)
    assert card.for_band("narrow").sequential is None
    decisions = [[card.sequential.decide(look, score) for score in (0.2, 0.3, 0.5, 0.6)] for look in (1, 2)]
    assert decisions == [["different", "not yet", "not yet", "same"], ["different"] * 2 + ["same"] * 2]


def test_a_folder_without_a_card_has_an_empty_one(tmp_path):
    assert Card.load(tmp_path) == Card()
    assert Card().threshold is None and Card().calibration is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treshold": 0.4}, "unknown field 'treshold'; there are name,"),
        ({"threshold": "0.4"}, "'threshold' is '0.4'"),
        ({"threshold": True}, "'threshold' is True"),
        ({"threshold": 1.5}, "no cosine"),
        ({"threshold": math.nan}, "not finite"),
        ({"title": 7}, "'title' is 7, not str"),
        ({"calibration": {"scale": 1.0}}, "calibration: .*offset"),
        ({"calibration": {"scale": -1.0, "offset": 0.0}}, "scale must be positive"),
        ({"calibration": 3}, "calibration: not a table"),
        ({"calibration": {"scale": 1.0, "offset": 0.0, "terms": 3}}, "'terms' is not a list"),
        (with_term(measure="mood"), "terms: .*mood.* is not known: update farvox"),
        (with_term(side="left"), "left speech.* is not known"),
        (with_term(low=9.0), "9.0 to 8.0"),
        (with_term(weight="0"), "'weight' is '0'"),
        ({"figures": {"a": 1}}, "'figures' is not a list"),
        (
            {"figures": [{"data": "x", "num_trials": "many", "eer": 0.1, "min_dcf": 1}]},
            "'num_trials' is 'many'",
        ),
        ({"figures": ["x"]}, "figures: not a table"),
        ({"sequential": TEST | {"same": 0.6}}, "sequential: 0.6 is no list"),
        ({"sequential": TEST | {"same": [0.6, math.nan]}}, "is no list of scores"),
        ({"sequential": TEST | {"same": [0.6]}}, "each look has a score"),
        ({"sequential": TEST | {"same": [0.6, 0.4]}}, "not below it"),
        ({"sequential": {"same": [0.6], "different": [0.3]}}, "false_acceptance"),
    ],
)
def test_a_card_with_a_fault_is_refused_by_field(tmp_path, change, message):
    (tmp_path / "card.json").write_text(json.dumps(asdict(FULL) | change))
    with pytest.raises(ModelError, match=rf"{tmp_path / 'card.json'}.*{message}"):
        Card.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "7"])
def test_a_damaged_card_is_refused(tmp_path, content):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ModelError, match=r"card\.json"):
        Card.load(tmp_path)


def test_a_probability_is_that_of_the_likelihood_ratio_and_the_prior():
    calibration = Calibration(scale=10.0, offset=-4.0)
    assert calibration.llr(0.4) == pytest.approx(0.0)
    assert calibration.probability(0.4) == pytest.approx(0.5)
    assert calibration.probability(0.5) == pytest.approx(math.e / (1 + math.e))
    assert calibration.probability(0.4, prior=0.01) == pytest.approx(0.01)
    assert calibration.probability(-1000.0) == 0.0 and calibration.probability(1000.0) == 1.0


def test_a_card_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ModelError, match="no cosine"):
        Card(threshold=4.4).save(tmp_path)
    assert not (tmp_path / "card.json").exists()


@pytest.mark.parametrize("prior", [0, 1, 50, float("nan")])
def test_a_prior_is_a_probability_that_leaves_both_answers_open(prior):
    with pytest.raises(UsageError, match=r"prior = .*; it must be above 0 and below 1"):
        Calibration(10.0, -5.0).probability(0.5, prior)
