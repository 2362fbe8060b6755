"""Replacement for `detectron2.engine.{TrainerBase,DefaultTrainer}`: the training loop, and a run that a config sets."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from semask_d2.d2.native import comm, hooks
from semask_d2.d2.native.config import CfgNode
from semask_d2.d2.native.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from semask_d2.d2.native.events import EventStorage
from semask_d2.d2.native.modeling import build_model
from semask_d2.utils.errors import UserError

_loop_logger = logging.getLogger("detectron2.engine.train_loop")
_logger = logging.getLogger("detectron2.engine.defaults")


class TrainerBase:
    """A training loop with hooks; a subclass implements one iteration in `run_step`.

    `iter` runs from `start_iter` to `max_iter - 1`; in `after_train` it equals `max_iter` only if training finished.
    `storage` holds the scalars while `train` runs.
    """

    storage: EventStorage
    max_iter: int
    iter = start_iter = 0

    def __init__(self) -> None:
        self._hooks: list[hooks.HookBase] = []

    def register_hooks(self, hooks: Sequence[hooks.HookBase | None]) -> None:
        """Append hooks, which run in this order; None entries are skipped."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # a cycle would keep the GPU memory of a dropped trainer
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from `start_iter` to `max_iter - 1`, then `after_train`, also after an error."""
        _loop_logger.info("Starting training from iteration %d", start_iter)
        self.start_iter, self.max_iter = start_iter, max_iter
        self.iter = start_iter
        with EventStorage(start_iter) as storage, ExitStack() as at_the_end, _failures_logged():
            self.storage = storage
            at_the_end.callback(self.after_train)
            self.before_train()
            for iteration in range(start_iter, max_iter):
                self.iter = iteration  # a hook's `before_train` may have set it, for example to write a checkpoint
                for part in (self.before_step, self.run_step, self.after_step):
                    part()
            self.iter = max(start_iter, max_iter)

    def before_train(self) -> None:
        self._call_hooks("before_train")

    def after_train(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        self._call_hooks("after_step")

    def _call_hooks(self, moment: str) -> None:
        for hook in self._hooks:
            getattr(hook, moment)()

    def run_step(self) -> None:
        """Run one iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the hooks' states by class name; of two hooks of one class, only the first's."""
        states: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the iteration and hook states; the state of an unregistered hook is dropped with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook: Any = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                _loop_logger.warning(f"Cannot find the hook '{name}', its state_dict is ignored.")
            else:
                hook.load_state_dict(state)


@contextmanager
def _failures_logged() -> Iterator[None]:
    """Log an error with its traceback and raise it again."""
    try:
        yield
    except Exception:
        _loop_logger.exception("Exception during training:")
        raise


def _inner_trainer_attribute(name: str) -> property:
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """A training run set up from a config: hooks, writers, evaluation and checkpoints around an inner trainer.

    A subclass sets `cfg`, `_trainer` (whose `run_step` does the work), `scheduler`, `checkpointer`, `start_iter` and
    `max_iter`, registers `build_hooks()`, and has the class methods `build_test_loader(cfg, dataset_name)` and
    `build_evaluator(cfg, dataset_name)`.
    """

    cfg: CfgNode
    checkpointer: Any
    scheduler: Any
    _trainer: Any
    _last_eval_results: dict[str, Any]  # set by an evaluation hook

    model = _inner_trainer_attribute("model")
    data_loader = _inner_trainer_attribute("data_loader")
    optimizer = _inner_trainer_attribute("optimizer")

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the output folder's last checkpoint if `resume` is set and there is one, else MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the last finished iteration

    def train(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride] - as Detectron2's
        """Train from `start_iter` to `max_iter`; with TEST.EXPECTED_RESULTS, verify and return the last results."""
        super().train(self.start_iter, self.max_iter)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
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
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> None:
        """Raise `UserError`: a subclass builds its schedules, and Detectron2's exist only where it is installed."""
        name = cfg.SOLVER.LR_SCHEDULER_NAME
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME {name!r} needs Detectron2; expected a name that {cls.__name__} builds."
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return the batches of a dataset; a subclass implements it."""
        raise NotImplementedError(f"{cls.__name__}.build_test_loader")

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a dataset; a subclass implements it."""
        raise NotImplementedError(f"{cls.__name__}.build_evaluator")

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> dict[str, Any]:
        """Evaluate on the datasets of DATASETS.TEST; return {dataset: results}, or the results if there is only one.

        `evaluators` is one evaluator or a list with one per dataset, by default those of `build_evaluator`.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        assert evaluators is None or len(evaluators) == len(names), f"{len(evaluators)} evaluators for {names}"
        results = {}
        for index, name in enumerate(names):
            data_loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError:
                _logger.warning("No evaluator found for %s: pass one, or implement build_evaluator.", name)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                _logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Return `cfg` scaled from SOLVER.REFERENCE_WORLD_SIZE to `num_workers` processes (arXiv 1706.02677).

        The batch per process stays the same: batch size and learning rate grow with the number of processes, iterations
        and periods shrink. If the reference is 0 or `num_workers`, `cfg` itself is returned.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        scaled = cfg.clone()
        scaled.defrost()
        solver, factor = scaled.SOLVER, num_workers / reference
        assert solver.IMS_PER_BATCH % reference == 0, "Invalid REFERENCE_WORLD_SIZE in config!"
        solver.REFERENCE_WORLD_SIZE = num_workers
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR *= factor
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / factor)
        scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / factor)
        _logger.info(f"Auto-scaling the config from {reference} to {num_workers} workers:\n{solver}")
        if cfg.is_frozen():
            scaled.freeze()
        return scaled
