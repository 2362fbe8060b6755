"""Report page: from a run folder to one self-contained HTML file that needs no network."""

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
from semask_d2.utils.choices import REPORT_IMAGES
from semask_d2.utils.curves import curves_as_svg
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.pages import render
from semask_d2.utils.runs import CONFIG_NAME, FINAL_NAME, METRICS_NAME, read_metrics, require_config

logger = logging.getLogger(__name__)

REPORT_NAME = "report.html"


def write_report(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    images: int = REPORT_IMAGES,
    predictor: Predictor | None = None,
    seconds: float = math.inf,
    opts: Sequence[str] = (),
) -> Path:
    """Write the report of a run folder, by default as its `report.html`, and return the path.

    `predictor`, by default the run's with the settings `opts`, predicts `images` images per group again, for about
    `seconds` at most. Without weights the page has no images. Raises `UserError` if the folder is not a run or holds
    no evaluation.
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
    sections = [
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
        file.write(_page(run, cfg, evaluations, sections))
    return path


def _predictor(run: Path, checkpoint: str | None, opts: Sequence[str] = ()) -> Predictor:
    """Return a predictor with the evaluated weights: `checkpoint`, or the final weights if None.

    If they are gone, the run's best weights are used.
    """
    weights = checkpoint or str(run / FINAL_NAME)
    return Predictor.from_run(run, weights if os.path.exists(weights) else None, opts)


def _page(run: Path, cfg: CfgNode, evaluations: list[Evaluation], sections: list[dict[str, str]]) -> Markup:
    return render(
        "report/assets/page.html",
        name=run.resolve().name,
        headline=", ".join(_headline(evaluation) for evaluation in evaluations),
        sections=sections,
        summary=_summary(run, cfg, evaluations),
        config=(run / CONFIG_NAME).read_text(encoding="utf-8", errors="replace"),
        curves=_curves(run),
        metrics_name=METRICS_NAME,
    )


def _headline(evaluation: Evaluation) -> str:
    metric = evaluation.task.metric
    return f"{metric} {evaluation.metrics.get(metric, math.nan):.2f} on {evaluation.title}"


def _summary(run: Path, cfg: CfgNode, evaluations: list[Evaluation]) -> dict[str, str]:
    """Return a summary of the training: the model, its data and its settings."""
    solver = cfg.SOLVER
    checkpoints = {
        f"{evaluation.model.checkpoint or 'the model at the end of training'}"
        + ("" if evaluation.model.iteration is None else f", iteration {evaluation.model.iteration}")
        for evaluation in evaluations
    }
    example_sizes = sizes_in_words(cfg)
    tested = "; ".join(dict.fromkeys(evaluation.model.sizes or example_sizes for evaluation in evaluations))
    return {
        "run": str(run.resolve()),
        "model": f"{cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME}, "
        f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes",
        "trained on": ", ".join(cfg.DATASETS.TRAIN) or "nothing",
        "evaluated on": ", ".join(dict.fromkeys(evaluation.dataset for evaluation in evaluations)),
        "weights": "; ".join(sorted(checkpoints)),
        "training": f"{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, {solver.OPTIMIZER} with learning "
        f"rate {solver.BASE_LR:g}",
        "tested at": tested if tested == example_sizes else f"{tested} (images below: {example_sizes})",
        "written": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def _curves(run: Path) -> Markup | None:
    """Return the curves of a run as SVG, or None without metrics; matplotlib has escaped all text in it."""
    path = run / METRICS_NAME
    records = read_metrics(path) if path.is_file() else {}
    return Markup(curves_as_svg(records)) if records else None


def _section(
    evaluation: Evaluation, anchor: str, images: int, predictor: Predictor | None, seconds: float, note: str
) -> Markup:
    """Return the section of one evaluation."""
    gallery = Gallery(Markup(), {})
    if predictor is not None and not evaluation.model.averaged:
        gallery = make_gallery(evaluation, choose_images(evaluation, images), anchor, predictor, seconds)
    confusion, classes = evaluation.confusion, evaluation.class_results
    return render(
        "report/assets/evaluation.html",
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
