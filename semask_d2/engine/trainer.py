"""The trainer, which combines a config's model, optimizer, data, hooks and checkpoints."""

from __future__ import annotations

import inspect
import logging
import os
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from semask_d2.checkpoint.checkpointer import Checkpointer
from semask_d2.checkpoint.frozen_layers import frozen_names, require_nameable
from semask_d2.config.checks import check_pretrained, check_training
from semask_d2.d2 import (
    CfgNode,
    DatasetEvaluator,
    DefaultTrainer,
    EventWriter,
    HookBase,
    JSONWriter,
    PathManager,
    TensorboardXWriter,
    TrainerBase,
    comm,
    hooks,
    setup_logger,
)
from semask_d2.data.class_balance import with_class_weights
from semask_d2.data.datasets import config_classes
from semask_d2.data.datasets.custom import register_custom
from semask_d2.data.loader import Batches, TrainBatches, build_test_loader, build_train_loader, run_seed
from semask_d2.data.mappers import build_validation_mapper
from semask_d2.engine.annealing import MaskAnnealing, annealed_heads
from semask_d2.engine.averaging import WeightAverage
from semask_d2.engine.early_stopping import EarlyStopping, Finished
from semask_d2.engine.hooks import (
    BestCheckpoint,
    EvaluateUnevaluated,
    LRScheduler,
    PeriodicCheckpoint,
    ProgressLine,
    SmoothingWindow,
    StopOnSignal,
)
from semask_d2.engine.optimizer import build_optimizer, build_scheduler
from semask_d2.engine.pictures import CurveWriter, PredictionPictures, report_training
from semask_d2.engine.run_folder import write_config
from semask_d2.engine.setup import DETAIL
from semask_d2.engine.step import TrainingStep
from semask_d2.engine.trackers import build_trackers
from semask_d2.evaluation import (
    EvaluatedModel,
    Evaluator,
    LabelsOnly,
    MultiScaleFlip,
    SemanticEvaluator,
    TimedEvaluator,
    TimedModel,
    build_evaluator,
    main_metric,
    mean_loss,
    sizes_in_words,
    with_predictions,
)
from semask_d2.evaluation.results import AVERAGED, TASKS
from semask_d2.modeling.layers.precision import autocast_dtype
from semask_d2.modeling.meta_arch import Executed, Execution, SemanticSegmenter, build_model, with_sliding
from semask_d2.utils import locking
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, text
from semask_d2.utils.runs import METRICS_NAME

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with our training step, optimizer, sampler and checkpoints.

    It runs on GPUs and CPUs, in one process or several. A resumed run gives the same result as an uninterrupted one,
    since everything random depends only on the seed and the iteration.
    """

    def __init__(self, cfg: CfgNode):
        check_training(cfg)
        if partial := cfg.MODEL.BACKBONE.SAVE_TRAINED_ONLY:
            require_nameable(cfg.MODEL.WEIGHTS)
        register_custom(cfg)
        TrainerBase.__init__(self)  # not DefaultTrainer's, which would build parts that are replaced here
        for name in ("detectron2", "semask_d2"):
            if not logging.getLogger(name).isEnabledFor(logging.INFO):  # the calling program did not set up logging
                setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        self.cfg = cfg = with_class_weights(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = TrainingStep(
            distribute(model),
            optimizer,
            execution=Execution.from_config(cfg),
            dtype=autocast_dtype(torch.device(cfg.MODEL.DEVICE), enabled=cfg.SOLVER.AMP.ENABLED),
            accumulation_steps=cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS,
            seed=run_seed(cfg),
            output_dir=cfg.OUTPUT_DIR,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            training_start=True,
            drop_class_layers=cfg.MODEL.WEIGHTS_DROP_CLASS_LAYERS,
            bgr=cfg.INPUT.FORMAT == "BGR",
            classes=config_classes(cfg),
            frozen_weights=cfg.MODEL.WEIGHTS if partial else "",
            trainer=weakref.proxy(self),
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.iterations_done = 0
        self.average: WeightAverage | None = None
        self.last_results: dict[str, Any] = {}
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the output folder's last checkpoint if `resume` and there is one, else MODEL.WEIGHTS.

        Raises `UserError` if a backbone that is not trained would keep random weights.
        """
        super().resume_or_load(resume)
        if not self.start_iter:
            check_pretrained(self.cfg)

    def train(self) -> Any:
        """Train from `start_iter` on, evaluating and saving periodically and at the end; return the last results.

        For a finished run only the final work is repeated, since a kill may have interrupted it. A stop signal ends
        training after a step, with a checkpoint (`Stopped`). Raises `UserError` if another training uses the folder.
        """
        is_main = comm.is_main_process()
        if is_main and (line := locking.take(self.cfg.OUTPUT_DIR)):
            logger.info("%s", line)
        try:
            if is_main:
                write_config(self.cfg)
            self._train()
            if is_main and self.cfg.DATASETS.TEST:
                report_training(self.cfg, self.checkpointer.model)
        finally:
            if is_main:
                locking.release(self.cfg.OUTPUT_DIR)
        return self.last_results

    def _train(self) -> None:
        self.iterations_done = self.start_iter
        if self.start_iter >= self.max_iter:
            logger.info("The run has finished all %d iterations: only its final work is repeated", self.max_iter)
        else:
            loader = self.build_train_loader(self.cfg)
            if isinstance(loader, TrainBatches):
                loader = loader.starting_at(self.start_iter, seed=self._trainer.seed)
            self._trainer.begin(loader)
        with self._trainer.stop_request.listening():
            try:
                super().train()
            except Finished:
                if not self.last_results:  # a resumed run that early stopping had already ended
                    self.evaluate()

    def after_train(self) -> None:
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))  # a loop over no iterations counts one too many
        super().after_train()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the trainer's state from a checkpoint; `UserError` if it is malformed."""
        state = Section.of(state_dict, "the checkpoint's state of the trainer")
        states = {}
        for name, hook_state in state.section("hooks", Section({}, "")).values.items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None or hasattr(hook, "load_state_dict"):
                states[text(name, "the name of a hook in the checkpoint")] = hook_state
        kept = {"iteration": state.integer("iteration", low=0), "_trainer": state.get("_trainer"), "hooks": states}
        super().load_state_dict(kept)

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks: timing, learning rate, checkpoints, evaluation, best model, images, writers and stopping."""
        cfg, is_main = self.cfg, comm.is_main_process()
        checkpoints = None
        metrics_file = os.path.join(cfg.OUTPUT_DIR, METRICS_NAME)
        built: list[HookBase] = [hooks.IterationTimer(), LRScheduler()]
        if heads := annealed_heads(self.checkpointer.model):
            built.append(MaskAnnealing(heads))
        if cfg.SOLVER.EMA.ENABLED:
            model = self.checkpointer.model
            constant = frozen_names(model) if self.checkpointer.frozen_weights else ()
            self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY, constant)
            built.append(self.average)
        built.append(SmoothingWindow(metrics_file))
        if is_main:
            checkpoints = PeriodicCheckpoint(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINTS_KEPT
            )
            built.append(checkpoints)
        if cfg.DATASETS.TEST:
            for name in cfg.DATASETS.TEST:
                self.build_evaluator(cfg, name)  # raises its errors before the first iteration
            built.append(EvaluateUnevaluated(cfg.TEST.EVAL_PERIOD, self.evaluate, metrics_file, self.metric))
            built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate))
            if is_main:
                built.append(BestCheckpoint(self.checkpointer, self.metric, self.average))
                if cfg.TEST.PICTURES:
                    built.append(PredictionPictures(cfg, self.checkpointer.model, self.metric))
        if is_main:
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        if cfg.DATASETS.TEST and cfg.SOLVER.EARLY_STOPPING.PATIENCE:
            built.append(
                EarlyStopping(
                    [self.metric, f"{AVERAGED}/{self.metric}"],
                    period=cfg.TEST.EVAL_PERIOD,
                    patience=cfg.SOLVER.EARLY_STOPPING.PATIENCE,
                    min_delta=cfg.SOLVER.EARLY_STOPPING.MIN_DELTA,
                    metrics_file=metrics_file,
                    checkpointer=self.checkpointer if is_main else None,
                )
            )
        built.append(StopOnSignal(self._trainer, checkpoints))
        return built

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the current model, and its averaged weights if there are any, and store the results.

        Results of averaged weights have the key "ema"; with TEST.VALIDATION_LOSS the loss is "validation_loss".
        """
        evaluated = EvaluatedModel(iteration=self.iterations_done)
        results = self.test(self.cfg, self.checkpointer.model, evaluated=evaluated)
        if self.cfg.TEST.VALIDATION_LOSS:
            for name in self.cfg.DATASETS.TEST:
                dataset_results = results.get(name, results)  # results of a single dataset come without its name
                dataset_results["validation_loss"] = self.validation_loss(name)
                logger.info("%s: validation loss %.4f", name, dataset_results["validation_loss"])
        if self.average is not None and self.average.model is not None:
            logger.info("The averaged weights (SOLVER.EMA):")
            results[AVERAGED] = self.test(self.cfg, self.average.model, evaluated=evaluated._replace(averaged=True))
        self.last_results = self._last_eval_results = results
        return results

    def validation_loss(self, dataset_name: str) -> float:
        """Return the mean training loss over a test set's images at their test size."""
        model = self.checkpointer.model
        if not isinstance(model, SemanticSegmenter):
            raise UserError(
                f"TEST.VALIDATION_LOSS: expected False for MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE}; "
                "only this project's models support it"
            )
        loader = build_test_loader(self.cfg, dataset_name, build_validation_mapper(self.cfg))
        return mean_loss(model, loader, Execution.from_config(self.cfg))

    def run_step(self) -> None:
        super().run_step()
        self.iterations_done = self.iter + 1

    def build_writers(self) -> list[EventWriter]:
        """Build the writers: progress line, `metrics.json`, TRACKERS, TensorBoard events and learning curves."""
        folder = self.cfg.OUTPUT_DIR
        PathManager.mkdirs(folder)
        return [
            ProgressLine(self.max_iter),
            JSONWriter(os.path.join(folder, METRICS_NAME)),
            *build_trackers(self.cfg),  # before TensorBoard's writer, which clears the images
            TensorboardXWriter(folder),
            CurveWriter(folder, self.metric),
        ]

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: Any = None,
        *,
        evaluated: EvaluatedModel = EvaluatedModel(),  # noqa: B008 - a constant
    ) -> dict[str, Any]:
        """Run Detectron2's `test`, with sliding windows if TEST.SLIDING is on; `evaluated` describes `model` in files.

        If all evaluators are `SemanticEvaluator`s, the model predicts labels without scores. With this project's
        evaluators, several processes may predict (`with_predictions`), the evaluation is timed, and results of other
        models in their folders are moved aside.
        """
        sizes = sizes_in_words(cfg, model)
        if not isinstance(model, MultiScaleFlip):  # it already includes the windows
            model = with_sliding(cfg, model)
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        are_ours = isinstance(evaluators, list) and all(isinstance(x, Evaluator) for x in evaluators)
        if are_ours and all(isinstance(x, SemanticEvaluator) for x in evaluators):
            model = LabelsOnly(model)
        model = Executed(model, Execution.from_config(cfg))
        if not are_ours:
            return super().test(cfg, model, evaluators)
        evaluated = evaluated._replace(sizes=sizes)
        for evaluator in evaluators:
            evaluator.begin(evaluated)
        timed = TimedModel(model)
        evaluators = [TimedEvaluator(evaluator, timed, evaluator.dataset_name) for evaluator in evaluators]

        def build_test_loader(_: type, cfg: CfgNode, dataset_name: str) -> Any:
            return with_predictions(cls.build_test_loader(cfg, dataset_name), model)

        predicting = type(cls.__name__, (cls,), {"build_test_loader": classmethod(build_test_loader)})
        return super(Trainer, predicting).test(cfg, timed, evaluators)

    @property
    def metric(self) -> str:
        """The name of the scalar that ranks models: mIoU, PQ or AP of the first test set."""
        names = self.cfg.DATASETS.TEST
        several = f"{names[0]}/" if len(names) > 1 else ""
        return several + "/".join(main_metric(names[0]) if names else TASKS["semantic"][:2])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the config's model; `UserError` if it names an unknown component."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model, extra=DETAIL)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer with the recipe's parameter groups; it clips gradients itself.

        To add clipping to another optimizer, use `semask_d2.engine.optimizer.add_clipping`.
        """
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build our "WarmupPolyLR" or "WarmupMultiStepLR", or any other schedule by Detectron2."""
        scheduler = build_scheduler(cfg, optimizer)
        if scheduler is not None:
            return scheduler
        try:
            return super().build_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(f"SOLVER.LR_SCHEDULER_NAME {cfg.SOLVER.LR_SCHEDULER_NAME}: {error}") from error

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """Build this process's batches; `TrainBatches` start at the run's current iteration, other loaders decide."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Batches:
        """Build the loader of this process's share of a test set, one image at a time."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator for the dataset's task: mIoU and related metrics, panoptic quality, or AP."""
        return build_evaluator(cfg, dataset_name)


def distribute(model: nn.Module) -> nn.Module:
    """Return `model` unchanged in a single process, else wrapped to average gradients over the processes."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    wrapper: Any = nn.parallel.DistributedDataParallel
    new_name = "forward_sync_buffers"  # since torch 2.14, which deprecates the old name
    sync_buffers = new_name if new_name in inspect.signature(wrapper).parameters else "broadcast_buffers"
    return wrapper(
        model,
        device_ids=[device.index or comm.get_local_rank()] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{sync_buffers: False},
    )
