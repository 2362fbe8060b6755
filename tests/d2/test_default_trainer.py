"""`DefaultTrainer` under a subclass that builds its own parts, as the project's does."""

from __future__ import annotations

import json

import pytest
import torch

from semask_d2.d2 import DefaultTrainer, get_cfg, native
from semask_d2.utils.errors import UserError
from tests.helpers.toy_run import Accuracy, Run

SETTINGS = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 4)


def test_the_parts_are_the_inner_trainers(make_run):
    run = make_run(*SETTINGS)
    assert run.model is run._trainer.model
    assert run.optimizer is run._trainer.optimizer
    assert run.data_loader is run._trainer.data_loader
    run.data_loader = []
    assert run._trainer.data_loader == []


def test_a_run_leaves_checkpoints_metrics_and_events(make_run, tmp_path, d2_log):
    run = make_run(*SETTINGS)
    assert run.train() is None
    folder = tmp_path / "run"
    saved = {path.name for path in folder.glob("*.pth")}
    assert saved == {"model_0000001.pth", "model_0000003.pth", "model_0000005.pth", "model_final.pth"}
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1

    metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    metrics = {record["iteration"]: record for record in metrics}
    assert metrics.keys() == {3, 5, 6}
    assert metrics[3]["sem_seg/mIoU"] == metrics[6]["sem_seg/mIoU"] == 100
    assert {"total_loss", "lr", "time", "data_time"} <= metrics[5].keys()

    assert "copypaste: mIoU" in d2_log.text


def test_a_resumed_run_ends_like_one_that_was_not_stopped(make_run, tmp_path):
    whole = make_run(*SETTINGS)
    whole.train()

    (tmp_path / "run" / "last_checkpoint").write_text("model_0000003.pth")
    resumed = make_run(*SETTINGS)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 4
    assert resumed.scheduler.last_epoch == 4
    assert resumed.optimizer.state_dict()["state"][0]["momentum_buffer"].abs().sum() > 0
    resumed.train()
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_without_resume_the_weights_are_loaded_and_the_iteration_starts_at_zero(make_run, tmp_path):
    run = make_run(*SETTINGS)
    run.train()
    weights = tmp_path / "run" / "model_final.pth"
    fresh = make_run(*SETTINGS, "MODEL.WEIGHTS", str(weights))
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0
    assert fresh.optimizer.state_dict()["state"] == {}
    assert torch.equal(fresh.model.weight, run.model.weight)


def test_resuming_without_a_checkpoint_starts_from_the_beginning(make_run):
    run = make_run(*SETTINGS)
    run.resume_or_load(resume=True)
    assert run.start_iter == 0


def test_expected_results_are_verified_and_returned(make_run):
    run = make_run(*SETTINGS, "TEST.EXPECTED_RESULTS", [["sem_seg", "mIoU", 100.0, 0.1]])
    assert run.train()["sem_seg"]["mIoU"] == 100
    missed = make_run(*SETTINGS, "TEST.EXPECTED_RESULTS", [["sem_seg", "mIoU", 90.0, 0.1]])
    with pytest.raises(SystemExit):
        missed.train()


def test_state_holds_the_inner_trainers(make_run):
    run = make_run(*SETTINGS)
    run.train()
    state = run.state_dict()
    assert state["iteration"] == 6
    assert state["hooks"].keys() == {"LRScheduler"}
    assert state["_trainer"].keys() == {"iteration", "optimizer"}
    assert state["_trainer"]["iteration"] == 5


def test_evaluation_of_one_dataset_gives_its_results_and_of_several_a_dict():
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("a",)
    model = torch.nn.Linear(3, 1)
    assert Run.test(cfg, model)["sem_seg"]["mIoU"] == 100
    assert Run.test(cfg, model, Accuracy())["sem_seg"]["mIoU"] == 100
    cfg.DATASETS.TEST = ("a", "b")
    results = Run.test(cfg, model, [Accuracy(), Accuracy()])
    assert [results[name]["sem_seg"]["mIoU"] for name in ("a", "b")] == [100, 100]
    with pytest.raises(AssertionError):
        Run.test(cfg, model, [Accuracy()])


def test_without_an_evaluator_there_are_no_results(d2_log):
    class Blind(Run):
        build_evaluator = DefaultTrainer.build_evaluator

    cfg = get_cfg()
    cfg.DATASETS.TEST = ("a",)
    assert Blind.test(cfg, torch.nn.Linear(3, 1)) == {}
    assert "No evaluator found" in d2_log.text


def test_a_config_for_other_workers_keeps_the_batch_per_worker():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.1, "SOLVER.STEPS", (4000,)]
    )
    cfg.merge_from_list(["SOLVER.MAX_ITER", 5000, "SOLVER.CHECKPOINT_PERIOD", 1000, "TEST.EVAL_PERIOD", 500])
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    scaled = DefaultTrainer.auto_scale_workers(cfg, 16)
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.STEPS) == (32, 0.2, 2500, (2000,))
    assert (solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (500, 500, 250)
    assert solver.REFERENCE_WORLD_SIZE == 16
    assert scaled.is_frozen()
    assert cfg.SOLVER.IMS_PER_BATCH == 16


def test_without_a_reference_a_config_is_for_any_number_of_workers():
    cfg = get_cfg()
    assert DefaultTrainer.auto_scale_workers(cfg, 3) is cfg


def test_a_schedule_of_detectron2_is_refused_on_the_native_side():
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    with pytest.raises(UserError, match=r"SOLVER\.LR_SCHEDULER_NAME 'WarmupCosineLR' needs Detectron2"):
        native.DefaultTrainer.build_lr_scheduler(cfg, None)
