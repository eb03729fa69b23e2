from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.datadir.embeddings import EmbeddingSet, shared_origin
from farvox.errors import DataDirError, FarvoxError
from farvox.score.scores import embeddings_state


def some(num: int, dim: int = 3) -> EmbeddingSet:
    embeddings = np.random.default_rng(0).standard_normal((num, dim), dtype=np.float32)
    return EmbeddingSet([f"utt{i}" for i in range(num)], embeddings, {"model": "résnet"})


def test_a_saved_set_is_loaded_unchanged_and_memory_mapped(tmp_path: Path) -> None:
    saved = some(5)
    saved.save(tmp_path / "emb")
    loaded = EmbeddingSet.load(tmp_path / "emb")
    assert isinstance(loaded.embeddings, np.memmap)
    np.testing.assert_array_equal(loaded.embeddings, saved.embeddings)
    assert (loaded.utt_ids, loaded.meta) == (saved.utt_ids, saved.meta)
    assert len(loaded) == 5


@pytest.mark.parametrize("utt_ids", [[], ["a"], ["a\u00a0b", "c\u2028", "é"]])
def test_any_ids_survive_the_disk(tmp_path: Path, utt_ids: list[str]) -> None:
    EmbeddingSet(utt_ids, np.zeros((len(utt_ids), 2), np.float32)).save(tmp_path / "emb")
    assert EmbeddingSet.load(tmp_path / "emb").utt_ids == utt_ids


def test_a_loaded_set_may_be_saved_over_itself(tmp_path: Path) -> None:
    some(5).save(tmp_path / "emb")
    EmbeddingSet.load(tmp_path / "emb").save(tmp_path / "emb")
    np.testing.assert_array_equal(EmbeddingSet.load(tmp_path / "emb").embeddings, some(5).embeddings)


def test_a_model_folder_is_never_replaced_by_embeddings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FarvoxError, match="choose another name"):
        some(2).save(tmp_path)


@given(rows=st.lists(st.integers(0, 9), max_size=30))
def test_rows_are_found_in_the_order_asked_for(rows: list[int]) -> None:
    np.testing.assert_array_equal(some(10).rows([f"utt{row}" for row in rows]), rows)


def test_the_first_utterance_without_embedding_is_named() -> None:
    with pytest.raises(DataDirError, match=r"'utt7' has no embedding \(2 such utterances\)"):
        some(3).rows(["utt1", "utt7", "utt0", "utt8", "utt7"])


@pytest.mark.parametrize(
    ("utt_ids", "embeddings", "complaint"),
    [
        (["a", "b", "a"], np.zeros((3, 2), np.float32), "'a' is there twice"),
        (["a", "b"], np.zeros((3, 2), np.float32), "2 utterance ids for 3 embeddings"),
        (["a", "b"], np.zeros((2, 2)), "not float64"),
        (["a", "b"], np.zeros(2, np.float32), r"not float32 \[2\]"),
    ],
)
def test_ids_and_rows_fit_one_another(utt_ids: list[str], embeddings: np.ndarray, complaint: str) -> None:
    with pytest.raises(DataDirError, match=complaint):
        EmbeddingSet(utt_ids, embeddings)


@pytest.mark.parametrize("file", ["embeddings.npy", "utt_ids.txt", "meta.json"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    some(4).save(tmp_path / "emb")
    content = (tmp_path / "emb" / file).read_bytes()
    (tmp_path / "emb" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataDirError, match="extract them again"):
        EmbeddingSet.load(tmp_path / "emb")
    (tmp_path / "emb" / file).unlink()
    with pytest.raises(DataDirError, match=rf"no {file}"):
        EmbeddingSet.load(tmp_path / "emb")


def test_the_quality_of_recordings_is_kept_beside_their_embeddings(tmp_path: Path) -> None:
    quality = np.array([3.25, np.nan, -1.5], np.float32)
    EmbeddingSet(some(3).utt_ids, some(3).embeddings, quality=quality).save(tmp_path / "emb")
    assert (tmp_path / "emb" / "utt2quality").read_text() == "utt0 3.25\nutt1 nan\nutt2 -1.50\n"
    np.testing.assert_array_equal(EmbeddingSet.load(tmp_path / "emb").quality, quality)
    some(3).save(tmp_path / "emb")
    assert EmbeddingSet.load(tmp_path / "emb").quality is None


def test_the_measures_of_recordings_are_kept_beside_their_embeddings(tmp_path: Path) -> None:
    measures = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    EmbeddingSet(some(3).utt_ids, some(3).embeddings, measures=measures).save(tmp_path / "emb")
    found = EmbeddingSet.load(tmp_path / "emb").measures
    np.testing.assert_allclose(found, measures, rtol=1e-6)
    text = (tmp_path / "emb/utt2measures").read_text()
    assert text.startswith("utt_id\tspeech\tdecay\tnarrow\nutt0\t")
    for wrong in ("nan", "-1.5"):
        rows = [line.split("\t") for line in text.splitlines()]
        rows[2][1] = wrong
        (tmp_path / "emb/utt2measures").write_text("".join("\t".join(row) + "\n" for row in rows))
        with pytest.raises(DataDirError, match=f"utt2measures: utt1: {wrong} "):
            EmbeddingSet.load(tmp_path / "emb")
    (tmp_path / "emb/utt2measures").write_text(text.replace("utt1", "utt7"))
    with pytest.raises(DataDirError, match="utt2measures is not of these utterances"):
        EmbeddingSet.load(tmp_path / "emb")


def test_a_quality_of_other_utterances_is_refused(tmp_path: Path) -> None:
    some(2).save(tmp_path / "emb")
    (tmp_path / "emb" / "utt2quality").write_text("utt0 3.25\nutt7 1.00\n")
    with pytest.raises(DataDirError, match="utt2quality is not of these utterances"):
        EmbeddingSet.load(tmp_path / "emb")
    with pytest.raises(DataDirError, match="3 qualities for 2 utterances"):
        EmbeddingSet(some(2).utt_ids, some(2).embeddings, quality=np.zeros(3, np.float32))


ONE = {
    "model": {"name": "ecapa", "kwargs": {"channels": 8}},
    "frontend": {"kind": "kaldi-fbank", "mean": "utterance"},
    "epoch": 7,
    "digest": "a" * 64,
    "precision": "fp32",
    "backend": "onnxruntime 1.27",
}
OTHERS = {
    "epoch": ({"epoch": 6, "digest": "b" * 64}, "epoch 6, not 7"),
    "weights": ({"digest": "b" * 64}, "digest 'b"),
    "front-end": (
        {"frontend": {"kind": "kaldi-fbank", "mean": "none"}, "digest": "b" * 64},
        "frontend.mean 'none', not 'utterance'",
    ),
    "conditioning": (
        {"conditioning": {"level": -26.0}, "digest": "b" * 64},
        "conditioning {'level': -26.0}, not none",
    ),
    "network of an old set": (
        {"model": {"name": "ecapa", "kwargs": {"channels": 16}}, "digest": None, "epoch": None},
        "model.kwargs.channels 16, not 8",
    ),
}


@pytest.mark.parametrize(("change", "difference"), OTHERS.values(), ids=OTHERS)
def test_embeddings_of_another_model_are_refused_by_what_differs(change, difference) -> None:
    """Whichever comes first, and also with a set of unknown origin between them."""
    for order in (["one", "imported", "other"], ["other", "imported", "one"]):
        metas = {"one": ONE, "imported": {"imported": "test_37.npy"}, "other": {**ONE, **change}}
        with pytest.raises(DataDirError, match=r"of another model than .*; extract again") as refused:
            shared_origin({name: metas[name] for name in order}, "extract again")
        assert order[0] == "other" or difference in str(refused.value)


def test_equal_digests_settle_it_and_what_computed_is_noted() -> None:
    notes: list[str] = []
    other = {"digest": ONE["digest"], "precision": "bf16", "backend": "openvino 2026.2"}
    origin = shared_origin({"one": ONE, "two": other}, "extract again", notes.append)
    assert origin == {**ONE, "precision": "fp32, bf16", "backend": "onnxruntime 1.27, openvino 2026.2"}
    assert notes == [
        "note: embeddings of several precisions: one in fp32, two in bf16",
        "note: embeddings of several libraries and devices: one in onnxruntime 1.27, two in openvino 2026.2",
    ]


def test_a_table_that_has_grown_an_entry_does_not_contradict_an_older_one() -> None:
    old = {"frontend": ONE["frontend"], "model": ONE["model"]}
    grown = {**ONE, "frontend": {**ONE["frontend"], "high_freq": 0.0}}
    notes: list[str] = []
    assert "digest" not in shared_origin({"old": old, "new": grown}, "extract again", notes.append)
    assert len(notes) == 1 and "the model of old is not known" in notes[0]


def test_metadata_that_are_no_table_are_damage(tmp_path: Path) -> None:
    some(2).save(tmp_path / "emb")
    (tmp_path / "emb/meta.json").write_text("[]")
    with pytest.raises(DataDirError, match="damaged embeddings"):
        EmbeddingSet.load(tmp_path / "emb")


@pytest.mark.parametrize("num", [0, 1, 1024, 3000, 4096])
def test_parts_are_read_as_one_array_that_is_mapped(tmp_path: Path, num: int) -> None:
    saved = some(num, 5)
    saved.save(tmp_path / "emb", part_rows=1000)
    files = sorted(path.name for path in (tmp_path / "emb").glob("*.npy"))
    assert files == [f"part-{number:05d}.npy" for number in range(max(1, -(-num // 1024)))]
    loaded = EmbeddingSet.load(tmp_path / "emb")
    np.testing.assert_array_equal(loaded.embeddings, saved.embeddings)
    assert not loaded.embeddings.flags.writeable or num == 0
    each = [np.load(tmp_path / "emb" / name) for name in files]  # by numpy itself
    np.testing.assert_array_equal(np.concatenate(each), saved.embeddings)
    if num > 1024:
        ours = [line for line in Path("/proc/self/maps").read_text().splitlines() if "emb/part-" in line]
        assert len(ours) == len(files)
        rows = loaded.embeddings[1020:1030]
        del loaded
        np.testing.assert_array_equal(rows, saved.embeddings[1020:1030])  # a view keeps the files
        del rows
        assert "emb/part-" not in Path("/proc/self/maps").read_text()
    again = EmbeddingSet.load(tmp_path / "emb")
    again.save(tmp_path / "emb")
    assert (tmp_path / "emb/embeddings.npy").exists() and not list((tmp_path / "emb").glob("part-*"))


def test_parts_that_no_page_ends_are_read_too(tmp_path: Path) -> None:
    saved = some(7)
    saved.save(tmp_path / "emb", part_rows=10)
    (tmp_path / "emb/parts.json").unlink()
    for number, start in enumerate((0, 3, 6)):
        np.save(tmp_path / "emb" / f"part-{number:05d}.npy", saved.embeddings[start : start + 3])
    np.testing.assert_array_equal(EmbeddingSet.load(tmp_path / "emb").embeddings, saved.embeddings)


def test_parts_that_are_missing_damaged_or_foreign_are_named(tmp_path: Path) -> None:
    some(5000).save(tmp_path / "emb", part_rows=1024)
    part = tmp_path / "emb/part-00002.npy"
    content = part.read_bytes()
    for bad, message in (
        (content[:-4], "part-00002.npy has"),
        (b"", "part-00002.npy is no .npy file"),
        (content.replace(b"<f4", b"<i4", 1), "part-00002.npy has int32"),
    ):
        part.write_bytes(bad)
        with pytest.raises(DataDirError, match=message):
            EmbeddingSet.load(tmp_path / "emb")
    part.unlink()
    with pytest.raises(DataDirError, match=r"of 5 parts these are missing: part-00002\.npy"):
        EmbeddingSet.load(tmp_path / "emb")
    part.write_bytes(content)
    for name in ("part-00004.npy", "part-00000.npy"):
        kept = (tmp_path / "emb" / name).read_bytes()
        (tmp_path / "emb" / name).unlink()
        with pytest.raises(DataDirError, match=f"of 5 parts these are missing: {name}"):
            EmbeddingSet.load(tmp_path / "emb")
        (tmp_path / "emb" / name).write_bytes(kept)
    (tmp_path / "emb/part-00005.npy").write_bytes(content)
    with pytest.raises(DataDirError, match=r"part-00005\.npy is not the part that was written here"):
        EmbeddingSet.load(tmp_path / "emb")


def test_parts_of_another_place_or_set_are_refused(tmp_path: Path) -> None:
    first, other = some(3000), some(3000)
    other = EmbeddingSet(other.utt_ids, other.embeddings + 1, {})
    first.save(tmp_path / "emb", part_rows=1024)
    other.save(tmp_path / "other", part_rows=1024)
    state = embeddings_state(tmp_path / "emb")
    parts = [tmp_path / "emb" / f"part-{number:05d}.npy" for number in range(3)]
    contents = [part.read_bytes() for part in parts]
    for number, content in ((0, contents[1]), (1, (tmp_path / "other/part-00001.npy").read_bytes())):
        parts[number].write_bytes(content)
        with pytest.raises(DataDirError, match=f"part-0000{number}.npy is not the part that was written"):
            EmbeddingSet.load(tmp_path / "emb")
        assert embeddings_state(tmp_path / "emb") != state  # of any part, as replaced_inputs tells
        parts[number].write_bytes(contents[number])
    np.testing.assert_array_equal(EmbeddingSet.load(tmp_path / "emb").embeddings, first.embeddings)
    (tmp_path / "emb/parts.json").write_text("[]")
    with pytest.raises(DataDirError, match=r"parts\.json is no table"):
        EmbeddingSet.load(tmp_path / "emb")
    assert embeddings_state(tmp_path / "emb") == ""
    (tmp_path / "emb/parts.json").unlink()  # as of an earlier farvox, or of one's own making
    parts[0].write_bytes(contents[1])
    np.testing.assert_array_equal(
        EmbeddingSet.load(tmp_path / "emb").embeddings[:1024], first.embeddings[1024:2048]
    )
