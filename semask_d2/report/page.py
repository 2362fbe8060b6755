"""The page as a whole: from a run folder to one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import datetime
import logging
import math
import os
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.evaluation import sizes_in_words
from semask_d2.evaluation.result_files import read_evaluations
from semask_d2.evaluation.results import Evaluation
from semask_d2.inference.drawing import LEAST_SCORE
from semask_d2.inference.panels import panels_css
from semask_d2.inference.predictor import Predictor
from semask_d2.report.choice import choose_images
from semask_d2.report.gallery import Gallery, make_gallery
from semask_d2.report.tables import class_table, confusion_matrix, confusions, tiles
from semask_d2.utils.curves import curves_as_svg
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.runs import CONFIG_NAME, FINAL_NAME, METRICS_NAME, read_metrics, require_config

logger = logging.getLogger(__name__)

REPORT_NAME = "report.html"
IMAGES = 6  # of each kind: worst, best, worst for a class
_ONE_COLOR = "An object has one color in ground truth and prediction where they agree on it (IoU above 0.5)"
KEYS = {  # how to read the images
    "semantic": "",
    "panoptic": f"<p>{_ONE_COLOR}; stuff has the color of its class.</p>",
    "instance": f"<p>{_ONE_COLOR}. Shown are predictions of a score of {LEAST_SCORE} or more, without those that surer "
    "ones hide more than half of. The semantic maps have no class for what is no object.</p>",
}


def write_report(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    images: int = IMAGES,
    predictor: Predictor | None = None,
    seconds: float = math.inf,
) -> Path:
    """Write a run folder's report, by default as its `report.html`, and return the path.

    `images` of each kind are predicted anew by `predictor`, by default the run's own, for at most `seconds` or so.
    Raises `UserError` for a folder that is no run or holds no evaluation; without weights the page has no images.
    """
    run, config = Path(run), require_config(run)
    evaluations = read_evaluations(run)
    note = ""
    if predictor is None and images and any(evaluation.images for evaluation in evaluations):
        try:
            predictor = _predictor(run, evaluations[0].model.checkpoint)
        except UserError as error:
            logger.warning("The report has no images: %s", error)
            note = f'<p class="note">No images: {escape(str(error))}</p>'
    sections = [
        _data_set(evaluation, f"d{number}", images, predictor, seconds / len(evaluations)) + note
        for number, evaluation in enumerate(evaluations)
    ]
    cfg = get_cfg(str(config)) if predictor is None else predictor.cfg
    path = run / REPORT_NAME if output is None else Path(output)
    with atomic_write(path) as file:
        file.write(_page(run, cfg, evaluations, sections))
    return path


def _predictor(run: Path, checkpoint: str | None) -> Predictor:
    """The run's model with the weights that were evaluated: a file, or those of the training's end where none is named.

    Where they are gone it is the best that the run holds.
    """
    weights = checkpoint or str(run / FINAL_NAME)
    return Predictor.from_run(run, weights if os.path.isfile(weights) else None)


def _page(run: Path, cfg: CfgNode, evaluations: list[Evaluation], sections: list[str]) -> str:
    assets = files("semask_d2.report") / "assets"
    name = run.resolve().name
    links = "".join(
        f'<a href="#d{number}">{escape(evaluation.title)}</a>' for number, evaluation in enumerate(evaluations)
    )
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{name}: report"),
        name=escape(name),
        style=panels_css() + (assets / "page.css").read_text(encoding="utf-8"),
        script=(assets / "page.js").read_text(encoding="utf-8"),
        headline=escape(", ".join(_headline(evaluation) for evaluation in evaluations)),
        links=links,
        results="".join(f"<h3>{escape(x.title)}</h3>{tiles(x)}" for x in evaluations),
        summary=_summary(run, cfg, evaluations),
        config=escape((run / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")),
        curves=_curves(run),
        sections="\n".join(sections),
    )


def _headline(evaluation: Evaluation) -> str:
    metric = evaluation.task.metric
    return f"{metric} {evaluation.metrics.get(metric, math.nan):.2f} on {evaluation.title}"


def _summary(run: Path, cfg: CfgNode, evaluations: list[Evaluation]) -> str:
    """What was trained, how and with what."""
    solver = cfg.SOLVER
    checkpoints = {
        f"{evaluation.model.checkpoint or 'the model at the end of training'}"
        + ("" if evaluation.model.iteration is None else f", iteration {evaluation.model.iteration}")
        for evaluation in evaluations
    }
    pictured = sizes_in_words(cfg)
    tested = "; ".join(dict.fromkeys(evaluation.model.sizes or pictured for evaluation in evaluations))
    rows = {
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
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())


def _curves(run: Path) -> str:
    path = run / METRICS_NAME
    records = read_metrics(path) if path.is_file() else {}
    if not records:
        return f"<p>The run has no {METRICS_NAME}.</p>"
    alternative = "losses, the main metric and learning rate over the iterations"
    return f'<div class="curves scroll" role="img" aria-label="{alternative}">{curves_as_svg(records)}</div>'


def _data_set(evaluation: Evaluation, prefix: str, images: int, predictor: Predictor | None, seconds: float) -> str:
    """One data set's section."""
    gallery = Gallery("", {})
    if predictor is not None and not evaluation.model.averaged:
        gallery = make_gallery(evaluation, choose_images(evaluation, images), prefix, predictor, seconds)
    shown = f"{KEYS[evaluation.task_name]}{gallery.html}" if gallery.html else "<p>None are shown.</p>"
    return f"""<section id="{prefix}"><h2>{escape(evaluation.title)}</h2>
<h3>Classes</h3>
{class_table(evaluation, prefix, gallery.failing)}
{_confusion(evaluation)}<h3>Images</h3>
{shown}
</section>"""


def _confusion(evaluation: Evaluation) -> str:
    """What is taken for what, where labels were evaluated."""
    if evaluation.confusion is None:
        return ""
    arguments = (evaluation.confusion, evaluation.class_results)
    return f"""<h3>Confusion</h3>
<div class="beside">
{confusion_matrix(*arguments)}
{confusions(*arguments)}
</div>
"""
