import sys

import numpy as np
import pytest
from scipy.signal import fftconvolve

from farvox.errors import AudioError, MissingExtraError
from farvox.farfield.dereverb import dereverberate
from farvox.farfield.rooms import Room, circular_array, simulate_rirs
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise

pytest.importorskip("nara_wpe", reason="needs the extra wpe")


def early_to_late(wav, early):
    """dB of what is like the first 50 ms of the room over the rest."""
    like = early * np.dot(wav, early) / np.dot(early, early)
    return 10 * np.log10(np.sum(like**2) / np.sum((wav - like) ** 2))


@pytest.mark.parametrize(("num_channels", "gain"), [(2, 0.5), (4, 1.0), (16, 0.5)])
def test_late_echoes_become_weaker(num_channels, gain):
    pytest.importorskip("pyroomacoustics", reason="needs the extra sim")
    rng = np.random.default_rng(0)
    speech = synthesise(draw_voice(rng), draw_sentence(rng, 3.5), rng).astype(np.float64)
    microphones = circular_array((4.0, 2.5, 1.0), num=num_channels)
    rirs = simulate_rirs(Room((6.5, 4.5, 2.8), 0.6), (1.2, 1.5, 1.6), microphones)
    begin = int(np.argmax(np.abs(rirs[0]) >= 0.25 * np.abs(rirs[0]).max()))
    heard = np.stack([fftconvolve(speech, rir) for rir in rirs])
    early = fftconvolve(speech, np.where(np.arange(rirs.shape[1]) < begin + 800, rirs[0], 0))
    left = dereverberate(heard)
    assert left.shape == heard.shape
    assert early_to_late(left[0], early) > early_to_late(heard[0], early) + gain


def test_a_dead_channel_stays_dead_and_changes_nothing_for_the_others():
    wav = np.random.default_rng(0).standard_normal((3, 4000))
    wav[1] = 0
    left = dereverberate(wav)
    assert not left[1].any()
    np.testing.assert_array_equal(left[[0, 2]], dereverberate(wav[[0, 2]]))


def test_silence_is_refused():
    with pytest.raises(AudioError, match="silent"):
        dereverberate(np.zeros((2, 1000)))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nara_wpe.wpe", None)
    with pytest.raises(MissingExtraError, match=r"farvox\[wpe\]"):
        dereverberate(np.ones((2, 1000)))
