"""The sequential test of `farvox listen`: fitted on speakers of speechocean762, measured on others and AN4.

The utterances of a speaker are joined to recordings of more than 10 s of speech, each of which is fed to a
`farvox.verifier.listen.Stream` and embedded at its looks after 1 to 10 s. Enrolments are other recordings of
a speaker, as they were after 3, 5 and 10 s. Of some there is a copy across a room, in noise, too. Speakers 1
to 75 fit the test: near trials of two speakers, and near and far ones of one, which weigh the same, as the
near speech of strangers and the far speech of a speaker are the hardest. Speakers 76 to 125 and AN4 measure
it; a trial is decided at the first look that decides. The rows are those of docs/listen.md.

    FARVOX_CORPORA=DIR python benchmarks/listen.py WORK [--model MODEL] [--card]

WORK keeps the embeddings. It takes 10 minutes of processor time the first time, then one.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farvox import Verifier
from farvox.audio.files import read_audio
from farvox.farfield import RirsOptions
from farvox.farfield.mixing import add_noise, convolve_rir, is_silent
from farvox.farfield.rirs import Rir, make_rirs, open_rirs
from farvox.rng import rng_for
from farvox.score.sequential import UNDECIDED, Boundaries, SequentialTrials, fit_safely, outcomes
from farvox.verifier.listen import Stream, spoken_seconds

RATE, LOOKS, ENROLMENTS, NUM_TRIALS = 16000, 10, (3, 5, 10), 20_000
FITTED, MEASURED = range(75), range(75, 125)  # speakers of speechocean762
FAR = (*range(40), *range(75, 95))  # those of them that are also across a room
Wave = NDArray[np.float32]


class Recordings(NamedTuple):
    """Recordings by their embeddings at every look, numbers of their speakers, and numbers of a speaker's."""

    emb_NKE: Wave
    speaker_N: NDArray[np.int64]
    number_N: NDArray[np.int64]


def utterances(corpora: Path, name: str) -> dict[str, list[Path]]:
    """The utterances of each speaker, both in order."""
    folder = corpora / {"speechocean762": "speechocean762/WAVE", "an4": "an4/wav/an4_clstk"}[name]
    speakers = sorted(path for path in folder.iterdir() if path.is_dir())
    return {path.name: sorted(each for each in path.iterdir() if each.suffix == ".flac") for path in speakers}


def distant(rir: Rir, noises: list[Path], wav_T: Wave) -> Wave:
    """An utterance in a room, 1 to 5 m away, in noise 5 to 20 dB below."""
    rng = rng_for(22, len(noises), len(wav_T))
    noise_T = np.resize(read_audio(noises[rng.integers(len(noises))]), len(wav_T))
    wet_T = convolve_rir(wav_T, read_audio(rir.path))
    return wet_T if is_silent(noise_T) else add_noise(wet_T, noise_T, rng.uniform(5, 20))


def embedded(verifier: Verifier, wavs: Iterator[Wave], file: Path) -> tuple[Wave, int]:
    """The embeddings of a recording joined of utterances at its looks, [look, embedding], kept in a file.

    NaN where there is no such look. The second result is the number of utterances that were taken.
    """
    if not file.exists():
        stream, count = Stream(verifier, RATE), 0
        rows = np.full((LOOKS, verifier.embedder.embedding_dim), np.nan, np.float32)
        for count, wav_T in enumerate(wavs, 1):  # noqa: B007
            for signal in stream.feed(wav_T):
                rows[min(int(spoken_seconds(signal)), LOOKS) - 1] = verifier.embed(signal)
            if np.isfinite(rows[-1, 0]):
                break
        np.savez(file, emb=rows, count=count)
    content = np.load(file)
    return content["emb"], int(content["count"])


def recordings(
    verifier: Verifier, corpora: Path, name: str, work: Path, most: int, is_far: bool = False
) -> Recordings:
    """Up to ``most`` recordings of each speaker; the last may have less than 10 s of speech."""
    of_speaker, rows = utterances(corpora, name), []
    noises = sorted((corpora / "noise_esc10").glob("*/*.flac"))
    if is_far:
        make_rirs(work / "rirs", RirsOptions(rooms=len(of_speaker), per_room=1, jobs=1))
        rirs = open_rirs([work / "rirs"])
    for number in range(most):
        for speaker, (key, paths) in enumerate(of_speaker.items()):
            if paths and (speaker in FAR or not is_far):
                read = map(read_audio, paths)
                wavs = map(partial(distant, rirs[speaker], noises), read) if is_far else read
                file = work / f"{name}_{key}_{number}{'_far' * is_far}.npz"
                emb_KE, count = embedded(verifier, wavs, file)
                of_speaker[key] = paths[count:]
                rows.append((emb_KE, speaker, number))
        print(f"{name}: {len(rows)} recordings, {time.process_time():.0f} s of processor time", flush=True)
    return Recordings(*map(np.array, zip(*rows, strict=True)))


def trials(near: Recordings, found: Recordings, speakers: range, enrol_look: int) -> SequentialTrials:
    """All pairs of near recordings, as they were after so many seconds of speech, and others of 10 s.

    A recording and a distant one of the same utterances are no pair.
    """
    enrol = np.flatnonzero(
        np.isin(near.speaker_N, speakers) & np.isfinite(near.emb_NKE[:, enrol_look - 1, 0])
    )
    test = np.flatnonzero(np.isin(found.speaker_N, speakers) & np.isfinite(found.emb_NKE[:, -1, 0]))
    enrol_N, test_N = (each.ravel() for each in np.meshgrid(enrol, test))
    kept = (near.speaker_N[enrol_N] != found.speaker_N[test_N]) | (
        near.number_N[enrol_N] != found.number_N[test_N]
    )
    enrol_N, test_N = enrol_N[kept], test_N[kept]
    score_NK = np.einsum("ne,nke->nk", near.emb_NKE[enrol_N, enrol_look - 1], found.emb_NKE[test_N])
    return SequentialTrials(score_NK.astype(float), near.speaker_N[enrol_N], found.speaker_N[test_N])


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
    far = recordings(verifier, corpora, "speechocean762", given.work, 1, is_far=True)
    other = recordings(verifier, corpora, "an4", given.work, given.recordings)
    if given.card:
        test = verifier.card.sequential
        assert test is not None, "the card has no sequential test"
        boundaries = Boundaries(np.array(test.same), np.array(test.different))
    else:
        close, away = (
            joined([trials(near, each, FITTED, look) for look in ENROLMENTS]) for each in (near, far)
        )
        times = round(close.target_N.sum() / away.target_N.sum())
        of_far = SequentialTrials(*(np.repeat(each[away.target_N], times, axis=0) for each in away))
        fitted = joined([some(close, NUM_TRIALS), of_far])
        boundaries, shares = fit_safely(fitted, *promised, num_draws=100, note=print)
        boundaries = Boundaries(*np.round(boundaries, 4))
        print(f"fitted to {shares[0]:g} and {shares[1]:g} of the errors that are promised")
        same, different = (", ".join(f"{x:.4f}" for x in each) for each in boundaries)
        print(f"same = [{same}]\ndifferent = [{different}]")
    heads = ("trials", "wrong of the decided", "undecided", "mean speech")
    print(f"| | {' | '.join([*heads, *heads])} |\n|---|{'---|' * 8}")
    for name, enrolled, found, speakers in (
        ("fitted on: near", near, near, FITTED),
        ("fitted on: far", near, far, FITTED),
        ("near", near, near, MEASURED),
        ("far", near, far, MEASURED),
        ("AN4", other, other, range(1000)),
    ):
        of_looks = [trials(enrolled, found, speakers, look) for look in ENROLMENTS]
        print(row(name, some(joined(of_looks), NUM_TRIALS), boundaries))
        for look, each in zip(ENROLMENTS, of_looks, strict=True):
            print(row(f"{name}, enrolments of {look} s", each, boundaries))


if __name__ == "__main__":
    main()
