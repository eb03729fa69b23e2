import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.errors import ModelError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig

CONFIGS = [
    FrontEndConfig(),
    FrontEndConfig(num_mels=40, sample_scale=1.0, window="hamming", mean="none", high_freq=-400.0),
    FrontEndConfig(sample_rate=8000, num_mels=23),
    FrontEndConfig(kind="ffsvc-mel"),
    FrontEndConfig(kind="ffsvc-mel", num_mels=64, mean="none"),
    FrontEndConfig(kind="speechbrain-fbank"),
    FrontEndConfig(kind="speechbrain-fbank", num_mels=60, mean="none"),
    FrontEndConfig(kind="waveform", num_mels=160),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_survives_json(config):
    assert FrontEndConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("kind", ["ffsvc-mel", "speechbrain-fbank", "waveform"])
def test_a_config_says_only_what_its_kind_uses(kind):
    assert FrontEndConfig(kind=kind).to_dict() == {
        "kind": kind,
        "sample_rate": 16000,
        "num_mels": 80,
        "mean": "utterance",
    }
    assert FrontEndConfig().to_dict()["window"] == "povey"


def test_whole_numbers_stand_for_reals():
    assert FrontEndConfig.from_dict({"sample_scale": 1, "low_freq": 0}) == FrontEndConfig(
        sample_scale=1.0, low_freq=0.0
    )


@pytest.mark.parametrize("config", CONFIGS)
@settings(max_examples=20, deadline=None)
@given(num_frames=st.integers(3, 60))
def test_frames_and_samples_agree_with_the_features(config, num_frames):
    num_samples, frontend = config.num_samples_for(num_frames), build_frontend(config)
    for extra in (0, 79):
        assert frontend(torch.zeros(1, num_samples + extra)).shape == (1, num_frames, config.num_mels)
    assert frontend(torch.zeros(1, num_samples - 1)).shape[1] == num_frames - 1


def test_the_chunk_of_200_frames_is_the_published_one():
    assert FrontEndConfig().num_samples_for(200) == 199 * 160 + 400
    assert FrontEndConfig(kind="ffsvc-mel").num_samples_for(200) == 200 * 160 - 160


def test_one_sample_is_one_frame_of_speechbrain():
    config = FrontEndConfig(kind="speechbrain-fbank")
    assert config.num_samples_for(1) == config.min_samples == 1
    frontend = build_frontend(config)
    assert [frontend(torch.zeros(1, n)).shape[1] for n in (1, 159, 160, 319, 320)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "kaldi-fbanks"}, "did you mean 'kaldi-fbank'"),
        ({"window": "hanning"}, "did you mean 'hann'"),
        ({"mean": "sliding"}, "one of utterance, none"),
        ({"num_mel": 80}, "front-end: unknown key 'num_mel'; did you mean 'num_mels'"),
        ({"num_mels": 0}, "num_mels"),
        ({"num_mels": "80"}, "num_mels must be of type int"),
        ({"num_mels": True}, "num_mels must be of type int"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_scale": 0.0}, "sample_scale"),
        ({"sample_scale": float("nan")}, "sample_scale"),
        ({"dither": -1.0}, "dither"),
        ({"preemphasis": 1.5}, "preemphasis"),
        ({"low_freq": 8000.0}, "low_freq < high_freq"),
        ({"high_freq": 9000.0}, "low_freq < high_freq"),
        ({"high_freq": float("inf")}, "high_freq = inf"),
        ({"high_freq": float("nan")}, "high_freq = nan"),
        ({"sample_scale": float("inf")}, "sample_scale"),
        ({"dither": float("nan")}, "dither"),
        ({"kind": "ffsvc-mel", "sample_rate": 8000}, "16000"),
        ({"kind": "ffsvc-mel", "dither": 1.0}, "ffsvc-mel has no dither"),
        ({"kind": "ffsvc-mel", "window": "hann"}, "ffsvc-mel has no window"),
        ({"kind": "speechbrain-fbank", "sample_rate": 8000}, "16000"),
        ({"kind": "speechbrain-fbank", "preemphasis": 0.0}, "speechbrain-fbank has no preemphasis"),
        ({"kind": "waveform", "window": "hann"}, "waveform has no window"),
        ({"kind": "waveforms"}, "did you mean 'waveform'"),
        ({"kind": "speechbrain"}, "did you mean 'speechbrain-fbank'"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_advice(values, message):
    with pytest.raises(ModelError, match=message):
        FrontEndConfig.from_dict(values)


def test_more_filters_than_frequencies_are_refused():
    with pytest.raises(ModelError, match="400 mel filters are too many"):
        build_frontend(FrontEndConfig(num_mels=400))
