"""The sequential test of `farvox listen`: fitted on speakers of speechocean762, measured on others and AN4.

The utterances of a speaker are joined to recordings of more than 10 s of speech, each of which is fed to a
`farvox.verifier.listen.Stream` and embedded at its looks after 1 to 10 s. Enrolments are other recordings of
a speaker, as they were after 3, 5 and 10 s. Speakers 1 to 75 fit the test, 76 to 125 and AN4 measure it; a
trial is decided at the first look that decides. The rows are those of docs/listen.md.

    FARVOX_CORPORA=DIR python benchmarks/listen.py WORK [--model MODEL] [--card]

WORK keeps the embeddings. It takes 10 minutes of processor time the first time, then one.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farvox import Verifier
from farvox.audio.files import read_audio
from farvox.rng import rng_for
from farvox.score.sequential import UNDECIDED, Boundaries, SequentialTrials, fit_safely, outcomes
from farvox.verifier.listen import Stream, spoken_seconds

RATE, LOOKS, ENROLMENTS = 16000, 10, (3, 5, 10)
Wave = NDArray[np.float32]


class Recordings(NamedTuple):
    """Recordings by their embeddings at every look, and the numbers of their speakers."""

    emb_NKE: Wave
    speaker_N: NDArray[np.int64]


def utterances(corpora: Path, name: str) -> dict[str, list[Path]]:
    """The utterances of each speaker, both in order."""
    folder = corpora / {"speechocean762": "speechocean762/WAVE", "an4": "an4/wav/an4_clstk"}[name]
    speakers = sorted(path for path in folder.iterdir() if path.is_dir())
    return {path.name: sorted(each for each in path.iterdir() if each.suffix == ".flac") for path in speakers}


def embedded(verifier: Verifier, paths: list[Path], file: Path) -> tuple[Wave, int]:
    """The embeddings of a recording joined of utterances at its looks, [look, embedding], kept in a file.

    NaN where there is no such look. The second result is the number of utterances that were taken.
    """
    if not file.exists():
        stream = Stream(verifier, RATE)
        rows = np.full((LOOKS, verifier.embedder.embedding_dim), np.nan, np.float32)
        count = 0
        for path in paths:
            count += 1
            for signal in stream.feed(read_audio(path)):
                rows[min(int(spoken_seconds(signal)), LOOKS) - 1] = verifier.embed(signal)
            if np.isfinite(rows[-1, 0]):
                break
        np.savez(file, emb=rows, count=count)
    content = np.load(file)
    return content["emb"], int(content["count"])


def recordings(verifier: Verifier, corpora: Path, name: str, work: Path, most: int) -> Recordings:
    """Up to ``most`` recordings of each speaker; the last may have less than 10 s of speech."""
    of_speaker, found = utterances(corpora, name), []
    for number in range(most):
        for speaker, (key, paths) in enumerate(of_speaker.items()):
            if paths:
                emb, count = embedded(verifier, paths, work / f"{name}_{key}_{number}.npz")
                of_speaker[key] = paths[count:]
                found.append((speaker, emb))
        print(f"{name}: {len(found)} recordings, {time.process_time():.0f} s of processor time", flush=True)
    return Recordings(np.stack([emb for _, emb in found]), np.array([speaker for speaker, _ in found]))


def trials(found: Recordings, speakers: range, enrol_look: int) -> SequentialTrials:
    """All pairs of recordings of some speakers, the first as it was after so many seconds of speech."""
    rows = np.flatnonzero(np.isin(found.speaker_N, speakers))
    test = rows[np.isfinite(found.emb_NKE[rows, -1, 0])]  # of 10 s of speech
    enrol = rows[np.isfinite(found.emb_NKE[rows, enrol_look - 1, 0])]
    pairs = np.array([(e, t) for e in enrol for t in test if e != t])
    enrol_N, test_N = pairs.T
    score_NK = np.einsum("ne,nke->nk", found.emb_NKE[enrol_N, enrol_look - 1], found.emb_NKE[test_N])
    return SequentialTrials(score_NK.astype(float), found.speaker_N[enrol_N], found.speaker_N[test_N])


def some(all_of_them: SequentialTrials, count: int) -> SequentialTrials:
    """All target trials, and others at random up to a number in all."""
    targets, others = (np.flatnonzero(all_of_them.target_N == is_target) for is_target in (True, False))
    drawn = rng_for(22, 0, count).permutation(others)[: max(0, count - len(targets))]
    rows = np.sort(np.append(targets, drawn))
    return SequentialTrials(*(each[rows] for each in all_of_them))


def joined(parts: list[SequentialTrials]) -> SequentialTrials:
    """All trials of several sets."""
    return SequentialTrials(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def row(name: str, measured: SequentialTrials, boundaries: Boundaries) -> str:
    """A row of the table."""
    cells = [name]
    for kind, wrong in ((False, True), (True, False)):
        found = outcomes(boundaries, measured.score_NK[measured.target_N == kind])
        is_open = found.look_N == UNDECIDED
        spoken = np.where(is_open, LOOKS, found.look_N).mean()
        cells += [f"{len(is_open):,}", f"{100 * found.rate(same=wrong):.2f} %"]
        cells += [f"{100 * is_open.mean():.2f} %", f"{spoken:.1f} s"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="campplus-zh-en")
    parser.add_argument("--recordings", type=int, default=2, help="of each speaker, at most")
    parser.add_argument("--false-acceptance", type=float, default=0.01)
    parser.add_argument("--false-rejection", type=float, default=0.05)
    parser.add_argument("--card", action="store_true", help="measure the test of the card, do not fit one")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    verifier, corpora = Verifier.from_pretrained(given.model), Path(os.environ["FARVOX_CORPORA"])
    promised = given.false_acceptance, given.false_rejection
    near = recordings(verifier, corpora, "speechocean762", given.work, given.recordings)
    other = recordings(verifier, corpora, "an4", given.work, given.recordings)
    if given.card:
        assert verifier.card.sequential is not None
        boundaries = Boundaries(
            *map(np.array, (verifier.card.sequential.same, verifier.card.sequential.different))
        )
    else:
        fitted = some(joined([trials(near, range(75), look) for look in ENROLMENTS]), 20_000)
        fit, shares = fit_safely(fitted, *promised, note=print)
        boundaries = Boundaries(*np.round(fit, 4))
        print(f"fitted to {shares[0]:g} and {shares[1]:g} of the errors that are promised")
        same, different = (", ".join(f"{x:.4f}" for x in each) for each in boundaries)
        print(f"same = [{same}]\ndifferent = [{different}]")
    heads = ("trials", "wrong of the decided", "undecided", "mean speech")
    print(f"| | {' | '.join([*heads, *heads])} |\n|---|{'---|' * 8}")
    for name, found, speakers in (
        ("1 to 75", near, range(75)),
        ("76 to 125", near, range(75, 125)),
        ("AN4", other, range(1000)),
    ):
        of_looks = [trials(found, speakers, look) for look in ENROLMENTS]
        print(row(name, some(joined(of_looks), 20_000), boundaries))
        for look, each in zip(ENROLMENTS, of_looks, strict=True):
            print(row(f"{name}, enrolments of {look} s", each, boundaries))


if __name__ == "__main__":
    main()
