"""The speaker and the recording conditions of each side of a trial."""

import pytest

from farvox.errors import DataDirError, TrialError, UsageError
from farvox.score.conditions import speakers_from_dirs, speakers_from_ids, trial_conditions
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


def test_speakers_are_those_of_the_data_dir_for_both_sides_and_for_channels(folder, trials):
    for source in (folder, folder / "utt2spk"):
        enrol, test = speakers_from_dirs(trials(), [source])
        assert (enrol == test).tolist() == [True, False, True, False]
        assert len({*enrol.tolist(), *test.tolist()}) == 2


def test_several_sources_may_overlap_but_not_contradict(folder, trials):
    assert speakers_from_dirs(trials(), [folder, folder / "utt2spk"])
    (folder / "other").write_text("ann-near ben\n")
    with pytest.raises(TrialError, match="'ann-near' is of the speaker 'ann' in one source and of 'ben'"):
        speakers_from_dirs(trials(), [folder, folder / "other"])


def test_an_utterance_without_speaker_is_named_with_its_trial(folder, trials):
    with pytest.raises(TrialError, match="trials:2: no utterance 'dan-far'"):
        speakers_from_dirs(trials("1 ann-near ann-far\n0 ann-near dan-far\n"), [folder])
    (folder / "utt2spk").unlink()
    with pytest.raises(TrialError, match="has neither utt2spk nor spk2utt"):
        speakers_from_dirs(trials(), [folder])


def test_a_side_of_two_speakers_is_refused(folder, trials):
    (folder / "mixed").write_text("ann-near ann\nann-far_0 ann\nann-far_1 ben\n")
    with pytest.raises(TrialError, match="trials:1: the test side is of several speakers: "):
        speakers_from_dirs(trials("1 ann-near ann-far\n"), [folder / "mixed"])


def test_speakers_that_contradict_the_labels_are_named(folder, trials):
    with pytest.raises(TrialError, match="trials:2: labelled target, but its speakers are 'ann' and 'ben'"):
        speakers_from_dirs(trials("1 ann-near ann-far\n1 ann-near ben-far\n"), [folder])


def test_a_speaker_may_be_the_head_of_an_id_if_that_is_said(trials):
    enrol, test = speakers_from_ids(trials(), "-")
    assert (enrol == test).tolist() == [True, False, True, False]
    with pytest.raises(TrialError, match=r"trials:1: 'ann-near\.wav' has nothing before a '/'"):
        speakers_from_ids(trials(), "/")


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
