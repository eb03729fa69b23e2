"""Rooms, microphone arrays, noise fields, mixing, beamforming and dereverberation; numpy only.

The options of `simulate`, `rirs`, `noises` and of enhancement stand here, so that a command line can be read
without numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from farvox.errors import UsageError
from farvox.options import Above, AtLeast, AtMost, Options

ArrayName = Literal["single", "circular16", "circular4", "linear4", "adhoc4"]
ARRAYS: dict[ArrayName, int] = {"single": 1, "circular16": 16, "circular4": 4, "linear4": 4, "adhoc4": 4}
"""Array -> microphones. The circles have a radius of 5 cm, the line a spacing of 5 cm; those of ``adhoc4``
stand about the room, and its middle is its first one."""

T60 = Annotated[float, AtLeast(0.15), AtMost(20.0)]
"""Seconds; by Sabine's formula the largest room that is drawn has 0.146 s without any echo."""
Distance = Annotated[float, AtLeast(0.5), AtMost(5.0)]
"""Metres; the greatest fits into every room that is drawn."""
Decibels = Annotated[float, AtLeast(-100.0), AtMost(100.0)]
"""A ratio of powers; 16 bits have 96."""


ROOM_OPTIONS = ("t60", "distance", "array", "talker")
"""Options that say nothing of rooms that are there."""


@dataclass(frozen=True, kw_only=True)
class RoomOptions(Options):
    """Options of the rooms that are drawn.

    Raises:
        UsageError: a range does not go from the least to the greatest value, or a channel is named twice.
    """

    t60: tuple[T60, T60] = (0.3, 0.8)
    """Shortest and longest reverberation time of the rooms drawn, seconds (0.15 to 20)."""
    distance: tuple[Distance, Distance] = (1.0, 5.0)
    """Least and greatest distance in the rooms drawn, metres (0.5 to 5)."""
    array: ArrayName = "single"
    """Microphones in the rooms drawn."""
    channels: tuple[Annotated[int, AtLeast(0)], ...] = ()
    """Microphones to keep, from 0; by default all."""
    talker: Literal["alike", "turned"] = "alike"
    """Talkers in the rooms drawn radiate "alike" in all directions, or as a cardioid "turned" to any one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_range("t60", self.t60)
        self._refuse_range("distance", self.distance)
        if len(set(self.channels)) < len(self.channels):
            raise UsageError(f"channels {self.channels}: one is named twice")

    def _refuse_range(self, name: str, values: tuple[float, float]) -> None:
        """Refuse a range that is not from the least to the greatest."""
        if values[0] > values[1]:
            raise UsageError(f"{name} goes from the least to the greatest, not {values[0]} to {values[1]}")

    @property
    def microphones(self) -> tuple[int, ...]:
        """The numbers of the microphones of `array` that are kept."""
        return self.channels or tuple(range(ARRAYS[self.array]))

    def refuse_unused(self, given: str, *names: str) -> None:
        """Refuse options of simulated rooms where responses are ``given``."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                name = field.name.replace("_", "-")
                raise UsageError(
                    f"--{name} is of rooms that are simulated, and --{given} has others; leave it out"
                )

    def refuse_absent_channels(self) -> None:
        """Refuse a channel that `array` does not have."""
        count = ARRAYS[self.array]
        for channel in self.channels:
            if channel >= count:
                raise UsageError(f"{self.array} has no channel {channel}; it has {count}, counted from 0")


@dataclass(frozen=True, kw_only=True)
class RirsOptions(RoomOptions):
    """Options of a data dir of impulse responses.

    Raises:
        UsageError: as `RoomOptions`, the array has no such channel, ``sizes`` without ``measured``, or
            options of simulated rooms with it.
    """

    measured: tuple[Path, ...] = ()
    """Take the responses of these data dirs or folders, and simulate none."""
    sizes: Annotated[int, AtLeast(0), AtMost(10_000)] = 0
    """Write this many copies of each measured response, as of rooms 0.8 to 1.25 times as large; 0: take it as
    it is, where it lies."""
    skip_bad: bool = False
    """Leave out measured responses that cannot be used, and list them in OUT/rejected.tsv."""
    rooms: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 200
    """How many rooms to simulate."""
    per_room: Annotated[int, AtLeast(1), AtMost(10_000)] = 5
    """Places of a talker a room."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Everything drawn at random follows from it."""
    remote: bool = False
    """Reach audio on other machines (URLs in a wav.scp), which is refused otherwise."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default as many as the machine has processors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measured:
            self.refuse_unused("measured", *ROOM_OPTIONS, "channels", "rooms", "per_room")
            return
        self.refuse_absent_channels()
        if self.sizes:
            raise UsageError("sizes is of measured responses: name their folder with --measured")


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(RoomOptions):
    """Options of far-field copies.

    Raises:
        UsageError: as `RoomOptions`, without ``rirs`` the array has no such channel, or options of simulated
            rooms with them, or ``snr`` without ``noise``.
    """

    rirs: tuple[Path, ...] = ()
    """Data dirs of "farvox rirs", or folders of measured responses; without, each copy has its own room."""
    noise: tuple[Path, ...] = ()
    """Data dirs or folders of noise; without, none is added."""
    snr: tuple[Decibels, Decibels] = (5.0, 20.0)
    """Lowest and highest speech-to-noise power ratio over all channels, dB (-100 to 100)."""
    copies: Annotated[int, AtLeast(1), AtMost(10_000)] = 1
    """Copies of each utterance."""
    format: Literal["flac", "wav"] = "flac"
    """Format of the audio."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Everything drawn at random follows from it."""
    skip_bad: bool = False
    """Leave out recordings that cannot be used, and list them in OUT/rejected.tsv."""
    remote: bool = False
    """Reach audio on other machines (URLs in a wav.scp), which is refused otherwise."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default as many as the machine has processors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_range("snr", self.snr)
        if not self.noise and self.snr != type(self).snr:
            raise UsageError("--snr is of noise, and none is given: name its folder with --noise")
        if self.rirs:
            self.refuse_unused("rirs", *ROOM_OPTIONS)
        else:
            self.refuse_absent_channels()


@dataclass(frozen=True, kw_only=True)
class NoisesOptions(Options):
    """Options of a data dir of noise."""

    least: Annotated[float, Above(0)] = 0.5
    """Seconds of background that a recording must have to be used."""
    format: Literal["flac", "wav"] = "flac"
    """Format of the audio."""
    skip_bad: bool = False
    """Leave out recordings that cannot be used, and list them in OUT/rejected.tsv."""
    remote: bool = False
    """Reach audio on other machines (URLs in a wav.scp), which is refused otherwise."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default as many as the machine has processors."""


@dataclass(frozen=True, kw_only=True)
class Enhancement(Options):
    """Options of the enhancement of a take: WPE first, if asked for, then the beamformer.

    Raises:
        UsageError: nothing would be done.
    """

    beamform: Literal["none", "delay-and-sum", "mvdr"] = "none"
    """Beamformer; none leaves the channels apart."""
    wpe: bool = False
    """Remove late reverberation, before any beamforming (needs the extra wpe)."""
    tolerance: Annotated[float, AtLeast(0)] = 0.1
    """Seconds by which the channels of a take may differ in length; all are cut to the shortest."""
    max_delay: Annotated[float, AtLeast(0)] = 3.0
    """Greatest delay between two channels, milliseconds; 3 is one metre."""
    taps: Annotated[int, AtLeast(1)] = 10
    """Frames of 8 ms that WPE looks back over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beamform == "none" and not self.wpe:
            raise UsageError("nothing to do: choose a --beamform, or --wpe, or both")
