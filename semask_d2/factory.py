"""Model creation by name and loading of trained models: `list_models`, `create_model` and `from_pretrained`."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from semask_d2.checkpoint.hub import local_source
from semask_d2.checkpoint.loading import load_weights
from semask_d2.checkpoint.shared_folder import ModelDescription
from semask_d2.config import get_cfg
from semask_d2.config.finding import configs_folder
from semask_d2.d2 import CfgNode
from semask_d2.data.datasets.custom import register_custom
from semask_d2.evaluation.result_files import FOLDER, read_evaluations
from semask_d2.export.running import EXPORTED, open_exported
from semask_d2.export.segmenter import ExportedSegmenter
from semask_d2.inference.predictor import model_classes, trained_model
from semask_d2.inference.sources import choose_config
from semask_d2.modeling.meta_arch import SemanticSegmenter, build_model
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import suggestion

PARTS = ("backbones", "data", "recipes")  # folders of partial configs, which are not complete models
DEFAULT_DATASET = "ade20k"  # the dataset of names without one
CONFIG_START = "config"  # a value of `weights` in `create_model`


def list_models(pattern: str = "*") -> list[str]:
    """Return the names "dataset/model" of the package's models that match a shell pattern.

    A pattern without a slash is matched against the part after the slash, as in `list_models("*swin_l*")`.
    """
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    models = sorted(name for name in names if "/" in name and name.partition("/")[0] not in PARTS)
    return [name for name in models if fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)]


def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | os.PathLike | None = None,
    *,
    device: str | None = None,
    **settings: Any,
) -> nn.Module:
    """Return a new model by its name ("ade20k/semask_swin_t_m2f"; see `list_models`), in training mode.

    A name without a dataset means the ADE20K model if there is one. `weights` are the start of training: "config" for
    those that the model's config names (ImageNet); a source of `from_pretrained`, whose class layers are not loaded;
    or None for random weights. `settings` are config keys, given as
    `**{"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 50}`. Raises `UserError` for unknown names and keys, and for weights
    that do not match the model.
    """
    full_name = full_model_name(name)
    words = [*settings_words(settings, device)]
    if num_classes is not None:
        words += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes]
    cfg = get_cfg(f"{full_name}.yaml", words)
    if weights != CONFIG_START:
        cfg.MODEL.WEIGHTS = "" if weights is None else local_source(weights)
    model = build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, training_start=True, drop_class_layers=weights != CONFIG_START)
    return described(model, cfg, None)


def from_pretrained(
    source: str | os.PathLike, revision: str | None = None, *, device: str | None = None, **settings: Any
) -> nn.Module:
    """Return a trained model in evaluation mode.

    `source` is a run folder, a checkpoint in one, a folder of `save_pretrained`, a folder of transformers' Mask2Former,
    MaskFormer or EoMT, a file of `semask export` (ONNX, OpenVINO), or "owner/name", a repository of the Hugging Face
    hub; `revision` is its branch, tag or commit. `settings` are config keys as for `create_model`. Raises `UserError`
    for a source that is missing, damaged or of another kind.
    """
    path = local_source(source, revision)
    if path.endswith(EXPORTED):
        return ExportedSegmenter(open_exported(Path(path)))
    cfg = choose_config(None, path, settings_words(settings, device), option="")
    model, recorded = trained_model(cfg)
    return described(model, cfg, recorded, measured(path))


def described(
    model: nn.Module, cfg: CfgNode, recorded: Classes | None, metrics: dict[str, dict[str, float]] | None = None
) -> nn.Module:
    """Set the `description` of a model of this project; `recorded` are the classes that its checkpoint records."""
    if isinstance(model, SemanticSegmenter):
        register_custom(cfg)
        model.description = ModelDescription(cfg.clone(), model_classes(cfg, recorded), metrics or {})
    return model


def measured(run: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Return the main metrics in percent, by dataset and name, of the evaluations in a run folder."""
    if not os.path.isdir(os.path.join(run, FOLDER)):
        return {}
    return {
        evaluation.title: {evaluation.task.metric: evaluation.metrics[evaluation.task.metric]}
        for evaluation in read_evaluations(run)
    }


def full_model_name(name: str) -> str:
    """Return a model's name with its dataset; `UserError`, suggesting names, if it is unknown or ambiguous."""
    known = list_models()
    plain = name.removesuffix(".yaml")
    if plain in known:
        return plain
    same = [full for full in known if full.rpartition("/")[2] == plain]
    if f"{DEFAULT_DATASET}/{plain}" in same:
        return f"{DEFAULT_DATASET}/{plain}"
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(f"{name}: models of several datasets have this name; use one of {', '.join(same)}")
    near = suggestion(plain, known) or suggestion(plain, [full.rpartition("/")[2] for full in known])
    raise UserError(f"{name}: the package has no model of this name.{near} semask_d2.list_models() lists all")


def settings_words(settings: dict[str, Any], device: str | None) -> list[Any]:
    """Return settings as the alternating keys and values of a command line."""
    words = [word for pair in settings.items() for word in pair]
    return [*words, *(["MODEL.DEVICE", device] if device else [])]
