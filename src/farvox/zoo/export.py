"""A model as one ONNX file, waveform in, embedding out: for devices that have onnxruntime and no torch.

The front-end is part of the graph: `farvox.features.fbank` is traced as it is.

Shape suffixes: B utterance, T sample, E embedding.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import farvox
from farvox.atomic import atomic_file
from farvox.audio.files import resample
from farvox.errors import MissingExtraError, ModelError
from farvox.features.fbank import Waveform
from farvox.rng import rng_for
from farvox.synthetic.voice import SAMPLE_RATE, draw_sentence, draw_voice, synthesise
from farvox.zoo.card import Card
from farvox.zoo.find import ONNX_SUFFIX
from farvox.zoo.model import Model
from farvox.zoo.onnx_backend import FORMAT, INPUT, OUTPUT, OnnxEmbedder, with_metadata
from farvox.zoo.torch_backend import model_digest

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference between embeddings of graph and torch, in parts of the embedding's largest number."""

_TRACED = (2, 3.017)  # utterances, seconds: neither is a length that the parity check runs at


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the graph's embeddings of one signal, or of several at worst, are from torch's.

    Attributes:
        signal: what was embedded.
        absolute: largest difference of two numbers.
        relative: the same in parts of the largest number of torch's embedding; this is held to `TOLERANCE`.
        angular: 1 - cosine.
    """

    signal: str
    absolute: float
    relative: float
    angular: float


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export_onnx` wrote.

    Attributes:
        path: the file.
        num_bytes: its size.
        opset: of the operators in it.
        sample_rate: Hz of the waveforms it takes.
        min_samples: samples in the shortest of them.
        parities: one for each signal of the parity check.
        seconds: the time it all took.
    """

    path: Path
    num_bytes: int
    opset: int
    sample_rate: int
    min_samples: int
    parities: tuple[Parity, ...]
    seconds: float

    @property
    def worst(self) -> Parity:
        """See `worst_of`."""
        return worst_of(self.parities)


def worst_of(parities: tuple[Parity, ...]) -> Parity:
    """The largest of each figure, with the signal that differs most."""
    return Parity(
        max(parities, key=lambda parity: parity.relative).signal,
        max(parity.absolute for parity in parities),
        max(parity.relative for parity in parities),
        max(parity.angular for parity in parities),
    )


def export_onnx(model: Model, card: Card, out: str | Path, *, tolerance: float = TOLERANCE) -> ExportReport:
    """Write a model as one self-contained ONNX file, if onnxruntime computes from it what torch computes.

    The graph takes ``wav_BT``, float32 samples in [-1, 1] at the model's rate, any number of utterances of
    one length, any from the model's `min_samples` up, and gives ``emb_BE``.

    Args:
        model: on the CPU.
        card: goes into the file, with ``config.json``, the digest and the version of farvox.
        out: the file, ending in ``.onnx``.
        tolerance: the bound on `Parity.relative`.

    Raises:
        ModelError: the name is not one of an ONNX file, the front-end dithers, the network is a WavLM, or the
            embeddings differ by more than the tolerance; nothing is written then.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    start = time.perf_counter()
    require_export()
    refuse_name(out)
    if model.frontend_config.dither:
        raise ModelError(
            f"{out}: not written: the front-end adds noise (dither {model.frontend_config.dither:g}), which "
            "no graph draws as torch does; set 'dither' to 0 in the model's config.json and export that"
        )
    if isinstance(model.frontend, Waveform):
        raise ModelError(
            f"{out}: not written: WavLM cannot be exported: torch traces its attention for one number of "
            "utterances only; use the model folder itself"
        )
    graph = _graph_bytes(model)
    content = with_metadata(graph, _metadata(model, card))
    with atomic_file(out) as unfinished:
        unfinished.write_bytes(content)
        parities = tuple(check_parity(model, OnnxEmbedder(unfinished)))
        worst = worst_of(parities)
        if not worst.relative <= tolerance:
            raise ModelError(
                f"{out}: not written: onnxruntime's embeddings are not torch's: {worst.signal} differs by "
                f"{worst.relative:.1e} of the embedding's largest number, and {tolerance:.0e} is allowed "
                f"(1 - cosine: {worst.angular:.1e})"
            )
    seconds = time.perf_counter() - start
    rate = model.frontend_config.sample_rate
    return ExportReport(Path(out), len(content), OPSET, rate, model.min_samples, parities, seconds)


def refuse_name(out: str | Path) -> None:
    """Refuse a name that is not one of an ONNX file.

    Raises:
        ModelError: it does not end in ``.onnx``, or is a folder's.
    """
    if Path(out).suffix != ONNX_SUFFIX:
        raise ModelError(f"{out}: the name of an exported model must end in '{ONNX_SUFFIX}'")
    if Path(out).is_dir():
        raise ModelError(f"{out}: is a folder, and a file is to be written there; choose another name")


def require_export() -> None:
    """Say which extra brings what an export needs, if it is not there.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(f"export needs {name}: pip install 'farvox[export]'") from error


def _graph_bytes(model: Model) -> bytes:
    """The graph of front-end and network, serialised."""
    module = nn.Sequential(model.frontend, model.network).eval()
    num_utts, seconds = _TRACED
    rate = model.frontend_config.sample_rate
    wav_BT = torch.randn(num_utts, max(int(seconds * rate), 2 * model.min_samples))
    any_size = torch.export.Dim.DYNAMIC
    with _quietly(), torch.no_grad():
        program = torch.export.export(module, (wav_BT,), dynamic_shapes=({0: any_size, 1: any_size},))
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert exported is not None
    return _stripped(exported.model_proto)


def _stripped(proto: Any) -> bytes:
    """A serialised graph without the exporter's notes on the source code (a fifteenth of CAM++'s file)."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.producer_name, proto.producer_version = "farvox", farvox.__version__
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch and onnxscript say about themselves, to Python's warnings and to logs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _metadata(model: Model, card: Card) -> dict[str, str]:
    return {
        "format": FORMAT,
        "farvox_version": farvox.__version__,
        "config": json.dumps(model.config, ensure_ascii=False),
        "card": json.dumps(card.to_dict(), ensure_ascii=False),
        "digest": model_digest(model),
        "min_samples": str(model.min_samples),
    }


def check_parity(model: Model, embedder: OnnxEmbedder) -> Iterator[Parity]:
    """Compare the embeddings of `parity_signals` by an exported file with those of `Model.embed`."""
    for name, wav_BT in parity_signals(model.frontend_config.sample_rate, model.min_samples).items():
        ours_BE = model.embed(torch.from_numpy(wav_BT)).double().cpu().numpy()
        theirs_BE = embedder.embed_batch(wav_BT).astype(np.float64)
        yield parity_of(name, ours_BE, theirs_BE)


def parity_of(signal: str, ours_BE: NDArray[np.float64], theirs_BE: NDArray[np.float64]) -> Parity:
    """How far one batch of embeddings is from another, at worst."""
    gap_B = np.abs(ours_BE - theirs_BE).max(axis=1)
    norms_B = np.linalg.norm(ours_BE, axis=1) * np.linalg.norm(theirs_BE, axis=1)
    cosine_B = (ours_BE * theirs_BE).sum(axis=1) / norms_B
    relative_B = gap_B / np.abs(ours_BE).max(axis=1)
    return Parity(signal, float(gap_B.max()), float(relative_B.max()), float((1 - cosine_B).max()))


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
    narrow_T = resample(resample(full_T, sample_rate, sample_rate // 2), sample_rate // 2, sample_rate)
    return {
        "the shortest waveform": speech(min_samples, 0)[None],
        "one sample more": np.stack([speech(min_samples + 1, 1), speech(min_samples + 1, 2)]),
        "speech": speech(lasting(6.43), 3)[None],
        "three utterances": np.stack([speech(lasting(1.237), 4 + n) for n in range(3)]),
        "speech 20 steps of 16 bits high": speech(lasting(2.05), 7, peak=20 / 32768)[None],
        "speech between digital silences": np.pad(speech(lasting(1.3), 8), (lasting(0.4), lasting(0.6)))[
            None
        ],
        "speech of half the band": in_16_bits(narrow_T)[None],
        "samples finer than 16 bits": 0.7312 * speech(lasting(3.6), 9)[None],
        "noise": 0.1 * rng_for(3, 1, 0).standard_normal((1, lasting(0.81)), dtype=np.float32),
    }
