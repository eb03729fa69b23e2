"""The objects that someone sees in a notebook are a line each."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.pipelines.evaluate import EvaluateOptions, evaluate
from farvox.pipelines.recipe import read_recipe
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.reprs import short_repr
from farvox.score.trials import read_trials
from farvox.verifier import Enrolment, SqliteStore, Verifier
from farvox.zoo import load_model, open_embedder


@dataclass
class Thing:
    name: str
    array: np.ndarray
    share: float = 0.5
    numbers: list[int] = field(default_factory=list)
    hidden: str = field(default="", repr=False)

    __repr__ = short_repr


def test_defaults_are_left_out_and_what_is_large_is_told_by_its_size():
    assert repr(Thing("a", np.zeros((3, 4)))) == "Thing(name='a', array=<ndarray [3, 4]>)"
    thing, name = Thing("a" * 70, np.zeros(2), 1 / 3, list(range(9)), "secret"), f"{'a' * 57}..."
    assert repr(thing) == f"Thing(name='{name}', array=<ndarray [2]>, share=0.333333, numbers=<list of 9>)"
    assert repr(Thing("a", None, np.float64(0.25))) == "Thing(name='a', array=None, share=0.25)"
    table = pl.DataFrame({"x": [1]})
    assert repr(Thing("a", table, numbers=[1])) == "Thing(name='a', array=<DataFrame [1, 1]>, numbers=[1])"


def test_options_show_what_was_given():
    assert repr(ScoreOptions()) == "ScoreOptions()"
    assert repr(ScoreOptions(channels="mean", lda=None)) == "ScoreOptions(channels='mean')"


@pytest.fixture(scope="module")
def seen(model_folder, voices, corpus, tmp_path_factory):
    """Objects as the functions of `docs/python.md` give them, by a name."""
    folder = tmp_path_factory.mktemp("seen")
    verifier = Verifier.from_pretrained(
        model_folder, backend="torch", vad="off", store=SqliteStore(folder / "store")
    )
    rng = np.random.default_rng(0)
    data = DataDir.open(corpus / "dev")
    emb_NE = rng.standard_normal((len(data), 16)).astype(np.float32)
    trials = read_trials(corpus / "dev/trials")
    scores = Scores(trials, rng.standard_normal(len(trials)), {"model": {"name": "ecapa"}})
    options = EvaluateOptions(roc=True, intervals=True, bootstrap=20, data=(corpus / "dev",))
    wide = rng.standard_normal(512).astype(np.float32)
    return {
        "verifier": verifier,
        "store": verifier.store,
        "embedder": open_embedder(model_folder, backend="torch"),
        "model": load_model(model_folder),
        "card": verifier.card,
        "verdict": verifier.verify([voices / "a0.wav", voices / "a1.wav"], voices / "b0.wav"),
        "enrolment": verifier.enrol("ann", voices / "a0.wav"),
        "identification": verifier.identify(voices / "a1.wav", top=3),
        "wide": Enrolment(
            name="x", model_digest="d" * 64, model_name="m", num_recordings=1, seconds=1, template_E=wide
        ),
        "data dir": data,
        "embeddings": EmbeddingSet(list(data.utt_ids), emb_NE, {"model": {"name": "ecapa"}}),
        "trials": trials,
        "scores": scores,
        "evaluation": evaluate(scores, options),
        "recipe": read_recipe("voxceleb/ecapa"),
    }


def test_everything_that_a_notebook_shows_is_a_short_line(seen):
    long = {name: shown for name, shown in ((n, repr(x)) for n, x in seen.items()) if len(shown) > 400}
    assert list(long) == ["recipe"], long
    assert all("\n" not in repr(each) and " object at 0x" not in repr(each) for each in seen.values())


def test_a_verifier_and_a_model_are_shown_with_what_they_are(seen):
    assert repr(seen["verifier"]).startswith("<Verifier: <TorchEmbedder of small: 16 numbers, torch ")
    assert repr(seen["verifier"]).endswith(", threshold 0.5, band auto>")
    assert repr(seen["model"]).startswith("Model(network=<EcapaTdnn>, ")
    assert repr(seen["store"]).startswith("SqliteStore('/")
    assert "template_E=<ndarray [16]>" in repr(seen["enrolment"])
