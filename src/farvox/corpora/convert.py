"""Decoding a corpus once into a format that can be read from the middle, in parallel and restartable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from farvox.audio.files import audio_info, read_audio, write_audio
from farvox.corpora.parts import Rejected
from farvox.datadir.kaldi import Utterance
from farvox.errors import AudioError
from farvox.jobs import Job, cut
from farvox.progress import Note

SAMPLE_RATE = 16000
BATCH = 64  # files handed to a process at a time
Outcome = tuple[int, str]  # samples written, or 0 and why not


def convert_audio(
    utterances: Sequence[Utterance],
    folder: Path,
    suffix: str,
    rejected: Rejected,
    *,
    note: Note,
    jobs: int | None = None,
) -> list[Utterance]:
    """Write every utterance as 16 kHz mono ``folder/<speaker>/<video>/<file>.<suffix>``.

    A file is written whole or not at all, so one that is there and can be opened is kept, and an interrupted
    conversion goes on where it stopped. Files that already have the format are used where they are.

    Args:
        utterances: ids of the form ``speaker-video-file``, with the speaker named.
        folder: where the audio goes.
        suffix: ``flac`` or ``wav``.
        rejected: takes the files that cannot be decoded, with the reason.
        note: is told what happens.
        jobs: processes; as many as there are processors by default.

    Returns:
        The utterances that can be used, pointing at the converted files, with their lengths.
    """
    folder = Path(os.path.abspath(folder))
    foreign = [each for each in utterances if not each.wav_path.endswith(f".{suffix}")]
    kept = [each for each in utterances if each.wav_path.endswith(f".{suffix}")]
    targets = [_target(each, folder, suffix) for each in foreign]
    job = Job(what="audio files converted", note=note, jobs=jobs, kept=folder)
    pairs = [(each.wav_path, to) for each, to in zip(foreign, targets, strict=True)]
    outcomes = [outcome for done in job.run(_convert_batch, cut(pairs, BATCH)) for outcome in done]
    for utterance, target, (num_samples, reason) in zip(foreign, targets, outcomes, strict=True):
        if reason:
            rejected[utterance.wav_path] = reason
        else:
            kept.append(replace(utterance, wav_path=target, num_samples=num_samples))
    return kept


def _target(utterance: Utterance, folder: Path, suffix: str) -> str:
    """OUT/audio/id00012/21Uxsk56VDQ/00001.flac; a video's name may hold ``-`` and stays whole."""
    inside = utterance.utt_id.removeprefix(f"{utterance.speaker_id}-")
    video, _, file = inside.rpartition("-")
    return str(folder / str(utterance.speaker_id) / video / f"{file}.{suffix}")


def _convert_batch(pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
    return [_convert(path, target) for path, target in pairs]


def _convert(path: str, target: str) -> Outcome:
    num_samples = _length_of_output(target)
    if num_samples:
        return num_samples, ""
    try:
        wav_T = read_audio(path, sample_rate=SAMPLE_RATE)
    except AudioError as error:
        return 0, str(error)
    write_audio(target, wav_T, SAMPLE_RATE)
    return len(wav_T), ""


def _length_of_output(target: str) -> int:
    """Samples of what an earlier run wrote; 0 where there is nothing usable."""
    try:
        return audio_info(target).num_samples if os.path.exists(target) else 0
    except AudioError:
        return 0
