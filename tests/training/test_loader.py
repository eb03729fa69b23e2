import multiprocessing

import numpy as np
import pytest
import torch

from farvox.audio.files import read_audio, write_audio
from farvox.audio.remote import remote_audio
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import SpecAugmentOptions, draw_masks
from farvox.rng import rng_for
from farvox.training.loader import ChunkDataset, collate, draw_chunk, fit_length, load_batches
from farvox.training.table import EpochPlan, StepBatches, TrainingTable


@pytest.fixture
def table(corpus):
    return TrainingTable.open([corpus / "train"])


def test_an_example_is_set_by_seed_epoch_and_position(table):
    dataset = ChunkDataset(table, seed=1, num_samples=3000)
    again = ChunkDataset(table, seed=1, num_samples=3000)
    one, same = dataset[0, 5, 2], again[0, 5, 2]
    assert (one.wav_T == same.wav_T).all() and (one.label, one.position) == (0, 5)
    others = [dataset[1, 5, 2], dataset[0, 6, 2], ChunkDataset(table, seed=2, num_samples=3000)[0, 5, 2]]
    assert all((other.wav_T != one.wav_T).any() for other in others)


def test_a_chunk_is_a_part_of_its_file(table):
    path = table.wav_paths[7]
    whole_T = read_audio(path)
    starts = set()
    for position in range(20):
        chunk_T, _ = draw_chunk(path, 4000, 16000, rng_for(0, 0, position))
        at = int(np.argmax([np.array_equal(whole_T[n : n + 4000], chunk_T) for n in range(len(whole_T))]))
        assert np.array_equal(whole_T[at : at + 4000], chunk_T)
        starts.add(at)
    assert len(starts) > 10


def test_a_short_file_is_repeated(tmp_path):
    write_audio(tmp_path / "short.wav", np.linspace(-0.5, 0.5, 700))
    whole_T = read_audio(tmp_path / "short.wav")
    chunk_T, _ = draw_chunk(str(tmp_path / "short.wav"), 2000, 16000, rng_for(0, 0, 0))
    assert np.array_equal(chunk_T, np.tile(whole_T, 3)[:2000])
    assert np.array_equal(fit_length(whole_T, 3), whole_T[:3])


@pytest.mark.parametrize("rate", [8000, 11025, 48000])
def test_files_of_any_rate_give_chunks_of_one_length(rate, tmp_path):
    t = np.arange(rate) / rate
    write_audio(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 400 * t), rate)
    for position in range(10):
        chunk_T, _ = draw_chunk(str(tmp_path / "a.wav"), 5000, 16000, rng_for(0, 0, position))
        assert len(chunk_T) == 5000
        peak = np.argmax(np.abs(np.fft.rfft(chunk_T * np.hanning(5000)))) * 16000 / 5000
        assert abs(peak - 400) < 4


@pytest.mark.parametrize("num_samples", [3000, 30000])
def test_each_speed_has_its_own_classes_and_all_chunks_one_length(num_samples, table):
    dataset = ChunkDataset(table, seed=0, num_samples=num_samples, speeds=(1.0, 0.9, 1.1))
    row = 9
    examples = [dataset[0, position, row] for position in range(30)]
    speaker = int(table.speakers_N[row])
    assert {example.label for example in examples} == {speaker, speaker + 6, speaker + 12}
    assert {len(example.wav_T) for example in examples} == {num_samples}
    assert all(example.wav_T.dtype == np.float32 for example in examples)


def test_labels_may_be_given_by_another_numbering(table):
    labels_VS = np.array([[10, 20, 30, 40, 50, 60]])
    dataset = ChunkDataset(table, seed=0, num_samples=3000, labels_VS=labels_VS)
    assert [dataset[0, 0, row].label for row in (0, 4, 23)] == [10, 20, 60]


def test_the_augmenter_and_the_masks_draw_from_the_examples_own_stream(table):
    dataset = ChunkDataset(
        table,
        seed=0,
        num_samples=1000,
        augment=lambda wav_T, rng: wav_T + np.float32(rng.random()),
        draw_masks=lambda rng: rng.integers(0, 9, (2, 4)),
    )
    plain = ChunkDataset(table, seed=0, num_samples=1000)
    one, same, other = dataset[0, 0, 0], dataset[0, 0, 0], dataset[0, 1, 0]
    assert (one.wav_T == same.wav_T).all() and (one.masks_K4 == same.masks_K4).all()
    assert (one.masks_K4 != other.masks_K4).any() and (one.wav_T != plain[0, 0, 0].wav_T).all()
    assert plain[0, 0, 0].masks_K4.shape == (0, 4)


def test_the_clean_chunk_is_that_which_was_augmented(table):
    options = {"seed": 0, "num_samples": 1000, "speeds": (1.0, 0.9)}
    plain = ChunkDataset(table, **options)
    dataset = ChunkDataset(table, **options, augment=lambda wav_T, rng: -wav_T, keep_clean=True)
    for position in range(8):
        example = dataset[0, position, 3]
        assert (example.clean_T == plain[0, position, 3].wav_T).all()
        assert (example.wav_T == -example.clean_T).all()
    assert plain[0, 0, 3].clean_T is None


def test_copies_share_a_chunk_and_its_speed_and_are_augmented_each_by_itself(table):
    def louder(wav_T, rng):
        return wav_T * np.float32(rng.uniform(1, 9))

    options = {"seed": 5, "num_samples": 1000, "speeds": (1.0, 0.9), "augment": louder, "keep_clean": True}
    dataset, plain = ChunkDataset(table, **options, copies=2), ChunkDataset(table, **options)
    for position in range(0, 12, 2):
        one, other = dataset[2, position, 3], dataset[2, position + 1, 3]
        assert (one.clean_T == other.clean_T).all() and one.label == other.label
        assert (one.clean_T == plain[2, position, 3].clean_T).all()
        assert (one.wav_T != other.wav_T).any() and (one.position, other.position) == (position, position + 1)
        assert (one.wav_T == dataset[2, position, 3].wav_T).all()
    gains = {
        float(np.abs(e.wav_T).max() / np.abs(e.clean_T).max()) for e in (dataset[2, n, 3] for n in range(12))
    }
    assert len(gains) == 12


def test_an_audio_fault_names_the_utterance_and_the_file(tmp_path):
    write_audio(tmp_path / "good.wav", np.full(9000, 0.1))
    (tmp_path / "bad.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:4000])
    (tmp_path / "empty.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:40] + bytes(4))
    names = ("bad", "empty", "missing")
    write_data_dir(tmp_path, [Utterance(f"utt-{n}", str(tmp_path / f"{n}.wav"), "s1", None) for n in names])
    dataset = ChunkDataset(TrainingTable.open([tmp_path]), seed=0, num_samples=1000)
    for row, name in enumerate(names):
        with pytest.raises(AudioError, match=rf"utterance 'utt-{name}': .*/{name}\.wav: "):
            dataset[0, 0, row]


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_examples_are_the_same_from_a_packed_data_dir(codec, corpus, tmp_path, table):
    from farvox.datadir import PackOptions
    from farvox.datadir.pack import pack

    pack(corpus / "train", tmp_path / "packed", PackOptions(codec=codec, shard_size=0.05, jobs=1))
    packed = TrainingTable.open([tmp_path / "packed"])
    assert packed.fingerprint() == table.fingerprint()
    plain, other = (
        ChunkDataset(each, seed=1, num_samples=9000, speeds=(1.0, 0.9)) for each in (table, packed)
    )
    for position in range(30):
        where = (0, position, position % len(table))
        assert np.array_equal(plain[where].wav_T, other[where].wav_T)


def masks(rng):
    return draw_masks(rng, 30, 24, SpecAugmentOptions(probability=0.9))


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
    from farvox.datadir import PackOptions
    from farvox.datadir.pack import pack

    out = tmp_path / "packed"
    pack(corpus / "train", out, PackOptions(codec=codec, shard_size=0.1, at=f"{bucket}/train", jobs=1))
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
    with remote_audio(True):
        table = TrainingTable.open([tmp_path])
    plan = EpochPlan(0, table.speakers_N, 1, epoch_size=1)
    batches = load_batches(ChunkDataset(table, seed=0, num_samples=50), StepBatches(plan, 0, 0, 1), workers=1)
    missing = pytest.raises(AudioError, match=r"utterance 'a': .*x\.tar.*: no such file")
    with remote_audio(True), missing:
        next(batches)


def test_each_batch_has_a_length_of_its_own_and_all_of_it_that_one(table):
    dataset = ChunkDataset(table, seed=1, num_samples=[1000, 2000, 3000], batch_size=4, speeds=(1.0, 0.9))
    lengths = [len(dataset[0, position, position % len(table)].wav_T) for position in range(200)]
    of_batch = [{*lengths[first : first + 4]} for first in range(0, 200, 4)]
    assert all(len(each) == 1 for each in of_batch)
    count = [lengths.count(each) // 4 for each in (1000, 2000, 3000)]
    assert sum(count) == 50 and min(count) >= 8
    assert [dataset.length_at(1, position) for position in range(200)] != lengths
