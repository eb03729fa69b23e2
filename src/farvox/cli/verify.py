"""The verbs for people with recordings: verify and listen, and those of the enrolled speakers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from farvox.atomic import json_text
from farvox.errors import UsageError
from farvox.options import Above, Metavar, Options
from farvox.progress import to_stderr, to_stdout
from farvox.verifier.sources import SourceOptions, open_source
from farvox.zoo.embedder import Backend
from farvox.zoo.pretrained import DEFAULT_MODEL

if TYPE_CHECKING:
    from farvox.verifier import Channel, Signal, SqliteStore, Verifier

Files = Annotated[Positional[tuple[str, ...]], arg(metavar="FILE...")]
Name = Annotated[Positional[str], arg(metavar="NAME")]
Store = Annotated[Path | None, arg(metavar="FILE")]

_USUAL_RATE = 16000


@dataclass(frozen=True, kw_only=True)
class EmbedderOptions(Options):
    """The model that recordings are embedded with, and what is asked of them before."""

    model: Annotated[str, Metavar("MODEL")] = DEFAULT_MODEL
    """A name of the zoo, a model folder, a run dir, RUN_DIR@37 or an exported .onnx file."""
    vad: Literal["check", "trim", "off"] = "check"
    """Make sure that there is speech (check), also cut away the rest (trim), or neither (off)."""
    channel: Annotated[str, Metavar("all|most-speech|N")] = "all"
    """Of several channels: all that hold speech, which are fused; the one with the most speech; or a number
    from 0."""
    band: Literal["auto", "full", "narrow"] = "auto"
    """Compare what lies below 4 kHz only (narrow), as recordings by telephone have no more, by the model
    card's threshold for such; auto: verify does where a recording has no more, enrol and identify never."""
    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    """The device that torch computes on."""
    backend: Backend = "auto"
    """Torch, or onnxruntime (onnx) or OpenVINO, which compute from a graph of the model that is made once;
    auto: onnxruntime where it is installed and the device is the CPU, else torch."""

    @property
    def channel_or_number(self) -> Channel:
        """The channel as `farvox.verifier.read_signal` takes it.

        Raises:
            UsageError: it is none of its values.
        """
        if self.channel == "all" or self.channel == "most-speech":
            return self.channel  # type: ignore[return-value]
        if not self.channel.isdecimal():
            raise UsageError(f"--channel {self.channel}: it is all, most-speech or a number from 0")
        return int(self.channel)


def verify(
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="ENROL... TEST")],
    model: EmbedderOptions = EmbedderOptions(),
    threshold: float | None = None,
    strict: bool = False,
    json: bool = False,
) -> int:
    """Decide whether two recordings are of the same speaker. Exit status 0: same, 1: different, 2: no answer.

    Args:
        files: recordings of one speaker, then the one in question; paths or URLs, any format, several
            channels are fused.
        model: the model, and what is asked of recordings.
        threshold: from which score on it is the same speaker; by default what the model's card recommends.
        strict: no decision (status 2) where a note is serious: two persons on one side, a narrow band, little
            speech.
        json: print everything that is known as JSON.
    """
    if len(files) < 2:
        raise UsageError("two recordings are needed: farvox verify ENROL TEST")
    verifier, signals = _open(files, model, threshold)
    from farvox.verifier.answers import verdict_fields

    verdict = verifier.verify(signals[:-1], signals[-1])
    _warn("verify", (*verdict.enrol, *verdict.test))
    is_decided = not (strict and any(note.serious for note in verdict.notes))
    if json:
        _print_json(verdict_fields(verifier, verdict, strict=strict))
    else:
        below = "   (below 4 kHz)" if verdict.band == "narrow" else ""
        to_stdout(f"score        {verdict.score:.4f}   threshold {verdict.threshold:.4g}{below}")
        decision = "same speaker" if verdict.same else "different speakers"
        to_stdout(f"decision     {decision if is_decided else 'none: a note is serious (--strict)'}")
        if verdict.probability is not None and verdict.threshold_probability is not None:
            asked, probability = _percent(verdict.threshold_probability), _percent(verdict.probability)
            to_stdout(f"probability  {probability} the same, if both were equally likely before")
            to_stdout(f"             (the threshold asks for {asked})")
    return int(not verdict.same) if is_decided else 2


def listen(
    enrol: Annotated[Positional[tuple[str, ...]], arg(metavar="ENROL...")],
    model: EmbedderOptions = EmbedderOptions(),
    source: SourceOptions = SourceOptions(),
    longest: Annotated[float, Above(0.0)] = 300.0,
    to_end: bool = False,
    json: bool = False,
) -> int:
    """Decide while the speech comes, after every second of it. Exit status 0: same, 1: different, 2: not yet.

    It ends as soon as the sequential test of the model's card decides, or has seen the last second that it
    knows. Where the card has none, and below 4 kHz, the end decides, as "farvox verify" does.

    Args:
        enrol: recordings of one speaker; paths or URLs, any format.
        model: the model, and what is asked of recordings.
        source: the speech in question.
        longest: seconds after which no more is taken.
        to_end: go on to the end of the source; a decision stays.
        json: print every look, and the end, as JSON in one line.
    """
    from farvox.verifier import Listener

    if not enrol:
        raise UsageError("a recording is needed: farvox listen ENROL")
    verifier, signals = _open(enrol, model)
    from farvox.verifier.answers import look_fields, stream_fields

    told, delays = set[str](), [0.0]
    with open_source(source) as opened:
        rate, num_channels = opened.sample_rate, opened.num_channels
        listener = Listener(verifier, signals, rate, num_channels, name=opened.name, longest=longest)
        _warn("listen", listener.side.signals, told)
        begin = process_time()
        for samples, came in opened.blocks:
            for look in listener.feed(samples):
                delays.append(monotonic() - came)
                _tell("listen", opened.name, look.notes, told)
                if json:
                    _print_json(look_fields(look), None)
                else:
                    chance = "" if look.probability is None else f"{_percent(look.probability):>12}"
                    spoken = f"{look.seconds:6.1f} s {look.speech_seconds:6.1f} s of speech"
                    to_stdout(f"{spoken}   score {look.score:7.4f}{chance}   {look.decision}")
            if listener.stream.is_full or (listener.is_over and not to_end):
                break
        verdict = listener.finish()
        factor = (process_time() - begin) / listener.stream.seconds
    _warn("listen", (*verdict.enrol, *verdict.test), told)
    [signal], decision = verdict.test, listener.final_decision(verdict)
    if json:
        costs = {"real_time_factor": factor, "latest_look": max(delays)}
        _print_json(stream_fields(listener, verdict, **costs), None)
    else:
        said = {
            "same": "same speaker",
            "different": "different speakers",
            "not yet": "none: more speech is needed",
        }
        by = "" if listener.is_tested(verdict) else f"   (at the end, threshold {verdict.threshold:.4g})"
        to_stdout(f"decision     {said[decision]}{by}")
        to_stdout(f"score        {verdict.score:.4f}, of all {signal.seconds:.1f} s")
        if verdict.probability is not None:
            to_stdout(
                f"probability  {_percent(verdict.probability)} the same, if both were equally likely before"
            )
        to_stdout(f"cost         real-time factor {factor:.2f}; looks up to {max(delays):.2f} s late")
    return ("same", "different", "not yet").index(decision)


def enrol(
    name: Name,
    files: Files,
    model: EmbedderOptions = EmbedderOptions(),
    replace: bool = False,
    allow_mixed: bool = False,
    store: Store = None,
) -> None:
    """Enrol a speaker, so that "farvox identify" knows the voice. No audio is kept.

    Only speakers enrolled with the same model can be compared.

    Args:
        name: what the speaker is called.
        files: recordings of the speaker, the more the better.
        model: the model, and what is asked of recordings.
        replace: take the place of an earlier enrolment of that name.
        allow_mixed: enrol also what may be of two persons: recordings that score against one another as two
            persons do, or channels below the threshold.
        store: the file of enrolled speakers, if not the user's own.
    """
    if not files:
        raise UsageError("no recordings: farvox enrol NAME FILE...")
    verifier, signals = _open(files, model, store=open_store(store))
    enrolment = verifier.enrol(name, signals, replace=replace, allow_mixed=allow_mixed)
    _warn("enrol", enrolment.signals)
    recordings = f"{enrolment.num_recordings} recording{'s' * (enrolment.num_recordings > 1)}"
    to_stdout(f"{enrolment.name}: enrolled with {recordings}, {enrolment.seconds:.1f} s")


def identify(
    files: Files,
    model: EmbedderOptions = EmbedderOptions(),
    threshold: float | None = None,
    top: int = 3,
    strict: bool = False,
    store: Store = None,
    json: bool = False,
) -> int:
    """Find the enrolled speaker of a recording. Exit status 0: found, 1: unknown, 2: no answer.

    Args:
        files: one recording, or several of the same speaker.
        model: the model, and what is asked of recordings.
        threshold: from which score on a speaker is found; by default what the model's card recommends.
        top: how many candidates to print.
        strict: no answer (status 2) where a note is serious, such as a narrow band or little speech.
        store: the file of enrolled speakers, if not the user's own.
        json: print everything that is known as JSON.
    """
    if not files or top < 1:
        raise UsageError("no recording: farvox identify FILE" if not files else "--top: at least 1")
    verifier, signals = _open(files, model, threshold, open_store(store))
    from farvox.verifier.answers import identification_fields

    found = verifier.identify(signals, top=top)
    _warn("identify", found.test)
    is_decided = not (strict and any(note.serious for note in found.notes))
    name = found.name if is_decided else None
    if json:
        _print_json(identification_fields(verifier, found, strict=strict))
    else:
        to_stdout((name or "unknown") if is_decided else "no answer: a note is serious (--strict)")
        to_stdout(f"  among {found.num_speakers} speakers, threshold {found.threshold:.4g}")
        if found.num_others:
            why = "with other models, bands or conditioning, and cannot be compared"
            to_stdout(f"  {found.num_others} more are enrolled {why}")
        for candidate, score in found.candidates:
            to_stdout(f"  {score:7.4f}  {candidate}")
    return int(name is None) if is_decided else 2


def forget(name: Name, store: Store = None) -> None:
    """Remove an enrolled speaker, with every trace in the file; older copies of it open the template no more.

    Args:
        name: what the speaker is called.
        store: the file of enrolled speakers, if not the user's own.
    """
    count = open_store(store).remove(name)
    to_stdout(f"{name}: forgotten ({count} enrolment{'s' * (count > 1)})")


def sweep(days: Annotated[Positional[float], arg(metavar="DAYS")], store: Store = None) -> None:
    """Forget, as the verb of that name does, whoever was enrolled more than DAYS days ago.

    Args:
        days: how long an enrolment is kept.
        store: the file of enrolled speakers, if not the user's own.
    """
    if not days >= 0:
        raise UsageError(f"{days:g} days: give 0 or more, such as farvox sweep 365")
    names = open_store(store).sweep(days)
    for name in names:
        to_stdout(f"{name}: forgotten")
    to_stderr(f"{len(names)} enrolled more than {days:g} days ago")


def rekey(store: Store = None, keep_copy: bool = False) -> None:
    """Renew the keys that enrolled speakers are sealed with; older copies of the file open no more.

    Args:
        store: the file of enrolled speakers, if not the user's own.
        keep_copy: of a file whose templates were not sealed yet, keep a copy as it was.
    """
    opened = open_store(store)
    to_stdout(f"{opened.rekey(keep_copy=keep_copy)} enrolments have new keys")
    if keep_copy and opened.copy_path.exists():
        to_stderr(
            f"farvox rekey: note: {opened.copy_path} has plain templates, and 'farvox forget' does not reach"
            " it: remove it as soon as you can"
        )


def speakers(store: Store = None, log: bool = False, json: bool = False) -> None:
    """List the enrolled speakers.

    Args:
        store: the file of enrolled speakers, if not the user's own.
        log: list every enrolment, removal and change of keys instead, oldest first.
        json: print as JSON.
    """
    if log:
        changes = open_store(store).log()
        if json:
            _print_json([change._asdict() for change in changes])
        else:
            for change in changes:
                to_stdout(f"{change.at}  {change.action:8}{change.subject}  {change.name or ''}".rstrip())
        return
    entries = open_store(store).listing()
    if json:
        _print_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        heard = f"{entry.num_recordings} rec., {entry.seconds:.1f} s"
        to_stdout(f"{entry.name}  {heard}, {entry.model_name}, {entry.enrolled_at}")
    to_stderr(f"{len(entries)} enrolled")


def _open(
    files: Sequence[str],
    model: EmbedderOptions,
    threshold: float | None = None,
    store: SqliteStore | None = None,
) -> tuple[Verifier, list[Signal]]:
    """The recordings, each found fit before a model is fetched or loaded, and the verifier."""
    from farvox.verifier import Verifier, read_signal
    from farvox.verifier.verifier import checked_threshold

    if threshold is not None:
        checked_threshold(threshold)
    channel = model.channel_or_number
    signals = [read_signal(path, sample_rate=_USUAL_RATE, vad=model.vad, channel=channel) for path in files]
    verifier = Verifier.from_pretrained(
        model.model,
        device=model.device,
        backend=model.backend,
        threshold=threshold,
        vad=model.vad,
        channel=channel,
        band=model.band,
        store=store,
    )
    is_usual = verifier.embedder.sample_rate == _USUAL_RATE
    return verifier, [verifier.signal(audio) for audio in (signals if is_usual else files)]


def open_store(path: Path | None) -> SqliteStore:
    """The store of enrolled speakers; it tells on stderr what it does to one of before."""
    from farvox.verifier import SqliteStore

    return SqliteStore(path, note=lambda line: to_stderr(f"farvox: note: {line}"))


def _warn(verb: str, signals: Iterable[Signal], told: set[str] | None = None) -> None:
    from farvox.verifier import CodedNote

    for signal in signals:
        notes = list(signal.warnings)
        if len(signal.channels_CT) > 1:
            notes.append(CodedNote(f"{len(signal.channels_CT)} channels: their embeddings are fused"))
        _tell(verb, signal.name, notes, set() if told is None else told)


def _tell(verb: str, name: str, notes: Iterable[str], told: set[str]) -> None:
    """Print the notes on a recording that were not ``told`` before."""
    for note in notes:
        if note not in told:
            to_stderr(f"farvox {verb}: note: {name}: {note}")
    told.update(notes)


def _percent(probability: float) -> str:
    """A percentage that never claims certainty."""
    if 0.001 <= probability <= 0.999:
        return f"{100 * probability:.1f} %"
    return "under 0.1 %" if probability < 0.5 else "over 99.9 %"


def _print_json(value: object, indent: int | None = 2) -> None:
    to_stdout(json_text(value, indent))
