"""Trial lists of the synthetic corpus: different takes of known speakers, close and far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations

import numpy as np

from farvox.datadir.kaldi import Utterance

CLOSE_POINT, POINT_AT_1M = "7", "2"

Take = tuple[str, str]  # speaker, speed and number of the take


def make_trials(
    utterances: Sequence[Utterance], rng: np.random.Generator, *, nontargets_per_target: float = 2.0
) -> dict[str, str]:
    """Trial lists over one part of the corpus, in HI-MIA's form ``ENROL.wav TEST.wav target|nontarget``.

    The two sides of a trial are never the same take.

    Args:
        utterances: all recordings of the part, close and far.
        rng: draws the non-target trials and the far microphone of each trial.
        nontargets_per_target: how many trials between speakers for each trial within one.

    Returns:
        File name -> text. ``trials_near``: close-talk against close-talk. ``trials_far``: close-talk
        against one microphone of an array. ``trials_mic``: close-talk against all microphones of an
        array, written ``{}``. ``trials_1m``: all microphones at 1 m against all of an array.
    """
    takes = _takes(utterances)
    near = [(a, b) for a, b in combinations(takes, 2) if a[0] == b[0]]
    ordered = [(a, b) for a, b in permutations(takes, 2) if a[0] == b[0]]
    far_of = _far_recordings(utterances)
    near_others = _other_speakers(takes, rng, int(nontargets_per_target * len(near)))
    far_others = _other_speakers(takes, rng, int(nontargets_per_target * len(ordered)))

    def close(take: Take) -> str:
        return f"{take[0]}_{CLOSE_POINT}_01_{take[1]}.wav"

    def array_at_1m(take: Take) -> str:
        return f"{take[0]}_{POINT_AT_1M}_{{}}_{take[1]}.wav"

    def one_microphone(take: Take) -> str:
        return f"{far_of[take][rng.integers(len(far_of[take]))]}.wav"

    def all_microphones(take: Take) -> str:
        speaker, point, _, spoken = one_microphone(take).split("_")
        return f"{speaker}_{point}_{{}}_{spoken}"  # ends in .wav as one_microphone does

    return {
        "trials_near": _write(near, near_others, close, close),
        "trials_far": _write(ordered, far_others, close, one_microphone),
        "trials_mic": _write(ordered, far_others, close, all_microphones),
        "trials_1m": _write(ordered, far_others, array_at_1m, all_microphones),
    }


def _takes(utterances: Iterable[Utterance]) -> list[Take]:
    """(speaker, speed and take) of every take with a close-talk recording, sorted."""
    names = (utterance.utt_id.split("_") for utterance in utterances)
    return sorted({(name[0], name[3]) for name in names if name[1] == CLOSE_POINT})


def _far_recordings(utterances: Iterable[Utterance]) -> dict[Take, list[str]]:
    far: dict[Take, list[str]] = {}
    for utterance in utterances:
        speaker, point, _, spoken = utterance.utt_id.split("_")
        if point != CLOSE_POINT:
            far.setdefault((speaker, spoken), []).append(utterance.utt_id)
    return {take: sorted(utt_ids) for take, utt_ids in far.items()}


def _other_speakers(takes: Sequence[Take], rng: np.random.Generator, number: int) -> list[tuple[Take, Take]]:
    """Up to ``number`` different pairs of takes by different speakers, drawn at random."""
    pairs = [(a, b) for a, b in permutations(takes, 2) if a[0] != b[0]]
    drawn = rng.choice(len(pairs), size=min(number, len(pairs)), replace=False)
    return [pairs[i] for i in sorted(drawn)]


def _write(
    targets: Iterable[tuple[Take, Take]],
    nontargets: Iterable[tuple[Take, Take]],
    enrol: Callable[[tuple[str, str]], str],
    test: Callable[[tuple[str, str]], str],
) -> str:
    lines = [f"{enrol(a)} {test(b)} target" for a, b in targets]
    lines += [f"{enrol(a)} {test(b)} nontarget" for a, b in nontargets]
    return "".join(f"{line}\n" for line in lines)
