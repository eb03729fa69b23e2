"""Freeze what the original networks and heads give: writes models.json and margins.json beside this file.

    python make_models.py FFSVC_BASELINE_CHECKOUT WESPEAKER_CHECKOUT

Origins: the FFSVC2022 baseline (model/resnet.py, model/tdnn.py, model/classifier.py) and WeSpeaker
(wespeaker/models/resnet.py, ecapa_tdnn.py, tdnn.py, pooling_layers.py). Their modules are imported
from the checkouts and run in float64 on the CPU with weights and inputs filled by a formula of the
name and index, so that no weight is stored. Names are ours: an original's parameter takes the values
of the parameter it corresponds to here. Needs torch (with numpy) only; run once, with 2.8. The tests import
`formula`, `fill` and `features` from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import types
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

HERE = Path(__file__).parent


def formula(name: str, shape: Sequence[int]) -> Tensor:
    """Numbers in [-1, 1) that depend on a name and an index only (the splitmix64 mixing function)."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
    return torch.from_numpy(x.astype(np.float64) * 2.0**-52 - 1.0).reshape(tuple(shape))


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """A weight of a plausible size: activations keep their scale, batch norms are near identity."""
    noise = formula(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * noise
    if len(shape) >= 2:
        return noise * (3 / np.prod(shape[1:])) ** 0.5
    if name.endswith("weight"):
        return 1 + 0.2 * noise
    return noise if name.endswith(".v") else 0.1 * noise


def fill(network: nn.Module, ours: Callable[[str], str] = str) -> nn.Module:
    """Fill parameters and running statistics by the formula, in place; ``ours`` translates names."""
    for name, tensor in network.state_dict().items():
        if ours(name) == "pool.hidden+context.weight":
            bottleneck, channels, _ = tensor.shape
            hidden = weight("pool.hidden.weight", (bottleneck, channels // 3, 1))
            context = weight("pool.context.weight", (bottleneck, channels // 3 * 2))
            tensor.copy_(torch.cat([hidden, context.unsqueeze(-1)], dim=1))
        elif not name.endswith("num_batches_tracked"):
            tensor.copy_(weight(ours(name), tensor.shape))
    return network.eval()


def features(num_utterances: int, num_frames: int, num_mels: int) -> Tensor:
    """Features [B, F, M] by the formula."""
    return 3 * formula("features", (num_utterances, num_frames, num_mels))


# ---------------------------------------------------------------- names: WeSpeaker's to ours


def resnet_name(name: str) -> str:
    name = pool_name(name.replace("shortcut", "downsample").replace("seg_1", "embedding"))
    return name if name.startswith(("embedding", "pool")) else f"front.{name}"


def pool_name(name: str) -> str:
    name = name.replace("pool.linear1.weight", "pool.hidden+context.weight")
    return name.replace("pool.linear1", "pool.hidden").replace("pool.linear2", "pool.weights")


def ecapa_name(name: str) -> str:
    name = re.sub(r"^layer1\.", "first.", name)
    name = re.sub(r"^layer(\d)\.se_res2block\.", lambda m: f"blocks.{int(m[1]) - 2}.layers.", name)
    name = re.sub(r"\.convs\.(\d)\.", r".convs.\1.conv.", name)
    name = re.sub(r"\.bns\.(\d)\.", r".convs.\1.norm.", name)
    name = re.sub(r"\.bn\.", ".norm.", name)
    name = name.replace(".3.linear1", ".3.squeeze").replace(".3.linear2", ".3.excite")
    for theirs, ours in (("conv", "aggregate"), ("bn", "pool_norm"), ("linear", "embedding")):
        name = re.sub(rf"^{theirs}\.", f"{ours}.", name)
    return pool_name(re.sub(r"^bn2\.", "embedding_norm.", name))


def xvector_name(name: str) -> str:
    name = re.sub(r"^frame_(\d)\.", lambda m: f"frames.{int(m[1]) - 1}.", name)
    return name.replace("conv_1d", "0").replace(".bn.", ".2.").replace("seg_1", "embedding")


# ---------------------------------------------------------------- the originals


def load_file(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"original_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_wespeaker(checkout: Path) -> types.SimpleNamespace:
    """WeSpeaker's model files without its package's __init__, which imports much more."""
    for package in ("wespeaker", "wespeaker.models"):
        stub = types.ModuleType(package)
        stub.__path__ = [str(checkout / package.replace(".", "/"))]
        sys.modules[package] = stub
    names = ("resnet", "ecapa_tdnn", "tdnn", "pooling_layers")
    return types.SimpleNamespace(**{n: importlib.import_module(f"wespeaker.models.{n}") for n in names})


def summed_inputs(ecapa: type[nn.Module]) -> type[nn.Module]:
    """WeSpeaker's ECAPA-TDNN with the inputs of the paper: the sum of all outputs before."""

    class Summed(ecapa):  # type: ignore[misc,valid-type]
        def forward(self, x: Tensor) -> tuple[None, Tensor]:
            out1 = self.layer1(x.transpose(1, 2))
            out2 = self.layer2(out1)
            out3 = self.layer3(out1 + out2)
            out4 = self.layer4(out1 + out2 + out3)
            out = fn.relu(self.conv(torch.cat([out2, out3, out4], dim=1)))
            return None, self.bn2(self.linear(self.bn(self.pool(out))))

    return Summed


def model_cases(ffsvc: Path, wespeaker: Path) -> list[dict[str, Any]]:
    resnet, tdnn = load_file(ffsvc / "model/resnet.py"), load_file(ffsvc / "model/tdnn.py")
    we = load_wespeaker(wespeaker)
    block, blocks = we.resnet.BasicBlock, [3, 4, 6, 3]

    def ffsvc_resnet(channels: int, size: int) -> nn.Module:
        return resnet.ResNet34StatsPool(channels, size)

    def ffsvc_ecapa(channels: int, size: int) -> nn.Module:
        return tdnn.ECAPA_TDNN(in_dim=80, hidden_dim=channels, embedding_size=size)

    def we_resnet(channels: int, size: int, asp: bool = False) -> nn.Module:
        model = we.resnet.ResNet(block, blocks, m_channels=channels, feat_dim=80, embed_dim=size)
        if asp:
            model.pool = we.pooling_layers.ASTP(in_dim=model.stats_dim, global_context_att=True)
        return model

    def we_ecapa(channels: int, size: int, summed: bool) -> nn.Module:
        ecapa = we.ecapa_tdnn.ECAPA_TDNN
        cls = summed_inputs(ecapa) if summed else ecapa
        return cls(channels=channels, embed_dim=size, global_context_att=True, emb_bn=True)

    def we_xvector(channels: int, size: int) -> nn.Module:
        return we.tdnn.XVEC(feat_dim=80, hid_dim=channels, stats_dim=3 * channels, embed_dim=size)

    def mels_first(model: nn.Module, feats_BFM: Tensor) -> Tensor:
        return model(feats_BFM.transpose(1, 2))

    def last_output(model: nn.Module, feats_BFM: Tensor) -> Tensor:
        return model(feats_BFM)[-1]

    def first_output(model: nn.Module, feats_BFM: Tensor) -> Tensor:
        return model(feats_BFM)[0]

    small, ecapa = {"channels": 4, "embedding_dim": 16}, {"channels": 32, "embedding_dim": 16}
    small_asp = {**small, "pooling": "asp"}
    summed, last = {"aggregate_channels": 1536}, {"aggregate_channels": 1536, "summed_inputs": False}
    xvector = {"channels": 16, "pooled_channels": 48, "embedding_dim": 16}
    every = 16  # of the embeddings of the full-width networks, every 16th number is kept
    return [
        case("ffsvc-resnet34", small, ffsvc_resnet(4, 16), str, mels_first, (1, 41)),
        case("ffsvc-resnet34", {}, ffsvc_resnet(32, 256), str, mels_first, (30,), every),
        case("ffsvc-ecapa", ecapa, ffsvc_ecapa(32, 16), str, mels_first, (9, 41)),
        case("ffsvc-ecapa", {}, ffsvc_ecapa(1024, 256), str, mels_first, (30,), every),
        case("resnet34", small, we_resnet(4, 16), resnet_name, last_output, (17, 41)),
        case("resnet34", {}, we_resnet(32, 256), resnet_name, last_output, (30,), every),
        case("resnet34", small_asp, we_resnet(4, 16, asp=True), resnet_name, last_output, (41,)),
        case("ecapa", ecapa | last, we_ecapa(32, 16, summed=False), ecapa_name, last_output, (5, 41)),
        case("ecapa", ecapa | summed, we_ecapa(32, 16, summed=True), ecapa_name, last_output, (5, 41)),
        case("ecapa", last, we_ecapa(512, 192, summed=False), ecapa_name, last_output, (30,), every),
        case("ecapa", {}, we_ecapa(512, 192, summed=True), ecapa_name, last_output, (30,), every),
        case("xvector", xvector, we_xvector(16, 16), xvector_name, first_output, (16, 41)),
    ]


def case(
    model: str,
    kwargs: dict[str, Any],
    original: nn.Module,
    ours: Callable[[str], str],
    run: Callable[[nn.Module, Tensor], Tensor],
    lengths: Sequence[int],
    every: int = 1,
) -> dict[str, Any]:
    """The embeddings of two utterances at some lengths; of every ``every``-th dimension."""
    fill(original.double(), ours)
    with torch.no_grad():
        embeddings = {str(n): run(original, features(2, n, 80))[:, ::every].tolist() for n in lengths}
    return {"model": model, "kwargs": kwargs, "every": every, "embeddings": embeddings}


def margin_cases(ffsvc: Path) -> list[dict[str, Any]]:
    classifier = load_file(ffsvc / "model/classifier.py")
    heads = [("am", classifier.AMSoftmax, m, s, {}) for m, s in ((0.2, 32.0), (0.0, 30.0))]
    heads += [
        ("aam", classifier.AAMSoftmax, m, s, {"easy_margin": easy})
        for m, s, easy in ((0.2, 32.0, False), (0.2, 64.0, True), (0.5, 30.0, False), (0.0, 32.0, False))
    ]
    cases = []
    for name, cls, margin, scale, kwargs in heads:
        head = cls(8, 5, None, m=margin, s=scale, **kwargs).double()
        head.weight.data = formula("weight", (5, 8))
        logits = head(*embeddings_and_labels()).tolist()
        cases.append({"head": name, "margin": margin, "scale": scale, "kwargs": kwargs, "logits": logits})
    return cases


def embeddings_and_labels() -> tuple[Tensor, Tensor]:
    """Embeddings [7, 8] by the formula, one nearly along its class's weight, one nearly against."""
    weight_CE, emb_BE = formula("weight", (5, 8)), formula("embeddings", (7, 8))
    labels_B = torch.tensor([0, 1, 2, 3, 4, 1, 2])
    emb_BE[5] = 2 * weight_CE[1] + 0.2 * emb_BE[5]
    emb_BE[6] = -3 * weight_CE[2] + 0.2 * emb_BE[6]
    return emb_BE, labels_B


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    baseline, wespeaker = map(Path, sys.argv[1:])
    torch.set_grad_enabled(False)
    origin = "tests/golden/make_models.py, from the FFSVC2022 baseline's and WeSpeaker's modules in float64"
    for file, cases in (("models", model_cases(baseline, wespeaker)), ("margins", margin_cases(baseline))):
        lines = ",\n".join(json.dumps(entry) for entry in cases)
        (HERE / f"{file}.json").write_text(f'{{"origin": "{origin}",\n"cases": [\n{lines}\n]}}\n')
