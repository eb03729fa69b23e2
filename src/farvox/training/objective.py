"""The training objective: classification, agreement with a teacher, nearness to the starting weights.

Shape suffixes: B utterance, T sample, F frame, M mel, C class, E embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farvox.models.pooling import widen
from farvox.training.sharded import ShardedHead


class Losses(NamedTuple):
    """The results of one forward pass; scalars."""

    loss: Tensor
    """Mean over the utterances of all that is minimised."""
    num_right: Tensor
    """Utterances whose class was guessed."""
    distance: Tensor
    """Mean of 1 - cosine to the teacher's embeddings; 0 without a teacher."""


class TrainingModel(nn.Module):
    """Network and classifier head as one module, so that DDP sees one forward pass.

    The loss is ``classify`` x cross-entropy + ``distill`` x (1 - cosine to the teacher's embedding).

    Args:
        network: feats_BFM -> emb_BE.
        head: emb_BE, labels_B -> logits_BC, or a `ShardedHead`. With ``classify`` 0 it is not called
            and not trained.
        classify: weight of the cross-entropy.
        distill: weight of the distance to the teacher.
        compiled: run the network through torch.compile, for one shape of batch.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        *,
        classify: float = 1.0,
        distill: float = 0.0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        # A function, so that the names of the weights stay; the head's margin changes from step to step.
        self._embed = torch.compile(network.__call__, dynamic=False) if compiled else network.__call__
        self.classify, self.distill = classify, distill
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
        return Losses(loss, num_right, distance.detach())


class Teacher:
    """The starting model, frozen: what it makes of the clean take is the target for its far copy.

    Args:
        network: feats_BFM -> emb_BE; copied, so that training does not move it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def embed(self, feats_BFM: Tensor) -> Tensor:
        """emb_BE of the features of clean chunks, without gradient and in evaluation mode."""
        with torch.no_grad():
            target_BE: Tensor = self.network(feats_BFM)
        return target_BE


class Anchor:
    """L2-SP: a penalty strength / 2 x ||w - w0||^2 that keeps weights near where they started.

    Its gradient, strength x (w - w0), is added to that of the loss; the loss that is logged is without
    it. (Li, Grandvalet and Davoine, "Explicit inductive bias for transfer learning with convolutional
    networks", 2018, eq. 1.)

    Args:
        parameters: the weights, as they start.
        strength: alpha of the paper.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], strength: float) -> None:
        self.strength = strength
        self._pairs = [(weight, weight.detach().clone()) for weight in parameters if weight.requires_grad]

    def pull(self) -> None:
        """Add the penalty's gradient to the gradients of the loss."""
        for weight, start in self._pairs:
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - start, alpha=self.strength)
