"""The training objective and the ways of training a network: frozen parts, activations computed again.

The objective is classification, agreement with a teacher and of the copies of a chunk, and nearness to the
starting weights.

Shape suffixes: B utterance, T sample, F frame, M mel, C class, E embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from farvox.errors import RecipeError
from farvox.models.base import EmbeddingNetwork
from farvox.models.pooling import widen
from farvox.options import nearest
from farvox.training.options import EVERYTHING
from farvox.training.sharded import ShardedHead


class Losses(NamedTuple):
    """The results of one forward pass; scalars."""

    loss: Tensor
    """Mean over the utterances of all that is minimised."""
    num_right: Tensor
    """Utterances whose class was guessed."""
    distance: Tensor
    """Mean of 1 - cosine to the teacher's embeddings; without a teacher, between the copies of a chunk."""


class TrainingModel(nn.Module):
    """Network and classifier head as one module, so that DDP sees one forward pass.

    The loss is ``classify`` x cross-entropy + ``distill`` x (1 - cosine to the teacher's embedding)
    + ``agree`` x (1 - cosine between the embeddings of the two copies of a chunk, which follow each other).

    Args:
        network: feats_BFM -> emb_BE; if ``compiled``, run through torch.compile, for one shape of batch.
        head: emb_BE, labels_B -> logits_BC, or a `ShardedHead`. With ``classify`` 0 it is not called
            and not trained.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        classify: float = 1.0,
        distill: float = 0.0,
        agree: float = 0.0,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.head = network, head
        # A function, so that the names of the weights stay; the head's margin changes from step to step.
        self._embed = torch.compile(network.__call__, dynamic=False) if compiled else network.__call__
        self.classify, self.distill, self.agree = classify, distill, agree
        if not classify:
            head.requires_grad_(False)

    def forward(self, feats_BFM: Tensor, labels_B: Tensor, target_BE: Tensor | None = None) -> Losses:
        """The losses of a batch; ``target_BE`` are the teacher's embeddings."""
        emb_BE = self._embed(feats_BFM)
        loss = num_right = distance = torch.zeros((), device=emb_BE.device)
        if self.classify:
            if isinstance(self.head, ShardedHead):
                entropy, num_right = self.head(emb_BE, labels_B)
            else:
                logits_BC = widen(self.head(emb_BE, labels_B))
                with torch.no_grad():
                    num_right = (logits_BC.argmax(dim=1) == labels_B).sum()
                entropy = F.cross_entropy(logits_BC, labels_B)
            loss = self.classify * entropy
        if target_BE is not None:
            distance = 1.0 - F.cosine_similarity(emb_BE.float(), target_BE.float()).mean()
            loss = loss + self.distill * distance
        if self.agree:
            apart = 1.0 - F.cosine_similarity(widen(emb_BE[::2]), widen(emb_BE[1::2])).mean()
            loss = loss + self.agree * apart
            distance = apart if target_BE is None else distance
        return Losses(loss, num_right, distance.detach())


def teacher_of(network: nn.Module) -> nn.Module:
    """A frozen copy of the starting model: its embedding of the clean take is the target for its far copy."""
    return copy.deepcopy(network).eval().requires_grad_(False)


class Anchor:
    """L2-SP: a penalty strength / 2 x ||w - w0||^2 that keeps weights near where they started.

    Its gradient, strength x (w - w0), is added to that of the loss; the loss that is logged is without
    it. (Li, Grandvalet and Davoine, "Explicit inductive bias for transfer learning with convolutional
    networks", 2018, eq. 1; strength is its alpha.)
    """

    def __init__(self, parameters: Iterable[nn.Parameter], strength: float) -> None:
        self.strength = strength
        self._pairs = [(weight, weight.detach().clone()) for weight in parameters if weight.requires_grad]

    def pull(self) -> None:
        """Add the penalty's gradient to the gradients of the loss."""
        for weight, start in self._pairs:
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - start, alpha=self.strength)


@dataclass(frozen=True, eq=False)
class Frozen:
    """Parts of a network that are not trained until they are released.

    Attributes:
        weights: of the frozen parts; such as the network never trains are not among them.
        batchnorms: of the frozen parts; their running statistics are frozen too.
        release_epoch: the first epoch in which all is trained; 0: none.
    """

    weights: tuple[nn.Parameter, ...] = ()
    batchnorms: tuple[nn.Module, ...] = ()
    release_epoch: int = 0

    @property
    def is_released_later(self) -> bool:
        """Frozen weights will be trained later."""
        return bool(self.weights) and self.release_epoch > 0

    def apply(self, epoch: int) -> None:
        """Freeze or release the parts; to be called after the network was put into training mode."""
        held = self.release_epoch == 0 or epoch < self.release_epoch
        for weight in self.weights:
            weight.requires_grad_(not held)
        for batchnorm in self.batchnorms if held else ():
            batchnorm.eval()


def find_frozen(network: nn.Module, parts: Sequence[str], release_epoch: int) -> Frozen:
    """The parts of a network, by names of modules or parameters such as ``blocks.0``; ``network`` is all.

    Raises:
        RecipeError: a name is not of the network; the message has the nearest.
    """
    names = [name for name, _ in network.named_modules() if name] + [n for n, _ in network.named_parameters()]
    for part in parts:
        if part != EVERYTHING and part not in names:
            top = dict.fromkeys(name.split(".")[0] for name in names)
            hint = nearest(part, names) or f"; it has {', '.join(top)}"
            raise RecipeError(
                f"optim.freeze: the network has no part '{part}'{hint} ('{EVERYTHING}' is all of it)"
            )
    begin = tuple("" if part == EVERYTHING else f"{part}." for part in parts)
    weights = [w for n, w in network.named_parameters() if w.requires_grad and f"{n}.".startswith(begin)]
    modules = [m for n, m in network.named_modules() if f"{n}.".startswith(begin)]
    batchnorms = [module for module in modules if isinstance(module, _BatchNorm)]
    return Frozen(tuple(weights), tuple(batchnorms), release_epoch)


def recompute_stages(network: EmbeddingNetwork) -> None:
    """From now on, the inside of every stage of ``network`` is computed again in the backward pass.

    Only the inputs and outputs of the stages are kept: less memory, one more forward pass (Chen et al.,
    "Training deep nets with sublinear memory cost", 2016). Gradients are the same: dropout draws its masks
    again, and BatchNorm counts a batch once. Without gradients, nothing changes.
    """
    for stage in network.stages():
        batchnorms = [m for m in stage.modules() if isinstance(m, _BatchNorm)]
        # One context for the first pass, one for the pass in the backward pass.
        contexts = partial(lambda norms: (nullcontext(), _kept_statistics(norms)), batchnorms)
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False, context_fn=contexts)


@contextmanager
def _kept_statistics(batchnorms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Meanwhile, updates of running statistics go into copies of them."""
    kept = [(module, name, buffer) for module in batchnorms for name, buffer in module.named_buffers()]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
