"""The verbs about models: what architectures there are, and how foreign checkpoints come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg
from tyro.extras import literal_type_from_choices

from farvox.zoo.layouts import LAYOUTS

EMBEDDINGS = "ffsvc-embeddings"

if TYPE_CHECKING:
    Arch = str
else:
    Arch = literal_type_from_choices([*LAYOUTS, EMBEDDINGS])


def import_checkpoint(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    arch: Arch,
) -> None:
    """Convert what another toolkit saved; nothing in the file is ever executed.

    Args:
        checkpoint: of 3D-Speaker (campplus_cn_en_common.pt), WeSpeaker (avg_model.pt), SpeechBrain
            (embedding_model.ckpt) or the FFSVC2022 baseline (model_37.pkl, or a test_37.npy of embeddings);
            or a .safetensors of the same weights by the same names.
        out: the folder to write: a model (config.json, model.safetensors and the baseline's classifier if
            there is one), or a set of embeddings.
        arch: what the file holds.
    """
    from farvox import zoo

    if arch == EMBEDDINGS:
        embeddings = zoo.import_embeddings(checkpoint, out)
        print(f"{out}: {len(embeddings.utt_ids):,} embeddings of {embeddings.embeddings.shape[1]} numbers")
        return
    model = zoo.import_checkpoint(checkpoint, out, arch)
    num_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    print(f"{out}: {arch}, {num_parameters:,} parameters, embeddings of {model.embedding_dim} numbers")


def models() -> None:
    """List the network architectures and the heads that train them."""
    from farvox.zoo import require_torch

    require_torch()
    import torch

    from farvox.models.registry import HEADS, MODELS, build_model

    print("networks, with the number of parameters at default sizes:")
    for name, (_, summary) in MODELS.items():
        with torch.device("meta"):
            network = build_model(name)
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        print(f"  {name:<17} {num_parameters:>12,}  {summary}")
    print("\nheads:")
    for name, (_, summary) in HEADS.items():
        print(f"  {name:<17} {summary}")
