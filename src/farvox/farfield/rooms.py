"""Shoebox rooms: arrays, talkers and noise fields in them, impulse responses (RIRs), and measures of these.

Shape suffixes: C channel (microphone), F frame, G point of a coarse grid of frequencies, K frequency bin,
T sample, 3 the axes x, y, z in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.children import signals_held_back
from farvox.errors import AudioError, MissingExtraError, UnreachableError
from farvox.farfield import ARRAYS, RoomOptions
from farvox.progress import Note

SPEED_OF_SOUND = 343.0  # m/s
GRID = 513
"""Frequencies at which the matrix of coherences is rooted; between them the roots are almost linear."""
MOST_LOOKED_AT = 100
"""Responses of a set that are looked at, so that a large one is not read as a whole."""

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
    """Draw a room (T60 in seconds, metres) that is long enough for a talker 5 m away from an array."""
    size = (rng.uniform(6.5, longest), rng.uniform(3.5, 6.5), rng.uniform(2.5, 3.5))
    return Room(size, rng.uniform(*t60))


def circular_array(
    centre: ArrayLike = (0.0, 0.0, 0.0), *, num: int = 16, radius: float = 0.05, turn: float = 0.0
) -> Floats:
    """Positions of microphones at equal angles on a horizontal circle, as in HI-MIA and FFSVC (16 on 5 cm).

    They are positions_C3 in metres, counter-clockwise from microphone 0, at ``turn`` radians from the x axis.
    """
    angle_C = turn + 2 * np.pi * np.arange(num) / num
    offsets_C3 = radius * np.stack([np.cos(angle_C), np.sin(angle_C), np.zeros(num)], axis=1)
    return np.asarray(np.asarray(centre) + offsets_C3, dtype=np.float64)


def linear_array(
    centre: ArrayLike = (0.0, 0.0, 0.0), *, num: int = 4, spacing: float = 0.05, turn: float = 0.0
) -> Floats:
    """The positions_C3 in metres of microphones on a horizontal line, ``turn`` radians from the x axis."""
    along_C = spacing * (np.arange(num) - (num - 1) / 2)
    direction_3 = np.array([np.cos(turn), np.sin(turn), 0.0])
    return np.asarray(np.asarray(centre) + along_C[:, None] * direction_3, dtype=np.float64)


def diffuse_coherence(distance: Floats, frequency: Floats) -> Floats:
    """Coherence of two microphones in a field that comes equally from all directions: sinc(2 f d / c).

    Metres and Hz are broadcast against each other.
    """
    return np.asarray(np.sinc(2 * frequency * distance / SPEED_OF_SOUND), dtype=np.float64)


def diffuse_noise(
    rng: np.random.Generator, microphones_C3: Floats, num_samples: int, sample_rate: int
) -> Floats:
    """White Gaussian noise_CT of power 1 in every microphone, coherent as in a diffuse field.

    Independent noises are mixed in the frequency domain by the symmetric root of the matrix of coherences
    (Habets & Gannot 2007, who root it by Cholesky), which turns no phases and prefers no microphone. One
    microphone gets the noise as it is drawn.
    """
    noise_CT = rng.standard_normal((len(microphones_C3), num_samples))
    if len(microphones_C3) == 1:
        return noise_CT
    distance_CC = np.linalg.norm(microphones_C3[:, None] - microphones_C3[None], axis=2)
    frequency_G11 = np.linspace(0, sample_rate / 2, GRID)[:, None, None]
    power_GC, vectors_GCC = np.linalg.eigh(diffuse_coherence(distance_CC, frequency_G11))
    scaled_GCC = vectors_GCC * np.sqrt(np.maximum(power_GC, 0))[:, None]  # rounding leaves some below 0
    roots_GCC = scaled_GCC @ vectors_GCC.transpose(0, 2, 1)
    spectra_CK = np.fft.rfft(noise_CT)
    place_K = np.linspace(0, GRID - 1, spectra_CK.shape[1])
    below_K = np.minimum(place_K.astype(int), GRID - 2)
    part_K11 = (place_K - below_K)[:, None, None]
    roots_KCC = roots_GCC[below_K] * (1 - part_K11) + roots_GCC[below_K + 1] * part_K11
    roots_KCC /= np.linalg.norm(roots_KCC, axis=2, keepdims=True)  # between two grid points they are smaller
    mixed_CK = np.matmul(roots_KCC, spectra_CK.T[:, :, None])[:, :, 0].T
    return np.asarray(np.fft.irfft(mixed_CK, num_samples), dtype=np.float64)


def simulate_rirs(
    room: Room,
    source: ArrayLike,
    microphones: ArrayLike,
    *,
    sample_rate: int = 16000,
    max_order: int = 20,
    tail_seed: int = 0,
    facing: float | None = None,
) -> Samples:
    """Impulse responses from one source to each microphone of a shoebox room.

    Images are summed up to ``max_order`` reflections (Allen & Berkley 1979, by pyroomacoustics; wall
    absorption by Sabine's formula). After the last complete order a Gaussian tail follows that decays at the
    room's T60: there the echoes are so dense that they are like noise, and the sum over all images would take
    seconds instead of milliseconds. The tails of the microphones of one call are coherent as a diffuse field
    is: almost equal at low frequencies and short distances.

    Args:
        source: xyz, metres.
        microphones: [C, 3], metres.
        max_order: reflections to follow.
        tail_seed: fixes the noise of the tail. Microphones of one array belong in one call.
        facing: direction that the source faces, radians from the x axis: it radiates as a cardioid, nothing
            to the back; None: alike in all directions.

    Returns:
        rirs_CT, scaled so that the direct path has amplitude 1 at a distance of 1 m.

    Raises:
        AudioError: a position lies outside the room, or no wall can be absorbent enough for the T60.
        MissingExtraError: pyroomacoustics is not installed.
    """
    try:
        with signals_held_back():  # it tries other packages, and takes any exception for their absence
            import pyroomacoustics as pra
    except ImportError:
        raise MissingExtraError("rooms need pyroomacoustics: pip install 'farvox[sim]'") from None
    source_3 = np.asarray(source, np.float64)
    microphones_C3 = np.atleast_2d(np.asarray(microphones, np.float64))
    for place in (source_3, *microphones_C3):
        if np.any(place <= 0) or np.any(place >= room.size):
            raise AudioError(f"position {place.round(2).tolist()} is outside the room {room.size} m")
    try:
        absorption, needed_order = pra.inverse_sabine(room.t60, list(room.size))
    except ValueError as error:
        raise AudioError(f"a room of {room.size} m cannot have a T60 of {room.t60} s: {error}") from None
    walls, order = pra.Material(absorption), min(needed_order, max_order)
    shoebox = pra.ShoeBox(list(room.size), fs=sample_rate, materials=walls, max_order=order)
    cardioid = None
    if facing is not None:
        towards = pra.directivities.DirectionVector(azimuth=facing, colatitude=np.pi / 2, degrees=False)
        cardioid = pra.directivities.CardioidFamily(orientation=towards, p=0.5)
    shoebox.add_source(source_3, directivity=cardioid)
    shoebox.add_microphone_array(microphones_C3.T)
    shoebox.compute_rir()
    longest = max(len(row[0]) for row in shoebox.rir)
    early = pra.constants.get("frac_delay_length") // 2  # its fractional delays start this late
    images_CT = np.stack([np.pad(row[0], (0, longest - len(row[0]))) for row in shoebox.rir])[:, early:]

    nearest_missing = max_order / np.sqrt(np.sum(1 / np.square(room.size)))  # metres, images of higher order
    complete = int(nearest_missing / SPEED_OF_SOUND * sample_rate)
    num_samples = int(room.t60 * sample_rate)
    if images_CT.shape[1] <= complete or num_samples <= complete:
        return images_CT[:, : max(num_samples, complete)].astype(np.float32)
    # a tail of the same level as what it follows, -60 dB after the T60
    noise_CT = diffuse_noise(np.random.default_rng(tail_seed), microphones_C3, num_samples, sample_rate)
    window = complete // 4
    decay_T = 10 ** (-3 * (np.arange(num_samples) - complete) / (room.t60 * sample_rate))
    before_CT = images_CT[:, complete - window : complete] / decay_T[complete - window : complete]
    tail_CT = noise_CT * decay_T * np.sqrt(np.mean(before_CT**2, axis=1, keepdims=True))
    fade_T = np.clip((np.arange(num_samples) - (complete - window)) / window, 0, 1)
    body_CT = np.zeros_like(tail_CT)
    body_CT[:, : min(num_samples, images_CT.shape[1])] = images_CT[:, :num_samples]
    return np.asarray(body_CT * np.sqrt(1 - fade_T) + tail_CT * np.sqrt(fade_T), dtype=np.float32)


def measure_t60(rir_T: ArrayLike, sample_rate: int = 16000, *, decay_db: float = 30.0) -> float:
    """Reverberation time from the slope of the backward-integrated energy (Schroeder 1965).

    A recorded response ends here where it has come down to its noise (the mean of its last tenth, and 3 dB).
    The energy that would have followed must matter little where the fit ends; otherwise noise, or a recording
    cut short, would be taken for the room.

    The slope is fitted between 5 dB and 5 + ``decay_db`` dB below the start.

    Returns:
        Seconds for a decay of 60 dB.

    Raises:
        AudioError: the response is silent, or does not decay that far before it ends or noise covers it.
    """
    energy_T = np.asarray(rir_T, np.float64) ** 2
    if not energy_T.any():
        raise AudioError("a silent impulse response has no reverberation time")
    frame = min(max(1, int(0.02 * sample_rate)), len(energy_T))
    level_F = energy_T[: len(energy_T) // frame * frame].reshape(-1, frame).mean(axis=1)
    noise, peak = float(energy_T[-max(1, len(energy_T) // 10) :].mean()), int(np.argmax(level_F))
    covered = np.flatnonzero(level_F[peak + 1 :] <= 2 * noise)
    last = float(level_F[-1])  # energy of a sample where the response ends
    if len(covered):
        end = peak + 1 + int(covered[0])
        energy_T, last = energy_T[: end * frame], float(level_F[end - 1])
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


def measure_rir(rir_T: Samples) -> tuple[float | None, float | None]:
    """T60 in seconds and DRR in dB of an impulse response at 16 kHz; None where it does not show one.

    The T60 is that of a decay of 30 dB, or of 20 dB where noise in the recording hides the rest.
    """
    t60 = drr = None
    for decay_db in (20.0, 30.0):
        with suppress(AudioError):
            t60 = measure_t60(rir_T, decay_db=decay_db)
    with suppress(AudioError):
        drr = measure_drr(rir_T)
    return t60, drr


def is_room_response(rir_CT: ArrayLike, sample_rate: int = 16000) -> bool:
    """True where a sound sets in at once, decays without coming back, and has no tone.

    Looked at is the loudest channel in frames of 20 ms, after the loudest frame: the level comes down by
    10 dB and more, and in the upper 15 dB it rises by 4 dB at most above what it had come down to; 0.1 s
    before, it is 8 dB lower at least; and from 200 to 3500 Hz the geometric mean of the power of bands of
    100 Hz lies 4 dB at most below their mean. Rooms pass frequencies about alike; voices, animals and
    instruments do not.

    True of the ten measured GTU responses (down by 52 dB, rise 1.2 dB, bands 0.8 dB), of 96 simulated ones of
    a T60 of 0.2 to 2 s at 1 to 5 m (1.6 dB, 0.5 dB), of 252 exponential decays of a T60 of 0.2 to 12 s, a DRR
    of -20 to 10 dB and an onset up to 0.3 s late; false of 900 utterances of speechocean762 and AN4, of
    white noise and tones, of 116 of the 120 clips of noise_esc10 (3 sneezes and a crackling fire pass) and 39
    of 40 of music_sonicpi (a struck bell passes). Shorter than 0.1 s nothing can be told, and it is true.
    """
    rir_CT = np.atleast_2d(np.asarray(rir_CT, np.float64))
    rir_T = rir_CT[np.argmax(np.square(rir_CT).sum(axis=1))]
    frame, num_bins = max(1, sample_rate // 50), 1 << 14
    if len(rir_T) < 5 * frame or not rir_T.any():
        return True
    level_F = np.add.reduceat(np.square(rir_T), np.arange(0, len(rir_T), frame))
    level_F = 10 * np.log10(np.maximum(level_F / level_F.max(), 1e-12))
    peak = int(level_F.argmax())
    after_F, before_F = level_F[peak:], level_F[: max(0, peak - 5)]
    last = 10 * np.log10(np.mean(10 ** (after_F[-max(1, len(after_F) // 5) :] / 10)))
    upper_F = np.maximum(after_F, -15)
    rise = float((upper_F - np.minimum.accumulate(upper_F)).max())
    if last > -10 or rise > 4 or before_F.max(initial=-120) > -8:
        return False
    begin = int(np.argmax(np.abs(rir_T) >= 0.25 * np.abs(rir_T).max()))
    power = np.abs(np.fft.rfft(rir_T[max(0, begin - 32) : begin + num_bins], num_bins)) ** 2
    edges = (np.arange(200, min(3500, sample_rate // 2) + 1, 100) * num_bins / sample_rate).astype(int)
    band_power = np.add.reduceat(power, edges)[:-1] / np.diff(edges) + 1e-30
    return bool(10 * (np.log10(band_power).mean() - np.log10(band_power.mean())) >= -4)


def refuse_other_sounds(
    paths: Sequence[str], read: Callable[[int], Samples], sample_rate: int, *, instead: str, note: Note
) -> None:
    """Look at some responses: note those that are not of a room, and refuse all where most are not.

    Args:
        paths: their files; at most `MOST_LOOKED_AT` of them are read, from the first to the last.
        read: gives the response of a number; one that cannot be read is passed over.
        sample_rate: of the responses, Hz.
        instead: the option that other sounds belong to.
        note: takes the line that names the others.

    Raises:
        AudioError: more than half are no responses; names the first three.
        UnreachableError: a store of remote audio does not answer.
    """
    numbers = np.linspace(0, len(paths) - 1, min(len(paths), MOST_LOOKED_AT)).astype(int).tolist()
    others, num_read = [], 0
    for number in numbers:
        try:
            is_response = is_room_response(read(number), sample_rate)
        except UnreachableError:
            raise
        except AudioError:
            continue
        num_read += 1
        others += [] if is_response else [paths[number]]
    if not others:
        return
    named = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
    text = f"{len(others)} of {num_read} files are no room impulse responses ({named})"
    if 2 * len(others) > num_read:
        raise AudioError(
            f"{text}: they do not decay after a first sound; give noise, music and speech as {instead}"
        )
    note(f"{text}; they are used as if they were")


@dataclass(frozen=True, slots=True)
class Scene:
    """One array in a room of the T60 asked for; of each source its distance in metres, and its responses."""

    room: Room
    distances: tuple[float, ...]
    rirs_CT: tuple[Samples, ...]


def draw_scene(rng: np.random.Generator, options: RoomOptions, *, sources: int) -> Scene:
    """Draw a room, an array near one of its walls and ``sources`` before it, and simulate the responses.

    Raises:
        AudioError: no wall can be absorbent enough for the T60.
        MissingExtraError: pyroomacoustics is not installed.
        UsageError: the array has no such channel.
    """
    options.refuse_absent_channels()
    array = options.array
    room = draw_room(rng, t60=options.t60)
    centre_3 = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    if array == "adhoc4":  # on tables anywhere in the room, half a metre and more from its walls
        least_3, most_3 = np.array([0.5, 0.5, 0.7]), np.array([room.size[0] - 0.5, room.size[1] - 0.5, 1.5])
        others_C3 = rng.uniform(least_3, most_3, (ARRAYS[array] - 1, 3))
        array_C3 = np.concatenate([centre_3[None], others_C3])
    else:
        turn = rng.uniform(0, 2 * np.pi)
        if array == "single":
            array_C3 = centre_3[None]
        elif array == "linear4":
            array_C3 = linear_array(centre_3, num=ARRAYS[array], turn=turn)
        else:
            array_C3 = circular_array(centre_3, num=ARRAYS[array], turn=turn)
    array_C3 = array_C3[list(options.microphones)]
    places = []
    for _ in range(sources):  # at any bearing that stays in the room; straight ahead always does
        distance = rng.uniform(*options.distance)
        lowest, highest = centre_3[2] - 0.9 * distance, centre_3[2] + 0.9 * distance
        height = float(np.clip(rng.uniform(1.1, 1.8), lowest, highest))
        across = np.sqrt(distance**2 - (height - centre_3[2]) ** 2)
        for bearing in (*rng.uniform(-np.pi / 2, np.pi / 2, 50), 0.0):
            way_3 = np.array([across * np.cos(bearing), across * np.sin(bearing), height - centre_3[2]])
            place_3 = centre_3 + way_3
            if np.all(place_3 > 0.15) and np.all(place_3 < np.array(room.size) - 0.15):
                break
        places.append(place_3)
    rirs = [
        simulate_rirs(
            room,
            place_3,
            array_C3,
            tail_seed=int(rng.integers(2**32)),
            facing=rng.uniform(0, 2 * np.pi) if options.talker == "turned" else None,
        )
        for place_3 in places
    ]
    return Scene(room, tuple(float(np.linalg.norm(place_3 - centre_3)) for place_3 in places), tuple(rirs))
