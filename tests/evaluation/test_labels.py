"""Evaluation of our models predicts labels only; foreign evaluators and models still get scores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2 import get_cfg
from semask_d2.d2 import DatasetEvaluator
from semask_d2.engine import Trainer
from semask_d2.evaluation import LabelsOnly, SemanticEvaluator
from tests.helpers.commands import TINY, TOY_CONFIG


class Scores(DatasetEvaluator):
    """An evaluator written by a user."""

    def reset(self) -> None:
        self.shapes = set()

    def process(self, inputs, outputs) -> None:
        self.shapes |= {tuple(output["sem_seg"].shape) for output in outputs}

    def evaluate(self):
        return {"sem_seg": {"shapes": len(self.shapes)}}


@pytest.fixture
def cfg(toy_data, tmp_path):
    return get_cfg(TOY_CONFIG, [*TINY, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path)])


@pytest.fixture
def model(cfg) -> nn.Module:
    torch.manual_seed(0)
    return Trainer.build_model(cfg).train()


def test_labels_and_scores_give_the_same_metrics(cfg, model, monkeypatch: pytest.MonkeyPatch) -> None:
    from_labels = Trainer.test(cfg, model)
    assert model.training
    with monkeypatch.context() as patch:
        patch.setattr("semask_d2.engine.trainer.LabelsOnly", lambda model: model)
        from_scores = Trainer.test(cfg, model)
    monkeypatch.setattr(type(model), "score_maps", None)  # used to compute scores
    with pytest.raises(TypeError):
        Trainer.test(cfg, model)
    assert from_labels["sem_seg"].keys() == from_scores["sem_seg"].keys()
    for name, value in from_labels["sem_seg"].items():
        assert value == pytest.approx(from_scores["sem_seg"][name], nan_ok=True)


def test_our_evaluator_never_asks_for_scores(cfg, model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semask_d2.modeling.meta_arch.score_maps.ScoreMap.scores", None)
    assert Trainer.test(cfg, model, [SemanticEvaluator("toy_scenes_val")])["sem_seg"]["mIoU"] >= 0


@pytest.mark.parametrize("as_list", [False, True])
def test_another_evaluator_sees_scores(cfg, model, as_list: bool) -> None:
    evaluator = Scores()
    Trainer.test(cfg, model, [evaluator] if as_list else evaluator)
    assert {shape[0] for shape in evaluator.shapes} == {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}


@pytest.mark.parametrize("training", [False, True])
def test_the_wrapper_is_in_the_models_mode(model, training: bool) -> None:
    assert LabelsOnly(model.train(training)).training is training
