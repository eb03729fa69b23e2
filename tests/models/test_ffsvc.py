import torch

from farvox.models.ffsvc import FrameAttention, ecapa_sizes, resnet34_sizes
from farvox.models.registry import build_model

ECAPA = {"channels": 16, "embedding_dim": 12, "num_mels": 20, "bottleneck": 8, "scale": 4}
RESNET = {"channels": 4, "blocks": [1, 2, 1, 1], "embedding_dim": 12}


def test_parameters_are_named_as_in_the_baseline():
    resnet, ecapa = build_model("ffsvc-resnet34", **RESNET), build_model("ffsvc-ecapa", **ECAPA)
    assert {name.split(".")[0] for name in resnet.state_dict()} == {"front", "bottleneck"}
    assert {
        "front.conv1.weight",
        "front.bn1.running_var",
        "front.layer2.0.downsample.0.weight",
        "front.layer2.1.conv2.weight",
    } <= resnet.state_dict().keys()
    tops = {"conv1", "bn1", "block1", "block2", "block3", "conv2", "ASP", "bn2", "fc", "bn3"}
    assert {name.split(".")[0] for name in ecapa.state_dict()} == tops
    assert {
        "ASP.attention.v",
        "ASP.attention.lin_proj.bias",
        "block1.convs.0.weight",
        "block3.bns.3.num_batches_tracked",
        "block2.fc2.bias",
    } <= ecapa.state_dict().keys()


def test_the_unused_branch_is_not_trained_so_that_no_gradient_is_waited_for():
    frozen = [n for n, p in build_model("ffsvc-ecapa").named_parameters() if not p.requires_grad]
    expected = [f"block{b}.{n}" for b in (1, 2, 3) for n in ("convs.0.weight", "bns.0.weight", "bns.0.bias")]
    assert sorted(frozen) == sorted(expected)
    assert all(p.requires_grad for p in build_model("ffsvc-ecapa", unused_branch=False).parameters())


def test_the_published_ecapa_has_148224_unused_parameters():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in build_model("ffsvc-ecapa", unused_branch=unused).parameters())
            for unused in (True, False)
        ]
    assert sizes[0] - sizes[1] == 148_224


def test_the_sizes_of_a_network_can_be_read_off_its_weights():
    assert ecapa_sizes(build_model("ffsvc-ecapa", **ECAPA).state_dict()) == ECAPA
    sizes = {"channels": 4, "embedding_dim": 12}
    assert resnet34_sizes(build_model("ffsvc-resnet34", **sizes).state_dict()) == sizes


def test_the_mended_pooling_has_the_same_weights():
    published, mended = (
        build_model("ffsvc-ecapa", **ECAPA),
        build_model("ffsvc-ecapa", **ECAPA, pooling="mended"),
    )
    mended.load_state_dict(published.state_dict())
    feats_BFM = torch.randn(2, 20, 20)
    assert not torch.allclose(mended.eval()(feats_BFM), published.eval()(feats_BFM))


def test_autocast_does_not_narrow_the_weights_of_the_frames():
    torch.manual_seed(0)
    attention, x_BFC = FrameAttention(32, 128), torch.randn(2, 50, 32)
    with torch.autocast("cpu", torch.bfloat16):
        weights_BF1, hidden = attention(x_BFC), attention.lin_proj(x_BFC)
    assert hidden.dtype == torch.bfloat16
    expected = torch.softmax(torch.tanh(hidden.float() @ attention.v), dim=1)
    torch.testing.assert_close(weights_BF1.squeeze(-1), expected, rtol=1e-5, atol=0)
