"""Layers that keep the order of memory: torch's own results, in the order they were given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from farvox.errors import ModelError
from farvox.models.base import FrameConv, FrameNorm, cat_channels, chunk_channels
from farvox.models.registry import build_model


def channels_last(x_BCF):
    return x_BCF.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.fixture(params=[lambda x_BCF: x_BCF, channels_last], ids=["frames last", "channels last"])
def ordered(request):
    return request.param


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2, "padding": 2}, {"stride": 2, "groups": 2, "padding": 1}]
)
def test_a_convolution_is_torch_s_and_keeps_the_order(ordered, options, mode):
    torch.manual_seed(0)
    ours = FrameConv(4, 6, 3, padding_mode=mode, **options)
    theirs = nn.Conv1d(4, 6, 3, padding_mode=mode, **options)
    theirs.load_state_dict(ours.state_dict())
    x_BCF = ordered(torch.randn(2, 4, 15))
    ours_x, theirs_x = (x_BCF.clone().requires_grad_() for _ in range(2))
    out, wanted = ours(ours_x), theirs(theirs_x)
    assert out.stride() == ordered(wanted).stride()
    torch.testing.assert_close(out, wanted)
    out.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(ours_x.grad, theirs_x.grad)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_batch_norm_is_torch_s_and_keeps_the_order(ordered):
    torch.manual_seed(0)
    ours, theirs = FrameNorm(4), nn.BatchNorm1d(4)
    x_BCF = ordered(torch.randn(2, 4, 15))
    out = ours(x_BCF)
    assert out.stride() == x_BCF.stride()
    torch.testing.assert_close(out, theirs(x_BCF))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours(x_BCF[..., 0]), theirs(x_BCF[..., 0]))
    with pytest.raises(ValueError, match="2D or 3D"):
        ours(torch.zeros(4))


def test_channels_are_cut_and_joined_in_order_and_so_are_their_gradients(ordered):
    x_BCF = ordered(torch.randn(2, 4, 15)).requires_grad_()
    strides = []
    whole_BCF = x_BCF * 1
    whole_BCF.register_hook(lambda grad: strides.append(grad.stride()))
    first, second = chunk_channels(whole_BCF, 2)
    joined = cat_channels([second, first])
    assert joined.stride() == x_BCF.stride()
    torch.testing.assert_close(joined, torch.cat([x_BCF[:, 2:], x_BCF[:, :2]], dim=1))
    (joined * x_BCF).sum().backward()
    torch.testing.assert_close(x_BCF.grad, 2 * torch.cat([x_BCF[:, 2:], x_BCF[:, :2]], dim=1))
    assert strides == [x_BCF.stride()]


@pytest.mark.parametrize("name", ["ffsvc-ecapa", "ffsvc-resnet34", "ecapa"])
def test_a_network_in_channels_last_is_the_same_network(name):
    torch.manual_seed(0)
    sizes = {} if name.endswith("resnet34") else {"channels": 32}
    network = build_model(name, **sizes).eval()
    feats_BFM = torch.randn(2, 50, 80)
    wanted = network(feats_BFM)
    gradients = torch.autograd.grad(wanted.sum(), [p for p in network.parameters() if p.requires_grad])
    network.use_channels_last()
    emb_BE = network(feats_BFM)
    torch.testing.assert_close(emb_BE, wanted, rtol=1e-5, atol=1e-6)
    for mine, other in zip(
        torch.autograd.grad(emb_BE.sum(), [p for p in network.parameters() if p.requires_grad]),
        gradients, strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_baseline_s_ecapa_leaves_the_order():
    network = build_model("ffsvc-ecapa", channels=32)
    network.use_channels_last()
    seen = []
    for module in network.modules():
        if isinstance(module, FrameConv | FrameNorm):
            module.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    network(torch.randn(2, 50, 80))
    assert len(seen) > 40
    assert all(x_BCF.stride(1) == 1 for pair in seen for x_BCF in pair)


@pytest.mark.parametrize(
    ("name", "instructions", "precision", "expected"),
    [
        ("resnet34", {"avx512_bf16"}, "bf16", True),
        ("resnet34", {"amx_bf16"}, "fp32", True),
        ("campplus", {"avx512_bf16"}, "bf16", True),
        ("resnet34", {"avx2"}, "fp32", False),
        ("xvector", {"avx512_bf16"}, "bf16", False),
        ("ffsvc-ecapa", {"avx512_bf16"}, "bf16", True),
        ("ffsvc-ecapa", {"avx512_bf16"}, "fp32", False),
        ("ffsvc-ecapa", {"avx512_bf16", "amx_bf16"}, "bf16", False),
    ],
)
def test_the_order_of_memory_is_the_one_measured_as_faster(
    name, instructions, precision, expected, monkeypatch
):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False
    )
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    network = build_model(name)
    assert network.is_faster_in_channels_last(torch.device("cpu"), precision) is expected
    assert network.is_faster_in_channels_last(torch.device("cuda"), precision) is False


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("resnet34", {"channels": 8}, True),
        ("resnet34", {"channels": 16}, False),
        ("campplus", {}, False),
        ("campplus", {"front_channels": 12}, True),
        ("campplus", {"front_channels": 20}, False),
        ("eres2netv2", {}, False),
        ("xvector", {"channels": 20}, False),
    ],
)
def test_narrow_convolutions_are_those_that_torch_crashes_on(name, sizes, expected):
    network = build_model(name, **sizes)
    assert network.crashes_in_channels_last(torch.device("cpu")) is expected
    assert network.crashes_in_channels_last(torch.device("cuda")) is False


SMALL = {"xvector": {}, "ecapa": {"channels": 32}, "resnet34": {"channels": 8, "blocks": [1, 1, 1, 1]}}


@pytest.mark.parametrize("name", ["campplus", *SMALL])
def test_a_centre_is_subtracted_from_every_embedding(name):
    torch.manual_seed(0)
    network = build_model(name, num_mels=24, embedding_dim=16, **SMALL.get(name, {}))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
    feats_BFM, centre_E = torch.randn(3, 120, 24), torch.randn(16)
    network.train()
    names = network.state_dict().keys()
    before = network.eval()(feats_BFM)
    network.train().subtract(centre_E)
    assert network.training and network.state_dict().keys() == names
    torch.testing.assert_close(network.eval()(feats_BFM), before - centre_E, atol=1e-5, rtol=1e-5)


def test_a_network_that_ends_otherwise_cannot_be_centred():
    class Ending(type(build_model("xvector", num_mels=24, embedding_dim=16))):
        def forward(self, feats_BFM):
            return super().forward(feats_BFM).tanh()

    plain = build_model("xvector", num_mels=24, embedding_dim=16)
    plain.__class__ = Ending
    with pytest.raises(ModelError, match="Ending has no layer at its end that could hold a centre"):
        plain.subtract(torch.zeros(16))
