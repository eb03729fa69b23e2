"""An exported model (``farvox export``), run by OpenVINO: on CPUs with bf16 the fastest of all.

OpenVINO's bf16 is of a whole graph, and a front-end in bf16 is deaf to faint filters. So the graph is cut in
front of its first convolution, and only what is behind it multiplies in bf16.

Shape suffixes: B utterance, T sample, E embedding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from farvox.errors import ModelError
from farvox.zoo.embedder import (
    PRECISIONS,
    Embedding,
    Wave,
    import_extra,
    pool_of,
    refuse_long,
    refuse_short,
    repr_of,
)
from farvox.zoo.onnx_backend import ExportedModel, num_cores


class OpenvinoEmbedder(ExportedModel):
    """An ``.onnx`` file as an `farvox.zoo.embedder.Embedder`; several threads may use it at once.

    In ``bf16`` the network multiplies in bfloat16, and the front-end stays in float32.

    Raises:
        ModelError: there is no such file, it is none of farvox's, it is damaged, or the CPU has no bf16.
        MissingExtraError: openvino is not installed.
    """

    __repr__ = repr_of

    def __init__(self, path: str | Path, precision: str = "fp32", *, content: bytes | None = None) -> None:
        super().__init__(path, content=content)
        if precision not in PRECISIONS:
            raise ModelError(f"precision '{precision}' is unknown: {' or '.join(PRECISIONS)}")
        self.precision: str = precision
        remedy = "--backend openvino needs it: pip install 'farvox[openvino]'"
        self._openvino = import_extra("openvino", remedy)
        self._core = self._openvino.Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ModelError("this CPU has no bf16 (avx512_bf16 or amx_bf16): leave --precision out")
        self._side = threading.local()
        self._for_workers: dict[int, tuple[Any, ...]] = {}

    @property
    def backend(self) -> str:
        """OpenVINO with its version."""
        return f"openvino {self._openvino.__version__}"

    def embed(self, wav_T: Wave) -> Embedding:
        """See `Embedder`."""
        wav_T = self.card.conditioning.apply(wav_T, self.sample_rate)
        refuse_short(len(wav_T), self.min_samples)
        refuse_long(self, len(wav_T))
        run = getattr(self._side, "run", None) or _request(*self._on_all_cores)
        emb_E: Embedding = np.array(run(np.ascontiguousarray(wav_T[None], dtype=np.float32))[0], np.float32)
        return emb_E

    @contextmanager
    def side_by_side(self, workers: int = 0) -> Iterator[ThreadPoolExecutor]:
        """See `Embedder`."""
        workers = workers or num_cores()
        if workers not in self._for_workers:  # compiling takes seconds
            self._for_workers[workers] = self._compiled(workers, streams=workers)
        compiled = self._for_workers[workers]

        def begin() -> None:
            self._side.run = _request(*compiled)

        with pool_of(workers, begin) as pool:
            yield pool

    @cached_property
    def _on_all_cores(self) -> tuple[Any, ...]:
        return self._compiled(num_cores(), streams=1)

    def _compiled(self, threads: int, streams: int) -> tuple[Any, ...]:
        """The graph, or a front-end and the graph behind it, ready to run.

        It is run once: where two threads are the first to do so, they may wait for each other for ever.
        """
        settings = {"NUM_STREAMS": str(streams), "INFERENCE_NUM_THREADS": str(threads)}
        content = self.content()
        try:
            if self.precision == "fp32":
                parts = {"f32": self._core.read_model(content)}
            else:
                parts = dict(zip(("f32", "bf16"), self._cut(content), strict=True))
            compiled = tuple(
                self._core.compile_model(part, "CPU", {**settings, "INFERENCE_PRECISION_HINT": name})
                for name, part in parts.items()
            )
            _request(*compiled)(np.zeros((1, self.min_samples), np.float32))
        except (RuntimeError, StopIteration) as error:
            raise ModelError(f"{self.path}: {self.backend} cannot run it: {error}") from error
        return compiled

    def _cut(self, content: bytes) -> tuple[Any, Any]:
        """Waveform to features, and waveform (whose length it wants to know) and features to embedding."""
        openvino = self._openvino
        whole, behind = self._core.read_model(content), self._core.read_model(content)
        features = _first_convolution(whole).input(0).get_source_output()
        frontend = openvino.Model([features], whole.get_parameters(), "frontend")
        given = openvino.opset13.parameter(features.get_partial_shape(), np.float32)
        _first_convolution(behind).input(0).replace_source_output(given.output(0))
        return frontend, openvino.Model(behind.get_results(), [*behind.get_parameters(), given], "network")


def _request(first: Any, second: Any = None) -> Callable[[Wave], Any]:
    """The compiled model as wav_1T -> emb_1E, in one thread at a time."""
    one = first.create_infer_request()
    if second is None:
        return lambda wav_1T: one.infer([wav_1T])[0]
    other = second.create_infer_request()
    return lambda wav_1T: other.infer([wav_1T, one.infer([wav_1T])[0]])[0]


def _first_convolution(graph: Any) -> Any:
    return next(node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution")
