"""The page as a whole: from a run folder to one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import datetime
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.evaluation import sizes_in_words
from semask_d2.evaluation.result_files import read_evaluations
from semask_d2.evaluation.results import Evaluation
from semask_d2.inference.prediction import LEAST_SCORE
from semask_d2.inference.predictor import Predictor
from semask_d2.report.choice import choose_images
from semask_d2.report.gallery import Gallery, make_gallery
from semask_d2.report.tables import class_table, confusion_matrix, confusions, tiles
from semask_d2.utils.curves import curves_as_svg
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.pages import render
from semask_d2.utils.runs import CONFIG_NAME, FINAL_NAME, METRICS_NAME, read_metrics, require_config

logger = logging.getLogger(__name__)

REPORT_NAME = "report.html"
IMAGES = 6  # of each kind: worst, best, worst for a class


def write_report(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    images: int = IMAGES,
    predictor: Predictor | None = None,
    seconds: float = math.inf,
    opts: Sequence[str] = (),
) -> Path:
    """Write a run folder's report, by default as its `report.html`, and return the path.

    `images` of each kind are predicted anew by `predictor`, by default the run's own with the settings `opts`, for at
    most `seconds` or so.
    Raises `UserError` for a folder that is no run or holds no evaluation; without weights the page has no images.
    """
    run, config = Path(run), require_config(run)
    evaluations = read_evaluations(run)
    note = ""
    if predictor is None and images and any(evaluation.images for evaluation in evaluations):
        try:
            predictor = _predictor(run, evaluations[0].model.checkpoint, opts)
        except UserError as error:
            logger.warning("The report has no images: %s", error)
            note = f"No images: {error}"
    data_sets = [
        {
            "anchor": f"d{number}",
            "title": evaluation.title,
            "tiles": tiles(evaluation),
            "section": _section(evaluation, f"d{number}", images, predictor, seconds / len(evaluations), note),
        }
        for number, evaluation in enumerate(evaluations)
    ]
    cfg = get_cfg(str(config), list(opts)) if predictor is None else predictor.cfg
    path = run / REPORT_NAME if output is None else Path(output)
    with atomic_write(path) as file:
        file.write(_page(run, cfg, evaluations, data_sets))
    return path


def _predictor(run: Path, checkpoint: str | None, opts: Sequence[str] = ()) -> Predictor:
    """The run's model with the weights that were evaluated: a file, or those of the training's end where none is named.

    Where they are gone it is the best that the run holds.
    """
    weights = checkpoint or str(run / FINAL_NAME)
    return Predictor.from_run(run, weights if os.path.isfile(weights) else None, opts)


def _page(run: Path, cfg: CfgNode, evaluations: list[Evaluation], data_sets: list[dict[str, str]]) -> Markup:
    return render(
        "report/assets/page.html",
        name=run.resolve().name,
        headline=", ".join(_headline(evaluation) for evaluation in evaluations),
        data_sets=data_sets,
        summary=_summary(run, cfg, evaluations),
        config=(run / CONFIG_NAME).read_text(encoding="utf-8", errors="replace"),
        curves=_curves(run),
        metrics_name=METRICS_NAME,
    )


def _headline(evaluation: Evaluation) -> str:
    metric = evaluation.task.metric
    return f"{metric} {evaluation.metrics.get(metric, math.nan):.2f} on {evaluation.title}"


def _summary(run: Path, cfg: CfgNode, evaluations: list[Evaluation]) -> dict[str, str]:
    """What was trained, how and with what."""
    solver = cfg.SOLVER
    checkpoints = {
        f"{evaluation.model.checkpoint or 'the model at the end of training'}"
        + ("" if evaluation.model.iteration is None else f", iteration {evaluation.model.iteration}")
        for evaluation in evaluations
    }
    pictured = sizes_in_words(cfg)
    tested = "; ".join(dict.fromkeys(evaluation.model.sizes or pictured for evaluation in evaluations))
    return {
        "run": str(run.resolve()),
        "model": f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}, "
        f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes",
        "trained on": ", ".join(cfg.DATASETS.TRAIN) or "nothing",
        "evaluated on": ", ".join(dict.fromkeys(evaluation.dataset for evaluation in evaluations)),
        "weights": "; ".join(sorted(checkpoints)),
        "training": f"{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, {solver.OPTIMIZER} at rate "
        f"{solver.BASE_LR:g}",
        "tested at": tested if tested == pictured else f"{tested} (the pictures below: {pictured})",
        "written": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def _curves(run: Path) -> Markup | None:
    """The curves of a run as SVG, in which matplotlib has escaped all text; None without metrics."""
    path = run / METRICS_NAME
    records = read_metrics(path) if path.is_file() else {}
    return Markup(curves_as_svg(records)) if records else None


def _section(
    evaluation: Evaluation, anchor: str, images: int, predictor: Predictor | None, seconds: float, note: str
) -> Markup:
    """One data set's section."""
    gallery = Gallery(Markup(), {})
    if predictor is not None and not evaluation.model.averaged:
        gallery = make_gallery(evaluation, choose_images(evaluation, images), anchor, predictor, seconds)
    confusion, classes = evaluation.confusion, evaluation.class_results
    return render(
        "report/assets/data_set.html",
        anchor=anchor,
        title=evaluation.title,
        class_table=class_table(evaluation, anchor, gallery.failing),
        confusion_matrix=None if confusion is None else confusion_matrix(confusion, classes),
        confusions=None if confusion is None else confusions(confusion, classes),
        gallery=gallery.html,
        task=evaluation.task_name,
        least_score=LEAST_SCORE,
        note=note,
    )
