"""Shoebox rooms: impulse responses by the image-source method, and what is measured on them.

Shape suffixes: C channel (microphone), T sample, 3 the axes x, y, z in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import AudioError, MissingExtraError
from farvox.farfield.diffuse import diffuse_noise

SPEED_OF_SOUND = 343.0  # m/s

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Room:
    """A rectangular room.

    Attributes:
        size: length, width, height in metres.
        t60: reverberation time in seconds.
    """

    size: tuple[float, float, float]
    t60: float

    @property
    def volume(self) -> float:
        """Cubic metres."""
        return self.size[0] * self.size[1] * self.size[2]


def draw_room(
    rng: np.random.Generator, *, t60: tuple[float, float] = (0.3, 0.8), longest: float = 9.0
) -> Room:
    """A room long enough for a talker 5 m away from an array.

    Args:
        rng: source of randomness.
        t60: range of the reverberation time, seconds.
        longest: greatest length, metres; at least 6.5.
    """
    size = (rng.uniform(6.5, longest), rng.uniform(3.5, 6.5), rng.uniform(2.5, 3.5))
    return Room(size, rng.uniform(*t60))


def simulate_rirs(
    room: Room,
    source: ArrayLike,
    microphones: ArrayLike,
    *,
    sample_rate: int = 16000,
    max_order: int = 20,
    tail_seed: int = 0,
) -> Samples:
    """Impulse responses from one source to each microphone of a shoebox room.

    Images are summed up to ``max_order`` reflections (Allen & Berkley 1979, by pyroomacoustics; wall
    absorption by Sabine's formula). Where the room rings on after the last complete order, a Gaussian
    tail that decays at the room's T60 takes over: there the echoes are too dense to be told from noise,
    and the sum over all images would take seconds instead of milliseconds. The tails of the microphones of
    one call are coherent as a field from all around is: all but alike at low frequencies and short distances.

    Args:
        room: the shoebox.
        source: xyz, metres.
        microphones: [C, 3], metres.
        sample_rate: Hz.
        max_order: reflections to follow.
        tail_seed: fixes the noise of the tail. Microphones of one array belong in one call.

    Returns:
        rirs_CT, scaled so that the direct path has amplitude 1 at a distance of 1 m.

    Raises:
        AudioError: a position lies outside the room, or no wall can be absorbent enough for the T60.
        MissingExtraError: pyroomacoustics is not installed.
    """
    source_3, microphones_C3 = (
        np.asarray(source, np.float64),
        np.atleast_2d(np.asarray(microphones, np.float64)),
    )
    for place in (source_3, *microphones_C3):
        if np.any(place <= 0) or np.any(place >= room.size):
            raise AudioError(f"position {place.round(2).tolist()} is outside the room {room.size} m")
    rirs_CT = _image_sources(room, source_3, microphones_C3, sample_rate, max_order)
    nearest_missing = max_order / np.sqrt(np.sum(1 / np.square(room.size)))  # metres, images of higher order
    complete = int(nearest_missing / SPEED_OF_SOUND * sample_rate)
    num_samples = int(room.t60 * sample_rate)
    if rirs_CT.shape[1] <= complete or num_samples <= complete:
        return rirs_CT[:, : max(num_samples, complete)].astype(np.float32)
    noise_CT = diffuse_noise(np.random.default_rng(tail_seed), microphones_C3, num_samples, sample_rate)
    return _with_tail(rirs_CT, noise_CT, complete, room.t60 * sample_rate)


def _image_sources(
    room: Room, source_3: Floats, microphones_C3: Floats, sample_rate: int, max_order: int
) -> Floats:
    try:
        import pyroomacoustics as pra
    except ImportError:
        raise MissingExtraError("rooms need pyroomacoustics: pip install 'farvox[sim]'") from None
    try:
        absorption, needed_order = pra.inverse_sabine(room.t60, list(room.size))
    except ValueError as error:
        raise AudioError(f"a room of {room.size} m cannot have a T60 of {room.t60} s: {error}") from None
    shoebox = pra.ShoeBox(
        list(room.size),
        fs=sample_rate,
        materials=pra.Material(absorption),
        max_order=min(needed_order, max_order),
    )
    shoebox.add_source(source_3)
    shoebox.add_microphone_array(microphones_C3.T)
    shoebox.compute_rir()
    num_samples = max(len(row[0]) for row in shoebox.rir)
    rirs_CT = np.stack([np.pad(row[0], (0, num_samples - len(row[0]))) for row in shoebox.rir])
    early = pra.constants.get("frac_delay_length") // 2  # its fractional delays start this late
    return np.asarray(rirs_CT[:, early:], dtype=np.float64)


def _with_tail(rirs_CT: Floats, noise_CT: Floats, complete: int, t60: float) -> Samples:
    """Replace what follows sample ``complete`` by noise of the same level, -60 dB after ``t60`` samples."""
    num_samples = noise_CT.shape[1]
    window = complete // 4
    decay_T = 10 ** (-3 * (np.arange(num_samples) - complete) / t60)
    before_CT = rirs_CT[:, complete - window : complete] / decay_T[complete - window : complete]
    level_C1 = np.sqrt(np.mean(before_CT**2, axis=1, keepdims=True))
    tail_CT = noise_CT * decay_T * level_C1
    fade_T = np.clip((np.arange(num_samples) - (complete - window)) / window, 0, 1)
    body_CT = np.zeros_like(tail_CT)
    body_CT[:, : min(num_samples, rirs_CT.shape[1])] = rirs_CT[:, :num_samples]
    return np.asarray(body_CT * np.sqrt(1 - fade_T) + tail_CT * np.sqrt(fade_T), dtype=np.float32)


def measure_t60(rir_T: ArrayLike, sample_rate: int = 16000, *, decay_db: float = 30.0) -> float:
    """Reverberation time from the slope of the backward-integrated energy (Schroeder 1965).

    A recorded response ends here where it has come down to its noise (the mean of its last tenth, and 3 dB).
    What would have followed that end must matter little where the fit ends; otherwise noise, or a recording
    cut short, would be taken for the room.

    Args:
        rir_T: one impulse response.
        sample_rate: Hz.
        decay_db: the slope is fitted between 5 dB and 5 + ``decay_db`` dB below the start.

    Returns:
        Seconds for a decay of 60 dB.

    Raises:
        AudioError: the response is silent, or does not decay that far before it ends or noise covers it.
    """
    energy_T = np.asarray(rir_T, np.float64) ** 2
    if not energy_T.any():
        raise AudioError("a silent impulse response has no reverberation time")
    energy_T, last = _before_noise(energy_T, max(1, int(0.02 * sample_rate)))
    left_T = np.cumsum(energy_T[::-1])[::-1]
    curve_T = 10 * np.log10(np.maximum(left_T / left_T[0], 1e-30))
    fitted = np.flatnonzero((curve_T <= -5) & (curve_T >= -5 - decay_db))
    too_short = AudioError(
        f"the impulse response does not decay by {5 + decay_db:g} dB before it ends or noise covers it"
    )
    if len(fitted) < 2 or curve_T[-1] > -5 - decay_db:
        raise too_short
    t60 = float(-60 / np.polyfit(fitted / sample_rate, curve_T[fitted], 1)[0])
    missing = last * t60 * sample_rate / np.log(1e6)  # of an exponential decay from here on
    if missing > left_T[fitted[-1]] / 3:
        raise too_short
    return t60


def _before_noise(energy_T: NDArray[np.float64], frame: int) -> tuple[NDArray[np.float64], float]:
    """A response's energy until noise covers it, and the mean energy of a sample at that end."""
    frame = min(frame, len(energy_T))
    level_F = energy_T[: len(energy_T) // frame * frame].reshape(-1, frame).mean(axis=1)
    noise = float(energy_T[-max(1, len(energy_T) // 10) :].mean())
    peak = int(np.argmax(level_F))
    covered = np.flatnonzero(level_F[peak + 1 :] <= 2 * noise)
    if not len(covered):
        return energy_T, float(level_F[-1])
    end = peak + 1 + int(covered[0])
    return energy_T[: end * frame], float(level_F[end - 1])


def measure_drr(rir_T: ArrayLike, sample_rate: int = 16000, *, direct_ms: float = 2.5) -> float:
    """Direct-to-reverberant ratio in dB.

    The direct path begins with the first sample within 12 dB of the peak and lasts ``direct_ms``. It is not
    the peak where echoes are louder, several images that add up or those of a talker who faces away: in nine
    of the ten measured GTU responses the first sound arrives 7 to 34 ms before the peak. A window that starts
    at the peak counts all before it, early echoes too, as direct: -6 to -14 dB there, -7 to -17 dB here.

    Raises:
        AudioError: nothing follows the direct path, so that no ratio exists.
    """
    rir_T = np.abs(np.asarray(rir_T, np.float64))
    begin = int(np.argmax(rir_T >= 0.25 * rir_T.max()))
    end = begin + int(direct_ms * 1e-3 * sample_rate) + 1
    direct, late = np.sum(rir_T[:end] ** 2), np.sum(rir_T[end:] ** 2)
    if direct == 0 or late == 0:
        raise AudioError("no direct-to-reverberant ratio: the response has only one of the two parts")
    return float(10 * np.log10(direct / late))
