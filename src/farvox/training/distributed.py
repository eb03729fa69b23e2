"""The ranks of a run, one process or many, and the operations that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from farvox.errors import NonFiniteLossError, RecipeError
from farvox.models.pooling import widen
from farvox.training.launch import LOST_STATUS
from farvox.training.meeting import Watch, meet
from farvox.zoo.model import pick_device


@dataclass(frozen=True)
class World:
    """The place of this process among the ranks, its device, and what the others know of it."""

    rank: int
    size: int
    device: torch.device
    watch: Watch | None = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """True for rank 0, which writes files and prints."""
        return self.rank == 0

    def enter(self, stage: str, *, waits: bool = False) -> None:
        """Tell the others what this rank does from now on; with ``waits``, it needs them for it."""
        if self.watch:
            self.watch.enter(stage, waits)

    def waiting(self) -> AbstractContextManager[None]:
        """Within the block, this rank needs the others."""
        return self.watch.waiting() if self.watch else nullcontext()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            with self.waiting():
                dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks, without gradient."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, without gradient."""
        values = values.detach().clone()
        if self.size > 1:
            with self.waiting():
                dist.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Largest value of any rank, without gradient."""
        values = values.detach().clone()
        if self.size > 1:
            with self.waiting():
                dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def concat(self, local: Tensor) -> Tensor:
        """The ranks' tensors, of one shape, one after the other; without gradient."""
        if self.size == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.size)]
        with self.waiting():
            dist.all_gather(parts, local.detach().contiguous())
        return torch.cat(parts)

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank rank 0's buffers (BatchNorm's running statistics differ between ranks)."""
        if self.size > 1:
            with self.waiting():
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)

    def gather_rows(self, local: Tensor, total: int) -> Tensor:
        """Put together rows [total, E] that were shared out as ``rows[rank::size]``, on every rank."""
        if self.size == 1:
            return local
        share = -(-total // self.size)
        padded = local.new_zeros((share, local.shape[1]))
        padded[: len(local)] = local
        parts = self.concat(padded).view(self.size, share, -1)
        return parts.transpose(0, 1).reshape(share * self.size, -1)[:total]

    def gather_parts(self, local: Tensor, lengths: Sequence[int]) -> Tensor:
        """Put parts [lengths[rank], ...] of all ranks together in rank 0's CPU memory; others get none."""
        padded = local.new_zeros((max(lengths), *local.shape[1:]))
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in lengths] if self.is_main else None
        with self.waiting():
            dist.gather(padded, parts, dst=0)
        whole = [part[:length].cpu() for part, length in zip(parts or [], lengths, strict=False)]
        return torch.cat(whole) if whole else local.new_zeros(0)


@contextmanager
def join_world(device: str = "auto", wait_minutes: float = 10.0) -> Iterator[World]:
    """Join the ranks that `launch_ranks` or ``torchrun`` started; without them the process is alone.

    A rank that loses the others, waits for them longer than ``wait_minutes``, or stops with them, exits with
    status `LOST_STATUS`, so that its message is not the one that is shown.

    Raises:
        RecipeError: the device asked for is not there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    kind = pick_device(device)
    place = torch.device(kind)
    if kind == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise RecipeError(f"{local_rank + 1} or more processes, but {torch.cuda.device_count()} GPU(s)")
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    store = meet(rank, size, 60 * wait_minutes)
    watch = Watch(store, rank, size, 60 * wait_minutes)
    try:
        watch.enter("the start", waits=True)
        backend, limit = "nccl" if kind == "cuda" else "gloo", timedelta(hours=24)  # the watch is sooner
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        yield World(rank, size, place, watch)
    except NonFiniteLossError as error:  # of all ranks, and rank 0 knows most
        if rank == 0:
            raise
        raise SystemExit(LOST_STATUS) from error
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        watch.stop("it has lost other processes of the run")
    finally:
        watch.close()
        if dist.is_initialized():
            dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    """All-reduce that the gradient passes back through (the adjoint of a sum is a sum)."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with statistics over all ranks, on any device (torch's own refuses the CPU).

    Same parameters, buffers and state-dict keys as the BatchNorm it takes the place of.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        return

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over all axes but the second, over all ranks."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        x = widen(input)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        total = sum_over_ranks(torch.cat([x.sum(axes), count]))
        mean, count = total[:-1] / total[-1], total[-1]
        centred = x - mean.view(shape)
        var = sum_over_ranks((centred * centred).sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(var * count / (count - 1), rate)
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over the ranks, if there are several; its gradient is the sum of the gradients of all ranks."""
    if not dist.is_initialized():
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


def concat_over_ranks(values_BE: Tensor, world: World) -> Tensor:
    """The rows of all ranks, as many of each, one after the other; each rank gets the gradient of its own."""
    before, after = (count * len(values_BE) for count in (world.rank, world.size - 1 - world.rank))
    return sum_over_ranks(nn.functional.pad(values_BE, (0, 0, before, after)))


def synchronise_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm below ``module`` by `SyncBatchNorm`, keeping parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SyncBatchNorm):
            synced = SyncBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            synced.load_state_dict(child.state_dict())
            for own, old in zip(synced.parameters(), child.parameters(), strict=True):
                own.requires_grad_(old.requires_grad)
            setattr(module, name, synced)
        else:
            synchronise_batchnorm(child)
    return module
