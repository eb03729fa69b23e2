"""False acceptance and rejection of `farvox verify` by what was done to a recording.

Speakers 101 to 125 of speechocean762, 8 utterances each, all pairs: one side as recorded (or both altered),
the other altered. A recording that is refused rejects all its pairs. The rows are those of docs/verify.md.

    FARVOX_CORPORA=DIR python benchmarks/recordings.py [--no-vad-extra] [--model MODEL] [ROW ...]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import farvox.audio.speech
from farvox import Verifier
from farvox.audio.files import read_audio, resample
from farvox.errors import AudioError
from farvox.rng import rng_for

Wave = NDArray[np.float32]
RATE, SPEAKERS, UTTERANCES = 16000, slice(100, 125), 8


def noise(wav_T: Wave, seconds: float, level: float) -> Wave:
    """White noise at a level, dB of full scale; the same for the same recording."""
    rng = rng_for(1, 0, len(wav_T))
    return (10 ** (level / 20) * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def cut(wav_T: Wave, seconds: float) -> Wave:
    """The loudest stretch of a length."""
    count = round(seconds * RATE)
    energy_T = np.concatenate([[0], np.cumsum(wav_T.astype(np.float64) ** 2)])
    begin = int(np.argmax(energy_T[count:] - energy_T[:-count]))
    return wav_T[begin : begin + count]


def sixteen_bits(wav_T: Wave) -> Wave:
    """As a file of 16 bits keeps it."""
    return (np.round(wav_T * 32768) / 32768).astype(np.float32)


def narrow(wav_T: Wave) -> Wave:
    """To 8 kHz and back."""
    return sixteen_bits(resample(resample(wav_T, RATE, 8000), 8000, RATE))


def hissing(level: float) -> Callable[[Wave], Wave]:
    """The recording with hiss on a second channel."""
    return lambda wav_T: np.stack([wav_T, noise(wav_T, len(wav_T) / RATE, level)])


ROWS: dict[str, tuple[Callable[[Wave], Wave], bool]] = {
    "as recorded": (lambda wav_T: wav_T, True),
    "stereo, hiss at -50 dB on one channel, both sides": (hissing(-50), True),
    "stereo, hiss at -75 dB on one channel, both sides": (hissing(-75), True),
    "20 s of zeros before one side": (lambda wav_T: np.pad(wav_T, (20 * RATE, 0)), False),
    "20 s of noise at -60 dB before one side": (lambda wav_T: np.append(noise(wav_T, 20, -60), wav_T), False),
    "0.35 s of one side": (lambda wav_T: cut(wav_T, 0.35), False),
    "0.5 s of one side": (lambda wav_T: cut(wav_T, 0.5), False),
    "1 s of one side": (lambda wav_T: cut(wav_T, 1.0), False),
    "8 kHz, one side": (narrow, False),
    "8 kHz, both sides": (narrow, True),
    "-30 dB, one side, 16 bits": (lambda wav_T: sixteen_bits(wav_T * np.float32(10**-1.5)), False),
    "-40 dB, one side, 16 bits": (lambda wav_T: sixteen_bits(wav_T * np.float32(0.01)), False),
    "-40 dB, one side, float": (lambda wav_T: wav_T * np.float32(0.01), False),
}  # fmt: skip


def recordings(corpora: Path) -> tuple[list[str], list[Wave]]:
    """Speakers and samples of the utterances."""
    folder = corpora / "speechocean762"
    of_speaker: dict[str, list[str]] = {}
    for line in (folder / "train/utt2spk").read_text().splitlines():
        utt_id, speaker = line.split()
        of_speaker.setdefault(speaker, []).append(utt_id)
    paths = dict(line.split() for line in (folder / "train/wav.scp").read_text().splitlines())
    pairs = [(s, u) for s in sorted(of_speaker)[SPEAKERS] for u in sorted(of_speaker[s])[:UTTERANCES]]
    found = [folder / paths[utt_id] for _, utt_id in pairs]
    files = [path if path.exists() else path.with_suffix(".flac") for path in found]
    return [speaker for speaker, _ in pairs], [read_audio(path) for path in files]


def embedded(verifier: Verifier, wavs: list[Wave]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings of length 1, NaN for a recording that is refused; and whether it is noted as narrow-band."""
    rows, nothing = [], np.full(verifier.embedder.embedding_dim, np.nan, np.float32)
    is_narrow = np.zeros(len(wavs), bool)
    for n, wav in enumerate(wavs):
        try:
            signal = verifier.signal((wav, RATE))
            is_narrow[n] = any(note.code == "narrow-band" for note in signal.warnings)
            rows.append(verifier.embed(signal))
        except AudioError:
            rows.append(nothing)
    return np.stack(rows), is_narrow


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all by default")
    parser.add_argument("--model", default="campplus-zh-en")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--no-vad-extra", action="store_true", help="as where silero-vad is not installed")
    parser.add_argument("--band", default="auto", choices=("auto", "full", "narrow"))
    given = parser.parse_args()
    if given.no_vad_extra:
        farvox.audio.speech.silero = lambda: None  # type: ignore[assignment]
    bands = ["full", "narrow"] if given.band == "auto" and given.threshold is None else [given.band]
    verifiers = [Verifier.from_pretrained(given.model, threshold=given.threshold, band=b) for b in bands]
    speakers, wavs = recordings(Path(os.environ["FARVOX_CORPORA"]))
    is_same = np.equal.outer(speakers, speakers)
    is_pair = ~np.eye(len(speakers), dtype=bool)
    as_recorded = [embedded(verifier, wavs) for verifier in verifiers]
    thresholds = ", ".join(
        f"{verifier.threshold:.4g} ({b})" for b, verifier in zip(bands, verifiers, strict=True)
    )
    print(f"threshold {thresholds}\n\n| recording | FAR | FRR |\n|---|---|---|", flush=True)
    for name in given.rows or ROWS:
        alter, both = ROWS[name]
        altered_wavs = [alter(wav_T) for wav_T in wavs]
        accepted = []
        for verifier, (plain_NE, plain_is_narrow) in zip(verifiers, as_recorded, strict=True):
            altered_NE, is_narrow = embedded(verifier, altered_wavs)
            left_NE, left_is_narrow = (altered_NE, is_narrow) if both else (plain_NE, plain_is_narrow)
            accepted.append(left_NE @ altered_NE.T >= verifier.threshold)
            decides_narrow = np.logical_or.outer(left_is_narrow, is_narrow)  # as `Verifier.verify` has it
        decided = np.where(decides_narrow, accepted[-1], accepted[0])
        far, frr = decided[~is_same].mean(), 1 - decided[is_same & is_pair].mean()
        print(f"| {name} | {100 * far:.2f} % | {100 * frr:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
