"""Dereverberation by weighted prediction error (WPE): what late echoes make predictable is taken away.

Shape suffixes: C channel, F frame, K frequency bin, T sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.acoustics.stft import Floats, istft, stft
from farvox.errors import AudioError, MissingExtraError

SIZE, HOP = 512, 128  # samples of a frame, and from frame to frame; 32 and 8 ms at 16 kHz
MOST_PREDICTORS = 48  # channels x taps; time grows with the square of it


def wpe_taps(num_channels: int) -> int:
    """Frames that a prediction looks back over: 10 for up to four channels, fewer for more, at least 3."""
    return max(3, min(10, MOST_PREDICTORS // num_channels))


def dereverberate(
    wav_CT: NDArray[np.floating], *, taps: int | None = None, delay: int = 3, iterations: int = 3
) -> Floats:
    """Late reverberation removed from every channel; the channels stay coherent.

    In every frequency bin each channel is predicted from all channels' frames at least ``delay`` frames ago,
    with the weights that make what is left most likely for a signal of changing power (Nakatani et al. 2010;
    Yoshioka & Nakatani 2012 for several channels), and the prediction is subtracted. The arithmetic is
    nara_wpe's (Drude et al. 2018).

    Args:
        wav_CT: the channels; one is enough, more are better.
        taps: frames a prediction looks back over; by default `wpe_taps`.
        delay: frames of 8 ms that are left alone, because speech itself is predictable that far.
        iterations: of estimating the power and the prediction in turn.

    Returns:
        wav_CT, of the same length.

    Raises:
        AudioError: every channel is silent.
        MissingExtraError: nara_wpe is not installed.
    """
    try:
        from nara_wpe.wpe import wpe_v8
    except ImportError:
        raise MissingExtraError("WPE needs nara_wpe: pip install 'farvox[wpe]'") from None
    live_C = np.any(wav_CT, axis=1)
    if not live_C.any():
        raise AudioError("every channel is silent; there is nothing to dereverberate")
    spectra_CFK = stft(wav_CT[live_C], SIZE, HOP)
    left_KCF = wpe_v8(
        spectra_CFK.transpose(2, 0, 1).copy(),
        taps=wpe_taps(int(live_C.sum())) if taps is None else taps,
        delay=delay,
        iterations=iterations,
    )
    result_CT = np.zeros(wav_CT.shape)
    result_CT[live_C] = istft(left_KCF.transpose(1, 2, 0), wav_CT.shape[1], SIZE, HOP)
    return result_CT
