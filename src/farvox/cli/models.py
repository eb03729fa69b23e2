"""The verbs about models: what architectures there are, and how foreign checkpoints come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg
from tyro.extras import literal_type_from_choices

from farvox.errors import MissingExtraError
from farvox.zoo.layouts import LAYOUTS

if TYPE_CHECKING:
    from farvox.zoo import Card

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


def models(
    model: Annotated[Positional[str | None], arg(metavar="[MODEL]")] = None,
) -> None:
    """List the pretrained models, the network architectures and the heads that train them; or print a card.

    Args:
        model: print the card of this one: a name of the zoo, a model folder, a run dir or an .onnx file.
    """
    from farvox import zoo

    if model is not None:
        print(_card(zoo.read_card(model)))
        return
    print("pretrained models (farvox pull NAME; any command takes such a name as MODEL):")
    for name, entry in zoo.zoo_models().items():
        here = "here" if zoo.is_pulled(entry) else f"{entry.bytes / 1e6:.0f} MB"
        print(f"  {name:<17} {here:>12}  {entry.card.title}")
    try:
        zoo.require_torch()
    except MissingExtraError as error:
        print(f"\nnetworks: {error}")
        return
    _print_architectures()


def _print_architectures() -> None:
    import torch

    from farvox.models.registry import HEADS, MODELS, build_model

    print("\nnetworks, with the number of parameters at default sizes:")
    for name, (_, summary) in MODELS.items():
        try:
            with torch.device("meta"):
                network = build_model(name)
            size = f"{sum(parameter.numel() for parameter in network.parameters()):,}"
        except MissingExtraError as error:
            size, summary = "", f"{summary}; {error}"
        print(f"  {name:<17} {size:>12}  {summary}")
    print("\nheads:")
    for name, (_, summary) in HEADS.items():
        print(f"  {name:<17} {summary}")


def _card(card: Card) -> str:
    """A card in lines."""
    rows = {
        "model": f"{card.name}: {card.title}" if card.title else card.name,
        "licence": card.licence,
        "published by": card.publisher,
        "training data": card.training_data,
        "features": card.features,
    }
    if card.threshold is not None:
        rows["threshold"] = f"{card.threshold:g}; {card.threshold_note}"
    if card.calibration:
        fitted = card.calibration
        rows["calibration"] = f"llr = {fitted.scale:g} x score {fitted.offset:+g}; {fitted.note}"
    lines = [f"{key:<14} {value}" for key, value in rows.items() if value]
    for figure in card.figures:
        measured = f"EER {figure.eer:.2%}, minDCF {figure.min_dcf:.3f}, {figure.num_trials:,} trials"
        lines += [f"{'measured':<14} {measured}: {figure.data}", f"{'':<14} $ {figure.command}"]
    return "\n".join(lines) or "this model has no card"
