import numpy as np
import pytest

from farvox.synthetic.studio import NOISES, draw_noise


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_its_length_and_level_and_is_set_by_its_stream(kind):
    once, again, other = (draw_noise(kind, 1.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert once.shape == (16000,)
    assert once.dtype == np.float32
    assert np.sqrt(np.mean(once**2)) == pytest.approx(0.1, rel=1e-3)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_hum_is_a_line_spectrum_of_the_mains():
    wav = draw_noise("hum", 4.0, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(wav)) ** 2
    hz = np.fft.rfftfreq(len(wav), 1 / 16000)
    on_lines = np.min(np.abs(hz[:, None] - np.outer([50, 60], np.arange(1, 13)).ravel()), axis=1) < 0.3
    assert power[on_lines].sum() > 0.7 * power.sum()
