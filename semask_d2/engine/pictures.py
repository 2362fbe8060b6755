"""Images drawn during training: predictions at each evaluation, and learning curves.

They are optional: any error in drawing them is logged as a warning, and never ends a training.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from semask_d2.d2 import CfgNode, EventWriter, HookBase, get_event_storage
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.image_io import save_picture
from semask_d2.data.labels import read_sample_labels
from semask_d2.evaluation.result_files import FOLDER as EVALUATIONS
from semask_d2.evaluation.result_files import IMAGES_FILE, read_evaluation
from semask_d2.evaluation.tasks import dataset_task
from semask_d2.inference.panels import Example
from semask_d2.inference.predictor import Predictor
from semask_d2.report import write_report
from semask_d2.report.examples import segment_example
from semask_d2.utils.curves import draw_curves
from semask_d2.utils.errors import printable
from semask_d2.utils.excerpts import evenly
from semask_d2.utils.runs import read_metrics
from semask_d2.utils.visualization import draw_panels

logger = logging.getLogger(__name__)

FOLDER = "pictures"
REPORT_SECONDS = 20  # after this time, the report at the end of training adds no further images


class PredictionPictures(HookBase):
    """Draws images of the first test set after each evaluation, into the run's `pictures/` and to TensorBoard.

    It draws TEST.PICTURES evenly spread images, the same each time, and as many of the worst if the evaluation wrote
    `images.json`. Each figure has image, ground truth, prediction, error map and the semantic maps of the four stages.
    The hook comes after the evaluation hook and before the writers, on the main process. `metric` is a scalar that
    every evaluation records.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, metric: str):
        self.cfg = cfg
        self.model = model
        self.metric = metric
        self.seen_iteration = -1

    def after_step(self) -> None:
        iteration = latest_iteration(self.trainer.storage, self.metric)
        if iteration != self.seen_iteration:
            self.seen_iteration = iteration
            unless_it_fails("pictures of predictions", self.draw)

    after_train = after_step

    def draw(self) -> None:
        """Draw the evenly spread images and the worst ones."""
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        name, count = self.cfg.DATASETS.TEST[0], self.cfg.TEST.PICTURES
        dicts = get_dataset_dicts(name)
        stems = [(Path(x["file_name"]).stem, x) for x in evenly(dicts, count)]
        chosen = [(stem, f"predictions/{printable(stem)}", x) for stem, x in stems]
        for rank, x in enumerate(worst_samples(Path(self.cfg.OUTPUT_DIR, EVALUATIONS, name), dicts, count), start=1):
            chosen.append((f"worst{rank}_{Path(x['file_name']).stem}", f"worst predictions/{rank}", x))
        was_training = self.model.training
        self.model.eval()
        try:
            predictor = Predictor.of_model(self.cfg, self.model)
            for file, tag, x in chosen:
                panels = draw_example(predictor, x, name)
                save_picture(Path(self.cfg.OUTPUT_DIR, FOLDER, f"{done:07d}_{file}.png"), panels)
                self.trainer.storage.put_image(tag, torch.from_numpy(panels.transpose(2, 0, 1).copy()))
        finally:
            self.model.train(was_training)


class CurveWriter(EventWriter):
    """Draws `metrics.json` as `pictures/curves.png` after each evaluation, or at the end if there was none.

    It comes after the writer of `metrics.json`.
    """

    def __init__(self, folder: str | os.PathLike, metric: str):
        self.folder = Path(folder)
        self.metric = metric
        self.seen_iteration = -1

    def write(self) -> None:
        iteration = latest_iteration(get_event_storage(), self.metric)
        if iteration != self.seen_iteration:
            self.seen_iteration = iteration
            unless_it_fails("learning curves", self.draw)

    def close(self) -> None:
        if self.seen_iteration == -1:
            unless_it_fails("learning curves", self.draw)

    def draw(self) -> None:
        """Draw the current content of the file."""
        records = read_metrics(self.folder / "metrics.json")
        if records:
            save_picture(self.folder / FOLDER / "curves.png", draw_curves(records))


def report_training(cfg: CfgNode, model: nn.Module) -> None:
    """Write the `report.html` of a finished training, with its final model, which was evaluated last."""

    def write() -> None:
        was_training = model.training
        model.eval()
        try:
            path = write_report(cfg.OUTPUT_DIR, predictor=Predictor.of_model(cfg, model), seconds=REPORT_SECONDS)
            logger.info("Report: %s", path)
        finally:
            model.train(was_training)

    unless_it_fails("report", write)


def unless_it_fails(what: str, draw: Callable[[], None]) -> None:
    """Call `draw`, and log any error as a warning; `what` names the output."""
    try:
        draw()
    except Exception as error:
        logger.warning("No %s: %s: %s", what, type(error).__name__, error)


def latest_iteration(storage, metric: str) -> int:
    """Return the iteration at which `metric` was last recorded, -1 if never."""
    return storage.latest().get(metric, (math.nan, -1))[1]


def worst_samples(evaluation: Path, dicts: list[dict], count: int) -> list[dict]:
    """Return the `count` of `dicts` with the worst results, worst first; [] if the evaluation has no image results."""
    if not (evaluation / IMAGES_FILE).is_file():
        return []
    by_file = {x["file_name"]: x for x in dicts}
    images = read_evaluation(evaluation).worst_images(count)
    return [by_file[image.file_name] for image in images if image.file_name in by_file]


def draw_example(predictor: Predictor, example: dict, dataset_name: str) -> np.ndarray:
    """Draw the panels of one dict of a dataset, for its task."""
    task = dataset_task(dataset_name)
    if task != "semantic":
        shown, classes = segment_example(example, dataset_name, task, predictor)
    else:
        image = predictor.read_image(example["file_name"])
        truth = read_sample_labels(example) if "sem_seg_file_name" in example else None
        prediction = predictor(image, priors=predictor.has_priors)
        shown = Example("", predictor.shown(image), prediction.labels, truth, prediction.priors)
        classes = predictor.classes
    return draw_panels(shown.image, shown.labels, classes, truth=shown.truth, priors=shown.priors)
