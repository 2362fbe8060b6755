"""One training iteration."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from semask_d2.config import with_defaults
from semask_d2.engine import step as step_module
from semask_d2.engine.step import TrainingStep, seed_forward
from semask_d2.modeling.layers.precision import autocast_dtype
from semask_d2.modeling.meta_arch import Execution
from semask_d2.utils.errors import UserError
from tests.helpers.detectron2_names import EventStorage


class Regression(nn.Module):
    """A model with two losses: the mean square of a linear map of each sample's `x`, and zero."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch):
        y = self.linear(torch.stack([sample["x"] for sample in batch]))
        return {"loss_a": y.square().mean(), "loss_b": 0 * y.sum()}


def make_step(model: nn.Module, accumulation_steps: int, *, output_dir: str = "") -> TrainingStep:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(
        model,
        optimizer,
        execution=with_defaults(Execution),
        dtype=None,
        accumulation_steps=accumulation_steps,
        seed=1,
        output_dir=output_dir,
    )
    step.iter = 0
    return step


def samples(count: int) -> list[dict]:
    return [{"x": torch.randn(3), "file_name": f"{i}.jpg"} for i in range(count)]


def test_accumulated_batches_step_like_one_large_batch() -> None:
    whole, parts = Regression(), Regression()
    parts.load_state_dict(whole.state_dict())
    data = samples(8)
    for model, batches in ((whole, [data]), (parts, [data[:4], data[4:]])):
        step = make_step(model, len(batches))
        step.begin(batches)
        with EventStorage() as storage:
            step.run_step()
        assert storage.latest()["total_loss"][0] == pytest.approx(storage.latest()["loss_a"][0])
    torch.testing.assert_close(whole.linear.weight, parts.linear.weight)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    model = Regression()
    before = model.linear.weight.clone()
    data = samples(2)
    data[1]["x"][0] = math.nan
    step = make_step(model, 1, output_dir=str(tmp_path))
    step.begin([data])
    with EventStorage(), pytest.raises(UserError, match=r"iteration 0: loss_a nan, loss_b nan; images: 0\.jpg, 1\.jpg"):
        step.run_step()
    assert torch.equal(model.linear.weight, before)
    kept = torch.load(tmp_path / "non_finite_batch.pth", weights_only=True)
    assert kept["iteration"] == 0
    assert math.isnan(kept["losses"]["loss_a"])
    assert [sample["file_name"] for sample in kept["batches"][0]] == ["0.jpg", "1.jpg"]
    torch.testing.assert_close(kept["batches"][0][1]["x"], data[1]["x"], equal_nan=True)


def test_losses_go_to_the_host_before_the_backward_pass_and_are_read_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU need not wait until the host has checked the losses, and no step is made before that."""
    model = Regression()
    done = []

    class Recorded(step_module.HostCopy):
        def __init__(self, values):
            done.append("sent")
            super().__init__(values)

        def tolist(self):
            done.append("read")
            return super().tolist()

    monkeypatch.setattr(step_module, "HostCopy", Recorded)
    model.linear.weight.register_hook(lambda gradient: done.append("backward"))
    step = make_step(model, 2)
    step.optimizer.register_step_pre_hook(lambda *_: done.append("step"))
    step.begin([samples(2), samples(2)])
    with EventStorage():
        step.run_step()
    # the losses of a part are summed, so the weight's gradient is computed once per part
    assert done == ["backward", "sent", "backward", "read", "step"]


def test_randomness_depends_on_seed_forward_part_and_rank_alone() -> None:
    def draw(*key: int) -> float:
        seed_forward(*key)
        return torch.rand(1).item()

    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)
    assert len({draw(1, 2, 3, 4), draw(2, 2, 3, 4), draw(1, 3, 3, 4), draw(1, 2, 4, 4), draw(1, 2, 3, 5)}) == 5


def test_mixed_precision_is_off_on_a_cpu() -> None:
    assert autocast_dtype(torch.device("cpu"), enabled=True) is None
