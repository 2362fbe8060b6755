"""The model card of a shared model: description, usage, classes, metrics and licenses.

The text is Markdown with a YAML header in the hub's format (huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from semask_d2.d2 import CfgNode

SHOWN_CLASSES = 200
PAPER = "https://arxiv.org/abs/2112.12782"
TASKS = {"SEMANTIC_ON": "semantic", "INSTANCE_ON": "instance", "PANOPTIC_ON": "panoptic"}
# licenses of pretrained backbones, by registered name
BACKBONE_LICENSES = {
    "D2SeMaskSwinTransformer": "MIT (Swin Transformer, Microsoft)",
    "D2SeMaskMixTransformer": "NVIDIA Source Code License for SegFormer: research only (SegFormer, NVIDIA)",
    "build_resnet_backbone": "see the source of the file (Detectron2's model zoo: CC BY-SA 3.0; torchvision: BSD)",
}


def backbone_license(cfg: CfgNode) -> str:
    """Return the license of a config's pretrained backbone, as far as it is known."""
    name = cfg.MODEL.BACKBONE.NAME
    if name != "SeMaskTimm":
        return BACKBONE_LICENSES.get(name, "unknown")
    try:
        import timm

        published = timm.get_pretrained_cfg(cfg.MODEL.TIMM.NAME)
    except (ImportError, RuntimeError):  # an architecture that this timm does not have
        published = None
    known = getattr(published, "license", None)
    return f"{known} (timm's {cfg.MODEL.TIMM.NAME})" if known else f"see timm's {cfg.MODEL.TIMM.NAME}"


def model_card(
    cfg: CfgNode,
    class_names: Sequence[str],
    *,
    name: str,
    metrics: Mapping[str, Mapping[str, float]],
    license: str | None,
    iterations: int | None = None,
) -> str:
    """Return the card of the model of `cfg`.

    `metrics` are in percent by dataset and metric; `license` is an identifier that the hub knows. The card names the
    license of the backbone's pretrained weights if the config has any. `iterations` is the length of the run that
    trained the model; without it the card tells nothing of a training, since the config's was not used.
    """
    tasks = [task for key, task in TASKS.items() if cfg.MODEL.MASK_FORMER.TEST[key]]
    header: dict[str, Any] = {
        "library_name": "semask_d2",
        "pipeline_tag": "image-segmentation",
        "tags": ["semask", "semantic-segmentation", "detectron2"],
        **({"license": license} if license else {}),
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {plain(name)}",
        "",
        f"A model for {' and '.join(tasks or ['semantic'])} segmentation of {len(class_names)} classes, "
        f"{'trained with' if iterations else 'in the format of'} semask_d2 (SeMask, {PAPER}).",
        "",
        "```python",
        "from semask_d2 import Predictor",
        "",
        'predictor = Predictor("OWNER/NAME")  # this repository, or a folder with its files',
        'prediction = predictor("image.jpg")',
        'prediction.save("segmented.png")',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| model | {cfg.MODEL.META_ARCHITECTURE} |",
        f"| backbone | {cfg.MODEL.BACKBONE.NAME} |",
        *([f"| pretrained backbone's license | {plain(backbone_license(cfg))} |"] if cfg.MODEL.WEIGHTS else []),
        f"| shorter side in evaluation | {cfg.INPUT.MIN_SIZE_TEST} |",
        *([] if iterations is None else training_rows(cfg, iterations)),
        "",
        "The full config is `config.yaml`.",
        "",
        *results(metrics),
        "## Classes",
        "",
        ", ".join(f"{i} {plain(class_name)}" for i, class_name in enumerate(class_names[:SHOWN_CLASSES]))
        + (f", and {len(class_names) - SHOWN_CLASSES} more" if len(class_names) > SHOWN_CLASSES else ""),
        "",
    ]
    return "\n".join(lines)


def training_rows(cfg: CfgNode, iterations: int) -> list[str]:
    """Return the rows about a run of `iterations` with the settings of `cfg`."""
    sizes = f"shorter side {', '.join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))}"
    crop = f"crops of {' x '.join(map(str, cfg.INPUT.CROP.SIZE))}" if cfg.INPUT.CROP.ENABLED else sizes
    return [f"| training | {iterations} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, {crop} |"]


def results(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of the table of results; an empty list without metrics."""
    rows = [
        f"| {plain(dataset)} | {plain(metric)} | {value:.2f} |"
        for dataset, values in metrics.items()
        for metric, value in values.items()
        if math.isfinite(value)
    ]
    return ["## Results", "", "| dataset | metric | percent |", "|---|---|---|", *rows, ""] if rows else []


def plain(text: str) -> str:
    """Return a user's text as one line, without the special characters of Markdown and HTML."""
    return "".join(" " if character in "\r\n\t" else character for character in text if character not in "|<>`*[]")
