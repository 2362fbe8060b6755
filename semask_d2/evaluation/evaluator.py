"""The base class of this project's evaluators: classes, the evaluated model, and result files."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import numpy as np
from tabulate import tabulate

from semask_d2.d2 import DatasetEvaluator, comm
from semask_d2.evaluation.confusion import ConfusionMatrix
from semask_d2.evaluation.result_files import keep_earlier, write_evaluation
from semask_d2.evaluation.results import AVERAGED, TASKS, EvaluatedModel, Evaluation, ImageResult
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import folder_name

logger = logging.getLogger(__name__)


class Evaluator(DatasetEvaluator):
    """An evaluator of one dataset; with `output_dir`, the main process writes result files to `output_dir/DATA_SET`.

    Results of averaged weights go to `output_dir/ema/DATA_SET`. `evaluated` is the model that the results belong to.
    """

    task: ClassVar[str]  # a key of `results.TASKS`

    def __init__(
        self,
        dataset_name: str,
        *,
        classes: Classes,
        output_dir: str | os.PathLike | None,
    ):
        self.dataset_name = dataset_name if output_dir is None else folder_name(dataset_name, "name of a dataset")
        self.classes = classes
        self.output_dir = output_dir
        self.evaluated = EvaluatedModel()

    @property
    def folder(self) -> Path | None:
        """The folder of the results, None without `output_dir`."""
        if self.output_dir is None:
            return None
        return Path(self.output_dir, *([AVERAGED] if self.evaluated.averaged else []), self.dataset_name)

    def begin(self, evaluated: EvaluatedModel) -> None:
        """Set the model of the results that follow, and move another model's results aside.

        Every process must call this, before any image.
        """
        self.evaluated = evaluated
        if self.folder is not None and comm.is_main_process():
            keep_earlier(self.folder, evaluated)
        comm.synchronize()

    def check_predicted(self, ids: np.ndarray, image: str) -> None:
        """Raise UserError if a model predicts class ids that the dataset does not have."""
        count = len(self.classes)
        if ids.size and not (ids.min() >= 0 and ids.max() < count):
            wrong = np.unique(ids[(ids < 0) | (ids >= count)])[:8].tolist()
            raise UserError(
                f'{image}: the model predicts the class ids {wrong}, but dataset "{self.dataset_name}" has the '
                f"{count} classes 0..{count - 1}: evaluate a model with these classes, or map its ids to them"
            )

    def results(
        self,
        metrics: dict[str, float],
        class_metrics: dict[str, np.ndarray],
        class_counts: np.ndarray,
        images: list[ImageResult],
        *,
        remark: str = "",
        confusion: ConfusionMatrix | None = None,
    ) -> OrderedDict:
        """Log a table of classes, write the files, and return the metrics in Detectron2's format: {group: metrics}."""
        rows = zip(self.classes.names, *class_metrics.values(), strict=True)
        table = tabulate(rows, headers=["class", *class_metrics], floatfmt=".2f", tablefmt="github")
        logger.info("%s, %d images%s, each class in percent:\n%s", self.dataset_name, len(images), remark, table)
        if self.folder is not None and comm.is_main_process():
            evaluation = Evaluation(
                dataset=self.dataset_name,
                task_name=self.task,
                model=self.evaluated,
                metrics=metrics,
                classes=self.classes,
                class_metrics=class_metrics,
                class_counts=class_counts,
                images=images,
                image_count=len(images),
                confusion=None if confusion is None else confusion.counts,
            )
            write_evaluation(evaluation, self.folder)
            logger.info("Written to %s", self.folder)
        return OrderedDict({TASKS[self.task].group: metrics})
