"""Timing of an evaluation: each second is attributed to the part that took it."""

from __future__ import annotations

import gc
import logging
import re
import time
import weakref

import pytest
import torch
from torch import nn

from semask_d2 import get_cfg
from semask_d2.d2 import DatasetEvaluator
from semask_d2.engine import Trainer
from semask_d2.evaluation import TimedEvaluator, TimedModel
from tests.helpers.commands import TINY, TOY_CONFIG


class Clock:
    """A fake clock, which advances only when a part says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Counting(DatasetEvaluator):
    def __init__(self, clock: Clock):
        self.clock = clock

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs, outputs) -> None:
        self.clock.now += 0.5
        self.seen += outputs

    def evaluate(self):
        return {"sem_seg": {"seen": len(self.seen)}}


def test_each_part_has_its_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)

    class Model(nn.Module):
        def forward(self, inputs):
            clock.now += 2.0
            return inputs

    model = TimedModel(Model())
    evaluator = TimedEvaluator(Counting(clock), model, "a_set")
    for _ in range(2):  # an evaluator can be reused
        evaluator.reset()
        for _ in range(4):
            clock.now += 0.25
            images = [{}, {}]
            evaluator.process(images, model(images))
        with caplog.at_level(logging.INFO):
            assert evaluator.evaluate() == {"sem_seg": {"seen": 8}}
        message = caplog.messages[-1]
        assert message.startswith(f"a_set: 8 images in 11.0 s, {8 / (4 * 2.75):.2f} images per second ")
        assert "(seconds per image: data 0.1250, model 1.0000, scoring 0.2500)" in message
        assert re.search(r", peak memory [1-9]\d* MB$", message)


def test_an_evaluation_without_images_says_nothing(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert TimedEvaluator(Counting(Clock(monkeypatch)), TimedModel(nn.Identity()), "empty").evaluate()
    assert not caplog.messages


def test_the_trainer_says_its_pace(toy_data, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg(TOY_CONFIG, [*TINY, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path)])
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            Trainer.test(cfg, model)
    lines = [message for message in caplog.messages if "images per second" in message]
    assert len(lines) == 2
    assert all(line.startswith("toy_scenes_val: ") for line in lines)


def hooks_of(model: nn.Module) -> int:
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in model.modules())


@pytest.mark.parametrize("task", ["", "_panoptic", "_instance"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_evaluation_leaves_nothing_with_the_model(task, fails, toy_data, tmp_path, monkeypatch) -> None:
    """Check that no hook remains, which would wait for the GPU in each later training step and keep the evaluator."""
    cfg = get_cfg(f"toy_scenes{task}/semask_swin_mini_msfapn_m2f.yaml", [*TINY, "OUTPUT_DIR", str(tmp_path)])
    model = Trainer.build_model(cfg)
    before, evaluators = hooks_of(model), []

    class Watched(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            evaluator = super().build_evaluator(cfg, dataset_name)
            evaluators.append(weakref.ref(evaluator))
            if fails:
                monkeypatch.setattr(type(evaluator), "process", broken)
            return evaluator

    def broken(self, inputs, outputs) -> None:
        raise OSError("disk")

    for _ in range(2):
        if fails:
            with pytest.raises(OSError, match="disk"):
                Watched.test(cfg, model)
        else:
            Watched.test(cfg, model)
    gc.collect()
    assert hooks_of(model) == before
    assert [evaluator() for evaluator in evaluators] == [None, None]
