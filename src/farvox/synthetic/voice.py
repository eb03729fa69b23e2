"""Synthetic voices by a source-filter model (Fant 1960; Klatt 1980), and the small language that they speak.

A glottal pulse train (Rosenberg 1971) with jitter, shimmer and breath noise passes through a cascade
of formant resonances that glide from phone to phone; fricatives and bursts are shaped noise. Formants of the
phones are those of a neutral vocal tract of 17 cm, in the region of the published averages for vowels
(Peterson & Barney 1952) and of loci for consonants (Klatt 1980).

Shape suffixes: T sample, F frame of 5 ms, R resonance (formant), K frequency bin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SAMPLE_RATE = 16000
HOP, WINDOW, NUM_FFT = 80, 320, 960
NEUTRAL_HIGH_FORMANTS = (3500.0, 4400.0, 5500.0)  # F4-F6 of a 17 cm tract
NEUTRAL_BANDWIDTHS = (65.0, 85.0, 130.0, 190.0, 260.0, 350.0)

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Phone:
    """The targets of the vocal tract during one phone.

    Attributes:
        formants: F1-F3 in Hz.
        seconds: duration at normal speed.
        voicing: amplitude of the glottal source, 0-1.
        aspiration: amplitude of noise at the glottis.
        frication: amplitude of noise at a constriction.
        noise_hz: middle of the frication noise.
        noise_octaves: its width (standard deviation).
        damping: factor on the bandwidths (nasals are damped).
    """

    formants: tuple[float, float, float]
    seconds: float
    voicing: float = 1.0
    aspiration: float = 0.0
    frication: float = 0.0
    noise_hz: float = 4000.0
    noise_octaves: float = 0.5
    damping: float = 1.0


def _fricative(formants: tuple[float, float, float], noise_hz: float, loud: float, wide: float) -> Phone:
    return Phone(formants, 0.095, 0.0, 0.02, loud, noise_hz, wide)


PHONES: dict[str, Phone] = {
    "a": Phone((730, 1200, 2450), 0.115),
    "ae": Phone((660, 1700, 2420), 0.110),
    "e": Phone((500, 1850, 2500), 0.100),
    "i": Phone((290, 2250, 2950), 0.095),
    "y": Phone((300, 1800, 2200), 0.095),
    "o": Phone((500, 900, 2450), 0.110),
    "u": Phone((320, 850, 2300), 0.095),
    "uh": Phone((530, 1350, 2450), 0.075),
    "w": Phone((300, 650, 2200), 0.060, 0.7),
    "j": Phone((270, 2200, 2900), 0.055, 0.7),
    "l": Phone((360, 1200, 2700), 0.060, 0.65),
    "r": Phone((400, 1150, 1550), 0.060, 0.65),
    "m": Phone((250, 1000, 2250), 0.070, 0.45, damping=2.2),
    "n": Phone((250, 1500, 2500), 0.065, 0.45, damping=2.2),
    "ng": Phone((250, 2000, 2650), 0.070, 0.4, damping=2.2),
    "s": _fricative((320, 1500, 2600), 5800, 0.22, 0.32),
    "sh": _fricative((320, 1800, 2500), 3300, 0.24, 0.38),
    "f": _fricative((340, 1000, 2300), 5000, 0.06, 1.1),
    "x": _fricative((400, 1600, 2300), 1800, 0.10, 0.7),
    "h": Phone((500, 1400, 2450), 0.065, 0.0, 0.16),
    "z": Phone((300, 1500, 2600), 0.075, 0.4, 0.0, 0.12, 5500, 0.35),
    "v": Phone((320, 1000, 2300), 0.065, 0.45, 0.0, 0.03, 4500, 1.0),
    "p.": Phone((320, 800, 2200), 0.070, 0.0),
    "t.": Phone((320, 1700, 2600), 0.065, 0.0),
    "k.": Phone((320, 2000, 2300), 0.070, 0.0),
    "b.": Phone((250, 800, 2200), 0.050, 0.12, damping=2.0),
    "d.": Phone((250, 1700, 2600), 0.050, 0.12, damping=2.0),
    "g.": Phone((250, 2000, 2300), 0.050, 0.12, damping=2.0),
    "p": Phone((400, 1000, 2300), 0.030, 0.0, 0.10, 0.08, 900, 1.0),
    "t": Phone((400, 1700, 2600), 0.032, 0.0, 0.07, 0.20, 4200, 0.6),
    "k": Phone((400, 1900, 2300), 0.036, 0.0, 0.10, 0.16, 2000, 0.45),
    "b": Phone((350, 900, 2250), 0.015, 0.4, 0.03, 0.05, 900, 1.0),
    "d": Phone((350, 1700, 2600), 0.015, 0.4, 0.03, 0.10, 4000, 0.6),
    "g": Phone((350, 1950, 2300), 0.018, 0.4, 0.03, 0.08, 2000, 0.45),
    " ": Phone((500, 1400, 2450), 0.060, 0.0),
}
VOWELS = ("a", "ae", "e", "i", "y", "o", "u", "uh")
STOPS = ("p", "t", "k", "b", "d", "g")
CONSONANTS = ("w", "j", "l", "r", "m", "n", "ng", "s", "sh", "f", "x", "h", "z", "v", *STOPS)


@cache
def make_lexicon(num_words: int = 120) -> tuple[tuple[str, ...], ...]:
    """The words of the language as phones, a stop as its closure and burst; always the same ones."""
    rng = np.random.Generator(np.random.Philox(key=1791))
    words = []
    for _ in range(num_words):
        phones: list[str] = []
        for _ in range(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])):
            phones += _spell(str(rng.choice(CONSONANTS)))
            phones += rng.choice(VOWELS, size=rng.choice([1, 2], p=[0.8, 0.2]), replace=False).tolist()
        if rng.random() < 0.4:
            phones += _spell(str(rng.choice(CONSONANTS[4:])))
        words.append(tuple(phones))
    return tuple(words)


def _spell(consonant: str) -> list[str]:
    return [f"{consonant}.", consonant] if consonant in STOPS else [consonant]


def draw_sentence(rng: np.random.Generator, seconds: float) -> list[str]:
    """Phones of words that last ``seconds`` at normal speed; silence at both ends, pauses between some."""
    lexicon, phones, lasting = make_lexicon(), [" ", " "], 0.0
    while lasting < seconds:
        word = [*lexicon[rng.integers(len(lexicon))], *([" "] if rng.random() < 0.25 else [])]
        phones += word
        lasting += sum(PHONES[phone].seconds for phone in word)
    return [*phones, " ", " "]


@dataclass(frozen=True)
class Voice:
    """The characteristics of a speaker, or of a speaker on one occasion.

    Attributes:
        pitch: median of the fundamental frequency, Hz.
        liveliness: standard deviation of the pitch movement, semitones.
        formant_factors: [R] on the neutral formants: tract length and shape.
        vowel_offsets: [vowel, 3] logarithmic offsets of F1-F3: how this speaker says each vowel.
        bandwidth_factors: [R] on the neutral bandwidths.
        open_quotient: part of the cycle in which the glottis is open.
        closing_quotient: part of the cycle in which it closes; short is bright.
        tilt: extra slope of the source, dB per octave above 1 kHz (0 or less).
        breath: amplitude of breath noise in voiced sounds.
        jitter: relative deviation of the cycle length.
        shimmer: relative deviation of the cycle amplitude.
        noise_factor: on the frequencies of fricatives and bursts.
        noise_gain: on their amplitude.
        notch_hz: an antiresonance of the side cavities.
        notch_depth: how deep it is, 0-1.
        rate: speaking rate, 1 is normal.
    """

    pitch: float
    liveliness: float
    formant_factors: Floats
    vowel_offsets: Floats
    bandwidth_factors: Floats
    open_quotient: float
    closing_quotient: float
    tilt: float
    breath: float
    jitter: float
    shimmer: float
    noise_factor: float
    noise_gain: float
    notch_hz: float
    notch_depth: float
    rate: float


def draw_voice(rng: np.random.Generator) -> Voice:
    """A new speaker: tract length and pitch are correlated, all else is independent."""
    length = rng.normal(0.0, 0.075)  # log of 17 cm over the tract length
    return Voice(
        pitch=float(np.clip(150 * np.exp(2.2 * length + rng.normal(0, 0.16)), 75, 300)),
        liveliness=rng.uniform(1.0, 3.0),
        formant_factors=np.exp(0.04 + length + rng.normal(0, 0.035, 6)),
        vowel_offsets=rng.normal(0, 0.05, (len(VOWELS), 3)),
        bandwidth_factors=np.exp(rng.normal(0, 0.2, 6)),
        open_quotient=rng.uniform(0.45, 0.8),
        closing_quotient=rng.uniform(0.08, 0.22),
        tilt=-abs(rng.normal(0, 3.0)),
        breath=float(np.exp(rng.normal(np.log(0.02), 0.6))),
        jitter=rng.uniform(0.003, 0.02),
        shimmer=rng.uniform(0.02, 0.12),
        noise_factor=float(np.exp(0.7 * length + rng.normal(0, 0.09))),
        noise_gain=float(np.exp(rng.normal(0, 0.3))),
        notch_hz=rng.uniform(3800, 6500),
        notch_depth=rng.uniform(0.2, 0.9),
        rate=float(np.exp(rng.normal(0, 0.1))),
    )


def draw_occasion(voice: Voice, rng: np.random.Generator, *, speed: float = 1.0) -> Voice:
    """The same speaker in one take, whose speed is relative: mood, effort and posture move what they can."""
    effort = rng.normal(0, 1)
    return replace(
        voice,
        pitch=voice.pitch * float(np.exp(0.07 * effort + rng.normal(0, 0.07))),
        liveliness=voice.liveliness * float(np.exp(rng.normal(0, 0.25))),
        formant_factors=voice.formant_factors * np.exp(rng.normal(0, 0.008) + rng.normal(0, 0.012, 6)),
        vowel_offsets=voice.vowel_offsets + rng.normal(0, 0.02, voice.vowel_offsets.shape),
        bandwidth_factors=voice.bandwidth_factors * np.exp(rng.normal(0, 0.1, 6)),
        open_quotient=float(np.clip(voice.open_quotient - 0.03 * effort + rng.normal(0, 0.03), 0.35, 0.9)),
        closing_quotient=float(np.clip(voice.closing_quotient * np.exp(rng.normal(0, 0.12)), 0.05, 0.3)),
        tilt=voice.tilt + 1.0 * effort + rng.normal(0, 0.7),
        breath=voice.breath * float(np.exp(-0.15 * effort + rng.normal(0, 0.25))),
        noise_factor=voice.noise_factor * float(np.exp(rng.normal(0, 0.03))),
        noise_gain=voice.noise_gain * float(np.exp(rng.normal(0, 0.2))),
        rate=voice.rate * speed * float(np.exp(rng.normal(0, 0.06))),
    )


def synthesise(voice: Voice, phones: list[str], rng: np.random.Generator) -> Samples:
    """Say ``phones``, names in `PHONES`, with ``voice``: wav_T at 16 kHz, peak 0.5.

    Durations, pitch movement and noise are drawn.
    """
    track = _Track.plan(voice, phones, rng)
    num_samples = len(track.formants_FR) * HOP
    voiced_T = _glottal_source(voice, track, rng, num_samples)
    noise_T = rng.standard_normal(num_samples).astype(np.float32) * _per_sample(track.frication_F)
    octave_K = np.log2(np.maximum(np.fft.rfftfreq(NUM_FFT, 1 / SAMPLE_RATE), 50)).astype(np.float32)
    centre_F1 = np.log2(_on_frames(track.noise_hz_F)).astype(np.float32)[:, None]
    width_F1 = _on_frames(track.noise_octaves_F).astype(np.float32)[:, None]
    constriction_FK = np.exp(-0.5 * ((octave_K - centre_F1) / width_F1) ** 2)
    spectrum_FK = _spectra(voiced_T) * _tract_response(voice, track)
    spectrum_FK += _spectra(noise_T) * constriction_FK
    frames = fft.irfft(spectrum_FK, NUM_FFT)
    num_hops = NUM_FFT // HOP
    wav_T = np.zeros((len(frames) + num_hops) * HOP, dtype=np.float32)
    for hop in range(num_hops):
        wav_T[hop * HOP : (hop + len(frames)) * HOP] += frames[:, hop * HOP : (hop + 1) * HOP].ravel()
    wav_T = wav_T[WINDOW - HOP : WINDOW - HOP + (len(frames) - 3) * HOP]
    return np.asarray(0.5 * wav_T / np.abs(wav_T).max(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Track:
    """The parameters of the voice in each frame."""

    formants_FR: Floats
    bandwidths_FR: Floats
    pitch_F: Floats
    voicing_F: Floats
    aspiration_F: Floats
    frication_F: Floats
    noise_hz_F: Floats
    noise_octaves_F: Floats

    @classmethod
    def plan(cls, voice: Voice, phones: list[str], rng: np.random.Generator) -> _Track:
        """Targets of the phones, held for their durations and smoothed into movements."""
        asked = [PHONES[phone] for phone in phones]
        formants = np.array([[*phone.formants, *NEUTRAL_HIGH_FORMANTS] for phone in asked])
        spoken = [VOWELS.index(phone) if phone in VOWELS else -1 for phone in phones]
        formants[:, :3] *= np.exp([voice.vowel_offsets[i] if i >= 0 else np.zeros(3) for i in spoken])
        formants *= voice.formant_factors * np.exp(rng.normal(0, 0.025, formants.shape))
        bandwidths = np.outer([phone.damping for phone in asked], NEUTRAL_BANDWIDTHS)
        bandwidths *= voice.bandwidth_factors
        seconds = np.array([phone.seconds for phone in asked]) * np.exp(rng.normal(0, 0.18, len(asked)))
        num_frames = np.maximum(1, np.rint(seconds / voice.rate * SAMPLE_RATE / HOP)).astype(int)
        held = np.repeat(np.arange(len(asked)), num_frames)

        # pitch falls along the sentence and moves with the accents, about every 0.3 s
        seconds_F = np.arange(len(held)) * HOP / SAMPLE_RATE
        knots = np.arange(0, seconds_F[-1] + 0.6, 0.3 / voice.rate)
        accents_F = np.interp(seconds_F, knots, rng.normal(0, voice.liveliness, len(knots)))
        fall_F = rng.uniform(-3, 0.5) * (seconds_F / seconds_F[-1] - 0.5)
        pitch_F = voice.pitch * 2 ** (_smooth((accents_F + fall_F)[:, None], 21)[:, 0] / 12)

        def along(values: list[float], frames: int) -> Floats:
            return _smooth(np.array(values, np.float64)[held][:, None], frames)[:, 0]

        return cls(
            formants_FR=_smooth(formants[held], 11),
            bandwidths_FR=_smooth(bandwidths[held], 7),
            pitch_F=pitch_F,
            voicing_F=along([phone.voicing * np.exp(rng.normal(0, 0.1)) for phone in asked], 5),
            aspiration_F=along([phone.aspiration for phone in asked], 3),
            frication_F=along([phone.frication * voice.noise_gain for phone in asked], 3),
            noise_hz_F=along([min(7500.0, phone.noise_hz * voice.noise_factor) for phone in asked], 3),
            noise_octaves_F=along([phone.noise_octaves for phone in asked], 3),
        )


def _smooth(values_FR: Floats, frames: int) -> Floats:
    """Moving average with a Hann window over an odd number of frames."""
    window = np.hanning(frames + 2)[1:-1]
    padded = np.pad(values_FR, ((frames // 2, frames // 2), (0, 0)), mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(padded, frames, axis=0)
    return np.asarray(views @ (window / window.sum()))


def _per_sample(values_F: Floats) -> Samples:
    at_T = np.arange(len(values_F) * HOP) / HOP
    return np.interp(at_T, np.arange(len(values_F)), values_F).astype(np.float32)


def _glottal_source(voice: Voice, track: _Track, rng: np.random.Generator, num_samples: int) -> Samples:
    """Derivative of Rosenberg's flow pulses, with breath noise that follows the flow."""
    pitch_T = _per_sample(track.pitch_F)
    cycle_T = np.floor(np.cumsum(pitch_T, dtype=np.float64) / SAMPLE_RATE).astype(int)
    jitter = rng.normal(0, voice.jitter, cycle_T[-1] + 1)
    phase_T = np.cumsum(pitch_T * (1 + jitter[cycle_T]), dtype=np.float64) / SAMPLE_RATE
    cycle_T = np.floor(phase_T).astype(int)
    loudness = 1 + rng.normal(0, voice.shimmer, cycle_T[-1] + 1)
    phase_T -= cycle_T
    closing = voice.closing_quotient
    opening = max(voice.open_quotient - closing, 0.15)
    rise_T = 0.5 - 0.5 * np.cos(np.pi * phase_T / opening)
    drop_T = np.cos(0.5 * np.pi * (phase_T - opening) / closing)
    flow_T = np.where(phase_T < opening, rise_T, np.where(phase_T < opening + closing, drop_T, 0.0))
    pulses_T = np.diff(flow_T * loudness[cycle_T], prepend=0.0) * SAMPLE_RATE / 2000
    breath_T = rng.standard_normal(num_samples)
    voicing_T = _per_sample(track.voicing_F)
    noise_T = breath_T * (voicing_T * voice.breath * (0.3 + flow_T) + _per_sample(track.aspiration_F))
    return np.asarray(pulses_T * voicing_T + noise_T, dtype=np.float32)


def _spectra(wav_T: Samples) -> NDArray[np.complex64]:
    """Spectra_FK of Hann windows at every hop, with room for the ringing of the tract."""
    padded = np.pad(wav_T, (WINDOW - HOP, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(wav_T) // HOP + 3]
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32) * np.float32(2 * HOP / WINDOW)
    return np.asarray(fft.rfft(frames * window, NUM_FFT), dtype=np.complex64)


def _on_frames(values_FR: Floats) -> Floats:
    """Values at the three window positions that hang over the ends, too."""
    return np.concatenate([values_FR[:1], values_FR[:1], values_FR, values_FR[-1:]])


def _tract_response(voice: Voice, track: _Track) -> NDArray[np.complex64]:
    """Cascade of resonances (gain 1 at 0 Hz), the side-cavity notch and the tilt of the source."""
    radius_FR = np.exp(-np.pi * _on_frames(track.bandwidths_FR) / SAMPLE_RATE)
    angle_FR = 2 * np.pi * np.minimum(_on_frames(track.formants_FR), 7600) / SAMPLE_RATE
    denominator = np.ones((len(radius_FR), 1))  # of the all-pole filter of each frame
    for radius_F1, angle_F1 in zip(radius_FR.T[..., None], angle_FR.T[..., None], strict=True):
        once = np.pad(denominator, ((0, 0), (0, 2)))
        denominator = once - 2 * radius_F1 * np.cos(angle_F1) * np.roll(once, 1, axis=1)
        denominator += radius_F1**2 * np.roll(once, 2, axis=1)
    response_FK = denominator.sum(axis=1, keepdims=True) / fft.rfft(denominator, NUM_FFT)
    hz_K = np.fft.rfftfreq(NUM_FFT, 1 / SAMPLE_RATE)
    notch_K = 1 - voice.notch_depth * np.exp(-0.5 * ((hz_K - voice.notch_hz) / 350) ** 2)
    tilt_K = 10 ** (voice.tilt * np.log2(np.maximum(hz_K, 1000) / 1000) / 20)
    return np.asarray(response_FK * (notch_K * tilt_K), dtype=np.complex64)
