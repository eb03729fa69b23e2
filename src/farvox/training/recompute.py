"""Activations computed again in the backward pass instead of kept: less memory, one more forward pass.

Only what goes in and out of a network's stages is kept (Chen et al., "Training deep nets with sublinear
memory cost", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from farvox.models.base import EmbeddingNetwork


def recompute_stages(network: EmbeddingNetwork) -> None:
    """From now on, the inside of every stage of ``network`` is computed again in the backward pass.

    Gradients are the same: dropout draws its masks again, and BatchNorm counts a batch once.
    Without gradients, nothing changes.
    """
    for stage in network.stages():
        batchnorms = [m for m in stage.modules() if isinstance(m, _BatchNorm)]
        contexts = partial(_first_and_again, batchnorms)
        again = partial(checkpoint, stage.forward, use_reentrant=False, context_fn=contexts)
        stage.forward = again


def _first_and_again(
    batchnorms: Sequence[_BatchNorm],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first pass and of the one in the backward pass."""
    return nullcontext(), _statistics_held(batchnorms)


@contextmanager
def _statistics_held(batchnorms: Sequence[_BatchNorm]) -> Iterator[None]:
    """What updates running statistics meanwhile updates copies of them."""
    kept = [(module, name, buffer) for module in batchnorms for name, buffer in module.named_buffers()]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
