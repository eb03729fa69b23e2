"""Dereverberation by weighted prediction error (WPE): the part that late echoes make predictable is removed.

Shape suffixes: C channel, F frame, K frequency bin, P predictor, T sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.errors import AudioError, MissingExtraError
from farvox.farfield.beamform import Floats, istft, stft

SIZE, HOP = 512, 128  # samples of a frame, and from frame to frame; 32 and 8 ms at 16 kHz
CONTEXT = 2  # frames on either side that the power of a frame is a mean with
TAPS = 10  # frames that a prediction looks back over
PREDICTING = 4  # channels that it is made from, at most


def dereverberate(
    wav_CT: NDArray[np.floating],
    *,
    taps: int = TAPS,
    delay: int = 3,
    iterations: int = 3,
    loading: float = 0.01,
) -> Floats:
    """Remove late reverberation from every channel; the channels stay coherent.

    In every frequency bin each channel is predicted from the channels' frames at least ``delay`` frames ago,
    with the weights that make the rest most likely for a signal of changing power (Nakatani et al. 2010;
    Yoshioka & Nakatani 2012 for several channels), and the prediction is subtracted. Frames and powers are
    nara_wpe's (Drude et al. 2018), the power a mean over five frames. Low frequencies are almost equal in
    microphones a few centimetres apart, so that a few seconds do not fix the weights: without ``loading``
    they are large, cancel one another and add reverberation. For the same reason the channels of a large
    array are predicted from four of them.

    Args:
        wav_CT: the channels; one is enough, more are better.
        taps: frames a prediction looks back over.
        delay: frames of 8 ms that are left alone, because speech itself is predictable that far.
        iterations: of estimating the power and the prediction in turn.
        loading: added to the diagonal of the predictors' covariance, as a share of its mean: more is safer,
            less removes more.

    Returns:
        wav_CT, of the same length.

    Raises:
        AudioError: every channel is silent.
        MissingExtraError: nara_wpe is not installed.
    """
    try:
        from nara_wpe.wpe import build_y_tilde, get_power_inverse
    except ImportError:
        raise MissingExtraError("WPE needs nara_wpe: pip install 'farvox[wpe]'") from None
    live_C = np.any(wav_CT, axis=1)
    if not live_C.any():
        raise AudioError("every channel is silent; there is nothing to dereverberate")
    spectra_CFK = stft(wav_CT[live_C], SIZE, HOP)
    observed_KCF = np.ascontiguousarray(spectra_CFK.transpose(2, 0, 1))
    step = -(-observed_KCF.shape[1] // PREDICTING)
    earlier_KPF = build_y_tilde(np.ascontiguousarray(observed_KCF[:, ::step]), taps, delay)
    earlier_KFP = earlier_KPF.conj().transpose(0, 2, 1)
    left_KCF = observed_KCF
    for _ in range(iterations):
        weighed_KPF = earlier_KPF * get_power_inverse(left_KCF, psd_context=CONTEXT)[:, None]
        covariance_KPP = weighed_KPF @ earlier_KFP
        diagonal_KP = np.einsum("kpp->kp", covariance_KPP)
        diagonal_KP += loading * diagonal_KP.mean(axis=1, keepdims=True) + np.finfo(np.float64).tiny
        weights_KPC = np.linalg.solve(covariance_KPP, weighed_KPF @ observed_KCF.conj().transpose(0, 2, 1))
        left_KCF = observed_KCF - weights_KPC.conj().transpose(0, 2, 1) @ earlier_KPF
    result_CT = np.zeros(wav_CT.shape)
    result_CT[live_C] = istft(left_KCF.transpose(1, 2, 0), wav_CT.shape[1], SIZE, HOP)
    return result_CT
