"""The recordings of ``farvox sample``: the same from a seed, and told apart by the pretrained model."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from farvox.cli.main import main
from farvox.synthetic.sample import SPEAKERS, TAKES, make_sample


def test_a_sample_is_nine_recordings_of_three_speakers_and_the_same_from_a_seed(tmp_path, capsys):
    assert main(["sample", str(tmp_path / "one")]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [f"{tmp_path}/one/{speaker}/{take}.wav" for speaker in SPEAKERS for take in TAKES]
    again, other = make_sample(tmp_path / "again"), make_sample(tmp_path / "other", seed=1)
    for path, same, different in zip(listed, again, other, strict=True):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 5 < info.duration < 12
        assert same.read_bytes() == Path(path).read_bytes() != different.read_bytes()
        wav_T, _ = soundfile.read(path)
        assert 0.01 < np.sqrt(np.mean(wav_T**2)) < 0.1 and np.abs(wav_T).max() < 0.99


def test_an_earlier_sample_is_replaced_and_nothing_else_is(tmp_path, capsys):
    make_sample(tmp_path / "sample")
    assert main(["sample", str(tmp_path / "sample"), "--seed", "1"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert main(["sample", str(tmp_path / "mine")]) == 1
    assert main(["sample", str(tmp_path / "new"), "--seed", "-1"]) == 2
    assert (tmp_path / "mine/thesis.txt").exists() and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_speakers_of_a_sample_are_told_apart_near_and_far(tmp_path, sample_margins, seed):
    assert min(sample_margins(tmp_path / "sample", seed)) >= 0.1
