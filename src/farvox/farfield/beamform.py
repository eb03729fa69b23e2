"""Beamforming: the channels of an array become one signal, directed at the talker.

The geometry of the array is not needed. The direction of the talker follows from time delays between channels
(Knapp & Carter 1976), as in BeamformIt (Anguera et al. 2007), or, for MVDR, from covariances of speech and of
noise (Souden et al. 2010). A take is short and its talker stands still: one direction a take.

The short-time Fourier transform here has an exact inverse, and serves dereverberation as well.

Shape suffixes: C channel, F frame, K frequency bin, L lag, T sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from farvox.errors import AudioError

Floats = NDArray[np.float64]
Spectra = NDArray[np.complex128]

SIZE, HOP = 1024, 256  # samples of a frame, and from frame to frame; 64 and 16 ms at 16 kHz
FINER = 8  # lags looked at per sample, before the parabola
CLEAR = 1.5  # times as high as beyond the longest delay: a correlation of channels of one take
INVERTED, LEAST = 2.0, 0.15  # times as high as the highest one, and at least: a correlation that is negative
NOISE_MARGIN = 4.0  # a bin that rises less above its quiet frames says nothing of the talker


@dataclass(frozen=True, slots=True, eq=False)
class Delays:
    """Times at which the sound of the talker reaches each channel.

    Attributes:
        delay_C: samples after the reference channel; 0 for the reference itself.
        coherence_C: mean height of a channel's correlation with the others, 1 for copies of one signal.
        used_C: True for channels that agree enough with the others to be used.
        reference: the channel that agrees best with the others.
    """

    delay_C: Floats
    coherence_C: Floats
    used_C: NDArray[np.bool_]
    reference: int


def estimate_delays(wav_CT: NDArray[np.floating], *, max_delay: float = 48, agreement: float = 0.5) -> Delays:
    """Time delays between the channels by GCC-PHAT, in what rises above the noise.

    Every frame's cross-spectrum is reduced to its phase (Knapp & Carter 1976, the PHAT weighting), and the
    frames are summed. PHAT makes a steady noise as important as speech and would find the noise, so what is
    less than four times as strong as the quiet frames of its frequency counts next to nothing. The peak
    is found on lags eight times finer than samples and refined by a parabola. All pairs of channels are
    measured: the reference is the channel that correlates best with the others (Anguera et al. 2007), a
    delay is the median over the ways to it through any one channel, and a channel whose correlation with
    the others is below ``agreement`` times the median is left out (dead, or of another clock). Two channels
    do not agree at all where they correlate higher at a delay beyond ``max_delay``, as any two sounds do.

    Args:
        wav_CT: the channels, at least two.
        max_delay: greatest delay between two channels, samples; 48 is 1 m at 16 kHz.
        agreement: see above.

    Raises:
        AudioError: one channel only, fewer than two that are not silent, or channels that do not agree with
            one another or are of opposite polarity.
    """
    if len(wav_CT) < 2:
        raise AudioError("one channel has no time delays; a beamformer needs at least two")
    if np.count_nonzero(np.any(wav_CT, axis=1)) < 2:
        raise AudioError("fewer than two channels hold any sound; there is nothing to beamform")
    # phases of the cross-spectra, a weighted sum over frames; without phases it would be 1
    spectra_CFK = stft(wav_CT, SIZE, HOP)
    magnitude_CFK = np.abs(spectra_CFK)
    power_FK = _smooth(np.square(magnitude_CFK).mean(axis=0))
    phase_CFK = spectra_CFK / np.maximum(magnitude_CFK, np.finfo(np.float64).tiny)
    phase_KCF = np.ascontiguousarray(phase_CFK.transpose(2, 0, 1))
    floor_K = np.quantile(power_FK, 0.3, axis=0)
    loudest = max(float(power_FK.max()), np.finfo(np.float64).tiny)
    above_FK = 1 - NOISE_MARGIN * floor_K / np.maximum(power_FK, 1e-12 * loudest)
    above_FK = np.maximum(above_FK, 1e-3)  # a sound that never pauses has a direction, too
    weight_KF = (above_FK * (power_FK >= 1e-12 * loudest)).T
    weight_KF = weight_KF * (len(weight_KF) / weight_KF.sum())
    phases_KCC = (phase_KCF * weight_KF[:, None]) @ phase_KCF.conj().transpose(0, 2, 1)

    # lag (samples) and height of the highest correlation of every pair of channels
    correlation_LCC = np.fft.irfft(phases_KCC, SIZE * FINER, axis=0) * FINER
    reach = min(int(np.ceil(max_delay * FINER)), SIZE * FINER // 2 - 2)
    near_LCC = np.concatenate([correlation_LCC[-reach - 1 :], correlation_LCC[: reach + 2]])
    top_CC = np.argmax(near_LCC[1:-1], axis=0) + 1
    before_CC, highest_CC, after_CC = (
        np.take_along_axis(near_LCC, top_CC[None] + step, axis=0)[0] for step in (-1, 0, 1)
    )
    bend_CC = before_CC - 2 * highest_CC + after_CC
    offset_CC = np.where(bend_CC < 0, 0.5 * (before_CC - after_CC) / np.where(bend_CC < 0, bend_CC, 1.0), 0.0)
    lag_CC = (top_CC - (reach + 1) + np.clip(offset_CC, -0.5, 0.5)) / FINER
    beyond_LCC = correlation_LCC[reach + 2 : -reach - 1]  # where channels of one take have nothing
    depth_CC = -near_LCC.min(axis=0)
    peak_CC = np.where(highest_CC > CLEAR * beyond_LCC.max(axis=0), np.maximum(highest_CC, 0.0), 0.0)
    depth_CC = np.where(depth_CC > -CLEAR * beyond_LCC.min(axis=0), depth_CC, 0.0)

    num_others = len(wav_CT) - 1
    coherence_C = (peak_CC.sum(axis=1) - np.diag(peak_CC)) / num_others
    reference = int(np.argmax(coherence_C if coherence_C.any() else depth_CC.max(axis=0)))
    used_C = np.ones(len(wav_CT), bool)
    if coherence_C.any():
        used_C = coherence_C >= agreement * np.median(coherence_C[coherence_C > 0])
    height_C, depth_C = peak_CC[:, reference], depth_CC[:, reference]
    inverted_C = used_C & (depth_C > np.maximum(INVERTED * height_C, LEAST))
    if inverted_C.any():
        raise AudioError(
            f"its channels {reference} and {int(np.argmax(inverted_C))} (counted from 0) are of opposite "
            "polarity and would cancel: `sox IN OUT vol -1` turns one over"
        )
    if not coherence_C.any():
        raise AudioError(
            f"its channels do not agree with one another at any delay up to {max_delay:g} samples: they are "
            "not of one take, or further apart (a larger --max-delay with another OUT)"
        )
    # lag_CC[c, d] is how much later the talker reaches c than d: c -> through -> reference.
    ways_CC = lag_CC + lag_CC[:, reference]
    delay_C = np.median(ways_CC[:, used_C], axis=1)
    delay_C = np.where(used_C, delay_C, 0.0)
    return Delays(delay_C - delay_C[reference], coherence_C, used_C, reference)


def delay_and_sum(wav_CT: NDArray[np.floating], delays: Delays | None = None) -> Floats:
    """The mean of the channels after each has been moved to the time of the reference channel, wav_T.

    Whole samples are moved in time, the rest of a delay by the phase of the STFT. Noise that differs from
    channel to channel falls by 10 log10(C) dB. Without delays `estimate_delays` finds them, and raises its
    errors.
    """
    delays, spectra_CFK = _aligned(wav_CT, delays)
    sum_FK = _summed(spectra_CFK, delays)
    return np.asarray(istft(sum_FK[None], wav_CT.shape[1], SIZE, HOP)[0], dtype=np.float64)


def mvdr(wav_CT: NDArray[np.floating], delays: Delays | None = None, *, loading: float = 0.01) -> Floats:
    """Least noise with the talker unchanged: w = R^-1 d / (d^H R^-1 d) in every frequency bin.

    The output of `delay_and_sum` tells speech from noise by energy (`energy_masks`). R is the covariance of
    the noise, with ``loading`` times its mean channel power added to its diagonal; d, the steering vector, is
    the principal eigenvector of the covariance of speech after whitening by R, brought back and scaled to 1
    at the reference channel. For one talker this is the beamformer of Souden et al. 2010. In a bin where
    speech is less than four times as strong as noise its eigenvector would be the noise's; there d
    follows from the delays.

    Args:
        delays: found by `estimate_delays`, whose errors are raised, where they are not given.
        loading: more is safer, less suppresses more.

    Returns:
        wav_T, the talker as in the reference channel.
    """
    delays, spectra_CFK = _aligned(wav_CT, delays)
    speech_FK, noise_FK = energy_masks(np.abs(_summed(spectra_CFK, delays)) ** 2)
    used = np.flatnonzero(delays.used_C)
    observed_KCF = spectra_CFK[used].transpose(2, 0, 1)
    speech_KCC, noise_KCC = _covariance(observed_KCF, speech_FK), _covariance(observed_KCF, noise_FK)
    speech_power_K, noise_power_K = _mean_power(speech_KCC), _mean_power(noise_KCC)
    floor = 1e-10 * max(float(speech_power_K.max()), np.finfo(np.float64).tiny)
    diagonal_K = loading * noise_power_K + floor
    noise_KCC = noise_KCC + diagonal_K[:, None, None] * np.eye(noise_KCC.shape[1])

    # principal eigenvector of speech whitened by the noise, brought back; 1 at the reference
    root_KCC = np.linalg.cholesky(noise_KCC)
    half_KCC = np.linalg.solve(root_KCC, speech_KCC)
    white_KCC = np.linalg.solve(root_KCC, half_KCC.conj().transpose(0, 2, 1))
    principal_KC = np.linalg.eigh((white_KCC + white_KCC.conj().transpose(0, 2, 1)) / 2)[1][:, :, -1]
    steering_KC = np.matmul(root_KCC, principal_KC[:, :, None])[:, :, 0]
    at_reference_K = steering_KC[:, int(np.searchsorted(used, delays.reference))]
    least_K = 1e-6 * np.linalg.norm(steering_KC, axis=1)
    at_reference_K = np.where(np.abs(at_reference_K) > least_K, at_reference_K, least_K)
    steering_KC = steering_KC / at_reference_K[:, None]

    is_strong_K = speech_power_K > NOISE_MARGIN * noise_power_K
    steering_KC = np.where(is_strong_K[:, None], steering_KC, _turns(delays).conj()[used].T)
    solved_KC = np.linalg.solve(noise_KCC, steering_KC[:, :, None])[:, :, 0]
    response_K = np.sum(steering_KC.conj() * solved_KC, axis=1).real
    weights_KC = solved_KC / response_K[:, None]
    enhanced_FK = np.matmul(weights_KC.conj()[:, None], observed_KCF)[:, 0].T
    return np.asarray(istft(enhanced_FK[None], wav_CT.shape[1], SIZE, HOP)[0], dtype=np.float64)


def energy_masks(power_FK: Floats, *, quiet: float = 0.3, loud: float = 0.3) -> tuple[Floats, Floats]:
    """Masks of the frames of each frequency bin that are speech, its loudest, and noise, its quietest ones.

    They are the shares ``loud`` and ``quiet`` of the frames, by smoothed power. Frames of digital silence are
    neither.

    Returns:
        speech_FK, noise_FK: 1 or 0.
    """
    sounding_F = power_FK.sum(axis=1) > 1e-12 * power_FK.sum(axis=1).max()
    power_FK = _smooth(power_FK)
    low_K, high_K = np.quantile(power_FK[sounding_F], [quiet, 1 - loud], axis=0)
    speech_FK = (power_FK >= high_K) & sounding_F[:, None]
    noise_FK = (power_FK <= low_K) & sounding_F[:, None]
    return speech_FK.astype(np.float64), noise_FK.astype(np.float64)


def _smooth(power_FK: Floats) -> Floats:
    """Mean over 5 frames and 3 bins: a single one is loud or quiet by chance."""
    return np.asarray(uniform_filter(power_FK, (5, 3), mode="nearest"), dtype=np.float64)


def _aligned(wav_CT: NDArray[np.floating], delays: Delays | None) -> tuple[Delays, Spectra]:
    """The delays, found where none are given, and the spectra of the channels moved by whole samples."""
    delays = delays or estimate_delays(wav_CT)
    moved_CT = np.zeros(wav_CT.shape)
    for channel, delay in enumerate(np.rint(delays.delay_C).astype(int)):
        later, earlier = max(0, -delay), max(0, delay)
        kept = max(0, wav_CT.shape[1] - abs(int(delay)))
        moved_CT[channel, later : later + kept] = wav_CT[channel, earlier : earlier + kept]
    return delays, stft(moved_CT, SIZE, HOP)


def _summed(spectra_CFK: Spectra, delays: Delays) -> Spectra:
    """Mean of the used channels, after the part of their delays that is less than a sample."""
    turn_CK = _turns(delays)[delays.used_C]
    mean_FK: Spectra = np.einsum("cfk,ck->fk", spectra_CFK[delays.used_C], turn_CK) / len(turn_CK)
    return mean_FK


def _turns(delays: Delays) -> Spectra:
    """[C, K] phases that undo the part of each delay that is less than a sample."""
    rest_C = delays.delay_C - np.rint(delays.delay_C)
    cycles_K = np.arange(SIZE // 2 + 1) / SIZE  # a sample
    return np.asarray(np.exp(2j * np.pi * np.outer(rest_C, cycles_K)), dtype=np.complex128)


def _covariance(observed_KCF: Spectra, mask_FK: Floats) -> Spectra:
    weight_KF = (mask_FK / np.maximum(mask_FK.sum(axis=0), 1)).T
    covariance_KCC: Spectra = (observed_KCF * weight_KF[:, None]) @ observed_KCF.conj().transpose(0, 2, 1)
    return covariance_KCC


def _mean_power(covariance_KCC: Spectra) -> Floats:
    return np.asarray(np.trace(covariance_KCC, axis1=1, axis2=2).real / covariance_KCC.shape[1], np.float64)


def stft(wav_CT: NDArray[np.floating], size: int, hop: int) -> Spectra:
    """Spectra of overlapping frames under a square-root Hann window.

    The signal is padded by a frame at either end, so that every sample lies in as many frames as any other.

    Args:
        wav_CT: the signal.
        size: samples a frame.
        hop: samples from a frame to the next; a divisor of ``size``, at most half of it.

    Returns:
        spectra_CFK, K = size / 2 + 1.
    """
    num_samples = wav_CT.shape[-1]
    num_frames = -(-(num_samples + size) // hop)
    padded_CT = np.zeros((len(wav_CT), num_frames * hop + size))
    padded_CT[:, size : size + num_samples] = wav_CT
    frames_CFT = np.lib.stride_tricks.sliding_window_view(padded_CT, size, axis=1)[:, ::hop]
    return np.asarray(np.fft.rfft(frames_CFT * _window(size), axis=-1), dtype=np.complex128)


def istft(spectra_CFK: Spectra, num_samples: int, size: int, hop: int) -> Floats:
    """The signal wav_CT of `stft`, of its length, by overlap and add (Griffin & Lim 1984)."""
    frames_CFT = np.fft.irfft(spectra_CFK, size, axis=-1) * _window(size)
    num_channels, num_frames = frames_CFT.shape[:2]
    wav_CT = np.zeros((num_channels, (num_frames - 1) * hop + size))
    parts = size // hop
    for part in range(parts):  # frames that do not overlap are laid side by side
        laid_CT = frames_CFT[:, part::parts].reshape(num_channels, -1)
        wav_CT[:, part * hop : part * hop + laid_CT.shape[1]] += laid_CT
    return wav_CT[:, size : size + num_samples] * (2 * hop / size)


def _window(size: int) -> Floats:
    """Root of a periodic Hann window, whose square and its shifts sum to a constant."""
    return np.asarray(np.sin(np.pi * np.arange(size) / size), dtype=np.float64)
