"""Trainer, evaluation and Predictor follow the config's precision, and models are correct under any autocast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semask_d2 import Predictor, build_model, get_cfg
from semask_d2.config import with_defaults
from semask_d2.d2 import DatasetEvaluator
from semask_d2.engine import Trainer
from semask_d2.engine.step import TrainingStep
from semask_d2.evaluation import mean_loss
from semask_d2.modeling.meta_arch import Executed, Execution, SeMaskMaskFormer, with_sliding
from tests.helpers.tiny_model import backbone_features, make_inputs, randomize, tiny_cfg

FPN = "toy_scenes/semask_swin_mini_fpn.yaml"
BF16 = Execution(precision="bf16", mixed_evaluation=False, compilation="")


class Seen(list):
    """Records the dtypes of the results of the last convolution in a model's head."""

    def __init__(self, model: nn.Module):
        super().__init__()
        layer = model.sem_seg_head.pixel_decoder.mask_features
        layer.register_forward_hook(lambda module, inputs, output: self.append(output.dtype))


class Foreign(nn.Module):
    """Model of another project."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.dtypes: set[torch.dtype] = set()

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        scores = [self.layer(x["image"][None].float())[0] for x in batched_inputs]
        self.dtypes |= {x.dtype for x in scores}
        return [{"sem_seg": x} for x in scores]


class Counts(DatasetEvaluator):
    """Evaluator of another project, which expects its own precision."""

    def reset(self) -> None:
        self.images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        assert not torch.is_autocast_enabled("cpu")
        self.images += len(outputs)

    def evaluate(self) -> dict[str, float]:
        return {"images": self.images}


@pytest.mark.parametrize("sliding", [False, True])
def test_a_predictor_runs_the_model_in_its_precision(sliding: bool) -> None:
    options = {"TEST__SLIDING__ENABLED": sliding, "TEST__SLIDING__SIZE": [64, 64], "INPUT__MIN_SIZE_TEST": 0}
    cfg = tiny_cfg(MODEL__PRECISION="bf16", **options)
    model = build_model(cfg).eval()
    seen = Seen(model)
    Predictor.of_model(cfg, model)(np.zeros((96, 96, 3), np.uint8))
    assert seen == [torch.bfloat16] * (2 if sliding else 1)  # two rows of windows, computed at different times
    assert not torch.is_autocast_enabled("cpu")


def test_an_evaluation_runs_the_model_and_nothing_else_in_its_precision(toy_data: Path) -> None:
    options = {
        "DATASETS__TEST": ["toy_scenes_val"],
        "DATALOADER__NUM_WORKERS": 0,
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 12,
    }
    cfg = tiny_cfg(MODEL__PRECISION="bf16", **options)
    model = build_model(cfg)
    seen = Seen(model)
    assert Trainer.test(cfg, model, [Counts()])["images"] == len(seen) > 1
    assert {*seen} == {torch.bfloat16}


def test_models_of_other_projects_keep_their_callers_precision() -> None:
    model = Foreign()
    inputs = make_inputs((8, 8), labels=False)
    cfg = tiny_cfg(MODEL__PRECISION="bf16", TEST__AMP__ENABLED=True)
    for wrapped in (model, with_sliding(cfg, model), Executed(model, Execution.from_config(cfg))):
        with Execution.from_config(cfg).autocast(wrapped):
            assert not torch.is_autocast_enabled("cpu")
        wrapped(inputs)
    Predictor.of_model(cfg, model)(np.zeros((8, 8, 3), np.uint8))
    assert model.dtypes == {torch.float32}
    Execution(precision="fp32", mixed_evaluation=False, compilation="default").compile(model)
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_training_and_validation_loss_use_the_precision_of_the_config(tmp_path: Path) -> None:
    model = build_model(tiny_cfg())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(
        model, optimizer, execution=BF16, dtype=None, accumulation_steps=1, seed=0, output_dir=str(tmp_path)
    )
    seen = Seen(model)
    inputs = make_inputs((64, 64))
    assert all(loss.dtype == torch.float32 for loss in step.losses(inputs).values())
    mean_loss(model, [[{**inputs[0], "file_name": "a.png"}]], BF16)
    assert seen == [torch.bfloat16] * 2
    mean_loss(model, [[{**inputs[0], "file_name": "a.png"}]], with_defaults(Execution))
    assert seen[2:] == [torch.float32]


@pytest.mark.parametrize("per_stage", [False, True])
@pytest.mark.parametrize("head", ["mask", "fpn"])
def test_losses_do_not_depend_on_the_callers_autocast(head: str, per_stage: bool) -> None:
    options = {"MODEL__MASK_FORMER__SEM_LOSS_PER_STAGE": per_stage}
    cfg = tiny_cfg(**options) if head == "mask" else get_cfg(FPN, ["MODEL.DEVICE", "cpu"])
    model = randomize(build_model(cfg)).train()
    inputs = make_inputs((64, 96))
    with torch.no_grad():
        features = {name: x.bfloat16() for name, x in backbone_features(model, inputs).items()}
        predictions = model.sem_seg_head({name: x.float() for name, x in features.items()})
        model.backbone.forward = lambda _: features
        model.sem_seg_head.forward = lambda _: predictions
        results = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                results.append(model(inputs))
    assert results[0].keys() >= {"loss_ce", "loss_cate"}
    for name, loss in results[0].items():
        assert loss.dtype == results[1][name].dtype == torch.float32
        assert torch.equal(loss, results[1][name]), name


def test_constructors_take_no_execution_settings() -> None:
    parts = {"backbone": None, "sem_seg_head": None, "criterion": None, "normalizer": None}
    with pytest.raises(TypeError, match="unexpected keyword argument 'precision'"):
        with_defaults(SeMaskMaskFormer, **parts, precision="bf16")
