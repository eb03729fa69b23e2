"""Parts of a network that are not trained, or not at first."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from farvox.errors import RecipeError

EVERYTHING = "network"
"""What stands for the whole network in a list of parts, so that only the classifier is trained."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """What is held still until it is released.

    Attributes:
        weights: of the frozen parts; such as the network never trains are not among them.
        batchnorms: of the frozen parts; their running statistics are held still too.
        release_epoch: the first epoch in which all is trained; 0: none.
    """

    weights: tuple[nn.Parameter, ...] = ()
    batchnorms: tuple[nn.Module, ...] = ()
    release_epoch: int = 0

    @property
    def is_released_later(self) -> bool:
        """Whether weights that are held still will be trained."""
        return bool(self.weights) and self.release_epoch > 0

    def apply(self, epoch: int) -> None:
        """Hold the parts still, or let them go; after the network was put into training mode."""
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
            near = difflib.get_close_matches(part, names, n=1)
            top = dict.fromkeys(name.split(".")[0] for name in names)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(top)}"
            raise RecipeError(
                f"optim.freeze: the network has no part '{part}'; {hint} ('{EVERYTHING}' is all of it)"
            )

    def is_in_a_part(name: str) -> bool:
        return any(part == EVERYTHING or f"{name}.".startswith(f"{part}.") for part in parts)

    weights = [w for name, w in network.named_parameters() if w.requires_grad and is_in_a_part(name)]
    batchnorms = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and is_in_a_part(name)
    ]
    return Frozen(tuple(weights), tuple(batchnorms), release_epoch)
