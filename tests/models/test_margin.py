import math

import pytest
import torch
from torch.nn import functional as fn

from farvox.errors import ModelError
from farvox.models.options import HEADS
from farvox.models.registry import build_head

MARGIN_HEADS = ["am", "aam", "subcentre-aam"]
LABELS_B = torch.tensor([0, 3, 6])


def embeddings(num=3, dim=16):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(1))


def test_the_angular_margin_is_added_to_the_angle():
    head = build_head("aam", 16, 7, margin=0.3, scale=10.0)
    emb_BE = embeddings()
    angle_B = fn.cosine_similarity(emb_BE, head.weight[LABELS_B]).acos()
    logits_B = head(emb_BE, LABELS_B).gather(1, LABELS_B.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(logits_B, 10 * torch.cos(angle_B + 0.3))


def test_the_additive_margin_is_taken_from_the_cosine():
    head = build_head("am", 16, 7, margin=0.3, scale=10.0)
    emb_BE = embeddings()
    difference_BC = head(emb_BE) - head(emb_BE, LABELS_B)
    torch.testing.assert_close(difference_BC, 3.0 * fn.one_hot(LABELS_B, 7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_a_margin_only_touches_the_true_class(name):
    head = build_head(name, 16, 7, margin=0.3)
    emb_BE = embeddings()
    others_BC = fn.one_hot(LABELS_B, 7) == 0
    torch.testing.assert_close(head(emb_BE, LABELS_B)[others_BC], head(emb_BE)[others_BC])


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_without_labels_the_logits_are_scaled_cosines(name):
    head = build_head(name, 16, 7, scale=5.0)
    centres_CKE = head.weight.view(7, -1, 16)
    cosines_BCK = fn.cosine_similarity(embeddings()[:, None, None], centres_CKE[None], dim=-1)
    torch.testing.assert_close(head(embeddings()), 5 * cosines_BCK.amax(dim=2))


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_a_schedule_sets_the_margin_by_assignment(name):
    head = build_head(name, 16, 7, margin=0.5)
    head.margin = 0.0
    torch.testing.assert_close(head(embeddings(), LABELS_B), head(embeddings()), atol=1e-5, rtol=0)


def test_a_single_subcentre_is_plain_aam():
    single, plain = build_head("subcentre-aam", 16, 7, num_subcentres=1), build_head("aam", 16, 7)
    plain.load_state_dict(single.state_dict())
    assert torch.equal(single(embeddings(), LABELS_B), plain(embeddings(), LABELS_B))


@pytest.mark.parametrize("name", MARGIN_HEADS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_finite_along_and_against_a_centre(name, sign):
    head = build_head(name, 16, 7)
    with torch.no_grad():
        head.weight.copy_(torch.eye(head.weight.shape[0], 16).roll(1, dims=0))
    centre_E = head.weight.detach()[0]
    emb_BE = (sign * 2.0 * centre_E).unsqueeze(0).requires_grad_()
    fn.cross_entropy(head(emb_BE, torch.tensor([0])), torch.tensor([0])).backward()
    assert emb_BE.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_the_gradient_is_finite_at_an_embedding_of_zeros(name):
    head = build_head(name, 16, 7)
    emb_BE = torch.zeros(1, 16, requires_grad=True)
    head(emb_BE, torch.tensor([0])).sum().backward()
    assert emb_BE.grad.isfinite().all()


def test_the_angular_margin_goes_on_falling_with_the_angle():
    head = build_head("aam", 2, 1, margin=0.5, scale=1.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    angle_B = torch.linspace(0.01, math.pi - 0.01, 200)
    emb_BE = torch.stack([angle_B.cos(), angle_B.sin()], dim=1)
    logits_B = head(emb_BE, torch.zeros(200, dtype=torch.long)).squeeze(1)
    assert (logits_B.diff() < 0).all()
    assert (logits_B < head(emb_BE).squeeze(1)).all()


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_computed_in_float32_under_autocast(name):
    head = build_head(name, 16, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BC = head(embeddings().bfloat16(), LABELS_B)
    assert logits_BC.dtype == torch.float32
    torch.testing.assert_close(logits_BC, head(embeddings().bfloat16().float(), LABELS_B))


@pytest.mark.parametrize("name", HEADS)
def test_extending_the_classes_keeps_the_old_ones(name):
    head = build_head(name, 16, 7)
    before_BC = head(embeddings())
    head.extend_classes(4)
    after_BC = head(embeddings())
    assert after_BC.shape == (3, 11)
    torch.testing.assert_close(after_BC[:, :7], before_BC)
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert head(embeddings(), torch.tensor([7, 10, 0])).shape == (3, 11)


@pytest.mark.parametrize("name", HEADS)
def test_impossible_numbers_of_classes_are_refused(name):
    with pytest.raises(ModelError, match="0 and 16"):
        build_head(name, 16, 0)
    head = build_head(name, 16, 7)
    with pytest.raises(ModelError, match="-1 classes"):
        head.extend_classes(-1)


def test_a_head_without_centres_is_refused():
    with pytest.raises(ModelError, match="num_subcentres"):
        build_head("subcentre-aam", 16, 7, num_subcentres=0)


def test_margin_heads_have_one_weight_under_the_name_the_baseline_gave_it():
    assert {name: list(build_head(name, 16, 7).state_dict()) for name in MARGIN_HEADS} == {
        name: ["weight"] for name in MARGIN_HEADS
    }
