"""``farvox average``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def average(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...")],
    weights: tuple[float, ...] = (),
) -> None:
    """Average the weights of models of one architecture: the last epochs of a run, or several fine-tunings.

    Args:
        out: the model folder to write.
        models: two or more; RUN_DIR@30..37 stands for the epochs 30 to 37 of a run.
        weights: share of each, in any unit (default: all alike).
    """
    from farvox.zoo import average_models

    print(f"{out}: the average of {average_models(out, models, weights)} models")
