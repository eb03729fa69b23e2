import numpy as np
import polars as pl
import pytest
import soundfile

from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError, UsageError
from farvox.farfield.takes import refuse_incomplete, takes_by_condition, takes_by_file, takes_by_name

HIMIA = r"SV[0-9]+_[256]_(?P<channel>[0-9]+)_.*"


@pytest.fixture
def data_dir(tmp_path):
    def write(*utt_ids, conditions=None):
        files = {} if conditions is None else {"utt2cond": conditions}
        rows = [Utterance(utt_id, f"/a/{utt_id}.wav", utt_id[0]) for utt_id in utt_ids]
        return write_data_dir(tmp_path / "data", rows, files=files)

    return write


def shown(takes):
    return dict(takes.table.group_by("take", maintain_order=True).agg("utt_id").iter_rows())


def test_ids_that_differ_in_the_channel_only_are_one_take(data_dir):
    source = data_dir("SV0001_2_10_N0001", "SV0001_2_09_N0001", "SV0001_5_09_N0001", "SV0001_7_01_N0001")
    takes = takes_by_name(source, HIMIA)
    assert shown(takes) == {
        "SV0001_2_09_N0001": ["SV0001_2_09_N0001", "SV0001_2_10_N0001"],
        "SV0001_5_09_N0001": ["SV0001_5_09_N0001"],
    }
    assert takes.single["utt_id"].to_list() == ["SV0001_7_01_N0001"]
    assert takes.new_ids(source.utt_ids).to_list() == [
        "SV0001_2_09_N0001", "SV0001_2_09_N0001", "SV0001_5_09_N0001", "SV0001_7_01_N0001",
    ]  # fmt: skip
    assert (
        takes.description
        == "2 takes of 1 to 2 utterances each; 1 utterances are of none and stay as they are"
    )


def test_channels_are_in_the_order_of_their_numbers(data_dir):
    takes = takes_by_name(data_dir("id1_10", "id1_9", "id1_0"), r".*_(?P<channel>\d+)")
    assert shown(takes) == {"id1_0": ["id1_0", "id1_9", "id1_10"]}


def test_a_pattern_that_says_nothing_is_refused(data_dir):
    source = data_dir("id1_0")
    with pytest.raises(UsageError, match="not a regular expression"):
        takes_by_name(source, "(")
    with pytest.raises(UsageError, match=r"needs one named group, \(\?P<channel>"):
        takes_by_name(source, "id1_(.*)")
    with pytest.raises(DataDirError, match="fits no utterance; the first is 'id1_0'"):
        takes_by_name(source, r"(?P<channel>\d)")


def test_a_take_that_lacks_a_channel_is_named(data_dir):
    names = [f"SV0001_2_{channel:02}_N000{take}" for take in (1, 2, 3) for channel in range(3)]
    source = data_dir(*(name for name in names if name != "SV0001_2_01_N0002"))
    takes = takes_by_name(source, HIMIA)
    with pytest.raises(
        DataDirError,
        match=r"take 'SV0001_2_00_N0002' has no channel 01; .*\(1 of 3 differ\).*--allow-missing",
    ):
        refuse_incomplete(takes, source)
    whole = data_dir(*names)
    refuse_incomplete(takes_by_name(whole, HIMIA), whole)


def test_a_channel_that_is_there_twice_is_refused(data_dir):
    with pytest.raises(DataDirError, match="are both channel '1' of one take"):
        conditions = "utt_id\tchannel\tutterance\ns-01-a\t1\ta\ns-1-a\t1\ta\n"
        takes_by_condition(data_dir("s-1-a", "s-01-a", conditions=conditions), ["utterance"])


def test_conditions_tell_takes_apart(data_dir):
    conditions = (
        "utt_id\tdevice\tchannel\tutterance\n"
        "T0344a\tPCM\t4\t0307\nT0344b\tPCM\t0\t0307\nT0344c\tPCM\t0\t0308\nT0344d\tMIC\t\t0307\n"
    )
    source = data_dir("T0344a", "T0344b", "T0344c", "T0344d", conditions=conditions)
    takes = takes_by_condition(source, ["device", "utterance"])
    assert shown(takes) == {"T0344b": ["T0344b", "T0344a"], "T0344c": ["T0344c"]}
    assert takes.single["utt_id"].to_list() == ["T0344d"]
    with pytest.raises(
        DataDirError, match="utt2cond:1: no column 'room'; there are: device, channel, utterance"
    ):
        takes_by_condition(source, ["room"])


@pytest.mark.parametrize("name", ["channel", "microphone"])
def test_the_column_of_channels_tells_no_takes_apart(data_dir, name):
    source = data_dir("a_0", "a_1", conditions=f"utt_id\t{name}\na_0\t0\na_1\t1\n")
    with pytest.raises(DataDirError, match=f"--by {name}: .* leave it out"):
        takes_by_condition(source, [name])


def test_conditions_that_are_not_there_are_said_to_be_missing(data_dir):
    with pytest.raises(DataDirError, match="utt2cond: no such file"):
        takes_by_condition(data_dir("a_0"), ["utterance"])
    with pytest.raises(DataDirError, match="no column of channels"):
        takes_by_condition(data_dir("a_0", conditions="utt_id\tdevice\na_0\tMIC\n"), ["device"])


def test_files_of_several_channels_are_takes(tmp_path):
    def source(**channels):
        for name, count in channels.items():
            soundfile.write(tmp_path / f"{name}.wav", np.zeros((100, count)), 16000)
        return write_data_dir(tmp_path / "data", [Utterance(n, str(tmp_path / f"{n}.wav")) for n in channels])

    takes = takes_by_file(data_dir := source(a=4, b=1), print)
    assert shown(takes) == {"a": ["a"]} and takes.single["utt_id"].to_list() == ["b"]
    refuse_incomplete(takes, data_dir)
    with pytest.raises(DataDirError, match="no file has several channels"):
        takes_by_file(source(a=1, b=1), print)
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"a\.wav"):
        takes_by_file(data_dir, print)


def test_channels_of_two_speakers_are_no_take(data_dir):
    source = data_dir("x_0", "x_1")
    torn = type(source)(source.path, source.table.with_columns(speaker_id=pl.Series(["ann", "bob"])))
    with pytest.raises(DataDirError, match="take 'x_0' are of several speakers"):
        takes_by_name(torn, r"x_(?P<channel>\d)")
