"""Stands for `detectron2.engine.DefaultTrainer`: how a config's training run hangs together."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any

from torch import nn

from semask_d2.d2.native import comm, hooks
from semask_d2.d2.native.config import CfgNode
from semask_d2.d2.native.env import PathManager
from semask_d2.d2.native.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from semask_d2.d2.native.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from semask_d2.d2.native.modeling import build_model
from semask_d2.d2.native.train_loop import HookBase, TrainerBase
from semask_d2.errors import UserError

_logger = logging.getLogger("detectron2.engine.defaults")


def _of_inner_trainer(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value)
    )


class DefaultTrainer(TrainerBase):
    """A training run as a config describes it: hooks, writers, evaluation and checkpoints around an inner trainer.

    A subclass sets `cfg`, `_trainer` (whose `run_step` does the work), `scheduler`, `checkpointer`, `start_iter`
    and `max_iter`, registers `build_hooks()`, and has the class methods `build_test_loader(cfg, dataset_name)`
    and `build_evaluator(cfg, dataset_name)`.
    """

    _trainer: TrainerBase
    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue after the output folder's last checkpoint if there is one and `resume`, else load MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was done

    def build_hooks(self) -> list[HookBase]:
        """Return timing, learning rate, checkpoints, evaluation and writing, in this order.

        Evaluation comes after the checkpoint, which thus survives its failure, and before the writers, which put
        out its figures.
        """
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED:
            raise UserError(
                "TEST.PRECISE_BN.ENABLED True: expected False without Detectron2; install it or unset the key."
            )

        def evaluate() -> dict[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        built: list[HookBase] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            built.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate))
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return built

    def build_writers(self) -> list[EventWriter]:
        """Return a progress line, `metrics.json` and tensorboard, all for the output folder."""
        folder = self.cfg.OUTPUT_DIR
        PathManager.mkdirs(folder)
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def train(self) -> dict[str, Any] | None:
        """Train from `start_iter` to `max_iter`; with TEST.EXPECTED_RESULTS, verify and return the last results."""
        super().train(self.start_iter, self.max_iter)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "No evaluation results obtained during training!"
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build and log the config's model."""
        model = build_model(cfg)
        _logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a data set; for a subclass to write."""
        raise NotImplementedError(f"{cls.__name__}.build_evaluator")

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate on every data set of DATASETS.TEST, each with its evaluator, by default `build_evaluator`'s.

        Returns {data set: results}, or for a single data set its results.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        assert evaluators is None or len(evaluators) == len(names), (
            f"{len(evaluators)} evaluators for {names}"
        )
        results = OrderedDict()
        for index, name in enumerate(names):
            data_loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError:
                _logger.warning("No evaluator found for %s: pass one, or write build_evaluator.", name)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], dict), (
                    f"Evaluator must return a dict. Got {results[name]} instead."
                )
                _logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Return a config for `num_workers` processes whose batch per process is as at SOLVER.REFERENCE_WORLD_SIZE.

        Batch and learning rate grow with the number of processes, iterations and periods shrink
        (arXiv 1706.02677). With REFERENCE_WORLD_SIZE 0, or equal to `num_workers`, it is `cfg` itself.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        scaled = cfg.clone()
        scaled.defrost()
        solver, factor = scaled.SOLVER, num_workers / reference
        assert solver.IMS_PER_BATCH % reference == 0, "Invalid REFERENCE_WORLD_SIZE in config!"
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR *= factor
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        for section, key in (
            (solver, "MAX_ITER"),
            (solver, "WARMUP_ITERS"),
            (solver, "CHECKPOINT_PERIOD"),
            (scaled.TEST, "EVAL_PERIOD"),
        ):
            section[key] = round(section[key] / factor)
        solver.REFERENCE_WORLD_SIZE = num_workers
        _logger.info(
            f"Auto-scaling the config to batch_size={solver.IMS_PER_BATCH}, learning_rate={solver.BASE_LR}, "
            f"max_iter={solver.MAX_ITER}, warmup={solver.WARMUP_ITERS}."
        )
        if cfg.is_frozen():
            scaled.freeze()
        return scaled
