import numpy as np
import pytest

from farvox.farfield.stft import istft, stft


@pytest.mark.parametrize(("size", "hop"), [(1024, 256), (512, 128), (64, 32)])
@pytest.mark.parametrize("num_samples", [1, 511, 5001])
def test_the_inverse_gives_the_signal_back(size, hop, num_samples):
    wav = np.random.default_rng(0).standard_normal((2, num_samples))
    spectra = stft(wav, size, hop)
    assert spectra.shape[0] == 2 and spectra.shape[2] == size // 2 + 1
    np.testing.assert_allclose(istft(spectra, num_samples, size, hop), wav, atol=1e-12)
