import pytest
import torch

from farvox.errors import ModelError
from farvox.models.ffsvc import FfsvcAttentiveStatistics
from farvox.models.pooling import (
    AttentiveStatistics,
    GlobalStatistics,
    TemporalStatistics,
    build_pooling,
    unbiased_variance,
)

torch.manual_seed(0)
MAPS_BCMF = torch.randn(2, 6, 5, 20)


def every_pooling():
    return [
        GlobalStatistics(6, variance_floor=0.0),
        TemporalStatistics(30),
        AttentiveStatistics(30, bottleneck=4),
        AttentiveStatistics(30, bottleneck=4, context=False),
    ]


def test_global_statistics_are_mean_and_unbiased_deviation_of_each_channel():
    stats = GlobalStatistics(6, variance_floor=0.0)(MAPS_BCMF)
    torch.testing.assert_close(stats[:, :6], MAPS_BCMF.mean(dim=(2, 3)))
    torch.testing.assert_close(stats[:, 6:], MAPS_BCMF.std(dim=(2, 3)))


def test_the_variance_and_its_gradient_are_torch_s():
    x_BCF = torch.randn(2, 3, 50, dtype=torch.float64, requires_grad=True)
    ours, theirs = unbiased_variance(x_BCF), x_BCF.var(dim=-1)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(out.square().sum(), x_BCF)[0] for out in (ours, theirs))
    torch.testing.assert_close(*gradients)
    assert not unbiased_variance(x_BCF[..., :1]).any()


def test_temporal_statistics_keep_the_frequencies_apart():
    stats = TemporalStatistics(30)(MAPS_BCMF)
    torch.testing.assert_close(stats[:, :30], MAPS_BCMF.mean(dim=3).flatten(1))
    torch.testing.assert_close(stats[:, 30:], MAPS_BCMF.std(dim=3).flatten(1), atol=1e-6, rtol=1e-5)


def test_attention_that_looks_at_nothing_gives_plain_statistics():
    pool = AttentiveStatistics(6, bottleneck=4)
    torch.nn.init.zeros_(pool.weights.weight)
    x_BCF = torch.randn(3, 6, 50)
    expected = torch.cat([x_BCF.mean(dim=2), x_BCF.std(dim=2, correction=0)], dim=1)
    torch.testing.assert_close(pool(x_BCF), expected)


@pytest.mark.parametrize("pool", every_pooling(), ids=lambda pool: type(pool).__name__)
@pytest.mark.parametrize("num_frames", [1, 2, 20])
def test_statistics_and_gradient_are_finite_on_a_constant_signal(pool, num_frames):
    x = torch.ones(2, 6, 5, num_frames, requires_grad=True)
    stats = pool(x)
    stats.sum().backward()
    assert stats.shape == (2, pool.num_statistics)
    assert stats.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("pool", every_pooling(), ids=lambda pool: type(pool).__name__)
def test_statistics_are_float32_for_half_precision_maps(pool):
    loud_BCMF = 300 * MAPS_BCMF
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stats = pool(loud_BCMF.bfloat16())
    assert stats.dtype == torch.float32
    torch.testing.assert_close(stats, pool(loud_BCMF), rtol=0.05, atol=30.0)


def test_the_mended_statistics_of_the_baseline_do_not_depend_on_the_length():
    x_BCF = torch.randn(2, 6, 10)
    doubled_BCF = x_BCF.repeat(1, 1, 2)
    published = FfsvcAttentiveStatistics(6, 4, mended=False)
    mended = FfsvcAttentiveStatistics(6, 4, mended=True)
    mended.load_state_dict(published.state_dict())
    torch.testing.assert_close(mended(doubled_BCF), mended(x_BCF))
    torch.testing.assert_close(published(doubled_BCF)[:, :6], published(x_BCF)[:, :6] / 2)


def test_the_mended_statistics_are_weighted_mean_and_deviation():
    pool = FfsvcAttentiveStatistics(6, 4, mended=True)
    x_BCF = torch.randn(2, 6, 10)
    alpha_B1F = pool.attention(x_BCF.transpose(1, 2)).transpose(1, 2)
    mean_BC = (alpha_B1F * x_BCF).sum(dim=2)
    variance_BC = (alpha_B1F * (x_BCF - mean_BC.unsqueeze(2)) ** 2).sum(dim=2)
    torch.testing.assert_close(pool(x_BCF), torch.cat([mean_BC, variance_BC.sqrt()], dim=1))


def test_an_unknown_pooling_is_named():
    with pytest.raises(ModelError, match="unknown pooling 'max'"):
        build_pooling("max", 8)
