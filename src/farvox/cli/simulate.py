"""``farvox simulate``, ``rirs`` and ``noises``: far-field copies of speech, and rooms and noise for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Array = Literal["single", "circular16", "circular4", "linear4", "adhoc4"]


def simulate(
    dir: Annotated[Positional[Path], arg(metavar="DIR")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    rirs: tuple[Path, ...] = (),
    noise: tuple[Path, ...] = (),
    snr: tuple[float, float] = (5.0, 20.0),
    t60: tuple[float, float] = (0.3, 0.8),
    distance: tuple[float, float] = (1.0, 5.0),
    array: Array = "single",
    channels: tuple[int, ...] = (),
    copies: int = 1,
    format: Literal["flac", "wav"] = "flac",
    seed: int = 0,
    jobs: int | None = None,
) -> None:
    """Make far-field copies of a data dir: utterances UTT_COPY_MICROPHONE, conditions in OUT/utt2cond.

    OUT/enrol_map names each utterance with its copies: an enrolment map for "farvox score". An interrupted
    run goes on where it stopped.

    Args:
        dir: the data dir of close-talk speech.
        out: the data dir to write.
        rirs: banks of "farvox rirs", or folders of measured responses; without, each copy has a room of its
            own.
        noise: data dirs or folders of noise; without, none is added.
        snr: lowest and highest speech-to-noise ratio, dB.
        t60: shortest and longest reverberation time of the rooms drawn, seconds.
        distance: least and greatest distance in the rooms drawn, metres.
        array: microphones in the rooms drawn.
        channels: microphones to keep, from 0; by default all.
        copies: of each utterance.
        format: of the audio.
        seed: what is drawn at random follows from it.
        jobs: processes; by default as many as the machine has processors.
    """
    from farvox.farfield.rirs import Rooms
    from farvox.farfield.simulate import simulate as make_copies

    made = make_copies(
        dir, out, note=_note, rirs=rirs, rooms=Rooms(t60, distance, array, channels or None), noise=noise,
        snr=snr, copies=copies, suffix=format, seed=seed, jobs=jobs,
    )  # fmt: skip
    print(f"{made.path}: {len(made):,} utterances")


def rirs(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    measured: tuple[Path, ...] = (),
    rooms: int = 200,
    per_room: int = 5,
    t60: tuple[float, float] = (0.3, 0.8),
    distance: tuple[float, float] = (1.0, 5.0),
    array: Array = "single",
    channels: tuple[int, ...] = (),
    seed: int = 0,
    jobs: int | None = None,
) -> None:
    """Make a bank of room impulse responses with their T60, DRR and distance in OUT/utt2cond.

    Args:
        out: the data dir to write.
        measured: take the responses of these data dirs or folders, and simulate none.
        rooms: how many rooms to simulate.
        per_room: places of a talker a room.
        t60: shortest and longest reverberation time, seconds.
        distance: least and greatest distance, metres.
        array: microphones.
        channels: microphones to keep, from 0; by default all.
        seed: what is drawn at random follows from it.
        jobs: processes; by default as many as the machine has processors.
    """
    from farvox.farfield.rirs import Rooms, measure_bank, simulate_bank

    if measured:
        made = measure_bank(out, measured, _note)
    else:
        what = Rooms(t60, distance, array, channels or None)
        made = simulate_bank(out, rooms=rooms, per_room=per_room, what=what, note=_note, seed=seed, jobs=jobs)
    print(f"{made.path}: {len(made):,} responses")


def noises(
    dir: Annotated[Positional[Path], arg(metavar="DIR")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    least: float = 0.5,
    format: Literal["flac", "wav"] = "flac",
    jobs: int | None = None,
) -> None:
    """Make a data dir of noise from the pauses of recordings: what is heard where nobody speaks.

    The speech-to-noise ratio of each recording is in OUT/utt2cond. An interrupted run goes on where it
    stopped.

    Args:
        dir: the data dir of speech.
        out: the data dir to write.
        least: seconds of background that a recording must have to be used.
        format: of the audio.
        jobs: processes; by default as many as the machine has processors.
    """
    from farvox.farfield.backgrounds import cut_backgrounds

    made, ratios_db, num_recordings = cut_backgrounds(
        dir, out, note=_note, least=least, suffix=format, jobs=jobs
    )
    low, middle, high = ratios_db
    print(f"{made.path}: background of {len(made):,} of {num_recordings:,} recordings")
    print(f"speech over noise: half of them between {low:.0f} and {high:.0f} dB, median {middle:.0f} dB")


def _note(line: str) -> None:
    print(line, flush=True)
