import multiprocessing

import numpy as np
import pytest
import torch

from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import draw_masks
from farvox.training.dataset import ChunkDataset
from farvox.training.loader import collate, load_batches
from farvox.training.plan import EpochPlan, StepBatches
from farvox.training.table import TrainingTable


def masks(rng):
    return draw_masks(rng, 30, 24, probability=0.9)


def dataset_and_batches(data_dir, epochs=2):
    table = TrainingTable.open([data_dir])
    dataset = ChunkDataset(table, seed=3, num_samples=5000, speeds=(1.0, 0.9), draw_masks=masks)
    return dataset, StepBatches(EpochPlan(3, table.speakers_N, 8), 0, 0, epochs)


def content(batch):
    tensors = (batch.wav_BT, batch.labels_B, batch.masks_BK4)
    return batch.positions, *(tensor.numpy().tobytes() for tensor in tensors)


def test_batches_do_not_depend_on_the_number_of_workers(corpus):
    walks = [
        [content(batch) for batch in load_batches(*dataset_and_batches(corpus / "train"), workers=workers)]
        for workers in (0, 1, 2)
    ]
    assert walks[0] == walks[1] == walks[2] and len(walks[0]) == 6
    assert len({positions for positions, *_ in walks[0]}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_the_same_wherever_they_are_computed(workers, corpus):
    frontend = build_frontend(FrontEndConfig(num_mels=24))
    dataset, batches = dataset_and_batches(corpus / "train", epochs=1)
    dataset.keep_clean = True
    here = list(load_batches(dataset, batches, workers=0))
    there = list(load_batches(dataset, batches, workers=workers, frontend=frontend))
    for left, computed in zip(here, there, strict=True):
        assert computed.positions == left.positions
        torch.testing.assert_close(computed.wav_BT, frontend(left.wav_BT), atol=2e-5, rtol=0)
        torch.testing.assert_close(computed.clean_BT, frontend(left.clean_BT), atol=2e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_in_a_worker_is_raised_here_in_its_own_words(workers, corpus, tmp_path):
    write_data_dir(tmp_path, [Utterance(f"u{n}", str(tmp_path / "no.wav"), "s", None) for n in range(8)])
    with pytest.raises(AudioError) as caught:
        list(load_batches(*dataset_and_batches(tmp_path), workers=workers))
    assert str(caught.value).startswith("utterance 'u") and "\n" not in str(caught.value)


def test_closing_the_batches_ends_the_workers(corpus):
    batches = load_batches(*dataset_and_batches(corpus / "train"), workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_examples_with_fewer_masks_get_empty_ones(corpus):
    dataset, _ = dataset_and_batches(corpus / "train")
    one, other = dataset[0, 0, 0], dataset[0, 1, 1]
    two = type(other)(other.wav_T, other.label, np.ones((2, 4), dtype=np.int64), other.position)
    batch = collate([one, two])
    assert batch.masks_BK4.shape == (2, 2, 4) and (batch.masks_BK4[0, 1] == 0).all()
    assert batch.positions == (0, 1) and batch.wav_BT.shape == (2, 5000)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_batches_from_an_object_store_are_those_from_the_disk(codec, workers, corpus, tmp_path, bucket):
    from farvox.datadir.pack import pack

    out = tmp_path / "packed"
    pack(corpus / "train", out, note=print, codec=codec, shard_bytes=100_000, at=f"{bucket}/train", jobs=1)
    assert not list((out / "shards").glob("*.tar"))
    tables = [TrainingTable.open([corpus / "train"]), TrainingTable.open([out])]
    assert tables[1].wav_paths[0].startswith(f"{bucket}/train/")
    found = []
    for table in tables:
        dataset = ChunkDataset(table, seed=0, num_samples=5000, speeds=(1.0, 0.9))
        plan = EpochPlan(0, table.speakers_N, 8, epoch_size=32)
        found.append(list(load_batches(dataset, StepBatches(plan, 0, 0, 1), workers=workers)))
    assert len(found[0]) == 4
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.wav_BT, other.wav_BT) and torch.equal(one.labels_B, other.labels_B)


def test_an_utterance_that_is_not_in_the_store_is_named(corpus, tmp_path, bucket):
    (tmp_path / "wav.scp").write_text(f"a {bucket}/x.tar:wav:0:1000:100:16000:1\n")
    (tmp_path / "utt2spk").write_text("a s\n")
    table = TrainingTable.open([tmp_path])
    plan = EpochPlan(0, table.speakers_N, 1, epoch_size=1)
    batches = load_batches(ChunkDataset(table, seed=0, num_samples=50), StepBatches(plan, 0, 0, 1), workers=1)
    with pytest.raises(AudioError, match=r"utterance 'a': .*x\.tar: no such file"):
        next(batches)
