"""Classification heads that pull the embeddings of one speaker together by a margin.

Shape suffixes: B utterance, E embedding, C class (speaker), K sub-centre. Logits are computed in
float32, also under autocast.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.errors import ModelError
from farvox.models.options import AamOptions, HeadOptions, SoftmaxOptions
from farvox.models.pooling import widen


class Head(nn.Module, ABC):
    """A classifier with rows of weights for each class; its margin is an attribute that a schedule sets."""

    def __init__(
        self, embedding_dim: int, num_classes: int, options: HeadOptions, num_subcentres: int = 1
    ) -> None:
        super().__init__()
        if embedding_dim < 1 or num_classes < 1:
            raise ModelError(f"a head needs classes and an embedding, not {num_classes} and {embedding_dim}")
        self.margin: float = options.margin
        self.scale: float = options.scale
        self.num_classes: int = num_classes
        self.num_subcentres: int = num_subcentres
        self.weight: nn.Parameter = nn.Parameter(_xavier(num_classes * num_subcentres, embedding_dim))

    def extend_classes(self, num_new: int) -> None:
        """Append classes; the old ones keep their weights. Build the optimiser afterwards."""
        if num_new < 0:
            raise ModelError(f"cannot extend a head by {num_new} classes")
        rows, columns = self.weight.shape
        extended = _xavier(rows + num_new * self.num_subcentres, columns).to(self.weight)
        extended[:rows] = self.weight.detach()
        self.weight = nn.Parameter(extended)
        self.num_classes += num_new


def _xavier(rows: int, columns: int) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(rows, columns))


class SoftmaxHead(Head):
    """A linear layer, on which the margin has no effect."""

    def __init__(self, embedding_dim: int, num_classes: int, options: HeadOptions = SoftmaxOptions()) -> None:
        super().__init__(embedding_dim, num_classes, options)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, emb_BE: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Logits [B, C]."""
        with torch.autocast(emb_BE.device.type, enabled=False):
            return fn.linear(widen(emb_BE), widen(self.weight), widen(self.bias))

    def extend_classes(self, num_new: int) -> None:
        """Append classes; the old ones keep their weights. Build the optimiser afterwards."""
        super().extend_classes(num_new)
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), self.bias.new_zeros(num_new)]))


class CosineHead(Head):
    """Scaled cosines to one or several centres of each class; a subclass applies the margin.

    Row ``K c + k`` of the weight is centre k of class c; the nearest centre counts (Deng et al., 2020).
    """

    @abstractmethod
    def _with_margin(self, cosine_B1: Tensor) -> Tensor:
        """The cosine of the true class, made harder."""

    def forward(self, emb_BE: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Logits [B, C]: scaled cosines, with the margin at the labels where labels are given.

        A negative label is of a class that is not among these, so that no cosine has the margin.
        """
        with torch.autocast(emb_BE.device.type, enabled=False):
            cosine_BC = fn.linear(fn.normalize(widen(emb_BE)), fn.normalize(widen(self.weight)))
            if self.num_subcentres > 1:
                cosine_BC = cosine_BC.view(-1, self.num_classes, self.num_subcentres).amax(dim=2)
            if labels_B is not None:
                labels_B1 = labels_B.long().unsqueeze(1)
                at_label = labels_B1.clamp(min=0)
                cosine_B1 = cosine_BC.gather(1, at_label)
                harder_B1 = torch.where(labels_B1 < 0, cosine_B1, self._with_margin(cosine_B1))
                cosine_BC = cosine_BC.scatter(1, at_label, harder_B1)
            return self.scale * cosine_BC


class AmHead(CosineHead):
    """Additive margin softmax: cos t - m (Wang et al., "Additive margin softmax", 2018)."""

    def _with_margin(self, cosine_B1: Tensor) -> Tensor:
        """Subtract the margin from the cosine."""
        return cosine_B1 - self.margin


class AamHead(CosineHead):
    """Additive angular margin softmax: cos(t + m) (Deng et al., "ArcFace", 2019).

    With several centres a class, wrong labels have their own (Deng et al., 2020).
    """

    def __init__(self, embedding_dim: int, num_classes: int, options: AamOptions = AamOptions()) -> None:
        super().__init__(embedding_dim, num_classes, options, options.num_subcentres)
        self.easy_margin = options.easy_margin

    def _with_margin(self, cosine_B1: Tensor) -> Tensor:
        """Add the margin to the angle."""
        # The floor is for a sine of 0: the gradient of the root would be infinite there.
        sine_B1 = (1.0 - cosine_B1.square()).clamp(min=torch.finfo(cosine_B1.dtype).tiny).sqrt()
        phi_B1 = cosine_B1 * math.cos(self.margin) - sine_B1 * math.sin(self.margin)
        if self.easy_margin:
            return torch.where(cosine_B1 > 0, phi_B1, cosine_B1)
        beyond_B1 = cosine_B1 - math.sin(math.pi - self.margin) * self.margin
        return torch.where(cosine_B1 > math.cos(math.pi - self.margin), phi_B1, beyond_B1)
