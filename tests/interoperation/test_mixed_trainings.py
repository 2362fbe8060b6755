"""Training with parts of Detectron2 and of this project: a user's dataset, hooks, evaluators and trainer."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from semask_d2 import build_model
from semask_d2.d2 import DatasetEvaluator, seed_all_rng, setup_logger
from semask_d2.data import SemanticMapper
from semask_d2.engine import Trainer
from semask_d2.evaluation import SemanticEvaluator
from semask_d2.utils.errors import UserError
from tests.helpers.examples import NEEDS_DETECTRON2

pytestmark = NEEDS_DETECTRON2

PROJECT = "Our models in your DefaultTrainer"
LOADER = "Detectron2's loader"
TRAINER = "Your dataset, hooks and evaluators in our Trainer"


class BoxShare(DatasetEvaluator):
    """User's evaluator: the percentage of pixels predicted as a box, and the number of images."""

    def reset(self) -> None:
        self.pixels, self.box_pixels, self.images = 0, 0, 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for output in outputs:
            labels = output["sem_seg"].argmax(0)
            self.images += 1
            self.pixels += labels.numel()
            self.box_pixels += (labels == 1).sum().item()

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"boxes": {"share": 100 * self.box_pixels / self.pixels, "images": self.images}}


def test_a_users_dataset_hooks_and_evaluators_in_our_trainer(example, cfg, boxes) -> None:
    names = example(TRAINER, folder=boxes, cfg=cfg, YourEvaluator=BoxShare)
    trainer, evaluator = names["trainer"], names["evaluator"]
    assert trainer.iter == 2

    saved = {path.name for path in boxes.glob("*.pth")}
    assert saved >= {"model_final.pth", "model_best.pth", "model_most_boxes.pth", "each_0000000.pth", "each_final.pth"}
    state = torch.load(boxes / "model_most_boxes.pth", weights_only=True)
    assert {"model", "trainer", "iteration"} <= state.keys()
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["boxes/images"] == 4
    assert latest["sem_seg/mIoU"] == pytest.approx(trainer.last_results["sem_seg"]["mIoU"])
    shares = [value for value, _ in trainer.storage.history("boxes/share").values()]
    assert names["best"].best_metric == max(shares)
    assert len(shares) == 2  # after the first iteration and at the end

    results = trainer.test(cfg, trainer.model, evaluator)
    assert results.keys() == {"sem_seg", "boxes"}
    assert results["boxes"]["share"] == pytest.approx(shares[-1])
    assert results["sem_seg"]["mIoU"] == pytest.approx(latest["sem_seg/mIoU"])


def test_our_models_in_a_plain_default_trainer(example, cfg, tmp_path) -> None:
    (tmp_path / "configs/toy_scenes").mkdir(parents=True)
    (tmp_path / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml").write_text(
        cfg.dump()
    )  # the small config under the documented name
    names = example(PROJECT, folder=tmp_path)
    trainer = names["trainer"]
    assert names["YourTrainer"].__mro__[1].__module__ == "detectron2.engine.defaults"
    assert trainer.iter == 2

    after = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    seed_all_rng(cfg.SEED)
    before = build_model(cfg).state_dict()
    assert after.keys() == before.keys()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"backbone", "sem_seg_head"}
    assert type(trainer.optimizer).__name__ == "AdamW"
    gradients = [p.grad for p in trainer.model.parameters()]
    assert nn.utils.get_total_norm(gradients) <= 1.001 * cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert trainer._last_eval_results["sem_seg"]["mIoU"] > 0
    lines = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    assert {"sem_seg/mIoU", "loss_cate", "lr"} <= {name for line in lines for name in line}


def test_gradient_accumulation_in_another_trainer_is_refused(cfg) -> None:
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 2
    with pytest.raises(UserError, match=r"SOLVER\.GRADIENT_ACCUMULATION_STEPS is 2.*set it to 1"):
        next(iter(Trainer.build_train_loader(cfg)))


def test_our_trainer_resumes_another_trainers_run_with_its_loader(example, cfg, tmp_path) -> None:
    (tmp_path / "configs/toy_scenes").mkdir(parents=True)
    (tmp_path / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml").write_text(cfg.dump())
    example(PROJECT, folder=tmp_path)

    class LoadersTrainer(Trainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return build_detection_train_loader(cfg, mapper=SemanticMapper(cfg, is_train=True))

        @classmethod
        def build_test_loader(cls, cfg, dataset_name):  # its mapper drops the path of the label file
            return build_detection_test_loader(cfg, dataset_name, mapper=DatasetMapper(cfg, False))

    from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader

    cfg.SOLVER.MAX_ITER, cfg.INPUT.MIN_SIZE_TEST = 3, 0
    trainer = LoadersTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    results = trainer.train()
    assert trainer.iter == 3
    expected = SemanticEvaluator(cfg.DATASETS.TEST[0])
    assert results == Trainer.test(cfg, trainer.model, expected)


def test_our_trainer_logs_in_any_script(cfg, capsys) -> None:
    for name in ("detectron2", "semask_d2"):
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    Trainer(cfg).train()
    out = capsys.readouterr().out
    log = Path(cfg.OUTPUT_DIR, "log.txt").read_text()
    for text in (out, log):
        assert "Starting training from iteration 0" in text
        assert "total_loss" in text
        assert re.search(r"toy_scenes_val, \d+ images, each class", text)


def test_a_forgotten_add_semask_config_is_named(cfg) -> None:
    from detectron2.config import get_cfg

    plain_cfg = get_cfg()
    plain_cfg.MODEL.META_ARCHITECTURE = "SeMaskMaskFormer"
    with pytest.raises(UserError, match=r"the config lacks \S+: call semask_d2\.add_semask_config\(cfg\)"):
        build_model(plain_cfg)


def test_the_readmes_lines_execute_nothing_in_a_config(example, tmp_path) -> None:
    published = tmp_path / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
    published.parent.mkdir(parents=True)
    proof = tmp_path / "executed"
    published.write_text(f"SEED: !!python/object/apply:os.mkdir [{proof}]\n")
    with pytest.raises(yaml.constructor.ConstructorError, match=r"os\.mkdir"):
        example(PROJECT, folder=tmp_path)
    assert not proof.exists()


def test_detectron2s_loader_with_our_mapper(example, cfg) -> None:
    batch = next(iter(example(LOADER, cfg=cfg)["loader"]))
    assert len(batch) == cfg.SOLVER.IMS_PER_BATCH
    assert {x["image"].shape[1:] for x in batch} == {x["sem_seg"].shape for x in batch}
    losses = build_model(cfg)(batch)
    assert torch.isfinite(sum(losses.values()))
