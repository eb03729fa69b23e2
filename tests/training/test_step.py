import copy
import itertools
import math

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from farvox.errors import NonFiniteLossError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_head, build_model
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import TrainingModel
from farvox.training.options import OptimOptions, ScheduleOptions
from farvox.training.step import Schedule, Stepper, build_optimizer

ALONE = World(0, 1, torch.device("cpu"))


def make_stepper(*, frozen=False, lr=0.01, name="sgd", momentum=0.0, **options):
    torch.manual_seed(0)
    network = build_model("ecapa", num_mels=24, channels=32, embedding_dim=16, bottleneck=16)
    model = TrainingModel(network, build_head("aam", 16, 6)).train()
    for module in model.modules():
        if frozen and isinstance(module, _BatchNorm):
            module.eval()
    optim = OptimOptions(name=name, lr=lr, weight_decay=0.0, momentum=momentum)
    optimizer = build_optimizer(optim, list(model.parameters()))
    return Stepper(model, build_frontend(FrontEndConfig(num_mels=24)), optimizer, world=ALONE, **options)


def make_batch(size=16):
    generator = torch.Generator().manual_seed(1)
    wav_BT = 0.1 * torch.randn(size, 5000, generator=generator)
    no_masks = torch.zeros(size, 0, 4, dtype=torch.int64)
    return Batch(wav_BT, torch.arange(size) % 6, no_masks, tuple(range(size)))


def parts(batch, count):
    tensors = (batch.wav_BT, batch.labels_B, batch.masks_BK4)
    for wav_BT, labels_B, masks_BK4 in zip(*(t.chunk(count) for t in tensors), strict=True):
        yield Batch(wav_BT, labels_B, masks_BK4, batch.positions)


def parameters(stepper):
    return {name: p.detach().clone() for name, p in stepper.model.named_parameters()}


def buffers(stepper):
    return {name: b.clone() for name, b in stepper.model.named_buffers()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_parts_of_a_batch_are_the_batch():
    whole, dealt = make_stepper(frozen=True), make_stepper(frozen=True)
    before, batch = parameters(whole), make_batch()
    one, other = whole.step([batch]), dealt.step(list(parts(batch, 2)))
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-6)
    assert float(one.num_right) == float(other.num_right)
    after, again = parameters(whole), parameters(dealt)
    assert not equal(before, after)
    for name in after:
        torch.testing.assert_close(
            again[name] - before[name], after[name] - before[name], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(fault, precision):
    stepper = make_stepper(precision=precision)
    stepper.step([make_batch()])
    before, statistics = parameters(stepper), buffers(stepper)
    state = copy.deepcopy(stepper.optimizer.state_dict())
    batch = make_batch()
    batch.wav_BT[3, 100] = fault
    with pytest.raises(NonFiniteLossError, match="nothing was updated"):
        stepper.step([batch])
    assert equal(parameters(stepper), before) and stepper.optimizer.state_dict() == state
    assert statistics and equal(buffers(stepper), statistics)


def test_a_clipped_gradient_has_at_most_the_norm_asked_for():
    free, clipped = make_stepper(lr=1.0), make_stepper(lr=1.0, clip_norm=0.5)
    before = parameters(free)
    norms = [float(stepper.step([make_batch()]).grad_norm) for stepper in (free, clipped)]
    assert norms[0] == norms[1] > 0.5
    moved = [
        torch.cat([(parameters(stepper)[name] - before[name]).flatten() for name in before]).norm()
        for stepper in (free, clipped)
    ]
    assert float(moved[0]) == pytest.approx(norms[0], rel=1e-3)
    assert float(moved[1]) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_nearly_the_same(precision):
    losses = []
    for stepper in (make_stepper(), make_stepper(precision=precision)):
        losses.append([float(stepper.step([make_batch()]).loss) for _ in range(8)])
    full, half = losses
    assert half[0] != full[0] and half[0] == pytest.approx(full[0], rel=1e-2)
    assert full[-1] < 0.01 * full[0] and half[-1] < 0.01 * half[0]


def test_an_fp16_step_that_overflows_only_by_its_scale_is_taken_again_with_a_smaller_one():
    stepper = make_stepper(precision="fp16")
    stepper.scaler.update(2.0**60)
    before = parameters(stepper)
    stepper.step([make_batch()])
    assert equal(parameters(stepper), before) and stepper.scaler.get_scale() == 2.0**59


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_decays_as_in_the_baseline_and_adamw_apart_from_the_gradient(name):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(OptimOptions(name=name, lr=0.1, weight_decay=0.5), [weight])
    weight.grad = torch.zeros(3)
    optimizer.step()
    expected = 1 - 0.1 if name == "adam" else 1 - 0.1 * 0.5
    torch.testing.assert_close(weight.detach(), torch.full((3,), expected))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_whoever_looks_late_finds_all_as_it_was_before_the_first_fault(name, precision):
    stepper = make_stepper(name=name, momentum=0.9, precision=precision)
    good, bad = make_batch(), make_batch()
    bad.wav_BT[3, 100] = float("nan")
    stepper.step([good])
    before, statistics = parameters(stepper), buffers(stepper)
    state = copy.deepcopy(stepper.optimizer.state_dict())
    look, stepper.guard.look = stepper.guard.look, lambda: None  # a CPU looks at every step
    for batch in (bad, good, bad, good):
        stepper.step([batch])
    stepper.guard.look = look
    assert equal(parameters(stepper), before)
    with pytest.raises(NonFiniteLossError, match="loss nan, gradient norm nan") as caught:
        stepper.guard.look()
    assert caught.value.steps_ago == 3
    assert equal(buffers(stepper), statistics)
    now = stepper.optimizer.state_dict()["state"]
    assert all(equal(now[key], state["state"][key]) for key in state["state"])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_fused_step_is_the_step(name):
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 1000), torch.randn(5, 3, 1000)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = {"lr": 0.1, "weight_decay": 0.01}
    fused = build_optimizer(OptimOptions(name=name, nesterov=name == "sgd", **options), [ours])
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    more = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    plain = kind([theirs], foreach=False, **options, **more)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        fused.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def baseline_rates(*, lr, milestones, warmup_epochs, steps_per_epoch, epochs, first_epoch):
    """The baseline's loop: torch's MultiStepLR a step an epoch, overruled while warming up."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for epoch in range(first_epoch, epochs):
        for step in range(steps_per_epoch):
            if epoch < warmup_epochs:
                ramp = lr / (steps_per_epoch * warmup_epochs) * (steps_per_epoch * epoch + step + 1)
                optimizer.param_groups[0]["lr"] = ramp
            yield epoch, step, optimizer.param_groups[0]["lr"]
            optimizer.step()
        scheduler.step()


def schedule_of(kind, lr, steps_per_epoch, margin=0.0, **options):
    options = {"warmup_epochs": 0.0, **options}
    return Schedule(ScheduleOptions(kind=kind, **options), lr, steps_per_epoch, margin)


@pytest.mark.parametrize("first_epoch", [0, 44])
def test_multistep_with_warmup_is_the_baselines(first_epoch):
    span = {"steps_per_epoch": 7, "epochs": first_epoch + 8, "first_epoch": first_epoch}
    schedule = schedule_of("multistep", 0.01, milestones=(3, 6), warmup_epochs=2, **span)
    rates = list(baseline_rates(lr=0.01, milestones=[3, 6], warmup_epochs=2, **span))
    assert len(rates) == 56
    for epoch, step, rate in rates:
        assert schedule.lr_at(epoch, step) == pytest.approx(rate, rel=1e-12)


def test_the_first_epoch_of_a_warmup_of_two_ends_at_half_the_rate():
    schedule = schedule_of("multistep", 0.01, 100, epochs=40, warmup_epochs=2)
    assert schedule.lr_at(0, 99) == pytest.approx(0.005) and schedule.lr_at(1, 99) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_a_decay_goes_from_the_full_rate_to_the_final_one(kind):
    schedule = schedule_of(kind, 0.1, 10, final_lr=1e-4, epochs=7, warmup_epochs=2)
    rates = [schedule.lr_at(epoch, step) for epoch in range(2, 7) for step in range(10)]
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(1e-4)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    middle = 24.5 / 49
    halfway = (rates[24] + rates[25]) / 2
    expected = {
        "linear": 0.05005,
        "cosine": 1e-4 + 0.0999 * 0.5 * (1 + math.cos(math.pi * middle)),
        "exponential": 10**-2.5,
    }
    assert halfway == pytest.approx(expected[kind], rel=1e-2)


def test_a_warm_up_may_be_a_fraction_of_an_epoch():
    schedule = schedule_of("linear", 1.0, 10, epochs=1, warmup_epochs=0.2)
    rates = [schedule.lr_at(0, step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0.0])


def test_a_constant_rate_is_constant():
    schedule = schedule_of("constant", 0.1, 3, epochs=9)
    assert {schedule.lr_at(epoch, step) for epoch in range(9) for step in range(3)} == {0.1}


def test_a_margin_waits_grows_and_stays():
    grown = schedule_of("constant", 1, 4, 0.2, epochs=9, margin_epochs=(2, 4))
    assert [grown.margin_at(epoch, 0) for epoch in range(6)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.2])
    assert grown.margin_at(2, 2) == pytest.approx(0.05)
    assert schedule_of("constant", 1, 4, 0.2, epochs=9).margin_at(0, 0) == 0.2
