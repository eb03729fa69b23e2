"""A program of someone who uses farvox: never run, but checked against a wheel, by mypy and by pyright."""
# pyright: strict

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
import polars as pl
from numpy.typing import NDArray

import farvox
from farvox import Verdict, Verifier
from farvox.augment import Augmenter, AugmentOptions, build_augmenter
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, FarvoxError, NoSpeechError
from farvox.pipelines.calibrate import Calibrated, CalibrateOptions, calibrate
from farvox.pipelines.cluster import ClusterOptions, cluster
from farvox.pipelines.evaluate import EvaluateOptions, Evaluation, evaluate
from farvox.pipelines.extract import extract
from farvox.pipelines.fuse import Fusion, fuse
from farvox.pipelines.recipe import Recipe, read_recipe
from farvox.pipelines.run import run
from farvox.pipelines.score import ScoreOptions, Scores, score
from farvox.pipelines.train import train
from farvox.verifier import Enrolled, Enrolment, Identification, Signal, SpeakerStore, SqliteStore
from farvox.zoo import Calibration, Card, Embedder, Model, load_model, open_embedder, pull, zoo_models

Floats = NDArray[np.float32]


class Memory:
    """A store of one's own, which a `Verifier` takes if it is a `SpeakerStore`."""

    def __init__(self, inner: SpeakerStore) -> None:
        self.add, self.remove, self.best = inner.add, inner.remove, inner.best
        self.listing, self.models, self.close = inner.listing, inner.models, inner.close


def decide(one: Path, wav_T: Floats) -> bool:
    verifier = Verifier.from_pretrained("campplus-zh-en", backend="onnx", vad="trim", threshold=0.4)
    similarity, same = verifier.verify(one, (wav_T, 16000))
    assert_type(similarity, float)
    assert_type(same, bool)
    verdict = verifier.verify([one, "two.wav"], [(wav_T, 16000)])
    assert_type(verdict, Verdict)
    assert_type(verdict.probability, float | None)
    assert_type(verdict.enrol, tuple[Signal, ...])
    assert_type(verdict.notes[0].code, str)
    assert_type(verifier.embed(one), Floats)
    assert_type(verifier.card, Card)
    assert_type(verifier.calibration, Calibration | None)
    return bool(verdict) or same


def speakers(store: Path, one: Path) -> str:
    assert_type(SqliteStore(store).path, Path)
    verifier = Verifier(open_embedder("campplus-zh-en"), store=store)
    with open(one, "rb") as file:
        assert_type(verifier.enrol("ann", file, replace=True), Enrolment)
    found = verifier.identify(one, top=3)
    assert_type(found, Identification)
    name, similarity = found
    assert_type(name, str | None)
    assert_type(similarity, float)
    assert_type(found.candidates, tuple[tuple[str, float], ...])
    for enrolled in verifier.store.listing():
        assert_type(enrolled, Enrolled)
    assert_type(verifier.forget("ann"), int)
    Verifier(verifier.embedder, store=Memory(verifier.store))
    try:
        verifier.embed(one)
    except NoSpeechError as error:
        caught: AudioError | FarvoxError = error
        return str(caught)
    return name or farvox.__version__


def embeddings(folder: Path) -> EmbeddingSet:
    embedder: Embedder = open_embedder("campplus-zh-en", precision="fp32")
    assert_type(embedder.embed(np.zeros(16000, np.float32)), Floats)
    data = DataDir.open(folder)
    assert_type(data.utt_ids, pl.Series)
    found = extract(embedder, data, out="exp/embeddings", note=print)
    assert_type(found, EmbeddingSet)
    assert_type(found.embeddings, Floats)
    assert_type(found.utt_ids, Sequence[str])
    cluster("exp/embeddings", "exp/clusters", ClusterOptions(method="ahc"))
    return found


def figures(folder: Path) -> float:
    scores = score("trials", folder, ScoreOptions(channels="mean", norm="as-norm", cohort=folder))
    assert_type(scores, Scores)
    assert_type(scores.values, NDArray[np.float64])
    found = evaluate(scores, EvaluateOptions(p_target=0.05, roc=True))
    assert_type(found, Evaluation)
    assert_type(found.eer, float)
    assert_type(calibrate(scores, CalibrateOptions()), Calibrated)
    assert_type(fuse({"one": scores, "two": Scores.read("trials", "scores")}), Fusion)
    return found.min_dcf


def models() -> Model:
    recipe = read_recipe("demo")
    assert_type(recipe, Recipe)
    assert_type(run(recipe, "exp", note=print), None)
    assert_type(train(recipe, "exp/run"), Path)
    assert_type(pull("campplus-zh-en"), Path)
    assert_type(zoo_models()["campplus-zh-en"].card, Card)
    assert_type(build_augmenter(AugmentOptions()), Augmenter)
    return load_model("exp/run@37", "cuda")
