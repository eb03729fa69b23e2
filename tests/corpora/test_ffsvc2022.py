from pathlib import Path

import pytest

from farvox.corpora.ffsvc2022 import prepare_ffsvc2022
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.errors import CorpusError
from farvox.score.trials import read_trials

ORIGINALS = (
    "T0344_344I0.25M_1_0307_normal", "F0344_344PCM3M_recorded2_0001_fast", "S0345_345PAD1M_1_0040_slow",
)  # fmt: skip


@pytest.fixture
def ffsvc(tmp_path, record) -> Path:
    """Development and evaluation files, the published lists beside them."""
    root = tmp_path / "FFSVC2022"
    for number in range(3):
        record(root / f"dev/dev/ffsvc22_dev_{number:06}.wav")
        record(root / f"eval/ffsvc22_eval_{number:06}.wav")
    lines = [f"{name} ffsvc22_dev_{number:06}\n" for number, name in enumerate(ORIGINALS)]
    (root / "dev_meta_list").write_text("Original_Name FFSVC2022_Name\n" + "".join(lines))
    (root / "trials_dev_keys").write_text(
        "1 ffsvc22_dev_000000.wav ffsvc22_dev_000001.wav\n0 ffsvc22_dev_000000.wav ffsvc22_dev_000002.wav\n"
    )
    (root / "trials_dev").write_text("ffsvc22_dev_000000.wav ffsvc22_dev_000001.wav\n")
    (root / "trials_eval").write_text("ffsvc22_eval_000000.wav ffsvc22_eval_000002.wav\n")
    return root


def test_development_files_get_speakers_and_conditions_from_the_list(ffsvc, tmp_path, notes):
    dev, evaluation = prepare_ffsvc2022(ffsvc, tmp_path / "out", note=notes.append)
    assert dev.table["utt_id"].to_list() == [f"ffsvc22_dev_{number:06}" for number in range(3)]
    assert dev.speaker_ids.to_list() == ["0344", "0344", "0345"]
    assert evaluation.speaker_ids.null_count() == len(evaluation) == 3
    table = read_conditions(dev.path)
    assert table["original"].to_list() == list(ORIGINALS)
    assert table["distance"].to_list() == ["0.25M", "3M", "1M"]
    assert table["text_dependence"].to_list() == ["TI", "TD", "semi-TD"]
    assert not (evaluation.path / "utt2cond").exists()
    assert [fault for made in (dev, evaluation) for fault in check_data_dir(made.path)] == []


def test_trial_lists_are_copied_as_they_are_and_can_be_read(ffsvc, tmp_path, notes):
    made = prepare_ffsvc2022(ffsvc, tmp_path / "out", note=notes.append)
    for part, name, target in (
        (made[0], "trials_dev_keys", [1, 0]), (made[0], "trials_dev", None), (made[1], "trials_eval", None),
    ):  # fmt: skip
        assert (part.path / name).read_bytes() == (ffsvc / name).read_bytes()
        resolved = read_trials(part.path / name).resolve(part.utt_ids)
        assert (None if resolved.target is None else resolved.target.tolist()) == target


def test_the_columns_of_the_list_may_be_in_either_order_with_suffixes(ffsvc, tmp_path, notes):
    lines = [f"ffsvc22_dev_{number:06}.wav\t{name}.wav\n" for number, name in enumerate(ORIGINALS)]
    (ffsvc / "dev_meta_list").write_text("".join(lines))
    dev, _ = prepare_ffsvc2022(ffsvc, tmp_path / "out", note=notes.append)
    assert read_conditions(dev.path)["original"].to_list() == list(ORIGINALS)


def test_absent_parts_and_lists_are_a_note(ffsvc, tmp_path, record, notes):
    (ffsvc / "dev_meta_list").unlink()
    (ffsvc / "trials_eval").unlink()
    record(ffsvc / "other.wav")
    dev, _ = prepare_ffsvc2022(ffsvc, tmp_path / "out", note=notes.append)
    assert dev.speaker_ids.null_count() == 3
    said = "\n".join(notes)
    assert "no dev_meta_list, so 'dev' gets no speakers and no conditions" in said
    assert "no trials_eval_keys or trials_eval" in said
    assert "1 audio files of other names were left out" in said
    (made,) = prepare_ffsvc2022(ffsvc / "dev", tmp_path / "alone", note=notes.append)
    assert made.path.name == "dev"
    assert any("no ffsvc22_eval_*.wav, so no part 'eval'" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("dev_000001", "dev_000009"), "does not name ffsvc22_dev_000001;"),
        (lambda text: text + "a b c\n", r"dev_meta_list:5: 'a b c'; expected"),
        (
            lambda text: text.replace("_344I0.25M", "_344X"),
            "'T0344_344X_1_0307_normal', the name of ffsvc22_dev_000000, is not of the form",
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused(ffsvc, tmp_path, notes, change, complaint):
    meta = ffsvc / "dev_meta_list"
    meta.write_text(change(meta.read_text()))
    with pytest.raises(CorpusError, match=complaint):
        prepare_ffsvc2022(ffsvc, tmp_path / "out", note=notes.append)


def test_a_folder_of_other_files_is_refused(tmp_path, record, notes):
    record(tmp_path / "x/a.wav")
    with pytest.raises(CorpusError, match="not the FFSVC2022 corpus; expected ffsvc22_dev_000000"):
        prepare_ffsvc2022(tmp_path / "x", tmp_path / "out", note=notes.append)
