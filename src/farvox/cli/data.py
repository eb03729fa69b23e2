"""The verbs about data: corpora become data dirs, which are checked, changed and simulated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from farvox.atomic import refuse_to_replace, visible
from farvox.cli.flags import FROM_STORE, EngineOptions, ShardFlag, work_of
from farvox.corpora.registry import PrepareOptions
from farvox.datadir import AudioCheckOptions, PackOptions
from farvox.farfield import NoisesOptions, RirsOptions, SimulateOptions
from farvox.pipelines.enhance import EnhanceOptions
from farvox.progress import to_stderr, to_stdout

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir

MOST_FAULTS = 100
MOST_PAIRS_UNASKED = 100_000_000

Dir = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR"), FROM_STORE]
Dirs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR..."), FROM_STORE]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]


def sample(out: Out, seed: int = 0) -> None:
    """Make recordings to try farvox with: three synthetic speakers, near the microphone and across a room.

    OUT/SPEAKER/{near_1,near_2,far}.wav, each of a few seconds. Needs the extra sim.

    Args:
        out: the folder to write; an earlier sample is replaced.
        seed: other words, rooms and noise, of the same three speakers on another day.
    """
    from farvox.synthetic.sample import make_sample

    for path in make_sample(out, seed=seed):
        to_stdout(str(path))


def prepare(
    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")],
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")],
    out: Out,
    preparation: PrepareOptions = PrepareOptions(),
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
) -> int | None:
    """Turn a corpus on disk into data dirs, OUT/<part> for each part that is there.

    Corpora: voxceleb1, voxceleb2, himia, ffsvc2020, ffsvc2022, 3dspeaker, cnceleb, voices, musan,
    rirs_noises, speechocean762, an4, farfield, across, folder (SPEAKER/*.wav, your own recordings),
    synthetic and noise.

    Args:
        corpus: name of the corpus.
        source: folder that holds it as its publisher ships it; for synthetic, a size: demo
            or tiny; for noise, a number of clips.
        out: folder of the data dirs.
        preparation: those that the corpus takes.
        shard: of --convert: do only shard I of N, I from 1 to N; "farvox join OUT" joins them when all are
            done.
        place: where it is done.
    """
    from farvox.corpora import registry

    if corpus not in registry.PREPARERS:
        to_stderr(f"farvox prepare: unknown corpus '{corpus}'; there are:")
        for name, preparer in registry.PREPARERS.items():
            to_stderr(f"  {name:<15} {preparer.summary}")
        return 2
    if (shard or place.engine == "ray") and not preparation.convert:
        to_stderr("farvox prepare: --shard and --engine are of --convert; without it there is little to do")
        return 2
    with work_of(out, shard, place):
        registry.prepare(corpus, source, out, preparation, note=to_stdout)
    return None


def check(
    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")],
    trials: Path | None = None,
    channel_ids: Literal["enrol", "test", "both", "neither"] | None = None,
    allow_self: bool = False,
    enrol_map: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    test_map: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    audio: bool = False,
    auditing: AudioCheckOptions = AudioCheckOptions(),
    remote: bool = False,
    fix: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None,
    allow_drops: bool = False,
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
) -> int:
    """Validate a data dir: prints its faults as FILE:LINE: what (at most 100, then how many more).

    Or a run dir: all files of its checkpoints are compared with their SHA-256, and its recipe, records and
    logs are read; no option is for that.

    Checked are ids given twice, files that disagree with one another, audio files that are not there, and
    malformed lines. Lines out of C order are noted: all verbs read them, but training draws other examples
    than from sorted ones. No audio is read without --audio.

    Args:
        dir: the data dir, the run dir, or a folder of run dirs.
        trials: also find every side of this trial list in it; missing utterances and channels are faults.
        channel_ids: of that list, as in "farvox score".
        allow_self: of that list, as in "farvox score".
        enrol_map: of that list, as in "farvox score"; a test utterance inside its own enrolment is reported.
        test_map: of that list, as in "farvox score".
        audio: decode all audio as well, and compare what is packed with its checksums. DIR/utt2audio keeps
            what was found; what was checked and is as it was is not decoded again.
        auditing: of --audio.
        remote: reach audio on other machines (URLs in wav.scp), which is a fault otherwise.
        fix: write what has no fault to this data dir, sorted, and list all faults (fix_data_dir.sh of Kaldi).
        allow_drops: of --fix: end with status 0 although something was at fault and left out.
        shard: of --audio: do only shard I of N, I from 1 to N; "farvox join DIR" joins them when all are
            done.
        place: where it is done.
    """
    from farvox.audio.remote import remote_audio

    if auditing.digests and not audio:
        to_stderr("farvox check: --digests is of --audio")
        return 2
    if (shard or place.engine == "ray") and (not audio or fix is not None):
        to_stderr("farvox check: --shard and --engine are of --audio, and not of --fix")
        return 2
    if not (dir / "wav.scp").exists() and (runs := _runs_in(dir)):
        return _check_runs(runs)
    status = 0
    with remote_audio(remote), work_of(dir, shard, place):
        status = _check(
            dir,
            trials,
            channel_ids,
            allow_self,
            (enrol_map, test_map),
            audio=audio,
            auditing=auditing,
            fix=fix,
            allow_drops=allow_drops,
        )
    return status


def _runs_in(folder: Path) -> list[Path]:
    """The run dirs in a folder or below it, also those that have no checkpoint yet."""
    runs = {each.parent for name in ("checkpoints", "train.log") for each in visible(folder, f"**/{name}")}
    return sorted(runs) or [folder] * (folder / "recipe.toml").is_file()


def _check_runs(runs: Sequence[Path]) -> int:
    from farvox.training.checkpoint import check_run, checkpoints_of

    num_faults = 0
    for run_dir in runs:
        faults = check_run(run_dir, to_stdout)
        for fault in faults:
            to_stdout(fault)
        names = [folder.name for folder in checkpoints_of(run_dir)]
        if not names:
            rest = "" if faults else "; its recipe and logs are whole"
            to_stdout(f"{run_dir}: no checkpoint yet{rest}")
        elif not faults:
            to_stdout(f"{run_dir}: {len(names)} checkpoint(s), all whole: {', '.join(names)}")
        num_faults += len(faults)
    return int(num_faults > 0)


def _check(
    dir: Path,
    trials: Path | None,
    channel_ids: Literal["enrol", "test", "both", "neither"] | None,
    allow_self: bool,
    maps: tuple[Path | None, Path | None],
    *,
    audio: bool,
    auditing: AudioCheckOptions,
    fix: Path | None,
    allow_drops: bool,
) -> int:
    from farvox.datadir.check import check_audio, check_data_dir, fix_data_dir
    from farvox.datadir.kaldi import DataDir

    if allow_drops and fix is None:
        to_stderr("farvox check: --allow-drops is of --fix OUT")
        return 2
    if any(maps) and trials is None:
        to_stderr("farvox check: --enrol-map and --test-map are of --trials TRIALS")
        return 2
    if fix is not None:
        made, faults, dropped = fix_data_dir(dir, fix, audio=audio, options=auditing, note=to_stdout)
        to_stdout(f"{_description(made)}; {len(dropped):,} of {len(dropped) + len(made):,} dropped")
        status = int(not allow_drops and not all(fault.is_note for fault in faults))
        if status:
            to_stderr(
                f"farvox check: lines at fault were left out of {fix}, which can be used; "
                "--allow-drops with another OUT ends with status 0"
            )
        if trials is None:
            return status
        return status or _check(
            fix,
            trials,
            channel_ids,
            allow_self,
            maps,
            audio=False,
            auditing=auditing,
            fix=None,
            allow_drops=False,
        )
    num_faults = 0
    for fault in chain(check_data_dir(dir), check_audio(dir, auditing) if audio else ()):
        num_faults += not fault.is_note
        if fault.is_note or num_faults <= MOST_FAULTS:
            to_stdout(str(fault))
    if num_faults:
        if (num_more := num_faults - MOST_FAULTS) > 0:
            to_stdout(f"... and {num_more} more fault{'s' if num_more > 1 else ''}")
        to_stderr(f"'farvox check {dir}{' --audio' * audio} --fix OUT' writes what has no fault")
        return 1
    data_dir = DataDir.open(dir)
    to_stdout(_description(data_dir))
    if trials is not None:
        from farvox.datadir.conditions import recordings_of
        from farvox.score.lists import refuse_wrong_trials
        from farvox.score.sides import read_side_map
        from farvox.score.trials import read_trials

        trial_list = read_trials(trials)
        to_stdout(trial_list.form)
        enrol_map, test_map = (read_side_map(each) if each else None for each in maps)
        resolved = trial_list.resolve(data_dir.utt_ids, channel_ids, enrol_map=enrol_map, test_map=test_map)
        for line in refuse_wrong_trials(
            resolved,
            data_dir.speaker_ids,
            recordings_of(data_dir),
            allow_self=allow_self,
            remedy="remove them, or add --allow-self",
        ):
            to_stdout(line)
        needed = f"{len(resolved.needed_rows):,} of {len(data_dir):,} utterances needed"
        to_stdout(f"{resolved.reading}; {needed}" if resolved.reading else needed)
    return 0


def combine(out: Out, dirs: Dirs) -> int | None:
    """Merge data dirs into one; an utterance that differs between two of them is an error.

    Args:
        out: the data dir to write.
        dirs: the data dirs to merge.
    """
    from farvox.datadir import derive

    if not dirs:
        to_stderr("farvox combine: name at least one data dir after OUT")
        return 2
    to_stdout(_description(derive.combine(out, dirs)))
    return None


def subset(
    dir: Dir,
    out: Out,
    speakers: str | None = None,
    utterances: Path | None = None,
    where: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    per_speaker: int | None = None,
    seed: int = 0,
) -> int | None:
    """Keep a part of a data dir: what meets every condition given.

    Args:
        dir: the data dir to read.
        out: the data dir to write.
        speakers: FIRST-LAST or N counts the sorted speakers from 1, both included; else a file with a speaker
            per line.
        utterances: a file with an utterance per line.
        where: CONDITION=VALUE,VALUE keeps what has one of these values in utt2cond (distance=3M); given again
            for another condition, both must hold.
        per_speaker: keep that many utterances of each speaker, drawn at random.
        seed: of that draw.
    """
    from farvox.datadir import derive
    from farvox.datadir.conditions import parse_where

    if speakers is None and utterances is None and not where and per_speaker is None:
        to_stderr("farvox subset: give --speakers, --utterances, --where or --per-speaker")
        return 2
    made = derive.subset(
        dir,
        out,
        speakers=speakers,
        utterances=utterances,
        where=parse_where(where),
        per_speaker=per_speaker,
        seed=seed,
    )
    to_stdout(_description(made))
    return None


def pack(
    dir: Dir,
    out: Out,
    packing: PackOptions = PackOptions(),
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
) -> None:
    """Write a data dir whose audio lies in a few large files, for network disks and object stores.

    An interrupted run goes on where it stopped, and what is packed already is not packed again. Any command
    that takes a data dir takes OUT. The files are tar files, in OUT/shards.

    Args:
        dir: the data dir to read.
        out: the data dir to write.
        packing: codec, size and place of the large files.
        shard: do only shard I of N, I from 1 to N; "farvox join OUT" joins them when all are done.
        place: where it is done.
    """
    from farvox.datadir.pack import pack as pack_data_dir

    with work_of(out, shard, place):
        to_stdout(_description(pack_data_dir(dir, out, packing, note=to_stderr)))


def enhance(
    dir: Dir,
    out: Out,
    enhancement: EnhanceOptions,
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
) -> None:
    """Turn the channels of every take into one enhanced utterance (with --wpe alone: into as many).

    Channels are utterances that --group or --by puts together, or else the channels of a file. A take has the
    id of its first channel; utterances of no take stay as they are. The audio goes to OUT/audio, 16 kHz.

    Args:
        dir: the data dir of the channels.
        out: the data dir to write; a run that was interrupted goes on there.
        enhancement: the takes, and their enhancement.
        shard: do only shard I of N, I from 1 to N; "farvox join OUT" joins them when all are done.
        place: where it is done.
    """
    from farvox.pipelines.enhance import enhance as enhance_data_dir

    with work_of(out, shard, place):
        to_stdout(_description(enhance_data_dir(dir, out, enhancement, note=to_stderr)))


def simulate(
    dir: Dir,
    out: Out,
    simulation: SimulateOptions = SimulateOptions(),
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
) -> None:
    """Make far-field copies of a data dir: utterances UTT_COPY_MICROPHONE, conditions in OUT/utt2cond.

    OUT/enrol_map names each utterance with its copies: an enrolment map for "farvox score". An interrupted
    run goes on where it stopped.

    Args:
        dir: the data dir of close-talk speech.
        out: the data dir to write.
        simulation: rooms, noise and copies.
        shard: do only shard I of N, I from 1 to N; "farvox join OUT" joins them when all are done.
        place: where it is done.
    """
    from farvox.farfield.simulate import simulate as make_copies

    with work_of(out, shard, place):
        made = make_copies(dir, out, simulation, note=to_stdout)
        to_stdout(f"{made.path}: {len(made):,} utterances")


def join(out: Out, skip_bad: bool = False, max_rejects: float | None = None) -> int:
    """Join the shards 1/N to N/N that the same command made of OUT, which is as of one run then.

    A shard that is missing or not done is named, and nothing is joined then. One that was killed is started
    again by its command, and goes on where it stopped.

    Args:
        out: the OUT of these commands (of "farvox check" its DIR).
        skip_bad: as of the command, if it was not given there.
        max_rejects: as of the command ("farvox prepare").
    """
    from contextlib import chdir

    from farvox.cli.main import run_words
    from farvox.sharding import joined

    more = ["--skip-bad"] * skip_bad
    more += [] if max_rejects is None else ["--max-rejects", str(max_rejects)]
    with joined(out) as (words, folder), chdir(folder):
        return run_words([*words, *more])


def rirs(out: Out, responses: RirsOptions = RirsOptions()) -> None:
    """Make a data dir of room impulse responses with their T60, DRR and distance in OUT/utt2cond.

    An interrupted run goes on where it stopped.

    Args:
        out: the data dir to write.
        responses: rooms to simulate, or responses to measure.
    """
    from farvox.farfield.rirs import make_rirs

    made = make_rirs(out, responses, note=to_stdout)
    to_stdout(f"{made.path}: {len(made):,} responses")


def noises(dir: Dir, out: Out, noise: NoisesOptions = NoisesOptions()) -> None:
    """Make a data dir of noise from the pauses of recordings, where nobody speaks.

    The speech-to-noise ratio of each recording is in OUT/utt2cond. An interrupted run goes on where it
    stopped.

    Args:
        dir: the data dir of speech.
        out: the data dir to write.
        noise: of the noise.
    """
    from farvox.farfield.noises import make_noises

    make_noises(dir, out, noise, note=to_stdout)


def trials(
    dir: Dir,
    out: Out,
    all_pairs: bool = False,
    num_nontarget: int | None = None,
    enrol: str | None = None,
    test: str | None = None,
    enrol_where: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    test_where: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    seed: int = 0,
) -> int | None:
    """Draw a trial list from a data dir: lines `1 enrol test` (same speaker) and `0 enrol test`.

    Every pair of utterances is a trial once, unless --num-nontarget is given. With --enrol, --test,
    --enrol-where or --test-where a pair is an enrolment utterance and a test utterance. An utterance is never
    paired with itself or with its own copy (the source of utt2cond).

    Args:
        dir: the data dir; it has a utt2spk.
        out: the trial list to write.
        all_pairs: every pair; the default, but needed for more than 100 million.
        num_nontarget: all target pairs, and that many different non-target pairs drawn at random.
        enrol: pattern of the enrolment utterances, such as "*_7_01_*".
        test: pattern of the test utterances.
        enrol_where: CONDITION=VALUE,VALUE: enrolment utterances have one of these values in utt2cond; given
            again for another condition, both must hold.
        test_where: the same of the test utterances.
        seed: of the draw.
    """
    from farvox.datadir.conditions import (
        CONDITIONS,
        parse_where,
        read_conditions,
        recordings_of,
        select_utterances,
    )
    from farvox.datadir.kaldi import DataDir
    from farvox.errors import TrialError
    from farvox.score.lists import Pairs, write_all_pairs, write_drawn_pairs
    from farvox.score.trials import TRIAL_LIST

    if all_pairs and num_nontarget is not None:
        to_stderr("farvox trials: --all-pairs and --num-nontarget exclude each other")
        return 2
    refuse_to_replace(out, TRIAL_LIST)
    source = DataDir.open(dir, remote=True)
    if source.speaker_ids.null_count():
        raise TrialError(f"{dir}: has neither utt2spk nor spk2utt, so nobody knows which trials are targets")
    enrol_ids, test_ids = (
        select_utterances(read_conditions(dir), parse_where(where, flag), dir / CONDITIONS, source.utt_ids)
        if where
        else None
        for where, flag in ((enrol_where, "--enrol-where"), (test_where, "--test-where"))
    )
    pairs = Pairs.of(
        source.utt_ids,
        source.speaker_ids,
        recordings=recordings_of(source),
        enrol=enrol,
        test=test,
        enrol_ids=enrol_ids,
        test_ids=test_ids,
    )
    if num_nontarget is not None:
        num_target, num_other = write_drawn_pairs(out, pairs, num_nontarget, seed)
    elif not all_pairs and sum(pairs.count()) > MOST_PAIRS_UNASKED:
        raise TrialError(f"{dir}: has {sum(pairs.count()):,} pairs; give --num-nontarget N, or --all-pairs")
    else:
        num_target, num_other = write_all_pairs(out, pairs)
    to_stdout(f"{out}: {num_target + num_other:,} trials, {num_target:,} target, {num_other:,} non-target")
    return None


def _description(data_dir: DataDir) -> str:
    num_speakers = data_dir.speaker_ids.drop_nulls().n_unique()
    who = f" of {num_speakers:,} speakers" if num_speakers else ""
    return f"{data_dir.path}: {len(data_dir):,} utterances{who}"
