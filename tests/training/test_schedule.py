import itertools
import math

import pytest
import torch

from farvox.training.schedule import Schedule


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


@pytest.mark.parametrize("first_epoch", [0, 44])
def test_multistep_with_warmup_is_the_baselines(first_epoch):
    span = {"steps_per_epoch": 7, "epochs": first_epoch + 8, "first_epoch": first_epoch}
    schedule = Schedule(kind="multistep", lr=0.01, milestones=(3, 6), warmup_epochs=2, **span)
    rates = list(baseline_rates(lr=0.01, milestones=[3, 6], warmup_epochs=2, **span))
    assert len(rates) == 56
    for epoch, step, rate in rates:
        assert schedule.lr_at(epoch, step) == pytest.approx(rate, rel=1e-12)


def test_the_first_epoch_of_a_warmup_of_two_ends_at_half_the_rate():
    schedule = Schedule(kind="multistep", lr=0.01, steps_per_epoch=100, epochs=40, warmup_epochs=2)
    assert schedule.lr_at(0, 99) == pytest.approx(0.005) and schedule.lr_at(1, 99) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_a_decay_goes_from_the_full_rate_to_the_final_one(kind):
    schedule = Schedule(kind=kind, lr=0.1, final_lr=1e-4, steps_per_epoch=10, epochs=7, warmup_epochs=2)
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
    schedule = Schedule(kind="linear", lr=1.0, steps_per_epoch=10, epochs=1, warmup_epochs=0.2)
    rates = [schedule.lr_at(0, step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0.0])


def test_a_constant_rate_is_constant():
    schedule = Schedule(kind="constant", lr=0.1, steps_per_epoch=3, epochs=9)
    assert {schedule.lr_at(epoch, step) for epoch in range(9) for step in range(3)} == {0.1}


def test_a_margin_waits_grows_and_stays():
    grown = Schedule(kind="constant", lr=1, steps_per_epoch=4, epochs=9, margin=0.2, margin_epochs=(2, 4))
    assert [grown.margin_at(epoch, 0) for epoch in range(6)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.2])
    assert grown.margin_at(2, 2) == pytest.approx(0.05)
    assert Schedule(kind="constant", lr=1, steps_per_epoch=4, epochs=9, margin=0.2).margin_at(0, 0) == 0.2
