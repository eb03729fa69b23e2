"""Freeze foreign checkpoints and what they give: foreign_keys.json, foreign.json and speechbrain.npz.

    python make_foreign.py WESPEAKER_CHECKOUT 3D_SPEAKER_CHECKOUT SPEECHBRAIN_CHECKOUT

Origins: WeSpeaker (wespeaker/models/resnet.py, ecapa_tdnn.py, campplus.py), 3D-Speaker
(speakerlab/models/campplus/DTDNN.py, eres2net/ERes2NetV2.py) and SpeechBrain 1.1.0
(lobes/models/ECAPA_TDNN.py, lobes/features.py, processing/features.py), run in float64 on the CPU (the
features in float32). Every weight is filled by `make_models.weight` of the name that the toolkit itself gives
it, so that a checkpoint can be made again from names and shapes alone, without the toolkits. Needs torch
only; run once, with 2.13.

foreign_keys.json: of each network at its published size, and of each small one, the names and shapes of its
state dict. foreign.json: the embeddings of the small ones, and of the published ones every 16th number.
speechbrain.npz: features of the waveforms of make_features.py, every third frame.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_features import waveforms
from make_models import features, load_wespeaker, weight
from torch import Tensor, nn

HERE = Path(__file__).parent


def stub(checkout: Path, *packages: str) -> None:
    """Packages without their __init__, which import much more."""
    for package in packages:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(checkout / package.replace(".", "/"))]


def originals(wespeaker: Path, speakerlab: Path, speechbrain: Path) -> dict[str, tuple[str, nn.Module]]:
    """Case -> (layout, network)."""
    load_wespeaker(wespeaker)
    resnet, ecapa, we_campplus = (
        importlib.import_module(f"wespeaker.models.{name}") for name in ("resnet", "ecapa_tdnn", "campplus")
    )
    folders = ("campplus", "eres2net")
    stub(speakerlab, "speakerlab", "speakerlab.models", *(f"speakerlab.models.{each}" for each in folders))
    campplus = importlib.import_module("speakerlab.models.campplus.DTDNN")
    eres2netv2 = importlib.import_module("speakerlab.models.eres2net.ERes2NetV2").ERes2NetV2
    load_speechbrain(speechbrain)
    sb = importlib.import_module("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN

    small_campplus = {"growth_rate": 16, "bn_size": 2, "init_channels": 16}
    small_eres2net = {"m_channels": 16, "num_blocks": [2, 1, 2, 1], "embedding_size": 16}
    w24s4ep4 = {"baseWidth": 24, "scale": 4, "expansion": 4}  # of another model that 3D-Speaker published
    sb_small = {"channels": [32, 32, 32, 32, 48], "res2net_scale": 2, "se_channels": 16}
    full = {"channels": [1024] * 4 + [3072], "attention_channels": 128, "lin_neurons": 192}

    def we_resnet(blocks: list[int], **kwargs: Any) -> nn.Module:
        return resnet.ResNet(resnet.BasicBlock, blocks, m_channels=16, feat_dim=80, embed_dim=16, **kwargs)

    def we_ecapa(**kwargs: Any) -> nn.Module:
        return ecapa.ECAPA_TDNN(channels=128, feat_dim=80, embed_dim=16, **kwargs)

    return {
        "3dspeaker-campplus": ("3dspeaker-campplus", campplus.CAMPPlus(80, 192)),
        "3dspeaker-campplus-small": ("3dspeaker-campplus", campplus.CAMPPlus(80, 16, **small_campplus)),
        "3dspeaker-eres2netv2": ("3dspeaker-eres2netv2", eres2netv2()),
        "3dspeaker-eres2netv2-small": ("3dspeaker-eres2netv2", eres2netv2(**small_eres2net)),
        "3dspeaker-eres2netv2-small-w24s4ep4": (
            "3dspeaker-eres2netv2", eres2netv2(**small_eres2net, **w24s4ep4)
        ),
        "wespeaker-campplus": ("wespeaker-campplus", we_campplus.CAMPPlus(80, 512)),
        "wespeaker-resnet34": ("wespeaker-resnet34", resnet.ResNet34(80, 256)),
        "wespeaker-resnet34-small": ("wespeaker-resnet34", we_resnet([3, 4, 6, 3])),
        "wespeaker-resnet18-small-astp": ("wespeaker-resnet34", we_resnet([2, 2, 2, 2], pooling_func="ASTP")),
        "wespeaker-ecapa-glob-c512": ("wespeaker-ecapa", ecapa.ECAPA_TDNN_GLOB_c512(80, 192)),
        "wespeaker-ecapa-c1024": ("wespeaker-ecapa", ecapa.ECAPA_TDNN_c1024(80, 192)),
        "wespeaker-ecapa-small": ("wespeaker-ecapa", we_ecapa()),
        "wespeaker-ecapa-small-bn": ("wespeaker-ecapa", we_ecapa(emb_bn=True)),
        "wespeaker-ecapa-small-tstp": ("wespeaker-ecapa", we_ecapa(pooling_func="TSTP")),
        "wespeaker-ecapa-small-glob": ("wespeaker-ecapa", we_ecapa(global_context_att=True)),
        "wespeaker-ecapa-small-glob-bn": ("wespeaker-ecapa", we_ecapa(global_context_att=True, emb_bn=True)),
        "speechbrain-ecapa": ("speechbrain-ecapa", sb(80, **full)),
        "speechbrain-ecapa-small": (
            "speechbrain-ecapa", sb(80, lin_neurons=16, attention_channels=24, **sb_small)
        ),
    }  # fmt: skip


def load_speechbrain(checkout: Path) -> None:
    """SpeechBrain's modules can be imported with a torchaudio that is empty: nothing here uses it."""
    folders = ("lobes", "lobes.models", "nnet", "processing", "dataio", "utils")
    stub(checkout, "speechbrain", *(f"speechbrain.{folder}" for folder in folders))
    torchaudio = types.ModuleType("torchaudio")
    torchaudio.__spec__ = ModuleSpec("torchaudio", None)
    torchaudio.__version__ = "2.8.0"
    torchaudio.list_audio_backends = lambda: ["soundfile"]
    sys.modules["torchaudio"] = torchaudio


def embeddings(network: nn.Module, lengths: tuple[int, ...], every: int) -> dict[str, list[Any]]:
    """Of two utterances at some lengths, of every ``every``-th dimension."""

    def embedded(feats_BFM: Tensor) -> Tensor:
        speechbrain = type(network).__module__.startswith("speechbrain")  # which else divides in float32
        out = network(feats_BFM, *([torch.ones(2, dtype=torch.float64)] if speechbrain else []))
        out = out[-1] if isinstance(out, tuple) else out
        return out.reshape(2, -1)

    return {str(n): embedded(features(2, n, 80))[:, ::every].tolist() for n in lengths}


def speechbrain_features() -> dict[str, np.ndarray]:
    """Fbank of 80 mels and its mean subtraction, as the recipes for VoxCeleb have them."""
    fbank = importlib.import_module("speechbrain.lobes.features").Fbank(n_mels=80)
    normalise: Callable[..., Tensor] = importlib.import_module(
        "speechbrain.processing.features"
    ).InputNormalization(norm_type="sentence", std_norm=False)
    golden = {}
    for name, wav_T in waveforms().items():
        log_mel = fbank(torch.from_numpy(wav_T)[None])
        golden[f"{name}.log_mel"] = log_mel[0, ::3].numpy()
        golden[f"{name}.normalised"] = normalise(log_mel, torch.ones(1))[0, ::3].numpy()
    return golden


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    torch.set_grad_enabled(False)
    keys, cases = [], []
    for name, (layout, network) in originals(*map(Path, sys.argv[1:])).items():
        shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
        keys.append(f"{json.dumps(name)}: {json.dumps({'layout': layout, 'shapes': shapes})}")
        for key, tensor in network.double().eval().state_dict().items():
            if not key.endswith("num_batches_tracked"):
                tensor.copy_(weight(key, tensor.shape))
        lengths, every = ((23, 230), 1) if "small" in name else ((60,), 16)
        found = embeddings(network, lengths, every)
        cases.append(f"{json.dumps(name)}: {json.dumps({'every': every, 'embeddings': found})}")
    origin = '"origin": "tests/golden/make_foreign.py, from the toolkits\' own modules"'
    for file, entries in (("foreign_keys", keys), ("foreign", cases)):
        text = ",\n".join([origin, *entries])
        (HERE / f"{file}.json").write_text(f"{{{text}}}\n")
    np.savez_compressed(HERE / "speechbrain.npz", **speechbrain_features())


if __name__ == "__main__":
    main()
