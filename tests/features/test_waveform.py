import pytest
import torch

from farvox.errors import AudioError
from farvox.features.frontend import FrontEndConfig, build_frontend


def frontend(**values):
    return build_frontend(FrontEndConfig(kind="waveform", num_mels=160, **values))


def waves(num_samples=1000):
    return 0.3 + 0.1 * torch.randn(3, num_samples, generator=torch.Generator().manual_seed(1))


def test_the_frames_put_together_are_the_waveform():
    wav_BT = waves()
    feats_BFM = frontend(mean="none")(wav_BT)
    assert feats_BFM.shape == (3, 6, 160)
    assert torch.equal(feats_BFM.flatten(1), wav_BT[:, :960])


def test_the_waveform_is_brought_to_zero_mean_and_unit_variance():
    wav_BT = frontend()(waves()).flatten(1)
    torch.testing.assert_close(wav_BT.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(wav_BT.var(dim=1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_silence_stays_silent():
    assert torch.equal(frontend()(torch.zeros(1, 320)), torch.zeros(1, 2, 160))


def test_a_chunk_of_300_frames_is_three_seconds():
    config = FrontEndConfig(kind="waveform", num_mels=160)
    assert config.num_samples_for(300) == 48_000
    assert [config.num_frames_for(n) for n in (159, 160, 319, 320)] == [0, 1, 1, 2]


def test_less_than_a_frame_is_refused():
    with pytest.raises(AudioError, match="159 samples are too few for one frame of features: 160"):
        frontend()(torch.zeros(1, 159))


def test_features_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feats_BFM = frontend()(waves().double())
    assert feats_BFM.dtype == torch.float32
