"""Classifier rows that start at the speakers' means."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from farvox.audio.files import read_audio
from farvox.augment.effects import change_speed
from farvox.errors import RecipeError
from farvox.options import from_table, merge
from farvox.training import trainer
from farvox.training.distributed import World
from farvox.training.options import TrainOptions
from farvox.training.start import draw_utterances, start_at_means
from farvox.zoo import load_model

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def start(changed, model_folder, tmp_path):
    """A function that puts a run together that starts from the small model."""

    def build(changes=None):
        table = {**changed({"init": {"model": str(model_folder)}} | (changes or {})), "model": {}}
        return trainer.Run(from_table(TrainOptions, table, "recipe"), ALONE)

    return build


def set_rows(run, utterances=10):
    start_at_means(run.head, run.as_model(), run.dataset, utterances, ALONE)


def embeddings(model, run, speaker, speed=1.0):
    """Length-normalised embeddings of all utterances of a speaker."""
    number = run.table.speaker_names.index(speaker)
    waves = [read_audio(run.table.wav_paths[row]) for row in np.flatnonzero(run.table.speakers_N == number)]
    return F.normalize(
        torch.cat([model.embed(torch.from_numpy(change_speed(w, speed))[None]) for w in waves])
    )


def test_rows_are_the_means_of_the_speakers_at_each_speed(start, model_folder):
    run = start({"data": {"speeds": [1.0, 0.9]}, "head": {"idle_classes": 2}})
    idle = run.head.weight[-2:].detach().clone()
    set_rows(run)
    model = load_model(model_folder)
    for speaker in run.table.speaker_names:
        for speed in (1.0, 0.9):
            row = run.head.weight[run.classes.index(speaker if speed == 1 else f"{speaker}@{speed:g}")]
            expected = F.normalize(embeddings(model, run, speaker, speed).mean(dim=0), dim=0)
            torch.testing.assert_close(row.detach(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(run.head.weight[-2:], idle)


def test_subcentres_share_the_utterances_of_their_class(start, model_folder):
    run = start({"head": {"name": "subcentre-aam", "num_subcentres": 3}})
    set_rows(run)
    emb_NE = embeddings(load_model(model_folder), run, "s4")
    k = 3 * run.classes.index("s4")
    centres = run.head.weight[k : k + 3].detach()
    assert centres.norm(dim=1) == pytest.approx(np.ones(3), abs=1e-5)
    nearest = (centres @ emb_NE.T).amax(dim=1)
    assert nearest.sort().values[1:] == pytest.approx(np.ones(2), abs=1e-4)


def test_of_each_speaker_at_most_so_many_utterances_are_drawn():
    speakers_N = np.array([0] * 50 + [1] * 3 + [3] * 9)
    rows = draw_utterances(speakers_N, 5, seed=1)
    assert np.bincount(speakers_N[rows]).tolist() == [5, 3, 0, 5] and len(set(rows.tolist())) == 13
    assert (rows != draw_utterances(speakers_N, 5, seed=2)).any()
    assert (rows == draw_utterances(speakers_N, 5, seed=1)).all()


def test_a_head_without_cosines_has_no_means(start):
    with pytest.raises(RecipeError, match="needs a head of cosines"):
        set_rows(start({"head": {"name": "softmax"}}))


def test_a_run_that_starts_at_the_means_knows_its_speakers_from_the_first_step(
    tmp_path, train_here, model_folder, logged
):
    changes = {
        "model": {},
        "optim": {"lr": 1e-6, "freeze_batchnorm": True},
        "head": {"margin": 0.0},
        "init": {"model": str(model_folder)},
    }
    for classifier in ("new", "means"):
        train_here(tmp_path / classifier, merge(changes, {"init": {"classifier": classifier}}))
    new, means = (logged(tmp_path / name, "epoch")[0]["accuracy"] for name in ("new", "means"))
    assert means > new + 0.2
