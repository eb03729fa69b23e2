"""A classifier head whose rows are shared out among the ranks; a step can draw a share of its classes.

Shape suffixes: B utterance of this rank, A utterance of any rank, C class of this rank, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from farvox.errors import RecipeError
from farvox.models.margin import Head
from farvox.models.pooling import widen
from farvox.rng import rng_for
from farvox.training.checkpoint import Packed, Tensors, pack_optimizer
from farvox.training.distributed import World, concat_over_ranks, sum_over_ranks

SAMPLE_STREAM = 3
"""Stream of `rng_for` that draws the classes of a step."""


class ShardedHead(nn.Module):
    """One rank's part of a head: a contiguous range of classes, scored for the utterances of all ranks.

    The softmax is over the classes of all ranks, so that loss and gradients are those of the whole head.
    With ``share`` below 1 a step sees the classes of the global batch and, of each shard, random others
    (An et al., "Killing two birds with one stone: efficient and robust training of face recognition CNNs
    by Partial FC", 2022). For rows that are not drawn the step does not take place: no gradient, no
    weight decay, and their momentum waits until they are drawn again.

    All ranks call `forward`, `draw` and `whole_state` together.

    Args:
        head: the whole head, the same on every rank; it is cut down to this rank's classes. Only then is
            it moved to a device, so that the whole never need fit there.
        share: of a shard's classes that a step sees; more where the batch has more.

    Raises:
        RecipeError: there are fewer classes than ranks.
    """

    def __init__(self, head: Head, world: World, *, share: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if head.num_classes < world.size:
            raise RecipeError(
                f"optim.shard_head: {head.num_classes} classes do not go round {world.size} processes"
            )
        self.world, self.share, self.seed = world, share, seed
        self.total = head.num_classes
        bounds = [self.total * rank // world.size for rank in range(world.size + 1)]
        self.counts = np.diff(bounds).tolist()
        self.classes = range(bounds[world.rank], bounds[world.rank + 1])
        self.part = head
        for weight in head.parameters():
            weight.data = self.own(weight.data).clone()
            if world.size > 1:  # it is of the sum of the ranks' losses; DDP makes a mean of all others
                weight.register_hook(lambda of_sum: of_sum / world.size)  # type: ignore[no-untyped-call]
        head.num_classes = len(self.classes)
        self._drawn: Tensor | None = None
        self._shard: dict[str, dict[str, Tensor]] = {}

    def describe(self) -> str:
        """A line on the number of classes of each rank."""
        shared = f"classifier in {self.world.size} shard(s) of up to {max(self.counts)} classes"
        return shared + (f", {self.share:.3g} of them drawn for a step" if self.share < 1.0 else "")

    def forward(self, emb_BE: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of this rank's utterances, and the number whose class was guessed.

        Every rank brings as many utterances, with labels that were given to `draw`. The gradient is that of
        the sum of the ranks' losses.
        """
        with torch.autocast(emb_BE.device.type, enabled=False):
            emb_AE = concat_over_ranks(widen(emb_BE), self.world)
            own_A = self.world.concat(labels_B) - self.classes.start
            is_other_A = (own_A < 0) | (own_A >= len(self.classes))
            if self._drawn is not None:  # the place among the drawn classes
                place_A = torch.searchsorted(self._drawn, own_A).clamp(max=len(self._drawn) - 1)
                is_drawn_A = self._drawn[place_A] == own_A
                torch._assert_async((is_drawn_A | is_other_A).all(), "a label was not given to `draw`")
                own_A = place_A
            own_A = own_A.masked_fill(is_other_A, -1)  # of another rank
            logits_AC = self.part(emb_AE, own_A)
            highest_A = self.world.max(logits_AC.detach().amax(dim=1))
            at_label_A = logits_AC.gather(1, own_A.clamp(min=0).unsqueeze(1)).squeeze(1)
            part_A = (logits_AC.logsumexp(dim=1) - highest_A).exp()
            sums = torch.stack([part_A, at_label_A.masked_fill(own_A < 0, 0.0)])
            total_A, label_A = sum_over_ranks(sums)
            entropy_A = total_A.log() + highest_A - label_A
            first = self.world.rank * len(emb_BE)
            mine = slice(first, first + len(emb_BE))
            return entropy_A[mine].mean(), (label_A >= highest_A)[mine].sum()

    def draw(self, labels_B: Tensor, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """Draw the classes of one step; until the next draw the head has only their rows, and moments.

        ``labels_B`` are those of all utterances of this rank in the step; until the next draw `forward` takes
        no others. The draw depends on the epoch, the step in it and the rank.
        """
        if self.share == 1.0:
            return
        self._put_back(optimizer)
        own_A = self.world.concat(labels_B.to(self.world.device)).cpu().numpy() - self.classes.start
        present = np.unique(own_A[(own_A >= 0) & (own_A < len(self.classes))])
        rng = rng_for(self.seed, epoch, step * self.world.size + self.world.rank, SAMPLE_STREAM)
        rank_C = rng.random(len(self.classes), dtype=np.float32)
        rank_C[present] = -1.0
        wanted = max(math.ceil(self.share * len(self.classes)), len(present))
        drawn = np.sort(np.argpartition(rank_C, wanted - 1)[:wanted])
        self._drawn = torch.from_numpy(drawn).to(self.world.device)
        for name, weight, moments in self._rows(optimizer):
            rows = self._row_numbers(len(weight))
            self._shard[name] = {"weight": weight.data, **moments}
            weight.data, weight.grad = weight.data[rows], None
            optimizer.state[weight].update({key: value[rows] for key, value in moments.items()})
        self.part.num_classes = wanted

    def _put_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the drawn rows back among the others: the head has all classes of the shard again."""
        if self._drawn is None:
            return
        for name, weight, moments in self._rows(optimizer):
            shard = self._shard.pop(name)
            rows = self._row_numbers(len(shard["weight"]))
            for key, value in moments.items():  # Adam's begin with its first step
                shard.setdefault(key, torch.zeros_like(shard["weight"], dtype=value.dtype))[rows] = value
                optimizer.state[weight][key] = shard[key]
            shard["weight"][rows] = weight.data
            weight.data, weight.grad = shard["weight"], None
        self._drawn, self.part.num_classes = None, len(self.classes)

    def own(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor that has those of all classes."""
        each = len(whole) // self.total
        return whole[self.classes.start * each : self.classes.stop * each]

    def whole_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Packed]:
        """State of head and optimiser, packed, as without shards; whole on rank 0 only."""
        self._put_back(optimizer)
        head = {name: self._gather(value) for name, value in self.part.state_dict().items()}
        tensors, numbers = pack_optimizer(optimizer)
        ours = self._moment_keys(optimizer, tensors)
        whole = {key: self._gather(value) if key in ours else value for key, value in tensors.items()}
        return head, (whole, numbers)

    def own_moments(self, optimizer: torch.optim.Optimizer, whole: Tensors) -> Tensors:
        """The optimiser's tensors with this rank's part of the whole head's moments."""
        ours = self._moment_keys(optimizer, whole)
        return {key: self.own(value) if key in ours else value for key, value in whole.items()}

    def _rows(
        self, optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        """Name, weight and moments (the optimiser's numbers for each row) of the head's parameters."""
        for name, weight in self.part.named_parameters():
            state = optimizer.state.get(weight, {})
            shape = weight.shape
            yield name, weight, {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == shape}

    def _row_numbers(self, num_rows: int) -> Tensor:
        """Rows of the drawn classes in a tensor with so many rows for the shard."""
        assert self._drawn is not None
        each = num_rows // len(self.classes)
        centres = torch.arange(each, device=self._drawn.device)
        return (self._drawn.unsqueeze(1) * each + centres).flatten()

    def _moment_keys(self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> set[str]:
        """The names of an optimiser's packed tensors that have a row for each of the head's."""
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        heads = {id(weight) for weight in self.part.parameters()}
        ours = {str(number) for number, weight in enumerate(parameters) if id(weight) in heads}
        return {key for key, value in tensors.items() if key.split(".")[0] in ours and value.dim()}

    def _gather(self, own: Tensor) -> Tensor:
        if self.world.size == 1:
            return own
        each = len(own) // len(self.classes)
        return self.world.gather_parts(own, [count * each for count in self.counts])
