"""What keeps the weights when a gradient is not finite, without waiting for the device every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farvox.errors import NonFiniteLossError


class Guard:
    """Holds weights and BatchNorm's statistics still from the first fault on, until someone looks.

    All is arithmetic on the device. A step whose gradient is not finite is not taken, nor is any after
    it: `look` puts the statistics back to what they were before the faulty step, and says so.

    Args:
        model: whose buffers are kept.
        device: where it computes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self._steps = 0
        self._found = torch.zeros(4, device=device)  # fault (0 or 1), its loss, gradient norm, step
        self._kept: list[Tensor] = []

    def remember(self) -> None:
        """Keep the statistics as they are before a step's first forward pass."""
        now = [torch.cat([b.flatten() for b in group]) for group in self._buffers()]
        is_faulty = self._found[0] > 0
        kept = zip(self._kept, now, strict=True) if self._kept else ()
        self._kept = [torch.where(is_faulty, before, after) for before, after in kept] or now
        self._steps += 1

    def watch(self, loss: Tensor, grad_norm: Tensor, *, forgiven: Tensor | None = None) -> Tensor:
        """1.0 where the step must not be taken, else 0.0: the ``found_inf`` of torch's fused optimisers.

        Args:
            loss: of the step.
            grad_norm: of its gradient, over all ranks.
            forgiven: where true, the step is left out, and it is no fault.
        """
        is_finite = torch.isfinite(grad_norm)
        is_fault = ~is_finite if forgiven is None else ~is_finite & ~forgiven
        step = torch.full_like(loss, self._steps)
        fault = torch.stack([is_fault.float(), loss, grad_norm, step]).float()
        self._found = torch.where((self._found[0] == 0) & is_fault, fault, self._found)
        return torch.maximum(self._found[0], (~is_finite).float())

    def look(self) -> None:
        """Wait for the device, and see whether all is well.

        Raises:
            NonFiniteLossError: a gradient was not finite; all is as before that step.
        """
        fault, loss, grad_norm, step = self._found.tolist()
        if not fault:
            return
        for group, kept in zip(self._buffers(), self._kept, strict=True):
            for buffer, before in zip(group, torch.split(kept, [b.numel() for b in group]), strict=True):
                buffer.copy_(before.view_as(buffer))
        raise NonFiniteLossError(
            f"loss {loss:.4g}, gradient norm {grad_norm:.4g}; the weights were not touched. "
            "Lower optim.lr, set optim.clip_norm, or look for damaged audio with 'farvox check'",
            steps_ago=self._steps - int(step),
        )

    def _buffers(self) -> list[list[Tensor]]:
        """By type: they are kept in one piece."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in self.model.buffers():
            groups.setdefault(buffer.dtype, []).append(buffer)
        return list(groups.values())
