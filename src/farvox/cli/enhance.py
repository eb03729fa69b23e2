"""The verb enhance: the channels of an array become one signal before anything is embedded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import polars as pl

    from farvox.datadir.kaldi import DataDir
    from farvox.farfield.takes import Takes

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Dir = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Out = Annotated[Path, tyro.conf.arg(metavar="OUT")]


def enhance(
    dir: Dir,
    out: Out,
    /,
    beamform: Literal["none", "delay-and-sum", "mvdr"] = "none",
    wpe: Flag = False,
    group: str | None = None,
    by: str | None = None,
    trials: Path | None = None,
    allow_missing_channels: Flag = False,
    tolerance: float = 0.1,
    max_delay: float = 3.0,
    taps: int = 10,
    format: Literal["flac", "wav"] = "flac",
    jobs: int | None = None,
) -> None:
    """Turn the channels of every take into one enhanced utterance (with --wpe alone: into as many).

    Channels are utterances that --group or --by puts together, or else the channels of a file. A take bears
    the id of its first channel; utterances of no take stay as they are. The audio goes to OUT/audio, 16 kHz.

    Args:
        dir: the data dir of the channels.
        out: the data dir to write; a run that was interrupted goes on there.
        beamform: delay-and-sum or mvdr; none leaves the channels apart.
        wpe: remove late reverberation, before any beamforming (needs the extra wpe).
        group: a regular expression for the ids of channels, with one named group around what tells the
            channels of a take apart, as in "SV[0-9]+_[256]_(?P<channel>[0-9]+)_.*".
        by: columns of utt2cond, with commas between: utterances of a speaker that are alike in them are one
            take, and its column "channel" tells its channels apart.
        trials: also write this trial list, with its sides called by the enhanced utterances, to OUT.
        allow_missing_channels: take what channels a take has.
        tolerance: seconds by which the channels of a take may differ in length; all are cut to the shortest.
        max_delay: greatest delay between two channels, milliseconds; 3 is one metre.
        taps: frames of 8 ms that WPE looks back over.
        format: of the audio.
        jobs: processes; by default one per core.
    """
    from farvox.datadir.kaldi import DataDir
    from farvox.errors import UsageError
    from farvox.farfield.enhance import Enhancement
    from farvox.farfield.enhance import enhance as enhance_data_dir
    from farvox.farfield.takes import refuse_incomplete

    if beamform == "none" and not wpe:
        raise UsageError("nothing to do: choose a --beamform, or --wpe, or both")
    source = DataDir.open(dir)
    takes = _find_takes(source, group, by, jobs)
    if not allow_missing_channels:
        refuse_incomplete(takes, source)
    renamed = (
        None
        if trials is None
        else _renamed(trials, source, takes, beamform != "none", allow_missing_channels)
    )
    _note(takes.description)
    how = Enhancement(beamform, wpe, taps, max_delay, tolerance)
    made = enhance_data_dir(source, out, takes, how, note=_note, jobs=jobs, suffix=format)
    print(f"{made.path}: {len(made):,} utterances, {len(takes):,} takes enhanced")
    if trials is not None and renamed is not None:
        from farvox.score.lists import write_table

        write_table(out / trials.name, renamed)
        print(f"{out / trials.name}: {len(renamed):,} trials")


def _find_takes(source: DataDir, group: str | None, by: str | None, jobs: int | None) -> Takes:
    from farvox.errors import UsageError
    from farvox.farfield.takes import count_channels, takes_by_condition, takes_by_file, takes_by_name

    if group is not None and by is not None:
        raise UsageError("--group and --by are two ways to say the same; give one of them")
    if group is not None:
        return takes_by_name(source, group)
    if by is not None:
        return takes_by_condition(source, [name.strip() for name in by.split(",")])
    return takes_by_file(source, count_channels(source, _note, jobs))


def _renamed(
    trials: Path, source: DataDir, takes: Takes, beamformed: bool, allow_missing: bool
) -> pl.DataFrame:
    from farvox.score.lists import rename_sides
    from farvox.score.trials import read_trials

    utt_ids = source.utt_ids
    resolved = read_trials(trials).resolve(utt_ids, allow_missing_channels=allow_missing)
    new_ids = takes.new_ids(utt_ids) if beamformed else utt_ids
    return rename_sides(resolved, new_ids)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
