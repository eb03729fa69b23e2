"""Ways of training a network: frozen parts, and activations computed again instead of kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from farvox.errors import RecipeError
from farvox.models.base import EmbeddingNetwork
from farvox.options import nearest
from farvox.training.options import EVERYTHING


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
    """The parts of a network that begin with one of some names.

    Args:
        network: the network.
        parts: names of modules or parameters, ``front`` or ``blocks.0`` for instance; ``network`` is all.
        release_epoch: see `Frozen`.

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

    def is_in_a_part(name: str) -> bool:
        return any(part == EVERYTHING or f"{name}.".startswith(f"{part}.") for part in parts)

    weights = [w for name, w in network.named_parameters() if w.requires_grad and is_in_a_part(name)]
    batchnorms = [
        module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and is_in_a_part(name)
    ]
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
