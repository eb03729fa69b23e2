"""Enhancement of a data dir: the channels of every take become one signal before anything is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from farvox.errors import UsageError
from farvox.farfield import Enhancement
from farvox.options import AtLeast, Metavar
from farvox.progress import Note, silent
from farvox.writers import writes

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir


@dataclass(frozen=True, kw_only=True)
class EnhanceOptions(Enhancement):
    """Options of the enhancement of a data dir.

    Raises:
        UsageError: nothing would be done, or two ways to find takes are given.
    """

    group: str | None = None
    """Regular expression for the ids of channels, with one named group around the part that distinguishes the
    channels of a take, as in "SV[0-9]+_[256]_(?P<channel>[0-9]+)_.*"."""
    by: str | None = None
    """Columns of utt2cond, with commas between: utterances of a speaker that are alike in them are one take,
    and its column "channel" distinguishes its channels."""
    trials: Annotated[Path | None, Metavar("TRIALS")] = None
    """Also write this trial list, with the ids of the enhanced utterances, to OUT."""
    allow_missing_channels: bool = False
    """Take the channels that a take has, even if most takes have more."""
    format: Literal["flac", "wav"] = "flac"
    """Format of the audio."""
    skip_bad: bool = False
    """Leave out takes that cannot be enhanced, and list them in OUT/rejected.tsv."""
    remote: bool = False
    """Reach audio on other machines (URLs in a wav.scp), which is refused otherwise."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Processes; by default one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group is not None and self.by is not None:
            raise UsageError("--group and --by are two ways to say the same; give one of them")


@writes("out")
def enhance(source: str | Path, out: str | Path, options: EnhanceOptions, *, note: Note = silent) -> DataDir:
    """Enhance the takes of a data dir; a run that was interrupted goes on in ``out``.

    Raises:
        AudioError: takes cannot be read or enhanced, or their channels differ in length by too much; all
            others were enhanced and are kept. Each is noted with the reason, and listed in ``rejected.tsv``.
        DataDirError: no takes, incomplete ones, or channels of several speakers.
        FarvoxError: ``out`` is the data dir itself or holds other things.
        JobError: ``out`` was begun with other settings, or a process was killed.
        TrialError: the trial list does not fit the data dir.
    """
    from farvox.datadir.audit import note_changes
    from farvox.datadir.kaldi import DataDir
    from farvox.farfield.enhance import enhance_takes
    from farvox.farfield.takes import refuse_incomplete, takes_by_condition, takes_by_file, takes_by_name
    from farvox.jobs import REJECTED
    from farvox.score.lists import rename_sides, write_table
    from farvox.score.trials import read_trials

    data_dir = DataDir.open(source, remote=options.remote)
    note_changes(data_dir, note)
    if options.group is not None:
        takes = takes_by_name(data_dir, options.group)
    elif options.by is not None:
        takes = takes_by_condition(data_dir, [name.strip() for name in options.by.split(",")])
    else:
        takes = takes_by_file(data_dir, note, options.jobs)
    if not options.allow_missing_channels:
        refuse_incomplete(takes, data_dir)
    renamed = None
    if options.trials is not None:  # before hours of work
        utt_ids = data_dir.utt_ids
        resolved = read_trials(options.trials).resolve(
            utt_ids, allow_missing_channels=options.allow_missing_channels
        )
        new_ids = takes.new_ids(utt_ids) if options.beamform != "none" else utt_ids
        renamed = rename_sides(resolved, new_ids)
    note(takes.description)
    enhanced = enhance_takes(
        data_dir,
        out,
        takes,
        options,
        format=options.format,
        skip_bad=options.skip_bad,
        jobs=options.jobs,
        note=note,
    )
    if options.trials is not None and renamed is not None:
        path = enhanced.path / options.trials.name
        write_table(path, renamed)
        note(
            f"{path}: {len(renamed):,} trials"
            + ", some of which may be of takes that were left out" * (enhanced.path / REJECTED).exists()
        )
    return enhanced
