"""Averaged weights: the formula, their checkpoints, and their use beside the raw weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from semask_d2 import get_cfg
from semask_d2.checkpoint import Checkpointer
from semask_d2.engine import Trainer
from semask_d2.engine.averaging import WeightAverage
from semask_d2.engine.hooks import BestCheckpoint
from semask_d2.evaluation.results import AVERAGED
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


def test_is_the_plain_formula() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    hook = WeightAverage(model, decay=0.5)
    assert hook.model is None
    hook.before_train()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for n in range(1, 8):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(torch.randn_like(value) if value.is_floating_point() else 1)
        hook.after_step()
        decay = min(0.5, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    for name, value in hook.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not any(parameter.requires_grad for parameter in hook.model.parameters())


def test_its_state_resumes_and_another_models_is_refused() -> None:
    hook, other = WeightAverage(nn.Linear(2, 2), 0.9), WeightAverage(nn.Linear(2, 2), 0.9)
    hook.before_train()
    hook.after_step()
    other.load_state_dict(hook.state_dict())
    for name, value in hook.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    with pytest.raises(UserError, match=r"\(SOLVER\.EMA\) do not fit: module\.weight is missing or of another shape"):
        WeightAverage(nn.Linear(3, 2), 0.9).load_state_dict(hook.state_dict())


class Storage:
    def __init__(self, **values: float):
        self.values = values

    def latest(self):
        return {name.replace("__", "/"): (value, 3) for name, value in self.values.items()}


class Run:
    start_iter, max_iter = 0, 10


@pytest.mark.parametrize(("raw", "averaged", "kept"), [(10.0, 20.0, "ema/sem_seg/mIoU"), (20.0, 10.0, "sem_seg/mIoU")])
def test_the_better_of_both_is_kept_and_named(raw: float, averaged: float, kept: str, tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.9)
    average.before_train()
    with torch.no_grad():
        model.weight.fill_(7.0)
    hook = BestCheckpoint(Checkpointer(model, str(tmp_path)), "sem_seg/mIoU", average)
    hook.trainer = Run()
    hook.trainer.storage = Storage(sem_seg__mIoU=raw, ema__sem_seg__mIoU=averaged)
    hook.after_step()
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (best["metric"], best["best"]) == (kept, 20.0)
    source = model if kept.startswith("sem_seg") else average.model
    assert torch.equal(best["model"]["weight"], source.weight)
    assert (best["model"]["weight"].item() == 7.0) is kept.startswith("sem_seg")


@pytest.mark.slow
def test_a_resumed_run_has_the_same_average_and_both_are_evaluated(toy_data, tmp_path: Path) -> None:
    def trainer(folder: str, iterations: int) -> Trainer:
        options = ("SOLVER.MAX_ITER", str(iterations), "SOLVER.IMS_PER_BATCH", "2", "SOLVER.EMA.ENABLED", "True")
        options += ("SOLVER.CHECKPOINT_PERIOD", "2", "SEED", "3", "OUTPUT_DIR", str(tmp_path / folder))
        options += () if folder == "whole" else ("DATASETS.TEST", "()")
        options += ("SOLVER.POLY_LR_POWER", "0.0")  # makes the rate independent of the run's length
        torch.manual_seed(0)  # for the initial weights
        return Trainer(get_cfg(TOY_CONFIG, [*TINY, *options]))

    whole = trainer("whole", 4)
    results = whole.train()
    assert results[AVERAGED]["sem_seg"].keys() == results["sem_seg"].keys()
    first = trainer("parts", 2)
    first.train()
    second = trainer("parts", 4)
    second.resume_or_load(resume=True)
    second.train()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(second.average.state_dict()[name], value), name
    assert json.loads((tmp_path / "whole/inference/ema/toy_scenes_val/metrics.json").read_text())["iteration"] == 4
