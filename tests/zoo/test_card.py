import json
import math
from dataclasses import asdict

import pytest

from farvox.errors import ModelError
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


def test_a_card_survives_its_file(tmp_path):
    FULL.save(tmp_path)
    assert Card.load(tmp_path) == FULL
    assert json.loads((tmp_path / "card.json").read_text())["figures"][0]["eer"] == 0.01


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
        ({"figures": {"a": 1}}, "'figures' is not a list"),
        (
            {"figures": [{"data": "x", "num_trials": "many", "eer": 0.1, "min_dcf": 1}]},
            "'num_trials' is 'many'",
        ),
        ({"figures": ["x"]}, "figures: not a table"),
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
