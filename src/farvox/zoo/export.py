"""A model as one ONNX file, waveform in, embedding out: it runs without torch, and faster.

The front-end is part of the graph. A file is only written if onnxruntime computes from it what torch does.

Shape suffixes: B utterance, T sample, E embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import farvox
from farvox.atomic import FileKind, atomic_file, refuse_to_replace
from farvox.audio.files import resample
from farvox.errors import ModelError
from farvox.rng import rng_for
from farvox.synthetic.voice import SAMPLE_RATE, draw_sentence, draw_voice, synthesise
from farvox.zoo.card import Card
from farvox.zoo.embedder import import_extra
from farvox.zoo.graph import OPSET, write_graph
from farvox.zoo.model import Model, one_thread, why_no_graph
from farvox.zoo.onnx_backend import FORMAT, INPUT, ONNX_SUFFIX, OUTPUT, OnnxEmbedder, with_metadata
from farvox.zoo.torch_backend import model_digest

TOLERANCE = 1e-4
"""Largest difference between embeddings of graph and torch, in parts of the embedding's largest number."""

_TRACED = ((1, 1.1), (2, 3.3))  # utterances, seconds: none is a length that the parity check runs at


@dataclass(frozen=True, slots=True)
class Parity:
    """The distance of the graph's embeddings of one signal, or of several at worst, from torch's."""

    signal: str  # what was embedded
    absolute: float  # largest difference of two numbers
    relative: float  # the same in parts of the largest number of torch's embedding; held to `TOLERANCE`
    angular: float  # 1 - cosine


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of `export_onnx`."""

    path: Path
    num_bytes: int
    opset: int  # of the operators in it
    sample_rate: int  # Hz of the waveforms it takes
    min_samples: int  # in the shortest of them
    parities: tuple[Parity, ...]  # one for each signal of the parity check

    @property
    def worst(self) -> Parity:
        """The largest of each figure, with the signal that differs most."""
        return Parity(
            max(self.parities, key=lambda parity: parity.relative).signal,
            max(parity.absolute for parity in self.parities),
            max(parity.relative for parity in self.parities),
            max(parity.angular for parity in self.parities),
        )


def export_onnx(
    model: Model,
    card: Card,
    out: str | Path,
    *,
    tolerance: float = TOLERANCE,
    extra: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write a model as one self-contained ONNX file, if onnxruntime computes from it what torch computes.

    The graph takes ``wav_BT``, float32 samples in [-1, 1] at the model's rate, any number of utterances of
    one length, any from the model's `min_samples` up, and gives ``emb_BE``.

    Args:
        model: on the CPU.
        card: goes into the file, with ``config.json``, the digest, the version of farvox and ``extra``.
        out: the file, ending in ``.onnx``.
        tolerance: the bound on `Parity.relative`.

    Raises:
        ModelError: the name is not one of an ONNX file, the model has no graph (see `why_no_graph`), or the
            embeddings differ by more than the tolerance; nothing is written then.
        MissingExtraError: onnxruntime is not installed.
    """
    require_export()
    refuse_name(out)
    config = model.frontend_config
    if reason := why_no_graph(config):
        raise ModelError(f"{out}: not written: {reason}")
    module = nn.Sequential(model.frontend, model.network).eval()
    least = model.min_samples
    one, other = (torch.randn(n, least + int(seconds * config.sample_rate)) for n, seconds in _TRACED)
    metadata = {
        "format": FORMAT,
        "farvox_version": farvox.__version__,
        "config": json.dumps(model.config, ensure_ascii=False),
        "card": json.dumps(asdict(card), ensure_ascii=False),
        "digest": model_digest(model),
        "min_samples": str(least),
        **(extra or {}),
    }
    with one_thread(), atomic_file(out) as unfinished:
        content = with_metadata(write_graph(module, (one, other), INPUT, OUTPUT), metadata)
        unfinished.write_bytes(content)
        embedder, parities = OnnxEmbedder(unfinished), []
        for name, wav_BT in parity_signals(config.sample_rate, least).items():
            ours_BE = model.embed(torch.from_numpy(wav_BT)).double().cpu().numpy()
            parities.append(parity_of(name, ours_BE, embedder.embed_batch(wav_BT).astype(np.float64)))
        report = ExportReport(Path(out), len(content), OPSET, config.sample_rate, least, tuple(parities))
        worst = report.worst
        if not worst.relative <= tolerance:
            raise ModelError(
                f"{out}: not written: onnxruntime's embeddings are not torch's: {worst.signal} differs by "
                f"{worst.relative:.1e} of the embedding's largest number, and {tolerance:.0e} is allowed "
                f"(1 - cosine: {worst.angular:.1e})"
            )
    return report


def refuse_name(out: str | Path, kind: FileKind | None = None) -> None:
    """Refuse a name that is not one of an ONNX file, or of a file that is not of a ``kind``.

    Raises:
        ModelError: it does not end in ``.onnx``.
        FarvoxError: as `refuse_to_replace`.
    """
    if Path(out).suffix != ONNX_SUFFIX:
        raise ModelError(f"{out}: the name of an exported model must end in '{ONNX_SUFFIX}'")
    refuse_to_replace(out, kind)


def require_export() -> None:
    """Say which extra brings what an export needs, if it is not there.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    import_extra("onnxruntime", "export needs onnxruntime: pip install 'farvox[export]'")


def parity_of(signal: str, ours_BE: NDArray[np.float64], theirs_BE: NDArray[np.float64]) -> Parity:
    """The largest distance of one batch of embeddings from another."""
    gap_B = np.abs(ours_BE - theirs_BE).max(axis=1)
    norms_B = np.linalg.norm(ours_BE, axis=1) * np.linalg.norm(theirs_BE, axis=1)
    cosine_B = (ours_BE * theirs_BE).sum(axis=1) / norms_B
    relative_B = gap_B / np.abs(ours_BE).max(axis=1)
    return Parity(signal, float(gap_B.max()), float(relative_B.max()), float((1 - cosine_B).max()))


@cache
def parity_signals(sample_rate: int, min_samples: int) -> dict[str, NDArray[np.float32]]:
    """Signals on which a graph and torch could part: name -> wav_BT, of lengths and batches never traced.

    Speech is synthetic. Faint filters, whose logarithm shows every rounding, are asked for by 16-bit samples
    a few steps high, by digital silence and by speech that has nothing in the upper half of the band but the
    rounding to 16 bits (without it, at a ``sample_scale`` of 32768, the features there are rounding errors).
    """

    def speech(num_samples: int, position: int, peak: float = 0.5) -> NDArray[np.float32]:
        rng = rng_for(3, 0, position)
        sentence = draw_sentence(rng, 2 * num_samples / sample_rate + 2)
        wav_T = resample(synthesise(draw_voice(rng), sentence, rng), SAMPLE_RATE, sample_rate)
        wav_T = wav_T[len(wav_T) // 3 :][:num_samples]
        return in_16_bits(wav_T * (peak / np.abs(wav_T).max()))

    def in_16_bits(wav_T: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray(np.rint(wav_T * 32768) / 32768, np.float32)

    def lasting(seconds: float) -> int:
        return max(int(seconds * sample_rate), min_samples)

    full_T = speech(lasting(2.31), 5)
    silences = lasting(0.4), lasting(0.6)
    narrow_T = resample(resample(full_T, sample_rate, sample_rate // 2), sample_rate // 2, sample_rate)
    return {
        "the shortest waveform": speech(min_samples, 0)[None],
        "one sample more": np.stack([speech(min_samples + 1, 1), speech(min_samples + 1, 2)]),
        "speech": speech(lasting(6.43), 3)[None],
        "three utterances": np.stack([speech(lasting(1.237), 4 + n) for n in range(3)]),
        "speech 20 steps of 16 bits high": speech(lasting(2.05), 7, peak=20 / 32768)[None],
        "speech between digital silences": np.pad(speech(lasting(1.3), 8), silences)[None],
        "speech of half the band": in_16_bits(narrow_T)[None],
        "samples finer than 16 bits": 0.7312 * speech(lasting(3.6), 9)[None],
        "noise": 0.1 * rng_for(3, 1, 0).standard_normal((1, lasting(0.81)), dtype=np.float32),
    }
