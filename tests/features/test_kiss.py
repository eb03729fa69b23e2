import platform
import sys

import numpy as np
import pytest
import torch

from farvox.features.kiss import KissPower

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def frames(size, count=20):
    return np.random.default_rng(size).normal(size=(count, size)).astype(np.float32)


def kiss_power(frames_SN):
    return KissPower(frames_SN.shape[1])(torch.from_numpy(frames_SN).T).T.numpy()


@pytest.mark.parametrize("size", SIZES)
def test_power_is_the_squared_magnitude_of_the_fourier_transform(size):
    power_SK = np.abs(np.fft.rfft(frames(size).astype(np.float64)))[:, :-1] ** 2
    np.testing.assert_allclose(kiss_power(frames(size)), power_SK, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux",
    reason="kaldi-native-fbank's wheels for other machines round in another order",
)
@pytest.mark.parametrize("size", SIZES)
def test_power_is_kaldi_native_fbanks_to_the_last_bit(size):
    knf = pytest.importorskip("kaldi_native_fbank")
    theirs = [knf.Rfft(size).compute(frame.tolist()) for frame in frames(size)]
    packed_SN = np.array(
        theirs, dtype=np.float32
    )  # bin 0, bin size / 2, real and imaginary part of bin 1, ...
    real_SK, imag_SK = packed_SN[:, 0::2], packed_SN[:, 1::2].copy()
    imag_SK[:, 0] = 0
    np.testing.assert_array_equal(kiss_power(frames(size)), real_SK * real_SK + imag_SK * imag_SK)


@pytest.mark.parametrize("size", SIZES)
def test_numpy_and_torch_agree_to_the_last_bit(size):
    frames_NS = frames(size, count=150).T
    np.testing.assert_array_equal(KissPower(size).of_array(frames_NS), kiss_power(frames_NS.T).T)


def test_a_frame_does_not_depend_on_its_neighbours():
    frames_SN = frames(512, count=37)
    together, alone = kiss_power(frames_SN), [kiss_power(frame_1N) for frame_1N in frames_SN[:, None]]
    np.testing.assert_array_equal(together, np.concatenate(alone))
